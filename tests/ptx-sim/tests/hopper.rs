//! A matrix product as Hopper does it: one thread fills a ring of slots by TMA, four warps multiply what is there. The
//! correct kernel passes in every layout; each thing it needs, taken away or done wrongly, is found.

mod common;

use common::{Rng, from_bf16};
use ptx_sim::{Arg, Counters, Fault, Finding, Launch, Memory, Module, Swizzle, TensorMap, launch};

const M: usize = 64;
const N: usize = 16;
/// Inputs of a slot: as many as the widest swizzle spans.
const STEP: usize = 64;

/// The kernel; `SPAN` stands for the bytes of a row of a box, `MODE` for the descriptor's swizzle, `INPUTS` for a slot's.
const KERNEL: &str = "
.version 8.0
.target sm_90a
.address_size 64
.entry k(.param .align 64 .b8 ma[128], .param .align 64 .b8 mb[128], .param .u64 out, .param .u32 inputs)
{
.shared .align 1024 .b8 sa[16384];
.shared .align 1024 .b8 sb[4096];
.shared .align 8 .b8 bars[32];
.reg .pred %p<8>; .reg .b32 %r<32>; .reg .b64 %rd<32>; .reg .f32 %f<8>;
mov.u32 %r0, %tid.x;
shr.u32 %r1, %r0, 5;
and.b32 %r2, %r0, 31;
ld.param.u32 %r3, [inputs];
mov.u32 %r10, sa; mov.u32 %r11, sb; mov.u32 %r12, bars;
mov.b64 %rd1, ma; cvta.param.u64 %rd1, %rd1;
mov.b64 %rd2, mb; cvta.param.u64 %rd2, %rd2;
setp.eq.u32 %p0, %r0, 0;
@!%p0 bra READY;
mbarrier.init.shared::cta.b64 [%r12], 1;
mbarrier.init.shared::cta.b64 [%r12+8], 1;
mbarrier.init.shared::cta.b64 [%r12+16], 4;
mbarrier.init.shared::cta.b64 [%r12+24], 4;
fence.mbarrier_init.release.cluster;
READY:
bar.sync 0;
mov.u32 %r4, 0;
mov.u32 %r5, 0;
setp.ne.u32 %p1, %r1, 4;
@%p1 bra CONSUMER;
setp.ne.u32 %p2, %r2, 0;
@%p2 bra DONE;
PRODUCER:
and.b32 %r6, %r4, 1;
shl.b32 %r7, %r6, 3; add.u32 %r13, %r12, %r7; add.u32 %r14, %r13, 16;
shr.u32 %r8, %r4, 1; and.b32 %r8, %r8, 1; xor.b32 %r8, %r8, 1;
EMPTY:
mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r14], %r8;
@!%p3 bra EMPTY;
mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r13], BYTES;
mad.lo.u32 %r15, %r6, 8192, %r10; mad.lo.u32 %r16, %r6, 2048, %r11;
mov.u32 %r17, 0;
cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r15], [%rd1, {%r5, %r17}], [%r13];
cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r16], [%rd2, {%r5, %r17}], [%r13];
add.u32 %r4, %r4, 1; add.u32 %r5, %r5, INPUTS;
setp.lt.u32 %p4, %r5, %r3;
@%p4 bra PRODUCER;
bra DONE;
CONSUMER:
mov.f32 %f0, 0f00000000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;
mov.f32 %f4, %f0; mov.f32 %f5, %f0; mov.f32 %f6, %f0; mov.f32 %f7, %f0;
LOOP:
and.b32 %r6, %r4, 1;
shl.b32 %r7, %r6, 3; add.u32 %r13, %r12, %r7; add.u32 %r14, %r13, 16;
shr.u32 %r8, %r4, 1; and.b32 %r8, %r8, 1;
FULL:
mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r13], %r8;
@!%p3 bra FULL;
mad.lo.u32 %r15, %r6, 8192, %r10; mad.lo.u32 %r16, %r6, 2048, %r11;
shr.u32 %r15, %r15, 4; shr.u32 %r16, %r16, 4;
cvt.u64.u32 %rd3, %r15; cvt.u64.u32 %rd4, %r16;
or.b64 %rd3, %rd3, MODE; or.b64 %rd4, %rd4, MODE;
wgmma.fence.sync.aligned;
mov.u32 %r9, 0;
MULTIPLY:
wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7}, %rd3, %rd4, 1, 1, 1, 0, 0;
add.s64 %rd3, %rd3, 2; add.s64 %rd4, %rd4, 2;
add.u32 %r9, %r9, 16;
setp.lt.u32 %p5, %r9, INPUTS;
@%p5 bra MULTIPLY;
wgmma.commit_group.sync.aligned;
wgmma.wait_group.sync.aligned 0;
bar.warp.sync -1;
setp.eq.u32 %p6, %r2, 0;
@%p6 mbarrier.arrive.shared::cta.b64 _, [%r14];
add.u32 %r4, %r4, 1; add.u32 %r5, %r5, INPUTS;
setp.lt.u32 %p4, %r5, %r3;
@%p4 bra LOOP;
ld.param.u64 %rd5, [out];
shl.b32 %r20, %r1, 4; shr.u32 %r21, %r2, 2; add.u32 %r20, %r20, %r21; shl.b32 %r20, %r20, 6;
and.b32 %r22, %r2, 3; shl.b32 %r22, %r22, 3; add.u32 %r20, %r20, %r22;
cvt.u64.u32 %rd6, %r20; add.s64 %rd5, %rd5, %rd6;
st.global.v2.f32 [%rd5], {%f0, %f1}; st.global.v2.f32 [%rd5+512], {%f2, %f3};
st.global.v2.f32 [%rd5+32], {%f4, %f5}; st.global.v2.f32 [%rd5+544], {%f6, %f7};
DONE:
ret;
}";

/// The kernel for a layout, as a text to break.
fn kernel(swizzle: Swizzle) -> String {
    let (mode, span) = match swizzle {
        Swizzle::B128 => (1u64, 128u64),
        Swizzle::B64 => (2, 64),
        Swizzle::B32 => (3, 32),
        Swizzle::None => (0, 16),
    };
    // Eight rows further are eight spans, in units of 16 bytes.
    let descriptor = mode << 62 | (span / 2) << 32 | 1 << 16;
    let bytes = (M as u64 + N as u64) * span;
    KERNEL
        .replace("MODE", &format!("{descriptor:#x}"))
        .replace("INPUTS", &format!("{}", span / 2))
        .replace("BYTES", &format!("{bytes}"))
}

fn map(memory: &mut Memory, values: &[u16], inputs: usize, rows: usize, swizzle: Swizzle) -> Arg {
    let map = TensorMap {
        address: memory.upload(values).address(),
        element: 2,
        dims: vec![inputs as u64, (values.len() / inputs) as u64],
        strides: vec![2 * inputs as u64],
        extent: vec![swizzle.span() as u32 / 2, rows as u32],
        swizzle,
    };
    Arg::Bytes(map.encode().expect("within the rules").to_vec())
}

fn run(ptx: &str, inputs: usize, swizzle: Swizzle) -> Result<Counters, Finding> {
    let module = Module::parse(ptx).unwrap_or_else(|error| panic!("{error}"));
    let (mut rng, mut memory) = (Rng(5), Memory::new());
    // The last rows of B lie outside the tensor: zeros.
    let (a, b) = (rng.bf16s(M * inputs), rng.bf16s((N - 3) * inputs));
    let maps = [map(&mut memory, &a, inputs, M, swizzle), map(&mut memory, &b, inputs, N, swizzle)];
    let out = memory.alloc(4 * M * N);
    let [ma, mb] = maps;
    let args = [ma, mb, Arg::Buffer(out), Arg::U32(inputs as u32)];
    let report = launch(&module, "k", &mut memory, Launch::new(1, 160), &args)?;
    let got = memory.read::<f32>(out).expect("all written");
    for (i, got) in got.iter().enumerate() {
        let (row, column) = (i / N, i % N);
        let term =
            |k: usize| from_bf16(a[row * inputs + k]) * b.get(column * inputs + k).map_or(0.0, |&b| from_bf16(b));
        let want: f64 = (0..inputs).map(term).sum();
        assert!((f64::from(*got) - want).abs() < 1e-4, "({row}, {column}): {got} not {want}");
    }
    Ok(report.counters)
}

const INPUTS: usize = 5 * STEP;

#[test]
fn products_in_every_swizzled_layout() {
    for swizzle in [Swizzle::B128, Swizzle::B64, Swizzle::B32] {
        let counters = run(&kernel(swizzle), INPUTS, swizzle).unwrap_or_else(|finding| panic!("{finding}"));
        assert_eq!(counters.wgmma, 4 * (INPUTS / 16) as u64, "{swizzle:?}");
        assert_eq!(counters.bulk_bytes, ((M + N) * 2 * INPUTS) as u64, "{swizzle:?}");
    }
    // Boxes that reach over the tensor's end along the inputs bring zeros too.
    run(&kernel(Swizzle::B128), INPUTS - 24, Swizzle::B128).unwrap_or_else(|finding| panic!("{finding}"));
}

/// Breaks the kernel and returns what is found.
fn fault(from: &str, to: &str) -> Fault {
    let correct = kernel(Swizzle::B128);
    let broken = correct.replacen(from, to, 1);
    assert_ne!(broken, correct, "{from}");
    match run(&broken, INPUTS, Swizzle::B128) {
        Ok(_) => panic!("no finding: {from} -> {to}"),
        Err(finding) => {
            println!("{from} -> {to}: {finding}");
            finding.fault
        }
    }
}

#[test]
fn every_wait_and_fence_is_needed() {
    let in_flight = |from, to| {
        let fault = fault(from, to);
        assert!(matches!(fault, Fault::InFlight { .. }), "{from} -> {to}: {fault}");
    };
    // The consumer does not wait for the bytes, or for the phase before; the last rounds then read what is being refilled.
    in_flight("@!%p3 bra FULL;", "");
    in_flight("and.b32 %r8, %r8, 1;\nFULL:", "and.b32 %r8, %r8, 1; xor.b32 %r8, %r8, 1;\nFULL:");
    // The producer does not wait for the slot to be free, or for the wrong phase.
    in_flight("@!%p3 bra EMPTY;", "");
    assert_eq!(fault("xor.b32 %r8, %r8, 1;\nEMPTY:", "\nEMPTY:"), Fault::Deadlock);
    // The slot is released before the products that read it are waited for, or by some other lane's knowledge only.
    in_flight("wgmma.wait_group.sync.aligned 0;\n", "wgmma.wait_group.sync.aligned 1;\n");
    assert!(matches!(fault("wgmma.wait_group.sync.aligned 0;\n", ""), Fault::InFlight { .. } | Fault::NeverWaited));
    // Nothing orders the barriers' initialisation, or tells the asynchronous proxy.
    assert!(matches!(fault("READY:\nbar.sync 0;", "READY:"), Fault::NoMbarrier { .. } | Fault::Race { .. }));
    assert!(matches!(fault("fence.mbarrier_init.release.cluster;", ""), Fault::MissingProxyFence { .. }));
}

#[test]
fn arrivals_and_bytes_are_counted() {
    assert!(matches!(fault("[%r13], 10240", "[%r13], 8192"), Fault::TooFewBytes { .. }));
    assert_eq!(fault("[%r13], 10240", "[%r13], 10256"), Fault::Deadlock);
    assert!(matches!(
        fault(
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r13], 10240",
            "mbarrier.arrive.shared::cta.b64 _, [%r13]"
        ),
        Fault::InFlight { .. }
    ));
    assert!(matches!(fault("[%r12+16], 4;", "[%r12+16], 3;"), Fault::TooManyArrivals { .. } | Fault::InFlight { .. }));
    assert_eq!(fault("[%r12+16], 4;", "[%r12+16], 5;"), Fault::Deadlock);
    // Every lane arrives: eight phases pass at once, and the one that is waited for is over.
    assert_eq!(fault("@%p6 mbarrier.arrive", "mbarrier.arrive"), Fault::Deadlock);
    assert!(matches!(fault("_, [%r14];", "_, [%r14], 5;"), Fault::TooManyArrivals { .. }));
    assert!(matches!(fault("[%r12+24], 4;", "[%r12+24], 0;"), Fault::MbarrierCount { .. }));
    assert!(matches!(fault("mbarrier.init.shared::cta.b64 [%r12+24], 4;", ""), Fault::NoMbarrier { .. }));
}

#[test]
fn registers_belong_to_the_products_until_they_are_waited_for() {
    assert_eq!(fault("wgmma.fence.sync.aligned;", ""), Fault::MissingWgmmaFence);
    assert_eq!(
        fault("wgmma.fence.sync.aligned;", "wgmma.fence.sync.aligned; mov.f32 %f3, %f3;"),
        Fault::MissingWgmmaFence
    );
    let commit = "wgmma.commit_group.sync.aligned;";
    assert_eq!(fault(commit, &format!("{commit} mov.f32 %f3, 0f00000000;")), Fault::RegisterInFlight);
    assert_eq!(fault(commit, &format!("{commit} mov.b32 %r30, %f3;")), Fault::RegisterInFlight);
}

#[test]
fn tensor_maps_keep_the_drivers_rules() {
    let map = |change: fn(&mut TensorMap)| {
        let mut map = TensorMap {
            address: 1 << 36,
            element: 2,
            dims: vec![100, 7, 3],
            strides: vec![208, 1456],
            extent: vec![32, 4, 2],
            swizzle: Swizzle::B64,
        };
        change(&mut map);
        map
    };
    let good = map(|_| ());
    assert_eq!(TensorMap::decode(&good.encode().expect("within the rules")), Some(good.clone()));
    assert_eq!(good.box_bytes(), 512);
    assert_eq!(TensorMap::decode(&[0; 128]), None);
    let changes: [fn(&mut TensorMap); 8] = [
        |map| map.address += 8,
        |map| map.element = 3,
        |map| map.strides[0] = 200,
        |map| map.extent[1] = 257,
        |map| map.extent[0] = 33,
        |map| map.extent[0] = 64,
        |map| map.dims[2] = 0,
        |map| map.strides.clear(),
    ];
    for (i, change) in changes.into_iter().enumerate() {
        assert!(map(change).encode().is_err(), "rule {i}");
    }
    assert!(matches!(
        fault("mov.b64 %rd1, ma; cvta.param.u64 %rd1, %rd1;", "ld.param.u64 %rd1, [out];"),
        Fault::Uninitialised { .. }
    ));
}

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
