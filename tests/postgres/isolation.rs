//! What one client leaves behind, no other finds; what a client set, it keeps.

use crate::harness::{Setup, Stand, join_all, quote, rows, sqlstate, value};

/// All clients on one server connection: whatever leaks, leaks to the next.
fn single(setup: Setup) -> Setup {
    setup.set("pool", "size", "1").set("routing", "reads", quote("primary"))
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_follow_their_client_and_nobody_else() {
    let stand = Stand::new(single);
    let clients = join_all((0..4).map(|_| stand.client())).await;
    for (number, client) in clients.iter().enumerate().skip(1) {
        client.simple_query(&format!("SET work_mem = '{}MB'", number + 10)).await.unwrap();
        client.simple_query(&format!("SET TimeZone = 'Etc/GMT+{number}'")).await.unwrap();
        client.simple_query("SET search_path = pg_catalog").await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(value(&clients[0], "SHOW work_mem").await, "4MB");
        assert_eq!(value(&clients[0], "SHOW TimeZone").await, "UTC");
        assert_eq!(value(&clients[0], "SHOW search_path").await, "\"$user\", public");
        for (number, client) in clients.iter().enumerate().skip(1) {
            assert_eq!(value(client, "SHOW work_mem").await, format!("{}MB", number + 10));
            assert_eq!(value(client, "SHOW TimeZone").await, format!("Etc/GMT+{number}"));
            assert_eq!(value(client, "SHOW search_path").await, "pg_catalog");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_reach_the_replicas_too() {
    let stand = Stand::new(|setup| setup.set("routing", "consistency", quote("eventual")));
    let client = stand.client().await;
    client.simple_query("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'").await.unwrap();
    for _ in 0..6 {
        let shown =
            value(&client, "SELECT TIMESTAMPTZ '2001-02-03 00:00:00+00' FROM numbers WHERE i = 1").await;
        assert_eq!(shown, "03.02.2001 09:00:00 JST");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_transaction_end_with_it() {
    let stand = Stand::new(single);
    let (client, other) = (stand.client().await, stand.client().await);
    client.simple_query("BEGIN").await.unwrap();
    client.simple_query("SET LOCAL work_mem = '9MB'").await.unwrap();
    assert_eq!(value(&client, "SHOW work_mem").await, "9MB");
    client.simple_query("COMMIT").await.unwrap();
    for sql in ["BEGIN", "SET work_mem = '8MB'", "ROLLBACK"] {
        client.simple_query(sql).await.unwrap();
    }
    for client in [&client, &other] {
        assert_eq!(value(client, "SHOW work_mem").await, "4MB");
    }
    client.simple_query("SET work_mem = '8MB'; RESET work_mem").await.unwrap();
    assert_eq!(value(&client, "SHOW work_mem").await, "4MB");
    client.simple_query("SET work_mem = '8MB'").await.unwrap();
    client.simple_query("RESET ALL").await.unwrap();
    for client in [&client, &other] {
        assert_eq!(value(client, "SHOW work_mem").await, "4MB");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_with_settings_in_one_string_does_not_leak_them() {
    let stand = Stand::new(|setup| setup.set("pool", "size", "3").set("routing", "reads", quote("primary")));
    for sql in [
        "BEGIN; SET LOCAL work_mem = '9MB'; COMMIT",
        "BEGIN; SET work_mem = '8MB'; ROLLBACK",
        "SET work_mem = '8MB'; RESET ALL",
        "DO $$ BEGIN SET work_mem = '7MB'; END $$; RESET work_mem",
    ] {
        let (client, other) = (stand.client().await, stand.client().await);
        client.simple_query(sql).await.unwrap();
        for client in [&client, &other, &client] {
            assert_eq!(value(client, "SHOW work_mem").await, "4MB", "after {sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_by_function_do_not_leak() {
    let stand = Stand::new(single);
    let (client, other) = (stand.client().await, stand.client().await);
    client.simple_query("SELECT set_config('work_mem', '6MB', false)").await.unwrap();
    drop(client);
    assert_eq!(value(&other, "SHOW work_mem").await, "4MB");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_do_not_leak() {
    let stand = Stand::new(single);
    stand.playground.primary().sql("GRANT old TO app").unwrap();
    let (client, other) = (stand.client().await, stand.client().await);
    client.simple_query("SET ROLE old").await.unwrap();
    drop(client);
    assert_eq!(value(&other, "SELECT current_user").await, "app");
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_tables_are_seen_by_their_client_only_and_go_with_it() {
    let stand = Stand::new(|setup| setup.set("pool", "size", "2").set("routing", "reads", quote("primary")));
    let (client, other) = (stand.client().await, stand.client().await);
    if client.simple_query("CREATE TEMP TABLE mine AS SELECT 'mine' AS word").await.is_ok() {
        for _ in 0..3 {
            assert_eq!(sqlstate(other.simple_query("SELECT * FROM mine").await).0, "42P01");
            assert_eq!(value(&client, "SELECT word FROM mine").await, "mine");
        }
    }
    drop(client);
    let next = join_all((0..4).map(|_| stand.client())).await;
    for client in &next {
        assert_eq!(sqlstate(client.simple_query("SELECT * FROM mine").await).0, "42P01");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_temporary_without_a_word_where_the_search_path_says_so() {
    let stand = Stand::new(|setup| setup.set("pool", "size", "2").set("routing", "reads", quote("primary")));
    let (client, other) = (stand.client().await, stand.client().await);
    for client in [&client, &other] {
        client.simple_query("SET search_path = 'pg_temp', 'public'").await.unwrap();
    }
    client.simple_query("CREATE TABLE mine AS SELECT 'mine' AS word").await.unwrap();
    for _ in 0..3 {
        assert_eq!(sqlstate(other.simple_query("SELECT * FROM mine").await).0, "42P01");
        assert_eq!(value(&client, "SELECT word FROM mine").await, "mine");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_table_that_hides_a_real_one_does_so_for_its_client_only() {
    let stand = Stand::new(|setup| setup.set("routing", "consistency", quote("eventual")));
    let (client, other) = (stand.client().await, stand.client().await);
    if client.simple_query("CREATE TEMP TABLE numbers AS SELECT 1 AS i, 'hidden' AS word").await.is_ok() {
        for _ in 0..4 {
            assert_eq!(value(&client, "SELECT word FROM numbers WHERE i = 1").await, "hidden");
            assert_eq!(value(&other, "SELECT word FROM numbers WHERE i = 1").await, "number 1");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn advisory_locks_are_held_by_their_client_and_go_with_it() {
    let stand = Stand::new(|setup| setup.set("pool", "size", "2"));
    let (client, other) = (stand.client().await, stand.client().await);
    if client.simple_query("SELECT pg_advisory_lock(7)").await.is_ok() {
        for _ in 0..3 {
            assert_eq!(value(&other, "SELECT pg_try_advisory_lock(7)").await, "f");
        }
    }
    drop(client);
    crate::harness::eventually_async("the lock is free", async || {
        let next = stand.client().await;
        value(&next, "SELECT pg_try_advisory_xact_lock(7)").await == "t"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_transaction_stays_with_its_client() {
    let stand = Stand::new(|setup| setup.set("pool", "size", "2").set("routing", "reads", quote("primary")));
    let (client, other) = (stand.client().await, stand.client().await);
    assert!(client.simple_query("BEGIN; SELECT 1/0").await.is_err());
    for _ in 0..4 {
        rows(&other, "SELECT 1").await;
        assert_eq!(sqlstate(client.simple_query("SELECT 1").await).0, "25P02");
    }
    client.simple_query("ROLLBACK").await.unwrap();
    rows(&client, "SELECT 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_with_hold_and_listening_do_not_leak() {
    let stand = Stand::new(single);
    let client = stand.client().await;
    let _ = client.simple_query("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT i FROM numbers; COMMIT").await;
    let _ = client.simple_query("LISTEN news").await;
    drop(client);
    let other = stand.client().await;
    assert_eq!(sqlstate(other.simple_query("FETCH c").await).0, "34000");
    assert_eq!(value(&other, "SELECT count(*) FROM pg_listening_channels()").await, "0");
    assert_eq!(value(&other, "SELECT count(*) FROM pg_cursors").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn currval_belongs_to_one_session() {
    let stand = Stand::new(single);
    let (client, other) = (stand.client().await, stand.client().await);
    client.simple_query("INSERT INTO notes (word) VALUES ('a')").await.unwrap();
    drop(client);
    crate::harness::eventually_async("a session that inserted nothing has no currval", async || match other
        .simple_query("SELECT currval('notes_id_seq')")
        .await
    {
        Err(error) => error.as_db_error().is_some_and(|answer| answer.code().code() == "55000"),
        Ok(_) => false,
    })
    .await;
}
