//! `out[t] = table[token[t]] * scale`, decoded from the panels that the head multiplies with, where the two are tied.

use crate::threads::{Disjoint, Threads};
use crate::weight::Weight;

/// Decodes row `tokens[t]` of `table [vocab, hidden]` into row `t` of `out [tokens, hidden]`, multiplied by `scale`.
///
/// # Panics
/// If `out` has another length or a token is not in the vocabulary.
pub fn embed(threads: &Threads, out: &mut [f32], table: &Weight, scale: f32, tokens: &[u32]) {
    let hidden = table.cols();
    assert_eq!(out.len(), tokens.len() * hidden, "embeddings [{}, {hidden}]", tokens.len());
    let out = Disjoint::new(out);
    threads.for_each(tokens.len(), &|t| {
        // SAFETY: each task takes its own row, and no task runs twice.
        let row = unsafe { out.part(t * hidden..(t + 1) * hidden) };
        table.decode_row(tokens[t] as usize, row);
        if scale != 1.0 {
            row.iter_mut().for_each(|number| *number *= scale);
        }
    });
}
