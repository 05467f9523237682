//! A configuration as the keys of a GGUF: what `checkpoint::gguf` reads, llama.cpp's.

use crate::checkpoint::gguf::{self, Array, LONG, Traits, Value};
use crate::config::{Config, Head, Multipliers, Pooling, ProblemType, Rope, RopeScaling, Temperature, yarn_scale};
use crate::error::{Error, Result};

/// The keys of `config`.
///
/// # Errors
/// [`Error::Unsupported`] for a rotary embedding that no key tells.
pub(super) fn pairs(config: &Config) -> Result<Vec<(String, Value)>> {
    let mut out = Pairs { architecture: architecture(config), pairs: Vec::new() };
    out.size("vocab_size", config.vocab);
    out.size("context_length", config.context);
    out.size("embedding_length", config.hidden);
    out.size("block_count", config.layers);
    out.size("feed_forward_length", config.ffn);
    out.size("attention.head_count", config.heads);
    out.size("attention.head_count_kv", config.kv_heads);
    out.size("attention.key_length", config.head_dim);
    out.size("attention.value_length", config.head_dim);
    out.number("attention.layer_norm_rms_epsilon", config.eps.into());
    // Of a Phi-3 llama.cpp wants to be told that there is none.
    if let Some(window) = config.window.or((out.architecture == "phi3").then_some(0)) {
        out.size("attention.sliding_window", window);
    }
    rope(&config.rope, &mut out)?;
    multipliers(config, &mut out);
    if let Some(Temperature { growth, from }) = config.temperature {
        out.number("attention.temperature_scale", growth.into());
        if !matches!(config.rope.scaling, RopeScaling::Yarn { original, .. } if original == from) {
            return Err(Error::unsupported(
                "a temperature that does not grow from YaRN's original context on in a GGUF",
                "it has one key for both: keep the folder",
            ));
        }
    }
    if traits(config).unturned(config.layers) != config.rope.unturned {
        return Err(Error::unsupported(
            format!("layers {:?} that do not turn in a GGUF", config.rope.unturned),
            "it has no key for them, and every fourth is meant: keep the folder",
        ));
    }
    if config.head == Head::None && config.labels.is_empty() || config.pooling != Pooling::default() {
        out.size("pooling_type", pooling(config.pooling)?);
    }
    if !config.labels.is_empty() {
        out.set("classifier.output_labels", Value::Array(Array::String(config.labels.clone())));
    }
    Ok(out.pairs)
}

/// What changes no score, but what is made of it, and has no key.
pub(super) fn note(config: &Config) -> Option<String> {
    let problem = config.problem_type;
    (problem != ProblemType::default())
        .then(|| format!("problem_type: a GGUF does not say that it is {}", problem.name()))
}

/// What a GGUF calls the architecture. It has no name for Mistral's, which are Llamas, but for the one with a temperature.
pub(super) fn architecture(config: &Config) -> &'static str {
    let mistral = if config.temperature.is_some() { "mistral3" } else { "llama" };
    gguf::architecture(&config.architecture).unwrap_or(mistral)
}

/// What that says without a key.
pub(super) fn traits(config: &Config) -> Traits {
    gguf::traits(architecture(config)).expect("what is written is read")
}

/// Keys under an architecture.
struct Pairs {
    architecture: &'static str,
    pairs: Vec<(String, Value)>,
}

impl Pairs {
    fn set(&mut self, key: &str, value: Value) {
        self.pairs.push((format!("{}.{key}", self.architecture), value));
    }

    /// Sizes of a [`Config`] that exists are less than 2^32.
    fn size(&mut self, key: &str, size: usize) {
        self.set(key, Value::U32(size as u32));
    }

    fn number(&mut self, key: &str, number: f64) {
        self.set(key, Value::F32(number as f32));
    }
}

fn pooling(pooling: Pooling) -> Result<usize> {
    match pooling {
        Pooling::Mean => Ok(1),
        Pooling::Last => Ok(3),
        Pooling::Tokens => Err(Error::unsupported("pooling by tokens in a GGUF", "say last or mean")),
    }
}

/// Of an architecture that has them: others have none.
fn multipliers(config: &Config, out: &mut Pairs) {
    let Multipliers { embedding, residual, attention: Some(attention), logits } = config.multipliers else { return };
    out.number("embedding_scale", embedding.into());
    out.number("residual_scale", residual.into());
    out.number("attention.scale", attention.into());
    out.number("logit_scale", logits.into());
}

fn rope(rope: &Rope, out: &mut Pairs) -> Result<()> {
    out.size("rope.dimension_count", rope.dims);
    out.number("rope.freq_base", rope.theta);
    match rope.scaling {
        // Of the latter two a tensor tells.
        RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Divisors { .. } => {}
        RopeScaling::Linear { factor } => {
            out.set("rope.scaling.type", Value::String("linear".into()));
            out.number("rope.scaling.factor", factor);
        }
        RopeScaling::Yarn { factor, original, beta_fast, beta_slow, attention_factor, truncate: true } => {
            out.set("rope.scaling.type", Value::String("yarn".into()));
            out.number("rope.scaling.factor", factor);
            out.size("rope.scaling.original_context_length", original);
            out.number("rope.scaling.yarn_beta_fast", beta_fast);
            out.number("rope.scaling.yarn_beta_slow", beta_slow);
            out.number("rope.scaling.attn_factor", attention_factor / yarn_scale(factor, 1.0));
        }
        RopeScaling::Long { original, attention_factor, .. } => {
            // Where the tensors tell, llama.cpp's converter writes no type, and programs before it had one do not know it.
            if !gguf::traits(out.architecture).is_some_and(|traits| traits.long) {
                out.set("rope.scaling.type", Value::String(LONG.into()));
            }
            out.size("rope.scaling.original_context_length", original);
            out.number("rope.scaling.attn_factor", attention_factor);
        }
        RopeScaling::Yarn { .. } => {
            return Err(Error::unsupported(
                "YaRN with truncate false in a GGUF",
                "it has no key for it: keep the folder",
            ));
        }
        RopeScaling::Dynamic { .. } => {
            return Err(Error::unsupported("dynamic RoPE scaling in a GGUF", "it has no key for it: keep the folder"));
        }
    }
    Ok(())
}
