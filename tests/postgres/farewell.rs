//! How clients leave, and what becomes of what they have asked for: as with a server of their own.

use std::time::{Duration, Instant};

use crate::harness::{Setup, Stand, eventually, quote};
use crate::raw::{Raw, bind, execute, parse, query, sync, tags, terminate};

/// One server connection for all, so that most have to wait for it.
fn single(setup: Setup) -> Setup {
    setup.set("auth", "method", quote("trust")).set("pool", "size", "1").set(
        "routing",
        "reads",
        quote("primary"),
    )
}

fn notes(stand: &Stand) -> usize {
    stand.playground.primary().sql("SELECT count(*) FROM notes").unwrap().trim().parse().unwrap()
}

fn insert(word: &str) -> Vec<u8> {
    query(&format!("INSERT INTO notes (word) VALUES ('{word}')"))
}

/// Parse, Bind and Execute; no Sync.
fn insert_in_a_batch() -> Vec<u8> {
    [parse("", "INSERT INTO notes (word) VALUES ('batch')"), bind("", "", &[]), execute("", 0)].concat()
}

#[test]
fn what_was_asked_for_before_a_goodbye_is_done() {
    let stand = Stand::new(single);
    let clients: Vec<Raw> = (0..20).map(|_| Raw::login(stand.lagoon.port)).collect();
    // Most of them are gone before there is a connection for them.
    for mut client in clients {
        client
            .send(&[query("SELECT pg_sleep(0.02), note('function')"), insert("plain"), terminate()].concat());
        client.vanish();
    }
    eventually("all is done", || notes(&stand) == 40);
    let mut client = Raw::login(stand.lagoon.port);
    client.send(&[insert_in_a_batch(), sync(), insert_in_a_batch(), sync(), terminate()].concat());
    client.vanish();
    eventually("batches, too", || notes(&stand) == 42);
    // A goodbye that comes while the query runs.
    let mut client = Raw::login(stand.lagoon.port);
    client.send(&query("SELECT pg_sleep(0.3), note('slow')"));
    eventually("it runs", || stand.backends(0, "state = 'active' AND query LIKE '%slow%'") == 1);
    client.send(&terminate());
    client.vanish();
    eventually("it is done", || notes(&stand) == 43);
    assert_eq!(tags(&Raw::login(stand.lagoon.port).query("SELECT 1")), "T D C Z");
}

#[test]
fn a_goodbye_commits_nothing_that_is_not_complete() {
    let stand = Stand::new(single);
    let unsynced = || [query("SELECT 1"), insert_in_a_batch(), terminate()].concat();
    let in_block = || [query("BEGIN"), insert("block"), terminate()].concat();
    for bytes in [unsynced(), in_block()] {
        let mut client = Raw::login(stand.lagoon.port);
        client.send(&bytes);
        client.vanish();
    }
    // Queued behind them.
    assert_eq!(tags(&Raw::login(stand.lagoon.port).query("SELECT 1")), "T D C Z");
    eventually("nothing runs", || stand.backends(0, "state <> 'idle'") == 0);
    assert_eq!(notes(&stand), 0);
}

#[test]
fn what_a_client_leaves_behind_that_vanishes_is_undone() {
    let stand = Stand::new(single);
    let mut client = Raw::login(stand.lagoon.port);
    client.send(&query("INSERT INTO notes (word) VALUES ('vanished'); SELECT pg_sleep(60)"));
    eventually("it runs", || stand.backends(0, "state = 'active' AND query LIKE '%vanished%'") == 1);
    client.vanish();
    let asked = Instant::now();
    assert_eq!(tags(&Raw::login(stand.lagoon.port).query("SELECT 1")), "T D C Z");
    assert!(asked.elapsed() < Duration::from_secs(5), "the query was not cancelled");
    // Executed, but never synced.
    let mut client = Raw::login(stand.lagoon.port);
    client.send(&[insert_in_a_batch(), crate::raw::flush()].concat());
    assert_eq!(tags(&client.until('C')), "1 2 C");
    client.vanish();
    assert_eq!(tags(&Raw::login(stand.lagoon.port).query("SELECT 1")), "T D C Z");
    assert_eq!(notes(&stand), 0);
}
