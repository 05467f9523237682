//! Tensor maps: made by the driver, passed by value, used by a bulk copy.

use crate::common::{rig, shape};
use cudarc::driver::sys::{self, CUresult as Status};
use cudarc::driver::{DeviceRepr, PushKernelArg};
use mock_cuda::{Capability, Config};

/// One thread copies a box of 2 rows of 4 numbers, its corner at (4, 1), and stores it.
const PTX: &str = ".version 8.0
.target sm_90a
.address_size 64
.visible .entry fetch(.param .align 64 .b8 map[128], .param .u64 out) {
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<6>;
    .shared .align 128 .b8 tile[32];
    .shared .align 8 .b64 arrived;
    mov.b64 %rd1, map;
    cvta.param.u64 %rd1, %rd1;
    ld.param.u64 %rd2, [out];
    mov.u32 %r1, tile;
    mov.u32 %r2, arrived;
    mbarrier.init.shared::cta.b64 [%r2], 1;
    fence.proxy.async.shared::cta;
    mbarrier.arrive.expect_tx.shared::cta.b64 %rd3, [%r2], 32;
    cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1, {4, 1}], [%r2];
WAIT:
    mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0;
    @!%p1 bra WAIT;
    ld.shared.v4.u32 {%r3, %r4, %r5, %r6}, [%r1];
    st.global.v4.u32 [%rd2], {%r3, %r4, %r5, %r6};
    ld.shared.v4.u32 {%r3, %r4, %r5, %r6}, [%r1+16];
    st.global.v4.u32 [%rd2+16], {%r3, %r4, %r5, %r6};
    ret;
}";

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Map(sys::CUtensorMap);

// SAFETY: plain bytes, and what the kernel's first parameter is.
unsafe impl DeviceRepr for Map {}

/// 8 columns of numbers, `rows` rows; a box of 4 by 2.
fn encode(address: u64, rows: u64, stride: u64) -> (Status, Map) {
    let mut map = Map(sys::CUtensorMap { opaque: [0; 16] });
    let (dims, strides, extent, steps) = ([8u64, rows], [stride], [4u32, 2], [1u32, 1]);
    // SAFETY: two dimensions, one stride, a map aligned as it must be.
    let status = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut map.0,
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT32,
            2,
            std::ptr::with_exposed_provenance_mut(address as usize),
            dims.as_ptr(),
            strides.as_ptr(),
            extent.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    (status, map)
}

#[test]
fn a_box_of_a_tensor_arrives() {
    let rig = rig(Config { capability: Capability::HOPPER, ..Config::default() });
    let fetch = rig.context.load_module(PTX.into()).unwrap().load_function("fetch").unwrap();
    let numbers: Vec<u32> = (0..24).collect();
    let tensor = rig.stream.clone_htod(&numbers).unwrap().leak();
    let mut out = rig.stream.alloc_zeros::<u32>(8).unwrap();
    for (rows, want) in [(3, [12, 13, 14, 15, 20, 21, 22, 23]), (2, [12, 13, 14, 15, 0, 0, 0, 0])] {
        // What lies outside the tensor is zero.
        let (status, map) = encode(tensor, rows, 32);
        assert_eq!(status, Status::CUDA_SUCCESS);
        // SAFETY: the kernel's parameters.
        unsafe { rig.stream.launch_builder(&fetch).arg(&map).arg(&mut out).launch(shape(1)) }.unwrap();
        assert_eq!(rig.stream.clone_dtoh(&out).unwrap(), want);
    }
}

#[test]
fn what_no_map_can_say_is_refused() {
    let status = |capability, stride| {
        let _rig = rig(Config { capability, ..Config::default() });
        encode(1 << 36, 3, stride).0
    };
    assert_eq!(status(Capability::HOPPER, 20), Status::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(status(Capability::AMPERE, 32), Status::CUDA_ERROR_NOT_SUPPORTED);
}
