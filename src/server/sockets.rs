//! The sockets that are listened on: bound here, opened by systemd, or taken over from the process before.

use super::{ServeError, setup};
use crate::config::{self, Config};
use crate::frontend::listener::Listener;
use crate::net::set_options;
use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Connections that the kernel holds for us before we accept them.
const BACKLOG: i32 = 4096;

/// All that a process listens on.
pub(super) struct Sockets {
    pub(super) listeners: Arc<Vec<Listener>>,
    pub(super) http: Option<TcpListener>,
    /// The Unix-domain socket's file, if it is ours to remove.
    pub(super) file: Option<PathBuf>,
}

/// Listening sockets that were there before us.
#[derive(Default)]
pub(super) struct Inherited {
    sockets: Vec<OwnedFd>,
    /// Who made the Unix-domain socket's file.
    pub(super) file: FileOf,
}

/// Who has made the Unix-domain socket's file, and removes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum FileOf {
    /// systemd, or whoever else has opened the sockets.
    #[default]
    Others,
    /// The process before, which leaves it to us.
    Predecessor,
}

impl Inherited {
    /// What another process has handed to us.
    pub(super) fn new(sockets: Vec<OwnedFd>, file: FileOf) -> Inherited {
        Inherited { sockets, file }
    }

    /// What systemd has opened for us. To be called before there are other threads: it takes the variables out of the
    /// environment.
    ///
    /// Source: `sd_listen_fds(3)`.
    pub(super) fn from_environment() -> Inherited {
        let mut given = ListenFd::from_env();
        let mut sockets = Vec::new();
        for place in 0..given.len() {
            let tcp = given.take_tcp_listener(place).ok().flatten().map(OwnedFd::from);
            let unix = || given.take_unix_listener(place).ok().flatten().map(OwnedFd::from);
            sockets.extend(tcp.or_else(unix));
        }
        Inherited { sockets, file: FileOf::Others }
    }

    fn take(&mut self, is_it: impl Fn(&socket2::SockAddr) -> bool) -> Option<OwnedFd> {
        let place = self
            .sockets
            .iter()
            .position(|socket| SockRef::from(socket).local_addr().is_ok_and(|address| is_it(&address)))?;
        Some(self.sockets.remove(place))
    }

    fn tcp(&mut self, wanted: SocketAddr) -> Option<std::net::TcpListener> {
        self.take(|address| address.as_socket() == Some(wanted)).map(std::net::TcpListener::from)
    }

    fn unix(&mut self, wanted: &Path) -> Option<UnixListener> {
        let found = self.take(|address| address.as_pathname() == Some(wanted))?;
        Some(UnixListener::from(found))
    }
}

impl Sockets {
    /// What the configuration says: taken from `inherited` where it is there, else bound.
    ///
    /// # Errors
    /// An address that cannot be had.
    pub(super) fn open(config: &Config, mut inherited: Inherited) -> Result<Sockets, ServeError> {
        let mut listeners = Vec::new();
        let mut file = None;
        for address in &config.listen.addresses {
            listeners.push(Listener::Tcp(tcp("listen.address", *address, &mut inherited)?));
        }
        if let Some(unix) = &config.listen.unix {
            let path = unix.directory.join(config::values::socket_file(unix.port));
            let (listener, is_ours) = match inherited.unix(&path) {
                Some(listener) => (adopt_unix(listener), inherited.file == FileOf::Predecessor),
                None => (bind_unix(&path, unix.mode), true),
            };
            let listener =
                listener.map_err(|error| refused("listen.unix_directory", path.display(), &error))?;
            listeners.push(Listener::Unix(listener));
            file = Some(path).filter(|_| is_ours);
        }
        let http = config.http.as_ref().map(|http| tcp("http.address", http.address, &mut inherited));
        let http = http.transpose()?.map(TcpListener::from_std).transpose();
        let http = http.map_err(|error| setup("http.address", &error))?;
        if !inherited.sockets.is_empty() {
            let count = inherited.sockets.len();
            tracing::warn!(
                count,
                "sockets were handed to us that the configuration does not name: they are closed"
            );
        }
        Ok(Sockets { listeners: Arc::new(listeners), http, file })
    }

    /// All of them, for the next process.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let listeners = self.listeners.iter().map(AsFd::as_fd);
        listeners.chain(self.http.as_ref().map(AsFd::as_fd)).collect()
    }
}

/// The socket for an address that `key` of the configuration names.
fn tcp(
    key: &str,
    address: SocketAddr,
    inherited: &mut Inherited,
) -> Result<std::net::TcpListener, ServeError> {
    let listener = inherited.tcp(address).map_or_else(|| bind(address), Ok).and_then(|listener| {
        listener.set_nonblocking(true)?;
        set_options(SockRef::from(&listener))?;
        Ok(listener)
    });
    listener.map_err(|error| refused(key, address, &error))
}

fn refused(key: &str, place: impl Display, error: &io::Error) -> ServeError {
    setup(&format!("{key}: cannot listen on {place}"), error)
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn adopt_unix(listener: UnixListener) -> io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    // A file without a listener behind it is left over from a crash.
    if std::os::unix::net::UnixStream::connect(path).is_err() {
        let _ = std::fs::remove_file(path);
    }
    let listener = adopt_unix(UnixListener::bind(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}
