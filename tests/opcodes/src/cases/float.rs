//! Arithmetic in single and double precision (PTX ISA 9.7.3). The bounds of the approximate ones are the ISA's.

use ptx_sim::Format;

use crate::case::Case;
use crate::judge::{Bound, Judge};
use crate::values::{Domain, F32, F64};

const ROUNDINGS: [&str; 4] = [".rn", ".rz", ".rm", ".rp"];
const SINGLE: Judge = Judge::Number(Format::F32);

pub(super) fn cases() -> Vec<Case> {
    let mut cases = arithmetic();
    cases.extend(selection());
    cases.extend(approximations());
    cases.extend(double());
    cases
}

fn single(form: String, sources: usize) -> Case {
    Case::new(form, 32, &vec![(32, F32); sources], SINGLE)
}

fn arithmetic() -> Vec<Case> {
    let mut cases = Vec::new();
    for rounding in ROUNDINGS {
        for flush in ["", ".ftz"] {
            for saturate in ["", ".sat"] {
                cases.extend(
                    [("add", 2), ("sub", 2), ("mul", 2), ("fma", 3)]
                        .map(|(name, n)| single(format!("{name}{rounding}{flush}{saturate}.f32"), n)),
                );
            }
            cases.extend(
                [("div", 2), ("rcp", 1), ("sqrt", 1)]
                    .map(|(name, n)| single(format!("{name}{rounding}{flush}.f32"), n)),
            );
        }
    }
    cases.extend(["add.f32", "sub.f32", "mul.f32", "add.ftz.f32", "mul.ftz.f32"].map(|form| single(form.into(), 2)));
    cases
}

fn selection() -> Vec<Case> {
    let mut cases = Vec::new();
    for flush in ["", ".ftz"] {
        for name in ["min", "max"] {
            cases.extend(["", ".NaN"].map(|nan| single(format!("{name}{flush}{nan}.f32"), 2)));
        }
        cases.extend(["neg", "abs"].map(|name| single(format!("{name}{flush}.f32"), 1)));
    }
    cases
}

/// The ISA's bound and what rounding takes: the simulator's result is the true one, rounded.
fn relative(bits: f64) -> Bound {
    Bound::relative((-bits).exp2() + (-24f64).exp2())
}

fn approximations() -> Vec<Case> {
    let close = |form: String, domains: &[Domain], bound| {
        let sources: Vec<_> = domains.iter().map(|domain| (32, *domain)).collect();
        Case::new(form, 32, &sources, Judge::Close(Format::F32, bound))
    };
    let modest = Domain::Modest(8, 23);
    let mut cases = Vec::new();
    for flush in ["", ".ftz"] {
        // PTX ISA 9.7.3: div.approx at most two ulp for divisors in [2^-126, 2^126], div.full two, rcp one and ex2 two, over the
        // full range of inputs. The simulator's rounding, half an ulp at most, adds none: the two results are whole ulp apart.
        // A subnormal result has ulp too; an H100 returns some that are one off (div.full.f32: 0x7782f9 / 0xc3106e82).
        cases.push(close(format!("div.approx{flush}.f32"), &[F32; 2], Bound::ulps(2.0)));
        cases.push(close(format!("div.full{flush}.f32"), &[F32; 2], Bound::ulps(2.0)));
        cases.push(close(format!("rcp.approx{flush}.f32"), &[F32], Bound::ulps(1.0)));
        cases.push(close(format!("sqrt.approx{flush}.f32"), &[F32], relative(23.0)));
        cases.push(close(format!("rsqrt.approx{flush}.f32"), &[F32], relative(22.9)));
        cases.push(close(format!("ex2.approx{flush}.f32"), &[F32], Bound::ulps(2.0)));
        cases.push(close(format!("ex2.approx{flush}.f32 (modest)"), &[modest], Bound::ulps(2.0)));
        // Absolute near one, where the logarithm is near zero.
        let log = Bound { absolute: (-22f64).exp2(), ..relative(22.0) };
        cases.push(close(format!("lg2.approx{flush}.f32"), &[F32], log));
        for name in ["sin", "cos"] {
            let range = Domain::Modest(8, 23);
            let scaled = format!("mul.f32 %s0, %s0, 0f3C800000; {name}.approx{flush}.f32 %d0, %s0;");
            let judge = Judge::Close(Format::F32, Bound::absolute((-20.5f64).exp2()));
            cases.push(Case::with(format!("{name}.approx{flush}.f32"), &scaled, &[32], &[(32, range)], judge));
        }
    }
    cases.push(close("tanh.approx.f32".into(), &[F32], relative(11.0)));
    cases
}

fn double() -> Vec<Case> {
    let forms = [
        ("add.rn", 2),
        ("sub.rn", 2),
        ("mul.rn", 2),
        ("add", 2),
        ("sub", 2),
        ("mul", 2),
        ("fma.rn", 3),
        ("div.rn", 2),
        ("rcp.rn", 1),
        ("sqrt.rn", 1),
        ("min", 2),
        ("max", 2),
        ("neg", 1),
        ("abs", 1),
    ];
    forms
        .map(|(name, n)| Case::new(format!("{name}.f64"), 64, &vec![(64, F64); n], Judge::Number(Format::F64)))
        .to_vec()
}
