//! The driver's functions, as `cuda.h` declares them. Each does no more than find what its arguments name.

mod context;
mod copy;
mod event;
mod graph;
mod launch;
mod memory;
mod module;
mod occupancy;
mod stream;
mod tensor_map;
