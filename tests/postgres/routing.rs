//! Where statements run: read from the servers' own logs.

use std::time::Duration;

use pglagoon::cli::playground::Stop;

use crate::harness::{
    Stand, assert_primary, assert_replicas, eventually_async, installations, join_all, quote, rows, value,
};
use crate::raw::{Raw, bind, execute, first_column, parse, sync, tags};

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_to_the_primary_and_reads_to_the_replicas_on_every_version() {
    for bin in installations() {
        let stand = Stand::on(&bin, |setup| setup);
        let reader = stand.client().await;
        let writer = stand.client().await;

        for _ in 0..20 {
            assert_eq!(
                value(&reader, "SELECT word FROM numbers WHERE i = 7 /* simple-read */").await,
                "number 7"
            );
            let row = reader
                .query_one("SELECT word FROM numbers WHERE i = $1 /* bound-read */", &[&8])
                .await
                .unwrap();
            assert_eq!(row.get::<_, &str>(0), "number 8");
        }
        for _ in 0..5 {
            writer.simple_query("INSERT INTO notes (word) VALUES ('a') /* simple-write */").await.unwrap();
            writer.execute("INSERT INTO notes (word) VALUES ($1) /* bound-write */", &[&"b"]).await.unwrap();
        }

        assert_replicas(&stand, "simple-read", 20);
        assert_replicas(&stand, "bound-read", 20);
        assert_primary(&stand, "simple-write", 5);
        assert_primary(&stand, "bound-write", 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_replicas_are_read_from() {
    let stand = Stand::new(|setup| setup);
    let clients = join_all((0..4).map(|_| stand.client())).await;
    join_all(clients.iter().map(async |client| {
        for _ in 0..25 {
            value(client, "SELECT count(*) FROM numbers /* balanced */").await;
        }
    }))
    .await;
    let ran_on = stand.ran_on("balanced");
    assert!(ran_on[0] == 0 && ran_on[1] >= 10 && ran_on[2] >= 10, "{ran_on:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_write_the_clients_reads_stay_on_the_primary_for_the_window() {
    let window = Duration::from_secs(1);
    let stand = Stand::new(|setup| {
        setup.set("routing", "consistency", quote("sticky")).set("routing", "sticky_window", quote("1s"))
    });
    let writer = stand.client().await;
    let other = stand.client().await;

    writer.simple_query("INSERT INTO notes (word) VALUES ('mine')").await.unwrap();
    for _ in 0..5 {
        let found = value(&writer, "SELECT count(*) FROM notes WHERE word = 'mine' /* own-read */").await;
        assert_eq!(found, "1");
        rows(&other, "SELECT count(*) FROM notes /* others-read */").await;
    }
    assert_primary(&stand, "own-read", 5);
    assert_replicas(&stand, "others-read", 5);

    tokio::time::sleep(window).await;
    rows(&writer, "SELECT count(*) FROM notes /* later-read */").await;
    assert_replicas(&stand, "later-read", 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_reads_its_own_writes_though_replay_is_paused() {
    let stand = Stand::new(|setup| {
        setup.set("routing", "consistency", quote("sticky")).set("routing", "sticky_window", quote("10s"))
    });
    for replica in stand.playground.replicas() {
        replica.pause_replay().unwrap();
    }
    let client = stand.client().await;
    for turn in 1..=20 {
        client.simple_query("INSERT INTO notes (word) VALUES ('x')").await.unwrap();
        assert_eq!(value(&client, "SELECT count(*) FROM notes").await, turn.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eventual_does_not_wait_for_anything() {
    let stand = Stand::new(|setup| setup.set("routing", "consistency", quote("eventual")));
    let client = stand.client().await;
    client.simple_query("INSERT INTO notes (word) VALUES ('x')").await.unwrap();
    rows(&client, "SELECT count(*) FROM notes /* eventual-read */").await;
    assert_replicas(&stand, "eventual-read", 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn splitting_can_be_switched_off_in_two_ways() {
    for (key, value) in [("reads", "primary"), ("consistency", "primary")] {
        let stand = Stand::new(|setup| setup.set("routing", key, quote(value)));
        let client = stand.client().await;
        rows(&client, "SELECT count(*) FROM numbers /* unsplit */").await;
        assert_primary(&stand, "unsplit", 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_proven_to_read_goes_to_the_primary() {
    let stand = Stand::new(|setup| setup.set("routing", "consistency", quote("eventual")));
    let client = stand.client().await;
    let statements = [
        "SELECT note('called') /* p01 */",
        "SELECT nextval('notes_id_seq') /* p02 */",
        "SELECT i FROM numbers WHERE i = 1 FOR UPDATE /* p03 */",
        "SELECT pg_advisory_xact_lock(1) /* p04 */",
        "WITH w AS (INSERT INTO notes (word) VALUES ('cte') RETURNING id) SELECT * FROM w /* p05 */",
        "SELECT pg_is_in_recovery() /* p06 */",
        "SELECT txid_current() /* p07 */",
        "EXPLAIN ANALYZE DELETE FROM notes WHERE false /* p08 */",
        "SELECT 1 /* p09 */; DELETE FROM notes WHERE false",
        "CREATE TABLE made (i int) /* p10 */",
        "DO $$ BEGIN PERFORM 1; END $$ /* p11 */",
        "SELECT 'a' AS word INTO TABLE made_too /* p12 */",
        "VACUUM numbers /* p13 */",
        "SELECT set_config('work_mem', '5MB', true) /* p14 */",
    ];
    for (number, sql) in (1..).zip(statements) {
        client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert_primary(&stand, &format!("p{number:02} "), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proven_reads_of_all_kinds_go_to_replicas() {
    let stand = Stand::new(|setup| setup);
    let client = stand.client().await;
    let statements = [
        "SELECT count(*) FROM numbers /* r01 */",
        "VALUES (1), (2) /* r02 */",
        "TABLE numbers /* r03 */",
        "SELECT 'DELETE FROM notes; -- no' /* r04 */",
        "WITH w AS (SELECT * FROM numbers) SELECT count(*) FROM w /* r05 */",
        "EXPLAIN SELECT * FROM numbers /* r06 */",
        "SELECT $q$UPDATE$q$ /* r07 */",
        "SELECT 1; SELECT 2 /* r08 */",
        "select lower(word), now(), coalesce(i, 0) from numbers order by 1 limit 3 /* r09 */",
        "(SELECT 1) UNION ALL (SELECT 2) /* r10 */",
    ];
    for (number, sql) in (1..).zip(statements) {
        client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert_replicas(&stand, &format!("r{number:02} "), 1);
    }
}

#[test]
fn a_bind_is_routed_by_its_own_statement_not_by_the_one_before() {
    let stand = Stand::new(|setup| {
        setup.set("auth", "method", quote("trust")).set("routing", "consistency", quote("eventual"))
    });
    let mut client = Raw::login(stand.lagoon.port);
    let prepared = client.exchange(&[
        parse("read", "SELECT word FROM numbers WHERE i = 3 /* bind-read */"),
        parse("write", "INSERT INTO notes (word) VALUES ('w') RETURNING word /* bind-write */"),
        sync(),
    ]);
    assert_eq!(tags(&prepared), "1 1 Z");
    for _ in 0..4 {
        let read = client.exchange(&[bind("", "read", &[]), execute("", 0), sync()]);
        assert_eq!((tags(&read).as_str(), first_column(&read)), ("2 D C Z", vec!["number 3".to_owned()]));
        let write = client.exchange(&[bind("", "write", &[]), execute("", 0), sync()]);
        assert_eq!((tags(&write).as_str(), first_column(&write)), ("2 D C Z", vec!["w".to_owned()]));
    }
    assert_replicas(&stand, "bind-read", 4);
    assert_primary(&stand, "bind-write", 4);
}

#[test]
fn a_pipeline_of_reads_and_writes_gives_every_request_its_own_answer() {
    let stand = Stand::new(|setup| {
        setup.set("auth", "method", quote("trust")).set("routing", "consistency", quote("eventual"))
    });
    let mut client = Raw::login(stand.lagoon.port);
    let mut pipeline = Vec::new();
    for turn in 0..10 {
        let read = format!("SELECT 'read {turn}' /* pipe-read */");
        let write =
            format!("INSERT INTO notes (word) VALUES ('write {turn}') RETURNING word /* pipe-write */");
        for sql in [read, write] {
            pipeline.extend([parse("", &sql), bind("", "", &[]), execute("", 0), sync()]);
        }
    }
    client.send(&pipeline.concat());
    for turn in 0..10 {
        for kind in ["read", "write"] {
            let answer = client.until_ready();
            assert_eq!(tags(&answer), "1 2 D C Z");
            assert_eq!(first_column(&answer), [format!("{kind} {turn}")]);
        }
    }
    assert_primary(&stand, "pipe-write", 10);
    assert_eq!(stand.ran_on("pipe-read").iter().sum::<usize>(), 10);

    // In one implicit transaction, the write takes the read with it.
    let mixed = client.exchange(&[
        parse("", "SELECT 'r' /* same-sync */"),
        bind("", "", &[]),
        execute("", 0),
        parse("", "INSERT INTO notes (word) VALUES ('w') RETURNING word /* same-sync */"),
        bind("", "", &[]),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(first_column(&mixed), ["r", "w"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_runs_on_one_server() {
    let stand = Stand::new(|setup| setup);
    let mut client = stand.client().await;
    let transaction = client.transaction().await.unwrap();
    transaction.query("SELECT count(*) FROM numbers /* in-block */", &[]).await.unwrap();
    transaction.execute("INSERT INTO notes (word) VALUES ('t') /* in-block */", &[]).await.unwrap();
    let own = transaction.query_one("SELECT count(*) FROM notes /* in-block */", &[]).await.unwrap();
    assert_eq!(own.get::<_, i64>(0), 1);
    transaction.commit().await.unwrap();
    assert_primary(&stand, "in-block", 3);

    let read_only = stand.client().await;
    read_only.simple_query("BEGIN READ ONLY").await.unwrap();
    for _ in 0..6 {
        rows(&read_only, "SELECT count(*) FROM numbers /* read-block */").await;
    }
    read_only.simple_query("COMMIT").await.unwrap();
    let ran_on = stand.ran_on("read-block");
    assert!(ran_on.contains(&6), "one server has all six: {ran_on:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_healthy_replica_reads_go_to_the_primary_and_back_when_one_returns() {
    let mut stand = Stand::new(|setup| setup);
    let client = stand.client().await;
    rows(&client, "SELECT count(*) FROM numbers").await;
    for place in [1, 2] {
        stand.playground.node_mut(place).stop(Stop::Fast).unwrap();
    }
    let lagoon = &stand.lagoon;
    // A read may meet a connection that just broke; the next must not.
    eventually_async("reads work without replicas", async || {
        let client = lagoon.client().await;
        client.simple_query("SELECT count(*) FROM numbers").await.is_ok()
    })
    .await;
    let client = stand.client().await;
    for _ in 0..10 {
        rows(&client, "SELECT count(*) FROM numbers /* alone */").await;
    }
    assert_eq!(stand.ran_on("alone"), [10, 0, 0]);

    stand.playground.node_mut(1).start().unwrap();
    eventually_async("reads go to the replica that returned", async || {
        rows(&client, "SELECT count(*) FROM numbers /* returned */").await;
        stand.ran_on("returned")[1] > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replica_disturbs_only_what_ran_on_it() {
    let mut stand = Stand::new(|setup| setup);
    let clients = join_all((0..4).map(|_| stand.client())).await;
    for client in &clients {
        rows(client, "SELECT count(*) FROM numbers").await;
    }
    stand.playground.node_mut(1).kill().unwrap();
    let lagoon = &stand.lagoon;
    eventually_async("ten reads in a row work", async || {
        let client = lagoon.client().await;
        for _ in 0..10 {
            if client.simple_query("SELECT count(*) FROM numbers").await.is_err() {
                return false;
            }
        }
        true
    })
    .await;
    let client = stand.client().await;
    rows(&client, "SELECT count(*) FROM numbers /* survivor */").await;
    assert_eq!(stand.ran_on("survivor"), [0, 0, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_replica_is_left_out_after_its_probe_times_out() {
    let stand = Stand::new(|setup| setup.set("monitor", "timeout", quote("500ms")));
    stand.playground.replicas()[0].freeze().unwrap();
    let lagoon = &stand.lagoon;
    eventually_async("ten reads in a row are quick", async || {
        // A client stays with its replica: each read is another's.
        let reads = async {
            for _ in 0..10 {
                lagoon.client().await.simple_query("SELECT count(*) FROM numbers").await?;
            }
            Ok::<_, tokio_postgres::Error>(())
        };
        matches!(tokio::time::timeout(Duration::from_secs(1), reads).await, Ok(Ok(())))
    })
    .await;
    let client = stand.client().await;
    rows(&client, "SELECT count(*) FROM numbers /* thawed */").await;
    stand.playground.replicas()[0].thaw().unwrap();
    assert_eq!(stand.ran_on("thawed"), [0, 0, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lags_too_far_takes_no_reads_until_it_has_caught_up() {
    let stand = Stand::new(|setup| setup.set("routing", "max_lag", quote("500ms")));
    let client = stand.client().await;
    let writer = stand.client().await;
    stand.playground.replicas()[1].pause_replay().unwrap();
    let mut turn = 0;
    eventually_async("ten reads in a row leave the lagging replica out", async || {
        turn += 1;
        writer.simple_query("INSERT INTO notes (word) VALUES ('lag')").await.unwrap();
        for _ in 0..10 {
            rows(&client, &format!("SELECT count(*) FROM numbers /* lagging-{turn}- */")).await;
        }
        stand.ran_on(&format!("lagging-{turn}-"))[2] == 0 && turn > 3
    })
    .await;

    stand.playground.replicas()[1].resume_replay().unwrap();
    // A client stays with its replica; others come.
    eventually_async("the replica is read from again", async || {
        rows(&stand.client().await, "SELECT count(*) FROM numbers /* caught-up */").await;
        stand.ran_on("caught-up")[2] > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_found_out_again_after_a_promotion() {
    let mut stand = Stand::new(|setup| setup);
    stand.playground.wait_caught_up().unwrap();
    stand.playground.node_mut(0).stop(Stop::Fast).unwrap();
    stand.playground.replicas()[0].promote().unwrap();
    let lagoon = &stand.lagoon;
    eventually_async("writes work on the new primary", async || {
        let Ok(client) = lagoon.connect(&lagoon.url("app", "app")).await else { return false };
        client.simple_query("INSERT INTO notes (word) VALUES ('new') /* promoted */").await.is_ok()
    })
    .await;
    assert_eq!(stand.ran_on("promoted")[1], 1);
}
