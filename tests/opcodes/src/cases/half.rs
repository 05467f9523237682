//! Arithmetic in half precision and bfloat16, single and packed (PTX ISA 9.7.4).

use ptx_sim::Format;

use crate::case::{Case, Needs};
use crate::judge::{Bound, Judge};
use crate::values::{BF16, BF16X2, Domain, F16, F16X2};

/// A type of 16 bits or a pair of them.
#[derive(Clone, Copy)]
struct Half {
    name: &'static str,
    bits: u32,
    domain: Domain,
    format: Format,
}

const F16_TYPES: [Half; 2] = [
    Half { name: "f16", bits: 16, domain: F16, format: Format::F16 },
    Half { name: "f16x2", bits: 32, domain: F16X2, format: Format::F16 },
];
const BF16_TYPES: [Half; 2] = [
    Half { name: "bf16", bits: 16, domain: BF16, format: Format::Bf16 },
    Half { name: "bf16x2", bits: 32, domain: BF16X2, format: Format::Bf16 },
];

impl Half {
    fn exact(self, opcode: &str, sources: usize) -> Case {
        let judge = if self.bits == 16 { Judge::Number(self.format) } else { Judge::Numbers(self.format) };
        self.case(opcode, sources, judge)
    }

    fn close(self, opcode: &str, bound: Bound) -> Case {
        let single = self.bits == 16;
        let judge = if single { Judge::Close(self.format, bound) } else { Judge::CloseNumbers(self.format, bound) };
        self.case(opcode, 1, judge)
    }

    fn case(self, opcode: &str, sources: usize, judge: Judge) -> Case {
        Case::new(format!("{opcode}.{}", self.name), self.bits, &vec![(self.bits, self.domain); sources], judge)
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = F16_TYPES.into_iter().flat_map(f16).collect();
    cases.extend(BF16_TYPES.into_iter().flat_map(bf16));
    cases
}

fn selection(ty: Half) -> Vec<Case> {
    let mut cases: Vec<Case> = ["min", "max", "min.NaN", "max.NaN"].map(|name| ty.exact(name, 2)).to_vec();
    cases.extend(["neg", "abs"].map(|name| ty.exact(name, 1)));
    cases
}

fn f16(ty: Half) -> Vec<Case> {
    let mut cases = selection(ty);
    for flush in ["", ".ftz"] {
        for saturate in ["", ".sat"] {
            for name in ["add.rn", "sub.rn", "mul.rn"] {
                cases.push(ty.exact(&format!("{name}{flush}{saturate}"), 2));
            }
            cases.push(ty.exact(&format!("fma.rn{flush}{saturate}"), 3));
        }
    }
    cases.extend(["add", "sub", "mul"].map(|name| ty.exact(name, 2)));
    // PTX ISA 9.7.4, ex2: at most 2^-9.9 of the number. Subnormal results have no bits for that; an H100 cuts them where the
    // simulator rounds (2^-15.945, of 265.88 units, has 265), which is a unit, 2^-24, at most. For normal results it is less than
    // the other bound.
    let part = Bound::relative((-9.9f64).exp2() + (-11f64).exp2());
    cases.push(ty.close("ex2.approx", Bound { absolute: (-24f64).exp2(), ..part }));
    // tanh: at most 2^-10.987, whatever the number.
    cases.push(ty.close("tanh.approx", Bound { absolute: (-10.987f64).exp2(), ..Bound::relative((-11f64).exp2()) }));
    cases
}

fn bf16(ty: Half) -> Vec<Case> {
    let mut cases = selection(ty);
    cases.push(ty.exact("fma.rn", 3));
    for name in ["add", "sub", "mul", "add.rn", "sub.rn", "mul.rn"] {
        cases.push(ty.exact(name, 2).needs(Needs::Hopper));
    }
    cases.push(ty.close("ex2.approx.ftz", Bound::relative((-7f64).exp2() + (-9f64).exp2())).needs(Needs::Hopper));
    // PTX ISA 9.7.4, tanh: at most 2^-8, whatever the number. That is an ulp just below one, so the simulator's rounding is in it.
    cases.push(ty.close("tanh.approx", Bound::absolute((-8f64).exp2())).needs(Needs::Hopper));
    cases
}
