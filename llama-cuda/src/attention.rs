//! Which attention kernels run a step, and on what: the schedule that a batch gets, and its launches.
//!
//! Where every sequence has one row (decode), a context is split over blocks in runs of units, and the kernel turns and
//! stores by itself. Otherwise rows are put into tiles (prefill). Which of the two it is, and how long runs are, is not seen
//! in the bits: both fold the same units of 64 positions in the same order.

use llama_core::Result;
use llama_core::backend::{AttentionShape, Limits, RopeLayout};
use llama_core::batch::{BLOCK, Batch};

use crate::arena::padded;
use crate::device::Span;
use crate::kernels::Kernels;
use crate::kv::{KvNumber, Layout};
use crate::launch::Launch;
use crate::params::{Address, Attention, Heads, Rope};
use crate::tensor::{Matrix, Number};

/// Positions of a unit of the fold.
const UNIT: usize = 64;
/// Rows of a matrix instruction's tile: heads of a group, or queries and heads.
const TILE_ROWS: usize = 16;
/// Heads of a block of the plain kernel.
const F32_HEADS: u32 = 8;

/// Everything that the kernels of one layer's attention are passed, but for the tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Attend {
    pub k: Address,
    pub v: Address,
    pub angles: Address,
    pub positions: Address,
    pub slots: Address,
    pub sequence_of: Address,
    pub q_indptr: Address,
    pub kv_indptr: Address,
    pub block_ids: Address,
    pub tiles: Address,
    pub workspace: [Address; 3],
    pub heads: Heads,
    pub number: KvNumber,
    pub scale: f32,
    pub window: u32,
    /// Words from the slots to what each row's q is multiplied by; 0 where that is 1.
    pub factors: u32,
    pub schedule: Schedule,
}

impl Attend {
    /// Whether there is a kernel that turns, stores and attends at once.
    pub fn is_fused(&self, qkv: Number) -> bool {
        qkv == Number::Bf16 && self.number != KvNumber::F32
    }
}

/// How a batch's attention is cut up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Schedule {
    /// Every sequence has one row.
    pub one_row_each: bool,
    /// Decode: units of a run.
    pub run: u32,
    /// Decode: runs of the longest context, rounded up to a power of two, so that a context may grow for a while before
    /// its launches are others.
    pub runs: u32,
    /// Prefill: tiles of rows.
    pub tiles: u32,
}

/// What split contexts leave between their parts: partials, statistics, arrivals.
pub(crate) struct Workspace {
    spans: [Span; 3],
    units: usize,
}

impl Workspace {
    fn sizes(shape: &AttentionShape, limits: &Limits) -> ([u64; 3], usize) {
        // A batch that shares blocks may list more than the pool has: its contexts are not split.
        let positions = (limits.sequences * limits.context.div_ceil(UNIT)).min(limits.blocks.div_ceil(UNIT / BLOCK));
        let units = positions + limits.sequences;
        let padded = Layout::new(shape, limits).padded;
        let rows = (units * shape.heads) as u64;
        let arrivals = (limits.tokens.min(limits.sequences) * shape.kv_heads * head_tiles(shape)) as u64;
        ([4 * padded as u64 * rows, 8 * rows, 4 * arrivals], units)
    }

    pub fn bytes(shape: &AttentionShape, limits: &Limits) -> u64 {
        Self::sizes(shape, limits).0.into_iter().map(padded).sum()
    }

    pub fn new(
        shape: &AttentionShape,
        limits: &Limits,
        take: &mut dyn FnMut(&'static str, u64) -> Result<Span>,
    ) -> Result<Self> {
        let (sizes, units) = Self::sizes(shape, limits);
        let [partials, stats, arrivals] = sizes.map(|bytes| take("parts of attention", bytes));
        Ok(Workspace { spans: [partials?, stats?, arrivals?], units })
    }

    /// Units of a batch whose contexts can be split.
    pub fn units(&self) -> usize {
        self.units
    }

    pub fn addresses(&self) -> [Address; 3] {
        self.spans.each_ref().map(Span::address)
    }
}

/// Tiles of heads of one kv head.
fn head_tiles(shape: &AttentionShape) -> usize {
    (shape.heads / shape.kv_heads).div_ceil(TILE_ROWS)
}

/// Tiles of the batch with most of them.
pub(crate) fn most_tiles(shape: &AttentionShape, tokens: usize, sequences: usize) -> usize {
    let group = shape.heads / shape.kv_heads;
    (tokens * group).div_ceil(prefill_rows(shape.head_dim)) + sequences.min(tokens)
}

/// Rows of a block of prefill: a row is a query and a head of the kv head's group.
fn prefill_rows(head_dim: usize) -> usize {
    if head_dim > 128 { 64 } else { 128 }
}

/// Cuts a batch up; writes the tiles of prefill, those that see most first.
pub(crate) fn schedule(
    shape: &AttentionShape,
    batch: &Batch,
    units_that_fit: usize,
    multiprocessors: u32,
    tiles: &mut [[u32; 2]],
) -> Schedule {
    let sequences = batch.sequences();
    let mut count = 0;
    for s in 0..sequences {
        let rows = batch.rows_of(s).len() * (shape.heads / shape.kv_heads);
        for first in (0..rows).step_by(prefill_rows(shape.head_dim)) {
            tiles[count] = [s as u32, first as u32];
            count += 1;
        }
    }
    let group = (shape.heads / shape.kv_heads) as u32;
    let sees = |&[s, first]: &[u32; 2]| batch.positions[(batch.q_indptr[s as usize] + first / group) as usize];
    tiles[..count].sort_unstable_by_key(|tile| std::cmp::Reverse((sees(tile), *tile)));
    let one_row_each = (0..sequences).all(|s| batch.rows_of(s).len() == 1);
    let longest = batch.positions.iter().map(|&p| units(shape, p as usize)).max().unwrap_or(0);
    let fits = batch.block_ids.len() / (UNIT / BLOCK) + sequences <= units_that_fit;
    let others = (batch.rows() * shape.kv_heads * head_tiles(shape)) as u32;
    let run = if fits { run_length(longest, others, multiprocessors) } else { longest.next_power_of_two() };
    Schedule {
        one_row_each,
        run: run as u32,
        runs: longest.div_ceil(run.max(1)).next_power_of_two() as u32,
        tiles: count as u32,
    }
}

/// Units that a query at `position` sees parts of.
fn units(shape: &AttentionShape, position: usize) -> usize {
    position / UNIT - shape.first_visible(position) / UNIT + 1
}

/// Units of a run, so that all blocks together are about two a multiprocessor; a power of two, at most 16.
fn run_length(longest: usize, others: u32, multiprocessors: u32) -> usize {
    let wanted = (2 * multiprocessors).div_ceil(others.max(1)) as usize;
    let run = longest.div_ceil(wanted.max(1)).next_power_of_two().min(16);
    if wanted <= 1 { longest.next_power_of_two() } else { run }
}

/// How heads lie in rows and in the cache, and what of them turns in `layer`.
pub(crate) fn heads(shape: &AttentionShape, layout: &Layout, layer: usize) -> Heads {
    Heads {
        heads: shape.heads as u32,
        kv_heads: shape.kv_heads as u32,
        head_dim: shape.head_dim as u32,
        padded: layout.padded as u32,
        half: if shape.turns(layer) { shape.inv_freq.len() as u32 } else { 0 },
        interleaved: u32::from(shape.layout == RopeLayout::Interleaved),
    }
}

/// The launch that turns q and k and stores k and v.
pub(crate) fn rope(kernels: &Kernels, qkv: Matrix, attend: &Attend) -> Result<Launch> {
    let name = rope_name(qkv.number, attend.number);
    let params = Rope {
        qkv: qkv.address,
        k: attend.k,
        v: attend.v,
        angles: attend.angles,
        slots: attend.slots,
        shape: attend.heads,
        tokens: qkv.rows,
        factors: attend.factors,
    };
    Ok(Launch::new(kernels.get(name)?, name, [qkv.rows, 1, 1], &params))
}

/// Appends the launch of attention; with `turn`, of q and k as they came from the linear.
pub(crate) fn lower(
    kernels: &Kernels,
    out: Matrix,
    qkv: Matrix,
    attend: &Attend,
    turn: bool,
    launches: &mut Vec<Launch>,
) -> Result<()> {
    let [partials, stats, arrivals] = attend.workspace;
    let params = Attention {
        out: out.address,
        qkv: qkv.address,
        k: attend.k,
        v: attend.v,
        angles: attend.angles,
        positions: attend.positions,
        slots: attend.slots,
        sequence_of: attend.sequence_of,
        q_indptr: attend.q_indptr,
        kv_indptr: attend.kv_indptr,
        block_ids: attend.block_ids,
        tiles: attend.tiles,
        partials,
        stats,
        arrivals,
        shape: attend.heads,
        scale: attend.scale,
        window: attend.window,
        run: if turn { attend.schedule.run } else { 0 },
        factors: attend.factors,
    };
    let (name, grid, shared) = geometry(out, attend, turn);
    launches.push(Launch::new(kernels.get(name)?, name, grid, &params).shared(shared));
    Ok(())
}

/// The kernel, its grid and its shared memory.
fn geometry(out: Matrix, attend: &Attend, turn: bool) -> (&'static str, [u32; 3], u32) {
    let Heads { heads, kv_heads, padded, .. } = attend.heads;
    let schedule = attend.schedule;
    if out.number == Number::F32 || attend.number == KvNumber::F32 {
        return (f32_name(out.number, attend.number), [out.rows, heads.div_ceil(F32_HEADS), 1], 0);
    }
    if turn {
        let tiles = (heads / kv_heads).div_ceil(TILE_ROWS as u32);
        let grid = [schedule.runs, kv_heads * tiles, out.rows];
        return (decode_name(attend.number, padded), grid, 384 * padded + 2576);
    }
    (prefill_name(attend.number, padded), [schedule.tiles, kv_heads, 1], 384 * padded)
}

fn rope_name(qkv: Number, kv: KvNumber) -> &'static str {
    match (qkv, kv) {
        (Number::Bf16, KvNumber::Bf16) => "rope_kv_bf16_bf16",
        (Number::Bf16, KvNumber::E4m3) => "rope_kv_bf16_e4m3",
        (Number::Bf16, KvNumber::F32) => "rope_kv_bf16_f32",
        (Number::F32, KvNumber::Bf16) => "rope_kv_f32_bf16",
        (Number::F32, KvNumber::E4m3) => "rope_kv_f32_e4m3",
        (Number::F32, KvNumber::F32) => "rope_kv_f32_f32",
    }
}

fn decode_name(kv: KvNumber, padded: u32) -> &'static str {
    match (kv, padded) {
        (KvNumber::E4m3, 64) => "attention_decode_bf16_e4m3_64",
        (KvNumber::E4m3, 128) => "attention_decode_bf16_e4m3_128",
        (KvNumber::E4m3, _) => "attention_decode_bf16_e4m3_256",
        (_, 64) => "attention_decode_bf16_bf16_64",
        (_, 128) => "attention_decode_bf16_bf16_128",
        (_, _) => "attention_decode_bf16_bf16_256",
    }
}

fn prefill_name(kv: KvNumber, padded: u32) -> &'static str {
    match (kv, padded) {
        (KvNumber::E4m3, 64) => "attention_prefill_bf16_e4m3_64",
        (KvNumber::E4m3, 128) => "attention_prefill_bf16_e4m3_128",
        (KvNumber::E4m3, _) => "attention_prefill_bf16_e4m3_256",
        (_, 64) => "attention_prefill_bf16_bf16_64",
        (_, 128) => "attention_prefill_bf16_bf16_128",
        (_, _) => "attention_prefill_bf16_bf16_256",
    }
}

fn f32_name(act: Number, kv: KvNumber) -> &'static str {
    match (act, kv) {
        (Number::Bf16, KvNumber::Bf16) => "attention_f32_bf16_bf16",
        (Number::Bf16, KvNumber::E4m3) => "attention_f32_bf16_e4m3",
        (Number::Bf16, KvNumber::F32) => "attention_f32_bf16_f32",
        (Number::F32, KvNumber::Bf16) => "attention_f32_f32_bf16",
        (Number::F32, KvNumber::E4m3) => "attention_f32_f32_e4m3",
        (Number::F32, KvNumber::F32) => "attention_f32_f32_f32",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schedule of sequences with so many rows each, after so many positions.
    fn cut(sequences: &[(usize, usize)], multiprocessors: u32) -> (Schedule, Vec<[u32; 2]>) {
        let (heads, kv_heads) = (32, 8);
        let shape = AttentionShape {
            layers: 1,
            heads,
            kv_heads,
            head_dim: 128,
            inv_freq: Vec::new(),
            rope_scale: 1.0,
            layout: RopeLayout::Halves,
            unturned: Vec::new(),
            scale: 1.0,
            window: None,
            temperature: None,
        };
        let mut batch = Batch::new();
        for &(rows, position) in sequences {
            let blocks: Vec<u32> = (0..(position + rows).div_ceil(BLOCK) as u32).collect();
            batch.push(&vec![0; rows], position as u32, &blocks, []);
        }
        let mut tiles = vec![[u32::MAX; 2]; most_tiles(&shape, batch.rows(), sequences.len())];
        let schedule = schedule(&shape, &batch, 1 << 20, multiprocessors, &mut tiles);
        tiles.truncate(schedule.tiles as usize);
        (schedule, tiles)
    }

    #[test]
    fn one_row_each_is_of_every_sequence() {
        assert!(cut(&[(1, 9), (1, 70)], 132).0.one_row_each);
        assert!(!cut(&[(0, 9), (2, 70)], 132).0.one_row_each, "as many rows as sequences");
    }

    #[test]
    fn runs_cover_the_longest_context() {
        for position in [0, 63, 64, 1000, 131_071] {
            for sequences in [1, 5, 200] {
                let (schedule, _) = cut(&vec![(1, position); sequences], 132);
                let units = position / UNIT + 1;
                assert!((schedule.run * schedule.runs) as usize >= units, "{schedule:?} of {units} units");
                assert!(schedule.run.is_power_of_two() && schedule.runs.is_power_of_two(), "{schedule:?}");
            }
        }
    }

    #[test]
    fn tiles_hold_every_row_once_and_the_longest_come_first() {
        let (schedule, tiles) = cut(&[(3, 0), (100, 500), (0, 0), (1, 7)], 132);
        assert_eq!(schedule.tiles as usize, tiles.len());
        assert_eq!(tiles, [[1, 384], [1, 256], [1, 128], [1, 0], [3, 0], [0, 0]]);
    }
}
