//! From operations to launches: kernel, grid, shared memory and parameters of each.

use bytemuck::Zeroable;
use llama_core::Result;

use crate::adapter::Group;
use crate::attention;
use crate::device::Abilities;
use crate::fuse::{Input, Op};
use crate::gemm;
use crate::kernels::Kernels;
use crate::launch::{Launch, THREADS};
use crate::params::{Adapt, Add, Address, Embed, HeadNorm, Linear, Norm, SwiGlu, TakeRows, sink, source};
use crate::tensor::{Matrix, Number};
use crate::tiles::{TILE_ROWS, Tiles};
use crate::verb::{Gain, HeadNorms, RowTiles, Segments};
use crate::weight::Segment;
use crate::wgmma;

/// Most columns that a gemv takes at once.
pub(crate) const GEMV_COLUMNS: u32 = 8;
/// Most groups of so many columns that a gemv takes, each reading the weights again, mostly from L2: on an H100 what a matrix
/// product takes for 16 columns is three to five times what a gemv takes for 8.
const GEMV_GROUPS: u32 = 3;
/// Blocks of a gemv on one multiprocessor at once: more would only repeat the fetching of its inputs.
const GEMV_BLOCKS: u32 = 4;

/// Bytes of shared memory that a gemv has beside its inputs: more than `ptx/budgets.txt` says of any.
const GEMV_SHARED: u32 = 6 << 10;

/// Threads of a block of `kernels/adapt.cu`, each with an output of its own in the second of its launches.
const ADAPT_THREADS: u32 = 128;
/// Heads that a block of `kernels/head_norm.cu` norms.
const HEADS_OF_A_BLOCK: u32 = 8;
/// Ranks of a block in the first, where tiles are wide.
const WIDE_RANKS: u32 = 4;

/// What launches are made for.
pub(crate) struct Lower<'a> {
    pub kernels: &'a Kernels,
    pub abilities: Abilities,
    /// Where activations are packed for `wgmma`, and the bytes there; nowhere: `mma.sync` multiplies all matrices.
    pub packed: Option<(Address, u64)>,
}

impl Lower<'_> {
    /// Appends the launches of `op`.
    pub fn op(&self, op: &Op, launches: &mut Vec<Launch>) -> Result<()> {
        match op {
            Op::Embed { out, table, scale, tokens } => launches.push(self.embed(*out, table, *scale, *tokens)?),
            Op::Linear { out, input, weight, add } => return self.linear(*out, *input, weight, *add, launches),
            Op::Norm { out, residual, x, norm } => launches.push(self.norm(*out, *residual, *x, *norm)?),
            Op::Add { acc, x } => launches.push(self.add(*acc, *x)?),
            Op::NormHeads { qkv, norms } => launches.push(self.norm_heads(*qkv, *norms)?),
            Op::Rope { qkv, attend } => launches.push(attention::rope(self.kernels, *qkv, attend)?),
            Op::Attention { out, qkv, attend, turn } => {
                return attention::lower(self.kernels, *out, *qkv, attend, *turn, launches);
            }
            Op::Swiglu { out, gate_up } => launches.push(self.swiglu(*out, *gate_up)?),
            Op::Take { out, x, index } => launches.push(self.take(*out, *x, *index)?),
            Op::Adapt { out, low, x, group, rows } => launches.extend(self.adapt(*out, *low, *x, group, *rows)?),
        }
        Ok(())
    }

    fn launch<P: bytemuck::Pod>(&self, name: &'static str, grid: [u32; 3], params: &P) -> Result<Launch> {
        Ok(Launch::new(self.kernels.get(name)?, name, grid, params))
    }

    fn embed(&self, out: Matrix, table: &Segments, scale: f32, tokens: u64) -> Result<Launch> {
        let [segment] = &table.0[..] else { panic!("an embedding of {} segments", table.0.len()) };
        let (table, hidden, count) = (segment.tiles.address(), out.cols, out.rows);
        let params = Embed { table, tokens, out: out.address, hidden, count, scale, unused: 0 };
        self.launch(segment.form.names().embed, [out.rows, 1, 1], &params)
    }

    fn linear(
        &self,
        out: Matrix,
        input: Input,
        weight: &Segments,
        add: bool,
        launches: &mut Vec<Launch>,
    ) -> Result<()> {
        if let Some(packed) = self.room_for(out.rows, input) {
            let params = |segment: &Segment| linear_params(out, input, segment, add);
            return wgmma::lower(self.kernels, self.abilities.multiprocessors, packed, &weight.0, params, launches);
        }
        for segment in &weight.0[..] {
            let params = linear_params(out, input, segment, add);
            launches.push(self.segment(segment, input, &params)?);
        }
        Ok(())
    }

    /// Where the input of a linear is packed for `wgmma`, if that takes it and there is room.
    fn room_for(&self, columns: u32, input: Input) -> Option<Address> {
        let Input::Plain(x @ Matrix { number: Number::Bf16, .. }) = input else { return None };
        let (packed, room) = self.packed.filter(|_| columns >= wgmma::LEAST_COLUMNS)?;
        (wgmma::packed_bytes(columns as usize, x.cols as usize) <= room).then_some(packed)
    }

    fn segment(&self, segment: &Segment, input: Input, p: &Linear) -> Result<Launch> {
        let names = segment.form.names();
        let groups = p.columns.div_ceil(GEMV_COLUMNS);
        let row_groups = segment.rows.div_ceil(TILE_ROWS) as u32;
        if p.source == source::F32 {
            return self.launch(names.gemv_f32, [row_groups, groups, 1], p);
        }
        if groups > self.most_groups(segment.form, p.rows) {
            return self.gemm(segment, p);
        }
        let blocks = row_groups.min(self.abilities.multiprocessors * GEMV_BLOCKS);
        let gap = segment.form.group() as u32;
        let staged = match input {
            Input::Plain(_) if p.inputs.is_multiple_of(64) => 0,
            _ => p.columns.min(GEMV_COLUMNS) * (p.inputs.next_multiple_of(64) + gap) * 2,
        };
        if staged + GEMV_SHARED > self.abilities.shared {
            // A plain input of so many odd features: gemm reads it as it lies, and gives the same bits.
            return self.gemm(segment, p);
        }
        Ok(self.launch(names.gemv, [blocks, groups, 1], p)?.shared(staged))
    }

    /// Groups of columns up to which a gemv is faster than a matrix product, whose blocks have more rows and so may leave
    /// multiprocessors idle, and which scales the sums of columns that are not there. Their bits are the same.
    fn most_groups(&self, form: Tiles, rows: u32) -> u32 {
        let idle = rows.div_ceil(gemm::NARROW.rows) < self.abilities.multiprocessors;
        if idle || form.is_scaled() { GEMV_GROUPS } else { 1 }
    }

    fn gemm(&self, segment: &Segment, p: &Linear) -> Result<Launch> {
        let (form, names) = (segment.form, segment.form.names());
        let shape = gemm::shape(p.rows, p.columns, self.abilities.multiprocessors);
        let name = if shape == gemm::WIDE { names.gemm } else { names.gemm_narrow };
        Ok(self.launch(name, [shape.blocks(p.rows, p.columns), 1, 1], p)?.shared(shape.shared(form)))
    }

    fn norm(&self, out: Matrix, residual: Matrix, x: Option<Matrix>, norm: Gain) -> Result<Launch> {
        assert_eq!(residual.number, Number::F32, "norm");
        let name = by_number(out.number, "norm_bf16", "norm_f32");
        let params = Norm {
            out: out.address,
            residual: residual.address,
            x: x.map_or(0, |x| x.address),
            gain: norm.gain,
            rows: residual.rows,
            features: residual.cols,
            eps: norm.eps,
            unused: 0,
        };
        self.launch(name, [residual.rows, 1, 1], &params)
    }

    fn add(&self, acc: Matrix, x: Matrix) -> Result<Launch> {
        assert_eq!(acc.number, Number::F32, "add");
        let count = acc.rows * acc.cols;
        let params = Add { acc: acc.address, x: x.address, count, unused: 0 };
        self.launch(by_number(x.number, "add_bf16", "add_f32"), [count.div_ceil(4 * THREADS), 1, 1], &params)
    }

    fn norm_heads(&self, qkv: Matrix, norms: HeadNorms) -> Result<Launch> {
        let HeadNorms { gains: [q_gain, k_gain], eps, heads, kv_heads, head_dim } = norms;
        let params = HeadNorm { qkv: qkv.address, q_gain, k_gain, heads, kv_heads, head_dim, eps };
        let grid = [qkv.rows, (heads + kv_heads).div_ceil(HEADS_OF_A_BLOCK), 1];
        self.launch(by_number(qkv.number, "head_norm_bf16", "head_norm_f32"), grid, &params)
    }

    fn swiglu(&self, out: Matrix, gate_up: Matrix) -> Result<Launch> {
        let params = SwiGlu { out: out.address, gate_up: gate_up.address, rows: out.rows, ffn: out.cols };
        let grid = [out.rows * out.cols.div_ceil(4 * THREADS), 1, 1];
        self.launch(by_number(out.number, "swiglu_bf16", "swiglu_f32"), grid, &params)
    }

    fn take(&self, out: Matrix, x: Matrix, index: u64) -> Result<Launch> {
        let name = by_number(out.number, "take_rows_bf16", "take_rows_f32");
        let params = TakeRows { out: out.address, x: x.address, index, rows: out.rows, features: out.cols };
        self.launch(name, [out.rows * out.cols.div_ceil(4 * THREADS), 1, 1], &params)
    }

    /// Two launches, one after the other: a row's `low`, then what is added.
    fn adapt(&self, out: Matrix, low: Matrix, x: Matrix, group: &Group, rows: RowTiles) -> Result<[Launch; 2]> {
        let (ranks, shrink, expand) = match rows.wide {
            false => (
                1,
                by_number(x.number, "adapt_shrink_bf16", "adapt_shrink_f32"),
                by_number(out.number, "adapt_expand_bf16", "adapt_expand_f32"),
            ),
            true => (
                WIDE_RANKS,
                by_number(x.number, "adapt_shrink_wide_bf16", "adapt_shrink_wide_f32"),
                by_number(out.number, "adapt_expand_wide_bf16", "adapt_expand_wide_f32"),
            ),
        };
        let params = Adapt {
            out: out.address,
            x: x.address,
            low: low.address,
            tiles: rows.address,
            adapters: group.heads,
            first: group.first,
            outputs: out.cols,
            inputs: x.cols,
            room: low.cols,
        };
        let launch = |name, blocks| Ok(self.launch(name, [blocks, rows.count, 1], &params)?.threads(ADAPT_THREADS));
        Ok([launch(shrink, group.ranks.div_ceil(ranks))?, launch(expand, out.cols.div_ceil(ADAPT_THREADS))?])
    }
}

fn linear_params(out: Matrix, input: Input, segment: &Segment, add: bool) -> Linear {
    let (x, source, norm) = match input {
        Input::Plain(x) => (x, if x.number == Number::F32 { source::F32 } else { source::BF16 }, None),
        Input::Norm(residual, norm) => (residual, source::NORM, Some(norm)),
        Input::Swiglu(gate_up) => (gate_up, source::SWIGLU, None),
    };
    let sink = match (add, out.number) {
        (true, _) => sink::ADD,
        (false, Number::F32) => sink::F32,
        (false, Number::Bf16) => sink::BF16,
    };
    Linear {
        weights: segment.tiles.address(),
        input: x.address,
        gain: norm.map_or(0, |norm| norm.gain),
        bias: segment.bias.as_ref().map_or(0, |bias| bias.address()),
        out: out.address + (segment.first * out.number.bytes()) as u64,
        rows: segment.rows as u32,
        inputs: if source == source::SWIGLU { x.cols / 2 } else { x.cols },
        columns: out.rows,
        stride: out.cols,
        source,
        sink,
        eps: norm.map_or(0.0, |norm| norm.eps),
        ..Linear::zeroed()
    }
}

pub(crate) fn by_number(number: Number, bf16: &'static str, f32: &'static str) -> &'static str {
    match number {
        Number::Bf16 => bf16,
        Number::F32 => f32,
    }
}
