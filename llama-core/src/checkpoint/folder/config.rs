//! config.json in the spelling of transformers 4 and of 5, whose differences all concern the rotary embedding.
//!
//! Defaults for absent keys are those of transformers' `LlamaConfig`, and of a [`Family`]'s own. The class decides what the model
//! gives: `ForCausalLM` logits of tokens, `ForSequenceClassification` scores of labels, `Model` its hidden states.

use super::family::{Class, Family, MULTIPLIERS};
use super::json::Object;
use super::{rope, variants};
use crate::config::{Config, Head, Keys, Pooling, ProblemType, numbered_labels};
use crate::error::{Error, Result};

const KEYS: Keys = Keys {
    vocab: "vocab_size",
    hidden: "hidden_size",
    ffn: "intermediate_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    kv_heads: "num_key_value_heads",
    head_dim: "head_dim",
    context: "max_position_embeddings",
    eps: "rms_norm_eps",
    theta: "rope_theta",
    rope_dims: "head_dim",
    scaling: "rope_scaling",
    window: "sliding_window",
    labels: "id2label",
    temperature: "llama_4_scaling_beta",
    embedding_multiplier: MULTIPLIERS[0],
    residual_multiplier: MULTIPLIERS[1],
    attention_multiplier: MULTIPLIERS[2],
    logits_scaling: MULTIPLIERS[3],
};
const PROBLEM_TYPE: &str = "problem_type";

/// The configuration, for a model whose other files name this pooling.
pub(super) fn config(json: Object<'_>, pooling: Pooling) -> Result<Config> {
    let (family, class) = Family::of(json)?;
    let layers = json.required(KEYS.layers)?;
    let window = family.window(json, layers)?;
    variants::refuse(json, family, window)?;
    let hidden = json.required(KEYS.hidden)?;
    let heads = json.required(KEYS.heads)?;
    let head_dim = match json.size_or(KEYS.head_dim, family.head_dim())? {
        Some(head_dim) => head_dim,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(Error::config(
                KEYS.heads,
                format!("is {heads}; a divisor of the {hidden} columns was expected"),
            ));
        }
    };
    let context = json.required(KEYS.context)?;
    let temperature = if family == Family::Ministral3 { rope::temperature(json, context)? } else { None };
    let (labels, problem_type) = match class {
        Class::SequenceClassification => (labels(json)?, problem_type(json)?),
        Class::CausalLm | Class::Bare => Default::default(),
    };
    let mut config = Config {
        architecture: family.name().into(),
        vocab: json.required(KEYS.vocab)?,
        hidden,
        ffn: json.required(KEYS.ffn)?,
        layers,
        heads,
        kv_heads: json.size_or(KEYS.kv_heads, Some(family.kv_heads(heads)))?.unwrap_or(heads),
        head_dim,
        context,
        head_norms: family == Family::Qwen3,
        temperature,
        multipliers: family.multipliers(json)?,
        eps: json.number(KEYS.eps)?.unwrap_or(family.eps()) as f32,
        rope: rope::rope(json, family, head_dim, context)?,
        window,
        head: match (class, json.bool("tie_word_embeddings")?.unwrap_or(family.ties())) {
            (Class::SequenceClassification, _) | (Class::Bare, false) => Head::None,
            (_, true) => Head::Tied,
            (Class::CausalLm, false) => Head::Own,
        },
        pooling,
        labels,
        problem_type,
    };
    config.check(&KEYS)?;
    // Only now is it known that there are not too many.
    config.rope.unturned = family.unturned(json, layers)?;
    Ok(config)
}

/// Where it is not said, transformers guesses by the numbers that it is trained with: here it is one label of several.
fn problem_type(json: Object<'_>) -> Result<ProblemType> {
    let Some(name) = json.string(PROBLEM_TYPE)? else { return Ok(ProblemType::default()) };
    ProblemType::ALL.into_iter().find(|problem| problem.name() == name).ok_or_else(|| {
        let names = ProblemType::ALL.map(ProblemType::name).join(", ");
        Error::config(PROBLEM_TYPE, format!("is {name:?}; one of {names} was expected"))
    })
}

/// `id2label`, whose keys are `"0"` up to one less than their number; else `num_labels`, else 2 labels named by their numbers.
fn labels(json: Object<'_>) -> Result<Vec<String>> {
    let Some(names) = json.object(KEYS.labels)? else {
        return numbered_labels("num_labels", json.size("num_labels")?.unwrap_or(2));
    };
    let name = |i: usize| {
        let name = names.string(&i.to_string())?;
        name.map(str::to_owned).ok_or_else(|| {
            Error::config(KEYS.labels, format!("has no label {i}; labels numbered from 0 were expected"))
        })
    };
    match names.0.len() {
        0 => Err(Error::config(KEYS.labels, "is empty; a name for each label was expected")),
        count => (0..count).map(name).collect(),
    }
}
