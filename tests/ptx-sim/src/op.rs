//! Decoded instructions: one variant for everything that is executed in its own way.

use crate::convert::Conversion;
use crate::float::{Arith, Format, Mode};
use crate::ir::{
    Address, Bool, Compute, Flag, Meeting, Operand, Phase, Register, Role, Shuffle, Transfer, Vote, Wgmma,
};
use crate::order::Scope;

/// Decoded operations. `d` is always a destination.
#[derive(Clone)]
pub(crate) enum Op {
    Compute {
        f: Compute,
        d: Register,
        s: [Operand; 4],
    },
    Arith {
        op: Arith,
        format: Format,
        packed: bool,
        mode: Mode,
        d: Register,
        s: [Operand; 3],
    },
    Convert {
        how: Conversion,
        d: Register,
        s: Operand,
    },
    ConvertPair {
        how: Conversion,
        d: Register,
        high: Operand,
        low: Operand,
    },
    Compare {
        f: fn(u64, u64) -> bool,
        d: Register,
        inverse: Option<Register>,
        s: [Operand; 2],
        with: Option<(Bool, Flag)>,
    },
    Pack {
        d: Register,
        s: Vec<Operand>,
        bits: u32,
    },
    Unpack {
        d: Vec<Option<Register>>,
        s: Operand,
        bits: u32,
    },
    Load {
        how: Transfer,
        d: Vec<Option<Register>>,
        at: Address,
    },
    Store {
        how: Transfer,
        s: Vec<Operand>,
        at: Address,
    },
    Atomic {
        f: Compute,
        how: Transfer,
        d: Option<Register>,
        at: Address,
        s: [Operand; 2],
    },
    Branch {
        target: usize,
    },
    Exit,
    Trap,
    Barrier(Meeting),
    Fence {
        scope: Scope,
    },
    ProxyFence,
    WarpBarrier {
        members: Operand,
    },
    Shuffle {
        mode: Shuffle,
        d: Register,
        valid: Option<Register>,
        s: [Operand; 3],
        members: Operand,
    },
    Vote {
        mode: Vote,
        d: Register,
        s: Flag,
        members: Operand,
    },
    Reduce {
        f: Compute,
        d: Register,
        s: Operand,
        members: Operand,
    },
    ActiveMask {
        d: Register,
    },
    /// `elect.sync`: one lane of the mask is told so.
    Elect {
        d: Option<Register>,
        elected: Register,
        members: Operand,
    },
    LoadMatrix {
        transposed: bool,
        d: Vec<Register>,
        at: Address,
    },
    Mma {
        format: Format,
        k: usize,
        d: Vec<Register>,
        a: Vec<Operand>,
        b: Vec<Operand>,
        c: Vec<Operand>,
    },
    CopyAsync {
        bytes: usize,
        to: Address,
        from: Address,
        valid: Operand,
    },
    /// Of global memory.
    Prefetch {
        at: Address,
    },
    CopyCommit,
    CopyWait {
        pending: Option<usize>,
    },
    /// `cp.async.mbarrier.arrive`; `counted` (`.noinc`) if the arrival is one of those the barrier was initialised for.
    CopiesArrive {
        at: Address,
        counted: bool,
    },
    MbarrierInit {
        at: Address,
        count: Operand,
    },
    MbarrierInvalidate {
        at: Address,
    },
    MbarrierFence,
    MbarrierArrive {
        d: Option<Register>,
        at: Address,
        count: Operand,
        bytes: Operand,
    },
    /// `expect_tx`, or `complete_tx` where the sign is negative.
    MbarrierCount {
        at: Address,
        bytes: Operand,
        sign: i64,
    },
    MbarrierTest {
        d: Register,
        at: Address,
        phase: Phase,
    },
    BulkLoad {
        to: Address,
        from: Address,
        bytes: Operand,
        barrier: Address,
    },
    BulkStore {
        to: Address,
        from: Address,
        bytes: Operand,
    },
    TensorLoad {
        to: Address,
        map: Address,
        at: Vec<Operand>,
        barrier: Address,
    },
    TensorStore {
        map: Address,
        at: Vec<Operand>,
        from: Address,
    },
    BulkCommit,
    BulkWait {
        pending: u32,
        reads_only: bool,
    },
    Wgmma(Box<Wgmma>),
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait {
        pending: u32,
    },
    Nothing,
}

impl Op {
    /// The registers it writes.
    pub(crate) fn writes(&self) -> Vec<Register> {
        match self {
            Op::Compute { d, .. } | Op::Arith { d, .. } | Op::Convert { d, .. } | Op::ConvertPair { d, .. } => vec![*d],
            Op::Pack { d, .. } | Op::Vote { d, .. } | Op::Reduce { d, .. } | Op::ActiveMask { d } => vec![*d],
            Op::MbarrierTest { d, .. } => vec![*d],
            Op::Barrier(Meeting { role: Role::Reduce(_, d, _), .. }) => vec![*d],
            Op::Compare { d, inverse, .. } => [Some(*d), *inverse].into_iter().flatten().collect(),
            Op::Shuffle { d, valid, .. } => [Some(*d), *valid].into_iter().flatten().collect(),
            Op::Elect { d, elected, .. } => [*d, Some(*elected)].into_iter().flatten().collect(),
            Op::Unpack { d, .. } | Op::Load { d, .. } => d.iter().copied().flatten().collect(),
            Op::Atomic { d, .. } | Op::MbarrierArrive { d, .. } => d.iter().copied().collect(),
            Op::LoadMatrix { d, .. } | Op::Mma { d, .. } => d.clone(),
            Op::Wgmma(product) => product.d.clone(),
            Op::Store { .. } | Op::Branch { .. } | Op::Exit | Op::Trap | Op::Barrier(_) | Op::WarpBarrier { .. } => {
                Vec::new()
            }
            Op::Fence { .. } | Op::ProxyFence | Op::MbarrierFence | Op::Nothing => Vec::new(),
            Op::Prefetch { .. } => Vec::new(),
            Op::CopyAsync { .. } | Op::CopyCommit | Op::CopyWait { .. } | Op::CopiesArrive { .. } => Vec::new(),
            Op::MbarrierInit { .. } | Op::MbarrierInvalidate { .. } | Op::MbarrierCount { .. } => Vec::new(),
            Op::BulkLoad { .. } | Op::BulkStore { .. } | Op::TensorLoad { .. } | Op::TensorStore { .. } => Vec::new(),
            Op::BulkCommit | Op::BulkWait { .. } => Vec::new(),
            Op::WgmmaFence | Op::WgmmaCommit | Op::WgmmaWait { .. } => Vec::new(),
        }
    }
}
