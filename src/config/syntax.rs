//! Text that is no TOML: what people are told of it. Of keys that stand there twice the parser tells neither the name nor
//! that all of a table's are twice because the table is; and a file for PgBouncer is one mistake, not as many as it has lines.
//!
//! Lines are read here for messages alone, and more simply than TOML's grammar would have it.

use super::raw::{ConfigError, Place, join};

/// What is wrong with `text`, of which the parser says `mistakes`. No error holds a value.
pub(super) fn errors(text: &str, mistakes: &[toml::de::Error]) -> Vec<ConfigError> {
    if let Some(line) = pgbouncer(text) {
        let problem = PGBOUNCER.to_owned();
        return vec![ConfigError { place: Place::Text { line, column: 1 }, problem }];
    }
    let mut errors: Vec<ConfigError> = Vec::new();
    // Where the keys of a table that stands there twice end.
    let mut passed_over = 0;
    for mistake in mistakes {
        let span = mistake.span().filter(|span| text.get(span.clone()).is_some()).unwrap_or_default();
        if mistake.message() != DUPLICATE {
            let (line, column) = position(text, span.start);
            let place = Place::Text { line, column };
            errors.push(ConfigError { place, problem: mistake.message().to_owned() });
        } else if span.start >= passed_over {
            if is_header(line_at(text, span.start)) {
                passed_over = next_header(text, span.end);
            }
            errors.push(duplicate(text, span));
        }
    }
    errors.dedup();
    errors
}

/// What the parser says of a key that stands there twice.
const DUPLICATE: &str = "duplicate key";

const PGBOUNCER: &str = "this is a configuration of PgBouncer; pglagoon's is TOML: README (*From PgBouncer*) says which key \
                         takes the place of which, config/reference.toml has all of them";

/// The line, from 1, by which a file shows itself to be PgBouncer's: its own section, or a database as a connection string.
pub(super) fn pgbouncer(text: &str) -> Option<usize> {
    let mut section = "";
    let place = text.lines().map(str::trim).position(|line| {
        if is_header(line) {
            section = line;
        }
        let value = line.split_once('=').filter(|_| section == "[databases]").map(|(_, value)| value.trim());
        section == "[pgbouncer]" || value.is_some_and(is_connection_string)
    });
    place.map(|place| place + 1)
}

/// `host=...`, unquoted.
fn is_connection_string(value: &str) -> bool {
    let word = value.split_once('=').map(|(word, _)| word.trim_end());
    word.is_some_and(|word| matches!(word, "host" | "port" | "dbname" | "user" | "password" | "pool_size"))
}

fn duplicate(text: &str, span: std::ops::Range<usize>) -> ConfigError {
    let (line, _) = position(text, span.start);
    let start = text[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
    let path = match line_at(text, span.start) {
        header if is_header(header) => Some(header_name(header)),
        _ => named(&section_above(text, start), &text[start..span.end]),
    };
    // Within a value.
    let path = path.unwrap_or_else(|| text[span].to_owned());
    let first = paths(text).take(line - 1).position(|other| other.as_deref() == Some(&*path));
    let problem = match first {
        Some(place) => format!("stands in line {} already", place + 1),
        None => "is given already".to_owned(),
    };
    ConfigError { place: Place::Key { path, line: Some(line) }, problem }
}

/// The path of the table or the key that each line is about.
fn paths(text: &str) -> impl Iterator<Item = Option<String>> {
    let mut section = String::new();
    text.lines().map(move |line| {
        if is_header(line) {
            section = header_name(line);
            return Some(section.clone());
        }
        line.split_once('=').and_then(|(key, _)| named(&section, key))
    })
}

/// The path of a key as the head of its line has it; `None`, if that is more than a key.
fn named(section: &str, key: &str) -> Option<String> {
    let is_key = !key.trim().is_empty() && !key.contains(['=', ',', '{', '[', '#']);
    is_key.then(|| join(section, &without_blanks(key)))
}

fn section_above(text: &str, offset: usize) -> String {
    text[..offset].lines().rev().find(|line| is_header(line)).map(header_name).unwrap_or_default()
}

fn is_header(line: &str) -> bool {
    line.trim_start().starts_with('[')
}

/// `[ pool ] # comment` is about `pool`.
fn header_name(line: &str) -> String {
    let name = line.trim_start().trim_start_matches('[');
    without_blanks(name.split_once(']').map_or(name, |(name, _)| name))
}

fn without_blanks(name: &str) -> String {
    name.split('.').map(str::trim).collect::<Vec<_>>().join(".")
}

fn line_at(text: &str, offset: usize) -> &str {
    let start = text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
    text[start..].lines().next().unwrap_or_default()
}

fn next_header(text: &str, offset: usize) -> usize {
    let mut from = offset;
    while let Some(newline) = text[from..].find('\n') {
        from += newline + 1;
        if is_header(line_at(text, from)) {
            return from;
        }
    }
    text.len()
}

/// The line and the column of an offset, both from 1.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use crate::config::parse;

    fn errors(text: &str) -> Vec<String> {
        let errors = parse(text, &|_| Ok(String::new()), 1).expect_err("mistakes");
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_stands_there_twice_is_named_once() {
        let expected = [
            ("[pool]\nsize = 1\nsize = 2", "pool.size (line 3): stands in line 2 already"),
            (
                "[pool]\nsize = 1\n[ pool ] # more\nmode = 'session'",
                "pool (line 3): stands in line 1 already",
            ),
            (
                "[databases.app]\nservers = 'a'\npool.size = 1\n[databases.app]\nservers = 'b'\npool.size = 1\n[log]",
                "databases.app (line 4): stands in line 1 already",
            ),
            (
                "[databases.a]\npool.size=1\npool . size=2",
                "databases.a.pool.size (line 3): stands in line 2 already",
            ),
            ("pool.size = 1\n[pool]\nsize = 2", "pool (line 2): is given already"),
            ("users.a = { password = 'hunter2', password = 'x' }", "password (line 1): is given already"),
        ];
        for (text, error) in expected {
            assert_eq!(errors(text), [error], "{text}");
        }
        let two = errors("[pool]\n[pool]\nsize = 1\n[log]\nfilter = 'a'\nfilter = 'b'");
        assert_eq!(
            two,
            ["pool (line 2): stands in line 1 already", "log.filter (line 6): stands in line 5 already"]
        );
    }

    #[test]
    fn a_file_for_pgbouncer_is_known_by_its_face() {
        let whole = ";; comment\n[databases]\napp = host=10.0.0.1 port=5432 password=hunter2\n\n[pgbouncer]\nlisten_port = 6432\n";
        let errors_of_whole = errors(whole);
        assert_eq!(errors_of_whole.len(), 1, "{errors_of_whole:?}");
        assert!(errors_of_whole[0].starts_with("line 3, column 1: this is a configuration of PgBouncer"));
        assert!(!errors_of_whole[0].contains("hunter2"));
        assert!(errors("[pgbouncer]\nlisten_port = 6432")[0].contains("PgBouncer"), "though it is TOML");
        assert!(!errors("[databases]\napp = { servers = 'host' }\n[pool]\nsize = ")[0].contains("PgBouncer"));
    }
}
