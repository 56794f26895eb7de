//! State that lives in a session: its client keeps it whatever server connection it is on, nobody else sees it, and
//! nothing is left when the client has gone. What cannot follow pins its client, and no longer than it is there.

use crate::harness::{
    Setup, Stand, eventually, eventually_async, installations, join_all, quote, rows, sqlstate, table, value,
};
use crate::raw::{Raw, bind, execute, first_column, parse, sync};
use tokio_postgres::Client;

/// Every client may find every other's leavings: two server connections for all, used in turn.
fn crowded(setup: Setup) -> Setup {
    setup.set("pool", "size", "2").set("pool", "pin_limit", "50").set("routing", "reads", quote("primary"))
}

/// Whoever asks has the connection that another client has just had.
fn alone(setup: Setup) -> Setup {
    crowded(setup).set("pool", "size", "1").set("auth", "method", quote("trust"))
}

fn prepare_server(stand: &Stand) {
    stand
        .playground
        .primary()
        .sql(
            "GRANT old TO app;
             CREATE FUNCTION sets() RETURNS void LANGUAGE plpgsql AS
                 'BEGIN PERFORM set_config(''app.inside'', ''set'', false); END';
             CREATE FUNCTION calls() RETURNS void LANGUAGE sql AS 'SELECT sets()';
             CREATE FUNCTION locks(key bigint) RETURNS void LANGUAGE plpgsql AS
                 'BEGIN EXECUTE ''SELECT pg_advisory_lock($1)'' USING key; END'",
        )
        .unwrap();
}

/// What a function does to settings is told by its body, which the catalog snapshot must have.
async fn know_functions(stand: &Stand) {
    let client = stand.client().await;
    // DDL that is seen has the catalog read.
    client.simple_query("CREATE TABLE seen_ddl ()").await.unwrap();
    eventually_async("the functions are known", async || {
        let told = rows(&client, "SHOW pglagoon.route FOR SELECT calls(), sets(), locks(1)").await;
        !told.concat().iter().any(|value| value.starts_with("unknown_function"))
    })
    .await;
}

struct Case {
    /// What leaves state behind.
    does: &'static [&'static str],
    probe: &'static str,
    /// What the probe says to whoever did that, and to everybody else.
    own: &'static str,
    other: &'static str,
    /// What takes the state back: then nothing pins.
    undoes: &'static str,
}

const CASES: &[Case] = &[
    Case {
        does: &["SET work_mem = '9MB'"],
        probe: "SHOW work_mem",
        own: "9MB",
        other: "4MB",
        undoes: "RESET work_mem",
    },
    Case {
        does: &["SET ROLE old"],
        probe: "SELECT current_user",
        own: "old",
        other: "app",
        undoes: "RESET ROLE",
    },
    Case {
        does: &["SELECT set_config('app.a', 'x', false)"],
        probe: "SELECT coalesce(nullif(current_setting('app.a', true), ''), '-')",
        own: "x",
        other: "-",
        undoes: "RESET ALL",
    },
    Case {
        does: &["SELECT 1, set_config('work_mem', '1' || '2MB', false), now() FROM numbers WHERE i < 3"],
        probe: "SHOW work_mem",
        own: "12MB",
        other: "4MB",
        undoes: "RESET work_mem",
    },
    Case {
        does: &["SELECT set_config('role', 'old', false), set_config('search_path', 'pg_catalog', false)"],
        probe: "SELECT current_user || ' ' || current_setting('search_path')",
        own: "old pg_catalog",
        other: "app \"$user\", public",
        undoes: "RESET ROLE; RESET search_path",
    },
    Case {
        does: &["DO $$ BEGIN PERFORM set_config('work_mem', '7MB', false); END $$"],
        probe: "SHOW work_mem",
        own: "7MB",
        other: "4MB",
        undoes: "DISCARD ALL",
    },
    Case {
        does: &["SELECT calls()"],
        probe: "SELECT coalesce(nullif(current_setting('app.inside', true), ''), '-')",
        own: "set",
        other: "-",
        undoes: "DISCARD ALL",
    },
    Case {
        does: &[
            "BEGIN",
            "SET work_mem = '5MB'",
            "SAVEPOINT s",
            "SET work_mem = '6MB'",
            "ROLLBACK TO s",
            "COMMIT",
        ],
        probe: "SHOW work_mem",
        own: "5MB",
        other: "4MB",
        undoes: "RESET work_mem",
    },
    Case {
        does: &["CREATE TEMP TABLE mine (a int)"],
        probe: "SELECT coalesce(to_regclass('mine')::text, '-')",
        own: "mine",
        other: "-",
        undoes: "DROP TABLE mine",
    },
    Case {
        does: &["BEGIN", "DECLARE held CURSOR WITH HOLD FOR SELECT i FROM numbers", "COMMIT"],
        probe: "SELECT count(*) FROM pg_cursors WHERE name = 'held'",
        own: "1",
        other: "0",
        undoes: "CLOSE held",
    },
    Case {
        does: &["SELECT pg_advisory_lock(77)"],
        probe: OWN_LOCKS,
        own: "1",
        other: "0",
        undoes: "SELECT pg_advisory_unlock(77)",
    },
    Case {
        does: &["SELECT i, pg_catalog.\"pg_advisory_lock\"(hashtext('a' || i)) FROM numbers WHERE i < 3"],
        probe: OWN_LOCKS,
        own: "2",
        other: "0",
        undoes: "SELECT pg_advisory_unlock_all()",
    },
    Case {
        does: &["SELECT locks(5)"],
        probe: OWN_LOCKS,
        own: "1",
        other: "0",
        undoes: "SELECT pg_advisory_unlock(5)",
    },
    Case {
        does: &["SET datestyle = 'SQL'", "SET datestyle = dmy"],
        probe: "SHOW datestyle",
        own: "SQL, DMY",
        other: "ISO, MDY",
        undoes: "RESET datestyle",
    },
    Case {
        does: &[
            "PREPARE lock AS SELECT pg_advisory_lock(78), 1 / (i - 1) FROM numbers WHERE i = 1",
            "SELECT 1",
            "EXECUTE lock -- fails; the lock stays",
        ],
        probe: OWN_LOCKS,
        own: "1",
        other: "0",
        undoes: "SELECT pg_advisory_unlock(78); DEALLOCATE lock",
    },
    Case {
        does: &["PREPARE mine (int) AS SELECT $1 + 1"],
        probe: "EXECUTE mine(1)",
        own: "2",
        other: "26000",
        undoes: "DEALLOCATE mine",
    },
];

const OWN_LOCKS: &str =
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";

/// The probe's value, or its SQLSTATE.
async fn probe(client: &Client, case: &Case) -> String {
    match client.simple_query(case.probe).await {
        Ok(_) => value(client, case.probe).await,
        Err(error) => error.as_db_error().expect("the server answers").code().code().to_owned(),
    }
}

async fn why_kept(console: &Client) -> Vec<String> {
    let clients = table(console, "SHOW CLIENTS").await;
    clients.into_iter().map(|mut row| row.remove("held").unwrap()).filter(|held| held != "NULL").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_kept_by_its_client_seen_by_nobody_else_and_gone_with_it() {
    for bin in installations() {
        let stand = Stand::on(&bin, crowded);
        prepare_server(&stand);
        know_functions(&stand).await;
        let console = stand.lagoon.console().await;
        for case in CASES {
            let other = stand.client().await;
            for ends in ["by disconnecting", case.undoes] {
                let client = stand.client().await;
                for sql in case.does {
                    let done = client.simple_query(sql).await;
                    assert!(done.is_ok() != sql.contains("-- fails"), "{sql}: {:?}", done.err());
                }
                for _ in 0..3 {
                    assert_eq!(probe(&other, case).await, case.other, "another client after {:?}", case.does);
                    assert_eq!(probe(&client, case).await, case.own, "its client after {:?}", case.does);
                }
                if ends == case.undoes {
                    client.simple_query(ends).await.unwrap();
                    assert_eq!(probe(&client, case).await, case.other, "its client after {ends}");
                } else {
                    drop(client);
                }
                eventually_async("nothing pins any more", async || why_kept(&console).await.is_empty()).await;
            }
            // Whoever comes next, on whichever connection.
            let next = join_all((0..2).map(|_| stand.client())).await;
            join_all(next.iter().map(|client| client.simple_query("BEGIN"))).await;
            for client in &next {
                assert_eq!(probe(client, case).await, case.other, "the next client after {:?}", case.does);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_leaves_behind_pins_too() {
    let stand = Stand::new(crowded);
    let console = stand.lagoon.console().await;
    let maker = stand.client().await;
    maker
        .batch_execute(
            "CREATE TABLE audited (i int);
             CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN CREATE TEMP TABLE IF NOT EXISTS seen (i int); RETURN new; END';
             CREATE TRIGGER audit BEFORE INSERT ON audited FOR EACH ROW EXECUTE FUNCTION audit();",
        )
        .await
        .unwrap();
    // The catalog is read a moment after DDL.
    let client = stand.client().await;
    eventually_async("it is pinned", async || {
        client.simple_query("INSERT INTO audited VALUES (1)").await.unwrap();
        why_kept(&console).await == ["temporary_relation"]
    })
    .await;
    for _ in 0..3 {
        assert_eq!(value(&client, "SELECT to_regclass('seen')::text").await, "seen");
        assert_eq!(value(&maker, "SELECT coalesce(to_regclass('seen')::text, '-')").await, "-");
    }
    drop(client);
    eventually_async("nothing pins any more", async || why_kept(&console).await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn set_config_by_parameters_follows_its_client() {
    let stand = Stand::new(crowded);
    let clients = join_all((0..4).map(|_| stand.client())).await;
    for (number, client) in clients.iter().enumerate() {
        let tenant = format!("tenant {number}");
        client.query("SELECT set_config('app.tenant', $1, false)", &[&tenant]).await.unwrap();
    }
    for _ in 0..3 {
        for (number, client) in clients.iter().enumerate() {
            let row = client.query_one("SELECT current_setting('app.tenant')", &[]).await.unwrap();
            assert_eq!(row.get::<_, &str>(0), format!("tenant {number}"));
        }
    }
    let console = stand.lagoon.console().await;
    assert_eq!(why_kept(&console).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_left_behind_after_all_pins_nobody() {
    let stand = Stand::new(|setup| crowded(setup).set("pool", "size", "4"));
    let (client, holder) = (stand.client().await, stand.client().await);
    let console = stand.lagoon.console().await;
    holder.simple_query("SELECT pg_advisory_lock(1)").await.unwrap();
    for sql in [
        "CREATE TEMP TABLE passing (a int) ON COMMIT DROP",
        "BEGIN; CREATE TEMP TABLE undone (a int); ROLLBACK",
        "SELECT pg_try_advisory_lock(1)",
        "DO $$ BEGIN UPDATE notes SET word = 'x'; END $$",
        "SELECT note('x')",
        "BEGIN; SET LOCAL work_mem = '9MB'; COMMIT",
    ] {
        client.simple_query(sql).await.unwrap();
        eventually_async("only the holder is pinned", async || why_kept(&console).await == ["advisory_lock"])
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_may_be_pinned_and_no_more() {
    let stand = Stand::new(crowded);
    let (first, second) = (stand.client().await, stand.client().await);
    first.simple_query("CREATE TEMP TABLE mine (a int)").await.unwrap();
    let (code, text) = sqlstate(second.simple_query("CREATE TEMP TABLE mine (a int)").await);
    assert_eq!(code, "53300");
    assert!(text.contains("keep a server connection") && text.contains("temporary_relation"), "{text}");
    assert_eq!(sqlstate(second.query("SELECT pg_advisory_lock(1)", &[]).await).0, "53300");
    // In a transaction the error is one of the transaction's.
    second.simple_query("BEGIN").await.unwrap();
    assert_eq!(sqlstate(second.simple_query("CREATE TEMP TABLE mine (a int)").await).0, "53300");
    assert_eq!(sqlstate(second.simple_query("SELECT 1").await).0, "25P02");
    second.simple_query("ROLLBACK").await.unwrap();
    assert_eq!(value(&second, "SELECT 1").await, "1");
    first.simple_query("CREATE TEMP TABLE mine_too (a int)").await.unwrap();
    first.simple_query("DROP TABLE mine, mine_too").await.unwrap();
    eventually_async("there is room again", async || {
        second.simple_query("CREATE TEMP TABLE mine ()").await.is_ok()
    })
    .await;
    let metrics = stand.lagoon.http("/metrics").unwrap().body;
    let pinned =
        metrics.lines().find(|line| line.contains("pglagoon_pinned_clients{") && line.contains("temporary"));
    assert!(pinned.is_some_and(|line| line.ends_with(" 1")), "{pinned:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn state_that_cannot_follow_may_be_forbidden() {
    let stand = Stand::new(|setup| crowded(setup).set("pool", "session_state", quote("error")));
    let client = stand.client().await;
    for sql in ["CREATE TEMP TABLE mine (a int)", "SELECT pg_advisory_lock(1)", "LOAD 'plpgsql'"] {
        let (code, text) = sqlstate(client.simple_query(sql).await);
        assert_eq!(code, "0A000", "{sql}: {text}");
    }
    client.simple_query("SET work_mem = '9MB'").await.unwrap();
    client.simple_query("PREPARE q AS SELECT 1").await.unwrap();
    assert_eq!(value(&client, "SHOW work_mem").await, "9MB");
    assert_eq!(value(&client, "EXECUTE q").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_no_reset_makes_neutral_goes_with_its_client() {
    let stand = Stand::new(crowded);
    let client = stand.client().await;
    let pid = value(&client, "SELECT pg_backend_pid()").await;
    client.simple_query("SELECT setseed(0.5)").await.unwrap();
    client.simple_query("DISCARD ALL").await.unwrap();
    assert_eq!(value(&client, "SELECT pg_backend_pid()").await, pid, "it is still pinned");
    drop(client);
    let condition = format!("pid = {pid}");
    eventually("its backend is gone", || stand.backends(0, &condition) == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_drew_from_a_sequence_is_its_own() {
    let stand = Stand::new(|setup| crowded(setup).set("pool", "size", "4"));
    let (first, second) = (stand.client().await, stand.client().await);
    let drawn = |rows: Vec<Vec<String>>| rows[0][0].clone();
    // The first to ask may find that somebody else has used its connection; it is told so, and never a stranger's value.
    first.simple_query("INSERT INTO notes (word) VALUES ('a')").await.unwrap();
    second.simple_query("INSERT INTO notes (word) VALUES ('b')").await.unwrap();
    let (code, text) = sqlstate(first.simple_query("SELECT lastval()").await);
    assert_eq!(code, "55000", "{text}");
    for _ in 0..5 {
        let own = drawn(rows(&first, "INSERT INTO notes (word) VALUES ('a') RETURNING id").await);
        second.simple_query("INSERT INTO notes (word) VALUES ('b')").await.unwrap();
        assert_eq!(value(&first, "SELECT lastval()").await, own);
        assert_eq!(value(&first, "SELECT currval('notes_id_seq')").await, own);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_sql_follow_their_clients_whose_names_are_alike() {
    let stand = Stand::new(crowded);
    let clients = join_all((0..5).map(|_| stand.client())).await;
    for (number, client) in clients.iter().enumerate() {
        client.simple_query(&format!("PREPARE q AS SELECT {number}")).await.unwrap();
        assert_eq!(sqlstate(client.simple_query("PREPARE q AS SELECT 0").await).0, "42P05");
    }
    for _ in 0..3 {
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(value(client, "EXECUTE q").await, number.to_string());
        }
    }
    // Its table is gone: that is the statement's error, not the client's end.
    let client = &clients[0];
    client.simple_query("CREATE TABLE passing (a int)").await.unwrap();
    client.simple_query("PREPARE gone AS SELECT * FROM passing").await.unwrap();
    client.simple_query("DROP TABLE passing").await.unwrap();
    for other in &clients[1..] {
        rows(other, "EXECUTE q").await;
    }
    let code = sqlstate(client.simple_query("EXECUTE gone").await).0;
    assert!(["26000", "42P01"].contains(&code.as_str()), "{code}");
    assert_eq!(value(client, "EXECUTE q").await, "0");
    client.simple_query("DEALLOCATE ALL").await.unwrap();
    assert_eq!(sqlstate(client.simple_query("EXECUTE q").await).0, "26000");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_under_settings_that_its_user_cannot_take_away() {
    let stand = Stand::new(alone);
    let primary = stand.playground.primary();
    let sql = "CREATE ROLE dba SUPERUSER; GRANT dba TO app;
         CREATE TABLE parents (i int PRIMARY KEY); CREATE TABLE children (i int REFERENCES parents);
         GRANT ALL ON parents, children TO app";
    primary.sql(sql).unwrap();
    let orphan = "INSERT INTO children VALUES (1)";
    let (other, client) = (stand.client().await, stand.client().await);
    for sql in ["SET ROLE dba", "SET session_replication_role = replica", "RESET ROLE"] {
        client.simple_query(sql).await.unwrap();
    }
    assert_eq!(sqlstate(other.simple_query(orphan).await).0, "23503");
    assert_eq!(value(&other, "SHOW session_replication_role").await, "origin");
    // On its own, it may not have that back: it is told so, and nothing runs.
    assert_eq!(sqlstate(client.simple_query(orphan).await).0, "42501");
    assert_eq!(value(&other, "SELECT count(*) FROM children").await, "0");

    // As long as it is that role, it has.
    let client = stand.client().await;
    for sql in ["SET ROLE dba", "SET session_replication_role = replica"] {
        client.simple_query(sql).await.unwrap();
    }
    for _ in 0..2 {
        assert_eq!(value(&other, "SHOW session_replication_role").await, "origin");
        assert_eq!(value(&client, "SELECT current_setting('session_replication_role')").await, "replica");
    }
    // Somebody who logs in with settings that are not known yet finds it so.
    let mut newcomer = Raw::login_with(
        stand.lagoon.port,
        196_608,
        &[("user", "app"), ("database", "app"), ("application_name", "newcomer")],
    );
    assert_eq!(newcomer.query(orphan)[0].code(), "23503");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_is_looked_up_by_another_follows_its_client() {
    let stand = Stand::new(alone);
    let sql = "CREATE SCHEMA a; GRANT USAGE ON SCHEMA a TO app;
         CREATE TEXT SEARCH CONFIGURATION a.mine (COPY = simple);
         CREATE TABLE a.w (i int); CREATE TABLE w (i int); GRANT ALL ON a.w, w TO app";
    stand.playground.primary().sql(sql).unwrap();
    let (client, other) = (stand.client().await, stand.client().await);
    client.simple_query("SET search_path = a, public").await.unwrap();
    client.simple_query("SET default_text_search_config = 'mine'").await.unwrap();
    assert_eq!(value(&other, "SHOW search_path").await, "\"$user\", public");
    client.simple_query("INSERT INTO w VALUES (1)").await.unwrap();
    let counts = "SELECT (SELECT count(*) FROM a.w) || ' ' || (SELECT count(*) FROM public.w)";
    assert_eq!(value(&client, counts).await, "1 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_ahead_of_a_savepoint_in_a_batch_that_fails_is_its_clients() {
    let stand = Stand::new(alone);
    let other = stand.client().await;
    let mut client = Raw::login(stand.lagoon.port);
    let run = |sql| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    let batch = ["BEGIN", "SET work_mem = '9MB'", "SAVEPOINT s", "SELECT 1/0"].map(run).concat();
    client.send(&[batch, sync()].concat());
    client.until_ready();
    client.query("ROLLBACK TO s");
    client.query("COMMIT");
    assert_eq!(value(&other, "SHOW work_mem").await, "4MB");
    assert_eq!(first_column(&client.query("SHOW work_mem")), ["9MB"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_of_sql_is_prepared_under_its_clients_settings() {
    let stand = Stand::new(alone);
    let sql = "CREATE SCHEMA a; GRANT USAGE ON SCHEMA a TO app; CREATE TABLE a.w (); GRANT ALL ON a.w TO app";
    stand.playground.primary().sql(sql).unwrap();
    let (client, other) = (stand.client().await, stand.client().await);
    // What is settled before anything follows, and what is not.
    for sql in ["SET search_path = a", "PREPARE q AS SELECT count(*) FROM w", "SET app.tenant = '7'"] {
        client.simple_query(sql).await.unwrap();
        assert_eq!(sqlstate(other.simple_query("EXECUTE q").await).0, "26000");
    }
    assert_eq!(value(&client, "EXECUTE q").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_s_own_configuration_says_is_not_what_its_rows_are_written_by() {
    let stand = Stand::new(|setup| setup);
    let changed = ["timezone = 'Asia/Tokyo'", "datestyle = 'German'", "standard_conforming_strings = off"];
    for replica in stand.playground.replicas() {
        changed.iter().for_each(|change| drop(replica.sql(&format!("ALTER SYSTEM SET {change}")).unwrap()));
        replica.sql("SELECT pg_reload_conf()").unwrap();
        eventually("the replica has its own defaults", || {
            replica.sql("SHOW timezone").is_ok_and(|zone| zone.contains("Tokyo"))
        });
    }
    // What has been there since before follows its server's configuration.
    let console = stand.lagoon.console().await;
    console.simple_query("RECONNECT app").await.unwrap();
    let noon = r"SELECT '2020-01-31 12:00+00'::timestamptz::text || length('a\\b')";
    let client = stand.client().await;
    let expected = value(&client, &format!("/* pglagoon: primary */ {noon}")).await;
    assert!(!expected.contains("JST"), "{expected}");
    for turn in 0..4 {
        assert_eq!(value(&client, &format!("{noon} /* elsewhere */")).await, expected, "{turn}");
    }
    assert_eq!(stand.ran_on("elsewhere")[0], 0);
    // A role's new default is for those who come when all connections are made anew.
    stand.playground.primary().sql("ALTER ROLE app SET timezone = 'Europe/Rome'").unwrap();
    let (one, other) = (stand.client().await, stand.client().await);
    for client in [&one, &other] {
        client.simple_query("BEGIN").await.unwrap();
        assert_eq!(value(client, noon).await, expected);
    }
    for client in [&one, &other] {
        client.simple_query("COMMIT").await.unwrap();
    }
    console.simple_query("RECONNECT app").await.unwrap();
    let new = stand.client().await;
    assert!(value(&new, &format!("{noon} /* anew */")).await.starts_with("2020-01-31 13:00:00+01"));
}
