//! The virtual database: PgBouncer's columns, and the commands.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::harness::{Stand, eventually, eventually_async, quote, rows, sqlstate, table, value};
use crate::raw::{Raw, V3_0, bind, describe_portal, execute, parse, sync, tags};

/// PgBouncer's columns in their order and with their types; ours may follow.
const SHOWS: [(&str, &str); 10] = [
    (
        "SHOW POOLS",
        "database text, user text, cl_active int4, cl_waiting int4, cl_active_cancel_req int4, \
         cl_waiting_cancel_req int4, sv_active int4, sv_active_cancel int4, sv_being_canceled int4, sv_idle int4, \
         sv_used int4, sv_tested int4, sv_login int4, maxwait int4, maxwait_us int4, pool_mode text",
    ),
    (
        "SHOW CLIENTS",
        "type text, user text, database text, replication text, state text, addr text, port int4, local_addr text, \
         local_port int4, connect_time text, request_time text, wait int4, wait_us int4, close_needed int4, ptr text, \
         link text, remote_pid int4, tls text, application_name text, prepared_statements int4, id int4",
    ),
    (
        "SHOW SERVERS",
        "type text, user text, database text, replication text, state text, addr text, port int4, local_addr text, \
         local_port int4, connect_time text, request_time text, wait int4, wait_us int4, close_needed int4, ptr text, \
         link text, remote_pid int4, tls text, application_name text, prepared_statements int4, id int4",
    ),
    (
        "SHOW DATABASES",
        "name text, host text, port int4, database text, force_user text, pool_size int4, min_pool_size int4, \
         reserve_pool_size int4, server_lifetime int4, pool_mode text, load_balance_hosts text, max_connections int4, \
         current_connections int4, max_client_connections int4, current_client_connections int4, paused int4, \
         disabled int4",
    ),
    (
        "SHOW STATS",
        "database text, total_server_assignment_count numeric, total_xact_count numeric, total_query_count numeric, \
         total_received numeric, total_sent numeric, total_xact_time numeric, total_query_time numeric, \
         total_wait_time numeric, total_client_parse_count numeric, total_server_parse_count numeric, \
         total_bind_count numeric",
    ),
    (
        "SHOW STATS_TOTALS",
        "database text, server_assignment_count numeric, xact_count numeric, query_count numeric, \
         bytes_received numeric, bytes_sent numeric, xact_time numeric, query_time numeric, wait_time numeric, \
         client_parse_count numeric, server_parse_count numeric, bind_count numeric",
    ),
    (
        "SHOW SOCKETS",
        "type text, user text, database text, replication text, state text, addr text, port int4, local_addr text, \
         local_port int4, connect_time text, request_time text, wait int4, wait_us int4, close_needed int4, ptr text, \
         link text, remote_pid int4, tls text, application_name text, prepared_statements int4, id int4, \
         recv_pos int4, pkt_pos int4, pkt_remain int4, send_pos int4, send_remain int4, pkt_avail int4, send_avail int4",
    ),
    ("SHOW LISTS", "list text, items int4"),
    ("SHOW CONFIG", "key text, value text, default text, changeable text"),
    ("SHOW VERSION", "version text"),
];

#[tokio::test(flavor = "multi_thread")]
async fn show_has_pgbouncers_columns_in_both_protocols() {
    let stand = Stand::new(|setup| setup);
    rows(&stand.client().await, "SELECT note('x')").await;
    let console = stand.lagoon.console().await;
    for (command, columns) in SHOWS {
        // The extended protocol tells the types.
        let statement = console.prepare(command).await.unwrap_or_else(|error| panic!("{command}: {error:?}"));
        let found: Vec<String> = statement
            .columns()
            .iter()
            .map(|column| format!("{} {}", column.name(), column.type_().name()))
            .collect();
        let expected: Vec<String> = columns
            .split(',')
            .map(|column| column.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let common = &found[..expected.len().min(found.len())];
        assert_eq!(common, expected, "{command}");
        // The simple protocol gives the rows as text; any case and a semicolon are fine.
        let simple = table(&console, &format!("{};", command.to_lowercase())).await;
        assert!(!simple.is_empty(), "{command} shows something");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_setting_is_shown_once_and_in_the_configurations_words() {
    let stand = Stand::new(|setup| setup.set("listen", "max_clients", "77"));
    let settings = table(&stand.lagoon.console().await, "SHOW CONFIG").await;
    let mut seen = BTreeMap::new();
    for row in &settings {
        let before = seen.insert(row["key"].as_str(), row["value"].as_str());
        assert_eq!(before, None, "{} is there twice", row["key"]);
    }
    assert_eq!((seen["max_client_conn"], seen["max_user_connections"]), ("77", "0"));
    assert_eq!(seen["auth.method"], "scram-sha-256");
    assert_eq!(
        (seen["listen.max_clients"], seen["routing.max_wait"], seen["log.format"]),
        ("77", "1s", "text")
    );
    assert!(!seen.contains_key("routing.token_secret") && !seen.contains_key("monitor.password"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_and_clients_show_what_goes_on() {
    let stand = Stand::new(|setup| setup.set("pool", "size", "1").set("routing", "reads", quote("primary")));
    let console = stand.lagoon.console().await;
    let (holder, waiter) = (stand.client().await, stand.client().await);
    holder.simple_query("BEGIN; SELECT note('held')").await.unwrap();
    let waiting = tokio::spawn(async move { waiter.simple_query("SELECT note('waited')").await.map(drop) });
    eventually_async("one client is active, one waits, and one server connection is in use", async || {
        let pools = table(&console, "SHOW POOLS").await;
        let pool = pools.iter().find(|pool| pool["database"] == "app" && pool["user"] == "app");
        pool.is_some_and(|pool| (&*pool["cl_waiting"], &*pool["sv_active"]) == ("1", "1"))
    })
    .await;
    let pools = table(&console, "SHOW POOLS").await;
    let own = pools.iter().find(|pool| pool["database"] == "pgbouncer").expect("the console's");
    assert_eq!((&*own["cl_active"], &*own["pool_mode"]), ("1", "statement"));
    assert!(table(&console, "SHOW PEERS").await.is_empty());
    let clients = table(&console, "SHOW CLIENTS").await;
    let mut states: Vec<&str> =
        clients.iter().filter(|client| client["database"] == "app").map(|client| &*client["state"]).collect();
    states.sort_unstable();
    assert_eq!(states, ["active", "waiting"]);
    holder.simple_query("COMMIT").await.unwrap();
    waiting.await.unwrap().unwrap();

    let stats = table(&console, "SHOW STATS_TOTALS").await;
    let app = stats.iter().find(|row| row["database"] == "app").unwrap();
    for counter in
        ["server_assignment_count", "xact_count", "query_count", "bytes_received", "bytes_sent", "wait_time"]
    {
        assert!(app[counter].parse::<f64>().unwrap() > 0.0, "{counter}: {app:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_name_opens_it_and_only_admins_may_come_in() {
    let stand = Stand::new(|setup| {
        setup.set("admin", "users", "[\"postgres\"]").set("admin", "stats_users", "[\"app\"]")
    });
    let lagoon = &stand.lagoon;
    for name in ["pglagoon", "pgbouncer"] {
        let admin = lagoon.connect(&lagoon.url("postgres", name)).await.unwrap();
        assert!(rows(&admin, "SHOW VERSION").await[0][0].to_lowercase().contains("pglagoon"));
        admin.simple_query("RELOAD").await.unwrap();
        let viewer = lagoon.connect(&lagoon.url("app", name)).await.unwrap();
        rows(&viewer, "SHOW POOLS").await;
        for forbidden in ["RELOAD", "PAUSE", "SHUTDOWN", "KILL_CLIENT 1"] {
            assert_eq!(sqlstate(viewer.simple_query(forbidden).await).0, "42501", "{forbidden}");
        }
        match lagoon.connect(&lagoon.url("old", name)).await {
            Err(error) => assert!(error.as_db_error().is_some()),
            Ok(_) => panic!("an ordinary user was let into the console"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_does_not_know_is_an_error_and_no_end() {
    let stand = Stand::new(|setup| setup);
    let console = stand.lagoon.console().await;
    for unknown in [
        "SHOW NOTHING",
        "SELECT * FROM pg_class",
        "KILL_CLIENT",
        "KILL_CLIENT x",
        "PAUSE nowhere",
        "DROP TABLE x",
    ] {
        assert!(console.simple_query(unknown).await.is_err(), "{unknown}");
        rows(&console, "SHOW POOLS").await;
    }
    console.simple_query("SHOW HELP").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_waits_for_transactions_and_holds_clients_until_resume() {
    let stand = Stand::new(|setup| setup.set("pool", "checkout_timeout", quote("1s")));
    let console = stand.lagoon.console().await;
    let (busy, idle) = (stand.client().await, stand.client().await);
    busy.simple_query("BEGIN; SELECT note('busy')").await.unwrap();

    let pausing = console.simple_query("PAUSE app");
    tokio::pin!(pausing);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), &mut pausing).await.is_err(),
        "a transaction runs"
    );
    busy.simple_query("COMMIT").await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), pausing).await.expect("nothing runs any more").unwrap();

    let query = idle.simple_query("SELECT note('idle')");
    tokio::pin!(query);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), &mut query).await.is_err(),
        "the database is paused"
    );
    let ready = stand.lagoon.http("/ready?database=app").unwrap();
    assert!(ready.status == 503 && ready.body.contains(r#""status":"paused""#), "{ready:?}");
    console.simple_query("RESUME app").await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), query).await.expect("the query runs").unwrap();
    // Not for ever; and it is no matter of the pool's size.
    console.simple_query("PAUSE app").await.unwrap();
    let refused = idle.simple_query("SELECT note('idle')").await.unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(
        (refused.code().code(), refused.hint().unwrap_or_default().contains("paused")),
        ("53300", true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnect_replaces_connections_when_they_are_free() {
    let stand = Stand::new(|setup| setup.set("routing", "reads", quote("primary")));
    let console = stand.lagoon.console().await;
    let (busy, idle) = (stand.client().await, stand.client().await);
    let pid = "SELECT pg_backend_pid()";
    busy.simple_query("BEGIN").await.unwrap();
    let (held, free) = (value(&busy, pid).await, value(&idle, pid).await);
    console.simple_query("RECONNECT app").await.unwrap();
    assert_ne!(value(&idle, pid).await, free);
    assert_eq!(value(&busy, pid).await, held, "a transaction keeps its connection");
    let servers = table(&console, "SHOW SERVERS").await;
    let close_needed = |pid: &str| {
        let row = servers.iter().find(|row| row["remote_pid"] == pid).expect("it is there");
        row["close_needed"] == "1"
    };
    let fresh = value(&idle, pid).await;
    assert!(close_needed(&held) && !close_needed(&fresh), "{servers:?}");
    let closing = console.simple_query("WAIT_CLOSE app");
    tokio::pin!(closing);
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut closing).await.is_err());
    busy.simple_query("COMMIT").await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), closing).await.expect("all are new").unwrap();
    assert_ne!(value(&busy, pid).await, held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_database_takes_no_new_clients_and_keeps_the_old() {
    let stand = Stand::new(|setup| setup);
    let (console, client) = (stand.lagoon.console().await, stand.client().await);
    console.simple_query("DISABLE app").await.unwrap();
    let refused = stand.lagoon.connect(&stand.lagoon.url("app", "app")).await;
    assert_eq!(sqlstate(refused).0, "57P03");
    rows(&client, "SELECT 1").await;
    let shown = table(&console, "SHOW DATABASES").await;
    assert!(shown.iter().any(|row| row["name"] == "app" && row["disabled"] == "1"));
    console.simple_query("ENABLE app").await.unwrap();
    rows(&stand.client().await, "SELECT 1").await;
    assert_eq!(sqlstate(console.simple_query("DISABLE nowhere").await).0, "3D000");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_ends_everybody_at_once_and_resume_lets_them_in_again() {
    let stand = Stand::new(|setup| setup);
    let (console, client) = (stand.lagoon.console().await, stand.client().await);
    let running = client.simple_query("SELECT note('k'), pg_sleep(600)");
    let killing = async {
        eventually("it runs", || stand.backends(0, "query LIKE '%pg_sleep(600)%' AND state = 'active'") == 1);
        console.simple_query("KILL app").await.unwrap();
    };
    assert!(tokio::join!(running, killing).0.is_err());
    eventually("its backend is gone", || stand.backends(0, "query LIKE '%pg_sleep(600)%'") == 0);
    console.simple_query("RESUME app").await.unwrap();
    rows(&stand.client().await, "SELECT 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_server_serves_nobody_until_it_is_attached() {
    let stand = Stand::new(|setup| setup.set("routing", "consistency", quote("eventual")));
    let (console, client) = (stand.lagoon.console().await, stand.client().await);
    let servers = table(&console, "SHOW NODES").await;
    let replicas: Vec<_> =
        servers.iter().filter(|row| row["role"] == "replica").map(|row| &row["server"]).collect();
    assert_eq!(replicas.len(), 2);
    let read = "SELECT count(*) FROM numbers -- detached";
    console.simple_query(&format!("DETACH {}", replicas[0])).await.unwrap();
    for _ in 0..10 {
        rows(&client, read).await;
    }
    let place = |server: &String| servers.iter().position(|row| row["server"] == *server).unwrap();
    assert!(!stand.ran_on("detached").contains(&place(replicas[0])));
    let shown = table(&console, "SHOW NODES").await;
    assert!(shown.iter().any(|row| row["server"] == *replicas[0] && row["why"].contains("detached")));
    console.simple_query(&format!("DETACH '{}'", replicas[1])).await.unwrap();
    let ready = stand.lagoon.http("/ready").unwrap().body;
    assert!(ready.contains("no replica takes reads") && ready.contains("detached by an operator"), "{ready}");
    console.simple_query(&format!("ATTACH {}", replicas[1])).await.unwrap();

    // DRAIN waits for who is there.
    let holder = stand.client().await;
    holder.simple_query("BEGIN; SELECT note('d')").await.unwrap();
    let primary = &servers.iter().find(|row| row["role"] == "primary").unwrap()["server"];
    let draining = format!("DRAIN \"{primary}\"");
    let draining = console.simple_query(&draining);
    tokio::pin!(draining);
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut draining).await.is_err());
    holder.simple_query("COMMIT").await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), draining).await.expect("nobody holds it").unwrap();
    let write = client.simple_query("SELECT note('held')");
    tokio::pin!(write);
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut write).await.is_err(), "no primary");
    for server in [primary, replicas[0]] {
        console.simple_query(&format!("ATTACH {server}")).await.unwrap();
    }
    tokio::time::timeout(Duration::from_secs(5), write).await.expect("the primary is back").unwrap();
    assert_eq!(sqlstate(console.simple_query("DETACH 10.9.8.7:1").await).0, "42704");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_client_ends_one_client_and_cancels_its_query() {
    let stand = Stand::new(|setup| setup);
    let console = stand.lagoon.console().await;
    let (victim, other) = (stand.client().await, stand.client().await);
    rows(&other, "SELECT 1").await;
    let running =
        tokio::spawn(async move { victim.simple_query("SELECT note('k'), pg_sleep(600)").await.map(drop) });
    let mut id = String::new();
    eventually_async("the victim is active", async || {
        let clients = table(&console, "SHOW CLIENTS").await;
        let active = clients.iter().find(|client| client["state"] == "active" && client["database"] == "app");
        id = active.map(|client| client["id"].clone()).unwrap_or_default();
        !id.is_empty()
    })
    .await;
    console.simple_query(&format!("KILL_CLIENT {id}")).await.unwrap();
    assert!(running.await.unwrap().is_err());
    eventually("its query is cancelled", || stand.backends(0, "state = 'active'") == 0);
    rows(&other, "SELECT note('alive')").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_clients_query_is_cancelled_even_if_the_server_had_not_read_it_yet() {
    let stand = Stand::new(|setup| setup.set("pool", "size", "1").set("routing", "reads", quote("primary")));
    let (console, victim) = (stand.lagoon.console().await, stand.client().await);
    let backend = value(&victim, "SELECT pg_backend_pid()").await;
    signal("STOP", &backend);
    let running =
        tokio::spawn(async move { victim.simple_query("SELECT note('k'), pg_sleep(600)").await.map(drop) });
    let mut id = String::new();
    eventually_async("the victim is active", async || {
        let clients = table(&console, "SHOW CLIENTS").await;
        let active = clients.iter().find(|client| client["state"] == "active" && client["database"] == "app");
        id = active.map(|client| client["id"].clone()).unwrap_or_default();
        !id.is_empty()
    })
    .await;
    console.simple_query(&format!("KILL_CLIENT {id}")).await.unwrap();
    assert!(running.await.unwrap().is_err());
    eventually("the cancel request has come", || has_pending_interrupt(&backend));
    // Continued, it takes the signal first, while it runs nothing, and then the query.
    signal("CONT", &backend);
    eventually("the query is cancelled", || {
        let log = std::fs::read_to_string(stand.playground.primary().log_path()).unwrap();
        log.contains("canceling statement due to user request")
    });
    assert_eq!(stand.playground.primary().sql("SELECT count(*) FROM notes").unwrap(), "0\n");
}

fn signal(name: &str, pid: &str) {
    let status = std::process::Command::new("kill").args([&format!("-{name}"), pid]).status();
    assert!(status.unwrap().success());
}

/// Whether SIGINT waits for a process that is stopped.
fn has_pending_interrupt(pid: &str) -> bool {
    const SIGINT: u64 = 1 << (2 - 1);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pending = status.lines().filter_map(|line| line.strip_prefix("ShdPnd:")).next().expect("a mask");
    u64::from_str_radix(pending.trim(), 16).unwrap() & SIGINT != 0
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_applies_a_changed_file_and_refuses_a_broken_one() {
    let mut stand =
        Stand::new(|setup| setup.set("pool", "size", "1").set("routing", "reads", quote("primary")));
    let console = stand.lagoon.console().await;
    let (holder, other) = (stand.client().await, stand.client().await);
    holder.simple_query("BEGIN; SELECT note('held')").await.unwrap();

    stand.lagoon.reconfigure(|setup| setup.set("pool", "size", "\"many\""));
    let (_, message) = sqlstate(console.simple_query("RELOAD").await);
    assert!(message.contains("pool.size"), "the error names the key: {message}");
    let log = stand.lagoon.log();
    let refused = log.lines().find(|line| line.contains("operation=Reload")).expect("the log has it");
    assert!(refused.contains("WARN") && refused.contains("pool.size"), "{refused}");

    stand.lagoon.reconfigure(|setup| setup.set("pool", "size", "2"));
    console.simple_query("RELOAD").await.unwrap();
    let second =
        tokio::time::timeout(Duration::from_secs(5), other.simple_query("SELECT note('second')")).await;
    second.expect("there are two server connections now").unwrap();
    holder.simple_query("COMMIT").await.unwrap();
}

#[test]
fn the_loss_of_a_server_is_a_warning() {
    let mut stand = Stand::new(|setup| setup);
    stand.playground.node_mut(1).kill().unwrap();
    eventually("the log warns of it", || {
        let log = stand.lagoon.log();
        log.lines().any(|line| line.contains("WARN") && line.contains("server standing changed"))
    });
    let log = stand.lagoon.log();
    let came =
        log.lines().find(|line| line.contains("server standing changed") && line.contains("to=Primary"));
    assert!(came.expect("it came").contains("INFO"), "{came:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_the_process() {
    let mut stand = Stand::new(|setup| setup);
    let console = stand.lagoon.console().await;
    // The answer may be lost with the connection.
    let _ = console.simple_query("SHUTDOWN").await;
    assert!(stand.lagoon.wait_end(Duration::from_secs(10)).success());
    eventually("no server connection is left", || (0..3).all(|place| stand.backends(place, "true") == 0));
}

#[test]
fn show_can_be_executed_in_the_extended_protocol() {
    let stand = Stand::new(|setup| setup.set("auth", "method", quote("trust")));
    let mut console = Raw::login_with(stand.lagoon.port, V3_0, &[("user", "app"), ("database", "pglagoon")]);
    for (command, _) in SHOWS {
        let answer = console.exchange(&[
            parse("", command),
            bind("", "", &[]),
            describe_portal(""),
            execute("", 0),
            sync(),
        ]);
        let kinds = tags(&answer);
        assert!(kinds.starts_with("1 2 T D ") && kinds.ends_with(" C Z"), "{command}: {kinds}");
    }
}

#[test]
fn drivers_settings_are_taken_by_the_console() {
    let stand = Stand::new(|setup| setup.set("auth", "method", quote("trust")));
    let parameters = [
        ("user", "app"),
        ("database", "pgbouncer"),
        ("extra_float_digits", "3"),
        ("client_encoding", "UTF8"),
    ];
    let mut console = Raw::login_with(stand.lagoon.port, V3_0, &parameters);
    let version = console.query("SHOW VERSION");
    assert_eq!(tags(&version), "T D C Z");
    let row = version.iter().find(|message| message.tag == 'D').unwrap().columns();
    assert_eq!(row.len(), 1, "pgbouncer_exporter takes no more");
    assert_eq!(version.iter().find(|message| message.tag == 'C').unwrap().command(), "SHOW");
}
