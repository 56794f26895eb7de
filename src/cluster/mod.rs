//! Servers, their roles and health, and the pools on them.
//!
//! A [`Cluster`] is servers that belong together: each is a [`Node`] that [`monitor`] probes and [`failover`] judges, over
//! one connection, however many `[databases.*]` sections name these servers. A [`Section`] is one of those: its settings, and
//! what it makes of servers that it shares with others. A [`Database`] is a name that clients ask for, served by a section; a
//! [`UserPools`] is one user of it, with a pool on each node. What a client leases from is its `UserPools`.
//!
//! | whose | what |
//! |---|---|
//! | the cluster's | what servers say, their standings, who is primary and was, positions, silence, addresses, DETACH |
//! | the section's | settings, whose lag is too much, how fast servers answer it, slow start, whose turn it is, fallbacks |
//! | the database's | its catalog, its listener, PAUSE, DISABLE, SWITCHOVER, who is held |

mod abode;
mod barrier;
mod choice;
mod database;
mod directory;
mod explained;
pub mod failover;
mod hold;
mod listener;
mod logins;
pub mod monitor;
pub mod oracle;
mod patroni;
mod pinned;
mod replication;
mod room;
mod section;
mod user_pools;

pub use database::{Admission, Database, Notes, Stage, Switchover};
pub use directory::{Care, Directory};
pub use listener::{Declined, Subscription};
pub use replication::Replication;
pub use section::Section;
pub use user_pools::{Granted, Greeting, Member, UserPools};

use crate::backend::connect::ScramCache;
use crate::backend::{Abode, ConnectError, Target};
use crate::config::{self, ServerAddress};
use crate::error::{ClientVisible, ErrorSource, Report, Retry};
use crate::lock::lock;
use crate::net::{Connector, Resolver};
use crate::pool::Upstream;
use crate::routing::clock::Clock;
use crate::routing::{Lineage, Lsn, Role};
use crate::session::ServerState;
use crate::wire::SqlState;
use arc_swap::ArcSwapOption;
use barrier::Barrier;
use failover::{Evidence, Observation, Rivalry, Standing, Verdict};
use logins::{Login, Logins};
use monitor::Finding;
use oracle::{Oracle, Reading};
use patroni::Patronis;
use room::ShutOut;
use section::Shift;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, watch};

/// Servers that belong together, and are reached in the same way.
pub struct Cluster {
    nodes: Vec<Arc<Node>>,
    /// The Patronis of these servers, if they count.
    patronis: ArcSwapOption<Patronis>,
    tls: Connector,
    resolver: Resolver,
    scram: ScramCache,
    clock: Mutex<Clock>,
    /// Since when there has been no primary.
    headless: Mutex<Option<Instant>>,
    /// Who is primary.
    lineage: Arc<ArcSwapOption<Lineage>>,
    /// Tells when a server has said how far it is.
    readings: watch::Sender<()>,
    changes: watch::Sender<u64>,
    logins: Mutex<Logins>,
    sections: Mutex<Vec<Weak<Section>>>,
    /// For databases whose catalog is kept though nobody looks into it.
    idle_catalogs: Arc<Semaphore>,
    /// How many catalogs are kept.
    catalogs: AtomicUsize,
    /// For those who read one.
    catalog_readers: Semaphore,
    /// What [`has_lost_contact`](Cluster::has_lost_contact) saw last.
    contacts: Mutex<Contacts>,
}

/// For so many logins of our own at once room is made on a server.
const MAX_SHUT_OUT: usize = 8;

/// How long a server that stops may take to end its connections, one after the other.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(50);

/// How long it may take to find out whether a server stops: see [`Node::serves_on`].
const VERDICT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often it is looked whether that is known.
const VERDICT_POLL: Duration = Duration::from_millis(10);

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
    /// A login was refused because there is no room for it, since somebody last looked.
    is_full: AtomicBool,
    /// Logins of the cluster's own for which there was none since then.
    shut_out: Mutex<Vec<ShutOut>>,
    /// Whether its timeline is known, so that its position says something.
    is_traced: AtomicBool,
    /// When it counts as dead unless it says something before, in milliseconds since `epoch`; zero while it answers.
    dies: AtomicU64,
    /// Where it was found.
    abode: Abode,
    moves: AtomicU64,
    /// When the monitor's connection was made, in nanoseconds since `epoch`.
    met: AtomicU64,
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

impl Cluster {
    /// Servers of which nothing is known yet.
    pub fn new(servers: &[ServerAddress], tls: Connector, resolver: Resolver, now: Instant) -> Arc<Self> {
        Arc::new(Cluster {
            nodes: servers.iter().map(|address| Arc::new(Node::new(address.clone(), now))).collect(),
            patronis: ArcSwapOption::default(),
            tls,
            resolver,
            scram: ScramCache::default(),
            clock: Mutex::default(),
            headless: Mutex::new(Some(now)),
            lineage: Arc::default(),
            readings: watch::Sender::new(()),
            changes: watch::Sender::new(0),
            logins: Mutex::default(),
            sections: Mutex::default(),
            idle_catalogs: Arc::new(Semaphore::new(database::IDLE_CATALOGS)),
            catalogs: AtomicUsize::new(0),
            catalog_readers: Semaphore::new(database::CATALOG_READERS),
            contacts: Mutex::default(),
        })
    }

    /// A section that was served from `before` is served from here: what was known of servers that nobody has probed here
    /// holds until they are.
    fn inherit(&self, before: &Cluster) {
        for node in &self.nodes {
            let Some(known) = before.nodes.iter().find(|known| known.address == node.address) else {
                continue;
            };
            if node.state().standing == Standing::Unknown {
                node.learn(known);
            }
            // No section's count ever goes down: of those that share the node from now on, the highest holds.
            node.oracle.fetches.fetch_max(known.questions(), Ordering::Relaxed);
        }
        if self.lineage().is_none() {
            self.inherit_history(before);
        }
        match (self.primary(), before.without_primary_since()) {
            (None, Some(since)) => *lock(&self.headless) = Some(since),
            _ => self.note_primary(Instant::now()),
        }
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

    /// The sections that are served from here.
    pub fn sections(&self) -> Vec<Arc<Section>> {
        let mut sections = lock(&self.sections);
        sections.retain(|section| section.strong_count() > 0);
        sections.iter().filter_map(Weak::upgrade).collect()
    }

    /// TLS towards its servers.
    pub fn tls(&self) -> &Connector {
        &self.tls
    }

    /// Who says what its servers' names stand for.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// What logins for its own questions have derived.
    pub fn scram(&self) -> &ScramCache {
        &self.scram
    }

    /// The databases that are served from here.
    pub fn databases(&self) -> Vec<Arc<Database>> {
        self.sections().iter().flat_map(|section| section.databases()).collect()
    }

    /// A statement that is on its way needs the servers' database `name` to be without sessions.
    pub fn vacate(&self, name: &str, home: usize, now: Instant) {
        let is_meant = |database: &Arc<Database>| database.server_name() == name;
        self.databases().into_iter().filter(is_meant).for_each(|database| database.vacate(home, now));
    }

    /// Whether these are the Patronis that count.
    fn goes_by(&self, rules: Option<&config::Patroni>) -> bool {
        self.patronis.load().as_deref().map(|patronis| &patronis.rules) == rules
    }

    /// Whom the configuration says to log in as, and to which databases.
    fn log_in_as(&self, users: Vec<logins::User>, databases: Vec<String>) {
        if lock(&self.logins).configure(users, databases) {
            self.poke();
        }
    }

    /// A login that works: the monitor may use it where others are refused.
    pub fn offer_login(&self, login: Login) {
        if lock(&self.logins).offer(login) {
            self.poke();
        }
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

    fn enter(&self, section: &Arc<Section>) {
        lock(&self.sections).push(Arc::downgrade(section));
    }

    /// How many logins there are to be tried in turn before one is tried with another database.
    fn logins(&self) -> usize {
        lock(&self.logins).round()
    }

    fn login(&self, attempt: usize) -> Option<Login> {
        lock(&self.logins).nth(attempt)
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
            self.sampled(node, asked, insert, timeline, now);
        }
        let finding = finding.map(|finding| self.dated(node, finding));
        self.note(node, finding, verdict, (asked, now));
        self.judge(self.lineage.load_full().as_deref(), now);
    }

    /// Judges every server by what is known of it and by what has been.
    fn judge(&self, past: Option<&Lineage>, now: Instant) {
        let mut servers: Vec<_> = self.nodes.iter().map(|node| self.evidence(node)).collect();
        self.note_rivals(&mut servers, past);
        let standings = failover::standings(&servers, past);
        let sections = self.sections();
        let mut any = false;
        let (primary, others): (Vec<_>, Vec<_>) =
            standings.into_iter().enumerate().partition(|(_, (standing, _))| *standing == Standing::Primary);
        // Who sees a new primary must not see those any more that are not of its line.
        for (index, (standing, why)) in others {
            any |= self.stand(&sections, index, &servers[index].observation, (standing, why), now);
        }
        if let Some((index, _)) = primary.first()
            && let Observation::Primary { timeline } = servers[*index].observation
        {
            self.crown(*index, timeline);
        }
        for (index, (standing, why)) in primary {
            any |= self.stand(&sections, index, &servers[index].observation, (standing, why), now);
        }
        if any {
            self.note_primary(now);
            self.changes.send_modify(|version| *version += 1);
        }
    }

    /// A primary that does not tell its timeline any more is on none that is earlier than the one that it told.
    fn dated(&self, node: &Node, finding: Finding) -> Finding {
        let lineage = self.lineage();
        let Some(past) = lineage.as_ref().filter(|past| past.may_be_kin(finding.system)) else {
            return finding;
        };
        let is_it = self.nodes.get(past.node).is_some_and(|ours| std::ptr::eq(&**ours, node));
        match finding.observation {
            Observation::Primary { timeline: 0 } if is_it => {
                let observation = Observation::Primary { timeline: past.timeline };
                Finding { observation, ..finding }
            }
            _ => finding,
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
                        server = %self.nodes[place].address, timeline,
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

    /// Who is primary, and on which timeline.
    fn reign(&self) -> Option<(usize, u32)> {
        self.lineage().as_ref().map(|lineage| (lineage.node, lineage.timeline))
    }

    /// The primary's place in the list of servers.
    fn primary(&self) -> Option<usize> {
        self.nodes.iter().position(|node| node.standing() == Standing::Primary)
    }

    /// A server has said how far it is.
    fn read(&self, node: &Node, reading: Reading) {
        if let (Role::Primary, Some(timeline)) = (reading.role, reading.timeline) {
            self.sampled(node, reading.asked, reading.position, timeline, Instant::now());
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

    /// Only the primary's own positions count: one that is fenced may stand on the same timeline.
    fn sampled(&self, node: &Node, asked: Instant, insert: Lsn, timeline: u32, now: Instant) {
        let is_primary = |lineage: &Lineage| {
            let known = self.nodes.get(lineage.node);
            lineage.timeline == timeline && known.is_some_and(|known| std::ptr::eq(&**known, node))
        };
        if self.lineage.load().as_deref().is_some_and(is_primary) {
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
        if self.nodes[index].detached.swap(true, Ordering::AcqRel) {
            return;
        }
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
        self.comes_back(index, now);
        self.note_primary(now);
        self.nodes[index].poke();
        self.changes.send_modify(|version| *version += 1);
    }

    /// Whether since the last time that this was asked a server has fallen silent, or died, or lost its place to another
    /// primary: then each client shall look whether it still waits for the right one.
    pub fn has_lost_contact(&self, now: Instant) -> bool {
        let contacts: Vec<_> = self.nodes.iter().map(|node| node.contact(now)).collect();
        let is_any_lost = contacts.iter().any(|contact| *contact != Contact::Open);
        let primary = self.reign();
        let mut seen = lock(&self.contacts);
        let before = std::mem::replace(&mut *seen, (contacts, primary));
        let is_other = before.1.is_some() && before.1 != seen.1;
        is_other || is_any_lost && before != *seen
    }

    /// Why a client that has a connection to this server waits in vain. `can_go`: what it asked for runs elsewhere as well, so
    /// that it need not wait for the server's end. A primary that has lost its place may answer still; what it does, nobody
    /// shall be told is done, and a commit there may wait for ever for a standby that follows another.
    pub fn why_forsaken(&self, index: usize, role: Role, can_go: bool) -> Option<&'static str> {
        let is_outdated =
            || role == Role::Primary && self.lineage.load().as_ref().is_some_and(|now| now.node != index);
        match self.nodes[index].contact(Instant::now()) {
            _ if is_outdated() => Some("another server has become primary"),
            Contact::Silent if can_go => Some("the server does not answer"),
            Contact::Open | Contact::Silent => None,
            Contact::Dead => Some("the server has not answered for too long"),
        }
    }

    /// A server is used again, after it was not.
    fn comes_back(&self, index: usize, now: Instant) {
        self.sections().iter().for_each(|section| section.comes_back(index, now));
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

    /// Whether a server has answered anything since then, to a client of any section that reads from it as a replica or to
    /// those who ask for positions.
    fn has_answered_since(&self, index: usize, since: Instant) -> bool {
        self.nodes[index].oracle.latest().is_some_and(|reading| reading.asked >= since)
            || self.sections().iter().any(|section| section.has_answered_since(index, since))
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

    /// Answers whether the standing changed, for any of `sections`.
    fn stand(
        &self,
        sections: &[Arc<Section>],
        index: usize,
        observation: &Observation,
        (standing, why): (Standing, String),
        now: Instant,
    ) -> bool {
        let node = &self.nodes[index];
        let before = node.note_standing(observation, standing, why, now);
        let after = node.state();
        let shift =
            |section: &Arc<Section>| Some((section.clone(), section.judge(index, &before, &after, now)?));
        let shifts: Vec<_> = sections.iter().filter_map(shift).collect();
        node.standing.store(standing as u8, Ordering::Release);
        let hangs_on_it =
            |(section, shift): &(Arc<Section>, Shift)| shift.is_gain() && section.follows_positions();
        if shifts.iter().any(hangs_on_it) {
            // Whoever hangs on it first shall not wait for a login.
            node.oracle.want();
        }
        shifts.iter().for_each(|(section, shift)| section.follow(index, *shift));
        section::log(node, &shifts);
        !shifts.is_empty()
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
            is_full: AtomicBool::new(false),
            shut_out: Mutex::default(),
            is_traced: AtomicBool::new(false),
            dies: AtomicU64::new(0),
            abode: Abode::default(),
            moves: AtomicU64::new(0),
            met: AtomicU64::new(0),
            epoch: now,
        }
    }

    /// Answers what was known of it before.
    fn note_standing(
        &self,
        observation: &Observation,
        standing: Standing,
        why: String,
        now: Instant,
    ) -> NodeState {
        let mut state = lock(&self.state);
        let before = state.clone();
        if state.standing != standing {
            (state.since, state.standing) = (now, standing);
        }
        (state.role, state.timeline, state.age) = match observation {
            Observation::Primary { timeline } => (Some(Role::Primary), Some(*timeline), None),
            Observation::Replica { timeline, age, .. } => (Some(Role::Replica), *timeline, *age),
            Observation::None | Observation::Refused(_) | Observation::Failed(_) => (state.role, None, None),
        };
        state.why = why;
        self.is_traced.store(state.timeline.is_some_and(|timeline| timeline > 0), Ordering::Release);
        before
    }

    /// Whether it can be used, and has answered a probe that was made since then.
    fn has_answered_probe_since(&self, since: Instant) -> bool {
        let is_used = matches!(self.standing(), Standing::Primary | Standing::Replica);
        is_used && lock(&self.state).asked >= since
    }

    /// Whether it has said nothing since it was asked last.
    fn is_silent(&self) -> bool {
        self.dies.load(Ordering::Acquire) != 0
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

    fn nanos(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_nanos() as u64
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64
    }

    /// What is known of it in another place is known here.
    fn learn(&self, other: &Node) {
        *lock(&self.state) = other.state();
        self.standing.store(other.standing.load(Ordering::Acquire), Ordering::Release);
        self.detached.store(other.is_detached(), Ordering::Release);
        self.is_traced.store(other.is_traced(), Ordering::Release);
    }

    /// What it may be used for, if its lag does not matter.
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

    /// The monitor has a new connection.
    fn is_met(&self, now: Instant) {
        self.met.store(self.nanos(now), Ordering::Release);
    }

    /// Whether it serves on though it has just ended a connection by an administrator's order: the monitor's is still there a
    /// moment later. A server that stops ends them all. `false` if there is no answer within a second.
    ///
    /// # Cancel safety
    /// There is nothing to lose.
    pub async fn serves_on(&self) -> bool {
        let ended = Instant::now();
        tokio::time::sleep(SHUTDOWN_GRACE).await;
        let (asked, deadline) = (Instant::now(), ended + VERDICT_TIMEOUT);
        while Instant::now() < deadline && self.standing() != Standing::Down {
            if lock(&self.state).asked >= asked {
                return self.met.load(Ordering::Acquire) < self.nanos(ended);
            }
            self.poke();
            tokio::time::sleep(VERDICT_POLL).await;
        }
        false
    }
}

impl Node {
    /// A login of the cluster's own has failed. Where there is no room for it, some is made (see `room.rs`).
    fn login_of_ours_failed(&self, target: &Target, error: &ConnectError) {
        if let ConnectError::Refused { full: Some(full), .. } = error {
            let (user, database) = (target.user.clone(), target.database.clone());
            let mut shut_out = lock(&self.shut_out);
            shut_out.truncate(MAX_SHUT_OUT - 1);
            shut_out.push(ShutOut { full: *full, user, database });
            self.is_full.store(true, Ordering::Release);
        }
    }
}

impl Upstream for Node {
    fn login_failed(&self, error: &ConnectError) {
        if let ConnectError::Refused { full: Some(_), .. } = error {
            self.is_full.store(true, Ordering::Release);
        }
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
            ConnectError::Refused { report, temporary: true, full: None }
        })
    }
}

fn unavailable(why: &str) -> Report {
    Report::new(ErrorSource::Server, SqlState::CANNOT_CONNECT_NOW, "the server is not available")
        .detail(why.to_owned())
}
