//! The tokenizer of a `tokenizer.json` and `tokenizer_config.json`.
//!
//! `tokenizer.json` describes a pipeline of freely combined parts. Here the combinations that the Llama family ships are
//! recognised and mapped onto the two schemes of [`super::vocab`]; any other is an error that names the part, because a
//! tokenizer that is almost right is a model that is subtly wrong. Format: huggingface/tokenizers, `tokenizers/src`.
//!
//! One liberty: a special token marked `normalized` is looked for in the text itself, not in its normal form, where the
//! reference would only find it behind a space.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value};

use super::bytes;
use super::folder::{ADDED, Settings};
use super::gguf::split_merge;
use super::json::{Node, parse};
use super::pretokenize::Pattern;
use super::tokenizer::Tokenizer;
use super::vocab::{Order, Scheme, SpacePrefix, Strip, TokenKind, Vocab, looks_like_control};
use crate::checkpoint::map;
use crate::error::{Error, InFile, Result};

/// How SentencePiece spells a space.
const SPACE: &str = "\u{2581}";

impl Tokenizer {
    /// The tokenizer that the contents of a `tokenizer.json` and a `tokenizer_config.json` describe.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming the part, if the pipeline is not one of the Llama family's; [`Error::Tokenizer`]
    /// naming the field, for anything malformed or contradictory. They name `tokenizer.json` and `tokenizer_config.json`.
    pub fn from_json(tokenizer: &[u8], config: Option<&[u8]>) -> Result<Self> {
        let path = Path::new("tokenizer.json");
        let settings = Settings::new(Path::new("tokenizer_config.json"), config)?;
        Tokenizer::new(vocab(path, tokenizer, &settings)?).in_file(path)
    }
}

/// A file's bytes, or `None` if there is no such file.
pub(super) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match map::Map::open(path) {
        Ok(map) => Ok(Some(map.bytes().to_vec())),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The vocabulary of the tokenizer.json at `path`, which holds `bytes`.
pub(super) fn vocab(path: &Path, bytes: &[u8], settings: &Settings) -> Result<Vocab> {
    let json = parse(path, bytes)?;
    read(&Node::root(path, &json), settings).in_file(path)
}

fn read(root: &Node<'_>, config: &Settings) -> Result<Vocab> {
    let model = root.get("model");
    check_model(&model)?;
    let mut table = Table::read(&model)?;
    let scheme = scheme(root, &model)?;
    let unk_token = model.get("unk_token");
    let unk_token = if unk_token.is_null() { None } else { Some(unk_token.str()?) };
    if matches!(scheme, Scheme::SentencePiece { .. }) && model.get("byte_fallback").bool_or(false)? {
        table.mark_byte_tokens();
    }
    let mut strips = table.add_tokens(&root.get("added_tokens"), unk_token)?;
    strips.extend(table.add_later_tokens(&config.get(ADDED), unk_token)?);
    let find = |node: Node<'_>, spelling: &str| {
        table
            .find(spelling)
            .ok_or_else(|| node.error(format!("{spelling:?} is not in the vocabulary, as was expected")))
    };
    let unk = unk_token.map(|spelling| find(model.get("unk_token"), spelling)).transpose()?;
    let named = |key: &str| named_token(config, key)?.map(|spelling| find(config.get(key), &spelling)).transpose();
    let (before, after) = template(root)?;
    let template_id = |spelling: &Option<String>| {
        spelling.as_deref().map(|spelling| find(root.get("post_processor"), spelling)).transpose()
    };
    let (before, after) = (template_id(&before)?, template_id(&after)?);
    let bos = named("bos_token")?.or(before);
    let eos = named("eos_token")?.or(after);
    let add_bos = config.get("add_bos_token").bool_or(before.is_some())?;
    let add_eos = config.get("add_eos_token").bool_or(after.is_some())?;
    if (add_bos && before.is_some() && before != bos) || (add_eos && after.is_some() && after != eos) {
        return Err(root.get("post_processor").unsupported());
    }
    let Table { tokens, kinds, .. } = table;
    Ok(Vocab { tokens, kinds, scheme, bos, eos, unk, end_tokens: Vec::new(), add_bos, add_eos, strips, infill: None })
}

/// A token in `tokenizer_config.json`: a string, or an object with `content`.
pub(super) fn named_token(config: &Settings, key: &str) -> Result<Option<String>> {
    let node = config.get(key);
    match node.value {
        Value::Null => Ok(None),
        Value::Object(_) => Ok(Some(node.get("content").str()?.to_owned())),
        _ => Ok(Some(node.str()?.to_owned())),
    }
}

/// Refuses what changes merging and no Llama uses.
fn check_model(model: &Node<'_>) -> Result<()> {
    let kind = model.get("type");
    if !kind.is_null() && kind.str()? != "BPE" {
        return Err(kind.unsupported());
    }
    for key in ["continuing_subword_prefix", "end_of_word_suffix", "dropout"] {
        let node = model.get(key);
        let harmless = node.is_null() || node.value.as_str() == Some("") || node.value.as_f64() == Some(0.0);
        if !harmless {
            return Err(node.unsupported());
        }
    }
    Ok(())
}

/// Spellings and kinds by id, while they are collected.
#[derive(Default)]
pub(super) struct Table {
    pub tokens: Vec<String>,
    pub kinds: Vec<TokenKind>,
    /// Tokens that the files give, as far as they have been read.
    pub given: usize,
}

impl Table {
    fn read(model: &Node<'_>) -> Result<Self> {
        let vocab = model.get("vocab");
        let entries = vocab.object()?;
        let mut table = Table { given: entries.len(), ..Table::default() };
        table.grow(entries.len());
        for (spelling, id) in entries {
            let node = vocab.inner(format_args!("{spelling:?}"), id);
            table.set(&node, node.id()?, spelling, TokenKind::Normal)?;
        }
        Ok(table)
    }

    fn grow(&mut self, tokens: usize) {
        if tokens > self.tokens.len() {
            self.tokens.resize(tokens, String::new());
            self.kinds.resize(tokens, TokenKind::Unused);
        }
    }

    /// Gives `id` its spelling. A file may leave ids out, but not so many that it makes us allocate for nothing.
    fn set(&mut self, node: &Node<'_>, id: u32, spelling: &str, kind: TokenKind) -> Result<()> {
        let slot = id as usize;
        if slot > 2 * self.given + 4096 {
            return Err(node.error(format!(
                "id {id} is far beyond the {} tokens that there are; one near them was expected",
                self.given
            )));
        }
        self.grow(slot + 1);
        if self.kinds[slot] != TokenKind::Unused && self.tokens[slot] != spelling {
            return Err(node.error(format!("id {id} is already {:?}; one of its own was expected", self.tokens[slot])));
        }
        spelling.clone_into(&mut self.tokens[slot]);
        self.kinds[slot] = kind;
        Ok(())
    }

    pub fn find(&self, spelling: &str) -> Option<u32> {
        let there = |(token, kind): (&String, &TokenKind)| token == spelling && *kind != TokenKind::Unused;
        self.tokens.iter().zip(&self.kinds).position(there).map(|id| id as u32)
    }

    fn mark_byte_tokens(&mut self) {
        for (token, kind) in self.tokens.iter().zip(&mut self.kinds) {
            if *kind == TokenKind::Normal && bytes::from_byte_token(token).is_some() {
                *kind = TokenKind::Byte;
            }
        }
    }

    fn add_tokens(&mut self, added: &Node<'_>, unk: Option<&str>) -> Result<Vec<(u32, Strip)>> {
        let mut strips = Vec::new();
        for token in added.array()? {
            strips.extend(self.add(&token, token.get("id").id()?, unk)?);
        }
        Ok(strips)
    }

    /// Adds the tokens of `added_tokens_decoder`, an object by id, that are not there yet. One whose spelling has an id
    /// keeps it.
    pub fn add_later_tokens(&mut self, added: &Node<'_>, unk: Option<&str>) -> Result<Vec<(u32, Strip)>> {
        let (mut later, none) = (Vec::new(), Map::new());
        for (id, value) in if added.is_null() { &none } else { added.object()? } {
            let token = added.inner(id, value);
            let id = id.parse::<u32>().map_err(|_| token.error("is not under a token id, as was expected"))?;
            later.push((id, token.get("content").str()?, token));
        }
        let ids = self.ids_of(later.iter().map(|(_, content, _)| *content).collect());
        let mut strips = Vec::new();
        for (id, content, token) in later {
            let id = ids.get(content).copied().unwrap_or(id);
            if !self.is_added(id, content) {
                strips.extend(self.add(&token, id, unk)?);
            }
        }
        Ok(strips)
    }

    /// The ids of those of `spellings` that are there.
    fn ids_of<'a>(&self, spellings: HashSet<&'a str>) -> HashMap<&'a str, u32> {
        let tokens = (0u32..).zip(self.tokens.iter().zip(&self.kinds));
        let there = tokens.filter(|(_, (_, kind))| **kind != TokenKind::Unused);
        there.filter_map(|(id, (token, _))| Some((*spellings.get(token.as_str())?, id))).collect()
    }

    fn is_added(&self, id: u32, content: &str) -> bool {
        let added = [TokenKind::Control, TokenKind::UserDefined, TokenKind::Unknown];
        let slot = id as usize;
        self.tokens.get(slot).is_some_and(|there| there == content) && added.contains(&self.kinds[slot])
    }

    fn add(&mut self, token: &Node<'_>, id: u32, unk: Option<&str>) -> Result<Option<(u32, Strip)>> {
        let content = token.get("content").str()?;
        if token.get("single_word").bool_or(false)? {
            return Err(token.get("single_word").unsupported());
        }
        self.given += 1;
        self.set(token, id, content, added_kind(content, token.get("special").bool_or(false)?, unk))?;
        let strip = Strip { left: token.get("lstrip").bool_or(false)?, right: token.get("rstrip").bool_or(false)? };
        Ok((strip != Strip::default()).then_some((id, strip)))
    }
}

fn added_kind(content: &str, special: bool, unk: Option<&str>) -> TokenKind {
    let steers = looks_like_control(content);
    match special || steers {
        true if !steers && unk == Some(content) => TokenKind::Unknown,
        true => TokenKind::Control,
        false => TokenKind::UserDefined,
    }
}

fn scheme(root: &Node<'_>, model: &Node<'_>) -> Result<Scheme> {
    let parts = root.get("pre_tokenizer").flatten("pretokenizers")?;
    let merges = merges(&model.get("merges"))?;
    let whole_words = model.get("ignore_merges").bool_or(false)?;
    let byte_fallback = model.get("byte_fallback").bool_or(false)?;
    let byte_level = parts.last().map(Node::kind).transpose()? == Some("ByteLevel");
    check_decoder(&root.get("decoder"), byte_level)?;
    if byte_level {
        if byte_fallback {
            return Err(model.get("byte_fallback").unsupported());
        }
        let composes = composes(&root.get("normalizer"))?;
        let pattern = byte_level_pattern(&root.get("pre_tokenizer"), &parts)?;
        return Ok(Scheme::ByteLevel { pattern, merges, whole_words, composes });
    }
    if whole_words {
        return Err(model.get("ignore_merges").unsupported());
    }
    if !byte_fallback && !model.get("fuse_unk").bool_or(false)? {
        return Err(model.get("fuse_unk").unsupported());
    }
    let space_prefix = space_prefix(root, &parts)?;
    Ok(Scheme::SentencePiece { order: Order::Merges(merges), space_prefix })
}

/// Whether a byte-level tokenizer composes its text (`NFC`), the one normalizer that it may have.
fn composes(normalizer: &Node<'_>) -> Result<bool> {
    match normalizer.flatten("normalizers")?.as_slice() {
        [] => Ok(false),
        [one] if one.kind()? == "NFC" => Ok(true),
        _ => Err(normalizer.unsupported()),
    }
}

/// The words of a byte-level tokenizer: `Split`s or `Digits` or neither, then `ByteLevel`, which may bring GPT-2's own.
fn byte_level_pattern(whole: &Node<'_>, parts: &[Node<'_>]) -> Result<Pattern> {
    let (last, cuts) = parts.split_last().ok_or_else(|| whole.unsupported())?;
    if last.get("add_prefix_space").bool_or(true)? {
        return Err(last.get("add_prefix_space").unsupported());
    }
    let regexes = cuts.iter().map(|cut| cut_regex(cut, cuts.len() == 1)).collect::<Result<Vec<&str>>>()?;
    match (regexes.as_slice(), last.get("use_regex").bool_or(true)?) {
        ([], true) => Ok(Pattern::Gpt2),
        ([r"\p{N}"], true) => Ok(Pattern::SmolLm),
        ([], false) | (_, true) => Err(whole.unsupported()),
        (regexes, false) => Pattern::from_regexes(regexes).ok_or_else(|| match cuts {
            [split] => split.unsupported(),
            _ => whole.unsupported(),
        }),
    }
}

/// The expression whose matches a part cuts out: of `Digits`, one by one, `\p{N}`. The words of a part that is `alone` may as well
/// be what it matches, since the expressions that are known match all of a text.
fn cut_regex<'a>(part: &Node<'a>, alone: bool) -> Result<&'a str> {
    match part.kind()? {
        "Digits" if part.get("individual_digits").bool_or(false)? => Ok(r"\p{N}"),
        "Split" => match (part.get("behavior").str()?, part.get("invert").bool_or(false)?) {
            ("Isolated", false) => part.get("pattern").get("Regex").str(),
            ("Removed", true) if alone => part.get("pattern").get("Regex").str(),
            _ => Err(part.unsupported()),
        },
        _ => Err(part.unsupported()),
    }
}

/// Where a SentencePiece tokenizer puts a space: by the normalizer `Prepend`, or by the pre-tokenizer `Metaspace`.
fn space_prefix(root: &Node<'_>, parts: &[Node<'_>]) -> Result<SpacePrefix> {
    let whole = root.get("normalizer");
    let normalizers = whole.flatten("normalizers")?;
    let (prepends, replaces) = match normalizers.as_slice() {
        [] => (false, false),
        [replace] if is_space_replacement(replace)? => (false, true),
        [prepend, replace] if is_space_prepend(prepend)? && is_space_replacement(replace)? => (true, true),
        _ => return Err(whole.unsupported()),
    };
    match (parts, prepends, replaces) {
        ([], true, _) => Ok(SpacePrefix::Every),
        ([], false, true) => Ok(SpacePrefix::Never),
        ([metaspace], false, false) if metaspace.kind()? == "Metaspace" => metaspace_prefix(metaspace),
        _ => Err(root.get("pre_tokenizer").unsupported()),
    }
}

fn is_space_prepend(node: &Node<'_>) -> Result<bool> {
    Ok(node.kind()? == "Prepend" && node.get("prepend").str()? == SPACE)
}

fn is_space_replacement(node: &Node<'_>) -> Result<bool> {
    let of_space = || node.get("pattern").get("String").value.as_str() == Some(" ");
    Ok(node.kind()? == "Replace" && of_space() && node.get("content").str()? == SPACE)
}

fn metaspace_prefix(node: &Node<'_>) -> Result<SpacePrefix> {
    if node.get("replacement").str()? != SPACE || node.get("split").bool_or(true)? {
        return Err(node.unsupported());
    }
    let scheme = node.get("prepend_scheme");
    match scheme.value.as_str() {
        Some("always") => Ok(SpacePrefix::EveryUnlessSpaced),
        Some("first") => Ok(SpacePrefix::FirstUnlessSpaced),
        Some("never") => Ok(SpacePrefix::Never),
        _ => Err(scheme.unsupported()),
    }
}

/// Decoding follows from the scheme; this makes sure that the file means the same.
fn check_decoder(decoder: &Node<'_>, byte_level: bool) -> Result<()> {
    for part in decoder.flatten("decoders")? {
        let known = match part.kind()? {
            "ByteLevel" => byte_level,
            "Replace" | "ByteFallback" | "Fuse" | "Strip" | "Metaspace" => !byte_level,
            _ => false,
        };
        if !known {
            return Err(part.unsupported());
        }
    }
    Ok(())
}

/// Merges as "left right" or as pairs.
fn merges(node: &Node<'_>) -> Result<Vec<(String, String)>> {
    let Value::Array(entries) = node.value else {
        return Err(node.error("must be an array"));
    };
    let pair = |(rank, entry): (usize, &Value)| {
        let found = match entry {
            Value::String(line) => split_merge(line),
            Value::Array(sides) => match sides.as_slice() {
                [Value::String(left), Value::String(right)] => Some((left.clone(), right.clone())),
                _ => None,
            },
            _ => None,
        };
        found.ok_or_else(|| {
            node.error(format!("merge {rank} is neither \"left right\" nor a pair of strings, as was expected"))
        })
    };
    entries.iter().enumerate().map(pair).collect()
}

/// The tokens that the post-processor puts before and after a sequence.
fn template(root: &Node<'_>) -> Result<(Option<String>, Option<String>)> {
    let whole = root.get("post_processor");
    let mut around = (None, None);
    for part in whole.flatten("processors")? {
        match part.kind()? {
            "ByteLevel" => {}
            "TemplateProcessing" => around = template_parts(&part.get("single"))?,
            _ => return Err(part.unsupported()),
        }
    }
    Ok(around)
}

fn template_parts(single: &Node<'_>) -> Result<(Option<String>, Option<String>)> {
    let (mut before, mut after, mut seen) = (None, None, false);
    for part in single.array()? {
        let special = part.get("SpecialToken");
        if special.is_null() {
            if seen || part.get("Sequence").is_null() {
                return Err(single.unsupported());
            }
            seen = true;
            continue;
        }
        let place = if seen { &mut after } else { &mut before };
        if place.replace(special.get("id").str()?.to_owned()).is_some() {
            return Err(single.unsupported());
        }
    }
    match seen {
        true => Ok((before, after)),
        false => Err(single.unsupported()),
    }
}
