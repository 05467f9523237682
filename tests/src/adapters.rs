//! LoRA adapters in memory, as PEFT and as llama.cpp's converter write them, and what they come to.

use llama_core::checkpoint::Name;
use llama_core::config::Config;

use crate::hostile::folder::{Folder, safetensors};
use crate::hostile::gguf::{Gguf, Tensor, Value};
use crate::hostile::mutate::Random;

/// The change of one matrix.
#[derive(Debug, Clone)]
pub struct Change {
    /// The matrix.
    pub name: Name,
    /// Rank.
    pub rank: usize,
    /// `[rank, cols]`.
    pub a: Vec<f32>,
    /// `[rows, rank]`, rows in Hugging Face's order.
    pub b: Vec<f32>,
}

impl Change {
    /// Random numbers for `name` of a model of `config`'s shape.
    pub fn random(name: Name, rank: usize, config: &Config, seed: u64) -> Change {
        let (rows, cols) = name.shape(config);
        let mut random = Random::new(seed);
        let mut numbers = |count| (0..count).map(|_| random.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0).collect();
        Change { name, rank, a: numbers(rank * cols), b: numbers(rows * rank) }
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.a.len() / self.rank
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.b.len() / self.rank
    }

    /// `factor * (B A)`, `[rows, cols]`, rows in Hugging Face's order: f32, terms in the order of the rank.
    pub fn delta(&self, factor: f32) -> Vec<f32> {
        let mut out = Vec::new();
        for row in 0..self.rows() {
            for column in 0..self.cols() {
                let term = |sum: f32, k: usize| sum + self.b[row * self.rank + k] * self.a[k * self.cols() + column];
                out.push(factor * (0..self.rank).fold(0.0, term));
            }
        }
        out
    }
}

/// Rows of `x`, `[rows, cols]`, of queries or keys from Hugging Face's order into GGUF's: `reshape(heads, 2, d / 2)`, the last two
/// swapped. Rows of other matrices stay.
pub fn interleaved(name: Name, head_dim: usize, cols: usize, x: &[f32]) -> Vec<f32> {
    if !matches!(name, Name::Q(_) | Name::K(_)) {
        return x.to_vec();
    }
    let mut out = Vec::new();
    for head in x.chunks(head_dim * cols) {
        let (first, second) = head.split_at(head.len() / 2);
        for (a, b) in first.chunks(cols).zip(second.chunks(cols)) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
    }
    out
}

/// PEFT's name of a half of `name`'s change; `half` is `lora_A.weight` or `lora_B.weight`.
///
/// # Panics
/// If Hugging Face has no such tensor.
pub fn peft_name(name: Name, half: &str) -> String {
    let module = name.hf().expect("a matrix of Hugging Face's");
    format!("base_model.model.{}.{half}", module.strip_suffix(".weight").expect("a weight"))
}

/// A safetensors file of F32 tensors: names, shapes, numbers.
pub fn floats(tensors: &[(String, [usize; 2], &[f32])]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, shape, numbers) in tensors {
        let start = data.len();
        data.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        let offsets = [start, data.len()];
        entries.push(format!("{name:?}:{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":{offsets:?}}}"));
    }
    safetensors(&format!("{{{}}}", entries.join(",")), &data)
}

/// adapter_model.safetensors.
pub fn peft_weights(changes: &[Change]) -> Vec<u8> {
    let halves = changes.iter().flat_map(|change| {
        let (rows, cols, rank) = (change.rows(), change.cols(), change.rank);
        [
            (peft_name(change.name, "lora_A.weight"), [rank, cols], change.a.as_slice()),
            (peft_name(change.name, "lora_B.weight"), [rows, rank], change.b.as_slice()),
        ]
    });
    floats(&halves.collect::<Vec<_>>())
}

/// adapter_config.json as PEFT 0.19 writes it, for a rank of 2 and an alpha of 3.
pub const CONFIG: &str = r#"{
  "alora_invocation_tokens": null,
  "alpha_pattern": {},
  "arrow_config": null,
  "auto_mapping": {"base_model_class": "LlamaForCausalLM"},
  "base_model_name_or_path": "some/llama",
  "bias": "none",
  "corda_config": null,
  "ensure_weight_tying": false,
  "eva_config": null,
  "exclude_modules": null,
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "layer_replication": null,
  "layers_pattern": null,
  "layers_to_transform": null,
  "loftq_config": {},
  "lora_alpha": 3,
  "lora_bias": false,
  "lora_dropout": 0.05,
  "lora_ga_config": null,
  "megatron_config": null,
  "megatron_core": "megatron.core",
  "modules_to_save": null,
  "peft_type": "LORA",
  "peft_version": "0.19.1",
  "qalora_group_size": 16,
  "r": 2,
  "rank_pattern": {},
  "revision": null,
  "target_modules": ["v_proj", "q_proj"],
  "target_parameters": null,
  "task_type": "CAUSAL_LM",
  "trainable_token_indices": null,
  "use_bdlora": null,
  "use_dora": false,
  "use_qalora": false,
  "use_rslora": false
}
"#;

/// The folder that PEFT saves.
pub fn peft(changes: &[Change]) -> Folder {
    let mut folder = Folder::default();
    folder.set("adapter_config.json", CONFIG).set("adapter_model.safetensors", peft_weights(changes));
    folder
}

/// The file that llama.cpp's converter makes of it, for heads of `head_dim` columns.
pub fn gguf(changes: &[Change], head_dim: usize, alpha: f32) -> Gguf {
    let mut file = Gguf::empty();
    file.set("general.architecture", Value::string("llama"))
        .set("general.type", Value::string("adapter"))
        .set("adapter.type", Value::string("lora"))
        .set("adapter.lora.alpha", Value::f32(alpha));
    for change in changes {
        let b = interleaved(change.name, head_dim, change.rank, &change.b);
        for (half, dims, numbers) in
            [("lora_a", [change.cols(), change.rank], &change.a), ("lora_b", [change.rank, change.rows()], &b)]
        {
            let mut tensor = Tensor::f32(&format!("{}.{half}", change.name.gguf()), &dims.map(|dim| dim as u64), 0.0);
            tensor.data = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            file.tensors.push(tensor);
        }
    }
    file
}
