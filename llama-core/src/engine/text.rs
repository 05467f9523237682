//! One sequence's text: tokens to whole characters, stop strings held back.

use std::sync::Arc;

use super::standin::{StopMatcher, TextStream, Tokenizer};

/// Empty where the engine has no tokenizer.
pub(super) struct Text {
    tokenizer: Option<Arc<Tokenizer>>,
    stream: TextStream,
    stops: StopMatcher,
    stop_strings: Vec<String>,
    /// Whole characters on their way from the stream to the matcher.
    whole: String,
}

impl Text {
    pub fn new(tokenizer: Option<Arc<Tokenizer>>, stop_strings: Vec<String>) -> Self {
        let stops = StopMatcher::new(stop_strings.clone());
        Text { tokenizer, stream: TextStream::default(), stops, stop_strings, whole: String::new() }
    }

    /// Appends what `token` makes certain to `out`. Returns the stop string that it completed, if it did.
    pub fn push(&mut self, token: u32, out: &mut String) -> Option<String> {
        let tokenizer = self.tokenizer.as_ref()?;
        self.whole.clear();
        self.stream.push(tokenizer.piece(token), &mut self.whole);
        let stop = self.stops.push(&self.whole, out)?;
        Some(self.stop_strings.swap_remove(stop))
    }

    /// Appends what was held back to `out`: there will be no more tokens.
    pub fn flush(&mut self, out: &mut String) {
        self.whole.clear();
        self.stream.finish(&mut self.whole);
        if self.stops.push(&self.whole, out).is_none() {
            self.stops.finish(out);
        }
    }
}
