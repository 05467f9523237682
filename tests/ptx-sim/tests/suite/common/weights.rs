//! Weights as a checkpoint has them, what they decode to, and the tiles that the kernels read: the layouts of
//! llama-cuda/kernels/{format}.cuh said a second time, weight by weight.

use llama_core::format::Format;

use super::{Rng, to_bf16, to_f16};

/// A format that kernels know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bf16,
    F16,
    F32,
    Q8_0,
    Q4_0,
    Q4_1,
    Q4K,
    Q5K,
    Q6K,
    Grouped,
}

impl Kind {
    pub const ALL: [Kind; 10] = [
        Kind::Bf16,
        Kind::F16,
        Kind::F32,
        Kind::Q8_0,
        Kind::Q4_0,
        Kind::Q4_1,
        Kind::Q4K,
        Kind::Q5K,
        Kind::Q6K,
        Kind::Grouped,
    ];

    /// As kernels are named.
    pub fn name(self) -> &'static str {
        ["bf16", "f16", "f32", "q8_0", "q4_0", "q4_1", "q4_k", "q5_k", "q6_k", "grouped"][self as usize]
    }

    /// As the checkpoint's formats are named; GROUPED is in no checkpoint.
    fn format(self) -> Option<Format> {
        use Format::{BF16, F16, F32, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K, Q8_0};
        [BF16, F16, F32, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K].get(self as usize).copied()
    }

    pub fn is_k(self) -> bool {
        matches!(self, Kind::Q4K | Kind::Q5K | Kind::Q6K)
    }

    pub fn is_float(self) -> bool {
        matches!(self, Kind::Bf16 | Kind::F16 | Kind::F32)
    }

    /// Inputs of a tile.
    pub fn tile_inputs(self) -> usize {
        if self.is_k() { 256 } else { 64 }
    }

    pub fn tile_bytes(self) -> usize {
        [2048, 2048, 4096, 1088, 576, 640, 2304, 2816, 3360, 1536][self as usize]
    }

    /// Inputs that a lane's share is dealt from: 32, or 16.
    pub fn group(self) -> usize {
        if matches!(self, Kind::Q6K | Kind::Grouped) { 16 } else { 32 }
    }

    /// Weights and bytes of a block as it lies in a row.
    pub fn block(self) -> (usize, usize) {
        self.format().map_or((16, 24), |format| (format.block_len(), format.block_bytes()))
    }
}

/// A matrix in some format.
pub struct Weights {
    pub kind: Kind,
    pub rows: usize,
    pub inputs: usize,
    /// Rows of blocks.
    pub raw: Vec<u8>,
    /// What they decode to.
    pub values: Vec<f32>,
}

impl Weights {
    /// Random quants and scales; numbers of about one.
    pub fn random(rng: &mut Rng, kind: Kind, rows: usize, inputs: usize) -> Self {
        let (len, _) = kind.block();
        let raw: Vec<u8> = (0..rows * inputs / len).flat_map(|_| random_block(rng, kind)).collect();
        let mut values = vec![0.0; rows * inputs];
        match kind.format() {
            Some(format) => format.decode(&raw, &mut values),
            None => raw.chunks_exact(24).zip(values.chunks_exact_mut(16)).for_each(|(b, v)| decode_grouped(b, v)),
        }
        Weights { kind, rows, inputs, raw, values }
    }

    pub fn row_bytes(&self) -> usize {
        let (len, bytes) = self.kind.block();
        self.inputs / len * bytes
    }

    /// The tiles, padded with zeros.
    pub fn tiles(&self) -> Vec<u8> {
        let mut tiles = Vec::new();
        for row in (0..self.rows).step_by(16) {
            for input in (0..self.inputs).step_by(self.kind.tile_inputs()) {
                let tile = Tile { weights: self, row, input }.bytes();
                assert_eq!(tile.len(), self.kind.tile_bytes());
                tiles.extend(tile);
            }
        }
        tiles
    }

    /// The block with a weight, and the weight's place in it; `None` in the padding.
    fn block(&self, row: usize, input: usize) -> Option<(&[u8], usize)> {
        let (len, bytes) = self.kind.block();
        let at = row * self.row_bytes() + input / len * bytes;
        (row < self.rows && input < self.inputs).then(|| (&self.raw[at..at + bytes], input % len))
    }
}

fn random_block(rng: &mut Rng, kind: Kind) -> Vec<u8> {
    let (_, bytes) = kind.block();
    let mut block: Vec<u8> = (0..bytes).map(|_| rng.below(256) as u8).collect();
    let mut half = |block: &mut [u8], at: usize, loudness: f32| {
        block[at..at + 2].copy_from_slice(&to_f16(f64::from(rng.unit() * loudness)).to_le_bytes());
    };
    match kind {
        Kind::Bf16 => block = to_bf16(f64::from(rng.unit())).to_le_bytes().to_vec(),
        Kind::F16 => half(&mut block, 0, 1.0),
        Kind::F32 => block = rng.unit().to_le_bytes().to_vec(),
        Kind::Q8_0 => half(&mut block, 0, 0.01),
        Kind::Q4_0 => half(&mut block, 0, 0.1),
        Kind::Q4_1 => (half(&mut block, 0, 0.1), half(&mut block, 2, 1.0)).0,
        Kind::Q4K => (half(&mut block, 0, 0.003), half(&mut block, 2, 0.02)).0,
        Kind::Q5K => (half(&mut block, 0, 0.0015), half(&mut block, 2, 0.02)).0,
        Kind::Q6K => half(&mut block, 208, 0.0005),
        Kind::Grouped => {
            block[16..20].copy_from_slice(&(rng.unit() * 0.01).to_le_bytes());
            block[20..24].copy_from_slice(&rng.unit().to_le_bytes());
        }
    }
    block
}

fn decode_grouped(block: &[u8], values: &mut [f32]) {
    let float = |at: usize| f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    for (value, &code) in values.iter_mut().zip(block) {
        *value = float(16) * f32::from(code as i8) + float(20);
    }
}

/// One tile on its way to bytes: `row` and `input` are its first.
struct Tile<'w> {
    weights: &'w Weights,
    row: usize,
    input: usize,
}

impl Tile<'_> {
    fn bytes(&self) -> Vec<u8> {
        let steps = self.weights.kind.tile_inputs() / 16;
        let mut out = Vec::new();
        match self.weights.kind {
            Kind::Bf16 | Kind::F16 => self.lanes(steps, 1, &mut out, |lane, step| self.numbers(lane, step, 0..4)),
            Kind::F32 => self.lanes(2 * steps, 1, &mut out, |lane, half| {
                self.numbers(lane, half / 2, 2 * (half % 2)..2 * (half % 2) + 2)
            }),
            Kind::Q8_0 | Kind::Grouped => self.lanes(steps, 2, &mut out, |lane, step| self.bytes_of(lane, step)),
            Kind::Q4_0 | Kind::Q4_1 | Kind::Q4K | Kind::Q5K | Kind::Q6K => {
                self.lanes(steps, 4, &mut out, |lane, step| self.bits(lane, step..step + 1, 4, 0));
            }
        }
        match self.weights.kind {
            Kind::Q5K => self.lanes(4, 4, &mut out, |lane, i| self.bits(lane, 4 * i..4 * i + 4, 1, 4)),
            Kind::Q6K => self.lanes(8, 4, &mut out, |lane, i| self.bits(lane, 2 * i..2 * i + 2, 2, 4)),
            _ => {}
        }
        self.scales(&mut out);
        out
    }

    /// Planes of 16 bytes a lane, each holding `per_plane` pieces.
    fn lanes(&self, pieces: usize, per_plane: usize, out: &mut Vec<u8>, piece: impl Fn(usize, usize) -> Vec<u8>) {
        for plane in 0..pieces / per_plane {
            for lane in 0..32 {
                (0..per_plane).for_each(|i| out.extend(piece(lane, plane * per_plane + i)));
            }
        }
    }

    /// Row and first input of a pair of a lane's fragment.
    fn place(&self, lane: usize, step: usize, pair: usize) -> (usize, usize) {
        let q = lane % 4;
        let first =
            if self.weights.kind.group() == 32 { step / 2 * 32 + 8 * q + step % 2 * 4 } else { step * 16 + 4 * q };
        (self.row + lane / 4 + pair % 2 * 8, self.input + first + pair / 2 * 2)
    }

    /// Pairs of plain numbers, as they lie in the file.
    fn numbers(&self, lane: usize, step: usize, pairs: std::ops::Range<usize>) -> Vec<u8> {
        let (_, bytes) = self.weights.kind.block();
        let number = |row, input| self.weights.block(row, input).map_or(vec![0; bytes], |(block, _)| block.to_vec());
        pairs
            .map(|pair| self.place(lane, step, pair))
            .flat_map(|(row, input)| [number(row, input), number(row, input + 1)].concat())
            .collect()
    }

    /// The code of a weight without its sign or zero point taken off.
    fn code(&self, row: usize, input: usize) -> u32 {
        self.weights.block(row, input).map_or(0, |(block, i)| u32::from(code(self.weights.kind, block, i)))
    }

    /// Bytes of a step: two words, each of the low halves of two pairs, then of their high halves.
    fn bytes_of(&self, lane: usize, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for pairs in [[0, 1], [2, 3]] {
            for high in 0..2 {
                for (row, input) in pairs.map(|pair| self.place(lane, step, pair)) {
                    out.push(self.code(row, input + high) as u8);
                }
            }
        }
        out
    }

    /// A word with `count` bits, from bit `from` on, of every code of some steps.
    fn bits(&self, lane: usize, steps: std::ops::Range<usize>, count: usize, from: usize) -> Vec<u8> {
        let mut word = 0u32;
        for (i, (step, pair)) in steps.flat_map(|step| (0..4).map(move |pair| (step, pair))).enumerate() {
            let (row, input) = self.place(lane, step, pair);
            for half in 0..2 {
                let bits = self.code(row, input + half) >> from & ((1 << count) - 1);
                word |= bits << (count * i + 16 * half);
            }
        }
        word.to_le_bytes().to_vec()
    }

    /// Bytes `at..at + count` of the block that holds the first weight of a group, of rows g and g + 8.
    fn scale_bytes(&self, g: usize, input: usize, at: usize, count: usize) -> [Vec<u8>; 2] {
        [g, g + 8].map(|row| {
            let block = self.weights.block(self.row + row, self.input + input);
            block.map_or(vec![0; count], |(block, _)| block[at..at + count].to_vec())
        })
    }

    fn scales(&self, out: &mut Vec<u8>) {
        match self.weights.kind {
            Kind::Bf16 | Kind::F16 | Kind::F32 => {}
            Kind::Q8_0 | Kind::Q4_0 => self.block_scales(out, 2),
            Kind::Q4_1 => self.block_scales(out, 4),
            Kind::Q4K | Kind::Q5K => self.k_scales(out),
            Kind::Q6K => self.q6_k_scales(out),
            Kind::Grouped => {
                for (group, g) in (0..4).flat_map(|group| (0..8).map(move |g| (group, g))) {
                    for at in [16, 20] {
                        out.extend(self.scale_bytes(g, 16 * group, at, 4).concat());
                    }
                }
            }
        }
    }

    /// [8 g][2 groups][rows g, g+8] of what begins a block.
    fn block_scales(&self, out: &mut Vec<u8>, count: usize) {
        for (g, group) in (0..8).flat_map(|g| (0..2).map(move |group| (g, group))) {
            out.extend(self.scale_bytes(g, 32 * group, 0, count).concat());
        }
    }

    fn k_scales(&self, out: &mut Vec<u8>) {
        let six = |g: usize, i: usize| {
            self.scale_bytes(g, 0, 4, 12).map(|packed| {
                let (scale, min) = six_bits(&packed, i % 8);
                u32::from(if i < 8 { scale } else { min })
            })
        };
        let word = |g: usize, first: usize, count: usize, bits: usize, from: usize| {
            let fields = (0..count).map(|i| {
                let [low, high] = six(g, first + i).map(|v| v >> from & ((1 << bits) - 1));
                low << (bits * i) | high << (bits * i + 16)
            });
            fields.fold(0, |word, field| word | field).to_le_bytes().to_vec()
        };
        for g in 0..8 {
            out.extend(self.scale_bytes(g, 0, 0, 2).concat());
            out.extend(self.scale_bytes(g, 0, 2, 2).concat());
            out.extend([word(g, 0, 4, 4, 0), word(g, 4, 4, 4, 0)].concat());
        }
        for g in 0..8 {
            out.extend([word(g, 8, 4, 4, 0), word(g, 12, 4, 4, 0), word(g, 0, 8, 2, 4), word(g, 8, 8, 2, 4)].concat());
        }
    }

    fn q6_k_scales(&self, out: &mut Vec<u8>) {
        for (half, g) in (0..2).flat_map(|half| (0..8).map(move |g| (half, g))) {
            for pair in 0..4 {
                out.extend(self.scale_bytes(g, 0, 192 + 8 * half + 2 * pair, 2).concat());
            }
        }
        (0..8).for_each(|g| out.extend(self.scale_bytes(g, 0, 208, 2).concat()));
    }
}

/// Scale and minimum `i` of the twelve bytes of Q4_K and Q5_K, as ggml's get_scale_min_k4 has them.
fn six_bits(packed: &[u8], i: usize) -> (u8, u8) {
    match i {
        0..4 => (packed[i] & 63, packed[i + 4] & 63),
        _ => (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4),
    }
}

/// Weight `i` of a block as the unsigned number that is stored.
fn code(kind: Kind, block: &[u8], i: usize) -> u8 {
    let nibble = |at: usize, high: usize| block[at] >> (4 * high) & 15;
    match kind {
        Kind::Q8_0 => block[2 + i],
        Kind::Grouped => block[i],
        Kind::Q4_0 => nibble(2 + i % 16, i / 16),
        Kind::Q4_1 => nibble(4 + i % 16, i / 16),
        Kind::Q4K => nibble(16 + i / 64 * 32 + i % 32, i / 32 % 2),
        Kind::Q5K => nibble(48 + i / 64 * 32 + i % 32, i / 32 % 2) | (block[16 + i % 32] >> (i / 32) & 1) << 4,
        Kind::Q6K => {
            let high = block[128 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
            nibble(i / 128 * 64 + i % 64, i / 64 % 2) | high << 4
        }
        Kind::Bf16 | Kind::F16 | Kind::F32 => 0,
    }
}
