//! For whom a statement is good that a server has analysed.
//!
//! PostgreSQL reads a text's strings, and settles its parameters' types, once: under the settings and with the names that hold
//! at that time. So a statement is shared by those clients whose settings agree in what has a part in that. Where a
//! transaction may have changed names or settings in a way that others do not see, and where a text names an instant or runs a
//! statement by name, the statement is its client's own.
//!
//! What a client has prepared keeps the analysis of its Parse on the connection where that was done. On another one it is
//! analysed again, by what holds then.

use super::*;
use crate::prepared::Analysis;
use crate::session::settings::Value;
use sha2::{Digest, Sha256};

/// Settings that have a part in what names and signs mean. PostgreSQL looks names up again when `search_path` or who runs it
/// changes, but with the parameters' types of the first time.
pub(super) const MEANINGS: [&str; 7] = [
    "array_nulls",
    "backslash_quote",
    "role",
    "search_path",
    "session_authorization",
    "transform_null_equals",
    "xmloption",
];

/// Settings that have a part in how strings are read.
const STRINGS: [&str; 7] = [
    "client_encoding",
    "datestyle",
    "intervalstyle",
    "lc_monetary",
    "standard_conforming_strings",
    "timezone",
    "timezone_abbreviations",
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

/// Settings that have a part in the analysis.
fn all() -> impl Iterator<Item = &'static str> {
    MEANINGS.iter().chain(&STRINGS).copied()
}

/// What clients have in common that share statements; 0 if all of it is as after a login.
pub(super) fn digest<'a>(values: impl Iterator<Item = (&'a String, &'a Value)>) -> u128 {
    let mut values = values.filter(|(name, _)| all().any(|one| one == *name)).peekable();
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
    let is_ours = |word: &[u8]| all().chain(ALIASES).any(|name| word.eq_ignore_ascii_case(name.as_bytes()));
    let mut words = text.split(|byte| !byte.is_ascii_alphabetic() && *byte != b'_');
    effects.any(Effects::DISCARD_ALL)
        || text.contains(&b'\\')
        || words.any(is_ours)
        || (effects.any(Effects::SET_CONFIG) && effect::set_configs(text).is_none())
}

impl Session {
    fn reading(&self) -> Reading {
        if self.tenure.pins.change_meanings() { Reading::Apart } else { self.reading }
    }

    /// Nothing of a transaction's holds any longer, unless the server has yet to be asked what does.
    pub(super) fn may_read_as_others(&mut self) {
        if self.replies.is_empty() && self.tenure.hidden.is_none() && !self.transaction.is_open() {
            self.reading = Reading::Common;
        }
    }

    /// Makes what a Parse prepares the client's own if a server may make something else of it than for others.
    pub(super) fn set_apart(&self, prepared: &mut Arc<Prepared>, world: &mut World<'_>) {
        if prepared.is_fleeting || self.reading() == Reading::Apart {
            // DDL counts when its transaction is over.
            let generation = world.generation + u64::from(self.ddl);
            *prepared = world.registry.apart(prepared, Analysis::Own, world.client, generation);
        }
    }

    /// The statement of this name for the server that is held. What is not there will be analysed there by what holds now.
    pub(super) fn find_for(&mut self, name: &[u8], held: &Held<'_>, world: &mut World<'_>) -> Option<Named> {
        let reading = self.reading();
        let settings = self.settings.analysis();
        let named = self.find(name, world)?;
        let analysis = named.prepared.analysis;
        let is_common =
            reading == Reading::Common && matches!(analysis, Analysis::Shared(id) if id == settings);
        if is_common && !named.prepared.is_fleeting {
            return Some(named.clone());
        }
        let (named, stands_in) = (named.clone(), name.is_empty() && self.replies.has_kept());
        if stands_in || self.naming == Naming::Own {
            return Some(named);
        }
        Some(self.analysed_anew(name, named, held, world))
    }

    /// The same for a statement that others may not share, or that was analysed under other settings.
    #[cold]
    fn analysed_anew(
        &mut self,
        name: &[u8],
        mut named: Named,
        held: &Held<'_>,
        world: &mut World<'_>,
    ) -> Named {
        let reading = self.reading();
        let Prepared { id, analysis, is_fleeting, generation, .. } = *named.prepared;
        let is_there = held.state.statements.holds(id, name);
        let stays = match analysis {
            Analysis::Shared(_) => is_there && !is_fleeting,
            Analysis::Own => is_there || (is_fleeting && reading == Reading::Common),
            Analysis::Passing => is_there && reading == Reading::Apart,
        };
        if stays {
            return named;
        }
        let own = match reading {
            Reading::Apart => Some(Analysis::Passing),
            Reading::Common => is_fleeting.then_some(Analysis::Own),
        };
        named.prepared = match own {
            Some(analysis) => world.registry.apart(&named.prepared, analysis, world.client, generation),
            None => {
                let Prepared { text, types, .. } = &*named.prepared;
                world.registry.intern(text, types, generation, self.settings.analysis())
            }
        };
        if let Some(known) = self.statements.as_mut().and_then(|statements| statements.find_mut(name)) {
            known.prepared = named.prepared.clone();
        }
        named
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
