//! The demo's clients. Two kinds, so that the servers' counters can tell whether routing is right: *readers* never write
//! and read only `items`; *authors* write to `notes` and read back what they wrote.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Config, NoTls, Statement};

use crate::cli::playground::{self, Playground, USER};

/// What a client does all day.
enum Kind {
    Reader,
    Author { author: i32, written: i32 },
}

/// The clients, and what they have seen.
pub(super) struct Workload {
    config: Config,
    clients: usize,
    stop: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    totals: Totals,
    second: Second,
}

/// What all clients saw since the start.
#[derive(Debug, Clone, Default)]
pub(super) struct Totals {
    /// Reads of `items`, by clients that never write.
    pub(super) reads: u64,
    /// Acknowledged writes to `notes`.
    pub(super) writes: u64,
    /// Reads that followed a write of the same client's.
    pub(super) read_backs: u64,
    /// Those that did not see the write.
    pub(super) violations: u64,
    /// Failed statements and connections, by their text.
    pub(super) errors: BTreeMap<String, u64>,
}

impl Totals {
    pub(super) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// What all clients saw since the last look.
#[derive(Debug, Clone, Default)]
pub(super) struct Second {
    /// Answer times.
    pub(super) latencies: Vec<Duration>,
}

impl Second {
    /// The answer time that the fraction `q` of all queries did not exceed.
    pub(super) fn quantile(&self, q: f64) -> Option<Duration> {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        quantile(&sorted, q)
    }
}

/// What the fraction `q` of sorted answer times does not exceed.
pub(in crate::cli) fn quantile(sorted: &[Duration], q: f64) -> Option<Duration> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * q).round() as usize).copied()
}

/// Makes the tables, and waits until the replicas have them.
pub(super) fn lay_tables(playground: &Playground) -> Result<(), playground::Error> {
    playground.primary().sql(&format!(
        "SET ROLE {USER};
         CREATE TABLE items (id int PRIMARY KEY, name text, price numeric);
         INSERT INTO items SELECT i, 'item ' || i, i * 0.99 FROM generate_series(1, {ITEMS}) AS i;
         CREATE TABLE notes (author int, number int, text text, PRIMARY KEY (author, number));"
    ))?;
    playground.primary().sql("VACUUM ANALYZE")?;
    playground.wait_caught_up()
}

const ITEMS: u32 = 10_000;

impl Workload {
    pub(super) fn new(config: Config, clients: usize) -> Workload {
        Workload { config, clients, stop: AtomicBool::new(false), seen: Mutex::default() }
    }

    /// Starts the clients: three readers to each author.
    pub(super) fn start(self: &Arc<Self>) -> Vec<tokio::task::JoinHandle<()>> {
        (0..self.clients)
            .map(|number| {
                let workload = Arc::clone(self);
                let kind = match number % 4 {
                    0 => Kind::Author { author: number as i32, written: 0 },
                    _ => Kind::Reader,
                };
                tokio::spawn(async move { workload.client(kind, Chance::new(number as u64)).await })
            })
            .collect()
    }

    /// Lets every client end after its present query.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn totals(&self) -> Totals {
        self.seen.lock().expect("no client panics while it counts").totals.clone()
    }

    /// What was seen since the last call.
    pub(super) fn take_second(&self) -> Second {
        std::mem::take(&mut self.seen.lock().expect("no client panics while it counts").second)
    }

    /// A client works on one connection, and on a new one after each error.
    async fn client(&self, mut kind: Kind, mut chance: Chance) {
        while self.goes_on() {
            if let Err(error) = self.connection(&mut kind, &mut chance).await {
                self.count(|totals| *totals.errors.entry(explain(&error)).or_default() += 1);
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }

    async fn connection(&self, kind: &mut Kind, chance: &mut Chance) -> Result<(), tokio_postgres::Error> {
        let (client, connection) = self.config.connect(NoTls).await?;
        let driver = tokio::spawn(connection);
        let outcome = match kind {
            Kind::Reader => self.read(&client, chance).await,
            Kind::Author { author, written } => self.write(&client, *author, written, chance).await,
        };
        drop(client);
        // Its error is the same that the client saw.
        let _ = driver.await;
        outcome
    }

    /// Reads, half of the time by a prepared statement, and now and then something slow.
    async fn read(&self, client: &Client, chance: &mut Chance) -> Result<(), tokio_postgres::Error> {
        let by_id = client.prepare("SELECT name, price FROM items WHERE id = $1").await?;
        while self.goes_on() {
            let id = (chance.next() % u64::from(ITEMS)) as i32 + 1;
            match chance.next() % 200 {
                0 => {
                    let slow = "SELECT count(*), sum(price) FROM items WHERE price > 5000";
                    self.timed(client.simple_query(slow)).await?;
                }
                1..100 => {
                    let sql = format!("SELECT name, price FROM items WHERE id = {id}");
                    self.timed(client.simple_query(&sql)).await?;
                }
                _ => {
                    self.timed(client.query_one(&by_id, &[&id])).await?;
                }
            }
            self.count(|totals| totals.reads += 1);
            chance.think().await;
        }
        Ok(())
    }

    /// Writes, and must find what was written; reads that again a few times.
    async fn write(
        &self,
        client: &Client,
        author: i32,
        written: &mut i32,
        chance: &mut Chance,
    ) -> Result<(), tokio_postgres::Error> {
        let insert =
            client.prepare("INSERT INTO notes (author, number, text) VALUES ($1, $2, 'a note')").await?;
        let newest = client.prepare("SELECT coalesce(max(number), 0) FROM notes WHERE author = $1").await?;
        while self.goes_on() {
            // Counted before it is known to be done: after an error the number is not used again.
            *written += 1;
            self.timed(client.execute(&insert, &[&author, written])).await?;
            self.count(|totals| totals.writes += 1);
            for _ in 0..1 + chance.next() % 3 {
                self.read_back(client, &newest, author, *written).await?;
                chance.think().await;
            }
        }
        Ok(())
    }

    async fn read_back(
        &self,
        client: &Client,
        newest: &Statement,
        author: i32,
        written: i32,
    ) -> Result<(), tokio_postgres::Error> {
        let found: i32 = self.timed(client.query_one(newest, &[&author])).await?.get(0);
        self.count(|totals| {
            totals.read_backs += 1;
            totals.violations += u64::from(found < written);
        });
        Ok(())
    }

    async fn timed<T>(
        &self,
        query: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, tokio_postgres::Error> {
        let began = Instant::now();
        let answer = query.await;
        let latency = began.elapsed();
        self.seen.lock().expect("no client panics while it counts").second.latencies.push(latency);
        answer
    }

    fn count(&self, add: impl FnOnce(&mut Totals)) {
        add(&mut self.seen.lock().expect("no client panics while it counts").totals);
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

const RETRY_AFTER: Duration = Duration::from_millis(200);

/// An error with its causes: the client library prints only the outermost.
pub(in crate::cli) fn explain(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(answer) => format!("{} {}", answer.code().code(), answer.message()),
        None => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(error);
            while let Some(inner) = cause {
                text = format!("{text}: {inner}");
                cause = inner.source();
            }
            text
        }
    }
}

/// Numbers that look random enough for a demo, the same in each run (xorshift64).
pub(in crate::cli) struct Chance(u64);

impl Chance {
    pub(in crate::cli) fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(in crate::cli) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    /// The time that an application needs between two queries.
    pub(in crate::cli) async fn think(&mut self) {
        tokio::time::sleep(Duration::from_micros(1_000 + self.next() % 8_000)).await;
    }
}
