//! config.json in the spelling of transformers 4 and of 5, whose differences all concern the rotary embedding.
//!
//! Defaults for absent keys are those of transformers' `LlamaConfig` and `MistralConfig`.

use serde_json::Value;

use super::json::Object;
use super::rope;
use crate::config::{Config, Keys};
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
};
/// Mistral's window where config.json has no such key; `null` means none.
const MISTRAL_WINDOW: usize = 4096;

pub(super) fn config(json: Object<'_>) -> Result<Config> {
    let architecture = architecture(json)?;
    refuse_variants(json)?;
    let hidden = json.required(KEYS.hidden)?;
    let heads = json.required(KEYS.heads)?;
    let head_dim = match json.size(KEYS.head_dim)? {
        Some(head_dim) => head_dim,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => return Err(Error::config(KEYS.heads, format!("is {heads}, which does not divide {hidden} columns"))),
    };
    let context = json.required(KEYS.context)?;
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
        eps: json.number(KEYS.eps)?.unwrap_or(1e-6) as f32,
        rope: rope::rope(json, head_dim, context)?,
        window: if architecture == "mistral" { window(json)? } else { None },
        tied: json.bool("tie_word_embeddings")?.unwrap_or(false),
    };
    config.check(&KEYS)?;
    Ok(config)
}

/// `"llama"` or `"mistral"`, from `model_type` and `architectures`, which must agree where both are given.
fn architecture(json: Object<'_>) -> Result<&'static str> {
    let refuse = |what: String| {
        let advice = "LlamaForCausalLM and MistralForCausalLM are read".into();
        Err(Error::Unsupported { what, advice })
    };
    let class = match json.get("architectures") {
        None => None,
        Some(Value::Array(list)) if list.len() == 1 => list[0].as_str(),
        Some(other) => return refuse(format!("architectures {other}")),
    };
    match (json.string("model_type")?, class) {
        (Some("llama") | None, Some("LlamaForCausalLM")) | (Some("llama"), None) => Ok("llama"),
        (Some("mistral") | None, Some("MistralForCausalLM")) | (Some("mistral"), None) => Ok("mistral"),
        (model_type, class) => refuse(format!("model_type {model_type:?} with architecture {class:?}")),
    }
}

/// Keys whose other values would change the arithmetic.
fn refuse_variants(json: Object<'_>) -> Result<()> {
    if json.get("quantization_config").is_some() {
        return Err(Error::Unsupported {
            what: "quantization_config in config.json".into(),
            advice: "open the unquantised model, or a GGUF".into(),
        });
    }
    match json.string("hidden_act")? {
        None | Some("silu") => Ok(()),
        Some(other) => Err(Error::Unsupported { what: format!("hidden_act {other:?}"), advice: "silu is read".into() }),
    }
}

fn window(json: Object<'_>) -> Result<Option<usize>> {
    match json.0.get(KEYS.window) {
        None => Ok(Some(MISTRAL_WINDOW)),
        Some(_) => json.size(KEYS.window),
    }
}
