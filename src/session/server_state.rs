//! What one server connection has at the moment, as far as a session must know: plain data, carried by the connection.

use super::settings::{self, Settings};
use super::sql_statements::SqlStatements;
use crate::prepared::ServerStatements;
use crate::sql::effect::Isolation;

/// The session's side of a server connection.
#[derive(Debug)]
pub struct ServerState {
    /// The prepared statements that it holds.
    pub statements: ServerStatements,
    /// The settings that differ from a fresh login's.
    pub settings: Settings,
    /// What SQL PREPARE made, by name.
    pub sql_statements: SqlStatements,
    /// Who may have drawn from sequences on it: `currval` and `lastval` are that client's alone.
    pub sequences_of: Option<u64>,
    /// What a BEGIN begins that names no level; `None`: it was not asked.
    pub isolation: Option<Isolation>,
    /// What it has reported by ParameterStatus, latest value by name.
    pub parameters: Vec<(Box<str>, Box<str>)>,
    /// It has reported at its login that it reads texts otherwise than the lexer.
    was_misread: bool,
    /// By what it has reported last, it does.
    is_misread: bool,
}

impl ServerState {
    /// A fresh login with room for `statements` prepared statements.
    pub fn new(statements: usize) -> Self {
        ServerState {
            statements: ServerStatements::new(statements),
            settings: Settings::default(),
            sql_statements: SqlStatements::default(),
            sequences_of: None,
            isolation: None,
            parameters: Vec::new(),
            was_misread: false,
            is_misread: false,
        }
    }

    /// A ParameterStatus arrived.
    pub fn report(&mut self, name: &str, value: &str) {
        match self.parameters.iter_mut().find(|(key, _)| **key == *name) {
            Some((_, old)) if **old == *value => {}
            Some((_, old)) => {
                *old = value.into();
                self.is_misread =
                    self.parameters.iter().any(|(name, value)| settings::is_misread(name, value));
            }
            None => {
                self.parameters.push((name.into(), value.into()));
                self.was_misread |= settings::is_misread(name, value);
                self.is_misread |= self.was_misread;
            }
        }
    }

    /// Whether it reads texts otherwise than the lexer though no client has said so: its user, its database or its
    /// configuration has such a default.
    pub fn misreads_by_default(&self) -> bool {
        self.was_misread || (self.is_misread && self.settings.proofs_hold())
    }

    /// The latest reported value of `name`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| **key == *name).map(|(_, value)| &**value)
    }

    /// DISCARD ALL ran: settings, statements and everything else of the session are as after a login.
    pub fn discarded(&mut self) {
        self.statements.clear();
        self.settings = Settings::default();
        self.sql_statements.clear();
        self.sequences_of = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_is_told_from_what_a_client_has_set() {
        let scs = "standard_conforming_strings";
        let mut plain = ServerState::new(1);
        plain.report(scs, "on");
        plain.report("client_encoding", "UTF8");
        assert!(!plain.misreads_by_default());
        plain.settings = Settings::from_startup([(scs.to_owned(), "off".to_owned())]);
        plain.report(scs, "off");
        assert!(!plain.misreads_by_default(), "a client's own");
        plain.settings = Settings::default();
        assert!(plain.misreads_by_default(), "the configuration was reloaded");
        plain.report(scs, "on");
        assert!(!plain.misreads_by_default());
        for (name, value) in [(scs, "off"), ("client_encoding", "SJIS")] {
            let mut other = ServerState::new(1);
            other.report(name, value);
            assert!(other.misreads_by_default(), "{name}");
            other.report(name, "on");
            assert!(other.misreads_by_default(), "what it is after a RESET: {name}");
        }
    }
}
