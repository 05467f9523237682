//! The driver that CUDA's suites run on: the mock, or the machine's own where `LLAMA_GPU` is set.

use mock_cuda::{Config, Mock, install};

/// A driver in place. Drop it after everything made with it: declare it first.
#[derive(Debug)]
pub struct Driver(Option<Mock>);

impl Driver {
    /// The mock, afresh as the given machine; with `LLAMA_GPU` in the environment the system's driver and its first GPU,
    /// whatever that is.
    pub fn new(config: &Config) -> Self {
        Driver((!Self::is_real()).then(|| install(config).expect("the mock driver")))
    }

    /// Whether a GPU computes: scenes are cheap there, and it is what it is.
    pub fn is_real() -> bool {
        std::env::var_os("LLAMA_GPU").is_some()
    }

    /// Why the last launch that failed did, in the simulator's words.
    pub fn last_finding(&self) -> Option<String> {
        self.0.as_ref()?.last_finding()
    }

    /// The mock, which counts what a GPU does not.
    pub fn mock(&self) -> Option<&Mock> {
        self.0.as_ref()
    }
}
