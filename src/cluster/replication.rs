//! Server connections of clients that replicate: each has one of its own, to the primary, outside the pools.

use super::failover::Standing;
use super::{Node, UserPools};
use crate::backend::{self, Backend, Usual};
use crate::error::{ClientVisible, ErrorSource, Report};
use crate::routing::Role;
use crate::wire::SqlState;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A client's own connection to a walsender.
pub struct Replication {
    /// The connection.
    pub backend: Backend,
    place: Place,
    /// The server's place in the cluster.
    node: usize,
}

/// One of the connections that are allowed; dropped, another may be made.
struct Place(Arc<UserPools>);

impl Replication {
    /// Logs in to the primary with these further parameters of the startup packet.
    ///
    /// # Cancel safety
    /// Dropped, nothing remains.
    ///
    /// # Errors
    /// 53300 beyond `pool.max_replication`; 57P03 if there is no primary within `hold_timeout`; the server's own error.
    pub async fn begin(
        pools: &Arc<UserPools>,
        parameters: Vec<(String, String)>,
    ) -> Result<Replication, Report> {
        let place = Place::take(pools)?;
        let rules = pools.database.rules();
        let node = pools.await_primary(Instant::now() + rules.pool.hold_timeout).await?;
        let mut target = pools.target(node);
        // It is not shared: what its client asks for holds.
        (target.parameters, target.usual) = (parameters, Usual::default());
        match Box::pin(backend::connect(&target, rules.pool.connect_timeout)).await {
            Ok(backend) => Ok(Replication { backend, place, node }),
            Err(error) => {
                tracing::info!(user = %pools.user, %error, "a login for replication failed");
                Err(error.report())
            }
        }
    }

    /// The user's pools, whose counters it goes by.
    pub fn pools(&self) -> &Arc<UserPools> {
        &self.place.0
    }

    /// Why the server will say nothing any more, if it is so.
    pub fn why_forsaken(&self) -> Option<&'static str> {
        self.place.0.database.section.cluster.why_forsaken(self.node, Role::Primary, false)
    }
}

impl Place {
    fn take(pools: &Arc<UserPools>) -> Result<Place, Report> {
        let limit = pools.database.rules().pool.max_replication;
        let before = pools.replication.fetch_add(1, Ordering::AcqRel);
        let place = Place(pools.clone());
        match before < limit {
            true => Ok(place),
            false => Err(full(limit)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.replication.fetch_sub(1, Ordering::AcqRel);
    }
}

impl UserPools {
    /// The primary's place in the cluster, which may have to be waited for.
    async fn await_primary(&self, deadline: Instant) -> Result<usize, Report> {
        let is_primary = |node: &Arc<Node>| node.standing() == Standing::Primary;
        let mut changes = self.database.section.cluster.watch();
        loop {
            changes.mark_unchanged();
            if let Some(node) = self.database.section.cluster.nodes().iter().position(is_primary) {
                return Ok(node);
            }
            if tokio::time::timeout_at(deadline.into(), changes.changed()).await.is_err() {
                return Err(self.unavailable(None));
            }
        }
    }
}

fn full(limit: usize) -> Report {
    let text = format!("too many replication connections already (pool.max_replication = {limit})");
    Report::new(ErrorSource::Pooler, SqlState::TOO_MANY_CONNECTIONS, text)
}
