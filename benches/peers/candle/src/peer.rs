//! Candle's two Llama graphs behind one `forward`.
//!
//! `quantized_llama` is what a user of candle runs on a GGUF. It widens BF16 and F16 weights to f32 when it loads them,
//! so that decoding a BF16 file reads twice the file's bytes. Candle's plain `llama` keeps 16-bit weights in memory; its
//! CPU matmul has no BF16 kernel and widens both operands to f32 in every product, while for F16 it has a kernel. The
//! other [`Kind`]s run that graph on the file's own weights, to find candle's best foot on a 16-bit model.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{DType, Device, Error, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama};
use candle_transformers::models::quantized_llama::ModelWeights;

/// Positions the rotary tables are made for; `quantized_llama` has the same limit built in.
const MAX_POSITIONS: usize = 4096;

/// Which graph, and in which type it holds its weights.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Kind {
    /// `quantized_llama`: quantised blocks stay as they are, 16-bit floats become f32.
    Gguf,
    /// Plain `llama`, every weight and activation in F16.
    F16,
    /// Plain `llama`, every weight and activation in BF16.
    Bf16,
    /// Plain `llama`, everything in F32.
    F32,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Gguf => "gguf",
            Kind::F16 => "f16",
            Kind::Bf16 => "bf16",
            Kind::F32 => "f32",
        }
    }
}

/// A loaded model and its KV cache.
pub struct Peer {
    graph: Graph,
    vocab: usize,
}

enum Graph {
    Quantised(Box<ModelWeights>),
    Plain { model: Box<Llama>, cache: Cache, config: Config, dtype: DType },
}

impl Peer {
    pub fn load(path: &Path, kind: Kind) -> Result<Peer> {
        let mut file = BufReader::new(File::open(path)?);
        let content = Content::read(&mut file)?;
        let vocab = rows(&content, "token_embd.weight")?;
        let graph = match kind {
            Kind::Gguf => Graph::Quantised(Box::new(ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?)),
            Kind::F16 => plain(&content, &mut file, DType::F16)?,
            Kind::Bf16 => plain(&content, &mut file, DType::BF16)?,
            Kind::F32 => plain(&content, &mut file, DType::F32)?,
        };
        Ok(Peer { graph, vocab })
    }

    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Empties the KV cache.
    pub fn restart(&mut self) -> Result<()> {
        match &mut self.graph {
            Graph::Quantised(model) => model.clear_kv_cache(),
            Graph::Plain { cache, config, dtype, .. } => *cache = Cache::new(true, *dtype, config, &Device::Cpu)?,
        }
        Ok(())
    }

    /// Logits of the last of `tokens` `[sequences, n]`, whose first stands at `position`.
    pub fn forward(&mut self, tokens: &Tensor, position: usize) -> Result<Tensor> {
        match &mut self.graph {
            Graph::Quantised(model) => model.forward(tokens, position),
            Graph::Plain { model, cache, .. } => model.forward(tokens, position, cache),
        }
    }
}

fn plain(content: &Content, file: &mut BufReader<File>, dtype: DType) -> Result<Graph> {
    let config = config(content)?;
    let mut tensors = HashMap::new();
    for name in content.tensor_infos.keys() {
        if let Some(theirs) = hugging_face_name(name) {
            let weight = content.tensor(file, name, &Device::Cpu)?.dequantize(&Device::Cpu)?;
            tensors.insert(theirs, weight.to_dtype(dtype)?);
        }
    }
    let model = Llama::load(VarBuilder::from_tensors(tensors, dtype, &Device::Cpu), &config)?;
    let cache = Cache::new(true, dtype, &config, &Device::Cpu)?;
    Ok(Graph::Plain { model: Box::new(model), cache, config, dtype })
}

/// The plain graph's sizes. It rotates halves where the GGUF's rows are interleaved, and knows no `rope_freqs`: its
/// logits are not the model's, its speed is.
fn config(content: &Content) -> Result<Config> {
    let int = |key: &str| metadata(content, key)?.to_u32().map(|n| n as usize);
    Ok(Config {
        hidden_size: int("llama.embedding_length")?,
        intermediate_size: int("llama.feed_forward_length")?,
        vocab_size: rows(content, "token_embd.weight")?,
        num_hidden_layers: int("llama.block_count")?,
        num_attention_heads: int("llama.attention.head_count")?,
        num_key_value_heads: int("llama.attention.head_count_kv")?,
        use_flash_attn: false,
        rms_norm_eps: metadata(content, "llama.attention.layer_norm_rms_epsilon")?.to_f32()?.into(),
        rope_theta: metadata(content, "llama.rope.freq_base")?.to_f32()?,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: MAX_POSITIONS,
        tie_word_embeddings: !content.tensor_infos.contains_key("output.weight"),
    })
}

fn metadata<'a>(content: &'a Content, key: &str) -> Result<&'a Value> {
    content.metadata.get(key).ok_or_else(|| Error::msg(format!("no {key} in the GGUF")))
}

fn rows(content: &Content, tensor: &str) -> Result<usize> {
    let info = content.tensor_infos.get(tensor).ok_or_else(|| Error::msg(format!("no {tensor} in the GGUF")))?;
    info.shape.dim(0)
}

/// `blk.3.ffn_up.weight` as `model.layers.3.mlp.up_proj.weight`; `None` for tensors the plain graph has no use for.
fn hugging_face_name(name: &str) -> Option<String> {
    let whole = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(whole) = whole {
        return Some(whole.to_owned());
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let part = match part.strip_suffix(".weight")? {
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{part}.weight"))
}
