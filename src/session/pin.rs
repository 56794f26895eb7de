//! Why a client keeps its server connection: state that lives in one backend and cannot follow.

use crate::sql::Effects;

/// The kinds of state that pin a client, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pins(Effects);

/// One kind of state that pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinReason {
    effect: Effects,
    /// The label in SHOW and metrics.
    pub label: &'static str,
    /// An SQL expression that says whether the state is there; none: only DISCARD ALL ends it, if anything.
    check: Option<&'static str>,
}

impl PinReason {
    /// Every kind.
    pub const ALL: [PinReason; 8] = [
        PinReason { effect: Effects::TEMPORARY, label: "temporary_relation", check: Some(TEMPORARY) },
        PinReason { effect: Effects::HOLD_CURSOR, label: "hold_cursor", check: Some(HOLD_CURSOR) },
        PinReason { effect: Effects::ADVISORY_LOCK, label: "advisory_lock", check: Some(ADVISORY_LOCK) },
        PinReason { effect: Effects::LISTEN, label: "listen", check: Some(LISTEN) },
        PinReason { effect: Effects::PREPARE, label: "prepare", check: Some(PREPARE) },
        PinReason { effect: Effects::HIDDEN_SETTINGS, label: "settings", check: None },
        PinReason { effect: Effects::SEQUENCE, label: "sequence", check: None },
        PinReason { effect: Effects::BACKEND_STATE, label: "backend_state", check: None },
    ];

    /// The SQL expression that says whether its state is there.
    pub fn check(self) -> Option<&'static str> {
        self.check
    }
}

const TEMPORARY: &str = "(EXISTS (SELECT FROM pg_catalog.pg_class \
     WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
     OR EXISTS (SELECT FROM pg_catalog.pg_proc \
     WHERE pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
     OR EXISTS (SELECT FROM pg_catalog.pg_type \
     WHERE typnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()))";
const HOLD_CURSOR: &str = "EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)";
const ADVISORY_LOCK: &str = "EXISTS (SELECT FROM pg_catalog.pg_locks \
     WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())";
const LISTEN: &str = "EXISTS (SELECT FROM pg_catalog.pg_listening_channels())";
const PREPARE: &str = "EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql)";

/// Whether one more client may be pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinRoom {
    /// Yes.
    Open,
    /// Only for state that a statement asks for, not for what it may only leave behind by the way.
    Scarce,
    /// No: so many are.
    Full(usize),
    /// No: the configuration forbids it.
    Forbidden,
}

impl Pins {
    /// What of these effects pins.
    pub fn of(effects: Effects) -> Pins {
        let causes = PinReason::ALL.into_iter().filter(|reason| effects.any(reason.effect));
        Pins(causes.fold(Effects::NONE, |all, reason| all.with(reason.effect)))
    }

    /// All of which a server can be asked.
    pub fn all_checkable() -> Pins {
        let checkable = PinReason::ALL.into_iter().filter(|reason| reason.check.is_some());
        Pins(checkable.fold(Effects::NONE, |all, reason| all.with(reason.effect)))
    }

    /// Both together.
    pub fn with(self, other: Pins) -> Pins {
        Pins(self.0.with(other.0))
    }

    /// These without `other`.
    pub fn without(self, other: Pins) -> Pins {
        Pins(self.0.without(other.0))
    }

    /// Those that not even DISCARD ALL ends: a loaded library, the seed of `random()`.
    pub fn beyond_discard(self) -> Pins {
        if self.0.any(Effects::BACKEND_STATE) { Pins(Effects::BACKEND_STATE) } else { Pins::default() }
    }

    /// Those of which the server can be asked whether their state is still there.
    pub fn checkable(self) -> Pins {
        let known = self.reasons().filter(|reason| reason.check.is_some());
        Pins(known.fold(Effects::NONE, |all, reason| all.with(reason.effect)))
    }

    /// Those for which the server did not say `t`. `answer` has a value for each, in the order of [`reasons`](Self::reasons).
    pub fn refuted(self, answer: &[Option<String>]) -> Pins {
        let gone = self.reasons().zip(answer).filter(|(_, value)| value.as_deref() == Some("f"));
        Pins(gone.fold(Effects::NONE, |all, (reason, _)| all.with(reason.effect)))
    }

    /// Whether this one pins.
    pub fn has(self, reason: PinReason) -> bool {
        self.0.any(reason.effect)
    }

    /// Whether texts may mean something here that they mean nowhere else.
    pub fn change_meanings(self) -> bool {
        self.0.any(Effects::TEMPORARY.with(Effects::HIDDEN_SETTINGS))
    }

    /// Whether nothing pins.
    pub fn is_empty(self) -> bool {
        self.0.is_none()
    }

    /// The reasons that hold.
    pub fn reasons(self) -> impl Iterator<Item = PinReason> {
        PinReason::ALL.into_iter().filter(move |reason| self.0.any(reason.effect))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_state_of_one_backend_pins() {
        assert!(Pins::of(Effects::SETTINGS.with(Effects::DDL)).is_empty());
        let pins = Pins::of(Effects::LISTEN.with(Effects::TEMPORARY).with(Effects::BACKEND_STATE));
        let labels: Vec<_> = pins.reasons().map(|reason| reason.label).collect();
        assert_eq!(labels, ["temporary_relation", "listen", "backend_state"]);
        let gone = pins.checkable().refuted(&[Some("t".into()), Some("f".into())]);
        assert_eq!(gone, Pins::of(Effects::LISTEN));
        assert_eq!(pins.without(gone).with(gone), pins);
    }
}
