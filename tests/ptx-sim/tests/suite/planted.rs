//! Does the suite notice a broken kernel? Each entry breaks one line of the shipped PTX the way a programmer might; the
//! kernel's own case must then fail, by a finding of the simulator or by the numbers. The bugs are listed with their families.

use crate::common::bugs::{Bug, plant};
use crate::common::cases::{CASES, Case, HOPPER_CASES};
use crate::common::{attention_bugs, elementwise, gemm_bugs, gemv_bugs, parse, ptx, ptx_90a, sample, wgmma_bugs};

#[test]
fn planted_bugs_are_caught() {
    let bugs = attention_bugs::BUGS
        .iter()
        .chain(elementwise::BUGS.iter())
        .chain(gemv_bugs::BUGS.iter())
        .chain(gemm_bugs::BUGS.iter())
        .chain(sample::BUGS.iter());
    catch_all(bugs, CASES, ptx);
}

#[test]
fn bugs_planted_in_kernels_for_hopper_are_caught() {
    catch_all(wgmma_bugs::BUGS.iter(), HOPPER_CASES, ptx_90a);
}

fn catch_all<'a>(bugs: impl Iterator<Item = &'a Bug> + Clone, cases: &[(&str, Case)], text: fn(&str) -> String) {
    let (mut missed, count) = (Vec::new(), bugs.clone().count());
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
