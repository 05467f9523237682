//! What a model says as the items of a response: calls of functions, then one message with what it says beside them.

use llama_core::engine::Score;

use crate::calls::{Call, Parser, Said};
use crate::texts::unique;

/// One text, as far as it has come.
pub struct Output {
    parser: Parser,
    /// The calls with their ids as items, each complete: until it is nobody knows that it is one.
    pub calls: Vec<(String, Call)>,
    /// What follows them.
    pub message: Option<Message>,
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
    /// Nothing yet, of a text that `parser` reads.
    pub fn new(parser: Parser) -> Self {
        Output { parser, calls: Vec::new(), message: None }
    }

    /// Adds `text` and the scores of its tokens. They come without text where that is held back, in half a character or in what
    /// may become a stop string.
    pub fn push(&mut self, text: &str, scores: &[Score]) -> Vec<Change> {
        let mut changes = Vec::new();
        for said in self.parser.push(text) {
            self.add(said, &mut changes);
        }
        if !scores.is_empty() {
            self.message(&mut changes).scores.extend_from_slice(scores);
            match changes.last_mut() {
                Some(Change::Said(_, with)) => with.extend_from_slice(scores),
                _ => changes.push(Change::Said(String::new(), scores.to_vec())),
            }
        }
        changes
    }

    /// Ends the text, which was cut off or not as `status` says. One that says nothing is an empty message.
    pub fn end(&mut self, status: Status) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Some(said) = self.parser.end() {
            self.add(said, &mut changes);
        }
        if self.calls.is_empty() {
            self.message(&mut changes);
        }
        self.close(status);
        changes
    }

    /// Gives the message, if there is one, its last status.
    pub fn close(&mut self, status: Status) {
        if let Some(message) = &mut self.message {
            message.status = status;
        }
    }

    /// Calls come first: the parser finds none after a text.
    fn add(&mut self, said: Said, changes: &mut Vec<Change>) {
        match said {
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
