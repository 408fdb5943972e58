//! Tokens of a PTX text, each with its line (from 1).
//!
//! An opcode with its qualifiers (`ld.global.f32`) and a special register (`%tid.x`) are one word each: a dot
//! belongs to the word it follows. Comments are dropped.

use crate::fault::Error;

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// Opcode, name, register, label or directive.
    Word(String),
    /// An integer; its sign is a token of its own.
    Integer(u64),
    /// A number `0f…`, as bits.
    Single(u32),
    /// A number `0d…` or a decimal one, as bits.
    Double(u64),
    /// A string without its quotes.
    Text(String),
    /// Anything else.
    Mark(char),
}

/// A token and its line.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) token: Token,
    pub(crate) line: u32,
}

fn starts_word(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn in_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'.')
}

fn number(word: &str) -> Option<Token> {
    let lower = word.to_ascii_lowercase();
    if let Some(digits) = lower.strip_prefix("0f") {
        return u32::from_str_radix(digits, 16).ok().map(Token::Single);
    }
    if let Some(digits) = lower.strip_prefix("0d") {
        return u64::from_str_radix(digits, 16).ok().map(Token::Double);
    }
    if lower.contains('.') || (!lower.starts_with("0x") && lower.contains('e')) {
        return lower
            .parse::<f64>()
            .ok()
            .map(|v| Token::Double(v.to_bits()));
    }
    let digits = lower.trim_end_matches('u');
    let value = if let Some(hex) = digits.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if let Some(binary) = digits.strip_prefix("0b") {
        u64::from_str_radix(binary, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(&digits[1..], 8)
    } else {
        digits.parse()
    };
    value.ok().map(Token::Integer)
}

/// The tokens of `text`.
pub(crate) fn lex(text: &str) -> Result<Vec<Located>, Error> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::with_capacity(text.len() / 4);
    let (mut at, mut line) = (0, 1u32);
    let syntax = |line: u32, message: String| Error::Syntax {
        line: line as usize,
        message,
    };
    while at < bytes.len() {
        let c = bytes[at];
        let start = at;
        let token = match c {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            _ if c.is_ascii_whitespace() || c == 0 => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let end = text[at + 2..].find("*/").map(|n| at + 2 + n + 2);
                let end = end.ok_or_else(|| syntax(line, "the comment does not end".into()))?;
                line += text[at..end].matches('\n').count() as u32;
                at = end;
                continue;
            }
            b'"' => {
                let end = text[at + 1..].find('"').map(|n| at + 1 + n);
                let end = end.ok_or_else(|| syntax(line, "the string does not end".into()))?;
                at = end + 1;
                Token::Text(text[start + 1..end].to_string())
            }
            b'0'..=b'9' => {
                while at < bytes.len() && in_word(bytes[at]) {
                    let exponent = matches!(bytes[at], b'e' | b'E');
                    at += 1;
                    let decimal = text[start..at].contains('.');
                    if exponent && decimal && matches!(bytes.get(at), Some(b'+' | b'-')) {
                        at += 1;
                    }
                }
                let word = &text[start..at];
                number(word).ok_or_else(|| syntax(line, format!("`{word}` is not a number")))?
            }
            _ if starts_word(c) => {
                at += 1;
                // `::` joins a qualifier, as in `.shared::cta`.
                while at < bytes.len() {
                    if in_word(bytes[at]) {
                        at += 1;
                    } else if bytes[at..].starts_with(b"::") {
                        at += 2;
                    } else {
                        break;
                    }
                }
                Token::Word(text[start..at].to_string())
            }
            _ if c.is_ascii() => {
                at += 1;
                Token::Mark(char::from(c))
            }
            _ => return Err(syntax(line, "the text is not ASCII".into())),
        };
        tokens.push(Located { token, line });
    }
    Ok(tokens)
}
