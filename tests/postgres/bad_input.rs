//! What a broken or hostile client may send: the answer is a clear error or a closed connection, memory stays bounded, and
//! nobody else notices.

use std::time::{Duration, Instant};

use crate::harness::{Setup, Stand, eventually, quote};
use crate::raw::{
    Message, Raw, SSL_REQUEST, V3_0, bind, copy_data, execute, first_column, message, parse, query, startup,
    sync, tags,
};

const LOGIN: [(&str, &str); 2] = [("user", "app"), ("database", "app")];

fn stand() -> Stand {
    Stand::new(trusting)
}

fn trusting(setup: Setup) -> Setup {
    setup.set("auth", "method", quote("trust"))
}

/// What every test here ends with: all others are served as before.
fn assert_undisturbed(stand: &Stand, neighbour: &mut Raw) {
    assert_eq!(first_column(&neighbour.query("SELECT 'undisturbed'")), ["undisturbed"]);
    let mut next = Raw::login(stand.lagoon.port);
    assert_eq!(first_column(&next.query("INSERT INTO notes (word) VALUES ('n') RETURNING word")), ["n"]);
}

#[test]
fn garbage_instead_of_a_login() {
    let stand = stand();
    let mut neighbour = Raw::login(stand.lagoon.port);
    let garbage: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![0xff; 64],
        0_u32.to_be_bytes().to_vec(),
        [4_u32.to_be_bytes(), V3_0.to_be_bytes()].concat(),
        [0x7fff_ffff_u32.to_be_bytes(), V3_0.to_be_bytes()].concat(),
        [0x8000_0000_u32.to_be_bytes(), V3_0.to_be_bytes()].concat(),
        // No user; no terminator; a name without a value; a hundred kilobytes of parameters.
        startup(V3_0, &[]),
        [9_u32.to_be_bytes().as_slice(), &V3_0.to_be_bytes(), b"u"].concat(),
        [&17_u32.to_be_bytes()[..], &V3_0.to_be_bytes(), b"user\0app\0"].concat(),
        startup(V3_0, &[("user", "app"), ("x", &"y".repeat(100_000))]),
    ];
    for bytes in &garbage {
        let mut client = Raw::connect(stand.lagoon.port);
        // It may hang up while we still send.
        let _ = client.try_send(bytes);
        client.close_write();
        let answer = client.until_end();
        assert!(answer.iter().all(|message| message.tag == 'E'), "{bytes:?} was answered by {answer:?}");
    }
    assert_undisturbed(&stand, &mut neighbour);
}

#[test]
fn a_login_that_never_comes_is_given_up() {
    let stand = Stand::new(|setup| trusting(setup).set("listen", "login_timeout", quote("500ms")));
    let mut neighbour = Raw::login(stand.lagoon.port);
    let half = startup(V3_0, &LOGIN);
    for bytes in [&b""[..], &half[..7], &half[..half.len() - 1], &SSL_REQUEST[..]] {
        let mut client = Raw::connect(stand.lagoon.port);
        client.send(bytes);
        let began = Instant::now();
        client.until_end_of_bytes();
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    assert_undisturbed(&stand, &mut neighbour);
}

#[test]
fn lengths_that_lie() {
    let stand = stand();
    let mut neighbour = Raw::login(stand.lagoon.port);
    let before = stand.lagoon.memory();
    for tag in ['Q', 'P', 'B', 'E', 'D', 'C', 'F', 'S', 'H', 'X'] {
        for length in [0_u32, 3, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            let mut client = Raw::login(stand.lagoon.port);
            let bytes = [&[tag as u8][..], &length.to_be_bytes(), b"some bytes"].concat();
            let _ = client.try_send(&bytes);
            client.close_write();
            let answer = client.until_end();
            assert!(answer.iter().all(|message| "EZ".contains(message.tag)), "{tag} {length:#x}: {answer:?}");
        }
    }
    let grown = stand.lagoon.memory().saturating_sub(before);
    assert!(grown < 32 << 20, "memory grew by {grown} bytes");
    assert_undisturbed(&stand, &mut neighbour);
}

#[test]
fn messages_with_broken_bodies() {
    let stand = stand();
    let mut neighbour = Raw::login(stand.lagoon.port);
    let broken = [
        message('Q', b""),
        message('Q', b"SELECT 1"),
        message('Q', b"SELECT 1\0 and more\0"),
        message('P', b""),
        message('P', b"name"),
        message('P', b"\0SELECT 1\0"),
        message('P', b"\0SELECT 1\0\xff\xff"),
        message('P', b"\0SELECT 1\0\0\x01"),
        message('B', b""),
        message('B', b"portal"),
        message('B', b"\0\0\xff\xff"),
        message('B', b"\0\0\0\0\xff\xff"),
        message('B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff"),
        message('B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe"),
        message('E', b""),
        message('E', b"\0\0\0"),
        message('E', b"no terminator"),
        message('D', b""),
        message('D', b"X\0"),
        message('D', b"S"),
        message('C', b""),
        message('C', b"Q\0"),
        message('F', b"\0"),
        message('S', b"unexpected"),
        message('H', b"unexpected"),
        message('Q', b"SELECT '\xff\xfe\0"),
    ];
    for bytes in &broken {
        let mut client = Raw::login(stand.lagoon.port);
        let _ = client.try_send(&[bytes.clone(), sync()].concat());
        if "PBEDC".contains(char::from(bytes[0])) {
            // As on a direct connection: an error, and the session goes on.
            let answer = client.until_ready();
            let codes: Vec<_> =
                answer.iter().filter(|message| message.tag == 'E').map(Message::code).collect();
            let is_told = matches!(&codes[..], [code] if code == "08P01" || code == "26000");
            assert!(is_told, "{:?} was answered by {answer:?}", String::from_utf8_lossy(bytes));
            assert_eq!(first_column(&client.query("SELECT 'still here'")), ["still here"]);
            continue;
        }
        client.close_write();
        let answer = client.until_end();
        assert!(
            answer.iter().all(|message| "EZ123ntTDCISN".contains(message.tag)),
            "{:?} was answered by {answer:?}",
            String::from_utf8_lossy(bytes)
        );
    }
    let mut client = Raw::login(stand.lagoon.port);
    client.query("BEGIN");
    client.query("SELECT note('undone')");
    client.send(&[parse("", "SELECT 1"), message('D', b"X\0"), sync()].concat());
    let answer = client.until_ready();
    assert_eq!(tags(&answer), "1 E Z", "{answer:?}");
    assert_eq!((answer[1].code().as_str(), answer[2].status()), ("08P01", 'E'), "its transaction is aborted");
    assert!(answer[1].body.windows(2).all(|field| field != b"\0H"), "there is no hint: {answer:?}");
    assert_eq!(client.query("COMMIT")[0].command(), "ROLLBACK");
    assert_undisturbed(&stand, &mut neighbour);
}

#[test]
fn messages_that_have_no_place_here() {
    let stand = stand();
    let mut neighbour = Raw::login(stand.lagoon.port);
    for bytes in [
        copy_data(b"no copy is going on"),
        message('c', b""),
        message('f', b"why\0"),
        message('p', b"a password, again\0"),
        message('Z', b"I"),
        message('R', &[0; 4]),
        message('\u{1}', b""),
        message('@', b"unknown"),
    ] {
        let mut client = Raw::login(stand.lagoon.port);
        let _ = client.try_send(&[bytes.clone(), query("SELECT 'still here'")].concat());
        let answer = client.until_ready_or_end();
        let served = first_column(&answer) == ["still here"];
        let told = answer.iter().any(|message| message.tag == 'E');
        assert!(served || told, "{:?} was answered by {answer:?}", String::from_utf8_lossy(&bytes));
    }
    assert_undisturbed(&stand, &mut neighbour);
}

#[test]
fn half_a_message_and_then_nothing() {
    let stand = Stand::new(|setup| {
        trusting(setup).set("pool", "size", "1").set("routing", "reads", quote("primary"))
    });
    let mut neighbour = Raw::login(stand.lagoon.port);
    let whole = [parse("", "SELECT 1, note('x')"), bind("", "", &[]), execute("", 0), sync()].concat();
    let mut halves = Vec::new();
    for cut in 1..whole.len() {
        let mut client = Raw::login(stand.lagoon.port);
        client.send(&whole[..cut]);
        // Some go at once, others after all have come: a request without its Sync may hold the server connection.
        if cut % 2 == 0 {
            client.vanish();
        } else {
            halves.push(client);
        }
    }
    drop(halves);
    eventually("the one server connection is free", || stand.backends(0, "state LIKE 'idle in%'") == 0);
    assert_undisturbed(&stand, &mut neighbour);
}

#[test]
fn a_client_that_does_not_read_its_gigabyte() {
    let stand = stand();
    let mut neighbour = Raw::login(stand.lagoon.port);
    neighbour.query("SELECT 1");
    let before = stand.lagoon.memory();
    let mut deaf = Vec::new();
    for _ in 0..3 {
        let mut client = Raw::login(stand.lagoon.port);
        client.send(&query("SELECT repeat('x', 10000) FROM generate_series(1, 100000)"));
        deaf.push(client);
    }
    eventually("the results are under way", || {
        (0..3)
            .map(|place| stand.backends(place, "state = 'active' AND wait_event = 'ClientWrite'"))
            .sum::<usize>()
            == 3
    });
    for _ in 0..50 {
        assert_undisturbed(&stand, &mut neighbour);
    }
    let grown = stand.lagoon.memory().saturating_sub(before);
    assert!(grown < 16 << 20, "memory grew by {grown} bytes");
    for client in deaf {
        client.vanish();
    }
    eventually("their queries are cancelled", || {
        (0..3).all(|place| stand.backends(place, "state = 'active'") == 0)
    });
    assert_undisturbed(&stand, &mut neighbour);
}

#[test]
fn a_client_that_sends_without_ever_reading() {
    let stand = stand();
    let mut neighbour = Raw::login(stand.lagoon.port);
    let before = stand.lagoon.memory();
    let mut flood = Raw::login(stand.lagoon.port);
    flood.limit_writes(Duration::from_millis(500));
    let request = query("SELECT repeat('x', 1000)").repeat(100);
    let mut sent = 0;
    while sent < 200 << 20 && flood.try_send(&request).is_ok() {
        sent += request.len();
    }
    let grown = stand.lagoon.memory().saturating_sub(before);
    assert!(grown < 32 << 20, "{sent} bytes were taken, and memory grew by {grown}");
    assert_undisturbed(&stand, &mut neighbour);
    flood.vanish();
    assert_undisturbed(&stand, &mut neighbour);
}

#[test]
fn ten_thousand_names_do_not_fill_the_memory() {
    let stand = stand();
    let mut neighbour = Raw::login(stand.lagoon.port);
    let mut hoarder = Raw::login(stand.lagoon.port);
    let before = stand.lagoon.memory();
    let long = "x".repeat(1_000);
    'hoarding: for batch in 0..100 {
        let parses: Vec<Vec<u8>> = (0..100)
            .map(|number| {
                parse(&format!("{long}{batch}-{number}"), &format!("SELECT {batch} + {number} -- {long}"))
            })
            .collect();
        if hoarder.try_send(&[parses.concat(), sync()].concat()).is_err() {
            break 'hoarding;
        }
        loop {
            match hoarder.try_read() {
                Ok(Some(message)) if message.tag == 'Z' => break,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break 'hoarding,
            }
        }
    }
    let grown = stand.lagoon.memory().saturating_sub(before);
    assert!(grown < 96 << 20, "20 MB of statements, and memory grew by {grown} bytes");
    assert_undisturbed(&stand, &mut neighbour);
}

#[test]
fn a_flood_of_connections_that_say_nothing() {
    let stand = Stand::new(|setup| {
        trusting(setup).set("listen", "max_clients", "200").set("listen", "login_timeout", quote("1s"))
    });
    let mut neighbour = Raw::login(stand.lagoon.port);
    let silent: Vec<Raw> = (0..300).map(|_| Raw::connect(stand.lagoon.port)).collect();
    assert_eq!(first_column(&neighbour.query("SELECT 'undisturbed'")), ["undisturbed"]);
    eventually("a new client gets in while they are still there", || {
        let mut client = Raw::connect(stand.lagoon.port);
        client.try_send(&startup(V3_0, &LOGIN)).is_ok()
            && matches!(client.try_read(), Ok(Some(message)) if message.tag == 'R')
    });
    drop(silent);
    assert_undisturbed(&stand, &mut neighbour);
}
