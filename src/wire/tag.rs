//! The first byte of a message, one type per direction.

use std::fmt;

/// The tag of a message from a client.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrontendTag(pub u8);

/// The tag of a message from a server.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackendTag(pub u8);

#[allow(missing_docs, reason = "the names are PostgreSQL's own message names")]
impl FrontendTag {
    pub const BIND: Self = Self(b'B');
    pub const CLOSE: Self = Self(b'C');
    pub const COPY_DATA: Self = Self(b'd');
    pub const COPY_DONE: Self = Self(b'c');
    pub const COPY_FAIL: Self = Self(b'f');
    pub const DESCRIBE: Self = Self(b'D');
    pub const EXECUTE: Self = Self(b'E');
    pub const FLUSH: Self = Self(b'H');
    pub const FUNCTION_CALL: Self = Self(b'F');
    pub const PARSE: Self = Self(b'P');
    /// PasswordMessage, SASLInitialResponse, SASLResponse: told apart by what was asked.
    pub const PASSWORD: Self = Self(b'p');
    pub const QUERY: Self = Self(b'Q');
    pub const SYNC: Self = Self(b'S');
    pub const TERMINATE: Self = Self(b'X');
}

#[allow(missing_docs, reason = "the names are PostgreSQL's own message names")]
impl BackendTag {
    pub const AUTHENTICATION: Self = Self(b'R');
    pub const BACKEND_KEY_DATA: Self = Self(b'K');
    pub const BIND_COMPLETE: Self = Self(b'2');
    pub const CLOSE_COMPLETE: Self = Self(b'3');
    pub const COMMAND_COMPLETE: Self = Self(b'C');
    pub const COPY_BOTH_RESPONSE: Self = Self(b'W');
    pub const COPY_DATA: Self = Self(b'd');
    pub const COPY_DONE: Self = Self(b'c');
    pub const COPY_IN_RESPONSE: Self = Self(b'G');
    pub const COPY_OUT_RESPONSE: Self = Self(b'H');
    pub const DATA_ROW: Self = Self(b'D');
    pub const EMPTY_QUERY_RESPONSE: Self = Self(b'I');
    pub const ERROR_RESPONSE: Self = Self(b'E');
    pub const NEGOTIATE_PROTOCOL_VERSION: Self = Self(b'v');
    pub const NO_DATA: Self = Self(b'n');
    pub const NOTICE_RESPONSE: Self = Self(b'N');
    pub const NOTIFICATION_RESPONSE: Self = Self(b'A');
    pub const PARAMETER_DESCRIPTION: Self = Self(b't');
    pub const PARAMETER_STATUS: Self = Self(b'S');
    pub const PARSE_COMPLETE: Self = Self(b'1');
    pub const PORTAL_SUSPENDED: Self = Self(b's');
    pub const READY_FOR_QUERY: Self = Self(b'Z');
    pub const ROW_DESCRIPTION: Self = Self(b'T');
}

impl From<u8> for FrontendTag {
    fn from(byte: u8) -> Self {
        Self(byte)
    }
}

impl From<u8> for BackendTag {
    fn from(byte: u8) -> Self {
        Self(byte)
    }
}

impl fmt::Debug for FrontendTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "F'{}'", self.0.escape_ascii())
    }
}

impl fmt::Debug for BackendTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "B'{}'", self.0.escape_ascii())
    }
}
