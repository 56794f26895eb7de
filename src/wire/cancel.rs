//! Cancel keys: the client's (made here) and the server's (PostgreSQL's) are two types, so that neither is ever sent to
//! the wrong side. Since protocol 3.2 a secret may have 4 to 256 bytes.

use std::fmt;
use subtle::ConstantTimeEq;

/// The longest secret that the protocol allows, in bytes.
pub const MAX_SECRET: usize = 256;

/// What a client presents to cancel its own query.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientKey {
    /// The number in place of a process id: positive, unique among the clients of this process.
    pub pid: i32,
    secret: Secret,
}

/// What each client has, so it is small.
#[derive(Clone, PartialEq, Eq)]
enum Secret {
    /// All that protocol 3.0 has room for.
    Short([u8; 4]),
    /// Any other.
    Long(Box<[u8]>),
}

/// What PostgreSQL gave at login to cancel what this server connection runs.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerKey {
    /// The backend's process id.
    pub pid: i32,
    secret: Box<[u8]>,
}

impl ClientKey {
    /// A key from its parts.
    pub fn new(pid: i32, secret: &[u8]) -> Self {
        let secret = secret.try_into().map_or_else(|_| Secret::Long(secret.into()), Secret::Short);
        ClientKey { pid, secret }
    }

    /// The secret, to be sent to its client alone.
    pub fn secret(&self) -> &[u8] {
        match &self.secret {
            Secret::Short(secret) => secret,
            Secret::Long(secret) => secret,
        }
    }

    /// Whether `other` is this key, in time that does not depend on where they differ.
    pub fn matches(&self, other: &ClientKey) -> bool {
        self.pid == other.pid && bool::from(self.secret().ct_eq(other.secret()))
    }
}

impl ServerKey {
    /// A key from its parts.
    pub fn new(pid: i32, secret: &[u8]) -> Self {
        ServerKey { pid, secret: secret.into() }
    }

    /// The CancelRequest to send on a connection of its own.
    pub fn request(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12 + self.secret.len());
        out.extend_from_slice(&(12 + self.secret.len() as u32).to_be_bytes());
        out.extend_from_slice(&super::startup::CANCEL_REQUEST.to_be_bytes());
        out.extend_from_slice(&self.pid.to_be_bytes());
        out.extend_from_slice(&self.secret);
        out
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientKey({})", self.pid)
    }
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerKey({})", self.pid)
    }
}
