//! The tokens that may be drawn: their weights, the cuts by top-k, top-p and min-p, and the draw.
//!
//! Weights are added up as integers. A sum is then exact, whatever its order: a device may add with as many threads as it
//! has, or in no order at all, and draws the same token. The cuts keep sets that are defined by one order (more probable
//! first; of equals the lower id) and the draw goes through them by id, so the vocabulary is never sorted.

use std::cmp::Ordering;

use super::elementary::exp;

/// A token that may be drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    token: u32,
    /// Adjusted, not yet divided by the temperature.
    logit: f32,
    /// Probability relative to the most probable candidate's; 1 for that one.
    weight: f32,
}

impl Candidate {
    /// More probable first; of equals the lower id. A total order: no two candidates are equal.
    fn order(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }

    /// Lower for what is more probable, or the same.
    fn bin(&self) -> usize {
        // The bits of positive floats ascend as they do.
        let below = 1f32.to_bits() - self.weight.to_bits();
        ((below >> 20) as usize).min(BINS - 1)
    }
}

/// Scratch for one draw, made once.
#[derive(Debug)]
pub(super) struct Candidates {
    /// Ascending by id.
    all: Vec<Candidate>,
    /// Those between which a cut falls, in any order.
    near: Vec<Candidate>,
    /// What a weight of 1 is as an integer.
    one: f32,
}

/// Bins that weights are sorted into to find where a cut falls: eight for each halving.
const BINS: usize = 256;

/// A range so short is sorted, not split further.
const SHORT: usize = 16;

impl Candidates {
    /// Room for `vocab` tokens.
    pub fn new(vocab: usize) -> Self {
        Candidates { all: Vec::with_capacity(vocab), near: Vec::with_capacity(vocab), one: one(vocab) }
    }

    /// Starts anew with all tokens but those whose logit is `-inf`.
    pub fn fill(&mut self, logits: &[f32]) {
        self.all.clear();
        // Adding zero makes -0 a 0: the two are equally probable, and `total_cmp` must see them as equal.
        let all = logits.iter().enumerate().map(|(i, &l)| Candidate { token: i as u32, logit: l + 0.0, weight: 0.0 });
        self.all.extend(all.filter(|c| c.logit > f32::NEG_INFINITY));
    }

    /// Keeps the `k` most probable.
    pub fn top_k(&mut self, k: usize) {
        if k < self.all.len() {
            self.all.select_nth_unstable_by(k, Candidate::order);
            self.all.truncate(k);
            self.all.sort_unstable_by_key(|c| c.token);
        }
    }

    /// Sets the weights: `exp((logit - max) / temperature)`.
    pub fn weigh(&mut self, temperature: f32) {
        let max = self.all.iter().fold(f32::NEG_INFINITY, |max, c| max.max(c.logit));
        for c in &mut self.all {
            c.weight = exp((c.logit - max) / temperature);
        }
    }

    /// Keeps the fewest most probable tokens whose probabilities reach `p` of all that are left (Holtzman et al. 2020,
    /// "The curious case of neural text degeneration", arXiv:1904.09751).
    ///
    /// The bins' sums tell in which of them the cut falls; only its candidates are looked at one by one.
    pub fn top_p(&mut self, p: f32) {
        let mut sums = [0u64; BINS];
        for c in &self.all {
            sums[c.bin()] += units(c.weight, self.one);
        }
        let total: u64 = sums.iter().sum();
        let mut enough = ((f64::from(p) * total as f64) as u64).max(1);
        let mut bin = 0;
        while enough > sums[bin] && bin + 1 < BINS {
            enough -= sums[bin];
            bin += 1;
        }
        self.near.clear();
        self.near.extend(self.all.iter().filter(|c| c.bin() == bin));
        if let Some(last) = last_needed(&mut self.near, self.one, enough) {
            self.all.retain(|c| c.order(&last).is_le());
        }
    }

    /// Keeps what is at least `p` times as probable as the most probable (Nguyen et al. 2024, arXiv:2407.01082).
    pub fn min_p(&mut self, p: f32) {
        self.all.retain(|c| c.weight >= p);
    }

    /// The token at `bits / 2^64` of the way through the weights, by id.
    pub fn draw(&self, bits: u64) -> Option<u32> {
        let total = total(&self.all, self.one);
        let target = ((u128::from(bits) * u128::from(total)) >> 64) as u64;
        let mut sum = 0;
        let mut passes = |c: &&Candidate| {
            sum += units(c.weight, self.one);
            sum > target
        };
        self.all.iter().find(&mut passes).map(|c| c.token)
    }
}

/// The largest power of two with which the weights of a whole vocabulary, at most 1 each, stay below 2^63.
fn one(vocab: usize) -> f32 {
    let bits = usize::BITS - vocab.leading_zeros();
    (1u64 << (63 - bits.clamp(1, 32))) as f32
}

/// A weight as an integer: exactly, but for what is below the last unit.
fn units(weight: f32, one: f32) -> u64 {
    (weight * one) as u64
}

fn total(candidates: &[Candidate], one: f32) -> u64 {
    candidates.iter().map(|c| units(c.weight, one)).sum()
}

/// The least probable of the fewest most probable candidates whose weights reach `enough`.
fn last_needed(mut range: &mut [Candidate], one: f32, mut enough: u64) -> Option<Candidate> {
    while range.len() > SHORT {
        let middle = range.len() / 2;
        range.select_nth_unstable_by(middle, Candidate::order);
        let (first, second) = range.split_at_mut(middle);
        let sum = total(first, one);
        range = if sum >= enough {
            first
        } else {
            enough -= sum;
            second
        };
    }
    range.sort_unstable_by(Candidate::order);
    let mut sum = 0;
    let mut reaches = |c: &&Candidate| {
        sum += units(c.weight, one);
        sum >= enough
    };
    range.iter().find(&mut reaches).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_vocabulary_of_ones_does_not_overflow() {
        for vocab in [1, 2, 3, 4, 7, 8, 1000, 128_256, 1 << 18, (1 << 31) - 1] {
            let whole = one(vocab) as u128 * vocab as u128;
            assert!(whole < 1 << 63 && 2 * whole >= 1 << 62, "{vocab}: {whole:x}");
        }
    }

    #[test]
    fn a_cut_falls_where_sorting_everything_puts_it() {
        for (len, spread) in [(1usize, 1), (40, 7), (700, 3), (3000, 100_000)] {
            let mut candidates = Candidates::new(len);
            let logits: Vec<f32> = (0..len).map(|i| (i * 7919 % spread) as f32 / spread as f32).collect();
            for p in [1e-9f32, 0.1, 0.5, 0.9, 0.999, 1.0 - f32::EPSILON] {
                candidates.fill(&logits);
                candidates.weigh(0.1);
                let mut sorted = candidates.all.clone();
                sorted.sort_by(Candidate::order);
                let enough = f64::from(p) * total(&sorted, candidates.one) as f64;
                let mut sum = 0;
                sorted.retain(|c| {
                    let kept = sum == 0 || sum < enough as u64;
                    sum += units(c.weight, candidates.one);
                    kept
                });
                candidates.top_p(p);
                sorted.sort_by_key(|c| c.token);
                let tokens = |all: &[Candidate]| all.iter().map(|c| c.token).collect::<Vec<u32>>();
                assert_eq!(tokens(&candidates.all), tokens(&sorted), "{len} {spread} {p}");
            }
        }
    }
}
