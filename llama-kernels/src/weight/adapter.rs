//! What an adapter adds to a weight: thin matrices, packed as those of floats are.
//!
//! Its memory is taken once, for the largest that may come, and one adapter after another is packed into it.

use std::ops::Range;
use std::sync::Arc;

use llama_core::Result;
use llama_core::backend::{LowRank, Numerics};
use llama_core::checkpoint::TensorView;
use llama_core::format::Format;

use super::pack::Pack;
use super::{Segment, Store, Weight, fill, panels_of};
use crate::buffer::Pages;
use crate::threads::Threads;

/// How floats are packed.
const PACK: Pack = Pack::F32;

/// Products `b a x` that are added to runs of a weight's rows.
pub struct Adapter {
    /// Of the weight.
    rows: usize,
    cols: usize,
    /// All panels, which segments have parts of.
    memory: Arc<Pages>,
    /// All `a`, a segment each.
    down: Weight,
    /// The `b` of each segment, at their rows of the weight.
    up: Vec<Weight>,
}

impl Adapter {
    /// Memory of `store` for `parts` of at most these `(rows, rank)`, which are added to a weight of `[rows, cols]`.
    pub fn new(store: &mut Store, [rows, cols]: [usize; 2], parts: &[(usize, usize)]) -> Result<Adapter> {
        let memory = store.take(Adapter::bytes(cols, parts) as usize)?;
        Ok(Adapter { rows, cols, memory: Arc::new(memory), down: Weight::empty(0, cols, 0), up: Vec::new() })
    }

    /// Packs `parts` over what was there.
    ///
    /// # Errors
    /// What reading them comes to. Nothing is added then.
    ///
    /// # Panics
    /// If they are larger than what there is memory for.
    pub fn set(&mut self, parts: &[LowRank<'_>], threads: &Threads) -> Result<()> {
        (self.down, self.up) = (Weight::empty(0, self.cols, parts.len()), Vec::new());
        let views = parts.iter().map(|part| part.a).chain(parts.iter().map(|part| part.b));
        let places = self.pack(&views.collect::<Vec<_>>(), threads)?;
        let mut ranks = 0;
        for (part, place) in parts.iter().zip(&places) {
            let segment = Segment::within(&self.memory, place.clone(), &part.a, ranks);
            ranks += part.a.rows();
            self.down.push(segment);
        }
        self.up = parts.iter().zip(&places[parts.len()..]).map(|(part, place)| self.run(part, place)).collect();
        Ok(())
    }

    /// Packs `views` one after the other. Returns where each is.
    fn pack(&mut self, views: &[TensorView<'_>], threads: &Threads) -> Result<Vec<Range<usize>>> {
        let memory = Arc::get_mut(&mut self.memory).expect("the segments that had parts of it are gone");
        let (mut places, mut end) = (Vec::with_capacity(views.len()), 0);
        for view in views {
            let start = end;
            end += panels_of(view, PACK) * PACK.panel_bytes(view.cols());
            // What pads the last panel is zero.
            memory[start..end].fill(0);
            fill(&mut memory[start..end], view, PACK, 0, threads)?;
            places.push(start..end);
        }
        Ok(places)
    }

    /// The `b` of `part` as rows of the weight, of which it holds no others.
    fn run(&self, part: &LowRank<'_>, place: &Range<usize>) -> Weight {
        let mut up = Weight::empty(self.rows, part.b.cols(), 1);
        up.segments.push(Segment::within(&self.memory, place.clone(), &part.b, part.first_row));
        up
    }

    /// Bytes of one of parts of at most these `(rows, rank)` that adds to a weight of `cols` columns.
    pub fn bytes(cols: usize, parts: &[(usize, usize)]) -> u64 {
        let floats = |&(rows, rank)| [(Format::F32, rank, cols), (Format::F32, rows, rank)];
        let matrices: Vec<_> = parts.iter().flat_map(floats).collect();
        Weight::bytes(&matrices, Numerics::default())
    }

    /// Whether it adds anything.
    pub fn adds(&self) -> bool {
        !self.up.is_empty()
    }

    /// `[ranks, in]`, each part's ranks after those of the parts before.
    pub fn down(&self) -> &Weight {
        &self.down
    }

    /// `[out, rank]` of each part, with the rows that it adds to alone.
    pub fn up(&self) -> &[Weight] {
        &self.up
    }

    /// The `b` of the part that begins with the weight's row `first`, and how many ranks come before its own.
    pub fn part(&self, first: usize) -> Option<(usize, &Weight)> {
        let before = |ranks: &mut usize, up: &Weight| Some(std::mem::replace(ranks, *ranks + up.cols()));
        let ranks = self.up.iter().scan(0, before);
        ranks.zip(&self.up).find(|(_, up)| up.segments()[0].first_row() == first)
    }
}
