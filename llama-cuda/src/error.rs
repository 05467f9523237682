//! What the driver says, as the library's error.

use cudarc::driver::DriverError;
use llama_core::Error;

/// An [`Error::Backend`] of this backend.
pub(crate) fn failed(verb: &'static str, problem: impl Into<String>) -> Error {
    Error::Backend { backend: "cuda", verb, problem: problem.into() }
}

/// Turns a driver's error in `verb` into ours.
pub(crate) fn driver(verb: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| {
        let text = |name: Result<&std::ffi::CStr, DriverError>| {
            name.map_or_else(|_| format!("{:?}", error.0), |name| name.to_string_lossy().into_owned())
        };
        failed(verb, format!("{}: {}", text(error.error_name()), text(error.error_string())))
    }
}
