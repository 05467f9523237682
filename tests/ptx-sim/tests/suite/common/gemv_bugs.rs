//! Bugs of the gemv, embedding and repacking kernels, spread over the formats: see planted.rs.

use super::bugs::{Bug, bug};

#[rustfmt::skip]
pub const BUGS: &[Bug] = &[
    // Synchronisation.
    bug("barrier dropped before a row's squares are added", "gemv_q4_1", ("bar.sync", 0), "", ""),
    bug("barrier dropped between staging and reading", "gemv_bf16", ("bar.sync", 1), "", ""),
    bug("barrier dropped between staging and reading", "gemv_q5_k", ("bar.sync", 1), "", ""),
    bug("barrier dropped before the sum over warps", "gemv_bf16", ("bar.sync", 2), "", ""),
    bug("barrier dropped before the sum over warps", "gemv_q4_0", ("bar.sync", 2), "", ""),
    bug("barrier dropped before the next sums are left", "gemv_q4_k", ("bar.sync", 3), "", ""),
    // Bounds.
    bug("one column too many", "gemv_q8_0", ("setp.ge.u32 \t%p43", 0), "setp.ge", "setp.gt"),
    bug("one row too many", "gemv_q8_0", ("setp.ge.u32 \t%p45", 0), "setp.ge", "setp.gt"),
    bug("rows checked only where columns fail", "gemv_q4_0", ("or.pred  \t%p54", 0), "or.pred", "and.pred"),
    bug("refilled once too often", "gemv_q4_0", ("setp.lt.u32 \t%p39", 0), ", 5", ", 4"),
    bug("refilled once too seldom", "gemv_bf16", ("setp.lt.u32 \t%p61", 0), ", 3", ", 4"),
    bug("second mma from the wrong tile", "gemv_bf16", (", 512;", 0), "512", "256"),
    bug("third plane on top of the second", "gemv_f32", (", 1024;", 0), "1024", "512"),
    bug("a tile taken for its quants alone", "gemv_q4_0", ("mul.lo.s64 \t%rd240", 0), "576", "512"),
    bug("columns of the output packed", "gemv_q4_1", ("+60];", 0), "+60", "+48"),
    bug("gathered rows taken in order", "gemv_q4_k", ("setp.eq.s64", 2), "%p35, %rd32", "%p35, %rd35"),
    // Arithmetic.
    bug("rows of a fragment swapped", "gemv_q8_0", ("mma.sync", 0), "{%r445,%r457,", "{%r457,%r445,"),
    bug("steps of a group swapped", "gemv_q8_0", ("mma.sync", 1), "{%r659,%r660}", "{%r657,%r658}"),
    bug("sign bits of two bytes not seen", "gemv_q8_0", (", 8388736;", 0), "8388736", "0"),
    bug("zero point forgotten", "gemv_q4_0", ("-1022835960", 0), "-1022835960", "-1023360256"),
    bug("fifth bit of one of a pair lost", "gemv_q5_k", (", 1048592;", 0), "1048592", "16"),
    bug("sixth bits lost", "gemv_q6_k", (", 3145776;", 0), "3145776", "1048592"),
    bug("high bits of the scales lost", "gemv_q4_k", (", 3145776;", 0), "3145776", "0"),
    bug("scale of the group before", "gemv_q6_k", ("shr.u32 \t%r668, %r1982, 8", 0), ", 8", ", 0"),
    bug("a minimum misses half of a group", "gemv_q4_1", ("{%r663,%r663,%r663,%r663}", 0), "", ""),
    bug("a minimum left out", "gemv_grouped", ("{%r717,%r717,%r717,%r717}", 0), "", ""),
    bug("minimum taken for scale", "gemv_q4_1", ("cvt.f32.f16 %f226, low", 0), "low", "high"),
    bug("the rest of an f16 forgotten", "gemv_f16", ("mma.sync", 1), "", ""),
    bug("a segment added twice", "gemv_q5_k", ("ld.shared.f32 \t%f560", 0), "+640", ""),
    bug("eps forgotten", "gemv_grouped", ("sqrt.rn.f32 \t%f109", 0), "%f7", "%f108"),
    bug("sign of the sigmoid's exponent", "gemv_q6_k", ("0fBFB8AA3B", 0), "0fBFB8AA3B", "0f3FB8AA3B"),
    bug("bias forgotten", "gemv_q4_k", ("add.rn.f32 \t%f590, %f590, %f573", 0), "", ""),
    bug("residual overwritten", "gemv_bf16", ("add.rn.f32 \t%f439, %f439, %f376", 0), "", ""),
    // Precise.
    bug("barrier dropped before the sum over warps, precise", "gemv_q8_0", ("bar.sync", 4), "", ""),
    bug("a weight used twice, precise", "gemv_bf16", ("fma.rn.f32 \t%f824, %f12", 0), "%f12", "%f10"),
    // Embedding.
    bug("row one group too long", "embed", ("setp.ge.u32", 0), "setp.ge", "setp.gt"),
    bug("one four of features too many", "embed", ("setp.ge.u32", 1), "setp.ge", "setp.gt"),
    bug("second half of a row on top of the first", "embed", ("[%rd91+16]", 0), "+16", ""),
    bug("second half of a row misaligned", "embed", ("[%rd91+16]", 0), "+16", "+8"),
    bug("row of the token's index, not its id", "embed", ("ld.global.u32 \t%r28, [%rd12]", 0), "ld.global.u32 \t%r28, [%rd12]", "mov.u32 %r28, %ctaid.x"),
    bug("scale forgotten", "embed", ("mul.rn.f32 \t%f14, %f1", 0), "mul.rn.f32 \t%f14, %f1,", "mov.f32 %f14,"),
    // Repacking.
    bug("one row too many", "repack", ("setp.ge.u32", 0), "setp.ge", "setp.gt"),
    bug("high bit of a scale lost", "repack", (", 48;", 1), "48", "16"),
];
