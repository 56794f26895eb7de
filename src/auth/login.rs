//! One client's login, from its name to a verdict, whatever the method.
//!
//! ```text
//! begin -> Ask::Nothing ------------------------------> Admitted
//!       -> Ask::ClearText | Md5 --PasswordMessage-----> Admitted | Refusal
//!       -> Ask::Sasl --SASLInitialResponse--> Continue --SASLResponse--> Admitted | Refusal
//! ```

use std::fmt;

use super::rules::{self, Challenge, Channel};
use super::scram::{KeyRing, ScramError, ScramServer, ServerStep};
use super::{ServerCredential, md5, secret};
use crate::config::{AuthMethod, Secret, TlsMode, User};

/// Random bytes for one login.
#[derive(Clone)]
pub struct Entropy {
    /// The salt of an MD5 challenge.
    pub md5_salt: [u8; 4],
    /// SCRAM's nonce.
    pub nonce: [u8; 18],
}

/// What is asked of the client first.
#[derive(Debug)]
pub enum Ask {
    /// Nothing: it is in.
    Nothing(Admitted),
    /// AuthenticationCleartextPassword.
    ClearText,
    /// AuthenticationMD5Password with this salt.
    Md5([u8; 4]),
    /// AuthenticationSASL with these mechanisms, each ending in a zero byte.
    Sasl(&'static [u8]),
}

/// What follows a client's `p` message.
#[derive(Debug)]
pub enum Reply {
    /// AuthenticationSASLContinue with these data, then the next `p` message.
    Continue(Vec<u8>),
    /// The client is in.
    Admitted(Admitted),
}

/// A client that has proven who it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The data of an AuthenticationSASLFinal that goes before AuthenticationOk, if any.
    pub sasl_final: Option<Vec<u8>>,
    /// What its login is worth at a server.
    pub credential: ServerCredential,
}

/// Why a client is not let in. Says nothing that depends on whether the user exists, but for `trust` and `cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Wrong password or no such user: 28P01.
    Password,
    /// `trust` or `cert`, and the name is not configured: 28000.
    UnknownUser,
    /// No certificate, or one of somebody else: 28000.
    Certificate,
    /// The client broke the protocol: 08P01; or somebody stands between it and us: 28000.
    Protocol(ScramError),
}

impl Refusal {
    /// The text for the client, which said that it is `user`.
    pub fn message(&self, user: &str) -> String {
        match self {
            Refusal::Password => format!("password authentication failed for user \"{user}\""),
            Refusal::UnknownUser => format!("user \"{user}\" is not configured"),
            Refusal::Certificate => format!("certificate authentication failed for user \"{user}\""),
            Refusal::Protocol(error) => error.to_string(),
        }
    }

    /// Its SQLSTATE.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Refusal::Password => "28P01",
            Refusal::UnknownUser | Refusal::Certificate => "28000",
            Refusal::Protocol(ScramError::ChannelBinding(_)) => "28000",
            Refusal::Protocol(_) => "08P01",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Password => f.write_str("wrong password or unknown user"),
            Refusal::UnknownUser => f.write_str("unknown user"),
            Refusal::Certificate => f.write_str("no certificate, or one of another user"),
            Refusal::Protocol(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

/// A login under way: it waits for the client's next `p` message.
pub struct Login<'a> {
    user: &'a str,
    secret: Option<&'a Secret>,
    state: State,
}

enum State {
    ClearText,
    Md5([u8; 4]),
    Scram(ScramServer),
    Over,
}

impl<'a> Login<'a> {
    /// A client says that it is `name`, which is `user` if it is configured or was found.
    ///
    /// May take PBKDF2's time (see [`KeyRing::must_derive`]).
    ///
    /// # Errors
    /// A certificate that does not fit; an unknown user where nothing is asked.
    pub fn begin(
        method: AuthMethod,
        tls: TlsMode,
        name: &'a str,
        user: Option<&'a User>,
        channel: Channel<'_>,
        ring: &KeyRing,
        entropy: Entropy,
    ) -> Result<(Login<'a>, Ask), Refusal> {
        if !rules::certificate_fits(method, tls, name, channel.certificate) {
            return Err(Refusal::Certificate);
        }
        let secret = user.and_then(|user| user.secret.as_ref());
        let (state, ask) = match rules::challenge(method, user) {
            Challenge::None | Challenge::CertificateOnly if user.is_none() => {
                return Err(Refusal::UnknownUser);
            }
            Challenge::None | Challenge::CertificateOnly => {
                (State::Over, Ask::Nothing(admitted(ServerCredential::of(secret))))
            }
            Challenge::ClearText => (State::ClearText, Ask::ClearText),
            Challenge::Md5 => (State::Md5(entropy.md5_salt), Ask::Md5(entropy.md5_salt)),
            Challenge::Scram => {
                let exchange =
                    ScramServer::new(ring.keys(name, secret), &entropy.nonce, channel.end_point.cloned());
                let mechanisms = exchange.mechanisms();
                (State::Scram(exchange), Ask::Sasl(mechanisms))
            }
        };
        Ok((Login { user: name, secret, state }, ask))
    }

    /// The body of the client's next `p` message.
    ///
    /// # Errors
    /// The login failed, for good: every later message is refused too.
    pub fn message(&mut self, body: &[u8]) -> Result<Reply, Refusal> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::ClearText => self.clear_text(password(body)?),
            State::Md5(salt) => self.md5(salt, zero_terminated(body)?),
            State::Scram(exchange) => self.scram(exchange, body),
            State::Over => Err(Refusal::Protocol(ScramError::Malformed("the login is over"))),
        }
    }

    fn clear_text(&self, password: &str) -> Result<Reply, Refusal> {
        match self.secret {
            Some(secret) if secret::matches(secret, self.user, password) => {
                Ok(Reply::Admitted(admitted(ServerCredential::Plain(password.to_owned()))))
            }
            _ => Err(Refusal::Password),
        }
    }

    fn md5(&self, salt: [u8; 4], response: &[u8]) -> Result<Reply, Refusal> {
        match self.secret {
            Some(secret) if md5::matches(secret, self.user, salt, response) => {
                Ok(Reply::Admitted(admitted(ServerCredential::of(Some(secret)))))
            }
            _ => Err(Refusal::Password),
        }
    }

    fn scram(&mut self, mut exchange: ScramServer, body: &[u8]) -> Result<Reply, Refusal> {
        match exchange.message(body).map_err(refusal)? {
            ServerStep::Continue(data) => {
                self.state = State::Scram(exchange);
                Ok(Reply::Continue(data))
            }
            ServerStep::Proven { message, keys } => {
                let credential =
                    keys.map_or_else(|| ServerCredential::of(self.secret), ServerCredential::Scram);
                Ok(Reply::Admitted(Admitted { sasl_final: Some(message), credential }))
            }
        }
    }
}

fn admitted(credential: ServerCredential) -> Admitted {
    Admitted { sasl_final: None, credential }
}

fn refusal(error: ScramError) -> Refusal {
    match error {
        ScramError::WrongProof => Refusal::Password,
        other => Refusal::Protocol(other),
    }
}

/// The longest password in the clear, in bytes (PostgreSQL: `PG_MAX_AUTH_TOKEN_LENGTH`).
pub const MAX_PASSWORD: usize = 65_535;

fn password(body: &[u8]) -> Result<&str, Refusal> {
    // A password that is not UTF-8 fits nothing that a configuration can hold.
    std::str::from_utf8(zero_terminated(body)?).map_err(|_| Refusal::Password)
}

fn zero_terminated(body: &[u8]) -> Result<&[u8], Refusal> {
    match body.split_last() {
        Some((0, text)) if !text.contains(&0) && text.len() <= MAX_PASSWORD => Ok(text),
        _ => Err(Refusal::Protocol(ScramError::Malformed("bad PasswordMessage"))),
    }
}

#[cfg(test)]
mod tests;
