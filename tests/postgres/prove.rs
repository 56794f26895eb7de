//! The promises of each level, held against servers that are disturbed: a short form of each run in `make test`, the long
//! one by `make prove`.
//!
//! Each run of pglagoon has a *positive control* beside it, on the same servers under the same disturbance: a policy with
//! one mistake that such a router could make, which the checker must catch. Where it catches nothing, the disturbance was
//! too weak for the run to prove anything.

// What is printed here is the report.
#![allow(clippy::print_stderr)]

mod failover;
mod page;
mod volume;

pub use volume::seconds;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pglagoon::cli::playground::{DATABASE, PASSWORD, USER};
use tokio::task::JoinHandle;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::harness::{Lagoon, Setup, Stand, installations, join_all, options, quote};
use crate::history::{Event, Findings, Fork, Item, Kind, REGISTERS, Version, check};

/// How stale a read of level `bounded` may be here.
const BOUND: Duration = Duration::from_millis(500);

/// What disturbs the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing.
    None,
    /// Replay stands still on either replica for 20 to 250 ms at a time.
    Pauses,
    /// Replay stands still on both replicas all the time.
    Standstill,
    /// Commits are acknowledged before their WAL is written.
    AsyncCommit,
    /// Commits wait for a synchronous standby that is not there, for 50 to 250 ms at a time; replicas show them all the same.
    FrozenStandby,
    /// Replicas crash and start anew.
    Crashes,
    /// The primary ends, a replica that has everything is promoted, and the old primary comes back.
    Promotion,
    /// As before, but the replica that is promoted lacks what was acknowledged last.
    LossyPromotion,
    /// A replica is promoted that was cut off, and the old primary goes on as one.
    TwoPrimaries,
}

impl Fault {
    fn words(self) -> &'static str {
        match self {
            Fault::None => "none",
            Fault::Pauses => "replay pauses, 20 to 250 ms",
            Fault::Standstill => "replay stands still",
            Fault::AsyncCommit => "asynchronous commits",
            Fault::FrozenStandby => "a frozen synchronous standby",
            Fault::Crashes => "replicas crash",
            Fault::Promotion => "promotion, nothing lost; the old primary returns",
            Fault::LossyPromotion => "promotion with loss; the old primary returns",
            Fault::TwoPrimaries => "promotion beside the living primary",
        }
    }

    fn is_failover(self) -> bool {
        matches!(self, Fault::Promotion | Fault::LossyPromotion | Fault::TwoPrimaries)
    }
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
    /// The same before each read, of one that means to be strong.
    StrongWriteLsn,
    /// What a replica has received is taken to be what it shows.
    ReceivedLsn,
    /// A replica that has caught up with a write makes the session forget it, for the other one, too.
    OneCaughtUp,
    /// The position is asked for in the same string as the write: before its commit.
    LsnBeforeCommit,
    /// What was seen on a replica is taken to be what it had been polled at before.
    PolledMark,
    /// Falls back to the primary without looking at what the replica had shown.
    NoBarrier,
    /// Stays with its replica, also when that has crashed and was started anew.
    StayPastCrash,
    /// After a failover a position counts without its timeline.
    TokenWithoutTimeline,
    /// After a failover a replica counts by its position, though it follows the old primary.
    ForeignReplica,
    /// The same before each read, of one that means to be strong.
    StrongForeignReplica,
    /// Whoever says that it is the primary, is.
    EitherPrimary,
    /// One read runs on two replicas, half of it on each.
    Halves,
}

impl Policy {
    fn words(self) -> String {
        let mistake = match self {
            Policy::Lagoon(level) => return format!("pglagoon, `{level}`"),
            Policy::Naive => "no care at all",
            Policy::WriteLsn => "write position for insert position",
            Policy::StrongWriteLsn => "write position for insert position, before each read",
            Policy::ReceivedLsn => "receive position for replay position",
            Policy::OneCaughtUp => "one replica that caught up clears the mark",
            Policy::LsnBeforeCommit => "position asked for before the commit",
            Policy::PolledMark => "polled position as mark of what was seen",
            Policy::NoBarrier => "no barrier before the primary",
            Policy::StayPastCrash => "stays with a replica that has crashed",
            Policy::TokenWithoutTimeline => "position without its timeline",
            Policy::ForeignReplica => "a replica of the old timeline counts by its position",
            Policy::StrongForeignReplica => {
                "a replica of the old timeline counts by its position, asked before each read"
            }
            Policy::EitherPrimary => "whoever says that it is the primary",
            Policy::Halves => "one read on two replicas",
        };
        format!("*control:* {mistake}")
    }

    /// Whether a session goes on with what it has seen when it has lost its connections.
    fn outlasts_connections(self) -> bool {
        matches!(
            self,
            Policy::StayPastCrash
                | Policy::TokenWithoutTimeline
                | Policy::ForeignReplica
                | Policy::StrongForeignReplica
                | Policy::EitherPrimary
        )
    }
}

impl Outcome {
    fn add(&mut self, other: &Outcome) {
        self.findings.add(&other.findings);
        self.failed += other.failed;
        self.told += other.told;
    }
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

/// How often a promise of a level was broken.
type Count = fn(&Findings) -> usize;

/// A history's findings, and where its reads ran.
struct Outcome {
    findings: Findings,
    on_replicas: Option<f64>,
    failed: usize,
    /// Sessions that were told that what they had may be lost.
    told: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_its_promises_while_replicas_lag() {
    let stand = stand("session", |setup| setup);
    let load = Load::new(250, Duration::ZERO);
    holds(&stand, Fault::Pauses, Policy::Lagoon("session"), load, Findings::of_session).await;
    breaks(&stand, Fault::Pauses, Policy::Naive, load, |found| found.own_writes).await;
    breaks(&stand, Fault::Pauses, Policy::LsnBeforeCommit, load, |found| found.own_writes).await;
    breaks(&stand, Fault::Pauses, Policy::PolledMark, load, |found| found.monotonic).await;
    breaks(&stand, Fault::Pauses, Policy::ReceivedLsn, load, |found| found.own_writes).await;
    breaks(&stand, Fault::Pauses, Policy::OneCaughtUp, load, |found| found.own_writes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_its_promises_when_commits_do_not_wait() {
    let stand = stand("session", |setup| setup);
    let load = Load::new(100, Duration::from_millis(2));
    holds(&stand, Fault::AsyncCommit, Policy::Lagoon("session"), load, Findings::of_session).await;
    breaks(&stand, Fault::AsyncCommit, Policy::WriteLsn, load, |found| found.own_writes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_its_promises_when_replicas_show_commits_before_the_primary() {
    let stand = stand("session", |setup| setup);
    let load = Load::new(100, Duration::from_millis(2));
    holds(&stand, Fault::FrozenStandby, Policy::Lagoon("session"), load, Findings::of_session).await;
    breaks(&stand, Fault::FrozenStandby, Policy::NoBarrier, load, |found| found.monotonic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_its_promises_when_replicas_crash() {
    let mut stand = stand("session", |setup| setup);
    let load = Load::new(250, Duration::from_millis(1));
    let outcome = crashing(&mut stand, Policy::Lagoon("session"), load).await;
    prove(Fault::Crashes, Policy::Lagoon("session"), &outcome, Findings::of_session);
    let mut findings = Findings::default();
    for _ in 0..TRIES {
        let outcome = crashing(&mut stand, Policy::StayPastCrash, load).await;
        findings.add(&outcome.findings);
        if caught(Fault::Crashes, Policy::StayPastCrash, &outcome, |found| found.monotonic) {
            return;
        }
    }
    panic!("no crash brought a session down that stays: {findings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn strong_reads_see_whatever_was_acknowledged_to_anybody() {
    let stand = stand("strong", |setup| setup);
    let load = Load::new(100, Duration::from_millis(2));
    holds(&stand, Fault::Pauses, Policy::Lagoon("strong"), load, Findings::of_strong).await;
    breaks(&stand, Fault::Pauses, Policy::Naive, load, |found| found.fresh).await;
    holds(&stand, Fault::AsyncCommit, Policy::Lagoon("strong"), load, Findings::of_strong).await;
    breaks(&stand, Fault::AsyncCommit, Policy::StrongWriteLsn, load, |found| found.fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bounded_reads_are_never_older_than_the_bound() {
    let stand = stand("bounded", |setup| {
        let bound = quote(&format!("{}ms", BOUND.as_millis()));
        // No replica comes to it by waiting, and the primary may serve them all.
        let setup = setup.set("routing", "max_wait", quote("10ms")).set("routing", "max_fallbacks", "10000");
        setup.set("routing", "max_staleness", bound)
    });
    let load = Load::new(100, Duration::from_millis(2));
    // Shorter pauses than the bound would prove nothing.
    let stale: Count = |found| found.bounded;
    holds(&stand, Fault::Standstill, Policy::Lagoon("bounded"), load, stale).await;
    breaks(&stand, Fault::Standstill, Policy::Naive, load, stale).await;
}

/// The figures of the design: 8 sessions, 5 % writes, 10 ms think time.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_reads_from_replicas_at_equal_truth() {
    let stand = stand("session", |setup| setup);
    let load = Load::new(50, Duration::from_millis(10));
    let lagging = holds(&stand, Fault::Pauses, Policy::Lagoon("session"), load, Findings::of_session).await;
    breaks(&stand, Fault::Pauses, Policy::Naive, load, |found| found.own_writes).await;
    let calm = holds(&stand, Fault::None, Policy::Lagoon("session"), load, Findings::of_session).await;
    let [lagging, calm] = [lagging, calm].map(|outcome| outcome.on_replicas.unwrap_or_default());
    assert!(lagging >= 0.94, "with lag, {:.1} %", lagging * 100.0);
    assert!(calm >= 0.99, "without, {:.1} %", calm * 100.0);
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
    note(&format!("CPU per read: {with:.2} us with routing, {without:.2} us without: {:.3}", with / without));
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

async fn holds(stand: &Stand, fault: Fault, policy: Policy, load: Load, count: Count) -> Outcome {
    let mut outcome = run(stand, fault, policy, load).await;
    // A busy machine does less in the same time.
    for _ in 1..TRIES {
        if outcome.findings.reads > ENOUGH {
            break;
        }
        outcome.add(&run(stand, fault, policy, load).await);
    }
    prove(fault, policy, &outcome, count);
    outcome
}

/// So many reads are something to check.
const ENOUGH: usize = 100;

/// Reports a run of pglagoon, which must have kept its promises.
#[track_caller]
fn prove(fault: Fault, policy: Policy, outcome: &Outcome, count: Count) {
    let Outcome { findings, failed, told, .. } = outcome;
    let (reads, broken) = (findings.reads, count(findings));
    let verdict = if broken == 0 { "held" } else { "BROKEN" };
    report(fault, policy, outcome, broken, verdict);
    assert!(reads > ENOUGH, "{fault:?}: there is something to check: {findings}");
    assert!(broken == 0, "{fault:?}: {findings}; {failed} failed, {told} told");
}

/// How often a positive control that finds nothing is tried: a rare event is no less of a proof.
const TRIES: usize = 15;

async fn breaks(stand: &Stand, fault: Fault, policy: Policy, load: Load, count: Count) {
    let mut findings = Findings::default();
    for _ in 0..TRIES {
        let outcome = run(stand, fault, policy, load).await;
        findings.add(&outcome.findings);
        if caught(fault, policy, &outcome, count) {
            return;
        }
    }
    panic!("{fault:?} did not bring {policy:?} down: {findings}");
}

/// Reports a positive control, and whether it was caught.
fn caught(fault: Fault, policy: Policy, outcome: &Outcome, count: Count) -> bool {
    let broken = count(&outcome.findings);
    let verdict = if broken > 0 { "caught" } else { "not caught" };
    report(fault, policy, outcome, broken, verdict);
    broken > 0
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
    disturbance.end(stand, fault).await;
    let [primary, replica] = [0, 1].map(|role| after[role] - before[role]);
    let on_replicas = matches!(policy, Policy::Lagoon(_)).then_some(replica / (primary + replica).max(1.0));
    Outcome { on_replicas, ..outcome }
}

async fn crashing(stand: &mut Stand, policy: Policy, load: Load) -> Outcome {
    let urls = Urls::new(stand, policy);
    let stop = Arc::new(AtomicBool::new(false));
    let working = tokio::spawn(work(urls, policy, load, Fault::Crashes, stop.clone()));
    let end = Instant::now() + load.time;
    while Instant::now() < end {
        for place in [1, 2] {
            // There is something to replay for the one that comes back.
            let ballast = "CREATE TABLE ballast AS SELECT generate_series(1, 20000); DROP TABLE ballast";
            stand.playground.primary().sql(ballast).unwrap();
            stand.playground.node_mut(place).kill().unwrap();
            stand.playground.node_mut(place).start().unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    working.await.unwrap().judged(None)
}

async fn sessions(stand: &Stand, policy: Policy, load: Load, fault: Fault) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    let working = work(Urls::new(stand, policy), policy, load, fault, stop.clone());
    let clock = async {
        tokio::time::sleep(load.time).await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(working, clock).0.judged(None)
}

/// What sessions have done, and what they were told.
#[derive(Default)]
struct Record {
    events: Vec<Event>,
    failed: usize,
    told: usize,
}

impl Record {
    fn judged(self, fork: Option<&Fork>) -> Outcome {
        let Record { events, failed, told } = self;
        Outcome { findings: check(events, BOUND, fork), on_replicas: None, failed, told }
    }
}

/// Where sessions connect to.
#[derive(Clone)]
struct Urls {
    all: Vec<String>,
    /// For those that know the servers: which one is the primary.
    primary: Arc<AtomicUsize>,
}

impl Urls {
    fn new(stand: &Stand, policy: Policy) -> Urls {
        let all = match policy {
            Policy::Lagoon(_) => vec![stand.lagoon.url(USER, DATABASE)],
            _ => stand.playground.nodes().iter().map(|node| server_url(node.port(), USER)).collect(),
        };
        Urls { all, primary: Arc::default() }
    }

    /// Those that a session has a connection to. `stays`: its replica.
    fn of(&self, policy: Policy, stays: usize) -> Vec<String> {
        let primary = || self.all[self.primary.load(Ordering::Relaxed)].clone();
        match policy {
            Policy::TokenWithoutTimeline => vec![primary()],
            // The other replica is the one that is promoted.
            Policy::ForeignReplica | Policy::StrongForeignReplica => vec![primary(), self.all[2].clone()],
            Policy::StayPastCrash => vec![self.all[0].clone(), self.all[stays].clone()],
            _ => self.all.clone(),
        }
    }
}

/// Sessions at work until they are told to stop.
async fn work(urls: Urls, policy: Policy, load: Load, fault: Fault, stop: Arc<AtomicBool>) -> Record {
    let sessions: Vec<JoinHandle<Record>> = (0..load.sessions)
        .map(|number| {
            tokio::spawn(Session::new(number, policy, load, fault, urls.clone()).live(stop.clone()))
        })
        .collect();
    let mut all = Record::default();
    for record in join_all(sessions).await.into_iter().map(Result::unwrap) {
        all.events.extend(record.events);
        all.failed += record.failed;
        all.told += record.told;
    }
    all
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// The session was told that what it had may be lost: it begins anew.
    Told,
    /// Anything else: of a write nobody knows (08007, a lost connection), or it did not happen (40001). A version that is not
    /// known to be there is not missed.
    Unanswered,
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        // 08007 is said of a write without an answer, too: of itself alone, not of what came before it.
        let is_told = |error: &DbError| {
            *error.code() == SqlState::TRANSACTION_RESOLUTION_UNKNOWN && error.message().contains("lost:")
        };
        match error.as_db_error().is_some_and(is_told) {
            true => Failure::Told,
            false => Failure::Unanswered,
        }
    }
}

type Answer<T> = Result<T, Failure>;

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
    record: Record,
    /// What pglagoon gave it, to be carried to another connection; `None` if something came after it.
    token: Option<String>,
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
            record: Record::default(),
            token: None,
            mark: 0,
            stays: 1 + number % 2,
        }
    }

    async fn live(mut self, stop: Arc<AtomicBool>) -> Record {
        while !stop.load(Ordering::Relaxed) {
            if self.clients.is_empty() && !self.connect().await {
                tokio::time::sleep(self.patience()).await;
                continue;
            }
            if let Err(failure) = self.turn().await {
                self.fail(failure);
            }
            if !self.load.think.is_zero() {
                tokio::time::sleep(self.load.think).await;
            }
        }
        self.record
    }

    /// One read or write.
    async fn turn(&mut self) -> Answer<()> {
        let kind = if self.random(1000) < self.load.writes { Kind::Write } else { Kind::Read };
        let register = match self.random(2) {
            0 if kind == Kind::Read => self.written,
            _ => self.random(REGISTERS as u64) as usize,
        };
        let invoked = Instant::now();
        let version = match kind {
            Kind::Write => self.write(register).await?,
            Kind::Read => self.read(register).await?,
        };
        let item = (register, version);
        let cause = self.seen.replace(item).filter(|_| kind == Kind::Write);
        let returned = Instant::now();
        self.record.events.push(Event { session: self.number, kind, item, cause, invoked, returned });
        if kind == Kind::Write {
            self.written = register;
        }
        self.token = None;
        if self.carries_token() {
            let token = texts(&self.clients[0], "SHOW pglagoon.causality_token").await?;
            self.token = token.into_iter().next();
        }
        Ok(())
    }

    /// A session that lost its connection is a new one: nothing is promised from the one to the other, but where it carries
    /// what it has seen.
    fn fail(&mut self, failure: Failure) {
        self.record.failed += 1;
        let is_cut = self.clients.iter().any(Client::is_closed);
        if is_cut {
            self.clients.clear();
        }
        let is_carried = self.token.is_some() || self.policy.outlasts_connections();
        if failure == Failure::Told || (is_cut && !is_carried) {
            self.begin_anew(failure);
        }
    }

    fn begin_anew(&mut self, failure: Failure) {
        self.record.told += usize::from(failure == Failure::Told);
        self.number += 1000;
        self.seen = None;
        self.token = None;
    }

    /// Half of the sessions of a failover carry a token from one connection to the next.
    fn carries_token(&self) -> bool {
        self.fault.is_failover() && matches!(self.policy, Policy::Lagoon(_)) && !self.number.is_multiple_of(2)
    }

    /// How soon it tries to connect again.
    fn patience(&self) -> Duration {
        match self.policy {
            // What a replica that crashed shows too early, it shows for some milliseconds.
            Policy::StayPastCrash => Duration::from_millis(1),
            _ => Duration::from_millis(20),
        }
    }

    async fn connect(&mut self) -> bool {
        let mut clients = Vec::new();
        for url in &self.urls.of(self.policy, self.stays) {
            let Ok((client, connection)) = tokio_postgres::connect(url, NoTls).await else { return false };
            tokio::spawn(connection);
            if self.fault == Fault::AsyncCommit && self.number.is_multiple_of(2) {
                // Half of them say so themselves; of the others only their server knows.
                let _ = client.simple_query("SET synchronous_commit = off").await;
            }
            clients.push(client);
        }
        if let Some(token) = self.token.take() {
            let carried = clients[0].simple_query(&format!("SET pglagoon.causality_token = '{token}'")).await;
            match carried.map_err(Failure::from) {
                Ok(_) => {}
                Err(Failure::Told) => self.begin_anew(Failure::Told),
                Err(Failure::Unanswered) => {
                    self.token = Some(token);
                    return false;
                }
            }
        }
        self.clients = clients;
        true
    }

    async fn write(&mut self, register: usize) -> Answer<Version> {
        let (dk, dv) = self.seen.map_or(("NULL".to_owned(), "NULL".to_owned()), |(key, version)| {
            (key.to_string(), version.to_string())
        });
        let sql = format!(
            "UPDATE register SET v = greatest(v, {TIMELINE} << 32) + 1, dk = {dk}, dv = {dv} \
             WHERE k = {register} RETURNING v"
        );
        if self.policy == Policy::EitherPrimary {
            let place = self.some_primary().await?;
            return number(&self.clients[place], &sql).await;
        }
        let primary = &self.clients[0];
        match self.policy {
            Policy::WriteLsn => {
                let version = number(primary, &sql).await?;
                self.mark = position(primary, WRITTEN).await?;
                Ok(version)
            }
            Policy::LsnBeforeCommit => {
                // What follows in the string keeps the commit waiting, while other sessions write on.
                let sql = format!("{sql}; SELECT pg_current_wal_insert_lsn(); SELECT pg_sleep(0.005)");
                let rows = texts(primary, &sql).await?;
                self.mark = rows.get(1).and_then(|text| parsed(text)).ok_or(Failure::Unanswered)?;
                rows.first().and_then(|text| text.parse().ok()).ok_or(Failure::Unanswered)
            }
            Policy::TokenWithoutTimeline => {
                self.reached_alone().await?;
                let version = number(primary, &sql).await?;
                self.mark = position(primary, INSERTED).await?;
                Ok(version)
            }
            Policy::PolledMark | Policy::ReceivedLsn | Policy::OneCaughtUp | Policy::ForeignReplica => {
                let version = number(primary, &sql).await?;
                self.mark = position(primary, INSERTED).await?;
                Ok(version)
            }
            _ => number(primary, &sql).await,
        }
    }

    async fn read(&mut self, register: usize) -> Answer<Version> {
        let sql = format!("SELECT v FROM register WHERE k = {register}");
        match self.policy {
            Policy::Lagoon(_) => match self.random(2) {
                0 => number(&self.clients[0], &sql).await,
                _ => bound(&self.clients[0], register).await,
            },
            Policy::Naive | Policy::Halves => {
                let replica = 1 + self.random(2) as usize;
                number(&self.clients[replica], &sql).await
            }
            Policy::WriteLsn | Policy::LsnBeforeCommit => {
                let replica = 1 + self.random(2) as usize;
                self.read_if(replica, REPLAYED, &sql).await
            }
            Policy::StrongWriteLsn => {
                let replica = 1 + self.random(2) as usize;
                self.mark = position(&self.clients[0], WRITTEN).await?;
                self.read_if(replica, REPLAYED, &sql).await
            }
            Policy::ReceivedLsn => {
                let replica = 1 + self.random(2) as usize;
                self.read_if(replica, RECEIVED, &sql).await
            }
            Policy::OneCaughtUp => {
                let replica = 1 + self.random(2) as usize;
                if position(&self.clients[replica], REPLAYED).await? < self.mark {
                    return number(&self.clients[0], &sql).await;
                }
                self.mark = 0;
                number(&self.clients[replica], &sql).await
            }
            Policy::StayPastCrash => number(&self.clients[1], &sql).await,
            Policy::TokenWithoutTimeline => {
                self.reached_alone().await?;
                let version = number(&self.clients[0], &sql).await?;
                self.mark = position(&self.clients[0], INSERTED).await?;
                Ok(version)
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
            Policy::ForeignReplica => self.read_if(1, REPLAYED, &sql).await,
            Policy::StrongForeignReplica => {
                self.mark = position(&self.clients[0], INSERTED).await?;
                self.read_if(1, REPLAYED, &sql).await
            }
            Policy::EitherPrimary => {
                let place = self.some_primary().await?;
                number(&self.clients[place], &sql).await
            }
            Policy::NoBarrier => {
                let place = if self.random(5) == 0 { 0 } else { self.stays };
                number(&self.clients[place], &sql).await
            }
        }
    }

    /// Reads on a replica that has come to the mark by what `asked` says of it, else on the primary.
    async fn read_if(&self, replica: usize, asked: &str, sql: &str) -> Answer<Version> {
        let reached = position(&self.clients[replica], asked).await? >= self.mark;
        number(&self.clients[if reached { replica } else { 0 }], sql).await
    }

    /// A server that is not in recovery, by its own account: at random, if there are several.
    async fn some_primary(&mut self) -> Answer<usize> {
        let first = self.random(self.clients.len() as u64) as usize;
        for place in (first..self.clients.len()).chain(0..first) {
            let is_primary = texts(&self.clients[place], "SELECT NOT pg_is_in_recovery()").await?;
            if is_primary == ["t"] {
                return Ok(place);
            }
        }
        Err(Failure::Unanswered)
    }

    /// The only server that is known must have come to the mark.
    async fn reached_alone(&self) -> Answer<()> {
        match position(&self.clients[0], INSERTED).await? < self.mark {
            true => Err(Failure::Unanswered),
            false => Ok(()),
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
const RECEIVED: &str = "SELECT pg_last_wal_receive_lsn()";
const INSERTED: &str = "SELECT pg_current_wal_insert_lsn()";
const WRITTEN: &str = "SELECT pg_current_wal_lsn()";

/// The primary's timeline, as a number.
const TIMELINE: &str = "('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint";

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
            Fault::Promotion | Fault::LossyPromotion | Fault::TwoPrimaries => {}
            Fault::Standstill => {
                stand.playground.replicas().iter().for_each(|node| node.pause_replay().unwrap())
            }
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

    async fn end(self, stand: &Stand, fault: Fault) {
        if fault == Fault::Standstill {
            stand.playground.replicas().iter().for_each(|node| node.resume_replay().unwrap());
        }
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

async fn texts(client: &Client, sql: &str) -> Answer<Vec<String>> {
    let messages = client.simple_query(sql).await?;
    let values = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(values.collect())
}

async fn number(client: &Client, sql: &str) -> Answer<Version> {
    texts(client, sql).await?.first().and_then(|text| text.parse().ok()).ok_or(Failure::Unanswered)
}

async fn bound(client: &Client, register: usize) -> Answer<Version> {
    let key = register as i32;
    let row = client.query_one("SELECT v FROM register WHERE k = $1", &[&key]).await?;
    Version::try_from(row.get::<_, i64>(0)).map_err(|_| Failure::Unanswered)
}

async fn position(client: &Client, sql: &str) -> Answer<u64> {
    texts(client, sql).await?.first().and_then(|text| parsed(text)).ok_or(Failure::Unanswered)
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
fn report(fault: Fault, policy: Policy, outcome: &Outcome, broken: usize, verdict: &str) {
    let Outcome { findings, on_replicas, failed, told } = outcome;
    // Nothing in n tries: less than 3/n, with 95 % confidence.
    let bound = match broken {
        0 => format!("< {:.1e}", 3.0 / findings.reads.max(1) as f64),
        _ => String::new(),
    };
    let share = on_replicas.map_or(String::new(), |share| format!("{:.1} %", share * 100.0));
    let (fault, policy) = (fault.words(), policy.words());
    let Findings { reads, writes, lost, .. } = findings;
    let counts = format!("{reads} | {writes} | {lost} | {told} | {failed} | {share} | {broken}");
    note(&format!("| {fault} | {policy} | {counts} | {bound} | {verdict} |"));
}

fn note(line: &str) {
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("PGLAGOON_PROVE_REPORT") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}
