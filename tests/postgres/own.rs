//! `SET`, `RESET` and `SHOW` of pglagoon's own settings, between real clients and real servers.

use crate::harness::{Stand, quote};
use crate::raw::{Message, Raw, bind, execute, first_column, parse, sync};

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
    let messages =
        client.exchange(&[extended("INSERT INTO notes (word) VALUES ('lost')"), extended(wrong), sync()]);
    assert_eq!(outcome(&messages), ("22023".to_owned(), 'I'));
    assert_eq!(first_column(&client.query("SELECT count(*) FROM notes")), ["0"]);
}
