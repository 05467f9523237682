//! A matrix product as Hopper does it: one thread fills a ring of slots by TMA, four warps multiply what is there. The
//! correct kernel passes in every layout; each thing it needs, taken away or done wrongly, is found.

use crate::common::{Rng, from_bf16};
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
