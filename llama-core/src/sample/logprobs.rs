//! Log-probabilities of the model's own distribution: before bias, penalties, temperature and truncation.

use super::elementary::exp;
use crate::numerics::ln;

/// A token and the logarithm of its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logprob {
    /// Token id.
    pub token: u32,
    /// Natural logarithm of its probability, at most 0.
    pub logprob: f32,
}

/// The logarithm of the sum of the exponentials, so that a logit less this is a log-probability.
pub(super) fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, &v| max.max(v));
    f64::from(max) + ln(logits.iter().map(|&v| f64::from(exp(v - max))).sum())
}

/// Replaces `out` by the `n` most probable tokens, most probable first; of equals the lower id first.
pub(super) fn most_probable(logits: &[f32], log_sum: f64, n: usize, out: &mut Vec<Logprob>) {
    out.clear();
    for (token, &logit) in logits.iter().enumerate() {
        if out.len() == n && out.last().is_none_or(|last| logit <= last.logprob) {
            continue;
        }
        // Holds logits until the end, which order better than their rounded logarithms.
        let at = out.partition_point(|better| better.logprob >= logit);
        out.truncate(n - 1);
        out.insert(at, Logprob { token: token as u32, logprob: logit });
    }
    for top in out {
        top.logprob = logprob(top.logprob, log_sum);
    }
}

/// A logit's log-probability.
pub(super) fn logprob(logit: f32, log_sum: f64) -> f32 {
    ((f64::from(logit) - log_sum) as f32).min(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logprobs_are_those_of_softmax() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 * 0.02 - 3.0).collect();
        let exact = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
        let log_sum = log_sum_exp(&logits);
        assert!((log_sum - exact).abs() < 1e-6, "{log_sum} {exact}");
        let total: f64 = logits.iter().map(|&l| f64::from(logprob(l, log_sum)).exp()).sum();
        assert!((total - 1.0).abs() < 1e-5, "{total}");
    }

    #[test]
    fn the_most_probable_are_sorted_and_equals_keep_their_order() {
        let mut out = Vec::new();
        let logits = [1.0, 3.0, 2.0, 3.0, -1e30, 2.0];
        for n in 0..=6 {
            most_probable(&logits, log_sum_exp(&logits), n, &mut out);
            let tokens: Vec<u32> = out.iter().map(|t| t.token).collect();
            assert_eq!(tokens, [1, 3, 2, 5, 0, 4][..n]);
        }
        assert!(out.iter().all(|t| t.logprob <= 0.0 && t.logprob.is_finite()));
    }

    #[test]
    fn huge_logits_have_finite_logprobs() {
        assert!((log_sum_exp(&[f32::MAX, f32::MIN]) - f64::from(f32::MAX)).abs() < 1.0);
        assert_eq!(logprob(f32::MAX, log_sum_exp(&[f32::MAX, 0.0])), 0.0);
    }
}
