//! Prepared weights: the parts of one linear as segments of tiles, one below the other in the output.

use std::sync::Arc;

use llama_core::Result;
use llama_core::backend::Part;
use llama_core::format::Format;

use crate::device::Span;
use crate::tiles::{TILE_ROWS, Tiles};

/// `[rows, cols]`
pub struct Weight {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) segments: Arc<[Segment]>,
}

/// Rows of one form.
#[derive(Debug)]
pub(crate) struct Segment {
    pub form: Tiles,
    /// First row in the weight.
    pub first: usize,
    pub rows: usize,
    pub tiles: Span,
    /// `[rows]` f32.
    pub bias: Option<Span>,
}

/// Consecutive parts that make one segment: the same form, all but the last of whole tiles.
pub(crate) fn runs(parts: &[(Format, usize, usize)]) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let (first, ..) = *parts.get(start)?;
        let joins = |i: usize| {
            let whole = parts[i - 1].1.is_multiple_of(TILE_ROWS);
            whole && Tiles::of(parts[i].0) == Tiles::of(first)
        };
        let end = (start + 1..parts.len()).find(|&i| !joins(i)).unwrap_or(parts.len());
        let run = start..end;
        start = end;
        Some(run)
    })
}

/// Rows and bytes of the segment that parts make.
pub(crate) fn extent(parts: &[(Format, usize, usize)]) -> (Tiles, usize, u64) {
    let (format, _, cols) = parts[0];
    let rows = parts.iter().map(|part| part.1).sum();
    let form = Tiles::of(format);
    (form, rows, form.matrix_bytes(rows, cols))
}

/// Checks what the contract promises of parts.
pub(crate) fn check(parts: &[Part<'_>]) -> Result<()> {
    let cols = parts.first().map_or(0, |part| part.weight.cols());
    for Part { weight, bias } in parts {
        if weight.cols() != cols {
            return Err(weight.error(format!("{} columns are stacked on {cols}", weight.cols())));
        }
        if let Some(bias) = bias.filter(|bias| (bias.rows(), bias.cols()) != (1, weight.rows())) {
            let (rows, cols) = (bias.rows(), bias.cols());
            let problem =
                format!("a bias of [{rows}, {cols}] does not fit the {} rows of {}", weight.rows(), weight.name());
            return Err(bias.error(problem));
        }
    }
    Ok(())
}

/// Biases of a segment, zero where a part has none; nothing where no part has one.
pub(crate) fn biases(parts: &[Part<'_>]) -> Option<Vec<f32>> {
    parts.iter().any(|part| part.bias.is_some()).then(|| {
        let bias = |part: &Part<'_>| part.bias.map_or_else(|| vec![0.0; part.weight.rows()], |bias| bias.to_f32());
        parts.iter().flat_map(bias).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_one_form_and_whole_tiles_make_one_segment() {
        use Format::{Q4_0, Q4_K, Q5_0, Q5_1, Q6_K};
        let of = |parts: &[(Format, usize)]| -> Vec<(usize, usize)> {
            let parts: Vec<_> = parts.iter().map(|&(format, rows)| (format, rows, 256)).collect();
            runs(&parts).map(|run| (run.start, run.end)).collect()
        };
        assert_eq!(of(&[(Q4_0, 32), (Q4_0, 16), (Q4_0, 5)]), [(0, 3)]);
        assert_eq!(of(&[(Q4_0, 33), (Q4_0, 16), (Q4_0, 5)]), [(0, 1), (1, 3)]);
        assert_eq!(of(&[(Q4_K, 32), (Q4_K, 16), (Q6_K, 16)]), [(0, 2), (2, 3)]);
        assert_eq!(of(&[(Q5_0, 16), (Q5_1, 16)]), [(0, 2)], "two formats of one form");
        assert_eq!(of(&[]), []);
    }
}
