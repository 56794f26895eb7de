//! Which database is served from where.

use super::{Cluster, Database, Login, abode, barrier, listener, lock, monitor, oracle};
use crate::auth::ServerCredential;
use crate::config::{self, Config, Secret};
use crate::net::{Connector, Resolver, tls::TlsSetupError};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// The most names that the wildcard serves at once.
const MAX_WILDCARD_DATABASES: usize = 1000;

/// The worker at which the directory's own tasks are at home: none.
const NOWHERE: usize = usize::MAX;

/// Sections and the databases served from them.
pub struct Directory {
    inner: Mutex<Inner>,
    workers: usize,
    key: [u8; 16],
    connection_ids: Arc<AtomicU64>,
    resolver: Resolver,
    runtime: Handle,
}

struct Inner {
    sections: BTreeMap<String, Section>,
    databases: BTreeMap<String, Served>,
    /// What a reload has replaced or removed, and has clients still.
    leaving: Vec<Served>,
    /// The sections of those.
    retired: Vec<Section>,
}

struct Section {
    cluster: Arc<Cluster>,
    watchers: Vec<AbortHandle>,
}

struct Served {
    database: Arc<Database>,
    catalog: AbortHandle,
    listener: AbortHandle,
}

impl Directory {
    /// What `config` says. `key` is the process's secret for hashing texts. Probes, catalog readers and listeners run on `runtime`, which must outlive the directory.
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
                leaving: Vec::new(),
                retired: Vec::new(),
            }),
            workers,
            key,
            connection_ids: Arc::default(),
            resolver,
            runtime,
        };
        directory.apply(config)?;
        Ok(Arc::new(directory))
    }

    /// Makes the directory what `config` says: sections whose servers are reached as before keep their pools. Answers the
    /// databases that are served otherwise from now on, or not at all: their clients shall look for themselves anew.
    ///
    /// # Errors
    /// TLS files of a section that cannot be used: nothing has changed then.
    pub fn apply(&self, config: &Config) -> Result<Vec<Arc<str>>, TlsSetupError> {
        let wanted: Vec<_> = config.databases.values().chain(&config.any_database).collect();
        let mut connectors = BTreeMap::new();
        for rules in &wanted {
            connectors.insert(rules.name.clone(), Connector::new(&rules.server_tls)?);
        }
        let mut inner = lock(&self.inner);
        let names: Vec<String> = inner.sections.keys().cloned().collect();
        for name in names {
            let keeps = wanted.iter().any(|rules| {
                rules.name == name && is_reached_alike(&inner.sections[&name].cluster.rules(), rules)
            });
            if !keeps {
                let section = inner.sections.remove(&name);
                inner.retired.extend(section);
            }
        }
        for rules in wanted {
            let connector = connectors.remove(&rules.name).expect("made for every section above");
            match inner.sections.get(&rules.name) {
                Some(section) => {
                    // The files may be others under the same names.
                    section.cluster.tls().renew(&connector);
                    section.cluster.reconfigure(rules);
                    logins(rules, config).into_iter().for_each(|login| section.cluster.offer_login(login));
                }
                None => {
                    let before = inner.retired.iter().rfind(|retired| retired.cluster.section == rules.name);
                    let section = self.open(rules, connector, config, before.map(|before| &*before.cluster));
                    inner.sections.insert(rules.name.clone(), section);
                }
            }
        }
        let moved = self.resettle(&mut inner);
        drop(inner);
        // Their catalogs are read before the first client asks.
        config.databases.keys().for_each(|name| drop(self.find(name)));
        Ok(moved)
    }

    /// Puts databases into the sections that they are served from now. Whoever leases from the old ones is told that they
    /// are closed, and finds the new ones in their places.
    fn resettle(&self, inner: &mut Inner) -> Vec<Arc<str>> {
        let mut moved = Vec::new();
        for (name, served) in std::mem::take(&mut inner.databases) {
            let section = inner.section_of(&name);
            if section.is_some_and(|section| Arc::ptr_eq(&section.cluster, &served.database.cluster)) {
                inner.databases.insert(name, served);
                continue;
            }
            let heir = section.map(|section| self.serve(&name, section));
            if let Some(heir) = heir {
                heir.database.inherit(&served.database);
                inner.databases.insert(name, heir);
            }
            served.retire();
            moved.push(served.database.name.clone());
            inner.leaving.push(served);
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
        let served = self.serve(name, inner.section_of(name)?);
        let database = served.database.clone();
        inner.databases.insert(name.to_owned(), served);
        Some(database)
    }

    fn serve(&self, name: &str, section: &Section) -> Served {
        let database =
            Database::new(name, section.cluster.clone(), self.workers, self.key, self.connection_ids.clone());
        let catalog = self.runtime.spawn(database.clone().keep_catalog()).abort_handle();
        let listener = self.runtime.spawn(listener::keep(database.clone())).abort_handle();
        Served { database, catalog, listener }
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

    /// The databases that somebody has asked for.
    pub fn databases(&self) -> Vec<Arc<Database>> {
        lock(&self.inner).databases.values().map(|served| served.database.clone()).collect()
    }

    /// The sections of the configuration.
    pub fn clusters(&self) -> Vec<Arc<Cluster>> {
        lock(&self.inner).sections.values().map(|section| section.cluster.clone()).collect()
    }

    /// Ends waits, idleness and age in every pool.
    pub fn sweep(&self, now: Instant) {
        for database in self.databases() {
            database.users().iter().for_each(|pools| pools.sweep(NOWHERE, now));
        }
        lock(&self.inner).forget_left();
    }

    fn open(
        &self,
        rules: &Arc<config::Database>,
        connector: Connector,
        config: &Config,
        before: Option<&Cluster>,
    ) -> Section {
        let reached = (connector, self.resolver.clone());
        let cluster = Cluster::new(rules.clone(), reached, logins(rules, config), before, Instant::now());
        let watch = |index| {
            let settings = || config.monitor.clone();
            [
                self.runtime.spawn(monitor::watch(cluster.clone(), index, settings())).abort_handle(),
                self.runtime.spawn(oracle::answer(cluster.clone(), index, settings())).abort_handle(),
                self.runtime.spawn(barrier::keep(cluster.clone(), index)).abort_handle(),
                self.runtime.spawn(abode::follow(cluster.clone(), index, settings())).abort_handle(),
            ]
        };
        let watchers = (0..rules.servers.len()).flat_map(watch).collect();
        Section { cluster, watchers }
    }
}

impl Served {
    /// Serves no request any more. Who listens goes on hearing until he has moved.
    fn retire(&self) {
        self.catalog.abort();
        self.database.close();
    }

    fn end(&self) {
        self.retire();
        self.listener.abort();
    }

    fn has_clients(&self) -> bool {
        self.database.clients.load(Ordering::Relaxed) > 0
    }
}

impl Inner {
    fn section_of(&self, name: &str) -> Option<&Section> {
        self.sections.get(name).or_else(|| self.sections.get("*"))
    }

    /// Ends what has been left by the last of its clients. Until then somebody may have to learn from an old section's
    /// servers whether the primary shows what he saw there.
    fn forget_left(&mut self) {
        let Inner { leaving, retired, .. } = self;
        leaving.retain(|served| {
            let stays = served.has_clients();
            if !stays {
                served.listener.abort();
            }
            stays
        });
        retired.retain(|section| {
            let is_used =
                leaving.iter().any(|served| Arc::ptr_eq(&served.database.cluster, &section.cluster));
            if !is_used {
                section.watchers.iter().for_each(AbortHandle::abort);
            }
            is_used
        });
    }

    fn forget_unused(&mut self, is_meant: impl Fn(&str) -> bool) {
        let Inner { sections, databases, .. } = self;
        databases.retain(|name, served| {
            let is_used = served.has_clients() || sections.contains_key(name) || !is_meant(name);
            if !is_used {
                served.end();
            }
            is_used
        });
    }
}

/// Whether what reaches the servers is the same: then a section keeps its pools.
fn is_reached_alike(old: &config::Database, new: &config::Database) -> bool {
    old.servers == new.servers
        && old.server_database == new.server_database
        && old.server_user == new.server_user
        && old.server_password == new.server_password
        && old.server_tls == new.server_tls
        && old.pool.mode == new.pool.mode
}

/// What the monitor may log in with, best first: what the operator said, then users whose password is known. A client that
/// logs in later adds its own.
fn logins(rules: &config::Database, config: &Config) -> Vec<Login> {
    let own_name = rules.server_database.clone().or((rules.name != "*").then(|| rules.name.clone()));
    let database = config.monitor.database.clone().or(own_name).unwrap_or_else(|| "postgres".to_owned());
    let login = |user: &str, secret: Option<&Secret>| Login {
        user: user.to_owned(),
        database: database.clone(),
        credential: ServerCredential::of(secret),
    };
    if let Some(user) = &config.monitor.user {
        return vec![login(user, config.monitor.password.as_ref())];
    }
    if let Some(user) = &rules.server_user {
        let own = config.users.get(user).and_then(|user| user.secret.as_ref());
        return vec![login(user, rules.server_password.as_ref().or(own))];
    }
    let is_usable = |secret: &Option<Secret>| !matches!(secret, Some(Secret::Scram(_)));
    let users = config.users.iter().filter(|(_, user)| is_usable(&user.secret));
    users
        .take(super::MAX_LOGINS - 1)
        .map(|(name, user)| login(name, rules.server_password.as_ref().or(user.secret.as_ref())))
        .collect()
}
