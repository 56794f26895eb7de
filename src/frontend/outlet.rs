//! What goes out of a relay on one side, and what comes in.

use super::Seat;
use crate::net::outbox::{Owner, Turn};
use crate::net::{Buffer, Shelf, Side, Stream};
use crate::session::Edits;
use std::io;
use std::task::{Context, Poll, ready};

/// The way out on one side: short messages are posted, to leave with those of others; what the kernel does not take stays
/// in `left`, and stands before all that follows.
pub(super) struct Outlet<'a> {
    pub stream: &'a mut Stream,
    pub left: &'a mut Buffer,
    pub last: &'a mut Turn,
    pub seat: &'a Seat,
    pub to: Side,
}

impl Outlet<'_> {
    /// Consumes the input that the edits speak of and sends their output. Answers how many bytes that has.
    pub fn carry_out(&mut self, edits: &Edits, input: &mut Buffer, cx: &mut Context<'_>) -> io::Result<u64> {
        let carried = self.write_out(edits, input.filled(), cx);
        // Whatever became of the output: the session has dealt with the input, and must not be shown it again.
        input.consume(edits.consumed());
        carried
    }

    fn write_out(&mut self, edits: &Edits, input: &[u8], cx: &mut Context<'_>) -> io::Result<u64> {
        let length = edits.output();
        if length == 0 {
            return Ok(0);
        }
        let (owner, outbox) = (self.owner(), &self.seat.outbox);
        let pieces = || edits.iter().map(|edit| edit.bytes(input));
        if self.left.is_empty() && outbox.post(owner, self.last, self.stream, length, pieces()) {
            return Ok(length as u64);
        }
        self.gather()?;
        let mut written = 0;
        if let Some(run) = edits.single_forward().filter(|_| self.left.is_empty())
            && let Poll::Ready(count) = self.stream.poll_write(cx, &input[run])?
        {
            written = count;
        }
        for piece in pieces() {
            let ahead = written.min(piece.len());
            written -= ahead;
            self.left.append(&piece[ahead..], &self.seat.shelf);
        }
        let _ = self.flush(cx)?;
        Ok(length as u64)
    }

    /// Writes what is left over; ready when nothing is, which is almost always so.
    #[inline]
    pub fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        if let Some(returned) = self.seat.outbox.reclaim(self.owner())? {
            self.left.put_back(&returned);
        }
        if !self.left.is_empty() {
            self.gather()?;
        }
        flush(self.stream, self.left, cx)
    }

    /// Whatever is posted is sent, or in `left`.
    pub fn gather(&mut self) -> io::Result<()> {
        if !self.seat.outbox.settle(self.owner(), *self.last)
            && let Some(returned) = self.seat.outbox.reclaim(self.owner())?
        {
            self.left.put_back(&returned);
        }
        Ok(())
    }

    fn owner(&self) -> Owner {
        Owner { client: self.seat.client, to: self.to }
    }
}

/// Reads what is there, if there is room for it, and if the stream is not known to be quiet. Pending without room: whoever
/// makes room polls again.
pub(super) fn fill(
    stream: &mut Stream,
    buffer: &mut Buffer,
    shelf: &Shelf,
    is_quiet: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    if *is_quiet {
        return Poll::Pending;
    }
    *is_quiet = true;
    ready!(stream.poll_readable(cx))?;
    buffer.take_from(shelf);
    if buffer.space().is_empty() {
        *is_quiet = false;
        return Poll::Pending;
    }
    let count = ready!(stream.poll_read_arrived(cx, buffer.space()))?;
    *is_quiet = false;
    buffer.advance_filled(count);
    Poll::Ready(Ok(count))
}

/// Writes what is left over; ready when nothing is, which is almost always so.
#[inline]
pub(super) fn flush(stream: &mut Stream, left: &mut Buffer, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
    if !left.is_empty() && write_left(stream, left, cx)?.is_pending() {
        return Ok(Poll::Pending);
    }
    // Only TLS keeps anything back.
    match stream.poll_flush(cx) {
        Poll::Ready(flushed) => flushed.map(Poll::Ready),
        Poll::Pending => Ok(Poll::Pending),
    }
}

fn write_left(stream: &mut Stream, left: &mut Buffer, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
    while !left.is_empty() {
        match stream.poll_write(cx, left.filled())? {
            Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(count) => left.consume(count),
            Poll::Pending => return Ok(Poll::Pending),
        }
    }
    Ok(Poll::Ready(()))
}
