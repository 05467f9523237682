//! Operands: the awkward ones of each type, and random ones of every magnitude.

/// SplitMix64 (Steele, Lea and Flood, 2014): the same operands on every machine.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    fn pick(&mut self, from: &[u64]) -> u64 {
        from[self.below(from.len() as u64) as usize]
    }
}

/// What an operand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// An integer of so many bits.
    Bits(u32),
    /// The same, never zero.
    NonZero(u32),
    /// Less than this.
    Below(u64),
    /// A shift amount or a position: mostly small, sometimes beyond every width.
    Shift,
    /// A float with an exponent of so many bits and a fraction of so many.
    Float(u32, u32),
    /// Two of 16 bits, likewise.
    Pair(u32, u32),
    /// A float of modest size: zero, or between 2^-8 and 2^8.
    Modest(u32, u32),
    /// Two of 16 bits, likewise.
    ModestPair(u32, u32),
    /// Two of 16 bits between 2^-8 and 2, or zero.
    UnitPair(u32, u32),
    /// Always this.
    Just(u64),
    /// A multiple of the second below the first: an address in a table, say.
    Multiple(u64, u64),
}

/// `f32`.
pub const F32: Domain = Domain::Float(8, 23);
/// `f64`.
pub const F64: Domain = Domain::Float(11, 52);
/// `f16`.
pub const F16: Domain = Domain::Float(5, 10);
/// `bf16`.
pub const BF16: Domain = Domain::Float(8, 7);
/// Two `f16`.
pub const F16X2: Domain = Domain::Pair(5, 10);
/// Two `bf16`.
pub const BF16X2: Domain = Domain::Pair(8, 7);

impl Domain {
    /// An operand.
    pub fn draw(self, rng: &mut Rng) -> u64 {
        match self {
            Domain::Bits(width) => integer(rng, width),
            Domain::NonZero(width) => integer(rng, width).max(1),
            Domain::Below(n) => rng.below(n),
            Domain::Shift => match rng.below(8) {
                0 => integer(rng, 32),
                1 => rng.pick(&[0, 1, 15, 16, 31, 32, 33, 63, 64, 65, 255, 256]),
                _ => rng.below(64),
            },
            Domain::Float(exponent, fraction) => float(rng, exponent, fraction),
            Domain::UnitPair(exponent, fraction) => {
                below(rng, exponent, fraction, 1) | below(rng, exponent, fraction, 1) << 16
            }
            Domain::Pair(exponent, fraction) => float(rng, exponent, fraction) | float(rng, exponent, fraction) << 16,
            Domain::Modest(exponent, fraction) => modest(rng, exponent, fraction),
            Domain::ModestPair(exponent, fraction) => {
                modest(rng, exponent, fraction) | modest(rng, exponent, fraction) << 16
            }
            Domain::Just(value) => value,
            Domain::Multiple(below, of) => rng.below(below / of) * of,
        }
    }
}

fn mask(width: u32) -> u64 {
    u64::MAX >> (64 - width)
}

/// Zero, the extremes, powers of two and their neighbours; bits of every length, of either sign.
fn integer(rng: &mut Rng, width: u32) -> u64 {
    let value = match rng.below(6) {
        0 => rng.pick(&[0, 1, u64::MAX, mask(width) >> 1, (mask(width) >> 1) + 1, mask(width) - 1]),
        1 => (1u64 << rng.below(width.into())).wrapping_add(rng.below(3)).wrapping_sub(1),
        2 => rng.bits() >> rng.below(64),
        3 => (rng.bits() >> rng.below(64)).wrapping_neg(),
        _ => rng.bits(),
    };
    value & mask(width)
}

/// Zeros, infinities, NaN, subnormals, the extremes, halves for rounding; any bits; modest numbers.
fn float(rng: &mut Rng, exponent: u32, fraction: u32) -> u64 {
    let width = 1 + exponent + fraction;
    let sign = rng.below(2) << (width - 1);
    let infinity = mask(exponent) << fraction;
    let one = (mask(exponent) >> 1) << fraction;
    match rng.below(5) {
        0 => {
            let quiet = infinity | 1 << (fraction - 1);
            let smallest = 1 << fraction;
            let half = one - smallest;
            let special =
                [0, 1, smallest - 1, smallest, smallest + 1, infinity - 1, infinity, quiet, one, one + 1, half];
            sign | rng.pick(&special)
        }
        1 => rng.bits() & mask(width),
        2 => sign | rng.below(1 << fraction),
        _ => modest(rng, exponent, fraction),
    }
}

fn modest(rng: &mut Rng, exponent: u32, fraction: u32) -> u64 {
    below(rng, exponent, fraction, 8)
}

/// Zero, or between 2^-8 and two to a power.
fn below(rng: &mut Rng, exponent: u32, fraction: u32, power: u64) -> u64 {
    let bias = mask(exponent) >> 1;
    let magnitude = (bias - 8 + rng.below(8 + power)) << fraction | rng.bits() & mask(fraction);
    let sign = rng.below(2) << (exponent + fraction);
    if rng.below(16) == 0 { sign } else { sign | magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_include_what_is_awkward() {
        let mut rng = Rng(1);
        let values: Vec<f32> = (0..2000).map(|_| f32::from_bits(F32.draw(&mut rng) as u32)).collect();
        let some = |is: fn(&f32) -> bool| values.iter().any(is);
        assert!(some(|x| x.is_nan()) && some(|x| *x == f32::INFINITY) && some(|x| *x == f32::NEG_INFINITY));
        assert!(some(|x| x.is_subnormal()) && some(|x| *x == f32::MAX) && some(|x| *x == 0.0 && x.is_sign_negative()));
        assert!(some(|x| *x == f32::MIN_POSITIVE) && some(|x| *x == 1.0) && some(|x| *x == -0.5));
    }

    #[test]
    fn integers_fit_and_reach_the_ends() {
        let mut rng = Rng(2);
        let values: Vec<u64> = (0..2000).map(|_| Domain::Bits(16).draw(&mut rng)).collect();
        assert!(values.iter().all(|v| *v <= 0xffff));
        assert!([0, 1, 0x7fff, 0x8000, 0xffff].iter().all(|v| values.contains(v)));
        assert!((0..2000).all(|_| Domain::NonZero(16).draw(&mut rng) != 0));
    }
}
