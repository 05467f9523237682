//! What programs ask about the machine, and how it fails to be there.

use crate::common::{PTX, rig};
use cudarc::driver::result::{self, device};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult as Status};
use cudarc::driver::{CudaContext, DriverError};
use mock_cuda::{Capability, Config, install};

#[test]
fn the_library_answers_to_the_drivers_name() {
    let _mock = install(&Config::default()).unwrap();
    // SAFETY: looks for a library.
    assert!(unsafe { sys::is_culib_present() });
    result::init().unwrap();
    assert_eq!(device::get_count(), Ok(1));
}

#[test]
fn no_device() {
    let _mock = install(&Config { devices: 0, ..Config::default() }).unwrap();
    assert_eq!(result::init(), Err(DriverError(Status::CUDA_ERROR_NO_DEVICE)));
    assert_eq!(device::get_count(), Err(DriverError(Status::CUDA_ERROR_NOT_INITIALIZED)));
    assert_eq!(CudaContext::new(0).unwrap_err().0, Status::CUDA_ERROR_NO_DEVICE);
}

#[test]
fn several_devices() {
    let _mock = install(&Config { devices: 3, ..Config::default() }).unwrap();
    let contexts: Vec<_> = (0..3).map(|ordinal| CudaContext::new(ordinal).unwrap()).collect();
    assert_eq!(CudaContext::new(3).unwrap_err().0, Status::CUDA_ERROR_INVALID_DEVICE);
    assert_ne!(contexts[0].uuid().unwrap().bytes, contexts[1].uuid().unwrap().bytes);
    let kept = contexts[1].default_stream().clone_htod(&[1u32; 1000]).unwrap();
    let free: Vec<usize> = contexts.iter().map(|context| context.mem_get_info().unwrap().0).collect();
    assert!(free[0] == free[2] && free[1] < free[0], "{free:?}");
    drop(kept);
}

#[test]
fn what_the_devices_are() {
    let config = Config { capability: Capability::HOPPER, memory: 80 << 30, multiprocessors: 3, ..Config::default() };
    let _mock = install(&config).unwrap();
    let context = CudaContext::new(0).unwrap();
    assert_eq!(context.name().unwrap(), "PTX simulator as compute capability 9.0");
    assert_eq!(context.compute_capability(), Ok((9, 0)));
    assert_eq!(context.total_mem(), Ok(80 << 30));
    assert_eq!(context.mem_get_info(), Ok((80 << 30, 80 << 30)));
    let shared = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    assert_eq!(context.attribute(shared), Ok(227 << 10));
    assert_eq!(context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), Ok(3));
    assert_eq!(context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH), Ok(1));
}

#[test]
fn names_longer_than_the_buffer_are_cut() {
    let _mock = install(&Config::default()).unwrap();
    result::init().unwrap();
    let mut name = [1u8; 8];
    // SAFETY: as many bytes as said.
    let status = unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), 4, 0) };
    assert_eq!((status, &name[..5]), (Status::CUDA_SUCCESS, &b"PTX\0\x01"[..]));
}

#[test]
fn an_old_driver_refuses_new_ptx() {
    let _mock = install(&Config { driver_version: 11040, ..Config::default() }).unwrap();
    let mut version = 0;
    // SAFETY: a place for the number.
    assert_eq!(unsafe { sys::cuDriverGetVersion(&mut version) }, Status::CUDA_SUCCESS);
    assert_eq!(version, 11040);
    let context = CudaContext::new(0).unwrap();
    context.load_module(PTX.into()).unwrap();
    let newer = PTX.replace(".version 7.0", ".version 7.5");
    let error = context.load_module(newer.into()).unwrap_err();
    assert_eq!(error.0, Status::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
}

#[test]
fn ptx_for_another_device() {
    let _mock = install(&Config { capability: Capability::ADA, ..Config::default() }).unwrap();
    let context = CudaContext::new(0).unwrap();
    let hopper = PTX.replace("sm_80", "sm_90a").replace("7.0", "8.0");
    assert_eq!(context.load_module(hopper.into()).unwrap_err().0, Status::CUDA_ERROR_NO_BINARY_FOR_GPU);
}

#[test]
fn bad_ptx_is_refused_with_a_log() {
    let rig = rig(Config::default());
    let bad = std::ffi::CString::new(PTX.replace("mad.lo.s32", "mad.low.s32")).unwrap();
    let mut log = [1u8; 100];
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut(log.len())];
    let mut module = std::ptr::null_mut();
    let (options, values_at) = (options.as_mut_ptr(), values.as_mut_ptr());
    // SAFETY: two options, two values, a log of the size said, a terminated text.
    let status = unsafe { sys::cuModuleLoadDataEx(&mut module, bad.as_ptr().cast(), 2, options, values_at) };
    assert_eq!(status, Status::CUDA_ERROR_INVALID_PTX);
    let written = &log[..values[1].addr()];
    let text = std::ffi::CStr::from_bytes_with_nul(written).unwrap().to_str().unwrap();
    assert!(text.contains("line 15") && text.contains("mad.low.s32"), "{text}");
    drop(rig);
}

#[test]
fn missing_kernels_and_unknown_attributes() {
    let rig = rig(Config::default());
    let module = rig.context.load_module(PTX.into()).unwrap();
    assert_eq!(module.load_function("scales").unwrap_err().0, Status::CUDA_ERROR_NOT_FOUND);
    let odd = Attribute::CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT;
    assert_eq!(rig.context.attribute(odd), Err(DriverError(Status::CUDA_ERROR_INVALID_VALUE)));
}

#[test]
fn threads_have_machines_of_their_own() {
    let here = rig(Config::default());
    let count = || {
        result::init().unwrap();
        device::get_count().unwrap()
    };
    std::thread::scope(|scope| {
        let installs = scope.spawn(|| {
            let mock = install(&Config { devices: 3, ..Config::default() }).unwrap();
            (count(), mock.calls()["cuDeviceGetCount"])
        });
        assert_eq!(installs.join().unwrap(), (3, 1));
    });
    assert_eq!(count(), 1);
    assert_eq!(here.mock.calls()["cuDeviceGetCount"], 1);
}

/// A thread without a machine gets that of the context it is given, whatever others do.
#[test]
fn a_context_takes_its_machine_along() {
    let here = rig(Config { capability: Capability::ADA, ..Config::default() });
    let context = &here.context;
    let seen = std::thread::scope(|scope| {
        let installs = scope.spawn(|| drop(install(&Config::default()).unwrap()));
        installs.join().unwrap();
        let follows = scope.spawn(|| {
            context.bind_to_thread().unwrap();
            context.compute_capability().unwrap()
        });
        follows.join().unwrap()
    });
    assert_eq!(seen, (8, 9));
}

#[test]
fn errors_have_names() {
    let _mock = install(&Config::default()).unwrap();
    let error = DriverError(Status::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    assert_eq!(error.error_name().unwrap(), c"CUDA_ERROR_STREAM_CAPTURE_UNJOINED");
    assert_eq!(error.error_string().unwrap(), c"capturing stream has unjoined work");
}

#[test]
fn calls_fail_on_request() {
    let rig = rig(Config::default());
    rig.mock.fail("cuMemAllocAsync", 2, Status::CUDA_ERROR_OUT_OF_MEMORY).unwrap();
    let first = rig.stream.alloc_zeros::<u32>(4);
    let second = rig.stream.alloc_zeros::<u32>(4);
    let third = rig.stream.alloc_zeros::<u32>(4);
    assert!(first.is_ok() && third.is_ok());
    assert_eq!(second.unwrap_err().0, Status::CUDA_ERROR_OUT_OF_MEMORY);
    assert_eq!(rig.mock.calls()["cuMemAllocAsync"], 3);
}

#[test]
fn a_context_goes_with_its_last_holder() {
    let _mock = install(&Config::default()).unwrap();
    let (first, second) = (CudaContext::new(0).unwrap(), CudaContext::new(0).unwrap());
    assert_eq!(first.cu_ctx(), second.cu_ctx());
    let stale = first.cu_ctx();
    drop((first, second));
    // SAFETY: the handle is stale, which the mock notices.
    let status = unsafe { sys::cuCtxSetCurrent(stale) };
    assert_eq!(status, Status::CUDA_ERROR_CONTEXT_IS_DESTROYED);
    assert_ne!(CudaContext::new(0).unwrap().cu_ctx(), stale);
}
