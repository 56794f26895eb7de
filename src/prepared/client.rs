//! The names that one client has given to prepared statements.

use super::Prepared;
use crate::sql::Statement;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::sync::Arc;

/// A statement under a client's name.
#[derive(Debug, Clone)]
pub struct Named {
    /// Text and types.
    pub prepared: Arc<Prepared>,
    /// What it does, by the catalog of `version`.
    pub statement: Arc<Statement>,
    /// The version of the catalog that `statement` was classified by.
    pub version: u64,
}

/// What one client has prepared.
#[derive(Debug, Default)]
pub struct ClientStatements {
    /// Most drivers' names are short: they lie in the table.
    named: HashMap<SmallVec<[u8; 16]>, Named>,
    unnamed: Option<Named>,
    /// Of names and texts, in bytes, without the unnamed statement's.
    length: usize,
}

impl ClientStatements {
    /// The statement of this name; empty: the unnamed one.
    pub fn find(&self, name: &[u8]) -> Option<&Named> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    /// The same in other memory, and no more of it than they need.
    pub fn relocated(&self) -> Self {
        let named = self.named.iter().map(|(name, named)| (name.clone(), named.clone()));
        ClientStatements { named: named.collect(), unnamed: self.unnamed.clone(), length: self.length }
    }

    /// All with their names; the unnamed statement's is empty.
    pub fn all(&self) -> impl Iterator<Item = (&[u8], &Named)> {
        let unnamed = self.unnamed.iter().map(|named| (&b""[..], named));
        self.named.iter().map(|(name, named)| (&**name, named)).chain(unnamed)
    }

    /// As [`find`](Self::find), to classify it anew.
    pub fn find_mut(&mut self, name: &[u8]) -> Option<&mut Named> {
        if name.is_empty() { self.unnamed.as_mut() } else { self.named.get_mut(name) }
    }

    /// Gives a name; answers what had it before.
    pub fn insert(&mut self, name: &[u8], named: Named) -> Option<Named> {
        if name.is_empty() {
            return self.unnamed.replace(named);
        }
        self.length += length(name, &named);
        let before = self.named.insert(name.into(), named);
        self.length -= before.as_ref().map_or(0, |before| length(name, before));
        before
    }

    /// Takes a name away; answers what had it.
    pub fn remove(&mut self, name: &[u8]) -> Option<Named> {
        if name.is_empty() {
            return self.unnamed.take();
        }
        let before = self.named.remove(name)?;
        self.length -= length(name, &before);
        Some(before)
    }

    /// Puts back what an insert or a remove that did not come true had changed.
    pub fn restore(&mut self, name: &[u8], before: Option<Named>) {
        match before {
            Some(named) => drop(self.insert(name, named)),
            None => drop(self.remove(name)),
        }
    }

    /// Takes every name away, as DEALLOCATE ALL does: the unnamed statement stays.
    pub fn clear(&mut self) {
        self.named.clear();
        self.length = 0;
    }

    /// How many names there are, without the unnamed statement.
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// How long their names and texts are together, in bytes, without the unnamed statement's.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether nothing is prepared at all.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.unnamed.is_none()
    }
}

/// A statement keeps its text as long as it has its name, whatever else of it is prepared anew.
fn length(name: &[u8], named: &Named) -> usize {
    name.len() + named.prepared.text.len()
}
