//! Pre-tokenizers: the cut of a text into words, inside which byte-level BPE merges and across which it never does.
//!
//! A model's authors published each as a regular expression with look-ahead, meant for a backtracking engine. Here every
//! expression is a scanner written by hand: it looks at the characters at the front of the remaining text and says how
//! long the next word is. No scanner backtracks over more than the run of characters it is about to consume, so a cut is
//! linear in the text whatever the text is.
//!
//! Sources: the `Split` patterns in the models' `tokenizer.json`, and the list of `tokenizer.ggml.pre` names in
//! llama.cpp (`src/llama-vocab.cpp`), which also fixes which names share a pattern.

mod deepseek;

use unicode_properties::{GeneralCategory as Category, GeneralCategoryGroup as Group, UnicodeGeneralCategory};

use crate::error::{Error, Result};

/// How a text is cut into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Llama 3: contractions in any case, up to three digits together, punctuation takes the newlines after it.
    Llama3,
    /// As [`Pattern::Llama3`] with every digit alone (Qwen 2, StableLM 2).
    SingleDigits,
    /// Mistral Nemo: a word also ends where lower case is followed by upper case.
    Tekken,
    /// GPT-4o (Phi-4-mini): as [`Pattern::Tekken`], but a word takes a contraction after it, and digits go in threes.
    Gpt4o,
    /// GPT-2: contractions in lower case, digits together, one space before a word.
    Gpt2,
    /// SmolLM, StarCoder, Command-R: every digit alone first, then [`Pattern::Gpt2`] on what lies between.
    SmolLm,
    /// llama.cpp's `default`: punctuation first, then [`Pattern::Gpt2`], then digits in threes.
    Default,
    /// Seed-Coder: as [`Pattern::SingleDigits`], but newlines after punctuation are words of their own.
    SeedCoder,
    /// MiniCPM 5: digits in threes first, then [`Pattern::Llama3`] on what lies between.
    MiniCpm5,
    /// deepseek-coder: newlines, letters, punctuation, East Asian characters and digits, one cut after the other.
    DeepseekCoder,
    /// deepseek-llm: the same with classes of its own.
    DeepseekLlm,
}

const CONTRACTIONS: [&str; 7] = ["s", "t", "re", "ve", "m", "ll", "d"];

/// `Split` patterns of `tokenizer.json` files, letter by letter.
const REGEXES: [(&str, Pattern); 6] = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Pattern::Llama3,
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Pattern::SingleDigits,
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Pattern::Tekken,
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Pattern::Gpt4o,
    ),
    (
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^",
            "\r\n",
            r"\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}",
            "\r\n",
            r"]+|\s*[",
            "\r\n",
            r"]+|\s+(?!\S)|\s+"
        ),
        Pattern::SeedCoder,
    ),
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Pattern::Gpt2),
];

/// Several `Split` patterns that cut one after the other. `\p{N}` also stands for `Digits`, one by one.
const CHAINS: [(&[&str], Pattern); 3] = [
    (
        &[
            r"\p{N}{1,3}",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        Pattern::MiniCpm5,
    ),
    (&deepseek::CODER, Pattern::DeepseekCoder),
    (&deepseek::LLM, Pattern::DeepseekLlm),
];

impl Pattern {
    /// The pattern that a GGUF file names in `tokenizer.ggml.pre`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a name that is not of the Llama family: guessing would give wrong tokens in silence.
    pub fn from_gguf_name(name: &str) -> Result<Self> {
        Ok(match name {
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2"
            | "dbrx" | "smaug-bpe" => Pattern::Llama3,
            "qwen2" | "stablelm2" | "deepseek-r1-qwen" | "megrez" => Pattern::SingleDigits,
            "tekken" => Pattern::Tekken,
            "gpt-4o" | "llama4" => Pattern::Gpt4o,
            "gpt-2" | "phi-2" | "mpt" | "olmo" | "mellum" | "trillion" => Pattern::Gpt2,
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => Pattern::SmolLm,
            "default" => Pattern::Default,
            "seed-coder" => Pattern::SeedCoder,
            "minicpm5" => Pattern::MiniCpm5,
            "deepseek-coder" => Pattern::DeepseekCoder,
            "deepseek-llm" => Pattern::DeepseekLlm,
            _ => {
                let advice = "known pre-tokenizers are llama-bpe, smollm, tekken, qwen2, gpt-2, gpt-4o, deepseek-llm, \
                              deepseek-coder, seed-coder, minicpm5, default and their other names";
                return Err(Error::unsupported(format!("tokenizer.ggml.pre = {name:?}"), advice));
            }
        })
    }

    /// The name of a pre-tokenizer that cuts like this one and has whole words (`ignore_merges`) or not, if there is one.
    pub(super) fn gguf_name(self, whole_words: bool) -> Option<&'static str> {
        Some(match (self, whole_words) {
            (Pattern::Llama3, true) => "llama-bpe",
            (Pattern::Llama3, false) => "smaug-bpe",
            (Pattern::SingleDigits, false) => "qwen2",
            (Pattern::Tekken, true) => "tekken",
            (Pattern::Gpt4o, false) => "gpt-4o",
            (Pattern::Gpt2, false) => "gpt-2",
            (Pattern::SmolLm, false) => "smollm",
            (Pattern::Default, false) => "default",
            (Pattern::SeedCoder, false) => "seed-coder",
            (Pattern::MiniCpm5, true) => "minicpm5",
            (Pattern::DeepseekCoder, false) => "deepseek-coder",
            (Pattern::DeepseekLlm, false) => "deepseek-llm",
            _ => return None,
        })
    }

    /// The pattern whose regular expression a `tokenizer.json` spells out, if it is a known one.
    pub fn from_regex(regex: &str) -> Option<Self> {
        REGEXES.iter().find(|(known, _)| *known == regex).map(|(_, pattern)| *pattern)
    }

    /// The pattern of regular expressions that cut one after the other, if they are known ones.
    pub fn from_regexes(regexes: &[&str]) -> Option<Self> {
        match regexes {
            [regex] => Pattern::from_regex(regex),
            _ => CHAINS.iter().find(|(known, _)| *known == regexes).map(|(_, pattern)| *pattern),
        }
    }

    /// Calls `word` with every word of `text`, in order; together they are the whole text.
    pub fn split<'a>(self, text: &'a str, mut word: impl FnMut(&'a str)) {
        match self {
            Pattern::Llama3 => each(text, |s| llama3(s, 3, is_newline), &mut word),
            Pattern::SingleDigits => each(text, |s| llama3(s, 1, is_newline), &mut word),
            Pattern::SeedCoder => each(text, |s| llama3(s, 1, |_| false), &mut word),
            Pattern::MiniCpm5 => isolate(text, is_number, 3, &mut |part, digits| match digits {
                true => word(part),
                false => each(part, |s| llama3(s, 3, is_newline), &mut word),
            }),
            Pattern::DeepseekCoder => deepseek::coder(text, &mut word),
            Pattern::DeepseekLlm => deepseek::llm(text, &mut word),
            Pattern::Tekken => each(text, |s| tekken(s, 1, |_| 0), &mut word),
            Pattern::Gpt4o => each(text, |s| tekken(s, 3, |rest| contraction(rest, true).unwrap_or(0)), &mut word),
            Pattern::Gpt2 => each(text, gpt2, &mut word),
            Pattern::SmolLm => isolate(text, is_number, 1, &mut |part, digit| match digit {
                true => word(part),
                false => each(part, gpt2, &mut word),
            }),
            Pattern::Default => {
                isolate(text, is_default_punctuation, usize::MAX, &mut |part, punctuation| match punctuation {
                    true => word(part),
                    false => each(part, gpt2, &mut |w| digits_in_threes(w, &mut word)),
                })
            }
        }
    }
}

/// Cuts `text` by asking `next` for the length of the word at its front until nothing is left.
fn each<'a>(mut text: &'a str, next: impl Fn(&str) -> usize, word: &mut impl FnMut(&'a str)) {
    while !text.is_empty() {
        let (front, rest) = text.split_at(next(text));
        word(front);
        text = rest;
    }
}

/// Cuts `text` into runs of at most `most` characters of a class and the stretches between; says which is which.
fn isolate<'a>(mut text: &'a str, class: fn(char) -> bool, most: usize, part: &mut impl FnMut(&'a str, bool)) {
    while let Some(first) = text.chars().next() {
        let inside = class(first);
        let n = if inside { run_of(text, class, most) } else { run(text, |c| !class(c)) };
        let (front, rest) = text.split_at(n);
        part(front, inside);
        text = rest;
    }
}

/// llama.cpp's last two stages of `default`: a run of digits is its own word, and ASCII digits go in threes.
fn digits_in_threes<'a>(text: &'a str, word: &mut impl FnMut(&'a str)) {
    isolate(text, is_number, usize::MAX, &mut |part, number| match number {
        true => isolate(part, |c| c.is_ascii_digit(), 3, &mut |piece, _| word(piece)),
        false => word(part),
    });
}

/// Length of the next word of Llama 3's pattern, with at most `digits` digits together and `trailing` after punctuation.
fn llama3(s: &str, digits: usize, trailing: fn(char) -> bool) -> usize {
    contraction(s, true)
        .or_else(|| prefixed_letters(s))
        .or_else(|| some(run_of(s, is_number, digits)))
        .or_else(|| punctuation(s, trailing))
        .or_else(|| up_to_newline(s))
        .unwrap_or_else(|| spaces(s))
}

/// Length of the next word of GPT-2's pattern.
fn gpt2(s: &str) -> usize {
    let space = usize::from(s.starts_with(' '));
    let after = |class: fn(char) -> bool| some(run(&s[space..], class)).map(|n| space + n);
    contraction(s, false)
        .or_else(|| after(is_letter))
        .or_else(|| after(is_number))
        .or_else(|| after(is_symbol))
        .unwrap_or_else(|| spaces(s))
}

/// Length of the next word of Mistral Nemo's pattern, with at most `digits` digits together, and with what `after` takes of the
/// text that follows letters.
fn tekken(s: &str, digits: usize, after: fn(&str) -> usize) -> usize {
    cased_word(s, ends_lower)
        .or_else(|| cased_word(s, starts_upper))
        .map(|n| n + after(&s[n..]))
        .or_else(|| some(run_of(s, is_number, digits)))
        .or_else(|| punctuation(s, |c| matches!(c, '\r' | '\n' | '/')))
        .or_else(|| up_to_newline(s))
        .unwrap_or_else(|| spaces(s))
}

/// `[^\r\n\p{L}\p{N}]?` and then `body`, or `body` alone where the optional character leaves it nothing.
fn cased_word(s: &str, body: fn(&str) -> Option<usize>) -> Option<usize> {
    let prefix = s.chars().next().filter(|&c| is_word_prefix(c)).map_or(0, char::len_utf8);
    let with = if prefix > 0 { body(&s[prefix..]).map(|n| prefix + n) } else { None };
    with.or_else(|| body(s))
}

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+`. The two classes share their caseless letters, so where
/// no lower-case letter follows the first run, the word ends after the run's last caseless one.
fn ends_lower(s: &str) -> Option<usize> {
    let upper = run(s, is_upper_side);
    match run(&s[upper..], is_lower_side) {
        0 => s[..upper].char_indices().rev().find(|&(_, c)| is_lower_side(c)).map(|(i, c)| i + c.len_utf8()),
        lower => Some(upper + lower),
    }
}

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*`
fn starts_upper(s: &str) -> Option<usize> {
    some(run(s, is_upper_side)).map(|upper| upper + run(&s[upper..], is_lower_side))
}

/// `'s|'t|'re|'ve|'m|'ll|'d`, in any case if asked. Unicode folds the long s to s, so it counts as one.
fn contraction(s: &str, any_case: bool) -> Option<usize> {
    let tail = s.strip_prefix('\'')?;
    if any_case && tail.starts_with('ſ') {
        return Some(1 + 'ſ'.len_utf8());
    }
    let matches = |c: &&&str| match (any_case, tail.get(..c.len())) {
        (true, Some(front)) => front.eq_ignore_ascii_case(c),
        (false, Some(front)) => front == **c,
        (_, None) => false,
    };
    CONTRACTIONS.iter().find(matches).map(|c| 1 + c.len())
}

/// `[^\r\n\p{L}\p{N}]?\p{L}+`
fn prefixed_letters(s: &str) -> Option<usize> {
    let prefix = s.chars().next().filter(|&c| is_word_prefix(c)).map_or(0, char::len_utf8);
    some(run(&s[prefix..], is_letter)).map(|n| prefix + n)
}

/// ` ?[^\s\p{L}\p{N}]+` and then any number of `trailing` characters.
fn punctuation(s: &str, trailing: fn(char) -> bool) -> Option<usize> {
    let space = usize::from(s.starts_with(' '));
    let n = space + some(run(&s[space..], is_symbol))?;
    Some(n + run(&s[n..], trailing))
}

/// `\s*[\r\n]+`: white space up to and with the last newline of the run.
fn up_to_newline(s: &str) -> Option<usize> {
    let white = run(s, char::is_whitespace);
    s[..white].rfind(['\r', '\n']).map(|i| i + 1)
}

/// `\s+(?!\S)|\s+`: a run of white space, which leaves its last character to the word that follows.
fn spaces(s: &str) -> usize {
    let white = run(s, char::is_whitespace);
    let last = s[..white].chars().next_back().map_or(0, char::len_utf8);
    match white == s.len() || white == last {
        true => white,
        false => white - last,
    }
}

/// Bytes of the longest front of `s` whose characters are all of `class`.
fn run(s: &str, class: impl Fn(char) -> bool) -> usize {
    s.find(|c| !class(c)).unwrap_or(s.len())
}

/// As [`run`], of at most `most` characters.
fn run_of(s: &str, class: fn(char) -> bool, most: usize) -> usize {
    s.chars().take(most).take_while(|&c| class(c)).map(char::len_utf8).sum()
}

fn some(n: usize) -> Option<usize> {
    (n > 0).then_some(n)
}

/// `\p{L}`
fn is_letter(c: char) -> bool {
    match c.is_ascii() {
        true => c.is_ascii_alphabetic(),
        false => c.general_category_group() == Group::Letter,
    }
}

/// `\p{N}`; the standard library's notion is the same three categories.
fn is_number(c: char) -> bool {
    c.is_numeric()
}

fn is_newline(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

/// `[^\s\p{L}\p{N}]`
fn is_symbol(c: char) -> bool {
    !c.is_whitespace() && !is_letter(c) && !is_number(c)
}

/// `[^\r\n\p{L}\p{N}]`
fn is_word_prefix(c: char) -> bool {
    !is_newline(c) && !is_letter(c) && !is_number(c)
}

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
fn is_upper_side(c: char) -> bool {
    match c.is_ascii() {
        true => c.is_ascii_uppercase(),
        false => {
            matches!(c.general_category(), Category::UppercaseLetter | Category::TitlecaseLetter) || is_caseless(c)
        }
    }
}

/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
fn is_lower_side(c: char) -> bool {
    match c.is_ascii() {
        true => c.is_ascii_lowercase(),
        false => c.general_category() == Category::LowercaseLetter || is_caseless(c),
    }
}

/// `[\p{Lm}\p{Lo}\p{M}]`
fn is_caseless(c: char) -> bool {
    matches!(c.general_category(), Category::ModifierLetter | Category::OtherLetter)
        || c.general_category_group() == Group::Mark
}

/// `[\p{P}\$\+<=>\^~\|]`
fn is_default_punctuation(c: char) -> bool {
    matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|') || c.general_category_group() == Group::Punctuation
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(pattern: Pattern, text: &str) -> Vec<&str> {
        let mut words = Vec::new();
        pattern.split(text, |w| words.push(w));
        assert_eq!(words.concat(), text);
        words
    }

    #[test]
    fn llama3_cuts_as_its_regex() {
        assert_eq!(
            words(Pattern::Llama3, "I'M (sure) 12345\n\n x"),
            ["I", "'M", " (", "sure", ")", " ", "123", "45", "\n\n", " x"]
        );
        assert_eq!(words(Pattern::Llama3, "a  b\tc !!\r\n \n  "), ["a", " ", " b", "\tc", " !!\r\n", " \n", "  "]);
        assert_eq!(words(Pattern::Llama3, "'ſa 'lL 'x"), ["'ſ", "a", " '", "lL", " '", "x"]);
    }

    #[test]
    fn gpt2_and_its_relatives() {
        assert_eq!(words(Pattern::Gpt2, "He's 42  !'S"), ["He", "'s", " 42", " ", " !'", "S"]);
        assert_eq!(words(Pattern::SmolLm, "a  42 b"), ["a", "  ", "4", "2", " b"]);
        assert_eq!(words(Pattern::Default, "a 12345,b"), ["a", " ", "123", "45", ",", "b"]);
        assert_eq!(words(Pattern::SingleDigits, "x12 y"), ["x", "1", "2", " y"]);
    }

    #[test]
    fn tekken_cuts_where_the_case_falls() {
        assert_eq!(
            words(Pattern::Tekken, "camelCase HTTPServer a/b//"),
            ["camel", "Case", " HTTPServer", " a", "/b", "//"]
        );
        assert_eq!(words(Pattern::Tekken, "ABC 12"), ["ABC", " ", "1", "2"]);
        assert_eq!(words(Pattern::Tekken, "\u{301}"), ["\u{301}"]);
        assert_eq!(words(Pattern::Tekken, "Aʰʰ B"), ["Aʰʰ", " B"]);
        assert_eq!(words(Pattern::Tekken, "Aʰ你B!"), ["Aʰ你", "B", "!"]);
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(matches!(Pattern::from_gguf_name("klingon"), Err(Error::Unsupported { .. })));
        assert_eq!(Pattern::from_regex("a+"), None);
    }
}
