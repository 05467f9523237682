//! One step's batch on the device: where every number that changes from step to step is read from.
//!
//! All arrays lie in one span at places that the limits fix, so that addresses never change and a step is one copy. Block
//! tables come last: they are long, and only the part in use is copied.

use std::sync::Arc;

use bytemuck::cast_slice_mut;
use llama_core::Result;
use llama_core::backend::{AttentionShape, Limits};
use llama_core::batch::{BLOCK, Batch, Stage};

use crate::adapted::{self, Adapted, TILE_WORDS};
use crate::adapter::Group;
use crate::arena::padded;
use crate::attention::{self, Attend, Schedule, Workspace};
use crate::device::{Device, Event, Pinned, Span};
use crate::kernels::Kernels;
use crate::kv::KvCache;
use crate::launch::{Launch, THREADS};
use crate::params::{Address, Angles};
use crate::verb::RowTiles;

/// A step's batch.
pub struct Plan {
    pub(crate) shape: AttentionShape,
    pub(crate) rows: u32,
    pub(crate) outputs: u32,
    arrays: Arrays,
    span: Span,
    host: Pinned,
    /// Passed when the last copy is through.
    copied: Event,
    /// `[tokens, half]` pairs of cosine and sine.
    angles: Span,
    /// `[half]`
    inv_freq: Span,
    workspace: Workspace,
    schedule: Schedule,
    /// Of each [`Stage`].
    adapted: [Adapted; 2],
}

/// Where each array begins, in words from the start of the span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Arrays {
    tokens: usize,
    positions: usize,
    slots: usize,
    /// Row to sequence.
    sequence_of: usize,
    outputs: usize,
    /// What each row's q is multiplied by, as f32; nothing where attention has no temperature.
    factors: usize,
    /// Tiles of prefill attention, two words each.
    tiles: usize,
    q_indptr: usize,
    kv_indptr: usize,
    /// Tiles of the rows that adapters change: of all rows, and of those whose logits are wanted.
    adapted: [usize; 2],
    block_ids: usize,
    words: usize,
}

impl Arrays {
    fn new(shape: &AttentionShape, limits: &Limits) -> Self {
        let mut words = 0;
        let mut array = |len: usize| {
            let start = words;
            words = start + len.next_multiple_of(4);
            start
        };
        let (tokens, sequences) = (limits.tokens, limits.sequences);
        Arrays {
            tokens: array(tokens),
            positions: array(tokens),
            slots: array(tokens),
            sequence_of: array(tokens),
            outputs: array(limits.outputs),
            factors: array(if shape.temperature.is_some() { tokens } else { 0 }),
            tiles: array(2 * attention::most_tiles(shape, tokens, sequences)),
            q_indptr: array(sequences + 1),
            kv_indptr: array(sequences + 1),
            adapted: [tokens, limits.outputs].map(|rows| array(TILE_WORDS * adapted::most_tiles(rows, sequences))),
            block_ids: array(most_block_ids(limits)),
            words,
        }
    }
}

/// Block ids of the longest batch: sequences may share blocks, so the pool doesn't bound them.
fn most_block_ids(limits: &Limits) -> usize {
    limits.sequences * limits.context.div_ceil(BLOCK)
}

impl Plan {
    /// Bytes of [`Plan::new`] on the device.
    pub(crate) fn bytes(shape: &AttentionShape, limits: &Limits) -> u64 {
        let arrays = 4 * Arrays::new(shape, limits).words as u64;
        let half = shape.inv_freq.len() as u64;
        let angles = 8 * limits.tokens as u64 * half;
        let workspace = Workspace::bytes(shape, limits);
        padded(arrays) + padded(angles.max(1)) + padded((4 * half).max(1)) + workspace
    }

    pub(crate) fn new(
        device: &Arc<Device>,
        shape: &AttentionShape,
        limits: &Limits,
        take: &mut dyn FnMut(&'static str, u64) -> Result<Span>,
    ) -> Result<Self> {
        let arrays = Arrays::new(shape, limits);
        let half = shape.inv_freq.len();
        let inv_freq = take("rotations", 4 * half as u64)?;
        inv_freq.write(0, bytemuck::cast_slice(&shape.inv_freq))?;
        Ok(Plan {
            shape: shape.clone(),
            rows: 0,
            outputs: 0,
            arrays,
            span: take("batches", 4 * arrays.words as u64)?,
            host: Pinned::new(device, 4 * arrays.words)?,
            copied: Event::new(device)?,
            angles: take("rotations", 8 * (limits.tokens * half) as u64)?,
            inv_freq,
            workspace: Workspace::new(shape, limits, take)?,
            schedule: Schedule::default(),
            adapted: Stage::ALL.map(|stage| Adapted::new(stage, limits.sequences)),
        })
    }

    /// Takes the batch over. The copy goes its way while the host goes on.
    pub(crate) fn prepare(&mut self, batch: &Batch, multiprocessors: u32) -> Result<()> {
        self.copied.wait()?;
        self.rows = batch.rows() as u32;
        self.outputs = batch.outputs.len() as u32;
        let at = self.arrays;
        let words: &mut [u32] = cast_slice_mut(self.host.bytes_mut());
        let mut put = |start: usize, values: &[u32]| words[start..start + values.len()].copy_from_slice(values);
        put(at.tokens, &batch.tokens);
        put(at.positions, &batch.positions);
        put(at.outputs, &batch.outputs);
        put(at.q_indptr, &batch.q_indptr);
        put(at.kv_indptr, &batch.kv_indptr);
        put(at.block_ids, &batch.block_ids);
        if self.shape.temperature.is_some() {
            let factors = batch.positions.iter().map(|&position| self.shape.query_factor(position).to_bits());
            words[at.factors..].iter_mut().zip(factors).for_each(|(word, factor)| *word = factor);
        }
        for s in 0..batch.sequences() {
            let table = batch.blocks_of(s);
            for row in batch.rows_of(s) {
                let position = batch.positions[row] as usize;
                words[at.sequence_of + row] = s as u32;
                words[at.slots + row] = table[position / BLOCK] * BLOCK as u32 + (position % BLOCK) as u32;
            }
        }
        self.schedule = attention::schedule(
            &self.shape,
            batch,
            self.workspace.units(),
            multiprocessors,
            words[at.tiles..at.q_indptr].as_chunks_mut().0,
        );
        for (adapted, start) in self.adapted.iter_mut().zip(at.adapted) {
            adapted.prepare(batch, &mut words[start..at.block_ids]);
        }
        let used = 4 * (at.block_ids + batch.block_ids.len());
        self.span.write_from(0, &self.host, used)?;
        self.copied.record()
    }

    /// The launch that makes the rotations of every row, if anything is rotated.
    pub(crate) fn turn(&self, kernels: &Kernels) -> Result<Option<Launch>> {
        let half = self.shape.inv_freq.len() as u32;
        let count = self.rows * half;
        if count == 0 {
            return Ok(None);
        }
        let params = Angles {
            angles: self.angles.address(),
            positions: self.word(self.arrays.positions),
            inv_freq: self.inv_freq.address(),
            tokens: self.rows,
            half,
            scale: self.shape.rope_scale,
            unused: 0,
        };
        let name = "rope_angles";
        Ok(Some(Launch::new(kernels.get(name)?, name, [count.div_ceil(THREADS), 1, 1], &params)))
    }

    fn word(&self, word: usize) -> Address {
        self.span.address() + 4 * word as u64
    }

    pub(crate) fn tokens(&self) -> Address {
        self.word(self.arrays.tokens)
    }

    pub(crate) fn outputs_index(&self) -> Address {
        self.word(self.arrays.outputs)
    }

    /// The tiles of a stage's rows that have one of `group`, if any has: with whatever others have adapters.
    pub(crate) fn adapted(&self, stage: Stage, group: &Group) -> Option<RowTiles> {
        let adapted = &self.adapted[stage as usize];
        let (count, wide) = adapted.tiles();
        let address = self.word(self.arrays.adapted[stage as usize]);
        adapted.has(|adapter| group.has(adapter)).then_some(RowTiles { address, count, wide })
    }

    /// What the verbs of attention need for one layer.
    pub(crate) fn attend(&self, kv: &KvCache, layer: usize) -> Attend {
        let at = self.arrays;
        let (k, v) = kv.layer(layer);
        Attend {
            k,
            v,
            angles: self.angles.address(),
            positions: self.word(at.positions),
            slots: self.word(at.slots),
            sequence_of: self.word(at.sequence_of),
            q_indptr: self.word(at.q_indptr),
            kv_indptr: self.word(at.kv_indptr),
            block_ids: self.word(at.block_ids),
            tiles: self.word(at.tiles),
            workspace: self.workspace.addresses(),
            heads: attention::heads(&self.shape, &kv.layout, layer),
            number: kv.layout.number,
            scale: self.shape.scale * std::f32::consts::LOG2_E,
            window: self.shape.window.map_or(0, |window| u32::try_from(window).unwrap_or(u32::MAX)),
            factors: self.shape.temperature.map_or(0, |_| (at.factors - at.slots) as u32),
            schedule: self.schedule,
        }
    }
}
