//! Everybody who is logged in: for SHOW CLIENTS, cancel requests, KILL_CLIENT and the drain.

use super::passage::{Gangway, Passenger};
use crate::backend::{Backend, CancelTarget, Remote};
use crate::config::VIRTUAL_DATABASES;
use crate::lock::lock;
use crate::net::Endpoint;
use crate::wire::ClientKey;
use crate::wire::startup::Replication;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::time::{Instant, SystemTime};
use tokio::sync::mpsc;

/// The clients of the process.
pub struct Clients {
    cards: Mutex<Cards>,
    /// Cards that were made together: they lie side by side, and what lies between others goes back to the system as a whole
    /// when clients sleep.
    blank: Mutex<Vec<Arc<ClientCard>>>,
    ids: AtomicU64,
    connected: AtomicUsize,
    asleep: AtomicUsize,
    /// Those in the console, or on their way to it, beyond `listen.max_clients`.
    extra: AtomicUsize,
    /// Where clients go that are handed over.
    gangway: Mutex<Option<Gangway>>,
    /// The process before, which may have the client of a cancel request still.
    predecessor: Mutex<Option<mpsc::UnboundedSender<ClientKey>>>,
}

/// How many may be in the console when there is no place for clients any more: some operators, and what scrapes. Who is logging
/// in counts, too.
const EXTRA_PLACES: usize = 16;

type Cards = HashMap<i32, Arc<ClientCard>, BuildHasherDefault<ByNumber>>;

/// Scatters the numbers of clients. They are given here, one after the other: nobody can choose some that meet.
#[derive(Default)]
struct ByNumber(u64);

impl Hasher for ByNumber {
    fn write_i32(&mut self, number: i32) {
        // Knuth's multiplier: 2^64 by the golden ratio.
        self.0 = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What is known of one client.
pub struct ClientCard {
    /// Its number: also the process id that it was given.
    pub id: u64,
    /// Its cancel key.
    pub key: ClientKey,
    /// Its user.
    pub user: Arc<str>,
    /// The database that it asked for.
    pub database: Arc<str>,
    /// Its end.
    pub peer: Endpoint,
    /// Our end.
    pub local: Endpoint,
    /// When it connected.
    pub connected: SystemTime,
    /// Protocol and cipher; empty without TLS.
    pub tls: Box<str>,
    /// The application_name of its startup packet.
    pub application_name: Arc<str>,
    order: AtomicU8,
    waker: Mutex<Option<Waker>>,
    activity: Mutex<Activity>,
}

/// What a client is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Order {
    /// Nothing.
    None,
    /// Sleep, if nothing stands against it.
    Sleep,
    /// Look whether the server that is waited for may still answer.
    Look,
    /// Look for the pools anew when no server connection is held: a reload has put others into the place of these.
    Move,
    /// Leave when nothing is under way: the user is not configured any more.
    Expel,
    /// Go to the next process when nothing is under way, or leave if that cannot be.
    HandOver,
    /// Leave when nothing is under way: the process is ending.
    Drain,
    /// Leave now.
    Kill,
}

/// What a client does.
#[derive(Clone)]
pub struct Activity {
    /// What it does.
    pub doing: Doing,
    /// When its last request for a server connection was made.
    pub requested: Option<Instant>,
    /// Prepared statements that it has named.
    pub prepared: u32,
    /// Why it keeps its server connection, if it does.
    pub held: Option<&'static str>,
    /// Its server connection is being prepared for it: a cancel request must wait, or it would hit that.
    preparing: bool,
    /// A cancel request came while it waited.
    cancelled: bool,
}

/// What a client does.
#[derive(Clone)]
pub enum Doing {
    /// Nothing that needs a server.
    Idle,
    /// Waits for a server connection.
    Waiting(Instant),
    /// Holds the connection of this number.
    Active(u64, Arc<Remote>),
    /// Replicates, over a server connection of its own.
    Replicating(Replication, Arc<Remote>),
}

/// A cancel request that is aimed at a server connection: while it exists, nobody else is given that connection.
pub struct Aim(Arc<Remote>);

impl Aim {
    /// Where to send it; `None` if the server gave no key.
    pub fn target(&self) -> Option<&CancelTarget> {
        self.0.cancel.as_ref()
    }

    /// The request failed, but a part of it may have reached the server and take effect at any time: the connection is
    /// never given to anybody else.
    pub fn failed(self) {
        // Never taken back.
        self.0.cancels.fetch_add(1, Ordering::AcqRel);
    }
}

/// What becomes of a cancel request.
pub enum Aimed {
    /// There is nothing to cancel.
    Nowhere,
    /// It is to be sent.
    At(Aim),
    /// The client's task sees to it, and [`ClientCard::has_cancel`] says when it has.
    Later,
}

impl Drop for Aim {
    fn drop(&mut self) {
        self.0.cancels.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Somebody who is logged in; dropped, the client is forgotten.
pub struct Registration {
    card: Arc<ClientCard>,
    clients: Arc<super::Frontend>,
}

/// A connection, logged in or not; dropped, it is not counted any more.
pub struct Admission {
    frontend: Arc<super::Frontend>,
    load: Arc<AtomicUsize>,
}

/// A place in the console beyond `listen.max_clients`; dropped, it is free again.
pub struct ExtraPlace(Arc<super::Frontend>);

impl Clients {
    /// Nobody yet.
    pub fn new() -> Self {
        Clients {
            cards: Mutex::default(),
            blank: Mutex::default(),
            ids: AtomicU64::new(0),
            connected: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            extra: AtomicUsize::new(0),
            gangway: Mutex::default(),
            predecessor: Mutex::default(),
        }
    }

    /// Clients that are handed over go there from now on; `None`: nowhere.
    pub fn lead(&self, gangway: Option<Gangway>) {
        *lock(&self.gangway) = gangway;
    }

    /// Hands a client over.
    ///
    /// # Errors
    /// The client: there is nowhere to go.
    pub fn hand_over(&self, passenger: Passenger) -> Result<(), Passenger> {
        match &*lock(&self.gangway) {
            Some(gangway) => gangway.send(passenger).map_err(|refused| refused.0),
            None => Err(passenger),
        }
    }

    /// The numbers of the process before: those that it has given, or gives still, are not given again.
    pub fn follow(&self, last: u64, predecessor: mpsc::UnboundedSender<ClientKey>) {
        self.ids.store(last + NUMBERS_LEFT, Ordering::Relaxed);
        *lock(&self.predecessor) = Some(predecessor);
    }

    /// The number that was given last.
    pub fn last_id(&self) -> u64 {
        self.ids.load(Ordering::Relaxed)
    }

    /// A cancel request for a client that is not here.
    pub fn ask_predecessor(&self, key: &ClientKey) {
        // Nobody asks one that has ended.
        lock(&self.predecessor).take_if(|predecessor| predecessor.send(key.clone()).is_err());
    }

    /// Connections, whether logged in or not.
    pub fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }

    /// Clients that are logged in.
    pub fn logged_in(&self) -> usize {
        self.cards().len()
    }

    /// Clients that have been silent for a while.
    pub fn asleep(&self) -> usize {
        self.asleep.load(Ordering::Relaxed)
    }

    /// One more of them, or one less.
    pub(super) fn count_sleeper(&self, is_asleep: bool) {
        match is_asleep {
            true => self.asleep.fetch_add(1, Ordering::Relaxed),
            false => self.asleep.fetch_sub(1, Ordering::Relaxed),
        };
    }

    /// Clients that are logged in to a database: all but those in the console.
    pub fn in_service(&self) -> usize {
        self.cards().values().filter(|card| !VIRTUAL_DATABASES.contains(&&*card.database)).count()
    }

    /// Every client.
    pub fn all(&self) -> Vec<Arc<ClientCard>> {
        self.cards().values().cloned().collect()
    }

    /// The client with this number.
    pub fn find(&self, pid: i32) -> Option<Arc<ClientCard>> {
        self.cards().get(&pid).cloned()
    }

    /// Wakes the task of the client with this number, if it is still there.
    pub fn wake(&self, id: u64) {
        if let Some(card) = self.find(id as i32) {
            card.wake();
        }
    }

    /// A number for the next client: positive, so that it can stand for a process id, and not in use.
    pub fn next_id(&self) -> u64 {
        loop {
            let id = self.ids.fetch_add(1, Ordering::Relaxed) % (i32::MAX as u64) + 1;
            if !self.cards().contains_key(&(id as i32)) {
                return id;
            }
        }
    }

    fn cards(&self) -> MutexGuard<'_, Cards> {
        lock(&self.cards)
    }

    fn fill_in(&self, card: ClientCard) -> Arc<ClientCard> {
        let mut blank = lock(&self.blank);
        if blank.is_empty() {
            blank.extend(std::iter::repeat_with(|| Arc::new(ClientCard::blank())).take(CARDS));
        }
        let mut place = blank.pop();
        match place.as_mut().and_then(Arc::get_mut) {
            Some(place) => *place = card,
            None => return Arc::new(card),
        }
        place.expect("it has just been filled in")
    }
}

/// Cards that are made together.
const CARDS: usize = 32;

/// How many numbers the process before may give to those who are logging in while it hands over.
const NUMBERS_LEFT: u64 = 100_000;

impl Default for Clients {
    fn default() -> Self {
        Self::new()
    }
}

impl Admission {
    /// Counts a connection. `load` is that of its worker, which counts it already.
    pub fn new(frontend: &Arc<super::Frontend>, load: Arc<AtomicUsize>) -> Self {
        frontend.clients.connected.fetch_add(1, Ordering::Relaxed);
        Admission { frontend: frontend.clone(), load }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.frontend.clients.connected.fetch_sub(1, Ordering::Relaxed);
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ExtraPlace {
    /// One that is free, if there is one.
    pub fn take(frontend: &Arc<super::Frontend>) -> Option<ExtraPlace> {
        let next = |taken: usize| (taken < EXTRA_PLACES).then_some(taken + 1);
        let taken = frontend.clients.extra.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        taken.is_ok().then(|| ExtraPlace(frontend.clone()))
    }
}

impl Drop for ExtraPlace {
    fn drop(&mut self) {
        self.0.clients.extra.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Registration {
    /// Makes a client known.
    pub fn new(card: ClientCard, frontend: &Arc<super::Frontend>) -> Self {
        let card = frontend.clients.fill_in(card);
        frontend.clients.cards().insert(card.key.pid, card.clone());
        Registration { card, clients: frontend.clone() }
    }

    /// Its card.
    pub fn card(&self) -> &Arc<ClientCard> {
        &self.card
    }

    /// Where it is registered.
    pub fn frontend(&self) -> &Arc<super::Frontend> {
        &self.clients
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.clients.clients.cards().remove(&self.card.key.pid);
    }
}

/// The facts of a new client.
pub struct Newcomer {
    /// From [`Clients::next_id`].
    pub id: u64,
    /// Its cancel key.
    pub key: ClientKey,
    /// Its user.
    pub user: Arc<str>,
    /// The database that it asked for.
    pub database: Arc<str>,
    /// Its end.
    pub peer: Endpoint,
    /// Our end.
    pub local: Endpoint,
    /// Protocol and cipher; empty without TLS.
    pub tls: Box<str>,
    /// The application_name of its startup packet.
    pub application_name: Arc<str>,
}

impl Activity {
    /// Aims at the server connection, if somebody wants that and nothing of ours would be hit.
    fn due_cancel(&mut self) -> Option<Aim> {
        let (Doing::Active(_, remote) | Doing::Replicating(_, remote)) = &self.doing else { return None };
        if self.preparing || !std::mem::take(&mut self.cancelled) {
            return None;
        }
        remote.cancels.fetch_add(1, Ordering::AcqRel);
        Some(Aim(remote.clone()))
    }
}

impl ClientCard {
    /// One that stands for nobody yet.
    pub(super) fn blank() -> Self {
        ClientCard::new(Newcomer {
            id: 0,
            key: ClientKey::new(0, &[]),
            user: Arc::default(),
            database: Arc::default(),
            peer: Endpoint::Gone,
            local: Endpoint::Gone,
            tls: Box::default(),
            application_name: Arc::default(),
        })
    }

    /// A client that has just logged in.
    pub fn new(newcomer: Newcomer) -> Self {
        let Newcomer { id, key, user, database, peer, local, tls, application_name } = newcomer;
        ClientCard {
            id,
            key,
            user,
            database,
            peer,
            local,
            connected: SystemTime::now(),
            tls,
            application_name,
            order: AtomicU8::new(Order::None as u8),
            waker: Mutex::default(),
            activity: Mutex::new(Activity {
                doing: Doing::Idle,
                requested: None,
                prepared: 0,
                held: None,
                preparing: false,
                cancelled: false,
            }),
        }
    }

    /// Tells it what to do; an order is never taken back, only topped or obeyed.
    pub fn command(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.wake();
    }

    /// What it was told to do.
    pub fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::None,
            1 => Order::Sleep,
            2 => Order::Look,
            3 => Order::Move,
            4 => Order::Expel,
            5 => Order::HandOver,
            6 => Order::Drain,
            _ => Order::Kill,
        }
    }

    /// It has done what it was told, unless it was told more meanwhile.
    pub fn obeyed(&self, order: Order) {
        let _ =
            self.order.compare_exchange(order as u8, Order::None as u8, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Waits until it is told to leave now.
    pub async fn killed(&self) {
        std::future::poll_fn(|cx| {
            self.wakes(cx.waker());
            if self.order() == Order::Kill { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Since which request it has been idle, if it is; the first one is `None`.
    pub fn idle_since(&self) -> Option<Option<Instant>> {
        let activity = self.lock();
        matches!(activity.doing, Doing::Idle).then_some(activity.requested)
    }

    /// Whom to wake for an order. To be called once from the client's task.
    pub fn wakes(&self, waker: &Waker) {
        *lock(&self.waker) = Some(waker.clone());
    }

    /// What it does.
    pub fn activity(&self) -> Activity {
        self.lock().clone()
    }

    /// It waits for a server connection.
    pub fn waits(&self, now: Instant) {
        let mut activity = self.lock();
        activity.doing = Doing::Waiting(now);
        activity.requested = Some(now);
        activity.cancelled = false;
    }

    /// It holds a server connection, which `preparing` says must be prepared for it first. Answers a cancel request that
    /// came while it waited.
    pub fn holds(&self, backend: &Backend, preparing: bool, now: Instant) -> Option<Aim> {
        let mut activity = self.lock();
        activity.doing = Doing::Active(backend.id, backend.remote.clone());
        activity.requested = Some(now);
        activity.preparing = preparing;
        activity.due_cancel()
    }

    /// It replicates.
    pub fn replicates(&self, mode: Replication, backend: &Backend) {
        self.lock().doing = Doing::Replicating(mode, backend.remote.clone());
    }

    /// Its server connection is prepared. Answers a cancel request that came meanwhile.
    pub fn is_served(&self) -> Option<Aim> {
        let mut activity = self.lock();
        activity.preparing = false;
        activity.due_cancel()
    }

    /// It holds none any more. To be called before the connection is given back: from here on no cancel request can be
    /// aimed at it.
    pub fn rests(&self, prepared: usize) {
        let mut activity = self.lock();
        activity.doing = Doing::Idle;
        activity.cancelled = false;
        activity.prepared = prepared as u32;
        activity.held = None;
    }

    /// Why it keeps its server connection beyond the transaction.
    pub fn keeps(&self, held: Option<&'static str>) {
        self.lock().held = held;
    }

    /// Whether a cancel request came while it waited; says so once.
    pub fn take_cancel(&self) -> bool {
        std::mem::take(&mut self.lock().cancelled)
    }

    /// A cancel request arrived: aims at what the client runs, or ends its wait.
    pub fn aim(&self) -> Aimed {
        let mut activity = self.lock();
        match &activity.doing {
            Doing::Idle => Aimed::Nowhere,
            Doing::Waiting(_) => {
                activity.cancelled = true;
                drop(activity);
                self.wake();
                Aimed::Later
            }
            Doing::Active(..) | Doing::Replicating(..) => {
                activity.cancelled = true;
                activity.due_cancel().map_or(Aimed::Later, Aimed::At)
            }
        }
    }

    /// Whether a cancel request waits for its time, or is on its way to the server.
    pub fn has_cancel(&self) -> bool {
        let activity = self.lock();
        let (Doing::Active(_, remote) | Doing::Replicating(_, remote)) = &activity.doing else {
            return activity.cancelled;
        };
        activity.cancelled || remote.cancels.load(Ordering::Acquire) > 0
    }

    /// Wakes its task.
    pub fn wake(&self) {
        let waker = lock(&self.waker).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Activity> {
        lock(&self.activity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_before_that_has_ended_is_asked_no_more() {
        let (clients, key) = (Clients::new(), ClientKey::new(7, b"key"));
        let (cancels, mut cancelled) = mpsc::unbounded_channel();
        clients.follow(1, cancels);
        clients.ask_predecessor(&key);
        assert!(cancelled.try_recv().is_ok_and(|asked| asked.pid == 7));
        drop(cancelled);
        clients.ask_predecessor(&key);
        assert!(lock(&clients.predecessor).is_none());
    }
}
