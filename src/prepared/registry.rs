//! Statements by text, types, and the settings under which they are analysed.

use crate::sql::cache::Low;
use crate::sql::lasting;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// What a statement is known by: a keyed 128-bit hash of its text, its types and what has a part in its analysis, so that
/// every worker finds the same one without asking another, and nobody outside can make two texts meet.
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

/// For whom what a server makes of a text is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Analysis {
    /// For everybody under the settings that have this digest; 0 is a fresh login's.
    Shared(u128),
    /// For the client alone that sent its Parse.
    Own,
    /// For that client alone, and only for the transaction in which a server had to prepare it again.
    Passing,
}

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
    /// For whom it is.
    pub analysis: Analysis,
    /// Whether its strings, or the statements that it runs by name, may be others each time.
    pub is_fleeting: bool,
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
    /// How many statements of one client's own were made.
    own: u64,
    /// How many statements were new since those were last looked for that nobody uses.
    fresh: usize,
}

/// How many entries are looked at for each statement that is new, taken all in all: where clients use more statements than there
/// is room for, each Parse would otherwise look at all of them.
const LOOKS: usize = 16;

impl Registry {
    /// Room for `capacity` statements; `key` is the process's secret for hashing and the same on every worker.
    pub fn new(capacity: usize, key: [u8; 16]) -> Self {
        Registry { statements: ById::default(), capacity, key, own: 0, fresh: 0 }
    }

    /// The statement with this text and these types, analysed under settings with this digest. `generation` grows when DDL
    /// has been seen: a statement prepared afterwards is a new one, so that no client inherits a result type from before.
    pub fn intern(&mut self, text: &[u8], types: &[u8], generation: u64, settings: u128) -> Arc<Prepared> {
        let id = self.id(text, types, generation, settings);
        if let Some(entry) = self.statements.get(&id) {
            return entry.prepared.clone();
        }
        let prepared = Arc::new(Prepared {
            id,
            server_name: id.server_name(),
            text: text.into(),
            types: types.into(),
            generation,
            analysis: Analysis::Shared(settings),
            is_fleeting: lasting::is_fleeting(text),
        });
        self.fresh += 1;
        if self.statements.len() >= self.capacity && self.fresh * LOOKS >= self.capacity {
            self.fresh = 0;
            self.statements.retain(|_, entry| Arc::strong_count(&entry.prepared) > 1);
        }
        if self.statements.len() < self.capacity {
            let entry = Entry { prepared: prepared.clone(), keeping: Keeping::Unseen };
            self.statements.insert(id, entry);
        }
        prepared
    }

    /// The same statement for one client alone: nobody else finds it, here or on a server.
    pub fn apart(
        &mut self,
        prepared: &Prepared,
        analysis: Analysis,
        client: u64,
        generation: u64,
    ) -> Arc<Prepared> {
        self.own += 1;
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(&prepared.id.0.to_le_bytes());
        hasher.write(&client.to_le_bytes());
        hasher.write(&self.own.to_le_bytes());
        let id = StatementId(hasher.finish128().as_u128());
        Arc::new(Prepared {
            id,
            server_name: id.server_name(),
            text: prepared.text.clone(),
            types: prepared.types.clone(),
            generation,
            analysis,
            is_fleeting: prepared.is_fleeting,
        })
    }

    /// The same statement with the types that a server found for its parameters.
    pub fn with_types(&mut self, prepared: &Prepared, types: &[u8]) -> Arc<Prepared> {
        let Prepared { id, ref server_name, ref text, generation, analysis, is_fleeting, .. } = *prepared;
        match analysis {
            Analysis::Shared(settings) => self.intern(text, types, generation, settings),
            // Nobody else counts on other types: it may keep its name, and the server its statement.
            Analysis::Own | Analysis::Passing => Arc::new(Prepared {
                id,
                server_name: server_name.clone(),
                text: text.clone(),
                types: types.into(),
                generation,
                analysis,
                is_fleeting,
            }),
        }
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

    fn id(&self, text: &[u8], types: &[u8], generation: u64, settings: u128) -> StatementId {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        // Small writes cost SipHash more than the bytes in them.
        let head = (generation as u128) | ((text.len() as u128) << 64);
        hasher.write(&(head ^ settings).to_le_bytes());
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
        let one = registry.intern(b"select $1", b"\0\0", 0, 0);
        assert!(Arc::ptr_eq(&one, &registry.intern(b"select $1", b"\0\0", 0, 0)));
        assert_ne!(one.id, registry.intern(b"select $1", b"\0\x01\0\0\0\x17", 0, 0).id);
        assert_ne!(one.id, registry.intern(b"select $1", b"\0\0", 1, 0).id, "after DDL");
        assert_ne!(one.id, registry.intern(b"select $1", b"\0\0", 0, 1).id, "under other settings");
        assert_eq!(
            one.id,
            Registry::new(1, [7; 16]).intern(b"select $1", b"\0\0", 0, 0).id,
            "on another worker"
        );
    }

    #[test]
    fn what_is_one_clients_own_is_found_by_nobody() {
        let mut registry = Registry::new(10, [7; 16]);
        let shared = registry.intern(b"select $1", b"\0\0", 0, 0);
        let own = [1, 1, 2].map(|client| registry.apart(&shared, Analysis::Own, client, 0));
        let ids = [shared.id, own[0].id, own[1].id, own[2].id];
        assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
        assert!(Arc::ptr_eq(&shared, &registry.intern(b"select $1", b"\0\0", 0, 0)));
        let typed = registry.with_types(&own[0], b"\0\x01\0\0\0\x17");
        assert_eq!((typed.id, typed.analysis), (own[0].id, Analysis::Own));
        assert_ne!(registry.with_types(&shared, b"\0\x01\0\0\0\x17").id, shared.id);
    }

    #[test]
    fn what_comes_again_and_lasts_is_worth_keeping() {
        let mut registry = Registry::new(10, [0; 16]);
        let mut is_worth = |text: &[u8]| {
            let id = registry.intern(text, b"\0\0", 0, 0).id;
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
        let kept = registry.intern(b"1", b"\0\0", 0, 0);
        for n in 0..100 {
            registry.intern(format!("select {n}").as_bytes(), b"\0\0", 0, 0);
            assert!(registry.statements.len() <= 2);
        }
        assert!(Arc::ptr_eq(&kept, &registry.intern(b"1", b"\0\0", 0, 0)));
    }

    #[test]
    fn a_registry_that_is_full_and_in_use_is_looked_through_now_and_then() {
        const CAPACITY: usize = 100 * LOOKS;
        let mut registry = Registry::new(CAPACITY, [0; 16]);
        let mut new = |n: usize| {
            let prepared = registry.intern(format!("select {n}").as_bytes(), b"\0\0", 0, 0);
            (prepared, registry.fresh == 0, registry.statements.len())
        };
        let mut used: Vec<_> = (0..CAPACITY).map(|n| new(n).0).collect();
        assert_eq!((CAPACITY..2 * CAPACITY).filter(|n| new(*n).1).count(), LOOKS);
        used.truncate(CAPACITY / 2);
        let mut held = (2 * CAPACITY..).take(CAPACITY / LOOKS).map(|n| new(n).2);
        assert!(held.any(|held| held <= CAPACITY / 2 + 1), "what is freed is found in time");
    }
}
