//! A client that waits for what takes its time: a server connection, or a position. It is looked out for meanwhile.

use super::*;

/// How long a client is held before it is told.
pub(super) const SILENCE: Duration = Duration::from_secs(3);

/// Longer than any request is held.
pub(super) const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why there is no lease.
pub(super) enum Denied {
    Report(Report),
    /// The client is gone, or told to go.
    Gone(Farewell),
}

impl Relay {
    /// Takes a server connection that is free. Answers whether there was one.
    pub(super) fn lease_at_once(&mut self, route: Route) -> bool {
        let asker = Asker {
            home: self.seat.index,
            drawer: self.session.has_drawn().then(|| self.registration.card().id),
        };
        let Some(granted) = self.pools.try_lease(route, asker) else { return false };
        self.take(granted);
        true
    }

    pub(super) async fn lease_in_turn(&mut self, route: &Route) -> Option<Farewell> {
        let denied = match self.wait_for_lease(route).await {
            Ok(granted) => {
                self.take(granted);
                return None;
            }
            // The request is looked at again when there are other pools.
            Err(Denied::Report(_)) if self.pools.is_closed() => Box::pin(self.move_over()).await.err(),
            Err(denied) => Some(denied),
        };
        match denied {
            None => {}
            Some(Denied::Gone(farewell)) => return Some(farewell),
            Some(Denied::Report(report)) => self.deny(&report),
        }
        None
    }

    pub(super) fn take(&mut self, granted: Granted) {
        self.lease = Some(granted);
        self.quiet.server = false;
        self.tenure = Tenure::New;
        self.session.on_leased();
        self.fresh = true;
    }

    /// Asks the primary how far it is, for the client to know.
    pub(super) async fn position(&mut self, shown: Option<Shown>) -> Option<Farewell> {
        let pools = self.pools.clone();
        // Both branches are cancel safe: what was read stays in `from_client`.
        let answer = tokio::select! {
            biased;
            position = Box::pin(pools.position(shown)) => position,
            denied = poll_fn(|cx| self.poll_while_waiting(cx)) => match denied {
                Denied::Report(report) => Err(report),
                Denied::Gone(farewell) => return Some(farewell),
            },
        };
        self.session.on_position(answer);
        self.fresh = true;
        None
    }

    /// Stands in the queue, and looks out for a client that leaves, a cancel request and orders meanwhile.
    async fn wait_for_lease(&mut self, route: &Route) -> Result<Granted, Denied> {
        let asked = Instant::now();
        self.card().waits(asked);
        let pools = self.pools.clone();
        let home = self.seat.index;
        let mut lease = std::pin::pin!(pools.lease(route, home, asked));
        let mut next_word = asked + SILENCE;
        // All branches are cancel safe: a lease that was on its way goes back to its pool, and what was read stays in
        // `from_client`.
        let answer = loop {
            tokio::select! {
                biased;
                granted = &mut lease => break granted.map_err(Denied::Report),
                denied = poll_fn(|cx| self.poll_while_waiting(cx)) => break Err(denied),
                () = without_server_until(&pools, route, next_word) => {
                    next_word += if self.tell_why_held(route) { FOREVER } else { SILENCE };
                }
            }
        };
        self.pools.stats(home).wait.observe(asked.elapsed());
        answer
    }

    /// Tells a client that is held why. Answers whether there was something to tell: it is told once for each request.
    fn tell_why_held(&mut self, route: &Route) -> bool {
        let reason = self.pools.hold_reason(route).filter(|_| self.session.takes_notices());
        let mut notice = Vec::new();
        reason.iter().for_each(|reason| reason.write(&mut notice, Severity::Notice));
        self.sent += notice.len() as u64;
        self.to_client.extend(&notice);
        reason.is_some()
    }

    pub(super) fn poll_while_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Denied> {
        if self.card().take_cancel() {
            let text = "canceling statement due to user request";
            return Poll::Ready(Denied::Report(Report::new(
                ErrorSource::Client,
                SqlState::QUERY_CANCELED,
                text,
            )));
        }
        match self.card().order() {
            Order::Kill => return Poll::Ready(Denied::Gone(Farewell::Fatal(Box::new(killed())))),
            // Its request goes along.
            Order::HandOver if self.can_be_handed_over() => {
                return Poll::Ready(Denied::Gone(Farewell::HandedOver));
            }
            _ => {}
        }
        if self.client_outlet().flush(cx).is_err() {
            return Poll::Ready(Denied::Gone(Farewell::Abrupt));
        }
        loop {
            let Relay { client, from_client, seat, .. } = self;
            match ready!(fill(client, from_client, &seat.shelf, &mut false, cx)) {
                Ok(0) if self.session.has_goodbye(self.from_client.filled()) => return Poll::Pending,
                Ok(0) | Err(_) => return Poll::Ready(Denied::Gone(Farewell::Abrupt)),
                Ok(count) => self.received += count as u64,
            }
        }
    }

    pub(super) fn deny(&mut self, report: &Report) {
        self.take_down(report);
        self.card().rests(self.session.prepared_statements());
        let mut desk = self.seat.desk();
        let edits = &mut desk.edits;
        let _ = self.session.on_lease_failed(self.from_client.filled(), report, edits);
        self.from_client.consume(edits.consumed());
        self.sent += edits.reply.len() as u64;
        self.to_client.extend(&edits.reply);
        drop(desk);
        self.fresh = true;
        self.turn(Instant::now(), true);
        self.pools.stats(self.seat.index).error(report.source, report.code);
    }
}

/// Waits until that instant, once there is no server for the route. Who stands in a pool's queue is sent away when its
/// server is gone, and so looks here: a timer for each wait would cost more than the queue.
pub(super) async fn without_server_until(pools: &UserPools, route: &Route, until: Instant) {
    poll_fn(|_| if pools.lacks_server(route) { Poll::Ready(()) } else { Poll::Pending }).await;
    Box::pin(tokio::time::sleep_until(until.into())).await;
}
