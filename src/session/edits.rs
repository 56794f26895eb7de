//! What a session wants done to a stream: data for the relay to carry out.

use super::replay::Spares;
use super::replies::Room;
use crate::sql::Reason;
use std::ops::Range;
use std::time::Duration;

/// What is done with the bytes at the head of the input, in order. Forwarded and skipped bytes together are what was
/// consumed; inserted bytes stand between them. Reused from call to call, so that warm ones allocate nothing.
#[derive(Debug, Default)]
pub struct Edits {
    edits: Vec<Op>,
    inserted: Vec<u8>,
    consumed: usize,
    output: usize,
    /// Bytes for the side from which the input came: answers that no server was asked for.
    pub reply: Vec<u8>,
    /// What happened, for those who count.
    pub events: Events,
    /// The database of [`Events::vacates`].
    pub vacated: Option<Box<str>>,
    /// Memory for requests that are kept.
    pub(super) spares: Spares,
    /// Memory for what is outstanding.
    pub(super) room: Room,
    /// Up to where there is something to go on.
    audible: Option<Box<Mark>>,
}

/// What there was at some moment.
#[derive(Debug, Default, Clone, Copy)]
struct Mark {
    edits: usize,
    inserted: usize,
    output: usize,
    events: Events,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Forward(usize),
    Skip(usize),
    Insert(usize),
}

/// One edit, resolved against the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Edit<'a> {
    /// These bytes of the input go on.
    Forward(Range<usize>),
    /// These bytes go on before what follows.
    Insert(&'a [u8]),
}

impl<'a> Edit<'a> {
    /// The bytes that go on, of this input.
    pub fn bytes(self, input: &'a [u8]) -> &'a [u8] {
        match self {
            Edit::Forward(run) => &input[run],
            Edit::Insert(bytes) => bytes,
        }
    }
}

/// What happened during one call.
#[derive(Debug, Default, Clone, Copy)]
pub struct Events {
    /// Simple queries and batches answered.
    pub answered: u32,
    /// How long the client waited for them, from the first request to the last answer; set when nothing is outstanding.
    pub query_time: Option<Duration>,
    /// A transaction ended; how long it took.
    pub transaction_time: Option<Duration>,
    /// Parse messages from the client.
    pub client_parses: u32,
    /// Parse messages made for the server.
    pub server_parses: u32,
    /// Bind messages from the client.
    pub binds: u32,
    /// A statement that may have changed the catalog has ended.
    pub ddl: bool,
    /// A statement named something that the catalog snapshot does not know.
    pub unknown_name: bool,
    /// A statement asked what its session drew from a sequence.
    pub sequence_state: bool,
    /// What was taken for the primary refused to write: it may be none any more.
    pub read_only_primary: bool,
    /// A statement on its way to the server needs a database without sessions.
    pub vacates: bool,
    /// Statements that a server has run.
    pub ran: Ran,
}

impl Events {
    /// Whether nothing did. Asked after each call, so not by comparing all of it.
    pub fn is_none(&self) -> bool {
        let Events {
            answered,
            query_time,
            transaction_time,
            client_parses,
            server_parses,
            binds,
            ddl,
            unknown_name,
            sequence_state,
            read_only_primary,
            vacates,
            ran,
        } = self;
        let counted = answered | client_parses | server_parses | binds | ran.which;
        let noticed = ddl | unknown_name | sequence_state | read_only_primary | vacates;
        counted == 0 && !noticed && query_time.is_none() && transaction_time.is_none()
    }
}

/// Statements by what the classifier made of them.
#[derive(Debug, Default, Clone, Copy)]
pub struct Ran {
    /// The places of those that are not zero.
    which: u32,
    counts: [u16; Reason::ALL.len()],
}

impl Ran {
    /// Counts one more.
    pub fn add(&mut self, reason: Reason) {
        let count = &mut self.counts[reason as usize];
        *count = count.saturating_add(1);
        self.which |= 1 << reason as u32;
    }

    /// The counts that are not zero.
    pub fn counts(&self) -> impl Iterator<Item = (Reason, u16)> {
        let mut which = self.which;
        std::iter::from_fn(move || {
            let place = which.trailing_zeros() as usize;
            which &= which.wrapping_sub(1);
            Some((*Reason::ALL.get(place)?, self.counts[place]))
        })
    }
}

impl Edits {
    /// Forgets everything, keeps the memory that an ordinary call needs.
    pub fn clear(&mut self) {
        let is_large =
            self.consumed > KEPT_BYTES || self.output > KEPT_BYTES || self.reply.len() > KEPT_BYTES;
        self.edits.clear();
        self.inserted.clear();
        self.reply.clear();
        if is_large {
            self.give_back();
        }
        self.consumed = 0;
        self.output = 0;
        self.events = Events::default();
        self.audible = None;
    }

    #[cold]
    fn give_back(&mut self) {
        self.edits.shrink_to(KEPT_OPS);
        self.inserted.shrink_to(KEPT_BYTES);
        self.reply.shrink_to(KEPT_BYTES);
    }

    /// How many bytes of the input were dealt with.
    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// How many bytes go on.
    pub fn output(&self) -> usize {
        self.output
    }

    /// If the whole output is one run of the input: that run.
    pub fn single_forward(&self) -> Option<Range<usize>> {
        match self.edits[..] {
            [Op::Forward(n)] => Some(0..n),
            _ => None,
        }
    }

    /// The edits in order, without what is skipped.
    pub fn iter(&self) -> impl Iterator<Item = Edit<'_>> {
        let (mut input, mut inserted) = (0, 0);
        self.edits.iter().filter_map(move |op| match *op {
            Op::Forward(n) => {
                input += n;
                Some(Edit::Forward(input - n..input))
            }
            Op::Skip(n) => {
                input += n;
                None
            }
            Op::Insert(n) => {
                inserted += n;
                Some(Edit::Insert(&self.inserted[inserted - n..inserted]))
            }
        })
    }

    pub(super) fn forward(&mut self, n: usize) {
        self.consumed += n;
        self.output += n;
        match self.edits.last_mut() {
            Some(Op::Forward(run)) => *run += n,
            _ if n > 0 => self.edits.push(Op::Forward(n)),
            _ => {}
        }
    }

    pub(super) fn skip(&mut self, n: usize) {
        self.consumed += n;
        match self.edits.last_mut() {
            Some(Op::Skip(run)) => *run += n,
            _ if n > 0 => self.edits.push(Op::Skip(n)),
            _ => {}
        }
    }

    /// What there is goes on; what comes behind it may be [silenced](Self::silence).
    pub(super) fn keep_so_far(&mut self) {
        // No run of input shall reach over it.
        self.edits.push(Op::Skip(0));
        let (edits, inserted) = (self.edits.len(), self.inserted.len());
        let Edits { output, events, .. } = *self;
        self.audible = Some(Box::new(Mark { edits, inserted, output, events }));
    }

    /// Nothing that came since goes on, and nothing of it counts: the input is dealt with all the same.
    pub(super) fn silence(&mut self) {
        let Mark { edits, inserted, output, events } =
            self.audible.take().map_or(Mark::default(), |mark| *mark);
        let silenced = self.edits.drain(edits..).map(|op| match op {
            Op::Forward(n) | Op::Skip(n) => n,
            Op::Insert(_) => 0,
        });
        let silenced: usize = silenced.sum();
        self.edits.push(Op::Skip(silenced));
        self.inserted.truncate(inserted);
        self.output = output;
        self.reply.clear();
        self.events = events;
    }

    pub(super) fn insert<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let before = self.inserted.len();
        let answer = write(&mut self.inserted);
        match self.inserted.len() - before {
            0 => {}
            n => {
                self.output += n;
                self.edits.push(Op::Insert(n));
            }
        }
        answer
    }
}

/// How much memory for inserted bytes, and for answers, stays from call to call.
const KEPT_BYTES: usize = 64 * 1024;

/// The same in edits: those of a buffer full of the shortest messages.
const KEPT_OPS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_large_call_is_given_back() {
        let mut edits = Edits::default();
        for _ in 0..2 * KEPT_OPS {
            edits.insert(|out| out.extend_from_slice(&[0; 100]));
            edits.skip(1);
            edits.reply.extend_from_slice(&[0; 100]);
        }
        edits.clear();
        assert!(edits.edits.capacity() <= KEPT_OPS);
        assert!(edits.inserted.capacity() <= KEPT_BYTES && edits.reply.capacity() <= KEPT_BYTES);
        let warm = edits.reply.capacity();
        edits.reply.extend_from_slice(&[0; 100]);
        edits.clear();
        assert_eq!(edits.reply.capacity(), warm, "an ordinary one keeps it");
    }

    #[test]
    fn what_ran_is_counted_by_reason() {
        let mut ran = Ran::default();
        assert_eq!(ran.counts().count(), 0);
        let last = *Reason::ALL.last().unwrap();
        [last, Reason::ProvenRead, last].into_iter().for_each(|reason| ran.add(reason));
        assert_eq!(ran.counts().collect::<Vec<_>>(), [(Reason::ProvenRead, 1), (last, 2)]);
    }

    #[test]
    fn what_is_silenced_was_dealt_with() {
        let mut edits = Edits::default();
        edits.forward(3);
        edits.keep_so_far();
        edits.forward(2);
        edits.insert(|out| out.extend_from_slice(b"ab"));
        edits.events.answered = 1;
        edits.silence();
        assert_eq!((edits.consumed(), edits.output(), edits.events.answered), (5, 3, 0));
        assert_eq!(edits.iter().collect::<Vec<_>>(), [Edit::Forward(0..3)]);
    }

    #[test]
    fn runs_are_joined_and_resolved() {
        let mut edits = Edits::default();
        edits.forward(3);
        edits.forward(2);
        assert_eq!(edits.single_forward(), Some(0..5));
        edits.skip(4);
        edits.insert(|out| out.extend_from_slice(b"ab"));
        edits.forward(1);
        edits.insert(|out| out.extend_from_slice(b"c"));
        assert_eq!((edits.consumed(), edits.output(), edits.single_forward()), (10, 9, None));
        let all: Vec<_> = edits.iter().collect();
        assert_eq!(all, [Edit::Forward(0..5), Edit::Insert(b"ab"), Edit::Forward(9..10), Edit::Insert(b"c")]);
    }
}
