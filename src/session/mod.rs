//! One client's conversation: bytes in, edits and a want out. Pure.
//!
//! ```text
//!             on_client(bytes)                          on_backend(bytes)
//!  client ------------------> +---------+ <------------------------------ server
//!                             | Session |
//!         <-- Edits, Want --- +---------+ --- Edits, Want -->
//!
//!   Input ---- a request, no server ----> Lease(route) ---- on_leased / on_lease_failed ----> Input
//!   Input ---- ReadyForQuery, nothing owed, nothing held ----> Return ---- the relay gives the lease back ----> Input
//!   any   ---- Terminate, a broken protocol, a lost state ----> Close
//! ```
//!
//! The relay owns the sockets and the lease; it calls with whatever bytes it has and carries out the answer. Any cut of
//! the input gives the same output. What the relay must do besides:
//!
//! - call `on_client` again with what is left of the client's input, even if nothing was added to it, after a lease, after
//!   a return, after a failed lease, after a lost server, and after each `on_backend`: requests wait for answers;
//! - let the client's input buffer grow to [`LOOKAHEAD`] bytes, or to what [`Want::Whole`] says;
//! - write what was put out before it returns a connection.
//!
//! Invariants:
//!
//! - every request forwarded has one entry in the queue of `replies`, and only ReadyForQuery with status idle, an empty
//!   queue and no batch under way lets a server connection go;
//! - outside a transaction each request (a simple Query, or a batch up to Sync) is routed by its own statements;
//! - what a request changes (names, settings) is undone if the server never ran it.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html>

mod edits;
pub mod pin;
mod replies;
pub mod server_state;
pub mod settings;
mod transaction;

pub use edits::{Edit, Edits, Events};
pub use server_state::ServerState;
pub use settings::{Settings, Value};

use crate::config::{PoolMode, Routing};
use crate::error::{ErrorSource, Report};
use crate::prepared::{ClientStatements, Named, Prepared, Registry};
use crate::routing::{self, History, Role, Route, Why};
use crate::sql::effect::{self, Deallocated};
use crate::sql::{Access, Cache, Catalog, Effects, Reason, Statement, TransactionVerb};
use crate::wire::backend::{self, Fields, Severity, TransactionStatus};
use crate::wire::frontend::{self, Bind, Parse, Target};
use crate::wire::scan::{HEADER, Scanner, Span, Step};
use crate::wire::{BackendTag, FrontendTag, SqlState};
use pin::Pins;
use replies::{Action, Renamed, Reply, ReplyQueue, Request, Then};
use smallvec::SmallVec;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use transaction::Transaction;

/// How many bytes of a batch are looked at for its Sync before it is taken for one that the primary must serve.
pub const LOOKAHEAD: usize = 16 * 1024;

/// The most prepared statements that one client may name.
pub const MAX_STATEMENTS: usize = 10_000;

/// The longest names of a portal and a statement together that a Bind may carry, in bytes.
const MAX_NAMES: usize = 16 * 1024;

/// The most answers that one client may have outstanding; then the server's answers are waited for.
pub const MAX_OUTSTANDING: usize = 10_000;

/// The most portals of statements that change settings or names that are remembered within a transaction.
const MAX_PORTALS: usize = 1_000;

/// How much of a server's message is looked into; longer ones are judged by their head.
const MAX_INSPECTED: usize = 8 * 1024;

/// What a decision may look at besides the bytes.
pub struct World<'a> {
    /// The time.
    pub now: Instant,
    /// The pool's mode.
    pub mode: PoolMode,
    /// The routing rules of the client's database.
    pub rules: &'a Routing,
    /// What the database's catalog says of names.
    pub catalog: &'a dyn Catalog,
    /// Grows whenever DDL was seen: prepared texts are prepared anew.
    pub generation: u64,
    /// The worker's classified statements.
    pub classifier: &'a mut Cache,
    /// The worker's prepared statements.
    pub registry: &'a mut Registry,
    /// The largest message that may be held whole, in bytes.
    pub max_message: usize,
}

impl World<'_> {
    fn classify(&mut self, text: &[u8]) -> Arc<Statement> {
        self.classifier.look_up(text, self.catalog)
    }

    /// Changes whenever a statement must be looked at anew.
    fn stamp(&self) -> u64 {
        self.catalog.version().wrapping_mul(1 << 24).wrapping_add(self.generation)
    }
}

/// The server connection that the client holds.
pub struct Held<'a> {
    /// What the server was when it was leased.
    pub role: Role,
    /// What the connection has.
    pub state: &'a mut ServerState,
}

/// The one thing that a session wants next.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Want {
    /// More bytes, from whichever side.
    Input,
    /// So many bytes of client input in one piece (what is in the buffer included).
    Whole(usize),
    /// A server connection; then `on_client` again with the same bytes.
    Lease(Route),
    /// The server connection may go back.
    Return,
    /// The conversation is over.
    Close(Farewell),
}

/// How a conversation ends.
#[derive(Debug, PartialEq, Eq)]
pub enum Farewell {
    /// The client said goodbye.
    Terminated,
    /// The client is told why.
    Fatal(Report),
    /// Nothing can be said: the stream stands inside a message.
    Abrupt,
}

/// What a server connection still owes when its client is gone: what must be done before it can be used again.
#[derive(Debug, Clone, Copy)]
pub struct Owed {
    /// ReadyForQuery messages still to come.
    pub ready: usize,
    /// It waits for COPY data.
    pub copy_in: bool,
    /// A batch was begun and not ended by Sync.
    pub needs_sync: bool,
    /// A message was sent in part, or what is owed cannot be told: the connection is of no use any more.
    pub broken: bool,
    /// Where reading from the server stopped, perhaps inside a message.
    pub scanner: Scanner<BackendTag>,
    /// It is in a transaction, or holds state that only DISCARD ALL removes.
    pub discard: bool,
}

impl Owed {
    /// Whether the connection can be used at once.
    pub fn is_nothing(&self) -> bool {
        self.ready == 0
            && self.scanner.at_boundary()
            && !self.copy_in
            && !self.needs_sync
            && !self.broken
            && !self.discard
    }
}

/// Where an extended-protocol batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Batch {
    /// None is under way: the next request starts one.
    Idle,
    /// Requests were sent, Sync was not.
    Open,
    /// An error was reported: everything up to Sync is ignored.
    Failed,
}

/// Which way COPY data flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    None,
    /// The client has sent data before the server has asked for any.
    Awaited,
    /// The server waits for the client's data.
    In,
}

/// What becomes of the rest of a message whose head has been dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passing {
    Forward,
    Skip,
}

/// How things went since the last ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Fine,
    Failed,
    /// A COMMIT completed.
    Committed,
    /// A ROLLBACK completed.
    RolledBack,
    /// Several of them.
    Mixed,
}

impl Outcome {
    fn and(self, next: Outcome) -> Outcome {
        match self {
            Outcome::Fine => next,
            same if same == next => same,
            _ => Outcome::Mixed,
        }
    }
}

/// Whether the client's settings are being put back on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Restoring {
    No,
    /// The answer is awaited; requests may follow at once.
    Sent,
    /// The answer is awaited, and nothing may run before: the settings say who runs it.
    Held,
    /// The server refused.
    Failed(Report),
}

/// Whether a message was dealt with.
enum Flow {
    Done,
    Stop(Want),
}

/// What running a portal leads to.
#[derive(Debug)]
struct PortalEffect {
    prepared: Arc<Prepared>,
    statement: Arc<Statement>,
}

/// One client's conversation.
#[derive(Debug)]
pub struct Session {
    mode: PoolMode,
    /// The settings of the startup packet.
    base: Settings,
    settings: Settings,
    client: Scanner<FrontendTag>,
    client_part: Passing,
    server: Scanner<BackendTag>,
    server_part: Passing,
    transaction: Transaction,
    replies: ReplyQueue,
    batch: Batch,
    copy: Copy,
    outcome: Outcome,
    restoring: Restoring,
    pins: Pins,
    history: History,
    statements: Option<Box<ClientStatements>>,
    #[allow(clippy::box_collection, reason = "an idle client pays for a pointer only")]
    portals: Option<Box<HashMap<Box<[u8]>, PortalEffect>>>,
    /// Consequences of statements that have completed and count from the next ReadyForQuery.
    pending: Vec<Then>,
    /// The statement of the request at the head of the input, classified when it was routed.
    head: Option<Arc<Statement>>,
    /// The request at the head of the input is the one that the lease was taken for.
    routed: bool,
    /// Something that may write ran in this transaction.
    wrote: bool,
    /// DDL ran in this transaction.
    ddl: bool,
    /// A statement named something that the catalog snapshot does not know.
    unknown_name: bool,
    /// A transaction block may have been begun by what was sent since the server was last idle: what follows must not
    /// run outside it if the server is lost.
    may_be_in_block: bool,
    /// When the oldest unanswered request was seen.
    asked: Option<Instant>,
    /// A statement that stands on the server under the client's own name, to be closed after the next Sync.
    stray: Option<Arc<[u8]>>,
    /// The server said why it is about to close the connection.
    last_words: Option<Report>,
}

impl Session {
    /// A conversation that starts after the login, with the settings of the startup packet.
    pub fn new(mode: PoolMode, base: Settings) -> Self {
        Session {
            mode,
            settings: base.clone(),
            base,
            client: Scanner::default(),
            client_part: Passing::Forward,
            server: Scanner::default(),
            server_part: Passing::Forward,
            transaction: Transaction::default(),
            replies: ReplyQueue::default(),
            batch: Batch::Idle,
            copy: Copy::None,
            outcome: Outcome::Fine,
            restoring: Restoring::No,
            pins: Pins::default(),
            history: History::default(),
            statements: None,
            portals: None,
            pending: Vec::new(),
            head: None,
            routed: false,
            wrote: false,
            ddl: false,
            unknown_name: false,
            may_be_in_block: false,
            asked: None,
            stray: None,
            last_words: None,
        }
    }

    /// Bytes from the client. `edits` is cleared first; its output goes to the server, its reply to the client.
    pub fn on_client(
        &mut self,
        input: &[u8],
        mut held: Option<Held<'_>>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Want {
        edits.clear();
        loop {
            let rest = &input[edits.consumed()..];
            let step = match self.client.step(rest) {
                Ok(step) => step,
                Err(error) => return fatal(Report::protocol(error.to_string())),
            };
            match step {
                // What was refused or ignored may have left a server connection without a purpose.
                Step::Need if held.is_some() && self.may_return() => return Want::Return,
                Step::Need => return Want::Input,
                Step::Rest(n) => pass(edits, self.client_part, n),
                Step::Message(span) => match self.client_message(span, rest, held.as_mut(), world, edits) {
                    Flow::Done => {}
                    Flow::Stop(want) => return want,
                },
            }
            self.client.pass(&step);
        }
    }

    /// The relay has the server connection that was wanted; `on_client` follows with the same bytes.
    pub fn on_leased(&mut self) {
        self.routed = true;
    }

    /// There is no server connection to be had: the request at the head of `input` is answered with `report`.
    pub fn on_lease_failed(&mut self, input: &[u8], report: &Report, edits: &mut Edits) -> Want {
        edits.clear();
        self.head = None;
        self.asked = None;
        report.write(&mut edits.reply, Severity::Error);
        let Ok(step @ Step::Message(span)) = self.client.step(input) else { return Want::Input };
        match span.tag() {
            FrontendTag::QUERY | FrontendTag::FUNCTION_CALL => {
                backend::write_ready(&mut edits.reply, TransactionStatus::Idle);
            }
            _ => self.batch = Batch::Failed,
        }
        self.client_part = Passing::Skip;
        edits.skip(span.have());
        self.client.pass(&step);
        self.transaction.ready(TransactionStatus::Idle);
        Want::Input
    }

    /// Bytes from the server that the client holds. `edits` is cleared first; its output goes to the client.
    pub fn on_backend(&mut self, input: &[u8], held: &mut Held<'_>, now: Instant, edits: &mut Edits) -> Want {
        edits.clear();
        loop {
            if self.server.at_boundary() {
                self.fabricate(edits);
            }
            let rest = &input[edits.consumed()..];
            let step = match self.server.step(rest) {
                Ok(step) => step,
                Err(error) => return fatal(broken_server(&error.to_string())),
            };
            match step {
                Step::Need => break,
                Step::Rest(n) => pass(edits, self.server_part, n),
                Step::Message(span) => match self.server_message(span, rest, held, now, edits) {
                    Flow::Done => {}
                    Flow::Stop(want) => return want,
                },
            }
            self.server.pass(&step);
        }
        if self.may_return() { Want::Return } else { Want::Input }
    }

    /// The server connection ended. What was asked and not answered is answered with an error; the client stays if it
    /// has lost no state. `edits.reply` goes to the client.
    pub fn on_server_lost(&mut self, why: &str, edits: &mut Edits) -> Want {
        edits.clear();
        let report = self.last_words.take().unwrap_or_else(|| lost_server(why));
        let owed = self.replies.ready_owed_to_client();
        let is_cut = !self.server.at_boundary() && self.server_part == Passing::Forward;
        // What follows must not run as if the transaction had never been, so it does not follow.
        let loses_state = self.mode == PoolMode::Session
            || !self.pins.is_empty()
            || self.transaction.is_open()
            || self.may_be_in_block;
        let undone: Vec<Reply> = self.replies.drain().collect();
        undone.into_iter().rev().for_each(|reply| self.undo(reply.then, None));
        self.forget_server();
        if is_cut {
            return Want::Close(Farewell::Abrupt);
        }
        if loses_state {
            return fatal(report);
        }
        for _ in 0..owed {
            report.write(&mut edits.reply, Severity::Error);
            backend::write_ready(&mut edits.reply, TransactionStatus::Idle);
        }
        if self.batch == Batch::Open {
            report.write(&mut edits.reply, Severity::Error);
            self.batch = Batch::Failed;
        }
        self.client_part = Passing::Skip;
        Want::Input
    }

    /// What the held server connection owes, for when the client is gone.
    pub fn owed(&self) -> Owed {
        Owed {
            ready: self.replies.ready_owed(),
            copy_in: self.copy == Copy::In,
            needs_sync: self.batch != Batch::Idle,
            // Nobody can follow what a server makes of a request in the middle of COPY data, either.
            broken: (!self.client.at_boundary() && self.client_part == Passing::Forward)
                || (self.copy == Copy::In && self.replies.len() > 1)
                || self.replies.is_ready_owed_in_doubt(),
            scanner: self.server,
            discard: self.transaction.is_open()
                || !self.pins.is_empty()
                || self.mode == PoolMode::Session
                || self.is_unsettled(),
        }
    }

    /// Whether what the server connection has depends on answers that have not been seen.
    fn is_unsettled(&self) -> bool {
        !self.replies.is_empty()
            || self.batch != Batch::Idle
            || self.restoring != Restoring::No
            || !self.pending.is_empty()
    }

    /// Whether the client could be told goodbye without cutting anything short: no transaction, no batch, no message in
    /// part, no answer outstanding.
    pub fn is_between_requests(&self) -> bool {
        self.client.at_boundary()
            && self.batch == Batch::Idle
            && self.replies.is_empty()
            && !self.transaction.is_open()
    }

    /// Whether a message of ours would stand between two messages of the server's, not inside one.
    pub fn can_be_told(&self) -> bool {
        self.server.at_boundary() || self.server_part == Passing::Skip
    }

    /// Whether a transaction block is open.
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_open()
    }

    /// Whether an answer is awaited.
    pub fn is_waiting(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Why the client keeps its server.
    pub fn pins(&self) -> Pins {
        self.pins
    }

    /// How many prepared statements the client has named.
    pub fn prepared_statements(&self) -> usize {
        self.statements.as_ref().map_or(0, |statements| statements.len())
    }

    /// The client's settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    // --- From the client -------------------------------------------------------------------------------------------

    fn client_message(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        held: Option<&mut Held<'_>>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        self.client_part = Passing::Forward;
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
        self.batch = Batch::Idle;
        if held.is_none() {
            edits.skip(span.have());
            backend::write_ready(&mut edits.reply, TransactionStatus::Idle);
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
        held: Option<&mut Held<'_>>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        if let Some(want) = missing(span, bytes, world.max_message) {
            return Flow::Stop(want);
        }
        if let Some(report) = self.refused(span, bytes, world) {
            return self.refuse(span, report, edits);
        }
        let Some(held) = held else {
            return match span.tag() {
                FrontendTag::CLOSE => self.close_without_server(span, bytes, edits),
                _ => Flow::Stop(self.want_server(span, bytes, world)),
            };
        };
        if matches!(self.restoring, Restoring::Held | Restoring::Failed(_)) {
            return Flow::Stop(Want::Input);
        }
        // After a RESET the server's settings are not the client's, and are put right when nothing is outstanding.
        let is_out_of_step =
            self.batch == Batch::Idle && !self.replies.is_empty() && self.settings != held.state.settings;
        if is_out_of_step || self.must_wait(span.tag()) || !self.has_room(edits) {
            return Flow::Stop(Want::Input);
        }
        if !self.routed && !self.is_bound() {
            // Earlier requests of the same client are still unanswered. One that their server may serve follows at once;
            // any other waits until that server has been given back.
            match self.judge(span, bytes, world) {
                Some(route) if route.is_served_by(held.role) => {}
                _ if self.may_return() => return Flow::Stop(Want::Return),
                _ => return Flow::Stop(Want::Input),
            }
        }
        self.routed = false;
        self.transaction.request(world.now);
        self.asked.get_or_insert(world.now);
        if let Some(want) = self.restore_settings(held, edits) {
            return Flow::Stop(want);
        }
        match span.tag() {
            FrontendTag::QUERY => return self.query(span, bytes, held, world, edits),
            FrontendTag::FUNCTION_CALL => {
                self.mark_write(held.role, world.now);
                self.batch = Batch::Idle;
                self.replies.push(Request::Query, Action::Forward, None);
                edits.forward(span.have());
            }
            tag => {
                self.batch = Batch::Open;
                match tag {
                    FrontendTag::PARSE => return self.parse(span, bytes, held, world, edits),
                    FrontendTag::BIND => return self.bind(span, bytes, held, world, edits),
                    FrontendTag::DESCRIBE | FrontendTag::CLOSE => {
                        return self.describe_or_close(span, bytes, held, world, edits);
                    }
                    _ => return self.execute(span, bytes, edits),
                }
            }
        }
        Flow::Done
    }

    /// What was sent may turn out otherwise than was assumed when it was sent, and this request hangs on it: names that a
    /// batch before this one gives or takes, everything behind a DEALLOCATE, and what runs after a RESET.
    fn must_wait(&self, tag: FrontendTag) -> bool {
        match tag {
            _ if self.replies.has_deallocations() => true,
            _ if self.batch == Batch::Idle && self.is_resetting() => true,
            FrontendTag::QUERY | FrontendTag::FUNCTION_CALL => false,
            _ => self.batch == Batch::Idle && self.replies.has_names(),
        }
    }

    /// Whether one more answer may be outstanding. If not, the server is asked for those that it may still hold back.
    fn has_room(&mut self, edits: &mut Edits) -> bool {
        if self.replies.len() < MAX_OUTSTANDING {
            return true;
        }
        self.answer_at_once(edits);
        let has_room = self.replies.len() < MAX_OUTSTANDING;
        if !has_room {
            edits.insert(frontend::write_flush);
        }
        has_room
    }

    fn want_server(&mut self, span: Span<FrontendTag>, bytes: &[u8], world: &mut World<'_>) -> Want {
        if self.mode == PoolMode::Session {
            return Want::Lease(Route::Primary { why: Why::Held });
        }
        match self.judge(span, bytes, world) {
            Some(route) => Want::Lease(route),
            None => Want::Input,
        }
    }

    /// Where the request at the head of `bytes` may run; `None`: that cannot be told before more of it is here.
    fn judge(&mut self, span: Span<FrontendTag>, bytes: &[u8], world: &mut World<'_>) -> Option<Route> {
        let access = match span.tag() {
            FrontendTag::QUERY => {
                let statement = world.classify(frontend::query(span.body(bytes)).unwrap_or_default());
                let access = routable(&statement);
                self.head = Some(statement);
                access
            }
            FrontendTag::FUNCTION_CALL => Access::Unsure,
            _ => self.judge_batch(bytes, world)?,
        };
        let access = if self.settings.proofs_hold() { access } else { access.max(Access::Unsure) };
        Some(routing::route(access, &self.history, world.rules, world.now))
    }

    /// A batch may leave the primary if all of it, up to its Sync, is here and reads only: it is one implicit
    /// transaction, and what has been sent to a replica cannot be taken back when a write follows.
    fn judge_batch(&mut self, bytes: &[u8], world: &mut World<'_>) -> Option<Access> {
        let mut parsed: SmallVec<[(&[u8], Access); 4]> = SmallVec::new();
        let mut scanner = Scanner::<FrontendTag>::default();
        let mut at = 0;
        self.head = None;
        loop {
            let step = match scanner.step(&bytes[at..]) {
                Ok(step) => step,
                Err(_) => return Some(Access::Unsure),
            };
            let Step::Message(span) = step else { break };
            if !span.is_whole() {
                break;
            }
            let body = span.body(&bytes[at..]);
            let access = match span.tag() {
                FrontendTag::SYNC => return Some(Access::Read),
                FrontendTag::PARSE => {
                    let Some(parse) = Parse::new(body) else { return Some(Access::Unsure) };
                    let statement = world.classify(parse.text);
                    let access = routable(&statement);
                    parsed.push((parse.name, access));
                    if at == 0 {
                        self.head = Some(statement);
                    }
                    access
                }
                FrontendTag::BIND => {
                    let Some(bind) = Bind::new(body) else { return Some(Access::Unsure) };
                    match parsed.iter().rev().find(|(name, _)| *name == bind.statement) {
                        Some(&(_, access)) => access,
                        None => self.prepared_access(bind.statement, world),
                    }
                }
                FrontendTag::DESCRIBE | FrontendTag::CLOSE | FrontendTag::EXECUTE => Access::Read,
                _ => return Some(Access::Unsure),
            };
            if access != Access::Read {
                return Some(access);
            }
            at += span.len();
            scanner.pass(&step);
        }
        // Waiting cannot go on for ever: a batch without an end in sight is the primary's.
        (bytes.len() >= LOOKAHEAD).then_some(Access::Unsure)
    }

    fn prepared_access(&mut self, name: &[u8], world: &mut World<'_>) -> Access {
        self.find(name, world).map_or(Access::Unsure, |named| routable(&named.statement))
    }

    /// The statement of this name, looked at anew if the catalog has changed since.
    fn find(&mut self, name: &[u8], world: &mut World<'_>) -> Option<&Named> {
        let stamp = world.stamp();
        let named = self.statements.as_mut()?.find_mut(name)?;
        if named.version != stamp {
            named.statement = world.classify(&named.prepared.text);
            // The statement itself stays what was prepared: after DDL the server says that its result has changed (0A000), as
            // it would to a direct connection, and drivers that rely on that prepare anew.
            named.version = stamp;
        }
        Some(named)
    }

    /// What statement mode does not serve, and limits.
    fn refused(&mut self, span: Span<FrontendTag>, bytes: &[u8], world: &mut World<'_>) -> Option<Report> {
        let body = span.body(bytes);
        let statement = match span.tag() {
            FrontendTag::PARSE
                if self.prepared_statements() >= MAX_STATEMENTS
                    && Parse::new(body).is_some_and(|parse| !parse.name.is_empty()) =>
            {
                let text = format!("too many prepared statements: {MAX_STATEMENTS} for one client");
                return Some(Report::new(ErrorSource::Client, SqlState::PROGRAM_LIMIT_EXCEEDED, text));
            }
            _ if self.mode != PoolMode::Statement => return None,
            FrontendTag::QUERY => world.classify(frontend::query(body)?),
            FrontendTag::PARSE => world.classify(Parse::new(body)?.text),
            _ => return None,
        };
        (statement.transaction == Some(TransactionVerb::Begin)).then(no_blocks_in_statement_mode)
    }

    /// Answers a request with an error of ours, at its place in the queue.
    fn refuse(&mut self, span: Span<FrontendTag>, report: Report, edits: &mut Edits) -> Flow {
        if self.batch == Batch::Open || self.transaction.is_open() {
            // An error would have to undo what the server has already done, and the server knows of none.
            return Flow::Stop(fatal(report));
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
            self.replies.push(Request::Close, Action::Synthesize(answer.into()), None);
        }
        self.skip(span, edits)
    }

    /// Ahead of a client's first request on a connection: what it takes to make the connection's settings the client's.
    fn restore_settings(&mut self, held: &mut Held<'_>, edits: &mut Edits) -> Option<Want> {
        let is_aborted = self.transaction.status() == TransactionStatus::Failed;
        if is_aborted || !self.replies.is_empty() || self.batch != Batch::Idle {
            return None;
        }
        let sql = self.settings.restore_from(&held.state.settings)?;
        let identity = self.settings.change_identity() || held.state.settings.change_identity();
        edits.insert(|out| frontend::write_query(out, sql.as_bytes()));
        self.replies.push(Request::Query, Action::Swallow, None);
        held.state.settings = self.settings.clone();
        held.state.statements.set_unnamed(None);
        if !identity {
            self.restoring = Restoring::Sent;
            return None;
        }
        // Who runs the request must be settled before it runs, whatever that costs.
        self.restoring = Restoring::Held;
        self.routed = true;
        Some(Want::Input)
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
        let statement = self.head.take().unwrap_or_else(|| world.classify(text()));
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
        // A simple Query destroys the unnamed statement, unless an error before it in the batch has it skipped.
        held.state.statements.set_unnamed(None);
        let before = self.statements.as_mut().and_then(|statements| statements.remove(b""));
        if before.is_some() && self.batch == Batch::Open {
            let then = Then::Unnamed(Renamed { name: Box::default(), before });
            self.replies.push(Request::Close, Action::Synthesize(Box::default()), Some(then));
        }
        // Its ReadyForQuery ends the batch that it stands in, as a Sync would.
        self.batch = Batch::Idle;
        self.sent(&statement, held.role, world.now);
        self.replies.push(Request::Query, Action::Forward, then);
        edits.forward(span.have());
        Flow::Done
    }

    fn parse(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        held: &mut Held<'_>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        let Some(parse) = Parse::new(span.body(bytes)) else {
            return Flow::Stop(fatal(Report::protocol("invalid Parse message")));
        };
        let statement = self.head.take().unwrap_or_else(|| world.classify(parse.text));
        if self.mode == PoolMode::Session {
            edits.events.client_parses += 1;
            // The connection is the client's own: names stay as they are.
            self.replies.push(Request::Parse, Action::Forward, None);
            edits.forward(span.have());
            self.name_in_session_mode(parse, statement, world);
            return Flow::Done;
        }
        if !parse.name.is_empty()
            && self.statements.as_ref().is_some_and(|all| all.find(parse.name).is_some())
        {
            return self.duplicate(span, parse, edits);
        }
        if self.may_fail_before() && !parse.name.is_empty() {
            // In an aborted transaction the server refuses it; whether it is one is not known yet.
            self.head = Some(statement);
            return Flow::Stop(Want::Input);
        }
        edits.events.client_parses += 1;
        let prepared = world.registry.intern(parse.text, parse.types, world.generation);
        let named = Named { prepared: prepared.clone(), statement, version: world.stamp() };
        let before = self.statements.get_or_insert_default().insert(parse.name, named);
        let renamed = Renamed { name: parse.name.into(), before };
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
            self.put_on_server(&prepared, Action::Forward, Some(renamed), held, edits);
        } else if is_there {
            let complete = [BackendTag::PARSE_COMPLETE.0, 0, 0, 0, 4];
            self.replies.push(
                Request::Parse,
                Action::Synthesize(complete.into()),
                Some(Then::Named(renamed)),
            );
        } else {
            self.put_on_server(&prepared, Action::Forward, Some(renamed), held, edits);
        }
        Flow::Done
    }

    /// Whether an earlier batch or Query that is not answered may turn out to have aborted a transaction block.
    fn may_fail_before(&self) -> bool {
        (self.transaction.is_open() || self.may_be_in_block) && self.replies.ready_owed() > 0
    }

    fn name_in_session_mode(&mut self, parse: Parse<'_>, statement: Arc<Statement>, world: &mut World<'_>) {
        // Only to know what a Bind will run; the server alone says whether the name is good.
        let prepared = world.registry.intern(parse.text, parse.types, world.generation);
        let named = Named { prepared, statement, version: world.stamp() };
        self.statements.get_or_insert_default().insert(parse.name, named);
    }

    /// The client's name is taken. The server shall say so itself, in its own words and with its own consequences for the
    /// transaction: it is given an empty statement of that name first, which is closed after the Sync.
    fn duplicate(&mut self, span: Span<FrontendTag>, parse: Parse<'_>, edits: &mut Edits) -> Flow {
        if self.stray.is_none() {
            edits.insert(|out| Parse::write(out, parse.name, b"", b"\0\0"));
            self.replies.push(Request::Parse, Action::Swallow, None);
            self.stray = Some(parse.name.into());
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
        let named = self.find(bind.statement, world).cloned();
        let is_own = self.mode == PoolMode::Session;
        match &named {
            Some(named) => {
                self.sent(&named.statement, held.role, world.now);
                self.open_portal(bind.portal, named);
                if !is_own {
                    self.ensure(bind.statement, &named.prepared, held, edits);
                }
            }
            None if !is_own && bind.statement.is_empty() => self.close_foreign_unnamed(held, edits),
            None => {}
        }
        if let (None, Some(portals)) = (&named, &mut self.portals) {
            portals.remove(bind.portal);
        }
        self.replies.push(Request::Bind, Action::Forward, None);
        match named.filter(|_| !is_own && !bind.statement.is_empty()) {
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
            Some(Target::Statement(name)) if self.mode != PoolMode::Session => name,
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
            let complete = [BackendTag::CLOSE_COMPLETE.0, 0, 0, 0, 4];
            self.replies.push(request, Action::Synthesize(complete.into()), Some(then));
            return self.skip(span, edits);
        }
        if name.is_empty() && self.replies.has_unnamed_of_earlier_batch() {
            return Flow::Stop(Want::Input);
        }
        let named = self.find(name, world).cloned();
        match &named {
            Some(named) => self.ensure(name, &named.prepared, held, edits),
            None if name.is_empty() => self.close_foreign_unnamed(held, edits),
            None => {}
        }
        self.replies.push(request, Action::Forward, None);
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
    fn close_without_server(&mut self, span: Span<FrontendTag>, bytes: &[u8], edits: &mut Edits) -> Flow {
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
            if let Action::Synthesize(bytes) = reply.action {
                edits.reply.extend_from_slice(&bytes);
            }
        }
    }

    /// Makes sure that the server has what the client calls `name`.
    fn ensure(&mut self, name: &[u8], prepared: &Arc<Prepared>, held: &mut Held<'_>, edits: &mut Edits) {
        if !name.is_empty() {
            if !held.state.statements.uses(prepared.id) {
                self.put_on_server(prepared, Action::Swallow, None, held, edits);
            }
        } else if held.state.statements.unnamed() != Some(prepared.id) {
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
        name: Option<Renamed>,
        held: &mut Held<'_>,
        edits: &mut Edits,
    ) {
        if let Some(evicted) = held.state.statements.add(prepared) {
            edits.insert(|out| frontend::write_close_statement(out, &evicted.server_name));
            self.replies.push(Request::Close, Action::Swallow, Some(Then::Evicted(evicted)));
        }
        edits.events.server_parses += 1;
        edits.insert(|out| Parse::write(out, &prepared.server_name, &prepared.text, &prepared.types));
        self.replies.push(Request::Parse, action, Some(Then::Parsed { id: prepared.id, name }));
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
        self.mode != PoolMode::Session && self.statements.as_deref().is_some_and(knows)
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
        if !effects.any(Effects::SETTINGS) {
            return None;
        }
        match effect::setting_changes(text) {
            Some(changes) => Some(Then::Settings(changes)),
            None => {
                self.pin(Effects::HIDDEN_SETTINGS);
                None
            }
        }
    }

    /// A statement goes to the server: what that means for the client, whatever becomes of it.
    fn sent(&mut self, statement: &Statement, role: Role, now: Instant) {
        self.pin(statement.effects);
        // A temporary relation is seen by its own session alone, which is pinned: nobody else's names change their meaning.
        let is_private = statement.effects.any(Effects::TEMPORARY) && statement.statements == 1;
        self.ddl |= statement.effects.any(Effects::DDL) && !is_private;
        self.unknown_name |= matches!(statement.reason, Reason::UnknownFunction | Reason::UnknownRelation);
        self.may_be_in_block |=
            statement.transaction.is_some() || (statement.statements > 1 && statement.access != Access::Read);
        if statement.access != Access::Read && !is_only_session_state(statement) {
            self.mark_write(role, now);
        }
    }

    fn mark_write(&mut self, role: Role, now: Instant) {
        if role == Role::Primary {
            self.wrote = true;
            self.history.wrote(now);
        }
    }

    fn pin(&mut self, effects: Effects) {
        if self.mode != PoolMode::Session {
            self.pins.add(effects);
        }
    }

    fn skip(&mut self, span: Span<FrontendTag>, edits: &mut Edits) -> Flow {
        self.client_part = Passing::Skip;
        // What it would have run is not what the next message runs.
        self.head = None;
        edits.skip(span.have());
        Flow::Done
    }

    // --- From the server -------------------------------------------------------------------------------------------

    fn server_message(
        &mut self,
        span: Span<BackendTag>,
        bytes: &[u8],
        held: &mut Held<'_>,
        now: Instant,
        edits: &mut Edits,
    ) -> Flow {
        let tag = span.tag();
        let swallows = self.replies.front().is_some_and(|reply| reply.action == Action::Swallow);
        self.server_part = if swallows { Passing::Skip } else { Passing::Forward };
        let is_inspected = matches!(
            tag,
            BackendTag::READY_FOR_QUERY
                | BackendTag::COMMAND_COMPLETE
                | BackendTag::ERROR_RESPONSE
                | BackendTag::PARAMETER_STATUS
        );
        if is_inspected && span.have() < span.len().min(MAX_INSPECTED) {
            return Flow::Stop(Want::Input);
        }
        let mut body = span.body(bytes);
        if is_inspected {
            body = &body[..body.len().min(MAX_INSPECTED - HEADER)];
        }
        match tag {
            BackendTag::DATA_ROW | BackendTag::COPY_DATA => {}
            BackendTag::READY_FOR_QUERY => return self.ready(span, body, held, now, edits),
            BackendTag::ERROR_RESPONSE => self.error(body, held),
            BackendTag::PARAMETER_STATUS => self.parameter(body, held, edits),
            BackendTag::COPY_IN_RESPONSE | BackendTag::COPY_BOTH_RESPONSE => {
                if !self.begin_copy_in() {
                    return Flow::Stop(fatal(Report::protocol("a request was sent behind COPY FROM STDIN")));
                }
            }
            BackendTag::NOTICE_RESPONSE | BackendTag::NOTIFICATION_RESPONSE => {
                self.server_part = Passing::Forward
            }
            _ => self.answered(tag, body, held),
        }
        pass(edits, self.server_part, span.have());
        Flow::Done
    }

    /// A message that may end an answer.
    fn answered(&mut self, tag: BackendTag, body: &[u8], held: &mut Held<'_>) {
        if tag == BackendTag::COMMAND_COMPLETE {
            match backend::command_tag(body) {
                Some(b"ROLLBACK") => self.outcome = self.outcome.and(Outcome::RolledBack),
                Some(b"COMMIT") => self.outcome = self.outcome.and(Outcome::Committed),
                _ => {}
            }
        }
        let Some(Reply { then: Some(then), request: Request::Execute, .. }) = self.replies.pop_ended_by(tag)
        else {
            return;
        };
        match *then {
            // No ROLLBACK brings a name back.
            then if then.is_deallocation() => self.succeed(then, held),
            then => self.pending.push(then),
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
        pass(edits, self.server_part, span.have());
        if reply.action == Action::Swallow {
            if let Restoring::Failed(report) = &self.restoring {
                return Flow::Stop(fatal(report.clone()));
            }
            self.restoring = Restoring::No;
            if self.replies.is_empty() && !self.routed && !self.transaction.is_open() {
                self.asked = None;
                self.transaction.ready(TransactionStatus::Idle);
            }
            return Flow::Done;
        }
        self.settle(reply.then, status, held);
        edits.events.answered += 1;
        edits.events.unknown_name |= std::mem::take(&mut self.unknown_name);
        if self.wrote {
            self.history.wrote(now);
        }
        if self.replies.is_empty()
            && let Some(asked) = self.asked.take()
        {
            edits.events.query_time = Some(now.saturating_duration_since(asked));
        }
        if let Some(began) = self.transaction.ready(status) {
            edits.events.transaction_time = Some(now.saturating_duration_since(began));
        }
        if status == TransactionStatus::Idle {
            edits.events.ddl |= std::mem::take(&mut self.ddl);
            self.wrote &= !self.replies.is_empty();
            if self.replies.is_empty() && self.batch == Batch::Idle {
                self.portals = None;
                self.may_be_in_block = false;
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

    /// ReadyForQuery: what the statements since the last one lead to.
    fn settle(&mut self, then: Option<Box<Then>>, status: TransactionStatus, held: &mut Held<'_>) {
        let outcome = std::mem::replace(&mut self.outcome, Outcome::Fine);
        let mut completed = std::mem::take(&mut self.pending);
        completed.extend(then.map(|then| *then));
        let is_over = status == TransactionStatus::Idle;
        let has_settings = completed.iter().any(|then| matches!(then, Then::Settings(_)));
        if has_settings && !is_over {
            self.transaction.settings_change(&self.settings, &held.state.settings);
        }
        let is_unknown = match outcome {
            Outcome::Fine => false,
            // Everything since BEGIN, or in a batch since its start, is undone; in a block that is still open, what
            // remains is known when it ends.
            Outcome::Failed => {
                if is_over {
                    self.roll_back_settings(held);
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
            self.pin(Effects::HIDDEN_SETTINGS);
        }
        completed.into_iter().for_each(|then| self.succeed(then, held));
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
            }
            Then::Deallocated(name) => {
                if let Some(statements) = &mut self.statements {
                    statements.remove(&name);
                }
            }
            Then::DeallocatedAll => self.deallocate_all(held),
            Then::Discarded => {
                self.deallocate_all(held);
                held.state.discarded();
                self.settings = self.base.clone();
                self.pending.clear();
                self.pins.clear();
            }
            Then::Parsed { .. }
            | Then::ParsedUnnamed { .. }
            | Then::Named(_)
            | Then::Unnamed(_)
            | Then::Evicted(_) => {}
        }
    }

    fn deallocate_all(&mut self, held: &mut Held<'_>) {
        held.state.statements.clear();
        if let Some(statements) = &mut self.statements {
            statements.clear();
        }
    }

    /// An error ends the answer to a Query, or everything up to the next Sync.
    fn error(&mut self, body: &[u8], held: &mut Held<'_>) {
        let fields = Fields::new(body);
        if let Some(Reply { action: Action::Swallow, request: Request::Query, .. }) = self.replies.front() {
            self.restoring = Restoring::Failed(unrestorable(&fields));
            return;
        }
        if fields.is_fatal() {
            // The connection is about to end; the client hears of it when it is known what that means for it.
            self.server_part = Passing::Skip;
            self.last_words = Some(server_report(&fields));
            return;
        }
        self.server_part = Passing::Forward;
        if !self.replies.is_empty() {
            self.outcome = self.outcome.and(Outcome::Failed);
        }
        self.copy = Copy::None;
        if fields.text(b'R') == Some(b"RevalidateCachedQuery") {
            // "cached plan must not change result type": DDL went past us. Texts prepared from now on are new ones.
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
            Some(Then::Deallocated(name)) => self.stray = Some(name),
            then => self.undo(then.map(Box::new), Some(held)),
        }
    }

    /// The server never ran the request.
    fn undo(&mut self, then: Option<Box<Then>>, held: Option<&mut Held<'_>>) {
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
            Then::Named(renamed) | Then::Unnamed(renamed) => Some(renamed),
            Then::Evicted(prepared) => {
                if let Some(held) = held {
                    held.state.statements.restore(&prepared);
                }
                None
            }
            Then::Settings(_) | Then::Deallocated(_) | Then::DeallocatedAll | Then::Discarded => None,
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
            self.server_part = Passing::Skip;
        }
        // A RESET takes the client back to what it asked for when it connected, not to what this server was given.
        let front = self.replies.front();
        let is_reset = front.and_then(|reply| reply.then.as_deref()).is_some_and(Then::is_reset)
            || self.pending.iter().any(Then::is_reset);
        if is_reset && let Some(Value::Text(base)) = self.base.value(&name.to_ascii_lowercase()) {
            self.server_part = Passing::Skip;
            edits.insert(|out| backend::write_parameter_status(out, name, base));
        }
    }

    /// Whether statements that are not answered yet put settings back.
    fn is_resetting(&self) -> bool {
        !self.base.is_neutral() && (self.replies.has_resets() || self.pending.iter().any(Then::is_reset))
    }

    fn begin_copy_in(&mut self) -> bool {
        if self.replies.front().is_some_and(|reply| reply.request == Request::Execute) {
            // The Sync behind the Execute, if it was sent, is ignored: the client will send another.
            self.batch = Batch::Open;
        }
        self.copy = Copy::In;
        self.replies.copy_in_began()
    }

    /// Puts answers of ours at their place.
    fn fabricate(&mut self, edits: &mut Edits) {
        while let Some(reply) = self.replies.pop_synthetic() {
            if let Action::Synthesize(bytes) = reply.action {
                edits.insert(|out| out.extend_from_slice(&bytes));
            }
        }
    }

    // --- State -----------------------------------------------------------------------------------------------------

    /// Whether requests have to go to the server that is held.
    fn is_bound(&self) -> bool {
        self.transaction.is_open()
            || self.batch != Batch::Idle
            || !self.pins.is_empty()
            || self.mode == PoolMode::Session
    }

    fn may_return(&self) -> bool {
        self.replies.is_empty()
            && !self.routed
            && !self.is_bound()
            && self.server.at_boundary()
            && (self.client.at_boundary() || self.client_part == Passing::Skip)
    }

    fn forget_server(&mut self) {
        self.transaction = Transaction::default();
        self.copy = Copy::None;
        self.outcome = Outcome::Fine;
        self.restoring = Restoring::No;
        self.routed = false;
        self.may_be_in_block = false;
        self.wrote = false;
        self.portals = None;
        self.pending.clear();
        self.stray = None;
        self.asked = None;
        self.server = Scanner::default();
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

/// The access by which a statement is routed: a read that leaves something behind is none.
fn routable(statement: &Statement) -> Access {
    match statement.access {
        Access::Read if !statement.effects.is_none() => Access::Unsure,
        access => access,
    }
}

/// Whether running the statement changes what the session knows.
fn has_consequence(statement: &Statement) -> bool {
    statement.effects.any(
        Effects::SETTINGS
            .with(Effects::PREPARED_NAME)
            .with(Effects::DEALLOCATE_ALL)
            .with(Effects::DISCARD_ALL),
    )
}

/// Transaction commands and settings are not data: they make no later read stale.
fn is_only_session_state(statement: &Statement) -> bool {
    let is_quiet = matches!(statement.reason, Reason::SessionCommand | Reason::Empty)
        && !statement.effects.any(Effects::DDL.with(Effects::HIDDEN_SETTINGS));
    is_quiet || statement.transaction.is_some_and(|verb| verb != TransactionVerb::PrepareTransaction)
}

fn pass(edits: &mut Edits, passing: Passing, n: usize) {
    match passing {
        Passing::Forward => edits.forward(n),
        Passing::Skip => edits.skip(n),
    }
}

fn fatal(report: Report) -> Want {
    Want::Close(Farewell::Fatal(report))
}

fn too_long(len: usize, max: usize) -> Report {
    let text = format!("a message of {len} bytes is longer than {max} bytes");
    Report::new(ErrorSource::Client, SqlState::PROGRAM_LIMIT_EXCEEDED, text)
        .hint("listen.max_message is the limit for statements; parameters, rows and COPY data have none")
}

fn no_blocks_in_statement_mode() -> Report {
    Report::new(
        ErrorSource::Client,
        SqlState::FEATURE_NOT_SUPPORTED,
        "transaction blocks are not allowed in statement pooling mode",
    )
}

fn broken_server(what: &str) -> Report {
    Report::new(
        ErrorSource::Server,
        SqlState::PROTOCOL_VIOLATION,
        format!("the server broke the protocol: {what}"),
    )
}

fn lost_server(why: &str) -> Report {
    Report::new(
        ErrorSource::Server,
        SqlState::CONNECTION_FAILURE,
        format!("the server connection was lost while a request was under way: {why}"),
    )
    .detail("Whether the request took effect is not known.")
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
