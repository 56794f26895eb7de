//! Sockets, TLS and buffers.
//!
//! [`Stream`] is one connection, to a client or to a server, whatever it runs over; [`tls`] turns the configuration into
//! what encrypts it; [`Shelf`] keeps the buffers that idle connections do not own.

mod certificate;
pub mod courier;
mod shelf;
mod stream;
pub mod tls;

pub use courier::Courier;
pub use shelf::{BUFFER_SIZE, Buffer, Shelf};
pub use stream::{Arrival, Endpoint, Side, Stream, set_options};
pub use tls::{Acceptor, Connector};
