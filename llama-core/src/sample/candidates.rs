//! The tokens that may be drawn: their weights, the cuts by top-k, typical, top-p, min-p and XTC, and the draw.
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
    scale: Scale,
}

/// What makes an exponent of a logit.
#[derive(Debug, Clone, Copy, Default)]
struct Scale {
    /// The greatest logit.
    max: f32,
    temperature: f32,
}

impl Scale {
    /// At most 0: the logarithm of the candidate's weight.
    fn exponent(&self, candidate: &Candidate) -> f32 {
        (candidate.logit - self.max) / self.temperature
    }
}

/// Bins that weights are sorted into to find where a cut falls: eight for each halving.
const BINS: usize = 256;

/// A range so short is sorted, not split further.
const SHORT: usize = 16;

impl Candidates {
    /// Room for `vocab` tokens.
    pub fn new(vocab: usize) -> Self {
        let [all, near] = [Vec::with_capacity(vocab), Vec::with_capacity(vocab)];
        Candidates { all, near, one: one(vocab), scale: Scale::default() }
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
        let scale = Scale { max, temperature };
        for c in &mut self.all {
            c.weight = exp(scale.exponent(c));
        }
        self.scale = scale;
    }

    /// Keeps the fewest candidates whose probabilities reach `p` of all that are left, those first whose surprise is nearest the
    /// entropy; of equals the lower id (Meister et al. 2022, "Locally typical sampling", arXiv:2202.00666).
    ///
    /// With weights `e^x` that add up to `w`, a surprise is `ln w - x`, and the entropy `ln w` less the mean of `x`. So what is
    /// between them is what is between `x` and its mean, and needs no logarithm.
    pub fn typical(&mut self, p: f32) {
        let (mean, scale) = (self.mean_exponent(), self.scale);
        let distance = |c: &Candidate| (mean - f64::from(scale.exponent(c))).abs();
        let order = |a: &Candidate, b: &Candidate| distance(a).total_cmp(&distance(b)).then(a.token.cmp(&b.token));
        self.keep_fewest(p, |c| distance_bin(distance(c)), order);
    }

    /// The mean of the exponents by their weights. Each product, at most `1 / e`, is added as weights are.
    fn mean_exponent(&self) -> f64 {
        let weighted = |c: &Candidate| if c.weight > 0.0 { c.weight * -self.scale.exponent(c) } else { 0.0 };
        let sum: u64 = self.all.iter().map(|c| units(weighted(c), self.one)).sum();
        -(sum as f64) / total(&self.all, self.one) as f64
    }

    /// Keeps the fewest most probable tokens whose probabilities reach `p` of all that are left (Holtzman et al. 2020,
    /// "The curious case of neural text degeneration", arXiv:1904.09751).
    pub fn top_p(&mut self, p: f32) {
        self.keep_fewest(p, Candidate::bin, Candidate::order);
    }

    /// Keeps the first candidates in `order`, the fewest that reach `p` of all that are left. What comes first has the lower
    /// `bin`, or the same.
    ///
    /// The bins' sums tell in which of them the cut falls; only its candidates are looked at one by one.
    fn keep_fewest(
        &mut self,
        p: f32,
        bin_of: impl Fn(&Candidate) -> usize,
        order: impl Fn(&Candidate, &Candidate) -> Ordering,
    ) {
        let mut sums = [0u64; BINS];
        for c in &self.all {
            sums[bin_of(c)] += units(c.weight, self.one);
        }
        let total: u64 = sums.iter().sum();
        let mut enough = ((f64::from(p) * total as f64) as u64).max(1);
        let mut bin = 0;
        while enough > sums[bin] && bin + 1 < BINS {
            enough -= sums[bin];
            bin += 1;
        }
        self.near.clear();
        self.near.extend(self.all.iter().filter(|c| bin_of(c) == bin));
        if let Some(last) = last_needed(&mut self.near, self.one, enough, &order) {
            self.all.retain(|c| order(c, &last).is_le());
        }
    }

    /// Keeps what is at least `p` times as probable as the most probable that is left (Nguyen et al. 2024, arXiv:2407.01082).
    pub fn min_p(&mut self, p: f32) {
        // 1, unless the most probable of all was not typical.
        let most = self.all.iter().fold(0.0, |most, c| c.weight.max(most));
        self.all.retain(|c| c.weight >= p * most);
    }

    /// Of the candidates that have `threshold` of all that are left, keeps the last in order, and all after it (XTC, by p-e-w for
    /// text-generation-webui, its pull request 6335). What has no weight is no choice.
    pub fn exclude_top(&mut self, threshold: f32) {
        let one = self.one;
        let enough = ((f64::from(threshold) * total(&self.all, one) as f64).ceil() as u64).max(1);
        let top = self.all.iter().filter(|c| units(c.weight, one) >= enough);
        if let Some(&last) = top.max_by(|a, b| a.order(b)) {
            self.all.retain(|c| c.order(&last).is_ge());
        }
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

/// Lower for what is nearer, or the same: eight bins for each halving from 2^7 down to 2^-25.
fn distance_bin(distance: f64) -> usize {
    const LEAST: u32 = (127 - 25) << 3;
    (((distance as f32).to_bits() >> 20).saturating_sub(LEAST) as usize).min(BINS - 1)
}

/// The last of the fewest first candidates in `order` whose weights reach `enough`.
fn last_needed(
    mut range: &mut [Candidate],
    one: f32,
    mut enough: u64,
    order: impl Fn(&Candidate, &Candidate) -> Ordering,
) -> Option<Candidate> {
    while range.len() > SHORT {
        let middle = range.len() / 2;
        range.select_nth_unstable_by(middle, &order);
        let (first, second) = range.split_at_mut(middle);
        let sum = total(first, one);
        range = if sum >= enough {
            first
        } else {
            enough -= sum;
            second
        };
    }
    range.sort_unstable_by(order);
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

    /// Candidates of the logits, with weights.
    fn weighed(logits: &[f32], temperature: f32) -> Candidates {
        let mut candidates = Candidates::new(logits.len());
        candidates.fill(logits);
        candidates.weigh(temperature);
        candidates
    }

    fn tokens(candidates: &[Candidate]) -> Vec<u32> {
        candidates.iter().map(|c| c.token).collect()
    }

    /// Logits and temperatures: few and many, with and without equals, flat and steep.
    fn some() -> impl Iterator<Item = (Vec<f32>, f32)> {
        [(1usize, 1), (40, 7), (700, 3), (3000, 100_000)].into_iter().flat_map(|(len, spread)| {
            let logits: Vec<f32> = (0..len).map(|i| (i * 7919 % spread) as f32 / spread as f32).collect();
            [0.01, 0.1, 1.0, 1e9].map(|temperature| (logits.clone(), temperature))
        })
    }

    /// The tokens of the fewest first candidates, `sorted`, that reach `p`; ascending.
    fn fewest(sorted: &[Candidate], p: f32, one: f32) -> Vec<u32> {
        let enough = f64::from(p) * total(sorted, one) as f64;
        let mut sum = 0;
        let mut needed = |c: &&Candidate| {
            let needed = sum == 0 || sum < enough as u64;
            sum += units(c.weight, one);
            needed
        };
        let mut tokens: Vec<u32> = sorted.iter().take_while(&mut needed).map(|c| c.token).collect();
        tokens.sort_unstable();
        tokens
    }

    #[test]
    fn a_cut_falls_where_sorting_everything_puts_it() {
        for (logits, temperature) in some() {
            for p in [1e-9f32, 0.1, 0.5, 0.9, 0.999, 1.0 - f32::EPSILON] {
                let mut candidates = weighed(&logits, temperature);
                let mut sorted = candidates.all.clone();
                sorted.sort_by(Candidate::order);
                candidates.top_p(p);
                let expected = fewest(&sorted, p, candidates.one);
                assert_eq!(tokens(&candidates.all), expected, "{} {temperature} {p}", logits.len());

                let mut candidates = weighed(&logits, temperature);
                let (mean, scale) = (candidates.mean_exponent(), candidates.scale);
                let distance = |c: &Candidate| (mean - f64::from(scale.exponent(c))).abs();
                // Stable, so of equals the lower id comes first.
                let mut sorted = candidates.all.clone();
                sorted.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
                candidates.typical(p);
                let expected = fewest(&sorted, p, candidates.one);
                assert_eq!(tokens(&candidates.all), expected, "{} {temperature} {p}", logits.len());
            }
        }
    }

    #[test]
    fn top_choices_are_those_that_sorting_everything_puts_first() {
        for (logits, temperature) in some() {
            for threshold in [0.0f32, 1e-5, 0.01, 0.1, 0.5] {
                let mut candidates = weighed(&logits, temperature);
                let mut sorted = candidates.all.clone();
                sorted.sort_by(Candidate::order);
                let whole = total(&sorted, candidates.one) as f64;
                let reaches = |c: &&Candidate| {
                    let own = units(c.weight, candidates.one);
                    own > 0 && own as f64 >= f64::from(threshold) * whole
                };
                let top = sorted.iter().take_while(reaches).count();
                sorted.drain(..top.saturating_sub(1));
                sorted.sort_by_key(|c| c.token);
                candidates.exclude_top(threshold);
                assert_eq!(tokens(&candidates.all), tokens(&sorted), "{} {temperature} {threshold}", logits.len());
            }
        }
    }

    /// Against the definition, with logarithms: what is kept is nearer the entropy than what is not, and as much as needed.
    #[test]
    fn typical_candidates_are_those_nearest_the_entropy() {
        for (logits, temperature) in some() {
            let weights: Vec<f64> = logits.iter().map(|&l| (f64::from(l) / f64::from(temperature)).exp()).collect();
            let whole: f64 = weights.iter().sum();
            let p_of = |token: usize| weights[token] / whole;
            let entropy: f64 = (0..logits.len()).map(|t| -p_of(t) * p_of(t).ln()).sum();
            let distance = |token: usize| (-p_of(token).ln() - entropy).abs();
            for p in [1e-9f32, 0.1, 0.5, 0.9, 0.999] {
                let mut candidates = weighed(&logits, temperature);
                candidates.typical(p);
                let kept: Vec<usize> = candidates.all.iter().map(|c| c.token as usize).collect();
                let farthest = kept.iter().map(|&t| distance(t)).fold(0.0, f64::max);
                let others = (0..logits.len()).filter(|t| !kept.contains(t));
                let nearest = others.map(distance).fold(f64::INFINITY, f64::min);
                assert!(farthest <= nearest + 1e-5, "{farthest} {nearest}");
                let sum: f64 = kept.iter().map(|&t| p_of(t)).sum();
                let most =
                    kept.iter().filter(|&&t| distance(t) > farthest - 1e-5).map(|&t| p_of(t)).fold(0.0, f64::max);
                assert!(sum > f64::from(p) - 1e-6 && sum - most < f64::from(p) + 1e-6, "{sum} of {p}");
            }
        }
    }

    /// Computed once in double precision by the definition that transformers' TypicalLogitsWarper follows. The first has an
    /// entropy of 1.33307, from which its surprises are 0.63993, 0.27636, 0.56405, 0.96951 and 1.66266.
    #[test]
    fn typical_candidates_of_known_distributions() {
        let first = [0.5f32, 0.2, 0.15, 0.1, 0.05].map(f32::ln);
        let second = [3.0f32, 1.0, 0.5, 0.0, -1.0, 2.0, -2.0, 0.25];
        let kept = |logits: &[f32], p| {
            let mut candidates = weighed(logits, 1.0);
            candidates.typical(p);
            tokens(&candidates.all)
        };
        let cases: [(f32, &[u32]); 5] =
            [(0.1, &[1]), (0.3, &[1, 2]), (0.45, &[0, 1, 2]), (0.9, &[0, 1, 2, 3]), (0.99, &[0, 1, 2, 3, 4])];
        cases.iter().for_each(|&(p, expected)| assert_eq!(kept(&first, p), expected, "{p}"));
        let cases: [(f32, &[u32]); 4] = [(0.05, &[5]), (0.5, &[0, 5]), (0.8, &[0, 1, 5]), (0.95, &[0, 1, 2, 5, 7])];
        cases.iter().for_each(|&(p, expected)| assert_eq!(kept(&second, p), expected, "{p}"));
    }

    #[test]
    fn the_least_probable_top_choice_stays() {
        let logits = [0.1f32, 0.4, 0.05, 0.3, 0.15].map(f32::ln);
        let left = |logits: &[f32], threshold| {
            let mut candidates = weighed(logits, 1.0);
            candidates.exclude_top(threshold);
            tokens(&candidates.all)
        };
        assert_eq!(left(&logits, 0.5), [0, 1, 2, 3, 4]);
        assert_eq!(left(&logits, 0.35), [0, 1, 2, 3, 4], "one top choice is no choice");
        assert_eq!(left(&logits, 0.2), [0, 2, 3, 4]);
        assert_eq!(left(&logits, 0.14), [0, 2, 4]);
        assert_eq!(left(&logits, 0.0), [2]);
        assert_eq!(left(&[0.0; 4], 0.25), [3], "of equals the highest id");
        assert_eq!(left(&[0.0; 2], 0.5), [1]);
        assert_eq!(left(&[0.0, -200.0], 0.0), [0, 1], "what is impossible is no choice");
        assert_eq!(left(&[f32::NEG_INFINITY; 2], 0.1), [0u32; 0]);
    }
}
