//! Putting the mock in the driver's place, and talking to it.

use std::collections::BTreeMap;
use std::ffi::{CString, c_uint, c_void};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use libloading::{Library, Symbol};
use thiserror::Error;

use crate::config::Config;
use crate::control::Sink;
use crate::status::Status;

/// The shared library's file. Programs find it by the other name, see `build.rs`.
const FILE: &str = "libmock_cuda.so";
/// The name under which programs look for the driver.
const SONAME: &str = "libcuda.so";

/// Why the mock is not in place.
#[derive(Debug, Error)]
pub enum InstallError {
    /// It was not built, or not beside this program.
    #[error("no {FILE} in {}", .0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
    NotFound(
        /// Where it was looked for.
        Vec<PathBuf>,
    ),
    /// The loader refuses it.
    #[error("cannot load {path}")]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: libloading::Error,
    },
    /// Another driver was loaded before.
    #[error("another {SONAME} is loaded already: install the mock first")]
    Occupied,
    /// It would not take the configuration.
    #[error("the mock driver says {0:?}")]
    Refused(
        /// What it said.
        Status,
    ),
}

/// The mock, in place on the thread that installed it.
///
/// Drop it after everything made with the driver: declare it first.
#[derive(Debug)]
pub struct Mock {
    library: Library,
    /// Another thread would be told of another driver.
    _stays: PhantomData<*const ()>,
}

/// Loads the mock, if it is not loaded yet, and starts it afresh as the given machine: for this thread, and for threads
/// without one that make its contexts current. So tests of one program run side by side.
pub fn install(config: &Config) -> Result<Mock, InstallError> {
    let mock = Mock { library: load()?, _stays: PhantomData };
    let configure = mock.symbol::<unsafe extern "C" fn(*const Config) -> Status>("mock_cuda_configure")?;
    // SAFETY: the function takes a pointer to a `Config`, whose layout is that of C and comes from the same source.
    match unsafe { configure(config) } {
        Status::CUDA_SUCCESS => Ok(mock),
        status => Err(InstallError::Refused(status)),
    }
}

fn load() -> Result<Library, InstallError> {
    let candidates = candidates();
    let Some(path) = candidates.iter().find(|path| path.is_file()) else {
        return Err(InstallError::NotFound(candidates));
    };
    // SAFETY: the library is this package's; it has no constructors, and its functions do nothing until called.
    let library = unsafe { Library::new(path) }.map_err(|source| InstallError::Load { path: path.clone(), source })?;
    if answers_to_the_drivers_name() { Ok(library) } else { Err(InstallError::Occupied) }
}

/// Whether whoever asks for the driver now gets the mock.
fn answers_to_the_drivers_name() -> bool {
    // SAFETY: either the mock, as above, or a driver that is loaded already or about to be refused.
    let found = unsafe { Library::new(SONAME) };
    // SAFETY: the symbol is only looked for.
    found.is_ok_and(|library| unsafe { library.get::<*const c_void>("mock_cuda_configure") }.is_ok())
}

/// Cargo puts the library into `deps` of the profile, and test programs there too; examples and binaries lie beside or above it.
fn candidates() -> Vec<PathBuf> {
    let program = std::env::current_exe().ok();
    let folders = program.iter().flat_map(|path| path.ancestors().skip(1).take(3));
    // Documentation tests run from elsewhere; the build script's folder is `<profile>/build/<package>/out`.
    let profile = Path::new(env!("OUT_DIR")).ancestors().nth(3);
    folders.chain(profile).flat_map(|folder| [folder.join(FILE), folder.join("deps").join(FILE)]).collect()
}

impl Mock {
    fn symbol<F>(&self, name: &str) -> Result<Symbol<'_, F>, InstallError> {
        // SAFETY: each use below names the type that `control` declares for this name.
        let symbol = unsafe { self.library.get::<F>(name) };
        symbol.map_err(|source| InstallError::Load { path: FILE.into(), source })
    }

    fn text(&self, name: &str) -> String {
        unsafe extern "C" fn append(into: *mut c_void, text: *const u8, bytes: usize) {
            // SAFETY: `into` is the `Vec` below, which nothing else uses during the call; the text is valid while it lasts.
            unsafe { (*into.cast::<Vec<u8>>()).extend_from_slice(std::slice::from_raw_parts(text, bytes)) }
        }
        let mut text: Vec<u8> = Vec::new();
        if let Ok(tell) = self.symbol::<unsafe extern "C" fn(Sink, *mut c_void)>(name) {
            // SAFETY: `append` takes the vector it is given here.
            unsafe { tell(append, (&raw mut text).cast()) }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    fn counts(&self, name: &str) -> BTreeMap<String, u64> {
        let entry = |line: &str| line.split_once(' ').and_then(|(n, name)| Some((name.to_owned(), n.parse().ok()?)));
        self.text(name).lines().filter_map(entry).collect()
    }

    /// Launches of each kernel that ran to their end, also as part of graphs.
    pub fn launches(&self) -> BTreeMap<String, u64> {
        self.counts("mock_cuda_launches")
    }

    /// Calls of each function of the driver.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.counts("mock_cuda_calls")
    }

    /// Lines of PTX of the kernels launched that no launch executed: kernel, number and text.
    pub fn missed(&self) -> Vec<String> {
        self.text("mock_cuda_missed").lines().map(str::to_owned).collect()
    }

    /// Why the last launch that failed did, in the simulator's words.
    pub fn last_finding(&self) -> Option<String> {
        Some(self.text("mock_cuda_last_finding")).filter(|finding| !finding.is_empty())
    }

    /// Starts counting launches, calls, lines and findings from here.
    pub fn forget(&self) {
        if let Ok(forget) = self.symbol::<extern "C" fn()>("mock_cuda_forget") {
            forget();
        }
    }

    /// Makes a call of a function of the driver fail: the next one if `calls` is 1.
    pub fn fail(&self, function: &str, calls: u64, status: Status) -> Result<(), InstallError> {
        let refused = || InstallError::Refused(Status::CUDA_ERROR_INVALID_VALUE);
        let function = CString::new(function).map_err(|_| refused())?;
        type Fail = unsafe extern "C" fn(*const std::ffi::c_char, u64, c_uint) -> Status;
        let fail = self.symbol::<Fail>("mock_cuda_fail")?;
        // SAFETY: the string is terminated and outlives the call.
        match unsafe { fail(function.as_ptr(), calls, status as c_uint) } {
            Status::CUDA_SUCCESS => Ok(()),
            status => Err(InstallError::Refused(status)),
        }
    }
}
