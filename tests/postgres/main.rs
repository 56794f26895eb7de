//! Black-box tests: pglagoon between real clients and real PostgreSQL servers, a primary and two streaming replicas.
//!
//! They run on the newest PostgreSQL that is installed, and some on every installation: see [`harness::installations`].
//! `scripts/test.sh` runs the groups whose outcome may depend on the server's version on the newest one too.

mod auth;
mod bad_input;
mod balance;
mod cancel;
mod certificates;
mod chaos;
mod consistency;
mod console;
mod copy;
mod drill;
mod endurance;
mod explain;
mod farewell;
mod harness;
mod history;
mod holding;
mod http;
mod hung;
mod isolation;
mod lifecycle;
mod listen;
mod many;
mod names;
mod own;
mod patroni;
mod playground;
mod pooling;
mod prepared;
mod promote;
mod protocol;
mod prove;
mod raw;
mod reload;
mod replication;
mod rescue;
mod routing;
mod session_state;
mod sleeping;
mod soak;
mod switchover;
mod tls;
mod truth;
mod upgrade;
