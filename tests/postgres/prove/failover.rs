//! The primary is lost and a replica promoted, with and without loss; later the old primary comes back as one.

use super::*;
use crate::harness::{eventually, eventually_async};
use crate::history::{Versions, timeline};
use pglagoon::cli::playground::{Node, Stop};

/// The replica that is promoted.
const HEIR: usize = 1;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_its_promises_over_a_promotion_that_loses_nothing() {
    survives(Fault::Promotion, "session", Findings::of_session).await;
    perishes(Fault::Promotion, Policy::ForeignReplica, |found| found.own_writes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_told_what_a_promotion_may_have_lost() {
    survives(Fault::LossyPromotion, "session", Findings::of_session).await;
    perishes(Fault::LossyPromotion, Policy::TokenWithoutTimeline, |found| found.silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strong_reads_stay_strong_over_a_promotion_that_loses_nothing() {
    survives(Fault::Promotion, "strong", Findings::of_strong).await;
    perishes(Fault::Promotion, Policy::StrongForeignReplica, |found| found.fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strong_reads_stay_strong_over_a_promotion_that_loses_something() {
    survives(Fault::LossyPromotion, "strong", Findings::of_strong).await;
    perishes(Fault::LossyPromotion, Policy::StrongForeignReplica, |found| found.fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_with_the_primary_that_was_promoted_last() {
    survives(Fault::TwoPrimaries, "session", Findings::of_session).await;
    perishes(Fault::TwoPrimaries, Policy::EitherPrimary, |found| found.orphaned).await;
}

/// A failover happens once in the life of a stand: the long form has one after the other.
async fn survives(fault: Fault, level: &'static str, count: Count) {
    let policy = Policy::Lagoon(level);
    let end = Instant::now() + load().time;
    let mut all = fail_over(fault, policy).await;
    while Instant::now() < end {
        all.add(&fail_over(fault, policy).await);
    }
    prove(fault, policy, &all, count);
    let Outcome { findings, told, .. } = &all;
    assert!((findings.lost > 0) == (fault != Fault::Promotion), "{findings}");
    assert!(fault != Fault::LossyPromotion || *told > 0, "somebody had to be told: {findings}");
}

/// The positive control beside it.
async fn perishes(fault: Fault, policy: Policy, count: Count) {
    for _ in 0..TRIES {
        if caught(fault, policy, &fail_over(fault, policy).await, count) {
            return;
        }
    }
    panic!("{fault:?} did not bring {policy:?} down");
}

fn load() -> Load {
    Load::new(250, Duration::from_millis(3))
}

/// How long sessions work before the failover, after it, and when the old primary is back.
const PART: Duration = Duration::from_millis(700);

async fn fail_over(fault: Fault, policy: Policy) -> Outcome {
    let level = if let Policy::Lagoon(level) = policy { level } else { "session" };
    let mut stand = stand(level, |setup| setup);
    let urls = Urls::new(&stand, policy);
    let stop = Arc::new(AtomicBool::new(false));
    let working = tokio::spawn(work(urls.clone(), policy, load(), fault, stop.clone()));
    tokio::time::sleep(PART).await;
    if fault != Fault::Promotion {
        cut_off(&stand);
        // What is acknowledged now is lost.
        tokio::time::sleep(PART / 2).await;
    }
    let fork = promote(&mut stand, fault, &urls).await;
    tokio::time::sleep(PART).await;
    // It knows nothing of what happened, and would take writes.
    if fault != Fault::TwoPrimaries {
        stand.playground.node_mut(0).start().unwrap();
    }
    assert_eq!(stand.playground.primary().sql("SELECT pg_is_in_recovery()").unwrap().trim(), "f");
    lead_astray(&stand);
    tokio::time::sleep(PART).await;
    stop.store(true, Ordering::Relaxed);
    let record = working.await.unwrap();
    let is_new = |event: &&Event| timeline(event.item.1) > fork.timeline;
    assert!(record.events.iter().filter(is_new).count() > 10, "sessions go on after the failover");
    record.judged(Some(&fork))
}

/// The heir receives nothing any more; the other replica does.
fn cut_off(stand: &Stand) {
    let heir = &stand.playground.nodes()[HEIR];
    heir.sql("ALTER SYSTEM SET primary_conninfo = ''").unwrap();
    heir.reload().unwrap();
    eventually("the heir is cut off", || {
        let walsenders = stand.playground.primary().sql("SELECT count(*) FROM pg_stat_replication");
        walsenders.unwrap().trim() == "1"
    });
}

/// The primary ends, and its heir takes over.
async fn promote(stand: &mut Stand, fault: Fault, urls: &Urls) -> Fork {
    let primary = stand.playground.node_mut(0);
    match fault {
        Fault::TwoPrimaries => {}
        // A shutdown waits for replicas to have everything; a crash does not.
        Fault::LossyPromotion => primary.stop(Stop::Immediate).unwrap(),
        _ => primary.stop(Stop::Fast).unwrap(),
    }
    let heir = &stand.playground.nodes()[HEIR];
    eventually("the heir has replayed what it has", || {
        let idle = "SELECT pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn()";
        heir.sql(idle).unwrap().trim() == "t"
    });
    let kept = registers(heir);
    let promoted = Instant::now();
    heir.promote().unwrap();
    // Others write on: the new history comes to the positions of what was lost.
    heir.sql("INSERT INTO notes (word) VALUES ('others'); SELECT pg_switch_wal()").unwrap();
    urls.primary.store(HEIR, Ordering::Relaxed);
    settle(&stand.lagoon).await;
    Fork { timeline: 1, kept, promoted, settled: Instant::now() }
}

/// Somebody who knows no better writes to the old primary, and the replica that follows it comes to positions which the new
/// history has, too.
fn lead_astray(stand: &Stand) {
    let [primary, heir, astray] = stand.playground.nodes() else {
        unreachable!("a primary and two replicas")
    };
    let number = |node: &Node, sql: &str| parsed(node.sql(sql).unwrap().trim()).expect("a position");
    eventually("a replica is led astray", || {
        primary.sql("INSERT INTO notes (word) VALUES ('astray')").unwrap();
        primary.sql("SELECT pg_switch_wal()").unwrap();
        number(astray, REPLAYED) > number(heir, INSERTED)
    });
}

/// Waits until pglagoon writes to the new primary.
async fn settle(lagoon: &Lagoon) {
    let write = format!("INSERT INTO notes (word) VALUES ('settled') RETURNING {TIMELINE}");
    eventually_async("the new primary takes writes", async || {
        let Ok(client) = lagoon.connect(&lagoon.url(USER, DATABASE)).await else { return false };
        number(&client, &write).await == Ok(2)
    })
    .await;
}

fn registers(node: &Node) -> Versions {
    let rows = node.sql_in(DATABASE, "SELECT v FROM register ORDER BY k").unwrap();
    let versions: Vec<Version> = rows.lines().map(|version| version.parse().unwrap()).collect();
    versions.try_into().expect("one of each register")
}
