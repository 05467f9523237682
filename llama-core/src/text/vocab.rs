//! A vocabulary as a file states it, before anything is believed: the meeting point of GGUF and `tokenizer.json`.

use super::infill::Infill;
use super::pretokenize::Pattern;
use crate::error::{Error, Result};

/// What a token is for; the numbers are those of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Text.
    Normal,
    /// Stands for what the vocabulary cannot say.
    Unknown,
    /// Steers the model (begin, end, role headers) and never comes from text.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// Padding of the vocabulary; never produced.
    Unused,
    /// One byte, spelled `<0x0A>`.
    Byte,
}

impl TokenKind {
    /// The kind with number `n` in a GGUF file.
    pub fn from_gguf(n: i32) -> Option<Self> {
        Some(match n {
            1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => return None,
        })
    }

    /// Its number in a GGUF file.
    pub fn to_gguf(self) -> i32 {
        match self {
            TokenKind::Normal => 1,
            TokenKind::Unknown => 2,
            TokenKind::Control => 3,
            TokenKind::UserDefined => 4,
            TokenKind::Unused => 5,
            TokenKind::Byte => 6,
        }
    }
}

/// Whether a token is spelled `<|like this|>`, or with DeepSeek's bars: it steers the model whatever a file calls it.
pub(super) fn looks_like_control(spelling: &str) -> bool {
    let between = |open, close| spelling.strip_prefix(open).is_some_and(|rest: &str| rest.ends_with(close));
    between("<|", "|>") || between("<｜", "｜>")
}

/// Which segments of a text (the stretches between special tokens) get a space in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpacePrefix {
    /// None.
    Never,
    /// Each, whatever it begins with (GGUF; the `Prepend` normalizer).
    Every,
    /// Each that does not begin with a space (`Metaspace`, scheme `always`).
    EveryUnlessSpaced,
    /// The one at the very beginning, if it does not begin with a space (`Metaspace`, scheme `first`).
    FirstUnlessSpaced,
}

/// Where the order of merges comes from.
#[derive(Clone, Debug)]
pub enum Order {
    /// One score a token: any two neighbours whose concatenation is a token may merge, best score first (GGUF).
    Scores(Vec<f32>),
    /// Pairs of spellings, best first (`tokenizer.json`).
    Merges(Vec<(String, String)>),
}

/// How text becomes symbols.
#[derive(Clone, Debug)]
pub enum Scheme {
    /// SentencePiece BPE: characters, a space is U+2581, unknown characters become byte tokens.
    SentencePiece {
        /// The order of merges.
        order: Order,
        /// Where a space is put in front.
        space_prefix: SpacePrefix,
    },
    /// Byte-level BPE: bytes in GPT-2's printable alphabet, cut into words first.
    ByteLevel {
        /// How the text is cut.
        pattern: Pattern,
        /// Pairs of spellings, best first.
        merges: Vec<(String, String)>,
        /// A word that is a token is that token, even if the merges would not get there (`ignore_merges`).
        whole_words: bool,
        /// Text is composed first, to Unicode's normal form C, as Qwen's is.
        composes: bool,
    },
}

/// Blanks beside a token that belong to it (`lstrip` and `rstrip` of `tokenizer.json`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strip {
    /// Swallows white space on its left.
    pub left: bool,
    /// Swallows white space on its right.
    pub right: bool,
}

/// Everything a tokenizer is made from. Field by field as the file has it; [`super::Tokenizer::new`] checks it.
#[derive(Clone, Debug)]
pub struct Vocab {
    /// Spelling of each token, by id.
    pub tokens: Vec<String>,
    /// Kind of each token, by id.
    pub kinds: Vec<TokenKind>,
    /// How text becomes symbols.
    pub scheme: Scheme,
    /// Begin of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// Stands for what cannot be said.
    pub unk: Option<u32>,
    /// Tokens besides `eos` that end a generation.
    pub end_tokens: Vec<u32>,
    /// A prompt starts with `bos`.
    pub add_bos: bool,
    /// A prompt ends with `eos`.
    pub add_eos: bool,
    /// Special tokens that swallow white space.
    pub strips: Vec<(u32, Strip)>,
    /// Tokens for infilling, where the file names them. Which text comes first no file says.
    pub infill: Option<Infill>,
}

/// Longest spelling of a special token, and of a scored SentencePiece token, in bytes. Real ones stay below 100. The
/// limit keeps matching linear in the text, and the table of merges linear in the vocabulary.
pub(super) const MAX_SPELLING: usize = 256;

/// Names of control tokens that end a turn or a text in models of the family, for files that only name one of them.
const END_NAMES: [&str; 8] =
    ["<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>", "<|end|>", "<EOT>", "<|return|>"];

impl Vocab {
    /// Checks lengths, ids, scores and spellings against each other.
    pub(super) fn check(&self) -> Result<()> {
        let n = self.tokens.len();
        if n == 0 || n > i32::MAX as usize / 2 {
            return Err(Error::tokenizer("tokens", format!("{n} tokens; there must be some, and fewer than 2^30")));
        }
        if self.kinds.len() != n {
            return Err(Error::tokenizer(
                "token_type",
                format!("has {} entries; {n}, one for each token, were expected", self.kinds.len()),
            ));
        }
        self.check_ids()?;
        self.check_spellings()?;
        match &self.scheme {
            Scheme::SentencePiece { order: Order::Scores(scores), .. } => check_scores(scores, n),
            _ => Ok(()),
        }
    }

    fn check_ids(&self) -> Result<()> {
        let named = [("bos_token_id", self.bos), ("eos_token_id", self.eos), ("unknown_token_id", self.unk)];
        let ids = named.into_iter().filter_map(|(field, id)| Some((field, id?)));
        let ends = self.end_tokens.iter().map(|&id| ("end tokens", id));
        let strips = self.strips.iter().map(|&(id, _)| ("added_tokens", id));
        let infill = self.infill.iter().flat_map(Infill::tokens).map(|id| ("infilling", id));
        for (field, id) in ids.chain(ends).chain(strips).chain(infill) {
            if id as usize >= self.tokens.len() {
                let problem =
                    format!("id {id} is not in the vocabulary; one less than {} was expected", self.tokens.len());
                return Err(Error::tokenizer(field, problem));
            }
        }
        match (self.add_bos && self.bos.is_none(), self.add_eos && self.eos.is_none()) {
            (true, _) => Err(Error::tokenizer(
                "add_bos_token",
                "is true, and there is no begin-of-sequence token, which was expected then",
            )),
            (_, true) => Err(Error::tokenizer(
                "add_eos_token",
                "is true, and there is no end-of-sequence token, which was expected then",
            )),
            _ => Ok(()),
        }
    }

    fn check_spellings(&self) -> Result<()> {
        let scored = matches!(self.scheme, Scheme::SentencePiece { order: Order::Scores(_), .. });
        for (id, (token, kind)) in self.tokens.iter().zip(&self.kinds).enumerate() {
            let limited = scored || matches!(kind, TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined);
            if limited && token.len() > MAX_SPELLING {
                let problem = format!("token {id} is {} bytes long; at most {MAX_SPELLING} are allowed", token.len());
                return Err(Error::tokenizer("tokens", problem));
            }
        }
        Ok(())
    }

    /// `eos`, and the control tokens known by name to end a turn.
    pub(super) fn named_end_tokens(&self) -> Vec<u32> {
        let by_name = self.tokens.iter().zip(&self.kinds).enumerate().filter_map(|(id, (token, kind))| {
            (*kind == TokenKind::Control && END_NAMES.contains(&token.as_str())).then_some(id as u32)
        });
        self.eos.into_iter().chain(by_name).collect()
    }

    /// The same, and the tokens the file lists; each once.
    pub(super) fn all_end_tokens(&self) -> Vec<u32> {
        let mut ends = self.named_end_tokens();
        ends.extend(&self.end_tokens);
        ends.sort_unstable();
        ends.dedup();
        ends
    }
}

fn check_scores(scores: &[f32], tokens: usize) -> Result<()> {
    if scores.len() != tokens {
        return Err(Error::tokenizer(
            "scores",
            format!("has {} entries; {tokens}, one for each token, were expected", scores.len()),
        ));
    }
    match scores.iter().position(|s| !s.is_finite()) {
        Some(id) => Err(Error::tokenizer(
            "scores",
            format!("score of token {id} is {}; a finite number was expected", scores[id]),
        )),
        None => Ok(()),
    }
}
