//! Work for a device: what streams queue, captures record, and graphs repeat.

use crate::arguments::{HostFunction, HostMemory};
use crate::device::State;
use crate::handle::Id;
use crate::launch::Launch;
use crate::status::{Result, Status};
use crate::stream::Marker;

/// Where a copy to the device comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The host's memory, read when the copy's turn comes: pinned memory, or a copy in a graph.
    Later(HostMemory, usize),
    /// Bytes the driver has put aside, as it does for memory that is not pinned.
    Now(Vec<u8>),
}

#[derive(Debug, Clone)]
pub(crate) enum Work {
    Launch(Launch),
    Upload {
        to: u64,
        from: Source,
    },
    Download {
        to: HostMemory,
        from: u64,
        bytes: usize,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    /// `pattern`, `count` times.
    Fill {
        at: u64,
        pattern: Pattern,
        count: usize,
    },
    Call(HostFunction),
    Free(u64),
    Record {
        event: Id,
        records: u64,
    },
    Wait(Marker),
}

/// One, two or four bytes to fill memory with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pattern {
    bytes: [u8; 4],
    width: usize,
}

impl Pattern {
    pub fn new(value: u32, width: usize) -> Self {
        Pattern { bytes: value.to_le_bytes(), width }
    }

    pub fn width(self) -> usize {
        self.width
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.width]
    }
}

impl Work {
    /// Whether it may be part of a graph. Freeing may with the real driver, where it pairs with an allocation in the graph.
    pub fn can_be_recorded(&self) -> bool {
        !matches!(self, Work::Free(_) | Work::Record { .. } | Work::Wait(_))
    }
}

impl State {
    /// Does a piece of work. A failure ends the context.
    pub fn execute(&mut self, work: Work) {
        if let Err(status) = self.attempt(work) {
            // A launch has said more about it already.
            if self.check_failure().is_ok() {
                self.fail(status, format!("a copy, fill or free fails: {status:?}"));
            }
        }
    }

    fn attempt(&mut self, work: Work) -> Result {
        match work {
            Work::Launch(launch) => self.launch(&launch),
            Work::Upload { to, from: Source::Now(data) } => self.memory.write(to, &data),
            Work::Upload { to, from: Source::Later(from, bytes) } => self.memory.write(to, &from.read(bytes)?),
            Work::Download { to, from, bytes } => to.write(&self.memory.read(from, bytes)?),
            Work::Copy { to, from, bytes } => self.memory.copy(to, from, bytes),
            Work::Fill { at, pattern, count } => self.memory.fill(at, pattern.bytes(), count),
            Work::Call(function) => {
                function.call();
                Ok(())
            }
            Work::Free(address) => self.memory.free(address),
            Work::Record { event, records } => {
                self.reach(event, records);
                Ok(())
            }
            // Streams resolve these before they get here.
            Work::Wait(_) => Err(Status::CUDA_ERROR_UNKNOWN),
        }
    }
}
