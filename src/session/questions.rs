//! What a session asks its server of its own accord, between two transactions: whether the state that pins the client is
//! still there, and what settings have become that a statement changed without telling.
//!
//! A question is a simple Query that the client never sees; it is sent ahead of the client's next request, or at once if
//! there is none.

use super::pin::{PinReason, Pins};
use crate::sql::quote::literal;

/// A question under way.
#[derive(Debug)]
pub(super) enum Question {
    /// Whether the state behind these pins is there.
    State(Pins),
    /// What these settings are.
    Settings(Vec<String>),
    /// How much the transaction under way is kept apart from others.
    Isolation,
}

impl Question {
    /// As SQL. Everything is qualified: the client's settings hold.
    pub fn sql(&self) -> String {
        let columns: Vec<String> = match self {
            Question::State(pins) => pins.reasons().filter_map(PinReason::check).map(str::to_owned).collect(),
            Question::Settings(names) => {
                let current = |name: &String| format!("pg_catalog.current_setting({}, true)", literal(name));
                names.iter().map(current).collect()
            }
            Question::Isolation => return "SHOW transaction_isolation".to_owned(),
        };
        format!("SELECT {}", columns.join(", "))
    }
}
