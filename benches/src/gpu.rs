//! Ceilings of a GPU, by kernels of our own: how fast it reads memory, and how fast its matrix unit multiplies.

use std::sync::Arc;

use cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
use cudarc::driver::{CudaContext, CudaModule, CudaStream, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

const PTX: &str = include_str!("../ptx/compute_80/ceiling.ptx");
/// Threads of a block of both kernels.
const THREADS: u32 = 256;
/// Products of one round of `mma_ceiling`, a warp: eight chains of m16n8k16.
const PRODUCTS: f64 = 8.0 * 16.0 * 8.0 * 16.0;

/// Measures the ceilings of one device.
pub struct Ceilings {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    multiprocessors: u32,
}

impl Ceilings {
    /// On device `ordinal`, which must be there: cudarc panics where there is no driver.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(ordinal: usize) -> Result<Self, DriverError> {
        let context = CudaContext::new(ordinal)?;
        let multiprocessors = context.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
        let module = context.load_module(Ptx::from_src(PTX))?;
        Ok(Ceilings { stream: context.new_stream()?, module, context, multiprocessors })
    }

    /// Seconds of the fastest of `repeat` runs, after one that is not counted.
    fn fastest(&self, repeat: usize, mut run: impl FnMut() -> Result<(), DriverError>) -> Result<f64, DriverError> {
        run()?;
        let mut best = f64::INFINITY;
        for _ in 0..repeat {
            let flags = Some(cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT);
            let start = self.stream.record_event(flags)?;
            run()?;
            let end = self.stream.record_event(flags)?;
            best = best.min(f64::from(start.elapsed_ms(&end)?) / 1e3);
        }
        self.context.synchronize()?;
        Ok(best)
    }

    fn shape(&self, blocks_each: u32) -> LaunchConfig {
        let grid_dim = (self.multiprocessors * blocks_each, 1, 1);
        LaunchConfig { grid_dim, block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
    }

    /// Bytes a second of reading a buffer of `bytes`, which should be many times the cache.
    ///
    /// # Errors
    /// What the driver says.
    pub fn read(&self, bytes: usize, repeat: usize) -> Result<f64, DriverError> {
        let x = self.stream.alloc_zeros::<u32>(bytes / 4)?;
        let (kernel, shape) = (self.module.load_function("read_ceiling")?, self.shape(8));
        let mut out = self.stream.alloc_zeros::<u32>(shape.grid_dim.0 as usize)?;
        let count = (bytes / 16) as u64;
        let seconds = self.fastest(repeat, || {
            // SAFETY: `x` has `count` words of 16 bytes, `out` one of 4 for each block.
            unsafe { self.stream.launch_builder(&kernel).arg(&x).arg(&count).arg(&mut out).launch(shape) }.map(drop)
        })?;
        Ok(count as f64 * 16.0 / seconds)
    }

    /// Multiply-adds a second of `mma.sync` on bf16, over `rounds` rounds.
    ///
    /// # Errors
    /// What the driver says.
    pub fn products(&self, rounds: u32, repeat: usize) -> Result<f64, DriverError> {
        let (kernel, shape) = (self.module.load_function("mma_ceiling")?, self.shape(4));
        let threads = shape.grid_dim.0 * THREADS;
        let mut out = self.stream.alloc_zeros::<f32>(threads as usize)?;
        let seconds = self.fastest(repeat, || {
            let mut launch = self.stream.launch_builder(&kernel);
            launch.arg(&mut out).arg(&0x3F80_3F80u32).arg(&rounds);
            // SAFETY: `out` has a number for each thread.
            unsafe { launch.launch(shape) }.map(drop)
        })?;
        Ok(f64::from(threads / 32) * f64::from(rounds) * PRODUCTS / seconds)
    }
}
