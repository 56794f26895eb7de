//! The longer texts: for people who want to know why before they read how.
//!
//! - [`life_of_a_query`]: the way of one query through the rooms
//! - [`causality`]: what a read may return, and where that is kept
//! - [`failover`]: what clients notice when a server goes away
//! - [`many_cores`]: what 16 and 64 cores would meet with, and what is to be done then
//! - [`hazards`]: what went wrong elsewhere, and where it is prevented here
//! - [`decisions`]: what was decided, when and why

pub mod causality;
pub mod decisions;
pub mod failover;
pub mod hazards;
pub mod life_of_a_query;
pub mod many_cores;
