//! Text to token ids and back, for both schemes.
//!
//! Encoding goes down four steps: special tokens are cut out ([`super::special`]); a stretch of text, composed where its model
//! wants that, is cut into words (byte-level only, [`super::pretokenize`]); a word becomes a row of symbols, one a character or one a byte; neighbouring
//! symbols merge ([`super::merge`]). Each step is linear or n log n in the text, whatever the text.
//!
//! A control token is in no table that text is looked up in, so text cannot produce one; only [`Specials::Parse`] can.
//!
//! SentencePiece files give one score a token instead of merges. Every split of every token into two symbols is entered as
//! a pair at load, ranked by the token's score, so that both schemes merge by the same table. A character that occurs
//! inside tokens without being one gets a symbol past the vocabulary, and falls back to bytes if it never merges.

use std::borrow::Cow;
use std::collections::HashMap;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::bytes;
use super::infill::Infill;
use super::merge::{Merge, Merges, Symbol};
use super::pretokenize::Pattern;
use super::special::{Part, Special, SpecialTokens, Specials};
use super::vocab::{Order, Scheme, SpacePrefix, Strip, TokenKind, Vocab};
use crate::error::{Error, Result};

/// How SentencePiece spells a space.
const SPACE: char = '\u{2581}';

/// Longest text that is encoded in one call, in bytes. Encoding takes up to about fifty bytes of memory a byte.
pub const MAX_TEXT: usize = 1 << 28;

/// A tokenizer, made from the vocabulary of a GGUF file or of a `tokenizer.json`.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    kinds: Vec<TokenKind>,
    /// The bytes of all tokens one after the other; token `i` ends at `ends[i]`.
    pieces: Vec<u8>,
    ends: Vec<usize>,
    /// Tokens that text can become, by their bytes (byte-level) or spelling (SentencePiece).
    ordinary: HashMap<Box<[u8]>, u32>,
    /// Token of each byte.
    byte_tokens: [Option<u32>; 256],
    specials: SpecialTokens,
    merges: Merges,
    rules: Rules,
    bos: Option<u32>,
    eos: Option<u32>,
    /// Only if text may become it.
    unk: Option<u32>,
    end_tokens: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
    pub(super) infill: Option<Infill>,
}

/// Where a segment of a text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the beginning of a sequence's text.
    First,
    /// After a special token, or after another text.
    Later,
    /// In the middle of a text, of which it is the rest.
    Within,
}

/// What differs between the schemes once the tables are built.
#[derive(Clone, Debug)]
enum Rules {
    SentencePiece { space_prefix: SpacePrefix, chars: HashMap<char, Symbol>, inner_chars: Vec<char> },
    ByteLevel { pattern: Pattern, whole_words: bool, composes: bool },
}

impl Tokenizer {
    /// Builds the tables of a vocabulary.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] naming the field, if lengths, ids, scores, spellings or merges contradict each other.
    pub fn new(vocab: Vocab) -> Result<Self> {
        vocab.check()?;
        let (pieces, ends) = pieces(&vocab);
        let (end_tokens, infill) = (vocab.all_end_tokens(), Infill::of(&vocab));
        let specials = special_tokens(&vocab)?;
        let byte_level = matches!(vocab.scheme, Scheme::ByteLevel { .. });
        let ordinary = ordinary_tokens(&vocab)?;
        let byte_tokens = byte_tokens(&vocab, &ordinary)?;
        let (merges, rules) = match vocab.scheme {
            Scheme::ByteLevel { pattern, merges, whole_words, composes } => {
                (listed_merges(&merges, &ordinary, byte_level)?, Rules::ByteLevel { pattern, whole_words, composes })
            }
            Scheme::SentencePiece { order: Order::Merges(merges), space_prefix } => {
                let chars = single_chars(&ordinary);
                let rules = Rules::SentencePiece { space_prefix, chars, inner_chars: Vec::new() };
                (listed_merges(&merges, &ordinary, byte_level)?, rules)
            }
            Scheme::SentencePiece { order: Order::Scores(scores), space_prefix } => {
                let mut chars = single_chars(&ordinary);
                let inner_chars = add_inner_chars(&mut chars, &vocab.tokens, &ordinary);
                let merges = scored_merges(&vocab.tokens, &scores, &ordinary, &chars);
                (merges, Rules::SentencePiece { space_prefix, chars, inner_chars })
            }
        };
        let unk = vocab.unk.filter(|&id| vocab.kinds[id as usize] != TokenKind::Control);
        let Vocab { kinds, bos, eos, add_bos, add_eos, .. } = vocab;
        Ok(Tokenizer {
            kinds,
            pieces,
            ends,
            ordinary,
            byte_tokens,
            specials,
            merges,
            rules,
            bos,
            eos,
            unk,
            end_tokens,
            add_bos,
            add_eos,
            infill,
        })
    }

    /// Number of tokens.
    pub fn vocab(&self) -> usize {
        self.kinds.len()
    }

    /// Begin-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// End-of-sequence token.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Every token that ends a generation: end of sequence, of turn, of message; ascending.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// Adds tokens that end a generation, such as the list in `generation_config.json`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if an id is not in the vocabulary.
    pub fn add_end_tokens(&mut self, ids: &[u32]) -> Result<()> {
        for &id in ids {
            self.check_id(id)?;
        }
        self.end_tokens.extend(ids);
        self.end_tokens.sort_unstable();
        self.end_tokens.dedup();
        Ok(())
    }

    /// Whether a token steers the model and is not text. False for ids that are not in the vocabulary.
    pub fn is_control(&self, id: u32) -> bool {
        matches!(self.kinds.get(id as usize), Some(TokenKind::Control | TokenKind::Unknown))
    }

    /// The token spelled `spelling` in the vocabulary file, such as `<|eot_id|>`, `Ġthe` or `▁the`.
    pub fn id(&self, spelling: &str) -> Option<u32> {
        let ordinary = || match self.rules {
            Rules::ByteLevel { .. } => self.ordinary.get(bytes::from_spelling(spelling)?.as_slice()).copied(),
            Rules::SentencePiece { .. } => self.ordinary.get(spelling.as_bytes()).copied(),
        };
        let byte = || self.byte_tokens[usize::from(bytes::from_byte_token(spelling)?)];
        self.specials.get(spelling).or_else(ordinary).or_else(byte)
    }

    /// The bytes of a token as they stand in a text: part of a character for byte tokens, the spelling for control tokens.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `id` is not in the vocabulary.
    pub fn piece(&self, id: u32) -> Result<&[u8]> {
        self.check_id(id)?;
        let i = id as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        Ok(&self.pieces[start..self.ends[i]])
    }

    /// What [`Sampling::dry_breakers`](crate::sample::Sampling::dry_breakers) usually are: the tokens with a line break, a colon,
    /// a quotation mark or an asterisk, as in llama.cpp. Looks through the whole vocabulary.
    pub fn dry_breakers(&self) -> Vec<u32> {
        const BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];
        let breaks = |id: &u32| self.piece(*id).is_ok_and(|piece| BREAKERS.iter().any(|text| contains(piece, text)));
        (0..self.vocab() as u32).filter(breaks).collect()
    }

    /// Every token whose piece contains one of `texts`, ascending. Looks through the whole vocabulary for each.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a text that is empty, or that no token contains: it would find nothing.
    pub fn containing(&self, texts: &[impl AsRef<str>]) -> Result<Vec<u32>> {
        let refused = |text: &str, problem| Err(Error::parameter("text", format!("{text:?}"), problem));
        let mut ids = Vec::new();
        for text in texts.iter().map(AsRef::as_ref) {
            let before = ids.len();
            for id in 0..self.vocab() as u32 {
                if contains(self.piece(id)?, text) {
                    ids.push(id);
                }
            }
            match ids.len() - before {
                _ if text.is_empty() => return refused(text, "must not be empty"),
                0 => return refused(text, "must be within a token; none contains it"),
                _ => {}
            }
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// The ids of `text`, without begin or end of sequence.
    ///
    /// # Errors
    /// [`Error::Parameter`] if `text` is longer than [`MAX_TEXT`].
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        self.encode_from(text, specials, true, &mut ids)?;
        Ok(ids)
    }

    /// As [`Tokenizer::encode`], with begin and end of sequence as the file asks for.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str, specials: Specials) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.prompt_start().collect();
        self.encode_from(text, specials, true, &mut ids)?;
        ids.extend(self.eos.filter(|_| self.add_eos));
        Ok(ids)
    }

    /// The text of `ids` without control tokens. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Parameter`] if an id is not in the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.join(ids, |id| !self.is_control(id))
    }

    /// As [`Tokenizer::decode`], with control tokens spelled out.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn decode_with_specials(&self, ids: &[u32]) -> Result<String> {
        self.join(ids, |_| true)
    }

    /// Whether a text that starts here starts with a space that encoding put there.
    pub(super) fn adds_space(&self) -> bool {
        matches!(self.rules, Rules::SentencePiece { space_prefix, .. } if space_prefix != SpacePrefix::Never)
    }

    pub(super) fn special_tokens(&self) -> &SpecialTokens {
        &self.specials
    }

    /// What a prompt begins with.
    pub(super) fn prompt_start(&self) -> impl Iterator<Item = u32> + use<> {
        self.bos.filter(|_| self.add_bos).into_iter()
    }

    /// Appends the ids of `text`; `start` says whether it is the beginning of a sequence's text.
    pub(super) fn encode_from(&self, text: &str, specials: Specials, start: bool, ids: &mut Vec<u32>) -> Result<()> {
        self.encode_parts(text, specials, if start { Place::First } else { Place::Later }, ids)
    }

    /// Appends the ids of `text`, which goes on in the middle of another: no space is put in front of it.
    pub(super) fn encode_within(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        self.encode_parts(text, Specials::AsText, Place::Within, ids)
    }

    fn encode_parts(&self, text: &str, specials: Specials, mut place: Place, ids: &mut Vec<u32>) -> Result<()> {
        if text.len() > MAX_TEXT {
            let problem = format!("a text may have at most {MAX_TEXT} bytes");
            return Err(Error::parameter("text", format!("<{} bytes>", text.len()), problem));
        }
        self.specials.split(text, specials, |part| {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(text) => self.encode_text(text, place, ids),
            }
            place = Place::Later;
        });
        Ok(())
    }

    fn check_id(&self, id: u32) -> Result<()> {
        match (id as usize) < self.vocab() {
            true => Ok(()),
            false => Err(Error::parameter("token", id, format!("the vocabulary has {} tokens", self.vocab()))),
        }
    }

    fn encode_text(&self, text: &str, place: Place, ids: &mut Vec<u32>) {
        match &self.rules {
            Rules::ByteLevel { pattern, whole_words, composes } => {
                let mut symbols = Vec::new();
                let text = if *composes { composed(text) } else { Cow::Borrowed(text) };
                pattern.split(&text, |word| match self.ordinary.get(word.as_bytes()).filter(|_| *whole_words) {
                    Some(&id) => ids.push(id),
                    None => self.merge_bytes(word, &mut symbols, ids),
                });
            }
            Rules::SentencePiece { space_prefix, chars, inner_chars } => {
                let mut symbols = Vec::with_capacity(text.len() + 1);
                let prefix = puts_space(*space_prefix, text, place).then_some(SPACE);
                for c in prefix.into_iter().chain(text.chars()) {
                    let c = if c == ' ' { SPACE } else { c };
                    match chars.get(&c) {
                        Some(&symbol) => symbols.push(symbol),
                        None => self.push_bytes(c, &mut symbols),
                    }
                }
                self.merges.apply(&mut symbols);
                self.settle(&symbols, inner_chars, ids);
            }
        }
    }

    /// Byte-level: a word's bytes, merged. `symbols` is scratch.
    fn merge_bytes(&self, word: &str, symbols: &mut Vec<Symbol>, ids: &mut Vec<u32>) {
        symbols.clear();
        symbols.extend(word.bytes().filter_map(|b| self.byte_tokens[usize::from(b)].or(self.unk)));
        self.merges.apply(symbols);
        ids.append(symbols);
    }

    /// SentencePiece: appends merged symbols; a character that is no token falls back to its bytes.
    fn settle(&self, symbols: &[Symbol], inner_chars: &[char], ids: &mut Vec<u32>) {
        for &symbol in symbols {
            match (symbol as usize).checked_sub(self.vocab()) {
                None => ids.push(symbol),
                Some(i) => self.push_bytes(inner_chars[i], ids),
            }
        }
    }

    /// The byte tokens of a character; the unknown token, once for a run of such characters, if one of them is missing.
    fn push_bytes(&self, c: char, out: &mut Vec<u32>) {
        let mut utf8 = [0; 4];
        let tokens = c.encode_utf8(&mut utf8).bytes().map(|b| self.byte_tokens[usize::from(b)]);
        match tokens.collect::<Option<Vec<u32>>>() {
            Some(tokens) => out.extend(tokens),
            None => out.extend(self.unk.filter(|unk| out.last() != Some(unk))),
        }
    }

    fn join(&self, ids: &[u32], wanted: impl Fn(u32) -> bool) -> Result<String> {
        let mut bytes = Vec::new();
        for &id in ids {
            let piece = self.piece(id)?;
            if wanted(id) {
                bytes.extend_from_slice(piece);
            }
        }
        let text = bytes.strip_prefix(b" ").filter(|_| self.adds_space()).unwrap_or(&bytes);
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}

fn contains(piece: &[u8], text: &str) -> bool {
    !text.is_empty() && piece.windows(text.len()).any(|part| part == text.as_bytes())
}

/// Text in Unicode's normal form C.
fn composed(text: &str) -> Cow<'_, str> {
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => Cow::Borrowed(text),
        IsNormalized::No | IsNormalized::Maybe => Cow::Owned(text.nfc().collect()),
    }
}

/// Whether encoding puts a space in front of a segment.
fn puts_space(rule: SpacePrefix, text: &str, place: Place) -> bool {
    let spaced = text.starts_with([' ', SPACE]);
    match rule {
        _ if place == Place::Within => false,
        SpacePrefix::Never => false,
        SpacePrefix::Every => true,
        SpacePrefix::EveryUnlessSpaced => !spaced,
        SpacePrefix::FirstUnlessSpaced => place == Place::First && !spaced,
    }
}

/// The bytes of every token, one after the other, and where each ends.
fn pieces(vocab: &Vocab) -> (Vec<u8>, Vec<usize>) {
    let (mut pieces, mut ends) = (Vec::new(), Vec::with_capacity(vocab.tokens.len()));
    for (token, kind) in vocab.tokens.iter().zip(&vocab.kinds) {
        match (kind, &vocab.scheme) {
            (TokenKind::Normal | TokenKind::Unused, Scheme::ByteLevel { .. }) => {
                pieces.extend(bytes::from_spelling(token).unwrap_or_else(|| token.as_bytes().to_vec()));
            }
            (TokenKind::Normal | TokenKind::Unused | TokenKind::UserDefined, Scheme::SentencePiece { .. }) => {
                pieces.extend_from_slice(token.replace(SPACE, " ").as_bytes());
            }
            (TokenKind::Byte, _) => match bytes::from_byte_token(token) {
                Some(byte) => pieces.push(byte),
                None => pieces.extend_from_slice(token.as_bytes()),
            },
            _ => pieces.extend_from_slice(token.as_bytes()),
        }
        ends.push(pieces.len());
    }
    (pieces, ends)
}

fn special_tokens(vocab: &Vocab) -> Result<SpecialTokens> {
    let strips: HashMap<u32, Strip> = vocab.strips.iter().copied().collect();
    let mut specials = SpecialTokens::new();
    for (id, (token, kind)) in (0u32..).zip(vocab.tokens.iter().zip(&vocab.kinds)) {
        let control = match kind {
            TokenKind::Control | TokenKind::Unknown => true,
            TokenKind::UserDefined => false,
            _ => continue,
        };
        let special = Special { id, control, strip: strips.get(&id).copied().unwrap_or_default() };
        if !specials.insert(token, special) {
            return Err(Error::tokenizer(
                "tokens",
                format!("special token {token:?} occurs twice, again as id {id}; once was expected"),
            ));
        }
    }
    Ok(specials)
}

/// Tokens that text may become, by what they are looked up with.
fn ordinary_tokens(vocab: &Vocab) -> Result<HashMap<Box<[u8]>, u32>> {
    let byte_level = matches!(vocab.scheme, Scheme::ByteLevel { .. });
    let mut ordinary = HashMap::with_capacity(vocab.tokens.len());
    for (id, (token, kind)) in (0u32..).zip(vocab.tokens.iter().zip(&vocab.kinds)) {
        if token.is_empty() || !matches!(kind, TokenKind::Normal | TokenKind::UserDefined) {
            continue;
        }
        let Some(key) = lookup_key(token, byte_level) else { continue };
        if let Some(other) = ordinary.insert(key.into_boxed_slice(), id) {
            return Err(Error::tokenizer(
                "tokens",
                format!("token {token:?} occurs twice, as id {other} and {id}; once was expected"),
            ));
        }
    }
    Ok(ordinary)
}

fn lookup_key(spelling: &str, byte_level: bool) -> Option<Vec<u8>> {
    match byte_level {
        true => bytes::from_spelling(spelling),
        false => Some(spelling.as_bytes().to_vec()),
    }
}

fn byte_tokens(vocab: &Vocab, ordinary: &HashMap<Box<[u8]>, u32>) -> Result<[Option<u32>; 256]> {
    if let Scheme::ByteLevel { .. } = vocab.scheme {
        return Ok(std::array::from_fn(|byte| ordinary.get([byte as u8].as_slice()).copied()));
    }
    let mut tokens = [None; 256];
    for (id, token) in (0u32..).zip(&vocab.tokens).filter(|(id, _)| vocab.kinds[*id as usize] == TokenKind::Byte) {
        let byte = bytes::from_byte_token(token).ok_or_else(|| {
            Error::tokenizer("tokens", format!("byte token {id} is spelled {token:?}; the like of <0x0A> was expected"))
        })?;
        if tokens[usize::from(byte)].replace(id).is_some() {
            return Err(Error::tokenizer(
                "tokens",
                format!("byte token {token:?} occurs twice, again as id {id}; once was expected"),
            ));
        }
    }
    Ok(tokens)
}

/// The symbols of characters that are tokens.
fn single_chars(ordinary: &HashMap<Box<[u8]>, u32>) -> HashMap<char, Symbol> {
    ordinary.iter().filter_map(|(key, &id)| Some((single_char(key)?, id))).collect()
}

fn single_char(key: &[u8]) -> Option<char> {
    let mut chars = std::str::from_utf8(key).ok()?.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// Gives a symbol past the vocabulary to every character that only occurs inside tokens. Returns those characters.
fn add_inner_chars(
    chars: &mut HashMap<char, Symbol>,
    tokens: &[String],
    ordinary: &HashMap<Box<[u8]>, u32>,
) -> Vec<char> {
    let mut inner = Vec::new();
    for token in tokens.iter().filter(|t| ordinary.contains_key(t.as_bytes())) {
        for c in token.chars() {
            chars.entry(c).or_insert_with(|| {
                inner.push(c);
                (tokens.len() + inner.len() - 1) as Symbol
            });
        }
    }
    inner
}

/// Merges that the file lists, best first.
fn listed_merges(listed: &[(String, String)], ordinary: &HashMap<Box<[u8]>, u32>, byte_level: bool) -> Result<Merges> {
    let find = |spelling: &str| ordinary.get(lookup_key(spelling, byte_level)?.as_slice()).copied();
    let mut merges = Merges::default();
    for (rank, (left, right)) in (0u32..).zip(listed) {
        let ids = (find(left), find(right), find(&format!("{left}{right}")));
        let (Some(l), Some(r), Some(result)) = ids else {
            let problem = format!(
                "merge {rank}, {left:?} + {right:?}, names a token that is not in the vocabulary, as was expected"
            );
            return Err(Error::tokenizer("merges", problem));
        };
        merges.insert(l, r, Merge { rank, result });
    }
    Ok(merges)
}

/// Every split of every token into two symbols, ranked by the token's score.
fn scored_merges(
    tokens: &[String],
    scores: &[f32],
    ordinary: &HashMap<Box<[u8]>, u32>,
    chars: &HashMap<char, Symbol>,
) -> Merges {
    let ranks = dense_ranks(scores);
    let symbol = |s: &str| match (ordinary.get(s.as_bytes()), single_char(s.as_bytes())) {
        (Some(&id), _) => Some(id),
        (None, Some(c)) => chars.get(&c).copied(),
        (None, None) => None,
    };
    let mut merges = Merges::default();
    for (token, rank) in tokens.iter().zip(ranks) {
        let Some(&result) = ordinary.get(token.as_bytes()) else { continue };
        for (cut, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(cut);
            if let (Some(left), Some(right)) = (symbol(left), symbol(right)) {
                merges.insert(left, right, Merge { rank, result });
            }
        }
    }
    merges
}

/// The place of each score among the distinct scores, highest first: equal scores share a rank.
fn dense_ranks(scores: &[f32]) -> Vec<u32> {
    let mut distinct: Vec<f32> = scores.to_vec();
    distinct.sort_unstable_by(|a, b| b.total_cmp(a));
    distinct.dedup();
    scores.iter().map(|s| distinct.partition_point(|d| d > s) as u32).collect()
}
