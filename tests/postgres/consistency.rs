//! What reads return: each level against servers that lag, stand still, or show things early.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::{
    Setup, Stand, assert_primary, assert_replicas, eventually_async, installations, options, quote, rows,
    sqlstate, value,
};

/// A stand whose reads have this level.
fn at_level(level: &'static str) -> Stand {
    Stand::new(move |setup| setup.set("routing", "consistency", quote(level)))
}

fn session(setup: Setup) -> Setup {
    setup.set("routing", "consistency", quote("session"))
}

async fn write(client: &Client, word: &str) {
    client.simple_query(&format!("INSERT INTO notes (word) VALUES ('{word}')")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_reads_its_own_writes_from_replicas() {
    let stand = at_level("session");
    let client = stand.client().await;
    for turn in 1..=50 {
        write(&client, "mine").await;
        assert_eq!(value(&client, "SELECT count(*) FROM notes /* own */").await, turn.to_string());
    }
    let ran_on = stand.ran_on("own");
    assert!(ran_on[0] <= 5, "most replicas catch up in time: {ran_on:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_only_reads_stays_with_one_replica_and_asks_nobody() {
    const READS: usize = 20;
    let stand = at_level("session");
    let client = stand.client().await;
    for turn in 0..READS {
        rows(&client, &format!("SELECT count(*) FROM numbers /* read {turn:02} */")).await;
    }
    let server = |turn| stand.ran_on(&format!("read {turn:02} ")).iter().position(|&ran| ran == 1);
    let servers: Vec<_> = (0..READS).map(server).collect();
    assert!(servers.iter().all(|server| matches!(server, Some(1 | 2))), "{servers:?}");
    // By chance one read in 256 looks for a better replica. Whoever does not stay moves at every other read.
    let moves = servers.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(moves <= 2, "{servers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_waits_a_moment_for_replicas_that_stand_still_and_reads_the_primary_then() {
    let stand = Stand::new(|setup| {
        setup.set("routing", "consistency", quote("session")).set("routing", "max_wait", quote("50ms"))
    });
    for replica in stand.playground.replicas() {
        replica.pause_replay().unwrap();
    }
    let (writer, reader) = (stand.client().await, stand.client().await);
    for turn in 1..=10 {
        write(&writer, "x").await;
        let asked = Instant::now();
        assert_eq!(value(&writer, "SELECT count(*) FROM notes /* waited */").await, turn.to_string());
        assert!(asked.elapsed() >= Duration::from_millis(50), "no replica could be waited for in vain");
        rows(&reader, "SELECT count(*) FROM notes /* others */").await;
    }
    assert_primary(&stand, "waited", 10);
    assert_replicas(&stand, "others", 10);
    for replica in stand.playground.replicas() {
        replica.resume_replay().unwrap();
    }
    eventually_async("the writer reads from replicas again", async || {
        assert_eq!(value(&writer, "SELECT count(*) FROM notes /* again */").await, "10");
        stand.ran_on("again")[1..] != [0, 0]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_the_one_that_is_fresh_enough_serves() {
    let stand = at_level("session");
    stand.playground.replicas()[0].pause_replay().unwrap();
    let client = stand.client().await;
    for turn in 1..=20 {
        write(&client, "x").await;
        assert_eq!(value(&client, "SELECT count(*) FROM notes /* fresh */").await, turn.to_string());
    }
    let ran_on = stand.ran_on("fresh");
    assert!(ran_on[1] == 0 && ran_on[2] >= 18, "{ran_on:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_may_have_written_counts_as_a_write() {
    let stand = at_level("session");
    let client = stand.client().await;
    let mut count = 0;
    for sql in [
        "SELECT note('function')",
        "DO $$ BEGIN PERFORM note('do'); END $$",
        "WITH w AS (INSERT INTO notes (word) VALUES ('cte') RETURNING id) SELECT * FROM w",
        "BEGIN; INSERT INTO notes (word) VALUES ('block'); COMMIT",
        "BEGIN; INSERT INTO notes (word) VALUES ('prepared'); COMMIT AND CHAIN; ROLLBACK",
    ] {
        for _ in 0..10 {
            client.simple_query(sql).await.unwrap();
            count += 1;
            assert_eq!(value(&client, "SELECT count(*) FROM notes").await, count.to_string(), "{sql}");
        }
    }
    for _ in 0..10 {
        client.execute("INSERT INTO notes (word) VALUES ($1)", &[&"bound"]).await.unwrap();
        count += 1;
        let row = client.query_one("SELECT count(*) FROM notes", &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strong_reads_see_what_others_wrote_past_pglagoon() {
    let stand = at_level("strong");
    let client = stand.client().await;
    for turn in 1..=30 {
        stand.playground.primary().sql_in("app", "INSERT INTO notes (word) VALUES ('past')").unwrap();
        assert_eq!(value(&client, "SELECT count(*) FROM notes /* strong */").await, turn.to_string());
    }
    let ran_on = stand.ran_on("strong */");
    assert!(ran_on[0] <= 3, "{ran_on:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bounded_reads_leave_a_replica_that_is_older_than_the_bound() {
    let stand = Stand::new(|setup| {
        setup.set("routing", "consistency", quote("bounded")).set("routing", "max_staleness", quote("1s"))
    });
    for replica in stand.playground.replicas() {
        replica.pause_replay().unwrap();
    }
    let client = stand.client().await;
    write(&client, "new").await;
    let written = Instant::now();
    rows(&client, "SELECT count(*) FROM notes /* within */").await;
    assert_replicas(&stand, "within", 1);
    while written.elapsed() < Duration::from_secs(2) {
        let asked = Instant::now();
        let found = value(&client, "SELECT count(*) FROM notes").await;
        let age = asked.duration_since(written);
        assert!(found == "1" || age < Duration::from_secs(1), "{found} after {age:?}");
    }
    rows(&client, "SELECT count(*) FROM notes /* beyond */").await;
    assert_primary(&stand, "beyond", 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_chooses_its_level() {
    let stand = at_level("eventual");
    for replica in stand.playground.replicas() {
        replica.pause_replay().unwrap();
    }
    let client = stand.client().await;
    write(&client, "x").await;
    assert_eq!(value(&client, "SELECT count(*) FROM notes").await, "0");
    client.simple_query("SET pglagoon.consistency = 'session'").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM notes").await, "1");
    assert_eq!(value(&client, "SHOW pglagoon.consistency").await, "session");
    let row = client.query_one("SHOW pglagoon.consistency", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "session");
    client.execute("SET pglagoon.consistency = 'eventual'", &[]).await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM notes").await, "0");

    let url = format!("{} options='-c pglagoon.consistency=strong'", stand.lagoon.url("app", "app"));
    let strong = stand.lagoon.connect(&url).await.unwrap();
    assert_eq!(value(&strong, "SELECT count(*) FROM notes").await, "1");
    let bad = format!("{} options='-c pglagoon.consistency=best'", stand.lagoon.url("app", "app"));
    assert_eq!(sqlstate(stand.lagoon.connect(&bad).await).0, "22023");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_its_own_level() {
    let stand = Stand::new(|setup| session(setup).set("users.old", "consistency", quote("primary")));
    let old = stand.lagoon.connect(&stand.lagoon.url("old", "app")).await.unwrap();
    assert_eq!(value(&old, "SHOW pglagoon.consistency").await, "primary");
    assert_eq!(value(&stand.client().await, "SHOW pglagoon.consistency").await, "session");
    rows(&old, "SELECT 1 /* of-old */").await;
    assert_primary(&stand, "of-old", 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_for_which_no_replica_is_fresh_enough_may_fail_instead() {
    let stand = Stand::new(|setup| session(setup).set("routing", "on_stale", quote("error")));
    for replica in stand.playground.replicas() {
        replica.pause_replay().unwrap();
    }
    let client = stand.client().await;
    write(&client, "x").await;
    let (code, text) = sqlstate(client.simple_query("SELECT count(*) FROM notes /* refused */").await);
    assert_eq!(code, "40001", "{text}");
    assert_eq!(stand.ran_on("refused"), [0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_reads_fall_back_than_the_primary_shall_bear() {
    let stand = Stand::new(|setup| {
        session(setup).set("routing", "max_fallbacks", "10").set("pool", "checkout_timeout", quote("400ms"))
    });
    for replica in stand.playground.replicas() {
        replica.pause_replay().unwrap();
    }
    let began = Instant::now();
    let clients = crate::harness::join_all((0..20).map(|_| stand.client())).await;
    let outcomes = crate::harness::join_all(clients.iter().map(async |client| {
        write(client, "x").await;
        client.simple_query("SELECT count(*) FROM notes /* rationed */").await
    }))
    .await;
    let most = 2 + (began.elapsed().as_secs_f64() * 10.0) as usize;
    let served = stand.ran_on("rationed")[0];
    assert!((1..=most).contains(&served), "{served} of at most {most}");
    for refused in outcomes.into_iter().filter(Result::is_err) {
        assert_eq!(sqlstate(refused).0, "40001");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_behind_a_page_header_is_not_waited_for() {
    let stand = at_level("session");
    let client = stand.client().await;
    for turn in 0..5 {
        write(&client, "x").await;
        // The next record of an idle primary may be seconds away.
        client.simple_query("SELECT pg_switch_wal()").await.unwrap_or_default();
        stand.playground.primary().sql("SELECT pg_switch_wal()").unwrap();
        client.simple_query(&format!("SELECT 1 FROM notes FOR UPDATE /* {turn} */")).await.unwrap();
        rows(&client, "SELECT count(*) FROM notes /* boundary */").await;
    }
    let ran_on = stand.ran_on("boundary");
    assert!(ran_on[0] <= 1, "{ran_on:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn own_writes_are_read_though_their_commits_do_not_wait() {
    let stand = at_level("session");
    let client = stand.client().await;
    client.simple_query("SET synchronous_commit = off").await.unwrap();
    for turn in 1..=50 {
        write(&client, "x").await;
        assert_eq!(value(&client, "SELECT count(*) FROM notes").await, turn.to_string());
    }
    // Where the server's own setting says so, pglagoon does not know of it.
    stand.playground.primary().sql("ALTER SYSTEM SET synchronous_commit = off").unwrap();
    stand.playground.primary().sql("SELECT pg_reload_conf()").unwrap();
    let other = stand.client().await;
    for turn in 51..=80 {
        write(&other, "x").await;
        assert_eq!(value(&other, "SELECT count(*) FROM notes").await, turn.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_showed_before_the_primary_is_not_taken_back() {
    let stand = Stand::with(
        pglagoon::cli::playground::Options { replicas: 2, ..options(&installations()[0]) },
        |setup| session(setup).set("pool", "checkout_timeout", quote("2s")),
    );
    let primary = stand.playground.primary();
    // Commits wait for a standby that does not exist; replicas show them all the same.
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").unwrap();
    let reader = stand.client().await;
    rows(&reader, "SELECT 1").await;
    primary.sql("SELECT pg_reload_conf()").unwrap();
    let writer = stand.client().await;
    let waiting =
        tokio::spawn(async move { writer.simple_query("INSERT INTO notes (word) VALUES ('early')").await });
    eventually_async("the reader sees on its replica what the primary does not show", async || {
        value(&reader, "SELECT count(*) FROM notes /* early */").await == "1"
    })
    .await;
    assert_eq!(
        primary.sql_in("app", "SELECT count(*) FROM notes").unwrap().trim(),
        "0",
        "the primary is behind"
    );

    // Nor when the connections are lost over which the primary is asked for what it shows.
    let lose = "DO $$ BEGIN FOR turn IN 1..10 LOOP \
             PERFORM pg_stat_clear_snapshot(); \
             PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^SELECT .*txid_current_snapshot'; \
             PERFORM pg_sleep(0.1); \
         END LOOP; END $$";
    let (refused, lost) = std::thread::scope(|scope| {
        let losing = scope.spawn(|| primary.sql(lose));
        let asked = reader.simple_query("BEGIN; SELECT count(*) FROM notes; COMMIT");
        let refused = tokio::task::block_in_place(|| Handle::current().block_on(asked));
        (refused, losing.join().unwrap())
    });
    lost.unwrap();
    let (code, text) = sqlstate(refused);
    assert_eq!(code, "40001", "{text}");
    assert_eq!(value(&reader, "SELECT count(*) FROM notes").await, "1", "on its replica it goes on");

    primary.sql("ALTER SYSTEM RESET synchronous_standby_names").unwrap();
    primary.sql("SELECT pg_reload_conf()").unwrap();
    waiting.await.unwrap().unwrap();
    let counted = reader.simple_query("BEGIN; SELECT count(*) FROM notes; COMMIT").await.unwrap();
    assert!(format!("{counted:?}").contains('1'), "{counted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cascading_replica_is_judged_by_its_own_position() {
    let stand = at_level("session");
    let [upstream, cascade] = stand.playground.replicas() else { panic!("two replicas") };
    let conninfo = format!(
        "host={} port={} user=postgres application_name=cascade",
        upstream.socket_directory().display(),
        upstream.port()
    );
    cascade.sql(&format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'")).unwrap();
    cascade.sql("SELECT pg_reload_conf()").unwrap();
    eventually_async("the cascade streams from the replica", async || {
        upstream.sql("SELECT count(*) FROM pg_stat_replication").unwrap().trim() == "1"
    })
    .await;
    upstream.pause_replay().unwrap();
    let client = stand.client().await;
    for turn in 1..=20 {
        write(&client, "x").await;
        assert_eq!(value(&client, "SELECT count(*) FROM notes /* cascaded */").await, turn.to_string());
    }
    // A paused replica forwards what it has received: the one behind it is fresher.
    let ran_on = stand.ran_on("cascaded");
    assert!(ran_on[1] == 0 && ran_on[2] >= 15, "{ran_on:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_crashed_does_not_take_its_clients_back() {
    let mut stand = at_level("session");
    let reader = stand.client().await;
    let writer = stand.client().await;
    for round in 1..=3 {
        for _ in 0..50 {
            write(&writer, "x").await;
        }
        let seen: u32 = value(&reader, "SELECT count(*) FROM notes").await.parse().unwrap();
        for place in [1, 2] {
            stand.playground.node_mut(place).kill().unwrap();
            stand.playground.node_mut(place).start().unwrap();
        }
        eventually_async("the reader reads again", async || {
            let Ok(answer) = reader.simple_query("SELECT count(*) FROM notes").await else { return false };
            let row = answer.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            let now: u32 = row.unwrap().parse().unwrap();
            assert!(now >= seen, "round {round}: {seen}, then {now}");
            true
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_carries_what_was_seen_to_another_connection() {
    let stand = at_level("session");
    for replica in stand.playground.replicas() {
        replica.pause_replay().unwrap();
    }
    let (writer, reader) = (stand.client().await, stand.client().await);
    write(&writer, "x").await;
    assert_eq!(value(&reader, "SELECT count(*) FROM notes").await, "0", "nobody has told it");
    let token = value(&writer, "SHOW pglagoon.causality_token").await;
    reader.execute(&format!("SET pglagoon.causality_token = '{token}'"), &[]).await.unwrap();
    assert_eq!(value(&reader, "SELECT count(*) FROM notes").await, "1");
    let prepared = writer.query_one("SHOW pglagoon.causality_token", &[]).await.unwrap();
    assert_eq!(prepared.get::<_, &str>(0).split('.').count(), 5);

    let forged = token.replace("1.", "2.");
    let (code, _) =
        sqlstate(reader.simple_query(&format!("SET pglagoon.causality_token = '{forged}'")).await);
    assert_eq!(code, "22023");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_not_hang_on_one_connection() {
    let alone = pglagoon::cli::playground::Options { replicas: 0, ..options(&installations()[0]) };
    let stand = Stand::with(alone, |setup| session(setup).set("pool", "checkout_timeout", quote("20s")));
    let client = stand.client().await;
    let lose = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE query LIKE '%pglagoon_position%' AND pid <> pg_backend_pid()";
    for _ in 0..3 {
        value(&client, "SHOW pglagoon.causality_token").await;
        assert_eq!(stand.playground.primary().sql(lose).unwrap().trim(), "1");
        let token = value(&client, "SHOW pglagoon.causality_token");
        tokio::time::timeout(Duration::from_secs(5), token).await.expect("it is asked for again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pglagoons_take_each_others_tokens() {
    let shared =
        |setup: Setup| session(setup).set("routing", "token_secret", quote("the secret of both of them"));
    let stand = Stand::new(shared);
    let other = crate::harness::Lagoon::start(&stand.playground, stand.lagoon.setup());
    for replica in stand.playground.replicas() {
        replica.pause_replay().unwrap();
    }
    let (writer, reader) = (stand.client().await, other.client().await);
    write(&writer, "x").await;
    let token = value(&writer, "SHOW pglagoon.causality_token").await;
    reader.simple_query(&format!("SET pglagoon.causality_token = '{token}'")).await.unwrap();
    assert_eq!(value(&reader, "SELECT count(*) FROM notes").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_a_failover_lost_is_not_passed_over_in_silence() {
    let mut stand = at_level("session");
    // The replica that will be promoted receives nothing any more; the other one has it all.
    stand.playground.wait_caught_up().unwrap();
    let behind = &stand.playground.replicas()[0];
    behind.sql("ALTER SYSTEM SET primary_conninfo = ''").unwrap();
    behind.sql("SELECT pg_reload_conf()").unwrap();
    eventually_async("it is cut off", async || {
        stand.playground.primary().sql("SELECT count(*) FROM pg_stat_replication").unwrap().trim() == "1"
    })
    .await;
    let (writer, reader) = (stand.client().await, stand.client().await);
    write(&writer, "lost").await;
    let token = value(&writer, "SHOW pglagoon.causality_token").await;
    stand.playground.replicas()[1]
        .wait_replayed(stand.playground.primary().sql("SELECT pg_current_wal_lsn()").unwrap().trim())
        .unwrap();
    stand.playground.node_mut(0).stop(pglagoon::cli::playground::Stop::Immediate).unwrap();
    stand.playground.replicas()[0].promote().unwrap();
    let lagoon = &stand.lagoon;
    eventually_async("the new primary takes writes", async || {
        let Ok(client) = lagoon.connect(&lagoon.url("app", "app")).await else { return false };
        client.simple_query("INSERT INTO notes (word) VALUES ('kept'), ('too')").await.is_ok()
    })
    .await;
    let (code, text) = sqlstate(writer.simple_query("SELECT count(*) FROM notes").await);
    assert_eq!(code, "08007", "{text}");
    let found: u32 = value(&writer, "SELECT count(*) FROM notes /* after */").await.parse().unwrap();
    assert!(found >= 2, "it goes on with what there is");
    // The positive control: by its position alone the token is satisfied, and the row is not there.
    let promoted = &stand.playground.replicas()[0];
    let position = u64::from_str_radix(token.split('.').nth(3).unwrap(), 16).unwrap();
    let position = format!("{:X}/{:X}", position >> 32, position as u32);
    let reached = promoted.sql(&format!("SELECT pg_current_wal_lsn() >= '{position}'")).unwrap();
    assert_eq!(reached.trim(), "t");
    assert_eq!(promoted.sql_in("app", "SELECT count(*) FROM notes WHERE word = 'lost'").unwrap().trim(), "0");
    let (code, text) =
        sqlstate(reader.simple_query(&format!("SET pglagoon.causality_token = '{token}'")).await);
    assert_eq!(code, "08007", "{text}");
    // The orphan has the lost row still; nobody is sent there.
    for _ in 0..20 {
        rows(&stand.client().await, "SELECT count(*) FROM notes /* orphan */").await;
    }
    assert_eq!(stand.ran_on("orphan")[2], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_that_loses_nothing_loses_no_session() {
    let mut stand = at_level("session");
    let writer = stand.client().await;
    write(&writer, "kept").await;
    stand.playground.wait_caught_up().unwrap();
    // A sample of the old primary, taken after the write.
    value(&writer, "SHOW pglagoon.causality_token").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    stand.playground.node_mut(0).stop(pglagoon::cli::playground::Stop::Fast).unwrap();
    stand.playground.replicas()[0].promote().unwrap();
    eventually_async("the writer reads its write", async || {
        match writer.simple_query("SELECT count(*) FROM notes").await {
            Ok(answer) => {
                assert!(format!("{answer:?}").contains("SimpleQueryRow"), "{answer:?}");
                true
            }
            Err(error) => {
                let code = error.as_db_error().map(|error| error.code().code().to_owned());
                assert_ne!(code.as_deref(), Some("08007"), "nothing was lost");
                false
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_key_see_what_each_of_them_wrote() {
    let stand = at_level("session");
    for replica in stand.playground.replicas() {
        replica.pause_replay().unwrap();
    }
    let (writer, reader, stranger) = (stand.client().await, stand.client().await, stand.client().await);
    for client in [&writer, &reader] {
        client.simple_query("SET pglagoon.causality_key = 'user:42'").await.unwrap();
        assert_eq!(value(client, "SHOW pglagoon.causality_key").await, "user:42");
    }
    assert_eq!(value(&stranger, "SELECT count(*) FROM notes").await, "0");
    for turn in 1..=5 {
        write(&writer, "x").await;
        assert_eq!(value(&reader, "SELECT count(*) FROM notes").await, turn.to_string());
        assert_eq!(value(&stranger, "SELECT count(*) FROM notes").await, "0");
    }
    // What it has seen, it has seen, also when the writer is gone and it leaves the key.
    drop(writer);
    reader.simple_query("RESET pglagoon.causality_key").await.unwrap();
    assert_eq!(value(&reader, "SELECT count(*) FROM notes").await, "5");
    let late = stand.client().await;
    late.simple_query("SET pglagoon.causality_key = 'user:42'").await.unwrap();
    assert_eq!(value(&late, "SELECT count(*) FROM notes").await, "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_one_key_in_their_comments_see_what_each_of_them_wrote() {
    let stand = Stand::new(|setup| session(setup).set("routing", "max_wait", quote("50ms")));
    let clients = [stand.client().await, stand.client().await];
    let [one, two] = &clients;
    let insert = |key: &str| {
        format!("INSERT INTO notes (word) VALUES ('x') /*action='a',causality_key='user%3A{key}'*/")
    };
    let count = |key: &str| format!("/*causality_key='user%3A{key}'*/ SELECT count(*) FROM notes");
    let seen = async |client: &Client, key: &str| {
        let simple = value(client, &count(key)).await;
        let extended: i64 = client.query_one(&count(key), &[]).await.unwrap().get(0);
        assert_eq!(simple, extended.to_string());
        extended
    };
    // A key begins with all that there was; then it stays with its replica. On a busy machine it may take more than max_wait
    // to find one.
    let mut other = "other".to_owned();
    eventually_async("a key begins on a replica", async || {
        other.push('r');
        let before = stand.ran_on("FROM notes")[0];
        assert_eq!(seen(two, &other).await, 0);
        stand.ran_on("FROM notes")[0] == before
    })
    .await;
    let other = other.as_str();
    for replica in stand.playground.replicas() {
        replica.pause_replay().unwrap();
    }
    one.simple_query(&insert("42")).await.unwrap();
    assert_eq!((seen(two, "42").await, seen(two, other).await), (1, 0));
    one.execute(&insert("42"), &[]).await.unwrap();
    assert_eq!((seen(two, "42").await, seen(two, other).await), (2, 0));
    // A transaction is of all keys that it names, and ends without one.
    for sql in ["BEGIN", &insert("42"), "SELECT 1", &insert("43"), &insert("44"), "COMMIT"] {
        one.simple_query(sql).await.unwrap();
    }
    for key in ["44", "43", "42"] {
        assert_eq!((seen(two, key).await, seen(two, other).await), (5, 0), "{key}");
    }
    // The same key, by SET.
    let three = stand.client().await;
    three.simple_query("SET pglagoon.causality_key = 'user:42'").await.unwrap();
    write(&three, "y").await;
    assert_eq!((seen(two, "42").await, seen(two, other).await), (6, 0));
    one.simple_query(&insert("42")).await.unwrap();
    assert_eq!(value(&three, "SELECT count(*) FROM notes").await, "7");
    // What a connection has seen for somebody, it has seen.
    assert_eq!(value(two, "SELECT count(*) FROM notes").await, "7");
    let stranger = stand.client().await;
    assert_eq!(value(&stranger, "SELECT count(*) FROM notes").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_may_be_a_user_an_application_or_the_database() {
    for (scope, others) in [("connection", "0"), ("user", "1"), ("application_name", "1"), ("database", "1")]
    {
        let stand = Stand::new(|setup| session(setup).set("routing", "scope", quote(scope)));
        for replica in stand.playground.replicas() {
            replica.pause_replay().unwrap();
        }
        let url = format!("{} application_name=shop", stand.lagoon.url("app", "app"));
        let writer = stand.lagoon.connect(&url).await.unwrap();
        let reader = stand.lagoon.connect(&url).await.unwrap();
        write(&writer, "x").await;
        assert_eq!(value(&reader, "SELECT count(*) FROM notes").await, others, "{scope}");
        assert_eq!(value(&reader, "SHOW pglagoon.causality_key").await, "", "{scope}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_ends_on_a_replica_makes_nobody_forget_a_write_that_came_meanwhile() {
    let stand = Stand::new(|setup| session(setup).set("routing", "scope", quote("user")));
    let (reader, writer) = (stand.client().await, stand.client().await);
    let count = async |client: &Client| value(client, "SELECT count(*) FROM notes").await;
    let mut written = 0;
    for reads_on in [false, true] {
        for end in ["COMMIT", "ROLLBACK"] {
            reader.simple_query("BEGIN READ ONLY").await.unwrap();
            rows(&reader, "SELECT count(*) FROM notes /* in the block */").await;
            for replica in stand.playground.replicas() {
                replica.pause_replay().unwrap();
            }
            write(&writer, "x").await;
            written += 1;
            if reads_on {
                count(&reader).await;
            }
            reader.simple_query(end).await.unwrap();
            let expected = written.to_string();
            assert_eq!(count(&writer).await, expected, "{end}, {reads_on}: the writer itself");
            assert_eq!(count(&reader).await, expected, "{end}, {reads_on}: the other");
            for replica in stand.playground.replicas() {
                replica.resume_replay().unwrap();
            }
            eventually_async("replicas serve again", async || {
                let before = stand.ran_on("caught up");
                rows(&reader, "SELECT count(*) FROM notes /* caught up */").await;
                stand.ran_on("caught up")[0] == before[0]
            })
            .await;
        }
    }
    assert_eq!(stand.ran_on("in the block")[0], 0, "the blocks ran on replicas");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_comes_before_a_transaction_that_reads_on_a_replica() {
    let stand = at_level("session");
    let (reader, writer) = (stand.client().await, stand.client().await);
    reader.simple_query("BEGIN READ ONLY").await.unwrap();
    rows(&reader, "SELECT count(*) FROM notes /* block */").await;
    for replica in stand.playground.replicas() {
        replica.pause_replay().unwrap();
    }
    write(&writer, "x").await;
    let token = value(&writer, "SHOW pglagoon.causality_token").await;
    let set = format!("SET pglagoon.causality_token = '{token}'");
    assert_eq!(sqlstate(reader.simple_query(&set).await).0, "25001");
    assert_eq!(stand.ran_on("block")[0], 0);
    reader.simple_query("ROLLBACK").await.unwrap();
    for begin in ["BEGIN READ ONLY", ""] {
        reader.simple_query(begin).await.unwrap();
        reader.simple_query(&set).await.unwrap();
        assert_eq!(value(&reader, "SELECT count(*) FROM notes").await, "1", "{begin}");
        reader.simple_query("COMMIT").await.unwrap();
    }
}
