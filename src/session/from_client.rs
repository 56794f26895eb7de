//! What a client's messages mean: where they may run, what goes to the server for them, and what is owed for it.

use super::consequences::has_consequence;
use super::own::End;
use super::refuse::hidden_own_setting;
use super::*;

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
            FrontendTag::SYNC | FrontendTag::FLUSH if self.tenure.copy == Copy::In => {
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
                if self.tenure.copy == Copy::In {
                    let text =
                        format!("unexpected message type 0x{:02X} during COPY from stdin", span.tag().0);
                    return Flow::Stop(fatal(Report::protocol(text)));
                }
                if self.batch == Batch::Failed {
                    return self.skip(span, edits);
                }
                self.request(span, bytes, held, world, edits)
            }
            tag => Flow::Stop(fatal(Report::protocol(format!("invalid frontend message type {}", tag.0)))),
        }
    }

    /// COPY data outside copy-in mode comes from a client that has not yet read that its COPY failed (the server would
    /// ignore it, so it is dropped here and never reaches whoever has that server next), or from one that did not wait for
    /// CopyInResponse: as long as an answer is outstanding that may be one, the data waits for it.
    fn copy_message(&mut self, span: Span<FrontendTag>, edits: &mut Edits) -> Flow {
        if self.tenure.copy != Copy::In {
            if !self.replies.may_begin_copy() {
                self.tenure.copy = Copy::None;
                return self.skip(span, edits);
            }
            if self.tenure.copy == Copy::None && self.batch == Batch::Open {
                // What will end the batch may stand behind these data: the server shall not wait for it with its answer.
                edits.insert(frontend::write_flush);
            }
            self.tenure.copy = Copy::Awaited;
            return Flow::Stop(Want::Input);
        }
        if span.tag() != FrontendTag::COPY_DATA {
            self.tenure.copy = Copy::None;
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
        if let Some(flow) = self.settle_here(span, bytes, held.as_deref_mut(), world, edits) {
            return flow;
        }
        let Some(held) = held else { return self.seek_server(span, bytes, world, edits) };
        if let Some(flow) = self.stop_short(span, bytes, held, world, edits) {
            return flow;
        }
        self.tenure.routed = false;
        let unnamed = self.unnamed_in(span, bytes, world);
        self.transaction.request(world.now);
        self.tenure.asked.get_or_insert(world.now);
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
            self.tenure.routed = true;
            return Flow::Stop(Want::Input);
        }
        self.look_ahead(span, bytes, world);
        self.forget_foreign_sequences(held, world, edits);
        self.send(span, bytes, unnamed, held, world, edits)
    }

    /// What is dealt with before it matters which server is held, if any.
    fn settle_here(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        mut held: Option<&mut Held<'_>>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Option<Flow> {
        if let Some(want) = missing(span, bytes, world.max_message) {
            return Some(Flow::Stop(want));
        }
        if !self.tenure.routed {
            // What was made of it before may have been made by another catalog.
            self.head = None;
        }
        if let Batch::Here(verb) = self.batch {
            return Some(self.answer_here(verb, span, bytes, world, edits));
        }
        if let Some(report) = self.refused(span, bytes, world) {
            return Some(self.refuse(span, report, held, edits));
        }
        if let Some(flow) = self.own_request(span, bytes, held.as_deref_mut(), world, edits) {
            return Some(flow);
        }
        if let Some(want) = self.take_key(span, bytes, world) {
            return Some(Flow::Stop(want));
        }
        self.agree(held.as_deref(), world);
        if held.is_none() { self.deferred_request(span, bytes, world, edits) } else { None }
    }

    /// A request of a client that holds no server.
    fn seek_server(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        if self.doubts(world)
            && let Some(flow) = self.end_of_nothing(span, bytes, world, edits)
        {
            return flow;
        }
        if span.tag() == FrontendTag::CLOSE {
            return self.close_without_server(span, bytes, edits);
        }
        if self.may_have_lost(world) {
            return self.refuse(span, may_be_lost(), None, edits);
        }
        if self.mode == PoolMode::Session {
            return Flow::Stop(Want::Lease(Route::primary(Why::Held)));
        }
        match self.judge(span, bytes, world) {
            Some(judged) if judged.listens() => self.listen(span, bytes, judged.route, world, edits),
            Some(judged) => Flow::Stop(Want::Lease(judged.route)),
            None => Flow::Stop(Want::Input),
        }
    }

    /// What keeps a request from going to the server that is held now, if anything does.
    fn stop_short(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        held: &mut Held<'_>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Option<Flow> {
        if self.tenure.routed && self.is_misplaced(span, held, world) {
            self.tenure.routed = false;
            if self.may_return() {
                return Some(Flow::Stop(Want::Return));
            }
            self.tenure.routed = true;
        }
        if self.is_restoring() || self.must_wait(span.tag(), held) || !self.has_room(edits) {
            return Some(Flow::Stop(Want::Input));
        }
        if self.promotable.is_some()
            && let Some(flow) = self.promote(span, bytes, held, world, edits)
        {
            return Some(flow);
        }
        if self.tenure.routed || self.is_bound() {
            return None;
        }
        // Earlier requests of the same client are still unanswered. One that their server may serve follows at once;
        // any other waits until that server has been given back.
        match self.judge(span, bytes, world) {
            Some(judged)
                if judged.route.is_served_by(held.role, held.node)
                    && !(judged.listens() && self.is_heeded_here(span, bytes)) =>
            {
                None
            }
            _ if self.may_return() => Some(Flow::Stop(Want::Return)),
            _ => Some(Flow::Stop(Want::Input)),
        }
    }

    /// Whether a request that was routed had better not go to the server that was granted for it.
    fn is_misplaced(&mut self, span: Span<FrontendTag>, held: &Held<'_>, world: &World<'_>) -> bool {
        // It was a read as others read it.
        let is_misread = held.role == Role::Replica && !self.is_misread && held.state.misreads_by_default();
        self.is_misread |= is_misread;
        // While it waited for the server, another one has become primary: the client is told before anything is sent.
        is_misread || (span.tag() != FrontendTag::CLOSE && self.doubts(world))
    }

    /// Whether the server is not the client's yet.
    fn is_restoring(&self) -> bool {
        match self.tenure.restoring {
            Restoring::Held(_) | Restoring::Failed(_) => true,
            // The answer is not over yet: what is to be done next is not for now, and nothing else is.
            Restoring::Refused => !self.replies.is_empty(),
            Restoring::No | Restoring::Sent => false,
        }
    }

    fn send(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        unnamed: Unnamed,
        held: &mut Held<'_>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        match span.tag() {
            FrontendTag::QUERY => return self.query(span, bytes, held, world, edits),
            FrontendTag::FUNCTION_CALL => {
                self.mark_write(held, world);
                self.batch = Batch::Idle;
                self.replies.push(Request::FunctionCall, Action::Forward, None);
                edits.forward(span.have());
                return Flow::Done;
            }
            _ => {}
        }
        let before = std::mem::replace(&mut self.batch, Batch::Open);
        let flow = match span.tag() {
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
        flow
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
    /// batch before this one gives or takes, everything behind a DEALLOCATE, what runs after a RESET, and what pins. Or too
    /// much is under way already.
    fn must_wait(&self, tag: FrontendTag, held: &Held<'_>) -> bool {
        if self.replies.is_empty() {
            return self.batch == Batch::Idle && (self.is_resetting() || self.is_full());
        }
        if self.replies.has_deallocations() {
            return true;
        }
        if self.batch != Batch::Idle {
            return false;
        }
        // After a RESET the server's settings are not the client's, and are put right when nothing is outstanding.
        let is_out_of_step = self.settings != held.state.settings;
        // What is not really there shall not keep a write on a replica: the server has been asked.
        let may_be_set_free = held.role == Role::Replica && !self.tenure.pins.is_empty();
        let hangs_on_names = !matches!(tag, FrontendTag::QUERY | FrontendTag::FUNCTION_CALL);
        is_out_of_step
            || may_be_set_free
            || self.is_resetting()
            || self.is_full()
            || (hangs_on_names && self.replies.has_names())
    }

    /// Whether one more answer may be outstanding. If not, the server is asked for those that it may still hold back.
    pub(super) fn has_room(&mut self, edits: &mut Edits) -> bool {
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
            true => {
                if let Some(report) = hidden_own_setting(&statement, text()) {
                    return self.fail_on_server(span, &report, held, edits);
                }
                self.consequence(&statement, text())
            }
            false => None,
        };
        let has_name = statement.effects.any(Effects::PREPARED_NAME);
        let hangs_on_names = has_name && self.replies.has_names() && self.replies.ready_owed() > 0;
        if hangs_on_names || self.must_know_status(then.as_ref()) {
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
        // If it may be skipped for an error before it, its client has to send a Sync, and one of ours would come too soon.
        let may_skip = has_name && self.replies.may_skip();
        let has_sync = has_name && self.lend(&statement, text, edits) && !may_skip;
        self.replies.push(Request::Query, Action::Forward, then);
        self.replies.note(statement.reason);
        edits.forward(span.have());
        if has_sync {
            edits.insert(frontend::write_sync);
            self.replies.push(Request::Sync, Action::Swallow, None);
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
        if !self.tenure.server.at_boundary() {
            return;
        }
        while let Some(reply) = self.replies.pop_synthetic() {
            reply.fabricate(&mut edits.reply);
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

fn too_long(len: usize, max: usize) -> Report {
    let text = format!("a message of {len} bytes is longer than {max} bytes");
    Report::new(ErrorSource::Client, SqlState::PROGRAM_LIMIT_EXCEEDED, text)
        .hint("listen.max_message is the limit for statements; parameters, rows and COPY data have none")
}

pub(super) fn may_be_lost() -> Report {
    Report::new(
        ErrorSource::Server,
        SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
        "what this session wrote or read last may be lost: another server has become primary since",
    )
    .detail("This is said once; the session goes on with what the new primary has.")
    .hint("routing.on_lost_write says whether it is said at all.")
}
