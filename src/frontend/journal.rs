//! What the log has of clients that are turned away or cut off.
//!
//! Who may connect can be refused as often as he likes: all of that is counted, and so many lines are written as somebody may
//! read. Names come from clients, before anybody knows who they are: they are written escaped, and not at any length.

use crate::error::Report;
use crate::lock::lock;
use crate::net::Endpoint;
use crate::wire::SqlState;
use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How many lines of a kind are written in each [`WINDOW`].
const LINES: u32 = 20;

/// For how long lines are counted together.
const WINDOW: Duration = Duration::from_secs(10);

/// The longest name, and the longest reason, that is written, in characters. PostgreSQL's names have 63 bytes.
const LONGEST: usize = 200;

/// SQLSTATEs that are counted apart; a server could send any. The others are counted as [`OTHER`].
const MOST_CODES: usize = 32;

/// What stands for the codes beyond them.
const OTHER: &str = "other";

/// The lines, and the count of refused logins. One per process.
#[derive(Default)]
pub struct Journal {
    refused: Mutex<(HashMap<SqlState, u64>, u64)>,
    refusals: Ration,
    lookups: Ration,
    troubles: Ration,
}

impl Journal {
    /// Somebody at `peer`, who said that he is `user` and wants `database`, was not let in.
    pub(super) fn refused(&self, peer: &Endpoint, user: &str, database: &str, report: &Report) {
        self.count(report.code);
        let Some(left_out) = self.refusals.take(Instant::now()) else { return };
        let (user, database, why) = (Shown(user), Shown(database), Shown(&report.message));
        tracing::info!(%peer, %user, %database, sqlstate = %report.code, %why, left_out, "a login was refused");
    }

    /// Nobody could say whether somebody may log in, or what was said is of no use.
    pub(super) fn not_looked_up(&self, user: &str, database: &str, why: &dyn fmt::Display) {
        let Some(left_out) = self.lookups.take(Instant::now()) else { return };
        let (user, database) = (Shown(user), Shown(database));
        tracing::warn!(%user, %database, %why, left_out, "a user could not be looked up");
    }

    /// A client that is logged in was told that it asked in vain, or too long.
    pub(super) fn told(&self, client: u64, user: &str, database: &str, report: &Report) {
        let Some(left_out) = self.troubles.take(Instant::now()) else { return };
        let (user, database, why) = (Shown(user), Shown(database), Shown(&report.message));
        tracing::info!(client, %user, %database, sqlstate = %report.code, %why, left_out, "a client was told");
    }

    fn count(&self, code: SqlState) {
        let (codes, others) = &mut *lock(&self.refused);
        match codes.contains_key(&code) || codes.len() < MOST_CODES {
            true => *codes.entry(code).or_default() += 1,
            false => *others += 1,
        }
    }

    /// How many logins were refused, by SQLSTATE.
    pub fn refusals(&self) -> Vec<(String, u64)> {
        let (codes, others) = &*lock(&self.refused);
        let codes = codes.iter().map(|(code, count)| (code.to_string(), *count));
        codes.chain((*others > 0).then(|| (OTHER.to_owned(), *others))).collect()
    }
}

/// So many lines in a time, and how many were left out.
#[derive(Default)]
struct Ration(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    since: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Ration {
    /// Whether one more line may be written, and if so how many were left out since the last one.
    fn take(&self, now: Instant) -> Option<u64> {
        let Lines { since, written, left_out } = &mut *lock(&self.0);
        if since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (*since, *written) = (Some(now), 0);
        }
        if *written == LINES {
            *left_out += 1;
            return None;
        }
        *written += 1;
        Some(std::mem::take(left_out))
    }
}

/// A text from outside: in quotes, escaped, and cut.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(LONGEST) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}...", &self.0[..end]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_as_many_lines_as_somebody_reads_and_how_many_were_left_out() {
        let (ration, start) = (Ration::default(), Instant::now());
        let written = (0..1000).filter(|_| ration.take(start).is_some()).count();
        assert_eq!(written, LINES as usize);
        assert_eq!(ration.take(start + WINDOW - Duration::from_millis(1)), None);
        assert_eq!(ration.take(start + WINDOW), Some(1001 - u64::from(LINES)));
        assert_eq!(ration.take(start + WINDOW), Some(0));
    }

    #[test]
    fn codes_are_counted_and_bounded() {
        let journal = Journal::default();
        for code in 0..100 {
            journal.count(SqlState::new(format!("{code:05}").as_bytes()).unwrap());
        }
        journal.count(SqlState::new(b"00007").unwrap());
        let refusals = journal.refusals();
        assert_eq!(refusals.len(), MOST_CODES + 1);
        let of = |code: &str| refusals.iter().find(|(known, _)| known == code).map(|(_, count)| *count);
        assert_eq!((of("00007"), of(OTHER)), (Some(2), Some(100 - MOST_CODES as u64)));
    }

    #[test]
    fn what_comes_from_outside_makes_no_lines_of_its_own() {
        assert_eq!(Shown("a\n\u{1b}[31mb\"").to_string(), r#""a\n\u{1b}[31mb\"""#);
        assert_eq!(Shown(&"ü".repeat(LONGEST)).to_string().chars().count(), LONGEST + 2);
        assert_eq!(Shown(&"ü".repeat(LONGEST + 1)).to_string().chars().count(), LONGEST + 5);
    }
}
