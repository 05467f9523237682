//! A device with one small kernel on it.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg};
use mock_cuda::{Config, Mock};

/// `x[i] = x[i] * factor + addend`, a thread an element; and a kernel that uses all dynamic shared memory it is told of.
pub const PTX: &str = ".version 7.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry scale(.param .u64 x, .param .u32 factor, .param .u32 addend) {
    .reg .b32 %r<7>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [x];
    ld.param.u32 %r1, [factor];
    ld.param.u32 %r2, [addend];
    mov.u32 %r3, %tid.x;
    mul.wide.u32 %rd2, %r3, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.u32 %r4, [%rd3];
    mad.lo.s32 %r5, %r4, %r1, %r2;
    st.global.u32 [%rd3], %r5;
    ret;
}
.visible .entry last_byte(.param .u32 bytes) {
    .reg .b16 %rs<2>;
    .reg .b32 %r<4>;
    mov.u32 %r1, dynamic;
    ld.param.u32 %r2, [bytes];
    add.s32 %r3, %r1, %r2;
    mov.u16 %rs1, 7;
    st.shared.u8 [%r3+-1], %rs1;
    ret;
}
";

pub struct Rig {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    pub scale: CudaFunction,
    pub last_byte: CudaFunction,
    /// Last, so that it is dropped after what was made with it.
    pub mock: Mock,
}

/// A device as configured, one stream of its own, no events behind the scenes.
pub fn rig(config: Config) -> Rig {
    let mock = mock_cuda::install(&config).unwrap();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: each test uses its buffers in one stream, or orders the streams itself.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let module = context.load_module(PTX.into()).unwrap();
    let (scale, last_byte) = (module.load_function("scale").unwrap(), module.load_function("last_byte").unwrap());
    Rig { context, stream, scale, last_byte, mock }
}

pub fn shape(threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (1, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

impl Rig {
    /// Launches `scale` on the first elements of a buffer.
    pub fn scale_in(
        &self,
        stream: &Arc<CudaStream>,
        x: &mut CudaSlice<u32>,
        threads: u32,
        (factor, addend): (u32, u32),
    ) -> Result<(), DriverError> {
        // SAFETY: the parameters are the kernel's, and the mock checks every access.
        unsafe { stream.launch_builder(&self.scale).arg(x).arg(&factor).arg(&addend).launch(shape(threads)) }.map(drop)
    }

    pub fn scale(&self, x: &mut CudaSlice<u32>, threads: u32, factors: (u32, u32)) -> Result<(), DriverError> {
        self.scale_in(&self.stream, x, threads, factors)
    }
}
