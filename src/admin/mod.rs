//! What operators see and do: the virtual database `pglagoon` and the HTTP endpoints.
//!
//! This room does not know how the server is put together. It shows plain rows that [`Observed`] hands out and passes
//! orders to [`Operated`]; the assembly implements both. [`tables`] and [`exposition`] turn rows into SHOW results and
//! Prometheus text, [`console`] speaks the protocol, [`http`] serves the endpoints. Everything but the two `serve`
//! functions is pure.

pub mod console;
pub mod exposition;
#[cfg(test)]
mod fake;
pub mod http;
pub mod tables;

pub use console::Console;

use crate::config::{Database, PoolMode, ServerAddress, UserRules};
use crate::error::Report;
use crate::metrics::Stats;
use crate::routing::{Lsn, Role};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What can be seen of a running pglagoon. Each method takes a snapshot; none may wait for a peer.
pub trait Observed: Send + Sync {
    /// The process as a whole.
    fn process(&self) -> Process;
    /// One row for each database and user that has a pool.
    fn pools(&self) -> Vec<PoolRow>;
    /// One row for each client connection that is logged in.
    fn clients(&self) -> Vec<ClientRow>;
    /// One row for each server connection.
    fn servers(&self) -> Vec<ServerRow>;
    /// One row for each server of each configured database.
    fn nodes(&self) -> Vec<NodeRow>;
    /// One row for each configured database, and for each name in use that the wildcard serves.
    fn databases(&self) -> Vec<DatabaseRow>;
    /// One row for each known user.
    fn users(&self) -> Vec<UserRow>;
    /// The counters, one row for each database and user, merged over the workers.
    fn stats(&self) -> Vec<StatsRow>;
    /// Logins that were refused, by SQLSTATE; there are not many of these.
    fn refusals(&self) -> Vec<(String, u64)>;
    /// The general part of the effective configuration, without secrets.
    fn config(&self) -> Vec<ConfigRow>;
    /// Which databases can be served.
    fn readiness(&self) -> Readiness;
}

/// What an [`Operation`] answers when it is done: a text for the operator (may be empty), or why it failed.
pub type Pending = Pin<Box<dyn Future<Output = Result<String, Report>> + Send>>;

/// What can be done to a running pglagoon.
pub trait Operated: Send + Sync {
    /// Begins an operation; the answer comes when it is done. An operation whose answer is dropped goes on.
    fn operate(&self, operation: Operation) -> Pending;
}

/// An order of an operator; the console has checked the privilege.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// No server connection is handed out any more; done when all are released.
    Pause(Scope),
    /// Undoes a pause.
    Resume(Scope),
    /// Reads the configuration again.
    Reload,
    /// Every server connection is replaced, when it is free.
    Reconnect(Scope),
    /// Done when all connections from before the last RECONNECT are gone.
    WaitClose(Scope),
    /// No new clients.
    Disable(String),
    /// New clients again.
    Enable(String),
    /// Every client and server connection goes at once; new clients wait for RESUME.
    Kill(Scope),
    /// Takes a server, by its address, out of service.
    Detach(String),
    /// As DETACH; done when no client holds a connection to it any more.
    Drain(String),
    /// Puts a server back into service. Of one that is in service: it may be primary, though another has been since.
    Attach(String),
    /// Holds a database's clients until a server is its primary.
    Switchover {
        /// The database, by the name that clients ask for.
        database: String,
        /// The server, by its address.
        server: String,
        /// How long that may take altogether; without it `checkout_timeout`.
        timeout: Option<Duration>,
    },
    /// Disconnects the client with this [`Connection::id`].
    KillClient(u64),
    /// Lets another process of the program as it is now take over; done when that serves.
    Upgrade,
    /// Ends the process.
    Shutdown(Shutdown),
}

/// What a PAUSE or RESUME speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every database.
    All,
    /// One database, by the name that clients ask for.
    Database(String),
}

/// When the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// At once.
    Now,
    /// When the running transactions have ended, as at SIGTERM.
    WaitForServers,
    /// When the last client has left; no new ones are taken.
    WaitForClients,
}

/// What a console user may do. A higher one includes the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rights {
    /// SHOW.
    Stats,
    /// Every command.
    Admin,
}

/// The process as a whole.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    /// When it began to serve.
    pub started: SystemTime,
    /// What it does at the moment.
    pub state: State,
    /// Clients that are logged in.
    pub clients: usize,
    /// Those of them that are in the console.
    pub in_console: usize,
    /// Clients that are connected but not yet logged in.
    pub logging_in: usize,
    /// Clients of those logged in that have been silent for a while.
    pub asleep: usize,
    /// `listen.max_clients`.
    pub max_clients: usize,
}

/// What the process does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Serves.
    Active,
    /// Every database is paused.
    Paused,
    /// Takes no new clients and waits for transactions to end.
    Draining,
}

/// One pool: the clients of one database and user, and their server connections on each server.
#[derive(Debug, Clone)]
pub struct PoolRow {
    /// The database that the clients asked for.
    pub database: String,
    /// The clients' user.
    pub user: String,
    /// The pool mode.
    pub mode: PoolMode,
    /// Clients that are logged in, those that wait included.
    pub clients: usize,
    /// Clients that keep a server connection beyond their transactions, by what keeps it: to be added up.
    pub pinned: Vec<(&'static str, usize)>,
    /// Server connections of clients that replicate.
    pub replication: usize,
    /// The pool's parts on servers: to be added up.
    pub shares: Vec<PoolShare>,
}

impl PoolRow {
    /// Counts another as part of this one.
    pub fn add(&mut self, other: PoolRow) {
        self.clients += other.clients;
        self.replication += other.replication;
        self.pinned.extend(other.pinned);
        self.shares.extend(other.shares);
    }
}

/// A pool's part on one server.
#[derive(Debug, Clone)]
pub struct PoolShare {
    /// The server.
    pub server: ServerAddress,
    /// Its role, if known.
    pub role: Option<Role>,
    /// Server connections allowed.
    pub size: usize,
    /// Held by clients.
    pub in_use: usize,
    /// Ready to be handed out.
    pub idle: usize,
    /// Being reset, drained or checked before reuse.
    pub resetting: usize,
    /// Connecting or logging in.
    pub connecting: usize,
    /// Clients that wait.
    pub waiting: usize,
    /// How long the first of them has been waiting.
    pub oldest_wait: Option<Duration>,
}

/// One end of a connection as SHOW prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// IP address, or `unix`.
    pub address: String,
    /// Port; 0 where there is none.
    pub port: u16,
}

impl Endpoint {
    /// The end of a Unix-domain connection.
    pub fn unix() -> Self {
        Endpoint { address: "unix".into(), port: 0 }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Endpoint { address: address.ip().to_string(), port: address.port() }
    }
}

/// What clients and server connections have in common.
#[derive(Debug, Clone)]
pub struct Connection {
    /// A number that no other connection of its kind has had in this process.
    pub id: u64,
    /// The user.
    pub user: String,
    /// The database.
    pub database: String,
    /// The other end.
    pub peer: Endpoint,
    /// This end.
    pub local: Endpoint,
    /// When it was made.
    pub connected: SystemTime,
    /// When its last request began, if there was one.
    pub requested: Option<SystemTime>,
    /// The id of the connection of the other kind that it is linked with.
    pub link: Option<u64>,
    /// Protocol version and cipher, as `TLSv1.3/TLS_AES_256_GCM_SHA384`; empty without TLS.
    pub tls: String,
    /// The client's application_name; may be empty.
    pub application_name: String,
    /// Whether it replicates: `none`, `physical`, `logical`.
    pub replication: &'static str,
    /// Prepared statements known on it.
    pub prepared_statements: usize,
}

/// One client.
#[derive(Debug, Clone)]
pub struct ClientRow {
    /// The connection.
    pub connection: Connection,
    /// What it does.
    pub state: ClientState,
    /// How long it has been waiting for a server connection, if it does.
    pub wait: Option<Duration>,
    /// The server whose connection it holds.
    pub server: Option<ServerAddress>,
    /// Why it keeps that connection beyond its transaction, if it does.
    pub held: Option<&'static str>,
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientState {
    /// Holds a server connection.
    Active,
    /// Between transactions.
    Idle,
    /// Waits for a server connection.
    Waiting,
}

impl ClientState {
    fn as_str(self) -> &'static str {
        match self {
            ClientState::Active => "active",
            ClientState::Idle => "idle",
            ClientState::Waiting => "waiting",
        }
    }
}

/// One server connection.
#[derive(Debug, Clone)]
pub struct ServerRow {
    /// The connection; `peer` is the server.
    pub connection: Connection,
    /// What it does.
    pub state: ServerState,
    /// The server's role, if known.
    pub role: Option<Role>,
    /// The server process, as its BackendKeyData said.
    pub remote_pid: i32,
    /// Whether it will be closed instead of going back to the pool.
    pub close_needed: bool,
}

/// What a server connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// Held by a client.
    Active,
    /// Ready to be handed out.
    Idle,
    /// Being reset or checked.
    Tested,
}

impl ServerState {
    fn as_str(self) -> &'static str {
        match self {
            ServerState::Active => "active",
            ServerState::Idle => "idle",
            ServerState::Tested => "tested",
        }
    }
}

/// One server as its monitor sees it.
#[derive(Debug, Clone)]
pub struct NodeRow {
    /// The section of the configuration that names it: `app`, or `*`.
    pub database: String,
    /// Where it listens.
    pub server: ServerAddress,
    /// What it is, if known.
    pub role: Option<Role>,
    /// Whether it is used.
    pub health: Health,
    /// For how long that has been so.
    pub since: Duration,
    /// Why it is not healthy; empty if it is.
    pub why: String,
    /// How far a replica's replay lies behind the primary.
    pub lag_bytes: Option<u64>,
    /// How old a replica's newest replayed commit is, or 0 if it has replayed everything.
    pub lag: Option<Duration>,
    /// How long it takes to answer a read; `None` before it has answered one.
    pub pace: Option<Duration>,
    /// The primary's write position, or what a replica has replayed.
    pub position: Option<Lsn>,
    /// The timeline of that position.
    pub timeline: Option<u32>,
    /// How often it was asked for a position because reads hung on it.
    pub questions: u64,
}

/// Whether a server is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Answers, and may be used.
    Healthy,
    /// Answers, but lags too far behind to be read from.
    Lagging,
    /// Does not answer, or refuses.
    Down,
    /// Not asked yet.
    Unknown,
}

impl Health {
    /// The word in SHOW.
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Lagging => "lagging",
            Health::Down => "down",
            Health::Unknown => "unknown",
        }
    }
}

/// One database.
#[derive(Debug, Clone)]
pub struct DatabaseRow {
    /// The name that clients ask for, or `*`.
    pub name: String,
    /// Its settings.
    pub rules: Arc<Database>,
    /// Clients that are logged in to it.
    pub clients: usize,
    /// Its server connections.
    pub servers: usize,
    /// Those of them that count against `pool.max_db_connections`, of each server, if there is such a limit.
    pub counted: Vec<(ServerAddress, usize)>,
    /// Those that are held while there is no server for their request.
    pub held: usize,
    /// Clients that hear notifications by the shared listener.
    pub listeners: usize,
    /// Notifications that they were given.
    pub notifications: u64,
    /// Whether it is paused.
    pub paused: bool,
    /// Whether it takes no new clients.
    pub disabled: bool,
    /// The server whose promotion is waited for.
    pub switchover: Option<String>,
}

/// One user.
#[derive(Debug, Clone)]
pub struct UserRow {
    /// The name.
    pub name: String,
    /// What holds for it instead of what databases say.
    pub rules: UserRules,
    /// How many clients it may have.
    pub max_clients: Option<usize>,
    /// Clients that are logged in with it.
    pub clients: usize,
    /// Server connections made for it.
    pub servers: usize,
}

/// The counters of one database and user.
#[derive(Debug, Clone)]
pub struct StatsRow {
    /// The database.
    pub database: String,
    /// The user.
    pub user: String,
    /// The counters.
    pub stats: Stats,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigRow {
    /// The key with its section: `pool.size`.
    pub key: String,
    /// The value as the file would say it; never a secret.
    pub value: String,
    /// The value without a line in the file.
    pub default: String,
    /// Whether RELOAD applies a change.
    pub changeable: bool,
}

/// Which databases can be served.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    /// Configured databases and what can be said of them.
    pub databases: Vec<DatabaseReadiness>,
}

/// What can be said of one database.
#[derive(Debug, Clone)]
pub struct DatabaseReadiness {
    /// Its name, or `*`.
    pub name: String,
    /// How far it can be served.
    pub standing: Standing,
    /// Why it is not `Ready`; empty if it is.
    pub why: String,
}

/// How far a database can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Reads and writes.
    Ready,
    /// In part: no primary for writes, or no replica where reads should go to replicas.
    Degraded,
    /// By nobody before RESUME.
    Paused,
    /// Not at all.
    Unavailable,
}

impl Standing {
    fn as_str(self) -> &'static str {
        match self {
            Standing::Ready => "ready",
            Standing::Degraded => "degraded",
            Standing::Paused => "paused",
            Standing::Unavailable => "unavailable",
        }
    }
}
