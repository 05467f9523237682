//! Launches: what the driver refuses before any thread runs, and what becomes of the simulator's findings.

use std::ffi::c_void;
use std::sync::Arc;

use ptx_sim::{Arg, Checks};

use crate::arguments::{Array, HostMemory};
use crate::config::Capability;
use crate::device::State;
use crate::limits::Limits;
use crate::memory::status_of;
use crate::module::Function;
use crate::status::{Result, Status};

/// The shape of a launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub cooperative: bool,
}

/// A launch with its arguments, which are copied when it is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    function: Arc<Function>,
    shape: Shape,
    arguments: Vec<Vec<u8>>,
}

/// Attributes of `cuLaunchKernelEx`, as far as they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attribute {
    Ignored,
    Cooperative(bool),
    /// Programmatic dependent launch: the kernel may begin before earlier work of its stream has ended.
    Programmatic,
    Cluster([u32; 3]),
}

impl Shape {
    pub fn new(grid: [u32; 3], block: [u32; 3], dynamic_shared: u32) -> Self {
        Shape { grid, block, dynamic_shared, cooperative: false }
    }

    /// The shape with the attributes of a launch; refuses those the device does not have.
    pub fn with(mut self, attributes: &[Attribute], capability: Capability) -> Result<Self> {
        for attribute in attributes {
            match attribute {
                Attribute::Ignored => {}
                Attribute::Cooperative(cooperative) => self.cooperative = *cooperative,
                Attribute::Programmatic | Attribute::Cluster(_) if capability < Capability::HOPPER => {
                    return Err(Status::CUDA_ERROR_NOT_SUPPORTED);
                }
                Attribute::Programmatic | Attribute::Cluster([1, 1, 1]) => {}
                Attribute::Cluster(_) => return Err(Status::CUDA_ERROR_INVALID_CLUSTER_SIZE),
            }
        }
        Ok(self)
    }

    fn blocks(&self) -> u64 {
        self.grid.iter().map(|&n| u64::from(n)).product()
    }

    fn threads(&self) -> u64 {
        self.block.iter().map(|&n| u64::from(n)).product()
    }
}

impl Launch {
    pub fn new(function: Arc<Function>, shape: Shape, arguments: Vec<Vec<u8>>, state: &State) -> Result<Self> {
        let limits = Limits::of(state.config.capability);
        check_extent(&shape, &function)?;
        if shape.dynamic_shared > function.most_dynamic_shared() {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        if shape.cooperative {
            check_residency(&shape, &function, &limits, state.config.multiprocessors)?;
        }
        Ok(Launch { function, shape, arguments })
    }
}

fn check_extent(shape: &Shape, function: &Function) -> Result {
    let within = |extent: [u32; 3], most: [u32; 3]| extent.iter().zip(most).all(|(&n, most)| (1..=most).contains(&n));
    let fits = within(shape.grid, Limits::GRID) && within(shape.block, Limits::BLOCK);
    let most = function.most_threads.min(Limits::THREADS_PER_BLOCK);
    if fits && shape.threads() <= u64::from(most) { Ok(()) } else { Err(Status::CUDA_ERROR_INVALID_VALUE) }
}

/// All blocks of a cooperative launch must be on the device at once.
fn check_residency(shape: &Shape, function: &Function, limits: &Limits, multiprocessors: u32) -> Result {
    let shared = function.static_shared.saturating_add(shape.dynamic_shared);
    let resident = limits.resident_blocks(shape.threads() as u32, shared);
    let fits = shape.blocks() <= u64::from(resident) * u64::from(multiprocessors);
    if fits { Ok(()) } else { Err(Status::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE) }
}

/// Copies arguments: one pointer a parameter, or (`extra`) one buffer of all parameters.
pub(crate) fn arguments(
    function: &Function,
    pointers: Array<*mut c_void>,
    extra: Array<*mut c_void>,
) -> Result<Vec<Vec<u8>>> {
    if function.parameters.is_empty() {
        return Ok(Vec::new());
    }
    match (pointers.is_null(), extra.is_null()) {
        (false, true) => {
            let pointers = pointers.read(function.parameters.len())?;
            let read = |(pointer, (size, _)): (*mut c_void, &(usize, usize))| HostMemory::of(pointer).read(*size);
            pointers.into_iter().zip(&function.parameters).map(read).collect()
        }
        (true, false) => from_buffer(function, extra),
        _ => Err(Status::CUDA_ERROR_INVALID_VALUE),
    }
}

/// `{ CU_LAUNCH_PARAM_BUFFER_POINTER, buffer, CU_LAUNCH_PARAM_BUFFER_SIZE, &size, CU_LAUNCH_PARAM_END }`.
fn from_buffer(function: &Function, extra: Array<*mut c_void>) -> Result<Vec<Vec<u8>>> {
    let words = extra.read(4)?;
    if (words[0].addr(), words[2].addr()) != (1, 2) {
        return Err(Status::CUDA_ERROR_INVALID_VALUE);
    }
    let size = HostMemory::of(words[3]).read(size_of::<usize>())?;
    let size = size.try_into().map(usize::from_ne_bytes).map_err(|_| Status::CUDA_ERROR_INVALID_VALUE)?;
    let buffer = HostMemory::of(words[1]).read(size)?;
    let part = |&(size, offset): &(usize, usize)| buffer.get(offset..offset + size).map(<[u8]>::to_vec);
    let parts: Option<Vec<_>> = function.parameters.iter().map(part).collect();
    parts.ok_or(Status::CUDA_ERROR_INVALID_VALUE)
}

impl State {
    /// Runs a kernel. What the simulator finds ends the context.
    pub fn launch(&mut self, launch: &Launch) -> Result {
        let Function { module, name, .. } = &*launch.function;
        if module.is_unloaded() {
            let why = format!("{name}: launched by a graph after its module was unloaded");
            self.fail(Status::CUDA_ERROR_LAUNCH_FAILED, why);
            return Err(Status::CUDA_ERROR_LAUNCH_FAILED);
        }
        let shape = ptx_sim::Launch {
            grid: launch.shape.grid,
            block: launch.shape.block,
            shared: launch.shape.dynamic_shared as usize,
            steps: self.config.steps,
            cooperative: launch.shape.cooperative,
            checks: if self.config.checks { Checks::All } else { Checks::Addresses },
        };
        let arguments: Vec<Arg> = launch.arguments.iter().map(|bytes| Arg::Bytes(bytes.clone())).collect();
        match ptx_sim::launch(&module.code, name, &mut self.memory.simulated, shape, &arguments) {
            Ok(report) => {
                self.notes.launches.push((name.clone(), report.coverage));
                Ok(())
            }
            Err(finding) => {
                self.fail(status_of(finding.fault), finding.to_string());
                Err(status_of(finding.fault))
            }
        }
    }
}
