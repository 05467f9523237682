//! `cvt`: every conversion between integers and floating-point numbers (PTX ISA 9.7.9, cvt).
//!
//! A source is widened to an integer of 128 bits or an `f64`, both exact, rounded as asked, and narrowed once.

use crate::float::{Format, Round};
use crate::types::Type;

/// One conversion, as its modifiers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conversion {
    /// Destination type.
    pub to: Type,
    /// Source type.
    pub from: Type,
    /// Rounding of the significand, or to an integer if `integral`.
    pub round: Round,
    /// Rounds to an integral value (`.rni` and its kin).
    pub integral: bool,
    /// Subnormal f32 sources and results become zero.
    pub ftz: bool,
    /// Clamps to the destination's range ([0, 1] for a float).
    pub sat: bool,
}

impl Conversion {
    /// Converts the low bits of a register. What a wider destination has beyond the type follows its sign (PTX ISA 9.7.9, cvt):
    /// cutting the result to the register is left to the caller.
    pub fn apply(self, bits: u64) -> u64 {
        match (self.from.float(), self.to.float()) {
            (None, None) => self.integer(i128::from(self.from.extend(bits) as i64)),
            (None, Some((Format::F64, _))) => integer_to_f64(self.from, bits).to_bits(),
            (None, Some((format, _))) => self.to_float(format, integer_to_odd(self.from, bits)),
            (Some((format, _)), None) => self.to_integer(self.source(format, bits)),
            (Some((from, _)), Some((to, _))) => self.to_float(to, self.source(from, bits)),
        }
    }

    fn source(self, format: Format, bits: u64) -> f64 {
        let bits = if self.ftz && format == Format::F32 { format.flush(bits) } else { bits };
        let x = format.widen(bits);
        if self.integral { self.round.integral(x) } else { x }
    }

    fn to_float(self, format: Format, x: f64) -> u64 {
        let x = match x {
            _ if !self.sat => x,
            _ if x.is_nan() || x <= 0.0 => 0.0,
            _ => x.min(1.0),
        };
        if self.ftz && format == Format::F32 {
            format.narrow_normal(x, self.round)
        } else {
            format.narrow(x, self.round)
        }
    }

    /// Out-of-range values clamp. NaN is zero, but from `f64` and to 64 bits the upper bit alone (PTX ISA 9.7.9, cvt).
    fn to_integer(self, x: f64) -> u64 {
        if x.is_nan() && (self.from == Type::F64 || self.to.bytes() == 8) {
            return self.to.extend(self.to.mask() ^ self.to.mask() >> 1);
        }
        self.to.extend(self.clamp(x as i128) as u64)
    }

    fn integer(self, value: i128) -> u64 {
        let value = if self.from.is_signed() { value } else { value & i128::from(u64::MAX) };
        self.to.extend((if self.sat { self.clamp(value) } else { value }) as u64)
    }

    fn clamp(self, value: i128) -> i128 {
        let bits = 8 * self.to.bytes() as u32;
        match self.to.is_signed() {
            true => value.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
            false => value.clamp(0, (1 << bits) - 1),
        }
    }
}

/// An integer as the nearest `f64`.
fn integer_to_f64(from: Type, bits: u64) -> f64 {
    let bits = from.extend(bits);
    if from.is_signed() { bits as i64 as f64 } else { bits as f64 }
}

/// An integer as `f64`, rounded to odd where 53 bits are not enough.
fn integer_to_odd(from: Type, bits: u64) -> f64 {
    let bits = from.extend(bits);
    let negative = from.is_signed() && (bits as i64) < 0;
    let magnitude = if negative { (bits as i64).unsigned_abs() } else { bits };
    let excess = 11u32.saturating_sub(magnitude.leading_zeros());
    let lost = magnitude & ((1 << excess) - 1) != 0;
    let x = ((magnitude >> excess | u64::from(lost)) << excess) as f64;
    if negative { -x } else { x }
}
