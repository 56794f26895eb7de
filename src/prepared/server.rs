//! What one server connection holds.

use super::registry::ById;
use super::{Prepared, StatementId};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;

/// A statement held under our name.
#[derive(Debug, Clone)]
struct Holding {
    prepared: Arc<Prepared>,
    used: u64,
}

impl Holding {
    fn rank(&self) -> Rank {
        Reverse((self.prepared.generation, self.used, self.prepared.id))
    }
}

/// Generation and last use: the greatest is the first to go.
type Rank = Reverse<(u64, u64, StatementId)>;

/// For how many uses of others, in multiples of what a connection holds, a statement must have been out of use before one
/// without a name takes its place.
const PATIENCE: u64 = 16;

/// How many uses are between two such changes: texts of which few come again soon cost a Close and a Parse only so often.
const PAUSE: u64 = 16;

/// The prepared statements of one server connection, least recently used first to go.
#[derive(Debug)]
pub struct ServerStatements {
    held: ById<Holding>,
    /// All that are held, each by a use that need not be its last, and some that are not held any more: what has been used since is
    /// put right when it comes to the head, so that a use costs nothing here. Empty until one of a full connection must go.
    queue: BinaryHeap<Rank>,
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
            queue: BinaryHeap::new(),
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
    fn oldest(&mut self) -> Option<&Holding> {
        if self.queue.is_empty() || self.queue.len() > 2 * self.held.len() {
            self.queue = self.held.values().map(Holding::rank).collect();
        }
        loop {
            let mut head = self.queue.peek_mut()?;
            let Reverse((_, _, id)) = *head;
            match self.held.get(&id).map(Holding::rank) {
                Some(rank) if rank == *head => return self.held.get(&id),
                Some(rank) => *head = rank,
                None => drop(PeekMut::pop(head)),
            }
        }
    }

    fn hold(&mut self, prepared: &Arc<Prepared>) {
        self.tick += 1;
        let holding = Holding { prepared: prepared.clone(), used: self.tick };
        if !self.queue.is_empty() {
            self.queue.push(holding.rank());
        }
        self.held.insert(prepared.id, holding);
    }

    /// A Parse of it was sent. Answers the statement that must be closed to stay within bounds.
    pub fn add(&mut self, prepared: &Arc<Prepared>) -> Option<Arc<Prepared>> {
        // Before it is there: it may be older than all others, from before some DDL.
        let evicted = match self.held.len() < self.capacity || self.held.contains_key(&prepared.id) {
            true => None,
            false => self.oldest().map(|oldest| oldest.prepared.id),
        };
        let evicted = evicted.and_then(|id| self.held.remove(&id));
        self.hold(prepared);
        evicted.map(|holding| holding.prepared)
    }

    /// It is not there (any more): its Parse failed, or it was closed.
    pub fn remove(&mut self, id: StatementId) {
        self.held.remove(&id);
    }

    /// Its Close did not come true.
    pub fn restore(&mut self, prepared: &Arc<Prepared>) {
        self.hold(prepared);
    }

    /// DEALLOCATE ALL or DISCARD ALL ran. What the unnamed statement is, is not asked.
    pub fn clear(&mut self) {
        self.held.clear();
        self.queue.clear();
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
    fn who_goes_first_is_as_if_all_were_looked_at() {
        let mut registry = Registry::new(1000, [0; 16]);
        let all: Vec<_> =
            (0..100).map(|n| registry.intern(format!("{n}").as_bytes(), b"\0\0", n % 3, 0)).collect();
        let mut server = ServerStatements::new(20);
        for step in 0..20_000_usize {
            let prepared = &all[step * step % 97 + step % 3];
            let oldest = server.held.values().max_by_key(|holding| holding.rank());
            let oldest = oldest.map(|oldest| oldest.prepared.id);
            match step % 23 {
                0 if step % 5 == 0 => server.clear(),
                0..3 => server.remove(prepared.id),
                3 => server.restore(prepared),
                4 => assert_eq!(server.oldest().map(|oldest| oldest.prepared.id), oldest),
                _ if server.uses(prepared.id) => {}
                _ => {
                    let evicted = server.add(prepared).map(|evicted| evicted.id);
                    assert!(evicted.is_none_or(|evicted| Some(evicted) == oldest));
                    assert!(server.uses(prepared.id));
                }
            }
            assert!(server.queue.len() <= 2 * 21 + 1, "{}", server.queue.len());
        }
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

    #[test]
    fn one_from_before_ddl_has_its_place_among_those_from_after_it() {
        let mut registry = Registry::new(10, [0; 16]);
        let [old, new] = [0, 1].map(|generation| registry.intern(b"a", b"\0\0", generation, 0));
        let mut server = ServerStatements::new(1);
        assert!(server.add(&new).is_none());
        assert_eq!(server.add(&old).map(|evicted| evicted.id), Some(new.id));
        assert!(server.uses(old.id) && server.len() == 1);
        assert!(server.add(&old).is_none(), "it was there");
    }
}
