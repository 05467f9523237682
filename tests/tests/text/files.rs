//! Tokenizers as files of many origins have them: older converters' GGUFs, folders whose small files add tokens.

use llama_core::Result;
use llama_core::checkpoint::Checkpoint;
use llama_core::checkpoint::gguf::Header;
use llama_core::text::{Specials, Tokenizer};
use llama_tests::hostile::folder::{self, Folder};
use llama_tests::hostile::gguf::{Gguf, Value, model};
use llama_tests::hostile::is_of_use;
use llama_tests::text::{tiny_byte_level, tiny_sentencepiece};
use serde_json::{Value as Json, json};

fn from_gguf(file: &Gguf) -> Tokenizer {
    let header = Header::parse("x.gguf".as_ref(), &file.bytes()).unwrap();
    Tokenizer::from_gguf(header.metadata()).unwrap()
}

/// Five tokens whose merges do not lead to `abc`, with a pre-tokenizer of that name.
fn byte_level(pre: &str) -> Gguf {
    let mut file = model();
    file.set("tokenizer.ggml.model", Value::string("gpt2"))
        .set("tokenizer.ggml.pre", Value::string(pre))
        .set("tokenizer.ggml.tokens", Value::strings(&["a", "b", "c", "abc", "<s>"]))
        .set("tokenizer.ggml.token_type", Value::i32s(&[1, 1, 1, 1, 3]))
        .set("tokenizer.ggml.merges", Value::strings(&[]))
        .set("tokenizer.ggml.bos_token_id", Value::u32(4))
        .unset("tokenizer.ggml.scores");
    file
}

/// Names share a pattern and not what else llama.cpp ties to a name.
#[test]
fn whole_words_and_bos_go_by_the_name() {
    for (pre, whole_words, bos) in [
        ("llama-bpe", true, true),
        ("falcon3", true, true),
        ("tekken", true, true),
        ("minicpm5", true, false),
        ("dbrx", false, false),
        ("smaug-bpe", false, false),
        ("smollm", false, false),
        ("deepseek-coder", false, false),
    ] {
        let ids = from_gguf(&byte_level(pre)).encode_prompt("abc", Specials::AsText).unwrap();
        let (begin, word) = if ids[0] == 4 { (true, &ids[1..]) } else { (false, &ids[..]) };
        assert_eq!((word == [3], begin), (whole_words, bos), "{pre}: {ids:?}");
    }
}

/// `<|im_start|>` as a user-defined token, from before converters knew better: what a user writes does not become it.
#[test]
fn old_files_keep_their_control_tokens() {
    let mut file = model();
    let tokens = ["<unk>", "<s>", "</s>", "<|im_start|>", "<｜User｜>", "<think>", "<|>", "a"];
    file.set("tokenizer.ggml.tokens", Value::strings(&tokens))
        .set("tokenizer.ggml.token_type", Value::i32s(&[2, 3, 3, 4, 4, 4, 4, 1]));
    let tokenizer = from_gguf(&file);
    assert_eq!([3, 4, 5, 6].map(|id| tokenizer.is_control(id)), [true, true, false, false]);
    let found = |specials| tokenizer.encode("<|im_start|><｜User｜><think>", specials).unwrap();
    assert_eq!(found(Specials::Parse), [3, 4, 5]);
    assert!(!found(Specials::AsText).iter().any(|id| [3, 4].contains(id)));
}

/// A folder with a tokenizer and `files`, as [`Tokenizer::from_folder`] reads it.
fn from_folder(tokenizer: &Json, files: &[(&str, Json)]) -> Result<Tokenizer> {
    let place = tempfile::tempdir().unwrap();
    let mut folder = Folder::default();
    folder.set("tokenizer.json", tokenizer.to_string());
    for (name, contents) in files {
        folder.set(name, contents.to_string());
    }
    folder.write(place.path()).unwrap();
    let opened = Tokenizer::from_folder(place.path());
    opened.inspect_err(|error| is_of_use(error, place.path()).unwrap_or_else(|lacks| panic!("{error} {lacks}")))
}

#[test]
fn tokens_added_beside_tokenizer_json() {
    let json = tiny_sentencepiece();
    let next = Tokenizer::from_json(json.to_string().as_bytes(), None).unwrap().vocab() as u32;
    let [start, pad] = [next, next + 1].map(|id| id.to_string());
    let decoder = json!({"added_tokens_decoder": {
        "1": {"content": "<s>", "special": true},
        start: {"content": "<|im_start|>", "special": true, "lstrip": false},
        pad: {"content": "[PAD]", "special": true, "rstrip": true},
    }});
    let ids = json!({"<|im_start|>": next, "[PAD]": next + 1, "<s>": 1});
    for file in [("tokenizer_config.json", decoder.clone()), ("added_tokens.json", ids.clone())] {
        let tokenizer = from_folder(&json, &[file]).unwrap();
        assert_eq!(tokenizer.vocab() as u32, next + 2);
        assert_eq!(tokenizer.encode("<|im_start|>[PAD]", Specials::Parse).unwrap(), [next, next + 1]);
        assert!(tokenizer.is_control(next) && tokenizer.is_control(1));
    }
    let other = json!({"<|im_end|>": 3});
    assert!(from_folder(&json, &[("added_tokens.json", other)]).unwrap_err().to_string().contains("already"));
    let known = json!({"added_tokens_decoder": {"9999": {"content": "hello"}}});
    let tokenizer = from_folder(&json, &[("tokenizer_config.json", known)]).unwrap();
    assert_eq!(tokenizer.vocab() as u32, next, "a spelling that has an id keeps it");
}

#[test]
fn bad_files_beside_tokenizer_json() {
    for (name, contents) in [
        ("tokenizer_config.json", json!([])),
        ("tokenizer_config.json", json!({"added_tokens_decoder": []})),
        ("tokenizer_config.json", json!({"added_tokens_decoder": {"x": {"content": "<y>"}}})),
        ("tokenizer_config.json", json!({"added_tokens_decoder": {"1": {}}})),
        ("tokenizer_config.json", json!({"added_tokens_decoder": {"4000000000": {"content": "<y>"}}})),
        ("added_tokens.json", json!({"y": "1"})),
        ("added_tokens.json", json!({"y": -1})),
        ("special_tokens_map.json", json!({"bos_token": "<nobody>"})),
        ("special_tokens_map.json", json!({"eos_token": 2})),
    ] {
        let error = from_folder(&tiny_sentencepiece(), &[(name, contents.clone())]).unwrap_err();
        assert!(error.path().is_some_and(|path| path.ends_with(name)), "{name}: {contents}: {error}");
    }
}

#[test]
fn names_in_special_tokens_map() {
    let mut json = tiny_byte_level();
    json["post_processor"] = Json::Null;
    let map = json!({"bos_token": {"content": "<|begin|>"}, "eos_token": "<|eot_id|>", "pad_token": "<nobody>"});
    let tokenizer = from_folder(&json, &[("special_tokens_map.json", map.clone())]).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (tokenizer.id("<|begin|>"), tokenizer.id("<|eot_id|>")));
    let config = json!({"eos_token": "<|begin|>"});
    let files = [("special_tokens_map.json", map), ("tokenizer_config.json", config)];
    let tokenizer = from_folder(&json, &files).unwrap();
    assert_eq!(tokenizer.eos(), tokenizer.id("<|begin|>"), "tokenizer_config.json comes first");
}

#[test]
fn a_folder_without_tokenizer_json() {
    let place = tempfile::tempdir().unwrap();
    let says = || Tokenizer::from_folder(place.path()).unwrap_err().to_string();
    assert!(says().contains("put the model's own beside its weights"));
    std::fs::write(place.path().join("tekken.json"), "{}").unwrap();
    assert!(says().contains("tekken.json is Mistral's own"));
    std::fs::write(place.path().join("tokenizer.model"), "IQ== 0\n").unwrap();
    assert!(says().contains("Llama 3's is tiktoken's"));
}

/// Of all files those of the tokenizer are the likeliest to be large enough for Git LFS, beside the weights.
#[test]
fn pointers_in_the_place_of_a_tokenizer() {
    const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9085657\n";
    for name in ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"] {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(name), POINTER).unwrap();
        let error = Tokenizer::from_folder(place.path()).unwrap_err();
        is_of_use(&error, place.path()).unwrap();
        assert!(error.path().is_some_and(|path| path.ends_with(name)), "{name}: {error}");
        assert!(error.to_string().ends_with("fetch the file itself: git lfs pull"), "{error}");
    }
}

/// Eight rows, and a tokenizer with a `<pad>` after them: the model is used without.
#[test]
fn added_tokens_without_a_row() {
    let open = |kind: &str| {
        let place = tempfile::tempdir().unwrap();
        let letters =
            (0..8).map(|id| (char::from(b'a' + id).to_string(), json!(id))).collect::<serde_json::Map<_, _>>();
        let mut json = json!({
            "added_tokens": [], "decoder": {"type": "ByteLevel"},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
            "model": {"type": "BPE", "vocab": letters, "merges": []},
        });
        match kind {
            "added" => json["added_tokens"] = json!([{"id": 8, "content": "<pad>", "special": true, "lstrip": true}]),
            _ => json["model"]["vocab"]["i"] = json!(8),
        }
        folder::model().set("tokenizer.json", json.to_string()).write(place.path()).unwrap();
        Checkpoint::open(place.path()).unwrap().tokenizer().unwrap().vocab()
    };
    assert_eq!(open("added"), 8);
    assert_eq!(open("of the model"), 9, "left for the engine to refuse");
}
