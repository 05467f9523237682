//! The list of cases against what there is: the simulator's mnemonics, and the forms that the shipped kernels use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use opcodes::cases;

#[test]
fn every_mnemonic_of_the_simulator_has_a_case() {
    let all = cases::all();
    let tried: BTreeSet<&str> = all.iter().filter_map(|case| case.opcode().split('.').next()).collect();
    let without: BTreeSet<&str> = cases::WITHOUT.iter().map(|(mnemonic, _)| *mnemonic).collect();
    let missing: Vec<&&str> =
        ptx_sim::MNEMONICS.iter().filter(|name| !tried.contains(**name) && !without.contains(**name)).collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
    let stale: Vec<_> = without.iter().filter(|name| tried.contains(**name)).collect();
    assert!(stale.is_empty(), "there are cases for {stale:?}");
}

#[test]
fn labels_are_unique() {
    let all = cases::all();
    let labels: BTreeSet<&str> = all.iter().map(|case| case.form.as_str()).collect();
    assert_eq!(labels.len(), all.len());
}

/// Whether an opcode cannot have a case.
fn is_without(opcode: &str) -> bool {
    cases::WITHOUT.iter().any(|(mnemonic, _)| opcode.split('.').next() == Some(*mnemonic))
}

fn ptx_files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../llama-cuda/ptx");
    let sets = ["compute_80", "compute_90a"].map(|set| root.join(set));
    let files = sets.iter().flat_map(|set| std::fs::read_dir(set).unwrap());
    files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "ptx")).collect()
}

/// The opcode of a line of PTX, if it has one.
fn opcode(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = if line.starts_with('@') { line.split_once(char::is_whitespace)?.1.trim_start() } else { line };
    let word = line.split([' ', '\t', ';']).next()?;
    let is_opcode = word.starts_with(|c: char| c.is_ascii_lowercase()) && !word.ends_with(':');
    is_opcode.then_some(word)
}

#[test]
fn opcodes_are_found_in_lines() {
    assert_eq!(opcode("\t@!%p1 bra \t$L__BB0_2;"), Some("bra"));
    assert_eq!(opcode("    add.s32 \t%r1, %r2, 1;"), Some("add.s32"));
    assert_eq!(opcode("\tret;"), Some("ret"));
    for other in ["$L__BB0_2:", ".reg .b32 %r<3>;", "// add.s32", "{", ""] {
        assert_eq!(opcode(other), None);
    }
}

#[test]
fn every_form_of_the_shipped_kernels_has_a_case() {
    let all = cases::all();
    let tried: BTreeSet<&str> = all.iter().map(|case| case.opcode()).collect();
    let files = ptx_files();
    assert!(files.len() > 10, "{files:?}");
    let mut missing: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let unknown = text.lines().filter_map(opcode).filter(|opcode| !tried.contains(opcode) && !is_without(opcode));
        missing.extend(unknown.map(|opcode| (opcode.to_owned(), file.clone())));
    }
    assert!(missing.is_empty(), "no case for {missing:#?}");
}
