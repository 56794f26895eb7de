//! One user of one database: a pool on each server, and how a request gets a connection from one of them.

use super::choice::{Choice, Search, Waited};
use super::failover::Standing;
use super::hold::{Line, Place};
use super::pinned::Pinned;
use super::{Database, lock};
use crate::auth::ServerCredential;
use crate::backend::command::{self, Rows};
use crate::backend::connect::ScramCache;
use crate::backend::{Backend, CommandError, Target, Usual};
use crate::config::{self, Config, Consistency, Reads, SessionState};
use crate::error::{ClientVisible, ErrorSource, Report};
use crate::metrics::Stats;
use crate::pool::core::{Asker, Limits};
use crate::pool::{Lease, LeaseError, Pool, Process, Settings as PoolSettings};
use crate::routing::{Need, Role, Route, Why};
use crate::session::pin::PinRoom;
use crate::session::{Sequences, Settings};
use crate::wire::SqlState;
use crate::wire::backend::write_parameter_status;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How many different sets of startup settings are kept with what servers made of them.
const MAX_GREETINGS: usize = 256;

/// How long changing a server connection's settings, or a query of ours, may take.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(10);

/// What is counted for one user of one database by each worker, however often a reload puts other pools into the place of his.
pub(super) type Counters = Arc<[Mutex<Stats>]>;

/// Of somebody for whom nothing has been counted yet.
pub(super) fn counters(workers: usize) -> Counters {
    (0..workers).map(|_| Mutex::default()).collect()
}

/// One user of one database.
pub struct UserPools {
    /// The database.
    pub database: Arc<Database>,
    /// The clients' user.
    pub user: Arc<str>,
    /// Clients that are logged in.
    pub clients: AtomicUsize,
    pools: Vec<Arc<Pool>>,
    pub(super) line: Line,
    stats: Counters,
    /// Clients that keep a server connection.
    pub pinned: Pinned,
    /// Server connections of clients that replicate.
    pub replication: AtomicUsize,
    greetings: Mutex<BTreeMap<u64, (Settings, Arc<Greeting>)>>,
    credential: Mutex<ServerCredential>,
    usual: Usual,
    scram: ScramCache,
    /// Clients of the user, over all databases.
    headcount: Arc<AtomicUsize>,
    /// What the user's reads may return: a place in [`Consistency::ALL`].
    level: AtomicU8,
    /// How many clients may keep a server connection.
    most_pinned: AtomicUsize,
}

/// A client of a user's: dropped, it has left.
pub struct Member(Arc<UserPools>);

impl Deref for Member {
    type Target = Arc<UserPools>;

    fn deref(&self) -> &Arc<UserPools> {
        &self.0
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.headcount.fetch_sub(1, Ordering::Relaxed);
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
        self.0.database.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a server reports after a login with certain settings, as it is told to the client after its own: ParameterStatus
/// messages.
pub type Greeting = [u8];

/// A lease, and what it is good for.
pub struct Granted {
    /// The lease.
    pub lease: Lease,
    /// What the server was.
    pub role: Role,
    /// Why this one.
    pub why: Why,
    /// The server's place in the cluster.
    pub node: usize,
    /// On which timeline the primary wrote then.
    pub timeline: Option<NonZeroU32>,
}

impl UserPools {
    pub(super) fn new(
        database: Arc<Database>,
        user: &str,
        credential: ServerCredential,
        stats: Counters,
        process: Arc<Process>,
    ) -> Arc<Self> {
        let (rules, usual, scram) = (database.rules(), Usual::default(), ScramCache::default());
        let own = rules.pool_of(user);
        let pool = |index: usize| {
            let node = database.section.cluster.nodes()[index].clone();
            let target = target(&database, &rules, index, user, &credential, &usual, &scram);
            let quota = database.quotas[index].clone();
            Pool::new(target, pool_settings(&own), node, process.clone(), quota)
        };
        let pools = (0..database.section.cluster.nodes().len()).map(pool).collect();
        Arc::new(UserPools {
            database,
            user: user.into(),
            clients: AtomicUsize::new(0),
            pools,
            line: Line::default(),
            stats,
            pinned: Pinned::default(),
            replication: AtomicUsize::new(0),
            greetings: Mutex::default(),
            credential: Mutex::new(credential),
            usual,
            scram,
            headcount: process.headcount(user),
            level: AtomicU8::new(rules.level_of(user) as u8),
            most_pinned: AtomicUsize::new(own.most_pinned()),
        })
    }

    /// A connection for `route`, if one can be had without waiting.
    pub fn try_lease(&self, route: Route, asker: Asker) -> Option<Granted> {
        if self.is_restless(route) {
            return None;
        }
        let choice = self.choose(route, None).filter(|choice| !self.must_line_up(*choice))?;
        let lease = self.pools[choice.node].try_lease(asker)?;
        self.trusted(lease, choice).map(|lease| self.granted(lease, choice, route))
    }

    /// A connection for `route`: is held while there is no server for it (see `hold.rs`), stands in the queue of
    /// one that is there, and looks for another when that fails.
    ///
    /// # Cancel safety
    /// Dropped, it leaves the queue; a lease on its way goes back.
    ///
    /// # Errors
    /// 57P03 when no server came within `hold_timeout`; 53300 when `checkout_timeout` is over or too many wait; the server's
    /// own error when it refuses the login.
    pub async fn lease(&self, route: &Route, home: usize, now: Instant) -> Result<Granted, Report> {
        let rules = self.database.rules();
        let mut search = Search::new(*route, &rules, now);
        let mut trial = self.line.arrive();
        let mut changes = self.database.section.cluster.watch();
        let mut place = None;
        if !self.line.is_empty() && self.choose(*route, None).is_none_or(|choice| self.must_line_up(choice)) {
            place = Some(Box::pin(self.hold(*route, &mut trial, search.deadline, &mut changes)).await?);
            search.renew(&rules, Instant::now());
        }
        loop {
            changes.mark_unchanged();
            if self.database.switched().await {
                let now = Instant::now();
                search = Search::new(*route, &rules, now);
                trial.renew();
            }
            if self.is_closed() {
                return Err(closed());
            }
            let found = match self.find_at_once(&search) {
                Some(choice) => Some(choice),
                None => {
                    // To find out may take its time: nobody shall have to wait for that.
                    place = None;
                    let found = Box::pin(self.find(&mut search)).await;
                    self.count(&mut search, home);
                    found?
                }
            };
            trial.last = None;
            if let Some(choice) = found {
                match self.lease_from(choice, home, &search, place.take()).await {
                    Ok(lease) => match self.still_good(lease, choice) {
                        Some(lease) => return Ok(self.granted(lease, choice, *route)),
                        // The connection is there the next time; this time the client stays.
                        None if search.has_strayed(choice) => continue,
                        None => {
                            search.mistrust(Instant::now());
                            continue;
                        }
                    },
                    // Whether it hangs will be known soon: it is as good as gone.
                    Err(LeaseError::Timeout) if self.is_silent(choice.node) => {
                        trial.last = Some(Box::new(super::unavailable("it does not answer")));
                    }
                    Err(LeaseError::Timeout) => return Err(self.timed_out(choice, &rules)),
                    Err(LeaseError::QueueFull(limit)) => return Err(self.queue_full(choice, limit)),
                    Err(LeaseError::Closed) => return Err(closed()),
                    Err(LeaseError::Refused(report)) if choice.role == Role::Primary => return Err(report),
                    // Its pool is passed over from now on, so that the next choice is another one.
                    Err(LeaseError::Refused(_) | LeaseError::Unreachable(_))
                        if choice.role == Role::Replica =>
                    {
                        continue;
                    }
                    Err(LeaseError::Refused(report) | LeaseError::Unreachable(report)) => {
                        trial.last = Some(Box::new(report));
                    }
                }
            }
            drop(place.take());
            // How long a switchover takes does not count.
            if self.database.switchover().is_none() {
                place =
                    Some(Box::pin(self.hold(search.route, &mut trial, search.deadline, &mut changes)).await?);
                if !trial.is_full() {
                    search.renew(&rules, Instant::now());
                }
            }
        }
    }

    /// Whether others wait for this server who came before. Who is held waits for the primary: a replica that will do is
    /// nobody's but its own clients'.
    fn must_line_up(&self, choice: Choice) -> bool {
        choice.role == Role::Primary && !self.line.is_empty()
    }

    fn count(&self, search: &mut Search, home: usize) {
        let Waited { freshness, barrier } = std::mem::take(&mut search.waited);
        if freshness.is_zero() && barrier.is_zero() {
            return;
        }
        let Some(stats) = self.stats.get(home) else { return };
        let mut stats = lock(stats);
        if !freshness.is_zero() {
            stats.freshness.observe(freshness);
        }
        if !barrier.is_zero() {
            stats.barrier.observe(barrier);
        }
    }

    /// `place` is left as soon as the next one would stand behind this one.
    async fn lease_from(
        &self,
        choice: Choice,
        home: usize,
        search: &Search,
        mut place: Option<Place<'_>>,
    ) -> Result<Lease, LeaseError> {
        let pool = &self.pools[choice.node];
        loop {
            let lease = match pool.try_lease(Asker { home, drawer: None }) {
                Some(lease) => lease,
                None => {
                    let answer = pool.queue(home, search.since, search.deadline)?;
                    drop(place.take());
                    let mut lease = answer.await.unwrap_or(Err(LeaseError::Closed))?.take();
                    if !lease.make_usable(home) {
                        continue;
                    }
                    lease
                }
            };
            return Ok(lease);
        }
    }

    /// The lease, if nothing has happened to the choice while it was waited for.
    fn still_good(&self, lease: Lease, choice: Choice) -> Option<Lease> {
        let standing = self.database.section.cluster.nodes()[choice.node].standing();
        if choice.role == Role::Primary && standing != Standing::Primary {
            lease.give_back();
            return None;
        }
        self.trusted(lease, choice)
    }

    /// The lease, if what was found out about its server holds for this connection; else it goes back.
    fn trusted(&self, mut lease: Lease, choice: Choice) -> Option<Lease> {
        match choice.since {
            Some(since) if lease.backend().since > since => {
                lease.give_back();
                None
            }
            _ => Some(lease),
        }
    }

    /// The next turn comes with a lease, not with a choice: who was chosen and had nothing idle is chosen again for the queue.
    fn granted(&self, lease: Lease, choice: Choice, route: Route) -> Granted {
        let stays = match route {
            Route::Replica { need: Need::Stay, shown, .. } => {
                shown.is_some_and(|shown| usize::from(shown.node) == choice.node)
            }
            _ => false,
        };
        if choice.role == Role::Replica && !stays {
            self.database.section.turn.fetch_add(1, Ordering::Relaxed);
        }
        let Choice { node, role, why, timeline, .. } = choice;
        Granted { lease, role, why, node, timeline }
    }

    /// The [`greeting`](Self::greeting) of these settings, if a login has asked for it before.
    pub fn known_greeting(&self, settings: &Settings) -> Option<(Settings, Arc<Greeting>)> {
        let greetings = lock(&self.greetings);
        let (known, greeting) = greetings.get(&settings.hash()).filter(|(known, _)| known == settings)?;
        Some((known.clone(), greeting.clone()))
    }

    /// What a server reports to a login with these settings: what `server_version` and the like are, and what it makes of
    /// the settings' values. The settings come back as one copy that all such clients share.
    ///
    /// # Errors
    /// As [`lease`](Self::lease), and the server's error about a value that it does not take.
    pub async fn greeting(
        &self,
        settings: Settings,
        home: usize,
    ) -> Result<(Settings, Arc<Greeting>), Report> {
        let mut granted = self.lease_anywhere(home).await?;
        match put_on(granted.lease.backend(), &settings).await {
            Ok(()) => {}
            Err(CommandError::Server(report)) => {
                granted.lease.give_back();
                return Err(report);
            }
            Err(error) => return Err(error.report()),
        }
        let backend = granted.lease.backend();
        let hidden = ["in_hot_standby"];
        let parameters = backend.state.parameters.iter().filter(|(name, _)| !hidden.contains(&&**name));
        let mut greeting = Vec::new();
        parameters.for_each(|(name, value)| write_parameter_status(&mut greeting, name, value));
        let greeting: Arc<Greeting> = greeting.into();
        granted.lease.give_back();
        let Target { user, credential, .. } = self.target(granted.node);
        self.database.login_worked(&user, &credential);
        let mut greetings = lock(&self.greetings);
        if greetings.len() >= MAX_GREETINGS {
            greetings.clear();
        }
        greetings.insert(settings.hash(), (settings.clone(), greeting.clone()));
        Ok((settings, greeting))
    }

    /// Runs a query of our own with one parameter as this user, on the primary, or on a replica if there is no primary.
    ///
    /// # Cancel safety
    /// Dropped, it leaves the queue, or its connection is closed.
    ///
    /// # Errors
    /// As [`lease`](Self::lease), and the server's own.
    pub async fn ask(&self, sql: &str, parameter: &str, home: usize) -> Result<Rows, Report> {
        let mut granted = self.lease_anywhere(home).await?;
        let backend = granted.lease.backend();
        let answer = match put_on(backend, &Settings::default()).await {
            Ok(()) => command::ask(backend, sql, parameter, SETTINGS_TIMEOUT).await,
            Err(error) => Err(error),
        };
        if matches!(answer, Ok(_) | Err(CommandError::Server(_))) {
            granted.lease.give_back();
        }
        answer.map_err(|error| error.report())
    }

    /// The primary, or a replica if there is no primary: a client may log in all the same. While neither is known, the
    /// first that lets us in is as good as any, and its login one with which roles can be found out.
    async fn lease_anywhere(&self, home: usize) -> Result<Granted, Report> {
        let nodes = self.database.section.cluster.nodes();
        let section = &self.database.section;
        let is_usable = |node| matches!(section.standing(node), Standing::Primary | Standing::Replica);
        if !(0..nodes.len()).any(is_usable) {
            let route = Route::any_replica(Why::Configured);
            let search = Search::new(route, &self.database.rules(), Instant::now());
            let unknown = |node: &usize| nodes[*node].standing() == Standing::Unknown;
            for node in (0..nodes.len()).filter(unknown) {
                let choice =
                    Choice { timeline: self.timeline(), ..Choice::of(node, Role::Replica, Why::Configured) };
                match self.lease_from(choice, home, &search, None).await {
                    Ok(lease) => return Ok(self.granted(lease, choice, route)),
                    Err(LeaseError::Refused(report)) => return Err(report),
                    Err(_) => {}
                }
            }
        }
        let has_primary = nodes.iter().any(|node| node.standing() == Standing::Primary);
        let why = Why::Configured;
        let route = if has_primary { Route::primary(why) } else { Route::any_replica(why) };
        self.lease(&route, home, Instant::now()).await
    }

    /// What the user's reads may return.
    pub fn level(&self) -> Consistency {
        let level = usize::from(self.level.load(Ordering::Relaxed));
        Consistency::ALL.get(level).copied().unwrap_or(Consistency::Primary)
    }

    /// How the user's connections are pooled.
    pub fn rules(&self) -> config::Pool {
        self.database.rules().pool_of(&self.user)
    }

    /// Whether one more client may keep its server connection.
    pub fn pin_room(&self, state: SessionState) -> PinRoom {
        self.pinned.room(state, self.most_pinned.load(Ordering::Relaxed))
    }

    /// A client begins to use them, however many there are: one that is here already, or comes from the process before.
    pub fn enter(self: &Arc<Self>) -> Member {
        self.enter_beside().0
    }

    /// A client logs in. How many of the user's there may be, `config` says.
    ///
    /// # Errors
    /// 53300: there are as many already, or as many of the database.
    pub fn admit(self: &Arc<Self>, config: &Config) -> Result<Member, Report> {
        let (member, of_user, of_database) = self.enter_beside();
        let full = |what: &str, name: &str, key: &str, max: usize| {
            let text = format!("too many clients of {what} \"{name}\" already ({key} = {max})");
            Err(Report::new(ErrorSource::Pooler, SqlState::TOO_MANY_CONNECTIONS, text))
        };
        if let Some(max) = config.max_clients_of(&self.user).filter(|max| of_user >= *max) {
            return full("user", &self.user, &config.max_clients_key(&self.user), max);
        }
        match self.database.rules().pool.max_db_clients {
            Some(max) if self.database.left_clients() + of_database >= max => {
                full("database", &self.database.name, "pool.max_db_clients", max)
            }
            _ => Ok(member),
        }
    }

    /// Answers how many others there are, of the user and of the database.
    fn enter_beside(self: &Arc<Self>) -> (Member, usize, usize) {
        let of_user = self.headcount.fetch_add(1, Ordering::Relaxed);
        self.clients.fetch_add(1, Ordering::Relaxed);
        let of_database = self.database.enter();
        (Member(self.clone()), of_user, of_database)
    }

    /// The counters of one worker.
    pub fn stats(&self, worker: usize) -> MutexGuard<'_, Stats> {
        lock(&self.stats[worker])
    }

    /// The counters of all workers.
    pub fn all_stats(&self) -> Stats {
        let mut all = Stats::default();
        self.stats.iter().for_each(|stats| all.merge(&lock(stats)));
        all
    }

    /// Its pools, by the server's place in the cluster.
    pub fn pools(&self) -> &[Arc<Pool>] {
        &self.pools
    }

    /// The user at the servers.
    pub fn server_user(&self) -> String {
        self.database.rules().server_user.clone().unwrap_or_else(|| self.user.to_string())
    }

    /// How this user logs in to a server.
    pub(super) fn target(&self, node: usize) -> Target {
        target(
            &self.database,
            &self.database.rules(),
            node,
            &self.user,
            &lock(&self.credential),
            &self.usual,
            &self.scram,
        )
    }

    /// Whether somebody waits for a connection to this server, or is held.
    pub(super) fn is_waited_for(&self, node: usize) -> bool {
        self.pools[node].is_urgent() || !self.line.is_empty()
    }

    /// Whether a sweep must not be put off.
    pub(super) fn is_urgent(&self) -> bool {
        self.pools.iter().any(|pool| pool.is_urgent())
    }

    /// Ends what has lasted too long.
    pub fn sweep(&self, home: usize, now: Instant) {
        let rules = self.database.rules();
        let has_clients = self.clients.load(Ordering::Relaxed) > 0;
        let is_wanted = has_clients && rules.pool_of(&self.user).min_size > 0;
        for (node, pool) in self.pools.iter().enumerate() {
            pool.sweep(home, now, is_wanted && self.may_be_asked(node, &rules));
        }
    }

    /// Whether requests may go to this server now.
    fn may_be_asked(&self, node: usize, rules: &config::Database) -> bool {
        match self.database.section.standing(node) {
            Standing::Primary => true,
            Standing::Replica => rules.routing.reads == Reads::Replicas,
            Standing::Lagging | Standing::Unknown | Standing::Down => false,
        }
    }

    /// A client has logged in: its credential may be better than what there was.
    pub(super) fn learn(&self, credential: &ServerCredential) {
        {
            let mut known = lock(&self.credential);
            if *known == *credential || matches!(credential, ServerCredential::Nothing) {
                return;
            }
            *known = credential.clone();
        }
        let rules = self.database.rules();
        for (index, pool) in self.pools.iter().enumerate() {
            pool.retarget(target(
                &self.database,
                &rules,
                index,
                &self.user,
                credential,
                &self.usual,
                &self.scram,
            ));
        }
    }

    pub(super) fn in_use(&self) -> usize {
        self.pools.iter().map(|pool| pool.occupancy().in_use).sum()
    }

    /// Whether a client has a server connection, or one is being cleaned after him.
    pub(super) fn is_used(&self) -> bool {
        self.in_use() > 0 || self.replication.load(Ordering::Relaxed) > 0
    }

    pub(super) fn pause(&self) {
        self.pools.iter().for_each(|pool| pool.pause());
    }

    pub(super) fn resume(&self, home: usize) {
        self.pools.iter().for_each(|pool| pool.resume(home));
    }

    pub(super) fn reconnect(&self, home: usize) {
        self.forget_greetings();
        self.usual.forget();
        self.pools.iter().for_each(|pool| pool.reconnect(home));
    }

    /// What servers reported, a server of another version or configuration may not.
    pub(super) fn forget_greetings(&self) {
        lock(&self.greetings).clear();
    }

    pub(super) fn outdated(&self) -> usize {
        self.pools.iter().map(|pool| pool.outdated()).sum()
    }

    pub(super) fn close(&self) {
        self.pools.iter().for_each(|pool| pool.close());
    }

    pub(super) fn abandon(&self, node: usize, why: &Report) {
        self.forget_greetings();
        self.pools[node].abandon(why);
    }

    /// Whether a reload has put others into its place, or none: no request is served any longer.
    pub fn is_closed(&self) -> bool {
        self.database.is_closed()
    }

    /// What is done for `currval` and `lastval`.
    pub fn sequences(&self) -> Sequences {
        match self.pinned.sequences() {
            Sequences::Unused if self.database.asks_sequences() => Sequences::Apart,
            known => known,
        }
    }

    /// What the user's login is worth at the servers.
    pub fn credential(&self) -> ServerCredential {
        lock(&self.credential).clone()
    }

    /// The pools of the same user in the database that has taken the place of this one's.
    pub fn heir(&self, database: &Arc<Database>) -> Arc<UserPools> {
        let heir = database.user_counted(&self.user, &self.credential(), || self.stats.clone());
        if self.sequences() == Sequences::Used {
            heir.pinned.use_sequences();
        }
        heir
    }

    pub(super) fn reconfigure(&self) {
        let rules = self.database.rules();
        let own = rules.pool_of(&self.user);
        self.level.store(rules.level_of(&self.user) as u8, Ordering::Relaxed);
        self.most_pinned.store(own.most_pinned(), Ordering::Relaxed);
        let settings = pool_settings(&own);
        self.pools.iter().for_each(|pool| pool.reconfigure(settings));
    }

    pub(super) fn is_silent(&self, node: usize) -> bool {
        self.database.section.cluster.nodes()[node].is_silent()
    }

    fn timed_out(&self, choice: Choice, rules: &config::Database) -> Report {
        let timeout = rules.pool.checkout_timeout;
        let text =
            format!("no server connection became free within {}", config::values::duration_text(timeout));
        self.exhausted(choice, text)
    }

    fn queue_full(&self, choice: Choice, limit: usize) -> Report {
        self.exhausted(choice, format!("too many clients wait for a server connection already ({limit})"))
    }

    fn exhausted(&self, choice: Choice, text: String) -> Report {
        let pool = &self.pools[choice.node];
        let (full, Limits { size, reserve, .. }) = (pool.occupancy(), pool.limits());
        let reserve = if reserve > 0 { format!(" and {reserve} in reserve") } else { String::new() };
        let mut detail = format!(
            "pool of database \"{}\", user \"{}\" on {} ({}): size {size}{reserve}, {} in use, {} idle, {} connecting, \
             {} waiting",
            self.database.name,
            self.user,
            self.database.section.cluster.nodes()[choice.node].address,
            choice.role.as_str(),
            full.in_use,
            full.idle,
            full.connecting,
            full.waiting,
        );
        let mut hint = "Transactions may be too long, or pool.size too small.";
        if let (taken, Some(max)) = self.database.quotas[choice.node].usage()
            && taken >= max
        {
            let _ = write!(detail, "; all users of the database: {taken} of {max}");
            hint = "Transactions may be too long, or pool.max_db_connections too small.";
        }
        if self.database.is_paused() {
            hint = "The database is paused: RESUME lets requests go on.";
        } else if self.is_silent(choice.node) {
            hint = "The server does not answer.";
        }
        let report = Report::new(ErrorSource::Pooler, SqlState::TOO_MANY_CONNECTIONS, text);
        match pool.refusal() {
            Some(LeaseError::Refused(last) | LeaseError::Unreachable(last)) => {
                report.detail(format!("{detail}; its last login failed: {last}"))
            }
            _ => report.detail(detail).hint(hint),
        }
    }
}

/// Makes a connection's settings these.
///
/// # Errors
/// The server's own: then nothing has changed. Any other: the connection must be dropped.
pub(super) async fn put_on(backend: &mut Backend, settings: &Settings) -> Result<(), CommandError> {
    let Some(sql) = settings.restore_from(&backend.state.settings) else { return Ok(()) };
    match Box::pin(command::run_all(backend, &sql, SETTINGS_TIMEOUT)).await {
        Err(CommandError::Server(_)) if !backend.state.settings.is_neutral() => {
            // It may be for what another client left there.
            Box::pin(command::run_all(backend, "DISCARD ALL", SETTINGS_TIMEOUT)).await?;
            backend.state.discarded();
            if let Some(sql) = settings.restore_as_role() {
                Box::pin(command::run_all(backend, &sql, SETTINGS_TIMEOUT)).await?;
            }
        }
        done => drop(done?),
    }
    backend.state.settings = settings.clone();
    settings.prove();
    Ok(())
}

fn target(
    database: &Database,
    rules: &config::Database,
    index: usize,
    user: &str,
    credential: &ServerCredential,
    usual: &Usual,
    scram: &ScramCache,
) -> Target {
    let credential = match &rules.server_password {
        Some(secret) => ServerCredential::of(Some(secret)),
        None => credential.clone(),
    };
    Target {
        address: database.section.cluster.nodes()[index].address.clone(),
        tls: database.section.cluster.tls().clone(),
        user: rules.server_user.clone().unwrap_or_else(|| user.to_owned()),
        database: rules.server_database.clone().unwrap_or_else(|| database.name.to_string()),
        credential,
        statements: rules.pool.prepared_statements,
        parameters: Vec::new(),
        scram: scram.clone(),
        resolver: database.section.cluster.resolver().clone(),
        abode: database.section.cluster.nodes()[index].abode.clone(),
        usual: usual.clone(),
    }
}

fn pool_settings(pool: &config::Pool) -> PoolSettings {
    PoolSettings {
        limits: Limits {
            size: pool.size,
            reserve: pool.reserve_size,
            reserve_after: pool.reserve_timeout,
            min_size: pool.min_size,
            max_waiting: pool.max_waiting,
            max_logins: pool.max_logins,
            idle_timeout: pool.idle_timeout,
            lifetime: pool.lifetime,
        },
        connect_timeout: pool.connect_timeout,
    }
}

pub(super) fn closed() -> Report {
    let text = "terminating connection because the configuration of its database has changed";
    Report::new(ErrorSource::Pooler, SqlState::ADMIN_SHUTDOWN, text).hint("Connect again.")
}
