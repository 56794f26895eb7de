//! How a server connection is given back, or lost, and how a conversation ends.

use super::*;

/// How long the requests of a client may run on that has said goodbye. PostgreSQL has no limit; here they occupy a
/// connection that others wait for, nobody could cancel them, and drivers say goodbye in the middle of a query that they
/// have given up.
pub(super) const LAST_REQUESTS: Duration = Duration::from_secs(3);

/// How long a farewell may take to reach the client.
pub(in crate::frontend) const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

impl Relay {
    pub(super) fn give_back(&mut self, now: Instant) {
        if self.lease.is_none() {
            return;
        }
        let granted = self.release();
        // From here on no cancel request can be aimed at the connection.
        self.card().rests(self.session.prepared_statements());
        let owed = self.session.owed();
        self.fresh = true;
        if let Some(granted) = granted.filter(|_| self.to_server.is_empty()) {
            match owed.is_nothing() && self.from_server.is_empty() {
                true => granted.lease.give_back_at(now),
                false => granted.lease.end(owed, self.from_server.filled(), &[], Duration::ZERO),
            }
        }
        self.from_server.consume(self.from_server.len());
        self.to_server.consume(self.to_server.len());
    }

    /// Lets go of the server connection, when nothing of ours waits to be sent on it; `None`: it was lost.
    fn release(&mut self) -> Option<Granted> {
        let Relay { lease, to_server, last, seat, .. } = self;
        let mut granted = lease.take()?;
        let stream = &mut granted.lease.backend().stream;
        let gathered =
            Outlet { stream, left: to_server, last: &mut last.server, seat, to: Side::Server }.gather();
        gathered.is_ok().then_some(granted)
    }

    /// The client's requests run again: they stand at the head of its input as if they had just come. `node` had them before.
    /// One that somebody has picked out and ended there does not.
    pub(super) async fn replay(&mut self, rescue: Rescue, node: Option<usize>) -> Option<Farewell> {
        let now = Instant::now();
        self.give_back(now);
        if let Some(generation) = self.session.outdated() {
            self.pools.database.ddl_unseen_in(generation);
        }
        let count = self.session.failed_requests();
        let requests = self.session.again();
        self.from_client.take_from(&self.seat.shelf);
        self.from_client.put_back(&requests);
        self.fresh = true;
        if let Some(node) = node.filter(|_| self.session.may_be_meant(now)) {
            let refusal = match self.serves_on(node).await {
                Ok(serves_on) => serves_on.then(ended),
                Err(Denied::Report(report)) => Some(report),
                Err(Denied::Gone(farewell)) => return Some(farewell),
            };
            if let Some(report) = refusal {
                self.deny(&report);
                return None;
            }
        }
        match rescue {
            // It may be the client's own mistake.
            Rescue::Kept => tracing::debug!(client = self.card().id, "a request runs again as it came"),
            _ => tracing::info!(client = self.card().id, why = rescue.as_str(), count, "requests run again"),
        }
        self.pools.stats(self.seat.index).rescue(rescue, count);
        None
    }

    /// Whether the server that has ended a connection serves on.
    async fn serves_on(&mut self, node: usize) -> Result<bool, Denied> {
        let node = self.pools.database.section.cluster.nodes()[node].clone();
        // Both branches are cancel safe: what was read stays in `from_client`.
        tokio::select! {
            biased;
            serves_on = Box::pin(node.serves_on()) => Ok(serves_on),
            denied = poll_fn(|cx| self.poll_while_waiting(cx)) => Err(denied),
        }
    }

    pub(super) fn server_lost(&mut self, why: &str) -> Want {
        tracing::debug!(client = self.card().id, why, "server connection lost");
        self.card().rests(self.session.prepared_statements());
        if let Some(granted) = self.release() {
            self.pools.database.section.cluster.nodes()[granted.node].poke();
        }
        self.from_server.consume(self.from_server.len());
        self.to_server.consume(self.to_server.len());
        let mut desk = self.seat.desk();
        let edits = &mut desk.edits;
        let want = self.session.on_server_lost(why, edits);
        self.sent += edits.reply.len() as u64;
        self.to_client.extend(&edits.reply);
        drop(desk);
        self.fresh = true;
        self.turn(Instant::now(), true);
        self.pools.stats(self.seat.index).error(ErrorSource::Server, SqlState::CONNECTION_FAILURE);
        want
    }

    /// What an order leads to now; orders that wait for the end of something are looked at again and again.
    pub(super) fn ordered(&self) -> Option<Next> {
        let order = self.card().order();
        if order == Order::None {
            return None;
        }
        // Whatever the order is: it may stand for more than one.
        if let Some(why) = self.why_forsaken() {
            return Some(Next::ServerLost(why.to_owned()));
        }
        let is_at_rest = || self.session.is_between_requests() && self.from_client.is_empty();
        let report = match order {
            Order::None | Order::Look => {
                self.card().obeyed(order);
                return None;
            }
            Order::Sleep => {
                self.card().obeyed(order);
                return self.can_sleep().then_some(Next::Sleep);
            }
            Order::Move if !self.pools.is_closed() => {
                self.card().obeyed(order);
                return None;
            }
            Order::Move => return self.lease.is_none().then_some(Next::Move),
            Order::HandOver if self.can_be_handed_over() => {
                return Some(Next::Want(Want::Close(Farewell::HandedOver)));
            }
            // Some of what keeps it here ends with the request that is under way.
            Order::HandOver if is_at_rest() => {
                let why = self.keeps_it_here()?;
                tracing::debug!(client = self.card().id, why, "cannot be handed over");
                killed().detail(format!(
                    "pglagoon is restarting, and this connection cannot be handed over: {why}."
                ))
            }
            Order::Kill => killed(),
            Order::Expel if is_at_rest() => {
                killed().detail(format!("User \"{}\" is not configured any more.", self.card().user))
            }
            Order::Drain if is_at_rest() => killed().detail("pglagoon is shutting down."),
            Order::Expel | Order::HandOver | Order::Drain => return None,
        };
        Some(Next::Want(Want::Close(Farewell::Fatal(Box::new(report)))))
    }

    /// Why the server will not answer, or too late.
    fn why_forsaken(&self) -> Option<&'static str> {
        let Granted { node, role, .. } = self.lease.as_ref()?;
        self.pools.database.section.cluster.why_forsaken(*node, *role, self.session.can_run_again())
    }

    /// The end: the server connection is made clean for the next client. Answers what this one is still to be told.
    pub(super) fn part(&mut self, farewell: Farewell) -> Option<Vec<u8>> {
        let patience = match farewell {
            Farewell::Terminated => {
                let limit = self.pools.rules().query_timeout;
                limit.map_or(LAST_REQUESTS, |limit| limit.min(LAST_REQUESTS))
            }
            Farewell::Fatal(_) | Farewell::Abrupt | Farewell::HandedOver => Duration::ZERO,
        };
        let fatal = match farewell {
            Farewell::Fatal(report) => Some(report),
            Farewell::Terminated | Farewell::Abrupt | Farewell::HandedOver => None,
        };
        self.count_pins(Pins::default());
        self.card().rests(0);
        self.count_bytes();
        if let Some(granted) = self.release() {
            let mut owed = self.session.owed();
            // What the session believes to be sent is not: the server would wait for the rest of it.
            owed.broken |= !self.to_server.is_empty() && patience.is_zero();
            granted.lease.end(owed, self.from_server.filled(), self.to_server.filled(), patience);
        }
        let words = fatal.map(|report| self.last_words(&report));
        // The next client takes them.
        self.buffers().for_each(|(buffer, shelf)| {
            buffer.consume(buffer.len());
            buffer.give_back(shelf);
        });
        words
    }

    fn last_words(&self, report: &Report) -> Vec<u8> {
        let mut words = self.to_client.filled().to_vec();
        self.pools.stats(self.seat.index).error(report.source, report.code);
        if self.session.can_be_told() {
            report.write(&mut words, Severity::Fatal);
        }
        words
    }

    pub(super) async fn say_goodbye(mut self: Box<Self>, last: Vec<u8>) {
        let told = async {
            let _ = self.client.write_all(&last).await;
            let _ = self.client.shutdown().await;
        };
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, told).await;
    }
}

/// Somebody has ended the server process that ran a read, and nothing else.
fn ended() -> Report {
    let text = "terminating connection due to administrator command";
    Report::new(ErrorSource::Server, SqlState::ADMIN_SHUTDOWN, text)
        .detail("The server process that ran the statement was ended, and its server serves on: it does not run again.")
}

pub(super) fn killed() -> Report {
    Report::new(
        ErrorSource::Pooler,
        SqlState::ADMIN_SHUTDOWN,
        "terminating connection due to administrator command",
    )
}
