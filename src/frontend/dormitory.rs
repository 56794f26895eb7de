//! Where clients sleep that are silent: without a task, and without a place in the runtime's reactor.
//!
//! ```text
//!   awake: a task with a Relay --silent from one look to the next--> bed: a Sleeper, its socket in a reactor of ours
//!          ^------------------ it speaks, or is given an order -----'
//! ```
//! What the runtime keeps for each socket and each task is more than half of what a client takes while it says nothing, and
//! most clients say nothing most of the time. Beds lie side by side, and so do cards (see [`super::clients`]): what a crowd
//! that went to sleep needed awake is whole pages, which go back to the system.
//!
//! A socket that is put into either reactor reports at once what came before: nothing is missed on the way.

use super::clients::{ClientCard, Order};
use super::relay::Sleeper;
use super::{Frontend, Worker};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::spawn_local;

/// Beds that are made together.
const ROOM: usize = 16;

/// How many are told to sleep in one look: each takes some microseconds, for which those who are awake wait in line.
const MOST_AT_ONCE: usize = 2_000;

/// How many speak up in one look at the reactor.
const VOICES: usize = 256;

/// More clients that sleep than before, of which it is worth while to give memory back: so many, and one in so many.
const MANY: usize = 64;
const ONE_IN: usize = 16;

/// What a worker knows of its clients' silence.
#[derive(Default)]
pub(super) struct Dormitory {
    awake: RefCell<BTreeMap<u64, Awake>>,
    /// Those who have just fallen asleep.
    coming: RefCell<Vec<Sleeper>>,
    bell: Arc<Bell>,
    is_open: Cell<bool>,
    is_time_to_look: Cell<bool>,
}

/// A client that has a task.
struct Awake {
    card: Arc<ClientCard>,
    seen: Seen,
}

/// What the last look has seen of one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Busy,
    /// Since this request.
    Idle(Option<Instant>),
    /// The same, and it was told to sleep.
    Told(Option<Instant>),
}

/// Calls the keeper.
#[derive(Default)]
struct Bell {
    /// There may be an order for one who sleeps.
    is_for_a_sleeper: AtomicBool,
    call: Notify,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_for_a_sleeper.store(true, Ordering::Release);
        self.call.notify_one();
    }
}

impl Dormitory {
    /// A client has a task from now on.
    pub fn rises(&self, card: &Arc<ClientCard>) {
        self.awake.borrow_mut().insert(card.id, Awake { card: card.clone(), seen: Seen::Busy });
    }

    /// It has none any more.
    pub fn leaves(&self, client: u64) {
        self.awake.borrow_mut().remove(&client);
    }

    /// A bed for one whose socket no reactor watches.
    pub fn admit(&self, sleeper: Sleeper) {
        self.coming.borrow_mut().push(sleeper);
        self.bell.call.notify_one();
    }

    /// Tells those to sleep who were silent since the last look, once for each silence: who cannot sleep now is not woken again.
    pub fn look(&self) {
        if !self.is_open.get() {
            return;
        }
        let mut told = 0;
        for Awake { card, seen } in self.awake.borrow_mut().values_mut() {
            *seen = match (card.idle_since(), *seen) {
                (None, _) => Seen::Busy,
                (Some(request), Seen::Told(told)) if request == told => continue,
                (Some(request), Seen::Idle(before)) if request == before && told < MOST_AT_ONCE => {
                    told += 1;
                    card.command(Order::Sleep);
                    Seen::Told(request)
                }
                (Some(request), _) => Seen::Idle(request),
            };
        }
        self.is_time_to_look.set(true);
        self.bell.call.notify_one();
    }
}

/// Keeps a worker's dormitory. On the worker; does not end.
pub async fn keep(worker: &Rc<Worker>, frontend: &Frontend) {
    let dormitory = &worker.dormitory;
    let (mut door, mut beds) = match Poll::new().and_then(|door| Beds::new(door, worker, frontend)) {
        Ok(made) => made,
        Err(error) => {
            tracing::warn!(%error, "no second reactor to be had: clients that are silent take more memory");
            return std::future::pending().await;
        }
    };
    dormitory.is_open.set(true);
    let mut voices = Events::with_capacity(VOICES);
    loop {
        // Both branches are cancel safe.
        tokio::select! {
            () = dormitory.bell.call.notified() => beds.keep(dormitory),
            ready = door.readable_mut() => {
                // Only a runtime that is shut down says no, and then everything ends.
                let Ok(mut ready) = ready else { return std::future::pending().await };
                let heard = ready.get_inner_mut().poll(&mut voices, Some(Duration::ZERO));
                // Interrupted, or with more than there was room for, it is asked again.
                if heard.is_ok() && voices.iter().count() < VOICES {
                    ready.clear_ready();
                }
                voices.iter().for_each(|voice| beds.rouse(voice.token().0));
            }
        }
    }
}

/// Those who sleep.
struct Beds<'a> {
    /// `None`: nobody is in there.
    rooms: Vec<Option<Box<[Option<Sleeper>; ROOM]>>>,
    /// Numbers of those that nobody is in.
    free: Vec<usize>,
    registry: mio::Registry,
    bell: Waker,
    worker: &'a Rc<Worker>,
    frontend: &'a Frontend,
    taken: usize,
    /// How many were taken when memory was given back.
    tidied: usize,
    /// Nobody has to be awake before.
    first_end: Option<Instant>,
}

impl<'a> Beds<'a> {
    fn new(door: Poll, worker: &'a Rc<Worker>, frontend: &'a Frontend) -> io::Result<(AsyncFd<Poll>, Self)> {
        let beds = Beds {
            rooms: Vec::new(),
            free: Vec::new(),
            registry: door.registry().try_clone()?,
            bell: worker.dormitory.bell.clone().into(),
            worker,
            frontend,
            taken: 0,
            tidied: 0,
            first_end: None,
        };
        // SAFETY: The descriptor is that of `door`, which closes it when it is dropped, and which nobody can replace: `AsyncFd`
        // owns it, and what it lends here is only asked for events.
        #[allow(unsafe_code)]
        let door = unsafe { AsyncFd::register_with_interest(door, tokio::io::Interest::READABLE) };
        Ok((door?, beds))
    }

    /// What the keeper was called for.
    fn keep(&mut self, dormitory: &Dormitory) {
        let mut coming = dormitory.coming.take();
        let vacated: Vec<_> = coming.iter_mut().map(Sleeper::relocate).collect();
        drop(vacated);
        coming.into_iter().for_each(|sleeper| self.lay(sleeper));
        if dormitory.bell.is_for_a_sleeper.swap(false, Ordering::AcqRel) {
            self.rouse_those(|sleeper| has_order(sleeper.card()));
        }
        if dormitory.is_time_to_look.take() {
            self.look(Instant::now());
        }
    }

    fn lay(&mut self, sleeper: Sleeper) {
        let place = self.free.pop().unwrap_or_else(|| {
            let first = self.rooms.len() * ROOM;
            self.rooms.push(None);
            self.free.extend((first + 1..first + ROOM).rev());
            first
        });
        let socket = sleeper.socket().unwrap_or(-1);
        let watched = self.registry.register(&mut SourceFd(&socket), Token(place), Interest::READABLE);
        sleeper.card().wakes(&self.bell);
        // An order that came on the way here has woken nobody.
        let must_rise = watched.is_err() || has_order(sleeper.card());
        self.first_end = [self.first_end, sleeper.end()].into_iter().flatten().min();
        let room = self.rooms[place / ROOM].get_or_insert_with(|| Box::new([const { None }; ROOM]));
        room[place % ROOM] = Some(sleeper);
        self.taken += 1;
        self.frontend.clients.count_sleeper(true);
        if must_rise {
            self.rouse(place);
        }
    }

    /// The client goes on.
    fn rouse(&mut self, place: usize) {
        let Some(room) = &mut self.rooms[place / ROOM] else { return };
        let Some(sleeper) = room[place % ROOM].take() else { return };
        if room.iter().all(Option::is_none) {
            self.rooms[place / ROOM] = None;
        }
        self.free.push(place);
        self.taken -= 1;
        self.frontend.clients.count_sleeper(false);
        if let Some(socket) = sleeper.socket() {
            // It fails where it was never watched.
            let _ = self.registry.deregister(&mut SourceFd(&socket));
        }
        spawn_local(sleeper.get_up(self.worker.clone()).go_on());
    }

    fn rouse_those(&mut self, is_meant: impl Fn(&Sleeper) -> bool) {
        for place in 0..self.rooms.len() * ROOM {
            let room = self.rooms[place / ROOM].as_ref();
            if room.and_then(|room| room[place % ROOM].as_ref()).is_some_and(&is_meant) {
                self.rouse(place);
            }
        }
    }

    fn look(&mut self, now: Instant) {
        if self.first_end.is_some_and(|end| end <= now) {
            self.rouse_those(|sleeper| sleeper.end().is_some_and(|end| end <= now));
            let beds = self.rooms.iter().flatten().flat_map(|room| room.iter().flatten());
            self.first_end = beds.filter_map(Sleeper::end).min();
        }
        if self.taken < self.tidied / 2 {
            self.tidied = self.taken;
        }
        if self.taken.saturating_sub(self.tidied) >= MANY.max(self.tidied / ONE_IN) {
            self.tidied = self.taken;
            give_memory_back();
        }
    }
}

/// Whether one who sleeps has to get up for an order.
fn has_order(card: &ClientCard) -> bool {
    match card.order() {
        Order::None => false,
        // That is for those who wait for a server.
        order @ (Order::Sleep | Order::Look) => {
            card.obeyed(order);
            false
        }
        _ => true,
    }
}

/// Gives the system back the pages in which nothing is in use. The allocator does not by itself unless they are its last.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn give_memory_back() {
    // SAFETY: It takes no pointer and touches nothing but what the allocator knows to be free, under the allocator's own locks;
    // malloc_trim(3) says that any thread may call it at any time.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_memory_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_falls_asleep_bit_by_bit() {
        let dormitory = Dormitory::default();
        dormitory.is_open.set(true);
        let cards = (0..2 * MOST_AT_ONCE as u64 + 1).map(|id| {
            let mut card = ClientCard::blank();
            card.id = id;
            Arc::new(card)
        });
        let cards: Vec<_> = cards.collect();
        cards.iter().for_each(|card| dormitory.rises(card));
        let told = |_| {
            dormitory.look();
            cards.iter().filter(|card| card.order() == Order::Sleep).count()
        };
        let counts: Vec<_> = (0..5).map(told).collect();
        assert_eq!(counts, [0, MOST_AT_ONCE, 2 * MOST_AT_ONCE, cards.len(), cards.len()]);
    }

    #[test]
    fn who_is_silent_from_one_look_to_the_next_is_told_to_sleep_once() {
        let (dormitory, card) = (Dormitory::default(), Arc::new(ClientCard::blank()));
        dormitory.rises(&card);
        let orders = |count| {
            let look = |_| {
                dormitory.look();
                let order = card.order();
                card.obeyed(order);
                order
            };
            (0..count).map(look).collect::<Vec<_>>()
        };
        assert_eq!(orders(3), [Order::None; 3], "there is no bed");
        dormitory.is_open.set(true);
        assert_eq!(orders(4), [Order::None, Order::Sleep, Order::None, Order::None]);
        card.waits(Instant::now());
        assert_eq!(orders(3), [Order::None; 3], "it waits for a server");
        card.rests(0);
        assert_eq!(orders(3), [Order::None, Order::Sleep, Order::None]);
        card.waits(Instant::now());
        card.rests(0);
        assert_eq!(orders(1), [Order::None]);
        dormitory.leaves(card.id);
        assert_eq!(orders(2), [Order::None; 2]);
    }
}
