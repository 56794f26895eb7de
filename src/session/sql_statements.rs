//! What SQL's PREPARE made, which follows its client to other server connections.
//!
//! Such a statement lives under the client's own name, so a connection has those of at most one client; they go before
//! another client's request comes. No ROLLBACK takes one back.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The most such statements that follow one client; beyond, the client keeps its server.
pub const MAX_STATEMENTS: usize = 32;
/// The longest text of one, in bytes.
pub const MAX_TEXT: usize = 8 * 1024;

/// By name: the text of the whole PREPARE.
#[derive(Debug, Clone, Default)]
#[allow(clippy::box_collection, reason = "an idle client pays for a pointer only")]
pub struct SqlStatements(Option<Box<BTreeMap<String, Arc<[u8]>>>>);

impl SqlStatements {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether one more of this length may follow.
    pub fn has_room(&self, text: &[u8]) -> bool {
        text.len() <= MAX_TEXT && self.0.as_ref().is_none_or(|all| all.len() < MAX_STATEMENTS)
    }

    /// Whether there is one of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.as_ref().is_some_and(|all| all.contains_key(name))
    }

    /// `name` was prepared by `text`.
    pub fn insert(&mut self, name: String, text: Arc<[u8]>) {
        self.0.get_or_insert_default().insert(name, text);
    }

    /// `name` is gone.
    pub fn remove(&mut self, name: &str) {
        if let Some(all) = &mut self.0 {
            all.remove(name);
            if all.is_empty() {
                self.0 = None;
            }
        }
    }

    /// All are gone.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// Those that `other` does not have, or has otherwise.
    pub fn beyond<'a>(
        &'a self,
        other: &'a SqlStatements,
    ) -> impl Iterator<Item = (&'a String, &'a Arc<[u8]>)> {
        let theirs = |name: &str| other.0.as_ref().and_then(|all| all.get(name));
        let all = self.0.iter().flat_map(|all| all.iter());
        all.filter(move |(name, text)| theirs(name) != Some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_apart() {
        let (mut a, mut b) = (SqlStatements::default(), SqlStatements::default());
        a.insert("x".into(), b"PREPARE x AS SELECT 1".as_slice().into());
        a.insert("y".into(), b"PREPARE y AS SELECT 1".as_slice().into());
        b.insert("x".into(), b"PREPARE x AS SELECT 2".as_slice().into());
        let names = |one: &SqlStatements, other: &SqlStatements| -> Vec<String> {
            one.beyond(other).map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(
            (names(&a, &b), names(&b, &a)),
            (vec!["x".to_owned(), "y".to_owned()], vec!["x".to_owned()])
        );
        b.remove("x");
        assert!(b.is_empty() && names(&b, &a).is_empty());
    }
}
