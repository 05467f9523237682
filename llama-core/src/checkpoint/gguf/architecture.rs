//! The architectures whose graph is Llama's: how each spells its keys, and what it has that no key tells.

use crate::checkpoint::Name;
use crate::config::{Keys, RopeLayout};

/// How an architecture spells what is read.
pub(super) struct Spelling {
    pub(super) name: &'static str,
    pub(super) keys: Keys,
    pub(super) value_length: &'static str,
    pub(super) causal: &'static str,
    pub(super) pooling: &'static str,
    pub(super) experts: &'static str,
    pub(super) scaling_type: &'static str,
    pub(super) scaling_factor: &'static str,
    pub(super) scale_linear: &'static str,
    pub(super) original: &'static str,
    pub(super) attn_factor: &'static str,
    pub(super) log_multiplier: &'static str,
    pub(super) beta_fast: &'static str,
    pub(super) beta_slow: &'static str,
    pub(super) traits: Traits,
}

/// What the models of an architecture have that no key tells, as llama.cpp's src/llama-model.cpp has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traits {
    /// Whether attention's temperature may grow with the position.
    pub(super) has_temperature: bool,
    /// Whether heads of queries and keys are normed.
    pub(super) head_norms: bool,
    /// Whether queries, keys and values have biases, and must.
    pub(super) biased: bool,
    /// Which columns of a head turn together.
    pub(crate) layout: RopeLayout,
    /// Every how many layers there is one that does not turn.
    unturned: Option<usize>,
    /// Whether numbers are multiplied on their way.
    pub(super) multiplied: bool,
    /// Whether matrices that one input goes into are one tensor ([`Name::fused`]).
    pub(crate) fused: bool,
    /// Whether divisors of a LongRoPE are meant wherever there are some.
    pub(crate) long: bool,
    /// What the gain before the feed-forward network is called.
    ffn_norm: &'static str,
}

const LLAMA: Traits = Traits {
    has_temperature: false,
    head_norms: false,
    biased: false,
    layout: RopeLayout::Interleaved,
    unturned: None,
    multiplied: false,
    fused: false,
    long: false,
    ffn_norm: "ffn_norm",
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
                embedding_multiplier: concat!($name, ".embedding_scale"),
                residual_multiplier: concat!($name, ".residual_scale"),
                attention_multiplier: concat!($name, ".attention.scale"),
                logits_scaling: concat!($name, ".logit_scale"),
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
const ARCHITECTURES: [Spelling; 8] = [
    spelling!("llama", LLAMA),
    // Ministral 3 and Devstral 2.
    spelling!("mistral3", Traits { has_temperature: true, ..LLAMA }),
    spelling!("qwen2", Traits { head_norms: false, biased: true, ..QWEN3 }),
    spelling!("qwen3", QWEN3),
    spelling!("smollm3", Traits { unturned: Some(4), ..LLAMA }),
    spelling!("phi3", Traits { fused: true, long: true, layout: RopeLayout::Halves, ..LLAMA }),
    spelling!("granite", Traits { multiplied: true, ..LLAMA }),
    spelling!("seed_oss", Traits { ffn_norm: "post_attention_norm", layout: RopeLayout::Halves, ..LLAMA }),
];
/// Their names, for errors.
pub(crate) const READ: &str =
    "\"llama\", \"mistral3\", \"qwen2\", \"qwen3\", \"smollm3\", \"phi3\", \"granite\" and \"seed_oss\"";

/// How an architecture spells what is read, if it is.
pub(super) fn spelling(architecture: &str) -> Option<Spelling> {
    ARCHITECTURES.into_iter().find(|spelling| spelling.name == architecture)
}

/// What a GGUF calls an architecture, if it is one that is read.
pub(crate) fn architecture(name: &str) -> Option<&'static str> {
    spelling(name).map(|spelling| spelling.name)
}

/// What no key tells of an architecture, if it is read.
pub(crate) fn traits(architecture: &str) -> Option<Traits> {
    spelling(architecture).map(|spelling| spelling.traits)
}

impl Traits {
    /// What the tensor is called that has `name`'s numbers.
    pub(crate) fn tensor(self, name: Name) -> String {
        match name {
            Name::FfnNorm(layer) => format!("blk.{layer}.{}.weight", self.ffn_norm),
            _ if self.fused => name.fused_gguf().unwrap_or_else(|| name.gguf()),
            _ => name.gguf(),
        }
    }

    /// The matrices that are in the same tensor as `name`, itself among them, in their order.
    pub(crate) fn together(self, name: Name) -> Vec<Name> {
        name.fused().filter(|_| self.fused).unwrap_or(vec![name])
    }

    /// The layers that do not turn, of `layers`.
    pub(crate) fn unturned(self, layers: usize) -> Vec<usize> {
        let every = |step| (0..layers).filter(move |layer| (layer + 1) % step == 0);
        self.unturned.map_or(Vec::new(), |step| every(step).collect())
    }
}
