//! Tokens to text as they come.
//!
//! A token may end in the middle of a character, and no screen or client can show half a one. A [`TextStream`] holds such
//! bytes back until the character is whole or can no longer become one; then U+FFFD takes their place, in the same way
//! as [`String::from_utf8_lossy`] does, so that the pieces together are what decoding all tokens at once gives.

use std::borrow::Borrow;

use super::tokenizer::Tokenizer;
use crate::error::Result;

/// The text of a growing sequence of tokens, in pieces. Control tokens have no text, unless they are to be spelled. `T` is a `&Tokenizer` or an
/// `Arc<Tokenizer>`.
#[derive(Clone, Debug)]
pub struct TextStream<T> {
    tokenizer: T,
    /// The beginning of a character: up to three bytes.
    held: Vec<u8>,
    /// The next byte of text is the first, and a space there is not part of the text.
    drop_space: bool,
    /// Control tokens whose text is their spelling.
    spelled: Vec<u32>,
}

impl<T: Borrow<Tokenizer>> TextStream<T> {
    /// A stream whose tokens are a text of their own: together the pieces are [`Tokenizer::decode`] of all tokens.
    pub fn new(tokenizer: T) -> Self {
        let drop_space = tokenizer.borrow().adds_space();
        TextStream { tokenizer, held: Vec::new(), drop_space, spelled: Vec::new() }
    }

    /// A stream whose tokens continue a text: a space in front belongs to it.
    pub fn continuing(tokenizer: T) -> Self {
        TextStream { drop_space: false, ..TextStream::new(tokenizer) }
    }

    /// The same, in which the control tokens among `tokens` are spelled out.
    pub fn spelling(self, tokens: Vec<u32>) -> Self {
        TextStream { spelled: tokens, ..self }
    }

    /// Takes the next token and appends the text that is now certain, which may be none, to `out`.
    ///
    /// # Errors
    /// [`crate::Error::Parameter`] if `id` is not in the vocabulary.
    pub fn push(&mut self, id: u32, out: &mut String) -> Result<()> {
        let tokenizer = self.tokenizer.borrow();
        let mut piece = tokenizer.piece(id)?;
        if tokenizer.is_control(id) && !self.spelled.contains(&id) || piece.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut self.drop_space) {
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
        }
        self.held.extend_from_slice(piece);
        self.take_whole_characters(out);
        Ok(())
    }

    /// Appends the text that was still held back when the last token had come. Ends the stream.
    pub fn finish(self, out: &mut String) {
        push_lossy(&self.held, out);
    }

    /// Everything up to an unfinished character at the end.
    fn take_whole_characters(&mut self, out: &mut String) {
        let end = self.held.len() - unfinished(&self.held);
        push_lossy(&self.held[..end], out);
        self.held.drain(..end);
    }
}

/// As [`String::from_utf8_lossy`], without a string in between.
fn push_lossy(bytes: &[u8], out: &mut String) {
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// How many bytes at the end of `bytes` begin a character that more bytes could finish.
fn unfinished(bytes: &[u8]) -> usize {
    let start = bytes.len().saturating_sub(3);
    let tails = (start..bytes.len()).map(|i| &bytes[i..]);
    let opens =
        |tail: &&[u8]| matches!(std::str::from_utf8(tail), Err(e) if e.valid_up_to() == 0 && e.error_len().is_none());
    tails.into_iter().find(opens).map_or(0, <[u8]>::len)
}

#[cfg(test)]
mod tests {
    use super::unfinished;

    #[test]
    fn only_what_can_still_become_a_character_waits() {
        let llama = "🦙".as_bytes();
        for n in 0..4 {
            assert_eq!(unfinished(&llama[..n]), n);
        }
        assert_eq!(unfinished(llama), 0);
        assert_eq!(unfinished(b"ab\xC3"), 1);
        assert_eq!(unfinished(b"\xFF"), 0);
        assert_eq!(unfinished(b"\x80\x80\x80"), 0);
        assert_eq!(unfinished(b"\xE0\x80"), 0, "an overlong form cannot be finished");
        assert_eq!(unfinished(b"\xED\xA0"), 0, "nor can a surrogate");
    }
}
