//! PostgreSQL's regression tests, statement by statement: the database changes under them, so the standby and the catalog
//! follow, and every query is judged by the catalog of its moment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use pglagoon::sql::lexer::{Kind, tokens};
use pglagoon::sql::{Access, Effects, Statement, TransactionVerb};

use super::bench::{Bench, Finding};

/// What a run has shown.
#[derive(Debug, Default)]
pub struct Report {
    statements: usize,
    queries: usize,
    sent: usize,
    /// Sent away though the standby did otherwise.
    pub wrong: Vec<String>,
    /// Kept on the primary though the standby did the same: by reason and deciding word, with an example.
    lost: BTreeMap<(String, String), (usize, String)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost: usize = self.lost.values().map(|(count, _)| count).sum();
        writeln!(f, "{} statements, {} queries, {} sent away", self.statements, self.queries, self.sent)?;
        writeln!(f, "{lost} kept on the primary though the standby did the same:")?;
        let mut ranked: Vec<_> = self.lost.iter().collect();
        ranked.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        for ((reason, token), (count, example)) in ranked {
            writeln!(f, "{count:6} {reason} {token:24} {}", one_line(example))?;
        }
        writeln!(f, "{} sent away wrongly:", self.wrong.len())?;
        self.wrong.iter().try_for_each(|wrong| writeln!(f, "{wrong}"))
    }
}

fn one_line(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(150).collect()
}

/// Runs the tests of the schedule in `folder`.
pub async fn run(bench: &mut Bench, folder: &Path) -> Report {
    let schedule =
        std::fs::read_to_string(folder.join("parallel_schedule")).expect("the schedule can be read");
    let tests =
        schedule.lines().filter_map(|line| line.strip_prefix("test:")).flat_map(str::split_whitespace);
    let mut run = Run {
        bench,
        report: Report::default(),
        stale: Stale::Catalog,
        in_block: false,
        is_pinned: false,
        set_in_block: Vec::new(),
    };
    for (place, test) in tests.enumerate() {
        let Ok(script) = std::fs::read_to_string(folder.join("sql").join(format!("{test}.sql"))) else {
            continue;
        };
        // Each has a copy of what the first has made, so that none sees what another has spoilt.
        match place {
            0 => run.bench.enter("base", "template0").await,
            _ => run.bench.enter(&format!("test{place}"), "base").await,
        }
        (run.in_block, run.is_pinned) = (false, false);
        let before = (run.report.queries, run.report.sent, run.report.wrong.len());
        for sql in statements(&script, folder) {
            run.statement(&sql).await;
        }
        let now = &run.report;
        let (queries, sent, wrong) =
            (now.queries - before.0, now.sent - before.1, now.wrong.len() - before.2);
        println!("{test}: {queries} queries, {sent} sent away, {wrong} wrongly");
    }
    run.report
}

struct Run<'a> {
    bench: &'a mut Bench,
    report: Report,
    stale: Stale,
    in_block: bool,
    is_pinned: bool,
    /// What was set in the block, for the standby if the block is committed.
    set_in_block: Vec<String>,
}

/// What the primary has that the standby, or the catalog that was read, has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stale {
    Nothing,
    Data,
    Catalog,
}

impl Run<'_> {
    async fn statement(&mut self, sql: &str) {
        self.report.statements += 1;
        if !self.in_block && !self.is_pinned && is_query(sql) {
            self.report.queries += 1;
            self.query(sql).await;
            return;
        }
        let statement = self.bench.classify(sql);
        self.run(sql, &statement).await;
    }

    async fn query(&mut self, sql: &str) {
        match self.stale {
            Stale::Catalog => self.bench.settle().await,
            Stale::Data => self.bench.catch_up().await,
            Stale::Nothing => {}
        }
        self.stale = Stale::Nothing;
        let statement = self.bench.classify(sql);
        let is_sent = self.bench.is_sent_away(sql);
        self.report.sent += usize::from(is_sent);
        match (is_sent, self.bench.compare(sql).await) {
            (true, Finding::Differs(how)) => {
                println!("WRONG: {sql}\n    {how}");
                self.report.wrong.push(format!("{sql}\n    {how}"));
            }
            (false, Finding::Fits) => {
                let cause = (statement.reason.to_string(), statement.token.to_lowercase());
                self.report.lost.entry(cause).or_insert_with(|| (0, sql.to_owned())).0 += 1;
            }
            _ => {}
        }
        if !is_sent {
            self.run(sql, &statement).await;
        }
    }

    /// Runs it where it counts. What fails here fails in the regression tests, too, or needs what is not here.
    async fn run(&mut self, sql: &str, statement: &Statement) {
        let failed = self.bench.primary.simple_query(sql).await.is_err();
        if failed && self.in_block {
            // What was set in it goes with it, even if it ends with COMMIT.
            self.set_in_block.clear();
        }
        // A session with temporary objects stays on the primary.
        self.is_pinned |= statement.effects.any(Effects::TEMPORARY);
        match statement.transaction {
            Some(TransactionVerb::Begin) => self.in_block = true,
            Some(TransactionVerb::Rollback) => (self.in_block, self.set_in_block) = (false, Vec::new()),
            Some(TransactionVerb::Commit | TransactionVerb::PrepareTransaction) => self.in_block = false,
            _ => {}
        }
        if statement.effects.any(Effects::SETTINGS.with(Effects::DISCARD_ALL)) {
            self.set_in_block.push(sql.to_owned());
        }
        if !self.in_block {
            for set in std::mem::take(&mut self.set_in_block) {
                let _ = self.bench.standby.simple_query(&set).await;
            }
            self.bench.note_state().await;
        }
        let quiet = statement.access == Access::Unsure && !statement.effects.is_none();
        let stale = match statement.access {
            _ if statement.effects.any(Effects::DDL.with(Effects::HIDDEN_SETTINGS)) || self.in_block => {
                Stale::Catalog
            }
            _ if quiet || statement.access == Access::Read => Stale::Nothing,
            Access::Write => Stale::Data,
            _ => Stale::Catalog,
        };
        self.stale = self.stale.max(stale);
    }
}

fn is_query(sql: &str) -> bool {
    let verb = sql.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
    let verb: String = verb.chars().take_while(char::is_ascii_alphabetic).collect();
    matches!(verb.to_ascii_lowercase().as_str(), "select" | "with" | "values" | "table" | "show" | "explain")
}

/// The statements of a psql script, without what is psql's own and without data for COPY.
fn statements(script: &str, folder: &Path) -> Vec<String> {
    let mut statements = Vec::new();
    let mut open = String::new();
    let mut file = String::new();
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        if open.trim().is_empty() && line.starts_with('\\') {
            if let Some(name) = line.strip_prefix("\\set filename :abs_srcdir") {
                file = format!("'{}{}'", folder.display(), name.trim().trim_matches('\''));
            }
            continue;
        }
        let line = line.replace(":'filename'", &file).replace("\\;", ";");
        let line = ["\\gset", "\\gexec", "\\gdesc", "\\crosstabview", "\\gx", "\\g", "\\watch"]
            .iter()
            .find_map(|command| line.split_once(command).map(|(sql, _)| format!("{sql};")))
            .unwrap_or(line);
        open.push_str(&line);
        open.push('\n');
        let whole = open.clone();
        let (complete, rest) = split(&whole);
        for sql in complete {
            let is_fed = sql.to_lowercase().contains("from stdin");
            if is_fed {
                lines.by_ref().find(|line| *line == "\\.");
            } else {
                statements.push(permanent(sql));
            }
        }
        open = rest.to_owned();
    }
    statements
}

/// The statements that end in a text, without the comments before them, and what is left of it.
fn split(text: &str) -> (Vec<&str>, &str) {
    let (mut statements, mut end, mut depth, mut start) = (Vec::new(), 0, 0_u32, None);
    for token in tokens(text.as_bytes()) {
        match token.kind {
            Kind::LeftParen => depth += 1,
            Kind::RightParen => depth = depth.saturating_sub(1),
            Kind::Semicolon if depth == 0 => {
                statements.extend(start.take().map(|start| &text[start..token.end]));
                end = token.end;
                continue;
            }
            _ => {}
        }
        start.get_or_insert(token.start);
    }
    (statements, &text[end..])
}

/// A temporary relation would pin its session; a permanent one is as good to read from.
fn permanent(sql: &str) -> String {
    let lower = sql.to_lowercase();
    if !lower.starts_with("create") {
        return sql.to_owned();
    }
    let head = lower.split_whitespace().take(4).collect::<Vec<_>>();
    let Some(place) = head.iter().position(|word| matches!(*word, "temp" | "temporary")) else {
        return sql.to_owned();
    };
    let mut words: Vec<&str> = sql.splitn(place + 2, char::is_whitespace).collect();
    if words.len() == place + 2 {
        words.remove(place);
    }
    words.join(" ")
}
