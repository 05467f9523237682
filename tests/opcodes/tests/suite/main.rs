//! The program that compares a GPU with the simulator, where there is no GPU.

mod complete;
mod mock;
mod program;
mod seen;
