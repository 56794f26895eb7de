//! Making a server connection as after its login: after a client that leaves traces, or that vanished.
//!
//! Closing the connection of every client that vanishes would turn slow queries into a storm of logins; so what it runs is
//! cancelled, what is still to come is read, and the rest is rolled back and discarded. What a client has asked for that
//! then said goodbye is run to its end first, as PostgreSQL does, which reads the Terminate only then.

use std::fmt;
use std::time::Duration;

use super::cancel::cancel;
use super::command::{CommandError, query};
use super::{Backend, CancelTarget, ConnectError, Dialog};
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend::{write_copy_fail, write_describe_statement, write_sync};
use crate::wire::{BackendTag, Scanner};

/// What is still open on a connection whose client is gone. What was written to the server ends with a whole message;
/// where it does not, nothing can be saved.
#[derive(Default)]
pub struct Owed {
    /// ReadyForQuery still to come for what was sent. A Sync that the server got during COPY IN does not count: it ignores it.
    pub ready: usize,
    /// The server waits for CopyData.
    pub copy_in: bool,
    /// A batch of the extended protocol was begun, and no Sync ended it (or COPY IN swallowed that).
    pub needs_sync: bool,
    /// Where reading from the server stopped, perhaps inside a message.
    pub scanner: Scanner<BackendTag>,
    /// What was read from the server and not dealt with.
    pub unread: Vec<u8>,
    /// What the server is still to be sent: whole messages, or the end of one and whole messages.
    pub unsent: Vec<u8>,
}

/// A connection that cannot be made clean: it must be dropped.
#[derive(Debug)]
pub enum ResetError {
    /// It took too long.
    Timeout,
    /// The cancel request failed, so that it may hit somebody else later.
    Cancel(ConnectError),
    /// The server gave no key to cancel with.
    NoKey,
    /// The connection broke, or the server would not be reset.
    Command(CommandError),
}

impl fmt::Display for ResetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResetError::Timeout => f.write_str("the server connection was not clean in time"),
            ResetError::Cancel(error) => write!(f, "could not cancel: {error}"),
            ResetError::NoKey => f.write_str("the server gave no key to cancel with"),
            ResetError::Command(error) => write!(f, "could not reset the server connection: {error}"),
        }
    }
}

impl std::error::Error for ResetError {}

impl<E: Into<CommandError>> From<E> for ResetError {
    fn from(error: E) -> Self {
        ResetError::Command(error.into())
    }
}

/// Reads what is owed and drops it, rolls back, and runs DISCARD ALL. What still runs after `patience` is cancelled.
///
/// Of several queries that were sent ahead, those that run when a cancel request comes are cancelled and the others run:
/// their client had asked for them.
///
/// # Cancel safety
/// None: dropped halfway, the connection must be dropped too.
///
/// # Errors
/// See [`ResetError`]; cancelling and resetting may take `within` each.
pub async fn salvage(
    backend: &mut Backend,
    owed: Owed,
    patience: Duration,
    within: Duration,
) -> Result<(), ResetError> {
    let target = backend.remote.cancel.clone();
    let status = {
        let mut settling = Box::pin(settle(backend, owed));
        match tokio::time::timeout(patience, &mut settling).await {
            Ok(settled) => settled?,
            Err(_) => bounded(within, cancel_until(settling, target, within)).await?,
        }
    };
    bounded(within, discard_all(backend, status)).await
}

/// A server that is asked to cancel before it has read the query ignores the request, so it is asked until it has ended.
async fn cancel_until<T, E: Into<ResetError>>(
    mut ended: impl Future<Output = Result<T, E>> + Unpin,
    target: Option<CancelTarget>,
    within: Duration,
) -> Result<T, ResetError> {
    let target = target.ok_or(ResetError::NoKey)?;
    loop {
        // Awaited to its end: from then on it cannot hit what comes after.
        cancel(&target, within).await.map_err(ResetError::Cancel)?;
        if let Ok(ended) = tokio::time::timeout(CANCEL_AGAIN, &mut ended).await {
            return ended.map_err(Into::into);
        }
    }
}

async fn bounded<T>(
    within: Duration,
    reset: impl Future<Output = Result<T, ResetError>>,
) -> Result<T, ResetError> {
    tokio::time::timeout(within, Box::pin(reset)).await.unwrap_or(Err(ResetError::Timeout))
}

/// Ends what is open and reads until every ReadyForQuery has come.
async fn settle(backend: &mut Backend, owed: Owed) -> Result<TransactionStatus, CommandError> {
    let mut dialog = Dialog::resume(owed.scanner, owed.unread);
    let mut ready = owed.ready;
    dialog.out().extend_from_slice(&owed.unsent);
    if owed.copy_in {
        write_copy_fail(dialog.out(), COPY_FAIL);
    }
    if owed.needs_sync {
        // A Sync commits. What was not synced by its client shall not stay, so it fails first.
        write_describe_statement(dialog.out(), NO_STATEMENT);
        write_sync(dialog.out());
        ready += 1;
    }
    // Nothing is known of the transaction until a ReadyForQuery says it; DISCARD ALL finds out.
    let mut status = TransactionStatus::Idle;
    while ready > 0 {
        let message = dialog.next(&mut backend.stream, &mut backend.state, KEEP).await?;
        match message.tag {
            BackendTag::READY_FOR_QUERY => {
                let body = TransactionStatus::new(message.body);
                status =
                    body.ok_or_else(|| CommandError::Protocol("a malformed ReadyForQuery".to_owned()))?;
                ready -= 1;
            }
            // A query that was sent ahead. Outside of COPY the server ignores it, so one too many does no harm.
            BackendTag::COPY_IN_RESPONSE => write_copy_fail(dialog.out(), COPY_FAIL),
            _ => {}
        }
    }
    dialog.finish(&mut backend.state)?;
    match dialog.is_between_messages() {
        true => Ok(status),
        false => Err(CommandError::Protocol("part of a message after the last ReadyForQuery".to_owned())),
    }
}

async fn discard_all(backend: &mut Backend, mut status: TransactionStatus) -> Result<(), ResetError> {
    if status == TransactionStatus::Idle {
        let answer = query(backend, "DISCARD ALL").await?;
        match (answer.error, answer.status) {
            (None, TransactionStatus::Idle) => return discarded(backend),
            (Some(report), TransactionStatus::Idle) => return Err(CommandError::Server(report).into()),
            (_, open) => status = open,
        }
    }
    // Not before it is known to be needed: outside of a transaction it puts a warning into the server's log.
    debug_assert_ne!(status, TransactionStatus::Idle);
    command(backend, "ROLLBACK").await?;
    command(backend, "DISCARD ALL").await?;
    discarded(backend)
}

async fn command(backend: &mut Backend, sql: &str) -> Result<(), CommandError> {
    let answer = query(backend, sql).await?;
    match (answer.error, answer.status) {
        (None, TransactionStatus::Idle) => Ok(()),
        (Some(report), _) => Err(CommandError::Server(report)),
        (None, _) => Err(CommandError::Protocol(format!("a transaction is open after {sql}"))),
    }
}

fn discarded(backend: &mut Backend) -> Result<(), ResetError> {
    backend.state.discarded();
    Ok(())
}

/// How long a cancelled query may take to end before it is asked again.
const CANCEL_AGAIN: Duration = Duration::from_secs(1);

/// A name that no statement has.
const NO_STATEMENT: &[u8] = b"pglagoon: the client is gone";

const COPY_FAIL: &str = "the client is gone";

/// The longest message that is of interest while draining, in bytes; a longer one is skipped.
const KEEP: usize = 8 * 1024;
