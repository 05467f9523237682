//! What the pretended machine is like.

/// A compute capability.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability {
    /// Before the point.
    pub major: u32,
    /// After it.
    pub minor: u32,
}

impl Capability {
    /// A100.
    pub const AMPERE: Capability = Capability { major: 8, minor: 0 };
    /// L4, L40, RTX 40.
    pub const ADA: Capability = Capability { major: 8, minor: 9 };
    /// H100, H200.
    pub const HOPPER: Capability = Capability { major: 9, minor: 0 };
}

/// The pretended machine. All devices are alike.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Number of devices; with none, `cuInit` fails as the real one does.
    pub devices: u32,
    /// Of each device.
    pub capability: Capability,
    /// Bytes of memory of each device.
    pub memory: u64,
    /// Multiprocessors of each device. Real ones have a hundred; cooperative kernels fill them all, so tests want few.
    pub multiprocessors: u32,
    /// As `cuDriverGetVersion` has it: 12090 for 12.9.
    pub driver_version: i32,
    /// Whether the simulator looks for races and reads of memory nobody wrote. Bounds are always checked.
    pub checks: bool,
    /// Whether queued work waits until something waits for it, which is as late as a GPU could be. Finds missing waits.
    pub deferred: bool,
    /// Instructions, counted once a warp, after which a launch is given up.
    pub steps: u64,
}

impl Default for Config {
    /// One A100 of 4 GiB and four multiprocessors under a driver for CUDA 12.9, everything checked.
    fn default() -> Self {
        Config {
            devices: 1,
            capability: Capability::AMPERE,
            memory: 4 << 30,
            multiprocessors: 4,
            driver_version: 12090,
            checks: true,
            deferred: false,
            steps: 1 << 32,
        }
    }
}
