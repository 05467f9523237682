//! Sizes and rotary embedding from a GGUF of architecture `llama`.
//!
//! How llama.cpp reads the rotary keys (src/llama-model.cpp, src/llama-context.cpp, `rope_yarn` in ggml), followed here:
//! `rope.scaling.type` is `linear` where absent; its factor is `rope.scaling.factor`, else `rope.scale_linear`, else 1.
//! Frequencies are divided by `rope_freqs.weight` first and by the factor then. YaRN's ramp spans 32 to 1 rotations over
//! `original_context_length`, and its factor on cosine and sine is `0.1 ln(factor) + 1` times `attn_factor`.

use super::super::folder::ADAPTER;
use super::super::names::Name;
use super::super::shards::Shards;
use super::Metadata;
use crate::config::{Config, Head, Keys, Pooling, Rope, RopeScaling, yarn_scale};
use crate::config::{RopeLayout, numbered_labels};
use crate::error::{Error, Result};

const KEYS: Keys = Keys {
    vocab: "llama.vocab_size",
    hidden: "llama.embedding_length",
    ffn: "llama.feed_forward_length",
    layers: "llama.block_count",
    heads: "llama.attention.head_count",
    kv_heads: "llama.attention.head_count_kv",
    head_dim: "llama.attention.key_length",
    context: "llama.context_length",
    eps: "llama.attention.layer_norm_rms_epsilon",
    theta: "llama.rope.freq_base",
    rope_dims: "llama.rope.dimension_count",
    scaling: "llama.rope.scaling",
    window: "llama.attention.sliding_window",
    labels: "llama.classifier.output_labels",
};
const VALUE_LENGTH: &str = "llama.attention.value_length";
const CAUSAL: &str = "llama.attention.causal";
const POOLING: &str = "llama.pooling_type";
const EXPERTS: &str = "llama.expert_count";
const SCALING_TYPE: &str = "llama.rope.scaling.type";
const SCALING_FACTOR: &str = "llama.rope.scaling.factor";
const SCALE_LINEAR: &str = "llama.rope.scale_linear";
const ORIGINAL: &str = "llama.rope.scaling.original_context_length";
const ATTN_FACTOR: &str = "llama.rope.scaling.attn_factor";
const LOG_MULTIPLIER: &str = "llama.rope.scaling.yarn_log_multiplier";
const BETA_FAST: &str = "llama.rope.scaling.yarn_beta_fast";
const BETA_SLOW: &str = "llama.rope.scaling.yarn_beta_slow";

/// The configuration that `metadata` and the tensors' shapes give.
pub(in crate::checkpoint) fn config(metadata: &Metadata, shards: &Shards) -> Result<Config> {
    check_architecture(metadata)?;
    let hidden = required(metadata, KEYS.hidden)?;
    let layers = required(metadata, KEYS.layers)?;
    let heads = per_layer(metadata, KEYS.heads, layers)?.ok_or_else(|| missing(KEYS.heads))?;
    let head_dim = head_dim(metadata, hidden, heads)?;
    super::variants::refuse(metadata, head_dim)?;
    let context = required(metadata, KEYS.context)?;
    let pooling = pooling(metadata)?;
    let labels = labels(metadata, shards)?;
    let config = Config {
        architecture: "llama".into(),
        vocab: vocab(metadata, shards)?,
        hidden,
        ffn: per_layer(metadata, KEYS.ffn, layers)?.ok_or_else(|| missing(KEYS.ffn))?,
        layers,
        heads,
        kv_heads: per_layer(metadata, KEYS.kv_heads, layers)?.unwrap_or(heads),
        head_dim,
        context,
        eps: metadata.f32(KEYS.eps)?.ok_or_else(|| missing(KEYS.eps))?,
        rope: rope(metadata, shards, head_dim, context)?,
        window: metadata.usize(KEYS.window)?.filter(|&window| window > 0),
        head: match shards.find(&Name::Head.gguf()) {
            Some(_) => Head::Own,
            // A model made to pool, or to classify, was saved without a head because it has none.
            None if pooling.is_some() || !labels.is_empty() => Head::None,
            None => Head::Tied,
        },
        pooling: pooling.unwrap_or_default(),
        labels,
    };
    config.check(&KEYS)?;
    Ok(config)
}

fn missing(key: &str) -> Error {
    Error::config(key, "is missing, and a Llama needs it")
}

fn required(metadata: &Metadata, key: &str) -> Result<usize> {
    metadata.usize(key)?.ok_or_else(|| missing(key))
}

fn per_layer(metadata: &Metadata, key: &str, layers: usize) -> Result<Option<usize>> {
    metadata.usize_per_layer(key, layers)
}

fn check_architecture(metadata: &Metadata) -> Result<()> {
    let key = "general.architecture";
    let refuse = |what: String, advice: &str| Err(Error::unsupported(what, advice));
    match metadata.string(key)?.ok_or_else(|| missing(key))? {
        "llama" => {}
        other => return refuse(format!("{key} {other:?}"), "models of architecture \"llama\" are read"),
    }
    match metadata.string("general.type")? {
        None | Some("model") => {}
        Some(kind @ "adapter") => return refuse(format!("general.type {kind:?}"), ADAPTER),
        Some(other) => return refuse(format!("general.type {other:?}"), "open the model that it belongs to"),
    }
    if metadata.bool(CAUSAL)? == Some(false) {
        return refuse(format!("{CAUSAL} false"), "models whose tokens see what comes before them are read");
    }
    match metadata.usize(EXPERTS)? {
        None | Some(0) => Ok(()),
        Some(experts) => refuse(format!("{EXPERTS} {experts}"), "dense models are read, mixtures of experts are not"),
    }
}

/// As llama.cpp numbers them: 0 none, 1 mean, 2 the first token, 3 the last, 4 the last for a classifier.
fn pooling(metadata: &Metadata) -> Result<Option<Pooling>> {
    match metadata.usize(POOLING)? {
        None | Some(0) => Ok(None),
        Some(1) => Ok(Some(Pooling::Mean)),
        Some(3 | 4) => Ok(Some(Pooling::Last)),
        Some(other) => Err(Error::unsupported(
            format!("{POOLING} {other}"),
            "0 (none), 1 (mean), 3 (last) and 4 (rank) are read; a first token has seen nothing of its text",
        )),
    }
}

/// Names of the labels that `cls.output.weight` scores, by their numbers where the file has none.
fn labels(metadata: &Metadata, shards: &Shards) -> Result<Vec<String>> {
    let named = metadata.strings(KEYS.labels)?;
    match (shards.find(&Name::Score.gguf()), named) {
        (None, _) => Ok(Vec::new()),
        (Some(_), Some([])) => Err(Error::config(KEYS.labels, "is empty; a name for each label was expected")),
        (Some(_), Some(labels)) => Ok(labels.to_vec()),
        (Some(score), None) => numbered_labels(KEYS.labels, shards.info(score).rows),
    }
}

fn head_dim(metadata: &Metadata, hidden: usize, heads: usize) -> Result<usize> {
    let head_dim = match metadata.usize(KEYS.head_dim)? {
        Some(length) => length,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(Error::config(
                KEYS.heads,
                format!("is {heads}; a divisor of the {hidden} columns was expected"),
            ));
        }
    };
    match metadata.usize(VALUE_LENGTH)? {
        Some(length) if length != head_dim => {
            Err(Error::config(VALUE_LENGTH, format!("is {length}; {head_dim}, as keys have, was expected")))
        }
        _ => Ok(head_dim),
    }
}

/// Tokens, vocabulary size and rows of the embedding must agree, where the file has them.
fn vocab(metadata: &Metadata, shards: &Shards) -> Result<usize> {
    let embed = Name::Embed.gguf();
    let missing = || match shards.iter().len() {
        0 => Error::tensor(&embed, "is missing: this file has a vocabulary and no weights; give the model's own file"),
        _ => Error::tensor(&embed, "is missing, and a Llama needs it"),
    };
    let tensor = shards.find(&embed).ok_or_else(missing)?;
    let rows = shards.info(tensor).rows;
    let agree = |key: &str, count: Option<usize>| match count {
        Some(count) if count != rows => {
            Err(Error::config(key, format!("is {count} long; {rows}, as {embed} has rows, was expected")))
        }
        _ => Ok(()),
    };
    agree(KEYS.vocab, metadata.usize(KEYS.vocab)?)?;
    agree(super::vocabulary::TOKENS, metadata.strings(super::vocabulary::TOKENS)?.map(<[String]>::len))?;
    Ok(rows)
}

fn rope(metadata: &Metadata, shards: &Shards, head_dim: usize, context: usize) -> Result<Rope> {
    let divisors = divisors(shards)?;
    let scaling = match (scaling(metadata, context)?, divisors) {
        (scaling, None) => scaling,
        (RopeScaling::None, Some(divisors)) => RopeScaling::Divisors { divisors },
        (RopeScaling::Linear { factor }, Some(divisors)) => {
            RopeScaling::Divisors { divisors: divisors.into_iter().map(|d| (f64::from(d) * factor) as f32).collect() }
        }
        (_, Some(_)) => {
            let what = format!("{SCALING_TYPE} \"yarn\" together with {}", Name::RopeFreqs.gguf());
            return Err(Error::unsupported(what, "convert the model again"));
        }
    };
    Ok(Rope {
        theta: metadata.f32(KEYS.theta)?.unwrap_or(10_000.0).into(),
        dims: metadata.usize(KEYS.rope_dims)?.unwrap_or(head_dim),
        layout: RopeLayout::Interleaved,
        scaling,
    })
}

/// `rope_freqs.weight`, which Llama 3.1's converter writes in place of the three bands' numbers.
fn divisors(shards: &Shards) -> Result<Option<Vec<f32>>> {
    let Some(tensor) = shards.find(&Name::RopeFreqs.gguf()) else { return Ok(None) };
    let view = shards.view(tensor)?;
    if view.format().is_quantised() || view.rows() != 1 {
        let found = format!("is {} [{}, {}]", view.format().name(), view.rows(), view.cols());
        return Err(view.error(format!("{found}; a vector of floats was expected")));
    }
    Ok(Some(view.to_f32()))
}

fn scaling(metadata: &Metadata, context: usize) -> Result<RopeScaling> {
    let factor = match metadata.f32(SCALING_FACTOR)? {
        Some(factor) => Some(factor),
        None => metadata.f32(SCALE_LINEAR)?,
    };
    match metadata.string(SCALING_TYPE)?.unwrap_or("linear") {
        "none" => Ok(RopeScaling::None),
        "linear" => Ok(factor.map_or(RopeScaling::None, |factor| RopeScaling::Linear { factor: factor.into() })),
        "yarn" => yarn(metadata, factor.unwrap_or(1.0).into(), context),
        other => Err(Error::unsupported(format!("{SCALING_TYPE} {other:?}"), "none, linear and yarn are read")),
    }
}

fn yarn(metadata: &Metadata, factor: f64, context: usize) -> Result<RopeScaling> {
    let number = |key, default| Ok::<f64, Error>(metadata.f32(key)?.map_or(default, f64::from));
    let log_multiplier = number(LOG_MULTIPLIER, 0.0)?;
    let relative = if log_multiplier == 0.0 { 1.0 } else { yarn_scale(factor, log_multiplier) };
    Ok(RopeScaling::Yarn {
        factor,
        original: metadata.usize(ORIGINAL)?.unwrap_or(context),
        beta_fast: number(BETA_FAST, 32.0)?,
        beta_slow: number(BETA_SLOW, 1.0)?,
        attention_factor: yarn_scale(factor, 1.0) / relative * number(ATTN_FACTOR, 1.0)?,
        truncate: true,
    })
}
