//! Writes that end where a page of WAL does, on a primary that is idle from then on.
//!
//! The insert position stands behind the next page's header then, where no record ends: no replica comes to it before the
//! next record is written, which may take seconds. The mistake shows in time alone: a read that waits in vain, and falls
//! back to the primary.

use super::*;
use crate::harness::{eventually_async, rows};
use pglagoon::cli::playground::SUPERUSER;

const PAGE: u64 = 8192;

/// What begins where the write ended: how far behind it an insert position stands.
#[derive(Debug, Clone, Copy)]
enum Begins {
    Page = 24,
    Segment = 40,
}

impl Begins {
    fn words(self) -> &'static str {
        match self {
            Begins::Page => "page",
            Begins::Segment => "segment",
        }
    }
}

/// For how long the positive control waits for the position as it is.
const IN_VAIN: Duration = Duration::from_millis(500);

const READ: &str = "SELECT v FROM register WHERE k = 0";

#[tokio::test(flavor = "multi_thread")]
async fn a_read_does_not_wait_for_a_page_header() {
    let stand = stand("session", |setup| setup.set("routing", "max_wait", quote("10s")));
    let rounds = Load::new(0, Duration::ZERO).time.as_secs().clamp(3, 20) as usize;
    let trial = Trial::new(&stand).await;
    for begins in [Begins::Page, Begins::Segment] {
        let before = routed(&stand);
        let mut waits = Vec::new();
        while waits.len() < rounds {
            waits.extend(trial.turn(begins).await);
        }
        let after = routed(&stand);
        judge(begins, &waits, [0, 1].map(|role| after[role] - before[role]));
    }
}

/// How long a read waited behind a write that ended at a page's end.
struct Wait {
    /// Through pglagoon.
    right: Duration,
    /// Where a position counts as it is; `None`: it was not reached in time.
    wrong: Option<Duration>,
}

struct Trial {
    lagoon: Client,
    primary: Client,
    replica: Client,
}

impl Trial {
    async fn new(stand: &Stand) -> Trial {
        let nodes = stand.playground.nodes();
        let lagoon = stand.lagoon.connect(&stand.lagoon.url(SUPERUSER, DATABASE)).await.unwrap();
        let [primary, replica] = [superuser(nodes[0].port()).await, superuser(nodes[1].port()).await];
        eventually_async("reads go to replicas", async || {
            let before = routed(stand)[1];
            rows(&lagoon, READ).await;
            routed(stand)[1] > before
        })
        .await;
        Trial { lagoon, primary, replica }
    }

    /// `None`: it did not come off, because somebody else wrote.
    async fn turn(&self, begins: Begins) -> Option<Wait> {
        let end = match begins {
            Begins::Page => self.fill_page().await?,
            Begins::Segment => self.fill_segment().await,
        };
        if end % PAGE != begins as u64 {
            return None;
        }
        let asked = Instant::now();
        rows(&self.lagoon, READ).await;
        let right = asked.elapsed();
        let wrong = self.wait_for(end).await;
        (self.insert().await == end).then_some(Wait { right, wrong })
    }

    /// Writes through pglagoon up to the end of a page.
    async fn fill_page(&self) -> Option<u64> {
        // Long enough for its record to have the same head as any longer one.
        const LEAST: u64 = 300;
        let before = self.insert().await;
        self.emit(LEAST).await;
        let after = self.insert().await;
        if after / PAGE != before / PAGE {
            return None;
        }
        let room = PAGE - after % PAGE;
        let more = match (LEAST + room).checked_sub(after - before) {
            Some(more) if more >= LEAST => more,
            _ => LEAST + room + PAGE - Begins::Page as u64 - (after - before),
        };
        self.emit(more).await;
        Some(self.insert().await)
    }

    async fn fill_segment(&self) -> u64 {
        rows(&self.lagoon, "UPDATE register SET v = v + 1 WHERE k = 0").await;
        rows(&self.lagoon, "SELECT pg_switch_wal()").await;
        self.insert().await
    }

    async fn emit(&self, length: u64) {
        rows(&self.lagoon, &format!("SELECT pg_logical_emit_message(true, '', repeat('x', {length}))")).await;
    }

    async fn insert(&self) -> u64 {
        position(&self.primary, INSERTED).await.unwrap()
    }

    async fn wait_for(&self, end: u64) -> Option<Duration> {
        let asked = Instant::now();
        while position(&self.replica, REPLAYED).await.unwrap() < end {
            if asked.elapsed() > IN_VAIN {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Some(asked.elapsed())
    }
}

fn judge(begins: Begins, waits: &[Wait], [on_primary, on_replicas]: [f64; 2]) {
    let reads = waits.len();
    let longest = waits.iter().map(|wait| wait.right).max().unwrap_or_default();
    let late = waits.iter().filter(|wait| wait.right >= IN_VAIN).count() + on_primary as usize;
    let caught = waits.iter().filter(|wait| wait.wrong.is_none()).count();
    let share = 100.0 * on_replicas / (on_primary + on_replicas).max(1.0);
    let fault = format!("a write fills a {}, then idle", begins.words());
    let (held, found) =
        (if late == 0 { "held" } else { "BROKEN" }, if caught > 0 { "caught" } else { "not caught" });
    note(&format!(
        "| {fault} | pglagoon, `session` | {reads} | {reads} | | | | {share:.1} % | {late} | waited {longest:.0?} at most | {held} |"
    ));
    note(&format!(
        "| {fault} | *control:* position as it is | {reads} | {reads} | | | | | {caught} | {IN_VAIN:.0?} in vain | {found} |"
    ));
    assert!(late == 0, "{begins:?}: {late} late, up to {longest:?}, {on_primary} on the primary");
    assert!(caught == reads, "{begins:?}: {caught} of {reads}: nothing had to be taken from these positions");
}
