//! What a model thinks before it speaks, told from text while it comes: `<think>`, thoughts, `</think>`, and then the answer.
//!
//! DeepSeek-R1 and what was distilled from it, Qwen3, SmolLM3 and others were taught so, and their templates know it: they take
//! thoughts out of earlier turns by the closing tag. Magistral's models have `[THINK]` and `[/THINK]`. Some templates begin the model's
//! turn with the opening tag, so that a text starts amid thoughts; of the others the tag must be the first that is said. White space
//! around thoughts and before the answer is neither's.
//!
//! Where the answer has a form, it is the form of the answer: what comes before it is left to the model (`forethought.rs`). `effort.rs` is
//! how much it is to think, and `tokens.rs` which tokens were thoughts.

pub mod effort;
mod forethought;
mod sets;
mod tokens;

use std::sync::Arc;

use llama_core::engine::Request;
use llama_core::text::{ChatTemplate, Tokenizer};

use crate::error::Result;
use crate::served::Served;
use forethought::Forethought;

pub use sets::TokenSets;
pub use tokens::{AnswerScores, Tally};

/// What thoughts stand between. No character of a tag is its first one but that.
#[derive(Debug, PartialEq, Eq)]
pub struct Tags {
    opening: &'static str,
    closing: &'static str,
}

const TAGS: [Tags; 2] =
    [Tags { opening: "<think>", closing: "</think>" }, Tags { opening: "[THINK]", closing: "[/THINK]" }];
/// Tokens at the end of a prompt among which a tag is looked for: it may have several, and white space after it.
const TAIL: usize = 16;

impl Tags {
    /// Those of the model whose template this is, if it was taught to think in any.
    pub fn of(template: Option<&ChatTemplate>) -> Option<&'static Tags> {
        TAGS.iter().find(|tags| template.is_some_and(|template| template.mentions(tags.closing)))
    }

    /// Those of them that are control tokens, which have no text of their own.
    fn controls(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let tags = [self.opening, self.closing].into_iter();
        tags.filter_map(|tag| tokenizer.id(tag).filter(|&id| tokenizer.is_control(id))).collect()
    }

    /// The text of `token`, in bytes. Control tokens have none, unless they are tags.
    fn text<'a>(&self, tokenizer: &'a Tokenizer, token: u32) -> llama_core::Result<&'a [u8]> {
        let text = tokenizer.piece(token)?;
        let is_tag = || text == self.opening.as_bytes() || text == self.closing.as_bytes();
        Ok(if tokenizer.is_control(token) && !is_tag() { &[] } else { text })
    }
}

/// Tells thoughts from an answer in one text.
#[derive(Clone)]
pub struct Thoughts {
    tags: &'static Tags,
    place: Place,
    blanks: Blanks,
    /// What is not decided yet.
    held: String,
}

/// Where in a text this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Where the opening tag may come.
    Before,
    /// After the tag, and only white space since.
    Opened,
    Within,
    /// After the closing tag, and only white space since.
    Closed,
    Answer,
}

/// Which white space is the answer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blanks {
    /// None before it, and none before thoughts.
    Free,
    /// All of an answer of a form, without thoughts; none after them: the form begins with none.
    Formed,
    /// All of an answer of a form that may begin with white space.
    Kept,
}

impl Thoughts {
    /// At the beginning of a text that is all answer.
    pub fn none() -> Self {
        Thoughts::at(Place::Answer, &TAGS[0], Blanks::Free)
    }

    fn at(place: Place, tags: &'static Tags, blanks: Blanks) -> Self {
        Thoughts { tags, place, blanks, held: String::new() }
    }

    /// At the beginning of what is said after `prompt`, by `request`. If that has a form, it becomes one with room for thoughts before
    /// it, unless the prompt ends with a closing tag: the model has thought then, or is not to.
    ///
    /// # Errors
    /// Those of the form's beginning.
    pub fn begin(served: &Served, prompt: &[u32], request: &mut Request) -> Result<Self> {
        let Some(tags) = Tags::of(served.template.as_ref()) else { return Ok(Thoughts::none()) };
        request.spelled_tokens = tags.controls(&served.tokenizer);
        let tail = served.tokenizer.decode_with_specials(&prompt[prompt.len().saturating_sub(TAIL)..])?;
        let place = if tail.trim_end().ends_with(tags.opening) { Place::Opened } else { Place::Before };
        let Some(form) = request.grammar.take() else { return Ok(Thoughts::at(place, tags, Blanks::Free)) };
        if tail.trim_end().ends_with(tags.closing) {
            request.grammar = Some(form);
            return Ok(Thoughts::none());
        }
        let forethought = Forethought::before(form, served.token_sets(tags), place == Place::Opened)?;
        let blanks = if forethought.keeps_blanks() { Blanks::Kept } else { Blanks::Formed };
        request.grammar = Some(Arc::new(forethought));
        Ok(Thoughts::at(place, tags, blanks))
    }

    /// Whether the answer has begun.
    pub fn are_over(&self) -> bool {
        self.place == Place::Answer
    }

    /// What is certain once `text` has come: thoughts, and then the answer. Either may be empty.
    pub fn push(&mut self, text: &str) -> (String, String) {
        self.held.push_str(text);
        let mut thoughts = String::new();
        loop {
            let place = self.place;
            match place {
                Place::Before => self.read_opening(),
                Place::Opened | Place::Closed => self.skip_blanks(),
                Place::Within => thoughts.push_str(&self.read_thoughts()),
                Place::Answer => return (thoughts, std::mem::take(&mut self.held)),
            }
            if self.place == place {
                return (thoughts, String::new());
            }
        }
    }

    /// What was held back: nothing more will come. A text that ends amid thoughts has no answer.
    pub fn end(&mut self) -> (String, String) {
        let held = std::mem::take(&mut self.held);
        match std::mem::replace(&mut self.place, Place::Answer) {
            Place::Before | Place::Answer => (String::new(), held),
            Place::Opened | Place::Within => (held.trim_end().to_owned(), String::new()),
            Place::Closed => Default::default(),
        }
    }

    fn read_opening(&mut self) {
        let said = if self.blanks == Blanks::Free { self.held.trim_start() } else { &self.held };
        if let Some(rest) = said.strip_prefix(self.tags.opening) {
            self.held = rest.to_owned();
            self.place = Place::Opened;
        } else if !self.tags.opening.starts_with(said) {
            self.place = Place::Answer;
        }
    }

    fn skip_blanks(&mut self) {
        if self.place == Place::Opened {
            self.held.drain(..self.held.len() - self.held.trim_start().len());
        } else if self.blanks != Blanks::Kept {
            self.held.drain(..self.held.len() - self.held.trim_ascii_start().len());
        }
        if !self.held.is_empty() {
            self.place = if self.place == Place::Opened { Place::Within } else { Place::Answer };
        }
    }

    /// Thoughts up to the closing tag, or to what may become one, and the white space before either.
    fn read_thoughts(&mut self) -> String {
        let closing = self.tags.closing;
        let end = self.held.find(closing);
        let certain = end.unwrap_or_else(|| self.held.len() - begun(closing, &self.held));
        let thoughts = self.held[..certain].trim_end().to_owned();
        match end {
            Some(end) => {
                self.held.drain(..end + closing.len());
                self.place = Place::Closed;
            }
            None => drop(self.held.drain(..thoughts.len())),
        }
        thoughts
    }
}

/// Bytes at the end of `text` that may become the closing tag.
fn begun(closing: &str, text: &str) -> usize {
    (1..closing.len()).rev().find(|&length| text.ends_with(&closing[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(place: Place) -> Thoughts {
        Thoughts::at(place, &TAGS[0], Blanks::Free)
    }

    /// What becomes of a text that comes in pieces of `size` characters.
    fn read(place: Place, text: &str, size: usize) -> (String, String) {
        let (mut thoughts, mut said) = (at(place), (String::new(), String::new()));
        let chars: Vec<char> = text.chars().collect();
        let pieces = chars.chunks(size.max(1)).map(|piece| thoughts.push(&piece.iter().collect::<String>()));
        let mut parts: Vec<_> = pieces.collect();
        parts.push(thoughts.end());
        for (thought, answer) in parts {
            said.0.push_str(&thought);
            said.1.push_str(&answer);
        }
        said
    }

    #[test]
    fn thoughts_end_where_the_tag_says() {
        for (place, text, thoughts, answer) in [
            (Place::Before, "<think>\nhm\n</think>\n\nYes.\n", "hm", "Yes.\n"),
            (Place::Before, " \n<think>a  b </think>c", "a  b", "c"),
            (Place::Before, "<think>\n\n</think>\n\nNo.", "", "No."),
            (Place::Before, "<think></think>", "", ""),
            (Place::Before, "Yes. <think>hm</think>", "", "Yes. <think>hm</think>"),
            (Place::Before, "  <thin", "", "  <thin"),
            (Place::Before, "<thinking>", "", "<thinking>"),
            (Place::Before, "", "", ""),
            (Place::Before, "<think>cut off </thi", "cut off </thi", ""),
            (Place::Before, "<think>cut off\n", "cut off", ""),
            (Place::Before, "<think>1 </ 2 </think 3</think>4", "1 </ 2 </think 3", "4"),
            (Place::Before, "<think>a</think> b</think>c", "a", "b</think>c"),
            (Place::Opened, "\nhm\n</think>\n\nYes.", "hm", "Yes."),
            (Place::Opened, "</think>Yes.", "", "Yes."),
            (Place::Answer, "<think>hm</think>Yes.", "", "<think>hm</think>Yes."),
        ] {
            for size in [1, 2, 3, 7, 100] {
                assert_eq!(read(place, text, size), (thoughts.into(), answer.into()), "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn thoughts_are_told_as_they_come() {
        let mut thoughts = at(Place::Before);
        let mut push = |text: &str| thoughts.push(text);
        assert_eq!(push("<think>\n"), ("".into(), "".into()));
        assert_eq!(push("a b"), ("a b".into(), "".into()));
        assert_eq!(push(" \n"), ("".into(), "".into()), "it may be the last");
        assert_eq!(push("c <"), (" \nc".into(), "".into()));
        assert_eq!(push("d</think>\n"), (" <d".into(), "".into()));
        assert_eq!(push("\ne "), ("".into(), "e ".into()));
    }

    proptest! {
        /// In whatever pieces a text comes, the same comes of it.
        #[test]
        fn pieces_do_not_matter(text in "( |\n|<think>|</think>|<|/|think>|é|a){0,20}", size in 1usize..9) {
            for place in [Place::Before, Place::Opened, Place::Answer] {
                prop_assert_eq!(read(place, &text, size), read(place, &text, 1000));
            }
        }
    }
}
