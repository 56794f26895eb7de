//! PostgreSQL's MD5 challenge, both sides.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>, AuthenticationMD5Password:
//! `"md5" + hex(md5(hex(md5(password + user)) + salt))`.

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use super::ServerCredential;
use crate::config::Secret;

/// The 32 hex digits of md5(password + user): what PostgreSQL stores behind `md5`.
pub fn hash(password: &str, user: &str) -> String {
    hex(Md5::new().chain_update(password).chain_update(user))
}

/// Our answer to a server's AuthenticationMD5Password, without the final zero byte; `None` if the credential cannot.
pub fn response(credential: &ServerCredential, user: &str, salt: [u8; 4]) -> Option<String> {
    match credential {
        ServerCredential::Plain(password) => Some(salted(&hash(password, user), salt)),
        ServerCredential::Md5(hash) => Some(salted(hash, salt)),
        ServerCredential::Scram(_) | ServerCredential::Nothing => None,
    }
}

/// Whether a client's answer to our challenge fits what is stored. A SCRAM verifier and an empty password never fit.
pub fn matches(secret: &Secret, user: &str, salt: [u8; 4], response: &[u8]) -> bool {
    let stored = match secret {
        Secret::Plain(password) if !password.is_empty() => hash(password, user),
        Secret::Md5(hash) => hash.clone(),
        Secret::Plain(_) | Secret::Scram(_) => return false,
    };
    salted(&stored, salt).as_bytes().ct_eq(response).into()
}

fn salted(hash: &str, salt: [u8; 4]) -> String {
    format!("md5{}", hex(Md5::new().chain_update(hash).chain_update(salt)))
}

fn hex(digest: Md5) -> String {
    let mut text = String::with_capacity(32);
    text.extend(digest.finalize().iter().flat_map(|byte| [byte >> 4, byte & 15]).map(digit));
    text
}

fn digit(nibble: u8) -> char {
    char::from(b"0123456789abcdef"[usize::from(nibble)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_what_postgresql_stores() {
        // PostgreSQL 15: SET password_encryption = 'md5'; CREATE ROLE app PASSWORD 'secret'; SELECT rolpassword FROM pg_authid.
        assert_eq!(hash("secret", "app"), "6a422f785c9e20873908ce25d1736ae2");
    }

    #[test]
    fn both_sides_agree_whatever_is_stored() {
        let (plain, md5) = (Secret::Plain("secret".into()), Secret::Md5(hash("secret", "app")));
        let salt = [1, 2, 3, 255];
        for ours in [ServerCredential::of(Some(&plain)), ServerCredential::of(Some(&md5))] {
            let response = response(&ours, "app", salt).expect("can answer");
            assert!(matches(&plain, "app", salt, response.as_bytes()));
            assert!(matches(&md5, "app", salt, response.as_bytes()));
            assert!(!matches(&plain, "app", [0; 4], response.as_bytes()));
            assert!(!matches(&plain, "other", salt, response.as_bytes()));
        }
    }

    #[test]
    fn an_empty_password_or_answer_never_fits() {
        let empty = Secret::Plain(String::new());
        let answer = response(&ServerCredential::Plain(String::new()), "app", [0; 4]).expect("can answer");
        assert!(!matches(&empty, "app", [0; 4], answer.as_bytes()));
        assert!(!matches(&Secret::Plain("secret".into()), "app", [0; 4], b""));
    }
}
