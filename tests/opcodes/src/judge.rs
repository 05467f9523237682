//! Judging results: the same bits, the same number, or a number close enough.

use ptx_sim::Format;

/// How results are compared. A result is a slot of 64 bits, of which the upper ones may be unused (zero).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Judge {
    /// The same bits.
    Bits,
    /// The same number: bits, or both NaN.
    Number(Format),
    /// Two numbers of 16 bits.
    Numbers(Format),
    /// A number of the format within a distance of the simulator's, which is correctly rounded.
    Close(Format, Bound),
    /// Two numbers of 16 bits, likewise.
    CloseNumbers(Format, Bound),
    /// `f32` sums of products, see [`crate::cases`]: the distance may be a part of the sum of magnitudes, which is the last result.
    Sums,
}

/// How far apart two numbers may be: by any measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// A part of the number.
    pub relative: f64,
    /// Whatever the number.
    pub absolute: f64,
    /// Units in the last place of the number, which are the same for all subnormal ones.
    pub ulps: f64,
}

impl Bound {
    /// A part of the number.
    pub const fn relative(relative: f64) -> Self {
        Bound { relative, absolute: 0.0, ulps: 0.0 }
    }

    /// So many units in the last place.
    pub const fn ulps(ulps: f64) -> Self {
        Bound { relative: 0.0, absolute: 0.0, ulps }
    }

    /// The same distance anywhere.
    pub const fn absolute(absolute: f64) -> Self {
        Bound { relative: 0.0, absolute, ulps: 0.0 }
    }

    /// The distance from the number with this encoding.
    fn around(self, format: Format, bits: u64) -> f64 {
        let size = format.widen(bits).abs();
        (self.relative * size).max(self.absolute).max(self.ulps * unit(format, bits))
    }
}

/// The unit in the last place of a finite number.
fn unit(format: Format, bits: u64) -> f64 {
    // These two have the same exponent field, so nothing is infinite.
    (format.widen(bits | 1) - format.widen(bits & !1)).abs()
}

/// What came of comparing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verdict {
    /// Results compared.
    pub compared: usize,
    /// Those that disagree.
    pub wrong: Vec<Difference>,
    /// Pairs of NaN with other bits.
    pub payloads: usize,
    /// The largest relative distance forgiven.
    pub distance: f64,
}

/// A result that disagrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// The thread.
    pub thread: usize,
    /// Which of its results.
    pub result: usize,
    /// What the GPU made of it.
    pub gpu: u64,
    /// What the simulator did.
    pub simulator: u64,
}

enum Agreement {
    Same,
    OtherNan,
    Within(f64),
    No,
}

impl Judge {
    /// Compares the results of all threads, `width` a thread.
    pub fn compare(self, gpu: &[u64], simulator: &[u64], width: usize) -> Verdict {
        let mut verdict = Verdict::default();
        let rows = gpu.chunks_exact(width).zip(simulator.chunks_exact(width));
        for (thread, (own, other)) in rows.enumerate() {
            for (result, (&gpu, &simulator)) in own.iter().zip(other).enumerate() {
                verdict.compared += 1;
                match self.agree(gpu, simulator, other) {
                    Agreement::Same => {}
                    Agreement::OtherNan => verdict.payloads += 1,
                    Agreement::Within(distance) => verdict.distance = verdict.distance.max(distance),
                    Agreement::No => verdict.wrong.push(Difference { thread, result, gpu, simulator }),
                }
            }
        }
        verdict
    }

    fn agree(self, a: u64, b: u64, row: &[u64]) -> Agreement {
        match self {
            _ if a == b => Agreement::Same,
            Judge::Bits => Agreement::No,
            Judge::Number(format) => close(format, Bound::absolute(0.0), a, b),
            Judge::Close(format, bound) => close(format, bound, a, b),
            Judge::Numbers(format) => halves(format, Bound::absolute(0.0), a, b),
            Judge::CloseNumbers(format, bound) => halves(format, bound, a, b),
            Judge::Sums => {
                let magnitude = row.last().map_or(0.0, |bits| Format::F32.widen(*bits));
                close(Format::F32, Bound::absolute(magnitude * SUM), a, b)
            }
        }
    }
}

/// Terms aligned to the largest and cut below its 23rd bit lose at most 2^-23 of it each; there are up to 17, and the last rounding
/// costs as much again at most. The sum of magnitudes is no less than the largest, so 2^-23 of the largest is 2^-23 of that.
const SUM: f64 = 18.0 / 8_388_608.0;

fn halves(format: Format, bound: Bound, a: u64, b: u64) -> Agreement {
    let part = |shift: u32| close(format, bound, a >> shift & 0xffff, b >> shift & 0xffff);
    match (part(0), part(16), a >> 32 == b >> 32) {
        (Agreement::No, ..) | (_, Agreement::No, _) | (.., false) => Agreement::No,
        (Agreement::Within(x), Agreement::Within(y), _) => Agreement::Within(x.max(y)),
        (Agreement::Within(x), ..) | (_, Agreement::Within(x), _) => Agreement::Within(x),
        (Agreement::OtherNan, ..) | (_, Agreement::OtherNan, _) => Agreement::OtherNan,
        (Agreement::Same, Agreement::Same, true) => Agreement::Same,
    }
}

fn close(format: Format, bound: Bound, a: u64, b: u64) -> Agreement {
    let (x, y) = (format.widen(a), format.widen(b));
    match (x.is_nan(), y.is_nan()) {
        _ if a == b => Agreement::Same,
        (true, true) => Agreement::OtherNan,
        (true, false) | (false, true) => Agreement::No,
        _ if x.is_infinite() || y.is_infinite() => Agreement::No,
        _ => {
            let distance = (x - y).abs();
            // Zeros of either sign are one number to an approximation, and two to everything else.
            let forgiving = bound != Bound::absolute(0.0);
            let within = forgiving && distance <= bound.around(format, b);
            if within { Agreement::Within(distance / y.abs().max(f64::MIN_POSITIVE)) } else { Agreement::No }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(x: f32) -> u64 {
        x.to_bits().into()
    }

    fn wrong(judge: Judge, a: u64, b: u64) -> usize {
        judge.compare(&[a], &[b], 1).wrong.len()
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        assert_eq!(wrong(Judge::Bits, 5, 4), 1);
        assert_eq!(wrong(Judge::Number(Format::F32), bits(1.0), bits(1.0) + 1), 1);
        assert_eq!(wrong(Judge::Number(Format::F32), bits(0.0), bits(-0.0)), 1);
        assert_eq!(wrong(Judge::Numbers(Format::F16), 0x3c00_3c00, 0x3c01_3c00), 1);
        assert_eq!(wrong(Judge::Numbers(Format::F16), 0x3c00_3c00, 0x3c00_3c01), 1);
    }

    #[test]
    fn payloads_are_counted_and_forgiven() {
        let verdict = Judge::Number(Format::F32).compare(&[0x7fff_ffff, 5], &[0x7fc0_0000, 5], 1);
        assert_eq!((verdict.wrong.len(), verdict.payloads, verdict.compared), (0, 1, 2));
        assert_eq!(wrong(Judge::Bits, 0x7fff_ffff, 0x7fc0_0000), 1);
        assert_eq!(wrong(Judge::Number(Format::F32), 0x7fff_ffff, bits(1.0)), 1);
    }

    #[test]
    fn closeness_has_an_end() {
        let two_ulps = Judge::Close(Format::F32, Bound::ulps(2.0));
        assert_eq!(wrong(two_ulps, bits(1.0) + 2, bits(1.0)), 0);
        assert_eq!(wrong(two_ulps, bits(1.0) + 3, bits(1.0)), 1);
        assert_eq!(wrong(two_ulps, bits(f32::INFINITY), bits(f32::MAX)), 1);
        assert_eq!(wrong(two_ulps, bits(0.0), bits(-0.0)), 0);
        // Whatever the number: the unit of a binade, not a part of the number.
        assert_eq!(wrong(two_ulps, bits(1.99) + 2, bits(1.99)), 0);
        assert_eq!(wrong(two_ulps, bits(1.99) + 3, bits(1.99)), 1);
        assert_eq!(wrong(two_ulps, bits(f32::MAX) - 3, bits(f32::MAX)), 1);
    }

    #[test]
    fn subnormal_numbers_have_units_too() {
        let two_ulps = Judge::Close(Format::F32, Bound::ulps(2.0));
        assert_eq!(wrong(two_ulps, 0xd_8623, 0xd_8621), 0);
        assert_eq!(wrong(two_ulps, 0xd_8624, 0xd_8621), 1);
        assert_eq!(wrong(two_ulps, 0x8000_0002, 0x8000_0000), 0);
        assert_eq!(wrong(two_ulps, 0x8000_0003, 0), 1);
    }

    #[test]
    fn sums_are_judged_by_their_magnitude() {
        let rows = |a: f32, b: f32| Judge::Sums.compare(&[bits(a), bits(100.0)], &[bits(b), bits(100.0)], 2);
        assert!(rows(0.0, 0.0002).wrong.is_empty());
        assert_eq!(rows(0.0, 0.0003).wrong.len(), 1);
    }
}
