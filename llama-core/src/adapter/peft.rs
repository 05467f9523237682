//! adapter_config.json: the scale of each matrix, and the methods that are more than LoRA.
//!
//! PEFT adds a key with each method that it learns, which is off by `false`, `null` or an empty list, and parameters of it, which
//! do nothing while it is off. So a key that is not known here is refused where it holds `true`, a list or an object, and let be
//! where it holds a number or a text. Keys of methods that are switched on by those are listed.

use std::path::Path;

use serde_json::Value;

use super::MERGE;
use super::pattern::Patterns;
use crate::checkpoint::{Document, Object, shortened};
use crate::error::{Error, InFile, Result};

/// Keys that are read below, or change nothing once weights are trained: what was trained shows in the tensors' names.
const READ: [&str; 21] = [
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "peft_type",
    "r",
    "rank_pattern",
    "runtime_config",
    "target_modules",
    "use_rslora",
];
/// Keys of which a number or a text is too much, too.
const SWITCHES: [&str; 12] = [
    "alora_invocation_tokens",
    "fan_in_fan_out",
    "invocation_string",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
];
/// Ways to start training that leave the base as it is. Others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) train beside a base that they
/// have changed; PEFT changes it again when it opens such an adapter.
const STARTS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// What an adapter_config.json says about scales.
#[derive(Debug)]
pub(super) struct Config {
    document: Document,
    rank: usize,
    ranks: Patterns,
    alpha: f64,
    alphas: Patterns,
    /// Whether alpha is divided by the root of the rank (Kalajdzievski 2023, arXiv:2312.03732).
    by_root: bool,
}

impl Config {
    pub(super) fn open(path: &Path) -> Result<Config> {
        let document = Document::open(path)?;
        document.read(refuse)?;
        let rank = document.read(|json| required("r", json.size("r")?))?;
        let ranks = document.read(|json| Patterns::read(json, "rank_pattern"))?;
        let alpha = document.read(|json| required("lora_alpha", json.number("lora_alpha")?))?;
        let alphas = document.read(|json| Patterns::read(json, "alpha_pattern"))?;
        let by_root = document.read(|json| json.bool("use_rslora"))?.unwrap_or(false);
        Ok(Config { document, rank, ranks, alpha, alphas, by_root })
    }

    /// What `B A` of `module` is multiplied by: computed in f64 and rounded, as Python and PyTorch do it.
    ///
    /// # Errors
    /// [`Error::Config`] if the tensors' rank is not the one that the file gives the module, or the scale is not a number.
    pub(super) fn scale(&self, module: &str, rank: usize) -> Result<f32> {
        let expected = self.ranks.find(module).unwrap_or(self.rank as f64);
        if expected != rank as f64 {
            return Err(
                self.error("r", format!("is {expected} for {module}; {rank}, as its tensors have, was expected"))
            );
        }
        let alpha = self.alphas.find(module).unwrap_or(self.alpha);
        let scale = alpha / if self.by_root { expected.sqrt() } else { expected };
        match (scale as f32).is_finite() {
            true => Ok(scale as f32),
            false => {
                Err(self.error("lora_alpha", format!("is {alpha} for {module}; a number that f32 holds was expected")))
            }
        }
    }

    fn error(&self, key: &str, problem: String) -> Error {
        Error::config(key, problem).in_file(self.document.path())
    }
}

fn required<T>(key: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::config(key, "is missing, and a LoRA adapter needs it"))
}

/// Refuses whatever is not plain LoRA beside a base that is as it was published.
fn refuse(json: Object<'_>) -> Result<()> {
    let unsupported = |what: String, advice: &str| Err(Error::unsupported(what, advice));
    match required("peft_type", json.string("peft_type")?)? {
        "LORA" => {}
        other => return unsupported(format!("peft_type {other:?}"), MERGE),
    }
    if let Some(bias) = json.string("bias")?.filter(|&bias| bias != "none") {
        return unsupported(format!("bias {bias:?}"), MERGE);
    }
    if let Some((key, value)) = json.0.iter().find(|(key, value)| is_another_method(key, value)) {
        return unsupported(format!("{key} {}", shortened(value)), MERGE);
    }
    match json.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(Value::String(start)) if STARTS.contains(&start.as_str()) => Ok(()),
        Some(start) => unsupported(format!("init_lora_weights {}, which changes the base,", shortened(start)), MERGE),
    }
}

fn is_another_method(key: &str, value: &Value) -> bool {
    if READ.contains(&key) {
        return false;
    }
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => !object.is_empty(),
        Value::Number(_) | Value::String(_) => SWITCHES.contains(&key),
    }
}
