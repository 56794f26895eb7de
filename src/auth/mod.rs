//! Authentication, both sides: who may log in, and how pglagoon itself logs in to servers. Pure.
//!
//! ```text
//! client --user, TLS facts--> Login::begin -> Ask      [rules: which challenge; keys: KeyRing]
//! client --'p' bodies------> Login::message -> Reply   [scram::ScramServer, md5, secret]
//!                            Reply::Admitted(ServerCredential)
//! server --Authentication*-> ScramClient | md5::response | ServerCredential::clear_text
//! ```
//!
//! Invariants: randomness and time are arguments; a user that does not exist is asked exactly what an existing one is
//! asked, and fails in the same place with the same error; secrets are compared in constant time, and no type here
//! shows one through `Debug` or an error.

mod credential;
mod login;
pub mod md5;
pub mod rules;
pub mod scram;
pub mod secret;

pub use credential::{ScramKeys, ServerCredential};
pub use login::{Admitted, Ask, Entropy, Login, Refusal, Reply};
pub use rules::{Certificate, Channel};
pub use scram::{KeyRing, ScramClient, ScramError, Seed};
