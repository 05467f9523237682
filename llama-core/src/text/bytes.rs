//! The printable alphabet in which byte-level vocabularies are written.
//!
//! GPT-2 gave every byte a printable character so that its vocabulary is a readable text file: the 188 bytes that print
//! in Latin-1 stand for themselves, and the other 68 get the characters from U+0100 on, in order. A space is `Ġ`, a
//! newline `Ċ`. Source: `bytes_to_unicode` in openai/gpt-2 `src/encoder.py`.

/// Whether `byte` stands for itself.
fn prints(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The byte that the character `c` stands for.
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ 0..=0xFF => Some(code as u8).filter(|&b| prints(b)),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121) as u8 + 0x7F),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The bytes that `spelling` stands for, or `None` if a character is not of the alphabet.
pub(super) fn from_spelling(spelling: &str) -> Option<Vec<u8>> {
    spelling.chars().map(byte_of).collect()
}

/// The byte that a SentencePiece byte token such as `<0x0A>` stands for.
pub(super) fn from_byte_token(spelling: &str) -> Option<u8> {
    let hex = spelling.strip_prefix("<0x")?.strip_suffix('>')?;
    match hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => u8::from_str_radix(hex, 16).ok(),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_is_a_bijection() {
        let mut seen: Vec<u8> = ('\0'..='\u{200}').filter_map(byte_of).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255u8).collect::<Vec<_>>());
        assert_eq!(from_spelling("Ġhello").unwrap(), b" hello");
        assert_eq!(from_spelling("ĊÃ©").unwrap(), "\né".as_bytes());
        assert_eq!(from_spelling("a b"), None);
    }

    #[test]
    fn byte_tokens_are_two_hex_digits() {
        assert_eq!(from_byte_token("<0x0A>"), Some(10));
        for bad in ["<0x-1>", "<0xZZ>", "<0x100>", "<0x>", "<0xA>", "<0x+1>", "0x0A"] {
            assert_eq!(from_byte_token(bad), None, "{bad}");
        }
    }
}
