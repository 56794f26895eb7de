//! What a reload changes: two configurations compared by what they mean, not by how they are written.

use std::collections::BTreeMap;

use super::{Config, Database, Listen, PoolMode};

/// The differences between the running configuration and a new one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// What only a restart can change: until then the old value holds.
    pub restart: Vec<Restart>,
    /// Databases that are new.
    pub databases_added: Vec<String>,
    /// Databases that are gone: their clients go at the end of their transactions, unless the wildcard serves them.
    pub databases_removed: Vec<String>,
    /// Databases whose server connections are no longer the right ones: they do not [keep](Database::keeps_pools) their pools.
    pub databases_reconnected: Vec<String>,
    /// Databases whose pooling or routing settings changed; their connections stay.
    pub databases_resettled: Vec<String>,
    /// Users that are new.
    pub users_added: Vec<String>,
    /// Users that are gone: their clients go at the end of their transactions.
    pub users_removed: Vec<String>,
    /// Users with another secret: the next login is checked against it.
    pub users_changed: Vec<String>,
    /// Users for whom other rules hold instead of what databases say.
    pub users_resettled: Vec<String>,
    /// Other keys that take effect at once.
    pub settings: Vec<&'static str>,
}

/// A key that only a restart can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// Its path.
    pub key: &'static str,
    /// A sentence for people: from what to what, and that it needs a restart.
    pub sentence: String,
}

impl Changes {
    /// What changes from `old` to `new`. The wildcard's name is `*`.
    pub fn between(old: &Config, new: &Config) -> Changes {
        let mut changes =
            Changes { restart: restarts(old, new), settings: settings(old, new), ..Changes::default() };
        changes.databases(&by_name(old), &by_name(new));
        let users = compared(&old.users, &new.users);
        (changes.users_added, changes.users_removed, changes.users_changed) =
            (users.added, users.removed, users.changed);
        let rules = compared(&old.user_rules, &new.user_rules);
        changes.users_resettled = [rules.added, rules.removed, rules.changed].concat();
        changes
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Changes::default()
    }

    fn databases(&mut self, old: &BTreeMap<String, &Database>, new: &BTreeMap<String, &Database>) {
        let databases = compared(old, new);
        (self.databases_added, self.databases_removed) = (databases.added, databases.removed);
        for name in databases.changed {
            if old[&name].keeps_pools(new[&name]) {
                self.databases_resettled.push(name);
            } else {
                self.databases_reconnected.push(name);
            }
        }
    }
}

impl Database {
    /// Whether a reload that makes it `new` leaves its pools in place: servers are reached in the same way, and for as long
    /// at a time.
    pub fn keeps_pools(&self, new: &Database) -> bool {
        let Database { pool, routing, name, patroni, user_rules, .. } = self.clone();
        let are_held_alike = pool.mode == new.pool.mode && self.own_modes().eq(new.own_modes());
        are_held_alike && *self == Database { pool, routing, name, patroni, user_rules, ..new.clone() }
    }

    fn own_modes(&self) -> impl Iterator<Item = (&String, PoolMode)> {
        self.user_rules.iter().filter_map(|(user, rules)| Some((user, rules.mode?)))
    }
}

fn by_name(config: &Config) -> BTreeMap<String, &Database> {
    let databases = config.databases.values().chain(&config.any_database);
    databases.map(|database| (database.name.clone(), &**database)).collect()
}

struct Compared {
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
}

fn compared<T: PartialEq>(old: &BTreeMap<String, T>, new: &BTreeMap<String, T>) -> Compared {
    let only_in = |one: &BTreeMap<String, T>, other: &BTreeMap<String, T>| {
        one.keys().filter(|name| !other.contains_key(*name)).cloned().collect()
    };
    let changed = |name: &&String| new.get(*name).is_some_and(|value| *value != old[*name]);
    Compared {
        added: only_in(new, old),
        removed: only_in(old, new),
        changed: old.keys().filter(changed).cloned().collect(),
    }
}

/// The keys that only a restart can change.
pub const RESTART: [&str; 9] = [
    "listen.address",
    "listen.unix_directory",
    "listen.unix_port",
    "listen.unix_mode",
    "listen.workers",
    "listen.io_uring",
    "http.address",
    "log.filter",
    "log.format",
];

fn restarts(old: &Config, new: &Config) -> Vec<Restart> {
    let mut restarts = Vec::new();
    let mut compare = |key: &'static str, old: String, new: String| {
        if old != new {
            let sentence = format!("{key} changes from {old} to {new} only with a restart");
            restarts.push(Restart { key, sentence });
        }
    };
    compare("listen.address", addresses(&old.listen), addresses(&new.listen));
    compare("listen.unix_directory", unix(&old.listen), unix(&new.listen));
    compare("listen.workers", old.listen.workers.to_string(), new.listen.workers.to_string());
    compare("listen.io_uring", old.listen.io_uring.to_string(), new.listen.io_uring.to_string());
    compare("http.address", http(old), http(new));
    compare("log.filter", old.log.filter.clone(), new.log.filter.clone());
    compare(
        "log.format",
        format!("{:?}", old.log.format).to_lowercase(),
        format!("{:?}", new.log.format).to_lowercase(),
    );
    restarts
}

impl Config {
    /// Takes over from the one that is running what only a restart can change: so that what is kept is what holds.
    pub fn keep_until_restart(&mut self, running: &Config) {
        let (listen, held) = (&mut self.listen, &running.listen);
        listen.addresses.clone_from(&held.addresses);
        listen.unix.clone_from(&held.unix);
        listen.workers = held.workers;
        listen.io_uring = held.io_uring;
        self.http.clone_from(&running.http);
        self.log.clone_from(&running.log);
        for key in RESTART {
            self.shown.insert(key.to_owned(), running.shown.get(key).cloned().unwrap_or_default());
        }
    }
}

fn addresses(listen: &Listen) -> String {
    listen.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn unix(listen: &Listen) -> String {
    match &listen.unix {
        Some(unix) => format!("{}:{} ({:04o})", unix.directory.display(), unix.port, unix.mode),
        None => "none".to_owned(),
    }
}

fn http(config: &Config) -> String {
    config.http.as_ref().map_or("none".to_owned(), |http| http.address.to_string())
}

fn settings(old: &Config, new: &Config) -> Vec<&'static str> {
    let (was, is) = (&old.listen, &new.listen);
    let compared = [
        ("listen.max_clients", was.max_clients != is.max_clients),
        ("listen.max_user_clients", was.max_user_clients != is.max_user_clients),
        ("listen.login_timeout", was.login_timeout != is.login_timeout),
        ("listen.client_idle_timeout", was.client_idle_timeout != is.client_idle_timeout),
        ("listen.tls", was.tls != is.tls),
        ("listen.max_message", was.max_message != is.max_message),
        ("auth", old.auth != new.auth),
        ("admin", old.admin != new.admin),
        ("monitor", old.monitor != new.monitor),
        ("drain_timeout", old.drain_timeout != new.drain_timeout),
    ];
    compared.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const BASE: &str = "users.app.password = 'secret'\ndatabases.app.servers = ['127.0.0.1:5432']\n\
                        databases.'*'.servers = ['127.0.0.1:5432']\n";

    fn config(text: &str) -> Config {
        parse(text, &|_| Ok(String::new()), 2).expect("good")
    }

    fn after(more: &str) -> Changes {
        Changes::between(&config(BASE), &config(&format!("{BASE}{more}")))
    }

    #[test]
    fn the_same_meaning_is_no_change() {
        let spelled_out = "listen.workers = 2\npool.size = 20\ndatabases.app.pool.lifetime = '60min'\n";
        assert!(after(spelled_out).is_empty());
    }

    #[test]
    fn a_default_changes_the_databases_that_use_it() {
        let changes = after("pool.size = 30\ndatabases.app.pool.size = 20");
        assert_eq!(changes.databases_resettled, ["*"]);
        assert!(changes.databases_reconnected.is_empty());
    }

    #[test]
    fn another_patroni_leaves_connections_alone() {
        let changes = after("databases.app.patroni = 'http://db:8008'");
        assert_eq!(changes.databases_resettled, ["app"]);
        assert!(changes.databases_reconnected.is_empty());
    }

    #[test]
    fn other_servers_logins_and_modes_need_other_connections() {
        let login = ["server_user = 'x'", "server_password = 'x'", "server_tls = 'require'"];
        for more in login.into_iter().chain(["database = 'x'", "pool.mode = 'session'"]) {
            let changes = after(&format!("databases.app.{more}\ndatabases.app.pool.size = 1"));
            assert_eq!(changes.databases_reconnected, ["app"], "{more}");
            assert!(changes.databases_resettled.is_empty());
        }
    }

    #[test]
    fn databases_and_users_come_and_go() {
        let new = "users.new.password = 'x'\nusers.app.password = 'other'\ndatabases.new.servers = 'localhost'\n\
                   databases.'*'.servers = 'localhost'\n";
        let changes = Changes::between(&config(BASE), &config(new));
        assert_eq!(changes.databases_added, ["new"]);
        assert_eq!(changes.databases_removed, ["app"]);
        assert_eq!(changes.databases_reconnected, ["*"]);
        assert_eq!(
            (changes.users_added, changes.users_changed),
            (vec!["new".to_owned()], vec!["app".to_owned()])
        );
        assert!(Changes::between(&config(new), &config(BASE)).users_removed == ["new"]);
    }

    #[test]
    fn rules_of_a_user_count_at_once_and_another_mode_needs_other_connections() {
        let resized = after("users.app.pool.size = 3");
        assert_eq!(
            (&resized.users_resettled[..], &resized.users_changed[..]),
            (&["app".to_owned()][..], &[][..])
        );
        assert_eq!((resized.databases_resettled.len(), resized.databases_reconnected.len()), (2, 0));
        assert_eq!(after("users.app.pool.mode = 'session'").databases_reconnected, ["*", "app"]);
    }

    #[test]
    fn addresses_and_workers_need_a_restart() {
        let changes =
            after("listen.address = '127.0.0.1:7000'\nlisten.workers = 3\nhttp.address = '127.0.0.1:9632'");
        let keys: Vec<_> = changes.restart.iter().map(|restart| restart.key).collect();
        assert_eq!(keys, ["listen.address", "listen.workers", "http.address"]);
        let sentence = "listen.address changes from 127.0.0.1:6432 to 127.0.0.1:7000 only with a restart";
        assert_eq!(changes.restart[0].sentence, sentence);
        assert!(changes.settings.is_empty());
    }

    #[test]
    fn what_needs_a_restart_is_kept_and_said_again_until_then() {
        let running = config(BASE);
        let new = config(&format!(
            "{BASE}listen = {{ address = '127.0.0.1:7000', unix_directory = '/run', workers = 3, io_uring = false }}\n\
             http.address = '127.0.0.1:9632'\nlog = {{ filter = 'debug', format = 'json' }}\ndrain_timeout = '1s'"
        ));
        let mut kept = new.clone();
        kept.keep_until_restart(&running);
        let (before, now) = (Changes::between(&running, &new), Changes::between(&kept, &new));
        assert_eq!((before.restart.len(), &before.restart), (7, &now.restart));
        assert_eq!(now, Changes { restart: now.restart.clone(), ..Changes::default() });
        assert_eq!(Changes::between(&kept, &running).settings, ["drain_timeout"]);
        assert!(Changes::between(&kept, &running).restart.is_empty());
        assert_eq!(
            (&*kept.shown["log.format"], &*kept.shown["drain_timeout"]),
            ("text", "1s"),
            "as it holds"
        );
        assert!(before.restart.iter().all(|restart| RESTART.contains(&restart.key)));
    }

    #[test]
    fn settings_change_at_once() {
        assert_eq!(after("drain_timeout = '1s'\nadmin.users = ['app']").settings, ["admin", "drain_timeout"]);
    }
}
