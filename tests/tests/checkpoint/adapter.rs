//! LoRA adapters: both kinds of files come to the product that they stand for, and whatever is more than that is refused.

use std::path::Path;

use llama_core::adapter::Adapter;
use llama_core::checkpoint::{Checkpoint, Name};
use llama_core::config::{Config, Head};
use llama_core::format::Format;
use llama_core::{Error, Result};
use llama_tests::adapters::{CONFIG, Change, floats, gguf, interleaved, peft, peft_name};
use llama_tests::hostile::folder::{Folder, safetensors};
use llama_tests::hostile::gguf::{Gguf, Tensor, Value};
use llama_tests::hostile::{folder, is_of_use, mutate};
use llama_tests::models::bits;

const RANK: usize = 2;
const ALPHA: f32 = 3.0;
const SETTINGS: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Shapes of the hostile suites' model as a folder, whose rotary embedding turns halves.
fn halves() -> Config {
    let place = tempfile::tempdir().unwrap();
    folder::model().write(place.path()).unwrap();
    Checkpoint::open(place.path()).unwrap().config().clone()
}

/// The same model as a GGUF.
fn pairs() -> Config {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.gguf");
    std::fs::write(&path, llama_tests::hostile::gguf::model().bytes()).unwrap();
    Checkpoint::open(path).unwrap().config().clone()
}

/// A change of every matrix that an adapter may change.
fn changes() -> Vec<Change> {
    changes_of(&halves())
}

fn changes_of(config: &Config) -> Vec<Change> {
    let names = [Name::Q(0), Name::K(0), Name::V(0), Name::O(0), Name::Gate(0), Name::Up(0), Name::Down(0), Name::Head];
    names.into_iter().zip(1..).map(|(name, seed)| Change::random(name, RANK, config, seed)).collect()
}

/// With heads of six columns: of four, the order of halves and that of pairs are each other's reverse.
fn six_columns(mut config: Config) -> Config {
    (config.head_dim, config.rope.dims) = (6, 6);
    config
}

/// The adapter of a folder, and the folder for as long as its file is needed.
fn open(files: &Folder) -> Result<(tempfile::TempDir, Adapter)> {
    let place = tempfile::tempdir().unwrap();
    files.write(place.path()).unwrap();
    match Adapter::open(place.path()) {
        Ok(adapter) => Ok((place, adapter)),
        Err(error) => {
            is_of_use(&error, place.path()).unwrap_or_else(|lacks| panic!("{error} {lacks}"));
            Err(error)
        }
    }
}

fn open_gguf(file: &Gguf) -> Result<(tempfile::TempDir, Adapter)> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    match Adapter::open(path) {
        Ok(adapter) => Ok((place, adapter)),
        Err(error) => {
            is_of_use(&error, place.path()).unwrap_or_else(|lacks| panic!("{error} {lacks}"));
            Err(error)
        }
    }
}

/// The folder with a piece of its configuration replaced.
fn configured(piece: &str, by: &str) -> Folder {
    let mut files = peft(&changes());
    files.replace(SETTINGS, piece, by);
    files
}

#[track_caller]
fn says(result: Result<(tempfile::TempDir, Adapter)>, words: &[&str]) {
    let text = result.expect_err("a refusal").to_string();
    assert!(words.iter().all(|&word| text.contains(word)), "{text} lacks one of {words:?}");
}

#[test]
fn both_files_on_both_bases_come_to_the_product() {
    let changes = changes_of(&six_columns(halves()));
    let (_a, from_peft) = open(&peft(&changes)).unwrap();
    let (_b, from_gguf) = open_gguf(&gguf(&changes, 6, ALPHA)).unwrap();
    let strength = 0.7f32;
    for adapter in [&from_peft, &from_gguf] {
        assert_eq!(adapter.names().len(), changes.len());
        for (base, is_gguf) in [(six_columns(halves()), false), (six_columns(pairs()), true)] {
            let bound = adapter.bind(&base).unwrap();
            for change in &changes {
                let (cols, base_weight) = (change.cols(), |i: usize| i as f32 / 7.0 - 3.0);
                let delta = change.delta(strength * (ALPHA / RANK as f32));
                let delta = if is_gguf { interleaved(change.name, 6, cols, &delta) } else { delta };
                let expected: Vec<f32> = delta.iter().enumerate().map(|(i, delta)| base_weight(i) + delta).collect();
                for step in [1, 3, change.rows()] {
                    let mut out: Vec<f32> = (0..expected.len()).map(base_weight).collect();
                    for (rows, out) in out.chunks_mut(step * cols).enumerate() {
                        let start = rows * step;
                        bound.add(change.name, start..start + out.len() / cols, strength, out).unwrap();
                    }
                    assert_eq!(bits(&out), bits(&expected), "{:?} {is_gguf} {step}", change.name);
                }
            }
        }
    }
}

/// Tensors of the changes that one A with the rows of several B's below each other makes: their names, shapes and numbers.
fn fused(parts: &[&Change], name: &str, ends: [&str; 2]) -> [(String, [usize; 2], Vec<f32>); 2] {
    let b: Vec<f32> = parts.iter().flat_map(|change| &change.b).copied().collect();
    let first = parts[0];
    [
        (format!("{name}.{}", ends[0]), [first.rank, first.cols()], first.a.clone()),
        (format!("{name}.{}", ends[1]), [b.len() / first.rank, first.rank], b),
    ]
}

fn fused_peft(parts: &[&Change], module: &str) -> Vec<(String, [usize; 2], Vec<f32>)> {
    fused(parts, &format!("base_model.model.model.layers.0.{module}"), ["lora_A.weight", "lora_B.weight"]).into()
}

fn fused_folder(tensors: &[(String, [usize; 2], Vec<f32>)]) -> Folder {
    let tensors: Vec<_> = tensors.iter().map(|(name, shape, numbers)| (name.clone(), *shape, &numbers[..])).collect();
    let mut files = peft(&[]);
    files.set(WEIGHTS, floats(&tensors));
    files
}

/// A Phi-3's adapter has one A and one B for queries, keys and values: it adds what three with the same A and a part of B each add.
#[test]
fn matrices_that_are_one_tensor() {
    let config = six_columns(halves());
    let mut changes = changes_of(&config);
    (changes[1].a, changes[2].a) = (changes[0].a.clone(), changes[0].a.clone());
    changes[5].a = changes[4].a.clone();
    let [q, k, v, _, gate, up, ..] = &changes[..] else { unreachable!() };
    let (qkv, both) = ([q, k, v], [gate, up]);
    let tensors = [fused_peft(&qkv, "self_attn.qkv_proj"), fused_peft(&both, "mlp.gate_up_proj")].concat();
    let (_a, from_peft) = open(&fused_folder(&tensors)).unwrap();
    let mut file = gguf(&[], 6, ALPHA);
    file.set("general.architecture", Value::string("phi3"));
    for (parts, name) in [(&qkv[..], "blk.0.attn_qkv.weight"), (&both, "blk.0.ffn_up.weight")] {
        for (name, [rows, cols], numbers) in fused(parts, name, ["lora_a", "lora_b"]) {
            let mut tensor = Tensor::f32(&name, &[cols as u64, rows as u64], 0.0);
            tensor.data = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            file.tensors.push(tensor);
        }
    }
    let (_b, from_gguf) = open_gguf(&file).unwrap();
    let parts: Vec<Change> = qkv.iter().chain(&both).map(|&change| change.clone()).collect();
    let (_c, apart) = open(&peft(&parts)).unwrap();
    for adapter in [&from_peft, &from_gguf] {
        assert_eq!(adapter.names().collect::<Vec<_>>(), apart.names().collect::<Vec<_>>());
        for base in [six_columns(halves()), six_columns(pairs())] {
            for Change { name, .. } in &parts {
                let (rows, cols) = name.shape(&base);
                for step in [1, 5, rows] {
                    for start in (0..rows).step_by(step) {
                        let rows = start..rows.min(start + step);
                        let add = |adapter: &Adapter| {
                            let mut out = vec![1.0; rows.len() * cols];
                            adapter.bind(&base).unwrap().add(*name, rows.clone(), 0.7, &mut out).unwrap();
                            bits(&out)
                        };
                        assert_eq!(add(adapter), add(&apart), "{name:?} {rows:?}");
                    }
                }
            }
        }
    }
    let wide = Config { ffn: 32, ..config.clone() };
    let error = from_peft.bind(&wide).unwrap_err().to_string();
    assert!(error.contains("mlp.gate_up_proj.lora_B.weight: changes a matrix of [32, 8]; [64, 8]"), "{error}");
    let own = |change: &Change| {
        let halves = [("lora_A.weight", change.cols(), &change.a), ("lora_B.weight", change.rows(), &change.b)];
        let [a, b] = halves.map(|(half, size, numbers)| (peft_name(change.name, half), size, numbers.clone()));
        [(a.0, [RANK, a.1], a.2), (b.0, [b.1, RANK], b.2)]
    };
    says(
        open(&fused_folder(&[&tensors[..2], &own(k)].concat())),
        &["k_proj.lora_A.weight", "is the same as", "qkv_proj"],
    );
    says(open(&fused_folder(&[tensors[0].clone(), own(q)[1].clone()])), &["is one half of a change"]);
}

#[test]
fn what_is_not_changed_stays() {
    let (_place, adapter) = open(&peft(&changes()[..1])).unwrap();
    let base = halves();
    let bound = adapter.bind(&base).unwrap();
    assert!(bound.changes(Name::Q(0)) && !bound.changes(Name::K(0)));
    assert_eq!((adapter.rank(Name::Q(0)), adapter.rank(Name::K(0)), adapter.scale(Name::Norm)), (Some(2), None, None));
    let mut out = [1.0, -0.0];
    for name in [Name::K(0), Name::Embed, Name::Norm] {
        bound.add(name, 0..1, 1.0, &mut out).unwrap();
    }
    assert_eq!(bits(&out), bits(&[1.0, -0.0]));
    bound.add(Name::Q(0), 3..3, 1.0, &mut []).unwrap();
}

/// Half-precision numbers, and Q8_0 as the converter can make it of `A`, count as what they stand for.
#[test]
fn every_format_of_weights() {
    let config = halves();
    let mut change = Change::random(Name::Up(0), RANK, &config, 5);
    change.a.iter_mut().chain(&mut change.b).for_each(|number| *number = (*number * 16.0).round() / 16.0);
    let expected = change.delta(ALPHA / RANK as f32);
    let sum = |adapter: &Adapter| {
        let mut out = vec![0.0; expected.len()];
        adapter.bind(&config).unwrap().add(change.name, 0..change.rows(), 1.0, &mut out).unwrap();
        out
    };
    for format in [Format::F16, Format::BF16] {
        let encoded = |numbers: &[f32]| {
            let mut bytes = vec![0; 2 * numbers.len()];
            format.encode(numbers, &mut bytes).unwrap();
            bytes
        };
        let (a, b) = (encoded(&change.a), encoded(&change.b));
        let entry = |half: &str, shape: [usize; 2], start: usize, end: usize| {
            let (name, dtype) = (peft_name(change.name, half), format.name());
            format!("{name:?}:{{\"dtype\":{dtype:?},\"shape\":{shape:?},\"data_offsets\":[{start},{end}]}}")
        };
        let header = [
            entry("lora_A.default.weight", [RANK, change.cols()], 0, a.len()),
            entry("lora_B.default.weight", [change.rows(), RANK], a.len(), a.len() + b.len()),
        ];
        let mut files = peft(&[]);
        files.set(WEIGHTS, safetensors(&format!("{{{}}}", header.join(",")), &[a, b].concat()));
        assert_eq!(bits(&sum(&open(&files).unwrap().1)), bits(&expected), "{}", format.name());
    }
    let mut wide = Gguf::empty();
    wide.pairs = gguf(&[], 4, 0.0).pairs;
    let mut a = Tensor::f32("output.weight.lora_a", &[32, 1], 0.0);
    (a.kind, a.data) = (Format::Q8_0.ggml_type(), vec![0; 34]);
    Format::Q8_0.encode(&[0.5; 32], &mut a.data).unwrap();
    wide.tensors = vec![a, Tensor::f32("output.weight.lora_b", &[1, 8], 2.0)];
    let (_place, adapter) = open_gguf(&wide).unwrap();
    let mut out = [1.0; 32];
    let base = Config { hidden: 32, ..config };
    adapter.bind(&base).unwrap().add(Name::Head, 2..3, 1.0, &mut out).unwrap();
    assert!(out.iter().all(|&weight| (weight - 2.0).abs() < 1e-3), "{out:?}");
}

#[test]
fn scales() {
    let scale = |files: &Folder, name: Name| open(files).unwrap().1.scale(name).unwrap();
    let q_and_v = |files: &Folder| [scale(files, Name::Q(0)), scale(files, Name::V(0))];
    assert_eq!(q_and_v(&peft(&changes())), [1.5; 2]);
    let root = (3.0 / 2f64.sqrt()) as f32;
    assert_eq!(q_and_v(&configured("\"use_rslora\": false", "\"use_rslora\": true")), [root; 2]);
    assert_eq!(q_and_v(&configured("\"lora_alpha\": 3", "\"lora_alpha\": 0.25")), [0.125; 2]);
    let alphas =
        |patterns: &str| q_and_v(&configured("\"alpha_pattern\": {}", &format!("\"alpha_pattern\": {patterns}")));
    assert_eq!(alphas(r#"{"q_proj": 8}"#), [4.0, 1.5]);
    assert_eq!(alphas(r#"{"^model.layers.0.self_attn.v_proj": 8, "v_proj": 1}"#), [1.5, 4.0]);
    assert_eq!(
        alphas(r#"{"v_proj": 1, "^model.layers.0.self_attn.v_proj$": 8}"#),
        [1.5, 0.5],
        "the first that matches"
    );

    let config = halves();
    let two = [Change::random(Name::Q(0), 4, &config, 1), Change::random(Name::V(0), RANK, &config, 2)];
    let mut files = peft(&two);
    files.replace(SETTINGS, "\"rank_pattern\": {}", r#""rank_pattern": {"self_attn.q_proj": 4}"#);
    assert_eq!(q_and_v(&files), [0.75, 1.5]);
    files.replace(SETTINGS, "\"rank_pattern\": {\"self_attn.q_proj\": 4}", r#""rank_pattern": {"v_proj": 4}"#);
    says(open(&files), &[SETTINGS, "hyperparameter r: is 2 for model.layers.0.self_attn.q_proj; 4", "expected"]);

    let of_gguf = |file: &Gguf| open_gguf(file).unwrap().1.scale(Name::Q(0)).unwrap();
    assert_eq!(of_gguf(&gguf(&two, 4, 8.0)), 2.0);
    assert_eq!(of_gguf(&gguf(&two, 4, 0.0)), 1.0, "as llama.cpp has it");
    assert_eq!(of_gguf(gguf(&two, 4, 8.0).unset("adapter.lora.alpha")), 1.0);
}

#[test]
fn methods_that_are_more_are_refused() {
    for (piece, by) in [
        ("\"use_dora\": false", "\"use_dora\": true"),
        ("\"use_dora\": false", "\"use_dora\": 1"),
        ("\"use_qalora\": false", "\"use_qalora\": true"),
        ("\"use_bdlora\": null", "\"use_bdlora\": {\"nblocks\": 2}"),
        ("\"lora_bias\": false", "\"lora_bias\": true"),
        ("\"fan_in_fan_out\": false", "\"fan_in_fan_out\": true"),
        ("\"bias\": \"none\"", "\"bias\": \"all\""),
        ("\"bias\": \"none\"", "\"bias\": \"lora_only\""),
        ("\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]"),
        ("\"modules_to_save\": null", "\"modules_to_save\": \"lm_head\""),
        ("\"layer_replication\": null", "\"layer_replication\": [[0, 1]]"),
        ("\"target_parameters\": null", "\"target_parameters\": [\"x\"]"),
        ("\"trainable_token_indices\": null", "\"trainable_token_indices\": [7]"),
        ("\"alora_invocation_tokens\": null", "\"alora_invocation_tokens\": [7]"),
        ("\"revision\": null", "\"invocation_string\": \"now\""),
        ("\"arrow_config\": null", "\"arrow_config\": {\"top_k\": 3}"),
        ("\"ensure_weight_tying\": false", "\"ensure_weight_tying\": true"),
        ("\"revision\": null", "\"some_method_of_tomorrow\": true"),
        ("\"peft_type\": \"LORA\"", "\"peft_type\": \"LOHA\""),
        ("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\""),
        ("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa_niter_16\""),
        ("\"init_lora_weights\": true", "\"init_lora_weights\": \"olora\""),
        ("\"init_lora_weights\": true", "\"init_lora_weights\": \"corda\""),
        ("\"init_lora_weights\": true", "\"init_lora_weights\": \"loftq\""),
        ("\"init_lora_weights\": true", "\"init_lora_weights\": \"lora_ga\""),
    ] {
        let key = by.split('"').nth(1).unwrap();
        says(open(&configured(piece, by)), &[SETTINGS, key, "is not supported", "merge_and_unload"]);
    }
    for start in ["\"gaussian\"", "\"eva\"", "\"orthogonal\"", "false", "null"] {
        open(&configured("\"init_lora_weights\": true", &format!("\"init_lora_weights\": {start}"))).unwrap();
    }
    open(&configured("\"revision\": null", "\"parameter_of_tomorrow\": 16")).unwrap();
}

#[test]
fn configurations_that_cannot_be() {
    for (piece, by, words) in [
        ("\"peft_type\": \"LORA\",", "", "peft_type: is missing"),
        ("\"r\": 2,", "", "hyperparameter r: is missing"),
        ("\"r\": 2", "\"r\": -1", "a whole number"),
        ("\"r\": 2", "\"r\": 3", "is 3 for"),
        ("\"lora_alpha\": 3,", "", "lora_alpha: is missing"),
        ("\"lora_alpha\": 3", "\"lora_alpha\": \"3\"", "a number was expected"),
        ("\"lora_alpha\": 3", "\"lora_alpha\": 1e300", "a number that f32 holds"),
        ("\"use_rslora\": false", "\"use_rslora\": 1", "true or false"),
        ("\"alpha_pattern\": {}", "\"alpha_pattern\": [8]", "an object was expected"),
        ("\"alpha_pattern\": {}", "\"alpha_pattern\": {\"q_proj\": null}", "is null"),
        ("\"alpha_pattern\": {}", "\"alpha_pattern\": {\"q|v\": 8}", "other regular expressions are not"),
        ("\"rank_pattern\": {}", "\"rank_pattern\": {\"q_proj\": 2.5}", "is 2.5 for"),
    ] {
        says(open(&configured(piece, by)), &[SETTINGS, words]);
    }
    let many: Vec<String> = (0..5000).map(|i| format!("\"model.layers.{i}.q_proj\": 1")).collect();
    says(
        open(&configured("\"rank_pattern\": {}", &format!("\"rank_pattern\": {{{}}}", many.join(",")))),
        &["at most 4096"],
    );
}

#[test]
fn tensors_that_are_no_pairs() {
    let q = |half: &str| peft_name(Name::Q(0), half);
    let with = |tensors: &[(String, [usize; 2])]| {
        let zeros = [0.0; 64];
        let tensors = tensors.iter().map(|(name, shape)| (name.clone(), *shape, &zeros[..shape[0] * shape[1]]));
        let mut files = peft(&[]);
        open(files.set(WEIGHTS, floats(&tensors.collect::<Vec<_>>())))
    };
    let pair = [(q("lora_A.weight"), [2, 8]), (q("lora_B.weight"), [8, 2])];
    with(&pair).unwrap();
    says(with(&[]), &["none", "expected"]);
    says(with(&pair[..1]), &["q_proj.lora_A.weight", "the other is not in the file"]);
    says(with(&pair[1..]), &["q_proj.lora_B.weight", "the other is not in the file"]);
    says(with(&[pair[0].clone(), (q("lora_B.weight"), [8, 3])]), &["lora_B.weight: is [8, 3] beside", "of [2, 8]"]);
    says(with(&[&pair[..], &[(q("lora_A.default.weight"), [2, 8])]].concat()), &["lora_A", "is the same as"]);
    for (name, words) in [
        ("base_model.model.model.embed_tokens.lora_embedding_A", "of an adapter of the embedding"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector.weight", "DoRA's"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias", "a bias"),
        ("base_model.model.model.layers.0.input_layernorm.weight", "of a norm"),
        ("base_model.model.lm_head.base_layer.weight", "save_embedding_layers=False"),
        ("base_model.model.lm_head.weight", "save_embedding_layers=False"),
        ("base_model.model.model.embed_tokens.weight", "save_embedding_layers=False"),
        ("base_model.model.score.modules_to_save.weight", "trained whole"),
        ("base_model.model.transformer.h.0.attn.c_attn.lora_A.weight", "LoRA of a Llama's matrices was expected"),
        ("model.layers.0.self_attn.q_proj.weight", "no adapter of a Llama has"),
    ] {
        says(with(&[&pair[..], &[(name.into(), [2, 8])]].concat()), &[WEIGHTS, name, words, "is not supported"]);
    }
    let header = format!("{{{:?}:{{\"dtype\":\"I8\",\"shape\":[2,8],\"data_offsets\":[0,16]}},", q("lora_A.weight"))
        + &format!("{:?}:{{\"dtype\":\"I8\",\"shape\":[8,2],\"data_offsets\":[16,32]}}}}", q("lora_B.weight"));
    says(open(peft(&[]).set(WEIGHTS, safetensors(&header, &[1; 32]))), &["is stored as I8; F32, F16 or BF16"]);
}

#[test]
fn ggufs_that_are_no_plain_adapters() {
    let with = |key: &str, value: Value| open_gguf(gguf(&changes(), 4, ALPHA).set(key, value));
    says(with("general.type", Value::string("model")), &["general.type \"model\"", "not a LoRA adapter"]);
    says(open_gguf(&llama_tests::hostile::gguf::model()), &["without general.type", "not a LoRA adapter"]);
    says(with("general.architecture", Value::string("gemma")), &["general.architecture \"gemma\""]);
    says(with("adapter.type", Value::string("control_vector")), &["adapter.type \"control_vector\""]);
    let tokens = Value::array(4, 1, &7u32.to_le_bytes());
    says(with("adapter.alora.invocation_tokens", tokens), &["adapter.alora.invocation_tokens"]);
    says(with("adapter.lora.alpha", Value::f32(f32::NAN)), &["adapter.lora.alpha: is NaN"]);
    says(with("adapter.lora.alpha", Value::u32(8)), &["adapter.lora.alpha", "f32 was expected"]);
    says(with("split.count", Value::u32(2)), &["an adapter in 2 files"]);
    with("adapter.lora.task_name", Value::string("poems")).unwrap();
    // Its converter calls an adapter's architecture what it calls the base's.
    for architecture in ["mistral3", "qwen2", "qwen3", "smollm3", "granite", "seed_oss"] {
        with("general.architecture", Value::string(architecture)).unwrap();
    }
    for name in [
        "blk.0.attn_norm.weight",
        "token_embd.weight.lora_a",
        "blk.0.attn_q.weight.lora_c",
        "blk.0.ffn_up_exps.weight.lora_a",
    ] {
        let mut file = gguf(&changes(), 4, ALPHA);
        file.tensors.push(Tensor::f32(name, &[8, 2], 0.0));
        says(open_gguf(&file), &[name, "is not supported"]);
    }
}

#[test]
fn numbers_that_are_not_finite() {
    for (bad, half, place) in [(f32::NAN, "lora_A", "row 1, column 3"), (f32::INFINITY, "lora_B", "row 5, column 1")] {
        let mut changes = changes();
        match half {
            "lora_A" => changes[0].a[8 + 3] = bad,
            _ => changes[0].b[5 * RANK + 1] = bad,
        }
        let name = peft_name(Name::Q(0), half);
        says(open(&peft(&changes)), &[WEIGHTS, &name, &format!("is {bad} in {place}"), "expected"]);
    }
    let mut large = changes();
    large[0].a.fill(1e30);
    large[0].b.fill(1e30);
    let (place, adapter) = open(&peft(&large)).unwrap();
    let base = halves();
    let bound = adapter.bind(&base).unwrap();
    let error = bound.add(Name::Q(0), 3..4, 1.0, &mut [0.0; 8]).unwrap_err();
    is_of_use(&error, place.path()).unwrap();
    assert!(error.to_string().contains("adds inf to row 3, column 0"), "{error}");
    let error = bound.add(Name::Q(0), 3..4, f32::NAN, &mut [0.0; 8]).unwrap_err();
    assert!(matches!(error, Error::Parameter { name: "strength", .. }), "{error}");
}

#[test]
fn bases_that_an_adapter_does_not_fit() {
    let (place, adapter) = open(&peft(&changes())).unwrap();
    let (base, gguf_base) = (halves(), pairs());
    adapter.bind(&base).unwrap();
    let refused = |base: &Config, words: &[&str]| {
        let error = adapter.bind(base).expect_err("a refusal");
        is_of_use(&error, place.path()).unwrap_or_else(|lacks| panic!("{error} {lacks}"));
        let text = error.to_string();
        assert!(words.iter().all(|&word| text.contains(word)), "{text} lacks one of {words:?}");
    };
    let wide = Config { ffn: 32, ..base.clone() };
    refused(&wide, &["mlp.gate_proj.lora_B.weight: changes a matrix of [16, 8]; [32, 8]", "blk.0.ffn_gate.weight"]);
    let vocab = Config { vocab: 9, ..base.clone() };
    refused(&vocab, &["lm_head.lora_B.weight", "[8, 8]; [9, 8]"]);
    refused(&Config { head: Head::Tied, ..base.clone() }, &["lm_head.lora_B.weight", "has none of its own"]);
    let mut partly = gguf_base.clone();
    partly.rope.dims = 2;
    refused(&partly, &["q_proj.lora_B.weight", "turns 2 of 4 columns"]);
    let values = open(&peft(&changes()[2..])).unwrap().1;
    values.bind(&partly).unwrap();
    let deep = Change { name: Name::V(1), ..changes()[2].clone() };
    let error = open(&peft(&[deep])).unwrap().1.bind(&base).unwrap_err().to_string();
    assert!(error.contains("layers.1.self_attn.v_proj.lora_B.weight: is of layer 1; one of the base's 1"), "{error}");
}

#[test]
fn paths() {
    let place = tempfile::tempdir().unwrap();
    let says = |path: &Path, words: &[&str]| {
        let error = Adapter::open(path).expect_err("a refusal").to_string();
        assert!(words.iter().all(|&word| error.contains(word)), "{error} lacks one of {words:?}");
    };
    says(&place.path().join("none"), &["No such file"]);
    says(place.path(), &[SETTINGS, "open the folder of a LoRA adapter"]);
    std::fs::write(place.path().join("a.gguf"), "x").unwrap();
    says(place.path(), &[SETTINGS, "open a.gguf itself"]);
    std::fs::write(place.path().join(SETTINGS), CONFIG).unwrap();
    says(place.path(), &[WEIGHTS, "fetch it"]);
    std::fs::write(place.path().join("adapter_model.bin"), "x").unwrap();
    says(place.path(), &[WEIGHTS, "adapter_model.bin; convert it"]);
    peft(&changes()).write(place.path()).unwrap();
    assert_eq!(Adapter::open(place.path()).unwrap().path(), place.path());
    Adapter::open(place.path().join(WEIGHTS)).unwrap();
    says(&place.path().join(SETTINGS), &["JSON is not supported", "open the folder"]);
}

/// A file that breaks off anywhere is an error; one with other bytes is one, or an adapter that adds without harm.
#[test]
fn damaged_files() {
    let (base, place) = (pairs(), tempfile::tempdir().unwrap());
    let survive = |path: &Path, open: &Path, bytes: &[u8]| {
        std::fs::write(path, bytes).unwrap();
        let adapter = match Adapter::open(open) {
            Ok(adapter) => adapter,
            Err(error) => {
                is_of_use(&error, place.path()).unwrap_or_else(|lacks| panic!("{error} {lacks}"));
                return false;
            }
        };
        let Ok(bound) = adapter.bind(&base) else { return true };
        for name in adapter.names() {
            let (rows, cols) = name.shape(&base);
            let _ = bound.add(name, 0..rows, 1.0, &mut vec![0.0; rows * cols]);
        }
        true
    };
    let (file, fields) = gguf(&changes()[..3], 4, ALPHA).bytes_and_fields();
    let path = place.path().join("a.gguf");
    for end in (1..file.len()).step_by(5) {
        assert!(!survive(&path, &path, &file[..end]), "{end} of {} bytes", file.len());
    }
    let opened = (0..400).filter(|&seed| survive(&path, &path, &mutate::binary(&file, &fields, seed))).count();
    assert!((1..400).contains(&opened), "{opened} of 400 mutants opened");
    let folder = place.path();
    for name in [SETTINGS, WEIGHTS] {
        peft(&changes()[..3]).write(folder).unwrap();
        let file = std::fs::read(folder.join(name)).unwrap();
        for end in (1..file.len() - 2).step_by(5) {
            assert!(!survive(&folder.join(name), folder, &file[..end]), "{end} of {name}");
        }
        let opened = (0..400).filter(|&seed| survive(&folder.join(name), folder, &mutate::json(&file, seed))).count();
        assert!((1..400).contains(&opened), "{opened} of 400 mutants of {name} opened");
    }
}
