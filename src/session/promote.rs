//! A transaction block that has only read so far runs on a replica, and moves to the primary with its first statement that is
//! not a proven read: a READ ONLY one always, any other with `transactions = "promote"`.
//!
//! ```text
//!   BEGIN (deferred) ---- a proven read ----> Asking ---- READ COMMITTED ----> Reading ---- COMMIT, ROLLBACK ----> over
//!                                                \                                |
//!                                                 \---- another level ----> Leaving <---- anything else
//!   Leaving ---- the replica has rolled back ----> a deferred BEGIN again, with what it must repeat, on the primary
//!   Asking, Reading ---- READ ONLY, and it has a snapshot or a portal that cannot move ----> Staying ---- its end ----> over
//! ```
//!
//! Under READ COMMITTED each statement sees what is committed when it begins, so that nothing ties the statements of a
//! block that has not written to one server. What does (savepoints, SET LOCAL) is repeated on the primary; what cannot be
//! (cursors, portals that stay open) is not begun on a replica; a portal that was run to its end is gone after the move. The
//! barrier keeps the primary from showing less than the replica did. `now()` is the time of the primary's BEGIN from then on.
//!
//! A READ ONLY block that sees one snapshot, or has a portal to go on with, stays where it is. What would do something else on a
//! replica than it says (locks that nobody on the primary meets), or would keep its client there, is refused. A hot standby has
//! no SERIALIZABLE: a block whose user has that by default leaves before it has read anything.

use super::begin::Deferred;
use super::replies::{Action, Request, Then};
use super::*;
use crate::config::Transactions;
use crate::sql::effect::{Isolation, TransactionMode};

/// A transaction block on a replica that may have to move.
#[derive(Debug)]
pub(super) struct Promotable {
    deferred: Box<Deferred>,
    stage: Stage,
    /// What was sent last is to be repeated, if it succeeds.
    is_repeatable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The server was asked for its isolation level, which decides.
    Asking,
    Reading,
    /// It cannot move.
    Staying,
    /// ROLLBACK was sent.
    Leaving,
}

/// The most that a block may have to repeat, in bytes; then it moves while it can.
const MAX_REPEATED: usize = 4 * 1024;

impl Promotable {
    /// Whether its BEGIN lets it write.
    pub(super) fn may_write(&self) -> bool {
        self.deferred.mode != TransactionMode::ReadOnly
    }

    /// Where it stands at this level.
    fn stage_at(&self, isolation: Option<Isolation>) -> Stage {
        match isolation {
            Some(Isolation::ReadCommitted) => Stage::Reading,
            Some(Isolation::RepeatableRead) if !self.may_write() => Stage::Staying,
            _ => Stage::Asking,
        }
    }
}

impl Session {
    /// Whether the block whose first request is at the head of `bytes` may begin on a replica.
    pub(super) fn is_promotable(&self, span: Span<FrontendTag>, bytes: &[u8], rules: &Routing) -> bool {
        rules.transactions == Transactions::Promote
            && (span.tag() == FrontendTag::QUERY || !opens_portals(bytes))
            && self.deferred.as_ref().is_some_and(|deferred| deferred.mode == TransactionMode::Plain)
            && self.settings.value("default_transaction_isolation").is_none()
    }

    /// BEGIN has been sent to a replica: what is to be known before anything follows.
    pub(super) fn begin_on_replica(&mut self, deferred: Box<Deferred>, held: &Held<'_>, edits: &mut Edits) {
        let own_default = self.settings.value("default_transaction_isolation");
        // What the client's own default is, the server is not asked: such a block has a snapshot, for all that is known.
        let named = deferred.isolation.or(own_default.map(|_| Isolation::RepeatableRead));
        let isolation = named.or(held.state.isolation);
        let mut promotable = Promotable { deferred, stage: Stage::Asking, is_repeatable: false };
        promotable.stage = promotable.stage_at(isolation);
        if isolation.is_none() {
            let question = Question::Isolation;
            edits.insert(|out| frontend::write_query(out, question.sql().as_bytes()));
            self.replies.push(Request::Query, Action::Swallow, Some(Then::Asked(question)));
        }
        self.promotable = Some(Box::new(promotable));
    }

    /// Whether nothing may follow before the server has told its isolation level.
    pub(super) fn is_asking_isolation(&self) -> bool {
        self.promotable.as_ref().is_some_and(|promotable| promotable.stage == Stage::Asking)
    }

    /// Lets a request of a block that runs on a replica pass, or has the block leave. `None`: it passes.
    pub(super) fn promote(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        held: &mut Held<'_>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Option<Flow> {
        let promotable = self.promotable.as_mut()?;
        let stage = promotable.stage;
        if stage == Stage::Staying {
            return self.stay(span, bytes, held, world, edits);
        }
        if self.batch != Batch::Idle {
            return None;
        }
        match stage {
            Stage::Leaving => return Some(Flow::Stop(Want::Input)),
            Stage::Asking if !self.replies.is_empty() => return Some(Flow::Stop(Want::Input)),
            Stage::Asking => promotable.stage = promotable.stage_at(held.state.isolation),
            Stage::Reading | Stage::Staying => {}
        }
        match promotable.stage {
            Stage::Asking => return Some(self.leave_replica(held, edits)),
            Stage::Staying => return self.stay(span, bytes, held, world, edits),
            Stage::Reading | Stage::Leaving => {}
        }
        match self.may_stay(span, bytes, world) {
            Some(true) => None,
            // Whether the block is still good, only the answers tell.
            Some(false) if !self.replies.is_empty() => Some(Flow::Stop(Want::Input)),
            Some(false) => Some(self.leave_replica(held, edits)),
            None => Some(Flow::Stop(Want::Input)),
        }
    }

    /// Lets a request of a block that cannot leave its replica pass, or refuses it.
    fn stay(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        held: &mut Held<'_>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Option<Flow> {
        if self.transaction.status() == TransactionStatus::Failed {
            return None;
        }
        let body = span.body(bytes);
        let token = match span.tag() {
            FrontendTag::QUERY => {
                let text = frontend::query(body).unwrap_or_default();
                misplaced(&world.classify(text), text).map(str::to_owned)
            }
            FrontendTag::BIND => {
                let named = self.find(Bind::new(body)?.statement, world)?;
                misplaced(&named.statement, &named.prepared.text).map(str::to_owned)
            }
            _ => None,
        };
        token.map(|token| self.refuse(span, misplacement(&token), Some(held), edits))
    }

    /// A READ ONLY block whose batch leaves a portal behind stays where it is. Answers whether it is such a one. A block that
    /// still asks for its level comes here again.
    pub(super) fn stays_with_portal(&mut self, span: Span<FrontendTag>, bytes: &[u8]) -> bool {
        let Some(promotable) = &mut self.promotable else { return false };
        let stays = promotable.stage == Stage::Reading
            && !promotable.may_write()
            && span.tag() != FrontendTag::QUERY
            && opens_portals(bytes);
        if stays {
            promotable.stage = Stage::Staying;
        }
        stays
    }

    /// Whether the replica may serve the request at the head of `bytes`; `None`: that cannot be told yet.
    fn may_stay(&mut self, span: Span<FrontendTag>, bytes: &[u8], world: &mut World<'_>) -> Option<bool> {
        if span.tag() != FrontendTag::QUERY {
            let is_failed = self.transaction.status() == TransactionStatus::Failed;
            let (access, _) = self.judge_batch(bytes, world)?;
            let is_read = access == Access::Read;
            return Some(
                is_failed || (is_read && (self.stays_with_portal(span, bytes) || !opens_portals(bytes))),
            );
        }
        let text = frontend::query(span.body(bytes)).unwrap_or_default();
        let head = self.head(text, world);
        let (verb, access) = (head.transaction, head.routable());
        let is_repeated = head.statements == 1
            && (verb == Some(TransactionVerb::Savepoint) || effect::is_plain_set_local(text));
        let is_end = matches!(verb, Some(TransactionVerb::Commit | TransactionVerb::Rollback))
            && effect::is_plain_end(text);
        let is_failed = self.transaction.status() == TransactionStatus::Failed;
        if is_repeated && !self.replies.is_empty() {
            return None;
        }
        if is_repeated && let Some(promotable) = &mut self.promotable {
            promotable.is_repeatable = promotable.deferred.repeat(text, MAX_REPEATED);
            return Some(promotable.is_repeatable);
        }
        Some(is_end || is_failed || access == Access::Read)
    }

    fn leave_replica(&mut self, held: &mut Held<'_>, edits: &mut Edits) -> Flow {
        if let Some(promotable) = &mut self.promotable {
            promotable.stage = Stage::Leaving;
        }
        self.tenure.routed = false;
        held.state.statements.set_unnamed(None);
        edits.insert(|out| frontend::write_query(out, b"ROLLBACK"));
        self.replies.push(Request::Query, Action::Swallow, Some(Then::Began));
        Flow::Stop(Want::Input)
    }

    /// The replica is lost. A block of which nothing is owed goes on elsewhere, where it shows no less.
    pub(super) fn go_on_elsewhere(&mut self) {
        if self.batch != Batch::Idle || self.transaction.status() == TransactionStatus::Failed {
            return;
        }
        let shown = self.shown();
        self.deferred = self.promotable.take().and_then(|promotable| match (promotable.stage, shown) {
            (Stage::Asking, _) => Some(promotable.deferred),
            (Stage::Reading | Stage::Leaving, Some(shown)) => Some(promotable.deferred.promoted(shown)),
            (Stage::Reading | Stage::Leaving, None) | (Stage::Staying, _) => None,
        });
    }

    /// A request of the block's was answered.
    pub(super) fn answered_on_replica(&mut self, outcome: Outcome) {
        if let Some(promotable) = &mut self.promotable
            && std::mem::take(&mut promotable.is_repeatable)
            && outcome == Outcome::Failed
        {
            promotable.deferred.forget_last();
        }
    }

    /// Nothing is outstanding any more.
    pub(super) fn leave_at_last(&mut self, held: &Held<'_>, now: Instant) {
        if let Some(promotable) = self.promotable.take_if(|promotable| promotable.stage == Stage::Leaving) {
            let shown = Shown { node: held.node, until: now };
            self.deferred = Some(promotable.deferred.promoted(shown));
            self.tenure.may_be_in_block = false;
        }
    }
}

/// The word for which a statement does not belong on a replica, though it would run there: the lock that it takes is none on
/// the primary, it leaves something behind there that binds its client to it, or what follows could not be told from either.
fn misplaced<'s>(statement: &'s Statement, text: &[u8]) -> Option<&'s str> {
    let locks = ["pg_advisory", "pg_try_advisory"];
    let token = &*statement.token;
    let is_lock = statement.reason == Reason::HarmfulFunction
        && locks.iter().any(|lock| token.to_ascii_lowercase().contains(lock));
    let effects = statement.effects.without(Effects::SEQUENCE.with(Effects::PREPARE));
    let changes_settings = effects
        .any(Effects::SETTINGS.with(Effects::LOCAL_SETTINGS).with(Effects::SET_CONFIG).with(Effects::BLOCK));
    let is_misplaced =
        is_lock || !Pins::of(effects).is_empty() || (changes_settings && effect::names_reading(text));
    is_misplaced.then_some(token)
}

fn misplacement(token: &str) -> Report {
    let text = format!("this READ ONLY transaction runs on a replica, where {token} is of no use");
    Report::new(ErrorSource::Client, SqlState::FEATURE_NOT_SUPPORTED, text)
        .detail("The transaction sees one snapshot of that replica, or has a portal there, and cannot move to the primary.")
        .hint("BEGIN READ WRITE, or SET pglagoon.route TO 'primary' ahead of it, has it run on the primary.")
}

/// Whether a batch leaves a portal behind that later ones may go on with.
fn opens_portals(bytes: &[u8]) -> bool {
    for message in messages(bytes) {
        let Ok((tag, body)) = message else { return true };
        let opens = match tag {
            FrontendTag::SYNC => return false,
            FrontendTag::BIND => Bind::new(body).is_none_or(|bind| !bind.portal.is_empty()),
            FrontendTag::EXECUTE => !body.ends_with(&[0; 4]),
            _ => false,
        };
        if opens {
            return true;
        }
    }
    true
}
