//! Texts keep to their grammars, whatever the sampling; grammars that cannot be are refused.

use std::process::Command;
use std::sync::Arc;

use llama_core::adapter::Adapter;
use llama_core::checkpoint::Name;
use llama_core::engine::{Completion, Engine, EngineOptions, Finish, Grammar, Request};
use llama_core::sample::Sampling;
use llama_core::text::Specials;
use llama_core::{Error, Loader};
use llama_kernels::Cpu;
use llama_structured::Grammars;
use llama_tests::adapters::{Change, peft};
use serde_json::{Value, json};

fn engine(drafts: usize) -> Engine {
    let options = EngineOptions { drafts, ..EngineOptions::default() };
    let loader = Loader::open(llama_examples::shipped_model()).unwrap().options(options);
    loader.load(Cpu::new(Default::default()).unwrap()).unwrap()
}

fn ask(engine: &mut Engine, grammar: &Arc<dyn Grammar>, seed: u64) -> Completion {
    let prompt = engine.encode("Lily had a", Specials::AsText).unwrap();
    let sampling = Sampling { temperature: if seed == 0 { 0.0 } else { 1.5 }, seed, ..Sampling::greedy() };
    let grammar = Some(grammar.clone());
    let completion = engine.complete(Request { sampling, grammar, ..Request::new(prompt) }).unwrap();
    assert!(matches!(completion.finish, Finish::End(_)), "{:?} after {:?}", completion.finish, completion.text);
    completion
}

#[test]
fn a_regular_expression_is_matched_to_its_end() {
    let mut engine = engine(0);
    let grammars = Grammars::of(&engine).unwrap();
    let grammar = grammars.regex("[0-9]{3}-(cat|dog|\u{e9}l\u{e9}phant)s?").unwrap();
    for seed in 0..40 {
        let text = ask(&mut engine, &grammar, seed).text;
        let (number, animal) = text.split_once('-').unwrap_or_else(|| panic!("{text:?}"));
        assert!(number.len() == 3 && number.bytes().all(|b| b.is_ascii_digit()), "{text:?}");
        let animal = animal.strip_suffix('s').unwrap_or(animal);
        assert!(["cat", "dog", "\u{e9}l\u{e9}phant"].contains(&animal), "{text:?}");
    }
}

#[test]
fn json_is_valid_by_its_schema() {
    let mut engine = engine(0);
    let schema = json!({
        "$defs": { "colour": { "enum": ["red", "green", "a \"blue\""] } },
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 12 },
            "age": { "type": "integer", "minimum": 3, "maximum": 15 },
            "colours": { "type": "array", "items": { "$ref": "#/$defs/colour" }, "minItems": 1, "maxItems": 3 },
        },
        "required": ["name", "age", "colours"],
        "additionalProperties": false,
    });
    let grammar = Grammars::of(&engine).unwrap().json_schema(&schema).unwrap();
    for seed in 0..40 {
        let text = ask(&mut engine, &grammar, seed).text;
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"));
        assert_eq!(value.as_object().unwrap().len(), 3, "{text:?}");
        assert!(value["name"].as_str().unwrap().chars().count() <= 12, "{text:?}");
        assert!((3..=15).contains(&value["age"].as_i64().unwrap()), "{text:?}");
        let colours = value["colours"].as_array().unwrap();
        assert!((1..=3).contains(&colours.len()), "{text:?}");
        assert!(colours.iter().all(|c| ["red", "green", "a \"blue\""].contains(&c.as_str().unwrap())), "{text:?}");
    }
}

#[test]
fn a_grammar_of_lark_may_nest() {
    let mut engine = engine(0);
    let grammar = Grammars::of(&engine).unwrap().lark("start: \"(\" start? \")\"").unwrap();
    for seed in 0..10 {
        let text = ask(&mut engine, &grammar, seed).text;
        let half = text.len() / 2;
        assert_eq!(text, "(".repeat(half) + &")".repeat(half));
        assert!(half > 0);
    }
}

#[test]
fn drafts_and_company_change_nothing() {
    let (mut alone, mut drafting) = (engine(0), engine(4));
    let grammar = Grammars::of(&alone).unwrap().regex("((red|green|blue) ){4,9}end").unwrap();
    let prompt = alone.encode("Lily had a", Specials::AsText).unwrap();
    for seed in 0..10 {
        for other in 0..3 {
            let sampling = Sampling { temperature: 1.0, seed: other, ..Sampling::greedy() };
            drafting.submit(Request { sampling, max_tokens: Some(30), ..Request::new(prompt.clone()) }).unwrap();
        }
        let want = ask(&mut alone, &grammar, seed);
        assert_eq!(ask(&mut drafting, &grammar, seed).tokens, want.tokens);
    }
    assert!(drafting.stats().accepted > 0, "{:?}", drafting.stats());
}

#[test]
fn what_cannot_be_a_grammar_is_refused_by_name() {
    let engine = engine(0);
    let grammars = Grammars::of(&engine).unwrap();
    let refused = |grammar: llama_core::Result<Arc<dyn Grammar>>, kind: &str, source: &str| match grammar.err() {
        Some(Error::Parameter { name, .. }) => assert_eq!(name, kind),
        other => panic!("{kind} {source}: {other:?}"),
    };
    for schema in [
        json!({ "type": "colour" }),
        json!({ "$ref": "#/nowhere" }),
        json!({ "$ref": "https://example.com/schema.json" }),
        json!(7),
        json!({ "type": "string", "pattern": "(" }),
        json!({ "type": "integer", "minimum": 5, "maximum": 4 }),
    ] {
        refused(grammars.json_schema(&schema), "json_schema", &schema.to_string());
    }
    for regex in ["(", "[z-a]", "a(?=b)"] {
        refused(grammars.regex(regex), "regex", regex);
    }
    for lark in ["", "begin: \"x\"", "start: missing"] {
        refused(grammars.lark(lark), "lark", lark);
    }
}

/// They are refused or followed; what counts is that they come back.
#[test]
fn bombs_do_no_harm() {
    let mut engine = engine(0);
    let grammars = Grammars::of(&engine).unwrap();
    let nested = (0..100).fold(json!({ "type": "integer" }), |inner, _| json!({ "type": "array", "items": inner }));
    let wide: Vec<Value> = (0..2_000).map(|i| json!({ "const": format!("{i:0>40}") })).collect();
    let bombs = [
        grammars.regex("((((a{1000}){1000}){1000}){1000}){1000}"),
        grammars.regex("(a|aa|aaa|aaaa)*b(a*)*c"),
        grammars.regex("([ab]*a[ab]{200})"),
        grammars.json_schema(&nested),
        grammars.json_schema(&json!({ "anyOf": wide })),
        grammars.lark("start: start start | \"a\""),
    ];
    let mut followed = 0;
    for grammar in bombs.into_iter().flatten() {
        let prompt = engine.encode("Lily had a", Specials::AsText).unwrap();
        let request = Request { grammar: Some(grammar), max_tokens: Some(24), ..Request::new(prompt) };
        followed += usize::from(engine.complete(request).is_ok());
    }
    assert!(followed > 0);
    assert_eq!(engine.stats().blocks_used, 0);
}

#[test]
fn an_engine_whose_texts_never_end_has_no_grammars() {
    let options = EngineOptions { end_tokens: Some(Vec::new()), ..EngineOptions::default() };
    let loader = Loader::open(llama_examples::shipped_model()).unwrap().options(options);
    let engine = loader.load(Cpu::new(Default::default()).unwrap()).unwrap();
    assert!(matches!(Grammars::of(&engine).err(), Some(Error::Tokenizer { .. })));
}

/// The program computes with the adapter that it is given.
#[test]
fn the_program_takes_an_adapter() {
    const REGEX: &str = "[a-z ]{12}";
    let (place, loader) = (tempfile::tempdir().unwrap(), Loader::open(llama_examples::shipped_model()).unwrap());
    peft(&[Change::random(Name::Down(4), 2, loader.checkpoint().config(), 1)]).write(place.path()).unwrap();
    let loader = loader.adapter("a", Adapter::open(place.path()).unwrap(), 1.0).unwrap();
    let mut engine = loader.load(Cpu::new(Default::default()).unwrap()).unwrap();
    let grammar = Grammars::of(&engine).unwrap().regex(REGEX).unwrap();
    let prompt = engine.encode("Lily had a", Specials::AsText).unwrap();
    let texts = [None, Some("a".to_owned())].map(|adapter| {
        let request = Request { grammar: Some(grammar.clone()), adapter, ..Request::new(prompt.clone()) };
        engine.complete(request).unwrap().text + "\n"
    });
    assert_ne!(texts[0], texts[1]);
    let given = [&[][..], &["--adapter".as_ref(), place.path().as_os_str()]];
    for (given, text) in given.into_iter().zip(&texts) {
        let mut program = Command::new(env!("CARGO_BIN_EXE_llama-structured"));
        let told = program.args(["--prompt", "Lily had a", "--regex", REGEX]).args(given).output().unwrap();
        assert_eq!(&String::from_utf8(told.stdout).unwrap(), text, "{}", String::from_utf8_lossy(&told.stderr));
    }
}
