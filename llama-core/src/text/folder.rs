//! The tokenizer of a Hugging Face folder: tokenizer.json, else tokenizer.model, and what the small files beside it add.
//!
//! Fine-tunes often add tokens without writing tokenizer.json anew. They are in tokenizer_config.json, under
//! `added_tokens_decoder`, or in files from before that, in added_tokens.json; transformers adds them, and so do we, for
//! without them a chat's `<|im_start|>` would be six tokens of text. Names that tokenizer_config.json lacks are in
//! special_tokens_map.json. And a model may have fewer rows than its tokenizer has added tokens: those cannot be used.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::huggingface::{parse, read_if_there, vocab_from_json};
use super::json::Node;
use super::sentencepiece;
use super::tokenizer::Tokenizer;
use super::vocab::{TokenKind, Vocab};
use crate::error::{Error, Result};

/// Key of tokens by their ids.
pub(super) const ADDED: &str = "added_tokens_decoder";

impl Tokenizer {
    /// The tokenizer of a Hugging Face folder: its `tokenizer.json`, else its `tokenizer.model`, and the files beside it
    /// that add to it.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, otherwise as [`Tokenizer::from_json`].
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        Tokenizer::new(vocab(folder.as_ref())?)
    }
}

/// The vocabulary of a folder.
pub(super) fn vocab(folder: &Path) -> Result<Vocab> {
    let config = config(folder)?;
    if let Some(tokenizer) = read_if_there(&folder.join("tokenizer.json"))? {
        return vocab_from_json(&parse("tokenizer.json", &tokenizer)?, &config);
    }
    match read_if_there(&folder.join("tokenizer.model"))? {
        Some(model) => sentencepiece::vocab(&model, &Node::root("tokenizer_config.json", &config)),
        None => Err(absent(folder)),
    }
}

fn absent(folder: &Path) -> Error {
    let advice = match folder.join("tekken.json").exists() {
        true => "tekken.json is Mistral's own format; take tokenizer.json from the model's Hugging Face folder",
        false => "put the model's own beside its weights",
    };
    let path = folder.join("tokenizer.json");
    Error::tokenizer("tokenizer.json", format!("{} is not there; {advice}", path.display()))
}

/// tokenizer_config.json, with what it lacks from the two files that came before it.
fn config(folder: &Path) -> Result<Value> {
    let read = |name: &str| match read_if_there(&folder.join(name))? {
        Some(bytes) => parse(name, &bytes),
        None => Ok(Value::Null),
    };
    let mut config = match read("tokenizer_config.json")? {
        Value::Object(config) => config,
        Value::Null => Map::new(),
        _ => return Err(Error::tokenizer("tokenizer_config.json", "must be an object")),
    };
    if let Value::Object(names) = read("special_tokens_map.json")? {
        let lacking = |key: &str| config.get(key).is_none_or(Value::is_null);
        let wanted =
            names.into_iter().filter(|(key, _)| matches!(key.as_str(), "bos_token" | "eos_token") && lacking(key));
        config.extend(wanted.collect::<Vec<_>>());
    }
    if config.get(ADDED).is_none_or(Value::is_null)
        && let Value::Object(ids) = read("added_tokens.json")?
    {
        let token = |(content, id): (String, Value)| (id.to_string(), json!({ "content": content }));
        config.insert(ADDED.into(), Value::Object(ids.into_iter().map(token).collect()));
    }
    Ok(Value::Object(config))
}

impl Vocab {
    /// Without the tokens that a model with `rows` rows has none for, where those were added after it was trained. Other
    /// tokens are left, for a model to be refused with them.
    pub(super) fn without_rowless(mut self, rows: usize) -> Vocab {
        let trained = |kind: &TokenKind| matches!(kind, TokenKind::Normal | TokenKind::Byte);
        if self.kinds.len() <= rows || self.kinds[rows..].iter().any(trained) {
            return self;
        }
        self.tokens.truncate(rows);
        self.kinds.truncate(rows);
        let has_row = |id: &u32| (*id as usize) < rows;
        self.strips.retain(|(id, _)| has_row(id));
        self.end_tokens.retain(has_row);
        for id in [&mut self.bos, &mut self.eos, &mut self.unk] {
            *id = id.filter(has_row);
        }
        self
    }
}
