//! Requests that are not served, and how a client is told so, at its place among the answers.

use super::consequences::setting_changes;
use super::*;
use crate::sql::quote::literal;

impl Session {
    /// What statement mode does not serve, and limits.
    pub(super) fn refused(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        world: &mut World<'_>,
    ) -> Option<Report> {
        let body = span.body(bytes);
        let statement = match span.tag() {
            FrontendTag::PARSE
                if self.statements.as_ref().is_some_and(|statements| is_full(statements))
                    && Parse::new(body).is_some_and(|parse| !parse.name.is_empty()) =>
            {
                return Some(too_many_statements());
            }
            _ if matches!(world.pin_room, PinRoom::Full(_) | PinRoom::Forbidden)
                && let Some(report) = self.unpinnable(span, bytes, world) =>
            {
                return Some(report);
            }
            _ if self.mode != PoolMode::Statement => return None,
            FrontendTag::QUERY => world.classify(frontend::query(body)?),
            FrontendTag::PARSE => world.classify(Parse::new(body)?.text),
            _ => return None,
        };
        (statement.transaction == Some(TransactionVerb::Begin)).then(no_blocks_in_statement_mode)
    }

    /// What would keep a server connection for the client that may not have one.
    fn unpinnable(&mut self, span: Span<FrontendTag>, bytes: &[u8], world: &mut World<'_>) -> Option<Report> {
        if self.mode == PoolMode::Session
            || (!self.tenure.pins.is_empty() && world.pin_room != PinRoom::Forbidden)
        {
            return None;
        }
        let body = span.body(bytes);
        let (statement, text) = match span.tag() {
            FrontendTag::QUERY => (world.classify(frontend::query(body)?), frontend::query(body)?.to_vec()),
            FrontendTag::PARSE => (world.classify(Parse::new(body)?.text), Parse::new(body)?.text.to_vec()),
            // In the middle of a batch it is too late for an error of ours.
            FrontendTag::BIND if self.batch == Batch::Idle => {
                let named = self.find(Bind::new(body)?.statement, world)?;
                (named.statement.clone(), named.prepared.text.to_vec())
            }
            _ => return None,
        };
        let mut effects = self.effects_of(&statement, || &text, world.catalog).without(Effects::SEQUENCE);
        if effects.any(Effects::PREPARE) && statement.statements == 1 && self.sql_statements.has_room(&text) {
            effects = effects.without(Effects::PREPARE);
        }
        if effects.any(Effects::LISTEN) && self.may_share(&text) {
            effects = effects.without(Effects::LISTEN);
        }
        let tells = !effects.any(Effects::SETTINGS.with(Effects::SET_CONFIG))
            || setting_changes(effects, &text).is_some();
        let effects = if tells { effects } else { effects.with(Effects::HIDDEN_SETTINGS) };
        let cause = Pins::of(effects).without(self.tenure.pins).reasons().next()?;
        Some(no_pin(cause, world.pin_room))
    }

    /// Answers a request with an error of ours, at its place in the queue.
    pub(super) fn refuse(
        &mut self,
        span: Span<FrontendTag>,
        report: Report,
        held: Option<&mut Held<'_>>,
        edits: &mut Edits,
    ) -> Flow {
        let is_unbegun = self.fail_deferred();
        if !is_unbegun
            && (self.batch == Batch::Open || self.transaction.is_open() || self.tenure.may_be_in_block)
        {
            // The error has to undo what the server has already done, so it must be the server's.
            return match held.filter(|_| span.tag() != FrontendTag::FUNCTION_CALL) {
                Some(held) => self.fail_on_server(span, &report, held, edits),
                None => Flow::Stop(fatal(report)),
            };
        }
        let mut answer = Vec::new();
        report.write(&mut answer, Severity::Error);
        self.head = None;
        self.tenure.routed = false;
        if span.tag() == FrontendTag::QUERY {
            backend::write_ready(&mut answer, self.transaction.status());
        } else {
            self.batch = Batch::Failed;
        }
        if self.replies.is_empty() && self.tenure.server.at_boundary() {
            edits.reply.extend_from_slice(&answer);
        } else {
            self.replies.push(Request::Close, Action::Fabricate, Some(Then::Answered(answer.into())));
        }
        self.skip(span, edits)
    }

    /// Has the server raise the error in place of a request.
    pub(super) fn fail_on_server(
        &mut self,
        span: Span<FrontendTag>,
        report: &Report,
        held: &mut Held<'_>,
        edits: &mut Edits,
    ) -> Flow {
        let fields = [("MESSAGE", &report.message), ("DETAIL", &report.detail), ("HINT", &report.hint)];
        let mut raise = format!("BEGIN RAISE EXCEPTION USING ERRCODE = '{}'", report.code);
        for (name, text) in fields.into_iter().filter(|(_, text)| !text.is_empty()) {
            raise += &format!(", {name} = {}", literal(text));
        }
        let sql = format!("DO {}", literal(&(raise + "; END")));
        held.state.statements.set_unnamed(None);
        self.tenure.routed = false;
        if span.tag() == FrontendTag::QUERY {
            self.batch = Batch::Idle;
            edits.insert(|out| frontend::write_query(out, sql.as_bytes()));
            self.replies.push(Request::Query, Action::Forward, None);
        } else {
            self.batch = Batch::Open;
            edits.insert(|out| {
                Parse::write(out, b"", sql.as_bytes(), b"\0\0");
                frontend::write_bind_and_execute(out);
            });
            self.replies.push(Request::Parse, Action::Swallow, None);
            self.replies.push(Request::Bind, Action::Swallow, None);
            self.replies.push(Request::Execute, Action::Forward, None);
        }
        self.skip(span, edits)
    }
}

/// Why a text is not served that would set one of our own settings where only PostgreSQL sees it.
pub(super) fn hidden_own_setting(statement: &Statement, text: &[u8]) -> Option<Report> {
    if !statement.effects.any(Effects::SET_CONFIG) {
        return None;
    }
    let name = effect::set_config_of(own::PREFIX, text)?;
    let text = format!("set_config cannot change parameter \"{name}\"");
    Some(
        Report::new(ErrorSource::Client, SqlState::FEATURE_NOT_SUPPORTED, text)
            .hint(format!("Use SET {name} or SET LOCAL {name}, in a statement of its own.")),
    )
}

fn no_pin(cause: PinReason, room: PinRoom) -> Report {
    let label = cause.label;
    match room {
        PinRoom::Forbidden => {
            let text = format!("this statement leaves state behind that cannot follow its client: {label}");
            Report::new(ErrorSource::Client, SqlState::FEATURE_NOT_SUPPORTED, text)
                .hint("pool.session_state = \"pin\" lets a client keep its server connection for it.")
        }
        room => {
            let clients = if let PinRoom::Full(clients) = room { clients } else { 0 };
            let text = format!("too many clients keep a server connection: {clients} (now for: {label})");
            Report::new(ErrorSource::Pooler, SqlState::TOO_MANY_CONNECTIONS, text)
                .hint("pool.pin_limit and pool.size say how many may; SHOW CLIENTS in the console says why they do.")
        }
    }
}

fn is_full(statements: &ClientStatements) -> bool {
    statements.len() >= MAX_STATEMENTS || statements.length() >= MAX_STATEMENT_BYTES
}

fn too_many_statements() -> Report {
    let text = "this client has too many prepared statements";
    Report::new(ErrorSource::Client, SqlState::PROGRAM_LIMIT_EXCEEDED, text)
        .detail(format!("One may have {MAX_STATEMENTS}, of {} MiB together.", MAX_STATEMENT_BYTES >> 20))
        .hint("DEALLOCATE or Close those that are not needed any more.")
}
