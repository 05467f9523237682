//! A step of few rows as one launch: its launches written down in the device's memory, for a kernel that stays and performs
//! them one after the other (`kernels/persistent.cuh`).
//!
//! A [`Program`] is made of the very launches that would go out one by one: kind, grid and parameters of each become an
//! instruction, and the weights of the linear after it what is fetched ahead. Lists are kept like graphs, under the same key
//! (`replay`), in slots of memory that the plan counts. A launch that has no kind (the embedding) may come first; it is sent
//! by itself, ahead of the rest.

use bytemuck::{Pod, Zeroable};
use llama_core::Result;

use crate::arena::padded;
use crate::device::{Device, Span};
use crate::kernels::Kernels;
use crate::launch::{Launch, THREADS};
use crate::params::{Address, Linear, SwiGlu, TakeRows};
use crate::tiles::{TILE_ROWS, Tiles};

/// Most rows of a step that is performed so.
const MOST_ROWS: u32 = 4;
/// Lists kept at most.
const SLOTS: usize = 16;
/// Blocks on a multiprocessor at most: two keep its memory busy, and each more would lengthen every barrier.
const BLOCKS: u32 = 2;
/// Bytes of `Meeting` in `kernels/inputs.cuh`, which a linear has in its dynamic shared memory here.
const MEETING: u32 = 5376;
/// Bytes of the norm's sums over warps.
const SUMS: u32 = 32;
/// Bytes of the largest parameter.
const PARAMS: usize = 160;
/// Bytes before the first list: the barrier's two words.
const BARRIER: u64 = 256;

/// `Instruction` of `kernels/persistent.cuh`.
#[repr(C, align(16))]
#[derive(Debug, Clone, Copy, PartialEq, Zeroable, Pod)]
struct Instruction {
    kind: u32,
    grid: [u32; 3],
    ahead: Address,
    ahead_groups: u32,
    ahead_tiles: u32,
    ahead_bytes: u32,
    left: u32,
    unused: [u32; 2],
    params: [u64; PARAMS / 8],
}

/// `Program` of `kernels/persistent.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Zeroable, Pod)]
struct List {
    list: Address,
    barrier: Address,
    count: u32,
    unused: u32,
}

/// What a launch is to the persistent kernel: `Kind` of `kernels/persistent.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Norm,
    Swiglu,
    TakeRows,
    Attention(Heads),
    Linear(Tiles),
}

/// Caches and padded head sizes, in the order of the numbers; those from `E4m3Of128` on are in the wide kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Heads {
    Bf16Of64,
    Bf16Of128,
    E4m3Of64,
    E4m3Of128,
    Bf16Of256,
    E4m3Of256,
}

impl Kind {
    /// The kind of a kernel, if it has one.
    fn of(name: &str) -> Option<Kind> {
        match name {
            "norm_bf16" => Some(Kind::Norm),
            "swiglu_bf16" => Some(Kind::Swiglu),
            "take_rows_bf16" => Some(Kind::TakeRows),
            "attention_decode_bf16_bf16_64" => Some(Kind::Attention(Heads::Bf16Of64)),
            "attention_decode_bf16_bf16_128" => Some(Kind::Attention(Heads::Bf16Of128)),
            "attention_decode_bf16_e4m3_64" => Some(Kind::Attention(Heads::E4m3Of64)),
            "attention_decode_bf16_e4m3_128" => Some(Kind::Attention(Heads::E4m3Of128)),
            "attention_decode_bf16_bf16_256" => Some(Kind::Attention(Heads::Bf16Of256)),
            "attention_decode_bf16_e4m3_256" => Some(Kind::Attention(Heads::E4m3Of256)),
            _ => Tiles::ALL.into_iter().find(|form| form.names().gemv == name).map(Kind::Linear),
        }
    }

    fn number(self) -> u32 {
        match self {
            Kind::Norm => 0,
            Kind::Swiglu => 1,
            Kind::TakeRows => 2,
            Kind::Attention(of) => 3 + of as u32,
            Kind::Linear(form) => 16 + form as u32,
        }
    }

    /// Rows of the step that a launch of this kind belongs to.
    fn rows(self, launch: &Launch) -> u32 {
        match self {
            Kind::Norm => launch.grid[0],
            Kind::Swiglu => read::<SwiGlu>(launch).rows,
            Kind::TakeRows => read::<TakeRows>(launch).rows,
            Kind::Attention(_) => launch.grid[2],
            Kind::Linear(_) => read::<Linear>(launch).columns,
        }
    }

    /// Bytes of dynamic shared memory that it takes here.
    fn shared(self, launch: &Launch) -> u32 {
        match self {
            Kind::Norm => SUMS,
            Kind::Linear(_) => MEETING + launch.shared,
            _ => launch.shared,
        }
    }
}

/// A launch's parameter.
fn read<P: Pod>(launch: &Launch) -> P {
    bytemuck::pod_read_unaligned(&launch.params()[..size_of::<P>()])
}

/// The memory of lists, and which of it is free.
pub(crate) struct Programs {
    span: Span,
    /// Instructions of a slot.
    room: usize,
    free: Vec<usize>,
}

impl Programs {
    /// Instructions that a step of a model has at most: a linear may be of three formats.
    fn room(layers: usize) -> usize {
        10 * layers + 8
    }

    fn slot_bytes(room: usize) -> u64 {
        padded((room * size_of::<Instruction>()) as u64)
    }

    /// Bytes on the device for a model of that many layers.
    pub fn bytes(layers: usize) -> u64 {
        padded(BARRIER + SLOTS as u64 * Self::slot_bytes(Self::room(layers)))
    }

    /// `span`: as many bytes, zero.
    pub fn new(span: Span, layers: usize) -> Self {
        Programs { span, room: Self::room(layers), free: (0..SLOTS).collect() }
    }

    /// Whether a list can be made without another's being given back.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether a step's launches can be performed by one kernel.
    pub fn fits(&self, device: &Device, launches: &[Launch]) -> bool {
        let (_, rest) = split(launches);
        let known = |launch: &Launch| Kind::of(launch.name).is_some_and(|kind| kind.rows(launch) <= MOST_ROWS);
        device.abilities.cooperative && (2..=self.room).contains(&rest.len()) && rest.iter().all(known)
    }

    /// Writes down launches that fit; there is room. Nothing if not even one block finds its shared memory on the device.
    pub fn make(&mut self, device: &Device, kernels: &Kernels, launches: &[Launch]) -> Result<Option<Program>> {
        let (first, rest) = split(launches);
        let name = kernel_of(rest);
        let kernel = kernels.get(name)?;
        let shared = rest.iter().map(|launch| Kind::of(launch.name).map_or(0, |kind| kind.shared(launch))).max();
        let shared = shared.unwrap_or(0);
        // A driver may refuse to count what no block can have.
        let resident = kernel.resident_blocks(THREADS, shared).unwrap_or(0).min(BLOCKS);
        let blocks = resident * device.abilities.multiprocessors;
        if blocks == 0 {
            return Ok(None);
        }
        let slot = self.free.pop().expect("room was asked for");
        let at = BARRIER + slot as u64 * Self::slot_bytes(self.room);
        self.span.write(at, bytemuck::cast_slice(&instructions(rest, blocks)))?;
        let list =
            List { list: self.span.address() + at, barrier: self.span.address(), count: rest.len() as u32, unused: 0 };
        let launch = Launch::new(kernel, name, [blocks, 1, 1], &list).shared(shared).cooperative();
        Ok(Some(Program { first: first.first().copied(), launch, slot }))
    }

    /// Takes a list's memory back. What was enqueued may still read it: what is written there next comes later.
    pub fn give_back(&mut self, program: &Program) {
        self.free.push(program.slot);
    }
}

/// A list in the device's memory.
pub(crate) struct Program {
    /// What goes ahead of it.
    first: Option<Launch>,
    launch: Launch,
    slot: usize,
}

impl Program {
    pub fn enqueue(&self, device: &Device) -> Result<()> {
        self.first.iter().try_for_each(|launch| launch.enqueue(device))?;
        self.launch.enqueue(device)
    }
}

/// The launch ahead of the list, if the first is of no kind, and the list.
fn split(launches: &[Launch]) -> (&[Launch], &[Launch]) {
    let first = launches.first().is_some_and(|launch| Kind::of(launch.name).is_none());
    launches.split_at(usize::from(first))
}

/// The persistent kernel that has the list's kind of attention. A model has one.
fn kernel_of(launches: &[Launch]) -> &'static str {
    let wide = |launch: &Launch| matches!(Kind::of(launch.name), Some(Kind::Attention(of)) if of >= Heads::E4m3Of128);
    if launches.iter().any(wide) { "persistent_wide" } else { "persistent" }
}

/// The list for a grid of `blocks`; every launch has a kind.
fn instructions(launches: &[Launch], blocks: u32) -> Vec<Instruction> {
    let mut list: Vec<Instruction> = launches.iter().map(instruction).collect();
    let mut next = None;
    for i in (0..list.len()).rev() {
        list[i].left = (launches.len() - 1 - i) as u32;
        let Some(Kind::Linear(form)) = Kind::of(launches[i].name) else { continue };
        let linear = read::<Linear>(&launches[i]);
        list[i].grid[0] = linear.rows.div_ceil(TILE_ROWS as u32).min(blocks);
        fetch_ahead(&mut list[i], next);
        next = Some((form, linear, list[i].grid[0]));
    }
    if list[0].ahead == 0 && !matches!(Kind::of(launches[0].name), Some(Kind::Linear(_))) {
        fetch_ahead(&mut list[0], next);
    }
    list
}

fn instruction(launch: &Launch) -> Instruction {
    let kind = Kind::of(launch.name).expect("a launch of a kind");
    let params = bytemuck::pod_read_unaligned(&launch.params()[..PARAMS]);
    Instruction { kind: kind.number(), grid: launch.grid, params, ..Instruction::zeroed() }
}

/// Has an instruction fetch the first weights of a linear.
fn fetch_ahead(instruction: &mut Instruction, next: Option<(Tiles, Linear, u32)>) {
    let Some((form, linear, groups)) = next else { return };
    instruction.ahead = linear.weights;
    instruction.ahead_groups = groups;
    instruction.ahead_tiles = linear.inputs.div_ceil(form.inputs() as u32);
    instruction.ahead_bytes = form.bytes() as u32;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Kernel;
    use crate::params;

    const KERNEL: &str = include_str!("../kernels/persistent.cuh");

    fn number(name: &str) -> Option<u32> {
        let (_, rest) = KERNEL.split_once(&format!(" {name} = "))?;
        rest.split(',').next()?.parse().ok()
    }

    fn launch<P: Pod>(name: &'static str, grid: [u32; 3], params: &P) -> Launch {
        Launch::new(Kernel(std::ptr::null_mut()), name, grid, params)
    }

    fn gemv(form: Tiles, weights: Address, rows: u32) -> Launch {
        let linear = Linear { weights, rows, inputs: 512, columns: 2, ..Linear::zeroed() };
        launch(form.names().gemv, [rows.div_ceil(16), 1, 1], &linear)
    }

    #[test]
    fn kinds_have_the_numbers_of_the_kernel() {
        let mut known = vec![("norm_bf16".to_owned(), "KIND_NORM".to_owned())];
        known.push(("swiglu_bf16".to_owned(), "KIND_SWIGLU".to_owned()));
        known.push(("take_rows_bf16".to_owned(), "KIND_TAKE_ROWS".to_owned()));
        for (kv, dim) in [("bf16", 64), ("bf16", 128), ("e4m3", 64), ("e4m3", 128), ("bf16", 256), ("e4m3", 256)] {
            let kind = format!("KIND_ATTENTION_{}_{dim}", kv.to_uppercase());
            known.push((format!("attention_decode_bf16_{kv}_{dim}"), kind));
        }
        for (kernel, kind) in known {
            assert_eq!(Kind::of(&kernel).map(Kind::number), number(&kind), "{kernel}");
            assert!(number(&kind).is_some(), "{kind}");
        }
        for form in Tiles::ALL {
            let name = form.names().gemv.trim_start_matches("gemv_").trim_end_matches("_bf16").to_uppercase();
            let want = number("KIND_LINEAR").zip(number(&format!("FORM_{name}"))).map(|(kind, form)| kind + form);
            assert_eq!(Kind::of(form.names().gemv).map(Kind::number), want, "{name}");
            assert!(want.is_some(), "{name}");
        }
        assert_eq!(Kind::of("gemv_q4_0_f32"), None);
        assert_eq!(Kind::of("adapt_shrink_bf16"), None, "a step with adapters is not performed so");
        assert!(KERNEL.contains(&format!("PARAM_BYTES = {PARAMS};")));
    }

    #[test]
    fn a_linear_fetches_for_the_next_one_and_the_first_instruction_for_the_first() {
        let norm = launch("norm_bf16", [2, 1, 1], &params::Norm::zeroed());
        let launches = [norm, gemv(Tiles::Q4_0, 100, 320), norm, gemv(Tiles::Q6K, 200, 40), norm];
        let list = instructions(&launches, 8);
        let ahead = |i: usize| (list[i].ahead, list[i].ahead_groups, list[i].ahead_tiles, list[i].ahead_bytes);
        assert_eq!(ahead(0), (100, 8, 8, 576));
        assert_eq!(ahead(1), (200, 3, 2, 3360));
        assert_eq!([2, 3, 4].map(ahead), [(0, 0, 0, 0); 3]);
        assert_eq!(list[1].grid, [8, 1, 1], "as many blocks as there are");
        assert_eq!(list[3].grid, [3, 1, 1], "as many blocks as there are row groups");
        assert_eq!(list.iter().map(|i| i.left).collect::<Vec<_>>(), [4, 3, 2, 1, 0]);
    }

    #[test]
    fn what_has_no_kind_may_come_first_and_attention_picks_the_kernel() {
        let embed = launch("embed_q4_0", [1, 1, 1], &params::Embed::zeroed());
        let attention = |name| launch(name, [1, 1, 1], &params::Attention::zeroed());
        let bf16 = [embed, attention("attention_decode_bf16_bf16_128")];
        assert_eq!((split(&bf16).0.len(), kernel_of(&bf16)), (1, "persistent"));
        assert_eq!(kernel_of(&[attention("attention_decode_bf16_e4m3_128")]), "persistent_wide");
        assert_eq!(kernel_of(&[attention("attention_decode_bf16_bf16_256")]), "persistent_wide");
    }
}
