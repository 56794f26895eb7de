//! The promises of each level, held against servers that are disturbed: a short form of each run in `make test`, the long
//! one by `make prove`.
//!
//! Each run of pglagoon has a *positive control* beside it, on the same servers under the same disturbance: a policy with
//! one mistake that such a router could make, which the checker must catch. Where it catches nothing, the disturbance was
//! too weak for the run to prove anything.

// What is printed here is the report.
#![allow(clippy::print_stderr)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pglagoon::cli::playground::{DATABASE, PASSWORD, USER};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::harness::{Lagoon, Setup, Stand, installations, join_all, options, quote};
use crate::history::{Event, Findings, Item, Kind, REGISTERS, Version, check};

/// How stale a read of level `bounded` may be here.
const BOUND: Duration = Duration::from_millis(500);

/// What disturbs the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing.
    None,
    /// Replay stands still on either replica for 20 to 250 ms at a time.
    Pauses,
    /// Commits are acknowledged before their WAL is written.
    AsyncCommit,
    /// Commits wait for a synchronous standby that is not there, for 50 to 250 ms at a time; replicas show them all the same.
    FrozenStandby,
    /// Replicas crash and start anew.
    Crashes,
}

/// Who routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// pglagoon, at this level.
    Lagoon(&'static str),
    /// Any replica, whatever was written: no care at all.
    Naive,
    /// The position after a write is the one that has been *written*, not inserted.
    WriteLsn,
    /// The position is asked for in the same string as the write: before its commit.
    LsnBeforeCommit,
    /// What was seen on a replica is taken to be what it had been polled at before.
    PolledMark,
    /// Falls back to the primary without looking at what the replica had shown.
    NoBarrier,
}

/// How the sessions work.
#[derive(Debug, Clone, Copy)]
struct Load {
    sessions: usize,
    /// In a thousand.
    writes: u64,
    think: Duration,
    time: Duration,
}

impl Load {
    /// For as long as `make prove` says; in `make test` for some seconds.
    fn new(writes: u64, think: Duration) -> Load {
        let long = std::env::var("PGLAGOON_PROVE").ok().and_then(|seconds| seconds.parse().ok());
        let time = Duration::from_secs(long.unwrap_or(2));
        Load { sessions: 8, writes, think, time }
    }
}

/// A history's findings, and where its reads ran.
struct Outcome {
    findings: Findings,
    on_replicas: f64,
    failed: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_its_promises_while_replicas_lag() {
    let stand = stand("session", |setup| setup);
    let load = Load::new(250, Duration::ZERO);
    holds(&stand, Fault::Pauses, Policy::Lagoon("session"), load, Findings::keeps_session).await;
    breaks(&stand, Fault::Pauses, Policy::Naive, load, |found| found.own_writes).await;
    breaks(&stand, Fault::Pauses, Policy::LsnBeforeCommit, load, |found| found.own_writes).await;
    breaks(&stand, Fault::Pauses, Policy::PolledMark, load, |found| found.monotonic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_its_promises_when_commits_do_not_wait() {
    let stand = stand("session", |setup| setup);
    let load = Load::new(100, Duration::from_millis(2));
    holds(&stand, Fault::AsyncCommit, Policy::Lagoon("session"), load, Findings::keeps_session).await;
    breaks(&stand, Fault::AsyncCommit, Policy::WriteLsn, load, |found| found.own_writes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_its_promises_when_replicas_show_commits_before_the_primary() {
    let stand = stand("session", |setup| setup);
    let load = Load::new(100, Duration::from_millis(2));
    holds(&stand, Fault::FrozenStandby, Policy::Lagoon("session"), load, Findings::keeps_session).await;
    breaks(&stand, Fault::FrozenStandby, Policy::NoBarrier, load, |found| found.monotonic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_its_promises_when_replicas_crash() {
    let mut stand = stand("session", |setup| setup);
    let load = Load::new(250, Duration::from_millis(1));
    let outcome = crashing(&mut stand, load).await;
    report(Fault::Crashes, Policy::Lagoon("session"), &outcome);
    assert!(outcome.findings.keeps_session(), "{}", outcome.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn strong_reads_see_whatever_was_acknowledged_to_anybody() {
    let stand = stand("strong", |setup| setup);
    let load = Load::new(100, Duration::from_millis(2));
    let keeps = |found: &Findings| found.keeps_session() && found.fresh == 0;
    holds(&stand, Fault::Pauses, Policy::Lagoon("strong"), load, keeps).await;
    holds(&stand, Fault::AsyncCommit, Policy::Lagoon("strong"), load, keeps).await;
    breaks(&stand, Fault::Pauses, Policy::Naive, load, |found| found.fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bounded_reads_are_never_older_than_the_bound() {
    let stand = stand("bounded", |setup| {
        setup.set("routing", "max_staleness", quote(&format!("{}ms", BOUND.as_millis())))
    });
    let load = Load::new(100, Duration::from_millis(2));
    // Pauses that are longer than the bound, on both replicas at once.
    let keeps = |found: &Findings| found.bounded == 0;
    holds(&stand, Fault::Pauses, Policy::Lagoon("bounded"), load, keeps).await;
    for replica in stand.playground.replicas() {
        replica.pause_replay().unwrap();
    }
    holds(&stand, Fault::None, Policy::Lagoon("bounded"), load, keeps).await;
    breaks(&stand, Fault::None, Policy::Naive, load, |found| found.bounded).await;
}

/// The figures of the design: 8 sessions, 5 % writes, 10 ms think time.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_reads_from_replicas_at_equal_truth() {
    let stand = stand("session", |setup| setup);
    let load = Load::new(50, Duration::from_millis(10));
    let lagging =
        holds(&stand, Fault::Pauses, Policy::Lagoon("session"), load, Findings::keeps_session).await;
    let calm = holds(&stand, Fault::None, Policy::Lagoon("session"), load, Findings::keeps_session).await;
    assert!(lagging.on_replicas >= 0.94, "with lag, {:.1} %", lagging.on_replicas * 100.0);
    assert!(calm.on_replicas >= 0.99, "without, {:.1} %", calm.on_replicas * 100.0);
}

/// What routing costs: CPU time of pglagoon per query, with it and without. Only by `make prove`: in a debug build among
/// other tests the figure says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn routing_costs_little_cpu() {
    const ROUNDS: usize = 5;
    if std::env::var_os("PGLAGOON_PROVE").is_none() {
        return;
    }
    let routed = stand("session", |setup| setup);
    let plain =
        Lagoon::start(&routed.playground, routed.lagoon.setup().set("routing", "reads", quote("primary")));
    let (mut with, mut without) = (Vec::new(), Vec::new());
    // Turn by turn, so that what else goes on disturbs both alike.
    for _ in 0..ROUNDS {
        with.push(cpu_per_read(&routed.lagoon).await);
        without.push(cpu_per_read(&plain).await);
    }
    let median = |mut figures: Vec<f64>| {
        figures.sort_by(f64::total_cmp);
        figures[ROUNDS / 2]
    };
    let (with, without) = (median(with), median(without));
    note(&format!(
        "| CPU per read | with routing {with:.2} us, without {without:.2} us | {:.3} | | |",
        with / without
    ));
    assert!(with <= 1.15 * without, "{with:.2} us with routing, {without:.2} us without");
}

/// Microseconds of pglagoon's CPU time for a prepared read, of 8 clients at once.
async fn cpu_per_read(lagoon: &Lagoon) -> f64 {
    const READS: usize = 5_000;
    let clients = join_all((0..8).map(|_| lagoon.client())).await;
    let read = async |client: &Client| {
        let statement = client.prepare("SELECT v FROM register WHERE k = $1").await.unwrap();
        for turn in 0..READS {
            client.query_one(&statement, &[&((turn % REGISTERS) as i32)]).await.unwrap();
        }
    };
    let before = lagoon.cpu();
    join_all(clients.iter().map(read)).await;
    (lagoon.cpu() - before).as_secs_f64() * 1e6 / (READS * clients.len()) as f64
}

async fn holds(
    stand: &Stand,
    fault: Fault,
    policy: Policy,
    load: Load,
    keeps: impl Fn(&Findings) -> bool,
) -> Outcome {
    let outcome = run(stand, fault, policy, load).await;
    report(fault, policy, &outcome);
    assert!(outcome.findings.reads > 100, "{fault:?}: there is something to check: {}", outcome.findings);
    assert!(keeps(&outcome.findings), "{fault:?}: {}", outcome.findings);
    outcome
}

/// A control that finds nothing in its time has more of it: a rare event is no less of a proof.
async fn breaks(stand: &Stand, fault: Fault, policy: Policy, load: Load, count: impl Fn(&Findings) -> usize) {
    const TRIES: usize = 5;
    let mut findings = Findings::default();
    for _ in 0..TRIES {
        let outcome = run(stand, fault, policy, load).await;
        report(fault, policy, &outcome);
        findings.add(&outcome.findings);
        if count(&findings) > 0 {
            return;
        }
    }
    panic!("{fault:?} did not bring {policy:?} down: {findings}");
}

fn stand(level: &'static str, adjust: impl FnOnce(Setup) -> Setup) -> Stand {
    let mut options = options(&installations()[0]);
    options.settings.push(("log_statement".into(), "none".into()));
    // Where the WAL writer takes its time, what is not flushed stays away from replicas for long.
    options.settings.push(("wal_writer_delay".into(), "50ms".into()));
    let stand = Stand::unwarmed(options, |setup| {
        adjust(setup.set("routing", "consistency", quote(level)).set("pool", "size", "20"))
    });
    let registers: String = (0..REGISTERS).fold(String::new(), |mut sql, register| {
        write!(sql, "INSERT INTO register VALUES ({register}, 0, NULL, NULL);").unwrap();
        sql
    });
    let table = "SET ROLE app; CREATE TABLE register (k int PRIMARY KEY, v bigint, dk int, dv bigint);";
    stand.playground.primary().sql(&format!("{table} {registers}")).unwrap();
    stand.playground.wait_caught_up().unwrap();
    stand
}

async fn run(stand: &Stand, fault: Fault, policy: Policy, load: Load) -> Outcome {
    let disturbance = Disturbance::begin(stand, fault).await;
    let before = routed(stand);
    let outcome = sessions(stand, policy, load, fault).await;
    let after = routed(stand);
    disturbance.end().await;
    let [primary, replica] = [0, 1].map(|role| after[role] - before[role]);
    Outcome { on_replicas: replica / (primary + replica).max(1.0), ..outcome }
}

async fn crashing(stand: &mut Stand, load: Load) -> Outcome {
    let policy = Policy::Lagoon("session");
    let urls = Urls::new(stand, policy);
    let working = tokio::spawn(work(urls, policy, load, Fault::Crashes));
    let end = Instant::now() + load.time;
    while Instant::now() < end {
        for place in [1, 2] {
            stand.playground.node_mut(place).kill().unwrap();
            stand.playground.node_mut(place).start().unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    let (events, failed) = working.await.unwrap();
    Outcome { findings: check(events, BOUND), on_replicas: 0.0, failed }
}

async fn sessions(stand: &Stand, policy: Policy, load: Load, fault: Fault) -> Outcome {
    let (events, failed) = work(Urls::new(stand, policy), policy, load, fault).await;
    Outcome { findings: check(events, BOUND), on_replicas: 0.0, failed }
}

/// Where sessions connect to.
#[derive(Clone)]
struct Urls(Vec<String>);

impl Urls {
    fn new(stand: &Stand, policy: Policy) -> Urls {
        match policy {
            Policy::Lagoon(_) => Urls(vec![stand.lagoon.url(USER, DATABASE)]),
            _ => Urls(stand.playground.nodes().iter().map(|node| server_url(node.port(), USER)).collect()),
        }
    }
}

async fn work(urls: Urls, policy: Policy, load: Load, fault: Fault) -> (Vec<Event>, usize) {
    let end = Instant::now() + load.time;
    let sessions: Vec<JoinHandle<(Vec<Event>, usize)>> = (0..load.sessions)
        .map(|number| tokio::spawn(Session::new(number, policy, load, fault, urls.clone()).live(end)))
        .collect();
    let mut all = (Vec::new(), 0);
    for (events, failed) in join_all(sessions).await.into_iter().map(Result::unwrap) {
        all.0.extend(events);
        all.1 += failed;
    }
    all
}

/// One session: it writes and reads registers, and notes what it was told.
struct Session {
    number: usize,
    policy: Policy,
    load: Load,
    fault: Fault,
    urls: Urls,
    /// Through pglagoon: one; else the primary and its replicas.
    clients: Vec<Client>,
    random: u64,
    seen: Option<Item>,
    /// The register that it wrote last, which it reads more often than others.
    written: usize,
    events: Vec<Event>,
    failed: usize,
    /// For policies of their own: the position that reads go by, and the replica that is stayed with.
    mark: u64,
    stays: usize,
}

impl Session {
    fn new(number: usize, policy: Policy, load: Load, fault: Fault, urls: Urls) -> Session {
        let random = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(number as u64 + 1);
        Session {
            number,
            policy,
            load,
            fault,
            urls,
            clients: Vec::new(),
            random,
            seen: None,
            written: 0,
            events: Vec::new(),
            failed: 0,
            mark: 0,
            stays: 1 + number % 2,
        }
    }

    async fn live(mut self, end: Instant) -> (Vec<Event>, usize) {
        while Instant::now() < end {
            if self.clients.is_empty() && !self.connect().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let kind = if self.random(1000) < self.load.writes { Kind::Write } else { Kind::Read };
            let register = match self.random(2) {
                0 if kind == Kind::Read => self.written,
                _ => self.random(REGISTERS as u64) as usize,
            };
            let invoked = Instant::now();
            let cause = self.seen;
            let answer = match kind {
                Kind::Write => self.write(register).await,
                Kind::Read => self.read(register).await,
            };
            match answer {
                Some(version) => {
                    let item = (register, version);
                    let returned = Instant::now();
                    let cause = cause.filter(|_| kind == Kind::Write);
                    self.events.push(Event { session: self.number, kind, item, cause, invoked, returned });
                    self.seen = Some(item);
                    if kind == Kind::Write {
                        self.written = register;
                    }
                }
                None => self.fail(),
            }
            if !self.load.think.is_zero() {
                tokio::time::sleep(self.load.think).await;
            }
        }
        (self.events, self.failed)
    }

    /// A session that lost its connection is a new one: nothing is promised from the one to the other.
    fn fail(&mut self) {
        self.failed += 1;
        if self.clients.iter().any(Client::is_closed) {
            self.clients.clear();
            self.number += 1000;
            self.seen = None;
        }
    }

    async fn connect(&mut self) -> bool {
        for url in &self.urls.0 {
            let Ok((client, connection)) = tokio_postgres::connect(url, NoTls).await else { return false };
            tokio::spawn(connection);
            if self.fault == Fault::AsyncCommit && self.number.is_multiple_of(2) {
                // Half of them say so themselves; of the others only their server knows.
                let _ = client.simple_query("SET synchronous_commit = off").await;
            }
            self.clients.push(client);
        }
        true
    }

    async fn write(&mut self, register: usize) -> Option<Version> {
        let (dk, dv) = self.seen.map_or(("NULL".to_owned(), "NULL".to_owned()), |(key, version)| {
            (key.to_string(), version.to_string())
        });
        let sql =
            format!("UPDATE register SET v = v + 1, dk = {dk}, dv = {dv} WHERE k = {register} RETURNING v");
        let primary = &self.clients[0];
        match self.policy {
            Policy::WriteLsn => {
                let version = number(primary, &sql).await?;
                self.mark = position(primary, "SELECT pg_current_wal_lsn()").await?;
                Some(version)
            }
            Policy::LsnBeforeCommit => {
                // What follows in the string keeps the commit waiting, while other sessions write on.
                let sql = format!("{sql}; SELECT pg_current_wal_insert_lsn(); SELECT pg_sleep(0.005)");
                let rows = texts(primary, &sql).await?;
                self.mark = parsed(rows.get(1)?)?;
                rows.first()?.parse().ok()
            }
            Policy::PolledMark => {
                let version = number(primary, &sql).await?;
                self.mark = position(primary, "SELECT pg_current_wal_insert_lsn()").await?;
                Some(version)
            }
            _ => number(primary, &sql).await,
        }
    }

    async fn read(&mut self, register: usize) -> Option<Version> {
        let sql = format!("SELECT v FROM register WHERE k = {register}");
        match self.policy {
            Policy::Lagoon(_) => match self.random(2) {
                0 => number(&self.clients[0], &sql).await,
                _ => bound(&self.clients[0], register).await,
            },
            Policy::Naive => {
                let replica = 1 + self.random(2) as usize;
                number(&self.clients[replica], &sql).await
            }
            Policy::WriteLsn | Policy::LsnBeforeCommit => {
                let replica = 1 + self.random(2) as usize;
                let reached = position(&self.clients[replica], REPLAYED).await? >= self.mark;
                number(&self.clients[if reached { replica } else { 0 }], &sql).await
            }
            Policy::PolledMark => {
                let replica = 1 + self.random(2) as usize;
                let polled = position(&self.clients[replica], REPLAYED).await?;
                if polled < self.mark {
                    return number(&self.clients[0], &sql).await;
                }
                // Between the poll and the read the replica goes on.
                tokio::time::sleep(Duration::from_millis(1)).await;
                let version = number(&self.clients[replica], &sql).await;
                self.mark = polled;
                version
            }
            Policy::NoBarrier => {
                let place = if self.random(5) == 0 { 0 } else { self.stays };
                number(&self.clients[place], &sql).await
            }
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }
}

const REPLAYED: &str = "SELECT pg_last_wal_replay_lsn()";

/// What disturbs the servers, until it is ended.
struct Disturbance {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    undo: Option<(Client, &'static [&'static str])>,
}

impl Disturbance {
    async fn begin(stand: &Stand, fault: Fault) -> Disturbance {
        let stop = Arc::new(AtomicBool::new(false));
        let mut it = Disturbance { stop: stop.clone(), tasks: Vec::new(), undo: None };
        let nodes = stand.playground.nodes();
        match fault {
            Fault::None | Fault::Crashes => {}
            Fault::Pauses => {
                for (place, node) in nodes.iter().enumerate().skip(1) {
                    let client = superuser(node.port()).await;
                    it.tasks.push(tokio::spawn(pause(client, place as u64, stop.clone())));
                }
            }
            Fault::AsyncCommit => {
                let primary = superuser(nodes[0].port()).await;
                for sql in ["ALTER SYSTEM SET synchronous_commit = off", RELOAD] {
                    primary.simple_query(sql).await.unwrap();
                }
                it.undo = Some((primary, &["ALTER SYSTEM RESET synchronous_commit", RELOAD]));
            }
            Fault::FrozenStandby => {
                let primary = superuser(nodes[0].port()).await;
                it.tasks.push(tokio::spawn(freeze(primary, stop.clone())));
            }
        }
        it
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        join_all(self.tasks).await.into_iter().for_each(Result::unwrap);
        if let Some((client, statements)) = self.undo {
            for sql in statements {
                client.simple_query(sql).await.unwrap();
            }
        }
    }
}

const RELOAD: &str = "SELECT pg_reload_conf()";

async fn pause(replica: Client, seed: u64, stop: Arc<AtomicBool>) {
    let between = Random::new(seed);
    while !stop.load(Ordering::Relaxed) {
        replica.simple_query("SELECT pg_wal_replay_pause()").await.unwrap();
        tokio::time::sleep(between.milliseconds(20, 250)).await;
        replica.simple_query("SELECT pg_wal_replay_resume()").await.unwrap();
        tokio::time::sleep(between.milliseconds(20, 250)).await;
    }
}

async fn freeze(primary: Client, stop: Arc<AtomicBool>) {
    let between = Random::new(7);
    while !stop.load(Ordering::Relaxed) {
        for sql in ["ALTER SYSTEM SET synchronous_standby_names = 'nobody'", RELOAD] {
            primary.simple_query(sql).await.unwrap();
        }
        tokio::time::sleep(between.milliseconds(50, 250)).await;
        for sql in ["ALTER SYSTEM RESET synchronous_standby_names", RELOAD] {
            primary.simple_query(sql).await.unwrap();
        }
        tokio::time::sleep(between.milliseconds(50, 250)).await;
    }
}

struct Random(AtomicU64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(AtomicU64::new(seed))
    }

    fn milliseconds(&self, from: u64, to: u64) -> Duration {
        let step = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        let mixed = (step ^ (step >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        Duration::from_millis(from + (mixed ^ (mixed >> 32)) % (to - from))
    }
}

async fn superuser(port: u16) -> Client {
    let (client, connection) = tokio_postgres::connect(&server_url(port, "postgres"), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn server_url(port: u16, user: &str) -> String {
    format!("host=127.0.0.1 port={port} user={user} password={PASSWORD} dbname={DATABASE}")
}

async fn texts(client: &Client, sql: &str) -> Option<Vec<String>> {
    let messages = client.simple_query(sql).await.ok()?;
    let values = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Some(values.collect())
}

async fn number(client: &Client, sql: &str) -> Option<Version> {
    texts(client, sql).await?.first()?.parse().ok()
}

async fn bound(client: &Client, register: usize) -> Option<Version> {
    let key = register as i32;
    let row = client.query_one("SELECT v FROM register WHERE k = $1", &[&key]).await.ok()?;
    Version::try_from(row.get::<_, i64>(0)).ok()
}

async fn position(client: &Client, sql: &str) -> Option<u64> {
    parsed(texts(client, sql).await?.first()?)
}

fn parsed(position: &str) -> Option<u64> {
    let (high, low) = position.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

/// Proven reads that pglagoon has sent to the primary and to replicas.
fn routed(stand: &Stand) -> [f64; 2] {
    let answer = stand.lagoon.http("/metrics").expect("metrics");
    let mut counts = BTreeMap::new();
    for line in answer.body.lines().filter(|line| line.starts_with("pglagoon_routed_queries_total{")) {
        let value: f64 = line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or_default();
        let is_read = !["write", "unsure", "transaction", "held"]
            .iter()
            .any(|why| line.contains(&format!("reason=\"{why}\"")));
        if is_read {
            *counts.entry(line.contains("role=\"replica\"")).or_insert(0.0) += value;
        }
    }
    [false, true].map(|role| counts.get(&role).copied().unwrap_or_default())
}

/// A line of the report: printed, and appended to the file that `make prove` names.
fn report(fault: Fault, policy: Policy, outcome: &Outcome) {
    let Outcome { findings, on_replicas, failed } = outcome;
    let share = match policy {
        Policy::Lagoon(_) => format!("{:.1} % of reads on replicas", on_replicas * 100.0),
        _ => "positive control".to_owned(),
    };
    note(&format!("| {fault:?} | {policy:?} | {findings} | {failed} failed | {share} |"));
}

fn note(line: &str) {
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("PGLAGOON_PROVE_REPORT") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}
