//! What pglagoon says of its own decisions: `pglagoon explain`, shadow mode, and functions that the operator vouches for.

use std::collections::BTreeMap;
use std::process::Command;

use crate::harness::{Stand, assert_primary, assert_replicas, eventually_async, quote, rows, value};
use crate::raw::{Raw, bind, execute, first_column, parse, sync};

/// The lines of `pglagoon explain`.
fn explain(stand: &Stand, arguments: &[&str]) -> BTreeMap<String, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_pglagoon"))
        .args(["explain", "--config"])
        .arg(stand.lagoon.config_path())
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let pairs = lines.lines().filter_map(|line| line.split_once("  "));
    pairs.map(|(item, value)| (item.trim().to_owned(), value.trim().to_owned())).collect()
}

#[test]
fn explain_live_knows_the_servers_and_their_catalog() {
    let stand = Stand::new(|setup| setup);
    let [primary, replica, _] = stand.playground.nodes() else { panic!("three servers") };

    let read = explain(&stand, &["--live", "SELECT word FROM numbers WHERE i = 1"]);
    assert_eq!(read["verdict"], "proven read", "{read:?}");
    assert_eq!(read["catalog"], "read from the primary");
    assert_eq!(read["route"], "a replica");
    assert_eq!(read[&primary.address()], "primary: not taken, a replica can serve");
    assert!(read[&replica.address()].contains("taken (0 in use"), "{read:?}");

    let call = explain(&stand, &["--live", "SELECT note(word) FROM numbers"]);
    assert_eq!((call["verdict"].as_str(), call["decided by"].as_str()), ("unsure", "note"));
    assert!(call["reason"].starts_with("harmful_function: "), "{call:?}");
    assert_eq!(call[&primary.address()], "primary: taken");
    assert!(call[&replica.address()].ends_with("not taken, it is not proven to read"), "{call:?}");

    let nowhere = explain(&stand, &["--live", "SELECT * FROM no_such_table"]);
    assert!(nowhere["reason"].starts_with("unknown_relation: "));
}

#[test]
fn explain_offline_asks_nobody() {
    let stand = Stand::new(|setup| setup);
    let read = explain(&stand, &["SELECT * FROM numbers"]);
    assert_eq!((read["verdict"].as_str(), read["route"].as_str()), ("proven read", "a replica"));
    assert!(read["catalog"].contains("taken for ordinary tables: numbers"), "{read:?}");
    assert_eq!(read[&stand.playground.primary().address()], "unknown: cannot be told");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_shadow_mode_the_primary_serves_all_and_the_metrics_say_what_would_have_gone_away() {
    // A stand waits for its first read on a replica, which in shadow mode never comes.
    let mut stand = Stand::new(|setup| setup.set("routing", "consistency", quote("eventual")));
    stand.lagoon.reconfigure(|setup| setup.set("routing", "shadow", "true"));
    stand.lagoon.signal("HUP");
    let client = stand.client().await;
    eventually_async("the setting is in force", async || {
        let before: usize = stand.ran_on("probing").iter().skip(1).sum();
        rows(&client, "SELECT count(*) FROM numbers /* probing */").await;
        stand.ran_on("probing").iter().skip(1).sum::<usize>() == before
    })
    .await;
    for _ in 0..5 {
        rows(&client, "SELECT count(*) FROM numbers /* shadowed */").await;
    }
    client.simple_query("INSERT INTO notes (word) VALUES ('x')").await.unwrap();
    assert_primary(&stand, "shadowed", 5);
    let metrics = stand.lagoon.http("/metrics").unwrap().body;
    let shadow = "pglagoon_routed_queries_total{database=\"app\",role=\"primary\",reason=\"shadow\"} ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(shadow));
    assert!(line.is_some_and(|count| count.parse::<f64>().unwrap() >= 5.0), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_the_operator_vouches_for_run_on_replicas() {
    let mut stand = Stand::new(|setup| setup.set("routing", "consistency", quote("eventual")));
    stand
        .playground
        .primary()
        .sql("SET ROLE app; CREATE FUNCTION counted() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM numbers'")
        .unwrap();
    stand.playground.wait_caught_up().unwrap();
    let client = stand.client().await;
    assert_eq!(value(&client, "SELECT counted() /* unknown */").await, "1000");
    assert_primary(&stand, "unknown", 1);
    stand.lagoon.reconfigure(|setup| setup.set("routing", "safe_functions", "[\"public.counted\"]"));
    stand.lagoon.signal("HUP");
    eventually_async("the function runs on a replica", async || {
        value(&client, "SELECT counted() /* vouched */").await;
        stand.ran_on("vouched")[1..] != [0, 0]
    })
    .await;
}

#[test]
fn a_pipeline_of_reads_goes_to_replicas_and_a_write_in_it_takes_its_own_batch_along() {
    let stand = Stand::new(|setup| {
        setup.set("auth", "method", quote("trust")).set("routing", "consistency", quote("eventual"))
    });
    let mut client = Raw::login(stand.lagoon.port);
    let one = |sql: &str| [parse("", sql), bind("", "", &[]), execute("", 0)].concat();
    // Several reads before one Sync are one implicit transaction: whole on one replica.
    let together: Vec<u8> =
        [one("SELECT 'a' /* whole */"), one("SELECT 'b' /* whole */"), one("SELECT 'c' /* whole */"), sync()]
            .concat();
    assert_eq!(first_column(&client.exchange(&[together])), ["a", "b", "c"]);
    assert_replicas(&stand, "whole", 3);
    assert_eq!(stand.ran_on("whole").iter().filter(|count| **count > 0).count(), 1);

    // With a write in their midst they are the primary's, and fail together.
    let mixed: Vec<u8> = [
        one("SELECT 'a' /* mixed */"),
        one("INSERT INTO notes (word) VALUES ('lost') /* mixed */"),
        one("SELECT 1/0 /* mixed */"),
        sync(),
    ]
    .concat();
    client.exchange(&[mixed]);
    assert_eq!(stand.ran_on("mixed")[1..], [0, 0]);
    assert_eq!(first_column(&client.query("SELECT count(*) FROM notes")), ["0"]);

    // Each batch of a pipeline is judged alone.
    let pipeline: Vec<u8> =
        (0..4).flat_map(|turn| [one(&format!("SELECT {turn} /* split */")), sync()].concat()).collect();
    client.send(&pipeline);
    for _ in 0..4 {
        client.until_ready();
    }
    assert_replicas(&stand, "split", 4);

    // A simple query is as bad as the worst of its statements.
    for sql in ["SELECT 1 /* worst */; DELETE FROM notes", "DELETE FROM notes; SELECT 1 /* worst */"] {
        client.query(sql);
    }
    assert_primary(&stand, "worst", 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_say_what_was_made_of_the_statements() {
    let stand = Stand::new(|setup| setup.set("routing", "consistency", quote("eventual")));
    let client = stand.client().await;
    let counted = |role: &str, reason: &str| {
        let series =
            format!("pglagoon_statements_total{{database=\"app\",role=\"{role}\",reason=\"{reason}\"}} ");
        let metrics = stand.lagoon.http("/metrics").unwrap().body;
        let count = metrics.lines().find_map(|line| line.strip_prefix(series.as_str()).map(str::to_owned));
        count.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    let reads = counted("replica", "proven_read");
    for _ in 0..3 {
        rows(&client, "SELECT count(*) FROM numbers").await;
        client.query("SELECT count(*) FROM numbers", &[]).await.unwrap();
        client.execute("INSERT INTO notes (word) VALUES ('x')", &[]).await.unwrap();
        rows(&client, "SELECT note('y')").await;
    }
    for sql in ["BEGIN", "SELECT count(*) FROM numbers", "SELECT 1 FROM numbers FOR UPDATE", "COMMIT"] {
        client.simple_query(sql).await.unwrap();
    }
    assert_eq!(counted("replica", "proven_read") - reads, 6);
    assert_eq!(counted("primary", "write_command"), 3);
    assert_eq!(counted("primary", "harmful_function"), 3);
    // Within a transaction each is counted for itself.
    assert_eq!((counted("primary", "proven_read"), counted("primary", "locking_clause")), (1, 1));
}
