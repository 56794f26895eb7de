//! Which challenge a user gets.
//!
//! The stored secret decides, not the method alone: under `md5` a user with a SCRAM verifier is asked for SCRAM. A name
//! that nobody has is asked what its method asks first, so that the challenge does not say whether it exists.

use crate::config::{AuthMethod, Secret, TlsMode, User};
use std::sync::Arc;

/// What is asked of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// Nothing: the name is believed, if it is known.
    None,
    /// AuthenticationCleartextPassword.
    ClearText,
    /// AuthenticationMD5Password.
    Md5,
    /// AuthenticationSASL with SCRAM-SHA-256.
    Scram,
    /// Nothing more than the TLS certificate that was already shown.
    CertificateOnly,
}

/// What TLS says of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Channel<'a> {
    /// Of the client.
    pub certificate: Certificate<'a>,
    /// What channel binding can bind to.
    pub end_point: Option<&'a Arc<[u8]>>,
}

/// What TLS said of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate<'a> {
    /// No TLS, or no certificate.
    None,
    /// A certificate that a configured authority signed, with its common name.
    Verified(&'a str),
}

/// The challenge for a user, known or not.
pub fn challenge(method: AuthMethod, user: Option<&User>) -> Challenge {
    match method {
        AuthMethod::Trust => Challenge::None,
        AuthMethod::Password => Challenge::ClearText,
        AuthMethod::ScramSha256 => Challenge::Scram,
        AuthMethod::Cert => Challenge::CertificateOnly,
        AuthMethod::Md5 => match user.and_then(|user| user.secret.as_ref()) {
            Some(Secret::Scram(_)) => Challenge::Scram,
            Some(Secret::Plain(_) | Secret::Md5(_)) | None => Challenge::Md5,
        },
    }
}

/// Whether the certificate is the one that the method and the TLS mode ask of this user.
///
/// The TLS handshake itself already refused clients without a certificate in both verify modes; this is the second
/// lock on the same door, and the only one for a method `cert` over a Unix-domain socket.
pub fn certificate_fits(method: AuthMethod, tls: TlsMode, user: &str, certificate: Certificate<'_>) -> bool {
    let must_name_user = method == AuthMethod::Cert || tls == TlsMode::VerifyFull;
    match certificate {
        Certificate::Verified(name) => !must_name_user || name == user,
        Certificate::None => method != AuthMethod::Cert,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::secret::verifier;

    fn with(secret: Secret) -> Option<User> {
        Some(User { secret: Some(secret) })
    }

    #[test]
    fn the_stored_secret_chooses_between_md5_and_scram() {
        let plain = with(Secret::Plain("secret".into()));
        let scram = with(Secret::Scram(verifier("secret", b"salt", 1)));
        assert_eq!(challenge(AuthMethod::Md5, plain.as_ref()), Challenge::Md5);
        assert_eq!(challenge(AuthMethod::Md5, scram.as_ref()), Challenge::Scram);
        assert_eq!(challenge(AuthMethod::Md5, None), Challenge::Md5);
        assert_eq!(challenge(AuthMethod::ScramSha256, plain.as_ref()), Challenge::Scram);
    }

    #[test]
    fn an_unknown_user_is_asked_what_a_known_one_is_asked() {
        let known = with(Secret::Plain("secret".into()));
        for method in [AuthMethod::Md5, AuthMethod::ScramSha256, AuthMethod::Password, AuthMethod::Cert] {
            assert_eq!(challenge(method, None), challenge(method, known.as_ref()), "{method:?}");
        }
    }

    #[test]
    fn a_certificate_must_name_the_user_where_that_is_asked() {
        use AuthMethod::{Cert, ScramSha256};
        use Certificate::{None, Verified};
        assert!(certificate_fits(Cert, TlsMode::VerifyCa, "app", Verified("app")));
        assert!(!certificate_fits(Cert, TlsMode::VerifyCa, "app", Verified("other")));
        assert!(!certificate_fits(Cert, TlsMode::VerifyFull, "app", None));
        assert!(certificate_fits(ScramSha256, TlsMode::VerifyCa, "app", Verified("other")));
        assert!(!certificate_fits(ScramSha256, TlsMode::VerifyFull, "app", Verified("other")));
        assert!(
            certificate_fits(ScramSha256, TlsMode::VerifyFull, "app", None),
            "a Unix-domain socket has none"
        );
    }
}
