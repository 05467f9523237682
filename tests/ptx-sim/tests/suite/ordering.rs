//! What orders accesses: the block's barriers, fences, atomics, grids that synchronise. Every correct pattern passes, and
//! fails as soon as one of its pieces is missing.

use ptx_sim::{Arg, Fault, Finding, Launch, Memory, Module, Report, launch};

/// Runs a body with `%rd1` = 1,024 u32, all zero, `%rd2` = as many unwritten ones, `%r0` = the thread, `%r1` = the block,
/// `%r2` = the number of blocks, `%rd3` and `%rd4` the thread's own of 64 elements a block in both, `%p1` = thread 0, and
/// 256 bytes of shared memory `s` with `%rd5` the thread's own element.
fn run(body: &str, shape: Launch) -> Result<Report, Finding> {
    let text = format!(
        ".version 8.0\n.target sm_90a\n.address_size 64
        .entry k(.param .u64 a, .param .u64 b) {{
        .shared .align 16 .b8 s[256];
        .reg .pred %p<8>; .reg .b32 %r<16>; .reg .b64 %rd<16>;
        ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x;
        mov.u32 %r2, %nctaid.x; mad.lo.u32 %r3, %r1, 64, %r0; mul.wide.u32 %rd6, %r3, 4; add.s64 %rd3, %rd1, %rd6;
        add.s64 %rd4, %rd2, %rd6; mul.wide.u32 %rd7, %r0, 4; mov.u64 %rd8, s; add.s64 %rd5, %rd8, %rd7;
        setp.eq.u32 %p1, %r0, 0;
        {body}
        ret; }}"
    );
    let module = Module::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut memory = Memory::new();
    let (a, b) = (memory.upload(&[0u32; 1024]), memory.alloc(4096));
    launch(&module, "k", &mut memory, shape, &[Arg::Buffer(a), Arg::Buffer(b)])
}

fn fine(body: &str, shape: Launch) -> Report {
    run(body, shape).unwrap_or_else(|finding| panic!("{finding}\n{body}"))
}

fn fault(body: &str, shape: Launch) -> Fault {
    match run(body, shape) {
        Ok(_) => panic!("no finding in {body}"),
        Err(finding) => finding.fault,
    }
}

/// The body without one of its pieces, which must be there.
fn without(body: &str, piece: &str) -> String {
    assert!(body.contains(piece), "{piece}");
    body.replacen(piece, "", 1)
}

fn is_race(fault: Fault) -> bool {
    matches!(fault, Fault::Race { .. } | Fault::Uninitialised { .. })
}

#[test]
fn barriers_for_a_part_of_the_block() {
    // Warps 0 and 1 exchange through barrier 1, warps 2 and 3 through barrier 2 later; %r4 is the pair's barrier.
    let body = "and.b32 %r3, %r0, 31; st.shared.u32 [%rd5], %r0; shr.u32 %r4, %r0, 6; add.u32 %r4, %r4, 1;
        bar.sync %r4, 64; xor.b32 %r5, %r0, 32; mul.wide.u32 %rd9, %r5, 4; add.s64 %rd9, %rd8, %rd9;
        ld.shared.u32 %r6, [%rd9]; setp.ne.u32 %p2, %r6, %r5; @%p2 trap;";
    let shape = Launch::new(1, 64);
    assert_eq!(fine(body, shape).counters.barriers, 1);
    assert!(is_race(fault(&without(body, "bar.sync %r4, 64;"), shape)));
    // A barrier of one warp orders nothing between two.
    let alone = body.replace("bar.sync %r4, 64;", "shr.u32 %r4, %r0, 5; bar.sync %r4, 32;");
    assert!(is_race(fault(&alone, shape)));
    assert!(matches!(fault("bar.sync 16, 64;", shape), Fault::BadBarrier { id: 16, .. }));
    assert!(matches!(fault("bar.sync 1, 48;", shape), Fault::BadBarrier { threads: 48, .. }));
    assert!(matches!(fault("bar.sync 1, 96;", shape), Fault::BadBarrier { threads: 96, .. }));
    // Nobody else comes.
    let half = "setp.lt.u32 %p2, %r0, 32; @%p2 bar.sync 1, 64;";
    assert_eq!(fault(half, shape), Fault::BarrierDivergence);
}

#[test]
fn a_producer_arrives_and_a_consumer_waits() {
    let body = "setp.lt.u32 %p2, %r0, 32; @!%p2 bra CONSUMER;
        st.shared.u32 [%rd5], %r0; bar.arrive 1, 64; bar.sync 2, 64; st.shared.u32 [%rd5], %r0; bra DONE;
        CONSUMER: bar.sync 1, 64; ld.shared.u32 %r4, [%rd5+-128]; bar.arrive 2, 64; DONE:";
    let shape = Launch::new(1, 64);
    fine(body, shape);
    // The slot is filled again before the consumer has read it, or read before it is filled.
    let early = body.replace("bar.sync 2, 64;", "bar.arrive 2, 64;");
    assert!(is_race(fault(&early, shape)));
    let unread = body.replace("bar.sync 1, 64; ld", "bar.arrive 1, 64; ld");
    assert!(is_race(fault(&unread, shape)));
}

#[test]
fn barriers_reduce() {
    let expect = |op: &str, want: u32| {
        let body = format!("setp.lt.u32 %p2, %r0, 40; {op} setp.ne.u32 %p4, %r4, {want}; @%p4 trap;");
        fine(&body, Launch::new(1, 64));
    };
    expect("bar.red.popc.u32 %r4, 0, %p2;", 40);
    expect("bar.red.popc.u32 %r4, 0, 64, !%p2;", 24);
    expect("bar.red.and.pred %p3, 0, %p2; selp.u32 %r4, 1, 0, %p3;", 0);
    expect("barrier.cta.red.or.pred %p3, 0, %p2; selp.u32 %r4, 1, 0, %p3;", 1);
}

/// Every block writes; the last to arrive reads what all have written.
const LAST_BLOCK: &str = "st.global.u32 [%rd4], %r0; bar.sync 0; @!%p1 bra WAIT;
    membar.gl; add.u32 %r4, %r2, -1; atom.global.inc.u32 %r5, [%rd1], %r4; fence.acq_rel.gpu; st.shared.u32 [s], %r5;
    WAIT: bar.sync 0; ld.shared.u32 %r5, [s]; add.u32 %r4, %r2, -1; setp.ne.u32 %p2, %r5, %r4; @%p2 ret;
    mov.u32 %r6, 0; mov.u32 %r7, 0;
    LOOP: mad.lo.u32 %r8, %r6, 64, %r0; mul.wide.u32 %rd9, %r8, 4; add.s64 %rd9, %rd2, %rd9; ld.global.u32 %r9, [%rd9];
    add.u32 %r7, %r7, %r9; add.u32 %r6, %r6, 1; setp.lt.u32 %p3, %r6, %r2; @%p3 bra LOOP;
    mul.lo.u32 %r8, %r0, %r2; setp.ne.u32 %p4, %r7, %r8; @%p4 trap;";

#[test]
fn the_last_block_reads_what_the_others_wrote() {
    for shape in [Launch::new(4, 64), Launch::new(4, 64).cooperative()] {
        fine(LAST_BLOCK, shape);
        for piece in ["bar.sync 0; @", "membar.gl;", "fence.acq_rel.gpu;"] {
            let kept = if piece.ends_with('@') { "@" } else { "" };
            assert!(is_race(fault(&LAST_BLOCK.replacen(piece, kept, 1), shape)), "{piece}");
        }
        // A fence for the block alone is too weak.
        assert!(is_race(fault(&LAST_BLOCK.replace("membar.gl", "membar.cta"), shape)));
        let ordered = without(&without(LAST_BLOCK, "membar.gl;"), "fence.acq_rel.gpu;");
        fine(&ordered.replace("atom.global", "atom.acq_rel.gpu.global"), shape);
        assert!(is_race(fault(&ordered.replace("atom.global", "atom.acquire.gpu.global"), shape)));
        assert!(is_race(fault(&ordered.replace("atom.global", "atom.release.gpu.global"), shape)));
        assert!(is_race(fault(&ordered.replace("atom.global", "atom.acq_rel.cta.global"), shape)));
    }
    // Every writer fences before the barrier instead.
    let writers = without(LAST_BLOCK, "membar.gl;").replacen("bar.sync 0;", "membar.gl; bar.sync 0;", 1);
    fine(&writers, Launch::new(4, 64));
    // Every reader fences after it.
    let readers =
        without(LAST_BLOCK, "fence.acq_rel.gpu;").replacen("WAIT: bar.sync 0;", "WAIT: bar.sync 0; membar.gl;", 1);
    fine(&readers, Launch::new(4, 64));
}

/// All blocks meet: each writes its own elements, then reads those of the next.
const GRID_BARRIER: &str = "st.global.u32 [%rd4], %r3; bar.sync 0; @!%p1 bra WAIT;
    fence.acq_rel.gpu; red.global.add.u32 [%rd1], 1;
    SPIN: ld.acquire.gpu.global.u32 %r5, [%rd1]; setp.lt.u32 %p2, %r5, %r2; @%p2 bra SPIN;
    WAIT: bar.sync 0; add.u32 %r6, %r1, 1; rem.u32 %r6, %r6, %r2; mad.lo.u32 %r6, %r6, 64, %r0;
    mul.wide.u32 %rd9, %r6, 4; add.s64 %rd9, %rd2, %rd9; ld.global.u32 %r7, [%rd9]; setp.ne.u32 %p3, %r7, %r6; @%p3 trap;";

#[test]
fn a_grid_meets() {
    let shape = Launch { steps: 20_000, ..Launch::new(8, 64).cooperative() };
    fine(GRID_BARRIER, shape);
    assert!(is_race(fault(&without(GRID_BARRIER, "fence.acq_rel.gpu;"), shape)));
    assert!(is_race(fault(&GRID_BARRIER.replacen("bar.sync 0;", "", 1), shape)));
    assert!(is_race(fault(&GRID_BARRIER.replace("WAIT: bar.sync 0;", "WAIT:"), shape)));
    assert!(is_race(fault(&GRID_BARRIER.replace("ld.acquire.gpu", "ld.relaxed.gpu"), shape)));
    assert!(is_race(fault(&GRID_BARRIER.replace("ld.acquire.gpu", "ld.acquire.cta"), shape)));
    let volatile = GRID_BARRIER.replace("ld.acquire.gpu", "ld.volatile");
    assert!(is_race(fault(&volatile, shape)));
    fine(&volatile.replace("@%p2 bra SPIN;", "@%p2 bra SPIN; fence.acq_rel.gpu;"), shape);
    // A plain load of the counter races with the others' atomics.
    assert!(is_race(fault(&GRID_BARRIER.replace("ld.acquire.gpu", "ld"), shape)));
    let released = without(GRID_BARRIER, "fence.acq_rel.gpu;").replace("red.global", "red.release.gpu.global");
    fine(&released, shape);
    // Waiting for one block too many, or for blocks that do not live at the same time, never ends.
    assert_eq!(fault(&GRID_BARRIER.replace("setp.lt.u32", "setp.le.u32"), shape), Fault::Deadlock);
    assert_eq!(fault(GRID_BARRIER, Launch::new(8, 64)), Fault::Deadlock);
}

#[test]
fn flags_hand_data_over() {
    // Block 0 writes 64 elements and raises a flag; block 1 waits for it, and answers with another.
    let body = "setp.ne.u32 %p2, %r1, 0; @%p2 bra TAKER;
        st.global.u32 [%rd4], %r0; bar.sync 0; mov.u32 %r4, 1; @%p1 st.release.gpu.global.u32 [%rd1], %r4;
        @!%p1 bra DONE; BACK: ld.acquire.gpu.global.u32 %r5, [%rd1+4]; setp.eq.u32 %p3, %r5, 0; @%p3 bra BACK;
        st.global.u32 [%rd2+4], %r5; bra DONE;
        TAKER: @!%p1 bra MEET; SPIN: ld.acquire.gpu.global.u32 %r5, [%rd1]; setp.eq.u32 %p3, %r5, 0; @%p3 bra SPIN;
        MEET: bar.sync 0; ld.global.u32 %r6, [%rd4+-256]; setp.ne.u32 %p4, %r6, %r0; @%p4 trap; bar.sync 0;
        mov.u32 %r4, 1; @%p1 st.release.gpu.global.u32 [%rd1+4], %r4; DONE:";
    let shape = Launch::new(2, 64).cooperative();
    fine(body, shape);
    assert!(is_race(fault(&body.replacen("st.release.gpu", "st.relaxed.gpu", 1), shape)));
    assert!(is_race(fault(
        &body.replace("@%p1 st.release.gpu.global.u32 [%rd1+4]", "@%p1 st.relaxed.gpu.global.u32 [%rd1+4]"),
        shape
    )));
    assert!(is_race(fault(
        &body.replacen("ld.acquire.gpu.global.u32 %r5, [%rd1];", "ld.relaxed.gpu.global.u32 %r5, [%rd1];", 1),
        shape
    )));
    assert!(is_race(fault(&body.replace("@%p4 trap; bar.sync 0;", "@%p4 trap;"), shape)));
    // A plain store raises no flag.
    assert!(is_race(fault(&body.replacen("st.release.gpu", "st", 1), shape)));
}

#[test]
fn warps_that_spin_let_others_run() {
    // Warp 0 waits in shared memory for warp 1, which first computes for long.
    let body = "@%p1 st.shared.u32 [s], %r1; bar.sync 0; setp.lt.u32 %p2, %r0, 32; @!%p2 bra WORK;
        SPIN: ld.acquire.cta.shared.u32 %r4, [s]; setp.eq.u32 %p3, %r4, 0; @%p3 bra SPIN; bra DONE;
        WORK: mov.u32 %r5, 0; LOOP: add.u32 %r5, %r5, 1; setp.lt.u32 %p4, %r5, 100000; @%p4 bra LOOP;
        setp.eq.u32 %p5, %r0, 32; @%p5 st.release.cta.shared.u32 [s], %r5; DONE:";
    let report = fine(body, Launch::new(1, 64));
    assert!(report.counters.warp_instructions < 310_000, "{}", report.counters.warp_instructions);
    assert_eq!(
        fault(&body.replace("@%p5 st.release.cta.shared.u32 [s], %r5;", ""), Launch::new(1, 64)),
        Fault::Deadlock
    );
    // Threads of one warp that wait for each other.
    let lanes = "setp.eq.u32 %p2, %r0, 1; @%p1 st.shared.u32 [s], %r1; bar.sync 0; @%p2 bra GIVE;
        TAKE: ld.acquire.cta.shared.u32 %r4, [s]; setp.eq.u32 %p3, %r4, 0; @%p3 bra TAKE; bra DONE;
        GIVE: mov.u32 %r5, 1; st.release.cta.shared.u32 [s], %r5; DONE:";
    fine(lanes, Launch::new(1, 32));
}

#[test]
fn cooperative_grids_must_fit() {
    let most = |threads| match fault("", Launch::new(5000, threads).cooperative()) {
        Fault::Launch(ptx_sim::LaunchProblem::Cooperative { most, .. }) => most,
        other => panic!("{other}"),
    };
    assert_eq!([most(1024), most(256), most(32)], [264, 1056, 4224]);
}

#[test]
fn warp_barriers_order_those_they_name() {
    let body = "st.shared.u32 [%rd5], %r0; bar.warp.sync MASK; xor.b32 %r4, %r0, 1; mul.wide.u32 %rd9, %r4, 4;
        add.s64 %rd9, %rd8, %rd9; ld.shared.u32 %r5, [%rd9];";
    let some = "setp.lt.u32 %p2, %r0, 8; @!%p2 ret;";
    fine(&format!("{some} {}", body.replace("MASK", "0xff")), Launch::new(1, 32));
    // Two halves of the lanes, each by itself.
    let halves = "setp.lt.u32 %p3, %r0, 4; @%p3 bra LOW; bar.warp.sync 0xf0; bra MET; LOW: bar.warp.sync 0x0f; MET:";
    let across = body.replace("bar.warp.sync MASK;", halves).replace("%r0, 1; mul", "%r0, 4; mul");
    assert!(is_race(fault(&format!("{some} {across}"), Launch::new(1, 32))));
    fine(&format!("{some} {}", body.replace("bar.warp.sync MASK;", halves)), Launch::new(1, 32));
}
