//! The tensors of a model, however many files they are spread over.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::checksum::checksum;
use super::lookup::Lookup;
use super::view::TensorView;
use super::{gguf, safetensors};
use crate::error::{Error, Result};
use crate::format::Format;

/// What a file says about one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// Name, as the file spells it.
    pub name: &'a str,
    /// How it is stored; `None` for a type that weights are not read in.
    pub format: Option<Format>,
    /// Rows; a vector has one.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Bytes in the file.
    pub bytes: u64,
}

/// One file of a model.
#[derive(Debug)]
pub(crate) enum Shard {
    Gguf(gguf::File),
    Safetensors(safetensors::File),
}

impl Shard {
    pub(crate) fn len(&self) -> usize {
        match self {
            Shard::Gguf(file) => file.tensors().len(),
            Shard::Safetensors(file) => file.tensors().len(),
        }
    }

    pub(crate) fn map(&self) -> &super::map::Map {
        match self {
            Shard::Gguf(file) => file.map(),
            Shard::Safetensors(file) => file.map(),
        }
    }

    pub(crate) fn info(&self, i: usize) -> TensorInfo<'_> {
        match self {
            Shard::Gguf(file) => {
                let tensor = &file.tensors()[i];
                TensorInfo {
                    name: tensor.name(),
                    format: Some(tensor.format()),
                    rows: tensor.rows(),
                    cols: tensor.cols(),
                    bytes: tensor.range().len() as u64,
                }
            }
            Shard::Safetensors(file) => {
                let tensor = &file.tensors()[i];
                TensorInfo {
                    name: tensor.name(),
                    format: tensor.format(),
                    rows: tensor.rows(),
                    cols: tensor.cols(),
                    bytes: tensor.range().len() as u64,
                }
            }
        }
    }

    pub(crate) fn view(&self, i: usize) -> Result<TensorView<'_>> {
        match self {
            Shard::Gguf(file) => file.view(&file.tensors()[i]),
            Shard::Safetensors(file) => file.view(&file.tensors()[i]),
        }
    }
}

/// Files of one model; tensors are numbered through all of them.
#[derive(Debug)]
pub(super) struct Shards {
    files: Vec<Shard>,
    /// The file that says which of them holds what, where there is one.
    index: Option<PathBuf>,
    /// File and place in it.
    places: Vec<(u32, u32)>,
    lookup: Lookup,
}

impl Shards {
    /// All tensors of `files`, which `index` lists; a name in two of them is an error.
    pub(super) fn new(files: Vec<Shard>, index: Option<PathBuf>) -> Result<Shards> {
        let places: Vec<(u32, u32)> = files
            .iter()
            .enumerate()
            .flat_map(|(file, shard)| (0..shard.len()).map(move |place| (file as u32, place as u32)))
            .collect();
        let name = |i: usize| files[places[i].0 as usize].info(places[i].1 as usize).name;
        match Lookup::new(places.len(), name) {
            Ok(lookup) => Ok(Shards { files, index, places, lookup }),
            Err(twin) => {
                let path = files[places[twin].0 as usize].map().path();
                Err(Error::file(
                    path,
                    format!("tensor {}", name(twin)),
                    None,
                    "is in another shard too; one was expected",
                ))
            }
        }
    }

    pub(super) fn files(&self) -> &[Shard] {
        &self.files
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = TensorInfo<'_>> {
        (0..self.places.len()).map(|i| self.info(i))
    }

    pub(super) fn info(&self, i: usize) -> TensorInfo<'_> {
        let (file, place) = self.places[i];
        self.files[file as usize].info(place as usize)
    }

    /// The file to blame for a tensor that none has: the index, or the first.
    pub(super) fn list(&self) -> &Path {
        self.index.as_deref().unwrap_or_else(|| self.files[0].map().path())
    }

    /// The file of tensor `i`.
    pub(super) fn path_of(&self, i: usize) -> &Path {
        self.files[self.places[i].0 as usize].map().path()
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.lookup.find(name, |i| self.info(i).name)
    }

    pub(super) fn view(&self, i: usize) -> Result<TensorView<'_>> {
        let (file, place) = self.places[i];
        self.files[file as usize].view(place as usize)
    }

    /// Bytes of all files.
    pub(super) fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.map().bytes().len() as u64).sum()
    }

    /// A checksum of the files' lengths and times of change.
    pub(super) fn fingerprint(&self) -> u64 {
        self.files.iter().fold(self.files.len() as u64, |sum, file| {
            let changed = file.map().modified().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let changed = changed.map_or(0, |time| time.as_nanos());
            let sum = checksum(sum, &(file.map().bytes().len() as u64).to_le_bytes());
            checksum(sum, &changed.to_le_bytes())
        })
    }

    /// An error if any file changed since it was opened.
    pub(super) fn verify(&self) -> Result<()> {
        self.files.iter().try_for_each(|file| file.map().verify())
    }
}
