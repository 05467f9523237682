//! Model files: mapped, parsed without trust, and read as borrowed views.

mod view;

pub use view::TensorView;
