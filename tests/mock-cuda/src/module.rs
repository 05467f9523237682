//! Modules: PTX as the driver takes it, what it refuses, and the functions in it.
//!
//! A text is refused before it is parsed if the driver is too old for its `.version` or the device is not one for its `.target`
//! (PTX ISA 11.1; the versions by release are in its chapter 15).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::config::{Capability, Config};
use crate::device::{State, find, take};
use crate::handle::{Id, fresh};
use crate::limits::Limits;
use crate::status::{Result, Status};

/// A loaded module.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub code: ptx_sim::Module,
    pub version: (u32, u32),
    unloaded: AtomicBool,
}

impl Loaded {
    pub fn is_unloaded(&self) -> bool {
        self.unloaded.load(Ordering::Relaxed)
    }
}

/// A kernel of a loaded module.
#[derive(Debug)]
pub(crate) struct Function {
    pub module: Arc<Loaded>,
    pub name: String,
    /// Sizes of the parameters, and their places in a buffer of all of them.
    pub parameters: Vec<(usize, usize)>,
    pub static_shared: u32,
    pub most_threads: u32,
    /// The most dynamic shared memory a launch may ask for; raised by `cuFuncSetAttribute`.
    most_dynamic_shared: AtomicU32,
}

impl Function {
    fn new(module: &Arc<Loaded>, name: &str) -> Result<Self> {
        let missing = Status::CUDA_ERROR_NOT_FOUND;
        let sizes = module.code.parameters(name).ok_or(missing)?;
        let offsets = module.code.parameter_offsets(name).ok_or(missing)?;
        let static_shared = module.code.shared(name).ok_or(missing)? as u32;
        Ok(Function {
            module: module.clone(),
            name: name.to_owned(),
            parameters: sizes.into_iter().zip(offsets).collect(),
            static_shared,
            most_threads: module.code.most_threads(name).ok_or(missing)?,
            most_dynamic_shared: AtomicU32::new(Limits::SHARED_WITHOUT_OPTING_IN.saturating_sub(static_shared)),
        })
    }

    pub fn most_dynamic_shared(&self) -> u32 {
        self.most_dynamic_shared.load(Ordering::Relaxed)
    }

    pub fn allow_dynamic_shared(&self, bytes: i32, limits: &Limits) -> Result {
        let bytes = u32::try_from(bytes).map_err(|_| Status::CUDA_ERROR_INVALID_VALUE)?;
        if bytes.saturating_add(self.static_shared) > limits.shared_per_block {
            return Err(Status::CUDA_ERROR_INVALID_VALUE);
        }
        self.most_dynamic_shared.store(bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// Why a module was refused, for the log that a caller may have asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub status: Status,
    pub log: String,
}

fn refuse<T>(status: Status, log: String) -> Result<T, Refusal> {
    Err(Refusal { status, log })
}

/// Checks and parses a PTX text.
pub(crate) fn load(image: &[u8], config: &Config) -> Result<Loaded, Refusal> {
    if image.starts_with(b"\x7fELF") || image.starts_with(&[0x50, 0xed, 0x55, 0xba]) {
        return refuse(Status::CUDA_ERROR_NO_BINARY_FOR_GPU, "the mock executes PTX, not machine code".to_owned());
    }
    let Ok(text) = std::str::from_utf8(image) else {
        return refuse(Status::CUDA_ERROR_INVALID_IMAGE, "neither PTX nor machine code".to_owned());
    };
    let version = check_version(text, config)?;
    check_target(text, config.capability)?;
    match ptx_sim::Module::parse(text) {
        Ok(code) => Ok(Loaded { code, version, unloaded: AtomicBool::new(false) }),
        Err(error) => {
            eprintln!("mock-cuda: PTX refused: {error}");
            refuse(Status::CUDA_ERROR_INVALID_PTX, format!("ptxas application ptx input, {error}"))
        }
    }
}

/// The word after a directive.
fn directive<'a>(text: &'a str, name: &str) -> Result<&'a str, Refusal> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name));
    match line.and_then(|rest| rest.split([',', ' ', '\t', '/']).find(|word| !word.is_empty())) {
        Some(word) => Ok(word),
        None => refuse(Status::CUDA_ERROR_INVALID_PTX, format!("Missing {name} directive")),
    }
}

fn check_version(text: &str, config: &Config) -> Result<(u32, u32), Refusal> {
    let word = directive(text, ".version")?;
    let numbers = word.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let newest = newest_ptx(config.driver_version);
    match numbers {
        None => refuse(Status::CUDA_ERROR_INVALID_PTX, format!("Unsupported .version {word}")),
        Some(version) if version > newest => refuse(
            Status::CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
            format!("Unsupported .version {word}; current version is '{}.{}'", newest.0, newest.1),
        ),
        Some(version) => Ok(version),
    }
}

/// The newest PTX a driver knows.
fn newest_ptx(driver: i32) -> (u32, u32) {
    match (driver / 1000, (driver % 1000 / 10) as u32) {
        (..=10, _) => (6, 5),
        (11, minor) => (7, minor.min(8)),
        (12, minor @ 0..=5) => (8, minor),
        (12, 6) => (8, 5),
        (12, minor) => (8, minor.min(9) - 1),
        (_, minor) => (9, minor),
    }
}

fn check_target(text: &str, device: Capability) -> Result<(), Refusal> {
    let word = directive(text, ".target")?;
    let Some((target, suffix)) = word.strip_prefix("sm_").and_then(parse_target) else {
        return refuse(Status::CUDA_ERROR_INVALID_PTX, format!("Unknown .target {word}"));
    };
    let fits = match suffix {
        // PTX ISA 11.1.2: `a` is for that device alone, `f` for its family, all else for it and every later one.
        Some('a') => target == device,
        Some('f') => target.major == device.major && target <= device,
        _ => target <= device,
    };
    if fits {
        return Ok(());
    }
    let log = format!("SM version specified by .target {word} is not for device sm_{}{}", device.major, device.minor);
    refuse(Status::CUDA_ERROR_NO_BINARY_FOR_GPU, log)
}

fn parse_target(word: &str) -> Option<(Capability, Option<char>)> {
    let digits = word.trim_end_matches(['a', 'f']);
    let number: u32 = digits.parse().ok()?;
    Some((Capability { major: number / 10, minor: number % 10 }, word[digits.len()..].chars().next()))
}

impl State {
    pub fn add_module(&mut self, module: Loaded) -> Id {
        let id = fresh(self.ordinal);
        self.modules.insert(id, Arc::new(module));
        id
    }

    /// A module's functions go with it. Graphs that hold them fail from then on.
    pub fn unload_module(&mut self, id: Id) -> Result {
        let module = take(&mut self.modules, id)?;
        module.unloaded.store(true, Ordering::Relaxed);
        self.functions.retain(|_, function| !Arc::ptr_eq(&function.module, &module));
        Ok(())
    }

    /// The one handle of a module's kernel.
    pub fn function(&mut self, module: Id, name: &str) -> Result<Id> {
        let module = find(&self.modules, module)?;
        let same = |function: &Arc<Function>| Arc::ptr_eq(&function.module, module) && function.name == name;
        if let Some((id, _)) = self.functions.iter().find(|(_, function)| same(function)) {
            return Ok(*id);
        }
        let function = Function::new(module, name)?;
        let id = fresh(self.ordinal);
        self.functions.insert(id, Arc::new(function));
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "{ ret; }";

    fn outcome(version: &str, target: &str, config: Config) -> Option<Status> {
        let text = format!(".version {version}\n.target {target}\n.address_size 64\n.visible .entry k() {EMPTY}");
        load(text.as_bytes(), &config).err().map(|refusal| refusal.status)
    }

    fn on(capability: Capability) -> Config {
        Config { capability, ..Config::default() }
    }

    #[test]
    fn targets() {
        let wrong = Some(Status::CUDA_ERROR_NO_BINARY_FOR_GPU);
        assert_eq!(outcome("7.0", "sm_80", on(Capability::AMPERE)), None);
        assert_eq!(outcome("7.0", "sm_80", on(Capability::HOPPER)), None);
        assert_eq!(outcome("7.8", "sm_89", on(Capability::AMPERE)), wrong);
        assert_eq!(outcome("8.0", "sm_90a", on(Capability::HOPPER)), None);
        assert_eq!(outcome("8.0", "sm_90a", on(Capability { major: 10, minor: 0 })), wrong);
        assert_eq!(outcome("8.0", "gpu", on(Capability::HOPPER)), Some(Status::CUDA_ERROR_INVALID_PTX));
    }

    #[test]
    fn versions() {
        let old = |driver_version| Config { driver_version, ..Config::default() };
        let too_new = Some(Status::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
        assert_eq!(outcome("7.0", "sm_80", old(11000)), None);
        assert_eq!(outcome("8.0", "sm_80", old(11080)), too_new);
        assert_eq!(outcome("8.8", "sm_80", old(12090)), None);
        assert_eq!(outcome("8.8", "sm_80", old(12080)), too_new);
        assert_eq!(outcome("9.0", "sm_80", old(13000)), None);
        assert_eq!(outcome("x", "sm_80", old(13000)), Some(Status::CUDA_ERROR_INVALID_PTX));
    }

    #[test]
    fn machine_code_and_rubbish() {
        let refusal = |image: &[u8]| load(image, &Config::default()).unwrap_err().status;
        assert_eq!(refusal(b"\x7fELF..."), Status::CUDA_ERROR_NO_BINARY_FOR_GPU);
        assert_eq!(refusal(&[0xff, 0xfe]), Status::CUDA_ERROR_INVALID_IMAGE);
        assert_eq!(refusal(b""), Status::CUDA_ERROR_INVALID_PTX);
    }
}
