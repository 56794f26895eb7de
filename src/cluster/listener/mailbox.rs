//! What one client has heard and not yet been told.

use crate::cluster::lock;
use crate::error::{ErrorSource, Report};
use crate::wire::SqlState;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Waker;

/// How much one client may have heard without taking it, in bytes: it is in a transaction that does not end, or does not
/// read. PostgreSQL's own queue, which is all sessions' together, has 8 GiB.
pub const MAX_UNTOLD: usize = 8 * 1024 * 1024;

/// What a notification costs besides its bytes, so that empty ones do not come for nothing.
const LETTER_COST: usize = size_of::<Arc<[u8]>>();

/// Notifications for one client, in their order.
#[derive(Default)]
pub struct Mailbox(Mutex<Mail>);

#[derive(Default)]
struct Mail {
    letters: VecDeque<Arc<[u8]>>,
    bytes: usize,
    /// Nothing will come any more, and why.
    end: Option<Report>,
    waker: Option<Waker>,
}

impl Mailbox {
    /// One more. A client that has let too many pile up gets none any more.
    pub fn put(&self, letter: &Arc<[u8]>) {
        let mut mail = lock(&self.0);
        if mail.end.is_some() {
            return;
        }
        mail.bytes += letter.len() + LETTER_COST;
        match mail.bytes <= MAX_UNTOLD {
            true => mail.letters.push_back(letter.clone()),
            false => *mail = Mail { end: Some(overflow()), waker: mail.waker.take(), ..Mail::default() },
        }
        let waker = mail.waker.clone();
        drop(mail);
        waker.iter().for_each(Waker::wake_by_ref);
    }

    /// No more will come.
    pub fn close(&self, why: &Report) {
        let mut mail = lock(&self.0);
        mail.end.get_or_insert_with(|| why.clone());
        let waker = mail.waker.clone();
        drop(mail);
        waker.iter().for_each(Waker::wake_by_ref);
    }

    /// Whom to wake when something has come.
    pub fn wakes(&self, waker: &Waker) {
        lock(&self.0).waker = Some(waker.clone());
    }

    /// The oldest.
    pub fn take(&self) -> Option<Arc<[u8]>> {
        let mut mail = lock(&self.0);
        let letter = mail.letters.pop_front()?;
        mail.bytes -= letter.len() + LETTER_COST;
        if mail.letters.is_empty() {
            mail.letters = VecDeque::new();
        }
        Some(letter)
    }

    /// Whether there is a letter or an end.
    pub fn has_tidings(&self) -> bool {
        let mail = lock(&self.0);
        !mail.letters.is_empty() || mail.end.is_some()
    }

    /// Why nothing will come any more, once all that had come before is taken.
    pub fn end(&self) -> Option<Report> {
        let mail = lock(&self.0);
        mail.end.clone().filter(|_| mail.letters.is_empty())
    }
}

fn overflow() -> Report {
    let text = "terminating connection because too many notifications wait for the client";
    Report::new(ErrorSource::Client, SqlState::PROGRAM_LIMIT_EXCEEDED, text).detail(format!(
        "{MAX_UNTOLD} bytes may; they are delivered between transactions, to a client that reads."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_before_the_end_is_delivered_in_order() {
        let mailbox = Mailbox::default();
        let letters: [Arc<[u8]>; 2] = [b"a"[..].into(), b"b"[..].into()];
        letters.iter().for_each(|letter| mailbox.put(letter));
        mailbox.close(&overflow());
        mailbox.put(&letters[0]);
        assert_eq!(mailbox.end(), None);
        assert_eq!(
            [mailbox.take(), mailbox.take(), mailbox.take()],
            [Some(letters[0].clone()), Some(letters[1].clone()), None]
        );
        assert!(mailbox.end().is_some());
    }

    #[test]
    fn who_takes_nothing_is_told_so_and_costs_nothing_any_more() {
        let mailbox = Mailbox::default();
        let letter: Arc<[u8]> = vec![0; MAX_UNTOLD / 4].into();
        (0..3).for_each(|_| mailbox.put(&letter));
        assert_eq!(mailbox.end(), None);
        mailbox.put(&letter);
        assert_eq!(mailbox.take(), None);
        assert_eq!(mailbox.end().unwrap().code, SqlState::PROGRAM_LIMIT_EXCEEDED);
    }
}
