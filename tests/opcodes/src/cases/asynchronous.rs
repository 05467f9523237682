//! Hopper's asynchronous units: mbarriers, bulk copies and `wgmma` (PTX ISA 9.7.9.25, 9.7.13.15 and 9.7.15).

use super::{any, wgmma};
use crate::case::{Case, Needs};
use crate::judge::Judge;
use crate::values::Domain;

pub(super) fn cases() -> Vec<Case> {
    [mbarriers(), bulk(), products()].concat()
}

/// One mbarrier of a block, beyond what its threads store.
const BARRIER: &str = "[%r2+8192]";

/// A value goes to another thread through shared memory: wrong unless the mbarrier holds.
fn mbarriers() -> Vec<Case> {
    let exchange = |form: &str, arrive: &str, wait: &str| {
        let body = format!(
            "mov.u32 %r2, shared; setp.eq.u32 %p, %t, 0; @%p mbarrier.init.shared::cta.b64 {BARRIER}, 128; bar.sync 0;
            mad.lo.u32 %r3, %t, 8, %r2; st.shared.b64 [%r3], %s0; {arrive}
            WAIT: {wait} @!%q bra WAIT;
            xor.b32 %r4, %t, 37; mad.lo.u32 %r4, %r4, 8, %r2; ld.shared.b64 %d0, [%r4];"
        );
        Case::with(form, &body, &[64], &[any(64)], Judge::Bits).needs(Needs::HopperAlone)
    };
    let arrive = format!("mbarrier.arrive.shared::cta.b64 %w0, {BARRIER};");
    let by = |wait: &str, phase: &str| format!("mbarrier.{wait}.shared::cta.b64 %q, {BARRIER}, {phase};");
    let parity = by("try_wait.parity", "0");
    let copies =
        format!("cp.async.ca.shared.global [%r3], [%in], 8; cp.async.mbarrier.arrive.noinc.shared::cta.b64 {BARRIER};");
    vec![
        exchange("mbarrier.init.shared::cta.b64", &arrive, &parity),
        exchange("mbarrier.arrive.shared::cta.b64", &arrive, &parity),
        exchange("mbarrier.try_wait.parity.shared::cta.b64", &arrive, &parity),
        exchange("mbarrier.try_wait.shared::cta.b64", &arrive, &by("try_wait", "%w0")),
        exchange("mbarrier.test_wait.parity.shared::cta.b64", &arrive, &by("test_wait.parity", "0")),
        exchange("mbarrier.test_wait.shared::cta.b64", &arrive, &by("test_wait", "%w0")),
        exchange("cp.async.mbarrier.arrive.noinc.shared::cta.b64", &copies, &parity),
    ]
}

/// Of an initialised mbarrier that waits for one arrival and the bytes it announces.
const ONE: &str = "mov.u32 %r2, shared; setp.eq.u32 %p, %t, 0; @%p mbarrier.init.shared::cta.b64 [%r2+8192], 1;
    @%p fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta; bar.sync 0;";

/// A block's operands, a kibibyte, come at once; its results go at once.
fn bulk() -> Vec<Case> {
    let load = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes";
    let loading = format!(
        "{ONE} @%p mbarrier.arrive.expect_tx.shared::cta.b64 %w0, {BARRIER}, 1024;
        @%p {load} [%r2], [%in], 1024, {BARRIER};
        WAIT: mbarrier.try_wait.parity.shared::cta.b64 %q, {BARRIER}, 0; @!%q bra WAIT;
        mad.lo.u32 %r3, %t, 8, %r2; ld.shared.b64 %d0, [%r3];"
    );
    let store = "cp.async.bulk.global.shared::cta.bulk_group";
    let storing = format!(
        "mov.u32 %r2, shared; setp.eq.u32 %p, %t, 0; mad.lo.u32 %r3, %t, 8, %r2; st.shared.b64 [%r3], %s0;
        fence.proxy.async.shared::cta; bar.sync 0; @%p {store} [%out], [%r2], 1024;
        @%p cp.async.bulk.commit_group; @%p cp.async.bulk.wait_group 0; bar.sync 0; ld.global.b64 %d0, [%out];"
    );
    let case =
        |form: &str, body: &str| Case::with(form, body, &[64], &[any(64)], Judge::Bits).needs(Needs::HopperAlone);
    vec![
        case("mbarrier.arrive.expect_tx.shared::cta.b64", &loading),
        case(load, &loading),
        case(store, &storing),
        case("cp.async.bulk.commit_group", &storing),
        case("cp.async.bulk.wait_group", &storing),
    ]
}

/// `wgmma` of the smallest size, with addends, and of the size the kernels use, with b in swizzled rows.
fn products() -> Vec<Case> {
    let modest = |ty| if ty == "bf16" { Domain::ModestPair(8, 7) } else { Domain::ModestPair(5, 10) };
    let mut cases: Vec<Case> = ["bf16", "f16"].map(|ty| wgmma(ty, modest(ty))).to_vec();
    cases.extend(["bf16", "f16"].map(wide));
    for name in ["fence", "commit_group", "wait_group"] {
        cases.push(Case { form: format!("wgmma.{name}.sync.aligned"), ..wgmma("bf16", modest("bf16")) });
    }
    cases
}

/// m64n128k16, a from registers, b from rows of 128 bytes whose 16-byte parts are permuted by the row's number: each thread
/// stores the first two parts, 16 inputs, of one of the 128 columns.
fn wide(ty: &str) -> Case {
    let list = |prefix: &str, range: std::ops::Range<usize>| {
        range.map(|i| format!("{prefix}{i}")).collect::<Vec<_>>().join(", ")
    };
    let form = format!("wgmma.mma_async.sync.aligned.m64n128k16.f32.{ty}.{ty}");
    let body = format!(
        "mov.u32 %r2, shared; mad.lo.u32 %r3, %t, 128, %r2; and.b32 %r4, %t, 7; shl.b32 %r4, %r4, 4; xor.b32 %r5, %r4, 16;
        add.u32 %r4, %r4, %r3; add.u32 %r5, %r5, %r3;
        st.shared.v4.b32 [%r4], {{{}}}; st.shared.v4.b32 [%r5], {{{}}}; fence.proxy.async.shared::cta; bar.sync 0;
        and.b32 %r2, %r2, 0x3ffff; shr.u32 %r2, %r2, 4; cvt.u64.u32 %w0, %r2; or.b64 %w0, %w0, 0x4000004000010000;
        setp.ne.u32 %p, %r2, %r2; wgmma.fence.sync.aligned; {form} {{{}}}, {{{}}}, %w0, %p, 1, 1, 0;
        wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; mov.b32 %d64, 0f42800000;",
        list("%s", 4..8),
        list("%s", 8..12),
        list("%d", 0..64),
        list("%s", 0..4)
    );
    // Below 2 each, so that 16 products are below 64: the last result, which the judge measures by.
    let unit = if ty == "bf16" { Domain::UnitPair(8, 7) } else { Domain::UnitPair(5, 10) };
    Case::with(form, &body, &[32; 65], &[(32, unit); 12], Judge::Sums).needs(Needs::HopperAlone)
}
