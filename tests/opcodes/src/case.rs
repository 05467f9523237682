//! A case: a form of an opcode in a kernel around it.
//!
//! Every thread has a row of 64-bit slots for its operands and one for its results. The frame loads operand i into `%s<i>`, a
//! register as wide as its type, runs the case's instructions, and stores `%d<i>`. Instructions find besides: `%t` (thread of the
//! block), `%g` (of the grid), `%p`, `%q` (predicates), `%h<8>`, `%r<64>`, `%w<16>` (16, 32 and 64 bits), `%out` (the thread's row of
//! results), and `shared`, 16 KiB of shared memory.

use std::fmt::Write;

use crate::judge::Judge;
use crate::values::{Domain, Rng};

/// What a form needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Compute capability 8.0.
    Ampere,
    /// 9.0.
    Hopper,
    /// 9.0 and no other.
    HopperAlone,
}

impl Needs {
    /// Whether a device of this compute capability will do.
    pub fn met_by(self, (major, minor): (i32, i32)) -> bool {
        match self {
            Needs::Ampere => major >= 8,
            Needs::Hopper => major >= 9,
            Needs::HopperAlone => (major, minor) == (9, 0),
        }
    }

    fn header(self) -> &'static str {
        match self {
            Needs::Ampere => ".version 7.8\n.target sm_80\n",
            Needs::Hopper => ".version 7.8\n.target sm_90\n",
            Needs::HopperAlone => ".version 8.0\n.target sm_90a\n",
        }
    }
}

/// A form of an opcode, and how to find out about it.
#[derive(Debug, Clone)]
pub struct Case {
    /// The opcode with its modifiers, and in parentheses what else tells this case from another of the same form.
    pub form: String,
    /// What it needs.
    pub needs: Needs,
    /// The instructions.
    pub body: String,
    /// Operands: bits of the register, and what they are.
    pub sources: Vec<(u32, Domain)>,
    /// Results: bits of the register.
    pub results: Vec<u32>,
    /// How to compare the results.
    pub judge: Judge,
    /// Threads of a block.
    pub threads: u32,
    /// Declarations outside the kernel.
    pub globals: String,
}

impl Case {
    /// `form %d0, %s0, %s1, ...;`
    pub fn new(form: impl Into<String>, result: u32, sources: &[(u32, Domain)], judge: Judge) -> Self {
        let form = form.into();
        let operands: String = (0..sources.len()).map(|i| format!(", %s{i}")).collect();
        let body = format!("{} %d0{operands};", opcode(&form));
        Case::with(form, &body, &[result], sources, judge)
    }

    /// Instructions of its own.
    pub fn with(form: impl Into<String>, body: &str, results: &[u32], sources: &[(u32, Domain)], judge: Judge) -> Self {
        Case {
            form: form.into(),
            needs: Needs::Ampere,
            body: body.to_owned(),
            sources: sources.to_vec(),
            results: results.to_vec(),
            judge,
            threads: 128,
            globals: String::new(),
        }
    }

    /// The same on newer devices only.
    pub fn needs(self, needs: Needs) -> Self {
        Case { needs, ..self }
    }

    /// The same with blocks of another size.
    pub fn threads(self, threads: u32) -> Self {
        Case { threads, ..self }
    }

    /// The same with variables.
    pub fn globals(self, globals: &str) -> Self {
        Case { globals: globals.to_owned(), ..self }
    }

    /// The opcode without what follows it.
    pub fn opcode(&self) -> &str {
        opcode(&self.form)
    }

    /// Slots of a thread's operands.
    pub fn width_in(&self) -> usize {
        self.sources.len().max(1)
    }

    /// Slots of a thread's results.
    pub fn width_out(&self) -> usize {
        self.results.len()
    }

    /// Operands of so many threads.
    pub fn operands(&self, threads: usize) -> Vec<u64> {
        let seed = self.form.bytes().fold(7u64, |hash, byte| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
        let mut rng = Rng(seed);
        let mut row = || self.sources.iter().map(|(_, domain)| domain.draw(&mut rng)).collect::<Vec<_>>();
        (0..threads).flat_map(|_| if self.sources.is_empty() { vec![0] } else { row() }).collect()
    }

    /// The kernel.
    pub fn ptx(&self) -> String {
        let mut text = format!("{}.address_size 64\n{}\n", self.needs.header(), self.globals);
        text += FRAME;
        let (width_in, width_out) = (8 * self.width_in(), 8 * self.width_out());
        let _ = writeln!(text, "mad.wide.u32 %in, %g, {width_in}, %in;\nmad.wide.u32 %out, %g, {width_out}, %out;");
        for (i, (bits, _)) in self.sources.iter().enumerate() {
            let _ = writeln!(text, ".reg .b{bits} %s{i}; ld.global.b{bits} %s{i}, [%in+{}];", 8 * i);
        }
        for (i, bits) in self.results.iter().enumerate() {
            let _ = writeln!(text, ".reg .b{bits} %d{i};");
        }
        text += &self.body;
        text.push('\n');
        for (i, bits) in self.results.iter().enumerate() {
            let _ = writeln!(text, "st.global.b{bits} [%out+{}], %d{i};", 8 * i);
        }
        text + "ret;\n}\n"
    }
}

fn opcode(form: &str) -> &str {
    form.split(' ').next().unwrap_or(form)
}

const FRAME: &str = "\
.visible .entry k(.param .u64 operands, .param .u64 results) {
.shared .align 1024 .b8 shared[16384];
.reg .pred %p; .reg .pred %q;
.reg .b16 %h<8>; .reg .b32 %r<64>; .reg .b64 %w<16>; .reg .b32 %t; .reg .b32 %g; .reg .b64 %in; .reg .b64 %out;
ld.param.u64 %in, [operands]; ld.param.u64 %out, [results];
mov.u32 %t, %tid.x; mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ntid.x; mad.lo.u32 %g, %r0, %r1, %t;
";
