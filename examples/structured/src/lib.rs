//! Grammars for `llama_core`'s engine out of JSON schemas, regular expressions and context-free grammars: the llguidance
//! crate says which tokens may come next, and the engine draws among them.
//!
//! ```
//! # use llama_core::{Loader, Result, engine::Request, text::Specials};
//! # use llama_kernels::Cpu;
//! # use llama_structured::Grammars;
//! # fn main() -> Result<()> {
//! let mut engine = Loader::open(llama_examples::shipped_model())?.load(Cpu::new(Default::default())?)?;
//! let grammars = Grammars::of(&engine)?;
//! let grammar = Some(grammars.regex("(yes|no)")?);
//! let prompt = engine.encode("Did the dog run?", Specials::AsText)?;
//! let answer = engine.complete(Request { grammar, ..Request::new(prompt) })?;
//! assert!(answer.text == "yes" || answer.text == "no");
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use llama_core::engine::{Constraint, Engine, Grammar};
use llama_core::sample::Allowed;
use llama_core::text::Tokenizer;
use llama_core::{Error, Result};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

/// Room for the stack of whoever compiles a grammar: llguidance follows its rules, each of which may name another, by recursion.
const STACK: usize = 256 << 20;

/// Makes grammars for the tokens of one model.
#[derive(Clone)]
pub struct Grammars {
    factory: Arc<ParserFactory>,
    ends: Arc<[u32]>,
    name: Option<&'static str>,
}

impl Grammars {
    /// For the tokenizer of `engine` and the tokens that end its texts.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where the engine has no tokenizer; otherwise as [`Grammars::new`].
    pub fn of(engine: &Engine) -> Result<Self> {
        let tokenizer = engine.tokenizer().ok_or_else(|| missing("tokenizer"))?;
        Grammars::new(tokenizer, engine.end_tokens())
    }

    /// For a tokenizer and the tokens that end texts. It takes half a second for 128,000 tokens, so one is made for all requests.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] where no token ends a text: a grammar could never say that it is complete.
    pub fn new(tokenizer: &Tokenizer, ends: &[u32]) -> Result<Self> {
        let &end = ends.first().ok_or_else(|| missing("end token"))?;
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie(tokenizer, ends, end)));
        let mut factory = ParserFactory::new_simple(&env).map_err(|e| refused("tokenizer", "", e))?;
        factory.quiet();
        Ok(Grammars { factory: Arc::new(factory), ends: ends.into(), name: None })
    }

    /// The same, whose errors call the grammar `name`, as a program calls it that takes it from somebody.
    pub fn named(&self, name: &'static str) -> Self {
        Grammars { name: Some(name), ..self.clone() }
    }

    /// Texts that are JSON and valid by `schema`, on one line with a space after each comma and colon: where any white space is
    /// allowed, a model at a loss for words says nothing else. A schema may ask for another form by llguidance's `x-guidance`.
    ///
    /// # Errors
    /// [`Error::Parameter`] with what llguidance says of a schema that it cannot keep to.
    pub fn json_schema(&self, schema: &Value) -> Result<Arc<dyn Grammar>> {
        let formed = on_one_line(schema);
        self.grammar("json_schema", &schema.to_string(), TopLevelGrammar::from_json_schema(formed))
    }

    /// Texts that are a JSON object.
    ///
    /// # Errors
    /// None in practice.
    pub fn json_object(&self) -> Result<Arc<dyn Grammar>> {
        self.json_schema(&json!({ "type": "object" }))
    }

    /// Texts that match the whole of a regular expression (as the `regex` crate writes them).
    ///
    /// # Errors
    /// As [`Grammars::json_schema`].
    pub fn regex(&self, regex: &str) -> Result<Arc<dyn Grammar>> {
        self.grammar("regex", regex, TopLevelGrammar::from_regex(regex))
    }

    /// Texts of a context-free grammar in llguidance's dialect of Lark.
    ///
    /// # Errors
    /// As [`Grammars::json_schema`].
    pub fn lark(&self, lark: &str) -> Result<Arc<dyn Grammar>> {
        self.grammar("lark", lark, TopLevelGrammar::from_lark(lark.to_owned()))
    }

    /// Texts that are one of `texts`.
    ///
    /// # Errors
    /// As [`Grammars::json_schema`].
    pub fn choice<S: AsRef<str>>(&self, texts: impl IntoIterator<Item = S>) -> Result<Arc<dyn Grammar>> {
        let texts = texts.into_iter().map(|text| quoted(text.as_ref())).collect::<Vec<_>>();
        let lark = format!("start: {}", texts.join(" | "));
        self.grammar("choice", &texts.join(", "), TopLevelGrammar::from_lark(lark))
    }

    fn grammar(&self, kind: &'static str, source: &str, grammar: TopLevelGrammar) -> Result<Arc<dyn Grammar>> {
        let kind = self.name.unwrap_or(kind);
        let start = with_stack(|| Matcher::new(self.factory.create_parser(grammar)))?;
        match start.get_error() {
            Some(problem) => Err(refused(kind, source, problem)),
            None => Ok(Arc::new(Guided { kind, start, ends: self.ends.clone() })),
        }
    }
}

/// What `work` returns, on a thread with a large stack.
fn with_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("grammar".into()).stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|e| Error::io("the stack of a thread that compiles a grammar", e))?;
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// A string of Lark: JSON's, without its `DEL`.
fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\x7f', "\\u007f")
}

/// A schema of the same values in one form, unless it says which it wants: on one line, with a space after each comma and colon.
pub fn on_one_line(schema: &Value) -> Value {
    let mut formed = schema.clone();
    if let Some(keys) = formed.as_object_mut() {
        let form = json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
        keys.entry("x-guidance").or_insert(form);
    }
    formed
}

/// llguidance's tree of all tokens. Those that steer the model have no text in a grammar.
fn trie(tokenizer: &Tokenizer, ends: &[u32], end: u32) -> TokTrie {
    let vocab = tokenizer.vocab() as u32;
    let steers = |id| tokenizer.is_control(id) || ends.contains(&id);
    let words: Vec<Vec<u8>> = (0..vocab)
        .map(|id| {
            let piece = tokenizer.piece(id).unwrap_or_default();
            let marker: &[u8] = if steers(id) { &[TokTrie::SPECIAL_TOKEN_MARKER] } else { &[] };
            [marker, piece].concat()
        })
        .collect();
    TokTrie::from(&TokRxInfo::new(vocab, end), &words)
}

/// A grammar that llguidance has compiled.
struct Guided {
    kind: &'static str,
    start: Matcher,
    ends: Arc<[u32]>,
}

impl fmt::Debug for Guided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guided").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Grammar for Guided {
    fn begin(&self) -> Result<Box<dyn Constraint>> {
        Ok(Box::new(Place { kind: self.kind, matcher: self.start.deep_clone(), ends: self.ends.clone() }))
    }
}

/// How far one text has come.
struct Place {
    kind: &'static str,
    matcher: Matcher,
    ends: Arc<[u32]>,
}

impl Constraint for Place {
    fn allow(&mut self, allowed: &mut Allowed) -> Result<()> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|e| refused(self.kind, "", e))?;
        let words = allowed.words_mut();
        let len = words.len().min(mask.as_slice().len());
        words[..len].copy_from_slice(&mask.as_slice()[..len]);
        // llguidance knows one token that ends a text; a model may have several.
        if allowed.allows(self.ends[0]) {
            self.ends.iter().for_each(|&end| allowed.allow(end));
        }
        Ok(())
    }

    fn advance(&mut self, token: u32) -> Result<()> {
        if self.ends.contains(&token) {
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(|e| refused(self.kind, "", e))
    }
}

fn missing(what: &str) -> Error {
    Error::tokenizer(what, "is needed for a grammar, and this engine has none")
}

/// An error of llguidance's about a grammar. The message shows the beginning of the grammar, and of what llguidance says, which
/// may have the grammar in it again.
fn refused(kind: &'static str, source: &str, problem: impl fmt::Display) -> Error {
    Error::parameter(kind, beginning(source, 60), beginning(&problem.to_string().replace('\n', " "), 400))
}

fn beginning(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}
