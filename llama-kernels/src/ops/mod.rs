//! The verbs' algorithms over slices. What is different between tiers is in `arch`.

pub mod embed;
pub mod linear;
