//! One connection: TCP or Unix-domain socket, in the clear or encrypted.
//!
//! A plain stream does one `recv` per readable event and none in vain: tokio forgets a socket's readiness after a short
//! read, and [`Stream::poll_readable`] asks for readiness without a system call, so that no buffer need be held before
//! there is something to read. An idle plain stream is a few words; the state of TLS is boxed.

use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

/// A connection to a client or to a server.
#[derive(Debug)]
pub struct Stream(Layer);

#[derive(Debug)]
enum Layer {
    Plain(Socket),
    Tls(Box<Encrypted>),
}

#[derive(Debug)]
struct Encrypted {
    stream: TlsStream<Socket>,
    peer_name: Option<Box<str>>,
    end_point: Option<Arc<[u8]>>,
}

/// Who is at the other end of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A client.
    Client,
    /// A PostgreSQL server: unanswered data closes the connection after a minute and a half.
    Server,
}

/// One end of a connection. Small: each client has two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Of a TCP connection over IPv4, however the system writes its address.
    V4(SocketAddrV4),
    /// Of any other TCP connection.
    V6(Box<SocketAddrV6>),
    /// Of a Unix-domain socket.
    Unix,
    /// The connection ended before anybody asked.
    Gone,
}

impl Endpoint {
    /// The address of TCP.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Endpoint::V4(address) => Some(SocketAddr::V4(*address)),
            Endpoint::V6(address) => Some(SocketAddr::V6(**address)),
            Endpoint::Unix | Endpoint::Gone => None,
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Endpoint::V4(address) => address.fmt(f),
            Endpoint::V6(address) => address.fmt(f),
            Endpoint::Unix => f.write_str("unix"),
            Endpoint::Gone => f.write_str("gone"),
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        let (address, port) = (address.ip().to_canonical(), address.port());
        match SocketAddr::new(address, port) {
            SocketAddr::V4(address) => Endpoint::V4(address),
            SocketAddr::V6(address) => Endpoint::V6(Box::new(address)),
        }
    }
}

/// What [`Stream::glance`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Nothing, and the connection stands.
    Nothing,
    /// The end, or an error.
    Closed,
    /// This many bytes, now in the buffer.
    Data(usize),
}

impl Stream {
    /// A connected TCP socket, with small messages sent at once and dead peers noticed.
    ///
    /// # Errors
    /// Options that the socket does not take: it is closed already.
    pub fn tcp(socket: TcpStream, side: Side) -> io::Result<Self> {
        set_options(SockRef::from(&socket))?;
        #[cfg(target_os = "linux")]
        if side == Side::Server {
            SockRef::from(&socket).set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        }
        let _ = side;
        Ok(Stream(Layer::Plain(Socket::Tcp(socket))))
    }

    /// A client's TCP socket, from a listening socket that [`set_options`] has prepared: Linux hands its options down.
    ///
    /// # Errors
    /// Elsewhere, as [`tcp`](Self::tcp).
    pub fn accepted(socket: TcpStream) -> io::Result<Self> {
        if cfg!(target_os = "linux") {
            return Ok(Stream(Layer::Plain(Socket::Tcp(socket))));
        }
        Stream::tcp(socket, Side::Client)
    }

    /// A connected Unix-domain socket.
    pub fn unix(socket: UnixStream) -> Self {
        Stream(Layer::Plain(Socket::Unix(socket)))
    }

    pub(super) fn tls(
        stream: TlsStream<Socket>,
        peer_name: Option<Box<str>>,
        end_point: Option<Arc<[u8]>>,
    ) -> Self {
        Stream(Layer::Tls(Box::new(Encrypted { stream, peer_name, end_point })))
    }

    /// The socket alone, to be handed to another process; refused if there is TLS.
    ///
    /// # Errors
    /// It is encrypted, or lost.
    pub fn into_descriptor(self) -> io::Result<OwnedFd> {
        match self.into_socket()? {
            Socket::Tcp(socket) => socket.into_std().map(OwnedFd::from),
            Socket::Unix(socket) => socket.into_std().map(OwnedFd::from),
            Socket::Homeless(_) => Err(homeless()),
        }
    }

    /// The socket, to put TLS on; refused if there is TLS already.
    pub(super) fn into_socket(self) -> io::Result<Socket> {
        match self.0 {
            Layer::Plain(socket) => Ok(socket),
            Layer::Tls(_) => Err(io::Error::other("the connection is encrypted already")),
        }
    }

    /// Ready when a read may succeed or would tell of the end, without reading and without a system call.
    ///
    /// It may be ready in vain: with TLS for a record that carries nothing for us, and once on a socket that was just
    /// accepted, which tokio takes for readable because clients speak first.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Layer::Plain(socket) => socket.poll_readable(cx),
            Layer::Tls(tls) => {
                let (socket, state) = tls.stream.get_ref();
                // rustls wants no more while it holds plaintext, and after the other side's goodbye.
                if state.wants_read() { socket.poll_readable(cx) } else { Poll::Ready(Ok(())) }
            }
        }
    }

    /// Reads what there is into `buffer`; 0 is the end (and what an empty `buffer` gives).
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let read = match &mut self.0 {
            Layer::Plain(socket) => Pin::new(socket).poll_read(cx, &mut buffer),
            Layer::Tls(tls) => Pin::new(&mut tls.stream).poll_read(cx, &mut buffer),
        };
        match ready!(read) {
            Ok(()) => Poll::Ready(Ok(buffer.filled().len())),
            // TLS ended without a goodbye. The protocol's own framing tells whether something is missing.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// The same at once, after [`Stream::poll_readable`] has said that it is ready: that one sees to it that a task which
    /// always finds something to read lets others have their turn.
    pub fn poll_read_arrived(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Layer::Plain(socket) = &self.0 {
            match socket.read_what_is_there(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
        self.poll_read(cx, buffer)
    }

    /// Writes some of `bytes`. With TLS that is one record at most, and [`Stream::poll_flush`] must follow sometime.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Layer::Plain(socket) => match socket.try_write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => Pin::new(socket).poll_write(cx, bytes),
                written => Poll::Ready(written),
            },
            Layer::Tls(tls) => {
                let record = &bytes[..bytes.len().min(TLS_RECORD)];
                Pin::new(&mut tls.stream).poll_write(cx, record)
            }
        }
    }

    /// Pushes out what TLS still holds; without TLS there is nothing to do.
    #[inline]
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Layer::Plain(_) => Poll::Ready(Ok(())),
            Layer::Tls(tls) => Pin::new(&mut tls.stream).poll_flush(cx),
        }
    }

    /// Says goodbye: nothing more is written. The other direction stays open.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Layer::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Layer::Tls(tls) => Pin::new(&mut tls.stream).poll_shutdown(cx),
        }
    }

    /// Writes all of `bytes` and flushes.
    ///
    /// # Cancel safety
    /// None: an unknown part may have been written.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match poll_fn(|cx| self.poll_write(cx, bytes)).await? {
                0 => return Err(ErrorKind::WriteZero.into()),
                written => bytes = &bytes[written..],
            }
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Reads what there is; 0 is the end.
    ///
    /// # Cancel safety
    /// Nothing is lost: either the read is done or it is not.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buffer)).await
    }

    /// Says goodbye, see [`Stream::poll_shutdown`].
    ///
    /// # Errors
    /// What the socket says.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    /// Looks, without waiting, at a connection on which nothing should happen. No system call if nothing did.
    ///
    /// What the runtime has not yet been told by the kernel is not seen: right after [`Stream::rehome`], which looks for
    /// itself, that is everything.
    pub fn glance(&mut self, buffer: &mut [u8]) -> Arrival {
        let read = match &mut self.0 {
            Layer::Plain(socket) => socket.try_read(buffer),
            // The socket may be readable for a record that carries nothing for us, so TLS must do the reading. Outside
            // the task's budget, which would make "not now" out of "nothing there".
            Layer::Tls(_) => {
                let reading =
                    pin!(tokio::task::coop::unconstrained(poll_fn(|cx| self.poll_read(cx, buffer))));
                match reading.poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(read) => read,
                    Poll::Pending => return Arrival::Nothing,
                }
            }
        };
        match read {
            Ok(0) => Arrival::Closed,
            Ok(count) => Arrival::Data(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Arrival::Nothing,
            Err(_) => Arrival::Closed,
        }
    }

    /// Writes `bytes` if that takes no waiting; for a last word before the connection is dropped.
    pub fn write_if_ready(&mut self, bytes: &[u8]) {
        let cx = &mut Context::from_waker(Waker::noop());
        if let Poll::Ready(Ok(_)) = self.poll_write(cx, bytes) {
            let _ = self.poll_flush(cx);
        }
    }

    /// Takes the socket out of its reactor: until [`watch`](Self::watch) every use of the stream is an error.
    ///
    /// # Errors
    /// What the reactor says. The socket is lost then.
    pub fn unwatch(&mut self) -> io::Result<()> {
        self.socket_mut().unwatch()
    }

    /// Puts it into the reactor of the runtime that this is called on. What came meanwhile is still to be read.
    ///
    /// # Errors
    /// What the reactor says, or that there is no socket. The stream stays unusable then.
    pub fn watch(&mut self) -> io::Result<()> {
        self.socket_mut().watch()
    }

    /// Moves an idle connection's socket to the reactor of the runtime that this is called on.
    ///
    /// # Errors
    /// What registering it says, or that the connection is not idle: it has ended, or something came. The stream is then
    /// unusable, and every use of it an error.
    pub fn rehome(&mut self) -> io::Result<()> {
        self.socket_mut().rehome()
    }

    /// The number of its socket, if bytes go to it as they are.
    pub(super) fn plain_socket(&self) -> Option<RawFd> {
        match &self.0 {
            Layer::Plain(socket) => socket.number(),
            Layer::Tls(_) => None,
        }
    }

    /// The number of its socket, if it has one: to be watched by others while no reactor does.
    pub fn number(&self) -> Option<RawFd> {
        self.socket().number()
    }

    /// Whether it is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self.0, Layer::Tls(_))
    }

    /// Protocol and cipher, like `TLSv1.3/TLS_AES_256_GCM_SHA384`.
    pub fn tls_info(&self) -> Option<String> {
        let Layer::Tls(tls) = &self.0 else { return None };
        let (_, state) = tls.stream.get_ref();
        let version = format!("{:?}", state.protocol_version()?).replace("TLSv1_", "TLSv1.");
        let suite = format!("{:?}", state.negotiated_cipher_suite()?.suite()).replace("TLS13_", "TLS_");
        Some(format!("{version}/{suite}"))
    }

    /// The protocol that TLS agreed on, if any.
    pub(super) fn alpn(&self) -> Option<&[u8]> {
        match &self.0 {
            Layer::Plain(_) => None,
            Layer::Tls(tls) => tls.stream.get_ref().1.alpn_protocol(),
        }
    }

    /// The common name of the client's certificate, if it showed one that a configured authority signed.
    pub fn peer_name(&self) -> Option<&str> {
        match &self.0 {
            Layer::Plain(_) => None,
            Layer::Tls(tls) => tls.peer_name.as_deref(),
        }
    }

    /// What a client's channel binding binds to: our certificate, hashed as `tls-server-end-point` says. `None` without TLS,
    /// if its signature does not tell by what, and towards servers.
    pub fn end_point(&self) -> Option<&Arc<[u8]>> {
        match &self.0 {
            Layer::Plain(_) => None,
            Layer::Tls(tls) => tls.end_point.as_ref(),
        }
    }

    /// Whether the other end is on a Unix-domain socket.
    pub fn is_unix(&self) -> bool {
        matches!(self.socket(), Socket::Unix(_))
    }

    /// The other end. Asks the system.
    pub fn peer(&self) -> Endpoint {
        self.socket().endpoint(TcpStream::peer_addr)
    }

    /// This end. Asks the system.
    pub fn local(&self) -> Endpoint {
        self.socket().endpoint(TcpStream::local_addr)
    }

    fn socket(&self) -> &Socket {
        match &self.0 {
            Layer::Plain(socket) => socket,
            Layer::Tls(tls) => tls.stream.get_ref().0,
        }
    }

    fn socket_mut(&mut self) -> &mut Socket {
        match &mut self.0 {
            Layer::Plain(socket) => socket,
            Layer::Tls(tls) => tls.stream.get_mut().0,
        }
    }
}

/// What carries the bytes.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// In no reactor. Nothing is left of one that was lost on the way from one to another.
    Homeless(Option<Unwatched>),
}

/// A socket that no runtime watches.
#[derive(Debug)]
pub(super) enum Unwatched {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    fn number(&self) -> Option<RawFd> {
        Some(match self {
            Socket::Tcp(socket) => socket.as_raw_fd(),
            Socket::Unix(socket) => socket.as_raw_fd(),
            Socket::Homeless(Some(Unwatched::Tcp(socket))) => socket.as_raw_fd(),
            Socket::Homeless(Some(Unwatched::Unix(socket))) => socket.as_raw_fd(),
            Socket::Homeless(None) => return None,
        })
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(socket) => socket.poll_read_ready(cx),
            Socket::Unix(socket) => socket.poll_read_ready(cx),
            Socket::Homeless(_) => Poll::Ready(Err(homeless())),
        }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.try_read(buffer),
            Socket::Unix(socket) => socket.try_read(buffer),
            Socket::Homeless(_) => Err(homeless()),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.try_write(bytes),
            Socket::Unix(socket) => socket.try_write(bytes),
            Socket::Homeless(_) => Err(homeless()),
        }
    }

    /// Reads without a waker's being kept. After a short read nothing is left: the next question for readiness has to wait
    /// for news from the kernel, and costs no system call.
    fn read_what_is_there(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.try_read(buffer)?;
        if 0 < count && count < buffer.len() {
            let drained = || Err::<(), _>(ErrorKind::WouldBlock.into());
            let _ = match self {
                Socket::Tcp(socket) => socket.try_io(Interest::READABLE, drained),
                Socket::Unix(socket) => socket.try_io(Interest::READABLE, drained),
                Socket::Homeless(_) => Ok(()),
            };
        }
        Ok(count)
    }

    fn rehome(&mut self) -> io::Result<()> {
        self.unwatch()?;
        let silence = match &*self {
            Socket::Homeless(Some(Unwatched::Tcp(socket))) => expect_silence(SockRef::from(socket)),
            Socket::Homeless(Some(Unwatched::Unix(socket))) => expect_silence(SockRef::from(socket)),
            _ => Err(homeless()),
        };
        // Who has spoken out of turn is not listened to again.
        silence.inspect_err(|_| *self = Socket::Homeless(None))?;
        self.watch()
    }

    fn unwatch(&mut self) -> io::Result<()> {
        let unwatched = match std::mem::replace(self, Socket::Homeless(None)) {
            Socket::Tcp(socket) => Unwatched::Tcp(socket.into_std()?),
            Socket::Unix(socket) => Unwatched::Unix(socket.into_std()?),
            Socket::Homeless(socket) => socket.ok_or_else(homeless)?,
        };
        *self = Socket::Homeless(Some(unwatched));
        Ok(())
    }

    fn watch(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Socket::Homeless(None)) {
            Socket::Homeless(Some(Unwatched::Tcp(socket))) => Socket::Tcp(TcpStream::from_std(socket)?),
            Socket::Homeless(Some(Unwatched::Unix(socket))) => Socket::Unix(UnixStream::from_std(socket)?),
            Socket::Homeless(None) => return Err(homeless()),
            watched => watched,
        };
        Ok(())
    }

    fn endpoint(&self, end: impl Fn(&TcpStream) -> io::Result<SocketAddr>) -> Endpoint {
        match self {
            Socket::Tcp(socket) => match end(socket) {
                Ok(address) => address.into(),
                Err(_) => Endpoint::Gone,
            },
            Socket::Unix(_) => Endpoint::Unix,
            Socket::Homeless(_) => Endpoint::Gone,
        }
    }
}

/// The new reactor knows nothing of the socket yet, so that the kernel must be asked.
fn expect_silence(socket: SockRef<'_>) -> io::Result<()> {
    match socket.peek(&mut [MaybeUninit::uninit()]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("the connection ended or spoke while it was idle")),
    }
}

fn homeless() -> io::Error {
    io::Error::new(ErrorKind::NotConnected, "the socket was lost between two runtimes")
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            Socket::Unix(socket) => Pin::new(socket).poll_read(cx, buffer),
            Socket::Homeless(_) => Poll::Ready(Err(homeless())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Socket::Unix(socket) => Pin::new(socket).poll_write(cx, bytes),
            Socket::Homeless(_) => Poll::Ready(Err(homeless())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, pieces),
            Socket::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, pieces),
            Socket::Homeless(_) => Poll::Ready(Err(homeless())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Homeless(_) => Poll::Ready(Err(homeless())),
        }
    }
}

/// Silence after which a peer is asked for a sign of life.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
#[cfg(not(target_os = "openbsd"))]
const KEEPALIVE_PROBES: u32 = 3;

/// Small messages are sent at once, and dead peers noticed.
///
/// # Errors
/// Options that the socket does not take.
pub fn set_options(socket: SockRef<'_>) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    #[cfg(not(target_os = "openbsd"))]
    let keepalive = keepalive.with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_nodelay(true)
}

/// How long a server may leave data unacknowledged: keepalive alone does not see a peer that vanished while data was
/// on its way to it. As long as keepalive takes to find the same; Linux counts it for keepalive's probes too.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(90);

/// The most that one TLS record carries, in bytes (RFC 8446, section 5.1).
const TLS_RECORD: usize = 16 * 1024;

/// For those who bring their own loop, such as the console.
impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = ready!(Stream::poll_read(self.get_mut(), cx, buffer.initialize_unfilled()))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Stream::poll_write(self.get_mut(), cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Stream::poll_flush(self.get_mut(), cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Stream::poll_shutdown(self.get_mut(), cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        (Stream::tcp(connected, Side::Server).unwrap(), accepted)
    }

    /// Polls once, waking nobody.
    fn poll_once<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_plain_stream_is_small() {
        assert!(size_of::<Stream>() <= 48, "{}", size_of::<Stream>());
    }

    #[tokio::test]
    async fn options_are_set_on_the_socket() {
        let (stream, _peer) = pair().await;
        let Socket::Tcp(socket) = stream.socket() else { panic!() };
        let options = SockRef::from(socket);
        assert!(socket.nodelay().unwrap() && options.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        {
            assert_eq!(options.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
            assert_eq!(options.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
            assert_eq!(options.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
            assert_eq!(options.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        }
        let (Some(peer), Some(local)) = (stream.peer().tcp(), stream.local().tcp()) else { panic!() };
        assert!(peer.ip().is_loopback() && peer.port() != local.port());
    }

    #[tokio::test]
    async fn an_accepted_socket_has_its_listeners_options() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        set_options(SockRef::from(&listener)).unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = Stream::accepted(listener.accept().await.unwrap().0).unwrap();
        let Socket::Tcp(socket) = stream.socket() else { panic!() };
        let options = SockRef::from(socket);
        assert!(socket.nodelay().unwrap() && options.keepalive().unwrap());
        assert_eq!(options.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(options.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(options.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
    }

    #[tokio::test]
    async fn a_short_read_is_the_last_one_until_more_comes() {
        let (mut stream, peer) = pair().await;
        assert!(poll_once(|cx| stream.poll_readable(cx)).is_pending());
        peer.try_write(b"abc").unwrap();
        poll_fn(|cx| stream.poll_readable(cx)).await.unwrap();
        let mut buffer = [0; 16];
        assert!(matches!(poll_once(|cx| stream.poll_read(cx, &mut buffer)), Poll::Ready(Ok(3))));
        // Bytes that come now are not seen before the reactor ran: readiness was forgotten without asking the kernel.
        peer.try_write(b"def").unwrap();
        assert!(poll_once(|cx| stream.poll_readable(cx)).is_pending());
        poll_fn(|cx| stream.poll_readable(cx)).await.unwrap();
        assert_eq!(stream.read_some(&mut buffer).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_glance_tells_silence_data_and_the_end_apart() {
        let (mut stream, peer) = pair().await;
        let mut buffer = [0; 16];
        assert_eq!(stream.glance(&mut buffer), Arrival::Nothing);
        peer.try_write(b"abc").unwrap();
        poll_fn(|cx| stream.poll_readable(cx)).await.unwrap();
        assert_eq!(stream.glance(&mut buffer), Arrival::Data(3));
        assert_eq!(stream.glance(&mut buffer), Arrival::Nothing);
        drop(peer);
        poll_fn(|cx| stream.poll_readable(cx)).await.unwrap();
        assert_eq!(stream.glance(&mut buffer), Arrival::Closed);
    }

    #[tokio::test]
    async fn what_comes_while_nobody_watches_is_read_afterwards() {
        let (mut stream, peer) = pair().await;
        stream.unwatch().unwrap();
        stream.unwatch().unwrap();
        let mut buffer = [0; 16];
        assert!(matches!(poll_once(|cx| stream.poll_read(cx, &mut buffer)), Poll::Ready(Err(_))));
        peer.try_write(b"abc").unwrap();
        assert!(stream.number().is_some());
        stream.watch().unwrap();
        stream.watch().unwrap();
        poll_fn(|cx| stream.poll_readable(cx)).await.unwrap();
        assert_eq!(stream.read_some(&mut buffer).await.unwrap(), 3);
    }

    #[test]
    fn a_stream_moves_from_one_runtime_to_another() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (first, second) = (runtime(), runtime());
        let (mut stream, peer) = first.block_on(pair());
        second.block_on(async {
            stream.rehome().unwrap();
            first.shutdown_background();
            let peer = peer.into_std();
            let write = tokio::spawn(async move {
                stream.write_all(b"abc").await.unwrap();
                let mut buffer = [0; 16];
                stream.read_some(&mut buffer).await.unwrap()
            });
            // The peer's runtime is gone; its socket is still a socket.
            let mut peer = peer.unwrap();
            peer.set_nonblocking(false).unwrap();
            let echo = tokio::task::spawn_blocking(move || {
                use std::io::{Read, Write};
                let mut buffer = [0; 3];
                peer.read_exact(&mut buffer).unwrap();
                peer.write_all(&buffer).unwrap();
                peer
            });
            assert_eq!(tokio::time::timeout(Duration::from_secs(10), write).await.unwrap().unwrap(), 3);
            echo.await.unwrap();
        });
    }

    #[tokio::test]
    async fn a_connection_that_has_ended_does_not_move() {
        let (mut silent, _peer) = pair().await;
        silent.rehome().unwrap();
        let (mut ended, peer) = pair().await;
        drop(peer);
        poll_fn(|cx| ended.poll_readable(cx)).await.unwrap();
        assert!(ended.rehome().is_err());
        let (mut spoken, peer) = pair().await;
        peer.try_write(b"E").unwrap();
        poll_fn(|cx| spoken.poll_readable(cx)).await.unwrap();
        assert!(spoken.rehome().is_err());
    }
}
