//! Bulk copies, mbarriers and `wgmma` by themselves: each correct use passes, and fails without any piece it needs.

use ptx_sim::{Arg, Fault, Finding, Launch, Memory, Module, Swizzle, TensorMap, launch};

/// Runs a body in 128 threads with `%r0` = the thread, `%r1` = `s` (4,096 bytes of shared memory), `%r2` = an mbarrier,
/// initialised for `%r3` = 1 arrival and known to all, `%rd1` = 4,096 bytes of u32, each its index, `%rd2` = as many unwritten,
/// `%r4` = the thread's own 16 bytes of `s`, `%rd3` of the first and `%rd4` of the second array; `%p0` = thread 0. Returns what
/// the second array then holds.
fn small(body: &str) -> Result<Vec<Option<u32>>, Finding> {
    let text = format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.entry k(.param .u64 a, .param .u64 b) {{
        .shared .align 1024 .b8 s[4096]; .shared .align 8 .b8 bar[8];
        .reg .pred %p<8>; .reg .b32 %r<32>; .reg .b64 %rd<16>; .reg .f32 %f<8>;
        ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; mov.u32 %r0, %tid.x; mov.u32 %r1, s; mov.u32 %r2, bar;
        shl.b32 %r5, %r0, 4; add.u32 %r4, %r1, %r5; cvt.u64.u32 %rd5, %r5; add.s64 %rd3, %rd1, %rd5;
        add.s64 %rd4, %rd2, %rd5; setp.eq.u32 %p0, %r0, 0; mov.u32 %r3, 1;
        @%p0 mbarrier.init.shared::cta.b64 [%r2], %r3; @%p0 fence.mbarrier_init.release.cluster; bar.sync 0;
        {body}
        ret; }}"
    );
    let module = Module::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    let mut memory = Memory::new();
    let numbers: Vec<u32> = (0..1024).collect();
    let (a, b) = (memory.upload(&numbers), memory.alloc(4096));
    launch(&module, "k", &mut memory, Launch::new(1, 128), &[Arg::Buffer(a), Arg::Buffer(b)])?;
    Ok(memory.read_partly(b))
}

fn small_fault(body: &str) -> Fault {
    match small(body) {
        Ok(_) => panic!("no finding in {body}"),
        Err(finding) => finding.fault,
    }
}

/// The body without one of its pieces, which must be there.
fn without(body: &str, piece: &str) -> String {
    assert!(body.contains(piece), "{piece}");
    body.replacen(piece, "", 1)
}

const COPY_OUT: &str = "ld.shared.v4.u32 {%r6, %r7, %r8, %r9}, [%r4]; st.global.v4.u32 [%rd4], {%r6, %r7, %r8, %r9};";

fn indices(n: u32) -> Vec<Option<u32>> {
    (0..1024).map(|i| (i < n).then_some(i)).collect()
}

#[test]
fn bulk_copies_come_with_a_barrier() {
    let load = "@!%p0 bra WAIT; mbarrier.arrive.expect_tx.shared::cta.b64 %rd6, [%r2], 2048;
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1], 2048, [%r2];
        WAIT: mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r2], 0; @!%p1 bra WAIT;";
    assert_eq!(small(&format!("{load}{COPY_OUT}")), Ok(indices(512)));
    let early = format!("{}{COPY_OUT}", without(load, "@!%p1 bra WAIT;"));
    assert!(matches!(small_fault(&early), Fault::InFlight { thread: 0, .. } | Fault::Uninitialised { .. }));
    let wait = "mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r2], 0; @!%p1 bra WAIT;";
    assert_eq!(small_fault(&without(load, wait)), Fault::NeverWaited);
    assert!(matches!(small_fault(&load.replace("[%rd1], 2048, ", "[%rd1+8], 2048, ")), Fault::Misaligned { .. }));
    assert!(matches!(small_fault(&load.replace("[%r1], [%rd1]", "[%r1+2192], [%rd1]")), Fault::OutOfBounds { .. }));
    // A phase by the state that an arrival returned, and bytes announced by themselves.
    let state = "@!%p0 bra DONE; mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r2], 16;
        cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r1], [%rd1], 16, [%r2];
        mbarrier.arrive.shared::cta.b64 %rd6, [%r2];
        WAIT: mbarrier.try_wait.shared::cta.b64 %p1, [%r2], %rd6; @!%p1 bra WAIT;";
    assert_eq!(small(&format!("{state} {COPY_OUT} DONE:")), Ok(indices(4)));
    let invalid =
        format!("{state} mbarrier.inval.shared::cta.b64 [%r2]; mbarrier.arrive.shared::cta.b64 _, [%r2]; DONE:");
    assert!(matches!(small_fault(&invalid), Fault::NoMbarrier { .. }));
}

#[test]
fn bulk_stores_read_what_a_proxy_fence_shows() {
    let store =
        "st.shared.v4.u32 [%r4], {%r0, %r0, %r0, %r0}; fence.proxy.async.shared::cta; bar.sync 0; @!%p0 bra DONE;
        cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r1], 2048; cp.async.bulk.commit_group;
        cp.async.bulk.wait_group.read 0; DONE: bar.sync 0; st.shared.u32 [%r4], %r0;";
    let want: Vec<_> = (0..1024).map(|i| (i < 512).then_some(i / 4)).collect();
    assert_eq!(small(store), Ok(want.clone()));
    assert!(matches!(small_fault(&without(store, "fence.proxy.async.shared::cta;")), Fault::MissingProxyFence { .. }));
    let hasty = store.replacen("bar.sync 0; @", "@", 1);
    assert!(matches!(small_fault(&hasty), Fault::Race { .. } | Fault::Uninitialised { .. }));
    // Whoever starts the store may also be the one who fences, after the barrier.
    let late = without(store, "fence.proxy.async.shared::cta;")
        .replace("@!%p0 bra DONE;", "@!%p0 bra DONE; fence.proxy.async;");
    assert_eq!(small(&late), Ok(want));
    // The source is overwritten before it has been read, or the block ends before.
    assert!(matches!(small_fault(&without(store, "cp.async.bulk.wait_group.read 0;")), Fault::InFlight { .. }));
    let end = "cp.async.bulk.wait_group.read 0; DONE: bar.sync 0; st.shared.u32 [%r4], %r0;";
    assert_eq!(small_fault(&store.replace(end, "DONE:")), Fault::NeverWaited);
    // What it wrote is there only after the full wait.
    let back = |wait: &str| store.replace("wait_group.read 0;", &format!("{wait} ld.global.u32 %r6, [%rd2];"));
    assert!(small(&back("wait_group 0;")).is_ok());
    assert!(matches!(small_fault(&back("wait_group.read 0;")), Fault::InFlight { .. }));
}

#[test]
fn copies_of_threads_arrive_at_a_barrier() {
    let copies = "mov.u32 %r3, 128; @%p0 mbarrier.inval.shared::cta.b64 [%r2]; @%p0 mbarrier.init.shared::cta.b64 [%r2], %r3;
        bar.sync 0; cp.async.cg.shared.global [%r4], [%rd3], 16; cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r2];
        WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0; @!%p1 bra WAIT; xor.b32 %r5, %r5, 1008;
        add.u32 %r6, %r1, %r5; ld.shared.v4.u32 {%r6, %r7, %r8, %r9}, [%r6]; st.global.v4.u32 [%rd4], {%r6, %r7, %r8, %r9};";
    let want: Vec<_> = (0..1024u32).map(|i| (i < 512).then_some(i ^ 252)).collect();
    assert_eq!(small(copies), Ok(want));
    assert!(matches!(
        small_fault(&without(copies, "@!%p1 bra WAIT;")),
        Fault::InFlight { .. } | Fault::Uninitialised { .. }
    ));
    // An arrival that the barrier was not initialised for, since it counts itself.
    assert_eq!(small_fault(&copies.replace(".noinc", "")), Fault::Deadlock);
}

/// One product of 64 x 16 by 16 x 8, both without swizzle, all elements 1 but where `%r0` sets them; `KIND` is the opcode's end.
const PRODUCT: &str = "mov.u32 %r6, 0x3f803f80; st.shared.v4.u32 [%r4], {%r6, %r6, %r6, %r6}; FENCE bar.sync 0;
    shr.u32 %r7, %r1, 4; cvt.u64.u32 %rd6, %r7; or.b64 %rd6, %rd6, 0x0000001000080000; mov.f32 %f0, 0f3F800000;
    mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0; wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, A, %rd6, SCALE, SIGN, 1, TRANS;
    wgmma.commit_group.sync.aligned; AFTER wgmma.wait_group.sync.aligned 0;
    st.global.v4.f32 [%rd4], {%f0, %f1, %f2, %f3};";

#[test]
fn products_of_registers_and_plain_layouts() {
    let product = |a: &str, scale: &str, sign: &str, trans: &str| {
        let text = PRODUCT.replace("A, %rd6", &format!("{a}, %rd6")).replace("SCALE", scale).replace("SIGN", sign);
        text.replace("TRANS", trans).replace("FENCE", "fence.proxy.async;").replace("AFTER", "")
    };
    let all = |value: f32| Ok((0..1024).map(|i| (i < 512).then_some(value.to_bits())).collect());
    let registers = "{%r6, %r6, %r6, %r6}";
    assert_eq!(small(&product("%rd6", "1", "1", "0, 0")), all(17.0));
    assert_eq!(small(&product("%rd6", "1", "-1", "1, 1")), all(-15.0));
    assert_eq!(small(&product(registers, "0", "1", "1")), all(16.0));
    let flag = product(registers, "%p1", "1", "0").replace("wgmma.fence", "setp.ne.u32 %p1, %r6, %r6; wgmma.fence");
    assert_eq!(small(&flag), all(16.0));
    // Registers of A may be read, but not written, until the product is waited for.
    let good = product(registers, "1", "1", "0");
    let after = |text: &str| good.replace("wgmma.wait_group", &format!("{text} wgmma.wait_group"));
    assert_eq!(small(&after("mov.b32 %r7, %r6;")), all(17.0));
    assert_eq!(small_fault(&after("mov.u32 %r6, 0;")), Fault::RegisterInFlight);
    // Nobody may write what it still reads, and it must see what was written.
    assert!(matches!(small_fault(&after("bar.sync 0; st.shared.u32 [%r4], %r0;")), Fault::InFlight { .. }));
    assert!(matches!(small_fault(&without(&good, "fence.proxy.async;")), Fault::MissingProxyFence { .. }));
    assert!(matches!(small_fault(&without(&good, "bar.sync 0;")), Fault::Race { .. } | Fault::Uninitialised { .. }));
    assert_eq!(small_fault(&without(&good, "wgmma.fence.sync.aligned;")), Fault::MissingWgmmaFence);
}

#[test]
fn boxes_go_through_shared_memory_in_three_dimensions() {
    let ptx = ".version 8.0\n.target sm_90a\n.address_size 64
        .entry k(.param .align 64 .b8 from[128], .param .align 64 .b8 to[128], .param .u32 x, .param .u32 y, .param .u32 z) {
        .shared .align 1024 .b8 s[1024]; .shared .align 8 .b8 bar[8];
        .reg .pred %p<3>; .reg .b32 %r<8>; .reg .b64 %rd<4>;
        mov.u32 %r1, s; mov.u32 %r2, bar; mov.b64 %rd1, from; cvta.param.u64 %rd1, %rd1; mov.b64 %rd2, to;
        cvta.param.u64 %rd2, %rd2; ld.param.u32 %r3, [x]; ld.param.u32 %r4, [y]; ld.param.u32 %r5, [z];
        mbarrier.init.shared::cta.b64 [%r2], 1; fence.proxy.async; mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 512;
        cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r3, %r4, %r5}], [%r2];
        WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0, 1000; @!%p1 bra WAIT;
        cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%rd2, {%r3, %r4, %r5}], [%r1];
        cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; ret; }";
    let module = Module::parse(ptx).unwrap_or_else(|error| panic!("{error}"));
    let (dims, extent) = ([20usize, 6, 5], [16usize, 4, 2]);
    for (swizzle, at) in [(Swizzle::B64, [0i32, 0, 0]), (Swizzle::B64, [-4, 3, 4]), (Swizzle::None, [8, -1, -1])] {
        let mut memory = Memory::new();
        let numbers: Vec<u32> = (0..600).collect();
        let (a, b) = (memory.upload(&numbers), memory.alloc(2400));
        let map = |buffer: ptx_sim::Buffer| {
            let map = TensorMap {
                address: buffer.address(),
                element: 4,
                dims: dims.map(|n| n as u64).to_vec(),
                strides: vec![80, 480],
                extent: extent.map(|n| n as u32).to_vec(),
                swizzle,
            };
            Arg::Bytes(map.encode().expect("within the rules").to_vec())
        };
        let args = [vec![map(a), map(b)], at.map(|n| Arg::U32(n as u32)).to_vec()].concat();
        launch(&module, "k", &mut memory, Launch::new(1, 1), &args).unwrap_or_else(|finding| panic!("{finding}"));
        let inside = |i: usize| {
            let place = [i % 20, i / 20 % 6, i / 120].map(|n| n as i32);
            (0..3).all(|axis| (at[axis]..at[axis] + extent[axis] as i32).contains(&place[axis]))
        };
        let want: Vec<_> = (0..600).map(|i| inside(i).then_some(i as u32)).collect();
        assert_eq!(memory.read_partly::<u32>(b), want, "{swizzle:?} {at:?}");
    }
}
