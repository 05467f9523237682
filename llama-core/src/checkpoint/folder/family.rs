//! Families of transformers' classes whose graph is Llama's, and what tells one from another: norms of heads, layers that do not
//! turn, biases that no key tells of, windows, multipliers, matrices in one.
//!
//! Source: transformers, src/transformers/models/{llama,mistral,ministral3,qwen2,qwen3,smollm3,phi3,granite,seed_oss},
//! configuration and modeling.

use serde_json::Value;

use super::json::{Object, shortened};
use crate::checkpoint::Name;
use crate::config::Multipliers;
use crate::error::{Error, Result};

/// A family of classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Mistral,
    /// A Mistral whose attention has a temperature that grows with the position.
    Ministral3,
    /// Queries, keys and values have biases.
    Qwen2,
    /// Heads of queries and keys are normed.
    Qwen3,
    /// Some layers do not turn.
    SmolLm3,
    /// Queries, keys and values are one matrix, gate and up another; a part of a head turns.
    Phi3,
    /// Numbers are multiplied on their way.
    Granite,
    /// Queries, keys and values may have biases without the output having one.
    SeedOss,
}

use Family::*;

/// What is built on the hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    CausalLm,
    SequenceClassification,
    Bare,
}

/// The window where config.json has no such key; `null` means none.
const WINDOW: usize = 4096;
pub(super) const MULTIPLIERS: [&str; 4] =
    ["embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"];
const UNTURNED: &str = "no_rope_layers";
const INTERVAL: &str = "no_rope_layer_interval";

impl Family {
    const ALL: [Family; 9] = [Llama, Mistral, Ministral3, Qwen2, Qwen3, SmolLm3, Phi3, Granite, SeedOss];

    /// What the names of its classes begin with.
    fn class(self) -> &'static str {
        match self {
            Llama => "Llama",
            Mistral => "Mistral",
            Ministral3 => "Ministral3",
            Qwen2 => "Qwen2",
            Qwen3 => "Qwen3",
            SmolLm3 => "SmolLM3",
            Phi3 => "Phi3",
            Granite => "Granite",
            SeedOss => "SeedOss",
        }
    }

    /// Its `model_type`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Llama => "llama",
            Mistral => "mistral",
            Ministral3 => "ministral3",
            Qwen2 => "qwen2",
            Qwen3 => "qwen3",
            SmolLm3 => "smollm3",
            Phi3 => "phi3",
            Granite => "granite",
            SeedOss => "seed_oss",
        }
    }

    /// The family and the class, from `model_type` and `architectures`, which must agree where both are given.
    pub(super) fn of(json: Object<'_>) -> Result<(Family, Class)> {
        let class = match json.get("architectures") {
            None => None,
            Some(Value::Array(list)) if list.len() == 1 => list[0].as_str(),
            Some(other) => return refuse(format!("architectures {other}")),
        };
        let model_type = json.string("model_type")?;
        let found = match class {
            Some(class) => {
                by_class(class).filter(|(family, _)| model_type.is_none_or(|model_type| model_type == family.name()))
            }
            None => Family::ALL
                .into_iter()
                .find(|family| model_type == Some(family.name()))
                .map(|family| (family, Class::CausalLm)),
        };
        let said = |word: Option<&str>| word.map_or("absent".into(), |word| format!("{word:?}"));
        found.map_or_else(|| refuse(format!("model_type {} with architecture {}", said(model_type), said(class))), Ok)
    }

    /// Columns of a head where no key tells, if that is not `hidden / heads`.
    pub(super) fn head_dim(self) -> Option<usize> {
        matches!(self, Ministral3 | Qwen3 | SeedOss).then_some(128)
    }

    /// Heads of keys and values of a model of so many `heads`, where no key tells; `null` means as many.
    pub(super) fn kv_heads(self, heads: usize) -> usize {
        match self {
            Llama | Phi3 | Granite => heads,
            Mistral | Ministral3 | SeedOss => 8,
            Qwen2 | Qwen3 => 32,
            SmolLm3 => 4,
        }
    }

    /// Whether the embedding serves as the head where no key tells. transformers 4 leaves out the key of a SmolLM3.
    pub(super) fn ties(self) -> bool {
        self == SmolLm3
    }

    /// RMSNorm's epsilon where no key tells.
    pub(super) fn eps(self) -> f64 {
        if matches!(self, Ministral3 | Phi3) { 1e-5 } else { 1e-6 }
    }

    /// The context before stretching where no key tells, if that is not the model's own.
    pub(super) fn original(self) -> Option<usize> {
        (self == Phi3).then_some(4096)
    }

    /// Whether a part of each head may be all that turns.
    pub(super) fn turns_parts(self) -> bool {
        self == Phi3
    }

    /// Whether matrices that one input goes into are one tensor ([`Name::fused`]).
    pub(in crate::checkpoint) fn fuses(self) -> bool {
        self == Phi3
    }

    /// What numbers are multiplied by.
    pub(super) fn multipliers(self, json: Object<'_>) -> Result<Multipliers> {
        if self != Granite {
            return Ok(Multipliers::default());
        }
        let number = |key| Ok::<f32, Error>(json.number(key)?.unwrap_or(1.0) as f32);
        let [embedding, residual, attention, logits] = MULTIPLIERS.map(number);
        Ok(Multipliers { embedding: embedding?, residual: residual?, attention: Some(attention?), logits: logits? })
    }

    /// The base of the rotary frequencies where no key tells.
    pub(super) fn theta(self) -> f64 {
        if self == SmolLm3 { 2_000_000.0 } else { 10_000.0 }
    }

    /// The sliding window of all `layers` of a model; layers that attend in several ways are refused.
    pub(super) fn window(self, json: Object<'_>, layers: usize) -> Result<Option<usize>> {
        let given = |absent| json.size_or("sliding_window", absent);
        match self {
            Llama | Granite | SeedOss => Ok(None),
            Mistral => given(Some(WINDOW)),
            Ministral3 | Phi3 => given(None),
            Qwen2 | Qwen3 | SmolLm3 if json.bool("use_sliding_window")? != Some(true) => Ok(None),
            Qwen2 | Qwen3 => windowed_from(json, given(Some(WINDOW))?, layers),
            SmolLm3 => match given(None)? {
                None => Ok(None),
                Some(window) => mixed(format!("sliding_window {window} on layers that do not turn")),
            },
        }
    }

    /// Layers whose queries and keys do not turn, of `layers`.
    pub(super) fn unturned(self, json: Object<'_>, layers: usize) -> Result<Vec<usize>> {
        if self != SmolLm3 {
            return Ok(Vec::new());
        }
        let Some(list) = json.get(UNTURNED) else {
            let interval = json.size(INTERVAL)?.unwrap_or(4);
            return match interval {
                0 => Err(Error::config(INTERVAL, "is 0; at least 1 was expected")),
                _ => Ok((0..layers).filter(|layer| (layer + 1) % interval == 0).collect()),
            };
        };
        let kinds = list.as_array().filter(|list| list.len() >= layers);
        let kinds = kinds.and_then(|list| list.iter().map(|kind| kind.as_u64().filter(|&kind| kind < 2)).collect());
        let kinds: Vec<u64> = kinds.ok_or_else(|| {
            Error::config(
                UNTURNED,
                format!("is {}; a 0 or 1 for each of {layers} layers was expected", shortened(list)),
            )
        })?;
        Ok((0..layers).filter(|&layer| kinds[layer] == 0).collect())
    }

    /// Whether a key of config.json that no Llama has is this family's own.
    pub(super) fn knows(self, key: &str) -> bool {
        match self {
            SmolLm3 => key == UNTURNED,
            Granite => MULTIPLIERS.contains(&key),
            _ => false,
        }
    }

    /// Whether a model has this bias, and what says so.
    pub(super) fn has_bias(self, json: Object<'_>, bias: Name) -> Result<(bool, String)> {
        let (key, absent) = match bias {
            Name::QBias(_) | Name::KBias(_) | Name::VBias(_) | Name::OBias(_) if self == Qwen2 => {
                let because = "a Qwen2 has those of queries, keys and values".into();
                return Ok((!matches!(bias, Name::OBias(_)), because));
            }
            Name::OBias(_) if self == SeedOss => ("attention_out_bias", false),
            Name::QBias(_) | Name::KBias(_) | Name::VBias(_) | Name::OBias(_) => ("attention_bias", self == SeedOss),
            _ => ("mlp_bias", false),
        };
        let said = json.bool(key)?.unwrap_or(absent);
        Ok((said, format!("{key} in config.json is {said}")))
    }
}

fn by_class(name: &str) -> Option<(Family, Class)> {
    let mut named = Family::ALL.into_iter().filter_map(|family| Some((family, name.strip_prefix(family.class())?)));
    let (family, class) = named.next()?;
    match class {
        "ForCausalLM" => Some((family, Class::CausalLm)),
        "ForSequenceClassification" => Some((family, Class::SequenceClassification)),
        "Model" => Some((family, Class::Bare)),
        _ => None,
    }
}

fn refuse<T>(what: String) -> Result<T> {
    let (last, others) = Family::ALL.split_last().expect("families");
    let others: Vec<&str> = others.iter().map(|family| family.class()).collect();
    let families = format!("{} and {}", others.join(", "), last.class());
    Err(Error::unsupported(what, format!("{families} are read: ForCausalLM, ForSequenceClassification and Model")))
}

fn mixed<T>(what: String) -> Result<T> {
    Err(Error::unsupported(what, "models whose layers all attend alike are read"))
}

/// The window of a model whose first `max_window_layers` layers have none; `layer_types`, which says it layer by layer, is looked
/// at by who refuses those that differ.
fn windowed_from(json: Object<'_>, window: Option<usize>, layers: usize) -> Result<Option<usize>> {
    let first = json.get("layer_types").and_then(Value::as_array).and_then(|kinds| kinds.first());
    let from = json.size("max_window_layers")?.unwrap_or(28);
    match (first, window) {
        (_, None) => Ok(None),
        (Some(kind), window) => Ok(window.filter(|_| kind == "sliding_attention")),
        (None, _) if from >= layers => Ok(None),
        (None, window) if from == 0 => Ok(window),
        (None, Some(window)) => mixed(format!("sliding_window {window} from layer {from} of {layers} on")),
    }
}
