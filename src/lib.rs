//! pglagoon: a PostgreSQL connection pooler that knows where each statement may run.
//!
//! The rooms, in the order in which they may use each other (a room may `use` only rooms named before it;
//! `tests/layers.rs` keeps it so):
//!
//! | room | what it does | touches |
//! |---|---|---|
//! | [`wire`] | PostgreSQL protocol framing, views and writers | nothing |
//! | [`lock`] | mutexes, whoever has panicked | nothing |
//! | [`error`] | the one road of a text to a client | nothing |
//! | [`config`] | a file becomes a `Config`, or errors that name their keys | nothing |
//! | [`sql`] | what a statement's text does | nothing |
//! | [`catalog`] | what the database's own catalog says of names | nothing |
//! | [`prepared`] | prepared statements: shared texts, a client's names, what one server holds | nothing |
//! | [`routing`] | where a statement may run, and on which node | nothing |
//! | [`auth`] | SCRAM and MD5, both sides; who may log in | nothing |
//! | [`session`] | one client's conversation: bytes in, edits and a want out | nothing |
//! | [`metrics`] | plain counters and histograms that the I/O rooms fill | nothing |
//! | [`net`] | sockets, TLS, buffers | sockets |
//! | [`backend`] | one server connection: login, reset, cancel | sockets |
//! | [`pool`] | who gets which server connection, and when | tasks |
//! | [`cluster`] | servers, their roles and health, and their pools | tasks |
//! | [`admin`] | the virtual database, `/metrics`, `/health`, `/ready` | sockets |
//! | [`frontend`] | listeners, the handshake and the relay loop | sockets |
//! | [`runtime`] | the workers: the only file that knows the runtime's shape | threads |
//! | [`server`] | builds the rooms and hands them to each other | all of them |
//! | [`cli`] | one file per subcommand | the terminal |
//!
//! Left of `metrics` nothing is async and nothing names a socket, the clock, randomness or the environment.
//! [`manual`] holds the longer texts: the life of a query, hazards, and dated decisions.

pub mod wire;

pub mod lock;

pub mod error;

pub mod config;

pub mod sql;

pub mod catalog;

pub mod prepared;

pub mod routing;

pub mod auth;

pub mod session;

pub mod metrics;

pub mod net;

pub mod backend;

pub mod pool;

pub mod cluster;

pub mod admin;

pub mod frontend;

pub mod runtime;

pub mod server;

pub mod cli;

pub mod manual;
