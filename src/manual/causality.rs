//! What a read may return, and where each part of that is kept.
//!
//! | level | promise |
//! |---|---|
//! | `primary` | PostgreSQL's own: no splitting |
//! | `session` | a client sees its own writes, never less than it has seen, and effects after their causes |
//! | `strong` | everything that was acknowledged to anybody, through anything, before the read arrived |
//! | `bounded` | data at least as new as the primary's `max_staleness` ago |
//! | `sticky` | reads stay on the primary for a while after the client's last write |
//! | `eventual` | a consistent prefix, within `max_lag` |
//!
//! A transaction that reads on a replica counts as one read, which arrives with its first statement, under READ COMMITTED too.
//!
//! A level is set per database (`routing.consistency`), per user (`users.NAME.consistency`) and by the client (`SET
//! pglagoon.consistency`, also in the startup packet). Not promised by any: one snapshot over several servers, and that what a
//! replica ahead of the synchronous quorum has shown outlasts a failover.
//!
//! 1. [`crate::routing::consistency`] keeps a client's history, an instant and a place, and says what its next read needs:
//!    nothing, to stay, or a replica that has replayed a position asked for since an instant.
//! 2. [`crate::cluster::UserPools::lease`] finds a server for that. What is known decides at once; else the shared
//!    [oracles](crate::cluster::oracle) of the primary and of the replicas are asked, for at most `max_wait`.
//! 3. Then the read goes to the primary, as often as `max_fallbacks` allows, or fails (`on_stale`).
//! 4. Who comes to the primary from a replica passes the barrier: the primary shows what the replica has shown.
//! 5. A promotion begins another history ([`crate::routing::lineage`]): replicas of another timeline serve nothing, and a
//!    client whose last write may be lost is told so once, before anything of it is sent to the new primary. What it read counts
//!    like what it wrote, but from the replica that was promoted; an answer that a server of the old line gives after all is
//!    dated before the new one, so that it is in doubt.
//! 6. Connections share a history by `routing.scope` or `SET pglagoon.causality_key` ([`crate::routing::scope`]), statements by a
//!    key in their comments ([`crate::sql::comment`]); or they hand it on by a token ([`crate::routing::token`]). A replica's answer
//!    counts for what was to be seen when it was granted; whatever has come since (another's write, a token, a notification) is
//!    asked for anew by the next read.
//!
//! Positions are the *insert* position of the primary, without the page header that it may stand behind, and what a replica
//! has *replayed*, with its role in the same statement. `tests/postgres/prove.rs` holds all of this against servers that lag,
//! crash, acknowledge early and show early, and shows beside each run that a router with one mistake in it would be caught.
