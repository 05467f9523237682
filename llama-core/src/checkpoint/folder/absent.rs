//! Folders without config.json or without weights: the errors say what is there instead, and what to do with it.

use std::io;
use std::path::Path;

use crate::error::Error;

/// What to do with an adapter that was taken for a model.
pub(in crate::checkpoint) const ADAPTER: &str =
    "open its base model with it (--adapter, Loader::adapter), or merge it into that (08-convert --adapter)";

/// The error of a folder without config.json. Where it has a GGUF file, that is what to open.
pub(super) fn config(folder: &Path) -> Error {
    let names = names(folder);
    let first = |fits: fn(&str) -> bool| names.iter().find(|name| fits(name));
    let problem = if let Some(name) = first(|name| name.ends_with(".gguf")) {
        format!("is not in this folder; open {name} itself")
    } else if first(|name| name == "adapter_config.json").is_some() {
        format!("is not in this folder, which holds a LoRA adapter; {ADAPTER}")
    } else if first(|name| name == "params.json").is_some() {
        "is not in this folder, which is in Meta's or Mistral's own format; open the model's Hugging Face folder, or \
         convert it"
            .into()
    } else if first(|name| name == "snapshots").is_some() {
        "is not in this folder, which is the hub's cache; open the folder of a revision under snapshots".into()
    } else {
        "is not in this folder; open the folder of a model, or a GGUF file".into()
    };
    Error::io(folder.join("config.json"), io::Error::new(io::ErrorKind::NotFound, problem))
}

/// The error of a folder that has neither the file `single` nor the file `index`.
pub(super) fn weights(folder: &Path, single: &str, index: &str) -> Error {
    let problem = format!("is not in this folder, and neither is {index}: it has {}", weights_there(folder));
    Error::io(folder.join(single), io::Error::new(io::ErrorKind::NotFound, problem))
}

/// What a folder has in the place of weights, and what to do with it.
fn weights_there(folder: &Path) -> String {
    let names = names(folder);
    let first = |fits: fn(&str) -> bool| names.iter().find(|name| fits(name));
    let numbered = |name: &str| name.ends_with(".safetensors") && name.contains("-of-");
    if first(|name| name == "adapter_model.safetensors").is_some() {
        format!("only a LoRA adapter's; {ADAPTER}")
    } else if let Some(name) = first(|name| name.starts_with("consolidated")) {
        format!("only {name}, in Meta's or Mistral's own format; open the model's Hugging Face folder, or convert it")
    } else if first(numbered).is_some() {
        "only its shards; put the model's own index beside them".into()
    } else if let Some(name) = first(|name| name.ends_with(".safetensors")) {
        format!("only {name}; if it is the model, open it by its path")
    } else if let Some(name) = first(|name| name.ends_with(".gguf")) {
        format!("only {name}; open it by its path")
    } else if let Some(name) = first(|name| name.ends_with(".bin") || name.ends_with(".pth") || name.ends_with(".pt")) {
        format!("only PyTorch's {name}; convert it to safetensors (transformers' save_pretrained)")
    } else {
        "no weights at all; fetch them".into()
    }
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}
