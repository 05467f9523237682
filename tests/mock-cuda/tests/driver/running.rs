//! Memory, launches, streams and events, with work done at once and as late as can be.

use crate::common::{PTX, Rig, rig, shape};
use cudarc::driver::result;
use cudarc::driver::sys::{self, CUevent_flags, CUresult as Status};
use cudarc::driver::{DriverError, LaunchConfig, PushKernelArg};
use mock_cuda::{Capability, Config};

/// Runs a test both ways.
fn both(test: impl Fn(Rig)) {
    [false, true].into_iter().for_each(|deferred| test(rig(Config { deferred, ..Config::default() })));
}

fn status<T>(outcome: Result<T, DriverError>) -> Status {
    outcome.err().map_or(Status::CUDA_SUCCESS, |error| error.0)
}

#[test]
fn copies_fills_and_a_kernel() {
    both(|rig| {
        let mut x = rig.stream.clone_htod(&[1u32, 2, 3, 4, 5]).unwrap();
        rig.scale(&mut x, 4, (10, 1)).unwrap();
        assert_eq!(rig.stream.clone_dtoh(&x).unwrap(), [11, 21, 31, 41, 5]);
        rig.stream.memset_zeros(&mut x.slice_mut(1..3)).unwrap();
        let y = rig.stream.clone_dtod(&x).unwrap();
        assert_eq!(rig.stream.clone_dtoh(&y).unwrap(), [11, 0, 0, 41, 5]);
        assert_eq!(rig.mock.launches()["scale"], 1);
        assert_eq!(rig.mock.missed(), Vec::<String>::new());
    });
}

#[test]
fn lines_no_launch_executed_are_told() {
    let rig = rig(Config::default());
    let skipping = "ld.param.u32 %r2, [bytes];\n    setp.eq.s32 %p1, %r2, 0;\n    @%p1 ret;";
    let ptx = PTX.replace("ld.param.u32 %r2, [bytes];", &format!(".reg .pred %p<2>;\n    {skipping}"));
    let kernel = rig.context.load_module(ptx.into()).unwrap().load_function("last_byte").unwrap();
    // SAFETY: the kernel's one parameter.
    unsafe { rig.stream.launch_builder(&kernel).arg(&0u32).launch(shape(1)) }.unwrap();
    let missed = rig.mock.missed();
    assert!(missed.len() == 4 && missed[2].ends_with("st.shared.u8 [%r3+-1], %rs1;"), "{missed:?}");
    rig.mock.forget();
    assert!(rig.mock.missed().is_empty());
}

#[test]
fn memory_comes_back_and_runs_out() {
    let rig = rig(Config { memory: 1 << 20, ..Config::default() });
    let free = || rig.context.mem_get_info().unwrap().0;
    let whole = free();
    let x = rig.stream.alloc_zeros::<u8>(600 << 10).unwrap();
    assert_eq!(free(), whole - (600 << 10));
    assert_eq!(status(rig.stream.alloc_zeros::<u8>(600 << 10)), Status::CUDA_ERROR_OUT_OF_MEMORY);
    drop(x);
    rig.stream.synchronize().unwrap();
    assert_eq!(free(), whole);
    rig.stream.alloc_zeros::<u8>(600 << 10).unwrap();
}

#[test]
fn reading_what_nobody_wrote_is_found() {
    both(|rig| {
        // SAFETY: not initialised on purpose.
        let mut x = unsafe { rig.stream.alloc::<u32>(4) }.unwrap();
        rig.stream.memcpy_htod(&[1, 2, 3], &mut x.slice_mut(0..3)).unwrap();
        rig.scale(&mut x, 3, (1, 1)).unwrap();
        rig.stream.synchronize().unwrap();
        rig.scale(&mut x, 4, (1, 1)).unwrap();
        assert_eq!(status(rig.stream.synchronize()), Status::CUDA_ERROR_LAUNCH_FAILED);
        let finding = rig.mock.last_finding().unwrap();
        assert!(finding.contains("uninitialised Global memory") && finding.contains("thread [3, 0, 0]"), "{finding}");
    });
}

#[test]
fn checks_can_be_left_to_other_tests() {
    let rig = rig(Config { checks: false, ..Config::default() });
    // SAFETY: not initialised on purpose.
    let mut x = unsafe { rig.stream.alloc::<u32>(4) }.unwrap();
    rig.scale(&mut x, 4, (0, 9)).unwrap();
    assert_eq!(rig.stream.clone_dtoh(&x).unwrap(), [9; 4]);
    rig.scale(&mut x, 5, (0, 9)).unwrap();
    assert_eq!(status(rig.stream.synchronize()), Status::CUDA_ERROR_ILLEGAL_ADDRESS);
}

#[test]
fn a_launch_out_of_bounds_ends_the_context() {
    both(|rig| {
        let mut x = rig.stream.clone_htod(&[1u32, 2, 3]).unwrap();
        assert_eq!(rig.mock.last_finding(), None);
        rig.scale(&mut x, 4, (1, 1)).unwrap();
        let lost = Status::CUDA_ERROR_ILLEGAL_ADDRESS;
        assert_eq!(status(rig.stream.synchronize()), lost);
        assert!(rig.mock.last_finding().unwrap().starts_with("scale, thread [3, 0, 0] of block [0, 0, 0], line 14"));
        assert_eq!(status(rig.stream.clone_dtoh(&x)), lost);
        assert_eq!(status(rig.scale(&mut x, 3, (1, 1))), lost);
        assert_eq!(status(rig.stream.alloc_zeros::<u8>(1)), lost);
        assert!(!rig.mock.launches().contains_key("scale"));
    });
}

#[test]
fn use_after_free_is_out_of_bounds() {
    both(|rig| {
        let x = rig.stream.clone_htod(&[1u32]).unwrap();
        let stale = x.leak();
        // SAFETY: freed once; what follows is the mistake that must be found.
        unsafe { result::free_async(stale, rig.stream.cu_stream()) }.unwrap();
        let (factor, addend) = (1u32, 1u32);
        let mut builder = rig.stream.launch_builder(&rig.scale);
        // SAFETY: as above.
        unsafe { builder.arg(&stale).arg(&factor).arg(&addend).launch(shape(1)) }.unwrap();
        assert_eq!(status(rig.stream.synchronize()), Status::CUDA_ERROR_ILLEGAL_ADDRESS);
    });
}

#[test]
fn double_free_and_copies_past_the_end_are_refused() {
    both(|rig| {
        let x = rig.stream.clone_htod(&[1u32]).unwrap().leak();
        let mut out = [0u8; 5];
        // SAFETY: the mistakes are the device's to notice; the host's memory is as large as said.
        unsafe {
            assert_eq!(status(result::memcpy_dtoh_sync(&mut out, x)), Status::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(status(result::memcpy_htod_sync(x + 1, &out[..4])), Status::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(status(result::memset_d8_sync(x, 1, 5)), Status::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(status(result::free_sync(x)), Status::CUDA_SUCCESS);
            assert_eq!(status(result::free_sync(x)), Status::CUDA_ERROR_INVALID_VALUE);
        }
    });
}

#[test]
fn more_shared_memory_must_be_opted_in_to() {
    let rig = rig(Config::default());
    let launch = |bytes: u32| {
        let shape = LaunchConfig { shared_mem_bytes: bytes, ..shape(1) };
        // SAFETY: the kernel's one parameter.
        status(unsafe { rig.stream.launch_builder(&rig.last_byte).arg(&bytes).launch(shape) })
    };
    assert_eq!(launch(48 << 10), Status::CUDA_SUCCESS);
    assert_eq!(launch((48 << 10) + 1), Status::CUDA_ERROR_INVALID_VALUE);
    let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(status(rig.last_byte.set_attribute(most, 164 << 10)), Status::CUDA_ERROR_INVALID_VALUE);
    rig.last_byte.set_attribute(most, 163 << 10).unwrap();
    assert_eq!(launch(163 << 10), Status::CUDA_SUCCESS);
    rig.stream.synchronize().unwrap();
}

#[test]
fn shapes_no_device_has_are_refused() {
    let rig = rig(Config::default());
    let mut x = rig.stream.clone_htod(&[1u32]).unwrap();
    assert_eq!(status(rig.scale(&mut x, 0, (1, 1))), Status::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(status(rig.scale(&mut x, 1025, (1, 1))), Status::CUDA_ERROR_INVALID_VALUE);
    rig.scale(&mut x, 1, (1, 1)).unwrap();
}

#[test]
fn cooperative_grids_must_fit() {
    let rig = rig(Config { multiprocessors: 2, ..Config::default() });
    let launch = |blocks: u32| {
        let shape = LaunchConfig { grid_dim: (blocks, 1, 1), shared_mem_bytes: 16, ..shape(1024) };
        // SAFETY: the kernel's one parameter.
        status(unsafe { rig.stream.launch_builder(&rig.last_byte).arg(&16u32).launch_cooperative(shape) })
    };
    assert_eq!(rig.last_byte.occupancy_max_active_blocks_per_multiprocessor(1024, 16, None), Ok(2));
    assert_eq!(launch(5), Status::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
}

/// Every block adds one, waits for all, and writes what it then sees.
const TOGETHER: &str = ".version 7.0
.target sm_80
.address_size 64
.visible .entry together(.param .u64 count, .param .u64 seen) {
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [count];
    ld.param.u64 %rd2, [seen];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %nctaid.x;
    atom.acq_rel.gpu.global.add.u32 %r3, [%rd1], 1;
AGAIN:
    ld.acquire.gpu.global.u32 %r4, [%rd1];
    setp.lt.u32 %p1, %r4, %r2;
    @%p1 bra AGAIN;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd3, %rd2, %rd3;
    st.global.u32 [%rd3], %r4;
    ret;
}";

#[test]
fn blocks_of_a_cooperative_launch_wait_for_each_other() {
    both(|rig| {
        let kernel = rig.context.load_module(TOGETHER.into()).unwrap().load_function("together").unwrap();
        let mut count = rig.stream.clone_htod(&[0u32]).unwrap();
        let mut seen = rig.stream.clone_htod(&[0u32; 5]).unwrap();
        let shape = LaunchConfig { grid_dim: (5, 1, 1), ..shape(1) };
        // SAFETY: the kernel's parameters.
        unsafe { rig.stream.launch_builder(&kernel).arg(&mut count).arg(&mut seen).launch_cooperative(shape) }.unwrap();
        assert_eq!(rig.stream.clone_dtoh(&seen).unwrap(), [5; 5]);
        // Without the promise that all run at once, the first may wait for ever.
        rig.stream.memset_zeros(&mut count).unwrap();
        // SAFETY: as above.
        unsafe { rig.stream.launch_builder(&kernel).arg(&mut count).arg(&mut seen).launch(shape) }.unwrap();
        assert_eq!(status(rig.stream.synchronize()), Status::CUDA_ERROR_LAUNCH_TIMEOUT);
    });
}

/// `cuLaunchKernelEx` with one attribute; `scale` of one element by two.
fn launch_with(rig: &Rig, x: u64, attribute: sys::CUlaunchAttribute) -> Status {
    let mut attributes = [attribute];
    let config = sys::CUlaunchConfig {
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 1,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: rig.stream.cu_stream(),
        attrs: attributes.as_mut_ptr(),
        numAttrs: 1,
    };
    let (mut x, mut factor, mut addend) = (x, 2u32, 0u32);
    let mut parameters = [(&raw mut x).cast(), (&raw mut factor).cast(), (&raw mut addend).cast()];
    // SAFETY: the kernel's three parameters.
    unsafe {
        let f = rig.scale.cu_function();
        sys::cuLaunchKernelEx(&config, f, parameters.as_mut_ptr(), std::ptr::null_mut())
    }
}

#[test]
fn attributes_of_hopper() {
    use cudarc::driver::sys::{CUlaunchAttribute, CUlaunchAttributeID as Id, CUlaunchAttributeValue as Value};
    let programmatic = CUlaunchAttribute {
        id: Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: Value { programmaticStreamSerializationAllowed: 1 },
    };
    let cluster = |x| CUlaunchAttribute {
        id: Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
        pad: [0; 4],
        value: Value { clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y: 1, z: 1 } },
    };
    let try_on = |capability, attribute| {
        let rig = rig(Config { capability, ..Config::default() });
        let x = rig.stream.clone_htod(&[21u32]).unwrap().leak();
        let status = launch_with(&rig, x, attribute);
        let mut out = [0u32];
        // SAFETY: one element.
        unsafe { result::memcpy_dtoh_sync(&mut out, x) }.unwrap();
        (status, out[0])
    };
    assert_eq!(try_on(Capability::HOPPER, programmatic), (Status::CUDA_SUCCESS, 42));
    assert_eq!(try_on(Capability::HOPPER, cluster(1)), (Status::CUDA_SUCCESS, 42));
    assert_eq!(try_on(Capability::HOPPER, cluster(2)), (Status::CUDA_ERROR_INVALID_CLUSTER_SIZE, 21));
    assert_eq!(try_on(Capability::ADA, programmatic), (Status::CUDA_ERROR_NOT_SUPPORTED, 21));
}

#[test]
fn events() {
    both(|rig| {
        let event = |flags| rig.context.new_event(Some(flags)).unwrap();
        let (start, end) = (event(CUevent_flags::CU_EVENT_DEFAULT), event(CUevent_flags::CU_EVENT_DEFAULT));
        assert_eq!(status(start.elapsed_ms(&end)), Status::CUDA_ERROR_INVALID_HANDLE);
        start.record(&rig.stream).unwrap();
        let mut x = rig.stream.clone_htod(&[1u32; 32]).unwrap();
        rig.scale(&mut x, 32, (2, 0)).unwrap();
        end.record(&rig.stream).unwrap();
        end.synchronize().unwrap();
        assert!(end.is_complete());
        assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
        let untimed = event(CUevent_flags::CU_EVENT_DISABLE_TIMING);
        untimed.record(&rig.stream).unwrap();
        untimed.synchronize().unwrap();
        assert_eq!(status(start.elapsed_ms(&untimed)), Status::CUDA_ERROR_INVALID_HANDLE);
    });
}

#[test]
fn deferred_work_is_not_ready_until_waited_for() {
    let rig = rig(Config { deferred: true, ..Config::default() });
    let mut x = rig.stream.clone_htod(&[1u32]).unwrap();
    rig.scale(&mut x, 1, (2, 0)).unwrap();
    let event = rig.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
    assert!(rig.mock.launches().is_empty());
    assert!(!event.is_complete());
    // Asking again and again gets there, as polling a GPU does.
    assert!((0..10).any(|_| event.is_complete()));
    assert_eq!(rig.mock.launches()["scale"], 1);
}

#[test]
fn streams_wait_for_events() {
    both(|rig| {
        let other = rig.context.new_stream().unwrap();
        let mut x = rig.stream.clone_htod(&[1u32]).unwrap();
        rig.scale(&mut x, 1, (3, 0)).unwrap();
        let event = rig.stream.record_event(None).unwrap();
        other.wait(&event).unwrap();
        rig.scale_in(&other, &mut x, 1, (1, 4)).unwrap();
        assert_eq!(other.clone_dtoh(&x).unwrap(), [7]);
    });
}

#[test]
fn pinned_memory_is_read_when_the_copy_is_made() {
    let changed = |deferred| {
        let rig = rig(Config { deferred, ..Config::default() });
        // SAFETY: written before it is read.
        let mut staging = unsafe { rig.context.alloc_pinned::<u32>(1) }.unwrap();
        let place = staging.as_mut_ptr().unwrap();
        let x = rig.stream.clone_htod(&[0u32]).unwrap().leak();
        // SAFETY: the memory outlives the copy; overwriting it while it is copied is the mistake shown.
        unsafe {
            place.write(1);
            let bytes = std::slice::from_raw_parts(place, 1);
            result::memcpy_htod_async(x, bytes, rig.stream.cu_stream()).unwrap();
            place.write(2);
        }
        let mut out = [0u32];
        rig.stream.synchronize().unwrap();
        // SAFETY: one element.
        unsafe { result::memcpy_dtoh_sync(&mut out, x) }.unwrap();
        out[0]
    };
    assert_eq!((changed(false), changed(true)), (1, 2));
}

#[test]
fn stale_handles_are_told_from_live_ones() {
    let rig = rig(Config::default());
    let stream = rig.context.new_stream().unwrap();
    let stale = stream.cu_stream();
    drop(stream);
    // SAFETY: the handle is stale, which the mock notices.
    assert_eq!(unsafe { sys::cuStreamSynchronize(stale) }, Status::CUDA_ERROR_INVALID_HANDLE);
}
