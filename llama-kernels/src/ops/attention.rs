//! Causal softmax attention over the paged cache, in partitions of absolute positions merged in order: the two passes of
//! FlashDecoding (Dao et al. 2023) with a split that depends on nothing but the position, so that a token's bits do not
//! depend on how the work was cut.
//!
//! A task is a tile of tokens and one KV head: all query heads that read it, so that K and V are widened once for all of
//! them. A tile walks its partitions and merges as it goes. Where tiles are too few for the team (a lone sequence at
//! depth), a task is one partition of one token instead, and a second region merges the partials in the same order.
//!
//! At depth K and V come from memory, and what a sequence's blocks are scattered over no hardware foresees. So the kernels
//! are told what is read next and ask for it line by line as they go: V of the same partition during its scores, K of the
//! next one during its values.
//!
//! Scores of positions that a row does not see are computed where that fills a vector, and never used: a stale number in
//! a block, infinite or NaN, reaches nothing.

use std::ops::Range;

use llama_core::backend::AttentionShape;
use llama_core::batch::{BLOCK, BlockId};
use llama_core::numerics::PARTITION;

use crate::kernels::{AttentionKernels, BlockKernels, ROWS, Reading, Softmax};
use crate::kv::{Element, Layout, Store, stride};
use crate::plan::{Piece, Plan, Scratch, Tile, tile_rows};
use crate::threads::{Disjoint, Threads};

/// Blocks of a partition.
const BLOCKS: usize = PARTITION / BLOCK;

/// `out [T, heads * head_dim]` of `qkv [T, qkv_cols]` over the cache's `layer`.
pub fn attention<E: Element>(
    kernels: &AttentionKernels,
    threads: &Threads,
    out: &mut [f32],
    qkv: &[f32],
    (layout, store): (&Layout, &Store<E>),
    layer: usize,
    plan: &Plan,
) {
    let (shape, rows) = (&plan.shape, plan.tokens.len());
    assert!(layout.fits(shape) && qkv.len() == rows * shape.qkv_cols(), "attention of {} numbers", qkv.len());
    assert_eq!(out.len(), rows * shape.heads * shape.head_dim, "attention");
    let call = Call {
        kernels,
        blocks: E::kernels(kernels),
        shape,
        qkv,
        layout,
        numbers: store.numbers(),
        layer,
        positions: &plan.positions,
        block_ids: &plan.block_ids,
    };
    let (out, scratch) = (Disjoint::new(out), &mut *plan.scratch.borrow_mut());
    if plan.pieces.is_empty() {
        call.by_tiles(threads, &plan.tiles, &out, scratch);
    } else {
        call.by_pieces(threads, &plan.tiles, &plan.pieces, &out, scratch);
    }
}

/// What every task of one call reads.
struct Call<'a, E> {
    kernels: &'a AttentionKernels,
    blocks: &'a BlockKernels<E>,
    shape: &'a AttentionShape,
    qkv: &'a [f32],
    layout: &'a Layout,
    /// K and V of the cache.
    numbers: [&'a [E]; 2],
    layer: usize,
    positions: &'a [u32],
    block_ids: &'a [BlockId],
}

/// The query rows of one tile and one KV head, token by token, the heads of a token together.
#[derive(Clone, Copy)]
struct Queries {
    tile: Tile,
    kv_head: usize,
}

/// Results of some query rows: weighted sums of values `[rows][stride]` and their statistics `[rows]`.
struct Partial<'a> {
    out: &'a mut [f32],
    stats: &'a mut [Softmax],
}

/// One thread's part of [`Scratch`].
struct Workspace<'a> {
    /// `[rows][PARTITION]`.
    scores: &'a mut [f32],
    part: Partial<'a>,
    all: Partial<'a>,
}

/// [`Scratch`], to be cut by thread.
struct Workspaces<'a> {
    floats: Disjoint<'a, f32>,
    stats: Disjoint<'a, Softmax>,
    rows: usize,
    stride: usize,
}

impl<'a> Workspaces<'a> {
    fn new(floats: &'a mut [f32], stats: &'a mut [Softmax], shape: &AttentionShape) -> Self {
        let (rows, stride) = (tile_rows(shape), stride(shape.head_dim));
        Workspaces { floats: Disjoint::new(floats), stats: Disjoint::new(stats), rows, stride }
    }

    /// # Safety
    /// No other workspace of the same thread is alive.
    unsafe fn of(&self, thread: usize) -> Workspace<'_> {
        let Workspaces { rows, stride, .. } = *self;
        let len = rows * (PARTITION + 2 * stride);
        // SAFETY: parts of different threads do not overlap, and the caller promises that there is one of this thread.
        let (floats, stats) = unsafe {
            (
                self.floats.part(thread * len..(thread + 1) * len),
                self.stats.part(thread * 2 * rows..(thread + 1) * 2 * rows),
            )
        };
        let (scores, sums) = floats.split_at_mut(rows * PARTITION);
        let (part, all) = sums.split_at_mut(rows * stride);
        let (part_stats, all_stats) = stats.split_at_mut(rows);
        Workspace {
            scores,
            part: Partial { out: part, stats: part_stats },
            all: Partial { out: all, stats: all_stats },
        }
    }
}

impl<E: Element> Call<'_, E> {
    /// A task a tile and KV head, the last tiles first: they see the most positions.
    fn by_tiles(&self, threads: &Threads, tiles: &[Tile], out: &Disjoint<'_, f32>, scratch: &mut Scratch) {
        let spaces = Workspaces::new(&mut scratch.threads, &mut scratch.stats, self.shape);
        let kv_heads = self.shape.kv_heads;
        threads.for_each_on(tiles.len() * kv_heads, &|thread, i| {
            let queries = Queries { tile: tiles[tiles.len() - 1 - i / kv_heads], kv_head: i % kv_heads };
            // SAFETY: a thread runs one task at a time.
            let Workspace { scores, mut part, mut all } = unsafe { spaces.of(thread) };
            all.stats.fill(Softmax::default());
            let partitions = self.partitions(queries);
            let mut blocks = self.partition_blocks(queries, partitions.start);
            for partition in partitions.clone() {
                let last = partition + 1 == partitions.end;
                let next = if last { blocks } else { self.partition_blocks(queries, partition + 1) };
                let rows = self.attend(queries, partition, (&blocks, &next), scores, &mut part);
                self.merge(&mut all, &part, rows);
                blocks = next;
            }
            // SAFETY: each tile and KV head is one task, which alone writes these rows of these heads.
            unsafe { self.finish(queries, &all, out) };
        });
    }

    /// A task a partition, token and KV head; then a task a token and KV head that merges.
    fn by_pieces(
        &self,
        threads: &Threads,
        tiles: &[Tile],
        pieces: &[Piece],
        out: &Disjoint<'_, f32>,
        scratch: &mut Scratch,
    ) {
        let (kv_heads, stride) = (self.shape.kv_heads, stride(self.shape.head_dim));
        let group = self.group();
        let spaces = Workspaces::new(&mut scratch.threads, &mut scratch.stats, self.shape);
        let (sums, stats) = (Disjoint::new(&mut scratch.partials), Disjoint::new(&mut scratch.partial_stats));
        // SAFETY: partial `i` is asked for by one task of a region, whatever `i`.
        let partial = |i: usize| unsafe {
            let rows = i * group..(i + 1) * group;
            Partial { out: sums.part(rows.start * stride..rows.end * stride), stats: stats.part(rows) }
        };
        threads.for_each_on(pieces.len() * kv_heads, &|thread, i| {
            let piece = pieces[i / kv_heads];
            let queries = Queries { tile: tiles[piece.tile as usize], kv_head: i % kv_heads };
            // SAFETY: a thread runs one task at a time.
            let space = unsafe { spaces.of(thread) };
            let partition = piece.partition as usize;
            let blocks = self.partition_blocks(queries, partition);
            self.attend(queries, partition, (&blocks, &blocks), space.scores, &mut partial(i));
        });
        threads.for_each_on(tiles.len() * kv_heads, &|thread, i| {
            let (tile, kv_head) = (i / kv_heads, i % kv_heads);
            let queries = Queries { tile: tiles[tile], kv_head };
            // SAFETY: a thread runs one task at a time.
            let mut all = unsafe { spaces.of(thread) }.all;
            all.stats.fill(Softmax::default());
            let first = pieces.partition_point(|piece| (piece.tile as usize) < tile);
            let mine = pieces[first..].iter().take_while(|piece| piece.tile as usize == tile).count();
            for piece in first..first + mine {
                self.merge(&mut all, &partial(piece * kv_heads + kv_head), 0..group);
            }
            // SAFETY: each tile and KV head is one task, which alone writes these rows of these heads.
            unsafe { self.finish(queries, &all, out) };
        });
    }

    /// Query heads of one KV head.
    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    fn rows(&self, queries: Queries) -> usize {
        queries.tile.rows as usize * self.group()
    }

    /// Row of the batch and query head of query row `i`.
    fn query(&self, queries: Queries, i: usize) -> (usize, usize) {
        (queries.tile.first_row as usize + i / self.group(), queries.kv_head * self.group() + i % self.group())
    }

    fn q(&self, queries: Queries, i: usize) -> &[f32] {
        let (row, head) = self.query(queries, i);
        &self.qkv[row * self.shape.qkv_cols() + head * self.shape.head_dim..][..self.shape.head_dim]
    }

    /// Absolute positions that query row `i` sees.
    fn visible(&self, queries: Queries, i: usize) -> Range<usize> {
        let position = self.positions[self.query(queries, i).0] as usize;
        self.shape.first_visible(position)..position + 1
    }

    /// Partitions that any row of the tile sees.
    fn partitions(&self, queries: Queries) -> Range<usize> {
        let last = self.visible(queries, self.rows(queries) - 1);
        self.visible(queries, 0).start / PARTITION..last.end.div_ceil(PARTITION)
    }

    /// Attention of every row that sees some of `partition` over what it sees of it: of its blocks, before those that are
    /// wanted next. Returns those rows.
    fn attend(
        &self,
        queries: Queries,
        partition: usize,
        (blocks, next): (&PartitionBlocks<'_, E>, &PartitionBlocks<'_, E>),
        scores: &mut [f32],
        part: &mut Partial<'_>,
    ) -> Range<usize> {
        let start = partition * PARTITION;
        let within = |i: usize| {
            let visible = self.visible(queries, i);
            visible.start.max(start) - start..visible.end.clamp(start, start + PARTITION) - start
        };
        // Later rows see later positions: those that see nothing here are the first, and under a window the last.
        let mut rows = 0..self.rows(queries);
        rows.start = rows.clone().find(|&i| !within(i).is_empty()).unwrap_or(rows.end);
        rows.end = rows.clone().find(|&i| within(i).is_empty()).unwrap_or(rows.end);
        for first in rows.clone().step_by(ROWS) {
            // Once is enough.
            let ahead = if first == rows.start { (&blocks.v, &next.k) } else { (&blocks.k, &blocks.v) };
            self.attend_rows(queries, first..rows.end.min(first + ROWS), &within, (blocks, ahead), scores, part);
        }
        rows
    }

    /// K and V of the blocks that hold what the tile sees of a partition. The first of them stands in for blocks that
    /// nobody reads.
    fn partition_blocks(&self, queries: Queries, partition: usize) -> PartitionBlocks<'_, E> {
        let start = partition * PARTITION;
        let (first, last) = (self.visible(queries, 0).start, self.visible(queries, self.rows(queries) - 1).end);
        let touched = (first.max(start) - start) / BLOCK..(last.min(start + PARTITION) - start).div_ceil(BLOCK);
        let ([k, v], k_len, v_len) = (self.numbers, self.layout.k_len::<E>(), self.layout.v_len::<E>());
        let block = |b: usize| {
            let id = self.block_ids[queries.tile.table as usize + partition * BLOCKS + b];
            let head = self.layout.index(self.layer, queries.kv_head, id);
            (&k[head * k_len..][..k_len], &v[head * v_len..][..v_len])
        };
        let (k, v) = block(touched.start);
        let mut blocks = PartitionBlocks { k: [k; BLOCKS], v: [v; BLOCKS] };
        for b in touched {
            (blocks.k[b], blocks.v[b]) = block(b);
        }
        blocks
    }

    /// Scores, softmax and weighted sums of up to [`ROWS`] query rows, and which blocks to ask for during scores and values.
    fn attend_rows(
        &self,
        queries: Queries,
        rows: Range<usize>,
        within: &dyn Fn(usize) -> Range<usize>,
        (blocks, ahead): (&PartitionBlocks<'_, E>, (&Blocks<'_, E>, &Blocks<'_, E>)),
        scores: &mut [f32],
        part: &mut Partial<'_>,
    ) {
        let (first, count, stride) = (rows.start, rows.len(), stride(self.shape.head_dim));
        let visible: [Range<usize>; ROWS] = std::array::from_fn(|r| within(first + r.min(count - 1)));
        let q: [&[f32]; ROWS] = std::array::from_fn(|r| self.q(queries, first + r.min(count - 1)));
        let touched = visible[0].start / BLOCK..visible[ROWS - 1].end.div_ceil(BLOCK);
        let scores = &mut scores[first * PARTITION..][..count * PARTITION];
        let k = Reading { now: &blocks.k[touched.clone()], ahead: &ahead.0[touched.clone()] };
        self.blocks.scores(&q[..count], k, self.shape.scale, &mut scores[touched.start * BLOCK..]);
        for (r, scores) in scores.chunks_exact_mut(PARTITION).enumerate() {
            part.stats[first + r] = self.kernels.softmax(scores, visible[r].clone());
        }

        let p: [&[f32]; ROWS] = std::array::from_fn(|r| &scores[r.min(count - 1) * PARTITION..][..PARTITION]);
        let out = &mut part.out[first * stride..][..count * stride];
        let v = Reading { now: &blocks.v[..touched.end], ahead: &ahead.1[..touched.end] };
        out.fill(0.0);
        self.weigh(&p[..count], v, &visible[..count], out);
    }

    /// The positions that all rows see are one register tile's work; those before and after are each row's own. Either
    /// way a sum is one chain in the order of positions.
    fn weigh(&self, p: &[&[f32]], v: Reading<'_, E>, visible: &[Range<usize>], out: &mut [f32]) {
        let stride = out.len() / p.len();
        let common = visible[p.len() - 1].start..visible[0].end.max(visible[p.len() - 1].start);
        let alone = |edge: &dyn Fn(&Range<usize>) -> Range<usize>, out: &mut [f32]| {
            let v = Reading { ahead: v.now, ..v };
            for ((p, visible), out) in p.iter().zip(visible).zip(out.chunks_exact_mut(stride)) {
                self.blocks.values(&[p], v, edge(visible), out);
            }
        };
        alone(&|visible| visible.start..visible.end.min(common.start), out);
        self.blocks.values(p, v, common.clone(), out);
        alone(&|visible| visible.start.max(common.end)..visible.end, out);
    }

    /// Merges a partition's results of `rows` into `all`, where statistics of zero mean that there are none yet.
    fn merge(&self, all: &mut Partial<'_>, part: &Partial<'_>, rows: Range<usize>) {
        let stride = stride(self.shape.head_dim);
        for i in rows {
            let (acc, out) = (&mut all.out[i * stride..][..stride], &part.out[i * stride..][..stride]);
            if all.stats[i].sum == 0.0 {
                all.stats[i] = part.stats[i];
                acc.copy_from_slice(out);
            } else {
                self.kernels.merge(&mut all.stats[i], acc, part.stats[i], out);
            }
        }
    }

    /// Divides by the sums and writes the rows of the batch.
    ///
    /// # Safety
    /// No other task writes these rows of these heads.
    unsafe fn finish(&self, queries: Queries, all: &Partial<'_>, out: &Disjoint<'_, f32>) {
        let (dim, stride) = (self.shape.head_dim, stride(self.shape.head_dim));
        for i in 0..self.rows(queries) {
            let (row, head) = self.query(queries, i);
            let start = (row * self.shape.heads + head) * dim;
            // SAFETY: the caller's promise.
            let out = unsafe { out.part(start..start + dim) };
            let inverse = 1.0 / all.stats[i].sum;
            out.iter_mut().zip(&all.out[i * stride..]).for_each(|(out, &o)| *out = o * inverse);
        }
    }
}

/// Blocks of a partition.
type Blocks<'a, E> = [&'a [E]; BLOCKS];

/// K and V of one KV head, block by block of a partition.
#[derive(Clone, Copy)]
struct PartitionBlocks<'a, E> {
    k: Blocks<'a, E>,
    v: Blocks<'a, E>,
}
