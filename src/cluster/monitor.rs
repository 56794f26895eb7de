//! Asks each server what it is and how far it has come, over a connection of its own.
//!
//! Role and position come from one statement, so that they belong together: a promoted server's replay position stays
//! frozen at the fork, and must never be read as a replica's.

use super::failover::{Observation, Standing};
use super::logins::Login;
use super::patroni::Patroni;
use super::{Cluster, Node};
use crate::backend::{self, Abode, Backend, CommandError, ConnectError, Target, Usual, command};
use crate::config::Monitor;
use crate::routing::Lsn;
use crate::wire::SqlState;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often a server is asked while the cluster has no primary.
const URGENT: Duration = Duration::from_millis(100);

/// How many probes in a row must fail before a server that was good is down; refused connections count at once.
const FAILURES: u32 = 2;

/// How long a replica may say nothing at all, to nobody, while others answer: see [`answer`].
const SILENCE: Duration = Duration::from_secs(1);

/// After how much of that the others are asked, too. Not before: when all are slow, more questions make them no quicker.
const SUSPICION: Duration = Duration::from_millis(750);

/// How often it is looked whether a server that does not answer has said anything.
const LISTEN: Duration = Duration::from_millis(250);

/// The longest pause between probes while every login is refused, in intervals.
const MAX_PATIENCE: u32 = 30;

/// Role, position and timeline (in hexadecimal digits); where a promoted server began; the cluster's identifier; whether a
/// replica streams, and does not tell us on which timeline. A replica's timeline is the latest that anybody says: its control
/// file lags behind, and who streams is told to those alone who may read all statistics. What is said may come late, never
/// early.
const PROBE: &str = "SELECT r, \
     CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END, \
     CASE WHEN r THEN pg_catalog.to_hex(GREATEST( \
             (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()), \
             (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()), \
             (SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver))) \
          ELSE pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END, \
     CASE WHEN NOT r THEN pg_catalog.pg_last_wal_replay_lsn() END, \
     (SELECT system_identifier FROM pg_catalog.pg_control_system()), \
     EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver WHERE status IS NULL) \
     FROM (SELECT pg_catalog.pg_is_in_recovery() AS r OFFSET 0) AS recovery";

/// For servers that keep some of that for themselves: a role, a replica's position, and no timeline.
const PLAIN_PROBE: &str = "SELECT r, CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn() END, NULL, NULL, NULL, false \
     FROM (SELECT pg_catalog.pg_is_in_recovery() AS r OFFSET 0) AS recovery";

/// Said first on each connection of the cluster's own: no time limit that a role or a database has shall end what is asked over
/// it, or end it because nothing is asked. Which limits there are hangs on the server's version.
pub(super) const UNLIMITED: &str = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
     WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout', 'idle_session_timeout')";

/// What a server says that keeps something of [`PROBE`] for itself, or does not have it. Whatever else it says, it may say
/// otherwise the next time.
const KEPT: [SqlState; 5] = [
    SqlState::INSUFFICIENT_PRIVILEGE,
    SqlState::UNDEFINED_FUNCTION,
    SqlState::UNDEFINED_TABLE,
    SqlState::UNDEFINED_COLUMN,
    SqlState::FEATURE_NOT_SUPPORTED,
];

/// Probes one server of `cluster` until the task is dropped.
pub async fn watch(cluster: Arc<Cluster>, index: usize, mut rules: watch::Receiver<Arc<Monitor>>) {
    let node = cluster.nodes()[index].clone();
    let mut patroni = Patroni::default();
    let mut probe = Probe {
        index,
        connection: None,
        moves: 0,
        sql: PROBE,
        attempt: 0,
        refusals: 0,
        failures: 0,
        silent_since: None,
    };
    loop {
        let settings = rules.borrow_and_update().clone();
        let asked = Instant::now();
        let finding = probe.ask(&cluster, &node, &settings).await;
        node.is_silent_until(probe.silent_since.map(|since| since + settings.dead_after));
        // Asked afterwards: whoever promotes a server has the leader's lock before, so both answers agree. A server that does
        // not answer is down, whatever is said of it.
        let verdict = match finding.as_ref().is_some_and(Finding::is_failure) {
            true => None,
            false => Some(
                patroni
                    .ask(cluster.patronis.load_full().as_deref(), (index, &node.address), settings.timeout)
                    .await,
            ),
        };
        cluster.observed(&node, finding, verdict, asked, Instant::now());
        let is_urgent = cluster.nodes().iter().all(|node| node.standing() != Standing::Primary);
        let pause = match probe.rounds_refused(&cluster) {
            0 if is_urgent => URGENT.min(settings.interval),
            0 => settings.interval,
            // Each attempt stands in the server's log. A login that is offered meanwhile is tried at once.
            rounds => settings.interval * rounds.min(MAX_PATIENCE),
        };
        // A poke is a hint that something has changed; asking ten times a second is enough for any number of them.
        let next = asked + URGENT.min(settings.interval);
        // All branches are cancel safe.
        tokio::select! {
            () = node.poke.notified() => {}
            Ok(()) = rules.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
        tokio::time::sleep_until(next.into()).await;
    }
}

struct Probe {
    index: usize,
    connection: Option<Backend>,
    /// How often the server had moved when that was made.
    moves: u64,
    sql: &'static str,
    /// Which of the cluster's logins is used: the next one after a refusal.
    attempt: usize,
    /// Logins refused in a row.
    refusals: u32,
    failures: u32,
    /// When the first question was asked that got no answer of any kind, nor has any since.
    silent_since: Option<Instant>,
}

impl Probe {
    /// `None`: nothing can be said yet.
    async fn ask(&mut self, cluster: &Cluster, node: &Node, settings: &Monitor) -> Option<Finding> {
        let began = Instant::now();
        if node.moves() != self.moves {
            self.connection = None;
        }
        let is_new = self.connection.is_none();
        if is_new {
            let login = cluster.login(self.attempt)?;
            // Its name leads the way: everybody else goes where this connection does.
            let target = Target { abode: Abode::default(), ..target(cluster, node, login) };
            match Box::pin(backend::connect(&target, settings.timeout)).await {
                Ok(connection) => {
                    cluster.found(self.index, address(&connection));
                    node.is_met(Instant::now());
                    self.moves = node.moves();
                    if self.failures > 0 {
                        // Started anew so soon that it never counted as down; its caches are as cold.
                        cluster.comes_back(self.index, Instant::now());
                    }
                    self.refusals = 0;
                    self.sql = PROBE;
                    self.connection = Some(connection);
                }
                Err(error) => {
                    node.login_of_ours_failed(&target, &error);
                    return self.unreachable(node, &error, began);
                }
            }
        }
        let connection = self.connection.as_mut().expect("made above");
        let first = format!("{UNLIMITED}; {PROBE}");
        let sql = if is_new { &first } else { self.sql };
        let question = Box::pin(command::run(connection, sql, settings.timeout));
        let Some(mut answer) = answer(question, cluster, self.index).await else {
            self.connection = None;
            self.hears(Some(began));
            self.failures += FAILURES;
            return self.failed(node, "has said nothing for a second, while others answer".into());
        };
        if let Err(CommandError::Io(..)) = answer
            && !is_new
        {
            // The server has been away, or is: a connection of its own that ended says nothing of which.
            self.connection = None;
            let finding = Box::pin(self.ask(cluster, node, settings)).await;
            if self.connection.is_some() {
                // As if it had been started anew: its caches may be as cold.
                cluster.comes_back(self.index, Instant::now());
            }
            return finding;
        }
        if let Err(CommandError::Server(report)) = &answer
            && self.sql == PROBE
            && KEPT.contains(&report.code)
        {
            tracing::warn!(
                server = %node.address, %report,
                "the monitor may not ask how far a server is: replicas serve no reads of levels that hang on it"
            );
            self.sql = PLAIN_PROBE;
            let plain = format!("{UNLIMITED}; {PLAIN_PROBE}");
            answer = Box::pin(command::run(connection, &plain, settings.timeout)).await;
        }
        self.hears(matches!(answer, Err(CommandError::Timeout | CommandError::Io(..))).then_some(began));
        match answer {
            Ok(rows) => {
                self.failures = 0;
                let row = rows.first().map_or(&[][..], Vec::as_slice);
                if is_new && is_kept_from_timeline(row) {
                    tracing::warn!(
                        server = %node.address,
                        "the monitor may not read pg_stat_wal_receiver: after a promotion this replica will serve no reads \
                         until it has made a restartpoint; GRANT pg_read_all_stats TO the monitor's user"
                    );
                }
                Some(finding(row))
            }
            Err(error) => {
                self.connection = None;
                self.failed(node, error.to_string())
            }
        }
    }

    fn unreachable(&mut self, node: &Node, error: &ConnectError, began: Instant) -> Option<Finding> {
        self.hears(matches!(error, ConnectError::Timeout(_) | ConnectError::Io(..)).then_some(began));
        match error {
            error if error.is_of_login() => self.refused(node, error),
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

    /// A question that was asked at `unanswered` got no answer, or (`None`) the last one got one: a refusal is one, too.
    fn hears(&mut self, unanswered: Option<Instant>) {
        self.silent_since = unanswered.map(|asked| self.silent_since.unwrap_or(asked));
    }

    /// The server is up; what it is, this login cannot find out. Another may, perhaps one that a client brings. Until
    /// then it stays what it was last known to be, which is better than an outage for a password that was changed.
    fn refused(&mut self, node: &Node, error: &ConnectError) -> Option<Finding> {
        self.attempt += 1;
        self.refusals += 1;
        tracing::warn!(server = %node.address, %error, "the monitor's login was refused");
        let is_known = matches!(node.standing(), Standing::Primary | Standing::Replica | Standing::Lagging);
        (!is_known).then(|| Finding::of(Observation::Refused(error.to_string())))
    }

    /// How often in a row every login was refused.
    fn rounds_refused(&self, cluster: &Cluster) -> u32 {
        self.refusals / cluster.logins().max(1) as u32
    }

    fn failed(&mut self, node: &Node, why: String) -> Option<Finding> {
        self.failures = self.failures.saturating_add(1);
        let is_good = matches!(node.standing(), Standing::Primary | Standing::Replica);
        if is_good && self.failures < FAILURES {
            node.poke();
            return None;
        }
        Some(Finding::of(Observation::Failed(why)))
    }
}

/// Waits for the answer to a question. `None`: the server is a replica that hangs.
///
/// To give up a replica costs little: what was asked of it and not shown is asked elsewhere. So silence of [`SILENCE`] is
/// enough, if it is nothing but silence: a server with too much to do answers the probe late, but it answers others
/// meanwhile. Nor is it the server's if no other one answers within [`LISTEN`]: then it may be ours, or the load's. A primary
/// is waited for, because nobody can take its place, and what is under way there could only fail.
async fn answer<T>(
    mut question: impl Future<Output = Result<T, CommandError>> + Unpin,
    cluster: &Cluster,
    index: usize,
) -> Option<Result<T, CommandError>> {
    let node = &cluster.nodes()[index];
    let others = || cluster.nodes().iter().enumerate().filter(|(place, _)| *place != index);
    let (mut silent_since, mut listened) = (Instant::now(), Instant::now());
    loop {
        // The question is looked at before the time is.
        if let Ok(answer) = tokio::time::timeout(LISTEN, &mut question).await {
            return Some(answer);
        }
        let now = Instant::now();
        if cluster.has_answered_since(index, listened) {
            silent_since = now;
        }
        let silence = now.saturating_duration_since(silent_since);
        if node.standing() == Standing::Replica && silence >= SUSPICION {
            if silence >= SILENCE && others().any(|(_, other)| other.has_answered_probe_since(listened)) {
                return None;
            }
            others().for_each(|(_, other)| other.poke());
        }
        listened = now;
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
        scram: cluster.scram().clone(),
        usual: Usual::default(),
        resolver: cluster.resolver().clone(),
        abode: node.abode.clone(),
    }
}

fn address(connection: &Backend) -> Option<SocketAddr> {
    connection.stream.peer().tcp()
}

/// What a probe has found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub observation: Observation,
    pub position: Option<Lsn>,
    /// Where a promoted server's own timeline began; its replay stands there for ever.
    pub fork: Option<Lsn>,
    /// The cluster's identifier.
    pub system: Option<u64>,
}

impl Finding {
    fn of(observation: Observation) -> Finding {
        Finding { observation, position: None, fork: None, system: None }
    }

    fn is_failure(&self) -> bool {
        matches!(self.observation, Observation::Failed(_))
    }
}

fn finding(row: &[Option<String>]) -> Finding {
    let text = |column: usize| row.get(column).and_then(Option::as_deref);
    let position = text(1).and_then(Lsn::parse);
    let timeline = text(2).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let observation = match text(0) {
        Some("t") => Observation::Replica { replay: position, timeline, age: None },
        Some("f") => Observation::Primary { timeline: timeline.unwrap_or_default() },
        _ => Observation::Failed("an answer to the probe that cannot be read".into()),
    };
    let fork = text(3).and_then(Lsn::parse);
    let system = text(4).and_then(|digits| digits.parse().ok());
    Finding { observation, position, fork, system }
}

/// Whether the server knows a timeline that the monitor's login may not see.
fn is_kept_from_timeline(row: &[Option<String>]) -> bool {
    row.get(5).is_some_and(|is_kept| is_kept.as_deref() == Some("t"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::ServerCredential;
    use crate::config::ServerAddress;
    use crate::net::{Resolver, tls::Connector};

    fn row(values: [Option<&str>; 5]) -> Vec<Option<String>> {
        values.map(|value| value.map(str::to_owned)).into()
    }

    #[test]
    fn only_the_primary_s_positions_say_what_was_acknowledged() {
        let now = Instant::now();
        let servers = [1, 2].map(|port| ServerAddress::Tcp { host: "127.0.0.1".into(), port });
        let cluster = Cluster::new(&servers, Connector::disabled(), Resolver::system(), now);
        let says = |place: usize, position: u64, asked: Instant| {
            let observation = Observation::Primary { timeline: 1 };
            let found =
                Finding { position: Some(Lsn(position)), system: Some(7), ..Finding::of(observation) };
            cluster.observed(&cluster.nodes()[place], Some(found), None, asked, asked);
        };
        let second = Duration::from_secs(1);
        says(0, 1000, now);
        assert_eq!(cluster.nodes()[0].standing(), Standing::Primary);
        says(0, 1100, now + second);
        // Another one that takes itself for the primary, on the same timeline.
        says(1, 50, now + second * 2);
        assert_eq!(cluster.target(now + second), Some(Lsn(1100)));
        assert_eq!(cluster.target(now + second * 2), None);
    }

    #[test]
    fn who_does_not_tell_his_timeline_any_more_loses_his_place_to_no_primary_of_yesterday() {
        let now = Instant::now();
        let servers = [1, 2].map(|port| ServerAddress::Tcp { host: "127.0.0.1".into(), port });
        let cluster = Cluster::new(&servers, Connector::disabled(), Resolver::system(), now);
        let says = |place: usize, timeline: u32| {
            let found = Finding::of(Observation::Primary { timeline });
            cluster.observed(&cluster.nodes()[place], Some(found), None, now, now);
        };
        let standings = || [0, 1].map(|place| cluster.nodes()[place].standing());
        says(1, 2);
        says(1, 0);
        says(0, 1);
        assert_eq!(standings(), [Standing::Down, Standing::Primary]);
        let gone = Finding::of(Observation::Failed("x".into()));
        cluster.observed(&cluster.nodes()[1], Some(gone), None, now, now);
        says(0, 1);
        assert_eq!(standings(), [Standing::Down, Standing::Down]);
    }

    #[test]
    fn a_reload_knows_since_when_there_is_no_primary() {
        let now = Instant::now();
        let servers = [1, 2].map(|port| ServerAddress::Tcp { host: "127.0.0.1".into(), port });
        let of = |servers: &[ServerAddress]| {
            Cluster::new(servers, Connector::disabled(), Resolver::system(), Instant::now())
        };
        let says = |cluster: &Cluster, place: usize, observation: Observation, at: Instant| {
            cluster.observed(&cluster.nodes()[place], Some(Finding::of(observation)), None, at, at);
            // There is no section that would have it done.
            cluster.note_primary(at);
        };
        let before = of(&servers);
        says(&before, 0, Observation::Primary { timeline: 1 }, now);
        let turned = [servers[1].clone(), servers[0].clone()];
        let next = of(&turned);
        next.inherit(&before);
        assert_eq!(next.without_primary_since(), None);
        let gone = now + Duration::from_secs(9);
        says(&next, 1, Observation::Failed("x".into()), gone);
        assert_eq!(next.without_primary_since(), Some(gone));
        let last = of(&servers);
        last.inherit(&next);
        assert_eq!(last.without_primary_since(), Some(gone));
    }

    #[test]
    fn what_one_login_derives_serves_the_next() {
        let servers = [1, 2].map(|port| ServerAddress::Tcp { host: "127.0.0.1".into(), port });
        let cluster = Cluster::new(&servers, Connector::disabled(), Resolver::system(), Instant::now());
        let login =
            || Login { user: "a".into(), database: "a".into(), credential: ServerCredential::Nothing };
        let [one, other] = [0, 1].map(|place| target(&cluster, &cluster.nodes()[place], login()));
        assert!(one.scram.is_shared_with(&other.scram));
    }

    #[test]
    fn the_role_decides_what_the_position_means() {
        let replica = finding(&row([Some("t"), Some("0/10"), Some("a"), None, Some("7")]));
        let expected = Observation::Replica { replay: Some(Lsn(16)), timeline: Some(10), age: None };
        assert_eq!((replica.observation, replica.position), (expected, Some(Lsn(16))));
        let primary = finding(&row([Some("f"), Some("0/10"), Some("0000000A"), Some("0/8"), Some("7")]));
        assert_eq!(primary.observation, Observation::Primary { timeline: 10 });
        assert_eq!((primary.fork, primary.system), (Some(Lsn(8)), Some(7)));
        assert!(matches!(finding(&[]).observation, Observation::Failed(_)));
    }
}
