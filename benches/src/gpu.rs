//! Ceilings of a GPU, by kernels of our own: how fast it reads memory, and how fast its matrix unit multiplies.

use std::sync::Arc;

use cudarc::driver::sys::CUdevice_attribute::{
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
};
use cudarc::driver::{CudaContext, CudaModule, CudaStream, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

const PTX: &str = include_str!("../ptx/compute_80/ceiling.ptx");
const HOPPER: &str = include_str!("../ptx/compute_90a/ceiling_sm90.ptx");
/// Threads of a block of both kernels.
const THREADS: u32 = 256;
/// A kernel that multiplies: its name, blocks on a multiprocessor, and products of a round of one block.
struct Multiplier(&'static str, u32, f64);

/// A warp has eight chains of m16n8k16.
const MMA: Multiplier = Multiplier("mma_ceiling", 4, 8.0 * 8.0 * 16.0 * 8.0 * 16.0);
/// A warpgroup multiplies m64n256k16.
const WGMMA: Multiplier = Multiplier("wgmma_ceiling", 1, 2.0 * 64.0 * 256.0 * 16.0);

/// Measures the ceilings of one device.
pub struct Ceilings {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    hopper: Option<Arc<CudaModule>>,
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
        let is_hopper = context.attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? == 9;
        let hopper = is_hopper.then(|| context.load_module(Ptx::from_src(HOPPER))).transpose()?;
        Ok(Ceilings { stream: context.new_stream()?, module, hopper, context, multiprocessors })
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

    /// Multiply-adds a second of the matrix unit on bf16, by the fastest instruction there is for it, and its name. `rounds`
    /// are a multiple of eight.
    ///
    /// # Errors
    /// What the driver says.
    pub fn products(&self, rounds: u32, repeat: usize) -> Result<(f64, &'static str), DriverError> {
        let mma = self.multiply(&self.module, &MMA, rounds, repeat)?;
        let wgmma = self.hopper.as_ref().map(|module| self.multiply(module, &WGMMA, rounds, repeat)).transpose()?;
        Ok(wgmma.filter(|rate| *rate > mma).map_or((mma, "mma.sync"), |rate| (rate, "wgmma")))
    }

    fn multiply(
        &self,
        module: &Arc<CudaModule>,
        Multiplier(name, blocks, products): &Multiplier,
        rounds: u32,
        repeat: usize,
    ) -> Result<f64, DriverError> {
        let (kernel, shape) = (module.load_function(name)?, self.shape(*blocks));
        let mut out = self.stream.alloc_zeros::<f32>((shape.grid_dim.0 * THREADS) as usize)?;
        let seconds = self.fastest(repeat, || {
            let mut launch = self.stream.launch_builder(&kernel);
            launch.arg(&mut out).arg(&0x3F80_3F80u32).arg(&rounds);
            // SAFETY: `out` has a number for each thread.
            unsafe { launch.launch(shape) }.map(drop)
        })?;
        Ok(f64::from(shape.grid_dim.0) * f64::from(rounds) * products / seconds)
    }
}
