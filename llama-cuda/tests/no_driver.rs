//! On a machine without an NVIDIA driver: no devices, and one clear error for who wants one.

use llama_cuda::{Cuda, CudaOptions};

#[test]
fn a_machine_without_a_driver_has_no_devices_and_says_so() {
    if !Cuda::devices().expect("a list").is_empty() {
        eprintln!("skipped: this machine has a CUDA device");
        return;
    }
    let error = Cuda::new(CudaOptions::default()).err().expect("an error").to_string();
    assert!(error.starts_with("backend cuda: open: ") || error.contains("has 0 of them"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}
