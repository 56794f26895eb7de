//! Clients that replicate (`replication=true|database`): from the login on, bytes pass both ways as they are.
//!
//! The client has a server connection of its own, which no pool knows; its place among the clients, its cancel key and the
//! orders to leave are as everybody's. Of what flows only the lengths are looked at, to know where a message ends: a client whose
//! server hangs for too long is told so between two of them, and not at all in the middle of one. Its connection ends, as when
//! a server goes down, and replication goes on where it stood once it is made anew.

use super::Worker;
use super::clients::{Order, Registration};
use super::outlet::{fill, flush};
use super::relay::FAREWELL_TIMEOUT;
use crate::cluster::Replication;
use crate::error::{ErrorSource, Report};
use crate::net::{Buffer, Shelf, Stream};
use crate::wire::SqlState;
use crate::wire::backend::Severity;
use crate::wire::scan::HEADER;
use crate::wire::startup::Replication as Mode;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

/// A client that replicates, logged in on both sides.
pub struct Replicating {
    /// The client's connection.
    pub stream: Stream,
    /// What it sent beyond its login.
    pub early: Buffer,
    /// What it asked for.
    pub mode: Mode,
    /// The server's connection.
    pub replication: Replication,
    /// Its entry among the clients.
    pub registration: Registration,
}

/// How it ended.
enum End {
    /// One side has ended, or the client was told to leave.
    Closed,
    /// The server says nothing any more, and why that is known.
    Forsaken(&'static str),
}

/// Where a stream of messages stands.
#[derive(Default)]
struct Frames {
    header: [u8; HEADER],
    /// How much of the next message's header has passed.
    known: usize,
    /// How much of the present message is still to pass.
    rest: usize,
}

/// Passes bytes until either side ends, the server is given up, or the client is told to leave.
pub async fn run(replicating: Replicating, worker: &Worker) {
    let Replicating { mut stream, early, mode, replication: mut held, registration } = replicating;
    let card = registration.card();
    card.replicates(mode, &held.backend);
    let (mut up, mut down) = (early, Buffer::empty());
    let (mut ignored, mut frames) = (None, Some(Frames::default()));
    let ended = poll_fn(|cx| {
        card.wakes(cx.waker());
        let order = card.order();
        // A reload leaves it where it is.
        if order > Order::Move {
            return Poll::Ready(Ok(End::Closed));
        }
        // Whatever the order is: it may stand for more than one.
        if order != Order::None
            && let Some(why) = held.why_forsaken()
        {
            return Poll::Ready(Ok(End::Forsaken(why)));
        }
        if order == Order::Look {
            card.obeyed(order);
        }
        let server = &mut held.backend.stream;
        let (mut received, mut sent) = (0, 0);
        // Both directions are polled always.
        let from_client =
            pass(&mut stream, server, (&mut up, &mut ignored), &worker.shelf, &mut received, cx);
        let from_server = pass(server, &mut stream, (&mut down, &mut frames), &worker.shelf, &mut sent, cx);
        if received + sent > 0 {
            let mut stats = held.pools().stats(worker.index);
            stats.received += received;
            stats.sent += sent;
        }
        match from_server {
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending => from_client,
        }
        .map_ok(|()| End::Closed)
    });
    match ended.await {
        Ok(End::Closed) => {}
        Ok(End::Forsaken(why)) => {
            tracing::info!(client = card.id, why, "a replication connection is given up");
            held.pools().stats(worker.index).error(ErrorSource::Server, SqlState::CONNECTION_FAILURE);
            if down.is_empty() && frames.is_some_and(|frames| frames.is_between()) {
                stream.write_if_ready(&last_words(why));
            }
        }
        Err(error) => tracing::debug!(client = card.id, %error, "a replication connection broke"),
    }
    // From here on no cancel request can be aimed at it.
    card.rests(0);
    held.backend.stream.write_if_ready(up.filled());
    // Before the goodbye, for which a client that reads nothing may keep us waiting.
    drop(held);
    let _ = tokio::time::timeout(FAREWELL_TIMEOUT, stream.shutdown()).await;
}

/// Passes what there is from one side to the other. Ready when the first has ended and all that it said is passed on.
fn pass(
    from: &mut Stream,
    to: &mut Stream,
    (left, frames): (&mut Buffer, &mut Option<Frames>),
    shelf: &Shelf,
    count: &mut u64,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    loop {
        ready!(flush(to, left, cx)?);
        match fill(from, left, shelf, &mut false, cx) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
            Poll::Ready(read) => {
                *count += read? as u64;
                // Nothing else was left.
                frames.iter_mut().for_each(|frames| frames.pass(left.filled()));
            }
            Poll::Pending => {
                left.give_back(shelf);
                return Poll::Pending;
            }
        }
    }
}

impl Frames {
    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, behind)) = bytes.split_first() {
            if self.rest > 0 {
                let passed = self.rest.min(bytes.len());
                self.rest -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            self.header[self.known] = *first;
            self.known += 1;
            bytes = behind;
            if self.known == HEADER {
                let [_, length @ ..]: [u8; HEADER] = self.header;
                // The length counts itself.
                self.rest = (u32::from_be_bytes(length) as usize).saturating_sub(length.len());
                self.known = 0;
            }
        }
    }

    /// Whether something else may be said here.
    fn is_between(&self) -> bool {
        self.known == 0 && self.rest == 0
    }
}

/// As a walsender's that is told to end.
fn last_words(why: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let text = format!("terminating connection: {why}");
    Report::new(ErrorSource::Server, SqlState::ADMIN_SHUTDOWN, text)
        .hint("Replication can go on where it stood, over a new connection.")
        .write(&mut out, Severity::Fatal);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_ours_stands_between_two_messages_however_they_come() {
        let stream = [&b"d\0\0\0\x07abc"[..], b"c\0\0\0\x04", b"Z\0\0\0\x05I"].concat();
        let ends = [0, 8, 13, 19];
        for step in 1..=stream.len() {
            let mut frames = Frames::default();
            let mut passed = 0;
            for part in stream.chunks(step) {
                frames.pass(part);
                passed += part.len();
                assert_eq!(frames.is_between(), ends.contains(&passed), "{passed} bytes, {step} at a time");
            }
        }
    }
}
