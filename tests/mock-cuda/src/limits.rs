//! What devices can do, by compute capability (CUDA C programming guide, "Compute Capabilities"), and the attributes that say so.

use cudarc::driver::sys::CUdevice_attribute as Attribute;

use crate::config::{Capability, Config};
use crate::status::{Result, Status};

/// Sizes that depend on the compute capability.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of shared memory of a multiprocessor.
    pub shared: u32,
    /// Most bytes of it that a block may have, having opted in.
    pub shared_per_block: u32,
    pub threads: u32,
    pub blocks: u32,
    pub l2: u32,
}

impl Limits {
    /// Shared memory of a block that has not opted in to more.
    pub const SHARED_WITHOUT_OPTING_IN: u32 = 48 << 10;
    /// What the system takes of each block's.
    pub const SHARED_RESERVED: u32 = 1 << 10;
    pub const THREADS_PER_BLOCK: u32 = 1024;
    pub const BLOCK: [u32; 3] = [1024, 1024, 64];
    pub const GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

    pub fn of(capability: Capability) -> Self {
        let (shared, threads, blocks, l2) = match (capability.major, capability.minor) {
            (8, 0) => (164 << 10, 2048, 32, 40 << 20),
            (8, 9) => (100 << 10, 1536, 24, 48 << 20),
            (8, _) => (100 << 10, 1536, 16, 6 << 20),
            (9.., _) => (228 << 10, 2048, 32, 50 << 20),
            _ => (64 << 10, 1024, 16, 4 << 20),
        };
        Limits { shared, shared_per_block: shared - Self::SHARED_RESERVED, threads, blocks, l2 }
    }

    /// Blocks of a kernel that one multiprocessor holds at a time. Registers are not counted: only `ptxas` knows them.
    pub fn resident_blocks(&self, threads: u32, shared: u32) -> u32 {
        let threads = threads.next_multiple_of(32).max(32);
        // Shared memory is handed out in pieces of 128 bytes.
        let shared = shared.saturating_add(Self::SHARED_RESERVED).next_multiple_of(128);
        self.blocks.min(self.threads / threads).min(self.shared / shared)
    }
}

/// An attribute's value for a machine.
type Value = fn(&Config, &Limits) -> i32;

/// A device attribute; those nobody has asked for yet are refused rather than guessed.
pub(crate) fn attribute(number: i32, config: &Config) -> Result<i32> {
    const TABLE: &[(Attribute, Value)] = &[
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, |_, _| Limits::THREADS_PER_BLOCK as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, |_, _| Limits::BLOCK[0] as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, |_, _| Limits::BLOCK[1] as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, |_, _| Limits::BLOCK[2] as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, |_, _| Limits::GRID[0] as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, |_, _| Limits::GRID[1] as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, |_, _| Limits::GRID[2] as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, |_, _| Limits::SHARED_WITHOUT_OPTING_IN as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, |_, l| l.shared_per_block as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, |_, l| l.shared as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, |_, _| Limits::SHARED_RESERVED as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, |_, _| 64 << 10),
        (Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE, |_, _| 32),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, |_, _| 64 << 10),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, |_, _| 64 << 10),
        (Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, |c, _| c.multiprocessors as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, |_, l| l.threads as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, |_, l| l.blocks as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, |c, _| c.capability.major as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, |c, _| c.capability.minor as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, |_, l| l.l2 as i32),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE, |_, _| 0),
        (Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE, |_, _| 1_410_000),
        (Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, |_, _| 1_215_000),
        (Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, |_, _| 5120),
        (Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, |_, _| 0),
        (Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, |_, _| 1),
        (Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, |_, _| 0),
        (Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, |_, _| 0),
        (Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED, |_, _| 0),
        (Attribute::CU_DEVICE_ATTRIBUTE_ECC_ENABLED, |_, _| 1),
        (Attribute::CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, |_, _| 1),
        (Attribute::CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, |_, _| 2),
        (Attribute::CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, |_, _| 1),
        (Attribute::CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, |_, _| 0),
        (Attribute::CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, |_, _| 0),
        (Attribute::CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, |_, _| 1),
        (Attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, |_, _| 1),
        (Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, |_, _| 1),
        (Attribute::CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH, |c, _| i32::from(c.capability.major >= 9)),
    ];
    let found = TABLE.iter().find(|(attribute, _)| *attribute as i32 == number);
    let (_, value) = found.ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
    Ok(value(config, &Limits::of(config.capability)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residency_is_the_tightest_limit() {
        let ampere = Limits::of(Capability::AMPERE);
        assert_eq!(ampere.resident_blocks(256, 0), 8);
        assert_eq!(ampere.resident_blocks(32, 0), 32);
        assert_eq!(ampere.resident_blocks(256, 80 << 10), 2);
        assert_eq!(ampere.resident_blocks(256, ampere.shared_per_block), 1);
    }

    #[test]
    fn a_block_may_have_what_the_guide_says() {
        let most = |capability| Limits::of(capability).shared_per_block >> 10;
        assert_eq!([Capability::AMPERE, Capability::ADA, Capability::HOPPER].map(most), [163, 99, 227]);
    }
}
