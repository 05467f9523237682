//! The options of the backend.

use llama_core::Error;
use llama_core::backend::Backend;
use llama_kernels::threads::MAX_THREADS;
use llama_kernels::{Cpu, CpuOptions, Tier};

#[test]
fn the_name_tells_tier_and_threads() {
    let name = |threads, tier| {
        let options = CpuOptions { threads: Some(threads), tier: Some(tier), ..CpuOptions::default() };
        Cpu::new(options).expect("a backend").name()
    };
    assert_eq!(name(1, Tier::Portable), "cpu portable, 1 thread");
    assert_eq!(name(2, Tier::best()), format!("cpu {}, 2 threads", Tier::best()));
}

#[test]
fn impossible_options_are_errors() {
    for threads in [0, MAX_THREADS + 1, usize::MAX] {
        let options = CpuOptions { threads: Some(threads), ..CpuOptions::default() };
        assert!(matches!(Cpu::new(options), Err(Error::Parameter { name: "threads", .. })));
    }
    for tier in Tier::ALL.into_iter().filter(|tier| !tier.is_available()) {
        let options = CpuOptions { tier: Some(tier), ..CpuOptions::default() };
        assert!(matches!(Cpu::new(options), Err(Error::Parameter { name: "tier", .. })));
    }
}
