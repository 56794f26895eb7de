//! One server connection: its login, commands of our own on it, cleaning it, and cancelling what it runs.
//!
//! ```text
//!   connect() -> Backend  --lent to a client--> reset::salvage() or nothing owed --> lent again
//!                         --command::run()-->   rows
//!                         --farewell()-->       gone
//! ```
//! A connection on which any function here failed other than by an error of the server itself must be dropped.

pub mod cancel;
pub mod command;
pub mod connect;
mod dialog;
pub mod listen;
pub mod reset;
pub mod usual;

#[cfg(test)]
mod fake;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

pub use cancel::CancelTarget;
pub use command::{CommandError, Rows};
pub use connect::{Abode, ConnectError, Full, Target, connect};
use dialog::Dialog;
pub use listen::{Ear, Heard};
pub use reset::Owed;
pub use usual::Usual;

use crate::config::ServerAddress;
use crate::net::{Arrival, Stream};
use crate::session::server_state::ServerState;
use crate::wire::frontend::write_terminate;

/// A server connection after its login.
#[derive(Debug)]
pub struct Backend {
    /// The connection. Between two uses nothing is unread and nothing unwritten.
    pub stream: Stream,
    /// What the session must know of it.
    pub state: ServerState,
    /// A number of its own; 0 until its pool gives it one.
    pub id: u64,
    /// The server's process id; 0 if it gave none.
    pub pid: i32,
    /// When the login was done.
    pub since: Instant,
    /// The worker on whose runtime the socket is registered; 0 until its pool says.
    pub home: usize,
    /// What others than its user need of it.
    pub remote: Arc<Remote>,
}

/// What others than its user need of a server connection: whoever shows it, and whoever cancels what it runs.
#[derive(Debug)]
pub struct Remote {
    /// The server, as configured.
    pub address: ServerAddress,
    /// What a cancel request needs; `None` if the server gave no key.
    pub cancel: Option<CancelTarget>,
    /// Cancel requests under way that are aimed at it: while there are any, nobody else may use it.
    pub cancels: AtomicUsize,
}

/// How an idle connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// As it should be.
    Quiet,
    /// Closed, or something came that nobody asked for: of no more use.
    Spoilt,
}

impl Backend {
    /// Looks at an idle connection without waiting, see [`Stream::glance`]. What a server may say unasked (parameter
    /// changes after a reload, notices) is taken in; anything else spoils it, a server's farewell first of all.
    pub fn look(&mut self) -> Idle {
        let mut dialog = Dialog::default();
        // Almost always nothing is there.
        let mut buffer = [0; 64];
        loop {
            match self.stream.glance(&mut buffer) {
                Arrival::Closed => return Idle::Spoilt,
                Arrival::Data(count) => match dialog.unasked(&buffer[..count], &mut self.state) {
                    Ok(()) => {}
                    Err(_) => return Idle::Spoilt,
                },
                Arrival::Nothing if dialog.is_between_messages() => return Idle::Quiet,
                Arrival::Nothing => return Idle::Spoilt,
            }
        }
    }

    /// Says goodbye as far as that takes no waiting, and closes.
    pub fn farewell(mut self) {
        let mut bye = Vec::with_capacity(5);
        write_terminate(&mut bye);
        self.stream.write_if_ready(&bye);
    }
}
