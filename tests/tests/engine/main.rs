//! The engine against a toy model whose logits hash everything it can read through the block table: one wrong block, stale
//! slot or lost token changes what is generated. What each request should give is computed without any engine.

mod conveniences;
mod drafts;
mod embed;
mod faults;
mod grammar;
mod hostile;
mod min_tokens;
mod prefix;
mod samplers;
mod schedule;
mod text;
mod toy;
