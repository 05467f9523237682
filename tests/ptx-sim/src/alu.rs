//! Integer, bit and comparison operations as plain functions (PTX ISA 9.7.1, 9.7.2, 9.7.6 and 9.7.8).
//!
//! A register of any type is a `u64` with its value zero-extended; every function here keeps it so.

use std::cmp::Ordering::{self, Equal, Greater, Less};

use crate::float::Format;
use crate::ir::Compute;
use crate::types::Type;

/// The operations whose meaning follows from one integer type.
macro_rules! typed {
    ($name:expr, $t:ty, $u:ty, $wide:ty) => {{
        type T = $t;
        type U = $u;
        const BITS: u64 = <$t>::BITS as u64;
        fn get(v: u64) -> T {
            v as T
        }
        fn put(v: T) -> u64 {
            u64::from(v as U)
        }
        let f: Compute = match $name {
            "add" => &|s: [u64; 4]| put(get(s[0]).wrapping_add(get(s[1]))),
            "sub" => &|s: [u64; 4]| put(get(s[0]).wrapping_sub(get(s[1]))),
            "mul.lo" => &|s: [u64; 4]| put(get(s[0]).wrapping_mul(get(s[1]))),
            "mul.hi" => &|s: [u64; 4]| put((((get(s[0]) as i128).wrapping_mul(get(s[1]) as i128)) >> BITS) as T),
            "mul.wide" => &|s: [u64; 4]| (((get(s[0]) as i128).wrapping_mul(get(s[1]) as i128)) as $wide) as u64,
            "mad.lo" => &|s: [u64; 4]| put(get(s[0]).wrapping_mul(get(s[1])).wrapping_add(get(s[2]))),
            "mad.hi" => &|s: [u64; 4]| {
                put(((((get(s[0]) as i128).wrapping_mul(get(s[1]) as i128)) >> BITS) as T).wrapping_add(get(s[2])))
            },
            "mad.wide" => &|s: [u64; 4]| {
                (((get(s[0]) as i128).wrapping_mul(get(s[1]) as i128)) as $wide).wrapping_add(s[2] as $wide) as u64
            },
            // The result of a division by zero is unspecified; all ones is what devices return.
            "div" => &|s: [u64; 4]| if get(s[1]) == 0 { put(!0) } else { put(get(s[0]).wrapping_div(get(s[1]))) },
            "rem" => {
                &|s: [u64; 4]| if get(s[1]) == 0 { put(get(s[0])) } else { put(get(s[0]).wrapping_rem(get(s[1]))) }
            }
            "min" => &|s: [u64; 4]| put(get(s[0]).min(get(s[1]))),
            "max" => &|s: [u64; 4]| put(get(s[0]).max(get(s[1]))),
            "neg" => &|s: [u64; 4]| put((0 as T).wrapping_sub(get(s[0]))),
            "abs" => &|s: [u64; 4]| put(if get(s[0]) < 0 as T { (0 as T).wrapping_sub(get(s[0])) } else { get(s[0]) }),
            "not" => &|s: [u64; 4]| put(!get(s[0])),
            "and" => &|s: [u64; 4]| put(get(s[0]) & get(s[1])),
            "or" => &|s: [u64; 4]| put(get(s[0]) | get(s[1])),
            "xor" => &|s: [u64; 4]| put(get(s[0]) ^ get(s[1])),
            // Shift amounts are 32 bits wide and clamp.
            "shl" => &|s: [u64; 4]| if s[1] as u32 as u64 >= BITS { 0 } else { put(get(s[0]) << s[1] as u32) },
            "shr" => &|s: [u64; 4]| {
                put(get(s[0]) >> (s[1] as u32 as u64).min(BITS - 1) as u32 >> u32::from(s[1] as u32 as u64 >= BITS))
            },
            "inc" => &|s: [u64; 4]| if get(s[0]) >= get(s[1]) { 0 } else { put(get(s[0]).wrapping_add(1)) },
            "dec" => &|s: [u64; 4]| {
                if get(s[0]) == 0 || get(s[0]) > get(s[1]) { put(get(s[1])) } else { put(get(s[0]).wrapping_sub(1)) }
            },
            "exch" => &|s: [u64; 4]| put(get(s[1])),
            "cas" => &|s: [u64; 4]| put(if get(s[0]) == get(s[1]) { get(s[2]) } else { get(s[0]) }),
            "mov" => &|s: [u64; 4]| put(get(s[0])),
            "selp" => &|s: [u64; 4]| put(get(s[usize::from(s[2] & 1 == 0)])),
            _ => return None,
        };
        Some(f)
    }};
}

/// The function of an integer operation such as `mul.lo` or `shr` at a type; `None` if there is none.
///
/// `inc`, `dec`, `exch` and `cas` are the update functions of `atom`, with the old value first.
pub(crate) fn integer(name: &str, ty: Type) -> Option<Compute> {
    match ty {
        Type::U8 | Type::B8 => typed!(name, u8, u8, u16),
        Type::U16 | Type::B16 | Type::F16 | Type::Bf16 => typed!(name, u16, u16, u32),
        Type::U32 | Type::B32 | Type::F32 | Type::F16x2 | Type::Bf16x2 => typed!(name, u32, u32, u64),
        Type::U64 | Type::B64 | Type::F64 => typed!(name, u64, u64, u64),
        Type::S8 => typed!(name, i8, u8, u16),
        Type::S16 => typed!(name, i16, u16, u32),
        Type::S32 => typed!(name, i32, u32, u64),
        Type::S64 => typed!(name, i64, u64, u64),
        Type::Pred => predicate(name),
    }
}

fn predicate(name: &str) -> Option<Compute> {
    Some(match name {
        "and" => &|s: [u64; 4]| s[0] & s[1] & 1,
        "or" => &|s: [u64; 4]| (s[0] | s[1]) & 1,
        "xor" => &|s: [u64; 4]| (s[0] ^ s[1]) & 1,
        "not" => &|s: [u64; 4]| !s[0] & 1,
        "mov" => &|s: [u64; 4]| s[0] & 1,
        _ => return None,
    })
}

/// Bit operations that carry their width in their name.
pub(crate) fn bits(name: &str) -> Option<Compute> {
    Some(match name {
        "popc.b32" => &|s: [u64; 4]| u64::from((s[0] as u32).count_ones()),
        "popc.b64" => &|s: [u64; 4]| u64::from(s[0].count_ones()),
        "clz.b32" => &|s: [u64; 4]| u64::from((s[0] as u32).leading_zeros()),
        "clz.b64" => &|s: [u64; 4]| u64::from(s[0].leading_zeros()),
        "brev.b32" => &|s: [u64; 4]| u64::from((s[0] as u32).reverse_bits()),
        "brev.b64" => &|s: [u64; 4]| s[0].reverse_bits(),
        "bfind.u64" => &|s: [u64; 4]| u64::from(63u32.wrapping_sub(s[0].leading_zeros())),
        "bfind.s32" => &|s: [u64; 4]| u64::from(31u32.wrapping_sub((s[0] as i32 ^ s[0] as i32 >> 31).leading_zeros())),
        "bfind.s64" => &|s: [u64; 4]| u64::from(63u32.wrapping_sub((s[0] as i64 ^ s[0] as i64 >> 63).leading_zeros())),
        "fns.b32" => &nth_set,
        "bfind.u32" => &|s: [u64; 4]| u64::from(31u32.wrapping_sub((s[0] as u32).leading_zeros())),
        "bfe.u32" => &|s: [u64; 4]| extract(s[0] as u32 as u64, 32, false, s[1], s[2]),
        "bfe.s32" => &|s: [u64; 4]| extract(s[0] as u32 as u64, 32, true, s[1], s[2]) & 0xffff_ffff,
        "bfe.u64" => &|s: [u64; 4]| extract(s[0], 64, false, s[1], s[2]),
        "bfe.s64" => &|s: [u64; 4]| extract(s[0], 64, true, s[1], s[2]),
        "bfi.b32" => &|s: [u64; 4]| insert(s, 32) & 0xffff_ffff,
        "bfi.b64" => &|s: [u64; 4]| insert(s, 64),
        "prmt.b32" => &permute,
        "lop3.b32" => &logic3,
        "shf.l.wrap.b32" => &|s: [u64; 4]| funnel(s[0], s[1]) << (s[2] & 31) >> 32,
        "shf.r.wrap.b32" => &|s: [u64; 4]| funnel(s[0], s[1]) >> (s[2] & 31) & 0xffff_ffff,
        "shf.l.clamp.b32" => {
            &|s: [u64; 4]| (u128::from(funnel(s[0], s[1])) << (s[2] as u32).min(32) >> 32) as u32 as u64
        }
        "shf.r.clamp.b32" => &|s: [u64; 4]| funnel(s[0], s[1]) >> (s[2] as u32).min(32) & 0xffff_ffff,
        "dp4a.s32.s32" => &|s: [u64; 4]| dot4(s, |a| i64::from(a as i8), |b| i64::from(b as i8)),
        "dp4a.u32.u32" => &|s: [u64; 4]| dot4(s, i64::from, i64::from),
        "dp4a.u32.s32" => &|s: [u64; 4]| dot4(s, i64::from, |b| i64::from(b as i8)),
        "dp4a.s32.u32" => &|s: [u64; 4]| dot4(s, |a| i64::from(a as i8), i64::from),
        _ => return None,
    })
}

fn funnel(low: u64, high: u64) -> u64 {
    high << 32 | low & 0xffff_ffff
}

/// A bit field's position or length. The ISA takes them modulo 256, at any width. An H100 does for 32 bits, where there is an
/// instruction; for 64 its assembler shifts and masks, and takes all that is in the operands' 32 bits.
fn field(operand: u64, width: u64) -> u64 {
    operand & if width == 32 { 0xff } else { 0xffff_ffff }
}

fn extract(value: u64, width: u64, signed: bool, position: u64, length: u64) -> u64 {
    let (position, length) = (field(position, width), field(length, width));
    if length == 0 {
        return 0;
    }
    let sign = value >> (position + length - 1).min(width - 1) & 1 == 1;
    let field = if position >= width { 0 } else { value >> position };
    let (kept, fill) = (length.min(width.saturating_sub(position)), if signed && sign { u64::MAX } else { 0 });
    let mask = if kept >= 64 { u64::MAX } else { (1 << kept) - 1 };
    field & mask | fill & !mask
}

fn insert([bits, base, position, length]: [u64; 4], width: u64) -> u64 {
    let (position, length) = (field(position, width), field(length, width));
    if position >= width || length == 0 {
        return base;
    }
    let mask = (if length >= 64 { u64::MAX } else { (1 << length) - 1 }) << position;
    base & !mask | bits << position & mask
}

/// `fns`: where the n-th set bit is, counted from a base upwards, or downwards if n is negative.
fn nth_set([mask, base, n, _]: [u64; 4]) -> u64 {
    let (mask, base, n) = (mask as u32, base as u32 & 31, n as i32);
    let is_set = |at: &u32| mask >> at & 1 == 1;
    let found = match n {
        0 => Some(base).filter(is_set),
        1.. => (base..32).filter(is_set).nth(n as usize - 1),
        _ => (0..=base).rev().filter(is_set).nth(n.unsigned_abs() as usize - 1),
    };
    u64::from(found.unwrap_or(u32::MAX))
}

/// `prmt` in its default mode: each selector nibble picks a byte of (b, a), its top bit replicates that byte's sign.
fn permute([a, b, selector, _]: [u64; 4]) -> u64 {
    let bytes = funnel(a, b).to_le_bytes();
    (0..4).fold(0, |result, i| {
        let nibble = selector >> (4 * i) & 15;
        let byte = bytes[(nibble & 7) as usize];
        let byte = if nibble & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
        result | u64::from(byte) << (8 * i)
    })
}

/// Bit i of the result is bit (4 a + 2 b + c) of the table.
fn logic3([a, b, c, table]: [u64; 4]) -> u64 {
    let row = |i: u64| 0u64.wrapping_sub(table >> i & 1);
    let of_c = |i: u64| row(i) & !c | row(i + 1) & c;
    let of_b = |i: u64| of_c(i) & !b | of_c(i + 2) & b;
    (of_b(0) & !a | of_b(4) & a) & 0xffff_ffff
}

fn dot4(s: [u64; 4], a: fn(u8) -> i64, b: fn(u8) -> i64) -> u64 {
    let products = (0..4).map(|i| a((s[0] >> (8 * i)) as u8) * b((s[1] >> (8 * i)) as u8)).sum::<i64>();
    u64::from((s[2] as u32).wrapping_add(products as u32))
}

/// `setp` over integers: `$get` reads a register as the compared type.
macro_rules! comparison {
    ($name:expr, $get:expr) => {
        match $name {
            "eq" => Some(|a, b| $get(a) == $get(b)),
            "ne" => Some(|a, b| $get(a) != $get(b)),
            "lt" | "lo" => Some(|a, b| $get(a) < $get(b)),
            "le" | "ls" => Some(|a, b| $get(a) <= $get(b)),
            "gt" | "hi" => Some(|a, b| $get(a) > $get(b)),
            "ge" | "hs" => Some(|a, b| $get(a) >= $get(b)),
            _ => None,
        }
    };
}

/// `setp` over floats: the ordered comparisons are false on NaN, those that end in `u` true.
macro_rules! float_comparison {
    ($name:expr, $widen:expr) => {
        match $name {
            "eq" => Some(|a, b| matches!(order($widen, a, b), Some(Equal))),
            "ne" => Some(|a, b| matches!(order($widen, a, b), Some(Less | Greater))),
            "lt" => Some(|a, b| matches!(order($widen, a, b), Some(Less))),
            "le" => Some(|a, b| matches!(order($widen, a, b), Some(Less | Equal))),
            "gt" => Some(|a, b| matches!(order($widen, a, b), Some(Greater))),
            "ge" => Some(|a, b| matches!(order($widen, a, b), Some(Greater | Equal))),
            "equ" => Some(|a, b| matches!(order($widen, a, b), None | Some(Equal))),
            "neu" => Some(|a, b| matches!(order($widen, a, b), None | Some(Less | Greater))),
            "ltu" => Some(|a, b| matches!(order($widen, a, b), None | Some(Less))),
            "leu" => Some(|a, b| matches!(order($widen, a, b), None | Some(Less | Equal))),
            "gtu" => Some(|a, b| matches!(order($widen, a, b), None | Some(Greater))),
            "geu" => Some(|a, b| matches!(order($widen, a, b), None | Some(Greater | Equal))),
            "num" => Some(|a, b| order($widen, a, b).is_some()),
            "nan" => Some(|a, b| order($widen, a, b).is_none()),
            _ => None,
        }
    };
}

fn order(widen: impl Fn(u64) -> f64, a: u64, b: u64) -> Option<Ordering> {
    widen(a).partial_cmp(&widen(b))
}

/// The comparison of single-precision numbers that takes subnormal ones for zero.
pub(crate) fn flushing_comparison(name: &str) -> Option<fn(u64, u64) -> bool> {
    float_comparison!(name, |v| Format::F32.widen(Format::F32.flush(v)))
}

/// The comparison a `setp` modifier names at a type. The unordered ones (`ltu` and so on) are true on NaN.
pub(crate) fn comparison(name: &str, ty: Type) -> Option<fn(u64, u64) -> bool> {
    match ty {
        Type::U16 | Type::B16 => comparison!(name, |v: u64| v as u16),
        Type::U32 | Type::B32 => comparison!(name, |v: u64| v as u32),
        Type::U64 | Type::B64 => comparison!(name, |v: u64| v),
        Type::S16 => comparison!(name, |v: u64| v as i16),
        Type::S32 => comparison!(name, |v: u64| v as i32),
        Type::S64 => comparison!(name, |v: u64| v as i64),
        Type::F32 => float_comparison!(name, |v| Format::F32.widen(v)),
        Type::F64 => float_comparison!(name, |v| Format::F64.widen(v)),
        Type::F16 => float_comparison!(name, |v| Format::F16.widen(v)),
        Type::Bf16 => float_comparison!(name, |v| Format::Bf16.widen(v)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, s: [u64; 4]) -> u64 {
        bits(name).expect("an operation").one(s)
    }

    /// Operands and results of an H100.
    #[test]
    fn wide_bit_fields_do_not_wrap_at_256() {
        assert_eq!(run("bfe.u64", [0xfc29_8d00_9231_5fc5, 0x9d7e_8239, 8, 0]), 0);
        assert_eq!(run("bfe.s64", [0xffff_ffff_ffff_fffe, 6, 0x4_0000, 0]), u64::MAX);
        let operands = [0xffff_f9d6_48a1_1428, 0x8000_0000_0001, 1, 0x400_0000];
        assert_eq!(run("bfi.b64", operands), 0xffff_f3ac_9142_2851);
    }

    #[test]
    fn narrow_bit_fields_wrap_at_256() {
        assert_eq!(run("bfe.u32", [0x1234_5678, 0x104, 0x208, 0]), 0x67);
        assert_eq!(run("bfe.s32", [0x8000_0000, 0x11c, 0x104, 0]), 0xffff_fff8);
        assert_eq!(run("bfi.b32", [0xab, 0, 0x104, 0x108]), 0xab0);
    }
}
