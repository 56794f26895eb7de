//! `/metrics`: what can be seen, as Prometheus text. Pure.
//!
//! Every name, unit and label stands in one table, [`FAMILIES`]. Samples with equal labels are added up, so that a
//! series never appears twice, and names that clients choose are bounded: what is beyond [`MAX_DATABASES`],
//! [`MAX_POOLS`] and [`MAX_SQLSTATES`] is counted under the label value `other`.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>

use super::{DatabaseRow, Health, NodeRow, Observed, PoolRow, Process, StatsRow};
use crate::metrics::Histogram;
use crate::routing::Role;
use crate::session::Rescue;
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};
use std::collections::{BTreeMap, BTreeSet};
use std::time::UNIX_EPOCH;

/// The Content-Type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Databases that have labels of their own.
pub const MAX_DATABASES: usize = 200;

/// Pairs of database and user that have labels of their own.
pub const MAX_POOLS: usize = 1000;

/// SQLSTATEs of one database and source that have labels of their own. A client can make a server raise any code.
pub const MAX_SQLSTATES: usize = 64;

/// A metric: its name with its unit, what it says, its type and its labels.
pub struct Family {
    /// Name, with its unit.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    kind: MetricType,
    /// The names of its labels.
    pub labels: &'static [&'static str],
}

const COUNTER: MetricType = MetricType::COUNTER;
const GAUGE: MetricType = MetricType::GAUGE;
const HISTOGRAM: MetricType = MetricType::HISTOGRAM;

const POOL: &[&str] = &["database", "user"];
const PINS: &[&str] = &["database", "user", "reason"];
const SHARE: &[&str] = &["database", "user", "server", "role"];
const NODE: &[&str] = &["database", "server"];
const ROUTE: &[&str] = &["database", "role", "reason"];

macro_rules! families {
    ($($id:ident = $name:literal, $kind:ident, $labels:expr, $help:literal;)*) => {
        $(const $id: &Family = &Family { name: $name, help: $help, kind: $kind, labels: $labels };)*
        /// Every metric.
        pub const FAMILIES: &[&Family] = &[$($id),*];
    };
}

families! {
    BUILD_INFO = "pglagoon_build_info", GAUGE, &["version"], "Always 1; the version is a label.";
    START_TIME = "pglagoon_start_time_seconds", GAUGE, &[], "When the process began to serve, since 1970.";
    CLIENTS = "pglagoon_clients", GAUGE, &[], "Clients that are logged in.";
    LOGGING_IN = "pglagoon_clients_logging_in", GAUGE, &[], "Clients that are connected but not logged in.";
    ASLEEP = "pglagoon_clients_asleep", GAUGE, &[], "Clients that are logged in and have been silent for some seconds.";
    MAX_CLIENTS = "pglagoon_max_clients", GAUGE, &[], "Clients allowed at once.";
    POOL_CLIENTS = "pglagoon_pool_clients", GAUGE, POOL, "Clients of a pool.";
    PINNED = "pglagoon_pinned_clients", GAUGE, PINS, "Clients that keep a server connection, by what keeps it.";
    REPLICATION = "pglagoon_replication_connections", GAUGE, POOL, "Server connections of clients that replicate.";
    HELD = "pglagoon_clients_held", GAUGE, &["database"], "Clients that are held while there is no server for their request.";
    LISTENERS = "pglagoon_listeners", GAUGE, &["database"], "Clients that hear notifications by the shared listener.";
    NOTIFICATIONS = "pglagoon_notifications_total", COUNTER, &["database"], "Notifications given to them.";
    COUNTED = "pglagoon_database_connections", GAUGE, &["database", "server"], "Server connections of all users, where pool.max_db_connections bounds them.";
    MAX_COUNTED = "pglagoon_database_connections_max", GAUGE, &["database", "server"], "That bound.";
    POOL_SIZE = "pglagoon_pool_size", GAUGE, SHARE, "Server connections allowed.";
    POOL_IN_USE = "pglagoon_pool_in_use", GAUGE, SHARE, "Server connections held by clients.";
    POOL_IDLE = "pglagoon_pool_idle", GAUGE, SHARE, "Server connections ready to be handed out.";
    POOL_RESETTING = "pglagoon_pool_resetting", GAUGE, SHARE, "Server connections being reset or checked.";
    POOL_CONNECTING = "pglagoon_pool_connecting", GAUGE, SHARE, "Server connections being made.";
    POOL_WAITING = "pglagoon_pool_waiting", GAUGE, SHARE, "Clients that wait for a server connection.";
    POOL_OLDEST_WAIT = "pglagoon_pool_oldest_wait_seconds", GAUGE, SHARE, "How long the first of them has waited.";
    WAIT = "pglagoon_wait_seconds", HISTOGRAM, &["database"], "Waits for a server connection.";
    FRESHNESS = "pglagoon_freshness_wait_seconds", HISTOGRAM, &["database"], "Waits of reads for a replica that is fresh enough.";
    BARRIER = "pglagoon_barrier_wait_seconds", HISTOGRAM, &["database"], "Waits for the primary to show what a replica has shown.";
    TRANSACTION = "pglagoon_transaction_seconds", HISTOGRAM, &["database"], "Transactions, first message to end.";
    QUERY = "pglagoon_query_seconds", HISTOGRAM, ROUTE, "Queries, by where they ran and why there.";
    ROUTED = "pglagoon_routed_queries_total", COUNTER, ROUTE, "Queries, by where they ran and why there.";
    STATEMENTS = "pglagoon_statements_total", COUNTER, ROUTE, "Statements, by where they ran and what the classifier made of them.";
    QUERIES = "pglagoon_queries_total", COUNTER, POOL, "Queries.";
    TRANSACTIONS = "pglagoon_transactions_total", COUNTER, POOL, "Transactions.";
    ASSIGNMENTS = "pglagoon_server_assignments_total", COUNTER, POOL, "Server connections handed to clients.";
    LOGINS = "pglagoon_client_logins_total", COUNTER, POOL, "Client logins.";
    REFUSED = "pglagoon_logins_refused_total", COUNTER, &["sqlstate"], "Logins that were refused, or took too long.";
    RECEIVED = "pglagoon_received_bytes_total", COUNTER, POOL, "Bytes from clients.";
    SENT = "pglagoon_sent_bytes_total", COUNTER, POOL, "Bytes to clients.";
    CLIENT_PARSES = "pglagoon_client_parses_total", COUNTER, POOL, "Parse messages from clients.";
    SERVER_PARSES = "pglagoon_server_parses_total", COUNTER, POOL, "Parse messages to servers.";
    BINDS = "pglagoon_binds_total", COUNTER, POOL, "Bind messages from clients.";
    RESCUES = "pglagoon_rescued_queries_total", COUNTER, &["database", "reason"], "Requests that ran again because a replica could not serve them, or a plan was outdated, without the client seeing it.";
    ERRORS = "pglagoon_errors_total", COUNTER, &["source", "sqlstate", "database"], "Errors that clients were told of.";
    SERVER_UP = "pglagoon_server_up", GAUGE, &["database", "server", "role"], "1 if the server is used, else 0.";
    POSITION = "pglagoon_wal_position_bytes", GAUGE, NODE, "How far a primary has inserted, or a replica replayed.";
    QUESTIONS = "pglagoon_position_questions_total", COUNTER, NODE, "How often a server was asked how far it is, for reads that hang on it.";
    LAG_BYTES = "pglagoon_replica_lag_bytes", GAUGE, NODE, "WAL between the primary and a replica's replay.";
    LAG_SECONDS = "pglagoon_replica_lag_seconds", GAUGE, NODE, "Age of a replica's newest replayed commit.";
    PACE = "pglagoon_replica_response_seconds", GAUGE, NODE, "How long a replica takes to answer: an average that rises at once and sinks slowly.";
}

/// What can be seen, as Prometheus text.
pub fn text(observed: &dyn Observed) -> Vec<u8> {
    let (pools, stats, databases) = (observed.pools(), observed.stats(), observed.databases());
    let labels = Labels::new(&pools, &stats, &databases);
    let mut sheet = Sheet::default();
    sheet.process(&observed.process());
    observed.refusals().into_iter().for_each(|(code, count)| sheet.add(REFUSED, vec![code], count));
    pools.iter().for_each(|row| sheet.pool(row, &labels));
    stats.iter().for_each(|row| sheet.stats(row, &labels));
    databases.iter().for_each(|row| sheet.database(row, &labels));
    sheet.errors(&stats, &labels);
    observed.nodes().iter().for_each(|row| sheet.node(row));
    sheet.text()
}

const OTHER: &str = "other";

/// Which names appear as label values.
struct Labels {
    databases: BTreeSet<String>,
    pools: BTreeSet<(String, String)>,
}

impl Labels {
    fn new(pools: &[PoolRow], stats: &[StatsRow], databases: &[DatabaseRow]) -> Self {
        let from_pools = pools.iter().map(|row| (&row.database, &row.user));
        let pairs: BTreeSet<(&String, &String)> =
            from_pools.chain(stats.iter().map(|row| (&row.database, &row.user))).collect();
        // Those that somebody uses come first.
        let used = pairs.iter().map(|(database, _)| *database);
        let mut names = BTreeSet::new();
        for name in used.chain(databases.iter().map(|row| &row.name)) {
            if names.len() < MAX_DATABASES {
                names.insert(name.clone());
            }
        }
        Labels {
            databases: names,
            pools: pairs.into_iter().take(MAX_POOLS).map(|(a, b)| (a.clone(), b.clone())).collect(),
        }
    }

    fn database(&self, database: &str) -> String {
        if self.databases.contains(database) { database.into() } else { OTHER.into() }
    }

    fn pool(&self, database: &str, user: &str) -> Vec<String> {
        let pair = (database.to_owned(), user.to_owned());
        if self.pools.contains(&pair) { vec![pair.0, pair.1] } else { vec![OTHER.into(), OTHER.into()] }
    }
}

/// Samples by the names of their family and by label values.
#[derive(Default)]
struct Sheet {
    numbers: BTreeMap<&'static str, BTreeMap<Vec<String>, f64>>,
    histograms: BTreeMap<&'static str, BTreeMap<Vec<String>, Histogram>>,
}

impl Sheet {
    fn process(&mut self, process: &Process) {
        let started = process.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.add(BUILD_INFO, vec![env!("CARGO_PKG_VERSION").into()], 1);
        self.add_f64(START_TIME, vec![], started.as_secs_f64());
        self.add(CLIENTS, vec![], process.clients as u64);
        self.add(LOGGING_IN, vec![], process.logging_in as u64);
        self.add(ASLEEP, vec![], process.asleep as u64);
        self.add(MAX_CLIENTS, vec![], process.max_clients as u64);
    }

    fn pool(&mut self, row: &PoolRow, labels: &Labels) {
        let pool = labels.pool(&row.database, &row.user);
        self.add(POOL_CLIENTS, pool.clone(), row.clients as u64);
        self.add(REPLICATION, pool.clone(), row.replication as u64);
        for (reason, clients) in &row.pinned {
            let mut values = pool.clone();
            values.push((*reason).into());
            self.add(PINNED, values, *clients as u64);
        }
        for share in &row.shares {
            let mut values = pool.clone();
            values.extend([share.server.to_string(), role(share.role).into()]);
            let counts = [
                (POOL_SIZE, share.size),
                (POOL_IN_USE, share.in_use),
                (POOL_IDLE, share.idle),
                (POOL_RESETTING, share.resetting),
                (POOL_CONNECTING, share.connecting),
                (POOL_WAITING, share.waiting),
            ];
            for (family, count) in counts {
                self.add(family, values.clone(), count as u64);
            }
            self.max(POOL_OLDEST_WAIT, values, share.oldest_wait.unwrap_or_default().as_secs_f64());
        }
    }

    fn database(&mut self, row: &DatabaseRow, labels: &Labels) {
        let database = vec![labels.database(&row.name)];
        self.add(HELD, database.clone(), row.held as u64);
        self.add(LISTENERS, database.clone(), row.listeners as u64);
        self.add(NOTIFICATIONS, database.clone(), row.notifications);
        for (server, count) in &row.counted {
            let values = [&database[..], &[server.to_string()]].concat();
            self.add(COUNTED, values.clone(), *count as u64);
            self.add(MAX_COUNTED, values, row.rules.pool.max_db_connections.unwrap_or(0) as u64);
        }
        // What has never happened is 0, so that who watches for the first one has something to compare it with.
        for rescue in Rescue::ALL {
            self.add(RESCUES, [&database[..], &[rescue.as_str().into()]].concat(), 0);
        }
    }

    fn stats(&mut self, row: &StatsRow, labels: &Labels) {
        let (pool, database) = (labels.pool(&row.database, &row.user), labels.database(&row.database));
        let stats = &row.stats;
        let counts = [
            (QUERIES, stats.queries),
            (TRANSACTIONS, stats.transactions),
            (ASSIGNMENTS, stats.assignments),
            (LOGINS, stats.logins),
            (RECEIVED, stats.received),
            (SENT, stats.sent),
            (CLIENT_PARSES, stats.client_parses),
            (SERVER_PARSES, stats.server_parses),
            (BINDS, stats.binds),
        ];
        for (family, count) in counts {
            self.add(family, pool.clone(), count);
        }
        self.merge(WAIT, vec![database.clone()], &stats.wait);
        self.merge(FRESHNESS, vec![database.clone()], &stats.freshness);
        self.merge(BARRIER, vec![database.clone()], &stats.barrier);
        self.merge(TRANSACTION, vec![database.clone()], &stats.transaction);
        for (rescue, count) in Rescue::ALL.iter().zip(stats.rescues).filter(|(_, count)| *count > 0) {
            self.add(RESCUES, vec![database.clone(), rescue.as_str().into()], count);
        }
        for (role, why, times) in stats.query_times() {
            let route = vec![database.clone(), role.as_str().into(), why.as_str().into()];
            self.add(ROUTED, route.clone(), times.count());
            self.merge(QUERY, route, times);
        }
        for (role, reason, count) in stats.statements() {
            self.add(STATEMENTS, vec![database.clone(), role.as_str().into(), reason.as_str().into()], count);
        }
    }

    fn errors(&mut self, stats: &[StatsRow], labels: &Labels) {
        let mut codes: BTreeMap<(String, &'static str), BTreeSet<&str>> = BTreeMap::new();
        for row in stats {
            let database = labels.database(&row.database);
            for (source, code, count) in row.stats.errors() {
                let own = codes.entry((database.clone(), source.as_str())).or_default();
                let code = if own.contains(code) || own.len() < MAX_SQLSTATES { code } else { OTHER };
                if code != OTHER {
                    own.insert(code);
                }
                self.add(ERRORS, vec![source.as_str().into(), code.into(), database.clone()], count);
            }
        }
    }

    fn node(&mut self, row: &NodeRow) {
        let node = vec![row.database.clone(), row.server.to_string()];
        let up = if row.health == Health::Healthy { 1.0 } else { 0.0 };
        let mut with_role = node.clone();
        with_role.push(role(row.role).into());
        self.max(SERVER_UP, with_role, up);
        if let Some(position) = row.position {
            self.max(POSITION, node.clone(), position.0 as f64);
        }
        self.add(QUESTIONS, node.clone(), row.questions);
        if let Some(bytes) = row.lag_bytes {
            self.max(LAG_BYTES, node.clone(), bytes as f64);
        }
        if let Some(lag) = row.lag {
            self.max(LAG_SECONDS, node.clone(), lag.as_secs_f64());
        }
        if let Some(pace) = row.pace {
            self.max(PACE, node, pace.as_secs_f64());
        }
    }

    fn add(&mut self, family: &Family, values: Vec<String>, count: u64) {
        self.add_f64(family, values, count as f64);
    }

    fn add_f64(&mut self, family: &Family, values: Vec<String>, number: f64) {
        *self.number(family, values) += number;
    }

    fn max(&mut self, family: &Family, values: Vec<String>, number: f64) {
        let largest = self.number(family, values);
        *largest = largest.max(number);
    }

    fn number(&mut self, family: &Family, values: Vec<String>) -> &mut f64 {
        self.numbers.entry(family.name).or_default().entry(values).or_default()
    }

    fn merge(&mut self, family: &Family, values: Vec<String>, histogram: &Histogram) {
        self.histograms.entry(family.name).or_default().entry(values).or_default().merge(histogram);
    }

    fn text(self) -> Vec<u8> {
        let families: Vec<_> = FAMILIES.iter().filter_map(|family| self.family(family)).collect();
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text).expect("every family has a name and a sample");
        text
    }

    /// `None`: there is no sample, and a family without one is not shown.
    fn family(&self, family: &Family) -> Option<MetricFamily> {
        let numbers = self.numbers.get(family.name).into_iter().flatten();
        let numbers = numbers.map(|(values, number)| number_metric(family, values, *number));
        let histograms = self.histograms.get(family.name).into_iter().flatten();
        let histograms = histograms.map(|(values, times)| histogram_metric(family, values, times));
        let metrics: Vec<Metric> = numbers.chain(histograms).collect();
        (!metrics.is_empty()).then(|| {
            let mut shown = MetricFamily::default();
            shown.set_name(family.name.into());
            shown.set_help(family.help.into());
            shown.set_field_type(family.kind);
            shown.set_metric(metrics);
            shown
        })
    }
}

fn role(role: Option<Role>) -> &'static str {
    role.map_or("unknown", Role::as_str)
}

fn metric(family: &Family, values: &[String]) -> Metric {
    debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    let pairs = family.labels.iter().zip(values).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value(value.clone());
        pair
    });
    Metric::from_label(pairs.collect())
}

fn number_metric(family: &Family, values: &[String], number: f64) -> Metric {
    let mut metric = metric(family, values);
    if family.kind == MetricType::COUNTER {
        let mut counter = proto::Counter::default();
        counter.set_value(number);
        metric.set_counter(counter);
    } else {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(number);
        metric.set_gauge(gauge);
    }
    metric
}

/// The infinite bucket is left to the encoder, which writes it as the format asks.
fn histogram_metric(family: &Family, values: &[String], times: &Histogram) -> Metric {
    let finite = times.cumulative().filter(|(bound, _)| bound.is_finite());
    let buckets = finite.map(|(bound, count)| {
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    });
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(times.count());
    histogram.set_sample_sum(times.sum_us() as f64 / 1e6);
    let mut metric = metric(family, values);
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fake::{Fake, share, stats};
    use crate::config::PoolMode;
    use crate::error::ErrorSource;
    use crate::wire::SqlState;

    /// Reads the text format: sample (name and labels) to value.
    ///
    /// # Panics
    /// If a sample's family has no TYPE, or a sample appears twice.
    pub fn read(text: &[u8]) -> BTreeMap<String, f64> {
        let text = std::str::from_utf8(text).unwrap();
        let mut types = BTreeMap::new();
        let mut samples = BTreeMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} has two types");
            } else if !line.starts_with("# HELP ") {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                let name = sample.split('{').next().unwrap();
                let is_part = |family: &str| {
                    ["_bucket", "_sum", "_count"].iter().any(|part| name.strip_suffix(part) == Some(family))
                };
                assert!(
                    types
                        .iter()
                        .any(|(family, kind)| family == name || kind == "histogram" && is_part(family)),
                    "{name} has no type"
                );
                let twice = samples.insert(sample.to_owned(), value.parse().unwrap());
                assert!(twice.is_none(), "{sample} appears twice");
            }
        }
        samples
    }

    #[test]
    fn every_family_is_shown_with_its_labels() {
        let samples = read(&text(&Fake::default()));
        let expected = [
            ("pglagoon_clients", 10.0),
            ("pglagoon_clients_asleep", 4.0),
            (
                "pglagoon_pool_in_use{database=\"app\",user=\"app\",server=\"127.0.0.1:5432\",role=\"primary\"}",
                3.0,
            ),
            (
                "pglagoon_pool_waiting{database=\"app\",user=\"app\",server=\"127.0.0.1:5432\",role=\"primary\"}",
                4.0,
            ),
            (
                "pglagoon_query_seconds_bucket{database=\"app\",role=\"replica\",reason=\"read\",le=\"0.000032\"}",
                4.0,
            ),
            (
                "pglagoon_query_seconds_bucket{database=\"app\",role=\"replica\",reason=\"read\",le=\"+Inf\"}",
                4.0,
            ),
            ("pglagoon_query_seconds_count{database=\"app\",role=\"primary\",reason=\"write\"}", 2.0),
            ("pglagoon_query_seconds_sum{database=\"app\",role=\"replica\",reason=\"read\"}", 0.0001),
            ("pglagoon_routed_queries_total{database=\"app\",role=\"replica\",reason=\"read\"}", 4.0),
            ("pglagoon_statements_total{database=\"app\",role=\"replica\",reason=\"proven_read\"}", 10.0),
            ("pglagoon_queries_total{database=\"app\",user=\"web\"}", 3.0),
            ("pglagoon_clients_held{database=\"*\"}", 2.0),
            ("pglagoon_rescued_queries_total{database=\"app\",reason=\"behind\"}", 2.0),
            ("pglagoon_rescued_queries_total{database=\"*\",reason=\"lost\"}", 0.0),
            ("pglagoon_errors_total{source=\"pooler\",sqlstate=\"53300\",database=\"app\"}", 2.0),
            ("pglagoon_server_up{database=\"app\",server=\"127.0.0.1:5432\",role=\"primary\"}", 1.0),
            ("pglagoon_server_up{database=\"app\",server=\"127.0.0.1:5433\",role=\"replica\"}", 0.0),
            ("pglagoon_replica_lag_bytes{database=\"app\",server=\"127.0.0.1:5433\"}", 16.0),
            ("pglagoon_replica_lag_seconds{database=\"app\",server=\"127.0.0.1:5433\"}", 0.0025),
        ];
        for (sample, value) in expected {
            assert_eq!(samples.get(sample), Some(&value), "{sample}");
        }
        for family in FAMILIES {
            assert!(samples.keys().any(|sample| sample.starts_with(family.name)), "{} is shown", family.name);
            assert_eq!(family.name.ends_with("_total"), family.kind == COUNTER, "{}", family.name);
        }
    }

    #[test]
    fn names_that_clients_choose_do_not_make_series_without_bound() {
        let name = |n: usize| format!("db{n:05}");
        let row = |n| StatsRow { database: name(n), user: "u".into(), stats: stats() };
        let rows: Vec<_> = (0..MAX_POOLS + 10).map(row).collect();
        let pool = |n| PoolRow {
            pinned: Vec::new(),
            replication: 0,
            database: name(n),
            user: "u".into(),
            mode: PoolMode::Session,
            clients: 1,
            shares: vec![share(5432, Role::Primary)],
        };
        let pools: Vec<_> = (0..MAX_POOLS + 10).map(pool).collect();
        let labels = Labels::new(&pools, &rows, &Fake::default().databases());
        let mut sheet = Sheet::default();
        pools.iter().for_each(|row| sheet.pool(row, &labels));
        rows.iter().for_each(|row| sheet.stats(row, &labels));
        let series = |family: &Family| sheet.numbers[family.name].len();
        assert_eq!((series(POOL_CLIENTS), series(QUERIES)), (MAX_POOLS + 1, MAX_POOLS + 1));
        assert_eq!(sheet.histograms[WAIT.name].len(), MAX_DATABASES + 1);
        assert_eq!(sheet.numbers[POOL_CLIENTS.name][&vec![OTHER.to_owned(), OTHER.to_owned()]], 10.0);
        read(&sheet.text());
    }

    #[test]
    fn codes_that_clients_raise_do_not_make_series_without_bound() {
        let mut stats = crate::metrics::Stats::default();
        for n in 0..MAX_SQLSTATES + 5 {
            let code = SqlState::new(format!("Z{n:04}").as_bytes()).unwrap();
            stats.error(ErrorSource::Server, code);
        }
        let rows = [StatsRow { database: "app".into(), user: "u".into(), stats }];
        let mut sheet = Sheet::default();
        sheet.errors(&rows, &Labels::new(&[], &rows, &[]));
        let errors = &sheet.numbers[ERRORS.name];
        assert_eq!(errors.len(), MAX_SQLSTATES + 1);
        assert_eq!(errors.values().sum::<f64>(), (MAX_SQLSTATES + 5) as f64);
    }

    #[test]
    fn label_values_are_escaped() {
        let rows = [StatsRow { database: "a\"b\\c\nd".into(), user: "u".into(), stats: stats() }];
        let mut sheet = Sheet::default();
        sheet.stats(&rows[0], &Labels::new(&[], &rows, &[]));
        let samples = read(&sheet.text());
        assert!(
            samples.contains_key(r#"pglagoon_queries_total{database="a\"b\\c\nd",user="u"}"#),
            "{samples:?}"
        );
    }
}
