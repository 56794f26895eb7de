//! What a database's own functions leave behind in the session that calls them, by what their bodies say.
//!
//! Bodies in SQL and PL/pgSQL are read; functions in other languages are taken to leave nothing. A name
//! leaves what any function of that name does, or calls.

use std::collections::HashMap;

use crate::sql::Effects;
use crate::sql::body::{self, Body};

/// By name. `bodies` are pairs of a name and a body.
pub fn leaves<'a>(bodies: impl IntoIterator<Item = (&'a str, &'a str)>) -> HashMap<String, Effects> {
    let mut known: HashMap<String, Body> = HashMap::new();
    for (name, text) in bodies {
        let read = body::read(text.as_bytes());
        let entry = known.entry(name.to_owned()).or_default();
        entry.effects = entry.effects.with(read.effects);
        entry.calls.extend(read.calls);
    }
    let mut leaves: HashMap<String, Effects> =
        known.iter().map(|(name, body)| (name.clone(), body.effects)).collect();
    // What is called may call others: until nothing is added. Effects only grow, and there are few of them.
    loop {
        let mut grew = false;
        for (name, body) in &known {
            let called = body.calls.iter().filter_map(|call| leaves.get(call));
            let all = called.fold(leaves[name], |all, effects| all.with(*effects));
            grew |= leaves.insert(name.clone(), all) != Some(all);
        }
        if !grew {
            break;
        }
    }
    leaves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_come_through_calls() {
        let leaves = leaves([
            ("a", "BEGIN PERFORM b(); END"),
            ("b", "SELECT c(1)"),
            ("c", "BEGIN PERFORM a(); PERFORM pg_advisory_lock(1); END"),
            ("d", "SELECT 1"),
            ("d", "BEGIN CREATE TEMP TABLE t (a int); END"),
            ("e", "SELECT lower('x')"),
        ]);
        let lock = Some(&Effects::ADVISORY_LOCK);
        assert_eq!((leaves.get("a"), leaves.get("b"), leaves.get("c")), (lock, lock, lock));
        assert_eq!((leaves.get("d"), leaves.get("e")), (Some(&Effects::TEMPORARY), Some(&Effects::NONE)));
    }
}
