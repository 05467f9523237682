//! The kernels by name: which of the two sets of PTX a device gets, loaded file by file when first asked for.
//!
//! The text is embedded. A file's kernels are found by its `.entry` lines, so no table can be out of step with the sources.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;

use cudarc::driver::{result, sys};
use llama_core::Result;

use crate::device::{Device, is_hopper};
use crate::error::{driver, failed};
use crate::ptx::{COMPUTE_80, COMPUTE_90A, File};

/// A kernel, ready to be launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kernel(pub sys::CUfunction);

// SAFETY: a handle that the driver lets any thread use.
unsafe impl Send for Kernel {}

impl Kernel {
    /// Blocks of so many threads and bytes of dynamic shared memory that a multiprocessor holds at once.
    pub fn resident_blocks(self, threads: u32, shared: u32) -> Result<u32> {
        let most = result::occupancy::max_active_block_per_multiprocessor;
        // SAFETY: the function belongs to a module that stays loaded as long as its backend.
        let blocks = unsafe { most(self.0, threads as i32, shared as usize) }.map_err(driver("load"))?;
        Ok(blocks.max(0) as u32)
    }
}

/// The set of one device.
pub(crate) struct Kernels {
    device: Arc<Device>,
    /// Files by the names of their kernels.
    files: HashMap<&'static str, &'static File>,
    modules: RefCell<HashMap<&'static str, Module>>,
    loaded: RefCell<HashMap<&'static str, Kernel>>,
}

struct Module {
    device: Arc<Device>,
    module: sys::CUmodule,
}

// SAFETY: a handle that the driver lets any thread use.
unsafe impl Send for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.device.enter();
        let _ = self.device.wait("drop");
        // SAFETY: loaded once, unloaded once, and nothing enqueued uses it any more.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

impl Kernels {
    pub fn new(device: &Arc<Device>) -> Self {
        let set = if is_hopper(device.abilities.capability) { COMPUTE_90A } else { COMPUTE_80 };
        let names = |file: &'static File| entries(file.text).map(move |name| (name, file));
        Kernels {
            device: device.clone(),
            files: set.iter().flat_map(names).collect(),
            modules: RefCell::default(),
            loaded: RefCell::default(),
        }
    }

    /// The kernel `name`.
    ///
    /// # Errors
    /// If the driver does not take its PTX.
    pub fn get(&self, name: &'static str) -> Result<Kernel> {
        if let Some(&kernel) = self.loaded.borrow().get(name) {
            return Ok(kernel);
        }
        let kernel = self.load(name)?;
        self.loaded.borrow_mut().insert(name, kernel);
        Ok(kernel)
    }

    fn load(&self, name: &'static str) -> Result<Kernel> {
        let file = self.files.get(name).ok_or_else(|| failed("load", format!("there is no kernel {name}")))?;
        self.device.enter()?;
        let mut modules = self.modules.borrow_mut();
        if !modules.contains_key(file.name) {
            modules.insert(file.name, self.module(file)?);
        }
        let symbol = CString::new(name).map_err(|_| failed("load", format!("there is no kernel {name}")))?;
        // SAFETY: the module stays loaded as long as `self`.
        let function = unsafe { result::module::get_function(modules[file.name].module, symbol) };
        let function = function.map_err(driver("load"))?;
        self.allow_shared(function)?;
        Ok(Kernel(function))
    }

    fn module(&self, file: &File) -> Result<Module> {
        let text = CString::new(file.text).map_err(|_| failed("load", format!("{} holds a zero byte", file.name)))?;
        // SAFETY: `text` ends with a zero and outlives the call.
        let module = unsafe { result::module::load_data(text.as_ptr().cast()) }
            .map_err(|error| failed("load", format!("{}.ptx: {}", file.name, driver("load")(error))))?;
        Ok(Module { device: self.device.clone(), module })
    }

    /// Lets a kernel use all the shared memory that its static part leaves.
    fn allow_shared(&self, function: sys::CUfunction) -> Result<()> {
        use sys::CUfunction_attribute_enum::{
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES as STATIC,
        };
        // SAFETY: the function belongs to a loaded module.
        let fixed = unsafe { result::function::get_function_attribute(function, STATIC) }.map_err(driver("load"))?;
        let most = self.device.abilities.shared as i32 - fixed;
        // SAFETY: as above.
        unsafe { result::function::set_function_attribute(function, MOST, most) }.map_err(driver("load"))
    }
}

/// Names of the kernels in PTX.
fn entries(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split(".entry ").skip(1).filter_map(|rest| rest.split('(').next()).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that begins early and does not wait would read what is not written yet. The persistent ones never begin
    /// early: cooperative launches are not.
    #[test]
    fn every_kernel_for_hopper_waits_for_the_one_ahead() {
        for file in COMPUTE_90A {
            for kernel in file.text.split(".entry ").skip(1) {
                let name = kernel.split('(').next().unwrap_or_default();
                let waits = kernel.contains("griddepcontrol.wait") || name.starts_with("persistent");
                assert!(waits, "{name} in {}", file.name);
            }
        }
        assert!(COMPUTE_80.iter().all(|file| !file.text.contains("griddepcontrol")));
    }

    #[test]
    fn both_sets_have_the_kernels_of_the_first() {
        let of = |set: &'static [File]| set.iter().flat_map(|file| entries(file.text)).collect::<Vec<_>>();
        let hopper = of(COMPUTE_90A);
        let missing: Vec<_> = of(COMPUTE_80).into_iter().filter(|name| !hopper.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
