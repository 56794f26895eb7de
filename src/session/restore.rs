//! Ahead of a client's request: what makes the server connection that it was given the client's own.

use super::replies::Leftover;
use super::*;
use crate::sql::quote::identifier;

impl Session {
    /// Ahead of a client's first request on a connection, which begins here: what it takes to make the connection's settings
    /// the client's.
    pub(super) fn restore_settings(&mut self, held: &mut Held<'_>, edits: &mut Edits) -> Option<Want> {
        let is_aborted = self.transaction.status() == TransactionStatus::Failed;
        if is_aborted || !self.replies.is_empty() {
            return None;
        }
        if self.tenure.restoring == Restoring::Refused {
            return Some(self.restore_anew(held, edits));
        }
        self.take_sql_statements_away(held, edits);
        let before = &held.state.settings;
        let Some(sql) = self.settings.restore_from(before) else {
            self.restore_sql_statements(held, edits);
            return None;
        };
        let is_sure = self.settings.are_sure_behind(before);
        let chance = self.chance(before);
        self.put_on(&sql, held, edits);
        if is_sure {
            self.tenure.restoring = Restoring::Sent;
            self.restore_sql_statements(held, edits);
            return None;
        }
        // Who runs the request must be settled before it runs, whatever that costs; and what may be refused would have it
        // run under another client's settings.
        Some(self.hold(chance))
    }

    /// The server refused the settings: once more, on a connection that has nothing of anybody's.
    fn restore_anew(&mut self, held: &mut Held<'_>, edits: &mut Edits) -> Want {
        held.state.discarded();
        edits.insert(|out| frontend::write_query(out, b"DISCARD ALL"));
        self.replies.push(Request::Query, Action::Swallow, Some(Then::Emptied));
        // An empty one tells as well that the connection is ready.
        let sql = self.settings.restore_as_role().unwrap_or_default();
        self.put_on(&sql, held, edits);
        self.hold(Chance::Last)
    }

    fn put_on(&mut self, sql: &str, held: &mut Held<'_>, edits: &mut Edits) {
        edits.insert(|out| frontend::write_query(out, sql.as_bytes()));
        self.replies.push(Request::Query, Action::Swallow, None);
        held.state.settings = self.settings.clone();
        held.state.statements.set_unnamed(None);
    }

    fn hold(&mut self, chance: Chance) -> Want {
        self.tenure.restoring = Restoring::Held(chance);
        self.tenure.routed = true;
        Want::Input
    }

    /// Whether a connection with these settings can be made neutral, and whether that would help.
    fn chance(&self, before: &Settings) -> Chance {
        let is_in_block = self.transaction.is_open() && self.deferred.is_none();
        let is_own = is_in_block || !self.tenure.pins.is_empty() || self.mode == PoolMode::Session;
        let may_help = !before.is_neutral() || self.settings.change_identity();
        if may_help && !is_own { Chance::First } else { Chance::Last }
    }

    /// Takes another client's SQL-level prepared statements from the connection.
    fn take_sql_statements_away(&mut self, held: &mut Held<'_>, edits: &mut Edits) {
        if held.state.sql_statements.is_empty() {
            return;
        }
        let none = SqlStatements::default();
        let staying = if self.is_renewing() { &none } else { &self.sql_statements };
        let leaving = held.state.sql_statements.beyond(staying);
        for (name, text) in leaving.map(|(name, text)| (name.clone(), text.clone())).collect::<Vec<_>>() {
            let sql = format!("DEALLOCATE {}", identifier(&name));
            held.state.sql_statements.remove(&name);
            self.clear(&sql, Leftover::Prepared(name, text), held, edits);
        }
    }

    /// Puts the client's own there, under its settings: those say what their names mean.
    fn restore_sql_statements(&mut self, held: &mut Held<'_>, edits: &mut Edits) {
        if self.sql_statements.is_empty() {
            return;
        }
        for (name, text) in self.sql_statements.beyond(&held.state.sql_statements) {
            self.replies.push(Request::Query, Action::Swallow, Some(Then::PreparedAgain(name.clone())));
            edits.insert(|out| frontend::write_query(out, text));
            held.state.statements.set_unnamed(None);
        }
        held.state.sql_statements = self.sql_statements.clone();
    }

    /// Ahead of a request that asks what its session drew from sequences: what somebody else drew on this connection is
    /// forgotten, so that it is never taken for the client's own.
    pub(super) fn forget_foreign_sequences(
        &mut self,
        held: &mut Held<'_>,
        world: &World<'_>,
        edits: &mut Edits,
    ) {
        let Some(owner) = held.state.sequences_of.filter(|owner| *owner != world.client) else { return };
        let asks = self.head.as_ref().is_some_and(|head| head.statement().effects.any(Effects::SEQUENCE));
        let is_settled = self.batch == Batch::Idle && self.transaction.status() != TransactionStatus::Failed;
        if is_settled && (asks || world.sequences != Sequences::Unused) {
            held.state.sequences_of = None;
            self.clear("DISCARD SEQUENCES", Leftover::Sequences(owner), held, edits);
        }
    }

    /// Has the server forget what somebody else has left there.
    pub(super) fn clear(&mut self, sql: &str, leftover: Leftover, held: &mut Held<'_>, edits: &mut Edits) {
        held.state.statements.set_unnamed(None);
        edits.insert(|out| frontend::write_query(out, sql.as_bytes()));
        self.replies.push(Request::Query, Action::Swallow, Some(Then::Cleared(leftover)));
    }

    /// Asks the server what is in doubt, if nothing is under way.
    pub(super) fn ask(&mut self, held: &mut Held<'_>, edits: &mut Edits) {
        if !self.has_questions() {
            return;
        }
        self.close_strays(edits);
        let names = self.tenure.hidden.take().map(|names| names.into_iter().collect());
        let pins = std::mem::take(&mut self.tenure.doubts_pins).then(|| self.tenure.pins.checkable());
        self.tenure.fresh_pins = Pins::default();
        let questions =
            [names.map(Question::Settings), pins.filter(|pins| !pins.is_empty()).map(Question::State)];
        for question in questions.into_iter().flatten() {
            held.state.statements.set_unnamed(None);
            edits.insert(|out| frontend::write_query(out, question.sql().as_bytes()));
            self.replies.push(Request::Query, Action::Swallow, Some(Then::Asked(question)));
        }
    }
}
