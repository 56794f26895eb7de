//! Logins by every method.

use std::collections::BTreeMap;

use super::*;
use crate::auth::Certificate;
use crate::auth::scram::{MECHANISM, ScramClient, Seed};
use crate::auth::secret::verifier;

struct House {
    users: BTreeMap<String, User>,
    ring: KeyRing,
}

/// Users whose names say what is stored for them; the password is "secret".
fn house() -> House {
    let secrets = [
        ("plain", Some(Secret::Plain("secret".into()))),
        ("md5", Some(Secret::Md5(md5::hash("secret", "md5")))),
        ("scram", Some(Secret::Scram(verifier("secret", b"0123456789abcdef", 1)))),
        ("none", None),
    ];
    let users: BTreeMap<_, _> = secrets.map(|(name, secret)| (name.to_owned(), User { secret })).into();
    let ring = KeyRing::new(&users, Seed::new([7; 32]));
    House { users, ring }
}

fn begin<'a>(house: &'a House, method: AuthMethod, name: &'a str) -> Result<(Login<'a>, Ask), Refusal> {
    let entropy = Entropy { md5_salt: [1, 2, 3, 4], nonce: [5; 18] };
    let user = house.users.get(name);
    let channel = Channel { certificate: Certificate::None, end_point: None };
    Login::begin(method, TlsMode::Disable, name, user, channel, &house.ring, entropy)
}

/// A client with this password, as drivers answer what they are asked.
fn log_in(
    house: &House,
    method: AuthMethod,
    name: &str,
    password: &str,
) -> Result<ServerCredential, Refusal> {
    let client = ServerCredential::Plain(password.into());
    let (mut login, ask) = begin(house, method, name)?;
    let reply = match ask {
        Ask::Nothing(admitted) => return Ok(admitted.credential),
        Ask::ClearText => login.message(format!("{password}\0").as_bytes())?,
        Ask::Md5(salt) => login
            .message(format!("{}\0", md5::response(&client, name, salt).expect("a password")).as_bytes())?,
        Ask::Sasl(_) => {
            let mut client = ScramClient::new(&client, None, &[2; 18]).expect("a password");
            let data = client.first();
            let length = i32::try_from(data.len()).expect("short").to_be_bytes();
            let first = login.message(&[MECHANISM.as_bytes(), &[0], &length, &data].concat())?;
            let Reply::Continue(server_first) = first else { panic!("no SASLContinue") };
            let reply = login.message(&client.server_first(&server_first).expect("good"))?;
            if let Reply::Admitted(Admitted { sasl_final, .. }) = &reply {
                client.server_final(sasl_final.as_ref().expect("SASLFinal")).expect("a server that knows us");
            }
            reply
        }
    };
    match reply {
        Reply::Admitted(admitted) => Ok(admitted.credential),
        Reply::Continue(_) => panic!("one message too many"),
    }
}

#[test]
fn the_right_password_is_worth_what_it_shows() {
    use AuthMethod::{Md5, Password, ScramSha256};
    let house = house();
    let expected = [
        (Password, "plain", "a password"),
        (Password, "md5", "a password"),
        (Password, "scram", "a password"),
        (Md5, "plain", "a password"),
        (Md5, "md5", "an md5 hash"),
        (Md5, "scram", "SCRAM keys from the client's login"),
        (ScramSha256, "plain", "a password"),
        (ScramSha256, "scram", "SCRAM keys from the client's login"),
    ];
    for (method, name, kind) in expected {
        let credential = log_in(&house, method, name, "secret").expect("the password fits");
        assert_eq!(credential.kind(), kind, "{method:?} {name}");
    }
}

#[test]
fn wrong_passwords_and_unknown_users_get_the_same_refusal() {
    use AuthMethod::{Md5, Password, ScramSha256};
    let house = house();
    for method in [Md5, Password, ScramSha256] {
        for (name, password) in
            [("plain", "Secret"), ("scram", "Secret"), ("none", "secret"), ("nobody", "secret")]
        {
            let refused = log_in(&house, method, name, password);
            assert_eq!(refused, Err(Refusal::Password), "{method:?} {name}");
        }
    }
    assert_eq!(log_in(&house, ScramSha256, "md5", "secret"), Err(Refusal::Password));
}

#[test]
fn trust_believes_known_names_only() {
    let house = house();
    for (name, kind) in
        [("plain", "a password"), ("md5", "an md5 hash"), ("scram", "nothing"), ("none", "nothing")]
    {
        assert_eq!(log_in(&house, AuthMethod::Trust, name, "").expect("known").kind(), kind);
    }
    assert_eq!(log_in(&house, AuthMethod::Trust, "nobody", ""), Err(Refusal::UnknownUser));
}

#[test]
fn a_certificate_is_asked_of_known_users_by_name() {
    let house = house();
    let certificate = |name: &str, certificate| {
        let entropy = Entropy { md5_salt: [0; 4], nonce: [0; 18] };
        let user = house.users.get(name);
        let channel = Channel { certificate, end_point: None };
        Login::begin(AuthMethod::Cert, TlsMode::VerifyFull, name, user, channel, &house.ring, entropy)
            .map(|_| ())
    };
    assert_eq!(certificate("none", Certificate::Verified("none")), Ok(()));
    assert_eq!(certificate("none", Certificate::Verified("plain")), Err(Refusal::Certificate));
    assert_eq!(certificate("none", Certificate::None), Err(Refusal::Certificate));
    assert_eq!(certificate("nobody", Certificate::Verified("nobody")), Err(Refusal::UnknownUser));
}

#[test]
fn malformed_passwords_are_refused_and_end_the_login() {
    let house = house();
    for body in [&b""[..], b"secret", b"sec\0ret\0", &[b'x'; MAX_PASSWORD + 2]] {
        let (mut login, _) = begin(&house, AuthMethod::Password, "plain").expect("asked");
        assert!(matches!(login.message(body), Err(Refusal::Protocol(_))));
        assert!(matches!(login.message(b"secret\0"), Err(Refusal::Protocol(_))), "over");
    }
    let (mut login, _) = begin(&house, AuthMethod::Password, "plain").expect("asked");
    assert!(matches!(login.message(b"\xff\xfe\0"), Err(Refusal::Password)));
    let (mut login, _) = begin(&house, AuthMethod::Password, "plain").expect("asked");
    assert!(matches!(login.message(b"\0"), Err(Refusal::Password)), "empty");
}

#[test]
fn nothing_shows_a_secret() {
    let house = house();
    let (_, ask) = begin(&house, AuthMethod::Trust, "plain").expect("known");
    assert!(!format!("{ask:?}").contains("secret"));
    assert!(!Refusal::Password.message("app").contains("secret"));
}
