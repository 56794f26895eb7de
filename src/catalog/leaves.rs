//! What a database's own functions leave behind in the session that calls them, by what their bodies say.
//!
//! Bodies in SQL and PL/pgSQL are read; those in other procedural languages may leave anything that a server can be asked for,
//! and, where they name what their language keeps between calls, what no server tells. Functions in C that belong to no
//! extension may, too, if they call themselves volatile; extensions are taken to leave nothing. A name leaves what any function
//! of that name does, or calls.

use std::collections::HashMap;

use crate::sql::Effects;
use crate::sql::body::{self, Body};

/// What a function's body does, as far as it can be told.
pub fn read(language: &str, text: &str) -> Body {
    match language {
        "sql" | "plpgsql" => body::read(text.as_bytes()),
        "c" | "internal" => Body { effects: Effects::BACKEND_STATE, calls: Vec::new() },
        _ => {
            // plpython and pltcl: GD, SD, global; plperl: %_SHARED.
            let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let keeps = words.any(|word| matches!(word, "GD" | "SD" | "global" | "_SHARED"));
            let kept = if keeps { Effects::BACKEND_STATE } else { Effects::NONE };
            Body { effects: Effects::UNKNOWN.with(kept), calls: Vec::new() }
        }
    }
}

/// By name. `bodies` are pairs of a name and what [`read`] has made of a body.
pub fn leaves<'a>(bodies: impl IntoIterator<Item = (&'a str, Body)>) -> HashMap<String, Effects> {
    let mut known: HashMap<String, Body> = HashMap::new();
    for (name, read) in bodies {
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
        let bodies = [
            ("a", "BEGIN PERFORM b(); END"),
            ("b", "SELECT c(1)"),
            ("c", "BEGIN PERFORM a(); PERFORM pg_advisory_lock(1); END"),
            ("d", "SELECT 1"),
            ("d", "BEGIN CREATE TEMP TABLE t (a int); END"),
            ("e", "SELECT lower('x')"),
        ];
        let leaves = leaves(bodies.map(|(name, text)| (name, read("plpgsql", text))));
        let lock = Some(&Effects::ADVISORY_LOCK);
        assert_eq!((leaves.get("a"), leaves.get("b"), leaves.get("c")), (lock, lock, lock));
        assert_eq!((leaves.get("d"), leaves.get("e")), (Some(&Effects::TEMPORARY), Some(&Effects::NONE)));
    }

    #[test]
    fn what_another_language_keeps_is_told_by_its_words() {
        let effects = |language, text| read(language, text).effects;
        assert_eq!(effects("plpython3u", "return plpy.execute('SELECT 1')"), Effects::UNKNOWN);
        let kept = Effects::UNKNOWN.with(Effects::BACKEND_STATE);
        assert_eq!(effects("plpython3u", "GD['a'] = 1"), kept);
        assert_eq!(effects("plperl", "$_SHARED{a} = 1;"), kept);
        assert_eq!(effects("c", "set_ttdummy"), Effects::BACKEND_STATE);
    }
}
