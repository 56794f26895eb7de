//! Counters and histograms: plain data that the I/O rooms fill and `admin` shows.
//!
//! There is one [`Stats`] per database, user and worker, behind a mutex that only its worker and a scrape ever take, so
//! that counting costs no shared cache line. A scrape merges the workers' shares. Times are microseconds, sizes bytes.

use crate::error::ErrorSource;
use crate::routing::{Role, Why};
use crate::session::Rescue;
use crate::sql::Reason;
use crate::wire::SqlState;
use std::collections::BTreeMap;
use std::time::Duration;

/// How many finite buckets a histogram has: their upper bounds are 16 µs, 32 µs, ... 2^(3 + BUCKETS) µs (about 134 s).
pub const BUCKETS: usize = 24;

/// Counts of durations in buckets that double.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS + 1],
    sum: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: [0; BUCKETS + 1], sum: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.counts[Self::bucket(us)] += 1;
        self.sum = self.sum.saturating_add(us);
    }

    /// Adds another histogram's counts.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum
    }

    /// Upper bound (inclusive, in seconds; infinity for the last) and cumulative count of each bucket.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let mut total = 0;
        self.counts.iter().enumerate().map(move |(bucket, count)| {
            total += count;
            let bound = if bucket == BUCKETS { f64::INFINITY } else { (16u64 << bucket) as f64 / 1e6 };
            (bound, total)
        })
    }

    fn bucket(us: u64) -> usize {
        // 0..=16 -> 0, 17..=32 -> 1, 33..=64 -> 2 ...
        let doublings = 64 - us.saturating_sub(1).leading_zeros() as usize;
        doublings.saturating_sub(4).min(BUCKETS)
    }
}

/// What happened for one database and user (on one worker, or merged). Query times are kept by role and reason.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Server connections handed to clients.
    pub assignments: u64,
    /// Transactions ended (a statement outside a block is one).
    pub transactions: u64,
    /// Requests answered: simple queries and Syncs that ran something.
    pub queries: u64,
    /// Bytes from clients.
    pub received: u64,
    /// Bytes to clients.
    pub sent: u64,
    /// Parse messages from clients.
    pub client_parses: u64,
    /// Parse messages sent to servers.
    pub server_parses: u64,
    /// Bind messages from clients.
    pub binds: u64,
    /// Requests that ran again without the client seeing it, in the order of [`Rescue::ALL`].
    pub rescues: [u64; Rescue::ALL.len()],
    /// Client logins.
    pub logins: u64,
    /// Time waited for a server connection; only waits, not immediate leases.
    pub wait: Histogram,
    /// Time that reads waited for a replica that is fresh enough, or found that there is none.
    pub freshness: Histogram,
    /// Time that requests waited for the primary to show what their client saw on a replica.
    pub barrier: Histogram,
    /// Time from a transaction's first message to its end.
    pub transaction: Histogram,
    query: [[Option<Box<Histogram>>; Why::ALL.len()]; 2],
    statements: [[u64; Reason::ALL.len()]; 2],
    errors: BTreeMap<(ErrorSource, Box<str>), u64>,
}

impl Stats {
    /// Counts one query.
    pub fn query(&mut self, role: Role, why: Why, time: Duration) {
        self.queries += 1;
        self.query[role as usize][why as usize].get_or_insert_default().observe(time);
    }

    /// Query times by role and reason, where there are any.
    pub fn query_times(&self) -> impl Iterator<Item = (Role, Why, &Histogram)> {
        Role::ALL.into_iter().flat_map(move |role| {
            Why::ALL.into_iter().filter_map(move |why| {
                self.query[role as usize][why as usize].as_deref().map(|times| (role, why, times))
            })
        })
    }

    /// Counts statements of which the classifier made the same.
    pub fn ran(&mut self, role: Role, reason: Reason, count: u16) {
        self.statements[role as usize][reason as usize] += u64::from(count);
    }

    /// Statements by where they ran and what the classifier made of them, where there are any.
    pub fn statements(&self) -> impl Iterator<Item = (Role, Reason, u64)> {
        let counts = Role::ALL.into_iter().zip(self.statements);
        let all = counts.flat_map(|(role, counts)| {
            Reason::ALL.into_iter().zip(counts).map(move |(reason, count)| (role, reason, count))
        });
        all.filter(|(_, _, count)| *count > 0)
    }

    /// Counts requests that run again.
    pub fn rescue(&mut self, rescue: Rescue, count: u64) {
        self.rescues[rescue as usize] += count;
    }

    /// Counts an error that a client was told of.
    pub fn error(&mut self, source: ErrorSource, code: SqlState) {
        *self.errors.entry((source, code.as_str().into())).or_default() += 1;
    }

    /// Errors by source and SQLSTATE.
    pub fn errors(&self) -> impl Iterator<Item = (ErrorSource, &str, u64)> {
        self.errors.iter().map(|((source, code), count)| (*source, &**code, *count))
    }

    /// All query times together.
    pub fn all_queries(&self) -> Histogram {
        let mut all = Histogram::default();
        self.query_times().for_each(|(_, _, times)| all.merge(times));
        all
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Stats) {
        self.assignments += other.assignments;
        self.transactions += other.transactions;
        self.queries += other.queries;
        self.received += other.received;
        self.sent += other.sent;
        self.client_parses += other.client_parses;
        self.server_parses += other.server_parses;
        self.binds += other.binds;
        self.logins += other.logins;
        self.rescues.iter_mut().zip(other.rescues).for_each(|(mine, theirs)| *mine += theirs);
        self.wait.merge(&other.wait);
        self.freshness.merge(&other.freshness);
        self.barrier.merge(&other.barrier);
        self.transaction.merge(&other.transaction);
        for (role, why, times) in other.query_times() {
            self.query[role as usize][why as usize].get_or_insert_default().merge(times);
        }
        for (mine, theirs) in self.statements.iter_mut().flatten().zip(other.statements.iter().flatten()) {
            *mine += theirs;
        }
        for (key, count) in &other.errors {
            *self.errors.entry(key.clone()).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_double_and_the_last_takes_the_rest() {
        let mut histogram = Histogram::default();
        for us in [0, 16, 17, 32, 33] {
            histogram.observe(Duration::from_micros(us));
        }
        histogram.observe(Duration::MAX);
        let cumulative: Vec<_> = histogram.cumulative().collect();
        assert_eq!(cumulative.len(), BUCKETS + 1);
        assert_eq!((cumulative[0], cumulative[1].1, cumulative[2].1), ((16e-6, 2), 4, 5));
        assert_eq!(cumulative[BUCKETS], (f64::INFINITY, 6));
    }

    #[test]
    fn merging_adds_every_count() {
        let mut one = Stats::default();
        one.query(Role::Replica, Why::Read, Duration::from_micros(5));
        one.error(ErrorSource::Pooler, SqlState::TOO_MANY_CONNECTIONS);
        one.ran(Role::Primary, Reason::UnknownFunction, 3);
        let mut sum = one.clone();
        sum.merge(&one);
        assert_eq!(sum.queries, 2);
        assert_eq!(sum.all_queries().count(), 2);
        assert_eq!(sum.statements().collect::<Vec<_>>(), [(Role::Primary, Reason::UnknownFunction, 6)]);
        assert_eq!(sum.errors().collect::<Vec<_>>(), vec![(ErrorSource::Pooler, "53300", 2)]);
    }
}
