//! A BEGIN that has not begun: answered at once, and sent ahead of the first statement of its transaction.
//!
//! ```text
//!   BEGIN ---> Waiting ---- a statement, a server connection ----> BEGIN and the statement go to the server
//!                 |  \----- COMMIT, ROLLBACK -------------------> no server was ever asked
//!                 \-------- no server connection to be had -----> Failed ---- ROLLBACK ----> over
//!   a block whose server was lost ---> Lost ---- any request but ROLLBACK: an error ------^
//! ```
//!
//! So a client that thinks between BEGIN and its first statement holds no server connection, and the statement tells where
//! the transaction may run: one that is READ ONLY and starts with a proven read runs on a replica (see `promote`), any other
//! on the primary. `now()` is the time at which the server sees the BEGIN.

use super::own::End;
use super::replies::{Action, Request, Then};
use super::*;
use crate::config::Transactions;
use crate::sql::effect::{Isolation, TransactionMode};

/// A transaction that no server knows of yet.
#[derive(Debug)]
pub(super) struct Deferred {
    text: Box<[u8]>,
    pub(super) mode: TransactionMode,
    /// The level that its BEGIN names.
    pub(super) isolation: Option<Isolation>,
    stage: Stage,
    /// It ran on a replica before.
    pub(super) moved_from: Option<Shown>,
    /// What ran there and must run again.
    repeated: Vec<Box<[u8]>>,
}

/// The longest BEGIN that is kept, in bytes with its NUL; people write comments.
const MAX_BEGIN: usize = 1024;

#[derive(Debug)]
enum Stage {
    /// For its first statement.
    Waiting,
    /// It had begun, and its server was lost while the client was idle in it: the next request gets to know why.
    Lost(Box<Report>),
    /// It had an error, so that nothing but its end is taken.
    Failed,
}

impl Deferred {
    /// What is left of a transaction whose server was lost, and what the client has not been told of that yet.
    pub fn lost(untold: Option<Report>) -> Self {
        let stage = untold.map_or(Stage::Failed, |report| Stage::Lost(Box::new(report)));
        Deferred {
            text: Box::default(),
            mode: TransactionMode::Plain,
            isolation: None,
            stage,
            moved_from: None,
            repeated: Vec::new(),
        }
    }

    /// `text` runs on a replica, and must run again if the transaction moves. Answers false if that is too much to keep.
    #[must_use]
    pub(super) fn repeat(&mut self, text: &[u8], limit: usize) -> bool {
        let kept: usize = self.repeated.iter().map(|text| text.len()).sum();
        let fits = kept + text.len() <= limit;
        if fits {
            self.repeated.push(text.into());
        }
        fits
    }

    /// What was kept last has failed.
    pub(super) fn forget_last(&mut self) {
        self.repeated.pop();
    }

    /// The same transaction, for the primary.
    pub(super) fn promoted(mut self: Box<Self>, from: Shown) -> Box<Self> {
        (self.mode, self.moved_from) = (TransactionMode::Whole, Some(from));
        self
    }
}

impl Session {
    /// Deals with requests that no server need see: BEGIN, the end of a transaction that has not begun, and whatever comes in
    /// one that failed before it began. `None`: a server has to.
    pub(super) fn deferred_request(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Option<Flow> {
        match self.deferred.as_ref().map(|deferred| &deferred.stage) {
            None => self.defer(span, bytes, world, edits),
            Some(Stage::Waiting) => self.end_unbegun(span, bytes, world, edits),
            Some(Stage::Lost(_)) => Some(self.request_after_loss(span, bytes, world, edits)),
            Some(Stage::Failed) => Some(self.request_after_failure(span, bytes, world, edits)),
        }
    }

    fn defer(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Option<Flow> {
        if span.tag() != FrontendTag::QUERY || self.mode != PoolMode::Transaction || self.is_bound() {
            return None;
        }
        let body = span.body(bytes);
        if body.len() > MAX_BEGIN || self.head_of(body, world).transaction != Some(TransactionVerb::Begin) {
            return None;
        }
        let text = frontend::query(body)?;
        let begin = effect::begin(text)?;
        self.deferred = Some(Box::new(Deferred {
            text: text.into(),
            mode: begin.mode,
            isolation: begin.isolation,
            stage: Stage::Waiting,
            moved_from: None,
            repeated: Vec::new(),
        }));
        self.transaction.request(world.now);
        self.answer_simple(begin.tag, TransactionStatus::InTransaction, edits);
        Some(self.skip(span, edits))
    }

    fn end_unbegun(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Option<Flow> {
        if span.tag() != FrontendTag::QUERY || self.batch != Batch::Idle {
            return None;
        }
        let text = frontend::query(span.body(bytes))?;
        let (tag, end) = match self.head(text, world).transaction? {
            TransactionVerb::Commit if effect::is_plain_end(text) => ("COMMIT", End::Committed),
            TransactionVerb::Rollback if effect::is_plain_end(text) => ("ROLLBACK", End::RolledBack),
            _ => return None,
        };
        self.deferred = None;
        self.own.ended(end);
        self.answer_simple(tag, TransactionStatus::Idle, edits);
        Some(self.skip(span, edits))
    }

    /// The first request since the transaction was lost. ROLLBACK is what has happened; COMMIT ends it, too, but not as the
    /// client believes.
    fn request_after_loss(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        let end = self.end(span, bytes, world);
        if span.tag() == FrontendTag::CLOSE {
            return self.close_without_server(span, bytes, edits);
        }
        let untold =
            self.deferred.as_mut().map(|deferred| std::mem::replace(&mut deferred.stage, Stage::Failed));
        self.transaction.ready(TransactionStatus::Failed);
        match untold {
            Some(Stage::Lost(report)) if end != Some(TransactionVerb::Rollback) => {
                report.write(&mut edits.reply, Severity::Error);
            }
            _ => return self.request_after_failure(span, bytes, world, edits),
        }
        match span.tag() {
            FrontendTag::QUERY | FrontendTag::FUNCTION_CALL => {
                if end == Some(TransactionVerb::Commit) {
                    self.deferred = None;
                    self.transaction.ready(TransactionStatus::Idle);
                }
                backend::write_ready(&mut edits.reply, self.transaction.status());
            }
            _ => self.batch = Batch::Failed,
        }
        self.skip(span, edits)
    }

    /// How the request ends a transaction, if that is all that it does.
    fn end(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        world: &mut World<'_>,
    ) -> Option<TransactionVerb> {
        let body = span.body(bytes);
        let prepared;
        let text = match span.tag() {
            FrontendTag::QUERY => frontend::query(body)?,
            FrontendTag::PARSE => Parse::new(body)?.text,
            FrontendTag::BIND => {
                prepared = self.find(Bind::new(body)?.statement, world)?.prepared.clone();
                &prepared.text
            }
            _ => return None,
        };
        let verb = world.classify(text).transaction?;
        let ends = matches!(verb, TransactionVerb::Commit | TransactionVerb::Rollback);
        (ends && effect::is_plain_end(text)).then_some(verb)
    }

    /// A plain COMMIT or ROLLBACK outside of a transaction, as a server answers it. For a client that is to be told of a loss:
    /// who cleans up after an error does not listen to what becomes of that, so it is told at what it asks for next.
    pub(super) fn end_of_nothing(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Option<Flow> {
        if span.tag() != FrontendTag::QUERY || self.batch != Batch::Idle || self.deferred.is_some() {
            return None;
        }
        let tag = match self.end(span, bytes, world)? {
            TransactionVerb::Commit => "COMMIT",
            _ => "ROLLBACK",
        };
        if self.takes_notices() {
            let text = "there is no transaction in progress";
            Report::new(ErrorSource::Pooler, SqlState::NO_ACTIVE_SQL_TRANSACTION, text)
                .write(&mut edits.reply, Severity::Warning);
        }
        self.answer_simple(tag, TransactionStatus::Idle, edits);
        Some(self.skip(span, edits))
    }

    /// As a server answers in an aborted transaction: the end is taken, all else refused.
    fn request_after_failure(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        let body = span.body(bytes);
        let is_taken = match span.tag() {
            FrontendTag::QUERY | FrontendTag::PARSE | FrontendTag::BIND => {
                self.end(span, bytes, world).is_some()
            }
            FrontendTag::CLOSE => return self.close_without_server(span, bytes, edits),
            FrontendTag::DESCRIBE | FrontendTag::EXECUTE => true,
            _ => false,
        };
        if !is_taken {
            return self.refuse_in_failed(span, edits);
        }
        match span.tag() {
            FrontendTag::QUERY => {
                self.deferred = None;
                self.own.ended(End::RolledBack);
                self.answer_simple("ROLLBACK", TransactionStatus::Idle, edits);
            }
            FrontendTag::PARSE => {
                let Some(parse) = Parse::new(body) else { return self.refuse_in_failed(span, edits) };
                let named = world.prepare(&parse, self.settings.analysis());
                self.statements.get_or_insert_default().insert(parse.name, named);
                backend::write_bare(&mut edits.reply, BackendTag::PARSE_COMPLETE);
            }
            FrontendTag::BIND => backend::write_bare(&mut edits.reply, BackendTag::BIND_COMPLETE),
            FrontendTag::DESCRIBE => {
                if let Some(Target::Statement(_)) = Target::new(body) {
                    backend::write_no_parameters(&mut edits.reply);
                }
                backend::write_bare(&mut edits.reply, BackendTag::NO_DATA);
            }
            // Whatever was bound is the end of the transaction: nothing else was taken.
            _ => {
                self.deferred = None;
                self.own.ended(End::RolledBack);
                self.transaction.ready(TransactionStatus::Idle);
                backend::write_command_complete(&mut edits.reply, "ROLLBACK");
            }
        }
        self.skip(span, edits)
    }

    fn refuse_in_failed(&mut self, span: Span<FrontendTag>, edits: &mut Edits) -> Flow {
        let text = "current transaction is aborted, commands ignored until end of transaction block";
        Report::new(ErrorSource::Client, SqlState::IN_FAILED_SQL_TRANSACTION, text)
            .write(&mut edits.reply, Severity::Error);
        match span.tag() {
            FrontendTag::QUERY | FrontendTag::FUNCTION_CALL => {
                backend::write_ready(&mut edits.reply, TransactionStatus::Failed);
            }
            _ => self.batch = Batch::Failed,
        }
        self.skip(span, edits)
    }

    /// The transaction has an error before it began. Answers whether there is such a one.
    pub(super) fn fail_deferred(&mut self) -> bool {
        if let Some(deferred) = &mut self.deferred {
            deferred.stage = Stage::Failed;
            self.transaction.ready(TransactionStatus::Failed);
        }
        self.deferred.is_some()
    }

    /// Where the transaction may run whose first request does this; `None`: it has begun.
    pub(super) fn deferred_access(
        &self,
        first: Access,
        span: Span<FrontendTag>,
        bytes: &[u8],
        rules: &Routing,
    ) -> Option<Access> {
        let deferred = self.deferred.as_ref()?;
        Some(match deferred.mode {
            TransactionMode::ReadOnly => first,
            TransactionMode::Plain if self.is_promotable(span, bytes, rules) => first,
            TransactionMode::Plain | TransactionMode::Whole => first.max(Access::Unsure),
        })
    }

    /// The same for a request that is not there: of a transaction that has begun, or of none, it is what it is.
    pub(super) fn first_access(&self, first: Access, rules: &Routing) -> Access {
        match self.deferred.as_ref().map(|deferred| deferred.mode) {
            None | Some(TransactionMode::ReadOnly) => first,
            Some(TransactionMode::Plain) if rules.transactions == Transactions::Promote => first,
            Some(TransactionMode::Plain | TransactionMode::Whole) => first.max(Access::Unsure),
        }
    }

    /// Ahead of the first request of a transaction: its BEGIN.
    pub(super) fn begin_deferred(&mut self, deferred: Box<Deferred>, held: &mut Held<'_>, edits: &mut Edits) {
        held.state.statements.set_unnamed(None);
        self.tenure.may_be_in_block = true;
        for text in std::iter::once(&deferred.text).chain(&deferred.repeated) {
            edits.insert(|out| frontend::write_query(out, text));
            self.replies.push(Request::Query, Action::Swallow, Some(Then::Began));
        }
        if deferred.mode != TransactionMode::Whole && held.role == Role::Replica {
            self.begin_on_replica(deferred, held, edits);
        }
    }

    pub(super) fn answer_simple(&mut self, tag: &str, status: TransactionStatus, edits: &mut Edits) {
        // A simple Query destroys the unnamed statement.
        if let Some(statements) = &mut self.statements {
            statements.remove(b"");
        }
        self.transaction.ready(status);
        backend::write_command_complete(&mut edits.reply, tag);
        backend::write_ready(&mut edits.reply, status);
    }
}
