//! Clients that replicate (`replication=true|database`): from the login on, bytes pass both ways as they are.
//!
//! The client has a server connection of its own, which no pool knows; its place among the clients, its cancel key and the
//! orders to leave are as everybody's. What flows is not looked into, so a client that is told to leave cannot be told why:
//! its connection ends, as when a server goes down, and replication goes on where it stood once it is made anew.

use super::Worker;
use super::clients::{Order, Registration};
use super::outlet::{fill, flush};
use crate::cluster::Replication;
use crate::net::{Buffer, Shelf, Stream};
use crate::wire::startup::Replication as Mode;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

/// A client that replicates, logged in on both sides.
pub struct Replicating {
    /// The client's connection.
    pub stream: Stream,
    /// What it sent beyond its login.
    pub early: Vec<u8>,
    /// What it asked for.
    pub mode: Mode,
    /// The server's connection.
    pub replication: Replication,
    /// Its entry among the clients.
    pub registration: Registration,
}

/// Passes bytes until either side ends, or the client is told to leave.
pub async fn run(replicating: Replicating, worker: &Worker) {
    let Replicating { mut stream, early, mode, replication: mut held, registration } = replicating;
    let card = registration.card();
    card.replicates(mode, &held.backend);
    let (mut up, mut down) = (Buffer::empty(), Buffer::empty());
    up.extend(&early);
    let ended = poll_fn(|cx| {
        card.wakes(cx.waker());
        // A reload leaves it where it is.
        if card.order() > Order::Move {
            return Poll::Ready(Ok(()));
        }
        let server = &mut held.backend.stream;
        let (mut received, mut sent) = (0, 0);
        // Both directions are polled always.
        let from_client = pass(&mut stream, server, &mut up, &worker.shelf, &mut received, cx);
        let from_server = pass(server, &mut stream, &mut down, &worker.shelf, &mut sent, cx);
        if received + sent > 0 {
            let mut stats = held.pools().stats(worker.index);
            stats.received += received;
            stats.sent += sent;
        }
        match from_server {
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending => from_client,
        }
    });
    if let Err(error) = ended.await {
        tracing::debug!(client = card.id, %error, "a replication connection broke");
    }
    // From here on no cancel request can be aimed at it.
    card.rests(0);
    held.backend.stream.write_if_ready(up.filled());
    let _ = stream.shutdown().await;
}

/// Passes what there is from one side to the other. Ready when the first has ended and all that it said is passed on.
fn pass(
    from: &mut Stream,
    to: &mut Stream,
    left: &mut Buffer,
    shelf: &Shelf,
    count: &mut u64,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    loop {
        ready!(flush(to, left, cx)?);
        match fill(from, left, shelf, &mut false, cx) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
            Poll::Ready(read) => *count += read? as u64,
            Poll::Pending => {
                left.give_back(shelf);
                return Poll::Pending;
            }
        }
    }
}
