//! What applications say of a statement in its comment, as sqlcommenter writes it: `/*action='pay',causality_key='user%3A42'*/`.
//!
//! Only one key is read here. Whether a text has it is known by the text's fingerprint
//! ([`Statement::keyed`](super::Statement::keyed)); its value, as that of a literal, only by the text.
//!
//! Source: <https://google.github.io/sqlcommenter/spec/>

use super::lexer::{Kind, Lexer};
use memchr::memmem;

const KEY: &[u8] = b"causality_key";

/// Whether a comment may name a causality key.
pub fn names_key(comment: &[u8]) -> bool {
    comment.starts_with(b"/*") && memmem::find(comment, KEY).is_some()
}

/// The causality key that the comments of a text name; of several the first.
pub fn causality_key(text: &[u8]) -> Option<String> {
    let comments = Lexer::new(text).filter(|token| token.kind == Kind::Comment);
    comments.map(|token| token.bytes(text)).filter(|comment| names_key(comment)).find_map(key_of)
}

fn key_of(comment: &[u8]) -> Option<String> {
    let mut rest = comment.strip_prefix(b"/*")?.strip_suffix(b"*/")?;
    loop {
        let equals = rest.iter().position(|byte| *byte == b'=')?;
        let (name, behind) = (rest[..equals].trim_ascii(), rest[equals + 1..].trim_ascii_start());
        let (value, behind) = quoted(behind)?;
        if name == KEY {
            return String::from_utf8(decoded(&value)).ok();
        }
        rest = behind.trim_ascii_start().strip_prefix(b",")?;
    }
}

/// The value in quotes at the beginning, without them and without its backslashes, and what stands behind it.
fn quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut rest = text.strip_prefix(b"'")?;
    let mut value = Vec::new();
    loop {
        match rest {
            [b'\'', behind @ ..] => return Some((value, behind)),
            [b'\\', byte, behind @ ..] | [byte, behind @ ..] => {
                value.push(*byte);
                rest = behind;
            }
            [] => return None,
        }
    }
}

/// `%3A` is `:`. What is no such thing stays.
pub fn decoded(value: &[u8]) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [byte, behind @ ..] = rest {
        let code = match behind {
            [high, low, ..] if *byte == b'%' => digit(high).zip(digit(low)),
            _ => None,
        };
        bytes.push(code.map_or(*byte, |(high, low)| high << 4 | low));
        rest = if code.is_some() { &behind[2..] } else { behind };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_found_among_others_and_decoded() {
        let found = |text: &str| causality_key(text.as_bytes());
        for text in [
            "/* causality_key='user:42' */ SELECT 1",
            "SELECT 1 /*action='%2Fparam*d',causality_key='user%3A42',traceparent='00-5b-9c-01'*/",
            "SELECT 'causality_key' /* a */ /* causality_key = 'user%3a42' , b='c'*/; SELECT 2 /*causality_key='x'*/",
            "SELECT 1 /*controller='it\\'s, me',causality_key='user:42'*/",
        ] {
            assert_eq!(found(text).as_deref(), Some("user:42"), "{text}");
        }
        assert_eq!(found("SELECT 1 /*causality_key='D%C3%BCse%20100%25%'*/").as_deref(), Some("Düse 100%%"));
        for text in [
            "SELECT 1",
            "SELECT '/*causality_key=''a''*/'",
            "SELECT 1 -- causality_key='a'",
            "SELECT 1 /* the causality_key='a' */",
            "SELECT 1 /*causality_key=a*/",
            "SELECT 1 /*causality_key='a*/",
            "SELECT 1 /*causality_key='%FF'*/",
            "SELECT 1 /*my_causality_key='a'*/",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }

    #[test]
    fn what_may_name_one_is_seen_in_any_comment_that_does() {
        assert!(names_key(b"/*a='b',causality_key='c'*/"));
        assert!(!names_key(b"/*causality='key'*/") && !names_key(b"--causality_key='c'"));
    }
}
