//! Servers that hang: they accept connections, and answer nothing.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Setup, Stand, eventually, eventually_async, quote, table};
use crate::raw::{Message, Raw, V3_0, bind, execute, first_column, parse, query, sync};
use pglagoon::cli::playground::{DATABASE, SUPERUSER};

fn hasty(setup: Setup) -> Setup {
    setup
        .set("auth", "method", quote("trust"))
        .set("monitor", "timeout", quote("300ms"))
        .set("pool", "size", "10")
}

fn codes(answer: &[Message]) -> Vec<String> {
    answer.iter().filter(|message| message.tag == 'E').map(Message::code).collect()
}

/// Ends a server's sleep when the test is over, however it ends.
struct Frozen<'a>(&'a Stand, usize);

impl<'a> Frozen<'a> {
    fn new(stand: &'a Stand, place: usize) -> Self {
        stand.playground.nodes()[place].freeze().unwrap();
        Frozen(stand, place)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = self.0.playground.nodes()[self.1].thaw();
    }
}

#[test]
fn reads_on_a_replica_that_hangs_run_again_elsewhere_long_before_it_is_given_up() {
    let stand = Stand::new(|setup| {
        hasty(setup).set("routing", "consistency", quote("eventual")).set(
            "monitor",
            "dead_after",
            quote("1h"),
        )
    });
    let slow = "SELECT 'seen', pg_sleep(2)";
    let run = [parse("", slow), bind("", "", &[]), execute("", 0), sync()].concat();
    let simple = query(slow);
    let mut clients: Vec<Raw> = (0..8).map(|_| Raw::login(stand.lagoon.port)).collect();
    for (place, client) in clients.iter_mut().enumerate() {
        client.send(if place % 2 == 0 { &run } else { &simple });
    }
    let lasted = freeze_under(&stand, &mut clients);
    assert!(lasted < Duration::from_secs(15), "{lasted:?}");
    let rescued = stand.lagoon.http("/metrics").unwrap().body;
    let lost = rescued
        .lines()
        .find(|line| line.starts_with("pglagoon_rescued_queries_total") && line.contains("lost"));
    assert!(lost.is_some_and(|line| !line.ends_with(" 0")), "{lost:?}");
}

/// Freezes a replica while these read from both, and sees every one of them answered all the same. Answers how long that took.
fn freeze_under(stand: &Stand, clients: &mut [Raw]) -> Duration {
    eventually("the replicas read", || {
        (1..3).all(|place| stand.backends(place, "wait_event = 'PgSleep'") > 0)
    });
    let began = Instant::now();
    let _frozen = Frozen::new(stand, 1);
    for client in clients {
        let answer = client.until_ready();
        assert_eq!((codes(&answer), first_column(&answer)), (vec![], vec!["seen".to_owned()]), "{answer:?}");
    }
    began.elapsed()
}

/// With the monitor as it is by default, where two probes alone take four seconds.
#[test]
fn a_replica_that_says_nothing_to_anybody_is_given_up_before_its_second_probe() {
    let stand = Stand::new(|setup| {
        hasty(setup).unset("monitor", "interval").unset("monitor", "timeout").set(
            "routing",
            "consistency",
            quote("eventual"),
        )
    });
    let mut clients: Vec<Raw> = (0..8).map(|_| Raw::login(stand.lagoon.port)).collect();
    clients.iter_mut().for_each(|client| client.send(&query("SELECT 'seen', pg_sleep(1)")));
    let lasted = freeze_under(&stand, &mut clients);
    // What runs again sleeps again.
    let pause = lasted.saturating_sub(Duration::from_secs(1));
    assert!(pause < Duration::from_millis(3500), "{pause:?}");
    assert!(stand.lagoon.log().contains("has said nothing for a second"), "{}", stand.lagoon.log());
}

/// What a replica has shown, the primary shall show, and only the replica knows what it was: nobody waits for it to say so.
#[test]
fn who_has_read_from_a_replica_that_hangs_goes_to_the_primary_when_it_is_given_up() {
    let stand = Stand::new(|setup| {
        hasty(setup).set("monitor", "timeout", quote("10s")).set("routing", "max_wait", quote("100ms"))
    });
    let mut clients: Vec<Raw> = (0..4).map(|_| Raw::login(stand.lagoon.port)).collect();
    eventually("one of them reads there", || {
        for client in &mut clients {
            client.query("SELECT i FROM numbers WHERE i = 1 /* reader */");
        }
        stand.ran_on("reader")[1] > 0
    });
    let _frozen = Frozen::new(&stand, 1);
    let began = Instant::now();
    for client in &mut clients {
        client.send(&query("SELECT note('written')"));
    }
    for client in &mut clients {
        assert_eq!(first_column(&client.until_ready()), ["written"]);
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

/// What it is to be slow: the probe is not answered, clients are.
#[test]
fn a_replica_that_answers_its_clients_is_not_given_up_for_a_probe() {
    let stand = Stand::new(|setup| {
        hasty(setup).unset("monitor", "timeout").set("routing", "consistency", quote("eventual"))
    });
    let probers = || {
        let probing = "application_name = 'pglagoon monitor' AND query LIKE '%pg_control_system%'";
        let sql = format!("SELECT pid FROM pg_stat_activity WHERE {probing} AND pid <> pg_backend_pid()");
        stand.playground.nodes()[1].sql(&sql).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut client = Raw::login(stand.lagoon.port);
    eventually("it is probed", || probers().len() == 1);
    let first = probers().remove(0);
    let signal = |name: &str| Command::new("kill").args([name, &first]).status().unwrap();
    assert!(signal("-STOP").success());
    eventually("it is probed over another connection", || {
        for _ in 0..20 {
            assert_eq!(codes(&client.query("SELECT 1 /* alive */")), [""; 0]);
        }
        probers().len() == 2
    });
    signal("-CONT");
    assert!(!stand.lagoon.log().contains("to=Down"), "{}", stand.lagoon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_on_a_primary_that_hangs_ends_as_by_its_death_and_not_before_its_time() {
    let stand = Stand::new(|setup| hasty(setup).set("monitor", "dead_after", quote("3s")));
    let mut clients: Vec<Raw> = (0..4).map(|_| Raw::login(stand.lagoon.port)).collect();
    for client in &mut clients {
        client.query("BEGIN");
        assert_eq!(codes(&client.query("INSERT INTO notes (word) VALUES ('block')")), [""; 0]);
    }
    // There is a connection for the fourth, too.
    clients[3].query("COMMIT");
    let frozen = Frozen::new(&stand, 0);
    let began = Instant::now();
    let requests = ["SELECT 1", "COMMIT", "SELECT 1", "INSERT INTO notes (word) VALUES ('alone')"];
    // The third is idle in its transaction.
    for place in [0, 1, 3] {
        clients[place].send(&query(requests[place]));
    }
    for (place, expected) in [(0, ("40001", 'E')), (1, ("08007", 'I')), (3, ("08007", 'I'))] {
        let answer = clients[place].until_ready();
        assert_eq!((codes(&answer), answer.last().unwrap().status()), (vec![expected.0.into()], expected.1));
        assert!(began.elapsed() >= Duration::from_millis(2500), "{:?}", began.elapsed());
    }
    let answer = clients[2].query(requests[2]);
    assert_eq!((codes(&answer), answer.last().unwrap().status()), (vec!["40001".into()], 'E'));
    let console = stand.lagoon.console().await;
    eventually_async("no connection is kept", async || {
        let servers = table(&console, "SHOW SERVERS").await;
        let primary = stand.playground.primary().port().to_string();
        servers.iter().all(|server| server["port"] != primary)
    })
    .await;
    drop(frozen);
    for client in &mut clients {
        if client.query("ROLLBACK").last().unwrap().status() == 'I' {
            assert_eq!(first_column(&client.query("SELECT note('after')")), ["after"]);
        }
    }
    // Nothing was sent a second time.
    eventually("what was sent is dealt with", || stand.backends(0, "state = 'active'") == 0);
    let alone = "SELECT count(*) FROM notes WHERE word = 'alone'";
    let count: u32 = stand.playground.primary().sql_in("app", alone).unwrap().trim().parse().unwrap();
    assert!(count <= 1, "{count}");
}

#[test]
fn a_short_sleep_of_the_primary_is_a_pause() {
    let stand = Stand::new(|setup| hasty(setup).set("monitor", "dead_after", quote("20s")));
    let mut client = Raw::login(stand.lagoon.port);
    client.query("BEGIN");
    assert_eq!(codes(&client.query("INSERT INTO notes (word) VALUES ('kept')")), [""; 0]);
    let frozen = Frozen::new(&stand, 0);
    client.send(&query("COMMIT"));
    let down = || stand.lagoon.log().contains("to=Down");
    eventually("it is down", down);
    drop(frozen);
    assert_eq!(codes(&client.until_ready()), [""; 0]);
    assert_eq!(first_column(&client.query("SELECT word FROM notes")), ["kept"]);
}

/// What waits for a connection of it is held, also if the wait would be over before it is certain that it hangs.
#[test]
fn who_waits_for_a_primary_that_hangs_is_held() {
    let stand = Stand::new(|setup| {
        let setup =
            hasty(setup).set("monitor", "timeout", quote("1s")).set("monitor", "dead_after", quote("20s"));
        setup.set("pool", "checkout_timeout", quote("1800ms")).set("pool", "size", "1")
    });
    let [mut client, mut waiting] = [(); 2].map(|()| Raw::login(stand.lagoon.port));
    client.query("BEGIN");
    assert_eq!(codes(&client.query("INSERT INTO notes (word) VALUES ('first')")), [""; 0]);
    let frozen = Frozen::new(&stand, 0);
    waiting.send(&query("INSERT INTO notes (word) VALUES ('second')"));
    eventually("it is held", || {
        let metrics = stand.lagoon.http("/metrics").unwrap().body;
        metrics.contains("pglagoon_clients_held{database=\"app\"} 1\n")
    });
    drop(frozen);
    assert_eq!(codes(&client.query("COMMIT")), [""; 0]);
    assert_eq!(codes(&waiting.until_ready()), [""; 0]);
}

#[test]
fn a_replication_connection_to_a_primary_that_hangs_ends_when_that_is_given_up() {
    let stand = Stand::new(|setup| hasty(setup).set("monitor", "dead_after", quote("2s")));
    let login = || {
        let parameters = [("user", SUPERUSER), ("database", DATABASE), ("replication", "database")];
        Raw::login_with(stand.lagoon.port, V3_0, &parameters)
    };
    let mut streaming = login();
    let position = first_column(&streaming.query("SELECT pg_current_wal_lsn()")).remove(0);
    streaming.send(&query(&format!("START_REPLICATION PHYSICAL {position}")));
    assert_eq!(streaming.until('W').last().unwrap().tag, 'W');
    let (mut waiting, mut idle) = (login(), login());
    waiting.send(&query("SELECT pg_sleep(60)"));
    // A slow answer is none that is lost: it is there after the time that a dead server is given.
    let mut slow = login();
    let began = Instant::now();
    assert_eq!(codes(&slow.query("SELECT pg_sleep(3)")), [""; 0]);
    assert!(began.elapsed() >= Duration::from_secs(3));
    let frozen = Frozen::new(&stand, 0);
    let began = Instant::now();
    for client in [&mut streaming, &mut waiting, &mut idle, &mut slow] {
        let told = client.until_end().pop().expect("it is told why");
        assert_eq!(told.code(), "57P01");
        assert!(told.field('M').contains("not answered for too long"), "{}", told.field('M'));
    }
    assert!((1500..10_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    eventually("there is room for others", || {
        let metrics = stand.lagoon.http("/metrics").unwrap().body;
        metrics.contains("pglagoon_replication_connections{database=\"app\",user=\"postgres\"} 0\n")
    });
    drop(frozen);
    assert_eq!(login().query("IDENTIFY_SYSTEM").len(), 4);
}
