//! Which of the replicas that may serve a read does serve it.

use crate::config::Balance;

/// A node that may serve the read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the list of servers.
    pub node: usize,
    /// Server connections in use by this pool, and clients that wait for one.
    pub load: usize,
    /// Its share under [`Balance::Weighted`].
    pub weight: u32,
}

/// The node to use, if there is any. `turn` is a count of choices made so far: it breaks ties and takes turns.
pub fn choose(candidates: &[Candidate], policy: Balance, turn: usize) -> Option<usize> {
    let count = candidates.len();
    if count == 0 {
        return None;
    }
    let in_turn = |n: usize| &candidates[(turn + n) % count];
    let chosen = match policy {
        Balance::RoundRobin => in_turn(0),
        Balance::LeastConnections => (0..count).map(in_turn).min_by_key(|candidate| candidate.load)?,
        Balance::Weighted => weighted(candidates, turn)?,
    };
    Some(chosen.node)
}

fn weighted(candidates: &[Candidate], turn: usize) -> Option<&Candidate> {
    let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
    if total == 0 {
        return None;
    }
    // A stride that shares no factor with most totals spreads the turns of a heavy node over the cycle.
    let mut ticket = (turn as u64).wrapping_mul(0x9E37_79B1) % total;
    candidates.iter().find(|candidate| match ticket.checked_sub(u64::from(candidate.weight)) {
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

    fn nodes(list: &[(usize, u32)]) -> Vec<Candidate> {
        list.iter().enumerate().map(|(node, &(load, weight))| Candidate { node, load, weight }).collect()
    }

    #[test]
    fn least_connections_takes_the_idlest_and_ties_take_turns() {
        let candidates = nodes(&[(3, 1), (1, 1), (1, 1)]);
        let picks: Vec<_> = (0..3).map(|turn| choose(&candidates, Balance::LeastConnections, turn)).collect();
        assert!(picks.iter().all(|pick| [Some(1), Some(2)].contains(pick)));
        assert!(picks.contains(&Some(1)) && picks.contains(&Some(2)));
    }

    #[test]
    fn round_robin_wraps() {
        let candidates = nodes(&[(9, 1), (0, 1)]);
        assert_eq!(choose(&candidates, Balance::RoundRobin, usize::MAX), Some(1));
        assert_eq!(choose(&candidates, Balance::RoundRobin, 0), Some(0));
    }

    #[test]
    fn weights_share_the_turns() {
        let candidates = nodes(&[(0, 3), (0, 0), (0, 1)]);
        let mut counts = [0; 3];
        (0..4000).for_each(|turn| counts[choose(&candidates, Balance::Weighted, turn).unwrap()] += 1);
        assert_eq!(counts[1], 0);
        assert!((2900..=3100).contains(&counts[0]), "{counts:?}");
        assert_eq!(choose(&nodes(&[(0, 0)]), Balance::Weighted, 0), None);
        assert_eq!(choose(&[], Balance::LeastConnections, 0), None);
    }
}
