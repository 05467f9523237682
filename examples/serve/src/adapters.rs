//! `POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`: adapters that come and go while the server runs. The spelling is
//! vLLM's.
//!
//! Such a request has a file of the server's machine read, so it is refused unless whoever started the server named a folder for
//! it, and then what it names must be in there. The file is opened, checked and summed up beside the engine's thread, which reads it
//! once more; one request after the other.

use std::path::{Component, Path, PathBuf};

use llama_core::Error;
use llama_core::adapter::{Adapter, CONFIG, Named, WEIGHTS};
use llama_core::engine::Engine;
use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::fields::{Fields, shown};
use crate::served::Served;

/// Bytes of a name, at most.
const LONGEST: usize = 256;

/// What the engine's thread is asked to do.
pub enum Change {
    /// Have requests ask for an adapter, in the stead of one of the same name if there may be one.
    Load {
        /// Which.
        named: Box<Named>,
        /// Whether there may be one.
        in_place: bool,
    },
    /// Have no request ask for the one of this name any more.
    Unload(String),
}

impl Change {
    /// The adapter's name.
    pub fn name(&self) -> &str {
        match self {
            Change::Load { named, .. } => &named.loaded().name,
            Change::Unload(name) => name,
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// A 400 with what stands against it.
    pub fn apply(self, engine: &mut Engine) -> Result<()> {
        match self {
            Change::Load { named, in_place: true } => engine.replace_named(&named).map_err(refused),
            Change::Load { named, in_place: false } => engine.add_named(&named).map_err(refused),
            Change::Unload(name) => engine.remove_adapter(&name).map_err(refused),
        }
    }
}

/// The folder that adapters may come from.
pub struct Folder {
    /// Its own path, that no link leads to.
    own: PathBuf,
    /// The one that it was named by, which may have links in it.
    given: PathBuf,
}

impl Folder {
    /// The folder at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if there is none.
    pub fn open(path: &Path) -> Result<Folder, Error> {
        let io = |error| Error::io(path, error);
        let own = path.canonicalize().map_err(io)?;
        // That it is a folder.
        std::fs::read_dir(&own).map_err(io)?;
        Ok(Folder { own, given: std::path::absolute(path).map_err(io)? })
    }

    /// What is left of an absolute path that leads into it.
    fn inner<'p>(&self, path: &'p Path) -> Result<&'p Path> {
        path.strip_prefix(&self.own).or_else(|_| path.strip_prefix(&self.given)).map_err(|_| outside())
    }
}

/// An adapter of `folder` to be loaded.
///
/// # Errors
/// A 400 that names the field: for a name that is taken, a path that leads elsewhere, and what is there and no adapter of this model.
pub fn load(served: &Served, folder: &Folder, mut fields: Fields) -> Result<Change> {
    let (name, in_place) = (name(&mut fields)?, fields.flag("load_inplace")?);
    let path = fields.string("lora_path")?.ok_or_else(|| fields.missing("lora_path"))?;
    fields.ignore(&["lora_int_id"]);
    fields.end()?;
    if name == served.name {
        return Err(ApiError::value("lora_name", "lora_name is the model's own name; give the adapter another"));
    }
    if !in_place && served.has(&name) {
        let problem = format!("{} is loaded already; unload it first, or ask for load_inplace", quoted(&name));
        return Err(ApiError::value("lora_name", problem));
    }
    let adapter = Adapter::open(within(folder, &path)?).map_err(refused)?;
    let named = Named::new(name, adapter, 1.0, &served.config).map_err(refused)?;
    Ok(Change::Load { named: Box::new(named), in_place })
}

/// An adapter to be unloaded.
///
/// # Errors
/// A 404 where there is none of that name.
pub fn unload(served: &Served, _: &Folder, mut fields: Fields) -> Result<Change> {
    let name = name(&mut fields)?;
    fields.ignore(&["lora_int_id"]);
    fields.end()?;
    match served.has(&name) {
        true => Ok(Change::Unload(name)),
        false => {
            let error = ApiError::no_such_model(format!("there is no adapter {}", quoted(&name)));
            Err(ApiError { param: Some("lora_name".into()), ..error })
        }
    }
}

fn name(fields: &mut Fields) -> Result<String> {
    let name = fields.string("lora_name")?.ok_or_else(|| fields.missing("lora_name"))?;
    match name.is_empty() || name.len() > LONGEST || name.chars().any(char::is_control) {
        false => Ok(name),
        true => {
            let problem = format!("lora_name is {}; 1 to {LONGEST} bytes without control characters", quoted(&name));
            Err(ApiError::value("lora_name", problem))
        }
    }
}

fn quoted(name: &str) -> String {
    shown(&Value::from(name))
}

/// What `given` names in `folder`. What is elsewhere is not looked at.
fn within(folder: &Folder, given: &str) -> Result<PathBuf> {
    let given = Path::new(given);
    let inner = if given.is_absolute() { folder.inner(given)? } else { given };
    if !inner.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(outside());
    }
    let folder = folder.own.as_path();
    let path = folder.join(inner);
    check(folder, &path)?;
    let beside = if path.is_dir() { path.as_path() } else { path.parent().unwrap_or(folder) };
    [CONFIG, WEIGHTS].iter().try_for_each(|name| check(folder, &beside.join(name)))?;
    Ok(path)
}

/// That nothing is at `path`, or what is there once links are followed is in `folder`.
fn check(folder: &Path, path: &Path) -> Result<()> {
    match path.canonicalize() {
        Ok(real) if real.starts_with(folder) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(outside()),
        Err(error) => Err(refused(Error::io(path, error))),
    }
}

fn outside() -> ApiError {
    let problem = "lora_path leads out of the folder of adapters; name a file or folder in it, by its path from there";
    ApiError::value("lora_path", problem)
}

/// What the library has against it. All of it is about what was asked for: the name, or what is at the path.
fn refused(error: Error) -> ApiError {
    match error {
        Error::Parameter { .. } => ApiError::value("lora_name", error.to_string()),
        Error::Backend { .. } | Error::Memory { .. } => error.into(),
        error => ApiError::value("lora_path", error.to_string()),
    }
}
