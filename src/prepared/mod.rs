//! Prepared statements that outlive the server connection they were prepared on. Pure.
//!
//! A client's Parse becomes a [`Prepared`], found by its text, its parameter types and the settings that have a part
//! in its analysis: the same for every client ([`Registry`]). A client has names for some of them ([`ClientStatements`]); a
//! server connection holds some of them under names of our own ([`ServerStatements`]), and is sent what it lacks ahead of the
//! message that needs it.

mod client;
mod registry;
mod server;

pub use client::{ClientStatements, Named};
pub use registry::{Analysis, Prepared, Registry, StatementId};
pub use server::ServerStatements;
