//! Keys that change a model's arithmetic in architectures that are Llama otherwise. Files of those architectures name
//! them (`minicpm`, `cohere`), and are refused for it; one that calls itself `llama` and has such a key all the same
//! was renamed. What may have a temperature or multipliers is known to `config`, which reads them.

use super::{Metadata, Traits};
use crate::error::{Error, Result};

/// Keys behind the architecture's name, and the numbers that are the same as none.
const NUMBERS: [(&str, &[f32]); 10] = [
    ("logit_scale", &[0.0, 1.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    (TEMPERATURE, &[0.0]),
    ("rope.scaling.yarn_ext_factor", &[1.0]),
    ("rope.scaling.yarn_attn_factor", &[1.0]),
];
const TEMPERATURE: &str = "attention.temperature_scale";
const PARALLEL: &str = "use_parallel_residual";
/// Keys of which any value is too much.
const OTHERS: [&str; 2] = ["rope.dimension_sections", "attention.sliding_window_pattern"];
const ATTENTION_SCALE: &str = "attention.scale";
const MULTIPLIERS: [&str; 4] = ["logit_scale", "embedding_scale", "residual_scale", ATTENTION_SCALE];

/// Refuses a file of `architecture` with a key whose value no such model has.
pub(super) fn refuse(metadata: &Metadata, architecture: &str, traits: Traits, head_dim: usize) -> Result<()> {
    let plain = [0.0, (head_dim as f32).powf(-0.5)];
    let may_be =
        |end: &str| traits.has_temperature && end == TEMPERATURE || traits.multiplied && MULTIPLIERS.contains(&end);
    let spelled = |end: &str| format!("{architecture}.{end}");
    for (end, neutral) in NUMBERS.into_iter().chain([(ATTENTION_SCALE, plain.as_slice())]) {
        let is_neutral = |found: &f32| may_be(end) || neutral.iter().any(|n| (found - n).abs() <= 1e-6 * n);
        let key = spelled(end);
        if let Some(found) = metadata.f32(&key)?.filter(|found| !is_neutral(found)) {
            return unsupported(format!("{key} = {found}"));
        }
    }
    let parallel = spelled(PARALLEL);
    if metadata.bool(&parallel)? == Some(true) {
        return unsupported(format!("{parallel} = true"));
    }
    match OTHERS.into_iter().map(spelled).find(|key| metadata.get(key).is_some()) {
        Some(key) => unsupported(key),
        None => Ok(()),
    }
}

fn unsupported(what: String) -> Result<()> {
    Err(Error::unsupported(what, "no Llama has this; convert the model again, and it will be called what it is"))
}
