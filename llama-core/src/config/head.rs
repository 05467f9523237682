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
