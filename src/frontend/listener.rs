//! Accepting connections and handing them to workers.

use super::passage::{self, Passenger};
use super::{Frontend, Worker, cancel, handshake, replication};
use crate::admin::Rights;
use crate::frontend::clients::Admission;
use crate::net::Stream;
use handshake::Arrived;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// How long to wait after an accept that failed for want of descriptors or memory.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(50);

/// A connection that was accepted, on its way to its worker.
pub enum Accepted {
    /// Over TCP, and watched by the runtime that accepted it.
    Tcp(TcpStream),
    /// The same over a Unix-domain socket.
    Unix(UnixStream),
    /// Over TCP, and watched by no runtime.
    StrayTcp(std::net::TcpStream),
    /// The same over a Unix-domain socket.
    StrayUnix(std::os::unix::net::UnixStream),
    /// By another process, and has logged in there.
    Passenger(Passenger),
}

impl Accepted {
    /// For a worker other than the one that has accepted it; `None`: it is lost.
    pub fn for_another(self) -> Option<Accepted> {
        Some(match self {
            Accepted::Tcp(socket) => Accepted::StrayTcp(socket.into_std().ok()?),
            Accepted::Unix(socket) => Accepted::StrayUnix(socket.into_std().ok()?),
            stray => stray,
        })
    }
}

/// A listening socket, which does not block.
pub enum Listener {
    /// On TCP, prepared by [`set_options`](crate::net::set_options).
    Tcp(std::net::TcpListener),
    /// On a Unix-domain socket.
    Unix(std::os::unix::net::UnixListener),
}

/// One that a runtime watches.
enum Watched {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Accepts until dropped; `hand_over` gets each socket. Errors of single connections, and a lack of descriptors, pass.
    pub async fn run(&self, hand_over: impl Fn(Accepted)) {
        let watched = match self.watched() {
            Ok(watched) => watched,
            Err(error) => {
                tracing::error!(%error, "a listening socket cannot be watched: nobody is let in by it");
                return std::future::pending().await;
            }
        };
        loop {
            match watched.accept().await {
                Ok(accepted) => hand_over(accepted),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "accept failed");
                    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        }
    }

    fn watched(&self) -> io::Result<Watched> {
        Ok(match self {
            Listener::Tcp(socket) => Watched::Tcp(TcpListener::from_std(socket.try_clone()?)?),
            Listener::Unix(socket) => Watched::Unix(UnixListener::from_std(socket.try_clone()?)?),
        })
    }
}

impl Watched {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Watched::Tcp(listener) => Ok(Accepted::Tcp(listener.accept().await?.0)),
            Watched::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(socket) => socket.as_fd(),
            Listener::Unix(socket) => socket.as_fd(),
        }
    }
}

/// A connection's life on the worker that has it, to its end or until its client sleeps. `load` counts it, as long as it lasts.
pub fn serve(
    accepted: Accepted,
    frontend: Arc<Frontend>,
    worker: Rc<Worker>,
    load: Arc<AtomicUsize>,
) -> impl Future<Output = ()> {
    let admission = Admission::new(&frontend, load);
    // What a login takes is large, and gone when the client is in.
    let receiving = Box::pin(receive(accepted, frontend.clone(), worker.clone()));
    async move {
        let Some(arrived) = receiving.await else { return };
        match arrived {
            Arrived::Cancel(canceller) => Box::pin(cancel::serve(*canceller, &frontend.clients)).await,
            Arrived::Console(visitor) => Box::pin(console(*visitor, &frontend)).await,
            Arrived::Replication(replicating) => Box::pin(replication::run(*replicating, &worker)).await,
            Arrived::Client(relay) => return relay.live(admission).await,
        }
        drop(admission);
    }
}

async fn receive(accepted: Accepted, frontend: Arc<Frontend>, worker: Rc<Worker>) -> Option<Arrived> {
    let stream = match accepted {
        Accepted::Tcp(socket) => Stream::accepted(socket).ok()?,
        Accepted::Unix(socket) => Stream::unix(socket),
        Accepted::StrayTcp(socket) => Stream::accepted(TcpStream::from_std(socket).ok()?).ok()?,
        Accepted::StrayUnix(socket) => Stream::unix(UnixStream::from_std(socket).ok()?),
        Accepted::Passenger(passenger) => {
            let boarding = Box::pin(passage::board(passenger, &frontend, &worker));
            return boarding.await.map(Arrived::Client);
        }
    };
    let access = frontend.access.load_full();
    handshake::handshake(stream, &frontend, &access, &worker).await
}

async fn console(mut visitor: handshake::Visitor, frontend: &Frontend) {
    let rights: Rights = visitor.rights;
    let card = visitor.registration.card().clone();
    let served = frontend.console.serve(&mut visitor.stream, visitor.early.filled(), &visitor.user, rights);
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::debug!(%error, "a console connection ended");
        },
        // Whatever the console was about to say is not said: the connection closes.
        () = card.killed() => {}
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, F: Future>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_login_is_of_a_size_that_the_allocator_has_at_hand() {
        // What a thread of glibc keeps for itself: beyond that, each login would have chunks split and merged.
        let size = size_of_future(|(accepted, frontend, worker)| receive(accepted, frontend, worker));
        assert!(size <= 1032, "{size}");
    }
}
