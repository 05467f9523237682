//! The rotary embedding of config.json: `rope_theta` and `rope_scaling` (transformers 4), or `rope_parameters` (5).
//!
//! Source: transformers, src/transformers/modeling_rope_utils.py.

use serde_json::Value;

use super::family::Family;
use super::json::{Object, shortened};
use crate::config::{Rope, RopeLayout, RopeScaling, Temperature, long_scale, yarn_scale};
use crate::error::{Error, Result};

const TEMPERATURE: &str = "llama_4_scaling_beta";
const ORIGINAL: &str = "original_max_position_embeddings";
const PART: &str = "partial_rotary_factor";

/// Both spellings' parameters.
fn parameters(json: Object<'_>) -> Result<Option<Object<'_>>> {
    match (json.object("rope_parameters")?, json.object("rope_scaling")?) {
        (Some(parameters), Some(scaling)) if !is_part(scaling, parameters) => {
            Err(Error::config("rope_scaling", "says other than rope_parameters; keep the one that is meant"))
        }
        (parameters, scaling) => Ok(parameters.or(scaling)),
    }
}

/// The temperature of attention: it grows beyond the context that there was before it was stretched.
pub(super) fn temperature(json: Object<'_>, context: usize) -> Result<Option<Temperature>> {
    let Some(parameters) = parameters(json)? else { return Ok(None) };
    match parameters.number(TEMPERATURE)?.filter(|&growth| growth != 0.0) {
        Some(growth) => Ok(Some(Temperature { growth: growth as f32, from: original(json, parameters, context)? })),
        None => Ok(None),
    }
}

/// The rotary embedding of a model of `family`.
pub(super) fn rope(json: Object<'_>, family: Family, head_dim: usize, context: usize) -> Result<Rope> {
    let parameters = parameters(json)?;
    if family == Family::Ministral3 && parameters.is_none() {
        return Err(Error::config("rope_parameters", "is missing, and a Ministral 3 needs it"));
    }
    parameters.map_or(Ok(()), |parameters| refuse_other_embeddings(parameters, family == Family::Ministral3))?;
    let nested = parameters.map(|parameters| parameters.number("rope_theta")).transpose()?.flatten();
    let theta = match nested {
        Some(theta) => theta,
        None => json.number("rope_theta")?.unwrap_or(family.theta()),
    };
    let dims = dims(json, parameters, family, head_dim)?;
    let scaling = parameters.map_or(Ok(RopeScaling::None), |parameters| scaling(json, parameters, family, context))?;
    Ok(Rope { theta, dims, layout: RopeLayout::Halves, unturned: Vec::new(), scaling })
}

/// Columns of a head that turn.
fn dims(json: Object<'_>, parameters: Option<Object<'_>>, family: Family, head_dim: usize) -> Result<usize> {
    for object in parameters.into_iter().chain([json]) {
        match object.number(PART)? {
            None | Some(1.0) => {}
            Some(_) if !family.turns_parts() => {
                return Err(Error::unsupported(format!("{PART} other than 1"), "Llama turns whole heads"));
            }
            Some(factor) if factor > 0.0 && factor <= 1.0 => return Ok((head_dim as f64 * factor) as usize),
            Some(factor) => return Err(Error::config(PART, format!("is {factor}; above 0, up to 1 was expected"))),
        }
    }
    Ok(head_dim)
}

/// Whether all that `part` says `whole` says, too.
fn is_part(part: Object<'_>, whole: Object<'_>) -> bool {
    part.0.iter().all(|(key, value)| whole.0.get(if key == "type" { "rope_type" } else { key }) == Some(value))
}

/// Parameters of embeddings that are not Llama's, though they may call themselves by the same `rope_type`.
fn refuse_other_embeddings(parameters: Object<'_>, has_temperature: bool) -> Result<()> {
    for (key, value) in parameters.0 {
        let what = match key.as_str() {
            _ if value.is_object() => format!("a rotary embedding for each kind of layer ({key})"),
            TEMPERATURE if has_temperature => continue,
            "mrope_section" | TEMPERATURE | "alpha" if !value.is_null() && value.as_f64() != Some(0.0) => {
                format!("{key} of a rotary embedding")
            }
            _ => continue,
        };
        return Err(Error::unsupported(what, "Llama has one embedding of positions for all layers"));
    }
    Ok(())
}

fn scaling(json: Object<'_>, parameters: Object<'_>, family: Family, context: usize) -> Result<RopeScaling> {
    let kind = match parameters.string("rope_type")? {
        Some(kind) => Some(kind),
        None => parameters.string("type")?,
    };
    match kind.unwrap_or("default") {
        "longrope" => long(json, parameters, family, context),
        // What Phi-3's first versions called it.
        "su" | "yarn" if family == Family::Phi3 => long(json, parameters, family, context),
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: required(parameters, "factor")? }),
        // Counts from max_position_embeddings, whatever the original context is said to be.
        "dynamic" => Ok(RopeScaling::Dynamic { factor: required(parameters, "factor")?, original: context }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: required(parameters, "factor")?,
            low: required(parameters, "low_freq_factor")?,
            high: required(parameters, "high_freq_factor")?,
            original: original(json, parameters, context)?,
        }),
        "yarn" => yarn(parameters, original(json, parameters, context)?, context),
        other => {
            let advice = "default, linear, dynamic, yarn, longrope and llama3 are read";
            Err(Error::unsupported(format!("rope_type {other:?}"), advice))
        }
    }
}

fn yarn(parameters: Object<'_>, original: usize, context: usize) -> Result<RopeScaling> {
    let positive = |key, default| Ok::<f64, Error>(parameters.number(key)?.filter(|&n| n != 0.0).unwrap_or(default));
    let factor = parameters.number("factor")?.unwrap_or(context as f64 / original as f64);
    let mscale = positive("mscale", 0.0)?;
    let mscale_all_dim = positive("mscale_all_dim", 0.0)?;
    let attention_factor = match parameters.number("attention_factor")? {
        Some(given) => given,
        None if mscale != 0.0 && mscale_all_dim != 0.0 => {
            yarn_scale(factor, mscale) / yarn_scale(factor, mscale_all_dim)
        }
        None => yarn_scale(factor, 1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        original,
        beta_fast: positive("beta_fast", 32.0)?,
        beta_slow: positive("beta_slow", 1.0)?,
        attention_factor,
        truncate: parameters.bool("truncate")?.unwrap_or(true),
    })
}

fn long(json: Object<'_>, parameters: Object<'_>, family: Family, context: usize) -> Result<RopeScaling> {
    let original = original(json, parameters, family.original().unwrap_or(context))?;
    let attention_factor = match parameters.number("attention_factor")? {
        Some(given) => given,
        None => {
            let stretch = parameters.number("factor")?.unwrap_or(context as f64 / original as f64);
            long_scale(stretch, original)
        }
    };
    let (short, long) = (divisors(parameters, "short_factor")?, divisors(parameters, "long_factor")?);
    Ok(RopeScaling::Long { short, long, original, attention_factor })
}

/// A list of numbers; whether they are as many as there are frequencies, and positive, is checked with the sizes.
fn divisors(parameters: Object<'_>, key: &str) -> Result<Vec<f32>> {
    let list = parameters.get(key).and_then(Value::as_array);
    let numbers = list.and_then(|list| list.iter().map(|number| Some(number.as_f64()? as f32)).collect());
    numbers.ok_or_else(|| {
        let found = parameters.get(key).map_or("missing".into(), shortened);
        Error::config(key, format!("is {found}; a list with a number for each frequency was expected"))
    })
}

fn required(parameters: Object<'_>, key: &str) -> Result<f64> {
    parameters.number(key)?.ok_or_else(|| Error::config(key, "is missing, and this rotary embedding needs it"))
}

/// The context before stretching: beside the other parameters, or at config.json's top, or `absent`.
fn original(json: Object<'_>, parameters: Object<'_>, absent: usize) -> Result<usize> {
    match parameters.size(ORIGINAL)? {
        Some(original) => Ok(original),
        None => Ok(json.size(ORIGINAL)?.unwrap_or(absent)),
    }
}
