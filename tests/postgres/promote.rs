//! `transactions = "promote"`: a transaction reads on a replica until it does something else.

use crate::harness::{Stand, assert_primary, assert_replicas, join_all, quote, value};
use crate::raw::{Raw, bind, close_statement, execute, first_column, parse, sync, tags};

fn stand() -> Stand {
    Stand::new(|setup| {
        setup.set("routing", "transactions", quote("promote")).set("auth", "method", quote("trust"))
    })
}

#[test]
fn a_transaction_reads_on_a_replica_and_writes_on_the_primary() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    for turn in 0..3 {
        assert_eq!(tags(&client.query("BEGIN")), "C Z");
        assert_eq!(first_column(&client.query("SELECT count(*) FROM numbers /* first */")), ["1000"]);
        let bound = client.exchange(&[
            parse("", "SELECT word FROM numbers WHERE i = $1 /* bound */"),
            bind("", "", &["7"]),
            execute("", 0),
            sync(),
        ]);
        assert_eq!(first_column(&bound), ["number 7"]);
        let written = client.query(&format!("INSERT INTO notes (word) VALUES ('turn {turn}') /* write */"));
        assert_eq!(tags(&written), "C Z");
        let found = client.query(&format!("SELECT count(*) FROM notes WHERE word = 'turn {turn}' /* own */"));
        assert_eq!(first_column(&found), ["1"]);
        assert_eq!(tags(&client.query("COMMIT")), "C Z");
    }
    for marker in ["first", "bound"] {
        assert_replicas(&stand, &format!("/* {marker} */"), 3);
    }
    for marker in ["write", "own"] {
        assert_primary(&stand, &format!("/* {marker} */"), 3);
    }
    // The servers are given back as they were.
    assert_eq!(first_column(&client.query("SELECT count(*) FROM notes")), ["3"]);
}

#[test]
fn a_transaction_that_only_reads_never_sees_the_primary() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    for end in ["COMMIT", "ROLLBACK", "COMMIT"] {
        client.query("BEGIN /* only */");
        for _ in 0..2 {
            client.query("SELECT count(*) FROM numbers /* only */");
        }
        assert_eq!(tags(&client.query(end)), "C Z");
    }
    assert_replicas(&stand, "/* only */", 9);
}

#[test]
fn savepoints_and_local_settings_move_with_the_transaction() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    client.query("BEGIN");
    client.query("SELECT count(*) FROM numbers /* before */");
    client.query("SAVEPOINT outer_one");
    client.query("SET LOCAL work_mem = '7MB'");
    assert_eq!(tags(&client.query("RELEASE SAVEPOINT nobody")), "E Z");
    assert_eq!(client.query("SELECT 1 /* refused */")[0].code(), "25P02");
    assert_eq!(tags(&client.query("ROLLBACK TO outer_one")), "C Z");
    client.query("SET LOCAL work_mem = '8MB'");
    client.query("SAVEPOINT inner_one");
    assert_eq!(first_column(&client.query("SHOW work_mem")), ["8MB"]);
    client.query("INSERT INTO notes (word) VALUES ('gone') /* moved */");
    assert_eq!(first_column(&client.query("SHOW work_mem")), ["8MB"]);
    client.query("ROLLBACK TO inner_one");
    client.query("INSERT INTO notes (word) VALUES ('kept')");
    client.query("ROLLBACK TO outer_one");
    client.query("INSERT INTO notes (word) VALUES ('last')");
    assert_eq!(tags(&client.query("COMMIT")), "C Z");
    assert_replicas(&stand, "/* before */", 1);
    assert_primary(&stand, "/* moved */", 1);
    assert_eq!(first_column(&client.query("SELECT word FROM notes")), ["last"]);
    assert_ne!(first_column(&client.query("SHOW work_mem")), ["8MB"]);
}

#[test]
fn what_must_see_one_snapshot_or_one_server_runs_on_the_primary() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    let read = "SELECT count(*) FROM numbers /* whole */";
    for begin in
        ["BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN ISOLATION LEVEL SERIALIZABLE", "BEGIN READ WRITE"]
    {
        client.query(begin);
        assert_eq!(first_column(&client.query(read)), ["1000"]);
        client.query("COMMIT");
    }
    // A cursor, and a portal that is gone on with later.
    client.query("BEGIN");
    client.query("DECLARE c CURSOR FOR SELECT i FROM numbers /* whole */");
    assert_eq!(tags(&client.query("FETCH 2 FROM c")), "T D D C Z");
    client.query("COMMIT");
    client.query("BEGIN");
    let part = [parse("", "SELECT i FROM numbers /* whole */"), bind("", "", &[]), execute("", 2), sync()];
    assert_eq!(tags(&client.exchange(&part)), "1 2 D D s Z");
    assert_eq!(tags(&client.exchange(&[execute("", 1), sync()])), "D s Z");
    client.query("COMMIT");
    client.query("BEGIN");
    client.query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ");
    client.query(read);
    client.query("COMMIT");
    client.query("SET default_transaction_isolation = 'repeatable read'");
    client.query("BEGIN");
    client.query(read);
    client.query("COMMIT");
    // A portal is logged by each Execute that goes on with it.
    assert_eq!(stand.ran_on("/* whole */")[1..], [0, 0]);
    assert!(stand.ran_on("/* whole */")[0] >= 7);
}

#[test]
fn another_isolation_level_of_the_roles_own_is_found_out() {
    let stand = stand();
    stand
        .playground
        .primary()
        .sql("ALTER ROLE app SET default_transaction_isolation = 'repeatable read'")
        .unwrap();
    stand.playground.wait_caught_up().unwrap();
    // Whoever had logged in before does not know of it.
    let all = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'app'";
    stand.playground.nodes().iter().for_each(|node| drop(node.sql(all).unwrap()));
    let mut client = Raw::login(stand.lagoon.port);
    for _ in 0..3 {
        client.query("BEGIN");
        assert_eq!(first_column(&client.query("SELECT count(*) FROM numbers /* level */")), ["1000"]);
        assert_eq!(tags(&client.query("COMMIT")), "C Z");
    }
    assert_primary(&stand, "/* level */", 3);
}

#[test]
fn prepared_statements_move_too_and_pipelines_stay_in_order() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    client.exchange(&[
        parse("r", "SELECT count(*) FROM notes"),
        parse("w", "INSERT INTO notes (word) VALUES ($1)"),
        sync(),
    ]);
    for turn in 0..3 {
        client.query("BEGIN");
        let run = client.exchange(&[bind("", "r", &[]), execute("", 0), sync()]);
        assert_eq!(first_column(&run), [(2 * turn).to_string()]);
        // Two batches at once: the first moves the transaction, the second follows.
        let first =
            [bind("", "w", &["one"]), execute("", 0), bind("", "w", &["two"]), execute("", 0), sync()];
        let second = [bind("", "r", &[]), execute("", 0), sync()];
        client.send(&[first.concat(), second.concat()].concat());
        assert_eq!(tags(&client.until_ready()), "2 C 2 C Z");
        assert_eq!(first_column(&client.until_ready()), [(2 * turn + 2).to_string()]);
        client.query("COMMIT");
    }
    assert_eq!(tags(&client.exchange(&[close_statement("r"), sync()])), "3 Z");
}

/// Under READ COMMITTED no statement sees less than the one before it, wherever they run.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_never_sees_less_after_it_has_moved() {
    let stand = stand();
    let (writers, readers) = (2, 4);
    let setup = stand.client().await;
    setup.simple_query("CREATE TABLE counter AS SELECT 0 AS n").await.unwrap();
    let write = async || {
        let client = stand.client().await;
        for _ in 0..100 {
            client.simple_query("UPDATE counter SET n = n + 1").await.unwrap();
        }
    };
    let read = async || {
        let client = stand.client().await;
        for _ in 0..50 {
            client.simple_query("BEGIN").await.unwrap();
            let mut seen = 0;
            for lock in ["", "", " FOR SHARE", ""] {
                let n: i64 = value(&client, &format!("SELECT n FROM counter{lock}")).await.parse().unwrap();
                assert!(n >= seen, "{n} after {seen}");
                seen = n;
            }
            client.simple_query("COMMIT").await.unwrap();
        }
    };
    tokio::join!(join_all((0..writers).map(|_| write())), join_all((0..readers).map(|_| read())));
    assert_eq!(value(&setup, "SELECT n FROM counter").await, "200");
}

#[test]
fn a_read_only_transaction_moves_with_what_does_not_belong_on_a_replica() {
    let stand = Stand::new(|setup| setup.set("auth", "method", quote("trust")));
    let mut client = Raw::login(stand.lagoon.port);
    let mut other = Raw::login(stand.lagoon.port);
    let read = "SELECT count(*) FROM numbers /* read only */";
    client.query("BEGIN READ ONLY");
    assert_eq!(first_column(&client.query(read)), ["1000"]);
    assert_eq!(tags(&client.query("SELECT pg_advisory_xact_lock(42) /* lock */")), "T D C Z");
    assert_eq!(first_column(&other.query("SELECT pg_try_advisory_xact_lock(42)")), ["f"]);
    assert_eq!(first_column(&client.query(read)), ["1000"]);
    assert_eq!(client.query("INSERT INTO notes (word) VALUES ('x')")[0].code(), "25006");
    client.query("ROLLBACK");
    assert_primary(&stand, "/* lock */", 1);
    client.query("BEGIN READ ONLY");
    client.query(read);
    assert_eq!(tags(&client.query("DECLARE c CURSOR WITH HOLD FOR SELECT i FROM numbers")), "C Z");
    client.query("COMMIT");
    assert_eq!(tags(&client.query("INSERT INTO notes (word) VALUES ('y')")), "C Z");
    assert_eq!(tags(&client.query("CLOSE c")), "C Z");
    // A snapshot cannot move; nor can a portal. Who has written would be sent to the primary.
    let mut client = Raw::login(stand.lagoon.port);
    client.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    assert_eq!(first_column(&client.query(read)), ["1000"]);
    assert_eq!(client.query("SELECT pg_advisory_lock(43)")[0].code(), "0A000");
    assert_eq!(tags(&client.query("ROLLBACK")), "C Z");
    client.query("BEGIN READ ONLY");
    let part = [parse("", "SELECT i FROM numbers /* part */"), bind("", "", &[]), execute("", 2), sync()];
    assert_eq!(tags(&client.exchange(&part)), "1 2 D D s Z");
    let lock = [parse("", "SELECT pg_advisory_lock(43)"), bind("x", "", &[]), execute("x", 0), sync()];
    assert_eq!(tags(&client.exchange(&lock)), "1 E Z");
    client.query("ROLLBACK");
    assert_eq!(stand.ran_on("/* part */")[0], 0, "{:?}", stand.ran_on("/* part */"));
    assert_eq!(first_column(&other.query("SELECT pg_try_advisory_lock(43)")), ["t"]);
}

#[test]
fn a_read_only_transaction_of_a_role_that_is_serializable_runs_on_the_primary() {
    let stand = Stand::new(|setup| setup.set("auth", "method", quote("trust")));
    let alter = "ALTER ROLE app SET default_transaction_isolation = 'serializable'";
    stand.playground.primary().sql(alter).unwrap();
    stand.playground.wait_caught_up().unwrap();
    // Whoever had logged in before does not know of it.
    let all = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'app'";
    stand.playground.nodes().iter().for_each(|node| drop(node.sql(all).unwrap()));
    let mut client = Raw::login(stand.lagoon.port);
    for _ in 0..3 {
        client.query("BEGIN READ ONLY");
        assert_eq!(first_column(&client.query("SELECT count(*) FROM numbers /* level */")), ["1000"]);
        assert_eq!(tags(&client.query("COMMIT")), "C Z");
    }
    assert_primary(&stand, "/* level */", 3);
    client.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    assert_eq!(first_column(&client.query("SELECT count(*) FROM numbers /* named */")), ["1000"]);
    client.query("COMMIT");
    assert_replicas(&stand, "/* named */", 1);
}

/// A call that only a lexer sees for which a backslash ends no string.
const HIDDEN: &str = r"SELECT '\'', pg_advisory_xact_lock(7) --' /* hidden */";

#[tokio::test(flavor = "multi_thread")]
async fn a_default_by_which_texts_mean_something_else_is_found_out() {
    let stand = Stand::new(|setup| setup.set("auth", "method", quote("trust")));
    let alter = "ALTER ROLE app SET standard_conforming_strings = off";
    stand.playground.primary().sql(alter).unwrap();
    stand.playground.wait_caught_up().unwrap();
    // Whoever had logged in before does not know of it.
    stand.lagoon.console().await.simple_query("RECONNECT app").await.unwrap();
    let mut client = Raw::login(stand.lagoon.port);
    for _ in 0..3 {
        assert_eq!(tags(&client.query(HIDDEN)), "T D C Z");
    }
    client.query("BEGIN READ ONLY");
    assert_eq!(tags(&client.query(HIDDEN)), "T D C Z");
    client.query("COMMIT");
    assert_primary(&stand, "/* hidden */", 4);
}

#[test]
fn texts_mean_on_a_replica_what_they_say() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    client.query("BEGIN");
    client.query("SELECT count(*) FROM numbers /* before */");
    assert_eq!(tags(&client.query("SET LOCAL standard_conforming_strings = off")), "C Z");
    assert_eq!(tags(&client.query(HIDDEN)), "T D C Z");
    assert_eq!(tags(&client.query("COMMIT")), "C Z");
    assert_replicas(&stand, "/* before */", 1);
    assert_primary(&stand, "/* hidden */", 1);
    for change in [
        "SET LOCAL standard_conforming_strings = off",
        "SET NAMES 'SJIS'",
        "SELECT set_config('client_encoding', 'SJIS', true)",
    ] {
        client.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        client.query("SELECT count(*) FROM numbers /* whole */");
        assert_eq!(client.query(change)[0].code(), "0A000", "{change}");
        client.query("ROLLBACK");
    }
    assert_replicas(&stand, "/* whole */", 3);
}
