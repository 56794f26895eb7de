//! SWITCHOVER: a planned change of the primary, during which clients wait instead of failing.
//!
//! ```text
//!   hold new work --> transactions end --> the operator promotes, the monitor sees it --> serve on the new primary
//!                          \----------------------\-- too late --> serve as before
//! ```
//! Who asked for it may leave: it goes on without him, and ends by itself.

use super::operate::NOWHERE;
use crate::admin::Pending;
use crate::cluster::failover::Standing;
use crate::cluster::{Cluster, Database, Node, Stage, Switchover};
use crate::config::values::duration_text;
use crate::error::{ErrorSource, Report};
use crate::wire::SqlState;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it is looked whether the next step can be made, and the server is probed.
const POLL: Duration = Duration::from_millis(20);

/// Begins one.
///
/// # Errors
/// The server is not one of the database's, or is the primary already, or the database is held already.
pub(super) fn begin(
    database: &Arc<Database>,
    server: &str,
    timeout: Option<Duration>,
) -> Result<Pending, Report> {
    let node = database.section.cluster.nodes().iter().find(|node| node.address.to_string() == server);
    let Some(node) = node.cloned() else {
        let text = format!("server \"{server}\" is none of database \"{}\"", database.name);
        return Err(Report::new(ErrorSource::Client, SqlState::UNDEFINED_OBJECT, text)
            .hint("SHOW NODES lists the servers."));
    };
    if node.standing() == Standing::Primary {
        return Err(refused(format!("server \"{server}\" is the primary already")));
    }
    if !database.hold_for(server) {
        return Err(refused(format!("database \"{}\" is paused, or switched over already", database.name)));
    }
    let patience = timeout.unwrap_or(database.rules().pool.checkout_timeout);
    let switchover = tokio::spawn(run(database.clone(), node, patience));
    Ok(Box::pin(async {
        let gone = |_| Err(refused("pglagoon is shutting down".into()));
        switchover.await.unwrap_or_else(gone)
    }))
}

async fn run(database: Arc<Database>, node: Arc<Node>, patience: Duration) -> Result<String, Report> {
    let began = Instant::now();
    let name = &database.name;
    tracing::info!(database = %name, server = %node.address, "switchover: holding clients");
    let outcome = wait(&database, &node, began + patience).await;
    if !matches!(outcome, Err(Late::Ended)) {
        database.resume(NOWHERE);
    }
    let answer = match outcome {
        Ok(()) => {
            let held = duration_text(Duration::from_millis(began.elapsed().as_millis() as u64));
            Ok(format!(
                "{} is the primary; clients of database \"{name}\" were held for {held}",
                node.address
            ))
        }
        Err(Late::Ended) => Err(failed("RESUME or a reload has ended the switchover", "")),
        Err(Late::InUse(count)) => {
            let text = format!("transactions did not end within {}", duration_text(patience));
            Err(failed(&text, &still(&database.section.cluster)).hint(format!(
                "{count} server connections are held by clients: SHOW CLIENTS lists them, with those that are pinned."
            )))
        }
        Err(Late::NotPromoted) => {
            let text = format!("{} was not promoted within {}", node.address, duration_text(patience));
            Err(failed(&text, &still(&database.section.cluster)))
        }
    };
    match &answer {
        Ok(text) => tracing::info!(database = %name, "switchover: {text}"),
        Err(report) => tracing::warn!(database = %name, %report, "switchover: failed"),
    }
    answer
}

/// Why it did not come about.
enum Late {
    InUse(usize),
    NotPromoted,
    /// Clients are not held any more.
    Ended,
}

async fn wait(database: &Database, node: &Node, deadline: Instant) -> Result<(), Late> {
    let mut tick = tokio::time::interval(POLL);
    let mut quiet_since = None;
    loop {
        tick.tick().await;
        let (in_use, now) = (database.in_use(), Instant::now());
        let Some(Switchover { stage, .. }) = database.switchover() else { return Err(Late::Ended) };
        // Nothing is acknowledged once nothing runs: a position of then tells that nothing of it was lost.
        let quiet = (in_use == 0).then(|| *quiet_since.get_or_insert(now));
        let is_known = quiet.is_some_and(|since| database.section.cluster.has_sample_since(since));
        match stage {
            _ if in_use == 0 && node.standing() == Standing::Primary => return Ok(()),
            Stage::Draining if is_known => {
                tracing::info!(database = %database.name, server = %node.address, "switchover: promote it now");
                database.await_promotion();
            }
            _ if now < deadline => {}
            Stage::Draining if in_use > 0 => return Err(Late::InUse(in_use)),
            Stage::Draining | Stage::Promoting => return Err(Late::NotPromoted),
        }
        database.clear_queues();
        database.section.cluster.poke();
    }
}

/// What clients are served by after all.
fn still(cluster: &Cluster) -> String {
    let primary = cluster.nodes().iter().find(|node| node.standing() == Standing::Primary);
    match primary {
        Some(primary) => format!("Clients are served again; the primary is {}.", primary.address),
        None => "Clients are let on, but no server is known to be the primary.".to_owned(),
    }
}

fn failed(text: &str, detail: &str) -> Report {
    Report::new(ErrorSource::Pooler, SqlState::CANNOT_CONNECT_NOW, text.to_owned()).detail(detail.to_owned())
}

fn refused(text: String) -> Report {
    Report::new(ErrorSource::Client, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text)
}
