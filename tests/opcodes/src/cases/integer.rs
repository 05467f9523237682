//! Integer arithmetic, logic, shifts and moves (PTX ISA 9.7.1, 9.7.8 and 9.7.9).

use super::{any, width};
use crate::case::Case;
use crate::judge::Judge;
use crate::values::Domain;

const ALL: [&str; 6] = ["u16", "s16", "u32", "s32", "u64", "s64"];
const SIGNED: [&str; 3] = ["s16", "s32", "s64"];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = arithmetic();
    cases.extend(logic());
    cases.extend(moves());
    cases
}

fn same(form: String, ty: &str, sources: usize) -> Case {
    Case::new(form, width(ty), &vec![any(width(ty)); sources], Judge::Bits)
}

fn arithmetic() -> Vec<Case> {
    let mut cases = Vec::new();
    for ty in ALL {
        for name in ["add", "sub", "mul.lo", "mul.hi", "min", "max"] {
            cases.push(same(format!("{name}.{ty}"), ty, 2));
        }
        for name in ["mad.lo", "mad.hi"] {
            cases.push(same(format!("{name}.{ty}"), ty, 3));
        }
        // What a division by zero gives is not specified.
        let divisor = (width(ty), Domain::NonZero(width(ty)));
        for name in ["div", "rem"] {
            cases.push(Case::new(format!("{name}.{ty}"), width(ty), &[any(width(ty)), divisor], Judge::Bits));
        }
    }
    for ty in SIGNED {
        cases.extend(["neg", "abs"].map(|name| same(format!("{name}.{ty}"), ty, 1)));
    }
    for ty in ["u16", "s16", "u32", "s32"] {
        let (narrow, wide) = (any(width(ty)), 2 * width(ty));
        cases.push(Case::new(format!("mul.wide.{ty}"), wide, &[narrow; 2], Judge::Bits));
        cases.push(Case::new(format!("mad.wide.{ty}"), wide, &[narrow, narrow, any(wide)], Judge::Bits));
    }
    cases
}

fn logic() -> Vec<Case> {
    let mut cases = Vec::new();
    for ty in ["b16", "b32", "b64"] {
        cases.extend(["and", "or", "xor"].map(|name| same(format!("{name}.{ty}"), ty, 2)));
        cases.push(same(format!("not.{ty}"), ty, 1));
        cases.push(shift("shl", ty));
        cases.push(shift("shr", ty));
    }
    cases.extend(ALL.map(|ty| shift("shr", ty)));
    for name in ["and", "or", "xor"] {
        let body = format!("{TWO_FLAGS} {name}.pred %p, %p, %q; selp.b32 %d0, 1, 0, %p;");
        cases.push(Case::with(format!("{name}.pred"), &body, &[32], &[FLAG; 2], Judge::Bits));
    }
    let body = format!("{TWO_FLAGS} not.pred %p, %p; selp.b32 %d0, 1, 0, %p;");
    cases.push(Case::with("not.pred", &body, &[32], &[FLAG; 2], Judge::Bits));
    cases
}

const FLAG: (u32, Domain) = (32, Domain::Below(2));
const TWO_FLAGS: &str = "setp.ne.u32 %p, %s0, 0; setp.ne.u32 %q, %s1, 0;";

fn shift(name: &str, ty: &str) -> Case {
    Case::new(format!("{name}.{ty}"), width(ty), &[any(width(ty)), (32, Domain::Shift)], Judge::Bits)
}

fn moves() -> Vec<Case> {
    let mut cases = Vec::new();
    for ty in ["b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64", "f32", "f64"] {
        cases.push(same(format!("mov.{ty}"), ty, 1));
        let body = format!("setp.ne.u32 %p, %s2, 0; selp.{ty} %d0, %s0, %s1, %p;");
        let sources = [any(width(ty)), any(width(ty)), FLAG];
        cases.push(Case::with(format!("selp.{ty}"), &body, &[width(ty)], &sources, Judge::Bits));
    }
    let body = format!("{TWO_FLAGS} mov.pred %p, %q; selp.b32 %d0, 1, 0, %p;");
    cases.push(Case::with("mov.pred", &body, &[32], &[FLAG; 2], Judge::Bits));
    cases.extend(packing());
    cases
}

fn packing() -> [Case; 6] {
    let case = |form: &str, body: &str, results: &[u32], sources: &[u32]| {
        let sources: Vec<_> = sources.iter().map(|bits| any(*bits)).collect();
        Case::with(form, body, results, &sources, Judge::Bits)
    };
    [
        case("mov.b32 (pack)", "mov.b32 %d0, {%s0, %s1};", &[32], &[16, 16]),
        case("mov.b64 (pack)", "mov.b64 %d0, {%s0, %s1};", &[64], &[32, 32]),
        case("mov.b64 (pack 4)", "mov.b64 %d0, {%s0, %s1, %s2, %s3};", &[64], &[16; 4]),
        case("mov.b32 (unpack)", "mov.b32 {%d0, %d1}, %s0;", &[16, 16], &[32]),
        case("mov.b64 (unpack)", "mov.b64 {%d0, %d1}, %s0;", &[32, 32], &[64]),
        case("mov.b64 (unpack 4)", "mov.b64 {%d0, %d1, %d2, %d3}, %s0;", &[16; 4], &[64]),
    ]
}
