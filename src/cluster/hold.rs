//! Clients that are held: no server could serve them now, and one may be there soon.
//!
//! ```text
//!   no primary, or no replica where the level needs one, or none that lets us in ---> in the line, by arrival
//!   first in the line ---- a server is there ----> stands for a connection of it, and the next one is the first
//!   in the line       ---- a replica is there that will do ----> stands for a connection of it, in nobody's way
//!   in the line       ---- hold_timeout is over ----> an error that says since when and why
//! ```
//! There is one line for each user of a database. Whoever comes anew stands behind those who are in it, unless a replica serves
//! him at once; who has to come back has the place that he had. So clients come to a new primary's pool in the order in which
//! they came to us.
//!
//! Two times bound what a request may wait. `hold_timeout` runs from when it is first held, and says how long it may be without
//! a server; `checkout_timeout` runs while it stands for a connection of a server that is there, anew each time. A server that
//! has no connection left for us (SQLSTATE class 53) is a server that is there: then `checkout_timeout` goes on. One of which a
//! probe has no answer is as good as away when `checkout_timeout` is over.

use super::failover::Standing;
use super::user_pools::closed;
use super::{Cluster, UserPools, lock};
use crate::error::{ErrorSource, Report};
use crate::routing::{Need, Route};
use crate::wire::SqlState;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// How long a client that found its server unreachable waits before it looks again, if nothing changes before.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How often the first of those who are held looks whether it waits in vain.
const LOOK: Duration = Duration::from_secs(1);

/// Those of one user's clients that are held.
#[derive(Default)]
pub(super) struct Line {
    /// How many were ever in it.
    arrivals: AtomicU64,
    length: AtomicUsize,
    places: Mutex<BTreeMap<u64, Arc<Notify>>>,
}

/// A place in the line. Dropped, it is the next one's.
pub(super) struct Place<'a> {
    line: &'a Line,
    number: u64,
    /// Tells that the place may have become the first.
    moved: Arc<Notify>,
}

/// What a request has met with so far.
pub(super) struct Trial {
    /// Since when it has been held.
    since: Option<Instant>,
    arrival: u64,
    /// What the server said that should have served it just now.
    pub last: Option<Box<Report>>,
}

impl Trial {
    /// What it has waited so far does not count.
    pub fn renew(&mut self) {
        (self.since, self.last) = (None, None);
    }

    /// Whether the server is there, and has no connection left.
    pub fn is_full(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.code.class() == *b"53")
    }
}

impl Line {
    /// A request begins to wait.
    pub fn arrive(&self) -> Trial {
        Trial { since: None, arrival: self.arrivals.fetch_add(1, Ordering::Relaxed), last: None }
    }

    /// Whether somebody is in it: nobody overtakes.
    pub fn is_empty(&self) -> bool {
        self.length.load(Ordering::Relaxed) == 0
    }

    fn enter(&self, number: u64) -> Place<'_> {
        let moved = Arc::new(Notify::new());
        self.length.fetch_add(1, Ordering::Relaxed);
        lock(&self.places).insert(number, moved.clone());
        Place { line: self, number, moved }
    }
}

impl Place<'_> {
    fn is_first(&self) -> bool {
        lock(&self.line.places).keys().next() == Some(&self.number)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.line.length.fetch_sub(1, Ordering::Relaxed);
        let mut places = lock(&self.line.places);
        places.remove(&self.number);
        places.values().next().iter().for_each(|next| next.notify_one());
    }
}

impl UserPools {
    /// Waits until it is worthwhile to look for a server again, and those who came before have done so. The place is to be
    /// kept until the client stands for a connection. A server that is full is waited for until `deadline`.
    ///
    /// # Cancel safety
    /// Dropped, it has left the line.
    ///
    /// # Errors
    /// 57P03 when `hold_timeout` is over, or too many are held; the server's own error when that is full.
    pub(super) async fn hold(
        &self,
        route: Route,
        trial: &mut Trial,
        deadline: Instant,
        changes: &mut watch::Receiver<u64>,
    ) -> Result<Place<'_>, Report> {
        let rules = self.database.rules();
        let _held = Held::new(&self.database.held, rules.pool.hold_limit)
            .ok_or_else(|| self.too_many_held(rules.pool.hold_limit))?;
        let place = self.line.enter(trial.arrival);
        let since = *trial.since.get_or_insert_with(Instant::now);
        let until = if trial.is_full() { deadline } else { since + rules.pool.hold_timeout };
        match tokio::time::timeout_at(until.into(), self.look_out(&place, route, trial, changes)).await {
            Ok(Ok(())) => Ok(place),
            Ok(Err(report)) => Err(report),
            Err(_) => Err(self.unavailable(trial.last.as_deref())),
        }
    }

    async fn look_out(
        &self,
        place: &Place<'_>,
        route: Route,
        trial: &Trial,
        changes: &mut watch::Receiver<u64>,
    ) -> Result<(), Report> {
        let is_served = || self.does_replica_serve(route) || (place.is_first() && self.could_serve(route));
        // What seems to be there was not good enough just now.
        if trial.last.is_some() || is_served() {
            let _ = tokio::time::timeout(RETRY_PAUSE, changes.changed()).await;
        }
        loop {
            changes.mark_unchanged();
            if self.is_closed() {
                return Err(closed());
            }
            if is_served() {
                return Ok(());
            }
            // Both branches are cancel safe.
            tokio::select! {
                () = place.moved.notified() => {}
                _ = tokio::time::timeout(LOOK, changes.changed()) => {}
            }
        }
    }

    /// Whether there is a server that the route may lead to.
    fn could_serve(&self, route: Route) -> bool {
        // How fresh a replica is can be said only while there is a primary.
        self.database.section.cluster.primary().is_some() || self.does_replica_serve(route)
    }

    /// Whether there is a replica, where any will do.
    fn does_replica_serve(&self, route: Route) -> bool {
        let any_replica = || {
            let mut places = 0..self.database.section.cluster.nodes().len();
            places.any(|index| self.database.section.standing(index) == Standing::Replica)
        };
        matches!(route, Route::Replica { need: Need::Nothing, .. }) && any_replica()
    }

    /// Whether a request may wait for a server rather than for a connection.
    pub fn lacks_server(&self, route: &Route) -> bool {
        !self.line.is_empty() || !self.could_serve(*route) || self.database.switchover().is_some()
    }

    /// Why a request that has waited for long is held, in one sentence; `None`: it waits for a connection.
    pub fn hold_reason(&self, route: &Route) -> Option<Report> {
        let text = || format!("pglagoon is holding this request: {}", self.missing());
        (!self.could_serve(*route)).then(|| {
            Report::new(ErrorSource::Pooler, SqlState::SUCCESSFUL_COMPLETION, text()).detail(self.standings())
        })
    }

    /// There is no server for a request.
    pub(super) fn unavailable(&self, last: Option<&Report>) -> Report {
        for (index, node) in self.database.section.cluster.nodes().iter().enumerate() {
            let state = self.database.section.state(index);
            tracing::debug!(
                database = %self.database.name, server = %node.address, standing = ?state.standing, why = %state.why,
                "no server for a request"
            );
        }
        match last {
            Some(last) if last.code.class() == *b"53" => {
                return last.clone().hint(
                    "The server has no connection left for pglagoon: its max_connections, or a limit of the role or the \
                     database, is less than the pools have in use or keep. pool.checkout_timeout is how long a request waits.",
                );
            }
            Some(last) if self.database.section.cluster.primary().is_some() => {
                let text =
                    format!("the primary server of database \"{}\" cannot be reached", self.database.name);
                cannot_connect(text).detail(format!("{last}"))
            }
            _ => cannot_connect(self.missing()).detail(self.standings()),
        }
        .hint("pool.hold_timeout is how long a request is held for a server.")
    }

    fn too_many_held(&self, limit: usize) -> Report {
        cannot_connect(self.missing())
            .detail(format!("{limit} clients are held already."))
            .hint("pool.hold_limit is how many may be.")
    }

    fn missing(&self) -> String {
        let since = self.database.section.cluster.without_primary_since();
        let ago = since.map(|since| format!(" for {:.1} s", since.elapsed().as_secs_f64()));
        let ago = ago.unwrap_or_default();
        format!("no primary server has been available for database \"{}\"{ago}", self.database.name)
    }

    /// What the servers are, by their place: where they are is not every client's business.
    fn standings(&self) -> String {
        let nodes = self.database.section.cluster.nodes();
        let mut text = String::new();
        for (index, node) in nodes.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let section = &self.database.section;
            let state = section.state(index);
            let standing = match node.is_detached() {
                true => "detached",
                false if state.is_fenced() => "fenced, though it says that it is primary,",
                false => section.standing(index).as_str(),
            };
            let since = state.since.elapsed().as_secs_f64();
            let _ = write!(
                text,
                "{separator}server {} of {}: {standing} for {since:.1} s",
                index + 1,
                nodes.len()
            );
        }
        text
    }
}

impl Cluster {
    /// Since when there has been no primary; `None`: there is one.
    pub(super) fn without_primary_since(&self) -> Option<Instant> {
        *lock(&self.headless)
    }

    /// Takes note of whether there is a primary. If there is none any more, each server may be the next one: it is asked now,
    /// and from then on more often, rather than when its interval is over.
    pub(super) fn note_primary(&self, now: Instant) {
        let mut since = lock(&self.headless);
        *since = match (self.primary(), *since) {
            (Some(_), _) => None,
            (None, None) => {
                self.poke();
                Some(now)
            }
            (None, since) => since,
        };
    }
}

/// One of those who are held.
struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    /// `None`: there are `most` already.
    fn new(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let held = Held(count);
        (count.fetch_add(1, Ordering::AcqRel) < most).then_some(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn cannot_connect(text: String) -> Report {
    Report::new(ErrorSource::Server, SqlState::CANNOT_CONNECT_NOW, text)
}
