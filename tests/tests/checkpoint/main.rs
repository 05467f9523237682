//! Checkpoints as they are found, opened without running them: GGUF, safetensors, folders, split files, weight formats.

mod adapter;
mod families;
mod folders;
mod formats;
mod gguf;
mod models;
mod safetensors;
mod split;
