//! How the demo looks: a page redrawn each second on a terminal, a line per second elsewhere.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use super::observe::{Observed, Row};
use super::workload::{Second, Totals};

/// Draws what it is given.
pub(super) struct View {
    terminal: bool,
    addresses: Addresses,
}

/// What a person needs for having a look of their own.
pub(super) struct Addresses {
    pub(super) version: String,
    pub(super) database: String,
    pub(super) console: String,
    pub(super) metrics: String,
    pub(super) log: PathBuf,
}

impl View {
    pub(super) fn new(terminal: bool, addresses: Addresses) -> View {
        View { terminal, addresses }
    }

    /// What does not change.
    pub(super) fn welcome(&self, out: &mut impl Write) -> io::Result<()> {
        match self.terminal {
            true => Ok(()),
            false => write!(out, "{}", self.header()),
        }
    }

    /// What is so now.
    pub(super) fn show(
        &self,
        since: Duration,
        observed: &Observed,
        second: &Second,
        totals: &Totals,
        out: &mut impl Write,
    ) -> io::Result<()> {
        match self.terminal {
            // Home, and each line cleared to its end, so that nothing flickers.
            true => {
                let page = self.page(since, observed, second, totals).replace('\n', "\x1b[K\n");
                write!(out, "\x1b[H{page}\x1b[J")?;
            }
            false => writeln!(out, "{}", line(since, observed, second, totals))?,
        }
        out.flush()
    }

    fn header(&self) -> String {
        let Addresses { version, database, console, metrics, log } = &self.addresses;
        format!(
            "\n  pglagoon before PostgreSQL {version}\n\n\
             \x20 connect   psql {database}\n\
             \x20 console   psql {console} -c 'SHOW POOLS'\n\
             \x20 metrics   {metrics}\n\
             \x20 log       {}\n\
             \x20 stop      Ctrl-C ends it and removes everything\n\n",
            log.display()
        )
    }

    fn page(&self, since: Duration, observed: &Observed, second: &Second, totals: &Totals) -> String {
        let mut page = self.header();
        let highest = observed.servers.iter().filter_map(|row| row.rate).fold(1.0, f64::max);
        page += "  server    role      queries/s                        in use/size  waiting         lag\n";
        for row in &observed.servers {
            // Writing to a String cannot fail.
            let _ = writeln!(
                page,
                "  {:<9} {:<9} {:>9}  {:<20}   {:>11}  {:>7}  {:>10}",
                row.name,
                if row.role.is_empty() { "?" } else { &row.role },
                number(row.rate),
                "█".repeat((row.rate.unwrap_or_default() / highest * 20.0).round() as usize),
                format!("{}/{}", number(row.in_use), number(row.size)),
                number(row.waiting),
                lag(row),
            );
        }
        let _ = write!(
            page,
            "\n  queries   {} in the last second, p50 {}, p99 {}\n\
             \x20 waits     {} for a server connection, p50 {}, p99 {}\n\
             \x20 own reads {} after a write of the same client's, {} did not see it\n\
             \x20 errors    {}{}\n\n  {} s\n",
            second.latencies.len(),
            time(second.quantile(0.5)),
            time(second.quantile(0.99)),
            observed.waits.count,
            time(observed.waits.p50),
            time(observed.waits.p99),
            totals.read_backs,
            totals.violations,
            totals.error_count(),
            totals.errors.iter().next().map(|(text, _)| format!(": {text}")).unwrap_or_default(),
            since.as_secs(),
        );
        page
    }
}

fn line(since: Duration, observed: &Observed, second: &Second, totals: &Totals) -> String {
    let each = |what: &dyn Fn(&Row) -> String| {
        observed
            .servers
            .iter()
            .map(|row| format!("{} {}", row.name, what(row)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    format!(
        "{:>4} s | queries/s {} | in use {} | waiting {} | lag {} | {} queries p50 {} p99 {} | {} waits p50 {} p99 {} | \
         own reads {} violations {} | errors {}",
        since.as_secs(),
        each(&|row| number(row.rate)),
        each(&|row| format!("{}/{}", number(row.in_use), number(row.size))),
        each(&|row| number(row.waiting)),
        each(&lag),
        second.latencies.len(),
        time(second.quantile(0.5)),
        time(second.quantile(0.99)),
        observed.waits.count,
        time(observed.waits.p50),
        time(observed.waits.p99),
        totals.read_backs,
        totals.violations,
        totals.error_count(),
    )
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"))
}

fn time(value: Option<Duration>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.2} ms", value.as_secs_f64() * 1e3))
}

fn lag(row: &Row) -> String {
    match (row.lag, row.lag_bytes) {
        (None, None) => "-".to_owned(),
        (Some(lag), _) => time(Some(lag)),
        (None, Some(bytes)) => format!("{bytes} B"),
    }
}
