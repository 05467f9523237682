//! LoRA adapters (Hu et al. 2021, arXiv:2106.09685): a change of a model's matrices, each a product of two thin ones.
//!
//! ```text
//! W' [out, in] = W + strength * scale * B [out, r] A [r, in]
//! ```
//! An adapter is no model: it is opened by itself, bound to the shape of its base ([`Adapter::bind`]), and either added to rows of
//! the base's weights as they are decoded ([`Bound::add`]), or kept beside the base with others ([`Adapters`]), so that every
//! request may choose one ([`Request::adapter`](crate::engine::Request::adapter)). Two kinds of files are read, PEFT's folder and
//! llama.cpp's GGUF; they differ in how they spell a matrix, in where the scale is, and in the order of the rows of queries and keys.
//!
//! As everywhere, what changes the arithmetic and is not done is an error that names the key or the tensor: norms, biases, whole
//! matrices, embeddings, and every method of PEFT's that is more than the formula above.
//!
//! Sources: PEFT's `LoraConfig` and `LoraLayer` (<https://github.com/huggingface/peft>), llama.cpp's `convert_lora_to_gguf.py`
//! and `llama-adapter.cpp`.

mod bound;
mod gguf;
mod named;
mod names;
mod pairs;
mod pattern;
mod peft;
mod room;
mod set;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

pub use bound::Bound;
pub(crate) use bound::check_strength;
pub use named::{Loaded, Named};
use pairs::Pair;
pub use room::AdapterRoom;
pub(crate) use room::Place;
pub use set::Adapters;

use crate::checkpoint::{Name, Shard, confined, parent, safetensors};
use crate::config::RopeLayout;
use crate::error::{Error, InFile, Result};

/// The file of an adapter's folder in which PEFT says what its scales are.
pub const CONFIG: &str = "adapter_config.json";
/// The file of its tensors.
pub const WEIGHTS: &str = "adapter_model.safetensors";
const MERGE: &str = "merge it into its base model with peft's merge_and_unload, and open the result";

/// An opened adapter: which matrices it changes, by how much, and the map of its file.
///
/// Whatever can be known without the base has been checked: names, ranks, scales, and that every number is finite.
#[derive(Debug)]
pub struct Adapter {
    path: PathBuf,
    file: Shard,
    pairs: BTreeMap<Name, Pair>,
    /// Of the rows of queries and keys.
    layout: RopeLayout,
}

impl Adapter {
    /// Opens a PEFT folder (adapter_config.json and adapter_model.safetensors), a `.safetensors` file beside such an
    /// adapter_config.json, or a GGUF whose `general.type` is `adapter`.
    ///
    /// Every number is looked at once, so the time it takes is that of reading the file.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::File`] for files that cannot be read or are malformed, [`Error::Config`] for a scale that
    /// cannot be, [`Error::Tensor`] for a pair that is none, [`Error::Unsupported`] for what is not plain LoRA of a Llama's
    /// matrices. All of them name the file ([`Error::path`]).
    pub fn open(path: impl AsRef<Path>) -> Result<Adapter> {
        Adapter::open_any(path.as_ref()).in_file(path.as_ref())
    }

    fn open_any(path: &Path) -> Result<Adapter> {
        let metadata = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
        if metadata.is_dir() {
            let weights = confined(path, WEIGHTS)?.ok_or_else(|| no_weights(path));
            Adapter::open_peft(path, path, weights)
        } else if path.extension().is_some_and(|extension| extension == "safetensors") {
            Adapter::open_peft(path, parent(path), Ok(path.to_owned()))
        } else {
            Adapter::open_gguf(path)
        }
    }

    /// The configuration comes first: what it says is worth more to a reader than that weights are missing.
    fn open_peft(path: &Path, folder: &Path, weights: Result<PathBuf>) -> Result<Adapter> {
        let config = confined(folder, CONFIG)?.ok_or_else(|| no_config(folder))?;
        let config = peft::Config::open(&config)?;
        let file = Shard::Safetensors(safetensors::File::open(weights?)?);
        let pairs = pairs::all(&file, names::peft, |part, rank| config.scale(&part.module, rank))?;
        Ok(Adapter { path: path.to_owned(), file, pairs, layout: RopeLayout::Halves })
    }

    fn open_gguf(path: &Path) -> Result<Adapter> {
        let file = crate::checkpoint::gguf::File::open(path)?;
        let alpha = gguf::alpha(file.metadata()).in_file(path)?;
        let traits = gguf::traits(file.metadata()).in_file(path)?;
        let file = Shard::Gguf(file);
        let part = |name: &str| names::gguf(name, traits);
        let pairs = pairs::all(&file, part, |_, rank| gguf::scale(alpha, rank).in_file(path))?;
        Ok(Adapter { path: path.to_owned(), file, pairs, layout: traits.layout })
    }

    /// The file or folder, as it was given to [`Adapter::open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The matrices that it changes: layer by layer within each kind.
    pub fn names(&self) -> impl ExactSizeIterator<Item = Name> {
        self.pairs.keys().copied()
    }

    /// That its file is as it was when it was opened.
    pub(crate) fn verify(&self) -> Result<()> {
        self.file.map().verify()
    }

    /// Rank of the change of `name`, `None` where it is not changed.
    pub fn rank(&self, name: Name) -> Option<usize> {
        self.pairs.get(&name).map(|pair| pair.rank)
    }

    /// What `B A` is multiplied by for `name` at strength 1, `None` where it is not changed.
    pub fn scale(&self, name: Name) -> Option<f32> {
        self.pairs.get(&name).map(|pair| pair.scale)
    }
}

/// The error of a folder without adapter_config.json. Where it has a GGUF file, that may be the adapter.
fn no_config(folder: &Path) -> Error {
    let gguf =
        std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let problem = match gguf.filter(|name| name.ends_with(".gguf")).min() {
        Some(name) => format!("is not in this folder; open {name} itself"),
        None => "is not in this folder; open the folder of a LoRA adapter that PEFT saved, or a GGUF of one".into(),
    };
    Error::io(folder.join(CONFIG), io::Error::new(io::ErrorKind::NotFound, problem))
}

/// The error of a folder with adapter_config.json alone, or with what PEFT saved before it used safetensors.
fn no_weights(folder: &Path) -> Error {
    let problem = match folder.join("adapter_model.bin").exists() {
        true => {
            "is not in this folder, only PyTorch's adapter_model.bin; convert it to safetensors (peft's save_pretrained)"
        }
        false => "is not in this folder; fetch it",
    };
    Error::io(folder.join(WEIGHTS), io::Error::new(io::ErrorKind::NotFound, problem))
}
