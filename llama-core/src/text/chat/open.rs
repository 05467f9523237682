//! Leaving the last message of a conversation open, for the model to go on with what it says.
//!
//! A template closes every message. As in transformers 5.24 (`render_jinja_template`) a mark is put behind the text of the last
//! one, a space behind the mark, and the prompt ends where the mark comes out. Where the space has gone the template trims what
//! messages say, and so is the open one trimmed: `<|eot_id|>` would have followed its last word.

use std::borrow::Cow;

use serde_json::{Map, Value as Json};

use super::encode::{PRIVATE, private_characters};
use super::methods::is_space;
use super::{Message, RenderOptions};
use crate::error::{Error, Result};

/// A conversation that a template is given.
pub(super) struct Conversation<'m> {
    /// In the last of them there may be a mark.
    pub messages: Cow<'m, [Message]>,
    /// A private-use character that nothing else has.
    mark: Option<char>,
}

impl<'m> Conversation<'m> {
    /// That of `messages`, the last of which is open where `options` want it so. `source` is the template's.
    ///
    /// # Errors
    /// [`Error::Parameter`] if it says nothing or calls tools, or a new turn is to begin after it; [`Error::Template`] if no character is left.
    pub fn new(messages: &'m [Message], options: &RenderOptions, source: &str) -> Result<Self> {
        if !options.continue_final_message {
            return Ok(Conversation { messages: messages.into(), mark: None });
        }
        let wrong = |problem| Error::parameter("continue_final_message", true, problem);
        if options.add_generation_prompt {
            return Err(wrong("needs add_generation_prompt = false: a new turn would begin otherwise"));
        }
        if messages.last().is_some_and(|last| calls(&last.0)) {
            return Err(wrong("needs a last message without tool_calls: the prompt would end before them"));
        }
        let mut used = private_characters(messages, options);
        used.extend(source.chars().map(u32::from));
        let mark = PRIVATE.rev().filter(|c| !used.contains(c)).find_map(char::from_u32);
        let mark = mark.ok_or_else(|| Error::template("the messages use up all private-use characters"))?;
        let mut messages = messages.to_vec();
        let text = messages.last_mut().and_then(|last| text(&mut last.0));
        text.ok_or_else(|| wrong("needs a last message that is text"))?.extend([mark, ' ']);
        Ok(Conversation { messages: messages.into(), mark: Some(mark) })
    }

    /// What was rendered, as far as the text of an open message.
    ///
    /// # Errors
    /// [`Error::Template`] if the template has not written it.
    pub fn cut(&self, mut rendered: String) -> Result<String> {
        let Some(mark) = self.mark else { return Ok(rendered) };
        let at = rendered.rfind(mark).ok_or_else(unwritten)?;
        let spaced = rendered[at..].chars().nth(1) == Some(' ');
        let text = &rendered[..at];
        rendered.truncate(if spaced { at } else { text.trim_end_matches(is_space).len() });
        // Where the text was written before, too, the mark is no part of it.
        Ok(rendered.replace(&format!("{mark} "), "").replace(mark, ""))
    }

    /// That `prompt` has all that an open message says.
    ///
    /// # Errors
    /// [`Error::Template`] if the template leaves a part of it out.
    pub fn check(&self, prompt: &str) -> Result<()> {
        let Some(mark) = self.mark else { return Ok(()) };
        let text = self.messages.last().and_then(|last| text(&mut last.0.clone()).cloned()).unwrap_or_default();
        match prompt.contains(text.trim_end().trim_end_matches(mark).trim_matches(is_space)) {
            true => Ok(()),
            false => Err(unwritten()),
        }
    }
}

fn unwritten() -> Error {
    Error::template("the template does not write the last message as it is, so it cannot be continued")
}

/// Whether a message calls tools.
fn calls(message: &Map<String, Json>) -> bool {
    message.get("tool_calls").and_then(Json::as_array).is_some_and(|calls| !calls.is_empty())
}

/// What a message says: its content, or the last text of a content in parts.
fn text(message: &mut Map<String, Json>) -> Option<&mut String> {
    let string = |value| match value {
        &mut Json::String(ref mut text) => Some(text),
        _ => None,
    };
    match message.get_mut("content")? {
        Json::Array(parts) => parts.iter_mut().rev().find_map(|part| part.get_mut("text").and_then(string)),
        content => string(content),
    }
}
