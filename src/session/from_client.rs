//! What a client's messages mean: where they may run, what goes to the server for them, and what is owed for it.

use super::own::End;
use super::replies::{Action, Leftover, Renamed, Request, Then};
use super::*;
use crate::prepared::Analysis;
use crate::sql::body;
use crate::sql::effect::TransactionMode;

impl Session {
    pub(super) fn client_message(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        held: Option<&mut Held<'_>>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        self.client_part = Passing::Forward;
        if self.batch == Batch::Idle && self.replies.has_kept() && span.tag() != FrontendTag::TERMINATE {
            // What is kept may have to run again, which it can only alone. Whoever does not wait for answers shall not have to.
            self.pace = Pace::Pipelined;
            return Flow::Stop(Want::Input);
        }
        match span.tag() {
            FrontendTag::TERMINATE => Flow::Stop(Want::Close(Farewell::Terminated)),
            FrontendTag::COPY_DATA | FrontendTag::COPY_DONE | FrontendTag::COPY_FAIL => {
                self.copy_message(span, edits)
            }
            // A server in copy-in mode ignores these two; what it ignores is not counted.
            FrontendTag::SYNC | FrontendTag::FLUSH if self.copy == Copy::In => {
                edits.forward(span.have());
                Flow::Done
            }
            FrontendTag::SYNC => self.sync(span, held, edits),
            FrontendTag::FLUSH => self.flush(span, held, edits),
            FrontendTag::QUERY
            | FrontendTag::PARSE
            | FrontendTag::BIND
            | FrontendTag::DESCRIBE
            | FrontendTag::EXECUTE
            | FrontendTag::CLOSE
            | FrontendTag::FUNCTION_CALL => {
                if self.copy == Copy::In {
                    let text = format!("unexpected message type {:?} during COPY from stdin", span.tag());
                    return Flow::Stop(fatal(Report::protocol(text)));
                }
                if self.batch == Batch::Failed {
                    return self.skip(span, edits);
                }
                self.request(span, bytes, held, world, edits)
            }
            tag => Flow::Stop(fatal(Report::protocol(format!("invalid frontend message type {tag:?}")))),
        }
    }

    /// COPY data outside copy-in mode comes from a client that has not yet read that its COPY failed (the server would
    /// ignore it, so it is dropped here and never reaches whoever has that server next), or from one that did not wait for
    /// CopyInResponse: as long as an answer is outstanding that may be one, the data waits for it.
    fn copy_message(&mut self, span: Span<FrontendTag>, edits: &mut Edits) -> Flow {
        if self.copy != Copy::In {
            if !self.replies.may_begin_copy() {
                self.copy = Copy::None;
                return self.skip(span, edits);
            }
            if self.copy == Copy::None && self.batch == Batch::Open {
                // What will end the batch may stand behind these data: the server shall not wait for it with its answer.
                edits.insert(frontend::write_flush);
            }
            self.copy = Copy::Awaited;
            return Flow::Stop(Want::Input);
        }
        if span.tag() != FrontendTag::COPY_DATA {
            self.copy = Copy::None;
        }
        edits.forward(span.have());
        Flow::Done
    }

    fn sync(&mut self, span: Span<FrontendTag>, held: Option<&mut Held<'_>>, edits: &mut Edits) -> Flow {
        if span.len() != HEADER {
            return Flow::Stop(fatal(Report::protocol("Sync message with a body")));
        }
        if held.is_some() && (self.replies.has_deallocations() || !self.has_room(edits)) {
            return Flow::Stop(Want::Input);
        }
        let batch = std::mem::replace(&mut self.batch, Batch::Idle);
        if held.is_none() {
            edits.skip(span.have());
            if !self.transaction.is_open() {
                self.own.ended(if batch == Batch::Failed { End::RolledBack } else { End::Committed });
            }
            backend::write_ready(&mut edits.reply, self.transaction.status());
            return Flow::Done;
        }
        self.replies.push(Request::Sync, Action::Forward, None);
        edits.forward(span.have());
        if let Some(stray) = self.stray.take() {
            edits.insert(|out| {
                frontend::write_close_statement(out, &stray);
                frontend::write_sync(out);
            });
            self.replies.push(Request::Close, Action::Swallow, None);
            self.replies.push(Request::Sync, Action::Swallow, None);
        }
        Flow::Done
    }

    /// A message that provokes an answer: it needs a server, the right one, with the client's settings.
    fn request(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        mut held: Option<&mut Held<'_>>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        if let Some(want) = missing(span, bytes, world.max_message) {
            return Flow::Stop(want);
        }
        if !self.routed {
            // What was made of it before may have been made by another catalog.
            self.head = None;
        }
        if let Batch::Here(verb) = self.batch {
            return self.answer_here(verb, span, bytes, world, edits);
        }
        if let Some(report) = self.refused(span, bytes, world) {
            return self.refuse(span, report, held, edits);
        }
        if let Some(flow) = self.own_request(span, bytes, held.as_deref_mut(), world, edits) {
            return flow;
        }
        if let Some(want) = self.take_key(span, bytes, world) {
            return Flow::Stop(want);
        }
        self.agree(held.as_deref(), world);
        if held.is_none()
            && let Some(flow) = self.deferred_request(span, bytes, world, edits)
        {
            return flow;
        }
        let Some(held) = held else {
            if self.doubts(world)
                && let Some(flow) = self.end_of_nothing(span, bytes, world, edits)
            {
                return flow;
            }
            return match span.tag() {
                FrontendTag::CLOSE => self.close_without_server(span, bytes, edits),
                _ if self.may_have_lost(world) => self.refuse(span, may_be_lost(), None, edits),
                _ => self.without_server(span, bytes, world, edits),
            };
        };
        // While it waited for the server, another one has become primary: it is told before anything is sent.
        if self.routed && span.tag() != FrontendTag::CLOSE && self.doubts(world) {
            self.routed = false;
            if self.may_return() {
                return Flow::Stop(Want::Return);
            }
            self.routed = true;
        }
        // It was a read as others read it.
        if self.routed && held.role == Role::Replica && !self.is_misread && held.state.misreads_by_default() {
            self.is_misread = true;
            self.routed = false;
            if self.may_return() {
                return Flow::Stop(Want::Return);
            }
            self.routed = true;
        }
        let is_held = match self.restoring {
            Restoring::Held(_) | Restoring::Failed(_) => true,
            // The answer is not over yet: what is to be done next is not for now, and nothing else is.
            Restoring::Refused => !self.replies.is_empty(),
            Restoring::No | Restoring::Sent => false,
        };
        if is_held {
            return Flow::Stop(Want::Input);
        }
        // After a RESET the server's settings are not the client's, and are put right when nothing is outstanding.
        let is_out_of_step =
            self.batch == Batch::Idle && !self.replies.is_empty() && self.settings != held.state.settings;
        // What is not really there shall not keep a write on a replica: the server has been asked.
        let may_be_set_free = held.role == Role::Replica
            && self.batch == Batch::Idle
            && !self.pins.is_empty()
            && !self.replies.is_empty();
        if is_out_of_step || may_be_set_free || self.must_wait(span.tag()) || !self.has_room(edits) {
            return Flow::Stop(Want::Input);
        }
        if self.promotable.is_some()
            && let Some(flow) = self.promote(span, bytes, held, world, edits)
        {
            return flow;
        }
        if !self.routed && !self.is_bound() {
            // Earlier requests of the same client are still unanswered. One that their server may serve follows at once;
            // any other waits until that server has been given back.
            match self.judge(span, bytes, world) {
                Some(judged)
                    if judged.route.is_served_by(held.role, held.node)
                        && !(judged.listens() && self.is_heeded_here(span, bytes)) => {}
                _ if self.may_return() => return Flow::Stop(Want::Return),
                _ => return Flow::Stop(Want::Input),
            }
        }
        self.routed = false;
        let unnamed = self.unnamed_in(span, bytes, world);
        self.transaction.request(world.now);
        self.asked.get_or_insert(world.now);
        self.follow(held, world.now);
        if self.batch == Batch::Idle
            && let Some(want) = self.restore_settings(held, edits)
        {
            return Flow::Stop(want);
        }
        if let Some(deferred) = self.deferred.take() {
            self.begin_deferred(deferred, held, edits);
            self.stays_with_portal(span, bytes);
        }
        if self.is_asking_isolation() {
            self.routed = true;
            return Flow::Stop(Want::Input);
        }
        self.look_ahead(span, bytes, world);
        self.forget_foreign_sequences(held, world, edits);
        match span.tag() {
            FrontendTag::QUERY => return self.query(span, bytes, held, world, edits),
            FrontendTag::FUNCTION_CALL => {
                self.mark_write(held, world);
                self.batch = Batch::Idle;
                self.replies.push(Request::FunctionCall, Action::Forward, None);
                edits.forward(span.have());
            }
            tag => {
                let before = std::mem::replace(&mut self.batch, Batch::Open);
                let flow = match tag {
                    FrontendTag::PARSE => self.parse(span, bytes, unnamed, held, world, edits),
                    FrontendTag::BIND => self.bind(span, bytes, held, world, edits),
                    FrontendTag::DESCRIBE | FrontendTag::CLOSE => {
                        self.describe_or_close(span, bytes, held, world, edits)
                    }
                    _ => self.execute(span, bytes, edits),
                };
                if matches!(flow, Flow::Stop(_)) {
                    // It waits for an answer, and what is answered may have to run again elsewhere: no batch has begun here.
                    self.batch = before;
                }
                return flow;
            }
        }
        Flow::Done
    }

    /// What the Query at the head of the input does: looked up once, however many ask.
    pub(super) fn head(&mut self, text: &[u8], world: &mut World<'_>) -> &Statement {
        self.head.get_or_insert_with(|| Head::Query(world.classify(text))).statement()
    }

    /// The same, for who has not looked for the end of its text.
    pub(super) fn head_of(&mut self, body: &[u8], world: &mut World<'_>) -> &Statement {
        let classify = || Head::Query(world.classify(frontend::query(body).unwrap_or_default()));
        self.head.get_or_insert_with(classify).statement()
    }

    /// Classifies the statement of a Query or Parse, if that has not been done to route it.
    pub(super) fn look_ahead(&mut self, span: Span<FrontendTag>, bytes: &[u8], world: &mut World<'_>) {
        let body = span.body(bytes);
        self.head = match span.tag() {
            _ if self.head.is_some() => return,
            FrontendTag::QUERY => frontend::query(body).map(|text| Head::Query(world.classify(text))),
            FrontendTag::PARSE => {
                Parse::new(body).map(|parse| Head::Parse(world.prepare(&parse, self.settings.analysis())))
            }
            _ => return,
        };
    }

    /// What was sent may turn out otherwise than was assumed when it was sent, and this request hangs on it: names that a
    /// batch before this one gives or takes, everything behind a DEALLOCATE, and what runs after a RESET. Or too much is under
    /// way already.
    fn must_wait(&self, tag: FrontendTag) -> bool {
        match tag {
            _ if self.replies.has_deallocations() => true,
            _ if self.batch == Batch::Idle && (self.is_resetting() || self.is_full()) => true,
            FrontendTag::QUERY | FrontendTag::FUNCTION_CALL => false,
            _ => self.batch == Batch::Idle && self.replies.has_names(),
        }
    }

    /// Whether one more answer may be outstanding. If not, the server is asked for those that it may still hold back.
    fn has_room(&mut self, edits: &mut Edits) -> bool {
        let has_room =
            |replies: &ReplyQueue| replies.len() < MAX_OUTSTANDING && replies.weight() < MAX_REMEMBERED;
        if has_room(&self.replies) {
            return true;
        }
        self.answer_at_once(edits);
        let has_room = has_room(&self.replies);
        if !has_room {
            edits.insert(frontend::write_flush);
        }
        has_room
    }

    fn without_server(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        if self.mode == PoolMode::Session {
            return Flow::Stop(Want::Lease(Route::primary(Why::Held)));
        }
        match self.judge(span, bytes, world) {
            Some(judged) if judged.listens() => self.listen(span, bytes, judged.route, world, edits),
            Some(judged) => Flow::Stop(Want::Lease(judged.route)),
            None => Flow::Stop(Want::Input),
        }
    }

    /// Takes note of the level that holds from here on, and of what has been seen by whoever shares that. A request goes by the
    /// history as it is when it is routed, whatever others do meanwhile: so it stays that for as long as what was granted
    /// then serves.
    pub(super) fn agree(&mut self, held: Option<&Held<'_>>, world: &World<'_>) {
        let level = self.own.consistency().unwrap_or(world.level);
        self.own.join(world.scopes, level, world.now, &mut self.history);
        self.recall(|history| history.agree(level, world.now));
        let shared = self.own.shared().map(scope::read);
        match (held, shared) {
            (None, shared) => {
                self.history = shared.unwrap_or(self.history);
                self.has_outrun = false;
            }
            (Some(_), None) => {}
            (Some(_), Some(_)) if self.routed || self.is_bound() => {}
            (Some(held), Some(shared)) => {
                let is_its_own = shared.shown().is_some_and(|shown| shown.node == held.node);
                self.has_outrun |= shared != self.history && !is_its_own;
                self.history = shared;
            }
        }
    }

    /// Whether a failover may have undone what the client did or saw, and the client is to be told so; it is told once.
    fn may_have_lost(&mut self, world: &World<'_>) -> bool {
        if !self.doubts(world) {
            return false;
        }
        self.recall(|history| history.lost_track(world.now));
        world.rules.on_lost_write == OnLostWrite::Error
    }

    fn doubts(&self, world: &World<'_>) -> bool {
        world.lineage.is_some_and(|lineage| lineage.doubts(&self.history))
    }

    pub(super) fn terms(&self, world: &World<'_>) -> Terms {
        Terms {
            level: self.own.consistency().unwrap_or(world.level),
            max_staleness: self.own.max_staleness().unwrap_or(world.rules.max_staleness),
            commits: self.settings.commits(),
            ..Terms::of(world.rules)
        }
    }

    /// Changes what the client has seen, and with it what those have who share that.
    pub(super) fn recall(&mut self, change: impl Fn(&mut History)) {
        let before = self.history;
        change(&mut self.history);
        self.has_outrun |= self.history != before;
        if let Some(shared) = self.own.shared() {
            scope::change(shared, change);
        }
    }

    /// A request goes to the server that is held, or its answer has come from there.
    pub(super) fn follow(&mut self, held: &Held<'_>, now: Instant) {
        if held.role == Role::Replica && self.has_outrun {
            return self.recall(|history| history.lost_track(now));
        }
        match self.own.shared() {
            Some(shared) => scope::answered(shared, &self.history, held.role, held.node, now),
            None => self.history.used(held.role, held.node, now),
        }
    }

    /// Where the request at the head of `bytes` may run; `None`: that cannot be told before more of it is here.
    fn judge(&mut self, span: Span<FrontendTag>, bytes: &[u8], world: &mut World<'_>) -> Option<Judged> {
        if let Some(route) = self.detour(span, bytes, world) {
            return Some(Judged { route, effects: Effects::NONE });
        }
        let (access, effects) = match span.tag() {
            FrontendTag::QUERY => {
                let wish = self.wish();
                routable(self.head_of(span.body(bytes), world), wish)
            }
            FrontendTag::FUNCTION_CALL => UNSURE,
            _ => self.judge_batch(bytes, world)?,
        };
        let access = self.deferred_access(access, span, bytes, world.rules).unwrap_or(access);
        Some(Judged { route: self.route(access, world), effects })
    }

    /// Where a request may run that does this.
    pub(super) fn route(&self, access: Access, world: &World<'_>) -> Route {
        let holds = self.settings.proofs_hold() && !self.is_misread;
        let access = if holds { access } else { access.max(Access::Unsure) };
        let terms = self.terms(world);
        let route = routing::route(access, &self.history, &terms, world.rules.reads, world.now);
        let route = match &self.deferred {
            Some(deferred) if deferred.moved_from.is_some() => {
                Route::Primary { why: Why::Promoted, shown: deferred.moved_from }
            }
            Some(_) => route.in_transaction(),
            None => route,
        };
        route.as_wished(self.wish())
    }

    /// What the client wishes for its statements. Within a block that may write, nothing that fails on a replica could be
    /// sent again: no wish for one counts there.
    pub(super) fn wish(&self) -> Option<Hint> {
        let is_plain =
            self.deferred.as_ref().is_some_and(|deferred| deferred.mode != TransactionMode::ReadOnly);
        let may_write = is_plain || self.promotable.as_ref().is_some_and(|block| block.may_write());
        self.own.wish().filter(|wish| *wish == Hint::Primary || !may_write)
    }

    pub(super) fn routable(&self, statement: &Statement) -> Judgement {
        routable(statement, self.wish())
    }

    /// A batch may leave the primary if all of it, up to its Sync, is here and reads only: it is one implicit
    /// transaction, and what has been sent to a replica cannot be taken back when a write follows.
    pub(super) fn judge_batch(&mut self, bytes: &[u8], world: &mut World<'_>) -> Option<Judgement> {
        let mut parsed: SmallVec<[(&[u8], Judgement); 4]> = SmallVec::new();
        for (place, message) in messages(bytes).enumerate() {
            let Ok((tag, body)) = message else { return Some(UNSURE) };
            let judged = match tag {
                FrontendTag::SYNC => return Some(HARMLESS),
                FrontendTag::PARSE => {
                    let Some((name, judged)) = self.judge_parse(place, body, world) else {
                        return Some(UNSURE);
                    };
                    parsed.push((name, judged));
                    judged
                }
                FrontendTag::BIND => {
                    let Some(bind) = Bind::new(body) else { return Some(UNSURE) };
                    match parsed.iter().rev().find(|(name, _)| *name == bind.statement) {
                        Some(&(_, judged)) => judged,
                        None => self.prepared_access(bind.statement, world),
                    }
                }
                FrontendTag::DESCRIBE | FrontendTag::CLOSE | FrontendTag::EXECUTE => HARMLESS,
                _ => return Some(UNSURE),
            };
            if judged.0 != Access::Read {
                return Some(judged);
            }
        }
        // Waiting cannot go on for ever: a batch without an end in sight is the primary's.
        (bytes.len() >= LOOKAHEAD).then_some(UNSURE)
    }

    /// The name that a Parse gives, and by what its statement is routed: `place` messages stand before it. `None`: it is
    /// malformed.
    fn judge_parse<'a>(
        &mut self,
        place: usize,
        body: &'a [u8],
        world: &mut World<'_>,
    ) -> Option<(&'a [u8], Judgement)> {
        if place > 0 {
            let parse = Parse::new(body)?;
            return Some((parse.name, self.routable(&world.classify(parse.text))));
        }
        if self.head.is_none() {
            self.head = Some(Head::Parse(world.prepare(&Parse::new(body)?, self.settings.analysis())));
        }
        let name = Parse::name(body)?;
        self.head.as_ref().map(|head| (name, self.routable(head.statement())))
    }

    fn prepared_access(&mut self, name: &[u8], world: &mut World<'_>) -> Judgement {
        let wish = self.wish();
        self.find(name, world).map_or(UNSURE, |named| routable(&named.statement, wish))
    }

    /// The statement of this name, looked at anew if the catalog has changed since.
    pub(super) fn find(&mut self, name: &[u8], world: &mut World<'_>) -> Option<&Named> {
        let stamp = world.stamp();
        let renews = self.is_renewing();
        let settings = self.settings.analysis();
        let named = self.statements.as_mut()?.find_mut(name)?;
        if renews {
            let Prepared { text, types, .. } = &*named.prepared;
            named.prepared = world.registry.intern(text, types, world.generation, settings);
        }
        if named.version != stamp {
            named.statement = world.classify(&named.prepared.text);
            // The statement itself stays what was prepared: if DDL has changed what it returns, its server says so (0A000), and
            // only who is told the new columns gets them.
            named.version = stamp;
        }
        Some(named)
    }

    /// What statement mode does not serve, and limits.
    fn refused(&mut self, span: Span<FrontendTag>, bytes: &[u8], world: &mut World<'_>) -> Option<Report> {
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
        if self.mode == PoolMode::Session || (!self.pins.is_empty() && world.pin_room != PinRoom::Forbidden) {
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
        let cause = Pins::of(effects).without(self.pins).reasons().next()?;
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
        if !is_unbegun && (self.batch == Batch::Open || self.transaction.is_open() || self.may_be_in_block) {
            // The error has to undo what the server has already done, so it must be the server's.
            return match held.filter(|_| span.tag() != FrontendTag::FUNCTION_CALL) {
                Some(held) => self.fail_on_server(span, &report, held, edits),
                None => Flow::Stop(fatal(report)),
            };
        }
        let mut answer = Vec::new();
        report.write(&mut answer, Severity::Error);
        self.head = None;
        self.routed = false;
        if span.tag() == FrontendTag::QUERY {
            backend::write_ready(&mut answer, self.transaction.status());
        } else {
            self.batch = Batch::Failed;
        }
        if self.replies.is_empty() && self.server.at_boundary() {
            edits.reply.extend_from_slice(&answer);
        } else {
            self.replies.push(Request::Close, Action::Fabricate, Some(Then::Answered(answer.into())));
        }
        self.skip(span, edits)
    }

    /// Has the server raise the error in place of a request.
    fn fail_on_server(
        &mut self,
        span: Span<FrontendTag>,
        report: &Report,
        held: &mut Held<'_>,
        edits: &mut Edits,
    ) -> Flow {
        let quote = |text: &str| settings::literal(text);
        let sql = format!(
            "DO $pglagoon$BEGIN RAISE EXCEPTION USING ERRCODE = '{}', MESSAGE = {}, HINT = {}; END$pglagoon$",
            report.code,
            quote(&report.message),
            quote(&report.hint)
        );
        held.state.statements.set_unnamed(None);
        self.routed = false;
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

    /// Ahead of a client's first request on a connection, which begins here: what it takes to make the connection's settings the client's.
    fn restore_settings(&mut self, held: &mut Held<'_>, edits: &mut Edits) -> Option<Want> {
        let is_aborted = self.transaction.status() == TransactionStatus::Failed;
        if is_aborted || !self.replies.is_empty() {
            return None;
        }
        if self.restoring == Restoring::Refused {
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
            self.restoring = Restoring::Sent;
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
        self.restoring = Restoring::Held(chance);
        self.routed = true;
        Want::Input
    }

    /// Whether a connection with these settings can be made neutral, and whether that would help.
    fn chance(&self, before: &Settings) -> Chance {
        let is_in_block = self.transaction.is_open() && self.deferred.is_none();
        let is_own = is_in_block || !self.pins.is_empty() || self.mode == PoolMode::Session;
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
            let sql = format!("DEALLOCATE {}", settings::identifier(&name));
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
    fn forget_foreign_sequences(&mut self, held: &mut Held<'_>, world: &World<'_>, edits: &mut Edits) {
        let Some(owner) = held.state.sequences_of.filter(|owner| *owner != world.client) else { return };
        let asks = self.head.as_ref().is_some_and(|head| head.statement().effects.any(Effects::SEQUENCE));
        let is_settled = self.batch == Batch::Idle && self.transaction.status() != TransactionStatus::Failed;
        if is_settled && (asks || world.sequences != Sequences::Unused) {
            held.state.sequences_of = None;
            self.clear("DISCARD SEQUENCES", Leftover::Sequences(owner), held, edits);
        }
    }

    /// Has the server forget what somebody else has left there.
    fn clear(&mut self, sql: &str, leftover: Leftover, held: &mut Held<'_>, edits: &mut Edits) {
        held.state.statements.set_unnamed(None);
        edits.insert(|out| frontend::write_query(out, sql.as_bytes()));
        self.replies.push(Request::Query, Action::Swallow, Some(Then::Cleared(leftover)));
    }

    /// Asks the server what is in doubt, if nothing is under way.
    pub(super) fn ask(&mut self, held: &mut Held<'_>, edits: &mut Edits) {
        if !self.has_questions() {
            return;
        }
        let names = self.hidden.take().map(|names| names.into_iter().collect());
        let pins = std::mem::take(&mut self.doubts_pins).then(|| self.pins.checkable());
        self.fresh_pins = Pins::default();
        let questions =
            [names.map(Question::Settings), pins.filter(|pins| !pins.is_empty()).map(Question::State)];
        for question in questions.into_iter().flatten() {
            held.state.statements.set_unnamed(None);
            edits.insert(|out| frontend::write_query(out, question.sql().as_bytes()));
            self.replies.push(Request::Query, Action::Swallow, Some(Then::Asked(question)));
        }
    }

    fn query(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        held: &mut Held<'_>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        // Looking for the text's end costs as much as all else here, and few need it.
        let text = || frontend::query(span.body(bytes)).unwrap_or_default();
        let statement = match self.head.take() {
            Some(Head::Query(statement)) => statement,
            _ => world.classify(text()),
        };
        let then = match has_consequence(&statement) {
            true => self.consequence(&statement, text()),
            false => None,
        };
        if self.must_know_status(then.as_ref()) {
            return Flow::Stop(Want::Input);
        }
        // In an aborted transaction the stand-in would not be removed, and need not be there.
        if self.transaction.status() != TransactionStatus::Failed {
            self.stand_in(then.as_ref(), edits);
        }
        // A simple Query destroys the unnamed statement, unless an error before it in the batch has it skipped (a FunctionCall in
        // between ends that no more than it does), or what stands before it has to run again.
        held.state.statements.set_unnamed(None);
        let before = self.statements.as_mut().and_then(|statements| statements.remove(b""));
        let may_be_skipped = || self.batch == Batch::Open || self.replies.has_function_call();
        if before.is_some() && (may_be_skipped() || self.runs_behind_kept()) {
            let then = Then::Unnamed(Renamed { name: Box::default(), before });
            self.replies.push(Request::Close, Action::Fabricate, Some(then));
        }
        // Its ReadyForQuery ends the batch that it stands in, as a Sync would.
        self.batch = Batch::Idle;
        self.sent(&statement, text, held, world, edits);
        self.replies.push(Request::Query, Action::Forward, then);
        self.replies.note(statement.reason);
        edits.forward(span.have());
        Flow::Done
    }

    /// What may become of the unnamed statement of a Parse that begins a request. Another may stand in its stead only if the
    /// client cannot tell: whatever fails because that one is older must be able to run again as it came. So it is for a
    /// request that binds it once, is all here, stands outside of a transaction block and has nothing behind it.
    fn unnamed_in(&self, span: Span<FrontendTag>, bytes: &[u8], world: &World<'_>) -> Unnamed {
        let may_stand_in = span.tag() == FrontendTag::PARSE
            && world.unnamed == Unnamed::Keep
            && self.pace == Pace::OneByOne
            && self.stands_alone()
            && !self.runs_again()
            && self.settings.share_analysis()
            && bytes.len() <= replay::MAX_KEPT
            && is_one_execution(bytes);
        if may_stand_in { Unnamed::Keep } else { Unnamed::Forward }
    }

    fn parse(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        unnamed: Unnamed,
        held: &mut Held<'_>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        let Some(parse) = Parse::new(span.body(bytes)) else {
            return Flow::Stop(fatal(Report::protocol("invalid Parse message")));
        };
        let mut named = self.parsed(&parse, world);
        if self.naming == Naming::Own && !parse.name.is_empty() {
            edits.events.client_parses += 1;
            // The connection is the client's own: names stay as they are, and the server says whether they are good. The unnamed
            // statement does not outlive what the server is asked on our own account.
            self.replies.push(Request::Parse, Action::Forward, None);
            edits.forward(span.have());
            self.statements.get_or_insert_default().insert(parse.name, named);
            return Flow::Done;
        }
        if !parse.name.is_empty()
            && self.statements.as_ref().is_some_and(|all| all.find(parse.name).is_some())
        {
            return self.duplicate(span, parse, edits);
        }
        if self.may_fail_before() && !parse.name.is_empty() {
            // In an aborted transaction the server refuses it; whether it is one is not known yet.
            self.head = Some(Head::Parse(named));
            return Flow::Stop(Want::Input);
        }
        edits.events.client_parses += 1;
        self.set_apart(&mut named.prepared, world);
        let prepared = named.prepared.clone();
        let before = self.statements.get_or_insert_default().insert(parse.name, named);
        let renamed = Renamed { name: parse.name.into(), before };
        let place = match unnamed {
            Unnamed::Keep if parse.name.is_empty() => place_unnamed(&prepared, held, world),
            _ => None,
        };
        if let Some(place) = place {
            edits.skip(span.have());
            self.parse_kept(place, &prepared, renamed, held, edits);
            return Flow::Done;
        }
        if parse.name.is_empty() {
            edits.events.server_parses += 1;
            held.state.statements.set_unnamed(Some(prepared.id));
            self.replies.push(
                Request::Parse,
                Action::Forward,
                Some(Then::ParsedUnnamed { name: Some(renamed) }),
            );
            edits.forward(span.have());
            return Flow::Done;
        }
        edits.skip(span.have());
        let is_there = held.state.statements.uses(prepared.id);
        if is_there && self.transaction.status() == TransactionStatus::Failed {
            // In an aborted transaction most statements are refused: the server shall say which.
            edits.insert(|out| frontend::write_close_statement(out, &prepared.server_name));
            self.replies.push(Request::Close, Action::Swallow, Some(Then::Evicted(prepared.clone())));
            let then = Then::Parsed { id: prepared.id, name: Some(renamed) };
            self.put_on_server(&prepared, Action::Forward, then, held, edits);
        } else if is_there {
            let action = Action::Complete(BackendTag::PARSE_COMPLETE);
            self.replies.push(Request::Parse, action, Some(Then::Named(renamed)));
        } else {
            let then = Then::Parsed { id: prepared.id, name: Some(renamed) };
            self.put_on_server(&prepared, Action::Forward, then, held, edits);
        }
        Flow::Done
    }

    /// A statement that the server keeps stands in for the client's unnamed one, up to the end of the batch.
    fn parse_kept(
        &mut self,
        place: Place,
        prepared: &Arc<Prepared>,
        renamed: Renamed,
        held: &mut Held<'_>,
        edits: &mut Edits,
    ) {
        let name = Some(renamed);
        match place {
            Place::Taken => {
                let action = Action::Complete(BackendTag::PARSE_COMPLETE);
                self.replies.push(Request::Parse, action, Some(Then::Kept { put: None, name }));
            }
            Place::Free => {
                let then = Then::Kept { put: Some(prepared.id), name };
                self.put_on_server(prepared, Action::Forward, then, held, edits);
            }
        }
    }

    /// Whether an earlier batch or Query that is not answered may turn out to have aborted a transaction block.
    fn may_fail_before(&self) -> bool {
        (self.transaction.is_open() || self.may_be_in_block) && self.replies.ready_owed() > 0
    }

    /// What the Parse at the head of the input prepares: as it was routed, unless the catalog or the settings have changed
    /// since.
    pub(super) fn parsed(&mut self, parse: &Parse<'_>, world: &mut World<'_>) -> Named {
        let settings = self.settings.analysis();
        match self.head.take() {
            Some(Head::Parse(named))
                if named.version == world.stamp()
                    && named.prepared.analysis == Analysis::Shared(settings) =>
            {
                named
            }
            _ => world.prepare(parse, settings),
        }
    }

    /// The client's name is taken. The server shall say so itself, in its own words and with its own consequences for the
    /// transaction: it is given an empty statement of that name first, which is closed after the Sync.
    fn duplicate(&mut self, span: Span<FrontendTag>, parse: Parse<'_>, edits: &mut Edits) -> Flow {
        if self.stray.is_none() {
            edits.insert(|out| Parse::write(out, parse.name, b"", b"\0\0"));
            self.replies.push(Request::Parse, Action::Swallow, None);
            self.stray = Some(Box::new(parse.name.into()));
        }
        self.replies.push(Request::Parse, Action::Forward, None);
        edits.forward(span.have());
        Flow::Done
    }

    fn bind(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        held: &mut Held<'_>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        let body = span.body(bytes);
        let Some(bind) = Bind::new(body) else {
            return Flow::Stop(fatal(Report::protocol("invalid Bind message")));
        };
        if bind.statement.is_empty() && self.replies.has_unnamed_of_earlier_batch() {
            return Flow::Stop(Want::Input);
        }
        edits.events.binds += 1;
        let named = self.find_for(bind.statement, held, world);
        let is_own = self.naming == Naming::Own;
        let is_named = !bind.statement.is_empty();
        let is_kept = !is_named && self.replies.has_kept();
        match &named {
            Some(named) => {
                self.sent(&named.statement, || &named.prepared.text, held, world, edits);
                self.open_portal(bind.portal, named);
                if is_named && !is_own {
                    self.ensure(&named.prepared, held, edits);
                } else if !is_named && !is_kept {
                    self.ensure_unnamed(&named.prepared, held, edits);
                }
            }
            None if !is_named => self.close_foreign_unnamed(held, edits),
            // The server may know it, by an SQL-level PREPARE.
            None => self.replies.risk(Stake::WORK),
        }
        if let (None, Some(portals)) = (&named, &mut self.portals) {
            portals.remove(bind.portal);
        }
        self.replies.push(Request::Bind, Action::Forward, None);
        if let Some(named) = &named {
            self.replies.note(named.statement.reason);
        }
        match named.filter(|_| !is_own && (is_named || is_kept)) {
            None => edits.forward(span.have()),
            Some(named) => {
                let rest = span.len() - HEADER - bind.head;
                let fits =
                    edits.insert(|out| Bind::write_head(out, bind.portal, &named.prepared.server_name, rest));
                if !fits {
                    return Flow::Stop(fatal(Report::protocol("Bind message is too long")));
                }
                edits.skip(HEADER + bind.head);
                edits.forward(span.have() - HEADER - bind.head);
            }
        }
        Flow::Done
    }

    fn describe_or_close(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        held: &mut Held<'_>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        let is_close = span.tag() == FrontendTag::CLOSE;
        let request = if is_close { Request::Close } else { Request::Describe };
        let name = match Target::new(span.body(bytes)) {
            None => return Flow::Stop(fatal(Report::protocol("invalid Describe or Close message"))),
            Some(Target::Statement(name)) if self.naming == Naming::Ours || name.is_empty() => name,
            Some(Target::Statement(name)) => {
                if let Some(statements) = self.statements.as_mut().filter(|_| is_close) {
                    statements.remove(name);
                }
                self.replies.push(request, Action::Forward, None);
                edits.forward(span.have());
                return Flow::Done;
            }
            Some(Target::Portal(_)) => {
                self.replies.push(request, Action::Forward, None);
                edits.forward(span.have());
                return Flow::Done;
            }
        };
        if is_close {
            let before = self.statements.as_mut().and_then(|statements| statements.remove(name));
            let then = Then::Unnamed(Renamed { name: name.into(), before });
            self.replies.push(request, Action::Complete(BackendTag::CLOSE_COMPLETE), Some(then));
            return self.skip(span, edits);
        }
        if name.is_empty() && self.replies.has_unnamed_of_earlier_batch() {
            return Flow::Stop(Want::Input);
        }
        let named = self.find_for(name, held, world);
        match &named {
            Some(named) if name.is_empty() => self.ensure_unnamed(&named.prepared, held, edits),
            Some(named) => self.ensure(&named.prepared, held, edits),
            None if name.is_empty() => self.close_foreign_unnamed(held, edits),
            None => {}
        }
        let told = named.as_ref().filter(|named| named.prepared.may_have_parameters());
        let then = told.map(|named| Then::Described { name: name.into(), id: named.prepared.id });
        self.replies.push(request, Action::Forward, then);
        match named.filter(|_| !name.is_empty()) {
            None => edits.forward(span.have()),
            Some(named) => {
                edits.insert(|out| frontend::write_describe_statement(out, &named.prepared.server_name));
                edits.skip(span.have());
            }
        }
        Flow::Done
    }

    /// A Close needs no server: names are kept here, and portals do not outlive their transaction.
    pub(super) fn close_without_server(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        edits: &mut Edits,
    ) -> Flow {
        match Target::new(span.body(bytes)) {
            None => return Flow::Stop(fatal(Report::protocol("invalid Close message"))),
            Some(Target::Statement(name)) => {
                if let Some(statements) = &mut self.statements {
                    statements.remove(name);
                }
            }
            Some(Target::Portal(_)) => {}
        }
        backend::write_bare(&mut edits.reply, BackendTag::CLOSE_COMPLETE);
        self.skip(span, edits)
    }

    fn execute(&mut self, span: Span<FrontendTag>, bytes: &[u8], edits: &mut Edits) -> Flow {
        let portal = frontend::executed_portal(span.body(bytes)).unwrap_or_default();
        let effect = self.portals.as_ref().and_then(|portals| portals.get(portal));
        let then = match effect.map(|effect| (effect.statement.clone(), effect.prepared.clone())) {
            Some((statement, prepared)) => self.consequence(&statement, &prepared.text),
            None => None,
        };
        if self.must_know_status(then.as_ref()) {
            return Flow::Stop(Want::Input);
        }
        self.stand_in(then.as_ref(), edits);
        let is_deallocation = then.as_ref().is_some_and(Then::is_deallocation);
        self.replies.push(Request::Execute, Action::Forward, then);
        edits.forward(span.have());
        if is_deallocation {
            // What follows hangs on it and waits, so it must be answered at once.
            edits.insert(frontend::write_flush);
        }
        Flow::Done
    }

    /// The client wants to see what is there. If all of that is ours to say, no server will.
    fn flush(&mut self, span: Span<FrontendTag>, held: Option<&mut Held<'_>>, edits: &mut Edits) -> Flow {
        if held.is_none() || self.batch != Batch::Open {
            return self.skip(span, edits);
        }
        self.answer_at_once(edits);
        edits.forward(span.have());
        Flow::Done
    }

    /// Sends answers of ours that nothing of the server's comes before.
    fn answer_at_once(&mut self, edits: &mut Edits) {
        if !self.server.at_boundary() {
            return;
        }
        while let Some(reply) = self.replies.pop_synthetic() {
            reply.fabricate(&mut edits.reply);
        }
    }

    /// Makes sure that the server has this statement under our name.
    fn ensure(&mut self, prepared: &Arc<Prepared>, held: &mut Held<'_>, edits: &mut Edits) {
        if !held.state.statements.uses(prepared.id) {
            let then = Then::Parsed { id: prepared.id, name: None };
            self.put_on_server(prepared, Action::Swallow, then, held, edits);
        }
    }

    /// Makes sure that this is the server's unnamed statement.
    fn ensure_unnamed(&mut self, prepared: &Arc<Prepared>, held: &mut Held<'_>, edits: &mut Edits) {
        if held.state.statements.unnamed() != Some(prepared.id) {
            edits.events.server_parses += 1;
            edits.insert(|out| Parse::write(out, b"", &prepared.text, &prepared.types));
            held.state.statements.set_unnamed(Some(prepared.id));
            self.replies.push(Request::Parse, Action::Swallow, Some(Then::ParsedUnnamed { name: None }));
        }
    }

    /// The client has no unnamed statement, but the server may have one of somebody else's: it must not be found.
    fn close_foreign_unnamed(&mut self, held: &mut Held<'_>, edits: &mut Edits) {
        edits.insert(|out| frontend::write_close_statement(out, b""));
        held.state.statements.set_unnamed(None);
        self.replies.push(Request::Close, Action::Swallow, None);
    }

    fn put_on_server(
        &mut self,
        prepared: &Arc<Prepared>,
        action: Action,
        then: Then,
        held: &mut Held<'_>,
        edits: &mut Edits,
    ) {
        if let Some(evicted) = held.state.statements.add(prepared) {
            edits.insert(|out| frontend::write_close_statement(out, &evicted.server_name));
            self.replies.push(Request::Close, Action::Swallow, Some(Then::Evicted(evicted)));
        }
        edits.events.server_parses += 1;
        edits.insert(|out| Parse::write(out, &prepared.server_name, &prepared.text, &prepared.types));
        self.replies.push(Request::Parse, action, Some(then));
    }

    fn open_portal(&mut self, portal: &[u8], named: &Named) {
        if has_consequence(&named.statement) {
            let effect =
                PortalEffect { prepared: named.prepared.clone(), statement: named.statement.clone() };
            let portals = self.portals.get_or_insert_default();
            portals.insert(portal.into(), effect);
            if portals.len() > MAX_PORTALS {
                // No honest client comes here; which settings these portals change is no longer followed.
                portals.clear();
                self.pin(Effects::HIDDEN_SETTINGS);
            }
        } else if let Some(portals) = &mut self.portals {
            portals.remove(portal);
        }
    }

    /// Whether `then` takes away a name of the client's that the server knows by another name, which others share.
    fn is_shared(&self, then: Option<&Then>) -> bool {
        let Some(Then::Deallocated(name)) = then else { return false };
        let knows = |statements: &ClientStatements| statements.find(name).is_some();
        self.naming == Naming::Ours && self.statements.as_deref().is_some_and(knows)
    }

    /// Whether the state of the transaction must be known first: see [`stand_in`](Self::stand_in).
    fn must_know_status(&self, then: Option<&Then>) -> bool {
        self.is_shared(then) && self.replies.ready_owed() > 0
    }

    /// Ahead of DEALLOCATE: gives the server an empty statement of the client's own name to remove, so that it answers as
    /// if that had been the one.
    fn stand_in(&mut self, then: Option<&Then>, edits: &mut Edits) {
        let Some(Then::Deallocated(name)) = then.filter(|then| self.is_shared(Some(then))) else { return };
        edits.insert(|out| {
            frontend::write_close_statement(out, name);
            Parse::write(out, name, b"", b"\0\0");
        });
        self.replies.push(Request::Close, Action::Swallow, None);
        self.replies.push(Request::Parse, Action::Swallow, None);
    }

    /// What a statement leads to once it has succeeded.
    fn consequence(&mut self, statement: &Statement, text: &[u8]) -> Option<Then> {
        let then = self.consequence_for_state(statement, text);
        if !statement.effects.any(Effects::UNLISTEN) || self.channels.is_empty() || !self.may_remember(text) {
            return then;
        }
        Some(Then::Unlistened(effect::unlistened(text), then.map(Box::new)))
    }

    fn consequence_for_state(&mut self, statement: &Statement, text: &[u8]) -> Option<Then> {
        let effects = statement.effects;
        if effects.any(Effects::DISCARD_ALL) {
            return Some(Then::Discarded);
        }
        if effects.any(Effects::DEALLOCATE_ALL) {
            return Some(Then::DeallocatedAll);
        }
        if effects.any(Effects::PREPARED_NAME)
            && let Some(Deallocated::Name(name)) = effect::deallocated(text)
        {
            return Some(Then::Deallocated(name.into_bytes().into()));
        }
        if effects.any(Effects::PREPARE) && statement.statements == 1 {
            return self.prepare_by_sql(text);
        }
        if !effects.any(Effects::SETTINGS.with(Effects::SET_CONFIG)) {
            return None;
        }
        let changes = if self.may_remember(text) { setting_changes(effects, text) } else { None };
        match changes {
            Some(changes) if changes.is_empty() => None,
            Some(changes) => Some(Then::Settings(changes)),
            None => {
                self.pin(Effects::HIDDEN_SETTINGS);
                None
            }
        }
    }

    /// Whether what this text changes may be remembered until its transaction is over, too.
    fn may_remember(&self, text: &[u8]) -> bool {
        let completed = self.completed.as_ref().map_or(0, |completed| completed.weight());
        self.replies.weight() + completed + text.len() < MAX_REMEMBERED
    }

    /// PREPARE follows its client; what cannot follow pins.
    fn prepare_by_sql(&mut self, text: &[u8]) -> Option<Then> {
        let name = effect::prepared(text).filter(|_| self.sql_statements.has_room(text));
        if name.is_none() {
            self.pin(Effects::PREPARE);
        }
        name.map(|name| Then::Prepared(name, text.into()))
    }

    /// A statement goes to the server: what that means for the client, whatever becomes of it.
    fn sent<'t>(
        &mut self,
        statement: &Statement,
        text: impl Fn() -> &'t [u8],
        held: &mut Held<'_>,
        world: &World<'_>,
        edits: &mut Edits,
    ) {
        let effects = self.effects_of(statement, &text, world.catalog);
        if !effects.is_none() {
            self.leaves(effects, statement, edits);
            if analysis::changes_reading(effects, &text) {
                self.reading = Reading::Apart;
            }
        }
        if effects.any(Effects::VACATES) {
            edits.vacated = effect::vacated(text()).map(String::into_boxed_str);
            edits.events.vacates |= edits.vacated.is_some();
        }
        self.doubts_pins |= !self.pins.is_empty() && may_end_state(statement);
        // A temporary relation is seen by its own session alone, which is pinned: nobody else's names change their meaning.
        let is_private = statement.effects.any(Effects::TEMPORARY) && statement.statements == 1;
        self.ddl |= statement.effects.any(Effects::DDL) && !is_private;
        self.unknown_name |= matches!(statement.reason, Reason::UnknownFunction | Reason::UnknownRelation);
        self.may_be_in_block |=
            statement.transaction.is_some() || (statement.statements > 1 && statement.access != Access::Read);
        let stake = Stake::of(statement);
        self.replies.risk(if held.role == Role::Replica { stake.on_replica() } else { stake });
        if statement.access != Access::Read && !is_only_session_state(statement) {
            self.mark_write(held, world);
        }
    }

    /// What running the statement leaves behind, with what only its literals tell, what it executes by name, and what runs
    /// when it writes.
    fn effects_of<'t>(
        &self,
        statement: &Statement,
        text: impl Fn() -> &'t [u8],
        catalog: &dyn Catalog,
    ) -> Effects {
        let mut effects = statement.effects;
        if effects.any(Effects::BLOCK) {
            effects = effects.with(effect::block(text(), catalog));
        }
        if effects.any(Effects::PREPARED_NAME) {
            effects = effects.with(self.executes);
        }
        if statement.access != Access::Read {
            effects = effects.with(catalog.writes().without(Effects::SEQUENCE));
        }
        if effects.any(Effects::DDL) && self.settings.may_create_temporary() {
            effects = effects.with(Effects::TEMPORARY);
        }
        effects
    }

    /// What a statement leaves behind in its session.
    fn leaves(&mut self, effects: Effects, statement: &Statement, edits: &mut Edits) {
        let asks_sequences = effects.any(Effects::SEQUENCE);
        edits.events.sequence_state |= asks_sequences;
        if effects.any(Effects::PREPARE) {
            let executed = effects.without(Effects::PREPARE);
            let hides = executed.any(Effects::SETTINGS.with(Effects::SET_CONFIG));
            self.executes = self.executes.with(if hides { executed.with(body::ANYTHING) } else { executed });
        }
        let follows = effects.any(Effects::PREPARE) && statement.statements == 1;
        let causes = if follows { effects.without(Effects::PREPARE) } else { effects };
        self.pin(causes.without(Effects::SEQUENCE));
        if effects.any(Effects::UNKNOWN) && self.mode != PoolMode::Session {
            // Whatever can be found out is asked for; what cannot does not reach anybody else.
            self.is_soiled = true;
            self.pin_by(Pins::all_checkable());
        }
    }

    fn mark_write(&mut self, held: &mut Held<'_>, world: &World<'_>) {
        if held.role != Role::Primary {
            return;
        }
        self.wrote = true;
        self.replies.risk(Stake::WORK);
        let now = world.now;
        self.recall(|history| history.wrote(now));
        held.state.sequences_of = Some(world.client);
        self.has_drawn = true;
        if world.sequences == Sequences::Used && world.pin_room == PinRoom::Open {
            self.pin(Effects::SEQUENCE);
        }
    }

    fn pin_by(&mut self, causes: Pins) {
        self.pins = self.pins.with(causes);
        self.fresh_pins = self.fresh_pins.with(causes);
        self.doubts_pins = true;
    }

    pub(super) fn pin(&mut self, effects: Effects) {
        let causes = Pins::of(effects);
        if self.mode != PoolMode::Session && !causes.is_empty() {
            self.pin_by(causes);
        }
    }

    pub(super) fn skip(&mut self, span: Span<FrontendTag>, edits: &mut Edits) -> Flow {
        self.client_part = Passing::Skip;
        // What it would have run is not what the next message runs.
        self.head = None;
        edits.skip(span.have());
        Flow::Done
    }
}

/// Whether the buffer lacks bytes that must be there before the message can be dealt with.
fn missing(span: Span<FrontendTag>, bytes: &[u8], max_message: usize) -> Option<Want> {
    if span.is_whole() {
        return None;
    }
    match span.tag() {
        FrontendTag::FUNCTION_CALL => None,
        FrontendTag::BIND if Bind::new(span.body(bytes)).is_some() => None,
        FrontendTag::BIND if span.have() > MAX_NAMES => {
            Some(fatal(Report::protocol("names in Bind are too long")))
        }
        FrontendTag::BIND => Some(Want::Whole(span.len().min(span.have() + 1024))),
        _ if span.len() > max_message => Some(fatal(too_long(span.len(), max_message))),
        _ => Some(Want::Whole(span.len())),
    }
}

/// Whether a request is one Parse of the unnamed statement, one Bind of that, what belongs to its portal, and Sync, and nothing
/// follows. Where the statement is described, the client may bind it later by the types that it has seen.
fn is_one_execution(bytes: &[u8]) -> bool {
    let mut messages = messages(bytes);
    let mut next = || messages.next().and_then(Result::ok);
    let is_parsed = next().is_some_and(|(_, body)| Parse::name(body) == Some(b""));
    let is_bound = is_parsed
        && next().is_some_and(|(tag, body)| {
            tag == FrontendTag::BIND && Bind::new(body).is_some_and(|bind| bind.statement.is_empty())
        });
    let mut behind = std::iter::from_fn(next).skip_while(|(tag, body)| match *tag {
        FrontendTag::DESCRIBE | FrontendTag::CLOSE => body.first() == Some(&b'P'),
        tag => tag == FrontendTag::EXECUTE,
    });
    is_bound && behind.next().is_some_and(|(tag, _)| tag == FrontendTag::SYNC) && behind.next().is_none()
}

/// A statement's place on a server connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is there.
    Taken,
    /// It is to be put there.
    Free,
}

/// The place of a statement that comes without a name, if the server that is held should keep it.
fn place_unnamed(prepared: &Prepared, held: &mut Held<'_>, world: &mut World<'_>) -> Option<Place> {
    let statements = &mut held.state.statements;
    match world.registry.comes_unnamed(prepared.id) {
        true if statements.uses(prepared.id) => Some(Place::Taken),
        true => statements.has_room_for(prepared).then_some(Place::Free),
        false => None,
    }
}

/// Where a request may run, and the effects of the statement that decided it.
struct Judged {
    route: Route,
    effects: Effects,
}

impl Judged {
    fn listens(&self) -> bool {
        self.effects.any(Effects::LISTEN.with(Effects::UNLISTEN))
    }
}

/// By what a statement is routed, and what it leaves behind.
pub(super) type Judgement = (Access, Effects);

const UNSURE: Judgement = (Access::Unsure, Effects::NONE);
const HARMLESS: Judgement = (Access::Read, Effects::NONE);

/// The access by which a statement is routed, and what it leaves behind.
fn routable(statement: &Statement, wish: Option<Hint>) -> Judgement {
    (statement.routable_as(wish), statement.effects)
}

/// Whether running the statement changes what the session knows.
fn has_consequence(statement: &Statement) -> bool {
    statement.effects.any(
        Effects::SETTINGS
            .with(Effects::SET_CONFIG)
            .with(Effects::PREPARE)
            .with(Effects::PREPARED_NAME)
            .with(Effects::DEALLOCATE_ALL)
            .with(Effects::DISCARD_ALL)
            .with(Effects::UNLISTEN),
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

/// Whether state that pins a client may be gone once the statement has run.
fn may_end_state(statement: &Statement) -> bool {
    statement.effects.any(Effects::ENDS_STATE.with(Effects::BLOCK))
        || matches!(statement.reason, Reason::UnknownFunction | Reason::HarmfulFunction)
}

/// What a text does to settings by SET, RESET and `set_config`, if it can be told.
fn setting_changes(effects: Effects, text: &[u8]) -> Option<Vec<SettingChange>> {
    let mut changes = match effects.any(Effects::SETTINGS) {
        true => effect::setting_changes(text)?,
        false => Vec::new(),
    };
    if effects.any(Effects::SET_CONFIG) {
        let names = effect::set_configs(text)?;
        changes.extend(names.into_iter().map(|name| SettingChange::Hidden { name }));
    }
    Some(changes)
}

/// Transaction commands and settings are not data: they make no later read stale.
fn is_only_session_state(statement: &Statement) -> bool {
    let is_quiet = matches!(statement.reason, Reason::SessionCommand | Reason::Empty)
        && !statement.effects.any(Effects::DDL.with(Effects::HIDDEN_SETTINGS));
    is_quiet || statement.transaction.is_some_and(|verb| verb != TransactionVerb::PrepareTransaction)
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

fn too_long(len: usize, max: usize) -> Report {
    let text = format!("a message of {len} bytes is longer than {max} bytes");
    Report::new(ErrorSource::Client, SqlState::PROGRAM_LIMIT_EXCEEDED, text)
        .hint("listen.max_message is the limit for statements; parameters, rows and COPY data have none")
}

fn may_be_lost() -> Report {
    Report::new(
        ErrorSource::Server,
        SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
        "what this session wrote or read last may be lost: another server has become primary since",
    )
    .detail("This is said once; the session goes on with what the new primary has.")
    .hint("routing.on_lost_write says whether it is said at all.")
}
