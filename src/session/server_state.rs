//! What one server connection has at the moment, as far as a session must know: plain data, carried by the connection.

use super::settings::Settings;
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
        }
    }

    /// A ParameterStatus arrived.
    pub fn report(&mut self, name: &str, value: &str) {
        match self.parameters.iter_mut().find(|(key, _)| **key == *name) {
            Some((_, old)) if **old == *value => {}
            Some((_, old)) => *old = value.into(),
            None => self.parameters.push((name.into(), value.into())),
        }
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
