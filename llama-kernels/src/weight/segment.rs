//! One part of a weight: its panels, its biases, and how a row comes back from them.

use std::ops::Range;
use std::sync::Arc;

use llama_core::Result;
use llama_core::backend::Part;
use llama_core::checkpoint::TensorView;
use llama_core::numerics::GROUP;

use super::pack::Pack;
use super::store::{Panels, Store};
use super::{coded, fill, panels_of, plain, unpack};
use crate::buffer::Pages;
use crate::threads::Threads;

/// The panels of one part.
pub struct Segment {
    pack: Pack,
    /// Of the weight, which are rows `0 ..` of the part.
    pub(super) rows: Range<usize>,
    cols: usize,
    panel_bytes: usize,
    data: Panels,
    /// Of a coded form: those of its panels that are [plain](coded::plain).
    plain: Panels,
    /// `[rows]`, or nothing.
    bias: Vec<f32>,
}

impl Segment {
    /// The panels of `part`, whose rows are those of the weight from `first` on.
    pub(super) fn new(
        store: &mut Store,
        part: &Part<'_>,
        pack: Pack,
        first: usize,
        threads: &Threads,
    ) -> Result<Segment> {
        let view = &part.weight;
        let panel_bytes = pack.panel_bytes(view.cols());
        let [data, plain] = match store.find(view, pack) {
            Some(mapped) => mapped.map(Panels::Mapped),
            None => packed(store, view, pack, threads)?.map(Panels::Pages),
        };
        let rows = first..first + view.rows();
        Ok(Segment { pack, rows, cols: view.cols(), panel_bytes, data, plain, bias: bias(part)? })
    }

    /// The panels of the floats of `view` at `place` of `memory`, where they have been packed; the rows are those of the weight from
    /// `first` on.
    pub(super) fn within(memory: &Arc<Pages>, place: Range<usize>, view: &TensorView<'_>, first: usize) -> Segment {
        let (pack, cols, rows) = (Pack::F32, view.cols(), first..first + view.rows());
        let data = Panels::Part(Arc::clone(memory), place);
        let plain = Panels::Part(Arc::clone(memory), 0..0);
        Segment { pack, rows, cols, panel_bytes: pack.panel_bytes(cols), data, plain, bias: Vec::new() }
    }

    /// How the panels are packed.
    pub fn pack(&self) -> Pack {
        self.pack
    }

    /// The first row of the weight that it holds.
    pub fn first_row(&self) -> usize {
        self.rows.start
    }

    /// Number of panels.
    pub fn panels(&self) -> usize {
        self.data().len() / self.panel_bytes
    }

    /// Rows of the weight that it holds.
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of one panel.
    pub fn panel_bytes(&self) -> usize {
        self.panel_bytes
    }

    /// All panels, but for what plain ones hold.
    pub fn data(&self) -> &[u8] {
        self.data.data()
    }

    /// Panel `p` and its form.
    pub fn panel(&self, p: usize) -> (Pack, &[u8]) {
        let panel = &self.data()[p * self.panel_bytes..][..self.panel_bytes];
        self.plain_of(panel).map_or((self.pack, panel), |plain| (Pack::BF16, plain))
    }

    /// What stands for a panel of a coded form that is only marked.
    fn plain_of(&self, panel: &[u8]) -> Option<&[u8]> {
        let place = if self.pack == Pack::CodedBF16 { coded::plain(panel)? } else { return None };
        let bytes = Pack::BF16.panel_bytes(self.cols);
        self.plain.data().chunks_exact(bytes).nth(place)
    }

    /// Where `rows` of the weight, which are some of this segment's, are for `token` if `tokens` lie segment after segment.
    pub fn place(&self, tokens: usize, token: usize, rows: &Range<usize>) -> Range<usize> {
        let first = tokens * self.rows.start + token * self.rows.len();
        first + rows.start - self.rows.start..first + rows.end - self.rows.start
    }

    /// Rows of the weight that panel `p` holds.
    pub fn panel_rows(&self, p: usize) -> Range<usize> {
        let first = self.rows.start + p * self.pack.rows();
        first..self.rows.end.min(first + self.pack.rows())
    }

    /// Biases of panel `p`: as many as it has rows, or none.
    pub fn panel_bias(&self, p: usize) -> &[f32] {
        let rows = self.panel_rows(p);
        self.bias.get(rows.start - self.rows.start..rows.end - self.rows.start).unwrap_or_default()
    }

    /// Row `r` of the segment.
    pub(super) fn decode_row(&self, r: usize, out: &mut [f32]) {
        let (pack, panel) = self.panel(r / self.pack.rows());
        let lane = r % self.pack.rows();
        match pack {
            Pack::F32 => decode_floats::<4>(panel, lane, out, f32::from_le_bytes),
            Pack::F16 => decode_floats::<2>(panel, lane, out, |b| half::f16::from_le_bytes(b).to_f32()),
            Pack::BF16 => decode_floats::<2>(panel, lane, out, |b| half::bf16::from_le_bytes(b).to_f32()),
            Pack::CodedBF16 => {
                let panel = coded::Panel::of(panel, out.len());
                out.iter_mut().zip(panel.row(lane)).for_each(|(out, b)| *out = half::bf16::from_le_bytes(b).to_f32());
            }
            pack => {
                let blocks = panel.chunks_exact(pack.block_bytes()).zip(out.chunks_exact_mut(pack.block_len()));
                for (raw, out) in blocks {
                    for (i, out) in out.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
                        decode_group(pack, &unpack::unpack(pack, raw, i), lane, out);
                    }
                }
            }
        }
    }
}

/// The panels of `view`, and its plain ones.
fn packed(store: &mut Store, view: &TensorView<'_>, pack: Pack, threads: &Threads) -> Result<[Pages; 2]> {
    let (mut data, mut plain) = (store.take(panels_of(view, pack) * pack.panel_bytes(view.cols()))?, Vec::new());
    fill(&mut data, view, pack, 0, threads)?;
    plain::number(&mut data, pack, view.cols(), 0, &mut plain);
    let mut pages = store.take_plain(view, pack, plain.len())?;
    plain::fill(&mut pages, view, &plain)?;
    Ok([data, pages])
}

fn decode_floats<const N: usize>(panel: &[u8], lane: usize, out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    let encoded = panel.as_chunks::<N>().0.iter().skip(lane).step_by(Pack::F32.rows());
    out.iter_mut().zip(encoded).for_each(|(out, &bytes)| *out = decode(bytes));
}

/// `scale * code` is exact in f32 for every format; adding the minimum rounds once.
fn decode_group(pack: Pack, group: &unpack::Unpacked, lane: usize, out: &mut [f32; GROUP]) {
    for (k, out) in out.iter_mut().enumerate() {
        let sub = k * pack.subs() / GROUP;
        let code = f32::from(group.codes[k / 4][4 * lane + k % 4]) - f32::from(pack.zero_point());
        *out = group.scale[sub][lane] * code;
        if pack.has_min() {
            *out += group.min[sub][lane];
        }
    }
}

fn bias(part: &Part<'_>) -> Result<Vec<f32>> {
    let Some(view) = &part.bias else { return Ok(Vec::new()) };
    if (view.rows(), view.cols()) != (1, part.weight.rows()) {
        let problem = format!(
            "a bias of [{}, {}] does not fit the {} rows of {}",
            view.rows(),
            view.cols(),
            part.weight.rows(),
            part.weight.name()
        );
        return Err(view.error(problem));
    }
    let bias = view.to_f32();
    match bias.iter().position(|b| !b.is_finite()) {
        Some(i) => Err(view.error(format!("bias {i} is not finite"))),
        None => Ok(bias),
    }
}
