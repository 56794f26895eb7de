//! Session settings that follow a client from one server connection to the next.
//!
//! A client's settings and those that a server connection has at the moment are both [`Settings`]; the difference is one
//! batch of SQL, sent ahead of the client's first message. A connection whose last client set something goes back to
//! neutral in the same batch.

use super::analysis;
use crate::routing::Commits;
use crate::sql::effect::{OF_TRANSACTION, SettingChange};
use crate::sql::quote::{identifier, literal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The most settings that one client may carry along.
pub const MAX_SETTINGS: usize = 200;

/// The longest names and values of all of them together, in bytes.
pub const MAX_LENGTH: usize = 256 * 1024;

/// Names and values, on their way to another process.
pub type Packed = Vec<(String, Value)>;

/// A value, in the form in which it arrived.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Value {
    /// From a startup packet or `options`: the text that the setting itself parses.
    Text(String),
    /// From a SET: what stands after `SET name TO`.
    Expression(String),
}

/// Settings that differ from a fresh login's. Cheap to clone and to compare.
#[derive(Debug, Clone, Default)]
pub struct Settings(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    values: BTreeMap<String, Value>,
    hash: u64,
    /// Whether what the classifier proves of a text holds under these settings.
    proofs_hold: bool,
    /// Whether a text may be run as others had it analysed.
    shares_analysis: bool,
    /// See [`Settings::analysis`].
    analysis: u128,
    commits: Commits,
    /// A server has taken the values: see [`Settings::prove`].
    proven: AtomicBool,
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || (a.hash == b.hash && a.values == b.values),
            _ => false,
        }
    }
}

impl Settings {
    /// The settings of a startup packet, by lower-cased name.
    pub fn from_startup(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let lower_cased = |(mut name, value): (String, String)| {
            name.make_ascii_lowercase();
            (name, Value::Text(value))
        };
        let values = pairs.into_iter().map(lower_cased);
        Self::new(values.filter(|(name, _)| !OF_TRANSACTION.contains(&name.as_str())).collect())
    }

    fn new(values: BTreeMap<String, Value>) -> Self {
        if values.is_empty() {
            return Settings(None);
        }
        let mut hasher = DefaultHasher::new();
        values.hash(&mut hasher);
        let proofs_hold = values.iter().all(|(name, value)| keeps_proofs(name, value));
        let shares_analysis = values.iter().all(|(name, value)| shares_analysis(name, value));
        let commits = commits(values.get("synchronous_commit"));
        Settings(Some(Arc::new(Inner {
            hash: hasher.finish(),
            analysis: analysis::digest(values.iter()),
            values,
            proofs_hold,
            shares_analysis,
            commits,
            proven: AtomicBool::new(false),
        })))
    }

    /// The same in other memory, if nobody shares them.
    pub fn relocated(&self) -> Self {
        let Some(inner) = self.0.as_ref().filter(|inner| Arc::strong_count(inner) == 1) else {
            return self.clone();
        };
        let proven = AtomicBool::new(inner.proven.load(Ordering::Relaxed));
        Settings(Some(Arc::new(Inner { values: inner.values.clone(), proven, ..**inner })))
    }

    /// How long all names and values are together, in bytes.
    pub fn length(&self) -> usize {
        let values = self.0.iter().flat_map(|inner| inner.values.iter());
        values.map(|(name, Value::Text(value) | Value::Expression(value))| name.len() + value.len()).sum()
    }

    /// To be taken to another process.
    pub fn pack(&self) -> Packed {
        let values = self.0.iter().flat_map(|inner| inner.values.iter());
        values.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// What [`pack`](Self::pack) made.
    pub fn unpack(packed: Packed) -> Settings {
        Settings::new(packed.into_iter().collect())
    }

    /// Whether nothing differs from a fresh login.
    pub fn is_neutral(&self) -> bool {
        self.0.is_none()
    }

    /// A number that equal settings share.
    pub fn hash(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.hash)
    }

    /// Whether a statement that is a proven read by its text is one under these settings: the text means what the lexer
    /// takes it to mean, and a replica runs it.
    pub fn proofs_hold(&self) -> bool {
        self.0.as_ref().is_none_or(|inner| inner.proofs_hold)
    }

    /// Whether a statement that lasts ([`crate::sql::lasting`]) may be run as it was analysed for somebody else: none of these
    /// settings has a part in what its names and signs mean.
    pub fn share_analysis(&self) -> bool {
        self.0.as_ref().is_none_or(|inner| inner.shares_analysis)
    }

    /// A digest of what has a part in the analysis of texts; 0 if all of that is as after a login.
    pub fn analysis(&self) -> u128 {
        self.0.as_ref().map_or(0, |inner| inner.analysis)
    }

    /// Whether commits wait for their WAL, as far as these settings say.
    pub fn commits(&self) -> Commits {
        self.0.as_ref().map_or(Commits::Synchronous, |inner| inner.commits)
    }

    /// The value of `name`, if it is set.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.0.as_ref()?.values.get(name)
    }

    /// These settings after a change. `base` are the client's startup settings, to which RESET goes back.
    ///
    /// Answers `None` when there would be more than [`MAX_SETTINGS`] or [`MAX_LENGTH`] allow.
    pub fn after(&self, change: &SettingChange, base: &Settings) -> Option<Settings> {
        let mut values = self.0.as_ref().map(|inner| inner.values.clone()).unwrap_or_default();
        let reset = |values: &mut BTreeMap<String, Value>, name: &str| match base.value(name) {
            Some(value) => drop(values.insert(name.to_owned(), value.clone())),
            None => drop(values.remove(name)),
        };
        match change {
            SettingChange::Set { name, value } => {
                let value = match name.as_str() {
                    "datestyle" => completed_date_style(values.get(name), value),
                    _ => value.clone(),
                };
                values.insert(name.clone(), Value::Expression(value));
            }
            SettingChange::Reset { name } => reset(&mut values, name),
            SettingChange::Hidden { .. } => {}
            SettingChange::ResetAll => {
                // RESET ALL leaves the role and the session user alone.
                let kept: Vec<_> = IDENTITY.iter().filter_map(|name| values.remove_entry(*name)).collect();
                values = base.0.as_ref().map(|inner| inner.values.clone()).unwrap_or_default();
                values.extend(kept);
            }
        }
        // SET SESSION AUTHORIZATION puts the role back, and so does its RESET.
        if change.name().is_some_and(|name| name == "session_authorization") {
            reset(&mut values, "role");
        }
        Self::carried(values)
    }

    /// These settings with what a server says `name` is; `None`: it knows of no such setting.
    ///
    /// Answers `None` when there would be more than [`MAX_SETTINGS`] or [`MAX_LENGTH`] allow.
    pub fn with(&self, name: &str, value: Option<String>) -> Option<Settings> {
        let mut values = self.0.as_ref().map(|inner| inner.values.clone()).unwrap_or_default();
        match value {
            Some(value) => drop(values.insert(name.to_owned(), Value::Text(value))),
            None => drop(values.remove(name)),
        }
        Self::carried(values)
    }

    /// `None`: they are more than a client may carry along.
    fn carried(values: BTreeMap<String, Value>) -> Option<Settings> {
        let settings = Settings::new(values);
        let count = settings.0.as_ref().map_or(0, |inner| inner.values.len());
        (count <= MAX_SETTINGS && settings.length() <= MAX_LENGTH).then_some(settings)
    }

    /// The names of what is set.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.iter().flat_map(|inner| inner.values.keys())
    }

    /// Whether no server can refuse to go from `from` to these settings, whoever had set those: all that differs is
    /// `PLAIN`, and a server has taken these values before.
    pub fn are_sure_behind(&self, from: &Settings) -> bool {
        let is_taken = self.0.as_ref().is_none_or(|inner| inner.proven.load(Ordering::Relaxed));
        is_taken && self.differs_plainly(from) && from.differs_plainly(self)
    }

    fn differs_plainly(&self, other: &Settings) -> bool {
        let mut values = self.0.iter().flat_map(|inner| inner.values.iter());
        values.all(|(name, value)| other.value(name) == Some(value) || is_plain(name, value))
    }

    /// A server has taken these values.
    pub fn prove(&self) {
        if let Some(inner) = &self.0 {
            inner.proven.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a relation may be temporary whose statement does not say so: `pg_temp` is in the search path.
    pub fn may_create_temporary(&self) -> bool {
        self.value("search_path").is_some_and(|path| word(path).contains("pgtemp"))
    }

    /// Whether who runs the statements differs: the session user or the role.
    pub fn change_identity(&self) -> bool {
        IDENTITY.iter().any(|name| self.value(name).is_some())
    }

    /// The SQL that takes a server connection from `from` to these settings; `None` if they are equal.
    pub fn restore_from(&self, from: &Settings) -> Option<String> {
        if self == from {
            return None;
        }
        let empty = BTreeMap::new();
        let values = |settings: &Settings| settings.0.clone();
        let (from, to) = (values(from), values(self));
        let from = from.as_ref().map_or(&empty, |inner| &inner.values);
        let to = to.as_ref().map_or(&empty, |inner| &inner.values);
        let mut sql = String::new();
        // Whoever the last client had become may not be allowed to set what is set next; the login user comes back first.
        let identity_moves = IDENTITY.iter().any(|name| from.get(*name) != to.get(*name));
        if identity_moves && IDENTITY.iter().any(|name| from.contains_key(*name)) {
            sql.push_str("RESET SESSION AUTHORIZATION;RESET ROLE;");
        }
        for name in from.keys().filter(|name| !to.contains_key(*name) && !is_identity(name)) {
            let _ = write!(sql, "RESET {};", quoted_name(name));
        }
        for (name, value) in in_order(to).filter(|(name, value)| from.get(*name) != Some(value)) {
            // What it does not name stays as it is: that shall be what the session started with.
            if name == "datestyle" && from.contains_key(name) {
                sql.push_str("RESET \"datestyle\";");
            }
            write_set(&mut sql, name, value);
        }
        if identity_moves {
            write_identity(&mut sql, to);
        }
        Some(sql)
    }

    /// The SQL that puts these settings on a neutral connection, the role first: it may have set what the login user may
    /// not. `None` if they are neutral.
    pub fn restore_as_role(&self) -> Option<String> {
        let values = &self.0.as_ref()?.values;
        let mut sql = String::new();
        write_identity(&mut sql, values);
        in_order(values).for_each(|(name, value)| write_set(&mut sql, name, value));
        Some(sql)
    }
}

/// Settings that anybody may set and reset, whose values mean the same whatever else is set: what a server took once, it
/// takes again, on any connection. Sorted.
const PLAIN: [&str; 64] = [
    "application_name",
    "array_nulls",
    "backslash_quote",
    "bytea_output",
    "check_function_bodies",
    "client_encoding",
    "client_min_messages",
    "constraint_exclusion",
    "cpu_index_tuple_cost",
    "cpu_operator_cost",
    "cpu_tuple_cost",
    "cursor_tuple_fraction",
    "datestyle",
    "default_statistics_target",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "effective_cache_size",
    "enable_bitmapscan",
    "enable_gathermerge",
    "enable_hashagg",
    "enable_hashjoin",
    "enable_incremental_sort",
    "enable_indexonlyscan",
    "enable_indexscan",
    "enable_material",
    "enable_memoize",
    "enable_mergejoin",
    "enable_nestloop",
    "enable_partitionwise_aggregate",
    "enable_partitionwise_join",
    "enable_seqscan",
    "enable_sort",
    "enable_tidscan",
    "escape_string_warning",
    "extra_float_digits",
    "from_collapse_limit",
    "geqo",
    "geqo_threshold",
    "hash_mem_multiplier",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "jit",
    "join_collapse_limit",
    "lock_timeout",
    "maintenance_work_mem",
    "max_parallel_workers_per_gather",
    "parallel_setup_cost",
    "parallel_tuple_cost",
    "plan_cache_mode",
    "quote_all_identifiers",
    "random_page_cost",
    "row_security",
    "search_path",
    "seq_page_cost",
    "standard_conforming_strings",
    "statement_timeout",
    "synchronous_commit",
    "timezone",
    "transaction_timeout",
    "transform_null_equals",
    "work_mem",
    "xmlbinary",
    "xmloption",
];

/// What is shorter, the commands that restore settings may not have the time for, in milliseconds.
const MIN_TIMEOUT: u32 = 1000;

fn is_plain(name: &str, value: &Value) -> bool {
    let (Value::Text(text) | Value::Expression(text)) = value;
    let has_time = !matches!(name, "statement_timeout" | "transaction_timeout")
        || word(value).parse::<u32>().is_ok_and(|time| time == 0 || time >= MIN_TIMEOUT);
    // The connection may be in another encoding, or its transactions of a kind in which a standby runs nothing.
    PLAIN.binary_search(&name).is_ok() && text.is_ascii() && keeps_proofs(name, value) && has_time
}

/// Values but for the role and the session user, what others are looked up by first.
fn in_order(values: &BTreeMap<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let others = values.iter().filter(|(name, _)| *name != "search_path" && !is_identity(name));
    values.get_key_value("search_path").into_iter().chain(others)
}

fn write_identity(sql: &mut String, values: &BTreeMap<String, Value>) {
    for name in IDENTITY {
        if let Some(value) = values.get(name) {
            write_set(sql, name, value);
        }
    }
}

/// In the order in which they must be set.
const IDENTITY: [&str; 2] = ["session_authorization", "role"];

/// Encodings in which a byte of a character may look like a quote or a backslash; the lexer knows only those in which none
/// does. Source: "Client-only encodings" in PostgreSQL's manual, chapter 24.3.
const UNSAFE_ENCODINGS: [&str; 10] =
    ["sjis", "shiftjis", "mskanji", "big5", "gb", "uhc", "johab", "win9", "windows9", "cp9"];

/// A value without its quotes and other signs, in lower case.
fn word(value: &Value) -> String {
    let (Value::Text(text) | Value::Expression(text)) = value;
    text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

fn commits(value: Option<&Value>) -> Commits {
    match value.map(word).as_deref() {
        Some("off" | "false" | "no" | "0") => Commits::Asynchronous,
        _ => Commits::Synchronous,
    }
}

fn shares_analysis(name: &str, value: &Value) -> bool {
    match name {
        "standard_conforming_strings" => keeps_proofs(name, value),
        name => !analysis::MEANINGS.contains(&name),
    }
}

/// Whether a server that reports this value of `name` reads texts otherwise than the lexer.
pub fn is_misread(name: &str, value: &str) -> bool {
    ["standard_conforming_strings", "client_encoding"].contains(&name)
        && !keeps_proofs(name, &Value::Text(value.to_owned()))
}

fn keeps_proofs(name: &str, value: &Value) -> bool {
    match name {
        "standard_conforming_strings" => matches!(word(value).as_str(), "on" | "true" | "yes" | "1"),
        "client_encoding" => {
            let encoding = word(value);
            !UNSAFE_ENCODINGS.iter().any(|unsafe_one| encoding.contains(unsafe_one))
        }
        // A hot standby refuses SERIALIZABLE; under REPEATABLE READ and below a single statement reads alike.
        "default_transaction_isolation" => !word(value).contains("serializable"),
        _ => true,
    }
}

/// A new value of `DateStyle` with that half of the one before it which it leaves as it is: `ymd` after `iso` is both.
/// Source: `check_datestyle` in PostgreSQL's `commands/variable.c`.
fn completed_date_style(before: Option<&Value>, new: &str) -> String {
    let halves = |text: &str| {
        let words = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
        words.map(str::to_ascii_lowercase).map(|word| (is_date_order(&word), word)).collect::<Vec<_>>()
    };
    let new_halves = halves(new);
    let names = |order| new_halves.iter().any(|(is_order, _)| *is_order == order);
    let is_plain = !new_halves.iter().any(|(_, word)| word == "default");
    let (Some(Value::Text(before) | Value::Expression(before)), true) = (before, is_plain) else {
        return new.to_owned();
    };
    // GERMAN brings its order along.
    let keeps_order = !names(true) && !new_halves.iter().any(|(_, word)| word == "german");
    let kept = halves(before)
        .into_iter()
        .filter(|(is_order, word)| word != "default" && if *is_order { keeps_order } else { !names(false) });
    let kept: Vec<_> = kept.map(|(_, word)| format!(", '{word}'")).collect();
    format!("{new}{}", kept.concat())
}

fn is_date_order(word: &str) -> bool {
    const BEGINNINGS: [&str; 5] = ["ymd", "dmy", "euro", "mdy", "noneuro"];
    word == "us" || BEGINNINGS.iter().any(|beginning| word.starts_with(beginning))
}

fn is_identity(name: &str) -> bool {
    IDENTITY.contains(&name)
}

fn write_set(sql: &mut String, name: &str, value: &Value) {
    let _ = match value {
        Value::Expression(value) if is_identity(name) => {
            let verb = if name == "role" { "ROLE" } else { "SESSION AUTHORIZATION" };
            write!(sql, "SET {verb} {value};")
        }
        Value::Expression(value) if name == "timezone" => write!(sql, "SET TIME ZONE {value};"),
        Value::Expression(value) => write!(sql, "SET {} TO {value};", quoted_name(name)),
        Value::Text(value) => {
            write!(sql, "SELECT pg_catalog.set_config({},{},false);", literal(name), literal(value))
        }
    };
}

/// A setting's name for SET and RESET: each part of `a.b` quoted.
fn quoted_name(name: &str) -> String {
    let parts: Vec<_> = name.split('.').map(identifier).collect();
    parts.join(".")
}

/// The settings in a startup packet's `options`: `-c name=value`, `-cname=value` and `--name=value`.
///
/// # Errors
/// The word that is none of these.
pub fn startup_options(options: &str) -> Result<Vec<(String, String)>, String> {
    let words = split_options(options);
    let mut words = words.iter().map(String::as_str);
    let mut pairs = Vec::new();
    while let Some(word) = words.next() {
        let assignment = match word {
            "-c" => words.next().ok_or("-c")?,
            _ => word.strip_prefix("--").or(word.strip_prefix("-c")).ok_or(word)?,
        };
        let (name, value) = assignment.split_once('=').ok_or(assignment)?;
        pairs.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(pairs)
}

/// Splits at white space; a backslash takes the next character as it is (`pg_split_opts` in PostgreSQL).
fn split_options(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match character {
            _ if character.is_ascii_whitespace() => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(characters.next()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> SettingChange {
        SettingChange::Set { name: name.into(), value: value.into() }
    }

    #[test]
    fn only_what_differs_is_put_back() {
        let none = Settings::default();
        let a = none.after(&set("datestyle", "'ISO'"), &none).unwrap();
        let ab = a.after(&set("work_mem", "'1MB'"), &none).unwrap();
        assert_eq!(ab.restore_from(&a).unwrap(), "SET \"work_mem\" TO '1MB';");
        assert_eq!(a.restore_from(&ab).unwrap(), "RESET \"work_mem\";");
        assert_eq!(ab.restore_from(&ab.clone()), None);
        assert_eq!(a, none.after(&set("datestyle", "'ISO'"), &none).unwrap(), "equal by value");
    }

    #[test]
    fn settings_that_were_moved_are_the_same() {
        let none = Settings::default();
        let own = none.after(&set("work_mem", "'1MB'"), &none).unwrap();
        own.prove();
        let (place, copy) = (Arc::as_ptr(own.0.as_ref().unwrap()), own.clone());
        let shared = own.relocated();
        assert_eq!(Arc::as_ptr(shared.0.as_ref().unwrap()), place, "somebody else has them");
        let expected = copy.restore_from(&none);
        drop((own, copy));
        let moved = shared.relocated();
        assert_ne!(Arc::as_ptr(moved.0.as_ref().unwrap()), place);
        assert!(moved.0.as_ref().unwrap().proven.load(Ordering::Relaxed));
        assert_eq!((moved.restore_from(&none), none.relocated()), (expected, Settings::default()));
    }

    #[test]
    fn reset_goes_back_to_the_startup_value() {
        let base = Settings::from_startup([("TimeZone".to_owned(), "UTC".to_owned())]);
        let changed = base.after(&set("timezone", "'Asia/Tokyo'"), &base).unwrap();
        assert_eq!(
            changed.after(&SettingChange::Reset { name: "timezone".into() }, &base),
            Some(base.clone())
        );
        assert_eq!(changed.after(&SettingChange::ResetAll, &base), Some(base));
    }

    #[test]
    fn the_login_user_comes_back_before_anything_is_set() {
        let none = Settings::default();
        let role = none.after(&set("role", "'bob'"), &none).unwrap();
        let other = none.after(&set("work_mem", "'1MB'"), &none).unwrap();
        let sql = other.restore_from(&role).unwrap();
        assert_eq!(sql, "RESET SESSION AUTHORIZATION;RESET ROLE;SET \"work_mem\" TO '1MB';");
        let sql = role.restore_from(&other).unwrap();
        assert_eq!(sql, "RESET \"work_mem\";SET ROLE 'bob';");
    }

    #[test]
    fn what_others_are_looked_up_by_comes_first() {
        let none = Settings::default();
        let values = [("default_text_search_config", "'mine'"), ("role", "'bob'"), ("search_path", "'a'")];
        let settings = values
            .into_iter()
            .fold(none.clone(), |settings, (name, value)| settings.after(&set(name, value), &none).unwrap());
        let sql = "SET \"search_path\" TO 'a';SET \"default_text_search_config\" TO 'mine';";
        assert_eq!(settings.restore_from(&none).unwrap(), format!("{sql}SET ROLE 'bob';"));
        assert_eq!(settings.restore_as_role().unwrap(), format!("SET ROLE 'bob';{sql}"));
        assert_eq!(none.restore_as_role(), None);
    }

    #[test]
    fn only_what_no_server_refuses_needs_no_waiting_for() {
        assert!(PLAIN.is_sorted());
        let none = Settings::default();
        let with = |before: &Settings, name, value| before.after(&set(name, value), &none).unwrap();
        let plain = with(&with(&none, "work_mem", "'1MB'"), "statement_timeout", "5000");
        assert!(!plain.are_sure_behind(&none), "no server has taken it yet");
        plain.prove();
        let renamed = with(&none, "application_name", "'a'");
        assert!(plain.are_sure_behind(&none) && plain.are_sure_behind(&renamed));
        assert!(none.are_sure_behind(&plain) && none.are_sure_behind(&none));
        for (name, value) in [
            ("session_replication_role", "'replica'"),
            ("default_text_search_config", "'mine'"),
            ("role", "'bob'"),
            ("app.tenant", "'7'"),
            ("statement_timeout", "1"),
            ("default_transaction_isolation", "'serializable'"),
            ("application_name", "'\u{e9}'"),
        ] {
            let (other, both) = (with(&none, name, value), with(&plain, name, value));
            [&other, &both].into_iter().for_each(Settings::prove);
            assert!(!plain.are_sure_behind(&other) && !other.are_sure_behind(&plain), "{name}");
            assert!(!none.are_sure_behind(&other), "{name}");
            assert!(!both.are_sure_behind(&plain), "{name}");
            assert!(both.are_sure_behind(&other), "what is alike stays: {name}");
        }
    }

    #[test]
    fn half_a_date_style_keeps_the_other_half() {
        let base = Settings::from_startup([("DateStyle".to_owned(), "Postgres, MDY".to_owned())]);
        let style = |values: &[&str]| {
            let settings = values.iter().fold(base.clone(), |settings, value| {
                settings.after(&set("datestyle", value), &base).unwrap()
            });
            settings.restore_from(&Settings::default()).unwrap()
        };
        assert_eq!(style(&["'iso'"]), "SET \"datestyle\" TO 'iso', 'mdy';");
        assert_eq!(style(&["'iso'", "'ymd'"]), "SET \"datestyle\" TO 'ymd', 'iso';");
        assert_eq!(style(&["'ISO, YMD'", "'SQL', 'DMY'"]), "SET \"datestyle\" TO 'SQL', 'DMY';");
        assert_eq!(style(&["'german'"]), "SET \"datestyle\" TO 'german';");
        assert_eq!(style(&["'iso'", "'default'"]), "SET \"datestyle\" TO 'default';");
        let half = Settings::from_startup([("datestyle".to_owned(), "ISO".to_owned())]);
        let sql = half.restore_from(&base).unwrap();
        assert_eq!(sql, "RESET \"datestyle\";SELECT pg_catalog.set_config('datestyle','ISO',false);");
    }

    #[test]
    fn a_new_session_user_has_no_role() {
        let none = Settings::default();
        let user = none.after(&set("session_authorization", "'bob'"), &none).unwrap();
        let role = user.after(&set("role", "'eve'"), &none).unwrap();
        assert_eq!(role.after(&set("session_authorization", "'bob'"), &none).unwrap(), user);
        let reset = SettingChange::Reset { name: "session_authorization".into() };
        assert_eq!(role.after(&reset, &none).unwrap(), none);
    }

    #[test]
    fn startup_values_are_parsed_by_the_setting_itself() {
        let base = Settings::from_startup([("search_path".to_owned(), "a, \"B\\".to_owned())]);
        let sql = base.restore_from(&Settings::default()).unwrap();
        assert_eq!(sql, "SELECT pg_catalog.set_config('search_path',E'a, \"B\\\\',false);");
    }

    #[test]
    fn some_settings_make_a_text_mean_something_else() {
        let none = Settings::default();
        let holds = |name, value| none.after(&set(name, value), &none).unwrap().proofs_hold();
        assert!(
            none.proofs_hold() && holds("client_encoding", "'UTF8'") && holds("client_encoding", "LATIN1")
        );
        assert!(holds("standard_conforming_strings", "on") && holds("work_mem", "'1MB'"));
        for encoding in ["'SJIS'", "Shift_JIS_2004", "'BIG5'", "gb18030", "'GBK'", "'uhc'", "johab", "WIN936"]
        {
            assert!(!holds("client_encoding", encoding), "{encoding}");
        }
        assert!(!holds("standard_conforming_strings", "off"));
        assert!(!holds("default_transaction_isolation", "'serializable'"));
    }

    #[test]
    fn options_are_split_as_postgresql_does() {
        let pairs = startup_options(r"-c geqo=off --work-mem=1MB -csearch_path=a\ b").unwrap();
        let expected = [("geqo", "off"), ("work_mem", "1MB"), ("search_path", "a b")];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(startup_options("-x").is_err() && startup_options("-c").is_err());
    }
}
