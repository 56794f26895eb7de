//! What the demo shows: transactions per server as the servers count them, and pglagoon's own `/metrics`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{Client, NoTls};

use super::Error;
use crate::cli::playground::{DATABASE, PASSWORD, Playground, SUPERUSER};

/// Looks at the servers and at pglagoon.
pub(super) struct Observer {
    servers: Vec<Server>,
    http: SocketAddr,
    waits: Buckets,
}

struct Server {
    name: String,
    address: String,
    client: Client,
    committed: Option<(Instant, i64)>,
}

/// What was seen at one moment, and since the moment before.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// One for each server, the primary first.
    pub(super) servers: Vec<Row>,
    /// Waits for a server connection since the last look.
    pub(super) waits: Waits,
}

/// One server.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) name: String,
    /// `primary`, `replica`, or empty while pglagoon does not know.
    pub(super) role: String,
    /// Transactions per second, by the server's own count: a query outside a transaction is one.
    pub(super) rate: Option<f64>,
    pub(super) in_use: Option<f64>,
    pub(super) size: Option<f64>,
    pub(super) waiting: Option<f64>,
    pub(super) lag: Option<Duration>,
    pub(super) lag_bytes: Option<f64>,
}

/// Waits for a server connection.
#[derive(Debug, Default)]
pub(super) struct Waits {
    pub(super) count: f64,
    pub(super) p50: Option<Duration>,
    pub(super) p99: Option<Duration>,
}

impl Observer {
    /// Connects to each server itself, past pglagoon.
    pub(super) async fn connect(playground: &Playground, http: SocketAddr) -> Result<Observer, Error> {
        let mut servers = Vec::new();
        for node in playground.nodes() {
            let mut config = tokio_postgres::Config::new();
            // In another database than the workload's, so that these questions are not counted.
            config.host("127.0.0.1").port(node.port()).user(SUPERUSER).password(PASSWORD).dbname("postgres");
            let (client, connection) = config.connect(NoTls).await?;
            // Ends when the client is dropped; an error shows in the next question.
            tokio::spawn(connection);
            servers.push(Server {
                name: node.name().to_owned(),
                address: node.address(),
                client,
                committed: None,
            });
        }
        Ok(Observer { servers, http, waits: Buckets::default() })
    }

    /// A look at everything. What cannot be had is left out: a demo goes on while a server is away.
    pub(super) async fn observe(&mut self) -> Observed {
        let metrics = match get(self.http, "/metrics").await {
            Some(answer) => Metrics::parse(&answer.body),
            None => Metrics::default(),
        };
        let mut observed = Observed::default();
        for server in &mut self.servers {
            let label = format!("server=\"{}\"", server.address);
            let lag = metrics.sum("pglagoon_replica_lag_seconds", &label);
            observed.servers.push(Row {
                name: server.name.clone(),
                role: metrics.role(&label),
                rate: server.rate().await,
                in_use: metrics.sum("pglagoon_pool_in_use", &label),
                size: metrics.sum("pglagoon_pool_size", &label),
                waiting: metrics.sum("pglagoon_pool_waiting", &label),
                lag: lag.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
                lag_bytes: metrics.sum("pglagoon_replica_lag_bytes", &label),
            });
        }
        let waits = metrics.buckets("pglagoon_wait_seconds_bucket");
        observed.waits = waits.since(&self.waits);
        self.waits = waits;
        observed
    }
}

impl Server {
    async fn rate(&mut self) -> Option<f64> {
        let sql = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1";
        let committed: i64 = self.client.query_one(sql, &[&DATABASE]).await.ok()?.get(0);
        let now = Instant::now();
        let (then, before) = self.committed.replace((now, committed))?;
        Some((committed - before).max(0) as f64 / (now - then).as_secs_f64())
    }
}

/// Samples of a Prometheus text: each line's name with its labels, and its value.
#[derive(Default)]
struct Metrics {
    samples: Vec<(String, f64)>,
}

impl Metrics {
    fn parse(text: &str) -> Metrics {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Metrics { samples: samples.collect() }
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.samples.iter().filter_map(move |(full, value)| {
            let labels = full.strip_prefix(name)?;
            (labels.is_empty() || labels.starts_with('{')).then_some((labels, *value))
        })
    }

    fn sum(&self, name: &str, label: &str) -> Option<f64> {
        self.named(name)
            .filter(|(labels, _)| labels.contains(label))
            .map(|(_, value)| value)
            .reduce(|a, b| a + b)
    }

    fn role(&self, label: &str) -> String {
        let found = self.named("pglagoon_server_up").find(|(labels, _)| labels.contains(label));
        found.and_then(|(labels, _)| label_value(labels, "role")).unwrap_or_default()
    }

    fn buckets(&self, name: &str) -> Buckets {
        let mut counts = BTreeMap::new();
        for (labels, count) in self.named(name) {
            let Some(bound) =
                label_value(labels, "le").and_then(|bound| bound.replace("+Inf", "inf").parse().ok())
            else {
                continue;
            };
            *counts.entry(Bound(bound)).or_insert(0.0) += count;
        }
        Buckets(counts)
    }
}

fn label_value(labels: &str, name: &str) -> Option<String> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value.to_owned())
}

/// Cumulative counts by upper bound in seconds.
#[derive(Default)]
struct Buckets(BTreeMap<Bound, f64>);

/// A bound of a bucket; never NaN, because `le` never is.
#[derive(PartialEq)]
struct Bound(f64);

impl Eq for Bound {}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Buckets {
    fn since(&self, before: &Buckets) -> Waits {
        let counts: Vec<(f64, f64)> = self
            .0
            .iter()
            .map(|(bound, count)| (bound.0, count - before.0.get(bound).copied().unwrap_or_default()))
            .collect();
        let count = counts.last().map_or(0.0, |(_, count)| *count);
        let quantile = |q: f64| {
            let (bound, _) = counts.iter().find(|(_, cumulative)| count > 0.0 && *cumulative >= count * q)?;
            Duration::try_from_secs_f64(*bound).ok()
        };
        Waits { count, p50: quantile(0.5), p99: quantile(0.99) }
    }
}

/// Whether pglagoon has sent a query to a replica, by its own count.
pub(super) async fn reads_from_replicas(http: SocketAddr) -> bool {
    let Some(answer) = get(http, "/metrics").await else { return false };
    Metrics::parse(&answer.body)
        .sum("pglagoon_routed_queries_total", "role=\"replica\"")
        .is_some_and(|count| count > 0.0)
}

/// An HTTP answer.
pub(super) struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    pub(super) fn is_ok(&self) -> bool {
        self.status == 200
    }
}

/// GET of a path; `None` if there is no answer.
pub(super) async fn get(address: SocketAddr, path: &str) -> Option<Answer> {
    const LIMIT: Duration = Duration::from_secs(2);
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some(Answer { status: head.split(' ').nth(1)?.parse().ok()?, body: body.to_owned() })
    };
    tokio::time::timeout(LIMIT, exchange).await.ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP pglagoon_pool_in_use x
# TYPE pglagoon_pool_in_use gauge
pglagoon_pool_in_use{database=\"app\",user=\"a\",server=\"127.0.0.1:1\",role=\"primary\"} 2
pglagoon_pool_in_use{database=\"app\",user=\"b\",server=\"127.0.0.1:1\",role=\"primary\"} 1
pglagoon_pool_in_use{database=\"app\",user=\"b\",server=\"127.0.0.1:12\",role=\"replica\"} 7
pglagoon_server_up{database=\"app\",server=\"127.0.0.1:12\",role=\"replica\"} 1
pglagoon_wait_seconds_bucket{database=\"app\",le=\"0.001\"} 5
pglagoon_wait_seconds_bucket{database=\"app\",le=\"0.002\"} 9
pglagoon_wait_seconds_bucket{database=\"app\",le=\"+Inf\"} 10
";

    #[test]
    fn samples_are_found_by_name_and_label() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.sum("pglagoon_pool_in_use", "server=\"127.0.0.1:1\""), Some(3.0));
        assert_eq!(metrics.sum("pglagoon_pool_in_use", "server=\"127.0.0.1:9\""), None);
        assert_eq!(metrics.sum("pglagoon_pool", "server"), None);
        assert_eq!(metrics.role("server=\"127.0.0.1:12\""), "replica");
    }

    #[test]
    fn quantiles_are_of_what_came_since_the_last_look() {
        let now = Metrics::parse(TEXT).buckets("pglagoon_wait_seconds_bucket");
        let waits = now.since(&Buckets::default());
        assert_eq!((waits.count, waits.p50), (10.0, Some(Duration::from_millis(1))));
        assert_eq!(waits.p99, None, "beyond the last bound nothing is known");
        let nothing = now.since(&now);
        assert_eq!((nothing.count, nothing.p50), (0.0, None));
    }
}
