//! From one file to another: any checkpoint that is read, written as a GGUF in any format.
//!
//! ```no_run
//! use llama_core::checkpoint::Checkpoint;
//! use llama_core::convert::Converter;
//!
//! # fn main() -> llama_core::Result<()> {
//! let model = Checkpoint::open("my-fine-tune")?;
//! Converter::new(&model).mixture("Q4_K_M".parse()?).write("my-fine-tune.gguf", |_| ())?;
//! # Ok(())
//! # }
//! ```
//!
//! A GGUF keeps its keys; a folder's configuration, tokenizer and chat template are spelled as llama.cpp's converter spells
//! them, and the rows of its queries and keys put in the order that a GGUF has them in. What a GGUF cannot say is an error
//! where it changes the model's arithmetic and a note where a text may get other tokens. Matrices pass by in pieces, so that memory
//! is some megabytes a thread whatever the model.
//!
//! Vectors (gains, biases, divisors) and a classifier's scores are stored as F32.

mod hyperparameters;
mod importance;
mod measure;
mod mixture;
mod rows;

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::thread;

pub use importance::Importance;
pub use measure::{Measure, Measured};
pub use mixture::Mixture;

use crate::adapter::{Adapter, Bound, check_strength};
use crate::checkpoint::gguf::Value;
use crate::checkpoint::gguf::write::{ALIGNMENT, Entry, front};
use crate::checkpoint::{Checkpoint, Name, TensorView};
use crate::config::{RopeLayout, RopeScaling};
use crate::error::{Error, InFile, Result};
use crate::format::Format;
use crate::model::Progress;
use crate::text::to_gguf::{self, Spelled};
use crate::whole;
use rows::{Order, Rows};

/// Keys that are about the file, not about the model.
const OF_THE_FILE: [&str; 4] = ["general.file_type", "general.quantization_version", "general.alignment", "split."];
/// ggml's number for how its quantised formats are laid out since May 2023.
const QUANTISATION: u32 = 2;

/// A checkpoint that is to be written anew.
pub struct Converter<'a> {
    checkpoint: &'a Checkpoint,
    mixture: Option<Mixture>,
    adapters: Vec<(Bound<'a>, f32)>,
    importance: Option<&'a Importance>,
    threads: usize,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the file.
    pub bytes: u64,
    /// What the new file does not say, a sentence each.
    pub notes: Vec<String>,
}

impl<'a> Converter<'a> {
    /// Writes matrices in the formats they have, on as many threads as there are, unless told otherwise.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Converter { checkpoint, mixture: None, adapters: Vec::new(), importance: None, threads }
    }

    /// Stores matrices so.
    pub fn mixture(self, mixture: Mixture) -> Self {
        Converter { mixture: Some(mixture), ..self }
    }

    /// Adds an adapter, `strength` times as strong as it was trained, to the matrices that it changes. Several are added one after
    /// another.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `strength` is not finite, and what [`Adapter::bind`] says of an adapter of another base.
    pub fn adapter(mut self, adapter: &'a Adapter, strength: f32) -> Result<Self> {
        check_strength(strength)?;
        self.adapters.push((adapter.bind(self.checkpoint.config()).in_file(adapter.path())?, strength));
        Ok(self)
    }

    /// Weighs the errors of columns by their importance where numbers are encoded ([`Format::encode_weighing`]). A matrix that has
    /// none there is encoded as without.
    ///
    /// # Errors
    /// [`Error::File`] that names the file if it is of a model of another shape.
    pub fn importance(self, importance: &'a Importance) -> Result<Self> {
        let config = self.checkpoint.config();
        let mut known = false;
        for name in Name::all(config) {
            let tensor = hyperparameters::traits(config).tensor(name);
            let Some(columns) = importance.columns(&tensor) else { continue };
            let (found, (_, cols)) = (columns.len(), name.shape(config));
            if found != cols {
                let problem =
                    format!("has {found} numbers; {cols}, one for each of the model's columns, were expected");
                return Err(importance.error(tensor, problem));
            }
            known = true;
        }
        if !known {
            let problem = "are of none of this model's matrices; an entry for each was expected";
            return Err(importance.error("entries", problem));
        }
        Ok(Converter { importance: Some(importance), ..self })
    }

    /// Encodes on so many threads; 0 is 1.
    pub fn threads(self, threads: usize) -> Self {
        Converter { threads: threads.max(1), ..self }
    }

    /// Writes the model to a new file at `path`, and tells how far it has come. The file appears under its name when all of
    /// it is written.
    ///
    /// # Errors
    /// [`Error::Io`] if there is a file already, or it cannot be written; [`Error::Unsupported`] for what no GGUF can say;
    /// [`Error::Tensor`] for a weight that is not finite or that its new format cannot hold; what reading the model says.
    pub fn write(&self, path: impl AsRef<Path>, mut progress: impl FnMut(Progress)) -> Result<Summary> {
        let path = path.as_ref();
        if path.symlink_metadata().is_ok() {
            let there =
                io::Error::new(io::ErrorKind::AlreadyExists, "is there already; take another name, or remove it");
            return Err(Error::io(path, there));
        }
        let Spelled { pairs, notes } = self.pairs()?;
        let divisors = self.divisors();
        let tensors = self.tensors(&divisors)?;
        let bytes = whole::written(path, |partial| {
            let bytes = self.write_all(partial, &pairs, &tensors, &mut progress)?;
            self.checkpoint.verify()?;
            self.adapters.iter().try_for_each(|(bound, _)| bound.adapter().verify())?;
            Ok(bytes)
        })?;
        Ok(Summary { bytes, notes })
    }

    fn write_all(
        &self,
        path: &Path,
        pairs: &[(String, Value)],
        tensors: &[(Entry, Vec<Rows<'_>>)],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<u64> {
        let failed = |source| Error::io(path, source);
        let mut out = BufWriter::new(fs::File::create(path).map_err(failed)?);
        let entries: Vec<Entry> = tensors.iter().map(|(entry, _)| entry.clone()).collect();
        let front = front(pairs, &entries);
        out.write_all(&front).map_err(failed)?;
        let total = tensors.iter().flat_map(|(_, parts)| parts).map(|rows| rows.view.data().len() as u64).sum();
        let (mut done, mut bytes) = (0, front.len());
        for (entry, parts) in tensors {
            let mut put = |encoded: &[u8], of| {
                out.write_all(encoded).map_err(failed)?;
                done += of;
                progress(Progress { done, total });
                Ok(())
            };
            parts.iter().try_for_each(|rows| rows.encode_on(self.threads, &mut put))?;
            let padded = entry.bytes().next_multiple_of(ALIGNMENT);
            out.write_all(&[0; ALIGNMENT][..padded - entry.bytes()]).map_err(failed)?;
            bytes += padded;
        }
        out.into_inner().map_err(io::IntoInnerError::into_error).and_then(|file| file.sync_all()).map_err(failed)?;
        Ok(bytes as u64)
    }

    /// Keys and values, and notes about them.
    fn pairs(&self) -> Result<Spelled> {
        let mut spelled = match (self.checkpoint.metadata(), self.checkpoint.folder()) {
            (Some(metadata), _) => {
                let of_the_file = |key: &str| OF_THE_FILE.iter().any(|&start| key.starts_with(start));
                let kept = metadata.iter().filter(|(key, _)| !of_the_file(key));
                let pairs = kept.map(|(key, value)| (key.to_owned(), value.clone())).collect();
                Spelled { pairs, notes: self.left_out() }
            }
            (None, Some(folder)) => {
                let hyperparameters =
                    hyperparameters::pairs(self.checkpoint.config()).in_file(self.checkpoint.path())?;
                let Spelled { pairs, mut notes } = to_gguf::spelled(self.checkpoint, folder)?;
                notes.extend(hyperparameters::note(self.checkpoint.config()));
                Spelled { pairs: [self.general(folder.path()), hyperparameters, pairs].concat(), notes }
            }
            (None, None) => unreachable!("a checkpoint is a GGUF or a folder"),
        };
        spelled.pairs.push(("general.quantization_version".into(), Value::U32(QUANTISATION)));
        let kept = || self.checkpoint.metadata()?.u32("general.file_type").ok()?;
        if let Some(number) = self.mixture.map_or_else(kept, Mixture::file_type) {
            spelled.pairs.push(("general.file_type".into(), Value::U32(number)));
        }
        Ok(spelled)
    }

    fn general(&self, folder: &Path) -> Vec<(String, Value)> {
        let name =
            fs::canonicalize(folder).ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        let text = |key: &str, value: String| (format!("general.{key}"), Value::String(value));
        let named = name.map(|name| text("name", name));
        [
            text("architecture", hyperparameters::architecture(self.checkpoint.config()).into()),
            text("type", "model".into()),
        ]
        .into_iter()
        .chain(named)
        .collect()
    }

    /// Notes about the tensors of a GGUF that the graph does not use.
    fn left_out(&self) -> Vec<String> {
        self.checkpoint.unused().map(|name| format!("tensor {name} is left out: no Llama uses it")).collect()
    }

    /// The numbers of the tensors of divisors, where they are to be made.
    fn divisors(&self) -> Vec<(Name, Vec<u8>)> {
        let rope = &self.checkpoint.config().rope;
        let all = match &rope.scaling {
            RopeScaling::Long { short, long, .. } => {
                vec![(Name::RopeShort, short.clone()), (Name::RopeLong, long.clone())]
            }
            _ => rope.divisors().map(|divisors| (Name::RopeFreqs, divisors)).into_iter().collect(),
        };
        let absent = all.into_iter().filter(|(name, _)| self.checkpoint.find(*name).is_none());
        absent.map(|(name, all)| (name, all.iter().flat_map(|divisor| divisor.to_le_bytes()).collect())).collect()
    }

    /// Every tensor, in the order in which they are written, with the matrices whose rows follow each other in it; `divisors` are
    /// those that the checkpoint has not.
    fn tensors<'b>(&'b self, divisors: &'b [(Name, Vec<u8>)]) -> Result<Vec<(Entry, Vec<Rows<'b>>)>> {
        let traits = hyperparameters::traits(self.checkpoint.config());
        let mut tensors = Vec::new();
        for name in Name::all(self.checkpoint.config()) {
            let names = traits.together(name);
            if names[0] != name {
                continue;
            }
            let view = |&name: &Name| Some(self.view(name, divisors).transpose()?.map(|view| (name, view)));
            let views: Vec<_> = names.iter().filter_map(view).collect::<Result<_>>()?;
            let Some((_, first)) = views.first() else { continue };
            let (format, cols, vector) = (self.format(&names, first), first.cols(), name.is_vector());
            let rows = views.iter().map(|(_, view)| view.rows()).sum();
            let entry = Entry { name: traits.tensor(name), format, rows, cols, vector };
            let parts = views.into_iter().map(|(name, view)| self.rows(name, view, &entry)).collect();
            tensors.push((entry, parts));
        }
        Ok(tensors)
    }

    /// A tensor of the checkpoint, or of `divisors`.
    fn view<'b>(&'b self, name: Name, divisors: &'b [(Name, Vec<u8>)]) -> Result<Option<TensorView<'b>>> {
        if let Some(view) = self.checkpoint.find(name) {
            return Ok(Some(view));
        }
        let made = divisors.iter().find(|(made, _)| *made == name);
        made.map(|(_, bytes)| TensorView::new("divisors", Format::F32, 1, bytes.len() / 4, bytes)).transpose()
    }

    /// What becomes of a matrix in the tensor `entry`.
    fn rows<'b>(&'b self, name: Name, view: TensorView<'b>, entry: &Entry) -> Rows<'b> {
        let adapters = self.adapters.iter().filter(|(bound, _)| bound.changes(name)).copied().collect();
        let importance = self.importance.and_then(|importance| importance.columns(&entry.name));
        Rows { name, view, format: entry.format, order: self.order(name), adapters, importance }
    }

    /// The format of a tensor that holds the matrices `names`.
    fn format(&self, names: &[Name], view: &TensorView<'_>) -> Format {
        let kept = view.format();
        match self.mixture {
            _ if names[0].is_vector() || names[0] == Name::Score => Format::F32,
            None => kept,
            Some(mixture) => {
                let float = if kept == Format::BF16 { Format::BF16 } else { Format::F16 };
                mixture::fitting(mixture.format(names, self.checkpoint.config()), view.cols(), float)
            }
        }
    }

    fn order(&self, name: Name) -> Order {
        let config = self.checkpoint.config();
        match (config.rope.layout, hyperparameters::traits(config).layout) {
            (RopeLayout::Halves, RopeLayout::Interleaved) if name.is_rotated() => {
                Order::Pairs { head_dim: config.head_dim, dims: config.rope.dims }
            }
            _ => Order::Kept,
        }
    }
}
