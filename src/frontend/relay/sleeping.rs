//! A client that is silent: it sleeps in its worker's dormitory until it speaks, or is told something.

use super::*;

impl Relay {
    /// Whether nothing of the client is under way, and only what it says itself, or an order, can change that.
    pub(super) fn can_sleep(&self) -> bool {
        let Relay { from_client, to_server, from_server, to_client, .. } = self;
        self.lease.is_none()
            && self.subscription.is_none()
            && self.session.is_between_requests()
            && [from_client, to_server, from_server, to_client].into_iter().all(Buffer::is_empty)
            && self.client.keeps_nothing()
            && self.seat.outbox.settle(Owner { client: self.card().id, to: Side::Client }, self.last.client)
            && self.sleep_end().is_none_or(|end| Instant::now() < end)
    }

    /// From here on the client's task hears of orders, and of its silence.
    pub(super) fn wake_up(&mut self, waker: &Waker) {
        let card = self.registration.card();
        card.wakes(waker);
        self.seat.dormitory.rises(card);
    }

    /// Lets go of the reactor. Answers whether that has worked: else the socket is lost.
    pub(super) fn falls_asleep(&mut self) -> bool {
        self.client.unwatch().is_ok()
    }

    pub(super) fn sleep(self: Box<Self>) {
        let worker = self.seat.worker.clone();
        worker.dormitory.admit(*self);
    }

    /// Back in the reactor: what has come meanwhile is to be read. If there is no way back, the socket is lost, which is found
    /// where it is read.
    pub(in crate::frontend) fn get_up(&mut self) {
        if let Err(error) = self.client.watch() {
            tracing::warn!(client = self.card().id, %error, "a client that slept is lost");
        }
    }

    /// The number of its socket, for others to watch.
    pub(in crate::frontend) fn socket(&self) -> Option<RawFd> {
        self.client.number()
    }

    /// Until when it may sleep, if not for ever.
    pub(in crate::frontend) fn sleep_end(&self) -> Option<Instant> {
        self.watch.as_ref()?.sleep_end()
    }
}
