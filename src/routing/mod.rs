//! Where a statement may run. Pure.
//!
//! [`route`] turns what a statement does ([`crate::sql::Statement`]), what its client did before ([`History`]) and what was
//! promised to it ([`Terms`]) into a [`Route`]: the primary, or a replica of at least a certain freshness, each with its
//! reason. Which replica it is is decided when a server connection is leased, by
//! [`balance::choose`] over the nodes as they are at that instant.

pub mod balance;
pub mod bucket;
pub mod clock;
pub mod consistency;
pub mod explain;
pub mod lineage;
pub mod lsn;
pub mod scope;
pub mod snapshot;
pub mod token;

pub use consistency::{Commits, History, Need, Shown, Terms};
pub use lineage::Lineage;
pub use lsn::Lsn;
pub use token::Token;

use crate::config::Reads;
use crate::sql::{Access, Hint};
use consistency::Verdict;
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
        /// What the primary must show first: what the client saw on a replica.
        shown: Option<Shown>,
    },
    /// On a replica, else on the primary.
    Replica {
        /// What the replica must be.
        need: Need,
        /// What the client saw on a replica.
        shown: Option<Shown>,
        /// Why there.
        why: Why,
    },
}

impl Route {
    /// On the primary, for a client that has seen nothing yet.
    pub fn primary(why: Why) -> Route {
        Route::Primary { why, shown: None }
    }

    /// On any replica within the lag limit.
    pub fn any_replica(why: Why) -> Route {
        Route::Replica { need: Need::Nothing, shown: None, why }
    }

    /// The same for a client that has asked for the primary: it gets no replica.
    pub fn as_wished(self, wish: Option<Hint>) -> Route {
        match (wish, self) {
            (Some(Hint::Primary), Route::Replica { shown, .. }) => Route::Primary { why: Why::Chosen, shown },
            (_, route) => route,
        }
    }

    /// The same for a transaction as a whole: on the primary, because it may write.
    pub fn in_transaction(self) -> Route {
        match self {
            Route::Primary { why: Why::Unsure, shown } => Route::Primary { why: Why::Transaction, shown },
            route => route,
        }
    }

    /// The reason.
    pub fn why(self) -> Why {
        match self {
            Route::Primary { why, .. } | Route::Replica { why, .. } => why,
        }
    }

    /// Whether a connection to this server may serve the request, when it is held already.
    pub fn is_served_by(self, role: Role, held: u16) -> bool {
        match self {
            Route::Primary { .. } => role == Role::Primary,
            Route::Replica { .. } if role == Role::Primary => true,
            Route::Replica { need: Need::Nothing, .. } => true,
            Route::Replica { need: Need::Stay, shown, .. } => shown.is_some_and(|shown| shown.node == held),
            // What was proven of the connection when it was leased may be too little for this one.
            Route::Replica { need: Need::Since(_), .. } => false,
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
    /// A read for which no replica was fresh enough in time.
    Stale,
    /// Inside a transaction block, or a batch that is under way.
    Transaction,
    /// A transaction block that has read on a replica, and writes now.
    Promoted,
    /// The client holds one server: session mode or a pin.
    Held,
    /// The configuration sends everything to the primary.
    Configured,
    /// Its client has asked for the primary.
    Chosen,
    /// A replica could not serve it.
    Rescued,
    /// A replica would have served it: shadow mode.
    Shadow,
}

impl Why {
    /// Every reason.
    pub const ALL: [Why; 13] = [
        Why::Read,
        Why::Write,
        Why::Unsure,
        Why::Sticky,
        Why::NoReplica,
        Why::Stale,
        Why::Transaction,
        Why::Promoted,
        Why::Held,
        Why::Configured,
        Why::Chosen,
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
            Why::Stale => "stale",
            Why::Transaction => "transaction",
            Why::Promoted => "promoted",
            Why::Held => "held",
            Why::Configured => "configured",
            Why::Chosen => "chosen",
            Why::Rescued => "rescued",
            Why::Shadow => "shadow",
        }
    }
}

/// Decides where a statement outside a transaction may run.
pub fn route(access: Access, history: &History, terms: &Terms, reads: Reads, now: Instant) -> Route {
    match decide(access, history, terms, reads, now) {
        Route::Replica { shown, .. } if reads == Reads::Shadow => Route::Primary { why: Why::Shadow, shown },
        route => route,
    }
}

fn decide(access: Access, history: &History, terms: &Terms, reads: Reads, now: Instant) -> Route {
    let shown = history.shown();
    let why = match access {
        Access::Write => Why::Write,
        Access::Unsure => Why::Unsure,
        Access::Read if reads == Reads::Primary => Why::Configured,
        Access::Read => match history.read(terms, now) {
            Verdict::Replica(need) => return Route::Replica { need, shown, why: Why::Read },
            Verdict::Early => Why::Sticky,
            Verdict::Primary => Why::Configured,
        },
    };
    Route::Primary { why, shown }
}
