//! For whom a statement is good that a server has analysed.
//!
//! PostgreSQL reads a text's strings, and settles its parameters' types, once: under the settings and with the names that hold
//! at that time. So a statement is shared by those clients whose settings agree in what has a part in that. Where a
//! transaction may have changed names or settings in a way that others do not see, and where a text names an instant, the
//! statement is its client's own.
//!
//! What a client has prepared keeps the analysis of its Parse on the connection where that was done. On another one it is
//! analysed again, by what holds then.

use super::*;
use crate::prepared::Analysis;
use crate::session::settings::Value;
use sha2::{Digest, Sha256};

/// Settings that have a part in the analysis: in what names mean, or in how strings are read.
const SETTINGS: [&str; 14] = [
    "array_nulls",
    "backslash_quote",
    "client_encoding",
    "datestyle",
    "intervalstyle",
    "lc_monetary",
    "role",
    "search_path",
    "session_authorization",
    "standard_conforming_strings",
    "timezone",
    "timezone_abbreviations",
    "transform_null_equals",
    "xmloption",
];

/// What else stands for them in a SET or RESET.
const ALIASES: [&str; 6] = ["all", "authorization", "names", "option", "schema", "zone"];

/// What changes names, or settings that the text does not name.
const ANYTHING: Effects =
    Effects::DDL.with(Effects::TEMPORARY).with(Effects::HIDDEN_SETTINGS).with(Effects::UNKNOWN);

/// What changes settings that the text names.
const NAMED: Effects =
    Effects::SETTINGS.with(Effects::LOCAL_SETTINGS).with(Effects::SET_CONFIG).with(Effects::DISCARD_ALL);

/// How a server reads texts in the transaction that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// As for everybody with the client's settings.
    Common,
    /// Perhaps by names and settings that nobody else has.
    Apart,
}

/// What clients have in common that share statements; 0 if all of it is as after a login.
pub(super) fn digest<'a>(values: impl Iterator<Item = (&'a String, &'a Value)>) -> u128 {
    let mut values = values.filter(|(name, _)| SETTINGS.contains(&name.as_str())).peekable();
    if values.peek().is_none() {
        return 0;
    }
    let mut hasher = Sha256::new();
    for (name, value) in values {
        let (form, Value::Text(text) | Value::Expression(text)) =
            (if matches!(value, Value::Text(_)) { b"=" } else { b":" }, value);
        hasher.update(name);
        hasher.update(form);
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    hasher.finalize().first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes))
}

/// Whether a text that leaves this behind may change how those behind it are read.
pub(super) fn changes_reading<'t>(effects: Effects, text: impl Fn() -> &'t [u8]) -> bool {
    effects.any(ANYTHING) || (effects.any(NAMED) && names_setting(effects, text()))
}

/// Whether the name of such a setting may stand in a text. A word too many costs a Parse.
fn names_setting(effects: Effects, text: &[u8]) -> bool {
    let is_ours =
        |word: &[u8]| SETTINGS.iter().chain(&ALIASES).any(|name| word.eq_ignore_ascii_case(name.as_bytes()));
    let mut words = text.split(|byte| !byte.is_ascii_alphabetic() && *byte != b'_');
    effects.any(Effects::DISCARD_ALL)
        || text.contains(&b'\\')
        || words.any(is_ours)
        || (effects.any(Effects::SET_CONFIG) && effect::set_configs(text).is_none())
}

impl Session {
    fn reading(&self) -> Reading {
        let hides = Pins::of(Effects::TEMPORARY.with(Effects::HIDDEN_SETTINGS));
        if self.reading == Reading::Common && self.pins.without(hides) == self.pins {
            Reading::Common
        } else {
            Reading::Apart
        }
    }

    /// Nothing of a transaction's holds any longer, unless the server has yet to be asked what does.
    pub(super) fn may_read_as_others(&mut self) {
        if self.replies.is_empty() && self.hidden.is_none() && !self.transaction.is_open() {
            self.reading = Reading::Common;
        }
    }

    /// What a Parse prepares, as the client's own if a server may make something else of it than for others.
    pub(super) fn set_apart(&self, mut named: Named, world: &mut World<'_>) -> Named {
        if self.reading() == Reading::Apart || named.prepared.names_instant {
            // DDL counts when its transaction is over.
            let generation = world.generation + u64::from(self.ddl);
            named.prepared = world.registry.apart(&named.prepared, Analysis::Own, world.client, generation);
        }
        named
    }

    /// The statement of this name for the server that is held. What is not there will be analysed there by what holds now.
    pub(super) fn find_for(&mut self, name: &[u8], held: &Held<'_>, world: &mut World<'_>) -> Option<Named> {
        let mut named = self.find(name, world)?.clone();
        let settings = self.settings.analysis();
        let reading = self.reading();
        let Prepared { analysis, names_instant, .. } = *named.prepared;
        let is_common = analysis == Analysis::Shared(settings) && reading == Reading::Common;
        let is_kept = name.is_empty() && self.replies.has_kept();
        if (is_common && !names_instant) || is_kept || self.mode == PoolMode::Session {
            return Some(named);
        }
        let is_there = held.state.statements.holds(named.prepared.id, name);
        let stays = match analysis {
            Analysis::Shared(_) => is_there && !names_instant,
            Analysis::Own => is_there || (names_instant && reading == Reading::Common),
            Analysis::Passing => is_there && reading == Reading::Apart,
        };
        if !stays {
            let Prepared { text, types, generation, .. } = &*named.prepared;
            let mut apart =
                |analysis| world.registry.apart(&named.prepared, analysis, world.client, *generation);
            let prepared = match reading {
                Reading::Apart => apart(Analysis::Passing),
                Reading::Common if names_instant => apart(Analysis::Own),
                Reading::Common => world.registry.intern(text, types, *generation, settings),
            };
            named.prepared = prepared;
            if let Some(known) = self.statements.as_mut().and_then(|statements| statements.find_mut(name)) {
                known.prepared = named.prepared.clone();
            }
        }
        Some(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_have_a_part_make_groups() {
        let settings = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            Settings::from_startup(pairs).analysis()
        };
        assert_eq!(settings(&[]), 0);
        assert_eq!(settings(&[("application_name", "a"), ("work_mem", "1MB")]), 0);
        let utc = settings(&[("TimeZone", "UTC")]);
        assert_eq!(utc, settings(&[("timezone", "UTC"), ("work_mem", "1MB")]));
        for others in [("TimeZone", "Asia/Tokyo"), ("DateStyle", "UTC"), ("search_path", "UTC")] {
            assert_ne!(settings(&[others]), utc);
            assert_ne!(settings(&[others]), 0);
        }
    }

    #[test]
    fn what_changes_how_texts_are_read() {
        let changes = |effects, text: &'static str| changes_reading(effects, || text.as_bytes());
        let local = Effects::LOCAL_SETTINGS;
        assert!(changes(local, "SET LOCAL search_path = a") && changes(local, "set local time zone 'UTC'"));
        assert!(changes(Effects::SETTINGS, "RESET ALL") && changes(Effects::DISCARD_ALL, "DISCARD ALL"));
        assert!(changes(Effects::SET_CONFIG, "SELECT set_config('TimeZone', 'UTC', true)"));
        assert!(changes(Effects::SET_CONFIG, "SELECT set_config($1, 'UTC', true)"));
        assert!(changes(Effects::DDL, "ALTER TABLE t ADD c int"));
        assert!(!changes(Effects::SET_CONFIG, "SELECT set_config('app.tenant', $1, true)"));
        assert!(!changes(local, "SET LOCAL work_mem = '1MB'") && !changes(Effects::NONE, "SELECT 1"));
    }
}
