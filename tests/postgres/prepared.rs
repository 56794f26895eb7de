//! Prepared statements: a client's names work across transactions and servers, whoever else uses the same names.

use crate::harness::{
    Setup, Stand, assert_primary, assert_replicas, eventually, installations, join_all, quote, rows, sqlstate,
};
use crate::raw::{
    Raw, V3_0, bind, close_statement, describe_portal, describe_statement, execute, first_column, parse,
    query, sync, tags,
};
use pglagoon::cli::playground::{DATABASE, USER};

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
fn in_session_mode_the_unnamed_statement_outlives_what_the_server_is_asked_on_our_own_account() {
    let stand = Stand::new(|setup| trusting(setup).set("pool", "mode", quote("session")));
    let mut client = Raw::login(stand.lagoon.port);
    client.exchange(&[parse("sets", "SELECT set_config('work_mem', '2MB', false)"), sync()]);
    // What the function sets is asked for behind it, by a Query, which would destroy it.
    let mixed = [parse("", "SELECT 7"), bind("", "sets", &[]), execute("", 0), sync()];
    assert_eq!(tags(&client.exchange(&mixed)), "1 2 D C Z");
    let run = [describe_statement(""), bind("", "", &[]), execute("", 0), sync()];
    let answer = client.exchange(&run);
    assert_eq!((tags(&answer).as_str(), first_column(&answer)), ("t T 2 D C Z", vec!["7".to_owned()]));
    client.query("SELECT 1");
    assert_eq!(
        tags(&client.exchange(&[bind("", "", &[]), sync()])),
        "E Z",
        "a Query of the client's own destroys it"
    );
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

/// Parse, Bind, Describe, Execute of the unnamed statement, as most drivers do it.
fn lone(sql: &str, values: &[&str]) -> [Vec<u8>; 5] {
    [parse("", sql), bind("", "", values), describe_portal(""), execute("", 0), sync()]
}

/// What the one server connection holds for a text.
fn kept(client: &mut Raw, what: &str, sql: &str) -> String {
    let answer = client.query(&format!(
        "SELECT {what} FROM pg_prepared_statements WHERE name LIKE 'pglagoon%' AND statement = $kept${sql}$kept$"
    ));
    first_column(&answer).concat()
}

#[test]
fn an_unnamed_statement_that_comes_again_is_kept() {
    let adjust = |setup: Setup| trusting(setup).set("routing", "reads", quote("primary"));
    let stand = Stand::new(adjust);
    let mut clients = [Raw::login(stand.lagoon.port), Raw::login(stand.lagoon.port)];
    let (read, write) =
        ("SELECT word FROM numbers WHERE i = $1;", "UPDATE notes SET word = $1 WHERE word = 'never'");
    for turn in 0..10 {
        for (number, client) in clients.iter_mut().enumerate() {
            let answer = client.exchange(&lone(read, &["5"]));
            assert_eq!(
                (tags(&answer).as_str(), first_column(&answer)),
                ("1 2 T D C Z", vec!["number 5".into()])
            );
            assert_eq!(tags(&client.exchange(&lone(write, &["x"]))), "1 2 n C Z");
            let once = format!("SELECT word FROM numbers WHERE i = {turn} /* {number} */");
            client.exchange(&lone(&once, &[]));
            assert_eq!(kept(client, "count(*)", &once), "0");
        }
    }
    let [client, other] = &mut clients;
    for text in [read, write] {
        assert_eq!(kept(client, "count(*)", text), "1");
        assert_eq!(kept(client, "generic_plans > 0 AND custom_plans > 0", text), "t");
    }
    // Planning stays the client's to choose.
    other.query("SET plan_cache_mode TO force_custom_plan");
    let before = kept(client, "generic_plans", read);
    other.exchange(&lone(read, &["5"]));
    assert_eq!(kept(client, "generic_plans", read), before);

    // What a clock or a setting has a part in is read anew.
    let instants: std::collections::BTreeSet<_> = (0..5)
        .flat_map(|_| first_column(&client.exchange(&lone("SELECT 'now'::timestamptz(6)", &[]))))
        .collect();
    assert_eq!(instants.len(), 5, "{instants:?}");
    for (zone, hour) in [("UTC", "12"), ("Asia/Tokyo", "3")] {
        client.query(&format!("SET timezone TO '{zone}'"));
        for _ in 0..3 {
            let text = "SELECT extract(hour FROM timestamptz '2026-01-02 12:00' AT TIME ZONE 'UTC')::text";
            assert_eq!(first_column(&client.exchange(&lone(text, &[]))), [hour]);
        }
    }
}

#[test]
fn unnamed_statements_are_forwarded_if_that_is_wanted() {
    let adjust = |setup: Setup| {
        let setup = trusting(setup).set("routing", "reads", quote("primary"));
        setup.set("databases.app.pool", "unnamed_statements", quote("forward"))
    };
    let stand = Stand::new(adjust);
    let mut client = Raw::login(stand.lagoon.port);
    for _ in 0..3 {
        assert_eq!(tags(&client.exchange(&lone("SELECT $1::int", &["5"]))), "1 2 T D C Z");
    }
    assert_eq!(kept(&mut client, "count(*)", "SELECT $1::int"), "0");
}

#[test]
fn more_unnamed_statements_than_a_server_connection_keeps_do_not_drive_each_other_out() {
    let adjust = |setup: Setup| trusting(setup).set("routing", "reads", quote("primary"));
    let stand = Stand::new(|setup| adjust(setup).set("pool", "prepared_statements", "10"));
    let mut client = Raw::login(stand.lagoon.port);
    let names = "SELECT string_agg(name, ' ' ORDER BY name) FROM pg_prepared_statements";
    let mut held = Vec::new();
    for turn in 0..6 {
        for number in 0..15 {
            let answer = client.exchange(&lone(&format!("SELECT $1::int + {number}"), &[&turn.to_string()]));
            assert_eq!(first_column(&answer), [(turn + number).to_string()]);
        }
        held.push(first_column(&client.query(names)).concat());
    }
    assert_eq!(held[1].split(' ').count(), 10);
    assert!(held[1..].iter().all(|names| *names == held[1]), "{held:?}");
}

/// DDL that no client of pglagoon's ran, behind the back of statements that are kept: every answer is, to the byte, the
/// server's own.
#[test]
fn no_client_can_tell_that_its_unnamed_statement_was_kept() {
    for reads in ["primary", "replicas"] {
        let stand = Stand::new(|setup| trusting(setup).set("routing", "reads", quote(reads)));
        let primary = stand.playground.primary();
        let rules = primary.data().join("pg_hba.conf");
        let others = std::fs::read_to_string(&rules).unwrap();
        std::fs::write(&rules, format!("host all app 127.0.0.1/32 trust\n{others}")).unwrap();
        let loaded = || primary.sql("SELECT pg_conf_load_time()").unwrap();
        let before = loaded();
        primary.reload().unwrap();
        eventually("the server has read its rules", || loaded() != before);
        let mut direct = Raw::login(primary.port());
        let mut clients = [Raw::login(stand.lagoon.port), Raw::login(stand.lagoon.port)];
        let texts = [
            "SELECT * FROM changing",
            "SELECT * FROM changing WHERE one = $1",
            "SELECT 'is ' || word FROM changing WHERE word = $1 OR word = 'a'",
            "UPDATE changing SET one = $1 WHERE false",
            "UPDATE changing SET word = word WHERE one = $1 RETURNING *",
            "INSERT INTO changing (one) SELECT $1 WHERE false",
        ];
        for change in [
            "CREATE TABLE changing AS SELECT 1 AS one, 'a'::text AS word; GRANT ALL ON changing TO PUBLIC",
            "ALTER TABLE changing ADD COLUMN two int",
            "ALTER TABLE changing ALTER COLUMN one TYPE text",
            "ALTER TABLE changing ALTER COLUMN one TYPE bigint USING one::bigint",
            "ALTER TABLE changing ALTER COLUMN word TYPE int USING 7",
            "ALTER TABLE changing DROP COLUMN word",
            "ALTER TABLE changing RENAME TO was",
            "ALTER TABLE was RENAME TO changing; ALTER TABLE changing ADD COLUMN word text DEFAULT 'a'",
            "REVOKE ALL ON changing FROM PUBLIC",
            "GRANT ALL ON changing TO PUBLIC",
            "DROP TABLE changing; CREATE VIEW changing AS SELECT 1 AS one, 'a'::text AS word",
            "DROP VIEW changing",
        ] {
            primary.sql(change).unwrap();
            stand.playground.wait_caught_up().unwrap();
            for turn in 0..4 {
                for text in texts {
                    let values = if text.contains("$1") { &["1", "a", "9999999999"][..] } else { &["1"] };
                    let some = |value| if text.contains("$1") { vec![value] } else { vec![] };
                    for &value in values {
                        let own = direct.exchange(&lone(text, &some(value)));
                        for client in &mut clients {
                            let block = turn == 3;
                            if block {
                                client.query("BEGIN");
                            }
                            let mut seen = client.exchange(&lone(text, &some(value)));
                            if block {
                                client.query("ROLLBACK");
                                // It says that a block is open, or has failed.
                                seen.last_mut().unwrap().body = b"I".to_vec();
                            }
                            assert_eq!(
                                seen, own,
                                "reads = {reads}, {change}, turn {turn}: {text} with {value}"
                            );
                        }
                    }
                }
            }
        }
        let times = stand.lagoon.log().matches("a request runs again as it came").count();
        assert!(times > 20, "reads = {reads}: {times}");
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

/// As on a direct connection: by them the client makes its values.
#[test]
fn the_types_that_a_client_was_told_stay_whatever_ddl_does_to_the_columns() {
    let stand = Stand::new(trusting);
    for (turn, name) in ["s", ""].into_iter().enumerate() {
        let table = format!("types_{turn}");
        let (mut client, mut other) = (Raw::login(stand.lagoon.port), Raw::login(stand.lagoon.port));
        client.query(&format!("CREATE TABLE {table} (v float8)"));
        let insert = format!("INSERT INTO {table} VALUES ($1) RETURNING v");
        let described = client.exchange(&[parse(name, &insert), describe_statement(name), sync()]);
        assert_eq!((tags(&described).as_str(), &described[1].body[2..]), ("1 t T Z", &[0, 0, 2, 189][..]));
        let run = |value| [bind("", name, &[value]), execute("", 0), sync()];
        assert_eq!(first_column(&client.exchange(&run("1.5"))), ["1.5"]);
        assert_eq!(tags(&other.query(&format!("ALTER TABLE {table} ALTER v TYPE int8"))), "C Z");
        // On the next server connection the column's type is another.
        let end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'app' AND client_addr IS NOT NULL";
        stand.playground.primary().sql(end).unwrap();
        assert_eq!(first_column(&client.exchange(&run("2.5"))), ["2"], "rounded by the server, as float8 is");
        let described = client.exchange(&[describe_statement(name), sync()]);
        assert_eq!(&described[0].body[2..], [0, 0, 2, 189]);
    }
}

#[test]
fn what_fails_behind_deallocate_all_does_not_bring_the_statements_back() {
    let stand = Stand::new(|setup| {
        trusting(setup).set("pool", "size", "1").set("routing", "reads", quote("primary"))
    });
    let run = [bind("", "s", &[]), execute("", 0), sync()];
    for text in
        ["DEALLOCATE ALL; SELECT 1/0", "SELECT 1/0; DEALLOCATE ALL", "BEGIN; DEALLOCATE ALL; SELECT 1/0"]
    {
        let (mut client, mut other) = (Raw::login(stand.lagoon.port), Raw::login(stand.lagoon.port));
        for client in [&mut client, &mut other] {
            client.exchange(&[parse("s", "SELECT 'there'"), sync()]);
            assert_eq!(first_column(&client.exchange(&run)), ["there"]);
        }
        let has_run = tags(&client.query(text)).starts_with('C');
        client.query("ROLLBACK");
        assert_eq!(first_column(&other.exchange(&run)), ["there"], "after {text}");
        assert_eq!(client.exchange(&run)[0].tag, if has_run { 'E' } else { '2' }, "after {text}");
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

/// As sqlx's macros do, with EXPLAIN.
#[test]
fn execute_runs_what_was_prepared_by_a_parse() {
    const PLAN: &str = "EXPLAIN (COSTS OFF) EXECUTE s(NULL)";
    for bin in installations() {
        let stand = Stand::on(&bin, trusting);
        let (mut client, mut other) = (Raw::login(stand.lagoon.port), Raw::login(stand.lagoon.port));
        let mut reader = Raw::login(stand.lagoon.port);
        client.exchange(&[
            parse("s", "SELECT word FROM numbers WHERE i = $1"),
            describe_statement("s"),
            sync(),
        ]);
        other.exchange(&[parse("s", "SELECT 'other', $1::int"), sync()]);
        let expected = [(&mut client, "number 3", "T D C Z"), (&mut other, "other", "T D C Z")];
        for (one, word, shape) in expected {
            let answer = one.query("EXECUTE s(3)");
            assert_eq!((tags(&answer).as_str(), first_column(&answer)), (shape, vec![word.to_owned()]));
            assert!(tags(&one.query(PLAN)).starts_with("T D"), "a plan");
        }
        assert_eq!(reader.query("EXECUTE s(3)")[0].code(), "26000", "it is others'");

        // In the extended protocol, in one batch and in two, beside somebody with the same texts.
        for (one, word) in [(&mut client, "number 4"), (&mut other, "other")] {
            let whole =
                [parse("", "EXECUTE s(4)"), bind("", "", &[]), describe_portal(""), execute("", 0), sync()];
            let answer = one.exchange(&whole);
            assert_eq!(
                (tags(&answer).as_str(), first_column(&answer)),
                ("1 2 T D C Z", vec![word.to_owned()])
            );
            for (name, text) in [("run", "EXECUTE s(4)"), ("plan", PLAN)] {
                let prepared = one.exchange(&[parse(name, text), describe_statement(name), sync()]);
                assert_eq!(tags(&prepared), "1 t T Z", "{name}");
            }
        }
        for (one, word) in [(&mut other, "other"), (&mut client, "number 4")] {
            let run = [bind("", "run", &[]), execute("", 0), bind("", "plan", &[]), execute("", 0), sync()];
            let answer = one.exchange(&run);
            assert_eq!(first_column(&answer)[0], word, "{}", tags(&answer));
        }

        // Pipelined, in a transaction, and what it leaves behind.
        let pipeline: Vec<u8> =
            ["BEGIN", "EXECUTE s(5)", "EXECUTE s(6); EXECUTE s(7)", "COMMIT"].map(query).concat();
        client.send(&pipeline);
        let answers: Vec<_> = (0..4).flat_map(|_| client.until_ready()).collect();
        assert_eq!(first_column(&answers), ["number 5", "number 6", "number 7"]);
        client.exchange(&[parse("set", "SELECT set_config('work_mem', '9MB', false)"), sync()]);
        client.query("EXECUTE set");
        assert_eq!(first_column(&client.query("SHOW work_mem")), ["9MB"], "it is the client's");
        assert_eq!(tags(&client.query("DISCARD ALL")), "C Z");
        assert_ne!(first_column(&other.query("SHOW work_mem")), ["9MB"]);
        assert_eq!(tags(&other.query("EXECUTE s(3)")), "T D C Z");
    }
}

#[test]
fn a_statement_that_can_be_prepared_no_more_fails_where_it_is_executed() {
    let stand = stand();
    let (mut client, mut other) = (Raw::login(stand.lagoon.port), Raw::login(stand.lagoon.port));
    other.query("CREATE TABLE gone (i int)");
    client.exchange(&[parse("s", "SELECT i FROM gone"), sync()]);
    assert_eq!(tags(&client.query("EXECUTE s")), "T C Z");
    other.query("DROP TABLE gone");
    for text in ["EXECUTE s", "EXPLAIN EXECUTE s"] {
        let answer = client.query(text);
        assert_eq!((tags(&answer).as_str(), answer[0].code().as_str()), ("E Z", "42P01"), "{text}");
        let answer = client.exchange(&[parse("", text), bind("", "", &[]), execute("", 0), sync()]);
        assert_eq!((tags(&answer).as_str(), answer[0].code().as_str()), ("E Z", "42P01"), "{text}");
        assert_eq!(first_column(&client.query("SELECT 1")), ["1"]);
    }
    client.query("BEGIN");
    assert_eq!(client.query("EXECUTE s").last().expect("ReadyForQuery").status(), 'E');
    assert_eq!(client.query("EXECUTE s")[0].code(), "25P02");
    client.query("ROLLBACK");
    client.send(&[query("EXECUTE s"), query("SELECT 2")].concat());
    let answers: Vec<_> = (0..2).flat_map(|_| client.until_ready()).collect();
    assert_eq!((tags(&answers).as_str(), first_column(&answers)), ("E Z T D C Z", vec!["2".to_owned()]));
    assert_eq!(first_column(&other.query("SELECT 3")), ["3"]);
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

/// One server connection for all, so that whatever is shared is seen.
fn one_server() -> Stand {
    Stand::new(|setup| trusting(setup).set("routing", "reads", quote("primary")))
}

fn under(stand: &Stand, settings: &[(&str, &str)]) -> Raw {
    let login = [("user", USER), ("database", DATABASE)];
    Raw::login_with(stand.lagoon.port, V3_0, &[&login, settings].concat())
}

/// Prepares a text under a name and runs it.
fn named(client: &mut Raw, name: &str, sql: &str) -> String {
    let answer = client.exchange(&[parse(name, sql), bind("", name, &[]), execute("", 0), sync()]);
    assert_eq!(tags(&answer), "1 2 D C Z", "{sql}: {answer:?}");
    first_column(&answer).concat()
}

fn again(client: &mut Raw, name: &str) -> String {
    let answer = client.exchange(&[bind("", name, &[]), execute("", 0), sync()]);
    assert_eq!(tags(&answer), "2 D C Z", "{name}: {answer:?}");
    first_column(&answer).concat()
}

const MIDNIGHT: &str = "SELECT extract(epoch FROM timestamptz '2026-06-01 00:00')::bigint";
const IN_UTC: &str = "1780272000";
const IN_TOKYO: &str = "1780239600";

#[test]
fn what_settings_make_of_a_text_stays_with_those_who_have_them() {
    let stand = one_server();
    let [utc, tokyo] = [("timezone", "UTC"), ("timezone", "Asia/Tokyo")];
    let mut clients = [utc, tokyo, utc].map(|zone| under(&stand, &[zone]));
    for name in ["s", "t"] {
        for (client, expected) in clients.iter_mut().zip([IN_UTC, IN_TOKYO, IN_UTC]) {
            assert_eq!(named(client, name, MIDNIGHT), expected);
            assert_eq!(again(client, name), expected);
        }
    }
    assert_eq!(kept(&mut clients[0], "count(*)", MIDNIGHT), "2");
    // Who changes the setting keeps what has been prepared, and prepares anew with what holds now.
    let [client, ..] = &mut clients;
    client.query("SET timezone TO 'Asia/Tokyo'");
    assert_eq!([again(client, "s"), named(client, "u", MIDNIGHT)], [IN_UTC, IN_TOKYO]);

    let date = "SELECT to_char('1/2/2026'::date, 'MM-DD')";
    for (style, expected) in [("ISO, MDY", "01-02"), ("ISO, DMY", "02-01")] {
        assert_eq!(named(&mut under(&stand, &[("datestyle", style)]), "s", date), expected);
    }
    let letter = "SELECT ascii('\u{e4}')";
    for (encoding, expected) in [("UTF8", "228"), ("LATIN1", "195")] {
        assert_eq!(named(&mut under(&stand, &[("client_encoding", encoding)]), "s", letter), expected);
    }
}

#[test]
fn settings_of_a_transaction_are_not_the_others() {
    let stand = one_server();
    let mut clients = [(); 3].map(|()| under(&stand, &[("timezone", "UTC")]));
    let [local, pipelined, other] = &mut clients;
    local.query("BEGIN");
    local.query("SET LOCAL timezone TO 'Asia/Tokyo'");
    assert_eq!(named(local, "s", MIDNIGHT), IN_TOKYO);
    local.query("COMMIT");
    let all = [
        query("SET timezone TO 'Asia/Tokyo'"),
        parse("s", MIDNIGHT),
        bind("", "s", &[]),
        execute("", 0),
        sync(),
    ];
    pipelined.send(&all.concat());
    assert_eq!(tags(&pipelined.until_ready()), "C Z");
    assert_eq!(first_column(&pipelined.until_ready()), [IN_TOKYO]);
    assert_eq!([named(other, "s", MIDNIGHT), again(other, "s")], [IN_UTC, IN_UTC]);
    // On a direct connection, too, a statement is what it was when it was prepared.
    assert_eq!([again(local, "s"), again(pipelined, "s")], [IN_TOKYO, IN_TOKYO]);
    // What others have prepared is not what it would be here.
    local.query("BEGIN");
    local.query("SELECT set_config('timezone', 'Asia/Tokyo', true)");
    assert_eq!(named(local, "t", MIDNIGHT), IN_TOKYO);
    local.query("ROLLBACK");
    assert_eq!(named(local, "u", MIDNIGHT), IN_UTC);
}

#[test]
fn an_instant_is_read_anew_by_each_parse() {
    let stand = one_server();
    let mut clients = [(); 2].map(|()| Raw::login(stand.lagoon.port));
    let text = "SELECT 'now'::timestamptz(6)::text";
    let mut instants = std::collections::BTreeSet::new();
    for name in ["a", "b"] {
        for client in &mut clients {
            let instant = named(client, name, text);
            assert_eq!(again(client, name), instant);
            instants.insert(instant);
        }
    }
    assert_eq!(instants.len(), 4, "{instants:?}");
}

#[test]
fn a_schema_for_each_tenant_has_its_own_types() {
    let stand = one_server();
    let setup = Raw::login(stand.lagoon.port).query(
        "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.u (k int, v text); CREATE TABLE b.u (k text, v text); \
         INSERT INTO a.u VALUES (1, 'x'); INSERT INTO b.u VALUES ('one', 'y')",
    );
    assert!(tags(&setup).ends_with('Z') && !tags(&setup).contains('E'), "{setup:?}");
    let text = "SELECT v FROM u WHERE k = $1";
    for _ in 0..2 {
        for (schema, kind, key, value) in [("a", 23, "1", "x"), ("b", 25, "one", "y")] {
            let mut client = under(&stand, &[("search_path", schema)]);
            let described = client.exchange(&[parse("s", text), describe_statement("s"), sync()]);
            assert_eq!(described[1].body, [0, 1, 0, 0, 0, kind]);
            let run = client.exchange(&[bind("", "s", &[key]), execute("", 0), sync()]);
            assert_eq!(first_column(&run), [value]);
        }
    }
}

#[test]
fn what_a_transaction_changes_is_seen_by_what_it_prepares() {
    let stand = one_server();
    let (mut client, mut other) = (Raw::login(stand.lagoon.port), Raw::login(stand.lagoon.port));
    client.query("CREATE TABLE changing AS SELECT 1 AS one");
    let (all, count) = ("SELECT * FROM changing", "SELECT count(*) FROM changing");
    assert_eq!([named(&mut other, "all", all), named(&mut other, "count", count)], ["1", "1"]);

    client.query("BEGIN");
    client.query("ALTER TABLE changing ADD COLUMN two int DEFAULT 7");
    let run = [parse("all", all), describe_statement("all"), bind("", "all", &[]), execute("", 0), sync()];
    let answer = client.exchange(&run);
    assert_eq!(tags(&answer), "1 t T 2 D C Z", "{answer:?}");
    assert_eq!(answer[4].columns(), [Some("1".into()), Some("7".into())]);
    client.query("COMMIT");
    assert_eq!([again(&mut client, "all"), named(&mut other, "now", all)], ["1", "1"]);

    client.query("BEGIN");
    client.query("CREATE TEMP TABLE changing (word text) ON COMMIT DROP");
    assert_eq!(named(&mut client, "count", count), "0");
    client.query("COMMIT");
    assert_eq!([again(&mut other, "count"), named(&mut other, "anew", count)], ["1", "1"]);
}
