//! GGUF, versions 2 and 3: ggml's container of metadata and tensors.
//!
//! ```text
//! "GGUF"  u32 version  u64 tensors  u64 pairs
//! pairs x { string key, u32 type, value }                       string = u64 bytes, UTF-8
//! tensors x { string name, u32 dims, u64 dim[..], u32 format, u64 offset }
//! padding to general.alignment, then the tensors' data, each padded to the alignment
//! ```
//! A file is hostile until read. Rules beyond the specification's, most of them ggml's own:
//! counts and lengths are checked against the bytes that remain before anything is allocated, so reading a header takes
//! at most a small multiple of its size; a tensor's offset must be the padded sum of those before it, so tensors neither
//! overlap nor leave gaps; keys and names are unique; the file ends with the last tensor or its padding, because what
//! follows could be another program's file. Files converted before April 2024 and those of today alike meet them.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod architecture;
mod config;
mod reader;
mod rope;
mod split;
mod tensor;
mod value;
mod variants;
mod vocabulary;
pub(crate) mod write;

use std::path::Path;

pub(crate) use reader::Reader;
pub use tensor::Tensor;
pub use value::{Array, Metadata, Value};

use super::foreign;
use super::lookup::Lookup;
use super::map::Map;
use super::view::TensorView;
use crate::error::{Error, InFile, Result};

pub(crate) use architecture::{READ, Traits, architecture, traits};
pub(super) use config::{config, needs};
pub(crate) use rope::LONG;
pub(super) use split::open_all;
pub(super) use vocabulary::{check_vocabulary, end_tokens};

/// One GGUF file, mapped and parsed. No claim about the model in it is checked: see [`super::Checkpoint`].
#[derive(Debug)]
pub struct File {
    map: Map,
    header: Header,
}

/// What the front of a GGUF says.
#[derive(Debug)]
pub struct Header {
    version: u32,
    metadata: Metadata,
    tensors: Vec<Tensor>,
    lookup: Lookup,
}

impl File {
    /// Maps and parses `path`. Split files are opened one by one; a [`super::Checkpoint`] opens all of them.
    pub fn open(path: impl AsRef<Path>) -> Result<File> {
        let map = Map::open(path)?;
        let header = Header::parse(map.path(), map.bytes())?;
        Ok(File { map, header })
    }

    /// Key-value pairs.
    pub fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    /// Tensors in the file's order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.header.tensors
    }

    /// The tensor called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.header.find(name)
    }

    /// The weights of one of this file's tensors.
    pub fn view<'a>(&'a self, tensor: &'a Tensor) -> Result<TensorView<'a>> {
        let view = match self.map.bytes().get(tensor.range()) {
            Some(data) => TensorView::new(tensor.name(), tensor.format(), tensor.rows(), tensor.cols(), data),
            None => Err(Error::tensor(tensor.name(), "belongs to another file")),
        };
        Ok(view.in_file(self.map.path())?.within(&self.map))
    }

    /// The map beneath.
    pub fn map(&self) -> &Map {
        &self.map
    }
}

impl Header {
    /// Parses the front of `bytes`, a whole file; `path` is for error messages.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Header> {
        let reader = &mut Reader::new(path, bytes);
        let version = version(reader, path, bytes)?;
        let tensor_count = reader.count(Tensor::LEAST, &"tensor_count")?;
        let pair_count = reader.count(Metadata::LEAST, &"metadata_kv_count")?;
        let metadata = Metadata::read(reader, pair_count)?;
        let alignment = alignment(&metadata).in_file(path)?;
        let tensors = Tensor::read_all(reader, tensor_count, alignment)?;
        let lookup = Lookup::new(tensors.len(), |i| tensors[i].name())
            .map_err(|twin| tensors[twin].error(path, "is a name that occurs twice; once was expected"))?;
        Ok(Header { version, metadata, tensors, lookup })
    }

    /// Version of the container: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Key-value pairs.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Tensors in the file's order.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        let place = self.lookup.find(name, |i| self.tensors[i].name())?;
        Some(&self.tensors[place])
    }
}

/// Magic and version.
fn version(reader: &mut Reader<'_>, path: &Path, bytes: &[u8]) -> Result<u32> {
    let magic: [u8; 4] = reader.array(&"magic")?;
    if &magic != b"GGUF" {
        let unknown = || reader.error(&"magic", 0, format!("is {magic:02x?}; \"GGUF\" was expected"));
        return Err(foreign::refusal(path, bytes).unwrap_or_else(unknown));
    }
    let version = reader.u32(&"version")?;
    let refuse = |what: &str, advice: &str| {
        Err(Error::unsupported(format!("{what} (field version at byte 4)"), advice).in_file(path))
    };
    match version {
        2 | 3 => Ok(version),
        1 => refuse("GGUF version 1", "convert the model again; version 1 was current for a week in August 2023"),
        0 => Err(reader.error(&"version", 4, "is 0; 2 or 3 was expected")),
        v if v.swap_bytes() <= 0xffff => refuse("a big-endian GGUF", "convert it to little-endian with gguf-py"),
        v => refuse(&format!("GGUF version {v}"), "versions 2 and 3 are read; convert with a matching program"),
    }
}

/// `general.alignment`: a u32, a power of two from 8 to 65536; 32 where absent.
fn alignment(metadata: &Metadata) -> Result<usize> {
    const KEY: &str = "general.alignment";
    match metadata.get(KEY) {
        None => Ok(32),
        Some(Value::U32(n)) if n.is_power_of_two() && (8..=65_536).contains(n) => Ok(*n as usize),
        Some(Value::U32(n)) => Err(Error::config(KEY, format!("is {n}; a power of two from 8 to 65536 was expected"))),
        Some(other) => Err(Error::config(KEY, format!("is of type {}; u32 was expected", other.type_name()))),
    }
}
