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

/// What a server's Patroni says of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Verdict {
    /// There is none: what the server says of itself counts.
    #[default]
    None,
    /// It is the leader.
    Leader,
    /// It is a replica to read from.
    Replica,
    /// It is neither: what it is instead.
    Neither(String),
    /// There was no answer, or none that is one.
    Silent(String),
}

impl Verdict {
    /// What holds of a server that was found to be `was` with `before` said of it, and is found to be `is` now. Without an
    /// answer, what the server says of itself counts, or Patroni's end would be the database's. But a primary that has been
    /// fenced stays so as long as it is the same: its Patroni may well have died with its lease.
    pub fn following(self, before: Verdict, was: &Observation, is: &Observation) -> Verdict {
        let is_same_primary = matches!(is, Observation::Primary { .. }) && was == is;
        match self {
            Verdict::Silent(_) if is_same_primary && before.denies_leader() => before,
            verdict => verdict,
        }
    }

    fn denies_leader(&self) -> bool {
        matches!(self, Verdict::Replica | Verdict::Neither(_))
    }

    /// What it is, if it is neither leader nor a replica to read from.
    fn instead(&self) -> &str {
        match self {
            Verdict::Neither(what) => what,
            Verdict::Replica => "a replica",
            Verdict::None | Verdict::Leader | Verdict::Silent(_) => "",
        }
    }
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
    /// In recovery, not to be read from: too far behind, or its Patroni says so.
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

/// What each server may be used for, and why if it is not used. At most one is primary: of several that say so, and of which
/// Patroni does not say otherwise, the one of which Patroni says so too; else the one on the highest timeline (the one
/// promoted last); among equals the first.
pub fn standings(
    observations: &[Observation],
    verdicts: &[Verdict],
    max_lag: Duration,
) -> Vec<(Standing, String)> {
    let claim = |(observation, verdict): (&Observation, &Verdict)| match observation {
        Observation::Primary { timeline } if !verdict.denies_leader() => {
            Some((*verdict == Verdict::Leader, *timeline))
        }
        _ => None,
    };
    let claims: Vec<_> = observations.iter().zip(verdicts).map(claim).collect();
    let best = claims.iter().flatten().max().copied();
    let primary = claims.iter().position(|claim| claim.is_some() && *claim == best);
    let (is_leader, highest) =
        best.map_or((false, None), |(is_leader, timeline)| (is_leader, Some(timeline)));
    // What follows a server that was promoted without the leader's lock is of another history, however high its timeline.
    let is_astray =
        |timeline: u32| highest.is_some_and(|highest| timeline < highest || is_leader && timeline > highest);
    let standing = |(index, (observation, verdict)): (usize, (&Observation, &Verdict))| match observation {
        Observation::None => (Standing::Unknown, "not probed yet".to_owned()),
        Observation::Refused(why) => (Standing::Unknown, why.clone()),
        Observation::Failed(why) => (Standing::Down, why.clone()),
        Observation::Primary { .. } if primary == Some(index) => (Standing::Primary, String::new()),
        Observation::Primary { timeline } if verdict.denies_leader() => {
            let instead = verdict.instead();
            let why = format!(
                "says that it is primary on timeline {timeline}; Patroni says that it is not the leader, but {instead}"
            );
            (Standing::Down, why)
        }
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
        Observation::Replica { timeline: Some(timeline), .. } if is_astray(*timeline) => (
            Standing::Lagging,
            format!("on timeline {timeline}; the primary is on {}", highest.unwrap_or_default()),
        ),
        Observation::Replica { .. } if matches!(verdict, Verdict::Neither(_)) => {
            let instead = verdict.instead();
            (Standing::Lagging, format!("Patroni says that it is no replica to read from, but {instead}"))
        }
        Observation::Replica { age: Some(age), .. } if *age > max_lag => {
            (Standing::Lagging, format!("{:.1} s behind the primary", age.as_secs_f64()))
        }
        // Without a primary to compare with, a replica is as good as it was.
        Observation::Replica { .. } => (Standing::Replica, String::new()),
    };
    observations.iter().zip(verdicts).enumerate().map(standing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_LAG: Duration = Duration::from_secs(10);

    fn replica(age: u64) -> Observation {
        Observation::Replica { replay: Some(Lsn(1)), timeline: None, age: Some(Duration::from_secs(age)) }
    }

    fn of(observations: &[Observation]) -> Vec<Standing> {
        under(&vec![Verdict::None; observations.len()], observations)
    }

    fn under(verdicts: &[Verdict], observations: &[Observation]) -> Vec<Standing> {
        standings(observations, verdicts, MAX_LAG).into_iter().map(|(standing, _)| standing).collect()
    }

    fn silent() -> Verdict {
        Verdict::Silent("connection refused".into())
    }

    fn neither() -> Verdict {
        Verdict::Neither("primary, running".into())
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
    fn who_is_primary_takes_the_server_and_its_patroni_to_say() {
        let primary = Observation::Primary { timeline: 1 };
        for denial in [Verdict::Replica, neither()] {
            assert_eq!(under(&[denial], std::slice::from_ref(&primary)), [Standing::Down]);
        }
        // Elected, and not promoted yet.
        assert_eq!(under(&[Verdict::Leader], &[replica(0)]), [Standing::Replica]);
        assert_eq!(under(&[Verdict::Leader], &[Observation::Failed("x".into())]), [Standing::Down]);
        assert_eq!(under(&[Verdict::Leader], &[primary]), [Standing::Primary]);
    }

    #[test]
    fn the_leader_counts_more_than_a_later_promotion_of_which_nothing_is_said() {
        let [first, second] = [1, 2].map(|timeline| Observation::Primary { timeline });
        let follower = Observation::Replica { replay: Some(Lsn(1)), timeline: Some(2), age: None };
        assert_eq!(
            under(&[Verdict::Leader, silent(), Verdict::Replica], &[first.clone(), second.clone(), follower]),
            [Standing::Primary, Standing::Down, Standing::Lagging]
        );
        // Of two answers, one is older than the other.
        let both = [Verdict::Leader, Verdict::Leader];
        assert_eq!(under(&both, &[first.clone(), second.clone()]), [Standing::Down, Standing::Primary]);
        assert_eq!(under(&[silent(), silent()], &[first, second]), [Standing::Down, Standing::Primary]);
    }

    #[test]
    fn a_replica_that_patroni_excludes_takes_no_reads() {
        let primary = Observation::Primary { timeline: 1 };
        assert_eq!(
            under(
                &[Verdict::Leader, neither(), Verdict::Replica, silent()],
                &[primary, replica(0), replica(0), replica(0)]
            ),
            [Standing::Primary, Standing::Lagging, Standing::Replica, Standing::Replica]
        );
        // Its own lag counts all the same.
        assert_eq!(under(&[Verdict::Replica], &[replica(11)]), [Standing::Lagging]);
    }

    #[test]
    fn silence_fences_nobody_and_frees_nobody_who_is_fenced() {
        let [first, second] = [1, 2].map(|timeline| Observation::Primary { timeline });
        let following =
            |before: Verdict, was: &Observation, is: &Observation| silent().following(before, was, is);
        assert_eq!(following(neither(), &first, &first), neither());
        assert_eq!(following(Verdict::Leader, &first, &first), silent());
        // Promoted since: nobody has said anything of that.
        assert_eq!(following(Verdict::Replica, &replica(0), &first), silent());
        assert_eq!(following(neither(), &first, &second), silent());
        assert_eq!(following(neither(), &replica(0), &replica(0)), silent());
        assert_eq!(Verdict::Leader.following(neither(), &first, &first), Verdict::Leader);
        assert_eq!(Verdict::None.following(neither(), &first, &first), Verdict::None);
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
