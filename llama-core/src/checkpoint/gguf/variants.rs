//! Keys that change a model's arithmetic in architectures that are Llama otherwise. Files of those architectures name
//! them (`granite`, `minicpm`, `cohere`, `mistral3`), and are refused for it; one that calls itself `llama` and has such a
//! key all the same was renamed.

use super::Metadata;
use crate::error::{Error, Result};

/// Keys and the numbers that are the same as none.
const NUMBERS: [(&str, &[f32]); 10] = [
    ("llama.logit_scale", &[0.0, 1.0]),
    ("llama.embedding_scale", &[0.0, 1.0]),
    ("llama.residual_scale", &[0.0, 1.0]),
    ("llama.attn_logit_softcapping", &[0.0]),
    ("llama.final_logit_softcapping", &[0.0]),
    ("llama.attention.clamp_kqv", &[0.0]),
    ("llama.attention.max_alibi_bias", &[0.0]),
    ("llama.attention.temperature_scale", &[0.0]),
    ("llama.rope.scaling.yarn_ext_factor", &[1.0]),
    ("llama.rope.scaling.yarn_attn_factor", &[1.0]),
];
const PARALLEL: &str = "llama.use_parallel_residual";
/// Keys of which any value is too much.
const OTHERS: [&str; 2] = ["llama.rope.dimension_sections", "llama.attention.sliding_window_pattern"];
const ATTENTION_SCALE: &str = "llama.attention.scale";

/// Refuses a file with a key whose value no Llama has.
pub(super) fn refuse(metadata: &Metadata, head_dim: usize) -> Result<()> {
    let plain = [0.0, (head_dim as f32).powf(-0.5)];
    for (key, neutral) in NUMBERS.into_iter().chain([(ATTENTION_SCALE, plain.as_slice())]) {
        let is_neutral = |found: &f32| neutral.iter().any(|n| (found - n).abs() <= 1e-6 * n);
        if let Some(found) = metadata.f32(key)?.filter(|found| !is_neutral(found)) {
            return unsupported(format!("{key} = {found}"));
        }
    }
    if metadata.bool(PARALLEL)? == Some(true) {
        return unsupported(format!("{PARALLEL} = true"));
    }
    match OTHERS.into_iter().find(|key| metadata.get(key).is_some()) {
        Some(key) => unsupported(key.to_owned()),
        None => Ok(()),
    }
}

fn unsupported(what: String) -> Result<()> {
    Err(Error::unsupported(what, "no Llama has this; convert the model again, and it will be called what it is"))
}
