//! Ways to break the gemm kernels. In a file the wide kernel comes first.

use super::bugs::{Bug, bug};

#[rustfmt::skip]
pub const BUGS: &[Bug] = &[
    // Synchronisation.
    bug("barrier dropped after the table of columns", "gemm_bf16", ("bar.sync", 4), "", ""),
    bug("barrier dropped before a chunk is read", "gemm_bf16", ("bar.sync", 5), "", ""),
    bug("barrier dropped before the ring becomes outputs", "gemm_bf16", ("bar.sync", 6), "", ""),
    bug("barrier dropped before outputs leave", "gemm_bf16", ("bar.sync", 7), "", ""),
    bug("barrier dropped before the first sums of inputs", "gemm_q4_1", ("bar.sync", 6), "", ""),
    bug("barrier dropped between sums of inputs and their use", "gemm_q4_1", ("bar.sync", 7), "", ""),
    bug("wait for one chunk too few", "gemm_bf16", ("cp.async.wait_group", 1), "4;", "5;"),
    bug("wait for one chunk too few, wide", "gemm_bf16", ("cp.async.wait_group", 0), "1;", "2;"),
    bug("wait for one chunk too few for the sums", "gemm_q4_1", ("cp.async.wait_group", 3), "3;", "4;"),
    bug("wait dropped", "gemm_q4_k", ("cp.async.wait_group", 0), "", ""),
    bug("commit forgotten before the loop", "gemm_bf16", ("cp.async.commit_group", 2), "", ""),
    bug("commit forgotten in the loop", "gemm_bf16", ("cp.async.commit_group", 3), "", ""),
    // Places.
    bug("column past the last copied", "gemm_bf16", ("selp.b32 \t%r194, 0, %r195", 0), "0, %r195", "%r195, %r195"),
    bug("row group past the last copied", "gemm_q4_1", ("min.u32 \t%r108", 0), "min", "max"),
    bug("tile read from the slot of another", "gemm_q4_1", ("mul.lo.s32 \t%r383, %r382, 6", 0), "6;", "5;"),
    bug("chunk copied to the slot of another", "gemm_q4_1", ("mul.lo.s32 \t%r201, %r200, 6", 0), "6;", "5;"),
    bug("band of column tiles too wide", "gemm_bf16", ("min.u32 \t%r137, %r136", 0), "16;", "32;"),
    bug("one column too many", "gemm_q4_1", ("setp.lt.u32 \t%p45, ", 0), "setp.lt", "setp.le"),
    bug("one row too many", "gemm_q4_1", ("setp.lt.u32 \t%p44, ", 0), "setp.lt", "setp.le"),
    // Arithmetic.
    bug("rows of a fragment swapped", "gemm_bf16", ("{%r280,%r281,%r282,%r283}, {%r316", 0), "%r280,%r281", "%r281,%r280"),
    bug("inputs of the wrong step", "gemm_bf16", ("{%r280,%r281,%r282,%r283}, {%r316", 0), "%r316,%r317", "%r318,%r319"),
    bug("segment ends a tile early", "gemm_q4_1", ("setp.le.u32 \t%p41", 0), "setp.le", "setp.lt"),
    bug("segments not told apart", "gemm_q4_1", ("setp.ne.s32 \t%p40", 0), "setp.ne", "setp.eq"),
    bug("sums of a segment not cleared", "gemm_q4_1", ("mov.f32 \t%f592, 0f00000000", 0), "0f00000000", "0f3F800000"),
    bug("minimum of another row", "gemm_q4_1", ("fma.rn.f32 \t%f592, %f415, %f505, %f511", 0), "%f415", "%f413"),
];
