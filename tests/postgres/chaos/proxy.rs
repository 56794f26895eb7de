//! A network between pglagoon and one server, which does what networks do: stops carrying anything without a word, is
//! slow, cuts.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// Nothing is carried, connections are accepted as ever. What is under way arrives when that is over.
    Hole,
    /// A new connection reaches the server so much later.
    SlowLogin(Duration),
}

/// A listening socket before a server.
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    weather: Weather,
    /// How often all connections were cut.
    cuts: u64,
}

impl Proxy {
    /// Listens on a port of its own, and carries what comes to `port`.
    pub async fn before(port: u16) -> Proxy {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), port).await
    }

    /// The same at an address that is given.
    pub async fn at(address: SocketAddr, port: u16) -> Proxy {
        let listener = TcpListener::bind(address).await.unwrap();
        let (state, watched) = watch::channel(State { weather: Weather::Fair, cuts: 0 });
        let proxy = Proxy { port: listener.local_addr().unwrap().port(), state };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, port, watched.clone()));
            }
        });
        proxy
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn set(&self, weather: Weather) {
        self.state.send_modify(|state| state.weather = weather);
    }

    /// Ends every connection.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }
}

async fn connection(client: TcpStream, port: u16, mut state: watch::Receiver<State>) {
    let State { weather, cuts } = *state.borrow();
    if let Weather::SlowLogin(pause) = weather {
        tokio::time::sleep(pause).await;
    }
    if state.wait_for(|state| state.weather != Weather::Hole).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    // Either side's end is the other's: a server that is gone says so by closing.
    tokio::select! {
        () = carry(from_client, to_server, state.clone()) => {}
        () = carry(from_server, to_client, state.clone()) => {}
        _ = state.wait_for(|state| state.cuts != cuts) => {}
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let is_carried = |state: &State| state.weather != Weather::Hole;
        if state.wait_for(is_carried).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    // An end is not carried through a hole either.
    let _ = state.wait_for(|state| state.weather != Weather::Hole).await;
}
