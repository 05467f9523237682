//! Instruction-set tiers: which there are, and which this CPU has. Asked once, at the door; after that the tier is an
//! argument, so that a test can walk all of them in one process.

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::fmt;
use std::str::FromStr;

use llama_core::error::{Error, Result, by_name};

/// A set of inner loops. Ordered: a later tier is faster. All of them give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Tier {
    /// Plain Rust: any CPU.
    Portable,
    /// AVX2, FMA and F16C: x86-64-v3.
    Avx2,
    /// AVX2 and VPDPBUSD for its registers (AVX-VNNI).
    AvxVnni,
    /// AVX-512 F, BW, VL, DQ and VNNI.
    Avx512,
    /// NEON: any aarch64.
    Neon,
    /// NEON with the dot products of ARMv8.2.
    NeonDotprod,
    /// NEON with the dot products of ARMv8.2 and the matrix products of ARMv8.6.
    NeonI8mm,
}

impl Tier {
    /// Every tier of every architecture, each architecture's slowest first.
    pub const ALL: [Tier; 7] =
        [Tier::Portable, Tier::Avx2, Tier::AvxVnni, Tier::Avx512, Tier::Neon, Tier::NeonDotprod, Tier::NeonI8mm];

    /// Whether this CPU can run it.
    pub fn is_available(self) -> bool {
        match self {
            Tier::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Tier::AvxVnni => has_avx2() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => has_avx2() && has_avx512(),
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => has_neon(),
            #[cfg(target_arch = "aarch64")]
            Tier::NeonDotprod => has_neon() && is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Tier::NeonI8mm => Tier::NeonDotprod.is_available() && is_aarch64_feature_detected!("i8mm"),
            _ => false,
        }
    }

    /// The tiers this CPU can run, slowest first.
    pub fn available() -> impl DoubleEndedIterator<Item = Tier> {
        Self::ALL.into_iter().filter(|tier| tier.is_available())
    }

    /// The fastest tier this CPU can run.
    pub fn best() -> Tier {
        Self::available().next_back().unwrap_or(Tier::Portable)
    }

    /// Name, as arguments and reports spell it.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Portable => "portable",
            Tier::Avx2 => "avx2",
            Tier::AvxVnni => "avx-vnni",
            Tier::Avx512 => "avx512-vnni",
            Tier::Neon => "neon",
            Tier::NeonDotprod => "neon-dotprod",
            Tier::NeonI8mm => "neon-i8mm",
        }
    }
}

impl FromStr for Tier {
    type Err = Error;

    /// By its name.
    fn from_str(name: &str) -> Result<Self> {
        by_name("tier", name, Tier::ALL, Tier::name)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
}

/// The kernels load packed bytes as vectors of wider lanes, which means something else on a big-endian CPU.
#[cfg(target_arch = "aarch64")]
fn has_neon() -> bool {
    cfg!(target_endian = "little") && is_aarch64_feature_detected!("neon")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_are_ordered_and_told_apart_by_name() {
        assert!(Tier::ALL.is_sorted());
        for tier in Tier::ALL {
            assert_eq!(tier.name().parse::<Tier>().unwrap(), tier);
        }
        let error = "sse2".parse::<Tier>().unwrap_err().to_string();
        assert!(error.contains("sse2") && error.contains("avx-vnni, avx512-vnni"), "{error}");
    }

    #[test]
    fn tiers_of_other_architectures_are_not_available() {
        let x86 = [Tier::Avx2, Tier::AvxVnni, Tier::Avx512].iter().any(|tier| tier.is_available());
        let aarch64 = [Tier::Neon, Tier::NeonDotprod, Tier::NeonI8mm].iter().any(|tier| tier.is_available());
        assert!(!x86 || cfg!(target_arch = "x86_64"));
        assert_eq!(aarch64, cfg!(all(target_arch = "aarch64", target_endian = "little")));
        assert!(Tier::Portable.is_available() && Tier::best().is_available());
    }

    /// The scripts that run this under an emulator read here whether it has what it is used for.
    #[test]
    fn tiers_of_this_cpu_are_told() {
        let names: Vec<_> = Tier::available().map(Tier::name).collect();
        println!("tiers: {}", names.join(" "));
        assert!(names.first() == Some(&"portable") && names.last() == Some(&Tier::best().name()));
    }
}
