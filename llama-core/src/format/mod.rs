//! Weight formats: block structure, and the scalar encode and decode that are the truth every kernel is tested against.

use crate::error::{Error, Result};

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
}

/// The integer form of 32 consecutive weights: `w[i] = scale[i / 16] * codes[i] + min[i / 16]`, exactly as [`Format::decode`]
/// says up to the rounding of that last step. Formats whose scale spans 32 weights repeat it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// Integer codes with the format's zero point already subtracted.
    pub codes: [i8; 32],
    /// Scale of each half.
    pub scale: [f32; 2],
    /// What is added, for each half; 0 where [`Format::has_min`] is false.
    pub min: [f32; 2],
}

impl Format {
    /// Every format, in the order of the enum.
    pub const ALL: [Format; 15] = [
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
            Format::IQ4_NL => 20,
            Format::IQ4_XS => 23,
            Format::BF16 => 30,
        }
    }

    /// The format with this ggml type number.
    pub fn from_ggml_type(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.ggml_type() == number)
    }

    /// Weights in one block.
    pub fn block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Q8_0 | Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 | Format::IQ4_NL => 32,
            Format::Q2_K | Format::Q3_K | Format::Q4_K | Format::Q5_K | Format::Q6_K | Format::IQ4_XS => 256,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
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
            Format::Q2_K | Format::Q3_K | Format::Q6_K => 16,
            _ => 32,
        }
    }

    /// Whether sub-blocks have an additive minimum.
    pub fn has_min(self) -> bool {
        matches!(self, Format::Q4_1 | Format::Q5_1 | Format::Q2_K | Format::Q4_K | Format::Q5_K)
    }

    /// Decodes whole blocks: `bytes` holds `out.len()` weights.
    ///
    /// # Panics
    /// If the lengths disagree.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(self.row_bytes(out.len()), Some(bytes.len()), "{} row of {} weights", self.name(), out.len());
        match self {
            Format::F32 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(o, &b)| *o = f32::from_le_bytes(b)),
            Format::F16 => {
                out.iter_mut().zip(bytes.as_chunks().0).for_each(|(o, &b)| *o = half::f16::from_le_bytes(b).to_f32())
            }
            Format::BF16 => {
                out.iter_mut().zip(bytes.as_chunks().0).for_each(|(o, &b)| *o = half::bf16::from_le_bytes(b).to_f32())
            }
            _ => unimplemented!(),
        }
    }

    /// Encodes whole blocks, where the format defines an encoder.
    pub fn encode(self, _x: &[f32], _out: &mut [u8]) -> Result<()> {
        Err(Error::Unsupported {
            what: format!("encoding {}", self.name()),
            advice: "convert with another program".into(),
        })
    }

    /// The integer form of the 32 weights from `32 * index` of an encoded row.
    ///
    /// # Panics
    /// If the format is not quantised or the row is shorter.
    pub fn group(self, _row: &[u8], _index: usize) -> Group {
        unimplemented!()
    }
}
