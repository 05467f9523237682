//! What no schedule may change: the batch around a sequence, the chunks of its prompt, the blocks that it is given. Bits are
//! compared with the same backend's own, so this is owed by every backend.

use llama_core::Error;
use llama_core::backend::{Backend, RopeLayout};

use super::attention::{Passage, shape};
use super::judge::same_values;
use super::{Size, Subject, Suite};

impl<S: Subject> Suite<S> {
    /// One go, token by token and ragged chunks give the same bits for every row.
    pub fn chunking_changes_nothing(&self) {
        let (rows, heads, chunks): (_, _, &[_]) = match self.size {
            Size::All => (275, (4, 2), &[1, 7, 64]),
            Size::Few => (80, (2, 1), &[1, 23, 64]),
        };
        for &kv in self.kv_formats() {
            let shape = shape(heads.0, heads.1, 32, 32, RopeLayout::Halves);
            let scene = Passage::new("chunks", shape, kv, &[(0, rows)], 300);
            for s in &self.subjects {
                let whole = in_chunks(&scene, s, rows);
                for &chunk in chunks {
                    let verdict = same_values("attention", &in_chunks(&scene, s, chunk), &whole);
                    assert_eq!(verdict, Ok(()), "chunks of {chunk}, {kv:?}, on {}", s.backend().name());
                }
            }
        }
    }

    /// A sequence that continues in copied blocks, or in blocks of another cache that were read and written, gives the bits of the
    /// original. What is no block is refused.
    pub fn copied_blocks_are_the_same(&self) {
        for &kv in self.kv_formats() {
            let mut scene = Passage::new("copies", shape(4, 2, 20, 20, RopeLayout::Halves), kv, &[(40, 3)], 400);
            scene.limits.blocks += 3;
            for s in &self.subjects {
                let (mut cache, mut plan) = scene.room(s);
                scene.step(s, &mut cache, &mut plan, scene.batch(|_| 0..40));
                let first = scene.limits.blocks as u32 - 3;
                let pairs: Vec<_> = scene.tables[0].iter().copied().zip(first..).collect();
                s.backend().copy_blocks(&mut cache, &pairs).expect("copy_blocks");
                let original = scene.step(s, &mut cache, &mut plan, scene.batch(|_| 40..43));
                let mut copy = scene.batch(|_| 40..43);
                copy.0.block_ids = pairs.iter().map(|pair| pair.1).collect();
                let copy = scene.step(s, &mut cache, &mut plan, copy);
                let (mut other, mut bytes) = (scene.room(s).0, Vec::new());
                for &block in &scene.tables[0] {
                    s.backend().read_block(&cache, block, &mut bytes).expect("read_block");
                    s.backend().write_block(&mut other, block, &bytes).expect("write_block");
                }
                for length in [0, 8, bytes.len() - 8, bytes.len() / 2] {
                    let refused = s.backend().write_block(&mut other, 0, &bytes[..length]);
                    assert!(matches!(refused, Err(Error::Parameter { .. })), "{length} of {} bytes", bytes.len());
                }
                let moved = scene.step(s, &mut other, &mut plan, scene.batch(|_| 40..43));
                for (what, got) in [("copied", &copy.1), ("moved", &moved.1)] {
                    let verdict = same_values("attention", got, &original.1);
                    assert_eq!(verdict, Ok(()), "{what} blocks, {kv:?}, on {}", s.backend().name());
                }
            }
        }
    }

    /// Prompts and decodes give the same bits alone and beside each other.
    pub fn sequences_do_not_see_each_other(&self) {
        let sequences = [(40, 1), (0, 21), (66, 3), (5, 1)];
        for &kv in self.kv_formats() {
            let scene = Passage::new("alone", shape(4, 2, 32, 16, RopeLayout::Interleaved), kv, &sequences, 500);
            for s in &self.subjects {
                let together = rows_of(&scene, s, |_| true);
                for alone in 0..sequences.len() {
                    let got = rows_of(&scene, s, |sequence| sequence == alone);
                    let cols = scene.shape.heads * scene.shape.head_dim;
                    let before: usize = sequences[..alone].iter().map(|(_, new)| new * cols).sum();
                    let verdict = same_values("attention", &got, &together[before..][..got.len()]);
                    assert_eq!(verdict, Ok(()), "sequence {alone} alone, {kv:?}, on {}", s.backend().name());
                }
            }
        }
    }
}

/// Attention of the whole of one sequence, fed in chunks.
fn in_chunks<S: Subject>(scene: &Passage, s: &S, chunk: usize) -> Vec<f64> {
    let ((mut kv, mut plan), rows) = (scene.room(s), scene.qkv[0].len());
    let chunks = (0..rows).step_by(chunk).map(|start| scene.batch(|_| start..rows.min(start + chunk)));
    chunks.flat_map(|chunk| scene.step(s, &mut kv, &mut plan, chunk).1).collect()
}

/// Attention of the new rows of some sequences, in one step.
fn rows_of<S: Subject>(scene: &Passage, s: &S, takes_part: impl Fn(usize) -> bool) -> Vec<f64> {
    let (mut kv, mut plan) = scene.room(s);
    scene.fill(s, &mut kv, &mut plan);
    let rows = |s: usize| if takes_part(s) { scene.new_rows(s) } else { 0..0 };
    scene.step(s, &mut kv, &mut plan, scene.batch(rows)).1
}
