//! What the suites share: reference arrays, hostile files, models on every machine, ways of feeding them.

pub mod adapters;
pub mod arrays;
pub mod counting;
pub mod driver;
pub mod heads;
pub mod hostile;
pub mod models;
pub mod text;
pub mod tiny;
