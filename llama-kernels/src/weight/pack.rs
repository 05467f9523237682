//! Packed forms: how sixteen rows of a weight lie in memory.
//!
//! A **panel** is 16 rows of a quantised weight, or 32 of a float one. Its columns come in **blocks** (32 columns, 256 for
//! formats with super-blocks, 1 for floats), and a block holds all rows of the panel, so that a vector register of
//! sixteen 32-bit lanes works on sixteen rows and one panel is one stream of memory.
//!
//! A **group** is 32 columns. Its codes are unsigned (the zero point is taken off through the sum of the activations)
//! and form eight **code vectors** of 64 bytes: byte `4 r + t` of vector `j` is column `4 j + t` of row `r`. That is the
//! operand of VPDPBUSD, and the other tiers read the same bytes. In memory they are:
//!
//! | piece | bytes | contents |
//! |---|---|---|
//! | nibbles | 256 | 4 vectors: low nibbles are code vectors 0..4, high nibbles are 4..8 |
//! | bits | 64 | 1 vector: bit `j` of a byte is the highest bit, 4 or 2, of code vector `j` |
//! | pairs | 128 | 2 vectors: bits `2 i` and `2 i + 1` of vector `h` belong to code vector `4 h + i`: bits 4 and 5, or 0 and 1 |
//! | bytes | 512 | the 8 code vectors |
//!
//! Scales and minima lie row by row in front of the codes. No native form holds more bytes than the format itself; it is
//! a permutation of its bits. A format without a native form takes a wide one: bytes, and f32 scales (and minima).

use llama_core::backend::Numerics;
use llama_core::format::Format;
use llama_core::numerics::GROUP;

use super::coded::{self, Pair};

/// Rows of the widest panel.
pub const MAX_PANEL_ROWS: usize = 32;

/// A packed form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum Pack {
    /// `[k][32]` f32.
    F32,
    /// `[k][32]` f16.
    F16,
    /// `[k][32]` bf16.
    BF16,
    /// Twelve bits for a bf16, as [`coded`] has them.
    CodedBF16,
    /// f16 scales, bytes with zero point 128.
    Q8_0,
    /// f16 scales, nibbles with zero point 8.
    Q4_0,
    /// f16 scales, f16 minima, nibbles.
    Q4_1,
    /// f16 scales, bits, nibbles; zero point 16.
    Q5_0,
    /// f16 scales, f16 minima, bits, nibbles.
    Q5_1,
    /// f16 scales of scales and of minima; `[16][16]` scale and minimum of each sub-block in one byte; 8 x pairs.
    Q2_K,
    /// f16 scales; `[8][16]` low nibbles of both scales of a group; `[4][16]` their high bits, two groups a byte;
    /// 8 x (bits, pairs); zero point 4.
    Q3_K,
    /// f16 scales of scales and of minima; `[8][16]` low nibbles of scale and minimum; `[4][16]` their high bits, two
    /// groups a byte; 8 x nibbles.
    Q4_K,
    /// As Q4_K; 8 x (bits, nibbles).
    Q5_K,
    /// f16 scales; `[16][16]` i8 scales; 8 x (pairs, nibbles); zero point 32.
    Q6_K,
    /// f16 scales, nibbles that index the format's table.
    IQ4_NL,
    /// f16 scales; `[4][16]` low nibbles of scales, two groups a byte; `[2][16]` high bits, four groups a byte;
    /// 8 x nibbles that index the table.
    IQ4_XS,
    /// Exponents of scales, nibbles that index the format's table.
    MXFP4,
    /// f32 scales, bytes with zero point 128.
    Wide32,
    /// f32 scales, f32 minima, bytes.
    Wide32Min,
    /// `[2][16]` f32 scales, bytes with zero point 128.
    Wide16,
    /// `[2][16]` f32 scales, `[2][16]` f32 minima, bytes.
    Wide16Min,
}

/// Number of packed forms.
pub const PACKS: usize = Pack::Wide16Min as usize + 1;

/// The table of IQ4_NL and IQ4_XS, as bytes with zero point 128 (ggml-common.h, `kvalues_iq4nl`).
pub const IQ4: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// The table of MXFP4, as bytes with zero point 16 (`llama_core::format::E2M1`).
pub const E2M1: [u8; 16] = [16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4];

/// Zero points in use, each with the sub-blocks of a group it is wanted for.
pub const ZEROS: [(i32, usize); 6] = [(8, 1), (16, 1), (128, 1), (32, 2), (128, 2), (4, 2)];

/// What a caller chooses of packed forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forms {
    /// Arithmetic of quantised weights.
    pub numerics: Numerics,
    /// Whether BF16 takes twelve bits.
    pub compact: bool,
}

impl From<Numerics> for Forms {
    fn from(numerics: Numerics) -> Self {
        Forms { numerics, compact: false }
    }
}

impl Forms {
    /// The packed form of `format`.
    pub fn pack(self, format: Format) -> Pack {
        match Pack::of(format, self.numerics) {
            Pack::BF16 if self.compact => Pack::CodedBF16,
            pack => pack,
        }
    }
}

impl Pack {
    /// The packed form of `format`.
    pub fn of(format: Format, numerics: Numerics) -> Pack {
        match format {
            Format::F16 => Pack::F16,
            Format::BF16 => Pack::BF16,
            _ if !format.is_quantised() || !numerics.is_integer() => Pack::F32,
            Format::Q8_0 => Pack::Q8_0,
            Format::Q4_0 => Pack::Q4_0,
            Format::Q4_1 => Pack::Q4_1,
            Format::Q5_0 => Pack::Q5_0,
            Format::Q5_1 => Pack::Q5_1,
            Format::Q2_K => Pack::Q2_K,
            Format::Q3_K => Pack::Q3_K,
            Format::Q4_K => Pack::Q4_K,
            Format::Q5_K => Pack::Q5_K,
            Format::Q6_K => Pack::Q6_K,
            Format::IQ4_NL => Pack::IQ4_NL,
            Format::IQ4_XS => Pack::IQ4_XS,
            Format::MXFP4 => Pack::MXFP4,
            _ => Pack::wide(format),
        }
    }

    /// The wide form that holds any quantised format.
    pub fn wide(format: Format) -> Pack {
        match (format.sub_block(), format.has_min()) {
            (16, false) => Pack::Wide16,
            (16, true) => Pack::Wide16Min,
            (_, false) => Pack::Wide32,
            (_, true) => Pack::Wide32Min,
        }
    }

    /// Whether weights are floats, which multiply f32 activations.
    pub fn is_float(self) -> bool {
        matches!(self, Pack::F32 | Pack::F16 | Pack::BF16 | Pack::CodedBF16)
    }

    /// Whether this is one of the forms that hold any quantised format, block by block of 32 columns.
    pub fn is_wide(self) -> bool {
        matches!(self, Pack::Wide32 | Pack::Wide32Min | Pack::Wide16 | Pack::Wide16Min)
    }

    /// Rows of a panel.
    pub fn rows(self) -> usize {
        if self.is_float() { 32 } else { 16 }
    }

    /// Groups of 32 columns in a block; 0 for floats.
    pub fn groups(self) -> usize {
        match self {
            Pack::F32 | Pack::F16 | Pack::BF16 | Pack::CodedBF16 => 0,
            Pack::Q2_K | Pack::Q3_K | Pack::Q4_K | Pack::Q5_K | Pack::Q6_K | Pack::IQ4_XS => 8,
            _ => 1,
        }
    }

    /// Columns of a block.
    pub fn block_len(self) -> usize {
        match self {
            Pack::CodedBF16 => 2,
            _ if self.is_float() => 1,
            _ => self.groups() * GROUP,
        }
    }

    /// Bytes of a block, all rows of the panel.
    pub const fn block_bytes(self) -> usize {
        match self {
            Pack::F32 => 128,
            Pack::F16 | Pack::BF16 => 64,
            Pack::CodedBF16 => size_of::<Pair>(),
            Pack::Q8_0 => 32 + 512,
            Pack::Q4_0 | Pack::IQ4_NL => 32 + 256,
            Pack::Q4_1 => 32 + 32 + 256,
            Pack::Q5_0 => 32 + 64 + 256,
            Pack::Q5_1 => 32 + 32 + 64 + 256,
            Pack::Q2_K => 32 + 32 + 256 + 8 * 128,
            Pack::Q3_K => 32 + 128 + 64 + 8 * (64 + 128),
            Pack::Q4_K => 32 + 32 + 128 + 64 + 8 * 256,
            Pack::Q5_K => 32 + 32 + 128 + 64 + 8 * (64 + 256),
            Pack::Q6_K => 32 + 256 + 8 * (128 + 256),
            Pack::IQ4_XS => 32 + 64 + 32 + 8 * 256,
            Pack::MXFP4 => 16 + 256,
            Pack::Wide32 => 64 + 512,
            Pack::Wide32Min | Pack::Wide16 => 128 + 512,
            Pack::Wide16Min => 256 + 512,
        }
    }

    /// Bytes of a panel of `cols` columns.
    pub fn panel_bytes(self, cols: usize) -> usize {
        match self {
            Pack::CodedBF16 => coded::panel_bytes(cols),
            _ => cols / self.block_len() * self.block_bytes(),
        }
    }

    /// Bytes that a model keeps free for what so many bytes of panels cannot hold.
    pub fn spare(self, bytes: u64) -> u64 {
        if self == Pack::CodedBF16 { coded::spare(bytes) } else { 0 }
    }

    /// Sub-blocks of a group that have a scale of their own: 2 for scales of 16 columns.
    pub fn subs(self) -> usize {
        if matches!(self, Pack::Q2_K | Pack::Q3_K | Pack::Q6_K | Pack::Wide16 | Pack::Wide16Min) { 2 } else { 1 }
    }

    /// Whether sub-blocks have a minimum.
    pub fn has_min(self) -> bool {
        match self {
            Pack::Q4_1 | Pack::Q5_1 | Pack::Q2_K | Pack::Q4_K | Pack::Q5_K => true,
            _ => matches!(self, Pack::Wide32Min | Pack::Wide16Min),
        }
    }

    /// What is subtracted from a code.
    pub fn zero_point(self) -> u8 {
        match self {
            Pack::Q3_K => 4,
            Pack::Q4_0 => 8,
            Pack::Q5_0 | Pack::MXFP4 => 16,
            Pack::Q6_K => 32,
            Pack::Q8_0 | Pack::IQ4_NL | Pack::IQ4_XS | Pack::Wide32 | Pack::Wide16 => 128,
            _ => 0,
        }
    }

    /// Index in [`ZEROS`] of this form's zero point, where it has one.
    pub fn zero(self) -> Option<usize> {
        ZEROS.iter().position(|&zero| zero == (i32::from(self.zero_point()), self.subs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_forms_hold_no_more_bytes_than_their_format() {
        for format in Format::ALL {
            let pack = Pack::of(format, Numerics::Default);
            let bytes = format.row_bytes(256).unwrap() * pack.rows();
            if pack.is_wide() {
                assert!(pack.panel_bytes(256) > bytes, "{}", format.name());
            } else {
                assert_eq!(pack.panel_bytes(256), bytes, "{}", format.name());
            }
            assert_eq!(pack.has_min(), format.has_min());
            assert_eq!(pack.zero().is_some(), format.is_quantised() && !format.has_min());
            let subs = if format.is_quantised() { GROUP / format.sub_block() } else { 1 };
            assert_eq!(pack.subs(), subs, "{}", format.name());
        }
        let wide = Format::ALL.map(|format| Pack::of(format, Numerics::Default)).iter().filter(|p| p.is_wide()).count();
        assert_eq!(wide, 9, "IQ1 to IQ3, TQ1_0 and TQ2_0");
    }

    #[test]
    fn tables_are_those_of_the_formats() {
        assert_eq!(E2M1.map(|code| code as i8 - 16), llama_core::format::E2M1);
        assert_eq!(IQ4.map(|code| (code ^ 128) as i8), llama_core::format::LEVELS);
    }
}
