//! Patroni says who is the leader: a stand-in for its REST API beside each of three real servers.
//!
//! The stand-in answers as `RestApiHandler` in Patroni's `patroni/api.py` does (of version 4): HTTP/1.0, a status, headers
//! without a length, a JSON document, the end of the connection. What a real one finds out about itself (its lock, its
//! tags, how far it is behind by the account of the store) a test tells it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use pglagoon::cli::playground::{Playground, Stop, free_port};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tokio_postgres::Client;

use crate::certificates::Authority;
use crate::harness::{
    Lagoon, Setup, Stand, assert_primary, assert_replicas, eventually, eventually_async, installations,
    options, quote, rows, table, value,
};

/// What a member of a Patroni cluster knows of itself.
#[derive(Clone)]
struct Member {
    role: Role,
    lock: Lock,
    is_excluded: bool,
    lag: u64,
    manner: Manner,
}

/// What PostgreSQL says of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Primary,
    Replica,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lock {
    Held,
    NotHeld,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Prompt,
    /// It takes connections, and never answers.
    Hung,
    /// It knows none of the paths.
    Strange,
}

impl Member {
    fn leader() -> Member {
        Member { role: Role::Primary, lock: Lock::Held, is_excluded: false, lag: 0, manner: Manner::Prompt }
    }

    fn replica() -> Member {
        Member { role: Role::Replica, lock: Lock::NotHeld, ..Member::leader() }
    }

    fn status(&self, target: &str) -> u16 {
        if self.manner == Manner::Strange {
            return 404;
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let most =
            query.strip_prefix("lag=").map_or(u64::MAX, |bytes| bytes.parse().expect("a number of bytes"));
        let is_so = match path {
            "/primary" => self.lock == Lock::Held,
            "/replica" => self.role == Role::Replica && !self.is_excluded && self.lag <= most,
            other => panic!("pglagoon asks for {other}"),
        };
        if is_so { 200 } else { 503 }
    }

    fn document(&self) -> String {
        let (role, xlog) = match self.role {
            Role::Primary => ("primary", r#"{"location": 67419584}"#),
            Role::Replica => (
                "replica",
                r#"{"received_location": 67419584, "replayed_location": 67419584, "paused": false}"#,
            ),
        };
        let tags = if self.is_excluded { r#""tags": {"noloadbalance": true}, "# } else { "" };
        format!(
            r#"{{"state": "running", "postmaster_start_time": "2026-11-22 08:00:00.000000+00:00", "role": "{role}", "server_version": 150018, "xlog": {xlog}, "timeline": 1, "dcs_last_seen": 1795334400, {tags}"database_system_identifier": "7268616322854375442", "patroni": {{"version": "4.0.4", "scope": "demo", "name": "patroni1"}}}}"#
        )
    }
}

/// One Patroni's REST API.
struct Api {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    member: Mutex<Member>,
    changed: Condvar,
    requests: AtomicUsize,
    tls: Option<Arc<ServerConfig>>,
    /// Whether it listens.
    is_up: Mutex<bool>,
}

impl Api {
    fn start(member: Member) -> Api {
        Api::start_with(None, member)
    }

    fn start_with(tls: Option<Arc<ServerConfig>>, member: Member) -> Api {
        let shared = Shared {
            member: Mutex::new(member),
            changed: Condvar::new(),
            requests: AtomicUsize::new(0),
            tls,
            is_up: Mutex::new(false),
        };
        let mut api = Api { port: free_port().unwrap(), shared: Arc::new(shared), thread: None };
        api.listen();
        api
    }

    fn listen(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).expect("a free port");
        let shared = self.shared.clone();
        *shared.is_up.lock().unwrap() = true;
        self.thread = Some(std::thread::spawn(move || {
            for stream in listener.incoming() {
                if !*shared.is_up.lock().unwrap() {
                    return;
                }
                let shared = shared.clone();
                // Who asks may have gone away.
                std::thread::spawn(move || drop(shared.meet(stream.expect("a connection"))));
            }
        }));
    }

    /// Nobody listens there any more.
    fn stop(&mut self) {
        *self.shared.is_up.lock().unwrap() = false;
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        self.thread.take().expect("it listens").join().expect("it ends");
    }

    fn set(&self, change: impl FnOnce(&mut Member)) {
        change(&mut self.shared.member.lock().unwrap());
        self.shared.changed.notify_all();
    }

    /// Requests so far.
    fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }

    fn url(&self) -> String {
        match self.shared.tls {
            None => quote(&format!("http://127.0.0.1:{}", self.port)),
            Some(_) => quote(&format!("https://localhost:{}", self.port)),
        }
    }
}

impl Shared {
    fn meet(&self, socket: TcpStream) -> std::io::Result<()> {
        match &self.tls {
            None => self.answer(socket),
            Some(tls) => {
                let connection = ServerConnection::new(tls.clone()).expect("a sound configuration");
                self.answer(StreamOwned::new(connection, socket))
            }
        }
    }

    fn answer(&self, stream: impl Read + Write) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut lines = stream.by_ref().lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        let target = request.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()).expect("GET");
        self.requests.fetch_add(1, Ordering::Relaxed);
        let member = self.member.lock().unwrap();
        let member = self.changed.wait_while(member, |member| member.manner == Manner::Hung).unwrap().clone();
        let status = member.status(target);
        let phrase = match status {
            200 => "OK",
            404 => "Not Found",
            _ => "Service Unavailable",
        };
        let document = member.document();
        write!(
            stream.get_mut(),
            "HTTP/1.0 {status} {phrase}\r\nServer: BaseHTTP/0.6 Python/3.11.2\r\n\
             Date: Sun, 22 Nov 2026 08:00:00 GMT\r\nContent-Type: application/json\r\n\r\n{document}"
        )
    }
}

/// A world with a Patroni beside each server.
fn stand(adjust: impl FnOnce(Setup) -> Setup) -> (Stand, [Api; 3]) {
    let apis = [Member::leader(), Member::replica(), Member::replica()].map(Api::start);
    let urls = apis.each_ref().map(Api::url).join(", ");
    let stand = Stand::new(|setup| {
        // What a promotion may have lost is another test's matter.
        let setup = setup.set("routing", "on_lost_write", quote("reset"));
        adjust(setup.set("databases.app", "patroni", format!("[{urls}]")).set(
            "monitor",
            "timeout",
            quote("500ms"),
        ))
    });
    (stand, apis)
}

/// How each server stands: `healthy`, `lagging`, `down`; and why.
async fn standings(console: &Client) -> Vec<(String, String)> {
    let nodes = table(console, "SHOW NODES").await;
    nodes.into_iter().map(|mut node| (node.remove("health").unwrap(), node.remove("why").unwrap())).collect()
}

/// Waits until a server stands so, with a reason that contains this.
async fn until(console: &Client, place: usize, health: &str, why: &str) {
    eventually_async(&format!("server {place} is {health} ({why})"), async || {
        let (is, because) = standings(console).await.swap_remove(place);
        is == health && because.contains(why)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_primary_without_the_lock_gets_no_write_and_the_new_leader_all() {
    const INTERVAL: Duration = Duration::from_secs(4);
    let (stand, mut apis) = stand(|setup| setup.set("monitor", "interval", quote("4s")));
    let (client, console) = (stand.client().await, stand.lagoon.console().await);
    assert_eq!(value(&client, "SELECT note('first') /* first */").await, "first");
    assert_primary(&stand, "/* first */", 1);
    value(&client, "SELECT count(*) FROM numbers /* spread */").await;

    // The lock is lost. The old primary has not heard of it, and takes writes from whoever comes.
    stand.playground.wait_caught_up().unwrap();
    apis[0].set(|member| member.lock = Lock::NotHeld);
    until(&console, 0, "down", "Patroni says that it is not the leader, but primary, running").await;
    assert_eq!(
        stand.playground.primary().sql("CREATE TABLE unfenced (); SELECT pg_is_in_recovery()").unwrap(),
        "f\n"
    );
    let held = tokio::spawn(async move { value(&client, "SELECT note('held') /* held */").await });

    // Its Patroni dies with its lease: it stays fenced.
    apis[0].stop();
    eventually("Patroni's silence is told", || stand.lagoon.log().contains("Patroni does not answer"));
    until(&console, 0, "down", "Patroni says that it is not the leader").await;
    assert!(!held.is_finished());

    // Promoted, but not by Patroni.
    stand.playground.nodes()[1].promote().unwrap();
    until(&console, 1, "down", "Patroni says that it is not the leader, but a replica").await;
    assert!(!held.is_finished());

    apis[1].set(|member| (member.role, member.lock) = (Role::Primary, Lock::Held));
    let elected = Instant::now();
    assert_eq!(held.await.unwrap(), "held");
    // Without a primary nobody waits for the interval.
    assert!(elected.elapsed() < INTERVAL, "{:?}", elected.elapsed());
    assert_eq!(stand.ran_on("/* held */"), [0, 1, 0]);
    until(&console, 1, "healthy", "").await;
    // What follows the old one shows another history.
    until(&console, 2, "lagging", "on timeline 1; the primary is on 2").await;

    apis[0].listen();
    eventually("Patroni's return is told", || stand.lagoon.log().contains("Patroni answers again"));
    let client = stand.client().await;
    for _ in 0..20 {
        value(&client, "SELECT note('later') /* later */").await;
    }
    assert_eq!(stand.ran_on("/* later */"), [0, 20, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_serves_reads_only_if_its_patroni_lets_it() {
    let (stand, apis) = stand(|setup| {
        setup
            .set("databases.app", "patroni_lag", quote("1MiB"))
            .set("routing", "consistency", quote("eventual"))
            .set("routing", "slow_start", quote("off"))
            .set("routing", "balance", quote("round_robin"))
    });
    let (client, console) = (stand.client().await, stand.lagoon.console().await);
    let read = async |mark: &str| {
        for _ in 0..10 {
            value(&client, &format!("SELECT count(*) FROM numbers /* {mark} */")).await;
        }
    };
    read("both").await;
    assert_replicas(&stand, "/* both */", 10);
    assert!(stand.ran_on("/* both */")[1..].iter().all(|count| *count > 0));

    apis[1].set(|member| member.is_excluded = true);
    until(&console, 1, "lagging", "no replica to read from, but replica, running, noloadbalance").await;
    read("one").await;
    assert_eq!(stand.ran_on("/* one */"), [0, 0, 10]);

    // Patroni's own account of how far it is behind: just so, and further.
    apis[2].set(|member| member.lag = 1 << 20);
    let before = apis[2].requests();
    eventually("it has been asked again", || apis[2].requests() >= before + 4);
    read("just").await;
    assert_eq!(stand.ran_on("/* just */"), [0, 0, 10]);
    apis[2].set(|member| member.lag += 1);
    until(&console, 2, "lagging", "no replica to read from, but replica, running").await;
    read("none").await;
    assert_eq!(stand.ran_on("/* none */"), [10, 0, 0]);

    apis[1].set(|member| member.is_excluded = false);
    until(&console, 1, "healthy", "").await;
    read("again").await;
    assert_eq!(stand.ran_on("/* again */"), [0, 10, 0]);
}

/// Without Patroni's word, what a server says of itself counts: also that it has been promoted.
#[tokio::test(flavor = "multi_thread")]
async fn servers_are_used_and_followed_while_no_patroni_answers() {
    let (mut stand, mut apis) = stand(|setup| setup);
    // Three ways not to answer: nobody is there, nobody speaks, and what is said is no answer.
    apis[0].stop();
    apis[1].set(|member| member.manner = Manner::Hung);
    apis[2].set(|member| member.manner = Manner::Strange);
    let silent = |why: &str| {
        let log = stand.lagoon.log();
        log.lines().any(|line| line.contains("Patroni does not answer") && line.contains(why))
    };
    for why in ["refused", "no answer within 500ms", "HTTP status 404 to /"] {
        eventually(why, || silent(why));
    }
    let client = stand.client().await;
    assert_eq!(value(&client, "SELECT note('on') /* on */").await, "on");
    assert_primary(&stand, "/* on */", 1);

    stand.playground.wait_caught_up().unwrap();
    stand.playground.node_mut(0).stop(Stop::Immediate).unwrap();
    stand.playground.nodes()[1].promote().unwrap();
    let began = Instant::now();
    assert_eq!(value(&client, "SELECT note('over') /* over */").await, "over");
    // The probe that finds it waits for its hung Patroni, and not longer than it may; the rest is for a slow machine.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(
        std::fs::read_to_string(stand.playground.nodes()[1].log_path())
            .unwrap()
            .matches("/* over */")
            .count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn patroni_is_believed_over_tls_if_it_is_who_it_says() {
    let playground = Playground::start(&options(&installations()[0])).unwrap();
    let (known, stranger) = (Authority::new("known"), Authority::new("stranger"));
    let serve = |authority: &Authority, host: &str| Some(authority.sign(&[host], "patroni").serve(&known));
    let leader = Api::start_with(serve(&known, "localhost"), Member::leader());
    let other = Api::start_with(serve(&known, "elsewhere"), Member::replica());
    let liar =
        Api::start_with(serve(&stranger, "localhost"), Member { is_excluded: true, ..Member::replica() });
    let urls = [&leader, &other, &liar].map(Api::url).join(", ");
    let (certificate, key) = known.sign(&[], "pglagoon").write(playground.folder(), "patroni");
    let path = |path: &std::path::Path| quote(&path.display().to_string());
    let setup = Setup::before(&playground)
        .set("databases.app", "patroni", format!("[{urls}]"))
        .set("databases.app", "patroni_tls_ca", path(&known.write(playground.folder(), "patroni-ca")))
        .set("databases.app", "patroni_tls_cert", path(&certificate))
        .set("databases.app", "patroni_tls_key", path(&key));
    let lagoon = Lagoon::start(&playground, setup);
    let console = lagoon.console().await;
    let silent = |api: &Api, why: &str| {
        let place = format!("patroni=https://localhost:{}", api.port);
        lagoon.log().lines().any(|line| {
            line.contains("Patroni does not answer") && line.contains(&place) && line.contains(why)
        })
    };
    eventually("one has a certificate for somebody else", || silent(&other, "not valid for name"));
    eventually("one has a stranger's certificate", || silent(&liar, "UnknownIssuer"));
    assert_eq!((other.requests(), liar.requests()), (0, 0));
    until(&console, 2, "healthy", "").await;
    until(&console, 0, "healthy", "").await;
    leader.set(|member| member.lock = Lock::NotHeld);
    until(&console, 0, "down", "Patroni says that it is not the leader, but primary, running").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_fenced_at_the_start_is_never_primary_and_a_reload_ends_it() {
    let playground = Playground::start(&options(&installations()[0])).unwrap();
    let apis = [Member { lock: Lock::NotHeld, ..Member::leader() }, Member::replica(), Member::replica()]
        .map(Api::start);
    let urls = apis.each_ref().map(Api::url).join(", ");
    let setup = Setup::before(&playground).set("databases.app", "patroni", format!("[{urls}]"));
    let mut lagoon = Lagoon::start_unready(&playground, setup);
    let console = lagoon.console().await;
    until(&console, 0, "down", "Patroni says that it is not the leader").await;
    assert!(!lagoon.log().contains("to=Primary"), "{}", lagoon.log());

    lagoon.reconfigure(|setup| setup.unset("databases.app", "patroni"));
    rows(&console, "RELOAD").await;
    until(&console, 0, "healthy", "").await;
    let before = apis[0].requests();
    value(&lagoon.client().await, "CREATE TABLE t AS SELECT 1 AS i; SELECT count(*) FROM t").await;
    // At most what was under way.
    assert!(apis[0].requests() <= before + 2);
}
