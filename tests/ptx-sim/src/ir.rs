//! What a parsed module is: kernels as flat lists of decoded instructions, registers and labels resolved to indices. `op` has
//! the instructions.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::float::Format;
pub(crate) use crate::op::Op;
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
    /// Bytes of `.shared` variables, up to the next multiple of the dynamic part's alignment; that part starts here.
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
    pub text: Arc<str>,
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

    /// Bytes of shared memory a kernel declares, with those that the alignment of its dynamic part costs.
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
