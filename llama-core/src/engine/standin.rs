//! Stands in for the text and sample modules until they are merged.
#![allow(missing_docs)]

use crate::error::{Error, Result};

#[derive(Debug, Clone, Default)]
pub struct Sampling {
    pub temperature: f32,
    pub seed: u64,
    pub logprobs: Option<usize>,
}

impl Sampling {
    pub fn validate(&self, vocab: usize) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(Error::parameter("temperature", self.temperature, "must be finite and at least 0"));
        }
        match self.logprobs {
            Some(n) if n > vocab.min(100) => Err(Error::parameter("logprobs", n, "too many")),
            _ => Ok(()),
        }
    }
}

pub struct Sampled {
    pub token: u32,
    pub logprob: Option<f32>,
    pub top: Vec<(u32, f32)>,
}

#[derive(Default)]
pub struct Sampler;

impl Sampler {
    pub fn new() -> Self {
        Sampler
    }

    pub fn sample(
        &mut self,
        logits: &mut [f32],
        sampling: &Sampling,
        _history: &[u32],
        position: usize,
    ) -> Result<Sampled> {
        let mut best = 0;
        for (i, v) in logits.iter_mut().enumerate() {
            if sampling.temperature > 0.0 {
                let mut h = (sampling.seed ^ ((position as u64) << 32) ^ i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                h ^= h >> 29;
                *v += (h.wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f32 / 16_777_216.0 * sampling.temperature;
            }
        }
        for i in 1..logits.len() {
            if logits[i] > logits[best] {
                best = i;
            }
        }
        let score = score(logits, best as u32, sampling.logprobs.unwrap_or(0));
        Ok(Sampled { token: best as u32, logprob: sampling.logprobs.map(|_| score.logprob), top: score.top })
    }
}

pub fn score(logits: &[f32], token: u32, top: usize) -> super::Score {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&v| f64::from(v - max).exp()).sum();
    let lp = |v: f32| (f64::from(v - max) - sum.ln()) as f32;
    let mut all: Vec<(u32, f32)> = logits.iter().enumerate().map(|(i, &v)| (i as u32, lp(v))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(top);
    super::Score { token, logprob: lp(logits[token as usize]), top: all }
}

pub struct Tokenizer {
    pub pieces: Vec<Vec<u8>>,
}

impl Tokenizer {
    pub fn vocab(&self) -> usize {
        self.pieces.len()
    }
    pub fn piece(&self, id: u32) -> &[u8] {
        self.pieces.get(id as usize).map_or(&[], Vec::as_slice)
    }
}

#[derive(Default)]
pub struct TextStream {
    pending: Vec<u8>,
}

impl TextStream {
    pub fn push(&mut self, piece: &[u8], out: &mut String) {
        self.pending.extend(piece);
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(s) => {
                    out.push_str(s);
                    self.pending.clear();
                    return;
                }
                Err(e) => {
                    let ok = e.valid_up_to();
                    out.push_str(std::str::from_utf8(&self.pending[..ok]).unwrap_or(""));
                    match e.error_len() {
                        None => {
                            self.pending.drain(..ok);
                            return;
                        }
                        Some(n) => {
                            out.push('\u{FFFD}');
                            self.pending.drain(..ok + n);
                        }
                    }
                }
            }
        }
    }
    pub fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            out.push('\u{FFFD}');
            self.pending.clear();
        }
    }
}

pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

impl StopMatcher {
    pub fn new(stops: Vec<String>) -> Self {
        StopMatcher { stops, held: String::new() }
    }
    pub fn push(&mut self, text: &str, out: &mut String) -> Option<usize> {
        self.held.push_str(text);
        let hit = self.stops.iter().enumerate().filter_map(|(i, s)| self.held.find(s.as_str()).map(|at| (at, i))).min();
        if let Some((at, i)) = hit {
            out.push_str(&self.held[..at]);
            self.held.clear();
            return Some(i);
        }
        let keep = (0..=self.held.len())
            .filter(|&i| self.held.is_char_boundary(i))
            .find(|&i| self.stops.iter().any(|s| s.starts_with(&self.held[i..])) || i == self.held.len())
            .unwrap_or(0);
        out.push_str(&self.held[..keep]);
        self.held.drain(..keep);
        None
    }
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }
}
