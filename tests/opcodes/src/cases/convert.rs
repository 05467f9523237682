//! Conversions: every pair of types (PTX ISA 9.7.9, cvt).

use ptx_sim::Format;

use super::{any, width};
use crate::case::{Case, Needs};
use crate::judge::Judge;
use crate::values::{BF16, Domain, F16, F32, F64};

const INTEGERS: [&str; 8] = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"];

/// A floating-point type: its name, what its operands are, and its format.
type Float = (&'static str, Domain, Format);
const FLOATS: [Float; 3] = [("f16", F16, Format::F16), ("f32", F32, Format::F32), ("f64", F64, Format::F64)];

/// Numbers of 8 bits live in registers of 16.
fn register(ty: &str) -> u32 {
    if ty == "bf16" { 16 } else { width(ty).max(16) }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = integers();
    for float in FLOATS {
        cases.extend(INTEGERS.iter().flat_map(|integer| between(integer, float)));
    }
    cases.extend(floats());
    cases.extend(bf16());
    cases.extend(pairs());
    cases
}

/// Whether one type has every number of another: then there is nothing to saturate, and no form that does.
fn holds(to: &str, from: &str) -> bool {
    let signed = |ty: &str| ty.starts_with('s');
    width(to) > width(from) && (signed(to) || !signed(from))
}

fn integers() -> Vec<Case> {
    let mut cases = Vec::new();
    for from in INTEGERS {
        for to in INTEGERS.into_iter().filter(|to| *to != from) {
            let saturates = if holds(to, from) { &[""][..] } else { &["", ".sat"] };
            for saturate in saturates {
                // The upper half of a register that holds 8 bits is not looked at, whatever it is.
                let form = format!("cvt{saturate}.{to}.{from}");
                cases.push(Case::new(form, register(to), &[any(register(from))], Judge::Bits));
            }
        }
    }
    cases
}

/// To an integer in four roundings, and from one.
fn between(integer: &str, (float, domain, format): Float) -> Vec<Case> {
    let mut cases = Vec::new();
    for rounding in ["rni", "rzi", "rmi", "rpi"] {
        let form = format!("cvt.{rounding}.{integer}.{float}");
        cases.push(Case::new(form, register(integer), &[(width(float), domain)], Judge::Bits));
    }
    if float == "f32" {
        let form = format!("cvt.rzi.ftz.{integer}.f32");
        cases.push(Case::new(form, register(integer), &[(32, domain)], Judge::Bits));
    }
    // Double precision in other roundings is not modelled.
    let roundings: &[&str] = if float == "f64" { &["rn"] } else { &["rn", "rz", "rm", "rp"] };
    for rounding in roundings {
        let form = format!("cvt.{rounding}.{float}.{integer}");
        cases.push(Case::new(form, width(float), &[any(register(integer))], Judge::Number(format)));
    }
    cases
}

fn float(form: &str, to: Float, from: Float) -> Case {
    Case::new(form, register(to.0), &[(register(from.0), from.1)], Judge::Number(to.2))
}

fn floats() -> Vec<Case> {
    let [f16, f32, f64] = FLOATS;
    let mut cases =
        vec![float("cvt.f32.f16", f32, f16), float("cvt.f64.f16", f64, f16), float("cvt.f64.f32", f64, f32)];
    for rounding in ["rn", "rz", "rm", "rp"] {
        cases.push(float(&format!("cvt.{rounding}.f16.f32"), f16, f32));
        cases.push(float(&format!("cvt.{rounding}.f16.f64"), f16, f64));
        cases.push(float(&format!("cvt.{rounding}.f32.f64"), f32, f64));
    }
    for rounding in ["rni", "rzi", "rmi", "rpi"] {
        cases.extend(FLOATS.map(|ty| float(&format!("cvt.{rounding}.{0}.{0}", ty.0), ty, ty)));
    }
    cases.push(float("cvt.ftz.f32.f16", f32, f16));
    cases.push(float("cvt.rn.ftz.f16.f32", f16, f32));
    cases.push(float("cvt.rn.sat.f16.f32", f16, f32));
    cases.push(float("cvt.rn.ftz.f32.f64", f32, f64));
    cases.push(float("cvt.sat.f32.f32", f32, f32));
    cases.push(float("cvt.ftz.f32.f32", f32, f32));
    cases.push(float("cvt.ftz.f64.f32", f64, f32));
    cases
}

fn bf16() -> Vec<Case> {
    let (bf16, [f16, f32, f64]) = (("bf16", BF16, Format::Bf16), FLOATS);
    let mut cases = vec![float("cvt.rn.bf16.f32", bf16, f32), float("cvt.rz.bf16.f32", bf16, f32)];
    cases.push(float("cvt.f32.bf16", f32, bf16).needs(Needs::Hopper));
    let hopper = [
        float("cvt.rn.bf16.f16", bf16, f16),
        float("cvt.rn.f16.bf16", f16, bf16),
        float("cvt.rn.bf16.f64", bf16, f64),
        float("cvt.f64.bf16", f64, bf16),
        Case::new("cvt.rzi.s32.bf16", 32, &[(16, BF16)], Judge::Bits),
        Case::new("cvt.rni.u32.bf16", 32, &[(16, BF16)], Judge::Bits),
        Case::new("cvt.rn.bf16.s32", 16, &[any(32)], Judge::Number(Format::Bf16)),
        Case::new("cvt.rn.bf16.u32", 16, &[any(32)], Judge::Number(Format::Bf16)),
    ];
    cases.extend(hopper.map(|case| case.needs(Needs::Hopper)));
    cases
}

/// Two numbers at once: the first operand becomes the upper half.
fn pairs() -> Vec<Case> {
    let mut cases = Vec::new();
    for (ty, format) in [("f16x2", Format::F16), ("bf16x2", Format::Bf16)] {
        for rounding in ["rn", "rz"] {
            cases.push(Case::new(format!("cvt.{rounding}.{ty}.f32"), 32, &[(32, F32); 2], Judge::Numbers(format)));
        }
    }
    cases
}
