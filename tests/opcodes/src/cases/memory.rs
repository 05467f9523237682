//! Loads, stores and addresses in every space (PTX ISA 9.7.9).

use super::{any, width};
use crate::case::Case;
use crate::judge::Judge;
use crate::values::Domain;

const TYPES: [&str; 14] =
    ["u8", "s8", "b8", "u16", "s16", "b16", "u32", "s32", "b32", "f32", "u64", "s64", "b64", "f64"];

/// How global memory is read; hints change nothing about the bytes. Without a space the address is generic.
const LOADS: [&str; 10] = [
    "ld.global",
    "ld.global.nc",
    "ld.global.ca",
    "ld.global.cg",
    "ld.global.cs",
    "ld.global.lu",
    "ld.global.cv",
    "ld.global.L1::no_allocate",
    "ld.global.nc.L1::no_allocate",
    "ld",
];
const STORES: [&str; 7] =
    ["st.global", "st.global.wb", "st.global.cg", "st.global.cs", "st.global.wt", "st.global.L1::no_allocate", "st"];

/// Ordering changes no value that one thread stores and loads again.
const ORDERED_LOADS: [&str; 5] = [
    "ld.volatile.global",
    "ld.relaxed.gpu.global",
    "ld.relaxed.sys.global",
    "ld.acquire.gpu.global",
    "ld.acquire.sys.global",
];
const ORDERED_STORES: [&str; 5] = [
    "st.volatile.global",
    "st.relaxed.gpu.global",
    "st.relaxed.sys.global",
    "st.release.gpu.global",
    "st.release.sys.global",
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (ty, lanes) in shapes() {
        let vector = vector(lanes);
        cases.extend(LOADS.map(|opcode| load(&format!("{opcode}{vector}.{ty}"), ty, lanes)));
        cases.extend(STORES.map(|opcode| store(&format!("{opcode}{vector}.{ty}"), ty, lanes)));
        cases.extend(through(".shared", ty, lanes, "shared", 128));
        cases.extend(through(".local", ty, lanes, "local", 0));
    }
    for ty in ["u32", "s32", "b32", "f32", "u64", "b64"] {
        cases.extend(ORDERED_LOADS.map(|opcode| load(&format!("{opcode}.{ty}"), ty, 1)));
        cases.extend(ORDERED_STORES.map(|opcode| store(&format!("{opcode}.{ty}"), ty, 1)));
    }
    cases.extend(["ld.global.L1::evict_last.u32", "ld.global.L2::128B.u32"].map(|form| load(form, "u32", 1)));
    cases.push(load("ld.global.nc.L1::no_allocate.L2::128B.u32", "u32", 1));
    cases.push(load("ld.global.nc.L1::no_allocate.L2::128B.v4.u32", "u32", 4));
    cases.extend(parameters());
    cases.extend(constants());
    cases.extend(generic());
    cases
}

/// Every type alone and, as far as 16 bytes hold them, two or four at a time.
fn shapes() -> Vec<(&'static str, usize)> {
    let all = TYPES.iter().flat_map(|ty| [1, 2, 4].map(|lanes| (*ty, lanes)));
    all.filter(|(ty, lanes)| width(ty) as usize * lanes <= 128).collect()
}

fn vector(lanes: usize) -> String {
    if lanes == 1 { String::new() } else { format!(".v{lanes}") }
}

/// Registers to load into: 8 bits go into 16.
fn register(ty: &str) -> u32 {
    width(ty).max(16)
}

fn list(prefix: &str, lanes: usize) -> String {
    let names: Vec<String> = (0..lanes).map(|i| format!("{prefix}{i}")).collect();
    if lanes == 1 { names[0].clone() } else { format!("{{{}}}", names.join(", ")) }
}

/// From the thread's operands. Two slots of eight bytes are as much as a thread can load at once.
fn load(form: &str, ty: &str, lanes: usize) -> Case {
    let body = format!("{form} {}, [%in];", list("%d", lanes));
    Case::with(form, &body, &vec![register(ty); lanes], &[any(64), any(64)], Judge::Bits)
}

/// To the thread's results, over what is stored there first; the frame then stores what it loads back.
fn store(form: &str, ty: &str, lanes: usize) -> Case {
    let body = format!(
        "st.global.v2.b64 [%out], {{%s4, %s5}}; {form} [%out], {}; ld.global.v2.b64 {{%d0, %d1}}, [%out];",
        list("%s", lanes)
    );
    let mut sources = vec![any(register(ty)); 4];
    sources.extend([any(64); 2]);
    Case::with(form, &body, &[64, 64], &sources, Judge::Bits)
}

/// To a space and back, a stretch of `stride` bytes a thread (local memory is the thread's anyway).
fn through(space: &str, ty: &str, lanes: usize, name: &str, stride: u32) -> [Case; 2] {
    let vector = vector(lanes);
    let (there, back) = (format!("st{space}{vector}.{ty}"), format!("ld{space}{vector}.{ty}"));
    let stride = stride.min(128);
    let declaration = if space == ".local" { ".local .align 16 .b8 local[64];" } else { "" };
    let place = format!("{declaration} mov.u32 %r2, {name}; mad.lo.u32 %r2, %t, {stride}, %r2;");
    let values = list("%s", lanes);
    let stored = format!("{place} st{space}.b64 [%r2], %s4; {there} [%r2], {values}; ld{space}.b64 %d0, [%r2];");
    let loaded = format!("{place} st{space}.v2.b64 [%r2], {{%s4, %s5}}; {back} {}, [%r2];", list("%d", lanes));
    let mut sources = vec![any(register(ty)); 4];
    sources.extend([any(64); 2]);
    [
        Case::with(there, &stored, &[64], &sources, Judge::Bits),
        Case::with(back, &loaded, &vec![register(ty); lanes], &sources, Judge::Bits),
    ]
}

/// The kernel's own parameters: addresses that differ from run to run, so their difference is the result.
fn parameters() -> Vec<Case> {
    let body =
        "ld.param.u64 %w0, [operands]; ld.param.u32 %r2, [operands]; cvt.u32.u64 %r3, %w0; sub.u32 %d0, %r2, %r3;";
    let pair = "ld.param.v2.u32 {%r2, %r3}, [operands]; ld.param.u64 %w0, [operands]; mov.b64 %w1, {%r2, %r3};
        sub.u64 %d0, %w0, %w1;";
    vec![
        Case::with("ld.param.u32", body, &[32], &[any(32)], Judge::Bits),
        Case::with("ld.param.v2.u32", pair, &[64], &[any(32)], Judge::Bits),
        Case::with(
            "ld.param.u64",
            "ld.param.u64 %w0, [operands]; sub.u64 %d0, %w0, %w0;",
            &[64],
            &[any(32)],
            Judge::Bits,
        ),
        Case::with(
            "ld.param.f32",
            "ld.param.f32 %r2, [operands]; sub.u32 %d0, %r2, %r2;",
            &[32],
            &[any(32)],
            Judge::Bits,
        ),
    ]
}

fn constants() -> Vec<Case> {
    let table = ".const .align 16 .b32 table[8] = {1, 2, 3, 0x80000000, 0xffffffff, 0x3f800000, 7, 0};";
    let place = "mov.u64 %w0, table; cvt.u64.u32 %w1, %s0; add.u64 %w0, %w0, %w1;";
    let body = format!("{place} ld.const.u32 %d0, [%w0];");
    let vector = format!("{place} ld.const.v2.u32 {{%d0, %d1}}, [%w0];");
    vec![
        Case::with("ld.const.u32", &body, &[32], &[(32, Domain::Multiple(32, 4))], Judge::Bits).globals(table),
        Case::with("ld.const.v2.u32", &vector, &[32; 2], &[(32, Domain::Multiple(32, 8))], Judge::Bits).globals(table),
    ]
}

/// Generic addresses, made by `cvta` and taken apart by `cvta.to`.
fn generic() -> Vec<Case> {
    let global = "cvta.to.global.u64 %w1, %in; cvta.global.u64 %w2, %w1; ld.u32 %d0, [%w2]; st.u32 [%w2], %d0;";
    let shared = "mov.u64 %w1, shared; mad.wide.u32 %w1, %t, 8, %w1; cvta.shared.u64 %w2, %w1; st.b64 [%w2], %s0;
        ld.shared.b64 %d0, [%w1]; cvta.to.shared.u64 %w3, %w2; sub.u64 %d1, %w3, %w1;";
    let local = ".local .align 8 .b8 local[8]; mov.u64 %w1, local; cvta.local.u64 %w2, %w1; st.b64 [%w2], %s0;
        ld.local.b64 %d0, [%w1]; cvta.to.local.u64 %w3, %w2; sub.u64 %d1, %w3, %w1;";
    let case = |form: &str, body: &str, results: &[u32]| Case::with(form, body, results, &[any(64)], Judge::Bits);
    vec![
        case("cvta.global.u64", global, &[32]),
        case("cvta.to.global.u64", global, &[32]),
        case("ld.u32 (from cvta)", global, &[32]),
        case("st.b64 (from cvta)", shared, &[64, 64]),
        case("cvta.shared.u64", shared, &[64, 64]),
        case("cvta.to.shared.u64", shared, &[64, 64]),
        case("cvta.local.u64", local, &[64, 64]),
        case("cvta.to.local.u64", local, &[64, 64]),
        case("ldu.global.u32", "ldu.global.u32 %d0, [%in];", &[32]),
    ]
}
