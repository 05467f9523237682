//! The CUDA backend on a driver that runs the shipped PTX in the simulator, or on the machine's own where `LLAMA_GPU` is set
//! (all but `refusals`, which pretends machines).

mod adapters;
mod conformance;
mod models;
mod persistent;
mod refusals;
mod sampling;
