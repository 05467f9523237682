//! Thoughts before a form: a grammar of thoughts between tags, and then another's texts.
//!
//! ```text
//! before: the form's beginning, or the opening tag -> amid thoughts: anything but an end -> after the closing tag: the form
//! ```
//!
//! The form is asked only where it speaks: amid thoughts what may come is one of a few sets that are known beforehand (`sets.rs`). A text
//! is then of the form to the letter, so a token that says something behind the closing tag may not come, unless that is white space
//! which the form could not have begun with.

use std::fmt;
use std::sync::Arc;

use llama_core::Result;
use llama_core::engine::{Constraint, Grammar};
use llama_core::sample::Allowed;

use super::sets::{BLANKS, Place, Set, TokenSets, follow, is_blank};

/// A form, and what may be thought before it.
pub struct Forethought {
    form: Arc<dyn Grammar>,
    sets: Arc<TokenSets>,
    /// Whether the text begins amid thoughts.
    begun: bool,
    /// What the form may begin with.
    starts: Arc<Set>,
    /// Whether there is white space among that.
    kept: bool,
}

impl Forethought {
    /// Before `form`, in a text that begins amid thoughts or before them.
    ///
    /// # Errors
    /// The form's own, of its beginning.
    pub fn before(form: Arc<dyn Grammar>, sets: Arc<TokenSets>, begun: bool) -> Result<Self> {
        let mut starts = Allowed::none(sets.vocab);
        form.begin()?.allow(&mut starts)?;
        let kept = sets.blank_starts.iter().any(|&token| starts.allows(token));
        Ok(Forethought { form, sets, begun, starts: Arc::new(starts.words_mut().to_vec()), kept })
    }

    /// Whether white space behind the closing tag is the form's.
    pub fn keeps_blanks(&self) -> bool {
        self.kept
    }
}

impl fmt::Debug for Forethought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forethought").field("form", &self.form).field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl Grammar for Forethought {
    fn begin(&self) -> Result<Box<dyn Constraint>> {
        let Forethought { form, sets, begun, starts, kept } = self;
        Ok(Box::new(Walk {
            form: form.clone(),
            sets: sets.clone(),
            starts: starts.clone(),
            kept: *kept,
            place: if *begun { Place::Within(0) } else { Place::Before(0) },
            spoken: None,
            both: Vec::new(),
        }))
    }
}

/// How far one text has come.
struct Walk {
    form: Arc<dyn Grammar>,
    sets: Arc<TokenSets>,
    starts: Arc<Set>,
    kept: bool,
    place: Place,
    /// How far it has come in the form, if it has begun and may still be one.
    spoken: Option<Box<dyn Constraint>>,
    /// Tokens that may go on with the opening tag and with the form.
    both: Vec<u32>,
}

impl Walk {
    /// Goes on by `token` in the form.
    fn speak(&mut self, token: u32) -> Result<()> {
        let spoken = match &mut self.spoken {
            Some(spoken) => spoken,
            none => none.insert(self.form.begin()?),
        };
        spoken.advance(token)
    }

    fn advance_before(&mut self, said: usize, token: u32) -> Result<()> {
        // The form may begin as a tag does that no token can go on with.
        let opened = self.sets.openers[said].contains(&token).then(|| self.sets.opens(said, self.sets.text(token)));
        let opened = opened.flatten();
        match opened {
            Some(Place::Before(_)) if self.both.contains(&token) => self.speak(token)?,
            // Whatever the form could have been, the tag is complete.
            Some(_) => self.spoken = None,
            None => self.speak(token)?,
        }
        self.place = opened.unwrap_or(Place::Form);
        Ok(())
    }

    fn advance_behind(&mut self, left: usize, token: u32) -> Result<()> {
        match self.sets.text(token) {
            blank if is_blank(blank) => self.place = Place::Behind(left.saturating_sub(blank.len())),
            _ => {
                self.speak(token)?;
                self.place = Place::Form;
            }
        }
        Ok(())
    }
}

impl Constraint for Walk {
    fn allow(&mut self, allowed: &mut Allowed) -> Result<()> {
        match self.place {
            Place::Before(said) => {
                match &mut self.spoken {
                    Some(spoken) => spoken.allow(allowed)?,
                    None if said == 0 => copy(&self.starts, allowed),
                    None => {}
                }
                let openers = &self.sets.openers[said];
                self.both = openers.iter().copied().filter(|&token| allowed.allows(token)).collect();
                openers.iter().for_each(|&token| allowed.allow(token));
            }
            Place::Within(said) => copy(&self.sets.within[usize::from(self.kept)][said], allowed),
            Place::Behind(left) => {
                copy(&self.starts, allowed);
                let blanks = self.sets.blanks.iter().filter(|&&token| self.sets.text(token).len() <= left);
                blanks.for_each(|&token| allowed.allow(token));
            }
            Place::Form => match &mut self.spoken {
                Some(spoken) => spoken.allow(allowed)?,
                None => copy(&self.starts, allowed),
            },
        }
        Ok(())
    }

    fn advance(&mut self, token: u32) -> Result<()> {
        match self.place {
            Place::Before(said) => self.advance_before(said, token)?,
            Place::Within(said) => {
                self.place = match follow(self.sets.tags.closing, said, self.sets.text(token)) {
                    (said, None) => Place::Within(said),
                    (_, Some(_)) if self.kept => Place::Form,
                    (_, Some(behind)) => Place::Behind(BLANKS.saturating_sub(behind.len())),
                }
            }
            Place::Behind(left) => self.advance_behind(left, token)?,
            Place::Form => self.speak(token)?,
        }
        Ok(())
    }
}

fn copy(set: &[u32], allowed: &mut Allowed) {
    let words = allowed.words_mut();
    let len = words.len().min(set.len());
    words[..len].copy_from_slice(&set[..len]);
}

#[cfg(test)]
mod tests;
