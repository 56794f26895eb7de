//! The barrier between a replica and the primary: what a replica has shown, the primary shall show.
//!
//! A replica shows a commit as soon as it has replayed it. The primary shows it later: when its WAL is flushed and its
//! synchronous standbys have confirmed it. A client that goes from the one to the other could see time run backwards; no
//! position in WAL tells of that. The two servers' snapshots do:
//!
//! 1. where the replica's snapshot ends: nothing from there on has been shown by it;
//! 2. which transactions below that the primary does not see yet;
//! 3. which of these the replica sees as committed: the primary is asked until it sees them, too.
//!
//! Mostly there are none after the second step. All clients that come to a barrier while it is being passed share the
//! next passage.

use super::{Cluster, Node};
use crate::routing::Shown;
use crate::routing::snapshot::Snapshot;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// How often the primary is asked whether it sees a commit by now.
const AGAIN: Duration = Duration::from_millis(1);

/// The most transactions that are looked at in one passage; if there are more, the primary is asked again first.
const MAX_SUSPECTS: usize = 1_000;

/// These functions are older than their namesakes with `pg_`, and there is no version without them.
const HORIZON: &str = "SELECT pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot())";
const SNAPSHOT: &str = "SELECT pg_catalog.txid_current_snapshot()";

/// How the latest attempt to pass ended; with when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passage {
    None,
    /// Whatever the replica had shown by then, the primary shows.
    Open(Instant),
    /// A server did not answer.
    Failed(Instant, Mute),
}

/// Who did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mute {
    Replica,
    Primary,
}

/// One replica's side of the barrier.
pub struct Barrier {
    latest: watch::Sender<Passage>,
    wake: Notify,
}

/// Why a client does not get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shut {
    /// The primary does not show it in time.
    Late,
    /// The replica does not say what it has shown.
    Unknown,
    /// The primary did not say what it shows, or there is none. It may, when it is asked again.
    Unanswered,
}

impl Default for Barrier {
    fn default() -> Self {
        Barrier { latest: watch::Sender::new(Passage::None), wake: Notify::new() }
    }
}

impl Barrier {
    /// Whether the primary is known to show what the replica had shown by `until`.
    pub fn is_open(&self, until: Instant) -> bool {
        matches!(*self.latest.borrow(), Passage::Open(began) if began >= until)
    }

    /// Waits until it is.
    ///
    /// # Errors
    /// Why it cannot be said.
    pub async fn pass(&self, until: Instant, deadline: Instant) -> Result<(), Shut> {
        let asked = Instant::now();
        let mut latest = self.latest.subscribe();
        self.wake.notify_one();
        let answered = latest.wait_for(|passage| match passage {
            Passage::None => false,
            Passage::Open(began) => *began >= until,
            // What could not be said before may be said now.
            Passage::Failed(began, _) => *began >= asked,
        });
        match tokio::time::timeout_at(deadline.into(), answered).await.map(|passage| passage.map(|at| *at)) {
            Ok(Ok(Passage::Open(_))) => Ok(()),
            Ok(Ok(Passage::Failed(_, Mute::Primary))) => Err(Shut::Unanswered),
            Ok(_) => Err(Shut::Unknown),
            Err(_) => Err(Shut::Late),
        }
    }
}

impl Cluster {
    /// Whether the primary may not show yet what a client saw on a replica. What it saw before the primary was one, that shows,
    /// too, or it is lost: then the client is told so when it has its server, and no barrier would ever open.
    pub(super) fn is_behind(&self, shown: Shown) -> bool {
        let is_open = |node: &Arc<Node>| node.barrier.is_open(shown.until);
        !self.nodes().get(usize::from(shown.node)).is_none_or(is_open) && !self.is_past(shown)
    }

    fn is_past(&self, shown: Shown) -> bool {
        self.lineage().as_ref().is_some_and(|lineage| lineage.came_after(shown.until))
    }

    /// Waits until another server has become primary than the one that was when a client saw this.
    pub(super) async fn outlives(&self, shown: Shown) {
        let mut changes = self.watch();
        while !self.is_past(shown) {
            // The sender is ours: it is there as long as we are.
            let _ = changes.changed().await;
        }
    }
}

/// Lets clients pass from one replica of `cluster` to the primary, until the task is dropped.
pub async fn keep(cluster: Arc<Cluster>, index: usize) {
    let node = cluster.nodes()[index].clone();
    loop {
        node.barrier.wake.notified().await;
        let began = Instant::now();
        let passage = match passage(&cluster, &node).await {
            Ok(()) => Passage::Open(began),
            Err(mute) => Passage::Failed(began, mute),
        };
        node.barrier.latest.send_replace(passage);
    }
}

async fn passage(cluster: &Cluster, replica: &Node) -> Result<(), Mute> {
    let reign = cluster.reign();
    let horizon = one(replica.oracle.ask(HORIZON.into()).await).and_then(|id| id.parse().ok());
    let horizon: u64 = horizon.ok_or(Mute::Replica)?;
    let mut suspects = loop {
        let suspects = snapshot(cluster).await.ok_or(Mute::Primary)?.unseen_below(horizon, MAX_SUSPECTS);
        match suspects.len() {
            MAX_SUSPECTS => tokio::time::sleep(AGAIN).await,
            _ => break suspects,
        }
    };
    if suspects.is_empty() {
        return Ok(());
    }
    let rows = replica.oracle.ask(committed(&suspects)).await.ok_or(Mute::Replica)?;
    let shown: Vec<u64> = rows.into_iter().filter_map(|row| row.first()?.as_deref()?.parse().ok()).collect();
    suspects.retain(|id| shown.contains(id));
    while !suspects.is_empty() {
        // When all have given up waiting, it is not asked on behalf of nobody; nor is another primary for what was of the last one.
        if replica.barrier.latest.receiver_count() == 0 || cluster.reign() != reign {
            return Err(Mute::Primary);
        }
        tokio::time::sleep(AGAIN).await;
        let snapshot = snapshot(cluster).await.ok_or(Mute::Primary)?;
        suspects.retain(|id| !snapshot.sees(*id));
    }
    Ok(())
}

async fn snapshot(cluster: &Cluster) -> Option<Snapshot> {
    let primary = cluster.primary()?;
    Snapshot::parse(&one(cluster.nodes()[primary].oracle.ask(SNAPSHOT.into()).await)?)
}

fn one(rows: Option<crate::backend::Rows>) -> Option<String> {
    rows?.into_iter().next()?.into_iter().next()?
}

fn committed(ids: &[u64]) -> String {
    let mut sql = "SELECT id FROM pg_catalog.unnest('{".to_owned();
    for (place, id) in ids.iter().enumerate() {
        let _ = write!(sql, "{}{id}", if place == 0 { "" } else { "," });
    }
    sql.push_str("}'::pg_catalog.int8[]) AS id WHERE pg_catalog.txid_status(id) = 'committed'");
    sql
}
