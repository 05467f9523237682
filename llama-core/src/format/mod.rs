//! Weight formats: block structure, and the scalar encode and decode that are the truth every kernel is tested against.
//!
//! The layouts are ggml's; docs/formats.md has them in one table. Each file here is one format or a tight family: a
//! struct of bytes that lies in a mapped file as it is, the integer form of its weights ([`Group`]) and an encoder.
//! Decoding is `scale * code`, rounded to `f32`, then `+ min`, rounded again, where the format has one: the same bits as
//! the Python package `gguf`. Encoders of F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, MXFP4, TQ1_0 and TQ2_0 give the same
//! bytes as it, too; for the others ggml defines a layout but no single right answer, and the search is ours: `fit/`
//! for scales, `lattice.rs` for the formats with a codebook.

mod block;
mod codebook;
mod fit;
mod float;
mod iq1;
mod iq2;
mod iq3;
mod iq4;
mod k_scales;
mod lattice;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q5_k;
mod q6_k;
mod q8_0;
mod ternary;

pub use block::{Block, ENCODE_MAX, Half};
pub use iq1::{Iq1M, Iq1S};
pub use iq2::{Iq2S, Iq2Xs, Iq2Xxs};
pub use iq3::{Iq3S, Iq3Xxs};
pub use iq4::{Iq4Nl, Iq4Xs, LEVELS};
pub use mxfp4::{E2M1, Mxfp4};
pub use q2_k::Q2K;
pub use q3_k::Q3K;
pub use q4::{Q4_0, Q4_1};
pub use q4_k::Q4K;
pub use q5::{Q5_0, Q5_1};
pub use q5_k::Q5K;
pub use q6_k::Q6K;
pub use q8_0::Q8_0;
pub use ternary::{Tq1_0, Tq2_0};

use half::{bf16, f16};

use crate::error::{Error, Result};
use block::Codec;

/// How a tensor's numbers are stored. Names and numbers are ggml's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, missing_docs)]
#[non_exhaustive]
pub enum Format {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    IQ1_S,
    IQ1_M,
    IQ2_XXS,
    IQ2_XS,
    IQ2_S,
    IQ3_XXS,
    IQ3_S,
    TQ1_0,
    TQ2_0,
}

/// The integer form of 32 consecutive weights: `w[i] = scale[i / 16] * codes[i] + min[i / 16]`, exactly as [`Format::decode`]
/// says up to the rounding of that last step. Formats whose scale spans 32 weights repeat it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// Integer codes with the format's zero point already subtracted.
    pub codes: [i8; 32],
    /// Scale of each half: for a K-quant the product of super-scale and scale, exact in `f32`.
    pub scale: [f32; 2],
    /// What is added, for each half (a K-quant's `-(dmin * min)`); 0 where [`Format::has_min`] is false.
    pub min: [f32; 2],
}

impl Group {
    /// The 32 weights: `scale * code`, rounded, then `+ min`, rounded, if the format [has one](Format::has_min). Without,
    /// nothing is added, so that `-0` stays `-0`.
    pub fn to_f32(&self, has_min: bool) -> [f32; 32] {
        std::array::from_fn(|i| {
            let product = self.scale[i / 16] * f32::from(self.codes[i]);
            if has_min { product + self.min[i / 16] } else { product }
        })
    }
}

impl Format {
    /// Every format, in the order of the enum.
    pub const ALL: [Format; 25] = [
        Format::F32,
        Format::F16,
        Format::BF16,
        Format::Q8_0,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q2_K,
        Format::Q3_K,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
        Format::IQ4_NL,
        Format::IQ4_XS,
        Format::MXFP4,
        Format::IQ1_S,
        Format::IQ1_M,
        Format::IQ2_XXS,
        Format::IQ2_XS,
        Format::IQ2_S,
        Format::IQ3_XXS,
        Format::IQ3_S,
        Format::TQ1_0,
        Format::TQ2_0,
    ];

    /// ggml's name.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "F32",
            Format::F16 => "F16",
            Format::BF16 => "BF16",
            Format::Q8_0 => "Q8_0",
            Format::Q4_0 => "Q4_0",
            Format::Q4_1 => "Q4_1",
            Format::Q5_0 => "Q5_0",
            Format::Q5_1 => "Q5_1",
            Format::Q2_K => "Q2_K",
            Format::Q3_K => "Q3_K",
            Format::Q4_K => "Q4_K",
            Format::Q5_K => "Q5_K",
            Format::Q6_K => "Q6_K",
            Format::IQ4_NL => "IQ4_NL",
            Format::IQ4_XS => "IQ4_XS",
            Format::MXFP4 => "MXFP4",
            Format::IQ1_S => "IQ1_S",
            Format::IQ1_M => "IQ1_M",
            Format::IQ2_XXS => "IQ2_XXS",
            Format::IQ2_XS => "IQ2_XS",
            Format::IQ2_S => "IQ2_S",
            Format::IQ3_XXS => "IQ3_XXS",
            Format::IQ3_S => "IQ3_S",
            Format::TQ1_0 => "TQ1_0",
            Format::TQ2_0 => "TQ2_0",
        }
    }

    /// ggml's type number, as GGUF stores it (ggml.h, `enum ggml_type`).
    pub fn ggml_type(self) -> u32 {
        match self {
            Format::F32 => 0,
            Format::F16 => 1,
            Format::Q4_0 => 2,
            Format::Q4_1 => 3,
            Format::Q5_0 => 6,
            Format::Q5_1 => 7,
            Format::Q8_0 => 8,
            Format::Q2_K => 10,
            Format::Q3_K => 11,
            Format::Q4_K => 12,
            Format::Q5_K => 13,
            Format::Q6_K => 14,
            Format::IQ2_XXS => 16,
            Format::IQ2_XS => 17,
            Format::IQ3_XXS => 18,
            Format::IQ1_S => 19,
            Format::IQ4_NL => 20,
            Format::IQ3_S => 21,
            Format::IQ2_S => 22,
            Format::IQ4_XS => 23,
            Format::IQ1_M => 29,
            Format::BF16 => 30,
            Format::TQ1_0 => 34,
            Format::TQ2_0 => 35,
            Format::MXFP4 => 39,
        }
    }

    /// The format with this ggml type number.
    pub fn from_ggml_type(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.ggml_type() == number)
    }

    /// Weights in one block.
    pub const fn block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Q8_0 | Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 => 32,
            Format::IQ4_NL | Format::MXFP4 => 32,
            _ => 256,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::Q8_0 => 34,
            Format::Q4_0 | Format::IQ4_NL => 18,
            Format::Q4_1 => 20,
            Format::Q5_0 => 22,
            Format::Q5_1 => 24,
            Format::Q2_K => 84,
            Format::Q3_K => 110,
            Format::Q4_K => 144,
            Format::Q5_K => 176,
            Format::Q6_K => 210,
            Format::IQ4_XS => 136,
            Format::MXFP4 => 17,
            Format::IQ1_S => 50,
            Format::IQ1_M => 56,
            Format::IQ2_XXS => 66,
            Format::IQ2_XS => 74,
            Format::IQ2_S => 82,
            Format::IQ3_XXS => 98,
            Format::IQ3_S => 110,
            Format::TQ1_0 => 54,
            Format::TQ2_0 => 66,
        }
    }

    /// Bytes of a row of `cols` weights, or `None` if blocks don't divide it or it overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        cols.is_multiple_of(self.block_len()).then(|| (cols / self.block_len()).checked_mul(self.block_bytes()))?
    }

    /// Whether weights are integers with scales, so that int8 activations apply.
    pub fn is_quantised(self) -> bool {
        self.block_len() > 1
    }

    /// Weights that share a scale: 32 or 16 (1 for floats).
    pub fn sub_block(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Q2_K | Format::Q3_K | Format::Q6_K | Format::IQ1_M | Format::IQ2_XS | Format::IQ2_S => 16,
            _ => 32,
        }
    }

    /// Whether sub-blocks have an additive minimum.
    pub const fn has_min(self) -> bool {
        matches!(self, Format::Q4_1 | Format::Q5_1 | Format::Q2_K | Format::Q4_K | Format::Q5_K)
    }

    /// Decodes whole blocks: `bytes` holds `out.len()` weights, at any address.
    ///
    /// # Panics
    /// If the lengths disagree.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        self.check_lengths(bytes.len(), out.len());
        match self.storage() {
            Storage::F32 => float::decode(bytes, out, f32::from_le_bytes),
            Storage::F16 => float::decode(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Storage::BF16 => float::decode(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            Storage::Blocks(codec) => (codec.decode)(bytes, out),
        }
    }

    /// Encodes whole blocks: `out` takes `x.len()` weights.
    ///
    /// # Errors
    /// [`Error::Parameter`] where a quantised format is given a number that is not finite, or of a magnitude above
    /// [`ENCODE_MAX`]; `out` is then untouched. F16 and BF16 round such numbers to infinity.
    ///
    /// # Panics
    /// If the lengths disagree.
    pub fn encode(self, x: &[f32], out: &mut [u8]) -> Result<()> {
        self.check_lengths(out.len(), x.len());
        match self.storage() {
            Storage::F32 => float::encode(x, out, f32::to_le_bytes),
            Storage::F16 => float::encode(x, out, |x| f16::from_f32(x).to_le_bytes()),
            Storage::BF16 => float::encode(x, out, |x| bf16::from_f32(x).to_le_bytes()),
            Storage::Blocks(codec) => {
                check_encodable(x)?;
                (codec.encode)(x, out);
            }
        }
        Ok(())
    }

    /// Encodes whole blocks as [`encode`](Format::encode) does, the squared error of `x[i]` counting `importance[i]`
    /// times: what llama.cpp makes of an importance matrix, where `importance` is the mean square of each column's
    /// activations. Only the proportions within a block matter; a block of zeros counts as equally important. Floats,
    /// Q8_0, MXFP4 and the ternary formats have nothing to choose, and ignore it.
    ///
    /// # Errors
    /// Those of [`encode`](Format::encode), and [`Error::Parameter`] where there is not an importance for every weight, or
    /// one is negative or not finite; `out` is then untouched.
    ///
    /// # Panics
    /// If the lengths of `x` and `out` disagree.
    pub fn encode_weighing(self, x: &[f32], importance: &[f32], out: &mut [u8]) -> Result<()> {
        self.check_lengths(out.len(), x.len());
        check_importance(x.len(), importance)?;
        match self.storage() {
            Storage::Blocks(codec) => {
                check_encodable(x)?;
                (codec.encode_weighing)(x, importance, out);
                Ok(())
            }
            _ => self.encode(x, out),
        }
    }

    /// The integer form of the 32 weights from `32 * index` of an encoded row.
    ///
    /// # Panics
    /// If the format is not quantised, the row is not whole blocks or has no such group.
    pub fn group(self, row: &[u8], index: usize) -> Group {
        match self.storage() {
            Storage::Blocks(codec) => (codec.group)(row, index),
            _ => panic!("{} has no integer form", self.name()),
        }
    }

    fn check_lengths(self, bytes: usize, weights: usize) {
        assert_eq!(self.row_bytes(weights), Some(bytes), "{} row of {weights} weights", self.name());
    }

    fn storage(self) -> Storage {
        match self {
            Format::F32 => Storage::F32,
            Format::F16 => Storage::F16,
            Format::BF16 => Storage::BF16,
            Format::Q8_0 => Storage::Blocks(Codec::of::<Q8_0>()),
            Format::Q4_0 => Storage::Blocks(Codec::of::<Q4_0>()),
            Format::Q4_1 => Storage::Blocks(Codec::of::<Q4_1>()),
            Format::Q5_0 => Storage::Blocks(Codec::of::<Q5_0>()),
            Format::Q5_1 => Storage::Blocks(Codec::of::<Q5_1>()),
            Format::Q2_K => Storage::Blocks(Codec::of::<Q2K>()),
            Format::Q3_K => Storage::Blocks(Codec::of::<Q3K>()),
            Format::Q4_K => Storage::Blocks(Codec::of::<Q4K>()),
            Format::Q5_K => Storage::Blocks(Codec::of::<Q5K>()),
            Format::Q6_K => Storage::Blocks(Codec::of::<Q6K>()),
            Format::IQ4_NL => Storage::Blocks(Codec::of::<Iq4Nl>()),
            Format::IQ4_XS => Storage::Blocks(Codec::of::<Iq4Xs>()),
            Format::MXFP4 => Storage::Blocks(Codec::of::<Mxfp4>()),
            Format::IQ1_S => Storage::Blocks(Codec::of::<Iq1S>()),
            Format::IQ1_M => Storage::Blocks(Codec::of::<Iq1M>()),
            Format::IQ2_XXS => Storage::Blocks(Codec::of::<Iq2Xxs>()),
            Format::IQ2_XS => Storage::Blocks(Codec::of::<Iq2Xs>()),
            Format::IQ2_S => Storage::Blocks(Codec::of::<Iq2S>()),
            Format::IQ3_XXS => Storage::Blocks(Codec::of::<Iq3Xxs>()),
            Format::IQ3_S => Storage::Blocks(Codec::of::<Iq3S>()),
            Format::TQ1_0 => Storage::Blocks(Codec::of::<Tq1_0>()),
            Format::TQ2_0 => Storage::Blocks(Codec::of::<Tq2_0>()),
        }
    }
}

/// Plain numbers, or blocks and what can be done with them.
enum Storage {
    F32,
    F16,
    BF16,
    Blocks(Codec),
}

fn check_encodable(x: &[f32]) -> Result<()> {
    match x.iter().position(|v| v.is_nan() || v.abs() > ENCODE_MAX) {
        None => Ok(()),
        Some(i) => Err(Error::parameter(
            "x",
            x[i],
            format!("weight {i} can't be quantised; it must be finite and at most {ENCODE_MAX} in magnitude"),
        )),
    }
}

fn check_importance(weights: usize, importance: &[f32]) -> Result<()> {
    if importance.len() != weights {
        let problem = format!("is of so many weights; one for each of {weights} was expected");
        return Err(Error::parameter("importance", importance.len(), problem));
    }
    match importance.iter().position(|v| !(*v >= 0.0 && v.is_finite())) {
        None => Ok(()),
        Some(i) => Err(Error::parameter(
            "importance",
            importance[i],
            format!("weight {i} can't count so often; a finite number that is not negative was expected"),
        )),
    }
}
