//! Generated texts as answers: whole, or as the events of a stream. What the two endpoints share is here; how each spells a
//! choice is a [`Style`].

use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;

use llama_core::engine::{Completion, Finish, Score};
use serde_json::{Value, json};

use crate::mailbox::Part;
use crate::served::Served;

/// How an endpoint spells its answers.
pub trait Style: Send {
    /// What an answer's `object` says, and a stream's.
    fn objects(&self) -> [&'static str; 2];
    /// What its ids begin with.
    fn id_prefix(&self) -> &'static str;
    /// A whole choice.
    fn choice(&mut self, index: usize, completion: &Completion, scores: &[Score]) -> Value;
    /// What comes before a choice's first piece in a stream.
    fn opening(&self, index: usize) -> Option<Value>;
    /// What goes out when `text` has come of a choice in a stream, with the scores of its tokens.
    fn pieces(&mut self, index: usize, text: &str, scores: &[Score]) -> Vec<Value>;
    /// What ends a choice in a stream.
    fn endings(&mut self, index: usize, reason: &'static str) -> Vec<Value>;
}

/// One request's texts.
pub struct Texts {
    style: Box<dyn Style>,
    /// What all objects of the answer begin with.
    head: [(&'static str, Value); 4],
    sequences: usize,
    prompt_tokens: usize,
    generated_tokens: usize,
    include_usage: bool,
}

impl Texts {
    /// Nothing yet, of a request for `sequences` texts whose prompts have `prompt_tokens` tokens.
    pub fn new(served: &Served, style: impl Style + 'static, sequences: usize, prompt_tokens: usize) -> Self {
        let head = [
            ("id", format!("{}{}", style.id_prefix(), unique()).into()),
            ("created", now().into()),
            ("model", served.name.as_str().into()),
            ("system_fingerprint", served.fingerprint().into()),
        ];
        let style = Box::new(style);
        Texts { style, head, sequences, prompt_tokens, generated_tokens: 0, include_usage: false }
    }

    /// The same; a stream says in the end how many tokens there were.
    pub fn including_usage(self, include_usage: bool) -> Self {
        Texts { include_usage, ..self }
    }

    /// Says that `model` made them.
    pub fn say_by(&mut self, model: String) {
        self.head[2] = ("model", model.into());
    }

    /// The whole answer.
    pub fn whole(mut self, completions: &[Completion]) -> Value {
        self.generated_tokens = completions.iter().map(|completion| completion.tokens.len()).sum();
        let choices = completions.iter().enumerate();
        let choices = choices.map(|(index, completion)| self.style.choice(index, completion, scores(completion, true)));
        let choices = choices.collect();
        let mut answer = self.object(self.style.objects()[0], choices);
        answer["usage"] = self.usage();
        answer
    }

    /// The events that begin a stream.
    pub fn opening(&self) -> String {
        let choices = (0..self.sequences).filter_map(|index| self.style.opening(index));
        choices.map(|choice| self.event(vec![choice])).collect()
    }

    /// The events of a part.
    pub fn events(&mut self, part: &Part) -> String {
        let Part { index, completion, finished } = part;
        self.generated_tokens += completion.tokens.len();
        let scores = scores(completion, *finished);
        let mut choices = Vec::new();
        if !completion.text.is_empty() || !scores.is_empty() {
            choices.extend(self.style.pieces(*index, &completion.text, scores));
        }
        if *finished {
            choices.extend(self.style.endings(*index, reason(&completion.finish)));
        }
        choices.into_iter().map(|choice| self.event(vec![choice])).collect()
    }

    /// The events that end a stream.
    pub fn closing(&self) -> String {
        let mut events = String::new();
        if self.include_usage {
            let mut last = self.object(self.style.objects()[1], Vec::new());
            last["usage"] = self.usage();
            events.push_str(&event(&last));
        }
        events.push_str("data: [DONE]\n\n");
        events
    }

    /// An event of a stream. Where the last one tells of usage, the others say that they do not.
    fn event(&self, choices: Vec<Value>) -> String {
        let mut object = self.object(self.style.objects()[1], choices);
        if self.include_usage {
            object["usage"] = Value::Null;
        }
        event(&object)
    }

    fn object(&self, kind: &'static str, choices: Vec<Value>) -> Value {
        let mut object = Value::from_iter(self.head.iter().cloned());
        object["object"] = kind.into();
        object["choices"] = choices.into();
        object
    }

    fn usage(&self) -> Value {
        let (prompt, generated) = (self.prompt_tokens, self.generated_tokens);
        json!({"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated})
    }
}

/// An object as an event of a stream.
pub fn event(object: &Value) -> String {
    format!("data: {object}\n\n")
}

/// Why a text ended, in the API's words.
pub fn reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        _ => "stop",
    }
}

/// The scores of the tokens that are part of the text: not the last one's if it only ended it.
fn scores(completion: &Completion, finished: bool) -> &[Score] {
    match completion.finish {
        Finish::End(_) | Finish::StopToken(_) if finished => {
            completion.scores.split_last().map_or(&[], |(_, scores)| scores)
        }
        _ => &completion.scores,
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A name that nothing else has: 128 bits out of the system's randomness, which seeds every such hasher anew.
pub fn unique() -> String {
    let bits = |half: u8| RandomState::new().hash_one(half);
    format!("{:016x}{:016x}", bits(0), bits(1))
}
