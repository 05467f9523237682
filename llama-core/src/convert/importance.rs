//! Importance matrices: how much the error of each column of a matrix matters, by the mean square of what a text sent into it.
//!
//! llama.cpp's `llama-imatrix` measures them, and so does [`super::Measure`]. Its files are a GGUF of `general.type` `imatrix`, with two tensors for a matrix,
//!
//! ```text
//! blk.0.attn_q.weight.in_sum2  [columns]   sums of squares          blk.0.attn_q.weight.counts  [1]   of so many tokens
//! ```
//! or, until summer 2025, `.dat`: a count of entries, and for each a name behind its length, the number of calls, and numbers
//! behind theirs; all integers of 32 bits, little-endian. What follows the entries, the name of the text, is not looked at.
//! Source: `tools/imatrix/imatrix.cpp`. A matrix's columns are weighed with one another and with nothing else, so sums do as
//! well as means.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::checkpoint::gguf::{File, Reader};
use crate::checkpoint::map::Map;
use crate::error::{Error, InFile, Result};

/// The end of a GGUF's names of sums.
pub(super) const SUMS: &str = ".in_sum2";
/// The end of its names of counts.
pub(super) const COUNTS: &str = ".counts";
/// No name is longer.
const LONGEST_NAME: usize = 1 << 10;

/// How much each column of the matrices of a model counts.
#[derive(Debug)]
pub struct Importance {
    pub(super) path: PathBuf,
    /// By a matrix's name in a GGUF.
    pub(super) columns: HashMap<String, Vec<f32>>,
}

impl Importance {
    /// Reads a file of `llama-imatrix`, of either kind.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::File`], [`Error::Tensor`] and [`Error::Unsupported`], which name it, if it is
    /// none, is damaged, or has a number that is negative or not finite.
    pub fn open(path: impl AsRef<Path>) -> Result<Importance> {
        let path = path.as_ref();
        let map = Map::open(path)?;
        let columns = match map.bytes().starts_with(b"GGUF") {
            true => of_gguf(path)?,
            false => of_dat(path, map.bytes())?,
        };
        match columns.is_empty() {
            true => Err(Error::file(path, "entries", None, "are none; one for each matrix was expected")),
            false => Ok(Importance { path: path.to_owned(), columns }),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error about what it says of `what`.
    pub(super) fn error(&self, what: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::file(&self.path, what, None, problem)
    }

    /// `[columns]` of the matrix that a GGUF calls `name`, if the file has them: none is negative, and all are finite.
    pub fn columns(&self, name: &str) -> Option<&[f32]> {
        self.columns.get(name).map(Vec::as_slice)
    }
}

fn of_gguf(path: &Path) -> Result<HashMap<String, Vec<f32>>> {
    let file = File::open(path)?;
    match file.metadata().string("general.type")? {
        Some("imatrix") => {}
        other => {
            let what = format!("a GGUF of general.type {other:?} as an importance matrix");
            return Err(Error::unsupported(what, "one of type \"imatrix\" was expected")).in_file(path);
        }
    }
    let mut columns = HashMap::new();
    for tensor in file.tensors() {
        let Some(name) = tensor.name().strip_suffix(SUMS) else {
            if tensor.name().ends_with(COUNTS) {
                continue;
            }
            return Err(Error::tensor(tensor.name(), "is neither in_sum2 nor counts, which were expected"))
                .in_file(path);
        };
        let view = file.view(tensor)?;
        if view.rows() != 1 {
            return Err(
                view.error(format!("is of {} matrices; one was expected, as a Llama has no experts", view.rows()))
            );
        }
        let numbers = view.to_f32();
        checked(&numbers).map_err(|problem| view.error(problem))?;
        columns.insert(name.to_owned(), numbers);
    }
    Ok(columns)
}

fn of_dat(path: &Path, bytes: &[u8]) -> Result<HashMap<String, Vec<f32>>> {
    let reader = &mut Reader::new(path, bytes);
    let count = reader.u32(&"number of entries")?;
    let mut columns = HashMap::new();
    for _ in 0..count {
        let at = reader.at();
        let length = reader.u32(&"length of a name")?;
        if length as usize > LONGEST_NAME {
            let problem = format!("is {length}, and at most {LONGEST_NAME} was expected; this is no importance matrix");
            return Err(reader.error(&"length of a name", at, problem));
        }
        let name = reader.take(length.into(), 1, &"name", at)?;
        let name = str::from_utf8(name).map_err(|_| reader.error(&"name", at, "is not UTF-8, which was expected"))?;
        reader.u32(&format_args!("{name}: calls"))?;
        let at = reader.at();
        let length = reader.u32(&format_args!("{name}: length"))?;
        let numbers = reader.take(length.into(), 4, &format_args!("{name}: numbers"), at)?;
        let numbers: Vec<f32> = numbers.as_chunks().0.iter().map(|&number| f32::from_le_bytes(number)).collect();
        checked(&numbers).map_err(|problem| reader.error(&name, at, problem))?;
        if columns.insert(name.to_owned(), numbers).is_some() {
            return Err(reader.error(&name, at, "occurs twice; once was expected"));
        }
    }
    Ok(columns)
}

/// What is wrong with numbers that cannot count errors.
fn checked(numbers: &[f32]) -> Result<(), String> {
    match numbers.iter().position(|number| !(*number >= 0.0 && number.is_finite())) {
        None => Ok(()),
        Some(i) => Err(format!("is {} in column {i}; a finite number that is not negative was expected", numbers[i])),
    }
}
