//! A server connection that listens: notifications come at any time, commands are answered in their order.

use super::connect::server_report;
use super::dialog::{Dialog, Unasked};
use super::{Backend, CommandError};
use crate::error::Report;
use crate::wire::BackendTag;
use crate::wire::backend::{Fields, channel, write_notification};
use crate::wire::frontend::write_query;
use std::sync::Arc;

/// A server connection that listens.
pub struct Ear {
    backend: Backend,
    dialog: Dialog,
    /// The command under way has failed.
    failure: Option<Report>,
}

/// What came from the server.
pub enum Heard {
    /// A notification.
    Notification {
        /// Its channel.
        channel: Arc<str>,
        /// The whole message.
        message: Arc<[u8]>,
    },
    /// The oldest command that was not answered yet is.
    Answered(Result<(), Report>),
}

impl Ear {
    /// Listens on a connection that is of no other use from now on.
    pub fn new(backend: Backend) -> Self {
        Ear { backend, dialog: Dialog::new(Unasked::NotificationsToo), failure: None }
    }

    /// Has [`next`](Self::next) send a command.
    pub fn ask(&mut self, sql: &str) {
        write_query(self.dialog.out(), sql.as_bytes());
    }

    /// What comes next.
    ///
    /// # Cancel safety
    /// Dropped, nothing of what was read or was to be sent is lost.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub async fn next(&mut self) -> Result<Heard, CommandError> {
        loop {
            let Backend { stream, state, .. } = &mut self.backend;
            let received = match self.dialog.next(stream, state, MAX_NOTIFICATION).await {
                Ok(received) if received.is_whole => received,
                Ok(_) => return Err(CommandError::Protocol("an answer of over 64 KiB".to_owned())),
                Err(error) => return Err(lost(error.into(), self.failure.take())),
            };
            match received.tag {
                BackendTag::NOTIFICATION_RESPONSE => {
                    let Some(channel) = channel(received.body) else {
                        return Err(CommandError::Protocol("a malformed NotificationResponse".to_owned()));
                    };
                    let mut bytes = Vec::with_capacity(received.body.len() + 5);
                    write_notification(&mut bytes, received.body);
                    return Ok(Heard::Notification { channel: channel.into(), message: bytes.into() });
                }
                BackendTag::ERROR_RESPONSE => {
                    self.failure = Some(server_report(&Fields::new(received.body)));
                }
                BackendTag::READY_FOR_QUERY => {
                    return Ok(Heard::Answered(self.failure.take().map_or(Ok(()), Err)));
                }
                BackendTag::COMMAND_COMPLETE | BackendTag::EMPTY_QUERY_RESPONSE => {}
                _ => return Err(CommandError::Protocol("an answer that LISTEN does not have".to_owned())),
            }
        }
    }

    /// Says goodbye as far as that takes no waiting, and closes.
    pub fn farewell(self) {
        self.backend.farewell();
    }
}

fn lost(error: CommandError, last_words: Option<Report>) -> CommandError {
    match error {
        CommandError::Io(error, None) => CommandError::Io(error, last_words),
        error => error,
    }
}

/// The longest message that is taken, in bytes; a notification has less than 8 KiB.
const MAX_NOTIFICATION: usize = 64 * 1024;
