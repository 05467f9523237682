//! Mutants: a good file with a few changes where they hurt, reproducible from a seed.

/// A counter-keyed generator (Steele et al. 2014, SplitMix64): `seed` alone decides all that follows.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number less than `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

const INTEGERS: [u64; 16] = [
    0,
    1,
    2,
    7,
    8,
    32,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 40,
    (1 << 62) - 1,
    1 << 63,
    u64::MAX - 31,
    u64::MAX,
];

/// A mutant of a binary file whose integer fields lie at `fields` (offset, size).
pub fn binary(good: &[u8], fields: &[(usize, usize)], seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = good.to_vec();
    for _ in 0..1 + random.below(3) {
        match random.below(8) {
            0..=3 => field(&mut bytes, *random.pick(fields), &mut random),
            4 => field(&mut bytes, *random.pick(fields), &mut Random::new(seed | 1)),
            5 => flip(&mut bytes, &mut random),
            6 => splice(&mut bytes, &mut random),
            _ => bytes.truncate(1 + random.below(good.len())),
        }
        if bytes.is_empty() {
            bytes.push(b'G');
        }
    }
    bytes
}

/// Replaces an integer by a notable one, or by a neighbour.
fn field(bytes: &mut [u8], (at, size): (usize, usize), random: &mut Random) {
    let Some(place) = bytes.get_mut(at..at + size) else { return };
    let mut old = [0; 8];
    old[..size].copy_from_slice(place);
    let old = u64::from_le_bytes(old);
    let new = match random.below(4) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        _ => *random.pick(&INTEGERS),
    };
    place.copy_from_slice(&new.to_le_bytes()[..size]);
}

fn flip(bytes: &mut [u8], random: &mut Random) {
    let at = random.below(bytes.len());
    bytes[at] ^= 1 << random.below(8);
}

/// Copies, or removes, a run of bytes.
fn splice(bytes: &mut Vec<u8>, random: &mut Random) {
    let from = random.below(bytes.len());
    let to = (from + 1 + random.below(40)).min(bytes.len());
    let run: Vec<u8> = bytes[from..to].to_vec();
    match random.below(2) {
        0 => drop(bytes.drain(from..to)),
        _ => {
            let at = random.below(bytes.len());
            bytes.splice(at..at, run);
        }
    }
}

const TOKENS: [&str; 24] = [
    "0",
    "-1",
    "1",
    "8",
    "1e999",
    "1e39",
    "1.5",
    "18446744073709551615",
    "18446744073709551616",
    "99999999",
    "null",
    "true",
    "\"\"",
    "\"F16\"",
    "\"I64\"",
    "\"\\ud800\"",
    "[]",
    "{}",
    "[0,0]",
    "{\"a\":1,\"a\":2}",
    ",",
    ":",
    "}",
    "]",
];

/// A mutant of a JSON text: a number, string or sign replaced, a run copied or removed, a byte changed, an end cut off.
pub fn json(good: &[u8], seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = good.to_vec();
    for _ in 0..1 + random.below(3) {
        match random.below(8) {
            0..=4 => token(&mut bytes, &mut random),
            5 => flip(&mut bytes, &mut random),
            6 => splice(&mut bytes, &mut random),
            _ => bytes.truncate(1 + random.below(good.len())),
        }
        if bytes.is_empty() {
            bytes.push(b'{');
        }
    }
    bytes
}

/// Replaces the token at a random place.
fn token(bytes: &mut Vec<u8>, random: &mut Random) {
    let edge = |b: &u8| b",:{}[] \n".contains(b);
    let at = random.below(bytes.len());
    let from = bytes[..at].iter().rposition(edge).map_or(0, |edge| edge + 1);
    let to = bytes[at..].iter().position(edge).map_or(bytes.len(), |edge| at + edge.max(1)).max(from);
    bytes.splice(from..to, random.pick(&TOKENS).bytes());
}
