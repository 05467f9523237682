//! Which tokens may come before a form, by how much of a tag has been said: for a model once, since it takes all of its tokens.

use std::sync::Arc;

use llama_core::sample::Allowed;
use llama_core::text::Tokenizer;

use super::Tags;

/// Most bytes of white space between the closing tag and a form: a model at a loss for words would say nothing else.
pub const BLANKS: usize = 8;

/// Those of one model.
pub struct TokenSets {
    /// Tokens of the model.
    pub vocab: usize,
    /// What thoughts stand between.
    pub tags: &'static Tags,
    tokenizer: Arc<Tokenizer>,
    /// By how much of the opening tag has been said: tokens that go on with it.
    pub openers: Vec<Vec<u32>>,
    /// By how much of the closing tag has been said: tokens that may come next, where white space behind it is the form's and where
    /// it is nobody's.
    pub within: [Vec<Set>; 2],
    /// Tokens of white space.
    pub blanks: Vec<u32>,
    /// Those that begin with any.
    pub blank_starts: Vec<u32>,
}

/// A set of tokens, in the words of [`Allowed`].
pub type Set = Vec<u32>;

impl TokenSets {
    /// Those of a model of `vocab` tokens with this tokenizer, whose texts end with one of `ends`.
    pub fn new(tags: &'static Tags, tokenizer: Arc<Tokenizer>, vocab: usize, ends: &[u32]) -> Self {
        let all = 0..tokenizer.vocab().min(vocab) as u32;
        let sets = TokenSets {
            openers: Vec::new(),
            within: Default::default(),
            blanks: Vec::new(),
            blank_starts: Vec::new(),
            tags,
            tokenizer,
            vocab,
        };
        let such = |is: &dyn Fn(&[u8]) -> bool| all.clone().filter(|&token| is(sets.text(token))).collect::<Vec<_>>();
        let mut openers = vec![Vec::new(); tags.opening.len()];
        for said in (0..openers.len()).rev() {
            // Not into half a tag that no other token goes on with.
            openers[said] = such(&|text| match sets.opens(said, text) {
                Some(Place::Before(next)) => !openers[next].is_empty(),
                opened => opened.is_some(),
            });
        }
        let blanks = such(&|text| text.len() <= BLANKS && is_blank(text));
        let blank_starts = such(&|text| text.first().is_some_and(u8::is_ascii_whitespace));
        let within = [false, true].map(|kept| {
            let set = |said| sets.set(all.clone().filter(|t| !ends.contains(t) && sets.goes_on(kept, said, *t)));
            (0..tags.closing.len()).map(set).collect()
        });
        TokenSets { openers, blanks, blank_starts, within, ..sets }
    }

    fn set(&self, tokens: impl Iterator<Item = u32>) -> Set {
        let mut set = Allowed::none(self.vocab);
        tokens.for_each(|token| set.allow(token));
        set.words_mut().to_vec()
    }

    /// The text of a token, in bytes.
    pub fn text(&self, token: u32) -> &[u8] {
        self.tags.text(&self.tokenizer, token).unwrap_or_default()
    }

    /// Where `text` leads after `said` bytes of the opening tag, if it goes on with that.
    pub fn opens(&self, said: usize, text: &[u8]) -> Option<Place> {
        let rest = &self.tags.opening.as_bytes()[said..];
        match text.strip_prefix(rest) {
            Some(thoughts) => match follow(self.tags.closing, 0, thoughts) {
                (said, None) => Some(Place::Within(said)),
                _ => None,
            },
            None => (!text.is_empty() && rest.starts_with(text)).then_some(Place::Before(said + text.len())),
        }
    }

    /// Whether `token` may come amid thoughts, after `said` bytes of the closing tag.
    fn goes_on(&self, kept: bool, said: usize, token: u32) -> bool {
        match follow(self.tags.closing, said, self.text(token)) {
            (_, None) => true,
            (_, Some(behind)) => behind.is_empty() || !kept && behind.len() <= BLANKS && is_blank(behind),
        }
    }
}

/// Whether `text` is nothing but white space, of which there is some.
pub fn is_blank(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_whitespace)
}

/// How much of `closing` has been said once `text` has come after `said` bytes of it, and if that is all, what of `text` is behind it.
pub fn follow<'a>(closing: &str, mut said: usize, text: &'a [u8]) -> (usize, Option<&'a [u8]>) {
    let closing = closing.as_bytes();
    for (at, &byte) in text.iter().enumerate() {
        // Nothing within a tag is its beginning, so who falls out of one may be at the beginning of the next and no further.
        said = if byte == closing[said] { said + 1 } else { usize::from(byte == closing[0]) };
        if said == closing.len() {
            return (0, Some(&text[at + 1..]));
        }
    }
    (said, None)
}

/// Where a text is.
#[derive(Clone, Copy)]
pub enum Place {
    /// After so many bytes of the opening tag.
    Before(usize),
    /// Amid thoughts, after so many bytes of the closing tag.
    Within(usize),
    /// Behind the tag, where there may be so many more bytes of white space.
    Behind(usize),
    /// In the form.
    Form,
}
