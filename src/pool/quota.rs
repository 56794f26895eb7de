//! A limit that pools share: the server connections of one database on one server, whoever its users are.
//!
//! Each connection, and each login under way, has a [`Slot`]; however it ends, the slot is free again. A pool whose clients wait
//! and that finds no slot is *short*: it stands in line by how long the first of them has waited.
//!
//! ```text
//!   a slot becomes free -----> the first in line logs in
//!   an idle connection ------> is closed for a pool that has none, or whose client has waited PATIENCE, at once;
//!                              for any that is short when it has been idle for REST
//!   one that comes back -----> the same; while clients wait for it, only if another's has waited PATIENCE longer
//! ```
//! A login costs a server thousands of times what handing a connection on does. Without that patience two busy users of one full
//! database would take each other's connections with each transaction.

use super::Pool;
use super::core::Wanted;
use crate::lock::lock;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// How long somebody waits before others give up for him what they may want again soon.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long a connection has been idle that is not wanted again soon.
const REST: Duration = Duration::from_secs(1);

/// A limit on what several pools have together.
pub struct Quota {
    ledger: Mutex<Ledger<Weak<Pool>>>,
    /// Whether a connection that comes back may be wanted by another pool: read without the lock, each time.
    is_pressed: AtomicBool,
}

/// The right to have one connection.
pub struct Slot(Arc<Quota>);

impl Drop for Slot {
    fn drop(&mut self) {
        let next = self.0.change(|ledger| {
            ledger.taken -= 1;
            ledger.next().and_then(Weak::upgrade)
        });
        // It locks its own state: no lock is held here.
        next.iter().for_each(|pool| pool.begin_logins_if_running(usize::MAX));
    }
}

/// What a pool asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Demand {
    /// Logins that it would begin.
    pub wanted: Wanted,
    /// Since when the first of its clients waits, if one does.
    pub since: Option<Instant>,
    /// It has no connection, and no login is under way.
    pub is_bare: bool,
}

/// What other pools want of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// There are more than there may be: it is to go.
    Excess,
    /// Somebody in another pool waits.
    Short {
        /// Since when.
        since: Instant,
        /// One of those who wait has no connection that could come back to him.
        is_bare: bool,
    },
}

impl Claim {
    /// Whether it is given up, if the first who waits here has done so since `first`.
    pub fn prevails(self, first: Option<Instant>, now: Instant) -> bool {
        match (self, first) {
            (Claim::Excess, _) => true,
            (Claim::Short { since, .. }, Some(first)) => since + PATIENCE <= first,
            (Claim::Short { since, is_bare }, None) => is_bare || since + PATIENCE <= now,
        }
    }

    /// Whether one is given up that has been idle since `idle`.
    pub fn reaches(self, idle: Instant, now: Instant) -> bool {
        self.prevails(None, now) || idle + REST <= now
    }
}

impl Quota {
    /// As many connections as `max` says, or as their pools allow.
    pub fn new(max: Option<usize>) -> Arc<Self> {
        let ledger = Ledger { max, taken: 0, members: BTreeMap::new(), short: BTreeMap::new(), joined: 0 };
        Arc::new(Quota { ledger: Mutex::new(ledger), is_pressed: AtomicBool::new(false) })
    }

    /// What a reload changes. What is too many goes when it comes back, and what is idle with the next sweeps.
    pub fn set_max(&self, max: Option<usize>) {
        self.change(|ledger| ledger.max = max);
    }

    /// Connections and logins under way, and how many there may be.
    pub fn usage(&self) -> (usize, Option<usize>) {
        let ledger = lock(&self.ledger);
        (ledger.taken, ledger.max)
    }

    /// A pool joins in; answers its number.
    pub(super) fn join(&self, pool: Weak<Pool>) -> u64 {
        self.change(|ledger| ledger.join(pool))
    }

    pub(super) fn leave(&self, member: u64) {
        self.change(|ledger| ledger.leave(member));
    }

    /// A slot for each login that a pool may begin now.
    pub(super) fn take(self: &Arc<Self>, member: u64, demand: Demand) -> Vec<Slot> {
        let granted = self.change(|ledger| ledger.take(member, demand));
        (0..granted).map(|_| Slot(self.clone())).collect()
    }

    /// Whether it is this pool's turn to find a place among others'.
    pub(super) fn is_first(&self, member: u64) -> bool {
        lock(&self.ledger).first() == Some(member)
    }

    /// What others want of a connection of this pool.
    pub(super) fn claim(&self, member: u64) -> Option<Claim> {
        if !self.is_pressed.load(Ordering::Relaxed) {
            return None;
        }
        lock(&self.ledger).claim(member)
    }

    /// By how many connections it is exceeded.
    pub(super) fn excess(&self) -> usize {
        if !self.is_pressed.load(Ordering::Relaxed) {
            return 0;
        }
        lock(&self.ledger).excess()
    }

    /// All pools but this one.
    pub(super) fn others(&self, member: u64) -> Vec<Arc<Pool>> {
        let ledger = lock(&self.ledger);
        let others = ledger.members.iter().filter(|(number, _)| **number != member);
        others.filter_map(|(_, other)| other.upgrade()).collect()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Ledger<Weak<Pool>>) -> T) -> T {
        let mut ledger = lock(&self.ledger);
        let answer = change(&mut ledger);
        self.is_pressed.store(ledger.is_pressed(), Ordering::Relaxed);
        answer
    }
}

/// Who has how much, and who is short. Pure: a pool is whatever the caller has.
#[derive(Debug)]
struct Ledger<P> {
    max: Option<usize>,
    taken: usize,
    members: BTreeMap<u64, P>,
    /// Those that are short: since when the first client waits, and whether they are bare.
    short: BTreeMap<u64, (Instant, bool)>,
    /// How many ever joined.
    joined: u64,
}

impl<P> Ledger<P> {
    fn join(&mut self, pool: P) -> u64 {
        self.joined += 1;
        self.members.insert(self.joined, pool);
        self.joined
    }

    fn leave(&mut self, member: u64) {
        self.members.remove(&member);
        self.short.remove(&member);
    }

    /// Those who have waited for longer come first, and what is ahead of need last.
    fn take(&mut self, member: u64, demand: Demand) -> usize {
        let Demand { wanted: Wanted { logins, waiting }, since, is_bare } = demand;
        let is_before = |theirs: Instant| waiting == 0 || since.is_none_or(|ours| theirs < ours);
        let before = self.short_but(member).filter(|(theirs, _)| is_before(*theirs)).count();
        let free = self.max.map_or(usize::MAX, |max| max.saturating_sub(self.taken + before));
        let granted = logins.min(free);
        self.taken += granted;
        match since.filter(|_| granted < waiting) {
            Some(since) => self.short.insert(member, (since, is_bare && granted == 0)),
            None => self.short.remove(&member),
        };
        granted
    }

    fn claim(&self, member: u64) -> Option<Claim> {
        if self.excess() > 0 {
            return Some(Claim::Excess);
        }
        let since = self.short_but(member).map(|(since, _)| since).min()?;
        Some(Claim::Short { since, is_bare: self.short_but(member).any(|(_, is_bare)| is_bare) })
    }

    fn excess(&self) -> usize {
        self.max.map_or(0, |max| self.taken.saturating_sub(max))
    }

    fn is_pressed(&self) -> bool {
        self.excess() > 0 || !self.short.is_empty()
    }

    /// The pool that a free slot is for.
    fn next(&self) -> Option<&P> {
        let is_free = self.max.is_none_or(|max| self.taken < max);
        self.members.get(&self.first().filter(|_| is_free)?)
    }

    /// Whose client has waited for longest.
    fn first(&self) -> Option<u64> {
        self.short.iter().min_by_key(|(_, (since, _))| *since).map(|(member, _)| *member)
    }

    fn short_but(&self, member: u64) -> impl Iterator<Item = (Instant, bool)> {
        self.short.iter().filter(move |(number, _)| **number != member).map(|(_, short)| *short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ledger(max: Option<usize>) -> (Ledger<&'static str>, [u64; 3]) {
        let mut ledger =
            Ledger { max, taken: 0, members: BTreeMap::new(), short: BTreeMap::new(), joined: 0 };
        let members = ["a", "b", "c"].map(|name| ledger.join(name));
        (ledger, members)
    }

    /// So many clients wait, the first since `since`.
    fn waiting(count: usize, since: Instant) -> Demand {
        let wanted = Wanted { logins: count, waiting: count };
        Demand { wanted, since: Some(since).filter(|_| count > 0), is_bare: false }
    }

    #[test]
    fn there_are_no_more_than_there_may_be() {
        let now = Instant::now();
        let (mut ledger, [a, b, _]) = ledger(Some(3));
        assert_eq!((ledger.take(a, waiting(2, now)), ledger.take(b, waiting(2, now))), (2, 1));
        assert!(ledger.is_pressed());
        assert_eq!(
            (ledger.next(), ledger.claim(b)),
            (None, None),
            "nothing is free, and b is the one that is short"
        );
        assert_eq!(ledger.claim(a), Some(Claim::Short { since: now, is_bare: false }));
        ledger.taken -= 1;
        assert_eq!(ledger.next(), Some(&"b"));
        assert_eq!(ledger.take(b, waiting(1, now)), 1);
        assert!(!ledger.is_pressed());
    }

    #[test]
    fn without_a_limit_everybody_has_what_he_wants() {
        let (mut ledger, [a, ..]) = ledger(None);
        assert_eq!(ledger.take(a, waiting(10_000, Instant::now())), 10_000);
        assert!(!ledger.is_pressed());
    }

    #[test]
    fn who_has_waited_longest_comes_first_and_who_does_not_wait_last() {
        let now = Instant::now();
        let (mut ledger, [a, b, c]) = ledger(Some(2));
        assert_eq!(ledger.take(a, waiting(2, now)), 2);
        assert_eq!(ledger.take(b, Demand { is_bare: true, ..waiting(1, now + SECOND) }), 0);
        assert_eq!(ledger.take(c, waiting(1, now)), 0);
        assert_eq!(ledger.claim(a), Some(Claim::Short { since: now, is_bare: true }), "b has nothing");
        assert_eq!(ledger.claim(b), Some(Claim::Short { since: now, is_bare: false }));
        ledger.taken -= 1;
        assert_eq!((ledger.next(), ledger.first()), (Some(&"c"), Some(c)));
        let ahead = Demand { wanted: Wanted { logins: 1, waiting: 0 }, since: None, is_bare: false };
        assert_eq!((ledger.take(a, ahead), ledger.take(b, waiting(1, now + SECOND))), (0, 0));
        assert_eq!(ledger.take(c, waiting(1, now)), 1);
        // Whose clients have gone stands in nobody's way.
        assert_eq!(ledger.take(b, waiting(0, now)), 0);
        assert!(!ledger.is_pressed());
        assert_eq!(ledger.take(b, waiting(1, now)), 0);
        ledger.leave(b);
        assert!(!ledger.is_pressed());
    }

    #[test]
    fn a_limit_made_smaller_is_an_excess_until_it_holds() {
        let (mut ledger, [a, ..]) = ledger(Some(3));
        ledger.take(a, waiting(3, Instant::now()));
        ledger.max = Some(1);
        assert_eq!((ledger.excess(), ledger.claim(a)), (2, Some(Claim::Excess)));
        ledger.taken -= 2;
        assert_eq!((ledger.excess(), ledger.claim(a), ledger.is_pressed()), (0, None, false));
    }

    #[test]
    fn those_who_wait_here_are_served_unless_others_wait_much_longer() {
        let now = Instant::now();
        let short = |since| Claim::Short { since, is_bare: true };
        assert!(Claim::Excess.prevails(Some(now), now));
        assert!(!short(now).prevails(Some(now), now + SECOND));
        assert!(!short(now + SECOND).prevails(Some(now), now + SECOND));
        assert!(short(now).prevails(Some(now + PATIENCE), now + SECOND));
    }

    #[test]
    fn what_is_idle_goes_to_who_has_none_or_waits_for_long_or_when_it_is_idle_for_long() {
        let (now, later) = (Instant::now(), Instant::now() + REST);
        let claim = |since, is_bare| Claim::Short { since, is_bare };
        assert!(claim(later, true).reaches(later, later));
        assert!(claim(now, false).reaches(later, later));
        assert!(!claim(later, false).reaches(later, later));
        assert!(claim(later, false).reaches(now, later));
    }
}
