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
use super::clients::{ClientCard, ExtraPlace, Newcomer, Registration};
use super::lookup::look_up;
use super::opening::Opening;
use super::outlet;
use super::relay::Relay;
use super::replication::Replicating;
use super::{Access, Frontend, Worker};
use crate::admin::{Rights, console};
use crate::auth::{Admitted, Ask, Certificate, Channel, Entropy, Login, Refusal, Reply};
use crate::cluster::{Admission, Database, Greeting, Member, Replication, UserPools};
use crate::config::{Config, Scope, TlsMode, User, VIRTUAL_DATABASES};
use crate::error::{ErrorSource, Report};
use crate::net::{Buffer, Endpoint, Stream, tls};
use crate::session::{Session, Settings};
use crate::wire::backend::{self, Severity, TransactionStatus};
use crate::wire::scan::HEADER;
use crate::wire::startup::{self, Parameters, StartupPacket, Version};
use crate::wire::{ClientKey, FrontendTag, Scanner, SqlState, Step};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

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
    /// A client, and what serves it. What is moved about while it comes in is not kept in its task, nor is its box.
    Client(Box<Relay>),
}

/// A client that has logged in and been told so: the only thing that the relay accepts.
pub struct Authenticated {
    /// Its connection.
    pub stream: Stream,
    /// What it sent beyond its login.
    pub early: Buffer,
    /// Where its server connections come from.
    pub pools: Member,
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
    pub early: Buffer,
    /// The user.
    pub user: Arc<str>,
    /// What it may do.
    pub rights: Rights,
    /// Its entry among the clients.
    pub registration: Registration,
    /// Its place, if there was none among the clients.
    pub place: Option<ExtraPlace>,
}

/// Why a login ended.
#[derive(Debug)]
enum HandshakeError {
    /// The connection broke.
    Io(io::Error),
    /// The client is told this.
    Refused(Report),
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

/// Sees a connection through its login, for as long as `listen.login_timeout`. `None`: nobody came in. Who was refused was told
/// why.
///
/// # Cancel safety
/// Dropped halfway, the connection is closed and nothing else remains.
pub fn handshake<'a>(
    stream: Stream,
    frontend: &'a Arc<Frontend>,
    access: &'a Arc<Access>,
    worker: &'a Rc<Worker>,
) -> impl Future<Output = Option<Arrived>> + 'a {
    let stream = Some(stream);
    let mut line = Line { stream, peer: None, opening: None, place: None, input: Buffer::empty(), worker };
    let end = Instant::now() + access.config.listen.login_timeout;
    // Not an `async fn`: that would have room for the stream twice.
    async move {
        let ended = {
            let login = pin!(arrive(&mut line, frontend, access));
            worker.limits.until(end, login).await
        };
        match ended {
            Some(Ok(arrived)) => Some(arrived),
            Some(Err(error)) => {
                let refused = pin!(Box::pin(line.refuse(error, frontend)));
                worker.limits.until(end, refused).await;
                None
            }
            None => {
                line.note(&too_late(), frontend);
                None
            }
        }
    }
}

fn too_late() -> Report {
    let text = "the client did not log in in time (listen.login_timeout)";
    Report::new(ErrorSource::Client, SqlState::QUERY_CANCELED, text)
}

async fn arrive(
    line: &mut Line<'_>,
    frontend: &Arc<Frontend>,
    access: &Arc<Access>,
) -> Result<Arrived, HandshakeError> {
    let opening = match line.first(access).await? {
        First::Opening(opening) => opening,
        First::Cancel(key) => {
            let (stream, _) = line.hand_on();
            return Ok(Arrived::Cancel(Box::new(Canceller { stream, key })));
        }
    };
    line.opening = Some(opening.clone());
    log_in(line, &opening, frontend, access).await
}

async fn log_in(
    line: &mut Line<'_>,
    opening: &Opening,
    frontend: &Arc<Frontend>,
    access: &Arc<Access>,
) -> Result<Arrived, HandshakeError> {
    may_try(line, opening, frontend, &access.config)?;
    let version = negotiate(line, &opening.parameters).await?;
    let found = match access.config.lookup_of(&opening.user, &opening.database) {
        Some(lookup) => Box::pin(look_up(lookup, opening, access, frontend, line.worker.index)).await?,
        None => None,
    };
    if access.keys.must_derive(&opening.user) {
        // PBKDF2 takes milliseconds, once per user: not on a thread on which others wait.
        Box::pin(derive(&opening.user, access)).await;
    }
    let Chance { entropy, secret } = Chance::new()?;
    let secret = Secret { bytes: secret, version };
    let admitted = match begin(line, &opening.user, found.as_deref(), entropy, access)? {
        Begun::Admitted(admitted) => admitted,
        Begun::Asking(conversation) => conversation.await?,
    };
    if VIRTUAL_DATABASES.contains(&&*opening.database) {
        return Box::pin(visit(line, opening, &secret, admitted, frontend, access)).await;
    }
    if let Some(mode) = opening.parameters.replication().map_err(|value| invalid_replication(&value))? {
        return Box::pin(replicate(line, opening, &secret, admitted, mode, frontend)).await;
    }
    let (base, own) = opening.settings()?;
    let (pools, base, greeting) = greet(line.worker, opening, base, &admitted, frontend).await?;
    let pools = pools.admit(&access.config)?;
    let mut out = Vec::with_capacity(greeting.len() + 256);
    // Known before the client can use its cancel key.
    let registration = register(line, opening, Names::of(&pools), &secret, frontend);
    write_welcome(&mut out, &admitted, &registration, |out| out.extend_from_slice(&greeting));
    drop((admitted, greeting));
    line.stream().write_all(&out).await?;
    pools.stats(line.worker.index).logins += 1;
    let rules = pools.database.rules();
    let own = own.in_scope(match rules.routing.scope {
        Scope::Connection => None,
        Scope::User => Some(format!("user {}", opening.user)),
        Scope::ApplicationName => {
            opening.parameters.value("application_name").map(|name| format!("application {name}"))
        }
        Scope::Database => Some("database".to_owned()),
    });
    let (stream, early) = line.hand_on();
    let session = Session::new(pools.rules().mode, base, own);
    let config = access.config.clone();
    let client = Authenticated { stream, early, pools, session, registration, config };
    Ok(Arrived::Client(Box::new(Relay::new(client, line.worker.clone()))))
}

/// The version to speak.
async fn negotiate(line: &mut Line<'_>, parameters: &Parameters) -> io::Result<Version> {
    let (version, unknown) = parameters.negotiate();
    if version != parameters.version || !unknown.is_empty() {
        let mut out = Vec::new();
        backend::write_negotiate_version(&mut out, version, &unknown);
        line.stream().write_all(&out).await?;
    }
    Ok(version)
}

/// Whether there is room for one more, who said who it is, and in the way that is asked for.
fn may_try(
    line: &mut Line<'_>,
    opening: &Opening,
    frontend: &Arc<Frontend>,
    config: &Config,
) -> Result<(), HandshakeError> {
    let is_full = frontend.clients.connected() > config.listen.max_clients;
    if is_full && VIRTUAL_DATABASES.contains(&&*opening.database) {
        // Whoever it is: a refusal would tell strangers who may open it.
        line.place = ExtraPlace::take(frontend);
    }
    if is_full && line.place.is_none() {
        let text =
            format!("sorry, too many clients already (listen.max_clients = {})", config.listen.max_clients);
        return Err(Report::new(ErrorSource::Pooler, SqlState::TOO_MANY_CONNECTIONS, text).into());
    }
    if opening.user.is_empty() {
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
    Ok(())
}

/// The pools of who is admitted, and what a server reports to it.
async fn greet(
    worker: &Worker,
    opening: &Opening,
    base: Settings,
    admitted: &Admitted,
    frontend: &Frontend,
) -> Result<(Arc<UserPools>, Settings, Arc<Greeting>), Report> {
    let Opening { user, database, .. } = opening;
    loop {
        let served = served(frontend.directory.find(database), database)?;
        let pools = served.user(user, &admitted.credential);
        if let Some((base, greeting)) = pools.known_greeting(&base) {
            return Ok((pools, base, greeting));
        }
        match Box::pin(pools.greeting(base.clone(), worker.index)).await {
            Ok((base, greeting)) => return Ok((pools, base, greeting)),
            // A reload has put others into their place.
            Err(_) if pools.is_closed() => {}
            Err(report) => {
                frontend.directory.forget(database);
                return Err(report);
            }
        }
    }
}

/// Gives a client that replicates a server connection of its own.
async fn replicate(
    line: &mut Line<'_>,
    opening: &Opening,
    secret: &Secret,
    admitted: Admitted,
    mode: startup::Replication,
    frontend: &Arc<Frontend>,
) -> Result<Arrived, HandshakeError> {
    let database = &*opening.database;
    let found = match mode {
        startup::Replication::Physical => frontend.directory.find_for_replication(database),
        startup::Replication::Logical => frontend.directory.find(database),
    };
    let pools = served(found, database)?.user(&opening.user, &admitted.credential);
    let is_own = |name: &str| matches!(name, "user" | "database") || name.starts_with("_pq_.");
    let further = opening.parameters.pairs.iter().filter(|(name, _)| !is_own(name)).cloned().collect();
    let replication = Replication::begin(&pools, further).await?;
    let mut out = Vec::with_capacity(512);
    let greeting = &replication.backend.state.parameters;
    let registration = register(line, opening, Names::of(&pools), secret, frontend);
    write_welcome(&mut out, &admitted, &registration, |out| {
        greeting.iter().for_each(|(name, value)| backend::write_parameter_status(out, name, value));
    });
    line.stream().write_all(&out).await?;
    pools.stats(line.worker.index).logins += 1;
    let (stream, early) = line.hand_on();
    Ok(Arrived::Replication(Box::new(Replicating { stream, early, mode, replication, registration })))
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
    line: &mut Line<'_>,
    opening: &Opening,
    secret: &Secret,
    admitted: Admitted,
    frontend: &Arc<Frontend>,
    access: &Access,
) -> Result<Arrived, HandshakeError> {
    let rules = &access.config.admin;
    let rights = match &opening.user {
        user if rules.users.iter().any(|name| **name == **user) => Rights::Admin,
        user if rules.stats_users.iter().any(|name| **name == **user) => Rights::Stats,
        user => {
            let text = format!("user \"{user}\" may not open the console (admin.users, admin.stats_users)");
            return Err(Report::new(ErrorSource::Client, SqlState::INSUFFICIENT_PRIVILEGE, text).into());
        }
    };
    let mut out = Vec::with_capacity(512);
    let names = Names { user: opening.user.clone(), database: opening.database.clone() };
    let registration = register(line, opening, names, secret, frontend);
    write_welcome(&mut out, &admitted, &registration, |out| {
        let parameters = console::parameters();
        parameters.iter().for_each(|(name, value)| backend::write_parameter_status(out, name, value));
    });
    line.stream().write_all(&out).await?;
    let (stream, early) = line.hand_on();
    let (user, place) = (opening.user.clone(), line.place.take());
    Ok(Arrived::Console(Box::new(Visitor { stream, early, user, rights, registration, place })))
}

/// A login that has begun.
enum Begun<'a> {
    Admitted(Admitted),
    /// The client is asked for something; large, and not for everybody.
    Asking(Pin<Box<dyn Future<Output = Result<Admitted, HandshakeError>> + 'a>>),
}

fn begin<'a>(
    line: &'a mut Line<'_>,
    user: &'a str,
    found: Option<&'a User>,
    entropy: Entropy,
    access: &'a Access,
) -> Result<Begun<'a>, HandshakeError> {
    let config = &access.config;
    let stream = line.stream();
    let channel = Channel {
        certificate: stream.peer_name().map_or(Certificate::None, Certificate::Verified),
        end_point: stream.end_point(),
    };
    let begun = Login::begin(
        config.auth.method,
        config.listen.tls.mode,
        user,
        config.users.get(user).or(found),
        channel,
        &access.keys,
        entropy,
    );
    Ok(match begun.map_err(|refusal| refused(refusal, user))? {
        (_, Ask::Nothing(admitted)) => Begun::Admitted(admitted),
        (login, ask) => Begun::Asking(Box::pin(converse(line, user, login, ask))),
    })
}

/// Asks the client for what proves that it is `user`.
async fn converse(
    line: &mut Line<'_>,
    user: &str,
    mut login: Login<'_>,
    ask: Ask,
) -> Result<Admitted, HandshakeError> {
    let mut out = Vec::with_capacity(128);
    match ask {
        Ask::Nothing(admitted) => return Ok(admitted),
        Ask::ClearText => backend::write_authentication(&mut out, 3, &[]),
        Ask::Md5(salt) => backend::write_authentication(&mut out, 5, &salt),
        Ask::Sasl(mechanisms) => backend::write_authentication(&mut out, 10, mechanisms),
    }
    loop {
        line.stream().write_all(&out).await?;
        let length = line.password_message().await?;
        let body = &line.input.filled()[HEADER..length];
        let reply = login.message(body).map_err(|refusal| refused(refusal, user));
        line.consume(length);
        match reply? {
            Reply::Admitted(admitted) => return Ok(admitted),
            Reply::Continue(data) => {
                out.clear();
                backend::write_authentication(&mut out, 11, &data);
            }
        }
    }
}

fn refused(refusal: Refusal, user: &str) -> HandshakeError {
    let code = SqlState::new(refusal.sqlstate().as_bytes()).unwrap_or(SqlState::INVALID_PASSWORD);
    HandshakeError::Refused(Report::new(ErrorSource::Client, code, refusal.message(user)))
}

async fn derive(user: &str, access: &Arc<Access>) {
    let (user, access) = (user.to_owned(), access.clone());
    // A derivation that panics is made anew by whoever asks for the keys next.
    let _ = tokio::task::spawn_blocking(move || drop(access.keys.keys(&user, None))).await;
}

/// What a client hears that has logged in, up to its first ReadyForQuery.
fn write_welcome(
    out: &mut Vec<u8>,
    admitted: &Admitted,
    registration: &Registration,
    write_greeting: impl FnOnce(&mut Vec<u8>),
) {
    if let Some(data) = &admitted.sasl_final {
        backend::write_authentication(out, 12, data);
    }
    backend::write_authentication_ok(out);
    write_greeting(out);
    backend::write_key_data(out, &registration.card().key);
    backend::write_ready(out, TransactionStatus::Idle);
}

/// The names under which a client is known.
struct Names {
    user: Arc<str>,
    database: Arc<str>,
}

impl Names {
    /// All clients of a pool share its own.
    fn of(pools: &UserPools) -> Self {
        Names { user: pools.user.clone(), database: pools.database.name.clone() }
    }
}

/// Makes a client known, with a number and a key to cancel by.
fn register(
    line: &mut Line<'_>,
    opening: &Opening,
    names: Names,
    secret: &Secret,
    frontend: &Arc<Frontend>,
) -> Registration {
    let id = frontend.clients.next_id();
    let stream = line.stream();
    let newcomer = Newcomer {
        id,
        key: ClientKey::new(id as i32, secret.bytes()),
        user: names.user,
        database: names.database,
        peer: stream.peer(),
        local: stream.local(),
        tls: stream.tls_info().unwrap_or_default().into(),
        application_name: opening.application_name.clone(),
    };
    Registration::new(ClientCard::new(newcomer), frontend)
}

/// What makes a cancel key hard to guess.
struct Secret {
    bytes: [u8; SECRET_3_2],
    /// What the client speaks, which says how much of it there is room for.
    version: Version,
}

impl Secret {
    fn bytes(&self) -> &[u8] {
        match self.version >= Version::V3_2 {
            true => &self.bytes,
            false => &self.bytes[..SECRET_3_0],
        }
    }
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

/// A connection during its login: `stream` is there until it is handed on.
struct Line<'a> {
    stream: Option<Stream>,
    /// Where it comes from, if that was asked for.
    peer: Option<Endpoint>,
    /// What it wants, once it has said so.
    opening: Option<Rc<Opening>>,
    /// Its place, if there was none among the clients.
    place: Option<ExtraPlace>,
    input: Buffer,
    worker: &'a Rc<Worker>,
}

/// The first packet that is not about encryption.
enum First {
    Cancel(ClientKey),
    Opening(Rc<Opening>),
}

impl Line<'_> {
    fn stream(&mut self) -> &mut Stream {
        self.stream.as_mut().expect("handed on only when the login is over")
    }

    fn is_tls(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_tls)
    }

    /// The connection, and what came on it beyond the login. To be called once, at the login's end.
    fn hand_on(&mut self) -> (Stream, Buffer) {
        let stream = self.stream.take().expect("nobody has taken it yet");
        (stream, std::mem::take(&mut self.input))
    }

    /// Reads the first packet that is not about encryption.
    async fn first(&mut self, access: &Access) -> Result<First, HandshakeError> {
        self.direct_tls(access).await?;
        let (mut asked_ssl, mut asked_gss) = (self.is_tls(), false);
        loop {
            let length = self.packet().await?;
            let packet = &self.input.filled()[..length];
            let openings = &self.worker.openings;
            let parsed = match openings.known(packet) {
                Some(opening) => StartupPacket::Startup(opening),
                None => startup::parse(packet)
                    .map_err(|error| Report::protocol(error.to_string()))?
                    .map(|parameters| openings.note(packet, parameters)),
            };
            self.consume(length);
            match parsed {
                StartupPacket::Startup(opening) => return Ok(First::Opening(opening)),
                StartupPacket::Cancel(key) => return Ok(First::Cancel(key)),
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
            }
        }
    }

    /// A client may begin with TLS without asking (PostgreSQL 17's `sslnegotiation=direct`).
    async fn direct_tls(&mut self, access: &Access) -> Result<(), HandshakeError> {
        self.read().await?;
        if self.input.filled()[0] != tls::CLIENT_HELLO {
            return Ok(());
        }
        let Some(acceptor) = &access.acceptor else {
            return Err(Report::protocol("TLS is not offered (listen.tls)").into());
        };
        let stream = self.encrypting();
        let first = std::mem::take(&mut self.input);
        self.stream = Some(Box::pin(acceptor.accept_direct(stream, first.filled())).await?);
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
        let stream = self.encrypting();
        self.stream = Some(Box::pin(acceptor.accept(stream)).await?);
        Ok(())
    }

    /// The connection, for who puts TLS around it. Where it comes from cannot be asked for meanwhile.
    fn encrypting(&mut self) -> Stream {
        let stream = self.stream.take().expect("there during the login");
        self.peer = Some(stream.peer());
        stream
    }

    /// Bytes glued to a request for encryption came in the clear, whoever sent them.
    fn nothing_early(&self) -> Result<(), Report> {
        match self.input.is_empty() {
            true => Ok(()),
            false => Err(Report::protocol("received unencrypted data after an encryption request")),
        }
    }

    /// Reads one packet; answers how long it is.
    async fn packet(&mut self) -> Result<usize, HandshakeError> {
        loop {
            let length = startup::packet_length(self.input.filled())
                .map_err(|error| Report::protocol(error.to_string()))?;
            match length {
                Some(length) if self.input.len() >= length => return Ok(length),
                _ => self.read().await?,
            }
        }
    }

    /// Reads a `p` message; answers how long it is, with its header.
    async fn password_message(&mut self) -> Result<usize, HandshakeError> {
        let scanner = Scanner::<FrontendTag>::default();
        loop {
            let input = self.input.filled();
            match scanner.step(input).map_err(|error| Report::protocol(error.to_string()))? {
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
                Step::Message(span) if span.is_whole() => return Ok(span.len()),
                Step::Message(span) => {
                    self.input.reserve_whole(span.len());
                    self.read().await?;
                }
                _ => self.read().await?,
            }
        }
    }

    /// A message of this length has been dealt with: what follows may take its time, and holds no buffer.
    fn consume(&mut self, length: usize) {
        self.input.consume(length);
        self.input.give_back(&self.worker.shelf);
    }

    /// Reads what there is. Who has sent nothing holds no buffer.
    async fn read(&mut self) -> io::Result<()> {
        let Line { stream, input, worker, .. } = self;
        let stream = stream.as_mut().expect("handed on only when the login is over");
        let read = poll_fn(|cx| {
            let read = outlet::fill(stream, input, &worker.shelf, &mut false, cx);
            input.give_back(&worker.shelf);
            read
        });
        match read.await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Takes down who was not let in, and why.
    #[cold]
    fn note(&self, report: &Report, frontend: &Frontend) {
        let asked = || self.stream.as_ref().map_or(Endpoint::Gone, Stream::peer);
        let peer = self.peer.clone().unwrap_or_else(asked);
        let (user, database) =
            self.opening.as_ref().map_or(("", ""), |opening| (&*opening.user, &*opening.database));
        frontend.journal.refused(&peer, user, database, report);
    }

    /// Tells the client why, if it can still be told.
    async fn refuse(&mut self, error: HandshakeError, frontend: &Frontend) {
        let report = match error {
            HandshakeError::Io(error) => return tracing::debug!(%error, "a login ended"),
            HandshakeError::Refused(report) => report,
        };
        self.note(&report, frontend);
        if let Some(stream) = &mut self.stream {
            tell(stream, &report).await;
        }
    }
}

/// The last that a client hears.
pub(super) async fn tell(stream: &mut Stream, report: &Report) {
    let mut out = Vec::new();
    report.write(&mut out, Severity::Fatal);
    let _ = stream.write_all(&out).await;
    let _ = stream.shutdown().await;
}
