//! What the benchmarks share: the machine's ceilings, and a model under measurement.

use llama_core::backend::Numerics;

pub mod ceiling;
pub mod gpu;
pub mod process;
pub mod random;
pub mod subject;
pub mod verbs;
pub mod whole;

/// `--numerics`: a mode by its name.
pub fn numerics(name: &str) -> Result<Numerics, String> {
    let known = || Numerics::ALL.map(Numerics::name).join(", ");
    Numerics::ALL.into_iter().find(|mode| mode.name() == name).ok_or_else(|| format!("expected one of {}", known()))
}
