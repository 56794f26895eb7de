//! A client that is silent: it sleeps in its worker's dormitory until it speaks, or is told something.

use super::*;
use crate::session::Vacated;
use std::os::fd::RawFd;

/// A client that sleeps: what its relay has that cannot be had again.
pub(in crate::frontend) struct Sleeper {
    pub(super) client: Stream,
    pub(super) session: Session,
    pub(super) watch: Option<Box<Limits>>,
    pub(super) max_message: usize,
    pub(super) registration: Registration,
    pub(super) pools: Member,
    pub(super) admission: Option<Admission>,
}

impl Sleeper {
    /// Back in the runtime's reactor: what has come meanwhile is to be read. If there is no way back, the socket is lost, which
    /// is found where it is read.
    pub fn get_up(mut self, worker: Rc<Worker>) -> Box<Relay> {
        if let Err(error) = self.client.watch() {
            tracing::warn!(client = self.card().id, %error, "a client that slept is lost");
        }
        Box::new(Relay::of(self, worker))
    }

    /// See [`Session::relocate`].
    #[must_use]
    pub fn relocate(&mut self) -> Vacated {
        self.session.relocate()
    }

    /// The number of its socket, for others to watch.
    pub fn socket(&self) -> Option<RawFd> {
        self.client.number()
    }

    /// Until when it may sleep, if not for ever.
    pub fn end(&self) -> Option<Instant> {
        self.watch.as_ref()?.sleep_end()
    }

    pub fn card(&self) -> &ClientCard {
        self.registration.card()
    }
}

impl Relay {
    /// Whether nothing of the client is under way, and only what it says itself, or an order, can change that.
    pub(super) fn can_sleep(&self) -> bool {
        let Relay { from_client, to_server, from_server, to_client, .. } = self;
        let end = self.watch.as_ref().and_then(|limits| limits.sleep_end());
        self.lease.is_none()
            && self.subscription.is_none()
            && self.session.is_between_requests()
            && [from_client, to_server, from_server, to_client].into_iter().all(Buffer::is_empty)
            // What TLS keeps cannot be moved, and leaves nothing to be given back.
            && !self.client.is_tls()
            && self.seat.outbox.settle(Owner { client: self.card().id, to: Side::Client }, self.last.client)
            && end.is_none_or(|end| Instant::now() < end)
    }

    /// To be called when its socket is out of the reactor.
    pub(super) fn sleep(mut self: Box<Self>) {
        self.count_bytes();
        let worker = self.seat.worker.clone();
        let Relay { client, session, watch, max_message, registration, pools, admission, .. } = *self;
        worker.dormitory.admit(Sleeper {
            client,
            session,
            watch,
            max_message,
            registration,
            pools,
            admission,
        });
    }
}
