//! Model files: mapped, parsed without trust, and read as borrowed views.

pub mod gguf;
mod json;
mod lookup;
pub mod map;
pub mod safetensors;
mod view;

pub use view::TensorView;
