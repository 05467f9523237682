//! How many blocks fit on a multiprocessor.

use std::ffi::{c_int, c_uint};

use crate::arguments::Out;
use crate::call::exports;
use crate::device::find;
use crate::driver::Driver;
use crate::handle::Handle;
use crate::limits::Limits;
use crate::status::{Result, Status};

fn resident_blocks(driver: &Driver, function: Handle, threads: c_int, dynamic_shared: usize) -> Result<c_int> {
    let threads = u32::try_from(threads).ok().filter(|threads| *threads > 0).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
    let found = driver.with(function, |state| find(&state.functions, function.id()).cloned())?;
    let dynamic = u32::try_from(dynamic_shared).unwrap_or(u32::MAX);
    if threads > found.most_threads || dynamic > found.most_dynamic_shared() {
        return Ok(0);
    }
    let shared = found.static_shared.saturating_add(dynamic);
    Ok(Limits::of(driver.config.capability).resident_blocks(threads, shared) as c_int)
}

exports! {
    /// Blocks of a kernel that a multiprocessor holds at a time.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<c_int>,
        function: Handle,
        threads: c_int,
        dynamic_shared: usize,
    ) |driver| blocks.set(resident_blocks(driver, function, threads, dynamic_shared)?)

    /// The same.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<c_int>,
        function: Handle,
        threads: c_int,
        dynamic_shared: usize,
        _flags: c_uint,
    ) |driver| blocks.set(resident_blocks(driver, function, threads, dynamic_shared)?)
}
