//! Messages that leave together: what the tasks of a worker send in one turn of its loop goes to the kernel in one call.
//!
//! A message that is sent wakes whoever reads it, and on a busy machine he takes the core from us as soon as the system call
//! returns: sent one by one, every third message costs a switch of processes. `io_uring` takes all of a turn's messages in
//! one call and returns once. Readiness stays with epoll; sockets, buffers and errors are the tasks' own.
//!
//! ```text
//!   task --post--> | letter | letter | letter | --deliver, last in the turn--> io_uring_enter --> sockets
//!        <--wake, reclaim-- what the kernel did not take
//! ```
//! On a worker whose turns have had a single message each for a while, it is delivered as soon as it is posted.
//!
//! A letter names its socket by number. So a task must [`settle`](Outbox::settle) a stream before anybody else writes to it
//! or closes it; [`forget`](Outbox::forget) does so when its task ends.
//!
//! Source: `io_uring(7)`, `io_uring_enter(2)`, `io_uring_prep_send(3)`; Linux 5.6.

use super::{Side, Stream};
use io_uring::{IoUring, Probe, opcode, types::Fd};
use rustix::net::{SendFlags, send};
use std::cell::{Cell, RefCell, RefMut};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::{BorrowedFd, RawFd};
use std::task::{Context, Poll, Waker};

/// The most letters of one delivery.
const LETTERS: usize = 64;

/// The longest letter, in bytes. What is longer is worth a call of its own, and is not copied.
const LONGEST: usize = 4096;

/// So many turns with a single message make a calm worker.
const CALM_AFTER: u32 = 16;

/// Whose a message is: a client's number, and the side that it goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The client's number, which no other client ever has.
    pub client: u64,
    /// Where to.
    pub to: Side,
}

/// The delivery with which a side's last message leaves or has left. Until the next one is posted there is nothing of this
/// side's in any other: so that nobody has to look for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turn(u32);

/// The messages of one worker's turn.
pub struct Outbox {
    /// None where the kernel offers no ring.
    post: Option<RefCell<Post>>,
    /// The delivery that is being filled.
    turn: Cell<u32>,
    /// How many messages came back and were not reclaimed.
    returns: Cell<usize>,
    /// The messages since the postman had his turn.
    posted: Cell<u32>,
    /// His turns in a row in which there was no more than one.
    calm_turns: Cell<u32>,
}

struct Post {
    /// None once it has failed.
    ring: Option<IoUring>,
    mail: Mail,
    postman: Option<Waker>,
}

#[derive(Default)]
struct Mail {
    letters: Vec<Letter>,
    /// Their bytes, one after the other.
    bytes: Vec<u8>,
    returned: Vec<Returned>,
}

struct Letter {
    owner: Owner,
    socket: RawFd,
    /// Where its bytes end; they begin where those of the letter before it end.
    end: usize,
}

struct Returned {
    owner: Owner,
    /// What was not sent, or why nothing can be.
    rest: io::Result<Vec<u8>>,
    /// Whether its owner has been woken.
    is_told: bool,
}

impl Outbox {
    /// An outbox for one thread.
    ///
    /// # Errors
    /// Why the kernel offers no ring that sends: it is too old, or forbids it.
    pub fn open() -> io::Result<Self> {
        let ring = IoUring::new(LETTERS as u32)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Send::CODE) {
            return Err(ErrorKind::Unsupported.into());
        }
        Ok(Outbox::with(Some(ring)))
    }

    fn with(ring: Option<IoUring>) -> Self {
        let post = Post { ring, mail: Mail::default(), postman: None };
        Outbox { post: Some(RefCell::new(post)), ..Outbox::closed() }
    }

    /// One that takes nothing.
    pub fn closed() -> Self {
        Outbox {
            post: None,
            turn: Cell::new(1),
            returns: Cell::new(0),
            posted: Cell::new(0),
            calm_turns: Cell::new(0),
        }
    }

    /// Posts a message of `length` bytes in `pieces`, if it is one to be posted: short, not for TLS, and nothing stands before
    /// it that came back. `last` is the turn of the message before it.
    pub fn post<'a>(
        &self,
        owner: Owner,
        last: &mut Turn,
        stream: &Stream,
        length: usize,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> bool {
        let Some(socket) = stream.plain_socket().filter(|_| length <= LONGEST) else { return false };
        let Some(mut post) = self.open_post() else { return false };
        // Two letters to one socket could change places if the kernel had room for the second alone.
        if post.mail.letters.len() == LETTERS || self.is_open(*last) {
            self.deliver(&mut post);
        }
        if post.mail.has_returned(owner) {
            return false;
        }
        post.mail.add(owner, socket, pieces);
        *last = Turn(self.turn.get());
        if let (0, Some(postman)) = (self.posted.get(), &post.postman) {
            postman.wake_by_ref();
        }
        self.posted.set(self.posted.get() + 1);
        // Nobody else is likely to post in this turn: what its owner has still to do can be done while the message is read.
        if self.calm_turns.get() >= CALM_AFTER {
            self.deliver(&mut post);
        }
        true
    }

    /// Sends what waits for this owner's stream, and says whether all that was posted for it is sent. What is not is to be
    /// reclaimed.
    #[inline]
    pub fn settle(&self, owner: Owner, last: Turn) -> bool {
        if !self.is_open(last) && self.returns.get() == 0 {
            return true;
        }
        let Some(mut post) = self.open_post() else { return true };
        if self.is_open(last) {
            self.deliver(&mut post);
        }
        !post.mail.has_returned(owner)
    }

    /// Whether the delivery is still to come.
    fn is_open(&self, turn: Turn) -> bool {
        turn == Turn(self.turn.get())
    }

    /// What came back: to be sent before anything else. Costs nothing as long as nothing has come back to anybody.
    ///
    /// # Errors
    /// What the socket says.
    #[inline]
    pub fn reclaim(&self, owner: Owner) -> io::Result<Option<Vec<u8>>> {
        match self.returns.get() {
            0 => Ok(None),
            _ => self.take_back(owner),
        }
    }

    #[cold]
    fn take_back(&self, owner: Owner) -> io::Result<Option<Vec<u8>>> {
        let Some(mut post) = self.open_post() else { return Ok(None) };
        let returned = &mut post.mail.returned;
        let found = returned.iter().position(|returned| returned.owner == owner);
        let rest = found.map(|place| returned.swap_remove(place).rest);
        self.returns.set(returned.len());
        rest.transpose()
    }

    /// The client's task ends: what it has posted is sent, as far as that goes, and nothing comes back to it any more.
    pub fn forget(&self, client: u64) {
        let Some(mut post) = self.open_post() else { return };
        if post.mail.letters.iter().any(|letter| letter.owner.client == client) {
            self.deliver(&mut post);
        }
        post.mail.returned.retain(|returned| returned.owner.client != client);
        self.returns.set(post.mail.returned.len());
    }

    /// The postman's task: the first letter of a turn wakes it, and it has its turn behind all who were awake by then. `wake`
    /// is called for each client to whom something came back. Never ready.
    pub fn poll_deliver(&self, cx: &Context<'_>, wake: impl Fn(u64)) -> Poll<()> {
        if let Some(mut post) = self.open_post() {
            if !post.postman.as_ref().is_some_and(|postman| postman.will_wake(cx.waker())) {
                post.postman = Some(cx.waker().clone());
            }
            self.deliver(&mut post);
            let is_calm = self.posted.replace(0) <= 1;
            self.calm_turns.set(if is_calm { self.calm_turns.get().saturating_add(1) } else { 0 });
            for returned in post.mail.returned.iter_mut().filter(|returned| !returned.is_told) {
                returned.is_told = true;
                wake(returned.owner.client);
            }
        }
        Poll::Pending
    }

    fn deliver(&self, post: &mut Post) {
        let Post { ring, mail, .. } = post;
        // A letter that is alone gains nothing by the ring.
        let together = ring.as_mut().filter(|_| mail.letters.len() > 1);
        let delivered = together.map_or(Ok(0), |ring| mail.deliver_together(ring));
        let sent = delivered.unwrap_or_else(|sent| {
            *ring = None;
            sent
        });
        (sent..mail.letters.len()).for_each(|place| mail.deliver_alone(place));
        mail.letters.clear();
        mail.bytes.clear();
        // Turn 0 is nobody's.
        self.turn.set(self.turn.get().wrapping_add(1).max(1));
        self.returns.set(mail.returned.len());
    }

    fn open_post(&self) -> Option<RefMut<'_, Post>> {
        self.post.as_ref().map(RefCell::borrow_mut)
    }
}

impl Mail {
    fn has_returned(&self, owner: Owner) -> bool {
        self.returned.iter().any(|returned| returned.owner == owner)
    }

    fn add<'a>(&mut self, owner: Owner, socket: RawFd, pieces: impl Iterator<Item = &'a [u8]>) {
        pieces.for_each(|piece| self.bytes.extend_from_slice(piece));
        self.letters.push(Letter { owner, socket, end: self.bytes.len() });
    }

    /// Answers how many letters the kernel has dealt with; as an error if it will deal with no more.
    fn deliver_together(&mut self, ring: &mut IoUring) -> Result<usize, usize> {
        let mut queue = ring.submission();
        for (place, letter) in self.letters.iter().enumerate() {
            let bytes = &self.bytes[self.span(place)];
            let entry = opcode::Send::new(Fd(letter.socket), bytes.as_ptr(), bytes.len() as u32)
                .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                .build()
                .user_data(place as u64);
            // SAFETY: The entry's only pointer is into `self.bytes`, which nobody moves, writes to or frees before the kernel has
            // done with it: `self` is borrowed until this function returns, and `see` returns when it has seen as many completions
            // as entries were taken by the kernel, each of which has exactly one. What the kernel has not taken when the ring
            // fails is dropped with the ring. The socket's number is no matter of memory; that it is the owner's is the module's rule.
            #[allow(unsafe_code)]
            let pushed = unsafe { queue.push(&entry) };
            debug_assert!(pushed.is_ok(), "the ring has room for all letters");
        }
        drop(queue);
        let taken = submit(ring, self.letters.len());
        self.see(ring, *taken.as_ref().unwrap_or_else(|taken| taken));
        taken
    }

    /// Looks at what became of the first `taken` letters. With MSG_DONTWAIT all was done before the kernel's call returned.
    fn see(&mut self, ring: &mut IoUring, taken: usize) {
        let mut seen = 0;
        while seen < taken {
            if ring.completion().is_empty() {
                let _ = ring.submitter().submit_and_wait(1);
            }
            for done in ring.completion() {
                let sent = usize::try_from(done.result());
                self.note(
                    done.user_data() as usize,
                    sent.map_err(|_| io::Error::from_raw_os_error(-done.result())),
                );
                seen += 1;
            }
        }
    }

    fn deliver_alone(&mut self, place: usize) {
        // SAFETY: The socket is open: the module's rule, that its owner settles before it is closed.
        #[allow(unsafe_code)]
        let socket = unsafe { BorrowedFd::borrow_raw(self.letters[place].socket) };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = send(socket, &self.bytes[self.span(place)], flags);
        self.note(place, sent.map_err(io::Error::from));
    }

    /// Keeps what the kernel did not take.
    fn note(&mut self, place: usize, sent: io::Result<usize>) {
        let span = self.span(place);
        let rest = match sent {
            Ok(count) if count == span.len() => return,
            Ok(count) => Ok(self.bytes[span.start + count..span.end].to_vec()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Ok(self.bytes[span].to_vec())
            }
            Err(error) => Err(error),
        };
        self.returned.push(Returned { owner: self.letters[place].owner, rest, is_told: false });
    }

    fn span(&self, place: usize) -> Range<usize> {
        let start = place.checked_sub(1).map_or(0, |before| self.letters[before].end);
        start..self.letters[place].end
    }
}

/// Has the kernel take `count` entries. Answers how many it took; as an error if it will take no more.
fn submit(ring: &mut IoUring, count: usize) -> Result<usize, usize> {
    loop {
        let left = ring.submission().len();
        if left == 0 {
            return Ok(count);
        }
        match ring.submitter().submit_and_wait(left) {
            Ok(1..) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            refused => {
                tracing::warn!(
                    ?refused,
                    "a worker's io_uring has failed: its messages are sent one by one from now on"
                );
                return Err(count - left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::iter::once;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    impl Woken {
        fn new() -> (Arc<Woken>, Waker) {
            let woken = Arc::new(Woken(AtomicBool::new(false)));
            (woken.clone(), Waker::from(woken))
        }

        fn take(&self) -> bool {
            self.0.swap(false, Ordering::Relaxed)
        }
    }

    /// One with a ring, where the kernel offers any (many containers do not), and one whose ring has failed.
    #[allow(clippy::print_stderr, reason = "what is not tested is said")]
    fn outboxes() -> impl Iterator<Item = Outbox> {
        let open = Outbox::open();
        if let Err(error) = &open {
            eprintln!("without io_uring ({error}) only what stands in for it is tested");
        }
        open.into_iter().chain([Outbox::with(None)])
    }

    fn pair() -> (Stream, UnixStream) {
        let (one, other) = UnixStream::pair().unwrap();
        (Stream::unix(one), other)
    }

    fn owner(client: u64) -> Owner {
        Owner { client, to: Side::Client }
    }

    /// Posts as whoever has not posted before in this turn.
    fn post(outbox: &Outbox, client: u64, stream: &Stream, text: &[u8]) -> bool {
        post_after(outbox, client, &mut Turn::default(), stream, text)
    }

    fn post_after(outbox: &Outbox, client: u64, last: &mut Turn, stream: &Stream, text: &[u8]) -> bool {
        outbox.post(owner(client), last, stream, text.len(), once(text))
    }

    async fn heard(peer: &mut UnixStream, length: usize) -> Vec<u8> {
        let mut text = vec![0; length];
        peer.read_exact(&mut text).await.unwrap();
        text
    }

    /// Answers who was woken.
    fn deliver(outbox: &Outbox) -> Vec<u64> {
        let woken = RefCell::default();
        let wake = |client| RefCell::<Vec<u64>>::borrow_mut(&woken).push(client);
        assert!(outbox.poll_deliver(&Context::from_waker(Waker::noop()), wake).is_pending());
        woken.into_inner()
    }

    #[tokio::test]
    async fn messages_of_a_turn_leave_together_and_whole() {
        for outbox in outboxes() {
            let (postman, waker) = Woken::new();
            assert!(outbox.poll_deliver(&Context::from_waker(&waker), |_| {}).is_pending());
            // More than one delivery, and more than the kernel's queue of completions.
            let mut pairs: Vec<_> = (0..3 * LETTERS).map(|_| pair()).collect();
            for (number, (stream, _)) in pairs.iter().enumerate() {
                let text = [number as u8; 10];
                let pieces = text.chunks(4);
                assert!(outbox.post(owner(number as u64), &mut Turn::default(), stream, text.len(), pieces));
                assert_eq!(postman.take(), number == 0, "the first of a turn wakes the postman");
            }
            deliver(&outbox);
            for (number, (_, peer)) in pairs.iter_mut().enumerate() {
                assert_eq!(heard(peer, 10).await, [number as u8; 10]);
                assert!(outbox.settle(owner(number as u64), Turn::default()));
            }
        }
    }

    #[tokio::test]
    async fn two_messages_to_one_stream_keep_their_order() {
        for outbox in outboxes() {
            let (stream, mut peer) = pair();
            let mut last = Turn::default();
            assert!(post_after(&outbox, 1, &mut last, &stream, b"first "));
            assert!(post_after(&outbox, 1, &mut last, &stream, b"second"));
            assert_eq!(heard(&mut peer, 6).await, b"first ", "the second lets the first go");
            assert!(
                outbox.settle(owner(1), Turn::default()) && outbox.is_open(last),
                "nothing known of the second"
            );
            assert!(outbox.settle(owner(1), last) && !outbox.is_open(last));
            assert_eq!(heard(&mut peer, 6).await, b"second");
        }
    }

    #[tokio::test]
    async fn on_a_calm_worker_a_message_leaves_at_once() {
        for outbox in outboxes() {
            let (stream, mut peer) = pair();
            let is_there = |peer: &UnixStream| peer.try_read(&mut [0; 1]).is_ok();
            for _ in 0..CALM_AFTER {
                assert!(post(&outbox, 1, &stream, b"a"));
                assert!(!is_there(&peer));
                deliver(&outbox);
                heard(&mut peer, 1).await;
            }
            for _ in 0..2 {
                assert!(post(&outbox, 1, &stream, b"a"));
                assert_eq!(heard(&mut peer, 1).await, b"a");
            }
            deliver(&outbox);
            assert!(post(&outbox, 1, &stream, b"a"));
            assert!(!is_there(&peer), "two in one turn: not calm any more");
        }
    }

    #[tokio::test]
    async fn what_the_kernel_does_not_take_comes_back_and_wakes_its_owner() {
        for outbox in outboxes() {
            let (mut full, mut peer) = pair();
            let (other, mut listener) = pair();
            let mut filled = 0;
            while let Poll::Ready(count) =
                full.poll_write(&mut Context::from_waker(Waker::noop()), &[1; 4096])
            {
                filled += count.unwrap();
            }
            assert!(post(&outbox, 1, &full, b"late"));
            assert!(post(&outbox, 2, &other, b"on time"));
            assert_eq!((deliver(&outbox), deliver(&outbox)), (vec![1], vec![]), "told once");
            assert_eq!(heard(&mut listener, 7).await, b"on time");
            let sent = [1, 2].map(|client| outbox.settle(owner(client), Turn::default()));
            assert_eq!(sent, [false, true]);
            assert!(!post(&outbox, 1, &full, b"later"), "it would overtake the other");
            assert_eq!(outbox.reclaim(owner(2)).unwrap(), None);
            assert_eq!(outbox.reclaim(owner(1)).unwrap().as_deref(), Some(&b"late"[..]));
            heard(&mut peer, filled).await;
        }
    }

    #[tokio::test]
    async fn errors_come_back_too_unless_their_owner_is_forgotten() {
        for outbox in outboxes() {
            let ((one, peer), (other, mut listener)) = (pair(), pair());
            drop(peer);
            for client in [1, 2] {
                assert!(post(&outbox, client, &one, b"lost"));
            }
            assert!(post(&outbox, 3, &other, b"found"));
            deliver(&outbox);
            outbox.forget(2);
            assert_eq!(outbox.reclaim(owner(1)).unwrap_err().kind(), ErrorKind::BrokenPipe);
            assert_eq!(outbox.reclaim(owner(2)).unwrap(), None);
            assert_eq!(outbox.returns.get(), 0);
            assert_eq!(heard(&mut listener, 5).await, b"found");
        }
    }

    #[tokio::test]
    async fn who_is_forgotten_has_sent_what_he_posted() {
        for outbox in outboxes() {
            let (stream, mut peer) = pair();
            assert!(post(&outbox, 1, &stream, b"goodbye"));
            outbox.forget(1);
            drop(stream);
            assert_eq!(heard(&mut peer, 7).await, b"goodbye");
        }
    }

    #[tokio::test]
    async fn what_is_long_or_nobodys_is_not_posted() {
        let (stream, _peer) = pair();
        assert!(!post(&Outbox::closed(), 1, &stream, b"a"));
        for outbox in outboxes() {
            assert!(!post(&outbox, 1, &stream, &[0; LONGEST + 1]));
            assert!(post(&outbox, 1, &stream, &[0; LONGEST]));
            outbox.forget(1);
        }
    }

    #[tokio::test(flavor = "local")]
    async fn the_postman_has_his_turn_behind_those_who_are_awake() {
        for outbox in outboxes() {
            let outbox = Rc::new(outbox);
            let postman = tokio::task::spawn_local({
                let outbox = outbox.clone();
                async move { poll_fn(|cx| outbox.poll_deliver(cx, |_| {})).await }
            });
            tokio::task::yield_now().await;
            let mut writers = Vec::new();
            for client in 0..10 {
                let (outbox, (stream, mut peer)) = (outbox.clone(), pair());
                writers.push(tokio::task::spawn_local(async move {
                    assert!(post(&outbox, client, &stream, b"text"));
                    assert!(
                        peer.try_read(&mut [0; 4]).is_err(),
                        "nothing leaves before all have had their turn"
                    );
                    assert_eq!(heard(&mut peer, 4).await, b"text");
                }));
            }
            for writer in writers {
                writer.await.unwrap();
            }
            postman.abort();
        }
    }
}
