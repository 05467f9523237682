//! Files that are broken, or that were written to do harm.

mod files;
mod mutants;
mod paths;
