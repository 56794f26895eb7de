//! What operators can do, from the console.

use super::{Shared, Told, switchover};
use crate::admin::{Operated, Operation, Pending, Scope};
use crate::cluster::{Admission, Cluster, Database};
use crate::error::{ErrorSource, Report};
use crate::frontend::clients::{ClientCard, Order};
use crate::wire::SqlState;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How often PAUSE looks whether every server connection has come back.
const PAUSE_POLL: Duration = Duration::from_millis(10);

/// The worker at which what is done here is at home: none.
pub(super) const NOWHERE: usize = usize::MAX;

/// Moves the process.
pub(super) struct Controls {
    shared: Weak<Shared>,
    told: mpsc::UnboundedSender<Told>,
}

impl Controls {
    pub(super) fn new(shared: Weak<Shared>, told: mpsc::UnboundedSender<Told>) -> Self {
        Controls { shared, told }
    }

    fn perform(&self, shared: &Arc<Shared>, operation: Operation) -> Result<Pending, Report> {
        let done = |text: String| -> Pending { Box::pin(std::future::ready(Ok(text))) };
        match operation {
            Operation::Pause(scope) => Ok(Box::pin(all_released(pause(shared, &scope)?))),
            Operation::Resume(scope) => {
                match scope {
                    Scope::All => shared.frontend.directory.resume(NOWHERE),
                    Scope::Database(name) => database_named(shared, &name)?.resume(NOWHERE),
                }
                Ok(done(String::new()))
            }
            Operation::Reload => shared.reload().map(done).map_err(|error| {
                Report::new(
                    ErrorSource::Pooler,
                    SqlState::INVALID_PARAMETER_VALUE,
                    "the configuration is not good",
                )
                .detail(error)
            }),
            Operation::Reconnect(scope) => {
                databases(shared, &scope)?.iter().for_each(|database| database.reconnect(NOWHERE));
                Ok(done(String::new()))
            }
            Operation::WaitClose(scope) => Ok(Box::pin(all_closed(databases(shared, &scope)?))),
            Operation::Disable(name) => {
                let scope = Scope::Database(name);
                databases(shared, &scope)?.iter().for_each(|database| database.admit(Admission::Refused));
                Ok(done(String::new()))
            }
            Operation::Enable(name) => {
                let scope = Scope::Database(name);
                databases(shared, &scope)?.iter().for_each(|database| database.admit(Admission::Open));
                Ok(done(String::new()))
            }
            Operation::Kill(scope) => {
                kill(shared, &pause(shared, &scope)?);
                Ok(done(String::new()))
            }
            Operation::Detach(server) => {
                nodes(shared, &server)?.iter().for_each(|(cluster, index)| cluster.detach(*index));
                Ok(done(String::new()))
            }
            Operation::Attach(server) => {
                nodes(shared, &server)?.iter().for_each(|(cluster, index)| cluster.attach(*index));
                Ok(done(String::new()))
            }
            Operation::Drain(server) => {
                let nodes = nodes(shared, &server)?;
                nodes.iter().for_each(|(cluster, index)| cluster.detach(*index));
                Ok(Box::pin(all_drained(nodes)))
            }
            Operation::Switchover { database, server, timeout } => {
                switchover::begin(&database_named(shared, &database)?, &server, timeout)
            }
            Operation::KillClient(id) => {
                let clients = shared.frontend.clients.all();
                let Some(card) = clients.iter().find(|card| card.id == id) else {
                    let text = format!("no client has the id {id}");
                    return Err(Report::new(ErrorSource::Client, SqlState::UNDEFINED_OBJECT, text));
                };
                card.command(Order::Kill);
                Ok(done(String::new()))
            }
            Operation::Shutdown(shutdown) => {
                let _ = self.told.send(Told::Stop(shutdown));
                Ok(done(String::new()))
            }
            Operation::Upgrade => {
                let (asker, answer) = oneshot::channel();
                let _ = self.told.send(Told::Upgrade(Some(asker)));
                Ok(Box::pin(async {
                    let outcome = answer.await.unwrap_or_else(|_| Err("pglagoon is shutting down".into()));
                    outcome.map_err(|why| {
                        let text = "no process has taken over";
                        Report::new(ErrorSource::Pooler, SqlState::CANNOT_CONNECT_NOW, text).detail(why)
                    })
                }))
            }
        }
    }
}

impl Operated for Controls {
    fn operate(&self, operation: Operation) -> Pending {
        let Some(shared) = self.shared.upgrade() else {
            let gone =
                Report::new(ErrorSource::Pooler, SqlState::ADMIN_SHUTDOWN, "pglagoon is shutting down");
            return Box::pin(std::future::ready(Err(gone)));
        };
        self.perform(&shared, operation).unwrap_or_else(|report| Box::pin(std::future::ready(Err(report))))
    }
}

fn databases(shared: &Shared, scope: &Scope) -> Result<Vec<Arc<Database>>, Report> {
    let directory = &shared.frontend.directory;
    match scope {
        Scope::All => Ok(directory.databases()),
        Scope::Database(name) => database_named(shared, name).map(|database| vec![database]),
    }
}

fn database_named(shared: &Shared, name: &str) -> Result<Arc<Database>, Report> {
    shared.frontend.directory.find(name).ok_or_else(|| {
        let text = format!("database \"{name}\" is not configured");
        Report::new(ErrorSource::Client, SqlState::INVALID_CATALOG_NAME, text)
    })
}

/// The servers of this address, with their places in the clusters that they belong to.
fn nodes(shared: &Shared, server: &str) -> Result<Vec<(Arc<Cluster>, usize)>, Report> {
    let mut found = Vec::new();
    for cluster in shared.frontend.directory.clusters() {
        let index = cluster.nodes().iter().position(|node| node.address.to_string() == server);
        found.extend(index.map(|index| (cluster.clone(), index)));
    }
    if found.is_empty() {
        let text = format!("server \"{server}\" is not configured");
        return Err(Report::new(ErrorSource::Client, SqlState::UNDEFINED_OBJECT, text)
            .hint("SHOW NODES lists the servers."));
    }
    Ok(found)
}

fn pause(shared: &Shared, scope: &Scope) -> Result<Vec<Arc<Database>>, Report> {
    if *scope == Scope::All {
        return Ok(shared.frontend.directory.pause());
    }
    let databases = databases(shared, scope)?;
    databases.iter().for_each(|database| database.pause());
    Ok(databases)
}

/// Everybody in databases that are paused is disconnected, and no server connection is used again; who comes waits.
fn kill(shared: &Shared, databases: &[Arc<Database>]) {
    let named = |card: &&Arc<ClientCard>| databases.iter().any(|database| database.name == card.database);
    shared.frontend.clients.all().iter().filter(named).for_each(|card| card.command(Order::Kill));
    databases.iter().for_each(|database| database.reconnect(NOWHERE));
}

async fn all_closed(databases: Vec<Arc<Database>>) -> Result<String, Report> {
    while databases.iter().any(|database| database.outdated() > 0) {
        tokio::time::sleep(PAUSE_POLL).await;
    }
    Ok(String::new())
}

async fn all_drained(nodes: Vec<(Arc<Cluster>, usize)>) -> Result<String, Report> {
    while nodes
        .iter()
        .any(|(cluster, index)| cluster.nodes()[*index].is_detached() && cluster.in_use(*index) > 0)
    {
        tokio::time::sleep(PAUSE_POLL).await;
    }
    Ok(String::new())
}

async fn all_released(databases: Vec<Arc<Database>>) -> Result<String, Report> {
    while databases.iter().any(|database| database.is_paused() && database.in_use() > 0) {
        tokio::time::sleep(PAUSE_POLL).await;
    }
    Ok(String::new())
}
