//! How long logins may take.
//!
//! A timer of the runtime's for each would cost more than reading the startup packet does, and almost none ever goes off. So
//! the worker looks at all logins under way once a second.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, Waker};
use std::time::Instant;

/// The time limits of a worker's logins.
#[derive(Default)]
pub(super) struct Limits(RefCell<Places>);

/// As many as there were logins at the same time.
#[derive(Default)]
struct Places {
    all: Vec<Place>,
    free: Vec<usize>,
}

enum Place {
    Free,
    Taken { end: Instant, waker: Waker },
    Over,
}

/// A login's place, free again when this is dropped.
struct Ticket<'a> {
    limits: &'a Limits,
    place: usize,
}

impl Limits {
    /// What `login` answers; `None` once a [`look`](Self::look) finds that `end` is past.
    ///
    /// # Cancel safety
    /// That of `login`.
    pub async fn until<T>(&self, end: Instant, mut login: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        let ticket = self.ticket(end);
        poll_fn(|cx| match ticket.is_over(cx.waker()) {
            true => Poll::Ready(None),
            false => login.as_mut().poll(cx).map(Some),
        })
        .await
    }

    /// Ends what has taken too long.
    pub fn look(&self, now: Instant) {
        for place in &mut self.0.borrow_mut().all {
            if let Place::Taken { end, waker } = place
                && *end <= now
            {
                waker.wake_by_ref();
                *place = Place::Over;
            }
        }
    }

    fn ticket(&self, end: Instant) -> Ticket<'_> {
        let Places { all, free } = &mut *self.0.borrow_mut();
        let place = free.pop().unwrap_or_else(|| {
            all.push(Place::Free);
            all.len() - 1
        });
        all[place] = Place::Taken { end, waker: Waker::noop().clone() };
        Ticket { limits: self, place }
    }
}

impl Ticket<'_> {
    /// Whether the end was found to be past; if not, whom to wake then.
    fn is_over(&self, whom: &Waker) -> bool {
        match &mut self.limits.0.borrow_mut().all[self.place] {
            Place::Taken { waker, .. } => waker.clone_from(whom),
            Place::Over | Place::Free => return true,
        }
        false
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let Places { all, free } = &mut *self.limits.0.borrow_mut();
        all[self.place] = Place::Free;
        free.push(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::task::Context;
    use std::time::Duration;

    #[test]
    fn a_login_ends_at_the_first_look_after_its_end() {
        let (limits, now) = (Limits::default(), Instant::now());
        let login = pin!(pending::<()>());
        let mut slow = pin!(limits.until(now + Duration::from_secs(2), login));
        let mut poll = || slow.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending());
        limits.look(now + Duration::from_secs(1));
        assert!(poll().is_pending());
        limits.look(now + Duration::from_secs(2));
        assert_eq!(poll(), Poll::Ready(None));
    }

    #[test]
    fn a_place_serves_one_login_after_the_other() {
        let (limits, now) = (Limits::default(), Instant::now());
        for _ in 0..3 {
            let login = pin!(ready(1));
            let quick = pin!(limits.until(now, login));
            let polled = quick.poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(polled, Poll::Ready(Some(1)));
        }
        limits.look(now);
        assert_eq!(limits.0.borrow().all.len(), 1);
    }
}
