//! Bit fields, permutations and packed dot products (PTX ISA 9.7.1.12 to 9.7.1.23, 9.7.8).

use super::{any, width};
use crate::case::Case;
use crate::judge::Judge;
use crate::values::Domain;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = counts();
    cases.extend(fields());
    cases.push(Case::new("prmt.b32", 32, &[any(32), any(32), any(32)], Judge::Bits));
    cases.extend(logic3());
    for form in ["shf.l.wrap.b32", "shf.r.wrap.b32", "shf.l.clamp.b32", "shf.r.clamp.b32"] {
        cases.push(Case::new(form, 32, &[any(32), any(32), (32, Domain::Shift)], Judge::Bits));
    }
    for form in ["dp4a.s32.s32", "dp4a.u32.u32", "dp4a.u32.s32", "dp4a.s32.u32"] {
        cases.push(Case::new(form, 32, &[any(32); 3], Judge::Bits));
    }
    cases
}

fn counts() -> Vec<Case> {
    let mut cases = Vec::new();
    for bits in [32, 64] {
        cases.extend(["popc", "clz"].map(|name| Case::new(format!("{name}.b{bits}"), 32, &[any(bits)], Judge::Bits)));
        cases.push(Case::new(format!("brev.b{bits}"), bits, &[any(bits)], Judge::Bits));
        for sign in ["u", "s"] {
            cases.push(Case::new(format!("bfind.{sign}{bits}"), 32, &[any(bits)], Judge::Bits));
        }
    }
    // The base is a bit position; the offset counts from it, either way.
    let nth = [any(32), (32, Domain::Below(32)), (32, Domain::Below(40))];
    cases.push(Case::new("fns.b32", 32, &nth, Judge::Bits));
    cases.push(Case::with("fns.b32 (back)", "neg.s32 %r2, %s2; fns.b32 %d0, %s0, %s1, %r2;", &[32], &nth, Judge::Bits));
    cases
}

fn fields() -> Vec<Case> {
    // Position and length are the low eight bits of their operands.
    let place = [(32, Domain::Shift); 2];
    let mut cases: Vec<Case> = ["u32", "s32", "u64", "s64"]
        .map(|ty| Case::new(format!("bfe.{ty}"), width(ty), &[&[any(width(ty))], &place[..]].concat(), Judge::Bits))
        .to_vec();
    cases.extend(
        [32, 64]
            .map(|bits| Case::new(format!("bfi.b{bits}"), bits, &[&[any(bits); 2], &place[..]].concat(), Judge::Bits)),
    );
    cases
}

/// The truth table is part of the instruction.
fn logic3() -> Vec<Case> {
    [0x00, 0x80, 0xe8, 0x96, 0xca, 0xf8, 0x1e, 0xea, 0x6a, 0xff]
        .map(|table| {
            let body = format!("lop3.b32 %d0, %s0, %s1, %s2, {table};");
            Case::with(format!("lop3.b32 ({table:#04x})"), &body, &[32], &[any(32); 3], Judge::Bits)
        })
        .to_vec()
}
