//! Llama inference: checkpoints, tokenizers, the model graph, the generation engine, and the contract a backend fulfils.
//!
//! This crate holds everything about a Llama that is not fast arithmetic. That comes from a [`backend::Backend`]: the
//! crate `llama-kernels` has the one for CPUs, and [`backend::Reference`], here, is the same thing said plainly, for
//! tests and for reading.
//!
//! ```
//! use llama_core::backend::{Numerics, Reference};
//! use llama_core::engine::Request;
//! use llama_core::text::Specials;
//! use llama_core::Loader;
//!
//! # fn main() -> llama_core::Result<()> {
//! let mut engine = Loader::open("../examples/stories260K.gguf")?.load(Reference::new(Numerics::Default))?;
//! let prompt = engine.encode("Once upon a time", Specials::AsText)?;
//! let story = engine.complete(Request { max_tokens: Some(5), ..Request::new(prompt) })?;
//! assert_eq!(story.text, ", there was a little");
//! # Ok(())
//! # }
//! ```
//!
//! # Where things are
//!
//! | from a file to a model | |
//! |---|---|
//! | [`Loader`] | all of the below in one call |
//! | [`checkpoint`] | GGUF files, Hugging Face folders: hyperparameters, names, borrowed views of weights |
//! | [`adapter`] | LoRA adapters: what they add to a model's matrices |
//! | [`convert`] | any of them written as one GGUF, in any format, with adapters added |
//! | [`config`] | the sizes of a Llama, and how it turns positions |
//! | [`format`](mod@format) | how weights are stored: F32 to IQ1_S, each encoded and decoded |
//! | [`model`] | the Llama itself, on one screen; the plan of its memory |
//!
//! | from a prompt to text | |
//! |---|---|
//! | [`text`] | tokenizers, chat templates, text that comes token by token |
//! | [`engine`] | requests in, events out; many sequences at once |
//! | [`kv`] | which blocks of the KV cache belong to whom, and which are shared |
//! | [`batch`] | the ragged rows of one step |
//! | [`sample`] | logits to a token |
//!
//! | underneath | |
//! |---|---|
//! | [`backend`] | the contract a machine fulfils, and its reference |
//! | [`ranks`] | one model on several machines |
//! | [`numerics`] | the scalar functions whose bits every backend for CPUs reproduces |
//! | [`error`] | the one [`Error`] |

#![deny(unsafe_code)]

pub mod adapter;
pub mod backend;
pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod convert;
pub mod engine;
pub mod error;
pub mod format;
pub mod kv;
mod loader;
pub mod model;
pub mod numerics;
pub mod ranks;
pub mod sample;
pub mod text;
mod whole;

pub use error::{Error, Result};
pub use loader::Loader;
