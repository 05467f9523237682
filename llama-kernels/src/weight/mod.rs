//! Prepared weights: the matrices of one linear, stacked and repacked into panels.
//!
//! Each part is a segment of whole panels, so that one fused weight may mix formats. The last panel of a segment is
//! padded with zero rows. [`pack`] says what a panel is.

mod adapter;
pub mod cache;
pub mod coded;
pub mod pack;
mod plain;
mod repack;
mod segment;
mod store;
pub mod unpack;

use std::sync::Mutex;

use llama_core::backend::Part;
use llama_core::checkpoint::TensorView;
use llama_core::format::Format;
use llama_core::{Error, Result};

use crate::threads::Threads;
pub use adapter::Adapter;
use pack::{Forms, Pack};
pub use segment::Segment;
pub use store::Store;

/// Bytes of panels, at most, that a thread prepares in one go: two huge pages' worth, so that threads seldom want the
/// same page at once.
const STRETCH: usize = 4 << 20;

/// Bytes of panels, at most, whose rows a thread reads at once: what stays in a core's cache until it is packed, and little
/// beside the smallest model.
const READ: usize = 256 << 10;

/// `[rows, cols]` weights, ready for [`crate::ops::linear::linear`].
pub struct Weight {
    rows: usize,
    cols: usize,
    segments: Vec<Segment>,
}

impl Weight {
    /// Stacks the rows of `parts`, which have equal columns, and repacks them on all threads.
    ///
    /// An error names the tensor whose columns differ, whose bias does not fit, or which holds a weight or a scale that
    /// is not finite.
    pub fn new(parts: &[Part<'_>], forms: impl Into<Forms>, threads: &Threads) -> Result<Weight> {
        Weight::within(&mut Store::default(), parts, forms, threads)
    }

    /// As [`Weight::new`], in memory of `store`, or without repacking what is in its cache.
    pub fn within(store: &mut Store, parts: &[Part<'_>], forms: impl Into<Forms>, threads: &Threads) -> Result<Weight> {
        let forms = forms.into();
        let cols = parts.first().map_or(0, |part| part.weight.cols());
        let mut weight = Weight::empty(0, cols, parts.len());
        for part in parts {
            if part.weight.cols() != cols {
                let problem = format!("{} columns are stacked on {cols}", part.weight.cols());
                return Err(part.weight.error(problem));
            }
            let pack = forms.pack(part.weight.format());
            weight.push(Segment::new(store, part, pack, weight.rows, threads)?);
        }
        Ok(weight)
    }

    /// One of so many rows, all of which are still to come, in so many segments.
    fn empty(rows: usize, cols: usize, segments: usize) -> Weight {
        Weight { rows, cols, segments: Vec::with_capacity(segments) }
    }

    /// Stacks a segment on what there is.
    fn push(&mut self, segment: Segment) {
        self.rows += segment.row_count();
        self.segments.push(segment);
    }

    /// One matrix in a form of the caller's choice.
    pub fn of_pack(view: &TensorView<'_>, pack: Pack, threads: &Threads) -> Result<Weight> {
        let part = Part { weight: *view, bias: None };
        let segment = Segment::new(&mut Store::default(), &part, pack, 0, threads)?;
        Ok(Weight { rows: view.rows(), cols: view.cols(), segments: vec![segment] })
    }

    /// Bytes that the panels of `(format, rows, cols)` parts hold, at most; a bias adds four for each of its rows.
    pub fn bytes(parts: &[(Format, usize, usize)], forms: impl Into<Forms>) -> u64 {
        let forms = forms.into();
        let part = |&(format, rows, cols): &(Format, usize, usize)| {
            let pack = forms.pack(format);
            let bytes = rows.div_ceil(pack.rows()) as u64 * pack.panel_bytes(cols) as u64;
            bytes + pack.spare(bytes)
        };
        parts.iter().map(part).sum()
    }

    /// Rows: outputs of the linear.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: inputs of the linear.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The parts, in order of their rows.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Decodes row `r`, bias aside, to the same bits as the format's own decoder. `out [cols]`.
    ///
    /// # Panics
    /// If there is no such row or `out` has another length.
    pub fn decode_row(&self, r: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "columns of row {r}");
        let segment = self.segments.iter().find(|segment| segment.rows.contains(&r));
        let segment = segment.unwrap_or_else(|| panic!("row {r} of {}", self.rows));
        segment.decode_row(r - segment.rows.start, out);
    }
}

/// Panels of a tensor in a packed form.
fn panels_of(view: &TensorView<'_>, pack: Pack) -> usize {
    view.rows().div_ceil(pack.rows())
}

/// Repacks panels of `view` on all threads, from panel `first` on, as many as fit `out`, which holds zeros.
fn fill(out: &mut [u8], view: &TensorView<'_>, pack: Pack, first: usize, threads: &Threads) -> Result<()> {
    let panel_bytes = pack.panel_bytes(view.cols());
    let panels = out.len() / panel_bytes;
    let stretch = (STRETCH / panel_bytes).clamp(1, panels.div_ceil(4 * threads.count()).max(1));
    let failed = Mutex::new(None);
    threads.for_chunks(out, stretch * panel_bytes, |s, out| {
        let row = (first + s * stretch) * pack.rows();
        if let Err(error) = fill_stretch(out, view, pack, row) {
            note(&failed, row, error);
        }
    });
    match failed.into_inner().unwrap_or_default() {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// Repacks the panels of `view` that begin with row `first`, as many as fit `out`.
fn fill_stretch(out: &mut [u8], view: &TensorView<'_>, pack: Pack, first: usize) -> Result<()> {
    let panel_bytes = pack.panel_bytes(view.cols());
    let group = (READ / panel_bytes).max(1);
    let mut buffer = Vec::new();
    for (g, out) in out.chunks_mut(group * panel_bytes).enumerate() {
        let start = first + g * group * pack.rows();
        let end = view.rows().min(start + group * pack.rows());
        let rows = view.read_rows(start..end, &mut buffer)?;
        for (p, out) in out.chunks_exact_mut(panel_bytes).enumerate() {
            repack::panel(pack, &rows, p * pack.rows(), out)
                .map_err(|row| view.error(format!("row {} holds a weight or scale that is not finite", start + row)))?;
        }
    }
    Ok(())
}

/// Keeps the error of the lowest rows, so that it does not depend on which thread was first.
fn note(failed: &Mutex<Option<(usize, Error)>>, row: usize, error: Error) {
    let mut failed = failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if failed.as_ref().is_none_or(|(other, _)| row < *other) {
        *failed = Some((row, error));
    }
}
