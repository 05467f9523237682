//! Keys of `rank_pattern` and `alpha_pattern`: module names, or ends of them, with numbers of their own.
//!
//! PEFT takes a key for a regular expression and the first that matches `(.*\.)?(key)$` at a module's name. Keys of letters,
//! digits, `_`, `-`, dots (any character, as they have it; `\.` is a dot alone), with `^` in front or `$` behind are read here, which
//! is what PEFT itself writes and its documentation shows. Others are refused, since a guess would scale in silence.

use crate::checkpoint::Object;
use crate::error::{Error, Result};

/// More keys than any model has matrices.
const MOST: usize = 4096;

/// A key's characters, `None` for any.
#[derive(Debug)]
struct Pattern {
    /// Whether it is the whole of a name.
    whole: bool,
    characters: Vec<Option<u8>>,
}

/// Patterns in the file's order, each with its number.
#[derive(Debug)]
pub(super) struct Patterns(Vec<(Pattern, f64)>);

impl Patterns {
    /// The patterns under `key`, none where it is absent.
    pub(super) fn read(json: Object<'_>, key: &str) -> Result<Patterns> {
        let Some(object) = json.object(key)? else { return Ok(Patterns(Vec::new())) };
        if object.0.len() > MOST {
            return Err(Error::config(key, format!("has {} keys; at most {MOST} were expected", object.0.len())));
        }
        let one = |pattern: &String| {
            let number = object.number(pattern)?;
            let number = number.ok_or_else(|| Error::config(pattern, "is null; a number was expected"))?;
            Ok((Pattern::parse(pattern).ok_or_else(|| refusal(key, pattern))?, number))
        };
        object.0.keys().map(one).collect::<Result<_>>().map(Patterns)
    }

    /// The number for `module`, where a pattern has one.
    pub(super) fn find(&self, module: &str) -> Option<f64> {
        self.0.iter().find(|(pattern, _)| pattern.matches(module)).map(|&(_, number)| number)
    }
}

fn refusal(key: &str, pattern: &str) -> Error {
    let advice = format!("names of modules are read, other regular expressions are not; {}", super::MERGE);
    Error::unsupported(format!("{key} {pattern:?}"), advice)
}

impl Pattern {
    fn parse(key: &str) -> Option<Pattern> {
        let (whole, key) = key.strip_prefix('^').map_or((false, key), |rest| (true, rest));
        let mut rest = key.strip_suffix('$').unwrap_or(key).bytes();
        let mut characters = Vec::new();
        while let Some(byte) = rest.next() {
            characters.push(match byte {
                b'.' => None,
                b'\\' => Some(rest.next().filter(|&escaped| escaped == b'.')?),
                b'_' | b'-' => Some(byte),
                byte => Some(Some(byte).filter(u8::is_ascii_alphanumeric)?),
            });
        }
        Some(Pattern { whole, characters })
    }

    /// Whether a name is this, or ends with it behind a dot.
    fn matches(&self, module: &str) -> bool {
        let module = module.as_bytes();
        let Some(start) = module.len().checked_sub(self.characters.len()) else { return false };
        let begins = start == 0 || (!self.whole && module[start - 1] == b'.');
        begins && self.characters.iter().zip(&module[start..]).all(|(wanted, byte)| wanted.is_none_or(|w| w == *byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expectations are those of Python's `re`.
    #[test]
    fn matches_as_the_expression_does() {
        let matches = |key: &str, module: &str| Pattern::parse(key).unwrap().matches(module);
        let module = "model.layers.11.self_attn.q_proj";
        for key in
            ["q_proj", "q_proj$", "self_attn.q_proj", r"self_attn\.q_proj", "11.self_attn.q_proj", module, ".roj"]
        {
            assert_eq!(matches(key, module), key != ".roj", "{key}");
        }
        assert!(matches(&format!("^{module}$"), module));
        assert!(matches("...self_attn.q_proj", module), "a dot is any character");
        for key in ["^q_proj", "proj", "1.self_attn.q_proj", "k_proj", "model.layers.1.self_attn.q_proj", "", "^"] {
            assert!(!matches(key, module), "{key}");
        }
    }

    #[test]
    fn other_expressions_are_not_read() {
        for key in
            [r"layers\.\d+.q_proj", "q|k", "(q_proj)", ".*q_proj", "[qk]_proj", "q_proj\\", "q^", "a$b", "q proj", "é"]
        {
            assert!(Pattern::parse(key).is_none(), "{key}");
        }
    }
}
