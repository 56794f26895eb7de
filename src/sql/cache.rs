//! What a text does, remembered by its fingerprint.
//!
//! Warm, a look-up is one pass over the text, one hash and one table probe: no allocation, no parsing. Cold, the text is
//! classified and a second opinion is asked. The table is bounded: two generations, the older dropped when the younger
//! is full, so that what is in use stays.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::classify::{PROVABLE_BYTES, classify};
use super::fingerprint::{Fingerprint, fingerprint};
use super::second::confirm;
use super::{Access, Catalog, Reason, Statement};

/// Remembers what texts do. One per worker and database: the answers hold for one catalog.
#[derive(Debug)]
pub struct Cache {
    key: [u8; 16],
    /// The catalog's version that the answers hold for; none before the first.
    version: Option<u64>,
    statements: Generations<Arc<Statement>>,
    /// The same by what a text and its parameters' types are known by as a prepared statement.
    prepared: Generations<Arc<Statement>>,
    /// Texts that a replica refused though they looked like reads. Kept apart, so that no flood of new texts drops them, and
    /// beyond the catalog's version: it was no help.
    refused: Generations<()>,
}

impl Cache {
    /// A cache of about `capacity` statements. `key` must be secret and random: it keeps anybody from making two texts
    /// of one fingerprint.
    pub fn new(capacity: usize, key: [u8; 16]) -> Cache {
        Cache {
            key,
            version: None,
            statements: Generations::new(capacity),
            prepared: Generations::new(capacity),
            refused: Generations::new(capacity / 8),
        }
    }

    /// What `text` does according to `catalog`.
    pub fn look_up(&mut self, text: &[u8], catalog: &dyn Catalog) -> Arc<Statement> {
        self.agree(catalog);
        if text.len() > PROVABLE_BYTES {
            // Never a read, rarely the same twice, and expensive to hash.
            return Arc::new(classify(text, catalog));
        }
        let Fingerprint(fingerprint) = fingerprint(text, &self.key);
        if let Some(known) = self.statements.find(fingerprint) {
            return known;
        }
        let mut statement = confirm(text, classify(text, catalog), catalog);
        if self.refused.find(fingerprint).is_some() {
            refuse(&mut statement);
        }
        let statement = Arc::new(statement);
        self.statements.insert(fingerprint, Arc::clone(&statement));
        statement
    }

    /// The same for a text that is prepared, of which `id` is a keyed hash: who prepares it again sends the same bytes, and
    /// they need not be read.
    pub fn look_up_prepared(&mut self, id: u128, text: &[u8], catalog: &dyn Catalog) -> Arc<Statement> {
        self.agree(catalog);
        if let Some(known) = self.prepared.find(id) {
            return known;
        }
        let statement = self.look_up(text, catalog);
        self.prepared.insert(id, Arc::clone(&statement));
        statement
    }

    fn agree(&mut self, catalog: &dyn Catalog) {
        if self.version != Some(catalog.version()) {
            self.statements.clear();
            self.prepared.clear();
            self.version = Some(catalog.version());
        }
    }

    /// Keeps all texts of this one's fingerprint on the primary from now on: a replica refused it. That overrules a hint in
    /// the text.
    pub fn remember_unsafe(&mut self, text: &[u8]) {
        if text.len() > PROVABLE_BYTES {
            return;
        }
        let Fingerprint(fingerprint) = fingerprint(text, &self.key);
        self.refused.insert(fingerprint, ());
        self.prepared.clear();
        if let Some(known) = self.statements.find(fingerprint) {
            let mut statement = (*known).clone();
            refuse(&mut statement);
            self.statements.insert(fingerprint, Arc::new(statement));
        }
    }
}

fn refuse(statement: &mut Statement) {
    if statement.access != Access::Write {
        statement.access = Access::Unsure;
        statement.reason = Reason::Refused;
    }
}

#[derive(Debug)]
struct Generations<V> {
    young: Table<V>,
    old: Table<V>,
    /// How many entries a generation holds.
    size: usize,
}

type Table<V> = HashMap<u128, V, BuildHasherDefault<Low>>;

impl<V: Clone> Generations<V> {
    fn new(capacity: usize) -> Generations<V> {
        Generations { young: Table::default(), old: Table::default(), size: (capacity / 2).max(1) }
    }

    #[inline]
    fn find(&mut self, hash: u128) -> Option<V> {
        if let Some(known) = self.young.get(&hash) {
            return Some(known.clone());
        }
        let known = self.old.remove(&hash)?;
        self.insert(hash, known.clone());
        Some(known)
    }

    fn insert(&mut self, hash: u128, value: V) {
        if self.young.len() >= self.size && !self.young.contains_key(&hash) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&hash);
        self.young.insert(hash, value);
    }

    fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

/// A fingerprint is a keyed hash already; its low half is as good a hash as any.
#[derive(Default)]
pub struct Low(u64);

impl Hasher for Low {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, fingerprint: u128) {
        self.0 = fingerprint as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::sql::Verdict;

    /// Everything is harmless, and each question is counted.
    #[derive(Default)]
    struct Trusting {
        version: u64,
        asked: Cell<usize>,
    }

    impl Trusting {
        fn answer(&self) -> Verdict {
            self.asked.set(self.asked.get() + 1);
            Verdict::Harmless
        }
    }

    impl Catalog for Trusting {
        fn function(&self, _: Option<&str>, _: &str) -> Verdict {
            self.answer()
        }
        fn relation(&self, _: Option<&str>, _: &str) -> Verdict {
            self.answer()
        }
        fn operator(&self, _: &str) -> Verdict {
            self.answer()
        }
        fn type_name(&self, _: Option<&str>, _: &str) -> Verdict {
            self.answer()
        }
        fn version(&self) -> u64 {
            self.version
        }
    }

    fn cache(capacity: usize) -> Cache {
        Cache::new(capacity, [7; 16])
    }

    fn remembered(cache: &Cache) -> usize {
        cache.statements.young.len() + cache.statements.old.len()
    }

    #[test]
    fn a_warm_text_asks_nobody() {
        let (mut cache, catalog) = (cache(100), Trusting::default());
        let cold = cache.look_up(b"SELECT * FROM t WHERE a = 1", &catalog);
        assert_eq!(cold.access, Access::Read);
        let asked = catalog.asked.get();
        let warm = cache.look_up(b"select * from T where a = 2", &catalog);
        assert!(Arc::ptr_eq(&cold, &warm));
        assert_eq!(catalog.asked.get(), asked);
    }

    #[test]
    fn a_prepared_text_is_known_by_its_hash() {
        let (mut cache, mut catalog) = (cache(100), Trusting::default());
        let cold = cache.look_up_prepared(1, b"SELECT a FROM t WHERE b = $1", &catalog);
        let other = cache.look_up_prepared(2, b"select a from t where b = $1", &catalog);
        assert!(Arc::ptr_eq(&cold, &other), "its fingerprint was known");
        let warm = cache.look_up_prepared(1, b"", &catalog);
        assert!(Arc::ptr_eq(&cold, &warm));
        cache.remember_unsafe(b"SELECT a FROM t WHERE b = $1");
        for id in [1, 2] {
            let refused = cache.look_up_prepared(id, b"SELECT a FROM t WHERE b = $1", &catalog);
            assert_eq!(refused.reason, Reason::Refused);
        }
        catalog.version = 1;
        assert!(!Arc::ptr_eq(&warm, &cache.look_up_prepared(1, b"SELECT 1", &catalog)));
    }

    #[test]
    fn a_new_version_forgets_everything_but_what_was_refused() {
        let mut cache = cache(100);
        cache.look_up(b"SELECT 1", &Trusting::default());
        cache.look_up(b"SELECT 2, 3", &Trusting::default());
        cache.remember_unsafe(b"SELECT 2, 3");
        let catalog = Trusting { version: 1, ..Trusting::default() };
        assert_eq!(cache.look_up(b"SELECT 1", &catalog).access, Access::Read);
        assert_eq!(remembered(&cache), 1);
        assert_eq!(cache.look_up(b"SELECT 2, 3", &catalog).reason, Reason::Refused);
    }

    #[test]
    fn a_refused_text_stays_on_the_primary() {
        let (mut cache, catalog) = (cache(16), Trusting::default());
        let text = b"/* pglagoon: replica */ SELECT f(1)";
        assert_eq!(cache.look_up(text, &catalog).access, Access::Read);
        cache.remember_unsafe(text);
        for other in 0..1000 {
            cache.look_up(format!("SELECT a{other}").as_bytes(), &catalog);
        }
        let statement = cache.look_up(text, &catalog);
        assert_eq!((statement.access, statement.reason), (Access::Unsure, Reason::Refused));
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let (mut cache, catalog) = (cache(100), Trusting::default());
        let kept = cache.look_up(b"SELECT kept", &catalog);
        for other in 0..10_000 {
            cache.look_up(format!("SELECT a{other}").as_bytes(), &catalog);
            assert!(Arc::ptr_eq(&kept, &cache.look_up(b"SELECT kept", &catalog)));
        }
        assert!(remembered(&cache) <= 100);
    }
}
