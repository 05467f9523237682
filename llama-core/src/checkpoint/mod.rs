//! Model files: mapped, parsed without trust, and read as borrowed views.
//!
//! [`Checkpoint::open`] takes a GGUF file (any shard of a split one), a Hugging Face folder, or one `.safetensors` file
//! in such a folder. Everything that loading relies on is checked there: sizes are possible, every tensor of the graph
//! is present in its right shape and a known format, ids of special tokens exist. What is left for loading to refuse are the
//! tokenizer's own data, and weights that are not finite.
//!
//! [`gguf::File`] and [`safetensors::File`] read the containers alone.

mod checksum;
mod folder;
pub(crate) mod foreign;
pub mod gguf;
mod json;
mod lookup;
pub mod map;
mod names;
pub mod safetensors;
mod shards;
mod strangers;
mod tied;
mod view;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub use checksum::checksum;
pub use folder::Folder;
pub(crate) use folder::{Document, Object, chat_template, confined, shortened};
pub use names::Name;
pub use shards::TensorInfo;
pub use view::TensorView;

use crate::config::{Config, Head};
use crate::error::{Error, InFile, Result};
pub(crate) use shards::Shard;
use shards::Shards;

/// How a kind of file names the tensors of the graph.
struct Spelling<S> {
    /// The tensor that a role's numbers are in.
    tensor: S,
    /// Whether [`Name::fused`] are one tensor.
    fused: bool,
}

/// An opened model: its sizes and its weights, whatever the files' format.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: Config,
    shards: Shards,
    roles: HashMap<Name, usize>,
    /// Whether [`Name::fused`] are one tensor.
    fused: bool,
    /// Each with the file that names it.
    end_tokens: Vec<(u32, PathBuf)>,
    /// And the file it is in.
    chat_template: Option<(PathBuf, String)>,
    folder: Option<Folder>,
    /// [`Checkpoint::contents`], once somebody has asked.
    contents: OnceLock<u64>,
}

impl Checkpoint {
    /// Opens and checks a model.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::File`] for files that cannot be read or are malformed, [`Error::Config`] and
    /// [`Error::Tensor`] for models that cannot be, [`Error::Unsupported`] for those that are not Llamas. All of them name
    /// the file ([`Error::path`]).
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        Checkpoint::open_any(path.as_ref()).in_file(path.as_ref())
    }

    fn open_any(path: &Path) -> Result<Checkpoint> {
        let metadata = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
        if metadata.is_dir() {
            Checkpoint::open_folder(path, None)
        } else if path.extension().is_some_and(|extension| extension == "safetensors") {
            Checkpoint::open_folder(parent(path), Some(path))
        } else {
            Checkpoint::open_gguf(path)
        }
    }

    fn open_gguf(path: &Path) -> Result<Checkpoint> {
        let files = gguf::open_all(path)?;
        let shards = Shards::new(files.into_iter().map(Shard::Gguf).collect(), None)?;
        let Some(Shard::Gguf(first)) = shards.files().first() else { unreachable!("open_all returns a file") };
        let metadata = first.metadata();
        let config = gguf::config(metadata, &shards).in_file(metadata.path())?;
        gguf::check_vocabulary(metadata, config.vocab).in_file(metadata.path())?;
        let within = || metadata.path().to_owned();
        let end_tokens = gguf::end_tokens(metadata)?.into_iter().map(|id| (id, within())).collect();
        let chat_template = metadata.string("tokenizer.chat_template")?.map(|source| (within(), source.to_owned()));
        let traits = gguf::traits(&config.architecture).expect("an architecture that was read");
        let spelling = Spelling { tensor: |name| Some(traits.tensor(name)), fused: traits.fused };
        let roles = roles(&shards, &config, &spelling)?;
        if let Some(name) = Name::all(&config).find(|&name| gguf::needs(&config, name) && !roles.contains_key(&name)) {
            let problem = format!("is missing, and a {} needs it", config.architecture);
            return Err(Error::tensor(name.gguf(), problem)).in_file(shards.list());
        }
        Ok(Checkpoint {
            path: path.to_owned(),
            config,
            shards,
            roles,
            fused: traits.fused,
            end_tokens,
            chat_template,
            folder: None,
            contents: OnceLock::new(),
        })
    }

    fn open_folder(path: &Path, weights: Option<&Path>) -> Result<Checkpoint> {
        let folder = Folder::open(path)?;
        let config = folder.config()?;
        let end_tokens = folder.end_tokens(config.vocab)?;
        let chat_template = chat_template(path)?;
        let shards = folder.weights(weights)?;
        let names = |name: &str| shards.find(name).is_some();
        let bare = names("embed_tokens.weight") && !names("model.embed_tokens.weight");
        let fused = folder.fuses()?;
        let spell = |name: Name| {
            let spelled = name.fused_hf().filter(|_| fused).or_else(|| name.hf());
            spelled.map(|name| if bare { unprefixed(name) } else { name })
        };
        if config.head == Head::Tied {
            tied::check(&shards, spell)?;
        }
        let roles = roles(&shards, &config, &Spelling { tensor: spell, fused })?;
        folder.check_biases(&shards, &roles)?;
        let path = weights.unwrap_or(path).to_owned();
        Ok(Checkpoint {
            path,
            config,
            shards,
            roles,
            fused,
            end_tokens,
            chat_template,
            folder: Some(folder),
            contents: OnceLock::new(),
        })
    }

    /// The file or folder, as it was given to [`Checkpoint::open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sizes and rotary embedding.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The tensor in a role, if the model has it.
    pub fn find(&self, name: Name) -> Option<TensorView<'_>> {
        let view = self.shards.view(*self.roles.get(&name)?).ok()?;
        Some(self.own_rows(name, view))
    }

    /// The tensor in a role, or the rows of one that are its.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the model has none: a bias, a tied model's head, divisors, scores.
    pub fn view(&self, name: Name) -> Result<TensorView<'_>> {
        match self.roles.get(&name) {
            Some(&tensor) => Ok(self.own_rows(name, self.shards.view(tensor)?)),
            None => Err(Error::tensor(name.gguf(), "is not in this model")).in_file(self.shards.list()),
        }
    }

    /// What of a tensor is in a role.
    fn own_rows<'a>(&self, name: Name, tensor: TensorView<'a>) -> TensorView<'a> {
        let rows = name.rows_of_fused(&self.config).filter(|_| self.fused);
        rows.map_or(tensor, |(rows, _)| tensor.slice_rows(rows))
    }

    /// All tensors, file by file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorInfo<'_>> {
        self.shards.iter()
    }

    /// The matrices that the graph multiplies by or looks tokens up in: what a backend prepares.
    pub fn matrices(&self) -> impl Iterator<Item = TensorView<'_>> {
        Name::all(&self.config)
            .filter(|name| !name.is_vector() && *name != Name::Score)
            .filter_map(|name| self.find(name))
    }

    /// A number that other weights do not have, as good as certainly: a checksum of the files' lengths and times of
    /// change and of every tensor's [`TensorView::fingerprint`]. It tells whether what was made from a checkpoint is
    /// still good.
    pub fn fingerprint(&self) -> u64 {
        self.sum_up(self.shards.fingerprint())
    }

    /// The same number for every copy of these weights under the same hyperparameters, and hardly for others: a checksum without the
    /// files' times of change. Of each tensor it sees what [`TensorView::fingerprint`] does, 2 KiB at eight places, so that it
    /// takes milliseconds whatever the model's size, where the system has these places in its file cache; what differs between
    /// them only is the same to it.
    pub fn contents(&self) -> u64 {
        *self.contents.get_or_init(|| self.sum_up(checksum(0, format!("{:?}", self.config).as_bytes())))
    }

    fn sum_up(&self, start: u64) -> u64 {
        (0..self.shards.iter().len()).fold(start, |sum, i| match self.shards.view(i) {
            Ok(view) => checksum(sum, &view.fingerprint().to_le_bytes()),
            Err(_) => checksum(sum, self.shards.info(i).name.as_bytes()),
        })
    }

    /// Names of the tensors that the graph does not use.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        let used: std::collections::HashSet<usize> = self.roles.values().copied().collect();
        self.shards.iter().enumerate().filter(move |(i, _)| !used.contains(i)).map(|(_, tensor)| tensor.name)
    }

    /// Key-value pairs, where the model is a GGUF; of the first shard, where it is split.
    pub fn metadata(&self) -> Option<&gguf::Metadata> {
        match self.shards.files().first() {
            Some(Shard::Gguf(file)) => Some(file.metadata()),
            _ => None,
        }
    }

    /// The folder with its JSON files, where the model is one.
    pub fn folder(&self) -> Option<&Folder> {
        self.folder.as_ref()
    }

    /// Ids that end a generation, as the files name them: each once, in the files' order, less than `vocab`.
    pub fn end_tokens(&self) -> Vec<u32> {
        self.end_tokens.iter().map(|(id, _)| *id).collect()
    }

    /// Jinja source of the chat template.
    pub fn chat_template_source(&self) -> Option<String> {
        self.chat_template.as_ref().map(|(_, source)| source.clone())
    }

    /// The chat template's source and the file it is in.
    pub(crate) fn chat_template_file(&self) -> Option<(&Path, &str)> {
        self.chat_template.as_ref().map(|(path, source)| (path.as_path(), source.as_str()))
    }

    /// [`Checkpoint::end_tokens`], each with the file that names it.
    pub(crate) fn end_token_files(&self) -> impl Iterator<Item = (u32, &Path)> {
        self.end_tokens.iter().map(|(id, path)| (*id, path.as_path()))
    }

    /// Bytes of all weight files.
    pub fn file_bytes(&self) -> u64 {
        self.shards.file_bytes()
    }

    /// An error if a weight file was written to, or changed its length, since it was opened. Worth asking while weights
    /// are prepared: see [`map`].
    pub fn verify(&self) -> Result<()> {
        self.shards.verify()
    }
}

pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The name of a tensor in a checkpoint of a bare `LlamaModel`.
fn unprefixed(name: String) -> String {
    name.strip_prefix("model.").map(str::to_owned).unwrap_or(name)
}

/// Which tensor has which role: all that the graph needs, in the shapes it needs, in formats it reads.
fn roles<S: Fn(Name) -> Option<String>>(
    shards: &Shards,
    config: &Config,
    spelling: &Spelling<S>,
) -> Result<HashMap<Name, usize>> {
    strangers::refuse(shards, config, &spelling.tensor)?;
    let mut roles = HashMap::new();
    for name in Name::all(config) {
        let Some(spelled) = (spelling.tensor)(name) else { continue };
        let shape = match name.rows_of_fused(config).filter(|_| spelling.fused) {
            Some((_, rows)) => (rows, config.hidden),
            None => name.shape(config),
        };
        match shards.find(&spelled) {
            Some(tensor) => {
                check_tensor(shards, tensor, name, shape)?;
                roles.insert(name, tensor);
            }
            None if name.is_bias() || name.is_divisors() => {}
            None => return Err(Error::tensor(spelled, "is missing, and a Llama needs it")).in_file(shards.list()),
        }
    }
    Ok(roles)
}

fn check_tensor(shards: &Shards, tensor: usize, name: Name, (rows, cols): (usize, usize)) -> Result<()> {
    let info = shards.info(tensor);
    let error = |problem: String| Err(Error::tensor(info.name, problem)).in_file(shards.path_of(tensor));
    if (info.rows, info.cols) != (rows, cols) {
        return error(format!("is [{}, {}]; [{rows}, {cols}] was expected", info.rows, info.cols));
    }
    let format = shards.view(tensor)?.format();
    match name.is_vector() && format.is_quantised() {
        true => error(format!("is a vector stored as {}; a float was expected", format.name())),
        false => Ok(()),
    }
}
