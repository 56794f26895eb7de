//! The judge of the classifier: a primary, a standby that has replayed everything, and the same statement on both.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pglagoon::catalog::Snapshot;
use pglagoon::cli::playground::{DATABASE, Options, PASSWORD, Playground, SUPERUSER};
use pglagoon::sql::{Access, Cache, Statement};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::super::harness::{self, Watchdog};

/// A primary and a standby, a session on each, and what pglagoon knows of their database.
pub struct Bench {
    pub primary: Client,
    pub standby: Client,
    /// A session of our own on each, with no settings but the defaults.
    observers: [Client; 2],
    playground: Playground,
    database: String,
    catalog: Snapshot,
    version: u64,
    cache: Cache,
    /// What is set in the primary's session, to see whether a statement changes it.
    settings: String,
    /// What it holds besides, likewise.
    held: String,
    compared: Cell<usize>,
    _watchdog: Watchdog,
}

/// What a statement that may run on a standby turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It wrote nothing, left nothing behind, and the standby answered as the primary did.
    Fits,
    /// It did not; this is what was seen.
    Differs(String),
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// All rows of all statements, in an order of ours: without ORDER BY there is none.
    Rows(Vec<String>),
    /// SQLSTATE and message.
    Error(String, String),
}

impl Bench {
    /// Servers of `bin` with `schema` on them.
    pub async fn start(bin: &Path, schema: &str) -> Bench {
        let watchdog = Watchdog::within(LIMIT);
        let options = Options { replicas: 1, settings: settings(), ..harness::options(bin) };
        let playground = Playground::start(&options).unwrap_or_else(|error| panic!("{error}"));
        let [primary, standby] = connect_both(&playground, DATABASE).await;
        let observers = connect_both(&playground, DATABASE).await;
        primary.batch_execute(schema).await.unwrap_or_else(|error| panic!("{}", explain(&error)));
        let mut bench = Bench {
            primary,
            standby,
            observers,
            playground,
            database: DATABASE.to_owned(),
            catalog: Snapshot::default(),
            version: 0,
            cache: Cache::new(1000, [0; 16]),
            settings: String::new(),
            held: String::new(),
            compared: Cell::new(0),
            _watchdog: watchdog,
        };
        bench.note_state().await;
        bench.settle().await;
        bench
    }

    /// Another database on the same servers: empty, or a copy.
    pub async fn enter(&mut self, database: &str, template: &str) {
        // Nobody may be in the database that is copied.
        self.observers = connect_both(&self.playground, "postgres").await;
        [self.primary, self.standby] = connect_both(&self.playground, "postgres").await;
        let create = format!("CREATE DATABASE {database} TEMPLATE {template}");
        self.observers[0].batch_execute(&create).await.unwrap_or_else(|error| panic!("{}", explain(&error)));
        self.catch_up().await;
        self.database = database.to_owned();
        self.observers = connect_both(&self.playground, database).await;
        self.reconnect().await;
        self.settle().await;
    }

    /// Changes the database, on the primary.
    pub async fn change(&mut self, sql: &str) {
        self.primary.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {}", explain(&error)));
        self.settle().await;
    }

    /// New sessions on both.
    async fn reconnect(&mut self) {
        [self.primary, self.standby] = connect_both(&self.playground, &self.database).await;
        self.note_state().await;
    }

    /// The standby replays what there is.
    pub async fn catch_up(&self) {
        let [primary, standby] = &self.observers;
        let position = scalar(primary, "SELECT pg_current_wal_flush_lsn()").await.unwrap();
        // What is not flushed is not committed; an insert position can stay ahead of it for many seconds. The end of a
        // record may be followed by a page header, which replay has not crossed yet.
        let replayed = format!("SELECT pg_wal_lsn_diff('{position}', pg_last_wal_replay_lsn()) <= 40");
        while scalar(standby, &replayed).await.unwrap() != "t" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The standby replays what there is, and the catalog is read anew.
    pub async fn settle(&mut self) {
        self.catch_up().await;
        let mut rows: [_; Snapshot::QUERY_COUNT] = Default::default();
        for (query, rows) in Snapshot::QUERIES.iter().zip(&mut rows) {
            let answer = self.observers[0]
                .simple_query(query)
                .await
                .unwrap_or_else(|error| panic!("{}", explain(&error)));
            *rows = answer.iter().filter_map(texts).collect();
        }
        self.version += 1;
        self.catalog = Snapshot::from_rows(self.version, &rows, &[]).unwrap();
    }

    /// What pglagoon makes of a text.
    pub fn classify(&mut self, sql: &str) -> Arc<Statement> {
        self.cache.look_up(sql.as_bytes(), &self.catalog)
    }

    /// Whether pglagoon would send it to a replica.
    pub fn is_sent_away(&mut self, sql: &str) -> bool {
        self.classify(sql).routable() == Access::Read
    }

    /// Runs it on both.
    pub async fn compare(&mut self, sql: &str) -> Finding {
        if is_copy(sql) {
            return self.compare_copies(sql);
        }
        let on_primary = async {
            let _ = self.primary.batch_execute("BEGIN").await;
            ask(&self.primary, sql).await
        };
        let (primary, standby) = tokio::join!(on_primary, ask(&self.standby, sql));
        let traces = self.traces().await;
        let _ = self.primary.batch_execute("ROLLBACK").await;
        if let Some(trace) = traces {
            return Finding::Differs(trace);
        }
        if is_alike(&primary, &standby) {
            return Finding::Fits;
        }
        match self.draws_lots(sql, &primary, &standby).await {
            true => Finding::Fits,
            false => differs(&primary, &standby),
        }
    }

    /// Whether a statement that was answered with other rows by each server is answered with other rows from call to
    /// call on one server, too: it draws lots, or tells the time. Two lots are the same now and then, so it is asked
    /// until they are not.
    async fn draws_lots(&self, sql: &str, primary: &Answer, standby: &Answer) -> bool {
        const DRAWS: usize = 40;
        let (Answer::Rows(first), Answer::Rows(other)) = (primary, standby) else { return false };
        if first.len() != other.len() && first.len() != 1 {
            return false;
        }
        for _ in 0..DRAWS {
            match ask(&self.primary, sql).await {
                Answer::Rows(rows) if rows.len() != first.len() => return false,
                Answer::Rows(rows) if rows != *first => return true,
                Answer::Rows(_) => {}
                Answer::Error(..) => return false,
            }
        }
        false
    }

    /// The rows of a COPY are psql's to fetch; on the primary it may not write.
    fn compare_copies(&self, sql: &str) -> Finding {
        let read_only = format!("BEGIN READ ONLY; {sql}; COMMIT");
        let primary = self.playground.primary().sql_in(&self.database, &read_only);
        let standby = self.playground.replicas()[0].sql_in(&self.database, &read_only);
        let [primary, standby] = [primary, standby].map(|answer| match answer {
            Ok(text) => Answer::Rows(sorted(text.lines().map(str::to_owned).collect())),
            Err(error) => Answer::Error("psql".to_owned(), error.to_string()),
        });
        match is_alike(&primary, &standby) {
            true => Finding::Fits,
            false => differs(&primary, &standby),
        }
    }

    /// What a statement that was run in the open transaction did besides answering.
    async fn traces(&self) -> Option<String> {
        // In a failed transaction nothing can be asked; what failed is compared by its error.
        let held = scalar(&self.primary, HELD).await.ok()?;
        if held != self.held {
            return Some(format!("it wrote, or left something behind: {held}; before it {}", self.held));
        }
        // Asked less often, because it takes longer than all the rest: a setting that is changed stays so.
        self.compared.set(self.compared.get() + 1);
        if !self.compared.get().is_multiple_of(20) {
            return None;
        }
        let settings = self.session_state().await?;
        (settings != self.settings)
            .then(|| "a setting was changed by it or one of the 20 before it".to_owned())
    }

    /// What the primary's session holds was changed on purpose, its settings on both servers.
    pub async fn note_state(&mut self) {
        if let Some(state) = self.session_state().await {
            self.settings = state;
        }
        if let Ok(held) = scalar(&self.primary, HELD).await {
            self.held = held;
        }
    }

    async fn session_state(&self) -> Option<String> {
        const STATE: &str = "SELECT md5(string_agg(name || '=' || setting, ',' ORDER BY name)) FROM pg_settings \
                             WHERE context IN ('user', 'superuser') AND name NOT LIKE 'transaction%'";
        scalar(&self.primary, STATE).await.ok()
    }
}

/// Whether the transaction has written, and the session's advisory locks, cursors and prepared statements.
const HELD: &str = "SELECT pg_catalog.concat_ws(' ',
    CASE WHEN pg_catalog.pg_current_xact_id_if_assigned() IS NULL THEN 'reads' ELSE 'writes' END,
    (SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()),
    (SELECT pg_catalog.count(*) FROM pg_catalog.pg_cursors),
    (SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_statements WHERE from_sql))";

/// How long a run may take: PostgreSQL's own regression tests take a quarter of an hour.
const LIMIT: Duration = Duration::from_secs(3600);

fn settings() -> Vec<(String, String)> {
    let settings = [
        // A read does not lose against replay here: what is being judged is the statement.
        ("max_standby_streaming_delay", "-1"),
        ("autovacuum", "off"),
        ("statement_timeout", "60s"),
        ("wal_receiver_status_interval", "1s"),
    ];
    settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

impl Answer {
    fn shown(&self) -> String {
        match self {
            Answer::Rows(rows) => {
                let text: String = rows.join("; ").chars().take(200).collect();
                format!("{} rows ({text})", rows.len())
            }
            Answer::Error(code, message) => format!("{code} {message}"),
        }
    }
}

/// The same rows, or the same error: what its message says may name a place in a file or a process.
fn is_alike(one: &Answer, other: &Answer) -> bool {
    match (one, other) {
        (Answer::Rows(one), Answer::Rows(other)) => one == other,
        (Answer::Error(one, _), Answer::Error(other, _)) => one == other,
        _ => false,
    }
}

/// The answer to a text, run as a simple query.
pub async fn ask(client: &Client, sql: &str) -> Answer {
    match try_ask(client, sql).await {
        Ok(rows) => Answer::Rows(rows),
        Err(error) => match error.as_db_error() {
            Some(error) => Answer::Error(error.code().code().to_owned(), error.message().to_owned()),
            None => Answer::Error("none".to_owned(), error.to_string()),
        },
    }
}

async fn try_ask(client: &Client, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let answer = client.simple_query(sql).await?;
    Ok(sorted(answer.iter().filter_map(texts).map(|row| format!("{row:?}")).collect()))
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort();
    rows
}

fn differs(primary: &Answer, standby: &Answer) -> Finding {
    Finding::Differs(format!("{} on the primary, {} on the standby", primary.shown(), standby.shown()))
}

fn is_copy(sql: &str) -> bool {
    sql.trim_start().get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case("copy"))
}

fn texts(message: &SimpleQueryMessage) -> Option<Vec<Option<String>>> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
}

/// The first column of the first row.
pub async fn scalar(client: &Client, sql: &str) -> Result<String, tokio_postgres::Error> {
    let answer = client.simple_query(sql).await?;
    Ok(answer.iter().find_map(texts).and_then(|mut row| row.swap_remove(0)).unwrap_or_default())
}

/// All rows, NULL as an empty string.
pub async fn rows(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let answer = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{}", explain(&error)));
    let rows = answer.iter().filter_map(texts);
    rows.map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect()
}

async fn connect_both(playground: &Playground, database: &str) -> [Client; 2] {
    [
        connect(playground.primary().port(), database).await,
        connect(playground.replicas()[0].port(), database).await,
    ]
}

async fn connect(port: u16, database: &str) -> Client {
    let url = format!("host=127.0.0.1 port={port} user={SUPERUSER} password={PASSWORD} dbname={database}");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(async move {
        // A statement that ends its own connection shows as an error of the statement.
        let _ = connection.await;
    });
    client
}

fn explain(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| format!("{error:?}"))
}
