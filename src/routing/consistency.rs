//! What a client has seen, and what its next read needs for that. Pure.
//!
//! ```text
//!                    a read, granted on a replica                a read, on the same replica
//!      Nothing ----------------------------------> Replica n ---------------------------------> Replica n
//!         |                                         |     ^
//!         | anything, on the primary                |     | a read, on a replica that has replayed a position of the
//!         v                                         v     | primary asked for after `until`
//!      Primary until <------------------------------+-----+
//!                     anything, on the primary, behind the barrier
//! ```
//! - On **one replica** a client never goes back: a server's own progress is monotonic. That holds for as long as the server
//!   runs: after a crash it may serve reads before it has replayed as much as it had. So a client stays with its replica only
//!   on a connection that was there when it last read.
//! - From **the primary** to a replica it takes along all that the primary had shown it, and all that it wrote itself. A
//!   position of the primary that was *asked for after that* bounds it from above: each commit record was inserted before
//!   its commit was acknowledged or seen. So nothing is asked on the write path, and no position is kept per client: an
//!   instant says it all.
//! - From one replica to **another** it goes by way of such a position, too: no replica shows what the primary's WAL had not.
//! - From a replica to **the primary** it may go back in time, because a replica shows a commit as soon as it replays it, and
//!   the primary only when its WAL is flushed and its synchronous standbys have confirmed. That is what the barrier is for.
//!
//! Source: Terry et al., "Session Guarantees for Weakly Consistent Replicated Data", 1994; Daudjee and Salem, "Lazy Database
//! Replication with Snapshot Isolation", 2006.

use super::Role;
use crate::config::{Consistency, Routing};
use std::time::{Duration, Instant};

/// For how long the reads of a client with `synchronous_commit = off` stay on the primary after a write: its WAL leaves
/// the primary only when the WAL writer has flushed it, which may take three times `wal_writer_delay`.
const ASYNCHRONOUS_COMMIT: Duration = Duration::from_millis(600);

/// What a replica has shown to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// The replica's place in the list of servers.
    pub node: u16,
    /// Up to when.
    pub until: Instant,
}

/// What a client has seen, as far as it matters to where it may read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    Replica(Shown),
    /// What the primary showed, or was given, up to then; and what anybody could show that it was not more than.
    Primary {
        until: Instant,
    },
}

/// What a client did before, as far as routing cares. Kept small: an idle client has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    until: Option<Instant>,
    /// Where that was; `None`: on the primary.
    replica: Option<u16>,
    /// The level by which it is followed; `None` before the first request.
    level: Option<Consistency>,
}

/// What a replica must be, to serve a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Within the lag limit.
    Nothing,
    /// The one that the client has read from, over a connection that was there then.
    Stay,
    /// It has replayed a position of the primary that was asked for at that instant or later.
    Since(Instant),
}

/// Whether the client's commits wait for their WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commits {
    /// As far as it has said nothing else.
    Synchronous,
    /// It has set `synchronous_commit = off`.
    Asynchronous,
}

/// What decides about a client's reads, besides what it did before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// What they may return.
    pub level: Consistency,
    /// For `bounded`.
    pub max_staleness: Duration,
    /// For `sticky`.
    pub sticky_window: Duration,
    /// How the client commits.
    pub commits: Commits,
}

impl Terms {
    /// Those of a client that has chosen nothing.
    pub fn of(rules: &Routing) -> Terms {
        Terms {
            level: rules.consistency,
            max_staleness: rules.max_staleness,
            sticky_window: rules.sticky_window,
            commits: Commits::Synchronous,
        }
    }
}

/// Where a read may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// On a replica.
    Replica(Need),
    /// On the primary: it is too early for a replica.
    Early,
    /// On the primary, always.
    Primary,
}

impl History {
    /// This level holds from now on. What was seen under another one was not followed: it may be all that there was.
    pub fn agree(&mut self, level: Consistency, now: Instant) {
        if self.level.replace(level).is_some_and(|before| before != level) {
            self.lost_track(now);
        }
    }

    /// A request is sent to a server, or its answer has arrived.
    pub fn used(&mut self, role: Role, node: u16, now: Instant) {
        if self.level.is_some_and(is_followed) {
            (self.until, self.replica) = (Some(now), (role == Role::Replica).then_some(node));
        }
    }

    /// A statement that may write was sent, or its answer has arrived.
    pub fn wrote(&mut self, now: Instant) {
        (self.until, self.replica) = (Some(now), None);
    }

    /// What the client has seen was not followed: it may be all that there was at `now`.
    pub fn lost_track(&mut self, now: Instant) {
        (self.until, self.replica) = (Some(now), None);
    }

    /// Until when the primary showed it something, or was given something, last.
    pub fn on_primary(&self) -> Option<Instant> {
        match self.seen() {
            Seen::Primary { until } if self.level.is_some_and(is_followed) => Some(until),
            _ => None,
        }
    }

    /// Until when it is known to have seen something, and on which replica; `None`: on the primary.
    pub fn last(&self) -> Option<(Option<u16>, Instant)> {
        self.until.map(|until| (self.replica, until))
    }

    fn seen(&self) -> Seen {
        match (self.until, self.replica) {
            (None, _) => Seen::Nothing,
            (Some(until), None) => Seen::Primary { until },
            (Some(until), Some(node)) => Seen::Replica(Shown { node, until }),
        }
    }

    /// What the primary must not fall behind, if the client goes there.
    pub fn shown(&self) -> Option<Shown> {
        match self.seen() {
            Seen::Replica(shown) if self.level.is_some_and(is_followed) => Some(shown),
            _ => None,
        }
    }

    /// Where the client's next read may run.
    pub fn read(&self, terms: &Terms, now: Instant) -> Verdict {
        match (terms.level, self.seen()) {
            (Consistency::Primary, _) => Verdict::Primary,
            (Consistency::Eventual, _) => Verdict::Replica(Need::Nothing),
            (Consistency::Sticky, Seen::Primary { until }) if now < until + terms.sticky_window => {
                Verdict::Early
            }
            (Consistency::Sticky, _) => Verdict::Replica(Need::Nothing),
            // A process that began less than `max_staleness` ago has no sample so old, and needs none.
            (Consistency::Bounded, _) => {
                Verdict::Replica(Need::Since(now.checked_sub(terms.max_staleness).unwrap_or(now)))
            }
            (_, Seen::Primary { until })
                if terms.commits == Commits::Asynchronous && now < until + ASYNCHRONOUS_COMMIT =>
            {
                Verdict::Early
            }
            (Consistency::Strong, _) => Verdict::Replica(Need::Since(now)),
            (Consistency::Session, Seen::Nothing) => Verdict::Replica(Need::Nothing),
            (Consistency::Session, Seen::Replica(_)) => Verdict::Replica(Need::Stay),
            (Consistency::Session, Seen::Primary { until }) => Verdict::Replica(Need::Since(until)),
        }
    }
}

/// Whether what a client sees is followed under this level: all of it, not its writes alone.
fn is_followed(level: Consistency) -> bool {
    matches!(level, Consistency::Session | Consistency::Strong)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn terms(level: Consistency) -> Terms {
        let commits = Commits::Synchronous;
        Terms { level, max_staleness: SECOND, sticky_window: SECOND * 2, commits }
    }

    #[test]
    fn a_session_stays_until_it_has_been_to_the_primary() {
        let (mut history, start) = (History::default(), Instant::now());
        let session = terms(Consistency::Session);
        assert_eq!(history.read(&session, start), Verdict::Replica(Need::Nothing));
        history.agree(session.level, start);
        history.used(Role::Replica, 2, start);
        assert_eq!(history.read(&session, start + SECOND), Verdict::Replica(Need::Stay));
        assert_eq!(history.shown(), Some(Shown { node: 2, until: start }));
        history.used(Role::Primary, 0, start + SECOND);
        assert_eq!(history.read(&session, start + SECOND * 2), Verdict::Replica(Need::Since(start + SECOND)));
        assert_eq!(history.shown(), None, "the primary does not go back behind itself");
    }

    #[test]
    fn an_asynchronous_commit_is_not_waited_for() {
        let (mut history, start) = (History::default(), Instant::now());
        let session = Terms { commits: Commits::Asynchronous, ..terms(Consistency::Session) };
        history.wrote(start);
        assert_eq!(history.read(&session, start + ASYNCHRONOUS_COMMIT / 2), Verdict::Early);
        assert_eq!(history.read(&session, start + ASYNCHRONOUS_COMMIT), Verdict::Replica(Need::Since(start)));
    }

    #[test]
    fn strong_goes_by_the_reads_own_arrival_and_bounded_by_an_earlier_instant() {
        let (history, now) = (History::default(), Instant::now());
        assert_eq!(history.read(&terms(Consistency::Strong), now), Verdict::Replica(Need::Since(now)));
        let bounded = history.read(&terms(Consistency::Bounded), now);
        assert_eq!(bounded, Verdict::Replica(Need::Since(now - SECOND)));
    }

    #[test]
    fn sticky_goes_by_writes_alone() {
        let (mut history, start) = (History::default(), Instant::now());
        let sticky = terms(Consistency::Sticky);
        history.agree(sticky.level, start);
        history.used(Role::Primary, 0, start);
        assert_eq!(history.read(&sticky, start), Verdict::Replica(Need::Nothing));
        history.wrote(start);
        assert_eq!(history.read(&sticky, start + SECOND), Verdict::Early);
        assert_eq!(history.read(&sticky, start + SECOND * 2), Verdict::Replica(Need::Nothing));
    }

    #[test]
    fn a_client_costs_little() {
        assert!(size_of::<History>() <= 24);
    }
}
