//! What operators see: rows made from the rooms as they are.

use super::Shared;
use crate::admin::{
    ClientRow, ClientState, ConfigRow, Connection, DatabaseReadiness, DatabaseRow, Endpoint, Health, NodeRow,
    Observed, PoolRow, PoolShare, Process, Readiness, ServerRow, ServerState, Standing, State, StatsRow,
    UserRow,
};
use crate::cluster::failover::Standing as NodeStanding;
use crate::cluster::{Admission, Database, Node, Section, UserPools};
use crate::config::values::duration_text;
use crate::config::{Config, Consistency, Reads, ServerAddress, diff, keys};
use crate::frontend::clients::{ClientCard, Doing};
use crate::net;
use crate::pool::Seen;
use crate::routing::Role;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Instant, SystemTime};

/// Shows the process.
pub(super) struct View {
    shared: Weak<Shared>,
}

impl View {
    pub(super) fn new(shared: Weak<Shared>) -> Self {
        View { shared }
    }

    fn shared(&self) -> Arc<Shared> {
        self.shared.upgrade().expect("whoever looks is part of what is looked at")
    }

    fn served(&self) -> Vec<Arc<Database>> {
        self.shared().frontend.directory.databases()
    }

    fn user_pools(&self) -> Vec<Arc<UserPools>> {
        self.served().iter().flat_map(|database| database.pools()).collect()
    }

    fn config(&self) -> Arc<Config> {
        self.shared().frontend.access.load().config.clone()
    }
}

impl Observed for View {
    fn process(&self) -> Process {
        let shared = self.shared();
        let clients = &shared.frontend.clients;
        let databases = self.served();
        let state = if *shared.phase.borrow() != super::Phase::Serving {
            State::Draining
        } else if (shared.frontend.directory.is_paused() || !databases.is_empty())
            && databases.iter().all(|database| database.is_paused())
        {
            State::Paused
        } else {
            State::Active
        };
        let logged_in = clients.logged_in();
        Process {
            started: shared.started,
            state,
            clients: logged_in,
            in_console: logged_in.saturating_sub(clients.in_service()),
            logging_in: clients.connected().saturating_sub(logged_in),
            asleep: clients.asleep(),
            max_clients: self.config().listen.max_clients,
        }
    }

    fn pools(&self) -> Vec<PoolRow> {
        self.served().iter().flat_map(|database| pool_rows(database)).collect()
    }

    fn clients(&self) -> Vec<ClientRow> {
        let now = Instant::now();
        self.shared().frontend.clients.all().iter().map(|card| client_row(card, now)).collect()
    }

    fn servers(&self) -> Vec<ServerRow> {
        let shared = self.shared();
        let mut links = BTreeMap::new();
        for card in shared.frontend.clients.all() {
            let activity = card.activity();
            if let Doing::Active(connection, _) = activity.doing {
                links.insert(connection, (card.id, activity.requested, card.application_name.to_string()));
            }
        }
        let now = Instant::now();
        let mut rows = Vec::new();
        for pools in self.user_pools() {
            for (index, pool) in pools.pools().iter().enumerate() {
                let node = pools.database.section.cluster.nodes()[index].state();
                for Seen { card, is_idle, is_outdated } in pool.connections() {
                    let link = links.get(&card.id);
                    let state = match (is_idle, link) {
                        (true, _) => ServerState::Idle,
                        (false, Some(_)) => ServerState::Active,
                        (false, None) => ServerState::Tested,
                    };
                    rows.push(ServerRow {
                        connection: Connection {
                            id: card.id,
                            user: pools.server_user(),
                            database: pools.database.name.to_string(),
                            peer: endpoint(&card.peer),
                            local: endpoint(&card.local),
                            connected: card.connected,
                            requested: link
                                .and_then(|(_, requested, _)| *requested)
                                .map(|at| wall_clock(at, now)),
                            link: link.map(|(id, _, _)| *id),
                            tls: card.tls.clone(),
                            application_name: link.map(|(_, _, name)| name.clone()).unwrap_or_default(),
                            replication: "none",
                            prepared_statements: 0,
                        },
                        state,
                        role: node.role,
                        remote_pid: card.pid,
                        close_needed: is_outdated,
                    });
                }
            }
        }
        rows
    }

    fn nodes(&self) -> Vec<NodeRow> {
        let now = Instant::now();
        let sections = self.shared().frontend.directory.sections();
        sections.iter().flat_map(|section| node_rows(section, now)).collect()
    }

    fn databases(&self) -> Vec<DatabaseRow> {
        let used: BTreeMap<_, _> =
            self.served().into_iter().map(|database| (database.name.to_string(), database)).collect();
        let mut rows: Vec<_> = used.values().map(|database| database_row(database)).collect();
        let (config, is_paused) = (self.config(), self.shared().frontend.directory.is_paused());
        let unused = config
            .databases
            .values()
            .chain(&config.any_database)
            .filter(|rules| !used.contains_key(&rules.name));
        rows.extend(unused.map(|rules| DatabaseRow {
            name: rules.name.clone(),
            rules: rules.clone(),
            clients: 0,
            servers: 0,
            counted: Vec::new(),
            held: 0,
            listeners: 0,
            notifications: 0,
            paused: is_paused,
            disabled: false,
            switchover: None,
        }));
        rows
    }

    fn users(&self) -> Vec<UserRow> {
        let config = self.config();
        let new = |name: &str| UserRow {
            name: name.to_owned(),
            rules: config.user_rules.get(name).cloned().unwrap_or_default(),
            max_clients: config.max_clients_of(name),
            clients: 0,
            servers: 0,
        };
        let mut rows: BTreeMap<String, UserRow> =
            config.users.keys().map(|name| (name.clone(), new(name))).collect();
        for pools in self.user_pools() {
            let row = rows.entry(pools.user.to_string()).or_insert_with(|| new(&pools.user));
            row.clients += pools.clients.load(Ordering::Relaxed);
            row.servers += connections(&pools);
        }
        rows.into_values().collect()
    }

    fn stats(&self) -> Vec<StatsRow> {
        let row = |pools: &Arc<UserPools>| StatsRow {
            database: pools.database.name.to_string(),
            user: pools.user.to_string(),
            stats: pools.all_stats(),
        };
        // Those before them count in the same place.
        self.served().iter().flat_map(|database| database.users()).map(|pools| row(&pools)).collect()
    }

    fn refusals(&self) -> Vec<(String, u64)> {
        self.shared().frontend.journal.refusals()
    }

    fn config(&self) -> Vec<ConfigRow> {
        config_rows(&View::config(self))
    }

    fn readiness(&self) -> Readiness {
        let (sections, databases) = (self.shared().frontend.directory.sections(), self.served());
        let all_are = self.shared().frontend.directory.is_paused();
        let is_paused = |section: &Section| {
            let mut of_it = databases.iter().filter(|one| one.section.name == section.name).peekable();
            (all_are || of_it.peek().is_some()) && of_it.all(|database| database.is_paused())
        };
        let each = sections.iter().map(|section| match is_paused(section) {
            true => DatabaseReadiness {
                name: section.name.clone(),
                standing: Standing::Paused,
                why: "paused by an operator".into(),
            },
            false => readiness(section),
        });
        Readiness { databases: each.collect() }
    }
}

/// One for each user: what is in use in pools that a reload has replaced is in the row of those that have taken their place.
fn pool_rows(database: &Database) -> Vec<PoolRow> {
    let mut rows: BTreeMap<Arc<str>, PoolRow> = BTreeMap::new();
    for pools in database.pools() {
        let row = pool_row(&pools);
        match rows.get_mut(&pools.user) {
            Some(known) => known.add(row),
            None => drop(rows.insert(pools.user.clone(), row)),
        }
    }
    rows.into_values().collect()
}

fn pool_row(pools: &UserPools) -> PoolRow {
    let now = Instant::now();
    let share = |(index, pool): (usize, &Arc<crate::pool::Pool>)| {
        let node = &pools.database.section.cluster.nodes()[index];
        let (full, resetting) = (pool.occupancy(), pool.salvaging());
        PoolShare {
            server: node.address.clone(),
            role: node.state().role,
            size: if pools.is_closed() { 0 } else { pool.limits().size },
            in_use: full.in_use.saturating_sub(resetting),
            idle: full.idle,
            resetting,
            connecting: full.connecting,
            waiting: full.waiting,
            oldest_wait: pool.oldest_wait(now),
        }
    };
    PoolRow {
        database: pools.database.name.to_string(),
        user: pools.user.to_string(),
        mode: pools.rules().mode,
        clients: pools.clients.load(Ordering::Relaxed),
        pinned: pools.pinned.counts(),
        replication: pools.replication.load(Ordering::Relaxed),
        shares: pools.pools().iter().enumerate().map(share).collect(),
    }
}

fn client_row(card: &ClientCard, now: Instant) -> ClientRow {
    let activity = card.activity();
    let replication = match activity.doing {
        Doing::Replicating(mode, _) => mode.as_str(),
        _ => "none",
    };
    let (state, wait, server, link) = match activity.doing {
        Doing::Idle => (ClientState::Idle, None, None, None),
        Doing::Waiting(since) => {
            (ClientState::Waiting, Some(now.saturating_duration_since(since)), None, None)
        }
        Doing::Replicating(_, ref remote) => (ClientState::Active, None, Some(remote.address.clone()), None),
        Doing::Active(connection, ref remote) => {
            (ClientState::Active, None, Some(remote.address.clone()), Some(connection))
        }
    };
    ClientRow {
        connection: Connection {
            id: card.id,
            user: card.user.to_string(),
            database: card.database.to_string(),
            peer: endpoint(&card.peer),
            local: endpoint(&card.local),
            connected: card.connected,
            requested: activity.requested.map(|at| wall_clock(at, now)),
            link,
            tls: card.tls.to_string(),
            application_name: card.application_name.to_string(),
            replication,
            prepared_statements: activity.prepared as usize,
        },
        state,
        wait,
        server,
        held: activity.held,
    }
}

fn node_rows(section: &Section, now: Instant) -> Vec<NodeRow> {
    let cluster = &section.cluster;
    let row = |(index, node): (usize, &Arc<crate::cluster::Node>)| {
        let state = section.state(index);
        let is_replica = state.role == Some(Role::Replica);
        NodeRow {
            database: section.name.clone(),
            server: node.address.clone(),
            role: state.role,
            health: match section.standing(index) {
                NodeStanding::Unknown => Health::Unknown,
                NodeStanding::Primary | NodeStanding::Replica => Health::Healthy,
                NodeStanding::Lagging => Health::Lagging,
                NodeStanding::Down => Health::Down,
            },
            since: now.saturating_duration_since(state.since),
            why: why_unused(node, state.why),
            lag_bytes: state.position.filter(|_| is_replica).and_then(|replay| cluster.lag_bytes(replay)),
            lag: state.age,
            pace: section.pace(index, now),
            position: state.position,
            timeline: state.timeline,
            questions: node.questions(),
        }
    };
    cluster.nodes().iter().enumerate().map(row).collect()
}

fn database_row(database: &Database) -> DatabaseRow {
    DatabaseRow {
        name: database.name.to_string(),
        rules: database.rules(),
        clients: database.total(|one| one.clients.load(Ordering::Relaxed)),
        servers: database.pools().iter().map(|pools| connections(pools)).sum(),
        counted: counted(database),
        held: database.total(|one| one.held.load(Ordering::Relaxed)),
        listeners: database.total(|one| one.listener.listeners()),
        notifications: database.listener.delivered(),
        paused: database.is_paused(),
        disabled: database.admission() == Admission::Refused || database.is_closed(),
        switchover: database.switchover().map(|switchover| switchover.to_string()),
    }
}

fn counted(database: &Database) -> Vec<(ServerAddress, usize)> {
    let nodes = database.section.cluster.nodes().iter().map(|node| node.address.clone());
    let each = nodes.zip(&database.quotas).map(|(server, quota)| (server, quota.usage()));
    each.filter_map(|(server, (taken, max))| max.map(|_| (server, taken))).collect()
}

fn connections(pools: &UserPools) -> usize {
    let count = |full: crate::pool::core::Occupancy| full.in_use + full.idle + full.connecting;
    pools.pools().iter().map(|pool| count(pool.occupancy())).sum()
}

/// Empty, if it is used.
fn why_unused(node: &Node, why: String) -> String {
    if node.is_detached() { "detached by an operator".into() } else { why }
}

fn readiness(section: &Section) -> DatabaseReadiness {
    let nodes = section.cluster.nodes();
    let standings: Vec<_> = (0..nodes.len()).map(|index| section.standing(index)).collect();
    let rules = section.rules();
    let wants_replicas = rules.routing.reads == Reads::Replicas
        && rules.routing.consistency != Consistency::Primary
        && rules.servers.len() > 1;
    let has = |wanted: NodeStanding| standings.contains(&wanted);
    let reasons = || -> String {
        let unused = nodes
            .iter()
            .enumerate()
            .map(|(index, node)| (node, why_unused(node, section.state(index).why)))
            .filter(|(_, why)| !why.is_empty());
        unused.map(|(node, why)| format!("{}: {why}", node.address)).collect::<Vec<_>>().join("; ")
    };
    let (standing, why) = match (has(NodeStanding::Primary), has(NodeStanding::Replica)) {
        (true, false) if wants_replicas => {
            (Standing::Degraded, format!("no replica takes reads ({})", reasons()))
        }
        (true, _) => (Standing::Ready, String::new()),
        (false, true) => (Standing::Degraded, format!("no primary takes writes ({})", reasons())),
        (false, false) => (Standing::Unavailable, format!("no server can be used ({})", reasons())),
    };
    DatabaseReadiness { name: section.name.clone(), standing, why }
}

/// Those of PgBouncer's keys that exporters look for, and our own general ones: each once, or an exporter fails.
fn config_rows(config: &Config) -> Vec<ConfigRow> {
    let any = config.any_database.as_ref().or(config.databases.values().next());
    let mut rows = vec![
        row("max_client_conn", config.listen.max_clients.to_string(), "10000", true),
        row("max_user_connections", "0".into(), "0", false),
        row(
            "max_user_client_connections",
            config.listen.max_user_clients.unwrap_or(0).to_string(),
            "0",
            true,
        ),
    ];
    if let Some(rules) = any {
        let max = rules.pool.max_db_connections.unwrap_or(0);
        rows.push(row("max_db_connections", max.to_string(), "0", true));
        let max = rules.pool.max_db_clients.unwrap_or(0);
        rows.push(row("max_db_client_connections", max.to_string(), "0", true));
        rows.push(row("min_pool_size", rules.pool.min_size.to_string(), "0", true));
        rows.push(row("reserve_pool_size", rules.pool.reserve_size.to_string(), "0", true));
        rows.push(row("reserve_pool_timeout", duration_text(rules.pool.reserve_timeout), "5s", true));
        rows.push(row("default_pool_size", rules.pool.size.to_string(), "20", true));
        rows.push(row("pool_mode", rules.pool.mode.as_str().into(), "transaction", true));
        rows.push(row("query_wait_timeout", duration_text(rules.pool.checkout_timeout), "10s", true));
    }
    rows.extend(keys::shown().map(|(key, default)| {
        let value = config.shown.get(key).cloned().unwrap_or_default();
        row(key, value, &default, !diff::RESTART.contains(&key))
    }));
    rows
}

fn row(key: &str, value: String, default: &str, changeable: bool) -> ConfigRow {
    ConfigRow { key: key.into(), value, default: default.into(), changeable }
}

fn endpoint(end: &net::Endpoint) -> Endpoint {
    match (end.tcp(), end) {
        (Some(address), _) => address.into(),
        (None, net::Endpoint::Unix) => Endpoint::unix(),
        (None, _) => Endpoint { address: "gone".into(), port: 0 },
    }
}

fn wall_clock(at: Instant, now: Instant) -> SystemTime {
    SystemTime::now() - now.saturating_duration_since(at)
}
