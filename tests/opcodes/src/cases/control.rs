//! Control flow, fences, hints and the predefined registers (PTX ISA 9.7.12, 9.7.13 and 10).

use super::any;
use crate::case::{Case, Needs};
use crate::judge::Judge;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = branches();
    cases.extend(fences());
    cases.extend(hints());
    cases.extend(registers());
    cases
}

fn case(form: &str, body: &str) -> Case {
    Case::with(form, body, &[32], &[any(32)], Judge::Bits)
}

fn branches() -> Vec<Case> {
    let divergent = "and.b32 %r2, %s0, 1; setp.eq.u32 %p, %r2, 0; mov.b32 %d0, 1; @%p bra LEFT; add.u32 %d0, %s0, 3;
        bra.uni JOIN; LEFT: mul.lo.u32 %d0, %s0, 5; JOIN: add.u32 %d0, %d0, 1;";
    let looping = "and.b32 %r2, %s0, 15; mov.b32 %d0, 0; AGAIN: add.u32 %d0, %d0, %r2; sub.s32 %r2, %r2, 1;
        setp.ge.s32 %p, %r2, 0; @%p bra AGAIN;";
    let early = "st.global.b32 [%out], %s0; and.b32 %r2, %s0, 1; setp.eq.u32 %p, %r2, 0; @%p ret; mov.b32 %d0, 7;";
    let exit = "st.global.b32 [%out], %s0; and.b32 %r2, %s0, 1; setp.eq.u32 %p, %r2, 0; @%p exit; mov.b32 %d0, 7;";
    vec![
        case("bra", divergent),
        case("bra (a loop of another length in each thread)", looping),
        case("bra.uni", divergent),
        case("ret", early),
        case("exit", exit),
    ]
}

/// What a fence orders cannot be seen here, only that it changes nothing else.
fn fences() -> Vec<Case> {
    let forms = ["membar.cta", "membar.gl", "membar.sys", "fence.acq_rel.cta", "fence.acq_rel.gpu", "fence.sc.gpu"];
    let mut cases: Vec<Case> = forms.map(|form| case(form, &format!("{form}; mov.b32 %d0, %s0;"))).to_vec();
    let hopper = ["fence.proxy.async", "fence.proxy.async.shared::cta", "fence.mbarrier_init.release.cluster"];
    cases.extend(hopper.map(|form| case(form, &format!("{form}; mov.b32 %d0, %s0;")).needs(Needs::HopperAlone)));
    cases
}

fn hints() -> Vec<Case> {
    let policy = "createpolicy.fractional.L2::evict_last.b64 %w0, 0f3F800000;";
    let mut cases = vec![
        case("nanosleep.u32", "nanosleep.u32 20; mov.b32 %d0, %s0;"),
        case("prefetch.global.L2", "prefetch.global.L2 [%in]; mov.b32 %d0, %s0;"),
        case("prefetch.global.L1", "prefetch.global.L1 [%in]; mov.b32 %d0, %s0;"),
        case("prefetchu.L1", "prefetchu.L1 [%in]; mov.b32 %d0, %s0;"),
        case("createpolicy.fractional.L2::evict_last.b64", &format!("{policy} mov.b32 %d0, %s0;")),
        case("ld.global.L2::cache_hint.u32", &format!("{policy} ld.global.L2::cache_hint.u32 %d0, [%in], %w0;")),
    ];
    // The line's contents are given up by the one and kept by the other; neither may touch what it does not own.
    let line = "mov.u64 %w0, line; setp.eq.u32 %p, %g, 0;";
    let own = ".global .align 128 .b8 line[128];";
    cases.push(
        case("discard.global.L2", &format!("{line} @%p discard.global.L2 [%w0], 128; mov.b32 %d0, %s0;")).globals(own),
    );
    let keep = format!("{line} @%p applypriority.global.L2::evict_normal [%w0], 128; mov.b32 %d0, %s0;");
    cases.push(case("applypriority.global.L2::evict_normal", &keep).globals(own));
    let dependents = ["griddepcontrol.wait", "griddepcontrol.launch_dependents"];
    cases.extend(dependents.map(|form| case(form, &format!("{form}; mov.b32 %d0, %s0;")).needs(Needs::HopperAlone)));
    cases
}

/// Those whose value follows from the launch.
fn registers() -> Vec<Case> {
    let names = [
        "%tid.x",
        "%tid.y",
        "%ntid.x",
        "%ntid.z",
        "%ctaid.x",
        "%ctaid.y",
        "%nctaid.x",
        "%nctaid.z",
        "%laneid",
        "%lanemask_lt",
        "%lanemask_le",
        "%lanemask_eq",
        "%lanemask_ge",
        "%lanemask_gt",
        "%dynamic_smem_size",
    ];
    let mut cases: Vec<Case> = names
        .map(|name| {
            // The number of blocks depends on how many operands there are.
            case(&format!("mov.u32 ({name})"), &format!("mov.u32 %d0, {name};"))
        })
        .to_vec();
    cases.push(case("mov.u32 (WARP_SZ)", "mov.u32 %d0, WARP_SZ;"));
    cases
}
