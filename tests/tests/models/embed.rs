//! Embeddings and classification against transformers, and promise 1: the same bits on every machine, in every schedule, with
//! any company, found in the prefix cache or not, preempted or not.

use std::collections::HashMap;
use std::path::Path;

use super::convert::as_gguf;
use llama_core::backend::{KvFormat, Limits, Numerics, Reference};
use llama_core::checkpoint::Checkpoint;
use llama_core::config::{Head, Pooling};
use llama_core::engine::{Classifier, Completion, Embed, Engine, EngineOptions, Event, Request};
use llama_core::{Error, Loader, Result};
use llama_tests::heads::{Case, NAMES};
use llama_tests::hostile::gguf::{self, Gguf, Tensor, Value};
use llama_tests::models::{Machine, bits};

/// As for logits in `tiny.rs`.
const TOLERANCE: f32 = 2e-4;
const LABELS: &str = r#""id2label": {"0": "safe", "1": "odd", "2": "unsafe"},"#;

/// Rows of a step, sequences and blocks of an engine for embeddings.
#[derive(Debug, Clone, Copy)]
struct Room {
    tokens: usize,
    sequences: usize,
    blocks: usize,
}

const AMPLE: Room = Room { tokens: 200, sequences: 4, blocks: 40 };

fn engine(checkpoint: &Checkpoint, machine: Machine, room: Room) -> Engine {
    let Room { tokens, sequences, blocks } = room;
    let limits = Limits { tokens, sequences, outputs: sequences, context: 128, blocks, kv: KvFormat::F32 };
    let model = machine.load(checkpoint, limits, Numerics::Default);
    let options = EngineOptions { embeddings: true, ..EngineOptions::default() };
    Engine::new(model, None, &options).unwrap()
}

fn embeds(prompts: &[Vec<u32>], pooling: Pooling, normalise: bool) -> Vec<Embed> {
    let embed = |ids: &Vec<u32>| Embed { prompt: ids.clone(), pooling: Some(pooling), adapter: None, normalise };
    prompts.iter().map(embed).collect()
}

fn assert_close(what: &str, got: &[Vec<f32>], want: &[Vec<f32>]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got.len(), want.len(), "{what}");
        let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0f32, |a, b| if b <= a { a } else { b });
        assert!(worst <= TOLERANCE, "{what}: largest error {worst}");
    }
}

fn all_bits(vectors: &[Vec<f32>]) -> Vec<Vec<u32>> {
    vectors.iter().map(|vector| bits(vector)).collect()
}

fn in_folder<T>(write: impl FnOnce(&Path), then: impl FnOnce(&Checkpoint) -> T) -> T {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    then(&Checkpoint::open(folder.path()).unwrap())
}

#[test]
fn hidden_states_agree_with_transformers() {
    for name in NAMES {
        let case = Case::open(name);
        let checkpoint = Checkpoint::open(case.whole()).unwrap();
        for machine in [Machine::Reference, Machine::all()[1]] {
            let mut engine = engine(&checkpoint, machine, AMPLE);
            let mut embed = |pooling, normalise| engine.embed_all(embeds(&case.ids, pooling, normalise)).unwrap();
            assert_close(name, &embed(Pooling::Tokens, false), &case.states);
            assert_close(name, &embed(Pooling::Mean, false), &case.mean);
            assert_close(name, &embed(Pooling::Last, true), &case.normalised);
            let last: Vec<_> = case.states.iter().map(|states| states[states.len() - 64..].to_vec()).collect();
            assert_close(name, &embed(Pooling::Last, false), &last);
            for vector in embed(Pooling::Mean, true) {
                let length: f64 = vector.iter().map(|&x| f64::from(x).powi(2)).sum();
                assert!((length - 1.0).abs() < 1e-6, "{name}: {length}");
            }
        }
    }
}

#[test]
fn labels_are_scored_as_by_transformers() {
    for name in NAMES {
        let case = Case::open(name);
        in_folder(
            |folder| case.write_classifier(folder, LABELS),
            |checkpoint| {
                assert_eq!((checkpoint.config().head, checkpoint.unused().count()), (Head::None, 0));
                let file = as_gguf(checkpoint);
                for (checkpoint, machine) in
                    [(checkpoint, Machine::Reference), (checkpoint, Machine::all()[1]), (&file, Machine::Reference)]
                {
                    let classifier = Classifier::of(checkpoint).unwrap().unwrap();
                    let mut engine = engine(checkpoint, machine, AMPLE).with_classifier(classifier).unwrap();
                    assert_eq!(engine.labels(), ["safe", "odd", "unsafe"]);
                    let scores: Vec<_> = case.ids.iter().map(|ids| engine.classify(ids.clone()).unwrap()).collect();
                    assert_close(name, &scores, &case.scores);
                }
            },
        );
    }
}

/// A mean, the last state, every state: each a way of losing rows, or of adding them twice.
const WAYS: [(Pooling, bool); 4] =
    [(Pooling::Mean, false), (Pooling::Mean, true), (Pooling::Last, true), (Pooling::Tokens, true)];

/// What the reference backend gives each prompt alone, in one step, for each of [`WAYS`].
fn alone(checkpoint: &Checkpoint, prompts: &[Vec<u32>]) -> Vec<Vec<Vec<u32>>> {
    let mut engine = engine(checkpoint, Machine::Reference, AMPLE);
    let mut one = |embed: Embed| {
        let vector = engine.embed(embed).unwrap();
        bits(&vector)
    };
    WAYS.iter().map(|&(pooling, n)| embeds(prompts, pooling, n).into_iter().map(&mut one).collect()).collect()
}

/// Prompts with beginnings in common, so that blocks are found, of lengths on and beside a block's border.
fn prompts(case: &Case) -> Vec<Vec<u32>> {
    let cut = |(i, length): (usize, usize)| case.ids[i][..length].to_vec();
    [(0, 80), (0, 64), (1, 33), (0, 65), (1, 1), (0, 16), (1, 79)].into_iter().map(cut).collect()
}

#[test]
fn every_machine_and_schedule_gives_the_same_bits() {
    for name in NAMES {
        let case = Case::open(name);
        let checkpoint = Checkpoint::open(case.whole()).unwrap();
        let prompts = prompts(&case);
        let want = alone(&checkpoint, &prompts);
        let rooms = [AMPLE, Room { tokens: 7, ..AMPLE }];
        let machines = &Machine::all()[1..];
        let row_by_row = (machines[machines.len() - 1], Room { tokens: 1, sequences: 1, blocks: 9 });
        let all = machines.iter().flat_map(|&machine| rooms.map(|room| (machine, room)));
        for (machine, room) in all.chain([row_by_row]) {
            let mut engine = engine(&checkpoint, machine, room);
            // The second time the prefix cache holds all that it can.
            for round in 0..2 {
                for ((pooling, normalise), want) in WAYS.into_iter().zip(&want) {
                    let got = engine.embed_all(embeds(&prompts, pooling, normalise)).unwrap();
                    assert!(all_bits(&got) == *want, "{name}, {pooling:?}, {machine:?}, {room:?}, round {round}");
                }
            }
            assert!(engine.stats().cached_tokens > 0);
        }
    }
}

/// Beside generation, with too few blocks for all: prompts are given up half way and taken up again.
#[test]
fn company_and_preemption_change_nothing() {
    let case = Case::open("llama3-gqa");
    let checkpoint = Checkpoint::open(case.whole()).unwrap();
    let prompts = prompts(&case);
    let want = alone(&checkpoint, &prompts);
    let ask =
        |i: usize| Request { max_tokens: Some(60), ignore_end: true, ..Request::new(&case.ids[1][20 * i..][..20]) };
    let mut quiet = engine(&checkpoint, Machine::Reference, AMPLE);
    let stories: Vec<_> = (0..3).map(|i| quiet.complete(ask(i)).unwrap().tokens).collect();
    let mut preemptions = 0;
    for (tokens, blocks) in [(4, 12), (5, 13), (6, 12), (9, 14)] {
        let mut engine = engine(&checkpoint, Machine::all()[2], Room { tokens, sequences: 4, blocks });
        for (way, (pooling, normalise)) in WAYS.into_iter().enumerate() {
            let others: Vec<_> = (0..3).map(|i| engine.submit(ask(i)).unwrap()).collect();
            let embeds = embeds(&prompts, pooling, normalise).into_iter();
            let ids: Vec<_> = embeds.map(|embed| engine.submit_embed(embed).unwrap()).collect();
            let mut told = HashMap::<_, Completion>::new();
            let absorb = |event: Event| told.entry(event.id).or_insert_with(|| Completion::new(event.id)).absorb(event);
            engine.run(absorb).unwrap();
            let vectors: Vec<_> = ids.iter().map(|id| bits(&told[id].vector)).collect();
            assert!(vectors == want[way], "{pooling:?} with {tokens} rows and {blocks} blocks");
            assert!(others.iter().zip(&stories).all(|(id, story)| told[id].tokens == *story), "the others' text");
        }
        preemptions += engine.stats().preemptions;
        assert_eq!(engine.stats().blocks_used, 0);
    }
    assert!(preemptions > 8, "{preemptions} preemptions");
}

#[test]
fn a_bare_model_embeds_and_refuses_to_generate() {
    let case = Case::open("mistral-window");
    let want = alone(&Checkpoint::open(case.whole()).unwrap(), &case.ids);
    in_folder(
        |folder| case.write_bare(folder),
        |checkpoint| {
            let config = checkpoint.config();
            assert_eq!((config.head, config.pooling, config.labels.len()), (Head::None, Pooling::Last, 0));
            let mut engine = engine(checkpoint, Machine::all()[1], AMPLE);
            let got = engine.embed_all(embeds(&case.ids, WAYS[0].0, WAYS[0].1)).unwrap();
            assert!(all_bits(&got) == want[0]);
            as_gguf(checkpoint);
            let refusal = engine.submit(Request::new(case.ids[0].clone())).unwrap_err();
            assert!(matches!(refusal, Error::Unsupported { .. }), "{refusal}");
            let refusal = engine.classify(case.ids[0].clone()).unwrap_err();
            assert!(matches!(refusal, Error::Unsupported { .. }), "{refusal}");
            assert!(engine.is_idle());
        },
    );
}

#[test]
fn pooling_is_what_the_folder_says() {
    let case = Case::open("llama3-gqa");
    let pooling = |settings: &str| -> Result<Pooling> {
        let folder = tempfile::tempdir().unwrap();
        case.write_bare(folder.path());
        std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        std::fs::write(folder.path().join("1_Pooling/config.json"), settings).unwrap();
        Checkpoint::open(folder.path()).map(|checkpoint| as_gguf(&checkpoint).config().pooling)
    };
    let settings = r#"{"word_embedding_dimension": 64, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": false,
        "pooling_mode_lasttoken": false, "include_prompt": true}"#;
    let on = |mode: &str| pooling(&settings.replace(&format!("{mode}\": false"), &format!("{mode}\": true")));
    assert_eq!(on("pooling_mode_mean_tokens").unwrap(), Pooling::Mean);
    assert_eq!(on("pooling_mode_lasttoken").unwrap(), Pooling::Last);
    for refused in [on("pooling_mode_cls_token"), pooling(settings), pooling("{\"pooling_mode_lasttoken\": 1}")] {
        assert!(matches!(refused, Err(Error::Unsupported { .. } | Error::Config { .. })), "{refused:?}");
    }
}

#[test]
fn labels_are_named_as_the_folder_names_them() {
    let case = Case::open("llama3-gqa");
    let labels = |keys: &str| -> Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        case.write_classifier(folder.path(), keys);
        Checkpoint::open(folder.path()).map(|checkpoint| checkpoint.config().labels.clone())
    };
    assert_eq!(labels(LABELS).unwrap(), ["safe", "odd", "unsafe"]);
    assert_eq!(labels("\"num_labels\": 3,").unwrap(), ["LABEL_0", "LABEL_1", "LABEL_2"]);
    let text = labels("").unwrap_err().to_string();
    assert!(text.contains("score.weight: is [3, 64]; [2, 64] was expected"), "transformers' default is 2: {text}");
}

fn open(file: &Gguf) -> Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    Checkpoint::open(path)
}

#[test]
fn pooling_and_labels_are_what_a_gguf_says() {
    let config = |file: &Gguf| open(file).unwrap().config().clone();
    let plain = config(&gguf::model());
    assert_ne!(plain.head, Head::None);
    let mut headless = gguf::model();
    headless.tensors.retain(|tensor| tensor.name != b"output.weight");
    assert_eq!(config(&headless).head, Head::Tied);
    for (number, pooling, head) in [
        (0, Pooling::Last, Head::Tied),
        (1, Pooling::Mean, Head::None),
        (3, Pooling::Last, Head::None),
        (4, Pooling::Last, Head::None),
    ] {
        let config = config(headless.set("llama.pooling_type", Value::u32(number)));
        assert_eq!((config.pooling, config.head), (pooling, head), "pooling_type {number}");
    }
    let hidden = plain.hidden as u64;
    headless.unset("llama.pooling_type").tensors.push(Tensor::f32("cls.output.weight", &[hidden, 2], 0.5));
    let found = config(&headless);
    assert_eq!(
        (found.head, found.labels.as_slice()),
        (Head::None, ["LABEL_0", "LABEL_1"].map(String::from).as_slice())
    );
    let named = config(headless.set("llama.classifier.output_labels", Value::strings(&["no", "yes"])));
    assert_eq!(named.labels, ["no", "yes"]);
    let checkpoint = open(&headless).unwrap();
    let classifier = Classifier::of(&checkpoint).unwrap().unwrap();
    let mut engine = engine(&checkpoint, Machine::Reference, AMPLE).with_classifier(classifier).unwrap();
    let (scores, state) =
        (engine.classify([1, 2]).unwrap(), engine.embed(Embed { normalise: false, ..Embed::new([1, 2]) }));
    let sum: f32 = state.unwrap().iter().map(|x| 0.5 * x).sum();
    assert!(scores.len() == 2 && scores.iter().all(|score| (score - sum).abs() < 1e-4), "{scores:?} {sum}");
}

/// A model without a head needs no option: its engine has nothing else to give. The loader brings the classifier along.
#[test]
fn a_loaded_classifier_is_ready() {
    let mut file = gguf::model();
    file.tensors.retain(|tensor| tensor.name != b"output.weight");
    let hidden = open(&file).unwrap().config().hidden as u64;
    file.tensors.push(Tensor::f32("cls.output.weight", &[hidden, 1], 0.5));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reward.gguf");
    let load = |file: &Gguf| {
        std::fs::write(&path, file.bytes()).unwrap();
        Loader::open(&path)?.load(Reference::default())
    };
    let mut engine = load(&file).unwrap();
    assert_eq!(engine.labels(), ["LABEL_0"]);
    assert_eq!(engine.classify([1, 2]).unwrap().len(), 1);
    assert_eq!(engine.embed(Embed::new([1, 2])).unwrap().len(), hidden as usize);
    assert!(matches!(engine.complete(Request::new([1])), Err(Error::Unsupported { .. })));
    file.tensor("cls.output.weight").data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let refusal = load(&file).err().unwrap().to_string();
    assert!(refusal.contains("cls.output.weight: element 0 is not finite"), "{refusal}");
}

#[test]
fn another_model_s_classifier_is_refused() {
    let case = Case::open("llama3-gqa");
    let classifier = in_folder(|f| case.write_classifier(f, LABELS), |c| Classifier::of(c).unwrap().unwrap());
    let whole = Checkpoint::open(case.whole()).unwrap();
    let refusal = engine(&whole, Machine::Reference, AMPLE).with_classifier(classifier).err().unwrap();
    assert!(matches!(refusal, Error::Parameter { name: "classifier", .. }), "{refusal}");
}
