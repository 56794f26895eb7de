//! Why a statement would go where it would go, in words. Pure.
//!
//! The same lines answer `pglagoon explain` and, inside a session, `SHOW pglagoon.route FOR ...`.

use super::{History, Need, Role, Route, Terms, Why};
use crate::config::{Consistency, Reads, Routing};
use crate::sql::{Hint, Statement, fingerprint};
use std::time::{Duration, Instant};

/// What is explained, and what of it.
pub type Line = (String, String);

/// A server, as far as an explanation speaks of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where it is.
    pub address: String,
    /// What it is; `None` if that is not known.
    pub role: Option<Role>,
    /// How old its data may be.
    pub age: Option<Duration>,
    /// Whether it can serve the statement.
    pub fitness: Fitness,
    /// What else a choice among those that can looks at.
    pub remarks: String,
}

/// Whether a server can serve a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fitness {
    /// It would be taken now.
    Chosen,
    /// It may be.
    Fit,
    /// It cannot, and why.
    Unfit(String),
}

/// Which way a statement goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To a server that is still to be chosen.
    Free(Route),
    /// To the one that its client holds.
    Held(usize, Why),
}

/// Whoever knows the servers.
pub trait Servers {
    /// All of them, in the order of the configuration, for a statement that goes this way.
    fn explained(&self, way: Way) -> Vec<Server>;
}

/// Nobody knows any.
impl Servers for () {
    fn explained(&self, _: Way) -> Vec<Server> {
        Vec::new()
    }
}

/// All that explains where a statement goes.
#[derive(Debug)]
pub struct Case<'a> {
    /// What is asked about.
    pub text: &'a [u8],
    /// What it does.
    pub statement: &'a Statement,
    /// Where it goes.
    pub way: Way,
    /// What the configuration says.
    pub rules: &'a Routing,
    /// What was promised to its client.
    pub terms: Terms,
    /// What its client wishes.
    pub wish: Option<Hint>,
    /// What its client must see.
    pub mark: String,
    /// The servers.
    pub servers: Vec<Server>,
}

impl Case<'_> {
    /// The same in lines.
    pub fn lines(&self) -> Vec<Line> {
        let statement = self.statement;
        let mut lines: Vec<Line> = Vec::new();
        let mut line = |item: &str, value: String| lines.push((item.to_owned(), value));
        line("verdict", statement.access.to_string());
        line("reason", format!("{}: {}", statement.reason, statement.reason.sentence()));
        if !statement.token.is_empty() {
            line("decided by", statement.token.to_string());
        }
        if !statement.effects.is_none() {
            line("leaves behind", format!("{:?}", statement.effects));
        }
        for comment in fingerprint::unknown_hints(self.text) {
            let known = "/* pglagoon: primary */ and /* pglagoon: replica */ are known";
            line("unknown routing comment", format!("{comment} is not heeded; {known}"));
        }
        if let Some(wish) = self.wish {
            line("wish", format!("pglagoon.route is {}", wish.as_str()));
        }
        line("level", self.level());
        line("mark", self.mark.clone());
        line("route", self.destination());
        let servers = self.servers.iter().enumerate();
        lines.extend(servers.map(|(place, server)| (server.address.clone(), self.fate(place, server))));
        lines
    }

    fn level(&self) -> String {
        let Case { rules, terms, .. } = self;
        match (rules.reads, terms.level) {
            (Reads::Primary, _) => "primary: reads are not split".to_owned(),
            (Reads::Shadow, _) => "shadow: reads are not split, only counted".to_owned(),
            (_, Consistency::Primary) => "primary".to_owned(),
            (_, Consistency::Session) => format!("session, waiting for at most {:?}", rules.max_wait),
            (_, Consistency::Strong) => format!("strong, waiting for at most {:?}", rules.max_wait),
            (_, Consistency::Bounded) => format!("bounded, at most {:?} old", terms.max_staleness),
            (_, Consistency::Sticky) => format!("sticky, for {:?} after a write", terms.sticky_window),
            (_, Consistency::Eventual) => format!("eventual, at most {:?} behind", rules.max_lag),
        }
    }

    fn destination(&self) -> String {
        match self.way {
            Way::Held(_, why) => format!("the server that the client holds: {}", sentence(why)),
            Way::Free(Route::Primary { why, .. }) => format!("primary: {}", sentence(why)),
            Way::Free(Route::Replica { need: Need::Nothing, .. }) => "a replica".to_owned(),
            Way::Free(Route::Replica { need: Need::Stay, .. }) => {
                "the replica that the client has read from".to_owned()
            }
            Way::Free(Route::Replica { need: Need::Since(_), .. }) => {
                "a replica that has replayed a position of the primary that is asked for first".to_owned()
            }
        }
    }

    /// What becomes of one server, and why.
    fn fate(&self, place: usize, server: &Server) -> String {
        let state = state(server);
        let is_fit_replica = |server: &Server| {
            server.role == Some(Role::Replica) && !matches!(server.fitness, Fitness::Unfit(_))
        };
        let fate = match (self.way, server.role, &server.fitness) {
            (Way::Held(node, _), ..) if node == place => "taken".to_owned(),
            (Way::Held(..), ..) => "not taken, the client holds another".to_owned(),
            (_, _, Fitness::Unfit(why)) => format!("not taken, {why}"),
            (_, None, _) => "cannot be told".to_owned(),
            (_, _, Fitness::Chosen) if server.role == Some(Role::Replica) => "taken".to_owned(),
            (Way::Free(Route::Primary { .. }), Some(Role::Primary), _) => "taken".to_owned(),
            (Way::Free(Route::Primary { why, .. }), Some(Role::Replica), _) => {
                return format!("{state}: not taken, {}", sentence(why));
            }
            (Way::Free(Route::Replica { .. }), Some(Role::Replica), _) => "may be taken".to_owned(),
            (Way::Free(Route::Replica { .. }), Some(Role::Primary), _)
                if self.servers.iter().any(is_fit_replica) =>
            {
                "not taken, a replica can serve".to_owned()
            }
            (Way::Free(Route::Replica { .. }), Some(Role::Primary), _) => {
                format!("taken, {}", sentence(Why::NoReplica))
            }
        };
        match server.remarks.as_str() {
            "" => format!("{state}: {fate}"),
            remarks => format!("{state}: {fate} ({remarks})"),
        }
    }
}

/// What a client must see, by what it did before.
pub fn mark(history: &History, now: Instant, address: impl Fn(usize) -> String) -> String {
    let Some((replica, until)) = history.last() else {
        return "none: the session has neither read nor written".to_owned();
    };
    let ago = now.saturating_duration_since(until);
    match replica {
        Some(node) => format!("what {} has shown, {ago:.1?} ago", address(usize::from(node))),
        None => format!("what the primary has shown or was given, {ago:.1?} ago"),
    }
}

fn state(server: &Server) -> String {
    match (server.role, server.age) {
        (None, _) => "unknown".to_owned(),
        (Some(role), None) => role.as_str().to_owned(),
        (Some(role), Some(Duration::ZERO)) => format!("{}, nothing left to replay", role.as_str()),
        (Some(role), Some(age)) => format!("{}, at most {age:.1?} behind", role.as_str()),
    }
}

fn sentence(why: Why) -> &'static str {
    match why {
        Why::Read => "it only reads",
        Why::Write => "it writes, locks, or changes its session or its server",
        Why::Unsure => "it is not proven to read",
        Why::Sticky => "its client has written a moment ago",
        Why::Stale => "no replica was fresh enough in time",
        Why::NoReplica => "no replica can serve",
        Why::Transaction => "it is part of a transaction there",
        Why::Promoted => "its transaction has read on a replica, and moves to the primary now",
        Why::Held => "its client holds that server",
        Why::Configured => "the configuration keeps reads there",
        Why::Chosen => "its client has asked for the primary",
        Why::Rescued => "a replica could not serve it",
        Why::Shadow => "a replica would have served it, but this is shadow mode",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::sql::{Access, Effects, Reason};

    fn server(role: Option<Role>, unfit: Option<&str>) -> Server {
        let fitness = unfit.map_or(Fitness::Fit, |why| Fitness::Unfit(why.to_owned()));
        Server { address: "h:1".to_owned(), role, age: None, fitness, remarks: String::new() }
    }

    fn explained(access: Access, route: Route, servers: &[Server]) -> Vec<Line> {
        along(access, Way::Free(route), servers)
    }

    fn along(access: Access, way: Way, servers: &[Server]) -> Vec<Line> {
        let statement = Statement {
            access,
            reason: Reason::UnknownFunction,
            token: "f".into(),
            transaction: None,
            effects: Effects::NONE,
            statements: 1,
            keyed: false,
        };
        let text = include_str!("../../config/minimal.toml");
        let config = config::parse(text, &|_| Ok(String::new()), 1).expect("good");
        let rules = &config.databases["app"].routing;
        let case = Case {
            text: b"SELECT f()",
            statement: &statement,
            way,
            rules,
            terms: Terms::of(rules),
            wish: None,
            mark: "none".to_owned(),
            servers: servers.to_vec(),
        };
        case.lines()
    }

    #[test]
    fn what_is_not_proven_goes_to_the_primary_and_says_why() {
        let servers =
            [server(Some(Role::Primary), None), server(Some(Role::Replica), None), server(None, None)];
        let lines = explained(Access::Unsure, Route::primary(Why::Unsure), &servers);
        let values: Vec<_> = lines.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values[0], "unsure");
        assert!(values[1].starts_with("unknown_function: "));
        assert_eq!(values[2], "f");
        assert_eq!(
            values[values.len() - 4..],
            [
                "primary: it is not proven to read",
                "primary: taken",
                "replica: not taken, it is not proven to read",
                "unknown: cannot be told"
            ]
        );
    }

    #[test]
    fn a_read_names_the_replicas_that_may_serve_it() {
        let route = Route::any_replica(Why::Read);
        let fates = |servers: &[Server]| {
            let lines = explained(Access::Read, route, servers);
            lines[lines.len() - servers.len()..].iter().map(|(_, fate)| fate.clone()).collect::<Vec<_>>()
        };
        let (primary, replica) = (server(Some(Role::Primary), None), server(Some(Role::Replica), None));
        let lagging = server(Some(Role::Replica), Some("too far behind"));
        assert_eq!(
            fates(&[primary.clone(), replica, lagging.clone()]),
            [
                "primary: not taken, a replica can serve",
                "replica: may be taken",
                "replica: not taken, too far behind"
            ]
        );
        assert_eq!(fates(&[primary, lagging])[0], "primary: taken, no replica can serve");
        let mut chosen = server(Some(Role::Replica), None);
        (chosen.fitness, chosen.remarks) = (Fitness::Chosen, "2 in use".to_owned());
        assert_eq!(fates(&[chosen])[0], "replica: taken (2 in use)");
    }

    #[test]
    fn how_far_behind_a_replica_may_be_is_said_in_words_where_there_is_nothing_to_count() {
        let aged = |age| Server { age: Some(age), ..server(Some(Role::Replica), None) };
        assert_eq!(state(&aged(Duration::ZERO)), "replica, nothing left to replay");
        assert_eq!(state(&aged(Duration::from_micros(1_250))), "replica, at most 1.2ms behind");
    }

    #[test]
    fn what_is_held_is_taken() {
        let servers = [server(Some(Role::Primary), None), server(Some(Role::Replica), None)];
        let lines = along(Access::Read, Way::Held(1, Why::Transaction), &servers);
        let values: Vec<_> = lines[lines.len() - 3..].iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(
            values,
            [
                "the server that the client holds: it is part of a transaction there",
                "primary: not taken, the client holds another",
                "replica: taken"
            ]
        );
    }

    #[test]
    fn a_mark_says_where_and_how_long_ago() {
        let (mut history, start) = (History::default(), Instant::now());
        let later = start + Duration::from_millis(1500);
        let mark = |history: &History| mark(history, later, |place| format!("h:{place}"));
        assert!(mark(&history).starts_with("none"));
        history.agree(Consistency::Session, start);
        history.used(Role::Replica, 2, start);
        assert_eq!(mark(&history), "what h:2 has shown, 1.5s ago");
        history.wrote(start);
        assert_eq!(mark(&history), "what the primary has shown or was given, 1.5s ago");
    }
}
