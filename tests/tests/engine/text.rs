//! Tokens to text through the engine, with a model that says what it is told to: whole characters only, stop strings
//! wherever tokens cut them, no text for ends.

use std::sync::Arc;

use llama_core::backend::Limits;
use llama_core::batch::{Batch, BlockId};
use llama_core::config::Config;
use llama_core::engine::{Completion, Engine, EngineOptions, Finish, MAX_STOP_BYTES, MAX_STOP_STRINGS, Request};
use llama_core::model::Model;
use llama_core::text::{Order, Scheme, SpacePrefix, TokenKind, Tokenizer, Vocab};
use llama_core::{Error, Result};
use proptest::prelude::*;

use super::toy;

const BOS: u32 = 1;
const END: u32 = 2;
/// Token of byte 0.
const BYTES: u32 = 3;
const WORDS: [&str; 8] = ["Hello", "\u{2581}world", "\u{2581}", "END", "\u{2581}of", "lo", "🦙", "é"];
/// The model's embedding has this many rows more than the tokenizer has tokens.
const PADDING: usize = 5;

fn tokenizer() -> Arc<Tokenizer> {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    let mut kinds = vec![TokenKind::Unknown, TokenKind::Control, TokenKind::Control];
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    kinds.extend([TokenKind::Byte; 256]);
    tokens.extend(WORDS.map(String::from));
    kinds.extend([TokenKind::Normal; WORDS.len()]);
    let scores = (0..tokens.len()).map(|i| -(i as f32)).collect();
    let scheme = Scheme::SentencePiece { order: Order::Scores(scores), space_prefix: SpacePrefix::Every };
    let (bos, eos, unk) = (Some(BOS), Some(END), Some(0));
    let (end_tokens, strips) = (vec![], vec![]);
    let vocab =
        Vocab { tokens, kinds, scheme, bos, eos, unk, end_tokens, add_bos: true, add_eos: false, strips, infill: None };
    Arc::new(Tokenizer::new(vocab).unwrap())
}

fn word(text: &str) -> u32 {
    BYTES + 256 + WORDS.iter().position(|&word| word == text).unwrap() as u32
}

fn byte(byte: u8) -> u32 {
    BYTES + u32::from(byte)
}

fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(byte).collect()
}

/// Says `script[p]` after position `p`, and then `END`.
struct Script {
    config: Config,
    limits: Limits,
    script: Vec<u32>,
}

impl Model for Script {
    fn config(&self) -> &Config {
        &self.config
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn forward(&mut self, batch: &Batch, logits: &mut Vec<f32>) -> Result<()> {
        logits.clear();
        for &row in &batch.outputs {
            let next = self.script.get(batch.positions[row as usize] as usize).copied().unwrap_or(END);
            logits.extend((0..self.config.vocab as u32).map(|token| f32::from(u8::from(token == next))));
        }
        Ok(())
    }

    fn states(&mut self, _states: &mut Vec<f32>) -> Result<()> {
        unreachable!("a script has no states")
    }

    fn copy_blocks(&mut self, _pairs: &[(BlockId, BlockId)]) -> Result<()> {
        Ok(())
    }

    fn identity(&self) -> u64 {
        0
    }

    fn read_block(&mut self, _block: BlockId, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        Ok(())
    }

    fn write_block(&mut self, _block: BlockId, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn backend(&self) -> String {
        "script".into()
    }
}

fn engine(script: &[u32]) -> Engine {
    let tokenizer = tokenizer();
    let config = Config { vocab: tokenizer.vocab() + PADDING, ..toy::config() };
    let model = Script { config, limits: toy::limits(64, 4, 4, 64), script: script.to_vec() };
    Engine::new(Box::new(model), Some(tokenizer), &EngineOptions::default()).unwrap()
}

/// What the script becomes after `BOS`, and the pieces in which it came.
fn say(script: &[u32], stops: &[&str]) -> (Completion, Vec<String>) {
    let stop_strings = stops.iter().map(|&stop| stop.into()).collect();
    let mut pieces = Vec::new();
    let request = Request { stop_strings, ..Request::new([BOS]) };
    let completion = engine(script).complete_with(request, |event| pieces.push(event.text.clone())).unwrap();
    assert_eq!(pieces.concat(), completion.text);
    (completion, pieces)
}

#[test]
fn a_character_comes_when_it_is_whole() {
    let (completion, pieces) = say(&bytes("a🦙é"), &[]);
    assert_eq!(completion.text, "a🦙é");
    assert_eq!(pieces, ["a", "", "", "", "🦙", "", "é", ""]);
}

#[test]
fn what_never_becomes_a_character_is_replaced() {
    let (completion, _) = say(&[byte(b'a'), byte(0xFF), byte(b'b'), byte(0xF0), byte(0x9F)], &[]);
    assert_eq!(completion.text, "a\u{FFFD}b\u{FFFD}", "the last one when the end comes");
}

#[test]
fn an_end_token_is_reported_and_is_not_text() {
    let (completion, _) = say(&[word("Hello"), END, word("lo")], &[]);
    assert_eq!(completion.text, "Hello");
    assert_eq!(completion.tokens, [word("Hello"), END]);
    assert!(matches!(completion.finish, Finish::End(END)));
}

#[test]
fn an_ignored_end_token_has_no_text_either() {
    let request = Request { ignore_end: true, max_tokens: Some(3), ..Request::new([BOS]) };
    let completion = engine(&[word("Hello"), END, word("lo")]).complete(request).unwrap();
    assert_eq!((completion.text.as_str(), completion.tokens.len()), ("Hellolo", 3));
    assert!(matches!(completion.finish, Finish::Length));
}

#[test]
fn a_stop_string_is_found_across_tokens_and_cut_off() {
    let script = [word("Hello"), word("\u{2581}world"), word("\u{2581}of"), word("END")];
    for (stop, text) in [("lo w", "Hel"), ("Hello", ""), ("d ofE", "Hello worl"), ("END", "Hello world of")] {
        let (completion, pieces) = say(&script, &["never", stop]);
        assert_eq!(completion.text, text, "stop {stop:?}");
        assert!(matches!(&completion.finish, Finish::Stop(string) if string == stop));
        assert!(pieces.iter().all(|piece| text.contains(piece.as_str())), "a piece shows part of the stop string");
    }
}

#[test]
fn a_stop_string_is_told_on_request() {
    let script = [word("Hello"), word("\u{2581}world"), word("\u{2581}of"), word("END")];
    for (stop, text) in
        [("lo w", "Hello w"), ("Hello", "Hello"), ("d ofE", "Hello world ofE"), ("x", "Hello world ofEND")]
    {
        let request = Request { stop_strings: vec![stop.into()], include_stop: true, ..Request::new([BOS]) };
        let completion = engine(&script).complete(request).unwrap();
        assert_eq!(completion.text, text, "stop {stop:?}");
        assert_eq!(matches!(&completion.finish, Finish::Stop(string) if string == stop), stop != "x");
    }
}

#[test]
fn a_stop_string_that_does_not_come_is_given_back() {
    let script = [word("Hello"), word("\u{2581}world")];
    let (completion, pieces) = say(&script, &["world!", "lo wo!"]);
    assert_eq!(completion.text, "Hello world");
    assert!(matches!(completion.finish, Finish::End(END)));
    assert_eq!(pieces, ["Hel", "lo ", "world"]);
}

#[test]
fn a_stop_string_may_be_cut_inside_a_character() {
    let (completion, pieces) = say(&bytes("x🦙🦙é stop"), &["🦙é"]);
    assert_eq!(completion.text, "x🦙");
    assert_eq!(completion.tokens.len(), 11, "it ends with the last byte of the stop string");
    assert!(matches!(completion.finish, Finish::Stop(_)));
    assert_eq!(pieces.iter().filter(|piece| !piece.is_empty()).collect::<Vec<_>>(), ["x", "🦙"]);
}

#[test]
fn a_stop_string_ends_nothing_before_min_tokens() {
    let script = [word("Hello"), word("END"), word("lo"), word("END"), word("lo"), word("END")];
    for (min_tokens, text, count) in [(0, "Hello", 2), (1, "Hello", 2), (2, "HelloENDlo", 4), (4, "HelloENDloENDlo", 6)]
    {
        let request = Request { stop_strings: vec!["END".into()], min_tokens, ..Request::new([BOS]) };
        let completion = engine(&script).complete(request).unwrap();
        assert_eq!((completion.text.as_str(), completion.tokens.len()), (text, count), "min_tokens {min_tokens}");
        assert!(matches!(completion.finish, Finish::Stop(_)));
    }
    // It begins among the first tokens and is complete after them.
    let request = Request { stop_strings: vec!["lo world".into()], min_tokens: 1, ..Request::new([BOS]) };
    let completion = engine(&[word("Hello"), word("\u{2581}world")]).complete(request).unwrap();
    assert_eq!(completion.text, "Hel");
}

#[test]
fn a_stop_token_has_no_text() {
    let request = Request { stop_tokens: vec![word("lo")], ..Request::new([BOS]) };
    let completion = engine(&[word("Hello"), word("lo")]).complete(request).unwrap();
    assert_eq!(completion.text, "Hello");
    assert!(matches!(completion.finish, Finish::StopToken(token) if token == word("lo")));
}

#[test]
fn a_control_token_has_a_text_where_it_is_to_be_spelled() {
    for (spelled, text) in [(vec![], "Hellolo"), (vec![BOS], "Hello<s>lo")] {
        let request = Request { spelled_tokens: spelled, max_tokens: Some(3), ..Request::new([BOS]) };
        let completion = engine(&[word("Hello"), BOS, word("lo")]).complete(request).unwrap();
        assert_eq!(completion.text, text);
    }
}

#[test]
fn held_back_text_comes_with_a_cancel_and_with_the_length() {
    let stop_strings = vec!["lo world".into()];
    let request = Request { stop_strings, max_tokens: Some(1), ..Request::new([BOS]) };
    let mut engine = engine(&[word("Hello"), word("lo")]);
    assert_eq!(engine.complete(request.clone()).unwrap().text, "Hello");
    let id = engine.submit(Request { max_tokens: Some(9), ..request }).unwrap();
    assert_eq!(engine.step().unwrap().next().unwrap().text, "Hel");
    assert!(engine.cancel(id));
    let last = engine.step().unwrap().next().unwrap();
    assert_eq!(last.text, "lo");
    assert!(matches!(last.finish, Some(Finish::Cancelled)));
}

#[test]
fn padding_of_the_embedding_has_no_text() {
    let padding = tokenizer().vocab() as u32 + 1;
    let (completion, _) = say(&[word("Hello"), padding, word("lo")], &[]);
    assert_eq!(completion.text, "Hellolo");
    assert!(matches!(completion.finish, Finish::End(END)));
}

#[test]
fn the_first_space_belongs_to_the_text_that_goes_on_and_not_to_a_new_one() {
    let script = [word("\u{2581}world"), word("\u{2581}world")];
    assert_eq!(say(&script, &[]).0.text, "world world");
    let prompt = [BOS, word("Hello")];
    let completion = engine(&[END, script[0], script[1]]).complete(Request::new(prompt)).unwrap();
    assert_eq!(completion.text, " world world");
}

#[test]
fn hostile_stop_strings_are_refused_by_name() {
    let mut engine = engine(&[]);
    let cases = [
        vec![String::new()],
        vec!["a".into(), String::new()],
        vec!["x".repeat(MAX_STOP_BYTES + 1)],
        vec!["x".into(); MAX_STOP_STRINGS + 1],
    ];
    for stop_strings in cases {
        let error = engine.submit(Request { stop_strings, ..Request::new([BOS]) }).unwrap_err();
        assert!(matches!(error, Error::Parameter { name: "stop_strings", .. }), "{error}");
    }
    assert!(engine.is_idle());
}

#[test]
fn a_tokenizer_larger_than_the_model_is_refused() {
    let tokenizer = tokenizer();
    let config = Config { vocab: tokenizer.vocab() - 1, ..toy::config() };
    let model = Script { config, limits: toy::limits(64, 4, 4, 64), script: vec![] };
    let error = Engine::new(Box::new(model), Some(tokenizer), &EngineOptions::default()).err().unwrap();
    assert!(matches!(error, Error::Tokenizer { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes in any tokens, with and without stop strings: the pieces are the whole text up to the first stop string.
    #[test]
    fn the_pieces_are_the_text(
        script in prop::collection::vec(prop_oneof![BYTES..BYTES + 256, BYTES + 256..BYTES + 264], 0..60),
        stops in prop::collection::vec("[a-zé🦙 ]{1,3}|lo|END| w", 0..3),
    ) {
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let (completion, _) = say(&script, &stops);
        let whole = tokenizer().decode(&script).unwrap();
        let cut = |stop: &&str| whole.find(stop).map(|at| (at + stop.len(), at));
        match stops.iter().filter_map(cut).min() {
            // Of several, the one that is complete first.
            Some((_, at)) => prop_assert_eq!(&completion.text, &whole[..at]),
            None => prop_assert_eq!(&completion.text, &whole),
        }
    }
}
