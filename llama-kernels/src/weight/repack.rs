//! Encoded rows into panels: a permutation of bits for native forms, a widening for the others.
//!
//! A row's share of a group is the same 32-bit word of each of the group's 64-byte vectors. So a group of a row is made
//! as a few words, by the shifts and masks that lead from ggml's order of bits to ours, and each word has one place:
//! nothing is decoded, and a model loads about as fast as its bytes can be moved. The offsets within encoded blocks are
//! those of ggml-common.h, `block_*`.

use std::ops::Range;

use llama_core::checkpoint::TensorView;
use llama_core::format::Mxfp4;

use super::coded;
use super::pack::Pack;

/// Packs rows `first ..` of `view` (as many as a panel has, or as are left) into `out`, which holds zeros.
/// The error names a row whose weights are not finite.
pub fn panel(pack: Pack, view: &TensorView<'_>, first: usize, out: &mut [u8]) -> Result<(), usize> {
    let rows = first..view.rows().min(first + pack.rows());
    match pack {
        Pack::F32 => floats(view, rows, out),
        Pack::F16 => halves(view, rows, 0x7C00, out),
        Pack::BF16 => halves(view, rows, 0x7F80, out),
        Pack::CodedBF16 => coded::encode(view, rows, out),
        Pack::Q8_0 => native(pack, view, rows, out, |raw, _| words::<8>(&raw[2..]).map(|word| word ^ 0x8080_8080)),
        Pack::Q4_0 | Pack::IQ4_NL => native(pack, view, rows, out, |raw, _| words::<4>(&raw[2..])),
        Pack::Q4_1 => native(pack, view, rows, out, |raw, _| words::<4>(&raw[4..])),
        Pack::Q5_0 => native(pack, view, rows, out, |raw, _| q5(&raw[2..])),
        Pack::Q5_1 => native(pack, view, rows, out, |raw, _| q5(&raw[4..])),
        Pack::Q2_K => native(pack, view, rows, out, |raw, i| pairs(&raw[16 + 32 * (i / 4)..], i % 4)),
        Pack::Q3_K => native(pack, view, rows, out, q3_k),
        Pack::Q4_K => native(pack, view, rows, out, |raw, i| nibbles(&raw[16 + i / 2 * 32..], i % 2)),
        Pack::Q5_K => native(pack, view, rows, out, q5_k),
        Pack::Q6_K => native(pack, view, rows, out, q6_k),
        Pack::IQ4_XS => native(pack, view, rows, out, |raw, i| words::<4>(&raw[8 + 16 * i..])),
        Pack::MXFP4 => native(pack, view, rows, out, |raw, _| words::<4>(&raw[1..])),
        Pack::Wide32 | Pack::Wide32Min | Pack::Wide16 | Pack::Wide16Min => wide(pack, view, rows, out),
    }
}

/// A form with the format's own blocks: scales, then `W` words for each group `i` of an encoded block.
fn native<const W: usize>(
    pack: Pack,
    view: &TensorView<'_>,
    rows: Range<usize>,
    out: &mut [u8],
    group: impl Fn(&[u8], usize) -> [u32; W],
) -> Result<(), usize> {
    let codes = pack.block_bytes() - pack.groups() * W * 64;
    for (lane, row) in rows.enumerate() {
        let encoded = view.row(row).chunks_exact(view.format().block_bytes());
        for (raw, out) in encoded.zip(out.chunks_exact_mut(pack.block_bytes())) {
            if !put_scales(pack, raw, lane, out) {
                return Err(row);
            }
            for (i, out) in out[codes..].chunks_exact_mut(W * 64).enumerate() {
                put_words(group(raw, i), lane, out);
            }
        }
    }
    Ok(())
}

/// Word `lane` of each vector.
fn put_words<const W: usize>(words: [u32; W], lane: usize, out: &mut [u8]) {
    for (vector, word) in out.as_chunks_mut::<64>().0.iter_mut().zip(words) {
        vector.as_chunks_mut().0[lane] = word.to_le_bytes();
    }
}

/// The first `N` words of four codes, or of four pairs of codes.
fn words<const N: usize>(raw: &[u8]) -> [u32; N] {
    let words = raw.as_chunks::<4>().0;
    std::array::from_fn(|i| u32::from_le_bytes(words[i]))
}

/// 32 codes of four bits, from the low or the high nibbles of 32 bytes: the first sixteen become low nibbles.
fn nibbles(raw: &[u8], high: usize) -> [u32; 4] {
    let codes = words::<8>(raw).map(|word| word >> (4 * high) & 0x0F0F_0F0F);
    std::array::from_fn(|j| codes[j] | codes[j + 4] << 4)
}

/// Q5_0 and Q5_1 from their fifth bits on: bit `4 j + t` of a number becomes bit `j` of byte `t`.
fn q5(raw: &[u8]) -> [u32; 5] {
    let [bits, codes @ ..] = words::<5>(raw);
    let spread = |j: u32| {
        let four = bits >> (4 * j) & 15;
        (four | four << 7 | four << 14 | four << 21) & 0x0101_0101
    };
    let bits = (0..8).fold(0, |word, j| word | spread(j) << j);
    [bits, codes[0], codes[1], codes[2], codes[3]]
}

/// Bits `i` of 32 bytes.
fn bits(raw: &[u8], i: usize) -> u32 {
    let bytes = words::<8>(raw);
    (0..8).fold(0, |word, j| word | (bytes[j] >> i & 0x0101_0101) << j)
}

/// Bits `2 i` and `2 i + 1` of 32 bytes.
fn pairs(raw: &[u8], i: usize) -> [u32; 2] {
    let codes = words::<8>(raw).map(|word| word >> (2 * i) & 0x0303_0303);
    [0, 4].map(|h| (0..4).fold(0, |word, j| word | codes[h + j] << (2 * j)))
}

/// Q3_K: the third bits of group `i` are bits `i` of 32 bytes; four groups share 32 bytes of low pairs.
fn q3_k(raw: &[u8], i: usize) -> [u32; 3] {
    let low = pairs(&raw[32 + 32 * (i / 4)..], i % 4);
    [bits(raw, i), low[0], low[1]]
}

/// Q5_K: the fifth bits of group `i` are bits `i` of 32 bytes.
fn q5_k(raw: &[u8], i: usize) -> [u32; 5] {
    let codes = nibbles(&raw[48 + i / 2 * 32..], i % 2);
    [bits(&raw[16..], i), codes[0], codes[1], codes[2], codes[3]]
}

/// Q6_K: four groups of each half of a block share 64 bytes of low nibbles and 32 bytes of high pairs.
fn q6_k(raw: &[u8], i: usize) -> [u32; 6] {
    let (half, quarter) = (i / 4, i % 4);
    let high = pairs(&raw[128 + 32 * half..], quarter);
    let codes = nibbles(&raw[64 * half + quarter % 2 * 32..], quarter / 2);
    [high[0], high[1], codes[0], codes[1], codes[2], codes[3]]
}

/// The scales of row `r` of a native form, from the encoded block. False if one is not finite.
fn put_scales(pack: Pack, raw: &[u8], r: usize, out: &mut [u8]) -> bool {
    let mut half = |at: usize, from: usize| {
        out[at + 2 * r..][..2].copy_from_slice(&raw[from..][..2]);
        is_finite(u16::from_le_bytes([raw[from], raw[from + 1]]), 0x7C00)
    };
    match pack {
        Pack::Q4_1 | Pack::Q5_1 => half(0, 0) & half(32, 2),
        Pack::Q2_K => {
            let finite = half(0, 80) & half(32, 82);
            (0..16).for_each(|s| out[64 + 16 * s + r] = raw[s]);
            finite
        }
        Pack::Q3_K => {
            let finite = half(0, 108);
            put_q3_k_scales(&raw[96..108], r, out);
            finite
        }
        Pack::Q4_K | Pack::Q5_K => {
            let finite = half(0, 0) & half(32, 2);
            put_k_scales(&raw[4..16], r, out);
            finite
        }
        Pack::Q6_K => {
            let finite = half(0, 208);
            (0..16).for_each(|s| out[32 + 16 * s + r] = raw[192 + s]);
            finite
        }
        Pack::IQ4_XS => {
            let finite = half(0, 0);
            put_iq4_xs_scales(&raw[2..8], r, out);
            finite
        }
        Pack::MXFP4 => {
            out[r] = raw[0];
            raw[0] <= Mxfp4::MAX_E
        }
        _ => half(0, 0),
    }
}

/// Whether the exponent of a 16-bit float is not all ones.
fn is_finite(bits: u16, exponent: u16) -> bool {
    bits & exponent != exponent
}

/// Eight 6-bit scales and eight 6-bit minima in twelve bytes (ggml-quants.c, `get_scale_min_k4`).
fn put_k_scales(scales: &[u8], r: usize, out: &mut [u8]) {
    for i in 0..8 {
        let (scale, min) = if i < 4 {
            (scales[i] & 63, scales[i + 4] & 63)
        } else {
            ((scales[i + 4] & 15) | ((scales[i - 4] >> 6) << 4), (scales[i + 4] >> 4) | ((scales[i] >> 6) << 4))
        };
        put_six_bits([scale, min], i, r, &mut out[64..]);
    }
}

/// Sixteen 6-bit scales in twelve bytes, two a group: low nibbles of scale `s` below those of `s + 8`, then the high bits
/// of scales `s`, `s + 4`, .. in a byte (ggml-quants.c, `dequantize_row_q3_K`).
fn put_q3_k_scales(scales: &[u8], r: usize, out: &mut [u8]) {
    let scale = |s: usize| {
        let low = scales[s % 8] >> (4 * (s / 8)) & 15;
        low | (scales[8 + s % 4] >> (2 * (s / 4)) & 3) << 4
    };
    for i in 0..8 {
        put_six_bits([scale(2 * i), scale(2 * i + 1)], i, r, &mut out[32..]);
    }
}

/// Two 6-bit numbers of group `i` and row `r`: `[8][16]` low nibbles, then `[4][16]` high bits, two groups a byte.
fn put_six_bits([a, b]: [u8; 2], i: usize, r: usize, out: &mut [u8]) {
    out[16 * i + r] = (a & 15) | (b << 4);
    out[128 + 16 * (i / 2) + r] |= ((a >> 4) | ((b >> 4) << 2)) << (4 * (i % 2));
}

/// High bits of eight scales in a u16, then their low nibbles, two a byte (ggml-common.h, `block_iq4_xs`).
fn put_iq4_xs_scales(scales: &[u8], r: usize, out: &mut [u8]) {
    for i in 0..4 {
        out[32 + 16 * i + r] = scales[2 + i];
    }
    for i in 0..2 {
        out[96 + 16 * i + r] = scales[i];
    }
}

/// Any quantised format, group by group of 32 columns.
fn wide(pack: Pack, view: &TensorView<'_>, rows: Range<usize>, out: &mut [u8]) -> Result<(), usize> {
    for (lane, row) in rows.enumerate() {
        for (i, out) in out.chunks_exact_mut(pack.block_bytes()).enumerate() {
            let group = view.format().group(view.row(row), i);
            if !group.scale.iter().chain(&group.min).all(|v| v.is_finite()) {
                return Err(row);
            }
            put_wide_scales(pack, group.scale, group.min, lane, out);
            let codes = group.codes.map(|code| (code as u8).wrapping_add(pack.zero_point()));
            let codes_start = out.len() - 512;
            put_words(words::<8>(&codes), lane, &mut out[codes_start..]);
        }
    }
    Ok(())
}

fn put_wide_scales(pack: Pack, scale: [f32; 2], min: [f32; 2], r: usize, out: &mut [u8]) {
    let subs = pack.subs();
    for s in 0..subs {
        out[64 * s + 4 * r..][..4].copy_from_slice(&scale[s].to_le_bytes());
        if pack.has_min() {
            out[64 * (subs + s) + 4 * r..][..4].copy_from_slice(&min[s].to_le_bytes());
        }
    }
}

/// Any format, decoded: `[k][32]`.
fn floats(view: &TensorView<'_>, rows: Range<usize>, out: &mut [u8]) -> Result<(), usize> {
    let mut weights = vec![0.0f32; view.cols()];
    for (lane, row) in rows.enumerate() {
        view.decode_row(row, &mut weights);
        if !weights.iter().all(|w| w.is_finite()) {
            return Err(row);
        }
        let places = out.as_chunks_mut::<4>().0.iter_mut().skip(lane).step_by(32);
        places.zip(&weights).for_each(|(place, w)| *place = w.to_le_bytes());
    }
    Ok(())
}

/// F16 and BF16 as they are: `[k][32]`, 32 columns of all rows at a time, which stay in the first-level cache.
fn halves(view: &TensorView<'_>, rows: Range<usize>, exponent: u16, out: &mut [u8]) -> Result<(), usize> {
    for (k, out) in out.chunks_mut(32 * 64).enumerate() {
        for (lane, row) in rows.clone().enumerate() {
            let encoded = &view.row(row).as_chunks::<2>().0[32 * k..][..out.len() / 64];
            let mut finite = true;
            for (column, half) in out.as_chunks_mut::<64>().0.iter_mut().zip(encoded) {
                column.as_chunks_mut().0[lane] = *half;
                finite &= is_finite(u16::from_le_bytes(*half), exponent);
            }
            if !finite {
                return Err(row);
            }
        }
    }
    Ok(())
}
