//! What a launch can end in besides success.

use std::sync::Arc;

use thiserror::Error;

use crate::types::Space;

/// A fault, and where it happened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{kernel}{}: {fault}", .place.as_ref().map(|place| place.to_string()).unwrap_or_default())]
pub struct Finding {
    /// The kernel's name.
    pub kernel: String,
    /// The thread and its instruction; `None` if the launch never began.
    pub place: Option<Place>,
    /// What is wrong.
    pub fault: Fault,
}

/// A thread at an instruction.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(", thread {thread:?} of block {block:?}, line {line} `{text}`")]
pub struct Place {
    /// `%ctaid`.
    pub block: [u32; 3],
    /// `%tid`.
    pub thread: [u32; 3],
    /// Line in the PTX text, from 1.
    pub line: usize,
    /// That line.
    pub text: Arc<str>,
}

/// What can go wrong in a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// An access outside every allocation, or past the end of one.
    #[error("{bytes} bytes at {address:#x} are out of bounds in {space:?} memory")]
    OutOfBounds {
        /// Space accessed.
        space: Space,
        /// Address within it.
        address: u64,
        /// Bytes accessed.
        bytes: usize,
    },
    /// An address that is not a multiple of the access's size.
    #[error("{bytes} bytes at {address:#x} are misaligned")]
    Misaligned {
        /// Address accessed.
        address: u64,
        /// Bytes accessed.
        bytes: usize,
    },
    /// A read of bytes nobody has written.
    #[error("reads uninitialised {space:?} memory at {address:#x}")]
    Uninitialised {
        /// Space read.
        space: Space,
        /// First such byte.
        address: u64,
    },
    /// A read of a register nobody has written.
    #[error("reads a register that has no value")]
    UndefinedRegister,
    /// A write to a constant.
    #[error("writes to constant memory at {address:#x}")]
    ReadOnly {
        /// Address written.
        address: u64,
    },
    /// Two threads access the same byte, at least one writes, and nothing orders them.
    #[error("races with thread {thread} of block {block} at {address:#x} in {space:?} memory")]
    Race {
        /// Space of the byte.
        space: Space,
        /// First byte that races.
        address: u64,
        /// The other thread's block, as a linear index.
        block: u32,
        /// The other thread, as a linear index within its block.
        thread: u32,
    },
    /// An access to bytes that an asynchronous operation may still be reading or writing.
    #[error("accesses memory at {address:#x} that an asynchronous operation of thread {thread} is still using")]
    InFlight {
        /// First such byte.
        address: u64,
        /// The thread that started the operation, as a linear index within its block.
        thread: u32,
    },
    /// An asynchronous operation on bytes written by ordinary stores, without `fence.proxy.async` in between.
    #[error("an asynchronous operation at {address:#x} may not see what thread {thread} wrote: no proxy fence")]
    MissingProxyFence {
        /// First such byte.
        address: u64,
        /// The thread that wrote, as a linear index within its block.
        thread: u32,
    },
    /// A thread exits before its asynchronous copies are waited for.
    #[error("exits with asynchronous copies it never waited for")]
    NeverWaited,
    /// Threads wait at different barriers, or one exited while others wait.
    #[error("waits at a barrier that other threads of the block do not reach")]
    BarrierDivergence,
    /// An mbarrier operation where none was initialised, or after it was invalidated.
    #[error("there is no mbarrier at {address:#x}")]
    NoMbarrier {
        /// Address used.
        address: u64,
    },
    /// An mbarrier for no or too many arrivals, or that expects too many bytes.
    #[error("an mbarrier at {address:#x} cannot count that")]
    MbarrierCount {
        /// Its address.
        address: u64,
    },
    /// More arrivals in one phase than the mbarrier was initialised for.
    #[error("one arrival too many in a phase of the mbarrier at {address:#x}")]
    TooManyArrivals {
        /// Its address.
        address: u64,
    },
    /// A phase of an mbarrier is complete while copies it should wait for are under way: it was told of too few bytes.
    #[error("a phase of the mbarrier at {address:#x} ends before all bytes have come: it expected too few")]
    TooFewBytes {
        /// Its address.
        address: u64,
    },
    /// A bulk tensor copy whose map is none, or has another number of dimensions.
    #[error("there is no tensor map at {address:#x} that fits the instruction")]
    BadTensorMap {
        /// Its address.
        address: u64,
    },
    /// A register that an asynchronous matrix operation reads or writes is used before `wgmma.wait_group`.
    #[error("uses a register that a matrix operation is still using")]
    RegisterInFlight,
    /// A matrix operation on registers that were written since the last `wgmma.fence`.
    #[error("a matrix operation uses registers written since the last wgmma.fence")]
    MissingWgmmaFence,
    /// More threads and barriers of a block use asynchronous operations than the simulator can tell apart.
    #[error("too many threads use asynchronous operations")]
    TooManyEngines,
    /// A barrier's number is not below 16, its number of threads is not a multiple of 32 or more than the block has, or
    /// threads at it do not agree on it.
    #[error("barrier {id} for {threads} threads is impossible here")]
    BadBarrier {
        /// The barrier's number.
        id: u64,
        /// Threads it is for.
        threads: u64,
    },
    /// A shuffle reads a lane, or is executed by a lane, that its membership mask does not name.
    #[error("lane {lane} is not in the membership mask {mask:#010x}")]
    OutsideMask {
        /// The lane in question.
        lane: u32,
        /// The mask given.
        mask: u32,
    },
    /// A warp-wide operation names lanes that have exited or do not exist.
    #[error("lanes {missing:#010x} have exited or never existed")]
    MissingLanes {
        /// Those lanes.
        missing: u32,
    },
    /// A warp-wide operation waits for lanes that wait elsewhere, or threads spin and nothing changes any more.
    #[error("deadlock: waits for what cannot happen any more")]
    Deadlock,
    /// The kernel executed `trap`.
    #[error("trap")]
    Trap,
    /// The launch executed more instructions than it was allowed.
    #[error("still running after the allowed number of instructions")]
    OutOfSteps,
    /// The launch itself is wrong.
    #[error("{0}")]
    Launch(LaunchProblem),
}

/// Why a launch never began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LaunchProblem {
    /// The module has no kernel of this name.
    #[error("no such kernel")]
    NoSuchKernel,
    /// A block of no threads or more than the kernel allows, or an empty grid.
    #[error("{threads} threads a block in a grid of {blocks} blocks: the kernel allows 1 to {most} threads")]
    Extent {
        /// Threads asked for.
        threads: u64,
        /// Blocks asked for.
        blocks: u64,
        /// Most threads the kernel allows.
        most: u32,
    },
    /// The arguments do not fit the parameters.
    #[error("argument {index} does not fit the kernel's parameters")]
    Argument {
        /// The first that does not fit, from 0.
        index: usize,
    },
    /// A cooperative launch of more blocks than the device holds at once.
    #[error("a cooperative grid of {blocks} blocks: the device holds {most} of this size at once")]
    Cooperative {
        /// Blocks asked for.
        blocks: u64,
        /// Blocks that fit.
        most: u64,
    },
    /// More shared memory than a block can have.
    #[error("{bytes} bytes of shared memory are more than a block can have")]
    Shared {
        /// Static and dynamic bytes together.
        bytes: usize,
    },
}
