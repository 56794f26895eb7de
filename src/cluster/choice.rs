//! Which server serves a route, and how long is waited for one that may.
//!
//! What is known decides at once ([`UserPools::choose`]); else what must be known is asked for, and waited for
//! ([`UserPools::find`]): a position of the primary, replicas that reach it, the barrier before the primary.

use super::barrier::Shut;
use super::failover::Standing;
use super::{Cluster, UserPools, lock};
use crate::config::{self, Balance, OnStale, Routing};
use crate::error::{ErrorSource, Report};
use crate::routing::balance::{self, Candidate, Rank};
use crate::routing::{Lineage, Lsn, Need, Role, Route, Shown, Token, Why};
use crate::wire::SqlState;
use smallvec::SmallVec;
use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How soon what was not told is asked for again: the connection that it is asked over may have been lost.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How soon a read that may not fall back yet looks again.
const BUCKET_PAUSE: Duration = Duration::from_millis(20);

/// Of so many reads of a session that stays with its replica, one looks for another.
const RESTLESS: u64 = 256;

/// How long that one waits for what it must know of the others.
const WANDERING: Duration = Duration::from_millis(5);

/// A server that may serve a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub node: usize,
    pub role: Role,
    pub why: Why,
    /// On which timeline the primary wrote before it was looked for.
    pub timeline: Option<NonZeroU32>,
    /// What was found holds for connections that were there at this instant: a server that was started anew since may
    /// have gone back. `None`: it holds for any.
    pub since: Option<Instant>,
}

impl Choice {
    /// Of which nothing more is known.
    pub fn of(node: usize, role: Role, why: Why) -> Choice {
        Choice { node, role, why, timeline: None, since: None }
    }
}

/// The search for a server.
#[derive(Debug)]
pub(super) struct Search {
    pub route: Route,
    /// Since when it goes on.
    pub since: Instant,
    /// When a lease must be had.
    pub deadline: Instant,
    /// Until when a replica is waited for.
    patience: Instant,
    max_wait: Duration,
    /// Readings of replicas that were asked for earlier do not count.
    not_before: Option<Instant>,
    /// Whether another replica was looked for than the one that could be stayed with.
    has_wandered: bool,
    /// How long it was waited: for a replica, and at the barrier.
    pub waited: Waited,
}

#[derive(Debug, Default)]
pub(super) struct Waited {
    pub freshness: Duration,
    pub barrier: Duration,
}

impl Search {
    pub fn new(route: Route, rules: &config::Database, now: Instant) -> Search {
        let deadline = now + rules.pool.checkout_timeout;
        let max_wait = rules.routing.max_wait;
        Search {
            route,
            since: now,
            deadline,
            patience: (now + max_wait).min(deadline),
            max_wait,
            not_before: None,
            has_wandered: false,
            waited: Waited::default(),
        }
    }

    /// It was held for a server: the times for finding one run anew.
    pub fn renew(&mut self, rules: &config::Database, now: Instant) {
        self.since = now;
        self.deadline = now + rules.pool.checkout_timeout;
        self.patience = (now + self.max_wait).min(self.deadline);
    }

    /// The connection that was had is younger than what was found out about its server: that is found out anew.
    pub fn mistrust(&mut self, now: Instant) {
        self.not_before = Some(now);
        // Logging in took its own time.
        self.patience = (now + self.max_wait).min(self.deadline);
        self.leave(now);
    }

    /// Whether this is not the replica that could be stayed with.
    pub fn has_strayed(&self, choice: Choice) -> bool {
        let stays = |shown: Shown| usize::from(shown.node) == choice.node;
        matches!(self.route, Route::Replica { need: Need::Stay, shown: Some(shown), .. } if !stays(shown))
    }

    /// The replica that was to be stayed on is none any more: another shall show as much as any could by now.
    fn leave(&mut self, now: Instant) {
        if let Route::Replica { need: need @ Need::Stay, .. } = &mut self.route {
            *need = Need::Since(now);
        }
    }

    fn fall_back(&mut self, because: Why) {
        if let Route::Replica { shown, .. } = self.route {
            self.route = Route::Primary { why: because, shown };
        }
    }
}

impl UserPools {
    /// The server that shall serve `route`, if what is known suffices.
    pub(super) fn choose(&self, route: Route, not_before: Option<Instant>) -> Option<Choice> {
        // Who sees a new primary sees no server as a replica any more that is not of its line; the other way round he might.
        let timeline = self.timeline();
        self.suitable(route, not_before).map(|choice| Choice { timeline, ..choice })
    }

    pub(super) fn timeline(&self) -> Option<NonZeroU32> {
        let lineage = self.database.section.cluster.lineage();
        lineage.as_ref().and_then(|lineage| NonZeroU32::new(lineage.timeline))
    }

    fn suitable(&self, route: Route, not_before: Option<Instant>) -> Option<Choice> {
        let cluster = &self.database.section.cluster;
        match route {
            Route::Primary { shown: Some(shown), .. } if cluster.is_behind(shown) => None,
            Route::Primary { why, .. } => self.primary(why),
            Route::Replica { need: Need::Nothing, why, .. } => {
                self.any_replica(why).or_else(|| self.primary(Why::NoReplica))
            }
            Route::Replica { need: Need::Stay, shown, why } => {
                let Shown { node, until } = shown?;
                let node = usize::from(node);
                let stays = self.is_usable(node) && cluster.nodes()[node].is_traced();
                stays.then_some(Choice { since: Some(until), ..Choice::of(node, Role::Replica, why) })
            }
            Route::Replica { need: Need::Since(since), shown, why } => {
                let target = cluster.target(since)?;
                let fresh = |node: usize| cluster.reached(node, target, not_before);
                let stays = shown.map(|shown| usize::from(shown.node)).filter(|&node| {
                    self.is_usable(node) && cluster.nodes()[node].is_traced() && fresh(node).is_some()
                });
                let node = stays.or_else(|| self.balanced(|node| fresh(node).is_some()))?;
                Some(Choice { since: fresh(node), ..Choice::of(node, Role::Replica, why) })
            }
        }
    }

    /// The server that shall serve what is searched for, if what is known suffices.
    pub(super) fn find_at_once(&self, search: &Search) -> Option<Choice> {
        match !search.has_wandered && self.is_restless(search.route) {
            true => None,
            false => self.choose(search.route, search.not_before),
        }
    }

    /// The server that shall serve what is searched for; waits for what must be known first. `None`: there is none now.
    ///
    /// # Cancel safety
    /// Nothing is held while it waits.
    ///
    /// # Errors
    /// 40001 when no replica is fresh enough and the primary is not allowed, or does not show yet what a replica did.
    pub(super) async fn find(&self, search: &mut Search) -> Result<Option<Choice>, Report> {
        let cluster = &self.database.section.cluster;
        if let Some(choice) = self.wander(search).await {
            return Ok(Some(choice));
        }
        let mut readings = cluster.readings.subscribe();
        loop {
            readings.mark_unchanged();
            if let Some(choice) = self.choose(search.route, search.not_before) {
                return Ok(Some(choice));
            }
            let now = Instant::now();
            match search.route {
                Route::Primary { shown: Some(shown), why } => {
                    if cluster.primary().is_none() {
                        return Ok(None);
                    }
                    let passed = self.pass(shown, search.deadline).await;
                    search.waited.barrier += now.elapsed();
                    match passed? {
                        true => search.route = Route::primary(why),
                        false => return Ok(None),
                    }
                }
                Route::Primary { .. } | Route::Replica { need: Need::Nothing, .. } => return Ok(None),
                Route::Replica { need: Need::Stay, .. } => search.leave(now),
                Route::Replica { need: Need::Since(since), .. } => {
                    if !self.has_candidates() {
                        search.fall_back(Why::NoReplica);
                    } else if cluster.primary().is_none() {
                        return Ok(None);
                    } else if now >= search.patience {
                        self.give_up(search, now)?;
                    } else {
                        cluster.want_readings(since);
                        let _ = tokio::time::timeout_at(search.patience.into(), readings.changed()).await;
                        search.waited.freshness += now.elapsed();
                    }
                }
            }
        }
    }

    /// Whether a session that stays with its replica shall look for another: else one that only reads would stay for ever,
    /// whatever becomes of the others. The instant of its last read is as good as a die.
    pub(super) fn is_restless(&self, route: Route) -> bool {
        let Route::Replica { need: Need::Stay, shown: Some(shown), .. } = route else { return false };
        let nodes = self.database.section.cluster.nodes();
        let home = usize::from(shown.node);
        let throw = || nodes.get(home).map_or(0, |node| node.nanos(shown.until));
        balance::mixed(throw()).is_multiple_of(RESTLESS)
            && (0..nodes.len()).any(|node| node != home && self.is_usable(node))
    }

    /// The replica that balancing would choose, for a session that could as well stay with its own; if that shows what the
    /// session has seen, and it can be known within a moment.
    ///
    /// # Cancel safety
    /// Nothing is held while it waits.
    async fn wander(&self, search: &mut Search) -> Option<Choice> {
        if !self.is_restless(search.route) || std::mem::replace(&mut search.has_wandered, true) {
            return None;
        }
        let cluster = &self.database.section.cluster;
        let mut readings = cluster.readings.subscribe();
        let now = Instant::now();
        let elsewhere = Route::Replica { need: Need::Since(now), shown: None, why: search.route.why() };
        loop {
            readings.mark_unchanged();
            if let Some(choice) = self.choose(elsewhere, None) {
                return Some(choice);
            }
            cluster.want_readings(now);
            let is_late =
                tokio::time::timeout_at((now + WANDERING).into(), readings.changed()).await.is_err();
            search.waited.freshness = now.elapsed();
            if is_late {
                return None;
            }
        }
    }

    /// A position that bounds from above all that a client has seen by now, and that the primary shows already.
    ///
    /// # Errors
    /// 57P03 when nobody can say within `checkout_timeout`, or `hold_timeout` while there is no primary; 40001 when the primary
    /// does not show yet what a replica did.
    pub async fn position(&self, shown: Option<Shown>) -> Result<Token, Report> {
        let cluster = &self.database.section.cluster;
        let now = Instant::now();
        let rules = self.database.section.rules.load();
        let pool = &rules.pool;
        let deadline =
            now + if cluster.primary().is_some() { pool.checkout_timeout } else { pool.hold_timeout };
        if let Some(shown) = shown.filter(|shown| cluster.is_behind(*shown)) {
            self.see_through(shown, deadline).await?;
        }
        let mut readings = cluster.readings.subscribe();
        loop {
            readings.mark_unchanged();
            if let Some(token) = cluster.token(now) {
                return Ok(token);
            }
            cluster.want_readings(now);
            let again = (Instant::now() + ASK_AGAIN).min(deadline);
            let changed = tokio::time::timeout_at(again.into(), readings.changed()).await;
            if changed.is_err() && again == deadline {
                let text = "the primary does not say how far it is, or which cluster it belongs to";
                return Err(Report::new(ErrorSource::Server, SqlState::CANNOT_CONNECT_NOW, text));
            }
        }
    }

    /// Waits until the primary shows what a client saw on a replica, for a client that goes elsewhere.
    ///
    /// # Errors
    /// 40001 when it does not within `checkout_timeout`.
    pub async fn see_off(&self, shown: Shown) -> Result<(), Report> {
        let cluster = &self.database.section.cluster;
        if !cluster.is_behind(shown) {
            return Ok(());
        }
        let within = self.database.section.rules.load().pool.checkout_timeout;
        Box::pin(self.see_through(shown, Instant::now() + within)).await
    }

    /// Waits until the primary shows what a client saw on a replica, and for a primary.
    async fn see_through(&self, shown: Shown, deadline: Instant) -> Result<(), Report> {
        let cluster = &self.database.section.cluster;
        while !self.pass(shown, deadline).await? {
            if Instant::now() >= deadline {
                return Err(stale("there is no primary that could show what a replica has shown"));
            }
            let again = (Instant::now() + ASK_AGAIN).min(deadline);
            let _ = tokio::time::timeout_at(again.into(), cluster.watch().changed()).await;
        }
        Ok(())
    }

    /// No replica was fresh enough in time.
    fn give_up(&self, search: &mut Search, now: Instant) -> Result<(), Report> {
        let section = &self.database.section;
        let rules = section.rules.load();
        if rules.routing.on_stale == OnStale::Error {
            return Err(stale("no replica is fresh enough for this read")
                .hint("routing.max_wait is how long it waits, routing.on_stale what becomes of it then."));
        }
        if lock(&section.fallbacks).take(rules.routing.max_fallbacks, now) {
            search.fall_back(Why::Stale);
        } else if now >= search.deadline {
            return Err(stale("no replica is fresh enough, and too many reads go to the primary already")
                .hint("routing.max_fallbacks is how many per second may."));
        } else {
            search.patience = (now + BUCKET_PAUSE).min(search.deadline);
        }
        Ok(())
    }

    /// Whether the barrier has been passed; if not, there is no primary, or it says nothing any more.
    async fn pass(&self, shown: Shown, deadline: Instant) -> Result<bool, Report> {
        let cluster = &self.database.section.cluster;
        let Some(node) = cluster.nodes().get(usize::from(shown.node)) else { return Ok(true) };
        let mut patience = None;
        loop {
            // All branches are cancel safe. One that hangs is not waited for any longer than by those who read from it.
            let passed = tokio::select! {
                passed = node.barrier.pass(shown.until, deadline) => passed,
                () = cluster.falls_silent(node) => Err(Shut::Unknown),
                () = cluster.outlives(shown) => Ok(()),
            };
            match passed {
                Ok(()) => return Ok(true),
                Err(_) if !cluster.is_behind(shown) => return Ok(true),
                Err(Shut::Late) if cluster.primary().is_some_and(|primary| self.is_silent(primary)) => {
                    return Ok(false);
                }
                Err(Shut::Late) => {
                    return Err(stale("the primary does not show yet what a replica has shown").detail(
                        "A commit that is waiting for its synchronous standby is visible on replicas first.",
                    ));
                }
                // Nobody can say what it had shown. A commit that waits for nothing but its WAL is visible long before this.
                Err(Shut::Unknown) => {
                    let now = Instant::now();
                    let max_wait = self.database.section.rules.load().routing.max_wait;
                    let patience = *patience.get_or_insert((now + max_wait).min(deadline));
                    let again = (now + ASK_AGAIN).min(patience);
                    tokio::time::sleep_until(again.into()).await;
                    if again == patience {
                        return Ok(true);
                    }
                }
                Err(Shut::Unanswered) if cluster.primary().is_none() => return Ok(false),
                Err(Shut::Unanswered) => {
                    tokio::time::sleep_until((Instant::now() + ASK_AGAIN).min(deadline).into()).await;
                }
            }
        }
    }

    fn primary(&self, why: Why) -> Option<Choice> {
        let node = self.database.section.cluster.primary()?;
        Some(Choice::of(node, Role::Primary, why))
    }

    fn any_replica(&self, why: Why) -> Option<Choice> {
        let node = self.balanced(|_| true)?;
        Some(Choice::of(node, Role::Replica, why))
    }

    fn balanced(&self, suits: impl Fn(usize) -> bool) -> Option<usize> {
        let section = &self.database.section;
        let mut suitable = (0..self.pools().len()).filter(|&node| self.is_usable(node) && suits(node));
        let first = suitable.next()?;
        let rules = section.rules.load();
        let candidate = |node| self.candidate(node, &rules.routing);
        let choose = |candidates: &[Candidate]| {
            // A draw need not surprise anybody here.
            let turn = section.turn.load(Ordering::Relaxed);
            balance::choose(candidates, rules.routing.balance, turn, balance::mixed(turn as u64))
        };
        match suitable.next() {
            None => choose(&[candidate(first)]),
            Some(second) => {
                let all = [first, second].into_iter().chain(suitable).map(candidate);
                choose(&all.collect::<SmallVec<[Candidate; 8]>>())
            }
        }
    }

    /// What a choice looks at. The clock is asked only where it matters.
    pub(super) fn candidate(&self, node: usize, rules: &Routing) -> Candidate {
        let section = &self.database.section;
        let pace = match rules.balance {
            Balance::ResponseTime => section.pace(node, Instant::now()),
            Balance::LeastConnections | Balance::RoundRobin | Balance::Weighted => None,
        };
        Candidate {
            node,
            load: self.pools()[node].load(),
            weight: rules.weights.get(node).copied().unwrap_or(1),
            rank: if rules.prefer.contains(&node) { Rank::Preferred } else { Rank::Other },
            warmth: section.warmth(node, rules.slow_start),
            pace,
        }
    }

    pub(super) fn is_usable(&self, node: usize) -> bool {
        self.database.section.standing(node) == Standing::Replica && !self.pools()[node].is_struggling()
    }

    /// Whether there is a replica of which it can be found out how fresh it is.
    fn has_candidates(&self) -> bool {
        let nodes = self.database.section.cluster.nodes();
        (0..nodes.len()).any(|node| self.is_usable(node) && nodes[node].is_traced())
    }
}

impl Cluster {
    /// A position that bounds from above whatever was acknowledged before `since`: the earliest that is known.
    pub(super) fn target(&self, since: Instant) -> Option<Lsn> {
        if let Some(position) = lock(&self.clock).first_since(since) {
            return Some(position);
        }
        let lineage = self.lineage();
        let lineage = lineage.as_ref()?;
        let reading = self.nodes().get(lineage.node)?.oracle.latest()?;
        let holds = reading.role == Role::Primary && reading.timeline == Some(lineage.timeline);
        (holds && reading.asked >= since).then_some(reading.position)
    }

    fn token(&self, since: Instant) -> Option<Token> {
        let position = self.target(since)?;
        let lineage = self.lineage();
        let Lineage { timeline, system, .. } = **lineage.as_ref()?;
        Some(Token { system: system?, timeline, position })
    }

    /// When this replica was asked and had replayed `target`.
    pub(super) fn reached(&self, node: usize, target: Lsn, not_before: Option<Instant>) -> Option<Instant> {
        let node = &self.nodes()[node];
        let reading = node.oracle.latest()?;
        let holds = node.is_traced() && reading.role == Role::Replica && reading.position >= target;
        (holds && not_before.is_none_or(|least| reading.asked >= least)).then_some(reading.asked)
    }

    /// Has everybody asked whose answer is wanted: the primary for a position, replicas for how far they are. The answers
    /// may come in any order: what a replica had replayed, it has replayed.
    fn want_readings(&self, since: Instant) {
        let primary = self.primary();
        for (index, node) in self.nodes().iter().enumerate() {
            let is_wanted = match node.standing() {
                Standing::Primary => Some(index) == primary && self.target(since).is_none(),
                Standing::Replica => true,
                _ => false,
            };
            if is_wanted {
                node.oracle.want();
            }
        }
    }
}

fn stale(text: &'static str) -> Report {
    Report::new(ErrorSource::Pooler, SqlState::SERIALIZATION_FAILURE, text)
}
