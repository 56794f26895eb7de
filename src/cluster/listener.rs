//! The listener that all clients of a database share: one connection to the primary hears every channel that any of them
//! listens to.
//!
//! The connection is made for the first LISTEN and closed some time after the last UNLISTEN. A client's LISTEN is answered
//! when the server has answered the listener's, so whatever is committed from then on reaches the client, in the order in
//! which the server reports it. When the connection is lost, nobody can say what was notified until the next one listens:
//! every client that listens is disconnected, as it would be with its own connection.
//!
//! A listener that cannot be had declines, and its client listens on a server connection of its own. That is also what
//! happens where the database's encoding is not UTF-8: clients may speak several, and the shared connection only one.

mod exchange;
mod mailbox;

use super::failover::Standing;
use super::logins::Login;
use super::{Cluster, Database, Node, lock, monitor};
use crate::backend::{self, Backend, Ear, Heard};
use crate::error::{ErrorSource, Report};
use crate::routing::Role;
use crate::sql::quote::identifier;
use crate::wire::SqlState;
use exchange::{Command, Exchange};
use mailbox::Mailbox;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long logging in may take.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the connection may be silent before it is asked for a sign of life, and how long that may take.
const BEAT: Duration = Duration::from_secs(10);

/// How long a client's ReadyForQuery is held back for notifications of its own transaction.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the connection stays when nobody listens any more.
const LINGER: Duration = Duration::from_secs(60);

/// A database's listener.
#[derive(Default)]
pub struct Listener {
    exchange: Mutex<Exchange>,
    /// Something has changed in the exchange.
    calls: Notify,
    delivered: Arc<AtomicU64>,
}

/// One client's share in the listener; dropped, the client hears nothing any more.
pub struct Subscription {
    database: Arc<Database>,
    client: u64,
    mailbox: Arc<Mailbox>,
    channels: AtomicUsize,
}

/// There is no shared listener to be had.
#[derive(Debug)]
pub struct Declined;

impl Listener {
    /// That of the database which takes the place of this one's: it counts on.
    pub(super) fn heir(&self) -> Listener {
        Listener { delivered: self.delivered.clone(), ..Listener::default() }
    }

    /// Clients that hear something.
    pub fn listeners(&self) -> usize {
        lock(&self.exchange).listeners()
    }

    /// Notifications put into clients' hands so far.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Has the connection closed if it is not needed any more.
    pub(super) fn look(&self) {
        self.calls.notify_one();
    }

    fn end(&self, why: &Report) {
        lock(&self.exchange).end(why);
    }
}

impl Subscription {
    /// A client that hears no channel yet; `waker` is woken when something has come for it.
    pub fn new(database: &Arc<Database>, waker: &Waker) -> Self {
        let (client, mailbox) = lock(&database.listener.exchange).subscribe();
        mailbox.wakes(waker);
        Subscription { database: database.clone(), client, mailbox, channels: AtomicUsize::new(0) }
    }

    /// Asks for the channel at once, and answers when it is heard.
    ///
    /// # Cancel safety
    /// Dropped halfway, [`keep`](Self::keep) must be called before anything else.
    ///
    /// # Errors
    /// There is no shared listener, or the server refused.
    pub fn listen(&self, channel: &str) -> impl Future<Output = Result<(), Declined>> + use<> {
        let listener = &self.database.listener;
        self.channels.fetch_add(1, Ordering::Relaxed);
        let waits = lock(&listener.exchange).enter(self.client, channel);
        listener.calls.notify_one();
        async move {
            match waits {
                None => Ok(()),
                Some(answer) => answer.await.unwrap_or(false).then_some(()).ok_or(Declined),
            }
        }
    }

    /// Answers when all that was notified before the call can be taken, or after a second: late is better than never.
    ///
    /// # Cancel safety
    /// Dropped, it has no effect.
    pub async fn catch_up(&self) {
        let listener = &self.database.listener;
        let heard = lock(&listener.exchange).catch_up();
        listener.calls.notify_one();
        let _ = tokio::time::timeout(PATIENCE, heard).await;
    }

    /// How many channels it was made to hear, those that were declined included.
    pub fn channels(&self) -> usize {
        self.channels.load(Ordering::Relaxed)
    }

    /// Hears only those of its channels that are meant.
    pub fn keep(&self, count: usize, is_meant: impl Fn(&str) -> bool) {
        lock(&self.database.listener.exchange).keep(self.client, is_meant);
        self.channels.store(count, Ordering::Relaxed);
        self.database.listener.calls.notify_one();
    }

    /// The oldest notification, as a whole message.
    pub fn take(&self) -> Option<Arc<[u8]>> {
        self.mailbox.take()
    }

    /// Whether there is anything to tell: a notification, or that no more will come.
    pub fn has_tidings(&self) -> bool {
        self.mailbox.has_tidings()
    }

    /// Why none will come any more, once all are taken.
    pub fn end(&self) -> Option<Report> {
        self.mailbox.end()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        lock(&self.database.listener.exchange).leave(self.client);
        self.database.listener.calls.notify_one();
    }
}

/// Whatever ends the task, whoever listens is told.
struct Ending<'a>(&'a Listener);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end(&ended("The configuration of its database has changed."));
    }
}

/// Listens for the clients of `database` until the task is dropped.
pub async fn keep(database: Arc<Database>) {
    let listener = &database.listener;
    let _ending = Ending(listener);
    loop {
        listener.calls.notified().await;
        let commands = lock(&listener.exchange).commands();
        if commands.is_empty() {
            continue;
        }
        let why = match Box::pin(connect(&database)).await {
            Some((ear, node)) => Box::pin(hear(&database, ear, &node, commands)).await,
            None => Some(ended("There is no connection to listen with.")),
        };
        if let Some(why) = why {
            tracing::info!(database = %database.name, %why, "the listener has ended");
            listener.end(&why);
        }
    }
}

/// Serves until nobody has listened for some time (`None`) or the connection is lost.
async fn hear(database: &Database, mut ear: Ear, node: &Node, first: Vec<Command>) -> Option<Report> {
    let (listener, cluster) = (&database.listener, &database.section.cluster);
    let mut standings = cluster.watch();
    let mut asked = VecDeque::new();
    let mut heard_at = Instant::now();
    let mut used_at = heard_at;
    ask(&mut ear, &mut asked, first);
    loop {
        // Each branch is cancel safe. What is rare comes first, and what was heard before the time is over.
        tokio::select! {
            biased;
            () = listener.calls.notified() => {
                let commands = lock(&listener.exchange).commands();
                if asked.is_empty() && !commands.is_empty() {
                    // It has a whole beat to answer.
                    heard_at = Instant::now();
                }
                ask(&mut ear, &mut asked, commands);
            }
            _ = standings.changed() => if is_outdated(cluster, node) {
                return Some(ended("The server that it listened to is not the primary any more."));
            },
            heard = ear.next() => {
                heard_at = Instant::now();
                match heard {
                    Ok(heard) => listener.heard(heard, &mut asked),
                    Err(error) => return Some(ended(&format!("The connection that listened was lost: {error}"))),
                }
            }
            () = tokio::time::sleep_until((heard_at + BEAT).into()) => {
                if !asked.is_empty() {
                    return Some(ended("The server that it listened to does not answer."));
                }
                heard_at = Instant::now();
                asked.push_back(None);
                ear.ask("");
            }
        }
        if !lock(&listener.exchange).is_idle() {
            used_at = Instant::now();
        } else if used_at.elapsed() >= LINGER || database.steps_aside(Instant::now()) {
            ear.farewell();
            return None;
        }
    }
}

/// Commands that were sent and not answered; `None`: it only shows that the server lives.
type Asked = VecDeque<Option<Command>>;

fn ask(ear: &mut Ear, asked: &mut Asked, commands: Vec<Command>) {
    for command in commands {
        match &command {
            Command::Listen(channel, _) => ear.ask(&format!("LISTEN {}", identifier(channel))),
            Command::Unlisten(channel) => ear.ask(&format!("UNLISTEN {}", identifier(channel))),
            Command::CatchUp(_) => ear.ask(""),
        }
        asked.push_back(Some(command));
    }
}

impl Listener {
    fn heard(&self, heard: Heard, asked: &mut Asked) {
        match heard {
            Heard::Notification { channel, message } => {
                let count = lock(&self.exchange).deliver(&channel, &message);
                self.delivered.fetch_add(count as u64, Ordering::Relaxed);
            }
            Heard::Answered(answer) => {
                if let Err(report) = &answer {
                    tracing::warn!(%report, "the listener was refused a channel");
                }
                match asked.pop_front().flatten() {
                    Some(Command::Listen(channel, number)) => {
                        lock(&self.exchange).answered(&channel, number, answer.is_ok());
                    }
                    Some(Command::CatchUp(number)) => lock(&self.exchange).caught_up(number),
                    Some(Command::Unlisten(_)) | None => {}
                }
            }
        }
    }
}

/// Whether notifications are sent elsewhere by now. A server that is only down may come back, with its connections.
fn is_outdated(cluster: &Cluster, node: &Node) -> bool {
    let is_other_primary =
        |other: &Arc<Node>| !std::ptr::eq(&**other, node) && other.standing() == Standing::Primary;
    node.state().role == Some(Role::Replica) || cluster.nodes().iter().any(is_other_primary)
}

/// A connection to the primary, by the first of the monitor's logins that is let in.
async fn connect(database: &Database) -> Option<(Ear, Arc<Node>)> {
    let cluster = &database.section.cluster;
    let is_primary = |node: &&Arc<Node>| node.standing() == Standing::Primary;
    let node = cluster.nodes().iter().find(is_primary)?.clone();
    for attempt in 0..cluster.logins() {
        let login = Login { database: database.server_name(), ..cluster.login(attempt)? };
        let mut target = monitor::target(cluster, &node, login);
        target.parameters = vec![
            ("application_name".into(), "pglagoon listener".into()),
            ("client_encoding".into(), "UTF8".into()),
        ];
        match Box::pin(backend::connect(&target, LOGIN_TIMEOUT)).await {
            Ok(backend) if speaks_for_all(&backend) => return Some((Ear::new(backend), node)),
            Ok(backend) => {
                tracing::debug!(database = %database.name, "not in UTF-8: no shared listener");
                backend.farewell();
                return None;
            }
            Err(error) => {
                tracing::warn!(database = %database.name, %error, "no login to listen with");
                node.login_of_ours_failed(&target, &error);
            }
        }
    }
    None
}

/// Whether clients that say nothing of an encoding get the same bytes as those that ask for UTF-8.
fn speaks_for_all(backend: &Backend) -> bool {
    matches!(backend.state.parameter("server_encoding"), Some("UTF8" | "SQL_ASCII"))
}

fn ended(detail: &str) -> Report {
    let text = "terminating connection because notifications may have been missed";
    Report::new(ErrorSource::Pooler, SqlState::ADMIN_SHUTDOWN, text)
        .detail(detail.to_owned())
        .hint("Connect and LISTEN again.")
}
