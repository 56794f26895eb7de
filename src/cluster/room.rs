//! Room on a server that is full: connections that nobody uses make way for those that somebody waits for.
//!
//! Each pool keeps idle connections for the next client of its user and database. With many of them these can be all that a
//! server lets in, or a role, or a database, and a login is refused (53300) though nothing runs. Then, with the next sweep, each
//! pool that was refused and is waited for has one connection closed that has been idle for longest, of another pool that fits: of
//! any on that server, of the same role's, or of the same database's. It logs in again when the server has had a moment to see
//! that the place is free.

use super::{Cluster, UserPools};
use crate::backend::Full;
use crate::pool::Pool;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a connection has been idle that is not wanted again soon.
const REST: Duration = Duration::from_secs(1);

/// How long a server may take to see that a client has said goodbye.
const FAREWELL: Duration = Duration::from_millis(20);

impl Cluster {
    /// Makes room on servers that have refused a login for lack of it since the last call. To be called on a runtime.
    pub(super) fn make_room(&self, now: Instant) {
        for (index, node) in self.nodes.iter().enumerate() {
            if node.is_full.swap(false, Ordering::AcqRel) {
                let users: Vec<_> = self.databases().iter().flat_map(|database| database.pools()).collect();
                make_room(index, &users, now);
            }
        }
    }
}

fn make_room(index: usize, users: &[Arc<UserPools>], now: Instant) {
    let spare = |pools: &Arc<UserPools>| {
        let pool = &pools.pools()[index];
        Some((pool.spare_since()?, pool.clone()))
    };
    let mut spare: Vec<_> =
        users.iter().filter_map(spare).filter(|(since, _)| *since + REST <= now).collect();
    spare.sort_by_key(|(since, _)| *since);
    for pools in users.iter().filter(|pools| pools.is_waited_for(index)) {
        let pool = &pools.pools()[index];
        let Some(full) = pool.found_full() else { continue };
        let target = pool.target();
        let fits = |other: &Pool| match full {
            Full::Server => true,
            Full::Role => other.target().user == target.user,
            Full::Database => other.target().database == target.database,
        };
        let Some(place) = spare.iter().position(|(_, other)| !Arc::ptr_eq(other, pool) && fits(other)) else {
            continue;
        };
        if spare.remove(place).1.give_up_idle() {
            tracing::debug!(address = %target.address, ?full, "an idle connection makes way for a login");
            let pool = pool.clone();
            tokio::spawn(async move {
                tokio::time::sleep(FAREWELL).await;
                pool.welcome();
            });
        }
    }
}
