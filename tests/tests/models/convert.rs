//! Converting: a GGUF and a folder become a GGUF that opens, computes the same, and holds what its formats encode.

use std::fs;
use std::path::{Path, PathBuf};

use llama_core::adapter::Adapter;
use llama_core::backend::{Numerics, Reference};
use llama_core::checkpoint::gguf::Value;
use llama_core::checkpoint::{Checkpoint, Name, TensorView};
use llama_core::config::{Config, Temperature};
use llama_core::convert::{Converter, Importance, Measure, Mixture};
use llama_core::engine::{EngineOptions, Request};
use llama_core::format::Format;
use llama_core::numerics::rms_scale;
use llama_core::text::{Specials, Tokenizer};
use llama_core::{Error, Loader, Result};
use llama_kernels::{Cpu, CpuOptions};
use llama_tests::adapters::{self, Change};
use llama_tests::arrays::Arrays;
use llama_tests::heads;
use llama_tests::hostile::{folder, gguf};
use llama_tests::models::{Machine, bits, data, limits, logits_and_greedy, logits_in_chunks, stories260k};
use llama_tests::text::{tiny_qwen, tiny_sentencepiece};
use llama_tests::tiny::{Case, NAMES};
use tempfile::TempDir;

/// What `model` becomes, as a file in `folder`.
fn converted(model: &Checkpoint, mixture: Option<Mixture>, folder: &TempDir) -> Checkpoint {
    let path = folder.path().join(format!("{}.gguf", mixture.map_or("same", Mixture::name)));
    let converter = Converter::new(model).threads(2);
    let converter = mixture.into_iter().fold(converter, Converter::mixture);
    let mut last = None;
    let written = converter.write(&path, |progress| last = Some(progress)).unwrap();
    assert_eq!(written.bytes, fs::metadata(&path).unwrap().len());
    assert!(last.is_some_and(|progress| progress.done == progress.total && progress.total > 0));
    Checkpoint::open(&path).unwrap()
}

fn mixture(name: &str) -> Option<Mixture> {
    Some(name.parse().unwrap())
}

fn tensor<'a>(model: &'a Checkpoint, name: &str) -> TensorView<'a> {
    model.matrices().find(|view| view.name() == name).unwrap_or_else(|| panic!("{name}"))
}

#[test]
fn a_gguf_that_is_not_changed_keeps_every_key_and_byte() {
    let (folder, model) = (tempfile::tempdir().unwrap(), Checkpoint::open(stories260k()).unwrap());
    let copy = converted(&model, None, &folder);
    let pairs = |model: &Checkpoint| {
        let mut pairs: Vec<(String, Value)> =
            model.metadata().unwrap().iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
        pairs.retain(|(key, _)| key != "general.quantization_version");
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        pairs
    };
    assert_eq!(pairs(&copy), pairs(&model));
    assert_eq!(copy.tensors().len(), model.tensors().len());
    assert!(model.matrices().count() > 30);
    for view in model.matrices() {
        let other = tensor(&copy, view.name());
        assert!(other.data() == view.data() && other.format() == view.format(), "{}", view.name());
    }
    let logits = |model| {
        let mut model = Machine::Reference.load(model, limits(1, 16), Numerics::Default);
        bits(&logits_in_chunks(&mut *model, &[1, 403, 407, 261], usize::MAX))
    };
    assert_eq!(logits(&copy), logits(&model));
}

/// A folder of `tests/data/tiny` with a tokenizer, which those have not.
pub(super) fn with_tokenizer(name: &str, to: &Path) {
    for file in ["config.json", "model.safetensors"] {
        fs::copy(data().join("tiny").join(name).join(file), to.join(file)).unwrap();
    }
    add_tokenizer(to);
}

fn add_tokenizer(to: &Path) {
    fs::write(to.join("tokenizer.json"), tiny_sentencepiece().to_string()).unwrap();
    fs::write(to.join("tokenizer_config.json"), r#"{"bos_token": "<s>", "eos_token": "</s>"}"#).unwrap();
    fs::write(to.join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
}

/// What becomes of a folder without a tokenizer, with one.
pub(super) fn as_gguf(folder: &Checkpoint) -> Checkpoint {
    let place = tempfile::tempdir().unwrap();
    add_tokenizer(folder.path());
    let file = converted(folder, None, &place);
    same_shape(folder, &file);
    file
}

/// All but how positions are turned, which has another order, and for Llama 3.1 another spelling.
fn same_shape(folder: &Checkpoint, file: &Checkpoint) {
    let (folder, file) = (folder.config(), file.config());
    let architecture = folder.architecture.clone();
    assert_eq!(&Config { architecture, rope: folder.rope.clone(), ..file.clone() }, folder);
    assert_eq!(file.rope.unturned, folder.rope.unturned);
    assert_eq!((file.rope.dims, file.rope.theta), (folder.rope.dims, folder.rope.theta));
}

/// Every way to turn positions, biases, grouped and wide heads: against transformers' logits of the folder.
#[test]
fn a_folder_becomes_the_model_that_transformers_runs() {
    for name in NAMES {
        let place = tempfile::tempdir().unwrap();
        with_tokenizer(name, place.path());
        let folder = Checkpoint::open(place.path()).unwrap();
        let checkpoint = converted(&folder, None, &place);
        let source = |view: &TensorView<'_>| view.format() == Format::BF16;
        assert!(checkpoint.matrices().all(|view| source(&view)), "{name}: BF16 stays");
        assert_eq!(checkpoint.chat_template_source(), folder.chat_template_source());
        same_shape(&folder, &checkpoint);
        same_text(&folder, &checkpoint);
        let case = Case { checkpoint, ..Case::open(name) };
        let mut model = case.load(Machine::Cpu(llama_kernels::Tier::best(), 2), Numerics::Default);
        for ((ids, logits), greedy) in case.ids.iter().zip(&case.logits).zip(&case.greedy) {
            let (got, continued) = logits_and_greedy(&mut *model, ids, greedy.len() - ids.len());
            let worst = got.iter().zip(logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 2e-4, "{name}: largest error {worst}");
            assert_eq!(&continued, greedy, "{name}");
        }
    }
}

/// No key of a GGUF says that text is composed: of Qwen's architectures it is known, of others it is told.
#[test]
fn composed_text_stays_so_in_a_gguf_of_qwens_own() {
    for (name, knows) in [("qwen2", true), ("qwen3", true), ("llama3-gqa", false)] {
        let place = tempfile::tempdir().unwrap();
        with_tokenizer(name, place.path());
        fs::write(place.path().join("tokenizer.json"), tiny_qwen().to_string()).unwrap();
        fs::write(place.path().join("tokenizer_config.json"), r#"{"eos_token": "<|eot_id|>"}"#).unwrap();
        let folder = Checkpoint::open(place.path()).unwrap();
        let path = place.path().join("it.gguf");
        let notes = Converter::new(&folder).write(&path, |_| ()).unwrap().notes;
        assert_eq!(notes.iter().any(|note| note.contains("NFC")), !knows, "{name}: {notes:?}");
        let [folder, file] = [folder, Checkpoint::open(path).unwrap()].map(|model| model.tokenizer().unwrap());
        let ids = |tokenizer: &Tokenizer| tokenizer.encode_prompt("cafe\u{301} 12", Specials::AsText).unwrap();
        assert_eq!(ids(&folder) == ids(&file), knows, "{name}");
        assert_eq!(file.decode(&ids(&folder)).unwrap(), "caf\u{e9} 12");
    }
}

/// Scores keep their values in a GGUF, but not their meaning.
#[test]
fn what_scores_mean_is_told_where_a_gguf_cannot_say_it() {
    let notes = |problem: &str| {
        let (folder, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let keys = format!("\"num_labels\": 3, \"problem_type\": {problem},");
        heads::Case::open("llama3-gqa").write_classifier(folder.path(), &keys);
        add_tokenizer(folder.path());
        let model = Checkpoint::open(folder.path()).unwrap();
        Converter::new(&model).write(place.path().join("it.gguf"), |_| ()).unwrap().notes
    };
    let told = notes("\"regression\"");
    assert!(told.iter().any(|note| note.contains("problem_type") && note.contains("regression")), "{told:?}");
    for usual in ["null", "\"single_label_classification\""] {
        assert!(!notes(usual).iter().any(|note| note.contains("problem_type")), "{usual}");
    }
}

fn same_text(a: &Checkpoint, b: &Checkpoint) {
    let [a, b] = [a, b].map(|model| model.tokenizer().unwrap());
    assert_eq!(a.end_tokens(), b.end_tokens());
    assert_eq!((a.bos(), a.eos()), (b.bos(), b.eos()));
    for text in ["hello hell aaaaaaa", " <s>hello</s>  hello", "你好 é<0x0A>\n", "", "  a  "] {
        for specials in [Specials::AsText, Specials::Parse] {
            let ids = a.encode_prompt(text, specials).unwrap();
            assert_eq!(ids, b.encode_prompt(text, specials).unwrap(), "{text:?}");
            assert_eq!(a.decode(&ids).unwrap(), b.decode(&ids).unwrap());
        }
    }
}

/// A Llama in F32 of two layers whose rows are blocks of every format, and whose numbers are not.
fn blocky(wrong: Option<(&str, f32)>) -> gguf::Gguf {
    let mut file = gguf::model();
    for key in ["embedding_length", "feed_forward_length"] {
        file.set(&format!("llama.{key}"), gguf::Value::u32(256));
    }
    file.set("llama.rope.dimension_count", gguf::Value::u32(128));
    let mut random = 7u64;
    for tensor in &mut file.tensors {
        let name = String::from_utf8(tensor.name.clone()).unwrap();
        let kv = name.contains("attn_k") || name.contains("attn_v");
        tensor.dims = match name.contains("norm") {
            true => vec![256],
            false => vec![256, if name.starts_with("blk") { if kv { 128 } else { 256 } } else { 8 }],
        };
        let count = tensor.dims.iter().product();
        let mut numbers: Vec<f32> = (0..count)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 40) as f32 / (1u64 << 24) as f32 - 0.5
            })
            .collect();
        if let Some((_, bad)) = wrong.filter(|(wrong, _)| *wrong == name) {
            numbers[259] = bad;
        }
        tensor.data = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    }
    file
}

fn opened(file: &gguf::Gguf, folder: &TempDir) -> Checkpoint {
    let path = folder.path().join("model.gguf");
    fs::write(&path, file.bytes()).unwrap();
    Checkpoint::open(path).unwrap()
}

#[test]
fn matrices_are_what_their_formats_encode() {
    let folder = tempfile::tempdir().unwrap();
    let model = opened(&blocky(None), &folder);
    for (name, [down, values, head]) in [
        ("Q4_K_M", [Format::Q6_K, Format::Q6_K, Format::Q6_K]),
        ("Q3_K_L", [Format::Q5_K, Format::Q5_K, Format::Q6_K]),
        ("Q2_K", [Format::Q3_K, Format::Q3_K, Format::Q6_K]),
        ("Q4_K_S", [Format::Q4_K, Format::Q5_K, Format::Q6_K]),
        ("Q8_0", [Format::Q8_0; 3]),
        ("Q4_0", [Format::Q4_0, Format::Q4_0, Format::Q6_K]),
        ("BF16", [Format::BF16; 3]),
        ("F16", [Format::F16; 3]),
    ] {
        let copy = converted(&model, mixture(name), &folder);
        let format = |tensor_name| tensor(&copy, tensor_name).format();
        assert_eq!(format("blk.0.ffn_down.weight"), down, "{name}");
        assert_eq!(format("blk.0.attn_v.weight"), values, "{name}");
        assert_eq!(format("output.weight"), head, "{name}");
        assert_eq!(format("blk.0.ffn_up.weight"), name.parse::<Mixture>().unwrap().base());
        for view in copy.matrices() {
            let source = tensor(&model, view.name());
            let mut row = vec![0; view.data().len() / view.rows()];
            for r in 0..view.rows() {
                view.format().encode(&source.slice_rows(r..r + 1).to_f32(), &mut row).unwrap();
                assert!(view.row(r) == row, "{name}: row {r} of {}", view.name());
            }
        }
        let mut loaded = Machine::Cpu(llama_kernels::Tier::best(), 1).load(&copy, limits(1, 16), Numerics::Default);
        assert!(logits_in_chunks(&mut *loaded, &[1, 2, 3], 2).iter().all(|logit| logit.is_finite()), "{name}");
    }
}

#[test]
fn threads_change_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let model = opened(&blocky(None), &folder);
    let file = |threads: usize| {
        let path = folder.path().join(threads.to_string());
        Converter::new(&model).mixture("Q5_0".parse().unwrap()).threads(threads).write(&path, |_| ()).unwrap();
        fs::read(path).unwrap()
    };
    let one = file(1);
    assert!([0, 2, 3, 64].into_iter().all(|threads| file(threads) == one));
}

/// stories260K's rows of 172 columns are blocks of nothing: they stay floats, and the story goes on nearly the same.
#[test]
fn odd_rows_become_floats() {
    let folder = tempfile::tempdir().unwrap();
    let copy = converted(&Checkpoint::open(stories260k()).unwrap(), mixture("Q8_0"), &folder);
    assert_eq!(tensor(&copy, "blk.0.ffn_down.weight").format(), Format::F16);
    assert_eq!(tensor(&copy, "blk.0.ffn_up.weight").format(), Format::Q8_0);
    let mut engine = Loader::open(copy.path()).unwrap().load(Cpu::new(Default::default()).unwrap()).unwrap();
    let prompt = engine.encode("Once upon a time", Specials::AsText).unwrap();
    let request = Request { max_tokens: Some(5), ..Request::new(prompt) };
    assert_eq!(engine.complete(request).unwrap().text, ", there was a little");
}

/// What is in a folder apart from `model.gguf`.
fn others(folder: &TempDir) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.file_name().is_some_and(|name| name != "model.gguf")).collect()
}

fn refusal(model: &Checkpoint, to: Option<Mixture>, path: &Path) -> String {
    let converter = to.into_iter().fold(Converter::new(model), Converter::mixture);
    converter.write(path, |_| ()).unwrap_err().to_string()
}

#[test]
fn numbers_that_no_model_may_have_are_refused_and_nothing_is_left() {
    for (bad, to, says) in [
        (f32::NAN, "Q4_0", ["blk.0.attn_q.weight", "[1, 3] is NaN"]),
        (f32::INFINITY, "F32", ["blk.0.attn_q.weight", "[1, 3] is inf"]),
        (1e6, "F16", ["[1, 3] is 1000000", "as F16 holds"]),
        (f32::MAX, "Q8_0", ["[1, 3] is 3", "as Q8_0 holds"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let model = opened(&blocky(Some(("blk.0.attn_q.weight", bad))), &folder);
        let error = refusal(&model, mixture(to), &folder.path().join("new.gguf"));
        assert!(says.iter().all(|words| error.contains(words)), "{error}");
        assert!(others(&folder).is_empty(), "{:?}", others(&folder));
    }
}

#[test]
fn a_file_that_is_there_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let model = opened(&blocky(None), &folder);
    for path in [model.path(), folder.path()] {
        let error = Converter::new(&model).write(path, |_| ()).unwrap_err();
        assert!(matches!(&error, Error::Io { .. }) && error.to_string().contains("is there already"), "{error}");
    }
    let nowhere = folder.path().join("no/such/folder.gguf");
    assert!(matches!(Converter::new(&model).write(&nowhere, |_| ()), Err(Error::Io { .. })));
    assert!(others(&folder).is_empty());
    assert_eq!(fs::read(model.path()).unwrap(), blocky(None).bytes());
}

/// A folder of eight tokens with a tokenizer of its own.
fn small_folder(change: impl Fn(&mut folder::Folder)) -> (TempDir, Result<Checkpoint>) {
    let place = tempfile::tempdir().unwrap();
    let mut files = folder::model();
    change(&mut files);
    files.write(place.path()).unwrap();
    let model = Checkpoint::open(place.path());
    (place, model)
}

#[test]
fn what_a_gguf_cannot_say_is_refused() {
    let rope = |by: &'static str| {
        let llama3 = folder::CONFIG.split_once("\"rope_parameters\": ").unwrap().1.split_once("},").unwrap().0;
        move |files: &mut folder::Folder| {
            files.replace("config.json", &format!("{llama3}}}"), by);
        }
    };
    for (by, says) in [
        (r#"{"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}"#, "dynamic RoPE"),
        (r#"{"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "truncate": false}"#, "truncate"),
    ] {
        let (place, model) = small_folder(rope(by));
        let error = refusal(&model.unwrap(), None, &place.path().join("new.gguf"));
        assert!(error.contains(says) && error.contains("keep the folder"), "{error}");
    }
    let (place, model) = small_folder(|_| ());
    let error = refusal(&model.unwrap(), None, &place.path().join("new.gguf"));
    assert!(error.contains("tokenizer.json"), "{error}");
}

/// A saved folder of PEFT's, with a scale of 1.5.
fn adapter(changes: &[Change], place: &TempDir) -> Adapter {
    let path = place.path().join("adapter");
    fs::create_dir_all(&path).unwrap();
    adapters::peft(changes).write(&path).unwrap();
    Adapter::open(path).unwrap()
}

/// Base and adapter have the rows of queries and keys in halves, the new file in pairs.
#[test]
fn adapters_become_part_of_the_weights() {
    let (place, base) = (tempfile::tempdir().unwrap(), Case::open("llama3-gqa").checkpoint);
    with_tokenizer("llama3-gqa", place.path());
    let config = base.config();
    let changes = [Name::Q(0), Name::K(2), Name::V(1), Name::Down(2), Name::Head];
    let changes: Vec<_> = (0..).zip(changes).map(|(seed, name)| Change::random(name, 2, config, seed)).collect();
    let adapter = adapter(&changes, &place);
    let folder = Checkpoint::open(place.path()).unwrap();
    let write = |to: &str, strengths: &[f32]| {
        let path = place.path().join(format!("{to}{}.gguf", strengths.len()));
        let mut converter = Converter::new(&folder).threads(2).mixture(to.parse().unwrap());
        for &strength in strengths {
            converter = converter.adapter(&adapter, strength).unwrap();
        }
        converter.write(&path, |_| ()).unwrap();
        Checkpoint::open(path).unwrap()
    };
    let (plain, changed, twice) = (write("F32", &[]), write("F32", &[0.5]), write("F32", &[0.5, -0.5]));
    for name in Name::all(config).filter(|&name| plain.find(name).is_some()) {
        let numbers = |model: &Checkpoint| model.find(name).unwrap().to_f32();
        let Some(change) = changes.iter().find(|change| change.name == name) else {
            assert_eq!(numbers(&changed), numbers(&plain), "{name:?}");
            continue;
        };
        let delta = adapters::interleaved(name, config.head_dim, change.cols(), &change.delta(0.75));
        let sum: Vec<f32> = numbers(&plain).iter().zip(delta).map(|(weight, delta)| weight + delta).collect();
        assert_eq!(numbers(&changed), sum, "{name:?}");
        assert!(numbers(&twice).iter().zip(numbers(&plain)).all(|(a, b)| (a - b).abs() < 1e-6), "{name:?}");
    }
    let kept = |model: &Checkpoint| model.find(Name::Up(0)).unwrap().data().to_vec();
    assert_eq!(kept(&write("BF16", &[1.0])), kept(&write("BF16", &[])));
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let model = opened(&blocky(None), &place);
    let other = Case::open("llama3-gqa").checkpoint;
    let foreign = adapter(&[Change::random(Name::Q(0), 2, other.config(), 1)], &place);
    let refusal = |strength| Converter::new(&model).adapter(&foreign, strength).err().unwrap();
    let error = refusal(1.0).to_string();
    assert!(error.contains("adapter_model.safetensors") && error.contains("[256, 256]"), "{error}");
    assert!(matches!(refusal(f32::NAN), Error::Parameter { .. }));
}

/// Saved by PEFT, merged here: against the logits of transformers with PEFT, which adds the product to each activation.
#[test]
fn peft_adapters_come_to_pefts_logits() {
    for name in ["llama3-gqa", "llama31-rope"] {
        let (place, folder) = (tempfile::tempdir().unwrap(), data().join("adapters").join(name));
        with_tokenizer(name, place.path());
        let base = Checkpoint::open(place.path()).unwrap();
        let adapter = Adapter::open(&folder).unwrap();
        let path = place.path().join("merged.gguf");
        let converter = Converter::new(&base).adapter(&adapter, 1.0).unwrap();
        converter.mixture("F32".parse().unwrap()).write(&path, |_| ()).unwrap();
        let reference = Arrays::open(folder.join("reference.safetensors"));
        let (ids, logits, shape) = (reference.ids("input_ids"), reference.f32("logits"), reference.shape("logits"));
        let merged = Checkpoint::open(path).unwrap();
        for (ids, logits) in ids.chunks(shape[1]).zip(logits.chunks(shape[1] * shape[2])) {
            let mut model = Machine::Reference.load(&merged, limits(1, shape[1]), Numerics::Default);
            let got = logits_in_chunks(&mut *model, ids, usize::MAX);
            let worst = got.iter().zip(logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 2e-4, "{name}: largest error {worst}");
        }
    }
}

fn imatrix(entries: &[(&str, &[f32])], kind: &str) -> gguf::Gguf {
    let mut file = gguf::Gguf::empty();
    file.set("general.type", gguf::Value::string(kind));
    for (name, numbers) in entries {
        for (end, numbers) in [("in_sum2", *numbers), ("counts", &[7.0])] {
            let mut tensor = gguf::Tensor::f32(&format!("{name}.{end}"), &[numbers.len() as u64, 1], 0.0);
            tensor.data = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            file.tensors.push(tensor);
        }
    }
    file
}

/// What `llama-imatrix` wrote until 2025.
fn dat(entries: &[(&str, &[f32])]) -> Vec<u8> {
    let mut file = (entries.len() as u32).to_le_bytes().to_vec();
    for (name, numbers) in entries {
        file.extend((name.len() as u32).to_le_bytes());
        file.extend(name.as_bytes());
        file.extend([3u32, numbers.len() as u32].map(u32::to_le_bytes).as_flattened());
        file.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }
    file.extend([1u32, 4].map(u32::to_le_bytes).as_flattened());
    file.extend(b"text");
    file
}

fn importance(bytes: Vec<u8>, place: &TempDir) -> Result<Importance> {
    let path = place.path().join("imatrix");
    fs::write(&path, bytes).unwrap();
    Importance::open(path)
}

#[test]
fn columns_are_weighed_by_either_kind_of_importance_matrix() {
    let place = tempfile::tempdir().unwrap();
    let model = opened(&blocky(None), &place);
    let columns: Vec<f32> = (0..256).map(|i| (i * 37 % 256) as f32).collect();
    let entries = [("blk.0.ffn_up.weight", &columns[..]), ("blk.0.attn_k.weight", &columns)];
    for (i, bytes) in [imatrix(&entries, "imatrix").bytes(), dat(&entries)].into_iter().enumerate() {
        let importance = importance(bytes, &place).unwrap();
        let path = place.path().join(format!("{i}.gguf"));
        let converter = Converter::new(&model).importance(&importance).unwrap();
        converter.mixture("Q4_0".parse().unwrap()).write(&path, |_| ()).unwrap();
        let written = Checkpoint::open(path).unwrap();
        for name in ["blk.0.ffn_up.weight", "blk.0.attn_k.weight", "blk.0.ffn_gate.weight"] {
            let (source, view) = (tensor(&model, name), tensor(&written, name));
            let mut row = vec![0; view.row(3).len()];
            match importance.columns(name) {
                Some(columns) => view.format().encode_weighing(&source.slice_rows(3..4).to_f32(), columns, &mut row),
                None => view.format().encode(&source.slice_rows(3..4).to_f32(), &mut row),
            }
            .unwrap();
            assert_eq!(view.row(3), row, "{name}");
            assert_eq!(importance.columns(name).is_some(), !name.contains("gate"));
        }
    }
}

/// What was measured of `model` while it scored a prompt, and the bits of its scores.
fn measured(model: &Path, cpu: Option<CpuOptions>, chunk: usize) -> (Measure, Vec<u32>) {
    let options = EngineOptions { chunk, sequences: 1, context: Some(64), ..EngineOptions::default() };
    let loader = Loader::open(model).unwrap().options(options);
    let measure = Measure::of(loader.checkpoint());
    let prompt = PROMPT.map(|token| token % loader.checkpoint().config().vocab as u32);
    let mut engine = match cpu {
        Some(options) => loader.load(measure.on(Cpu::new(options).unwrap())),
        None => loader.load(measure.on(Reference::new(Numerics::Default))),
    }
    .unwrap();
    let request = Request { max_tokens: Some(0), prompt_logprobs: true, ..Request::new(prompt) };
    let scores = engine.complete(request).unwrap().prompt;
    (measure, scores.iter().map(|score| score.logprob.to_bits()).collect())
}

const PROMPT: [u32; 20] = [1, 403, 407, 261, 378, 9, 31, 500, 44, 2, 77, 261, 378, 10, 300, 12, 5, 403, 8, 90];

#[test]
fn importance_is_the_squares_that_columns_get() {
    let path = stories260k();
    let model = Checkpoint::open(&path).unwrap();
    let (measure, scores) = measured(&path, None, 512);
    let importance = measure.importance().unwrap();
    // What the first layer's norm makes of the embeddings.
    let (rows, gain) = (model.find(Name::Embed).unwrap(), model.find(Name::AttnNorm(0)).unwrap().to_f32());
    let mut want = vec![0.0f64; 64];
    for token in PROMPT {
        let row = rows.slice_rows(token as usize..token as usize + 1).to_f32();
        let scale = rms_scale(&row, model.config().eps);
        want.iter_mut().zip(&row).zip(&gain).for_each(|((sum, x), g)| *sum += f64::from(x * scale * g).powi(2));
    }
    let want: Vec<f32> = want.into_iter().map(|sum| sum as f32).collect();
    for name in ["blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"] {
        assert_eq!(importance.columns(name).unwrap(), want, "{name}");
    }
    // Every matrix got something; a tied head is an embedding's importance.
    for name in Name::all(model.config()).filter(|name| !name.is_vector() && model.find(*name).is_some()) {
        let (columns, (_, cols)) = (importance.columns(&name.gguf()), name.shape(model.config()));
        assert!(columns.is_some_and(|x| x.len() == cols && x.iter().any(|x| *x > 0.0)), "{name:?}");
    }
    // Whatever computes it, in whatever chunks: the same, and the scores are those of the model by itself.
    let mut plain = Loader::open(&path).unwrap().load(Cpu::new(CpuOptions::default()).unwrap()).unwrap();
    let request = Request { max_tokens: Some(0), prompt_logprobs: true, ..Request::new(PROMPT) };
    let plain = plain.complete(request).unwrap().prompt;
    assert_eq!(scores, plain.iter().map(|score| score.logprob.to_bits()).collect::<Vec<_>>());
    for (threads, chunk) in [(1, 512), (2, 7)] {
        let options = CpuOptions { threads: Some(threads), ..CpuOptions::default() };
        let (other, others) = measured(&path, Some(options), chunk);
        assert_eq!(others, scores);
        let other = other.importance().unwrap();
        for name in Name::all(model.config()) {
            assert_eq!(other.columns(&name.gguf()), importance.columns(&name.gguf()), "{name:?} in chunks of {chunk}");
        }
    }
    // The file says the same.
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("imatrix.gguf");
    measure.write(&file, "a text", 20).unwrap();
    let read = Importance::open(&file).unwrap();
    for name in Name::all(model.config()) {
        assert_eq!(read.columns(&name.gguf()), importance.columns(&name.gguf()), "{name:?}");
    }
    let path = place.path().join("small.gguf");
    Converter::new(&model).importance(&read).unwrap().mixture("Q8_0".parse().unwrap()).write(path, |_| ()).unwrap();
    let error = Measure::of(&model).importance().unwrap_err().to_string();
    assert!(error.contains("nothing was computed yet"), "{error}");
}

/// What holds several matrices has one format, one importance, and is called what llama.cpp calls it; an adapter changes its part.
#[test]
fn matrices_in_one_tensor_are_stored_so() {
    let place = tempfile::tempdir().unwrap();
    with_tokenizer("phi3", place.path());
    let (measure, _) = measured(place.path(), None, 512);
    let importance = measure.importance().unwrap();
    for (name, columns) in [("attn_qkv", 64), ("attn_output", 64), ("ffn_up", 64), ("ffn_down", 112)] {
        assert_eq!(importance.columns(&format!("blk.1.{name}.weight")).unwrap().len(), columns, "{name}");
    }
    assert!(
        importance.columns("blk.1.attn_q.weight").is_none() && importance.columns("blk.1.ffn_gate.weight").is_none()
    );
    let model = Checkpoint::open(place.path()).unwrap();
    let change = Change::random(Name::V(1), 2, model.config(), 1);
    let adapter = adapter(&[change], &place);
    let write = |name: &str, mixture: &str, adapted: bool| {
        let converter = Converter::new(&model).mixture(mixture.parse().unwrap()).threads(2);
        let converter = converter.importance(&importance).unwrap();
        let converter = if adapted { converter.adapter(&adapter, 1.0).unwrap() } else { converter };
        converter.write(place.path().join(name), |_| ()).unwrap();
        Checkpoint::open(place.path().join(name)).unwrap()
    };
    // Rows are too narrow for blocks of 256.
    for (mixture, qkv, up) in [("Q4_K_M", Format::Q5_1, Format::Q5_0), ("Q8_0", Format::Q8_0, Format::Q8_0)] {
        let file = write(mixture, mixture, false);
        let format = |name: &str| file.tensors().find(|tensor| tensor.name == name).unwrap().format.unwrap();
        assert_eq!((format("blk.0.attn_qkv.weight"), format("blk.0.ffn_up.weight")), (qkv, up), "{mixture}");
    }
    let [plain, adapted] = [false, true].map(|adapted| write(&format!("f32 {adapted}"), "F32", adapted));
    for (name, changed) in [(Name::Q(1), false), (Name::K(1), false), (Name::V(1), true), (Name::V(0), false)] {
        let numbers = [&model, &plain, &adapted].map(|model| model.view(name).unwrap().to_f32());
        assert_eq!((numbers[0] == numbers[1], numbers[1] != numbers[2]), (true, changed), "{name:?}");
    }
}

#[test]
fn what_is_no_importance_matrix_of_the_model_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let model = opened(&blocky(None), &place);
    let good: (&str, &[f32]) = ("blk.0.ffn_up.weight", &[1.0; 256]);
    let refused = |bytes: Vec<u8>| importance(bytes, &place).unwrap_err().to_string();
    let bad: (&str, &[f32]) = ("blk.0.ffn_up.weight", &[1.0, f32::NAN]);
    for (error, says) in [
        (refused(blocky(None).bytes()), "\"imatrix\" was expected"),
        (refused(imatrix(&[good], "model").bytes()), "\"imatrix\" was expected"),
        (refused(imatrix(&[bad], "imatrix").bytes()), "is NaN in column 1"),
        (refused(dat(&[bad])), "is NaN in column 1"),
        (refused(dat(&[good, good])), "occurs twice"),
        (refused(dat(&[])), "are none"),
        (refused(b"{\"a\": [1, 2, 3, 4, 5, 6]}".to_vec()), "no importance matrix"),
        (refused(dat(&[good])[..99].to_vec()), "cut off"),
    ] {
        assert!(error.contains(says) && error.contains("imatrix"), "{error}");
    }
    for cut in 0..50 {
        assert!(importance(dat(&[good])[..cut].to_vec(), &place).is_err());
    }
    for (entry, says) in
        [(("blk.9.ffn_up.weight", &[1.0; 256][..]), "none of"), (("blk.0.ffn_up.weight", &[1.0; 8]), "256")]
    {
        let other = importance(dat(&[entry]), &place).unwrap();
        let error = Converter::new(&model).importance(&other).err().unwrap().to_string();
        assert!(error.contains(says) && error.contains("imatrix"), "{error}");
    }
}

/// Ministral 3 at positions where its attention's temperature is not 1, as a folder and as the GGUF that becomes of it: transformers'
/// logits and tokens, and the reference's bits on every machine and in any chunks.
#[test]
fn ministral_3_has_a_temperature() {
    let place = tempfile::tempdir().unwrap();
    with_tokenizer("rope-yarn", place.path());
    let golden = data().join("temperature");
    fs::copy(golden.join("config.json"), place.path().join("config.json")).unwrap();
    let folder = Checkpoint::open(place.path()).unwrap();
    let file = as_gguf(&folder);
    assert_eq!(file.metadata().unwrap().string("general.architecture").unwrap(), Some("mistral3"));
    for checkpoint in [folder, file] {
        assert_eq!(checkpoint.config().temperature, Some(Temperature { growth: 0.3, from: 16 }));
        assert_eq!(EngineOptions::default().limits(checkpoint.config()).unwrap().context, 512);
        let case = Case::of(checkpoint, &golden.join("reference.safetensors"));
        let mut reference = case.load(Machine::Reference, Numerics::Default);
        for ((ids, logits), greedy) in case.ids.iter().zip(&case.logits).zip(&case.greedy) {
            let (got, continued) = logits_and_greedy(&mut *reference, ids, greedy.len() - ids.len());
            let worst = got.iter().zip(logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 2e-4, "largest error {worst}");
            assert_eq!(&continued, greedy);
            let want = bits(&logits_in_chunks(&mut *reference, ids, usize::MAX));
            for machine in Machine::all() {
                let mut model = case.load(machine, Numerics::Default);
                for chunk in [usize::MAX, 1, 7] {
                    assert!(bits(&logits_in_chunks(&mut *model, ids, chunk)) == want, "{machine:?}, chunks of {chunk}");
                }
            }
        }
    }
}

#[test]
fn a_temperature_that_cannot_be_is_refused() {
    let place = tempfile::tempdir().unwrap();
    with_tokenizer("rope-yarn", place.path());
    let config = fs::read_to_string(data().join("temperature/config.json")).unwrap();
    for (good, bad, says) in [
        ("_beta\": 0.3", "_beta\": 1e7", "llama_4_scaling_beta"),
        ("_beta\": 0.3", "_beta\": -1e39", "llama_4_scaling_beta"),
        ("_embeddings\": 16", "_embeddings\": 0", "original"),
    ] {
        assert!(config.contains(good), "{good}");
        fs::write(place.path().join("config.json"), config.replace(good, bad)).unwrap();
        let error = Checkpoint::open(place.path()).err().unwrap();
        assert!(matches!(error, Error::Config { .. }) && error.to_string().contains(says), "{bad}: {error}");
    }
}
