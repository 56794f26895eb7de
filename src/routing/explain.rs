//! Why a statement would go where it would go, in words. Pure.
//!
//! The same lines answer `pglagoon explain` and, inside a session, `SHOW pglagoon.route FOR ...`.

use super::{Need, Role, Route, Why};
use crate::config::{Consistency, Reads, Routing};
use crate::sql::Statement;
use std::time::Duration;

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
    /// Why it cannot be used at the moment, if so.
    pub unfit: Option<String>,
}

/// The lines for one statement. `mark` says what its session must see.
pub fn lines(
    statement: &Statement,
    route: Route,
    rules: &Routing,
    mark: &str,
    servers: &[Server],
) -> Vec<Line> {
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
    line("level", level(rules));
    line("mark", mark.to_owned());
    line("route", destination(route));
    lines.extend(servers.iter().map(|server| (server.address.clone(), fate(server, route, servers))));
    lines
}

fn level(rules: &Routing) -> String {
    match (rules.reads, rules.consistency) {
        (Reads::Primary, _) => "primary: reads are not split".to_owned(),
        (Reads::Shadow, _) => "shadow: reads are not split, only counted".to_owned(),
        (_, Consistency::Primary) => "primary".to_owned(),
        (_, Consistency::Session) => format!("session, waiting for at most {:?}", rules.max_wait),
        (_, Consistency::Strong) => format!("strong, waiting for at most {:?}", rules.max_wait),
        (_, Consistency::Bounded) => format!("bounded, at most {:?} old", rules.max_staleness),
        (_, Consistency::Sticky) => format!("sticky, for {:?} after a write", rules.sticky_window),
        (_, Consistency::Eventual) => format!("eventual, at most {:?} behind", rules.max_lag),
    }
}

fn destination(route: Route) -> String {
    match route {
        Route::Primary { why, .. } => format!("primary: {}", sentence(why)),
        Route::Replica { need: Need::Nothing, .. } => "a replica".to_owned(),
        Route::Replica { need: Need::Stay, .. } => "the replica that the client has read from".to_owned(),
        Route::Replica { need: Need::Since(_), .. } => {
            "a replica that has replayed a position of the primary that is asked for first".to_owned()
        }
    }
}

/// What becomes of one server, and why.
fn fate(server: &Server, route: Route, all: &[Server]) -> String {
    let is = |role| move |server: &Server| server.role == Some(role) && server.unfit.is_none();
    let is_replica_fit = all.iter().any(is(Role::Replica));
    let state = state(server);
    if let Some(why) = &server.unfit {
        return format!("{state}: not taken, {why}");
    }
    match (route, server.role) {
        (_, None) => format!("{state}: cannot be told"),
        (Route::Primary { .. }, Some(Role::Primary)) => format!("{state}: taken"),
        (Route::Primary { why, .. }, Some(Role::Replica)) => format!("{state}: not taken, {}", sentence(why)),
        (Route::Replica { .. }, Some(Role::Replica)) => format!("{state}: may be taken"),
        (Route::Replica { .. }, Some(Role::Primary)) if is_replica_fit => {
            format!("{state}: not taken, a replica can serve")
        }
        (Route::Replica { .. }, Some(Role::Primary)) => {
            format!("{state}: taken, {}", sentence(Why::NoReplica))
        }
    }
}

fn state(server: &Server) -> String {
    match (server.role, server.age) {
        (None, _) => "unknown".to_owned(),
        (Some(role), None) => role.as_str().to_owned(),
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
        Server { address: "h:1".to_owned(), role, age: None, unfit: unfit.map(str::to_owned) }
    }

    fn explained(access: Access, route: Route, servers: &[Server]) -> Vec<Line> {
        let statement = Statement {
            access,
            reason: Reason::UnknownFunction,
            token: "f".into(),
            transaction: None,
            effects: Effects::NONE,
            statements: 1,
        };
        let text = include_str!("../../config/minimal.toml");
        let config = config::parse(text, &|_| Ok(String::new()), 1).expect("good");
        lines(&statement, route, &config.databases["app"].routing, "none", servers)
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
    }
}
