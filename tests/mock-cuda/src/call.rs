//! The door every exported function is: counted, made to fail on request, never unwinding into the caller.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::driver::{Driver, driver};
use crate::status::{Result, Status};

/// Runs the body of an exported function.
pub(crate) fn enter(name: &'static str, body: impl FnOnce(&Driver) -> Result) -> Status {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let driver = driver();
        driver.ledger().count(name)?;
        body(&driver)
    }));
    match outcome {
        Ok(Ok(())) => Status::CUDA_SUCCESS,
        Ok(Err(status)) => status,
        Err(_) => {
            eprintln!("mock-cuda: {name} panicked: a bug in the mock");
            Status::CUDA_ERROR_UNKNOWN
        }
    }
}

/// Exports functions of the driver: `fn name(arguments) |driver| { body }`, where the body is a `Result`.
macro_rules! exports {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $ty:ty),* $(,)?) |$driver:pat_param| $body:expr)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        ///
        /// Pointers must be what the driver's documentation says, for as long as it says, or null.
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn $name($($argument: $ty),*) -> $crate::status::Status {
            $crate::call::enter(stringify!($name), |$driver| $body)
        }
    )*};
}
pub(crate) use exports;
