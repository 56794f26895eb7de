//! Statements by text and types.

use crate::sql::cache::Low;
use crate::sql::lasting;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// What a statement is known by: a keyed 128-bit hash of its text and types, so that every worker finds the same one
/// without asking another, and nobody outside can make two texts meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatementId(u128);

impl StatementId {
    /// The hash.
    pub fn hash(self) -> u128 {
        self.0
    }

    /// The name under which server connections hold it: made here and nowhere else.
    fn server_name(self) -> Box<[u8]> {
        format!("pglagoon_{:032x}", self.0).into_bytes().into()
    }
}

/// An id is a keyed hash already and is not hashed again.
pub(super) type ById<V> = HashMap<StatementId, V, BuildHasherDefault<Low>>;

/// A statement that a client has prepared.
#[derive(Debug)]
pub struct Prepared {
    /// What it is known by.
    pub id: StatementId,
    /// Its name on server connections.
    pub server_name: Box<[u8]>,
    /// Its text.
    pub text: Box<[u8]>,
    /// Its parameter types as in a Parse message: Int16 count, Int32 object ids.
    pub types: Box<[u8]>,
    /// How often DDL had been seen when it was prepared.
    pub generation: u64,
}

impl Prepared {
    /// Whether it may have parameters.
    pub fn may_have_parameters(&self) -> bool {
        self.text.contains(&b'$')
    }
}

/// Whether servers keep a statement for clients that give it no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeping {
    /// None has prepared it.
    Unseen,
    /// One has. Most texts that come once do not come again: their literals stand in them.
    Once,
    /// It came again, and lasts.
    Worth,
    /// It came again, and does not last.
    Never,
}

struct Entry {
    prepared: Arc<Prepared>,
    keeping: Keeping,
}

/// The statements of one worker's clients. Bounded: what does not fit is not shared, only kept by its client.
pub struct Registry {
    statements: ById<Entry>,
    capacity: usize,
    key: [u8; 16],
}

impl Registry {
    /// Room for `capacity` statements; `key` is the process's secret for hashing and the same on every worker.
    pub fn new(capacity: usize, key: [u8; 16]) -> Self {
        Registry { statements: ById::default(), capacity, key }
    }

    /// The statement with this text and these types. `generation` grows when DDL has been seen: a statement prepared
    /// afterwards is a new one, so that no client inherits a result type from before.
    pub fn intern(&mut self, text: &[u8], types: &[u8], generation: u64) -> Arc<Prepared> {
        let id = self.id(text, types, generation);
        if let Some(entry) = self.statements.get(&id) {
            return entry.prepared.clone();
        }
        let prepared = Arc::new(Prepared {
            id,
            server_name: id.server_name(),
            text: text.into(),
            types: types.into(),
            generation,
        });
        if self.statements.len() >= self.capacity {
            self.statements.retain(|_, entry| Arc::strong_count(&entry.prepared) > 1);
        }
        if self.statements.len() < self.capacity {
            let entry = Entry { prepared: prepared.clone(), keeping: Keeping::Unseen };
            self.statements.insert(id, entry);
        }
        prepared
    }

    /// A client prepares it without a name. Answers whether a server should keep it for such clients.
    pub fn comes_unnamed(&mut self, id: StatementId) -> bool {
        let Some(Entry { prepared, keeping }) = self.statements.get_mut(&id) else { return false };
        *keeping = match *keeping {
            Keeping::Unseen => Keeping::Once,
            Keeping::Once if lasting::lasts(&prepared.text) => Keeping::Worth,
            Keeping::Once => Keeping::Never,
            known => known,
        };
        *keeping == Keeping::Worth
    }

    fn id(&self, text: &[u8], types: &[u8], generation: u64) -> StatementId {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        // Small writes cost SipHash more than the bytes in them.
        let mut head = [0; 16];
        head[..8].copy_from_slice(&generation.to_le_bytes());
        head[8..].copy_from_slice(&(text.len() as u64).to_le_bytes());
        hasher.write(&head);
        hasher.write(text);
        hasher.write(types);
        StatementId(hasher.finish128().as_u128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_text_and_types_are_one_statement() {
        let mut registry = Registry::new(10, [7; 16]);
        let one = registry.intern(b"select $1", b"\0\0", 0);
        assert!(Arc::ptr_eq(&one, &registry.intern(b"select $1", b"\0\0", 0)));
        assert_ne!(one.id, registry.intern(b"select $1", b"\0\x01\0\0\0\x17", 0).id);
        assert_ne!(one.id, registry.intern(b"select $1", b"\0\0", 1).id, "after DDL");
        assert_eq!(
            one.id,
            Registry::new(1, [7; 16]).intern(b"select $1", b"\0\0", 0).id,
            "on another worker"
        );
    }

    #[test]
    fn what_comes_again_and_lasts_is_worth_keeping() {
        let mut registry = Registry::new(10, [0; 16]);
        let mut is_worth = |text: &[u8]| {
            let id = registry.intern(text, b"\0\0", 0).id;
            registry.comes_unnamed(id)
        };
        assert_eq!(
            [is_worth(b"select $1"), is_worth(b"select $1"), is_worth(b"select $1")],
            [false, true, true]
        );
        assert_eq!([is_worth(b"select 'now'"), is_worth(b"select 'now'")], [false, false]);
    }

    #[test]
    fn the_registry_is_bounded_and_forgets_what_nobody_uses() {
        let mut registry = Registry::new(2, [0; 16]);
        let kept = registry.intern(b"1", b"\0\0", 0);
        for n in 0..100 {
            registry.intern(format!("select {n}").as_bytes(), b"\0\0", 0);
            assert!(registry.statements.len() <= 2);
        }
        assert!(Arc::ptr_eq(&kept, &registry.intern(b"1", b"\0\0", 0)));
    }
}
