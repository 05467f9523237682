//! Elements of activations and of the KV cache in each of their formats, and a struct as its kernel takes it.

use ptx_sim::{Arg, Buffer};

use super::{from_bf16, to_bf16};

/// What an element is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    Bf16,
    E4m3,
    F32,
}

impl Element {
    pub fn bytes(self) -> usize {
        match self {
            Element::Bf16 => 2,
            Element::E4m3 => 1,
            Element::F32 => 4,
        }
    }

    /// The nearest element, little end first.
    pub fn encode(self, value: f32) -> Vec<u8> {
        match self {
            Element::Bf16 => to_bf16(f64::from(value)).to_le_bytes().to_vec(),
            Element::E4m3 => vec![to_e4m3(value)],
            Element::F32 => value.to_le_bytes().to_vec(),
        }
    }

    pub fn decode(self, bytes: &[u8]) -> f64 {
        match self {
            Element::Bf16 => from_bf16(u16::from_le_bytes([bytes[0], bytes[1]])),
            Element::E4m3 => from_e4m3(bytes[0]),
            Element::F32 => f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
        }
    }

    pub fn encode_all(self, values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|&value| self.encode(value)).collect()
    }

    pub fn decode_all(self, bytes: &[u8]) -> Vec<f64> {
        bytes.chunks_exact(self.bytes()).map(|bytes| self.decode(bytes)).collect()
    }

    /// Rounds to the format and back.
    pub fn round(self, value: f32) -> f32 {
        self.decode(&self.encode(value)) as f32
    }
}

fn from_e4m3(code: u8) -> f64 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let size = if exponent == 0 { fraction / 512.0 } else { (1.0 + fraction / 8.0) * 2f64.powi(exponent - 7) };
    if code & 0x80 == 0 { size } else { -size }
}

/// By search: the nearest of all finite codes, of two equally near ones the even one.
fn to_e4m3(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    if value.is_nan() {
        return sign | 0x7f;
    }
    let distance = |code: u8| (from_e4m3(code) - f64::from(value.abs()).min(1e3)).abs();
    let nearer = |a: u8, b: u8| match distance(a).total_cmp(&distance(b)) {
        std::cmp::Ordering::Equal if b.is_multiple_of(2) => b,
        std::cmp::Ordering::Greater => b,
        _ => a,
    };
    sign | (0..=0x7e).reduce(nearer).unwrap_or(0)
}

/// A kernel's struct, field by field.
#[derive(Default)]
pub struct Fields(pub Vec<u8>);

impl Fields {
    pub fn buffers(mut self, buffers: &[Buffer]) -> Self {
        buffers.iter().for_each(|buffer| self.0.extend(buffer.address().to_le_bytes()));
        self
    }

    pub fn null(mut self) -> Self {
        self.0.extend([0; 8]);
        self
    }

    pub fn words(mut self, words: &[usize]) -> Self {
        words.iter().for_each(|&word| self.0.extend((word as u32).to_le_bytes()));
        self
    }

    pub fn float(mut self, value: f32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub fn arg(self) -> Arg {
        Arg::Bytes(self.0)
    }
}
