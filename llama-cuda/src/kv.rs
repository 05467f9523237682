//! The KV cache on the device: for each layer k, then v, each `[blocks][kv_heads][BLOCK][padded]`.
//!
//! `padded` is head_dim rounded up to a size that attention has a kernel for; the rest is zeros, which change no product.

use llama_core::backend::{AttentionShape, KvFormat, Limits, check_block};
use llama_core::batch::{BLOCK, BlockId};
use llama_core::{Error, Result};

use crate::device::{Device, Span};
use crate::kernels::Kernels;
use crate::launch::{Launch, THREADS};
use crate::params::CopyBlocks;

/// Head sizes that kernels exist for.
const HEAD_DIMS: [usize; 3] = [64, 128, 256];

/// Keys and values of all blocks of all layers.
pub struct KvCache {
    pub(crate) layout: Layout,
    pub(crate) span: Span,
    /// Where pairs of blocks to copy are read from.
    pub(crate) pairs: Span,
}

/// Pairs of blocks copied by one launch.
const PAIRS: usize = 512;
/// Bytes of [`KvCache::pairs`].
pub(crate) const PAIR_BYTES: u64 = 8 * PAIRS as u64;

/// Sizes of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub layers: usize,
    pub blocks: usize,
    pub kv_heads: usize,
    pub padded: usize,
    pub number: KvNumber,
}

/// The number format of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KvNumber {
    Bf16,
    E4m3,
    F32,
}

impl KvNumber {
    /// [`check`] refuses the format that is no device's; until then it counts as the one of as many bits.
    pub fn of(format: KvFormat) -> Self {
        match format {
            KvFormat::Half | KvFormat::Bf16 => KvNumber::Bf16,
            KvFormat::F32 => KvNumber::F32,
            KvFormat::F8 | KvFormat::Q8 => KvNumber::E4m3,
        }
    }

    fn bytes(self) -> usize {
        match self {
            KvNumber::E4m3 => 1,
            KvNumber::Bf16 => 2,
            KvNumber::F32 => 4,
        }
    }
}

impl Layout {
    pub fn new(shape: &AttentionShape, limits: &Limits) -> Self {
        Layout {
            layers: shape.layers,
            blocks: limits.blocks,
            kv_heads: shape.kv_heads,
            padded: padded(shape.head_dim),
            number: KvNumber::of(limits.kv),
        }
    }

    /// Bytes of one block's k (or v) in one layer.
    pub fn block_bytes(&self) -> u64 {
        (self.kv_heads * BLOCK * self.padded * self.number.bytes()) as u64
    }

    /// Bytes of one head of that.
    fn head_bytes(&self) -> usize {
        BLOCK * self.padded * self.number.bytes()
    }

    /// Where a block's k and v of a layer begin.
    fn places(&self, layer: usize, block: BlockId) -> [u64; 2] {
        let k = 2 * layer as u64 * self.layer_bytes() + u64::from(block) * self.block_bytes();
        [k, k + self.layer_bytes()]
    }

    /// Bytes of all k (or all v) of one layer.
    pub fn layer_bytes(&self) -> u64 {
        (self.blocks as u64).saturating_mul(self.block_bytes())
    }

    /// Bytes of the whole cache.
    pub fn bytes(&self) -> u64 {
        (2 * self.layers as u64).saturating_mul(self.layer_bytes())
    }
}

impl KvCache {
    /// Copies whole blocks in every layer, one pair after the other where they touch each other.
    pub(crate) fn copy_blocks(&self, device: &Device, kernels: &Kernels, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        let mut rest = pairs;
        while !rest.is_empty() {
            let (together, later) = rest.split_at(independent(rest).min(PAIRS));
            self.copy_together(device, kernels, together)?;
            rest = later;
        }
        Ok(())
    }

    fn copy_together(&self, device: &Device, kernels: &Kernels, pairs: &[(BlockId, BlockId)]) -> Result<()> {
        let mut flat = [[0; 2]; PAIRS];
        flat.iter_mut().zip(pairs).for_each(|(flat, &(from, to))| *flat = [from, to]);
        self.pairs.write(0, bytemuck::cast_slice(&flat[..pairs.len()]))?;
        let bytes = self.layout.block_bytes() as u32;
        let grid = [2 * pairs.len() as u32 * bytes.div_ceil(16 * THREADS), 1, 1];
        for layer in 0..self.layout.layers {
            let (k, v) = self.layer(layer);
            let params = CopyBlocks { k, v, pairs: self.pairs.address(), count: pairs.len() as u32, bytes };
            Launch::new(kernels.get("copy_blocks")?, "copy_blocks", grid, &params).enqueue(device)?;
        }
        Ok(())
    }

    /// Replaces `out` by a block of all layers and heads: k, then v of each.
    pub(crate) fn read_block(&self, block: BlockId, out: &mut Vec<u8>) -> Result<()> {
        let (head, mut of_layer) = (self.layout.head_bytes(), vec![0; 2 * self.layout.block_bytes() as usize]);
        out.clear();
        for layer in 0..self.layout.layers {
            let (k, v) = of_layer.split_at_mut(self.layout.block_bytes() as usize);
            let [at_k, at_v] = self.layout.places(layer, block);
            self.span.read(at_k, k)?;
            self.span.read(at_v, v)?;
            for (k, v) in k.chunks_exact(head).zip(v.chunks_exact(head)) {
                out.extend_from_slice(k);
                out.extend_from_slice(v);
            }
        }
        Ok(())
    }

    /// Writes what [`KvCache::read_block`] read.
    pub(crate) fn write_block(&self, block: BlockId, bytes: &[u8]) -> Result<()> {
        let (head, of_layer) = (self.layout.head_bytes(), 2 * self.layout.block_bytes() as usize);
        check_block(bytes, self.layout.layers * of_layer)?;
        for (layer, bytes) in bytes.chunks_exact(of_layer).enumerate() {
            let half = |first: usize| bytes.chunks_exact(head).skip(first).step_by(2).collect::<Vec<_>>().concat();
            let [at_k, at_v] = self.layout.places(layer, block);
            self.span.write(at_k, &half(0))?;
            self.span.write(at_v, &half(1))?;
        }
        Ok(())
    }

    /// Addresses of a layer's k and v.
    pub(crate) fn layer(&self, layer: usize) -> (u64, u64) {
        assert!(layer < self.layout.layers, "layer {layer} of {}", self.layout.layers);
        let k = self.span.address() + 2 * layer as u64 * self.layout.layer_bytes();
        (k, k + self.layout.layer_bytes())
    }
}

/// How many of the first pairs may be copied at once: none writes what another reads or writes.
fn independent(pairs: &[(BlockId, BlockId)]) -> usize {
    let touches =
        |i: usize| pairs[..i].iter().any(|&(from, to)| to == pairs[i].0 || to == pairs[i].1 || from == pairs[i].1);
    (0..pairs.len()).find(|&i| touches(i)).unwrap_or(pairs.len())
}

/// The least size with a kernel that holds `head_dim`.
fn padded(head_dim: usize) -> usize {
    HEAD_DIMS.into_iter().find(|&size| size >= head_dim).unwrap_or(head_dim)
}

/// Refuses heads and numbers that no kernel holds.
pub(crate) fn check(shape: &AttentionShape, limits: &Limits) -> Result<()> {
    if limits.kv == KvFormat::Q8 {
        let name = limits.kv.name();
        return Err(Error::parameter("kv", name, "a GPU keeps keys and values as half, bf16, f32 or f8"));
    }
    if shape.head_dim > HEAD_DIMS[2] || !shape.head_dim.is_multiple_of(2) {
        let advice = "even sizes up to 256 are; use the CPU backend";
        return Err(Error::unsupported(format!("head_dim {} on CUDA", shape.head_dim), advice));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_go_together_until_one_touches_another() {
        assert_eq!(independent(&[(0, 1), (0, 2), (3, 4)]), 3);
        assert_eq!(independent(&[(0, 1), (1, 2)]), 1, "reads what was written");
        assert_eq!(independent(&[(0, 1), (2, 1)]), 1, "writes what was written");
        assert_eq!(independent(&[(0, 1), (2, 0)]), 1, "writes what is read");
        assert_eq!(independent(&[]), 0);
    }
}
