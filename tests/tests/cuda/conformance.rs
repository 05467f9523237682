//! The CUDA backend in the conformance suite, on a driver that runs the shipped PTX in the simulator: a device of the first
//! generation served and a Hopper, in both numerics modes.
//!
//! A finding of the simulator (a race, an access out of bounds, a number never written) ends the context, so it fails the
//! scene in which it happens. With `LLAMA_GPU` set, the machine's own GPU plays every scene in full.

use conformance::conformance_suite;
use conformance::{Agreement, Size, Subject, Suite, Width};
use llama_core::backend::Numerics;
use llama_cuda::{Cuda, CudaOptions};
use llama_tests::driver::Driver;
use mock_cuda::{Capability, Config};

/// The driver is dropped after the backend.
struct Gpu {
    cuda: Cuda,
    driver: Driver,
}

impl Subject for Gpu {
    type Backend = Cuda;

    fn backend(&self) -> &Cuda {
        &self.cuda
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if let Some(finding) = self.driver.last_finding() {
            eprintln!("the simulator says: {finding}");
        }
    }
}

fn suite(capability: Capability, numerics: Numerics) -> Suite<Gpu> {
    let driver = Driver::new(&Config { capability, ..Config::default() });
    let cuda = Cuda::new(CudaOptions { numerics, ..CudaOptions::default() }).expect("a backend");
    let width = if numerics == Numerics::Default { Width::Bf16 } else { Width::F32 };
    let size = if Driver::is_real() { Size::All } else { Size::Few };
    Suite { subjects: vec![Gpu { cuda, driver }], owes: Agreement::Bound(width), size }
}

mod ampere {
    super::conformance_suite!(|| super::suite(super::Capability::AMPERE, super::Numerics::Default));
}

mod hopper {
    super::conformance_suite!(|| super::suite(super::Capability::HOPPER, super::Numerics::Default));
}

mod precise {
    super::conformance_suite!(|| super::suite(super::Capability::AMPERE, super::Numerics::Precise));
}

#[test]
fn attention_in_eight_bits() {
    for numerics in [Numerics::Default, Numerics::Precise] {
        suite(Capability::AMPERE, numerics).attention_in_eight_bits();
    }
}
