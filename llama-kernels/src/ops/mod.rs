//! The verbs' algorithms over slices. What is different between tiers is in `arch`.

pub mod linear;
