//! COPY in both directions, whole and broken off.

use std::time::Duration;

use crate::harness::{Stand, assert_primary, assert_replicas, eventually, installations, quote};
use crate::raw::{
    Raw, bind, copy_data, copy_done, copy_fail, execute, first_column, parse, query, sync, tags,
};

fn stand() -> Stand {
    Stand::new(trusting)
}

fn trusting(setup: crate::harness::Setup) -> crate::harness::Setup {
    setup.set("auth", "method", quote("trust")).set("routing", "consistency", quote("eventual"))
}

#[test]
fn what_is_copied_in_is_copied_out_on_every_version() {
    for bin in installations() {
        let stand = Stand::on(&bin, trusting);
        let mut client = Raw::login(stand.lagoon.port);
        client.send(&query("COPY notes (word) FROM STDIN /* copy-in */"));
        assert_eq!(client.read().tag, 'G');
        for chunk in 0..100 {
            let lines: String = (0..100).map(|line| format!("line {chunk} {line}\n")).collect();
            client.send(&copy_data(lines.as_bytes()));
        }
        client.send(&copy_done());
        let answer = client.until_ready();
        assert_eq!((tags(&answer).as_str(), answer[0].command().as_str()), ("C Z", "COPY 10000"));
        assert_primary(&stand, "copy-in", 1);

        stand.playground.wait_caught_up().unwrap();
        let out = client.query("COPY notes (word) TO STDOUT /* copy-out */");
        assert_eq!(out[0].tag, 'H');
        let lines: Vec<&[u8]> =
            out.iter().filter(|message| message.tag == 'd').map(|message| &message.body[..]).collect();
        assert_eq!((lines.len(), lines[9_999]), (10_000, &b"line 99 99\n"[..]));
        assert_replicas(&stand, "copy-out", 1);
    }
}

#[test]
fn a_copy_that_the_server_refuses_while_data_still_comes_ends_in_its_error() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    for _ in 0..3 {
        client.send(&query("COPY numbers (i, word) FROM STDIN"));
        assert_eq!(client.read().tag, 'G');
        client.send(&copy_data(b"not a number\tat all\n"));
        // The server has given up by now or soon; a client that has not read that yet goes on sending.
        for _ in 0..200 {
            client.send(&copy_data(&[b'x'; 8192]));
        }
        client.send(&copy_done());
        let answer = client.until_ready();
        assert_eq!((tags(&answer).as_str(), answer[0].code().as_str()), ("E Z", "22P02"));
        assert_eq!(first_column(&client.query("SELECT count(*) FROM numbers")), ["1000"]);
    }
}

#[test]
fn a_client_can_break_off_its_copy() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    client.send(&query("COPY notes (word) FROM STDIN"));
    assert_eq!(client.read().tag, 'G');
    client.send(&[copy_data(b"never\n"), copy_fail("changed my mind")].concat());
    let answer = client.until_ready();
    assert_eq!((tags(&answer).as_str(), answer[0].code().as_str()), ("E Z", "57014"));
    assert_eq!(first_column(&client.query("SELECT count(*) FROM notes")), ["0"]);
}

#[test]
fn copy_works_in_the_extended_protocol_too() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    client.send(
        &[parse("", "COPY notes (word) FROM STDIN"), bind("", "", &[]), execute("", 0), sync()].concat(),
    );
    assert_eq!(tags(&client.until('G')), "1 2 G");
    // The Sync above came before the data and is lost in the copy; the one below ends it.
    client.send(&[copy_data(b"extended\n"), copy_done(), sync()].concat());
    assert_eq!(tags(&client.until_ready()), "C Z");

    let out = client.exchange(&[
        parse("", "COPY (SELECT word FROM numbers WHERE i < 4 ORDER BY i) TO STDOUT"),
        bind("", "", &[]),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(tags(&out), "1 2 H d d d c C Z");
    assert_eq!(first_column(&client.query("INSERT INTO notes (word) VALUES ('r') RETURNING word")), ["r"]);
}

#[test]
fn a_client_that_vanishes_in_mid_copy_leaves_nothing() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    client.send(&query("COPY notes (word) FROM STDIN"));
    assert_eq!(client.read().tag, 'G');
    client.send(&copy_data(b"half\n"));
    client.vanish();
    eventually("the copy is over", || stand.backends(0, "state = 'active'") == 0);
    let mut next = Raw::login(stand.lagoon.port);
    assert_eq!(first_column(&next.query("SELECT count(*) FROM notes")), ["0"]);
}

#[test]
fn a_copy_of_many_megabytes_is_streamed_both_ways_in_fixed_memory() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    client.query("SELECT 1");
    let before = stand.lagoon.memory();
    let line = [&[b'x'; 999][..], b"\n"].concat();
    let chunk = copy_data(&line.repeat(64));

    client.send(&query("COPY notes (word) FROM STDIN"));
    assert_eq!(client.read().tag, 'G');
    for _ in 0..2_000 {
        client.send(&chunk);
    }
    client.send(&copy_done());
    assert_eq!(client.until_ready()[0].command(), "COPY 128000");
    stand.playground.wait_caught_up().unwrap();

    client.send(&query("COPY notes (word) TO STDOUT"));
    let mut lines = 0;
    loop {
        match client.read().tag {
            'd' => lines += 1,
            'Z' => break,
            _ => {}
        }
    }
    assert!(lines >= 127_999, "{lines}");
    let grown = stand.lagoon.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "128 MB each way, and memory grew by {grown} bytes");
}

#[test]
fn a_copy_out_that_nobody_reads_holds_still_and_can_be_left() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    let before = stand.lagoon.memory();
    client.send(&query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 1000000)) TO STDOUT"));
    assert_eq!(client.read().tag, 'H');
    // A reader that is slower than the server: whatever is in between must not grow.
    for _ in 0..10 {
        let mut neighbour = Raw::login(stand.lagoon.port);
        assert_eq!(first_column(&neighbour.query("SELECT 'served'")), ["served"]);
        std::thread::sleep(Duration::from_millis(50));
    }
    let grown = stand.lagoon.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "memory grew by {grown} bytes");
    client.vanish();
    eventually("the copy is over", || (0..3).all(|place| stand.backends(place, "state = 'active'") == 0));
}
