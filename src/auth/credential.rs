//! What pglagoon holds for logging in to a server in a client's name.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::config::Secret;

/// What there is for logging in to a server. `Debug` shows the kind only.
///
/// It is written down for one purpose only: to go along with its client to the process that takes over.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerCredential {
    /// The password: serves every method.
    Plain(String),
    /// The 32 hex digits of md5(password + user): serves an MD5 challenge, if the server's user has the same name.
    Md5(String),
    /// Keys that the client's own SCRAM login showed: they serve a server that holds the same verifier.
    Scram(ScramKeys),
    /// Nothing: only servers that ask for nothing, or for our certificate, let us in.
    Nothing,
}

impl ServerCredential {
    /// What a stored secret alone is worth. A SCRAM verifier is worth nothing: it proves a client, not us.
    pub fn of(secret: Option<&Secret>) -> ServerCredential {
        match secret {
            Some(Secret::Plain(password)) => ServerCredential::Plain(password.clone()),
            Some(Secret::Md5(hash)) => ServerCredential::Md5(hash.clone()),
            Some(Secret::Scram(_)) | None => ServerCredential::Nothing,
        }
    }

    /// The answer to AuthenticationCleartextPassword, if there is one.
    pub fn clear_text(&self) -> Option<&str> {
        match self {
            ServerCredential::Plain(password) => Some(password),
            _ => None,
        }
    }

    /// The kind, for errors and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            ServerCredential::Plain(_) => "a password",
            ServerCredential::Md5(_) => "an md5 hash",
            ServerCredential::Scram(_) => "SCRAM keys from the client's login",
            ServerCredential::Nothing => "nothing",
        }
    }
}

impl fmt::Debug for ServerCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerCredential({})", self.kind())
    }
}

/// Enough to log in by SCRAM to any server that holds the verifier with this salt and these iterations, without the
/// password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScramKeys {
    pub(super) client_key: [u8; 32],
    pub(super) server_key: [u8; 32],
    pub(super) salt: Vec<u8>,
    pub(super) iterations: u32,
}

impl ScramKeys {
    /// Whether a server that names this salt and these iterations is served by these keys.
    pub fn fit(&self, salt: &[u8], iterations: u32) -> bool {
        self.salt == salt && self.iterations == iterations
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys")
    }
}
