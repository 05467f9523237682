//! Q8_0: 32 signed bytes and a scale. `w = d * q`.
//!
//! Source: ggml's `block_q8_0`; the encoder is its reference quantiser (largest magnitude becomes 127, halves round away
//! from zero).

use bytemuck::{Pod, Zeroable};

use super::block::{Block, Half, inverse, narrow, widen};
use super::{Format, Group};

/// 34 bytes for 32 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Q8_0 {
    /// Scale.
    pub d: Half,
    /// Codes, -128..=127.
    pub qs: [i8; 32],
}

impl Block for Q8_0 {
    const FORMAT: Format = Format::Q8_0;

    fn group(&self, _index: usize) -> Group {
        Group { codes: self.qs, scale: [widen(self.d); 2], min: [0.0; 2] }
    }

    fn encode(x: &[f32]) -> Self {
        let d = x.iter().fold(0.0f32, |max, v| max.max(v.abs())) / 127.0;
        let inverse = inverse(d);
        Q8_0 { d: narrow(d), qs: std::array::from_fn(|i| (x[i] * inverse).round() as i8) }
    }
}
