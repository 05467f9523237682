//! Words that a text is not to have, as the tokens that it would have them by.

use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

impl Tokenizer {
    /// For [`Sampling::bad_words`](crate::sample::Sampling::bad_words): the tokens of each of `words` as the rest of a text, with a
    /// space in front and without one. Spaces that a word begins with are left out. Any string may be a word.
    ///
    /// A model that spells a word by other tokens may write it all the same, as may one that writes it as a part of a longer
    /// token.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a word that is empty or has no tokens; otherwise as [`Tokenizer::encode`].
    pub fn bad_words(&self, words: &[impl AsRef<str>]) -> Result<Vec<Box<[u32]>>> {
        let mut lists = Vec::with_capacity(2 * words.len());
        for word in words.iter().map(AsRef::as_ref) {
            let bare = word.trim_start_matches(' ');
            for text in [bare, &format!(" {bare}")] {
                let mut tokens = Vec::new();
                self.encode_within(text, &mut tokens)?;
                if bare.is_empty() || tokens.is_empty() {
                    return Err(Error::parameter("bad_words", format!("{word:?}"), "must be a word that has tokens"));
                }
                lists.push(tokens.into());
            }
        }
        lists.sort_unstable();
        lists.dedup();
        Ok(lists)
    }
}
