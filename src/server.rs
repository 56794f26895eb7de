//! Assembly: the only place that constructs the rooms and hands them to each other; signals, the drain, and the succession.
//!
//! ```text
//!   serve: rooms -> workers -> listeners, HTTP, housekeeping -> signals
//!   SIGTERM, SIGINT: no new clients; idle ones are told goodbye, transactions end within drain_timeout; exit 0
//!   the same again, SIGQUIT: at once  SIGHUP: the configuration is read again
//!   SIGUSR2: another process takes over the sockets, and the clients as they come to rest; exit 0
//! ```

mod operate;
mod sockets;
mod succession;
mod switchover;
mod systemd;
mod view;

use crate::admin::{self, Console, Shutdown};
use crate::auth::{KeyRing, Seed};
use crate::cluster::failover::Standing;
use crate::cluster::{Admission, Care, Cluster, Directory};
use crate::config::{self, Changes, Config, ConfigError};
use crate::frontend::clients::{Clients, Order};
use crate::frontend::journal::Journal;
use crate::frontend::listener::{Accepted, Listener};
use crate::frontend::passage::Passenger;
use crate::frontend::{Access, Frontend, cancel};
use crate::net::{Acceptor, Resolver};
use crate::runtime::{self, Inboxes, Workers};
use crate::wire::ClientKey;
use arc_swap::ArcSwap;
use operate::Controls;
use sockets::{Inherited, Sockets};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use succession::{LAST_BREATHS, Predecessor, StandingOrders, Successor};
use systemd::Systemd;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use view::View;

/// How often pools are looked through for waits that are over.
const SWEEP: Duration = Duration::from_millis(100);

/// Each time after so many also for connections that are idle for too long, or too old, and for logins that take too long.
const WHOLE_SWEEP: usize = 10;

/// How often the drain looks whether everybody has left.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// How long clients that outlast the drain have to take their goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long a process that takes over looks for the primaries before it begins without them.
const ACQUAINTANCE: Duration = Duration::from_secs(5);

/// The process's secrets, in bytes: 32 from which stored keys are derived, 16 for hashing texts.
const SECRETS: usize = 48;

/// Why pglagoon does not start, or not again.
#[derive(Debug)]
pub enum ServeError {
    /// The configuration is not good.
    Config(Vec<ConfigError>),
    /// Something else is missing; the text says what.
    Setup(String),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Setup(text) => f.write_str(text),
            ServeError::Config(errors) => {
                let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
                f.write_str(&lines.join("\n"))
            }
        }
    }
}

/// What the parts of the process share. `View` and `Controls` show and move it.
struct Shared {
    frontend: Arc<Frontend>,
    file: PathBuf,
    secrets: [u8; SECRETS],
    started: SystemTime,
    phase: watch::Sender<Phase>,
    systemd: Systemd,
}

/// What becomes of those who connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// They are taken.
    Serving,
    /// Another process takes them.
    Succession,
    /// Nobody does.
    Draining,
}

/// How a process begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// By itself.
    Fresh,
    /// In the place of the process that has started it.
    TakeOver,
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stopped,
    Succeeded,
}

/// What the process is told.
enum Told {
    Stop(Shutdown),
    /// To let another process take its place; who asked hears whether that came about.
    Upgrade(Option<oneshot::Sender<Result<String, String>>>),
}

/// Serves until told to stop, or succeeded by another process.
///
/// # Errors
/// What keeps it from starting; once it serves, it ends by signal or console alone.
pub fn serve(file: &Path, config: Config, beginning: Beginning) -> Result<(), ServeError> {
    let config = Arc::new(config);
    // Before there are other threads.
    let given = Inherited::from_environment();
    let systemd = Systemd::from_environment();
    raise_descriptor_limit(&config);
    let process = runtime::process().map_err(|error| setup("the runtime", &error))?;
    let _guard = process.enter();
    let before = match beginning {
        Beginning::Fresh => None,
        Beginning::TakeOver => {
            Some(process.block_on(Predecessor::meet()).map_err(|why| setup("the process before", &why))?)
        }
    };
    let secrets = secrets(before.as_ref().map(|(_, hello, _)| hello))?;
    let handle = process.handle().clone();
    let (shared, controls) = assemble(file, &config, secrets, systemd, handle)?;
    let (before, given) = match before {
        None => (None, given),
        Some((predecessor, hello, inherited)) => {
            let (cancels, cancelled) = mpsc::unbounded_channel();
            shared.frontend.clients.follow(hello.last_id, cancels);
            shared.obey(&hello.standing);
            (Some((predecessor, cancelled)), inherited)
        }
    };
    let sockets = Sockets::open(&config, given)?;
    let workers = Workers::start(config.listen.workers, hashing_key(&secrets), &shared.frontend)
        .map_err(|error| setup("worker threads", &error))?;
    if let Some((predecessor, _)) = &before {
        let ready = async {
            shared.get_acquainted().await;
            predecessor.ready().await
        };
        process.block_on(ready).map_err(|why| setup("the process before", &why))?;
    }
    let file = sockets.file.clone();
    let end = process.block_on(run(&shared, controls, sockets, before, &workers));
    drop(_guard);
    workers.stop();
    if let (End::Stopped, Some(file)) = (end, file) {
        let _ = std::fs::remove_file(file);
    }
    process.shutdown_background();
    Ok(())
}

/// The predecessor's, or new ones.
fn secrets(before: Option<&succession::Hello>) -> Result<[u8; SECRETS], ServeError> {
    if let Some(hello) = before {
        return hello
            .secrets()
            .ok_or_else(|| ServeError::Setup("the process before has other secrets".into()));
    }
    let mut secrets = [0; SECRETS];
    getrandom::fill(&mut secrets).map_err(|error| setup("random bytes", &error))?;
    Ok(secrets)
}

fn seed(secrets: &[u8; SECRETS]) -> [u8; 32] {
    *secrets.first_chunk().expect("48 bytes begin with 32")
}

fn hashing_key(secrets: &[u8; SECRETS]) -> [u8; 16] {
    *secrets.last_chunk().expect("48 bytes end with 16")
}

fn assemble(
    file: &Path,
    config: &Arc<Config>,
    secrets: [u8; SECRETS],
    systemd: Systemd,
    handle: tokio::runtime::Handle,
) -> Result<(Arc<Shared>, mpsc::UnboundedReceiver<Told>), ServeError> {
    let (workers, key) = (config.listen.workers, hashing_key(&secrets));
    let directory = Directory::new(config, workers, key, Resolver::system(), handle)
        .map_err(|error| setup("TLS towards servers", &error))?;
    let access = access(config, seed(&secrets)).map_err(|error| setup("TLS towards clients", &error))?;
    let (orders, controls) = mpsc::unbounded_channel();
    // The console shows and moves what it is itself a part of: the knot is tied by weak references.
    let shared = Arc::new_cyclic(|shared| {
        let console = Console::new(
            Arc::new(View::new(shared.clone())),
            Arc::new(Controls::new(shared.clone(), orders)),
            Instant::now(),
        );
        Shared {
            frontend: Arc::new(Frontend {
                access: ArcSwap::from_pointee(access),
                clients: Clients::new(),
                directory,
                console: Arc::new(console),
                journal: Journal::default(),
            }),
            file: file.to_owned(),
            secrets,
            started: SystemTime::now(),
            phase: watch::Sender::new(Phase::Serving),
            systemd,
        }
    });
    Ok((shared, controls))
}

fn access(config: &Arc<Config>, seed: [u8; 32]) -> Result<Access, crate::net::tls::TlsSetupError> {
    Ok(Access {
        config: config.clone(),
        keys: KeyRing::new(&config.users, Seed::new(seed)),
        acceptor: Acceptor::new(&config.listen.tls)?,
    })
}

async fn run(
    shared: &Arc<Shared>,
    mut orders: mpsc::UnboundedReceiver<Told>,
    sockets: Sockets,
    before: Option<Before>,
    workers: &Workers,
) -> End {
    let view: Arc<dyn admin::Observed> = Arc::new(View::new(Arc::downgrade(shared)));
    let config = shared.frontend.access.load().config.clone();
    let addresses: Vec<_> = config.listen.addresses.iter().map(ToString::to_string).collect();
    let accepting = accept(sockets.listeners.clone(), workers.inboxes().clone(), shared.phase.subscribe());
    let mut accepting = workers.spawn_on_first(accepting);
    let http = sockets.http.as_ref().map(|http| http.as_fd().try_clone_to_owned());
    let endpoints = endpoints(http, view, shared.phase.subscribe());
    let arriving = arrive(before, workers);
    let ending = async {
        let mut sockets = Some(sockets);
        let mut signals = Signals::new();
        loop {
            let told = tokio::select! {
                told = signals.told(shared) => told,
                Some(told) = orders.recv() => told,
            };
            let shutdown = match (told, &sockets) {
                (Told::Stop(shutdown), _) => shutdown,
                (Told::Upgrade(asker), Some(open)) => {
                    match upgrade(shared, open, asker, workers, &mut signals).await {
                        Upgraded::Done => return End::Succeeded,
                        Upgraded::GoOn => continue,
                        Upgraded::Stop(shutdown) => shutdown,
                    }
                }
                (Told::Upgrade(_), None) => continue,
            };
            drop(sockets.take());
            stop(shared, shutdown, &mut signals).await;
            return End::Stopped;
        }
    };
    tracing::info!(
        addresses = %addresses.join(", "), workers = config.listen.workers, version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(), "pglagoon is ready for clients"
    );
    shared.systemd.ready();
    // Every branch but `ending` lasts as long as the process; what it ends, it ends by being dropped.
    tokio::select! {
        end = ending => end,
        () = accepting.ended() => End::Stopped,
        () = endpoints => End::Stopped,
        () = arriving => End::Stopped,
        () = sweep(shared, workers) => End::Stopped,
        () = shared.systemd.live() => End::Stopped,
    }
}

/// Accepts while the process serves; when the drain begins, the listening sockets are closed.
async fn accept(listeners: Arc<Vec<Listener>>, inboxes: Inboxes, mut phase: watch::Receiver<Phase>) {
    loop {
        let mut accepting: Vec<_> = listeners
            .iter()
            .map(|listener| Box::pin(listener.run(|accepted| inboxes.hand_over(accepted))))
            .collect();
        let all = std::future::poll_fn(|cx| {
            for listener in &mut accepting {
                let _ = listener.as_mut().poll(cx);
            }
            std::task::Poll::<()>::Pending
        });
        tokio::select! {
            () = all => {}
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => {}
        }
        drop(accepting);
        let next = phase.wait_for(|phase| *phase != Phase::Succession).await.map(|phase| *phase);
        if !matches!(next, Ok(Phase::Serving)) {
            break;
        }
    }
    drop(listeners);
    std::future::pending().await
}

/// Answers HTTP, but for the time in which another process does.
async fn endpoints(
    http: Option<std::io::Result<OwnedFd>>,
    view: Arc<dyn admin::Observed>,
    mut phase: watch::Receiver<Phase>,
) {
    let Some(Ok(socket)) = http else { return std::future::pending().await };
    let socket = std::net::TcpListener::from(socket);
    loop {
        let listener = socket.try_clone().and_then(TcpListener::from_std);
        let Ok(listener) = listener else { return std::future::pending().await };
        let mut ending = phase.clone();
        let succession = async move { drop(ending.wait_for(|phase| *phase == Phase::Succession).await) };
        admin::http::serve(listener, view.clone(), succession).await;
        let _ = phase.wait_for(|phase| *phase != Phase::Succession).await;
    }
}

/// The process before, and the cancel requests for its clients.
type Before = (Predecessor, mpsc::UnboundedReceiver<ClientKey>);

/// Takes on the clients of the process before, and asks it about those that are still there.
async fn arrive(before: Option<Before>, workers: &Workers) {
    if let Some((predecessor, cancelled)) = before {
        let mut count = 0;
        let board = |passenger| {
            count += 1;
            workers.inboxes().hand_over(Accepted::Passenger(passenger));
        };
        predecessor.hear_out(cancelled, board).await;
        tracing::info!(clients = count, "the process before has ended");
    }
    std::future::pending().await
}

/// What has become of an upgrade.
enum Upgraded {
    /// The other process has everything.
    Done,
    /// There is none: this one serves on.
    GoOn,
    /// It was told to stop meanwhile.
    Stop(Shutdown),
}

/// Lets another process take this one's place.
async fn upgrade(
    shared: &Shared,
    sockets: &Sockets,
    asker: Option<oneshot::Sender<Result<String, String>>>,
    workers: &Workers,
    signals: &mut Signals,
) -> Upgraded {
    tracing::info!("upgrade: starting the process that takes over");
    let last_id = shared.frontend.clients.last_id();
    let called = async {
        let standing = shared.standing_orders()?;
        let mut successor =
            Successor::call(&shared.file, &shared.secrets, last_id, standing, sockets).await?;
        successor.let_go().await.map_err(|error| error.to_string())?;
        Ok(successor)
    };
    let called = tokio::select! {
        called = called => called,
        shutdown = signals.told_to_stop(shared) => return Upgraded::Stop(shutdown),
    };
    let answer = |outcome: Result<String, String>| asker.map(|asker| asker.send(outcome));
    match called {
        Ok(successor) => {
            let pid = successor.pid();
            tracing::info!(pid, "upgrade: the new process serves; handing clients over");
            shared.systemd.succeeded_by(pid);
            let _ = answer(Ok(format!("process {pid} has taken over")));
            tokio::select! {
                upgraded = hand_over(shared, successor, workers) => upgraded,
                _ = signals.told_to_stop(shared) => {
                    tracing::warn!("told to stop while handing over: ending at once");
                    Upgraded::Done
                }
            }
        }
        Err(why) => {
            tracing::error!(why, "upgrade: no process took over; serving on");
            let _ = answer(Err(why));
            Upgraded::GoOn
        }
    }
}

/// Hands clients over as they come to rest, for as long as `drain_timeout`.
async fn hand_over(shared: &Shared, successor: Successor, workers: &Workers) -> Upgraded {
    let clients = &shared.frontend.clients;
    let (gangway, mut leaving) = mpsc::unbounded_channel();
    clients.lead(successor.takes_clients.then_some(gangway));
    shared.phase.send_replace(Phase::Succession);
    // Server connections that nobody uses are the new process's to make.
    shared.frontend.directory.databases().iter().for_each(|database| database.reconnect(usize::MAX));
    let deadline = Instant::now() + shared.frontend.access.load().config.drain_timeout;
    let order = if successor.takes_clients { Order::HandOver } else { Order::Drain };
    // Cancel requests are read by a future that lasts: half a letter cannot be read again.
    let answering = async {
        while let Some(key) = successor.cancel().await {
            cancel::cancel(clients, &key).await;
        }
    };
    let emptying = async {
        empty(clients, workers, order, deadline).await;
        // Those who are on their way still come out of it.
        clients.lead(None);
        Ok(())
    };
    let mut boarding = None;
    let handing = async { tokio::try_join!(emptying, convey(&successor, &mut leaving, &mut boarding)) };
    let handed = tokio::select! {
        handed = handing => handed,
        () = answering => Err(io::ErrorKind::ConnectionAborted.into()),
    };
    match handed {
        Ok(((), count)) => {
            tracing::info!(clients = count, "upgrade: handed over");
            Upgraded::Done
        }
        Err(error) => {
            tracing::warn!(%error, "upgrade: nobody can be handed over any more");
            boarding
                .into_iter()
                .for_each(|passenger| workers.inboxes().hand_over(Accepted::Passenger(passenger)));
            stay_behind(shared, successor, leaving, workers, deadline).await
        }
    }
}

/// Waits until all have done as they are ordered, and closes those who have not by then.
async fn empty(clients: &Clients, workers: &Workers, order: Order, deadline: Instant) {
    let mut tick = tokio::time::interval(DRAIN_POLL);
    loop {
        tick.tick().await;
        // Those who are logging in are let in first; what else is left is in the console.
        if clients.in_service() == 0 && workers.connections() <= clients.logged_in() {
            return;
        }
        clients.all().iter().for_each(|card| card.command(order));
        if Instant::now() >= deadline {
            tracing::warn!(clients = clients.in_service(), "drain_timeout is over: closing what is left");
            return dismiss(clients).await;
        }
    }
}

/// Hands over whoever leaves, and counts them. Who could not be is left in `boarding`.
async fn convey(
    successor: &Successor,
    leaving: &mut mpsc::UnboundedReceiver<Passenger>,
    boarding: &mut Option<Passenger>,
) -> io::Result<usize> {
    let mut count = 0;
    while let Some(passenger) = leaving.recv().await {
        successor.take(boarding.insert(passenger)).await?;
        *boarding = None;
        count += 1;
    }
    Ok(count)
}

/// Nobody can be handed over any more. If the new process has ended, this one serves on; if it lives, two would serve: it
/// keeps those whom it has, and those who are here are told goodbye.
async fn stay_behind(
    shared: &Shared,
    mut successor: Successor,
    mut leaving: mpsc::UnboundedReceiver<Passenger>,
    workers: &Workers,
    deadline: Instant,
) -> Upgraded {
    let clients = &shared.frontend.clients;
    successor.hang_up();
    let go_on = |passenger| workers.inboxes().hand_over(Accepted::Passenger(passenger));
    // Who has got ready to leave meanwhile goes on here.
    let returning = async {
        while let Some(passenger) = leaving.recv().await {
            go_on(passenger);
        }
        std::future::pending().await
    };
    let deciding = async {
        if tokio::time::timeout(LAST_BREATHS, successor.ended()).await.is_ok() {
            return Upgraded::GoOn;
        }
        tracing::error!("upgrade: the new process serves, but takes nobody over: draining");
        tokio::select! {
            _ = successor.ended() => Upgraded::GoOn,
            () = empty(clients, workers, Order::Drain, deadline) => Upgraded::Done,
        }
    };
    let upgraded = tokio::select! {
        biased;
        upgraded = returning => upgraded,
        upgraded = deciding => upgraded,
    };
    clients.lead(None);
    if matches!(upgraded, Upgraded::GoOn) {
        tracing::error!("upgrade: the new process is gone; serving on");
        while let Ok(passenger) = leaving.try_recv() {
            go_on(passenger);
        }
        for card in clients.all() {
            [Order::HandOver, Order::Drain].into_iter().for_each(|order| card.obeyed(order));
        }
        shared.phase.send_replace(Phase::Serving);
        shared.systemd.succeeded_by(std::process::id());
    }
    upgraded
}

/// Drains, or ends at once if told to stop again.
async fn stop(shared: &Shared, shutdown: Shutdown, signals: &mut Signals) {
    shared.systemd.stopping();
    let patience = shared.frontend.access.load().config.drain_timeout;
    tokio::select! {
        () = drain(shared, shutdown, patience) => {}
        _ = signals.told_to_stop(shared) => {
            tracing::warn!("told to stop a second time: ending at once");
            dismiss(&shared.frontend.clients).await;
        }
    }
}

async fn sweep(shared: &Shared, workers: &Workers) {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    for count in 0.. {
        tick.tick().await;
        let care = if count % WHOLE_SWEEP == 0 { Care::Whole } else { Care::Waits };
        shared.frontend.directory.sweep(care, Instant::now());
        shared.look_after_those_who_wait();
        if care == Care::Whole {
            workers.beat();
        }
        shared.frontend.console.sample(Instant::now());
    }
}

/// The signals that the process heeds. Kept for as long as it runs: one that comes while nobody waits is not lost.
struct Signals {
    term: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    /// PgBouncer pauses at it.
    first: Signal,
    second: Signal,
}

impl Signals {
    fn new() -> Signals {
        let listen = |kind| signal(kind).expect("signals are enabled on this runtime");
        Signals {
            term: listen(SignalKind::terminate()),
            interrupt: listen(SignalKind::interrupt()),
            quit: listen(SignalKind::quit()),
            hangup: listen(SignalKind::hangup()),
            first: listen(SignalKind::user_defined1()),
            second: listen(SignalKind::user_defined2()),
        }
    }

    /// Waits for a signal to stop, and passes over others but SIGHUP.
    ///
    /// # Cancel safety
    /// A signal that has come is kept.
    async fn told_to_stop(&mut self, shared: &Shared) -> Shutdown {
        loop {
            if let Told::Stop(shutdown) = self.told(shared).await {
                return shutdown;
            }
        }
    }

    /// Waits for SIGTERM, SIGINT, SIGQUIT or SIGUSR2; reloads at SIGHUP meanwhile.
    ///
    /// # Cancel safety
    /// A signal that has come is kept.
    async fn told(&mut self, shared: &Shared) -> Told {
        loop {
            tokio::select! {
                _ = self.term.recv() => return Told::Stop(Shutdown::WaitForServers),
                _ = self.interrupt.recv() => return Told::Stop(Shutdown::WaitForServers),
                _ = self.quit.recv() => return Told::Stop(Shutdown::Now),
                _ = self.second.recv() => return Told::Upgrade(None),
                _ = self.first.recv() => {
                    tracing::warn!("SIGUSR1 is not for pglagoon: PAUSE and RESUME are commands of the console");
                }
                _ = self.hangup.recv() => match shared.reload() {
                    Ok(what) => tracing::info!(%what, "configuration reloaded"),
                    Err(error) => tracing::error!(%error, "configuration not reloaded"),
                },
            }
        }
    }
}

/// Lets clients end what they are in the midst of, for as long as `patience` lasts.
async fn drain(shared: &Shared, shutdown: Shutdown, patience: Duration) {
    let clients = &shared.frontend.clients;
    tracing::info!(clients = clients.connected(), "draining: no new clients are taken");
    shared.phase.send_replace(Phase::Draining);
    if shutdown == Shutdown::Now {
        return dismiss(clients).await;
    }
    let deadline = Instant::now() + patience;
    // Who sits in the console watches, and who is still logging in has nothing to lose.
    while clients.in_service() > 0 {
        if shutdown == Shutdown::WaitForServers {
            clients.all().iter().for_each(|card| card.command(Order::Drain));
            if Instant::now() >= deadline {
                tracing::warn!(clients = clients.in_service(), "drain_timeout is over: closing what is left");
                return dismiss(clients).await;
            }
        }
        tokio::time::sleep(DRAIN_POLL).await;
    }
    tracing::info!("drained");
}

/// Tells every client why it has to go, and gives it a moment to hear it.
async fn dismiss(clients: &Clients) {
    clients.all().iter().for_each(|card| card.command(Order::Kill));
    let deadline = Instant::now() + GOODBYE;
    while clients.in_service() > 0 && Instant::now() < deadline {
        tokio::time::sleep(DRAIN_POLL).await;
    }
}

impl Shared {
    /// Who waits for a server that hangs is woken by nothing that it says.
    fn look_after_those_who_wait(&self) {
        let now = Instant::now();
        // Each is to note what it has seen.
        let lost = self.frontend.directory.clusters().iter().filter(|one| one.has_lost_contact(now)).count();
        if lost > 0 {
            self.frontend.clients.all().iter().for_each(|card| card.command(Order::Look));
        }
    }

    /// Waits until every section's primary is known, but not for long: clients that come before it is would have to wait.
    async fn get_acquainted(&self) {
        let is_known =
            |cluster: &Arc<Cluster>| cluster.nodes().iter().any(|node| node.standing() == Standing::Primary);
        let deadline = Instant::now() + ACQUAINTANCE;
        while !self.frontend.directory.clusters().iter().all(is_known) && Instant::now() < deadline {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    }

    /// What operators have said that the next process shall hold to.
    ///
    /// # Errors
    /// A switchover is under way: whoever waits for it waits here.
    fn standing_orders(&self) -> Result<StandingOrders, String> {
        let all_paused = self.frontend.directory.is_paused();
        let mut standing = StandingOrders { all_paused, ..StandingOrders::default() };
        for database in self.frontend.directory.databases() {
            let name = database.name.to_string();
            if database.switchover().is_some() {
                return Err(format!("a switchover of database \"{name}\" is under way"));
            }
            if database.admission() == Admission::Refused {
                standing.disabled.push(name.clone());
            }
            match database.is_paused() {
                true => standing.paused.push(name),
                false if all_paused => standing.resumed.push(name),
                false => {}
            }
        }
        for section in self.frontend.directory.sections() {
            let detached = section.cluster.nodes().iter().filter(|node| node.is_detached());
            let names = detached.map(|node| (section.name.clone(), node.address.to_string()));
            standing.detached.extend(names);
            let past = section.cluster.past();
            standing.timelines.extend(past.map(|(system, line)| (section.name.clone(), system, line)));
            let rivals = section.cluster.rivals().into_iter();
            standing
                .rivals
                .extend(rivals.map(|(address, line)| (section.name.clone(), address.to_string(), line)));
        }
        Ok(standing)
    }

    /// Does what operators have said to the process before. What is not configured any more is passed over.
    fn obey(&self, standing: &StandingOrders) {
        let directory = &self.frontend.directory;
        let find =
            |names: &[String]| names.iter().filter_map(|name| directory.find(name)).collect::<Vec<_>>();
        if standing.all_paused {
            directory.pause();
        }
        find(&standing.resumed).iter().for_each(|database| database.resume(operate::NOWHERE));
        find(&standing.paused).iter().for_each(|database| database.pause());
        find(&standing.disabled).iter().for_each(|database| database.admit(Admission::Refused));
        for section in directory.sections() {
            let (name, cluster) = (&section.name, &section.cluster);
            let past = standing.timelines.iter().find(|(section, ..)| section == name);
            past.iter().for_each(|(_, system, timeline)| cluster.recall((*system, *timeline)));
            for (index, node) in cluster.nodes().iter().enumerate() {
                let name = (name.clone(), node.address.to_string());
                if standing.detached.contains(&name) {
                    cluster.detach(index);
                }
                let rival = standing
                    .rivals
                    .iter()
                    .find(|(section, server, _)| (section, server) == (&name.0, &name.1));
                rival.iter().for_each(|(.., timeline)| cluster.recall_rival(index, *timeline));
            }
        }
    }

    /// Reads the configuration again. Answers what changed.
    fn reload(&self) -> Result<String, String> {
        self.systemd.reloading();
        let reloaded = self.read_again();
        self.systemd.ready();
        reloaded
    }

    fn read_again(&self) -> Result<String, String> {
        let old = self.frontend.access.load().config.clone();
        let mut new = config::load(&self.file, runtime::cores())
            .map_err(|errors| ServeError::Config(errors).to_string())?;
        let changes = Changes::between(&old, &new);
        new.keep_until_restart(&old);
        let new = Arc::new(new);
        let access = access(&new, seed(&self.secrets)).map_err(|error| error.to_string())?;
        let moved = self.frontend.directory.apply(&new).map_err(|error| error.to_string())?;
        self.frontend.access.store(Arc::new(access));
        for card in self.frontend.clients.all() {
            if !new.may_be_user(&card.user, &card.database) {
                card.command(Order::Expel);
            } else if moved.contains(&card.database) {
                card.command(Order::Move);
            }
        }
        changes.restart.iter().for_each(|restart| tracing::warn!("{}", restart.sentence));
        Ok(summary(&changes))
    }
}

fn summary(changes: &Changes) -> String {
    if changes.is_empty() {
        return "no setting has changed; certificates were read again".into();
    }
    let mut parts: Vec<String> = changes.restart.iter().map(|restart| restart.sentence.to_string()).collect();
    let lists = [
        ("databases added", &changes.databases_added),
        ("databases removed", &changes.databases_removed),
        ("databases reconnected", &changes.databases_reconnected),
        ("databases with new settings", &changes.databases_resettled),
        ("users added", &changes.users_added),
        ("users removed", &changes.users_removed),
        ("users changed", &changes.users_changed),
        ("users with new settings", &changes.users_resettled),
    ];
    let named = lists.iter().filter(|(_, names)| !names.is_empty());
    parts.extend(named.map(|(what, names)| format!("{what}: {}", names.join(", "))));
    if !changes.settings.is_empty() {
        parts.push(format!("settings: {}", changes.settings.join(", ")));
    }
    parts.join("; ")
}

/// Each client and each server connection takes a descriptor: as many are asked for as the system allows.
fn raise_descriptor_limit(config: &Config) {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) if limit < config.listen.max_clients as u64 + 100 => tracing::warn!(
            limit,
            max_clients = config.listen.max_clients,
            "the limit of open files is too low for listen.max_clients clients and their servers"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
    }
}

fn setup(what: &str, error: &dyn fmt::Display) -> ServeError {
    ServeError::Setup(format!("{what}: {error}"))
}
