//! A model that is tied and has a head of its own all the same. If the two differ, programs do: transformers 4 uses the
//! embedding, transformers 5 the head. So that is refused.

use super::names::Name;
use super::shards::Shards;
use super::view::TensorView;
use crate::error::Result;

/// Rows that are compared: a model whose head was trained by itself differs in any.
const ROWS: usize = 16;

/// Refuses a model with a head that is not its embedding. To be asked of tied models only.
pub(super) fn check(shards: &Shards, spell: impl Fn(Name) -> Option<String>) -> Result<()> {
    let find = |name| shards.find(&spell(name)?);
    let (Some(embed), Some(head)) = (find(Name::Embed), find(Name::Head)) else { return Ok(()) };
    let (embed, head) = (shards.view(embed)?, shards.view(head)?);
    match are_equal(embed, head) {
        true => Ok(()),
        false => Err(head.error(
            "is not the embedding, which was expected by tie_word_embeddings in config.json; put false there to use it, or take it out",
        )),
    }
}

fn are_equal(a: TensorView<'_>, b: TensorView<'_>) -> bool {
    if (a.rows(), a.cols()) != (b.rows(), b.cols()) {
        return false;
    }
    let [mut left, mut right] = [vec![0.0; a.cols()], vec![0.0; a.cols()]];
    let equal = (0..a.rows()).step_by(a.rows().div_ceil(ROWS).max(1)).all(|row| {
        a.decode_row(row, &mut left);
        b.decode_row(row, &mut right);
        left == right
    });
    a.release();
    b.release();
    equal
}
