//! What a model gives of its last hidden states: logits of tokens, one vector for a text, scores of labels.

use std::str::FromStr;

use crate::error::{Error, Result, by_name};

/// Where logits come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// A matrix of its own.
    Own,
    /// The embedding's matrix.
    Tied,
    /// Nowhere: the model gives hidden states and generates nothing.
    None,
}

/// How the hidden states of a text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// The last token's state, which is the only one that has seen the whole text.
    #[default]
    Last,
    /// The mean over all tokens.
    Mean,
    /// None: a vector for each token.
    Tokens,
}

/// What a classifier was trained to tell (transformers' `problem_type`), which says what its scores mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProblemType {
    /// One label of several, or whether the only one applies.
    #[default]
    SingleLabel,
    /// Any of the labels, each by itself.
    MultiLabel,
    /// Numbers: a reward, for example.
    Regression,
}

impl ProblemType {
    /// Every one.
    pub const ALL: [ProblemType; 3] = [ProblemType::SingleLabel, ProblemType::MultiLabel, ProblemType::Regression];

    /// Its name in config.json.
    pub fn name(self) -> &'static str {
        match self {
            ProblemType::SingleLabel => "single_label_classification",
            ProblemType::MultiLabel => "multi_label_classification",
            ProblemType::Regression => "regression",
        }
    }

    /// What `scores` say of each label: of one label of several a softmax; of one alone, or of any, the logistic function of each;
    /// of numbers the numbers.
    pub fn probabilities(self, scores: &[f32]) -> Vec<f64> {
        let wide = scores.iter().copied().map(f64::from);
        match self {
            ProblemType::Regression => wide.collect(),
            ProblemType::SingleLabel if scores.len() > 1 => softmax(wide),
            _ => wide.map(|score| 1.0 / (1.0 + (-score).exp())).collect(),
        }
    }
}

fn softmax(scores: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let highest = scores.clone().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.map(|score| (score - highest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

impl Pooling {
    /// Every way.
    pub const ALL: [Pooling; 3] = [Pooling::Last, Pooling::Mean, Pooling::Tokens];

    /// Its name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::Last => "last",
            Pooling::Mean => "mean",
            Pooling::Tokens => "tokens",
        }
    }
}

impl FromStr for Pooling {
    type Err = Error;

    /// By its name.
    fn from_str(name: &str) -> Result<Self> {
        by_name("pooling", name, Pooling::ALL, Pooling::name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_become_what_they_were_trained_to_be() {
        let [single, multi, regression] =
            ProblemType::ALL.map(|problem| move |scores: &[f32]| problem.probabilities(scores));
        let probs = single(&[1000.0, 1000.0 + 3f32.ln()]);
        assert!((probs[0] - 0.25).abs() < 1e-4 && (probs[1] - 0.75).abs() < 1e-4, "{probs:?}");
        assert_eq!((single(&[0.0]), single(&[-1e30])), (vec![0.5], vec![0.0]));
        let probs = multi(&[0.0, 3f32.ln(), -1e30, 1e30]);
        assert!(probs[0] == 0.5 && (probs[1] - 0.75).abs() < 1e-6 && probs[2..] == [0.0, 1.0], "{probs:?}");
        assert_eq!(regression(&[-1.5, 2.0]), [-1.5, 2.0]);
    }
}
