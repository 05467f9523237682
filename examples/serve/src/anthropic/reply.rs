//! A message as JSON: whole, or as the events of a stream. What the model thought comes first, where it is asked for, then calls, then
//! what it says beside them, in one block.

use llama_core::engine::{Completion, Finish};
use serde_json::{Value, json};

use super::error;
use crate::calls::{Call, Parser, Said, arguments};
use crate::error::ApiError;
use crate::mailbox::Part;
use crate::served::Served;
use crate::texts::unique;
use crate::work::Generated;

/// One request's answer, as far as it has come.
pub struct Reply {
    id: String,
    model: String,
    parser: Parser,
    /// Whether `max_tokens` ends the text, and not the context.
    bounded: bool,
    prompt_tokens: usize,
    cached_tokens: usize,
    generated_tokens: usize,
    /// Why it ended, and the sequence that it ended with, if that was one.
    stop: (Option<&'static str>, Option<String>),
    /// Blocks of a stream that have begun.
    blocks: usize,
    /// The last of them goes on, if more of its kind is said.
    open: Option<Kind>,
    /// The end of a stream has been written.
    closed: bool,
}

/// A block that comes in pieces.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
}

impl Reply {
    /// Nothing yet, of a text that `parser` reads; of a request with `prompt_tokens` that is `bounded` by `max_tokens`, or else by
    /// the context.
    pub fn new(served: &Served, parser: Parser, prompt_tokens: usize, bounded: bool) -> Self {
        Reply {
            id: format!("msg_{}", unique()),
            model: served.name.clone(),
            parser,
            bounded,
            prompt_tokens,
            cached_tokens: 0,
            generated_tokens: 0,
            stop: (None, None),
            blocks: 0,
            open: None,
            closed: false,
        }
    }

    /// Takes in what has come, the last of it if it has `finished`.
    fn absorb(&mut self, completion: &Completion, finished: bool) -> Vec<Said> {
        self.generated_tokens += completion.tokens.len();
        self.cached_tokens += completion.cached_tokens;
        let mut said = self.parser.push(&completion.text);
        if finished {
            said.append(&mut self.parser.end());
            self.stop = self.stop(&completion.finish);
        }
        said
    }

    /// A text with calls waits for their results, unless it was cut off.
    fn stop(&self, finish: &Finish) -> (Option<&'static str>, Option<String>) {
        let (reason, sequence) = match finish {
            Finish::Length if self.bounded => ("max_tokens", None),
            Finish::Length => ("model_context_window_exceeded", None),
            _ if self.parser.called() => ("tool_use", None),
            Finish::Stop(sequence) => ("stop_sequence", Some(sequence.clone())),
            _ => ("end_turn", None),
        };
        (Some(reason), sequence)
    }

    /// The message with these blocks.
    fn object(&self, content: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": self.stop.0,
            "stop_sequence": self.stop.1,
            "usage": self.usage(),
        })
    }

    /// Tokens of a prompt are those that the cache held and those that it did not. What comes into it is not counted apart.
    fn usage(&self) -> Value {
        json!({
            "input_tokens": self.prompt_tokens.saturating_sub(self.cached_tokens),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": self.cached_tokens,
            "output_tokens": self.generated_tokens,
        })
    }

    fn events_of(&mut self, said: Said) -> String {
        match said {
            Said::Thought(text) => {
                let begun = self.begin_as(Kind::Thinking);
                begun + &self.delta(json!({"type": "thinking_delta", "thinking": text}))
            }
            Said::Text(text) => {
                let begun = self.begin_as(Kind::Text);
                begun + &self.delta(json!({"type": "text_delta", "text": text}))
            }
            // Its input comes all at once: until it is complete nobody knows that it is a call.
            Said::Call(call) => [
                self.end_open(),
                self.begin(tool_use(&call, json!({}))),
                self.delta(json!({"type": "input_json_delta", "partial_json": call.arguments})),
                self.end(),
            ]
            .concat(),
        }
    }

    /// A block of that kind begins, unless the last one is of it and goes on.
    fn begin_as(&mut self, kind: Kind) -> String {
        if self.open == Some(kind) {
            return String::new();
        }
        let ended = self.end_open();
        self.open = Some(kind);
        ended
            + &self.begin(match kind {
                Kind::Thinking => thinking(""),
                Kind::Text => words(""),
            })
    }

    /// The block that goes on, if one does, ends.
    fn end_open(&mut self) -> String {
        self.open.take().map_or_else(String::new, |_| self.end())
    }

    fn begin(&mut self, block: Value) -> String {
        let index = self.blocks;
        self.blocks += 1;
        event("content_block_start", &json!({"index": index, "content_block": block}))
    }

    fn delta(&self, delta: Value) -> String {
        event("content_block_delta", &json!({"index": self.blocks - 1, "delta": delta}))
    }

    fn end(&self) -> String {
        event("content_block_stop", &json!({"index": self.blocks - 1}))
    }
}

impl Generated for Reply {
    fn say_by(&mut self, model: String) {
        self.model = model;
    }

    fn whole(mut self: Box<Self>, completions: &[Completion]) -> String {
        let said = completions.iter().flat_map(|completion| self.absorb(completion, true)).collect();
        self.object(content(said)).to_string()
    }

    /// How much of the prompt was cached is known in the end.
    fn opening(&mut self) -> String {
        event("message_start", &json!({"message": self.object(Vec::new())}))
    }

    fn events(&mut self, part: &Part) -> String {
        let said = self.absorb(&part.completion, part.finished);
        said.into_iter().map(|said| self.events_of(said)).collect()
    }

    fn closing(&mut self) -> Option<String> {
        if std::mem::replace(&mut self.closed, true) {
            return None;
        }
        let end = self.end_open();
        let (reason, sequence) = &self.stop;
        let delta = json!({"stop_reason": reason, "stop_sequence": sequence});
        let delta = event("message_delta", &json!({"delta": delta, "usage": self.usage()}));
        Some([end, delta, event("message_stop", &json!({}))].concat())
    }

    fn failure(&mut self, failed: &ApiError) -> String {
        event("error", &error(failed))
    }
}

/// A signature would tell the API's own servers that they wrote it.
fn thinking(text: &str) -> Value {
    json!({"type": "thinking", "thinking": text, "signature": ""})
}

fn words(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn tool_use(call: &Call, input: Value) -> Value {
    json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input})
}

/// Blocks of a whole message. One that says nothing has none.
fn content(said: Vec<Said>) -> Vec<Value> {
    let (mut blocks, mut thoughts, mut text) = (Vec::new(), String::new(), String::new());
    for said in said {
        match said {
            Said::Thought(more) => thoughts.push_str(&more),
            Said::Text(more) => text.push_str(&more),
            Said::Call(call) => blocks.push(tool_use(&call, arguments(&call.arguments).unwrap_or_default().into())),
        }
    }
    if !thoughts.is_empty() {
        blocks.insert(0, thinking(&thoughts));
    }
    if !text.is_empty() {
        blocks.push(words(&text));
    }
    blocks
}

/// An event of `kind` with these fields.
fn event(kind: &str, fields: &Value) -> String {
    let mut object = json!({"type": kind});
    if let (Some(object), Some(fields)) = (object.as_object_mut(), fields.as_object()) {
        object.extend(fields.clone());
    }
    format!("event: {kind}\ndata: {object}\n\n")
}
