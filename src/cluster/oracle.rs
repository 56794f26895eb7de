//! Asks one server how far it is, over a connection of its own, for everybody who wants to know at once.
//!
//! Who wants a reading says so and waits for one that was asked for afterwards. While a question is out, all who come share
//! the next one, as in a group commit: at any load there is at most one question per round trip, and without anybody who
//! wants to know there is none. On a primary a reading bounds from above whatever was acknowledged before it was asked for;
//! on a replica, it bounds from below whatever a read shows from then on.

use super::{Cluster, Node, lock, monitor};
use crate::backend::{self, Backend, CommandError, Rows, command};
use crate::config::Monitor;
use crate::routing::clock::normalised;
use crate::routing::{Lsn, Role};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot, watch};

/// The pause between two questions to a replica that makes progress, and to one that makes none.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(10));

/// How soon a server that could not be reached is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// Role and position belong together: whether the server is in recovery is asked once, and a server that is promoted
/// between the two answers its frozen replay position, which is true still.
const PREPARE: &str = "PREPARE pglagoon_position AS SELECT r, \
     CASE WHEN r THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_insert_lsn() END, \
     CASE WHEN NOT r THEN \
         pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) END \
     FROM (SELECT pg_catalog.pg_is_in_recovery() AS r OFFSET 0) AS recovery";

const POSITION: &str = "EXECUTE pglagoon_position";

/// How far a server was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// When that was asked for.
    pub asked: Instant,
    /// What it was.
    pub role: Role,
    /// The end of the last record inserted, or replayed.
    pub position: Lsn,
    /// The primary's timeline.
    pub timeline: Option<u32>,
}

/// What is known of one server, and who wants to know more.
#[derive(Default)]
pub struct Oracle {
    pub(super) latest: Mutex<Option<Reading>>,
    is_wanted: AtomicBool,
    questions: Mutex<Vec<Question>>,
    wake: Notify,
    /// How often it was asked for a position.
    pub fetches: AtomicU64,
}

struct Question {
    sql: String,
    answer: oneshot::Sender<Option<Rows>>,
}

impl Oracle {
    /// The latest reading.
    pub fn latest(&self) -> Option<Reading> {
        *lock(&self.latest)
    }

    /// Has a reading made that is asked for from now on. The cluster's `readings` tell when it is there.
    pub fn want(&self) {
        self.is_wanted.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Asks something else. `None`: there was no answer.
    pub async fn ask(&self, sql: String) -> Option<Rows> {
        let (sender, answer) = oneshot::channel();
        lock(&self.questions).push(Question { sql, answer: sender });
        self.wake.notify_one();
        answer.await.ok().flatten()
    }
}

/// Answers what is asked of one server of `cluster`, until the task is dropped.
pub async fn answer(cluster: Arc<Cluster>, index: usize, rules: watch::Receiver<Arc<Monitor>>) {
    let node = cluster.nodes()[index].clone();
    let oracle = &node.oracle;
    let mut line = Line { connection: None, moves: 0, attempt: 0, retry: Instant::now() };
    let mut next = Instant::now();
    let mut pause = PAUSES.0;
    loop {
        let settings = rules.borrow().clone();
        let questions = std::mem::take(&mut *lock(&oracle.questions));
        for Question { sql, answer } in questions {
            let _ = answer.send(line.run(&cluster, &node, &settings, &sql).await);
        }
        // Whoever wants a reading after this line has the next one made.
        if Instant::now() >= next && oracle.is_wanted.swap(false, Ordering::AcqRel) {
            let asked = Instant::now();
            let before = oracle.latest();
            let reading = line.read(&cluster, &node, &settings, asked).await;
            oracle.fetches.fetch_add(1, Ordering::Relaxed);
            if let Some(reading) = reading {
                cluster.read(&node, reading);
                let stands = before.is_some_and(|before| before.position == reading.position);
                pause = if stands { (pause * 2).min(PAUSES.1) } else { PAUSES.0 };
                next = if reading.role == Role::Replica { asked + pause } else { asked };
            } else {
                next = asked + PAUSES.1;
            }
            continue;
        }
        let is_wanted = oracle.is_wanted.load(Ordering::Acquire);
        // Both branches are cancel safe.
        tokio::select! {
            () = oracle.wake.notified() => {}
            () = tokio::time::sleep_until(next.into()), if is_wanted => {}
        }
    }
}

/// The connection over which a server is asked.
struct Line {
    connection: Option<Backend>,
    /// How often the server had moved when that was made.
    moves: u64,
    /// Which of the cluster's logins is used.
    attempt: usize,
    /// When the next login may be tried.
    retry: Instant,
}

impl Line {
    async fn read(
        &mut self,
        cluster: &Cluster,
        node: &Node,
        settings: &Monitor,
        asked: Instant,
    ) -> Option<Reading> {
        let rows = self.run(cluster, node, settings, POSITION).await?;
        reading(rows.first().map_or(&[], Vec::as_slice), asked)
    }

    async fn run(&mut self, cluster: &Cluster, node: &Node, settings: &Monitor, sql: &str) -> Option<Rows> {
        if self.moves != node.moves() {
            (self.connection, self.moves) = (None, node.moves());
        }
        let is_new = self.connection.is_none();
        if is_new {
            self.connect(cluster, node, settings).await;
        }
        match command::run(self.connection.as_mut()?, sql, settings.timeout).await {
            // What the server at the old address says holds for nobody any more.
            Ok(rows) => (self.moves == node.moves()).then_some(rows),
            // It had ended while nobody asked: that says nothing of the server.
            Err(CommandError::Io(..)) if !is_new => {
                self.connection = None;
                node.poke();
                Box::pin(self.run(cluster, node, settings, sql)).await
            }
            Err(error) => {
                tracing::debug!(server = %node.address, %error, "the server did not say how far it is");
                self.connection = None;
                node.poke();
                None
            }
        }
    }

    async fn connect(&mut self, cluster: &Cluster, node: &Node, settings: &Monitor) {
        let Some(login) = cluster.login(self.attempt).filter(|_| Instant::now() >= self.retry) else {
            return;
        };
        let target = monitor::target(cluster, node, login);
        let connected = async {
            let connection = Box::pin(backend::connect(&target, settings.timeout)).await;
            let mut connection = connection.map_err(|error| {
                node.login_of_ours_failed(&target, &error);
                error.is_of_login()
            })?;
            let prepare = format!("{}; {PREPARE}", monitor::UNLIMITED);
            let prepared = command::run(&mut connection, &prepare, settings.timeout).await;
            prepared.map_err(|error| matches!(error, CommandError::Server(_)))?;
            Ok::<_, bool>(connection)
        };
        match connected.await {
            Ok(connection) => self.connection = Some(connection),
            Err(is_of_login) => {
                self.attempt += usize::from(is_of_login);
                self.retry = Instant::now() + RETRY;
            }
        }
    }
}

fn reading(row: &[Option<String>], asked: Instant) -> Option<Reading> {
    let text = |column: usize| row.get(column).and_then(Option::as_deref);
    let position = text(1).and_then(Lsn::parse)?;
    Some(match text(0)? {
        "t" => Reading { asked, role: Role::Replica, position, timeline: None },
        _ => Reading {
            asked,
            role: Role::Primary,
            position: normalised(position),
            timeline: text(2).and_then(|digits| u32::from_str_radix(digits, 16).ok()),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primarys_position_is_the_end_of_a_record() {
        let asked = Instant::now();
        let row = |values: [Option<&str>; 3]| values.map(|value| value.map(str::to_owned));
        let primary = reading(&row([Some("f"), Some("0/6000028"), Some("00000002")]), asked).unwrap();
        assert_eq!((primary.position, primary.timeline), (Lsn::parse("0/6000000").unwrap(), Some(2)));
        let replica = reading(&row([Some("t"), Some("0/6000028"), None]), asked).unwrap();
        assert_eq!((replica.role, replica.position), (Role::Replica, Lsn::parse("0/6000028").unwrap()));
        assert_eq!(reading(&row([Some("t"), None, None]), asked), None);
    }
}
