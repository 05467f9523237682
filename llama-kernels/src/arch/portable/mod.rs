//! Plain Rust: any CPU.

pub mod attention;
pub mod vector;
