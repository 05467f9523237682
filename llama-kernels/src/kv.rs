//! The KV cache: K and V of every block of every layer, laid out for vectors of sixteen positions.
//!
//! ```text
//! k [layers][blocks][kv_heads][head_dim][BLOCK]     a column of one block is one vector: scores of 16 positions at once
//! v [layers][blocks][kv_heads][BLOCK][stride]       a row is head_dim numbers, padded to whole vectors with zeros
//! ```
//!
//! The element is f32 or f16 ([`KvFormat`]); which of the two is settled once per verb by the store's variant, and the
//! loops below are generic over [`Element`].

use half::f16;
use llama_core::backend::{AttentionShape, KvFormat, Limits};
use llama_core::batch::{BLOCK, BlockId};
use llama_core::{Error, Result};

use crate::buffer::Buffer;
use crate::kernels::{AttentionKernels, BlockKernels, VectorKernels};

/// What K and V are kept as.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// Rounds a row to nearest even.
    fn narrow(kernels: &VectorKernels, x: &[f32], out: &mut [Self]);
    /// The inner loops that read this element.
    fn kernels(kernels: &AttentionKernels) -> &BlockKernels<Self>;
}

impl Element for f32 {
    fn narrow(_: &VectorKernels, x: &[f32], out: &mut [f32]) {
        out.copy_from_slice(x);
    }

    fn kernels(kernels: &AttentionKernels) -> &BlockKernels<f32> {
        &kernels.f32
    }
}

impl Element for f16 {
    fn narrow(kernels: &VectorKernels, x: &[f32], out: &mut [f16]) {
        kernels.narrow(x, out);
    }

    fn kernels(kernels: &AttentionKernels) -> &BlockKernels<f16> {
        &kernels.f16
    }
}

/// Where blocks lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    layers: usize,
    blocks: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Layout {
    fn new(shape: &AttentionShape, limits: &Limits) -> Self {
        Layout { layers: shape.layers, blocks: limits.blocks, kv_heads: shape.kv_heads, head_dim: shape.head_dim }
    }

    /// Elements of K of one head of one block.
    pub fn k_len(&self) -> usize {
        self.head_dim * BLOCK
    }

    /// Elements of V of one head of one block.
    pub fn v_len(&self) -> usize {
        stride(self.head_dim) * BLOCK
    }

    /// Index of a block of a layer among all of them.
    ///
    /// # Panics
    /// If there is no such layer or block.
    pub fn index(&self, layer: usize, block: BlockId) -> usize {
        assert!(layer < self.layers, "layer {layer} of {}", self.layers);
        assert!((block as usize) < self.blocks, "block {block} of {}", self.blocks);
        layer * self.blocks + block as usize
    }

    /// Heads of all blocks of all layers, in 64 bits so that a memory plan cannot overflow.
    fn heads(&self) -> u64 {
        [self.layers, self.blocks, self.kv_heads].iter().fold(1, |n, &m| n.saturating_mul(m as u64))
    }

    /// Whether `shape` reads this cache.
    pub fn fits(&self, shape: &AttentionShape) -> bool {
        (self.layers, self.kv_heads, self.head_dim) == (shape.layers, shape.kv_heads, shape.head_dim)
    }
}

/// Columns of a row of V: `head_dim` rounded up to whole vectors of sixteen.
pub fn stride(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
}

/// K and V of one format.
pub struct Store<E> {
    pub(crate) k: Buffer<E>,
    pub(crate) v: Buffer<E>,
}

/// The store of a cache, by its format.
pub(crate) enum AnyStore {
    F16(Store<f16>),
    F32(Store<f32>),
}

/// The KV cache of one model.
pub struct KvCache {
    pub(crate) layout: Layout,
    pub(crate) store: AnyStore,
}

impl KvCache {
    /// An empty cache of `limits.blocks` blocks.
    pub(crate) fn new(shape: &AttentionShape, limits: &Limits) -> Result<Self> {
        let layout = Layout::new(shape, limits);
        let store = match limits.kv {
            KvFormat::Half => AnyStore::F16(Store::new(&layout)?),
            KvFormat::F32 => AnyStore::F32(Store::new(&layout)?),
            KvFormat::F8 => return Err(Error::parameter("kv", "f8", "a CPU keeps keys and values as half or f32")),
        };
        Ok(KvCache { layout, store })
    }

    /// Bytes of [`KvCache::new`].
    pub(crate) fn bytes(shape: &AttentionShape, limits: &Limits) -> u64 {
        let layout = Layout::new(shape, limits);
        match limits.kv {
            KvFormat::Half | KvFormat::F8 => Store::<f16>::bytes(&layout),
            KvFormat::F32 => Store::<f32>::bytes(&layout),
        }
    }

    /// Copies whole blocks in every layer.
    pub(crate) fn copy_blocks(&mut self, pairs: &[(BlockId, BlockId)]) {
        match &mut self.store {
            AnyStore::F16(store) => store.copy_blocks(&self.layout, pairs),
            AnyStore::F32(store) => store.copy_blocks(&self.layout, pairs),
        }
    }
}

impl<E: Element> Store<E> {
    fn new(layout: &Layout) -> Result<Self> {
        let zeros = |len: u64| {
            Buffer::zeroed(usize::try_from(len).unwrap_or(usize::MAX), "the KV cache", "the context or the sequences")
        };
        Ok(Store { k: zeros(Self::lens(layout)[0])?, v: zeros(Self::lens(layout)[1])? })
    }

    fn bytes(layout: &Layout) -> u64 {
        Self::lens(layout).iter().fold(0, |sum, &len| sum.saturating_add(Buffer::<E>::bytes(len)))
    }

    fn lens(layout: &Layout) -> [u64; 2] {
        [layout.k_len(), layout.v_len()].map(|len| layout.heads().saturating_mul(len as u64))
    }

    fn copy_blocks(&mut self, layout: &Layout, pairs: &[(BlockId, BlockId)]) {
        for &(from, to) in pairs {
            for layer in 0..layout.layers {
                let (from, to) = (layout.index(layer, from), layout.index(layer, to));
                copy(&mut self.k, layout.kv_heads * layout.k_len(), from, to);
                copy(&mut self.v, layout.kv_heads * layout.v_len(), from, to);
            }
        }
    }
}

/// Copies the `from`-th run of `len` elements over the `to`-th.
fn copy<E: Copy>(data: &mut [E], len: usize, from: usize, to: usize) {
    data.copy_within(from * len..(from + 1) * len, to * len);
}
