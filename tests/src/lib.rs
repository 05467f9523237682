//! Helpers of the conformance, reference and hostile-input suites.

pub mod text;
