//! Sizes and rotary embedding from a GGUF of architecture `llama`, or of another whose graph is the same but for its [`Traits`].
//!
//! How llama.cpp reads the rotary keys (src/llama-model.cpp, src/llama-context.cpp, `rope_yarn` in ggml), followed here:
//! `rope.scaling.type` is `linear` where absent; its factor is `rope.scaling.factor`, else `rope.scale_linear`, else 1.
//! Frequencies are divided by `rope_freqs.weight` first and by the factor then. YaRN's ramp spans 32 to 1 rotations over
//! `original_context_length`, and its factor on cosine and sine is `0.1 ln(factor) + 1` times `attn_factor`.

use super::super::folder::ADAPTER;
use super::super::names::Name;
use super::super::shards::Shards;
use super::Metadata;
use crate::config::{Config, Head, Keys, Pooling, Rope, RopeScaling, Temperature, yarn_scale};
use crate::config::{ProblemType, RopeLayout, numbered_labels};
use crate::error::{Error, Result};

/// How an architecture spells what is read.
struct Spelling {
    name: &'static str,
    keys: Keys,
    value_length: &'static str,
    causal: &'static str,
    pooling: &'static str,
    experts: &'static str,
    scaling_type: &'static str,
    scaling_factor: &'static str,
    scale_linear: &'static str,
    original: &'static str,
    attn_factor: &'static str,
    log_multiplier: &'static str,
    beta_fast: &'static str,
    beta_slow: &'static str,
    traits: Traits,
}

/// What the models of an architecture have that no key tells, as llama.cpp's src/llama-model.cpp has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traits {
    /// Whether attention's temperature may grow with the position.
    has_temperature: bool,
    /// Whether heads of queries and keys are normed.
    head_norms: bool,
    /// Whether queries, keys and values have biases, and must.
    biased: bool,
    /// Which columns of a head turn together.
    pub(crate) layout: RopeLayout,
    /// Every how many layers there is one that does not turn.
    unturned: Option<usize>,
}

const LLAMA: Traits = Traits {
    has_temperature: false,
    head_norms: false,
    biased: false,
    layout: RopeLayout::Interleaved,
    unturned: None,
};
const QWEN3: Traits = Traits { head_norms: true, layout: RopeLayout::Halves, ..LLAMA };

macro_rules! spelling {
    ($name:literal, $traits:expr) => {
        Spelling {
            name: $name,
            keys: Keys {
                vocab: concat!($name, ".vocab_size"),
                hidden: concat!($name, ".embedding_length"),
                ffn: concat!($name, ".feed_forward_length"),
                layers: concat!($name, ".block_count"),
                heads: concat!($name, ".attention.head_count"),
                kv_heads: concat!($name, ".attention.head_count_kv"),
                head_dim: concat!($name, ".attention.key_length"),
                context: concat!($name, ".context_length"),
                eps: concat!($name, ".attention.layer_norm_rms_epsilon"),
                theta: concat!($name, ".rope.freq_base"),
                rope_dims: concat!($name, ".rope.dimension_count"),
                scaling: concat!($name, ".rope.scaling"),
                window: concat!($name, ".attention.sliding_window"),
                labels: concat!($name, ".classifier.output_labels"),
                temperature: concat!($name, ".attention.temperature_scale"),
            },
            value_length: concat!($name, ".attention.value_length"),
            causal: concat!($name, ".attention.causal"),
            pooling: concat!($name, ".pooling_type"),
            experts: concat!($name, ".expert_count"),
            scaling_type: concat!($name, ".rope.scaling.type"),
            scaling_factor: concat!($name, ".rope.scaling.factor"),
            scale_linear: concat!($name, ".rope.scale_linear"),
            original: concat!($name, ".rope.scaling.original_context_length"),
            attn_factor: concat!($name, ".rope.scaling.attn_factor"),
            log_multiplier: concat!($name, ".rope.scaling.yarn_log_multiplier"),
            beta_fast: concat!($name, ".rope.scaling.yarn_beta_fast"),
            beta_slow: concat!($name, ".rope.scaling.yarn_beta_slow"),
            traits: $traits,
        }
    };
}

/// The architectures that are read.
const ARCHITECTURES: [Spelling; 5] = [
    spelling!("llama", LLAMA),
    // Ministral 3 and Devstral 2.
    spelling!("mistral3", Traits { has_temperature: true, ..LLAMA }),
    spelling!("qwen2", Traits { head_norms: false, biased: true, ..QWEN3 }),
    spelling!("qwen3", QWEN3),
    spelling!("smollm3", Traits { unturned: Some(4), ..LLAMA }),
];
/// Their names, for errors.
pub(crate) const READ: &str = "\"llama\", \"mistral3\", \"qwen2\", \"qwen3\" and \"smollm3\"";

/// How an architecture spells what is read, if it is.
fn spelling(architecture: &str) -> Option<Spelling> {
    ARCHITECTURES.into_iter().find(|spelling| spelling.name == architecture)
}

/// What no key tells of an architecture, if it is read.
pub(crate) fn traits(architecture: &str) -> Option<Traits> {
    spelling(architecture).map(|spelling| spelling.traits)
}

impl Traits {
    /// The layers that do not turn, of `layers`.
    pub(crate) fn unturned(self, layers: usize) -> Vec<usize> {
        let every = |step| (0..layers).filter(move |layer| (layer + 1) % step == 0);
        self.unturned.map_or(Vec::new(), |step| every(step).collect())
    }
}

/// The configuration that `metadata` and the tensors' shapes give.
pub(in crate::checkpoint) fn config(metadata: &Metadata, shards: &Shards) -> Result<Config> {
    let spelling = &architecture(metadata)?;
    check_kind(metadata, spelling)?;
    let hidden = required(metadata, spelling.keys.hidden)?;
    let layers = required(metadata, spelling.keys.layers)?;
    let heads = per_layer(metadata, spelling.keys.heads, layers)?.ok_or_else(|| missing(spelling.keys.heads))?;
    let head_dim = head_dim(metadata, spelling, hidden, heads)?;
    super::variants::refuse(metadata, spelling.name, spelling.traits.has_temperature, head_dim)?;
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
        0 => Error::tensor(&embed, "is missing: this file has a vocabulary and no weights; give the model's own file"),
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

fn rope(metadata: &Metadata, spelling: &Spelling, shards: &Shards, head_dim: usize, context: usize) -> Result<Rope> {
    let divisors = divisors(shards)?;
    let scaling = match (scaling(metadata, spelling, context)?, divisors) {
        (scaling, None) => scaling,
        (RopeScaling::None, Some(divisors)) => RopeScaling::Divisors { divisors },
        (RopeScaling::Linear { factor }, Some(divisors)) => {
            RopeScaling::Divisors { divisors: divisors.into_iter().map(|d| (f64::from(d) * factor) as f32).collect() }
        }
        (_, Some(_)) => {
            let what = format!("{} \"yarn\" together with {}", spelling.scaling_type, Name::RopeFreqs.gguf());
            return Err(Error::unsupported(what, "convert the model again"));
        }
    };
    Ok(Rope {
        theta: metadata.f32(spelling.keys.theta)?.unwrap_or(10_000.0).into(),
        dims: metadata.usize(spelling.keys.rope_dims)?.unwrap_or(head_dim),
        layout: spelling.traits.layout,
        unturned: Vec::new(),
        scaling,
    })
}

/// `rope_freqs.weight`, which Llama 3.1's converter writes in place of the three bands' numbers.
fn divisors(shards: &Shards) -> Result<Option<Vec<f32>>> {
    let Some(tensor) = shards.find(&Name::RopeFreqs.gguf()) else { return Ok(None) };
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
            Err(Error::unsupported(what, "none, linear and yarn are read"))
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
