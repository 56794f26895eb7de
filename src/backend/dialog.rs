//! Talking to a server in our own name: whole messages out, messages in.
//!
//! Both directions are always polled: a server that is busy sending reads nothing, so waiting for a write alone would
//! wait for ever. What a server may say at any time (ParameterStatus, NoticeResponse, NotificationResponse) is dealt with here and
//! not handed out.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::task::{Context, Poll};

use super::connect::server_report;
use crate::error::Report;
use crate::net::Stream;
use crate::session::server_state::ServerState;
use crate::wire::backend::{Fields, parameter_status};
use crate::wire::scan::HEADER;
use crate::wire::{BackendTag, FramingError, Scanner, Step};

/// What was read and not yet dealt with, and what is to be written.
#[derive(Default)]
pub(super) struct Dialog {
    scanner: Scanner<BackendTag>,
    unread: Vec<u8>,
    /// How much of `unread` is dealt with.
    start: usize,
    out: Vec<u8>,
    unasked: Unasked,
}

/// What is dealt with here of all that a server may say unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Unasked {
    /// Everything.
    #[default]
    DealtWith,
    /// Notifications are handed out.
    NotificationsToo,
}

/// A message from the server.
pub(super) struct Message<'a> {
    pub(super) tag: BackendTag,
    pub(super) body: &'a [u8],
    /// Whether `body` is all of it; a message longer than asked for comes without its end.
    pub(super) is_whole: bool,
}

/// Why there is no next message.
#[derive(Debug)]
pub(super) enum DialogError {
    Io(io::Error),
    Framing(FramingError),
    /// The server says why it closes the connection.
    LastWords(Box<Report>),
    /// Something that has no place here.
    Unexpected(&'static str),
}

impl Dialog {
    /// At the beginning of a message.
    pub(super) fn new(unasked: Unasked) -> Self {
        Dialog { unasked, ..Dialog::default() }
    }

    /// Goes on where somebody else stopped reading.
    pub(super) fn resume(scanner: Scanner<BackendTag>, unread: Vec<u8>) -> Self {
        Dialog { scanner, unread, ..Dialog::default() }
    }

    /// Where messages to be sent are appended; [`Dialog::next`] sends them.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// The next message that answers something. A message of up to `keep` bytes comes whole, a longer one without its
    /// end, which is skipped unseen.
    ///
    /// # Cancel safety
    /// Dropped, what was read and what is to be written stay here.
    pub(super) async fn next(
        &mut self,
        stream: &mut Stream,
        state: &mut ServerState,
        keep: usize,
    ) -> Result<Message<'_>, DialogError> {
        loop {
            let step = self.scanner.step(&self.unread[self.start..]).map_err(DialogError::Framing)?;
            match step {
                Step::Rest(count) => self.pass(&step, count),
                Step::Message(span) if span.is_whole() || span.len() > keep => {
                    let body = self.start + HEADER..self.start + span.have();
                    self.pass(&step, span.have());
                    let is_handed_out = self.unasked == Unasked::NotificationsToo
                        && span.tag() == BackendTag::NOTIFICATION_RESPONSE;
                    if span.is_whole()
                        && !is_handed_out
                        && take_in(span.tag(), &self.unread[body.clone()], state)
                    {
                        continue;
                    }
                    let body = &self.unread[body];
                    return Ok(Message { tag: span.tag(), body, is_whole: span.is_whole() });
                }
                Step::Message(_) | Step::Need => self.exchange(stream).await.map_err(DialogError::Io)?,
            }
        }
    }

    /// Takes in what came on an idle connection.
    pub(super) fn unasked(&mut self, bytes: &[u8], state: &mut ServerState) -> Result<(), DialogError> {
        self.unread.extend_from_slice(bytes);
        self.finish(state)
    }

    /// After the last answer: nothing may be left but what a server may say unasked.
    pub(super) fn finish(&mut self, state: &mut ServerState) -> Result<(), DialogError> {
        const UNASKED: DialogError = DialogError::Unexpected("a message that nobody asked for");
        loop {
            let step = self.scanner.step(&self.unread[self.start..]).map_err(DialogError::Framing)?;
            match step {
                Step::Message(span) if span.is_whole() => {
                    let body = self.start + HEADER..self.start + span.len();
                    self.pass(&step, span.len());
                    if span.tag() == BackendTag::ERROR_RESPONSE {
                        let report = server_report(&Fields::new(&self.unread[body]));
                        return Err(DialogError::LastWords(Box::new(report)));
                    }
                    if !take_in(span.tag(), &self.unread[body], state) {
                        return Err(UNASKED);
                    }
                }
                Step::Message(span) if span.len() > MAX_UNASKED => return Err(UNASKED),
                Step::Message(_) | Step::Need => return Ok(()),
                Step::Rest(_) => return Err(UNASKED),
            }
        }
    }

    /// Whether all that came is dealt with.
    pub(super) fn is_between_messages(&self) -> bool {
        self.start == self.unread.len() && self.scanner.at_boundary()
    }

    fn pass(&mut self, step: &Step<BackendTag>, count: usize) {
        self.scanner.pass(step);
        self.start += count;
    }

    /// Reads something; meanwhile, writes what is to be written.
    async fn exchange(&mut self, stream: &mut Stream) -> io::Result<()> {
        self.unread.drain(..self.start);
        self.start = 0;
        let end = self.unread.len();
        let (out, unread) = (&mut self.out, &mut self.unread);
        let read = poll_fn(|cx| {
            // Made and taken back within one poll, so that whoever drops this future leaves nothing but what was read.
            unread.resize(end + CHUNK, 0);
            let read = poll_exchange(stream, out, &mut unread[end..], cx);
            let count = if let Poll::Ready(Ok(count)) = &read { *count } else { 0 };
            unread.truncate(end + count);
            read
        });
        match read.await? {
            0 => Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")),
            _ => Ok(()),
        }
    }
}

fn poll_exchange(
    stream: &mut Stream,
    out: &mut Vec<u8>,
    space: &mut [u8],
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    while !out.is_empty() {
        match stream.poll_write(cx, out) {
            Poll::Ready(Ok(count)) => drop(out.drain(..count)),
            // The server may have said why before it closed: that is still to be read.
            Poll::Ready(Err(_)) => out.clear(),
            Poll::Pending => break,
        }
    }
    let _ = stream.poll_flush(cx);
    stream.poll_read(cx, space)
}

/// Deals with what a server may say at any time; false for anything else.
fn take_in(tag: BackendTag, body: &[u8], state: &mut ServerState) -> bool {
    match tag {
        BackendTag::PARAMETER_STATUS => {
            if let Some((name, value)) = parameter_status(body)
                && (state.parameters.len() < MAX_PARAMETERS || state.parameter(name).is_some())
            {
                state.report(name, value);
            }
            true
        }
        BackendTag::NOTICE_RESPONSE | BackendTag::NOTIFICATION_RESPONSE => true,
        _ => false,
    }
}

/// What is read at once, in bytes.
const CHUNK: usize = 8 * 1024;

/// The longest message that a server may send unasked, in bytes.
const MAX_UNASKED: usize = 64 * 1024;

/// The most reported parameters that are kept of one server. PostgreSQL 18 reports 17.
const MAX_PARAMETERS: usize = 200;
