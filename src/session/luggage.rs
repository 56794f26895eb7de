//! What of a conversation goes along when its client is handed to another process. Pure.
//!
//! Only a client at rest can be: no server connection, no transaction, nothing that pins, no channel that it listens to. What
//! it has seen is an instant of this process, which says nothing to another; there, all is bounded by a position that is asked
//! for after it has arrived.

use super::*;
use crate::prepared::Named;
use serde::{Deserialize, Serialize};

/// The form of what is packed. Raised whenever that changes: processes of different forms hand each other no clients.
pub const FORM: u32 = 2;

/// What stands around one statement, as a part of [`Session::luggage_length`].
const FRAME: usize = 8;

/// What stands around the rest: twice [`settings::MAX_SETTINGS`] settings at most, and what the client has chosen itself.
const FORMS: usize = 16 * 1024;

/// One client's luggage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Luggage {
    base: settings::Packed,
    settings: settings::Packed,
    own: own::Packed,
    /// Whether it has seen or written anything.
    has_seen: bool,
    statements: Vec<Statement>,
    /// What SQL PREPARE made: names and texts.
    sql_statements: Vec<(String, Text)>,
}

/// A prepared statement; the unnamed one has no name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Statement {
    name: Text,
    text: Text,
    types: Text,
}

/// Bytes of whatever encoding: each is the character of its number.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Text(String);

impl Text {
    /// The most bytes that one becomes when it is written as JSON: a control character is `\u0007`.
    pub const GROWTH: usize = 6;

    /// These bytes.
    pub fn of(bytes: &[u8]) -> Text {
        Text(bytes.iter().copied().map(char::from).collect())
    }

    /// The bytes; what is none is left out.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.chars().filter_map(|letter| u8::try_from(letter).ok()).collect()
    }
}

impl Session {
    /// Whether the client can be handed to another process now, if it holds no server connection.
    pub fn is_portable(&self) -> bool {
        self.is_between_requests()
            && self.deferred.is_none()
            && self.tenure.pins.is_empty()
            && self.tenure.hidden.is_none()
            && self.channels.is_empty()
            && !self.is_muted()
    }

    /// What stands against that beyond the request that is under way.
    pub fn keeps_it_here(&self) -> Option<&'static str> {
        if self.mode == PoolMode::Session {
            return Some("session mode");
        }
        let pin = self.tenure.pins.reasons().next().map(|reason| reason.label);
        pin.or((!self.channels.is_empty()).then_some("it listens"))
    }

    /// How long the luggage is, in bytes: written as JSON, it is at most [`Text::GROWTH`] times as long. That is not counted
    /// exactly because who waits for a connection is asked again and again.
    pub fn luggage_length(&self) -> usize {
        let statements = self.statements.iter().flat_map(|statements| statements.all());
        let statements = statements
            .map(|(name, Named { prepared, .. })| name.len() + prepared.text.len() + prepared.types.len());
        let nothing = SqlStatements::default();
        let sql_statements = self.sql_statements.beyond(&nothing);
        let sql_statements = sql_statements.map(|(name, text)| name.len() + text.len());
        let values: usize = statements.chain(sql_statements).map(|length| length + FRAME).sum();
        FORMS + values + self.base.length() + self.settings.length()
    }

    /// What goes along. The client is portable.
    pub fn pack(&self) -> Luggage {
        let named = self.statements.iter().flat_map(|statements| statements.all());
        let statement = |(name, named): (&[u8], &Named)| Statement {
            name: Text::of(name),
            text: Text::of(&named.prepared.text),
            types: Text::of(&named.prepared.types),
        };
        let nothing = SqlStatements::default();
        let sql_statements = self.sql_statements.beyond(&nothing);
        Luggage {
            base: self.base.pack(),
            settings: self.settings.pack(),
            own: self.own.pack(),
            has_seen: self.own.shared().is_some() || self.history != History::default(),
            statements: named.map(statement).collect(),
            sql_statements: sql_statements.map(|(name, text)| (name.clone(), Text::of(text))).collect(),
        }
    }

    /// The conversation of a client that was handed to us.
    pub fn unpack(
        luggage: Luggage,
        mode: PoolMode,
        level: Consistency,
        registry: &mut Registry,
        generation: u64,
        now: Instant,
    ) -> Session {
        let Luggage { base, settings, own, has_seen, statements, sql_statements } = luggage;
        let mut session = Session::new(mode, Settings::unpack(base), Own::unpack(own));
        session.settings = Settings::unpack(settings);
        if has_seen {
            session.history.agree(session.own.consistency().unwrap_or(level), now);
            session.history.lost_track(now);
        }
        for Statement { name, text, types } in statements {
            let prepared =
                registry.intern(&text.bytes(), &types.bytes(), generation, session.settings.analysis());
            let named = Named { prepared, statement: unclassified(), version: u64::MAX };
            session.statements.get_or_insert_default().insert(&name.bytes(), named);
        }
        session.settle_naming();
        for (name, text) in sql_statements {
            // Nobody has looked into it here.
            session.executes = Effects::UNKNOWN;
            session.sql_statements.insert(name, text.bytes().into());
        }
        session
    }
}

/// Of a text that is classified when it is used: no version is its own.
fn unclassified() -> Arc<crate::sql::Statement> {
    Arc::new(crate::sql::Statement {
        access: Access::Unsure,
        reason: Reason::Unrecognised,
        token: Box::default(),
        transaction: None,
        effects: Effects::NONE,
        statements: 1,
        keyed: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::effect::SettingChange;

    #[test]
    fn what_is_packed_is_what_is_unpacked() {
        let mut registry = Registry::new(10, [1; 16]);
        let base = Settings::from_startup([("timezone".to_owned(), "UTC".to_owned())]);
        let own = Own::from_startup([
            ("pglagoon.consistency", "strong"),
            ("pglagoon.max_staleness", "5s"),
            ("pglagoon.route", "primary"),
        ]);
        let mut session =
            Session::new(PoolMode::Transaction, base.clone(), own.unwrap().in_scope(Some("user x".into())));
        let change = SettingChange::Set { name: "work_mem".into(), value: "'1MB'".into() };
        session.settings = base.after(&change, &base).unwrap();
        for (name, text) in [(&b"s\xff1"[..], &b"SELECT '\xe4'"[..]), (b"", b"SELECT 2")] {
            let prepared = registry.intern(text, b"\0\x01\0\0\0\x17", 0, 0);
            let named = Named { prepared, statement: unclassified(), version: 0 };
            session.statements.get_or_insert_default().insert(name, named);
        }
        session.sql_statements.insert("p".into(), b"PREPARE p AS SELECT 1".as_slice().into());
        let now = Instant::now();
        session.history.agree(Consistency::Strong, now);
        session.history.used(Role::Replica, 2, now);
        assert!(session.is_portable());

        let text = serde_json::to_string(&session.pack()).unwrap();
        let luggage: Luggage = serde_json::from_str(&text).unwrap();
        let arrived = Session::unpack(
            luggage.clone(),
            PoolMode::Transaction,
            Consistency::Session,
            &mut registry,
            3,
            now,
        );
        assert_eq!(arrived.pack(), luggage);
        assert_eq!((&arrived.settings, &arrived.base), (&session.settings, &base));
        assert_eq!(arrived.own.consistency(), Some(Consistency::Strong));
        assert_eq!(arrived.own.wish(), session.own.wish());
        assert_eq!(arrived.shown(), None, "no place in another process's list of servers");
        assert_eq!(arrived.history.on_primary(), Some(now));
        let statements = arrived.statements.as_ref().unwrap();
        let found = statements.find(b"s\xff1").unwrap();
        assert_eq!(&*found.prepared.text, b"SELECT '\xe4'");
        assert_eq!(&*found.prepared.types, b"\0\x01\0\0\0\x17");
        assert!(statements.find(b"").is_some() && statements.len() == 1);
    }

    #[test]
    fn luggage_grows_by_no_more_than_is_said() {
        let mut registry = Registry::new(10, [1; 16]);
        let mut session = Session::new(PoolMode::Transaction, Settings::default(), Own::default());
        let assert_bounded = |session: &Session| {
            let packed = serde_json::to_vec(&session.pack()).unwrap().len();
            let bound = session.luggage_length() * Text::GROWTH;
            assert!(packed <= bound, "{packed} bytes, not {bound}");
        };
        assert_bounded(&session);
        let mut name = |session: &mut Session, name: &[u8], text: &[u8]| {
            let named = Named {
                prepared: registry.intern(text, &[0; 8], 0, 0),
                statement: unclassified(),
                version: 0,
            };
            session.statements.get_or_insert_default().insert(name, named);
        };
        for number in 0..5_000_u32 {
            name(&mut session, &number.to_be_bytes(), b"");
        }
        assert_bounded(&session);
        name(&mut session, b"", &[1; 200_000]);
        assert_bounded(&session);
    }
}
