//! One launch: a kernel, its grid and the bytes of its one parameter. Plain data that can be compared, kept and enqueued.

use std::ffi::c_void;
use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::{result, sys};
use llama_core::Result;

use crate::device::Device;
use crate::error::driver;
use crate::kernels::Kernel;

/// Bytes of the largest parameter.
pub(crate) const MAX_PARAMS: usize = 192;

/// Threads of a block, where nothing else is said.
pub(crate) const THREADS: u32 = 256;

/// A kernel's launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Launch {
    pub kernel: Kernel,
    pub name: &'static str,
    pub grid: [u32; 3],
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// All blocks are alive at once, and may wait for each other.
    pub cooperative: bool,
    params: Params,
}

/// A parameter of any kind, as bytes where it may lie as it is.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(16))]
struct Params([u8; MAX_PARAMS]);

impl Launch {
    /// `kernel` on `params` with one-dimensional blocks of [`THREADS`].
    pub fn new<P: Pod>(kernel: Kernel, name: &'static str, grid: [u32; 3], params: &P) -> Self {
        let bytes = bytemuck::bytes_of(params);
        let mut all = [0; MAX_PARAMS];
        all[..bytes.len()].copy_from_slice(bytes);
        Launch { kernel, name, grid, threads: THREADS, shared: 0, cooperative: false, params: Params(all) }
    }

    /// The same with other threads a block.
    pub fn threads(self, threads: u32) -> Self {
        Launch { threads, ..self }
    }

    /// The same with dynamic shared memory.
    pub fn shared(self, shared: u32) -> Self {
        Launch { shared, ..self }
    }

    /// The same with all blocks alive at once.
    pub fn cooperative(self) -> Self {
        Launch { cooperative: true, ..self }
    }

    /// The parameter's bytes, and zeros up to [`MAX_PARAMS`].
    pub fn params(&self) -> &[u8; MAX_PARAMS] {
        &self.params.0
    }

    /// How it is launched, beside its shape. On Hopper it may begin before the launch ahead of it has ended: kernels there
    /// wait by themselves before they read what others write. Not so a cooperative one: blocks of others could take the
    /// room that its own need to be alive at once.
    fn attribute(&self, device: &Device) -> Option<sys::CUlaunchAttribute> {
        use sys::CUlaunchAttributeID as Id;
        use sys::CUlaunchAttributeValue as Value;
        let (id, value) = match self.cooperative {
            true => (Id::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, Value { cooperative: 1 }),
            false if device.abilities.early_launch => {
                let early = Value { programmaticStreamSerializationAllowed: 1 };
                (Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, early)
            }
            false => return None,
        };
        Some(sys::CUlaunchAttribute { id, pad: [0; 4], value })
    }

    /// Enqueues it.
    pub fn enqueue(&self, device: &Device) -> Result<()> {
        let mut attribute = self.attribute(device);
        let config = sys::CUlaunchConfig {
            gridDimX: self.grid[0],
            gridDimY: self.grid[1],
            gridDimZ: self.grid[2],
            blockDimX: self.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared,
            hStream: device.stream(),
            attrs: attribute.as_mut().map_or(std::ptr::null_mut(), std::ptr::from_mut),
            numAttrs: u32::from(attribute.is_some()),
        };
        let mut params = [std::ptr::from_ref(&self.params).cast_mut().cast::<c_void>()];
        // SAFETY: the kernel's module is loaded as long as the device is open; the driver copies the parameter, which is at least
        // as long as the kernel's; the addresses in it are those of spans that the operation's owner keeps, and every
        // kernel stays within the sizes beside them, which the simulator's suites check.
        unsafe { sys::cuLaunchKernelEx(&config, self.kernel.0, params.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
            .map_err(driver(self.name))
    }
}

/// A recorded sequence of launches.
pub(crate) struct Graph {
    /// Keeps the kernels loaded and the context open.
    device: Arc<Device>,
    exec: sys::CUgraphExec,
}

// SAFETY: a handle that the driver lets any thread use.
unsafe impl Send for Graph {}

impl Graph {
    /// Records `launches`.
    ///
    /// # Errors
    /// With what the driver says; what was to be recorded has not run then.
    pub fn record(device: &Arc<Device>, launches: &[Launch]) -> Result<Self> {
        let _recording = device.recording();
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives and is not being captured: capture begins and ends here.
        unsafe { result::stream::begin_capture(device.stream(), mode) }.map_err(driver("record"))?;
        let recorded = launches.iter().try_for_each(|launch| launch.enqueue(device));
        // SAFETY: capture began above.
        let graph = unsafe { result::stream::end_capture(device.stream()) }.map_err(driver("record"));
        let graph = graph?;
        // SAFETY: the graph came from the capture; it is destroyed once, and not needed after it is instantiated.
        let exec = unsafe {
            let exec = recorded.and_then(|()| {
                result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)).map_err(driver("record"))
            });
            let _ = result::graph::destroy(graph);
            exec?
        };
        Ok(Graph { device: device.clone(), exec })
    }

    /// Enqueues all of it.
    pub fn enqueue(&self) -> Result<()> {
        self.device.enter()?;
        // SAFETY: graph and stream live.
        unsafe { result::graph::launch(self.exec, self.device.stream()) }.map_err(driver("replay"))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.device.enter();
        // SAFETY: instantiated once, destroyed once; the driver keeps what still runs.
        let _ = unsafe { result::graph::exec_destroy(self.exec) };
    }
}
