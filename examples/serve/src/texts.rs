//! Generated texts as answers that are lists of choices. What chats and completions share is here; how each spells a choice is
//! a [`Style`].

use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;

use llama_core::engine::{Completion, Finish, Score};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::mailbox::Part;
use crate::served::Served;
use crate::work::Generated;

/// How an endpoint spells its answers.
pub trait Style: Send {
    /// What an answer's `object` says, and a stream's.
    fn objects(&self) -> [&'static str; 2];
    /// What its ids begin with.
    fn id_prefix(&self) -> &'static str;
    /// A whole choice.
    fn choice(&mut self, index: usize, completion: &Completion, scores: &[Score]) -> Value;
    /// Counts tokens that have come of a choice.
    fn count(&mut self, _index: usize, _tokens: &[u32]) {}
    /// What more is known of how many there were.
    fn details(&self) -> Option<Value> {
        None
    }
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
    /// How many of them have the same prompt, one after the other.
    choices: usize,
    prompt_tokens: usize,
    cached_tokens: usize,
    generated_tokens: usize,
    include_usage: bool,
    /// The end of a stream has been written.
    closed: bool,
}

impl Texts {
    /// Nothing yet, of a request for `choices` texts for each of so many `prompts`, which have `prompt_tokens` tokens together.
    pub fn new(
        served: &Served,
        style: impl Style + 'static,
        (prompts, choices): (usize, usize),
        prompt_tokens: usize,
    ) -> Self {
        let head = [
            ("id", format!("{}{}", style.id_prefix(), unique()).into()),
            ("created", now().into()),
            ("model", served.name.as_str().into()),
            ("system_fingerprint", served.fingerprint().into()),
        ];
        let style = Box::new(style);
        Texts {
            style,
            head,
            sequences: prompts * choices,
            choices,
            prompt_tokens,
            cached_tokens: 0,
            generated_tokens: 0,
            include_usage: false,
            closed: false,
        }
    }

    /// The same; a stream says in the end how many tokens there were.
    pub fn including_usage(self, include_usage: bool) -> Self {
        Texts { include_usage, ..self }
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
        let mut usage = json!({
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        });
        if let Some(details) = self.style.details() {
            usage["completion_tokens_details"] = details;
        }
        usage
    }

    /// Counts what came of the text `index`. A prompt counts once, and what was cached of it as its first text has it: the others
    /// find what that one computed.
    fn count(&mut self, index: usize, completion: &Completion) {
        self.generated_tokens += completion.tokens.len();
        self.style.count(index, &completion.tokens);
        if index.is_multiple_of(self.choices) {
            self.cached_tokens += completion.cached_tokens;
        }
    }
}

impl Generated for Texts {
    fn say_by(&mut self, model: String) {
        self.head[2] = ("model", model.into());
    }

    fn whole(mut self: Box<Self>, completions: &[Completion]) -> String {
        completions.iter().enumerate().for_each(|(index, completion)| self.count(index, completion));
        let choices = completions.iter().enumerate();
        let choices = choices.map(|(index, completion)| self.style.choice(index, completion, scores(completion, true)));
        let choices = choices.collect();
        let mut answer = self.object(self.style.objects()[0], choices);
        answer["usage"] = self.usage();
        answer.to_string()
    }

    fn opening(&mut self) -> String {
        let choices = (0..self.sequences).filter_map(|index| self.style.opening(index));
        choices.map(|choice| self.event(vec![choice])).collect()
    }

    fn events(&mut self, part: &Part) -> String {
        let Part { index, completion, finished } = part;
        self.count(*index, completion);
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

    fn closing(&mut self) -> Option<String> {
        if std::mem::replace(&mut self.closed, true) {
            return None;
        }
        let mut events = String::new();
        if self.include_usage {
            let mut last = self.object(self.style.objects()[1], Vec::new());
            last["usage"] = self.usage();
            events.push_str(&event(&last));
        }
        events.push_str("data: [DONE]\n\n");
        Some(events)
    }

    fn failure(&mut self, error: &ApiError) -> String {
        event(&error.body())
    }
}

/// An object as an event of a stream.
fn event(object: &Value) -> String {
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
pub fn scores(completion: &Completion, finished: bool) -> &[Score] {
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
