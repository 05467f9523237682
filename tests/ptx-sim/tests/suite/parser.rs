//! The parser says what is wrong and where, and survives anything.

use crate::common::cases::CASES;
use crate::common::{Rng, ptx};
use ptx_sim::{Launch, Memory, Module, Problem, launch};

fn problem(body: &str) -> (usize, String, Problem) {
    let text = format!(".version 7.0\n.target sm_80\n.address_size 64\n.entry k()\n{{\n{body}\n}}\n");
    let error = Module::parse(&text).expect_err(body);
    (error.line, error.text, error.problem)
}

#[test]
fn errors_name_the_place() {
    let at = |line, text: &str, why| (line, text.to_owned(), why);
    assert_eq!(problem("add.s32 %r1, %r2, %r3;"), at(6, "%r1", Problem::Unknown));
    assert_eq!(problem("ret;\nfrobnicate.s32;"), at(7, "frobnicate.s32", Problem::Opcode));
    assert_eq!(problem(".reg .b32 %r<3>;\nadd.wrong.s32 %r0, %r1, %r2;"), at(7, "add.wrong.s32", Problem::Opcode));
    assert_eq!(problem(".reg .b32 %r<3>;\nadd.s32 %r0, %r1;"), at(7, "add.s32", Problem::Operands));
    assert_eq!(problem(".reg .b32 %r<3>;\nadd.s32 7, %r1, %r2;"), at(7, "add.s32", Problem::Operands));
    assert_eq!(problem("bra $nowhere;"), at(6, "$nowhere", Problem::Unknown));
    assert_eq!(problem(".reg .b32 %r<3>;\n.reg .b32 %r2;"), at(7, "%r2", Problem::Duplicate));
    assert_eq!(problem(".reg .b32 %r<4000000000>;"), at(6, "4000000000", Problem::TooLarge));
    assert_eq!(problem(".reg .b32 %r<2>;\nmov.u32 %r1, 0xgg;"), at(7, "0xgg", Problem::BadNumber));
    assert_eq!(problem("bar.arrive 1;"), at(6, "bar.arrive", Problem::Operands));
    assert_eq!(problem(".weird;"), at(6, ".weird", Problem::Directive));
    assert_eq!(problem("ret"), at(7, "}", Problem::Expected("an operand")));
    let text = ".version 7.0\n.func f() {}";
    assert_eq!(
        Module::parse(text).expect_err("no functions").to_string(),
        "line 2, column 1: unsupported directive: `.func`"
    );
    assert_eq!(Module::parse("\u{7}").expect_err("no bells").problem, Problem::UnexpectedCharacter);
}

#[test]
fn scopes_hide_registers_and_labels() {
    let text = ".version 7.0\n.target sm_80\n.entry k() {\n.reg .b32 %a;\nmov.u32 %a, 1;
        { .reg .b32 %a; L: mov.u32 %a, 2; }
        { .reg .b32 %a; L: mov.u32 %a, 3; }
        mov.u32 %a, %a; ret; }";
    let module = Module::parse(text).expect("well formed");
    let report = launch(&module, "k", &mut Memory::new(), Launch::new(1, 1), &[]).expect("no findings");
    assert_eq!(report.counters.thread_instructions, 5);
}

/// One small edit: a byte, a line or a word changed, dropped, doubled or moved.
fn mutate(text: &str, rng: &mut Rng) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(bytes.len());
        match rng.below(5) {
            0 => bytes[at] = rng.bits() as u8 & 0x7f,
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, b"{}[]();,.:@!%-+<>|_0x\"/*\n"[rng.below(25)]),
            3 => bytes.truncate(at.max(1)),
            _ => {
                let from = rng.below(bytes.len());
                let piece: Vec<u8> = bytes[from..bytes.len().min(from + 1 + rng.below(40))].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn ten_thousand_mutants_do_not_panic() {
    let mut rng = Rng(1);
    let texts: Vec<String> = CASES.iter().map(|(file, _)| ptx(file)).filter(|text| text.len() < 20_000).collect();
    let mut refused = 0;
    for i in 0..10_000 {
        refused += usize::from(Module::parse(&mutate(&texts[i % texts.len()], &mut rng)).is_err());
    }
    assert!(refused > 2_000, "only {refused} of 10000 were refused: the mutants are too tame");
}

#[test]
fn mutants_that_parse_run_to_a_report_or_a_finding() {
    let mut rng = Rng(2);
    let embed = ptx("embed");
    for _ in 0..300 {
        let Ok(module) = Module::parse(&mutate(&embed, &mut rng)) else { continue };
        let mut memory = Memory::new();
        let table = memory.upload(&[0x3f80u16; 64]);
        let (out, ids) = (memory.alloc(128), memory.upload(&[1u32, 0]));
        let mut args: Vec<_> = [out, table, ids].map(ptx_sim::Arg::Buffer).to_vec();
        args.push(ptx_sim::Arg::U32(16));
        let shape = Launch { steps: 10_000, ..Launch::new(1, 64).grid(1, 2) };
        let kernels: Vec<String> = module.kernels().map(str::to_owned).collect();
        for kernel in kernels {
            let _ = launch(&module, &kernel, &mut memory, shape, &args);
        }
    }
}
