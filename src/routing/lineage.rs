//! Who has been primary, and what was lost when that changed. Pure.
//!
//! A promotion ends one timeline and begins another at the *fork*. What was acknowledged before and lies above the fork is
//! gone. No client keeps positions; but a sample of the old primary that lies below the fork was asked for at an instant, and
//! whatever was acknowledged before that instant is kept. What came after it, and before the new primary was known, is in
//! doubt.

use super::clock::Clock;
use super::{Lsn, consistency::History};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// The present primary's place in history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    /// Its place in the list of servers.
    pub node: usize,
    /// The timeline on which it writes.
    pub timeline: u32,
    /// The cluster's identifier, if it says so.
    pub system: Option<u64>,
    /// What the timeline before was, and where it ended.
    before: Option<Before>,
    /// Another primary is about to take its place: answers count of this instant, and no longer of the present.
    ending: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Before {
    timeline: u32,
    /// Where it was left; `None`: the server was started anew since, and does not say.
    fork: Option<Lsn>,
    /// What was acknowledged before this instant is kept.
    kept: Option<Instant>,
    /// When the new primary was known.
    known: Instant,
}

/// What has become of a position of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The present primary has it.
    Kept,
    /// It has not, or nobody can tell.
    Lost,
    /// It is of a timeline that is not known here yet.
    Unknown,
}

impl Lineage {
    /// The first primary that is known.
    pub fn first(node: usize, timeline: u32, system: Option<u64>) -> Lineage {
        Lineage { node, timeline, system, before: None, ending: None }
    }

    /// It ends now, before its successor is known: whoever looks at it from here on dates nothing later than that.
    pub fn ending(&self, now: Instant) -> Lineage {
        Lineage { ending: Some(now), ..*self }
    }

    /// Another one has taken over. `clock` are the samples of this one; `fork`: where it says that it began.
    pub fn succeeded(
        &self,
        (node, timeline): (usize, u32),
        fork: Option<Lsn>,
        clock: &Clock,
        now: Instant,
    ) -> Lineage {
        let kept = fork.and_then(|fork| clock.last_below(fork));
        let before = Before { timeline: self.timeline, fork, kept, known: now };
        Lineage { node, timeline, system: self.system, before: Some(before), ending: None }
    }

    /// A database cluster that was made anew has taken its place: nothing of what was is there.
    pub fn replaced(&self, (node, timeline): (usize, u32), system: Option<u64>, now: Instant) -> Lineage {
        let before = Before { timeline: self.timeline, fork: None, kept: None, known: now };
        Lineage { node, timeline, system, before: Some(before), ending: None }
    }

    /// Whether a server may belong to the same database cluster: it does not say that it belongs to another.
    pub fn may_be_kin(&self, system: Option<u64>) -> bool {
        self.system.zip(system).is_none_or(|(ours, its)| ours == its)
    }

    /// Whether who writes on this timeline was primary before this one. Timelines of different database clusters cannot be
    /// compared, and one that is not known (0) with none.
    pub fn has_outlived(&self, system: Option<u64>, timeline: u32) -> bool {
        self.may_be_kin(system) && (1..self.timeline).contains(&timeline)
    }

    /// Whether that was before this primary's time. What was shown then it shows, too, or it is gone.
    pub fn came_after(&self, until: Instant) -> bool {
        self.before.as_ref().is_some_and(|before| until < before.known)
    }

    /// Whether what was acknowledged to a client up to `until` may be gone.
    pub fn may_have_lost(&self, until: Instant) -> bool {
        let in_doubt = |before: &Before| until < before.known && before.kept.is_none_or(|kept| until > kept);
        self.before.as_ref().is_some_and(in_doubt)
    }

    /// Whether what the client has seen or written may be gone. A replica may have shown what its primary then took along, and
    /// what the client had written before; the new primary has all that it showed itself.
    pub fn doubts(&self, history: &History) -> bool {
        let until = match history.shown() {
            Some(shown) if usize::from(shown.node) == self.node => None,
            Some(shown) => Some(shown.until),
            None => history.on_primary(),
        };
        until.is_some_and(|until| self.may_have_lost(until))
    }

    /// The instant of which an answer counts that comes `now`, over a connection that was lent when the primary wrote on
    /// `timeline`: another server than the one promoted since has shown its own line of history, so that it is in doubt.
    pub fn dated(&self, timeline: Option<NonZeroU32>, node: usize, now: Instant) -> Instant {
        if let Some(ending) = self.ending {
            return ending;
        }
        match &self.before {
            Some(before) if timeline.is_some_and(|then| then.get() < self.timeline) && node != self.node => {
                before.known.checked_sub(Duration::from_nanos(1)).unwrap_or(before.known)
            }
            _ => now,
        }
    }

    /// What has become of a position.
    pub fn fate(&self, timeline: u32, position: Lsn) -> Fate {
        match self.before {
            _ if timeline == self.timeline => Fate::Kept,
            Some(Before { timeline: last, fork, .. }) if timeline == last => {
                if fork.is_some_and(|fork| position <= fork) { Fate::Kept } else { Fate::Lost }
            }
            _ if timeline > self.timeline => Fate::Unknown,
            _ => Fate::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Consistency;
    use crate::routing::Role;

    #[test]
    fn what_was_acknowledged_after_the_last_sample_below_the_fork_is_in_doubt() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut clock = Clock::default();
        for n in 0..4 {
            let at = start + second * n;
            clock.sample(at, Lsn(1000 + u64::from(n) * 100), at);
        }
        let first = Lineage::first(0, 1, Some(7));
        let now = start + second * 5;
        let second_one = first.succeeded((1, 2), Some(Lsn(1250)), &clock, now);
        assert!(!second_one.may_have_lost(start + second * 2), "a sample asked for then lies below the fork");
        assert!(second_one.may_have_lost(start + second * 2 + Duration::from_millis(1)));
        assert!(!second_one.may_have_lost(now), "the new primary has that");
        assert!(second_one.came_after(start + second * 2) && !second_one.came_after(now));
        assert!(!first.came_after(start));
        assert!(first.succeeded((1, 2), None, &clock, now).may_have_lost(start), "nobody can tell");
        assert!(!first.may_have_lost(start));
    }

    #[test]
    fn what_a_replica_showed_is_in_doubt_unless_it_was_the_one_that_was_promoted() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut clock = Clock::default();
        clock.sample(start, Lsn(1000), start);
        let lineage =
            Lineage::first(0, 1, None).succeeded((1, 2), Some(Lsn(1250)), &clock, start + second * 5);
        let seen_on = |role, node, until| {
            let mut history = History::default();
            history.agree(Consistency::Session, start);
            history.wrote(start + second);
            history.used(role, node, until);
            lineage.doubts(&history)
        };
        assert!(seen_on(Role::Primary, 0, start + second));
        assert!(seen_on(Role::Replica, 2, start + second), "its write, too, is forgotten for what it read");
        assert!(!seen_on(Role::Replica, 1, start + second));
        assert!(!seen_on(Role::Replica, 2, start), "a sample that was asked for then lies below the fork");
        let late = start + second * 5;
        assert!(!seen_on(Role::Replica, 2, late), "by then it was one of the new primary's");
        assert!(
            seen_on(Role::Replica, 2, lineage.dated(NonZeroU32::new(1), 2, late)),
            "unless it was asked before"
        );
        assert!(seen_on(Role::Primary, 0, lineage.dated(NonZeroU32::new(1), 0, late)));
        assert_eq!(lineage.dated(NonZeroU32::new(2), 2, late), late);
        assert_eq!(lineage.dated(NonZeroU32::new(1), 1, late), late, "the new primary itself");
    }

    #[test]
    fn a_position_is_worth_something_with_its_timeline_only() {
        let lineage =
            Lineage::first(0, 1, None).succeeded((1, 3), Some(Lsn(500)), &Clock::default(), Instant::now());
        assert_eq!(lineage.fate(3, Lsn(9000)), Fate::Kept);
        assert_eq!(lineage.fate(1, Lsn(500)), Fate::Kept);
        assert_eq!(lineage.fate(1, Lsn(501)), Fate::Lost);
        assert_eq!(lineage.fate(2, Lsn(1)), Fate::Lost);
        assert_eq!(lineage.fate(4, Lsn(1)), Fate::Unknown);
        let back = lineage.succeeded((0, 1), None, &Clock::default(), Instant::now());
        assert_eq!(back.fate(3, Lsn(1)), Fate::Lost, "of a later one, by the operator's word");
    }

    #[test]
    fn of_a_database_cluster_that_was_made_anew_nothing_is_known() {
        let now = Instant::now();
        let anew = Lineage::first(0, 5, Some(7)).replaced((0, 1), Some(8), now + Duration::from_secs(1));
        assert!(anew.may_have_lost(now) && !anew.may_have_lost(now + Duration::from_secs(2)));
        assert!(!anew.has_outlived(Some(7), 1) && !anew.may_be_kin(Some(7)));
        assert!(Lineage::first(0, 5, Some(7)).has_outlived(Some(7), 4));
        assert!(!Lineage::first(0, 5, Some(7)).has_outlived(Some(7), 5));
    }
}
