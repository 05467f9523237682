//! Which tokens were thoughts. Told by the tokens themselves: not every one has a text, and the texts of several may come as one.

use std::sync::Arc;

use llama_core::engine::Score;
use llama_core::text::Tokenizer;

use super::{Place, Thoughts};

/// Tells the scores of an answer's tokens from those of the thoughts before it.
pub struct AnswerScores {
    thoughts: Thoughts,
    /// Those that are the answer's, if there turn out to be no thoughts.
    held: Vec<Score>,
}

impl AnswerScores {
    /// At the beginning of what `thoughts` tells apart.
    pub fn new(thoughts: Thoughts) -> Self {
        AnswerScores { thoughts, held: Vec::new() }
    }

    /// Those of `scores` that are the answer's, and what was held back of the ones before, if they have `ended`.
    pub fn push(&mut self, tokenizer: &Tokenizer, scores: &[Score], ended: bool) -> Vec<Score> {
        let mut answered = Vec::new();
        for score in scores {
            self.held.push(score.clone());
            match self.thoughts.pass(tokenizer, score.token) {
                Place::Before => {}
                Place::Answer => answered.append(&mut self.held),
                Place::Opened | Place::Within | Place::Closed => self.held.clear(),
            }
        }
        if ended {
            answered.append(&mut self.held);
        }
        answered
    }
}

/// Counts the tokens of thoughts: all from the opening tag, or from the beginning of a text that starts amid them, to the closing tag.
pub struct Tally {
    tokenizer: Arc<Tokenizer>,
    thoughts: Thoughts,
    /// Those that may be part of the opening tag.
    held: usize,
    count: usize,
}

impl Tally {
    /// At the beginning of what `thoughts` tells apart.
    pub fn new(tokenizer: Arc<Tokenizer>, thoughts: Thoughts) -> Self {
        Tally { tokenizer, thoughts, held: 0, count: 0 }
    }

    /// How many there were so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Goes on by `tokens`.
    pub fn push(&mut self, tokens: &[u32]) {
        for &token in tokens {
            let place = self.thoughts.place;
            if matches!(place, Place::Closed | Place::Answer) {
                return;
            }
            let next = self.thoughts.pass(&self.tokenizer, token);
            self.held += 1;
            match next {
                Place::Before => {}
                Place::Answer if place == Place::Before => self.held = 0,
                _ => self.count += std::mem::take(&mut self.held),
            }
        }
    }
}

impl Thoughts {
    /// Goes on by `token`. Returns where that leads. Tokens that pad a model's vocabulary are not the tokenizer's, and have no text.
    fn pass(&mut self, tokenizer: &Tokenizer, token: u32) -> Place {
        let text = self.tags.text(tokenizer, token).unwrap_or_default();
        self.push(&String::from_utf8_lossy(text));
        self.place
    }
}
