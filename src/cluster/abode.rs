//! Where a server is, as long as its name may come to stand for another address.
//!
//! A name is looked up anew for each connection of the monitor's, and every `monitor.resolve_interval`. All other connections
//! go where the monitor's is: what it finds out must be true of the server that is used. When the name has left that
//! address, no connection from before is used again: idle ones close at once, the others when their transactions end.

use super::{Cluster, Node, lock};
use crate::config::{Monitor, ServerAddress};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::watch;

/// The worker at which the pools are told: none.
const NOWHERE: usize = usize::MAX;

/// Looks the name of one server of `cluster` up again and again, until the task is dropped.
pub async fn follow(cluster: Arc<Cluster>, index: usize, mut rules: watch::Receiver<Arc<Monitor>>) {
    let node = cluster.nodes()[index].clone();
    let ServerAddress::Tcp { host, port } = &node.address else { return };
    if host.parse::<IpAddr>().is_ok() {
        return;
    }
    loop {
        let settings = rules.borrow_and_update().clone();
        // Both branches are cancel safe.
        tokio::select! {
            Ok(()) = rules.changed() => continue,
            () = tokio::time::sleep(settings.resolve_interval) => {}
        }
        let asked = cluster.resolver().addresses(host, *port);
        // While the name service is silent or says nothing, what it said last holds.
        let Ok(Ok(addresses)) = tokio::time::timeout(settings.timeout, asked).await else { continue };
        if let (Some(here), Some(next)) = (node.abode(), addresses.first())
            && !addresses.contains(&here)
        {
            cluster.moved(index, *next);
        }
    }
}

impl Cluster {
    /// The monitor has found a server at this address.
    pub(super) fn found(&self, index: usize, here: Option<SocketAddr>) {
        let node = &self.nodes()[index];
        match (node.abode(), here) {
            (Some(before), Some(here)) if before != here => self.moved(index, here),
            (None, Some(here)) => node.abode.settle(here),
            _ => {}
        }
    }

    /// A server's name stands for another address.
    fn moved(&self, index: usize, here: SocketAddr) {
        let node = &self.nodes()[index];
        tracing::warn!(
            server = %node.address, from = ?node.abode(), to = %here,
            "the server's name stands for another address: its connections are made anew"
        );
        node.abode.settle(here);
        node.moves.fetch_add(1, Ordering::AcqRel);
        // How far the server at the old address was says nothing of this one.
        *lock(&node.oracle.latest) = None;
        self.comes_back(index, Instant::now());
        for database in self.databases() {
            for pools in database.users() {
                pools.forget_greetings();
                pools.pools()[index].reconnect(NOWHERE);
                pools.pools()[index].welcome();
            }
        }
        node.poke();
    }
}

impl Node {
    /// Where it was found last.
    fn abode(&self) -> Option<SocketAddr> {
        self.abode.known()
    }

    /// How often its name has come to stand for another address: connections from before are of no use.
    pub(super) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }
}
