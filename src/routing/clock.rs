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
const SAMPLES: usize = 512;

/// How far apart they are at least: those that come closer, when many are asked for, take no place.
const BEAT: Duration = Duration::from_millis(250);

/// The latest ones are kept beside that, this far apart: whoever asks what a promotion has kept looks at these, and each
/// instant that cannot be told is one of which clients are told that it may be lost.
const RECENT: usize = 64;
const FINE_BEAT: Duration = Duration::from_millis(2);

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
#[derive(Debug, Clone, Default)]
pub struct Clock {
    samples: VecDeque<(Instant, Lsn)>,
    recent: VecDeque<(Instant, Lsn)>,
    /// The newest, also if it came too close behind the one before.
    newest: Option<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    position: Lsn,
    asked: Instant,
    known: Instant,
}

impl Clock {
    /// The primary's insert position was asked for after `before`, and is known at `now`.
    pub fn sample(&mut self, before: Instant, insert: Lsn, now: Instant) {
        let position = normalised(insert);
        match self.newest {
            // Two questions were out at once; the one that was answered first knew less.
            Some(newest) if position < newest.position && before < newest.known => return,
            // WAL that was not flushed is lost in a crash: what was known before says nothing any more.
            Some(newest) if position < newest.position => self.clear(),
            _ => {}
        }
        self.newest = Some(Sample { position, asked: before, known: now });
        keep(&mut self.recent, (before, position), FINE_BEAT, RECENT);
        keep(&mut self.samples, (before, position), BEAT, SAMPLES);
    }

    /// The newest position.
    pub fn newest(&self) -> Option<Lsn> {
        self.newest.map(|newest| newest.position)
    }

    /// Another primary writes another history.
    pub fn clear(&mut self) {
        *self = Clock::default();
    }

    /// The earliest position that was asked for at `since` or later: an upper bound of what was acknowledged before.
    pub fn first_since(&self, since: Instant) -> Option<Lsn> {
        let earlier = self.samples.partition_point(|&(at, _)| at < since);
        self.samples.get(earlier).map(|&(_, position)| position)
    }

    /// When the newest sample at or below `position` was asked for: what was acknowledged before is at or below, too.
    pub fn last_below(&self, position: Lsn) -> Option<Instant> {
        let newest = self.newest.map(|newest| (newest.asked, newest.position));
        let kept = self.recent.iter().rev().chain(self.samples.iter().rev());
        let mut newest_first = newest.into_iter().chain(kept.copied());
        newest_first.find(|&(_, sample)| sample <= position).map(|(at, _)| at)
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

/// Keeps a sample, unless it comes too close behind the one before.
fn keep(samples: &mut VecDeque<(Instant, Lsn)>, sample: (Instant, Lsn), beat: Duration, most: usize) {
    if samples.back().is_some_and(|(last, _)| sample.0.saturating_duration_since(*last) < beat) {
        return;
    }
    samples.push_back(sample);
    if samples.len() > most {
        samples.pop_front();
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
            let at = start + second * n;
            clock.sample(at, Lsn(1000 + u64::from(n) * 100), at);
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
    fn the_earliest_sample_asked_for_since_an_instant_bounds_what_was_before_it() {
        let start = Instant::now();
        let mut clock = Clock::default();
        for n in 0..4 {
            let at = start + BEAT * n;
            clock.sample(at, Lsn(1000 + u64::from(n) * 100), at);
        }
        assert_eq!(clock.first_since(start), Some(Lsn(1000)));
        assert_eq!(clock.first_since(start + BEAT * 2), Some(Lsn(1200)));
        assert_eq!(clock.first_since(start + BEAT * 2 + Duration::from_millis(1)), Some(Lsn(1300)));
        assert_eq!(clock.first_since(start + BEAT * 4), None);
    }

    #[test]
    fn samples_that_come_too_close_take_no_place() {
        let start = Instant::now();
        let mut clock = Clock::default();
        (0..1000).for_each(|n| clock.sample(start + BEAT / 10 * n, Lsn(u64::from(n)), start + BEAT / 10 * n));
        assert!((95..=100).contains(&clock.samples.len()), "{}", clock.samples.len());
        assert_eq!(clock.newest(), Some(Lsn(999)));
        assert_eq!(
            clock.last_below(Lsn(999)),
            Some(start + BEAT / 10 * 999),
            "the newest counts all the same"
        );
    }

    #[test]
    fn what_was_kept_is_known_to_a_few_milliseconds_if_it_was_asked_for() {
        let start = Instant::now();
        let mut clock = Clock::default();
        let at = |n: u32| start + FINE_BEAT / 2 * n;
        (0..1000).for_each(|n| clock.sample(at(n), Lsn(u64::from(n)), at(n)));
        assert_eq!(clock.last_below(Lsn(991)), Some(at(990)));
        assert!(clock.last_below(Lsn(500)) > Some(at(500) - BEAT), "older ones by the beat");
        assert_eq!(clock.recent.len(), RECENT);
    }

    #[test]
    fn a_position_that_goes_back_starts_anew() {
        let now = Instant::now();
        let mut clock = Clock::default();
        clock.sample(now, Lsn(5000), now + BEAT);
        clock.sample(now, Lsn(4000), now + BEAT);
        assert_eq!(clock.newest(), Some(Lsn(5000)), "the answers crossed each other");
        clock.sample(now + BEAT, Lsn(1000), now + BEAT);
        assert_eq!((clock.newest(), clock.age(Lsn(999), now)), (Some(Lsn(1000)), None));
    }
}
