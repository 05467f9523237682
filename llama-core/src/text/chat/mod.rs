//! Chat templates: a conversation to the prompt its model was trained on.
//!
//! A template is a Jinja program that came with the model, hence from a stranger. It runs in minijinja, which has no way
//! to reach files, processes or the host's objects, on a budget of fuel that pays for every instruction and every byte, so
//! that time and memory are bounded. The environment is the one Hugging Face transformers sets up
//! (`utils/chat_template_utils.py`): `trim_blocks`, `lstrip_blocks`, loop controls, Python's `tojson`, `raise_exception`,
//! `strftime_now`, and the methods of Python's strings, lists and dicts.

mod date;
mod encode;
mod literals;
mod meter;
mod methods;
mod open;
mod source;
mod tojson;

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::{Map, Value as Json};

pub use date::Date;
pub use encode::Trust;

use self::meter::{Meter, Spent};
use self::open::Conversation;
use crate::checkpoint::{self, gguf::Metadata};
use crate::error::{Error, InFile, Result};

/// Fuel of any render. One unit pays for an instruction or 64 bytes: this much is 6 MB, or a few milliseconds.
const FUEL: u64 = 100_000;
/// Fuel that each message adds, for the instructions of a loop over the messages.
const FUEL_A_MESSAGE: u64 = 256;
/// Bytes of input that pay for one more unit of fuel: templates copy and inspect each byte of a long prompt a few times.
const BYTES_A_FUEL: u64 = 4;
/// Most fuel of a render.
const MAX_FUEL: u64 = 1_000_000;
/// Items of containers that may be visited for a unit of fuel.
const ITEMS_A_FUEL: u64 = 4;
/// Bytes of stack a unit of fuel. A template can nest lists as deep as its fuel lasts, and they are printed, compared and
/// dropped by recursion, which takes up to about 500 bytes a level; a level costs more than one unit.
const STACK_A_FUEL: u64 = 2048;
/// Longest source of a template, in bytes. Published ones stay under 30 kB; compiling a long chain of operators
/// is quadratic.
const MAX_SOURCE: usize = 64 << 10;
/// Bytes of stack a byte of source: the compiler recurses into chains of operators without a limit of its own.
const STACK_A_SOURCE_BYTE: u64 = 2048;
/// Bytes of stack that any compilation may need.
const STACK: u64 = 1 << 20;
/// Longest string that a filter or method of ours makes, in bytes.
const MAX_STRING: usize = 16 << 20;
/// The only template of an environment.
const NAME: &str = "chat_template";

/// A message of a conversation: a JSON object with at least a role.
#[derive(Clone, Debug, PartialEq)]
pub struct Message(Map<String, Json>);

impl Message {
    /// A message of text.
    pub fn new(role: &str, content: &str) -> Self {
        Message(Map::from_iter([("role".into(), role.into()), ("content".into(), content.into())]))
    }

    /// A message with any fields, such as `tool_calls`, kept in order.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `json` is not an object, or has no `role` that is a string.
    pub fn from_json(json: Json) -> Result<Self> {
        match json {
            Json::Object(fields) if fields.get("role").is_some_and(Json::is_string) => Ok(Message(fields)),
            other => Err(Error::parameter("message", other, "must be an object with a role")),
        }
    }

    /// Who speaks: `system`, `user`, `assistant`, `tool`.
    pub fn role(&self) -> &str {
        self.0.get("role").and_then(Json::as_str).unwrap_or_default()
    }

    /// What is said, if it is text.
    pub fn content(&self) -> Option<&str> {
        self.0.get("content").and_then(Json::as_str)
    }
}

/// What a template is given besides the messages.
#[derive(Clone, Debug)]
pub struct RenderOptions {
    /// Schemas of the tools the model may call.
    pub tools: Option<Vec<Json>>,
    /// End with the header of the assistant's turn.
    pub add_generation_prompt: bool,
    /// End in the middle of the last message, after what it says, for the model to go on with it. Not with
    /// `add_generation_prompt`.
    pub continue_final_message: bool,
    /// Spelling of the begin-of-sequence token.
    pub bos_token: Option<String>,
    /// Spelling of the end-of-sequence token.
    pub eos_token: Option<String>,
    /// What `strftime_now` answers with.
    pub date: Date,
    /// Further variables that the template knows, such as `enable_thinking`.
    pub extra: Map<String, Json>,
}

impl RenderOptions {
    /// No tools, a generation prompt, no special tokens.
    pub fn new(date: Date) -> Self {
        RenderOptions {
            tools: None,
            add_generation_prompt: true,
            continue_final_message: false,
            bos_token: None,
            eos_token: None,
            date,
            extra: Map::new(),
        }
    }

    /// With the special tokens of `tokenizer`.
    pub fn for_tokenizer(date: Date, tokenizer: &super::Tokenizer) -> Self {
        let spelling = |id| tokenizer.piece(id).ok().map(|piece| String::from_utf8_lossy(piece).into_owned());
        RenderOptions {
            bos_token: tokenizer.bos().and_then(spelling),
            eos_token: tokenizer.eos().and_then(spelling),
            ..RenderOptions::new(date)
        }
    }
}

/// A compiled chat template.
///
/// A render that uses up its budget is ended by unwinding, on a thread of its own. In a program with `panic = "abort"` that
/// ends the program, so one that renders templates from strangers should keep the default.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: Option<PathBuf>,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`Error::Template`] with the line, if `source` is not a template, or is over 64 KiB.
    pub fn new(source: &str) -> Result<Self> {
        if source.len() > MAX_SOURCE {
            let problem = format!("the source has {} bytes; at most {MAX_SOURCE} are allowed", source.len());
            return Err(Error::template(problem));
        }
        let mut environment = environment().map_err(describe)?;
        on_a_deep_stack(STACK + source.len() as u64 * STACK_A_SOURCE_BYTE, || {
            if source.contains(meter::COUNTED) {
                return Err(Error::template(format!("{} is a reserved word", meter::COUNTED)));
            }
            let prepared = literals::wrap(&source::prepare(source));
            environment.add_template_owned(NAME, prepared).map_err(describe)?;
            Ok(ChatTemplate { environment, path: None })
        })
    }

    /// Compiles a template that is in the file `path`.
    pub(super) fn in_file(source: &str, path: &Path) -> Result<Self> {
        let template = ChatTemplate::new(source).in_file(path)?;
        Ok(ChatTemplate { path: Some(path.to_owned()), ..template })
    }

    /// The template of a GGUF file, if it has one.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`], with the file; [`Error::Config`] if the key is not a string.
    pub fn from_gguf(metadata: &Metadata) -> Result<Option<Self>> {
        let source = metadata.string("tokenizer.chat_template")?;
        source.map(|source| ChatTemplate::in_file(source, metadata.path())).transpose()
    }

    /// The template of a Hugging Face folder, if it has one: `chat_template.jinja`, or `chat_template` in
    /// `chat_template.json` or `tokenizer_config.json`, which may be a list of named ones of which `default` is taken.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`], with the file; [`Error::Io`], [`Error::File`] and [`Error::Config`] if a file is there and
    /// cannot be read.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Option<Self>> {
        let found = checkpoint::chat_template(folder.as_ref())?;
        found.map(|(path, source)| ChatTemplate::in_file(&source, &path)).transpose()
    }

    /// The prompt of a conversation as text, byte for byte as transformers renders it. It is for people to look at: tokens
    /// come from [`ChatTemplate::encode`], for in this text what a user typed is not to be told from a control token, and
    /// many templates have begun it with one that [`Tokenizer::encode_prompt`](super::Tokenizer::encode_prompt) would add again.
    ///
    /// # Errors
    /// [`Error::Template`] with the template's own message where it raised one, or saying what went wrong: an operation on
    /// a value of the wrong type, an unknown filter, or more work than its budget allows; or that it does not write a last
    /// message which is to be continued. [`Error::Parameter`] if an extra variable has the name of a standard one or of a function,
    /// or there is no message to be continued.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        self.render_conversation(&self.conversation(messages, options)?, options)
    }

    fn conversation<'m>(&self, messages: &'m [Message], options: &RenderOptions) -> Result<Conversation<'m>> {
        let template = self.environment.get_template(NAME);
        Conversation::new(messages, options, template.as_ref().map_or("", |template| template.source()))
    }

    fn render_conversation(&self, conversation: &Conversation<'_>, options: &RenderOptions) -> Result<String> {
        let messages = conversation.messages.iter().map(|m| Json::Object(m.0.clone())).collect();
        let prompt = self.render_json(&Json::Array(messages), options)?;
        let cut = conversation.cut(prompt).and_then(|prompt| conversation.check(&prompt).map(|()| prompt));
        self.with_path(cut)
    }

    /// Whether the source has `word` in it. A template without `tools` knows none: transformers goes by that, too.
    pub fn mentions(&self, word: &str) -> bool {
        self.environment.get_template(NAME).is_ok_and(|template| template.source().contains(word))
    }

    fn render_json(&self, messages: &Json, options: &RenderOptions) -> Result<String> {
        let tools = options.tools.clone().map_or(Json::Null, Json::Array);
        let size = json_size(messages) + json_size(&tools) + options.extra.values().map(json_size).sum::<u64>();
        let messages_fuel = FUEL_A_MESSAGE * messages.as_array().map_or(0, Vec::len) as u64;
        let fuel = (FUEL + messages_fuel + size / BYTES_A_FUEL).min(MAX_FUEL);
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let meter = Meter::new(fuel * ITEMS_A_FUEL);
        meter.install(&mut environment);
        let rendered = on_a_deep_stack(fuel * STACK_A_FUEL, || {
            let template = environment.get_template(NAME).map_err(describe)?;
            let context = context(messages, &tools, options, &meter, &environment)?;
            template.render(context).map_err(describe)
        });
        self.with_path(rendered)
    }

    /// A result of this template, whose error names its file.
    fn with_path<T>(&self, result: Result<T>) -> Result<T> {
        match &self.path {
            Some(path) => result.in_file(path),
            None => result,
        }
    }
}

/// Runs `work` on a thread of its own with `bytes` of stack, of which only what is used takes memory.
fn on_a_deep_stack<T: Send>(bytes: u64, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let failed = |what: String| Error::template(what);
    let bytes = usize::try_from(bytes).map_err(|e| failed(e.to_string()))?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat template".into()).stack_size(bytes);
        let refused =
            |_| Error::refused("the stack of a chat template", bytes as u64, "the length of the conversation");
        let thread = thread.spawn_scoped(scope, work).map_err(refused)?;
        thread.join().unwrap_or_else(|panic| match panic.downcast_ref::<Spent>() {
            Some(Spent(problem)) => Err(failed((*problem).into())),
            None => std::panic::resume_unwind(panic),
        })
    })
}

/// The variables of a render in `environment`.
fn context(
    messages: &Json,
    tools: &Json,
    options: &RenderOptions,
    meter: &Arc<Meter>,
    environment: &Environment<'_>,
) -> Result<Value> {
    let counted = |json: &Json| meter.count(Value::from(Serde(json)));
    let date = options.date;
    let strftime = Value::from_function(move |format: &str| date.strftime(format));
    let mut variables = vec![
        ("messages", counted(messages)),
        ("tools", counted(tools)),
        ("documents", Value::from(())),
        ("add_generation_prompt", Value::from(options.add_generation_prompt)),
        ("strftime_now", strftime),
    ];
    let tokens = [("bos_token", &options.bos_token), ("eos_token", &options.eos_token)];
    variables.extend(tokens.into_iter().filter_map(|(name, token)| Some((name, Value::from(token.as_deref()?)))));
    for (name, value) in &options.extra {
        let is_standard = variables.iter().any(|(known, _)| known == name && *known != "documents");
        if is_standard || environment.globals().any(|(known, _)| known == name) {
            return Err(Error::parameter("extra", name, "is the name of a standard variable or function"));
        }
        variables.push((name, counted(value)));
    }
    Ok(Value::from(variables.into_iter().collect::<BTreeMap<&str, Value>>()))
}

/// The environment of transformers.
fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(methods::call);
    environment.add_filter("tojson", tojson::filter);
    environment.add_filter("trim", methods::trim);
    environment.add_filter("string", |value: &Value| bounded_text(value).map(Value::from));
    environment.set_formatter(|out, state, value| match value.as_object() {
        None => minijinja::escape_formatter(out, state, value),
        Some(_) => Ok(out.write_str(&bounded_text(value)?)?),
    });
    environment.add_function("raise_exception", raise_exception);
    environment.remove_global("debug");
    environment.remove_filter("pprint");
    Ok(environment)
}

/// The text of a value. A few nested lists can share so much that their text is longer than any memory, and the engine
/// only charges for it once it exists.
fn bounded_text(value: &Value) -> Result<String, minijinja::Error> {
    let mut text = Bounded(String::new());
    match write!(text, "{value}") {
        Ok(()) => Ok(text.0),
        Err(_) => Err(minijinja::Error::new(ErrorKind::OutOfFuel, "the text of a value is too long")),
    }
}

/// A string that refuses to grow past [`MAX_STRING`].
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        if self.0.len() + s.len() > MAX_STRING {
            return Err(fmt::Error);
        }
        self.0.push_str(s);
        Ok(())
    }
}

/// What a template said with `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, "the template raised an exception")
        .with_source(Raised(message)))
}

/// The template's own words if it raised an exception, otherwise the engine's with the line.
fn describe(error: minijinja::Error) -> Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return Error::template(message);
        }
        source = cause.source();
    }
    Error::template(error.to_string())
}

/// About how many bytes a value is.
fn json_size(value: &Json) -> u64 {
    match value {
        Json::String(s) => s.len() as u64,
        Json::Array(values) => values.iter().map(|v| 8 + json_size(v)).sum(),
        Json::Object(fields) => fields.iter().map(|(k, v)| 8 + k.len() as u64 + json_size(v)).sum(),
        _ => 8,
    }
}

/// An error if a string of `length` bytes is more than a template may make.
fn check_length(length: usize) -> Result<(), minijinja::Error> {
    match length <= MAX_STRING {
        true => Ok(()),
        false => Err(minijinja::Error::new(ErrorKind::OutOfFuel, format!("a string of {length} bytes is too long"))),
    }
}
