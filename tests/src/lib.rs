//! What the suites share: reference arrays, models on every machine, ways of feeding them.

pub mod arrays;
pub mod models;
pub mod text;
