//! Planted bugs of RoPE and attention.

use super::bugs::{Bug, bug};

#[rustfmt::skip]
pub const BUGS: &[Bug] = &[
    bug("rotated the wrong way", "rope_kv", ("neg.f32", 1), "neg.f32", "mov.f32"),
    bug("sine and cosine swapped", "rope_kv", ("st.global.v2.f32", 0), "%f8, %f7", "%f7, %f8"),
    bug("padding of k not written", "rope_kv", ("st.global.u16", 2), "st.global", "@!%p12 st.global"),
    bug("second half of v not copied", "rope_kv", ("st.global.u16", 5), "", ""),
    bug("second of a pair not turned", "rope_kv", ("st.global.u16", 1), "", ""),
    bug("ties of e4m3 rounded up", "rope_kv", ("524287", 0), "524287", "524288"),
    bug("e4m3 not saturated", "rope_kv", ("0f43E00000", 2), "0f43E00000", "0f44E00000"),
    bug("small e4m3 as if normal", "rope_kv", ("0f3C800000", 0), "0f3C800000", "0f3B800000"),
    bug("block of sixteen tokens taken for eight", "rope_kv", ("shr.u32", 1), ", 4;", ", 3;"),
    // Decode: synchronisation.
    bug("barrier dropped between q's turn and its use", "attention_decode", ("bar.sync", 0), "", ""),
    bug("barrier dropped between k's copy and its use", "attention_decode", ("bar.sync", 1), "", ""),
    bug("barrier dropped between the warps' maxima", "attention_decode", ("bar.sync", 2), "", ""),
    bug("barrier dropped between p and its use", "attention_decode", ("bar.sync", 3), "", ""),
    bug("barrier dropped before the arrival", "attention_decode", ("bar.sync", 4), "", ""),
    bug("barrier dropped after the arrival", "attention_decode", ("bar.sync", 5), "", ""),
    bug("barrier dropped before the next weights of the fold", "attention_decode", ("bar.sync", 6), "", ""),
    bug("barrier dropped before the fold", "attention_decode", ("bar.sync", 7), "", ""),
    bug("fence dropped before the arrival", "attention_decode", ("membar.gl", 0), "", ""),
    bug("fence dropped after the arrival", "attention_decode", ("membar.gl", 1), "", ""),
    bug("counter not reset", "attention_decode", ("atom.global.inc", 0), "inc.u32", "add.u32"),
    bug("wait for one group of k too few", "attention_decode", ("cp.async.wait_group", 0), "1;", "2;"),
    bug("wait for v dropped", "attention_decode", ("cp.async.wait_group", 1), "", ""),
    bug("commit of the first k forgotten", "attention_decode", ("cp.async.commit_group", 0), "", ""),
    bug("commit of the next v forgotten", "attention_decode", ("cp.async.commit_group", 3), "", ""),
    // Decode: bounds.
    bug("window off by one", "attention_decode", ("add.s32 \t%r161, %r5, 1", 0), ", 1;", ", 0;"),
    bug("last unit left out", "attention_decode", ("add.s32 \t%r14, %r8, 1", 0), ", 1;", ", 0;"),
    bug("last run left out where it is one unit", "attention_decode", ("setp.gt.u32 \t%p6", 0), "setp.gt", "setp.ge"),
    bug("mask dropped", "attention_decode", ("0fFF800000, %f254", 0), "0fFF800000", "%f254"),
    bug("positions past the end copied", "attention_decode", ("[%r430], [%rd169], 16, %r431", 0), "16, %r431", "16, 16"),
    bug("block of sixteen tokens taken for thirty-two", "attention_decode", ("shr.u32 \t%r173, %r21, 4", 0), ", 4;", ", 5;"),
    bug("workspaces of sequences overlap", "attention_decode", ("shr.u32 \t%r167, %r166, 2", 0), ", 2;", ", 4;"),
    // Decode: arithmetic.
    bug("v not transposed", "attention_decode", ("ldmatrix.sync.aligned.m8n8.x4.trans", 0), ".trans", ""),
    bug("total not rescaled", "attention_decode", ("fma.rn.f32 \t%f566", 0), "%f387", "%f566"),
    bug("unit's sum not rescaled", "attention_decode", ("fma.rn.f32 \t%f569", 0), "%f382", "0f3F800000"),
    bug("unit not rescaled by the last block", "attention_decode", ("fma.rn.f32 \t%f620, %f603", 0), "%f459", "0f3F800000"),
    bug("second of a pair of the new k not stored", "attention_decode", ("st.global.u16", 1), "", ""),
    bug("e4m3 read without its exponent", "attention_decode", ("2072017792", 0), "2072017792", "1065369472"),
];
