//! Commands of our own: one simple Query, or one with a parameter; its rows as text.

use std::fmt;
use std::io;
use std::time::Duration;

use super::connect::server_report;
use super::dialog::DialogError;
use super::{Backend, Dialog};
use crate::error::{ClientVisible, ErrorSource, Report};
use crate::wire::backend::{Fields, TransactionStatus, data_row};
use crate::wire::frontend::{write_copy_fail, write_query, write_question, write_sync};
use crate::wire::{BackendTag, SqlState};

/// The rows of one result: values as text, `None` for NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// The most that the messages of one result's rows may have together, in bytes.
pub const MAX_RESULT: usize = 64 * 1024 * 1024;

/// A command that failed. After anything but `Server` the connection must be dropped.
#[derive(Debug)]
pub enum CommandError {
    /// The server's own error; it has said ReadyForQuery since.
    Server(Report),
    /// The connection broke; with the server's last words, if it had any.
    Io(io::Error, Option<Report>),
    /// It took too long.
    Timeout,
    /// The server said something that has no place in an answer, or too much.
    Protocol(String),
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandError::Server(report) => write!(f, "{report}"),
            CommandError::Io(error, None) => write!(f, "{error}"),
            CommandError::Io(_, Some(report)) => write!(f, "the server closed the connection: {report}"),
            CommandError::Timeout => f.write_str("no answer in time"),
            CommandError::Protocol(what) => write!(f, "protocol violation: {what}"),
        }
    }
}

impl std::error::Error for CommandError {}

impl ClientVisible for CommandError {
    fn report(&self) -> Report {
        let failure = |message| Report::new(ErrorSource::Server, SqlState::CONNECTION_FAILURE, message);
        match self {
            CommandError::Server(report) | CommandError::Io(_, Some(report)) => report.clone(),
            CommandError::Io(_, None) => failure("the server closed the connection"),
            CommandError::Timeout => failure("the server did not answer in time"),
            CommandError::Protocol(_) => failure("the server broke the protocol"),
        }
    }
}

impl From<DialogError> for CommandError {
    fn from(error: DialogError) -> Self {
        match error {
            DialogError::Io(error) => CommandError::Io(error, None),
            DialogError::Framing(error) => CommandError::Protocol(error.to_string()),
            DialogError::LastWords(report) => {
                CommandError::Io(io::ErrorKind::ConnectionReset.into(), Some(*report))
            }
            DialogError::Unexpected(what) => CommandError::Protocol(what.to_owned()),
        }
    }
}

/// Runs `sql` and answers the rows of its last result; none if no statement in it had one.
///
/// # Cancel safety
/// None: dropped halfway, the connection must be dropped too.
///
/// # Errors
/// See [`CommandError`].
pub async fn run(backend: &mut Backend, sql: &str, within: Duration) -> Result<Rows, CommandError> {
    Ok(run_all(backend, sql, within).await?.pop().unwrap_or_default())
}

/// Runs `sql` and answers the rows of each of its results: one per statement that returns rows.
///
/// # Cancel safety
/// None: dropped halfway, the connection must be dropped too.
///
/// # Errors
/// See [`CommandError`].
pub async fn run_all(backend: &mut Backend, sql: &str, within: Duration) -> Result<Vec<Rows>, CommandError> {
    let answer = tokio::time::timeout(within, Box::pin(query(backend, sql)));
    results(answer.await.map_err(|_| CommandError::Timeout)??)
}

/// Runs `sql`, one statement with one parameter, and answers its rows.
///
/// # Cancel safety
/// None: dropped halfway, the connection must be dropped too.
///
/// # Errors
/// See [`CommandError`].
pub async fn ask(
    backend: &mut Backend,
    sql: &str,
    parameter: &str,
    within: Duration,
) -> Result<Rows, CommandError> {
    let answer = Box::pin(converse(backend, |out| {
        write_question(out, sql.as_bytes(), parameter.as_bytes());
        write_sync(out);
    }));
    let answer = tokio::time::timeout(within, answer).await.map_err(|_| CommandError::Timeout)??;
    Ok(results(answer)?.pop().unwrap_or_default())
}

fn results(answer: Answer) -> Result<Vec<Rows>, CommandError> {
    match answer.error {
        None => Ok(answer.results),
        Some(report) => Err(CommandError::Server(report)),
    }
}

/// All that a server said up to ReadyForQuery.
pub(super) struct Answer {
    pub(super) results: Vec<Rows>,
    pub(super) error: Option<Report>,
    pub(super) status: TransactionStatus,
}

pub(super) async fn query(backend: &mut Backend, sql: &str) -> Result<Answer, CommandError> {
    converse(backend, |out| write_query(out, sql.as_bytes())).await
}

async fn converse(backend: &mut Backend, write: impl FnOnce(&mut Vec<u8>)) -> Result<Answer, CommandError> {
    let mut dialog = Dialog::default();
    // A simple Query destroys the unnamed statement, whoever made it; so does a Parse without a name.
    backend.state.statements.set_unnamed(None);
    write(dialog.out());
    let (mut results, mut error) = (Vec::new(), None);
    let status = match answer(backend, &mut dialog, &mut results, &mut error).await {
        Ok(status) => status,
        Err(CommandError::Io(failure, None)) => return Err(CommandError::Io(failure, error)),
        Err(failure) => return Err(failure),
    };
    dialog.finish(&mut backend.state)?;
    match dialog.is_between_messages() {
        true => Ok(Answer { results, error, status }),
        false => Err(CommandError::Protocol("part of a message after ReadyForQuery".to_owned())),
    }
}

async fn answer(
    backend: &mut Backend,
    dialog: &mut Dialog,
    results: &mut Vec<Rows>,
    error: &mut Option<Report>,
) -> Result<TransactionStatus, CommandError> {
    let violation = |what: &str| Err(CommandError::Protocol(what.to_owned()));
    let mut left = MAX_RESULT;
    loop {
        let message = dialog.next(&mut backend.stream, &mut backend.state, left).await?;
        if !message.is_whole {
            return violation("a result of over 64 MiB");
        }
        match message.tag {
            BackendTag::ROW_DESCRIPTION => {
                results.push(Rows::new());
                left = MAX_RESULT;
            }
            BackendTag::DATA_ROW => {
                left = left.saturating_sub(message.body.len() + ROW_COST);
                match (results.last_mut(), data_row(message.body)) {
                    (Some(rows), Some(row)) => rows.push(row),
                    _ => return violation("a malformed DataRow"),
                }
            }
            BackendTag::ERROR_RESPONSE => {
                error.get_or_insert_with(|| server_report(&Fields::new(message.body)));
            }
            BackendTag::READY_FOR_QUERY => {
                return match TransactionStatus::new(message.body) {
                    Some(status) => Ok(status),
                    None => violation("a malformed ReadyForQuery"),
                };
            }
            BackendTag::COPY_IN_RESPONSE => write_copy_fail(dialog.out(), "there is no data"),
            BackendTag::COMMAND_COMPLETE | BackendTag::EMPTY_QUERY_RESPONSE => {}
            BackendTag::PARSE_COMPLETE | BackendTag::BIND_COMPLETE | BackendTag::NO_DATA => {}
            BackendTag::COPY_OUT_RESPONSE | BackendTag::COPY_DATA | BackendTag::COPY_DONE => {}
            _ => return violation("a message that has no place in the answer"),
        }
    }
}

/// What a row costs besides its bytes, so that empty rows do not come for nothing.
const ROW_COST: usize = size_of::<Vec<Option<String>>>() + size_of::<Option<String>>();

#[cfg(test)]
mod tests;
