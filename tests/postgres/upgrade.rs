//! One process takes over from another, and clients do not notice.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio_postgres::NoTls;

use crate::harness::{Lagoon, Stand, eventually, eventually_async, quote, rows, sqlstate, table, value};
use crate::raw::{Raw, first_column, parse, query, sync};
use crate::reload::Crowd;
use pglagoon::cli::playground::{DATABASE, USER};

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_under_load_costs_no_client_an_error() {
    let mut stand = Stand::new(|setup| setup.set("pool", "checkout_timeout", quote("20s")));
    let keeper = stand.client().await;
    rows(&keeper, "SET work_mem = '3MB'").await;
    rows(&keeper, "PREPARE seventh AS SELECT word FROM numbers WHERE i = 7").await;
    rows(&keeper, "SET pglagoon.consistency = 'strong'").await;
    let prepared = keeper.prepare("SELECT word FROM numbers WHERE i = $1").await.unwrap();
    let busy = stand.client().await;
    busy.simple_query("BEGIN; SELECT note('before')").await.unwrap();
    let crowd = Crowd::start(&stand, 30).await;
    crowd.rounds(60);

    stand.lagoon.upgrade();
    crowd.rounds(60);
    assert!(stand.lagoon.has_ended().is_none(), "a transaction is running");
    let late = stand.client().await;
    assert_eq!(value(&late, "SELECT 1").await, "1");
    busy.simple_query("INSERT INTO notes (word) VALUES ('during')").await.unwrap();
    busy.simple_query("COMMIT").await.unwrap();
    assert!(stand.lagoon.wait_end(LIMIT).success());

    crowd.rounds(60);
    crowd.finish().await;
    assert_eq!(value(&busy, "SELECT count(*) FROM notes").await, "2");
    assert_eq!(value(&keeper, "SHOW work_mem").await, "3MB");
    assert_eq!(value(&keeper, "EXECUTE seventh").await, "number 7");
    assert_eq!(value(&keeper, "SHOW pglagoon.consistency").await, "strong");
    assert_eq!(keeper.query_one(&prepared, &[&7_i32]).await.unwrap().get::<_, String>(0), "number 7");
    // The clients' numbers and keys are theirs still.
    let cancel = busy.cancel_token();
    let running = tokio::spawn(async move { sqlstate(busy.simple_query("SELECT pg_sleep(60)").await).0 });
    eventually("it runs", || {
        (0..3).any(|place| stand.backends(place, "query LIKE '%pg_sleep(60)%' AND state = 'active'") > 0)
    });
    cancel.cancel_query(NoTls).await.unwrap();
    assert_eq!(running.await.unwrap(), "57014");
    assert_eq!(stand.lagoon.http("/ready").expect("the new process answers").status, 200);
    assert!(stand.lagoon.end_successor());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_reaches_the_process_that_has_the_client() {
    let mut stand = Stand::new(|setup| setup);
    let busy = stand.client().await;
    busy.simple_query("BEGIN; SELECT note('x')").await.unwrap();
    let cancel = busy.cancel_token();
    stand.lagoon.upgrade();
    let running = tokio::spawn(async move { sqlstate(busy.simple_query("SELECT pg_sleep(60)").await).0 });
    eventually("it runs", || stand.backends(0, "query LIKE '%pg_sleep(60)%' AND state = 'active'") > 0);
    cancel.cancel_query(NoTls).await.unwrap();
    assert_eq!(running.await.unwrap(), "57014");
    // The client is gone with its task.
    assert!(stand.lagoon.wait_end(LIMIT).success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_cannot_start_leaves_the_old_one_serving() {
    let mut stand = Stand::new(|setup| setup);
    let client = stand.client().await;
    rows(&client, "SELECT 1").await;
    stand.lagoon.reconfigure(|setup| setup.set("pool", "size", quote("many")));
    let console = stand.lagoon.console().await;
    let (code, text) = sqlstate(console.simple_query("UPGRADE").await);
    assert_eq!(code, "57P03");
    assert!(text.contains("it has ended (exit status: 1)"), "{text}");
    stand.lagoon.signal("USR2");
    eventually("both attempts are logged", || {
        stand.lagoon.log().matches("no process took over; serving on").count() == 2
    });
    assert!(stand.lagoon.log().contains("pool.size"), "the new process says why");
    rows(&client, "SELECT note('still')").await;
    rows(&stand.client().await, "SELECT note('still')").await;
    assert!(stand.lagoon.has_ended().is_none());
    // What was wrong is put right.
    stand.lagoon.reconfigure(|setup| setup.set("pool", "size", "5"));
    stand.lagoon.upgrade();
    drop(console);
    assert!(stand.lagoon.wait_end(LIMIT).success());
    assert_eq!(value(&client, "SELECT count(*) FROM notes").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_it_takes_over_leaves_the_old_one_its_clients() {
    let mut stand = Stand::new(|setup| setup);
    let busy = stand.client().await;
    busy.simple_query("BEGIN; SELECT note('before')").await.unwrap();
    stand.lagoon.upgrade();
    stand.lagoon.kill_successor();
    eventually("the old one notices", || stand.lagoon.log().contains("the new process is gone; serving on"));
    rows(&stand.client().await, "SELECT note('new')").await;
    busy.simple_query("COMMIT").await.unwrap();
    assert_eq!(value(&busy, "SELECT count(*) FROM notes").await, "2");
    assert_eq!(stand.lagoon.http("/ready").unwrap().status, 200);
    // And once more.
    let again = stand.client().await;
    rows(&again, "SET work_mem = '7MB'").await;
    stand.lagoon.upgrade();
    assert!(stand.lagoon.wait_end(LIMIT).success());
    assert_eq!(value(&again, "SHOW work_mem").await, "7MB");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_has_said_holds_and_who_waits_goes_along() {
    let mut stand = Stand::new(|setup| setup.set("pool", "checkout_timeout", quote("30s")));
    let (waiting, console) = (stand.client().await, stand.lagoon.console().await);
    let early = stand.client().await;
    let replica = stand.playground.nodes()[2].address();
    rows(&console, &format!("DETACH {replica}")).await;
    rows(&console, "PAUSE app").await;
    rows(&console, "DISABLE app").await;
    let asked = tokio::spawn(async move { value(&waiting, "SELECT count(*) FROM notes").await });
    let waits = async |console: &tokio_postgres::Client| {
        table(console, "SHOW CLIENTS").await.iter().any(|row| row["state"] == "waiting")
    };
    eventually_async("it waits", async || waits(&console).await).await;
    stand.lagoon.upgrade();
    assert!(stand.lagoon.wait_end(LIMIT).success());
    let console = stand.lagoon.console().await;
    eventually_async("it waits there", async || waits(&console).await).await;
    let nodes = table(&console, "SHOW NODES").await;
    let detached = nodes.iter().filter(|row| row.values().any(|value| value == "detached by an operator"));
    assert_eq!(detached.count(), 1, "{nodes:?}");
    assert!(!asked.is_finished());
    rows(&console, "RESUME app").await;
    assert_eq!(asked.await.unwrap(), "0");
    assert_eq!(value(&early, "SELECT count(*) FROM notes").await, "0", "who was there before may stay");
    let late = stand.lagoon.connect(&stand.lagoon.url(USER, DATABASE)).await.map(drop);
    assert_eq!(sqlstate(late).0, "57P03", "new clients are refused");
    drop(console);
    assert!(stand.lagoon.end_successor());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_everything_is_one_of_what_nobody_has_asked_for_yet() {
    let mut stand = Stand::new(|setup| {
        let servers = setup.value("databases.app", "servers").unwrap().to_owned();
        ["databases.early", "databases.late"].into_iter().fold(setup, |setup, section| {
            setup.set(section, "servers", servers.clone()).set(section, "database", quote("app"))
        })
    });
    let console = stand.lagoon.console().await;
    rows(&console, "PAUSE").await;
    let paused = async |console: &tokio_postgres::Client| -> Vec<String> {
        let databases = table(console, "SHOW DATABASES").await;
        let paused = databases.into_iter().filter(|row| row["paused"] == "1");
        paused.map(|row| row["name"].clone()).filter(|name| name != "pgbouncer").collect()
    };
    assert_eq!(paused(&console).await, ["app", "early", "late"]);
    let early = stand.lagoon.url("app", "early");
    let mut connecting = Box::pin(stand.lagoon.connect(&early));
    let metrics = || stand.lagoon.http("/metrics").unwrap().body;
    eventually_async("it waits to be let in", async || {
        let has_come = tokio::time::timeout(Duration::from_millis(10), &mut connecting).await;
        assert!(has_come.is_err(), "it is paused");
        metrics().contains("pglagoon_clients_logging_in 1")
    })
    .await;
    rows(&console, "RESUME early").await;
    assert_eq!(value(&connecting.await.unwrap(), "SELECT 1").await, "1");
    assert_eq!(paused(&console).await, ["app", "late"]);
    drop(console);
    stand.lagoon.upgrade();
    assert!(stand.lagoon.wait_end(LIMIT).success());
    let console = stand.lagoon.console().await;
    assert_eq!(paused(&console).await, ["app", "late"]);
    rows(&console, "RESUME").await;
    for name in ["app", "late"] {
        let client = stand.lagoon.connect(&stand.lagoon.url("app", name)).await.unwrap();
        assert_eq!(value(&client, "SELECT 1").await, "1");
    }
    assert!(paused(&console).await.is_empty());
    drop(console);
    assert!(stand.lagoon.end_successor());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_go_along_is_told_so_when_he_is_free() {
    let mut stand = Stand::new(|setup| setup);
    let (pinned, listening, plain) = (stand.client().await, stand.client().await, stand.client().await);
    pinned.simple_query("CREATE TEMP TABLE t (i int)").await.unwrap();
    pinned.simple_query("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    rows(&listening, "LISTEN news").await;
    rows(&plain, "SELECT 1").await;
    stand.lagoon.upgrade();
    eventually("who listens is told", || listening.is_closed());
    assert_eq!(value(&pinned, "SELECT count(*) FROM t").await, "1");
    pinned.simple_query("COMMIT").await.unwrap();
    eventually("who is pinned is told", || pinned.is_closed());
    assert!(stand.lagoon.wait_end(LIMIT).success());
    assert_eq!(value(&plain, "SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_too_much_luggage_keeps_nobody_else_here() {
    const MIB: usize = 1024 * 1024;
    let mut stand = Stand::new(|setup| setup.set("auth", "method", quote("trust")));
    let (mut named, mut asking) = (Raw::login(stand.lagoon.port), Raw::login(stand.lagoon.port));
    let plain = stand.client().await;
    rows(&plain, "SET work_mem = '3MB'").await;
    named.exchange(&[parse("long", &format!("SELECT 1 /* {} */", "x".repeat(11 * MIB))), sync()]);
    // Half of it is more than a letter holds, wherever it waits.
    let long = query(&format!("SELECT 1 /* {} */", "\x01".repeat(48 * MIB)));
    let (half, rest) = long.split_at(24 * MIB);
    asking.send(half);

    stand.lagoon.upgrade();
    let end = named.until_end();
    let why = end.last().expect("it is told").field('D');
    assert!(why.contains("cannot be handed over: its prepared statements are too long"), "{why}");
    let console = stand.lagoon.console().await;
    eventually_async("the other one is in the new process", async || {
        table(&console, "SHOW CLIENTS").await.iter().any(|row| row["database"] == DATABASE)
    })
    .await;
    drop(console);
    assert_eq!(value(&plain, "SHOW work_mem").await, "3MB");
    assert!(stand.lagoon.has_ended().is_none(), "a request has come by half");
    asking.send(rest);
    assert_eq!(first_column(&asking.until_ready()), ["1"]);
    assert!(stand.lagoon.wait_end(LIMIT).success());
    assert_eq!(first_column(&asking.query("SELECT 2")), ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_that_hangs_is_not_waited_for() {
    let mut stand = Stand::new(|setup| setup.set("auth", "method", quote("trust")));
    let mut clients = [(); 2].map(|()| Raw::login(stand.lagoon.port));
    for client in &mut clients {
        // More than waits in the connection between the two processes.
        client.exchange(&[parse("long", &format!("SELECT 1 /* {} */", "x".repeat(5_000_000))), sync()]);
        client.query("BEGIN");
        client.query("SELECT note('begun')");
    }
    stand.lagoon.upgrade();
    stand.lagoon.signal_successor("-STOP");
    for client in &mut clients {
        client.query("COMMIT");
    }
    for client in &mut clients {
        let end = client.until_end();
        let why = end.last().expect("it is told");
        assert_eq!((why.code().as_str(), why.field('D').as_str()), ("57P01", "pglagoon is shutting down."));
    }
    assert!(stand.lagoon.wait_end(LIMIT).success());
    stand.lagoon.signal_successor("-CONT");
    assert_eq!(stand.playground.primary().sql("SELECT count(*) FROM notes").unwrap().trim(), "2");
    assert!(stand.lagoon.end_successor());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_handed_over_and_a_second_process_can_be_followed_by_a_third() {
    let mut stand = Stand::new(|setup| setup);
    let folder = stand.playground.folder().to_path_buf();
    let setup = stand.lagoon.setup().set("listen", "unix_directory", quote(folder.to_str().unwrap())).set(
        "listen",
        "unix_port",
        "6432",
    );
    stand.lagoon = Lagoon::start(&stand.playground, setup);
    let url = format!("host={} port=6432 user=app password=secret dbname=app", folder.display());
    let client = stand.lagoon.connect(&url).await.unwrap();
    rows(&client, "SET work_mem = '5MB'").await;
    stand.lagoon.upgrade();
    assert!(stand.lagoon.wait_end(LIMIT).success());
    assert_eq!(value(&client, "SHOW work_mem").await, "5MB");
    assert!(folder.join(".s.PGSQL.6432").exists());
    // By the console of the second process.
    let console = stand.lagoon.console().await;
    rows(&console, "UPGRADE").await;
    eventually("the second process is gone", || console.is_closed());
    assert_eq!(value(&client, "SHOW work_mem").await, "5MB");
    assert_eq!(value(&stand.lagoon.connect(&url).await.unwrap(), "SELECT 1").await, "1");
    stand.lagoon.note_successor();
    assert!(stand.lagoon.end_successor());
    assert!(!folder.join(".s.PGSQL.6432").exists(), "the last one removes it");
}

#[test]
fn systemd_opens_the_socket_and_is_told_how_things_are() {
    let stand = Stand::new(|setup| setup);
    let home = stand.playground.folder().join("unit");
    std::fs::create_dir(&home).unwrap();
    let hearing = UnixDatagram::bind(home.join("notify")).unwrap();
    hearing.set_read_timeout(Some(LIMIT)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = home.join("pglagoon.toml");
    let setup = stand.lagoon.setup().without("http").set("listen", "address", quote(&address.to_string()));
    std::fs::write(&config, setup.to_toml()).unwrap();
    // A client may come before anybody accepts.
    let mut early = TcpStream::connect(address).unwrap();
    let log = std::fs::File::create(home.join("log")).unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve --config \"$1\""])
        .arg(env!("CARGO_BIN_EXE_pglagoon"))
        .arg(&config)
        .env("NOTIFY_SOCKET", home.join("notify"))
        .env("WATCHDOG_USEC", "200000")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let words = |hearing: &UnixDatagram| {
        let mut words = [0; 200];
        let count = hearing.recv(&mut words).expect("systemd hears something in time");
        String::from_utf8_lossy(&words[..count]).into_owned()
    };
    let wait_for = |what: &str| {
        while !words(&hearing).starts_with(what) {}
    };
    let signal = |name: &str, pid: u32| {
        assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
    };
    wait_for("READY=1");
    // SSLRequest, answered with N.
    early.set_read_timeout(Some(LIMIT)).unwrap();
    early.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).unwrap();
    let mut answer = [0];
    early.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"N");
    drop(early);
    (0..3).for_each(|_| wait_for("WATCHDOG=1"));
    signal("-HUP", child.id());
    wait_for("RELOADING=1\nMONOTONIC_USEC=");
    wait_for("READY=1");
    signal("-USR2", child.id());
    let mut successor = None;
    while successor.is_none() {
        successor = words(&hearing).strip_prefix("MAINPID=").map(|pid| pid.parse::<u32>().unwrap());
    }
    assert!(child.wait().unwrap().success());
    wait_for("WATCHDOG=1");
    signal("-TERM", successor.unwrap());
    wait_for("STOPPING=1");
    eventually("nobody listens any more", || TcpStream::connect(address).is_err());
}
