//! By default the CPU backend takes as many threads as its process may use processors: affinity is respected.

use std::process::Command;

use llama_kernels::{Cpu, CpuOptions};

/// Set for the copy of this program that is held to one processor, and runs this test alone.
const INSIDE: &str = "LLAMA_TEST_ONE_PROCESSOR";
const NAME: &str = "processors::affinity_decides_how_many_threads_there_are";

#[test]
fn affinity_decides_how_many_threads_there_are() {
    let threads = || Cpu::new(CpuOptions::default()).expect("a backend").threads();
    if std::env::var_os(INSIDE).is_some() {
        assert_eq!(threads(), 1);
        return;
    }
    assert_eq!(threads(), std::thread::available_parallelism().map_or(1, usize::from));
    let Some(processor) = first_allowed() else {
        println!("not asked: this system does not say which processors it allows");
        return;
    };
    let program = std::env::current_exe().expect("this test");
    let held =
        Command::new("taskset").args(["-c", &processor]).arg(program).args(["--exact", NAME]).env(INSIDE, "1").output();
    match held {
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && told.contains("1 passed"), "{told}");
        }
        Err(error) => println!("not asked: no taskset ({error})"),
    }
}

/// The first processor of this process, as Linux lists them: `0-3,8`.
fn first_allowed() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let first = list.trim().split([',', '-']).next()?;
    Some(first.to_owned())
}
