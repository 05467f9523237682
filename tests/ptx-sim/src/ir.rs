//! What a parsed module is: kernels as flat lists of decoded instructions, registers and labels resolved to indices.

use std::collections::BTreeMap;

use crate::convert::Conversion;
use crate::float::{Arith, Format, Mode};
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
#[derive(Debug, Clone)]
pub(crate) struct Instruction {
    pub op: Op,
    /// Predicate register, and whether it is negated.
    pub guard: Option<(Register, bool)>,
    /// Line in the PTX text, from 1.
    pub line: usize,
    pub text: Box<str>,
    pub class: Class,
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

/// `[base + offset]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    pub base: Operand,
    pub offset: i64,
}

/// An integer or bit operation on up to four operands; the unused ones are zero.
pub(crate) type Compute = fn([u64; 4]) -> u64;

/// The second part of `setp` and the reductions of `vote`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bool {
    And,
    Or,
    Xor,
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
#[derive(Debug, Clone)]
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
        space: Space,
        ty: Type,
        d: Vec<Option<Register>>,
        at: Address,
    },
    Store {
        space: Space,
        ty: Type,
        s: Vec<Operand>,
        at: Address,
    },
    Atomic {
        f: Compute,
        space: Space,
        ty: Type,
        d: Option<Register>,
        at: Address,
        s: [Operand; 2],
    },
    Branch {
        target: usize,
    },
    Exit,
    Trap,
    Barrier,
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
    Nothing,
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
