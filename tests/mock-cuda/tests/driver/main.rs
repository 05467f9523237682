//! The driver as programs use it, through cudarc.

mod common;
mod graphs;
mod machine;
mod running;
mod tensors;
