//! Random numbers from a counter: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011).
//!
//! A block cipher in all but secrecy: ten rounds turn a counter into four random words under a key. There is no state to
//! carry, so a draw depends on what it is for and on nothing that ran before it.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// What a random number is for. A word of the counter, so that the numbers of one do not depend on those of another.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stream {
    /// Which token is drawn.
    Draw = 0,
    /// Whether the most probable tokens are excluded.
    Exclude = 1,
}

/// The 64 random bits that belong to a seed and a position.
pub(super) fn bits(seed: u64, position: u64, stream: Stream) -> u64 {
    let counter = [position as u32, (position >> 32) as u32, stream as u32, 0];
    let words = philox(counter, [seed as u32, (seed >> 32) as u32]);
    u64::from(words[0]) << 32 | u64::from(words[1])
}

/// The uniform number in `[0, 1)` that belongs to a seed and a position; a multiple of 2^-53.
pub(super) fn uniform(seed: u64, position: u64, stream: Stream) -> f64 {
    (bits(seed, position, stream) >> 11) as f64 / (1u64 << 53) as f64
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        counter = round(counter, key);
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

fn round([a, b, c, d]: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (low0, high0) = wide(MULTIPLIERS[0], a);
    let (low1, high1) = wide(MULTIPLIERS[1], c);
    [high1 ^ b ^ key[0], low1, high0 ^ d ^ key[1], low0]
}

/// Low and high word of a product.
fn wide(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    (product as u32, (product >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that come with the authors' Random123 library.
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn every_bit_of_seed_and_position_counts_and_so_does_the_stream() {
        let draws = [Stream::Draw, Stream::Exclude].into_iter().flat_map(|stream| {
            let bits = (0..64).flat_map(move |bit| [uniform(1 << bit, 0, stream), uniform(0, 1 << bit, stream)]);
            bits.chain([uniform(0, 0, stream)])
        });
        let mut bits: Vec<u64> = draws.map(f64::to_bits).collect();
        bits.sort_unstable();
        bits.dedup();
        assert_eq!(bits.len(), 2 * 129);
    }

    #[test]
    fn draws_are_spread_evenly() {
        let mean = (0..100_000).map(|p| uniform(7, p, Stream::Draw)).sum::<f64>() / 1e5;
        assert!((mean - 0.5).abs() < 5.0 * (1.0f64 / 12.0 / 1e5).sqrt(), "{mean}");
    }
}
