//! A conversation to token ids such that control tokens come from the template alone.
//!
//! A rendered prompt is one string, in which `<|eot_id|>` written by the template and `<|eot_id|>` written by a user look
//! the same. So the template is rendered twice: as it is, and with the first and last characters of all control tokens
//! (mostly `<` and `>`), wherever they occur in the messages and tools, replaced by private-use characters that occur
//! nowhere else. If undoing the replacement in the second prompt gives the first, the template only moved the text about,
//! and a control token in the second prompt has both its ends from the template. It is cut there, the replacement is
//! undone in between, and what lies between is encoded as text. Where no message contains a control token's spelling, the
//! ids are those of the whole prompt, as transformers computes them. The replacement keeps the number of characters and
//! white space, so trimming, slicing and measuring do not notice.
//!
//! A template that looks for such characters in a message (`content.split('</think>')`) renders differently. Then only
//! whole control tokens inside messages are replaced, and the result is taken if it agrees with the plain prompt and has
//! the same control tokens in the same order as the replaced one. If it has not, a message makes the template produce
//! control tokens, and that is an error.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use super::open::Conversation;
use super::{ChatTemplate, Message, RenderOptions};
use crate::error::{Error, Result};
use crate::text::special::{Part, Specials};
use crate::text::tokenizer::Tokenizer;

/// Whose words may become control tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The template's. The spelling of a control token inside a message is text.
    Template,
    /// Everybody's, as in transformers: the prompt is parsed as a whole.
    Everyone,
}

impl ChatTemplate {
    /// The prompt of a conversation as token ids. Nothing is added to what the template says: most begin with the
    /// begin-of-sequence token themselves.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`] and [`Tokenizer::encode`]; with [`Trust::Template`], [`Error::Template`] also if the
    /// template makes control tokens out of a message.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &RenderOptions,
        trust: Trust,
    ) -> Result<Vec<u32>> {
        let conversation = self.conversation(messages, options)?;
        let prompt = self.render_conversation(&conversation, options)?;
        match trust {
            Trust::Everyone => tokenizer.encode(&prompt, Specials::Parse),
            Trust::Template => self.with_path(self.encode_apart(tokenizer, &conversation, options, &prompt)),
        }
    }

    /// The ids of `prompt`, of which only the template's share may be control tokens.
    fn encode_apart(
        &self,
        tokenizer: &Tokenizer,
        conversation: &Conversation<'_>,
        options: &RenderOptions,
        prompt: &str,
    ) -> Result<Vec<u32>> {
        let disguise = Disguise::new(tokenizer, &conversation.messages, options, prompt)?;
        disguise.encode(&self.disguised_prompt(&disguise, conversation, options, prompt)?)
    }

    /// The prompt with the messages' share of control tokens disguised.
    fn disguised_prompt(
        &self,
        disguise: &Disguise<'_>,
        conversation: &Conversation<'_>,
        options: &RenderOptions,
        prompt: &str,
    ) -> Result<String> {
        let render = |cover| {
            let messages = conversation.messages.iter().map(|m| Json::Object(disguise.object(&m.0, cover))).collect();
            let tools = options.tools.as_ref().map(|tools| tools.iter().map(|t| disguise.json(t, cover)).collect());
            let extra = disguise.object(&options.extra, cover);
            let options = RenderOptions { tools, extra, ..options.clone() };
            conversation.cut(self.render_json(&Json::Array(messages), &options)?)
        };
        let all_ends = render(Cover::Ends)?;
        if disguise.reveal(&all_ends) == prompt {
            return Ok(all_ends);
        }
        let whole_tokens = render(Cover::WholeTokens)?;
        let same_text = disguise.reveal(&whole_tokens) == prompt;
        match same_text && disguise.controls(&whole_tokens) == disguise.controls(&all_ends) {
            true => Ok(whole_tokens),
            false => Err(Error::template(
                "a message makes the template produce control tokens, or the template changes the message so that this \
                 cannot be told; to accept that, encode with Trust::Everyone",
            )),
        }
    }
}

/// What of a message is replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cover {
    /// Every character that begins or ends a control token.
    Ends,
    /// Those characters, where they are part of a whole control token.
    WholeTokens,
}

/// The characters to replace, and a range of as many private-use characters that stand for them.
struct Disguise<'a> {
    tokenizer: &'a Tokenizer,
    ends: Vec<char>,
    base: u32,
}

/// Planes 15 and 16 are for private use.
pub(super) const PRIVATE: std::ops::RangeInclusive<u32> = 0xF_0000..=0x10_FFFF;

impl<'a> Disguise<'a> {
    fn new(tokenizer: &'a Tokenizer, messages: &[Message], options: &RenderOptions, prompt: &str) -> Result<Self> {
        let ends = control_ends(tokenizer);
        let mut used = private_characters(messages, options);
        used.extend(private_chars(prompt));
        let free = |base: &u32| used.range(*base..*base + ends.len() as u32).next().is_none();
        let last = PRIVATE.end() - ends.len() as u32;
        match (*PRIVATE.start()..=last).step_by(ends.len().max(1)).find(free) {
            Some(base) => Ok(Disguise { tokenizer, ends, base }),
            None => Err(Error::template("the messages use up all private-use characters")),
        }
    }

    fn hide(&self, c: char) -> char {
        let index = self.ends.binary_search(&c).ok();
        index.and_then(|i| char::from_u32(self.base + i as u32)).unwrap_or(c)
    }

    fn reveal<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let original = |c: char| self.ends.get(u32::from(c).checked_sub(self.base)? as usize).copied();
        match text.chars().any(|c| original(c).is_some()) {
            true => Cow::Owned(text.chars().map(|c| original(c).unwrap_or(c)).collect()),
            false => Cow::Borrowed(text),
        }
    }

    fn text(&self, text: &str, cover: Cover) -> String {
        let hidden = |text: &str| text.chars().map(|c| self.hide(c)).collect::<String>();
        if cover == Cover::Ends {
            return hidden(text);
        }
        let mut out = String::with_capacity(text.len());
        self.tokenizer.special_tokens().spans(text, |span, control| match control {
            true => out.push_str(&hidden(span)),
            false => out.push_str(span),
        });
        out
    }

    /// Keys too: a template may print the names of a tool's arguments. Those it looks up have no such characters.
    fn object(&self, fields: &Map<String, Json>, cover: Cover) -> Map<String, Json> {
        fields.iter().map(|(key, value)| (self.text(key, cover), self.json(value, cover))).collect()
    }

    fn json(&self, value: &Json, cover: Cover) -> Json {
        match value {
            Json::String(text) => Json::String(self.text(text, cover)),
            Json::Array(values) => Json::Array(values.iter().map(|v| self.json(v, cover)).collect()),
            Json::Object(fields) => Json::Object(self.object(fields, cover)),
            other => other.clone(),
        }
    }

    /// The control tokens of a disguised prompt.
    fn controls(&self, disguised: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.tokenizer.special_tokens().split(disguised, Specials::Parse, |part| match part {
            Part::Token(id) if self.tokenizer.is_control(id) => ids.push(id),
            _ => {}
        });
        ids
    }

    fn encode(&self, disguised: &str) -> Result<Vec<u32>> {
        let (mut ids, mut start, mut result) = (Vec::new(), true, Ok(()));
        self.tokenizer.special_tokens().split(disguised, Specials::Parse, |part| {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(text) if result.is_ok() => {
                    result = self.tokenizer.encode_from(&self.reveal(text), Specials::AsText, start, &mut ids);
                }
                Part::Text(_) => {}
            }
            start = false;
        });
        result.map(|()| ids)
    }
}

/// The first and last characters of all control tokens, sorted; white space stays visible to the template.
fn control_ends(tokenizer: &Tokenizer) -> Vec<char> {
    let controls = (0..tokenizer.vocab() as u32).filter(|&id| tokenizer.is_control(id));
    let mut ends = BTreeSet::new();
    for id in controls {
        let spelling = tokenizer.piece(id).ok().and_then(|piece| std::str::from_utf8(piece).ok()).unwrap_or_default();
        ends.extend(spelling.chars().next().into_iter().chain(spelling.chars().next_back()));
    }
    ends.into_iter().filter(|c| !c.is_whitespace()).collect()
}

/// Characters for private use in what a template is given.
pub(super) fn private_characters(messages: &[Message], options: &RenderOptions) -> BTreeSet<u32> {
    let mut used = BTreeSet::new();
    messages.iter().for_each(|m| m.0.iter().for_each(|(k, v)| collect_private(k, v, &mut used)));
    options.extra.iter().for_each(|(k, v)| collect_private(k, v, &mut used));
    options.tools.iter().flatten().for_each(|t| collect_private("", t, &mut used));
    used
}

fn private_chars(text: &str) -> impl Iterator<Item = u32> {
    text.chars().map(u32::from).filter(|c| PRIVATE.contains(c))
}

fn collect_private(key: &str, value: &Json, used: &mut BTreeSet<u32>) {
    used.extend(private_chars(key));
    match value {
        Json::String(text) => used.extend(private_chars(text)),
        Json::Array(values) => values.iter().for_each(|v| collect_private("", v, used)),
        Json::Object(fields) => fields.iter().for_each(|(k, v)| collect_private(k, v, used)),
        _ => {}
    }
}
