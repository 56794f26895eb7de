//! A history of reads and writes of registers, and what it proves or refutes.
//!
//! A register's value is a version: each write adds one, and the first on a new timeline begins above all of the one before
//! (see [`timeline`]). So versions are unique and ordered, also where a failover has lost some, and what a read should have
//! returned can be told afterwards. A write also stores what its session saw last: its cause. All checks take time linear
//! in the history (times the number of registers), so that millions of reads can be checked.
//!
//! The method is Elle's and Jepsen's: recoverable, traceable values, checked against each promise by itself.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

/// How many registers there are.
pub const REGISTERS: usize = 6;

/// A register's version; 0 is what it begins with.
pub type Version = u64;

/// The timeline on which a version was written: its upper half. The lower one counts.
pub const fn timeline(version: Version) -> u64 {
    version >> 32
}

/// A version of a register.
pub type Item = (usize, Version);

/// What a session did, and was told of it.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    pub session: usize,
    pub kind: Kind,
    pub item: Item,
    /// What the writer of this version had seen last.
    pub cause: Option<Item>,
    pub invoked: Instant,
    pub returned: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
}

/// A failover: where one timeline ended.
#[derive(Debug, Clone, Copy)]
pub struct Fork {
    /// The timeline that ended.
    pub timeline: u64,
    /// The newest version of each register that the new primary had.
    pub kept: Versions,
    /// Before it was promoted.
    pub promoted: Instant,
    /// From when on what it has not must not be seen any more.
    pub settled: Instant,
}

impl Fork {
    fn has_lost(&self, (register, version): Item) -> bool {
        timeline(version) <= self.timeline && version > self.kept[register]
    }
}

/// How often each promise was broken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Findings {
    pub reads: usize,
    pub writes: usize,
    /// Writes that were acknowledged, and that a failover lost: no promise is broken by that.
    pub lost: usize,
    /// A session did not see what it had written.
    pub own_writes: usize,
    /// A session saw less than it had seen.
    pub monotonic: usize,
    /// A session saw an effect and then not its cause.
    pub causal: usize,
    /// A read did not see what was acknowledged to anybody before it began.
    pub fresh: usize,
    /// A read did not see what was acknowledged longer ago than the bound.
    pub bounded: usize,
    /// A session that had written or seen what was lost went on with the new history, and was not told.
    pub silent: usize,
    /// What was lost was seen after all, on a server that has no part in the new history.
    pub orphaned: usize,
    /// A read of all registers saw an effect without its cause: no prefix of the history. Not found by [`check`], which
    /// knows reads of one register only.
    pub torn: usize,
}

impl Findings {
    /// How often something that `session` promises was broken.
    pub fn of_session(&self) -> usize {
        self.own_writes + self.monotonic + self.causal + self.silent + self.orphaned
    }

    /// How often something that `strong` promises was broken.
    pub fn of_strong(&self) -> usize {
        self.of_session() + self.fresh
    }

    pub fn add(&mut self, other: &Findings) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.lost += other.lost;
        self.own_writes += other.own_writes;
        self.monotonic += other.monotonic;
        self.causal += other.causal;
        self.fresh += other.fresh;
        self.bounded += other.bounded;
        self.silent += other.silent;
        self.orphaned += other.orphaned;
        self.torn += other.torn;
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Findings { reads, writes, lost, .. } = self;
        write!(f, "{reads} reads, {writes} writes, {lost} of them lost")?;
        let kinds = [
            ("own writes", self.own_writes),
            ("monotonic", self.monotonic),
            ("causal", self.causal),
            ("fresh", self.fresh),
            ("bounded", self.bounded),
            ("lost in silence", self.silent),
            ("orphaned", self.orphaned),
            ("torn", self.torn),
        ];
        kinds
            .iter()
            .filter(|(_, count)| *count > 0)
            .try_for_each(|(name, count)| write!(f, "; {name} {count}"))
    }
}

/// A version of each register.
pub type Versions = [Version; REGISTERS];

/// Checks a history. `bound`: how old a read may be for `bounded`. `fork`: the failover in it.
pub fn check(mut events: Vec<Event>, bound: Duration, fork: Option<&Fork>) -> Findings {
    let has_lost = |item: Item| fork.is_some_and(|fork| fork.has_lost(item));
    let causes = causes(&mut events);
    let ever = Acknowledged::new(&events, |_| true);
    // Nobody can show what is lost, once the new primary is there.
    let kept = Acknowledged::new(&events, |item| !has_lost(item));
    events.sort_by_key(|event| event.invoked);
    let mut sessions: HashMap<usize, Session> = HashMap::new();
    let mut findings = Findings::default();
    for event in &events {
        let session = sessions.entry(event.session).or_default();
        let (register, version) = event.item;
        let is_kept_only = fork.is_some_and(|fork| event.returned > fork.promoted);
        let acknowledged = if is_kept_only { &kept } else { &ever };
        let is_new = fork.is_some_and(|fork| timeline(version) > fork.timeline);
        let is_lost = has_lost(event.item);
        findings.silent += usize::from(is_new && std::mem::take(&mut session.has_lost));
        findings.orphaned += usize::from(is_lost && fork.is_some_and(|fork| event.invoked > fork.settled));
        session.has_lost |= is_lost;
        // An UPDATE sees the newest row whatever came before: it is a read of its own version.
        findings.monotonic += usize::from(version < session.seen[register]);
        if event.kind == Kind::Read {
            findings.reads += 1;
            findings.own_writes += usize::from(version < session.own[register]);
            findings.causal += usize::from(version < session.causal[register]);
            findings.fresh += usize::from(version < acknowledged.before(register, Some(event.invoked)));
            let bound = event.invoked.checked_sub(bound);
            findings.bounded += usize::from(version < acknowledged.before(register, bound));
        } else {
            findings.writes += 1;
            findings.lost += usize::from(is_lost);
            raise(&mut session.own[register], version);
        }
        raise(&mut session.seen[register], version);
        raise(&mut session.causal[register], version);
        if let Some(closure) = causes.get(&event.item) {
            session.causal.iter_mut().zip(closure).for_each(|(mine, theirs)| raise(mine, *theirs));
        }
    }
    findings
}

#[derive(Default)]
struct Session {
    own: Versions,
    seen: Versions,
    causal: Versions,
    /// It has written or seen what was lost.
    has_lost: bool,
}

/// All causes of each version, by what its writer had seen, and so on.
fn causes(events: &mut [Event]) -> HashMap<Item, Versions> {
    // A cause was seen before its effect was asked for, so that in this order it is known first.
    events.sort_by_key(|event| event.invoked);
    let mut causes: HashMap<Item, Versions> = HashMap::new();
    for event in events.iter().filter(|event| event.kind == Kind::Write) {
        let Some(cause) = event.cause else { continue };
        let mut all = causes.get(&cause).copied().unwrap_or_default();
        raise(&mut all[cause.0], cause.1);
        causes.insert(event.item, all);
    }
    causes
}

/// The newest version of each register that was acknowledged by any instant.
struct Acknowledged([Vec<(Instant, Version)>; REGISTERS]);

impl Acknowledged {
    fn new(events: &[Event], counts: impl Fn(Item) -> bool) -> Self {
        let mut by_register: [Vec<(Instant, Version)>; REGISTERS] = Default::default();
        for event in events.iter().filter(|event| event.kind == Kind::Write && counts(event.item)) {
            by_register[event.item.0].push((event.returned, event.item.1));
        }
        for list in &mut by_register {
            list.sort_unstable();
            let mut newest = 0;
            list.iter_mut().for_each(|(_, version)| {
                newest = newest.max(*version);
                *version = newest;
            });
        }
        Acknowledged(by_register)
    }

    fn before(&self, register: usize, instant: Option<Instant>) -> Version {
        let list = &self.0[register];
        let count = instant.map_or(0, |instant| list.partition_point(|(returned, _)| *returned < instant));
        count.checked_sub(1).map_or(0, |last| list[last].1)
    }
}

fn raise(mine: &mut Version, theirs: Version) {
    *mine = (*mine).max(theirs);
}

/// A made-up history: `w 1 0 5` is a write of version 5 to register 0 by session 1, `r 1 0 4` a read; `w 1 0 5 < 2 7` has
/// seen version 7 of register 2 last. One after the other, a second apart.
fn written(lines: &str) -> Vec<Event> {
    let start = Instant::now();
    let events = lines.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate();
    events
        .map(|(place, line)| {
            let (event, cause) =
                line.split_once(" < ").map_or((line, None), |(event, cause)| (event, Some(cause)));
            let numbers =
                |text: &str| -> Vec<usize> { text.split(' ').filter_map(|word| word.parse().ok()).collect() };
            let fields = numbers(event);
            let item = |fields: &[usize]| (fields[0], fields[1] as Version);
            let invoked = start + Duration::from_secs(place as u64);
            Event {
                session: fields[0],
                kind: if line.starts_with('w') { Kind::Write } else { Kind::Read },
                item: item(&fields[1..]),
                cause: cause.map(|cause| item(&numbers(cause))),
                invoked,
                returned: invoked + Duration::from_millis(500),
            }
        })
        .collect()
}

#[test]
fn each_promise_is_found_broken_by_its_own_history() {
    const BOUND: Duration = Duration::from_millis(1_400);
    let found = |lines| {
        let Findings { own_writes, monotonic, causal, fresh, bounded, .. } =
            check(written(lines), BOUND, None);
        [own_writes, monotonic, causal, fresh, bounded]
    };
    assert_eq!(found("w 1 0 1\n r 1 0 1\n w 2 0 2\n r 1 0 2"), [0, 0, 0, 0, 0]);
    assert_eq!(found("w 1 0 1\n r 1 0 0"), [1, 1, 1, 1, 0]);
    assert_eq!(found("w 2 0 1\n r 1 0 0"), [0, 0, 0, 1, 0], "not fresh, and no more is wrong with it");
    assert_eq!(found("w 2 0 1\n r 3 1 0\n r 1 0 0"), [0, 0, 0, 1, 1], "older than the bound");
    assert_eq!(found("w 2 0 1\n r 1 0 1\n r 1 0 0"), [0, 1, 1, 1, 1]);
    let effect_without_cause = "w 1 0 1\n r 2 0 1\n w 2 1 1 < 0 1\n r 3 1 1\n r 3 0 0";
    assert_eq!(found(effect_without_cause), [0, 0, 1, 1, 1]);
    let at_one_remove = "w 1 0 1\n w 1 1 1 < 0 1\n w 2 2 1 < 1 1\n r 3 2 1\n r 3 0 0";
    assert_eq!(found(at_one_remove), [0, 0, 1, 1, 1]);
}

#[test]
fn what_a_failover_lost_is_missed_by_those_alone_who_had_it() {
    // On the second timeline versions begin with 2 << 32; of register 0 version 2 was lost.
    let found = |lines: &str| {
        let events = written(&lines.replace("new", &((2_u64 << 32) + 1).to_string()));
        let Some(first) = events.first().map(|event| event.invoked) else { unreachable!() };
        let fork = Fork {
            timeline: 1,
            kept: [1, 9, 0, 0, 0, 0],
            promoted: first + Duration::from_millis(2_900),
            settled: first + Duration::from_millis(3_900),
        };
        let Findings { lost, own_writes, monotonic, fresh, silent, orphaned, .. } =
            check(events, Duration::from_secs(100), Some(&fork));
        [lost, own_writes, monotonic, fresh, silent, orphaned]
    };
    let before = "w 1 0 1\n w 1 0 2\n r 2 0 2\n";
    assert_eq!(found(&format!("{before} r 3 0 1\n w 3 0 new\n r 3 0 new")), [1, 0, 0, 0, 0, 0], "a stranger");
    assert_eq!(found(&format!("{before} r 1 0 new\n r 1 0 new")), [1, 0, 0, 0, 1, 0], "its writer");
    assert_eq!(found(&format!("{before} r 2 1 9\n r 2 0 new")), [1, 0, 0, 0, 1, 0], "who had read it");
    assert_eq!(found(&format!("{before} r 1 0 1")), [1, 1, 1, 0, 0, 0]);
    assert_eq!(found(&format!("{before} r 3 0 2\n r 3 0 2")), [1, 0, 0, 0, 0, 1], "an orphan serves");
    assert_eq!(found("w 1 0 1\n r 1 0 1\n r 3 0 0"), [0, 0, 0, 1, 0, 0], "what is kept must be fresh");
}
