//! Clients on their way from one process to the next: what goes along with the socket, and how they go on.
//!
//! ```text
//!   old: Relay, at rest --> Passenger --courier--> new: board --> Authenticated --> Relay
//! ```
//! A passenger's socket is handed over as it is: what the client has sent meanwhile waits in it. Only sockets in the clear can
//! be; nobody else can go on with the state of TLS. There is room for so much with each ([`has_room`]): one letter.

use super::clients::{ClientCard, Newcomer, Registration};
use super::handshake::{self, Authenticated};
use super::relay::Relay;
use super::{Frontend, Worker};
use crate::auth::ServerCredential;
use crate::error::{ErrorSource, Report};
use crate::net::courier::MAX_LETTER;
use crate::net::{Buffer, Side, Stream};
use crate::session::luggage::Text;
use crate::session::{Luggage, Session};
use crate::wire::{ClientKey, SqlState};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

/// A client on its way.
pub struct Passenger {
    /// Its connection.
    pub socket: OwnedFd,
    /// Who it is.
    pub passport: Box<Passport>,
}

/// Where those that are handed over go.
pub type Gangway = mpsc::UnboundedSender<Passenger>;

/// Who a client is, and what it has.
#[derive(Serialize, Deserialize)]
pub struct Passport {
    /// Over what its connection runs.
    transport: Transport,
    /// Its cancel key, which it goes on using.
    pid: i32,
    secret: Text,
    user: String,
    database: String,
    application_name: String,
    /// What its login is worth at the servers.
    credential: ServerCredential,
    /// Whether clients like it ask for `currval`.
    uses_sequences: bool,
    /// What was read from it and not dealt with.
    early: Text,
    luggage: Luggage,
}

/// How long the rest of a passport is at most, in bytes: names out of a startup packet, and a credential.
const PAPERS: usize = 64 * 1024;

/// Whether there is room for a client with this conversation, of which so many bytes were read and not dealt with.
pub fn has_room(session: &Session, early: usize) -> bool {
    let length = PAPERS + session.luggage_length() + early;
    length.saturating_mul(Text::GROWTH) <= MAX_LETTER
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Transport {
    Tcp,
    Unix,
}

/// What a relay has of a client that leaves.
pub struct Leaving<'a> {
    /// Its entry among the clients.
    pub card: &'a ClientCard,
    /// What its login is worth at the servers.
    pub credential: ServerCredential,
    /// Whether clients like it ask for `currval`.
    pub uses_sequences: bool,
    /// What was read from it and not dealt with.
    pub early: &'a [u8],
    /// Its conversation.
    pub session: &'a Session,
}

impl Passenger {
    /// A client at rest.
    ///
    /// # Errors
    /// Its connection cannot be handed over.
    pub fn new(stream: Stream, leaving: Leaving<'_>) -> io::Result<Passenger> {
        let Leaving { card, credential, uses_sequences, early, session } = leaving;
        let transport = if stream.is_unix() { Transport::Unix } else { Transport::Tcp };
        let passport = Passport {
            transport,
            pid: card.key.pid,
            secret: Text::of(card.key.secret()),
            user: card.user.to_string(),
            database: card.database.to_string(),
            application_name: card.application_name.to_string(),
            credential,
            uses_sequences,
            early: Text::of(early),
            luggage: session.pack(),
        };
        Ok(Passenger { socket: stream.into_descriptor()?, passport: Box::new(passport) })
    }

    /// Its connection, on the runtime that this is called on.
    ///
    /// # Errors
    /// What the socket says.
    pub fn stream(socket: OwnedFd, passport: &Passport) -> io::Result<Stream> {
        match passport.transport {
            Transport::Tcp => {
                let socket = std::net::TcpStream::from(socket);
                socket.set_nonblocking(true)?;
                Stream::tcp(TcpStream::from_std(socket)?, Side::Client)
            }
            Transport::Unix => {
                let socket = std::os::unix::net::UnixStream::from(socket);
                socket.set_nonblocking(true)?;
                Ok(Stream::unix(UnixStream::from_std(socket)?))
            }
        }
    }
}

/// Takes a client on: it goes on as if nothing had been. It is told why if it cannot.
pub async fn board(
    passenger: Passenger,
    frontend: &Arc<Frontend>,
    worker: &Rc<Worker>,
) -> Option<Box<Relay>> {
    let Passenger { socket, passport } = passenger;
    let mut stream = match Passenger::stream(socket, &passport) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, "a client that was handed over is gone");
            return None;
        }
    };
    match admit(*passport, &stream, frontend, worker) {
        Ok((registration, early, pools, session, config)) => {
            let client = Authenticated { stream, early, pools, session, registration, config };
            Some(Box::new(Relay::new(client, worker.clone())))
        }
        Err(report) => {
            tracing::info!(%report, "a client that was handed over cannot go on");
            handshake::tell(&mut stream, &report).await;
            None
        }
    }
}

type Admitted = (Registration, Buffer, crate::cluster::Member, Session, Arc<crate::config::Config>);

fn admit(
    passport: Passport,
    stream: &Stream,
    frontend: &Arc<Frontend>,
    worker: &Worker,
) -> Result<Admitted, Report> {
    let config = frontend.access.load().config.clone();
    if !config.may_be_user(&passport.user, &passport.database) {
        return Err(ended(format!("User \"{}\" is not configured any more.", passport.user)));
    }
    if frontend.clients.find(passport.pid).is_some() {
        return Err(ended("Its number has been given to another client.".into()));
    }
    // DISABLE is for new clients, and this is none.
    let database = frontend
        .directory
        .find(&passport.database)
        .ok_or_else(|| ended(format!("Database \"{}\" is not configured any more.", passport.database)))?;
    let pools = database.user(&passport.user, &passport.credential);
    if passport.uses_sequences {
        pools.pinned.use_sequences();
    }
    let session = Session::unpack(
        passport.luggage,
        pools.rules().mode,
        pools.level(),
        &mut worker.desk().registry,
        database.generation(),
        std::time::Instant::now(),
    );
    let card = ClientCard::new(Newcomer {
        id: passport.pid as u64,
        key: ClientKey::new(passport.pid, &passport.secret.bytes()),
        user: pools.user.clone(),
        database: database.name.clone(),
        peer: stream.peer(),
        local: stream.local(),
        tls: Box::default(),
        application_name: passport.application_name.into(),
    });
    let mut early = Buffer::empty();
    early.extend(&passport.early.bytes());
    Ok((Registration::new(card, frontend), early, pools.enter(), session, config))
}

fn ended(detail: String) -> Report {
    let text = "terminating connection due to administrator command";
    Report::new(ErrorSource::Pooler, SqlState::ADMIN_SHUTDOWN, text).detail(detail)
}
