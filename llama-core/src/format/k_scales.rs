//! Eight 6-bit scales and eight 6-bit minima in twelve bytes, as Q4_K and Q5_K store them.
//!
//! Scales 0..4 are the low six bits of bytes 0..4, minima 0..4 those of bytes 4..8. Of scales and minima 4..8 the low
//! nibbles share bytes 8..12 (scale below, minimum above), and the two high bits fill the top of bytes 0..4 (scales) and
//! 4..8 (minima).

/// Scale and minimum `i`, each 0..=63.
pub(super) fn get(packed: &[u8; 12], i: usize) -> (u8, u8) {
    if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        let low = packed[i + 4];
        (low & 0xF | packed[i - 4] >> 6 << 4, low >> 4 | packed[i] >> 6 << 4)
    }
}

/// The reverse of [`get`].
pub(super) fn pack(scales: [u8; 8], mins: [u8; 8]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => scales[i] | scales[i + 4] >> 4 << 6,
        4..8 => mins[i - 4] | mins[i] >> 4 << 6,
        _ => scales[i - 4] & 0xF | mins[i - 4] << 4,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scale_and_min_survives_packing() {
        for k in 0..64usize {
            let scales = std::array::from_fn(|i| ((k + 9 * i) & 63) as u8);
            let mins = std::array::from_fn(|i| ((k * 5 + 17 * i) & 63) as u8);
            let packed = pack(scales, mins);
            for i in 0..8 {
                assert_eq!(get(&packed, i), (scales[i], mins[i]));
            }
        }
    }
}
