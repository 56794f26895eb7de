//! From an accepted connection to somebody who has logged in.
//!
//! ```text
//!   SSLRequest, GSSENCRequest (once each) -> N, or S and TLS      a TLS ClientHello at once -> TLS (with ALPN)
//!   CancelRequest ------------------------> Arrived::Cancel
//!   StartupMessage -> authentication -> database -> greeting -> Arrived::Client, Replication or Console
//! ```
//!
//! Who fails to prove who he is learns nothing of which users or databases exist. Nothing that was sent before TLS began
//! counts afterwards: after an SSLRequest the buffer must be empty.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>

use super::cancel::Canceller;
use super::clients::{ClientCard, Newcomer, Registration};
use super::replication::Replicating;
use super::{Access, Frontend, Worker};
use crate::admin::{self, Rights, console};
use crate::auth::{Admitted, Ask, Certificate, Entropy, Login, Reply, scram};
use crate::cluster::{Admission, Database, Replication, UserPools};
use crate::config::{Config, Scope, TlsMode};
use crate::error::{ErrorSource, Report};
use crate::net::{Stream, tls};
use crate::session::{Own, Session, Settings, own, settings};
use crate::wire::backend::{self, Severity, TransactionStatus};
use crate::wire::startup::{self, Parameters, StartupPacket, Version};
use crate::wire::{ClientKey, FrontendTag, Scanner, SqlState, Step};
use std::fmt;
use std::io;
use std::sync::Arc;

/// The longest message that a client may send during its login, in bytes.
const MAX_LOGIN_MESSAGE: usize = 64 * 1024;

/// The secret bytes of a cancel key: all that protocol 3.0 has room for, and what PostgreSQL 18 gives with 3.2.
const SECRET_3_0: usize = 4;
const SECRET_3_2: usize = 32;

/// Who came.
pub enum Arrived {
    /// Somebody who wants a query cancelled.
    Cancel(Box<Canceller>),
    /// Somebody for the virtual database.
    Console(Box<Visitor>),
    /// Somebody who replicates.
    Replication(Box<Replicating>),
    /// A client.
    Client(Box<Authenticated>),
    /// Nobody any more.
    Nobody,
}

/// A client that has logged in and been told so: the only thing that the relay accepts.
pub struct Authenticated {
    /// Its connection.
    pub stream: Stream,
    /// What it sent beyond its login.
    pub early: Vec<u8>,
    /// Where its server connections come from.
    pub pools: Arc<UserPools>,
    /// Its conversation.
    pub session: Session,
    /// Its entry among the clients.
    pub registration: Registration,
    /// The configuration at its login.
    pub config: Arc<Config>,
}

/// Somebody in the virtual database.
pub struct Visitor {
    /// The connection.
    pub stream: Stream,
    /// What was sent beyond the login.
    pub early: Vec<u8>,
    /// The user.
    pub user: Arc<str>,
    /// What it may do.
    pub rights: Rights,
    /// Its entry among the clients.
    pub registration: Registration,
}

/// Why a login ended.
#[derive(Debug)]
pub enum HandshakeError {
    /// The connection broke.
    Io(io::Error),
    /// The client was told this.
    Refused(Report),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::Io(error) => write!(f, "{error}"),
            HandshakeError::Refused(report) => write!(f, "{report}"),
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        HandshakeError::Io(error)
    }
}

impl From<Report> for HandshakeError {
    fn from(report: Report) -> Self {
        HandshakeError::Refused(report)
    }
}

/// Sees a connection through its login.
///
/// # Cancel safety
/// Dropped halfway, the connection is closed and nothing else remains.
///
/// # Errors
/// The connection broke, or the client was refused (and told why).
pub async fn handshake(
    stream: Stream,
    frontend: &Arc<Frontend>,
    worker: &Worker,
) -> Result<Arrived, HandshakeError> {
    let access = frontend.access.load_full();
    let mut line = Line { stream: Some(stream), input: Vec::new() };
    let parameters = match line.startup(&access).await {
        Ok(StartupPacket::Startup(parameters)) => parameters,
        Ok(StartupPacket::Cancel(key)) => {
            let stream = line.stream.take().expect("nobody has taken it yet");
            return Ok(Arrived::Cancel(Box::new(Canceller { stream, key })));
        }
        Ok(_) => return Ok(Arrived::Nobody),
        Err(error) => return Err(line.refuse(error).await),
    };
    match log_in(&mut line, &parameters, frontend, &access, worker).await {
        Ok(arrived) => Ok(arrived),
        Err(error) => Err(line.refuse(error).await),
    }
}

async fn log_in(
    line: &mut Line,
    parameters: &Parameters,
    frontend: &Arc<Frontend>,
    access: &Arc<Access>,
    worker: &Worker,
) -> Result<Arrived, HandshakeError> {
    let config = &access.config;
    if frontend.clients.connected() > config.listen.max_clients {
        let text =
            format!("sorry, too many clients already (listen.max_clients = {})", config.listen.max_clients);
        return Err(Report::new(ErrorSource::Pooler, SqlState::TOO_MANY_CONNECTIONS, text).into());
    }
    let user = parameters.value("user").unwrap_or_default();
    if user.is_empty() {
        let text = "no PostgreSQL user name specified in startup packet";
        let code = SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
        return Err(Report::new(ErrorSource::Client, code, text).into());
    }
    if matches!(config.listen.tls.mode, TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull)
        && !line.is_tls()
    {
        let code = SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
        return Err(Report::new(ErrorSource::Client, code, "TLS is required (listen.tls)").into());
    }
    let (version, unknown) = parameters.negotiate();
    if version != parameters.version || !unknown.is_empty() {
        let mut out = Vec::new();
        backend::write_negotiate_version(&mut out, version, &unknown);
        line.stream().write_all(&out).await?;
    }
    let Chance { entropy, secret } = Chance::new()?;
    let admitted = authenticate(line, user, entropy, access).await?;
    let database = parameters.value("database").filter(|name| !name.is_empty()).unwrap_or(user);
    let mut newcomer = newcomer(line, user, database, version, parameters, &secret, frontend);
    if admin::DATABASE_NAMES.contains(&database) {
        return visit(line, newcomer, admitted, frontend, access).await;
    }
    if let Some(mode) = parameters.replication().map_err(|value| invalid_replication(&value))? {
        return replicate(line, newcomer, admitted, parameters, mode, frontend, worker).await;
    }
    let (base, own) = startup_settings(parameters)?;
    let level = config.users.get(user).and_then(|user| user.consistency);
    let (pools, base, greeting) = loop {
        let served = served(frontend.directory.find(database), database)?;
        let pools = served.user(user, &admitted.credential);
        pools.set_level(level);
        match Box::pin(pools.greeting(base.clone(), worker.index)).await {
            Ok((base, greeting)) => break (pools, base, greeting),
            // A reload has put others into their place.
            Err(_) if pools.is_closed() => {}
            Err(report) => {
                frontend.directory.forget(database);
                return Err(report.into());
            }
        }
    };
    let mut out = Vec::with_capacity(greeting.len() + 256);
    write_admitted(&mut out, &admitted);
    out.extend_from_slice(&greeting);
    backend::write_key_data(&mut out, &newcomer.key);
    backend::write_ready(&mut out, TransactionStatus::Idle);
    // All clients of a pool share its names.
    newcomer.user = pools.user.clone();
    newcomer.database = pools.database.name.clone();
    // Known before the client can use its cancel key.
    let registration = Registration::new(ClientCard::new(newcomer), frontend);
    line.stream().write_all(&out).await?;
    pools.stats(worker.index).logins += 1;
    let rules = pools.database.rules();
    let own = own.in_scope(match rules.routing.scope {
        Scope::Connection => None,
        Scope::User => Some(format!("user {user}")),
        Scope::ApplicationName => {
            parameters.value("application_name").map(|name| format!("application {name}"))
        }
        Scope::Database => Some("database".to_owned()),
    });
    Ok(Arrived::Client(Box::new(Authenticated {
        stream: line.stream.take().expect("taken only here and by a visit"),
        early: std::mem::take(&mut line.input),
        session: Session::new(rules.pool.mode, base, own),
        pools,
        registration,
        config: config.clone(),
    })))
}

/// Gives a client that replicates a server connection of its own.
async fn replicate(
    line: &mut Line,
    mut newcomer: Newcomer,
    admitted: Admitted,
    parameters: &Parameters,
    mode: startup::Replication,
    frontend: &Arc<Frontend>,
    worker: &Worker,
) -> Result<Arrived, HandshakeError> {
    let database = &*newcomer.database;
    let found = match mode {
        startup::Replication::Physical => frontend.directory.find_for_replication(database),
        startup::Replication::Logical => frontend.directory.find(database),
    };
    let pools = served(found, database)?.user(&newcomer.user, &admitted.credential);
    let is_own = |name: &str| matches!(name, "user" | "database") || name.starts_with("_pq_.");
    let further = parameters.pairs.iter().filter(|(name, _)| !is_own(name)).cloned().collect();
    let replication = Replication::begin(&pools, further).await?;
    let mut out = Vec::with_capacity(512);
    write_admitted(&mut out, &admitted);
    let greeting = &replication.backend.state.parameters;
    greeting.iter().for_each(|(name, value)| backend::write_parameter_status(&mut out, name, value));
    backend::write_key_data(&mut out, &newcomer.key);
    backend::write_ready(&mut out, TransactionStatus::Idle);
    newcomer.user = pools.user.clone();
    newcomer.database = pools.database.name.clone();
    let registration = Registration::new(ClientCard::new(newcomer), frontend);
    line.stream().write_all(&out).await?;
    pools.stats(worker.index).logins += 1;
    Ok(Arrived::Replication(Box::new(Replicating {
        stream: line.stream.take().expect("each arrival takes it once, at its end"),
        early: std::mem::take(&mut line.input),
        mode,
        replication,
        registration,
    })))
}

/// What was found under a database's name, if it may be used.
pub(super) fn served(found: Option<Arc<Database>>, name: &str) -> Result<Arc<Database>, Report> {
    let unknown = || {
        let text = format!("database \"{name}\" does not exist");
        Report::new(ErrorSource::Client, SqlState::INVALID_CATALOG_NAME, text)
    };
    let database = found.ok_or_else(unknown)?;
    if database.admission() == Admission::Open {
        return Ok(database);
    }
    let text = format!("database \"{name}\" is disabled");
    Err(Report::new(ErrorSource::Pooler, SqlState::CANNOT_CONNECT_NOW, text)
        .hint("ENABLE in the console ends that."))
}

fn invalid_replication(value: &str) -> Report {
    let text = format!("invalid value for parameter \"replication\": \"{value}\"");
    Report::new(ErrorSource::Client, SqlState::INVALID_PARAMETER_VALUE, text)
        .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")
}

async fn visit(
    line: &mut Line,
    newcomer: Newcomer,
    admitted: Admitted,
    frontend: &Arc<Frontend>,
    access: &Access,
) -> Result<Arrived, HandshakeError> {
    let rules = &access.config.admin;
    let rights = match &newcomer.user {
        user if rules.users.iter().any(|name| **name == **user) => Rights::Admin,
        user if rules.stats_users.iter().any(|name| **name == **user) => Rights::Stats,
        user => {
            let text = format!("user \"{user}\" may not open the console (admin.users, admin.stats_users)");
            return Err(Report::new(ErrorSource::Client, SqlState::INSUFFICIENT_PRIVILEGE, text).into());
        }
    };
    let mut out = Vec::with_capacity(512);
    write_admitted(&mut out, &admitted);
    console::parameters()
        .iter()
        .for_each(|(name, value)| backend::write_parameter_status(&mut out, name, value));
    backend::write_key_data(&mut out, &newcomer.key);
    backend::write_ready(&mut out, TransactionStatus::Idle);
    let user = newcomer.user.clone();
    let registration = Registration::new(ClientCard::new(newcomer), frontend);
    line.stream().write_all(&out).await?;
    Ok(Arrived::Console(Box::new(Visitor {
        stream: line.stream.take().expect("taken only here and by a client"),
        early: std::mem::take(&mut line.input),
        user,
        rights,
        registration,
    })))
}

async fn authenticate(
    line: &mut Line,
    user: &str,
    entropy: Entropy,
    access: &Arc<Access>,
) -> Result<Admitted, HandshakeError> {
    let refusal = |refusal: crate::auth::Refusal| {
        let code = SqlState::new(refusal.sqlstate().as_bytes()).unwrap_or(SqlState::INVALID_PASSWORD);
        HandshakeError::Refused(Report::new(ErrorSource::Client, code, refusal.message(user)))
    };
    let config = &access.config;
    if access.keys.must_derive(user) {
        // PBKDF2 takes milliseconds, once per user: not on a thread on which others wait.
        derive(user, access).await;
    }
    let certificate = line.stream().peer_name().map(str::to_owned);
    let certificate = certificate.as_deref().map_or(Certificate::None, Certificate::Verified);
    let (mut login, ask) = Login::begin(
        config.auth.method,
        config.listen.tls.mode,
        user,
        config.users.get(user),
        certificate,
        &access.keys,
        entropy,
    )
    .map_err(refusal)?;
    let mut out = Vec::new();
    match ask {
        Ask::Nothing(admitted) => return Ok(admitted),
        Ask::ClearText => backend::write_authentication(&mut out, 3, &[]),
        Ask::Md5(salt) => backend::write_authentication(&mut out, 5, &salt),
        Ask::Sasl => {
            backend::write_authentication(&mut out, 10, &[scram::MECHANISM.as_bytes(), b"\0\0"].concat())
        }
    }
    loop {
        line.stream().write_all(&out).await?;
        let message = line.password_message().await?;
        match login.message(&message).map_err(refusal)? {
            Reply::Admitted(admitted) => return Ok(admitted),
            Reply::Continue(data) => {
                out.clear();
                backend::write_authentication(&mut out, 11, &data);
            }
        }
    }
}

async fn derive(user: &str, access: &Arc<Access>) {
    let (user, access) = (user.to_owned(), access.clone());
    // A derivation that panics is made anew by whoever asks for the keys next.
    let _ = tokio::task::spawn_blocking(move || drop(access.keys.keys(&user))).await;
}

fn write_admitted(out: &mut Vec<u8>, admitted: &Admitted) {
    if let Some(data) = &admitted.sasl_final {
        backend::write_authentication(out, 12, data);
    }
    backend::write_authentication_ok(out);
}

fn newcomer(
    line: &mut Line,
    user: &str,
    database: &str,
    version: Version,
    parameters: &Parameters,
    secret: &[u8; SECRET_3_2],
    frontend: &Frontend,
) -> Newcomer {
    let length = if version >= Version::V3_2 { SECRET_3_2 } else { SECRET_3_0 };
    let id = frontend.clients.next_id();
    let stream = line.stream();
    Newcomer {
        id,
        key: ClientKey::new(id as i32, &secret[..length]),
        user: user.into(),
        database: database.into(),
        peer: stream.peer(),
        local: stream.local(),
        tls: stream.tls_info().unwrap_or_default().into(),
        application_name: parameters.value("application_name").unwrap_or_default().into(),
    }
}

/// The settings that the client asks for in its startup packet, by name and in `options`: the servers', and our own. One
/// that is in both is what it is by name, as on a server.
fn startup_settings(parameters: &Parameters) -> Result<(Settings, Own), Report> {
    let reserved = ["user", "database", "options", "replication"];
    let named = parameters
        .pairs
        .iter()
        .filter(|(name, _)| !reserved.contains(&name.as_str()) && !name.starts_with("_pq_."));
    let options = parameters.value("options").unwrap_or_default();
    let mut pairs = settings::startup_options(options).map_err(|word| {
        let text = format!("invalid command-line argument in \"options\": {word}");
        Report::new(ErrorSource::Client, SqlState::SYNTAX_ERROR, text)
    })?;
    pairs.extend(named.cloned());
    if pairs.len() > settings::MAX_SETTINGS {
        let text = format!("too many settings in the startup packet: {}", pairs.len());
        return Err(Report::new(ErrorSource::Client, SqlState::PROGRAM_LIMIT_EXCEEDED, text));
    }
    pairs.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
    let (own, pairs): (Vec<_>, Vec<_>) =
        pairs.into_iter().partition(|(name, _)| name.starts_with(own::PREFIX));
    let own = Own::from_startup(own.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
    Ok((Settings::from_startup(pairs), own))
}

/// What a login takes of chance, in one system call.
struct Chance {
    entropy: Entropy,
    /// For the cancel key.
    secret: [u8; SECRET_3_2],
}

impl Chance {
    fn new() -> io::Result<Self> {
        let mut bytes = [0; 4 + 18 + SECRET_3_2];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        let (mut md5_salt, mut nonce, mut secret) = ([0; 4], [0; 18], [0; SECRET_3_2]);
        md5_salt.copy_from_slice(&bytes[..4]);
        nonce.copy_from_slice(&bytes[4..22]);
        secret.copy_from_slice(&bytes[22..]);
        Ok(Chance { entropy: Entropy { md5_salt, nonce }, secret })
    }
}

/// How much is read of a login at once, in bytes: more than any usual packet.
const CHUNK: usize = 1024;

/// A connection during its login: `stream` is there until it is handed on.
struct Line {
    stream: Option<Stream>,
    input: Vec<u8>,
}

impl Line {
    fn stream(&mut self) -> &mut Stream {
        self.stream.as_mut().expect("handed on only when the login is over")
    }

    fn is_tls(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_tls)
    }

    /// Reads the first packet that is not about encryption.
    async fn startup(&mut self, access: &Access) -> Result<StartupPacket, HandshakeError> {
        self.direct_tls(access).await?;
        let (mut asked_ssl, mut asked_gss) = (self.is_tls(), false);
        loop {
            let packet = self.packet().await?;
            match packet {
                StartupPacket::SslRequest if !asked_ssl => {
                    asked_ssl = true;
                    self.answer_ssl(access).await?;
                }
                StartupPacket::GssRequest if !asked_gss => {
                    asked_gss = true;
                    self.nothing_early()?;
                    self.stream().write_all(b"N").await?;
                }
                StartupPacket::SslRequest | StartupPacket::GssRequest => {
                    return Err(Report::protocol("encryption was asked for twice").into());
                }
                packet => return Ok(packet),
            }
        }
    }

    /// A client may begin with TLS without asking (PostgreSQL 17's `sslnegotiation=direct`).
    async fn direct_tls(&mut self, access: &Access) -> Result<(), HandshakeError> {
        self.read_until(1).await?;
        if self.input[0] != tls::CLIENT_HELLO {
            return Ok(());
        }
        let Some(acceptor) = &access.acceptor else {
            return Err(Report::protocol("TLS is not offered (listen.tls)").into());
        };
        let stream = self.stream.take().expect("there during the login");
        let first = std::mem::take(&mut self.input);
        self.stream = Some(Box::pin(acceptor.accept_direct(stream, &first)).await?);
        Ok(())
    }

    async fn answer_ssl(&mut self, access: &Access) -> Result<(), HandshakeError> {
        self.nothing_early()?;
        let is_unix = self.stream().is_unix();
        let Some(acceptor) = access.acceptor.as_ref().filter(|_| !is_unix) else {
            self.stream().write_all(b"N").await?;
            return Ok(());
        };
        self.stream().write_all(b"S").await?;
        let stream = self.stream.take().expect("there during the login");
        self.stream = Some(Box::pin(acceptor.accept(stream)).await?);
        Ok(())
    }

    /// Bytes glued to a request for encryption came in the clear, whoever sent them.
    fn nothing_early(&self) -> Result<(), Report> {
        match self.input.is_empty() {
            true => Ok(()),
            false => Err(Report::protocol("received unencrypted data after an encryption request")),
        }
    }

    async fn packet(&mut self) -> Result<StartupPacket, HandshakeError> {
        loop {
            let length =
                startup::packet_length(&self.input).map_err(|error| Report::protocol(error.to_string()))?;
            match length {
                Some(length) if self.input.len() >= length => {
                    let packet = startup::parse(&self.input[..length]);
                    self.input.drain(..length);
                    return packet.map_err(|error| Report::protocol(error.to_string()).into());
                }
                _ => self.read().await?,
            }
        }
    }

    /// The body of a `p` message.
    async fn password_message(&mut self) -> Result<Vec<u8>, HandshakeError> {
        let scanner = Scanner::<FrontendTag>::default();
        loop {
            match scanner.step(&self.input).map_err(|error| Report::protocol(error.to_string()))? {
                Step::Message(span) if span.tag() == FrontendTag::TERMINATE => {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                Step::Message(span) if span.tag() != FrontendTag::PASSWORD => {
                    let text = format!("expected a password message, got {:?}", span.tag());
                    return Err(Report::protocol(text).into());
                }
                Step::Message(span) if span.len() > MAX_LOGIN_MESSAGE => {
                    return Err(Report::protocol("password message is too long").into());
                }
                Step::Message(span) if span.is_whole() => {
                    let body = span.body(&self.input).to_vec();
                    self.input.drain(..span.len());
                    return Ok(body);
                }
                _ => self.read().await?,
            }
        }
    }

    async fn read_until(&mut self, length: usize) -> io::Result<()> {
        while self.input.len() < length {
            self.read().await?;
        }
        Ok(())
    }

    async fn read(&mut self) -> io::Result<()> {
        let Line { stream, input } = self;
        let stream = stream.as_mut().expect("handed on only when the login is over");
        let start = input.len();
        input.resize(start + CHUNK, 0);
        let read = stream.read_some(&mut input[start..]).await;
        input.truncate(start + *read.as_ref().unwrap_or(&0));
        match read? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Tells the client why, if it can still be told.
    async fn refuse(&mut self, error: HandshakeError) -> HandshakeError {
        if let (HandshakeError::Refused(report), Some(stream)) = (&error, &mut self.stream) {
            tell(stream, report).await;
        }
        error
    }
}

/// The last that a client hears.
pub(super) async fn tell(stream: &mut Stream, report: &Report) {
    let mut out = Vec::new();
    report.write(&mut out, Severity::Fatal);
    let _ = stream.write_all(&out).await;
    let _ = stream.shutdown().await;
}
