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
        cases.push(returning("global", "%out", row));
        cases.push(returning("shared", "%r2", row));
        if row.0 != "exch" {
            cases.push(reducing("global", "%out", row));
            cases.push(reducing("shared", "%r2", row));
        }
    }
    for bits in [16, 32, 64] {
        cases.extend(["global", "shared"].map(|space| swapping(space, bits)));
    }
    cases.extend(["u32", "u64"].map(contended));
    cases.extend(ordered());
    cases
}

/// Eight bytes of shared memory for each thread, in `%r2`.
const PLACE: &str = "mov.u32 %r2, shared; mad.lo.u32 %r2, %t, 8, %r2;";

/// The old value and the new one.
fn returning(space: &str, at: &str, (op, ty, domain, judge, needs): Row) -> Case {
    let bits = register(ty);
    let form = format!("atom.{space}.{op}.{ty}");
    let body =
        format!("{PLACE} st.{space}.b{bits} [{at}], %s0; {form} %d0, [{at}], %s1; ld.{space}.b{bits} %d1, [{at}];");
    Case::with(form, &body, &[bits; 2], &[(bits, domain); 2], judge).needs(needs)
}

fn reducing(space: &str, at: &str, (op, ty, domain, judge, needs): Row) -> Case {
    let bits = register(ty);
    let form = format!("red.{space}.{op}.{ty}");
    let body = format!("{PLACE} st.{space}.b{bits} [{at}], %s0; {form} [{at}], %s1; ld.{space}.b{bits} %d0, [{at}];");
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
    let at = if space == "global" { "%out" } else { "%r2" };
    let form = format!("atom.{space}.cas.b{bits}");
    let body = format!(
        "{PLACE} and.b32 %r3, %t, 1; setp.eq.u32 %p, %r3, 0; selp.b{bits} %s1, %s0, %s1, %p;
        st.{space}.b{bits} [{at}], %s0; {form} %d0, [{at}], %s1, %s2; ld.{space}.b{bits} %d1, [{at}];"
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

/// Orderings and scopes change no value here.
fn ordered() -> Vec<Case> {
    ["relaxed.gpu", "acquire.gpu", "release.gpu", "acq_rel.gpu", "relaxed.cta", "acq_rel.sys"]
        .iter()
        .flat_map(|order| {
            let form = format!("atom.{order}.global.add.u32");
            let body = format!("st.global.b32 [%out], %s0; {form} %d0, [%out], %s1; ld.global.b32 %d1, [%out];");
            let atom = Case::with(form, &body, &[32; 2], &[any(32); 2], Judge::Bits);
            let form = format!("red.{order}.global.add.u32");
            let body = format!("st.global.b32 [%out], %s0; {form} [%out], %s1; ld.global.b32 %d0, [%out];");
            // A reduction returns nothing, so it acquires nothing.
            let red = Case::with(form, &body, &[32], &[any(32); 2], Judge::Bits);
            [Some(atom), Some(red).filter(|_| !order.starts_with("acq"))]
        })
        .flatten()
        .collect()
}
