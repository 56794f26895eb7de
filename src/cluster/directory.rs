//! Which database is served from where.

use super::logins::{self, MAX_ROUND};
use super::patroni::Patronis;
use super::{Cluster, Database, Section, abode, barrier, listener, lock, monitor, oracle};
use crate::auth::ServerCredential;
use crate::config::{self, Config, Monitor, Patroni, Secret, ServerAddress, ServerTls};
use crate::net::{Connector, Resolver, tls::TlsSetupError};
use crate::pool::Process;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// The most names that the wildcard serves at once.
const MAX_WILDCARD_DATABASES: usize = 1000;

/// The worker at which the directory's own tasks are at home: none.
const NOWHERE: usize = usize::MAX;

/// What is looked after in a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// Waits that may be over: they are counted in tenths of a second.
    Waits,
    /// What may last some seconds longer as well.
    Whole,
}

/// Sections and the databases served from them.
pub struct Directory {
    inner: Mutex<Inner>,
    workers: usize,
    key: [u8; 16],
    process: Arc<Process>,
    resolver: Resolver,
    runtime: Handle,
}

struct Inner {
    sections: BTreeMap<String, Open>,
    databases: BTreeMap<String, Served>,
    /// Every database is paused, those too that somebody asks for later.
    is_paused: bool,
    /// What a reload has replaced or removed, and somebody uses still.
    leaving: Vec<Served>,
    /// The sections of those.
    retired: Vec<Open>,
    /// Every cluster that a section is served from.
    watches: Vec<Weak<Watch>>,
}

struct Open {
    section: Arc<Section>,
    watch: Arc<Watch>,
}

/// A cluster, and who looks after its servers for as long as there is a section that is served from it.
struct Watch {
    cluster: Arc<Cluster>,
    reach: Reach,
    settings: watch::Sender<Arc<Monitor>>,
    tasks: OnceLock<Vec<AbortHandle>>,
}

/// How servers are reached, and by whom: sections for which it is the same share them.
#[derive(PartialEq)]
struct Reach {
    servers: Vec<ServerAddress>,
    tls: ServerTls,
    /// Who is to log in, if it does not go by the users of the configuration or by clients, and with what.
    user: Option<String>,
    password: Option<Secret>,
}

struct Served {
    database: Arc<Database>,
    catalog: AbortHandle,
    listener: AbortHandle,
}

impl Directory {
    /// What `config` says. `key` is the process's secret for hashing texts. Probes, catalog readers and listeners run on
    /// `runtime`, which must outlive the directory.
    ///
    /// # Errors
    /// TLS files of a section that cannot be used.
    pub fn new(
        config: &Config,
        workers: usize,
        key: [u8; 16],
        resolver: Resolver,
        runtime: Handle,
    ) -> Result<Arc<Self>, TlsSetupError> {
        let directory = Directory {
            inner: Mutex::new(Inner {
                sections: BTreeMap::new(),
                databases: BTreeMap::new(),
                is_paused: false,
                leaving: Vec::new(),
                retired: Vec::new(),
                watches: Vec::new(),
            }),
            workers,
            key,
            process: Arc::default(),
            resolver,
            runtime,
        };
        directory.apply(config)?;
        Ok(Arc::new(directory))
    }

    /// Makes the directory what `config` says: sections whose servers are reached as before keep their pools, and servers
    /// that are named as before keep those who look after them. Answers the databases that are served otherwise from now on,
    /// or not at all: their clients shall look for themselves anew.
    ///
    /// # Errors
    /// TLS files of a section that cannot be used: nothing has changed then.
    pub fn apply(&self, config: &Config) -> Result<Vec<Arc<str>>, TlsSetupError> {
        let wanted: Vec<_> = config.databases.values().chain(&config.any_database).collect();
        let connectors = connectors(&wanted)?;
        let mut inner = lock(&self.inner);
        inner.retire_changed(&wanted, &connectors);
        for rules in &wanted {
            match inner.sections.get(&rules.name) {
                Some(open) => open.section.reconfigure(rules),
                None => self.open(rules, &connectors, config, &mut inner),
            }
        }
        for (watch, rules) in inner.shared(&wanted) {
            let first = rules.first().expect("it is the section's that led here");
            // The files may be others under the same names.
            watch.cluster.tls().renew(connector(&connectors, &first.server_tls));
            watch.cluster.patronis.store(patronis(first, &connectors));
            let mut databases: Vec<_> = rules.iter().map(|rules| monitored_database(rules, config)).collect();
            databases.dedup();
            watch.cluster.log_in_as(users(first, config), databases);
            watch.look_after(&self.runtime, &config.monitor);
        }
        let moved = self.resettle(&mut inner);
        drop(inner);
        // Who is asked for nothing is there all the same: operators may speak of it.
        config.databases.keys().for_each(|name| drop(self.find(name)));
        Ok(moved)
    }

    /// Puts a section before the servers that it names: those that another one has named already, if it can.
    fn open(
        &self,
        rules: &Arc<config::Database>,
        connectors: &[(ServerTls, Connector)],
        config: &Config,
        inner: &mut Inner,
    ) {
        let reach = Reach::of(rules, config);
        let watch = inner.watch(&reach, rules.patroni.as_ref()).unwrap_or_else(|| {
            let tls = connector(connectors, &rules.server_tls).clone();
            let cluster = Cluster::new(&rules.servers, tls, self.resolver.clone(), Instant::now());
            cluster.patronis.store(patronis(rules, connectors));
            let settings = watch::Sender::new(Arc::new(config.monitor.clone()));
            let watch = Arc::new(Watch { cluster, reach, settings, tasks: OnceLock::new() });
            inner.watches.push(Arc::downgrade(&watch));
            watch
        });
        let before = inner.retired.iter().rfind(|retired| retired.section.name == rules.name);
        if let Some(before) = before.filter(|before| !Arc::ptr_eq(&before.watch, &watch)) {
            watch.cluster.inherit(&before.watch.cluster);
        }
        let section = Section::new(rules.clone(), watch.cluster.clone(), Instant::now());
        inner.sections.insert(rules.name.clone(), Open { section, watch });
    }

    /// Puts databases into the sections that they are served from now. Whoever leases from the old ones is told that they
    /// are closed, and finds the new ones in their places.
    fn resettle(&self, inner: &mut Inner) -> Vec<Arc<str>> {
        let mut moved = Vec::new();
        for (name, served) in std::mem::take(&mut inner.databases) {
            let section = inner.section_of(&name);
            if section.is_some_and(|open| Arc::ptr_eq(&open.section, &served.database.section)) {
                inner.databases.insert(name, served);
                continue;
            }
            served.retire();
            moved.push(served.database.name.clone());
            inner.leaving.push(served);
            if let Some(heir) = self.serve(&name, inner) {
                inner.databases.insert(name, heir);
            }
        }
        inner.forget_left();
        moved
    }

    /// The database that clients call `name`: from its own section, or from the wildcard.
    pub fn find(&self, name: &str) -> Option<Arc<Database>> {
        let mut inner = lock(&self.inner);
        if let Some(served) = inner.databases.get(name) {
            return Some(served.database.clone());
        }
        let is_wildcard = !inner.sections.contains_key(name);
        if is_wildcard && inner.databases.len() >= MAX_WILDCARD_DATABASES {
            inner.forget_unused(|_| true);
            if inner.databases.len() >= MAX_WILDCARD_DATABASES {
                return None;
            }
        }
        let served = self.serve(name, &inner)?;
        let database = served.database.clone();
        inner.databases.insert(name.to_owned(), served);
        Some(database)
    }

    /// In the place of those of its name that are leaving; `None`: no section has it.
    fn serve(&self, name: &str, inner: &Inner) -> Option<Served> {
        let section = inner.section_of(name)?.section.clone();
        let left: Vec<_> = inner.leaving().filter(|database| *database.name == *name).cloned().collect();
        let database = Database::new(name, section, &left, self.workers, self.key, self.process.clone());
        if inner.is_paused {
            database.pause();
        }
        let catalog = self.runtime.spawn(database.clone().keep_catalog()).abort_handle();
        let listener = self.runtime.spawn(listener::keep(database.clone())).abort_handle();
        Some(Served { database, catalog, listener })
    }

    /// The database that physical replication of `name` is served from, which needs a server and no database: tools of
    /// PostgreSQL call it `replication`. If there is no section for that name, it is the only one that there is.
    pub fn find_for_replication(&self, name: &str) -> Option<Arc<Database>> {
        let only = {
            let inner = lock(&self.inner);
            let mut names = inner.sections.keys();
            names.next().filter(|only| names.next().is_none() && *only != "*").cloned()
        };
        self.find(name).or_else(|| self.find(&only?))
    }

    /// Nobody could log in to this one: if the wildcard serves it and nobody uses it, nothing of it is kept.
    pub fn forget(&self, name: &str) {
        let mut inner = lock(&self.inner);
        if !inner.sections.contains_key(name) {
            inner.forget_unused(|candidate| candidate == name);
        }
    }

    /// The databases that somebody has asked for, and those that a reload has removed and somebody uses still. What a reload
    /// has replaced is known to what has taken its place.
    pub fn databases(&self) -> Vec<Arc<Database>> {
        let inner = lock(&self.inner);
        let served = inner.databases.values().map(|served| &served.database);
        // The latest of a name stands for those before it.
        let by_name: BTreeMap<_, _> =
            inner.leaving().chain(served).map(|latest| (&latest.name, latest)).collect();
        by_name.into_values().cloned().collect()
    }

    /// Holds the clients of every database, those too that somebody asks for later. Answers those that are there.
    pub fn pause(&self) -> Vec<Arc<Database>> {
        lock(&self.inner).is_paused = true;
        let databases = self.databases();
        databases.iter().for_each(|database| database.pause());
        databases
    }

    /// Every database serves again.
    pub fn resume(&self, home: usize) {
        lock(&self.inner).is_paused = false;
        self.databases().iter().for_each(|database| database.resume(home));
    }

    /// Whether databases are paused that nobody has asked for yet.
    pub fn is_paused(&self) -> bool {
        lock(&self.inner).is_paused
    }

    /// The sections of the configuration.
    pub fn sections(&self) -> Vec<Arc<Section>> {
        lock(&self.inner).sections.values().map(|open| open.section.clone()).collect()
    }

    /// The servers that sections name, each group of them once.
    pub fn clusters(&self) -> Vec<Arc<Cluster>> {
        lock(&self.inner).watches().into_iter().map(|watch| watch.cluster.clone()).collect()
    }

    /// Ends waits, idleness and age in every pool, or only where somebody waits.
    pub fn sweep(&self, care: Care, now: Instant) {
        if care == Care::Waits && self.process.urgent() == 0 {
            return;
        }
        let of = |database: &Arc<Database>| match care {
            Care::Whole => database.users(),
            Care::Waits => database.urgent(),
        };
        if care == Care::Whole {
            self.databases().iter().for_each(|database| database.step_aside(NOWHERE, now));
        }
        let swept: Vec<_> =
            lock(&self.inner).databases.values().flat_map(|served| of(&served.database)).collect();
        swept.iter().for_each(|pools| pools.sweep(NOWHERE, now));
        self.clusters().iter().for_each(|cluster| cluster.make_room(now));
        lock(&self.inner).forget_left();
    }
}

impl Watch {
    /// Has the servers looked after from now on, and in this way.
    fn look_after(&self, runtime: &Handle, settings: &Monitor) {
        self.settings.send_if_modified(|known| {
            let is_other = **known != *settings;
            if is_other {
                *known = Arc::new(settings.clone());
            }
            is_other
        });
        let tasks = |index| {
            let (cluster, settings) = (|| self.cluster.clone(), || self.settings.subscribe());
            [
                runtime.spawn(monitor::watch(cluster(), index, settings())).abort_handle(),
                runtime.spawn(oracle::answer(cluster(), index, settings())).abort_handle(),
                runtime.spawn(barrier::keep(cluster(), index)).abort_handle(),
                runtime.spawn(abode::follow(cluster(), index, settings())).abort_handle(),
            ]
        };
        self.tasks.get_or_init(|| (0..self.cluster.nodes().len()).flat_map(tasks).collect());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.take().unwrap_or_default().iter().for_each(AbortHandle::abort);
    }
}

impl Reach {
    fn of(rules: &config::Database, config: &Config) -> Reach {
        let (user, password) = match &config.monitor.user {
            Some(user) => (Some(user), &config.monitor.password),
            None => (rules.server_user.as_ref(), &rules.server_password),
        };
        Reach {
            servers: rules.servers.clone(),
            tls: rules.server_tls.clone(),
            user: user.cloned(),
            password: password.clone(),
        }
    }
}

impl Served {
    /// Serves no request any more. Who listens goes on hearing until he has moved.
    fn retire(&self) {
        self.catalog.abort();
        self.database.close();
    }

    /// Nobody uses it.
    fn end(&self) {
        self.retire();
        self.listener.abort();
        self.database.forget_users();
    }
}

impl Inner {
    fn watches(&mut self) -> Vec<Arc<Watch>> {
        self.watches.retain(|watch| watch.strong_count() > 0);
        self.watches.iter().filter_map(Weak::upgrade).collect()
    }

    /// Who looks after these servers already.
    fn watch(&mut self, reach: &Reach, patroni: Option<&Patroni>) -> Option<Arc<Watch>> {
        let is_alike = |watch: &Arc<Watch>| watch.reach == *reach && watch.cluster.goes_by(patroni);
        self.watches().into_iter().find(is_alike)
    }

    /// Takes out the sections that are served otherwise from now on, or not at all.
    fn retire_changed(&mut self, wanted: &[&Arc<config::Database>], connectors: &[(ServerTls, Connector)]) {
        let by_name: BTreeMap<_, _> = wanted.iter().map(|rules| (&rules.name, *rules)).collect();
        let is_reached = |open: &Open| {
            by_name.get(&open.section.name).is_some_and(|rules| open.section.rules().keeps_pools(rules))
        };
        let (mut kept, changed): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.sections).into_iter().partition(|(_, open)| is_reached(open));
        self.retired.extend(changed.into_values());
        // Whoever goes by another Patroni than the first of those who share its servers, shares them no longer.
        let mut leading: Vec<(*const Watch, Option<&Patroni>)> = Vec::new();
        for rules in wanted {
            let Some(watch) = kept.get(&rules.name).map(|open| Arc::as_ptr(&open.watch)) else { continue };
            let patroni = rules.patroni.as_ref();
            match leading.iter().find(|(led, _)| *led == watch) {
                Some((_, first)) if *first != patroni => self.retired.extend(kept.remove(&rules.name)),
                Some(_) => {}
                None => {
                    leading.push((watch, patroni));
                    kept[&rules.name].watch.cluster.patronis.store(patronis(rules, connectors));
                }
            }
        }
        self.sections = kept;
    }

    /// Each cluster with the rules of the sections that are served from it, in the order of `wanted`.
    fn shared<'a>(
        &self,
        wanted: &[&'a Arc<config::Database>],
    ) -> Vec<(Arc<Watch>, Vec<&'a config::Database>)> {
        let mut shared: Vec<(Arc<Watch>, Vec<&config::Database>)> = Vec::new();
        for rules in wanted {
            let watch = &self.sections[&rules.name].watch;
            match shared.iter_mut().find(|(known, _)| Arc::ptr_eq(known, watch)) {
                Some((_, known)) => known.push(rules),
                None => shared.push((watch.clone(), vec![rules])),
            }
        }
        shared
    }

    fn leaving(&self) -> impl Iterator<Item = &Arc<Database>> {
        self.leaving.iter().map(|served| &served.database)
    }

    fn section_of(&self, name: &str) -> Option<&Open> {
        self.sections.get(name).or_else(|| self.sections.get("*"))
    }

    /// Ends what has been left by the last of its clients. Until then somebody may have to learn from an old section's
    /// servers whether the primary shows what he saw there.
    fn forget_left(&mut self) {
        let Inner { leaving, retired, .. } = self;
        leaving.retain(|served| {
            let stays = served.database.is_used();
            if !stays {
                served.end();
            }
            stays
        });
        retired
            .retain(|open| leaving.iter().any(|served| Arc::ptr_eq(&served.database.section, &open.section)));
    }

    fn forget_unused(&mut self, is_meant: impl Fn(&str) -> bool) {
        let Inner { sections, databases, .. } = self;
        databases.retain(|name, served| {
            let is_needed = served.database.is_used() || served.database.has_orders();
            let stays = sections.contains_key(name) || !is_meant(name) || is_needed;
            if !stays {
                served.end();
            }
            stays
        });
    }
}

/// TLS towards servers and Patronis, for each way of it.
fn connectors(wanted: &[&Arc<config::Database>]) -> Result<Vec<(ServerTls, Connector)>, TlsSetupError> {
    let mut connectors: Vec<(ServerTls, Connector)> = Vec::new();
    for rules in wanted {
        for tls in [&rules.server_tls].into_iter().chain(patroni_tls(rules)) {
            if !connectors.iter().any(|(known, _)| known == tls) {
                connectors.push((tls.clone(), Connector::new(tls)?));
            }
        }
    }
    Ok(connectors)
}

fn patroni_tls(rules: &config::Database) -> Option<&ServerTls> {
    rules.patroni.as_ref()?.tls.as_ref()
}

fn patronis(rules: &config::Database, connectors: &[(ServerTls, Connector)]) -> Option<Arc<Patronis>> {
    let tls = patroni_tls(rules).map(|tls| connector(connectors, tls).clone());
    Some(Arc::new(Patronis { rules: rules.patroni.clone()?, tls }))
}

fn connector<'a>(connectors: &'a [(ServerTls, Connector)], tls: &ServerTls) -> &'a Connector {
    let found = connectors.iter().find(|(known, _)| known == tls);
    &found.expect("there is one for every section").1
}

/// Whom the monitor may log in as, best first: what the operator said, then users whose password is known. A client that
/// logs in later adds its own.
fn users(rules: &config::Database, config: &Config) -> Vec<logins::User> {
    let user = |name: &str, secret: Option<&Secret>| (name.to_owned(), ServerCredential::of(secret));
    if let Some(name) = &config.monitor.user {
        return vec![user(name, config.monitor.password.as_ref())];
    }
    if let Some(name) = &rules.server_user {
        let own = config.users.get(name).and_then(|user| user.secret.as_ref());
        return vec![user(name, rules.server_password.as_ref().or(own))];
    }
    let is_usable = |secret: &Option<Secret>| !matches!(secret, Some(Secret::Scram(_)));
    let users = config.users.iter().filter(|(_, user)| is_usable(&user.secret));
    users
        .take(MAX_ROUND - 1)
        .map(|(name, known)| user(name, rules.server_password.as_ref().or(known.secret.as_ref())))
        .collect()
}

/// The database that the monitor connects to for the section's sake.
fn monitored_database(rules: &config::Database, config: &Config) -> String {
    let own_name = rules.server_database.clone().or((rules.name != "*").then(|| rules.name.clone()));
    config.monitor.database.clone().or(own_name).unwrap_or_else(|| "postgres".to_owned())
}
