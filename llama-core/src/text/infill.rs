//! Infilling: asking for what belongs between two texts, as an editor does at the cursor.
//!
//! A model that can do it was trained on texts of which a stretch was moved to the end, with tokens that say which part is
//! which (Bavarian et al. 2022, arXiv:2207.14255). A prompt is one of
//!
//! ```text
//! bos PREFIX prefix SUFFIX suffix MIDDLE
//! bos SUFFIX suffix PREFIX prefix MIDDLE       Codestral, without MIDDLE; Seed-Coder
//! ```
//! and what is generated is the middle. A GGUF file may name the tokens; otherwise they are known by their spellings. No file
//! says which part comes first: that goes by the spellings, too.
//!
//! The suffix goes on in the middle of a text: SentencePiece puts no space in front of it (Rozière et al. 2023, "Code Llama",
//! arXiv:2308.12950, section 2.3).

use super::special::Specials;
use super::tokenizer::Tokenizer;
use super::vocab::{TokenKind, Vocab};
use crate::error::{Error, Result};

/// The tokens with which a model is asked for what belongs between two texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Infill {
    /// Stands before the first of the two.
    pub prefix: u32,
    /// Stands before the second.
    pub suffix: u32,
    /// Stands after both, if there is one.
    pub middle: Option<u32>,
    /// The second text comes first.
    pub suffix_first: bool,
    /// What ends a middle beside all that ends a text: where another file would begin, for one.
    pub end_tokens: Vec<u32>,
}

/// What models of one kind call their tokens.
struct Spellings {
    /// Prefix, suffix, and the middle, if there is one.
    marks: (&'static str, &'static str, Option<&'static str>),
    suffix_first: bool,
    ends: &'static [&'static str],
}

const KNOWN: [Spellings; 6] = [
    // CodeLlama.
    Spellings { marks: ("▁<PRE>", "▁<SUF>", Some("▁<MID>")), suffix_first: false, ends: &["▁<EOT>"] },
    // DeepSeek-Coder.
    Spellings {
        marks: ("<｜fim▁begin｜>", "<｜fim▁hole｜>", Some("<｜fim▁end｜>")),
        suffix_first: false,
        ends: &["<|EOT|>"],
    },
    // Granite Code, with StarCoder's vocabulary.
    Spellings {
        marks: ("<fim_prefix>", "<fim_suffix>", Some("<fim_middle>")),
        suffix_first: false,
        ends: &["<fim_pad>", "<filename>", "<reponame>", "<file_sep>", "<repo_name>"],
    },
    // Yi-Coder.
    Spellings {
        marks: ("<|fim_prefix|>", "<|fim_suffix|>", Some("<|fim_middle|>")),
        suffix_first: false,
        ends: &["<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"],
    },
    // Codestral.
    Spellings { marks: ("[PREFIX]", "[SUFFIX]", None), suffix_first: true, ends: &[] },
    // Seed-Coder.
    Spellings { marks: ("<[fim-prefix]>", "<[fim-suffix]>", Some("<[fim-middle]>")), suffix_first: true, ends: &[] },
];

impl Infill {
    /// Those of a vocabulary: what its file names, else what is known by its spelling.
    pub(super) fn of(vocab: &Vocab) -> Option<Infill> {
        match &vocab.infill {
            Some(named) => Some(named.clone().completed(vocab)),
            None => KNOWN.iter().find_map(|spellings| spellings.find(vocab)),
        }
    }

    /// All of its tokens.
    pub(super) fn tokens(&self) -> impl Iterator<Item = u32> {
        [self.prefix, self.suffix].into_iter().chain(self.middle).chain(self.end_tokens.iter().copied())
    }

    /// Named tokens with what no file names and their spellings are known to have: the order, and what else ends a middle. Without
    /// a middle the prefix has to come last: what is generated goes on from there.
    fn completed(mut self, vocab: &Vocab) -> Infill {
        let spelled = vocab.tokens.get(self.suffix as usize).map(String::as_str);
        let known = KNOWN.iter().find(|known| Some(known.marks.1) == spelled);
        self.suffix_first = known.map_or(self.middle.is_none(), |known| known.suffix_first);
        for end in known.into_iter().flat_map(|known| known.end_tokens(vocab)) {
            if !self.end_tokens.contains(&end) {
                self.end_tokens.push(end);
            }
        }
        self
    }
}

impl Spellings {
    fn find(&self, vocab: &Vocab) -> Option<Infill> {
        let find = |spelling: &str| find(vocab, spelling);
        let (prefix, suffix, middle) = self.marks;
        Some(Infill {
            prefix: find(prefix)?,
            suffix: find(suffix)?,
            middle: match middle {
                Some(middle) => Some(find(middle)?),
                None => None,
            },
            suffix_first: self.suffix_first,
            end_tokens: self.end_tokens(vocab).collect(),
        })
    }

    fn end_tokens(&self, vocab: &Vocab) -> impl Iterator<Item = u32> {
        self.ends.iter().filter_map(|&end| find(vocab, end))
    }
}

/// The token of this spelling: of text, too, since SentencePiece's files have CodeLlama's as such.
fn find(vocab: &Vocab, spelling: &str) -> Option<u32> {
    let used = |(token, kind): (&String, &TokenKind)| token == spelling && *kind != TokenKind::Unused;
    vocab.tokens.iter().zip(&vocab.kinds).position(used).map(|id| id as u32)
}

impl Tokenizer {
    /// The tokens for infilling, if the vocabulary has them. Having them does not say that a model was trained with them.
    pub fn infill(&self) -> Option<&Infill> {
        self.infill.as_ref()
    }

    /// A prompt whose continuation belongs between `prefix` and `suffix`, texts both: control tokens are none of them.
    ///
    /// It ends at [`Infill::end_tokens`], too; give these to [`Request::stop_tokens`](crate::engine::Request::stop_tokens).
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the vocabulary has no tokens for it, otherwise as [`Tokenizer::encode`].
    pub fn encode_infill(&self, prefix: &str, suffix: &str) -> Result<Vec<u32>> {
        let infill = self.infill().ok_or_else(|| {
            let advice = "take a model that was trained to fill in, such as CodeLlama, DeepSeek-Coder or Codestral";
            Error::unsupported("infilling by a vocabulary without tokens for it", advice)
        })?;
        let (mut before, mut after) = (vec![infill.prefix], vec![infill.suffix]);
        self.encode_from(prefix, Specials::AsText, true, &mut before)?;
        self.encode_within(suffix, &mut after)?;
        let [first, second] = if infill.suffix_first { [after, before] } else { [before, after] };
        Ok(self.prompt_start().chain(first).chain(second).chain(infill.middle).collect())
    }
}
