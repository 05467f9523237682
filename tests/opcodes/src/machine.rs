//! The two machines a case runs on.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DriverError, LaunchConfig, PushKernelArg, result, sys};
use ptx_sim::{Arg, Launch, Memory, Module};
use thiserror::Error;

use crate::case::Case;

/// Why a case has no result.
#[derive(Debug, Error)]
pub enum RunError {
    /// The driver refuses the kernel or its launch, or the launch fails.
    #[error("the driver says {0:?}")]
    Driver(#[from] DriverError),
    /// The simulator's parser refuses the kernel.
    #[error("the simulator refuses it: {0}")]
    Parse(#[from] ptx_sim::ParseError),
    /// The simulator finds something wrong with it.
    #[error("the simulator finds: {0}")]
    Finding(#[from] ptx_sim::Finding),
    /// The kernel left results unwritten.
    #[error("the simulator finds: {0}")]
    Fault(#[from] ptx_sim::Fault),
}

/// Runs cases.
pub trait Machine {
    /// The results of all threads, given their operands.
    fn run(&self, case: &Case, operands: &[u64]) -> Result<Vec<u64>, RunError>;
}

/// Threads of a case for this many operands.
fn threads(case: &Case, operands: &[u64]) -> u32 {
    (operands.len() / case.width_in()) as u32
}

/// The simulator.
#[derive(Debug, Clone, Copy)]
pub struct Simulator;

impl Machine for Simulator {
    fn run(&self, case: &Case, operands: &[u64]) -> Result<Vec<u64>, RunError> {
        let module = Module::parse(&case.ptx())?;
        let threads = threads(case, operands);
        let mut memory = Memory::new();
        let input = memory.upload(operands);
        // Zero, since a result narrower than its slot leaves the rest alone.
        let output = memory.upload(&vec![0u64; threads as usize * case.width_out()]);
        let shape = Launch::new(threads / case.threads, case.threads);
        ptx_sim::launch(&module, "k", &mut memory, shape, &[Arg::Buffer(input), Arg::Buffer(output)])?;
        Ok(memory.read(output)?)
    }
}

/// The device that the driver calls the first.
#[derive(Debug)]
pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

/// Why there is no GPU.
#[derive(Debug, Error)]
pub enum NoGpu {
    /// No `libcuda`.
    #[error("no CUDA driver (libcuda) here: nothing to compare the simulator with")]
    NoDriver,
    /// A driver, but no device for it, or none that works.
    #[error("the CUDA driver has no device for us: {0:?}")]
    NoDevice(#[from] DriverError),
}

impl Gpu {
    /// Opens the device.
    pub fn open() -> Result<Self, NoGpu> {
        // SAFETY: loads a library of this name, whose constructors are the driver's.
        if !unsafe { sys::is_culib_present() } {
            return Err(NoGpu::NoDriver);
        }
        result::init()?;
        let context = CudaContext::new(0)?;
        let stream = context.default_stream();
        Ok(Gpu { context, stream })
    }

    /// What it is called.
    pub fn name(&self) -> Result<String, DriverError> {
        self.context.name()
    }

    /// Its compute capability.
    pub fn capability(&self) -> Result<(i32, i32), DriverError> {
        self.context.compute_capability()
    }
}

impl Machine for Gpu {
    fn run(&self, case: &Case, operands: &[u64]) -> Result<Vec<u64>, RunError> {
        let kernel = self.context.load_module(case.ptx().into())?.load_function("k")?;
        let threads = threads(case, operands);
        let input = self.stream.clone_htod(operands)?;
        let mut output = self.stream.alloc_zeros::<u64>(threads as usize * case.width_out())?;
        let shape = LaunchConfig {
            grid_dim: (threads / case.threads, 1, 1),
            block_dim: (case.threads, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the kernel of every case takes these two, and thread i of the grid touches row i of each.
        unsafe { self.stream.launch_builder(&kernel).arg(&input).arg(&mut output).launch(shape) }?;
        Ok(self.stream.clone_dtoh(&output)?)
    }
}
