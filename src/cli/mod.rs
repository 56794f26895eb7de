//! One file per subcommand.

pub mod check;
pub mod demo;
pub mod drill;
pub mod explain;
pub mod playground;
pub mod serve;
