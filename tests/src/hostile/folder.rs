//! A Hugging Face folder in memory, and a safetensors writer that takes any header.

use std::path::Path;

/// Files of a folder, and links in it.
#[derive(Debug, Clone, Default)]
pub struct Folder {
    /// Names and contents.
    pub files: Vec<(String, Vec<u8>)>,
    /// Names and what they point to.
    pub links: Vec<(String, String)>,
    /// Names of folders in it.
    pub folders: Vec<String>,
}

impl Folder {
    /// Adds a file, or replaces it.
    pub fn set(&mut self, name: &str, contents: impl Into<Vec<u8>>) -> &mut Folder {
        self.unset(name);
        self.files.push((name.into(), contents.into()));
        self
    }

    /// Removes a file.
    pub fn unset(&mut self, name: &str) -> &mut Folder {
        self.files.retain(|(n, _)| n != name);
        self
    }

    /// Replaces a piece of a text file.
    ///
    /// # Panics
    /// If the file or the piece is not there.
    pub fn replace(&mut self, name: &str, piece: &str, by: &str) -> &mut Folder {
        let file = self.files.iter_mut().find(|(n, _)| n == name).expect("a file of the folder");
        let text = String::from_utf8(file.1.clone()).expect("a text file");
        assert!(text.contains(piece), "{piece} is not in {name}");
        file.1 = text.replace(piece, by).into_bytes();
        self
    }

    /// Writes everything into `path`.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        for name in &self.folders {
            std::fs::create_dir_all(path.join(name))?;
        }
        for (name, contents) in &self.files {
            std::fs::write(path.join(name), contents)?;
        }
        for (name, target) in &self.links {
            #[cfg(unix)]
            std::os::unix::fs::symlink(target, path.join(name))?;
        }
        Ok(())
    }
}

/// A file of `header` and `buffer`.
pub fn safetensors(header: &str, buffer: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), buffer].concat()
}

/// A file of F32 tensors: names and shapes.
pub fn shard(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let mut at = 0;
    let entries = tensors.iter().map(|(name, shape)| {
        let start = at;
        at += 4 * shape.iter().product::<usize>();
        format!("{name:?}:{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[{start},{at}]}}")
    });
    let header = format!("{{{}}}", entries.collect::<Vec<String>>().join(","));
    safetensors(&header, &vec![0; at])
}

/// Tensors of [`model`].
pub const TENSORS: [(&str, &[usize]); 12] = [
    ("model.embed_tokens.weight", &[8, 8]),
    ("model.layers.0.input_layernorm.weight", &[8]),
    ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
    ("model.layers.0.self_attn.k_proj.weight", &[4, 8]),
    ("model.layers.0.self_attn.v_proj.weight", &[4, 8]),
    ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
    ("model.layers.0.post_attention_layernorm.weight", &[8]),
    ("model.layers.0.mlp.gate_proj.weight", &[16, 8]),
    ("model.layers.0.mlp.up_proj.weight", &[16, 8]),
    ("model.layers.0.mlp.down_proj.weight", &[8, 16]),
    ("model.norm.weight", &[8]),
    ("lm_head.weight", &[8, 8]),
];

/// config.json of [`model`], in the spelling of transformers 5.
pub const CONFIG: &str = r#"{
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "dtype": "float32",
  "vocab_size": 8,
  "hidden_size": 8,
  "intermediate_size": 16,
  "num_hidden_layers": 1,
  "num_attention_heads": 2,
  "num_key_value_heads": 1,
  "head_dim": 4,
  "hidden_act": "silu",
  "max_position_embeddings": 64,
  "rms_norm_eps": 1e-05,
  "rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
  "tie_word_embeddings": false,
  "bos_token_id": 1,
  "eos_token_id": [2, 3]
}
"#;

/// config.json of the same as a Granite, with its four multipliers.
pub fn granite() -> String {
    let named =
        CONFIG.replace("LlamaFor", "GraniteFor").replace("\"model_type\": \"llama\"", "\"model_type\": \"granite\"");
    let multipliers = r#""embedding_multiplier": 12.0, "residual_multiplier": 0.25,
  "attention_multiplier": 0.125, "logits_scaling": 8.0, "bos_token_id""#;
    named.replace("\"bos_token_id\"", multipliers)
}

/// config.json of [`model`] with a LongRoPE.
pub fn long() -> String {
    let (front, rest) = CONFIG.split_once("{\"rope_type\"").expect("a rotary embedding");
    let (_, back) = rest.split_once('}').expect("its end");
    let long = r#"{"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.5], "long_factor": [1, 4.0],
    "original_max_position_embeddings": 16}"#;
    format!("{front}{long}{back}")
}

/// A Llama of one layer that opens, in one file.
pub fn model() -> Folder {
    let mut folder = Folder::default();
    folder
        .set("config.json", CONFIG)
        .set("generation_config.json", r#"{"eos_token_id": 4, "bos_token_id": 1}"#)
        .set("tokenizer_config.json", r#"{"chat_template": "{{ messages[0].content }}"}"#)
        .set("model.safetensors", shard(&TENSORS));
    folder
}

/// The same in two shards with an index.
pub fn sharded() -> Folder {
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let (first, second) = TENSORS.split_at(5);
    let entries = |tensors: &[(&str, &[usize])], file: &str| {
        tensors.iter().map(|(name, _)| format!("{name:?}: {file:?}")).collect::<Vec<String>>().join(",\n")
    };
    let map = [entries(first, names[0]), entries(second, names[1])].join(",\n");
    let mut folder = model();
    folder
        .unset("model.safetensors")
        .set(
            "model.safetensors.index.json",
            format!("{{\"metadata\": {{\"total_size\": 1}}, \"weight_map\": {{{map}}}}}"),
        )
        .set(names[0], shard(first))
        .set(names[1], shard(second));
    folder
}
