//! How weights are stored on the device: tiles of 16 rows, in the order in which tensor cores take them.
//!
//! Ten forms serve all of the library's formats: nine are permutations of their blocks, and what has no kernels of its own
//! becomes [`Tiles::Grouped`], int8 codes with an f32 scale and minimum for each 16, which holds every format's values
//! exactly. The forms themselves are `kernels/<form>.cuh`.

use llama_core::format::Format;

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 16;

/// A form of tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tiles {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q4K,
    Q5K,
    Q6K,
    Grouped,
}

/// The kernels of one form, by name.
#[derive(Debug)]
pub(crate) struct Names {
    pub repack: &'static str,
    pub embed: &'static str,
    pub gemv: &'static str,
    pub gemv_f32: &'static str,
    pub gemm: &'static str,
    pub gemm_narrow: &'static str,
    pub wgmma: &'static str,
}

macro_rules! names {
    ($form:literal) => {
        &Names {
            repack: concat!("repack_", $form),
            embed: concat!("embed_", $form),
            gemv: concat!("gemv_", $form, "_bf16"),
            gemv_f32: concat!("gemv_", $form, "_f32"),
            gemm: concat!("gemm_", $form, "_bf16"),
            gemm_narrow: concat!("gemm_", $form, "_bf16_narrow"),
            wgmma: concat!("wgmma_", $form, "_bf16"),
        }
    };
}

impl Tiles {
    pub const ALL: [Tiles; 10] = [
        Tiles::F32,
        Tiles::F16,
        Tiles::Bf16,
        Tiles::Q8_0,
        Tiles::Q4_0,
        Tiles::Q4_1,
        Tiles::Q4K,
        Tiles::Q5K,
        Tiles::Q6K,
        Tiles::Grouped,
    ];

    /// The form of a format.
    pub fn of(format: Format) -> Self {
        match format {
            Format::F32 => Tiles::F32,
            Format::F16 => Tiles::F16,
            Format::BF16 => Tiles::Bf16,
            Format::Q8_0 => Tiles::Q8_0,
            Format::Q4_0 => Tiles::Q4_0,
            Format::Q4_1 => Tiles::Q4_1,
            Format::Q4_K => Tiles::Q4K,
            Format::Q5_K => Tiles::Q5K,
            Format::Q6_K => Tiles::Q6K,
            _ => Tiles::Grouped,
        }
    }

    /// Inputs of a tile.
    pub fn inputs(self) -> usize {
        match self {
            Tiles::Q4K | Tiles::Q5K | Tiles::Q6K => 256,
            _ => 64,
        }
    }

    /// Inputs that share a scale.
    pub fn group(self) -> usize {
        match self {
            Tiles::Q6K | Tiles::Grouped => 16,
            _ => 32,
        }
    }

    /// Whether groups of its codes have scales.
    pub fn is_scaled(self) -> bool {
        !matches!(self, Tiles::F32 | Tiles::F16 | Tiles::Bf16)
    }

    /// Whether groups have a minimum.
    pub fn has_min(self) -> bool {
        matches!(self, Tiles::Q4_1 | Tiles::Q4K | Tiles::Q5K | Tiles::Grouped)
    }

    /// Bytes of a tile.
    pub fn bytes(self) -> usize {
        match self {
            Tiles::F32 => 4096,
            Tiles::F16 | Tiles::Bf16 => 2048,
            Tiles::Q8_0 => 1024 + 64,
            Tiles::Q4_0 => 512 + 64,
            Tiles::Q4_1 => 512 + 128,
            Tiles::Q4K => 2048 + 256,
            Tiles::Q5K => 2048 + 512 + 256,
            Tiles::Q6K => 2048 + 1024 + 256 + 32,
            Tiles::Grouped => 1024 + 512,
        }
    }

    /// Tiles along a row of `cols` inputs.
    pub fn across(self, cols: usize) -> usize {
        cols.div_ceil(self.inputs())
    }

    /// Bytes of `rows` rows of `cols` inputs, padded to whole tiles.
    pub fn matrix_bytes(self, rows: usize, cols: usize) -> u64 {
        (rows.div_ceil(TILE_ROWS) * self.across(cols) * self.bytes()) as u64
    }

    pub fn names(self) -> &'static Names {
        match self {
            Tiles::F32 => names!("f32"),
            Tiles::F16 => names!("f16"),
            Tiles::Bf16 => names!("bf16"),
            Tiles::Q8_0 => names!("q8_0"),
            Tiles::Q4_0 => names!("q4_0"),
            Tiles::Q4_1 => names!("q4_1"),
            Tiles::Q4K => names!("q4_k"),
            Tiles::Q5K => names!("q5_k"),
            Tiles::Q6K => names!("q6_k"),
            Tiles::Grouped => names!("grouped"),
        }
    }
}
