//! Who may log in, and how.

use std::fs;

use pglagoon::cli::playground::PASSWORD;

use crate::harness::{Stand, eventually, eventually_async, join_all, quote, rows, value};
use crate::raw::{Raw, V3_0, startup};

/// The SQLSTATE of a login that must fail.
async fn refusal(stand: &Stand, url: &str) -> String {
    match stand.lagoon.connect(url).await {
        Ok(client) => match client.simple_query("SELECT 1").await {
            Ok(_) => panic!("{url} was let in"),
            Err(error) => error.as_db_error().expect("an answer").code().code().to_owned(),
        },
        Err(error) => error.as_db_error().unwrap_or_else(|| panic!("{error:?}")).code().code().to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_takes_the_right_password_and_refuses_the_wrong_one() {
    for method in ["scram-sha-256", "md5", "password"] {
        let stand = Stand::new(|setup| setup.set("auth", "method", quote(method)));
        let port = stand.lagoon.port;
        assert_eq!(value(&stand.client().await, "SELECT session_user").await, "app", "{method}");
        for (user, password) in [("app", "wrong"), ("app", ""), ("nobody", "secret"), ("app", "Secret")] {
            let url = format!("host=127.0.0.1 port={port} user={user} password='{password}' dbname=app");
            assert_eq!(refusal(&stand, &url).await, "28P01", "{method} {user} {password}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_believes_known_users_only() {
    let stand = Stand::new(|setup| setup.set("auth", "method", quote("trust")));
    let port = stand.lagoon.port;
    let trusted = format!("host=127.0.0.1 port={port} user=app dbname=app");
    rows(&stand.lagoon.connect(&trusted).await.unwrap(), "SELECT 1").await;
    let unknown = format!("host=127.0.0.1 port={port} user=nobody dbname=app");
    assert!(refusal(&stand, &unknown).await.starts_with("28"));
}

#[test]
fn an_unknown_user_is_asked_for_a_password_like_any_other() {
    let stand = Stand::new(|setup| setup);
    let mut asked = Vec::new();
    for user in ["app", "nobody"] {
        let mut client = Raw::connect(stand.lagoon.port);
        client.send(&startup(V3_0, &[("user", user), ("database", "app")]));
        asked.push(client.read());
    }
    assert_eq!(asked[0], asked[1], "the first answer tells nothing about who exists");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_come_from_the_auth_file_too() {
    let stand = Stand::new(|setup| setup);
    // Verifiers as PostgreSQL itself made them.
    let shadow = |user: &str| {
        let sql = format!("SELECT passwd FROM pg_shadow WHERE usename = '{user}'");
        stand.playground.primary().sql(&sql).unwrap().trim().to_owned()
    };
    let (scram, md5) = (shadow("app"), shadow("old"));
    assert!(scram.starts_with("SCRAM-SHA-256$") && md5.starts_with("md5"));
    let list = stand.playground.folder().join("userlist.txt");
    // An MD5 hash cannot serve a SCRAM exchange, and the configuration says so.
    for (method, users) in [("scram-sha-256", &["app", "postgres"][..]), ("md5", &["app", "postgres", "old"])]
    {
        let playground = &stand.playground;
        let line = |user: &str| {
            let secret = match user {
                "app" => &scram,
                "old" => &md5,
                _ => PASSWORD,
            };
            format!("\"{user}\" \"{secret}\"\n")
        };
        let text: String = users.iter().map(|user| line(user)).collect();
        fs::write(&list, format!("; a comment\n{text}")).unwrap();
        let servers: Vec<String> = playground.nodes().iter().map(|node| quote(&node.address())).collect();
        let setup = crate::harness::Setup::empty()
            .set("auth", "method", quote(method))
            .set("auth", "auth_file", quote(list.to_str().unwrap()))
            .set("monitor", "user", quote("postgres"))
            .set("monitor", "password", quote(PASSWORD))
            .set("databases.app", "servers", format!("[{}]", servers.join(", ")))
            // Verifiers open no server: pglagoon needs a password of its own there.
            .set("databases.app", "server_user", quote("app"))
            .set("databases.app", "server_password", quote(PASSWORD));
        let lagoon = crate::harness::Lagoon::start(playground, setup);
        for user in users {
            let answer = lagoon.connect(&lagoon.url(user, "app")).await;
            assert!(answer.is_ok(), "{method} {user}: {:?}", answer.err());
            let wrong = format!("host=127.0.0.1 port={} user={user} password=wrong dbname=app", lagoon.port);
            assert!(lagoon.connect(&wrong).await.is_err(), "{method} {user}");
        }
    }
}

/// Gives a user a password, of which the servers keep an MD5 hash or a SCRAM verifier.
fn give(stand: &Stand, user: &str, password: &str, encryption: &str) {
    let sql = format!("SET password_encryption = '{encryption}'; ALTER ROLE {user} PASSWORD '{password}'");
    stand.playground.primary().sql(&sql).unwrap();
}

fn url_with(stand: &Stand, user: &str, password: &str, database: &str) -> String {
    format!("host=127.0.0.1 port={} user={user} password={password} dbname={database}", stand.lagoon.port)
}

#[tokio::test(flavor = "multi_thread")]
async fn users_that_are_not_configured_are_looked_up_on_the_servers() {
    for (method, encryption) in [
        ("scram-sha-256", "scram-sha-256"),
        ("md5", "scram-sha-256"),
        ("md5", "md5"),
        ("password", "scram-sha-256"),
    ] {
        let stand = Stand::new(|setup| {
            let servers = setup.value("databases.app", "servers").unwrap().to_owned();
            setup
                .set("auth", "method", quote(method))
                .set("auth", "auth_user", quote("postgres"))
                .set("databases.\"*\"", "servers", servers)
                .without("users.old")
        });
        // The one that the servers ask for MD5.
        let user = if encryption == "md5" { "old" } else { "guest" };
        let primary = stand.playground.primary();
        primary.sql("CREATE ROLE guest LOGIN").unwrap();
        give(&stand, user, "first", encryption);
        let may = async |user: &str, password: &str| {
            let url = url_with(&stand, user, password, "app");
            match stand.lagoon.connect(&url).await {
                Ok(client) => {
                    // It is this user on the servers, too, on the primary and on replicas.
                    rows(&client, "CREATE TEMP TABLE mine (i int)").await;
                    assert_eq!(value(&client, "SELECT session_user").await, user, "{method} {encryption}");
                    true
                }
                Err(error) => {
                    assert_eq!(error.as_db_error().expect("an answer").code().code(), "28P01", "{error:?}");
                    false
                }
            }
        };
        let told = |what: &str| format!("{method} {encryption}: {what}");
        assert!(may(user, "first").await, "{}", told("the right password"));
        assert!(!may(user, "wrong").await, "{}", told("a wrong one"));
        assert!(!may("nobody", "first").await, "{}", told("no such user"));
        assert!(may("app", PASSWORD).await, "{}", told("who is configured"));
        let nowhere = url_with(&stand, user, "first", "nowhere");
        assert_eq!(refusal(&stand, &nowhere).await, "3D000", "{}", told("no such database"));
        give(&stand, user, "second", encryption);
        assert!(!may(user, "first").await && may(user, "second").await, "{}", told("a new password"));
        primary.sql(&format!("ALTER ROLE {user} VALID UNTIL '2001-01-01'")).unwrap();
        assert!(!may(user, "second").await, "{}", told("it is over"));
        primary.sql(&format!("ALTER ROLE {user} VALID UNTIL 'infinity' NOLOGIN")).unwrap();
        assert!(!may(user, "second").await, "{}", told("no login"));
        assert!(!stand.lagoon.log().contains("SCRAM-SHA-256$"), "a secret was shown");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_password_is_found_where_none_is_asked_for_and_nowhere_else() {
    for (method, expected) in [("trust", None), ("scram-sha-256", Some("28P01")), ("password", Some("28P01"))]
    {
        let stand = Stand::new(|setup| {
            setup
                .set("auth", "method", quote(method))
                .set("auth", "auth_user", quote("postgres"))
                .set("databases.app", "server_user", quote("postgres"))
                .set("databases.app", "server_password", quote(PASSWORD))
        });
        stand.playground.primary().sql("CREATE ROLE guest LOGIN").unwrap();
        let guest = url_with(&stand, "guest", "any", "app");
        match expected {
            None => drop(rows(&stand.lagoon.connect(&guest).await.unwrap(), "SELECT 1").await),
            Some(code) => assert_eq!(refusal(&stand, &guest).await, code),
        }
        let nobody = url_with(&stand, "nobody", "any", "app");
        assert!(refusal(&stand, &nobody).await.starts_with("28"), "{method}");
        // Whoever it is, the console is for those who are configured.
        let console = url_with(&stand, "guest", "any", "pglagoon");
        assert!(refusal(&stand, &console).await.starts_with("28"), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_up_goes_by_a_function_of_ones_own_and_survives_a_failover_and_a_restart() {
    const LOOKUP: &str = "
        CREATE ROLE finder LOGIN PASSWORD 'finder';
        CREATE FUNCTION lookup(uname text, OUT usename name, OUT passwd text) RETURNS record LANGUAGE sql SECURITY DEFINER
            AS 'SELECT usename, passwd FROM pg_catalog.pg_shadow WHERE usename = uname';
        REVOKE ALL ON FUNCTION lookup FROM public; GRANT EXECUTE ON FUNCTION lookup TO finder";
    let mut stand = Stand::new(|setup| {
        setup
            .set("users.finder", "password", quote("finder"))
            .set("auth", "auth_user", quote("finder"))
            // As PgBouncer's users have it: the name comes first.
            .set("auth", "auth_query", quote("SELECT usename, passwd FROM lookup($1)"))
            .set("auth", "auth_dbname", quote("app"))
            .set("databases.other", "servers", "[\"127.0.0.1:1\"]")
            .set("pool", "hold_timeout", quote("2s"))
    });
    // It is not there yet.
    let (guest, other) =
        (url_with(&stand, "guest", "pw", "app"), url_with(&stand, "guest", "wrong", "other"));
    assert_eq!(refusal(&stand, &guest).await, "F0000");
    assert!(stand.lagoon.log().contains("a user could not be looked up"), "{}", stand.lagoon.log());
    stand.playground.primary().sql("CREATE ROLE guest LOGIN").unwrap();
    give(&stand, "guest", "pw", "scram-sha-256");
    stand.playground.primary().sql_in("app", LOOKUP).unwrap();
    let lsn = stand.playground.primary().sql("SELECT pg_current_wal_lsn()").unwrap();
    for replica in stand.playground.replicas() {
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", lsn.trim());
        eventually("the replica has it", || replica.sql(&sql).unwrap().trim() == "t");
    }
    let client = stand.lagoon.connect(&guest).await.unwrap();
    assert_eq!(value(&client, "SELECT session_user").await, "guest");
    assert_eq!(refusal(&stand, &other).await, "28P01", "asked in the database that is configured for it");

    // Without a primary a replica is asked.
    stand.playground.node_mut(0).stop(pglagoon::cli::playground::Stop::Fast).unwrap();
    eventually_async("somebody new is let in", async || match stand.lagoon.connect(&guest).await {
        Ok(client) => client.simple_query("SELECT 1").await.is_ok(),
        Err(_) => false,
    })
    .await;
    stand.playground.node_mut(0).start().unwrap();
    eventually_async("it is served again", async || {
        client.simple_query("SELECT pg_current_xact_id()").await.is_ok()
    })
    .await;

    // Who is not configured goes along, and stays until nobody is looked up any more.
    stand.lagoon.upgrade();
    assert!(stand.lagoon.wait_end(std::time::Duration::from_secs(30)).success());
    assert_eq!(value(&client, "SELECT session_user").await, "guest");
    let console = stand.lagoon.console().await;
    stand.lagoon.reconfigure(|setup| setup.set("users.more", "password", quote("more")));
    rows(&console, "RELOAD").await;
    rows(&client, "SELECT 1").await;
    stand.lagoon.reconfigure(|setup| {
        setup.unset("auth", "auth_user").unset("auth", "auth_query").unset("auth", "auth_dbname")
    });
    rows(&console, "RELOAD").await;
    eventually_async("it is told to go", async || client.simple_query("SELECT 1").await.is_err()).await;
    assert_eq!(refusal(&stand, &guest).await, "28P01");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_ask_for_md5() {
    let stand = Stand::new(|setup| setup);
    stand.playground.primary().sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO old").unwrap();
    let client = stand.lagoon.connect(&stand.lagoon.url("old", "app")).await.unwrap();
    assert_eq!(value(&client, "SELECT session_user").await, "old");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_database_is_refused_by_name() {
    let stand = Stand::new(|setup| setup);
    assert_eq!(refusal(&stand, &stand.lagoon.url("app", "nowhere")).await, "3D000");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_beyond_the_limit_are_refused_and_places_become_free_again() {
    let stand = Stand::new(|setup| setup.set("listen", "max_clients", "5"));
    let mut clients = join_all((0..5).map(|_| stand.client())).await;
    assert_eq!(refusal(&stand, &stand.lagoon.url("app", "app")).await, "53300");
    clients.pop();
    eventually_async("a place is free", async || {
        stand.lagoon.connect(&stand.lagoon.url("app", "app")).await.is_ok()
    })
    .await;
    for client in &clients {
        rows(client, "SELECT 1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_can_be_opened_when_there_is_no_place_for_clients() {
    let stand = Stand::new(|setup| setup.set("listen", "max_clients", "2"));
    let _clients = join_all((0..2).map(|_| stand.client())).await;
    let console = stand.lagoon.url("app", "pgbouncer");
    assert_eq!(refusal(&stand, &stand.lagoon.url("app", "app")).await, "53300");
    let mut open = join_all((0..16).map(|_| stand.lagoon.console())).await;
    assert_eq!(rows(&open[15], "SHOW VERSION").await.len(), 1);
    assert_eq!(refusal(&stand, &console).await, "53300", "there is a limit to that, too");
    open.pop();
    eventually_async("a place is free", async || {
        // Who may not open it takes a place only until that is known.
        refusal(&stand, &stand.lagoon.url("old", "pglagoon")).await == "42501"
    })
    .await;
    eventually_async("it is free again", async || stand.lagoon.connect(&console).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_is_in_the_log_and_counted() {
    let stand = Stand::new(|setup| setup.set("listen", "login_timeout", quote("1s")));
    let lagoon = &stand.lagoon;
    let wrong = lagoon.url("app", "app").replace(PASSWORD, "hunter2");
    assert_eq!(refusal(&stand, &wrong).await, "28P01");
    assert_eq!(refusal(&stand, &lagoon.url("old", "pglagoon")).await, "42501");
    let mut stranger = Raw::connect(lagoon.port);
    stranger.send(&startup(V3_0, &[("user", "x\n2026 INFO forged\u{1b}[0m"), ("database", "app")]));
    let silent = Raw::connect(lagoon.port);
    eventually("all three are counted, and who says nothing, too", || {
        let metrics = lagoon.http("/metrics").unwrap().body;
        [("28P01", 1), ("42501", 1), ("57014", 2)].iter().all(|(code, count)| {
            metrics.contains(&format!("pglagoon_logins_refused_total{{sqlstate=\"{code}\"}} {count}\n"))
        })
    });
    let log = lagoon.log();
    let refused: Vec<&str> = log.lines().filter(|line| line.contains("a login was refused")).collect();
    assert!(
        refused.iter().all(|line| line.contains("INFO") && line.contains("peer=127.0.0.1:")),
        "{refused:?}"
    );
    for wanted in [
        r#"user="app" database="app" sqlstate=28P01"#,
        r#"user="old" database="pglagoon" sqlstate=42501"#,
        r#"user="x\n2026 INFO forged\u{1b}[0m" database="app" sqlstate=57014"#,
        r#"user="" database="" sqlstate=57014"#,
    ] {
        assert_eq!(refused.iter().filter(|line| line.contains(wanted)).count(), 1, "{wanted}: {refused:?}");
    }
    assert!(!log.contains("hunter2"), "a secret was shown:\n{log}");
    drop((stranger, silent));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_server_password_is_told_to_the_client_and_is_not_shown_anywhere() {
    let stand = Stand::new(|setup| {
        setup
            .set("databases.app", "server_user", quote("app"))
            .set("databases.app", "server_password", quote("hunter2-not-the-one"))
            .set("pool", "checkout_timeout", quote("2s"))
    });
    let answer = match stand.lagoon.connect(&stand.lagoon.url("app", "app")).await {
        Ok(client) => client.simple_query("SELECT 1").await.map(drop),
        Err(error) => Err(error),
    };
    let error = answer.expect_err("the servers let nobody in");
    assert!(error.as_db_error().is_some(), "an answer, not {error:?}");
    for text in [stand.lagoon.log(), format!("{error:?}")] {
        assert!(!text.contains("hunter2"), "a secret was shown:\n{text}");
    }
}
