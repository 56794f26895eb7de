//! Observations become roles. Pure.

use crate::routing::{Lineage, Lsn};
use std::cmp::Ordering;
use std::time::{Duration, Instant};

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
    /// In recovery, not to be read from: too far behind for who asks, of another history, or its Patroni says so.
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

/// What there is to judge a server by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// What it says of itself.
    pub observation: Observation,
    /// The identifier of the database cluster that it belongs to, if it says so.
    pub system: Option<u64>,
    /// What its Patroni says of it.
    pub verdict: Verdict,
    /// Where a promoted server's own timeline began.
    pub fork: Option<Lsn>,
    /// When it was asked what it last answered.
    pub asked: Instant,
    /// When it first answered so.
    pub found: Instant,
    /// The timeline on which it is known to be a rival, see [`rivalry`].
    pub rival: Option<u32>,
}

impl Evidence {
    fn is_primary_on(&self, timeline: u32) -> bool {
        self.observation == Observation::Primary { timeline }
    }
}

/// What a server that says that it is primary is to the one that is or was so far, if it writes on the same timeline of the
/// same database cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rivalry {
    /// Nothing: it says something else.
    None,
    /// The other may be gone, and this may be its data, started elsewhere: only the other's answer can tell.
    Possible,
    /// The other has answered since, or had at another time: both wrote at once, so that this timeline number stands for two
    /// histories.
    On(u32),
}

/// Whether the server at `place` is a rival of the primary so far.
///
/// Two standbys that are promoted beside each other both come to the next timeline, so that the number does not tell which of
/// them was primary here. Of the one that was not, nothing that was acknowledged since is known. So it is fenced for good, also
/// when it is the only one left, until it has been in recovery (it was rewound, or made anew) or comes with a later timeline.
pub fn rivalry(place: usize, servers: &[Evidence], past: Option<&Lineage>) -> Rivalry {
    let server = &servers[place];
    let timeline = match server.observation {
        Observation::Primary { timeline } => timeline,
        Observation::Replica { .. } => return Rivalry::None,
        // What it is now, nobody knows.
        Observation::None | Observation::Refused(_) | Observation::Failed(_) => {
            return server.rival.map_or(Rivalry::None, Rivalry::On);
        }
    };
    if server.rival == Some(timeline) {
        return Rivalry::On(timeline);
    }
    let is_of_its_timeline = |past: &&Lineage| {
        past.node != place && timeline > 0 && timeline == past.timeline && past.may_be_kin(server.system)
    };
    let Some(ours) = past.filter(is_of_its_timeline).and_then(|past| servers.get(past.node)) else {
        return Rivalry::None;
    };
    match ours.is_primary_on(timeline) && ours.asked >= server.found {
        true => Rivalry::On(timeline),
        false => Rivalry::Possible,
    }
}

/// A server's claim to be primary, by what counts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    /// Its Patroni says so, too.
    is_leader: bool,
    /// It does not say that it belongs to another database cluster than the primary so far.
    is_kin: bool,
    /// The one that was promoted last.
    timeline: u32,
    /// It has been primary before: clients have written to it.
    is_incumbent: bool,
    /// Of two standbys that were promoted beside each other, the one that had come farther has more of what the primary
    /// before had acknowledged.
    fork: Option<Lsn>,
}

impl Claim {
    /// `None`: it makes none, or Patroni denies it, or it is a primary of yesterday, or a rival of what has been.
    fn of(place: usize, server: &Evidence, past: Option<&Lineage>) -> Option<Claim> {
        let Observation::Primary { timeline } = server.observation else { return None };
        let is_leader = server.verdict == Verdict::Leader;
        let is_outlived = past.is_some_and(|past| past.has_outlived(server.system, timeline));
        let is_incumbent = past.is_some_and(|past| past.node == place);
        let is_rival = server.rival == Some(timeline) && !is_incumbent;
        let counts = is_leader || !(server.verdict.denies_leader() || is_outlived || is_rival);
        counts.then(|| Claim {
            is_leader,
            is_kin: past.is_none_or(|past| past.may_be_kin(server.system)),
            timeline,
            is_incumbent,
            fork: server.fork,
        })
    }
}

/// The history that servers are compared with: the primary's, or the last one's while there is none.
struct Present {
    claim: Option<Claim>,
    primary: Option<usize>,
    timeline: Option<u32>,
    system: Option<u64>,
}

impl Present {
    fn of(servers: &[Evidence], past: Option<&Lineage>) -> Present {
        let claims = servers.iter().enumerate();
        let claims = claims.filter_map(|(place, server)| Some((Claim::of(place, server, past)?, place)));
        // Of equals the first.
        let best = claims.max_by(|(one, here), (other, there)| one.cmp(other).then(there.cmp(here)));
        match best {
            Some((claim, place)) => Present {
                claim: Some(claim),
                primary: Some(place),
                timeline: Some(claim.timeline),
                system: servers[place].system,
            },
            None => Present {
                claim: None,
                primary: None,
                timeline: past.map(|past| past.timeline),
                system: past.and_then(|past| past.system),
            },
        }
    }

    fn is_alien(&self, server: &Evidence) -> bool {
        server.system.zip(self.system).is_some_and(|(its, ours)| its != ours)
    }

    /// Whether a replica's data are another history's, or it has not come yet to where this one begins. What follows a
    /// server that was promoted without the leader's lock is of another history, however high its timeline.
    fn is_astray(&self, timeline: u32) -> bool {
        let is_leader = self.claim.is_some_and(|claim| claim.is_leader);
        self.timeline.is_some_and(|present| match timeline.cmp(&present) {
            Ordering::Less => true,
            Ordering::Equal => false,
            Ordering::Greater => is_leader,
        })
    }

    fn judge(&self, place: usize, server: &Evidence) -> (Standing, String) {
        match &server.observation {
            Observation::None => (Standing::Unknown, "not probed yet".to_owned()),
            Observation::Refused(why) => (Standing::Unknown, why.clone()),
            Observation::Failed(why) => (Standing::Down, why.clone()),
            Observation::Primary { .. } if self.primary == Some(place) => (Standing::Primary, String::new()),
            Observation::Primary { timeline } => (Standing::Down, self.why_fenced(server, *timeline)),
            Observation::Replica { replay, timeline, .. } => {
                match self.why_not_read(server, *replay, *timeline) {
                    Some(why) => (Standing::Lagging, why),
                    // Without a primary to compare with, a replica is as good as it was.
                    None => (Standing::Replica, String::new()),
                }
            }
        }
    }

    fn why_fenced(&self, server: &Evidence, timeline: u32) -> String {
        let claim = format!("says that it is primary on timeline {timeline}");
        let present = self.timeline.unwrap_or_default();
        if server.verdict.denies_leader() {
            let instead = server.verdict.instead();
            return format!("{claim}; Patroni says that it is not the leader, but {instead}");
        }
        match self.primary {
            Some(_) if self.is_alien(server) => format!("{claim} of another database cluster"),
            _ if server.rival == Some(timeline) => format!(
                "{claim}, beside another that was primary on it, and lacks what was written there; make it a standby, or \
                 ATTACH it if it shall be primary all the same"
            ),
            Some(_) => format!("{claim}; another is, on {present}"),
            None => format!(
                "{claim}, but another has been since, on {present}; ATTACH it if it shall be primary again"
            ),
        }
    }

    fn why_not_read(&self, server: &Evidence, replay: Option<Lsn>, timeline: Option<u32>) -> Option<String> {
        if replay.is_none() {
            return Some("has replayed nothing yet".to_owned());
        }
        if self.is_alien(server) {
            return Some("of another database cluster than the primary".to_owned());
        }
        if let Some(timeline) = timeline.filter(|timeline| self.is_astray(*timeline)) {
            let present = self.timeline.unwrap_or_default();
            return Some(format!("on timeline {timeline}; the primary is on {present}"));
        }
        if matches!(server.verdict, Verdict::Neither(_)) {
            let instead = server.verdict.instead();
            return Some(format!("Patroni says that it is no replica to read from, but {instead}"));
        }
        None
    }
}

/// What each server may be used for, and why if it is not used. At most one is primary: of several that say so, and of which
/// Patroni does not say otherwise, the one of which Patroni says so too; else the one on the highest timeline (the one
/// promoted last); among equals the one that was before, or the one whose timeline began farther on, or the first. Servers are
/// judged whenever one of them has answered, so two that are promoted at once mostly come one after the other: then the first
/// to answer is the one that was before. To wait for the other's answer would not make that better: it may come late, or
/// never, and meanwhile nobody could write.
///
/// `past` is what has been so far: a server that says that it is primary on an earlier timeline of the same database cluster
/// was primary yesterday, and is none today, also if who came after it does not answer.
pub fn standings(servers: &[Evidence], past: Option<&Lineage>) -> Vec<(Standing, String)> {
    let present = Present::of(servers, past);
    servers.iter().enumerate().map(|(place, server)| present.judge(place, server)).collect()
}

/// Whether a replica whose data may be so old is too far behind for who says `max_lag`. Of whom nothing is known is as good
/// as he was.
pub fn is_too_old(age: Option<Duration>, max_lag: Duration) -> bool {
    age.is_some_and(|age| age > max_lag)
}

/// Why a replica is not read from that is too old.
pub fn behind(age: Option<Duration>) -> String {
    format!("{:.1} s behind the primary", age.unwrap_or_default().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(age: u64) -> Observation {
        Observation::Replica { replay: Some(Lsn(1)), timeline: None, age: Some(Duration::from_secs(age)) }
    }

    /// A server of which nothing is known.
    fn nothing() -> Evidence {
        let now = Instant::now();
        Evidence {
            observation: Observation::None,
            system: None,
            verdict: Verdict::None,
            fork: None,
            asked: now,
            found: now,
            rival: None,
        }
    }

    fn of(observations: &[Observation]) -> Vec<Standing> {
        under(&vec![Verdict::None; observations.len()], observations)
    }

    fn under(verdicts: &[Verdict], observations: &[Observation]) -> Vec<Standing> {
        let evidence = |(observation, verdict): (&Observation, &Verdict)| Evidence {
            observation: observation.clone(),
            verdict: verdict.clone(),
            ..nothing()
        };
        let servers: Vec<_> = observations.iter().zip(verdicts).map(evidence).collect();
        standings(&servers, None).into_iter().map(|(standing, _)| standing).collect()
    }

    /// Of servers that belong to these database clusters, after what has been.
    fn after(past: &Lineage, servers: &[(u64, Observation)]) -> Vec<(Standing, String)> {
        let evidence = |(system, observation): &(u64, Observation)| Evidence {
            observation: observation.clone(),
            system: Some(*system),
            ..nothing()
        };
        let servers: Vec<_> = servers.iter().map(evidence).collect();
        standings(&servers, Some(past))
    }

    fn primary(timeline: u32) -> Observation {
        Observation::Primary { timeline }
    }

    fn failed() -> Observation {
        Observation::Failed("x".into())
    }

    fn silent() -> Verdict {
        Verdict::Silent("connection refused".into())
    }

    fn neither() -> Verdict {
        Verdict::Neither("primary, running".into())
    }

    #[test]
    fn how_old_is_too_old_is_for_each_to_say() {
        let age = Some(Duration::from_secs(11));
        assert!(is_too_old(age, Duration::from_secs(10)) && !is_too_old(age, Duration::from_secs(11)));
        assert!(!is_too_old(None, Duration::ZERO));
        assert_eq!(behind(age), "11.0 s behind the primary");
        assert_eq!(of(&[primary(1), replica(11)]), [Standing::Primary, Standing::Replica]);
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
    fn a_primary_of_yesterday_is_none_though_todays_does_not_answer() {
        let past = Lineage::first(1, 2, Some(7));
        let [old, new] = &after(&past, &[(7, primary(1)), (7, failed())])[..] else { panic!() };
        assert_eq!((old.0, new.0), (Standing::Down, Standing::Down));
        assert!(
            old.1.contains("timeline 1") && old.1.contains("on 2") && old.1.contains("ATTACH"),
            "{}",
            old.1
        );
        assert_eq!(after(&past, &[(7, primary(3)), (7, failed())])[0].0, Standing::Primary);
        // Its replicas are of yesterday, too.
        let follower =
            |timeline| Observation::Replica { replay: Some(Lsn(1)), timeline: Some(timeline), age: None };
        let found = after(&past, &[(7, follower(1)), (7, failed()), (7, follower(2))]);
        assert_eq!((found[0].0, found[2].0), (Standing::Lagging, Standing::Replica));
        // Nothing is known of its timeline: it cannot be told.
        assert_eq!(after(&past, &[(7, primary(0)), (7, failed())])[0].0, Standing::Primary);
    }

    #[test]
    fn what_patroni_says_counts_more_than_what_has_been() {
        let leader = Evidence {
            observation: primary(1),
            system: Some(7),
            verdict: Verdict::Leader,
            rival: Some(1),
            ..nothing()
        };
        let found = standings(&[leader], Some(&Lineage::first(0, 2, Some(7))));
        assert_eq!(found[0].0, Standing::Primary);
    }

    #[test]
    fn a_database_cluster_that_was_made_anew_is_taken_when_the_old_one_is_gone() {
        let past = Lineage::first(0, 5, Some(7));
        let replica_of = Observation::Replica { replay: Some(Lsn(1)), timeline: Some(5), age: None };
        let found = after(&past, &[(8, primary(1)), (7, replica_of)]);
        assert_eq!([found[0].0, found[1].0], [Standing::Primary, Standing::Lagging]);
        let [stranger, ours] = &after(&past, &[(8, primary(9)), (7, primary(5))])[..] else { panic!() };
        assert_eq!((stranger.0, ours.0), (Standing::Down, Standing::Primary), "not while it is there");
        assert!(stranger.1.contains("another database cluster"), "{}", stranger.1);
    }

    #[test]
    fn of_equals_the_one_stays_that_is_primary() {
        let past = Lineage::first(1, 2, Some(7));
        let found = after(&past, &[(7, primary(2)), (7, primary(2))]);
        assert_eq!([found[0].0, found[1].0], [Standing::Down, Standing::Primary]);
    }

    #[test]
    fn of_two_that_are_seen_at_once_the_one_counts_that_had_come_farther() {
        let promoted = |fork| Evidence { observation: primary(2), fork, ..nothing() };
        let standing = |forks: [Option<Lsn>; 2], past: Option<&Lineage>| {
            standings(&forks.map(promoted), past).remove(0).0
        };
        let (near, far) = (Some(Lsn(10)), Some(Lsn(11)));
        assert_eq!(standing([near, far], None), Standing::Down);
        assert_eq!(standing([far, near], Some(&Lineage::first(2, 1, None))), Standing::Primary);
        assert_eq!(standing([near, near], None), Standing::Primary, "of equals the first");
        assert_eq!(
            standing([near, far], Some(&Lineage::first(0, 2, None))),
            Standing::Primary,
            "it is already"
        );
    }

    /// Ours at place 0, on timeline 2, and another of which nothing is known yet.
    struct Split {
        past: Lineage,
        servers: [Evidence; 2],
        now: Instant,
    }

    impl Split {
        fn new() -> Split {
            let past = Lineage::first(0, 2, Some(7));
            let ours = Evidence { observation: primary(2), system: Some(7), ..nothing() };
            let other = Evidence { system: Some(7), ..nothing() };
            Split { past, now: ours.found, servers: [ours, other] }
        }

        /// The one at this place is asked, and answers so.
        fn answers(mut self, place: usize, observation: Observation) -> Split {
            let server = &mut self.servers[place];
            server.asked = self.now + Duration::from_secs(1);
            self.now += Duration::from_secs(2);
            if server.observation != observation {
                server.found = self.now;
            }
            server.observation = observation;
            self.look()
        }

        fn look(mut self) -> Split {
            for place in 0..2 {
                self.servers[place].rival = match rivalry(place, &self.servers, Some(&self.past)) {
                    Rivalry::On(timeline) => Some(timeline),
                    Rivalry::None | Rivalry::Possible => None,
                };
            }
            self
        }

        fn found(&self) -> [(Standing, String); 2] {
            standings(&self.servers, Some(&self.past)).try_into().unwrap()
        }

        fn is(&self) -> [Standing; 2] {
            self.found().map(|(standing, _)| standing)
        }
    }

    #[test]
    fn a_rival_is_not_taken_when_the_primary_is_gone() {
        let split = Split::new().answers(1, primary(2)).answers(0, primary(2)).answers(0, failed());
        let [ours, rival] = split.found();
        assert_eq!((ours.0, rival.0), (Standing::Down, Standing::Down));
        assert!(rival.1.contains("timeline 2, beside another") && rival.1.contains("ATTACH"), "{}", rival.1);
        // It is away for a while, and comes back as it was.
        let split = split.answers(1, failed()).answers(1, primary(2));
        assert_eq!(split.is(), [Standing::Down, Standing::Down]);
        // Ours comes back.
        assert_eq!(split.answers(0, primary(2)).is(), [Standing::Primary, Standing::Down]);
    }

    #[test]
    fn a_rival_is_none_any_more_once_it_was_a_standby_or_is_promoted_anew() {
        let split = || Split::new().answers(1, primary(2)).answers(0, primary(2)).answers(0, failed());
        let follower = Observation::Replica { replay: Some(Lsn(1)), timeline: Some(2), age: None };
        let rebuilt = split().answers(1, follower);
        assert_eq!(rebuilt.is(), [Standing::Down, Standing::Replica]);
        assert_eq!(rebuilt.answers(1, primary(3)).is(), [Standing::Down, Standing::Primary]);
        assert_eq!(split().answers(1, primary(3)).is(), [Standing::Down, Standing::Primary]);
    }

    #[test]
    fn a_rival_is_primary_by_an_operators_word() {
        let mut split = Split::new().answers(1, primary(2)).answers(0, primary(2));
        split.past = Lineage::first(1, 2, Some(7));
        assert_eq!(split.is(), [Standing::Down, Standing::Primary]);
    }

    #[test]
    fn the_primarys_data_started_elsewhere_are_no_rival() {
        // It was asked before the other was seen, and has not answered since.
        let moved = Split::new().answers(0, primary(2)).answers(1, primary(2));
        assert_eq!(rivalry(1, &moved.servers, Some(&moved.past)), Rivalry::Possible);
        assert_eq!(moved.answers(0, failed()).is(), [Standing::Down, Standing::Primary]);
        // Nor is one of another database cluster, or whose timeline is not known.
        for (system, timeline) in [(8, 2), (7, 0)] {
            let mut other = Split::new();
            other.past = Lineage::first(0, timeline, Some(7));
            other.servers[1].system = Some(system);
            let other = other.answers(1, primary(timeline)).answers(0, primary(timeline));
            assert_eq!(rivalry(1, &other.servers, Some(&other.past)), Rivalry::None);
        }
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
