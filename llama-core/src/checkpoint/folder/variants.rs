//! Keys of config.json that change a model's arithmetic, in families that are Llamas otherwise: Granite, MiniCPM, Gemma,
//! Cohere, SmolLM3, Mixtral, Llama 4. transformers' Llama does not look at them, and neither do we, so a folder with one
//! that is not neutral was meant for another program, and is refused. And quantised folders, by their method's name.

use serde_json::Value;

use super::family::Family;
use super::json::{Object, shortened};
use crate::error::{Error, Result};

/// Values that leave the arithmetic alone.
#[derive(Debug, Clone, Copy)]
enum Neutral {
    /// None but `null`.
    Nothing,
    /// 0, or 1 of something.
    FewerThanTwo,
    Zero,
    One,
    False,
    True,
    /// A list of ones.
    Ones,
}

const KEYS: [(&str, Neutral); 26] = [
    ("attention_multiplier", Neutral::Nothing),
    ("query_pre_attn_scalar", Neutral::Nothing),
    ("clip_qkv", Neutral::Nothing),
    ("scale_depth", Neutral::Nothing),
    ("dim_model_base", Neutral::Nothing),
    ("sliding_window_pattern", Neutral::Nothing),
    ("draft_vocab_size", Neutral::Nothing),
    ("final_logit_softcapping", Neutral::Zero),
    ("attn_logit_softcapping", Neutral::Zero),
    ("embedding_multiplier", Neutral::One),
    ("residual_multiplier", Neutral::One),
    ("logits_scaling", Neutral::One),
    ("logit_scale", Neutral::One),
    ("scale_emb", Neutral::One),
    ("num_local_experts", Neutral::FewerThanTwo),
    ("num_experts", Neutral::FewerThanTwo),
    ("n_routed_experts", Neutral::FewerThanTwo),
    ("no_rope_layers", Neutral::Ones),
    ("rope_interleaved", Neutral::False),
    ("qk_layernorm", Neutral::False),
    ("use_qk_norm", Neutral::False),
    ("qk_norm", Neutral::False),
    ("attn_temperature_tuning", Neutral::False),
    ("use_parallel_residual", Neutral::False),
    ("use_bidirectional_attention", Neutral::False),
    ("is_causal", Neutral::True),
];

/// Refuses a folder whose config.json says that it is no Llama after all, nor of `family`; `window` is the sliding window that was
/// read.
pub(super) fn refuse(json: Object<'_>, family: Family, window: Option<usize>) -> Result<()> {
    refuse_quantised(json)?;
    match json.string("hidden_act")? {
        None | Some("silu" | "swish") => {}
        Some(other) => return unsupported(format!("hidden_act {other:?}"), "silu is read"),
    }
    for (key, neutral) in KEYS.into_iter().filter(|(key, _)| !family.knows(key)) {
        if let Some(value) = json.get(key).filter(|value| !neutral.is(value)) {
            let advice = "a Llama has no such thing; if the weights need none, take the key out";
            return unsupported(format!("{key} {}", shortened(value)), advice);
        }
    }
    refuse_mixed_layers(json, window)
}

fn unsupported(what: String, advice: &str) -> Result<()> {
    Err(Error::unsupported(what, advice))
}

impl Neutral {
    fn is(self, value: &Value) -> bool {
        let is = |number: f64| value.as_f64() == Some(number);
        match self {
            Neutral::Nothing => false,
            Neutral::FewerThanTwo => is(0.0) || is(1.0),
            Neutral::Zero => is(0.0),
            Neutral::One => is(1.0),
            Neutral::False => value.as_bool() == Some(false),
            Neutral::True => value.as_bool() == Some(true),
            Neutral::Ones => value.as_array().is_some_and(|list| list.iter().all(|n| n.as_f64() == Some(1.0))),
        }
    }
}

/// GPTQ, AWQ, FP8, bitsandbytes and others under `quantization_config`, MLX under `quantization`.
fn refuse_quantised(json: Object<'_>) -> Result<()> {
    let advice = "open the unquantised model, or a GGUF of it";
    for key in ["quantization_config", "compression_config", "quantization"] {
        let Some(config) = json.get(key) else { continue };
        let method = config.get("quant_method").and_then(Value::as_str).or((key == "quantization").then_some("mlx"));
        let method = method.map_or(String::new(), |method| format!(", method {method:?},"));
        return unsupported(format!("{key}{method}"), advice);
    }
    Ok(())
}

/// All layers attend to a window, or none does.
fn refuse_mixed_layers(json: Object<'_>, window: Option<usize>) -> Result<()> {
    let expected = if window.is_some() { "sliding_attention" } else { "full_attention" };
    let layers = json.get("layer_types").and_then(Value::as_array).into_iter().flatten();
    match layers.into_iter().find(|kind| *kind != expected) {
        Some(kind) => unsupported(
            format!("layer_types with {} where sliding_window is {window:?}", shortened(kind)),
            "models whose layers all attend alike are read",
        ),
        None => Ok(()),
    }
}
