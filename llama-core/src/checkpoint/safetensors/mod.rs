//! safetensors: a JSON header and one buffer.
//!
//! ```text
//! u64 n   n bytes of JSON { name: { dtype, shape, data_offsets: [begin, end] }, "__metadata__": { .. } }   buffer
//! ```
//! Read as strictly as the format's own library does: the header is at most 100 MB and starts with `{`; tensors cover
//! the buffer exactly, without overlap, hole or tail; shape, type and length agree; no key occurs twice.
//!
//! Source: <https://huggingface.co/docs/safetensors> and its repository's README.

mod header;

use std::ops::Range;
use std::path::Path;

use super::foreign;
use super::json;
use super::lookup::Lookup;
use super::map::Map;
use super::view::TensorView;
use crate::error::{Error, InFile, Result};
use crate::format::Format;

/// Bytes of the longest header.
const LONGEST_HEADER: u64 = 100_000_000;

/// Element types that the format knows, with their bits.
const DTYPES: [(&str, u64); 22] = [
    ("BOOL", 8),
    ("F4", 4),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("U8", 8),
    ("I8", 8),
    ("F8_E5M2", 8),
    ("F8_E4M3", 8),
    ("F8_E8M0", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2FNUZ", 8),
    ("I16", 16),
    ("U16", 16),
    ("F16", 16),
    ("BF16", 16),
    ("I32", 32),
    ("U32", 32),
    ("F32", 32),
    ("F64", 64),
    ("I64", 64),
    ("U64", 64),
    ("C64", 64),
];

/// One safetensors file, mapped and parsed.
#[derive(Debug)]
pub struct File {
    map: Map,
    header: Header,
}

/// What the front of a safetensors file says.
#[derive(Debug)]
pub struct Header {
    tensors: Vec<Tensor>,
    lookup: Lookup,
}

/// An entry of the header. One that exists lies inside its file.
#[derive(Debug, Clone)]
pub struct Tensor {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl File {
    /// Maps and parses `path`.
    pub fn open(path: impl AsRef<Path>) -> Result<File> {
        let map = Map::open(path)?;
        let header = Header::parse(map.path(), map.bytes())?;
        Ok(File { map, header })
    }

    /// Tensors in the order of their data.
    pub fn tensors(&self) -> &[Tensor] {
        &self.header.tensors
    }

    /// The tensor called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.header.find(name)
    }

    /// The bytes of one of this file's tensors, of whatever type.
    ///
    /// # Panics
    /// If the tensor belongs to a longer file.
    pub fn data(&self, tensor: &Tensor) -> &[u8] {
        &self.map.bytes()[tensor.range.clone()]
    }

    /// The weights of one of this file's tensors, which must be F32, F16 or BF16.
    pub fn view<'a>(&'a self, tensor: &'a Tensor) -> Result<TensorView<'a>> {
        let format = tensor.format().ok_or_else(|| tensor.wrong_type()).in_file(self.map.path())?;
        let view = TensorView::new(&tensor.name, format, tensor.rows(), tensor.cols(), self.data(tensor));
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
        let error = |field: &str, at: Option<u64>, problem: String| Err(Error::file(path, field, at, problem));
        let Some((length, rest)) = bytes.split_first_chunk() else {
            return error(
                "header length",
                Some(0),
                format!("needs 8 bytes and the file has {}; it is cut off, so fetch it again", bytes.len()),
            );
        };
        let length = u64::from_le_bytes(*length);
        if length > LONGEST_HEADER {
            if let Some(refusal) = foreign::refusal(path, bytes) {
                return Err(refusal);
            }
            return error("header length", Some(0), format!("is {length}; at most {LONGEST_HEADER} is allowed"));
        }
        let Some((json, buffer)) = rest.split_at_checked(length as usize) else {
            return error(
                "header length",
                Some(0),
                format!("is {length} and the file has {} more bytes; it is cut off, so fetch it again", rest.len()),
            );
        };
        if json.first() != Some(&b'{') {
            return error("header", Some(8), "does not start with {, which was expected".into());
        }
        let entries = header::entries(json).map_err(|bad| json::error(path, 8, json, &bad))?;
        let tensors = place(path, entries, 8 + json.len(), buffer.len())?;
        match Lookup::new(tensors.len(), |i| &tensors[i].name) {
            Ok(lookup) => Ok(Header { tensors, lookup }),
            Err(twin) => {
                let field = format!("tensor {}", tensors[twin].name);
                error(&field, None, "is a name that occurs twice; once was expected".into())
            }
        }
    }

    /// Tensors in the order of their data.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        let place = self.lookup.find(name, |i| &self.tensors[i].name)?;
        Some(&self.tensors[place])
    }
}

impl Tensor {
    /// Name, as the file spells it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Element type, as the format spells it: `"BF16"`.
    pub fn dtype(&self) -> &'static str {
        self.dtype
    }

    /// Dimensions, the outermost first. A scalar has none.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Product of all dimensions but the last; a vector has one row.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// The last dimension.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Bytes of the file that hold the data.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The weight format, for the types that weights are read in.
    pub fn format(&self) -> Option<Format> {
        [Format::F32, Format::F16, Format::BF16].into_iter().find(|format| format.name() == self.dtype)
    }

    pub(super) fn wrong_type(&self) -> Error {
        Error::tensor(&self.name, format!("is stored as {}; F32, F16 or BF16 was expected", self.dtype))
    }
}

/// Checks entries against each other and the buffer, which starts at byte `start`; sorts them by data.
fn place(path: &Path, mut entries: Vec<header::Entry>, start: usize, buffer: usize) -> Result<Vec<Tensor>> {
    entries.sort_unstable_by(|a, b| (a.data_offsets, &a.name).cmp(&(b.data_offsets, &b.name)));
    let mut tensors = Vec::with_capacity(entries.len());
    let mut covered = 0;
    for entry in entries {
        let [begin, end] = entry.data_offsets;
        let field = || format!("data_offsets of tensor {}", entry.name);
        if begin != covered {
            let problem =
                format!("are [{begin}, {end}]; [{covered}, ..] was expected, where the tensors before it end");
            return Err(Error::file(path, field(), None, problem));
        }
        if end < begin || end > buffer as u64 {
            let problem =
                format!("are [{begin}, {end}] in a buffer of {buffer} bytes; it is cut off, so fetch the file again");
            return Err(Error::file(path, field(), None, problem));
        }
        let dtype = dtype(path, &entry)?;
        if bytes(dtype.1, &entry.shape) != Some(end - begin) {
            let problem = format!("are [{begin}, {end}]; the size of {} {:?} was expected", dtype.0, entry.shape);
            return Err(Error::file(path, field(), None, problem));
        }
        covered = end;
        let range = start + begin as usize..start + end as usize;
        tensors.push(Tensor { name: entry.name, dtype: dtype.0, shape: entry.shape, range });
    }
    match buffer as u64 - covered {
        0 => Ok(tensors),
        tail => {
            let problem = format!("{tail} bytes of the buffer belong to no tensor; none were expected");
            Err(Error::file(path, "end of data", start as u64 + covered, problem))
        }
    }
}

fn dtype(path: &Path, entry: &header::Entry) -> Result<(&'static str, u64)> {
    let known = DTYPES.into_iter().find(|&(name, _)| name == entry.dtype);
    known.ok_or_else(|| {
        let names = DTYPES.map(|(name, _)| name).join(", ");
        let problem = format!("is {:?}; one of {names} was expected", entry.dtype);
        Error::file(path, format!("dtype of tensor {}", entry.name), None, problem)
    })
}

/// Bytes of a tensor, or `None` if they are not whole, or overflow (zeros aside, so that no product of dims ever does).
fn bytes(bits: u64, shape: &[usize]) -> Option<u64> {
    let bits = shape.iter().try_fold(bits, |product, &dim| product.checked_mul(dim.max(1) as u64))?;
    let bits = if shape.contains(&0) { 0 } else { bits };
    bits.is_multiple_of(8).then_some(bits / 8)
}
