//! Floating-point arithmetic with PTX's rounding modes, exact in every format (PTX ISA 9.7.3 to 9.7.5).
//!
//! Values of every format narrower than 64 bits are held in `f64`, where a product of two is exact. A sum need not be,
//! so it is *rounded to odd*: if bits were lost, the last kept bit is set. Rounding that once more, to at least two bits
//! fewer, gives the correctly rounded result in any mode (Boldo and Melquiond, "Emulation of FMA and correctly rounded
//! sums: proved algorithms using rounding to odd", 2008). So one `narrow` serves add, mul, fma and every conversion.

use crate::ir::Compute;

/// An IEEE-754 binary interchange format, or bfloat16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Format {
    F16,
    Bf16,
    F32,
    F64,
}

/// Rounding: to nearest even, towards zero, down, up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Round {
    Nearest,
    Zero,
    Down,
    Up,
}

impl Round {
    /// The mode a floating-point rounding modifier names.
    pub fn named(name: &str) -> Option<Round> {
        Some(match name {
            "rn" => Round::Nearest,
            "rz" => Round::Zero,
            "rm" => Round::Down,
            "rp" => Round::Up,
            _ => return None,
        })
    }

    /// Rounds to an integral value.
    pub fn integral(self, x: f64) -> f64 {
        match self {
            Round::Nearest => x.round_ties_even(),
            Round::Zero => x.trunc(),
            Round::Down => x.floor(),
            Round::Up => x.ceil(),
        }
    }

    /// Whether a magnitude whose kept part is `kept` and whose cut-off part compares to one half as given goes up.
    fn goes_up(self, negative: bool, kept: u64, rest: Rest) -> bool {
        match self {
            Round::Nearest => rest == Rest::AboveHalf || (rest == Rest::Half && kept & 1 == 1),
            Round::Zero => false,
            Round::Down => negative && rest != Rest::Nothing,
            Round::Up => !negative && rest != Rest::Nothing,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Nothing,
    BelowHalf,
    Half,
    AboveHalf,
}

impl Format {
    /// Explicit significand bits and exponent bits.
    fn fields(self) -> (u32, u32) {
        match self {
            Format::F16 => (10, 5),
            Format::Bf16 => (7, 8),
            Format::F32 => (23, 8),
            Format::F64 => (52, 11),
        }
    }

    /// Bits of one value.
    pub fn width(self) -> u32 {
        let (mantissa, exponent) = self.fields();
        1 + mantissa + exponent
    }

    /// The one NaN that arithmetic returns.
    fn nan(self) -> u64 {
        match self {
            Format::F64 => 0x7fff_ffff_ffff_ffff,
            Format::F32 => 0x7fff_ffff,
            Format::F16 | Format::Bf16 => 0x7fff,
        }
    }

    /// The value of an encoding, exactly.
    pub fn widen(self, bits: u64) -> f64 {
        match self {
            Format::F64 => f64::from_bits(bits),
            Format::F32 => f64::from(f32::from_bits(bits as u32)),
            Format::Bf16 => f64::from(f32::from_bits((bits as u32 & 0xffff) << 16)),
            Format::F16 => widen_f16(bits as u16),
        }
    }

    /// The encoding of `x` rounded once.
    pub fn narrow(self, x: f64, round: Round) -> u64 {
        if x.is_nan() {
            return self.nan();
        }
        // The two that nearly all results go through.
        match (self, round) {
            (Format::F32, Round::Nearest) => return u64::from((x as f32).to_bits()),
            (Format::Bf16, Round::Nearest) => return bf16_nearest(x),
            _ => {}
        }
        let (mantissa, exponent) = self.fields();
        let negative = x.is_sign_negative();
        let sign = u64::from(negative) << (mantissa + exponent);
        if self == Format::F64 || x == 0.0 {
            return if self == Format::F64 { x.to_bits() } else { sign };
        }
        let infinity = ((1u64 << exponent) - 1) << mantissa;
        if x.is_infinite() {
            return sign | infinity;
        }
        let magnitude = round_magnitude(x, mantissa, 2 - (1 << (exponent - 1)), round);
        if magnitude < infinity {
            return sign | magnitude;
        }
        let to_infinity = match round {
            Round::Nearest => true,
            Round::Zero => false,
            Round::Down => negative,
            Round::Up => !negative,
        };
        sign | if to_infinity { infinity } else { infinity - 1 }
    }

    /// The same, with zero for what is below the normal numbers (`.ftz`). That is settled, as IEEE 754 has it, after rounding as if
    /// exponents had no end: just below the least normal number the steps are half as wide as those of subnormal numbers, and
    /// what rounds up to it in these need not do so in those. An H100 does so in every rounding.
    pub fn narrow_normal(self, x: f64, round: Round) -> u64 {
        let bits = self.flush(self.narrow(x, round));
        let (mantissa, exponent) = self.fields();
        let (least, sign) = (1u64 << mantissa, 1u64 << (mantissa + exponent));
        if bits & !sign != least {
            return bits;
        }
        // With one exponent more, the least normal number is the next but one.
        let unbounded = round_magnitude(x, mantissa, 1 - (1 << (exponent - 1)), round);
        if unbounded < 2 * least { bits & sign } else { bits }
    }

    /// Zero of the same sign if the encoding is subnormal (`.ftz`; f32 only).
    pub fn flush(self, bits: u64) -> u64 {
        let (mantissa, exponent) = self.fields();
        let magnitude = bits & ((1u64 << (mantissa + exponent)) - 1);
        if magnitude >> mantissa == 0 { bits & (1u64 << (mantissa + exponent)) } else { bits }
    }
}

/// The bits of an f16, moved to where an f32 has them, are its value times 2^-112: also if it is subnormal.
fn widen_f16(bits: u16) -> f64 {
    let magnitude = match bits & 0x7fff {
        0x7c00 => f64::INFINITY,
        0x7c01.. => f64::NAN,
        small => f64::from(f32::from_bits(u32::from(small) << 13)) * 2f64.powi(112),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// A number as bf16: rounded to odd in f32, of which bf16 is the upper half, then to nearest.
fn bf16_nearest(x: f64) -> u64 {
    let near = x as f32;
    let (bits, back) = (near.to_bits(), f64::from(near));
    let odd = match back == x || near.is_infinite() || bits & 1 == 1 {
        true => bits,
        false if (x > back) == (x > 0.0) => bits + 1,
        false => bits - 1,
    };
    u64::from((odd + 0x7fff + (odd >> 16 & 1)) >> 16)
}

/// The encoding without sign of a finite non-zero number, in a format of `mantissa` bits whose least normal exponent is
/// `lowest`; may reach or pass the encoding of infinity.
fn round_magnitude(x: f64, mantissa: u32, lowest: i32, round: Round) -> u64 {
    let (significand, exponent) = decompose(x);
    let scale = exponent.max(lowest);
    let cut = (scale - mantissa as i32) - (exponent - 52);
    let (kept, rest) = split_at(significand, cut as u32);
    let up = round.goes_up(x.is_sign_negative(), kept, rest);
    // The implicit bit, where there is one, carries into the exponent field: hence one less there.
    (((scale - lowest) as u64) << mantissa) + kept + u64::from(up)
}

/// |x| = significand * 2^(exponent - 52), with bit 52 the highest.
fn decompose(x: f64) -> (u64, i32) {
    let bits = x.to_bits();
    let (field, fraction) = ((bits >> 52 & 2047) as i32, bits & ((1 << 52) - 1));
    if field > 0 {
        return (fraction | 1 << 52, field - 1023);
    }
    let shift = fraction.leading_zeros() as i32 - 11;
    (fraction << shift, -1022 - shift)
}

fn split_at(significand: u64, cut: u32) -> (u64, Rest) {
    if cut > 54 {
        return (0, Rest::BelowHalf);
    }
    let (rest, half) = (significand & ((1 << cut) - 1), 1u64 << cut >> 1);
    let rest = match rest.cmp(&half) {
        _ if rest == 0 => Rest::Nothing,
        std::cmp::Ordering::Less => Rest::BelowHalf,
        std::cmp::Ordering::Equal => Rest::Half,
        std::cmp::Ordering::Greater => Rest::AboveHalf,
    };
    (significand >> cut, rest)
}

/// `a + b` rounded to odd.
pub fn add_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    if error == 0.0 || !error.is_finite() || sum.to_bits() & 1 == 1 {
        return sum;
    }
    // `sum` was rounded to nearest with an even last bit: the odd neighbour is on the side of the error.
    let away = (error > 0.0) == (sum > 0.0);
    f64::from_bits(if away { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
}

/// `a + b` rounded to odd. Where nothing is left, rounding down makes it negative, unless both are positive zeros (IEEE 754-2019,
/// 6.3).
fn sum(a: f64, b: f64, round: Round) -> f64 {
    let sum = add_to_odd(a, b);
    let negative = round == Round::Down && (a.is_sign_negative() || b.is_sign_negative());
    if sum == 0.0 && negative { -0.0 } else { sum }
}

/// How an instruction rounds its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Rounding mode.
    pub round: Round,
    /// Subnormal operands and results become zero of the same sign.
    pub ftz: bool,
    /// The result is clamped to [0, 1]; NaN becomes 0.
    pub sat: bool,
}

/// An operation on one, two or three floating-point operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Arith {
    Add,
    Sub,
    Mul,
    Fma,
    Min,
    Max,
    MinNan,
    MaxNan,
    Div,
    DivApprox,
    Neg,
    Abs,
    Rcp,
    Sqrt,
    Rsqrt,
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
}

impl Arith {
    /// Applies the operation to registers of a type; packed types work on both halves.
    pub fn apply(self, format: Format, packed: bool, mode: Mode, operands: [u64; 3]) -> u64 {
        if !packed {
            return self.apply_one(format, mode, operands);
        }
        let low = self.apply_one(format, mode, operands.map(|v| v & 0xffff));
        let high = self.apply_one(format, mode, operands.map(|v| v >> 16 & 0xffff));
        high << 16 | low
    }

    fn apply_one(self, format: Format, mode: Mode, mut operands: [u64; 3]) -> u64 {
        // Sign changes work on the encoding: NaN payloads pass.
        let sign = 1u64 << (format.width() - 1);
        if mode.ftz {
            operands = operands.map(|v| format.flush(v));
        }
        let result = match self {
            Arith::Neg => operands[0] ^ sign,
            Arith::Abs => operands[0] & !sign,
            _ if format == Format::F64 => self.in_f64(operands.map(f64::from_bits)).to_bits(),
            _ => {
                let exact = self.to_odd(operands.map(|v| format.widen(v)), mode.round);
                if mode.ftz { format.narrow_normal(exact, mode.round) } else { format.narrow(exact, mode.round) }
            }
        };
        if mode.sat { saturate(format, result) } else { result }
    }

    /// The result in `f64`, precise enough that narrowing it gives the correctly rounded one. The approximate functions
    /// return the correctly rounded value too (up to the accuracy of the host's `f64` functions): inside the error the ISA
    /// allows, though not the bits a GPU returns.
    fn to_odd(self, [a, b, c]: [f64; 3], round: Round) -> f64 {
        match self {
            Arith::Add => sum(a, b, round),
            Arith::Sub => sum(a, -b, round),
            Arith::Fma => sum(a * b, c, round),
            _ => self.in_f64([a, b, c]),
        }
    }

    fn in_f64(self, [a, b, c]: [f64; 3]) -> f64 {
        match self {
            Arith::Add => a + b,
            Arith::Sub => a - b,
            Arith::Mul => a * b,
            Arith::Fma => a.mul_add(b, c),
            Arith::Min => select(a, b, a < b || (a == b && a.is_sign_negative())),
            Arith::Max => select(a, b, a > b || (a == b && a.is_sign_positive())),
            Arith::MinNan | Arith::MaxNan if a.is_nan() || b.is_nan() => f64::NAN,
            Arith::MinNan => Arith::Min.in_f64([a, b, c]),
            Arith::MaxNan => Arith::Max.in_f64([a, b, c]),
            Arith::Div => a / b,
            // Divisors above 2^126 give zero, and NaN for an infinite dividend (PTX ISA 9.7.3, div): the reciprocal is
            // subnormal and flushed.
            Arith::DivApprox if b.abs() > 2f64.powi(126) && b.is_finite() => 0.0 * a * b.signum(),
            Arith::DivApprox => a / b,
            Arith::Rcp => 1.0 / a,
            Arith::Sqrt => a.sqrt(),
            Arith::Rsqrt => 1.0 / a.sqrt(),
            Arith::Ex2 => a.exp2(),
            Arith::Lg2 => a.log2(),
            Arith::Sin => a.sin(),
            Arith::Cos => a.cos(),
            Arith::Tanh => a.tanh(),
            Arith::Neg => -a,
            Arith::Abs => a.abs(),
        }
    }
}

/// The commonest operations as the host does them, which is the same bit for bit.
pub(crate) fn in_f32(op: Arith, mode: Mode) -> Option<Compute> {
    if mode.round != Round::Nearest || mode.sat {
        return None;
    }
    Some(match (op, mode.ftz) {
        (Arith::Add, false) => &|s: [u64; 4]| from_f32(to_f32(s[0]) + to_f32(s[1])),
        (Arith::Sub, false) => &|s: [u64; 4]| from_f32(to_f32(s[0]) - to_f32(s[1])),
        (Arith::Mul, false) => &|s: [u64; 4]| from_f32(to_f32(s[0]) * to_f32(s[1])),
        (Arith::Fma, false) => &|s: [u64; 4]| from_f32(to_f32(s[0]).mul_add(to_f32(s[1]), to_f32(s[2]))),
        (Arith::Neg, false) => &|s: [u64; 4]| s[0] ^ 0x8000_0000,
        (Arith::Abs, false) => &|s: [u64; 4]| s[0] & 0x7fff_ffff,
        _ => return None,
    })
}

fn to_f32(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn from_f32(x: f32) -> u64 {
    if x.is_nan() { Format::F32.nan() } else { u64::from(x.to_bits()) }
}

/// `a` if `first`, else `b`; a NaN loses to a number.
fn select(a: f64, b: f64, first: bool) -> f64 {
    if b.is_nan() || (first && !a.is_nan()) { a } else { b }
}

fn saturate(format: Format, bits: u64) -> u64 {
    let x = format.widen(bits);
    match x {
        _ if x.is_nan() => 0,
        _ if x > 1.0 => format.narrow(1.0, Round::Nearest),
        _ if x <= 0.0 => 0,
        _ => bits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(op: Arith, round: Round, ftz: bool, operands: [u64; 3]) -> u64 {
        op.apply(Format::F32, false, Mode { round, ftz, sat: false }, operands)
    }

    /// Operands and results of an H100, which all were -0.
    #[test]
    fn nothing_left_is_negative_when_rounding_down() {
        let seen = [
            (Arith::Add, false, [0x8000_0000, 0, 0]),
            (Arith::Sub, false, [0xff7f_ffff, 0xff7f_ffff, 0]),
            (Arith::Fma, false, [0x8000_0000, 0x3f80_0001, 0]),
            (Arith::Add, true, [0x8045_9cde, 0xa_0fb7, 0]),
            (Arith::Sub, true, [0x8000_0001, 0x8036_597a, 0]),
            (Arith::Fma, true, [0x2e22_9be3, 0x10_ded3, 0x8019_2557]),
        ];
        for (op, ftz, operands) in seen {
            assert_eq!(single(op, Round::Down, ftz, operands), 0x8000_0000, "{op:?} {operands:x?}");
            for round in [Round::Nearest, Round::Zero, Round::Up] {
                assert_eq!(single(op, round, ftz, operands), 0, "{op:?} {round:?} {operands:x?}");
            }
        }
        assert_eq!(single(Arith::Add, Round::Down, false, [0; 3]), 0);
        assert_eq!(single(Arith::Add, Round::Up, false, [0x8000_0000, 0x8000_0000, 0]), 0x8000_0000);
    }

    /// Operands and results of an H100: a quotient that is flushed though in steps of subnormal numbers it rounds to a normal
    /// one, and sums that are not, though below one before rounding.
    #[test]
    fn what_is_flushed_is_settled_after_rounding_without_bounds() {
        assert_eq!(single(Arith::Div, Round::Down, true, [0x80_0000, 0xbf80_0001, 0]), 0x8000_0000);
        assert_eq!(single(Arith::Div, Round::Down, false, [0x80_0000, 0xbf80_0001, 0]), 0x8080_0000);
        let sums =
            [(Round::Nearest, [0x9d52_0f92, 0x80_0001, 0x80_0000]), (Round::Up, [0x2540_9cf2, 0x8080_0000, 0x80_0000])];
        for (round, operands) in sums {
            assert_eq!(single(Arith::Fma, round, true, operands), 0x80_0000, "{round:?} {operands:x?}");
        }
        // Half a subnormal step below the least normal number, and as little above that as counts.
        let (half, above) = (2f64.powi(-126) - 2f64.powi(-150), 2f64.powi(-126) - 2f64.powi(-160));
        for round in [Round::Nearest, Round::Zero, Round::Down, Round::Up] {
            assert_eq!(Format::F32.narrow_normal(half, round), 0, "{round:?}");
            let up = matches!(round, Round::Nearest | Round::Up);
            assert_eq!(Format::F32.narrow_normal(above, round), if up { 0x80_0000 } else { 0 }, "{round:?}");
        }
    }
}
