//! The tokenizer of a Hugging Face folder: tokenizer.json, else tokenizer.model, and what the small files beside it add.
//!
//! Fine-tunes often add tokens without writing tokenizer.json anew. They are in tokenizer_config.json, under
//! `added_tokens_decoder`, or in files from before that, in added_tokens.json; transformers adds them, and so do we, for
//! without them a chat's `<|im_start|>` would be six tokens of text. Names that tokenizer_config.json lacks are in
//! special_tokens_map.json. And a model may have fewer rows than its tokenizer has added tokens: those cannot be used.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::huggingface::{self, read_if_there};
use super::json::{Node, parse};
use super::sentencepiece;
use super::tokenizer::Tokenizer;
use super::vocab::{TokenKind, Vocab};
use crate::error::{Error, InFile, Result};

const JSON: &str = "tokenizer.json";
const MODEL: &str = "tokenizer.model";
/// Key of tokens by their ids.
pub(super) const ADDED: &str = "added_tokens_decoder";

impl Tokenizer {
    /// The tokenizer of a Hugging Face folder: its `tokenizer.json`, else its `tokenizer.model`, and the files beside it
    /// that add to it.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::File`] if a file cannot be read, otherwise as [`Tokenizer::from_json`].
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        tokenizer(folder.as_ref(), None)
    }
}

/// The file that most of a folder's tokenizer is in: tokenizer.json unless there is only tokenizer.model.
pub(super) fn file(folder: &Path) -> PathBuf {
    let [json, model] = [JSON, MODEL].map(|name| folder.join(name));
    if !json.exists() && model.exists() { model } else { json }
}

/// The tokenizer of a folder, whose model has this many rows.
pub(super) fn tokenizer(folder: &Path, rows: Option<usize>) -> Result<Tokenizer> {
    let vocab = match rows {
        Some(rows) => vocab_of_rows(folder, rows)?,
        None => vocab(folder)?,
    };
    Tokenizer::new(vocab).in_file(&file(folder))
}

/// The vocabulary of a folder, whose model has this many rows.
pub(super) fn vocab_of_rows(folder: &Path, rows: usize) -> Result<Vocab> {
    Ok(vocab(folder)?.without_rowless(rows))
}

/// The vocabulary of a folder.
fn vocab(folder: &Path) -> Result<Vocab> {
    let settings = Settings::of_folder(folder)?;
    let path = file(folder);
    match read_if_there(&path)? {
        Some(model) if path.ends_with(MODEL) => sentencepiece::vocab(&path, &model, &settings),
        Some(tokenizer) => huggingface::vocab(&path, &tokenizer, &settings),
        None => Err(absent(folder)),
    }
}

/// The error of a folder without either file.
fn absent(folder: &Path) -> Error {
    let advice = match folder.join("tekken.json").exists() {
        true => "tekken.json is Mistral's own format; take tokenizer.json from the model's Hugging Face folder",
        false => "put the model's own beside its weights",
    };
    let problem = format!("is not in this folder, and neither is {MODEL}; {advice}");
    let missing = std::io::Error::new(std::io::ErrorKind::NotFound, problem);
    Error::io(folder.join(JSON), missing)
}

/// What the small files beside a tokenizer say: tokenizer_config.json, then for what it lacks the two that came before it.
pub(super) struct Settings(Vec<(PathBuf, Value)>);

impl Settings {
    /// Those of a tokenizer_config.json with these bytes.
    pub(super) fn new(path: &Path, config: Option<&[u8]>) -> Result<Settings> {
        let config = config.map_or(Ok(Value::Null), |bytes| parse(path, bytes))?;
        match config {
            Value::Null | Value::Object(_) => Ok(Settings(vec![(path.to_owned(), config)])),
            _ => Err(Error::tokenizer("JSON", "is not an object, which was expected")).in_file(path),
        }
    }

    fn of_folder(folder: &Path) -> Result<Settings> {
        let path = folder.join("tokenizer_config.json");
        let mut settings = Settings::new(&path, read_if_there(&path)?.as_deref())?;
        settings.add(folder.join("special_tokens_map.json"), |mut names| {
            names.retain(|key, _| matches!(key.as_str(), "bos_token" | "eos_token"));
            names
        })?;
        settings.add(folder.join("added_tokens.json"), |ids| {
            let token = |(content, id): (String, Value)| (id.to_string(), json!({ "content": content }));
            Map::from_iter([(ADDED.to_owned(), Value::Object(ids.into_iter().map(token).collect()))])
        })?;
        Ok(settings)
    }

    /// What `keys` makes of the object in `path`, if there is one.
    fn add(&mut self, path: PathBuf, keys: impl Fn(Map<String, Value>) -> Map<String, Value>) -> Result<()> {
        if let Some(bytes) = read_if_there(&path)?
            && let Value::Object(object) = parse(&path, &bytes)?
        {
            self.0.push((path, Value::Object(keys(object))));
        }
        Ok(())
    }

    /// The value of `key` in the first file that has one.
    pub(super) fn get(&self, key: &str) -> Node<'_> {
        let has = |(_, values): &&(PathBuf, Value)| values.get(key).is_some_and(|value| !value.is_null());
        let (path, values) = self.0.iter().find(has).unwrap_or(&self.0[0]);
        Node::root(path, values).get(key)
    }
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
        self.infill = self.infill.filter(|infill| infill.tokens().all(|id| has_row(&id)));
        for id in [&mut self.bos, &mut self.eos, &mut self.unk] {
            *id = id.filter(has_row);
        }
        self
    }
}
