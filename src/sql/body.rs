//! What the body of a function or of a DO block leaves behind in the session that runs it.
//!
//! Bodies are read as tokens of SQL, which PL/pgSQL's are, too; no other language is looked into. String literals in a
//! body may be run by its EXECUTE, so they are read as bodies themselves; what EXECUTE runs out of a variable can be
//! anything. Whatever a body calls is named, for the catalog to judge.

use super::lexer::{Kind, Token, tokens};
use super::{Effects, words};

/// What a body does to its session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Body {
    /// By its own statements.
    pub effects: Effects,
    /// The functions that it calls, as PostgreSQL folds their names; built-in ones that leave something behind are not
    /// among them but in the effects.
    pub calls: Vec<String>,
}

/// What nobody can tell.
pub const ANYTHING: Effects = Effects::HIDDEN_SETTINGS.with(Effects::ENDS_STATE);

/// How deep literals in literals are read.
const DEPTH: usize = 3;

/// Reads a body.
pub fn read(text: &[u8]) -> Body {
    let mut body = Body::default();
    body.read(text, DEPTH);
    body
}

impl Body {
    fn read(&mut self, text: &[u8], depth: usize) {
        let mut past: [Option<Token>; 2] = [None; 2];
        for token in tokens(text) {
            match token.kind {
                Kind::Error => self.add(ANYTHING),
                Kind::LeftParen => self.call(past[0], text),
                Kind::Word => self.word(token, past, text),
                Kind::QuotedName | Kind::UnicodeName if is_temporary(token, text) => {
                    self.add(Effects::TEMPORARY)
                }
                kind if kind.is_string() => self.literal(token.bytes(text), depth),
                _ => {}
            }
            past = [Some(token), past[0]];
        }
    }

    /// A name before `(`.
    fn call(&mut self, name: Option<Token>, text: &[u8]) {
        let Some(name) = name.filter(|token| token.kind.is_name()) else { return };
        match words::name(name, text) {
            None => self.add(ANYTHING),
            Some(name) => match words::writing_function(&name) {
                Some(effects) if effects.any(Effects::SET_CONFIG) => self.add(ANYTHING),
                Some(effects) => self.add(effects),
                None if words::may_be_called(&name) => self.calls.push(name),
                None => {}
            },
        }
    }

    fn word(&mut self, token: Token, past: [Option<Token>; 2], text: &[u8]) {
        let word = words::name(token, text).unwrap_or_default();
        let before =
            |index: usize| past[index].and_then(|token| words::name(token, text)).unwrap_or_default();
        if before(0) == "execute" && word != "format" && word != "function" && word != "procedure" {
            self.add(ANYTHING);
        }
        match word.as_str() {
            "temp" | "temporary"
                if before(0) == "into" && matches!(before(1).as_str(), "insert" | "merge") => {}
            "temp" | "temporary"
                if matches!(before(0).as_str(), "create" | "replace" | "into" | "local" | "global") =>
            {
                self.add(Effects::TEMPORARY);
            }
            name if name.starts_with("pg_temp") => self.add(Effects::TEMPORARY),
            // `SET LOCAL` and `UPDATE ... SET` are none of the session's.
            "local" | "transaction" | "constraints" if before(0) == "set" => {}
            _ if before(0) == "set" && starts(past[1], text) => self.add(ANYTHING),
            "reset" | "call" | "do" | "discard" | "deallocate" if starts(past[0], text) => self.add(ANYTHING),
            "listen" if starts(past[0], text) => self.add(Effects::LISTEN),
            "prepare" if starts(past[0], text) => self.add(Effects::PREPARE),
            "load" if starts(past[0], text) => self.add(Effects::BACKEND_STATE),
            "hold" if before(0) == "with" => self.add(Effects::HOLD_CURSOR),
            "unlisten" | "drop" | "close" => self.add(Effects::ENDS_STATE),
            _ => {}
        }
    }

    fn literal(&mut self, literal: &[u8], depth: usize) {
        // What stands around the text (quotes, a tag, an E) is at worst one more word.
        let inner =
            literal.iter().position(|byte| matches!(byte, b'\'')).map_or(literal, |at| &literal[at + 1..]);
        let inner = inner.strip_suffix(b"'").unwrap_or(inner);
        match (dollar_quoted(literal).unwrap_or(inner), depth) {
            (inner, _) if !inner.iter().any(u8::is_ascii_whitespace) && !inner.contains(&b'(') => {}
            (_, 0) => self.add(ANYTHING),
            (inner, depth) => {
                let mut nested = Body::default();
                nested.read(inner, depth - 1);
                self.add(nested.effects);
                self.calls.extend(nested.calls);
            }
        }
    }

    fn add(&mut self, effects: Effects) {
        self.effects = self.effects.with(effects);
    }
}

/// What stands between the tags of a dollar-quoted string.
pub fn dollar_quoted(literal: &[u8]) -> Option<&[u8]> {
    let rest = literal.strip_prefix(b"$")?;
    let tag = rest.iter().position(|byte| *byte == b'$')? + 2;
    literal.get(tag..literal.len().checked_sub(tag)?)
}

/// Whether a statement starts behind this token.
fn starts(before: Option<Token>, text: &[u8]) -> bool {
    let Some(before) = before else { return true };
    match before.kind {
        Kind::Semicolon => true,
        Kind::Operator => before.bytes(text) == b">>",
        Kind::Word => {
            let word = words::name(before, text).unwrap_or_default();
            matches!(word.as_str(), "begin" | "then" | "else" | "loop" | "atomic")
        }
        _ => false,
    }
}

fn is_temporary(token: Token, text: &[u8]) -> bool {
    words::name(token, text).is_some_and(|name| name.starts_with("pg_temp"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn effects(text: &str) -> Effects {
        read(text.as_bytes()).effects
    }

    #[test]
    fn a_body_that_only_handles_data_leaves_nothing() {
        for text in [
            "BEGIN UPDATE t SET a = 1; INSERT INTO temp VALUES (1); PERFORM count(*) FROM t; END",
            "DECLARE x int := 1; BEGIN SET LOCAL work_mem = '1MB'; RAISE NOTICE 'set % to %', x, 'y'; END",
            "BEGIN EXECUTE format('ALTER TABLE %I ADD COLUMN b int', 't'); END",
            "BEGIN EXECUTE 'UPDATE t SET a = 1'; END",
            "SELECT a FROM t WHERE b = $1",
            "BEGIN IF true THEN DELETE FROM t; ELSE NULL; END IF; END",
        ] {
            assert_eq!(effects(text), Effects::NONE, "{text}");
        }
    }

    #[test]
    fn what_a_body_leaves_is_told() {
        for (text, expected) in [
            ("BEGIN SET work_mem = '1MB'; END", ANYTHING),
            ("BEGIN PERFORM set_config('a.b', 'c', false); END", ANYTHING),
            ("BEGIN PERFORM pg_catalog.pg_advisory_lock(1); END", Effects::ADVISORY_LOCK),
            ("BEGIN CREATE TEMP TABLE t (a int); END", Effects::TEMPORARY),
            ("BEGIN EXECUTE 'create temporary table x()'; END", Effects::TEMPORARY),
            ("BEGIN EXECUTE 'SET work_mem = 1'; END", ANYTHING),
            ("BEGIN EXECUTE command; END", ANYTHING),
            ("LISTEN a", Effects::LISTEN),
            ("BEGIN EXECUTE $x$LISTEN a$x$; END", Effects::LISTEN),
            ("BEGIN 'unfinished", ANYTHING),
        ] {
            assert!(effects(text).any(expected), "{text}: {:?}", effects(text));
        }
    }

    #[test]
    fn calls_are_named() {
        let body = read(b"BEGIN PERFORM own.set_up(lower('A')); PERFORM \"Other\"(); END");
        assert_eq!(
            (body.effects, body.calls),
            (Effects::NONE, vec!["set_up".into(), "lower".into(), "Other".into()])
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&text);
            let _ = dollar_quoted(&text);
        }
    }
}
