//! config.json in the spelling of transformers 4 and of 5, whose differences all concern the rotary embedding.
//!
//! Defaults for absent keys are those of transformers' `LlamaConfig` and `MistralConfig`. The class decides what the model
//! gives: `ForCausalLM` logits of tokens, `ForSequenceClassification` scores of labels, `Model` its hidden states.

use serde_json::Value;

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
};
const PROBLEM_TYPE: &str = "problem_type";
/// Mistral's window where config.json has no such key; `null` means none.
const MISTRAL_WINDOW: usize = 4096;

/// A Mistral whose attention has a temperature that grows with the position.
const MINISTRAL3: &str = "ministral3";

/// What is built on the hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    CausalLm,
    SequenceClassification,
    Bare,
}

/// The configuration, for a model whose other files name this pooling.
pub(super) fn config(json: Object<'_>, pooling: Pooling) -> Result<Config> {
    let (architecture, class) = architecture(json)?;
    let window = match architecture {
        "mistral" => window(json)?,
        MINISTRAL3 => json.size(KEYS.window)?,
        _ => None,
    };
    variants::refuse(json, window)?;
    let hidden = json.required(KEYS.hidden)?;
    let heads = json.required(KEYS.heads)?;
    let head_dim = match json.size(KEYS.head_dim)? {
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
    let temperature = if architecture == MINISTRAL3 { rope::temperature(json, context)? } else { None };
    let (labels, problem_type) = match class {
        Class::SequenceClassification => (labels(json)?, problem_type(json)?),
        Class::CausalLm | Class::Bare => Default::default(),
    };
    let config = Config {
        architecture: architecture.into(),
        vocab: json.required(KEYS.vocab)?,
        hidden,
        ffn: json.required(KEYS.ffn)?,
        layers: json.required(KEYS.layers)?,
        heads,
        kv_heads: json.size(KEYS.kv_heads)?.unwrap_or(heads),
        head_dim,
        context,
        temperature,
        eps: json.number(KEYS.eps)?.unwrap_or(1e-6) as f32,
        rope: rope::rope(json, head_dim, context, temperature.is_some())?,
        window,
        head: match (class, json.bool("tie_word_embeddings")?.unwrap_or(false)) {
            (Class::SequenceClassification, _) | (Class::Bare, false) => Head::None,
            (_, true) => Head::Tied,
            (Class::CausalLm, false) => Head::Own,
        },
        pooling,
        labels,
        problem_type,
    };
    config.check(&KEYS)?;
    Ok(config)
}

/// `"llama"`, `"mistral"` or `"ministral3"` and the class, from `model_type` and `architectures`, which must agree where both are
/// given.
fn architecture(json: Object<'_>) -> Result<(&'static str, Class)> {
    let refuse = |what: String| {
        let advice = "Llama, Mistral and Ministral3 are read: ForCausalLM, ForSequenceClassification and Model";
        Err(Error::unsupported(what, advice))
    };
    let class = match json.get("architectures") {
        None => None,
        Some(Value::Array(list)) if list.len() == 1 => list[0].as_str(),
        Some(other) => return refuse(format!("architectures {other}")),
    };
    let model_type = json.string("model_type")?;
    let found = match class {
        Some(class) => by_class(class).filter(|(name, _)| model_type.is_none_or(|model_type| model_type == *name)),
        None => ["llama", "mistral", MINISTRAL3]
            .into_iter()
            .find(|&name| model_type == Some(name))
            .map(|name| (name, Class::CausalLm)),
    };
    match found {
        Some(found) => Ok(found),
        None => {
            let said = |word: Option<&str>| word.map_or("absent".into(), |word| format!("{word:?}"));
            refuse(format!("model_type {} with architecture {}", said(model_type), said(class)))
        }
    }
}

fn by_class(name: &str) -> Option<(&'static str, Class)> {
    let by_name = [("Llama", "llama"), ("Mistral", "mistral"), ("Ministral3", MINISTRAL3)];
    let mut named = by_name.into_iter().filter_map(|(start, found)| Some((found, name.strip_prefix(start)?)));
    let (architecture, class) = named.next()?;
    match class {
        "ForCausalLM" => Some((architecture, Class::CausalLm)),
        "ForSequenceClassification" => Some((architecture, Class::SequenceClassification)),
        "Model" => Some((architecture, Class::Bare)),
        _ => None,
    }
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

fn window(json: Object<'_>) -> Result<Option<usize>> {
    match json.0.get(KEYS.window) {
        None => Ok(Some(MISTRAL_WINDOW)),
        Some(_) => json.size(KEYS.window),
    }
}
