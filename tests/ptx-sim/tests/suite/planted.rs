//! Does the suite notice a broken kernel? Each entry breaks one line of the shipped PTX the way a programmer might; the
//! kernel's own case must then fail, by a finding of the simulator or by the numbers. The bugs are listed with their families.

use crate::common::bugs::{Bug, plant};
use crate::common::cases::{CASES, Case, HOPPER_CASES};
use crate::common::{
    adapt, attention_bugs, elementwise, gemm_bugs, gemv_bugs, parse, ptx, ptx_90a, sample, wgmma_bugs,
};

// A test for each family, so that they run side by side.

#[test]
fn bugs_planted_in_the_kernels_of_adapters_are_caught() {
    catch_all(adapt::BUGS, CASES, ptx);
}

#[test]
fn bugs_planted_in_attention_are_caught() {
    catch_all(attention_bugs::BUGS, CASES, ptx);
}

#[test]
fn bugs_planted_in_elementwise_kernels_are_caught() {
    catch_all(elementwise::BUGS, CASES, ptx);
}

#[test]
fn bugs_planted_in_gemv_are_caught() {
    catch_all(gemv_bugs::BUGS, CASES, ptx);
}

#[test]
fn bugs_planted_in_gemm_are_caught() {
    catch_all(gemm_bugs::BUGS, CASES, ptx);
}

#[test]
fn bugs_planted_in_sampling_are_caught() {
    catch_all(sample::BUGS, CASES, ptx);
}

#[test]
fn bugs_planted_in_kernels_for_hopper_are_caught() {
    catch_all(wgmma_bugs::BUGS, HOPPER_CASES, ptx_90a);
}

fn catch_all(bugs: &[Bug], cases: &[(&str, Case)], text: fn(&str) -> String) {
    let (mut missed, count) = (Vec::new(), bugs.len());
    for bug in bugs {
        let (_, case) = cases.iter().find(|(file, _)| *file == bug.file).expect("a case for each file");
        let module = parse(&plant(bug, &text(bug.file))).unwrap_or_else(|error| panic!("{}: {error}", bug.what));
        match case(&module) {
            Ok(_) => missed.push((bug.file, bug.what)),
            Err(caught) => println!("{}, {}: {caught}", bug.file, bug.what),
        }
    }
    println!("caught {} of {}", count - missed.len(), count);
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}
