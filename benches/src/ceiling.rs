//! Ceilings of the machine, measured where and when a benchmark runs: a speed is a share of one of these.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use llama_kernels::isa::Tier;
use llama_kernels::threads::Threads;

/// Reads every cache line of `bytes`, each thread one contiguous share, and returns a sum that depends on all of it.
///
/// The loop is plain: the compiler makes vectors of it, and memory is the limit. Where it is faster so (AMD's Zen 3: by a
/// tenth), it asks for lines some KiB ahead.
pub fn raw_read(threads: &Threads, bytes: &[u8]) -> u64 {
    let words = bytes.as_chunks::<8>().0;
    let share = words.len().div_ceil(threads.count());
    let total = AtomicU64::new(0);
    threads.for_each(threads.count(), &|i| {
        let own = words.chunks(share).nth(i).unwrap_or_default();
        total.fetch_xor(xor(own), Ordering::Relaxed);
    });
    total.into_inner()
}

fn xor(words: &[[u8; 8]]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if Tier::Avx512.is_available() {
        // SAFETY: the CPU has AVX-512.
        return unsafe { x86::xor_avx512(words) };
    }
    xor_words(words)
}

/// Asks for the lines of a block of 256 bytes that lies 2 KiB further on.
#[inline(always)]
fn ask_ahead(block: &[[u8; 8]; 32]) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..4 {
        let address = block.as_ptr().wrapping_byte_add((2 << 10) + 64 * line);
        // SAFETY: a prefetch reads nothing that the program sees and cannot fault, whatever the address.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = block;
}

#[inline(always)]
fn xor_words(words: &[[u8; 8]]) -> u64 {
    let (lines, rest) = words.as_chunks::<32>();
    let mut lanes = [0u64; 32];
    for line in lines {
        ask_ahead(line);
        lanes.iter_mut().zip(line).for_each(|(lane, word)| *lane ^= u64::from_le_bytes(*word));
    }
    lanes.into_iter().chain(rest.iter().map(|word| u64::from_le_bytes(*word))).fold(0, |a, b| a ^ b)
}

/// Multiply-accumulates of int8 that one thread does in `rounds` rounds of the tier's best instruction, operands in
/// registers, and nothing else: the ceiling of a quantised linear. 0 where the tier has no instruction to show.
pub fn int8_macs(tier: Tier, rounds: u64) -> u64 {
    match tier {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the tier is available.
        Tier::Avx512 if tier.is_available() => unsafe { x86::dpbusd(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the tier is available.
        Tier::AvxVnni if tier.is_available() => unsafe { x86::dpbusd256(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the tier is available.
        Tier::Avx2 if tier.is_available() => unsafe { x86::maddubs(rounds) },
        _ => 0,
    }
}

/// As [`int8_macs`], for fused multiply-adds of f32.
pub fn f32_macs(tier: Tier, rounds: u64) -> u64 {
    match tier {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the tier is available.
        Tier::Avx512 if tier.is_available() => unsafe { x86::fma512(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the tier is available.
        Tier::Avx2 | Tier::AvxVnni if tier.is_available() => unsafe { x86::fma256(rounds) },
        _ => 0,
    }
}

/// Multiply-accumulates a second that all threads together do of [`f32_macs`] (`floats`) or [`int8_macs`]; 0 where the tier
/// has no instruction to show.
pub fn macs_per_second(threads: &Threads, tier: Tier, floats: bool, rounds: u64) -> f64 {
    let macs = if floats { f32_macs } else { int8_macs };
    let done = AtomicU64::new(0);
    let start = Instant::now();
    threads.for_each(threads.count(), &|_| {
        done.fetch_add(black_box(macs(tier, rounds)), Ordering::Relaxed);
    });
    done.into_inner() as f64 / start.elapsed().as_secs_f64()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Chains in flight: more than any CPU's latency times throughput.
    const CHAINS: usize = 12;

    #[target_feature(enable = "avx512f")]
    pub(super) fn xor_avx512(words: &[[u8; 8]]) -> u64 {
        super::xor_words(words)
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn dpbusd(rounds: u64) -> u64 {
        let (a, b) = (black_box(_mm512_set1_epi8(1)), black_box(_mm512_set1_epi8(2)));
        let mut acc = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = _mm512_dpbusd_epi32(*acc, black_box_register(a), b);
            }
        }
        black_box(acc);
        rounds * (CHAINS * 64) as u64
    }

    /// Keeps the compiler from counting ahead, without a trip through memory.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn black_box_register(x: __m512i) -> __m512i {
        let mut y = x;
        // SAFETY: the empty instruction reads and writes nothing but its register.
        unsafe { std::arch::asm!("/* {0} */", inout(zmm_reg) y, options(pure, nomem, nostack, preserves_flags)) };
        y
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn dpbusd256(rounds: u64) -> u64 {
        let (a, b) = (black_box(_mm256_set1_epi8(1)), black_box(_mm256_set1_epi8(2)));
        let mut acc = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..rounds {
            for acc in &mut acc {
                // Through the sum, so that the compiler cannot count ahead.
                *acc = _mm256_dpbusd_avx_epi32(*acc, *acc, _mm256_or_si256(a, b));
            }
        }
        black_box(acc);
        rounds * (CHAINS * 32) as u64
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn maddubs(rounds: u64) -> u64 {
        let (a, b) = (black_box(_mm256_set1_epi8(1)), black_box(_mm256_set1_epi8(2)));
        let mut acc = [_mm256_setzero_si256(); CHAINS];
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = _mm256_maddubs_epi16(*acc, a);
            }
        }
        black_box((acc, b));
        rounds * (CHAINS * 32) as u64
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn fma512(rounds: u64) -> u64 {
        let (a, b) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(2.0)));
        let mut acc = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = _mm512_fmadd_ps(*acc, a, b);
            }
        }
        black_box(acc);
        rounds * (CHAINS * 16) as u64
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn fma256(rounds: u64) -> u64 {
        let (a, b) = (black_box(_mm256_set1_ps(0.5)), black_box(_mm256_set1_ps(2.0)));
        let mut acc = [_mm256_setzero_ps(); CHAINS];
        for _ in 0..rounds {
            for acc in &mut acc {
                *acc = _mm256_fmadd_ps(*acc, a, b);
            }
        }
        black_box(acc);
        rounds * (CHAINS * 8) as u64
    }
}
