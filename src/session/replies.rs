//! What the server owes: one entry per request that provokes an answer, in order.
//!
//! Each entry says what becomes of its answer: forwarded, swallowed (pglagoon made the request) or fabricated at its place
//! (the request was never sent). After an error in an extended batch the server answers nothing up to the next Sync, and
//! neither does this queue: the entries in between are undone.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY>

use super::questions::Question;
use super::stake::Stake;
use crate::prepared::{Named, Prepared, StatementId};
use crate::sql::Reason;
use crate::sql::effect::{Listening, SettingChange};
use crate::wire::{BackendTag, backend};
use std::collections::VecDeque;
use std::sync::Arc;

/// A request that provokes an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// Ends with ReadyForQuery.
    Query,
    /// Ends with ReadyForQuery.
    FunctionCall,
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    /// Ends with ReadyForQuery.
    Sync,
}

impl Request {
    /// Whether its answer ends with ReadyForQuery.
    pub fn ends_ready(self) -> bool {
        matches!(self, Request::Query | Request::FunctionCall | Request::Sync)
    }

    /// Whether `tag` is the last message of its answer.
    fn is_ended_by(self, tag: BackendTag) -> bool {
        match self {
            Request::Query | Request::FunctionCall | Request::Sync => tag == BackendTag::READY_FOR_QUERY,
            Request::Parse => tag == BackendTag::PARSE_COMPLETE,
            Request::Bind => tag == BackendTag::BIND_COMPLETE,
            Request::Describe => matches!(tag, BackendTag::ROW_DESCRIPTION | BackendTag::NO_DATA),
            Request::Close => tag == BackendTag::CLOSE_COMPLETE,
            Request::Execute => matches!(
                tag,
                BackendTag::COMMAND_COMPLETE
                    | BackendTag::EMPTY_QUERY_RESPONSE
                    | BackendTag::PORTAL_SUSPENDED
            ),
        }
    }
}

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Forward,
    Swallow,
    /// No request was sent: a bare message of this kind is the answer.
    Complete(BackendTag),
    /// No request was sent: the answer is that of [`Then::Answered`], else nothing at all.
    Fabricate,
}

/// What a request changes, done before its answer is known, or to be done when it is.
#[derive(Debug)]
pub(super) enum Then {
    /// An answer of ours, with nothing to undo.
    Answered(Box<[u8]>),
    /// A Parse that puts a statement on the server and, if it is the client's, gives it a name.
    Parsed { id: StatementId, name: Option<Renamed> },
    /// A Parse of the unnamed statement.
    ParsedUnnamed { name: Option<Renamed> },
    /// A Parse of the unnamed statement in whose stead the server keeps one; `put`: it was sent there for this.
    Kept { put: Option<StatementId>, name: Option<Renamed> },
    /// A Parse that the server need not see: only a name was given.
    Named(Renamed),
    /// A name was taken away.
    Unnamed(Renamed),
    /// A Close that makes room on the server.
    Evicted(Arc<Prepared>),
    /// The client will be told the parameters' types of the statement that has this name now.
    Described { name: Box<[u8]>, id: StatementId },
    /// Done when the statement succeeds: settings change.
    Settings(Vec<SettingChange>),
    /// Done when the statement succeeds: DEALLOCATE of this name of the client's.
    Deallocated(Arc<[u8]>),
    /// Done when the server says so, even if the text fails later on: DEALLOCATE ALL.
    DeallocatedAll,
    /// Done when the statement succeeds: DISCARD ALL.
    Discarded,
    /// Done when the statement's transaction commits: UNLISTEN, and what else the text does.
    Unlistened(Vec<Listening>, Option<Box<Then>>),
    /// Done when the statement succeeds: PREPARE of this name by this text.
    Prepared(String, Arc<[u8]>),
    /// A statement that PREPARE made is put on this server, too; undone when it fails.
    PreparedAgain(String),
    /// A Parse that lends the server a name of the client's.
    Lent,
    /// A BEGIN that was answered before it was sent.
    Began,
    /// A question of ours.
    Asked(Question),
    /// This of another client's is taken from the connection; undone when that is canceled.
    Cleared(Leftover),
    /// DISCARD ALL of ours, ahead of the client's settings.
    Emptied,
}

impl Then {
    /// Whether names go that the text alone tells of.
    pub fn is_deallocation(&self) -> bool {
        match self {
            Then::Unlistened(_, Some(further)) => further.is_deallocation(),
            _ => matches!(self, Then::Deallocated(_) | Then::DeallocatedAll | Then::Discarded),
        }
    }

    /// Whether settings go back to where they were when the client connected.
    pub fn is_reset(&self) -> bool {
        match self {
            Then::Discarded => true,
            Then::Unlistened(_, Some(further)) => further.is_reset(),
            Then::Settings(changes) => {
                changes.iter().any(|c| matches!(c, SettingChange::Reset { .. } | SettingChange::ResetAll))
            }
            _ => false,
        }
    }

    /// Whether it comes true with the statement, whatever becomes of the transaction.
    pub fn outlives_rollback(&self) -> bool {
        self.is_deallocation() || matches!(self, Then::Prepared(..))
    }

    /// How much it holds that its client has sent, in bytes.
    pub fn weight(&self) -> usize {
        let of_name = |renamed: &Option<Renamed>| renamed.as_ref().map_or(0, |renamed| renamed.name.len());
        match self {
            Then::Parsed { name, .. } | Then::ParsedUnnamed { name } | Then::Kept { name, .. } => {
                of_name(name)
            }
            Then::Named(renamed) | Then::Unnamed(renamed) => renamed.name.len(),
            Then::Described { name, .. } => name.len(),
            Then::Deallocated(name) => name.len(),
            Then::Settings(changes) => changes.iter().map(SettingChange::weight).sum(),
            Then::Prepared(name, text) => name.len() + text.len(),
            Then::Unlistened(changes, further) => {
                size_of_val(&**changes) + further.as_ref().map_or(0, |further| further.weight())
            }
            Then::Answered(_)
            | Then::Evicted(_)
            | Then::DeallocatedAll
            | Then::Discarded
            | Then::PreparedAgain(_)
            | Then::Lent
            | Then::Began
            | Then::Asked(_)
            | Then::Cleared(_)
            | Then::Emptied => 0,
        }
    }

    fn is_unnamed(&self) -> bool {
        matches!(self, Then::ParsedUnnamed { .. })
    }

    fn is_kept(&self) -> bool {
        matches!(self, Then::Kept { .. })
    }

    /// Whether it makes or unmakes a name, the client's or ours.
    fn is_of_names(&self) -> bool {
        let is_own =
            matches!(self, Then::Parsed { .. } | Then::Named(_) | Then::Unnamed(_) | Then::Evicted(_));
        is_own || self.is_kept() || self.is_deallocation()
    }
}

/// What a client has left on a server connection.
#[derive(Debug)]
pub(super) enum Leftover {
    /// What this client drew from sequences.
    Sequences(u64),
    /// What its PREPARE of this name made, by this text.
    Prepared(String, Arc<[u8]>),
}

/// A client's name and what had it before.
#[derive(Debug)]
pub(super) struct Renamed {
    pub name: Box<[u8]>,
    pub before: Option<Named>,
}

#[derive(Debug)]
pub(super) struct Reply {
    pub request: Request,
    pub action: Action,
    /// Of all requests that its ReadyForQuery ends.
    pub stake: Stake,
    /// What the classifier made of the statement that it runs, if it runs one of the client's.
    pub reason: Option<Reason>,
    pub then: Option<Box<Then>>,
}

impl Reply {
    /// Whether it is a query that the client knows nothing of.
    pub fn is_ours(&self) -> bool {
        self.request == Request::Query && self.action == Action::Swallow
    }

    /// Appends the answer that no server gives.
    pub fn fabricate(&self, out: &mut Vec<u8>) {
        match (self.action, self.then.as_deref()) {
            (Action::Complete(tag), _) => backend::write_bare(out, tag),
            (Action::Fabricate, Some(Then::Answered(bytes))) => out.extend_from_slice(bytes),
            _ => {}
        }
    }
}

/// What statements have changed that succeeded since the last ReadyForQuery.
#[derive(Debug, Default)]
pub(super) struct Completed {
    thens: Vec<Then>,
    weight: usize,
}

impl Completed {
    pub fn push(&mut self, then: Then) {
        self.weight += then.weight();
        self.thens.push(then);
    }

    /// How much they hold that the client has sent, in bytes.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Whether one of them puts settings back.
    pub fn has_resets(&self) -> bool {
        self.thens.iter().any(Then::is_reset)
    }

    pub fn into_thens(self) -> Vec<Then> {
        self.thens
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct ReplyQueue {
    entries: VecDeque<Reply>,
    counts: Counts,
    /// Of requests whose ReadyForQuery has not been asked for.
    open: Stake,
}

/// Memory of queues in which nothing is, for the next client that asks for something: one that is idle has none.
#[derive(Debug, Default)]
pub(super) struct Room(Vec<VecDeque<Reply>>);

impl Room {
    /// How many are kept, and how many entries one may have room for.
    const MOST: usize = 64;
}

/// How many entries have consequences of a kind.
#[derive(Debug, Default)]
struct Counts {
    names: u32,
    deallocations: u32,
    resets: u32,
    unnamed: u32,
    kept: u32,
    /// Not how many, but how much they hold, in bytes.
    weight: u32,
}

impl Counts {
    fn of(then: &Then) -> Counts {
        Counts {
            names: then.is_of_names().into(),
            deallocations: then.is_deallocation().into(),
            resets: then.is_reset().into(),
            unnamed: then.is_unnamed().into(),
            kept: then.is_kept().into(),
            weight: u32::try_from(then.weight()).unwrap_or(u32::MAX),
        }
    }

    fn change(&mut self, then: &Then, by: fn(u32, u32) -> u32) {
        let one = Counts::of(then);
        *self = Counts {
            names: by(self.names, one.names),
            deallocations: by(self.deallocations, one.deallocations),
            resets: by(self.resets, one.resets),
            unnamed: by(self.unnamed, one.unnamed),
            kept: by(self.kept, one.kept),
            weight: by(self.weight, one.weight),
        };
    }

    fn add(&mut self, then: &Then) {
        self.change(then, u32::wrapping_add);
    }

    /// `then` was added before, and holds what it held then.
    fn remove(&mut self, then: &Then) {
        self.change(then, u32::wrapping_sub);
    }
}

impl ReplyQueue {
    /// Takes memory, if it has none.
    #[inline]
    pub fn take_room(&mut self, room: &mut Room) {
        if self.entries.capacity() == 0
            && let Some(entries) = room.0.pop()
        {
            self.entries = entries;
        }
    }

    /// Gives its memory back, if nothing is in it.
    #[inline]
    pub fn give_room(&mut self, room: &mut Room) {
        if !self.entries.is_empty() || self.entries.capacity() == 0 {
            return;
        }
        let entries = std::mem::take(&mut self.entries);
        if entries.capacity() <= Room::MOST && room.0.len() < Room::MOST {
            room.0.push(entries);
        }
    }

    #[inline]
    pub fn push(&mut self, request: Request, action: Action, then: Option<Then>) {
        self.append(request, action, then.map(Box::new));
    }

    fn append(&mut self, request: Request, action: Action, then: Option<Box<Then>>) {
        let is_end = request.ends_ready() && action == Action::Forward;
        let stake = if is_end { std::mem::take(&mut self.open) } else { Stake::NOTHING };
        if let Some(then) = &then {
            self.counts.add(then);
        }
        self.entries.push_back(Reply { request, action, stake, reason: None, then });
    }

    /// The next request puts this at stake.
    pub fn risk(&mut self, stake: Stake) {
        self.open = self.open.with(stake);
    }

    /// What is at stake up to each ReadyForQuery that the client waits for, and behind the last one.
    pub fn stakes(&self) -> (Vec<Stake>, Stake) {
        let ends = |reply: &&Reply| reply.request.ends_ready() && reply.action == Action::Forward;
        (self.entries.iter().filter(ends).map(|reply| reply.stake).collect(), self.open)
    }

    /// Whether there is such an entry.
    pub fn any(&self, is_such: impl Fn(&Reply) -> bool) -> bool {
        self.entries.iter().any(is_such)
    }

    /// What the classifier made of the statement that the last entry runs.
    pub fn note(&mut self, reason: Reason) {
        if let Some(reply) = self.entries.back_mut() {
            reply.reason = Some(reason);
        }
    }

    /// Whether an entry makes or unmakes a name.
    pub fn has_names(&self) -> bool {
        self.counts.names > 0
    }

    /// Whether an entry is a DEALLOCATE or DISCARD ALL.
    pub fn has_deallocations(&self) -> bool {
        self.counts.deallocations > 0
    }

    /// Whether an entry puts settings back.
    pub fn has_resets(&self) -> bool {
        self.counts.resets > 0
    }

    /// Whether an entry is a Parse of the unnamed statement.
    pub fn has_unnamed(&self) -> bool {
        self.counts.unnamed > 0
    }

    /// How much the entries hold that the client has sent, in bytes.
    pub fn weight(&self) -> usize {
        self.counts.weight as usize
    }

    /// Whether a FunctionCall is unanswered.
    pub fn has_function_call(&self) -> bool {
        self.entries.iter().any(|reply| reply.request == Request::FunctionCall)
    }

    /// Whether an unanswered Parse of the unnamed statement has a kept one in its stead.
    pub fn has_kept(&self) -> bool {
        self.counts.kept > 0
    }

    /// Whether the latest Parse of the unnamed statement is unanswered and of an earlier batch.
    pub fn has_unnamed_of_earlier_batch(&self) -> bool {
        if !self.has_unnamed() {
            return false;
        }
        let latest = self.entries.iter().rev().find_map(|reply| match reply.then.as_deref() {
            _ if reply.request.ends_ready() => Some(true),
            Some(then) if then.is_unnamed() => Some(false),
            _ => None,
        });
        latest == Some(true)
    }

    /// What the unnamed statement was before an entry that has just been undone is what it was before the next one that
    /// changes it. Answers it back if there is none.
    pub fn hand_on(&mut self, before: Option<Named>) -> Result<(), Option<Named>> {
        for reply in &mut self.entries {
            match reply.then.as_deref_mut() {
                Some(
                    Then::ParsedUnnamed { name: Some(renamed) }
                    | Then::Kept { name: Some(renamed), .. }
                    | Then::Named(renamed)
                    | Then::Unnamed(renamed),
                ) if renamed.name.is_empty() => {
                    renamed.before = before;
                    return Ok(());
                }
                // It destroys the unnamed statement, as no FunctionCall does.
                _ if reply.request == Request::Query => return Ok(()),
                _ => {}
            }
        }
        Err(before)
    }

    /// Takes from all entries the names that they give or take.
    pub fn take_names(&mut self) -> Vec<Renamed> {
        let mut names = Vec::new();
        for reply in &mut self.entries {
            reply.then.iter().for_each(|then| self.counts.remove(then));
            match reply.then.as_deref_mut() {
                Some(Then::Parsed { name, .. } | Then::ParsedUnnamed { name } | Then::Kept { name, .. }) => {
                    names.extend(name.take());
                }
                Some(Then::Named(_) | Then::Unnamed(_)) => {
                    if let Some(Then::Named(renamed) | Then::Unnamed(renamed)) =
                        reply.then.take().map(|then| *then)
                    {
                        names.push(renamed);
                    }
                }
                _ => {}
            }
            reply.then.iter().for_each(|then| self.counts.add(then));
        }
        names
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn front(&self) -> Option<&Reply> {
        self.entries.front()
    }

    /// Takes the first entry if `tag` is the end of its answer.
    pub fn pop_ended_by(&mut self, tag: BackendTag) -> Option<Reply> {
        match self.entries.front() {
            Some(reply) if reply.request.is_ended_by(tag) => self.pop(),
            _ => None,
        }
    }

    /// Takes the first entry if its answer is fabricated.
    pub fn pop_synthetic(&mut self) -> Option<Reply> {
        match self.entries.front() {
            Some(Reply { action: Action::Complete(_) | Action::Fabricate, .. }) => self.pop(),
            _ => None,
        }
    }

    /// The server reported an error in an extended-protocol request: takes, one by one, the entries that it will not
    /// answer, which is everything before the next Sync, a Query included. The first one is the request that failed.
    pub fn pop_failed(&mut self) -> Option<Reply> {
        match self.entries.front() {
            Some(reply) if reply.request != Request::Sync => self.pop(),
            _ => None,
        }
    }

    /// Whether an error of what is outstanding would have the server skip what is sent now.
    pub fn may_skip(&self) -> bool {
        let mut batch = self.entries.iter().rev().take_while(|reply| reply.request != Request::Sync);
        batch.any(|reply| !reply.request.ends_ready())
    }

    /// The answer to the Sync that comes next, if it was sent, is the client's.
    pub fn forward_sync(&mut self) {
        if let Some(next) = self.entries.front_mut() {
            next.action = Action::Forward;
        }
    }

    /// COPY FROM STDIN has begun for the first entry: the Syncs that were sent behind it are not answered, because a
    /// server in copy-in mode ignores Sync. Answers false if another request was sent behind it: that is an error of the
    /// client's, which the server will report in a way that cannot be followed.
    ///
    /// Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-COPY>
    #[must_use]
    pub fn copy_in_began(&mut self) -> bool {
        let first = self.entries.pop_front();
        let open = &mut self.open;
        self.entries.retain(|reply| {
            let is_ignored = reply.request == Request::Sync;
            *open = if is_ignored { open.with(reply.stake) } else { *open };
            !is_ignored
        });
        let alone = self.entries.is_empty();
        self.entries.extend(first);
        self.entries.rotate_right(usize::from(!alone));
        alone
    }

    /// How many ReadyForQuery are still to come.
    pub fn ready_owed(&self) -> usize {
        self.entries.iter().filter(|reply| reply.request.ends_ready()).count()
    }

    /// Whether an answer is outstanding that may be a CopyInResponse.
    pub fn may_begin_copy(&self) -> bool {
        let may = |reply: &Reply| matches!(reply.request, Request::Query | Request::Execute);
        self.entries.iter().any(|reply| reply.action == Action::Forward && may(reply))
    }

    /// Whether that is only a guess: an error in a batch has a Query behind it skipped, and its ReadyForQuery never comes.
    pub fn is_ready_owed_in_doubt(&self) -> bool {
        let mut is_in_batch = false;
        self.entries.iter().any(|reply| {
            let ends_a_batch = matches!(reply.request, Request::Query | Request::FunctionCall);
            let is_skipped_by_error = is_in_batch && ends_a_batch;
            is_in_batch = !reply.request.ends_ready();
            is_skipped_by_error
        })
    }

    /// Forgets everything: the server is gone. Answers the entries, to be undone.
    pub fn drain(&mut self) -> impl Iterator<Item = Reply> + '_ {
        self.counts = Counts::default();
        self.open = Stake::NOTHING;
        self.entries.drain(..)
    }

    #[inline]
    fn pop(&mut self) -> Option<Reply> {
        let reply = self.entries.pop_front()?;
        if let Some(then) = &reply.then {
            self.counts.remove(then);
        }
        Some(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(requests: &[Request]) -> ReplyQueue {
        let mut queue = ReplyQueue::default();
        requests.iter().for_each(|&request| queue.push(request, Action::Forward, None));
        queue
    }

    #[test]
    fn an_answer_ends_its_own_request_only() {
        let mut queue = queue(&[Request::Execute, Request::Sync]);
        assert!(queue.pop_ended_by(BackendTag::DATA_ROW).is_none());
        assert!(queue.pop_ended_by(BackendTag::READY_FOR_QUERY).is_none());
        for end in [BackendTag::PORTAL_SUSPENDED, BackendTag::READY_FOR_QUERY] {
            assert!(queue.pop_ended_by(end).is_some());
        }
        assert!(queue.is_empty());
    }

    #[test]
    fn an_error_skips_to_the_next_sync() {
        let mut queue = queue(&[Request::Bind, Request::Query, Request::Sync, Request::Query]);
        assert_eq!(std::iter::from_fn(|| queue.pop_failed()).count(), 2);
        assert_eq!((queue.len(), queue.ready_owed()), (2, 2));
    }

    #[test]
    fn a_sync_sent_behind_copy_in_is_not_answered() {
        let mut queue = queue(&[Request::Execute, Request::Sync]);
        assert!(queue.copy_in_began());
        assert_eq!((queue.len(), queue.ready_owed()), (1, 0));
        assert_eq!(queue.front().unwrap().request, Request::Execute);
    }
}
