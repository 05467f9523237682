//! The kernels by name: which of the two sets of PTX a device gets, loaded file by file when first asked for.
//!
//! The text is embedded. A file's kernels are found by its `.entry` lines, so no table can be out of step with the sources.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
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
        // SAFETY: the function belongs to a module that stays loaded as long as the device is open.
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

/// A loaded file. The device keeps it.
#[derive(Clone, Copy)]
struct Module(sys::CUmodule);

// SAFETY: a handle that the driver lets any thread use.
unsafe impl Send for Module {}

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
        // SAFETY: the module stays loaded as long as the device is open.
        let function = unsafe { result::module::get_function(modules[file.name].0, symbol) };
        let function = function.map_err(driver("load"))?;
        self.allow_shared(function)?;
        Ok(Kernel(function))
    }

    fn module(&self, file: &File) -> Result<Module> {
        let text = CString::new(file.text).map_err(|_| failed("load", format!("{} holds a zero byte", file.name)))?;
        let module = load_data(&text).map_err(|problem| failed("load", format!("{}.ptx: {problem}", file.name)))?;
        self.device.keep_module(module);
        Ok(Module(module))
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

/// Bytes of what the driver's compiler may say about a file.
const LOG: usize = 8 << 10;

/// Compiles and loads PTX; what the compiler says where it does not.
fn load_data(text: &CStr) -> Result<sys::CUmodule, String> {
    use sys::CUjit_option_enum::{CU_JIT_ERROR_LOG_BUFFER as BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES as BYTES};
    let mut log = vec![0u8; LOG];
    let mut options = [BUFFER, BYTES];
    // An option's value is a pointer, or a number in a pointer's place.
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(LOG - 1)];
    let mut module = std::ptr::null_mut();
    // SAFETY: `text` ends with a zero; log, options and values outlive the call, and the log is as long as its size says.
    let loaded = unsafe {
        sys::cuModuleLoadDataEx(&mut module, text.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr())
            .result()
    };
    loaded.map(|()| module).map_err(|error| {
        let said = CStr::from_bytes_until_nul(&log).map_or_else(|_| String::new(), |log| log.to_string_lossy().into());
        format!("{}; {}", driver("load")(error), said.split_whitespace().collect::<Vec<_>>().join(" "))
    })
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

    /// A struct's bytes are those of the kernel's parameter.
    #[test]
    fn kernels_take_the_structs_of_params() {
        use crate::params as p;
        let families: &[(&str, usize)] = &[
            ("gemv_", size_of::<p::Linear>()),
            ("gemm_", size_of::<p::Linear>()),
            ("wgmma_", size_of::<p::Linear>()),
            ("embed_", size_of::<p::Embed>()),
            ("repack_", size_of::<p::Repack>()),
            ("norm_", size_of::<p::Norm>()),
            ("head_norm_", size_of::<p::HeadNorm>()),
            ("rope_angles", size_of::<p::Angles>()),
            ("rope_kv_", size_of::<p::Rope>()),
            ("attention_", size_of::<p::Attention>()),
            ("swiglu_", size_of::<p::SwiGlu>()),
            ("add_", size_of::<p::Add>()),
            ("take_rows_", size_of::<p::TakeRows>()),
            ("adapt_", size_of::<p::Adapt>()),
            ("copy_blocks", size_of::<p::CopyBlocks>()),
            ("pack_", size_of::<p::Pack>()),
            ("sample_", size_of::<p::Sample>()),
        ];
        for kernel in
            [COMPUTE_80, COMPUTE_90A].into_iter().flatten().flat_map(|file| file.text.split(".entry ").skip(1))
        {
            let name = kernel.split('(').next().unwrap_or_default();
            let Some((_, bytes)) = families.iter().find(|(family, _)| name.starts_with(family)) else { continue };
            assert!(kernel.contains(&format!(".b8 {name}_param_0[{bytes}]")), "{name} is passed {bytes} bytes");
        }
    }
}
