//! Logins at a server that follows a script.

use super::*;
use crate::auth::scram::{self, ScramServer};
use crate::backend::Idle;
use crate::backend::fake::{Fake, SOON, listen, raw, target, welcome};
use crate::config::{ClientTls, Secret, ServerTls};
use crate::net::tls::tests::{Authority, Folder};
use crate::net::{Acceptor, Side};
use crate::wire::backend::{Severity, write_authentication, write_parameter_status, write_report};
use crate::wire::startup::{StartupPacket, parse};

fn parsed(packet: &[u8]) -> StartupPacket {
    parse(&[&(packet.len() as u32 + 4).to_be_bytes(), packet].concat()).unwrap()
}

/// A login at a server that does as `script` says.
async fn log_in<F: Future<Output = ()>>(
    change: impl FnOnce(&mut Target),
    script: impl FnOnce(Fake) -> F,
) -> Result<Backend, ConnectError> {
    let (listener, mut target) = listen().await;
    change(&mut target);
    let server = async { script(Fake::accept(&listener).await).await };
    tokio::join!(connect(&target, SOON), server).0
}

#[tokio::test]
async fn a_trusted_login_names_user_and_database_and_a_farewell_ends_it() {
    let (listener, target) = listen().await;
    let server = async {
        let mut server = Fake::accept(&listener).await;
        let StartupPacket::Startup(startup) = parsed(&server.packet().await) else { panic!() };
        let value = |name| startup.value(name);
        assert_eq!((value("user"), value("database")), (Some("app"), Some("shop")));
        assert_eq!(value("application_name"), Some("pglagoon"));
        let notice = |out: &mut Vec<u8>| {
            write_report(out, Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, "hi", "", "");
            welcome(out);
        };
        server.say(notice).await;
        server.message().await
    };
    let client = async { connect(&target, SOON).await.map(Backend::farewell) };
    let (left, last) = tokio::join!(client, server);
    assert!(left.is_ok());
    assert_eq!(last, (b'X', vec![]));
}

#[tokio::test]
async fn what_the_server_reported_is_known_after_the_login() {
    let backend = log_in(|_| {}, |mut server| async move { server.let_in().await }).await.unwrap();
    assert_eq!(backend.state.parameter("server_version"), Some("17.2"));
    assert_eq!(backend.pid, 4711);
    assert_eq!(backend.remote.cancel.clone().unwrap().key, ServerKey::new(4711, b"\x01\x02\x03\x04"));
}

#[tokio::test]
async fn a_password_is_sent_as_the_server_asks_for_it() {
    let clear = log_in(
        |_| {},
        |mut server| async move {
            server.packet().await;
            server.say(|out| write_authentication(out, 3, &[])).await;
            assert_eq!(server.message().await, (b'p', b"secret\0".to_vec()));
            server.say(welcome).await;
        },
    );
    assert!(clear.await.is_ok());
    let md5 = log_in(
        |_| {},
        |mut server| async move {
            server.packet().await;
            server.say(|out| write_authentication(out, 5, &[1, 2, 3, 4])).await;
            let (_, answer) = server.message().await;
            let secret = Secret::Plain("secret".into());
            assert!(md5::matches(&secret, "app", [1, 2, 3, 4], answer.strip_suffix(b"\0").unwrap()));
            server.say(welcome).await;
        },
    );
    assert!(md5.await.is_ok());
}

/// The server's side of SCRAM; says `final_message` in place of its own, if given.
async fn scram_server(server: &mut Fake, final_message: Option<&[u8]>) {
    let seed = scram::Seed::new([7; 32]);
    let keys = scram::Keys::derive("app", Some(&Secret::Plain("secret".into())), &seed);
    let mut exchange = ScramServer::new(Arc::new(keys), &[9; 18], None);
    server.packet().await;
    // Over TLS, real servers offer channel binding first.
    server.say(|out| write_authentication(out, 10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")).await;
    let (_, first) = server.message().await;
    let scram::ServerStep::Continue(message) = exchange.message(&first).unwrap() else { panic!() };
    server.say(|out| write_authentication(out, 11, &message)).await;
    let (_, last) = server.message().await;
    let scram::ServerStep::Proven { message, .. } = exchange.message(&last).unwrap() else { panic!() };
    server.say(|out| write_authentication(out, 12, final_message.unwrap_or(&message))).await;
}

#[tokio::test]
async fn scram_is_found_in_the_list_and_its_keys_serve_again() {
    let (listener, target) = listen().await;
    for _ in 0..2 {
        let server = async {
            let mut server = Fake::accept(&listener).await;
            scram_server(&mut server, None).await;
            server.say(welcome).await;
        };
        assert!(tokio::join!(connect(&target, SOON), server).0.is_ok());
    }
    let known = |user, password: &str| target.scram.keys(user, &ServerCredential::Plain(password.into()));
    assert!(known("app", "secret").is_some());
    assert!(known("app", "another").is_none() && known("another", "secret").is_none());
}

#[test]
fn keys_are_kept_of_the_users_that_logged_in_last() {
    let cache = ScramCache::default();
    let nothing = vec![0; 32];
    let keys =
        serde_json::json!({"client_key": nothing, "server_key": nothing, "salt": nothing, "iterations": 1});
    let keys: ScramKeys = serde_json::from_value(keys).unwrap();
    let password = |text: &str| ServerCredential::Plain(text.into());
    for user in ["a", "b", "c", "d", "a", "e"] {
        cache.keep(user, &password("old"), keys.clone());
    }
    cache.keep("e", &password("new"), keys);
    let known = |user: &str, text: &str| cache.keys(user, &password(text)).is_some();
    assert_eq!(["a", "b", "c", "d"].map(|user| known(user, "old")), [true, false, true, true]);
    assert!(known("e", "new") && !known("e", "old"));
}

#[tokio::test]
async fn a_server_must_prove_itself_in_scram() {
    let wrong = log_in(
        |_| {},
        |mut server| async move {
            scram_server(&mut server, Some(b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")).await;
        },
    );
    assert!(matches!(wrong.await, Err(ConnectError::Auth(..))));
    let skipped = log_in(
        |_| {},
        |mut server| async move {
            server.packet().await;
            server.say(|out| write_authentication(out, 10, b"SCRAM-SHA-256\0\0")).await;
            server.message().await;
            server.say(welcome).await;
        },
    );
    assert!(matches!(skipped.await, Err(ConnectError::Auth(..))));
}

#[tokio::test]
async fn what_cannot_be_answered_is_named() {
    for (code, data) in [(3, &[][..]), (5, &[1, 2, 3, 4]), (10, b"SCRAM-SHA-256\0\0"), (7, &[])] {
        let failed = log_in(
            |target| target.credential = ServerCredential::Nothing,
            |mut server| async move {
                server.packet().await;
                server.say(|out| write_authentication(out, code, data)).await;
                server.closed().await;
            },
        );
        let error = failed.await.unwrap_err();
        assert!(matches!(error, ConnectError::Auth(..)), "{code}: {error}");
        assert_eq!(error.report().code, SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
        assert_eq!(error.retry(), Retry::Never);
    }
}

/// How a server's ErrorResponse during login comes out.
async fn refusal(message: Vec<u8>) -> (SqlState, String, bool) {
    let refused = log_in(
        |_| {},
        |mut server| async move {
            server.packet().await;
            server.send(&message).await;
        },
    );
    match refused.await.unwrap_err() {
        ConnectError::Refused { report, temporary, .. } => {
            (report.code, report.message.into_owned(), temporary)
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_refusal_keeps_the_servers_own_words() {
    for (code, temporary) in [
        ("57P03", true),
        ("53300", true),
        ("53400", true),
        ("57P01", true),
        ("08006", true),
        ("3D000", false),
        ("28P01", false),
    ] {
        let state = SqlState::new(code.as_bytes()).unwrap();
        let mut message = Vec::new();
        write_report(&mut message, Severity::Fatal, state, "not now", "", "");
        assert_eq!(refusal(message).await, (state, "not now".to_owned(), temporary));
    }
}

#[test]
fn what_is_full_is_told_by_who_says_so() {
    let of = |body: &[u8]| Full::of(&Fields::new(body));
    for (routine, full) in [
        ("InitProcess", Full::Server),
        ("InitializeSessionUserId", Full::Role),
        ("CheckMyDatabase", Full::Database),
    ] {
        let body = format!("SFATAL\0C53300\0Mvoll\0R{routine}\0\0");
        assert_eq!(of(body.as_bytes()), Some(full), "{routine}");
    }
    assert_eq!(of(b"SFATAL\0C53300\0Mvoll\0\0"), Some(Full::Server));
    assert_eq!(of(b"SFATAL\0C53200\0Mvoll\0RInitProcess\0\0"), None);
}

#[tokio::test]
async fn an_error_without_fields_is_still_a_refusal() {
    for body in [&b"\0"[..], b"", b"SFATAL", b"C123\0\0"] {
        let (code, message, temporary) = refusal(raw(b'E', body)).await;
        assert_eq!((code, temporary), (SqlState::CONNECTION_FAILURE, false));
        assert_eq!(message, "the server gave no reason");
    }
}

#[tokio::test]
async fn a_server_that_breaks_the_protocol_is_left() {
    let breaches = [
        raw(b'Z', b"I"),
        raw(b'R', b""),
        raw(b'R', &99u32.to_be_bytes()),
        raw(b'R', &12u32.to_be_bytes()),
        raw(b'D', b"\0\0"),
        b"R\0\0\0\x02".to_vec(),
        b"R\x7f\xff\xff\xff".to_vec(),
        [raw(b'R', &[0; 4]), raw(b'R', &[0; 4])].concat(),
        [raw(b'R', &[0; 4]), raw(b'Z', b"I"), raw(b'D', b"\0\0")].concat(),
        [raw(b'R', &[0; 4]), raw(b'Z', b"I"), b"S\0\0\0".to_vec()].concat(),
    ];
    for breach in breaches {
        let shown = breach.escape_ascii().to_string();
        let broken = log_in(
            |_| {},
            |mut server| async move {
                server.packet().await;
                server.send(&breach).await;
                server.closed().await;
            },
        );
        let error = broken.await.unwrap_err();
        assert!(matches!(error, ConnectError::Protocol(..)), "{shown}: {error}");
    }
}

#[tokio::test]
async fn parameters_that_never_end_do_not_fill_memory() {
    let backend = log_in(
        |_| {},
        |mut server| async move {
            server.packet().await;
            for number in 0..10_000 {
                server.say(|out| write_parameter_status(out, &format!("p{number}"), "x")).await;
            }
            server.say(welcome).await;
        },
    );
    assert!(backend.await.unwrap().state.parameters.len() <= 200);
}

#[tokio::test]
async fn a_server_that_hangs_is_a_timeout() {
    let (listener, target) = listen().await;
    let soon = Duration::from_millis(50);
    let error = connect(&target, soon).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout(_)));
    assert_eq!((error.retry(), error.report().code), (Retry::Safe, SqlState::CONNECTION_FAILURE));
    drop(listener);
    let error = connect(&target, SOON).await.unwrap_err();
    assert!(matches!(error, ConnectError::Io(..)), "nobody listens: {error}");
}

#[tokio::test]
async fn a_server_that_closes_is_an_error_of_the_network() {
    let closed = log_in(|_| {}, |mut server| async move { drop(server.packet().await) });
    assert!(matches!(closed.await, Err(ConnectError::Io(..))));
}

#[tokio::test]
async fn a_unix_socket_is_found_by_directory_and_port() {
    let folder = Folder::new();
    let listener = tokio::net::UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
    let address = ServerAddress::Unix { directory: folder.path().to_owned(), port: 5432 };
    let mut target = target(address);
    target.tls = Connector::new(&folder.server_tls(TlsMode::Require, None, None)).unwrap();
    let server = async {
        let mut server = Fake(listener.accept().await.unwrap().0);
        server.let_in().await;
        server
    };
    let (backend, _server) = tokio::join!(connect(&target, SOON), server);
    assert_eq!(backend.unwrap().stream.peer(), crate::net::Endpoint::Unix);
}

fn tls_mode(mode: TlsMode) -> impl FnOnce(&mut Target) {
    move |target| {
        let tls = ServerTls { mode, ca_file: None, cert_file: None, key_file: None };
        target.tls = Connector::new(&tls).unwrap();
    }
}

const SSL_REQUEST: [u8; 4] = 80_877_103u32.to_be_bytes();

#[tokio::test]
async fn prefer_goes_on_without_tls_where_there_is_none() {
    for (mode, good) in [(TlsMode::Prefer, true), (TlsMode::Require, false)] {
        let login = log_in(tls_mode(mode), |mut server| async move {
            assert_eq!(server.packet().await, SSL_REQUEST);
            server.send(b"N").await;
            if good {
                server.let_in().await;
            }
        });
        match login.await {
            Ok(backend) => assert!(good && !backend.stream.is_tls()),
            Err(error) => assert!(!good && matches!(error, ConnectError::Tls(..)), "{error}"),
        }
    }
}

#[tokio::test]
async fn nothing_may_come_before_the_tls_handshake() {
    for answer in [&b"SR\0\0\0\x08\0\0\0\0"[..], b"NR\0\0\0\x08\0\0\0\0", b"E\0\0\0\x05\0", b"X"] {
        let login = log_in(tls_mode(TlsMode::Prefer), |mut server| async move {
            server.packet().await;
            server.send(answer).await;
            server.closed().await;
        });
        let error = login.await.unwrap_err();
        assert!(matches!(error, ConnectError::Protocol(..)), "{}: {error}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn prefer_does_not_go_back_to_plain_text_when_tls_fails() {
    let login = log_in(tls_mode(TlsMode::Prefer), |mut server| async move {
        server.packet().await;
        server.send(b"S").await;
        server.hello().await;
        server.send(&[0x15, 3, 3, 0, 2, 2, 40]).await;
        server.closed().await;
    });
    let error = login.await.unwrap_err();
    assert!(matches!(error, ConnectError::Tls(..)), "{error}");
}

#[tokio::test]
async fn an_encrypted_login_is_cancelled_over_tls() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let (listener, mut target) = listen().await;
    let accept: ClientTls = folder.client_tls(TlsMode::Require, &authority.sign("localhost", "x"), None);
    let acceptor = Acceptor::new(&accept).unwrap().unwrap();
    target.tls = Connector::new(&folder.server_tls(TlsMode::VerifyFull, Some(&authority), None)).unwrap();
    let encrypted = async || {
        let mut server = Fake::accept(&listener).await;
        assert_eq!(server.packet().await, SSL_REQUEST);
        server.send(b"S").await;
        acceptor.accept(Stream::tcp(server.0, Side::Client).unwrap()).await.unwrap()
    };
    let login = async {
        let mut stream = encrypted().await;
        stream.read_some(&mut [0; 1024]).await.unwrap();
        let mut out = Vec::new();
        welcome(&mut out);
        stream.write_all(&out).await.unwrap();
        stream
    };
    let (backend, _stream) = tokio::join!(connect(&target, SOON), login);
    let mut backend = backend.unwrap();
    assert!(backend.stream.is_tls());
    assert_eq!(backend.look(), Idle::Quiet);

    let key = backend.remote.cancel.clone().unwrap();
    let server = async {
        let mut stream = encrypted().await;
        let mut request = [0; 64];
        let count = stream.read_some(&mut request).await.unwrap();
        assert_eq!(request[..count], key.key.request());
    };
    let (cancelled, ()) = tokio::join!(crate::backend::cancel::cancel(&key, SOON), server);
    cancelled.unwrap();
}
