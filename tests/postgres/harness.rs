//! What every test here stands on: a primary and two replicas, pglagoon in front of them, clients, and evidence.
//!
//! A [`Stand`] is one test's own world. Where a statement ran is read from the servers' logs (`log_statement = all`): a
//! statement carries a marker of its own in a comment, and [`Stand::ran_on`] counts it on each server. Nothing that
//! pglagoon says about itself is evidence of where it sent a statement.

// What is printed here explains a failed test.
#![allow(clippy::print_stderr)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::task::Poll;
use std::time::{Duration, Instant};

use pglagoon::cli::playground::{
    DATABASE, Installation, MD5_USER, Options, PASSWORD, Playground, SUPERUSER, USER, free_port,
};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// The server programs to test with: the directories in `PGLAGOON_TEST_PG_BIN` (separated by colons); without it the
/// newest version in the packagers' places, and the one that `scripts/setup.sh` put into `.cache/pg-new`.
///
/// The first is what a test uses that needs one only.
pub fn installations() -> Vec<PathBuf> {
    if let Some(named) = std::env::var_os("PGLAGOON_TEST_PG_BIN") {
        return std::env::split_paths(&named).collect();
    }
    let packaged = Installation::newest().map(|installation| installation.bin().to_path_buf()).ok();
    let newer = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/pg-new/bin");
    let found: Vec<PathBuf> = packaged.into_iter().chain(newer.is_dir().then_some(newer)).collect();
    assert!(!found.is_empty(), "no PostgreSQL server is installed: run `make setup`");
    found
}

/// A playground for tests.
pub fn options(bin: &Path) -> Options {
    Options {
        bin: Some(bin.to_path_buf()),
        template_cache: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).to_path_buf()),
        settings: vec![("log_statement".into(), "all".into())],
        // Memory, where there is some: the servers' files are small and short-lived.
        parent: Some(PathBuf::from("/dev/shm")).filter(|memory| memory.is_dir()),
        ..Options::default()
    }
}

/// One test's world: pglagoon before a primary and two replicas.
pub struct Stand {
    // Dropped in this order: the pooler ends before its servers.
    pub lagoon: Lagoon,
    pub playground: Playground,
    _watchdog: Watchdog,
}

impl Stand {
    /// A world with the settings of most tests; `adjust` changes the configuration.
    pub fn new(adjust: impl FnOnce(Setup) -> Setup) -> Stand {
        Self::on(&installations()[0], adjust)
    }

    /// As [`Stand::new`], on one version's servers.
    pub fn on(bin: &Path, adjust: impl FnOnce(Setup) -> Setup) -> Stand {
        Self::with(options(bin), adjust)
    }

    /// As [`Stand::new`], on servers with these options.
    pub fn with(options: Options, adjust: impl FnOnce(Setup) -> Setup) -> Stand {
        let stand = Self::unwarmed(options, adjust);
        stand.warm_up();
        stand
    }

    /// As [`Stand::with`], for servers that log no statements, and tests that do not mind where the first ones go.
    pub fn unwarmed(options: Options, adjust: impl FnOnce(Setup) -> Setup) -> Stand {
        let watchdog = Watchdog::start();
        let playground = Playground::start(&options).unwrap_or_else(|error| panic!("{error}"));
        playground.primary().sql(SCHEMA).unwrap_or_else(|error| panic!("{error}"));
        playground.wait_caught_up().unwrap_or_else(|error| panic!("{error}"));
        let lagoon = Lagoon::start(&playground, adjust(Setup::before(&playground)));
        Stand { lagoon, playground, _watchdog: watchdog }
    }

    /// Waits until reads go to replicas, where they may: what is not known of the servers and of their catalog right after
    /// the start goes to the primary, and tests of routing mean what comes after.
    fn warm_up(&self) {
        const LIMIT: Duration = Duration::from_secs(10);
        let splits = ["reads", "consistency"].iter().all(|key| {
            self.lagoon.setup.value("routing", key).is_none_or(|value| !value.contains("primary"))
        });
        // In session mode a client stays on the primary.
        if !splits || self.lagoon.setup.value("pool", "mode").is_some_and(|mode| mode.contains("session")) {
            return;
        }
        let reads = async {
            // A client of its own for each, because a statement that is not understood yet counts as a write.
            while self.ran_on("warm-up")[1..] == [0, 0] {
                // A stand on which nobody can log in is what some tests want.
                let Ok(client) = self.lagoon.connect(&self.lagoon.url(USER, DATABASE)).await else { return };
                let _ = client.simple_query("SELECT i FROM numbers WHERE i = 1 /* warm-up */").await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = async { tokio::time::timeout(LIMIT, reads).await };
        // Tests call this from inside and from outside of a runtime.
        let done = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(in_time)
            });
            thread.join().expect("the warm-up does not panic")
        });
        assert!(done.is_ok(), "no read went to a replica within {LIMIT:?}:\n{}", self.lagoon.log());
        eventually("the client of the warm-up is gone", || {
            self.lagoon.http("/metrics").is_some_and(|answer| answer.body.contains("pglagoon_clients 0\n"))
        });
    }

    /// A connection of the application's user, through pglagoon.
    pub async fn client(&self) -> Client {
        self.lagoon.client().await
    }

    /// How often a statement with this marker ran on each server, the primary first.
    pub fn ran_on(&self, marker: &str) -> Vec<usize> {
        self.playground
            .nodes()
            .iter()
            .map(|node| {
                let log = fs::read(node.log_path()).expect("the server's log can be read");
                String::from_utf8_lossy(&log)
                    .lines()
                    .filter(|line| line.contains("LOG: ") && line.contains(marker))
                    .count()
            })
            .collect()
    }

    /// The application's backends on one server (0: the primary) for which an SQL condition on `pg_stat_activity` holds.
    pub fn backends(&self, place: usize, condition: &str) -> usize {
        self.try_backends(place, condition).unwrap()
    }

    /// The same on a server that may let nobody in.
    pub fn try_backends(
        &self,
        place: usize,
        condition: &str,
    ) -> Result<usize, pglagoon::cli::playground::Error> {
        let count = self.playground.nodes()[place].sql(&format!(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND client_addr IS NOT NULL AND {condition}"
        ))?;
        Ok(count.trim().parse().unwrap())
    }
}

/// What is there before pglagoon starts: numbers to read, a table to write to, a function that writes.
const SCHEMA: &str = "
    SET ROLE app;
    CREATE TABLE numbers AS SELECT i, 'number ' || i AS word FROM generate_series(1, 1000) AS i;
    ALTER TABLE numbers ADD PRIMARY KEY (i);
    CREATE TABLE notes (id serial PRIMARY KEY, word text);
    CREATE FUNCTION note(word text) RETURNS text LANGUAGE sql AS 'INSERT INTO notes (word) VALUES ($1) RETURNING word';
";

/// Asserts that a statement with this marker ran `times` on the primary and nowhere else.
#[track_caller]
pub fn assert_primary(stand: &Stand, marker: &str, times: usize) {
    assert_eq!(stand.ran_on(marker), [times, 0, 0], "{marker} ran on [primary, replica1, replica2]");
}

/// Asserts that a statement with this marker ran `times` on the replicas together, and never on the primary.
#[track_caller]
pub fn assert_replicas(stand: &Stand, marker: &str, times: usize) {
    let counts = stand.ran_on(marker);
    let on_replicas: usize = counts[1..].iter().sum();
    assert_eq!((counts[0], on_replicas), (0, times), "{marker} ran on (primary, replicas)");
}

/// A configuration in the making: sections of keys with TOML values.
#[derive(Clone)]
pub struct Setup {
    sections: BTreeMap<String, BTreeMap<String, String>>,
    /// The hosts file of its own that pglagoon sees.
    hosts: Option<String>,
}

/// Whether messages leave together: tests run with it, and once without.
fn io_uring() -> String {
    std::env::var("PGLAGOON_TEST_IO_URING").unwrap_or_else(|_| "true".to_owned())
}

impl Setup {
    /// Nothing but what the harness itself must set.
    pub fn empty() -> Setup {
        Setup { sections: BTreeMap::new(), hosts: None }
    }

    /// What most tests want of pglagoon before these servers.
    pub fn before(playground: &Playground) -> Setup {
        let servers: Vec<String> = playground.nodes().iter().map(|node| quote(&node.address())).collect();
        Self::empty()
            .set("listen", "workers", "2")
            .set("listen", "io_uring", io_uring())
            .set("auth", "method", quote("scram-sha-256"))
            .set("users.app", "password", quote(PASSWORD))
            .set("users.postgres", "password", quote(PASSWORD))
            .set("users.old", "password", quote(PASSWORD))
            .set("admin", "users", "[\"app\"]")
            .set("pool", "size", "4")
            .set("pool", "checkout_timeout", quote("5s"))
            .set("routing", "sticky_window", quote("300ms"))
            // Long enough for a slow machine: no read goes to the primary only because an answer took its time.
            .set("routing", "max_wait", quote("1s"))
            .set("monitor", "interval", quote("100ms"))
            // The monitor's own connections are not the application's.
            .set("monitor", "user", quote("postgres"))
            .set("monitor", "password", quote(PASSWORD))
            .set("log", "filter", quote("pglagoon=debug"))
            .set("databases.app", "servers", format!("[{}]", servers.join(", ")))
    }

    /// Sets `key` in `[section]` to a TOML value.
    pub fn set(mut self, section: &str, key: &str, value: impl Into<String>) -> Setup {
        self.sections.entry(section.to_owned()).or_default().insert(key.to_owned(), value.into());
        self
    }

    /// Gives pglagoon a hosts file of its own, see [`Lagoon::write_hosts`].
    pub fn hosts(mut self, text: impl Into<String>) -> Setup {
        self.hosts = Some(text.into());
        self
    }

    /// Takes a key out.
    pub fn unset(mut self, section: &str, key: &str) -> Setup {
        self.sections.entry(section.to_owned()).or_default().remove(key);
        self
    }

    /// Takes a section out.
    pub fn without(mut self, section: &str) -> Setup {
        self.sections.remove(section);
        self
    }

    /// The value that a key has.
    pub fn value(&self, section: &str, key: &str) -> Option<&str> {
        self.sections.get(section)?.get(key).map(String::as_str)
    }

    /// The file's text.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for (section, keys) in &self.sections {
            // Keys of the file itself, in no section, come first: the empty name sorts before all others.
            if !section.is_empty() {
                writeln!(text, "[{section}]").unwrap();
            }
            for (key, value) in keys {
                writeln!(text, "{key} = {value}").unwrap();
            }
        }
        text
    }
}

/// Whether an ordinary user may have a file system of its own here, as most kernels let one.
pub fn has_namespaces() -> bool {
    let tried = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).output();
    tried.is_ok_and(|output| output.status.success())
}

/// A TOML string.
pub fn quote(text: &str) -> String {
    format!("{text:?}")
}

/// `pglagoon serve` as a child process.
pub struct Lagoon {
    child: Option<Child>,
    /// Where clients connect.
    pub port: u16,
    /// Where /metrics, /health and /ready are.
    pub http_port: u16,
    home: PathBuf,
    setup: Setup,
    /// The process that has taken over from the child.
    successor: Option<u32>,
}

impl Lagoon {
    /// Starts it and waits until it says that it is ready.
    pub fn start(playground: &Playground, setup: Setup) -> Lagoon {
        Self::start_until(playground, setup, "/ready")
    }

    /// Starts it and waits until it runs: whether it can reach its servers is what the test asks.
    pub fn start_unready(playground: &Playground, setup: Setup) -> Lagoon {
        Self::start_until(playground, setup, "/health")
    }

    fn start_until(playground: &Playground, setup: Setup, path: &str) -> Lagoon {
        const TRIES: usize = 5;
        (0..TRIES)
            .map(|_| Self::spawn(playground, setup.clone()))
            .find_map(|lagoon| lagoon.once_good(path))
            .unwrap_or_else(|| panic!("no free port after {TRIES} tries"))
    }

    /// Itself when it answers 200 there; `None` if somebody took one of its ports between our choice and its bind.
    fn once_good(mut self, path: &str) -> Option<Lagoon> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.has_ended() {
                let log = self.log();
                assert!(
                    log.to_lowercase().contains("in use"),
                    "pglagoon ended with {status} at its start:\n{log}"
                );
                return None;
            }
            if self.http(path).is_some_and(|answer| answer.status == 200) {
                return Some(self);
            }
            assert!(Instant::now() < deadline, "pglagoon does not become ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn spawn(playground: &Playground, setup: Setup) -> Lagoon {
        let port = free_port().unwrap();
        let http_port = std::iter::repeat_with(|| free_port().unwrap()).find(|other| *other != port).unwrap();
        let home = (0..)
            .map(|number| playground.folder().join(format!("lagoon{number}")))
            .find(|home| fs::create_dir(home).is_ok())
            .expect("a free name");
        let setup = setup.set("listen", "address", quote(&format!("127.0.0.1:{port}"))).set(
            "http",
            "address",
            quote(&format!("127.0.0.1:{http_port}")),
        );
        let mut lagoon = Lagoon { child: None, port, http_port, home, setup, successor: None };
        lagoon.write_config();
        let log = fs::File::create(lagoon.home.join("log")).unwrap();
        let child = lagoon
            .program()
            .args(["serve", "--config"])
            .arg(lagoon.config_path())
            // The playground's watcher ends what works in its folder, should this process be killed.
            .current_dir(&lagoon.home)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("pglagoon starts");
        lagoon.child = Some(child);
        lagoon
    }

    /// pglagoon itself; with a hosts file of its own, in a namespace where that is the one.
    fn program(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_pglagoon");
        let Some(hosts) = &self.setup.hosts else { return Command::new(program) };
        self.write_hosts(hosts);
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c"]);
        command
            .arg("mount --bind \"$0\" /etc/hosts && exec \"$@\"")
            .arg(self.home.join("hosts"))
            .arg(program);
        command
    }

    /// Changes what names stand for, for a pglagoon that has a hosts file of its own.
    pub fn write_hosts(&self, text: &str) {
        fs::write(self.home.join("hosts"), text).unwrap();
    }

    /// What it was configured with.
    pub fn setup(&self) -> Setup {
        self.setup.clone()
    }

    /// The CPU time that it has used so far.
    pub fn cpu(&self) -> Duration {
        let pid = self.child.as_ref().expect("it runs").id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        // User and system time, in hundredths of a second, stand behind the name in its parentheses.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Its configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.home.join("pglagoon.toml")
    }

    /// Changes the file; pglagoon reads it when it is told to.
    pub fn reconfigure(&mut self, adjust: impl FnOnce(Setup) -> Setup) {
        self.setup = adjust(self.setup.clone());
        self.write_config();
    }

    fn write_config(&self) {
        fs::write(self.config_path(), self.setup.to_toml()).unwrap();
    }

    /// A connection of the application's user.
    pub async fn client(&self) -> Client {
        self.connect(&self.url(USER, DATABASE)).await.unwrap_or_else(|error| panic!("{}", explain(&error)))
    }

    /// A connection to the virtual database.
    pub async fn console(&self) -> Client {
        self.connect(&self.url(USER, "pglagoon")).await.unwrap_or_else(|error| panic!("{}", explain(&error)))
    }

    /// A connection by any connection string; its other half is driven until the client is dropped.
    pub async fn connect(&self, url: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(async move {
            // Tests of broken connections see the error at the client.
            let _ = connection.await;
        });
        Ok(client)
    }

    /// The connection string of a user, with the playground's password.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("host=127.0.0.1 port={} user={user} password={PASSWORD} dbname={database}", self.port)
    }

    /// GET of a path.
    pub fn http(&self, path: &str) -> Option<Answer> {
        http_get(self.http_port, path)
    }

    /// Sends it a signal: `TERM`, `HUP`, `INT`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Tells it to let another process take over, and waits until that serves. What it said of the attempt is in the log.
    pub fn upgrade(&mut self) {
        let before = self.successor.take().or(self.last_successor());
        self.signal("USR2");
        eventually("the new process serves", || {
            self.note_successor();
            self.successor.is_some() && self.successor != before
        });
    }

    /// Ends the process that has taken over without a word.
    pub fn kill_successor(&mut self) {
        self.signal_successor("-KILL");
        self.successor = None;
    }

    /// Sends the process that has taken over a signal: `-STOP`, `-CONT`.
    pub fn signal_successor(&self, name: &str) {
        let pid = self.successor.expect("there is one").to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Looks in the log which process has taken over last: it is to be ended with the test.
    pub fn note_successor(&mut self) {
        self.successor = self.last_successor().or(self.successor);
    }

    fn last_successor(&self) -> Option<u32> {
        const SERVES: &str = "the new process serves; handing clients over pid=";
        self.log().rsplit_once(SERVES).and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
    }

    /// Ends the process that has taken over as an operator would; answers whether there was one.
    pub fn end_successor(&mut self) -> bool {
        let Some(pid) = self.successor.take() else { return false };
        let config = self.config_path();
        // Its number may be somebody else's by now.
        let is_ours = || {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(config.to_str().expect("a path of ours"))
        };
        let signal = |name: &str| Command::new("kill").args([name, &pid.to_string()]).status();
        let was_there = is_ours();
        if was_there {
            let _ = signal("-TERM");
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_ours() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        if is_ours() {
            let _ = signal("-KILL");
        }
        was_there
    }

    /// Waits for its end.
    pub fn wait_end(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.has_ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "pglagoon still runs after {within:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its exit status, if it has ended.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("a child can be asked")
    }

    /// Its resident memory in bytes.
    pub fn memory(&self) -> u64 {
        let pid = self.child.as_ref().expect("it runs").id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        kilobytes.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// How many descriptors it, or who has taken over from it, has open.
    pub fn descriptors(&self) -> usize {
        let pid = self.successor.unwrap_or_else(|| self.child.as_ref().expect("it runs").id());
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.home.join("log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Lagoon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.end_successor();
        if std::thread::panicking() {
            eprintln!("---- pglagoon's log ----\n{}---- end of log ----", last_lines(&self.log(), 200));
        }
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().fold(String::new(), |text, line| text + line + "\n")
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: String,
}

/// GET of a path on a loopback port.
pub fn http_get(port: u16, path: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, headers: head.to_owned(), body: body.to_owned() })
}

/// Rows of a simple query, as text; commands without rows give none.
pub async fn rows(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let messages =
        client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {}", explain(&error)));
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.map(|row| (0..row.len()).map(|column| row.get(column).unwrap_or("NULL").to_owned()).collect())
        .collect()
}

/// The only value of a simple query.
pub async fn value(client: &Client, sql: &str) -> String {
    let rows = rows(client, sql).await;
    assert_eq!((rows.len(), rows[0].len()), (1, 1), "{sql} gives one value");
    rows[0][0].clone()
}

/// The rows of a SHOW by column name.
pub async fn table(console: &Client, sql: &str) -> Vec<BTreeMap<String, String>> {
    let messages =
        console.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {}", explain(&error)));
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.map(|row| {
        let columns = row.columns().iter().enumerate();
        columns
            .map(|(place, column)| (column.name().to_owned(), row.get(place).unwrap_or("NULL").to_owned()))
            .collect()
    })
    .collect()
}

/// The SQLSTATE and all texts of what must be an error of a server or of pglagoon, not a broken connection.
#[track_caller]
pub fn sqlstate<T>(result: Result<T, tokio_postgres::Error>) -> (String, String) {
    let Err(error) = result else { panic!("an error was expected") };
    let Some(answer) = error.as_db_error() else { panic!("an answer was expected, not {}", explain(&error)) };
    let text =
        [Some(answer.message()), answer.detail(), answer.hint()].into_iter().flatten().collect::<Vec<_>>();
    (answer.code().code().to_owned(), text.join("; "))
}

/// An error with its causes: the client library prints only the outermost.
pub fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        write!(text, ": {inner}").unwrap();
        cause = inner.source();
    }
    text
}

/// Waits until a condition holds; it is asked again and again because its owner is another process.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// As [`eventually`], for a condition that has to ask through a connection.
pub async fn eventually_async(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Drives all futures at once in this task, and returns their outputs in their order.
pub async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *output = Some(ready);
            }
        }
        match outputs.iter().all(Option::is_some) {
            true => Poll::Ready(outputs.iter_mut().filter_map(Option::take).collect()),
            false => Poll::Pending,
        }
    })
    .await
}

/// Ends the process if a test takes longer than its limit. The test runner has a limit too, but not every runner.
pub struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    fn start() -> Watchdog {
        // The long form of a test runs for as long as it is told.
        let long = std::env::var("PGLAGOON_PROVE").ok().and_then(|seconds| seconds.parse::<u64>().ok());
        let longer = [crate::soak::seconds(), crate::chaos::seconds(), crate::prove::seconds()];
        Self::within(Duration::from_secs(120 + long.unwrap_or(0) * 20 + longer.iter().sum::<u64>()))
    }

    /// With a limit of the test's own.
    pub fn within(limit: Duration) -> Watchdog {
        let (alive, watch) = mpsc::channel::<()>();
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        std::thread::spawn(move || {
            if watch.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test} takes longer than {limit:?}");
                std::process::abort();
            }
        });
        Watchdog { _alive: alive }
    }
}

// The names that the configuration above spells out are the playground's.
const _: () = {
    assert!(matches!(USER.as_bytes(), b"app"));
    assert!(matches!(SUPERUSER.as_bytes(), b"postgres"));
    assert!(matches!(MD5_USER.as_bytes(), b"old"));
};
