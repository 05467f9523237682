//! One step's ragged batch, taken apart once so that every layer finds its work lists ready: rotations, runs of rows
//! that share a KV block (the tasks of `rope_and_store`), tiles of rows (the tasks of `attention`), and the scratch
//! memory of attention. Every list has room for any batch within the limits, so that preparing a step allocates nothing.

use std::cell::RefCell;

use llama_core::backend::{AttentionShape, Limits};
use llama_core::batch::{AdapterRun, BLOCK, Batch, BlockId, Stage};
use llama_core::numerics::{self, PARTITION};
use llama_core::{Error, Result};

use crate::buffer::Buffer;
use crate::kernels::Softmax;
use crate::kv::stride;

/// Query rows (tokens times the heads of one KV head) that a tile aims for: their scores of one partition are 32 KiB.
const TILE_ROWS: usize = 32;

/// Rows of one sequence that are stored in one block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Run {
    pub first_row: u32,
    pub rows: u32,
    pub block: BlockId,
    pub first_slot: u32,
}

/// Consecutive rows of one sequence that attend together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tile {
    pub first_row: u32,
    pub rows: u32,
    /// Where the sequence's block table starts in `Plan::block_ids`.
    pub table: u32,
}

/// One partition of one single-token tile, where tiles are too few to keep the team busy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Piece {
    pub tile: u32,
    pub partition: u32,
}

/// One step's batch and schedule.
pub struct Plan {
    pub(crate) shape: AttentionShape,
    limits: Limits,
    threads: usize,
    pub(crate) tokens: Vec<u32>,
    pub(crate) positions: Vec<u32>,
    pub(crate) outputs: Vec<u32>,
    pub(crate) block_ids: Vec<BlockId>,
    /// `[rows][rope_dim / 2]`.
    pub(crate) cos: Vec<f32>,
    /// `[rows][rope_dim / 2]`.
    pub(crate) sin: Vec<f32>,
    /// `[rows]` that q is multiplied by; empty where attention has no temperature.
    pub(crate) factors: Vec<f32>,
    pub(crate) runs: Vec<Run>,
    pub(crate) tiles: Vec<Tile>,
    /// Empty unless partitions are split across tasks; else in the order of tiles, then of partitions.
    pub(crate) pieces: Vec<Piece>,
    /// Rows that adapters change, of each [`Stage`].
    adapted: [Vec<AdapterRun>; 2],
    /// `[blocks]`: written by this batch.
    written: Vec<bool>,
    pub(crate) scratch: RefCell<Scratch>,
}

/// Attention's working memory.
pub(crate) struct Scratch {
    /// `[threads][ThreadScratch::len]`.
    pub threads: Buffer<f32>,
    /// `[threads][2][rows]`.
    pub stats: Vec<Softmax>,
    /// `[pieces][kv_heads][group][stride]`.
    pub partials: Buffer<f32>,
    /// `[pieces][kv_heads][group]`.
    pub partial_stats: Vec<Softmax>,
}

/// How many of everything a plan holds at most.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    tokens: u64,
    outputs: u64,
    sequences: u64,
    tables: u64,
    blocks: u64,
    turns: u64,
    factors: u64,
    pieces: u64,
    thread_floats: u64,
    thread_stats: u64,
    partials: u64,
    partial_stats: u64,
}

impl Sizes {
    fn new(shape: &AttentionShape, limits: &Limits, threads: usize) -> Self {
        let product = |xs: &[usize]| xs.iter().fold(1u64, |n, &x| n.saturating_mul(x as u64));
        let (group, rows) = (shape.heads / shape.kv_heads, tile_rows(shape));
        let pieces = product(&[max_split_tiles(shape, threads).min(limits.tokens), max_partitions(shape, limits)]);
        let partial_stats = pieces.saturating_mul(product(&[shape.kv_heads, group]));
        Sizes {
            tokens: limits.tokens as u64,
            outputs: limits.outputs as u64,
            sequences: limits.sequences as u64,
            tables: product(&[limits.sequences, limits.context.div_ceil(BLOCK)]),
            blocks: limits.blocks as u64,
            turns: product(&[limits.tokens, shape.inv_freq.len()]),
            factors: if shape.temperature.is_some() { limits.tokens as u64 } else { 0 },
            pieces,
            thread_floats: product(&[threads, rows, PARTITION + 2 * stride(shape.head_dim)]),
            thread_stats: product(&[threads, 2, rows]),
            partials: partial_stats.saturating_mul(stride(shape.head_dim) as u64),
            partial_stats,
        }
    }

    fn bytes(&self) -> u64 {
        let list = |len: u64, size: usize| len.saturating_mul(size as u64);
        let lists = [
            list(self.tokens, 2 * size_of::<u32>() + size_of::<Run>() + size_of::<Tile>()),
            list(self.outputs, size_of::<u32>()),
            list(self.sequences, 2 * size_of::<AdapterRun>()),
            list(self.tables, size_of::<BlockId>()),
            list(self.blocks, size_of::<bool>()),
            list(self.turns, 2 * size_of::<f32>()),
            list(self.factors, size_of::<f32>()),
            list(self.pieces, size_of::<Piece>()),
            list(self.thread_stats.saturating_add(self.partial_stats), size_of::<Softmax>()),
            Buffer::<f32>::bytes(self.thread_floats),
            Buffer::<f32>::bytes(self.partials),
        ];
        lists.iter().fold(0, |sum, &bytes| sum.saturating_add(bytes))
    }
}

/// Tokens of a full tile.
fn tile_tokens(shape: &AttentionShape) -> usize {
    (TILE_ROWS / (shape.heads / shape.kv_heads)).max(1)
}

/// Query rows of a full tile.
pub(crate) fn tile_rows(shape: &AttentionShape) -> usize {
    tile_tokens(shape) * (shape.heads / shape.kv_heads)
}

/// With fewer tasks than this, threads would wait for one another.
fn wanted_tasks(threads: usize) -> usize {
    if threads == 1 { 1 } else { 2 * threads }
}

/// Tiles that may be split into pieces.
fn max_split_tiles(shape: &AttentionShape, threads: usize) -> usize {
    (wanted_tasks(threads) - 1) / shape.kv_heads
}

/// Partitions that one query can see.
fn max_partitions(shape: &AttentionShape, limits: &Limits) -> usize {
    let visible = shape.window.map_or(limits.context, |window| window.saturating_add(PARTITION).min(limits.context));
    visible.div_ceil(PARTITION)
}

impl Plan {
    /// Room for any batch within `limits`, for a team of `threads`.
    pub(crate) fn new(shape: &AttentionShape, limits: &Limits, threads: usize) -> Result<Self> {
        assert!(shape.heads > 0 && shape.heads.is_multiple_of(shape.kv_heads), "{} heads", shape.heads);
        assert!(2 * shape.inv_freq.len() <= shape.head_dim && shape.window != Some(0), "{shape:?}");
        let sizes = Sizes::new(shape, limits, threads);
        let mut written = list(sizes.blocks)?;
        written.resize(limits.blocks, false);
        Ok(Plan {
            shape: shape.clone(),
            limits: *limits,
            threads,
            tokens: list(sizes.tokens)?,
            positions: list(sizes.tokens)?,
            outputs: list(sizes.outputs)?,
            block_ids: list(sizes.tables)?,
            cos: list(sizes.turns)?,
            sin: list(sizes.turns)?,
            factors: list(sizes.factors)?,
            runs: list(sizes.tokens)?,
            tiles: list(sizes.tokens)?,
            pieces: list(sizes.pieces)?,
            adapted: [list(sizes.sequences)?, list(sizes.sequences)?],
            written,
            scratch: RefCell::new(Scratch::new(&sizes)?),
        })
    }

    /// Bytes of [`Plan::new`].
    pub(crate) fn bytes(shape: &AttentionShape, limits: &Limits, threads: usize) -> u64 {
        Sizes::new(shape, limits, threads).bytes()
    }

    /// Takes the batch over.
    pub(crate) fn prepare(&mut self, batch: &Batch) {
        self.check(batch);
        replace(&mut self.tokens, &batch.tokens);
        replace(&mut self.positions, &batch.positions);
        replace(&mut self.outputs, &batch.outputs);
        replace(&mut self.block_ids, &batch.block_ids);
        for (stage, runs) in Stage::ALL.into_iter().zip(&mut self.adapted) {
            batch.adapted(stage, runs);
        }
        self.turn();
        self.plan_runs(batch);
        self.plan_tiles(batch);
        self.plan_pieces();
    }

    /// The model promises a batch within its limits; the kernels' memory safety needs blocks in range and distinct, and
    /// that is checked in `plan_runs`.
    fn check(&self, batch: &Batch) {
        let (l, rows) = (&self.limits, batch.rows());
        assert!(rows <= l.tokens && batch.positions.len() == rows, "{rows} rows, {} at most", l.tokens);
        assert!(batch.sequences() <= l.sequences, "{} sequences, {} at most", batch.sequences(), l.sequences);
        assert!(batch.outputs.len() <= l.outputs, "{} outputs, {} at most", batch.outputs.len(), l.outputs);
        assert!(batch.outputs.iter().all(|&row| (row as usize) < rows), "outputs {:?} of {rows}", batch.outputs);
        assert!(batch.block_ids.iter().all(|&id| (id as usize) < l.blocks), "a block id is not below {}", l.blocks);
        for s in 0..batch.sequences() {
            let positions = &batch.positions[batch.rows_of(s)];
            let blocks = batch.blocks_of(s).len();
            let Some(&last) = positions.last() else { continue };
            assert!(positions.windows(2).all(|p| p[0] + 1 == p[1]), "positions {positions:?} of sequence {s}");
            assert!(
                (last as usize) < l.context && last as usize / BLOCK < blocks,
                "position {last} in {blocks} blocks"
            );
            assert!(blocks <= l.context.div_ceil(BLOCK), "{blocks} blocks of sequence {s}");
        }
    }

    /// The rows of a stage that adapters change.
    pub(crate) fn adapted(&self, stage: Stage) -> &[AdapterRun] {
        &self.adapted[stage as usize]
    }

    /// Rows of a stage.
    pub(crate) fn rows(&self, stage: Stage) -> usize {
        match stage {
            Stage::Tokens => self.tokens.len(),
            Stage::Outputs => self.outputs.len(),
        }
    }

    fn turn(&mut self) {
        self.cos.clear();
        self.sin.clear();
        for &position in &self.positions {
            for &inv_freq in &self.shape.inv_freq {
                let (sin, cos) = numerics::sin_cos(position as f32 * inv_freq);
                self.cos.push(cos * self.shape.rope_scale);
                self.sin.push(sin * self.shape.rope_scale);
            }
        }
        self.factors.clear();
        if let Some(temperature) = self.shape.temperature {
            self.factors.extend(self.positions.iter().map(|&position| temperature.factor(position)));
        }
    }

    fn plan_runs(&mut self, batch: &Batch) {
        self.runs.clear();
        for s in 0..batch.sequences() {
            let (mut rows, blocks) = (batch.rows_of(s), batch.blocks_of(s));
            while let Some(row) = rows.clone().next() {
                let position = batch.positions[row] as usize;
                let count = (BLOCK - position % BLOCK).min(rows.len());
                let (block, first_slot) = (blocks[position / BLOCK], (position % BLOCK) as u32);
                self.runs.push(Run { first_row: row as u32, rows: count as u32, block, first_slot });
                rows.start += count;
            }
        }
        for run in &self.runs {
            let before = std::mem::replace(&mut self.written[run.block as usize], true);
            assert!(!before, "block {} is written by two sequences", run.block);
        }
        self.runs.iter().for_each(|run| self.written[run.block as usize] = false);
    }

    /// Tiles as large as keep the team busy: more rows share a widened K and V, more tasks balance.
    fn plan_tiles(&mut self, batch: &Batch) {
        let mut tokens = tile_tokens(&self.shape);
        let tasks = |tokens: usize| {
            let tiles: usize = (0..batch.sequences()).map(|s| batch.rows_of(s).len().div_ceil(tokens)).sum();
            tiles * self.shape.kv_heads
        };
        while tokens > 1 && tasks(tokens) < wanted_tasks(self.threads) {
            tokens /= 2;
        }
        self.tiles.clear();
        for s in 0..batch.sequences() {
            let rows = batch.rows_of(s);
            for first_row in rows.clone().step_by(tokens) {
                let (first_row, rows) = (first_row as u32, tokens.min(rows.end - first_row) as u32);
                self.tiles.push(Tile { first_row, rows, table: batch.kv_indptr[s] });
            }
        }
    }

    fn plan_pieces(&mut self) {
        self.pieces.clear();
        let single = self.tiles.iter().all(|tile| tile.rows == 1);
        if !single || self.tiles.len() > max_split_tiles(&self.shape, self.threads) {
            return;
        }
        for (i, tile) in self.tiles.iter().enumerate() {
            let position = self.positions[tile.first_row as usize] as usize;
            let partitions = self.shape.first_visible(position) / PARTITION..=position / PARTITION;
            self.pieces.extend(partitions.map(|p| Piece { tile: i as u32, partition: p as u32 }));
        }
        // A piece each would only add the merge.
        if self.pieces.len() == self.tiles.len() {
            self.pieces.clear();
        }
    }
}

impl Scratch {
    fn new(sizes: &Sizes) -> Result<Self> {
        let stats = |len: u64| {
            let mut stats = list(len)?;
            stats.resize(len as usize, Softmax::default());
            Ok::<_, Error>(stats)
        };
        Ok(Scratch {
            threads: zeros(sizes.thread_floats)?,
            stats: stats(sizes.thread_stats)?,
            partials: zeros(sizes.partials)?,
            partial_stats: stats(sizes.partial_stats)?,
        })
    }
}

fn replace<T: Copy>(list: &mut Vec<T>, with: &[T]) {
    list.clear();
    list.extend_from_slice(with);
}

fn zeros(len: u64) -> Result<Buffer<f32>> {
    Buffer::zeroed(usize::try_from(len).unwrap_or(usize::MAX), "attention's scratch", "the context limit or threads")
}

/// An empty list with room for `len`.
fn list<T>(len: u64) -> Result<Vec<T>> {
    let mut list = Vec::new();
    let reserved = list.try_reserve_exact(usize::try_from(len).unwrap_or(usize::MAX));
    let needed = len.saturating_mul(size_of::<T>() as u64);
    reserved.map(|()| list).map_err(|_| Error::Memory {
        what: "a step's plan",
        needed,
        limit: isize::MAX as u64,
        advice: "the tokens or sequences of a step, or the context limit",
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use llama_core::backend::{KvFormat, RopeLayout};

    pub(crate) fn shape() -> AttentionShape {
        AttentionShape {
            layers: 1,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            inv_freq: vec![1.0, 0.1],
            rope_scale: 1.0,
            layout: RopeLayout::Halves,
            unturned: Vec::new(),
            scale: 0.3,
            window: None,
            temperature: None,
        }
    }

    pub(crate) fn limits() -> Limits {
        Limits { tokens: 80, sequences: 3, outputs: 2, context: 1024, blocks: 64, kv: KvFormat::Half }
    }

    fn capacities(plan: &Plan) -> u64 {
        let scratch = plan.scratch.borrow();
        let words = [&plan.tokens, &plan.positions, &plan.outputs, &plan.block_ids].map(Vec::capacity);
        let bytes = words.iter().sum::<usize>() * 4
            + (plan.cos.capacity() + plan.sin.capacity()) * 4
            + plan.runs.capacity() * size_of::<Run>()
            + plan.tiles.capacity() * size_of::<Tile>()
            + plan.pieces.capacity() * size_of::<Piece>()
            + plan.adapted.iter().map(Vec::capacity).sum::<usize>() * size_of::<AdapterRun>()
            + plan.written.capacity()
            + (scratch.stats.capacity() + scratch.partial_stats.capacity()) * size_of::<Softmax>();
        bytes as u64
            + Buffer::<f32>::bytes(scratch.threads.len() as u64)
            + Buffer::<f32>::bytes(scratch.partials.len() as u64)
    }

    #[test]
    fn the_memory_plan_is_exact_and_no_batch_exceeds_it() {
        for threads in [1, 2, 5] {
            let mut plan = Plan::new(&shape(), &limits(), threads).expect("memory");
            let want = Plan::bytes(&shape(), &limits(), threads);
            assert_eq!(capacities(&plan), want);
            let mut batch = Batch::new();
            let table: Vec<u32> = (0..64).collect();
            batch.push(&[0; 40], 1024 - 40, &table, [39]);
            plan.prepare(&batch);
            batch.clear();
            batch.push(&[0], 1023, &table, [0]);
            plan.prepare(&batch);
            assert_eq!(capacities(&plan), want);
        }
    }

    #[test]
    fn a_lone_token_at_depth_is_split_for_a_team() {
        let mut batch = Batch::new();
        batch.push(&[7], 700, &(0..64).collect::<Vec<_>>(), [0]);
        for (threads, pieces) in [(1, 0), (2, 3)] {
            let mut plan = Plan::new(&shape(), &limits(), threads).expect("memory");
            plan.prepare(&batch);
            assert_eq!(plan.pieces.len(), pieces);
        }
    }

    #[test]
    fn runs_follow_blocks() {
        let mut plan = Plan::new(&shape(), &limits(), 2).expect("memory");
        let mut batch = Batch::new();
        batch.push(&[0; 20], 10, &[9, 4], []);
        plan.prepare(&batch);
        let run = |first_row, rows, block, first_slot| Run { first_row, rows, block, first_slot };
        assert_eq!(plan.runs, [run(0, 6, 9, 10), run(6, 14, 4, 0)]);
    }

    #[test]
    #[should_panic(expected = "block 3 is written by two sequences")]
    fn a_block_written_twice_is_refused() {
        let mut plan = Plan::new(&shape(), &limits(), 1).expect("memory");
        let mut batch = Batch::new();
        batch.push(&[1], 0, &[3], []);
        batch.push(&[1], 5, &[3], []);
        plan.prepare(&batch);
    }

    #[test]
    fn absurd_limits_are_an_error() {
        let limits = Limits { context: usize::MAX, sequences: usize::MAX, ..limits() };
        assert!(matches!(Plan::new(&shape(), &limits, 2), Err(Error::Memory { .. })));
        assert_eq!(Plan::bytes(&shape(), &limits, 2), u64::MAX);
    }
}
