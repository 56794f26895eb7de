//! Assembly: the only place that constructs the rooms and hands them to each other; signals and the drain.
//!
//! ```text
//!   serve: rooms -> workers -> listeners, HTTP, housekeeping -> signals
//!   SIGTERM, SIGINT: no new clients; idle ones are told goodbye, transactions end within drain_timeout; exit 0
//!   the same again: at once          SIGHUP: the configuration is read again
//! ```

mod operate;
mod switchover;
mod view;

use crate::admin::{self, Console, Shutdown};
use crate::auth::{KeyRing, Seed};
use crate::cluster::Directory;
use crate::config::{self, Changes, Config, ConfigError};
use crate::frontend::clients::{Clients, Order};
use crate::frontend::listener::Listener;
use crate::frontend::{Access, Frontend};
use crate::net::Acceptor;
use crate::runtime::{self, Workers};
use arc_swap::ArcSwap;
use operate::Controls;
use socket2::{Domain, Protocol, Socket, Type};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use view::View;

/// How often pools are looked through for what has lasted too long.
const SWEEP: Duration = Duration::from_millis(100);

/// How often the drain looks whether everybody has left.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// How long clients that outlast the drain have to take their goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Connections that the kernel holds for us before we accept them.
const BACKLOG: i32 = 4096;

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
    seed: [u8; 32],
    started: SystemTime,
    draining: watch::Sender<Option<Shutdown>>,
}

/// Serves until told to stop.
///
/// # Errors
/// What keeps it from starting; once it serves, it ends by signal or console alone.
pub fn serve(file: &Path, config: Config) -> Result<(), ServeError> {
    let config = Arc::new(config);
    raise_descriptor_limit(&config);
    let process = runtime::process().map_err(|error| setup("the runtime", &error))?;
    let mut secrets = [0; 48];
    getrandom::fill(&mut secrets).map_err(|error| setup("random bytes", &error))?;
    let (seed, key) = secrets.split_first_chunk::<32>().expect("48 bytes are 32 and 16");
    let key: [u8; 16] = key.try_into().expect("48 bytes are 32 and 16");
    let _guard = process.enter();
    let (shared, controls) = assemble(file, &config, *seed, key, process.handle().clone())?;
    let listeners = listeners(&config)?;
    let http = config.http.as_ref().map(|http| bind(http.address)).transpose()?;
    let workers = Workers::start(config.listen.workers, key, &shared.frontend)
        .map_err(|error| setup("worker threads", &error))?;
    process.block_on(run(shared, controls, listeners, http, &workers));
    drop(_guard);
    workers.stop();
    remove_socket_file(&config);
    process.shutdown_background();
    Ok(())
}

fn assemble(
    file: &Path,
    config: &Arc<Config>,
    seed: [u8; 32],
    key: [u8; 16],
    handle: tokio::runtime::Handle,
) -> Result<(Arc<Shared>, mpsc::UnboundedReceiver<Shutdown>), ServeError> {
    let directory = Directory::new(config, config.listen.workers, key, handle)
        .map_err(|error| setup("TLS towards servers", &error))?;
    let access = access(config, seed).map_err(|error| setup("TLS towards clients", &error))?;
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
            }),
            file: file.to_owned(),
            seed,
            started: SystemTime::now(),
            draining: watch::Sender::new(None),
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
    shared: Arc<Shared>,
    mut orders: mpsc::UnboundedReceiver<Shutdown>,
    listeners: Vec<Listener>,
    http: Option<TcpListener>,
    workers: &Workers,
) {
    let view: Arc<dyn admin::Observed> = Arc::new(View::new(Arc::downgrade(&shared)));
    let (ended, over) = watch::channel(false);
    let endpoints = async {
        match http {
            None => std::future::pending().await,
            Some(listener) => {
                let mut over = over.clone();
                admin::http::serve(listener, view, async move { drop(over.wait_for(|over| *over).await) })
                    .await;
            }
        }
    };
    let config = shared.frontend.access.load().config.clone();
    let addresses: Vec<_> = config.listen.addresses.iter().map(ToString::to_string).collect();
    tracing::info!(
        addresses = %addresses.join(", "), workers = config.listen.workers, version = env!("CARGO_PKG_VERSION"),
        "pglagoon is ready for clients"
    );
    let accepting = accept(listeners, workers, shared.draining.subscribe());
    let stopping = async {
        let shutdown = tokio::select! {
            shutdown = signalled(&shared) => shutdown,
            Some(shutdown) = orders.recv() => shutdown,
        };
        let patience = config.drain_timeout;
        tokio::select! {
            () = drain(&shared, shutdown, patience) => {}
            _ = signalled(&shared) => tracing::warn!("told to stop a second time: ending at once"),
        }
        let _ = ended.send(true);
    };
    // Every branch but `stopping` lasts as long as the process; what it ends, it ends by being dropped.
    tokio::select! {
        () = stopping => {}
        () = accepting => {}
        () = endpoints => {}
        () = sweep(&shared) => {}
    }
}

/// Accepts until the drain begins; then the listening sockets are closed.
async fn accept(
    listeners: Vec<Listener>,
    workers: &Workers,
    mut draining: watch::Receiver<Option<Shutdown>>,
) {
    let mut accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| Box::pin(listener.run(|accepted| workers.hand_over(accepted))))
        .collect();
    let all = std::future::poll_fn(|cx| {
        for listener in &mut accepting {
            let _ = listener.as_mut().poll(cx);
        }
        std::task::Poll::<()>::Pending
    });
    tokio::select! {
        () = all => {}
        _ = draining.wait_for(Option::is_some) => {}
    }
    drop(accepting);
    std::future::pending().await
}

async fn sweep(shared: &Shared) {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        shared.frontend.directory.sweep(Instant::now());
        shared.frontend.console.sample(Instant::now());
    }
}

/// Waits for SIGTERM or SIGINT; reloads at SIGHUP meanwhile.
async fn signalled(shared: &Shared) -> Shutdown {
    let listen = |kind| signal(kind).expect("signals are enabled on this runtime");
    let (mut term, mut interrupt, mut hangup) =
        (listen(SignalKind::terminate()), listen(SignalKind::interrupt()), listen(SignalKind::hangup()));
    loop {
        tokio::select! {
            _ = term.recv() => return Shutdown::WaitForServers,
            _ = interrupt.recv() => return Shutdown::WaitForServers,
            _ = hangup.recv() => match shared.reload() {
                Ok(what) => tracing::info!(%what, "configuration reloaded"),
                Err(error) => tracing::error!(%error, "configuration not reloaded"),
            },
        }
    }
}

/// Lets clients end what they are in the midst of, for as long as `patience` lasts.
async fn drain(shared: &Shared, shutdown: Shutdown, patience: Duration) {
    if shutdown == Shutdown::Now {
        return;
    }
    let clients = &shared.frontend.clients;
    tracing::info!(clients = clients.connected(), "draining: no new clients are taken");
    let _ = shared.draining.send(Some(shutdown));
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
    /// Reads the configuration again. Answers what changed.
    fn reload(&self) -> Result<String, String> {
        let old = self.frontend.access.load().config.clone();
        let cores = old.listen.workers;
        let new = config::load(&self.file, cores).map_err(|errors| ServeError::Config(errors).to_string())?;
        let new = Arc::new(new);
        let changes = Changes::between(&old, &new);
        let access = access(&new, self.seed).map_err(|error| error.to_string())?;
        let moved = self.frontend.directory.apply(&new).map_err(|error| error.to_string())?;
        self.frontend.access.store(Arc::new(access));
        for card in self.frontend.clients.all() {
            if changes.users_removed.iter().any(|user| **user == *card.user) {
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
    ];
    let named = lists.iter().filter(|(_, names)| !names.is_empty());
    parts.extend(named.map(|(what, names)| format!("{what}: {}", names.join(", "))));
    if !changes.settings.is_empty() {
        parts.push(format!("settings: {}", changes.settings.join(", ")));
    }
    parts.join("; ")
}

fn listeners(config: &Config) -> Result<Vec<Listener>, ServeError> {
    let mut listeners = Vec::new();
    for address in &config.listen.addresses {
        listeners.push(Listener::Tcp(bind(*address)?));
    }
    if let Some(unix) = &config.listen.unix {
        listeners.push(Listener::Unix(bind_unix(unix)?));
    }
    Ok(listeners)
}

fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let bound = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    bound().map_err(|error| ServeError::Setup(format!("cannot listen on {address}: {error}")))
}

fn bind_unix(unix: &config::UnixListen) -> Result<UnixListener, ServeError> {
    let path = socket_path(unix);
    let bound = || -> io::Result<UnixListener> {
        // A file without a listener behind it is left over from a crash.
        if std::os::unix::net::UnixStream::connect(&path).is_err() {
            let _ = std::fs::remove_file(&path);
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(unix.mode))?;
        Ok(listener)
    };
    bound().map_err(|error| ServeError::Setup(format!("cannot listen on {}: {error}", path.display())))
}

fn socket_path(unix: &config::UnixListen) -> PathBuf {
    unix.directory.join(config::values::socket_file(unix.port))
}

fn remove_socket_file(config: &Config) {
    if let Some(unix) = &config.listen.unix {
        let _ = std::fs::remove_file(socket_path(unix));
    }
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
