//! The relay: carries out what a client's session wants, until it is over.
//!
//! One loop, one match. Nothing here looks inside a message. Both directions are polled always: awaiting a write to one
//! side while the other is not read deadlocks when both are full. Buffers are taken from the worker's shelf when there is
//! something to read and given back when they are empty, so that an idle client owns none; one that stays silent for some
//! seconds gives up its task as well ([`super::dormitory`]).
//!
//! ```text
//!   client --from_client--> session.on_client  --edits--> to_server --> server
//!   client <--to_client---- session.on_backend <--from_server--------- server
//! ```
//! Input is only looked at when the output that it leads to has somewhere to go: `to_*` hold what the other side's kernel
//! would not take, and while they hold anything that direction stands still.

mod account;
mod ending;
mod hearing;
mod moving;
mod sleeping;
mod waiting;

use super::clients::{Admission, ClientCard, Order, Registration};
use super::handshake::Authenticated;
use super::outlet::{Outlet, fill};
use super::passage::{Leaving, Passenger};
use super::{Desk, Seat, Worker, cancel, passage};
use crate::backend::Backend;
use crate::cluster::{Declined, Granted, Member, Notes, Subscription, UserPools};
use crate::config::Config;
use crate::error::{ErrorSource, Report};
use crate::net::outbox::{Owner, Turn};
use crate::net::{Buffer, Shelf, Side, Stream};
use crate::pool::core::Asker;
use crate::routing::{Lineage, Role, Route, Shown};
use crate::session::pin::Pins;
use crate::session::{Events, Farewell, Held, Rescue, Sequences, Session, Tidings, Want, World};
use crate::wire::SqlState;
use crate::wire::backend::{Severity, notification_channel};
use account::Limits;
pub(super) use ending::FAREWELL_TIMEOUT;
use ending::killed;
pub(super) use sleeping::Sleeper;
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use waiting::Denied;

/// How much may wait for a client that asks without reading before no more of what it asks is looked at, in bytes.
const MAX_UNREAD: usize = 64 * 1024;

/// A client and what serves it.
pub struct Relay {
    /// The first to be dropped: before the streams are closed.
    seat: Seat,
    /// When what was sent last leaves, to either side.
    last: Last,
    client: Stream,
    session: Session,
    lease: Option<Granted>,
    tenure: Tenure,
    from_client: Buffer,
    to_server: Buffer,
    from_server: Buffer,
    to_client: Buffer,
    /// Who has nothing to say since the task was woken.
    quiet: Quiet,
    /// Something has changed since the session last looked at `from_client`.
    fresh: bool,
    pins: Pins,
    watch: Option<Box<Limits>>,
    max_message: usize,
    received: u64,
    sent: u64,
    registration: Registration,
    pools: Member,
    /// What the worker has noted of their database.
    notes: Rc<RefCell<Notes>>,
    /// What a client that listens hears by the shared listener.
    subscription: Option<Arc<Subscription>>,
    /// The last to be dropped: the connection counts as long as there is something of it.
    admission: Option<Admission>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Last {
    client: Turn,
    server: Turn,
}

/// The sides that have nothing to be read, and whose next word wakes the task: until then there is no use in asking again.
#[derive(Debug, Clone, Copy, Default)]
struct Quiet {
    client: bool,
    server: bool,
}

/// The time in one turn of the task: it is asked for, which costs a good part of what a query costs, when something has come,
/// and holds for what follows from that.
#[derive(Debug, Default)]
struct Clock(Option<Instant>);

impl Clock {
    /// Not before what has just been read.
    fn read(&mut self) -> Instant {
        *self.0.insert(Instant::now())
    }

    /// Not before the turn began.
    fn now(&mut self) -> Instant {
        *self.0.get_or_insert_with(Instant::now)
    }
}

/// How far a server connection is the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tenure {
    /// It has just been leased.
    New,
    /// It is being prepared: nobody may cancel that.
    Preparing,
    /// It serves.
    Served,
}

/// Which side a stream error is of.
enum Failure {
    Client,
    Server(String),
}

/// What the relay does next.
enum Next {
    Want(Want),
    ServerLost(String),
    /// The pools are closed, and no server connection is held.
    Move,
    /// The client is silent, and nothing of it is under way.
    Sleep,
}

impl Relay {
    /// For a client that has just come, at its worker.
    pub fn new(client: Authenticated, worker: Rc<Worker>) -> Self {
        let Authenticated { stream, early, pools, session, registration, config } = client;
        let (watch, max_message) = (Limits::new(&config, &pools), config.listen.max_message);
        let sleeper =
            Sleeper { client: stream, session, watch, max_message, registration, pools, admission: None };
        Relay { fresh: !early.is_empty(), from_client: early, ..Relay::of(sleeper, worker) }
    }

    /// For a client that nothing is under way for.
    fn of(sleeper: Sleeper, worker: Rc<Worker>) -> Self {
        let Sleeper { client, session, watch, max_message, registration, pools, admission } = sleeper;
        Relay {
            notes: worker.notes(&pools.database),
            seat: Seat::new(worker, registration.card().id),
            last: Last::default(),
            client,
            session,
            lease: None,
            tenure: Tenure::New,
            fresh: false,
            from_client: Buffer::empty(),
            to_server: Buffer::empty(),
            from_server: Buffer::empty(),
            to_client: Buffer::empty(),
            quiet: Quiet::default(),
            pins: Pins::default(),
            watch,
            max_message,
            received: 0,
            sent: 0,
            registration,
            pools,
            subscription: None,
            admission,
        }
    }

    /// Sees the client through to its end, or until it sleeps. `admission` counts it to its end.
    pub fn live(mut self: Box<Self>, admission: Admission) -> impl Future<Output = ()> {
        self.admission = Some(admission);
        self.go_on()
    }

    /// The same for a client that has slept.
    pub(super) async fn go_on(mut self: Box<Self>) {
        let farewell = self.converse().await;
        self.seat.dormitory.leaves(self.card().id);
        let Some(farewell) = farewell else { return self.sleep() };
        // The socket's error is the client's end, which this is.
        let _ = self.client_outlet().gather();
        match farewell {
            Farewell::HandedOver => Box::pin(self.move_on()).await,
            farewell => {
                if let Some(words) = self.part(farewell) {
                    Box::pin(self.say_goodbye(words)).await;
                }
            }
        }
    }

    /// Answers how the conversation has ended; `None`: the client sleeps.
    async fn converse(&mut self) -> Option<Farewell> {
        poll_fn(|cx| {
            self.card().wakes(cx.waker());
            self.seat.dormitory.rises(self.card());
            Poll::Ready(())
        })
        .await;
        loop {
            let next = match self.exchange().await {
                Next::Want(Want::Close(farewell)) => return Some(farewell),
                Next::Sleep if self.client.unwatch().is_ok() => return None,
                next => next,
            };
            // What takes its time is rare, and large: only who waits for it carries it.
            if let Some(farewell) = Box::pin(self.see_to(next)).await {
                return Some(farewell);
            }
        }
    }

    /// Does what moving bytes alone does not; answers how the conversation ends, if it does.
    async fn see_to(&mut self, next: Next) -> Option<Farewell> {
        self.quiet = Quiet::default();
        let node = self.lease.as_ref().map(|granted| granted.node);
        let want = match next {
            Next::Want(want) => want,
            Next::ServerLost(why) => self.server_lost(&why),
            Next::Move => return self.move_at_rest().await,
            // Its socket is lost, which is found where it is read.
            Next::Sleep => return None,
        };
        match want {
            Want::Input => None,
            Want::Whole(length) => {
                self.from_client.reserve_whole(length);
                None
            }
            Want::Lease(route) => self.lease_in_turn(&route).await,
            Want::Listen(channel) => self.listen(channel).await,
            Want::Position(shown) => self.position(shown).await,
            Want::Tell(tidings) => {
                self.tell(tidings).await;
                None
            }
            Want::Return => {
                self.give_back(Instant::now());
                None
            }
            Want::Replay(rescue) => self.replay(rescue, node).await,
            Want::Close(farewell) => Some(farewell),
        }
    }

    /// Moves bytes until the session wants something else, or a limit is passed.
    async fn exchange(&mut self) -> Next {
        match self.watch.as_deref().map(Limits::tick) {
            None => poll_fn(|cx| self.poll_exchange(cx)).await,
            // A timer is large: only clients that have limits carry one.
            Some(tick) => Box::pin(self.exchange_within_limits(tick)).await,
        }
    }

    async fn exchange_within_limits(&mut self, tick: Duration) -> Next {
        loop {
            // The poll function keeps its state in `self`: dropping it at a tick loses nothing.
            match tokio::time::timeout(tick, poll_fn(|cx| self.poll_exchange(cx))).await {
                Ok(next) => return next,
                Err(_) => {
                    if let Some(report) = self.overdue(Instant::now()) {
                        self.take_down(&report);
                        return Next::Want(Want::Close(Farewell::Fatal(Box::new(report))));
                    }
                }
            }
        }
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let mut clock = Clock::default();
        loop {
            if let Some(next) = self.ordered() {
                return Poll::Ready(next);
            }
            if let Some(farewell) = self.deliver() {
                return Poll::Ready(Next::Want(Want::Close(farewell)));
            }
            let step = match self.step(&mut clock, cx) {
                Ok(step) => step,
                Err(Failure::Client) => return Poll::Ready(Next::Want(Want::Close(Farewell::Abrupt))),
                Err(Failure::Server(why)) => return Poll::Ready(self.last_answers(why, cx)),
            };
            match step {
                Poll::Ready(Want::Input) => {}
                Poll::Ready(Want::Lease(route)) if self.lease_at_once(route) => {}
                Poll::Ready(Want::Return) => self.give_back(clock.now()),
                Poll::Ready(want) => return Poll::Ready(Next::Want(want)),
                // There was more than it was told at once.
                Poll::Pending if self.has_tidings() => {}
                Poll::Pending => break,
            }
        }
        self.buffers().for_each(|(buffer, shelf)| buffer.give_back(shelf));
        self.quiet = Quiet::default();
        Poll::Pending
    }

    /// All of them, with where empty ones belong.
    fn buffers(&mut self) -> impl Iterator<Item = (&mut Buffer, &Shelf)> {
        let Relay { from_client, to_server, from_server, to_client, seat, .. } = self;
        [from_client, to_server, from_server, to_client].into_iter().map(|buffer| (buffer, &seat.shelf))
    }

    /// One step in each direction; pending when neither can be made.
    fn step(&mut self, clock: &mut Clock, cx: &mut Context<'_>) -> Result<Poll<Want>, Failure> {
        let down = self.downstream(clock, cx)?;
        if let Poll::Ready(want) = &down
            && *want != Want::Input
        {
            return Ok(down);
        }
        match self.upstream(clock, cx)? {
            Poll::Pending => Ok(down),
            up => Ok(up),
        }
    }

    /// The server takes nothing any more. What it had answered before may still be on its way to us.
    fn last_answers(&mut self, why: String, cx: &mut Context<'_>) -> Next {
        let mut clock = Clock::default();
        loop {
            match self.downstream(&mut clock, cx) {
                Ok(Poll::Ready(Want::Input)) => {}
                Ok(Poll::Ready(want)) => return Next::Want(want),
                Ok(Poll::Pending) | Err(Failure::Server(_)) => return Next::ServerLost(why),
                Err(Failure::Client) => return Next::Want(Want::Close(Farewell::Abrupt)),
            }
        }
    }

    /// From the server to the client.
    fn downstream(&mut self, clock: &mut Clock, cx: &mut Context<'_>) -> Result<Poll<Want>, Failure> {
        let Relay { client, lease, from_server, to_client, last, seat, quiet, .. } = self;
        let mut to_client =
            Outlet { stream: client, left: to_client, last: &mut last.client, seat, to: Side::Client };
        if to_client.flush(cx).map_err(|_| Failure::Client)?.is_pending() {
            return Ok(Poll::Pending);
        }
        let Some(granted) = lease.as_mut().filter(|_| !quiet.server) else { return Ok(Poll::Pending) };
        let backend = granted.lease.backend();
        match fill(&mut backend.stream, from_server, &seat.shelf, &mut quiet.server, cx) {
            Poll::Pending if self.session.is_told() => {}
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Ok(0)) => return Err(Failure::Server("the server closed the connection".into())),
            Poll::Ready(Err(error)) => return Err(Failure::Server(error.to_string())),
            Poll::Ready(Ok(_)) => {}
        }
        let now = clock.read();
        // What a server of yesterday answers today does not count as of today.
        let dated = |lineage: &Lineage| lineage.dated(granted.timeline, granted.node, now);
        let then = self.notes.borrow_mut().lineage.load().as_deref().map_or(now, dated);
        let mut desk = seat.desk();
        let Desk { registry, edits } = &mut *desk;
        let mut held = Held { role: granted.role, node: granted.node as u16, state: &mut backend.state };
        let want = self.session.on_backend(from_server.filled(), &mut held, registry, then, edits);
        self.sent += to_client.carry_out(edits, from_server, cx).map_err(|_| Failure::Client)?;
        let events = edits.events;
        drop(desk);
        self.fresh = true;
        self.settle_in(now);
        self.count(events, now);
        Ok(Poll::Ready(want))
    }

    /// From the client to the server.
    fn upstream(&mut self, clock: &mut Clock, cx: &mut Context<'_>) -> Result<Poll<Want>, Failure> {
        let Relay { client, lease, from_client, to_server, to_client, last, seat, quiet, .. } = self;
        if let Some(granted) = lease.as_mut() {
            let stream = &mut granted.lease.backend().stream;
            let mut to_server =
                Outlet { stream, left: to_server, last: &mut last.server, seat, to: Side::Server };
            if to_server.flush(cx).map_err(|error| Failure::Server(error.to_string()))?.is_pending() {
                return Ok(Poll::Pending);
            }
        }
        // Answers of ours to requests that no server is asked for. Downstream waits for the client to take them.
        if to_client.len() > MAX_UNREAD {
            return Ok(Poll::Pending);
        }
        let filled = match fill(client, from_client, &seat.shelf, &mut quiet.client, cx) {
            // What was asked for before the goodbye is still to be done.
            Poll::Ready(Ok(0)) if self.session.has_goodbye(from_client.filled()) => Poll::Pending,
            filled => filled,
        };
        match &filled {
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(Failure::Client),
            Poll::Ready(Ok(count)) => self.received += *count as u64,
            Poll::Pending if !self.fresh => return Ok(Poll::Pending),
            Poll::Pending => {}
        }
        self.fresh = false;
        if from_client.is_empty() && !(lease.is_some() && self.session.has_questions()) {
            return Ok(Poll::Pending);
        }
        let now = if filled.is_ready() { clock.read() } else { clock.now() };
        let (want, events, moved) = {
            let mut notes = self.notes.borrow_mut();
            let Notes { rules, lineage, catalog, classifier } = &mut *notes;
            self.pools.database.consult();
            let (rules, lineage, catalog) = (rules.load(), lineage.load().as_deref(), catalog.load());
            if let (Some(granted), Some(lineage)) = (lease.as_ref(), lineage)
                && granted.role == Role::Primary
                && granted.node != lineage.node
            {
                // What a primary of yesterday commits is lost, however well it answers.
                return Err(Failure::Server("another server has become primary".into()));
            }
            let secret = rules.routing.token_secret.as_ref().unwrap_or(&self.pools.database.token_secret);
            let mut desk = seat.desk();
            let Desk { registry, edits } = &mut *desk;
            let mut world = World {
                now,
                rules: &rules.routing,
                level: self.pools.level(),
                lineage,
                servers: &**self.pools,
                scopes: &self.pools.database.scopes,
                secret: secret.0.as_bytes(),
                catalog: &***catalog,
                generation: self.pools.database.generation(),
                classifier,
                registry,
                max_message: self.max_message,
                client: self.registration.card().id,
                pin_room: self.pools.pin_room(rules.pool.session_state),
                sequences: self.pools.sequences(),
                unnamed: rules.pool.unnamed_statements,
            };
            let want = match lease {
                None => {
                    let want = self.session.on_client(from_client.filled(), None, &mut world, edits);
                    from_client.consume(edits.consumed());
                    want
                }
                Some(granted) => {
                    let Backend { stream, state, .. } = granted.lease.backend();
                    let held = Some(Held { role: granted.role, node: granted.node as u16, state });
                    let want = self.session.on_client(from_client.filled(), held, &mut world, edits);
                    Outlet { stream, left: to_server, last: &mut last.server, seat, to: Side::Server }
                        .carry_out(edits, from_client, cx)
                        .map_err(|error| Failure::Server(error.to_string()))?;
                    want
                }
            };
            self.sent += edits.reply.len() as u64;
            to_client.append(&edits.reply, &seat.shelf);
            (want, edits.events, edits.consumed() > 0 || !edits.reply.is_empty())
        };
        self.settle_in(now);
        self.count(events, now);
        match want {
            // Nothing more can be done with what is here: wait for more, from either side. After a read the socket must be
            // asked again first: only what answers "pending" wakes us.
            Want::Input if !moved && filled.is_pending() => Ok(Poll::Pending),
            want => Ok(Poll::Ready(want)),
        }
    }

    /// Shows who has the server connection, and lets cancel requests at it once it serves the client.
    fn settle_in(&mut self, now: Instant) {
        let Some(granted) = self.lease.as_mut().filter(|_| self.tenure != Tenure::Served) else { return };
        let (preparing, card) = (self.session.is_preparing(), self.registration.card());
        let aim = match self.tenure {
            Tenure::New => card.holds(granted.lease.backend(), preparing, now),
            _ if preparing => None,
            _ => card.is_served(),
        };
        self.tenure = if preparing { Tenure::Preparing } else { Tenure::Served };
        if let Some(aim) = aim {
            tokio::spawn(cancel::deliver(aim, card.id));
        }
    }

    fn client_outlet(&mut self) -> Outlet<'_> {
        let Relay { client, to_client, last, seat, .. } = self;
        Outlet { stream: client, left: to_client, last: &mut last.client, seat, to: Side::Client }
    }

    fn card(&self) -> &Arc<ClientCard> {
        self.registration.card()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::listener::serve;

    fn size_of_future<A, F: Future>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_client_is_small() {
        // What a client costs beside its socket, its names and the allocator's own: the task, and two boxes.
        let sizes = [
            (
                "task",
                size_of_future(|(accepted, frontend, worker, load)| serve(accepted, frontend, worker, load)),
            ),
            ("relay", size_of::<Relay>()),
            ("card", size_of::<ClientCard>()),
        ];
        let sum: usize = sizes.iter().map(|(_, size)| size).sum();
        assert!(sum <= 1072, "{sizes:?}");
        // Without the task, and with the card.
        assert!(size_of::<Sleeper>() <= 488, "{}", size_of::<Sleeper>());
    }

    #[test]
    fn a_wait_is_in_the_allocator_s_quick_bins() {
        // glibc keeps no more than 1,032 bytes at hand for each thread: one wait in a query costs 300 instructions more above.
        let size = size_of_future(|(relay, next): (&'static mut Relay, Next)| relay.see_to(next));
        assert!(size <= 1032, "{size}");
    }
}
