//! One model on several machines: ranks that each hold a share of every weight and compute a share of every step.
//!
//! A [`Leader`] waits for its followers, loads ([`Loader::lead`](crate::Loader::lead)) and has the only engine, tokenizer and
//! sampler. A [`Follower`] joins it, loads its share of the same files and takes part in every step until the leader leaves
//! ([`Loader::follow`](crate::Loader::follow)). To the graph a rank is a backend ([`Sharded`]), so neither the model nor the
//! engine knows of the others.
//!
//! *How a step is shared* (the two halves of a layer as in Shoeybi et al. 2019, arXiv:1909.08053, but for sums): every matrix is
//! cut into runs of rows, so qkv by heads, gate and up by columns of the feed-forward, o and down by columns of the residual,
//! the embedding and the head by tokens. A rank multiplies its rows by whole activations, and what it gets is gathered from
//! all ranks where the next verb wants the whole: four times a layer. Nothing is ever summed over ranks, so a logit is the same
//! bits however many there are, where an all-reduce of two half rows would round otherwise with each number of ranks. It
//! moves about as much: `hidden` three times and `ffn` once a layer and token, and not `hidden` four times.
//!
//! *Trust.* Ranks speak plain TCP and know each other by nothing but having been told the leader's address. They belong in a
//! network of their own. What comes from another rank is checked before it is used, so it cannot make this one read or write
//! where it should not; it can make the model say anything.

mod cut;
mod lead;
mod meet;
mod mesh;
mod setup;
mod sharded;
mod wire;

pub use meet::{Follower, Leader, MAX_RANKS};
pub use sharded::Sharded;

use std::time::Duration;

/// How long a rank that owes something may be silent. Between two gatherings lies a fraction of a layer.
const PATIENCE: Duration = Duration::from_secs(60);
