//! The session without sockets: golden conversations, properties and a seeded simulation, all against a scripted model of
//! PostgreSQL that speaks the protocol as PostgreSQL does.

mod losses;
mod model;
mod notation;
mod properties;
mod relay;
mod script;
mod simulation;
mod transcripts;
