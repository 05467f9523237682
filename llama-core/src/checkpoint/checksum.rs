//! A checksum of 64 bits: fast enough for whole models, and the same on every machine.
//!
//! Each word of eight bytes is mixed in by a bijection of what was before it (an odd multiplier, a shifted exclusive or,
//! as in Steele, Lea and Flood 2014, "SplitMix"), so a change of one word always shows, and of several with all but
//! certainty. It is no defence against somebody who wants two files to have the same sum.

/// Continues `sum` by `bytes`, in words of eight bytes of which the last is filled up with zeros. What is summed in pieces
/// of whole words has the sum of all of it at once.
pub fn checksum(sum: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(sum, |sum, word| mix(sum ^ u64::from_le_bytes(*word)));
    if rest.is_empty() {
        return sum;
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(sum ^ u64::from_le_bytes(last))
}

fn mix(x: u64) -> u64 {
    let x = (x ^ 0x2545_F491_4F6C_DD1D).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^ x >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_have_the_sum_of_the_whole_and_every_bit_counts() {
        let mut bytes: Vec<u8> = (0..100).collect();
        let sum = checksum(7, &bytes);
        assert_eq!(checksum(checksum(7, &bytes[..48]), &bytes[48..]), sum);
        assert_ne!(checksum(8, &bytes), sum);
        for bit in 0..800 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(checksum(7, &bytes), sum, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_ne!(checksum(7, &[0; 8]), checksum(7, &[0; 16]));
    }

    #[test]
    fn sums_are_the_same_on_every_machine() {
        // They are written into files.
        assert_eq!(checksum(0, b"one arithmetic"), 0x2FBA_1F5D_9C70_4825);
    }
}
