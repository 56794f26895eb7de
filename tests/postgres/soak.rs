//! Mixed clients that end at every point of the protocol, while servers and clients are killed at random; afterwards
//! everything is back where it was. Twenty seconds, or as many as `PGLAGOON_SOAK` says: `make soak`.

// What the long form has done is of interest.
#![allow(clippy::print_stderr)]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Setup, Stand, eventually, quote};
use crate::raw::{
    Message, Raw, V3_0, bind, cancel_request, close_statement, copy_data, copy_done, copy_fail,
    describe_portal, describe_statement, execute, flush, parse, query, startup, sync, terminate,
};
use pglagoon::cli::playground::{DATABASE, USER};

/// Clients at once: more than there are server connections.
const CLIENTS: u64 = 12;

/// How much memory may have grown from the first quarter of the time to its end.
const MAX_GROWTH: u64 = 24 * 1024 * 1024;

/// Prepared statements that a server connection may hold.
const STATEMENTS: usize = 20;

pub fn seconds() -> u64 {
    std::env::var("PGLAGOON_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

fn setup(setup: Setup) -> Setup {
    setup
        .set("auth", "method", quote("trust"))
        .set("pool", "size", "3")
        .set("pool", "prepared_statements", STATEMENTS.to_string())
        .set("log", "filter", quote("pglagoon=info"))
}

/// splitmix64: a failure names its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// Something whole that a client may say, and that is answered with one ReadyForQuery.
fn conversation(random: &mut Random) -> Vec<u8> {
    const SQL: [&str; 16] = [
        "SELECT i, word FROM numbers WHERE i < 200",
        "SELECT repeat('x', 1000) FROM numbers",
        "INSERT INTO notes (word) VALUES ('soak')",
        "SELECT pg_sleep(0.02)",
        "BEGIN",
        "BEGIN READ ONLY",
        "COMMIT",
        "ROLLBACK",
        "SELECT 1/0",
        "SET work_mem = '5MB'",
        "CREATE TEMP TABLE IF NOT EXISTS soaked (a int)",
        "SELECT pg_advisory_lock(1 + random()::int)",
        "LISTEN soak",
        "NOTIFY soak, 'note'",
        "DISCARD ALL",
        "SELECT 1; INSERT INTO notes (word) VALUES ('two'); SELECT 2",
    ];
    let name = format!("s{}", random.below(30));
    match random.below(10) {
        0..=4 => query(SQL[random.below(SQL.len())]),
        5 => {
            let text = format!("SELECT i + {} FROM numbers WHERE i < 50", random.below(1000));
            [parse(&name, &text), describe_statement(&name), bind("", &name, &[]), execute("", 0), sync()]
                .concat()
        }
        6 => [bind("", &name, &[]), execute("", 5), flush(), execute("", 0), sync()].concat(),
        7 => [
            close_statement(&name),
            parse("", SQL[random.below(5)]),
            bind("", "", &[]),
            describe_portal(""),
            execute("", 0),
            sync(),
        ]
        .concat(),
        8 => {
            let end = if random.below(2) == 0 { copy_done() } else { copy_fail("enough") };
            [query("COPY notes (word) FROM STDIN"), copy_data(b"copied\n").repeat(50), end].concat()
        }
        _ => query("COPY numbers TO STDOUT"),
    }
}

/// One client's life. Answers whether it was let in.
fn live(port: u16, random: &mut Random) -> bool {
    let mut client = Raw::connect(port);
    client.send(&startup(V3_0, &[("user", USER), ("database", DATABASE)]));
    if client.until_ready_or_end().last().is_none_or(|last: &Message| last.tag != 'Z') {
        return false;
    }
    for _ in 0..random.below(8) {
        // Told to leave, it leaves.
        if client.try_send(&conversation(random)).is_err()
            || client.until_ready_or_end().last().is_none_or(|last| last.tag != 'Z')
        {
            return true;
        }
    }
    let pipeline: Vec<u8> = (0..1 + random.below(3)).flat_map(|_| conversation(random)).collect();
    let part = if random.below(2) == 0 { pipeline.len() } else { random.below(pipeline.len()) };
    let _ = client.try_send(&pipeline[..part]);
    match random.below(5) {
        0 => drop(client.try_send(&terminate())),
        1 => drop(client.try_send(&pipeline[part..])),
        2 => {
            let (pid, secret) = client.key.clone().expect("a key");
            Raw::connect(port).send(&cancel_request(pid, &secret));
        }
        3 if part == pipeline.len() => drop(client.until_ready_or_end()),
        _ => {}
    }
    client.vanish();
    true
}

/// Ends server connections of every kind, at random.
fn kill_some(stand: &Stand, random: &mut Random) {
    let nodes = stand.playground.nodes();
    let victims = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity \
                   WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 2) _";
    let _ = nodes[random.below(nodes.len())].sql(victims);
}

fn metric(stand: &Stand, name: &str) -> f64 {
    let metrics = stand.lagoon.http("/metrics").map(|answer| answer.body).unwrap_or_default();
    let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    metrics.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// The connections of one server, a line each, for people to read.
fn connections(stand: &Stand, place: usize) -> String {
    let all = "SELECT pid, usename, application_name, state, backend_start, state_change, query FROM pg_stat_activity \
               WHERE backend_type = 'client backend'";
    stand.playground.nodes()[place].sql(all).unwrap_or_else(|error| error.to_string())
}

#[test]
fn everything_is_back_at_its_baseline_after_mixed_clients_and_random_kills() {
    let stand = Stand::new(setup);
    let (time, begun) = (Duration::from_secs(seconds()), Instant::now());
    let (is_over, lives, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let mut early = 0;
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (is_over, lives, refused, port) = (&is_over, &lives, &refused, stand.lagoon.port);
            scope.spawn(move || {
                let mut random = Random(number);
                while !is_over.load(Ordering::Relaxed) {
                    let count = if live(port, &mut random) { lives } else { refused };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut random = Random(CLIENTS);
        while begun.elapsed() < time {
            thread::sleep(Duration::from_millis(200));
            kill_some(&stand, &mut random);
            if early == 0 && begun.elapsed() > time / 4 {
                early = stand.lagoon.memory();
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let (lives, refused) = (lives.into_inner(), refused.into_inner());
    eprintln!("{lives} clients, {refused} were not let in, {early} bytes after a quarter of the time");
    assert!(lives > 100 && refused < lives / 10, "{lives} lives, {refused} refused");
    for name in [
        "pglagoon_clients",
        "pglagoon_clients_logging_in",
        "pglagoon_pool_clients",
        "pglagoon_pool_in_use",
        "pglagoon_pool_waiting",
        "pglagoon_pool_resetting",
        "pglagoon_pool_connecting",
        "pglagoon_pinned_clients",
        "pglagoon_listeners",
        "pglagoon_replication_connections",
    ] {
        eventually(&format!("{name} is 0"), || metric(&stand, name) == 0.0);
    }
    for place in 0..3 {
        eventually(
            &format!("no server connection too many; there are {}", connections(&stand, place)),
            || stand.backends(place, "true") <= 3,
        );
        eventually("none is in the midst of something", || stand.backends(place, "state <> 'idle'") == 0);
    }
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    assert_eq!(stand.playground.primary().sql(locks).unwrap().trim(), "0");
    let mut client = Raw::login(stand.lagoon.port);
    let statements = client.query("SELECT count(*) FROM pg_prepared_statements /* pglagoon: primary */");
    let count: usize = crate::raw::first_column(&statements)[0].parse().unwrap();
    assert!(count <= STATEMENTS, "{count} prepared statements");
    let late = stand.lagoon.memory();
    assert!(late < early + MAX_GROWTH, "{early} bytes after a quarter of the time, {late} at its end");
}
