//! The wire protocol, message by message.
//!
//! # Source
//! <https://www.postgresql.org/docs/current/protocol-flow.html>

use std::time::Duration;

use crate::harness::{Setup, Stand, installations, quote};
use crate::raw::{
    GSS_REQUEST, Raw, SSL_REQUEST, V3_0, V3_2, bind, close_statement, describe_portal, describe_statement,
    execute, first_column, flush, head, message, parse, query, startup, sync, tags, terminate,
};

const LOGIN: [(&str, &str); 2] = [("user", "app"), ("database", "app")];

fn stand() -> Stand {
    Stand::new(trusting)
}

fn trusting(setup: Setup) -> Setup {
    setup.set("auth", "method", quote("trust")).set("routing", "consistency", quote("eventual"))
}

#[test]
fn encryption_that_is_not_configured_is_declined_and_the_login_goes_on() {
    let stand = stand();
    let mut client = Raw::connect(stand.lagoon.port);
    client.send(&GSS_REQUEST);
    assert_eq!(client.read_byte(), b'N');
    client.send(&SSL_REQUEST);
    assert_eq!(client.read_byte(), b'N');
    client.send(&startup(V3_0, &LOGIN));
    assert_eq!(client.until_ready().last().unwrap().status(), 'I');
    assert_eq!(first_column(&client.query("SELECT 'in'")), ["in"]);
}

#[test]
fn a_login_ends_with_parameters_a_key_and_readiness() {
    for bin in installations() {
        let stand = Stand::on(&bin, trusting);
        let mut client = Raw::connect(stand.lagoon.port);
        client.send(&startup(V3_0, &LOGIN));
        let answer = client.until_ready();
        assert_eq!(tags(&answer), "R K Z");
        assert_eq!(answer[0].body, 0_u32.to_be_bytes(), "AuthenticationOk");
        for name in [
            "server_version",
            "server_encoding",
            "client_encoding",
            "DateStyle",
            "TimeZone",
            "integer_datetimes",
            "standard_conforming_strings",
            "IntervalStyle",
        ] {
            assert!(client.parameters.contains_key(name), "{name} is missing: {:?}", client.parameters);
        }
        let version = stand.playground.installation().version().to_string();
        assert!(client.parameters["server_version"].starts_with(&version), "{:?}", client.parameters);
        assert_eq!(client.key.unwrap().1.len(), 4);
    }
}

#[test]
fn newer_protocol_versions_and_unknown_options_are_negotiated_down() {
    let stand = stand();
    let mut newest = Raw::login_with(stand.lagoon.port, V3_2, &LOGIN);
    assert_eq!(first_column(&newest.query("SELECT 'new'")), ["new"]);

    let mut future = Raw::connect(stand.lagoon.port);
    future.send(&startup((3 << 16) | 9, &[&LOGIN[..], &[("_pq_.teleport", "on")]].concat()));
    let answer = future.until_ready();
    assert_eq!(answer[0].tag, 'v', "{answer:?}");
    let newest_minor = u32::from_be_bytes(answer[0].body[..4].try_into().unwrap());
    assert!(newest_minor & 0xffff == 2, "{newest_minor:#x}");
    let options = u32::from_be_bytes(answer[0].body[4..8].try_into().unwrap());
    assert_eq!((options, &answer[0].body[8..]), (1, &b"_pq_.teleport\0"[..]));
    assert_eq!(first_column(&future.query("SELECT 'future'")), ["future"]);

    let mut ancient = Raw::connect(stand.lagoon.port);
    ancient.send(&startup(2 << 16, &LOGIN));
    let answer = ancient.until_end();
    assert!(answer.len() <= 1 && answer.iter().all(|message| message.tag == 'E'), "{answer:?}");
}

#[test]
fn startup_parameters_reach_the_server_and_changes_of_them_the_client() {
    let stand = stand();
    let parameters = [
        &LOGIN[..],
        &[
            ("application_name", "tester"),
            ("DateStyle", "German"),
            ("TimeZone", "Asia/Tokyo"),
            ("client_encoding", "LATIN1"),
        ],
    ]
    .concat();
    let mut client = Raw::login_with(stand.lagoon.port, V3_0, &parameters);
    assert_eq!(client.parameters["client_encoding"], "LATIN1");
    assert_eq!(client.parameters["TimeZone"], "Asia/Tokyo");
    assert_eq!(first_column(&client.query("SELECT DATE '2001-02-03'")), ["03.02.2001"]);
    assert_eq!(first_column(&client.query("SHOW application_name")), ["tester"]);
    assert_eq!(first_column(&client.query("SHOW TimeZone")), ["Asia/Tokyo"]);

    client.query("SET TimeZone = 'Europe/Berlin'");
    assert_eq!(client.parameters["TimeZone"], "Europe/Berlin");
    for _ in 0..3 {
        assert_eq!(first_column(&client.query("SHOW TimeZone")), ["Europe/Berlin"]);
    }
}

#[test]
fn startup_options_of_libpq_are_honoured_unless_the_packet_names_the_setting() {
    let stand = stand();
    let options = ("options", "-c statement_timeout=12345 -c DateStyle=German -c work_mem=1MB");
    let asked = [options, ("datestyle", "SQL, DMY"), ("Work_Mem", "2MB")];
    let mut client = Raw::login_with(stand.lagoon.port, V3_0, &[&LOGIN[..], &asked].concat());
    assert_eq!(client.parameters["DateStyle"], "SQL, DMY");
    for (name, value) in [("statement_timeout", "12345ms"), ("DateStyle", "SQL, DMY"), ("work_mem", "2MB")] {
        assert_eq!(first_column(&client.query(&format!("SHOW {name}"))), [value]);
    }
}

#[test]
fn simple_queries_of_all_shapes() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    assert_eq!(tags(&client.query("")), "I Z");
    assert_eq!(tags(&client.query("-- nothing")), "I Z");
    assert_eq!(tags(&client.query(";;")), "I Z");
    assert_eq!(tags(&client.query("SELECT 1")), "T D C Z");
    assert_eq!(tags(&client.query("SELECT 1; SELECT 2 WHERE false; SELECT 3")), "T D C T C T D C Z");
    assert_eq!(tags(&client.query("SELECT 1; SELECT 1/0; SELECT 3")), "T D C E Z");
    assert_eq!(tags(&client.query("SELEC")), "E Z");
    let notice = client.query("DO $$ BEGIN RAISE NOTICE 'hear hear'; END $$");
    assert_eq!(notice[0].field('M'), "hear hear");
    let block = client.query("BEGIN; SELECT 1/0");
    assert_eq!(block.last().unwrap().status(), 'E');
    assert_eq!(client.query("SELECT 1")[0].code(), "25P02");
    assert_eq!(client.query("ROLLBACK").last().unwrap().status(), 'I');
}

#[test]
fn a_portal_is_read_in_parts() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    client.query("BEGIN");
    let first = client.exchange(&[
        parse("", "SELECT i FROM numbers ORDER BY i"),
        bind("portal", "", &[]),
        describe_portal("portal"),
        execute("portal", 3),
        sync(),
    ]);
    assert_eq!(tags(&first), "1 2 T D D D s Z");
    let second = client.exchange(&[execute("portal", 2), sync()]);
    assert_eq!((tags(&second).as_str(), first_column(&second)), ("D D s Z", vec!["4".into(), "5".into()]));
    let rest = client.exchange(&[execute("portal", 0), sync()]);
    assert_eq!(rest.iter().filter(|message| message.tag == 'D').count(), 995);
    assert_eq!(client.query("COMMIT").last().unwrap().status(), 'I');

    // Without a block the portal ends with its Sync, but a limit within one Sync works.
    let alone = client.exchange(&[
        parse("", "SELECT i FROM numbers ORDER BY i"),
        bind("", "", &[]),
        execute("", 2),
        execute("", 1),
        sync(),
    ]);
    assert_eq!(tags(&alone), "1 2 D D s D s Z");
    let gone = client.exchange(&[execute("", 1), sync()]);
    assert_eq!((tags(&gone).as_str(), gone[0].code().as_str()), ("E Z", "34000"));
}

#[test]
fn flush_brings_answers_without_a_sync() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    client.send(&[parse("s", "SELECT $1::int + 1"), describe_statement("s"), flush()].concat());
    assert_eq!(tags(&client.until('T')), "1 t T");
    client.send(&[bind("", "s", &["41"]), flush()].concat());
    assert_eq!(tags(&client.until('2')), "2");
    client.send(&[execute("", 0), flush()].concat());
    let rows = client.until('C');
    assert_eq!((tags(&rows).as_str(), first_column(&rows)), ("D C", vec!["42".to_owned()]));
    client.send(&sync());
    assert_eq!(tags(&client.until_ready()), "Z");
}

#[test]
fn an_error_skips_to_the_sync_and_no_further() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    client.send(
        &[
            parse("", "SELECT 1"),
            bind("", "", &[]),
            execute("", 0),
            parse("", "SELECT 1/0"),
            bind("", "", &[]),
            execute("", 0),
            parse("", "SELECT 'skipped'"),
            bind("", "", &[]),
            execute("", 0),
            sync(),
            parse("", "SELECT 'after'"),
            bind("", "", &[]),
            execute("", 0),
            sync(),
        ]
        .concat(),
    );
    let failed = client.until_ready();
    assert!(tags(&failed).starts_with("1 2 D C 1 ") && tags(&failed).ends_with("E Z"), "{failed:?}");
    assert_eq!(first_column(&failed), ["1"]);
    let after = client.until_ready();
    assert_eq!((tags(&after).as_str(), first_column(&after)), ("1 2 D C Z", vec!["after".to_owned()]));
}

#[test]
fn syncs_alone_and_in_a_row_are_answered_one_by_one() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    client.send(&[sync(), sync(), sync()].concat());
    for _ in 0..3 {
        assert_eq!(tags(&client.until_ready()), "Z");
    }
    client.send(&[query("SELECT 1"), sync(), query("SELECT 2")].concat());
    assert_eq!(tags(&client.until_ready()), "T D C Z");
    assert_eq!(tags(&client.until_ready()), "Z");
    assert_eq!(first_column(&client.until_ready()), ["2"]);
    client.assert_silent(Duration::from_millis(100));
}

#[test]
fn a_hundred_requests_in_one_write_are_answered_in_order() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    let pipeline: Vec<Vec<u8>> = (0..100)
        .map(|number| match number % 3 {
            0 => query(&format!("SELECT {number}")),
            1 => query(&format!("INSERT INTO notes (word) VALUES ('{number}') RETURNING word")),
            _ => [parse("", &format!("SELECT {number}")), bind("", "", &[]), execute("", 0), sync()].concat(),
        })
        .collect();
    client.send(&pipeline.concat());
    for number in 0..100 {
        assert_eq!(first_column(&client.until_ready()), [number.to_string()]);
    }
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let stand = stand();
    let mut client = Raw::connect(stand.lagoon.port);
    for byte in startup(V3_0, &LOGIN) {
        client.send(&[byte]);
    }
    client.until_ready();
    for byte in [parse("", "SELECT $1::text"), bind("", "", &["bit by bit"]), execute("", 0), sync()].concat()
    {
        client.send(&[byte]);
    }
    assert_eq!(first_column(&client.until_ready()), ["bit by bit"]);
}

#[test]
fn function_calls_pass() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    // int4pl(40, 2): function 177, one format code (text) for all arguments, text result.
    let mut body = Vec::new();
    body.extend_from_slice(&177_u32.to_be_bytes());
    body.extend_from_slice(&[0, 1, 0, 0, 0, 2]);
    for argument in ["40", "2"] {
        body.extend_from_slice(&u32::try_from(argument.len()).unwrap().to_be_bytes());
        body.extend_from_slice(argument.as_bytes());
    }
    body.extend_from_slice(&[0, 0]);
    client.send(&message('F', &body));
    let answer = client.until_ready();
    assert_eq!(tags(&answer), "V Z");
    assert_eq!(answer[0].body[4..], *b"42");
}

#[test]
fn a_terminate_ends_the_connection_quietly() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    client.query("SELECT 1");
    client.send(&terminate());
    assert_eq!(client.until_end(), []);
}

#[test]
fn a_value_of_two_hundred_megabytes_passes_in_fixed_memory() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    client.query("SELECT 1");
    let before = stand.lagoon.memory();

    // Out: one DataRow.
    client.send(&query("SELECT repeat('x', 200000000)"));
    assert_eq!(client.read().tag, 'T');
    client.skip(1 + 4 + 2 + 4 + 200_000_000);
    assert_eq!(tags(&client.until_ready()), "C Z");

    // In: one Bind.
    client.send(&parse("", "SELECT length($1::text)"));
    let length: usize = 100_000_000;
    let fixed = b"\0\0\0\0\0\x01";
    client.send(&head('B', fixed.len() + 4 + length + 2));
    client.send(fixed);
    client.send(&u32::try_from(length).unwrap().to_be_bytes());
    let block = [b'y'; 100_000];
    for _ in 0..length / block.len() {
        client.send(&block);
    }
    client.send(&[0, 0]);
    client.send(&[execute("", 0), sync()].concat());
    assert_eq!(first_column(&client.until_ready()), [length.to_string()]);

    let grown = stand.lagoon.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "memory grew by {grown} bytes");
}

#[test]
fn a_query_larger_than_the_limit_is_refused_with_a_clear_error() {
    let stand = Stand::new(|setup| trusting(setup).set("listen", "max_message", quote("1MiB")));
    let mut client = Raw::login(stand.lagoon.port);
    let fits = format!("SELECT length('{}')", "x".repeat(900_000));
    assert_eq!(first_column(&client.query(&fits)), ["900000"]);
    let too_large = format!("SELECT length('{}')", "x".repeat(3_000_000));
    // Whether pglagoon reads it to its end or hangs up, the reason is told.
    let _ = client.try_send(&query(&too_large));
    let error = client.until('E').pop().unwrap();
    assert!(["54000", "08P01", "53200", "54001"].contains(&error.code().as_str()), "{error:?}");
}

#[test]
fn closing_what_does_not_exist_is_no_error() {
    let stand = stand();
    let mut client = Raw::login(stand.lagoon.port);
    assert_eq!(tags(&client.exchange(&[close_statement("nothing"), sync()])), "3 Z");
    assert_eq!(tags(&client.exchange(&[message('C', b"Pnothing\0"), sync()])), "3 Z");
}
