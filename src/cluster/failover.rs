//! Observations become roles. Pure.

use crate::routing::Lsn;
use std::time::Duration;

/// What the last probe of a server found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// It has not been probed yet.
    None,
    /// It takes writes.
    Primary {
        /// The timeline on which it writes.
        timeline: u32,
    },
    /// It is in recovery.
    Replica {
        /// What it has replayed, if anything yet.
        replay: Option<Lsn>,
        /// The timeline that it has come to, if that can be found out.
        timeline: Option<u32>,
        /// How old its data may be; `None` if that is not known.
        age: Option<Duration>,
    },
    /// It is there, but lets none of the monitor's logins in: nothing is known of its role.
    Refused(String),
    /// It did not answer as it should.
    Failed(String),
}

/// What a server may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// Not known yet.
    Unknown,
    /// Takes writes, and reads.
    Primary,
    /// Takes reads.
    Replica,
    /// In recovery, too far behind to be read from.
    Lagging,
    /// Not used.
    Down,
}

impl Standing {
    /// The inverse of `as u8`.
    pub fn from_u8(byte: u8) -> Standing {
        [Standing::Unknown, Standing::Primary, Standing::Replica, Standing::Lagging]
            .into_iter()
            .find(|standing| *standing as u8 == byte)
            .unwrap_or(Standing::Down)
    }

    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Standing::Unknown => "unknown",
            Standing::Primary => "primary",
            Standing::Replica => "replica",
            Standing::Lagging => "lagging",
            Standing::Down => "down",
        }
    }
}

/// What each server may be used for, and why if it is not used. At most one is primary: of several that say so, the one
/// on the highest timeline (the one promoted last); among equals the first.
pub fn standings(observations: &[Observation], max_lag: Duration) -> Vec<(Standing, String)> {
    let timeline = |observation: &Observation| match observation {
        Observation::Primary { timeline } => Some(*timeline),
        _ => None,
    };
    let highest = observations.iter().filter_map(timeline).max();
    let primary =
        observations.iter().position(|observation| highest.is_some() && timeline(observation) == highest);
    let standing = |(index, observation): (usize, &Observation)| match observation {
        Observation::None => (Standing::Unknown, "not probed yet".to_owned()),
        Observation::Refused(why) => (Standing::Unknown, why.clone()),
        Observation::Failed(why) => (Standing::Down, why.clone()),
        Observation::Primary { .. } if primary == Some(index) => (Standing::Primary, String::new()),
        Observation::Primary { timeline } => {
            let highest = highest.unwrap_or_default();
            (
                Standing::Down,
                format!("says that it is primary on timeline {timeline}; another is, on {highest}"),
            )
        }
        Observation::Replica { replay: None, .. } => {
            (Standing::Lagging, "has replayed nothing yet".to_owned())
        }
        // Its data are another history's, or it has not come yet to where this one begins.
        Observation::Replica { timeline: Some(timeline), .. }
            if highest.is_some_and(|highest| *timeline < highest) =>
        {
            (
                Standing::Lagging,
                format!("still on timeline {timeline}; the primary is on {}", highest.unwrap_or_default()),
            )
        }
        Observation::Replica { age: Some(age), .. } if *age > max_lag => {
            (Standing::Lagging, format!("{:.1} s behind the primary", age.as_secs_f64()))
        }
        // Without a primary to compare with, a replica is as good as it was.
        Observation::Replica { .. } => (Standing::Replica, String::new()),
    };
    observations.iter().enumerate().map(standing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_LAG: Duration = Duration::from_secs(10);

    fn replica(age: u64) -> Observation {
        Observation::Replica { replay: Some(Lsn(1)), timeline: None, age: Some(Duration::from_secs(age)) }
    }

    fn of(observations: &[Observation]) -> Vec<Standing> {
        standings(observations, MAX_LAG).into_iter().map(|(standing, _)| standing).collect()
    }

    #[test]
    fn a_replica_that_lags_takes_no_reads() {
        let primary = Observation::Primary { timeline: 1 };
        assert_eq!(
            of(&[primary, replica(0), replica(11)]),
            [Standing::Primary, Standing::Replica, Standing::Lagging]
        );
    }

    #[test]
    fn a_replica_of_another_timeline_takes_no_reads() {
        let primary = Observation::Primary { timeline: 2 };
        let on = |timeline| Observation::Replica { replay: Some(Lsn(1)), timeline, age: None };
        assert_eq!(
            of(&[primary, on(Some(1)), on(Some(2)), on(None)]),
            [Standing::Primary, Standing::Lagging, Standing::Replica, Standing::Replica]
        );
    }

    #[test]
    fn of_two_primaries_the_one_promoted_last_counts() {
        let [old, new] = [1, 2].map(|timeline| Observation::Primary { timeline });
        assert_eq!(of(&[old.clone(), new]), [Standing::Down, Standing::Primary]);
        assert_eq!(of(&[old.clone(), old]), [Standing::Primary, Standing::Down]);
    }

    #[test]
    fn without_a_primary_replicas_still_serve() {
        let age_unknown = Observation::Replica { replay: Some(Lsn(1)), timeline: None, age: None };
        assert_eq!(of(&[Observation::Failed("x".into()), age_unknown]), [Standing::Down, Standing::Replica]);
        assert_eq!(of(&[Observation::None]), [Standing::Unknown]);
        assert_eq!(of(&[Observation::Refused("x".into())]), [Standing::Unknown]);
    }

    #[test]
    fn a_standing_survives_its_byte() {
        for standing in
            [Standing::Unknown, Standing::Primary, Standing::Replica, Standing::Lagging, Standing::Down]
        {
            assert_eq!(Standing::from_u8(standing as u8), standing);
        }
    }
}
