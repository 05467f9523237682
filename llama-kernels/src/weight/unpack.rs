//! Packed bytes back into codes and scales, as plainly as it can be said: the meaning of every [`Pack`].

use llama_core::format::Mxfp4;

use super::pack::{E2M1, IQ4, Pack};

/// Eight code vectors: byte `4 r + t` of vector `j` is column `4 j + t` of row `r`.
pub type Codes = [[u8; 64]; 8];

/// Codes to which bits are added.
const ZERO_CODES: Codes = [[0; 64]; 8];

/// One group of sixteen rows. Where a group has one sub-block, only the first scale and minimum are used.
pub struct Unpacked {
    /// Unsigned codes.
    pub codes: Codes,
    /// `[sub-block][row]` scale.
    pub scale: [[f32; 16]; 2],
    /// `[sub-block][row]` minimum, added.
    pub min: [[f32; 16]; 2],
}

/// Unpacks group `i` of a block of a quantised form.
pub fn unpack(pack: Pack, raw: &[u8], i: usize) -> Unpacked {
    let mut scale = [[0.0; 16]; 2];
    let mut min = [[0.0; 16]; 2];
    let codes = match pack {
        Pack::Q8_0 | Pack::Q4_0 | Pack::IQ4_NL | Pack::Q5_0 => {
            scale[0] = halves(raw, 0);
            match pack {
                Pack::Q8_0 => bytes(raw, 32),
                Pack::Q4_0 => nibbles(raw, 32),
                Pack::IQ4_NL => look_up(&IQ4, nibbles(raw, 32)),
                _ => with_bits(nibbles(raw, 96), raw, 32, 4),
            }
        }
        Pack::Q4_1 | Pack::Q5_1 => {
            (scale[0], min[0]) = (halves(raw, 0), halves(raw, 32));
            if pack == Pack::Q4_1 { nibbles(raw, 64) } else { with_bits(nibbles(raw, 128), raw, 64, 4) }
        }
        Pack::Q2_K => {
            let (d, dmin) = (halves(raw, 0), halves(raw, 32));
            for s in 0..2 {
                let factors = |r: usize| raw[64 + 16 * (2 * i + s) + r];
                scale[s] = std::array::from_fn(|r| d[r] * f32::from(factors(r) & 15));
                min[s] = std::array::from_fn(|r| -(dmin[r] * f32::from(factors(r) >> 4)));
            }
            with_pairs(ZERO_CODES, raw, 320 + 128 * i, 0)
        }
        Pack::Q3_K => {
            let d = halves(raw, 0);
            scale = six_bits(&raw[32..], i).map(|s| std::array::from_fn(|r| d[r] * (f32::from(s[r]) - 32.0)));
            let at = 224 + 192 * i;
            with_bits(with_pairs(ZERO_CODES, raw, at + 64, 0), raw, at, 2)
        }
        Pack::Q4_K | Pack::Q5_K => {
            (scale[0], min[0]) = k_scales(raw, i);
            if pack == Pack::Q4_K {
                nibbles(raw, 256 + 256 * i)
            } else {
                with_bits(nibbles(raw, 256 + 320 * i + 64), raw, 256 + 320 * i, 4)
            }
        }
        Pack::Q6_K => {
            let d = halves(raw, 0);
            for (s, scale) in scale.iter_mut().enumerate() {
                *scale = std::array::from_fn(|r| d[r] * f32::from(raw[32 + 16 * (2 * i + s) + r] as i8));
            }
            with_pairs(nibbles(raw, 288 + 384 * i + 128), raw, 288 + 384 * i, 4)
        }
        Pack::IQ4_XS => {
            scale[0] = iq4_xs_scales(raw, i);
            look_up(&IQ4, nibbles(raw, 128 + 256 * i))
        }
        Pack::MXFP4 => {
            scale[0] = std::array::from_fn(|r| Mxfp4::scale(raw[r]));
            look_up(&E2M1, nibbles(raw, 16))
        }
        Pack::Wide32 | Pack::Wide32Min | Pack::Wide16 | Pack::Wide16Min => {
            let subs = pack.subs();
            for s in 0..subs {
                scale[s] = floats(raw, 64 * s);
                if pack.has_min() {
                    min[s] = floats(raw, 64 * (subs + s));
                }
            }
            bytes(raw, raw.len() - 512)
        }
        Pack::F32 | Pack::F16 | Pack::BF16 | Pack::CodedBF16 => unreachable!("floats have no groups"),
    };
    Unpacked { codes, scale, min }
}

fn halves(raw: &[u8], at: usize) -> [f32; 16] {
    std::array::from_fn(|r| half::f16::from_le_bytes([raw[at + 2 * r], raw[at + 2 * r + 1]]).to_f32())
}

fn floats(raw: &[u8], at: usize) -> [f32; 16] {
    std::array::from_fn(|r| f32::from_le_bytes(std::array::from_fn(|b| raw[at + 4 * r + b])))
}

fn bytes(raw: &[u8], at: usize) -> Codes {
    std::array::from_fn(|j| std::array::from_fn(|b| raw[at + 64 * j + b]))
}

fn nibbles(raw: &[u8], at: usize) -> Codes {
    std::array::from_fn(|j| std::array::from_fn(|b| (raw[at + 64 * (j % 4) + b] >> (4 * (j / 4))) & 15))
}

/// One more bit for every code, at place `shift`.
fn with_bits(codes: Codes, raw: &[u8], at: usize, shift: usize) -> Codes {
    std::array::from_fn(|j| std::array::from_fn(|b| codes[j][b] | (((raw[at + b] >> j) & 1) << shift)))
}

/// Two more bits for every code, from place `shift`.
fn with_pairs(codes: Codes, raw: &[u8], at: usize, shift: usize) -> Codes {
    let pair = |j: usize, b: usize| (raw[at + 64 * (j / 4) + b] >> (2 * (j % 4))) & 3;
    std::array::from_fn(|j| std::array::from_fn(|b| codes[j][b] | (pair(j, b) << shift)))
}

fn look_up(table: &[u8; 16], codes: Codes) -> Codes {
    codes.map(|vector| vector.map(|code| table[usize::from(code)]))
}

/// Scales and minima of Q4_K and Q5_K: `d * scale` and `-(dmin * min)` with 6-bit factors.
fn k_scales(raw: &[u8], i: usize) -> ([f32; 16], [f32; 16]) {
    let (d, dmin) = (halves(raw, 0), halves(raw, 32));
    let [scale, min] = six_bits(&raw[64..], i);
    (std::array::from_fn(|r| d[r] * f32::from(scale[r])), std::array::from_fn(|r| -(dmin[r] * f32::from(min[r]))))
}

/// Two 6-bit numbers of group `i` for each row.
fn six_bits(raw: &[u8], i: usize) -> [[u8; 16]; 2] {
    let low = |r: usize| raw[16 * i + r];
    let high = |r: usize| raw[128 + 16 * (i / 2) + r] >> (4 * (i % 2));
    [
        std::array::from_fn(|r| (low(r) & 15) | ((high(r) & 3) << 4)),
        std::array::from_fn(|r| (low(r) >> 4) | ((high(r) & 12) << 2)),
    ]
}

/// Scales of IQ4_XS: `d * (six bits - 32)`.
fn iq4_xs_scales(raw: &[u8], i: usize) -> [f32; 16] {
    let d = halves(raw, 0);
    let low = |r: usize| (raw[32 + 16 * (i / 2) + r] >> (4 * (i % 2))) & 15;
    let high = |r: usize| (raw[96 + 16 * (i / 4) + r] >> (2 * (i % 4))) & 3;
    std::array::from_fn(|r| d[r] * (f32::from(low(r) | (high(r) << 4)) - 32.0))
}
