//! A device's memory: the simulator's, with a size, and with the driver's codes for what goes wrong.
//!
//! Addresses are never used twice, so that a use after a free is out of bounds as any other.

use std::collections::BTreeMap;

use ptx_sim::{Buffer, Fault};

use crate::status::{Result, Status};

pub(crate) struct Memory {
    pub simulated: ptx_sim::Memory,
    allocations: BTreeMap<u64, Allocation>,
    used: u64,
    total: u64,
}

struct Allocation {
    buffer: Buffer,
    bytes: u64,
}

/// What an allocation is rounded up to, as real ones are (`cuMemAlloc` aligns to 256 bytes).
const GRAIN: u64 = 512;

impl Memory {
    pub fn new(total: u64) -> Self {
        Memory { simulated: ptx_sim::Memory::new(), allocations: BTreeMap::new(), used: 0, total }
    }

    pub fn free_bytes(&self) -> u64 {
        self.total - self.used
    }

    pub fn alloc(&mut self, bytes: usize) -> Result<u64> {
        if bytes == 0 {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        let taken = (bytes as u64).next_multiple_of(GRAIN);
        if taken > self.free_bytes() {
            return Err(Status::CUDA_ERROR_OUT_OF_MEMORY);
        }
        let buffer = self.simulated.alloc(bytes);
        self.used += taken;
        self.allocations.insert(buffer.address(), Allocation { buffer, bytes: taken });
        Ok(buffer.address())
    }

    pub fn free(&mut self, address: u64) -> Result {
        let allocation = self.allocations.remove(&address).ok_or(Status::CUDA_ERROR_INVALID_VALUE)?;
        self.used -= allocation.bytes;
        self.simulated.free(allocation.buffer);
        Ok(())
    }

    /// Whether an address is that of an allocation.
    pub fn is_allocated(&self, address: u64) -> bool {
        self.allocations.contains_key(&address)
    }

    /// Whether a stretch lies within one allocation.
    pub fn holds(&self, address: u64, bytes: usize) -> bool {
        let room = |(buffer, offset): (Buffer, u64)| (self.simulated.size(buffer) as u64).saturating_sub(offset);
        bytes == 0 || self.simulated.buffer(address).is_some_and(|place| bytes as u64 <= room(place))
    }

    pub fn write(&mut self, address: u64, data: &[u8]) -> Result {
        if data.is_empty() { Ok(()) } else { self.simulated.write_bytes(address, data).map_err(status_of) }
    }

    /// Writes a pattern `count` times.
    pub fn fill(&mut self, address: u64, pattern: &[u8], count: usize) -> Result {
        if count == 0 { Ok(()) } else { self.simulated.fill(address, pattern, count).map_err(status_of) }
    }

    /// Bytes of memory. Those nobody wrote read as the simulator's poison: copying them is allowed, computing with them not.
    pub fn read(&self, address: u64, bytes: usize) -> Result<Vec<u8>> {
        let mut data = vec![0; bytes];
        match self.simulated.read_bytes(address, &mut data) {
            Err(Fault::Uninitialised { .. }) | Ok(()) => Ok(data),
            Err(_) if bytes == 0 => Ok(data),
            Err(fault) => Err(status_of(fault)),
        }
    }

    /// Copies, poison included.
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result {
        if bytes == 0 { Ok(()) } else { self.simulated.copy_bytes(to, from, bytes).map_err(status_of) }
    }
}

/// The code under which a GPU would report a fault, if it noticed at all.
pub(crate) fn status_of(fault: Fault) -> Status {
    match fault {
        Fault::OutOfBounds { .. } | Fault::ReadOnly { .. } => Status::CUDA_ERROR_ILLEGAL_ADDRESS,
        Fault::Misaligned { .. } => Status::CUDA_ERROR_MISALIGNED_ADDRESS,
        Fault::OutOfSteps | Fault::Deadlock => Status::CUDA_ERROR_LAUNCH_TIMEOUT,
        _ => Status::CUDA_ERROR_LAUNCH_FAILED,
    }
}
