//! One section of the configuration, and what it makes of servers that it shares with others.
//!
//! What a server is, its cluster knows. Whether a replica is too far behind to be read from is for each section to say, by
//! its `routing.max_lag`, and so is what follows from its own requests: how fast a server answers them, whose turn it is.

use super::failover::{self, Standing};
use super::{Cluster, Database, Node, NodeState, lock, unavailable};
use crate::config::{self, Consistency, Reads};
use crate::routing::balance::{self, Pace};
use crate::routing::bucket::Bucket;
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// One section of the configuration.
pub struct Section {
    /// Its name: `app`, or `*`.
    pub name: String,
    /// Its servers.
    pub cluster: Arc<Cluster>,
    pub(super) rules: Arc<ArcSwap<config::Database>>,
    posts: Box<[Post]>,
    pub(super) fallbacks: Mutex<Bucket>,
    /// A count of leases of replicas so far: whose turn it is.
    pub(super) turn: AtomicUsize,
    databases: Mutex<Vec<Weak<Database>>>,
    epoch: Instant,
}

/// What a server is to the section. Instants are milliseconds since its `epoch`.
struct Post {
    /// How long it takes to answer: a [`Pace`].
    pace: AtomicU64,
    /// When it came back into service; zero once it has its full share again.
    returned: AtomicU64,
    /// Since when it has been too far behind; zero if it is not.
    lags: AtomicU64,
}

/// What a server was to a section, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shift {
    from: Standing,
    to: Standing,
}

impl Shift {
    /// Whether it can be used from now on.
    pub fn is_gain(self) -> bool {
        matches!(self.to, Standing::Primary | Standing::Replica)
    }

    /// Whether nobody may wait for it any more. Who waits for a primary must not be given a connection to what is none.
    fn is_loss(self) -> bool {
        self.from == Standing::Primary || matches!(self.to, Standing::Down | Standing::Lagging)
    }
}

impl Section {
    /// What `rules` say, with these servers.
    pub fn new(rules: Arc<config::Database>, cluster: Arc<Cluster>, now: Instant) -> Arc<Self> {
        let post = |_| Post {
            pace: AtomicU64::new(Pace::default().bits()),
            returned: AtomicU64::new(0),
            lags: AtomicU64::new(0),
        };
        let section = Arc::new(Section {
            name: rules.name.clone(),
            posts: (0..cluster.nodes().len()).map(post).collect(),
            cluster,
            rules: Arc::new(ArcSwap::new(rules)),
            fallbacks: Mutex::default(),
            turn: AtomicUsize::new(0),
            databases: Mutex::default(),
            epoch: now,
        });
        for (index, node) in section.cluster.nodes().iter().enumerate() {
            section.note_lag(index, &node.state(), now);
        }
        section.cluster.enter(&section);
        section
    }

    /// Its settings.
    pub fn rules(&self) -> Arc<config::Database> {
        self.rules.load_full()
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

    pub(super) fn enter(&self, database: &Arc<Database>) {
        lock(&self.databases).push(Arc::downgrade(database));
    }

    /// Whether reads go by positions, unless a client says otherwise.
    pub(super) fn follows_positions(&self) -> bool {
        let rules = self.rules.load();
        let level = rules.routing.consistency;
        rules.routing.reads == Reads::Replicas
            && self.posts.len() > 1
            && matches!(level, Consistency::Session | Consistency::Strong | Consistency::Bounded)
    }

    // What the servers are to it -----------------------------------------------------------------------------------------------

    /// What a server may be used for here.
    pub fn standing(&self, index: usize) -> Standing {
        match self.cluster.nodes().get(index).map(|node| node.standing()) {
            Some(Standing::Replica) if self.lags(index) => Standing::Lagging,
            standing => standing.unwrap_or(Standing::Down),
        }
    }

    /// All that is known of a server, as it counts here.
    pub fn state(&self, index: usize) -> NodeState {
        let mut state = self.cluster.nodes()[index].state();
        let lags = self.posts[index].lags.load(Ordering::Acquire);
        if state.standing == Standing::Replica && lags > 0 {
            state.standing = Standing::Lagging;
            state.since = self.epoch + Duration::from_millis(lags);
            state.why = failover::behind(state.age);
        }
        state
    }

    fn lags(&self, index: usize) -> bool {
        self.posts[index].lags.load(Ordering::Acquire) > 0
    }

    /// A server has been judged: answers what that changes here.
    pub(super) fn judge(
        &self,
        index: usize,
        before: &NodeState,
        after: &NodeState,
        now: Instant,
    ) -> Option<Shift> {
        let seen =
            |standing, lags| if standing == Standing::Replica && lags { Standing::Lagging } else { standing };
        let from = seen(before.standing, self.lags(index));
        self.note_lag(index, after, now);
        let shift = Shift { from, to: seen(after.standing, self.lags(index)) };
        // Who is known for the first time, at the start of the process, has been there all along.
        let is_first = from == Standing::Unknown && before.role.is_none();
        if shift.from != shift.to && shift.to == Standing::Replica && !is_first {
            self.comes_back(index, now);
        }
        (shift.from != shift.to).then_some(shift)
    }

    fn note_lag(&self, index: usize, state: &NodeState, now: Instant) {
        let lags = &self.posts[index].lags;
        let is_too_old = failover::is_too_old(state.age, self.rules.load().routing.max_lag);
        match (lags.load(Ordering::Acquire) > 0, is_too_old) {
            (false, true) => lags.store(self.millis(now).max(1), Ordering::Release),
            (true, false) => lags.store(0, Ordering::Release),
            _ => {}
        }
    }

    /// Those who wait learn what has changed.
    pub(super) fn follow(&self, index: usize, shift: Shift) {
        if shift.is_gain() {
            self.databases().iter().for_each(|database| database.welcome(index));
        }
        if shift.is_loss() {
            let why = unavailable(&self.state(index).why);
            self.databases().iter().for_each(|database| database.abandon(index, &why));
        }
    }

    /// A server is used again, after it was not.
    pub(super) fn comes_back(&self, index: usize, now: Instant) {
        self.posts[index].returned.store(self.millis(now).max(1), Ordering::Relaxed);
    }

    /// How much of its share it gets, of [`balance::WARM`].
    pub(super) fn warmth(&self, index: usize, slow_start: Option<Duration>) -> u32 {
        let post = &self.posts[index];
        let returned = post.returned.load(Ordering::Relaxed);
        let Some(slow_start) = slow_start.filter(|_| returned > 0) else { return balance::WARM };
        let age = self.millis(Instant::now()).saturating_sub(returned);
        let warmth = balance::warmth(Duration::from_millis(age), slow_start);
        if warmth >= balance::WARM {
            // It may have come back once more in between: then this changes nothing.
            let _ = post.returned.compare_exchange(returned, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        warmth
    }

    /// A request to it was answered after `time`.
    pub fn answered(&self, index: usize, time: Duration, now: Instant) {
        let pace = &self.posts[index].pace;
        let before = pace.load(Ordering::Relaxed);
        let after = Pace::of(before).answered(time, self.millis(now) as u32).bits();
        // Of two answers at the same time one may be lost: it is an average.
        if after != before {
            pace.store(after, Ordering::Relaxed);
        }
    }

    /// Whether it has answered a request since then.
    pub(super) fn has_answered_since(&self, index: usize, since: Instant) -> bool {
        // Milliseconds are counted modulo 2^32.
        let is_later = |at: u32| at.wrapping_sub(self.millis(since) as u32) <= u32::MAX / 2;
        Pace::of(self.posts[index].pace.load(Ordering::Relaxed)).last().is_some_and(is_later)
    }

    /// How long it may take to answer; `None` before anybody has asked it anything.
    pub fn pace(&self, index: usize, now: Instant) -> Option<Duration> {
        Pace::of(self.posts[index].pace.load(Ordering::Relaxed)).expected(self.millis(now) as u32)
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64
    }
}

/// Says what has changed, in a line for all sections to which it is the same.
pub(super) fn log(node: &Node, shifts: &[(Arc<Section>, Shift)]) {
    for (place, (section, shift)) in shifts.iter().enumerate() {
        let same =
            |others: &[(Arc<Section>, Shift)]| others.iter().filter(|(_, other)| other == shift).count();
        if same(&shifts[..place]) > 0 {
            continue;
        }
        let index = section.cluster.nodes().iter().position(|known| std::ptr::eq(&**known, node));
        let why = index.map(|index| section.state(index).why).unwrap_or_default();
        let others = same(&shifts[place + 1..]);
        let (section, server, from, to) = (&section.name, &node.address, shift.from, shift.to);
        if shift.is_loss() {
            tracing::warn!(%section, others, %server, ?from, ?to, %why, "server standing changed");
        } else {
            tracing::info!(%section, others, %server, ?from, ?to, %why, "server standing changed");
        }
    }
}
