//! What the suites share.

pub mod hostile;
