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

/// The prepared statements of one server connection, least recently used first to go.
#[derive(Debug)]
pub struct ServerStatements {
    held: ById<Holding>,
    /// What the unnamed statement is, if there is one that we know of.
    unnamed: Option<StatementId>,
    capacity: usize,
    tick: u64,
}

impl ServerStatements {
    /// Room for `capacity` named statements, at least one.
    pub fn new(capacity: usize) -> Self {
        ServerStatements { held: ById::default(), unnamed: None, capacity: capacity.max(1), tick: 0 }
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

    /// A Parse of it was sent. Answers the statement that must be closed to stay within bounds.
    pub fn add(&mut self, prepared: &Arc<Prepared>) -> Option<Arc<Prepared>> {
        self.tick += 1;
        self.held.insert(prepared.id, Holding { prepared: prepared.clone(), used: self.tick });
        if self.held.len() <= self.capacity {
            return None;
        }
        let oldest = self.held.iter().min_by_key(|(_, holding)| holding.used).map(|(&id, _)| id)?;
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
    fn the_least_recently_used_goes_first() {
        let mut registry = Registry::new(10, [0; 16]);
        let [a, b, c] = ["a", "b", "c"].map(|text| registry.intern(text.as_bytes(), b"\0\0", 0));
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
