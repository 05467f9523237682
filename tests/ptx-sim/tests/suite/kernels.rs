//! Every shipped kernel against f64, in the PTX that ships.

use crate::common::cases::{CASES, Case, HOPPER_CASES};
use crate::common::{parse, ptx, ptx_90a, ptx_folder};

#[test]
fn every_kernel_computes_what_it_should() {
    for (file, case) in CASES {
        check(file, &ptx(file), *case);
    }
}

#[test]
fn every_kernel_for_hopper_computes_what_it_should() {
    for (file, case) in HOPPER_CASES {
        check(file, &ptx_90a(file), *case);
    }
}

/// Right, and every line of every kernel executed, but of the persistent ones: they are the others' tasks once more, and
/// compared with them.
fn check(file: &str, text: &str, case: Case) {
    let module = parse(text).unwrap_or_else(|error| panic!("{file}: {error}"));
    let covered = case(&module).unwrap_or_else(|error| panic!("{file}: {error}"));
    let ran: Vec<&str> = covered.iter().map(|(kernel, _)| *kernel).collect();
    let left_out: Vec<&str> = module.kernels().filter(|kernel| !ran.contains(kernel)).collect();
    assert!(left_out.is_empty(), "{file}: no case runs {left_out:?}");
    for (kernel, coverage) in covered.iter().filter(|_| !file.starts_with("persistent")) {
        let missed: Vec<_> = coverage.missed().filter(|(_, text)| *text != "}").collect();
        assert!(missed.is_empty(), "{kernel}: lines no thread executed: {missed:#?}");
    }
}

#[test]
fn every_shipped_file_has_a_case() {
    for entry in std::fs::read_dir(ptx_folder()).expect("the PTX is part of the repository") {
        let path = entry.expect("readable").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("plain names");
        assert!(CASES.iter().any(|(file, _)| *file == stem), "{stem}.ptx has no case");
    }
}
