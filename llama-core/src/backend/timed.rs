//! A backend that counts the time of each verb of another.
/// Placeholder.
pub struct Timed;
/// Placeholder.
pub struct VerbTime;
