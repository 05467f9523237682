//! Llama inference: checkpoints, tokenizers, the model graph, the generation engine, and the contract a backend fulfils.

#![deny(unsafe_code)]

pub mod backend;
pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod engine;
pub mod error;
pub mod format;
pub mod kv;
pub mod model;
pub mod numerics;
pub mod sample;
pub mod text;

pub use error::{Error, Result};
