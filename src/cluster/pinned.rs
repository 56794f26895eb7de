//! Clients that keep a server connection beyond their transactions, counted.

use crate::config::SessionState;
use crate::session::Sequences;
use crate::session::pin::{PinReason, PinRoom, Pins};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The pinned clients of one user of one database.
#[derive(Debug, Default)]
pub struct Pinned {
    clients: AtomicUsize,
    by_reason: [AtomicUsize; PinReason::ALL.len()],
    /// A client has asked for `currval` or `lastval`.
    sequences: AtomicBool,
}

impl Pinned {
    /// A client's pins have changed.
    pub fn change(&self, before: Pins, now: Pins) {
        match (before.is_empty(), now.is_empty()) {
            (true, false) => drop(self.clients.fetch_add(1, Ordering::Relaxed)),
            (false, true) => drop(self.clients.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        for (reason, count) in PinReason::ALL.iter().zip(&self.by_reason) {
            match (before.has(*reason), now.has(*reason)) {
                (false, true) => drop(count.fetch_add(1, Ordering::Relaxed)),
                (true, false) => drop(count.fetch_sub(1, Ordering::Relaxed)),
                _ => {}
            }
        }
    }

    /// Whether one more may be. Read without a lock: clients that ask at the same instant may go beyond by a few.
    pub fn room(&self, state: SessionState, limit: usize) -> PinRoom {
        let clients = self.clients.load(Ordering::Relaxed);
        match state {
            SessionState::Error => PinRoom::Forbidden,
            SessionState::Pin if clients >= limit => PinRoom::Full(clients),
            SessionState::Pin if clients >= limit / 2 => PinRoom::Scarce,
            SessionState::Pin => PinRoom::Open,
        }
    }

    /// Somebody asks for what a session drew from sequences.
    pub fn use_sequences(&self) {
        self.sequences.store(true, Ordering::Relaxed);
    }

    /// Whether anybody has.
    pub fn sequences(&self) -> Sequences {
        if self.sequences.load(Ordering::Relaxed) { Sequences::Used } else { Sequences::Unused }
    }

    /// How many clients each reason pins, by its label.
    pub fn counts(&self) -> Vec<(&'static str, usize)> {
        let count =
            |(reason, count): (&PinReason, &AtomicUsize)| (reason.label, count.load(Ordering::Relaxed));
        PinReason::ALL.iter().zip(&self.by_reason).map(count).collect()
    }
}
