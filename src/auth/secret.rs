//! A clear password against what is stored, and the SCRAM verifier of a password.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{ScramKeys, md5};
use crate::config::{ScramVerifier, Secret};

/// PBKDF2 rounds of verifiers made here: PostgreSQL's own default (`scram_iterations`).
pub const ITERATIONS: u32 = 4096;

/// Whether `password`, in the clear, is the one that is stored. An empty password never is.
///
/// Takes PBKDF2's time (milliseconds at PostgreSQL's default) if a SCRAM verifier is stored.
pub fn matches(secret: &Secret, user: &str, password: &str) -> bool {
    if password.is_empty() {
        return false;
    }
    match secret {
        Secret::Plain(stored) => stored.as_bytes().ct_eq(password.as_bytes()).into(),
        Secret::Md5(stored) => stored.as_bytes().ct_eq(md5::hash(password, user).as_bytes()).into(),
        Secret::Scram(stored) => {
            verifier(password, &stored.salt, stored.iterations).stored_key.ct_eq(&stored.stored_key).into()
        }
    }
}

/// The verifier that PostgreSQL would store for this password, salt and iterations. Takes PBKDF2's time.
pub fn verifier(password: &str, salt: &[u8], iterations: u32) -> ScramVerifier {
    let keys = keys(password, salt, iterations);
    ScramVerifier {
        iterations,
        stored_key: sha256(&keys.client_key),
        server_key: keys.server_key,
        salt: keys.salt,
    }
}

/// RFC 5802, section 3: SaltedPassword, then ClientKey and ServerKey.
pub(super) fn keys(password: &str, salt: &[u8], iterations: u32) -> ScramKeys {
    let mut salted = [0; 32];
    pbkdf2::pbkdf2::<Hmac<Sha256>>(prepared(password).as_bytes(), salt, iterations, &mut salted)
        .expect("HMAC takes keys of any length");
    ScramKeys {
        client_key: hmac(&salted, b"Client Key"),
        server_key: hmac(&salted, b"Server Key"),
        salt: salt.to_vec(),
        iterations,
    }
}

/// SASLprep as PostgreSQL does it: ASCII stays, and so does what SASLprep prohibits.
///
/// Source: `src/common/saslprep.c`, `pg_saslprep`.
fn prepared(password: &str) -> std::borrow::Cow<'_, str> {
    if password.is_ascii() {
        return password.into();
    }
    stringprep::saslprep(password).unwrap_or(password.into())
}

/// HMAC-SHA-256 that has taken in a key: a quarter of what signing a SCRAM exchange takes.
#[derive(Clone)]
pub(super) struct Signer(Hmac<Sha256>);

impl Signer {
    pub(super) fn new(key: &[u8]) -> Signer {
        Signer(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }

    /// Of a message in pieces.
    pub(super) fn sign(&self, pieces: &[&str]) -> [u8; 32] {
        let mut mac = self.0.clone();
        pieces.iter().for_each(|piece| mac.update(piece.as_bytes()));
        mac.finalize().into_bytes().into()
    }
}

pub(super) fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Signer::new(key).0;
    mac.update(message);
    mac.finalize().into_bytes().into()
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_secret_knows_its_password() {
        let secrets = [
            Secret::Plain("secret".into()),
            Secret::Md5(md5::hash("secret", "app")),
            Secret::Scram(verifier("secret", b"0123456789abcdef", 16)),
        ];
        for secret in secrets {
            assert!(matches(&secret, "app", "secret"), "{secret:?}");
            for wrong in ["", "Secret", "secret ", "secre", "md5aa1cc05521a57b8f12bb1cf93ac78862"] {
                assert!(!matches(&secret, "app", wrong), "{secret:?} {wrong}");
            }
        }
    }

    #[test]
    fn empty_passwords_never_match() {
        assert!(!matches(&Secret::Plain(String::new()), "app", ""));
        assert!(!matches(&Secret::Md5(md5::hash("", "app")), "app", ""));
        assert!(!matches(&Secret::Scram(verifier("", b"salt", 1)), "app", ""));
    }

    #[test]
    fn passwords_are_prepared_as_postgresql_does() {
        // RFC 4013, section 3: a soft hyphen is mapped to nothing, a compatibility character is normalized.
        assert_eq!(prepared("I\u{AD}X"), "IX");
        assert_eq!(prepared("\u{2168}"), "IX");
        // Prohibited, so left alone; ASCII is never touched, not even control characters.
        assert_eq!(prepared("\u{E9}\u{7}"), "\u{E9}\u{7}");
        assert_eq!(prepared("a\u{7}"), "a\u{7}");
    }
}
