//! Mutexes, whoever has panicked.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks it, though somebody may have panicked who held it: what mutexes hold here are plain values, each assignment whole, so
/// there is nothing that a panic could have left halfway.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
