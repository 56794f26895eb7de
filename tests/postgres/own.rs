//! `SET`, `RESET` and `SHOW` of pglagoon's own settings, between real clients and real servers.

use std::collections::BTreeMap;

use crate::harness::{
    Stand, assert_primary, assert_replicas, eventually_async, quote, rows, sqlstate, value,
};
use crate::raw::{Message, Raw, bind, execute, first_column, parse, sync};
use tokio_postgres::Client;

fn raw_stand() -> (Stand, Raw) {
    let stand = Stand::new(|setup| {
        setup.set("auth", "method", quote("trust")).set("routing", "consistency", quote("eventual"))
    });
    let client = Raw::login(stand.lagoon.port);
    (stand, client)
}

/// The SQLSTATE of the error among these, and the state of the transaction behind it.
fn outcome(messages: &[Message]) -> (String, char) {
    let error = messages.iter().find(|message| message.tag == 'E').map(Message::code);
    (error.unwrap_or_default(), messages.last().expect("ReadyForQuery").status())
}

fn level(client: &mut Raw) -> String {
    first_column(&client.query("SHOW pglagoon.consistency")).concat()
}

fn extended(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", "", &[]), execute("", 0)].concat()
}

#[test]
fn what_is_set_in_a_transaction_is_undone_with_it() {
    let (_stand, mut client) = raw_stand();
    // A transaction that has not begun on any server, one that has, and one whose BEGIN is no simple query.
    let begins =
        [vec!["BEGIN"], vec!["BEGIN", "SELECT 1"], vec!["BEGIN", "INSERT INTO notes (word) VALUES ('x')"]];
    for begin in begins {
        for (set, end, after) in [
            ("SET pglagoon.consistency = 'strong'", "ROLLBACK", "eventual"),
            ("SET pglagoon.consistency = 'strong'", "COMMIT", "strong"),
            ("RESET pglagoon.consistency", "COMMIT", "eventual"),
            ("SET LOCAL pglagoon.consistency = 'bounded'", "COMMIT", "eventual"),
        ] {
            begin.iter().for_each(|sql| drop(client.query(sql)));
            client.query(set);
            assert_eq!(level(&mut client) != "eventual", !set.starts_with("RESET"), "{begin:?} {set}");
            client.query(end);
            assert_eq!(level(&mut client), after, "{begin:?} {set} {end}");
            // The same by the extended protocol.
            client.exchange(&[extended("BEGIN"), sync()]);
            client.exchange(&[extended(set), sync()]);
            client.exchange(&[extended(end), sync()]);
            assert_eq!(level(&mut client), after, "extended: {begin:?} {set} {end}");
            if end == "ROLLBACK" {
                continue;
            }
            client.query("RESET pglagoon.consistency");
            assert_eq!(level(&mut client), "eventual");
            if after == "strong" {
                client.query("SET pglagoon.consistency = 'strong'");
            }
        }
    }
}

fn first(messages: &[Message], tag: char) -> &Message {
    messages.iter().find(|message| message.tag == tag).unwrap_or_else(|| panic!("{tag} in {messages:?}"))
}

#[test]
fn tags_and_warnings_are_those_of_any_setting() {
    let (_stand, mut client) = raw_stand();
    for (sql, tag) in [
        ("SET \"PgLagoon\".Consistency TO Strong", "SET"),
        ("SET pglagoon.consistency TO DEFAULT", "SET"),
        ("RESET \"PGLAGOON.consistency\"", "RESET"),
    ] {
        assert_eq!(first(&client.query(sql), 'C').command(), tag, "{sql}");
        let messages = client.exchange(&[extended(sql), sync()]);
        assert_eq!(first(&messages, 'C').command(), tag, "{sql}");
        assert_eq!(level(&mut client) == "strong", sql.ends_with("Strong"), "{sql}");
    }
    let local = "SET LOCAL pglagoon.consistency = 'strong'";
    for messages in [client.query(local), client.exchange(&[extended(local), sync()])] {
        assert_eq!(first(&messages, 'N').code(), "25P01");
    }
    assert_eq!(level(&mut client), "eventual");
    client.query("BEGIN");
    assert!(client.query(local).iter().all(|message| message.tag != 'N'));
    client.query("COMMIT");
}

#[test]
fn set_config_of_our_own_settings_is_refused_and_not_ignored() {
    let (_stand, mut client) = raw_stand();
    let hidden = "SELECT pg_catalog.set_config('PgLagoon.route', 'primary', true)";
    for messages in [client.query(hidden), client.exchange(&[extended(hidden), sync()])] {
        assert_eq!(outcome(&messages), ("0A000".to_owned(), 'I'));
        assert!(first(&messages, 'E').field('H').contains("SET pglagoon.route"), "{messages:?}");
    }
    client.query("BEGIN");
    client.query("SELECT 1");
    assert_eq!(outcome(&client.query(hidden)), ("0A000".to_owned(), 'E'));
    client.query("ROLLBACK");
    let other = "SELECT set_config('app.route', 'pglagoon.route', false)";
    assert_eq!(outcome(&client.query(other)), (String::new(), 'I'));
    assert_eq!(first_column(&client.query("SHOW app.route")), ["pglagoon.route"]);
}

#[test]
fn a_batch_that_fails_undoes_what_it_has_set() {
    let (_stand, mut client) = raw_stand();
    let set = || extended("SET pglagoon.consistency = 'strong'");
    client.exchange(&[set(), extended("SELECT 1/0"), sync()]);
    assert_eq!(level(&mut client), "eventual");
    client.exchange(&[extended("SELECT 1/0"), set(), sync()]);
    assert_eq!(level(&mut client), "eventual", "it never ran");
    let messages = client.exchange(&[extended("SELECT 1"), set(), extended("SELECT 2"), sync()]);
    assert_eq!(first_column(&messages), ["1", "2"]);
    assert_eq!(level(&mut client), "strong");
}

#[test]
fn a_value_that_is_none_fails_its_transaction_as_any_error_does() {
    let (_stand, mut client) = raw_stand();
    let wrong = "SET pglagoon.consistency = 'best'";
    for begin in [vec!["BEGIN"], vec!["BEGIN", "SELECT 1"], vec!["BEGIN READ ONLY", "SELECT 1"]] {
        for is_extended in [false, true] {
            begin.iter().for_each(|sql| drop(client.query(sql)));
            let messages = match is_extended {
                false => client.query(wrong),
                true => client.exchange(&[extended(wrong), sync()]),
            };
            assert_eq!(outcome(&messages), ("22023".to_owned(), 'E'), "{begin:?} {is_extended}");
            assert_eq!(outcome(&client.query("SELECT 1")), ("25P02".to_owned(), 'E'));
            assert_eq!(outcome(&client.query("ROLLBACK")), (String::new(), 'I'));
        }
    }
    // Whatever stands in it.
    client.query("BEGIN");
    client.query("SELECT 1");
    let messages = client.query("SET pglagoon.consistency = '$pglagoon$ ''best'' \\'");
    assert_eq!(outcome(&messages), ("22023".to_owned(), 'E'));
    client.query("ROLLBACK");
    let messages =
        client.exchange(&[extended("INSERT INTO notes (word) VALUES ('lost')"), extended(wrong), sync()]);
    assert_eq!(outcome(&messages), ("22023".to_owned(), 'I'));
    assert_eq!(first_column(&client.query("SELECT count(*) FROM notes")), ["0"]);
}

async fn run(client: &Client, sql: &str) {
    client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_chooses_where_its_statements_go() {
    let stand = Stand::new(|setup| setup);
    let client = stand.client().await;
    assert_eq!(value(&client, "SHOW pglagoon.route").await, "auto");

    run(&client, "SET pglagoon.route = 'primary'").await;
    rows(&client, "SELECT count(*) FROM numbers /* primary-wish */").await;
    client.query("SELECT count(*) FROM numbers /* primary-wish */", &[]).await.unwrap();
    run(&client, "BEGIN READ ONLY; SELECT count(*) FROM numbers /* primary-wish */; COMMIT").await;
    assert_primary(&stand, "primary-wish", 3);
    let metrics = stand.lagoon.http("/metrics").unwrap().body;
    let chosen = "pglagoon_routed_queries_total{database=\"app\",role=\"primary\",reason=\"chosen\"} ";
    assert!(metrics.contains(chosen), "{metrics}");

    // What is proven to write is never sent away; what is not proven is, and comes back if it does write.
    run(&client, "SET pglagoon.route = 'replica'").await;
    assert_eq!(value(&client, "SHOW pglagoon.route").await, "replica");
    run(&client, "INSERT INTO notes (word) VALUES ('a') /* replica-write */").await;
    run(&client, "SELECT nextval('notes_id_seq') /* replica-write */").await;
    run(&client, "CREATE TEMPORARY TABLE mine (i int) /* replica-write */").await;
    run(&client, "DROP TABLE mine /* replica-write */").await;
    assert_primary(&stand, "replica-write", 4);
    let other = stand.client().await;
    run(&other, "SET pglagoon.route = 'replica'").await;
    assert_eq!(value(&other, "SELECT pg_is_in_recovery()::text /* replica-wish */").await, "true");
    assert_replicas(&stand, "replica-wish", 1);
    for turn in 1..=2 {
        assert_eq!(
            value(&other, &format!("SELECT note('{turn}') /* rescued-{turn} */")).await,
            turn.to_string()
        );
    }
    assert_eq!(stand.ran_on("rescued-1")[1..].iter().sum::<usize>(), 1);
    assert_primary(&stand, "rescued-2", 1);

    let wrong = sqlstate(other.simple_query("SET pglagoon.route = 'nowhere'").await);
    assert_eq!(wrong.0, "22023");
    run(&other, "RESET pglagoon.route").await;
    assert_eq!(value(&other, "SELECT pg_is_in_recovery()::text").await, "false");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_told_where_a_statement_would_go() {
    let stand = Stand::new(|setup| setup);
    let [primary, replica, _] = stand.playground.nodes() else { panic!("three servers") };
    let client = stand.client().await;
    let told = async |statement: &str| -> BTreeMap<String, String> {
        let sql = format!("SHOW pglagoon.route FOR {statement}");
        let simple =
            rows(&client, &sql).await.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
        let extended = client.query(&sql, &[]).await.unwrap();
        let extended: BTreeMap<String, String> =
            extended.iter().map(|row| (row.get("item"), row.get("value"))).collect();
        // How long ago something was is never the same twice.
        assert!(extended.keys().eq(BTreeMap::keys(&simple)), "{simple:?} {extended:?}");
        simple
    };
    let read = told("SELECT word FROM numbers WHERE i = 1; SELECT 2").await;
    assert_eq!((read["verdict"].as_str(), read["route"].as_str()), ("proven read", "a replica"));
    assert!(read["mark"].starts_with("none: "), "{read:?}");
    assert_eq!(read[&primary.address()], "primary: not taken, a replica can serve");
    assert_eq!(read.values().filter(|value| value.contains(": taken (")).count(), 1, "{read:?}");

    let call = told("SELECT note(word) FROM numbers").await;
    assert_eq!((call["verdict"].as_str(), call["decided by"].as_str()), ("unsure", "note"));
    assert_eq!(call[&primary.address()], "primary: taken");
    assert!(call[&replica.address()].ends_with("not taken, it is not proven to read"), "{call:?}");

    // Nothing of that ran; what does run changes the answer.
    assert_eq!(value(&client, "SELECT count(*) FROM notes").await, "0");
    run(&client, "INSERT INTO notes (word) VALUES ('x')").await;
    let later = told("SELECT 1").await;
    assert!(later["mark"].starts_with("what the primary has shown or was given"), "{later:?}");
    assert!(later["route"].starts_with("a replica that has replayed"), "{later:?}");
    rows(&client, "SELECT count(*) FROM notes").await;
    eventually_async("a read on a replica stays there", async || {
        rows(&client, "SELECT count(*) FROM notes").await;
        let stays = told("SELECT 1").await;
        stays["mark"].contains(" has shown, ")
            && stays["route"].starts_with("the replica that the client has")
    })
    .await;

    run(&client, "BEGIN").await;
    run(&client, "SELECT 1").await;
    let within = told("SELECT 1").await;
    assert!(within["route"].contains("part of a transaction"), "{within:?}");
    assert_eq!(within[&primary.address()], "primary: taken");
    run(&client, "ROLLBACK").await;
    run(&client, "SET pglagoon.route = 'primary'").await;
    let wished = told("SELECT 1").await;
    assert_eq!(wished["wish"], "pglagoon.route is primary");
    assert_eq!(wished["route"], "primary: its client has asked for the primary");
    assert_eq!(sqlstate(client.simple_query("SHOW pglagoon.route FOR").await).0, "42601");
}
