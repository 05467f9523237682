//! The server on a loopback port, with the model that ships in the repository in the process of the tests, and clients that
//! speak HTTP by hand: what they may send is more than any library lets through.

mod adapters;
mod added_adapters;
mod answers;
mod anthropic;
mod anthropic_errors;
mod bounds;
mod classify;
mod client;
mod effort;
mod faults;
mod forethought;
mod hostile;
mod infill;
mod process;
mod responses;
mod similarity;
mod smollm2;
mod structured;
mod subject;
mod thoughts;
mod tokens;
mod tools;
