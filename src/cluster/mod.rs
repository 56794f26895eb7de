//! Servers, their roles and health, and the pools on them.
//!
//! A [`Cluster`] is the servers of one `[databases.*]` section: each is a [`Node`] that [`monitor`] probes and
//! [`failover`] judges. A [`Database`] is a name that clients ask for, served by a cluster; a [`UserPools`] is one user of
//! it, with a pool on each node. What a client leases from is its `UserPools`.

mod abode;
mod barrier;
mod choice;
mod database;
mod directory;
mod explained;
pub mod failover;
mod hold;
mod listener;
pub mod monitor;
pub mod oracle;
mod patroni;
mod pinned;
mod replication;
mod user_pools;

pub use database::{Admission, Database, Notes, Stage, Switchover};
pub use directory::Directory;
pub use listener::{Declined, Subscription};
pub use replication::Replication;
pub use user_pools::{Granted, Greeting, UserPools};

use crate::auth::ServerCredential;
use crate::backend::{Abode, ConnectError};
use crate::config::{self, Consistency, Reads, ServerAddress};
use crate::error::{ClientVisible, ErrorSource, Report, Retry};
use crate::net::{Connector, Resolver};
use crate::pool::Upstream;
use crate::routing::balance::{self, Pace};
use crate::routing::bucket::Bucket;
use crate::routing::clock::Clock;
use crate::routing::{Lineage, Lsn, Role};
use crate::session::ServerState;
use crate::wire::SqlState;
use arc_swap::{ArcSwap, ArcSwapOption};
use barrier::Barrier;
use failover::{Evidence, Observation, Rivalry, Standing, Verdict};
use monitor::Finding;
use oracle::{Oracle, Reading};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// The servers of one section of the configuration.
pub struct Cluster {
    /// The section's name: `app`, or `*`.
    pub section: String,
    nodes: Vec<Arc<Node>>,
    rules: Arc<ArcSwap<config::Database>>,
    tls: Connector,
    resolver: Resolver,
    clock: Mutex<Clock>,
    /// Since when there has been no primary.
    headless: Mutex<Option<Instant>>,
    /// Who is primary.
    lineage: Arc<ArcSwapOption<Lineage>>,
    /// Tells when a server has said how far it is.
    readings: watch::Sender<()>,
    fallbacks: Mutex<Bucket>,
    changes: watch::Sender<u64>,
    turn: AtomicUsize,
    logins: Mutex<Vec<Login>>,
    databases: Mutex<Vec<Weak<Database>>>,
    /// What [`has_lost_contact`](Cluster::has_lost_contact) saw last.
    contacts: Mutex<Contacts>,
}

/// How servers can be reached, and who is primary.
type Contacts = (Vec<Contact>, Option<(usize, u32)>);

/// One server.
pub struct Node {
    /// Where it listens.
    pub address: ServerAddress,
    standing: AtomicU8,
    /// An operator has taken it out of service.
    detached: AtomicBool,
    state: Mutex<NodeState>,
    poke: Notify,
    oracle: Oracle,
    barrier: Barrier,
    /// Whether its timeline is known, so that its position says something.
    is_traced: AtomicBool,
    /// How long it takes to answer: a [`Pace`].
    pace: AtomicU64,
    /// When it came back into service, in milliseconds since `epoch`; zero once it has its full share again.
    returned: AtomicU64,
    /// When it counts as dead unless it says something before, in milliseconds since `epoch`; zero while it answers.
    dies: AtomicU64,
    /// Where it was found.
    abode: Abode,
    moves: AtomicU64,
    epoch: Instant,
}

/// Whether a server may still answer what was asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// Yes, as far as is known.
    Open,
    /// It is down, and has not said a word since: whoever can go elsewhere shall.
    Silent,
    /// It has been so for `monitor.dead_after`.
    Dead,
}

/// What is known of a server.
#[derive(Debug, Clone)]
pub struct NodeState {
    /// What it may be used for.
    pub standing: Standing,
    /// What it is, if that is known.
    pub role: Option<Role>,
    /// Since when it has stood so.
    pub since: Instant,
    /// Why it is not used; empty if it is.
    pub why: String,
    /// The primary's insert position, or what a replica has replayed.
    pub position: Option<Lsn>,
    /// Its timeline.
    pub timeline: Option<u32>,
    /// How old a replica's data may be.
    pub age: Option<Duration>,
    /// Where a promoted server's own timeline began.
    fork: Option<Lsn>,
    /// The cluster's identifier.
    system: Option<u64>,
    observation: Observation,
    /// What its Patroni says of it.
    verdict: Verdict,
    /// When that was asked for.
    asked: Instant,
    /// When it was first observed to be so.
    found: Instant,
    /// The timeline on which it was primary beside the one that is or was.
    rival: Option<u32>,
}

impl NodeState {
    /// Whether it says that it is primary, and is taken for none.
    pub fn is_fenced(&self) -> bool {
        self.standing == Standing::Down && matches!(self.observation, Observation::Primary { .. })
    }
}

/// A login with which servers can be probed.
#[derive(Clone)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The database.
    pub database: String,
    /// The proof.
    pub credential: ServerCredential,
}

/// The most logins that are kept for probing.
const MAX_LOGINS: usize = 4;

impl Cluster {
    /// The servers of a section. What is known of them from `before`, the section as it was before a reload, holds until they
    /// are probed; the others are not known yet. `logins` are tried in order.
    pub fn new(
        rules: Arc<config::Database>,
        (tls, resolver): (Connector, Resolver),
        logins: Vec<Login>,
        before: Option<&Cluster>,
        now: Instant,
    ) -> Arc<Self> {
        let place = |address: &ServerAddress| before?.nodes.iter().find(|node| node.address == *address);
        let node = |address: &ServerAddress| match place(address) {
            Some(known) => Node::known(known),
            None => Node::new(address.clone(), now),
        };
        let nodes: Vec<_> = rules.servers.iter().map(|address| Arc::new(node(address))).collect();
        let cluster = Arc::new(Cluster {
            section: rules.name.clone(),
            nodes,
            rules: Arc::new(ArcSwap::new(rules)),
            tls,
            resolver,
            clock: Mutex::default(),
            headless: Mutex::new(Some(now)),
            lineage: Arc::default(),
            readings: watch::Sender::new(()),
            fallbacks: Mutex::default(),
            changes: watch::Sender::new(0),
            turn: AtomicUsize::new(0),
            logins: Mutex::new(logins),
            databases: Mutex::default(),
            contacts: Mutex::default(),
        });
        if let Some(before) = before {
            cluster.inherit_history(before);
        }
        cluster
    }

    /// A reload begins no other history: if another primary turns up, what it lost can be told.
    fn inherit_history(&self, before: &Cluster) {
        let lineage = before.lineage();
        let Some(lineage) = lineage.as_deref() else { return };
        let address = before.nodes.get(lineage.node).map(|node| &node.address);
        let place = self.nodes.iter().position(|node| Some(&node.address) == address);
        // A primary that is not of the section any more has no place in it; its positions count all the same.
        let mut lineage = *lineage;
        lineage.node = place.unwrap_or(usize::MAX);
        self.lineage.store(Some(Arc::new(lineage)));
        *lock(&self.clock) = lock(&before.clock).clone();
    }

    /// Its servers, in the order of the configuration.
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// The section's settings.
    pub fn rules(&self) -> Arc<config::Database> {
        self.rules.load_full()
    }

    /// TLS towards its servers.
    pub fn tls(&self) -> &Connector {
        &self.tls
    }

    /// Who says what its servers' names stand for.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// What a reload changes, and every database served from here with it.
    pub fn reconfigure(&self, rules: &Arc<config::Database>) {
        self.rules.store(rules.clone());
        self.databases().iter().for_each(|database| database.reconfigure());
    }

    /// The databases that are served from here.
    pub fn databases(&self) -> Vec<Arc<Database>> {
        let mut databases = lock(&self.databases);
        databases.retain(|database| database.strong_count() > 0);
        databases.iter().filter_map(Weak::upgrade).collect()
    }

    /// A login that works, or should: the monitor may use it where others are refused. The last one offered is kept.
    pub fn offer_login(&self, login: Login) {
        let mut logins = lock(&self.logins);
        let is_known = |known: &&mut Login| known.user == login.user && known.database == login.database;
        match logins.iter_mut().find(is_known) {
            Some(known) if known.credential == login.credential => return,
            Some(known) => *known = login,
            None => {
                logins.truncate(MAX_LOGINS - 1);
                logins.push(login);
            }
        }
        self.poke();
    }

    /// The primary's newest position, and how far behind it a replica at `replay` is in bytes.
    pub fn lag_bytes(&self, replay: Lsn) -> Option<u64> {
        lock(&self.clock).newest().map(|newest| newest.since(replay))
    }

    /// Whether a position of the primary is kept that was asked for at `since` or later: if it is not beyond where another
    /// timeline begins, nothing that was acknowledged before is lost.
    pub fn has_sample_since(&self, since: Instant) -> bool {
        lock(&self.clock).first_since(since).is_some()
    }

    /// Has every server probed now.
    pub fn poke(&self) {
        self.nodes.iter().for_each(|node| node.poke());
    }

    /// Tells when a server's standing has changed.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until a server is down without having said so itself.
    async fn falls_silent(&self, node: &Node) {
        let mut changes = self.watch();
        while node.contact(Instant::now()) == Contact::Open {
            // The sender is ours: it is there as long as we are.
            let _ = changes.changed().await;
        }
    }

    fn enter(&self, database: &Arc<Database>) {
        lock(&self.databases).push(Arc::downgrade(database));
    }

    fn logins(&self) -> usize {
        lock(&self.logins).len()
    }

    fn login(&self, attempt: usize) -> Option<Login> {
        let logins = lock(&self.logins);
        logins.get(attempt % logins.len().max(1)).cloned()
    }

    /// A probe of `node` has ended: every server's standing is judged anew. What it has not found out stays as it was.
    fn observed(
        &self,
        node: &Node,
        finding: Option<Finding>,
        verdict: Option<Verdict>,
        asked: Instant,
        now: Instant,
    ) {
        if let Some(Finding {
            observation: Observation::Primary { timeline }, position: Some(insert), ..
        }) = finding
        {
            self.sampled(asked, insert, timeline, now);
        }
        self.note(node, finding, verdict, (asked, now));
        self.judge(self.lineage.load_full().as_deref(), now);
    }

    /// Judges every server by what is known of it and by what has been.
    fn judge(&self, past: Option<&Lineage>, now: Instant) {
        let mut servers: Vec<_> = self.nodes.iter().map(|node| self.evidence(node)).collect();
        self.note_rivals(&mut servers, past);
        let standings = failover::standings(&servers, past, self.rules.load().routing.max_lag);
        let mut any = false;
        let (primary, others): (Vec<_>, Vec<_>) =
            standings.into_iter().enumerate().partition(|(_, (standing, _))| *standing == Standing::Primary);
        // Who sees a new primary must not see those any more that are not of its line.
        for (index, (standing, why)) in others {
            any |= self.stand(index, &servers[index].observation, standing, why, now);
        }
        if let Some((index, _)) = primary.first()
            && let Observation::Primary { timeline } = servers[*index].observation
        {
            self.crown(*index, timeline);
        }
        for (index, (standing, why)) in primary {
            any |= self.stand(index, &servers[index].observation, standing, why, now);
        }
        if any {
            self.note_primary(now);
            self.changes.send_modify(|version| *version += 1);
        }
    }

    fn note(
        &self,
        node: &Node,
        finding: Option<Finding>,
        verdict: Option<Verdict>,
        (asked, found): (Instant, Instant),
    ) {
        let mut state = lock(&node.state);
        if let Some(verdict) = verdict {
            let is = finding.as_ref().map_or(&state.observation, |finding| &finding.observation);
            state.verdict = verdict.following(state.verdict.clone(), &state.observation, is);
        }
        if let Some(Finding { observation, position, fork, system }) = finding {
            if state.observation != observation {
                state.found = found;
            }
            state.observation = observation;
            state.fork = fork;
            // Who does not answer belongs to what it has belonged to.
            state.system = system.or(state.system);
            state.position = position;
            state.asked = asked;
        }
    }

    /// Notes who is a rival of the primary so far. Whether somebody is may take an answer of the primary's: it is asked at once,
    /// or its death could come first.
    fn note_rivals(&self, servers: &mut [Evidence], past: Option<&Lineage>) {
        for place in 0..servers.len() {
            let rival = match failover::rivalry(place, servers, past) {
                Rivalry::On(timeline) => Some(timeline),
                Rivalry::None => None,
                Rivalry::Possible => {
                    past.and_then(|past| self.nodes.get(past.node)).iter().for_each(|ours| ours.poke());
                    None
                }
            };
            if servers[place].rival != rival {
                if let Some(timeline) = rival {
                    tracing::warn!(
                        section = %self.section, server = %self.nodes[place].address, timeline,
                        "the server writes on the primary's timeline, a history of its own: it is fenced from now on"
                    );
                }
                servers[place].rival = rival;
                lock(&self.nodes[place].state).rival = rival;
            }
        }
    }

    /// Another primary, or another timeline, is another history: positions of the old one say nothing of it.
    fn crown(&self, node: usize, timeline: u32) {
        let present = self.lineage.load_full();
        let (fork, system, was_rival) = {
            let mut state = lock(&self.nodes[node].state);
            (state.fork, state.system, state.rival.take().is_some())
        };
        let is_new = |present: &Lineage| {
            (present.node, present.timeline) != (node, timeline) || !present.may_be_kin(system)
        };
        if !present.as_deref().is_none_or(is_new) {
            return;
        }
        let mut clock = lock(&self.clock);
        let next = match present.as_deref() {
            Some(present) if present.timeline != timeline || was_rival || !present.may_be_kin(system) => {
                // Whoever sees the one before without its end dates what it sees before `known`.
                self.lineage.store(Some(Arc::new(present.ending(Instant::now()))));
                // Positions of a rival's timeline cannot be compared with those of ours, though it has the same number.
                match present.may_be_kin(system) && !was_rival {
                    true => present.succeeded((node, timeline), fork, &clock, Instant::now()),
                    false => present.replaced((node, timeline), system, Instant::now()),
                }
            }
            // The same server by another name, or the first.
            _ => Lineage::first(node, timeline, system),
        };
        clock.clear();
        self.lineage.store(Some(Arc::new(next)));
    }

    /// The present primary's place in history, once there has been one.
    pub fn lineage(&self) -> arc_swap::Guard<Option<Arc<Lineage>>> {
        self.lineage.load()
    }

    /// Whether reads go by positions, unless a client says otherwise.
    fn follows_positions(&self) -> bool {
        let rules = self.rules.load();
        let level = rules.routing.consistency;
        rules.routing.reads == Reads::Replicas
            && self.nodes.len() > 1
            && matches!(level, Consistency::Session | Consistency::Strong | Consistency::Bounded)
    }

    /// The primary's place in the list of servers.
    fn primary(&self) -> Option<usize> {
        self.nodes.iter().position(|node| node.standing() == Standing::Primary)
    }

    /// A count of leases of replicas so far: whose turn it is.
    fn turn(&self) -> usize {
        self.turn.load(Ordering::Relaxed)
    }

    /// A server has said how far it is.
    fn read(&self, node: &Node, reading: Reading) {
        if let (Role::Primary, Some(timeline)) = (reading.role, reading.timeline) {
            self.sampled(reading.asked, reading.position, timeline, Instant::now());
        }
        let expected = match node.standing() {
            Standing::Primary => Some(Role::Primary),
            Standing::Replica | Standing::Lagging => Some(Role::Replica),
            Standing::Unknown | Standing::Down => None,
        };
        if expected.is_some_and(|expected| expected != reading.role) {
            node.poke();
        }
        *lock(&node.oracle.latest) = Some(reading);
        self.readings.send_replace(());
    }

    /// Only the primary's own positions count.
    fn sampled(&self, asked: Instant, insert: Lsn, timeline: u32, now: Instant) {
        if self.lineage.load().as_ref().is_some_and(|lineage| lineage.timeline == timeline) {
            lock(&self.clock).sample(asked, insert, now);
        }
    }

    fn evidence(&self, node: &Node) -> Evidence {
        let state = lock(&node.state);
        let observation = match &state.observation {
            Observation::Replica { replay: Some(replay), timeline, .. } => {
                let clock = lock(&self.clock);
                // Behind every sample that is kept: at least as old as the oldest of them.
                let oldest = || clock.oldest().map(|at| state.asked.saturating_duration_since(at));
                Observation::Replica {
                    replay: Some(*replay),
                    timeline: *timeline,
                    age: clock.age(*replay, state.asked).or_else(oldest),
                }
            }
            observation => observation.clone(),
        };
        Evidence {
            observation,
            system: state.system,
            verdict: state.verdict.clone(),
            fork: state.fork,
            asked: state.asked,
            found: state.found,
            rival: state.rival,
        }
    }

    /// Takes a server out of service: nothing is leased from it, who waits for it goes elsewhere, and its connections close
    /// when they come back.
    pub fn detach(&self, index: usize) {
        self.nodes[index].detached.store(true, Ordering::Release);
        self.note_primary(Instant::now());
        let why = unavailable("detached by an operator");
        for database in self.databases() {
            database.abandon(index, &why);
            database.users().iter().for_each(|pools| pools.pools()[index].reconnect(usize::MAX));
        }
        self.changes.send_modify(|version| *version += 1);
    }

    /// Puts it back into service. Of one that is in service, it is the operator's word that it may be primary, whatever
    /// others have been since: a cluster that was restored from a backup looks like a primary of yesterday.
    pub fn attach(&self, index: usize) {
        let now = Instant::now();
        if !self.nodes[index].detached.swap(false, Ordering::AcqRel) {
            return self.restore(index, now);
        }
        self.nodes[index].comes_back(now);
        self.note_primary(now);
        self.nodes[index].poke();
        self.changes.send_modify(|version| *version += 1);
    }

    /// Whether since the last time that this was asked a server has fallen silent, or died, or silent ones have lost their
    /// place to another primary: then each client shall look whether it still waits for the right one.
    pub fn has_lost_contact(&self, now: Instant) -> bool {
        let contacts: Vec<_> = self.nodes.iter().map(|node| node.contact(now)).collect();
        let is_any_lost = contacts.iter().any(|contact| *contact != Contact::Open);
        let primary = self.lineage.load().as_deref().map(|lineage| (lineage.node, lineage.timeline));
        let mut seen = lock(&self.contacts);
        let before = std::mem::replace(&mut *seen, (contacts, primary));
        is_any_lost && before != *seen
    }

    /// Why a client that waits for a connection to this server waits in vain. `can_go`: what it asked for runs elsewhere as
    /// well, so that it need not wait for the server's end.
    pub fn why_forsaken(&self, index: usize, role: Role, can_go: bool) -> Option<&'static str> {
        let is_outdated =
            || role == Role::Primary && self.lineage.load().as_ref().is_some_and(|now| now.node != index);
        match self.nodes[index].contact(Instant::now()) {
            Contact::Open => None,
            Contact::Silent if can_go => Some("the server does not answer"),
            Contact::Silent => is_outdated().then_some("another server has become primary"),
            Contact::Dead => Some("the server has not answered for too long"),
        }
    }

    fn restore(&self, index: usize, now: Instant) {
        let Evidence { observation, system, .. } = self.evidence(&self.nodes[index]);
        if let Observation::Primary { timeline } = observation {
            self.judge(Some(&Lineage::first(index, timeline, system)), now);
        }
    }

    /// What has been primary so far, for a process that takes over: which database cluster, and on which timeline.
    pub fn past(&self) -> Option<(Option<u64>, u32)> {
        self.lineage.load().as_deref().map(|lineage| (lineage.system, lineage.timeline))
    }

    /// Servers that were primary beside the one that is or was, and on which timeline, for a process that takes over.
    pub fn rivals(&self) -> Vec<(&ServerAddress, u32)> {
        let rival = |node: &Arc<Node>| lock(&node.state).rival;
        self.nodes.iter().filter_map(|node| Some((&node.address, rival(node)?))).collect()
    }

    /// What [`rivals`](Self::rivals) said in the process before.
    pub fn recall_rival(&self, index: usize, timeline: u32) {
        lock(&self.nodes[index].state).rival = Some(timeline);
    }

    /// What had been primary before this process began.
    pub fn recall(&self, (system, timeline): (Option<u64>, u32)) {
        // Which server that was, is found out.
        self.lineage.store(Some(Arc::new(Lineage::first(usize::MAX, timeline, system))));
    }

    /// Connections to a server that clients hold, or that are being cleaned after one.
    pub fn in_use(&self, index: usize) -> usize {
        let pools = |database: Arc<Database>| -> usize {
            database.users().iter().map(|pools| pools.pools()[index].occupancy().in_use).sum()
        };
        self.databases().into_iter().map(pools).sum()
    }

    /// Answers whether the standing changed.
    fn stand(
        &self,
        index: usize,
        observation: &Observation,
        standing: Standing,
        why: String,
        now: Instant,
    ) -> bool {
        let node = &self.nodes[index];
        let (changed, was_primary) = {
            let mut state = lock(&node.state);
            let (changed, was_primary) = (state.standing != standing, state.standing == Standing::Primary);
            if changed {
                // Who is known for the first time, at the start of the process, has been there all along.
                let is_new = state.standing == Standing::Unknown && state.role.is_none();
                if standing == Standing::Replica && !is_new {
                    node.comes_back(now);
                }
                tracing::info!(
                    section = %self.section, server = %node.address, from = ?state.standing, to = ?standing, %why,
                    "server standing changed"
                );
                state.since = now;
                state.standing = standing;
            }
            (state.role, state.timeline, state.age) = match observation {
                Observation::Primary { timeline } => (Some(Role::Primary), Some(*timeline), None),
                Observation::Replica { timeline, age, .. } => (Some(Role::Replica), *timeline, *age),
                Observation::None | Observation::Refused(_) | Observation::Failed(_) => {
                    (state.role, None, None)
                }
            };
            state.why = why;
            node.is_traced.store(state.timeline.is_some_and(|timeline| timeline > 0), Ordering::Release);
            (changed, was_primary)
        };
        node.standing.store(standing as u8, Ordering::Release);
        if changed && matches!(standing, Standing::Primary | Standing::Replica) && self.follows_positions() {
            // Whoever hangs on it first shall not wait for a login.
            node.oracle.want();
        }
        if changed && matches!(standing, Standing::Primary | Standing::Replica) {
            self.databases().iter().for_each(|database| database.welcome(index));
        }
        // Who waits for a primary must not be given a connection to what is none any more.
        if changed && (was_primary || matches!(standing, Standing::Down | Standing::Lagging)) {
            let why = unavailable(&node.state().why);
            self.databases().iter().for_each(|database| database.abandon(index, &why));
        }
        changed
    }
}

impl Node {
    fn new(address: ServerAddress, now: Instant) -> Self {
        let state = NodeState {
            standing: Standing::Unknown,
            role: None,
            since: now,
            why: "not probed yet".into(),
            position: None,
            timeline: None,
            age: None,
            fork: None,
            system: None,
            observation: Observation::None,
            verdict: Verdict::None,
            asked: now,
            found: now,
            rival: None,
        };
        Node {
            address,
            standing: AtomicU8::new(Standing::Unknown as u8),
            detached: AtomicBool::new(false),
            state: Mutex::new(state),
            poke: Notify::new(),
            oracle: Oracle::default(),
            barrier: Barrier::default(),
            is_traced: AtomicBool::new(false),
            pace: AtomicU64::new(Pace::default().bits()),
            returned: AtomicU64::new(0),
            dies: AtomicU64::new(0),
            abode: Abode::default(),
            moves: AtomicU64::new(0),
            epoch: now,
        }
    }

    /// A request to it was answered after `time`.
    pub fn answered(&self, time: Duration, now: Instant) {
        let before = self.pace.load(Ordering::Relaxed);
        let after = Pace::of(before).answered(time, self.millis(now) as u32).bits();
        // Of two answers at the same time one may be lost: it is an average.
        if after != before {
            self.pace.store(after, Ordering::Relaxed);
        }
    }

    /// How long it may take to answer; `None` before anybody has asked it anything.
    pub fn pace(&self, now: Instant) -> Option<Duration> {
        Pace::of(self.pace.load(Ordering::Relaxed)).expected(self.millis(now) as u32)
    }

    /// Whether it has answered anything since then, to a client that reads from it as a replica or to those who ask for
    /// positions.
    fn has_answered_since(&self, since: Instant) -> bool {
        // Milliseconds are counted modulo 2^32.
        let is_later = |at: u32| at.wrapping_sub(self.millis(since) as u32) <= u32::MAX / 2;
        let last = Pace::of(self.pace.load(Ordering::Relaxed)).last();
        last.is_some_and(is_later) || self.oracle.latest().is_some_and(|reading| reading.asked >= since)
    }

    /// Whether it can be used, and has answered a probe that was made since then.
    fn has_answered_probe_since(&self, since: Instant) -> bool {
        let is_used = matches!(self.standing(), Standing::Primary | Standing::Replica);
        is_used && lock(&self.state).asked >= since
    }

    /// It is used again, after it was not.
    fn comes_back(&self, now: Instant) {
        self.returned.store(self.millis(now).max(1), Ordering::Relaxed);
    }

    fn is_silent_until(&self, dies: Option<Instant>) {
        self.dies.store(dies.map_or(0, |dies| self.millis(dies).max(1)), Ordering::Release);
    }

    /// Whether what was asked of it may still be answered.
    pub fn contact(&self, now: Instant) -> Contact {
        let dies = self.dies.load(Ordering::Acquire);
        // A single question that got no answer makes no server down. Nor does it matter here whether it is detached.
        if dies == 0 || Standing::from_u8(self.standing.load(Ordering::Acquire)) != Standing::Down {
            return Contact::Open;
        }
        if self.millis(now) < dies { Contact::Silent } else { Contact::Dead }
    }

    /// How much of its share it gets, of [`balance::WARM`].
    fn warmth(&self, slow_start: Option<Duration>) -> u32 {
        let returned = self.returned.load(Ordering::Relaxed);
        let Some(slow_start) = slow_start.filter(|_| returned > 0) else { return balance::WARM };
        let age = self.millis(Instant::now()).saturating_sub(returned);
        let warmth = balance::warmth(Duration::from_millis(age), slow_start);
        if warmth >= balance::WARM {
            // It may have come back once more in between: then this changes nothing.
            let _ = self.returned.compare_exchange(returned, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        warmth
    }

    fn nanos(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_nanos() as u64
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64
    }

    /// A server by what is known of it already.
    fn known(other: &Node) -> Node {
        let node = Node::new(other.address.clone(), Instant::now());
        *lock(&node.state) = other.state();
        node.standing.store(other.standing.load(Ordering::Acquire), Ordering::Release);
        node.detached.store(other.is_detached(), Ordering::Release);
        node.is_traced.store(other.is_traced(), Ordering::Release);
        node
    }

    /// What it may be used for.
    pub fn standing(&self) -> Standing {
        match self.is_detached() {
            true => Standing::Down,
            false => Standing::from_u8(self.standing.load(Ordering::Acquire)),
        }
    }

    /// Whether an operator has taken it out of service.
    pub fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Acquire)
    }

    /// Whether its position says something.
    fn is_traced(&self) -> bool {
        self.is_traced.load(Ordering::Acquire)
    }

    /// All that is known of it.
    pub fn state(&self) -> NodeState {
        lock(&self.state).clone()
    }

    /// How often it was asked for a position because reads hung on it.
    pub fn questions(&self) -> u64 {
        self.oracle.fetches.load(Ordering::Relaxed)
    }

    /// Has it probed now.
    pub fn poke(&self) {
        self.poke.notify_one();
    }
}

impl Upstream for Node {
    fn login_failed(&self, error: &ConnectError) {
        if error.retry() == Retry::Safe {
            self.poke();
        }
    }

    /// A server that was primary and is a standby now, before the monitor has seen it. PostgreSQL says so since version 14.
    fn refuses(&self, state: &ServerState) -> Option<ConnectError> {
        let is_standby = state.parameter("in_hot_standby") == Some("on");
        (is_standby && self.standing() == Standing::Primary).then(|| {
            let text = "the server is no primary any more";
            let report = Report::new(ErrorSource::Server, SqlState::CANNOT_CONNECT_NOW, text);
            ConnectError::Refused { report, temporary: true }
        })
    }
}

fn unavailable(why: &str) -> Report {
    Report::new(ErrorSource::Server, SqlState::CANNOT_CONNECT_NOW, "the server is not available")
        .detail(why.to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain values, each assignment whole: there is nothing that a panic could have left halfway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
