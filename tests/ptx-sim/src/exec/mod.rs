//! Launching a kernel: arguments to parameters, then block after block.

mod access;
mod barrier;
mod block;
mod bulk;
mod collective;
mod copy;
mod grid;
mod matrix;
mod mbarrier;
mod ordering;
mod step;
mod warp;
mod wgmma;

use std::collections::BTreeMap;

use crate::counters::{Counters, Coverage, Report};
use crate::finding::{Fault, Finding, LaunchProblem};
use crate::ir::{Class, Kernel, Module};
use crate::memory::{Buffer, Memory};
use crate::order::MOST_BLOCKS;
use warp::Lanes;

/// Threads of a warp.
pub(crate) const WARP: usize = 32;
/// Multiprocessors of the simulated device (an H100's); blocks go to them in turn.
pub(crate) const PROCESSORS: u32 = 132;
/// The most shared memory a block can have (compute capability 9.0: 227 KiB).
const MOST_SHARED: usize = 227 * 1024;

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checks {
    /// Everything.
    All,
    /// Everything but races and uninitialised memory: for long computations whose kernels are tested elsewhere.
    Addresses,
}

/// The shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: usize,
    /// Warp instructions after which the launch is given up.
    pub steps: u64,
    /// All blocks live at once, so that they can wait for each other.
    pub cooperative: bool,
    /// What is checked.
    pub checks: Checks,
}

impl Launch {
    /// One-dimensional, without dynamic shared memory, with a generous number of steps.
    pub fn new(blocks: u32, threads: u32) -> Self {
        Launch {
            grid: [blocks, 1, 1],
            block: [threads, 1, 1],
            shared: 0,
            steps: 1 << 26,
            cooperative: false,
            checks: Checks::All,
        }
    }

    /// The same with a grid of two dimensions.
    pub fn grid(self, x: u32, y: u32) -> Self {
        Launch { grid: [x, y, 1], ..self }
    }

    /// The same with dynamic shared memory.
    pub fn shared(self, bytes: usize) -> Self {
        Launch { shared: bytes, ..self }
    }

    /// The same with all blocks alive at once.
    pub fn cooperative(self) -> Self {
        Launch { cooperative: true, ..self }
    }

    /// The same with other checks.
    pub fn checks(self, checks: Checks) -> Self {
        Launch { checks, ..self }
    }

    fn threads(&self) -> u64 {
        self.block.iter().map(|&n| u64::from(n)).product()
    }

    fn blocks(&self) -> u64 {
        self.grid.iter().fold(1u64, |product, &n| product.saturating_mul(u64::from(n)))
    }
}

/// A kernel argument.
#[derive(Debug, Clone, PartialEq)]
pub enum Arg {
    /// The address of an allocation.
    Buffer(Buffer),
    /// Any address.
    Address(u64),
    /// 32 bits.
    U32(u32),
    /// 64 bits.
    U64(u64),
    /// A float.
    F32(f32),
    /// A struct passed by value: as many bytes as the parameter has.
    Bytes(Vec<u8>),
}

impl Arg {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Arg::Buffer(buffer) => buffer.address().to_le_bytes().to_vec(),
            Arg::Address(bits) | Arg::U64(bits) => bits.to_le_bytes().to_vec(),
            Arg::U32(bits) => bits.to_le_bytes().to_vec(),
            Arg::F32(value) => value.to_le_bytes().to_vec(),
            Arg::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// What all blocks of a launch share.
pub(crate) struct Machine<'m> {
    pub kernel: &'m Kernel,
    pub launch: Launch,
    pub memory: &'m mut Memory,
    pub params: Vec<u8>,
    /// Addresses of the module's variables.
    pub globals: Vec<u64>,
    pub counters: Counters,
    /// Warp instructions of each class.
    pub classes: [u64; Class::COUNT],
    /// Threads that executed each instruction.
    pub executed: Vec<u64>,
    pub steps: u64,
    /// Threads whose engines have been used, by block and actor.
    pub engines: BTreeMap<(u32, u32), u32>,
    /// How often anything happened that another thread could wait for.
    pub changes: u64,
    /// Room for operands that are no registers.
    pub scratch: [Lanes; 4],
}

/// Runs a kernel to its end or to the first finding.
pub fn launch(
    module: &Module,
    kernel: &str,
    memory: &mut Memory,
    launch: Launch,
    args: &[Arg],
) -> Result<Report, Finding> {
    let refuse = |problem| Finding { kernel: kernel.to_owned(), place: None, fault: Fault::Launch(problem) };
    let code = module.kernels.get(kernel).ok_or_else(|| refuse(LaunchProblem::NoSuchKernel))?;
    check_extent(code, &launch).map_err(refuse)?;
    let params = parameters(code, args).map_err(refuse)?;
    let allocations = memory.len();
    let variables = module.globals.iter().map(|g| memory.add_variable(g.data.clone(), g.constant).address());
    let globals = variables.collect();
    memory.forget_accesses();
    let mut machine = Machine {
        kernel: code,
        launch,
        memory,
        params,
        globals,
        counters: Counters::default(),
        classes: [0; Class::COUNT],
        executed: vec![0; code.code.len()],
        steps: launch.steps,
        engines: BTreeMap::new(),
        changes: 0,
        scratch: [[0; WARP]; 4],
    };
    let outcome = grid::run(&mut machine);
    let report = outcome.map(|()| machine.report());
    memory.truncate(allocations);
    report
}

fn check_extent(kernel: &Kernel, launch: &Launch) -> Result<(), LaunchProblem> {
    let (threads, blocks, most) = (launch.threads(), launch.blocks(), kernel.max_threads);
    if threads == 0 || threads > u64::from(most.min(1024)) || blocks == 0 || blocks >= MOST_BLOCKS {
        return Err(LaunchProblem::Extent { threads, blocks, most });
    }
    let at_once = u64::from(PROCESSORS) * (2048 / threads).min(32);
    if launch.cooperative && blocks > at_once {
        return Err(LaunchProblem::Cooperative { blocks, most: at_once });
    }
    let bytes = kernel.shared.saturating_add(launch.shared);
    if bytes > MOST_SHARED { Err(LaunchProblem::Shared { bytes }) } else { Ok(()) }
}

fn parameters(kernel: &Kernel, args: &[Arg]) -> Result<Vec<u8>, LaunchProblem> {
    let mut params = vec![0; kernel.param_bytes];
    if args.len() != kernel.params.len() {
        return Err(LaunchProblem::Argument { index: args.len().min(kernel.params.len()) });
    }
    for (index, (arg, param)) in args.iter().zip(&kernel.params).enumerate() {
        let bytes = arg.bytes();
        if bytes.len() != param.bytes {
            return Err(LaunchProblem::Argument { index });
        }
        params[param.offset..param.offset + bytes.len()].copy_from_slice(&bytes);
    }
    Ok(params)
}

impl Machine<'_> {
    fn report(&self) -> Report {
        let code = self.kernel.code.iter().zip(&self.executed);
        let lines = code.map(|(instruction, &threads)| (instruction.line, instruction.text.clone(), threads)).collect();
        let mut counters = self.counters.clone();
        let classes = Class::ALL.into_iter().zip(self.classes).filter(|(_, count)| *count != 0);
        counters.classes = classes.collect();
        counters.warp_instructions = self.classes.iter().sum();
        Report { counters, coverage: Coverage { lines } }
    }
}
