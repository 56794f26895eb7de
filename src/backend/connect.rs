//! Logging in to a server.
//!
//! ```text
//!   name -> addresses -> socket -> [SSLRequest -> TLS] -> StartupMessage -> Authentication* -> ... -> ReadyForQuery
//! ```
//! Everything that a server says before ReadyForQuery is bounded: each message in length, all of it in time.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>

use std::borrow::Cow;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::net::{TcpStream, UnixStream};

use super::dialog::{DialogError, Message};
use super::usual::{Parameter, Usual};
use super::{Backend, CancelTarget, Dialog, Remote};
use crate::auth::scram::{MECHANISM, offered};
use crate::auth::{ScramClient, ScramError, ScramKeys, ServerCredential, md5};
use crate::config::{ServerAddress, TlsMode};
use crate::error::{ClientVisible, ErrorSource, Report, Retry};
use crate::lock::lock;
use crate::net::{Connector, Resolver, Side, Stream};
use crate::session::server_state::ServerState;
use crate::wire::backend::Fields;
use crate::wire::frontend::{write_password, write_sasl_initial, write_sasl_response};
use crate::wire::startup::{write_ssl_request, write_startup};
use crate::wire::{BackendTag, Reader, ServerKey, SqlState};

/// A login: where, as whom, and with what.
#[derive(Debug)]
pub struct Target {
    /// The server.
    pub address: ServerAddress,
    /// TLS, as this server's database has it configured.
    pub tls: Connector,
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
    /// What there is to prove who we are.
    pub credential: ServerCredential,
    /// Prepared statements that the connection may hold.
    pub statements: usize,
    /// Further parameters of the startup packet.
    pub parameters: Vec<(String, String)>,
    /// What an earlier login can save the next one.
    pub scram: ScramCache,
    /// Who says what its name stands for.
    pub resolver: Resolver,
    /// Where the server was found, which is where to go; while that is not known, where its name leads.
    pub abode: Abode,
    /// What all connections of its user report.
    pub usual: Usual,
}

/// Where a server was found.
#[derive(Debug, Clone, Default)]
pub struct Abode(Arc<ArcSwapOption<SocketAddr>>);

impl Abode {
    /// That address.
    pub fn known(&self) -> Option<SocketAddr> {
        self.0.load().as_deref().copied()
    }

    /// It is there.
    pub fn settle(&self, here: SocketAddr) {
        self.0.store(Some(Arc::new(here)));
    }

    fn is_elsewhere(&self, place: &Place) -> bool {
        self.known().is_some_and(|here| *place != Place::Tcp(here))
    }
}

/// The keys that passwords gave for a cluster's salts: deriving them takes milliseconds, and every connection of a user asks for
/// the same. All of a cluster's servers have the same salt for a user, so its clones are shared by all logins there.
#[derive(Clone, Default)]
pub struct ScramCache(Arc<Mutex<Vec<Derived>>>);

struct Derived {
    user: String,
    credential: ServerCredential,
    keys: ScramKeys,
}

/// Of how many users keys are kept: as many as a monitor has logins for.
const MAX_DERIVED: usize = 4;

impl ScramCache {
    fn keys(&self, user: &str, credential: &ServerCredential) -> Option<ScramKeys> {
        let derived = lock(&self.0);
        let known = derived.iter().find(|known| known.user == user && known.credential == *credential);
        known.map(|known| known.keys.clone())
    }

    fn keep(&self, user: &str, credential: &ServerCredential, keys: ScramKeys) {
        let mut derived = lock(&self.0);
        derived.retain(|known| known.user != user);
        derived.truncate(MAX_DERIVED - 1);
        derived.insert(0, Derived { user: user.to_owned(), credential: credential.clone(), keys });
    }

    /// Whether what one learns the other knows.
    #[cfg(test)]
    pub fn is_shared_with(&self, other: &ScramCache) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for ScramCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramCache")
    }
}

/// A login that failed.
#[derive(Debug)]
pub enum ConnectError {
    /// It took too long.
    Timeout(ServerAddress),
    /// The network or the name service failed, or the server closed the connection.
    Io(ServerAddress, io::Error),
    /// TLS could not be agreed upon.
    Tls(ServerAddress, Cow<'static, str>),
    /// The server said no.
    Refused {
        /// Its own SQLSTATE and message.
        report: Report,
        /// Whether it may say yes later, to the same login.
        temporary: bool,
        /// What has no room for it, if that is why.
        full: Option<Full>,
    },
    /// We cannot prove who we are, or the server cannot.
    Auth(ServerAddress, Cow<'static, str>),
    /// The server does not speak the protocol.
    Protocol(ServerAddress, Cow<'static, str>),
}

/// What may have as many connections as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The server: `max_connections`.
    Server,
    /// The role: its `CONNECTION LIMIT`.
    Role,
    /// The database: its `CONNECTION LIMIT`.
    Database,
}

impl Full {
    /// The texts are in the server's language; the names of what wrote them are not.
    ///
    /// # Source
    /// `miscinit.c`, `postinit.c`
    fn of(fields: &Fields<'_>) -> Option<Full> {
        let is_full = fields.code() == Some(SqlState::TOO_MANY_CONNECTIONS);
        is_full.then(|| match fields.text(b'R') {
            Some(b"InitializeSessionUserId") => Full::Role,
            Some(b"CheckMyDatabase") => Full::Database,
            _ => Full::Server,
        })
    }
}

impl ConnectError {
    /// Whether another login may be let in where this one is not.
    pub fn is_of_login(&self) -> bool {
        matches!(self, ConnectError::Auth(..) | ConnectError::Refused { temporary: false, .. })
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Timeout(address) => write!(f, "server {address}: no login in time"),
            ConnectError::Io(address, error) => write!(f, "server {address}: {error}"),
            ConnectError::Tls(address, why) => write!(f, "server {address}: TLS: {why}"),
            ConnectError::Refused { report, .. } => write!(f, "server refused the login: {report}"),
            ConnectError::Auth(address, why) => write!(f, "server {address}: authentication: {why}"),
            ConnectError::Protocol(address, why) => write!(f, "server {address}: protocol violation: {why}"),
        }
    }
}

impl std::error::Error for ConnectError {}

impl ClientVisible for ConnectError {
    /// Names no address: where servers are is not every client's business.
    fn report(&self) -> Report {
        let failure = |message| Report::new(ErrorSource::Server, SqlState::CONNECTION_FAILURE, message);
        match self {
            ConnectError::Timeout(_) => failure("could not log in to the server in time"),
            ConnectError::Io(..) => failure("could not connect to the server"),
            ConnectError::Tls(..) => failure("could not agree on TLS with the server"),
            ConnectError::Refused { report, .. } => report.clone(),
            ConnectError::Auth(..) => Report::new(
                ErrorSource::Pooler,
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                "could not authenticate to the server",
            ),
            ConnectError::Protocol(..) => failure("the server broke the protocol"),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            ConnectError::Timeout(_) | ConnectError::Io(..) => Retry::Safe,
            ConnectError::Refused { temporary: true, .. } => Retry::Safe,
            _ => Retry::Never,
        }
    }
}

/// Connects and logs in, in at most `within`.
///
/// # Cancel safety
/// Dropped halfway, it leaves nothing behind but a closed socket.
///
/// # Errors
/// See [`ConnectError`]. If a name stands for several addresses, the next one is tried only where no connection came about.
pub async fn connect(target: &Target, within: Duration) -> Result<Backend, ConnectError> {
    let login = Box::pin(connect_and_log_in(target, Instant::now() + within));
    let timeout = || Err(ConnectError::Timeout(target.address.clone()));
    tokio::time::timeout(within, login).await.unwrap_or_else(|_| timeout())
}

async fn connect_and_log_in(target: &Target, deadline: Instant) -> Result<Backend, ConnectError> {
    let backend = log_in(target, &[], deadline).await?;
    let lacking = target.usual.lacking(&backend.state);
    if lacking.is_empty() {
        return Ok(backend);
    }
    backend.farewell();
    tracing::debug!(server = %target.address, ?lacking, "a server's defaults differ from what clients were told: it is asked for these");
    log_in(target, &lacking, deadline).await
}

/// `further`: parameters of the startup packet beside the target's own.
async fn log_in(target: &Target, further: &[Parameter], deadline: Instant) -> Result<Backend, ConnectError> {
    let (place, stream) =
        open_any(target, deadline).await.map_err(|error| ConnectError::Io(target.address.clone(), error))?;
    let mut stream = negotiate(stream, &target.tls, &target.address).await?;
    let (state, key) = Login::new(target, further).run(&mut stream).await?;
    if target.abode.is_elsewhere(&place) {
        let moved = io::Error::other("the server's name has come to stand for another address");
        return Err(ConnectError::Io(target.address.clone(), moved));
    }
    let tls = stream.is_tls().then(|| target.tls.clone());
    let address = target.address.clone();
    Ok(Backend {
        pid: key.as_ref().map_or(0, |key| key.pid),
        stream,
        state,
        id: 0,
        since: Instant::now(),
        home: 0,
        remote: Arc::new(Remote {
            cancel: key.map(|key| CancelTarget { address: address.clone(), key, place, tls }),
            cancels: AtomicUsize::new(0),
            address,
        }),
    })
}

/// One address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Place {
    pub(super) async fn open(&self) -> io::Result<Stream> {
        match self {
            Place::Tcp(address) => Stream::tcp(TcpStream::connect(address).await?, Side::Server),
            Place::Unix(path) => Ok(Stream::unix(UnixStream::connect(path).await?)),
        }
    }
}

/// The first of the server's addresses that answers. Each gets its share of the time that is left, so that a dead first one
/// does not use up all of it.
async fn open_any(target: &Target, deadline: Instant) -> io::Result<(Place, Stream)> {
    let places = places(target).await?;
    let mut error = io::Error::new(ErrorKind::NotFound, "the host name has no address");
    for (tried, place) in places.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now()) / (places.len() - tried) as u32;
        match tokio::time::timeout(left, place.open()).await {
            Ok(Ok(stream)) => return Ok((place.clone(), stream)),
            Ok(Err(failed)) => error = failed,
            Err(_) => error = ErrorKind::TimedOut.into(),
        }
    }
    Err(error)
}

async fn places(target: &Target) -> io::Result<Vec<Place>> {
    if let Some(here) = target.abode.known() {
        return Ok(vec![Place::Tcp(here)]);
    }
    match &target.address {
        ServerAddress::Tcp { host, port } => {
            Ok(target.resolver.addresses(host, *port).await?.into_iter().map(Place::Tcp).collect())
        }
        ServerAddress::Unix { directory, port } => {
            Ok(vec![Place::Unix(directory.join(format!(".s.PGSQL.{port}")))])
        }
    }
}

/// TLS as its mode has it: never, where the server has it, or always.
async fn negotiate(
    mut stream: Stream,
    tls: &Connector,
    address: &ServerAddress,
) -> Result<Stream, ConnectError> {
    // As libpq: nobody else reads a Unix-domain socket.
    if tls.mode() == TlsMode::Disable || stream.is_unix() {
        return Ok(stream);
    }
    match (offers_tls(&mut stream, address).await?, tls.mode()) {
        (true, _) => start_tls(stream, tls, address).await,
        (false, TlsMode::Prefer) => Ok(stream),
        (false, _) => Err(ConnectError::Tls(address.clone(), "the server does not offer it".into())),
    }
}

/// TLS whatever the mode: for a connection that stands for an encrypted one.
pub(super) async fn encrypt(
    mut stream: Stream,
    tls: &Connector,
    address: &ServerAddress,
) -> Result<Stream, ConnectError> {
    match offers_tls(&mut stream, address).await? {
        true => start_tls(stream, tls, address).await,
        false => Err(ConnectError::Tls(address.clone(), "the server does not offer it any more".into())),
    }
}

async fn offers_tls(stream: &mut Stream, address: &ServerAddress) -> Result<bool, ConnectError> {
    let failed = |error| ConnectError::Io(address.clone(), error);
    let mut request = Vec::with_capacity(8);
    write_ssl_request(&mut request);
    stream.write_all(&request).await.map_err(failed)?;
    // Room for more than the one byte: whatever came before the handshake came from nobody that TLS vouches for
    // (CVE-2021-23222).
    let mut answer = [0; 16];
    let count = stream.read_some(&mut answer).await.map_err(failed)?;
    let violation = |why: &'static str| Err(ConnectError::Protocol(address.clone(), why.into()));
    match &answer[..count] {
        [] => Err(failed(ErrorKind::UnexpectedEof.into())),
        b"S" => Ok(true),
        b"N" => Ok(false),
        // Its text is not passed on: nobody vouches for that either (CVE-2024-10977).
        [b'E', ..] => violation("an error in answer to SSLRequest"),
        [b'S' | b'N', ..] => violation("unencrypted data after the answer to SSLRequest"),
        _ => violation("neither S nor N in answer to SSLRequest"),
    }
}

async fn start_tls(stream: Stream, tls: &Connector, address: &ServerAddress) -> Result<Stream, ConnectError> {
    let host = address.host();
    tls.connect(stream, &host).await.map_err(|error| match error.kind() {
        ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::Other => {
            ConnectError::Tls(address.clone(), error.to_string().into())
        }
        _ => ConnectError::Io(address.clone(), error),
    })
}

/// From the StartupMessage to ReadyForQuery.
struct Login<'a> {
    target: &'a Target,
    further: &'a [Parameter],
    exchange: Exchange,
}

/// ```text
///   Start --Ok----------------------------------------> Done
///   Start --CleartextPassword | MD5Password--> Answered --Ok--> Done
///   Start --SASL--> Scram --Continue--> Scram --Final--> Answered --Ok--> Done
/// ```
enum Exchange {
    Start,
    /// SCRAM is under way: the server has yet to prove that it knows the user's verifier.
    Scram(Box<ScramClient>),
    /// All that is left to say is whether we may come in.
    Answered,
    Done,
}

impl<'a> Login<'a> {
    fn new(target: &'a Target, further: &'a [Parameter]) -> Self {
        Login { target, further, exchange: Exchange::Start }
    }

    async fn run(mut self, stream: &mut Stream) -> Result<(ServerState, Option<ServerKey>), ConnectError> {
        let mut dialog = Dialog::default();
        let mut state = ServerState::new(self.target.statements);
        let mut key = None;
        write_startup(dialog.out(), &self.startup_parameters());
        loop {
            let message = match dialog.next(stream, &mut state, MAX_LOGIN_MESSAGE).await {
                Ok(message) if message.is_whole => message,
                Ok(_) => return Err(self.violation("a message of over 64 KiB during login")),
                Err(error) => return Err(self.failed(error)),
            };
            match (message.tag, &self.exchange) {
                (BackendTag::AUTHENTICATION, _) => {
                    let answer = self.authenticate(message.body)?;
                    dialog.out().extend_from_slice(&answer);
                }
                (BackendTag::ERROR_RESPONSE, _) => return Err(refused(&message)),
                (BackendTag::BACKEND_KEY_DATA, Exchange::Done) => key = Some(self.key(message.body)?),
                (BackendTag::READY_FOR_QUERY, Exchange::Done) => break,
                _ => return Err(self.violation("a message that has no place in a login")),
            }
        }
        dialog.finish(&mut state).map_err(|error| self.failed(error))?;
        if !dialog.is_between_messages() {
            return Err(self.violation("data after the login that nobody asked for"));
        }
        Ok((state, key))
    }

    fn startup_parameters(&self) -> Vec<(&'a str, &'a str)> {
        let target = self.target;
        let own = target.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let further = self.further.iter().map(|(name, value)| (&**name, &**value));
        [("user", target.user.as_str()), ("database", target.database.as_str())]
            .into_iter()
            .chain(own)
            .chain(further)
            .collect()
    }

    /// The answer to an Authentication message: messages to send, or nothing.
    fn authenticate(&mut self, body: &[u8]) -> Result<Vec<u8>, ConnectError> {
        let mut reader = Reader::new(body);
        let code =
            reader.int32().ok_or_else(|| self.violation("an Authentication message without a code"))?;
        let data = reader.rest();
        let mut answer = Vec::new();
        self.exchange = match (std::mem::replace(&mut self.exchange, Exchange::Done), code) {
            (Exchange::Start | Exchange::Answered, OK) => Exchange::Done,
            (Exchange::Start, CLEARTEXT_PASSWORD) => {
                let password = self.target.credential.clear_text();
                write_password(&mut answer, password.ok_or_else(|| self.lack("its password"))?.as_bytes());
                Exchange::Answered
            }
            (Exchange::Start, MD5_PASSWORD) => {
                let salt =
                    data.try_into().map_err(|_| self.violation("an MD5 salt that is not four bytes"))?;
                let response = md5::response(&self.target.credential, &self.target.user, salt);
                let response = response.ok_or_else(|| self.lack("its password or md5 hash"))?;
                write_password(&mut answer, response.as_bytes());
                Exchange::Answered
            }
            (Exchange::Start, SASL) => {
                if !offered(data) {
                    return Err(self.auth("the server offers no SASL mechanism that is spoken here"));
                }
                let client = self.scram()?;
                write_sasl_initial(&mut answer, MECHANISM, &client.first());
                Exchange::Scram(Box::new(client))
            }
            (Exchange::Scram(mut client), SASL_CONTINUE) => {
                let response = client.server_first(data).map_err(|error| self.scram_error(error))?;
                write_sasl_response(&mut answer, &response);
                Exchange::Scram(client)
            }
            (Exchange::Scram(mut client), SASL_FINAL) => {
                let keys = client.server_final(data).map_err(|error| self.scram_error(error))?;
                self.target.scram.keep(&self.target.user, &self.target.credential, keys);
                Exchange::Answered
            }
            (Exchange::Scram(_), OK) => {
                return Err(self.auth("the server did not prove that it knows the user's verifier"));
            }
            (Exchange::Start, KERBEROS_V5 | GSS | SSPI) => {
                return Err(
                    self.auth("the server asks for Kerberos, GSSAPI or SSPI, which are not spoken here")
                );
            }
            _ => return Err(self.violation("an Authentication message that is unknown or out of order")),
        };
        Ok(answer)
    }

    fn scram(&self) -> Result<ScramClient, ConnectError> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|error| {
            ConnectError::Io(self.target.address.clone(), io::Error::other(error.to_string()))
        })?;
        let cached = self.target.scram.keys(&self.target.user, &self.target.credential);
        ScramClient::new(&self.target.credential, cached.as_ref(), &nonce)
            .map_err(|error| self.scram_error(error))
    }

    fn key(&self, body: &[u8]) -> Result<ServerKey, ConnectError> {
        let mut reader = Reader::new(body);
        let pid = reader.int32().ok_or_else(|| self.violation("a BackendKeyData without a process id"))?;
        match reader.rest() {
            secret if secret.len() <= crate::wire::cancel::MAX_SECRET => Ok(ServerKey::new(pid, secret)),
            _ => Err(self.violation("a cancel key that is too long")),
        }
    }

    fn failed(&self, error: DialogError) -> ConnectError {
        match error {
            DialogError::Io(error) => ConnectError::Io(self.target.address.clone(), error),
            DialogError::Framing(error) => {
                ConnectError::Protocol(self.target.address.clone(), error.to_string().into())
            }
            DialogError::LastWords(report) => {
                ConnectError::Refused { report: *report, temporary: true, full: None }
            }
            DialogError::Unexpected(what) => self.violation(what),
        }
    }

    fn scram_error(&self, error: ScramError) -> ConnectError {
        match error {
            ScramError::Malformed(_) | ScramError::Unsupported(_) => {
                ConnectError::Protocol(self.target.address.clone(), error.to_string().into())
            }
            _ => ConnectError::Auth(self.target.address.clone(), error.to_string().into()),
        }
    }

    fn lack(&self, what: &str) -> ConnectError {
        let (user, have) = (&self.target.user, self.target.credential.kind());
        let why = format!("the server asks user \"{user}\" for {what}, and all there is is {have}");
        ConnectError::Auth(self.target.address.clone(), why.into())
    }

    fn auth(&self, why: &'static str) -> ConnectError {
        ConnectError::Auth(self.target.address.clone(), why.into())
    }

    fn violation(&self, why: &'static str) -> ConnectError {
        ConnectError::Protocol(self.target.address.clone(), why.into())
    }
}

fn refused(message: &Message<'_>) -> ConnectError {
    let fields = Fields::new(message.body);
    ConnectError::Refused {
        report: server_report(&fields),
        temporary: fields.code().is_some_and(is_temporary),
        full: Full::of(&fields),
    }
}

/// What a server's ErrorResponse says, of which every field may be missing.
pub(super) fn server_report(fields: &Fields<'_>) -> Report {
    let text = |letter| -> String {
        String::from_utf8_lossy(fields.text(letter).unwrap_or_default()).chars().take(MAX_TEXT).collect()
    };
    let message = match fields.message() {
        message if message.is_empty() => Cow::Borrowed("the server gave no reason"),
        message => Cow::Owned(message),
    };
    Report::new(ErrorSource::Server, fields.code().unwrap_or(SqlState::CONNECTION_FAILURE), message)
        .detail(text(b'D'))
        .hint(text(b'H'))
}

/// Whether the same login may succeed later: the server is short of something, starting, stopping or losing connections.
fn is_temporary(code: SqlState) -> bool {
    match &code.class() {
        b"53" => true,
        b"08" => code != SqlState::PROTOCOL_VIOLATION,
        b"57" => code != SqlState::QUERY_CANCELED && code != SqlState::IDLE_SESSION_TIMEOUT,
        _ => false,
    }
}

// Codes of Authentication messages.
const OK: i32 = 0;
const KERBEROS_V5: i32 = 2;
const CLEARTEXT_PASSWORD: i32 = 3;
const MD5_PASSWORD: i32 = 5;
const GSS: i32 = 7;
const SSPI: i32 = 9;
const SASL: i32 = 10;
const SASL_CONTINUE: i32 = 11;
const SASL_FINAL: i32 = 12;

/// The longest message that a server may send during login, in bytes.
const MAX_LOGIN_MESSAGE: usize = 64 * 1024;

/// The longest detail or hint of a server's that is passed on, in characters.
const MAX_TEXT: usize = 1000;

/// Random bytes of a SCRAM nonce, as PostgreSQL's own.
const NONCE: usize = 18;

#[cfg(test)]
mod tests;
