//! Well-formed GGUFs of models that cannot be.

use super::Case;
use super::gguf::{Gguf, Tensor, Value, model};

type Cases = Vec<Case<Vec<u8>>>;

const INTEGERS: [&str; 15] = [
    "llama.context_length",
    "llama.embedding_length",
    "llama.block_count",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.key_length",
    "llama.attention.value_length",
    "llama.attention.sliding_window",
    "llama.rope.dimension_count",
    "llama.vocab_size",
    "llama.expert_count",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "llama.pooling_type",
];
const FLOATS: [&str; 4] = [
    "llama.rope.freq_base",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.rope.scaling.factor",
    "llama.rope.scale_linear",
];
const STRINGS: [&str; 5] = [
    "general.architecture",
    "general.type",
    "llama.rope.scaling.type",
    "tokenizer.ggml.model",
    "tokenizer.chat_template",
];
const ARRAYS: [&str; 4] =
    ["tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"];
const LABELS: &str = "llama.classifier.output_labels";
const CAUSAL: &str = "llama.attention.causal";

/// All impossible models.
pub fn cases() -> Cases {
    [sizes(), missing(), numbers(), rotary(), vocabulary(), kinds(), variants(), tensors()].concat()
}

/// Every key that is read, with a value of every type that it must not have.
pub fn wrong_types() -> Cases {
    let mut cases = Vec::new();
    for key in INTEGERS.into_iter().chain(FLOATS).chain(STRINGS).chain(ARRAYS).chain([LABELS, CAUSAL]) {
        for (kind, value) in [
            ("u32", Value::u32(1)),
            ("f32", Value::f32(1.0)),
            ("bool", Value::raw(7, [1])),
            ("string", Value::string("1")),
            ("array of u8", Value::array(0, 8, &[1; 8])),
            ("array of f64", Value::array(12, 8, &[0; 64])),
        ] {
            let right = match kind {
                "u32" => INTEGERS.contains(&key),
                "f32" => FLOATS.contains(&key),
                "string" => STRINGS.contains(&key),
                "bool" => key == CAUSAL,
                _ => false,
            };
            if !right {
                cases.push(with(format!("{key} as {kind}"), &[key, "is of type"], key, value));
            }
        }
    }
    cases
}

fn changed(name: impl Into<String>, says: &[&str], change: impl FnOnce(&mut Gguf)) -> Case<Vec<u8>> {
    let mut file = model();
    change(&mut file);
    Case::new(name, file.bytes(), says)
}

fn with(name: impl Into<String>, says: &[&str], key: &str, value: Value) -> Case<Vec<u8>> {
    changed(name, says, |f| {
        f.set(key, value);
    })
}

fn sizes() -> Cases {
    let mut cases = Vec::new();
    let mut add = |key: &str, value: u32| {
        let says: &[&str] = &["hyperparameter llama."];
        cases.push(with(format!("{key} = {value}"), says, key, Value::u32(value)));
    };
    for key in &INTEGERS[..6] {
        add(key, 0);
        add(key, u32::MAX);
    }
    for value in [3, 5, 1 << 20] {
        add("llama.attention.head_count", value);
    }
    for value in [3, 4] {
        add("llama.attention.head_count_kv", value);
    }
    for value in [0, 1, 3, 6, 1 << 16] {
        add("llama.rope.dimension_count", value);
    }
    for value in [0, 1, 1 << 20] {
        add("llama.attention.key_length", value);
    }
    add("llama.attention.value_length", 8);
    add("llama.attention.sliding_window", u32::MAX);
    for value in [0, 7, 9, 1 << 30] {
        add("llama.vocab_size", value);
    }
    let key = "llama.block_count";
    for (name, value) in [
        ("-1 as i32", Value::raw(5, (-1i32).to_le_bytes())),
        ("2^63 as u64", Value::raw(10, (1u64 << 63).to_le_bytes())),
    ] {
        cases.push(with(format!("block_count {name}"), &["hyperparameter llama.block_count"], key, value));
    }
    let key = "llama.attention.head_count_kv";
    cases.push(changed("three KV heads for four heads", &[key, "a divisor of the 4 heads"], |f| {
        f.set("llama.attention.head_count", Value::u32(4)).set(key, Value::u32(3));
    }));
    cases.push(with("a KV head count for two layers", &[key, "each of 1 layers"], key, Value::i32s(&[1, 1])));
    cases.push(with("no KV head count at all", &[key, "each of 1 layers"], key, Value::i32s(&[])));
    cases.push(with("a negative KV head count", &[key, "each of 1 layers"], key, Value::i32s(&[-1])));
    cases
}

fn missing() -> Cases {
    let keys = INTEGERS[..5].iter().chain(&FLOATS[1..2]).chain(&STRINGS[..1]);
    keys.map(|key| {
        changed(format!("no {key}"), &[key, "missing"], |f| {
            f.unset(key);
        })
    })
    .collect()
}

fn numbers() -> Cases {
    let mut cases = Vec::new();
    for key in &FLOATS[..3] {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -1.0, 1e30] {
            cases.push(with(format!("{key} = {value}"), &["hyperparameter llama."], key, Value::f32(value)));
        }
    }
    let base = FLOATS[0];
    cases.push(with("freq_base = 1", &[base], base, Value::f32(1.0)));
    cases
}

fn yarn(name: &str, says: &[&str], key: &str, value: Value) -> Case<Vec<u8>> {
    changed(name, says, |f| {
        f.set("llama.rope.scaling.type", Value::string("yarn"))
            .set("llama.rope.scaling.factor", Value::f32(4.0))
            .set(key, value);
    })
}

fn divisors(name: &str, tensor: Tensor) -> Case<Vec<u8>> {
    let mut case = changed(name, &[], |f| f.tensors.push(tensor));
    case.says = vec!["rope".into()];
    case
}

fn rotary() -> Cases {
    let scaling = "llama.rope.scaling";
    let freqs = "rope_freqs.weight";
    let mut quantised = Tensor::f32(freqs, &[32], 1.0);
    (quantised.kind, quantised.data) = (8, vec![0; 34]);
    vec![
        with(
            "longrope",
            &["rope_factors_short.weight", "LongRoPE"],
            "llama.rope.scaling.type",
            Value::string("longrope"),
        ),
        with("unknown scaling", &["llama.rope.scaling.type"], "llama.rope.scaling.type", Value::string("")),
        yarn("yarn from nothing", &[scaling], "llama.rope.scaling.original_context_length", Value::u32(0)),
        yarn("yarn with attn_factor NaN", &[scaling], "llama.rope.scaling.attn_factor", Value::f32(f32::NAN)),
        yarn("yarn with beta_fast 0", &[scaling], "llama.rope.scaling.yarn_beta_fast", Value::f32(0.0)),
        yarn("yarn with equal betas", &[scaling], "llama.rope.scaling.yarn_beta_slow", Value::f32(32.0)),
        divisors("too few divisors", Tensor::f32(freqs, &[1], 1.0)),
        divisors("divisors of 0", Tensor::f32(freqs, &[2], 0.0)),
        divisors("negative divisors", Tensor::f32(freqs, &[2], -1.0)),
        divisors("divisors that are not numbers", Tensor::f32(freqs, &[2], f32::NAN)),
        divisors("infinite divisors", Tensor::f32(freqs, &[2], f32::INFINITY)),
        divisors("a matrix of divisors", Tensor::f32(freqs, &[2, 2], 1.0)),
        divisors("quantised divisors", quantised),
    ]
}

fn vocabulary() -> Cases {
    let mut cases = Vec::new();
    for token in ["bos", "eos", "eot", "eom", "unknown", "padding", "seperator", "fim_pre"] {
        let key = format!("tokenizer.ggml.{token}_token_id");
        // Of ids that nobody reads, -1 as a u32 is none.
        let read = ["bos", "eos", "eot", "eom", "unknown"].contains(&token);
        for id in if read { vec![8, u32::MAX] } else { vec![8] } {
            cases.push(with(format!("{token} = {id} of 8"), &[&key, &id.to_string()], &key, Value::u32(id)));
        }
        cases.push(with(format!("{token} = -1"), &[&key], &key, Value::raw(5, (-1i32).to_le_bytes())));
    }
    let [tokens, scores, types, merges] = ARRAYS;
    cases.extend([
        with("seven tokens", &[tokens], tokens, Value::strings(&["a"; 7])),
        with("no tokens", &[tokens], tokens, Value::strings(&[])),
        with("seven scores", &[scores], scores, Value::f32s(&[0.0; 7])),
        with("nine scores", &[scores], scores, Value::f32s(&[0.0; 9])),
        with("scores that are not numbers", &[scores], scores, Value::f32s(&[f32::NAN; 8])),
        with("seven token types", &[types], types, Value::i32s(&[1; 7])),
        with("merges as numbers", &[merges], merges, Value::i32s(&[1; 7])),
        with("add_bos_token as u32", &["add_bos_token"], "tokenizer.ggml.add_bos_token", Value::u32(1)),
    ]);
    cases
}

fn kinds() -> Cases {
    let architecture = "general.architecture";
    vec![
        with("architecture gpt2", &[architecture, "gpt2"], architecture, Value::string("gpt2")),
        with("architecture with a NUL", &[architecture], architecture, Value::string("llama\0")),
        with("architecture empty", &[architecture], architecture, Value::string("")),
        with("an adapter", &["general.type"], "general.type", Value::string("adapter")),
        with("eight experts", &["llama.expert_count"], "llama.expert_count", Value::u32(8)),
        with("attention to what comes after", &[CAUSAL], CAUSAL, Value::raw(7, [0])),
        with("pooling of the first token", &["llama.pooling_type 2"], "llama.pooling_type", Value::u32(2)),
        with("pooling of no known kind", &["llama.pooling_type 5"], "llama.pooling_type", Value::u32(5)),
    ]
}

/// Keys and tensors of models that are Llamas otherwise.
fn variants() -> Cases {
    let key = |name: &str, value: Value| {
        let key = format!("llama.{name}");
        with(format!("{name} of another family"), &[&key, "not supported"], &key, value)
    };
    let tensor = |name: &str, says: &[&str]| {
        changed(format!("a stranger: {name}"), &[&[name], says].concat(), |f| {
            f.tensors.push(Tensor::f32(name, &[8], 1.0));
        })
    };
    vec![
        key("logit_scale", Value::f32(0.0625)),
        key("logit_scale", Value::f32(f32::NAN)),
        key("embedding_scale", Value::f32(12.0)),
        key("residual_scale", Value::f32(0.22)),
        key("attn_logit_softcapping", Value::f32(50.0)),
        key("final_logit_softcapping", Value::f32(30.0)),
        key("attention.scale", Value::f32(0.0078125)),
        key("attention.clamp_kqv", Value::f32(8.0)),
        key("attention.max_alibi_bias", Value::f32(8.0)),
        key("attention.temperature_scale", Value::f32(0.1)),
        key("rope.scaling.yarn_ext_factor", Value::f32(0.0)),
        key("rope.scaling.yarn_attn_factor", Value::f32(0.9)),
        key("use_parallel_residual", Value::raw(7, [1])),
        key("rope.dimension_sections", Value::i32s(&[1, 1, 0, 0])),
        key("attention.sliding_window_pattern", Value::u32(4)),
        tensor("blk.0.attn_q_norm.weight", &["queries"]),
        tensor("blk.0.attn_k_norm.weight", &["keys"]),
        tensor("blk.0.attn_qkv.weight", &["fused"]),
        tensor("blk.0.ffn_gate_inp.weight", &["experts"]),
        tensor("blk.0.ffn_up_exps.weight", &["experts"]),
        tensor("blk.0.attn_sub_norm.weight", &["BitNet"]),
        tensor("blk.0.attn_norm.bias", &["no Llama has"]),
        tensor("blk.0.attn_q.scale", &["no Llama has"]),
        tensor("blk.1.attn_norm.weight", &["past the last of 1 layers"]),
        // What a terminal obeys is escaped.
        changed("a stranger that clears the screen", &["tensor blk.0.\\u{1b}[2J\\n, one that no Llama has"], |f| {
            f.tensors.push(Tensor::f32("blk.0.\u{1b}[2J\n", &[8], 1.0));
        }),
        tensor("rope_factors_long.weight", &["longrope"]),
        tensor("output_norm.bias", &["no Llama has"]),
        tensor("output.bias", &["no Llama has"]),
        tensor("token_embd_norm.weight", &["no Llama has"]),
    ]
}

fn tensors() -> Cases {
    let mut cases = Vec::new();
    let names: Vec<String> = model().tensors.iter().map(|t| String::from_utf8_lossy(&t.name).into_owned()).collect();
    for name in &names {
        if name != "output.weight" {
            let says = [name.as_str(), "missing"];
            cases.push(changed(format!("no {name}"), &says, |f| f.tensors.retain(|t| t.name != name.as_bytes())));
        }
        cases.push(changed(format!("{name} with a column too few"), &[name, "is ["], |f| {
            let dims: Vec<u64> = f.tensor(name).dims.iter().enumerate().map(|(i, d)| d - u64::from(i == 0)).collect();
            *f.tensor(name) = Tensor::f32(name, &dims, 1.0);
        }));
    }
    cases.push(changed("a down projection on its side", &["tensor blk.0.ffn_down.weight"], |f| {
        f.tensor("blk.0.ffn_down.weight").dims.reverse();
    }));
    cases.push(changed("a bias of the wrong length", &["tensor blk.0.attn_q.bias"], |f| {
        f.tensors.push(Tensor::f32("blk.0.attn_q.bias", &[4], 0.0));
    }));
    cases.push(changed("an embedding with a row too many", &["9, as token_embd.weight has rows"], |f| {
        *f.tensor("token_embd.weight") = Tensor::f32("token_embd.weight", &[8, 9], 0.0);
    }));
    let score = "cls.output.weight";
    let mut labelled = |name: &str, dims: &[u64], labels: Option<&[&str]>, says: &[&str]| {
        cases.push(changed(name, says, |f| {
            f.tensors.push(Tensor::f32(score, dims, 0.0));
            if let Some(labels) = labels {
                f.set(LABELS, Value::strings(labels));
            }
        }));
    };
    labelled("scores with a column too few", &[7, 2], None, &[score, "is [2, 7]"]);
    labelled("scores of a label without a name", &[8, 2], Some(&["a"]), &[score, "is [2, 8]; [1, 8]"]);
    labelled("scores of labels that are none", &[8, 2], Some(&[]), &[LABELS, "is empty"]);
    labelled("scores of 65,537 labels", &[8, 65_537], None, &[LABELS, "is 65537"]);
    cases.push(changed("layers that are not there", &["tensor blk.1.attn_norm.weight"], |f| {
        f.set("llama.block_count", Value::u32(2));
    }));
    cases
}
