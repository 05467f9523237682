//! The vocabulary of a folder as the keys under `tokenizer.ggml`: what [`super::gguf`] reads.
//!
//! A GGUF says less than a tokenizer.json. Merges of a SentencePiece vocabulary become scores of the tokens that they make, which
//! is what they were made of: the order is the same, and where a list of merges has an order that no scores have, it is
//! refused. White space that special tokens swallow has no key, nor has a space that only the first stretch of a text
//! gets in front; these are told as notes.

use std::collections::{HashMap, HashSet};

use super::folder;
use super::infill::Infill;
use super::vocab::{Order, Scheme, SpacePrefix, TokenKind, Vocab};
use crate::checkpoint::gguf::{Array, Value};
use crate::checkpoint::{Checkpoint, Folder};
use crate::error::{Error, InFile, Result};

/// Keys and values, and what they cannot say.
#[derive(Debug, Default)]
pub(crate) struct Spelled {
    pub pairs: Vec<(String, Value)>,
    pub notes: Vec<String>,
}

impl Spelled {
    fn set(&mut self, name: &str, value: Value) {
        self.pairs.push((format!("tokenizer.ggml.{name}"), value));
    }

    fn note(&mut self, condition: bool, note: &str) {
        if condition {
            self.notes.push(note.to_owned());
        }
    }
}

/// The tokenizer and chat template of a folder's model.
pub(crate) fn spelled(checkpoint: &Checkpoint, folder: &Folder) -> Result<Spelled> {
    let path = folder::file(folder.path());
    let vocab = folder::vocab_of_rows(folder.path(), checkpoint.config().vocab)?;
    let composes = matches!(vocab.scheme, Scheme::ByteLevel { composes: true, .. });
    let mut spelled = of_vocab(vocab, checkpoint.config().vocab, &checkpoint.end_tokens()).in_file(&path)?;
    spelled.note(
        composes && !super::gguf::composes(&checkpoint.config().architecture, "qwen2"),
        "a GGUF has no key for composing a text first (NFC): one with accents of their own gets other tokens",
    );
    if let Some(template) = checkpoint.chat_template_source() {
        spelled.pairs.push(("tokenizer.chat_template".into(), Value::String(template)));
    }
    Ok(spelled)
}

/// The keys of a vocabulary for a model with `rows` rows, whose `ends` end a generation, too.
fn of_vocab(mut vocab: Vocab, rows: usize, ends: &[u32]) -> Result<Spelled> {
    vocab.check()?;
    if vocab.tokens.len() > rows {
        let problem = format!("there are {}; at most {rows}, as the model has rows, were expected", vocab.tokens.len());
        return Err(Error::tokenizer("tokens", problem));
    }
    let mut out = Spelled::default();
    let mut ends = other_ends(&vocab, ends);
    let pieces = matches!(vocab.scheme, Scheme::SentencePiece { .. });
    if pieces && vocab.eos.is_none() && !ends.is_empty() {
        vocab.eos = Some(ends.remove(0));
    }
    let nameless = pieces && (vocab.bos.is_none() || vocab.eos.is_none());
    out.note(
        nameless,
        "a GGUF cannot say that no token begins or ends a text: where the folder names none it is token 1 or 2",
    );
    let strips = vocab.strips.iter().any(|(id, _)| (*id as usize) < rows);
    out.note(strips, "a GGUF has no key for the white space that special tokens swallow: a text that has some there gets more tokens");
    scheme(&vocab, rows, &mut out)?;
    let infill = Infill::of(&vocab);
    for (name, id) in [
        ("bos", vocab.bos),
        ("eos", vocab.eos),
        ("unknown", vocab.unk),
        ("eot", ends.first().copied()),
        ("eom", ends.get(1).copied()),
        ("fim_pre", infill.as_ref().map(|infill| infill.prefix)),
        ("fim_suf", infill.as_ref().map(|infill| infill.suffix)),
        ("fim_mid", infill.as_ref().and_then(|infill| infill.middle)),
    ] {
        if let Some(id) = id {
            out.set(&format!("{name}_token_id"), Value::U32(id));
        }
    }
    out.note(
        ends.len() > 2,
        "a GGUF has keys for two tokens that end a turn: the others of generation_config.json are left out",
    );
    out.set("add_bos_token", Value::Bool(vocab.add_bos));
    out.set("add_eos_token", Value::Bool(vocab.add_eos));
    let (mut tokens, mut kinds) = (vocab.tokens, vocab.kinds);
    tokens.resize(rows, String::new());
    kinds.resize(rows, TokenKind::Unused);
    for (id, token) in tokens.iter_mut().enumerate().filter(|(id, _)| kinds[*id] == TokenKind::Unused) {
        *token = format!("[PAD{id}]");
    }
    out.set("tokens", Value::Array(Array::String(tokens)));
    out.set("token_type", Value::Array(Array::I32(kinds.into_iter().map(TokenKind::to_gguf).collect())));
    Ok(out)
}

/// Tokens that end a generation and are not known to by their names.
fn other_ends(vocab: &Vocab, ends: &[u32]) -> Vec<u32> {
    let known = vocab.named_end_tokens();
    let mut others: Vec<u32> = vocab.end_tokens.iter().chain(ends).copied().filter(|id| !known.contains(id)).collect();
    others.sort_unstable();
    others.dedup();
    others
}

fn scheme(vocab: &Vocab, rows: usize, out: &mut Spelled) -> Result<()> {
    match &vocab.scheme {
        Scheme::ByteLevel { pattern, merges, whole_words, .. } => {
            let pre = pattern.gguf_name(*whole_words).ok_or_else(|| {
                let what = format!("a tokenizer that cuts words by {pattern:?} with ignore_merges {whole_words}");
                Error::unsupported(what, "no tokenizer.ggml.pre says so: keep the folder")
            })?;
            out.set("model", Value::String("gpt2".into()));
            out.set("pre", Value::String(pre.into()));
            let lines = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
            out.set("merges", Value::Array(Array::String(lines)));
        }
        Scheme::SentencePiece { order, space_prefix } => {
            let mut scores = match order {
                Order::Scores(scores) => scores.clone(),
                Order::Merges(merges) => scores(vocab, merges)?,
            };
            scores.resize(rows, UNMADE);
            out.set("model", Value::String("llama".into()));
            out.set("pre", Value::String("default".into()));
            out.set("scores", Value::Array(Array::F32(scores)));
            out.set("add_space_prefix", Value::Bool(*space_prefix != SpacePrefix::Never));
            let narrower = matches!(space_prefix, SpacePrefix::FirstUnlessSpaced | SpacePrefix::EveryUnlessSpaced);
            out.note(narrower, "a GGUF puts a space before every stretch of text between special tokens; this folder's tokenizer before fewer");
        }
    }
    Ok(())
}

/// The score of a token that no merge makes: less than any other.
const UNMADE: f32 = -1e9;

/// Scores that merge as `merges` do, best first: a token's is minus the place of the first merge that makes it.
///
/// By scores any two neighbours merge that together are a token, and all pairs that make one token at the same time. So that
/// must be so of the list, too.
fn scores(vocab: &Vocab, merges: &[(String, String)]) -> Result<Vec<f32>> {
    let mut scores = vec![UNMADE; vocab.tokens.len()];
    let ids: HashMap<&str, usize> = ordinary(vocab).map(|(id, token)| (token, id)).collect();
    let mut last = None;
    for (rank, (left, right)) in merges.iter().enumerate() {
        let made = format!("{left}{right}");
        let Some(&id) = ids.get(made.as_str()) else { continue };
        if last.replace(id) != Some(id) {
            if scores[id] != UNMADE {
                return Err(unscored(&made, "is made by merges with others between them"));
            }
            scores[id] = -(rank as f32);
        }
    }
    let listed: HashSet<(&str, &str)> = merges.iter().map(|(left, right)| (left.as_str(), right.as_str())).collect();
    let symbol = |part: &str| ids.contains_key(part) || part.chars().nth(1).is_none();
    for (id, token) in ordinary(vocab).filter(|(id, _)| vocab.kinds[*id] == TokenKind::Normal) {
        let mut cuts = token.char_indices().skip(1).map(|(cut, _)| token.split_at(cut));
        if let Some(pair) =
            cuts.find(|&(left, right)| symbol(left) && symbol(right) && !listed.contains(&(left, right)))
        {
            return Err(unscored(&vocab.tokens[id], &format!("is {pair:?}, which no merge makes it of")));
        }
    }
    Ok(scores)
}

/// Tokens that text becomes by merging.
fn ordinary(vocab: &Vocab) -> impl Iterator<Item = (usize, &str)> {
    let tokens = vocab.tokens.iter().zip(&vocab.kinds).enumerate();
    let ordinary = |kind: &TokenKind| matches!(kind, TokenKind::Normal | TokenKind::UserDefined);
    tokens.filter(move |(_, (_, kind))| ordinary(kind)).map(|(id, (token, _))| (id, token.as_str()))
}

fn unscored(token: &str, why: &str) -> Error {
    Error::unsupported(
        format!("a list of merges that no scores of tokens stand for ({token:?} {why})"),
        "a GGUF has scores: keep the folder, or take tokenizer.json out of it if tokenizer.model is there",
    )
}
