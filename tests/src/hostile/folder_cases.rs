//! Bad safetensors files and bad folders.

use super::Case;
use super::folder::{Folder, TENSORS, model, safetensors, shard, sharded};

/// A header of one F32 tensor of two weights.
const GOOD: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

/// Bad containers, with the eight-byte buffer of `GOOD`.
pub fn containers() -> Vec<Case<Vec<u8>>> {
    let mut cases = vec![
        Case::new("no byte", vec![], &["file: is empty"]),
        Case::new("seven bytes", vec![2; 7], &["header length at byte 0"]),
        Case::new("header of 0 bytes", safetensors("", &[]), &["header at byte 8"]),
        Case::new("header of 100 MB + 1", 100_000_001u64.to_le_bytes().to_vec(), &["header length at byte 0"]),
        Case::new("header of 2^63 bytes", (1u64 << 63).to_le_bytes().to_vec(), &["header length at byte 0"]),
        Case::new("header of 2^64-1 bytes", u64::MAX.to_le_bytes().to_vec(), &["header length at byte 0"]),
        Case::new("header past the end", [&99u64.to_le_bytes()[..], b"{}"].concat(), &["header length at byte 0"]),
        Case::new("header not UTF-8", [&4u64.to_le_bytes()[..], b"{\"\xff}"].concat(), &["JSON at byte"]),
        Case::new("a tail of a ZIP", safetensors(GOOD, b"eightbytPK\x05\x06"), &["end of data at byte"]),
        Case::new("buffer one byte short", safetensors(GOOD, b"sevenby"), &["data_offsets of tensor a: "]),
        Case::new("no buffer", safetensors(GOOD, b""), &["data_offsets of tensor a: "]),
    ];
    for (name, header, says) in HEADERS {
        cases.push(Case::new(*name, safetensors(header, &[0; 8]), &[says]));
    }
    cases.push(Case::new("nested 10,000 deep", safetensors(&("{\"a\":".repeat(10_000)), &[]), &["JSON at byte"]));
    let many = (0..5000).map(|i| format!("\"k{i}\":\"\"")).collect::<Vec<String>>().join(",");
    cases.push(Case::new(
        "5,000 notes",
        safetensors(&format!("{{\"__metadata__\":{{{many}}}}}"), &[]),
        &["JSON at byte"],
    ));
    cases
}

type Header = (&'static str, &'static str, &'static str);
const HEADERS: &[Header] = &[
    ("white space first", r#" {"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, "header"),
    ("a list", r#"["a"]"#, "header"),
    ("not JSON", r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]"#, "JSON"),
    ("words after the object", r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} x"#, "JSON"),
    ("no tensor for the buffer", r#"{}"#, "end of data"),
    ("a hole before", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, "tensor a"),
    (
        "a hole between",
        r#"{"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"I8","shape":[4],"data_offsets":[4,8]}}"#,
        "tensor b",
    ),
    (
        "an overlap",
        r#"{"a":{"dtype":"I8","shape":[6],"data_offsets":[0,6]},"b":{"dtype":"I8","shape":[4],"data_offsets":[4,8]}}"#,
        "tensor b",
    ),
    (
        "two at one place",
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        "tensor b",
    ),
    ("end before begin", r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, "tensor a"),
    ("past the buffer", r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#, "tensor a"),
    ("at 2^64-1", r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]}}"#, "tensor a"),
    ("shape too large for its data", r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, "tensor a"),
    ("type too small for its data", r#"{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,8]}}"#, "tensor a"),
    (
        "shape that overflows",
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#,
        "tensor a",
    ),
    (
        "zero hides an overflow",
        r#"{"a":{"dtype":"F32","shape":[0,9223372036854775807,9223372036854775807,9],"data_offsets":[0,0]}}"#,
        "tensor a",
    ),
    ("unknown type", r#"{"a":{"dtype":"Q4","shape":[2],"data_offsets":[0,8]}}"#, "dtype of tensor a"),
    ("three quarters of a byte", r#"{"a":{"dtype":"F6_E2M3","shape":[1],"data_offsets":[0,8]}}"#, "tensor a"),
    (
        "tensor twice",
        r#"{"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"I8","shape":[4],"data_offsets":[4,8]}}"#,
        "tensor a",
    ),
    ("key twice", r#"{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, "JSON"),
    ("unknown key", r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}}"#, "JSON"),
    ("no type", r#"{"a":{"shape":[2],"data_offsets":[0,8]}}"#, "JSON"),
    ("no shape", r#"{"a":{"dtype":"F32","data_offsets":[0,8]}}"#, "JSON"),
    ("no offsets", r#"{"a":{"dtype":"F32","shape":[2]}}"#, "JSON"),
    ("negative offset", r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[-1,8]}}"#, "JSON"),
    ("fractional dimension", r#"{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}"#, "JSON"),
    ("2^64 dimension", r#"{"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8]}}"#, "JSON"),
    ("three offsets", r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}}"#, "JSON"),
    ("one offset", r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}}"#, "JSON"),
    ("nine dimensions", r#"{"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}}"#, "JSON"),
    ("tensor is null", r#"{"a":null}"#, "JSON"),
    (
        "a note that is a number",
        r#"{"__metadata__":{"x":1},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        "JSON",
    ),
    (
        "a note twice",
        r#"{"__metadata__":{"x":"","x":""},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        "JSON",
    ),
    (
        "notes twice",
        r#"{"__metadata__":{},"__metadata__":{},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        "JSON",
    ),
];

/// Bad folders.
pub fn folders() -> Vec<Case<Folder>> {
    [files(), foreign(), index(), config(), weights(), strangers()].concat()
}

/// The model, to be pooled by sentence-transformers as `settings` say.
fn pooled(name: &str, settings: &str, says: &str) -> Case<Folder> {
    changed(name, &[says], |f| {
        f.folders.push("1_Pooling".into());
        f.set("1_Pooling/config.json", settings);
    })
}

fn changed(name: &str, says: &[&str], change: impl FnOnce(&mut Folder)) -> Case<Folder> {
    let mut folder = model();
    change(&mut folder);
    Case::new(name, folder, says)
}

fn files() -> Vec<Case<Folder>> {
    vec![
        Case::new("nothing", Folder::default(), &["config.json"]),
        changed("no config.json", &["config.json"], |f| {
            f.unset("config.json");
        }),
        changed("no weights", &["model.safetensors"], |f| {
            f.unset("model.safetensors");
        }),
        changed("empty weights", &["model.safetensors", "empty"], |f| {
            f.set("model.safetensors", "");
        }),
        changed("weights that are a folder", &["model.safetensors", "folder"], |f| {
            f.unset("model.safetensors").folders.push("model.safetensors".into());
        }),
        changed("weights that link out of the folder", &["model.safetensors", "link"], |f| {
            f.unset("model.safetensors").links.push(("model.safetensors".into(), "/etc/hostname".into()));
        }),
        changed("config.json that links out of the folder", &["config.json", "link"], |f| {
            f.unset("config.json").links.push(("config.json".into(), "/etc/hostname".into()));
        }),
        changed("config.json not JSON", &["config.json: JSON at byte 2"], |f| {
            f.set("config.json", "{ x");
        }),
        changed("a pointer of Git LFS as config.json", &["config.json: a pointer of Git LFS", "git lfs pull"], |f| {
            f.set("config.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
        }),
        changed("config.json not UTF-8", &["config.json: text at byte 1"], |f| {
            f.set("config.json", b"{\xff}");
        }),
        changed("config.json is a list", &["config.json", "not an object"], |f| {
            f.set("config.json", "[]");
        }),
        changed("a key of config.json twice", &["config.json: JSON at byte", "vocab_size"], |f| {
            f.replace("config.json", "\"vocab_size\": 8,", "\"vocab_size\": 8, \"vocab_size\": 9,");
        }),
        changed("config.json of 9,000 numbers", &["config.json: JSON at byte", "too many values"], |f| {
            f.set("config.json", format!("{{\"a\": [{}0]}}", "0,".repeat(9000)));
        }),
        changed("generation_config.json not JSON", &["generation_config.json: JSON at byte"], |f| {
            f.set("generation_config.json", "{");
        }),
        pooled("a pooling that is not JSON", "{", "config.json: JSON at byte"),
        pooled("a pooling by the largest", "{\"pooling_mode_max_tokens\": true}", "pooling_mode_max_tokens"),
        pooled("two poolings", "{\"pooling_mode_lasttoken\": true, \"pooling_mode_mean_tokens\": true}", "pooling by"),
        pooled("a pooling of 1", "{\"pooling_mode_lasttoken\": 1}", "pooling_mode_lasttoken: is 1"),
        changed("a chat template that is a number", &["chat_template"], |f| {
            f.set("tokenizer_config.json", "{\"chat_template\": 1}");
        }),
        changed("a chat template without its text", &["chat_template"], |f| {
            f.set("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"default\"}]}");
        }),
    ]
}

/// Folders and files that are something else: the words are of what to do.
fn foreign() -> Vec<Case<Folder>> {
    let without_config = |name: &str, file: &str, says: &[&str]| {
        changed(name, &[&["config.json"], says].concat(), |f| {
            f.unset("config.json").set(file, "{}");
        })
    };
    let only = |file: &str, says: &str| {
        changed(&format!("only {file}"), &["model.safetensors", says], |f| {
            f.unset("model.safetensors").set(file, "x");
        })
    };
    let instead = |name: &str, weights: &[u8], says: &[&str]| {
        changed(name, &[&["model.safetensors"], says].concat(), |f| {
            f.set("model.safetensors", weights);
        })
    };
    let cache = Folder { folders: ["snapshots", "blobs", "refs"].map(String::from).to_vec(), ..Folder::default() };
    vec![
        without_config("an adapter", "adapter_config.json", &["LoRA", "merge"]),
        without_config("Meta's own format", "params.json", &["own format"]),
        without_config("a folder of GGUF files", "b.gguf", &["open b.gguf itself"]),
        Case::new("the hub's cache", cache, &["snapshots"]),
        only("adapter_model.safetensors", "merge it"),
        only("consolidated.safetensors", "own format"),
        only("consolidated.00.pth", "own format"),
        only("model-00001-of-00002.safetensors", "index"),
        only("gptq_model-4bit-128g.safetensors", "open it by its path"),
        only("model.Q4_0.gguf", "open it by its path"),
        only("pytorch_model.bin", "convert it to safetensors"),
        instead("a pointer of LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", &["git lfs pull"]),
        instead("a web page", b"<!DOCTYPE html><html></html>", &["web page", "download"]),
        instead("a .bin with another ending", b"PK\x03\x04\x14\0\0\0archive/data.pkl", &["PyTorch", "convert"]),
    ]
}

const INDEX: &str = "model.safetensors.index.json";

fn index() -> Vec<Case<Folder>> {
    let moved = |name: &str, says: &[&str], change: &dyn Fn(&mut Folder)| {
        let mut folder = sharded();
        change(&mut folder);
        Case::new(name, folder, says)
    };
    let renamed = |name: &str, to: &str| {
        let by = format!("\"lm_head.weight\": {to}");
        moved(name, &["weight_map: ", "lm_head.weight"], &|f| {
            f.replace(INDEX, "\"lm_head.weight\": \"model-00002-of-00002.safetensors\"", &by);
        })
    };
    vec![
        renamed("a shard in the folder above", "\"../model-00002-of-00002.safetensors\""),
        renamed("a shard with an absolute path", "\"/etc/model.safetensors\""),
        renamed("a shard in a folder below", "\"x/model.safetensors\""),
        renamed("a shard with a backslash", "\"..\\\\model.safetensors\""),
        renamed("a shard that is a number", "2"),
        renamed("a shard without a name", "\"\""),
        renamed("a shard that is the folder above", "\"..\""),
        renamed("a shard of another kind", "\"pytorch_model.bin\""),
        renamed("a tensor in the wrong shard", "\"model-00001-of-00002.safetensors\""),
        moved("a shard that is missing", &["weight_map: ", "model-00002"], &|f| {
            f.unset("model-00002-of-00002.safetensors");
        }),
        moved("a shard that links out of the folder", &["model-00002", "link"], &|f| {
            let name = "model-00002-of-00002.safetensors";
            f.unset(name).links.push((name.into(), "/etc/hostname".into()));
        }),
        moved("a shard that is cut off", &["model-00002", "cut off"], &|f| {
            f.files.last_mut().expect("the second shard").1.pop();
        }),
        moved("a tensor that is not in its shard", &["weight_map: ", "x.weight"], &|f| {
            f.replace(INDEX, "\"lm_head.weight\"", "\"x.weight\"");
        }),
        moved("a tensor that is not in the index", &["lm_head.weight", "not listed"], &|f| {
            f.replace(INDEX, ",\n\"lm_head.weight\": \"model-00002-of-00002.safetensors\"", "");
        }),
        moved("a tensor in two shards", &["model.norm.weight"], &|f| {
            f.set("model-00001-of-00002.safetensors", shard(&[&TENSORS[..5], &TENSORS[10..11]].concat()));
        }),
        moved("a tensor twice in the index", &["JSON at byte", "lm_head.weight"], &|f| {
            f.replace(
                INDEX,
                "\"weight_map\": {",
                "\"weight_map\": {\"lm_head.weight\": \"model-00001-of-00002.safetensors\",",
            );
        }),
        moved("no weight_map", &["weight_map: "], &|f| {
            f.set(INDEX, "{}");
        }),
        moved("an empty weight_map", &["weight_map: "], &|f| {
            f.set(INDEX, "{\"weight_map\": {}}");
        }),
        moved("a weight_map that is a list", &["weight_map: "], &|f| {
            f.set(INDEX, "{\"weight_map\": []}");
        }),
    ]
}

/// A change of config.json, and the key that the error names.
const CONFIGS: &[(&str, &str, &str)] = &[
    ("\"vocab_size\": 8", "\"vocab_size\": 9", "model.embed_tokens.weight"),
    ("\"vocab_size\": 8", "\"vocab_size\": 0", "vocab_size"),
    ("\"vocab_size\": 8", "\"vocab_size\": -8", "vocab_size"),
    ("\"vocab_size\": 8", "\"vocab_size\": 8.5", "vocab_size"),
    ("\"vocab_size\": 8", "\"vocab_size\": \"8\"", "vocab_size"),
    ("\"vocab_size\": 8,", "", "vocab_size"),
    ("\"hidden_size\": 8", "\"hidden_size\": 0", "hidden_size"),
    ("\"hidden_size\": 8", "\"hidden_size\": 18446744073709551615", "hidden_size"),
    ("\"intermediate_size\": 16", "\"intermediate_size\": 0", "intermediate_size"),
    ("\"intermediate_size\": 16", "\"intermediate_size\": null", "intermediate_size"),
    ("\"num_hidden_layers\": 1", "\"num_hidden_layers\": 0", "num_hidden_layers"),
    ("\"num_hidden_layers\": 1", "\"num_hidden_layers\": 2", "model.layers.1.input_layernorm.weight"),
    ("\"num_hidden_layers\": 1", "\"num_hidden_layers\": 4294967295", "num_hidden_layers"),
    ("\"num_attention_heads\": 2", "\"num_attention_heads\": 0", "num_attention_heads"),
    ("\"num_key_value_heads\": 1", "\"num_key_value_heads\": 0", "num_key_value_heads"),
    ("\"num_key_value_heads\": 1", "\"num_key_value_heads\": 3", "num_key_value_heads"),
    ("\"num_attention_heads\": 2", "\"num_attention_heads\": 4", "q_proj.weight"),
    ("\"head_dim\": 4", "\"head_dim\": 0", "head_dim"),
    ("\"head_dim\": 4", "\"head_dim\": 3", "head_dim"),
    ("\"head_dim\": 4", "\"head_dim\": 1048576", "head_dim"),
    ("\"max_position_embeddings\": 64,", "\"max_position_embeddings\": 0,", "max_position_embeddings"),
    ("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 0", "rms_norm_eps"),
    ("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": -1e-05", "rms_norm_eps"),
    ("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 1e39", "rms_norm_eps"),
    ("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": NaN", "JSON at byte"),
    ("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 1e999", "JSON at byte"),
    ("\"rope_theta\": 10000.0", "\"rope_theta\": 0", "rope_theta"),
    ("\"rope_theta\": 10000.0", "\"rope_theta\": \"10000\"", "rope_theta"),
    ("\"factor\": 8.0", "\"factor\": 0", "factor"),
    ("\"factor\": 8.0,", "", "factor"),
    ("\"low_freq_factor\": 1.0", "\"low_freq_factor\": 4.0", "low_freq_factor"),
    ("\"low_freq_factor\": 1.0", "\"low_freq_factor\": 0", "low_freq_factor"),
    ("\"original_max_position_embeddings\": 32", "\"original_max_position_embeddings\": 0", "original"),
    ("\"rope_type\": \"llama3\"", "\"rope_type\": \"longrope\"", "short_factor"),
    ("\"rope_type\": \"llama3\"", "\"rope_type\": 3", "rope_type"),
    ("\"rope_type\": \"llama3\"", "\"partial_rotary_factor\": 0.5", "partial_rotary_factor"),
    ("\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", "hidden_act"),
    ("\"hidden_act\": \"silu\"", "\"quantization_config\": {}", "quantization_config"),
    ("\"hidden_act\": \"silu\"", "\"quantization_config\": {\"quant_method\": \"gptq\"}", "\"gptq\""),
    ("\"hidden_act\": \"silu\"", "\"quantization\": {\"group_size\": 64, \"bits\": 4}", "\"mlx\""),
    ("\"hidden_act\": \"silu\"", "\"compression_config\": {}", "compression_config"),
    ("\"hidden_act\": \"silu\"", "\"attention_multiplier\": 0.0078125", "attention_multiplier"),
    ("\"hidden_act\": \"silu\"", "\"embedding_multiplier\": 12", "embedding_multiplier"),
    ("\"hidden_act\": \"silu\"", "\"residual_multiplier\": 0.22", "residual_multiplier"),
    ("\"hidden_act\": \"silu\"", "\"logits_scaling\": 8", "logits_scaling"),
    ("\"hidden_act\": \"silu\"", "\"logit_scale\": \"1\"", "logit_scale"),
    ("\"hidden_act\": \"silu\"", "\"scale_emb\": 12", "scale_emb"),
    ("\"hidden_act\": \"silu\"", "\"scale_depth\": 1.4", "scale_depth"),
    ("\"hidden_act\": \"silu\"", "\"dim_model_base\": 256", "dim_model_base"),
    ("\"hidden_act\": \"silu\"", "\"final_logit_softcapping\": 30.0", "final_logit_softcapping"),
    ("\"hidden_act\": \"silu\"", "\"attn_logit_softcapping\": 50.0", "attn_logit_softcapping"),
    ("\"hidden_act\": \"silu\"", "\"query_pre_attn_scalar\": 224", "query_pre_attn_scalar"),
    ("\"hidden_act\": \"silu\"", "\"clip_qkv\": 8.0", "clip_qkv"),
    ("\"hidden_act\": \"silu\"", "\"no_rope_layers\": [1, 1, 1, 0]", "no_rope_layers"),
    ("\"hidden_act\": \"silu\"", "\"rope_interleaved\": true", "rope_interleaved"),
    ("\"hidden_act\": \"silu\"", "\"qk_layernorm\": true", "qk_layernorm"),
    ("\"hidden_act\": \"silu\"", "\"attn_temperature_tuning\": true", "attn_temperature_tuning"),
    ("\"hidden_act\": \"silu\"", "\"use_parallel_residual\": true", "use_parallel_residual"),
    ("\"hidden_act\": \"silu\"", "\"is_causal\": false", "is_causal"),
    ("\"hidden_act\": \"silu\"", "\"num_local_experts\": 8", "num_local_experts"),
    ("\"hidden_act\": \"silu\"", "\"draft_vocab_size\": 8", "draft_vocab_size"),
    ("\"hidden_act\": \"silu\"", "\"layer_types\": [\"sliding_attention\"]", "layer_types"),
    ("\"hidden_act\": \"silu\"", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}", "rope_scaling"),
    ("\"rope_type\": \"llama3\"", "\"full_attention\": {\"rope_type\": \"default\"}", "full_attention"),
    ("\"factor\": 8.0", "\"factor\": 8.0, \"mrope_section\": [1, 1]", "mrope_section"),
    ("\"factor\": 8.0", "\"factor\": 8.0, \"llama_4_scaling_beta\": 0.1", "llama_4_scaling_beta"),
    ("\"LlamaForCausalLM\"", "\"Qwen2ForCausalLM\"", "Qwen2ForCausalLM"),
    ("[\"LlamaForCausalLM\"]", "[]", "architectures"),
    ("\"LlamaForCausalLM\"", "\"LlamaForTokenClassification\"", "LlamaForTokenClassification"),
    ("\"LlamaForCausalLM\"", "\"MistralModel\"", "MistralModel"),
    ("\"LlamaForCausalLM\"", "\"LlamaForSequenceClassification\"", "score.weight"),
    ("\"LlamaForCausalLM\"]", "\"LlamaForSequenceClassification\"], \"id2label\": {}", "id2label"),
    ("\"LlamaForCausalLM\"]", "\"LlamaForSequenceClassification\"], \"id2label\": []", "id2label"),
    ("\"LlamaForCausalLM\"]", "\"LlamaForSequenceClassification\"], \"id2label\": {\"1\": \"a\"}", "id2label"),
    ("\"LlamaForCausalLM\"]", "\"LlamaForSequenceClassification\"], \"id2label\": {\"0\": 0}", "0: is 0; a string"),
    (
        "\"LlamaForCausalLM\"]",
        "\"LlamaForSequenceClassification\"], \"problem_type\": \"clustering\"",
        "one of single_label",
    ),
    ("\"LlamaForCausalLM\"]", "\"LlamaForSequenceClassification\"], \"problem_type\": 1", "problem_type"),
    ("\"LlamaForCausalLM\"]", "\"LlamaForSequenceClassification\"], \"num_labels\": 0", "num_labels"),
    ("\"LlamaForCausalLM\"]", "\"LlamaForSequenceClassification\"], \"num_labels\": 1e15", "num_labels"),
    ("\"LlamaForCausalLM\"]", "\"LlamaForSequenceClassification\"], \"num_labels\": 4294967296", "num_labels"),
    ("\"model_type\": \"llama\"", "\"model_type\": \"qwen2\"", "qwen2"),
    ("\"LlamaForCausalLM\"", "\"Qwen2MoeForCausalLM\"", "Qwen2MoeForCausalLM"),
    ("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": 0", "tie_word_embeddings"),
    ("\"tie_word_embeddings\": false", "\"attention_bias\": true", "attention_bias"),
    ("\"tie_word_embeddings\": false", "\"mlp_bias\": true", "mlp_bias"),
    ("\"bos_token_id\": 1", "\"bos_token_id\": 8", "bos_token_id"),
    ("\"eos_token_id\": [2, 3]", "\"eos_token_id\": [2, 8]", "eos_token_id"),
    ("\"eos_token_id\": [2, 3]", "\"eos_token_id\": -1", "eos_token_id"),
    ("\"eos_token_id\": [2, 3]", "\"eos_token_id\": 4294967296", "eos_token_id"),
    ("\"eos_token_id\": [2, 3]", "\"eos_token_id\": \"</s>\"", "eos_token_id"),
];

fn config() -> Vec<Case<Folder>> {
    let case = |&(piece, by, says): &(&str, &str, &str)| {
        changed(&format!("{by:?} for {piece:?}"), &[says], |f| {
            f.replace("config.json", piece, by);
        })
    };
    let three_of_four =
        changed("three KV heads for four heads", &["num_key_value_heads", "a divisor of the 4 heads"], |f| {
            f.replace("config.json", "\"num_attention_heads\": 2", "\"num_attention_heads\": 4");
            f.replace("config.json", "\"num_key_value_heads\": 1", "\"num_key_value_heads\": 3");
        });
    CONFIGS.iter().map(case).chain([three_of_four]).collect()
}

fn weights() -> Vec<Case<Folder>> {
    let mut cases = Vec::new();
    for (i, (name, shape)) in TENSORS.iter().enumerate() {
        let mut rest = TENSORS.to_vec();
        rest.remove(i);
        cases.push(changed(&format!("no {name}"), &[name, "missing"], |f| {
            f.set("model.safetensors", shard(&rest));
        }));
        let longer: Vec<usize> = shape.iter().enumerate().map(|(d, n)| n + usize::from(d == 0)).collect();
        let mut other = TENSORS.to_vec();
        other[i] = (name, &longer);
        cases.push(changed(&format!("{name} with a row too many"), &[name, "is ["], |f| {
            f.set("model.safetensors", shard(&other));
        }));
    }
    let integers = String::from_utf8_lossy(&shard(&TENSORS)[8..]).replacen("\"F32\"", "\"I32\"", 1);
    let end = integers.find('\0').unwrap_or(integers.len());
    cases.push(changed("an embedding of integers", &["model.embed_tokens.weight", "I32"], |f| {
        f.set("model.safetensors", safetensors(&integers[..end], &integers.as_bytes()[end..]));
    }));
    cases
}

/// Tensors that no Llama has, in the places where it has its own.
fn strangers() -> Vec<Case<Folder>> {
    let layer = "model.layers.0.self_attn";
    let stranger = |name: &str, says: &[&str]| {
        changed(&format!("a stranger: {name}"), &[&[name], says].concat(), |f| {
            f.set("model.safetensors", shard(&[&TENSORS, [(name, [8].as_slice())].as_slice()].concat()));
        })
    };
    let mut cases = vec![
        stranger("model.layers.1.input_layernorm.weight", &["past the last of 1 layers"]),
        stranger("model.layers.00.input_layernorm.weight", &["no Llama has"]),
        stranger("model.layers.0.input_layernorm.bias", &["no Llama has"]),
        stranger("model.norm.bias", &["no Llama has"]),
        stranger("lm_head.bias", &["no Llama has"]),
        stranger("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", &["LoRA", "merge"]),
        stranger("model.layers.0.mlp.experts.0.gate_proj.weight", &["mixture of experts"]),
        stranger("model.layers.0.mlp.ffn_sub_norm.weight", &["BitNet"]),
    ];
    for (tensor, says) in [
        ("q_proj.qweight", "GPTQ"),
        ("q_proj.weight_scale", "FP8"),
        ("q_proj.input_scale", "FP8"),
        ("q_proj.weight_packed", "compressed-tensors"),
        ("q_proj.weight.absmax", "bitsandbytes"),
        ("q_proj.scales", "quantised"),
        ("q_norm.weight", "queries"),
        ("k_norm.weight", "keys"),
        ("qkv_proj.weight", "fused"),
    ] {
        cases.push(stranger(&format!("{layer}.{tensor}"), &[says]));
    }
    cases.push(changed("a tied model with another head", &["lm_head.weight", "tie_word_embeddings"], |f| {
        f.replace("config.json", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
        let weights = &mut f.files.last_mut().expect("weights").1;
        weights.last_mut().expect("the head").clone_from(&0x3f);
    }));
    cases
}
