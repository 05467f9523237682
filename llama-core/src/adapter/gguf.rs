//! What the metadata of a GGUF says about the adapter in it.
//!
//! llama.cpp has one alpha for all matrices, and divides it by a pair's rank; an alpha of 0, or none, stands for a scale of 1.
//! Its converter knows neither `use_rslora` nor `alpha_pattern`, so a file of such an adapter has a scale that it was not trained
//! with, here as there.

use crate::checkpoint::gguf::{self, Metadata, READ, Traits};
use crate::error::{Error, Result};

const ALPHA: &str = "adapter.lora.alpha";
/// Keys of adapters that change no number: how to ask for what it does.
const HARMLESS: [&str; 3] = ["adapter.type", "adapter.lora.task_name", "adapter.lora.prompt_prefix"];

/// What no key tells of the file's architecture: the order of the rows of queries and keys, and which matrices are one.
pub(super) fn traits(metadata: &Metadata) -> Result<Traits> {
    let key = "general.architecture";
    let name = metadata.string(key)?;
    let advice = || format!("adapters of architecture {READ} are read");
    match name.map(|name| (name, gguf::traits(name))) {
        Some((_, Some(traits))) => Ok(traits),
        Some((name, None)) => Err(Error::unsupported(format!("{key} {name:?}"), advice())),
        None => Err(Error::unsupported(format!("a GGUF without {key}"), advice())),
    }
}

/// `adapter.lora.alpha` of a file that holds LoRA of a Llama and nothing else; 0 where it has none.
pub(super) fn alpha(metadata: &Metadata) -> Result<f32> {
    must_be(metadata, "general.type", &["adapter"], "this is not a LoRA adapter; open a model by Checkpoint::open")?;
    must_be(metadata, "adapter.type", &["lora"], "adapters of type \"lora\" are read")?;
    if let Some(count) = metadata.u64("split.count")?.filter(|&count| count > 1) {
        return Err(Error::unsupported(
            format!("an adapter in {count} files"),
            "put them into one with gguf-split --merge",
        ));
    }
    let strange = |key: &&str| key.starts_with("adapter.") && *key != ALPHA && !HARMLESS.contains(key);
    match metadata.iter().map(|(key, _)| key).find(strange) {
        Some(key) => {
            Err(Error::unsupported(key, "plain LoRA is read; convert an adapter of another kind by merging it"))
        }
        None => finite(metadata.f32(ALPHA)?.unwrap_or(0.0)),
    }
}

/// What a pair's product is multiplied by.
pub(super) fn scale(alpha: f32, rank: usize) -> Result<f32> {
    Ok(if alpha == 0.0 { 1.0 } else { alpha / rank as f32 })
}

fn must_be(metadata: &Metadata, key: &str, expected: &[&str], advice: &str) -> Result<()> {
    match metadata.string(key)? {
        Some(found) if expected.contains(&found) => Ok(()),
        Some(found) => Err(Error::unsupported(format!("{key} {found:?}"), advice)),
        None => Err(Error::unsupported(format!("a GGUF without {key}"), advice)),
    }
}

fn finite(alpha: f32) -> Result<f32> {
    match alpha.is_finite() {
        true => Ok(alpha),
        false => Err(Error::config(ALPHA, format!("is {alpha}; a finite number was expected"))),
    }
}
