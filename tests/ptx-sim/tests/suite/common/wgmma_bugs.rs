//! Ways to break the kernels that only Hopper has.

use super::bugs::{Bug, bug};

#[rustfmt::skip]
pub const BUGS: &[Bug] = &[
    // Barriers of the rings.
    bug("barriers not published to the copies", "wgmma_bf16_sm90", ("fence.mbarrier_init", 0), "", ""),
    bug("bytes of the weights not announced", "wgmma_q4_1_sm90", ("mbarrier.arrive.expect_tx", 0), ".expect_tx.shared::cta.b64 _, [%r619], %r620", ".shared::cta.b64 _, [%r619]"),
    bug("bytes of the inputs not announced", "wgmma_q4_1_sm90", ("mbarrier.arrive.expect_tx", 1), ".expect_tx.shared::cta.b64 _, [%r640], %r639", ".shared::cta.b64 _, [%r640]"),
    bug("producer waits for the wrong phase of weights", "wgmma_q4_1_sm90", ("%r121, %r705, 1;", 0), ", 1;", ", 0;"),
    bug("producer waits for the wrong phase of inputs", "wgmma_q4_1_sm90", ("%r128, %r703, 1;", 0), ", 1;", ", 0;"),
    bug("producer's phase of inputs never turns", "wgmma_q4_1_sm90", ("%r703, %r703, %r643;", 0), "%r643;", "0;"),
    bug("consumers' phase of weights never turns", "wgmma_q4_1_sm90", ("%r663, %r663, %r428;", 0), "%r428;", "0;"),
    bug("consumers' phase of inputs never turns", "wgmma_q4_1_sm90", ("%r661, %r661, %r537;", 0), "%r537;", "0;"),
    bug("slot of weights not given back", "wgmma_q4_1_sm90", ("mbarrier.arrive.shared", 0), "", ""),
    bug("slot of inputs not given back", "wgmma_q4_1_sm90", ("mbarrier.arrive.shared", 1), "", ""),
    bug("slot given back before the whole warp has read", "wgmma_q4_1_sm90", ("bar.warp.sync", 0), "", ""),
    bug("slot given back before all warps have read", "wgmma_q4_1_sm90", ("mov.u32 \t%r185, 8", 0), "8;", "7;"),
    // The pipeline of wgmma.
    bug("fence dropped before the first wgmma of a group", "wgmma_q4_1_sm90", ("wgmma.fence", 0), "", ""),
    bug("fence dropped before the second group", "wgmma_q4_1_sm90", ("wgmma.fence", 1), "", ""),
    bug("commit forgotten", "wgmma_q4_1_sm90", ("wgmma.commit_group", 0), "", ""),
    bug("wait dropped", "wgmma_q4_1_sm90", ("wgmma.wait_group", 1), "", ""),
    bug("wait for one group too few", "wgmma_bf16_sm90", ("wgmma.wait_group", 0), "0;", "1;"),
    // Places.
    bug("inputs of the wrong step", "wgmma_q4_1_sm90", ("4611686293305360386", 0), "386", "384"),
    bug("inputs taken to be unswizzled", "wgmma_q4_1_sm90", ("4611686293305360384", 0), "4611686293305360384", "274877972480"),
    bug("inputs of the wrong slot", "wgmma_q4_1_sm90", ("mul.lo.s32 \t%r400, %r662, 17408", 0), "%r662", "0"),
    bug("slots of weights on top of each other", "wgmma_q4_1_sm90", ("mul.lo.s32 \t%r623, %r622, 5120", 0), "5120", "2560"),
    bug("row group past the last copied", "wgmma_q4_1_sm90", ("min.u32 \t%r628", 0), "min", "max"),
    bug("column past the last packed", "pack_sm90", ("setp.ge.u32 \t%p1, %r5", 0), "setp.ge", "setp.gt"),
    bug("a unit not swizzled", "pack_sm90", ("%r266, %r265, %r264;", 0), "%r264", "0"),
    bug("barrier dropped before the sums", "pack_sm90", ("bar.sync", 0), "", ""),
    // Arithmetic.
    bug("rows of a fragment swapped", "wgmma_q4_1_sm90", ("{%r674, %r673, %r672, %r671}, %rd94", 0), "%r674, %r673", "%r673, %r674"),
    bug("dot not from zero", "wgmma_q4_1_sm90", ("setp.ne.b32 more, 0, 0", 0), "more, 0,", "more, 1,"),
    bug("minimum of another row", "wgmma_q4_1_sm90", ("fma.rn.f32 \t%f269, %f2165", 0), "%f2165", "%f2164"),
    bug("segments not told apart", "wgmma_q4_1_sm90", ("setp.ne.s32 \t%p29", 0), "setp.ne", "setp.eq"),
];
