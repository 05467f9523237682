//! What a parsed module is: kernels as flat lists of decoded instructions, registers and labels resolved to indices.

use std::collections::BTreeMap;

use crate::convert::Conversion;
use crate::float::{Arith, Format, Mode};
use crate::order::{Order, Scope};
use crate::types::{Space, Type};

/// A parsed PTX module.
#[derive(Debug, Clone)]
pub struct Module {
    pub(crate) kernels: BTreeMap<String, Kernel>,
    pub(crate) globals: Vec<Global>,
}

/// One `.entry`.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) params: Vec<Param>,
    pub(crate) param_bytes: usize,
    pub(crate) registers: Vec<Type>,
    pub(crate) code: Vec<Instruction>,
    /// Bytes of `.shared` variables; dynamic shared memory starts here.
    pub(crate) shared: usize,
    pub(crate) local: usize,
    /// `.maxntid` or `.reqntid`, as a number of threads.
    pub(crate) max_threads: u32,
    /// Whether it has asynchronous matrix operations, whose registers must be watched.
    pub(crate) wgmma: bool,
}

/// One kernel parameter.
#[derive(Debug, Clone)]
pub(crate) struct Param {
    pub offset: usize,
    pub bytes: usize,
}

/// A module-level `.global` or `.const` variable.
#[derive(Debug, Clone)]
pub(crate) struct Global {
    pub data: Vec<u8>,
    pub constant: bool,
}

/// An instruction and where it came from.
#[derive(Clone)]
pub(crate) struct Instruction {
    pub op: Op,
    /// Predicate register, and whether it is negated.
    pub guard: Option<(Register, bool)>,
    /// Line in the PTX text, from 1.
    pub line: usize,
    pub text: Box<str>,
    pub class: Class,
    /// Registers it writes.
    pub writes: Box<[Register]>,
}

/// What kind of work an instruction is, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Class {
    Integer,
    Float,
    Convert,
    Move,
    Memory,
    Control,
    Warp,
    Matrix,
    Copy,
    Barrier,
}

impl Class {
    pub(crate) const COUNT: usize = 10;
    /// All, in the order of their numbers.
    pub(crate) const ALL: [Class; Class::COUNT] = {
        use Class::*;
        [Integer, Float, Convert, Move, Memory, Control, Warp, Matrix, Copy, Barrier]
    };
}

/// Index into a thread's registers.
pub(crate) type Register = u32;

/// A source operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operand {
    Register(Register),
    Immediate(u64),
    Special(Special),
    /// Address of a module-level variable.
    Global(u32),
    /// Where dynamic shared memory starts.
    DynamicShared,
}

/// Predefined read-only registers (PTX ISA 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    Thread(usize),
    BlockSize(usize),
    Block(usize),
    GridSize(usize),
    Lane,
    Warp,
    WarpSize,
    LanesBelow,
    LanesBelowOrEqual,
    LanesAbove,
    LanesAboveOrEqual,
    LaneBit,
    WarpCount,
    DynamicSharedSize,
    TotalSharedSize,
    /// The processor a block runs on, and how many there are.
    Processor,
    ProcessorCount,
    GridId,
    /// Warp instructions executed so far: deterministic, and as good as a clock.
    Clock,
    ClusterIndex,
    ClusterSize,
}

/// The phase of an mbarrier that is waited for: the one of a parity, or the one an arrival returned.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Phase {
    Parity(Operand),
    State(Operand),
}

/// `wgmma.mma_async`.
#[derive(Debug, Clone)]
pub(crate) struct Wgmma {
    pub format: Format,
    pub d: Vec<Register>,
    pub a: MatrixA,
    /// Descriptor.
    pub b: Operand,
    pub b_transposed: bool,
    /// Whether d is added to.
    pub scale_d: Flag,
    pub negated: bool,
}

/// Where the left matrix comes from.
#[derive(Debug, Clone)]
pub(crate) enum MatrixA {
    Registers(Vec<Operand>),
    Shared { descriptor: Operand, transposed: bool },
}

/// `[base + offset]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    pub base: Operand,
    pub offset: i64,
}

/// An operation on up to four operands, the unused ones zero: for one thread, or at once for all of a warp.
pub(crate) trait Lanewise: Sync {
    fn one(&self, s: [u64; 4]) -> u64;

    fn all(&self, d: &mut [u64; 32], s: [&[u64; 32]; 4]);
}

impl<F: Fn([u64; 4]) -> u64 + Sync> Lanewise for F {
    #[inline]
    fn one(&self, s: [u64; 4]) -> u64 {
        self(s)
    }

    // A loop over a known function, which the compiler can unroll and vectorise: the point of this trait.
    fn all(&self, d: &mut [u64; 32], s: [&[u64; 32]; 4]) {
        for lane in 0..32 {
            d[lane] = self([s[0][lane], s[1][lane], s[2][lane], s[3][lane]]);
        }
    }
}

/// See [`Lanewise`].
pub(crate) type Compute = &'static dyn Lanewise;

/// The second part of `setp` and the reductions of `vote`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bool {
    And,
    Or,
    Xor,
}

/// What an access to memory moves and orders.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transfer {
    pub space: Space,
    pub ty: Type,
    pub order: Order,
    pub scope: Scope,
}

impl Transfer {
    /// A plain access, for instructions that know its size themselves.
    pub fn plain(space: Space) -> Self {
        Transfer { space, ty: Type::B8, order: Order::Weak, scope: Scope::Block }
    }
}

/// `bar` and `barrier`: which of the block's barriers, for how many threads (`None`: all), and what happens there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meeting {
    pub id: Operand,
    pub threads: Option<Operand>,
    pub role: Role,
}

/// What a thread does at a barrier.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    Wait,
    /// Is counted, and goes on.
    Arrive,
    /// Waits, and gets a reduction of all predicates: the number, or whether all or any are true.
    Reduce(Reduction, Register, Flag),
}

/// `bar.red` operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reduction {
    Count,
    And,
    Or,
}

/// `shfl` modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// `vote` modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// A source that may be negated (predicates in `setp`, `vote`).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    pub operand: Operand,
    pub negated: bool,
}

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
            Op::CopyAsync { .. } | Op::CopyCommit | Op::CopyWait { .. } | Op::CopiesArrive { .. } => Vec::new(),
            Op::MbarrierInit { .. } | Op::MbarrierInvalidate { .. } | Op::MbarrierCount { .. } => Vec::new(),
            Op::BulkLoad { .. } | Op::BulkStore { .. } | Op::TensorLoad { .. } | Op::TensorStore { .. } => Vec::new(),
            Op::BulkCommit | Op::BulkWait { .. } => Vec::new(),
            Op::WgmmaFence | Op::WgmmaCommit | Op::WgmmaWait { .. } => Vec::new(),
        }
    }
}

impl std::fmt::Debug for Instruction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.line, self.text)
    }
}

impl Module {
    /// Names of the kernels, in alphabetical order.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.keys().map(String::as_str)
    }

    /// Sizes of a kernel's parameters in bytes; `None` if there is no such kernel.
    pub fn parameters(&self, kernel: &str) -> Option<Vec<usize>> {
        self.kernels.get(kernel).map(|k| k.params.iter().map(|param| param.bytes).collect())
    }

    /// Where a kernel's parameters lie in a buffer of all of them.
    pub fn parameter_offsets(&self, kernel: &str) -> Option<Vec<usize>> {
        self.kernels.get(kernel).map(|k| k.params.iter().map(|param| param.offset).collect())
    }

    /// Bytes of shared memory a kernel declares.
    pub fn shared(&self, kernel: &str) -> Option<usize> {
        self.kernels.get(kernel).map(|k| k.shared)
    }

    /// The most threads a block of a kernel may have.
    pub fn most_threads(&self, kernel: &str) -> Option<u32> {
        self.kernels.get(kernel).map(|k| k.max_threads)
    }

    /// Every line of a kernel that holds an instruction, with its text.
    pub fn lines(&self, kernel: &str) -> Vec<(usize, &str)> {
        let code = self.kernels.get(kernel).map(|k| k.code.as_slice()).unwrap_or_default();
        code.iter().map(|i| (i.line, i.text.as_ref())).collect()
    }
}
