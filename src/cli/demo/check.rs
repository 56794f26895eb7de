//! What `--check` verifies, on the servers' side: their statistics say where rows were written and tables read. pglagoon
//! must have ended before, because a backend hands in its last counts at its own end.

use std::io::{self, Write};
use std::process::{ExitCode, ExitStatus};

use super::Error;
use super::workload::Totals;
use crate::cli::playground::{Node, Playground, USER};

/// What each server has counted so far, the primary first.
pub(super) struct Counts {
    servers: Vec<ServerCounts>,
}

#[derive(Clone, Copy)]
struct ServerCounts {
    /// Scans of `items`, by index or not: one for each read of a reader's.
    items_read: u64,
    /// Rows inserted into `notes`.
    notes_written: u64,
}

impl Counts {
    pub(super) fn read(playground: &Playground) -> Result<Counts, Error> {
        let servers = playground.nodes().iter().map(ServerCounts::read).collect::<Result<_, _>>()?;
        Ok(Counts { servers })
    }

    /// What was counted since `before`, on each server.
    fn since(&self, before: &Counts) -> Vec<ServerCounts> {
        let both = self.servers.iter().zip(&before.servers);
        both.map(|(now, before)| ServerCounts {
            items_read: now.items_read.saturating_sub(before.items_read),
            notes_written: now.notes_written.saturating_sub(before.notes_written),
        })
        .collect()
    }
}

impl ServerCounts {
    fn read(node: &Node) -> Result<ServerCounts, Error> {
        let answer = node.sql(&format!(
            "DO $$ BEGIN
               FOR turn IN 1..500 LOOP
                 PERFORM pg_stat_clear_snapshot();
                 IF NOT EXISTS (SELECT FROM pg_stat_activity
                                 WHERE usename = '{USER}' AND backend_type = 'client backend') THEN
                   EXIT;
                 END IF;
                 PERFORM pg_sleep(0.01);
               END LOOP;
             END $$;
             SELECT coalesce(sum(seq_scan + coalesce(idx_scan, 0)) FILTER (WHERE relname = 'items'), 0),
                    coalesce(sum(n_tup_ins) FILTER (WHERE relname = 'notes'), 0)
               FROM pg_stat_user_tables"
        ))?;
        let mut counts = answer.trim().split('|').map(|count| count.parse().unwrap_or_default());
        Ok(ServerCounts {
            items_read: counts.next().unwrap_or_default(),
            notes_written: counts.next().unwrap_or_default(),
        })
    }
}

/// Compares what the clients did with what the servers counted, and says so.
pub(super) fn report(
    before: &Counts,
    playground: &Playground,
    totals: &Totals,
    ended: ExitStatus,
    out: &mut impl Write,
) -> Result<ExitCode, Error> {
    let counted = Counts::read(playground)?.since(before);
    let (primary, replicas) = counted.split_first().expect("a playground has a primary");
    let on_replicas: u64 = replicas.iter().map(|server| server.items_read).sum();
    let each: Vec<String> = counted.iter().map(|server| server.items_read.to_string()).collect();
    let mut checks = Checks { out, failed: 0 };
    checks.say(
        totals.writes > 0 && primary.notes_written == totals.writes,
        &format!("the primary inserted {} rows; clients wrote {}", primary.notes_written, totals.writes),
    )?;
    if replicas.is_empty() {
        checks.say(
            primary.items_read == totals.reads,
            &format!("without replicas the primary served {} of {} reads", primary.items_read, totals.reads),
        )?;
    } else {
        checks.say(
            totals.reads > 0 && primary.items_read == 0 && on_replicas == totals.reads,
            &format!(
                "clients that never write read {} times; the servers, the primary first, served {}",
                totals.reads,
                each.join(", ")
            ),
        )?;
        checks
            .say(replicas.iter().all(|server| server.items_read > 0), "every replica served some of them")?;
    }
    checks.say(
        totals.read_backs > 0 && totals.violations == 0,
        &format!(
            "{} reads after a write of the same client's, {} did not see it",
            totals.read_backs, totals.violations
        ),
    )?;
    checks.say(totals.errors.is_empty(), &format!("{} errors {:?}", totals.error_count(), totals.errors))?;
    checks.say(ended.success(), &format!("pglagoon drained at SIGTERM and ended with {ended}"))?;
    Ok(match checks.failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

struct Checks<'a, W> {
    out: &'a mut W,
    failed: usize,
}

impl<W: Write> Checks<'_, W> {
    fn say(&mut self, holds: bool, what: &str) -> io::Result<()> {
        self.failed += usize::from(!holds);
        writeln!(self.out, "check: {}  {what}", if holds { "ok    " } else { "FAILED" })
    }
}
