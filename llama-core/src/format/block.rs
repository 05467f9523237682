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
}

/// Largest magnitude an encoder of a quantised format takes: `f16`'s, in which scales and minima are stored.
pub const ENCODE_MAX: f32 = 65504.0;

/// The three things done with a row of blocks, so that a format is looked up once.
pub(super) struct Codec {
    pub decode: fn(&[u8], &mut [f32]),
    pub encode: fn(&[f32], &mut [u8]),
    pub group: fn(&[u8], usize) -> Group,
}

impl Codec {
    /// The codec of `B`, whose struct is checked to be as long as its format says, at compile time.
    pub const fn of<B: Block>() -> Codec {
        const { assert!(size_of::<B>() == B::FORMAT.block_bytes() && align_of::<B>() == 1) };
        Codec { decode: decode::<B>, encode: encode::<B>, group: group::<B> }
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

fn group<B: Block>(row: &[u8], index: usize) -> Group {
    let per_block = B::FORMAT.block_len() / 32;
    let blocks: &[B] = bytemuck::cast_slice(row);
    blocks[index / per_block].group(index % per_block)
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
