//! The KV cache: K and V of every block of every layer, laid out for vectors of sixteen positions.
//!
//! ```text
//! k [parts][layers][kv_heads][PART] of [head_dim][BLOCK]   a column is one vector: scores of 16 positions at once
//! v [parts][layers][kv_heads][PART] of [BLOCK][stride]     a row is head_dim numbers, padded to vectors with zeros
//! ```
//!
//! A head's blocks lie together, because attention goes through one head at a time: where a sequence got neighbouring
//! blocks, which is the rule, it is long reads, of `PART` blocks each. What all heads and layers keep of as many blocks lies
//! together too: the cache is in huge pages, and so a short sequence touches few of them.
//!
//! What a number is kept as ([`KvFormat`]) is settled once per verb by the store's variant, and the loops below are
//! generic over [`Element`]. A format with scales has them right behind the numbers of a block's head, `[groups][BLOCK]`:
//! for K they are vectors beside its columns, for V vectors of what the weights of sixteen positions are multiplied by.

use std::marker::PhantomData;

use half::{bf16, f16};
use llama_core::backend::{AttentionShape, KvFormat, Limits, check_block};
use llama_core::batch::{BLOCK, BlockId};
use llama_core::numerics::{GROUP, LANES};
use llama_core::{Error, Result};

use crate::buffer::Pages;
use crate::kernels::{AttentionKernels, BlockKernels, VectorKernels};

/// What K and V are kept as.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// Columns that share a scale. Without scales all of them do.
    const GROUP: usize = usize::MAX;

    /// Rounds a row to nearest even and gives a scale for each group, if there are scales.
    fn narrow(kernels: &VectorKernels, x: &[f32], out: &mut [Self], scales: &mut [f32]);
    /// The inner loops that read this element.
    fn kernels(kernels: &AttentionKernels) -> &BlockKernels<Self>;

    /// Elements of one head of one block that has so many columns, scales included.
    fn len(columns: usize) -> usize {
        columns * BLOCK
    }
    /// Scales `[groups][BLOCK]` of such a head; empty where there are none.
    fn scales(head: &[Self], columns: usize) -> &[[f32; LANES]] {
        let _ = (head, columns);
        &[]
    }
    /// As [`Element::scales`], to write.
    fn scales_mut(head: &mut [Self], columns: usize) -> &mut [[f32; LANES]] {
        let _ = (head, columns);
        &mut []
    }
}

impl Element for f32 {
    fn narrow(_: &VectorKernels, x: &[f32], out: &mut [f32], _: &mut [f32]) {
        out.copy_from_slice(x);
    }

    fn kernels(kernels: &AttentionKernels) -> &BlockKernels<f32> {
        &kernels.f32
    }
}

impl Element for f16 {
    fn narrow(kernels: &VectorKernels, x: &[f32], out: &mut [f16], _: &mut [f32]) {
        kernels.narrow(x, out);
    }

    fn kernels(kernels: &AttentionKernels) -> &BlockKernels<f16> {
        &kernels.f16
    }
}

impl Element for bf16 {
    fn narrow(kernels: &VectorKernels, x: &[f32], out: &mut [bf16], _: &mut [f32]) {
        kernels.narrow_bf16(x, out);
    }

    fn kernels(kernels: &AttentionKernels) -> &BlockKernels<bf16> {
        &kernels.bf16
    }
}

impl Element for i8 {
    const GROUP: usize = GROUP;

    fn narrow(kernels: &VectorKernels, x: &[f32], out: &mut [i8], scales: &mut [f32]) {
        kernels.quantise(x, out, scales);
    }

    fn kernels(kernels: &AttentionKernels) -> &BlockKernels<i8> {
        &kernels.q8
    }

    fn len(columns: usize) -> usize {
        columns * BLOCK + columns.div_ceil(GROUP) * BLOCK * size_of::<f32>()
    }

    // Heads are whole numbers of sixteen bytes in a buffer that is aligned to more, so the casts find floats aligned.
    fn scales(head: &[i8], columns: usize) -> &[[f32; LANES]] {
        bytemuck::cast_slice(&head[columns * BLOCK..])
    }

    fn scales_mut(head: &mut [i8], columns: usize) -> &mut [[f32; LANES]] {
        bytemuck::cast_slice_mut(&mut head[columns * BLOCK..])
    }
}

/// Blocks of a head that lie together: 1,024 positions.
const PART: usize = 64;

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
    pub fn k_len<E: Element>(&self) -> usize {
        E::len(self.head_dim)
    }

    /// Elements of V of one head of one block.
    pub fn v_len<E: Element>(&self) -> usize {
        E::len(stride(self.head_dim))
    }

    /// Index of a block of one head of a layer among all of them.
    ///
    /// # Panics
    /// If there is no such layer, head or block.
    pub fn index(&self, layer: usize, head: usize, block: BlockId) -> usize {
        assert!(layer < self.layers && head < self.kv_heads, "layer {layer} of {}, head {head}", self.layers);
        assert!((block as usize) < self.blocks, "block {block} of {}", self.blocks);
        let (first, heads) = (block as usize / PART * PART, self.layers * self.kv_heads);
        let part = PART.min(self.blocks - first);
        first * heads + (layer * self.kv_heads + head) * part + block as usize % PART
    }

    /// Indices of a block of every head of every layer.
    fn heads_of(self, block: BlockId) -> impl Iterator<Item = usize> {
        let heads = (0..self.layers).flat_map(move |layer| (0..self.kv_heads).map(move |head| (layer, head)));
        heads.map(move |(layer, head)| self.index(layer, head, block))
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
    k: Pages,
    v: Pages,
    element: PhantomData<E>,
}

/// The store of a cache, by its format.
pub(crate) enum AnyStore {
    F16(Store<f16>),
    F32(Store<f32>),
    Bf16(Store<bf16>),
    Q8(Store<i8>),
}

/// Evaluates an expression with the store of a cache, whatever its format.
macro_rules! with_store {
    ($any:expr, $store:ident => $body:expr) => {
        match $any {
            $crate::kv::AnyStore::F16($store) => $body,
            $crate::kv::AnyStore::F32($store) => $body,
            $crate::kv::AnyStore::Bf16($store) => $body,
            $crate::kv::AnyStore::Q8($store) => $body,
        }
    };
}
pub(crate) use with_store;

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
            KvFormat::Bf16 => AnyStore::Bf16(Store::new(&layout)?),
            KvFormat::Q8 => AnyStore::Q8(Store::new(&layout)?),
            KvFormat::F8 => {
                let name = limits.kv.name();
                return Err(Error::parameter("kv", name, "a CPU keeps keys and values as half, f32, bf16 or q8"));
            }
        };
        Ok(KvCache { layout, store })
    }

    /// Bytes of [`KvCache::new`].
    pub(crate) fn bytes(shape: &AttentionShape, limits: &Limits) -> u64 {
        let layout = Layout::new(shape, limits);
        match limits.kv {
            KvFormat::Half => Store::<f16>::bytes(&layout),
            KvFormat::F32 => Store::<f32>::bytes(&layout),
            KvFormat::Bf16 => Store::<bf16>::bytes(&layout),
            KvFormat::Q8 | KvFormat::F8 => Store::<i8>::bytes(&layout),
        }
    }

    /// Replaces `out` by a block of all layers and heads: K, then V of each.
    pub(crate) fn read_block(&self, block: BlockId, out: &mut Vec<u8>) {
        out.clear();
        with_store!(&self.store, store => store.read_block(&self.layout, block, out));
    }

    /// Writes what [`KvCache::read_block`] read.
    pub(crate) fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<()> {
        with_store!(&mut self.store, store => store.write_block(&self.layout, block, bytes))
    }

    /// Copies whole blocks in every layer.
    pub(crate) fn copy_blocks(&mut self, pairs: &[(BlockId, BlockId)]) {
        with_store!(&mut self.store, store => store.copy_blocks(&self.layout, pairs));
    }
}

impl<E: Element> Store<E> {
    fn new(layout: &Layout) -> Result<Self> {
        let zeros = |bytes: u64| {
            Pages::zeroed(usize::try_from(bytes).unwrap_or(usize::MAX), "the KV cache", "the context or the sequences")
        };
        let [k, v] = Self::sizes(layout);
        Ok(Store { k: zeros(k)?, v: zeros(v)?, element: PhantomData })
    }

    fn bytes(layout: &Layout) -> u64 {
        Self::sizes(layout).into_iter().fold(0, u64::saturating_add)
    }

    /// Bytes of K and of V.
    fn sizes(layout: &Layout) -> [u64; 2] {
        let bytes = |len: usize| layout.heads().saturating_mul(len as u64).saturating_mul(size_of::<E>() as u64);
        [layout.k_len::<E>(), layout.v_len::<E>()].map(bytes)
    }

    /// K and V.
    pub(crate) fn numbers(&self) -> [&[E]; 2] {
        [bytemuck::cast_slice(&self.k), bytemuck::cast_slice(&self.v)]
    }

    /// K and V, to write.
    pub(crate) fn numbers_mut(&mut self) -> [&mut [E]; 2] {
        [bytemuck::cast_slice_mut(&mut self.k), bytemuck::cast_slice_mut(&mut self.v)]
    }

    /// Bytes of K and of V of one head of one block.
    fn head_bytes(layout: &Layout) -> [usize; 2] {
        [layout.k_len::<E>(), layout.v_len::<E>()].map(|len| len * size_of::<E>())
    }

    fn read_block(&self, layout: &Layout, block: BlockId, out: &mut Vec<u8>) {
        let [k, v] = Self::head_bytes(layout);
        for index in layout.heads_of(block) {
            out.extend_from_slice(&self.k[index * k..][..k]);
            out.extend_from_slice(&self.v[index * v..][..v]);
        }
    }

    fn write_block(&mut self, layout: &Layout, block: BlockId, bytes: &[u8]) -> Result<()> {
        let [k, v] = Self::head_bytes(layout);
        check_block(bytes, layout.layers * layout.kv_heads * (k + v))?;
        for (index, bytes) in layout.heads_of(block).zip(bytes.chunks_exact(k + v)) {
            self.k[index * k..][..k].copy_from_slice(&bytes[..k]);
            self.v[index * v..][..v].copy_from_slice(&bytes[k..]);
        }
        Ok(())
    }

    fn copy_blocks(&mut self, layout: &Layout, pairs: &[(BlockId, BlockId)]) {
        let [k, v] = self.numbers_mut();
        for &(from, to) in pairs {
            for (from, to) in layout.heads_of(from).zip(layout.heads_of(to)) {
                copy(k, layout.k_len::<E>(), from, to);
                copy(v, layout.v_len::<E>(), from, to);
            }
        }
    }
}

/// Copies the `from`-th run of `len` elements over the `to`-th.
fn copy<E: Copy>(data: &mut [E], len: usize, from: usize, to: usize) {
    data.copy_within(from * len..(from + 1) * len, to * len);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::tests as plan;

    #[test]
    fn a_cache_is_as_large_as_planned() {
        let shape = AttentionShape { layers: 3, head_dim: 36, ..plan::shape() };
        for kv in [KvFormat::Half, KvFormat::F32, KvFormat::Bf16, KvFormat::Q8] {
            let limits = Limits { blocks: 100, kv, ..plan::limits() };
            let cache = KvCache::new(&shape, &limits).expect("memory");
            let bytes = with_store!(&cache.store, store => store.k.len() + store.v.len());
            assert_eq!(KvCache::bytes(&shape, &limits), bytes as u64, "{kv:?}");
        }
    }

    proptest! {
        /// Each block of each head has a place of its own, a head's blocks of a part lie one after the other, and parts in
        /// order.
        #[test]
        fn every_block_has_a_place(layers in 1usize..4, blocks in 1usize..200, kv_heads in 1usize..4) {
            let layout = Layout { layers, blocks, kv_heads, head_dim: 8 };
            let mut taken = vec![false; layout.heads() as usize];
            for i in 0..layers * kv_heads * blocks {
                let (layer, head, block) = (i / blocks / kv_heads, i / blocks % kv_heads, i % blocks);
                let index = layout.index(layer, head, block as BlockId);
                prop_assert!(!std::mem::replace(&mut taken[index], true), "{layer}, {head}, {block} at {index}");
                if block % PART > 0 {
                    prop_assert_eq!(index, layout.index(layer, head, block as BlockId - 1) + 1);
                }
                prop_assert_eq!(index / (PART * layers * kv_heads), block / PART);
            }
        }
    }
}
