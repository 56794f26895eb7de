//! Who gets which connection, and when. Pure: `now` is an argument, connections and waiters are whatever the caller has.
//!
//! A connection is idle, in use or being made; together they never exceed the size, and the reserve while somebody waits.
//! Whoever waits is served in the order of arrival, and a newcomer never overtakes. Idle connections are a stack: the last one used is the next one used, so
//! that a quiet pool lets the rest grow old and close.

use super::quota::Claim;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What the core must know of a connection.
pub trait Connection {
    /// The worker on whose reactor its socket is registered.
    fn home(&self) -> usize;
    /// The client that may have drawn from sequences on it last.
    fn drawer(&self) -> Option<u64>;
    /// When it must not be used any more, if ever.
    fn expires(&self, lifetime: Option<Duration>) -> Option<Instant>;
    /// Its number: later ones are higher.
    fn number(&self) -> u64;
    /// Whether nothing has come on it since it was parked, not even its end.
    fn is_quiet(&mut self) -> bool;
}

/// Who asks for a connection.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// The worker that serves it.
    pub home: usize,
    /// Its number, if it may have drawn from sequences: what they gave is known on that connection alone.
    pub drawer: Option<u64>,
}

/// What the core must know of somebody who waits.
pub trait Waiter {
    /// Whether nobody is there any more.
    fn is_gone(&self) -> bool;
}

/// The limits of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at most.
    pub size: usize,
    /// So many more while somebody has waited for `reserve_after`.
    pub reserve: usize,
    /// That time.
    pub reserve_after: Duration,
    /// Connections that are kept, used or not, while that is [asked for](Core::keep).
    pub min_size: usize,
    /// Waiters at most.
    pub max_waiting: usize,
    /// Logins under way at once.
    pub max_logins: usize,
    /// How long a connection may stay idle.
    pub idle_timeout: Option<Duration>,
    /// How old a connection may grow.
    pub lifetime: Option<Duration>,
}

/// Logins that a pool would begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// All of them.
    pub logins: usize,
    /// For so many of them somebody waits; the others are made ahead of need.
    pub waiting: usize,
}

/// How full a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Occupancy {
    /// Connections that clients hold (or that are being cleaned after one).
    pub in_use: usize,
    /// Connections that nobody holds.
    pub idle: usize,
    /// Logins under way.
    pub connecting: usize,
    /// Clients that wait.
    pub waiting: usize,
}

/// What becomes of a connection that comes back.
#[derive(Debug)]
#[must_use]
pub enum Placed<C, W> {
    /// It is idle now.
    Parked,
    /// The first in the queue has it.
    Hand(W, C),
    /// It is too many, too old or not wanted: close it.
    Close(C),
}

/// What a sweep found.
#[derive(Debug)]
pub struct Swept<C, W> {
    /// Waited too long.
    pub timed_out: Vec<W>,
    /// Idle for too long, too old, too many, or ended by the server.
    pub closed: Vec<C>,
}

/// How long to wait after a login that failed, doubled with each further one up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// How many idle connections are looked through for one that is at home on the caller's worker.
const HOME_SEARCH: usize = 8;

/// The same, for the one that the caller drew from sequences on.
const DRAWN_SEARCH: usize = 64;

/// The state of one pool.
#[derive(Debug)]
pub struct Core<C, W> {
    limits: Limits,
    idle: Vec<(C, Instant)>,
    waiting: VecDeque<Waiting<W>>,
    in_use: usize,
    connecting: usize,
    admission: Admission,
    backoff: Duration,
    next_login: Option<Instant>,
    /// Connections up to this number are not used again.
    outdated: u64,
    /// Whether `min_size` holds.
    is_kept: bool,
}

#[derive(Debug)]
struct Waiting<W> {
    waiter: W,
    since: Instant,
    deadline: Instant,
}

/// Whether connections are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    Open,
    /// Whoever comes waits.
    Paused,
    /// The pool is being taken down: nothing is kept.
    Closed,
}

impl<C: Connection, W: Waiter> Core<C, W> {
    /// An empty pool.
    pub fn new(limits: Limits) -> Self {
        Core {
            limits,
            idle: Vec::new(),
            waiting: VecDeque::new(),
            in_use: 0,
            connecting: 0,
            admission: Admission::Open,
            backoff: MIN_BACKOFF,
            next_login: None,
            outdated: 0,
            is_kept: false,
        }
    }

    /// Whether `min_size` holds from now on: somebody may want its connections.
    pub fn keep(&mut self, is_kept: bool) {
        self.is_kept = is_kept;
    }

    fn kept(&self) -> usize {
        if self.is_kept { self.limits.min_size.min(self.limits.size) } else { 0 }
    }

    /// An idle connection, if there is one and nobody waits for it; the one that it drew from sequences on is preferred, then
    /// one at its home.
    pub fn lease(&mut self, asker: Asker) -> Option<C> {
        if self.admission != Admission::Open || !self.waiting.is_empty() {
            return None;
        }
        let top = self.idle.len().checked_sub(1)?;
        let latest = |count| self.idle.iter().rev().take(count).map(|(connection, _)| connection);
        let drawn_on = asker.drawer.and_then(|drawer| {
            latest(DRAWN_SEARCH).position(|connection| connection.drawer() == Some(drawer))
        });
        let near = || latest(HOME_SEARCH).position(|connection| connection.home() == asker.home);
        let (connection, _) = self.idle.remove(top - drawn_on.or_else(near).unwrap_or(0));
        self.in_use += 1;
        Some(connection)
    }

    /// Stands in the queue until `deadline`, before those who have waited for less long than `since`: who was handed a connection
    /// that had ended comes back to where he stood. A connection may have come back since the caller found none: to be followed by
    /// [`hand_out`](Self::hand_out) under the same lock, or both would lie there and wait for each other.
    ///
    /// # Errors
    /// The queue is full, or the pool closed: the waiter comes back.
    pub fn wait(&mut self, waiter: W, since: Instant, deadline: Instant) -> Result<(), W> {
        if self.admission == Admission::Closed {
            return Err(waiter);
        }
        if self.waiting.len() >= self.limits.max_waiting {
            self.waiting.retain(|waiting| !waiting.waiter.is_gone());
        }
        if self.waiting.len() >= self.limits.max_waiting {
            return Err(waiter);
        }
        let later = self.waiting.iter().rev().take_while(|waiting| waiting.since > since).count();
        self.waiting.insert(self.waiting.len() - later, Waiting { waiter, since, deadline });
        Ok(())
    }

    /// How many logins to begin now.
    pub fn wanted_logins(&self, now: Instant) -> Wanted {
        if self.admission != Admission::Open || self.next_login.is_some_and(|at| now < at) {
            return Wanted::default();
        }
        let Limits { size, reserve, reserve_after, max_logins, .. } = self.limits;
        let is_pressing = reserve > 0 && self.oldest_wait().is_some_and(|since| since + reserve_after <= now);
        let most = if is_pressing { size + reserve } else { size };
        let room = most.saturating_sub(self.total()).min(max_logins.saturating_sub(self.connecting));
        let waiting = self.waiting.len().saturating_sub(self.connecting);
        let missing = self.kept().saturating_sub(self.total());
        Wanted { logins: waiting.max(missing).min(room), waiting: waiting.min(room) }
    }

    /// So many are begun. They count as connecting until `logged_in` or `login_failed`.
    pub fn begin_logins(&mut self, count: usize) {
        self.connecting += count;
    }

    /// A login has succeeded; `claim` is what other pools want of the connection.
    pub fn logged_in(&mut self, connection: C, now: Instant, claim: Option<Claim>) -> Placed<C, W> {
        self.connecting -= 1;
        self.place(connection, now, claim)
    }

    /// A login has failed: the next one waits a while. Logins that were begun together and fail together count once.
    pub fn login_failed(&mut self, now: Instant) {
        self.connecting -= 1;
        if self.next_login.is_some_and(|at| now < at) {
            return;
        }
        self.next_login = Some(now + self.backoff);
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
    }

    /// The next login need not wait.
    pub fn forget_failures(&mut self) {
        self.backoff = MIN_BACKOFF;
        self.next_login = None;
    }

    /// A connection comes back, clean; `claim` is what other pools want of it.
    pub fn put(&mut self, connection: C, now: Instant, claim: Option<Claim>) -> Placed<C, W> {
        self.in_use -= 1;
        self.place(connection, now, claim)
    }

    /// A connection that was in use is gone.
    pub fn lost(&mut self) {
        self.in_use -= 1;
    }

    /// Ends what has lasted too long.
    pub fn sweep(&mut self, now: Instant) -> Swept<C, W> {
        let mut swept = Swept { timed_out: Vec::new(), closed: Vec::new() };
        // Deadlines are not in the order of arrival if the timeout was changed by a reload.
        let (expired, rest): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .filter(|waiting| !waiting.waiter.is_gone())
            .partition(|waiting| waiting.deadline <= now);
        self.waiting = rest;
        swept.timed_out.extend(expired.into_iter().map(|waiting| waiting.waiter));
        let (limits, mut kept) = (self.limits, Vec::with_capacity(self.idle.len()));
        let mut spare = self.total().saturating_sub(self.kept());
        // The pool may have been made smaller.
        let mut surplus = self.total().saturating_sub(limits.size);
        // Those that have been idle longest come first.
        for (mut connection, since) in self.idle.drain(..) {
            let is_idle_too_long =
                limits.idle_timeout.is_some_and(|timeout| now.duration_since(since) >= timeout);
            let is_too_old = connection.expires(limits.lifetime).is_some_and(|at| at <= now);
            match surplus > 0 || (is_idle_too_long && spare > 0) || is_too_old || !connection.is_quiet() {
                true => {
                    surplus = surplus.saturating_sub(1);
                    spare = spare.saturating_sub(1);
                    swept.closed.push(connection);
                }
                false => kept.push((connection, since)),
            }
        }
        self.idle = kept;
        swept
    }

    /// Whether a sweep has nothing to look at.
    pub fn is_unused(&self) -> bool {
        self.idle.is_empty() && self.waiting.is_empty() && self.kept() == 0
    }

    /// Everybody who waits, to be sent elsewhere.
    pub fn dismiss_waiters(&mut self) -> Vec<W> {
        self.waiting.drain(..).map(|waiting| waiting.waiter).collect()
    }

    /// Every idle connection, to be closed.
    pub fn dismiss_idle(&mut self) -> Vec<C> {
        self.idle.drain(..).map(|(connection, _)| connection).collect()
    }

    /// Since when the connection has been idle that was used longest ago.
    pub fn longest_idle(&self) -> Option<Instant> {
        self.idle.first().map(|(_, since)| *since)
    }

    /// The same, if there are more connections than are to be kept.
    pub fn spare_since(&self) -> Option<Instant> {
        self.longest_idle().filter(|_| self.total() > self.kept())
    }

    /// Whether there is no connection, and no login under way.
    pub fn is_bare(&self) -> bool {
        self.total() == 0
    }

    /// That connection, to be closed.
    pub fn evict(&mut self) -> Option<C> {
        (!self.idle.is_empty()).then(|| self.idle.remove(0).0)
    }

    /// Connections up to this number are not used again: the idle ones come back to be closed, the others close when
    /// they are put.
    pub fn outdate(&mut self, number: u64) -> Vec<C> {
        self.outdated = self.outdated.max(number);
        self.dismiss_idle()
    }

    /// The number up to which connections are not used again.
    pub fn outdated(&self) -> u64 {
        self.outdated
    }

    /// Gives nothing out until `resume`.
    pub fn pause(&mut self) {
        if self.admission == Admission::Open {
            self.admission = Admission::Paused;
        }
    }

    /// Serves again; [`hand_out`](Self::hand_out) follows.
    pub fn resume(&mut self) {
        if self.admission == Admission::Paused {
            self.admission = Admission::Open;
        }
    }

    /// Idle connections for those who wait, in their order.
    pub fn hand_out(&mut self) -> Vec<(W, C)> {
        let mut handed = Vec::new();
        while self.admission == Admission::Open && !self.idle.is_empty() {
            let Some(waiter) = self.next_waiter() else { break };
            let (connection, _) = self.idle.pop().expect("checked to be there");
            self.in_use += 1;
            handed.push((waiter, connection));
        }
        handed
    }

    /// Keeps nothing from now on: no connection is used again.
    pub fn close(&mut self) {
        self.admission = Admission::Closed;
        self.outdated = u64::MAX;
    }

    /// New limits; what is too many goes when it comes back, and what is idle with the next sweep.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether nothing is given out any more, ever.
    pub fn is_closed(&self) -> bool {
        self.admission == Admission::Closed
    }

    /// Whether there are connections that may serve who waits, now or later.
    pub fn has_connections(&self) -> bool {
        self.in_use + self.idle.len() > 0
    }

    /// Whether there is no connection, and no login to be begun yet after the last one failed.
    pub fn is_struggling(&self, now: Instant) -> bool {
        !self.has_connections() && self.next_login.is_some_and(|at| now < at)
    }

    /// How full the pool is.
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            in_use: self.in_use,
            idle: self.idle.len(),
            connecting: self.connecting,
            waiting: self.waiting.iter().filter(|waiting| !waiting.waiter.is_gone()).count(),
        }
    }

    /// Whether somebody is in the queue.
    pub fn has_queue(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Connections in use and everybody in the queue.
    pub fn pressure(&self) -> usize {
        self.in_use + self.waiting.len()
    }

    /// Since when the first in the queue waits.
    pub fn oldest_wait(&self) -> Option<Instant> {
        self.waiting.iter().find(|waiting| !waiting.waiter.is_gone()).map(|waiting| waiting.since)
    }

    /// The idle connections.
    pub fn idle(&self) -> impl Iterator<Item = &C> {
        self.idle.iter().map(|(connection, _)| connection)
    }

    fn place(&mut self, connection: C, now: Instant, claim: Option<Claim>) -> Placed<C, W> {
        let is_served = self.admission == Admission::Open && !self.waiting.is_empty();
        let first = if is_served { self.oldest_wait() } else { None };
        let most = self.limits.size + if first.is_some() { self.limits.reserve } else { 0 };
        let is_too_old = connection.expires(self.limits.lifetime).is_some_and(|at| at <= now);
        let is_unwanted = is_too_old || connection.number() <= self.outdated;
        let is_claimed = match claim {
            Some(claim) => claim.prevails(first, now),
            None => false,
        };
        let is_kept =
            self.admission != Admission::Closed && !is_unwanted && !is_claimed && self.total() < most;
        if !is_kept {
            return Placed::Close(connection);
        }
        if first.is_some()
            && let Some(waiter) = self.next_waiter()
        {
            self.in_use += 1;
            return Placed::Hand(waiter, connection);
        }
        self.idle.push((connection, now));
        Placed::Parked
    }

    fn next_waiter(&mut self) -> Option<W> {
        std::iter::from_fn(|| self.waiting.pop_front())
            .map(|waiting| waiting.waiter)
            .find(|waiter| !waiter.is_gone())
    }

    fn total(&self) -> usize {
        self.in_use + self.idle.len() + self.connecting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(usize, Instant);

    const AT_0: Asker = Asker { home: 0, drawer: None };

    impl Connection for Fake {
        fn home(&self) -> usize {
            self.0
        }
        fn drawer(&self) -> Option<u64> {
            Some(10 + self.0 as u64)
        }
        fn expires(&self, lifetime: Option<Duration>) -> Option<Instant> {
            lifetime.map(|lifetime| self.1 + lifetime)
        }
        fn number(&self) -> u64 {
            self.0 as u64 + 1
        }
        fn is_quiet(&mut self) -> bool {
            self.0 != ENDED
        }
    }

    /// The home of connections that the server has ended.
    const ENDED: usize = 99;

    struct Name(&'static str, bool);

    impl Waiter for Name {
        fn is_gone(&self) -> bool {
            self.1
        }
    }

    const LIMITS: Limits = Limits {
        size: 2,
        reserve: 0,
        reserve_after: SECOND,
        min_size: 0,
        max_waiting: 3,
        max_logins: 1,
        idle_timeout: None,
        lifetime: None,
    };
    const SECOND: Duration = Duration::from_secs(1);

    fn begin(core: &mut Core<Fake, Name>, now: Instant) -> usize {
        let Wanted { logins, .. } = core.wanted_logins(now);
        core.begin_logins(logins);
        logins
    }

    fn full(now: Instant) -> Core<Fake, Name> {
        let mut core = Core::new(LIMITS);
        for home in 0..2 {
            core.wait(Name("x", false), now, now + SECOND).ok().unwrap();
            assert_eq!(begin(&mut core, now), 1);
            assert!(matches!(core.logged_in(Fake(home, now), now, None), Placed::Hand(..)));
        }
        core
    }

    fn name<C>(placed: &Placed<C, Name>) -> &'static str {
        match placed {
            Placed::Hand(waiter, _) => waiter.0,
            Placed::Parked => "parked",
            Placed::Close(_) => "closed",
        }
    }

    #[test]
    fn the_queue_is_served_in_order_and_nobody_overtakes() {
        let now = Instant::now();
        let mut core = full(now);
        core.wait(Name("first", false), now, now + SECOND).ok().unwrap();
        core.wait(Name("left", true), now, now + SECOND).ok().unwrap();
        core.wait(Name("second", false), now, now + SECOND).ok().unwrap();
        assert_eq!(begin(&mut core, now), 0, "the pool is full");
        assert_eq!(name(&core.put(Fake(0, now), now, None)), "first");
        assert!(core.lease(AT_0).is_none());
        assert_eq!(name(&core.put(Fake(0, now), now, None)), "second");
        assert_eq!(name(&core.put(Fake(0, now), now, None)), "parked");
        assert!(core.lease(AT_0).is_some());
    }

    #[test]
    fn size_counts_connections_in_use_idle_and_being_made() {
        let now = Instant::now();
        let mut core = full(now);
        core.set_limits(Limits { size: 1, ..LIMITS });
        assert_eq!(name(&core.put(Fake(0, now), now, None)), "closed", "the other one is still in use");
        assert_eq!(name(&core.put(Fake(0, now), now, None)), "parked");
        assert_eq!(core.occupancy(), Occupancy { idle: 1, ..Occupancy::default() });
    }

    #[test]
    fn idle_connections_that_the_server_has_ended_make_room_with_the_next_sweep() {
        let now = Instant::now();
        let mut core = full(now);
        let _ = core.put(Fake(ENDED, now), now, None);
        let _ = core.put(Fake(0, now), now, None);
        core.set_limits(Limits { min_size: 2, ..LIMITS });
        core.keep(true);
        assert_eq!(begin(&mut core, now), 0);
        let closed = core.sweep(now).closed;
        assert_eq!((closed.len(), closed[0].0), (1, ENDED));
        assert_eq!(begin(&mut core, now), 1);
    }

    #[test]
    fn idle_connections_of_a_pool_made_smaller_go_with_the_next_sweep() {
        let now = Instant::now();
        let mut core = full(now);
        let _ = core.put(Fake(0, now), now, None);
        let _ = core.put(Fake(1, now), now, None);
        assert_eq!(core.sweep(now).closed.len(), 0);
        core.set_limits(Limits { size: 1, ..LIMITS });
        let closed = core.sweep(now).closed;
        assert_eq!((closed.len(), closed[0].0), (1, 0), "the one that was used last stays");
        assert!(core.lease(AT_0).is_some());
        assert!(core.lease(AT_0).is_none());
    }

    #[test]
    fn a_full_queue_refuses_but_forgets_those_who_left() {
        let now = Instant::now();
        let mut core: Core<Fake, Name> = Core::new(LIMITS);
        for gone in [true, false, false] {
            core.wait(Name("x", gone), now, now + SECOND).ok().unwrap();
        }
        assert!(core.wait(Name("fits", false), now, now + SECOND).is_ok());
        assert!(core.wait(Name("too many", false), now, now + SECOND).is_err());
    }

    #[test]
    fn logins_are_bounded_and_back_off() {
        let now = Instant::now();
        let mut core: Core<Fake, Name> = Core::new(LIMITS);
        core.wait(Name("a", false), now, now + SECOND).ok().unwrap();
        core.wait(Name("b", false), now, now + SECOND).ok().unwrap();
        assert_eq!((begin(&mut core, now), begin(&mut core, now)), (1, 0));
        core.login_failed(now);
        assert_eq!(begin(&mut core, now), 0);
        assert_eq!(begin(&mut core, now + MIN_BACKOFF), 1);
        core.login_failed(now + MIN_BACKOFF);
        assert_eq!(begin(&mut core, now + 2 * MIN_BACKOFF), 0, "doubled");
    }

    #[test]
    fn logins_that_fail_together_back_off_once() {
        let now = Instant::now();
        let mut core: Core<Fake, Name> = Core::new(Limits { max_logins: 2, ..LIMITS });
        core.wait(Name("a", false), now, now + SECOND).ok().unwrap();
        core.wait(Name("b", false), now, now + SECOND).ok().unwrap();
        assert_eq!(begin(&mut core, now), 2);
        core.login_failed(now);
        core.login_failed(now);
        assert!(core.is_struggling(now));
        assert_eq!(begin(&mut core, now + MIN_BACKOFF), 2);
    }

    #[test]
    fn a_connection_that_comes_back_before_somebody_stands_in_the_queue_is_handed_to_him() {
        let now = Instant::now();
        let mut core = full(now);
        assert!(core.lease(AT_0).is_none());
        // Another worker is faster.
        assert_eq!(name(&core.put(Fake(0, now), now, None)), "parked");
        core.wait(Name("late", false), now, now + SECOND).ok().unwrap();
        assert_eq!(begin(&mut core, now), 0, "the pool is full");
        let handed = core.hand_out();
        assert_eq!((handed[0].0.0, core.occupancy().in_use), ("late", 2));
    }

    #[test]
    fn who_was_handed_a_connection_that_had_ended_stands_where_he_stood() {
        let now = Instant::now();
        let mut core = full(now);
        for (name, after) in [("first", 0), ("second", 1), ("third", 2)] {
            core.wait(Name(name, false), now + after * SECOND, now + 9 * SECOND).ok().unwrap();
        }
        assert_eq!(name(&core.put(Fake(0, now), now, None)), "first");
        core.lost();
        core.wait(Name("first", false), now, now + 9 * SECOND).ok().unwrap();
        assert_eq!(core.oldest_wait(), Some(now));
        assert_eq!(name(&core.put(Fake(1, now), now, None)), "first");
        assert_eq!(name(&core.put(Fake(1, now), now, None)), "second");
    }

    #[test]
    fn the_reserve_is_for_those_who_have_waited_for_long() {
        let now = Instant::now();
        let mut core = full(now);
        core.set_limits(Limits { reserve: 1, ..LIMITS });
        core.wait(Name("first", false), now, now + 9 * SECOND).ok().unwrap();
        core.wait(Name("second", false), now, now + 9 * SECOND).ok().unwrap();
        assert_eq!((begin(&mut core, now), begin(&mut core, now + SECOND)), (0, 1));
        assert_eq!(name(&core.logged_in(Fake(2, now), now + SECOND, None)), "first");
        assert_eq!(begin(&mut core, now + 2 * SECOND), 0, "it is in use");
        assert_eq!(name(&core.put(Fake(0, now), now + 2 * SECOND, None)), "second", "while somebody waits");
        assert_eq!(name(&core.put(Fake(1, now), now + 2 * SECOND, None)), "closed");
        assert_eq!(name(&core.put(Fake(2, now), now + 2 * SECOND, None)), "parked");
    }

    #[test]
    fn a_connection_that_others_want_is_not_parked() {
        let now = Instant::now();
        let claim = |after: u32, is_bare| Some(Claim::Short { since: now + after * SECOND, is_bare });
        for (claim, becomes) in [
            (claim(1, true), "closed"),
            (claim(0, false), "closed"),
            (claim(1, false), "parked"),
            (Some(Claim::Excess), "closed"),
        ] {
            assert_eq!(name(&full(now).put(Fake(0, now), now + SECOND, claim)), becomes, "{claim:?}");
        }
        let mut core = full(now);
        core.wait(Name("ours", false), now, now + 9 * SECOND).ok().unwrap();
        core.wait(Name("later", false), now + SECOND, now + 9 * SECOND).ok().unwrap();
        assert_eq!(name(&core.put(Fake(0, now), now, claim(0, true))), "ours");
        assert_eq!(name(&core.put(Fake(0, now), now, claim(0, false))), "closed", "they waited longer");
        assert_eq!(name(&core.put(Fake(0, now), now, Some(Claim::Excess))), "closed");
    }

    #[test]
    fn what_is_evicted_has_been_idle_for_longest() {
        let now = Instant::now();
        let mut core = full(now);
        assert!(core.evict().is_none() && core.longest_idle().is_none());
        let _ = core.put(Fake(1, now), now, None);
        let _ = core.put(Fake(0, now), now + SECOND, None);
        assert_eq!((core.longest_idle(), core.evict().map(|it| it.0)), (Some(now), Some(1)));
        assert_eq!(core.occupancy(), Occupancy { idle: 1, ..Occupancy::default() });
    }

    #[test]
    fn nobody_waits_for_a_closed_pool() {
        let now = Instant::now();
        let mut core = full(now);
        core.close();
        assert!(core.wait(Name("in vain", false), now, now + SECOND).is_err() && core.is_closed());
        assert_eq!(name(&core.put(Fake(0, now), now, None)), "closed");
    }

    #[test]
    fn a_connection_at_home_is_preferred() {
        let now = Instant::now();
        let mut core = full(now);
        let _ = core.put(Fake(0, now), now, None);
        let _ = core.put(Fake(1, now), now, None);
        assert_eq!(core.lease(AT_0).unwrap().0, 0);
        assert_eq!(core.lease(AT_0).unwrap().0, 1, "a stranger is better than none");
        assert!(core.lease(AT_0).is_none());
    }

    #[test]
    fn a_pause_holds_clients_and_resume_serves_them() {
        let now = Instant::now();
        let mut core = full(now);
        core.pause();
        assert_eq!(name(&core.put(Fake(0, now), now, None)), "parked");
        assert!(core.lease(AT_0).is_none());
        core.wait(Name("held", false), now, now + SECOND).ok().unwrap();
        assert_eq!(begin(&mut core, now), 0);
        assert!(core.hand_out().is_empty(), "still paused");
        core.resume();
        assert_eq!(core.hand_out().len(), 1);
        assert_eq!(core.occupancy().in_use, 2);
    }

    #[test]
    fn sweeping_ends_waits_idleness_and_age() {
        let now = Instant::now();
        let mut core = full(now);
        core.set_limits(Limits { idle_timeout: Some(SECOND), lifetime: Some(5 * SECOND), ..LIMITS });
        core.wait(Name("late", false), now, now + SECOND).ok().unwrap();
        assert!(core.sweep(now).timed_out.is_empty());
        assert_eq!(core.sweep(now + SECOND).timed_out.len(), 1);
        let _ = core.put(Fake(0, now), now + SECOND, None);
        assert_eq!(core.sweep(now + SECOND).closed.len(), 0);
        assert_eq!(core.sweep(now + 2 * SECOND).closed.len(), 1);
        assert_eq!(name(&core.put(Fake(0, now), now + 5 * SECOND, None)), "closed", "too old");
        assert_eq!(core.occupancy(), Occupancy::default());
    }

    #[test]
    fn what_is_kept_is_made_without_being_asked_for_and_outlasts_idleness() {
        let now = Instant::now();
        let limits = Limits { size: 5, min_size: 3, max_logins: 2, idle_timeout: Some(SECOND), ..LIMITS };
        let mut core: Core<Fake, Name> = Core::new(limits);
        assert_eq!((begin(&mut core, now), core.is_unused()), (0, true), "nobody may want them");
        core.keep(true);
        assert_eq!((begin(&mut core, now), core.is_unused()), (2, false));
        for _ in 0..2 {
            let _ = core.logged_in(Fake(0, now), now, None);
        }
        assert_eq!(begin(&mut core, now), 1);
        core.login_failed(now);
        assert_eq!(begin(&mut core, now), 0, "it waits as any other login");
        assert_eq!(begin(&mut core, now + MIN_BACKOFF), 1);
        let _ = core.logged_in(Fake(0, now), now, None);
        core.wait(Name("a", false), now, now + SECOND).ok().unwrap();
        assert_eq!(begin(&mut core, now + MIN_BACKOFF), 1, "who waits has one made for himself");
        let _ = core.logged_in(Fake(0, now), now, None);
        let _ = core.put(Fake(0, now), now, None);
        assert_eq!(core.occupancy().idle, 4);
        assert_eq!(core.sweep(now + SECOND).closed.len(), 1);
        assert_eq!(core.sweep(now + 9 * SECOND).closed.len(), 0);
        core.set_limits(Limits { lifetime: Some(5 * SECOND), ..limits });
        assert_eq!(core.sweep(now + 9 * SECOND).closed.len(), 3, "age is another matter");
        assert_eq!(begin(&mut core, now + 9 * SECOND), 2, "and they are replaced");
        core.keep(false);
        assert_eq!(begin(&mut core, now + 9 * SECOND), 0);
    }
}
