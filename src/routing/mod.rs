//! Where a statement may run. Pure.
//!
//! [`route`] turns what a statement does ([`crate::sql::Statement`]), what its client did before ([`History`]) and what
//! the operator asked for ([`crate::config::Routing`]) into a [`Route`]: the primary, or a replica of at least a certain
//! freshness, each with its reason. Which replica it is is decided when a server connection is leased, by
//! [`balance::choose`] over the nodes as they are at that instant.

pub mod balance;
pub mod clock;
pub mod explain;
pub mod lsn;

pub use lsn::Lsn;

use crate::config::{Consistency, Reads, Routing};
use crate::sql::Access;
use std::time::Instant;

/// What a server is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Takes writes.
    Primary,
    /// In recovery: reads only.
    Replica,
}

impl Role {
    /// Both.
    pub const ALL: [Role; 2] = [Role::Primary, Role::Replica];

    /// The label in metrics and SHOW.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
        }
    }
}

/// Where a request has to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// On the primary.
    Primary {
        /// Why there.
        why: Why,
    },
    /// On any replica that has replayed `at_least`, else on the primary.
    Replica {
        /// The position that the replica must have replayed; `None`: any within the lag limit.
        at_least: Option<Lsn>,
        /// Why there.
        why: Why,
    },
}

impl Route {
    /// The same for a transaction as a whole: on the primary, because it may write.
    pub fn in_transaction(self) -> Route {
        match self {
            Route::Primary { why: Why::Unsure } => Route::Primary { why: Why::Transaction },
            route => route,
        }
    }

    /// The reason.
    pub fn why(self) -> Why {
        match self {
            Route::Primary { why } | Route::Replica { why, .. } => why,
        }
    }

    /// Whether a connection of this role may serve the request, when it is held already.
    pub fn is_served_by(self, role: Role) -> bool {
        match self {
            Route::Primary { .. } => role == Role::Primary,
            Route::Replica { .. } => true,
        }
    }
}

/// Why a request went where it went: the `reason` label of the query metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// A proven read.
    Read,
    /// A proven write, a lock, session state.
    Write,
    /// Not proven either way.
    Unsure,
    /// A read within the window after its client's last write.
    Sticky,
    /// A read for which no healthy replica was there.
    NoReplica,
    /// Inside a transaction block, or a batch that is under way.
    Transaction,
    /// The client holds one server: session mode or a pin.
    Held,
    /// The configuration sends everything to the primary.
    Configured,
    /// A replica could not serve it.
    Rescued,
    /// A replica would have served it: shadow mode.
    Shadow,
}

impl Why {
    /// Every reason.
    pub const ALL: [Why; 10] = [
        Why::Read,
        Why::Write,
        Why::Unsure,
        Why::Sticky,
        Why::NoReplica,
        Why::Transaction,
        Why::Held,
        Why::Configured,
        Why::Rescued,
        Why::Shadow,
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Read => "read",
            Why::Write => "write",
            Why::Unsure => "unsure",
            Why::Sticky => "sticky",
            Why::NoReplica => "no_replica",
            Why::Transaction => "transaction",
            Why::Held => "held",
            Why::Configured => "configured",
            Why::Rescued => "rescued",
            Why::Shadow => "shadow",
        }
    }
}

/// What a client did before, as far as routing cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// When its last statement that may have written was sent or answered, whichever was later.
    pub last_write: Option<Instant>,
}

impl History {
    /// A statement that may write was sent, or its answer arrived.
    pub fn wrote(&mut self, now: Instant) {
        self.last_write = Some(now);
    }
}

/// Decides where a statement outside a transaction may run.
pub fn route(access: Access, history: &History, rules: &Routing, now: Instant) -> Route {
    match decide(access, history, rules, now) {
        Route::Replica { .. } if rules.reads == Reads::Shadow => Route::Primary { why: Why::Shadow },
        route => route,
    }
}

fn decide(access: Access, history: &History, rules: &Routing, now: Instant) -> Route {
    let why = match access {
        Access::Write => Why::Write,
        Access::Unsure => Why::Unsure,
        Access::Read => match (rules.reads, rules.consistency) {
            (Reads::Primary, _) | (_, Consistency::Primary) => Why::Configured,
            (_, Consistency::Sticky) if is_sticky(history, rules, now) => Why::Sticky,
            (_, Consistency::Sticky | Consistency::Eventual) => {
                return Route::Replica { at_least: None, why: Why::Read };
            }
        },
    };
    Route::Primary { why }
}

fn is_sticky(history: &History, rules: &Routing, now: Instant) -> bool {
    history.last_write.is_some_and(|wrote| now.saturating_duration_since(wrote) < rules.sticky_window)
}
