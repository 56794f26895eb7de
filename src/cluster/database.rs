//! A database as clients ask for it: its users' pools, and what its catalog says.

use super::failover::Standing;
use super::listener::Listener;
use super::logins::Login;
use super::user_pools::{self, Counters};
use super::{Cluster, Node, Section, UserPools, lock, monitor};
use crate::auth::ServerCredential;
use crate::backend::{self, Backend, CommandError, command};
use crate::catalog::{NoCatalog, Snapshot};
use crate::config::{self, TokenSecret};
use crate::error::Report;
use crate::pool::Process;
use crate::pool::quota::Quota;
use crate::routing::Lineage;
use crate::routing::scope::Scopes;
use crate::sql::{Cache, Catalog, Effects};
use arc_swap::cache::Cache as Noted;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};

/// Classified statements kept per worker.
const CLASSIFIED: usize = 20_000;

/// How often the catalog is read without any sign of a change.
const CATALOG_BEAT: Duration = Duration::from_secs(60);

/// The pause for each catalog that is kept, if there are so many that the beat would be too quick for the primary.
const CATALOG_SHARE: Duration = Duration::from_millis(500);

/// So many databases of a cluster have their catalogs kept though nobody looks into them.
pub(super) const IDLE_CATALOGS: usize = 16;

/// So many catalogs of a cluster are read at once.
pub(super) const CATALOG_READERS: usize = 4;

/// How long DDL is let settle before the catalog is read: a migration is many statements. Until then all reads go to the primary.
const CATALOG_SETTLE: Duration = Duration::from_millis(50);

/// How often names that it does not know have it read again.
const SUSPICION: Duration = Duration::from_secs(5);

/// How long PostgreSQL waits for the sessions of a database that shall have none (`CountOtherDBBackends`).
const VACATING: Duration = Duration::from_secs(5);

/// How soon it is tried again after it could not be read; doubled with each failure.
const CATALOG_RETRY: Duration = Duration::from_secs(1);

/// How long logging in to read it may take.
const CATALOG_LOGIN: Duration = Duration::from_secs(10);

/// How long reading the catalog may take.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(30);

/// A database that clients can ask for.
pub struct Database {
    /// The name that they use.
    pub name: Arc<str>,
    /// Where it is served from.
    pub section: Arc<Section>,
    /// Clients that are logged in to it.
    pub clients: AtomicUsize,
    /// Hears notifications for all of them.
    pub listener: Listener,
    /// What bounds the pools of all users together, by the server's place in the cluster.
    pub quotas: Box<[Arc<Quota>]>,
    catalog: SharedCatalog,
    /// Somebody has looked into the catalog since it was read.
    is_consulted: AtomicBool,
    /// What texts are hashed with.
    key: [u8; 16],
    generation: AtomicU64,
    refresh: Notify,
    suspected: Mutex<Option<Instant>>,
    /// Until then somebody waits for it to have no session.
    vacating: Mutex<Option<Instant>>,
    users: Mutex<BTreeMap<String, Arc<UserPools>>>,
    /// Those of its name that reloads have closed, the latest last: each is there for as long as somebody uses it.
    left: Vec<Weak<Database>>,
    /// What runs by the way when something is written asks what its session drew from sequences.
    asks_sequences: AtomicBool,
    /// Clients that are held while there is no server for their request.
    pub held: AtomicUsize,
    paused: AtomicBool,
    disabled: AtomicBool,
    closed: AtomicBool,
    /// The server whose promotion is waited for: until then nobody is let to the pools.
    switchover: watch::Sender<Option<Switchover>>,
    workers: usize,
    process: Arc<Process>,
    /// Histories that connections share.
    pub scopes: Scopes,
    /// What causality tokens are signed with, if the configuration does not say.
    pub token_secret: TokenSecret,
}

/// What one worker knows of a database, without touching what all workers share but to see that it is still so.
pub struct Notes {
    /// Its settings.
    pub rules: Noted<Arc<ArcSwap<config::Database>>, Arc<config::Database>>,
    /// Who is primary.
    pub lineage: Noted<Arc<ArcSwapOption<Lineage>>, Option<Arc<Lineage>>>,
    /// What its catalog says of names.
    pub catalog: Noted<SharedCatalog, Arc<Box<dyn Catalog + Send + Sync>>>,
    /// The statements that the worker has classified by its catalog.
    pub classifier: Cache,
}

type SharedCatalog = Arc<ArcSwap<Box<dyn Catalog + Send + Sync>>>;

impl Notes {
    /// Of a worker that has not heard of the database before.
    pub fn new(database: &Database) -> Notes {
        Notes {
            rules: Noted::new(database.section.rules.clone()),
            lineage: Noted::new(database.section.cluster.lineage.clone()),
            catalog: Noted::new(database.catalog.clone()),
            classifier: Cache::new(CLASSIFIED, database.key),
        }
    }
}

/// A switchover that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switchover {
    /// The server that shall become primary.
    pub server: Arc<str>,
    /// How far it is.
    pub stage: Stage,
}

/// How far a switchover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Transactions end.
    Draining,
    /// Nothing runs: the server may be promoted.
    Promoting,
}

impl fmt::Display for Switchover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Draining => "transactions are ending",
            Stage::Promoting => "waiting for its promotion",
        };
        write!(f, "{}: {stage}", self.server)
    }
}

/// Whether a database takes new clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Open,
    /// No: an operator has disabled it.
    Refused,
}

impl Database {
    /// A database that nobody uses yet, in the place of those that reloads have closed, if there are any: `left`, the latest
    /// last. `key` is the process's secret for hashing texts.
    pub fn new(
        name: &str,
        section: Arc<Section>,
        left: &[Arc<Database>],
        workers: usize,
        key: [u8; 16],
        process: Arc<Process>,
    ) -> Arc<Self> {
        let before = left.last();
        let quotas = match before.filter(|before| Arc::ptr_eq(&before.section.cluster, &section.cluster)) {
            // What is still in use there counts here.
            Some(before) => before.quotas.clone(),
            None => section.cluster.nodes().iter().map(|_| Quota::new(None)).collect(),
        };
        let database = Arc::new(Database {
            name: name.into(),
            section: section.clone(),
            clients: AtomicUsize::new(0),
            listener: before.map(|before| before.listener.heir()).unwrap_or_default(),
            quotas,
            catalog: Arc::new(ArcSwap::from_pointee(Box::new(NoCatalog))),
            is_consulted: AtomicBool::new(false),
            key,
            generation: AtomicU64::new(0),
            refresh: Notify::new(),
            suspected: Mutex::default(),
            vacating: Mutex::default(),
            users: Mutex::default(),
            left: left.iter().map(Arc::downgrade).collect(),
            asks_sequences: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            disabled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            switchover: watch::Sender::new(None),
            workers,
            process,
            scopes: Scopes::default(),
            token_secret: TokenSecret(key.iter().map(|byte| format!("{byte:02x}")).collect()),
        });
        database.set_quotas();
        section.enter(&database);
        before.iter().for_each(|before| database.inherit(before));
        database
    }

    /// What an operator has said of the one before holds, and what was counted for its users goes on. What clients have
    /// classified by its catalog is classified anew, because the generation is another.
    fn inherit(self: &Arc<Self>, before: &Database) {
        self.generation.store(before.generation() + 1, Ordering::Relaxed);
        self.admit(before.admission());
        self.paused.store(before.is_paused(), Ordering::Release);
        before.users().iter().for_each(|pools| drop(pools.heir(self)));
    }

    /// The pools of `user`, made if there are none; `credential` is what its login is worth at the servers.
    pub fn user(self: &Arc<Self>, user: &str, credential: &ServerCredential) -> Arc<UserPools> {
        self.user_counted(user, credential, || user_pools::counters(self.workers))
    }

    /// The same; if they are made, it is with these counters.
    pub(super) fn user_counted(
        self: &Arc<Self>,
        user: &str,
        credential: &ServerCredential,
        counters: impl FnOnce() -> Counters,
    ) -> Arc<UserPools> {
        let mut users = lock(&self.users);
        if let Some(pools) = users.get(user) {
            pools.learn(credential);
            return pools.clone();
        }
        let process = self.process.clone();
        let pools = UserPools::new(self.clone(), user, credential.clone(), counters(), process);
        if self.is_paused() {
            pools.pause();
        }
        if self.is_closed() {
            pools.close();
            return pools;
        }
        users.insert(user.to_owned(), pools.clone());
        pools
    }

    /// The pools of every user that has logged in, here or in one whose place it has taken.
    pub fn users(&self) -> Vec<Arc<UserPools>> {
        lock(&self.users).values().cloned().collect()
    }

    /// Those of them whose sweep must not be put off.
    pub(super) fn urgent(&self) -> Vec<Arc<UserPools>> {
        lock(&self.users).values().filter(|pools| pools.is_urgent()).cloned().collect()
    }

    /// Its settings.
    pub fn rules(&self) -> Arc<config::Database> {
        self.section.rules()
    }

    /// Its name on the servers.
    pub fn server_name(&self) -> String {
        self.rules().server_database.clone().unwrap_or_else(|| self.name.to_string())
    }

    /// What its catalog says of names.
    pub fn catalog(&self) -> arc_swap::Guard<Arc<Box<dyn Catalog + Send + Sync>>> {
        self.consult();
        self.catalog.load()
    }

    /// Somebody looks into its catalog: it is worth reading again.
    pub fn consult(&self) {
        // Written once for each time that it is read, so that what all workers share stays in their caches.
        if !self.is_consulted.load(Ordering::Relaxed) {
            self.is_consulted.store(true, Ordering::Relaxed);
        }
    }

    /// Grows with every DDL seen.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// DDL has been seen: what was known of names may be wrong from now on. Until the catalog has been read again, every
    /// name is unknown, and so is served by the primary.
    pub fn catalog_changed(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.read_catalog_anew();
    }

    /// DDL was not seen, and has outdated the statements that were prepared in this generation.
    pub fn ddl_unseen_in(&self, generation: u64) {
        let next = generation.wrapping_add(1);
        if self.generation.compare_exchange(generation, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.read_catalog_anew();
        }
    }

    fn read_catalog_anew(&self) {
        self.catalog.store(Arc::new(Box::new(NoCatalog)));
        self.refresh.notify_one();
    }

    /// Whether what runs by the way when something is written asks what its session drew from sequences.
    pub fn asks_sequences(&self) -> bool {
        self.asks_sequences.load(Ordering::Relaxed)
    }

    /// A statement named something that the catalog snapshot does not know: made by somebody else perhaps, and not past us.
    /// The catalog is read again, but not for every such statement.
    pub fn suspect_catalog(&self, now: Instant) {
        let mut suspected = lock(&self.suspected);
        if suspected.is_none_or(|at| now.saturating_duration_since(at) >= SUSPICION) {
            *suspected = Some(now);
            self.refresh.notify_one();
        }
    }

    /// The server waits for it to have no session: its idle connections are none to whoever would drop it.
    pub(super) fn vacate(&self, home: usize, now: Instant) {
        *lock(&self.vacating) = Some(now + VACATING);
        self.step_aside(home, now);
    }

    /// Closes what no client uses while the server waits for that. A client that is logged in keeps the database, as on a
    /// direct connection, whether it has a server connection or not.
    pub(super) fn step_aside(&self, home: usize, now: Instant) {
        if self.steps_aside(now) {
            self.reconnect(home);
            self.listener.look();
        }
    }

    pub(super) fn steps_aside(&self, now: Instant) -> bool {
        lock(&self.vacating).is_some_and(|until| now < until) && self.clients.load(Ordering::Relaxed) == 0
    }

    /// Holds every client that wants a server connection.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::Release);
        self.users().iter().for_each(|pools| pools.pause());
    }

    /// Serves again, whatever held the clients.
    pub fn resume(&self, home: usize) {
        self.paused.store(false, Ordering::Release);
        self.users().iter().for_each(|pools| pools.resume(home));
        self.switchover.send_replace(None);
    }

    /// Holds every client as [`pause`](Self::pause) does until [`resume`](Self::resume), for a server that shall become
    /// primary. Those in the queues of the pools come out of them: how long they wait does not count until they are served
    /// again. False: somebody else holds them already.
    pub fn hold_for(&self, server: &str) -> bool {
        let is_free = !self.is_paused() && !self.is_closed();
        let begins = is_free
            && self.switchover.send_if_modified(|target| {
                let begins = target.is_none();
                target.get_or_insert_with(|| Switchover { server: server.into(), stage: Stage::Draining });
                begins
            });
        if begins {
            self.pause();
            self.clear_queues();
        }
        begins
    }

    /// Takes out of the queues who has found his way into one before he could see that a switchover has begun.
    pub fn clear_queues(&self) {
        let why = super::unavailable("a switchover is under way");
        (0..self.section.cluster.nodes().len()).for_each(|node| self.abandon(node, &why));
    }

    /// The switchover that is under way.
    pub fn switchover(&self) -> Option<Switchover> {
        self.switchover.borrow().clone()
    }

    /// Nothing runs any more, and all that was acknowledged is known to be below a position: the promotion may come.
    pub fn await_promotion(&self) {
        self.switchover.send_if_modified(|switchover| {
            switchover.as_mut().map(|switchover| switchover.stage = Stage::Promoting).is_some()
        });
    }

    /// Waits for the end of a switchover; answers whether there was one.
    pub(super) async fn switched(&self) -> bool {
        if self.switchover.borrow().is_none() {
            return false;
        }
        // The sender is ours: it is there as long as we are.
        let _ = self.switchover.subscribe().wait_for(Option::is_none).await;
        true
    }

    /// Uses no server connection again that is there now.
    pub fn reconnect(&self, home: usize) {
        self.users().iter().for_each(|pools| pools.reconnect(home));
    }

    /// Server connections from before the last [`reconnect`](Self::reconnect), or from before it took another's place, that
    /// are still there.
    pub fn outdated(&self) -> usize {
        self.pools().iter().map(|pools| pools.outdated()).sum()
    }

    /// Takes no new clients, or takes them again.
    pub fn admit(&self, admission: Admission) {
        self.disabled.store(admission == Admission::Refused, Ordering::Release);
    }

    /// Whether new clients are taken.
    pub fn admission(&self) -> Admission {
        if self.disabled.load(Ordering::Acquire) { Admission::Refused } else { Admission::Open }
    }

    /// Whether an operator has said something that shall hold.
    pub(super) fn has_orders(&self) -> bool {
        self.is_paused() || self.admission() == Admission::Refused
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Server connections that clients hold, or that are being cleaned after one.
    pub fn in_use(&self) -> usize {
        self.pools().iter().map(|pools| pools.in_use()).sum()
    }

    /// Its pools, and those of the databases whose place it has taken, as far as somebody uses these still: what is in use
    /// there counts here.
    pub fn pools(&self) -> Vec<Arc<UserPools>> {
        self.left().fold(self.users(), |pools, left| [pools, left.users()].concat())
    }

    /// Something that is counted of a database, of this one and of those whose place it has taken.
    pub fn total(&self, of: impl Fn(&Database) -> usize) -> usize {
        of(self) + self.left().map(|left| of(&left)).sum::<usize>()
    }

    fn left(&self) -> impl Iterator<Item = Arc<Database>> {
        self.left.iter().filter_map(Weak::upgrade)
    }

    /// Keeps no server connection from now on, and serves no request any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.users().iter().for_each(|pools| pools.close());
        if self.switchover.send_replace(None).is_some() {
            self.paused.store(false, Ordering::Release);
        }
        // Who waits for a server to become usable waits no longer.
        self.section.cluster.changes.send_modify(|version| *version += 1);
    }

    /// Whether somebody uses it, or a server connection is being cleaned after him.
    pub(super) fn is_used(&self) -> bool {
        self.clients.load(Ordering::Relaxed) > 0 || self.users().iter().any(|pools| pools.is_used())
    }

    /// Nobody uses it any more, or ever will. Users and their database know each other: one side has to let go.
    pub(super) fn forget_users(&self) {
        lock(&self.users).clear();
    }

    /// Whether it has been closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn set_quotas(&self) {
        let max = self.rules().pool.max_db_connections;
        self.quotas.iter().for_each(|quota| quota.set_max(max));
    }

    pub(super) fn reconfigure(&self) {
        self.set_quotas();
        self.users().iter().for_each(|pools| pools.reconfigure());
        // Which functions are safe may have changed.
        self.refresh.notify_one();
    }

    pub(super) fn abandon(&self, node: usize, why: &Report) {
        self.users().iter().for_each(|pools| pools.abandon(node, why));
    }

    /// A server is there (again): nobody waits any longer for what was feared of it.
    pub(super) fn welcome(&self, node: usize) {
        self.users().iter().for_each(|pools| pools.pools()[node].welcome());
    }

    /// A user's login has worked: the monitor may use it.
    pub(super) fn login_worked(&self, user: &str, credential: &ServerCredential) {
        let login =
            Login { user: user.to_owned(), database: self.server_name(), credential: credential.clone() };
        self.section.cluster.offer_login(login);
    }

    /// A client begins to use it. Answers how many there are already.
    pub(super) fn enter(&self) -> usize {
        let before = self.clients.fetch_add(1, Ordering::Relaxed);
        if before == 0 && self.catalog.load().version() == 0 {
            self.consult();
            self.refresh.notify_one();
        }
        before
    }

    /// Clients that have yet to move here from those whose place it has taken.
    pub(super) fn left_clients(&self) -> usize {
        self.left().map(|left| left.clients.load(Ordering::Relaxed)).sum()
    }

    /// Whether it has no section of its own: then its catalog is kept for as long as it has clients.
    fn is_of_wildcard(&self) -> bool {
        *self.section.name != *self.name
    }

    /// Keeps the catalog fresh until the task is dropped: on a beat, soon after DDL, and when a name was not known. It is
    /// read over a connection of its own, with the monitor's logins: no client's settings are on it, and no pool is too full.
    ///
    /// Of thousands of databases most are asked nothing for hours. So this is done for those whose catalog somebody looks into,
    /// and for as many others as there are seats: theirs is known when their next client comes. The rest
    /// have none until a client logs in or names something; until it is read, that is a second's fraction, all reads go to
    /// the primary.
    pub async fn keep_catalog(self: Arc<Self>) {
        let mut version = 0;
        let mut retry = CATALOG_RETRY;
        let mut primary = self.section.cluster.watch();
        let (mut is_wanted, mut seat, mut kept) = (false, None, None);
        loop {
            is_wanted |= self.is_consulted.swap(false, Ordering::Relaxed);
            seat = self.seat(seat, is_wanted);
            let is_left = self.is_of_wildcard() && self.clients.load(Ordering::Relaxed) == 0;
            if is_left || (!is_wanted && seat.is_none()) {
                (is_wanted, seat, kept) = (false, None, None);
                // Nobody keeps it fresh: nobody shall believe it.
                self.catalog.store(Arc::new(Box::new(NoCatalog)));
                self.refresh.notified().await;
                continue;
            }
            version += 1;
            let pause = match self.refresh_catalog(version).await {
                Some(pause) => {
                    (is_wanted, retry) = (false, CATALOG_RETRY);
                    kept.get_or_insert_with(|| Kept::new(&self.section.cluster));
                    pause
                }
                None => {
                    is_wanted &= self.clients.load(Ordering::Relaxed) > 0;
                    retry = (retry * 2).min(CATALOG_BEAT);
                    retry / 2
                }
            };
            let is_missing = self.catalog.load().version() == 0;
            // Both branches are cancel safe. What is kept is read again when it may have changed, asked for or not.
            is_wanted |= tokio::time::timeout(pause, async {
                tokio::select! {
                    () = self.refresh.notified() => true,
                    _ = primary.changed(), if is_missing => false,
                }
            })
            .await
            .unwrap_or(false);
            tokio::time::sleep(CATALOG_SETTLE).await;
        }
    }

    /// Who is asked needs none: it is free for another who is not.
    fn seat(&self, held: Option<OwnedSemaphorePermit>, is_wanted: bool) -> Option<OwnedSemaphorePermit> {
        let take = || self.section.cluster.idle_catalogs.clone().try_acquire_owned().ok();
        if is_wanted { None } else { held.or_else(take) }
    }

    /// Reads the catalog once; answers when to do so again, or `None` if it could not be read.
    async fn refresh_catalog(&self, version: u64) -> Option<Duration> {
        let generation = self.generation();
        let snapshot = self.read_catalog(version as usize, (generation << 20) + version).await?;
        self.asks_sequences.store(snapshot.writes().any(Effects::SEQUENCE), Ordering::Relaxed);
        self.catalog.store(Arc::new(Box::new(snapshot)));
        // DDL that ended while the catalog was being read may be missing from it. Looked at after the snapshot was put in
        // place: whoever sees DDL takes it away again.
        if self.generation() != generation {
            self.catalog.store(Arc::new(Box::new(NoCatalog)));
            return Some(CATALOG_SETTLE);
        }
        let others = CATALOG_SHARE * self.section.cluster.catalogs.load(Ordering::Relaxed) as u32;
        Some(CATALOG_BEAT.max(others))
    }

    async fn read_catalog(&self, attempt: usize, version: u64) -> Option<Snapshot> {
        let _turn = self.section.cluster.catalog_readers.acquire().await.ok()?;
        let is_primary = |node: &&Arc<Node>| node.standing() == Standing::Primary;
        let node = self.section.cluster.nodes().iter().find(is_primary)?;
        let login = Login { database: self.server_name(), ..self.section.cluster.login(attempt - 1)? };
        let target = monitor::target(&self.section.cluster, node, login);
        let mut backend = match Box::pin(backend::connect(&target, CATALOG_LOGIN)).await {
            Ok(backend) => backend,
            Err(error) => {
                tracing::debug!(database = %self.name, %error, "no login to read the catalog with");
                node.login_of_ours_failed(&target, &error);
                return None;
            }
        };
        let snapshot =
            Box::pin(read_snapshot(&mut backend, version, &self.rules().routing.safe_functions)).await;
        backend.farewell();
        snapshot.unwrap_or_else(|error| {
            tracing::warn!(database = %self.name, %error, "the catalog could not be read");
            None
        })
    }
}

/// A catalog that is kept, as its cluster counts them.
struct Kept(Arc<Cluster>);

impl Kept {
    fn new(cluster: &Arc<Cluster>) -> Kept {
        cluster.catalogs.fetch_add(1, Ordering::Relaxed);
        Kept(cluster.clone())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.catalogs.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One state of the catalog. Reading a view's text locks what the view refers to, as any reader would; whoever holds such
/// a table locked does not hold us up for long, nor do we those who wait for our snapshot: far less than `deadlock_timeout`,
/// after which one of them would be told of a deadlock. All in one message, so that nobody who watches out for sessions that
/// are idle in a transaction sees one between two queries.
async fn read_snapshot(
    backend: &mut Backend,
    version: u64,
    safe_functions: &[String],
) -> Result<Option<Snapshot>, CommandError> {
    const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
         SET LOCAL lock_timeout = '100ms'; SET LOCAL statement_timeout = '30s'";
    let all = [&[BEGIN], &Snapshot::QUERIES[..], &["COMMIT"]].concat().join(";\n");
    let results = command::run_all(backend, &all, CATALOG_TIMEOUT).await?;
    let results =
        results.try_into().map_err(|_| CommandError::Protocol("a query without a result".to_owned()))?;
    match Snapshot::from_rows(version, &results, safe_functions) {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(error) => {
            tracing::error!(%error, "the catalog's rows could not be understood");
            Ok(None)
        }
    }
}
