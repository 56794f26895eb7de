//! Histories that several connections share: of one user, one application, one database, or one key that a client names.
//! Pure.
//!
//! What one of them writes, all of them see; what one of them has seen, none of them sees less of. A connection that is
//! granted a server goes by the history as it was *then*; when its answer comes, another may have moved on. A write that came
//! in between is never forgotten for a read that came before it.

use super::{History, Role};
use crate::lock::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A history that several connections share.
pub type Shared = Arc<Mutex<History>>;

/// How many are kept before those that nobody uses are looked for.
const SOFT_LIMIT: usize = 1_000;

/// How many are kept at most, beside those that are in use: every statement may name another key.
const HARD_LIMIT: usize = 100_000;

/// How long one that nobody uses is kept at least, as far as the limit allows.
const IDLE: Duration = Duration::from_secs(10);

/// The shared histories of one database, by their keys.
#[derive(Debug, Default)]
pub struct Scopes(Mutex<Generations>);

/// When the young are many, they become the old, and of those that were old they stay who are in use. So each is looked at
/// once or twice before it goes, however many there are.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Box<str>, Shared>,
    old: HashMap<Box<str>, Shared>,
    turned: Option<Instant>,
}

impl Generations {
    fn find(&mut self, key: &str) -> Option<Shared> {
        if let Some(shared) = self.young.get(key) {
            return Some(shared.clone());
        }
        let (key, shared) = self.old.remove_entry(key)?;
        self.young.insert(key, shared.clone());
        Some(shared)
    }

    fn make_room(&mut self, now: Instant) {
        let is_due = self.turned.is_none_or(|turned| now.saturating_duration_since(turned) > IDLE);
        let limit = if is_due { SOFT_LIMIT / 2 } else { HARD_LIMIT / 2 };
        if self.young.len() < limit {
            return;
        }
        self.turned = Some(now);
        let before = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        self.old.extend(before.into_iter().filter(|(_, shared)| Arc::strong_count(shared) > 1));
    }
}

impl Scopes {
    /// The history of this key. One that is not there any more, or never was, begins as if it had seen all that there was:
    /// so nothing is lost with one that was thrown away.
    pub fn join(&self, key: &str, level: crate::config::Consistency, now: Instant) -> Shared {
        let mut scopes = lock(&self.0);
        if let Some(shared) = scopes.find(key) {
            return shared;
        }
        scopes.make_room(now);
        let mut history = History::default();
        history.agree(level, now);
        history.lost_track(now);
        let shared = Shared::new(Mutex::new(history));
        scopes.young.insert(key.into(), shared.clone());
        shared
    }
}

/// The history at the moment.
pub fn read(shared: &Shared) -> History {
    *lock(shared)
}

/// Changes it as one that nobody else looks at.
pub fn change(shared: &Shared, change: impl FnOnce(&mut History)) {
    change(&mut lock(shared));
}

/// An answer has come from a server that was granted when the history was `basis`.
pub fn answered(shared: &Shared, basis: &History, role: Role, node: u16, now: Instant) {
    let mut history = lock(shared);
    let stays = history.shown().is_some_and(|shown| shown.node == node);
    match role {
        Role::Primary => history.used(role, node, now),
        Role::Replica if *history == *basis || stays => history.used(role, node, now),
        // Somebody wrote, or read from another replica: what has been seen by all of them, a position asked for from now on
        // bounds.
        Role::Replica => history.lost_track(now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Consistency;

    const SECOND: Duration = Duration::from_secs(1);

    fn count(scopes: &Scopes) -> usize {
        let scopes = lock(&scopes.0);
        scopes.young.len() + scopes.old.len()
    }

    #[test]
    fn a_write_that_came_in_between_is_not_forgotten_for_a_read() {
        let (scopes, start) = (Scopes::default(), Instant::now());
        let shared = scopes.join("user:42", Consistency::Session, start);
        let basis = read(&shared);
        change(&shared, |history| history.wrote(start + SECOND));
        answered(&shared, &basis, Role::Replica, 1, start + SECOND * 2);
        assert_eq!(
            read(&shared).on_primary(),
            Some(start + SECOND * 2),
            "the next read goes by a new position"
        );
        let basis = read(&shared);
        answered(&shared, &basis, Role::Replica, 1, start + SECOND * 3);
        assert_eq!(read(&shared).shown().map(|shown| shown.node), Some(1));
        answered(&shared, &basis, Role::Replica, 2, start + SECOND * 4);
        assert!(read(&shared).shown().is_none(), "two replicas at once: neither can be stayed with");
    }

    #[test]
    fn a_key_that_is_not_there_any_more_begins_with_all_that_there_was() {
        let (scopes, start) = (Scopes::default(), Instant::now());
        for number in 0..2 * SOFT_LIMIT {
            let now = start + SECOND * number as u32;
            let shared = scopes.join(&number.to_string(), Consistency::Session, now);
            assert_eq!(read(&shared).on_primary(), Some(now));
        }
        assert!(count(&scopes) <= SOFT_LIMIT + 1, "{}", count(&scopes));
    }

    #[test]
    fn no_flood_of_keys_takes_away_one_that_is_in_use() {
        let (scopes, now) = (Scopes::default(), Instant::now());
        let kept = scopes.join("kept", Consistency::Session, now);
        for number in 0..2 * HARD_LIMIT {
            scopes.join(&number.to_string(), Consistency::Session, now);
        }
        assert!(count(&scopes) <= HARD_LIMIT + 1, "{}", count(&scopes));
        assert!(Arc::ptr_eq(&kept, &scopes.join("kept", Consistency::Session, now)));
    }
}
