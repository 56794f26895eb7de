//! The only copy of the transaction state in the program.

use super::settings::Settings;
use crate::wire::backend::TransactionStatus;
use std::time::Instant;

/// Where a client stands, as the server's last ReadyForQuery said.
#[derive(Debug)]
pub(super) struct Transaction {
    status: TransactionStatus,
    /// When its first request was seen; `None` while nothing is going on.
    began: Option<Instant>,
    /// The client's and the server's settings from before it, once one has changed inside: ROLLBACK goes back to them.
    settings_before: Option<(Settings, Settings)>,
}

impl Default for Transaction {
    fn default() -> Self {
        Transaction { status: TransactionStatus::Idle, began: None, settings_before: None }
    }
}

impl Transaction {
    pub fn is_open(&self) -> bool {
        self.status != TransactionStatus::Idle
    }

    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// A request is about to be sent.
    pub fn request(&mut self, now: Instant) {
        self.began.get_or_insert(now);
    }

    /// ReadyForQuery arrived. Answers when the transaction began if it is over.
    pub fn ready(&mut self, status: TransactionStatus) -> Option<Instant> {
        self.status = status;
        match status {
            TransactionStatus::Idle => {
                self.settings_before = None;
                self.began.take()
            }
            TransactionStatus::InTransaction | TransactionStatus::Failed => None,
        }
    }

    /// A setting changes inside; `own` and `server` are the settings before that change.
    pub fn settings_change(&mut self, own: &Settings, server: &Settings) {
        self.settings_before.get_or_insert_with(|| (own.clone(), server.clone()));
    }

    /// ROLLBACK ended it: the client's and the server's settings to go back to, if any changed.
    pub fn rolled_back(&mut self) -> Option<(Settings, Settings)> {
        self.settings_before.take()
    }

    /// COMMIT AND CHAIN: what has changed stays.
    pub fn keep_settings(&mut self) {
        self.settings_before = None;
    }

    /// The names of the settings that were set before a change inside.
    pub fn names_before(&self) -> impl Iterator<Item = &String> {
        self.settings_before.iter().flat_map(|(own, server)| own.names().chain(server.names()))
    }

    /// Whether a setting has changed inside.
    pub fn has_changed_settings(&self) -> bool {
        self.settings_before.is_some()
    }
}
