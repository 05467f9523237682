//! Descriptions of tensors for bulk copies.

use std::ffi::c_uint;

use ptx_sim::{Swizzle, TensorMap};

use crate::arguments::{Array, HostMemory};
use crate::call::exports;
use crate::config::Capability;
use crate::status::{Result, Status};

/// Bytes of an element, by `CUtensorMapDataType`.
const ELEMENT: [usize; 13] = [1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4];
/// By `CUtensorMapSwizzle`.
const SWIZZLE: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];
/// A map lies at a multiple of this.
const ALIGNMENT: usize = 64;

fn by_number<T: Copy>(table: &[T], number: c_uint) -> Result<T> {
    table.get(number as usize).copied().ok_or(Status::CUDA_ERROR_INVALID_VALUE)
}

/// What the simulator does not model: interleaved layouts, elements left out, NaN for what lies outside.
fn check_plain(steps: &[c_uint], interleave: c_uint, outside: c_uint) -> Result {
    let plain = steps.iter().all(|step| *step == 1) && interleave == 0 && outside == 0;
    if plain { Ok(()) } else { Err(Status::CUDA_ERROR_NOT_SUPPORTED) }
}

exports! {
    /// Describes a tensor and the box that is copied of it.
    fn cuTensorMapEncodeTiled(
        map: HostMemory,
        element: c_uint,
        rank: c_uint,
        address: u64,
        dims: Array<u64>,
        strides: Array<u64>,
        extent: Array<c_uint>,
        steps: Array<c_uint>,
        interleave: c_uint,
        swizzle: c_uint,
        _promotion: c_uint,
        outside: c_uint,
    ) |driver| {
        driver.current_device()?;
        if driver.config.capability < Capability::HOPPER {
            return Err(Status::CUDA_ERROR_NOT_SUPPORTED);
        }
        if !(1..=5).contains(&rank) || !map.address().is_multiple_of(ALIGNMENT) {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        check_plain(&steps.read(rank as usize)?, interleave, outside)?;
        let tensor = TensorMap {
            address,
            element: by_number(&ELEMENT, element)?,
            dims: dims.read(rank as usize)?,
            strides: strides.read(rank as usize - 1)?,
            extent: extent.read(rank as usize)?,
            swizzle: by_number(&SWIZZLE, swizzle)?,
        };
        map.write(&tensor.encode().map_err(|_| Status::CUDA_ERROR_INVALID_VALUE)?)
    }
}
