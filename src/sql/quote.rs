//! Names and strings as SQL writes them, for texts of our own.

/// A name in quotes.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string literal that means the same whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// What such a literal says; what is none says itself.
pub fn unquoted(literal: &str) -> String {
    let (is_escaped, plain) = match literal.strip_prefix('E') {
        Some(plain) if plain.starts_with('\'') => (true, plain),
        _ => (false, literal),
    };
    let Some(inner) = plain.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) else {
        return literal.to_owned();
    };
    let text = inner.replace("''", "'");
    if is_escaped { text.replace("\\\\", "\\") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_literal_says_what_it_was_made_of(text in "[a'E\\\\$\"]{0,8}") {
            prop_assert_eq!(unquoted(&literal(&text)), text);
        }
    }

    #[test]
    fn quotes_and_backslashes_are_written_twice() {
        assert_eq!((literal("it's"), literal("a\\'b")), ("'it''s'".into(), "E'a\\\\''b'".into()));
        assert_eq!(
            (identifier("A\"b"), unquoted("5"), unquoted("EST")),
            ("\"A\"\"b\"".into(), "5".into(), "EST".into())
        );
    }
}
