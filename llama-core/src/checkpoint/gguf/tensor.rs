//! The tensor table: names, shapes, formats and where the data lies.

use std::ops::Range;
use std::path::Path;

use super::reader::Reader;
use crate::error::{Error, Result};
use crate::format::Format;

/// Bytes of the longest tensor name (gguf.md).
const LONGEST_NAME: usize = 64;
/// Dimensions of the deepest tensor (`GGML_MAX_DIMS`).
const MOST_DIMS: u32 = 4;

/// An entry of the tensor table. One that exists lies inside its file.
#[derive(Debug, Clone)]
pub struct Tensor {
    name: String,
    format: Format,
    rows: usize,
    cols: usize,
    start: usize,
    bytes: usize,
    at: usize,
}

impl Tensor {
    /// Bytes of the smallest entry: name, dims, one dim, format, offset.
    pub(super) const LEAST: usize = (8 + 1) + 4 + 8 + 4 + 8;

    /// Name, as the file spells it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the weights are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Product of all dimensions but the first; a vector has one row.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The first dimension: weights of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of the file that hold the weights.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.bytes
    }

    /// An error about this tensor, at its entry in the table.
    pub(super) fn error(&self, path: &Path, problem: impl Into<String>) -> Error {
        Error::file(path, format!("tensor {}", self.name), self.at as u64, problem)
    }

    /// Reads the table and places the data, which starts at the next multiple of `alignment`.
    pub(super) fn read_all(reader: &mut Reader<'_>, count: usize, alignment: usize) -> Result<Vec<Tensor>> {
        let mut tensors = Vec::with_capacity(count);
        let mut sum = 0usize;
        for i in 0..count {
            let tensor = Tensor::read(reader, i, sum)?;
            sum = tensor
                .bytes
                .checked_next_multiple_of(alignment)
                .and_then(|padded| sum.checked_add(padded))
                .ok_or_else(|| {
                    reader.error(
                        &format_args!("tensor {}", tensor.name),
                        tensor.at,
                        "ends past 2^64, where no file was expected to",
                    )
                })?;
            tensors.push(tensor);
        }
        place(reader, &mut tensors, alignment)?;
        Ok(tensors)
    }

    /// Reads entry `i`, whose data must start `expected` bytes into the data.
    fn read(reader: &mut Reader<'_>, i: usize, expected: usize) -> Result<Tensor> {
        let at = reader.at();
        let name = reader.string(LONGEST_NAME, &format_args!("name of tensor {i}"))?;
        if name.is_empty() {
            return Err(reader.error(&format_args!("name of tensor {i}"), at, "is empty; a name was expected"));
        }
        let (rows, cols) = shape(reader, name)?;
        let format = format(reader, name)?;
        let bytes = format.row_bytes(cols).and_then(|row| row.checked_mul(rows)).ok_or_else(|| {
            let problem = format!(
                "are [{cols}, {rows}]; rows of whole blocks of {} that fit into memory were expected",
                format.name()
            );
            reader.error(&format_args!("dimensions of tensor {name}"), at, problem)
        })?;
        let field = format_args!("offset of tensor {name}");
        let offset_at = reader.at();
        let offset = reader.u64(&field)?;
        if offset != expected as u64 {
            let problem = format!("is {offset}; {expected} was expected, where the tensors before it end, padded");
            return Err(reader.error(&field, offset_at, problem));
        }
        Ok(Tensor { name: name.to_owned(), format, rows, cols, start: expected, bytes, at })
    }
}

/// `(rows, cols)`: GGUF writes the innermost dimension, the columns, first.
fn shape(reader: &mut Reader<'_>, name: &str) -> Result<(usize, usize)> {
    let field = format_args!("dimensions of tensor {name}");
    let at = reader.at();
    let dims = reader.u32(&field)?;
    if !(1..=MOST_DIMS).contains(&dims) {
        return Err(reader.error(&field, at, format!("are {dims}; 1 to {MOST_DIMS} were expected")));
    }
    let mut shape = [1u64; MOST_DIMS as usize];
    for dim in &mut shape[..dims as usize] {
        *dim = reader.u64(&field)?;
    }
    let rows = shape[1..].iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    let whole = rows.and_then(|rows| rows.checked_mul(shape[0])).filter(|&weights| weights > 0);
    match (rows.map(usize::try_from), whole.map(usize::try_from)) {
        (Some(Ok(rows)), Some(Ok(weights))) => Ok((rows, weights / rows)),
        _ => {
            let problem = format!("are {:?}; 1 to 2^64 - 1 weights were expected", &shape[..dims as usize]);
            Err(reader.error(&field, at, problem))
        }
    }
}

fn format(reader: &mut Reader<'_>, name: &str) -> Result<Format> {
    let field = format_args!("type of tensor {name}");
    let at = reader.at();
    let number = reader.u32(&field)?;
    Format::from_ggml_type(number).ok_or_else(|| {
        let known: Vec<String> =
            Format::ALL.iter().map(|format| format!("{} ({})", format.name(), format.ggml_type())).collect();
        let problem = format!(
            "is {number}{}; a ggml type that is read here was expected, and these are: {}",
            other_name(number),
            known.join(", ")
        );
        reader.error(&field, at, problem)
    })
}

/// What ggml calls a type that is none of ours: integers, doubles, activations, and what it gave up (ggml.h).
fn other_name(number: u32) -> &'static str {
    match number {
        4 => " (Q4_2)",
        5 => " (Q4_3)",
        9 => " (Q8_1)",
        15 => " (Q8_K)",
        24 => " (I8)",
        25 => " (I16)",
        26 => " (I32)",
        27 => " (I64)",
        28 => " (F64)",
        31 => " (Q4_0_4_4)",
        32 => " (Q4_0_4_8)",
        33 => " (Q4_0_8_8)",
        36 => " (IQ4_NL_4_4)",
        37 => " (IQ4_NL_4_8)",
        38 => " (IQ4_NL_8_8)",
        40 => " (NVFP4)",
        41 => " (Q1_0)",
        _ => "",
    }
}

/// Turns offsets into the data into offsets into the file, and checks where the file ends.
fn place(reader: &Reader<'_>, tensors: &mut [Tensor], alignment: usize) -> Result<()> {
    let header = reader.at();
    let file = header + reader.remaining();
    let data = header.checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
    let mut end = header;
    for tensor in tensors {
        tensor.start = tensor.start.saturating_add(data);
        end = tensor.start.saturating_add(tensor.bytes);
        if end > file {
            let problem = format!(
                "its {} bytes end at byte {end} and the file at {file}; it is cut off, so fetch it again",
                tensor.bytes
            );
            return Err(reader.error(&format_args!("tensor {}", tensor.name), tensor.at, problem));
        }
    }
    match end.checked_next_multiple_of(alignment) {
        Some(padded) if file > padded => Err(reader.error(
            &"end of file",
            padded,
            format!("{} bytes follow the last tensor; none were expected", file - padded),
        )),
        _ => Ok(()),
    }
}
