//! Every arithmetic opcode against Rust's own arithmetic (and the `half` crate's), on random bits and the usual suspects.

use std::cmp::Ordering;

use crate::common::Rng;
use half::{bf16, f16};
use ptx_sim::{Arg, Format, Launch, Memory, Module, Round, launch};

/// Runs `instruction d, a, b, c` once a thread and returns what it wrote. Types name the registers: `f32`, `b16`, ...
/// A text with registers of its own (`%d`, `%s0` and so on, predicate `%p`) runs as it is.
fn execute(instruction: &str, d: &str, sources: &[&str], operands: &[[u64; 3]]) -> Vec<u64> {
    let mut body = format!(".reg .{d} %d; ");
    let mut list = "%d".to_owned();
    for (i, ty) in sources.iter().enumerate() {
        body += &format!(".reg .{ty} %s{i}; ld.global.{ty} %s{i}, [%rd1+{}];\n", 8 * i);
        list += &format!(", %s{i}");
    }
    let whole = match instruction.contains('%') {
        true if instruction.ends_with('}') => instruction.to_owned(),
        true => format!("{instruction};"),
        false => format!("{instruction} {list};"),
    };
    let ptx = format!(
        ".version 7.0\n.target sm_80\n.address_size 64\n.entry k(.param .u64 in, .param .u64 out) {{
        .reg .pred %p; .reg .b32 %r<3>; .reg .b64 %rd<5>;
        ld.param.u64 %rd1, [in]; ld.param.u64 %rd2, [out];
        mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; mad.lo.s32 %r0, %r1, 256, %r0;
        mad.wide.u32 %rd1, %r0, 24, %rd1; mad.wide.u32 %rd2, %r0, 8, %rd2;
        {body} {whole}
        st.global.{d} [%rd2], %d; ret; }}"
    );
    let module = Module::parse(&ptx).unwrap_or_else(|error| panic!("{instruction}: {error}"));
    let mut memory = Memory::new();
    let mut flat: Vec<u64> = operands.iter().flatten().copied().collect();
    flat.resize(operands.len().next_multiple_of(256) * 3, 1);
    let (input, out) = (memory.upload(&flat), memory.upload(&vec![0u64; flat.len() / 3]));
    let shape = Launch::new((flat.len() / 768) as u32, 256);
    launch(&module, "k", &mut memory, shape, &[Arg::Buffer(input), Arg::Buffer(out)])
        .unwrap_or_else(|finding| panic!("{instruction}: {finding}"));
    memory.read::<u64>(out).expect("initialised")[..operands.len()].to_vec()
}

const SUSPECTS: [u64; 16] = [
    0,
    1,
    0x7f,
    0x8000,
    0x8000_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0x3f80_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0x0000_8001,
    0x007f_ffff,
    0x3c00_3c00,
    0x7c00_fc00,
    u64::MAX,
];

fn operands(seed: u64) -> Vec<[u64; 3]> {
    let mut rng = Rng(seed);
    let mut all: Vec<[u64; 3]> = (0..2048).map(|_| std::array::from_fn(|_| rng.bits())).collect();
    for a in SUSPECTS {
        all.extend(SUSPECTS.map(|b| [a, b, SUSPECTS[rng.below(16)]]));
    }
    all
}

/// Checks an opcode; two NaNs of the width of `d` count as equal.
fn check(instruction: &str, d: &str, sources: &[&str], oracle: impl Fn([u64; 3]) -> u64) {
    check_on(&operands(7), instruction, d, sources, oracle);
}

fn check_on(all: &[[u64; 3]], instruction: &str, d: &str, sources: &[&str], oracle: impl Fn([u64; 3]) -> u64) {
    let is_nan = |bits: u64| match d {
        "f32" => f32::from_bits(bits as u32).is_nan(),
        "f64" => f64::from_bits(bits).is_nan(),
        _ => false,
    };
    let mask = if d.ends_with("64") { u64::MAX } else { (1 << d[1..].parse::<u32>().expect("a width")) - 1 };
    for (s, got) in all.iter().zip(execute(instruction, d, sources, all)) {
        let want = oracle(*s) & mask;
        assert!(got == want || is_nan(got) && is_nan(want), "{instruction} {s:x?}: {got:#x}, not {want:#x}");
    }
}

fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn b(value: f32) -> u64 {
    u64::from(value.to_bits())
}

#[test]
fn f32_arithmetic_rounds_as_ieee_says() {
    let two = ["f32", "f32"];
    check("add.rn.f32", "f32", &two, |s| b(f(s[0]) + f(s[1])));
    check("sub.f32", "f32", &two, |s| b(f(s[0]) - f(s[1])));
    check("mul.rn.f32", "f32", &two, |s| b(f(s[0]) * f(s[1])));
    check("div.rn.f32", "f32", &two, |s| b(f(s[0]) / f(s[1])));
    check("div.full.f32", "f32", &two, |s| b(f(s[0]) / f(s[1])));
    check("div.approx.f32", "f32", &two, |s| match (f(s[0]), f(s[1])) {
        (x, y) if y.is_finite() && y.abs() > 2f32.powi(126) => b(0.0 * x * y.signum()),
        (x, y) => b(x / y),
    });
    check("fma.rn.f32", "f32", &["f32"; 3], |s| b(f(s[0]).mul_add(f(s[1]), f(s[2]))));
    check("sqrt.rn.f32", "f32", &["f32"], |s| b(f(s[0]).sqrt()));
    check("rcp.rn.f32", "f32", &["f32"], |s| b(1.0 / f(s[0])));
    check("neg.f32", "f32", &["f32"], |s| s[0] ^ 0x8000_0000);
    check("abs.f32", "f32", &["f32"], |s| s[0] & 0x7fff_ffff);
    let flush = |x: f32| if x.is_subnormal() { 0.0f32.copysign(x) } else { x };
    check("mul.ftz.f32", "f32", &two, |s| b(flush(flush(f(s[0])) * flush(f(s[1])))));
    check("add.sat.f32", "f32", &two, |s| match f(s[0]) + f(s[1]) {
        sum if sum > 0.0 => b(sum.min(1.0)),
        _ => 0,
    });
    check("max.f32", "f32", &two, |s| b(extreme(f(s[0]), f(s[1]), true)));
    check("min.f32", "f32", &two, |s| b(extreme(f(s[0]), f(s[1]), false)));
    check("max.NaN.f32", "f32", &two, |s| match (f(s[0]), f(s[1])) {
        (x, y) if x.is_nan() || y.is_nan() => b(f32::NAN),
        (x, y) => b(extreme(x, y, true)),
    });
}

/// IEEE 754-2019 maximumNumber and minimumNumber: a number beats a NaN, and +0 is above -0.
fn extreme(x: f32, y: f32, most: bool) -> f32 {
    match (x.is_nan(), y.is_nan()) {
        (true, _) => y,
        (_, true) => x,
        _ if x == y => f32::from_bits(if most { x.to_bits() & y.to_bits() } else { x.to_bits() | y.to_bits() }),
        _ => {
            if (x > y) == most {
                x
            } else {
                y
            }
        }
    }
}

#[test]
fn f64_arithmetic_is_rusts() {
    let d = |bits| f64::from_bits(bits);
    check("add.rn.f64", "f64", &["f64"; 2], |s| (d(s[0]) + d(s[1])).to_bits());
    check("mul.f64", "f64", &["f64"; 2], |s| (d(s[0]) * d(s[1])).to_bits());
    check("div.rn.f64", "f64", &["f64"; 2], |s| (d(s[0]) / d(s[1])).to_bits());
    check("fma.rn.f64", "f64", &["f64"; 3], |s| d(s[0]).mul_add(d(s[1]), d(s[2])).to_bits());
    check("neg.f64", "f64", &["f64"], |s| (-d(s[0])).to_bits());
}

#[test]
fn directed_rounding_brackets_the_exact_sum() {
    let mut rng = Rng(3);
    let mut close = || u64::from((0.5f32 + rng.unit().abs()).to_bits()) ^ (rng.bits() & 0x8000_0000);
    let all: Vec<[u64; 3]> = (0..2000).map(|_| [close(), close(), 0]).collect();
    for (name, round) in [("add.rz.f32", Round::Zero), ("add.rm.f32", Round::Down), ("add.rp.f32", Round::Up)] {
        check_on(&all, name, "f32", &["f32"; 2], |s| b(directed(f64::from(f(s[0])) + f64::from(f(s[1])), round)));
    }
    for (name, round) in [("mul.rz.f32", Round::Zero), ("mul.rm.f32", Round::Down), ("mul.rp.f32", Round::Up)] {
        check_on(&all, name, "f32", &["f32"; 2], |s| b(directed(f64::from(f(s[0])) * f64::from(f(s[1])), round)));
    }
}

/// An exact value rounded to f32 by stepping from the nearest.
fn directed(exact: f64, round: Round) -> f32 {
    let nearest = exact as f32;
    let too_high = f64::from(nearest) > exact;
    let too_low = f64::from(nearest) < exact;
    match round {
        Round::Down if too_high => nearest.next_down(),
        Round::Up if too_low => nearest.next_up(),
        Round::Zero if exact > 0.0 && too_high => nearest.next_down(),
        Round::Zero if exact < 0.0 && too_low => nearest.next_up(),
        _ => nearest,
    }
}

#[test]
fn fma_survives_the_cases_where_rounding_twice_fails() {
    let mut rng = Rng(5);
    // Products near the midpoint of two floats, and an addend far below.
    let mut all = Vec::new();
    for _ in 0..4000 {
        let (x, y) = (1.0 + rng.unit().abs(), 1.0 + rng.unit().abs());
        let tiny = f32::from_bits(((rng.below(60) + 20) as u32) << 23 | 1);
        all.push([b(x), b(y), b(tiny)]);
        all.push([b(x), b(y), b(-tiny)]);
    }
    check_on(&all, "fma.rn.f32", "f32", &["f32"; 3], |s| b(f(s[0]).mul_add(f(s[1]), f(s[2]))));
}

#[test]
fn half_formats_agree_with_the_half_crate() {
    for bits in 0..=u16::MAX {
        let wide = [Format::F16.widen(u64::from(bits)), Format::Bf16.widen(u64::from(bits))];
        let want = [f16::from_bits(bits).to_f64(), bf16::from_bits(bits).to_f64()];
        for (wide, want) in wide.into_iter().zip(want) {
            assert!(wide.to_bits() == want.to_bits() || wide.is_nan() && want.is_nan(), "{bits:#06x}");
        }
    }
    let narrow = |x: f32, to_f16: bool| match to_f16 {
        _ if x.is_nan() => 0x7fff,
        true => u64::from(f16::from_f32(x).to_bits()),
        false => u64::from(bf16::from_f32(x).to_bits()),
    };
    check("cvt.rn.f16.f32", "b16", &["f32"], |s| narrow(f(s[0]), true));
    check("cvt.rn.bf16.f32", "b16", &["f32"], |s| narrow(f(s[0]), false));
    check("cvt.f32.f16", "f32", &["b16"], |s| b(f16::from_bits(s[0] as u16).to_f32()));
    let pair = |s: [u64; 3], to_f16| narrow(f(s[0]), to_f16) << 16 | narrow(f(s[1]), to_f16);
    check("cvt.rn.bf16x2.f32", "b32", &["f32"; 2], |s| pair(s, false));
    check("cvt.rn.f16x2.f32", "b32", &["f32"; 2], |s| pair(s, true));
}

/// a b + c in units of 2^-48, where f16 arithmetic is exact, rounded to f16 by looking at the neighbours.
fn f16_fma(a: u16, b: u16, c: u16) -> u16 {
    let fixed = |bits: u16| (f16::from_bits(bits).to_f64() * 2f64.powi(24)) as i128;
    let exact = fixed(a) * fixed(b) + (fixed(c) << 24);
    let near = f16::from_f64(exact as f64 * 2f64.powi(-48)).to_bits();
    let distance = |bits: u16| (exact - (fixed(bits) << 24)).unsigned_abs();
    let neighbours = [near.wrapping_sub(1), near, near.wrapping_add(1)].into_iter();
    let finite = neighbours.filter(|bits| f16::from_bits(*bits).is_finite());
    finite.min_by_key(|&bits| (distance(bits), bits & 1)).unwrap_or(near)
}

#[test]
fn packed_arithmetic_works_on_both_halves() {
    let mut rng = Rng(9);
    // Exponents below 2^8: nothing overflows.
    let mut small = || {
        let half = |rng: &mut Rng| (rng.bits() & 0x83ff) | (rng.below(23) as u64) << 10;
        half(&mut rng) << 16 | half(&mut rng)
    };
    let all: Vec<[u64; 3]> = (0..4000).map(|_| [small(), small(), small()]).collect();
    let halves = |s: [u64; 3], one: &dyn Fn([u16; 3]) -> u16| {
        u64::from(one(s.map(|v| (v >> 16) as u16))) << 16 | u64::from(one(s.map(|v| v as u16)))
    };
    let signless_zero = |bits: u16| if bits & 0x7fff == 0 { 0 } else { bits };
    let fma = execute("fma.rn.f16x2", "b32", &["b32"; 3], &all);
    for (s, got) in all.iter().zip(fma) {
        let got = halves([got; 3], &|v| signless_zero(v[0]));
        assert_eq!(got, halves(*s, &|v| signless_zero(f16_fma(v[0], v[1], v[2]))), "fma.rn.f16x2 {s:x?}");
    }
    let bf = |bits: u16| bf16::from_bits(bits).to_f32();
    check_on(&all, "mul.bf16x2", "b32", &["b32"; 2], |s| halves(s, &|v| bf16::from_f32(bf(v[0]) * bf(v[1])).to_bits()));
    check_on(&all, "add.f16x2", "b32", &["b32"; 2], |s| {
        halves(s, &|v| f16::from_f32(f16::from_bits(v[0]).to_f32() + f16::from_bits(v[1]).to_f32()).to_bits())
    });
    // 128 + quant - 136: the dequantisation of gemv_q4_0.
    for quant in 0..16u64 {
        let pair = 0x4300_4300 | quant << 16 | quant;
        let got = execute("fma.rn.bf16x2", "b32", &["b32"; 3], &[[pair, 0x3f80_3f80, 0xc308_c308]])[0];
        assert_eq!(bf(got as u16), quant as f32 - 8.0);
    }
}

#[test]
fn integer_arithmetic_wraps() {
    let two = ["b32", "b32"];
    let (u, i) = (|v: u64| v as u32, |v: u64| v as i32);
    check("add.s32", "b32", &two, |s| u64::from(u(s[0]).wrapping_add(u(s[1]))));
    check("sub.s64", "b64", &["b64"; 2], |s| s[0].wrapping_sub(s[1]));
    check("mul.lo.s32", "b32", &two, |s| u64::from(u(s[0]).wrapping_mul(u(s[1]))));
    check("mul.hi.u32", "b32", &two, |s| (u64::from(u(s[0])) * u64::from(u(s[1]))) >> 32);
    check("mul.hi.s32", "b32", &two, |s| ((i64::from(i(s[0])) * i64::from(i(s[1]))) >> 32) as u64);
    check("mul.wide.s32", "b64", &two, |s| (i64::from(i(s[0])) * i64::from(i(s[1]))) as u64);
    check("mul.wide.u32", "b64", &two, |s| u64::from(u(s[0])) * u64::from(u(s[1])));
    check("mul.wide.u16", "b32", &["b16"; 2], |s| u64::from(s[0] as u16) * u64::from(s[1] as u16));
    check("mad.lo.s32", "b32", &["b32"; 3], |s| u64::from(u(s[0]).wrapping_mul(u(s[1])).wrapping_add(u(s[2]))));
    check("mad.wide.s32", "b64", &["b32", "b32", "b64"], |s| {
        (i64::from(i(s[0])) * i64::from(i(s[1]))).wrapping_add(s[2] as i64) as u64
    });
    check("min.s32", "b32", &two, |s| i(s[0]).min(i(s[1])) as u64);
    check("max.u32", "b32", &two, |s| u64::from(u(s[0]).max(u(s[1]))));
    check("div.u32", "b32", &two, |s| u64::from(u(s[0]).checked_div(u(s[1])).unwrap_or(u32::MAX)));
    check("div.s32", "b32", &two, |s| if u(s[1]) == 0 { u64::MAX } else { i(s[0]).wrapping_div(i(s[1])) as u64 });
    check("rem.u32", "b32", &two, |s| u64::from(u(s[0]).checked_rem(u(s[1])).unwrap_or(u(s[0]))));
    check("neg.s32", "b32", &["b32"], |s| i(s[0]).wrapping_neg() as u64);
    check("abs.s32", "b32", &["b32"], |s| i(s[0]).wrapping_abs() as u64);
}

#[test]
fn bit_operations() {
    let two = ["b32", "b32"];
    let u = |v: u64| v as u32;
    check("and.b32", "b32", &two, |s| s[0] & s[1]);
    check("not.b32", "b32", &["b32"], |s| !s[0]);
    check("xor.b64", "b64", &["b64"; 2], |s| s[0] ^ s[1]);
    check("shl.b32", "b32", &two, |s| u64::from(u(s[0]).checked_shl(u(s[1])).unwrap_or(0)));
    check("shr.u32", "b32", &two, |s| u64::from(u(s[0]).checked_shr(u(s[1])).unwrap_or(0)));
    check("shr.s32", "b32", &two, |s| (s[0] as i32 >> u(s[1]).min(31)) as u64);
    check("shr.u64", "b64", &["b64", "b32"], |s| s[0].checked_shr(u(s[1])).unwrap_or(0));
    check("popc.b32", "b32", &["b32"], |s| u64::from(u(s[0]).count_ones()));
    check("clz.b32", "b32", &["b32"], |s| u64::from(u(s[0]).leading_zeros()));
    check("brev.b32", "b32", &["b32"], |s| u64::from(u(s[0]).reverse_bits()));
    check("shf.l.wrap.b32", "b32", &["b32"; 3], |s| ((s[1] << 32 | s[0] & 0xffff_ffff) << (s[2] & 31)) >> 32);
    check("shf.r.wrap.b32", "b32", &["b32"; 3], |s| (s[1] << 32 | s[0] & 0xffff_ffff) >> (s[2] & 31));
    check("bfe.u32", "b32", &["b32"; 3], |s| {
        (0..s[2] & 255).take(32).fold(0, |field, i| field | bit(s[0] & 0xffff_ffff, (s[1] & 255) + i) << i)
    });
    check("bfe.s32", "b32", &["b32"; 3], |s| {
        let (at, length) = (s[1] & 255, s[2] & 255);
        let sign = if length == 0 { 0 } else { bit(s[0], (at + length - 1).min(31)) };
        (0..32).fold(0, |field, i| field | (if i < length && at + i < 32 { bit(s[0], at + i) } else { sign }) << i)
    });
    check("dp4a.s32.s32", "b32", &["b32"; 3], |s| {
        let dot = (0..4).map(|i| i32::from((s[0] >> (8 * i)) as i8) * i32::from((s[1] >> (8 * i)) as i8)).sum::<i32>();
        u64::from(u(s[2]).wrapping_add(dot as u32))
    });
    check("prmt.b32", "b32", &["b32"; 3], |s| {
        let byte = |n: u64| if n & 4 == 0 { s[0] >> (8 * (n & 3)) } else { s[1] >> (8 * (n & 3)) } & 255;
        let spread = |n: u64| if n & 8 == 0 { byte(n) } else { 255 * (byte(n) >> 7) };
        (0..4).fold(0, |word, i| word | spread(s[2] >> (4 * i)) << (8 * i))
    });
}

#[test]
fn wide_and_searching_operations() {
    check("mul.hi.u64", "b64", &["b64"; 2], |s| ((u128::from(s[0]) * u128::from(s[1])) >> 64) as u64);
    check("mul.hi.s64", "b64", &["b64"; 2], |s| ((i128::from(s[0] as i64) * i128::from(s[1] as i64)) >> 64) as u64);
    check("mul.lo.u64", "b64", &["b64"; 2], |s| s[0].wrapping_mul(s[1]));
    check("mad.lo.u64", "b64", &["b64"; 3], |s| s[0].wrapping_mul(s[1]).wrapping_add(s[2]));
    check("div.u64", "b64", &["b64"; 2], |s| s[0].checked_div(s[1]).unwrap_or(u64::MAX));
    check("min.u64", "b64", &["b64"; 2], |s| s[0].min(s[1]));
    check("max.s64", "b64", &["b64"; 2], |s| (s[0] as i64).max(s[1] as i64) as u64);
    check("sqrt.rn.f64", "f64", &["f64"], |s| f64::from_bits(s[0]).sqrt().to_bits());
    check("sub.f64", "f64", &["f64"; 2], |s| (f64::from_bits(s[0]) - f64::from_bits(s[1])).to_bits());
    check("brev.b64", "b64", &["b64"], |s| s[0].reverse_bits());
    check("popc.b64", "b32", &["b64"], |s| u64::from(s[0].count_ones()));
    check("clz.b64", "b32", &["b64"], |s| u64::from(s[0].leading_zeros()));
    check("bfi.b64 %d, %s0, %s1, 40, 16", "b64", &["b64"; 2], |s| s[1] & !(0xffff << 40) | (s[0] & 0xffff) << 40);
    check("bfe.u64 %d, %s0, 40, 16", "b64", &["b64"], |s| s[0] >> 40 & 0xffff);
    check("bfind.u32", "b32", &["b32"], |s| u64::from((s[0] as u32).checked_ilog2().unwrap_or(u32::MAX)));
    check("bfind.u64", "b32", &["b64"], |s| u64::from(s[0].checked_ilog2().unwrap_or(u32::MAX)));
    check("bfind.s32", "b32", &["b32"], |s| {
        let v = s[0] as i32;
        u64::from((if v < 0 { !v } else { v } as u32).checked_ilog2().unwrap_or(u32::MAX))
    });
    let funnel = |s: [u64; 3]| s[1] << 32 | s[0] & 0xffff_ffff;
    check("shf.l.clamp.b32", "b32", &["b32"; 3], |s| {
        let by = (s[2] & 0xffff_ffff).min(32);
        if by == 32 { s[0] } else { funnel(s) << by >> 32 }
    });
    check("shf.r.clamp.b32", "b32", &["b32"; 3], |s| funnel(s) >> (s[2] & 0xffff_ffff).min(32));
    // The second bit set from bit 4 up, and the first from bit 20 down.
    let bits = |word: u64, at: std::ops::Range<u32>| at.filter(move |&i| word >> i & 1 == 1);
    check("fns.b32 %d, %s0, 4, 2", "b32", &["b32"], |s| u64::from(bits(s[0], 4..32).nth(1).unwrap_or(u32::MAX)));
    check("fns.b32 %d, %s0, 20, -1", "b32", &["b32"], |s| u64::from(bits(s[0], 0..21).next_back().unwrap_or(u32::MAX)));
    check("fns.b32 %d, %s0, 7, 0", "b32", &["b32"], |s| if s[0] >> 7 & 1 == 1 { 7 } else { u64::MAX });
}

fn bit(value: u64, at: u64) -> u64 {
    if at < 64 { value >> at & 1 } else { 0 }
}

#[test]
fn conversions_between_integers_and_floats() {
    check("cvt.rzi.s32.f32", "b32", &["f32"], |s| f(s[0]) as i32 as u64);
    check("cvt.rni.s32.f32", "b32", &["f32"], |s| f(s[0]).round_ties_even() as i32 as u64);
    check("cvt.rmi.s32.f32", "b32", &["f32"], |s| f(s[0]).floor() as i32 as u64);
    check("cvt.rzi.u32.f32", "b32", &["f32"], |s| u64::from(f(s[0]) as u32));
    check("cvt.rzi.s64.f64", "b64", &["f64"], |s| match f64::from_bits(s[0]) {
        x if x.is_nan() => 1 << 63,
        x => x as i64 as u64,
    });
    check("cvt.rzi.u32.f64", "b32", &["f64"], |s| match f64::from_bits(s[0]) {
        x if x.is_nan() => 1 << 31,
        x => u64::from(x as u32),
    });
    check("cvt.rzi.u64.f32", "b64", &["f32"], |s| if f(s[0]).is_nan() { 1 << 63 } else { f(s[0]) as u64 });
    check("cvt.rn.f32.s32", "f32", &["b32"], |s| b(s[0] as i32 as f32));
    check("cvt.rn.f32.u32", "f32", &["b32"], |s| b(s[0] as u32 as f32));
    check("cvt.rn.f32.s64", "f32", &["b64"], |s| b(s[0] as i64 as f32));
    check("cvt.rn.f32.u64", "f32", &["b64"], |s| b(s[0] as f32));
    check("cvt.rn.f64.s64", "f64", &["b64"], |s| (s[0] as i64 as f64).to_bits());
    check("cvt.rn.f32.f64", "f32", &["f64"], |s| b(f64::from_bits(s[0]) as f32));
    check("cvt.f64.f32", "f64", &["f32"], |s| f64::from(f(s[0])).to_bits());
    check("cvt.rni.f32.f32", "f32", &["f32"], |s| b(f(s[0]).round_ties_even()));
    check("cvt.sat.f32.f32", "f32", &["f32"], |s| if f(s[0]) > 0.0 { b(f(s[0]).min(1.0)) } else { 0 });
    check("cvt.s64.s32", "b64", &["b32"], |s| s[0] as i32 as u64);
    check("cvt.u64.u32", "b64", &["b32"], |s| u64::from(s[0] as u32));
    check("cvt.u32.u64", "b32", &["b64"], |s| s[0]);
    check("cvt.s32.s8", "b32", &["b32"], |s| s[0] as i8 as u64);
    check("cvt.sat.s8.s32", "b32", &["b32"], |s| (s[0] as i32).clamp(-128, 127) as u64);
    check("cvt.s8.u32", "b16", &["b32"], |s| s[0] as i8 as u64);
    check("cvt.s8.u32", "b64", &["b32"], |s| s[0] as i8 as u64);
    check("cvt.u8.s32", "b32", &["b32"], |s| u64::from(s[0] as u8));
}

#[test]
fn approximate_functions_are_within_an_ulp() {
    let mut rng = Rng(11);
    let all: Vec<[u64; 3]> = (0..4000).map(|_| [b(rng.unit() * 20.0 + 20.5), 0, 0]).collect();
    let functions = [
        ("ex2.approx.f32", f64::exp2 as fn(f64) -> f64),
        ("lg2.approx.f32", f64::log2),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt()),
        ("rcp.approx.ftz.f32", |x| 1.0 / x),
        ("tanh.approx.f32", f64::tanh),
    ];
    for (name, oracle) in functions {
        for (s, got) in all.iter().zip(execute(name, "f32", &["f32"], &all)) {
            let want = oracle(f64::from(f(s[0])));
            let error = (f64::from(f(got)) - want).abs();
            assert!(error <= want.abs() * f64::from(f32::EPSILON), "{name} {}: {} not {want}", f(s[0]), f(got));
        }
    }
}

#[test]
fn comparisons_and_selections() {
    let compare = |comparison: &str| format!("setp.{comparison} %p, %s0, %s1; selp.u32 %d, 1, 0, %p");
    let floats = ["f32", "f32"];
    check(&compare("lt.f32"), "b32", &floats, |s| u64::from(f(s[0]) < f(s[1])));
    check(&compare("ne.f32"), "b32", &floats, |s| u64::from(f(s[0]) < f(s[1]) || f(s[0]) > f(s[1])));
    let flush = |x: f32| if x.is_subnormal() { 0.0 } else { x };
    check(&compare("lt.ftz.f32"), "b32", &floats, |s| u64::from(flush(f(s[0])) < flush(f(s[1]))));
    check(&compare("neu.f32"), "b32", &floats, |s| u64::from(f(s[0]) != f(s[1])));
    check(&compare("geu.f32"), "b32", &floats, |s| u64::from(f(s[0]).partial_cmp(&f(s[1])) != Some(Ordering::Less)));
    check(&compare("nan.f32"), "b32", &floats, |s| u64::from(f(s[0]).is_nan() || f(s[1]).is_nan()));
    check(&compare("gt.s32"), "b32", &["b32"; 2], |s| u64::from(s[0] as i32 > s[1] as i32));
    check(&compare("gt.u32"), "b32", &["b32"; 2], |s| u64::from(s[0] as u32 > s[1] as u32));
    check(&compare("le.s64"), "b32", &["b64"; 2], |s| u64::from(s[0] as i64 <= s[1] as i64));
    let both = "setp.lt.u32 %p, %s0, %s1; setp.ne.and.u32 %p, %s2, 0, !%p; selp.u32 %d, 1, 0, %p";
    check(both, "b32", &["b32"; 3], |s| u64::from(s[2] as u32 != 0 && s[0] as u32 >= s[1] as u32));
}

#[test]
fn operations_with_a_constant_operand() {
    check("lop3.b32 %d, %s0, %s1, %s2, 0xEA", "b32", &["b32"; 3], |s| s[0] & s[1] | s[2]);
    check("lop3.b32 %d, %s0, %s1, %s2, 0x96", "b32", &["b32"; 3], |s| s[0] ^ s[1] ^ s[2]);
    check("bfi.b32 %d, %s0, %s1, 4, 28", "b32", &["b32"; 2], |s| s[0] << 4 | s[1] & 15);
    check("bfi.b32 %d, %s0, %s1, 24, 16", "b32", &["b32"; 2], |s| s[0] << 24 | s[1] & 0xff_ffff);
    check("{ .reg .b16 %l; .reg .b16 %h; mov.b32 {%l, %h}, %s0; mov.b32 %d, {%h, %l}; }", "b32", &["b32"], |s| {
        u64::from((s[0] as u32).rotate_left(16))
    });
    check("mov.u32 %d, -7", "b32", &[], |_| -7i64 as u64);
    check("mov.f32 %d, 0f40490FDB", "f32", &[], |_| b(std::f32::consts::PI));
}
