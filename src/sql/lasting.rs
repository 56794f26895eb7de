//! Whether a text means the same whenever it is run, and whoever runs it: then a server may analyse it once for all.
//!
//! PostgreSQL reads a string as soon as it knows of what type it is, which is while it analyses the text. From then on
//! `'today'::date` is that day, and `'1/2/2026'::date` what DateStyle made of it; an analysed text keeps both. So a text
//! lasts only if its strings are nothing that a clock or a setting has a part in.
//!
//! # Source
//!
//! `coerce_type` in PostgreSQL's `parser/parse_coerce.c`; the manual's chapter 8.5.1.4, Special Values.

use super::lexer::{Kind, Lexer, Token};

/// Commands that are planned; all others run anew each time, and there is nothing to keep.
const PLANNED: [&[u8]; 8] =
    [b"select", b"insert", b"update", b"delete", b"merge", b"values", b"with", b"table"];

/// Strings that are another instant each time they are read.
const INSTANTS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];

/// Whether the text is one planned statement that lasts.
pub fn lasts(text: &[u8]) -> bool {
    // Whoever shares it may use another encoding.
    text.is_ascii()
        && is_planned(text)
        && is_single(text)
        && Lexer::new(text).all(|token| is_lasting(token, text))
}

/// Whether a string of the text may be an instant, another one each time it is read, or it may run a statement by name, another
/// one for each client.
pub fn is_fleeting(text: &[u8]) -> bool {
    Lexer::new(text).any(|token| match token.kind {
        Kind::Word => token.bytes(text).eq_ignore_ascii_case(b"execute"),
        Kind::String | Kind::DollarString => has_instant(token.bytes(text)),
        Kind::EscapeString | Kind::UnicodeString => {
            has_instant(token.bytes(text)) || has_coded_letters(token.bytes(text))
        }
        _ => false,
    })
}

/// Whether letters may stand in an escaped string by their numbers.
fn has_coded_letters(string: &[u8]) -> bool {
    string.windows(2).any(|pair| pair[0] == b'\\' && (pair[1].is_ascii_digit() || b"xuU+".contains(&pair[1])))
}

fn has_instant(string: &[u8]) -> bool {
    let mut words = string.split(|byte| !byte.is_ascii_alphabetic());
    words.any(|word| INSTANTS.iter().any(|instant| word.eq_ignore_ascii_case(instant)))
}

/// Whether the text begins as a command that is planned, which are those that SQL's PREPARE takes.
pub fn is_planned(text: &[u8]) -> bool {
    let is_ahead = |token: &Token| token.kind.is_trivia() || token.kind == Kind::LeftParen;
    let first = Lexer::new(text).find(|token| !is_ahead(token));
    first.is_some_and(|first| PLANNED.iter().any(|word| first.bytes(text).eq_ignore_ascii_case(word)))
}

fn is_single(text: &[u8]) -> bool {
    let mut behind = Lexer::new(text).skip_while(|token| token.kind != Kind::Semicolon);
    behind.all(|token| token.kind.is_trivia() || token.kind == Kind::Semicolon)
}

fn is_lasting(token: Token, text: &[u8]) -> bool {
    match token.kind {
        Kind::String => is_timeless(token.bytes(text)),
        // Escapes would have to be read first.
        Kind::EscapeString | Kind::UnicodeString | Kind::DollarString | Kind::Error => false,
        _ => true,
    }
}

/// Whether a string is the same value of whatever type: neither an instant, nor anything with a number in it, which may be a
/// date, an interval or money, nor with a backslash, which `standard_conforming_strings` decides about.
fn is_timeless(string: &[u8]) -> bool {
    !string.iter().any(|byte| byte.is_ascii_digit() || *byte == b'\\') && !has_instant(string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts() {
        for text in [
            "select 1",
            "SELECT abalance FROM accounts WHERE aid = $1;",
            " -- hello\n(values ($1), (2))",
            "with x as (select 1) insert into t select * from x",
            "update t set state = 'unknown' where state <> 'it''s done'",
            "table t ; ; -- 'now'",
            "select b'101', \"now\", now()",
        ] {
            assert!(lasts(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_fleeting() {
        let instants =
            ["select 'now'::date", "select date 'Today'", "select $$now$$::date", r"select E'\x6eow'"];
        for text in instants.into_iter().chain(["EXECUTE a", "explain execute a(1)"]) {
            assert!(is_fleeting(text.as_bytes()), "{text}");
        }
        for text in ["select now()", "select '2026-01-02'::date", r"select E'it\'s\n'", "select 'known'"] {
            assert!(!is_fleeting(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_does_not() {
        for text in [
            "",
            ";",
            "set search_path to x",
            "begin",
            "explain select 1",
            "create table t as select 1",
            "declare c cursor for select 1",
            "select 1; select 2",
            "select 'now'::timestamptz",
            "select date 'Today'",
            "select '{tomorrow,yesterday}'::date[]",
            "select timestamptz 'tomorrow allballs'",
            "select * from t where at > '2026-01-02'",
            "select interval '1 day'",
            "select E'\\x6eow'::timestamptz",
            "select U&'\\006eow'::timestamptz",
            "select $$now$$::timestamptz",
            "select 'gr\u{fc}n'",
            "select 'a\\b'",
            "select 'open",
        ] {
            assert!(!lasts(text.as_bytes()), "{text}");
        }
    }
}
