//! DeepSeek's first tokenizers: expressions that cut one after the other, each inside the pieces of those before it.
//!
//! Sources: `tokenizer.json` of deepseek-coder and of deepseek-llm.

use super::{is_letter, is_number, isolate, run};
use unicode_properties::{GeneralCategoryGroup as Group, UnicodeGeneralCategory};

/// deepseek-coder's expressions, and `\p{N}` for its `Digits`.
pub(super) const CODER: [&str; 5] = ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", EAST_ASIAN, r"\p{N}"];
/// deepseek-llm's.
pub(super) const LLM: [&str; 6] = ["[\r\n]", CASED, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", EAST_ASIAN, r"\p{N}"];
const EAST_ASIAN: &str = "[一-龥ࠀ-一가-퟿]+";
/// Letters that have a case, by their ranges.
#[rustfmt::skip]
const CASED: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";

/// How many bytes at the front are a piece of their own; 0 for none.
type Match = fn(&str) -> usize;

/// The words of deepseek-coder.
pub(super) fn coder<'a>(text: &'a str, word: &mut dyn FnMut(&'a str)) {
    let letters = |s: &str| spaced(s, is_letter);
    let punctuation = |s: &str| spaced(s, |c| c.general_category_group() == Group::Punctuation);
    cut(text, &[newline, letters, punctuation, east_asian], &mut |piece| single_digits(piece, word));
}

/// The words of deepseek-llm. White space at a piece's end is cut off, as `\s+$` has it.
pub(super) fn llm<'a>(text: &'a str, word: &mut dyn FnMut(&'a str)) {
    cut(text, &[newline, |s| spaced(s, is_cased), |s| spaced(s, is_mark)], &mut |piece| {
        let (body, blank) = piece.split_at(piece.trim_end().len());
        for part in [body, blank].into_iter().filter(|part| !part.is_empty()) {
            cut(part, &[east_asian], &mut |piece| single_digits(piece, word));
        }
    });
}

/// Cuts `text` at what the first of `matches` matches, and the pieces and what lies between them by the rest.
fn cut<'a>(text: &'a str, matches: &[Match], word: &mut dyn FnMut(&'a str)) {
    let Some((first, rest)) = matches.split_first() else { return word(text) };
    let (mut start, mut at) = (0, 0);
    while let Some(c) = text[at..].chars().next() {
        let length = first(&text[at..]);
        if length == 0 {
            at += c.len_utf8();
            continue;
        }
        if start < at {
            cut(&text[start..at], rest, word);
        }
        cut(&text[at..at + length], rest, word);
        at += length;
        start = at;
    }
    if start < text.len() {
        cut(&text[start..], rest, word);
    }
}

fn single_digits<'a>(piece: &'a str, word: &mut dyn FnMut(&'a str)) {
    isolate(piece, is_number, 1, &mut |part, _| word(part));
}

/// `\s?` and one or more of a class, or the latter alone where the white space leaves it nothing.
fn spaced(s: &str, class: fn(char) -> bool) -> usize {
    let space = s.chars().next().filter(|c| c.is_whitespace()).map_or(0, char::len_utf8);
    match run(&s[space..], class) {
        0 => run(s, class),
        length => space + length,
    }
}

fn newline(s: &str) -> usize {
    usize::from(s.starts_with(['\r', '\n']))
}

fn east_asian(s: &str) -> usize {
    run(s, |c| matches!(c, '\u{800}'..='\u{9fa5}' | '\u{ac00}'..='\u{d7ff}'))
}

/// `[!-/:-~！-／：-～‘-‟　-。]`, which has letters in it, too.
fn is_mark(c: char) -> bool {
    matches!(c, '!'..='/' | ':'..='~' | '！'..='／' | '：'..='～' | '‘'..='‟' | '\u{3000}'..='。')
}

/// Whether `c` is in one of the ranges of [`CASED`].
fn is_cased(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphabetic();
    }
    let mut ranges = CASED.chars().skip_while(|&c| c != 'µ').peekable();
    while let Some(low) = ranges.next().filter(|&low| low != ']') {
        let high = if ranges.next_if_eq(&'-').is_some() { ranges.next().unwrap_or(low) } else { low };
        if (low..=high).contains(&c) {
            return true;
        }
    }
    false
}
