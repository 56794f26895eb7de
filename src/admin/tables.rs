//! The results of SHOW: PgBouncer's columns in PgBouncer's order, own columns after them. Pure.
//!
//! Whatever already monitors PgBouncer reads these by name, so a name, a type or a place never changes. What pglagoon
//! does not have (reserve pools, peers, DNS) is 0, empty or NULL, not left out.
//!
//! Source: <https://www.pgbouncer.org/usage.html#admin-console>

use super::{
    ClientRow, ConfigRow, Connection, DatabaseRow, NodeRow, Observed, PoolRow, PoolShare, ServerRow, State,
    StatsRow, UserRow,
};
use crate::config::{PoolMode, Reads};
use crate::metrics::Stats;
use crate::routing::Role;
use crate::wire::backend::{Column, ColumnType};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A result: columns, and one text (or NULL) for each in every row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The columns.
    pub columns: &'static [Column],
    /// The rows.
    pub rows: Vec<Vec<Option<String>>>,
}

/// What SHOW can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the words after SHOW")]
pub enum Show {
    ActiveSockets,
    Clients,
    Config,
    Databases,
    Lists,
    Nodes,
    PeerPools,
    Peers,
    Pools,
    Servers,
    Sockets,
    State,
    Stats,
    StatsAverages,
    StatsTotals,
    Totals,
    Users,
    Version,
}

impl Show {
    /// All of them, with their words.
    pub const ALL: [(&'static str, Show); 18] = [
        ("active_sockets", Show::ActiveSockets),
        ("clients", Show::Clients),
        ("config", Show::Config),
        ("databases", Show::Databases),
        ("lists", Show::Lists),
        ("nodes", Show::Nodes),
        ("peer_pools", Show::PeerPools),
        ("peers", Show::Peers),
        ("pools", Show::Pools),
        ("servers", Show::Servers),
        ("sockets", Show::Sockets),
        ("state", Show::State),
        ("stats", Show::Stats),
        ("stats_averages", Show::StatsAverages),
        ("stats_totals", Show::StatsTotals),
        ("totals", Show::Totals),
        ("users", Show::Users),
        ("version", Show::Version),
    ];

    /// The one with this (lower case) word.
    pub fn named(word: &str) -> Option<Show> {
        Show::ALL.iter().find(|(name, _)| *name == word).map(|&(_, show)| show)
    }

    /// Its columns.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Show::ActiveSockets | Show::Sockets => SOCKETS,
            Show::Clients => CLIENTS,
            Show::Config => CONFIG,
            Show::Databases => DATABASES,
            Show::Lists => LISTS,
            Show::Nodes => NODES,
            Show::PeerPools => PEER_POOLS,
            Show::Peers => PEERS,
            Show::Pools => POOLS,
            Show::Servers => SERVERS,
            Show::State => STATE,
            Show::Stats => STATS,
            Show::StatsAverages => STATS_AVERAGES,
            Show::StatsTotals => STATS_TOTALS,
            Show::Totals => TOTALS,
            Show::Users => USERS,
            Show::Version => VERSION,
        }
    }

    /// Fills it from what can be seen now; `averages` are those of the last full period.
    pub fn table(self, observed: &dyn Observed, averages: &BTreeMap<String, Figures>) -> Table {
        let rows = match self {
            Show::ActiveSockets => sockets(observed, |state| state == "active"),
            Show::Clients => observed.clients().iter().map(client).collect(),
            Show::Config => config(observed.config()),
            Show::Databases => observed.databases().iter().map(database).collect(),
            Show::Lists => lists(observed),
            Show::Nodes => nodes(&observed.nodes(), &observed.pools()),
            // Processes do not share what they know.
            Show::PeerPools | Show::Peers => Vec::new(),
            Show::Pools => {
                let console = console_pool(observed.process().in_console);
                observed.pools().iter().map(pool).chain([console]).collect()
            }
            Show::Servers => observed.servers().iter().map(server).collect(),
            Show::Sockets => sockets(observed, |_| true),
            Show::State => state(observed.process().state),
            Show::Stats => stats(&by_database(&observed.stats()), averages),
            Show::StatsAverages => stats_averages(&by_database(&observed.stats()), averages),
            Show::StatsTotals => stats_totals(&by_database(&observed.stats())),
            Show::Totals => totals(&by_database(&observed.stats()), averages),
            Show::Users => observed.users().iter().map(user).collect(),
            Show::Version => vec![Row::new().text(VERSION_TEXT).0],
        };
        Table { columns: self.columns(), rows }
    }
}

/// What SHOW VERSION says.
pub const VERSION_TEXT: &str = concat!("pglagoon ", env!("CARGO_PKG_VERSION"));

/// How many figures SHOW STATS has for a database, as totals and as averages.
pub const FIGURES: usize = 12;

/// One number for each of: assignments, transactions, queries, bytes received and sent, times (µs) of transactions,
/// queries and waits, client and server Parses, Binds, logins.
pub type Figures = [u64; FIGURES];

/// The totals of one database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    figures: Figures,
    on_primary: u64,
    on_replicas: u64,
}

impl Totals {
    fn add(&mut self, stats: &Stats) {
        let figures = [
            stats.assignments,
            stats.transactions,
            stats.queries,
            stats.received,
            stats.sent,
            stats.transaction.sum_us(),
            stats.all_queries().sum_us(),
            stats.wait.sum_us(),
            stats.client_parses,
            stats.server_parses,
            stats.binds,
            stats.logins,
        ];
        add(&mut self.figures, &figures);
        for (role, _, times) in stats.query_times() {
            match role {
                Role::Primary => self.on_primary += times.count(),
                Role::Replica => self.on_replicas += times.count(),
            }
        }
    }
}

/// The totals of each database.
pub fn by_database(rows: &[StatsRow]) -> BTreeMap<String, Totals> {
    let mut databases: BTreeMap<String, Totals> = BTreeMap::new();
    for row in rows {
        match databases.get_mut(&row.database) {
            Some(totals) => totals.add(&row.stats),
            None => databases.entry(row.database.clone()).or_default().add(&row.stats),
        }
    }
    databases
}

/// Averages over the last full period: two samples at least [`PERIOD`] apart, taken whenever somebody looks.
#[derive(Debug)]
pub struct Averages {
    older: Sample,
    newer: Option<Sample>,
}

/// As PgBouncer's `stats_period`.
pub const PERIOD: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Sample {
    at: Instant,
    figures: BTreeMap<String, Figures>,
}

impl Averages {
    /// Begins with nothing counted.
    pub fn new(now: Instant) -> Self {
        Averages { older: Sample { at: now, figures: BTreeMap::new() }, newer: None }
    }

    /// Whether a period has passed since the last sample.
    pub fn is_due(&self, now: Instant) -> bool {
        let last = self.newer.as_ref().unwrap_or(&self.older);
        now.saturating_duration_since(last.at) >= PERIOD
    }

    /// Takes a sample if it is due.
    pub fn sample(&mut self, now: Instant, totals: &BTreeMap<String, Totals>) {
        if !self.is_due(now) {
            return;
        }
        if let Some(newer) = self.newer.replace(Sample::new(now, totals)) {
            self.older = newer;
        }
    }

    /// Per second and per item, over the last full period; in the first period, over what has passed of it.
    pub fn at(&self, now: Instant, totals: &BTreeMap<String, Totals>) -> BTreeMap<String, Figures> {
        match &self.newer {
            Some(newer) => self.older.averages(newer),
            None => self.older.averages(&Sample::new(now, totals)),
        }
    }
}

impl Sample {
    fn new(at: Instant, totals: &BTreeMap<String, Totals>) -> Self {
        Sample { at, figures: totals.iter().map(|(name, totals)| (name.clone(), totals.figures)).collect() }
    }

    fn averages(&self, newer: &Sample) -> BTreeMap<String, Figures> {
        let passed = newer.at.saturating_duration_since(self.at);
        let zero = [0; FIGURES];
        let each = newer.figures.iter();
        each.map(|(name, now)| (name.clone(), average(self.figures.get(name).unwrap_or(&zero), now, passed)))
            .collect()
    }
}

const TRANSACTIONS: usize = 1;
const QUERIES: usize = 2;
const TRANSACTION_TIME: usize = 5;
const QUERY_TIME: usize = 6;

fn average(before: &Figures, after: &Figures, passed: Duration) -> Figures {
    let grown: Figures = std::array::from_fn(|figure| after[figure].saturating_sub(before[figure]));
    let per_second =
        |count: u64| (u128::from(count) * 1_000_000).checked_div(passed.as_micros()).unwrap_or(0);
    let per = |items: u64, time: u64| time.checked_div(items).unwrap_or(0);
    std::array::from_fn(|figure| match figure {
        TRANSACTION_TIME => per(grown[TRANSACTIONS], grown[TRANSACTION_TIME]),
        QUERY_TIME => per(grown[QUERIES], grown[QUERY_TIME]),
        _ => per_second(grown[figure]) as u64,
    })
}

fn add(sum: &mut Figures, more: &Figures) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.saturating_add(*more));
}

/// A row under construction.
struct Row(Vec<Option<String>>);

impl Row {
    fn new() -> Self {
        Row(Vec::new())
    }

    fn text(mut self, text: impl Into<String>) -> Self {
        self.0.push(Some(text.into()));
        self
    }

    fn int(self, number: impl ToString) -> Self {
        let text = number.to_string();
        self.text(text)
    }

    fn maybe(mut self, value: Option<impl ToString>) -> Self {
        self.0.push(value.map(|value| value.to_string()));
        self
    }

    fn null(mut self) -> Self {
        self.0.push(None);
        self
    }

    fn ints<'a>(self, numbers: impl IntoIterator<Item = &'a u64>) -> Self {
        numbers.into_iter().fold(self, Row::int)
    }

    /// Whole seconds, and the microseconds that remain.
    fn seconds_and_us(self, time: Option<Duration>) -> Self {
        let time = time.unwrap_or_default();
        self.int(time.as_secs()).int(time.subsec_micros())
    }
}

type Rows = Vec<Vec<Option<String>>>;

fn pool(row: &PoolRow) -> Vec<Option<String>> {
    let sum = |of: fn(&PoolShare) -> usize| row.shares.iter().map(of).sum::<usize>();
    let in_use =
        |role| row.shares.iter().filter(|share| share.role == Some(role)).map(|share| share.in_use).sum();
    let waiting = sum(|share| share.waiting);
    let (primary, replica): (usize, usize) = (in_use(Role::Primary), in_use(Role::Replica));
    Row::new()
        .text(&row.database)
        .text(&row.user)
        .int(row.clients.saturating_sub(waiting))
        .int(waiting)
        // A cancel request has a connection of its own, which waits for no server connection and holds none back.
        .int(0)
        .int(0)
        .int(sum(|share| share.in_use))
        .int(0)
        .int(0)
        .int(sum(|share| share.idle))
        .int(0)
        .int(sum(|share| share.resetting))
        .int(sum(|share| share.connecting))
        .seconds_and_us(row.shares.iter().filter_map(|share| share.oldest_wait).max())
        .text(row.mode.as_str())
        .null()
        .int(sum(|share| share.size))
        .int(primary)
        .int(replica)
        .0
}

/// The row of the console itself, which PgBouncer calls so and monitoring knows; it has no server connections.
fn console_pool(clients: usize) -> Vec<Option<String>> {
    let row = Row::new().text(CONSOLE).text(CONSOLE).int(clients);
    // From cl_waiting to maxwait_us.
    row.ints(&[0; 12]).text(PoolMode::Statement.as_str()).null().ints(&[0; 3]).0
}

const CONSOLE: &str = "pgbouncer";

/// What SHOW CLIENTS and SHOW SERVERS have in common, of those whose state is wanted. Buffers are not looked into.
fn sockets(observed: &dyn Observed, is_wanted: impl Fn(&str) -> bool) -> Rows {
    let (clients, servers) = (observed.clients(), observed.servers());
    let clients = clients.iter().filter(|row| is_wanted(row.state.as_str())).map(|row| ("cl_", client(row)));
    let servers = servers.iter().filter(|row| is_wanted(row.state.as_str())).map(|row| ("sv_", server(row)));
    let socket = |(side, mut row): (&str, Vec<Option<String>>)| {
        row.truncate(SHARED.len());
        row[STATE_OF_SOCKET] = row[STATE_OF_SOCKET].take().map(|state| format!("{side}{state}"));
        Row(row).ints(&[0; 7]).0
    };
    clients.chain(servers).map(socket).collect()
}

/// The columns that clients and servers share; `kind` and `other` are the first letters of their ids.
fn connection(
    row: &Connection,
    (kind, other): (&str, &str),
    state: &str,
    wait: Option<Duration>,
    remote_pid: i32,
    close_needed: bool,
) -> Row {
    let letter = kind.to_uppercase();
    Row::new()
        .text(letter)
        .text(&row.user)
        .text(&row.database)
        .text(row.replication)
        .text(state)
        .text(&row.peer.address)
        .int(row.peer.port)
        .text(&row.local.address)
        .int(row.local.port)
        .text(timestamp(row.connected))
        .text(timestamp(row.requested.unwrap_or(row.connected)))
        .seconds_and_us(wait)
        .int(u8::from(close_needed))
        .text(format!("{kind}{}", row.id))
        .text(row.link.map(|id| format!("{other}{id}")).unwrap_or_default())
        .int(remote_pid)
        .text(&row.tls)
        .text(&row.application_name)
        .int(row.prepared_statements)
        .int(row.id)
}

fn client(row: &ClientRow) -> Vec<Option<String>> {
    connection(&row.connection, ("c", "s"), row.state.as_str(), row.wait, 0, false)
        .maybe(row.server.as_ref())
        .maybe(row.held)
        .0
}

fn server(row: &ServerRow) -> Vec<Option<String>> {
    connection(&row.connection, ("s", "c"), row.state.as_str(), None, row.remote_pid, row.close_needed)
        .maybe(row.role.map(Role::as_str))
        .0
}

/// A server that several sections name shows the connections of all pools in each of its rows.
fn nodes(nodes: &[NodeRow], pools: &[PoolRow]) -> Rows {
    let shares = |row: &NodeRow| {
        let server = row.server.clone();
        pools.iter().flat_map(|pool| &pool.shares).filter(move |share| share.server == server)
    };
    let each = nodes.iter().map(|row| {
        Row::new()
            .text(&row.database)
            .text(row.server.to_string())
            .maybe(row.role.map(Role::as_str))
            .text(row.health.as_str())
            .int(row.since.as_secs())
            .text(&row.why)
            .maybe(row.lag_bytes)
            .maybe(row.lag.map(|lag| lag.as_micros()))
            .maybe(row.position)
            .maybe(row.timeline)
            .int(shares(row).map(|share| share.in_use).sum::<usize>())
            .int(shares(row).map(|share| share.idle).sum::<usize>())
            .int(shares(row).map(|share| share.waiting).sum::<usize>())
            .0
    });
    each.collect()
}

fn database(row: &DatabaseRow) -> Vec<Option<String>> {
    let rules = &row.rules;
    let hosts: BTreeSet<String> = rules.servers.iter().map(|server| server.host()).collect();
    let servers: Vec<String> = rules.servers.iter().map(ToString::to_string).collect();
    let wildcard = row.name == "*";
    Row::new()
        .text(&row.name)
        .text(hosts.into_iter().collect::<Vec<_>>().join(","))
        .maybe(rules.servers.first().map(|server| server.port()))
        .maybe(rules.server_database.as_ref().or((!wildcard).then_some(&row.name)))
        .maybe(rules.server_user.as_ref())
        .int(rules.pool.size)
        .int(rules.pool.min_size)
        .int(rules.pool.reserve_size)
        .int(rules.pool.lifetime.unwrap_or_default().as_secs())
        .text(rules.pool.mode.as_str())
        .maybe((servers.len() > 1).then(|| rules.routing.balance.as_str()))
        .int(rules.pool.max_db_connections.unwrap_or(0) * servers.len())
        .int(row.servers)
        .int(rules.pool.max_db_clients.unwrap_or(0))
        .int(row.clients)
        .int(u8::from(row.paused))
        .int(u8::from(row.disabled))
        .int(rules.pool.reserve_size)
        .text(servers.join(","))
        .text(reads(rules.routing.reads))
        .text(rules.routing.consistency.as_str())
        .int(row.listeners)
        .maybe(row.switchover.as_ref())
        .0
}

fn reads(reads: Reads) -> &'static str {
    match reads {
        Reads::Replicas => "replicas",
        Reads::Primary => "primary",
        Reads::Shadow => "shadow",
    }
}

fn user(row: &UserRow) -> Vec<Option<String>> {
    let size = |size: Option<usize>| size.map(|size| size.to_string()).unwrap_or_default();
    Row::new()
        .text(&row.name)
        .text(size(row.rules.size))
        .text(size(row.rules.reserve_size))
        .maybe(row.rules.mode.map(PoolMode::as_str))
        .int(0)
        .int(row.servers)
        .int(row.max_clients.unwrap_or(0))
        .int(row.clients)
        .0
}

fn state(state: State) -> Rows {
    let yes = |it: State| if state == it { "yes" } else { "no" };
    let pairs = [
        ("active", yes(State::Active)),
        ("paused", yes(State::Paused)),
        ("suspended", "no"),
        ("draining", yes(State::Draining)),
    ];
    pairs.into_iter().map(|(key, value)| Row::new().text(key).text(value).0).collect()
}

fn lists(observed: &dyn Observed) -> Rows {
    let (pools, process) = (observed.pools(), observed.process());
    let shares = || pools.iter().flat_map(|pool| &pool.shares);
    let idle: usize = shares().map(|share| share.idle).sum();
    let used = shares().map(|share| share.in_use + share.resetting + share.connecting);
    let items = [
        ("databases", observed.databases().len()),
        ("users", observed.users().len()),
        ("peers", 0),
        ("pools", pools.len()),
        ("peer_pools", 0),
        ("free_clients", 0),
        ("used_clients", process.clients),
        ("login_clients", process.logging_in),
        ("free_servers", idle),
        ("used_servers", used.sum()),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ];
    items.into_iter().map(|(name, count)| Row::new().text(name).int(count).0).collect()
}

/// The settings in the order of their keys.
fn config(mut settings: Vec<ConfigRow>) -> Rows {
    settings.sort_by(|a, b| a.key.cmp(&b.key));
    let each = settings.into_iter().map(|row| {
        let changeable = if row.changeable { "yes" } else { "no" };
        Row::new().text(row.key).text(row.value).text(row.default).text(changeable).0
    });
    each.collect()
}

const NO_FIGURES: Figures = [0; FIGURES];

fn stats(totals: &BTreeMap<String, Totals>, averages: &BTreeMap<String, Figures>) -> Rows {
    let each = totals.iter().map(|(name, totals)| {
        let averages = averages.get(name).unwrap_or(&NO_FIGURES);
        let row = Row::new().text(name).ints(&totals.figures).ints(averages);
        row.int(totals.on_primary).int(totals.on_replicas).0
    });
    each.collect()
}

fn stats_totals(totals: &BTreeMap<String, Totals>) -> Rows {
    totals.iter().map(|(name, totals)| Row::new().text(name).ints(&totals.figures).0).collect()
}

fn stats_averages(totals: &BTreeMap<String, Totals>, averages: &BTreeMap<String, Figures>) -> Rows {
    let each = totals.keys().map(|name| (name, averages.get(name).unwrap_or(&NO_FIGURES)));
    each.map(|(name, figures)| Row::new().text(name).ints(figures).0).collect()
}

fn totals(totals: &BTreeMap<String, Totals>, averages: &BTreeMap<String, Figures>) -> Rows {
    let sum = |figures: &mut dyn Iterator<Item = &Figures>| {
        figures.fold(NO_FIGURES, |mut sum, figures| {
            add(&mut sum, figures);
            sum
        })
    };
    let total = sum(&mut totals.values().map(|totals| &totals.figures));
    let average = sum(&mut averages.values());
    let named = |prefix: &'static str, figures: Figures| {
        TOTALS_NAMES.into_iter().zip(figures).map(move |(name, value)| (format!("{prefix}{name}"), value))
    };
    let rows = named("total_", total).chain(named("avg_", average));
    rows.map(|(name, value)| Row::new().text(name).int(value).0).collect()
}

/// `2026-01-31 23:59:59 UTC`
fn timestamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02} UTC", second % 60)
}

/// The date `days` after 1970-01-01. Years begin in March here, so that the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    let days = days + 719_468; // from 0000-03-01 to 1970-01-01
    let (era, day) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // 0: March
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

const fn text(name: &'static str) -> Column {
    Column { name, kind: ColumnType::Text }
}

const fn int(name: &'static str) -> Column {
    Column { name, kind: ColumnType::Int4 }
}

const fn big(name: &'static str) -> Column {
    Column { name, kind: ColumnType::Int8 }
}

const fn numeric(name: &'static str) -> Column {
    Column { name, kind: ColumnType::Numeric }
}

const POOLS: &[Column] = &[
    text("database"),
    text("user"),
    int("cl_active"),
    int("cl_waiting"),
    int("cl_active_cancel_req"),
    int("cl_waiting_cancel_req"),
    int("sv_active"),
    int("sv_active_cancel"),
    int("sv_being_canceled"),
    int("sv_idle"),
    int("sv_used"),
    int("sv_tested"),
    int("sv_login"),
    int("maxwait"),
    int("maxwait_us"),
    text("pool_mode"),
    text("load_balance_hosts"),
    // own
    int("size"),
    int("sv_active_primary"),
    int("sv_active_replica"),
];

const STATS: &[Column] = &[
    text("database"),
    numeric("total_server_assignment_count"),
    numeric("total_xact_count"),
    numeric("total_query_count"),
    numeric("total_received"),
    numeric("total_sent"),
    numeric("total_xact_time"),
    numeric("total_query_time"),
    numeric("total_wait_time"),
    numeric("total_client_parse_count"),
    numeric("total_server_parse_count"),
    numeric("total_bind_count"),
    numeric("total_client_login_count"),
    numeric("avg_server_assignment_count"),
    numeric("avg_xact_count"),
    numeric("avg_query_count"),
    numeric("avg_recv"),
    numeric("avg_sent"),
    numeric("avg_xact_time"),
    numeric("avg_query_time"),
    numeric("avg_wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    numeric("avg_client_login_count"),
    // own
    numeric("total_primary_query_count"),
    numeric("total_replica_query_count"),
];

const STATS_TOTALS: &[Column] = &[
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("client_parse_count"),
    numeric("server_parse_count"),
    numeric("bind_count"),
    numeric("client_login_count"),
];

// The prefix on the last four only is PgBouncer's.
const STATS_AVERAGES: &[Column] = &[
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    numeric("avg_client_login_count"),
];

const TOTALS: &[Column] = &[text("name"), numeric("value")];

const TOTALS_NAMES: [&str; FIGURES] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

const DATABASES: &[Column] = &[
    text("name"),
    text("host"),
    int("port"),
    text("database"),
    text("force_user"),
    int("pool_size"),
    int("min_pool_size"),
    int("reserve_pool_size"),
    int("server_lifetime"),
    text("pool_mode"),
    text("load_balance_hosts"),
    int("max_connections"),
    int("current_connections"),
    int("max_client_connections"),
    int("current_client_connections"),
    int("paused"),
    int("disabled"),
    // the name of reserve_pool_size before PgBouncer 1.24, which exporters still ask for
    int("reserve_pool"),
    // own
    text("servers"),
    text("reads"),
    text("consistency"),
    int("listeners"),
    text("switchover"),
];

const CLIENTS: &[Column] = &connection_columns::<2, 23>([text("server"), text("held")]);

const SERVERS: &[Column] = &connection_columns::<1, 22>([text("role")]);

const SOCKETS: &[Column] = &connection_columns::<7, 28>([
    int("recv_pos"),
    int("pkt_pos"),
    int("pkt_remain"),
    int("send_pos"),
    int("send_remain"),
    int("pkt_avail"),
    int("send_avail"),
]);

/// The columns that clients and servers share.
const SHARED: [Column; 21] = [
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    int("port"),
    text("local_addr"),
    int("local_port"),
    text("connect_time"),
    text("request_time"),
    int("wait"),
    int("wait_us"),
    int("close_needed"),
    text("ptr"),
    text("link"),
    int("remote_pid"),
    text("tls"),
    text("application_name"),
    int("prepared_statements"),
    int("id"),
];

/// The place of `state` among them.
const STATE_OF_SOCKET: usize = 4;

/// [`SHARED`], and `own`.
const fn connection_columns<const OWN: usize, const ALL: usize>(own: [Column; OWN]) -> [Column; ALL] {
    let mut all = [text(""); ALL];
    let mut at = 0;
    while at < ALL {
        all[at] = if at < SHARED.len() { SHARED[at] } else { own[at - SHARED.len()] };
        at += 1;
    }
    all
}

const PEERS: &[Column] = &[int("peer_id"), text("host"), int("port"), int("pool_size")];

const PEER_POOLS: &[Column] = &[
    int("peer_id"),
    int("cl_active_cancel_req"),
    int("cl_waiting_cancel_req"),
    int("sv_active_cancel"),
    int("sv_login"),
];

const LISTS: &[Column] = &[text("list"), int("items")];

const CONFIG: &[Column] = &[text("key"), text("value"), text("default"), text("changeable")];

const USERS: &[Column] = &[
    text("name"),
    text("pool_size"),
    text("reserve_pool_size"),
    text("pool_mode"),
    int("max_user_connections"),
    int("current_connections"),
    int("max_user_client_connections"),
    int("current_client_connections"),
];

const STATE: &[Column] = &[text("key"), text("value")];

const VERSION: &[Column] = &[text("version")];

const NODES: &[Column] = &[
    text("database"),
    text("server"),
    text("role"),
    text("health"),
    big("since_seconds"),
    text("why"),
    big("lag_bytes"),
    big("lag_us"),
    text("position"),
    int("timeline"),
    int("in_use"),
    int("idle"),
    int("waiting"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fake::Fake;

    const CONNECTION: &str = "type text, user text, database text, replication text, state text, addr text, \
        port int4, local_addr text, local_port int4, connect_time text, request_time text, wait int4, wait_us int4, \
        close_needed int4, ptr text, link text, remote_pid int4, tls text, application_name text, \
        prepared_statements int4, id int4";

    /// PgBouncer's columns, and after `|` those of pglagoon.
    const EXPECTED: [(Show, &str); 14] = [
        (Show::Peers, "peer_id int4, host text, port int4, pool_size int4"),
        (
            Show::PeerPools,
            "peer_id int4, cl_active_cancel_req int4, cl_waiting_cancel_req int4, sv_active_cancel int4, sv_login int4",
        ),
        (
            Show::Pools,
            "database text, user text, cl_active int4, cl_waiting int4, cl_active_cancel_req int4, \
             cl_waiting_cancel_req int4, sv_active int4, sv_active_cancel int4, sv_being_canceled int4, sv_idle int4, \
             sv_used int4, sv_tested int4, sv_login int4, maxwait int4, maxwait_us int4, pool_mode text, \
             load_balance_hosts text | size int4, sv_active_primary int4, sv_active_replica int4",
        ),
        (
            Show::Stats,
            "database text, total_server_assignment_count numeric, total_xact_count numeric, \
             total_query_count numeric, total_received numeric, total_sent numeric, total_xact_time numeric, \
             total_query_time numeric, total_wait_time numeric, total_client_parse_count numeric, \
             total_server_parse_count numeric, total_bind_count numeric, total_client_login_count numeric, \
             avg_server_assignment_count numeric, avg_xact_count numeric, avg_query_count numeric, avg_recv numeric, \
             avg_sent numeric, avg_xact_time numeric, avg_query_time numeric, avg_wait_time numeric, \
             avg_client_parse_count numeric, avg_server_parse_count numeric, avg_bind_count numeric, \
             avg_client_login_count numeric \
             | total_primary_query_count numeric, total_replica_query_count numeric",
        ),
        (
            Show::StatsTotals,
            "database text, server_assignment_count numeric, xact_count numeric, query_count numeric, \
             bytes_received numeric, bytes_sent numeric, xact_time numeric, query_time numeric, wait_time numeric, \
             client_parse_count numeric, server_parse_count numeric, bind_count numeric, client_login_count numeric",
        ),
        (
            Show::StatsAverages,
            "database text, server_assignment_count numeric, xact_count numeric, query_count numeric, \
             bytes_received numeric, bytes_sent numeric, xact_time numeric, query_time numeric, wait_time numeric, \
             avg_client_parse_count numeric, avg_server_parse_count numeric, avg_bind_count numeric, \
             avg_client_login_count numeric",
        ),
        (Show::Totals, "name text, value numeric"),
        (
            Show::Databases,
            "name text, host text, port int4, database text, force_user text, pool_size int4, min_pool_size int4, \
             reserve_pool_size int4, server_lifetime int4, pool_mode text, load_balance_hosts text, \
             max_connections int4, current_connections int4, max_client_connections int4, \
             current_client_connections int4, paused int4, disabled int4 \
             | reserve_pool int4, servers text, reads text, consistency text, listeners int4, \
             switchover text",
        ),
        (Show::Lists, "list text, items int4"),
        (Show::Config, "key text, value text, default text, changeable text"),
        (
            Show::Users,
            "name text, pool_size text, reserve_pool_size text, pool_mode text, max_user_connections int4, \
             current_connections int4, max_user_client_connections int4, current_client_connections int4",
        ),
        (Show::State, "key text, value text"),
        (Show::Version, "version text"),
        (
            Show::Nodes,
            "| database text, server text, role text, health text, since_seconds int8, why text, lag_bytes int8, \
             lag_us int8, position text, timeline int4, in_use int4, idle int4, waiting int4",
        ),
    ];

    fn columns(show: Show) -> String {
        let kind = |kind| match kind {
            ColumnType::Text => "text",
            ColumnType::Int4 => "int4",
            ColumnType::Int8 => "int8",
            ColumnType::Numeric => "numeric",
        };
        let each = show.columns().iter().map(|column| format!("{} {}", column.name, kind(column.kind)));
        each.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn columns_are_pgbouncers_and_own_ones_come_last() {
        for (show, expected) in EXPECTED {
            let expected = expected.replace(" |", ",");
            assert_eq!(columns(show), expected.trim_start_matches("| "), "{show:?}");
        }
        assert_eq!(columns(Show::Clients), format!("{CONNECTION}, server text, held text"));
        assert_eq!(columns(Show::Servers), format!("{CONNECTION}, role text"));
        let buffers = "recv_pos int4, pkt_pos int4, pkt_remain int4, send_pos int4, send_remain int4, pkt_avail int4, \
                       send_avail int4";
        assert_eq!(columns(Show::Sockets), format!("{CONNECTION}, {buffers}"));
        assert_eq!(columns(Show::ActiveSockets), columns(Show::Sockets));
    }

    fn shown(show: Show) -> Table {
        show.table(&Fake::default(), &BTreeMap::new())
    }

    /// The first row's value in a column.
    fn value(table: &Table, column: &str) -> Option<String> {
        let at = table.columns.iter().position(|it| it.name == column).expect("a column of the table");
        table.rows[0][at].clone()
    }

    #[test]
    fn every_row_has_a_value_for_every_column() {
        for (name, show) in Show::ALL {
            let table = shown(show);
            assert_eq!(table.rows.is_empty(), matches!(show, Show::Peers | Show::PeerPools), "{name}");
            assert!(table.rows.iter().all(|row| row.len() == table.columns.len()), "{name}");
            assert_eq!(Show::named(name), Some(show));
        }
    }

    #[test]
    fn a_pool_is_summed_over_its_servers() {
        let pools = shown(Show::Pools);
        let expected = [
            ("cl_active", "6"),
            ("cl_waiting", "4"),
            ("sv_active", "6"),
            ("sv_idle", "4"),
            ("sv_tested", "2"),
            ("sv_login", "2"),
            ("maxwait", "1"),
            ("maxwait_us", "500002"),
            ("pool_mode", "transaction"),
            ("size", "40"),
            ("sv_active_primary", "3"),
            ("sv_active_replica", "3"),
        ];
        for (column, expected) in expected {
            assert_eq!(value(&pools, column).as_deref(), Some(expected), "{column}");
        }
        assert_eq!(value(&pools, "load_balance_hosts"), None);
    }

    #[test]
    fn the_console_has_a_pool_of_its_own_that_is_called_as_pgbouncer_calls_it() {
        let pools = shown(Show::Pools);
        let row: Vec<_> = pools.rows[1].iter().map(|value| value.as_deref().unwrap_or("NULL")).collect();
        assert_eq!(row[..3], ["pgbouncer", "pgbouncer", "1"]);
        assert_eq!(row[3..15], ["0"; 12]);
        assert_eq!(row[15..], ["statement", "NULL", "0", "0", "0"]);
    }

    #[test]
    fn sockets_are_those_of_clients_and_servers() {
        let states =
            |show| shown(show).rows.iter().map(|row| row[STATE_OF_SOCKET].clone().unwrap()).collect();
        let (all, active): (Vec<String>, Vec<String>) = (states(Show::Sockets), states(Show::ActiveSockets));
        assert_eq!(all, ["cl_active", "sv_active"]);
        assert_eq!(active, all);
        assert!(sockets(&Fake::default(), |state| state == "idle").is_empty());
    }

    #[test]
    fn connections_say_who_is_linked_with_whom() {
        let (clients, servers) = (shown(Show::Clients), shown(Show::Servers));
        assert_eq!(value(&clients, "ptr").as_deref(), Some("c7"));
        assert_eq!(value(&clients, "link").as_deref(), Some("s8"));
        assert_eq!(value(&clients, "addr").as_deref(), Some("unix"));
        assert_eq!(value(&clients, "connect_time").as_deref(), Some("2024-02-29 12:34:56 UTC"));
        assert_eq!(value(&clients, "request_time").as_deref(), Some("2024-12-31 23:59:59 UTC"));
        assert_eq!(value(&clients, "server").as_deref(), Some("127.0.0.1:5433"));
        assert_eq!(value(&servers, "type").as_deref(), Some("S"));
        assert_eq!(value(&servers, "remote_pid").as_deref(), Some("4711"));
        assert_eq!(value(&servers, "close_needed").as_deref(), Some("1"));
    }

    #[test]
    fn databases_have_one_host_list_and_both_names_of_the_reserve() {
        let databases = shown(Show::Databases);
        assert_eq!(value(&databases, "host").as_deref(), Some("127.0.0.1"));
        assert_eq!(value(&databases, "servers").as_deref(), Some("127.0.0.1:5432,127.0.0.1:5433"));
        assert_eq!(value(&databases, "database").as_deref(), Some("app"));
        assert_eq!(value(&databases, "reserve_pool_size").as_deref(), Some("3"));
        assert_eq!(value(&databases, "reserve_pool").as_deref(), Some("3"));
        assert_eq!(value(&databases, "max_connections").as_deref(), Some("100"), "on two servers");
        assert_eq!(value(&databases, "server_lifetime").as_deref(), Some("3600"));
        assert_eq!(databases.rows[1][3], None, "the wildcard has no database of its own");
    }

    #[test]
    fn lists_keep_pgbouncers_order() {
        let lists = shown(Show::Lists);
        let rows: Vec<_> = lists.rows.iter().map(|row| row[0].as_deref().unwrap()).collect();
        let expected = "databases users peers pools peer_pools free_clients used_clients login_clients free_servers \
                        used_servers dns_names dns_zones dns_queries dns_pending";
        assert_eq!(rows.join(" "), expected);
    }

    #[test]
    fn config_has_the_settings_in_the_order_of_their_keys() {
        let config = shown(Show::Config);
        let keys: Vec<_> = config.rows.iter().map(|row| row[0].as_deref().unwrap()).collect();
        assert_eq!(keys, ["drain_timeout", "pool.size"]);
        assert_eq!(config.rows[1][1].as_deref(), Some("20"));
    }

    #[test]
    fn users_of_a_database_are_added_up() {
        let stats = shown(Show::Stats);
        assert_eq!(stats.rows.len(), 1);
        assert_eq!(value(&stats, "total_query_count").as_deref(), Some("6"));
        assert_eq!(value(&stats, "total_query_time").as_deref(), Some("300"));
        assert_eq!(value(&stats, "total_primary_query_count").as_deref(), Some("2"));
        assert_eq!(value(&stats, "total_replica_query_count").as_deref(), Some("4"));
    }

    fn totals_of(queries: u64, query_time: u64, wait: u64) -> BTreeMap<String, Totals> {
        let mut figures = NO_FIGURES;
        (figures[QUERIES], figures[QUERY_TIME], figures[7]) = (queries, query_time, wait);
        BTreeMap::from([("app".to_owned(), Totals { figures, ..Totals::default() })])
    }

    #[test]
    fn averages_are_those_of_the_last_full_period() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut averages = Averages::new(start);
        let figures = |averages: &Averages, seconds, totals: &BTreeMap<String, Totals>| {
            let all = averages.at(at(seconds), totals)["app"];
            (all[QUERIES], all[QUERY_TIME], all[7])
        };

        // The first period is not over: what has passed of it.
        let totals = totals_of(100, 5000, 200);
        averages.sample(at(10), &totals);
        assert_eq!(figures(&averages, 10, &totals), (10, 50, 20));
        assert_eq!(figures(&averages, 0, &totals), (0, 50, 0), "no time has passed");

        averages.sample(at(60), &totals_of(600, 6000, 600));
        let totals = totals_of(100_600, 1_006_000, 600);
        averages.sample(at(119), &totals);
        assert_eq!(figures(&averages, 119, &totals), (10, 10, 10), "the period before");
        averages.sample(at(160), &totals);
        assert_eq!(figures(&averages, 170, &totals), (1000, 10, 0));
    }

    #[test]
    fn a_counter_that_went_back_counts_as_nothing() {
        let mut averages = Averages::new(Instant::now());
        let start = averages.older.at;
        averages.sample(start + PERIOD, &totals_of(600, 600, 0));
        averages.sample(start + PERIOD * 2, &totals_of(0, 0, 0));
        assert_eq!(averages.at(start + PERIOD * 2, &BTreeMap::new())["app"], NO_FIGURES);
    }

    #[test]
    fn totals_and_averages_of_all_databases() {
        let table = Show::Totals.table(&Fake::default(), &BTreeMap::from([("app".into(), [3; FIGURES])]));
        assert_eq!(table.rows.len(), 2 * FIGURES);
        assert_eq!(table.rows[2], [Some("total_query_count".into()), Some("6".into())]);
        assert_eq!(table.rows[FIGURES], [Some("avg_server_assignment_count".into()), Some("3".into())]);
    }

    #[test]
    fn dates_are_civil() {
        let at = |days: u64| timestamp(UNIX_EPOCH + Duration::from_secs(days * 86_400));
        assert_eq!(at(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(at(11_016), "2000-02-29 00:00:00 UTC");
        assert_eq!(at(11_017), "2000-03-01 00:00:00 UTC");
        assert_eq!(at(47_541), "2100-03-01 00:00:00 UTC");
    }
}
