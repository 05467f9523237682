//! What one arithmetic costs: inner loops as they are beside the best that this file knows of which break the promise, in
//! turns on the same numbers. A loop here is allowed what the promise forbids: sums in any order, fewer roundings that
//! nobody else has, scales for more than a group, an exponential that differs from tier to tier.
//!
//! ```text
//! cargo bench -p llama-benches --bench promise
//! ```
//! Printed are the least times of many rounds and the ratio of the two: above 1 is what the promise costs. On AVX2 only.

#[cfg(target_arch = "x86_64")]
mod attention;
#[cfg(target_arch = "x86_64")]
mod linear;

use std::time::{Duration, Instant};

use llama_kernels::Tier;

fn main() {
    if !Tier::Avx2.is_available() {
        return println!("needs AVX2");
    }
    #[cfg(target_arch = "x86_64")]
    {
        attention::run();
        linear::run();
    }
}

/// Least times of `ours` and `free`, in turns.
fn beside(what: &str, mut ours: impl FnMut(), mut free: impl FnMut()) {
    let mut least = [Duration::MAX; 2];
    for _ in 0..2000 {
        for (least, run) in least.iter_mut().zip([&mut ours as &mut dyn FnMut(), &mut free]) {
            let start = Instant::now();
            run();
            *least = start.elapsed().min(*least);
        }
    }
    let [ours, free] = least.map(|time| time.as_secs_f64() * 1e6);
    println!("{what:64} {ours:8.2} us, free {free:8.2} us: {:.3}", ours / free);
}
