//! The rotary embedding of a GGUF, as llama.cpp reads its keys (src/llama-model.cpp, src/llama-context.cpp, `rope_yarn` in ggml):
//! `rope.scaling.type` is `linear` where absent; its factor is `rope.scaling.factor`, else `rope.scale_linear`, else 1.
//! Frequencies are divided by `rope_freqs.weight` first and by the factor then. YaRN's ramp spans 32 to 1 rotations over
//! `original_context_length`, and its factor on cosine and sine is `0.1 ln(factor) + 1` times `attn_factor`. LongRoPE's divisors are two
//! tensors, and its factor is `attn_factor` itself; it has the long ones for contexts above `original_context_length`.

use super::Metadata;
use super::architecture::Spelling;
use crate::checkpoint::Name;
use crate::checkpoint::shards::Shards;
use crate::config::{Rope, RopeScaling, yarn_scale};
use crate::error::{Error, Result};

/// The `rope.scaling.type` of a LongRoPE.
pub(crate) const LONG: &str = "longrope";

/// The embedding of heads of `head_dim` columns, of a model whose context is `context`.
pub(super) fn rope(
    metadata: &Metadata,
    spelling: &Spelling,
    shards: &Shards,
    head_dim: usize,
    context: usize,
) -> Result<Rope> {
    Ok(Rope {
        theta: metadata.f32(spelling.keys.theta)?.unwrap_or(10_000.0).into(),
        dims: metadata.usize(spelling.keys.rope_dims)?.unwrap_or(head_dim),
        layout: spelling.traits.layout,
        unturned: Vec::new(),
        scaling: match long(metadata, spelling, shards, context)? {
            Some(long) => long,
            None => divided(metadata, spelling, divisors(shards, Name::RopeFreqs)?, context)?,
        },
    })
}

/// The scaling of the keys, and what a tensor of divisors makes of it.
fn divided(
    metadata: &Metadata,
    spelling: &Spelling,
    divisors: Option<Vec<f32>>,
    context: usize,
) -> Result<RopeScaling> {
    match (scaling(metadata, spelling, context)?, divisors) {
        (scaling, None) => Ok(scaling),
        (RopeScaling::None, Some(divisors)) => Ok(RopeScaling::Divisors { divisors }),
        (RopeScaling::Linear { factor }, Some(divisors)) => {
            let divisors = divisors.into_iter().map(|d| (f64::from(d) * factor) as f32).collect();
            Ok(RopeScaling::Divisors { divisors })
        }
        (_, Some(_)) => {
            let what = format!("{} \"yarn\" together with {}", spelling.scaling_type, Name::RopeFreqs.gguf());
            Err(Error::unsupported(what, "convert the model again"))
        }
    }
}

/// A LongRoPE: two tensors of divisors, where the architecture always means them, or a key says so.
fn long(metadata: &Metadata, spelling: &Spelling, shards: &Shards, context: usize) -> Result<Option<RopeScaling>> {
    let said = metadata.string(spelling.scaling_type)? == Some(LONG);
    if !said && !spelling.traits.long {
        return Ok(None);
    }
    match (divisors(shards, Name::RopeShort)?, divisors(shards, Name::RopeLong)?) {
        (None, None) if !said => Ok(None),
        (Some(short), Some(long)) => Ok(Some(RopeScaling::Long {
            short,
            long,
            original: metadata.usize(spelling.original)?.unwrap_or(context),
            attention_factor: metadata.f32(spelling.attn_factor)?.map_or(1.0, f64::from),
        })),
        (short, _) => {
            let absent = if short.is_some() { Name::RopeLong } else { Name::RopeShort };
            Err(Error::tensor(absent.gguf(), "is missing, and this model's LongRoPE needs it"))
        }
    }
}

/// A vector of divisors: that of the rotary frequencies which Llama 3.1's converter writes in place of the three bands' numbers, or one of
/// LongRoPE's.
fn divisors(shards: &Shards, name: Name) -> Result<Option<Vec<f32>>> {
    let Some(tensor) = shards.find(&name.gguf()) else { return Ok(None) };
    let view = shards.view(tensor)?;
    if view.format().is_quantised() || view.rows() != 1 {
        let found = format!("is {} [{}, {}]", view.format().name(), view.rows(), view.cols());
        return Err(view.error(format!("{found}; a vector of floats was expected")));
    }
    Ok(Some(view.to_f32()))
}

fn scaling(metadata: &Metadata, spelling: &Spelling, context: usize) -> Result<RopeScaling> {
    let factor = match metadata.f32(spelling.scaling_factor)? {
        Some(factor) => Some(factor),
        None => metadata.f32(spelling.scale_linear)?,
    };
    match metadata.string(spelling.scaling_type)?.unwrap_or("linear") {
        "none" => Ok(RopeScaling::None),
        "linear" => Ok(factor.map_or(RopeScaling::None, |factor| RopeScaling::Linear { factor: factor.into() })),
        "yarn" => yarn(metadata, spelling, factor.unwrap_or(1.0).into(), context),
        other => {
            let what = format!("{} {other:?}", spelling.scaling_type);
            Err(Error::unsupported(what, "none, linear, yarn and longrope are read"))
        }
    }
}

fn yarn(metadata: &Metadata, spelling: &Spelling, factor: f64, context: usize) -> Result<RopeScaling> {
    let number = |key, default| Ok::<f64, Error>(metadata.f32(key)?.map_or(default, f64::from));
    let log_multiplier = number(spelling.log_multiplier, 0.0)?;
    let relative = if log_multiplier == 0.0 { 1.0 } else { yarn_scale(factor, log_multiplier) };
    Ok(RopeScaling::Yarn {
        factor,
        original: metadata.usize(spelling.original)?.unwrap_or(context),
        beta_fast: number(spelling.beta_fast, 32.0)?,
        beta_slow: number(spelling.beta_slow, 1.0)?,
        attention_factor: yarn_scale(factor, 1.0) / relative * number(spelling.attn_factor, 1.0)?,
        truncate: true,
    })
}
