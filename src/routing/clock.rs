//! How far behind a replica is, by samples of our own. Pure.
//!
//! Each sample is a WAL position of the primary with the instant *before* it was asked for. A replica that has replayed a
//! sample's position shows everything that was committed before that instant; so it is at most as old as the newest sample
//! that it has reached. `replay_lag` and the time of the last replayed transaction say nothing of the kind: on an idle
//! primary the latter grows for ever.

use super::Lsn;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The samples that are kept.
const SAMPLES: usize = 256;

/// The pages of WAL, and the headers that may stand at their start: a position just behind a header is one at which no
/// record ends, so no replica ever reaches it before the next record.
///
/// Source: `XLOG_BLCKSZ`, `SizeOfXLogShortPHD` and `SizeOfXLogLongPHD` in PostgreSQL's `access/xlog_internal.h`.
const PAGE: u64 = 8192;
const HEADERS: [u64; 2] = [24, 40];

/// An insert position as the end of a record: without the page header that it may stand behind.
pub fn normalised(insert: Lsn) -> Lsn {
    match insert.0 % PAGE {
        header if HEADERS.contains(&header) => Lsn(insert.0 - header),
        _ => insert,
    }
}

/// The primary's positions over time, oldest first.
#[derive(Debug, Default)]
pub struct Clock {
    samples: VecDeque<(Instant, Lsn)>,
}

impl Clock {
    /// The primary's insert position was at least asked for after `before`.
    pub fn sample(&mut self, before: Instant, insert: Lsn) {
        let position = normalised(insert);
        if let Some((_, last)) = self.samples.back()
            && position < *last
        {
            // Another primary, or another timeline: what was known before says nothing any more.
            self.samples.clear();
        }
        self.samples.push_back((before, position));
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
    }

    /// The newest position.
    pub fn newest(&self) -> Option<Lsn> {
        self.samples.back().map(|&(_, position)| position)
    }

    /// How old the data of a replica may be at most that said, asked at `asked`, that it has replayed up to `replay`: zero if
    /// it had reached the newest sample of that time; `None` if it has reached none of the samples that are kept.
    ///
    /// Samples taken after `asked` say nothing of it: a replica that is up to date would seem to lag by a beat.
    pub fn age(&self, replay: Lsn, asked: Instant) -> Option<Duration> {
        let known = self.samples.iter().take_while(|&&(at, _)| at <= asked).count();
        let reached = self.samples.iter().rposition(|&(_, position)| position <= replay)?;
        match reached + 1 >= known {
            true => Some(Duration::ZERO),
            false => Some(asked.saturating_duration_since(self.samples[reached].0)),
        }
    }

    /// Since when the oldest sample is kept.
    pub fn oldest(&self) -> Option<Instant> {
        self.samples.front().map(|&(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_as_old_as_the_newest_sample_that_it_has_reached() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut clock = Clock::default();
        assert_eq!(clock.age(Lsn(1), start), None);
        for n in 0..4 {
            clock.sample(start + second * n, Lsn(1000 + u64::from(n) * 100));
        }
        let now = start + second * 4;
        assert_eq!(clock.age(Lsn(1300), now), Some(Duration::ZERO));
        assert_eq!(clock.age(Lsn(1299), now), Some(second * 2));
        assert_eq!(clock.age(Lsn(999), now), None);
        assert_eq!(
            clock.age(Lsn(1200), start + second * 2),
            Some(Duration::ZERO),
            "later samples do not count"
        );
    }

    #[test]
    fn a_position_behind_a_page_header_is_the_end_of_the_page_before() {
        assert_eq!(normalised(Lsn::parse("0/6000028").unwrap()), Lsn::parse("0/6000000").unwrap());
        assert_eq!(normalised(Lsn(8192 + 24)), Lsn(8192));
        assert_eq!(normalised(Lsn(8192 + 25)), Lsn(8192 + 25));
    }

    #[test]
    fn a_position_that_goes_back_starts_anew() {
        let now = Instant::now();
        let mut clock = Clock::default();
        clock.sample(now, Lsn(5000));
        clock.sample(now, Lsn(1000));
        assert_eq!((clock.newest(), clock.age(Lsn(999), now)), (Some(Lsn(1000)), None));
    }
}
