//! Choosing scales: how the encoders of the K-quants, of IQ4 and of the formats in blocks of 32 approximate numbers by
//! few levels.
//!
//! For a given step the nearest codes are obvious, and for given codes the best scale (and minimum) is a least-squares
//! problem with a closed form. So, for numbers that share a scale: try many steps around the one that just covers the
//! range, round, solve, keep the best, and round and solve once more from there (Lloyd 1982 for a lattice). A block's
//! scales are then integers of a super-scale, and the same is done again one level up: for the super-scale at hand, the
//! integers near the wanted scale that leave the least error once the numbers are rounded with them; for those integers
//! and codes, the super-scale by least squares. `signed.rs` has scales alone, `affine.rs` scales and minima.
//!
//! An error counts as often as its weight says. Sums are kept in eight lanes, rounding is adding and subtracting, choices
//! are selections: loops that compilers turn into vector instructions, and that give the same bits without.

pub(super) mod affine;
pub(super) mod signed;

/// Adding this and taking it off again rounds to the nearest integer, ties to even, where magnitudes are below 2^22:
/// above it, `f32` has no fractions. `round_ties_even` is a call of a function where SSE4.1 is not a given.
const ROUNDER: f32 = 12_582_912.0;

/// What is smaller has scales that are zero in `f16`, whatever the format: nothing to search for, and no reciprocal that
/// overflows.
pub(super) const NOTHING: f32 = 1e-12;

/// What counts less than this by what counts most is not asked for the range.
pub(super) const HARDLY: f32 = 1e-3;

/// A scale, and by how much it makes the squared error of zeros smaller.
#[derive(Clone, Copy)]
pub(super) struct Fit {
    pub scale: f32,
    pub gain: f32,
}

impl Fit {
    /// What approximates by zeros.
    pub const NONE: Fit = Fit { scale: 0.0, gain: 0.0 };

    /// The one that gains more, `self` where they are equal.
    pub fn or(self, other: Fit) -> Fit {
        if other.gain > self.gain { other } else { self }
    }
}

/// Numbers that share a scale, and how often the error of each counts.
#[derive(Clone, Copy)]
pub(super) struct Part<'a, const L: usize> {
    pub x: &'a [f32; L],
    pub weights: &'a [f32; L],
}

impl<'a, const L: usize> Part<'a, L> {
    /// Part `i` of a block.
    pub fn of(x: &'a [f32], weights: &'a [f32], i: usize) -> Self {
        Part { x: &x.as_chunks().0[i], weights: &weights.as_chunks().0[i] }
    }

    /// The numbers, those that hardly count replaced by one that counts most. A search begins at the ends of the
    /// range, and where the ends don't count it begins at those of these, too.
    fn counting(&self) -> [f32; L] {
        counting(self.x, self.weights)
    }

    /// `K` sums of a term for every number, its weight and its place.
    #[inline(always)]
    fn sums<const K: usize>(&self, term: impl Fn(f32, f32) -> [f32; K]) -> [f32; K] {
        let mut lanes = [[0.0f32; 8]; K];
        for (x, w) in self.x.as_chunks::<8>().0.iter().zip(self.weights.as_chunks::<8>().0) {
            for l in 0..8 {
                let term = term(x[l], w[l]);
                for k in 0..K {
                    lanes[k][l] += term[k];
                }
            }
        }
        lanes.map(|[a, b, c, d, e, f, g, h]| ((a + e) + (b + f)) + ((c + g) + (d + h)))
    }
}

/// See [`Part::counting`].
fn counting<const L: usize>(x: &[f32; L], weights: &[f32; L]) -> [f32; L] {
    let most = (1..L).fold(0, |most, i| if weights[i] > weights[most] { i } else { most });
    std::array::from_fn(|i| if weights[i] >= HARDLY * weights[most] { x[i] } else { x[most] })
}

/// The nearest integer within `low..=high`, both of them integers of magnitude below 2^22.
#[inline(always)]
fn round(v: f32, low: f32, high: f32) -> f32 {
    let v = if v > low { v } else { low };
    let v = if v < high { v } else { high };
    (v + ROUNDER) - ROUNDER
}

/// The first number of largest magnitude, with its sign; 0 for none.
fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |max, &v| if v.abs() > max.abs() { v } else { max })
}
