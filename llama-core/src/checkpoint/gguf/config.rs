//! Sizes from a GGUF of architecture `llama`, or of another whose graph is the same but for its [`Traits`](super::Traits).

use super::super::folder::ADAPTER;
use super::super::names::Name;
use super::super::shards::Shards;
use super::Metadata;
use super::architecture::{READ, Spelling, spelling, traits};
use super::rope::rope;
use crate::config::{Config, Head, Multipliers, Pooling, ProblemType, Temperature, numbered_labels};
use crate::error::{Error, Result};

/// The configuration that `metadata` and the tensors' shapes give.
pub(in crate::checkpoint) fn config(metadata: &Metadata, shards: &Shards) -> Result<Config> {
    let spelling = &architecture(metadata)?;
    check_kind(metadata, spelling)?;
    let hidden = required(metadata, spelling.keys.hidden)?;
    let layers = required(metadata, spelling.keys.layers)?;
    let heads = per_layer(metadata, spelling.keys.heads, layers)?.ok_or_else(|| missing(spelling.keys.heads))?;
    let head_dim = head_dim(metadata, spelling, hidden, heads)?;
    super::variants::refuse(metadata, spelling.name, spelling.traits, head_dim)?;
    let context = required(metadata, spelling.keys.context)?;
    let pooling = pooling(metadata, spelling)?;
    let labels = labels(metadata, spelling, shards)?;
    let mut config = Config {
        architecture: spelling.name.into(),
        vocab: vocab(metadata, spelling, shards)?,
        hidden,
        ffn: per_layer(metadata, spelling.keys.ffn, layers)?.ok_or_else(|| missing(spelling.keys.ffn))?,
        layers,
        heads,
        kv_heads: per_layer(metadata, spelling.keys.kv_heads, layers)?.unwrap_or(heads),
        head_dim,
        context,
        head_norms: spelling.traits.head_norms,
        temperature: temperature(metadata, spelling, context)?,
        multipliers: multipliers(metadata, spelling)?,
        eps: metadata.f32(spelling.keys.eps)?.ok_or_else(|| missing(spelling.keys.eps))?,
        rope: rope(metadata, spelling, shards, head_dim, context)?,
        window: metadata.usize(spelling.keys.window)?.filter(|&window| window > 0),
        head: match shards.find(&Name::Head.gguf()) {
            Some(_) => Head::Own,
            // A model made to pool, or to classify, was saved without a head because it has none.
            None if pooling.is_some() || !labels.is_empty() => Head::None,
            None => Head::Tied,
        },
        pooling: pooling.unwrap_or_default(),
        labels,
        problem_type: ProblemType::default(),
    };
    config.check(&spelling.keys)?;
    // Only now is it known that there are not too many.
    config.rope.unturned = spelling.traits.unturned(layers);
    Ok(config)
}

/// Whether a model of that configuration cannot do without a bias.
pub(in crate::checkpoint) fn needs(config: &Config, bias: Name) -> bool {
    let biased = matches!(bias, Name::QBias(_) | Name::KBias(_) | Name::VBias(_));
    biased && traits(&config.architecture).is_some_and(|traits| traits.biased)
}

/// It grows beyond the context that there was before it was stretched.
fn temperature(metadata: &Metadata, spelling: &Spelling, context: usize) -> Result<Option<Temperature>> {
    let growth = metadata.f32(spelling.keys.temperature)?;
    let Some(growth) = growth.filter(|&growth| spelling.traits.has_temperature && growth != 0.0) else {
        return Ok(None);
    };
    Ok(Some(Temperature { growth, from: metadata.usize(spelling.original)?.unwrap_or(context) }))
}

/// A 0 is none.
fn multipliers(metadata: &Metadata, spelling: &Spelling) -> Result<Multipliers> {
    if !spelling.traits.multiplied {
        return Ok(Multipliers::default());
    }
    let number = |key| Ok::<_, Error>(metadata.f32(key)?.filter(|&number| number != 0.0));
    Ok(Multipliers {
        embedding: number(spelling.keys.embedding_multiplier)?.unwrap_or(1.0),
        residual: number(spelling.keys.residual_multiplier)?.unwrap_or(1.0),
        attention: number(spelling.keys.attention_multiplier)?,
        logits: number(spelling.keys.logits_scaling)?.unwrap_or(1.0),
    })
}

fn missing(key: &str) -> Error {
    Error::config(key, "is missing, and a Llama needs it")
}

fn required(metadata: &Metadata, key: &str) -> Result<usize> {
    metadata.usize(key)?.ok_or_else(|| missing(key))
}

fn per_layer(metadata: &Metadata, key: &str, layers: usize) -> Result<Option<usize>> {
    metadata.usize_per_layer(key, layers)
}

fn architecture(metadata: &Metadata) -> Result<Spelling> {
    let key = "general.architecture";
    let name = metadata.string(key)?.ok_or_else(|| missing(key))?;
    spelling(name)
        .ok_or_else(|| Error::unsupported(format!("{key} {name:?}"), format!("models of architecture {READ} are read")))
}

fn check_kind(metadata: &Metadata, Spelling { causal, experts, .. }: &Spelling) -> Result<()> {
    let refuse = |what: String, advice: &str| Err(Error::unsupported(what, advice));
    match metadata.string("general.type")? {
        None | Some("model") => {}
        Some(kind @ "adapter") => return refuse(format!("general.type {kind:?}"), ADAPTER),
        Some(other) => return refuse(format!("general.type {other:?}"), "open the model that it belongs to"),
    }
    if metadata.bool(causal)? == Some(false) {
        return refuse(format!("{causal} false"), "models whose tokens see what comes before them are read");
    }
    match metadata.usize(experts)? {
        None | Some(0) => Ok(()),
        Some(count) => refuse(format!("{experts} {count}"), "dense models are read, mixtures of experts are not"),
    }
}

/// As llama.cpp numbers them: 0 none, 1 mean, 2 the first token, 3 the last, 4 the last for a classifier.
fn pooling(metadata: &Metadata, &Spelling { pooling, .. }: &Spelling) -> Result<Option<Pooling>> {
    match metadata.usize(pooling)? {
        None | Some(0) => Ok(None),
        Some(1) => Ok(Some(Pooling::Mean)),
        Some(3 | 4) => Ok(Some(Pooling::Last)),
        Some(other) => Err(Error::unsupported(
            format!("{pooling} {other}"),
            "0 (none), 1 (mean), 3 (last) and 4 (rank) are read; a first token has seen nothing of its text",
        )),
    }
}

/// Names of the labels that `cls.output.weight` scores, by their numbers where the file has none.
fn labels(metadata: &Metadata, spelling: &Spelling, shards: &Shards) -> Result<Vec<String>> {
    let named = metadata.strings(spelling.keys.labels)?;
    match (shards.find(&Name::Score.gguf()), named) {
        (None, _) => Ok(Vec::new()),
        (Some(_), Some([])) => Err(Error::config(spelling.keys.labels, "is empty; a name for each label was expected")),
        (Some(_), Some(labels)) => Ok(labels.to_vec()),
        (Some(score), None) => numbered_labels(spelling.keys.labels, shards.info(score).rows),
    }
}

fn head_dim(metadata: &Metadata, spelling: &Spelling, hidden: usize, heads: usize) -> Result<usize> {
    let head_dim = match metadata.usize(spelling.keys.head_dim)? {
        Some(length) => length,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(Error::config(
                spelling.keys.heads,
                format!("is {heads}; a divisor of the {hidden} columns was expected"),
            ));
        }
    };
    match metadata.usize(spelling.value_length)? {
        Some(length) if length != head_dim => {
            Err(Error::config(spelling.value_length, format!("is {length}; {head_dim}, as keys have, was expected")))
        }
        _ => Ok(head_dim),
    }
}

/// Tokens, vocabulary size and rows of the embedding must agree, where the file has them.
fn vocab(metadata: &Metadata, spelling: &Spelling, shards: &Shards) -> Result<usize> {
    let embed = Name::Embed.gguf();
    let missing = || match shards.iter().len() {
        0 => Error::tensor(&embed, "is missing: this file has a vocabulary and no weights; open the model's own file"),
        _ => Error::tensor(&embed, "is missing, and a Llama needs it"),
    };
    let tensor = shards.find(&embed).ok_or_else(missing)?;
    let rows = shards.info(tensor).rows;
    let agree = |key: &str, count: Option<usize>| match count {
        Some(count) if count != rows => {
            Err(Error::config(key, format!("is {count} long; {rows}, as {embed} has rows, was expected")))
        }
        _ => Ok(()),
    };
    agree(spelling.keys.vocab, metadata.usize(spelling.keys.vocab)?)?;
    agree(super::vocabulary::TOKENS, metadata.strings(super::vocabulary::TOKENS)?.map(<[String]>::len))?;
    Ok(rows)
}
