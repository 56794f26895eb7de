//! What one server connection holds.

use super::registry::ById;
use super::{Prepared, StatementId};
use std::sync::Arc;

/// A statement held under our name.
#[derive(Debug, Clone)]
struct Holding {
    prepared: Arc<Prepared>,
    used: u64,
}

/// For how many uses of others, in multiples of what a connection holds, a statement must have been out of use before one
/// without a name takes its place.
const PATIENCE: u64 = 16;

/// How many uses are between two such changes: texts of which few come again soon cost a Close and a Parse only so often.
const PAUSE: u64 = 16;

/// The prepared statements of one server connection, least recently used first to go.
#[derive(Debug)]
pub struct ServerStatements {
    held: ById<Holding>,
    /// What the unnamed statement is, if there is one that we know of.
    unnamed: Option<StatementId>,
    capacity: usize,
    tick: u64,
    /// No statement of this generation finds room before this tick.
    full: (u64, u64),
}

impl ServerStatements {
    /// Room for `capacity` named statements, at least one.
    pub fn new(capacity: usize) -> Self {
        ServerStatements {
            held: ById::default(),
            unnamed: None,
            capacity: capacity.max(1),
            tick: 0,
            full: (0, 0),
        }
    }

    /// Whether the statement is there; counts as a use.
    pub fn uses(&mut self, id: StatementId) -> bool {
        self.tick += 1;
        match self.held.get_mut(&id) {
            Some(holding) => {
                holding.used = self.tick;
                true
            }
            None => false,
        }
    }

    /// Whether the statement is there, under our name or as the unnamed one of a client that gave it no name.
    pub fn holds(&self, id: StatementId, name: &[u8]) -> bool {
        if name.is_empty() { self.unnamed == Some(id) } else { self.held.contains_key(&id) }
    }

    /// Whether a statement that nobody has named may be added: there is room, or it takes that of one from before some DDL, or
    /// of one that has been out of use for long. Where more texts take turns than there is room for, those that are there
    /// stay: if each drove out the next, all would cost a Parse and a Close, and none would be found again.
    pub fn has_room_for(&mut self, prepared: &Prepared) -> bool {
        if self.held.len() < self.capacity {
            return true;
        }
        let (generation, until) = self.full;
        if generation == prepared.generation && self.tick < until {
            return false;
        }
        let Some(oldest) = self.oldest() else { return true };
        if oldest.prepared.generation < prepared.generation {
            return true;
        }
        let until = oldest.used + PATIENCE * self.capacity as u64;
        let is_out_of_use = self.tick >= until;
        self.full = (prepared.generation, if is_out_of_use { self.tick + PAUSE } else { until });
        is_out_of_use
    }

    /// The first to go.
    fn oldest(&self) -> Option<&Holding> {
        self.held.values().min_by_key(|holding| (holding.prepared.generation, holding.used))
    }

    /// A Parse of it was sent. Answers the statement that must be closed to stay within bounds.
    pub fn add(&mut self, prepared: &Arc<Prepared>) -> Option<Arc<Prepared>> {
        self.tick += 1;
        self.held.insert(prepared.id, Holding { prepared: prepared.clone(), used: self.tick });
        if self.held.len() <= self.capacity {
            return None;
        }
        let oldest = self.oldest()?.prepared.id;
        self.held.remove(&oldest).map(|holding| holding.prepared)
    }

    /// It is not there (any more): its Parse failed, or it was closed.
    pub fn remove(&mut self, id: StatementId) {
        self.held.remove(&id);
    }

    /// Its Close did not come true.
    pub fn restore(&mut self, prepared: &Arc<Prepared>) {
        self.tick += 1;
        self.held.insert(prepared.id, Holding { prepared: prepared.clone(), used: self.tick });
    }

    /// DEALLOCATE ALL or DISCARD ALL ran. What the unnamed statement is, is not asked.
    pub fn clear(&mut self) {
        self.held.clear();
        self.unnamed = None;
    }

    /// What the unnamed statement is.
    pub fn unnamed(&self) -> Option<StatementId> {
        self.unnamed
    }

    /// The unnamed statement was replaced or destroyed.
    pub fn set_unnamed(&mut self, id: Option<StatementId>) {
        self.unnamed = id;
    }

    /// How many named statements are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Registry;
    use super::*;

    #[test]
    fn what_nobody_has_named_drives_out_only_what_is_out_of_use() {
        let mut registry = Registry::new(100, [0; 16]);
        let mut server = ServerStatements::new(2);
        let mut round = |server: &mut ServerStatements, texts: &[&str], generation| {
            let all = texts.iter().map(|text| registry.intern(text.as_bytes(), b"\0\0", generation, 0));
            all.filter(|prepared| {
                let is_there = server.uses(prepared.id);
                if !is_there && server.has_room_for(prepared) {
                    server.add(prepared);
                }
                is_there
            })
            .count()
        };
        assert_eq!(round(&mut server, &["a", "b", "c", "d"], 0), 0);
        for _ in 0..20 {
            assert_eq!(round(&mut server, &["a", "b", "c", "d"], 0), 2, "a and b stay");
        }
        let found: usize = (0..60).map(|_| round(&mut server, &["c", "d"], 0)).sum();
        assert!((60..100).contains(&found), "a and b go at last: {found}");
        round(&mut server, &["x", "y"], 1);
        assert_eq!(round(&mut server, &["x", "y"], 1), 2, "those from before DDL go at once");
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut registry = Registry::new(10, [0; 16]);
        let [a, b, c] = ["a", "b", "c"].map(|text| registry.intern(text.as_bytes(), b"\0\0", 0, 0));
        let mut server = ServerStatements::new(2);
        assert!(server.add(&a).is_none() && server.add(&b).is_none());
        assert!(server.uses(a.id));
        let evicted = server.add(&c).expect("one too many");
        assert_eq!(evicted.id, b.id);
        assert!(server.uses(a.id) && server.uses(c.id) && !server.uses(b.id));
        server.restore(&evicted);
        assert!(server.uses(b.id));
    }
}
