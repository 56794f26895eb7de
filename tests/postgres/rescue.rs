//! The safety net: reads that a replica cannot serve run again where they can, and the client sees one answer.

use crate::harness::{Setup, Stand, assert_primary, eventually, eventually_async, join_all, quote, value};
use crate::raw::{Message, Raw, bind, describe_portal, execute, first_column, parse, query, sync, tags};

fn eventual(setup: Setup) -> Setup {
    setup.set("routing", "consistency", quote("eventual")).set("auth", "method", quote("trust"))
}

/// How many rescues for a reason were counted.
fn rescues(stand: &Stand, reason: &str) -> u64 {
    let metrics = stand.lagoon.http("/metrics").expect("the endpoint answers").body;
    let label = format!("reason=\"{reason}\"");
    let line = metrics
        .lines()
        .find(|line| line.starts_with("pglagoon_rescued_queries_total") && line.contains(&label));
    line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hinted_read_that_writes_runs_on_the_primary_and_stays_there() {
    let stand = Stand::new(eventual);
    let client = stand.client().await;
    for turn in 1..=3 {
        let word =
            value(&client, &format!("/* pglagoon: replica */ SELECT note('n{turn}') /* hinted */")).await;
        assert_eq!(word, format!("n{turn}"));
    }
    let ran_on = stand.ran_on("hinted");
    assert_eq!(ran_on[0], 3, "{ran_on:?}");
    assert_eq!(ran_on[1] + ran_on[2], 1, "only the first try was a replica's: {ran_on:?}");
    assert_eq!(stand.playground.primary().sql("SELECT count(*) FROM notes").unwrap().trim(), "3");
    assert_eq!(rescues(&stand, "wrote"), 1);
}

#[test]
fn one_batch_has_one_answer_whatever_was_tried_before() {
    let stand = Stand::new(eventual);
    let mut client = Raw::login(stand.lagoon.port);
    let sql = "/* pglagoon: replica */ SELECT note('batch') /* batch */";
    for _ in 0..2 {
        let answer = client.exchange(&[
            parse("", sql),
            bind("", "", &[]),
            describe_portal(""),
            execute("", 0),
            sync(),
        ]);
        assert_eq!(
            (tags(&answer).as_str(), first_column(&answer)),
            ("1 2 T D C Z", vec!["batch".to_owned()])
        );
    }
    // A named statement keeps its name, and has it once.
    let answer = client.exchange(&[
        parse("named", "/* pglagoon: replica */ SELECT note('named') AS other /* batch */"),
        bind("", "named", &[]),
        execute("", 0),
        sync(),
    ]);
    assert_eq!((tags(&answer).as_str(), first_column(&answer)), ("1 2 D C Z", vec!["named".to_owned()]));
    let answer = client.exchange(&[bind("", "named", &[]), execute("", 0), sync()]);
    assert_eq!((tags(&answer).as_str(), first_column(&answer)), ("2 D C Z", vec!["named".to_owned()]));
    assert_eq!(rescues(&stand, "wrote"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_a_replica_does_not_have_yet_is_read_on_the_primary() {
    let stand = Stand::new(eventual);
    let client = stand.client().await;
    for replica in stand.playground.replicas() {
        replica.pause_replay().unwrap();
    }
    stand.playground.primary().sql("SET ROLE app; CREATE TABLE fresh AS SELECT 'seen' AS word").unwrap();
    // Once the catalog has been read, it is an ordinary table.
    eventually_async("a read of the new table was rescued", async || {
        assert_eq!(value(&client, "SELECT word FROM fresh /* fresh */").await, "seen");
        rescues(&stand, "behind") > 0
    })
    .await;
    for replica in stand.playground.replicas() {
        replica.resume_replay().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_errant_statement_says_is_the_servers_own_answer() {
    let stand = Stand::new(eventual);
    let client = stand.client().await;
    let error = client.simple_query("SELECT no_such_column FROM numbers /* errant */").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42703");
    assert_eq!(value(&client, "SELECT 1").await, "1");
    assert_eq!(stand.ran_on("errant")[0], 1, "a replica may not know a column yet: the primary does");
}

#[test]
fn nothing_is_repeated_that_has_been_seen_or_stands_in_a_transaction() {
    let stand = Stand::new(eventual);
    let mut client = Raw::login(stand.lagoon.port);
    // The first row is the client's when the second cannot be had.
    let sql = "/* pglagoon: replica */ SELECT CASE WHEN i = 1 THEN 'first' ELSE note('second') END \
               FROM numbers WHERE i < 3 ORDER BY i /* shown */";
    let answer = client.query(sql);
    match tags(&answer).as_str() {
        // The row and the error came in one piece, the row first.
        "T D E Z" => assert_eq!(answer.iter().find(|message| message.tag == 'E').unwrap().code(), "25006"),
        other => panic!("{other}"),
    }
    assert_eq!(stand.ran_on("shown")[0], 0);

    let two = client.query("/* pglagoon: replica */ SELECT 1 /* pair */; SELECT note('x')");
    assert_eq!(tags(&two), "T D C T E Z");
    assert_eq!(rescues(&stand, "wrote"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_replica_dies_runs_again() {
    let mut stand = Stand::new(eventual);
    let clients = join_all((0..4).map(|_| stand.client())).await;
    let reading = tokio::spawn(async move {
        let reads = clients.iter().map(|client| client.simple_query("SELECT pg_sleep(1) /* dies */"));
        join_all(reads).await
    });
    eventually("both replicas read", || stand.ran_on("dies")[1..] == [2, 2]);
    stand.playground.node_mut(1).kill().unwrap();
    for answer in reading.await.unwrap() {
        answer.expect("no client sees the loss");
    }
    assert!(rescues(&stand, "lost") >= 2);
}

#[test]
fn pipelined_reads_whose_replica_dies_run_again_all_of_them() {
    let mut stand = Stand::new(eventual);
    let slow = "SELECT 'slow', pg_sleep(1) /* dies */";
    let run = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    let pipelines = [
        [query("SELECT 'first'"), query(slow), query("SELECT 'third'"), query("SELECT 'fourth'")].concat(),
        [
            run("SELECT 'first'"),
            sync(),
            run(slow),
            sync(),
            run("SELECT 'third'"),
            run("SELECT 'fourth'"),
            sync(),
        ]
        .concat(),
        [run("SELECT 'first'"), run(slow), run("SELECT 'third'"), sync(), query("SELECT 'fourth'")].concat(),
    ];
    let ends = [4, 3, 2];
    let mut clients: Vec<Raw> = (0..6).map(|_| Raw::login(stand.lagoon.port)).collect();
    for (place, client) in clients.iter_mut().enumerate() {
        client.send(&pipelines[place / 2]);
    }
    eventually("both replicas read", || {
        let sleeps = "wait_event = 'PgSleep'";
        (1..3).map(|place| stand.backends(place, sleeps)).collect::<Vec<_>>() == [3, 3]
    });
    stand.playground.node_mut(1).kill().unwrap();
    for (place, client) in clients.iter_mut().enumerate() {
        let answer: Vec<Message> = (0..ends[place / 2]).flat_map(|_| client.until_ready()).collect();
        assert!(answer.iter().all(|message| message.tag != 'E'), "{place}: {answer:?}");
        assert_eq!(first_column(&answer), ["first", "slow", "third", "fourth"], "{place}");
    }
    // Three clients were on that replica, and each had two requests at least that were not answered.
    assert!(rescues(&stand, "lost") >= 6, "{}", rescues(&stand, "lost"));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_never_sent_again() {
    let stand = Stand::new(eventual);
    let client = stand.client().await;
    client
        .simple_query("/* pglagoon: replica */ INSERT INTO notes (word) VALUES ('once') /* never */")
        .await
        .unwrap();
    assert_primary(&stand, "never", 1);
}
