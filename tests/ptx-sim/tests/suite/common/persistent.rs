//! The persistent kernels: lists of instructions give the bits of the launches they are made of, on any number of blocks.
//!
//! A list runs twice on equal memories: launch by launch with the separate kernels, and as one cooperative launch. What the
//! separate kernels compute is judged elsewhere; here everything they wrote must be equal. The simulator sees to the rest:
//! that whatever one block wrote and another reads is ordered by the barrier, and that nothing past a weight is fetched.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use ptx_sim::{Arg, Buffer, Launch, Memory, Module};

use super::cases::{Covered, go};
use super::element::{Element, Fields};
use super::weights::{Kind, Weights};
use super::{Rng, parse, ptx};

/// A launch, and what the persistent kernel calls it.
struct Task {
    kernel: &'static str,
    number: u32,
    grid: [u32; 3],
    /// Bytes of dynamic shared memory in the separate kernel, and in the persistent one.
    shared: [usize; 2],
    params: Vec<u8>,
    weights: Option<Tiles>,
}

/// The weights of a linear.
#[derive(Clone, Copy)]
struct Tiles {
    address: u64,
    groups: usize,
    across: usize,
    bytes: usize,
}

/// Launches on a memory, and the buffers that they write.
struct List {
    memory: Memory,
    rng: Rng,
    columns: usize,
    tasks: Vec<Task>,
    written: Vec<Buffer>,
    /// Zero before and after.
    arrivals: Vec<Buffer>,
}

/// `Meeting` of kernels/inputs.cuh.
const MEETING: usize = 5376;
const EPS: f32 = 1e-5;

/// How a linear takes its inputs and gives its outputs, as params.cuh numbers them.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Bf16 = 0,
    Norm = 1,
    SwiGlu = 2,
}

#[derive(Clone, Copy)]
enum To {
    Bf16 = 0,
    F32 = 1,
    Add = 2,
}

impl List {
    fn new(columns: usize) -> Self {
        let (memory, rng) = (Memory::new(), Rng(40));
        List { memory, rng, columns, tasks: Vec::new(), written: Vec::new(), arrivals: Vec::new() }
    }

    fn given(&mut self, count: usize) -> Buffer {
        let values = self.rng.units(count);
        self.memory.upload(&values)
    }

    fn out(&mut self, bytes: usize) -> Buffer {
        let out = self.memory.alloc(bytes);
        self.written.push(out);
        out
    }

    /// A residual, which linears add to.
    fn residual(&mut self, hidden: usize) -> Buffer {
        let residual = self.given(self.columns * hidden);
        self.written.push(residual);
        residual
    }

    fn activations(&mut self, features: usize) -> Buffer {
        self.out(self.columns * features * 2)
    }

    /// Rows `first` and on of `stride` rows of `out`.
    fn linear(
        &mut self,
        kind: Kind,
        (from, input, inputs): (From, Buffer, usize),
        (to, out): (To, Buffer),
        rows: [usize; 3],
    ) {
        let [first, rows, stride] = rows;
        let weights = Weights::random(&mut self.rng, kind, rows, inputs);
        let tiles = self.memory.upload(&weights.tiles());
        let fields = Fields::default().buffers(&[tiles, input]).null();
        let gain = self.given(inputs);
        let fields = if from == From::Norm { fields.buffers(&[gain]) } else { fields.null() };
        let fields = fields.buffers(&[self.given(rows)]);
        let size = if matches!(to, To::Bf16) { 2 } else { 4 };
        let mut params = fields.0;
        params.extend((out.address() + (first * size) as u64).to_le_bytes());
        let fields = Fields(params).words(&[rows, inputs, self.columns, stride, from as usize, to as usize]);
        let staged = from != From::Bf16 || !inputs.is_multiple_of(64);
        let shared = if staged { self.columns * (inputs.next_multiple_of(64) + kind.group()) * 2 } else { 0 };
        let groups = rows.div_ceil(16);
        self.tasks.push(Task {
            kernel: super::gemv::kernel(kind, super::gemv::Source::Bf16),
            number: 16 + form(kind),
            grid: [groups as u32, 1, 1],
            shared: [shared, MEETING + shared],
            params: fields.float(EPS).words(&[0]).0,
            weights: Some(Tiles {
                address: tiles.address(),
                groups,
                across: inputs.div_ceil(kind.tile_inputs()),
                bytes: kind.tile_bytes(),
            }),
        });
    }

    fn push(&mut self, kernel: &'static str, number: u32, grid: [usize; 3], shared: [usize; 2], fields: Fields) {
        let grid = grid.map(|n| n as u32);
        self.tasks.push(Task { kernel, number, grid, shared, params: fields.0, weights: None });
    }

    fn norm(&mut self, out: Buffer, residual: Buffer, features: usize) {
        let gain = self.given(features);
        let fields = Fields::default().buffers(&[out, residual]).null().buffers(&[gain]);
        let fields = fields.words(&[self.columns, features]).float(EPS).words(&[0]);
        self.push("norm_bf16", 0, [self.columns, 1, 1], [0, 32], fields);
    }

    fn swiglu(&mut self, out: Buffer, gate_up: Buffer, ffn: usize) {
        let fields = Fields::default().buffers(&[out, gate_up]).words(&[self.columns, ffn]);
        self.push("swiglu_bf16", 1, [self.columns * ffn.div_ceil(1024), 1, 1], [0, 0], fields);
    }

    /// The rows in opposite order.
    fn take_rows(&mut self, out: Buffer, x: Buffer, features: usize) {
        let index: Vec<u32> = (0..self.columns as u32).rev().collect();
        let fields = Fields::default().buffers(&[out, x, self.memory.upload(&index)]).words(&[self.columns, features]);
        self.push("take_rows_bf16", 2, [self.columns * features.div_ceil(1024), 1, 1], [0, 0], fields);
    }

    /// One layer's attention on a cache of its own: contexts of 130, 5, 70 and 64 positions, one unit a block.
    fn attention(&mut self, kv: Element, out: Buffer, qkv: Buffer, (heads, dim): (usize, usize)) {
        let contexts = &[130usize, 5, 70, 64][..self.columns];
        let blocks: Vec<usize> = contexts.iter().map(|context| context.div_ceil(16)).collect();
        let indptr: Vec<u32> = (0..=self.columns).map(|s| blocks[..s].iter().sum::<usize>() as u32).collect();
        let total = indptr[self.columns] as usize;
        let ids: Vec<u32> = (0..total as u32).rev().collect();
        let slot = |s: usize| ids[indptr[s] as usize + (contexts[s] - 1) / 16] * 16 + (contexts[s] as u32 - 1) % 16;
        let slots: Vec<u32> = (0..self.columns).map(slot).collect();
        let positions: Vec<u32> = contexts.iter().map(|&context| context as u32 - 1).collect();
        let sequences: Vec<u32> = (0..self.columns as u32).collect();
        let rows: Vec<u32> = (0..=self.columns as u32).collect();
        let mut cache = || {
            let values = self.rng.units(total * 16 * dim);
            let cache = self.memory.upload(&kv.encode_all(&values));
            self.written.push(cache);
            cache
        };
        let (k, v) = (cache(), cache());
        let mut fields = Fields::default().buffers(&[out, qkv, k, v, self.given(self.columns * dim)]);
        for words in [&positions, &slots, &sequences, &rows, &indptr, &ids] {
            fields = fields.buffers(&[self.memory.upload(words)]);
        }
        let units = total / 4 + self.columns;
        let arrivals = self.memory.upload(&vec![0u32; self.columns]);
        self.arrivals.push(arrivals);
        let partials = [self.memory.alloc(units * heads * dim * 4), self.memory.alloc(units * heads * 8)];
        let fields = fields.null().buffers(&partials).buffers(&[arrivals]).words(&[heads, 1, dim, dim, dim / 2, 1]);
        let fields = fields.float(1.44 / (dim as f32).sqrt()).words(&[0, 1, 0]);
        let (kernel, number) = attention_kernel(kv, dim);
        self.push(kernel, number, [4, 1, self.columns], [384 * dim + 2576; 2], fields);
    }

    /// Everything written, after the separate kernels.
    fn separately(mut self) -> Result<Vec<Vec<u8>>, String> {
        let mut modules = BTreeMap::new();
        for task in &self.tasks {
            let file = file_of(task.kernel);
            let module = modules.entry(file).or_insert_with(|| parse(&ptx(file)).expect("shipped PTX"));
            let launch = Launch { grid: task.grid, ..Launch::new(1, 256).shared(task.shared[0]) };
            let arg = Arg::Bytes(task.params.clone());
            go(&mut Vec::new(), module, task.kernel, &mut self.memory, launch, &[arg])?;
        }
        self.results()
    }

    /// The same as one cooperative launch of so many blocks.
    fn together(
        mut self,
        covered: &mut Covered,
        module: &Module,
        kernel: &'static str,
        blocks: u32,
    ) -> Result<Vec<Vec<u8>>, String> {
        let list = self.memory.upload(&instructions(&self.tasks, blocks));
        // As an earlier launch may have left it.
        let barrier = self.memory.upload(&[0u32, u32::MAX - 2]);
        let arg = Fields::default().buffers(&[list, barrier]).words(&[self.tasks.len(), 0]).arg();
        let shared = self.tasks.iter().map(|task| task.shared[1]).max().unwrap_or(0);
        let launch = Launch::new(blocks, 256).shared(shared).cooperative();
        go(covered, module, kernel, &mut self.memory, launch, &[arg])?;
        let left = self.memory.read::<u32>(barrier).map_err(|fault| fault.to_string())?;
        let want = [0, (u32::MAX - 2).wrapping_add(self.tasks.len() as u32 - 1)];
        if left != want {
            return Err(format!("the barrier was left at {left:?}, not at {want:?}"));
        }
        self.results()
    }

    fn results(self) -> Result<Vec<Vec<u8>>, String> {
        let read = |buffer: &Buffer| self.memory.read::<u8>(*buffer).map_err(|fault| fault.to_string());
        if self
            .arrivals
            .iter()
            .map(read)
            .any(|counts| counts.is_ok_and(|counts| counts.iter().any(|&count| count != 0)))
        {
            return Err("arrivals do not return to zero".to_owned());
        }
        self.written.iter().map(read).collect()
    }
}

/// `Form` of kernels/persistent.cuh.
fn form(kind: Kind) -> u32 {
    match kind {
        Kind::F32 => 0,
        Kind::F16 => 1,
        Kind::Bf16 => 2,
        Kind::Q8_0 => 3,
        Kind::Q4_0 => 4,
        Kind::Q4_1 => 5,
        Kind::Q4K => 6,
        Kind::Q5K => 7,
        Kind::Q6K => 8,
        Kind::Grouped => 9,
    }
}

fn attention_kernel(kv: Element, dim: usize) -> (&'static str, u32) {
    match (kv, dim) {
        (Element::E4m3, 64) => ("attention_decode_bf16_e4m3_64", 5),
        (Element::E4m3, 128) => ("attention_decode_bf16_e4m3_128", 6),
        (Element::E4m3, _) => ("attention_decode_bf16_e4m3_256", 8),
        (_, 64) => ("attention_decode_bf16_bf16_64", 3),
        (_, 128) => ("attention_decode_bf16_bf16_128", 4),
        (_, _) => ("attention_decode_bf16_bf16_256", 7),
    }
}

/// The file of a kernel.
fn file_of(kernel: &'static str) -> &'static str {
    let stems = ["attention_decode", "norm", "swiglu", "take_rows"];
    let stem = stems.into_iter().find(|stem| kernel.starts_with(stem));
    stem.unwrap_or_else(|| kernel.strip_suffix("_bf16").expect("a gemv"))
}

/// The list as kernels/persistent.cuh has it.
fn instructions(tasks: &[Task], blocks: u32) -> Vec<u8> {
    let mut list = Vec::new();
    for (i, task) in tasks.iter().enumerate() {
        let mut grid = task.grid;
        if task.weights.is_some() {
            grid[0] = grid[0].min(blocks);
        }
        let fetches = task.weights.is_some() || i == 0;
        let ahead = tasks[i + 1..].iter().find_map(|task| task.weights).filter(|_| fetches);
        let fields = Fields::default().words(&[task.number as usize]).words(&grid.map(|n| n as usize));
        let mut bytes = fields.0;
        bytes.extend(ahead.map_or(0, |tiles| tiles.address).to_le_bytes());
        let [groups, across, size] = ahead.map_or([0; 3], |t| [t.groups.min(blocks as usize), t.across, t.bytes]);
        let fields = Fields(bytes).words(&[groups, across, size, tasks.len() - 1 - i, 0, 0]);
        list.extend(fields.0);
        list.extend(&task.params);
        list.resize(208 * (i + 1), 0);
    }
    list
}

/// Two layers of 64 features with everything a step has: linears of several formats, segments, sources and sinks, attention
/// over contexts of up to three units, a gate on its own, and the rows whose logits are wanted.
fn model(columns: usize, kv: Element) -> List {
    let mut list = List::new(columns);
    let (hidden, heads, ffn, vocab) = (64, 2, 96, 40);
    let residual = list.residual(hidden);
    let [x, qkv, attended, gate_up, act] =
        [hidden, 4 * 64, heads * 64, 2 * ffn, ffn].map(|width| list.activations(width));
    list.norm(x, residual, hidden);
    list.linear(Kind::Q4_0, (From::Bf16, x, hidden), (To::Bf16, qkv), [0, 192, 256]);
    list.linear(Kind::F16, (From::Bf16, x, hidden), (To::Bf16, qkv), [192, 64, 256]);
    list.attention(kv, attended, qkv, (heads, 64));
    list.linear(Kind::Bf16, (From::Bf16, attended, heads * 64), (To::Add, residual), [0, hidden, hidden]);
    list.linear(Kind::Q8_0, (From::Norm, residual, hidden), (To::Bf16, gate_up), [0, 2 * ffn, 2 * ffn]);
    list.linear(Kind::Q4_1, (From::SwiGlu, gate_up, ffn), (To::Add, residual), [0, hidden, hidden]);
    list.linear(Kind::F32, (From::Norm, residual, hidden), (To::Bf16, qkv), [0, 256, 256]);
    list.attention(kv, attended, qkv, (heads, 64));
    list.linear(Kind::Grouped, (From::Bf16, attended, heads * 64), (To::Add, residual), [0, hidden, hidden]);
    list.linear(Kind::Q4_0, (From::Norm, residual, hidden), (To::Bf16, gate_up), [0, 2 * ffn, 2 * ffn]);
    list.swiglu(act, gate_up, ffn);
    list.linear(Kind::Bf16, (From::Bf16, act, ffn), (To::Add, residual), [0, hidden, hidden]);
    let (last, logits) = (list.activations(hidden), list.out(4 * columns * vocab));
    list.norm(x, residual, hidden);
    list.take_rows(last, x, hidden);
    list.linear(Kind::F16, (From::Bf16, last, hidden), (To::F32, logits), [0, vocab, vocab]);
    list
}

/// Every format, two by two: what one makes of the residual the other adds to it.
fn formats(columns: usize) -> List {
    let mut list = List::new(columns);
    let residual = list.residual(256);
    for pair in Kind::ALL.chunks(2) {
        let x = list.activations(256);
        list.linear(pair[0], (From::Norm, residual, 256), (To::Bf16, x), [0, 256, 256]);
        list.linear(pair[1], (From::Bf16, x, 256), (To::Add, residual), [0, 256, 256]);
    }
    list
}

/// Attention with large heads between two linears.
fn heads(kv: Element, dim: usize) -> List {
    let mut list = List::new(1);
    let residual = list.residual(256);
    let (qkv, attended) = (list.activations(3 * dim), list.activations(dim));
    list.linear(Kind::Q4K, (From::Norm, residual, 256), (To::Bf16, qkv), [0, 3 * dim, 3 * dim]);
    list.attention(kv, attended, qkv, (1, dim));
    list.linear(Kind::Q8_0, (From::Bf16, attended, dim), (To::Add, residual), [0, 256, 256]);
    list
}

/// Runs a list both ways.
fn agree(
    covered: &mut Covered,
    module: &Module,
    kernel: &'static str,
    list: impl Fn() -> List,
    grids: &[u32],
) -> Result<(), String> {
    agree_with(&list().separately()?, covered, module, kernel, list, grids)
}

/// Runs a list together, and compares with what the separate kernels wrote.
fn agree_with(
    want: &[Vec<u8>],
    covered: &mut Covered,
    module: &Module,
    kernel: &'static str,
    list: impl Fn() -> List,
    grids: &[u32],
) -> Result<(), String> {
    for &blocks in grids {
        let got = list().together(covered, module, kernel, blocks)?;
        if let Some(i) = (0..want.len()).find(|&i| got[i] != want[i]) {
            return Err(format!("{kernel} on {blocks} blocks: buffer {i} differs from that of separate launches"));
        }
    }
    Ok(())
}

pub fn case(module: &Module) -> Result<Covered, String> {
    let mut covered = Vec::new();
    let name = "persistent";
    agree(&mut covered, module, name, || model(4, Element::Bf16), &[3])?;
    agree(&mut covered, module, name, || model(1, Element::E4m3), &[1, 2, 5])?;
    agree(&mut covered, module, name, || formats(2), &[3])?;
    agree(&mut covered, module, name, || heads(Element::Bf16, 128), &[2])?;
    Ok(covered)
}

pub fn wide_case(module: &Module) -> Result<Covered, String> {
    let mut covered = Vec::new();
    for (kv, dim) in [(Element::E4m3, 128), (Element::Bf16, 256), (Element::E4m3, 256)] {
        agree(&mut covered, module, "persistent_wide", || heads(kv, dim), &[2])?;
    }
    Ok(covered)
}

/// The smallest case that every planted bug can show in. The separate kernels, which have none, run once.
pub fn small_case(module: &Module) -> Result<Covered, String> {
    static WANT: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let (mut covered, list) = (Vec::new(), || model(2, Element::Bf16));
    let want = WANT.get_or_init(|| list().separately().expect("shipped PTX"));
    agree_with(want, &mut covered, module, "persistent", list, &[5])?;
    Ok(covered)
}
