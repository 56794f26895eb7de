//! What the servers are to a statement, for people: by the same questions as a choice asks ([`UserPools::choose`]).

use super::failover::Standing;
use super::{Node, UserPools};
use crate::routing::balance::{Rank, WARM};
use crate::routing::explain::{Fitness, Server, Servers, Way};
use crate::routing::{Need, Role, Route};
use std::time::Instant;

impl Servers for UserPools {
    fn explained(&self, way: Way) -> Vec<Server> {
        let nodes = self.database.section.cluster.nodes();
        let mut servers: Vec<Server> =
            nodes.iter().enumerate().map(|(place, node)| self.explained_server(place, node, way)).collect();
        if let Way::Free(route) = way
            && let Some(choice) = self.choose(route, None)
        {
            servers[choice.node].fitness = Fitness::Chosen;
        }
        servers
    }
}

impl UserPools {
    fn explained_server(&self, place: usize, node: &Node, way: Way) -> Server {
        let section = &self.database.section;
        let state = section.state(place);
        let is_used = matches!(section.standing(place), Standing::Primary | Standing::Replica);
        let is_read = state.role == Some(Role::Replica) && matches!(way, Way::Free(Route::Replica { .. }));
        let unfit = match way {
            _ if node.is_detached() => Some("detached by an operator".to_owned()),
            _ if !is_used => Some(state.why),
            Way::Free(Route::Replica { need, shown, .. }) if is_read => {
                self.unfit(place, need, shown.map(|shown| usize::from(shown.node))).map(str::to_owned)
            }
            _ => None,
        };
        Server {
            address: node.address.to_string(),
            role: state.role,
            age: state.age,
            fitness: unfit.map_or(Fitness::Fit, Fitness::Unfit),
            remarks: if is_used && is_read { self.remarks(place) } else { String::new() },
        }
    }

    /// Why this replica cannot serve a read that needs that.
    fn unfit(&self, place: usize, need: Need, stays_with: Option<usize>) -> Option<&'static str> {
        let cluster = &self.database.section.cluster;
        let rules = self.database.rules();
        let is_preferred = |place: usize| rules.routing.prefer.contains(&place);
        let has_better = || {
            let others = 0..cluster.nodes().len();
            !is_preferred(place)
                && others.into_iter().any(|other| is_preferred(other) && self.is_usable(other))
        };
        match need {
            _ if !self.is_usable(place) => Some("nobody gets a connection to it"),
            Need::Stay if stays_with != Some(place) => Some("the client has read from another"),
            Need::Stay => None,
            Need::Since(_) if !cluster.nodes()[place].is_traced() => Some("nobody knows how far it is"),
            Need::Since(since)
                if cluster
                    .target(since)
                    .is_some_and(|target| cluster.reached(place, target, None).is_none()) =>
            {
                Some("it has not replayed enough, as far as is known")
            }
            _ if has_better() => Some("a preferred replica can serve"),
            Need::Nothing | Need::Since(_) => None,
        }
    }

    /// What a choice among several looks at.
    fn remarks(&self, place: usize) -> String {
        let candidate = self.candidate(place, &self.database.rules().routing);
        let mut remarks = vec![format!("{} in use", candidate.load)];
        if candidate.rank == Rank::Preferred {
            remarks.push("preferred".to_owned());
        }
        if candidate.warmth < WARM {
            remarks.push(format!("slow start, {} % of its share", candidate.warmth * 100 / WARM));
        }
        if let Some(pace) = self.database.section.pace(place, Instant::now()) {
            remarks.push(format!("answers in {pace:.1?}"));
        }
        remarks.join(", ")
    }
}
