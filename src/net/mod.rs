//! Sockets, TLS and buffers.
//!
//! [`Stream`] is one connection, to a client or to a server, whatever it runs over; [`tls`] turns the configuration into
//! what encrypts it; [`Outbox`] sends together what tasks send at the same time; [`Shelf`] keeps the buffers that idle
//! connections do not own.

mod certificate;
pub mod courier;
pub mod outbox;
mod resolver;
mod shelf;
mod stream;
pub mod tls;

pub use courier::Courier;
pub use outbox::Outbox;
pub use resolver::Resolver;
pub use shelf::{Buffer, Shelf};
pub use stream::{Arrival, Endpoint, Side, Stream, set_options};
pub use tls::{Acceptor, Connector};
