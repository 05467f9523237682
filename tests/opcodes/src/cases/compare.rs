//! Comparisons (PTX ISA 9.7.6).

use super::{any, width};
use crate::case::{Case, Needs};
use crate::judge::Judge;
use crate::values::{BF16, Domain, F16, F32, F64};

const ORDERED: [&str; 6] = ["eq", "ne", "lt", "le", "gt", "ge"];
const UNORDERED: [&str; 8] = ["equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for ty in ["u16", "s16", "u32", "s32", "u64", "s64"] {
        cases.extend(ORDERED.map(|how| compare(how, "", ty, Domain::Bits(width(ty)))));
    }
    for ty in ["u16", "u32", "u64"] {
        cases.extend(["lo", "ls", "hi", "hs"].map(|how| compare(how, "", ty, Domain::Bits(width(ty)))));
    }
    for ty in ["b16", "b32", "b64"] {
        cases.extend(["eq", "ne"].map(|how| compare(how, "", ty, Domain::Bits(width(ty)))));
    }
    for how in ORDERED.into_iter().chain(UNORDERED) {
        cases.push(compare(how, "", "f32", F32));
        cases.push(compare(how, ".ftz", "f32", F32));
        cases.push(compare(how, "", "f64", F64));
        cases.push(compare(how, "", "f16", F16));
        cases.push(compare(how, "", "bf16", BF16).needs(Needs::Hopper));
    }
    cases.extend(["and", "or", "xor"].map(combined));
    cases
}

/// Two operands that are often equal, often neighbours, often unrelated.
fn compare(how: &str, flush: &str, ty: &str, domain: Domain) -> Case {
    let bits = if ty == "bf16" { 16 } else { width(ty) };
    let form = format!("setp.{how}{flush}.{ty}");
    let body = format!(
        "and.b32 %r2, %s2, 3; setp.eq.u32 %p, %r2, 0; selp.b{bits} %s1, %s0, %s1, %p;
        {form} %p, %s0, %s1; selp.b32 %d0, 1, 0, %p;"
    );
    Case::with(form, &body, &[32], &[(bits, domain), (bits, domain), any(32)], Judge::Bits)
}

/// A second predicate, and both results.
fn combined(with: &str) -> Case {
    let form = format!("setp.lt.{with}.s32");
    let body = format!(
        "setp.ne.u32 %p, %s2, 0; {form} %p|%q, %s0, %s1, %p;
        selp.b32 %d0, 1, 0, %p; selp.b32 %d1, 1, 0, %q;"
    );
    Case::with(form, &body, &[32, 32], &[any(32), any(32), (32, Domain::Below(2))], Judge::Bits)
}
