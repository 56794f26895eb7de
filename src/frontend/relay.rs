//! The relay: carries out what a client's session wants, until it is over.
//!
//! One loop, one match. Nothing here looks inside a message. Both directions are polled always: awaiting a write to one
//! side while the other is not read deadlocks when both are full. Buffers are taken from the worker's shelf when there is
//! something to read and given back when they are empty, so that an idle client owns none.
//!
//! ```text
//!   client --from_client--> session.on_client  --edits--> to_server --> server
//!   client <--to_client---- session.on_backend <--from_server--------- server
//! ```
//! Input is only looked at when the output that it leads to has somewhere to go: `to_*` hold what the other side's kernel
//! would not take, and while they hold anything that direction stands still.

use super::clients::{ClientCard, Order, Registration};
use super::handshake::Authenticated;
use super::outlet::{Outlet, fill};
use super::passage::{Leaving, Passenger};
use super::{Desk, Seat, Worker, cancel, passage};
use crate::backend::Backend;
use crate::cluster::{Declined, Granted, Notes, Subscription, UserPools};
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
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// How much may wait for a client that asks without reading before no more of what it asks is looked at, in bytes.
const MAX_UNREAD: usize = 64 * 1024;

/// How long the requests of a client may run on that has said goodbye. PostgreSQL has no limit; here they occupy a
/// connection that others wait for, nobody could cancel them, and drivers say goodbye in the middle of a query that they
/// have given up.
const LAST_REQUESTS: Duration = Duration::from_secs(3);

/// How long a client is held before it is told.
const SILENCE: Duration = Duration::from_secs(3);

/// Longer than any request is held.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long a farewell may take to reach the client.
pub(super) const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

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
    pools: Arc<UserPools>,
    /// What the worker has noted of their database.
    notes: Rc<RefCell<Notes>>,
    /// What a client that listens hears by the shared listener.
    subscription: Option<Arc<Subscription>>,
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

/// What a time limit is set by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    /// In a transaction, and the client's turn.
    Open,
    /// An answer is awaited.
    Asked,
}

/// The time limits that are set at all, and what they run against.
struct Limits {
    idle: Option<Duration>,
    transaction: Option<Duration>,
    query: Option<Duration>,
    phase: Phase,
    /// Since when the phase lasts.
    since: Instant,
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
}

/// Why there is no lease.
enum Denied {
    Report(Report),
    /// The client is gone, or told to go.
    Gone(Farewell),
}

impl Relay {
    /// For a client that has just come, at its worker.
    pub fn new(client: Authenticated, worker: Rc<Worker>) -> Self {
        let Authenticated { stream, early, pools, session, registration, config } = client;
        Relay {
            notes: worker.notes(&pools.database),
            seat: Seat::new(worker, registration.card().id),
            last: Last::default(),
            client: stream,
            session,
            lease: None,
            tenure: Tenure::New,
            fresh: !early.is_empty(),
            from_client: early,
            to_server: Buffer::empty(),
            from_server: Buffer::empty(),
            to_client: Buffer::empty(),
            quiet: Quiet::default(),
            pins: Pins::default(),
            watch: Limits::new(&config, &pools),
            max_message: config.listen.max_message,
            received: 0,
            sent: 0,
            registration,
            pools,
            subscription: None,
        }
    }

    /// Sees the client through to its end.
    pub async fn live(mut self: Box<Self>) {
        self.pools.enter();
        let farewell = self.converse().await;
        self.pools.leave();
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

    async fn move_on(mut self: Box<Self>) {
        self.settle_up().await;
        self.hand_over();
    }

    /// Nothing that the client has seen goes along but that it has seen something: so the primary shows it first.
    async fn settle_up(&mut self) {
        if let Some(shown) = self.session.shown()
            && let Err(report) = self.pools.see_off(shown).await
        {
            tracing::warn!(client = self.card().id, %report, "handed over all the same");
        }
    }

    /// The client goes on in the next process. Its entry here stays until it is on its way.
    fn hand_over(mut self: Box<Self>) {
        {
            let mut stats = self.pools.stats(self.seat.index);
            stats.received += std::mem::take(&mut self.received);
            stats.sent += std::mem::take(&mut self.sent);
        }
        let Relay { client, session, from_client, registration, pools, .. } = *self;
        let leaving = Leaving {
            card: registration.card(),
            credential: pools.credential(),
            uses_sequences: pools.sequences() == Sequences::Used,
            early: from_client.filled(),
            session: &session,
        };
        let handed = Passenger::new(client, leaving)
            .map(|passenger| registration.frontend().clients.hand_over(passenger));
        if !matches!(handed, Ok(Ok(()))) {
            tracing::warn!(client = registration.card().id, "a client could not be handed over");
        }
    }

    async fn converse(&mut self) -> Farewell {
        poll_fn(|cx| {
            self.card().wakes(cx.waker());
            Poll::Ready(())
        })
        .await;
        loop {
            let next = match self.exchange().await {
                Next::Want(Want::Close(farewell)) => return farewell,
                next => next,
            };
            // What takes its time is rare, and large: only who waits for it carries it.
            if let Some(farewell) = Box::pin(self.see_to(next)).await {
                return farewell;
            }
        }
    }

    /// Does what moving bytes alone does not; answers how the conversation ends, if it does.
    async fn see_to(&mut self, next: Next) -> Option<Farewell> {
        self.quiet = Quiet::default();
        let want = match next {
            Next::Want(want) => want,
            Next::ServerLost(why) => self.server_lost(&why),
            Next::Move => return self.move_at_rest().await,
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
            Want::Replay(rescue) => {
                self.replay(rescue);
                None
            }
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
                mode: rules.pool.mode,
                rules: &rules.routing,
                level: self.pools.level().unwrap_or(rules.routing.consistency),
                lineage,
                servers: &*self.pools,
                scopes: &self.pools.database.scopes,
                secret: secret.0.as_bytes(),
                catalog: &***catalog,
                generation: self.pools.database.generation(),
                classifier,
                registry,
                max_message: self.max_message,
                client: self.registration.card().id,
                pin_room: self.pools.pinned.room(&rules.pool),
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

    /// Takes a server connection that is free. Answers whether there was one.
    fn lease_at_once(&mut self, route: Route) -> bool {
        let asker = Asker {
            home: self.seat.index,
            drawer: self.session.has_drawn().then(|| self.registration.card().id),
        };
        let Some(granted) = self.pools.try_lease(route, asker) else { return false };
        self.take(granted);
        true
    }

    async fn lease_in_turn(&mut self, route: &Route) -> Option<Farewell> {
        let denied = match self.wait_for_lease(route).await {
            Ok(granted) => {
                self.take(granted);
                return None;
            }
            // The request is looked at again when there are other pools.
            Err(Denied::Report(_)) if self.pools.is_closed() => Box::pin(self.move_over()).await.err(),
            Err(denied) => Some(denied),
        };
        match denied {
            None => {}
            Some(Denied::Gone(farewell)) => return Some(farewell),
            Some(Denied::Report(report)) => self.deny(&report),
        }
        None
    }

    async fn move_at_rest(&mut self) -> Option<Farewell> {
        match self.move_over().await {
            Err(Denied::Gone(farewell)) => Some(farewell),
            // Nobody asks for anything now. Who asks is told.
            Ok(()) | Err(Denied::Report(_)) => None,
        }
    }

    /// Goes on in the pools that a reload has put into the place of these. The client holds no server connection: what it
    /// has (settings, names, what it has seen) it takes along.
    async fn move_over(&mut self) -> Result<(), Denied> {
        let frontend = self.registration.frontend().clone();
        self.card().obeyed(Order::Move);
        self.card().rests(self.session.prepared_statements());
        let before = self.pools.clone();
        let Some(database) = frontend.directory.find(&before.database.name) else {
            return Err(Denied::Gone(Farewell::Fatal(Box::new(
                killed().detail(format!("Database \"{}\" is not configured any more.", before.database.name)),
            ))));
        };
        if let Some(shown) = self.session.shown() {
            before.see_off(shown).await.map_err(Denied::Report)?;
        }
        // Those of the pools that it leaves.
        self.count_pins(Pins::default());
        self.pools = before.heir(&database);
        self.notes = self.seat.notes(&database);
        self.pools.enter();
        if let Err(why) = self.hear_on().await {
            before.leave();
            return Err(Denied::Gone(Farewell::Fatal(Box::new(why))));
        }
        before.leave();
        let rules = self.pools.database.rules();
        let config = frontend.access.load().config.clone();
        self.session.moved(rules.pool.mode, Instant::now());
        self.watch = Limits::new(&config, &self.pools);
        self.max_message = config.listen.max_message;
        self.fresh = true;
        Ok(())
    }

    /// Hears its channels from where it goes on, before it leaves where it heard them. What is notified in between may come
    /// twice: that is better than never.
    async fn hear_on(&mut self) -> Result<(), Report> {
        let Some(before) = self.subscription.take() else { return Ok(()) };
        let now = poll_fn(|cx| Poll::Ready(self.subscription(cx))).await;
        for channel in self.session.channels().names() {
            now.listen(channel).await.map_err(|Declined| no_listener())?;
        }
        // What was committed before it was heard here may still be on its way there.
        before.catch_up().await;
        while let Some(notification) = before.take() {
            self.to_client.extend(&notification);
        }
        self.session.on_notified(Instant::now());
        Ok(())
    }

    fn take(&mut self, granted: Granted) {
        self.lease = Some(granted);
        self.quiet.server = false;
        self.tenure = Tenure::New;
        self.session.on_leased();
        self.fresh = true;
    }

    /// Asks the primary how far it is, for the client to know.
    async fn position(&mut self, shown: Option<Shown>) -> Option<Farewell> {
        let pools = self.pools.clone();
        // Both branches are cancel safe: what was read stays in `from_client`.
        let answer = tokio::select! {
            biased;
            position = Box::pin(pools.position(shown)) => position,
            denied = poll_fn(|cx| self.poll_while_waiting(cx)) => match denied {
                Denied::Report(report) => Err(report),
                Denied::Gone(farewell) => return Some(farewell),
            },
        };
        self.session.on_position(answer);
        self.fresh = true;
        None
    }

    /// Stands in the queue, and looks out for a client that leaves, a cancel request and orders meanwhile.
    async fn wait_for_lease(&mut self, route: &Route) -> Result<Granted, Denied> {
        let asked = Instant::now();
        self.card().waits(asked);
        let pools = self.pools.clone();
        let home = self.seat.index;
        let mut lease = std::pin::pin!(pools.lease(route, home, asked));
        let mut next_word = asked + SILENCE;
        // All branches are cancel safe: a lease that was on its way goes back to its pool, and what was read stays in
        // `from_client`.
        let answer = loop {
            tokio::select! {
                biased;
                granted = &mut lease => break granted.map_err(Denied::Report),
                denied = poll_fn(|cx| self.poll_while_waiting(cx)) => break Err(denied),
                () = without_server_until(&pools, route, next_word) => {
                    next_word += if self.tell_why_held(route) { FOREVER } else { SILENCE };
                }
            }
        };
        self.pools.stats(home).wait.observe(asked.elapsed());
        answer
    }

    /// Tells a client that is held why. Answers whether there was something to tell: it is told once for each request.
    fn tell_why_held(&mut self, route: &Route) -> bool {
        let reason = self.pools.hold_reason(route).filter(|_| self.session.takes_notices());
        let mut notice = Vec::new();
        reason.iter().for_each(|reason| reason.write(&mut notice, Severity::Notice));
        self.to_client.extend(&notice);
        reason.is_some()
    }

    fn poll_while_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Denied> {
        if self.card().take_cancel() {
            let text = "canceling statement due to user request";
            return Poll::Ready(Denied::Report(Report::new(
                ErrorSource::Client,
                SqlState::QUERY_CANCELED,
                text,
            )));
        }
        match self.card().order() {
            Order::Kill => return Poll::Ready(Denied::Gone(Farewell::Fatal(Box::new(killed())))),
            // Its request goes along.
            Order::HandOver if self.can_be_handed_over() => {
                return Poll::Ready(Denied::Gone(Farewell::HandedOver));
            }
            _ => {}
        }
        if self.client_outlet().flush(cx).is_err() {
            return Poll::Ready(Denied::Gone(Farewell::Abrupt));
        }
        loop {
            let Relay { client, from_client, seat, .. } = self;
            match ready!(fill(client, from_client, &seat.shelf, &mut false, cx)) {
                Ok(0) if self.session.has_goodbye(self.from_client.filled()) => return Poll::Pending,
                Ok(0) | Err(_) => return Poll::Ready(Denied::Gone(Farewell::Abrupt)),
                Ok(count) => self.received += count as u64,
            }
        }
    }

    /// Has a channel heard, and looks out as above meanwhile.
    async fn listen(&mut self, channel: String) -> Option<Farewell> {
        self.card().waits(Instant::now());
        let subscription = poll_fn(|cx| Poll::Ready(self.subscription(cx))).await;
        // Both branches are cancel safe: what the session does not know of is taken back before anything is delivered.
        let answer = tokio::select! {
            biased;
            answer = subscription.listen(&channel) => Ok(answer),
            denied = poll_fn(|cx| self.poll_while_waiting(cx)) => Err(denied),
        };
        self.card().rests(self.session.prepared_statements());
        self.fresh = true;
        match answer {
            Ok(Ok(())) => self.session.on_listening(channel),
            Ok(Err(Declined)) => self.session.on_listen_declined(),
            Err(Denied::Report(report)) => self.deny(&report),
            Err(Denied::Gone(farewell)) => return Some(farewell),
        }
        None
    }

    fn subscription(&mut self, cx: &Context<'_>) -> Arc<Subscription> {
        let new = || Arc::new(Subscription::new(&self.pools.database, cx.waker()));
        self.subscription.get_or_insert_with(new).clone()
    }

    /// Tells a client that listens what it has heard, between its requests and outside of a transaction: behind the
    /// ReadyForQuery that ended one, or at once if it is idle.
    fn deliver(&mut self) -> Option<Farewell> {
        let subscription = self.subscription.as_ref()?;
        let channels = self.session.channels();
        if subscription.channels() != channels.len() {
            subscription.keep(channels.len(), |channel| channels.has(channel));
        }
        if !self.may_be_told() {
            return None;
        }
        self.pass_on_letters(MAX_UNREAD);
        self.subscription.as_ref()?.end().map(|why| Farewell::Fatal(Box::new(why)))
    }

    /// Ahead of a ReadyForQuery or of the answer to an UNLISTEN. That there will be no more is told behind it.
    async fn tell(&mut self, tidings: Tidings) {
        if let (Some(subscription), Tidings::Own) = (self.subscription.clone(), tidings) {
            subscription.catch_up().await;
        }
        self.session.on_told();
        // All: who stops listening would not hear the rest any more.
        self.pass_on_letters(usize::MAX);
        self.fresh = true;
    }

    /// Whether [`deliver`](Self::deliver) would tell the client something.
    fn has_tidings(&self) -> bool {
        let Some(subscription) = &self.subscription else { return false };
        self.to_client.len() <= MAX_UNREAD && self.may_be_told() && subscription.has_tidings()
    }

    /// Whether a notification may stand here.
    fn may_be_told(&self) -> bool {
        self.session.is_between_requests() && self.session.can_be_told()
    }

    /// What it has heard, as long as no more than `unread` bytes wait for it to read.
    fn pass_on_letters(&mut self, unread: usize) {
        let Some(subscription) = &self.subscription else { return };
        let channels = self.session.channels();
        let before = self.sent;
        while self.to_client.len() <= unread
            && let Some(notification) = subscription.take()
        {
            // What was under way when the client stopped listening is not for it any more.
            if notification_channel(&notification).is_some_and(|channel| channels.has(channel)) {
                self.sent += notification.len() as u64;
                self.to_client.extend(&notification);
            }
        }
        if self.sent != before {
            self.session.on_notified(Instant::now());
        }
    }

    /// The log has it.
    #[cold]
    fn take_down(&self, report: &Report) {
        let card = self.card();
        self.registration.frontend().journal.told(card.id, &card.user, &card.database, report);
    }

    fn deny(&mut self, report: &Report) {
        self.take_down(report);
        self.card().rests(self.session.prepared_statements());
        let mut desk = self.seat.desk();
        let edits = &mut desk.edits;
        let _ = self.session.on_lease_failed(self.from_client.filled(), report, edits);
        self.from_client.consume(edits.consumed());
        self.to_client.extend(&edits.reply);
        drop(desk);
        self.fresh = true;
        self.turn(Instant::now(), true);
        self.pools.stats(self.seat.index).error(report.source, report.code);
    }

    fn give_back(&mut self, now: Instant) {
        if self.lease.is_none() {
            return;
        }
        let granted = self.release();
        // From here on no cancel request can be aimed at the connection.
        self.card().rests(self.session.prepared_statements());
        let owed = self.session.owed();
        self.fresh = true;
        if let Some(granted) = granted.filter(|_| self.to_server.is_empty()) {
            match owed.is_nothing() && self.from_server.is_empty() {
                true => granted.lease.give_back_at(now),
                false => granted.lease.end(owed, self.from_server.filled(), &[], Duration::ZERO),
            }
        }
        self.from_server.consume(self.from_server.len());
        self.to_server.consume(self.to_server.len());
    }

    /// Lets go of the server connection, when nothing of ours waits to be sent on it; `None`: it was lost.
    fn release(&mut self) -> Option<Granted> {
        let Relay { lease, to_server, last, seat, .. } = self;
        let mut granted = lease.take()?;
        let stream = &mut granted.lease.backend().stream;
        let gathered =
            Outlet { stream, left: to_server, last: &mut last.server, seat, to: Side::Server }.gather();
        gathered.is_ok().then_some(granted)
    }

    fn client_outlet(&mut self) -> Outlet<'_> {
        let Relay { client, to_client, last, seat, .. } = self;
        Outlet { stream: client, left: to_client, last: &mut last.client, seat, to: Side::Client }
    }

    /// The client's requests run again, elsewhere: they stand at the head of its input as if they had just come.
    fn replay(&mut self, rescue: Rescue) {
        self.give_back(Instant::now());
        if let Some(generation) = self.session.outdated() {
            self.pools.database.ddl_unseen_in(generation);
        }
        let count = self.session.failed_requests();
        let requests = self.session.again();
        self.from_client.take_from(&self.seat.shelf);
        self.from_client.put_back(&requests);
        self.fresh = true;
        match rescue {
            // It may be the client's own mistake.
            Rescue::Kept => tracing::debug!(client = self.card().id, "a request runs again as it came"),
            _ => tracing::info!(client = self.card().id, why = rescue.as_str(), count, "requests run again"),
        }
        self.pools.stats(self.seat.index).rescue(rescue, count);
    }

    fn server_lost(&mut self, why: &str) -> Want {
        tracing::debug!(client = self.card().id, why, "server connection lost");
        self.card().rests(self.session.prepared_statements());
        if let Some(granted) = self.release() {
            self.pools.database.section.cluster.nodes()[granted.node].poke();
        }
        self.from_server.consume(self.from_server.len());
        self.to_server.consume(self.to_server.len());
        let mut desk = self.seat.desk();
        let edits = &mut desk.edits;
        let want = self.session.on_server_lost(why, edits);
        self.to_client.extend(&edits.reply);
        drop(desk);
        self.fresh = true;
        self.turn(Instant::now(), true);
        self.pools.stats(self.seat.index).error(ErrorSource::Server, SqlState::CONNECTION_FAILURE);
        want
    }

    /// What an order leads to now; orders that wait for the end of something are looked at again and again.
    fn ordered(&self) -> Option<Next> {
        let order = self.card().order();
        if order == Order::None {
            return None;
        }
        // Whatever the order is: it may stand for more than one.
        if let Some(why) = self.why_forsaken() {
            return Some(Next::ServerLost(why.to_owned()));
        }
        let is_at_rest = || self.session.is_between_requests() && self.from_client.is_empty();
        let report = match order {
            Order::None | Order::Look => {
                self.card().obeyed(order);
                return None;
            }
            Order::Move if !self.pools.is_closed() => {
                self.card().obeyed(order);
                return None;
            }
            Order::Move => return self.lease.is_none().then_some(Next::Move),
            Order::HandOver if self.can_be_handed_over() => {
                return Some(Next::Want(Want::Close(Farewell::HandedOver)));
            }
            // Some of what keeps it here ends with the request that is under way.
            Order::HandOver if is_at_rest() => {
                let why = self.keeps_it_here()?;
                tracing::debug!(client = self.card().id, why, "cannot be handed over");
                killed().detail(format!(
                    "pglagoon is restarting, and this connection cannot be handed over: {why}."
                ))
            }
            Order::Kill => killed(),
            Order::Expel if is_at_rest() => {
                killed().detail(format!("User \"{}\" is not configured any more.", self.card().user))
            }
            Order::Drain if is_at_rest() => killed().detail("pglagoon is shutting down."),
            Order::Expel | Order::HandOver | Order::Drain => return None,
        };
        Some(Next::Want(Want::Close(Farewell::Fatal(Box::new(report)))))
    }

    /// Why the server will not answer, or too late.
    fn why_forsaken(&self) -> Option<&'static str> {
        let Granted { node, role, .. } = self.lease.as_ref()?;
        self.pools.database.section.cluster.why_forsaken(*node, *role, self.session.can_run_again())
    }

    fn can_be_handed_over(&self) -> bool {
        self.lease.is_none()
            && self.to_client.is_empty()
            && self.seat.outbox.settle(Owner { client: self.card().id, to: Side::Client }, self.last.client)
            && !self.client.is_tls()
            && self.session.is_portable()
            && passage::has_room(&self.session, self.from_client.len())
    }

    /// Why it never can be; `None`: it can be sooner or later.
    fn keeps_it_here(&self) -> Option<&'static str> {
        if self.client.is_tls() {
            return Some("it is encrypted");
        }
        let why = self.session.keeps_it_here();
        why.or((!passage::has_room(&self.session, 0)).then_some("its prepared statements are too long"))
    }

    fn count(&mut self, events: Events, now: Instant) {
        self.count_pins(self.session.pins());
        if events.is_none() {
            return self.turn(now, false);
        }
        if events.ddl {
            self.pools.database.catalog_changed();
        }
        if events.unknown_name {
            self.pools.database.suspect_catalog(now);
        }
        if let Some(name) = events.vacates.then(|| self.seat.desk().edits.vacated.take()).flatten() {
            self.pools.database.section.cluster.vacate(&name, self.seat.index, now);
        }
        if let Some(granted) = self.lease.as_ref().filter(|_| events.read_only_primary) {
            self.pools.database.section.cluster.nodes()[granted.node].poke();
        }
        let mut stats = self.pools.stats(self.seat.index);
        stats.client_parses += u64::from(events.client_parses);
        stats.server_parses += u64::from(events.server_parses);
        stats.binds += u64::from(events.binds);
        stats.received += std::mem::take(&mut self.received);
        stats.sent += std::mem::take(&mut self.sent);
        stats.queries += u64::from(events.answered);
        if let Some(granted) = &self.lease {
            events.ran.counts().for_each(|(reason, count)| stats.ran(granted.role, reason, count));
        }
        if let (Some(time), Some(granted)) = (events.query_time, &self.lease) {
            stats.query(granted.role, granted.why, time);
            stats.queries -= 1;
            if granted.role == Role::Replica {
                self.pools.database.section.answered(granted.node, time, now);
            }
        }
        if let Some(time) = events.transaction_time {
            stats.assignments += 1;
            stats.transactions += 1;
            stats.transaction.observe(time);
        }
        drop(stats);
        if events.sequence_state {
            self.pools.pinned.use_sequences();
        }
        self.turn(now, events.answered > 0);
    }

    fn count_pins(&mut self, pins: Pins) {
        if pins != self.pins {
            self.pools.pinned.change(self.pins, pins);
            self.pins = pins;
            self.card().keeps(pins.reasons().next().map(|reason| reason.label));
        }
    }

    /// Keeps the phase that time limits go by, where there are any. It begins anew with each answer, and whoever is heard of is
    /// not idle.
    fn turn(&mut self, now: Instant, is_answered: bool) {
        let Some(watch) = &mut self.watch else { return };
        let phase = match (self.session.is_waiting(), self.session.in_transaction()) {
            (true, _) => Phase::Asked,
            (false, true) => Phase::Open,
            (false, false) => Phase::Idle,
        };
        if phase != watch.phase || is_answered || phase == Phase::Idle {
            (watch.phase, watch.since) = (phase, now);
        }
    }

    fn overdue(&self, now: Instant) -> Option<Report> {
        let limits = self.watch.as_ref()?;
        let (limit, code, text) = match limits.phase {
            Phase::Idle => (
                limits.idle,
                SqlState::IDLE_SESSION_TIMEOUT,
                "terminating connection due to client_idle_timeout",
            ),
            Phase::Open => (
                limits.transaction,
                SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                "terminating connection due to idle_transaction_timeout",
            ),
            Phase::Asked => {
                (limits.query, SqlState::QUERY_CANCELED, "terminating connection due to query_timeout")
            }
        };
        let is_over = now.saturating_duration_since(limits.since) >= limit?;
        is_over.then(|| Report::new(ErrorSource::Pooler, code, text))
    }

    /// The end: the server connection is made clean for the next client. Answers what this one is still to be told.
    fn part(&mut self, farewell: Farewell) -> Option<Vec<u8>> {
        let patience = match farewell {
            Farewell::Terminated => {
                let limit = self.pools.database.rules().pool.query_timeout;
                limit.map_or(LAST_REQUESTS, |limit| limit.min(LAST_REQUESTS))
            }
            Farewell::Fatal(_) | Farewell::Abrupt | Farewell::HandedOver => Duration::ZERO,
        };
        let fatal = match farewell {
            Farewell::Fatal(report) => Some(report),
            Farewell::Terminated | Farewell::Abrupt | Farewell::HandedOver => None,
        };
        self.count_pins(Pins::default());
        self.card().rests(0);
        {
            let mut stats = self.pools.stats(self.seat.index);
            stats.received += self.received;
            stats.sent += self.sent;
        }
        if let Some(granted) = self.release() {
            let mut owed = self.session.owed();
            // What the session believes to be sent is not: the server would wait for the rest of it.
            owed.broken |= !self.to_server.is_empty() && patience.is_zero();
            granted.lease.end(owed, self.from_server.filled(), self.to_server.filled(), patience);
        }
        let words = fatal.map(|report| self.last_words(&report));
        // The next client takes them.
        self.buffers().for_each(|(buffer, shelf)| {
            buffer.consume(buffer.len());
            buffer.give_back(shelf);
        });
        words
    }

    fn last_words(&self, report: &Report) -> Vec<u8> {
        let mut words = self.to_client.filled().to_vec();
        self.pools.stats(self.seat.index).error(report.source, report.code);
        if self.session.can_be_told() {
            report.write(&mut words, Severity::Fatal);
        }
        words
    }

    async fn say_goodbye(mut self: Box<Self>, last: Vec<u8>) {
        let told = async {
            let _ = self.client.write_all(&last).await;
            let _ = self.client.shutdown().await;
        };
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, told).await;
    }

    fn card(&self) -> &ClientCard {
        self.registration.card()
    }
}

impl Limits {
    fn new(config: &Config, pools: &UserPools) -> Option<Box<Self>> {
        let rules = pools.database.rules();
        let idle = config.listen.client_idle_timeout;
        let (transaction, query) = (rules.pool.idle_transaction_timeout, rules.pool.query_timeout);
        let any = idle.is_some() || transaction.is_some() || query.is_some();
        any.then(|| Box::new(Limits { idle, transaction, query, phase: Phase::Idle, since: Instant::now() }))
    }

    /// How often to look: the limits are kept to a quarter of the shortest.
    fn tick(&self) -> Duration {
        let shortest =
            [self.idle, self.transaction, self.query].into_iter().flatten().min().unwrap_or_default();
        (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }
}

/// Waits until that instant, once there is no server for the route. Who stands in a pool's queue is sent away when its
/// server is gone, and so looks here: a timer for each wait would cost more than the queue.
async fn without_server_until(pools: &UserPools, route: &Route, until: Instant) {
    poll_fn(|_| if pools.lacks_server(route) { Poll::Ready(()) } else { Poll::Pending }).await;
    Box::pin(tokio::time::sleep_until(until.into())).await;
}

fn no_listener() -> Report {
    let text = "terminating connection because notifications may have been missed";
    Report::new(ErrorSource::Pooler, SqlState::ADMIN_SHUTDOWN, text)
        .detail("The configuration of its database has changed, and there is no connection to listen with.")
        .hint("Connect and LISTEN again.")
}

fn killed() -> Report {
    Report::new(
        ErrorSource::Pooler,
        SqlState::ADMIN_SHUTDOWN,
        "terminating connection due to administrator command",
    )
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
                size_of_future(|(accepted, frontend, worker)| {
                    serve(accepted, frontend, worker, Arc::new(()))
                }),
            ),
            ("relay", size_of::<Relay>()),
            ("card", size_of::<ClientCard>()),
        ];
        let sum: usize = sizes.iter().map(|(_, size)| size).sum();
        assert!(sum <= 1064, "{sizes:?}");
    }

    #[test]
    fn a_wait_is_in_the_allocator_s_quick_bins() {
        // glibc keeps no more than 1,032 bytes at hand for each thread: one wait in a query costs 300 instructions more above.
        let size = size_of_future(|(relay, next): (&'static mut Relay, Next)| relay.see_to(next));
        assert!(size <= 1032, "{size}");
    }
}
