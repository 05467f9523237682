//! What the server tells of itself: whether it is well, and figures for Prometheus. Counters only ever grow; gauges are of the
//! engine's last step.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use llama_core::engine::Stats;

use crate::error::{ApiError, Result};

/// What everybody writes on and `/health` and `/metrics` read.
#[derive(Debug, Default)]
pub struct Board {
    state: Mutex<State>,
    /// The engine shall end what it does, because the server ends.
    pub abort: AtomicBool,
    counters: [AtomicU64; Count::ALL.len()],
}

#[derive(Debug, Default)]
struct State {
    stats: Stats,
    /// What the engine's last step failed with, or why there will be no other.
    trouble: Option<String>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Responses with a status below 400.
    Answered,
    /// Responses with a status of 400 to 499, but for those of `Rejected`.
    Refused,
    /// Responses 429 and 503.
    Rejected,
    /// Responses with another status from 500 on, and streams that ended with an error.
    Failed,
    /// Sequences cancelled: their reader went away, or another of their request failed.
    Cancelled,
    /// Streams that were not read as fast as they came.
    Overrun,
    /// Tokens of prompts that the engine took.
    PromptTokens,
    /// Tokens generated.
    GeneratedTokens,
    /// Connections accepted.
    Connections,
    /// Connections closed because there were too many.
    ConnectionsRefused,
    /// Steps that failed.
    StepsFailed,
}

impl Count {
    /// All of them, with their names and what they are.
    const ALL: [(Count, &'static str, &'static str); 11] = [
        (Count::Answered, "llama_responses_ok", "Responses with a status below 400"),
        (Count::Refused, "llama_responses_refused", "Responses with a status of 4xx, 429 excepted"),
        (Count::Rejected, "llama_responses_rejected", "Responses 429 and 503: too much at once"),
        (Count::Failed, "llama_responses_failed", "Other responses of 5xx, and streams that ended with an error"),
        (Count::Cancelled, "llama_sequences_cancelled", "Sequences whose reader went away or whose request failed"),
        (Count::Overrun, "llama_streams_overrun", "Streams that were read too slowly"),
        (Count::PromptTokens, "llama_prompt_tokens", "Tokens of prompts that the engine took"),
        (Count::GeneratedTokens, "llama_generated_tokens", "Tokens generated"),
        (Count::Connections, "llama_connections", "Connections accepted"),
        (Count::ConnectionsRefused, "llama_connections_refused", "Connections closed because there were too many"),
        (Count::StepsFailed, "llama_steps_failed", "Steps that failed"),
    ];
}

impl Board {
    /// Adds to a counter.
    pub fn count(&self, what: Count, more: usize) {
        self.counters[what as usize].fetch_add(more as u64, Ordering::Relaxed);
    }

    /// Reads a counter.
    pub fn counted(&self, what: Count) -> u64 {
        self.counters[what as usize].load(Ordering::Relaxed)
    }

    /// The engine's figures after its last step.
    pub fn stats(&self) -> Stats {
        self.lock().stats
    }

    /// Writes down the engine's figures after a step. One that had anything to do shows that the engine works again.
    pub fn stepped(&self, stats: Stats) {
        let mut state = self.lock();
        if stats.steps > state.stats.steps {
            state.trouble = None;
        }
        state.stats = stats;
    }

    /// Writes down that the engine's last step failed, or that there will be no other.
    pub fn failed(&self, stats: Stats, trouble: &str) {
        *self.lock() = State { stats, trouble: Some(trouble.into()) };
    }

    /// That the engine works.
    ///
    /// # Errors
    /// A 503 with what is wrong.
    pub fn health(&self) -> Result<()> {
        match &self.lock().trouble {
            None => Ok(()),
            Some(trouble) => Err(ApiError::unavailable(trouble.clone())),
        }
    }

    /// Everything in Prometheus' text format, `more` gauges included: name, what it is, value.
    pub fn metrics(&self, more: &[(&str, &str, usize)]) -> String {
        let stats = self.stats();
        let mut text = String::new();
        for (count, name, help) in Count::ALL {
            line(&mut text, "counter", &format!("{name}_total"), help, self.counted(count));
        }
        let counters = [
            ("llama_steps_total", "Steps of the engine", stats.steps),
            ("llama_rows_total", "Rows computed", stats.rows),
            ("llama_preemptions_total", "Sequences that had to give up their blocks", stats.preemptions),
            ("llama_cached_tokens_total", "Tokens out of the prefix cache", stats.cached_tokens),
            ("llama_drafts_total", "Drafts checked", stats.drafted),
            ("llama_drafts_accepted_total", "Drafts that turned out right", stats.accepted),
        ];
        counters.iter().for_each(|(name, help, value)| line(&mut text, "counter", name, help, *value));
        let gauges = [
            ("llama_sequences_running", "Sequences with blocks", stats.running),
            ("llama_sequences_waiting", "Sequences that wait for blocks", stats.waiting),
            ("llama_kv_blocks", "Blocks of the KV cache", stats.blocks),
            ("llama_kv_blocks_used", "Blocks that running sequences reference", stats.blocks_used),
            ("llama_kv_blocks_published", "Blocks that later prompts can find", stats.blocks_published),
            ("llama_healthy", "1 if the engine works", usize::from(self.health().is_ok())),
        ];
        gauges.iter().chain(more).for_each(|(name, help, value)| line(&mut text, "gauge", name, help, *value as u64));
        text
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn line(text: &mut String, kind: &str, name: &str, help: &str, value: u64) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}\n{name} {value}");
}
