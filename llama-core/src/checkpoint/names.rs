//! The tensors of a Llama, and how GGUF and Hugging Face spell them.

use std::ops::Range;

use crate::config::{self, Config, RopeScaling};

/// A tensor's role in the graph; the number is its layer. Shapes are `[rows, columns]`; a vector has one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// `[vocab, hidden]`: a row for each token.
    Embed,
    /// `[1, hidden]`: gain before attention.
    AttnNorm(usize),
    /// `[heads * head_dim, hidden]`.
    Q(usize),
    /// `[1, heads * head_dim]`.
    QBias(usize),
    /// `[kv_heads * head_dim, hidden]`.
    K(usize),
    /// `[1, kv_heads * head_dim]`.
    KBias(usize),
    /// `[kv_heads * head_dim, hidden]`.
    V(usize),
    /// `[1, kv_heads * head_dim]`.
    VBias(usize),
    /// `[1, head_dim]`: gain of every head of queries, where a model norms them.
    QNorm(usize),
    /// `[1, head_dim]`: gain of every head of keys.
    KNorm(usize),
    /// `[hidden, heads * head_dim]`: attention's output projection.
    O(usize),
    /// `[1, hidden]`.
    OBias(usize),
    /// `[1, hidden]`: gain before the feed-forward network.
    FfnNorm(usize),
    /// `[ffn, hidden]`.
    Gate(usize),
    /// `[1, ffn]`.
    GateBias(usize),
    /// `[ffn, hidden]`.
    Up(usize),
    /// `[1, ffn]`.
    UpBias(usize),
    /// `[hidden, ffn]`.
    Down(usize),
    /// `[1, hidden]`.
    DownBias(usize),
    /// `[1, hidden]`: gain before the head.
    Norm,
    /// `[vocab, hidden]`: logits; absent where the embedding is used again.
    Head,
    /// `[1, dims / 2]`: divisors of the rotary frequencies. GGUF only.
    RopeFreqs,
    /// `[1, dims / 2]`: divisors for the context that a LongRoPE began with. GGUF only, as is the next.
    RopeShort,
    /// `[1, dims / 2]`: divisors for longer contexts.
    RopeLong,
    /// `[labels, hidden]`: scores of a classifier's labels.
    Score,
}

use Name::*;

impl Name {
    /// Every tensor that a model of `config`'s shape has or may have (biases, divisors).
    pub fn all(config: &Config) -> impl Iterator<Item = Name> + use<> {
        let layer = |l| {
            [
                AttnNorm(l),
                Q(l),
                QBias(l),
                K(l),
                KBias(l),
                V(l),
                VBias(l),
                O(l),
                OBias(l),
                FfnNorm(l),
                Gate(l),
                GateBias(l),
                Up(l),
                UpBias(l),
                Down(l),
                DownBias(l),
            ]
        };
        let head = (config.head == config::Head::Own).then_some(Head);
        let score = (!config.labels.is_empty()).then_some(Score);
        let is_long = matches!(config.rope.scaling, RopeScaling::Long { .. });
        let divisors = if is_long { &[RopeShort, RopeLong][..] } else { &[RopeFreqs] };
        let ends = [Embed, Norm].into_iter().chain(divisors.iter().copied()).chain(head).chain(score);
        let normed = config.head_norms;
        let head_norms = move |l| normed.then_some([QNorm(l), KNorm(l)]).into_iter().flatten();
        ends.chain((0..config.layers).flat_map(move |l| layer(l).into_iter().chain(head_norms(l))))
    }

    /// `[rows, columns]`.
    pub fn shape(self, config: &Config) -> (usize, usize) {
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        match self {
            Embed | Head => (config.vocab, config.hidden),
            AttnNorm(_) | FfnNorm(_) | Norm | OBias(_) | DownBias(_) => (1, config.hidden),
            Q(_) => (q, config.hidden),
            QBias(_) => (1, q),
            K(_) | V(_) => (kv, config.hidden),
            KBias(_) | VBias(_) => (1, kv),
            QNorm(_) | KNorm(_) => (1, config.head_dim),
            O(_) => (config.hidden, q),
            Gate(_) | Up(_) => (config.ffn, config.hidden),
            GateBias(_) | UpBias(_) => (1, config.ffn),
            Down(_) => (config.hidden, config.ffn),
            RopeFreqs | RopeShort | RopeLong => (1, config.rope.dims / 2),
            Score => (config.labels.len(), config.hidden),
        }
    }

    /// Whether this is a bias of a linear layer.
    pub fn is_bias(self) -> bool {
        matches!(self, QBias(_) | KBias(_) | VBias(_) | OBias(_) | GateBias(_) | UpBias(_) | DownBias(_))
    }

    /// Whether this is a vector, which is never quantised.
    pub fn is_vector(self) -> bool {
        let is_gain = matches!(self, AttnNorm(_) | QNorm(_) | KNorm(_) | FfnNorm(_) | Norm);
        self.is_bias() || is_gain || self.is_divisors()
    }

    /// Whether this is the divisors of rotary frequencies, which a folder has in its config.json.
    pub(crate) fn is_divisors(self) -> bool {
        matches!(self, RopeFreqs | RopeShort | RopeLong)
    }

    /// The matrices that files of some families have in one, whose rows follow each other in this order.
    pub(crate) fn fused(self) -> Option<Vec<Name>> {
        match self {
            Q(l) | K(l) | V(l) => Some(vec![Q(l), K(l), V(l)]),
            Gate(l) | Up(l) => Some(vec![Gate(l), Up(l)]),
            _ => None,
        }
    }

    /// Which of the rows of [`Name::fused`] are this matrix's, and how many there are.
    pub(crate) fn rows_of_fused(self, config: &Config) -> Option<(Range<usize>, usize)> {
        let (mut all, mut own) = (0, 0..0);
        for name in self.fused()? {
            let rows = name.shape(config).0;
            if name == self {
                own = all..all + rows;
            }
            all += rows;
        }
        Some((own, all))
    }

    /// Whether a rotary embedding turns what this gives, so that the order of its rows is one of a kind of file.
    pub(crate) fn is_rotated(self) -> bool {
        matches!(self, Q(_) | K(_) | QBias(_) | KBias(_))
    }

    /// Spelling in GGUF files, but for what some architectures have in one tensor (`phi3`) or spell in their own way (`seed_oss`).
    pub fn gguf(self) -> String {
        match self {
            Embed => "token_embd.weight".into(),
            Norm => "output_norm.weight".into(),
            Head => "output.weight".into(),
            RopeFreqs => "rope_freqs.weight".into(),
            RopeShort => "rope_factors_short.weight".into(),
            RopeLong => "rope_factors_long.weight".into(),
            Score => "cls.output.weight".into(),
            AttnNorm(l) => format!("blk.{l}.attn_norm.weight"),
            Q(l) => format!("blk.{l}.attn_q.weight"),
            QBias(l) => format!("blk.{l}.attn_q.bias"),
            K(l) => format!("blk.{l}.attn_k.weight"),
            KBias(l) => format!("blk.{l}.attn_k.bias"),
            V(l) => format!("blk.{l}.attn_v.weight"),
            VBias(l) => format!("blk.{l}.attn_v.bias"),
            QNorm(l) => format!("blk.{l}.attn_q_norm.weight"),
            KNorm(l) => format!("blk.{l}.attn_k_norm.weight"),
            O(l) => format!("blk.{l}.attn_output.weight"),
            OBias(l) => format!("blk.{l}.attn_output.bias"),
            FfnNorm(l) => format!("blk.{l}.ffn_norm.weight"),
            Gate(l) => format!("blk.{l}.ffn_gate.weight"),
            GateBias(l) => format!("blk.{l}.ffn_gate.bias"),
            Up(l) => format!("blk.{l}.ffn_up.weight"),
            UpBias(l) => format!("blk.{l}.ffn_up.bias"),
            Down(l) => format!("blk.{l}.ffn_down.weight"),
            DownBias(l) => format!("blk.{l}.ffn_down.bias"),
        }
    }

    /// Spelling in Hugging Face checkpoints of `LlamaForCausalLM`, `MistralForCausalLM` and their likes, which have no
    /// divisors. Those of `LlamaModel` and `MistralModel` lack the `model.` that most names begin with.
    pub fn hf(self) -> Option<String> {
        Some(match self {
            RopeFreqs | RopeShort | RopeLong => return None,
            Embed => "model.embed_tokens.weight".into(),
            Norm => "model.norm.weight".into(),
            Head => "lm_head.weight".into(),
            Score => "score.weight".into(),
            AttnNorm(l) => format!("model.layers.{l}.input_layernorm.weight"),
            Q(l) => format!("model.layers.{l}.self_attn.q_proj.weight"),
            QBias(l) => format!("model.layers.{l}.self_attn.q_proj.bias"),
            K(l) => format!("model.layers.{l}.self_attn.k_proj.weight"),
            KBias(l) => format!("model.layers.{l}.self_attn.k_proj.bias"),
            V(l) => format!("model.layers.{l}.self_attn.v_proj.weight"),
            VBias(l) => format!("model.layers.{l}.self_attn.v_proj.bias"),
            QNorm(l) => format!("model.layers.{l}.self_attn.q_norm.weight"),
            KNorm(l) => format!("model.layers.{l}.self_attn.k_norm.weight"),
            O(l) => format!("model.layers.{l}.self_attn.o_proj.weight"),
            OBias(l) => format!("model.layers.{l}.self_attn.o_proj.bias"),
            FfnNorm(l) => format!("model.layers.{l}.post_attention_layernorm.weight"),
            Gate(l) => format!("model.layers.{l}.mlp.gate_proj.weight"),
            GateBias(l) => format!("model.layers.{l}.mlp.gate_proj.bias"),
            Up(l) => format!("model.layers.{l}.mlp.up_proj.weight"),
            UpBias(l) => format!("model.layers.{l}.mlp.up_proj.bias"),
            Down(l) => format!("model.layers.{l}.mlp.down_proj.weight"),
            DownBias(l) => format!("model.layers.{l}.mlp.down_proj.bias"),
        })
    }

    /// Spelling in GGUF files of the matrix that [`Name::fused`] are one in.
    pub(crate) fn fused_gguf(self) -> Option<String> {
        match self {
            Q(l) | K(l) | V(l) => Some(format!("blk.{l}.attn_qkv.weight")),
            Gate(l) | Up(l) => Some(format!("blk.{l}.ffn_up.weight")),
            _ => None,
        }
    }

    /// Spelling in Hugging Face checkpoints of the matrix that [`Name::fused`] are one in.
    pub(crate) fn fused_hf(self) -> Option<String> {
        match self {
            Q(l) | K(l) | V(l) => Some(format!("model.layers.{l}.self_attn.qkv_proj.weight")),
            Gate(l) | Up(l) => Some(format!("model.layers.{l}.mlp.gate_up_proj.weight")),
            _ => None,
        }
    }
}
