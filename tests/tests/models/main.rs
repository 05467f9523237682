//! Whole models on the CPU backend and the reference: against other programs, and against themselves for the same bits in
//! every schedule and company, on every tier and team.

mod adapters;
mod added_adapters;
mod batches;
mod compact;
mod company;
mod conformance_bounds;
mod convert;
mod embed;
mod faulty;
mod packed_cache;
mod prefix;
mod processors;
mod ranks;
mod sampling;
mod smollm2;
mod stories;
mod tiny;
mod wrong_ranks;
