//! Causality tokens: what a client has seen, to be carried to another connection or another pglagoon. Pure.
//!
//! A token is a position of the primary that bounds from above all that its client has seen, with the cluster and the
//! timeline that it belongs to. It is signed: a made-up position would have reads wait for what never comes.

use super::Lsn;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The position that a token carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The cluster's identifier.
    pub system: u64,
    /// The timeline.
    pub timeline: u32,
    /// The position.
    pub position: Lsn,
}

/// How much of the signature a token carries, in bytes: enough that nobody guesses it.
const SIGNATURE: usize = 16;

impl Token {
    /// The token as text, signed with `secret`.
    pub fn sign(&self, secret: &[u8]) -> String {
        let body = format!("1.{:x}.{:x}.{:x}", self.system, self.timeline, self.position.0);
        let signature = signature(&body, secret).finalize().into_bytes();
        let hex: String = signature[..SIGNATURE].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{body}.{hex}")
    }

    /// Reads a token; `None` if it was not signed with `secret`, or is none at all.
    pub fn read(text: &str, secret: &[u8]) -> Option<Token> {
        let (body, hex) = text.rsplit_once('.')?;
        if hex.len() != 2 * SIGNATURE || !hex.is_ascii() {
            return None;
        }
        let bytes = (0..SIGNATURE).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok());
        signature(body, secret).verify_truncated_left(&bytes.collect::<Option<Vec<u8>>>()?).ok()?;
        let mut parts = body.strip_prefix("1.")?.split('.');
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        Some(Token { system: number()?, timeline: number()?.try_into().ok()?, position: Lsn(number()?) })
    }
}

fn signature(body: &str, secret: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(body.as_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_token_comes_back_and_no_other_does(system: u64, timeline: u32, position: u64, at in 0usize..40, other: u8) {
            let token = Token { system, timeline, position: Lsn(position) };
            let text = token.sign(b"secret");
            prop_assert_eq!(Token::read(&text, b"secret"), Some(token));
            prop_assert_eq!(Token::read(&text, b"other"), None);
            let mut bytes = text.clone().into_bytes();
            let at = at % bytes.len();
            prop_assume!(!bytes[at].eq_ignore_ascii_case(&other));
            bytes[at] = other;
            prop_assert_eq!(Token::read(&String::from_utf8_lossy(&bytes), b"secret"), None);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,80}") {
            let _ = Token::read(&text, b"secret");
            let _ = Token::read(&format!("1.{text}.{:032}", 0), b"secret");
        }
    }
}
