//! One sequence's text: tokens to whole characters, what may be a stop string held back.

use std::sync::Arc;

use crate::error::Result;
use crate::text::{StopMatcher, TextStream, Tokenizer};

use super::request::Request;

/// Gives no text where the engine has no tokenizer.
pub(super) struct Text {
    stream: Option<TextStream<Arc<Tokenizer>>>,
    /// Ids from here on are the model's alone: some models pad their embedding. They have no text.
    vocab: usize,
    /// Room for the text of one token.
    piece: String,
    stops: StopMatcher,
    stop_strings: Vec<String>,
}

impl Text {
    /// The text that follows the prompt of `request`, out of which its stop strings and the tokens to be spelled are taken. After a
    /// prompt of control tokens only it is a text of its own.
    pub fn take(tokenizer: Option<Arc<Tokenizer>>, request: &mut Request) -> Self {
        let (stop_strings, spelled) =
            (std::mem::take(&mut request.stop_strings), std::mem::take(&mut request.spelled_tokens));
        let vocab = tokenizer.as_ref().map_or(0, |tokenizer| tokenizer.vocab());
        let stream = tokenizer.map(|tokenizer| match request.prompt.iter().all(|&id| tokenizer.is_control(id)) {
            true => TextStream::new(tokenizer),
            false => TextStream::continuing(tokenizer),
        });
        let stream = stream.map(|stream| stream.spelling(spelled));
        let stops = StopMatcher::new(&stop_strings);
        let stops = if request.include_stop { stops.telling() } else { stops };
        Text { stream, vocab, piece: String::new(), stops, stop_strings }
    }

    /// Appends what `token` makes certain to `out`. Returns the stop string that it completed, if it did and `may_end` it.
    pub fn push(&mut self, token: u32, may_end: bool, out: &mut String) -> Result<Option<String>> {
        let Some(stream) = self.stream.as_mut().filter(|_| (token as usize) < self.vocab) else { return Ok(None) };
        self.piece.clear();
        stream.push(token, &mut self.piece)?;
        if !may_end {
            self.stops.pass(&self.piece, out);
            return Ok(None);
        }
        let stop = self.stops.push(&self.piece, out);
        Ok(stop.map(|stop| self.stop_strings.swap_remove(stop)))
    }

    /// Appends what was held back to `out`, the last characters and what turned out to be no stop string: there will be no
    /// more tokens.
    pub fn flush(&mut self, out: &mut String) {
        let mut stops = std::mem::replace(&mut self.stops, StopMatcher::new::<&str>([]));
        self.piece.clear();
        if let Some(stream) = self.stream.take() {
            stream.finish(&mut self.piece);
        }
        if stops.push(&self.piece, out).is_none() {
            stops.finish(out);
        }
    }
}
