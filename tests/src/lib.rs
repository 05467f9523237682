//! What the suites share: reference arrays, hostile files, models on every machine, ways of feeding them.

pub mod hostile;
pub mod text;
