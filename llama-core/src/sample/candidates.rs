//! The tokens that may be drawn: their weights, the cuts by top-k, top-p and min-p, and the draw.
//!
//! Nothing sorts the vocabulary: top-k selects, top-p drops the tail and sorts as long a prefix as it needs, and without
//! either tokens keep the order of their ids. Every sum runs in a fixed order, so that a draw is the same everywhere.

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
}

/// Scratch for one draw, made once.
#[derive(Debug)]
pub(super) struct Candidates(Vec<Candidate>);

/// How long a prefix top-p sorts first.
const FIRST_PREFIX: usize = 64;

impl Candidates {
    /// Room for `vocab` tokens.
    pub fn new(vocab: usize) -> Self {
        Candidates(Vec::with_capacity(vocab))
    }

    /// Starts anew with all tokens but those whose logit is `-inf`.
    pub fn fill(&mut self, logits: &[f32]) {
        self.0.clear();
        // Adding zero makes -0 a 0: the two are equally probable, and `total_cmp` must see them as equal.
        let all = logits.iter().enumerate().map(|(i, &l)| Candidate { token: i as u32, logit: l + 0.0, weight: 0.0 });
        self.0.extend(all.filter(|c| c.logit > f32::NEG_INFINITY));
    }

    /// Keeps the `k` most probable, in order.
    pub fn top_k(&mut self, k: usize) {
        if k < self.0.len() {
            self.0.select_nth_unstable_by(k, Candidate::order);
            self.0.truncate(k);
            self.0.sort_unstable_by(Candidate::order);
        }
    }

    /// Sets the weights: `exp((logit - max) / temperature)`.
    pub fn weigh(&mut self, temperature: f32) {
        let max = self.0.iter().fold(f32::NEG_INFINITY, |max, c| max.max(c.logit));
        for c in &mut self.0 {
            c.weight = exp((c.logit - max) / temperature);
        }
    }

    /// Keeps the fewest most probable tokens whose probabilities reach `p` of all that are left (Holtzman et al. 2020,
    /// "The curious case of neural text degeneration", arXiv:1904.09751), in order.
    pub fn top_p(&mut self, p: f32) {
        let total = self.total();
        let enough = f64::from(p) * total;
        // Together, all tokens this improbable make up less than 1 - p: the others reach p without them.
        let needless = (1.0 - f64::from(p)) * total / self.0.len() as f64;
        self.0.retain(|c| f64::from(c.weight) >= needless);
        let (mut sum, mut sorted) = (0.0, 0);
        while sorted < self.0.len() {
            let end = self.0.len().min(FIRST_PREFIX.max(4 * sorted));
            self.sort_range(sorted, end);
            for i in sorted..end {
                sum += f64::from(self.0[i].weight);
                if sum >= enough {
                    return self.0.truncate(i + 1);
                }
            }
            sorted = end;
        }
    }

    /// Puts in place what belongs at `start..end` in order of probability; what comes before `start` is there already.
    fn sort_range(&mut self, start: usize, end: usize) {
        let rest = &mut self.0[start..];
        if end - start < rest.len() {
            rest.select_nth_unstable_by(end - start, Candidate::order);
        }
        rest[..end - start].sort_unstable_by(Candidate::order);
    }

    /// Keeps what is at least `p` times as probable as the most probable (Nguyen et al. 2024, arXiv:2407.01082).
    pub fn min_p(&mut self, p: f32) {
        self.0.retain(|c| c.weight >= p);
    }

    /// The token at `u` of the way, in `[0, 1)`, through the weights.
    pub fn draw(&self, u: f64) -> Option<u32> {
        let target = u * self.total();
        let mut sum = 0.0;
        let mut passes = |c: &&Candidate| {
            sum += f64::from(c.weight);
            sum > target
        };
        self.0.iter().find(&mut passes).map(|c| c.token)
    }

    fn total(&self) -> f64 {
        self.0.iter().map(|c| f64::from(c.weight)).sum()
    }
}
