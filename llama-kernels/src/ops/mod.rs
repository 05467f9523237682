//! The verbs over slices: how work is cut into tasks. What a task computes is in `arch`.

pub mod adapt;
pub mod attention;
pub mod elementwise;
pub mod embed;
pub mod linear;
pub mod norm;
pub mod rope;
pub mod swiglu;
