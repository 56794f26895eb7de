//! Errors: whose fault, whether to try again, and what the client sees.
//!
//! [`Report`] is the only road of a text of ours to a client: it has a SQLSTATE, a message and, where it helps, a detail
//! and a hint. Errors of I/O rooms keep their cause for the log and turn into a `Report` where they are handled.

use crate::wire::SqlState;
use crate::wire::backend::{Severity, write_report};
use std::borrow::Cow;

/// Where an error comes from: the label in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorSource {
    /// The client broke the protocol, gave wrong credentials or went away.
    Client,
    /// The server refused, failed or went away.
    Server,
    /// pglagoon's own limit or state.
    Pooler,
}

impl ErrorSource {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorSource::Client => "client",
            ErrorSource::Server => "server",
            ErrorSource::Pooler => "pooler",
        }
    }
}

/// Whether the same request may succeed elsewhere or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Not without a change.
    Never,
    /// Yes: nothing was done.
    Safe,
}

/// An error as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whose fault.
    pub source: ErrorSource,
    /// The condition.
    pub code: SqlState,
    /// One sentence.
    pub message: Cow<'static, str>,
    /// The circumstances; may be empty.
    pub detail: Cow<'static, str>,
    /// What to do; may be empty.
    pub hint: Cow<'static, str>,
}

impl Report {
    /// An error with a message alone.
    pub fn new(source: ErrorSource, code: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        Report { source, code, message: message.into(), detail: "".into(), hint: "".into() }
    }

    /// The client broke the protocol.
    pub fn protocol(message: impl Into<Cow<'static, str>>) -> Self {
        Report::new(ErrorSource::Client, SqlState::PROTOCOL_VIOLATION, message)
    }

    /// With its circumstances.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = detail.into();
        self
    }

    /// With advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Appends it as an ErrorResponse.
    pub fn write(&self, out: &mut Vec<u8>, severity: Severity) {
        write_report(out, severity, self.code, &self.message, &self.detail, &self.hint);
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// Anything that can be told to a client.
pub trait ClientVisible {
    /// What the client is told.
    fn report(&self) -> Report;

    /// Whether the client may simply try again.
    fn retry(&self) -> Retry {
        Retry::Never
    }
}
