//! Room on a server that is full: connections that nobody uses make way for those that somebody waits for.
//!
//! Each pool keeps idle connections for the next client of its user and database. With many of them these can be all that a
//! server lets in, or a role, or a database, and a login is refused (53300) though nothing runs. Then, with the next sweep, each
//! pool that was refused and is waited for has one connection closed that has been idle for longest, of another pool that fits: of
//! any on that server, of the same role's, or of the same database's. It logs in again when the server has had a moment to see
//! that the place is free.
//!
//! The cluster's own connections come first, however short a time others have been idle: without them nobody knows what the
//! server is, or whether a replica is fresh enough.

use super::{Cluster, Node, UserPools, lock};
use crate::backend::Full;
use crate::pool::Pool;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a connection has been idle that is not wanted again soon.
const REST: Duration = Duration::from_secs(1);

/// How long a server may take to see that a client has said goodbye.
const FAREWELL: Duration = Duration::from_millis(20);

/// A login of the cluster's own that was refused.
pub(super) struct ShutOut {
    /// What is full.
    pub full: Full,
    /// Who would log in.
    pub user: String,
    /// Where.
    pub database: String,
}

impl Cluster {
    /// Makes room on servers that have refused a login for lack of it since the last call. To be called on a runtime.
    pub(super) fn make_room(&self, now: Instant) {
        for (index, node) in self.nodes.iter().enumerate() {
            if node.is_full.swap(false, Ordering::AcqRel) {
                let users: Vec<_> = self.databases().iter().flat_map(|database| database.pools()).collect();
                make_room(index, node, &users, now);
            }
        }
    }
}

fn make_room(index: usize, node: &Arc<Node>, users: &[Arc<UserPools>], now: Instant) {
    let spare = |pools: &Arc<UserPools>| {
        let pool = &pools.pools()[index];
        Some((pool.spare_since()?, pool.clone()))
    };
    let mut spare: Vec<_> = users.iter().filter_map(spare).collect();
    spare.sort_by_key(|(since, _)| *since);
    let give_up = |spare: &mut Vec<(Instant, Arc<Pool>)>, fits: &dyn Fn(&Arc<Pool>) -> bool| {
        let place = spare.iter().position(|(_, other)| fits(other));
        place.is_some_and(|place| spare.remove(place).1.give_up_idle())
    };
    for shut_out in std::mem::take(&mut *lock(&node.shut_out)) {
        let ShutOut { full, user, database } = &shut_out;
        if give_up(&mut spare, &|other| is_counted_with(other, *full, user, database)) {
            tracing::debug!(address = %node.address, ?full, "an idle connection makes way for one of our own");
            let node = node.clone();
            tokio::spawn(async move {
                tokio::time::sleep(FAREWELL).await;
                node.poke();
            });
        }
    }
    spare.retain(|(since, _)| *since + REST <= now);
    for pools in users.iter().filter(|pools| pools.is_waited_for(index)) {
        let pool = &pools.pools()[index];
        let Some(full) = pool.found_full() else { continue };
        let target = pool.target();
        let fits = |other: &Arc<Pool>| {
            !Arc::ptr_eq(other, pool) && is_counted_with(other, full, &target.user, &target.database)
        };
        if give_up(&mut spare, &fits) {
            tracing::debug!(address = %target.address, ?full, "an idle connection makes way for a login");
            let pool = pool.clone();
            tokio::spawn(async move {
                tokio::time::sleep(FAREWELL).await;
                pool.welcome();
            });
        }
    }
}

/// Whether the pool's connections have the places that this login has not got.
fn is_counted_with(pool: &Pool, full: Full, user: &str, database: &str) -> bool {
    match full {
        Full::Server => true,
        Full::Role => pool.target().user == user,
        Full::Database => pool.target().database == database,
    }
}
