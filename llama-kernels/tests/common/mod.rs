//! Random weights as a file holds them.

use llama_core::format::Format;

/// A generator of reproducible numbers (Steele, Lea and Flood 2014, "SplitMix").
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In `[-1, 1)`.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Any.
    pub fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}

fn half(x: f32) -> u16 {
    half::f16::from_f32(x).to_bits()
}

/// Writes the factors of a quantised block, the bits of an f16 each; every other bit of a block may be anything. MXFP4 has
/// an exponent instead, IQ1_M an f16 in four pieces.
pub fn set_factors(format: Format, block: &mut [u8], mut factor: impl FnMut() -> u16) {
    let at: &[usize] = match format {
        Format::MXFP4 => {
            let exponent = (factor() >> 10 & 31) as u8;
            block[0] = if exponent == 31 { 255 } else { 112 + exponent };
            return;
        }
        Format::IQ1_M => {
            let bits = factor();
            for i in 0..4 {
                block[49 + 2 * i] = block[49 + 2 * i] & 15 | ((bits >> (4 * i) & 15) as u8) << 4;
            }
            return;
        }
        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
        Format::Q2_K => &[80, 82],
        Format::Q3_K => &[108],
        Format::Q6_K => &[208],
        Format::TQ1_0 => &[52],
        Format::TQ2_0 => &[64],
        _ => &[0],
    };
    for &at in at {
        block[at..at + 2].copy_from_slice(&factor().to_le_bytes());
    }
}

/// Encoded rows whose bits are random but for finite factors.
pub fn encoded(format: Format, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    let weights = rows * cols;
    match format {
        Format::F32 => (0..weights).flat_map(|_| random.float().to_le_bytes()).collect(),
        Format::F16 => (0..weights).flat_map(|_| half(random.float()).to_le_bytes()).collect(),
        Format::BF16 => (0..weights).flat_map(|_| half::bf16::from_f32(random.float()).to_le_bytes()).collect(),
        _ => {
            let mut bytes: Vec<u8> = (0..rows * format.row_bytes(cols).unwrap()).map(|_| random.byte()).collect();
            for block in bytes.chunks_exact_mut(format.block_bytes()) {
                set_factors(format, block, || half(random.float() * 0.1));
            }
            bytes
        }
    }
}
