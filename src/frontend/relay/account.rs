//! What a client's requests count for, and the time limits that they run against.

use super::*;

/// How long before its end at the latest a client is awake that has been idle for too long.
const LAST_SLEEP: Duration = Duration::from_secs(2);

/// What a time limit is set by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    /// In a transaction, and the client's turn.
    Open,
    /// An answer is awaited.
    Asked,
}

/// The time limits that are set at all, and what they run against.
pub(super) struct Limits {
    idle: Option<Duration>,
    idle_in_transaction: Option<Duration>,
    transaction: Option<Duration>,
    query: Option<Duration>,
    phase: Phase,
    /// Since when the phase lasts.
    since: Instant,
    /// When the transaction began, if the client is in one.
    begun: Instant,
}

impl Relay {
    /// The log has it.
    #[cold]
    pub(super) fn take_down(&self, report: &Report) {
        let card = self.card();
        self.registration.frontend().journal.told(card.id, &card.user, &card.database, report);
    }

    pub(super) fn count(&mut self, events: Events, now: Instant) {
        self.count_pins(self.session.pins());
        if events.is_none() {
            return self.turn(now, false);
        }
        if events.ddl {
            self.pools.database.catalog_changed();
        }
        if events.unknown_name {
            self.pools.database.suspect_catalog(now);
        }
        if let Some(name) = events.vacates.then(|| self.seat.desk().edits.vacated.take()).flatten() {
            self.pools.database.section.cluster.vacate(&name, self.seat.index, now);
        }
        if let Some(granted) = self.lease.as_ref().filter(|_| events.read_only_primary) {
            self.pools.database.section.cluster.nodes()[granted.node].poke();
        }
        let mut stats = self.pools.stats(self.seat.index);
        stats.client_parses += u64::from(events.client_parses);
        stats.server_parses += u64::from(events.server_parses);
        stats.binds += u64::from(events.binds);
        stats.received += std::mem::take(&mut self.received);
        stats.sent += std::mem::take(&mut self.sent);
        stats.queries += u64::from(events.answered);
        if let Some(granted) = &self.lease {
            events.ran.counts().for_each(|(reason, count)| stats.ran(granted.role, reason, count));
        }
        if let (Some(time), Some(granted)) = (events.query_time, &self.lease) {
            stats.query(granted.role, granted.why, time);
            stats.queries -= 1;
            if granted.role == Role::Replica {
                self.pools.database.section.answered(granted.node, time, now);
            }
        }
        if let Some(time) = events.transaction_time {
            stats.assignments += 1;
            stats.transactions += 1;
            stats.transaction.observe(time);
        }
        drop(stats);
        if events.sequence_state {
            self.pools.pinned.use_sequences();
        }
        self.turn(now, events.answered > 0);
    }

    /// Those that no request has counted, when there is none to come.
    pub(super) fn count_bytes(&mut self) {
        let mut stats = self.pools.stats(self.seat.index);
        stats.received += std::mem::take(&mut self.received);
        stats.sent += std::mem::take(&mut self.sent);
    }

    pub(super) fn count_pins(&mut self, pins: Pins) {
        if pins != self.pins {
            self.pools.pinned.change(self.pins, pins);
            self.pins = pins;
            self.card().keeps(pins.reasons().next().map(|reason| reason.label));
        }
    }

    /// Keeps the phase that time limits go by, where there are any. It begins anew with each answer, and whoever is heard of is
    /// not idle.
    pub(super) fn turn(&mut self, now: Instant, is_answered: bool) {
        let Some(watch) = &mut self.watch else { return };
        let in_transaction = self.session.in_transaction();
        if watch.phase == Phase::Idle || is_answered && !in_transaction {
            watch.begun = now;
        }
        let phase = match (self.session.is_waiting(), in_transaction) {
            (true, _) => Phase::Asked,
            (false, true) => Phase::Open,
            (false, false) => Phase::Idle,
        };
        if phase != watch.phase || is_answered || phase == Phase::Idle {
            (watch.phase, watch.since) = (phase, now);
        }
    }

    pub(super) fn overdue(&self, now: Instant) -> Option<Report> {
        let limits = self.watch.as_ref()?;
        let is_over = |since, limit| now.saturating_duration_since(since) >= limit;
        if limits.phase != Phase::Idle && limits.transaction.is_some_and(|limit| is_over(limits.begun, limit))
        {
            let text = "terminating connection due to transaction_timeout";
            return Some(Report::new(ErrorSource::Pooler, SqlState::TRANSACTION_TIMEOUT, text));
        }
        let (limit, code, text) = match limits.phase {
            Phase::Idle => (
                limits.idle,
                SqlState::IDLE_SESSION_TIMEOUT,
                "terminating connection due to client_idle_timeout",
            ),
            Phase::Open => (
                limits.idle_in_transaction,
                SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                "terminating connection due to idle_transaction_timeout",
            ),
            Phase::Asked => {
                (limits.query, SqlState::QUERY_CANCELED, "terminating connection due to query_timeout")
            }
        };
        is_over(limits.since, limit?).then(|| Report::new(ErrorSource::Pooler, code, text))
    }
}

impl Limits {
    pub fn new(config: &Config, pools: &UserPools) -> Option<Box<Self>> {
        let rules = pools.rules();
        let now = Instant::now();
        let limits = Limits {
            idle: config.listen.client_idle_timeout,
            idle_in_transaction: rules.idle_transaction_timeout,
            transaction: rules.transaction_timeout,
            query: rules.query_timeout,
            phase: Phase::Idle,
            since: now,
            begun: now,
        };
        let any = limits.all().next().is_some();
        any.then(|| Box::new(limits))
    }

    fn all(&self) -> impl Iterator<Item = Duration> {
        [self.idle, self.idle_in_transaction, self.transaction, self.query].into_iter().flatten()
    }

    /// How long the client may sleep, if it stays idle; `None`: for ever.
    pub fn sleep_end(&self) -> Option<Instant> {
        self.since.checked_add(self.idle?)?.checked_sub(LAST_SLEEP)
    }

    /// How often to look: the limits are kept to a quarter of the shortest.
    pub fn tick(&self) -> Duration {
        let shortest = self.all().min().unwrap_or_default();
        (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }
}
