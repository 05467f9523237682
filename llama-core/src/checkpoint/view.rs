//! A borrowed matrix of a checkpoint. A view that exists is in bounds: it is parsed, not validated later.

use std::ops::Range;
use std::path::Path;

use super::checksum::checksum;
use super::map::Map;
use crate::error::{Error, InFile, Result};
use crate::format::Format;

/// [`TensorView::fingerprint`] looks at so many places of a tensor: at its beginning, its end, and evenly between them.
const PLACES: usize = 8;
/// And at so many bytes of each.
const SAMPLE: usize = 256;

/// `[rows, cols]` encoded weights, borrowed from a file's map: row-major, each row whole blocks of `format`.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    name: &'a str,
    format: Format,
    rows: usize,
    cols: usize,
    data: &'a [u8],
    map: Option<&'a Map>,
    /// Of the file, even where `data` is a copy of its bytes.
    path: Option<&'a Path>,
}

impl<'a> TensorView<'a> {
    /// A view of `data`, whose length must be exactly `rows` rows of `cols` weights. A vector has one row.
    pub fn new(name: &'a str, format: Format, rows: usize, cols: usize, data: &'a [u8]) -> Result<Self> {
        let row = format.row_bytes(cols).ok_or_else(|| {
            Error::tensor(
                name,
                format!("{cols} columns are not whole blocks of {} ({} weights)", format.name(), format.block_len()),
            )
        })?;
        match row.checked_mul(rows) {
            Some(bytes) if bytes == data.len() && bytes > 0 => {
                Ok(TensorView { name, format, rows, cols, data, map: None, path: None })
            }
            _ => Err(Error::tensor(
                name,
                format!("[{rows}, {cols}] {} does not fit {} bytes", format.name(), data.len()),
            )),
        }
    }

    /// The same, of bytes that lie in `map`.
    pub(super) fn within(self, map: &'a Map) -> Self {
        TensorView { map: Some(map), path: Some(map.path()), ..self }
    }

    /// Name as the file spells it.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// An error about this tensor, which names its file, where it is in one.
    pub fn error(&self, problem: impl Into<String>) -> Error {
        let error = Error::tensor(self.name, problem);
        match self.path {
            Some(path) => error.in_file(path),
            None => error,
        }
    }

    /// How the numbers are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Rows: outputs of a linear, tokens of an embedding, 1 for a vector.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All bytes.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Encoded bytes of row `r`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, r: usize) -> &'a [u8] {
        let bytes = self.data.len() / self.rows;
        &self.data[r * bytes..(r + 1) * bytes]
    }

    /// The rows `range` as a view.
    ///
    /// # Panics
    /// If the range is empty or out of bounds.
    pub fn slice_rows(&self, range: Range<usize>) -> TensorView<'a> {
        assert!(!range.is_empty() && range.end <= self.rows, "rows {range:?} of {}", self.rows);
        let bytes = self.data.len() / self.rows;
        TensorView { rows: range.len(), data: &self.data[range.start * bytes..range.end * bytes], ..*self }
    }

    /// The numbers `range` of a view of one row.
    ///
    /// # Errors
    /// [`Error::Tensor`] if they do not begin and end where blocks of the format do.
    ///
    /// # Panics
    /// If this has more rows, or the range is empty or out of bounds.
    pub fn slice_vector(&self, range: Range<usize>) -> Result<TensorView<'a>> {
        assert!(
            self.rows == 1 && !range.is_empty() && range.end <= self.cols,
            "{range:?} of [{}, {}]",
            self.rows,
            self.cols
        );
        match (self.format.row_bytes(range.start), self.format.row_bytes(range.end)) {
            (Some(from), Some(to)) => Ok(TensorView { cols: range.len(), data: &self.data[from..to], ..*self }),
            _ => Err(self.error(format!("cannot be divided at {range:?}: {} has blocks", self.format.name()))),
        }
    }

    /// The rows `range`, read into `buffer` where they are a file's: this process then holds no page of the file, however
    /// large the pages are that its system maps. Bytes of elsewhere are not copied.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::File`] if it has become shorter.
    ///
    /// # Panics
    /// If the range is empty or out of bounds.
    pub fn read_rows<'b>(&self, range: Range<usize>, buffer: &'b mut Vec<u8>) -> Result<TensorView<'b>>
    where
        'a: 'b,
    {
        let rows = self.slice_rows(range);
        let Some(map) = self.map else { return Ok(rows) };
        buffer.resize(rows.data.len(), 0);
        map.read(rows.data, buffer)?;
        Ok(TensorView { data: buffer, map: None, ..rows })
    }

    /// Says that these bytes are not needed for now: where they are a file's, they leave this process's memory until
    /// they are looked at again ([`Map::release`]).
    pub fn release(&self) {
        if let Some(map) = self.map {
            map.release(self.data);
        }
    }

    /// A number that another tensor hardly has: a checksum of name, format, shape and 2 KiB of the bytes, which is all of them where
    /// there are no more, and else 256 at the beginning, at the end, and at six places evenly between. So it tells versions of a
    /// model that were trained further, and not those that differ in a few rows between these places.
    pub fn fingerprint(&self) -> u64 {
        let text = format!("{} {} {} {}", self.name, self.format.name(), self.rows, self.cols);
        let mut room = [0; PLACES * SAMPLE];
        samples(self.data).fold(checksum(0, text.as_bytes()), |sum, part| {
            let sample = &mut room[..part.len()];
            self.sample(part, sample);
            checksum(sum, sample)
        })
    }

    /// Reads `part` of the bytes, of a file's without a look at the map: a system may bring two megabytes into memory at each. What
    /// cannot be read is zeros; who loads these weights will hear of it.
    fn sample(&self, part: &[u8], out: &mut [u8]) {
        match self.map {
            Some(map) if map.read(part, out).is_err() => out.fill(0),
            Some(_) => {}
            None => out.copy_from_slice(part),
        }
    }

    /// Row `r` decoded into `out`, which has `cols` places.
    pub fn decode_row(&self, r: usize, out: &mut [f32]) {
        self.format.decode(self.row(r), out);
    }

    /// Everything decoded, row by row.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        self.format.decode(self.data, &mut out);
        out
    }
}

/// What a fingerprint looks at of a tensor's bytes.
fn samples(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (places, size) = if data.len() > PLACES * SAMPLE { (PLACES, SAMPLE) } else { (1, data.len()) };
    let apart = (data.len() - size) / (PLACES - 1);
    let from = move |i| if i + 1 == PLACES { data.len() - size } else { i * apart };
    (0..places).map(move |i| &data[from(i)..][..size])
}
