//! Encoded rows into panels: a permutation of bits for native forms, a widening for the others.

use std::ops::Range;

use llama_core::checkpoint::TensorView;
use llama_core::numerics::GROUP;

use super::pack::Pack;
use super::unpack::Codes;

/// Packs rows `first ..` of `view` (as many as a panel has, or as are left) into `out`, which holds zeros.
/// The error names a row whose weights are not finite.
pub fn panel(pack: Pack, view: &TensorView<'_>, first: usize, out: &mut [u8]) -> Result<(), usize> {
    let rows = first..view.rows().min(first + pack.rows());
    if pack.is_float() {
        let mut weights = vec![0.0; view.cols()];
        for row in rows {
            view.decode_row(row, &mut weights);
            check(row, &weights)?;
            put_floats(pack, row - first, view.row(row), &weights, out);
        }
        return Ok(());
    }
    for (b, out) in out.chunks_exact_mut(pack.block_bytes()).enumerate() {
        block(pack, view, rows.clone(), b, out)?;
    }
    Ok(())
}

fn check(row: usize, values: &[f32]) -> Result<(), usize> {
    if values.iter().all(|v| v.is_finite()) { Ok(()) } else { Err(row) }
}

/// Row `lane` of a float panel: `[k][32]`. F16 and BF16 keep their encoded bytes; all else is decoded.
fn put_floats(pack: Pack, lane: usize, encoded: &[u8], weights: &[f32], out: &mut [u8]) {
    if pack == Pack::F32 {
        let places = out.as_chunks_mut::<4>().0.iter_mut().skip(lane).step_by(32);
        places.zip(weights).for_each(|(place, w)| *place = w.to_le_bytes());
    } else {
        let places = out.as_chunks_mut::<2>().0.iter_mut().skip(lane).step_by(32);
        places.zip(encoded.as_chunks().0).for_each(|(place, w)| *place = *w);
    }
}

/// Block `b` of a quantised form.
fn block(pack: Pack, view: &TensorView<'_>, rows: Range<usize>, b: usize, out: &mut [u8]) -> Result<(), usize> {
    let mut codes = [[[0u8; 64]; 8]; 8];
    for (r, row) in rows.enumerate() {
        if !pack.is_wide() {
            let bytes = view.format().block_bytes();
            put_scales(pack, &view.row(row)[b * bytes..][..bytes], r, out);
        }
        for (i, codes) in codes.iter_mut().enumerate().take(pack.groups()) {
            let group = view.format().group(view.row(row), b * pack.groups() + i);
            check(row, &group.scale)?;
            check(row, &group.min)?;
            for (k, code) in group.codes.into_iter().enumerate() {
                codes[k / 4][4 * r + k % 4] = (code as u8).wrapping_add(pack.zero_point());
            }
            if pack.is_wide() {
                put_wide_scales(pack, group.scale, group.min, r, out);
            }
        }
    }
    for (i, codes) in codes.iter().enumerate().take(pack.groups()) {
        put_codes(pack, codes, i, out);
    }
    Ok(())
}

/// The scales of row `r` of a native form, from the encoded block (offsets: ggml-common.h, `block_*`).
fn put_scales(pack: Pack, raw: &[u8], r: usize, out: &mut [u8]) {
    let mut half = |at: usize, from: usize| out[at + 2 * r..][..2].copy_from_slice(&raw[from..][..2]);
    match pack {
        Pack::Q8_0 | Pack::Q4_0 | Pack::Q5_0 | Pack::IQ4_NL => half(0, 0),
        Pack::Q4_1 | Pack::Q5_1 => {
            half(0, 0);
            half(32, 2);
        }
        Pack::Q4_K | Pack::Q5_K => {
            half(0, 0);
            half(32, 2);
            put_k_scales(&raw[4..16], r, out);
        }
        Pack::Q6_K => {
            half(0, 208);
            (0..16).for_each(|s| out[32 + 16 * s + r] = raw[192 + s]);
        }
        Pack::IQ4_XS => {
            half(0, 0);
            put_iq4_xs_scales(&raw[2..8], r, out);
        }
        _ => {}
    }
}

/// Eight 6-bit scales and eight 6-bit minima in twelve bytes (ggml-quants.c, `get_scale_min_k4`).
fn put_k_scales(scales: &[u8], r: usize, out: &mut [u8]) {
    for i in 0..8 {
        let (scale, min) = if i < 4 {
            (scales[i] & 63, scales[i + 4] & 63)
        } else {
            ((scales[i + 4] & 15) | ((scales[i - 4] >> 6) << 4), (scales[i + 4] >> 4) | ((scales[i] >> 6) << 4))
        };
        out[64 + 16 * i + r] = (scale & 15) | (min << 4);
        out[192 + 16 * (i / 2) + r] |= ((scale >> 4) | ((min >> 4) << 2)) << (4 * (i % 2));
    }
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

fn put_wide_scales(pack: Pack, scale: [f32; 2], min: [f32; 2], r: usize, out: &mut [u8]) {
    let subs = pack.subs();
    for s in 0..subs {
        out[64 * s + 4 * r..][..4].copy_from_slice(&scale[s].to_le_bytes());
        if pack.has_min() {
            out[64 * (subs + s) + 4 * r..][..4].copy_from_slice(&min[s].to_le_bytes());
        }
    }
}

/// The codes of group `i`, which end the block or its share of it.
fn put_codes(pack: Pack, codes: &Codes, i: usize, out: &mut [u8]) {
    let share = group_bytes(pack);
    let start = out.len() - share * (pack.groups() - i);
    let out = &mut out[start..start + share];
    match pack {
        Pack::Q8_0 | Pack::Wide32 | Pack::Wide32Min | Pack::Wide16 | Pack::Wide16Min => {
            out.copy_from_slice(codes.as_flattened())
        }
        Pack::IQ4_NL | Pack::IQ4_XS => put_nibbles(&codes.map(|vector| vector.map(iq4_index)), out),
        Pack::Q5_0 | Pack::Q5_1 | Pack::Q5_K => {
            put_bits(codes, &mut out[..64]);
            put_nibbles(codes, &mut out[64..]);
        }
        Pack::Q6_K => {
            put_pairs(codes, &mut out[..128]);
            put_nibbles(codes, &mut out[128..]);
        }
        _ => put_nibbles(codes, out),
    }
}

/// Bytes of a group's codes.
fn group_bytes(pack: Pack) -> usize {
    match pack {
        Pack::Q5_0 | Pack::Q5_1 | Pack::Q5_K => 64 + 256,
        Pack::Q6_K => 128 + 256,
        Pack::Q4_0 | Pack::Q4_1 | Pack::Q4_K | Pack::IQ4_NL | Pack::IQ4_XS => 256,
        _ => 16 * GROUP,
    }
}

fn put_nibbles(codes: &Codes, out: &mut [u8]) {
    for (j, vector) in codes.iter().enumerate() {
        for (b, code) in vector.iter().enumerate() {
            out[64 * (j % 4) + b] |= (code & 15) << (4 * (j / 4));
        }
    }
}

fn put_bits(codes: &Codes, out: &mut [u8]) {
    for (j, vector) in codes.iter().enumerate() {
        for (b, code) in vector.iter().enumerate() {
            out[b] |= ((code >> 4) & 1) << j;
        }
    }
}

fn put_pairs(codes: &Codes, out: &mut [u8]) {
    for (j, vector) in codes.iter().enumerate() {
        for (b, code) in vector.iter().enumerate() {
            out[64 * (j / 4) + b] |= ((code >> 4) & 3) << (2 * (j % 4));
        }
    }
}

/// Index of a value of the table; 0 for the zeros of rows that pad a panel.
fn iq4_index(value: u8) -> u8 {
    super::pack::IQ4.iter().position(|&v| v == value).unwrap_or(0) as u8
}
