//! The parameters that both kinds of generation have: how tokens are chosen, what ends a text, how it is sent.
//!
//! Where a request says nothing, the defaults are those of OpenAI's API: temperature 1, all tokens, no penalties, and a seed
//! that nobody knows beforehand.

use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;
use std::sync::Arc;

use llama_core::Error;
use llama_core::engine::Request;
use llama_core::sample::{Allowed, MAX_LOGPROBS, Sampling};
use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::fields::{Fields, shown, strings, tokens};
use crate::format::within;
use crate::served::Served;
use crate::worker::Task;

/// Most tokens that `logit_bias` may name: each costs every step a little.
const MAX_BIASES: usize = 1024;

/// Most strings in `dry_sequence_breakers`: the whole vocabulary is looked through for each.
const MAX_BREAKERS: usize = 16;

/// Most strings in `bad_words`, and most bytes of all of them: each costs every step a little, and their tokens are kept for as long
/// as the request is on its way.
const MAX_BAD_WORDS: usize = 128;
const MAX_BAD_BYTES: usize = 16 << 10;

/// What a request wants of each of its texts, and of how they are sent.
pub struct Parameters {
    /// A request without its prompt, which every choice is made from.
    pub request: Request,
    /// Texts for each prompt.
    pub choices: usize,
    /// Send the text as it comes.
    pub stream: bool,
    /// End a stream with how many tokens there were.
    pub include_usage: bool,
}

impl Parameters {
    /// Takes them out of `fields`, all but `max_tokens` and log-probabilities, which the two endpoints spell in their own ways.
    pub fn take(served: &Served, fields: &mut Fields, max_choices: usize) -> Result<Self> {
        let stream = fields.flag("stream")?;
        let request = Request {
            min_tokens: fields.integer("min_tokens", 0..=usize::MAX)?.unwrap_or(0),
            sampling: sampling(served, fields)?,
            stop_strings: stop_strings(fields)?,
            include_stop: fields.flag("include_stop_str_in_output")?,
            stop_tokens: fields.tokens("stop_token_ids")?,
            ignore_end: fields.flag("ignore_eos")?,
            ..Request::default()
        };
        let choices = fields.integer("n", 1..=max_choices)?.unwrap_or(1);
        Ok(Parameters { request, choices, stream, include_usage: include_usage(fields, stream)? })
    }

    /// One request for each choice of a text that follows `prompt`. The first has the seed of the request, the next the one
    /// after it, and so on.
    ///
    /// # Errors
    /// `context_length_exceeded` if that cannot fit.
    pub fn tasks(&self, served: &Served, prompt: &[u32]) -> Result<impl Iterator<Item = Task>> {
        let generated = self.request.max_tokens.unwrap_or(1);
        if prompt.len().saturating_add(generated) > served.context {
            return Err(ApiError::overflow(prompt.len(), generated, served.context));
        }
        Ok((0..self.choices as u64).map(move |choice| {
            let mut request = Request { prompt: prompt.to_vec(), ..self.request.clone() };
            request.sampling.seed = request.sampling.seed.wrapping_add(choice);
            Task::Generate(Box::new(request))
        }))
    }
}

/// `logprobs` and `top_logprobs` are not among them: endpoints differ in those.
fn sampling(served: &Served, fields: &mut Fields) -> Result<Sampling> {
    let dry = dry(served, fields)?;
    let mut number = |name, range, default| number(fields, name, range, default);
    let sampling = Sampling {
        temperature: number("temperature", 0.0..=2.0, 1.0)?,
        // 0 leaves the likeliest token, as the smallest positive number does.
        top_p: number("top_p", 0.0..=1.0, 1.0)?.max(f32::MIN_POSITIVE),
        min_p: number("min_p", 0.0..=1.0, 0.0)?,
        typical_p: number("typical_p", 0.0..=1.0, 1.0)?.max(f32::MIN_POSITIVE),
        xtc_probability: number("xtc_probability", 0.0..=1.0, 0.0)?,
        xtc_threshold: number("xtc_threshold", 0.0..=1.0, 0.1)?,
        presence_penalty: number("presence_penalty", -2.0..=2.0, 0.0)?,
        frequency_penalty: number("frequency_penalty", -2.0..=2.0, 0.0)?,
        repetition_penalty: number("repetition_penalty", 0.01..=100.0, 1.0)?,
        ..dry
    };
    Ok(Sampling {
        top_k: top_k(fields)?,
        logit_bias: logit_bias(fields)?,
        allowed_tokens: allowed_tokens(served, fields)?,
        bad_words: bad_words(served, fields)?,
        seed: seed(fields)?,
        ..sampling
    })
}

/// What keeps a text from repeating itself, in llama.cpp's words. Breakers are looked for only where there is something to break.
fn dry(served: &Served, fields: &mut Fields) -> Result<Sampling> {
    let dry_multiplier = number(fields, "dry_multiplier", 0.0..=100.0, 0.0)?;
    let dry_breakers = match breakers(fields)? {
        _ if dry_multiplier == 0.0 => Arc::default(),
        None => served.dry_breakers().clone(),
        Some(texts) => {
            let refused = |error: Error| ApiError::value("dry_sequence_breakers", error.to_string());
            served.tokenizer.containing(&texts).map_err(refused)?.into()
        }
    };
    let window = |value: &Value| value.as_i64().filter(|&last| last >= -1);
    let window = fields.checked("dry_penalty_last_n", "an integer, -1 for all tokens, or at least 0", window)?;
    Ok(Sampling {
        dry_multiplier,
        dry_base: number(fields, "dry_base", 1.0..=100.0, 1.75)?,
        dry_allowed_length: fields.integer("dry_allowed_length", 0..=u32::MAX as usize)?.unwrap_or(2),
        dry_window: window.map_or(usize::MAX, |last| usize::try_from(last).unwrap_or(usize::MAX)),
        dry_breakers,
        ..Sampling::greedy()
    })
}

fn number(fields: &mut Fields, name: &str, range: RangeInclusive<f64>, default: f32) -> Result<f32> {
    Ok(fields.number(name, range)?.map_or(default, |number| number as f32))
}

/// The strings that end a repetition, if the request has any of its own.
fn breakers(fields: &mut Fields) -> Result<Option<Vec<String>>> {
    few_strings(fields, "dry_sequence_breakers", MAX_BREAKERS)
}

fn few_strings(fields: &mut Fields, name: &str, most: usize) -> Result<Option<Vec<String>>> {
    let read = |value: &Value| {
        value.as_array().filter(|texts| texts.len() <= most)?;
        strings(value)
    };
    fields.checked(name, &format!("a list of strings, at most {most}"), read)
}

/// How many of the likeliest tokens may come; all of them is 0 here, and in vLLM -1, too.
fn top_k(fields: &mut Fields) -> Result<usize> {
    let read = |value: &Value| match value.as_i64() {
        Some(-1) => Some(0),
        _ => Some(u32::try_from(value.as_u64()?).ok()? as usize),
    };
    Ok(fields.checked("top_k", "a whole number, or -1 for all", read)?.unwrap_or(0))
}

/// The only tokens that may come, if not all may.
fn allowed_tokens(served: &Served, fields: &mut Fields) -> Result<Option<Arc<Allowed>>> {
    const NAME: &str = "allowed_token_ids";
    let Some(ids) = fields.checked(NAME, "a list of token ids", tokens)? else { return Ok(None) };
    Ok(Some(Arc::new(Allowed::only(served.vocab, &ids)?)))
}

/// Words that may not come, in tokens.
fn bad_words(served: &Served, fields: &mut Fields) -> Result<Arc<[Box<[u32]>]>> {
    const NAME: &str = "bad_words";
    let words = few_strings(fields, NAME, MAX_BAD_WORDS)?.unwrap_or_default();
    within(NAME, "bytes", words.iter().map(String::len).sum(), MAX_BAD_BYTES)?;
    Ok(served.tokenizer.bad_words(&words)?.into())
}

/// Any 64-bit integer, with or without sign.
fn seed(fields: &mut Fields) -> Result<u64> {
    let bits = |value: &Value| value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
    let given = fields.checked("seed", "a 64-bit integer", bits)?;
    Ok(given.unwrap_or_else(|| RandomState::new().hash_one(())))
}

/// Token ids, as strings because JSON's keys are, with what is added to their logits.
fn logit_bias(fields: &mut Fields) -> Result<Vec<(u32, f32)>> {
    let Some(Value::Object(biases)) =
        fields.checked("logit_bias", "an object", |value| value.is_object().then(|| value.clone()))?
    else {
        return Ok(Vec::new());
    };
    if biases.len() > MAX_BIASES {
        let problem = format!("logit_bias has {} entries; at most {MAX_BIASES} are allowed", biases.len());
        return Err(ApiError::value("logit_bias", problem));
    }
    let entry = |(token, bias): (&String, &Value)| {
        let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias))?;
        Some((token.parse().ok()?, bias as f32))
    };
    biases.iter().map(|pair| entry(pair).ok_or_else(|| bad_bias(pair))).collect()
}

fn bad_bias((token, bias): (&String, &Value)) -> ApiError {
    let token = shown(&Value::from(token.as_str()));
    ApiError::value("logit_bias", format!("{token}: {} must be a token id with a number, -100 to 100", shown(bias)))
}

/// A string or a list of them. How many and how long the engine checks.
fn stop_strings(fields: &mut Fields) -> Result<Vec<String>> {
    let stops = fields.checked("stop", "a string or a list of strings", |value| match value {
        Value::String(stop) => Some(vec![stop.clone()]),
        several => strings(several),
    })?;
    Ok(stops.unwrap_or_default())
}

fn include_usage(fields: &mut Fields, stream: bool) -> Result<bool> {
    let Some(mut options) = fields.object("stream_options")? else { return Ok(false) };
    if !stream {
        return Err(ApiError::value("stream_options", "stream_options is for requests with stream = true"));
    }
    let include_usage = options.flag("include_usage")?;
    // Padding against guessing a text by the lengths of its pieces; nothing is padded here.
    options.unwanted("include_obfuscation", |value| *value == Value::Bool(false))?;
    options.end()?;
    Ok(include_usage)
}

/// How many alternatives may be asked for with each token.
pub const ALTERNATIVES: RangeInclusive<usize> = 0..=MAX_LOGPROBS;
