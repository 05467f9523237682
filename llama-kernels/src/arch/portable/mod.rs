//! Plain Rust: any CPU, and the tier every other one is tested against.

pub mod attention;
pub(super) mod linear;
pub mod vector;
