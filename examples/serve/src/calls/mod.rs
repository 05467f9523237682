//! Calls of tools in what a model says, told from text while it comes; what it thought before comes by itself (`thoughts/`).
//!
//! The language is what Llama 3.1 and its successors were taught: `{"name": "f", "parameters": {...}}`, several of them with
//! white space or semicolons in between. `arguments` may stand in place of `parameters`, `"type": "function"` and an `"id"` beside
//! them, and each call in `<tool_call>` and `</tool_call>`, as the Hermes models have it. Mistral's models may say a list of such
//! objects instead, or the function's name and right after it its arguments. (`<|python_tag|>`, `[TOOL_CALLS]` and `[ARGS]` are control
//! tokens, which have no text.) Calls come first: from the first character on that is part of none, all is text.
//!
//! What may still become a call is held back. The parser reads each character once and lets go of what it holds as soon as the
//! names and the order of the outer object's fields, or the name of the function, rule a call out; whether the arguments can be read
//! it asks when they are complete. A text that is no call is passed on to the last character. Of calls, only what is around
//! them is dropped: space, semicolons and tags, or a list's brackets and commas.

mod object;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use llama_core::text::ChatTemplate;
use object::{Object, Reading};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::texts::unique;
use crate::thoughts::Thoughts;

const OPENING: &str = "<tool_call>";
const CLOSING: &str = "</tool_call>";

/// How a model spells its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// As Llama's and Hermes's: objects, one after the other.
    Objects,
    /// As Mistral's: a list of objects, or names with arguments behind them; or as the others, if a grammar or a training says so.
    Mistral,
}

impl Spelling {
    /// That of the model whose template this is.
    pub fn of(template: Option<&ChatTemplate>) -> Self {
        match template.is_some_and(|template| template.mentions("[TOOL_CALLS]")) {
            true => Spelling::Mistral,
            false => Spelling::Objects,
        }
    }

    /// A new name for a call, by which its answer is known. Mistral's templates take nine letters and digits and nothing else.
    fn id(self) -> String {
        match self {
            Spelling::Objects => format!("call_{}", unique()),
            Spelling::Mistral => unique()[..9].into(),
        }
    }
}

/// A part of what a model said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Words to itself, which come before all else.
    Thought(String),
    /// Words for the reader.
    Text(String),
    /// A call.
    Call(Call),
}

/// A call of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// A name of its own.
    pub id: String,
    /// How many calls came before it in the same text.
    pub index: usize,
    /// One of the names that the parser was given.
    pub name: String,
    /// A JSON object, in the model's own spelling.
    pub arguments: String,
}

/// Arguments of a call as templates read them: what a model says and what a client sends back is read alike, so that all that was
/// handed out is taken back.
///
/// # Errors
/// What is no JSON object, and what JSON allows and nobody can keep: numbers beyond f64, halves of surrogate pairs, more than 128
/// levels.
pub fn arguments(text: &str) -> serde_json::Result<Map<String, Value>> {
    serde_json::from_str(text)
}

/// Reads one text.
pub struct Parser {
    thoughts: Thoughts,
    /// Whether thoughts are told, and not only told apart.
    told: bool,
    /// Names of functions that may be called.
    functions: Arc<BTreeSet<String>>,
    /// Calls that may still come.
    left: usize,
    spelling: Spelling,
    /// Calls that have come.
    calls: usize,
    order: Order,
    /// The tag that may come next.
    tag: Option<&'static str>,
    /// What is not decided yet.
    held: String,
    place: Place,
}

/// What calls look like from here on.
#[derive(Clone, Copy)]
enum Order {
    /// Objects, in tags or not.
    Objects,
    /// A list or names, or objects all the same: the first character tells.
    Any,
    /// Names.
    Names,
    /// Objects of a list.
    List,
    /// There are no more: the list is closed.
    Closed,
}

/// Where in a text the parser is.
enum Place {
    /// Before a call.
    Between,
    /// In the name of a function, which began at this byte of what is held.
    Name(usize),
    /// In a tag, which began at this byte of what is held.
    Tag(usize),
    /// In an object.
    Object(Object),
    /// After all calls, for good.
    Text,
}

impl Parser {
    /// At the beginning of a text with at most `most` calls of `functions`.
    pub fn new(functions: Arc<BTreeSet<String>>, most: usize, spelling: Spelling) -> Self {
        let order = match spelling {
            Spelling::Objects => Order::Objects,
            Spelling::Mistral => Order::Any,
        };
        let (tag, held, place) = (Some(OPENING), String::new(), Place::Between);
        Parser {
            thoughts: Thoughts::none(),
            told: true,
            functions,
            left: most,
            spelling,
            calls: 0,
            order,
            tag,
            held,
            place,
        }
    }

    /// At the beginning of a text in which nothing is called: all of it is words.
    pub fn of_words() -> Self {
        Parser { place: Place::Text, ..Parser::new(Arc::default(), 0, Spelling::Objects) }
    }

    /// The same of a text that begins with `thoughts`.
    pub fn after(self, thoughts: Thoughts) -> Self {
        Parser { thoughts, ..self }
    }

    /// The same; thoughts are left out unless they are to be `told`.
    pub fn telling_thoughts(self, told: bool) -> Self {
        Parser { told, ..self }
    }

    /// What tells thoughts apart, as it is now.
    pub fn thoughts(&self) -> &Thoughts {
        &self.thoughts
    }

    /// Whether there was a call.
    pub fn called(&self) -> bool {
        self.calls > 0
    }

    /// What is certain once `text` has come.
    pub fn push(&mut self, text: &str) -> Vec<Said> {
        let parts = self.thoughts.push(text);
        self.parts(parts)
    }

    /// What is certain once these have come: thoughts, and what follows them.
    fn parts(&mut self, (thought, text): (String, String)) -> Vec<Said> {
        let thought = Some(thought).filter(|thought| self.told && !thought.is_empty());
        let answer = self.answer(&text);
        thought.map(Said::Thought).into_iter().chain(answer).collect()
    }

    /// What is certain of the answer once `text` has come of it.
    fn answer(&mut self, text: &str) -> Vec<Said> {
        let mut said = Vec::new();
        let mut rest = text.chars();
        while !matches!(self.place, Place::Text) {
            let Some(next) = rest.next() else { return said };
            self.held.push(next);
            if let Some(call) = self.read(next) {
                said.push(Said::Call(call));
            }
        }
        self.held.push_str(rest.as_str());
        said.extend(self.text());
        said
    }

    /// What was held back: nothing more will come.
    pub fn end(&mut self) -> Vec<Said> {
        let parts = self.thoughts.end();
        let mut said = self.parts(parts);
        said.extend(self.rest());
        said
    }

    fn rest(&mut self) -> Option<Said> {
        if self.called() && matches!(self.place, Place::Between) && self.held.chars().all(separates) {
            self.held.clear();
        }
        self.place = Place::Text;
        self.text()
    }

    fn text(&mut self) -> Option<Said> {
        (!self.held.is_empty()).then(|| Said::Text(std::mem::take(&mut self.held)))
    }

    /// Goes on by the last character held, and returns the call that it completes.
    fn read(&mut self, next: char) -> Option<Call> {
        let start = self.held.len() - next.len_utf8();
        match &mut self.place {
            Place::Between => self.read_between(next, start),
            &mut Place::Name(start) => self.read_name(start),
            &mut Place::Tag(start) => self.read_tag(start),
            Place::Object(object) => match object.read(next, &self.held, &self.functions) {
                Reading::GoesOn => {}
                Reading::Complete => return self.call(),
                Reading::NoCall => self.place = Place::Text,
            },
            Place::Text => {}
        }
        None
    }

    /// Goes on by `next`, the character at `start`, where a call may begin or end.
    fn read_between(&mut self, next: char, start: usize) {
        let (called, more) = (self.called(), self.left > 0);
        if matches!(self.order, Order::Any) && !next.is_whitespace() {
            self.order = match next {
                '[' => return self.order = Order::List,
                '{' | '<' => Order::Objects,
                _ => Order::Names,
            };
        }
        match (self.order, next) {
            (Order::Objects | Order::List, '{') if more => self.place = Place::Object(Object::new(start)),
            (Order::Objects, '<') => self.read_tag(start),
            (Order::Objects, ';') | (Order::List, ',') if called => {}
            (Order::List, ']') if called => self.order = Order::Closed,
            _ if next.is_whitespace() => {}
            (Order::Names, _) if more => self.read_name(start),
            _ => self.place = Place::Text,
        }
    }

    /// Goes on by the last character held in a name that began at `start`.
    fn read_name(&mut self, start: usize) {
        let read = &self.held[start..];
        let is_name = |name: &&str| self.functions.contains(*name);
        self.place = match read.strip_suffix('{').filter(is_name) {
            Some(name) => Place::Object(Object::after(start..start + name.len())),
            _ if self.functions.iter().any(|name| name.starts_with(read)) => Place::Name(start),
            _ => Place::Text,
        };
    }

    /// An opening tag stays held until its call has come, a closing one goes with the call before it.
    fn read_tag(&mut self, start: usize) {
        let read = &self.held[start..];
        let tag = self.tag.filter(|&tag| tag.starts_with(read) && (tag == CLOSING || self.left > 0));
        self.place = match tag {
            None => Place::Text,
            Some(tag) if tag.len() > read.len() => Place::Tag(start),
            Some(tag) => {
                self.tag = (tag == CLOSING).then_some(OPENING);
                if tag == CLOSING {
                    self.held.clear();
                }
                Place::Between
            }
        };
    }

    /// The call that the object is, unless it is not JSON, or its arguments cannot be read.
    fn call(&mut self) -> Option<Call> {
        let Place::Object(object) = std::mem::replace(&mut self.place, Place::Text) else { return None };
        let (name, text) = (self.held.get(object.name?)?, self.held.get(object.arguments?)?);
        serde_json::from_str::<IgnoredAny>(self.held.get(object.start..)?).ok()?;
        arguments(text).ok()?;
        let call = Call { id: self.spelling.id(), index: self.calls, name: name.into(), arguments: text.into() };
        self.calls += 1;
        self.left -= 1;
        self.tag = Some(if self.tag == Some(OPENING) { OPENING } else { CLOSING });
        self.held.clear();
        self.place = Place::Between;
        Some(call)
    }
}

/// What may stand around calls, tags aside.
fn separates(c: char) -> bool {
    c.is_whitespace() || matches!(c, ';' | ',' | ']')
}
