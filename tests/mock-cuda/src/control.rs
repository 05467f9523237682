//! What a test asks of the driver besides CUDA: functions that the shared library exports for [`crate::install`].
//!
//! Texts are handed to a function of the caller's, so that neither side frees what the other allocated.

use std::ffi::{c_uint, c_void};

use crate::arguments::{Array, Text};
use crate::call::enter;
use crate::config::Config;
use crate::driver::{Ledger, configure, driver};
use crate::status::Status;

/// Receives a text that is valid while the call lasts.
pub(crate) type Sink = unsafe extern "C" fn(into: *mut c_void, text: *const u8, bytes: usize);

fn tell(sink: Sink, into: *mut c_void, text: &str) {
    // SAFETY: `sink` and `into` belong together, as the caller of each function below owes; the text outlives the call.
    unsafe { sink(into, text.as_ptr(), text.len()) }
}

/// A line for each entry: a number, a space, a name.
fn lines<'a>(entries: impl Iterator<Item = (&'a str, u64)>) -> String {
    entries.map(|(name, count)| format!("{count} {name}\n")).collect()
}

/// Lines that no launch of a kernel executed: its name, the line's number, its text.
fn missed(ledger: &Ledger) -> String {
    let of_kernel = |(kernel, coverage): (&String, &ptx_sim::Coverage)| -> String {
        // The brace that ends a kernel is an exit too, which a kernel that ends with `ret` never reaches.
        let lines = coverage.missed().map(|(line, text)| (line, text.trim())).filter(|(_, text)| *text != "}");
        lines.map(|(line, text)| format!("{kernel} {line} {text}\n")).collect()
    };
    ledger.coverage.iter().map(of_kernel).collect()
}

/// Starts the driver afresh as a given machine.
///
/// # Safety
///
/// `config` points to a `Config`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mock_cuda_configure(config: Array<Config>) -> Status {
    match config.read(1) {
        Ok(config) => {
            configure(config[0]);
            Status::CUDA_SUCCESS
        }
        Err(status) => status,
    }
}

/// Makes the `calls`-th next call of a function fail with a status.
///
/// # Safety
///
/// `function` is a terminated string.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mock_cuda_fail(function: Text, calls: u64, status: c_uint) -> Status {
    enter("mock_cuda_fail", |driver| driver.ledger().plan(function.str()?, calls, status))
}

/// Tells how often each kernel was launched.
///
/// # Safety
///
/// `sink` may be called with `into`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mock_cuda_launches(sink: Sink, into: *mut c_void) {
    tell(sink, into, &lines(driver().ledger().launches.iter().map(|(name, count)| (name.as_str(), *count))));
}

/// Tells how often each function of the driver was called.
///
/// # Safety
///
/// `sink` may be called with `into`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mock_cuda_calls(sink: Sink, into: *mut c_void) {
    tell(sink, into, &lines(driver().ledger().calls.iter().map(|(name, count)| (*name, *count))));
}

/// Tells which lines of the kernels launched were never executed.
///
/// # Safety
///
/// `sink` may be called with `into`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mock_cuda_missed(sink: Sink, into: *mut c_void) {
    tell(sink, into, &missed(&driver().ledger()));
}

/// Tells why the last launch that failed did; nothing if none has.
///
/// # Safety
///
/// `sink` may be called with `into`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mock_cuda_last_finding(sink: Sink, into: *mut c_void) {
    if let Some(finding) = &driver().ledger().finding {
        tell(sink, into, finding);
    }
}

/// Forgets calls, launches and findings so far.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn mock_cuda_forget() {
    driver().ledger().clear();
}
