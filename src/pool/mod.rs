//! Who gets which server connection, and when.
//!
//! A [`Pool`] is the server connections of one database and user on one server, shared by all workers: [`core`] decides,
//! this file carries it out. A [`Lease`] is the right to use one connection; however it ends, the pool hears of it.
//!
//! ```text
//!   try_lease --------------------------> Lease --give_back--> core.put: parked, or handed to the first who waits
//!   queue --> (login task | put) -------> Lease --end(owed)--> salvaged in the background, then put
//!                                               --drop-------> closed, and the slot is free
//! ```
//! A [`Quota`] bounds what the pools of several users have together.

pub mod core;
pub mod quota;

use self::core::{Asker, Connection, Core, Limits, Occupancy, Placed, Waiter};
use self::quota::{Claim, Demand, Quota, Slot};
use crate::backend::{self, Backend, ConnectError, Full, Idle, Target};
use crate::error::{ClientVisible, Report, Retry};
use crate::lock::lock;
use crate::session::{Owed, ServerState};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::oneshot;

/// How long a connection whose client is gone may take to be cancelled, and how long to become clean.
const SALVAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a connection at which a cancel request is aimed is looked at.
const CANCEL_POLL: Duration = Duration::from_millis(5);

/// What a pool tells of its server.
pub trait Upstream: Send + Sync {
    /// A login failed.
    fn login_failed(&self, error: &ConnectError);
    /// A login worked, but the server is not what its clients want.
    fn refuses(&self, state: &ServerState) -> Option<ConnectError>;
}

/// How a pool is made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Its limits.
    pub limits: Limits,
    /// Time for connecting and logging in.
    pub connect_timeout: Duration,
}

/// Why there is no lease.
#[derive(Debug, Clone)]
pub enum LeaseError {
    /// Nobody gave a connection back in time.
    Timeout,
    /// Too many wait already.
    QueueFull(usize),
    /// The server refuses, for good.
    Refused(Report),
    /// The server cannot be reached now: try another, or later.
    Unreachable(Report),
    /// The pool is no more.
    Closed,
}

/// The server connections of one database and user on one server.
pub struct Pool {
    core: Mutex<Core<Box<Backend>, Queued>>,
    load: AtomicUsize,
    /// Read without the lock wherever a replica is chosen.
    struggling: AtomicBool,
    /// What the last login met with, if it failed, and what had no room for it.
    refusal: Mutex<Option<(LeaseError, Option<Full>)>>,
    /// Whether somebody is in the queue, for who looks through thousands of pools.
    has_queue: AtomicBool,
    target: ArcSwap<Target>,
    connect_timeout: ArcSwap<Duration>,
    upstream: Arc<dyn Upstream>,
    process: Arc<Process>,
    quota: Arc<Quota>,
    /// Its number there.
    member: u64,
    /// Whether it is short of slots: changes under the lock of `core` alone.
    is_short: AtomicBool,
    entries: Mutex<BTreeMap<u64, Entry>>,
    salvaging: AtomicUsize,
}

/// What a pool was given for its logins.
#[derive(Default)]
struct Taken {
    slots: Vec<Slot>,
    /// It was not enough, and had been until then.
    became_short: bool,
}

/// A connection that there is, whoever has it.
struct Entry {
    card: Arc<ServerCard>,
    /// Given back when the connection is closed.
    _slot: Slot,
}

/// What all pools of a process share.
#[derive(Default)]
pub struct Process {
    /// Server connections made so far: they are numbered.
    connections: AtomicU64,
    urgent: AtomicUsize,
    /// Clients by user, for as long as the user has pools.
    headcounts: Mutex<BTreeMap<String, Weak<AtomicUsize>>>,
}

impl Process {
    /// The count of a user's clients, which all pools of the user share.
    pub fn headcount(&self, user: &str) -> Arc<AtomicUsize> {
        let mut all = lock(&self.headcounts);
        if let Some(known) = all.get(user).and_then(Weak::upgrade) {
            return known;
        }
        all.retain(|_, count| count.strong_count() > 0);
        let count = Arc::new(AtomicUsize::new(0));
        all.insert(user.to_owned(), Arc::downgrade(&count));
        count
    }

    /// Pools that are [urgent](Pool::is_urgent), counted twice if they have both reasons: with none, nobody need look
    /// through thousands of pools.
    pub fn urgent(&self) -> usize {
        self.urgent.load(Ordering::Relaxed)
    }

    /// A reason to look after a pool may have come or gone.
    fn note(&self, reason: &AtomicBool, is: bool) {
        // Most often it is as it was, and nothing is written.
        if reason.load(Ordering::Relaxed) != is && reason.swap(is, Ordering::Relaxed) != is {
            match is {
                true => self.urgent.fetch_add(1, Ordering::Relaxed),
                false => self.urgent.fetch_sub(1, Ordering::Relaxed),
            };
        }
    }
}

/// What SHOW SERVERS prints of one connection.
#[derive(Debug)]
pub struct ServerCard {
    /// Its number.
    pub id: u64,
    /// The server's process id.
    pub pid: i32,
    /// When the login was done.
    pub connected: SystemTime,
    /// The server's end.
    pub peer: crate::net::Endpoint,
    /// Our end.
    pub local: crate::net::Endpoint,
    /// Protocol and cipher; empty without TLS.
    pub tls: String,
}

/// A connection at one instant.
pub struct Seen {
    /// What does not change.
    pub card: Arc<ServerCard>,
    /// Nobody has it.
    pub is_idle: bool,
    /// It is not used again.
    pub is_outdated: bool,
}

/// Somebody who waits for a lease.
struct Queued(oneshot::Sender<Result<Handed, LeaseError>>);

/// A lease on its way to whoever waits. Nobody has used it: if he is gone before it reaches him, it goes back.
pub struct Handed(Option<Lease>);

impl Handed {
    /// The lease has arrived.
    pub fn take(mut self) -> Lease {
        self.0.take().expect("taken only here, which takes the envelope")
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if let Some(lease) = self.0.take() {
            lease.give_back();
        }
    }
}

impl Waiter for Queued {
    fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

impl Connection for Box<Backend> {
    fn home(&self) -> usize {
        self.home
    }

    fn drawer(&self) -> Option<u64> {
        self.state.sequences_of
    }

    fn number(&self) -> u64 {
        self.id
    }

    fn is_quiet(&mut self) -> bool {
        self.look() == Idle::Quiet
    }

    fn expires(&self, lifetime: Option<Duration>) -> Option<Instant> {
        // Staggered by up to a tenth, so that connections made together do not all end together.
        lifetime.map(|lifetime| self.since + lifetime - lifetime / 10 * (self.id % 16) as u32 / 16)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.process.note(&self.struggling, false);
        self.process.note(&self.has_queue, false);
        self.quota.leave(self.member);
    }
}

impl Pool {
    /// An empty pool.
    pub fn new(
        target: Target,
        settings: Settings,
        upstream: Arc<dyn Upstream>,
        process: Arc<Process>,
        quota: Arc<Quota>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|pool| Pool {
            member: quota.join(pool.clone()),
            quota,
            is_short: AtomicBool::new(false),
            core: Mutex::new(Core::new(settings.limits)),
            load: AtomicUsize::new(0),
            struggling: AtomicBool::new(false),
            refusal: Mutex::new(None),
            has_queue: AtomicBool::new(false),
            target: ArcSwap::from_pointee(target),
            connect_timeout: ArcSwap::from_pointee(settings.connect_timeout),
            upstream,
            process,
            entries: Mutex::default(),
            salvaging: AtomicUsize::new(0),
        })
    }

    /// An idle connection, if nobody waits for one.
    pub fn try_lease(self: &Arc<Self>, asker: Asker) -> Option<Lease> {
        loop {
            let backend = {
                let mut core = self.lock();
                let backend = core.lease(asker)?;
                self.note_load(&core);
                backend
            };
            let mut lease = Lease { backend: Some(backend), pool: self.clone() };
            // A connection that ended while it was idle is dropped here, which frees its slot.
            if lease.make_usable(asker.home) {
                return Some(lease);
            }
        }
    }

    /// Stands in the queue until `deadline`, as somebody who has waited since `since`; the pool is filled up as far as it may be.
    ///
    /// # Cancel safety
    /// Who drops the receiver leaves the queue; a lease that was on its way goes back to the pool.
    ///
    /// # Errors
    /// [`LeaseError::QueueFull`], [`LeaseError::Closed`].
    pub fn queue(
        self: &Arc<Self>,
        home: usize,
        since: Instant,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Result<Handed, LeaseError>>, LeaseError> {
        let (sender, receiver) = oneshot::channel();
        let (handed, taken) = {
            let mut core = self.lock();
            let refusal = match core.is_closed() {
                true => LeaseError::Closed,
                false => LeaseError::QueueFull(core.limits().max_waiting),
            };
            core.wait(Queued(sender), since, deadline).map_err(|_| refusal)?;
            let handed = core.hand_out();
            self.note_load(&core);
            (handed, self.take_slots(&mut core, Instant::now()))
        };
        self.hand_all(handed);
        self.spawn_logins(taken, home);
        Ok(receiver)
    }

    /// Connections in use and clients that wait: what balancing goes by.
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Whether it has no connection and its last login failed, just now: who can go elsewhere should.
    pub fn is_struggling(&self) -> bool {
        self.struggling.load(Ordering::Relaxed)
    }

    /// Its server is there, whatever its last logins met with.
    pub fn welcome(self: &Arc<Self>) {
        self.forget_failures(&mut self.lock());
        self.begin_logins_if_running(usize::MAX);
    }

    /// Whether somebody waits, or would if he had not gone elsewhere: then a [`sweep`](Self::sweep) must not be put off.
    pub fn is_urgent(&self) -> bool {
        self.has_queue.load(Ordering::Relaxed) || self.is_struggling()
    }

    /// Ends waits, idleness and age; closes idle connections that the server has ended; begins logins whose back-off is over. To
    /// be called about once in a second, and ten times if it is [urgent](Self::is_urgent). `is_kept` says whether some of its
    /// connections are to be there, used or not.
    pub fn sweep(self: &Arc<Self>, home: usize, now: Instant, is_kept: bool) {
        let (swept, has_connections) = {
            let mut core = self.lock();
            core.keep(is_kept);
            self.process.note(&self.struggling, core.is_struggling(now));
            if core.is_unused() {
                return;
            }
            let mut swept = core.sweep(now);
            swept.closed.extend((0..self.quota.excess()).map_while(|_| core.evict()));
            self.note_load(&core);
            (swept, core.has_connections())
        };
        // Where there is no connection to come back, they have waited for the next login.
        let answer = self.refusal().filter(|_| !has_connections).unwrap_or(LeaseError::Timeout);
        for Queued(sender) in swept.timed_out {
            let _ = sender.send(Err(answer.clone()));
        }
        swept.closed.into_iter().for_each(|backend| self.retire(backend));
        self.begin_logins(home);
        if self.is_short.load(Ordering::Relaxed) && self.quota.is_first(self.member) {
            self.make_room();
        }
    }

    /// Sends everybody who waits elsewhere, and closes what is idle: the server is down, or not what it was.
    pub fn abandon(&self, why: &Report) {
        self.dismiss(&LeaseError::Unreachable(why.clone()));
    }

    fn dismiss(&self, answer: &LeaseError) {
        let (waiters, idle) = {
            let mut core = self.lock();
            let dismissed = (core.dismiss_waiters(), core.dismiss_idle());
            self.note_load(&core);
            dismissed
        };
        for Queued(sender) in waiters {
            let _ = sender.send(Err(answer.clone()));
        }
        idle.into_iter().for_each(|backend| self.retire(backend));
    }

    /// Uses no connection again that is there now: idle ones close at once, the others when they come back.
    pub fn reconnect(self: &Arc<Self>, home: usize) {
        let newest = self.process.connections.load(Ordering::Relaxed);
        let idle = {
            let mut core = self.lock();
            let idle = core.outdate(newest);
            // Whoever wants new connections has mended what kept them from coming.
            self.forget_failures(&mut core);
            self.note_load(&core);
            idle
        };
        idle.into_iter().for_each(|backend| self.retire(backend));
        self.begin_logins_if_running(home);
    }

    /// Connections from before the last [`reconnect`](Self::reconnect) that are still there.
    pub fn outdated(&self) -> usize {
        let newest = self.lock().outdated();
        lock(&self.entries).range(..=newest).count()
    }

    /// Gives out nothing until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.lock().pause();
    }

    /// Serves again.
    pub fn resume(self: &Arc<Self>, home: usize) {
        let handed = {
            let mut core = self.lock();
            core.resume();
            let handed = core.hand_out();
            self.note_load(&core);
            handed
        };
        self.hand_all(handed);
        self.begin_logins(home);
    }

    /// Keeps nothing from now on: who waits is sent away, and what is in use is closed when it comes back.
    pub fn close(&self) {
        self.lock().close();
        self.dismiss(&LeaseError::Closed);
    }

    /// What a reload changes.
    pub fn reconfigure(&self, settings: Settings) {
        self.lock().set_limits(settings.limits);
        self.connect_timeout.store(Arc::new(settings.connect_timeout));
    }

    /// Logs in as `target` says from now on.
    pub fn retarget(&self, target: Target) {
        self.target.store(Arc::new(target));
    }

    /// How full it is.
    pub fn occupancy(&self) -> Occupancy {
        self.lock().occupancy()
    }

    /// Its limits.
    pub fn limits(&self) -> Limits {
        self.lock().limits()
    }

    /// How long the first in the queue has waited.
    pub fn oldest_wait(&self, now: Instant) -> Option<Duration> {
        self.lock().oldest_wait().map(|since| now.saturating_duration_since(since))
    }

    /// Connections that are being cleaned after a client that vanished.
    pub fn salvaging(&self) -> usize {
        self.salvaging.load(Ordering::Relaxed)
    }

    /// Every connection that is logged in.
    pub fn connections(&self) -> Vec<Seen> {
        let (idle, outdated) = {
            let core = self.lock();
            (core.idle().map(|backend| backend.id).collect::<Vec<_>>(), core.outdated())
        };
        let entries = lock(&self.entries);
        let seen = |Entry { card, .. }: &Entry| Seen {
            card: card.clone(),
            is_idle: idle.contains(&card.id),
            is_outdated: card.id <= outdated,
        };
        entries.values().map(seen).collect()
    }

    fn begin_logins(self: &Arc<Self>, home: usize) {
        let taken = {
            let mut core = self.lock();
            self.take_slots(&mut core, Instant::now())
        };
        self.spawn_logins(taken, home);
    }

    /// A slot for each login that is to begin, as far as there are any.
    fn take_slots(&self, core: &mut Core<Box<Backend>, Queued>, now: Instant) -> Taken {
        let demand = demand(core, now);
        if demand.wanted.logins == 0 && !self.is_short.load(Ordering::Relaxed) {
            return Taken::default();
        }
        let slots = self.quota.take(self.member, demand);
        core.begin_logins(slots.len());
        let is_short = slots.len() < demand.wanted.waiting;
        let became_short = !self.is_short.swap(is_short, Ordering::Relaxed) && is_short;
        Taken { slots, became_short }
    }

    fn spawn_logins(self: &Arc<Self>, taken: Taken, home: usize) {
        for slot in taken.slots {
            tokio::spawn(self.clone().log_in(slot, home));
        }
        if taken.became_short {
            self.make_room();
        }
    }

    /// Closes connections of other pools, those first that have been idle longest, as far as clients of this one may have their
    /// places. To be called once when it becomes short, and of those that are by the first: to look at all pools is dear.
    fn make_room(&self) {
        let now = Instant::now();
        let Demand { wanted, since, is_bare } = demand(&self.lock(), now);
        let Some(since) = since else { return };
        let claim = Claim::Short { since, is_bare };
        let idle = |pool: Arc<Pool>| {
            let since = pool.lock().longest_idle()?;
            Some((since, pool))
        };
        let mut missing = wanted.waiting;
        loop {
            let mut others: Vec<_> = self.quota.others(self.member).into_iter().filter_map(idle).collect();
            others.sort_by_key(|(since, _)| *since);
            let reached = others.into_iter().filter(|(idle, _)| claim.reaches(*idle, now)).take(missing);
            let evicted: Vec<_> = reached.filter_map(|(_, pool)| Some((pool.evict()?, pool))).collect();
            if evicted.is_empty() {
                return;
            }
            missing -= evicted.len();
            evicted.into_iter().for_each(|(backend, pool)| pool.retire(backend));
        }
    }

    fn evict(&self) -> Option<Box<Backend>> {
        let mut core = self.lock();
        let evicted = core.evict();
        self.note_load(&core);
        evicted
    }

    async fn log_in(self: Arc<Self>, slot: Slot, home: usize) {
        let target = self.target.load_full();
        let timeout = **self.connect_timeout.load();
        let connected = Box::pin(backend::connect(&target, timeout)).await;
        let accepted = connected.and_then(|backend| match self.upstream.refuses(&backend.state) {
            Some(error) => Err(error),
            None => Ok(backend),
        });
        match accepted {
            Ok(mut backend) => {
                backend.id = self.process.connections.fetch_add(1, Ordering::Relaxed) + 1;
                backend.home = home;
                self.enter(&backend, slot);
                let placed = {
                    let mut core = self.lock();
                    let placed = core.logged_in(Box::new(backend), Instant::now(), self.claim());
                    self.forget_failures(&mut core);
                    self.note_load(&core);
                    placed
                };
                self.carry_out(placed);
            }
            Err(error) => {
                self.login_failed(&error);
                drop(slot);
            }
        }
        self.begin_logins(home);
    }

    fn login_failed(&self, error: &ConnectError) {
        tracing::warn!(address = %self.target.load().address, user = %self.target.load().user, %error, "login failed");
        self.upstream.login_failed(error);
        let answer = match error.retry() {
            Retry::Never => LeaseError::Refused(error.report()),
            Retry::Safe => LeaseError::Unreachable(error.report()),
        };
        let full = match error {
            ConnectError::Refused { full, .. } => *full,
            _ => None,
        };
        *lock(&self.refusal) = Some((answer.clone(), full));
        let waiters = {
            let (mut core, now) = (self.lock(), Instant::now());
            core.login_failed(now);
            self.process.note(&self.struggling, core.is_struggling(now));
            // As long as a connection may come back, they wait for that.
            let waiters = if core.has_connections() { Vec::new() } else { core.dismiss_waiters() };
            self.note_load(&core);
            waiters
        };
        for Queued(sender) in waiters {
            let _ = sender.send(Err(answer.clone()));
        }
    }

    /// What its last login met with, unless a connection has come about since.
    pub fn refusal(&self) -> Option<LeaseError> {
        lock(&self.refusal).as_ref().map(|(refusal, _)| refusal.clone())
    }

    /// What had no room for its last login, if that is what it met with.
    pub fn found_full(&self) -> Option<Full> {
        lock(&self.refusal).as_ref().and_then(|(_, full)| *full)
    }

    /// Since when the connection has been idle that was used longest ago, if it need not be kept for `min_size`.
    pub fn spare_since(&self) -> Option<Instant> {
        self.lock().spare_since()
    }

    /// Closes that connection, or answers that there is none.
    pub fn give_up_idle(&self) -> bool {
        let evicted = self.evict();
        let is_there = evicted.is_some();
        evicted.into_iter().for_each(|backend| self.retire(backend));
        is_there
    }

    /// How it logs in.
    pub fn target(&self) -> Arc<Target> {
        self.target.load_full()
    }

    fn forget_failures(&self, core: &mut Core<Box<Backend>, Queued>) {
        core.forget_failures();
        *lock(&self.refusal) = None;
        self.process.note(&self.struggling, false);
    }

    fn put(self: &Arc<Self>, backend: Box<Backend>, now: Instant) {
        let placed = {
            let mut core = self.lock();
            let placed = core.put(backend, now, self.claim());
            self.note_load(&core);
            placed
        };
        self.carry_out(placed);
    }

    fn carry_out(self: &Arc<Self>, placed: Placed<Box<Backend>, Queued>) {
        match placed {
            Placed::Parked => {}
            Placed::Hand(waiter, backend) => self.hand(waiter, backend),
            Placed::Close(backend) => {
                let home = backend.home;
                self.retire(backend);
                self.begin_logins_if_running(home);
            }
        }
    }

    fn hand(self: &Arc<Self>, waiter: Queued, backend: Box<Backend>) {
        let lease = Lease { backend: Some(backend), pool: self.clone() };
        drop(waiter.0.send(Ok(Handed(Some(lease)))));
    }

    fn hand_all(self: &Arc<Self>, handed: Vec<(Queued, Box<Backend>)>) {
        handed.into_iter().for_each(|(waiter, backend)| self.hand(waiter, backend));
    }

    fn lost(self: &Arc<Self>, backend: Box<Backend>) {
        let home = backend.home;
        {
            let mut core = self.lock();
            core.lost();
            self.note_load(&core);
        }
        self.retire(backend);
        self.begin_logins_if_running(home);
    }

    /// For paths on which a lease is dropped, perhaps by a runtime that ends: then nobody waits any more.
    fn begin_logins_if_running(self: &Arc<Self>, home: usize) {
        if tokio::runtime::Handle::try_current().is_ok() {
            self.begin_logins(home);
        }
    }

    fn retire(&self, backend: Box<Backend>) {
        let entry = lock(&self.entries).remove(&backend.id);
        backend.farewell();
        // Its slot may be another pool's at once: no lock is held.
        drop(entry);
    }

    /// What other pools want of a connection that comes back. To be asked under the lock under which it is parked: who has become
    /// short finds it there, or it is closed.
    fn claim(&self) -> Option<Claim> {
        self.quota.claim(self.member)
    }

    fn enter(&self, backend: &Backend, slot: Slot) {
        let card = ServerCard {
            id: backend.id,
            pid: backend.pid,
            connected: SystemTime::now(),
            peer: backend.stream.peer(),
            local: backend.stream.local(),
            tls: backend.stream.tls_info().unwrap_or_default(),
        };
        lock(&self.entries).insert(backend.id, Entry { card: Arc::new(card), _slot: slot });
    }

    fn note_load(&self, core: &Core<Box<Backend>, Queued>) {
        self.load.store(core.pressure(), Ordering::Relaxed);
        self.process.note(&self.has_queue, core.has_queue());
        if self.is_short.load(Ordering::Relaxed) && !core.has_queue() {
            self.is_short.store(false, Ordering::Relaxed);
            self.quota.take(self.member, Demand::default());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core<Box<Backend>, Queued>> {
        // Core's methods leave it whole at every point at which they may panic.
        lock(&self.core)
    }
}

fn demand(core: &Core<Box<Backend>, Queued>, now: Instant) -> Demand {
    Demand { wanted: core.wanted_logins(now), since: core.oldest_wait(), is_bare: core.is_bare() }
}

/// The right to use one server connection. Dropped without a word, it closes the connection.
pub struct Lease {
    backend: Option<Box<Backend>>,
    pool: Arc<Pool>,
}

impl Lease {
    /// The connection.
    pub fn backend(&mut self) -> &mut Backend {
        self.backend.as_mut().expect("there until the lease ends, which takes the lease")
    }

    /// Makes it ready for a task on worker `home`; false: it ended while nobody looked.
    #[must_use]
    pub fn make_usable(&mut self, home: usize) -> bool {
        let backend = self.backend();
        if backend.home != home {
            backend.home = home;
            if backend.stream.rehome().is_err() {
                return false;
            }
        }
        backend.look() == Idle::Quiet
    }

    /// The connection is clean: the next one may have it.
    pub fn give_back(self) {
        self.give_back_at(Instant::now());
    }

    /// The same for somebody who knows what time it is.
    pub fn give_back_at(mut self, now: Instant) {
        let Some(backend) = self.backend.take() else { return };
        if backend.remote.cancels.load(Ordering::Acquire) == 0 {
            return self.pool.put(backend, now);
        }
        // A cancel request is on its way to it: whoever had it now could be hit.
        let lease = Lease { backend: Some(backend), pool: self.pool.clone() };
        if tokio::runtime::Handle::try_current().is_ok() {
            tokio::spawn(lease.give_back_after_cancels());
        }
    }

    /// The request of a cancel that failed may still be under way somewhere: such a one stays counted, and the connection
    /// is closed when the time is over.
    async fn give_back_after_cancels(mut self) {
        let deadline = Instant::now() + backend::cancel::CANCEL_TIMEOUT;
        while self.backend().remote.cancels.load(Ordering::Acquire) > 0 {
            if Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(CANCEL_POLL).await;
        }
        if let Some(backend) = self.backend.take() {
            self.pool.put(backend, Instant::now());
        }
    }

    /// The client is gone, or done with a connection that it leaves in some state: the connection is made clean in the
    /// background, if that can be done, and closed otherwise. `unread` was read from it and not dealt with, `unsent` is
    /// still to be written. What runs is cancelled after `patience`.
    pub fn end(self, owed: Owed, unread: &[u8], unsent: &[u8], patience: Duration) {
        if owed.broken {
            return;
        }
        if owed.is_nothing() && unread.is_empty() && unsent.is_empty() {
            return self.give_back();
        }
        let owed = backend::Owed {
            ready: owed.ready,
            copy_in: owed.copy_in,
            needs_sync: owed.needs_sync,
            scanner: owed.scanner,
            unread: unread.to_vec(),
            unsent: unsent.to_vec(),
        };
        tokio::spawn(self.salvage(owed, patience));
    }

    async fn salvage(mut self, owed: backend::Owed, patience: Duration) {
        self.pool.salvaging.fetch_add(1, Ordering::Relaxed);
        let saved = Box::pin(backend::reset::salvage(self.backend(), owed, patience, SALVAGE_TIMEOUT)).await;
        self.pool.salvaging.fetch_sub(1, Ordering::Relaxed);
        match saved {
            Ok(()) => self.give_back(),
            Err(error) => tracing::debug!(%error, "a server connection could not be saved"),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(backend) = self.backend.take() {
            self.pool.lost(backend);
        }
    }
}
