//! Exchanges as they stand on the wire.

use proptest::prelude::*;

use super::*;

/// Made by PostgreSQL 15 for these passwords (the second has a soft hyphen, a Roman numeral and an accent).
const STORED: [(&str, &str); 3] = [
    (
        "secret",
        "SCRAM-SHA-256$4096:YxbAox9UvV5TEsG/jsK4oQ==$vKwIMFM6t0CkmDkaksb9h5sZAyAgPR9+4sFxIB5Htn0=:\
         6Flh3HZN5kucJPjUsDyHxIZeP44YpuRIfjs0EurDn1I=",
    ),
    (
        "I\u{AD}X\u{2168} \u{E9}",
        "SCRAM-SHA-256$4096:tSfGSASOu5rwReZEJnyrIg==$GNdg3vgbRlehsdq5LKNAi2MFb7xrMvBzPba1muqJWck=:\
         fI7B5n/oc/Db3nA9J0wOkDRAmCRE4O5MH6k6pfvT9JQ=",
    ),
    (
        "p,=ss w\"ord",
        "SCRAM-SHA-256$4096:vEfNHq48JEDq5ExzVOg3tg==$gIuWl7AF0eizQQO8m3CpkmGiXzVq+2N/MtIzhjeRnz0=:\
         qZZJBpN949OcGw2Ed8pqMP6eTM9NE+NWonE/qWbGg04=",
    ),
];

fn stored(text: &str) -> Secret {
    Secret::from_stored(text).expect("a whole verifier")
}

/// A verifier with one round: the exchange is the same, and tests are quick.
fn quick(password: &str) -> Secret {
    Secret::Scram(secret::verifier(password, b"0123456789abcdef", 1))
}

fn seed() -> Seed {
    Seed::new([7; 32])
}

fn server(secret: &Secret) -> ScramServer {
    ScramServer::new(Arc::new(Keys::derive("app", Some(secret), &seed())), &[1; 18], None)
}

fn client(password: &str) -> ScramClient {
    ScramClient::new(&ServerCredential::Plain(password.into()), None, &[2; 18]).expect("a password")
}

fn initial(mechanism: &str, data: &[u8]) -> Vec<u8> {
    let length = i32::try_from(data.len()).expect("short");
    [mechanism.as_bytes(), &[0], &length.to_be_bytes(), data].concat()
}

fn continued(step: Result<ServerStep, ScramError>) -> Vec<u8> {
    match step {
        Ok(ServerStep::Continue(data)) => data,
        Ok(ServerStep::Proven { .. }) => panic!("proven too early"),
        Err(error) => panic!("{error}"),
    }
}

/// The whole exchange; what the server's side learned and what the client's side learned.
fn exchange(
    server: &mut ScramServer,
    client: &mut ScramClient,
) -> Result<(Option<ScramKeys>, ScramKeys), ScramError> {
    let server_first = continued(server.message(&initial(MECHANISM, &client.first())));
    let client_final = client.server_first(&server_first)?;
    match server.message(&client_final)? {
        ServerStep::Proven { message, keys } => Ok((keys, client.server_final(&message)?)),
        ServerStep::Continue(_) => panic!("a third round"),
    }
}

/// RFC 7677, section 3.
mod rfc_7677 {
    use super::*;

    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    #[test]
    fn server_side() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let secret = Secret::Scram(secret::verifier("pencil", &salt, 4096));
        let mut server = server(&secret);
        server.nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".into();
        let first = continued(server.message(&initial(MECHANISM, CLIENT_FIRST.as_bytes())));
        assert_eq!(first, SERVER_FIRST.as_bytes());
        match server.message(CLIENT_FINAL.as_bytes()) {
            Ok(ServerStep::Proven { message, .. }) => assert_eq!(message, SERVER_FINAL.as_bytes()),
            _ => panic!("not proven"),
        }
    }

    #[test]
    fn client_side() {
        let mut client = client("pencil");
        client.nonce = "rOprNGfwEbeRWgbNEkqO".into();
        client.first_bare = CLIENT_FIRST["n,,".len()..].into();
        assert_eq!(client.first(), CLIENT_FIRST.as_bytes());
        assert_eq!(client.server_first(SERVER_FIRST.as_bytes()).as_deref(), Ok(CLIENT_FINAL.as_bytes()));
        assert!(client.server_final(SERVER_FINAL.as_bytes()).is_ok());
    }
}

#[test]
fn passwords_fit_the_verifiers_that_postgresql_made() {
    for (password, verifier) in STORED {
        assert!(exchange(&mut server(&stored(verifier)), &mut client(password)).is_ok(), "{password:?}");
    }
}

#[test]
fn a_plain_password_is_derived_once_and_gives_no_pass_through_keys() {
    let users = BTreeMap::from([("app".to_owned(), User { secret: Some(Secret::Plain("secret".into())) })]);
    let ring = KeyRing::new(&users, seed());
    assert!(ring.must_derive("app"));
    let keys = ring.keys("app", None);
    assert!(!ring.must_derive("app"));
    assert!(Arc::ptr_eq(&keys, &ring.keys("app", None)));
    let (learned, _) = exchange(&mut ScramServer::new(keys, &[1; 18], None), &mut client("secret"))
        .expect("the password fits");
    assert!(learned.is_none(), "no server holds a verifier with our own salt");
}

#[test]
fn keys_that_a_login_showed_serve_the_server_with_the_same_verifier() {
    let secret = quick("secret");
    let (keys, _) = exchange(&mut server(&secret), &mut client("secret")).expect("the password fits");
    let passed_through = ServerCredential::Scram(keys.expect("a stored verifier"));
    let mut ours = ScramClient::new(&passed_through, None, &[3; 18]).expect("keys");
    assert!(exchange(&mut server(&secret), &mut ours).is_ok());

    let other_salt = Secret::Scram(secret::verifier("secret", b"another salt", 1));
    let mut ours = ScramClient::new(&passed_through, None, &[3; 18]).expect("keys");
    assert!(matches!(exchange(&mut server(&other_salt), &mut ours), Err(ScramError::KeysDoNotFit(_))));
}

#[test]
fn cached_keys_save_the_derivation_and_are_dropped_when_the_verifier_changes() {
    let secret = quick("secret");
    let (_, keys) = exchange(&mut server(&secret), &mut client("secret")).expect("the password fits");
    let again = |server_secret: &Secret| {
        let plain = ServerCredential::Plain("secret".into());
        let mut ours = ScramClient::new(&plain, Some(&keys), &[3; 18]).expect("a password");
        exchange(&mut server(server_secret), &mut ours).map(|(_, learned)| learned)
    };
    assert!(again(&secret) == Ok(keys.clone()));
    assert!(
        again(&Secret::Scram(secret::verifier("secret", b"another salt", 2))).is_ok_and(|new| new != keys)
    );
}

#[test]
fn a_wrong_password_and_an_unknown_user_fail_in_the_same_place() {
    let wrong = exchange(&mut server(&quick("secret")), &mut client("Secret"));
    let keys = Arc::new(Keys::derive("nobody", None, &seed()));
    let unknown = exchange(&mut ScramServer::new(keys, &[1; 18], None), &mut client("secret"));
    assert_eq!(wrong.err(), Some(ScramError::WrongProof));
    assert_eq!(unknown.err(), Some(ScramError::WrongProof));
}

#[test]
fn an_unknown_user_shows_a_salt_of_its_own_and_always_the_same() {
    let first = |user: &str| {
        let mut server = ScramServer::new(Arc::new(Keys::derive(user, None, &seed())), &[1; 18], None);
        continued(server.message(&initial(MECHANISM, b"n,,n=,r=abc")))
    };
    assert_eq!(first("nobody"), first("nobody"));
    assert_ne!(first("nobody"), first("noone"));
    let real = server(&Secret::Plain("secret".into())).message(&initial(MECHANISM, b"n,,n=,r=abc"));
    assert_eq!(continued(real).len(), first("nobody").len());
}

#[test]
fn secrets_that_cannot_do_scram_never_match() {
    for secret in [Secret::Plain(String::new()), Secret::Md5(crate::auth::md5::hash("secret", "app"))] {
        let mut server = server(&secret);
        assert_eq!(exchange(&mut server, &mut client("secret")).err(), Some(ScramError::WrongProof));
    }
    assert!(ScramClient::new(&ServerCredential::Plain(String::new()), None, &[2; 18]).is_err());
    assert!(ScramClient::new(&ServerCredential::Md5("0".repeat(32)), None, &[2; 18]).is_err());
    assert!(ScramClient::new(&ServerCredential::Nothing, None, &[2; 18]).is_err());
}

#[test]
fn the_initial_response_may_come_without_data() {
    let mut server = server(&quick("secret"));
    let mut client = client("secret");
    let mechanism_alone = [MECHANISM.as_bytes(), &[0], &(-1i32).to_be_bytes()].concat();
    assert!(continued(server.message(&mechanism_alone)).is_empty());
    let server_first = continued(server.message(&client.first()));
    let client_final = client.server_first(&server_first).expect("good");
    assert!(matches!(server.message(&client_final), Ok(ServerStep::Proven { .. })));
}

#[test]
fn a_client_that_could_bind_channels_says_y() {
    let mut server = server(&quick("secret"));
    let first = continued(server.message(&initial(MECHANISM, b"y,,n=,r=abc")));
    let first = String::from_utf8(first).expect("text");
    let nonce = first.split(',').next().expect("nonce");
    let lies = format!("c=biws,{nonce},p={}", BASE64.encode([0; 32]));
    assert_eq!(
        server.message(lies.as_bytes()).err(),
        Some(ScramError::Malformed("the channel binding differs from the first message's"))
    );
}

/// One that offers to bind to this.
fn binding_server(end_point: &[u8]) -> ScramServer {
    let keys = Arc::new(Keys::derive("app", Some(&quick("secret")), &seed()));
    ScramServer::new(keys, &[1; 18], Some(end_point.into()))
}

/// What a client with the right password ends with that binds to `seen`.
fn bound(server: &mut ScramServer, seen: &[u8]) -> Result<ServerStep, ScramError> {
    let bare = "n=,r=abc";
    let first = initial(MECHANISM_PLUS, format!("{END_POINT}{bare}").as_bytes());
    let server_first = String::from_utf8(continued(server.message(&first))).expect("text");
    let parsed = ServerFirst::parse(&server_first, "abc").expect("good");
    let keys = secret::keys("secret", &parsed.salt, parsed.iterations);
    let binding = BASE64.encode([END_POINT.as_bytes(), seen].concat());
    let without_proof = format!("c={binding},r={}", parsed.nonce);
    let auth_message = format!("{bare},{server_first},{without_proof}");
    let proof = xor(keys.client_key, hmac(&sha256(&keys.client_key), auth_message.as_bytes()));
    server.message(format!("{without_proof},p={}", BASE64.encode(proof)).as_bytes())
}

#[test]
fn a_client_binds_to_our_certificate_and_to_no_other() {
    assert_eq!(binding_server(b"ours").mechanisms(), b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
    assert!(matches!(
        bound(&mut binding_server(b"ours"), b"ours"),
        Ok(ServerStep::Proven { keys: Some(_), .. })
    ));
    let between = bound(&mut binding_server(b"ours"), b"theirs").err();
    assert_eq!(between, Some(ScramError::ChannelBinding("SCRAM channel binding check failed")));
    // It can do without, if it says that it knows of nothing else.
    assert!(exchange(&mut binding_server(b"ours"), &mut client("secret")).is_ok());
}

#[test]
fn who_was_told_that_we_cannot_bind_is_told_otherwise() {
    let told = binding_server(b"ours").message(&initial(MECHANISM, b"y,,n=,r=abc")).err();
    assert_eq!(told, Some(ScramError::ChannelBinding("SCRAM channel binding negotiation error")));
}

#[test]
fn mechanism_and_flag_must_agree() {
    for (mechanism, data) in [
        (MECHANISM_PLUS, "n,,n=,r=abc"),
        (MECHANISM_PLUS, "y,,n=,r=abc"),
        (MECHANISM, "p=tls-server-end-point,,n=,r=abc"),
    ] {
        let refused = binding_server(b"ours").message(&initial(mechanism, data.as_bytes()));
        assert!(matches!(refused.err(), Some(ScramError::Malformed(_))), "{mechanism} {data}");
    }
    let unique = binding_server(b"ours").message(&initial(MECHANISM_PLUS, b"p=tls-unique,,n=,r=abc"));
    assert_eq!(unique.err(), Some(ScramError::Unsupported("its type of channel binding")));
}

#[test]
fn what_was_not_offered_is_refused_politely() {
    for (mechanism, data) in [
        (MECHANISM_PLUS, "p=tls-server-end-point,,n=,r=abc"),
        ("SCRAM-SHA-1", "n,,n=,r=abc"),
        (MECHANISM, "n,a=admin,n=,r=abc"),
        (MECHANISM, "n,,m=1,n=,r=abc"),
    ] {
        let refused = server(&quick("secret")).message(&initial(mechanism, data.as_bytes()));
        assert!(matches!(refused.err(), Some(ScramError::Unsupported(_))), "{mechanism} {data}");
    }
}

#[test]
fn malformed_first_messages_end_the_exchange() {
    let long = format!("n,,n=,r={}", "a".repeat(MAX_NONCE + 1));
    let longer = format!("n,,n={},r=a", "a".repeat(MAX_MESSAGE));
    let bad = [
        "",
        "n",
        "n,",
        "n,,",
        "n,,n=",
        "n,,n=,r=",
        "n,,r=abc",
        "n,,n=,r=a\u{E9}",
        "n,,n=,r=a b",
        "x,,n=,r=abc",
        "n,,n=,r=abc,",
        "n,,n=,r=abc,xx",
        "n,,n=,r=abc,1=x",
        "n,,n=,r=a\0bc",
        &long,
        &longer,
    ];
    for data in bad {
        let mut server = server(&quick("secret"));
        let refused = server.message(&initial(MECHANISM, data.as_bytes()));
        assert!(matches!(refused.err(), Some(ScramError::Malformed(_))), "{data:?}");
        let good = server.message(&initial(MECHANISM, b"n,,n=,r=abc"));
        assert_eq!(good.err(), Some(ScramError::Malformed("the exchange is over")));
    }
    for (length, data) in [(4i32, "abc"), (2, "abc"), (-1, "abc"), (-2, ""), (i32::MAX, ""), (i32::MIN, "")] {
        let body = [MECHANISM.as_bytes(), &[0], &length.to_be_bytes(), data.as_bytes()].concat();
        assert!(server(&quick("secret")).message(&body).is_err(), "{length} {data}");
    }
}

#[test]
fn malformed_final_messages_end_the_exchange() {
    let nonce = format!("abc{}", BASE64.encode([1; 18]));
    let proof = BASE64.encode([0; 32]);
    let bad = [
        String::new(),
        format!("c=biws,r={nonce}"),
        format!("c=eSws,r={nonce},p={proof}"),
        format!("c=biws,r=abc,p={proof}"),
        format!("c=biws,r={nonce}x,p={proof}"),
        format!("r={nonce},c=biws,p={proof}"),
        format!("c=biws,r={nonce},p={proof},x=1"),
        format!("c=biws,r={nonce},p={}", &proof[..proof.len() - 1]),
        format!("c=biws,r={nonce},p={}", BASE64.encode([0; 31])),
        format!("c=biws,r={nonce},p=\n{proof}"),
    ];
    for message in bad {
        let mut server = server(&quick("secret"));
        continued(server.message(&initial(MECHANISM, b"n,,n=,r=abc")));
        let refused = server.message(message.as_bytes());
        assert!(matches!(refused.err(), Some(ScramError::Malformed(_))), "{message}");
    }
}

#[test]
fn a_second_final_message_is_refused() {
    let mut server = server(&quick("secret"));
    let mut client = client("secret");
    let server_first = continued(server.message(&initial(MECHANISM, &client.first())));
    let client_final = client.server_first(&server_first).expect("good");
    assert!(server.message(&client_final).is_ok());
    assert_eq!(server.message(&client_final).err(), Some(ScramError::Malformed("the exchange is over")));
}

#[test]
fn a_malicious_server_is_refused() {
    let ours = BASE64.encode([2; 18]);
    let salt = BASE64.encode([0; 16]);
    let bad = [
        format!("r={ours},s={salt},i=4096"),
        format!("r=x{ours},s={salt},i=4096"),
        format!("r={ours}x,s=,i=4096"),
        format!("r={ours}x,s=*,i=4096"),
        format!("r={ours}x,s={},i=4096", BASE64.encode([0; MAX_SALT + 1])),
        format!("r={ours}x,s={salt},i=0"),
        format!("r={ours}x,s={salt},i=-1"),
        format!("r={ours}x,s={salt},i=+1"),
        format!("r={ours}x,s={salt},i={}", MAX_ITERATIONS + 1),
        format!("r={ours}x,s={salt},i=99999999999999999999"),
        format!("r={ours}{},s={salt},i=1", "x".repeat(MAX_NONCE)),
        format!("r={ours}x,s={salt}"),
        "x".repeat(100_000),
    ];
    for message in bad {
        let refused = client("secret").server_first(message.as_bytes());
        assert!(matches!(refused, Err(ScramError::Malformed(_))), "{message}");
    }
}

#[test]
fn a_server_that_does_not_know_the_verifier_is_refused() {
    let mut server = server(&quick("secret"));
    for (answer, expected) in [
        (format!("v={}", BASE64.encode([0; 32])), ScramError::ServerNotProven),
        ("e=other-error".to_owned(), ScramError::ServerRefused),
        ("v=AAAA".to_owned(), ScramError::Malformed("not 32 bytes")),
    ] {
        let mut client = client("secret");
        let first = match server.state {
            ServerState::Start => continued(server.message(&initial(MECHANISM, &client.first()))),
            _ => format!("r={}x,s=AAAA,i=1", BASE64.encode([2; 18])).into_bytes(),
        };
        client.server_first(&first).expect("good so far");
        assert_eq!(client.server_final(answer.as_bytes()).err(), Some(expected));
        assert!(client.server_final(answer.as_bytes()).is_err());
    }
    assert!(client("secret").server_final(b"v=").is_err(), "out of order");
}

#[test]
fn the_list_of_mechanisms_is_searched() {
    assert!(offered(b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"));
    assert!(!offered(b"SCRAM-SHA-256-PLUS\0\0"));
    assert!(!offered(b""));
}

proptest! {
    #[test]
    fn no_bytes_make_either_side_panic(first in any::<Vec<u8>>(), second in any::<Vec<u8>>(), text in "[nyp,=rscivm0-9a-z]{0,60}") {
        for body in [first.clone(), initial(MECHANISM, &first), initial(MECHANISM, text.as_bytes())] {
            let mut server = server(&quick("secret"));
            let _ = server.message(&body);
            let _ = server.message(&second);
            let _ = server.message(text.as_bytes());
        }
        let mut client = client("secret");
        let _ = client.server_first(&first);
        let _ = client.server_final(&second);
    }

    #[test]
    fn one_changed_byte_never_proves_anything(place in 0usize..100, change in 1u8..=255) {
        let mut server = server(&quick("secret"));
        let mut client = client("secret");
        let server_first = continued(server.message(&initial(MECHANISM, &client.first())));
        let mut client_final = client.server_first(&server_first).expect("good");
        let place = place % client_final.len();
        client_final[place] ^= change;
        prop_assert!(server.message(&client_final).is_err());
    }
}
