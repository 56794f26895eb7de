//! The file as it stands: a TOML table, read key by key, that reports everything that is wrong with it.
//!
//! Each key is asked for once, by a method that says its kind, its limits and its default; so what a key may hold, what
//! an error says is allowed, and what the reference prints are one text. Keys that nobody asked for are unknown. A
//! wrong value is reported and replaced by its default, so that reading goes on to the next mistake. (serde's derived
//! readers stop at the first mistake, and know neither the path nor the limits of a key.)
//!
//! Invariant: no error holds the value of a secret, or of anything that looks as if a password stood in it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::{Secret, keys, syntax, values};

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where.
    pub place: Place,
    /// What it got and what is allowed. Never a secret.
    pub problem: String,
}

/// Where something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At a key.
    Key {
        /// Its whole path: `databases.app.pool.size`.
        path: String,
        /// Its line in the file, if it is there.
        line: Option<usize>,
    },
    /// In text that is no TOML; both count from 1.
    Text {
        /// The line.
        line: usize,
        /// The column, in characters.
        column: usize,
    },
    /// The file itself.
    File(PathBuf),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Key { path, line: Some(line) } => write!(f, "{path} (line {line}): {}", self.problem),
            Place::Key { path, line: None } => write!(f, "{path}: {}", self.problem),
            Place::Text { line, column } => write!(f, "line {line}, column {column}: {}", self.problem),
            Place::File(path) => write!(f, "{}: {}", path.display(), self.problem),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Everything that reading a file brought to light.
pub(super) struct Report<'t> {
    text: &'t str,
    errors: Vec<ConfigError>,
    /// The line of each key that is in the file.
    lines: BTreeMap<String, usize>,
    /// What is allowed for each key that was asked for; names of databases and users are `NAME`.
    allowed: BTreeMap<String, String>,
    /// What the file gives for each general key that may be shown.
    given: BTreeMap<String, String>,
}

/// A file that is TOML, read to its end.
pub(super) struct Read<T> {
    /// What the reader made of it; worth something only without errors.
    pub(super) value: T,
    pub(super) errors: Vec<ConfigError>,
    /// What is allowed for each key that was asked for, by its pattern.
    pub(super) allowed: BTreeMap<String, String>,
    /// What the file gives for each general key that may be shown.
    pub(super) given: BTreeMap<String, String>,
}

impl<'t> Report<'t> {
    /// Reads `text`, which `read` asks for its keys.
    ///
    /// # Errors
    /// The places where the text is no TOML.
    pub(super) fn read<T>(
        text: &'t str,
        read: impl FnOnce(&mut Section<'_, '_>) -> T,
    ) -> Result<Read<T>, Vec<ConfigError>> {
        let (table, syntax) = DeTable::parse_recoverable(text);
        if !syntax.is_empty() || syntax::pgbouncer(text).is_some() {
            return Err(syntax::errors(text, &syntax));
        }
        let mut report = Report {
            text,
            errors: Vec::new(),
            lines: BTreeMap::new(),
            allowed: BTreeMap::new(),
            given: BTreeMap::new(),
        };
        let mut root = Section {
            report: &mut report,
            path: String::new(),
            pattern: String::new(),
            table: Some(table.get_ref()),
            asked: Vec::new(),
        };
        let value = read(&mut root);
        root.end();
        Ok(Read { value, errors: report.errors, allowed: report.allowed, given: report.given })
    }

    fn line(&self, offset: usize) -> usize {
        syntax::position(self.text, offset).0
    }
}

/// One table of the file, present or not.
pub(super) struct Section<'r, 't> {
    report: &'r mut Report<'t>,
    /// Its path, as errors show it.
    path: String,
    /// Its path with `NAME` for what people name themselves, as [`keys::KEYS`] has it.
    pattern: String,
    table: Option<&'r DeTable<'t>>,
    asked: Vec<String>,
}

impl<'r, 't> Section<'r, 't> {
    /// The table under `key`; read as empty if it is not there.
    pub(super) fn within<T>(&mut self, key: &str, read: impl FnOnce(&mut Section<'_, 't>) -> T) -> T {
        let pattern = join(&self.pattern, key);
        self.asked.push(key.to_owned());
        self.table_at(key, pattern, read)
    }

    /// Every table of this one, whose keys are names.
    pub(super) fn each(&mut self, mut read: impl FnMut(&str, &mut Section<'_, 't>)) {
        let names: Vec<String> =
            self.table.iter().flat_map(|table| table.keys()).map(|key| key.to_string()).collect();
        for name in names {
            let pattern = join(&self.pattern, "NAME");
            self.asked.push(name.clone());
            self.table_at(&name, pattern, |section| read(&name, section));
        }
    }

    fn table_at<T>(&mut self, key: &str, pattern: String, read: impl FnOnce(&mut Section<'_, 't>) -> T) -> T {
        let (table, mistaken) = match self.look_up(key) {
            Some(DeValue::Table(table)) => (Some(table), None),
            other => (None, other),
        };
        if let Some(value) = mistaken {
            self.refuse(&quoted(key), &format!("got {}; allowed: a table of keys", describe(value)));
        }
        let errors = self.report.errors.len();
        let path = join(&self.path, &quoted(key));
        let mut section = Section { report: &mut *self.report, path, pattern, table, asked: Vec::new() };
        let value = read(&mut section);
        section.end();
        if mistaken.is_some() {
            // That its keys are missing is no second mistake.
            self.report.errors.truncate(errors);
        }
        value
    }

    /// Reports an error at a key of this section.
    pub(super) fn refuse(&mut self, key: &str, problem: &str) {
        let path = join(&self.path, key);
        let line = self.report.lines.get(&path).copied();
        self.report
            .errors
            .push(ConfigError { place: Place::Key { path, line }, problem: problem.to_owned() });
    }

    /// Whether the file gives this key, rightly or wrongly.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.get(key).is_some())
    }

    /// Whether nothing is wrong with this key, as far as it has been read.
    pub(super) fn is_sound(&self, key: &str) -> bool {
        let whole = join(&self.path, key);
        let item = format!("{whole}[");
        let is_here = |error: &ConfigError| matches!(&error.place, Place::Key { path, .. } if *path == whole || path.starts_with(&item));
        !self.report.errors.iter().any(is_here)
    }

    /// Whether the file gives this key as `[]`.
    pub(super) fn is_empty_list(&self, key: &str) -> bool {
        let value = self.table.and_then(|table| table.get(key));
        value.and_then(|value| value.get_ref().as_array()).is_some_and(|items| items.is_empty())
    }

    /// What `read` makes of a key, if it is there.
    pub(super) fn given<T>(&mut self, key: &str, read: impl FnOnce(&mut Self, &str) -> T) -> Option<T> {
        let is_there = self.has(key);
        // Read in any case, so that it is known what it may be.
        Some(read(self, key)).filter(|_| is_there)
    }

    /// One of several words.
    pub(super) fn word<T: Copy>(&mut self, key: &str, words: &[(&str, T)], default: T) -> T {
        let allowed = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" | ");
        let pick = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        self.value(key, &allowed, |value| value.as_str().and_then(pick)).unwrap_or(default)
    }

    /// One of several words, or nothing.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let some: Vec<_> = words.iter().map(|&(word, value)| (word, Some(value))).collect();
        self.word(key, &some, None)
    }

    /// True or false.
    pub(super) fn flag(&mut self, key: &str, default: bool) -> bool {
        self.value(key, "true | false", |value| value.as_bool()).unwrap_or(default)
    }

    /// A whole number.
    pub(super) fn count(&mut self, key: &str, range: RangeInclusive<usize>, default: usize) -> usize {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        self.value(key, &allowed, |value| integer(value).filter(|number| range.contains(number)))
            .unwrap_or(default)
    }

    /// A whole number, or `off`.
    pub(super) fn bound(
        &mut self,
        key: &str,
        range: RangeInclusive<usize>,
        default: Option<usize>,
    ) -> Option<usize> {
        let allowed = format!("a whole number from {} to {}, or \"off\"", range.start(), range.end());
        let parse = |value: &DeValue<'_>| match value.as_str() {
            Some("off") => Some(None),
            _ => integer(value).filter(|number| range.contains(number)).map(Some),
        };
        self.value(key, &allowed, parse).unwrap_or(default)
    }

    /// A TCP port.
    pub(super) fn port(&mut self, key: &str, default: u16) -> u16 {
        let port = |value: &DeValue<'_>| {
            integer(value).and_then(|n| u16::try_from(n).ok()).filter(|port| *port != 0)
        };
        self.value(key, "a port from 1 to 65535", port).unwrap_or(default)
    }

    /// A time of at least a millisecond.
    pub(super) fn duration(&mut self, key: &str, default: Duration) -> Duration {
        self.value(key, DURATION, |value| value.as_str().and_then(positive_duration)).unwrap_or(default)
    }

    /// A time of at least a millisecond, or `off`.
    pub(super) fn limit(&mut self, key: &str, default: Option<Duration>) -> Option<Duration> {
        let allowed = format!("{DURATION}, or \"off\"");
        let parse = |text: &str| match text {
            "off" => Some(None),
            time => positive_duration(time).map(Some),
        };
        self.value(key, &allowed, |value| value.as_str().and_then(parse)).unwrap_or(default)
    }

    /// A number of bytes.
    pub(super) fn size(&mut self, key: &str, range: RangeInclusive<usize>, default: usize) -> usize {
        let (least, most) = (values::size_text(*range.start()), values::size_text(*range.end()));
        let allowed = format!("a size from \"{least}\" to \"{most}\" (units B, KiB, MiB, GiB)");
        let parse = |text: &str| values::size(text).filter(|bytes| range.contains(bytes));
        self.value(key, &allowed, |value| value.as_str().and_then(parse)).unwrap_or(default)
    }

    /// A string that `parse` takes.
    pub(super) fn text<T>(
        &mut self,
        key: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        self.value(key, allowed, |value| value.as_str().and_then(parse))
    }

    /// The path of a file or directory.
    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        let parse = |text: &str| (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text));
        self.text(key, PATH, parse)
    }

    /// A string, or a list of strings, each of which `parse` takes; `None` if it is not there. What it does not take
    /// is reported and left out.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        item: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let allowed = format!("a string or a list of strings, each {item}");
        let value = self.ask(key, &allowed)?;
        match value {
            DeValue::String(text) => match parse(text) {
                Some(item) => Some(vec![item]),
                None => {
                    self.refuse(key, &got(value, &allowed));
                    None
                }
            },
            DeValue::Array(items) => {
                Some(self.items(key, items, item, |value| value.as_str().and_then(&parse)))
            }
            other => {
                self.refuse(key, &got(other, &allowed));
                None
            }
        }
    }

    /// A list of whole numbers.
    pub(super) fn counts(&mut self, key: &str, range: RangeInclusive<u32>) -> Option<Vec<u32>> {
        let item = format!("a whole number from {} to {}", range.start(), range.end());
        let allowed = format!("a list, each {item}");
        let parse = |value: &DeValue<'_>| {
            integer(value).and_then(|n| u32::try_from(n).ok()).filter(|n| range.contains(n))
        };
        match self.ask(key, &allowed)? {
            DeValue::Array(items) => Some(self.items(key, items, &item, parse)),
            other => {
                self.refuse(key, &got(other, &allowed));
                None
            }
        }
    }

    fn items<T>(
        &mut self,
        key: &str,
        items: &[toml::Spanned<DeValue<'t>>],
        allowed: &str,
        parse: impl Fn(&DeValue<'t>) -> Option<T>,
    ) -> Vec<T> {
        let mut good = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match parse(item.get_ref()) {
                Some(value) => good.push(value),
                None => {
                    let path = format!("{key}[{index}]");
                    let line = self.report.line(item.span().start);
                    self.report.lines.insert(join(&self.path, &path), line);
                    self.refuse(&path, &got(item.get_ref(), allowed));
                }
            }
        }
        good
    }

    /// A stored password. Errors never hold it.
    pub(super) fn secret(&mut self, key: &str) -> Option<Secret> {
        self.password(key, SECRET, Ok)
    }

    /// A password to log in with: a verifier proves others to us, not us to others. Errors never hold it.
    pub(super) fn login_secret(&mut self, key: &str) -> Option<Secret> {
        self.password(key, LOGIN_SECRET, |secret| match secret {
            Secret::Scram(_) => Err("a SCRAM verifier, which cannot log in to a server"),
            secret => Ok(secret),
        })
    }

    fn password(
        &mut self,
        key: &str,
        allowed: &str,
        usable: impl FnOnce(Secret) -> Result<Secret, &'static str>,
    ) -> Option<Secret> {
        let value = self.ask(key, allowed)?;
        let stored = value.as_str().ok_or("something else than a string").and_then(Secret::from_stored);
        let secret = stored.and_then(usable);
        secret.map_err(|what| self.refuse(key, &format!("got {what}; allowed: {allowed}"))).ok()
    }

    fn value<T>(
        &mut self,
        key: &str,
        allowed: &str,
        parse: impl FnOnce(&DeValue<'t>) -> Option<T>,
    ) -> Option<T> {
        let value = self.ask(key, allowed)?;
        let parsed = parse(value);
        if parsed.is_none() {
            self.refuse(key, &got(value, allowed));
        }
        parsed
    }

    fn ask(&mut self, key: &str, allowed: &str) -> Option<&'r DeValue<'t>> {
        self.asked.push(key.to_owned());
        let path = join(&self.pattern, key);
        self.report.allowed.insert(path.clone(), allowed.to_owned());
        let value = self.look_up(key)?;
        if keys::may_be_shown(&path) {
            self.report.given.insert(path, shown(value));
        }
        Some(value)
    }

    fn look_up(&mut self, key: &str) -> Option<&'r DeValue<'t>> {
        let (found, value) = self.table?.get_key_value(key)?;
        let line = self.report.line(found.span().start);
        self.report.lines.insert(join(&self.path, &quoted(key)), line);
        Some(value.get_ref())
    }

    /// Whatever nobody asked for is unknown.
    fn end(mut self) {
        let names = self.table.iter().flat_map(|table| table.keys()).map(|key| key.to_string());
        let unknown: Vec<String> = names.filter(|name| !self.asked.contains(name)).collect();
        for name in unknown {
            self.look_up(&name);
            let problem = match keys::nearest(&self.pattern, &name) {
                Some(nearest) => format!("unknown key; did you mean {nearest}?"),
                None => "unknown key; config/reference.toml lists all".to_owned(),
            };
            self.refuse(&quoted(&name), &problem);
        }
    }
}

/// What a time looks like, for errors.
const DURATION: &str = "a time such as \"30s\" (ms, s, min, h, d), more than 0 and at most 365d";

/// What a path looks like, for errors.
const PATH: &str = "a path; a relative one starts at the folder of the configuration file";

/// What a stored password looks like, for errors.
const SECRET: &str =
    "a password, or what PostgreSQL stores: \"md5...\" (32 hex digits) or \"SCRAM-SHA-256$...\"";

/// What a password to log in with looks like, for errors.
const LOGIN_SECRET: &str = "a password, or \"md5...\" (32 hex digits) for servers that ask for md5";

fn positive_duration(text: &str) -> Option<Duration> {
    values::duration(text).filter(|time| !time.is_zero())
}

fn integer(value: &DeValue<'_>) -> Option<usize> {
    let number = value.as_integer()?;
    usize::from_str_radix(number.as_str(), number.radix()).ok()
}

fn got(value: &DeValue<'_>, allowed: &str) -> String {
    format!("got {}; allowed: {allowed}", describe(value))
}

/// A value as SHOW CONFIG prints it: lists as their items.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Boolean(word) => word.to_string(),
        DeValue::Array(items) => {
            items.iter().map(|item| shown(item.get_ref())).collect::<Vec<_>>().join(", ")
        }
        // No key takes these.
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => String::new(),
    }
}

/// A value as an error may show it.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if text.chars().count() > MAX_SHOWN => "a long string".to_owned(),
        DeValue::String(text) if may_hide_a_password(text) => {
            "a string (not shown: it may hold a password)".to_owned()
        }
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => format!("the number {}", number.as_str()),
        DeValue::Float(number) => format!("the number {}", number.as_str()),
        DeValue::Boolean(word) => word.to_string(),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// The longest string that an error shows, in characters.
const MAX_SHOWN: usize = 100;

/// A URL or a libpq connection string in the place of an address.
fn may_hide_a_password(text: &str) -> bool {
    text.contains('@') || text.to_ascii_lowercase().contains("passw")
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A key as TOML writes it: bare, or in quotes.
pub(super) fn quoted(key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !key.is_empty() && key.bytes().all(bare) { key.to_owned() } else { format!("{key:?}") }
}
