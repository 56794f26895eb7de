//! One client's conversation: bytes in, edits and a want out. Pure.
//!
//! ```text
//!             on_client(bytes)                          on_backend(bytes)
//!  client ------------------> +---------+ <------------------------------ server
//!                             | Session |
//!         <-- Edits, Want --- +---------+ --- Edits, Want -->
//!
//!   Input ---- a request, no server ----> Lease(route) ---- on_leased / on_lease_failed ----> Input
//!   Input ---- LISTEN, alone ------------> Listen(channel) ---- on_listening / on_listen_declined ---------> Input
//!   Input ---- ReadyForQuery, nothing owed, nothing held ----> Return ---- the relay gives the lease back ----> Input
//!   any   ---- Terminate, a broken protocol, a lost state ----> Close
//! ```
//!
//! The relay owns the sockets and the lease; it calls with whatever bytes it has and carries out the answer. Any cut of
//! the input gives the same output, but that an unnamed statement is kept only where its request came in one piece. What
//! the relay must do besides:
//!
//! - call `on_client` again with what is left of the client's input, even if nothing was added to it, after a lease, after
//!   a return, after a failed lease, after a channel was heard or not, after a lost server, and after each `on_backend`: requests wait for answers;
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

mod analysis;
mod begin;
mod consequences;
mod edits;
mod extended;
mod from_client;
mod from_server;
mod judge;
mod keys;
mod lending;
mod listening;
mod loss;
pub mod luggage;
pub mod own;
pub mod pin;
mod promote;
mod questions;
mod refuse;
pub mod replay;
mod replies;
mod restore;
pub mod server_state;
pub mod settings;
pub mod sql_statements;
mod stake;
mod transaction;

pub use edits::{Edit, Edits, Events};
pub use listening::Channels;
pub use luggage::Luggage;
pub use own::Own;
pub use replay::Rescue;
pub use server_state::ServerState;
pub use settings::{Settings, Value};

use crate::config::{Consistency, OnLostWrite, PoolMode, Routing, Unnamed};
use crate::error::{ErrorSource, Report};
use crate::prepared::{ClientStatements, Named, Prepared, Registry};
use crate::routing::explain::Servers;
use crate::routing::scope::{self, Scopes};
use crate::routing::{self, History, Lineage, Role, Route, Shown, Terms, Token, Why};
use crate::sql::effect::{self, Deallocated, SettingChange};
use crate::sql::{Access, Cache, Catalog, Effects, Hint, Reason, Statement, TransactionVerb};
use crate::wire::backend::{self, Fields, Severity, TransactionStatus};
use crate::wire::frontend::{self, Bind, Parse, Target};
use crate::wire::scan::{HEADER, Scanner, Span, Step, messages};
use crate::wire::{BackendTag, FrontendTag, SqlState};
use analysis::Reading;
use begin::Deferred;
use listening::{Hearing, Verb};
use own::End;
use pin::{PinReason, PinRoom, Pins};
use promote::Promotable;
use questions::Question;
use replay::Replay;
use replies::{Action, Completed, Renamed, Reply, ReplyQueue, Request, Then};
use smallvec::SmallVec;
use sql_statements::SqlStatements;
use stake::Stake;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;
use transaction::Transaction;

/// How many bytes of a batch are looked at for its Sync before it is taken for one that the primary must serve.
pub const LOOKAHEAD: usize = 16 * 1024;

/// The most prepared statements that one client may name.
pub const MAX_STATEMENTS: usize = 10_000;

/// The most prepared statements that are moved when their client falls silent.
const MAX_MOVED: usize = 1_000;

/// The longest names of a portal and a statement together that a Bind may carry, in bytes.
const MAX_NAMES: usize = 16 * 1024;

/// The most answers that one client may have outstanding; then the server's answers are waited for.
pub const MAX_OUTSTANDING: usize = 10_000;

/// How much of what a client has sent may be remembered for answers that are outstanding, in bytes: names, texts and values of
/// settings. Beyond, its next request waits for the answers, or its settings are not followed any more, and it is pinned.
pub const MAX_REMEMBERED: usize = 1024 * 1024;

/// The longest texts and names of one client's prepared statements together, in bytes.
pub const MAX_STATEMENT_BYTES: usize = 64 * 1024 * 1024;

/// The most portals of statements that change settings or names that are remembered within a transaction.
const MAX_PORTALS: usize = 1_000;

/// How much of a server's message is looked into; longer ones are judged by their head.
const MAX_INSPECTED: usize = 8 * 1024;

/// What a decision may look at besides the bytes.
pub struct World<'a> {
    /// The time.
    pub now: Instant,
    /// The routing rules of the client's database.
    pub rules: &'a Routing,
    /// What the client's reads may return if it has not chosen: its user's level, or its database's.
    pub level: Consistency,
    /// The primary's place in history, once there has been a primary.
    pub lineage: Option<&'a Lineage>,
    /// Who knows the servers, for explanations.
    pub servers: &'a dyn Servers,
    /// The histories that connections to the database share.
    pub scopes: &'a Scopes,
    /// What causality tokens are signed with.
    pub secret: &'a [u8],
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
    /// The client's number.
    pub client: u64,
    /// Whether one more client may be pinned.
    pub pin_room: PinRoom,
    /// What is done for `currval` and `lastval`.
    pub sequences: Sequences,
    /// What becomes of unnamed statements.
    pub unnamed: Unnamed,
}

impl World<'_> {
    fn classify(&mut self, text: &[u8]) -> Arc<Statement> {
        self.classifier.look_up(text, self.catalog)
    }

    /// What a Parse prepares under settings with this digest.
    fn prepare(&mut self, parse: &Parse<'_>, settings: u128) -> Named {
        let prepared = self.registry.intern(parse.text, parse.types, self.generation, settings);
        let statement = self.classifier.look_up_prepared(prepared.id.hash(), parse.text, self.catalog);
        Named { prepared, statement, version: self.stamp() }
    }

    /// Changes whenever a statement must be looked at anew.
    fn stamp(&self) -> u64 {
        self.catalog.version().wrapping_mul(1 << 24).wrapping_add(self.generation)
    }
}

/// What is done for `currval` and `lastval`, which answer about one server connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequences {
    /// Nobody has asked for them yet.
    Unused,
    /// A trigger or a default may ask for them, most likely in the transaction that drew: what others drew on a connection
    /// is forgotten, and nobody is pinned.
    Apart,
    /// Clients of this user ask for them: who may have drawn from a sequence keeps its server, as long as there is room.
    Used,
}

/// The server connection that the client holds.
pub struct Held<'a> {
    /// What the server was when it was leased.
    pub role: Role,
    /// The server's place in the list of servers.
    pub node: u16,
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
    /// This channel is to be heard by the shared listener; then `on_client` again with the same bytes.
    Listen(String),
    /// A position that bounds all that the client has seen, which the primary shows already; then `on_position`, and
    /// `on_client` again with the same bytes.
    Position(Option<Shown>),
    /// The client is to be told what it has heard, ahead of the ReadyForQuery or of the answer to an UNLISTEN that is next;
    /// then `on_told`, and `on_backend` or `on_client` again with the same bytes.
    Tell(Tidings),
    /// The server connection may go back.
    Return,
    /// The same, and then [`Session::again`] is the head of the client's input: that runs once more.
    Replay(Rescue),
    /// The conversation is over.
    Close(Farewell),
}

/// Notifications that belong before a ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tidings {
    /// Those that have come.
    Arrived,
    /// Those too that were sent until now, by the client's own transaction for one.
    Own,
}

/// How a conversation ends.
#[derive(Debug, PartialEq, Eq)]
pub enum Farewell {
    /// The client said goodbye.
    Terminated,
    /// The client is told why.
    Fatal(Box<Report>),
    /// Nothing can be said: the stream stands inside a message.
    Abrupt,
    /// It goes on in another process.
    HandedOver,
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
    /// No server sees it: up to Sync everything is answered here.
    Here(Verb),
}

/// Which way COPY data flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Copy {
    #[default]
    None,
    /// The client has sent data before the server has asked for any.
    Awaited,
    /// The server waits for the client's data.
    In,
}

/// What becomes of the rest of a message whose head has been dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Passing {
    #[default]
    Forward,
    Skip,
}

/// Under which names servers have what a client prepares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// Under ours, whichever connection it is.
    Ours,
    /// Under its own: all that it has prepared was prepared on the connection that it holds, which is its own.
    Own,
}

/// How a client sends its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// As far as is known, each after the answer to the one before.
    OneByOne,
    /// It has sent one before the answer to another that could only run again alone.
    Pipelined,
}

/// How things went since the last ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Outcome {
    #[default]
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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Restoring {
    #[default]
    No,
    /// The answer is awaited; requests may follow at once.
    Sent,
    /// The answer is awaited, and nothing may run before.
    Held(Chance),
    /// The server refused, and nothing has run: the connection is to be made neutral first.
    Refused,
    /// The server refused, and that is the client's end.
    Failed(Box<Report>),
}

/// What becomes of a client whose settings the server refuses to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chance {
    /// It may be for what the connection had before: once more on a neutral one.
    First,
    /// It is for its own values.
    Last,
}

/// Whether a message was dealt with.
enum Flow {
    Done,
    Stop(Want),
}

/// What was made of the request at the head of the input.
#[derive(Debug)]
enum Head {
    Query(Arc<Statement>),
    Parse(Named),
}

impl Head {
    fn statement(&self) -> &Arc<Statement> {
        match self {
            Head::Query(statement) | Head::Parse(Named { statement, .. }) => statement,
        }
    }
}

/// What running a portal leads to.
#[derive(Debug)]
struct PortalEffect {
    prepared: Arc<Prepared>,
    statement: Arc<Statement>,
}

/// Where a session's memories lay: see [`Session::relocate`].
pub struct Vacated {
    _statements: Option<Box<ClientStatements>>,
    _settings: Settings,
    _sql_statements: SqlStatements,
}

/// One client's conversation.
#[derive(Debug)]
pub struct Session {
    mode: PoolMode,
    naming: Naming,
    /// The settings of the startup packet.
    base: Settings,
    settings: Settings,
    reading: Reading,
    client: Scanner<FrontendTag>,
    client_part: Passing,
    transaction: Transaction,
    /// The BEGIN that no server has seen yet.
    deferred: Option<Box<Deferred>>,
    /// The transaction block that reads on a replica and may have to move.
    promotable: Option<Box<Promotable>>,
    replies: ReplyQueue,
    batch: Batch,
    pace: Pace,
    tenure: Tenure,
    own: Own,
    /// A server was met that reads texts otherwise than the lexer by its own default: nothing that is proven of one holds.
    is_misread: bool,
    /// What is heard by the shared listener.
    channels: Channels,
    hearing: Hearing,
    history: History,
    statements: Option<Box<ClientStatements>>,
    /// What SQL PREPARE made.
    sql_statements: SqlStatements,
    /// What running them may leave behind.
    executes: Effects,
    /// It may have drawn from sequences.
    has_drawn: bool,
    /// What the request at the head of the input runs or prepares, classified when it was routed.
    head: Option<Head>,
    /// DDL ran in this transaction.
    ddl: bool,
    /// A statement named something that the catalog snapshot does not know.
    unknown_name: bool,
    /// The server said why it is about to close the connection.
    last_words: Option<Box<Report>>,
    /// The requests that could be sent again elsewhere.
    replay: Replay,
}

/// What a session knows of the server connection that it has; forgotten as a whole when that is lost.
#[derive(Debug, Default)]
struct Tenure {
    server: Scanner<BackendTag>,
    server_part: Passing,
    copy: Copy,
    outcome: Outcome,
    restoring: Restoring,
    /// What binds the session to this connection.
    pins: Pins,
    /// Those pins that have come since the server was last asked.
    fresh_pins: Pins,
    /// Those that do not end with the transaction that is under way.
    kept_pins: Pins,
    /// The server shall be asked whether the state that pins is still there.
    doubts_pins: bool,
    /// Something ran that may have left anything behind: the connection is reset before anybody else has it.
    is_soiled: bool,
    /// The client has seen, since its server was granted, what that one may not show.
    has_outrun: bool,
    /// The client was told its notifications, so that ReadyForQuery, or the answer to its UNLISTEN, may follow.
    is_told: bool,
    /// The request at the head of the input is the one that the lease was taken for.
    routed: bool,
    /// Something that may write ran in this transaction.
    wrote: bool,
    /// A transaction block may have been begun by what was sent since the server was last idle: what follows must not
    /// run outside it if the server is lost.
    may_be_in_block: bool,
    /// When the oldest unanswered request was seen.
    asked: Option<Instant>,
    /// Settings that the server shall be asked for.
    #[allow(clippy::box_collection, reason = "an idle client pays for a pointer only")]
    hidden: Option<Box<BTreeSet<String>>>,
    #[allow(clippy::box_collection, reason = "an idle client pays for a pointer only")]
    portals: Option<Box<HashMap<Box<[u8]>, PortalEffect>>>,
    /// Consequences of statements that have completed and count from the next ReadyForQuery.
    completed: Option<Box<Completed>>,
    /// Statements that stand on the server under names of the client's own, to be closed when nothing is under way.
    #[allow(clippy::box_collection, reason = "an idle client pays for a pointer only")]
    strays: Option<Box<BTreeSet<Box<[u8]>>>>,
}

impl Session {
    /// A conversation that starts after the login, with the settings of the startup packet.
    pub fn new(mode: PoolMode, base: Settings, own: Own) -> Self {
        let mut session = Session {
            mode,
            naming: Naming::Ours,
            settings: base.clone(),
            base,
            reading: Reading::Common,
            client: Scanner::default(),
            client_part: Passing::Forward,
            transaction: Transaction::default(),
            deferred: None,
            promotable: None,
            replies: ReplyQueue::default(),
            batch: Batch::Idle,
            pace: Pace::OneByOne,
            tenure: Tenure::default(),
            own,
            is_misread: false,
            channels: Channels::default(),
            hearing: Hearing::Shared,
            history: History::default(),
            statements: None,
            sql_statements: SqlStatements::default(),
            executes: Effects::NONE,
            has_drawn: false,
            head: None,
            ddl: false,
            unknown_name: false,
            last_words: None,
            replay: Replay::Nothing,
        };
        session.settle_naming();
        session
    }

    /// The client holds no server connection. What it has named until now, the next one does not have under those names.
    fn settle_naming(&mut self) {
        self.naming = match self.mode {
            PoolMode::Session if self.prepared_statements() == 0 => Naming::Own,
            _ => Naming::Ours,
        };
    }

    /// Has what it remembers lie elsewhere in memory. Where it lay is answered, to be dropped when all have moved who move
    /// together: then they lie side by side, and what they have left is whole pages.
    #[must_use]
    pub fn relocate(&mut self) -> Vacated {
        let few = self.statements.as_ref().filter(|statements| statements.len() <= MAX_MOVED);
        let statements = few.map(|statements| Box::new(statements.relocated()));
        let (settings, sql_statements) = (self.settings.relocated(), self.sql_statements.clone());
        Vacated {
            _statements: statements.and_then(|moved| self.statements.replace(moved)),
            _settings: std::mem::replace(&mut self.settings, settings),
            _sql_statements: std::mem::replace(&mut self.sql_statements, sql_statements),
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
        self.replies.take_room(&mut edits.room);
        if let Some(held) = &mut held {
            self.ask(held, edits);
        }
        if self.is_muted() {
            // What comes next must not overtake what runs again.
            return Want::Input;
        }
        let want = self.requests(input, held, world, edits);
        self.save(input);
        self.replies.give_room(&mut edits.room);
        want
    }

    fn requests(
        &mut self,
        input: &[u8],
        mut held: Option<Held<'_>>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Want {
        let role = held.as_ref().map(|held| held.role);
        loop {
            let at = edits.consumed();
            let rest = &input[at..];
            let step = match self.client.step(rest) {
                Ok(step) => step,
                Err(error) => return fatal(Report::protocol(error.to_string())),
            };
            match step {
                // What was refused or ignored may have left a server connection without a purpose.
                Step::Need if held.is_some() && self.may_return() => return Want::Return,
                Step::Need => return Want::Input,
                Step::Rest(n) => pass(edits, self.client_part, n),
                Step::Message(span) => {
                    let began =
                        role.filter(|role| self.is_worth_keeping(span.tag(), *role) && self.may_be_kept());
                    match self.client_message(span, rest, held.as_mut(), world, edits) {
                        Flow::Done => self.keep(span, at, began, &mut edits.spares),
                        Flow::Stop(want) => return want,
                    }
                }
            }
            self.client.pass(&step);
        }
    }

    /// The relay has the server connection that was wanted; `on_client` follows with the same bytes.
    pub fn on_leased(&mut self) {
        self.tenure.routed = true;
        self.tenure.is_soiled = false;
        self.hearing = Hearing::Shared;
    }

    /// The position that was wanted, or why there is none.
    pub fn on_position(&mut self, position: Result<Token, Report>) {
        self.own.answered(position);
    }

    /// There is no server connection to be had: the request at the head of `input` is answered with `report`.
    pub fn on_lease_failed(&mut self, input: &[u8], report: &Report, edits: &mut Edits) -> Want {
        edits.clear();
        self.head = None;
        self.tenure.asked = None;
        self.hearing = Hearing::Shared;
        self.replay = Replay::Nothing;
        report.write(&mut edits.reply, Severity::Error);
        if !self.fail_deferred() {
            self.transaction.ready(TransactionStatus::Idle);
        }
        let status = self.transaction.status();
        let Ok(step @ Step::Message(span)) = self.client.step(input) else { return Want::Input };
        match span.tag() {
            FrontendTag::QUERY | FrontendTag::FUNCTION_CALL => {
                backend::write_ready(&mut edits.reply, status);
            }
            _ => self.batch = Batch::Failed,
        }
        self.client_part = Passing::Skip;
        edits.skip(span.have());
        self.client.pass(&step);
        Want::Input
    }

    /// Bytes from the server that the client holds. `edits` is cleared first; its output goes to the client.
    pub fn on_backend(
        &mut self,
        input: &[u8],
        held: &mut Held<'_>,
        registry: &mut Registry,
        now: Instant,
        edits: &mut Edits,
    ) -> Want {
        edits.clear();
        let want = self.answers(input, held, registry, now, edits);
        if self.is_muted() {
            edits.silence();
        }
        self.replies.give_room(&mut edits.room);
        want
    }

    fn answers(
        &mut self,
        input: &[u8],
        held: &mut Held<'_>,
        registry: &mut Registry,
        now: Instant,
        edits: &mut Edits,
    ) -> Want {
        loop {
            let rest = &input[edits.consumed()..];
            if self.tenure.server.at_boundary() {
                if !self.may_pass_on(rest, edits) {
                    return Want::Input;
                }
                self.fabricate(edits);
            }
            let step = match self.tenure.server.step(rest) {
                Ok(step) => step,
                Err(error) => return fatal(broken_server(&error.to_string())),
            };
            match step {
                Step::Need => break,
                Step::Rest(n) => pass(edits, self.tenure.server_part, n),
                Step::Message(span) => match self.server_message(span, rest, held, registry, now, edits) {
                    Flow::Done => {}
                    Flow::Stop(want) => return want,
                },
            }
            self.tenure.server.pass(&step);
        }
        match self.may_return() {
            true => self.replay().unwrap_or(Want::Return),
            false => Want::Input,
        }
    }

    /// What the held server connection owes, for when the client is gone.
    pub fn owed(&self) -> Owed {
        Owed {
            ready: self.replies.ready_owed(),
            copy_in: self.tenure.copy == Copy::In,
            needs_sync: self.batch != Batch::Idle,
            // Nobody can follow what a server makes of a request in the middle of COPY data, either.
            broken: (!self.client.at_boundary() && self.client_part == Passing::Forward)
                || (self.tenure.copy == Copy::In && self.replies.len() > 1)
                // No reset takes it away.
                || !self.tenure.pins.beyond_discard().is_empty()
                || self.replies.is_ready_owed_in_doubt(),
            scanner: self.tenure.server,
            discard: (self.transaction.is_open() && self.deferred.is_none())
                || !self.tenure.pins.is_empty()
                || self.mode == PoolMode::Session
                || self.tenure.is_soiled
                || self.tenure.strays.is_some()
                || self.is_unsettled(),
        }
    }

    /// Whether what the server connection has depends on answers that have not been seen.
    fn is_unsettled(&self) -> bool {
        !self.replies.is_empty()
            || self.batch != Batch::Idle
            || self.tenure.restoring != Restoring::No
            || self.tenure.completed.is_some()
    }

    /// Whether the client could be told goodbye without cutting anything short: no transaction, no batch, no message in
    /// part, no answer outstanding.
    pub fn is_between_requests(&self) -> bool {
        self.client.at_boundary()
            && self.batch == Batch::Idle
            && self.replies.is_empty()
            && !self.transaction.is_open()
    }

    /// Whether the client's unread `input` ends with its goodbye: then an end of its stream is none of its requests.
    pub fn has_goodbye(&self, input: &[u8]) -> bool {
        let mut scanner = self.client;
        let mut at = 0;
        let mut last = None;
        while let Ok(step @ (Step::Message(_) | Step::Rest(_))) = scanner.step(&input[at..]) {
            at += match step {
                Step::Message(span) => {
                    last = Some(span.tag());
                    span.have()
                }
                Step::Rest(count) => count,
                Step::Need => break,
            };
            scanner.pass(&step);
        }
        last == Some(FrontendTag::TERMINATE) && scanner.at_boundary()
    }

    /// Whether a message of ours would stand between two messages of the server's, not inside one.
    pub fn can_be_told(&self) -> bool {
        self.tenure.server.at_boundary() || self.tenure.server_part == Passing::Skip
    }

    /// What [`Want::Tell`] asked for was done.
    pub fn on_told(&mut self) {
        self.tenure.is_told = true;
    }

    /// It was told a notification. What that is about, the primary has shown by now.
    pub fn on_notified(&mut self, now: Instant) {
        self.recall(|history| history.used(Role::Primary, 0, now));
    }

    /// Whether what the server has sent is to be looked at again, for that.
    pub fn is_told(&self) -> bool {
        self.tenure.is_told
    }

    /// Whether the client may have drawn from sequences, which one server connection remembers.
    pub fn has_drawn(&self) -> bool {
        self.has_drawn
    }

    /// Whether the client wants to hear notices of ours.
    pub fn takes_notices(&self) -> bool {
        let least = self.settings.value("client_min_messages");
        let is_deaf = |value: &Value| match value {
            Value::Text(level) | Value::Expression(level) => {
                matches!(level.trim_matches(['\'', '"']).to_ascii_lowercase().as_str(), "warning" | "error")
            }
        };
        self.can_be_told() && !least.is_some_and(is_deaf)
    }

    /// Whether a transaction block is open.
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_open()
    }

    /// Whether `on_client` has something to send even without input.
    pub fn has_questions(&self) -> bool {
        let Tenure { doubts_pins, hidden, strays, .. } = &self.tenure;
        (*doubts_pins || hidden.is_some() || strays.is_some()) && self.is_quiet()
    }

    /// Whether nothing is under way on the server connection.
    fn is_quiet(&self) -> bool {
        self.replies.is_empty()
            && !self.transaction.is_open()
            && self.batch == Batch::Idle
            && self.tenure.server.at_boundary()
            && self.client.at_boundary()
    }

    /// Whether the server connection is being made the client's: a cancel request would hit that, not the client's own.
    pub fn is_preparing(&self) -> bool {
        self.tenure.restoring != Restoring::No || self.replies.front().is_some_and(Reply::is_ours)
    }

    /// Whether an answer is awaited.
    pub fn is_waiting(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Why the client keeps its server.
    pub fn pins(&self) -> Pins {
        self.tenure.pins
    }

    /// What the client saw on a replica, if that is what it saw last.
    pub fn shown(&self) -> Option<Shown> {
        self.own.shared().map_or(self.history, scope::read).shown()
    }

    /// The client, which holds no server connection, goes on at other servers, or at the same ones in another order. The
    /// primary shows all that the client had seen on a replica: a position that is asked for from now on bounds it, whichever
    /// servers they are. What was last seen on the primary is bounded as before.
    pub fn moved(&mut self, mode: PoolMode, now: Instant) {
        if self.shown().is_some() {
            self.recall(|history| history.lost_track(now));
        }
        self.own.part();
        self.mode = mode;
        self.settle_naming();
        self.head = None;
    }

    /// How many prepared statements the client has named.
    pub fn prepared_statements(&self) -> usize {
        self.statements.as_ref().map_or(0, |statements| statements.len())
    }

    /// Whether requests have to go to the server that is held.
    fn is_bound(&self) -> bool {
        self.transaction.is_open()
            || self.batch != Batch::Idle
            || !self.tenure.pins.is_empty()
            || self.mode == PoolMode::Session
    }

    fn may_return(&self) -> bool {
        self.replies.is_empty()
            && !self.has_questions()
            && !self.tenure.routed
            // A transaction that no server knows of (any more) needs none.
            && (!self.is_bound() || self.deferred.is_some())
            && self.tenure.server.at_boundary()
            && (self.client.at_boundary() || self.client_part == Passing::Skip)
    }

    fn forget_server(&mut self) {
        self.promotable = None;
        if self.deferred.is_none() {
            self.own.ended(End::RolledBack);
            self.transaction = Transaction::default();
        }
        self.tenure = Tenure::default();
        self.channels.end_transaction(Outcome::Failed);
    }
}

fn pass(edits: &mut Edits, passing: Passing, n: usize) {
    match passing {
        Passing::Forward => edits.forward(n),
        Passing::Skip => edits.skip(n),
    }
}

fn fatal(report: Report) -> Want {
    Want::Close(Farewell::Fatal(Box::new(report)))
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
