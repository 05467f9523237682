//! Model files: mapped, parsed without trust, and read as borrowed views.

pub mod gguf;
mod lookup;
pub mod map;
mod view;

pub use view::TensorView;
