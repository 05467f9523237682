//! What the block formats have in common.
//!
//! A block is plain bytes: structs have alignment 1, because a weight in a mapped file starts where the file says, so a
//! row of bytes *is* a row of blocks, borrowed. A format says two things about its block, [`Block::group`] and
//! [`Block::encode`]; decoding follows from the first, so that the integer form the kernels use and the floats they are
//! tested against can't disagree.

use bytemuck::Pod;
use half::f16;

use super::{Format, Group};

/// Weights of a K-quant's block.
pub(super) const SUPER: usize = 256;

/// Every weight counts the same.
pub(super) const EQUAL: [f32; SUPER] = [1.0; SUPER];

/// An `f16` as it lies in a file: little-endian, at any address.
pub type Half = [u8; 2];

/// One block of a quantised format, as it lies in the file.
pub trait Block: Pod {
    /// Which format.
    const FORMAT: Format;

    /// The weights from `32 * index` of this block in integer form; `index` is below `block_len / 32`.
    fn group(&self, index: usize) -> Group;

    /// The block that approximates `x`: `block_len` numbers, each of magnitude at most [`ENCODE_MAX`].
    fn encode(x: &[f32]) -> Self;

    /// The block that approximates `x` if the error of each number counts as often as its weight says. Weights are
    /// positive and at most 1. Where the scale is what the format's definition says, they change nothing.
    fn encode_weighing(x: &[f32], _weights: &[f32]) -> Self {
        Self::encode(x)
    }
}

/// Largest magnitude an encoder of a quantised format takes: `f16`'s, in which scales and minima are stored.
pub const ENCODE_MAX: f32 = 65504.0;

/// The four things done with a row of blocks, so that a format is looked up once.
pub(super) struct Codec {
    pub decode: fn(&[u8], &mut [f32]),
    pub encode: fn(&[f32], &mut [u8]),
    pub encode_weighing: fn(&[f32], &[f32], &mut [u8]),
    pub group: fn(&[u8], usize) -> Group,
}

impl Codec {
    /// The codec of `B`, whose struct is checked to be as long as its format says, at compile time.
    pub const fn of<B: Block>() -> Codec {
        const { assert!(size_of::<B>() == B::FORMAT.block_bytes() && align_of::<B>() == 1) };
        Codec { decode: decode::<B>, encode: encode::<B>, encode_weighing: encode_weighing::<B>, group: group::<B> }
    }
}

fn decode<B: Block>(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[B] = bytemuck::cast_slice(bytes);
    for (block, out) in blocks.iter().zip(out.chunks_exact_mut(B::FORMAT.block_len())) {
        for (index, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
            *out = block.group(index).to_f32(B::FORMAT.has_min());
        }
    }
}

fn encode<B: Block>(x: &[f32], bytes: &mut [u8]) {
    let blocks: &mut [B] = bytemuck::cast_slice_mut(bytes);
    for (block, x) in blocks.iter_mut().zip(x.chunks_exact(B::FORMAT.block_len())) {
        *block = B::encode(x);
    }
}

fn encode_weighing<B: Block>(x: &[f32], importance: &[f32], bytes: &mut [u8]) {
    let blocks: &mut [B] = bytemuck::cast_slice_mut(bytes);
    let len = B::FORMAT.block_len();
    let mut weights = EQUAL;
    for ((block, x), importance) in blocks.iter_mut().zip(x.chunks_exact(len)).zip(importance.chunks_exact(len)) {
        weigh(importance, &mut weights[..len]);
        *block = B::encode_weighing(x, &weights[..len]);
    }
}

/// Importance by the largest in the block. What has none counts next to nothing, and not nothing: numbers that share a
/// scale and are all unimportant still get one that suits them.
fn weigh(importance: &[f32], weights: &mut [f32]) {
    let largest = importance.iter().fold(0.0f32, |max, &v| max.max(v));
    for (weight, &importance) in weights.iter_mut().zip(importance) {
        *weight = if largest > 0.0 { (importance / largest).max(LEAST) } else { 1.0 };
    }
}

/// The least that a weight counts, by the most important of its block: what a sum in `f32` still sees.
const LEAST: f32 = 1e-6;

fn group<B: Block>(row: &[u8], index: usize) -> Group {
    let per_block = B::FORMAT.block_len() / 32;
    let blocks: &[B] = bytemuck::cast_slice(row);
    blocks[index / per_block].group(index % per_block)
}

/// Of two blocks of 32 the one with the smaller error, the first if they are equal.
pub(super) fn better<B: Block>(a: B, b: B, x: &[f32], weights: &[f32]) -> B {
    let error = |block: &B| {
        let decoded = block.group(0).to_f32(B::FORMAT.has_min());
        (0..32).map(|i| weights[i] * (x[i] - decoded[i]) * (x[i] - decoded[i])).sum::<f32>()
    };
    if error(&b) < error(&a) { b } else { a }
}

/// The number an `f16` stands for; exact.
pub(super) fn widen(half: Half) -> f32 {
    f16::from_le_bytes(half).to_f32()
}

/// The `f16` nearest to `x`, ties to even.
pub(super) fn narrow(x: f32) -> Half {
    f16::from_f32(x).to_le_bytes()
}

/// `1 / d`, or 0 where there is nothing to divide by.
pub(super) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// 32 codes from 16 bytes: the low nibbles, then the high ones.
pub(super) fn nibbles(bytes: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 0xF } else { bytes[i - 16] >> 4 })
}

/// The reverse of [`nibbles`]; higher bits of the codes are ignored.
pub(super) fn pack_nibbles(codes: &[u8]) -> [u8; 16] {
    std::array::from_fn(|i| codes[i] & 0xF | codes[i + 16] << 4)
}

/// 32 codes, eight at a time.
pub(super) fn octets(octet: impl Fn(usize) -> [i8; 8]) -> [i8; 32] {
    let octets: [[i8; 8]; 4] = std::array::from_fn(octet);
    std::array::from_fn(|i| octets[i / 8][i % 8])
}
