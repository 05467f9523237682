//! Special tokens in a text: a trie over their spellings that finds, from the left, the longest one at each place.

use super::vocab::Strip;

/// What happens to the spelling of a control token inside a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// It is text like any other. The right choice for anything a user wrote.
    AsText,
    /// It becomes the control token. The right choice for text that a chat template or the caller wrote.
    Parse,
}

/// A stretch of text between special tokens, or one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Text, never empty.
    Text(&'a str),
    /// A special token.
    Token(u32),
}

/// A special token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Special {
    pub id: u32,
    pub control: bool,
    pub strip: Strip,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// Sorted by byte.
    children: Vec<(u8, u32)>,
    special: Option<Special>,
}

/// All special tokens of a vocabulary.
#[derive(Clone, Debug)]
pub(super) struct SpecialTokens {
    nodes: Vec<Node>,
}

impl SpecialTokens {
    pub fn new() -> Self {
        SpecialTokens { nodes: vec![Node::default()] }
    }

    /// Adds a spelling; false if it is already there. The empty spelling is ignored, for it would match everywhere.
    pub fn insert(&mut self, spelling: &str, special: Special) -> bool {
        if spelling.is_empty() {
            return true;
        }
        let mut node = 0;
        for byte in spelling.bytes() {
            node = self.child_or_insert(node, byte);
        }
        self.nodes[node].special.replace(special).is_none()
    }

    /// The token with exactly this spelling.
    pub fn get(&self, spelling: &str) -> Option<u32> {
        let node = spelling.bytes().try_fold(0, |node, byte| self.child(node, byte))?;
        self.nodes[node].special.map(|s| s.id)
    }

    /// Cuts `text` at the special tokens in it and calls `part` with each piece in order. With [`Specials::AsText`] only
    /// the tokens that are text themselves (user-defined ones) are cut out.
    pub fn split<'a>(&self, text: &'a str, specials: Specials, mut part: impl FnMut(Part<'a>)) {
        let (mut start, mut at) = (0, 0);
        while at < text.len() {
            let Some((special, length)) = self.longest_at(&text.as_bytes()[at..], specials) else {
                at += 1;
                continue;
            };
            let before = &text[start..at];
            let before = if special.strip.left { before.trim_end() } else { before };
            if !before.is_empty() {
                part(Part::Text(before));
            }
            part(Part::Token(special.id));
            at += length;
            at += if special.strip.right { text[at..].len() - text[at..].trim_start().len() } else { 0 };
            start = at;
        }
        if start < text.len() {
            part(Part::Text(&text[start..]));
        }
    }

    /// Calls `span` with the control tokens' spellings in `text` and with what lies between, saying which it is. Together
    /// the spans are the whole text.
    pub fn spans<'a>(&self, text: &'a str, mut span: impl FnMut(&'a str, bool)) {
        let (mut start, mut at) = (0, 0);
        while at < text.len() {
            match self.longest_at(&text.as_bytes()[at..], Specials::Parse) {
                Some((special, length)) if special.control => {
                    span(&text[start..at], false);
                    span(&text[at..at + length], true);
                    at += length;
                    start = at;
                }
                _ => at += 1,
            }
        }
        span(&text[start..], false);
    }

    /// The longest special token at the front of `bytes`, and its length. A spelling is valid UTF-8, so a match starts
    /// and ends between characters.
    fn longest_at(&self, bytes: &[u8], specials: Specials) -> Option<(Special, usize)> {
        let (mut node, mut found) = (0, None);
        for (i, &byte) in bytes.iter().enumerate() {
            let Some(next) = self.child(node, byte) else { break };
            node = next;
            let special = self.nodes[node].special.filter(|s| specials == Specials::Parse || !s.control);
            found = special.map(|s| (s, i + 1)).or(found);
        }
        found
    }

    fn child(&self, node: usize, byte: u8) -> Option<usize> {
        let children = &self.nodes[node].children;
        children.binary_search_by_key(&byte, |c| c.0).ok().map(|i| children[i].1 as usize)
    }

    fn child_or_insert(&mut self, node: usize, byte: u8) -> usize {
        let fresh = self.nodes.len();
        match self.nodes[node].children.binary_search_by_key(&byte, |c| c.0) {
            Ok(i) => self.nodes[node].children[i].1 as usize,
            Err(i) => {
                self.nodes[node].children.insert(i, (byte, fresh as u32));
                self.nodes.push(Node::default());
                fresh
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> SpecialTokens {
        let mut tokens = SpecialTokens::new();
        let plain = |id, control| Special { id, control, strip: Strip::default() };
        assert!(tokens.insert("<s>", plain(1, true)));
        assert!(tokens.insert("<s>x", plain(2, true)));
        assert!(tokens.insert("[u]", plain(3, false)));
        assert!(tokens.insert("<m>", Special { strip: Strip { left: true, right: true }, ..plain(4, true) }));
        assert!(!tokens.insert("[u]", plain(3, false)));
        tokens
    }

    fn parts(text: &str, specials: Specials) -> Vec<String> {
        let mut out = Vec::new();
        tokens().split(text, specials, |part| {
            out.push(match part {
                Part::Text(t) => t.to_owned(),
                Part::Token(id) => id.to_string(),
            })
        });
        out
    }

    #[test]
    fn leftmost_longest() {
        assert_eq!(parts("a<s>xb<s><s", Specials::Parse), ["a", "2", "b", "1", "<s"]);
        assert_eq!(parts("é[u]<s>", Specials::AsText), ["é", "3", "<s>"]);
        assert_eq!(parts("", Specials::Parse), [""; 0]);
    }

    #[test]
    fn strips_swallow_white_space() {
        assert_eq!(parts("a \n<m>  b<m>", Specials::Parse), ["a", "4", "b", "4"]);
        assert_eq!(parts(" <m> <m> ", Specials::Parse), ["4", "4"]);
    }

    #[test]
    fn exact_spelling() {
        assert_eq!(tokens().get("<s>x"), Some(2));
        assert_eq!(tokens().get("<s"), None);
    }
}
