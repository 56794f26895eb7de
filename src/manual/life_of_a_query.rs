//! The life of a query.
//!
//! 1. **In.** [`crate::frontend::listener`] accepts a socket on the first worker and hands it to the worker with
//!    the fewest clients. There [`crate::frontend::handshake`] reads the startup packet, checks who it is
//!    ([`crate::auth::Login`]) and asks the database's pools for a greeting: what a server reports after a login with these
//!    settings ([`crate::cluster::UserPools::greeting`]). Then the client is told so, and [`crate::frontend::relay`] begins.
//! 2. **Idle.** The relay's task waits for the socket. It owns no buffer.
//! 3. **A request.** Bytes are read into a buffer from the worker's shelf and shown to the client's
//!    [`crate::session::Session`]. It finds a Query, has its text classified ([`crate::sql`], by fingerprint, mostly from the
//!    cache) and asks [`crate::routing::route`] where that may run. The answer to the relay is `Want::Lease(route)`: not one
//!    byte has been consumed.
//! 4. **A connection.** [`crate::cluster::UserPools`] picks the server that the route allows, and its
//!    [`crate::pool::Pool`] lends a connection: at once if one is idle, else in the order of arrival.
//! 5. **Out to the server.** The session looks at the same bytes again, now with a connection in hand. Its edits put what
//!    the connection lacks ahead of the request (settings, a Parse), and forward the rest. The relay posts all of it: it
//!    leaves when the worker's other tasks have had their turn, with what they sent ([`crate::net::outbox`]).
//! 6. **Back.** The server's bytes are walked by their headers. The [`session`](crate::session)'s queue of what the server
//!    owes says which answers are the client's and which are pglagoon's own. They go to the client in the same way;
//!    what is longer than 4 KiB is written at once, straight from the buffer that it was read into.
//! 7. **Let go.** ReadyForQuery says idle, nothing is owed, nothing pins: `Want::Return`. The connection goes to whoever
//!    waits first, or onto the stack of idle ones, and the buffers go back to the shelf.
//!
//! That is two reads and two sends per query, and fewer system calls than that the more clients there are.
