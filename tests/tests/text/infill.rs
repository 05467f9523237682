//! Prompts that ask for what belongs between two texts: against Meta's own program, and by the rules of every known kind.
//!
//! Four prompts of Mistral's v3 vocabulary, which Codestral has, were compared by hand with mistral_common 1.13.1: the same ids.

use llama_core::Error;
use llama_core::checkpoint::gguf::Header;
use llama_core::text::{Infill, Specials, Tokenizer};
use llama_tests::hostile::gguf::{Gguf, Value as Given, model};
use llama_tests::text::{from_environment, json, tiny_byte_level, tiny_sentencepiece};
use serde_json::{Value, json};

/// `vocabulary`, to which tokens are added from `id` on: control tokens if they are `special`.
fn with(mut vocabulary: Value, id: usize, special: bool, spellings: &[&str]) -> Tokenizer {
    let added = vocabulary["added_tokens"].as_array_mut().unwrap();
    let token = |(id, content): (usize, &&str)| json!({"id": id, "content": content, "special": special});
    added.extend((id..).zip(spellings).map(token));
    Tokenizer::from_json(vocabulary.to_string().as_bytes(), None).unwrap()
}

fn size(vocabulary: &Value) -> usize {
    let ids = vocabulary["added_tokens"].as_array().unwrap().iter().map(|token| token["id"].as_u64().unwrap() as usize);
    vocabulary["model"]["vocab"].as_object().unwrap().len().max(ids.max().unwrap() + 1)
}

/// The first example of Meta's repository, with the ids that its program has for it (quoted in llama.cpp's issue 3503). The
/// vocabulary is Llama 2's with CodeLlama's tokens after it; seven pieces before them are parts of their spellings.
#[test]
fn codellama_is_metas() {
    let Some(folder) = from_environment("LLAMA_REFERENCE") else { return };
    let llama2 = json(folder.join("tokenizers/llama2-hf/tokenizer.json"));
    let tokens = ["▁<SU", "▁<SUF", "▁<PRE", "▁<M", "▁<MID", "▁<E", "▁<EOT", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"];
    let tokenizer = with(llama2, 32_000, true, &tokens);
    let got =
        tokenizer.encode_infill("def remove_non_ascii(s: str) -> str:\n    \"\"\" ", "\n    return result\n").unwrap();
    let expected = [
        1, 32007, 822, 3349, 29918, 5464, 29918, 294, 18869, 29898, 29879, 29901, 851, 29897, 1599, 851, 29901, 13,
        1678, 9995, 29871, 32008, 13, 1678, 736, 1121, 13, 32009,
    ];
    assert_eq!(got, expected);
    assert_eq!(tokenizer.infill().unwrap().end_tokens, [32_010]);
}

/// Prefix, suffix, middle, and what else ends a middle, of each kind.
const KINDS: [(&[&str], bool); 6] = [
    (&["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"], false),
    (&["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "<|EOT|>"], false),
    (&["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>", "<filename>", "<reponame>"], false),
    (&["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|file_sep|>"], false),
    (&["[PREFIX]", "[SUFFIX]"], true),
    (&["<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"], true),
];

#[test]
fn every_known_kind_has_its_order() {
    for (vocabulary, bos) in [(tiny_byte_level(), "<|begin|>"), (tiny_sentencepiece(), "<s>")] {
        let first = size(&vocabulary);
        for ((spellings, suffix_first), special) in KINDS.iter().flat_map(|kind| [(kind, true), (kind, false)]) {
            let tokenizer = with(vocabulary.clone(), first, special, spellings);
            let id = |spelling: &str| tokenizer.id(spelling).unwrap_or_else(|| panic!("{spelling}"));
            let text = |text: &str| tokenizer.encode(text, Specials::AsText).unwrap();
            // What a suffix is without a space in front: the rest of a longer text.
            let rest = |text: &str| tokenizer.encode(&format!("é{text}"), Specials::AsText).unwrap();
            let (prefix, suffix) = ("hello ", "hello</s>");
            let after = rest(suffix).split_off(rest("").len());
            let (before, after) = ([vec![id(spellings[0])], text(prefix)], [vec![id(spellings[1])], after]);
            let parts = if *suffix_first { [after, before] } else { [before, after] };
            let middle = spellings.get(2).map(|middle| id(middle));
            let expected = [id(bos)].into_iter().chain(parts.concat().concat()).chain(middle);
            let got = tokenizer.encode_infill(prefix, suffix).unwrap();
            assert_eq!(got, expected.collect::<Vec<_>>(), "{spellings:?}");
            let ends = spellings.iter().skip(3).map(|end| id(end)).collect::<Vec<_>>();
            assert_eq!(tokenizer.infill().unwrap().end_tokens, ends, "{spellings:?}");
            assert_eq!(tokenizer.encode_infill("", "").unwrap().len(), 3 + usize::from(middle.is_some()));
        }
    }
}

#[test]
fn a_vocabulary_that_lacks_one_of_them_is_refused() {
    let vocabulary = tiny_byte_level();
    let first = size(&vocabulary);
    for (spellings, _) in KINDS {
        let needed = spellings.len().min(3);
        for left_out in 0..needed {
            let mut spellings = spellings[..needed].to_vec();
            spellings.remove(left_out);
            let tokenizer = with(vocabulary.clone(), first, true, &spellings);
            assert_eq!(tokenizer.infill(), None);
            let refused = tokenizer.encode_infill("a", "b").unwrap_err();
            assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
        }
    }
}

/// A GGUF of eight tokens whose keys name these.
fn keyed(keys: &[(&str, u32)], spelled: &[&str]) -> Tokenizer {
    let mut file: Gguf = model();
    let mut tokens = ["<unk>", "<s>", "</s>", "a", "b", "c", "d", "e"];
    tokens[8 - spelled.len()..].copy_from_slice(spelled);
    file.set("tokenizer.ggml.tokens", Given::strings(&tokens));
    for (key, id) in keys {
        file.set(&format!("tokenizer.ggml.{key}_token_id"), Given::u32(*id));
    }
    let header = Header::parse("x.gguf".as_ref(), &file.bytes()).unwrap();
    Tokenizer::from_gguf(header.metadata()).unwrap()
}

#[test]
fn the_keys_of_a_gguf_come_before_spellings() {
    let infill = |keys: &[(&str, u32)], spelled: &[&str]| keyed(keys, spelled).infill().cloned();
    let named = [("fim_pre", 3), ("fim_suf", 4), ("fim_mid", 5), ("fim_sep", 6), ("fim_pad", 7)];
    let expected = Infill { prefix: 3, suffix: 4, middle: Some(5), suffix_first: false, end_tokens: vec![7, 6] };
    assert_eq!(infill(&named, &[]), Some(expected.clone()));
    let spelled = ["<fim_suffix>", "<fim_prefix>", "<fim_middle>"];
    assert_eq!(infill(&named, &spelled), Some(expected.clone()));
    let old = [("prefix", 3), ("suffix", 4), ("middle", 5)];
    assert_eq!(infill(&old, &[]), Some(Infill { end_tokens: vec![], ..expected.clone() }));
    // Without a middle, and with tokens that are known to be so, the suffix comes first.
    let first = Infill { suffix_first: true, end_tokens: vec![], ..expected.clone() };
    assert_eq!(infill(&named[..2], &[]), Some(Infill { middle: None, ..first.clone() }));
    let seed = [("fim_pre", 5), ("fim_suf", 6), ("fim_mid", 7)];
    let seed = infill(&seed, &["<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"]);
    assert_eq!(seed, Some(Infill { prefix: 5, suffix: 6, middle: Some(7), ..first }));
    // -1 is none.
    assert_eq!(infill(&[("fim_pre", u32::MAX), ("fim_suf", 4)], &[]), None);
    assert_eq!(infill(&named[..1], &[]), None);
}
