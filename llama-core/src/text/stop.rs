//! Stop strings in a stream of text.
//!
//! A stop string may begin in one piece and end in another, so text that could be its beginning is held back until it is
//! clear. Each stop string is matched by the automaton of Knuth, Morris and Pratt, which never looks at a byte twice: the
//! cost is linear in the text, times the number of stop strings.

/// Finds stop strings in text that comes in pieces.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<Stop>,
    /// Text not yet emitted.
    held: String,
    stopped: Option<usize>,
    /// A stop string that was found is text.
    told: bool,
}

/// A stop string and how much of it the text so far ends with.
#[derive(Clone, Debug)]
struct Stop {
    bytes: Vec<u8>,
    /// `fallback[i]`: length of the longest proper front of the first `i + 1` bytes that is also their end.
    fallback: Vec<usize>,
    matched: usize,
}

impl StopMatcher {
    /// A matcher of `stops`. An empty string never matches.
    pub fn new<S: AsRef<str>>(stops: impl IntoIterator<Item = S>) -> Self {
        let stops = stops.into_iter().map(|s| Stop::new(s.as_ref())).collect();
        StopMatcher { stops, held: String::new(), stopped: None, told: false }
    }

    /// The same; where it stops, the text has the stop string, too.
    pub fn telling(self) -> Self {
        StopMatcher { told: true, ..self }
    }

    /// Takes the next piece and appends the text that is now certain not to be part of a stop string to `out`. Returns the
    /// stop string that was completed, as an index; nothing comes after it. Where several end at the same byte, the one
    /// that began first counts.
    pub fn push(&mut self, piece: &str, out: &mut String) -> Option<usize> {
        if self.stopped.is_some() {
            return self.stopped;
        }
        let start = self.held.len();
        self.held.push_str(piece);
        for (i, byte) in piece.bytes().enumerate() {
            if let Some((stop, length)) = self.advance(byte) {
                let end = start + i + 1;
                out.push_str(&self.held[..if self.told { end } else { end - length }]);
                self.held.clear();
                self.stopped = Some(stop);
                return self.stopped;
            }
        }
        self.release(out);
        None
    }

    /// As [`StopMatcher::push`], where nothing may stop yet: a stop string that `piece` completes is text. One that begins
    /// in it may still be completed by a later piece.
    pub fn pass(&mut self, piece: &str, out: &mut String) {
        self.held.push_str(piece);
        for byte in piece.bytes() {
            self.advance(byte);
        }
        self.stops.iter_mut().for_each(Stop::forget_complete);
        self.release(out);
    }

    /// Appends the text that was held back for a stop string that never came. Ends the stream.
    pub fn finish(self, out: &mut String) {
        out.push_str(&self.held);
    }

    /// Appends the text that is no part of a stop string to `out`.
    fn release(&mut self, out: &mut String) {
        let waiting = self.stops.iter().map(|s| s.matched).max().unwrap_or(0);
        let certain = self.held.len() - waiting;
        out.push_str(&self.held[..certain]);
        self.held.drain(..certain);
    }

    /// Feeds one byte to every automaton; the longest stop string that it completes, and its length.
    fn advance(&mut self, byte: u8) -> Option<(usize, usize)> {
        let mut completed = None;
        for (i, stop) in self.stops.iter_mut().enumerate() {
            if stop.advance(byte) && completed.is_none_or(|(_, length)| stop.bytes.len() > length) {
                completed = Some((i, stop.bytes.len()));
            }
        }
        completed
    }
}

impl Stop {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        let mut fallback = vec![0; bytes.len()];
        let mut length = 0;
        for i in 1..bytes.len() {
            while length > 0 && bytes[i] != bytes[length] {
                length = fallback[length - 1];
            }
            length += usize::from(bytes[i] == bytes[length]);
            fallback[i] = length;
        }
        Stop { bytes, fallback, matched: 0 }
    }

    /// Whether `byte` completes the string.
    fn advance(&mut self, byte: u8) -> bool {
        if self.bytes.is_empty() {
            return false;
        }
        self.forget_complete();
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.fallback[self.matched - 1];
        }
        self.matched += usize::from(self.bytes[self.matched] == byte);
        self.matched == self.bytes.len()
    }

    /// Where the whole string has come, goes on with what of its end may begin it again.
    fn forget_complete(&mut self) {
        if self.matched > 0 && self.matched == self.bytes.len() {
            self.matched = self.fallback[self.matched - 1];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops);
        let mut text = String::new();
        for piece in pieces {
            if let Some(stop) = matcher.push(piece, &mut text) {
                assert_eq!(matcher.push("more", &mut text), Some(stop));
                return (text, Some(stop));
            }
        }
        matcher.finish(&mut text);
        (text, None)
    }

    #[test]
    fn a_stop_string_is_told_on_request() {
        for (stop, pieces, expected) in [("lo w", ["hel", "lo", " world"], "hello w"), ("é", ["x", "éé", ""], "xé")]
        {
            let (mut matcher, mut text) = (StopMatcher::new([stop]).telling(), String::new());
            let stopped = pieces.iter().find_map(|piece| matcher.push(piece, &mut text));
            assert_eq!((stopped, text.as_str()), (Some(0), expected));
        }
    }

    #[test]
    fn across_pieces() {
        assert_eq!(run(&["</s>"], &["a<", "/", "s", ">b"]), ("a".into(), Some(0)));
        assert_eq!(run(&["</s>"], &["a<", "/", "b"]), ("a</b".into(), None));
        assert_eq!(run(&["aab"], &["aaaa", "b"]), ("aa".into(), Some(0)));
        assert_eq!(run(&["é!"], &["xé", "é!"]), ("xé".into(), Some(0)));
        assert_eq!(run(&[], &["x"]), ("x".into(), None));
        assert_eq!(run(&[""], &["x"]), ("x".into(), None));
    }

    #[test]
    fn first_to_end_wins_then_first_to_begin() {
        assert_eq!(run(&["bc", "abc", "abcd"], &["xab", "cd"]), ("x".into(), Some(1)));
        assert_eq!(run(&["abcd", "b"], &["abcd"]), ("a".into(), Some(1)));
    }

    #[test]
    fn what_is_passed_is_text_though_it_may_begin_a_stop_string() {
        let run = |passed: &[&str], pushed: &[&str]| {
            let mut matcher = StopMatcher::new(["aba", "xy"]);
            let mut text = String::new();
            passed.iter().for_each(|piece| matcher.pass(piece, &mut text));
            let stop = pushed.iter().find_map(|piece| matcher.push(piece, &mut text));
            matcher.finish(&mut text);
            (text, stop)
        };
        assert_eq!(run(&["abaxy"], &["."]), ("abaxy.".into(), None));
        assert_eq!(run(&["a", "ba"], &["ba"]), ("ab".into(), Some(0)), "the last a begins another");
        assert_eq!(run(&["abab"], &["xx", "y"]), ("ababx".into(), Some(1)));
        assert_eq!(run(&["x"], &["y"]), ("".into(), Some(1)));
        assert_eq!(run(&["abababa", "x"], &[]), ("abababax".into(), None));
    }

    #[test]
    fn text_that_may_be_a_stop_string_waits() {
        let mut matcher = StopMatcher::new(["STOP"]);
        let mut after = |piece: &str| {
            let mut text = String::new();
            assert_eq!(matcher.push(piece, &mut text), None);
            text
        };
        assert_eq!([after("x ST"), after("ART"), after("STSTO")], ["x ", "START", "ST"]);
        let mut rest = String::new();
        matcher.finish(&mut rest);
        assert_eq!(rest, "STO");
    }
}
