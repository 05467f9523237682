//! The embedded PTX: two sets of files, one for every device from compute capability 8.0 on, one for Hopper.

/// One file.
pub(crate) struct File {
    pub name: &'static str,
    pub text: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
