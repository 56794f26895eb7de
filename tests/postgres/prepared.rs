//! Prepared statements: a client's names work across transactions and servers, whoever else uses the same names.

use crate::harness::{
    Setup, Stand, assert_primary, assert_replicas, installations, join_all, quote, rows, sqlstate,
};
use crate::raw::{
    Raw, bind, close_statement, describe_portal, describe_statement, execute, first_column, parse, query,
    sync, tags,
};

fn stand() -> Stand {
    Stand::new(trusting)
}

fn trusting(setup: Setup) -> Setup {
    setup.set("auth", "method", quote("trust")).set("pool", "size", "1").set(
        "routing",
        "consistency",
        quote("eventual"),
    )
}

#[test]
fn two_clients_use_one_name_for_different_statements_on_every_version() {
    for bin in installations() {
        let stand = Stand::on(&bin, trusting);
        let (mut first, mut second) = (Raw::login(stand.lagoon.port), Raw::login(stand.lagoon.port));
        assert_eq!(tags(&first.exchange(&[parse("s", "SELECT 'first ' || $1"), sync()])), "1 Z");
        assert_eq!(tags(&second.exchange(&[parse("s", "SELECT 'second ' || $1"), sync()])), "1 Z");
        for turn in 0..10 {
            for (client, name) in [(&mut first, "first"), (&mut second, "second")] {
                let answer = client.exchange(&[bind("", "s", &[&turn.to_string()]), execute("", 0), sync()]);
                assert_eq!(tags(&answer), "2 D C Z");
                assert_eq!(first_column(&answer), [format!("{name} {turn}")]);
            }
        }
    }
}

#[test]
fn a_statement_prepared_on_a_replica_runs_in_a_transaction_on_the_primary() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    client.exchange(&[parse("s", "SELECT word FROM numbers WHERE i = $1 /* wanders */"), sync()]);
    let run = [bind("", "s", &["5"]), execute("", 0), sync()];
    assert_eq!(first_column(&client.exchange(&run)), ["number 5"]);
    assert_replicas(&stand, "wanders", 1);
    client.query("BEGIN; INSERT INTO notes (word) VALUES ('x')");
    assert_eq!(first_column(&client.exchange(&run)), ["number 5"]);
    client.query("COMMIT");
    assert_eq!(stand.ran_on("wanders")[0], 1);
}

#[test]
fn the_unnamed_statement_lives_until_the_next_parse_or_query() {
    let stand = stand();
    let (mut client, mut other) = (Raw::login(stand.lagoon.port), Raw::login(stand.lagoon.port));
    assert_eq!(tags(&client.exchange(&[parse("", "SELECT 'mine'"), sync()])), "1 Z");
    assert_eq!(tags(&other.exchange(&[parse("", "SELECT 'theirs'"), sync()])), "1 Z");
    let run = [bind("", "", &[]), execute("", 0), sync()];
    assert_eq!(first_column(&client.exchange(&run)), ["mine"]);
    assert_eq!(first_column(&other.exchange(&run)), ["theirs"]);
    assert_eq!(first_column(&client.exchange(&run)), ["mine"]);
    client.query("SELECT 1");
    assert_eq!(client.exchange(&run)[0].code(), "26000");
}

#[test]
fn names_are_checked_as_the_server_does() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    assert_eq!(client.exchange(&[bind("", "never", &[]), execute("", 0), sync()])[0].code(), "26000");
    assert_eq!(client.exchange(&[describe_statement("never"), sync()])[0].code(), "26000");
    client.exchange(&[parse("s", "SELECT 1"), sync()]);
    assert_eq!(client.exchange(&[parse("s", "SELECT 2"), sync()])[0].code(), "42P05");
    assert_eq!(first_column(&client.exchange(&[bind("", "s", &[]), execute("", 0), sync()])), ["1"]);
    assert_eq!(tags(&client.exchange(&[close_statement("s"), parse("s", "SELECT 2"), sync()])), "3 1 Z");
    assert_eq!(first_column(&client.exchange(&[bind("", "s", &[]), execute("", 0), sync()])), ["2"]);
    client.exchange(&[close_statement("s"), sync()]);
    assert_eq!(client.exchange(&[bind("", "s", &[]), execute("", 0), sync()])[0].code(), "26000");
}

#[test]
fn a_parse_that_fails_or_is_skipped_prepares_nothing() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    let failed = client.exchange(&[parse("bad", "SELECT FROM WHERE"), parse("skipped", "SELECT 1"), sync()]);
    assert_eq!((tags(&failed).as_str(), failed[0].code().as_str()), ("E Z", "42601"));
    for name in ["bad", "skipped"] {
        assert_eq!(client.exchange(&[bind("", name, &[]), execute("", 0), sync()])[0].code(), "26000");
        assert_eq!(tags(&client.exchange(&[parse(name, "SELECT 1"), sync()])), "1 Z");
    }
}

#[test]
fn describe_answers_for_the_clients_own_statement() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    client.exchange(&[parse("s", "SELECT $1::int AS number, 'x'::text AS word"), sync()]);
    for _ in 0..3 {
        let described = client.exchange(&[describe_statement("s"), sync()]);
        assert_eq!(tags(&described), "t T Z");
        assert_eq!(described[0].body, [0, 1, 0, 0, 0, 23]);
    }
}

#[test]
fn a_changed_table_is_an_error_to_a_client_that_knows_its_columns_from_before() {
    let stand = Stand::new(|setup| trusting(setup).set("routing", "reads", quote("primary")));
    let mut client = Raw::login(stand.lagoon.port);
    client.query("CREATE TABLE changing AS SELECT 1 AS one");
    client.exchange(&[parse("s", "SELECT * FROM changing"), sync()]);
    let run = [bind("", "s", &[]), execute("", 0), sync()];
    assert_eq!(first_column(&client.exchange(&run)), ["1"]);
    client.query("ALTER TABLE changing ADD COLUMN two int");
    // 0A000, "cached plan must not change result type": what a client of the server itself would see.
    assert_eq!(
        client.exchange(&run).iter().find(|message| message.tag == 'E').map(|error| error.code()),
        Some("0A000".into())
    );
    client.exchange(&[close_statement("s"), parse("s", "SELECT * FROM changing"), sync()]);
    assert_eq!(first_column(&client.exchange(&run)), ["1"]);
}

/// DDL that no client of pglagoon's ran, and clients that are told the columns anew.
#[test]
fn a_table_that_was_changed_elsewhere_is_healed() {
    for reads in ["primary", "replicas"] {
        let stand = Stand::new(|setup| trusting(setup).set("routing", "reads", quote(reads)));
        let direct = |sql: &str| {
            stand.playground.primary().sql(sql).unwrap();
            stand.playground.wait_caught_up().unwrap();
        };
        direct("CREATE TABLE changing AS SELECT 1 AS one; GRANT SELECT ON changing TO PUBLIC");
        let text = "SELECT * FROM changing";
        let mut clients: Vec<Raw> = (0..3).map(|_| Raw::login(stand.lagoon.port)).collect();
        for client in &mut clients {
            let prepared = client.exchange(&[parse("s", text), describe_statement("s"), sync()]);
            assert_eq!(tags(&prepared), "1 t T Z");
            client.query("PREPARE old AS SELECT * FROM changing");
        }
        let run = [bind("", "s", &[]), describe_portal(""), execute("", 0), sync()];
        for round in ["two", "three", "four"] {
            direct(&format!("ALTER TABLE changing ADD COLUMN {round} int"));
            for client in &mut clients {
                let bound = client.exchange(&run);
                assert_eq!(tags(&bound), "2 T D C Z", "reads = {reads}, {round}: {bound:?}");
                assert_eq!(tags(&client.query("EXECUTE old")), "T D C Z", "reads = {reads}, {round}");
            }
            // Somebody who comes after the change has never heard of what was before.
            let mut late = Raw::login(stand.lagoon.port);
            let prepared = late.exchange(&[parse("s", text), describe_statement("s"), sync()]);
            assert_eq!(tags(&prepared), "1 t T Z", "reads = {reads}, {round}");
            let bound = late.exchange(&[bind("", "s", &[]), execute("", 0), sync()]);
            assert_eq!(tags(&bound), "2 D C Z", "reads = {reads}, {round}");
        }
        // In a transaction block nothing can be taken back.
        direct("ALTER TABLE changing DROP COLUMN two");
        let client = &mut clients[0];
        client.query("BEGIN");
        client.query("SELECT 1 FROM pg_class LIMIT 1");
        let failed = client.exchange(&run);
        assert_eq!(failed.iter().find(|message| message.tag == 'E').map(|e| e.code()), Some("0A000".into()));
        client.query("ROLLBACK");
        assert_eq!(tags(&client.exchange(&run)), "2 T D C Z");
    }
}

#[test]
fn deallocate_and_discard_forget_the_clients_statements_and_nobody_elses() {
    for forget in ["DEALLOCATE ALL", "DISCARD ALL"] {
        let stand = stand();
        let (mut client, mut other) = (Raw::login(stand.lagoon.port), Raw::login(stand.lagoon.port));
        for (client, text) in [(&mut client, "SELECT 'mine'"), (&mut other, "SELECT 'theirs'")] {
            client.exchange(&[parse("s", text), sync()]);
        }
        let run = [bind("", "s", &[]), execute("", 0), sync()];
        assert_eq!(first_column(&client.exchange(&run)), ["mine"]);
        client.query(forget);
        assert_eq!(client.exchange(&run)[0].code(), "26000", "after {forget}");
        for _ in 0..4 {
            assert_eq!(first_column(&other.exchange(&run)), ["theirs"], "after {forget}");
        }
        assert_eq!(tags(&client.exchange(&[parse("s", "SELECT 'again'"), sync()])), "1 Z");
        assert_eq!(first_column(&client.exchange(&run)), ["again"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_statements_than_a_server_connection_keeps() {
    let stand = Stand::new(|setup| trusting(setup).set("pool", "prepared_statements", "10"));
    let clients = join_all((0..3).map(|_| stand.client())).await;
    let statements = join_all(clients.iter().map(async |client| {
        let mut statements = Vec::new();
        for number in 0..50 {
            let sql = format!("SELECT $1::int + {number}, note('n')");
            statements.push(client.prepare(&sql).await.unwrap());
        }
        statements
    }))
    .await;
    join_all(clients.iter().zip(&statements).map(async |(client, statements)| {
        for turn in 0..3 {
            for (number, statement) in (0..).zip(statements) {
                let row = client.query_one(statement, &[&turn]).await.unwrap();
                assert_eq!(row.get::<_, i32>(0), turn + number);
            }
        }
    }))
    .await;
    let kept = stand.playground.primary().sql("SELECT 1").is_ok();
    assert!(kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_prepares_writes_and_reads_on_many_clients() {
    let stand = Stand::new(|setup| setup.set("pool", "size", "2"));
    let clients = join_all((0..6).map(|_| stand.client())).await;
    join_all(clients.iter().enumerate().map(async |(number, client)| {
        let read = client.prepare("SELECT word FROM numbers WHERE i = $1 /* lib-read */").await.unwrap();
        let write = client.prepare("INSERT INTO notes (word) VALUES ($1) /* lib-write */").await.unwrap();
        for turn in 1..=20_i32 {
            let row = client.query_one(&read, &[&turn]).await.unwrap();
            assert_eq!(row.get::<_, &str>(0), format!("number {turn}"));
            client.execute(&write, &[&format!("{number} {turn}")]).await.unwrap();
        }
    }))
    .await;
    assert_primary(&stand, "lib-write", 120);
    assert_eq!(stand.playground.primary().sql("SELECT count(DISTINCT word) FROM notes").unwrap(), "120\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_level_prepare_does_not_leak_to_other_clients() {
    let stand = Stand::new(|setup| setup.set("pool", "size", "1").set("routing", "reads", quote("primary")));
    let (client, other) = (stand.client().await, stand.client().await);
    // Refusing it in transaction mode would be fair as well; leaking it would not.
    if client.simple_query("PREPARE shared AS SELECT 'mine'").await.is_ok() {
        assert_eq!(rows(&client, "EXECUTE shared").await, [["mine"]]);
        drop(client);
    }
    assert_eq!(sqlstate(other.simple_query("EXECUTE shared").await).0, "26000");
}

#[test]
fn a_pipeline_that_prepares_binds_and_closes_in_one_go() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    let mut pipeline = Vec::new();
    for number in 0..20 {
        let name = format!("s{number}");
        pipeline.extend([
            parse(&name, &format!("SELECT {number} + $1::int")),
            describe_statement(&name),
            bind("", &name, &["1000"]),
            execute("", 0),
            close_statement(&name),
            sync(),
        ]);
    }
    pipeline.push(query("SELECT 'end'"));
    client.send(&pipeline.concat());
    for number in 0..20 {
        let answer = client.until_ready();
        assert_eq!(
            (tags(&answer).as_str(), first_column(&answer)),
            ("1 t T 2 D C 3 Z", vec![(1000 + number).to_string()])
        );
    }
    assert_eq!(first_column(&client.until_ready()), ["end"]);
}
