//! Each check fires on the smallest kernel that deserves it, and stays silent on the corrected one.

use ptx_sim::{Arg, Counters, Fault, Finding, Launch, LaunchProblem, Memory, Module, Report, Space, launch};

/// Runs a body with `%rd1` = a buffer of 256 initialised u32, `%rd2` = an uninitialised one, `%r0` = the thread's number,
/// and 256 bytes of shared memory `s`.
fn run(body: &str, shape: Launch) -> Result<Report, Finding> {
    let text = format!(
        ".version 7.0\n.target sm_80\n.address_size 64\n.const .align 4 .b8 table[8] = {{1, 2, 3, 4}};
        .entry k(.param .u64 a, .param .u64 b) {{
        .shared .align 16 .b8 s[256]; .local .align 8 .b8 l[16];
        .reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<16>; .reg .f32 %f<16>; .reg .b64 %rd<16>;
        ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; mov.u32 %r0, %tid.x; mul.wide.u32 %rd3, %r0, 4;
        add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3; mov.u64 %rd6, s; add.s64 %rd7, %rd6, %rd3;
        setp.lt.u32 %p1, %r0, 16;
        {body}
        ret; }}"
    );
    let module = Module::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    let mut memory = Memory::new();
    let values: Vec<u32> = (0..256).collect();
    let (a, b) = (memory.upload(&values), memory.alloc(1024));
    launch(&module, "k", &mut memory, shape, &[Arg::Buffer(a), Arg::Buffer(b)])
}

fn fault(body: &str) -> Fault {
    run(body, Launch::new(1, 32)).expect_err(body).fault
}

fn counters(body: &str) -> Counters {
    run(body, Launch::new(1, 32)).unwrap_or_else(|finding| panic!("{finding}")).counters
}

fn fine(body: &str) {
    counters(body);
}

#[test]
fn bounds_and_alignment() {
    assert!(matches!(
        fault("ld.global.u32 %r1, [%rd1+1020];\n ld.global.u32 %r1, [%rd1+1024];"),
        Fault::OutOfBounds { .. }
    ));
    assert!(matches!(fault("ld.global.u32 %r1, [%rd1+-4];"), Fault::OutOfBounds { .. }));
    assert!(matches!(fault("st.shared.u32 [s+256], %r0;"), Fault::OutOfBounds { space: Space::Shared, .. }));
    assert!(matches!(fault("ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1+8];"), Fault::Misaligned { bytes: 16, .. }));
    assert!(matches!(fault("st.local.u32 [l+16], %r0;"), Fault::OutOfBounds { space: Space::Local, .. }));
    assert!(matches!(fault("mov.u64 %rd8, 0; ld.global.u32 %r1, [%rd8];"), Fault::OutOfBounds { .. }));
    fine("prefetch.global.L2 [%rd1+1023];");
    assert!(matches!(fault("prefetch.global.L2 [%rd1+1024];"), Fault::OutOfBounds { .. }));
    assert!(matches!(fault("mov.u64 %rd8, -4; st.u32 [%rd8], %r0;"), Fault::OutOfBounds { .. }));
}

#[test]
fn generic_addresses_reach_every_space() {
    let same = "setp.ne.u32 %p3, %r1, %r0; @%p3 trap;";
    fine(&format!("mov.u64 %rd8, l; cvta.local.u64 %rd9, %rd8; st.u32 [%rd9+4], %r0; ld.local.u32 %r1, [l+4]; {same}"));
    fine(&format!("cvta.shared.u64 %rd9, %rd7; st.u32 [%rd9], %r0; ld.shared.u32 %r1, [%rd7]; {same}"));
    fine(&format!("cvta.to.global.u64 %rd9, %rd4; ld.u32 %r1, [%rd9]; {same}"));
    fine("cvta.shared.u64 %rd9, %rd7; cvta.to.shared.u64 %rd9, %rd9; st.shared.u32 [%rd9], %r0;");
}

#[test]
fn constants_are_read_only() {
    fine("ld.const.u32 %r1, [table];");
    assert!(matches!(fault("mov.u64 %rd8, table; st.global.u32 [%rd8], %r0;"), Fault::ReadOnly { .. }));
}

#[test]
fn uninitialised_memory_and_registers() {
    assert!(matches!(fault("ld.global.u32 %r1, [%rd5];"), Fault::Uninitialised { space: Space::Global, .. }));
    assert!(matches!(fault("ld.shared.u32 %r1, [%rd7];"), Fault::Uninitialised { space: Space::Shared, .. }));
    assert_eq!(fault("add.s32 %r1, %r0, %r2;"), Fault::UndefinedRegister);
    // Written on one side of a branch only.
    assert_eq!(fault("@%p1 mov.u32 %r1, 1; add.s32 %r1, %r1, 1;"), Fault::UndefinedRegister);
}

#[test]
fn races() {
    let exchange = |barrier: &str| {
        format!(
            "st.shared.u32 [%rd7], %r0; {barrier} xor.b32 %r1, %r0, 1; mul.wide.u32 %rd8, %r1, 4;
                 add.s64 %rd8, %rd6, %rd8; ld.shared.u32 %r2, [%rd8];"
        )
    };
    assert!(matches!(fault(&exchange("")), Fault::Race { space: Space::Shared, .. }));
    fine(&exchange("bar.sync 0;"));
    fine(&exchange("bar.warp.sync -1;"));
    // A warp's barrier does not order two warps.
    let far = exchange("bar.warp.sync -1;").replace("%r0, 1;", "%r0, 32;");
    let finding = run(&far, Launch::new(1, 64)).expect_err("a race");
    assert!(matches!(finding.fault, Fault::Race { .. } | Fault::Uninitialised { .. }));
    assert!(matches!(fault("st.global.u32 [%rd1], %r0;"), Fault::Race { thread: 0, .. }));
    // Read, then written by another thread.
    assert!(matches!(fault("ld.global.u32 %r1, [%rd1]; st.global.u32 [%rd4], %r0;"), Fault::Race { .. }));
    // Two warps read; the one that then writes has synchronised only with itself.
    let read_by_all = "ld.global.u32 %r1, [%rd1]; bar.warp.sync -1; setp.eq.u32 %p2, %r0, 40;";
    let finding = run(&format!("{read_by_all} @%p2 st.global.u32 [%rd1], %r0;"), Launch::new(1, 64));
    assert!(matches!(finding.expect_err("a race").fault, Fault::Race { thread: 0..32, .. }));
    // Between blocks no barrier helps.
    let finding = run("bar.sync 0; st.global.u32 [%rd4], %r0;", Launch::new(2, 32)).expect_err("a race");
    assert!(matches!(finding.fault, Fault::Race { block: 0, .. }));
    assert_eq!(finding.place.expect("in a thread").block, [1, 0, 0]);
}

#[test]
fn atomics_do_not_race_with_each_other() {
    fine("red.global.add.u32 [%rd1], 1; atom.global.add.u32 %r1, [%rd1], 1;");
    assert!(matches!(fault("red.global.add.u32 [%rd1], 1; ld.global.u32 %r1, [%rd1];"), Fault::Race { .. }));
}

#[test]
fn barriers_must_be_reached_by_all() {
    assert_eq!(fault("@%p1 bra DONE; bar.sync 0; DONE:"), Fault::BarrierDivergence);
    assert_eq!(fault("@%p1 bra A; bar.sync 0; bra B; A: bar.sync 0; B:"), Fault::BarrierDivergence);
}

#[test]
fn warp_operations_need_their_lanes() {
    let shuffle = |mask: &str| format!("shfl.sync.bfly.b32 %r1, %r0, 1, 31, {mask};");
    fine(&shuffle("-1"));
    assert!(matches!(fault(&shuffle("0xffff")), Fault::OutsideMask { lane: 16, .. }));
    assert!(matches!(fault("@%p1 shfl.sync.bfly.b32 %r1, %r0, 16, 31, 0xffff;"), Fault::OutsideMask { .. }));
    fine("@%p1 shfl.sync.bfly.b32 %r1, %r0, 8, 31, 0xffff;");
    assert_eq!(fault("@%p1 shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1; bar.sync 0;"), Fault::Deadlock);
    let exited = format!("@!%p1 bra GO; ret; GO: {}", shuffle("-1"));
    assert_eq!(fault(&exited), Fault::MissingLanes { missing: 0xffff });
    // Lanes that take different ways to the same shuffle meet there.
    fine(&format!("mov.u32 %r3, 0; @%p1 bra A; mov.u32 %r3, 1; A: {}", shuffle("-1")));
}

#[test]
fn asynchronous_copies() {
    let copy =
        "mul.wide.u32 %rd8, %r0, 16; and.b64 %rd8, %rd8, 255; add.s64 %rd9, %rd1, %rd8; add.s64 %rd8, %rd6, %rd8;
                @%p1 cp.async.cg.shared.global [%rd8], [%rd9], 16; cp.async.commit_group;";
    let read = "@%p1 ld.shared.u32 %r1, [%rd8];";
    fine(&format!("{copy} cp.async.wait_group 0; {read}"));
    fine(&format!("{copy} cp.async.wait_all; {read}"));
    assert!(matches!(fault(&format!("{copy} {read} cp.async.wait_all;")), Fault::InFlight { thread: 0, .. }));
    assert!(matches!(fault(&format!("{copy} cp.async.wait_group 1; {read}")), Fault::InFlight { .. }));
    assert_eq!(fault(copy), Fault::NeverWaited);
    // Waited for, but by another thread, and no barrier.
    let other = "xor.b32 %r2, %r0, 1; mul.wide.u32 %rd8, %r2, 16; add.s64 %rd8, %rd6, %rd8;";
    assert!(matches!(fault(&format!("{copy} cp.async.wait_all; {other} {read}")), Fault::InFlight { thread: 1, .. }));
    fine(&format!("{copy} cp.async.wait_all; bar.sync 0; {other} {read}"));
    // Bytes past the source's valid ones are zero.
    fine(&format!(
        "{} cp.async.wait_all; {read}",
        copy.replace("16; cp", "16, 0; cp").replace("%rd1, %rd8", "%rd2, %rd8")
    ));
}

#[test]
fn endless_loops_and_traps_end() {
    let shape = Launch { steps: 1000, ..Launch::new(1, 1) };
    assert_eq!(run("L: bra L;", shape).expect_err("endless").fault, Fault::OutOfSteps);
    assert_eq!(fault("trap;"), Fault::Trap);
}

#[test]
fn launches_are_checked() {
    let refused = |shape| match run("", shape).expect_err("refused").fault {
        Fault::Launch(problem) => problem,
        other => panic!("{other}"),
    };
    assert!(matches!(refused(Launch::new(1, 1025)), LaunchProblem::Extent { threads: 1025, .. }));
    assert!(matches!(refused(Launch::new(0, 32)), LaunchProblem::Extent { blocks: 0, .. }));
    assert!(matches!(refused(Launch::new(1, 32).shared(1 << 20)), LaunchProblem::Shared { .. }));
    let module = Module::parse(".version 7.0\n.entry k(.param .u32 n) { ret; }").expect("well formed");
    let missing = launch(&module, "k", &mut Memory::new(), Launch::new(1, 1), &[]).expect_err("an argument short");
    assert_eq!(missing.fault, Fault::Launch(LaunchProblem::Argument { index: 0 }));
    assert_eq!(missing.to_string(), "k: argument 0 does not fit the kernel's parameters");
    let unknown = launch(&module, "q", &mut Memory::new(), Launch::new(1, 1), &[]).expect_err("no such kernel");
    assert_eq!(unknown.fault, Fault::Launch(LaunchProblem::NoSuchKernel));
}

#[test]
fn votes_reductions_and_shuffles() {
    // Each check traps if it fails.
    let expect = |what: &str| format!("{what} setp.ne.u32 %p3, %r1, %r2; @%p3 trap;");
    fine(&expect("vote.sync.ballot.b32 %r1, %p1, -1; mov.u32 %r2, 0xffff;"));
    fine(&expect("vote.sync.any.pred %p2, %p1, -1; selp.u32 %r1, 1, 0, %p2; mov.u32 %r2, 1;"));
    fine(&expect("vote.sync.all.pred %p2, !%p1, -1; selp.u32 %r1, 1, 0, %p2; mov.u32 %r2, 0;"));
    fine(&expect("redux.sync.add.u32 %r1, %r0, -1; mov.u32 %r2, 496;"));
    fine(&expect("shfl.sync.idx.b32 %r1, %r0, 5, 31, -1; mov.u32 %r2, 5;"));
    fine(&expect("shfl.sync.up.b32 %r1, %r0, 1, 0, -1; max.u32 %r2, %r0, 1; sub.s32 %r2, %r2, 1;"));
    fine(&expect("shfl.sync.down.b32 %r1, %r0, 1, 31, -1; add.s32 %r2, %r0, 1; min.u32 %r2, %r2, 31;"));
    // Segments of eight: a butterfly that would leave its segment upwards falls back to the lane itself.
    fine(&expect("shfl.sync.bfly.b32 %r1|%p2, %r0, 8, 0x181f, -1; and.b32 %r2, %r0, -9;"));
    fine(&expect("@%p1 bra A; A: activemask.b32 %r1; mov.u32 %r2, -1;"));
}

#[test]
fn structs_are_passed_by_value() {
    let ptx = ".version 8.0
        .target sm_90a
        .address_size 64
        .entry k(.param .align 8 .b8 p[24], .param .u32 n) {
        .reg .b32 %r<6>; .reg .b64 %rd<6>;
        ld.param.u64 %rd1, [p]; ld.param.u32 %r1, [p+8]; ld.param.v2.u32 {%r2, %r3}, [p+16]; ld.param.u32 %r4, [n];
        mov.b64 %rd2, p; cvta.param.u64 %rd3, %rd2; ld.u32 %r5, [%rd3+20]; ld.param.u32 %r1, [%rd2+8];
        add.s32 %r1, %r1, %r2; add.s32 %r1, %r1, %r3; add.s32 %r1, %r1, %r4; add.s32 %r1, %r1, %r5;
        st.global.u32 [%rd1], %r1; ret; }";
    let run = |ptx: &str, bytes: usize| {
        let module = Module::parse(ptx).unwrap_or_else(|error| panic!("{error}"));
        let mut memory = Memory::new();
        let out = memory.alloc(4);
        let mut params = out.address().to_le_bytes().to_vec();
        [1u32, 0, 20, 300].iter().for_each(|word| params.extend(word.to_le_bytes()));
        params.truncate(bytes);
        launch(&module, "k", &mut memory, Launch::new(1, 1), &[Arg::Bytes(params), Arg::U32(4000)])
            .map(|_| memory.read::<u32>(out))
            .map_err(|finding| finding.fault)
    };
    assert_eq!(run(ptx, 24), Ok(Ok(vec![1 + 20 + 300 + 4000 + 300])));
    assert_eq!(run(ptx, 23), Err(Fault::Launch(LaunchProblem::Argument { index: 0 })));
    let written = ptx.replace("ld.u32 %r5, [%rd3+20]", "st.u32 [%rd3+20], %r4");
    assert!(matches!(run(&written, 24), Err(Fault::ReadOnly { .. })));
    let beyond = ptx.replace("[%rd3+20]", "[%rd3+28]");
    assert!(matches!(run(&beyond, 24), Err(Fault::OutOfBounds { space: Space::Param, .. })));
}

#[test]
fn hints_change_nothing() {
    fine(
        "createpolicy.fractional.L2::evict_first.b64 %rd8, 0f3F800000; prefetch.global.L2 [%rd4]; griddepcontrol.wait;
        ld.global.nc.L1::no_allocate.L2::cache_hint.L2::256B.v2.u32 {%r1, %r2}, [%rd1], %rd8; nanosleep.u32 20;
        st.global.L1::no_allocate.L2::cache_hint.u32 [%rd5], %r1, %rd8; setmaxnreg.dec.sync.aligned.u32 40;
        griddepcontrol.launch_dependents; discard.global.L2 [%rd1], 128;",
    );
}

#[test]
fn predefined_registers() {
    let expect = |what: &str| fine(&format!("{what} setp.ne.u32 %p3, %r1, %r2; @%p3 trap;"));
    expect("mov.u32 %r1, %nsmid; mov.u32 %r2, 132;");
    expect("mov.u32 %r1, %smid; mov.u32 %r2, %ctaid.x;");
    expect("mov.u32 %r1, %nwarpid; mov.u32 %r2, 1;");
    expect("mov.u32 %r1, %total_smem_size; mov.u32 %r2, 256;");
    expect("mov.u32 %r1, %lanemask_gt; mov.u32 %r2, %lanemask_le; not.b32 %r2, %r2;");
    expect("mov.u32 %r1, %lanemask_eq; shl.b32 %r2, 1, %laneid;");
    // Time passes.
    fine("mov.u64 %rd8, %clock64; mov.u64 %rd9, %globaltimer; setp.ge.u64 %p3, %rd8, %rd9; @%p3 trap;");
}

#[test]
fn one_lane_is_elected() {
    fine(
        "elect.sync _|%p2, -1; vote.sync.ballot.b32 %r1, %p2, -1; popc.b32 %r2, %r1; setp.ne.u32 %p3, %r2, 1;
        @%p3 trap; @!%p1 elect.sync %r3|%p2, 0xffff0000; @!%p1 setp.ne.u32 %p3, %r3, 16; @%p3 trap;",
    );
    assert!(matches!(fault("elect.sync _|%p2, 0xffff;"), Fault::OutsideMask { lane: 16, .. }));
}

#[test]
fn atomics_of_every_kind() {
    // One thread; %r1 is what was there, %r2 what is there then.
    let expect = |op: &str, ty: &str, before: u32, after: u32| {
        let body = format!(
            "setp.eq.u32 %p2, %r0, 0; @!%p2 bra DONE; mov.u32 %r3, {before}; st.global.u32 [%rd1], %r3;
            atom.relaxed.gpu.global.{op}; ld.global.u32 %r2, [%rd1]; setp.ne.u32 %p3, %r2, {after}; @%p3 trap;
            setp.ne.u32 %p3, %r1, %r3; @%p3 trap; DONE:"
        );
        let body = body.replace(&format!("{ty} %r1"), &format!("{ty} {}", if ty == "f32" { "%f1" } else { "%r1" }));
        let body =
            if ty == "f32" { body.replace("ld.global.u32 %r2", "mov.b32 %r1, %f1; ld.global.u32 %r2") } else { body };
        fine(&body);
    };
    expect("add.u32 %r1, [%rd1], 7", "u32", 5, 12);
    expect("min.s32 %r1, [%rd1], -3", "s32", 5, -3i32 as u32);
    expect("max.u32 %r1, [%rd1], -3", "u32", 5, -3i32 as u32);
    expect("and.b32 %r1, [%rd1], 6", "b32", 5, 4);
    expect("or.b32 %r1, [%rd1], 6", "b32", 5, 7);
    expect("xor.b32 %r1, [%rd1], 6", "b32", 5, 3);
    expect("inc.u32 %r1, [%rd1], 5", "u32", 5, 0);
    expect("dec.u32 %r1, [%rd1], 9", "u32", 0, 9);
    expect("exch.b32 %r1, [%rd1], 9", "b32", 5, 9);
    expect("cas.b32 %r1, [%rd1], 5, 8", "b32", 5, 8);
    expect("cas.b32 %r1, [%rd1], 4, 8", "b32", 5, 5);
    expect("add.f32 %r1, [%rd1], 0f3F800000", "f32", 1.5f32.to_bits(), 2.5f32.to_bits());
    expect("add.f32 %r1, [%rd1], 0f00000001", "f32", 3, 0);
    expect("add.noftz.bf16x2 %r1, [%rd1], 0x3f803f80", "bf16x2", 0x3f80_4000, 0x4000_4040);
    for order in ["", ".relaxed.gpu", ".release.gpu", ".release.cta", ".relaxed.sys"] {
        fine(&format!("red{order}.global.add.u32 [%rd1], 1;"));
    }
    for order in ["", ".relaxed.cta", ".acquire.gpu", ".release.sys", ".acq_rel.gpu"] {
        fine(
            &format!("atom{order}.global.add.u64 %rd8, [%rd1], 1; atom{order}.shared::cta.exch.b32 %r1, [%rd7], 1;")
                .replacen("atom", "st.shared.u32 [%rd7], 3; bar.sync 0; atom", 1),
        );
    }
}

#[test]
fn counters_count_sectors_and_conflicts() {
    let read = counters("ld.global.u32 %r1, [%rd4];");
    assert_eq!((read.global_sectors_read, read.global_bytes_read), (4, 128));
    let strided = counters("shl.b64 %rd8, %rd3, 2; add.s64 %rd8, %rd1, %rd8; ld.global.u32 %r1, [%rd8];");
    assert_eq!((strided.global_sectors_read, strided.global_bytes_read), (16, 128));
    assert_eq!(counters("st.global.u32 [%rd4], %r0;").global_sectors_written, 4);
    let shared = counters("st.shared.u32 [%rd7], %r0;");
    assert_eq!((shared.shared_passes, shared.shared_conflicts), (1, 0));
    let two_lanes = "setp.lt.u32 %p2, %r0, 2; mul.wide.u32 %rd8, %r0, 128; add.s64 %rd8, %rd6, %rd8;";
    let conflict = counters(&format!("{two_lanes} @%p2 st.shared.u32 [%rd8], %r0;"));
    assert_eq!(conflict.shared_conflicts, 1);
}
