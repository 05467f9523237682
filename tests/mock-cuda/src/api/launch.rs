//! Launches.

use std::ffi::{c_uint, c_void};

use crate::arguments::Array;
use crate::call::exports;
use crate::device::find;
use crate::driver::Driver;
use crate::handle::Handle;
use crate::launch::{Attribute, Launch, Shape, arguments};
use crate::status::{Result, Status};
use crate::work::Work;

/// `CUlaunchAttribute`: what it is about, and 64 bytes that depend on it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RawAttribute {
    id: c_uint,
    pad: c_uint,
    value: [u32; 16],
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RawConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    dynamic_shared: c_uint,
    stream: Handle,
    attributes: Array<RawAttribute>,
    count: c_uint,
}

impl RawAttribute {
    /// `CUlaunchAttributeID`.
    fn parse(&self) -> Result<Attribute> {
        match self.id {
            0 | 1 | 3 | 5 | 8 => Ok(Attribute::Ignored),
            2 => Ok(Attribute::Cooperative(self.value[0] != 0)),
            4 => Ok(Attribute::Cluster([self.value[0], self.value[1], self.value[2]])),
            6 if self.value[0] == 0 => Ok(Attribute::Ignored),
            6 => Ok(Attribute::Programmatic),
            _ => Err(Status::CUDA_ERROR_NOT_SUPPORTED),
        }
    }
}

type Pointers = Array<*mut c_void>;
const NONE: Pointers = Array::none();

fn launch(driver: &Driver, f: Handle, shape: Shape, stream: Handle, parameters: (Pointers, Pointers)) -> Result {
    driver.on(stream, |state, stream| {
        let function = find(&state.functions, f.id())?.clone();
        let arguments = arguments(&function, parameters.0, parameters.1)?;
        let launch = Launch::new(function, shape, arguments, state)?;
        state.submit(stream, Work::Launch(launch))
    })
}

exports! {
    /// Launches a kernel.
    fn cuLaunchKernel(
        f: Handle,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        dynamic_shared: c_uint,
        stream: Handle,
        parameters: Pointers,
        extra: Pointers,
    ) |driver| {
        let shape = Shape::new([grid_x, grid_y, grid_z], [block_x, block_y, block_z], dynamic_shared);
        launch(driver, f, shape, stream, (parameters, extra))
    }

    /// Launches a kernel whose blocks may wait for each other.
    fn cuLaunchCooperativeKernel(
        f: Handle,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        dynamic_shared: c_uint,
        stream: Handle,
        parameters: Pointers,
    ) |driver| {
        let shape = Shape::new([grid_x, grid_y, grid_z], [block_x, block_y, block_z], dynamic_shared);
        launch(driver, f, Shape { cooperative: true, ..shape }, stream, (parameters, NONE))
    }

    /// Launches a kernel with attributes.
    fn cuLaunchKernelEx(config: Array<RawConfig>, f: Handle, parameters: Pointers, extra: Pointers) |driver| {
        let config = config.read(1)?[0];
        let attributes = config.attributes.read(config.count as usize)?;
        let attributes = attributes.iter().map(RawAttribute::parse).collect::<Result<Vec<_>>>()?;
        let shape = Shape::new(config.grid, config.block, config.dynamic_shared);
        let shape = shape.with(&attributes, driver.config.capability)?;
        launch(driver, f, shape, config.stream, (parameters, extra))
    }
}
