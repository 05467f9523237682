//! The vocabulary in a GGUF file: the keys under `tokenizer.ggml`.
//!
//! Defaults for absent keys are llama.cpp's: a SentencePiece model begins a prompt with its begin-of-sequence token and
//! puts a space in front, a byte-level one does neither, except that Llama 3 and Mistral Nemo want the former. Whether a
//! word that is a token needs no merges (`ignore_merges`) is not in the file at all: it goes by the pre-tokenizer's name.
//!
//! Converters up to spring 2024 wrote a model's added tokens as user-defined ones, which text may become. One that looks
//! like `<|this|>` steers the model all the same.

use super::infill::Infill;
use super::pretokenize::Pattern;
use super::tokenizer::Tokenizer;
use super::vocab::{Order, Scheme, SpacePrefix, TokenKind, Vocab, looks_like_control};
use crate::checkpoint::gguf::Metadata;
use crate::error::{Error, InFile, Result};

impl Tokenizer {
    /// The tokenizer of a GGUF file.
    ///
    /// # Errors
    /// [`Error::Config`] for a key of the wrong type, [`Error::Unsupported`] for a kind of tokenizer or a pre-tokenizer
    /// that the Llama family does not use, [`Error::Tokenizer`] for data that contradict each other. All name the file.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self> {
        vocab(metadata).and_then(Tokenizer::new).in_file(metadata.path())
    }
}

/// The key `tokenizer.ggml.<name>`.
fn key(name: &str) -> String {
    format!("tokenizer.ggml.{name}")
}

fn missing(name: &str) -> Error {
    Error::tokenizer(key(name), "is missing, and a tokenizer needs it")
}

fn vocab(metadata: &Metadata) -> Result<Vocab> {
    let tokens = metadata.strings(&key("tokens"))?.ok_or_else(|| missing("tokens"))?.to_vec();
    let kinds = kinds(metadata, &tokens)?;
    let scheme = scheme(metadata)?;
    let spm = matches!(scheme, Scheme::SentencePiece { .. });
    let id = |name: &str| metadata.u32(&key(name));
    let default = |id: u32, kind| Some(id).filter(|&id| spm && kinds.get(id as usize) == Some(&kind));
    let bos = id("bos_token_id")?.or(default(1, TokenKind::Control));
    let eos = id("eos_token_id")?.or(default(2, TokenKind::Control));
    let unk = id("unknown_token_id")?.or(default(0, TokenKind::Unknown));
    let ends = ["eot_token_id", "eom_token_id"].map(id);
    let end_tokens = ends.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    let add_bos = match metadata.bool(&key("add_bos_token"))? {
        Some(asked) => asked,
        None => bos.is_some() && (spm || metadata.string(&key("pre"))?.is_some_and(begins_with_bos)),
    };
    let add_eos = metadata.bool(&key("add_eos_token"))?.unwrap_or(false);
    Ok(Vocab {
        tokens,
        kinds,
        scheme,
        bos,
        eos,
        unk,
        end_tokens,
        add_bos,
        add_eos,
        strips: Vec::new(),
        infill: infill(metadata)?,
    })
}

/// Keys of what stands before a prefix, before a suffix, and before the middle; and what the first converters called them.
const INFILL: [[&str; 2]; 3] = [
    ["fim_pre_token_id", "prefix_token_id"],
    ["fim_suf_token_id", "suffix_token_id"],
    ["fim_mid_token_id", "middle_token_id"],
];
/// Keys of what ends a middle: padding, a repository, a file.
const INFILL_ENDS: [&str; 3] = ["fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id"];

/// The tokens for infilling, if the file names them. Some files have -1 for none.
fn infill(metadata: &Metadata) -> Result<Option<Infill>> {
    let id = |name: &str| Ok::<_, Error>(metadata.u32(&key(name))?.filter(|&id| id != u32::MAX));
    let either = |[name, old]: [&str; 2]| Ok::<_, Error>(id(name)?.or(id(old)?));
    let [prefix, suffix, middle] = INFILL.map(either);
    let (Some(prefix), Some(suffix)) = (prefix?, suffix?) else { return Ok(None) };
    let ends = INFILL_ENDS.map(id).into_iter().collect::<Result<Vec<_>>>()?;
    let end_tokens = ends.into_iter().flatten().collect();
    Ok(Some(Infill { prefix, suffix, middle: middle?, suffix_first: false, end_tokens }))
}

/// Names of Llama 3's pre-tokenizer under which llama.cpp begins with `bos`; `dbrx` and `smaug-bpe` are not among them.
const LLAMA3: [&str; 8] = ["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"];

fn begins_with_bos(pre: &str) -> bool {
    LLAMA3.contains(&pre) || pre == "tekken"
}

/// `ignore_merges` of the models with this pre-tokenizer.
fn has_whole_words(pre: &str) -> bool {
    begins_with_bos(pre) || pre == "minicpm5"
}

/// Whether a model of `architecture` with this pre-tokenizer composes text first, which no key tells: Qwen's own do, those that
/// others made of them go by another name.
pub(super) fn composes(architecture: &str, pre: &str) -> bool {
    matches!(architecture, "qwen2" | "qwen3") && pre == "qwen2"
}

fn kinds(metadata: &Metadata, tokens: &[String]) -> Result<Vec<TokenKind>> {
    let numbers = metadata.i32s(&key("token_type"))?.ok_or_else(|| missing("token_type"))?;
    let kind = |(id, &n): (usize, &i32)| {
        let problem = || format!("token {id} is of kind {n}; 1 to 6 was expected");
        let kind = TokenKind::from_gguf(n).ok_or_else(|| Error::tokenizer(key("token_type"), problem()))?;
        let steers = kind == TokenKind::UserDefined && tokens.get(id).is_some_and(|token| looks_like_control(token));
        Ok(if steers { TokenKind::Control } else { kind })
    };
    numbers.iter().enumerate().map(kind).collect()
}

fn scheme(metadata: &Metadata) -> Result<Scheme> {
    match metadata.string(&key("model"))?.ok_or_else(|| missing("model"))? {
        "llama" => {
            let scores = metadata.f32s(&key("scores"))?.ok_or_else(|| missing("scores"))?.to_vec();
            let space_prefix = match metadata.bool(&key("add_space_prefix"))?.unwrap_or(true) {
                true => SpacePrefix::Every,
                false => SpacePrefix::Never,
            };
            Ok(Scheme::SentencePiece { order: Order::Scores(scores), space_prefix })
        }
        "gpt2" => {
            let name = metadata.string(&key("pre"))?.ok_or_else(|| {
                Error::unsupported(
                    "a byte-level tokenizer without tokenizer.ggml.pre",
                    "convert the model again, or give the file the key (gguf-py's gguf-new-metadata --pre-tokenizer, with llama-bpe \
                     if it is a Llama 3); a guess would give wrong tokens",
                )
            })?;
            let pattern = Pattern::from_gguf_name(name)?;
            let whole_words = has_whole_words(name);
            let composes = metadata.string("general.architecture")?.is_some_and(|of| composes(of, name));
            Ok(Scheme::ByteLevel { pattern, merges: merges(metadata)?, whole_words, composes })
        }
        other => Err(Error::unsupported(
            format!("tokenizer.ggml.model = {other:?}"),
            "the Llama family uses \"llama\" (SentencePiece) and \"gpt2\" (byte-level)",
        )),
    }
}

/// Merges are spelled "left right"; a left side may itself begin with a space.
fn merges(metadata: &Metadata) -> Result<Vec<(String, String)>> {
    let lines = metadata.strings(&key("merges"))?.ok_or_else(|| missing("merges"))?;
    let pair = |(rank, line): (usize, &String)| {
        let problem = || format!("merge {rank} is {line:?}; two spellings with a space between were expected");
        split_merge(line).ok_or_else(|| Error::tokenizer(key("merges"), problem()))
    };
    lines.iter().enumerate().map(pair).collect()
}

/// Splits "left right" at the first space that is not its first character.
pub(super) fn split_merge(line: &str) -> Option<(String, String)> {
    let first = line.chars().next()?.len_utf8();
    let space = first + line[first..].find(' ')?;
    let (left, right) = (&line[..space], &line[space + 1..]);
    (!right.is_empty()).then(|| (left.to_owned(), right.to_owned()))
}
