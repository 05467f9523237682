//! What the suites share: random numbers, bf16, the shipped PTX, and how an error is judged.

pub mod adapt;
pub mod attention;
pub mod attention_bugs;
pub mod attention_f32;
pub mod bugs;
pub mod cases;
pub mod element;
pub mod elementwise;
pub mod gemm;
pub mod gemm_bugs;
pub mod gemv;
pub mod gemv_bugs;
pub mod paged;
pub mod persistent;
pub mod prefill;
pub mod rope;
pub mod sample;
pub mod tables;
pub mod weights;
pub mod wgmma;
pub mod wgmma_bugs;

use std::path::PathBuf;

use ptx_sim::{Format, Module, Round};

/// SplitMix64: a sequence that is the same everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Uniform in [-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }

    pub fn bf16s(&mut self, n: usize) -> Vec<u16> {
        (0..n).map(|_| to_bf16(f64::from(self.unit()))).collect()
    }
}

pub fn to_bf16(x: f64) -> u16 {
    Format::Bf16.narrow(x, Round::Nearest) as u16
}

pub fn to_f16(x: f64) -> u16 {
    Format::F16.narrow(x, Round::Nearest) as u16
}

pub fn from_bf16(bits: u16) -> f64 {
    Format::Bf16.widen(u64::from(bits))
}

pub fn from_f16(bits: u16) -> f64 {
    Format::F16.widen(u64::from(bits))
}

/// Rounds to bf16 and back: one step of a computation that keeps nothing wider.
pub fn bf16(x: f64) -> f64 {
    from_bf16(to_bf16(x))
}

pub fn ptx_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../llama-cuda/ptx/compute_80")
}

pub fn ptx(name: &str) -> String {
    std::fs::read_to_string(ptx_folder().join(format!("{name}.ptx"))).expect("the PTX is part of the repository")
}

/// A kernel file of the set for Hopper.
pub fn ptx_90a(name: &str) -> String {
    let path = ptx_folder().join(format!("../compute_90a/{name}.ptx"));
    std::fs::read_to_string(path).expect("the PTX is part of the repository")
}

pub fn parse(text: &str) -> Result<Module, String> {
    Module::parse(text).map_err(|error| error.to_string())
}

/// The kernel's largest error against f64 may be twice that of the same computation done plainly in bf16.
pub fn judge(what: &str, got: &[f64], plain: &[f64], truth: &[f64]) -> Result<(), String> {
    let worst = |values: &[f64]| values.iter().zip(truth).map(|(v, t)| (v - t).abs()).fold(0.0, worse);
    let (error, allowed) = (worst(got), 2.0 * worst(plain));
    if error <= allowed { Ok(()) } else { Err(format!("{what}: error {error:.3e}, allowed {allowed:.3e}")) }
}

/// The larger, or NaN if either is.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

pub fn all_bf16(bits: &[u16]) -> Vec<f64> {
    bits.iter().map(|&b| from_bf16(b)).collect()
}

pub fn all_f32(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}
