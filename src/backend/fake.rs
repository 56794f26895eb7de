//! A server that says what a test tells it to.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::connect::{Abode, ScramCache, Target};
use super::usual::Usual;
use crate::auth::ServerCredential;
use crate::config::ServerAddress;
use crate::net::{Connector, Resolver};
use crate::wire::ClientKey;
use crate::wire::backend::{
    TransactionStatus, write_authentication_ok, write_key_data, write_parameter_status, write_ready,
};

/// Long for what takes microseconds; every test ends by then.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// A listening socket and a login that goes there.
pub(super) async fn listen() -> (TcpListener, Target) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = ServerAddress::Tcp { host: "localhost".into(), port };
    (listener, target(address))
}

pub(super) fn target(address: ServerAddress) -> Target {
    Target {
        address,
        tls: Connector::disabled(),
        user: "app".into(),
        database: "shop".into(),
        credential: ServerCredential::Plain("secret".into()),
        statements: 10,
        parameters: vec![("application_name".into(), "pglagoon".into())],
        scram: ScramCache::default(),
        resolver: Resolver::system(),
        abode: Abode::default(),
        usual: Usual::default(),
    }
}

/// One connection, from the server's side.
pub(super) struct Fake<S = TcpStream>(pub(super) S);

impl Fake {
    pub(super) async fn accept(listener: &TcpListener) -> Self {
        Fake(listener.accept().await.unwrap().0)
    }
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Fake<S> {
    /// An untagged packet, without its length.
    pub(super) async fn packet(&mut self) -> Vec<u8> {
        let length = self.0.read_u32().await.unwrap();
        self.bytes(length as usize - 4).await
    }

    /// Tag and body of a message.
    pub(super) async fn message(&mut self) -> (u8, Vec<u8>) {
        let tag = self.0.read_u8().await.unwrap();
        (tag, self.packet().await)
    }

    /// A Query, of which only the text is of interest.
    pub(super) async fn query(&mut self) -> String {
        let (tag, body) = self.message().await;
        assert_eq!(tag, b'Q');
        String::from_utf8(body[..body.len() - 1].to_vec()).unwrap()
    }

    async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Sends what `write` writes.
    pub(super) async fn say(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        write(&mut out);
        self.send(&out).await;
    }

    /// Reads a TLS ClientHello.
    pub(super) async fn hello(&mut self) {
        let mut head = [0; 5];
        self.0.read_exact(&mut head).await.unwrap();
        self.bytes(usize::from(u16::from_be_bytes([head[3], head[4]]))).await;
    }

    /// Waits until the other side is gone.
    pub(super) async fn closed(&mut self) -> bool {
        let read: io::Result<usize> = self.0.read(&mut [0; 64]).await;
        matches!(read, Ok(0) | Err(_))
    }

    /// Reads the startup packet and lets the login in.
    pub(super) async fn let_in(&mut self) {
        self.packet().await;
        self.say(welcome).await;
    }
}

/// All that follows a successful authentication.
pub(super) fn welcome(out: &mut Vec<u8>) {
    write_authentication_ok(out);
    write_parameter_status(out, "server_version", "17.2");
    write_key_data(out, &ClientKey::new(4711, b"\x01\x02\x03\x04"));
    write_ready(out, TransactionStatus::Idle);
}

/// One message from its tag and body.
pub(super) fn raw(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
    out
}
