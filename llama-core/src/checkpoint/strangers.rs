//! Tensors that a Llama does not have. One among a model's layers, beside its embedding or its head takes part in the
//! model's arithmetic, and leaving it out would give a model that talks nonsense or, worse, nearly sense. So such a file is
//! refused. Tensors elsewhere (a vision tower, a classifier's head) are another program's business and are let be.

use std::collections::HashSet;

use super::names::Name;
use super::shards::Shards;
use crate::config::Config;
use crate::error::{Error, InFile, Result};

/// Pieces of names that tell what a stranger is and what to do about it, the first that fits.
const SIGNS: [(&str, &str, &str); 19] = [
    (".lora_", "of a LoRA adapter", ADAPTER),
    (".qweight", "GPTQ's or AWQ's", QUANTISED),
    (".qzeros", "GPTQ's or AWQ's", QUANTISED),
    (".weight_scale", "a scale of FP8 or compressed-tensors weights", QUANTISED),
    (".weight_packed", "of compressed-tensors weights", QUANTISED),
    (".input_scale", "a scale of FP8 activations", QUANTISED),
    (".absmax", "bitsandbytes'", QUANTISED),
    (".quant_", "bitsandbytes'", QUANTISED),
    (".SCB", "bitsandbytes'", QUANTISED),
    (".scales", "a scale of quantised weights", QUANTISED),
    ("expert", "of a mixture of experts", LLAMAS),
    ("_exps", "of a mixture of experts", LLAMAS),
    ("ffn_gate_inp", "of a mixture of experts", LLAMAS),
    ("q_norm", "a norm of queries", LLAMAS),
    ("k_norm", "a norm of keys", LLAMAS),
    ("sub_norm", "a norm of BitNet's", LLAMAS),
    ("qkv", "of a fused attention", LLAMAS),
    ("gate_up", "gate and up in one", LLAMAS),
    ("rope_factors", "of a longrope embedding", LLAMAS),
];
const QUANTISED: &str = "open the unquantised model, or a GGUF of it";
const ADAPTER: &str =
    "merge it into its base model (08-convert --adapter, or peft's merge_and_unload) and open the result";
const LLAMAS: &str = "the graph is Llama's, and leaving a tensor out of it would give another model";

/// Beginnings of the names of a Llama's tensors, in GGUF, in folders, and in folders of adapters.
const PLACES: [&str; 10] =
    ["blk.", "output", "token_embd", "rope_", "model.", "lm_head.", "layers.", "embed_tokens.", "norm.", "base_model."];

/// Refuses the first tensor in a place of the graph that `spell` gives no [`Name`] of a model of `config`'s shape.
pub(super) fn refuse(shards: &Shards, config: &Config, spell: impl Fn(Name) -> Option<String>) -> Result<()> {
    let one_layer = Config { layers: 1, ..config.clone() };
    let known: HashSet<String> = Name::all(&one_layer).filter_map(spell).collect();
    for (i, tensor) in shards.iter().enumerate().filter(|(_, tensor)| is_in_graph(tensor.name)) {
        check(tensor.name, &known, config.layers).in_file(shards.path_of(i))?;
    }
    Ok(())
}

/// `known` are the names of a model with one layer.
fn check(name: &str, known: &HashSet<String>, layers: usize) -> Result<()> {
    let (in_layer_0, layer) = in_layer_0(name);
    match known.contains(&in_layer_0) {
        true if layer < layers => Ok(()),
        true => Err(Error::tensor(name, format!("is past the last of {layers} layers; no more were expected"))),
        false if is_harmless(name) => Ok(()),
        false => Err(refusal(name)),
    }
}

fn is_in_graph(name: &str) -> bool {
    PLACES.iter().any(|place| name.starts_with(place))
}

/// A name with the number of its layer replaced by 0, and that number, which is 0 where there is none.
fn in_layer_0(name: &str) -> (String, usize) {
    let layer = |part: &str| part.parse::<usize>().ok().filter(|layer| layer.to_string() == part);
    match name.split('.').find_map(|part| Some((part, layer(part)?))) {
        Some((part, layer)) => (name.replacen(&format!(".{part}."), ".0.", 1), layer),
        None => (name.to_owned(), 0),
    }
}

/// Rotary frequencies, which older files store and configurations give again; and a head where the model uses none.
fn is_harmless(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attn_rot_embd.weight") || name == "lm_head.weight"
}

fn refusal(name: &str) -> Error {
    let sign = SIGNS.into_iter().find(|(sign, ..)| name.contains(sign));
    let (_, kind, advice) = sign.unwrap_or(("", "one that no Llama has", LLAMAS));
    Error::unsupported(format!("tensor {name}, {kind},"), advice)
}
