//! What a server's messages mean: which answer they belong to, and what comes of it for the client's state.

use super::own::End;
use super::replies::Leftover;
use super::*;
use crate::sql::effect::Isolation;

impl Session {
    pub(super) fn server_message(
        &mut self,
        span: Span<BackendTag>,
        bytes: &[u8],
        held: &mut Held<'_>,
        registry: &mut Registry,
        now: Instant,
        edits: &mut Edits,
    ) -> Flow {
        let tag = span.tag();
        let swallows = self.replies.front().is_some_and(|reply| reply.action == Action::Swallow);
        self.tenure.server_part = if swallows { Passing::Skip } else { Passing::Forward };
        if !swallows && matches!(tag, BackendTag::DATA_ROW | BackendTag::COPY_DATA) {
            // What most messages are.
            edits.forward(span.have());
            return Flow::Done;
        }
        let is_inspected = matches!(
            tag,
            BackendTag::READY_FOR_QUERY
                | BackendTag::COMMAND_COMPLETE
                | BackendTag::DATA_ROW
                | BackendTag::ERROR_RESPONSE
                | BackendTag::NOTICE_RESPONSE
                | BackendTag::PARAMETER_STATUS
                | BackendTag::PARAMETER_DESCRIPTION
        );
        let is_inspected =
            is_inspected || (tag == BackendTag::NOTIFICATION_RESPONSE && !self.channels.is_empty());
        if is_inspected && span.have() < span.len().min(MAX_INSPECTED) {
            return Flow::Stop(Want::Input);
        }
        let mut body = span.body(bytes);
        if is_inspected {
            body = &body[..body.len().min(MAX_INSPECTED - HEADER)];
        }
        match tag {
            BackendTag::DATA_ROW => self.learn(body, held),
            BackendTag::COPY_DATA => {}
            BackendTag::READY_FOR_QUERY => {
                return match self.tidings(body).filter(|_| !swallows) {
                    Some(tidings) => Flow::Stop(Want::Tell(tidings)),
                    None => self.ready(span, body, held, now, edits),
                };
            }
            BackendTag::ERROR_RESPONSE => {
                let code = Fields::new(body).code();
                let is_read_only = code == Some(SqlState::READ_ONLY_SQL_TRANSACTION);
                edits.events.read_only_primary |= is_read_only && held.role == Role::Primary;
                self.error(body, held);
            }
            BackendTag::PARAMETER_STATUS => self.parameter(body, held, edits),
            BackendTag::PARAMETER_DESCRIPTION if span.len() <= MAX_INSPECTED => {
                self.types_told(body, held, registry);
            }
            BackendTag::COPY_IN_RESPONSE | BackendTag::COPY_BOTH_RESPONSE => {
                if !self.begin_copy_in() {
                    return Flow::Stop(fatal(Report::protocol("a request was sent behind COPY FROM STDIN")));
                }
            }
            BackendTag::NOTICE_RESPONSE => self.notice(body),
            BackendTag::NOTIFICATION_RESPONSE => {
                // The shared listener hears it, too.
                let is_heard = backend::channel(body).is_some_and(|channel| self.channels.has(channel));
                self.tenure.server_part = if is_heard { Passing::Skip } else { Passing::Forward };
            }
            _ => self.answered(tag, body, held, edits),
        }
        pass(edits, self.tenure.server_part, span.have());
        Flow::Done
    }

    /// The client is told its statement's parameter types, and will bind by them. On a direct connection they stay, whatever
    /// DDL makes of the columns that they were found by: from here on the statement is the one that names them.
    fn types_told(&mut self, types: &[u8], held: &mut Held<'_>, registry: &mut Registry) {
        let Some(Then::Described { name, id }) = self.replies.front().and_then(|reply| reply.then.as_deref())
        else {
            return;
        };
        let named = self.statements.as_mut().and_then(|statements| statements.find_mut(name));
        let Some(named) = named.filter(|named| named.prepared.id == *id) else { return };
        if *named.prepared.types == *types {
            return;
        }
        named.prepared = registry.with_types(&named.prepared, types);
        if name.is_empty() && held.state.statements.unnamed() == Some(*id) {
            held.state.statements.set_unnamed(Some(named.prepared.id));
        }
    }

    /// What a client that listens is to be told before this ReadyForQuery. PostgreSQL tells what a transaction notified
    /// itself, and what came while it ran, before that.
    fn tidings(&mut self, body: &[u8]) -> Option<Tidings> {
        if self.channels.is_empty() || std::mem::take(&mut self.tenure.is_told) {
            return None;
        }
        let is_over = TransactionStatus::new(body) == Some(TransactionStatus::Idle);
        is_over.then_some(if self.tenure.wrote { Tidings::Own } else { Tidings::Arrived })
    }

    /// A message that may end an answer.
    fn answered(&mut self, tag: BackendTag, body: &[u8], held: &mut Held<'_>, edits: &mut Edits) {
        // What we asked for ourselves changes nothing that the client did.
        if tag == BackendTag::COMMAND_COMPLETE && self.tenure.server_part == Passing::Forward {
            match backend::command_tag(body) {
                Some(b"ROLLBACK") => self.tenure.outcome = self.tenure.outcome.and(Outcome::RolledBack),
                Some(b"COMMIT") => self.tenure.outcome = self.tenure.outcome.and(Outcome::Committed),
                // The rest of its text may fail; that brings nothing back.
                Some(b"DEALLOCATE ALL") => self.deallocate_all(held),
                _ => {}
            }
        }
        let Some(Reply { request, reason, then, .. }) = self.replies.pop_ended_by(tag) else { return };
        reason.into_iter().for_each(|reason| edits.events.ran.add(reason));
        let (Request::Execute, Some(then)) = (request, then) else { return };
        match *then {
            // No ROLLBACK brings a name back.
            then if then.outlives_rollback() => self.succeed(then, held),
            then => self.tenure.completed.get_or_insert_default().push(then),
        }
    }

    fn ready(
        &mut self,
        span: Span<BackendTag>,
        body: &[u8],
        held: &mut Held<'_>,
        now: Instant,
        edits: &mut Edits,
    ) -> Flow {
        let (Some(status), Some(reply)) =
            (TransactionStatus::new(body), self.replies.pop_ended_by(BackendTag::READY_FOR_QUERY))
        else {
            return Flow::Stop(fatal(broken_server("ReadyForQuery that nobody asked for")));
        };
        pass(edits, self.tenure.server_part, span.have());
        if reply.action == Action::Swallow {
            match &self.tenure.restoring {
                Restoring::Failed(report) => return Flow::Stop(fatal(Report::clone(report))),
                Restoring::Sent | Restoring::Held(_) if reply.then.is_none() => {
                    self.settings.prove();
                    self.tenure.restoring = Restoring::No;
                }
                _ => {}
            }
            if self.replies.is_empty() {
                self.leave_at_last(held, now);
            }
            self.may_read_as_others();
            if self.replies.is_empty() && !self.tenure.routed && !self.transaction.is_open() {
                self.tenure.asked = None;
                self.transaction.ready(TransactionStatus::Idle);
            }
            return Flow::Done;
        }
        self.answer_is_over(&mut edits.spares);
        self.settle(reply.then, status, held);
        edits.events.answered += 1;
        reply.reason.into_iter().for_each(|reason| edits.events.ran.add(reason));
        edits.events.unknown_name |= std::mem::take(&mut self.unknown_name);
        if self.tenure.wrote {
            self.recall(|history| history.wrote(now));
        }
        self.follow(held, now);
        self.own.tell_others(now, status == TransactionStatus::Idle && self.replies.is_empty());
        if self.replies.is_empty()
            && let Some(asked) = self.tenure.asked.take()
        {
            edits.events.query_time = Some(now.saturating_duration_since(asked));
        }
        if let Some(began) = self.transaction.ready(status) {
            edits.events.transaction_time = Some(now.saturating_duration_since(began));
        }
        if status == TransactionStatus::Idle {
            self.may_read_as_others();
            self.tenure.kept_pins = self.tenure.pins;
            edits.events.ddl |= std::mem::take(&mut self.ddl);
            self.tenure.wrote &= !self.replies.is_empty();
            if self.replies.is_empty() && self.batch == Batch::Idle {
                self.tenure.portals = None;
                self.tenure.may_be_in_block = false;
            }
        } else if self.mode == PoolMode::Statement {
            return Flow::Stop(fatal(no_blocks_in_statement_mode()));
        }
        if !self.replies.is_empty() {
            // The next request is already with the server: its transaction begins here.
            self.transaction.request(now);
        }
        Flow::Done
    }

    /// An answer to a question of ours.
    fn learn(&mut self, body: &[u8], held: &mut Held<'_>) {
        let asked = self.replies.front().and_then(|reply| reply.then.as_deref());
        match (asked, backend::data_row(body)) {
            (Some(Then::Asked(Question::State(pins))), Some(answer)) => {
                // What was sent behind the question is not refuted by its answer.
                let refuted = pins.refuted(&answer);
                self.tenure.pins = self.tenure.pins.without(refuted).with(self.tenure.fresh_pins);
                self.tenure.kept_pins = self.tenure.kept_pins.without(refuted);
            }
            (Some(Then::Asked(Question::Settings(names))), Some(answer)) if names.len() == answer.len() => {
                let known = names.iter().zip(answer).try_for_each(|(name, value)| {
                    // Text in another encoding than UTF-8 cannot be kept.
                    let value = value.map(|value| (!value.contains('\u{fffd}')).then_some(value));
                    let value = value.map_or(Some(None), |value| value.map(Some))?;
                    self.settings = self.settings.with(name, value.clone())?;
                    held.state.settings = held.state.settings.with(name, value)?;
                    Some(())
                });
                if known.is_none() {
                    self.pin(Effects::HIDDEN_SETTINGS);
                }
                self.settings.prove();
            }
            (Some(Then::Asked(Question::Settings(_))), _) => self.pin(Effects::HIDDEN_SETTINGS),
            (Some(Then::Asked(Question::Isolation)), Some(answer)) => {
                let level = answer.first().and_then(Option::as_deref);
                held.state.isolation = level.and_then(Isolation::of);
            }
            _ => {}
        }
    }

    /// ReadyForQuery: what the statements since the last one lead to.
    fn settle(&mut self, then: Option<Box<Then>>, status: TransactionStatus, held: &mut Held<'_>) {
        let outcome = std::mem::replace(&mut self.tenure.outcome, Outcome::Fine);
        let completed = self.tenure.completed.take();
        let mut completed = completed.map_or_else(Vec::new, |completed| completed.into_thens());
        completed.extend(then.map(|then| *then));
        let is_over = status == TransactionStatus::Idle;
        self.answered_on_replica(outcome);
        if is_over {
            self.promotable = None;
        }
        if completed.iter().any(|then| matches!(then, Then::Unlistened(..))) {
            completed = completed.into_iter().filter_map(|then| self.without_unlisten(then)).collect();
        }
        if is_over || outcome != Outcome::Fine {
            self.channels.end_transaction(outcome);
        }
        let has_settings = completed.iter().any(|then| matches!(then, Then::Settings(_)));
        if has_settings && !is_over {
            self.transaction.settings_change(&self.settings, &held.state.settings);
        }
        match outcome {
            Outcome::Failed | Outcome::RolledBack if is_over => self.own.ended(End::RolledBack),
            // AND CHAIN, if it is not over.
            Outcome::Committed => self.own.ended(End::Committed),
            Outcome::Fine | Outcome::Mixed if is_over => self.own.ended(End::Committed),
            _ if has_settings => self.own.may_be_undone(),
            _ => {}
        }
        let is_unknown = match outcome {
            Outcome::Fine => false,
            // Everything since BEGIN, or in a batch since its start, is undone; in a block that is still open, what
            // remains is known when it ends.
            Outcome::Failed => {
                if is_over {
                    self.roll_back_settings(held);
                } else if has_settings {
                    // A SAVEPOINT in the same batch may keep what stood before it.
                    self.doubt_settings(&completed, held);
                }
                return;
            }
            Outcome::RolledBack if is_over => {
                self.roll_back_settings(held);
                has_settings
            }
            Outcome::Committed if is_over => false,
            Outcome::Committed => {
                let has_changed = has_settings;
                self.transaction.keep_settings();
                has_changed
            }
            // To a savepoint, or AND CHAIN, or more than one of them: what the settings are now, only the server knows.
            Outcome::RolledBack | Outcome::Mixed => has_settings || self.transaction.has_changed_settings(),
        };
        if is_unknown {
            self.doubt_settings(&completed, held);
        }
        completed.into_iter().for_each(|then| self.succeed(then, held));
    }

    fn without_unlisten(&mut self, then: Then) -> Option<Then> {
        match then {
            Then::Unlistened(changes, further) => {
                self.channels.drop_at_commit(changes);
                further.map(|then| *then)
            }
            then => Some(then),
        }
    }

    /// What these settings are now, only the server knows: it is asked when the transaction is over.
    fn doubt_settings(&mut self, completed: &[Then], held: &Held<'_>) {
        let hidden = self.tenure.hidden.get_or_insert_default();
        hidden.extend(self.transaction.names_before().cloned());
        hidden.extend(self.settings.names().chain(held.state.settings.names()).cloned());
        let changes = completed.iter().filter_map(|then| match then {
            Then::Settings(changes) => Some(changes),
            _ => None,
        });
        for change in changes.flatten() {
            match change {
                // Back to what the client started with, which no server knows: it is put there before the next request.
                SettingChange::Reset { name } if self.base.value(name).is_some() => drop(hidden.remove(name)),
                SettingChange::ResetAll => hidden.retain(|name| self.base.value(name).is_none()),
                change => hidden.extend(change.name().cloned()),
            }
        }
    }

    fn roll_back_settings(&mut self, held: &mut Held<'_>) {
        if let Some((own, server)) = self.transaction.rolled_back() {
            self.settings = own;
            held.state.settings = server;
        }
    }

    fn succeed(&mut self, then: Then, held: &mut Held<'_>) {
        match then {
            Then::Settings(changes) => {
                let neutral = Settings::default();
                for change in &changes {
                    if self.own.follow(change) {
                        continue;
                    }
                    if let SettingChange::Hidden { name } = change {
                        self.tenure.hidden.get_or_insert_default().insert(name.clone());
                        continue;
                    }
                    // RESET takes the server to its own default, and the client to what it asked for when it connected.
                    let own = self.settings.after(change, &self.base);
                    match own.zip(held.state.settings.after(change, &neutral)) {
                        Some((own, server)) => {
                            self.settings = own;
                            held.state.settings = server;
                        }
                        None => self.pin(Effects::HIDDEN_SETTINGS),
                    }
                }
                self.settings.prove();
            }
            Then::Deallocated(name) => {
                if let Some(statements) = &mut self.statements {
                    statements.remove(&name);
                }
                let name = String::from_utf8_lossy(&name);
                self.sql_statements.remove(&name);
                held.state.sql_statements.remove(&name);
            }
            Then::Prepared(name, text) => {
                self.tenure.remove_stray(name.as_bytes());
                self.sql_statements.insert(name.clone(), text.clone());
                held.state.sql_statements.insert(name, text);
            }
            Then::Discarded => {
                self.deallocate_all(held);
                held.state.discarded();
                self.settings = self.base.clone();
                self.channels.clear();
                self.own.reset_all();
                self.tenure.completed = None;
                self.tenure.pins = self.tenure.pins.beyond_discard();
                self.tenure.kept_pins = self.tenure.kept_pins.beyond_discard();
                self.tenure.hidden = None;
            }
            // Those of a text's UNLISTEN were dealt with before, DEALLOCATE ALL when its own tag came.
            Then::Unlistened(..)
            | Then::DeallocatedAll
            | Then::Described { .. }
            | Then::Answered(_)
            | Then::PreparedAgain(_)
            | Then::Lent
            | Then::Began
            | Then::Emptied
            | Then::Asked(_)
            | Then::Cleared(_)
            | Then::Parsed { .. }
            | Then::ParsedUnnamed { .. }
            | Then::Kept { .. }
            | Then::Named(_)
            | Then::Unnamed(_)
            | Then::Evicted(_) => {}
        }
    }

    fn deallocate_all(&mut self, held: &mut Held<'_>) {
        held.state.statements.clear();
        held.state.sql_statements.clear();
        self.sql_statements.clear();
        self.executes = Effects::NONE;
        if let Some(statements) = &mut self.statements {
            statements.clear();
        }
    }

    fn notice(&mut self, body: &[u8]) {
        let fields = Fields::new(body);
        self.tenure.server_part = match fields.is_farewell() {
            true => {
                self.last_words = Some(Box::new(server_report(&fields)));
                Passing::Skip
            }
            false => Passing::Forward,
        };
    }

    /// An error ends the answer to a Query, or everything up to the next Sync.
    fn error(&mut self, body: &[u8], held: &mut Held<'_>) {
        let fields = Fields::new(body);
        if fields.is_fatal() {
            // The connection is about to end; the client hears of it when it is known what that means for it.
            self.tenure.server_part = Passing::Skip;
            self.last_words = Some(Box::new(server_report(&fields)));
            return;
        }
        if let Some(Reply { action: Action::Swallow, request: Request::Query, then, .. }) =
            self.replies.front()
        {
            match then.as_deref() {
                None | Some(Then::Began | Then::Emptied) => {
                    self.tenure.restoring = match self.tenure.restoring {
                        Restoring::Held(Chance::First) => Restoring::Refused,
                        _ => Restoring::Failed(Box::new(unrestorable(&fields))),
                    }
                }
                Some(Then::PreparedAgain(name)) => {
                    // Its table is gone, say: the client hears of it when it runs the statement, as of one that is not there.
                    held.state.sql_statements.remove(name);
                    self.sql_statements.remove(name);
                }
                // A late cancel request: once more, ahead of the next request.
                Some(then) if fields.code() == Some(SqlState::QUERY_CANCELED) => match then {
                    Then::Cleared(Leftover::Sequences(owner)) => held.state.sequences_of = Some(*owner),
                    Then::Cleared(Leftover::Prepared(name, text)) => {
                        held.state.sql_statements.insert(name.clone(), text.clone());
                    }
                    Then::Asked(Question::Settings(names)) => {
                        self.tenure.hidden.get_or_insert_default().extend(names.iter().cloned());
                    }
                    Then::Asked(Question::State(_)) => self.tenure.doubts_pins = true,
                    _ => {}
                },
                Some(Then::Asked(Question::Settings(_))) => self.pin(Effects::HIDDEN_SETTINGS),
                Some(_) => {}
            }
            return;
        }
        self.tenure.server_part = Passing::Forward;
        if !self.replies.is_empty() {
            self.tenure.outcome = self.tenure.outcome.and(Outcome::Failed);
        }
        self.tenure.copy = Copy::None;
        if replay::is_outdated(&fields) && !self.is_muted() {
            // DDL went past us. Texts prepared from now on are new ones.
            self.ddl = true;
        }
        if self.replies.front().is_none_or(|reply| reply.request.ends_ready()) {
            return;
        }
        let mut failed: Vec<Reply> = std::iter::from_fn(|| self.replies.pop_failed()).collect();
        let rest = failed.split_off(1);
        // What was done last is undone first.
        rest.into_iter().rev().for_each(|reply| self.undo(reply.then, Some(held)));
        failed.into_iter().for_each(|reply| self.fail(reply.then, held));
        if self.replies.is_empty() {
            self.batch = Batch::Failed;
        }
    }

    /// The request itself failed.
    fn fail(&mut self, then: Option<Box<Then>>, held: &mut Held<'_>) {
        match then.map(|then| *then) {
            // A Parse of the unnamed statement destroys the old one before it fails.
            Some(Then::ParsedUnnamed { name: Some(renamed) }) => {
                let then = Then::ParsedUnnamed { name: Some(Renamed { before: None, ..renamed }) };
                self.undo(Some(Box::new(then)), Some(held));
            }
            Some(Then::Kept { put, name: Some(renamed) }) => {
                let then = Then::Kept { put, name: Some(Renamed { before: None, ..renamed }) };
                self.undo(Some(Box::new(then)), Some(held));
            }
            // What stood in for it may be there still.
            Some(Then::Deallocated(name)) if self.naming == Naming::Ours => self.tenure.add_stray(&name),
            // If it was lent for a Query, that was skipped, too: the Sync behind it answers in its place.
            Some(Then::Lent) => self.replies.forward_sync(),
            then => self.undo(then.map(Box::new), Some(held)),
        }
    }

    /// The server never ran the request.
    pub(super) fn undo(&mut self, then: Option<Box<Then>>, held: Option<&mut Held<'_>>) {
        let Some(then) = then else { return };
        let renamed = match *then {
            Then::Parsed { id, name } => {
                if let Some(held) = held {
                    held.state.statements.remove(id);
                }
                name
            }
            Then::ParsedUnnamed { name } => {
                if let Some(held) = held.filter(|_| !self.replies.has_unnamed()) {
                    held.state.statements.set_unnamed(None);
                }
                name
            }
            Then::Kept { put, name } => {
                if let (Some(held), Some(id)) = (held, put) {
                    held.state.statements.remove(id);
                }
                name
            }
            Then::Named(renamed) | Then::Unnamed(renamed) => Some(renamed),
            Then::Evicted(prepared) => {
                if let Some(held) = held {
                    held.state.statements.restore(&prepared);
                }
                None
            }
            Then::Answered(_)
            | Then::Settings(_)
            | Then::Deallocated(_)
            | Then::DeallocatedAll
            | Then::Described { .. }
            | Then::Discarded
            | Then::Unlistened(..)
            | Then::Prepared(..)
            | Then::PreparedAgain(_)
            | Then::Lent
            | Then::Began
            | Then::Emptied
            | Then::Asked(_)
            | Then::Cleared(_) => None,
        };
        let Some(Renamed { name, before }) = renamed else { return };
        let before = match name.is_empty() {
            true => self.replies.hand_on(before),
            false => Err(before),
        };
        if let Err(before) = before {
            self.statements.get_or_insert_default().restore(&name, before);
        }
    }

    fn parameter(&mut self, body: &[u8], held: &mut Held<'_>, edits: &mut Edits) {
        let Some((name, value)) = backend::parameter_status(body) else { return };
        held.state.report(name, value);
        // Which server it is on is not the client's business: to a client, pglagoon is never in recovery.
        if name == "in_hot_standby" {
            self.tenure.server_part = Passing::Skip;
        }
        // A RESET takes the client back to what it asked for when it connected, not to what this server was given.
        let front = self.replies.front();
        let is_reset = front.and_then(|reply| reply.then.as_deref()).is_some_and(Then::is_reset)
            || self.has_completed_reset();
        if is_reset && let Some(Value::Text(base)) = self.base.value(&name.to_ascii_lowercase()) {
            self.tenure.server_part = Passing::Skip;
            edits.insert(|out| backend::write_parameter_status(out, name, base));
        }
    }

    /// Whether statements that are not answered yet put settings back.
    pub(super) fn is_resetting(&self) -> bool {
        !self.base.is_neutral() && (self.replies.has_resets() || self.has_completed_reset())
    }

    fn has_completed_reset(&self) -> bool {
        self.tenure.completed.as_ref().is_some_and(|completed| completed.has_resets())
    }

    fn begin_copy_in(&mut self) -> bool {
        if self.replies.front().is_some_and(|reply| reply.request == Request::Execute) {
            // The Sync behind the Execute, if it was sent, is ignored: the client will send another.
            self.batch = Batch::Open;
        }
        self.tenure.copy = Copy::In;
        self.replies.copy_in_began()
    }

    /// Puts answers of ours at their place.
    pub(super) fn fabricate(&mut self, edits: &mut Edits) {
        while let Some(reply) = self.replies.pop_synthetic() {
            edits.insert(|out| reply.fabricate(out));
        }
    }
}

fn server_report(fields: &Fields<'_>) -> Report {
    let text =
        |field| fields.text(field).map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
    Report::new(ErrorSource::Server, fields.code().unwrap_or(SqlState::CONNECTION_FAILURE), text(b'M'))
        .detail(text(b'D'))
        .hint(text(b'H'))
}

fn unrestorable(fields: &Fields<'_>) -> Report {
    let code = fields.code().unwrap_or(SqlState::INVALID_PARAMETER_VALUE);
    Report::new(
        ErrorSource::Server,
        code,
        "the session's settings could not be restored on another server connection",
    )
    .detail(fields.message())
}
