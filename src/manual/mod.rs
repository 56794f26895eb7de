//! The longer texts: for people who want to know why before they read how.
//!
//! - [`life_of_a_query`]: the way of one query through the rooms
//! - [`hazards`]: what went wrong elsewhere, and where it is prevented here
//! - [`decisions`]: what was decided, when and why

pub mod decisions;
pub mod hazards;
pub mod life_of_a_query;
