//! Panels of a coded form that have no code: they are kept as the BF16 panels that they would have been.

use llama_core::checkpoint::TensorView;
use llama_core::{Error, Result};

use super::{coded, fill_stretch, pack::Pack};

/// Bytes that are left for plain panels.
#[derive(Default)]
pub struct Spare(u64);

impl Spare {
    /// Bytes of so many plain panels of `view`, after what the panels of `view` in form `pack` leave room for.
    ///
    /// # Errors
    /// [`Error::Tensor`] if there is no room left.
    pub fn take(&mut self, view: &TensorView<'_>, pack: Pack, plain: usize) -> Result<usize> {
        let coded = super::panels_of(view, pack) * pack.panel_bytes(view.cols());
        let bytes = plain * Pack::BF16.panel_bytes(view.cols());
        let left = (self.0 + pack.spare(coded as u64)).checked_sub(bytes as u64);
        self.0 = left.ok_or_else(|| too_many(view, plain))?;
        Ok(bytes)
    }
}

fn too_many(view: &TensorView<'_>, plain: usize) -> Error {
    let panels = view.rows().div_ceil(Pack::CodedBF16.rows());
    view.error(format!(
        "{plain} of {panels} times 32 rows have too many different exponents for twelve bits a weight; load without `compact`"
    ))
}

/// Adds the panels among `panels`, which are counted from `first` on, that are plain to `plain`; each is told its place there.
/// There are none in other forms.
pub fn number(panels: &mut [u8], pack: Pack, cols: usize, first: usize, plain: &mut Vec<usize>) {
    if pack != Pack::CodedBF16 {
        return;
    }
    for (p, panel) in panels.chunks_exact_mut(pack.panel_bytes(cols)).enumerate() {
        if coded::plain(panel).is_some() {
            coded::set_place(panel, plain.len() as u32);
            plain.push(first + p);
        }
    }
}

/// Packs these panels of `view` as BF16, one after the other.
pub fn fill(out: &mut [u8], view: &TensorView<'_>, plain: &[usize]) -> Result<()> {
    let panels = out.chunks_exact_mut(Pack::BF16.panel_bytes(view.cols()));
    panels.zip(plain).try_for_each(|(out, p)| fill_stretch(out, view, Pack::BF16, p * Pack::BF16.rows()))
}
