//! The contract executed as plainly as it can be said.
/// Placeholder.
pub struct Reference;
