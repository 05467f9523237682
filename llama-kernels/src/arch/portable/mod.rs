//! Plain Rust: the tier every other one is tested against.

pub(super) mod linear;
