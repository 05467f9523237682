//! Planted bugs of RoPE and attention.

use super::bugs::{Bug, bug};

#[rustfmt::skip]
pub const BUGS: [Bug; 9] = [
    bug("rotated the wrong way", "rope_kv", ("neg.f32", 1), "neg.f32", "mov.f32"),
    bug("sine and cosine swapped", "rope_kv", ("st.global.v2.f32", 0), "%f8, %f7", "%f7, %f8"),
    bug("padding of k not written", "rope_kv", ("st.global.u16", 2), "st.global", "@!%p12 st.global"),
    bug("second half of v not copied", "rope_kv", ("st.global.u16", 5), "", ""),
    bug("second of a pair not turned", "rope_kv", ("st.global.u16", 1), "", ""),
    bug("ties of e4m3 rounded up", "rope_kv", ("524287", 0), "524287", "524288"),
    bug("e4m3 not saturated", "rope_kv", ("0f43E00000", 2), "0f43E00000", "0f44E00000"),
    bug("small e4m3 as if normal", "rope_kv", ("0f3C800000", 0), "0f3C800000", "0f3B800000"),
    bug("block of sixteen tokens taken for eight", "rope_kv", ("shr.u32", 1), ", 4;", ", 3;"),
];
