//! Asking a server to cancel what one of its connections runs.
//!
//! A CancelRequest has no answer: the server looks at it, signals the backend that it names, and closes. Whoever waits for
//! that close knows that nothing sent to the backend from then on is hit.

use std::fmt;
use std::io;
use std::time::Duration;

use super::connect::{ConnectError, Place, encrypt};
use crate::config::ServerAddress;
use crate::net::{Connector, Stream};
use crate::wire::ServerKey;

/// What one server connection's cancel requests need.
#[derive(Clone)]
pub struct CancelTarget {
    /// The server, as configured.
    pub address: ServerAddress,
    /// The key that the server gave.
    pub key: ServerKey,
    /// Where the connection itself went, of all that the name stands for.
    pub(super) place: Place,
    /// How to encrypt, if the connection itself is.
    pub(super) tls: Option<Connector>,
}

impl fmt::Debug for CancelTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancelTarget({}, {:?})", self.address, self.key)
    }
}

/// The longest that a cancel request may take: a client's own cancel call waits for it.
pub const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends a cancel request and waits until the server has closed that connection, so that it has been acted upon; for at
/// most `within` and [`CANCEL_TIMEOUT`].
///
/// # Errors
/// A server that cannot be reached or does not close in time: a signal may then still be on its way.
pub async fn cancel(target: &CancelTarget, within: Duration) -> Result<(), ConnectError> {
    let request = Box::pin(send(target));
    let time = within.min(CANCEL_TIMEOUT);
    tokio::time::timeout(time, request).await.unwrap_or(Err(ConnectError::Timeout(target.address.clone())))
}

async fn send(target: &CancelTarget) -> Result<(), ConnectError> {
    let failed = |error| ConnectError::Io(target.address.clone(), error);
    let mut stream = target.place.open().await.map_err(failed)?;
    if let Some(tls) = &target.tls {
        stream = encrypt(stream, tls, &target.address).await?;
    }
    stream.write_all(&target.key.request()).await.map_err(failed)?;
    until_closed(stream).await;
    Ok(())
}

/// Whatever the server says is ignored: it may complain that it is out of memory. A reset is a close.
async fn until_closed(mut stream: Stream) {
    let mut ignored = [0; 512];
    loop {
        let read: io::Result<usize> = stream.read_some(&mut ignored).await;
        if matches!(read, Ok(0) | Err(_)) {
            return;
        }
    }
}
