//! Commands, resets and cancels at a server that follows a script.

use super::*;
use crate::backend::cancel::cancel;
use crate::backend::fake::{Fake, SOON, listen, raw};
use crate::backend::reset::{ResetError, salvage};
use crate::backend::{Idle, Owed, Remote, connect};
use crate::session::settings::Settings;
use crate::wire::Scanner;
use crate::wire::backend::{
    Column, ColumnType, Formats, Severity, write_command_complete, write_data_row, write_parameter_status,
    write_ready, write_report, write_row_description,
};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use tokio::net::TcpListener;

use TransactionStatus::{Failed, InTransaction};

async fn pair() -> (Backend, Fake, TcpListener) {
    let (listener, target) = listen().await;
    let server = async {
        let mut server = Fake::accept(&listener).await;
        server.let_in().await;
        server
    };
    let (backend, server) = tokio::join!(connect(&target, SOON), server);
    (backend.unwrap(), server, listener)
}

fn idle(out: &mut Vec<u8>) {
    write_ready(out, TransactionStatus::Idle);
}

fn rows(out: &mut Vec<u8>, values: &[Option<&str>]) {
    write_row_description(out, &[Column { name: "x", kind: ColumnType::Text }], &Formats::TEXT);
    values.iter().for_each(|value| write_data_row(out, [*value].into_iter()));
    write_command_complete(out, "SELECT");
}

fn error(out: &mut Vec<u8>, code: SqlState, severity: Severity) {
    write_report(out, severity, code, "no", "", "");
}

async fn expect(server: &mut Fake, sql: &str, answer: impl FnOnce(&mut Vec<u8>)) {
    assert_eq!(server.query().await, sql);
    server.say(answer).await;
}

#[tokio::test]
async fn the_rows_of_every_result_are_answered() {
    let (mut backend, mut server, _listener) = pair().await;
    let answer = |out: &mut Vec<u8>| {
        rows(out, &[Some("1"), None]);
        write_parameter_status(out, "TimeZone", "UTC");
        write_command_complete(out, "SET");
        rows(out, &[]);
        rows(out, &[Some("")]);
        idle(out);
    };
    for all in [true, false] {
        let script = expect(&mut server, "select", answer);
        if all {
            let (answer, ()) = tokio::join!(run_all(&mut backend, "select", SOON), script);
            let one: Rows = vec![vec![Some("1".into())], vec![None]];
            assert_eq!(answer.unwrap(), [one, vec![], vec![vec![Some(String::new())]]]);
        } else {
            let (answer, ()) = tokio::join!(run(&mut backend, "select", SOON), script);
            assert_eq!(answer.unwrap(), [[Some(String::new())]]);
        }
    }
    assert_eq!(backend.state.parameter("TimeZone"), Some("UTC"));
}

#[tokio::test]
async fn an_error_leaves_the_connection_usable() {
    let (mut backend, mut server, _listener) = pair().await;
    let script = expect(&mut server, "x", |out| {
        error(out, SqlState::SYNTAX_ERROR, Severity::Error);
        idle(out);
    });
    let (failed, ()) = tokio::join!(run(&mut backend, "x", SOON), script);
    let Err(CommandError::Server(report)) = failed else { panic!() };
    assert_eq!(report.code, SqlState::SYNTAX_ERROR);
    let script = expect(&mut server, "y", idle);
    assert!(tokio::join!(run(&mut backend, "y", SOON), script).0.is_ok());
}

#[tokio::test]
async fn last_words_are_kept() {
    let (mut backend, mut server, _listener) = pair().await;
    let script = async move {
        expect(&mut server, "x", |out| error(out, SqlState::ADMIN_SHUTDOWN, Severity::Fatal)).await;
    };
    let (failed, ()) = tokio::join!(run(&mut backend, "x", SOON), script);
    let Err(CommandError::Io(_, Some(report))) = failed else { panic!() };
    assert_eq!(report.code, SqlState::ADMIN_SHUTDOWN);
    // Behind an answer, too.
    let (mut backend, mut server, _listener) = pair().await;
    let script = async move {
        let answer = |out: &mut Vec<u8>| {
            idle(out);
            error(out, SqlState::ADMIN_SHUTDOWN, Severity::Fatal);
        };
        expect(&mut server, "x", answer).await;
    };
    let (failed, ()) = tokio::join!(run(&mut backend, "x", SOON), script);
    let Err(CommandError::Io(_, Some(report))) = failed else { panic!() };
    assert_eq!(report.code, SqlState::ADMIN_SHUTDOWN);
}

#[tokio::test]
async fn a_malformed_answer_is_a_breach_and_silence_a_timeout() {
    let breaches = [
        raw(b'D', b"\0\0"),
        [raw(b'T', b"\0\0"), raw(b'D', b"\0\x01\0\0\0\x05abc")].concat(),
        raw(b'Z', b"?"),
        raw(b'W', b"\0"),
        [raw(b'Z', b"I"), raw(b'C', b"x\0")].concat(),
        [raw(b'T', b"\0\0"), b"D\x7f\xff\xff\xff".to_vec()].concat(),
    ];
    for breach in breaches {
        let (mut backend, mut server, _listener) = pair().await;
        let script = expect(&mut server, "x", |out| out.extend_from_slice(&breach));
        let (failed, ()) = tokio::join!(run(&mut backend, "x", SOON), script);
        assert!(matches!(failed, Err(CommandError::Protocol(_))), "{}", breach.escape_ascii());
    }
    let (mut backend, _server, _listener) = pair().await;
    let failed = run(&mut backend, "x", Duration::from_millis(20)).await;
    assert!(matches!(failed, Err(CommandError::Timeout)));
}

#[tokio::test]
async fn copy_from_a_client_that_has_nothing_is_ended() {
    let (mut backend, mut server, _listener) = pair().await;
    let script = async {
        expect(&mut server, "copy t from stdin", |out| out.extend(raw(b'G', b"\0\0\0"))).await;
        assert_eq!(server.message().await.0, b'f');
        server.say(|out| error(out, SqlState::QUERY_CANCELED, Severity::Error)).await;
        server.say(idle).await;
    };
    let (failed, ()) = tokio::join!(run(&mut backend, "copy t from stdin", SOON), script);
    assert!(matches!(failed, Err(CommandError::Server(_))));
}

#[tokio::test]
async fn a_connection_is_discarded_once_and_rolled_back_if_it_must() {
    let (mut backend, mut server, _listener) = pair().await;
    backend.state.settings = Settings::from_startup([("a".to_owned(), "b".to_owned())]);
    let script = expect(&mut server, "DISCARD ALL", idle);
    tokio::join!(salvage(&mut backend, Owed::default(), SOON, SOON), script).0.unwrap();
    assert!(backend.state.settings.is_neutral());

    let script = async {
        expect(&mut server, "DISCARD ALL", |out| {
            error(out, SqlState::SYNTAX_ERROR, Severity::Error);
            write_ready(out, Failed);
        })
        .await;
        expect(&mut server, "ROLLBACK", idle).await;
        expect(&mut server, "DISCARD ALL", idle).await;
    };
    tokio::join!(salvage(&mut backend, Owed::default(), SOON, SOON), script).0.unwrap();

    let script = expect(&mut server, "DISCARD ALL", |out| {
        error(out, SqlState::INSUFFICIENT_PRIVILEGE, Severity::Error);
        idle(out);
    });
    assert!(tokio::join!(salvage(&mut backend, Owed::default(), SOON, SOON), script).0.is_err());
}

/// Takes the cancel request on a connection of its own.
async fn take_cancel(listener: &TcpListener) {
    let mut other = Fake::accept(listener).await;
    assert_eq!(
        other.packet().await,
        [&80_877_102u32.to_be_bytes()[..], &4711u32.to_be_bytes(), &[1, 2, 3, 4]].concat()
    );
    // A server that is out of memory says so here.
    other.say(|out| error(out, SqlState::INTERNAL_ERROR, Severity::Fatal)).await;
}

#[tokio::test]
async fn a_vanished_clients_query_is_cancelled_and_its_rows_are_dropped() {
    let (mut backend, mut server, listener) = pair().await;
    // The relay had passed 100 bytes of a row of 1 MB, and read the head of what follows.
    let mut scanner = Scanner::default();
    let head = [b'D', 0, 0x10, 0, 0];
    let step = scanner.step(&head).unwrap();
    scanner.pass(&step);
    let owed = Owed { ready: 1, scanner, unread: vec![7; 100], ..Owed::default() };
    let script = async {
        take_cancel(&listener).await;
        server.send(&vec![7; 0x10_0000 - 4 - 100]).await;
        server.say(|out| error(out, SqlState::QUERY_CANCELED, Severity::Error)).await;
        server.say(|out| write_ready(out, InTransaction)).await;
        expect(&mut server, "ROLLBACK", idle).await;
        expect(&mut server, "DISCARD ALL", idle).await;
    };
    tokio::join!(salvage(&mut backend, owed, Duration::ZERO, SOON), script).0.unwrap();
    assert_eq!(backend.look(), Idle::Quiet);
}

#[tokio::test]
async fn copy_is_failed_and_an_open_batch_fails_before_its_sync() {
    let (mut backend, mut server, listener) = pair().await;
    let owed = Owed { copy_in: true, needs_sync: true, ..Owed::default() };
    let script = async {
        take_cancel(&listener).await;
        for tag in [b'f', b'D', b'S'] {
            assert_eq!(server.message().await.0, tag);
        }
        server.say(|out| error(out, SqlState::QUERY_CANCELED, Severity::Error)).await;
        server.say(idle).await;
        expect(&mut server, "DISCARD ALL", idle).await;
    };
    tokio::join!(salvage(&mut backend, owed, Duration::ZERO, SOON), script).0.unwrap();
}

#[tokio::test]
async fn what_was_asked_for_before_a_goodbye_runs_to_its_end() {
    let (mut backend, mut server, listener) = pair().await;
    let mut unsent = Vec::new();
    write_query(&mut unsent, b"select 2");
    let owed = Owed { ready: 2, unsent, ..Owed::default() };
    let script = async {
        assert_eq!(server.query().await, "select 2");
        server.say(idle).await;
        server.say(idle).await;
        expect(&mut server, "DISCARD ALL", idle).await;
    };
    let salvaged = tokio::join!(salvage(&mut backend, owed, SOON, SOON), script).0;
    salvaged.unwrap();
    // No cancel request has come.
    assert!(tokio::time::timeout(Duration::ZERO, listener.accept()).await.is_err());
    let owed = Owed { ready: 1, ..Owed::default() };
    let script = async {
        take_cancel(&listener).await;
        server.say(idle).await;
        expect(&mut server, "DISCARD ALL", idle).await;
    };
    let patience = Duration::from_millis(20);
    tokio::join!(salvage(&mut backend, owed, patience, SOON), script).0.unwrap();
}

#[tokio::test]
async fn both_directions_flow_while_a_server_sends_more_than_fits() {
    let (mut backend, mut server, _listener) = pair().await;
    let long = "x".repeat(8 << 20);
    let script = async {
        // Says a lot before it reads anything.
        server.say(|out| rows(out, &vec![Some("y".repeat(1000).as_str()); 8000])).await;
        assert_eq!(server.query().await.len(), long.len());
        server.say(idle).await;
    };
    let (answer, ()) = tokio::join!(run(&mut backend, &long, SOON), script);
    assert_eq!(answer.unwrap().len(), 8000);
}

#[tokio::test]
async fn without_a_cancel_nothing_is_salvaged() {
    let (mut backend, _server, listener) = pair().await;
    drop(listener);
    let owed = Owed { ready: 1, ..Owed::default() };
    let failed = salvage(&mut backend, owed, Duration::ZERO, SOON).await;
    assert!(matches!(failed, Err(ResetError::Cancel(_))));
    let address = backend.remote.address.clone();
    backend.remote = Arc::new(Remote { address, cancel: None, cancels: AtomicUsize::new(0) });
    let failed = salvage(&mut backend, Owed { ready: 1, ..Owed::default() }, Duration::ZERO, SOON).await;
    assert!(matches!(failed, Err(ResetError::NoKey)));
}

#[tokio::test]
async fn a_cancel_waits_for_the_close_but_not_for_ever() {
    let (backend, _server, listener) = pair().await;
    let target = backend.remote.cancel.clone().unwrap();
    let failed = cancel(&target, Duration::from_millis(20)).await;
    assert!(failed.is_err(), "the server keeps it open");
    drop(listener.accept().await.unwrap());
    let (done, ()) = tokio::join!(cancel(&target, SOON), take_cancel(&listener));
    done.unwrap();
}

#[tokio::test]
async fn an_idle_connection_may_hear_of_parameters_and_nothing_else() {
    let (mut backend, mut server, _listener) = pair().await;
    let mut arrived = async |backend: &mut Backend, bytes: Vec<u8>| {
        server.send(&bytes).await;
        std::future::poll_fn(|cx| backend.stream.poll_readable(cx)).await.unwrap();
        backend.look()
    };
    assert_eq!(backend.look(), Idle::Quiet);
    let mut unasked = Vec::new();
    write_parameter_status(&mut unasked, "TimeZone", "Asia/Tokyo");
    write_report(&mut unasked, Severity::Warning, SqlState::SUCCESSFUL_COMPLETION, &"x".repeat(600), "", "");
    assert_eq!(arrived(&mut backend, unasked).await, Idle::Quiet);
    assert_eq!(backend.state.parameter("TimeZone"), Some("Asia/Tokyo"));
    let mut bye = Vec::new();
    error(&mut bye, SqlState::ADMIN_SHUTDOWN, Severity::Fatal);
    assert_eq!(arrived(&mut backend, bye).await, Idle::Spoilt);
}
