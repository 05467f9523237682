//! Atomic operations (PTX ISA 9.7.13.5 and .6): each thread on a word of its own, where the order of threads does not matter; and all
//! threads on one, with operations whose order cannot be seen.

use ptx_sim::Format;

use super::{any, width};
use crate::case::{Case, Needs};
use crate::judge::Judge;
use crate::values::{BF16, BF16X2, Domain, F16, F16X2, F32, F64};

/// Operation, type, what operands are, judge, and what it needs.
type Row = (&'static str, &'static str, Domain, Judge, Needs);

fn rows() -> Vec<Row> {
    let bits = |op, ty: &'static str| (op, ty, Domain::Bits(width(ty)), Judge::Bits, Needs::Ampere);
    let mut rows: Vec<Row> = ["u32", "s32", "u64"].map(|ty| bits("add", ty)).to_vec();
    for op in ["min", "max"] {
        rows.extend(["u32", "s32", "u64", "s64"].map(|ty| bits(op, ty)));
    }
    for op in ["and", "or", "xor", "exch"] {
        rows.extend(["b32", "b64"].map(|ty| bits(op, ty)));
    }
    rows.extend(["inc", "dec"].map(|op| bits(op, "u32")));
    rows.push(("add", "f32", F32, Judge::Number(Format::F32), Needs::Ampere));
    rows.push(("add", "f64", F64, Judge::Number(Format::F64), Needs::Ampere));
    rows.push(("add.noftz", "f16", F16, Judge::Number(Format::F16), Needs::Ampere));
    rows.push(("add.noftz", "f16x2", F16X2, Judge::Numbers(Format::F16), Needs::Ampere));
    rows.push(("add.noftz", "bf16", BF16, Judge::Number(Format::Bf16), Needs::Hopper));
    rows.push(("add.noftz", "bf16x2", BF16X2, Judge::Numbers(Format::Bf16), Needs::Hopper));
    rows
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for row in rows() {
        // Without a space the address is generic.
        for (space, at) in [(".global", "%out"), (".shared", "%r2"), ("", "%out")] {
            cases.push(returning(space, at, row));
            cases.extend(Some(reducing(space, at, row)).filter(|_| row.0 != "exch"));
        }
        for order in ORDERS {
            let space = format!(".{order}.global");
            cases.push(returning(&space, "%out", row));
            let reduces = row.0 != "exch" && !order.starts_with("acq");
            cases.extend(Some(reducing(&space, "%out", row)).filter(|_| reduces));
        }
    }
    for bits in [16, 32, 64] {
        cases.extend([".global", ".shared", "", ".acq_rel.gpu.global"].map(|space| swapping(space, bits)));
    }
    cases.extend(["u32", "u64"].map(contended));
    cases
}

/// Eight bytes of shared memory for each thread, in `%r2`.
const PLACE: &str = "mov.u32 %r2, shared; mad.lo.u32 %r2, %t, 8, %r2;";

/// The space that a plain load or store names.
fn without_order(space: &str) -> &str {
    space.rfind('.').map_or("", |at| &space[at..])
}

/// The old value and the new one.
fn returning(space: &str, at: &str, (op, ty, domain, judge, needs): Row) -> Case {
    let bits = register(ty);
    let (form, plain) = (format!("atom{space}.{op}.{ty}"), without_order(space));
    let body =
        format!("{PLACE} st{plain}.b{bits} [{at}], %s0; {form} %d0, [{at}], %s1; ld{plain}.b{bits} %d1, [{at}];");
    Case::with(form, &body, &[bits; 2], &[(bits, domain); 2], judge).needs(needs)
}

fn reducing(space: &str, at: &str, (op, ty, domain, judge, needs): Row) -> Case {
    let bits = register(ty);
    let (form, plain) = (format!("red{space}.{op}.{ty}"), without_order(space));
    let body = format!("{PLACE} st{plain}.b{bits} [{at}], %s0; {form} [{at}], %s1; ld{plain}.b{bits} %d0, [{at}];");
    Case::with(form, &body, &[bits], &[(bits, domain); 2], judge).needs(needs)
}

fn register(ty: &str) -> u32 {
    match ty {
        "f16" | "bf16" => 16,
        "f16x2" | "bf16x2" => 32,
        _ => width(ty),
    }
}

/// Compare and swap, where every other thread's comparison succeeds.
fn swapping(space: &str, bits: u32) -> Case {
    let at = if space == ".shared" { "%r2" } else { "%out" };
    let (form, plain) = (format!("atom{space}.cas.b{bits}"), without_order(space));
    let body = format!(
        "{PLACE} and.b32 %r3, %t, 1; setp.eq.u32 %p, %r3, 0; selp.b{bits} %s1, %s0, %s1, %p;
        st{plain}.b{bits} [{at}], %s0; {form} %d0, [{at}], %s1, %s2; ld{plain}.b{bits} %d1, [{at}];"
    );
    Case::with(form, &body, &[bits; 2], &[any(bits); 3], Judge::Bits)
}

/// All threads of a block add to one word; whoever reads it after the barrier sees the sum.
fn contended(ty: &str) -> Case {
    let bits = width(ty);
    let body = format!(
        "mov.u32 %r2, shared; mov.b{bits} %d0, 0; setp.eq.u32 %p, %t, 0; @%p st.shared.b{bits} [%r2], %d0; bar.sync 0;
        atom.shared.add.{ty} %d0, [%r2], %s0; bar.sync 0; ld.shared.b{bits} %d0, [%r2];"
    );
    Case::with(format!("atom.shared.add.{ty} (contended)"), &body, &[bits], &[any(bits)], Judge::Bits)
}

/// Orderings and scopes change no value here. A reduction returns nothing, so it acquires nothing.
const ORDERS: [&str; 8] = [
    "relaxed.gpu",
    "acquire.gpu",
    "release.gpu",
    "acq_rel.gpu",
    "relaxed.cta",
    "acq_rel.cta",
    "relaxed.sys",
    "acq_rel.sys",
];
