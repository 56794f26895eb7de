//! Configuration: a TOML file becomes a [`Config`], or a list of errors that each name their key. Pure.
//!
//! ```text
//! text --raw: sections, all mistakes--> check: readers of each key -> Config --warnings--> what is worth saying
//! auth_file --userlist----------------^                               Config, Config --diff--> what a reload changes
//! ```
//! `keys.rs` is the table of all keys, from which `config/reference.toml` is made. After [`parse`] there is nothing left
//! to validate: durations, sizes, counts, secrets and addresses are parsed, and no number means "off".

mod check;
pub mod diff;
pub mod keys;
mod load;
mod raw;
mod syntax;
pub mod userlist;
pub mod values;
mod warnings;

pub use check::parse;
pub use diff::Changes;
pub use load::load;
pub use raw::{ConfigError, Place};
pub use warnings::warnings;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The names under which the console can be opened, like a database.
pub const VIRTUAL_DATABASES: [&str; 2] = ["pglagoon", "pgbouncer"];

/// The whole configuration, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where and how clients connect.
    pub listen: Listen,
    /// The HTTP endpoints, if any.
    pub http: Option<Http>,
    /// How clients prove who they are.
    pub auth: Auth,
    /// Users by name, from `[users.*]` and `auth_file` (the file loses where both name one).
    pub users: BTreeMap<String, User>,
    /// What holds for some users instead of what databases say; they need not be among `users`.
    pub user_rules: Arc<BTreeMap<String, UserRules>>,
    /// Who may open the virtual database.
    pub admin: Admin,
    /// Databases by the name that clients ask for, without the wildcard.
    pub databases: BTreeMap<String, Arc<Database>>,
    /// `[databases."*"]`: any other name.
    pub any_database: Option<Arc<Database>>,
    /// How pglagoon looks after its servers.
    pub monitor: Monitor,
    /// What is logged, and how.
    pub log: Log,
    /// How long running transactions may take to end at SIGTERM.
    pub drain_timeout: Duration,
    /// The general keys by their paths, with what holds as people are shown it; no secrets.
    pub shown: BTreeMap<String, String>,
}

impl Config {
    /// How a user is looked up who wants this database. `None`: he is configured, or only those who are may come in, as to the
    /// console.
    pub fn lookup_of(&self, user: &str, database: &str) -> Option<&Lookup> {
        let lookup = self.auth.lookup.as_ref()?;
        (!self.users.contains_key(user) && !VIRTUAL_DATABASES.contains(&database)).then_some(lookup)
    }

    /// Whether he may be let in: he is configured, or may be known to a server.
    pub fn may_be_user(&self, user: &str, database: &str) -> bool {
        self.users.contains_key(user) || self.lookup_of(user, database).is_some()
    }

    /// Clients that the user may have at once, over all databases, if that is limited.
    pub fn max_clients_of(&self, user: &str) -> Option<usize> {
        self.own_max_clients(user).unwrap_or(self.listen.max_user_clients)
    }

    /// The key that says so.
    pub fn max_clients_key(&self, user: &str) -> String {
        match self.own_max_clients(user) {
            Some(_) => format!("users.{user}.max_clients"),
            None => "listen.max_user_clients".to_owned(),
        }
    }

    fn own_max_clients(&self, user: &str) -> Option<Option<usize>> {
        self.user_rules.get(user)?.max_clients
    }
}

/// Where clients connect.
#[derive(Debug, Clone, PartialEq)]
pub struct Listen {
    /// TCP addresses.
    pub addresses: Vec<SocketAddr>,
    /// Unix-domain socket: its directory and the port that names the file (`DIR/.s.PGSQL.PORT`).
    pub unix: Option<UnixListen>,
    /// Client connections at once, over all addresses; more are refused with 53300.
    pub max_clients: usize,
    /// Clients of one user at once, over all databases, if the user has no limit of its own and there is one.
    pub max_user_clients: Option<usize>,
    /// Worker threads, already resolved: at least one.
    pub workers: usize,
    /// Whether messages may go to the kernel together, by io_uring.
    pub io_uring: bool,
    /// Time from accept to a finished login.
    pub login_timeout: Duration,
    /// Idle time after which a client outside a transaction is disconnected, if ever.
    pub client_idle_timeout: Option<Duration>,
    /// TLS towards clients.
    pub tls: ClientTls,
    /// The largest message that must be held whole (startup, Query, Parse), in bytes. Larger ones of other kinds stream.
    pub max_message: usize,
}

/// A Unix-domain listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixListen {
    /// The directory of the socket file.
    pub directory: PathBuf,
    /// The port in the file's name.
    pub port: u16,
    /// The file's permission bits.
    pub mode: u32,
}

/// TLS towards clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// `Disable`, `Prefer` (offered), `Require`, `VerifyCa` or `VerifyFull` (client certificates; full: CN is the user).
    pub mode: TlsMode,
    /// Certificate chain, PEM.
    pub cert_file: Option<PathBuf>,
    /// Private key, PEM.
    pub key_file: Option<PathBuf>,
    /// Authorities for client certificates, PEM.
    pub ca_file: Option<PathBuf>,
}

/// TLS towards servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// What is asked of the server, as libpq's `sslmode`.
    pub mode: TlsMode,
    /// Authorities for server certificates, PEM.
    pub ca_file: Option<PathBuf>,
    /// Our certificate chain, PEM.
    pub cert_file: Option<PathBuf>,
    /// Our private key, PEM.
    pub key_file: Option<PathBuf>,
}

/// As libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never TLS.
    Disable,
    /// TLS where the other side has it.
    Prefer,
    /// TLS or no connection; the certificate is not checked.
    Require,
    /// TLS with a certificate of a known authority.
    VerifyCa,
    /// As `VerifyCa`, and the name must fit.
    VerifyFull,
}

/// The HTTP listener for `/metrics`, `/health` and `/ready`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Its address.
    pub address: SocketAddr,
}

/// How clients prove who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// The method asked of every client.
    pub method: AuthMethod,
    /// PgBouncer's userlist.txt, if any.
    pub auth_file: Option<PathBuf>,
    /// How users are found that are not configured, if they are.
    pub lookup: Option<Lookup>,
}

/// Whom a server is asked about, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// Who asks: a user of the configuration.
    pub user: String,
    /// The query; its parameter is the name, the last column of its row what the server has stored.
    pub query: String,
    /// The database in which it is asked, if not the one that the client wants.
    pub database: Option<String>,
}

/// The authentication methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// Any known user name is believed.
    Trust,
    /// MD5 challenge; users with a SCRAM verifier are asked for SCRAM instead.
    Md5,
    /// SCRAM-SHA-256; needs a plain password or a verifier.
    ScramSha256,
    /// The password in clear text.
    Password,
    /// A client certificate whose CN is the user name.
    Cert,
}

impl AuthMethod {
    /// Whether clients show a password, or that they know it.
    pub fn asks_for_password(self) -> bool {
        match self {
            AuthMethod::Md5 | AuthMethod::ScramSha256 | AuthMethod::Password => true,
            AuthMethod::Trust | AuthMethod::Cert => false,
        }
    }

    /// The word in the configuration and in SHOW.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthMethod::Trust => "trust",
            AuthMethod::Md5 => "md5",
            AuthMethod::ScramSha256 => "scram-sha-256",
            AuthMethod::Password => "password",
            AuthMethod::Cert => "cert",
        }
    }
}

/// A user that may log in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// What the user's password is checked against; `None` never matches (but `trust` and `cert` need none).
    pub secret: Option<Secret>,
}

/// What holds for a user instead of what databases say, as far as it is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserRules {
    /// What the user's reads may return.
    pub consistency: Option<Consistency>,
    /// Clients at once, over all databases, if there is such a limit.
    pub max_clients: Option<Option<usize>>,
    /// When a server connection goes back to the pool.
    pub mode: Option<PoolMode>,
    /// Server connections per database and server.
    pub size: Option<usize>,
    /// How many of them are kept.
    pub min_size: Option<usize>,
    /// So many more while a client has waited.
    pub reserve_size: Option<usize>,
    /// How long a transaction may sit idle, if that is limited.
    pub idle_transaction_timeout: Option<Option<Duration>>,
    /// How long a transaction may last, if that is limited.
    pub transaction_timeout: Option<Option<Duration>>,
    /// How long one query may run, if that is limited.
    pub query_timeout: Option<Option<Duration>>,
}

impl UserRules {
    fn of_pool(&self, pool: &Pool) -> Pool {
        let size = self.size.unwrap_or(pool.size);
        Pool {
            mode: self.mode.unwrap_or(pool.mode),
            size,
            // What a larger pool keeps may be more than this one may have.
            min_size: self.min_size.unwrap_or(pool.min_size).min(size),
            reserve_size: self.reserve_size.unwrap_or(pool.reserve_size),
            idle_transaction_timeout: self.idle_transaction_timeout.unwrap_or(pool.idle_transaction_timeout),
            transaction_timeout: self.transaction_timeout.unwrap_or(pool.transaction_timeout),
            query_timeout: self.query_timeout.unwrap_or(pool.query_timeout),
            ..pool.clone()
        }
    }
}

/// A stored password. `Debug` never shows it.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The password itself: serves every method and every server.
    Plain(String),
    /// `md5` + hex of md5(password + user): the 32 hex digits, lower case.
    Md5(String),
    /// A SCRAM-SHA-256 verifier as PostgreSQL stores it.
    Scram(ScramVerifier),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Secret::Plain(_) => "Secret(plain)",
            Secret::Md5(_) => "Secret(md5)",
            Secret::Scram(_) => "Secret(scram-sha-256)",
        })
    }
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, decoded.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    /// PBKDF2 rounds.
    pub iterations: u32,
    /// The salt, raw.
    pub salt: Vec<u8>,
    /// H(ClientKey).
    pub stored_key: [u8; 32],
    /// HMAC(SaltedPassword, "Server Key").
    pub server_key: [u8; 32],
}

/// Who may open the virtual database `pglagoon` (alias `pgbouncer`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Admin {
    /// May use every command.
    pub users: Vec<String>,
    /// May use SHOW only.
    pub stats_users: Vec<String>,
}

/// One database (or the wildcard), with every default of `[pool]` and `[routing]` already applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// The name of its section: `app`, or `*`.
    pub name: String,
    /// Its servers, at least one, in the order of the file.
    pub servers: Vec<ServerAddress>,
    /// The Patronis of these servers, if they count.
    pub patroni: Option<Patroni>,
    /// The database's name on the servers; `None`: the name that the client asked for.
    pub server_database: Option<String>,
    /// Log in to servers as this user instead of the client's.
    pub server_user: Option<String>,
    /// The password of `server_user` (or of every user of this database).
    pub server_password: Option<Secret>,
    /// TLS towards this database's servers.
    pub server_tls: ServerTls,
    /// Pooling, unless a user has rules of its own.
    pub pool: Pool,
    /// Routing, unless a user has rules of its own.
    pub routing: Routing,
    /// Those users' rules: the same for all databases.
    pub user_rules: Arc<BTreeMap<String, UserRules>>,
}

impl Database {
    /// Pooling for this user.
    pub fn pool_of(&self, user: &str) -> Pool {
        self.user_rules.get(user).map_or_else(|| self.pool.clone(), |rules| rules.of_pool(&self.pool))
    }

    /// What this user's reads may return.
    pub fn level_of(&self, user: &str) -> Consistency {
        let own = self.user_rules.get(user).and_then(|rules| rules.consistency);
        own.unwrap_or(self.routing.consistency)
    }
}

/// Where a PostgreSQL server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServerAddress {
    /// Host name or address, and port.
    Tcp {
        /// Host name or IP address (IPv6 without brackets).
        host: String,
        /// Port.
        port: u16,
    },
    /// Directory of the Unix socket, and the port that names its file.
    Unix {
        /// The directory.
        directory: PathBuf,
        /// The port in the file's name.
        port: u16,
    },
}

/// The Patronis that look after a database's servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patroni {
    /// Where the REST API of each is, in the order of the servers.
    pub members: Vec<HttpAddress>,
    /// By how many bytes a replica may be behind, as Patroni counts them.
    pub max_lag: Option<usize>,
    /// How those are reached that speak TLS, if one does: their certificates must be good for their names.
    pub tls: Option<ServerTls>,
}

/// Where a program answers to HTTP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpAddress {
    /// It speaks TLS.
    pub is_tls: bool,
    /// Host name or IP address (IPv6 without brackets).
    pub host: String,
    /// Port.
    pub port: u16,
}

impl std::fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_tls { "https://" } else { "http://" })?;
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl ServerAddress {
    /// The host as SHOW and metrics print it: a host name, an address, or the socket's directory.
    pub fn host(&self) -> String {
        match self {
            ServerAddress::Tcp { host, .. } => host.clone(),
            ServerAddress::Unix { directory, .. } => directory.display().to_string(),
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            ServerAddress::Tcp { port, .. } | ServerAddress::Unix { port, .. } => *port,
        }
    }
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ServerAddress::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            ServerAddress::Tcp { host, port } => write!(f, "{host}:{port}"),
            ServerAddress::Unix { directory, port } => write!(f, "{}:{port}", directory.display()),
        }
    }
}

/// Pooling settings of one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// When a server connection goes back to the pool.
    pub mode: PoolMode,
    /// Server connections per database, user and server: at least one.
    pub size: usize,
    /// How many of them are kept, used or not, while a client of that database and user is connected: at most `size`.
    pub min_size: usize,
    /// So many more while a client has waited for `reserve_timeout`.
    pub reserve_size: usize,
    /// That time.
    pub reserve_timeout: Duration,
    /// Server connections per database and server, over all its users, if there is such a limit.
    pub max_db_connections: Option<usize>,
    /// Clients of one database at once, over all its users, if there is such a limit.
    pub max_db_clients: Option<usize>,
    /// How long a client waits for a connection of a server that is there.
    pub checkout_timeout: Duration,
    /// How long a client is held while there is no server for its request.
    pub hold_timeout: Duration,
    /// Clients of one database that may be held; more are refused at once.
    pub hold_limit: usize,
    /// Clients that may wait for one pool; more are refused at once.
    pub max_waiting: usize,
    /// Replication connections of one user of one database.
    pub max_replication: usize,
    /// An idle server connection is closed after this, if ever.
    pub idle_timeout: Option<Duration>,
    /// A server connection is not used again after this (staggered by up to a tenth), if ever.
    pub lifetime: Option<Duration>,
    /// Time for connecting and logging in to a server.
    pub connect_timeout: Duration,
    /// Logins to one server under way at once, per pool.
    pub max_logins: usize,
    /// What becomes of clients that leave state behind which cannot follow them.
    pub session_state: SessionState,
    /// How many of them may keep a server connection, in percent of `size`.
    pub pin_limit: usize,
    /// Prepared statements kept on one server connection.
    pub prepared_statements: usize,
    /// What becomes of statements that clients prepare without a name.
    pub unnamed_statements: Unnamed,
    /// How long a transaction may sit idle before its client is disconnected, if ever.
    pub idle_transaction_timeout: Option<Duration>,
    /// How long a transaction may last before its client is disconnected, if ever.
    pub transaction_timeout: Option<Duration>,
    /// How long one query may run before its client is disconnected, if ever.
    pub query_timeout: Option<Duration>,
}

impl Pool {
    /// How many clients may keep a server connection beyond their transactions: at least one.
    pub fn most_pinned(&self) -> usize {
        (self.size * self.pin_limit).div_ceil(100).max(1)
    }
}

/// What becomes of a statement that a client prepares without a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unnamed {
    /// If its text comes again, servers keep it as they keep one with a name.
    Keep,
    /// It goes to the server as it came.
    Forward,
}

impl Unnamed {
    /// As the configuration spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Unnamed::Keep => "keep",
            Unnamed::Forward => "forward",
        }
    }
}

/// What becomes of a client that leaves state behind which cannot follow it: a temporary table, a session-level lock ...
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// It keeps its server connection until the state is gone.
    Pin,
    /// Such statements are refused.
    Error,
}

impl SessionState {
    /// As the configuration spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            SessionState::Pin => "pin",
            SessionState::Error => "error",
        }
    }
}

/// When a server connection goes back to the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// When the client disconnects.
    Session,
    /// After each transaction.
    Transaction,
    /// After each statement; transaction blocks are refused.
    Statement,
}

impl PoolMode {
    /// The word in the configuration and in SHOW.
    pub fn as_str(self) -> &'static str {
        match self {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
            PoolMode::Statement => "statement",
        }
    }
}

/// Routing settings of one database.
#[derive(Debug, Clone, PartialEq)]
pub struct Routing {
    /// Where proven reads go.
    pub reads: Reads,
    /// What a read may return after a write.
    pub consistency: Consistency,
    /// For `sticky`: how long after a client's write its reads stay on the primary.
    pub sticky_window: Duration,
    /// For `bounded`: how old the data of a read may be.
    pub max_staleness: Duration,
    /// How long a read waits for a replica that is fresh enough.
    pub max_wait: Duration,
    /// What becomes of a read that has waited so long.
    pub on_stale: OnStale,
    /// How many such reads per second may go to the primary.
    pub max_fallbacks: u32,
    /// Whose reads and writes are taken together, under `session` and `strong`.
    pub scope: Scope,
    /// Where transaction blocks that may write run.
    pub transactions: Transactions,
    /// What becomes of a client whose last write may be lost by a failover.
    pub on_lost_write: OnLostWrite,
    /// What causality tokens are signed with; `None`: a secret of this process, so that no other takes them.
    pub token_secret: Option<TokenSecret>,
    /// A replica further behind than this takes no reads.
    pub max_lag: Duration,
    /// How a replica is chosen.
    pub balance: Balance,
    /// Functions of the database's own that read only, as the operator says: `name` or `schema.name`.
    pub safe_functions: Vec<String>,
    /// Weights of servers by their place in `servers`; only for `Balance::Weighted`; same length as `servers`.
    pub weights: Vec<u32>,
    /// Servers whose replicas are used as long as there is one, by their place in `servers`.
    pub prefer: Vec<usize>,
    /// For how long the share of a replica that has come back grows; `None`: it has it at once.
    pub slow_start: Option<Duration>,
}

/// Where transaction blocks that may write run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transactions {
    /// On the primary from their first statement.
    Primary,
    /// On a replica until their first statement that is not a proven read.
    Promote,
}

/// Where proven reads go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// To replicas, as `consistency` allows.
    Replicas,
    /// To the primary: no splitting.
    Primary,
    /// To the primary; those that would have gone to a replica are counted as such.
    Shadow,
}

/// What a read may return. `routing::consistency` keeps these promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// The primary always.
    Primary,
    /// A client sees its own writes, never less than it has seen, and effects after their causes.
    Session,
    /// Everything that was acknowledged to anybody before the read arrived.
    Strong,
    /// Data at least as new as the primary's `max_staleness` ago.
    Bounded,
    /// Reads stay on the primary for `sticky_window` after the client's last write.
    Sticky,
    /// Any healthy replica within `max_lag`.
    Eventual,
}

impl Consistency {
    /// Every level.
    pub const ALL: [Consistency; 6] = [
        Consistency::Primary,
        Consistency::Session,
        Consistency::Strong,
        Consistency::Bounded,
        Consistency::Sticky,
        Consistency::Eventual,
    ];

    /// The word in the configuration, in SET and in SHOW.
    pub fn as_str(self) -> &'static str {
        match self {
            Consistency::Primary => "primary",
            Consistency::Session => "session",
            Consistency::Strong => "strong",
            Consistency::Bounded => "bounded",
            Consistency::Sticky => "sticky",
            Consistency::Eventual => "eventual",
        }
    }

    /// The level of that word.
    pub fn parse(word: &str) -> Option<Consistency> {
        Consistency::ALL.into_iter().find(|level| level.as_str() == word)
    }
}

/// Whose reads and writes are taken together: what one has written or seen, all of them see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Each connection by itself.
    Connection,
    /// All connections of a user.
    User,
    /// All connections with the same application_name in their startup packet.
    ApplicationName,
    /// All connections to the database.
    Database,
}

/// What becomes of a client whose last write may be lost by a failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLostWrite {
    /// Its next request fails, once.
    Error,
    /// It goes on as if it had written nothing.
    Reset,
}

/// What causality tokens are signed with. `Debug` never shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret(pub String);

impl std::fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenSecret")
    }
}

/// What becomes of a read for which no replica was fresh enough within `max_wait`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStale {
    /// It goes to the primary.
    Primary,
    /// It fails.
    Error,
}

/// How a replica is chosen among those that may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// The one with the fewest connections in use (ties in turn).
    LeastConnections,
    /// In turn.
    RoundRobin,
    /// In turn, in proportion to the weights.
    Weighted,
    /// Of two that are drawn, the one that answers sooner.
    ResponseTime,
}

impl Balance {
    /// Every policy.
    pub const ALL: [Balance; 4] =
        [Balance::LeastConnections, Balance::RoundRobin, Balance::Weighted, Balance::ResponseTime];

    /// The word in the configuration and in SHOW.
    pub fn as_str(self) -> &'static str {
        match self {
            Balance::LeastConnections => "least_connections",
            Balance::RoundRobin => "round_robin",
            Balance::Weighted => "weighted",
            Balance::ResponseTime => "response_time",
        }
    }
}

/// How pglagoon looks after its servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitor {
    /// Time between two probes of a server.
    pub interval: Duration,
    /// How long a probe may take.
    pub timeout: Duration,
    /// How long a server may be silent before what is under way there is given up.
    pub dead_after: Duration,
    /// Time between two look-ups of a server's name.
    pub resolve_interval: Duration,
    /// The user for probes; `None`: a user that can log in to the database.
    pub user: Option<String>,
    /// That user's password.
    pub password: Option<Secret>,
    /// The database for probes; `None`: the one that is probed for.
    pub database: Option<String>,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A `tracing` filter: `info`, `pglagoon=debug` ...
    pub filter: String,
    /// The shape of a line.
    pub format: LogFormat,
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}
