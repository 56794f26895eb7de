//! What a drill found: a function of what the clients noted, when things were broken and repaired, and the rows that are
//! there in the end.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::Serialize;

use super::fault::{Fault, InFlight};
use super::workload::{Acknowledged, Failure, Journal, Kind, Operation, Outcome, TOLD};
use crate::cli::demo::workload::quantile;

/// The whole drill. Its serialised form is what `--json` writes.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) pglagoon: &'static str,
    /// What was drilled, for people.
    pub(super) cluster: String,
    pub(super) clients: u16,
    pub(super) seconds_per_phase: u64,
    pub(super) passed: bool,
    pub(super) faults: Vec<Findings>,
}

/// What one fault did to the clients. Times are in milliseconds; those that are moments, since the measuring began.
#[derive(Debug, Serialize)]
pub(super) struct Findings {
    pub(super) fault: String,
    pub(super) about: String,
    pub(super) passed: bool,
    /// Why it did not pass.
    pub(super) failures: Vec<String>,
    pub(super) steps: Vec<StepTaken>,
    pub(super) errors: BTreeMap<String, ErrorCount>,
    pub(super) connections_lost: u64,
    /// The longest that one client was without success.
    pub(super) longest_pause_ms: f64,
    pub(super) before: Latency,
    pub(super) during: Latency,
    pub(super) after: Latency,
    pub(super) reads: u64,
    pub(super) stale_reads: u64,
    pub(super) acknowledged_writes: u64,
    /// Writes of which the client was not told whether they are there.
    pub(super) unknown_writes: u64,
    pub(super) lost_acknowledged_writes: u64,
    /// Those of which nobody was told, or that should not have been lost at all.
    pub(super) silently_lost_writes: u64,
    /// From the fault to the end of the first write that began under it; none: no write succeeded any more.
    pub(super) first_write_ms: Option<f64>,
    pub(super) broken_ms: f64,
    pub(super) repaired_ms: f64,
    pub(super) timeline: Vec<Slice>,
}

/// A step and when it was over.
#[derive(Debug, Clone, Serialize)]
pub(super) struct StepTaken {
    pub(super) step: String,
    pub(super) ended_ms: f64,
}

/// Errors of one SQLSTATE.
#[derive(Debug, Default, Serialize)]
pub(super) struct ErrorCount {
    pub(super) count: u64,
    /// Those that a transaction in flight may see.
    pub(super) allowed: u64,
    /// The first one's text.
    pub(super) text: String,
}

/// Successful operations of one phase.
#[derive(Debug, Default, Serialize)]
pub(super) struct Latency {
    pub(super) operations: usize,
    pub(super) p50_ms: Option<f64>,
    pub(super) p99_ms: Option<f64>,
}

/// A short while of the timeline.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Slice {
    pub(super) at_ms: f64,
    /// Operations that ended well.
    pub(super) done: u64,
    pub(super) failed: u64,
    /// The slowest of those that ended well.
    pub(super) slowest_ms: f64,
}

/// When what happened, since the workload's start.
#[derive(Debug, Clone)]
pub(super) struct Course {
    /// All clients were at work.
    pub(super) began: Duration,
    /// The first step was about to be taken.
    pub(super) breaking: Duration,
    /// The first step was over: from here on the fault is there.
    pub(super) broken: Duration,
    /// The repair was over.
    pub(super) repaired: Duration,
    pub(super) ended: Duration,
    pub(super) steps: Vec<(String, Duration)>,
}

/// Part of the course that an operation belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Before,
    During,
    After,
}

impl Course {
    /// What was under way at any time of the fault belongs to it.
    fn phase(&self, operation: &Operation) -> Phase {
        match operation {
            early if early.ended < self.breaking => Phase::Before,
            late if late.began >= self.repaired => Phase::After,
            _ => Phase::During,
        }
    }

    fn since_began(&self, moment: Duration) -> f64 {
        milliseconds(moment.saturating_sub(self.began))
    }
}

impl Findings {
    /// Judges one fault. `present` are the rows that are there in the end.
    pub(super) fn new(
        fault: &Fault,
        course: &Course,
        mut journal: Journal,
        present: &HashSet<(i32, i32)>,
    ) -> Findings {
        journal.operations.retain(|operation| operation.ended >= course.began);
        let operations = &journal.operations;
        let latency = |phase| Latency::of(successes(operations).filter(|done| course.phase(done) == phase));
        let is_lost = |row: &&Acknowledged| !present.contains(&(row.client, row.number));
        let lost: Vec<&Acknowledged> = journal.acknowledged.iter().filter(is_lost).collect();
        let silently = lost.iter().filter(|row| !was_told(row, fault, operations)).count();
        let mut findings = Findings {
            fault: fault.name.clone(),
            about: fault.about.clone(),
            passed: false,
            failures: Vec::new(),
            steps: steps(course),
            errors: errors(fault, course, operations),
            connections_lost: journal.connections_lost,
            longest_pause_ms: milliseconds(longest_pause(operations, course)),
            before: latency(Phase::Before),
            during: latency(Phase::During),
            after: latency(Phase::After),
            reads: successes(operations).filter(|done| done.kind == Kind::Read).count() as u64,
            stale_reads: operations.iter().filter(|done| done.outcome == Outcome::Stale).count() as u64,
            acknowledged_writes: journal.acknowledged.len() as u64,
            unknown_writes: journal.unknown_writes,
            lost_acknowledged_writes: lost.len() as u64,
            silently_lost_writes: silently as u64,
            first_write_ms: first_write(operations, course).map(milliseconds),
            broken_ms: course.since_began(course.broken),
            repaired_ms: course.since_began(course.repaired),
            timeline: timeline(operations, course),
        };
        findings.failures = findings.what_failed();
        findings.passed = findings.failures.is_empty();
        findings
    }

    fn what_failed(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if self.silently_lost_writes > 0 {
            failures.push(format!("{} acknowledged writes are lost", self.silently_lost_writes));
        }
        if self.stale_reads > 0 {
            failures.push(format!("{} reads were stale", self.stale_reads));
        }
        if self.first_write_ms.is_none() {
            failures.push("no write succeeded after the fault".to_owned());
        }
        for (code, errors) in &self.errors {
            let beyond = errors.count - errors.allowed;
            if beyond > 0 {
                failures.push(format!("{beyond} errors {code} that no client should see: {}", errors.text));
            }
        }
        failures
    }
}

/// What a driver retries on, and "unknown": <https://www.postgresql.org/docs/current/errcodes-appendix.html>
const IN_FLIGHT: [&str; 4] = ["40001", "08007", "57P01", "57P02"];

/// Whether the row's client has heard since that what it wrote may be lost, where that may be.
fn was_told(row: &Acknowledged, fault: &Fault, operations: &[Operation]) -> bool {
    let tells = |operation: &Operation| {
        let is_later = operation.client == row.client && operation.ended >= row.at;
        is_later && matches!(&operation.outcome, Outcome::Failed(failure) if failure.code == TOLD)
    };
    fault.in_flight == InFlight::MayLose && operations.iter().any(tells)
}

/// Errors by code. Allowed is one for each client, of a transaction (a statement alone is one) under the fault, if that may end
/// transactions: a client has one in flight at most when its server dies. One more tells it of what is lost.
fn errors(fault: &Fault, course: &Course, operations: &[Operation]) -> BTreeMap<String, ErrorCount> {
    let mut counts: BTreeMap<String, ErrorCount> = BTreeMap::new();
    let mut excused: BTreeMap<i32, usize> = BTreeMap::new();
    let most = match fault.in_flight {
        InFlight::Survives => 0,
        InFlight::MayFail => 1,
        InFlight::MayLose => 2,
    };
    for operation in operations {
        let Outcome::Failed(Failure { code, text }) = &operation.outcome else { continue };
        let is_of_kind = match operation.kind {
            Kind::Connect => false,
            // 08007: pglagoon had not read the catalog yet, and did not know that it only reads.
            Kind::Read => ["40001", TOLD].contains(&code.as_str()),
            Kind::Write | Kind::Transaction => IN_FLIGHT.contains(&code.as_str()),
        };
        let had = excused.entry(operation.client).or_default();
        let allowed = is_of_kind && course.phase(operation) == Phase::During && *had < most;
        *had += usize::from(allowed);
        let errors = counts.entry(code.clone()).or_default();
        errors.count += 1;
        errors.allowed += u64::from(allowed);
        if errors.text.is_empty() {
            errors.text.clone_from(text);
        }
    }
    counts
}

fn successes(operations: &[Operation]) -> impl Iterator<Item = &Operation> {
    operations.iter().filter(|operation| operation.has_succeeded())
}

impl Latency {
    fn of<'a>(operations: impl Iterator<Item = &'a Operation>) -> Latency {
        let mut sorted: Vec<Duration> =
            operations.map(|operation| operation.ended - operation.began).collect();
        sorted.sort_unstable();
        Latency {
            operations: sorted.len(),
            p50_ms: quantile(&sorted, 0.5).map(milliseconds),
            p99_ms: quantile(&sorted, 0.99).map(milliseconds),
        }
    }
}

/// From one success of a client's to its next, or to the end; the longest of all clients.
fn longest_pause(operations: &[Operation], course: &Course) -> Duration {
    let mut last: BTreeMap<i32, Duration> =
        operations.iter().map(|operation| (operation.client, course.began)).collect();
    let mut longest = Duration::ZERO;
    // Each client notes its own in order.
    for done in successes(operations) {
        let before = last.insert(done.client, done.ended).unwrap_or(course.began);
        longest = longest.max(done.ended.saturating_sub(before));
    }
    last.values().map(|last| course.ended.saturating_sub(*last)).fold(longest, Duration::max)
}

fn first_write(operations: &[Operation], course: &Course) -> Option<Duration> {
    successes(operations)
        .filter(|done| done.is_write() && done.began >= course.broken)
        .map(|done| done.ended - course.broken)
        .min()
}

fn steps(course: &Course) -> Vec<StepTaken> {
    let taken = course.steps.iter();
    taken
        .map(|(step, ended)| StepTaken { step: step.clone(), ended_ms: course.since_began(*ended) })
        .collect()
}

/// In slices of a hundredth of a second or more, at most [`SLICES`] of them.
fn timeline(operations: &[Operation], course: &Course) -> Vec<Slice> {
    let length = course.ended.saturating_sub(course.began);
    let width = (length / SLICES).max(Duration::from_millis(10));
    let count = (length.as_nanos() / width.as_nanos()) as usize + 1;
    let mut slices: Vec<Slice> = (0..count)
        .map(|place| Slice { at_ms: milliseconds(width * place as u32), ..Slice::default() })
        .collect();
    for operation in operations {
        let place = operation.ended.saturating_sub(course.began).as_nanos() / width.as_nanos();
        // What ended after the end: clients were let finish.
        let slice = &mut slices[(place as usize).min(count - 1)];
        match &operation.outcome {
            Outcome::Failed(_) => slice.failed += 1,
            _ => {
                slice.done += 1;
                slice.slowest_ms = slice.slowest_ms.max(milliseconds(operation.ended - operation.began));
            }
        }
    }
    slices
}

/// As many as a chart shows apart.
const SLICES: u32 = 240;

fn milliseconds(time: Duration) -> f64 {
    // Microseconds are enough, and are shorter to read.
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// For a terminal.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed { "ok" } else { "FAILED" };
        writeln!(f, "{}: {verdict}  ({})", self.fault, self.about)?;
        writeln!(f, "  errors             {}", self.error_line())?;
        writeln!(f, "  connections lost   {}", self.connections_lost)?;
        writeln!(f, "  longest pause      {}", time(Some(self.longest_pause_ms)))?;
        writeln!(f, "  first write after  {}", time(self.first_write_ms))?;
        for (phase, latency) in self.phases() {
            let (p50, p99) = (time(latency.p50_ms), time(latency.p99_ms));
            writeln!(f, "  {phase:<17}  {} operations, p50 {p50}, p99 {p99}", latency.operations)?;
        }
        writeln!(f, "  reads              {}, {} of them stale", self.reads, self.stale_reads)?;
        writeln!(
            f,
            "  writes             {} acknowledged, {} of them lost; {} unknown",
            self.acknowledged_writes, self.lost_acknowledged_writes, self.unknown_writes
        )?;
        self.failures.iter().try_for_each(|failure| writeln!(f, "  FAILED: {failure}"))
    }
}

impl Findings {
    pub(super) fn phases(&self) -> [(&'static str, &Latency); 3] {
        [("before", &self.before), ("during", &self.during), ("after", &self.after)]
    }

    /// `2 x 57P01 (2 allowed), ...`, or `none`.
    pub(super) fn error_line(&self) -> String {
        if self.errors.is_empty() {
            return "none".to_owned();
        }
        let mut line = String::new();
        for (code, errors) in &self.errors {
            let between = if line.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(line, "{between}{} x {code} ({} allowed)", errors.count, errors.allowed);
        }
        line
    }
}

/// `1.25 ms`, or `never`.
pub(super) fn time(milliseconds: Option<f64>) -> String {
    match milliseconds {
        None => "never".to_owned(),
        Some(long) if long >= 1e3 => format!("{:.2} s", long / 1e3),
        Some(short) => format!("{short:.2} ms"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::workload::CONNECTION_LOST;
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Broken at 1 s, repaired at 2 s, over at 3 s.
    fn course() -> Course {
        Course {
            began: ms(0),
            breaking: ms(990),
            broken: ms(1_000),
            repaired: ms(2_000),
            ended: ms(3_000),
            steps: vec![("kill -9 primary".to_owned(), ms(1_000))],
        }
    }

    fn fault(in_flight: InFlight) -> Fault {
        Fault {
            name: "a <fault>".to_owned(),
            about: "\"breaks\" & mends".to_owned(),
            prepare: Vec::new(),
            inject: Vec::new(),
            repair: Vec::new(),
            in_flight,
        }
    }

    fn done(client: i32, kind: Kind, began: u64, ended: u64) -> Operation {
        Operation { client, kind, began: ms(began), ended: ms(ended), outcome: Outcome::Done }
    }

    fn failed(client: i32, kind: Kind, began: u64, ended: u64, code: &str) -> Operation {
        let failure = Failure { code: code.to_owned(), text: format!("{code} <it>") };
        Operation { outcome: Outcome::Failed(failure), ..done(client, kind, began, ended) }
    }

    fn find(in_flight: InFlight, operations: Vec<Operation>) -> Findings {
        let journal = Journal { operations, ..Journal::default() };
        Findings::new(&fault(in_flight), &course(), journal, &HashSet::new())
    }

    /// With one error that is allowed.
    pub(in crate::cli::drill) fn sample() -> Findings {
        find(
            InFlight::MayFail,
            vec![
                done(0, Kind::Write, 10, 12),
                failed(0, Kind::Transaction, 990, 1_010, "40001"),
                done(0, Kind::Write, 1_200, 1_300),
                done(0, Kind::Read, 2_500, 2_504),
            ],
        )
    }

    #[test]
    fn each_operation_belongs_to_a_phase() {
        let found = find(
            InFlight::Survives,
            vec![
                done(0, Kind::Write, 0, 10),
                done(0, Kind::Read, 10, 40),
                done(0, Kind::Read, 500, 1_500),
                done(0, Kind::Write, 1_999, 2_001),
                done(0, Kind::Read, 2_000, 2_005),
            ],
        );
        let counts = found.phases().map(|(_, latency)| latency.operations);
        assert_eq!(counts, [2, 2, 1]);
        assert_eq!((found.before.p50_ms, found.before.p99_ms), (Some(30.0), Some(30.0)));
        assert_eq!(found.during.p99_ms, Some(1_000.0));
        assert_eq!(
            found.first_write_ms,
            Some(1_001.0),
            "from the fault to the end of a write begun under it"
        );
        assert!(found.passed, "{:?}", found.failures);
    }

    #[test]
    fn a_pause_is_one_clients_time_without_success() {
        let found = find(
            InFlight::Survives,
            vec![
                done(0, Kind::Read, 0, 100),
                done(1, Kind::Read, 800, 900),
                failed(0, Kind::Read, 200, 400, "57P03"),
                done(0, Kind::Read, 1_900, 2_000),
                done(1, Kind::Read, 2_200, 2_300),
                done(0, Kind::Read, 2_900, 2_950),
            ],
        );
        assert_eq!(found.longest_pause_ms, 1_900.0);
        let silent = find(InFlight::Survives, vec![done(0, Kind::Read, 0, 100)]);
        assert_eq!(silent.longest_pause_ms, 2_900.0, "to the end, if no success comes any more");
    }

    #[test]
    fn a_transaction_in_flight_may_fail_once_if_its_server_died() {
        let mut operations = vec![
            failed(0, Kind::Transaction, 990, 1_010, "40001"),
            failed(1, Kind::Write, 995, 1_020, "08007"),
            done(0, Kind::Write, 1_100, 1_200),
        ];
        assert!(find(InFlight::MayFail, operations.clone()).passed);
        let survives = find(InFlight::Survives, operations.clone());
        assert_eq!(survives.failures.len(), 2, "{:?}", survives.failures);
        operations.push(failed(0, Kind::Write, 1_300, 1_310, "40001"));
        let again = find(InFlight::MayFail, operations);
        assert_eq!((again.errors["40001"].count, again.errors["40001"].allowed), (2, 1));
        assert!(!again.passed);
    }

    #[test]
    fn no_other_error_is_allowed() {
        let write = done(0, Kind::Write, 1_100, 1_200);
        for wrong in [
            failed(0, Kind::Read, 990, 1_010, "57P01"),
            failed(0, Kind::Write, 990, 1_010, CONNECTION_LOST),
            failed(0, Kind::Write, 990, 1_010, "57P03"),
            failed(0, Kind::Write, 500, 510, "40001"),
            failed(0, Kind::Write, 2_500, 2_510, "40001"),
            failed(0, Kind::Connect, 1_500, 1_510, "40001"),
        ] {
            let found = find(InFlight::MayFail, vec![wrong.clone(), write.clone()]);
            assert!(!found.passed, "{wrong:?}");
        }
    }

    #[test]
    fn lost_writes_stale_reads_and_silence_fail() {
        let operations = vec![
            Operation { outcome: Outcome::Stale, ..done(0, Kind::Read, 1_100, 1_101) },
            failed(0, Kind::Read, 1_200, 1_201, CONNECTION_LOST),
        ];
        let acknowledged =
            [1, 2].map(|number| Acknowledged { client: 0, number, at: ms(number as u64) }).to_vec();
        let journal = Journal { operations, acknowledged, unknown_writes: 1, connections_lost: 1 };
        let present = HashSet::from([(0, 1), (7, 7)]);
        let found = Findings::new(&fault(InFlight::MayFail), &course(), journal, &present);
        assert_eq!((found.stale_reads, found.lost_acknowledged_writes, found.unknown_writes), (1, 1, 1));
        assert_eq!((found.connections_lost, found.first_write_ms), (1, None));
        assert_eq!(found.failures.len(), 4, "{:?}", found.failures);
        assert!(found.to_string().contains("first write after  never"), "{found}");
    }

    #[test]
    fn who_is_told_of_what_is_lost_has_lost_nothing_silently() {
        let row = |client, at| Acknowledged { client, number: 1, at: ms(at) };
        let lost = |in_flight, rows: &[Acknowledged]| {
            let operations = vec![
                failed(0, Kind::Write, 990, 1_010, "40001"),
                failed(0, Kind::Read, 1_100, 1_110, TOLD),
                done(0, Kind::Write, 1_300, 1_400),
                done(1, Kind::Write, 1_300, 1_400),
            ];
            let journal = Journal { operations, acknowledged: rows.to_vec(), ..Journal::default() };
            Findings::new(&fault(in_flight), &course(), journal, &HashSet::new())
        };
        let told = lost(InFlight::MayLose, &[row(0, 900)]);
        assert_eq!((told.lost_acknowledged_writes, told.silently_lost_writes, told.passed), (1, 0, true));
        assert_eq!(
            lost(InFlight::MayLose, &[row(0, 1_200)]).silently_lost_writes,
            1,
            "told of something before"
        );
        assert_eq!(lost(InFlight::MayLose, &[row(1, 900)]).silently_lost_writes, 1, "told somebody else");
        assert_eq!(lost(InFlight::MayFail, &[row(0, 900)]).silently_lost_writes, 1);
    }

    #[test]
    fn the_timeline_holds_every_operation() {
        let found = sample();
        assert!(found.timeline.len() <= SLICES as usize + 1);
        assert_eq!(found.timeline.iter().map(|slice| slice.done).sum::<u64>(), 3);
        assert_eq!(found.timeline.iter().map(|slice| slice.failed).sum::<u64>(), 1);
    }
}
