//! What the engine reports.

use std::fmt;

use crate::error::Error;
use crate::sample::Logprob;

/// Names one submitted request. Numbers ascend in the order of submission and are never reused by an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub(super) u64);

impl SequenceId {
    /// The number, as errors print it.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The log-probability of one token, and those of the most probable ones in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The token.
    pub token: u32,
    /// Its natural log-probability.
    pub logprob: f32,
    /// The most probable tokens in descending order, as many as were asked for.
    pub top: Vec<Logprob>,
}

/// Why a generation ended.
#[derive(Debug)]
pub enum Finish {
    /// This stop string came up; the text ends before it.
    Stop(String),
    /// This stop token of the request came up.
    StopToken(u32),
    /// This end token of the model came up.
    End(u32),
    /// All tokens asked for are there, or the vector or scores asked for in their stead.
    Length,
    /// [`Engine::cancel`](super::Engine::cancel).
    Cancelled,
    /// This sequence alone went wrong. [`Engine::generate`](super::Engine::generate) and
    /// [`Engine::complete`](super::Engine::complete) return it as their error instead.
    Failed(Error),
}

/// What one step did for one sequence. Where a step accepted drafts, it is told a token an event, in their order.
#[derive(Debug)]
pub struct Event {
    /// Which.
    pub id: SequenceId,
    /// The token generated, if the step got that far.
    pub token: Option<u32>,
    /// Text that became certain: whole characters, and no part of a stop string.
    pub text: String,
    /// Natural log-probability of `token`, where asked for.
    pub logprob: Option<f32>,
    /// The most probable tokens in its place in descending order, as many as were asked for.
    pub top: Vec<Logprob>,
    /// The next tokens of the prompt, from its second on, where asked for.
    pub prompt: Vec<Score>,
    /// Of an [`Embed`](super::Embed), in the last event: its vector, `[hidden]`; without pooling in every event: the vectors
    /// of its next tokens, `[n, hidden]`. Of a classification, in the last event: the scores of its labels, `[labels]`.
    pub vector: Vec<f32>,
    /// In the last event: how many tokens of its prompt the prefix cache held, so that they were not computed.
    pub cached_tokens: usize,
    /// Set in a sequence's last event.
    pub finish: Option<Finish>,
}

impl Event {
    pub(super) fn new(id: SequenceId) -> Self {
        let (text, top, prompt, vector) = Default::default();
        Event { id, token: None, text, logprob: None, top, prompt, vector, cached_tokens: 0, finish: None }
    }

    /// Whether there is anything to say.
    pub(super) fn is_empty(&self) -> bool {
        let says = self.token.is_some() || !self.text.is_empty() || !self.prompt.is_empty() || !self.vector.is_empty();
        !says && self.finish.is_none()
    }
}

/// A whole generation.
#[derive(Debug)]
pub struct Completion {
    /// Which.
    pub id: SequenceId,
    /// Tokens generated, the one that ended the generation included.
    pub tokens: Vec<u32>,
    /// Their text, without what ended it.
    pub text: String,
    /// `[tokens]`, where asked for.
    pub scores: Vec<Score>,
    /// `[prompt - 1]`: the prompt's tokens from the second on, where asked for.
    pub prompt: Vec<Score>,
    /// The vector or vectors of an [`Embed`](super::Embed), or the scores of a classification.
    pub vector: Vec<f32>,
    /// How many tokens of its prompt the prefix cache held, so that they were not computed.
    pub cached_tokens: usize,
    /// Why it ended.
    pub finish: Finish,
}

impl Completion {
    /// Nothing yet. `finish` means nothing until the last event has been absorbed.
    pub fn new(id: SequenceId) -> Self {
        let (tokens, text, scores, prompt, vector) = Default::default();
        Completion { id, tokens, text, scores, prompt, vector, cached_tokens: 0, finish: Finish::Cancelled }
    }

    /// Appends what one event brought.
    pub fn absorb(&mut self, event: Event) {
        self.tokens.extend(event.token);
        self.text.push_str(&event.text);
        if let (Some(token), Some(logprob)) = (event.token, event.logprob) {
            self.scores.push(Score { token, logprob, top: event.top });
        }
        self.prompt.extend(event.prompt);
        self.vector.extend(event.vector);
        self.cached_tokens += event.cached_tokens;
        if let Some(finish) = event.finish {
            self.finish = finish;
        }
    }
}
