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

#[cfg(test)]
mod tests {
    use super::*;

    fn to_s8(from: Type, round: Round, sat: bool) -> Conversion {
        let integral = from.float().is_some();
        Conversion { to: Type::S8, from, round, integral, ftz: false, sat }
    }

    /// Operands and results of an H100, in registers of 16 bits.
    #[test]
    fn eight_bits_fill_their_register_with_the_sign() {
        let wrap = |from| to_s8(from, Round::Nearest, false);
        let clamp = |from| to_s8(from, Round::Nearest, true);
        let seen = [
            (wrap(Type::U8), 0xffff, 0xffff),
            (wrap(Type::U16), 0x81, 0xff81),
            (wrap(Type::S16), 0x76b5, 0xffb5),
            (clamp(Type::S16), 0x8c6d, 0xff80),
            (wrap(Type::U32), 0xeb4f_79bd, 0xffbd),
            (wrap(Type::S32), 0x6675_e0ef, 0xffef),
            (clamp(Type::S32), 0x8e84_fa15, 0xff80),
            (wrap(Type::U64), 0x1724_62de_7774_c9b9, 0xffb9),
            (wrap(Type::S64), 0x25cd_5b4f_3570_fc98, 0xff98),
            (clamp(Type::S64), 0xffff_ffff_ffff_d087, 0xff80),
            (to_s8(Type::F16, Round::Nearest, false), 0xd06f, 0xffdd),
            (to_s8(Type::F16, Round::Zero, false), 0xf498, 0xff80),
            (to_s8(Type::F16, Round::Down, false), 0x800f, 0xffff),
            (to_s8(Type::F16, Round::Up, false), 0xfbff, 0xff80),
            (to_s8(Type::F32, Round::Nearest, false), 0xc2c1_8c56, 0xff9f),
            (to_s8(Type::F32, Round::Zero, false), 0xc1a4_3f21, 0xffec),
            (to_s8(Type::F32, Round::Down, false), 0x8038_41ce, 0xffff),
            (to_s8(Type::F32, Round::Up, false), 0xc278_665b, 0xffc2),
            (to_s8(Type::F64, Round::Nearest, false), 0xc050_af97_9295_4e05, 0xffbd),
            (to_s8(Type::F64, Round::Zero, false), 0xc001_63e0_0a4e_3f50, 0xfffe),
            (to_s8(Type::F64, Round::Down, false), 0xbf7a_ec7e_94d3_3642, 0xffff),
            (to_s8(Type::F64, Round::Up, false), 0xc8ff_f4f1_8d50_ffda, 0xff80),
        ];
        for (how, operand, result) in seen {
            assert_eq!(how.apply(operand) & 0xffff, result, "{how:?} {operand:#x}");
        }
        let flushing = Conversion { ftz: true, ..to_s8(Type::F32, Round::Zero, false) };
        assert_eq!(flushing.apply(0xced9_3d19) & 0xffff, 0xff80);
    }
}
