//! A limit that pools share: the server connections of one database on one server, whoever its users are.
//!
//! Each connection, and each login under way, has a [`Slot`]; however it ends, the slot is free again. A pool whose clients wait
//! and that finds no slot is *short*: it stands in line by how long the first of them has waited.
//!
//! ```text
//!   a pool becomes short ------> the connections of others that have been idle longest are closed
//!   while one is short --------> no other parks a connection, nor makes one ahead of need
//!                                one whose clients wait, too, gives up a connection to who has waited PATIENCE longer
//!   a slot becomes free -------> the first in line logs in
//! ```
//! A login costs a server thousands of times what handing a connection on does. Without that patience two busy users of one full
//! database would take each other's connections with each transaction.

use super::Pool;
use crate::lock::lock;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// By how much longer than our own clients somebody else's must have waited to be given a connection that they could have.
const PATIENCE: Duration = Duration::from_millis(250);

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

/// What a pool was given.
#[derive(Default)]
pub(super) struct Taken {
    pub slots: Vec<Slot>,
    /// How many of its clients wait for one that there was none for, if that is new.
    pub short: usize,
}

/// What others want of a connection that comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// There are more than there may be: it is to go.
    Excess,
    /// Somebody in another pool has waited since then.
    Since(Instant),
}

impl Claim {
    /// Whether it is given up, if the first who waits here has done so since `first`.
    pub fn prevails(self, first: Option<Instant>) -> bool {
        match (self, first) {
            (Claim::Excess, _) | (_, None) => true,
            (Claim::Since(theirs), Some(ours)) => theirs + PATIENCE <= ours,
        }
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

    /// Slots for a pool that would log in so many times, `waiting` of them for clients that wait, the first since `since`.
    pub(super) fn take(
        self: &Arc<Self>,
        member: u64,
        wanted: usize,
        waiting: usize,
        since: Option<Instant>,
    ) -> Taken {
        let granted = self.change(|ledger| ledger.take(member, wanted, waiting, since));
        let slots = (0..granted).map(|_| Slot(self.clone())).collect();
        Taken { slots, short: waiting.saturating_sub(granted) }
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
    /// Since when the first client waits, of each that is short.
    short: BTreeMap<u64, Instant>,
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

    /// Those who have waited for longer come first.
    fn take(&mut self, member: u64, wanted: usize, waiting: usize, since: Option<Instant>) -> usize {
        let is_before = |theirs: Instant| waiting == 0 || since.is_none_or(|ours| theirs < ours);
        let before = self.short_but(member).filter(|theirs| is_before(*theirs)).count();
        let free = self.max.map_or(usize::MAX, |max| max.saturating_sub(self.taken + before));
        let granted = wanted.min(free);
        self.taken += granted;
        match since.filter(|_| granted < waiting) {
            Some(since) => self.short.insert(member, since),
            None => self.short.remove(&member),
        };
        granted
    }

    fn claim(&self, member: u64) -> Option<Claim> {
        match self.excess() {
            0 => self.short_but(member).min().map(Claim::Since),
            _ => Some(Claim::Excess),
        }
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
        let (first, _) = self.short.iter().min_by_key(|(_, since)| **since).filter(|_| is_free)?;
        self.members.get(first)
    }

    fn short_but(&self, member: u64) -> impl Iterator<Item = Instant> {
        self.short.iter().filter(move |(number, _)| **number != member).map(|(_, since)| *since)
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

    #[test]
    fn there_are_no_more_than_there_may_be() {
        let now = Some(Instant::now());
        let (mut ledger, [a, b, _]) = ledger(Some(3));
        assert_eq!((ledger.take(a, 2, 2, now), ledger.take(b, 2, 2, now)), (2, 1));
        assert!(ledger.is_pressed());
        assert_eq!(
            (ledger.next(), ledger.claim(b)),
            (None, None),
            "nothing is free, and b is the one that is short"
        );
        assert_eq!(ledger.claim(a), now.map(Claim::Since));
        ledger.taken -= 1;
        assert_eq!(ledger.next(), Some(&"b"));
        assert_eq!(ledger.take(b, 1, 1, now), 1);
        assert!(!ledger.is_pressed());
    }

    #[test]
    fn without_a_limit_everybody_has_what_he_wants() {
        let (mut ledger, [a, ..]) = ledger(None);
        assert_eq!(ledger.take(a, 10_000, 10_000, Some(Instant::now())), 10_000);
        assert!(!ledger.is_pressed());
    }

    #[test]
    fn who_has_waited_longest_comes_first_and_who_does_not_wait_last() {
        let now = Instant::now();
        let (mut ledger, [a, b, c]) = ledger(Some(2));
        assert_eq!(ledger.take(a, 2, 2, Some(now)), 2);
        assert_eq!(ledger.take(b, 1, 1, Some(now + SECOND)), 0);
        assert_eq!(ledger.take(c, 1, 1, Some(now)), 0);
        ledger.taken -= 1;
        assert_eq!(ledger.next(), Some(&"c"));
        assert_eq!((ledger.take(a, 1, 0, None), ledger.take(b, 1, 1, Some(now + SECOND))), (0, 0));
        assert_eq!(ledger.take(c, 1, 1, Some(now)), 1);
        // Whose clients have gone stands in nobody's way.
        assert_eq!(ledger.take(b, 0, 0, None), 0);
        assert!(!ledger.is_pressed());
        assert_eq!(ledger.take(b, 1, 1, Some(now)), 0);
        ledger.leave(b);
        assert!(!ledger.is_pressed());
    }

    #[test]
    fn a_limit_made_smaller_is_an_excess_until_it_holds() {
        let (mut ledger, [a, ..]) = ledger(Some(3));
        ledger.take(a, 3, 3, Some(Instant::now()));
        ledger.max = Some(1);
        assert_eq!((ledger.excess(), ledger.claim(a)), (2, Some(Claim::Excess)));
        ledger.taken -= 2;
        assert_eq!((ledger.excess(), ledger.claim(a), ledger.is_pressed()), (0, None, false));
    }

    #[test]
    fn those_who_wait_here_are_served_unless_others_wait_much_longer() {
        let now = Instant::now();
        assert!(Claim::Excess.prevails(Some(now)));
        assert!(Claim::Since(now).prevails(None), "nobody waits here");
        assert!(!Claim::Since(now).prevails(Some(now)));
        assert!(!Claim::Since(now + SECOND).prevails(Some(now)));
        assert!(Claim::Since(now).prevails(Some(now + PATIENCE)));
    }
}
