//! A history of reads and writes of registers, and what it proves or refutes.
//!
//! A register's value is a version: each write adds one, so versions are unique and ordered, and what a read should have
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

/// How often each promise was broken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Findings {
    pub reads: usize,
    pub writes: usize,
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
}

impl Findings {
    /// Whether all that `session` promises was kept.
    pub fn keeps_session(&self) -> bool {
        self.own_writes + self.monotonic + self.causal == 0
    }

    pub fn add(&mut self, other: &Findings) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.own_writes += other.own_writes;
        self.monotonic += other.monotonic;
        self.causal += other.causal;
        self.fresh += other.fresh;
        self.bounded += other.bounded;
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Findings { reads, writes, own_writes, monotonic, causal, fresh, bounded } = self;
        write!(
            f,
            "{reads} reads, {writes} writes; violations: own writes {own_writes}, monotonic {monotonic}, \
             causal {causal}, fresh {fresh}, bounded {bounded}"
        )
    }
}

type Versions = [Version; REGISTERS];

/// Checks a history. `bound`: how old a read may be for `bounded`.
pub fn check(mut events: Vec<Event>, bound: Duration) -> Findings {
    let causes = causes(&mut events);
    let acknowledged = Acknowledged::new(&events);
    events.sort_by_key(|event| event.invoked);
    let mut sessions: HashMap<usize, Session> = HashMap::new();
    let mut findings = Findings::default();
    for event in &events {
        let session = sessions.entry(event.session).or_default();
        let (register, version) = event.item;
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
    fn new(events: &[Event]) -> Self {
        let mut by_register: [Vec<(Instant, Version)>; REGISTERS] = Default::default();
        for event in events.iter().filter(|event| event.kind == Kind::Write) {
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
        let Findings { own_writes, monotonic, causal, fresh, bounded, .. } = check(written(lines), BOUND);
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
