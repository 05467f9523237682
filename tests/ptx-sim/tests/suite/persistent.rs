//! The persistent kernels against the separate ones, and what happens where one line of them is wrong. (Their cases are among
//! the others' in kernels.rs; the bugs have a smaller one.)

use crate::common::bugs::{Bug, bug, plant};
use crate::common::{parse, persistent, ptx};

#[rustfmt::skip]
const BUGS: &[Bug] = &[
    // The barrier over the grid.
    bug("block arrives before its threads are done", "persistent", ("bar.sync", 0), "", ""),
    bug("arrival does not release", "persistent", ("atom.acq_rel.gpu", 0), "acq_rel", "acquire"),
    bug("last arrival does not acquire", "persistent", ("atom.acq_rel.gpu", 0), "acq_rel", "release"),
    bug("generation not released", "persistent", ("st.release.gpu", 0), "release", "relaxed"),
    bug("generation not acquired", "persistent", ("ld.acquire.gpu", 1), "acquire", "relaxed"),
    bug("any generation taken for the next", "persistent", ("setp.eq.s32 \t%p17, %r3677", 0), "%r11", "%r3677"),
    bug("waited until the generation is another", "persistent", ("setp.ne.s32 \t%p18, %r3679", 0), "setp.ne", "setp.eq"),
    bug("generation not told", "persistent", ("st.release.gpu", 0), "", ""),
    bug("arrivals not set back", "persistent", ("atom.acq_rel.gpu", 0), ".inc.", ".add."),
    bug("one arrival too many expected", "persistent", ("add.s32 \t%r3661", 0), ", -1", ", 0"),
    bug("one arrival too few expected", "persistent", ("add.s32 \t%r3661", 0), ", -1", ", -2"),
    // Instructions.
    bug("next instruction not waited for", "persistent", ("cp.async.wait_all", 0), "", ""),
    bug("barrier dropped between its copy and its use", "persistent", ("bar.sync", 2), "", ""),
    bug("barrier dropped between its move and its use", "persistent", ("bar.sync", 3), "", ""),
    bug("last chunk of an instruction left behind", "persistent", ("setp.gt.u32 \t%p19, %r1, 12", 0), ", 12", ", 11"),
    // Tasks and weights fetched ahead.
    bug("one task too many", "persistent", ("setp.lt.u32 \t%p9, %r3653", 0), "setp.lt", "setp.le"),
    bug("tasks of other blocks done again", "persistent", ("add.s32 \t%r13725, %r3645", 0), "%r3646", "1"),
    bug("barrier dropped between a task's number and its use", "persistent", ("bar.sync", 1), "", ""),
    bug("fetched past the end of a segment", "persistent", ("min.u32 \t%r3676", 0), "min", "max"),
    bug("fetched by a block without a row group", "persistent", ("setp.ge.u32 \t%p14, %r9", 0), "setp.ge", "setp.gt"),
    // Attention over blocks.
    bug("tiles begin anywhere", "persistent", (".extern .shared", 0), ".align 1024", ".align 16"),
    bug("fence dropped before the arrival of a part", "persistent", ("membar.gl", 0), "", ""),
];

#[test]
fn planted_bugs_are_caught() {
    let text = ptx("persistent");
    persistent::small_case(&parse(&text).expect("shipped PTX")).expect("no bug, no finding");
    let mut missed = Vec::new();
    for bug in BUGS {
        let module = parse(&plant(bug, &text)).unwrap_or_else(|error| panic!("{}: {error}", bug.what));
        match persistent::small_case(&module) {
            Ok(_) => missed.push(bug.what),
            Err(caught) => println!("{}: {caught}", bug.what),
        }
    }
    println!("caught {} of {}", BUGS.len() - missed.len(), BUGS.len());
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}
