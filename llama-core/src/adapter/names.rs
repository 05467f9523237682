//! Which tensor of an adapter is which half of which matrix's change, in both spellings; and what else there may be.
//!
//! ```text
//! base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight     blk.0.attn_q.weight.lora_a     A [r, in]
//! base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight     blk.0.attn_q.weight.lora_b     B [out, r]
//! ```
//! Where a base has several matrices in one tensor ([`Name::fused`]), so has its adapter: `qkv_proj` and `attn_qkv`, `gate_up_proj` and
//! `ffn_up`. A state that was saved without [`save_pretrained`](https://huggingface.co/docs/peft) has the adapter's own name in it,
//! `lora_A.default.weight`; adapters of a bare `LlamaModel` lack the second `model.`.

use super::MERGE;
use crate::checkpoint::Name;
use crate::checkpoint::gguf::Traits;
use crate::error::Error;

/// More layers than any base has: a number that is larger is no layer's.
const MOST_LAYERS: usize = 4096;
/// The matrices of a layer.
const LINEARS: [fn(usize) -> Name; 7] = [Name::Q, Name::K, Name::V, Name::O, Name::Gate, Name::Up, Name::Down];
const PEFT: &str = "base_model.model.";
const PEFT_HALVES: [(&str, Half); 4] = [
    (".lora_A.weight", Half::A),
    (".lora_B.weight", Half::B),
    (".lora_A.default.weight", Half::A),
    (".lora_B.default.weight", Half::B),
];
const GGUF_HALVES: [(&str, Half); 2] = [(".lora_a", Half::A), (".lora_b", Half::B)];

/// Which of the two factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    A,
    B,
}

/// What a tensor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The matrix, or those that are one tensor.
    pub(super) names: Vec<Name>,
    pub(super) half: Half,
    /// The matrix as PEFT's patterns see it, `model.layers.0.self_attn.q_proj`; as a GGUF spells it, in one.
    pub(super) module: String,
}

/// What PEFT calls `name`.
pub(super) fn peft(name: &str) -> Option<Part> {
    let (module, half) = half(name.strip_prefix(PEFT)?, &PEFT_HALVES)?;
    let all = |prefix: &str| {
        let spelling = format!("{prefix}{module}.weight");
        match known(&spelling, Name::hf) {
            Some(name) => Some(vec![name]),
            None => known(&spelling, Name::fused_hf)?.fused(),
        }
    };
    let names = all("").or_else(|| all("model.").filter(|_| module.starts_with("layers.")))?;
    Some(Part { names, half, module: module.to_owned() })
}

/// What llama.cpp's converter calls `name` in a file of an architecture with these traits.
pub(super) fn gguf(name: &str, traits: Traits) -> Option<Part> {
    let (module, half) = half(name, &GGUF_HALVES)?;
    let first = known(module, |name| Some(traits.tensor(name)))?;
    Some(Part { names: traits.together(first), half, module: module.to_owned() })
}

fn half<'a>(name: &'a str, halves: &[(&str, Half)]) -> Option<(&'a str, Half)> {
    halves.iter().find_map(|&(end, half)| Some((name.strip_suffix(end)?, half)))
}

/// The first matrix that `spell` spells so.
fn known(spelling: &str, spell: impl Fn(Name) -> Option<String>) -> Option<Name> {
    let layer = spelling.split('.').find_map(|part| part.parse().ok()).filter(|&layer| layer < MOST_LAYERS);
    let linears = layer.into_iter().flat_map(|layer| LINEARS.map(|linear| linear(layer)));
    linears.chain([Name::Head]).find(|&name| spell(name).is_some_and(|spelled| spelled == spelling))
}

const EMBEDDINGS: &str = "adapters of the layers' matrices and of the head are read, of the embedding they are not";
const WHOLE: &str = "if it is the base's own, save the adapter without it (save_embedding_layers=False); else merge it into its base \
                     model with peft's merge_and_unload, and open the result";
/// Pieces of names that tell what a stranger is and what to do about it, the first that fits.
const SIGNS: [(&str, &str, &str); 13] = [
    ("lora_embedding_", "of an adapter of the embedding", EMBEDDINGS),
    ("token_embd.weight.lora_", "of an adapter of the embedding", EMBEDDINGS),
    ("embed_tokens.lora_", "of an adapter of the embedding", EMBEDDINGS),
    ("lora_magnitude_vector", "DoRA's", MERGE),
    ("trainable_tokens", "of embeddings trained token by token", MERGE),
    ("modules_to_save", "of a module that was trained whole", MERGE),
    ("base_layer", "a whole matrix", WHOLE),
    ("embed_tokens", "a whole matrix", WHOLE),
    ("lm_head.weight", "a whole matrix", WHOLE),
    ("norm", "of a norm", MERGE),
    ("bias", "a bias", MERGE),
    ("expert", "of a mixture of experts", "the graph is Llama's"),
    ("score", "of a classifier's scores", MERGE),
];

/// The refusal of a tensor that is no [`Part`].
pub(super) fn refusal(name: &str) -> Error {
    let advice = "LoRA of a Llama's matrices was expected: attention's, the feed-forward network's, the head's";
    let sign = SIGNS.into_iter().find(|(sign, ..)| name.contains(sign));
    let (_, kind, advice) = sign.unwrap_or(("", "one that no adapter of a Llama has", advice));
    Error::unsupported(format!("tensor {name}, {kind},"), advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::gguf::traits;

    fn part(name: Name, half: Half, module: &str) -> Option<Part> {
        Some(Part { names: vec![name], half, module: module.into() })
    }

    fn gguf(name: &str) -> Option<Part> {
        super::gguf(name, traits("llama").unwrap())
    }

    #[test]
    fn both_spellings() {
        let (q, down) = ("model.layers.0.self_attn.q_proj", "model.layers.31.mlp.down_proj");
        assert_eq!(peft(&format!("base_model.model.{q}.lora_A.weight")), part(Name::Q(0), Half::A, q));
        assert_eq!(
            peft(&format!("base_model.model.{down}.lora_B.default.weight")),
            part(Name::Down(31), Half::B, down)
        );
        assert_eq!(peft("base_model.model.lm_head.lora_B.weight"), part(Name::Head, Half::B, "lm_head"));
        let bare = "layers.2.mlp.up_proj";
        assert_eq!(peft(&format!("base_model.model.{bare}.lora_A.weight")), part(Name::Up(2), Half::A, bare));
        for (linear, name) in LINEARS.into_iter().zip(["q", "k", "v", "output"]) {
            let module = format!("blk.7.attn_{name}.weight");
            assert_eq!(gguf(&format!("{module}.lora_b")), part(linear(7), Half::B, &module));
        }
        assert_eq!(gguf("output.weight.lora_a"), part(Name::Head, Half::A, "output.weight"));
    }

    #[test]
    fn several_matrices_in_one() {
        let (qkv, both) = (vec![Name::Q(3), Name::K(3), Name::V(3)], vec![Name::Gate(3), Name::Up(3)]);
        let names = |part: Option<Part>| part.unwrap().names;
        let layer = "base_model.model.model.layers.3";
        assert_eq!(names(peft(&format!("{layer}.self_attn.qkv_proj.lora_A.weight"))), qkv);
        assert_eq!(names(peft(&format!("{layer}.mlp.gate_up_proj.lora_B.weight"))), both);
        assert_eq!(names(peft("base_model.model.layers.3.self_attn.qkv_proj.lora_A.weight")), qkv);
        let of = |name: &str, architecture| super::gguf(name, traits(architecture).unwrap());
        assert_eq!(names(of("blk.3.attn_qkv.weight.lora_a", "phi3")), qkv);
        assert_eq!(names(of("blk.3.ffn_up.weight.lora_b", "phi3")), both);
        assert_eq!(names(of("blk.3.ffn_down.weight.lora_b", "phi3")), [Name::Down(3)]);
        assert_eq!(names(of("blk.3.ffn_up.weight.lora_b", "llama")), [Name::Up(3)]);
        for (name, architecture) in [("attn_qkv", "llama"), ("attn_q", "phi3"), ("ffn_gate", "phi3")] {
            assert_eq!(of(&format!("blk.3.{name}.weight.lora_a"), architecture), None, "{name} in {architecture}");
        }
    }

    #[test]
    fn strangers_are_nobodys() {
        for name in [
            "model.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.00.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.4096.self_attn.q_proj.lora_A.weight",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A",
            "base_model.model.model.layers.0.self_attn.q_proj.bias.lora_A.weight",
            "base_model.model.model.layers.0.input_layernorm.lora_A.weight",
            "base_model.model.model.lm_head.lora_A.weight",
            "base_model.model.model.embed_tokens.lora_A.weight",
            "base_model.model.self_attn.q_proj.lora_A.weight",
        ] {
            assert_eq!(peft(name), None, "{name}");
        }
        for name in
            ["blk.0.attn_norm.weight.lora_a", "blk.01.attn_q.weight.lora_a", "token_embd.weight.lora_a", "lora_a"]
        {
            assert_eq!(gguf(name), None, "{name}");
        }
    }
}
