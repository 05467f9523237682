//! A Hugging Face folder: config.json, one or many safetensors files, the tokenizer's files.
//!
//! Files are taken from the folder itself and nowhere else: names in an index have no path, and links may lead to other
//! files of the folder or, in the hub's cache, from `snapshots/<revision>/` to the `blobs/` beside it.

mod absent;
mod config;
mod family;
mod json;
mod rope;
mod variants;
mod weights;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

pub(super) use self::absent::ADAPTER;
use self::family::Family;
pub(crate) use self::json::{Document, Object, shortened};
use super::json as file;
use super::names::Name;
use super::safetensors;
use super::shards::{Shard, Shards};
use crate::config::{Config, Pooling};
use crate::error::{Error, InFile, Result};

/// Where sentence-transformers keeps the settings of its second module, which pools.
const POOLING: &str = "1_Pooling/config.json";

/// A layer's biases.
const BIASES: [fn(usize) -> Name; 7] =
    [Name::QBias, Name::KBias, Name::VBias, Name::OBias, Name::GateBias, Name::UpBias, Name::DownBias];

/// An opened folder. Its JSON files are read when it is opened, its weights and tokenizer when asked for.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    config: Document,
    generation: Document,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Folder> {
        let config = match confined(path, "config.json")? {
            Some(path) => Document::open(&path)?,
            None => return Err(absent::config(path)),
        };
        let generation = match confined(path, "generation_config.json")? {
            Some(path) => Document::open(&path)?,
            None => Document::absent(path.join("generation_config.json")),
        };
        Ok(Folder { path: path.to_owned(), config, generation })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// config.json.
    pub fn config_json(&self) -> &Map<String, Value> {
        self.config.contents()
    }

    /// generation_config.json; empty where there is none.
    pub fn generation_config_json(&self) -> &Map<String, Value> {
        self.generation.contents()
    }

    /// Text of tokenizer.json, if there is one.
    pub fn tokenizer_json(&self) -> Result<Option<String>> {
        self.text("tokenizer.json")
    }

    /// Text of tokenizer_config.json, if there is one.
    pub fn tokenizer_config_json(&self) -> Result<Option<String>> {
        self.text("tokenizer_config.json")
    }

    /// Text of a file in the folder, if there is one.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        confined(&self.path, name)?.map(|path| file::text(&path)).transpose()
    }

    pub(super) fn config(&self) -> Result<Config> {
        let pooling = self.pooling()?;
        self.config.read(|json| config::config(json, pooling))
    }

    /// How sentence-transformers pools, where the folder has its file; else the default.
    fn pooling(&self) -> Result<Pooling> {
        let Some(path) = confined(&self.path, POOLING)? else { return Ok(Pooling::default()) };
        Document::open(&path)?.read(pooling)
    }

    /// The tensors of `single`, or of the folder's own files.
    pub(super) fn weights(&self, single: Option<&Path>) -> Result<Shards> {
        let (files, index) = match single {
            Some(path) => (vec![safetensors::File::open(path)?], None),
            None => weights::open(&self.path)?,
        };
        Shards::new(files.into_iter().map(Shard::Safetensors).collect(), index)
    }

    /// Whether [`Name::fused`] are one tensor.
    pub(super) fn fuses(&self) -> Result<bool> {
        self.config.read(|json| Ok(Family::of(json)?.0.fuses()))
    }

    /// Biases are present where config.json says so, and only there.
    pub(super) fn check_biases(&self, shards: &Shards, roles: &HashMap<Name, usize>) -> Result<()> {
        self.config.read(|config| check_biases(config, shards, roles))
    }

    /// Ids of generation_config.json's and config.json's `eos_token_id`, each with the file; other ids there are checked.
    pub(super) fn end_tokens(&self, vocab: usize) -> Result<Vec<(u32, PathBuf)>> {
        let mut ids: Vec<(u32, PathBuf)> = Vec::new();
        for document in [&self.generation, &self.config] {
            document.read(|object| object.ids("bos_token_id", vocab))?;
            for id in document.read(|object| object.ids("eos_token_id", vocab))? {
                if ids.iter().all(|(known, _)| *known != id) {
                    ids.push((id, document.path().to_owned()));
                }
            }
        }
        Ok(ids)
    }
}

/// The chat template of a folder and the file it is in: chat_template.jinja, else chat_template.json, else
/// tokenizer_config.json, as transformers looks.
pub(crate) fn chat_template(folder: &Path) -> Result<Option<(PathBuf, String)>> {
    if let Some(path) = confined(folder, "chat_template.jinja")? {
        let source = file::text(&path)?;
        return Ok(Some((path, source)));
    }
    for name in ["chat_template.json", "tokenizer_config.json"] {
        let Some(path) = confined(folder, name)? else { continue };
        if let Some(source) = Document::open(&path)?.read(template)? {
            return Ok(Some((path, source)));
        }
    }
    Ok(None)
}

fn pooling(json: Object<'_>) -> Result<Pooling> {
    let mut modes = Vec::new();
    for key in json.0.keys().filter(|key| key.starts_with("pooling_mode_")) {
        if json.bool(key)?.unwrap_or(false) {
            modes.push(key.as_str());
        }
    }
    match modes[..] {
        ["pooling_mode_lasttoken"] => Ok(Pooling::Last),
        ["pooling_mode_mean_tokens"] => Ok(Pooling::Mean),
        _ => {
            let advice = "pooling_mode_lasttoken and pooling_mode_mean_tokens are read, one of them alone";
            Err(Error::unsupported(format!("pooling by {modes:?}"), advice))
        }
    }
}

fn check_biases(config: Object<'_>, shards: &Shards, roles: &HashMap<Name, usize>) -> Result<()> {
    let (family, _) = Family::of(config)?;
    let layers = config.size("num_hidden_layers")?.unwrap_or(0);
    for bias in BIASES {
        let (wanted, because) = family.has_bias(config, bias(0))?;
        let odd = |name: &Name| roles.contains_key(name) != wanted;
        if let Some(name) = (0..layers).map(bias).find(odd) {
            let found = if wanted { "is missing" } else { "is present" };
            let path = roles.get(&name).map_or(shards.list(), |&tensor| shards.path_of(tensor));
            let problem = format!("{found}, which was not expected: {because}");
            return Err(Error::tensor(name.hf().unwrap_or_default(), problem).in_file(path));
        }
    }
    Ok(())
}

/// `chat_template`: a string, or a list of `{ name, template }` of which `default` is meant.
fn template(json: Object<'_>) -> Result<Option<String>> {
    let wrong =
        || Error::config("chat_template", "is neither a string nor a list of { name, template }, which were expected");
    match json.get("chat_template") {
        None => Ok(None),
        Some(Value::String(source)) => Ok(Some(source.clone())),
        Some(Value::Array(list)) => {
            let named = |name: &str| list.iter().find(|item| item.get("name").is_some_and(|n| n == name));
            match named("default").or(list.first()) {
                None => Ok(None),
                Some(item) => {
                    item.get("template").and_then(Value::as_str).map(str::to_owned).map(Some).ok_or_else(wrong)
                }
            }
        }
        Some(_) => Err(wrong()),
    }
}

/// The path of `name` in `folder`, or `None` if there is no such file. A link that leads out is an error.
pub(crate) fn confined(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    let path = folder.join(name);
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(none) if none.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::io(path, source)),
    };
    let root = folder.canonicalize().map_err(|source| Error::io(folder, source))?;
    let blobs = root.parent().filter(|parent| parent.ends_with("snapshots")).and_then(Path::parent);
    let inside = real.starts_with(&root) || blobs.is_some_and(|hub| real.starts_with(hub.join("blobs")));
    match inside {
        true => Ok(Some(path)),
        false => Err(Error::file(
            path,
            name,
            None,
            format!("is a link out of the folder, to {}; put the file itself here", real.display()),
        )),
    }
}
