//! Who gets which server connection, when, and what happens to it afterwards.

use std::time::{Duration, Instant};

use crate::harness::{Stand, eventually, eventually_async, join_all, quote, rows, sqlstate, table, value};
use crate::raw::{Raw, query};

/// All clients on one server connection, on the primary.
fn single(setup: crate::harness::Setup) -> crate::harness::Setup {
    setup.set("pool", "size", "1").set("routing", "reads", quote("primary"))
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_share_no_more_server_connections_than_the_pools_size() {
    let stand = Stand::new(|setup| setup.set("pool", "size", "3").set("routing", "reads", quote("primary")));
    let clients = join_all((0..20).map(|_| stand.client())).await;
    let work = join_all(clients.iter().map(async |client| {
        let mut servers = Vec::new();
        for _ in 0..10 {
            let sql = "SELECT pg_backend_pid() FROM pg_sleep(0.005)";
            servers.push(value(client, sql).await);
        }
        servers
    }));
    let mut servers: Vec<String> = work.await.into_iter().flatten().collect();
    servers.sort();
    servers.dedup();
    assert_eq!(servers.len(), 3, "backends used: {servers:?}");
    eventually("three connections for all", || stand.backends(0, "true") == 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_client_holds_no_server_connection() {
    let stand = Stand::new(single);
    let clients = join_all((0..10).map(|_| stand.client())).await;
    for _ in 0..3 {
        for client in &clients {
            rows(client, "SELECT 1").await;
        }
    }
    // The catalog may be read meanwhile, over a connection that does not stay.
    eventually("one connection for all", || stand.backends(0, "true") == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_holds_its_server_connection_until_it_ends() {
    let stand = Stand::new(single);
    let (holder, other) = (stand.client().await, stand.client().await);
    holder.simple_query("BEGIN; INSERT INTO notes (word) VALUES ('held')").await.unwrap();
    let waiting = other.simple_query("INSERT INTO notes (word) VALUES ('waited')");
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut waiting).await.is_err());
    holder.simple_query("COMMIT").await.unwrap();
    waiting.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_are_served_in_their_order() {
    let stand = Stand::new(single);
    let console = stand.lagoon.console().await;
    let holder = stand.client().await;
    holder.simple_query("BEGIN; SELECT note('holder')").await.unwrap();
    let mut waiting = Vec::new();
    for number in 1..=6 {
        let client = stand.client().await;
        waiting.push(tokio::spawn(async move {
            let sql = format!("INSERT INTO notes (word) VALUES ('{number}')");
            client.simple_query(&sql).await.unwrap();
        }));
        eventually_async("the client waits", async || {
            table(&console, "SHOW POOLS").await.iter().any(|pool| {
                pool["database"] == "app" && pool["user"] == "app" && pool["cl_waiting"] == number.to_string()
            })
        })
        .await;
    }
    holder.simple_query("COMMIT").await.unwrap();
    for waiter in waiting {
        waiter.await.unwrap();
    }
    let order =
        stand.playground.primary().sql("SELECT string_agg(word, ' ' ORDER BY id) FROM notes").unwrap();
    assert_eq!(order.trim(), "holder 1 2 3 4 5 6");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_with_an_error_that_names_the_pool_its_size_and_who_waits() {
    let stand = Stand::new(|setup| single(setup).set("pool", "checkout_timeout", quote("300ms")));
    let (holder, other) = (stand.client().await, stand.client().await);
    holder.simple_query("BEGIN; SELECT note('held')").await.unwrap();

    let began = Instant::now();
    let (code, message) = sqlstate(other.simple_query("SELECT note('never')").await);
    let waited = began.elapsed();
    assert_eq!(code, "53300", "{message}");
    assert!(waited >= Duration::from_millis(250) && waited < Duration::from_secs(3), "{waited:?}");
    // The database, the user, the size and the number of clients that wait are all named.
    assert!(message.contains("app") && message.contains('1'), "{message}");

    holder.simple_query("COMMIT").await.unwrap();
    let next = stand.client().await;
    rows(&next, "SELECT note('later')").await;
    assert_eq!(
        stand.playground.primary().sql("SELECT count(*) FROM notes WHERE word = 'never'").unwrap(),
        "0\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_max_waiting_are_refused_at_once() {
    let stand = Stand::new(|setup| single(setup).set("pool", "max_waiting", "1"));
    let (holder, first, second) = (stand.client().await, stand.client().await, stand.client().await);
    let console = stand.lagoon.console().await;
    holder.simple_query("BEGIN; SELECT note('held')").await.unwrap();
    let waiting = tokio::spawn(async move { first.simple_query("SELECT note('waits')").await.map(drop) });
    eventually_async("one waits", async || {
        table(&console, "SHOW POOLS").await.iter().any(|pool| pool["cl_waiting"] == "1")
    })
    .await;
    let began = Instant::now();
    let (code, _) = sqlstate(second.simple_query("SELECT note('refused')").await);
    assert_eq!(code, "53300");
    assert!(began.elapsed() < Duration::from_secs(2));
    holder.simple_query("COMMIT").await.unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn statement_mode_refuses_transaction_blocks_and_runs_everything_else() {
    let stand = Stand::new(|setup| setup.set("pool", "mode", quote("statement")));
    let client = stand.client().await;
    client.simple_query("INSERT INTO notes (word) VALUES ('s')").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM numbers").await, "1000");
    for sql in ["BEGIN", "START TRANSACTION READ ONLY"] {
        let (_, message) = sqlstate(client.simple_query(sql).await);
        assert!(message.contains("statement"), "the error names the mode: {message}");
    }
    // Hidden in a string of several, it is found when it has happened: then the client is told, and must go.
    let hiding = stand.client().await;
    let _ = hiding.simple_query("SELECT note('hidden'); BEGIN; SELECT 1").await;
    assert!(hiding.simple_query("SELECT 1").await.is_err());
    rows(&client, "SELECT count(*) FROM notes").await;
    assert_eq!(stand.backends(0, "state LIKE 'idle in transaction%'"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn session_mode_keeps_a_session() {
    let stand = Stand::new(|setup| setup.set("pool", "mode", quote("session")));
    let client = stand.client().await;
    client.simple_query("CREATE TEMP TABLE mine (i int)").await.unwrap();
    client.simple_query("SET work_mem = '7MB'").await.unwrap();
    client.simple_query("PREPARE p AS SELECT 'prepared'").await.unwrap();
    client.simple_query("INSERT INTO mine VALUES (1)").await.unwrap();
    client.simple_query("SELECT pg_advisory_lock(42)").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM mine").await, "1");
    assert_eq!(value(&client, "SHOW work_mem").await, "7MB");
    assert_eq!(value(&client, "EXECUTE p").await, "prepared");
    drop(client);

    eventually("the session's lock is gone", || {
        stand.playground.primary().sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").unwrap()
            == "0\n"
    });
    for _ in 0..4 {
        let next = stand.client().await;
        assert_eq!(value(&next, "SHOW work_mem").await, "4MB");
        assert!(next.simple_query("SELECT * FROM mine").await.is_err());
        assert!(next.simple_query("EXECUTE p").await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_in_mid_query_costs_no_server_connection() {
    let stand = Stand::new(|setup| single(setup).set("auth", "method", quote("trust")));
    let before = value(&stand.client().await, "SELECT pg_backend_pid()").await;

    let mut vanishing = Raw::login(stand.lagoon.port);
    vanishing.send(&query("SELECT pg_sleep(600), note('mid-query')"));
    eventually("the query runs", || stand.backends(0, "state = 'active'") == 1);
    vanishing.vanish();

    eventually("the query was cancelled", || stand.backends(0, "state = 'active'") == 0);
    assert_eq!(value(&stand.client().await, "SELECT pg_backend_pid()").await, before);
    assert_eq!(stand.playground.primary().sql("SELECT count(*) FROM notes").unwrap(), "0\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_in_a_transaction_is_rolled_back() {
    let stand = Stand::new(|setup| single(setup).set("auth", "method", quote("trust")));
    let before = value(&stand.client().await, "SELECT pg_backend_pid()").await;

    let mut vanishing = Raw::login(stand.lagoon.port);
    vanishing.query("BEGIN; INSERT INTO notes (word) VALUES ('lost'); LOCK TABLE numbers");
    vanishing.vanish();

    let next = stand.client().await;
    assert_eq!(value(&next, "SELECT count(*) FROM numbers").await, "1000");
    assert_eq!(value(&next, "SELECT pg_backend_pid()").await, before);
    assert_eq!(value(&next, "SELECT count(*) FROM notes").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_in_a_large_result_holds_up_nobody() {
    let stand = Stand::new(|setup| single(setup).set("auth", "method", quote("trust")));
    for _ in 0..3 {
        let mut vanishing = Raw::login(stand.lagoon.port);
        vanishing.send(&query("SELECT repeat('x', 1000) FROM generate_series(1, 10000000)"));
        vanishing.skip(1_000_000);
        vanishing.vanish();
        let next = stand.client().await;
        let answer = tokio::time::timeout(Duration::from_secs(5), value(&next, "SELECT 1")).await;
        assert_eq!(answer.expect("the next client is served"), "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_user_has_server_connections_of_its_own() {
    let stand = Stand::new(|setup| setup.set("routing", "reads", quote("primary")));
    let app = stand.client().await;
    let postgres = stand.lagoon.connect(&stand.lagoon.url("postgres", "app")).await.unwrap();
    for _ in 0..3 {
        assert_eq!(value(&app, "SELECT session_user").await, "app");
        assert_eq!(value(&postgres, "SELECT session_user").await, "postgres");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_may_name_the_servers_user_and_database() {
    let stand = Stand::new(|setup| {
        let servers = setup.value("databases.app", "servers").unwrap().to_owned();
        setup
            .set("databases.alias", "servers", servers)
            .set("databases.alias", "database", quote("app"))
            .set("databases.alias", "server_user", quote("postgres"))
            .set("databases.alias", "server_password", quote("secret"))
    });
    let client = stand.lagoon.connect(&stand.lagoon.url("app", "alias")).await.unwrap();
    let row = rows(&client, "SELECT session_user, current_database()").await;
    assert_eq!(row, [["postgres", "app"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wildcard_serves_other_databases_under_their_own_name() {
    let stand = Stand::new(|setup| {
        let servers = setup.value("databases.app", "servers").unwrap().to_owned();
        setup.set("databases.\"*\"", "servers", servers)
    });
    let client = stand.lagoon.connect(&stand.lagoon.url("postgres", "postgres")).await.unwrap();
    assert_eq!(value(&client, "SELECT current_database()").await, "postgres");
    let missing = stand.lagoon.connect(&stand.lagoon.url("postgres", "nowhere")).await;
    match missing {
        Err(error) => assert_eq!(error.as_db_error().expect("an answer").code().code(), "3D000"),
        Ok(client) => assert_eq!(sqlstate(client.simple_query("SELECT 1").await).0, "3D000"),
    }
}

/// What frameworks do around their tests: PostgreSQL drops and copies a database only if it has no session.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_no_client_uses_can_be_dropped_copied_and_renamed() {
    let stand = Stand::new(|setup| {
        let servers = setup.value("databases.app", "servers").unwrap().to_owned();
        setup.set("databases.\"*\"", "servers", servers)
    });
    let connect =
        async |database| stand.lagoon.connect(&stand.lagoon.url("postgres", database)).await.unwrap();
    let admin = connect("postgres").await;
    rows(&admin, "CREATE DATABASE spare").await;
    let client = connect("spare").await;
    rows(&client, "LISTEN news").await;
    rows(&client, "CREATE TABLE kept (i int)").await;
    drop(client);
    rows(&admin, "CREATE DATABASE copy TEMPLATE spare").await;
    let client = connect("copy").await;
    assert_eq!(rows(&client, "SELECT i FROM kept").await.len(), 0);
    let still_used = admin.simple_query("DROP DATABASE copy").await;
    assert_eq!(sqlstate(still_used).0, "55006");
    assert_eq!(rows(&client, "INSERT INTO kept VALUES (1) RETURNING i").await, [["1"]]);
    drop(client);
    rows(&admin, "ALTER DATABASE copy RENAME TO renamed").await;
    // The extended protocol as well.
    admin.execute("DROP DATABASE spare", &[]).await.unwrap();
    assert_eq!(value(&connect("renamed").await, "SELECT i FROM kept").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_server_connections_are_closed_and_old_ones_not_used_again() {
    let idle = Stand::new(|setup| setup.set("pool", "idle_timeout", quote("300ms")));
    rows(&idle.client().await, "SELECT note('x')").await;
    eventually("the idle connection is closed", || idle.backends(0, "true") == 0);

    let lifetime = Stand::new(|setup| single(setup).set("pool", "lifetime", quote("300ms")));
    let client = lifetime.client().await;
    let before = value(&client, "SELECT pg_backend_pid()").await;
    eventually_async("another connection is used", async || {
        value(&client, "SELECT pg_backend_pid()").await != before
    })
    .await;
    assert!(lifetime.backends(0, "true") <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_as_are_wanted_are_there_while_somebody_may_want_them() {
    let stand =
        Stand::new(|setup| setup.set("pool", "min_size", "3").set("pool", "idle_timeout", quote("300ms")));
    let own = "usename = 'app'";
    let all = |count| (0..3).all(|place| stand.backends(place, own) == count);
    let client = stand.client().await;
    eventually("there are three on each server", || all(3));
    let primary = stand.playground.primary();
    let now = || primary.sql("SELECT now()").unwrap();
    let are_replaced = |began: &str| {
        let young = format!("{own} AND backend_start > '{}'", began.trim());
        eventually("those that have gone are replaced", || all(3) && stand.backends(0, &young) == 3);
    };
    let began = now();
    rows(&stand.lagoon.console().await, "RECONNECT app").await;
    are_replaced(&began);
    let began = now();
    primary.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {own}")).unwrap();
    are_replaced(&began);
    // More are made, and go when they have been idle for too long.
    let others = join_all((0..5).map(|_| stand.client())).await;
    join_all(others.iter().map(|other| value(other, "SELECT note('x') FROM pg_sleep(0.2)"))).await;
    eventually("they are as many as before", || all(3));
    drop((client, others));
    eventually("nobody may want them", || all(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pools_reserve_is_there_for_those_who_have_waited_for_long() {
    let stand = Stand::new(|setup| {
        single(setup).set("pool", "reserve_size", "1").set("pool", "reserve_timeout", quote("300ms"))
    });
    let (holder, other) = (stand.client().await, stand.client().await);
    holder.simple_query("BEGIN; INSERT INTO notes (word) VALUES ('held')").await.unwrap();
    let began = Instant::now();
    rows(&other, "SELECT note('served')").await;
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(300) && waited < Duration::from_secs(5), "{waited:?}");
    holder.simple_query("COMMIT").await.unwrap();
    eventually("the reserve is gone", || stand.backends(0, "true") == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_there_are_serve_though_new_ones_are_refused() {
    let mut stand = Stand::new(single);
    let clients = join_all((0..6).map(|_| stand.client())).await;
    stand.lagoon.reconfigure(|setup| setup.set("pool", "size", "3"));
    rows(&stand.lagoon.console().await, "RELOAD").await;
    rows(&clients[0], "SELECT note('there is one')").await;
    stand.playground.primary().sql("ALTER ROLE app PASSWORD 'another'").unwrap();
    let work = clients.iter().map(|client| client.simple_query("SELECT pg_sleep(0.1)"));
    for answer in join_all(work).await {
        answer.expect("its turn comes");
    }
    assert!(stand.lagoon.log().contains("login failed"), "{}", stand.lagoon.log());
    // Where there is none, it is said at once, and why.
    stand
        .playground
        .primary()
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
        .unwrap();
    eventually("it is gone", || stand.backends(0, "true") == 0);
    assert_eq!(sqlstate(clients[0].simple_query("SELECT 1").await).0, "28P01");
}

/// A client of another user of the same database.
async fn stranger(stand: &Stand) -> tokio_postgres::Client {
    stand.lagoon.connect(&stand.lagoon.url("postgres", "app")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_a_database_share_its_server_connections() {
    const MAX: usize = 4;
    let mut stand = Stand::new(|setup| {
        setup.set("pool", "size", "10").set("pool", "max_db_connections", MAX.to_string()).set(
            "routing",
            "reads",
            quote("primary"),
        )
    });
    let console = stand.lagoon.console().await;
    let column = async |name: &str| -> usize {
        let databases = table(&console, "SHOW DATABASES").await;
        let row = databases.iter().find(|row| row["name"] == "app").expect("its row");
        row[name].parse().unwrap()
    };
    assert_eq!(column("max_connections").await, 3 * MAX, "as many on each of three servers");
    let running = "SELECT count(*) FROM pg_sleep(0.02), pg_stat_activity WHERE state = 'active' AND query LIKE '%FROM pg_sleep%'";
    let work = async |client: &tokio_postgres::Client| {
        let mut most = 0;
        for _ in 0..20 {
            most = most.max(value(client, running).await.parse().unwrap());
        }
        most
    };
    let ours = join_all((0..8).map(|_| stand.client())).await;
    let theirs = join_all((0..8).map(|_| stranger(&stand))).await;
    let most = join_all(ours.iter().chain(&theirs).map(work)).await.into_iter().max().unwrap();
    assert_eq!(most, MAX);
    assert!(column("current_connections").await <= MAX);

    // What one user leaves idle is another's at once.
    for (clients, what) in [(&ours, "ours"), (&theirs, "theirs"), (&ours, "ours again")] {
        let began = Instant::now();
        join_all(clients.iter().map(|client| value(client, "SELECT 1 FROM pg_sleep(0.01)"))).await;
        assert!(began.elapsed() < Duration::from_secs(3), "{what}: {:?}", began.elapsed());
    }

    // Who is never idle does not keep them from who waits.
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let busy = join_all(ours.iter().map(async |client| {
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
            rows(client, "SELECT pg_sleep(0.01)").await;
        }
    }));
    let asking = async {
        for _ in 0..3 {
            let began = Instant::now();
            rows(&theirs[0], "SELECT 1").await;
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    tokio::join!(busy, asking);

    // A limit that has become smaller holds as soon as connections are free.
    stand.lagoon.reconfigure(|setup| {
        setup.set("pool", "max_db_connections", "1").set("pool", "checkout_timeout", quote("500ms"))
    });
    rows(&console, "RELOAD").await;
    eventually_async("there is one", async || column("current_connections").await == 1).await;
    ours[0].simple_query("BEGIN; INSERT INTO notes (word) VALUES ('held')").await.unwrap();
    let error = theirs[0].simple_query("SELECT 1").await.expect_err("there is no place");
    let error = error.as_db_error().expect("pglagoon's own");
    assert_eq!(error.code().code(), "53300");
    assert!(
        error.detail().is_some_and(|detail| detail.ends_with("all users of the database: 1 of 1")),
        "{error:?}"
    );
    assert!(error.hint().is_some_and(|hint| hint.contains("pool.max_db_connections")), "{error:?}");
    let metrics = stand.lagoon.http("/metrics").expect("an answer").body;
    let limit = |line: &str| line.starts_with("pglagoon_database_connections_max{") && line.ends_with(" 1");
    assert!(metrics.lines().any(limit), "{metrics}");
    ours[0].simple_query("COMMIT").await.unwrap();
    rows(&theirs[0], "SELECT note('served')").await;
    stand.lagoon.reconfigure(|setup| setup.set("pool", "max_db_connections", quote("off")));
    rows(&console, "RELOAD").await;
    join_all(ours.iter().chain(&theirs).map(|client| value(client, "SELECT 1 FROM pg_sleep(0.1)"))).await;
    assert!(column("current_connections").await > MAX);
}

/// One session of the server's for both, however often it is asked.
async fn keeps_its_session(client: &tokio_postgres::Client, other: &tokio_postgres::Client) -> bool {
    rows(client, "SELECT set_config('test.mark', 'mine', false)").await;
    let before = value(client, "SELECT pg_backend_pid()").await;
    join_all((0..4).map(|_| value(other, "SELECT note('other')"))).await;
    let others = value(other, "SELECT pg_backend_pid() FROM note('which')").await;
    before == value(client, "SELECT pg_backend_pid() FROM note('again')").await && before != others
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_a_pool_of_its_own_kind() {
    let mut stand = Stand::new(|setup| {
        single(setup)
            .set("users.postgres", "pool.mode", quote("session"))
            .set("users.postgres", "pool.size", "2")
            .set("users.postgres", "pool.query_timeout", quote("500ms"))
            .set("users.postgres", "max_clients", "3")
    });
    let console = stand.lagoon.console().await;
    let (ours, theirs) = (stand.client().await, stranger(&stand).await);
    let other = stranger(&stand).await;
    assert!(keeps_its_session(&theirs, &other).await, "session mode");
    let pools = table(&console, "SHOW POOLS").await;
    let mode = |user: &str| pools.iter().find(|row| row["user"] == user).map(|row| row["pool_mode"].clone());
    assert_eq!((mode("postgres").as_deref(), mode("app").as_deref()), (Some("session"), Some("transaction")));
    let users = table(&console, "SHOW USERS").await;
    let row = users.iter().find(|row| row["name"] == "postgres").expect("its row");
    let columns = ["pool_size", "pool_mode", "max_user_client_connections", "current_client_connections"];
    assert_eq!(columns.map(|column| &*row[column]), ["2", "session", "3", "2"]);

    // A third client of two connections waits for one of those who keep theirs.
    let third = stranger(&stand).await;
    let waits = tokio::time::timeout(Duration::from_millis(300), third.simple_query("SELECT 1")).await;
    assert!(waits.is_err(), "there are two connections");
    assert_eq!(sqlstate(stand.lagoon.connect(&stand.lagoon.url("postgres", "app")).await).0, "53300");
    drop((third, other));

    // Its time limit is its own.
    rows(&ours, "SELECT pg_sleep(1)").await;
    assert_eq!(sqlstate(theirs.simple_query("SELECT pg_sleep(10)").await).0, "57014");

    // A reload that takes it all away counts for who comes, and a mode for who is here.
    let theirs = stranger(&stand).await;
    rows(&theirs, "SELECT 1").await;
    stand.lagoon.reconfigure(|setup| {
        ["pool.mode", "pool.size", "pool.query_timeout", "max_clients"]
            .into_iter()
            .fold(setup, |setup, key| setup.unset("users.postgres", key))
            .set("users.app", "pool.mode", quote("session"))
            .set("users.app", "pool.size", "2")
    });
    rows(&console, "RELOAD").await;
    let other = stand.client().await;
    eventually_async("the user's connections are kept now", async || keeps_its_session(&ours, &other).await)
        .await;
    let more = join_all((0..4).map(|_| stranger(&stand))).await;
    join_all(more.iter().map(|client| rows(client, "SELECT 1 FROM pg_sleep(0.1)"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_database_and_of_a_user_are_limited_to_the_one() {
    let mut stand = Stand::new(|setup| {
        single(setup).set("pool", "max_db_clients", "5").set("listen", "max_user_clients", "3").set(
            "users.app",
            "max_clients",
            quote("off"),
        )
    });
    let try_as = async |user: &str| match stand.lagoon.connect(&stand.lagoon.url(user, "app")).await {
        Ok(client) => Ok(client),
        Err(error) => Err(error.as_db_error().expect("an answer").message().to_owned()),
    };
    let theirs = join_all((0..12).map(|_| try_as("postgres"))).await;
    let refused: Vec<_> = theirs.iter().filter_map(|client| client.as_ref().err()).collect();
    let text = "too many clients of user \"postgres\" already (listen.max_user_clients = 3)";
    assert!(refused.len() == 9 && refused.iter().all(|refused| *refused == text), "{refused:?}");
    let ours = join_all((0..6).map(|_| try_as("app"))).await;
    let refused: Vec<_> = ours.iter().filter_map(|client| client.as_ref().err()).collect();
    let text = "too many clients of database \"app\" already (pool.max_db_clients = 5)";
    assert!(refused.len() == 4 && refused.iter().all(|refused| *refused == text), "{refused:?}");
    let console = stand.lagoon.console().await;
    let databases = table(&console, "SHOW DATABASES").await;
    let row = databases.iter().find(|row| row["name"] == "app").expect("its row");
    let columns = ["max_client_connections", "current_client_connections"];
    assert_eq!(columns.map(|column| &*row[column]), ["5", "5"]);
    drop(ours);
    let ours = stand.client().await;
    rows(&ours, "SELECT 1").await;

    // Who is here stays, and counts, in whichever pools a reload puts him.
    stand
        .lagoon
        .reconfigure(|setup| setup.set("pool", "mode", quote("session")).set("pool", "max_db_clients", "4"));
    rows(&console, "RELOAD").await;
    let try_as = async |user: &str| stand.lagoon.connect(&stand.lagoon.url(user, "app")).await;
    assert_eq!(sqlstate(try_as("app").await).0, "53300");
    drop(theirs);
    eventually_async("there is room", async || try_as("postgres").await.is_ok()).await;
    rows(&ours, "SELECT 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_connection_that_died_while_idle_is_not_handed_out() {
    let stand = Stand::new(single);
    let client = stand.client().await;
    for _ in 0..5 {
        let pid = value(&client, "SELECT pg_backend_pid()").await;
        stand.playground.primary().sql(&format!("SELECT pg_terminate_backend({pid}, 5000)")).unwrap();
        eventually("the backend is gone", || stand.backends(0, &format!("pid = {pid}")) == 0);
        assert_ne!(value(&client, "SELECT pg_backend_pid()").await, pid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_connection_that_dies_in_use_ends_in_a_clear_error() {
    let stand = Stand::new(single);
    let client = stand.client().await;
    client.simple_query("BEGIN").await.unwrap();
    let pid = value(&client, "SELECT pg_backend_pid()").await;
    stand.playground.primary().sql(&format!("SELECT pg_terminate_backend({pid}, 5000)")).unwrap();
    let error = client.simple_query("SELECT 1").await.expect_err("the transaction is lost");
    if let Some(answer) = error.as_db_error() {
        let class = &answer.code().code()[..2];
        assert!(["57", "08", "25", "40"].contains(&class), "{answer:?}");
    }
    rows(&stand.client().await, "SELECT 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_primary_is_used_again() {
    let mut stand = Stand::new(single);
    rows(&stand.client().await, "SELECT note('before')").await;
    stand.playground.node_mut(0).restart(pglagoon::cli::playground::Stop::Fast).unwrap();
    let lagoon = &stand.lagoon;
    eventually_async("writes work again", async || {
        let Ok(client) = lagoon.connect(&lagoon.url("app", "app")).await else { return false };
        client.simple_query("SELECT note('after')").await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_full_makes_clients_wait_or_tells_them_why() {
    let mut options = crate::harness::options(&crate::harness::installations()[0]);
    options.max_connections = 15;
    let stand = Stand::with(options, |setup| {
        setup.set("pool", "size", "50").set("routing", "reads", quote("primary"))
    });
    let clients = join_all((0..30).map(|_| stand.client())).await;
    let done = join_all(clients.iter().map(async |client| {
        match client.simple_query("SELECT pg_sleep(0.2), note('full')").await {
            Ok(_) => None,
            Err(error) => Some(
                error.as_db_error().expect("an answer, not a broken connection").code().code().to_owned(),
            ),
        }
    }))
    .await;
    let refused: Vec<&String> = done.iter().flatten().collect();
    assert!(refused.iter().all(|code| code.starts_with("53")), "{refused:?}");
    assert!(refused.len() < done.len(), "somebody is served");
    rows(&stand.client().await, "SELECT note('after')").await;
}

/// What the pools of other databases keep idle is no reason to refuse anybody.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_make_way_where_a_server_or_a_role_or_a_database_is_full() {
    const TENANTS: usize = 9;
    let mut options = crate::harness::options(&crate::harness::installations()[0]);
    (options.replicas, options.max_connections) = (0, 15);
    let stand = Stand::with(options, |setup| {
        let servers = setup.value("databases.app", "servers").unwrap().to_owned();
        let setup = setup.set("pool", "size", "5").set("routing", "reads", quote("primary"));
        (0..TENANTS).fold(setup, |setup, tenant| {
            let section = format!("databases.tenant{tenant}");
            setup.set(&section, "servers", servers.clone()).set(&section, "database", quote("app"))
        })
    });
    let primary = stand.playground.primary();
    let limits = [
        ("Server", "SELECT 1"),
        ("Role", "ALTER ROLE app CONNECTION LIMIT 8"),
        ("Database", "ALTER ROLE app CONNECTION LIMIT -1; ALTER DATABASE app CONNECTION LIMIT 8"),
    ];
    for (tenants, (full, limit)) in (0..TENANTS).collect::<Vec<_>>().chunks(3).zip(limits) {
        primary.sql(limit).unwrap();
        for tenant in tenants {
            let url = stand.lagoon.url("app", &format!("tenant{tenant}"));
            let clients = join_all((0..5).map(async |_| stand.lagoon.connect(&url).await.unwrap())).await;
            // Each has a connection before the first gives his back.
            join_all(clients.iter().map(|client| rows(client, "BEGIN; SELECT note('holds')"))).await;
            join_all(clients.iter().map(|client| rows(client, "COMMIT"))).await;
        }
        assert!(stand.lagoon.log().contains(&format!("full={full}")), "{full}");
    }
}

/// By which it is known what servers are, and how far.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_make_way_for_the_monitor_s_and_the_oracle_s() {
    const POOL: usize = 4;
    let mut options = crate::harness::options(&crate::harness::installations()[0]);
    options.replicas = 1;
    let stand = Stand::with(options, |setup| {
        setup.set("pool", "size", POOL.to_string()).set("monitor", "user", quote("app")).set(
            "monitor",
            "password",
            quote(pglagoon::cli::playground::PASSWORD),
        )
    });
    let primary = stand.playground.primary();
    let clients = join_all((0..POOL).map(|_| stand.client())).await;
    join_all(clients.iter().map(|client| rows(client, "SELECT note('fills'), pg_sleep(0.2)"))).await;
    rows(&clients[0], "SELECT count(*) FROM notes").await;
    let ours = || stand.backends(0, "application_name = 'pglagoon monitor'");
    eventually("both are there", || ours() == 2 && stand.backends(0, "usename = 'app'") == POOL + 2);
    // As after a restart in which the pools were quicker.
    primary.sql(&format!("ALTER ROLE app CONNECTION LIMIT {POOL}")).unwrap();
    let ended = primary.sql(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'pglagoon monitor'",
    );
    assert_eq!(ended.unwrap().trim(), "2");
    eventually_async("both are there again, and nobody was refused meanwhile", async || {
        for client in &clients {
            rows(client, "INSERT INTO notes (word) VALUES ('written')").await;
            rows(client, "SELECT count(*) FROM notes").await;
        }
        ours() == 2
    })
    .await;
    assert!(stand.lagoon.log().matches("makes way for one of our own").count() >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_in_vain_or_takes_too_long_is_in_the_log() {
    let stand = Stand::new(|setup| {
        setup
            .set("pool", "size", "1")
            .set("pool", "checkout_timeout", quote("200ms"))
            .set("pool", "idle_transaction_timeout", quote("1s"))
            .set("routing", "reads", quote("primary"))
    });
    let (holder, waiter) = (stand.client().await, stand.client().await);
    holder.simple_query("BEGIN; SELECT note('held')").await.unwrap();
    assert_eq!(sqlstate(waiter.simple_query("SELECT 1").await).0, "53300");
    eventually("the holder is cut off", || holder.is_closed());
    let log = stand.lagoon.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("a client was told")).collect();
    for code in ["53300", "25P03"] {
        let wanted = format!("user=\"app\" database=\"app\" sqlstate={code}");
        assert!(
            told.iter().any(|line| line.contains("client=") && line.contains(&wanted)),
            "{code}: {told:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_s_time_is_its_own() {
    let stand = Stand::new(|setup| {
        setup.set("pool", "query_timeout", quote("2s")).set("routing", "reads", quote("primary"))
    });
    let client = stand.client().await;
    let many = join_all((0..30).map(|_| client.simple_query("SELECT pg_sleep(0.1)"))).await;
    assert!(many.iter().all(Result::is_ok), "none took two seconds, all together three");
    let begun = client.simple_query("SELECT note('lost'), pg_sleep(1.9)");
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%lost%' AND pid <> pg_backend_pid()";
    let (lost, ()) = tokio::join!(begun, async {
        eventually("it runs", || stand.playground.primary().sql(kill).unwrap().trim() == "1");
    });
    assert_eq!(sqlstate(lost).0, "08007");
    // Longer than a query may take, and than it takes to look at the clock.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(value(&client, "SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_s_time_is_all_that_it_takes() {
    let stand = Stand::new(|setup| {
        setup.set("pool", "transaction_timeout", quote("2s")).set("routing", "reads", quote("primary"))
    });
    let (client, busy) = (stand.client().await, stand.client().await);
    let many = join_all((0..30).map(|_| client.simple_query("SELECT pg_sleep(0.1)"))).await;
    assert!(many.iter().all(Result::is_ok), "none took two seconds, all together three");
    // Idle for longer, outside of transactions.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    client.simple_query("BEGIN; SELECT note('lost')").await.unwrap();
    busy.simple_query("BEGIN").await.unwrap();
    let began = Instant::now();
    let ended = loop {
        let answer = busy.simple_query("SELECT pg_sleep(0.1)").await;
        if answer.is_err() {
            break sqlstate(answer).0;
        }
    };
    let lasted = began.elapsed();
    assert_eq!(ended, "25P04");
    assert!(lasted >= Duration::from_millis(1800) && lasted < Duration::from_secs(4), "{lasted:?}");
    eventually("who does nothing in a transaction is cut off, too", || client.is_closed());
    eventually("both are rolled back", || stand.backends(0, "state LIKE 'idle in transaction%'") == 0);
    assert_eq!(stand.playground.primary().sql_in("app", "SELECT count(*) FROM notes").unwrap().trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_vain_was_not_idle() {
    let stand = Stand::new(|setup| {
        setup
            .set("pool", "size", "1")
            .set("pool", "checkout_timeout", quote("1500ms"))
            .set("listen", "client_idle_timeout", quote("1s"))
            .set("routing", "reads", quote("primary"))
    });
    let (holder, waiter) = (stand.client().await, stand.client().await);
    holder.simple_query("BEGIN; SELECT note('held')").await.unwrap();
    assert_eq!(sqlstate(waiter.simple_query("SELECT 1").await).0, "53300");
    holder.simple_query("COMMIT").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(value(&waiter, "SELECT 1").await, "1");
    eventually("it is idle now", || waiter.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_connections_from_coming_is_told_until_reconnect_says_that_it_is_mended() {
    let stand = Stand::new(|setup| {
        setup.set("pool", "checkout_timeout", quote("500ms")).set("routing", "reads", quote("primary"))
    });
    let (client, console) = (stand.client().await, stand.lagoon.console().await);
    let primary = stand.playground.primary();
    let failures = || stand.lagoon.log().matches("login failed").count();
    for (refusal, code, words, cure) in [
        ("NOLOGIN", "28000", "is not permitted to log in", "LOGIN"),
        ("CONNECTION LIMIT 0", "53300", "too many connections for role", "CONNECTION LIMIT -1"),
    ] {
        primary.sql(&format!("ALTER ROLE app {refusal}")).unwrap();
        console.simple_query("RECONNECT app").await.unwrap();
        eventually("no connection is left", || stand.backends(0, "usename = 'app'") == 0);
        // Up to the fifth, after which the next login waits longer than a client does.
        let before = failures();
        while failures() < before + 5 {
            let asked = Instant::now();
            let (told, text) = sqlstate(client.simple_query("SELECT note('refused')").await);
            assert!(told == code && text.contains(words), "{refusal}: {told} {text}");
            assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
        }
        primary.sql(&format!("ALTER ROLE app {cure}")).unwrap();
        console.simple_query("RECONNECT app").await.unwrap();
        assert_eq!(value(&client, "SELECT note('let in')").await, "let in");
    }
}
