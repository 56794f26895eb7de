//! Which of the replicas that may serve a read does serve it. Pure: the random number and the time are arguments.
//!
//! Three sieves, one behind the other; one that would let nobody pass lets all pass:
//!
//! 1. **Slow start**: a replica that has come back with cold caches is passed over most of the time at first, ever less
//!    often, and after `slow_start` never.
//! 2. **Preference**: those that the operator prefers, as long as there is one.
//! 3. **The policy**, [`Balance`].
//!
//! Under [`Balance::ResponseTime`] the better of two that are drawn is taken: who takes the best of all sends everybody there
//! between two measurements. What is measured is a [`Pace`].
//!
//! Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001; Finagle's `PeakEwma.scala`.

use crate::config::Balance;
use smallvec::SmallVec;
use std::time::Duration;

/// A node that may serve the read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Its place in the list of servers.
    pub node: usize,
    /// Server connections in use by this pool, and clients that wait for one.
    pub load: usize,
    /// Its share under [`Balance::Weighted`].
    pub weight: u32,
    /// Whether the operator prefers it.
    pub rank: Rank,
    /// How often it is let through the slow start, of [`WARM`] times.
    pub warmth: u32,
    /// For [`Balance::ResponseTime`]: how long it takes to answer; `None` before it has been measured.
    pub pace: Option<Duration>,
}

/// What a node is to the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// One of `routing.prefer`.
    Preferred,
    /// One of the others.
    Other,
}

/// The [`warmth`] of a node that has its full share.
pub const WARM: u32 = 1000;

/// The least of it: a twentieth. Less would leave the first caches cold for most of the time.
const COLD: u32 = WARM / 20;

/// The share of a node that came back so long ago, of [`WARM`]: it grows evenly.
pub fn warmth(age: Duration, slow_start: Duration) -> u32 {
    let grown = (WARM - COLD) as f32 * (age.as_secs_f32() / slow_start.as_secs_f32());
    if age >= slow_start { WARM } else { COLD + grown as u32 }
}

/// How long a server takes to answer: an average that rises at once and sinks slowly, so that a server that stumbles is left
/// alone at once, and tried again after a while. Eight bytes, to be kept in an atomic.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pace {
    /// In microseconds; zero: nothing was measured.
    average: f32,
    /// In milliseconds since any fixed instant, modulo 2^32.
    at: u32,
}

/// In this time an average sinks to 1/e, in milliseconds.
const MEMORY: f32 = 5_000.0;

impl Pace {
    /// The pace that [`bits`](Self::bits) was made of.
    pub fn of(bits: u64) -> Pace {
        Pace { average: f32::from_bits((bits >> 32) as u32), at: bits as u32 }
    }

    /// All of it in one number.
    pub fn bits(self) -> u64 {
        u64::from(self.average.to_bits()) << 32 | u64::from(self.at)
    }

    /// An answer took `time`. Of quick answers within one millisecond the first counts.
    #[must_use]
    pub fn answered(self, time: Duration, now: u32) -> Pace {
        let micros = (time.as_secs_f32() * 1e6).max(1.0);
        let kept = self.kept(now);
        match self.average {
            average if micros >= average * kept => Pace { average: micros, at: now },
            _ if now == self.at => self,
            average => Pace { average: average * kept + micros * (1.0 - kept), at: now },
        }
    }

    /// What is to be expected now: who was not asked for a while may have recovered.
    pub fn expected(self, now: u32) -> Option<Duration> {
        (self.average > 0.0).then(|| Duration::from_secs_f32(self.average * self.kept(now) / 1e6))
    }

    /// When the last answer came, in milliseconds as above; `None`: none has.
    pub fn last(self) -> Option<u32> {
        (self.average > 0.0).then_some(self.at)
    }

    fn kept(self, now: u32) -> f32 {
        match now.wrapping_sub(self.at) {
            0 => 1.0,
            // Two workers need not agree on what is now.
            elapsed if elapsed > u32::MAX / 2 => 1.0,
            elapsed => (-(elapsed as f32) / MEMORY).exp(),
        }
    }
}

/// The node to use, if there is any. `turn` is a count of choices made so far: it breaks ties and takes turns. `draw` is a
/// random number.
pub fn choose(candidates: &[Candidate], policy: Balance, turn: usize, draw: u64) -> Option<usize> {
    if let [only] = candidates {
        return (policy != Balance::Weighted || only.weight > 0).then_some(only.node);
    }
    let all: Few<'_> = candidates.iter().collect();
    let admitted = sieved(all, |candidate| candidate.is_admitted(draw));
    let wanted = sieved(admitted, |candidate| candidate.rank == Rank::Preferred);
    let count = wanted.len();
    if count == 0 {
        return None;
    }
    let in_turn = |n: usize| wanted[(turn + n) % count];
    let chosen = match policy {
        Balance::RoundRobin => in_turn(0),
        Balance::LeastConnections => (0..count).map(in_turn).min_by_key(|candidate| candidate.load)?,
        Balance::Weighted => weighted(&wanted, turn)?,
        Balance::ResponseTime => quicker_of_two(&wanted, draw),
    };
    Some(chosen.node)
}

type Few<'a> = SmallVec<[&'a Candidate; 8]>;

/// Those that pass; all, if none does.
fn sieved<'a>(mut candidates: Few<'a>, passes: impl Fn(&Candidate) -> bool) -> Few<'a> {
    if candidates.iter().any(|candidate| passes(candidate)) {
        candidates.retain(|candidate| passes(candidate));
    }
    candidates
}

impl Candidate {
    fn is_admitted(&self, draw: u64) -> bool {
        self.warmth >= WARM || mixed(draw ^ self.node as u64) % u64::from(WARM) < u64::from(self.warmth)
    }

    /// How long the next one would wait for its answer, if those that are there already stood in line.
    fn cost(&self) -> f32 {
        match self.pace {
            Some(pace) => pace.as_secs_f32() * (self.load + 1) as f32,
            // One of those who come shall find out, not all of them.
            None if self.load == 0 => 0.0,
            None => f32::MAX,
        }
    }
}

fn quicker_of_two<'a>(candidates: &[&'a Candidate], draw: u64) -> &'a Candidate {
    let count = candidates.len() as u64;
    let first = draw % count;
    let others = (count - 1).max(1);
    let second = (first + 1 + (draw >> 32) % others) % count;
    let [first, second] = [first, second].map(|place| candidates[place as usize]);
    if second.cost() < first.cost() { second } else { first }
}

/// A number that looks random, made of one that need not: the last step of SplitMix64.
pub fn mixed(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

fn weighted<'a>(candidates: &[&'a Candidate], turn: usize) -> Option<&'a Candidate> {
    let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
    if total == 0 {
        return None;
    }
    // A stride that shares no factor with most totals spreads the turns of a heavy node over the cycle.
    let mut ticket = (turn as u64).wrapping_mul(0x9E37_79B1) % total;
    candidates.iter().copied().find(|candidate| match ticket.checked_sub(u64::from(candidate.weight)) {
        Some(rest) => {
            ticket = rest;
            false
        }
        None => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node: usize) -> Candidate {
        Candidate { node, load: 0, weight: 1, rank: Rank::Other, warmth: WARM, pace: None }
    }

    fn nodes(list: &[(usize, u32)]) -> Vec<Candidate> {
        let candidate = |(place, &(load, weight))| Candidate { load, weight, ..node(place) };
        list.iter().enumerate().map(candidate).collect()
    }

    /// How often each is chosen, of 4000 times.
    fn shares<const N: usize>(candidates: &[Candidate; N], policy: Balance) -> [usize; N] {
        let mut counts = [0; N];
        for turn in 0..4000 {
            counts[choose(candidates, policy, turn, mixed(turn as u64)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn least_connections_takes_the_idlest_and_ties_take_turns() {
        let candidates = nodes(&[(3, 1), (1, 1), (1, 1)]);
        let picks: Vec<_> =
            (0..3).map(|turn| choose(&candidates, Balance::LeastConnections, turn, 0)).collect();
        assert!(picks.iter().all(|pick| [Some(1), Some(2)].contains(pick)));
        assert!(picks.contains(&Some(1)) && picks.contains(&Some(2)));
    }

    #[test]
    fn round_robin_wraps() {
        let candidates = nodes(&[(9, 1), (0, 1)]);
        assert_eq!(choose(&candidates, Balance::RoundRobin, usize::MAX, 0), Some(1));
        assert_eq!(choose(&candidates, Balance::RoundRobin, 0, 0), Some(0));
    }

    #[test]
    fn weights_share_the_turns() {
        let candidates: [Candidate; 3] = nodes(&[(0, 3), (0, 0), (0, 1)]).try_into().unwrap();
        let counts = shares(&candidates, Balance::Weighted);
        assert_eq!(counts[1], 0);
        assert!((2900..=3100).contains(&counts[0]), "{counts:?}");
        assert_eq!(choose(&nodes(&[(0, 0)]), Balance::Weighted, 0, 0), None);
        assert_eq!(choose(&[], Balance::LeastConnections, 0, 0), None);
    }

    #[test]
    fn the_slowest_of_three_is_never_the_better_of_two() {
        let candidates = [900, 1000, 5000].map(|micros| Some(Duration::from_micros(micros)));
        let candidates = [0, 1, 2].map(|place| Candidate { pace: candidates[place], ..node(place) });
        let counts = shares(&candidates, Balance::ResponseTime);
        // The quickest of all wins both pairs that it is in.
        assert!((2500..=2830).contains(&counts[0]) && counts[2] == 0, "{counts:?}");
        let mut busy = candidates;
        busy[0].load = 9;
        let counts = shares(&busy, Balance::ResponseTime);
        assert!(counts[1] > 2500 && counts[0] == 0, "requests that wait there count: {counts:?}");
        assert_eq!(choose(&busy[2..], Balance::ResponseTime, 0, 7), Some(2));
    }

    #[test]
    fn who_has_not_been_measured_is_tried_by_one() {
        let measured = Candidate { pace: Some(Duration::from_millis(1)), ..node(0) };
        assert_eq!(shares(&[measured, node(1)], Balance::ResponseTime), [0, 4000]);
        assert_eq!(shares(&[measured, Candidate { load: 1, ..node(1) }], Balance::ResponseTime), [4000, 0]);
    }

    #[test]
    fn a_pace_rises_at_once_and_sinks_slowly() {
        let (quick, slow) = (Duration::from_millis(1), Duration::from_millis(100));
        let pace = Pace::default();
        assert_eq!(pace.expected(7), None);
        let pace = Pace::of(pace.answered(quick, u32::MAX).answered(slow, u32::MAX).bits());
        assert!(pace.expected(u32::MAX).unwrap().abs_diff(slow) < Duration::from_micros(10));
        // The milliseconds wrap around.
        let later = pace.answered(quick, 4_999);
        let expected = later.expected(4_999).unwrap();
        assert!(expected.abs_diff(slow.div_f32(std::f32::consts::E)) < quick, "{expected:?}");
        assert!(later.expected(60_000).unwrap() < quick, "who is left alone is tried again");
        assert_eq!(later.answered(quick, 4_998).expected(4_998), later.expected(4_998), "an earlier now");
    }

    #[test]
    fn preferred_nodes_take_all_while_there_is_one() {
        let mut candidates = [0, 1, 2].map(node);
        candidates[1].rank = Rank::Preferred;
        candidates[1].load = 50;
        for policy in
            [Balance::LeastConnections, Balance::RoundRobin, Balance::Weighted, Balance::ResponseTime]
        {
            assert_eq!(shares(&candidates, policy), [0, 4000, 0], "{policy:?}");
        }
        assert_ne!(shares(&[node(0), node(1)], Balance::LeastConnections)[0], 0);
    }

    #[test]
    fn a_node_that_comes_back_gets_a_growing_part_of_its_share() {
        let slow_start = Duration::from_secs(10);
        let share = |age: u64, policy| {
            let warmth = warmth(Duration::from_secs(age), slow_start);
            shares(&[node(0), Candidate { warmth, ..node(1) }], policy)[1]
        };
        for policy in [Balance::LeastConnections, Balance::RoundRobin, Balance::Weighted] {
            // Of 4000 a half, and of that a twentieth at first.
            assert!((60..=140).contains(&share(0, policy)), "{policy:?}: {}", share(0, policy));
            assert!((950..=1150).contains(&share(5, policy)), "{policy:?}: {}", share(5, policy));
            assert!((1950..=2050).contains(&share(10, policy)), "{policy:?}: {}", share(10, policy));
        }
        let cold = Candidate { warmth: COLD, ..node(0) };
        assert_eq!(shares(&[cold], Balance::RoundRobin), [4000], "alone it serves all the same");
        let preferred = Candidate { rank: Rank::Preferred, ..cold };
        let counts = shares(&[preferred, node(1)], Balance::LeastConnections);
        assert!((140..=260).contains(&counts[0]), "to be preferred is no reason to be overrun: {counts:?}");
    }
}
