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
}

impl PinReason {
    /// Every kind.
    pub const ALL: [PinReason; 7] = [
        PinReason { effect: Effects::TEMPORARY, label: "temporary_relation" },
        PinReason { effect: Effects::HOLD_CURSOR, label: "hold_cursor" },
        PinReason { effect: Effects::ADVISORY_LOCK, label: "advisory_lock" },
        PinReason { effect: Effects::LISTEN, label: "listen" },
        PinReason { effect: Effects::PREPARE, label: "prepare" },
        PinReason { effect: Effects::HIDDEN_SETTINGS, label: "settings" },
        PinReason { effect: Effects::BACKEND_STATE, label: "backend_state" },
    ];
}

impl Pins {
    /// A statement with these effects was sent.
    pub fn add(&mut self, effects: Effects) {
        for reason in PinReason::ALL {
            if effects.any(reason.effect) {
                self.0 = self.0.with(reason.effect);
            }
        }
    }

    /// DISCARD ALL ended every cause.
    pub fn clear(&mut self) {
        self.0 = Effects::NONE;
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
        let mut pins = Pins::default();
        pins.add(Effects::SETTINGS.with(Effects::DDL).with(Effects::SEQUENCE));
        assert!(pins.is_empty());
        pins.add(Effects::LISTEN.with(Effects::TEMPORARY));
        let labels: Vec<_> = pins.reasons().map(|reason| reason.label).collect();
        assert_eq!(labels, ["temporary_relation", "listen"]);
        pins.clear();
        assert!(pins.is_empty());
    }
}
