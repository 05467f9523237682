//! A response as JSON: whole, or as the events of a stream, of which the last one holds the whole response.

use std::sync::Arc;

use hyper::StatusCode;
use llama_core::engine::{Completion, Finish, Score};
use llama_core::text::Tokenizer;
use serde_json::{Value, json};

use super::output::{Change, Message, Output, Status, Thoughts};
use crate::calls::Call;
use crate::error::ApiError;
use crate::mailbox::Part;
use crate::scores;
use crate::served::Served;
use crate::texts::{now, scores as scored, unique};
use crate::thoughts::Tally;
use crate::work::Generated;

/// One request's answer, as far as it has come.
pub struct Response {
    id: String,
    created: u64,
    model: String,
    status: Status,
    error: Option<ApiError>,
    output: Output,
    /// Where scores are wanted.
    tokenizer: Option<Arc<Tokenizer>>,
    prompt_tokens: usize,
    cached_tokens: usize,
    generated_tokens: usize,
    tally: Tally,
    /// What is repeated of the request, as the fields of an object.
    echo: String,
    /// Events of the stream so far.
    events: usize,
    ending: Ending,
}

/// What comes next at the end of a stream.
#[derive(Clone, Copy)]
enum Ending {
    Text,
    Part,
    Item,
    Response,
    Nothing,
}

impl Response {
    /// Nothing yet, of a request with `prompt_tokens` that `echo` repeats.
    pub fn new(
        served: &Served,
        output: Output,
        tally: Tally,
        scored: bool,
        prompt_tokens: usize,
        echo: String,
    ) -> Self {
        Response {
            id: format!("resp_{}", unique()),
            created: now(),
            model: served.name.clone(),
            status: Status::InProgress,
            error: None,
            output,
            tokenizer: scored.then(|| served.tokenizer.clone()),
            prompt_tokens,
            cached_tokens: 0,
            generated_tokens: 0,
            tally,
            echo,
            events: 0,
            ending: Ending::Text,
        }
    }

    /// Takes in what has come, the last of it if it has `finished`.
    fn absorb(&mut self, completion: &Completion, finished: bool) -> Vec<Change> {
        self.generated_tokens += completion.tokens.len();
        self.tally.push(&completion.tokens);
        self.cached_tokens += completion.cached_tokens;
        let mut changes = self.output.push(&completion.text, scored(completion, finished));
        if finished {
            self.status = match completion.finish {
                Finish::Length => Status::Incomplete,
                _ => Status::Completed,
            };
            changes.extend(self.output.end(self.status));
        }
        changes
    }

    /// The response as it is now.
    fn object(&self) -> String {
        let cut = (self.status == Status::Incomplete).then(|| json!({"reason": "max_output_tokens"}));
        let ended = matches!(self.status, Status::Completed | Status::Incomplete);
        let object = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": self.status.name(),
            "error": self.error.as_ref().map(error),
            "incomplete_details": cut,
            "model": self.model,
            "output": self.items(),
            "usage": ended.then(|| self.usage()),
        });
        format!("{{{},{}}}", fields(&object), self.echo)
    }

    fn usage(&self) -> Value {
        let (prompt, generated) = (self.prompt_tokens, self.generated_tokens);
        json!({
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": generated,
            "output_tokens_details": {"reasoning_tokens": self.tally.count()},
            "total_tokens": prompt + generated,
        })
    }

    fn items(&self) -> Vec<Value> {
        let calls = self.output.calls.iter().map(|(id, called)| call(id, called, &called.arguments, Status::Completed));
        let thoughts = self.output.thoughts.iter();
        let thoughts = thoughts.map(|thoughts| reasoning(thoughts, vec![thought(&thoughts.text)], thoughts.status));
        thoughts.chain(calls).chain(self.output.message.as_ref().map(|said| self.message(said))).collect()
    }

    /// Items before the one call of this number, or before the message after as many.
    fn place(&self, calls: usize) -> usize {
        usize::from(self.output.thoughts.is_some()) + calls
    }

    fn message(&self, message: &Message) -> Value {
        item(&message.id, vec![self.part(&message.text, &message.scores)], message.status)
    }

    fn part(&self, text: &str, scores: &[Score]) -> Value {
        json!({"type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs(scores)})
    }

    fn logprobs(&self, scores: &[Score]) -> Vec<Value> {
        self.tokenizer.as_deref().map_or_else(Vec::new, |tokenizer| scores::objects(tokenizer, scores))
    }

    /// An event. `more` is fields of an object.
    fn event(&mut self, kind: &str, more: &str) -> String {
        let number = self.events;
        self.events += 1;
        format!("event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{number},{more}}}\n\n")
    }

    /// One that holds the response.
    fn event_of_all(&mut self, kind: &str) -> String {
        let object = self.object();
        self.event(kind, &format!("\"response\":{object}"))
    }

    fn events_of(&mut self, change: Change) -> String {
        match change {
            Change::Thinks => self.thinks(),
            Change::Thought(text) => self.event_of_thoughts("response.reasoning_text.delta", &json!({"delta": text})),
            Change::Decided => self.decided(),
            Change::Called(at) => self.called(at),
            Change::Begun => self.begun(),
            Change::Said(text, scores) => {
                let delta = json!({"delta": text, "logprobs": self.logprobs(&scores)});
                self.event_of_text("response.output_text.delta", &delta)
            }
        }
    }

    fn thinks(&mut self) -> String {
        let Some(thoughts) = &self.output.thoughts else { return String::new() };
        let begun = json!({"output_index": 0, "item": reasoning(thoughts, Vec::new(), Status::InProgress)});
        [
            self.event("response.output_item.added", &fields(&begun)),
            self.event_of_thoughts("response.content_part.added", &json!({"part": thought("")})),
        ]
        .concat()
    }

    fn decided(&mut self) -> String {
        let Some(thoughts) = &self.output.thoughts else { return String::new() };
        let (text, part) = (json!({"text": thoughts.text}), thought(&thoughts.text));
        let done = json!({"output_index": 0, "item": reasoning(thoughts, vec![part.clone()], thoughts.status)});
        [
            self.event_of_thoughts("response.reasoning_text.done", &text),
            self.event_of_thoughts("response.content_part.done", &json!({"part": part})),
            self.event("response.output_item.done", &fields(&done)),
        ]
        .concat()
    }

    /// One about the text of the thoughts.
    fn event_of_thoughts(&mut self, kind: &str, more: &Value) -> String {
        let id = self.output.thoughts.as_ref().map(|thoughts| &thoughts.id);
        let place = json!({"item_id": id, "output_index": 0, "content_index": 0});
        self.event(kind, &format!("{},{}", fields(&place), fields(more)))
    }

    /// A call's arguments come all at once.
    fn called(&mut self, number: usize) -> String {
        let at = self.place(number);
        let Some((id, made)) = self.output.calls.get(number) else { return String::new() };
        let begun = json!({"output_index": at, "item": call(id, made, "", Status::InProgress)});
        let delta = json!({"output_index": at, "item_id": id, "delta": made.arguments});
        let done = json!({"output_index": at, "item_id": id, "name": made.name, "arguments": made.arguments});
        let ended = json!({"output_index": at, "item": call(id, made, &made.arguments, Status::Completed)});
        [
            self.event("response.output_item.added", &fields(&begun)),
            self.event("response.function_call_arguments.delta", &fields(&delta)),
            self.event("response.function_call_arguments.done", &fields(&done)),
            self.event("response.output_item.done", &fields(&ended)),
        ]
        .concat()
    }

    fn begun(&mut self) -> String {
        let Some(message) = &self.output.message else { return String::new() };
        let begun = item(&message.id, Vec::new(), Status::InProgress);
        let begun = json!({"output_index": self.place(self.output.calls.len()), "item": begun});
        let part = json!({"part": self.part("", &[])});
        [
            self.event("response.output_item.added", &fields(&begun)),
            self.event_of_text("response.content_part.added", &part),
        ]
        .concat()
    }

    /// One about the message's text.
    fn event_of_text(&mut self, kind: &str, more: &Value) -> String {
        let id = self.output.message.as_ref().map(|message| &message.id);
        let place = json!({"item_id": id, "output_index": self.place(self.output.calls.len()), "content_index": 0});
        self.event(kind, &format!("{},{}", fields(&place), fields(more)))
    }

    /// The end of the message, if there is one.
    fn end_of_message(&mut self, ending: Ending) -> Option<String> {
        let message = self.output.message.as_ref()?;
        Some(match ending {
            Ending::Text => {
                let text = json!({"text": message.text, "logprobs": self.logprobs(&message.scores)});
                self.event_of_text("response.output_text.done", &text)
            }
            Ending::Part => {
                let part = json!({"part": self.part(&message.text, &message.scores)});
                self.event_of_text("response.content_part.done", &part)
            }
            _ => {
                let at = self.place(self.output.calls.len());
                let item = json!({"output_index": at, "item": self.message(message)});
                self.event("response.output_item.done", &fields(&item))
            }
        })
    }
}

impl Generated for Response {
    fn say_by(&mut self, model: String) {
        self.model = model;
    }

    fn whole(mut self: Box<Self>, completions: &[Completion]) -> String {
        completions.iter().for_each(|completion| drop(self.absorb(completion, true)));
        self.object()
    }

    fn opening(&mut self) -> String {
        [self.event_of_all("response.created"), self.event_of_all("response.in_progress")].concat()
    }

    fn events(&mut self, part: &Part) -> String {
        let changes = self.absorb(&part.completion, part.finished);
        changes.into_iter().map(|change| self.events_of(change)).collect()
    }

    fn closing(&mut self) -> Option<String> {
        loop {
            let ending = self.ending;
            self.ending = ending.next();
            match ending {
                Ending::Text | Ending::Part | Ending::Item => match self.end_of_message(ending) {
                    None => {}
                    event => return event,
                },
                Ending::Response => return Some(self.event_of_all(&format!("response.{}", self.status.name()))),
                Ending::Nothing => return None,
            }
        }
    }

    fn failure(&mut self, error: &ApiError) -> String {
        self.status = Status::Failed;
        self.error = Some(error.clone());
        self.output.close(Status::Incomplete);
        self.event_of_all("response.failed")
    }
}

impl Ending {
    fn next(self) -> Self {
        match self {
            Ending::Text => Ending::Part,
            Ending::Part => Ending::Item,
            Ending::Item => Ending::Response,
            Ending::Response | Ending::Nothing => Ending::Nothing,
        }
    }
}

/// Nobody sums thoughts up here: all of them are told.
fn reasoning(thoughts: &Thoughts, content: Vec<Value>, status: Status) -> Value {
    json!({"id": thoughts.id, "type": "reasoning", "status": status.name(), "summary": [], "content": content})
}

fn thought(text: &str) -> Value {
    json!({"type": "reasoning_text", "text": text})
}

fn item(id: &str, content: Vec<Value>, status: Status) -> Value {
    json!({"id": id, "type": "message", "status": status.name(), "role": "assistant", "content": content})
}

fn call(id: &str, call: &Call, arguments: &str, status: Status) -> Value {
    json!({
        "id": id,
        "type": "function_call",
        "status": status.name(),
        "call_id": call.id,
        "name": call.name,
        "arguments": arguments,
    })
}

/// What has ended a response, in the few words that the API has for it.
fn error(error: &ApiError) -> Value {
    let code = match error.status {
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_exceeded",
        status if status.is_client_error() => "invalid_prompt",
        _ => "server_error",
    };
    json!({"code": code, "message": error.message})
}

/// An object that has fields, without its braces.
fn fields(object: &Value) -> String {
    let mut text = object.to_string();
    text.pop();
    text.remove(0);
    text
}
