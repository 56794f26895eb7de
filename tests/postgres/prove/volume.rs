//! Many reads: nothing in a million bounds the rate at 3 in a million, with 95 % confidence.
//!
//! More sessions than elsewhere, which never think: round after round, each a history of its own, under one disturbance
//! after the other, until a level has been read as often as `PGLAGOON_PROVE_READS` says. In `make test` one round of each.

use super::*;

/// A round of the long form: what it has to remember is bounded, and the report of a run that is ended has something in it.
const ROUND: Duration = Duration::from_secs(10);

/// Under asynchronous commits nearly all of these reads would be the primary's: it has runs with more patience.
const FAULTS: [Fault; 2] = [Fault::Pauses, Fault::FrozenStandby];

#[tokio::test(flavor = "multi_thread")]
async fn many_reads_of_a_session_keep_its_promises() {
    let control = (Fault::Pauses, Policy::Naive, (|found| found.own_writes) as Count);
    many("session", &FAULTS, Findings::of_session, control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_strong_reads_are_strong() {
    let control = (Fault::Pauses, Policy::Naive, (|found| found.fresh) as Count);
    many("strong", &FAULTS, Findings::of_strong, control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_bounded_reads_are_within_their_bound() {
    let control = (Fault::Standstill, Policy::Naive, (|found| found.bounded) as Count);
    many("bounded", &[Fault::Pauses, Fault::Standstill], |found| found.bounded, control).await;
}

/// The promise of `eventual`: each read sees a consistent prefix.
#[tokio::test(flavor = "multi_thread")]
async fn many_eventual_reads_see_a_consistent_prefix() {
    let stand = busy("eventual");
    let torn: Count = |found| found.torn;
    let course = Course::new("eventual", &[Fault::Pauses]);
    course.run(torn, async |_, load| wholes(&stand, Policy::Lagoon("eventual"), load).await).await;
    for _ in 0..TRIES {
        let outcome = wholes(&stand, Policy::Halves, course.load()).await;
        if caught(Fault::Pauses, Policy::Halves, &outcome, torn) {
            return;
        }
    }
    panic!("halves of reads on two replicas fitted together");
}

async fn many(level: &'static str, faults: &[Fault], count: Count, control: (Fault, Policy, Count)) {
    let stand = busy(level);
    let course = Course::new(level, faults);
    course.run(count, async |fault, load| run(&stand, fault, Policy::Lagoon(level), load).await).await;
    let (fault, policy, broken) = control;
    breaks(&stand, fault, policy, course.load(), broken).await;
}

fn busy(level: &'static str) -> Stand {
    stand(level, |setup| {
        let bound = quote(&format!("{}ms", BOUND.as_millis()));
        // What no replica serves in time the primary does, so that a pause of replay is none of the run's.
        let setup = setup.set("routing", "max_wait", quote("20ms")).set("routing", "max_fallbacks", "100000");
        setup.set("routing", "max_staleness", bound).set("pool", "size", "30")
    })
}

/// How many reads of a level, under which disturbances.
struct Course<'a> {
    level: &'static str,
    faults: &'a [Fault],
    goal: usize,
}

impl<'a> Course<'a> {
    fn new(level: &'static str, faults: &'a [Fault]) -> Self {
        Course { level, faults, goal: goal().unwrap_or(0) }
    }

    fn load(&self) -> Load {
        let load = Load { sessions: 24, ..Load::new(50, Duration::ZERO) };
        Load { time: load.time.min(ROUND), ..load }
    }

    /// Rounds, each under the next disturbance, until there are as many reads as are wanted: all of them hold.
    async fn run(&self, count: Count, round: impl AsyncFn(Fault, Load) -> Outcome) {
        let began = Instant::now();
        let mut all: Vec<Outcome> = Vec::new();
        let reads = |all: &[Outcome]| all.iter().map(|outcome| outcome.findings.reads).sum::<usize>();
        // A busy machine does less in the same time.
        let is_enough = |all: &[Outcome]| all.iter().all(|outcome| outcome.findings.reads > ENOUGH);
        while all.len() < self.faults.len() || !is_enough(&all) || reads(&all) < self.goal {
            for (place, fault) in self.faults.iter().enumerate() {
                let outcome = round(*fault, self.load()).await;
                match all.get_mut(place) {
                    Some(sum) => sum.add(&outcome),
                    None => all.push(outcome),
                }
            }
        }
        for (fault, outcome) in self.faults.iter().zip(&all) {
            prove(*fault, Policy::Lagoon(self.level), outcome, count);
        }
        let (reads, took, level) = (reads(&all), began.elapsed(), self.level);
        let bound = 3.0 / reads.max(1) as f64;
        note(&format!(
            "| together | pglagoon, `{level}` | {reads} | | | | | | 0 | < {bound:.1e} | held, in {took:.0?} |"
        ));
    }
}

/// So many reads are wanted of each level.
fn goal() -> Option<usize> {
    std::env::var("PGLAGOON_PROVE_READS").ok()?.parse().ok()
}

/// How much longer the long form takes than other tests, if it reads as little as a thousand times a second.
pub fn seconds() -> u64 {
    goal().map_or(0, |reads| reads as u64 / 1000)
}

/// Sessions that read all registers at once, and write to one of them what they have seen of another.
async fn wholes(stand: &Stand, policy: Policy, load: Load) -> Outcome {
    let fault = Fault::Pauses;
    let disturbance = Disturbance::begin(stand, fault).await;
    let before = routed(stand);
    let stop = Arc::new(AtomicBool::new(false));
    let urls = Urls::new(stand, policy);
    let working: Vec<JoinHandle<Findings>> = (0..load.sessions)
        .map(|number| {
            let session = Session::new(number, policy, load, fault, urls.clone());
            tokio::spawn(whole_after_whole(session, stop.clone()))
        })
        .collect();
    tokio::time::sleep(load.time).await;
    stop.store(true, Ordering::Relaxed);
    let mut findings = Findings::default();
    join_all(working).await.into_iter().for_each(|found| findings.add(&found.unwrap()));
    let after = routed(stand);
    disturbance.end(stand, fault).await;
    let [primary, replica] = [0, 1].map(|role| after[role] - before[role]);
    let on_replicas = matches!(policy, Policy::Lagoon(_)).then_some(replica / (primary + replica).max(1.0));
    Outcome { findings, on_replicas, failed: 0, told: 0 }
}

async fn whole_after_whole(mut session: Session, stop: Arc<AtomicBool>) -> Findings {
    assert!(session.connect().await, "nothing keeps it from connecting");
    let mut findings = Findings::default();
    while !stop.load(Ordering::Relaxed) {
        let register = session.random(REGISTERS as u64) as usize;
        if session.random(1000) < session.load.writes {
            let version = session.write(register).await.expect("writes succeed");
            session.seen = Some((register, version));
            findings.writes += 1;
            continue;
        }
        let rows = session.whole().await.expect("reads succeed");
        let is_torn =
            rows.iter().any(|row| row.cause.is_some_and(|(key, version)| rows[key].version < version));
        findings.torn += usize::from(is_torn);
        findings.reads += 1;
        session.seen = Some((register, rows[register].version));
    }
    findings
}

/// A register, with what its writer had seen.
struct Row {
    version: Version,
    cause: Option<Item>,
}

const WHOLE: &str = "SELECT concat_ws(' ', v, dk, dv) FROM register ORDER BY k";

impl Session {
    /// All registers, as of one moment.
    async fn whole(&self) -> Answer<Vec<Row>> {
        let (rows, half) = match self.policy {
            Policy::Halves => (texts(&self.clients[1], WHOLE).await?, texts(&self.clients[2], WHOLE).await?),
            _ => (texts(&self.clients[0], WHOLE).await?, Vec::new()),
        };
        let rest = rows.iter().skip(half.len() / 2);
        half.iter().take(half.len() / 2).chain(rest).map(|text| row(text)).collect()
    }
}

fn row(text: &str) -> Answer<Row> {
    let fields: Vec<Version> = text.split(' ').filter_map(|field| field.parse().ok()).collect();
    match fields[..] {
        [version] => Ok(Row { version, cause: None }),
        [version, key, seen] => Ok(Row { version, cause: Some((key as usize, seen)) }),
        _ => Err(Failure::Unanswered),
    }
}
