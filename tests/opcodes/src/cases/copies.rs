//! Asynchronous copies to shared memory (PTX ISA 9.7.9.25).

use super::any;
use crate::case::Case;
use crate::judge::Judge;
use crate::values::Domain;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (how, bytes) in [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)] {
        let form = format!("cp.async.{how}.shared.global");
        cases.push(copy(&format!("{form} ({bytes})"), &format!("{form} [%r2], [%in], {bytes};"), WAIT, bytes));
        let part = format!("{form} [%r2], [%in], {bytes}, %s2;");
        let label = format!("{form} ({bytes}, partly)");
        let case = copy(&label, &part, WAIT, bytes);
        cases.push(Case { sources: vec![any(64), any(64), (32, Domain::Below(bytes + 1)), any(64)], ..case });
    }
    let sixteen = "cp.async.cg.shared.global [%r2], [%in], 16;";
    cases.push(copy("cp.async.wait_all", sixteen, "cp.async.wait_all;", 16));
    cases.push(copy("cp.async.commit_group", sixteen, WAIT, 16));
    let hint = "cp.async.cg.shared.global.L2::128B [%r2], [%in], 16;";
    cases.push(copy("cp.async.cg.shared.global.L2::128B", hint, WAIT, 16));
    // The older group is awaited, the younger afterwards.
    let groups = "cp.async.ca.shared.global [%r2], [%in], 8; cp.async.commit_group;
        cp.async.ca.shared.global [%r2+8], [%in+8], 8;";
    let one_by_one = "cp.async.commit_group; cp.async.wait_group 1; ld.shared.b64 %d0, [%r2]; cp.async.wait_group 0;";
    cases.push(copy("cp.async.wait_group", groups, one_by_one, 16));
    cases
}

const WAIT: &str = "cp.async.commit_group; cp.async.wait_group 0;";

/// Copies from the thread's operands to its 16 bytes of shared memory, which held something else.
fn copy(form: &str, copy: &str, wait: &str, bytes: u64) -> Case {
    let fill = "st.shared.b64 [%r2], -1; st.shared.b64 [%r2+8], -1;";
    let fill = if bytes == 16 { "" } else { fill };
    let body = format!(
        "mov.u32 %r2, shared; mad.lo.u32 %r2, %t, 16, %r2; {fill} {copy} {wait}
        ld.shared.b64 %d0, [%r2]; ld.shared.b64 %d1, [%r2+8];"
    );
    // Four slots, so that every thread's operands begin at a multiple of 16.
    Case::with(form, &body, &[64; 2], &[any(64); 4], Judge::Bits)
}
