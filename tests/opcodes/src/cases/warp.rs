//! Operations of a warp and of a block (PTX ISA 9.7.9.6, 9.7.13).

use super::any;
use crate::case::{Case, Needs};
use crate::judge::Judge;
use crate::values::Domain;

const FLAG: (u32, Domain) = (32, Domain::Below(2));

pub(super) fn cases() -> Vec<Case> {
    let mut cases = shuffles();
    cases.extend(votes());
    cases.extend(reductions());
    cases.extend(barriers());
    cases
}

/// Every mode with lane operands and clamps of a whole warp and of parts of one, the same for all lanes and one each; under a full
/// mask and, for the lower half of the warp, half a mask.
fn shuffles() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in ["up", "down", "bfly", "idx"] {
        let form = format!("shfl.sync.{mode}.b32");
        for (what, clamp) in [("", 31), (" of 8", 0x181f), (" of 16", 0x101f)] {
            // `up` clamps from below.
            let clamp = if mode == "up" { clamp & !0x1f } else { clamp };
            let body = format!("{form} %d0|%p, %s0, %s1, {clamp}, -1; selp.b32 %d1, 1, 0, %p;");
            let sources = [any(32), (32, Domain::Below(32))];
            cases.push(Case::with(format!("{form} (parts{what})"), &body, &[32; 2], &sources, Judge::Bits));
        }
        let half = format!(
            "and.b32 %r2, %t, 16; setp.eq.u32 %p, %r2, 0; mov.b32 %d0, %s0; and.b32 %r3, %s1, 7;
            @%p {form} %d0, %s0, %r3, {}, 0xffff;",
            if mode == "up" { 0x1000 } else { 0x100f }
        );
        let sources = [any(32), (32, Domain::Below(32))];
        cases.push(Case::with(format!("{form} (half a mask)"), &half, &[32], &sources, Judge::Bits));
    }
    cases
}

/// Flags that are mostly the same over a warp, so that all three outcomes occur.
fn votes() -> Vec<Case> {
    let flag = "shfl.sync.idx.b32 %r2, %s1, 0, 31, -1; setp.eq.u32 %q, %r2, 0; selp.b32 %r3, %s0, %r2, %q;
        setp.eq.u32 %p, %r3, 1;";
    let sources = [FLAG, (32, Domain::Below(4))];
    let mut cases: Vec<Case> = ["all", "any", "uni"]
        .map(|mode| {
            let form = format!("vote.sync.{mode}.pred");
            let body = format!("{flag} {form} %q, %p, -1; selp.b32 %d0, 1, 0, %q;");
            Case::with(form, &body, &[32], &sources, Judge::Bits)
        })
        .to_vec();
    let ballot = format!("{flag} vote.sync.ballot.b32 %d0, %p, -1;");
    cases.push(Case::with("vote.sync.ballot.b32", &ballot, &[32], &sources, Judge::Bits));
    let negated = format!("{flag} vote.sync.ballot.b32 %d0, !%p, -1;");
    cases.push(Case::with("vote.sync.ballot.b32 (negated)", &negated, &[32], &sources, Judge::Bits));
    let divergent =
        "and.b32 %r2, %t, 3; setp.eq.u32 %p, %r2, 1; mov.b32 %d0, 0; @%p activemask.b32 %d0; bar.warp.sync -1;";
    // Which lanes are active is the device's choice; that the lane itself is among them is not.
    let own = format!("{divergent} mov.u32 %r3, %lanemask_eq; and.b32 %d0, %d0, %r3;");
    cases.push(Case::with("activemask.b32", &own, &[32], &[any(32)], Judge::Bits));
    cases
}

fn reductions() -> Vec<Case> {
    let mut cases = Vec::new();
    for ty in ["u32", "s32"] {
        for op in ["add", "min", "max"] {
            cases.push(Case::new(format!("redux.sync.{op}.{ty}"), 32, &[any(32), (32, FULL)], Judge::Bits));
        }
    }
    for op in ["and", "or", "xor"] {
        cases.push(Case::new(format!("redux.sync.{op}.b32"), 32, &[any(32), (32, FULL)], Judge::Bits));
    }
    let elect = "mov.u32 %r2, %laneid; elect.sync %r3|%p, -1; selp.b32 %r4, 1, 0, %p; redux.sync.add.u32 %d0, %r4, -1;";
    cases.push(Case::with("elect.sync", elect, &[32], &[any(32)], Judge::Bits).needs(Needs::HopperAlone));
    cases
}

const FULL: Domain = Domain::Just(0xffff_ffff);

/// A value goes to another thread through shared memory: wrong unless the barrier holds. Reductions over the block's flags.
fn barriers() -> Vec<Case> {
    let exchange = |form: &str, wait: &str| {
        let body = format!(
            "mov.u32 %r2, shared; mad.lo.u32 %r3, %t, 4, %r2; st.shared.b32 [%r3], %s0; {wait}
            xor.b32 %r4, %t, 5; mad.lo.u32 %r4, %r4, 4, %r2; ld.shared.b32 %d0, [%r4];"
        );
        Case::with(form, &body, &[32], &[any(32)], Judge::Bits)
    };
    let halves = "setp.lt.u32 %p, %t, 64; @%p bar.sync 1, 64; @!%p bar.sync 2, 64;";
    let arrive = "bar.sync 0; setp.lt.u32 %p, %t, 64; @%p bar.sync 1, 128; @!%p bar.arrive 1, 128;";
    let mut cases = vec![
        exchange("bar.sync", "bar.sync 0;"),
        exchange("bar.sync (half the block)", halves),
        exchange("bar.arrive", arrive),
        exchange("bar.warp.sync", "bar.warp.sync -1;"),
        exchange("barrier.sync", "barrier.sync 0;"),
        exchange("barrier.sync.aligned", "barrier.sync.aligned 0;"),
        exchange("bar.cta.sync", "bar.cta.sync 0;"),
    ];
    for (form, result) in [("bar.red.popc.u32", "%d0"), ("bar.red.and.pred", "%q"), ("bar.red.or.pred", "%q")] {
        for (what, limit) in [("some", 1), ("none", 2), ("all", 0)] {
            let back = if result == "%q" { "selp.b32 %d0, 1, 0, %q;" } else { "" };
            let body = format!("setp.ge.u32 %p, %s0, {limit}; {form} {result}, 0, %p; {back}");
            cases.push(Case::with(format!("{form} ({what})"), &body, &[32], &[FLAG], Judge::Bits));
        }
    }
    cases
}
