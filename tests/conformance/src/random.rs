//! Numbers for scenes: reproducible, and the extraordinary among the ordinary.

use llama_core::format::Format;

/// A SplitMix64 stream (Steele, Lea and Flood 2014).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In `-2 .. 2`.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 22) as f32 - 2.0
    }

    /// `n` of them.
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// In any order.
    pub fn shuffle<T>(&mut self, x: &mut [T]) {
        (1..x.len()).for_each(|i| x.swap(i, self.below(i + 1)));
    }

    /// Ordinary numbers with the extraordinary among them.
    pub fn hard_floats(&mut self, n: usize) -> Vec<f32> {
        const HARD: [f32; 12] =
            [0.0, -0.0, 1e30, -1e30, 1e-42, -1e-42, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 87.5, -88.0, -1e-8];
        (0..n).map(|i| if i % 7 == 3 { HARD[self.below(HARD.len())] } else { 20.0 * self.float() }).collect()
    }

    /// `rows` of random weights in `format`.
    pub fn encoded(&mut self, format: Format, rows: usize, cols: usize) -> Vec<u8> {
        let mut bytes = vec![0; rows * format.row_bytes(cols).expect("whole blocks")];
        format.encode(&self.floats(rows * cols), &mut bytes).expect("an encoder");
        bytes
    }
}
