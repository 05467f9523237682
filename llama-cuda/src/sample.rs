//! Sampling beside the logits: the draws of a step go to the device in one copy, their tokens come back in another.
//!
//! `kernels/sample.cu` says what the launches do. A draw needs some words, and as many more as its biases and its penalties'
//! window have entries. Those share a buffer of fixed size; draws that do not fit it are left to the host, which picks the
//! same tokens, and so are draws that the kernels do not know ([`Sampling::needs_host`]).

use std::fmt;
use std::sync::Arc;

use bytemuck::{Zeroable, bytes_of, cast_slice_mut};
use llama_core::Result;
use llama_core::sample::{Draw, Refusal, Sampling};

use crate::arena::padded;
use crate::device::{Device, Event, Pinned, Span};
use crate::kernels::Kernels;
use crate::launch::Launch;
use crate::params::{self, Address};
use crate::replay::Replay;

/// Tokens that a block looks at, as in params.cuh.
const CHUNK: usize = 2048;
/// Bytes of `DrawState`: two keys, two floors, a need, the bins, the list, and six words.
const STATE_BYTES: usize = 8 * (5 + 256 + 2048) + 24;
/// Words of a draw.
const DRAW_WORDS: usize = size_of::<params::Draw>() / 4;
/// Words that histories and biases share: so many a draw, and some more for a long one.
const WORDS_A_DRAW: usize = 1024;
const WORDS: usize = 1 << 16;

/// Where the tokens of one tensor of logits are picked.
pub(crate) struct Picker {
    /// Draws, then histories and biases.
    words: Span,
    states: Span,
    sums: Span,
    picks: Span,
    host: Pinned,
    /// Passed when the last copy is through.
    copied: Event,
    capacity: usize,
    vocab: usize,
    launches: Vec<Launch>,
    replay: Replay,
    biases: Vec<(u32, u32, f32)>,
    picked: Vec<params::Pick>,
}

/// Words of the buffer, the draws' own, and the bytes of the three others, for `rows` draws over `vocab` tokens.
fn sizes(rows: usize, vocab: usize) -> (usize, [usize; 3]) {
    let words = rows * (DRAW_WORDS + WORDS_A_DRAW) + WORDS;
    (words, [rows * STATE_BYTES, rows * vocab.div_ceil(CHUNK) * 8, rows * size_of::<params::Pick>()])
}

impl Picker {
    /// Bytes of [`Picker::new`] on the device.
    pub fn bytes(rows: usize, vocab: usize) -> u64 {
        let (words, others) = sizes(rows, vocab);
        padded(4 * words as u64) + others.map(|bytes| padded((bytes as u64).max(1))).iter().sum::<u64>()
    }

    /// For up to `rows` draws a step. `take` gives cleared memory.
    pub fn new(
        device: &Arc<Device>,
        rows: usize,
        vocab: usize,
        take: &mut dyn FnMut(&'static str, u64) -> Result<Span>,
    ) -> Result<Self> {
        let (words, [states, sums, picks]) = sizes(rows, vocab);
        let mut take = |bytes: usize| take("sampling", bytes as u64);
        Ok(Picker {
            words: take(4 * words)?,
            states: take(states)?,
            sums: take(sums)?,
            picks: take(picks)?,
            host: Pinned::new(device, 4 * words)?,
            copied: Event::new(device)?,
            capacity: rows,
            vocab,
            launches: Vec::new(),
            replay: Replay::default(),
            biases: Vec::new(),
            picked: Vec::new(),
        })
    }

    /// Picks a token for each of `draws` out of the rows at `logits`. False, and nothing done, if one of them is the host's, or
    /// there is no room for their histories and biases.
    pub fn pick(
        &mut self,
        device: &Arc<Device>,
        kernels: &Kernels,
        logits: Address,
        draws: &[Draw<'_>],
        out: &mut Vec<Result<u32, Refusal>>,
    ) -> Result<bool> {
        assert!(draws.len() <= self.capacity, "{} draws of {}", draws.len(), self.capacity);
        if draws.iter().any(|draw| draw.sampling.needs_host()) {
            return Ok(false);
        }
        self.copied.wait()?;
        let Some(used) = self.write(draws) else { return Ok(false) };
        self.words.write_from(0, &self.host, 4 * used)?;
        self.copied.record()?;
        self.plan(kernels, logits, draws)?;
        self.replay.enqueue(device, kernels, &self.launches)?;
        self.picked.clear();
        self.picked.resize(draws.len(), params::Pick::zeroed());
        self.picks.read(0, cast_slice_mut(&mut self.picked))?;
        out.clear();
        out.extend(self.picked.iter().map(outcome));
        Ok(true)
    }

    /// Lays the draws out for the copy, and says how many words that took; `None` if there are too many.
    fn write(&mut self, draws: &[Draw<'_>]) -> Option<usize> {
        let words: &mut [u32] = cast_slice_mut(self.host.bytes_mut());
        let mut used = DRAW_WORDS * draws.len();
        for (i, draw) in draws.iter().enumerate() {
            let bias = used.next_multiple_of(2);
            let bias_end = write_biases(words, bias, &draw.sampling.logit_bias, &mut self.biases)?;
            let (history, generated) = window(draw);
            let end = bias_end + history.len();
            words.get_mut(bias_end..end)?.copy_from_slice(history);
            let params = params_of(draw, self.vocab, [bias, bias_end, bias_end + generated, end]);
            words[DRAW_WORDS * i..][..DRAW_WORDS].copy_from_slice(bytemuck::cast_slice(bytes_of(&params)));
            used = end;
        }
        Some(used)
    }

    /// The launches that these draws need between them.
    fn plan(&mut self, kernels: &Kernels, logits: Address, draws: &[Draw<'_>]) -> Result<()> {
        let any = |needs: &dyn Fn(&Sampling) -> bool| {
            draws.iter().any(|draw| draw.sampling.temperature > 0.0 && needs(draw.sampling))
        };
        let (cut_by_count, cut_by_weight) = (any(&|s| cuts(s.top_k, self.vocab)), any(&|s| s.top_p < 1.0));
        let steps = [
            ("sample_adjust", 0, true),
            ("sample_bin", 0, cut_by_count),
            ("sample_gather", 0, cut_by_count),
            ("sample_bin", 1, cut_by_weight),
            ("sample_gather", 1, cut_by_weight),
            ("sample_draw", 0, any(&|_| true)),
        ];
        let grid = [(draws.len() * self.vocab.div_ceil(CHUNK)) as u32, 1, 1];
        self.launches.clear();
        for (name, by_weight, needed) in steps {
            if needed {
                let params = self.params(logits, draws.len(), by_weight);
                self.launches.push(Launch::new(kernels.get(name)?, name, grid, &params));
            }
        }
        Ok(())
    }

    fn params(&self, logits: Address, count: usize, by_weight: u32) -> params::Sample {
        let words = self.words.address();
        params::Sample {
            logits,
            draws: words,
            tokens: words,
            biases: words,
            states: self.states.address(),
            sums: self.sums.address(),
            picks: self.picks.address(),
            vocab: self.vocab as u32,
            count: count as u32,
            by_weight,
            unused: 0,
        }
    }
}

impl fmt::Debug for Picker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Picker").field("capacity", &self.capacity).field("vocab", &self.vocab).finish_non_exhaustive()
    }
}

/// Whether top-k cuts anything off.
fn cuts(top_k: usize, vocab: usize) -> bool {
    (1..vocab).contains(&top_k)
}

/// The tokens that the penalties look at, and where among them the prompt ends.
fn window<'a>(draw: &Draw<'a>) -> (&'a [u32], usize) {
    let tokens = draw.history.tokens;
    let window = if draw.sampling.penalises() { draw.sampling.penalty_window } else { 0 };
    let start = tokens.len().saturating_sub(window);
    (&tokens[start..], draw.history.prompt.saturating_sub(start).min(tokens.len() - start))
}

/// Writes biases from word `at` on, ascending by token, those of one token in their order, and returns where they end.
fn write_biases(
    words: &mut [u32],
    at: usize,
    biases: &[(u32, f32)],
    sorted: &mut Vec<(u32, u32, f32)>,
) -> Option<usize> {
    let end = at + 2 * biases.len();
    let pairs = words.get_mut(at..end)?.as_chunks_mut::<2>().0;
    sorted.clear();
    sorted.extend(biases.iter().zip(0..).map(|(&(token, value), i)| (token, i, value)));
    sorted.sort_unstable_by_key(|&(token, i, _)| (token, i));
    pairs.iter_mut().zip(&*sorted).for_each(|(pair, &(token, _, value))| *pair = [token, value.to_bits()]);
    Some(end)
}

/// Every field has its place here, or its reason not to: a new one is not passed over.
fn params_of(draw: &Draw<'_>, vocab: usize, words: [usize; 4]) -> params::Draw {
    let &Sampling {
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        seed,
        // Laid out in words.
        penalty_window: _,
        logit_bias: _,
        // Off, or the draw would be the host's.
        typical_p: _,
        xtc_probability: _,
        xtc_threshold: _,
        dry_multiplier: _,
        dry_base: _,
        dry_allowed_length: _,
        dry_window: _,
        dry_breakers: _,
        allowed_tokens: _,
        bad_words: _,
        // Of no concern to a draw.
        logprobs: _,
    } = draw.sampling;
    let [bias, bias_end, generated, history_end] = words.map(|word| word as u32);
    params::Draw {
        row: draw.row as u32,
        temperature,
        top_k: if cuts(top_k, vocab) { top_k as u32 } else { 0 },
        top_p,
        min_p,
        repetition: repetition_penalty,
        presence: presence_penalty,
        frequency: frequency_penalty,
        history: bias_end,
        generated,
        history_end,
        bias: bias / 2,
        bias_end: bias_end / 2,
        seed: [seed as u32, (seed >> 32) as u32],
        position: [draw.position as u32, (draw.position >> 32) as u32],
        unused: [0; 3],
    }
}

fn outcome(pick: &params::Pick) -> Result<u32, Refusal> {
    match pick.kind {
        0 => Ok(pick.token),
        1 => Err(Refusal::NotFinite { token: pick.token, value: f32::from_bits(pick.bits) }),
        _ => Err(Refusal::NothingAllowed),
    }
}
