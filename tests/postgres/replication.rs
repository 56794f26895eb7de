//! Replication connections pass through, each on a server connection of its own.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use crate::harness::{Setup, Stand, eventually, installations, join_all, options, quote, table, value};
use crate::raw::{Raw, V3_0, cancel_request, first_column, query, startup};
use pglagoon::cli::playground::{DATABASE, PASSWORD, SUPERUSER, USER};

fn trusting(setup: Setup) -> Setup {
    setup.set("auth", "method", quote("trust"))
}

fn login(stand: &Stand, replication: &str) -> Raw {
    let parameters = [("user", SUPERUSER), ("database", DATABASE), ("replication", replication)];
    Raw::login_with(stand.lagoon.port, V3_0, &parameters)
}

/// What a login is answered with.
fn refusal(stand: &Stand, user: &str, replication: &str) -> (String, String) {
    let mut client = Raw::connect(stand.lagoon.port);
    client.send(&startup(V3_0, &[("user", user), ("database", DATABASE), ("replication", replication)]));
    let answer = client.until('E');
    let error = answer.last().unwrap();
    (error.code(), error.field('M'))
}

/// Runs one of PostgreSQL's tools through pglagoon.
fn run(stand: &Stand, tool: &str, arguments: &[&str]) -> Output {
    let mut command: Command = stand.playground.installation().command(tool);
    command.current_dir(stand.playground.folder()).env("PGPASSWORD", PASSWORD).env("PGCONNECT_TIMEOUT", "20");
    let url = format!("host=127.0.0.1 port={} user={SUPERUSER} dbname={DATABASE}", stand.lagoon.port);
    let output = command.args(["-d", &url]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{tool} {arguments:?}: {output:?}");
    output
}

fn on_primary(stand: &Stand, sql: &str) -> String {
    stand.playground.primary().sql(sql).unwrap().trim().to_owned()
}

#[test]
fn postgresqls_own_tools_replicate_through_it() {
    for bin in installations() {
        let mut options = options(&bin);
        options.settings.push(("wal_level".into(), "logical".into()));
        let stand = Stand::with(options, |setup| setup);
        let folder = stand.playground.folder();
        run(&stand, "pg_basebackup", &["-D", "backup", "-X", "stream", "-c", "fast"]);
        let verified =
            stand.playground.installation().command("pg_verifybackup").arg(folder.join("backup")).output();
        assert!(verified.as_ref().unwrap().status.success(), "{verified:?}");

        fs::create_dir(folder.join("wal")).unwrap();
        run(&stand, "pg_receivewal", &["--slot=received", "--create-slot"]);
        run(&stand, "pg_recvlogical", &["--slot=decoded", "--create-slot", "-P", "test_decoding"]);
        on_primary(&stand, "SELECT pg_switch_wal()");
        stand.playground.primary().sql_in(DATABASE, "INSERT INTO notes (word) VALUES ('decoded')").unwrap();
        let end = on_primary(&stand, "SELECT pg_current_wal_lsn()");
        // They look whether they have come to the end when more arrives.
        stand.playground.primary().sql_in(DATABASE, "INSERT INTO notes (word) VALUES ('behind it')").unwrap();
        run(&stand, "pg_receivewal", &["-D", "wal", "--slot=received", "--no-loop", "--endpos", &end]);
        assert!(fs::read_dir(folder.join("wal")).unwrap().count() > 0, "no WAL was received");
        let decoded = run(
            &stand,
            "pg_recvlogical",
            &["--slot=decoded", "--start", "--no-loop", "-f", "-", "--endpos", &end],
        );
        let decoded = String::from_utf8_lossy(&decoded.stdout).into_owned();
        assert!(decoded.contains("'decoded'"), "{decoded}");
    }
}

#[test]
fn a_walsender_answers_and_can_be_cancelled() {
    let stand = Stand::new(trusting);
    let system = on_primary(&stand, "SELECT system_identifier FROM pg_control_system()");
    for mode in ["true", "on", "database"] {
        let mut client = login(&stand, mode);
        assert_eq!(first_column(&client.query("IDENTIFY_SYSTEM")), *std::slice::from_ref(&system), "{mode}");
        assert!(client.parameters.contains_key("server_version"));
    }
    let mut client = login(&stand, "database");
    assert_eq!(first_column(&client.query("SELECT current_database()")), [DATABASE]);
    client.send(&query("SELECT pg_sleep(60) /* walsender */"));
    eventually("it runs", || {
        on_primary(&stand, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1"
    });
    let (pid, secret) = client.key.clone().unwrap();
    Raw::connect(stand.lagoon.port).send(&cancel_request(pid, &secret));
    assert_eq!(client.until('E').last().unwrap().code(), "57014");
    // A value that is none asks for an ordinary connection.
    let mut ordinary = login(&stand, "false");
    assert_eq!(first_column(&ordinary.query("SELECT 1")), ["1"]);
    assert_eq!(refusal(&stand, SUPERUSER, "perhaps").0, "22023");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_replication_login_is_nobody_elses_trouble() {
    let stand = Stand::new(|setup| trusting(setup).set("pool", "size", "2"));
    let client = stand.client().await;
    let work = async {
        for _ in 0..100 {
            assert_eq!(value(&client, "SELECT count(*) FROM numbers").await, "1000");
        }
    };
    let refused = async {
        for _ in 0..20 {
            let (code, text) = tokio::task::block_in_place(|| refusal(&stand, USER, "true"));
            assert!(code == "42501" && text.contains("walsender"), "{code} {text}");
        }
    };
    tokio::join!(work, refused);
    let new = join_all((0..4).map(|_| stand.client())).await;
    join_all(new.iter().map(|client| client.simple_query("SELECT note('fine')"))).await;
    let on_primary = stand.playground.primary().sql_in(DATABASE, "SELECT count(*) FROM notes").unwrap();
    assert_eq!(on_primary.trim(), "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn replication_connections_are_limited_seen_and_ended() {
    let mut stand = Stand::new(|setup| trusting(setup).set("pool", "max_replication", "2"));
    let (mut first, mut second) = (login(&stand, "true"), login(&stand, "database"));
    let (code, text) = refusal(&stand, SUPERUSER, "true");
    assert!(code == "53300" && text.contains("max_replication"), "{code} {text}");
    let metric = "pglagoon_replication_connections{database=\"app\",user=\"postgres\"}";
    let count = || {
        let metrics = stand.lagoon.http("/metrics").unwrap().body;
        metrics.lines().find_map(|line| line.strip_prefix(metric)?.trim().parse::<u32>().ok())
    };
    assert_eq!(count(), Some(2));
    let console = stand.lagoon.console().await;
    let clients = table(&console, "SHOW CLIENTS").await;
    let shown: Vec<_> = clients.iter().filter(|client| client["replication"] != "none").collect();
    let mut kinds: Vec<&str> = shown.iter().map(|client| client["replication"].as_str()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["logical", "physical"]);
    let physical = shown.iter().find(|client| client["replication"] == "physical").unwrap();
    console.simple_query(&format!("KILL_CLIENT {}", physical["id"])).await.unwrap();
    assert_eq!(first.until_end(), []);
    eventually("there is room again", || count() == Some(1));
    let mut third = login(&stand, "true");
    assert_eq!(third.query("IDENTIFY_SYSTEM").len(), 4);
    // The server ends one: its client reads why.
    let walsenders = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'walsender' \
                      AND usename = 'postgres' AND datname = 'app'";
    assert_eq!(on_primary(&stand, walsenders), "1");
    assert_eq!(second.until_end()[0].code(), "57P01");
    // A drain does not wait for those who would never end.
    drop(console);
    stand.lagoon.signal("TERM");
    assert_eq!(third.until_end(), []);
    assert!(stand.lagoon.wait_end(Duration::from_secs(10)).success());
}
