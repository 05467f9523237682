//! What a model says as the items of a response: what it thought, calls of functions, then one message with what it says beside them.

use std::sync::Arc;

use llama_core::engine::Score;
use llama_core::text::Tokenizer;

use crate::calls::{Call, Parser, Said};
use crate::texts::unique;
use crate::thoughts::AnswerScores;

/// One text, as far as it has come.
pub struct Output {
    parser: Parser,
    /// Where scores are wanted: which tokens are the answer's, and scores of those whose text is held back amid thoughts.
    scored: Option<(Arc<Tokenizer>, AnswerScores)>,
    waiting: Vec<Score>,
    /// What comes before all else.
    pub thoughts: Option<Thoughts>,
    /// The calls with their ids as items, each complete: until it is nobody knows that it is one.
    pub calls: Vec<(String, Call)>,
    /// What follows them.
    pub message: Option<Message>,
}

/// An item that is thoughts.
pub struct Thoughts {
    pub id: String,
    pub text: String,
    pub status: Status,
}

/// An item that is a message.
pub struct Message {
    pub id: String,
    pub text: String,
    /// Of its tokens, where they are wanted.
    pub scores: Vec<Score>,
    pub status: Status,
}

/// How far an item or a response has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    InProgress,
    Completed,
    /// Cut off.
    Incomplete,
    /// Of a response only.
    Failed,
}

/// What has become of the output.
pub enum Change {
    /// Thoughts have begun.
    Thinks,
    /// They have gone on by this.
    Thought(String),
    /// They have ended.
    Decided,
    /// A call has come, the one of this number.
    Called(usize),
    /// The message has begun.
    Begun,
    /// The message has gone on by this, or by tokens without a text.
    Said(String, Vec<Score>),
}

impl Status {
    /// In the API's words.
    pub fn name(self) -> &'static str {
        match self {
            Status::InProgress => "in_progress",
            Status::Completed => "completed",
            Status::Incomplete => "incomplete",
            Status::Failed => "failed",
        }
    }
}

impl Output {
    /// Nothing yet, of a text that `parser` reads. With a `tokenizer` there are scores.
    pub fn new(parser: Parser, tokenizer: Option<Arc<Tokenizer>>) -> Self {
        let scored = tokenizer.map(|tokenizer| (tokenizer, AnswerScores::new(parser.thoughts().clone())));
        Output { parser, scored, waiting: Vec::new(), thoughts: None, calls: Vec::new(), message: None }
    }

    /// Adds `text` and the scores of its tokens. They come without text where that is held back, in half a character or in what
    /// may become a stop string. Thoughts have no place for scores.
    pub fn push(&mut self, text: &str, scores: &[Score]) -> Vec<Change> {
        let mut changes = Vec::new();
        for said in self.parser.push(text) {
            self.add(said, &mut changes);
        }
        self.wait(scores, false);
        self.score(&mut changes);
        changes
    }

    /// Ends the text, which was cut off or not as `status` says. One that says nothing is an empty message.
    pub fn end(&mut self, status: Status) -> Vec<Change> {
        let mut changes = Vec::new();
        for said in self.parser.end() {
            self.add(said, &mut changes);
        }
        self.wait(&[], true);
        self.score(&mut changes);
        if self.calls.is_empty() && !(self.thoughts.is_some() && self.message.is_none() && status != Status::Completed)
        {
            self.message(&mut changes);
        }
        self.decide(status, &mut changes);
        self.close(status);
        changes
    }

    /// Keeps those of `scores` that are the answer's, the last of them if it has `ended`.
    fn wait(&mut self, scores: &[Score], ended: bool) {
        if let Some((tokenizer, answer)) = &mut self.scored {
            self.waiting.extend(answer.push(tokenizer, scores, ended));
        }
    }

    /// Adds the scores that wait to the message, once there may be one.
    fn score(&mut self, changes: &mut Vec<Change>) {
        if self.waiting.is_empty() || !self.parser.thoughts().are_over() {
            return;
        }
        self.decide(Status::Completed, changes);
        let scores = std::mem::take(&mut self.waiting);
        self.message(changes).scores.extend_from_slice(&scores);
        match changes.last_mut() {
            Some(Change::Said(_, with)) => with.extend(scores),
            _ => changes.push(Change::Said(String::new(), scores)),
        }
    }

    /// Gives what has not ended its last status.
    pub fn close(&mut self, status: Status) {
        self.decide(status, &mut Vec::new());
        if let Some(message) = &mut self.message {
            message.status = status;
        }
    }

    /// Ends the thoughts, if they have not ended.
    fn decide(&mut self, status: Status, changes: &mut Vec<Change>) {
        if let Some(thoughts) = self.thoughts.as_mut().filter(|thoughts| thoughts.status == Status::InProgress) {
            thoughts.status = status;
            changes.push(Change::Decided);
        }
    }

    /// Calls come first: the parser finds none after a text, and thoughts before both.
    fn add(&mut self, said: Said, changes: &mut Vec<Change>) {
        if !matches!(said, Said::Thought(_)) {
            self.decide(Status::Completed, changes);
        }
        match said {
            Said::Thought(text) => {
                let thoughts = self.thoughts.get_or_insert_with(|| {
                    changes.push(Change::Thinks);
                    Thoughts { id: format!("rs_{}", unique()), text: String::new(), status: Status::InProgress }
                });
                thoughts.text.push_str(&text);
                changes.push(Change::Thought(text));
            }
            Said::Text(text) => {
                self.message(changes).text.push_str(&text);
                changes.push(Change::Said(text, Vec::new()));
            }
            Said::Call(call) => {
                changes.push(Change::Called(self.calls.len()));
                self.calls.push((format!("fc_{}", unique()), call));
            }
        }
    }

    /// The message, which begins where there was none.
    fn message(&mut self, changes: &mut Vec<Change>) -> &mut Message {
        self.message.get_or_insert_with(|| {
            changes.push(Change::Begun);
            let (text, scores) = (String::new(), Vec::new());
            Message { id: format!("msg_{}", unique()), text, scores, status: Status::InProgress }
        })
    }
}
