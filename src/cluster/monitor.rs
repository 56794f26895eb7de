//! Asks each server what it is and how far it has come, over a connection of its own.
//!
//! Role and position come from one statement, so that they belong together: a promoted server's replay position stays
//! frozen at the fork, and must never be read as a replica's.

use super::failover::{Observation, Standing};
use super::{Cluster, Login, Node};
use crate::backend::connect::ScramCache;
use crate::backend::{self, Backend, ConnectError, Target, command};
use crate::config::Monitor;
use crate::routing::Lsn;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a server is asked while the cluster has no primary.
const URGENT: Duration = Duration::from_millis(100);

/// How many probes in a row must fail before a server that was good is down; refused connections count at once.
const FAILURES: u32 = 2;

/// The longest pause between probes while every login is refused, in intervals.
const MAX_PATIENCE: u32 = 30;

const PROBE: &str = "SELECT pg_catalog.pg_is_in_recovery(), \
     CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
          ELSE pg_catalog.pg_current_wal_insert_lsn() END, \
     CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL \
          ELSE pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END";

/// Probes one server of `cluster` until the task is dropped.
pub async fn watch(cluster: Arc<Cluster>, index: usize, settings: Monitor) {
    let node = cluster.nodes()[index].clone();
    let mut probe = Probe { connection: None, attempt: 0, refusals: 0, failures: 0 };
    loop {
        let asked = Instant::now();
        if let Some((observation, position)) = probe.ask(&cluster, &node, &settings).await {
            cluster.observed(&node, observation, position, asked, Instant::now());
        }
        let is_urgent = cluster.nodes().iter().all(|node| node.standing() != Standing::Primary);
        let pause = match probe.rounds_refused(&cluster) {
            0 if is_urgent => URGENT.min(settings.interval),
            0 => settings.interval,
            // Each attempt stands in the server's log. A login that is offered meanwhile is tried at once.
            rounds => settings.interval * rounds.min(MAX_PATIENCE),
        };
        // A poke is a hint that something has changed; asking ten times a second is enough for any number of them.
        let next = asked + URGENT.min(settings.interval);
        let _ = tokio::time::timeout(pause, node.poke.notified()).await;
        tokio::time::sleep_until(next.into()).await;
    }
}

struct Probe {
    connection: Option<Backend>,
    /// Which of the cluster's logins is used: the next one after a refusal.
    attempt: usize,
    /// Logins refused in a row.
    refusals: u32,
    failures: u32,
}

impl Probe {
    /// `None`: nothing can be said yet.
    async fn ask(
        &mut self,
        cluster: &Cluster,
        node: &Node,
        settings: &Monitor,
    ) -> Option<(Observation, Option<Lsn>)> {
        if self.connection.is_none() {
            let login = cluster.login(self.attempt)?;
            match Box::pin(backend::connect(&target(cluster, node, login), settings.timeout)).await {
                Ok(connection) => {
                    self.refusals = 0;
                    self.connection = Some(connection);
                }
                Err(error) => return self.unreachable(node, &error),
            }
        }
        let connection = self.connection.as_mut().expect("made above");
        match Box::pin(command::run(connection, PROBE, settings.timeout)).await {
            Ok(rows) => {
                self.failures = 0;
                Some(observation(rows.first().map_or(&[], Vec::as_slice)))
            }
            Err(error) => {
                self.connection = None;
                self.failed(node, error.to_string())
            }
        }
    }

    fn unreachable(&mut self, node: &Node, error: &ConnectError) -> Option<(Observation, Option<Lsn>)> {
        match error {
            ConnectError::Auth(..) | ConnectError::Refused { temporary: false, .. } => {
                self.refused(node, error)
            }
            // Short of connections, memory or disk: clients that have a connection may go on.
            ConnectError::Refused { report, .. } if report.code.class() == *b"53" => {
                self.refused(node, error)
            }
            ConnectError::Io(..) => {
                self.failures += FAILURES;
                self.failed(node, error.to_string())
            }
            _ => self.failed(node, error.to_string()),
        }
    }

    /// The server is up; what it is, this login cannot find out. Another may, perhaps one that a client brings. Until
    /// then it stays what it was last known to be, which is better than an outage for a password that was changed.
    fn refused(&mut self, node: &Node, error: &ConnectError) -> Option<(Observation, Option<Lsn>)> {
        self.attempt += 1;
        self.refusals += 1;
        tracing::warn!(server = %node.address, %error, "the monitor's login was refused");
        let is_known = matches!(node.standing(), Standing::Primary | Standing::Replica | Standing::Lagging);
        (!is_known).then(|| (Observation::Refused(error.to_string()), None))
    }

    /// How often in a row every login was refused.
    fn rounds_refused(&self, cluster: &Cluster) -> u32 {
        self.refusals / cluster.logins().max(1) as u32
    }

    fn failed(&mut self, node: &Node, why: String) -> Option<(Observation, Option<Lsn>)> {
        self.failures = self.failures.saturating_add(1);
        let is_good = matches!(node.standing(), Standing::Primary | Standing::Replica);
        if is_good && self.failures < FAILURES {
            node.poke();
            return None;
        }
        Some((Observation::Failed(why), None))
    }
}

/// How the cluster's own questions reach a server.
pub(super) fn target(cluster: &Cluster, node: &Node, login: Login) -> Target {
    Target {
        address: node.address.clone(),
        tls: cluster.tls().clone(),
        user: login.user,
        database: login.database,
        credential: login.credential,
        statements: 0,
        parameters: vec![("application_name".into(), "pglagoon monitor".into())],
        scram: ScramCache::default(),
    }
}

fn observation(row: &[Option<String>]) -> (Observation, Option<Lsn>) {
    let text = |column: usize| row.get(column).and_then(Option::as_deref);
    let position = text(1).and_then(Lsn::parse);
    let observation = match text(0) {
        Some("t") => Observation::Replica { replay: position, age: None },
        Some("f") => {
            let timeline = text(2).and_then(|digits| u32::from_str_radix(digits, 16).ok());
            Observation::Primary { timeline: timeline.unwrap_or_default() }
        }
        _ => Observation::Failed("an answer to the probe that cannot be read".into()),
    };
    (observation, position)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: [Option<&str>; 3]) -> Vec<Option<String>> {
        values.map(|value| value.map(str::to_owned)).into()
    }

    #[test]
    fn the_role_decides_what_the_position_means() {
        let (replica, replay) = observation(&row([Some("t"), Some("0/10"), None]));
        assert_eq!(
            (replica, replay),
            (Observation::Replica { replay: Some(Lsn(16)), age: None }, Some(Lsn(16)))
        );
        let (primary, _) = observation(&row([Some("f"), Some("0/10"), Some("0000000A")]));
        assert_eq!(primary, Observation::Primary { timeline: 10 });
        assert!(matches!(observation(&[]).0, Observation::Failed(_)));
    }
}
