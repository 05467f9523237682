//! What a model thinks before it speaks, told from text while it comes: `<think>`, thoughts, `</think>`, and then the answer.
//!
//! DeepSeek-R1 and what was distilled from it, Qwen3, SmolLM3 and others were taught so, and their templates know it: they take
//! thoughts out of earlier turns by the closing tag. Some begin the model's turn with the opening tag, so that a text starts amid
//! thoughts; of the others the tag must be the first that is said. White space around thoughts and before the answer is neither's.

use llama_core::engine::Score;
use llama_core::text::{ChatTemplate, Tokenizer};

use crate::served::Served;

const OPENING: &str = "<think>";
const CLOSING: &str = "</think>";
/// Tokens at the end of a prompt among which the opening tag is looked for: it may have several, and white space after it.
const TAIL: usize = 16;

/// Whether the model whose template this is was taught to think in tags.
pub fn has(template: Option<&ChatTemplate>) -> bool {
    template.is_some_and(|template| template.mentions(CLOSING))
}

/// Tells thoughts from an answer in one text.
#[derive(Clone)]
pub struct Thoughts {
    place: Place,
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

impl Thoughts {
    /// At the beginning of a text that is all answer.
    pub fn none() -> Self {
        Thoughts { place: Place::Answer, held: String::new() }
    }

    /// At the beginning of what is said after `prompt`. If it has a `form`, there is no room for thoughts in it.
    pub fn after(served: &Served, prompt: &[u32], form: bool) -> Self {
        if form || !has(served.template.as_ref()) {
            return Thoughts::none();
        }
        let tail = &prompt[prompt.len().saturating_sub(TAIL)..];
        let begun = served.tokenizer.decode(tail).is_ok_and(|text| text.trim_end().ends_with(OPENING));
        Thoughts { place: if begun { Place::Opened } else { Place::Before }, held: String::new() }
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
        let said = self.held.trim_start();
        if let Some(rest) = said.strip_prefix(OPENING) {
            self.held = rest.to_owned();
            self.place = Place::Opened;
        } else if !OPENING.starts_with(said) {
            self.place = Place::Answer;
        }
    }

    fn skip_blanks(&mut self) {
        self.held.drain(..self.held.len() - self.held.trim_start().len());
        if !self.held.is_empty() {
            self.place = if self.place == Place::Opened { Place::Within } else { Place::Answer };
        }
    }

    /// Thoughts up to the closing tag, or to what may become one, and the white space before either.
    fn read_thoughts(&mut self) -> String {
        let end = self.held.find(CLOSING);
        let certain = end.unwrap_or_else(|| self.held.len() - begun(&self.held));
        let thoughts = self.held[..certain].trim_end().to_owned();
        match end {
            Some(end) => {
                self.held.drain(..end + CLOSING.len());
                self.place = Place::Closed;
            }
            None => drop(self.held.drain(..thoughts.len())),
        }
        thoughts
    }
}

/// Tells the tokens of an answer from those of the thoughts before it, where they come by themselves: not every token has a text, and
/// the texts of several may come as one.
pub struct AnswerScores {
    thoughts: Thoughts,
    /// Those that are the answer's, if there turn out to be no thoughts.
    held: Vec<Score>,
}

impl AnswerScores {
    /// At the beginning of what `thoughts` tells apart.
    pub fn new(thoughts: Thoughts) -> Self {
        AnswerScores { thoughts, held: Vec::new() }
    }

    /// Those of `scores` that are the answer's, and what was held back of the ones before, if they have `ended`.
    ///
    /// # Errors
    /// [`Error::Parameter`](llama_core::Error) for a token that is not in the vocabulary.
    pub fn push(&mut self, tokenizer: &Tokenizer, scores: &[Score], ended: bool) -> llama_core::Result<Vec<Score>> {
        let mut answered = Vec::new();
        for score in scores {
            self.held.push(score.clone());
            // A control token has no text.
            let text = tokenizer.piece(score.token)?;
            let text = if tokenizer.is_control(score.token) { &[] } else { text };
            self.thoughts.push(&String::from_utf8_lossy(text));
            match self.thoughts.place {
                Place::Before => {}
                Place::Answer => answered.append(&mut self.held),
                Place::Opened | Place::Within | Place::Closed => self.held.clear(),
            }
        }
        if ended {
            answered.append(&mut self.held);
        }
        Ok(answered)
    }
}

/// Bytes at the end of `text` that may become the closing tag.
fn begun(text: &str) -> usize {
    (1..CLOSING.len()).rev().find(|&length| text.ends_with(&CLOSING[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(place: Place) -> Thoughts {
        Thoughts { place, held: String::new() }
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
