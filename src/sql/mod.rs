//! What does this text do? Pure.
//!
//! A statement's text is lexed, fingerprinted and classified in one pass; the answer is a [`Statement`], and after this
//! point nobody looks at SQL again (but for the values of SET, which `effect.rs` reads when a `Statement` says that there
//! are some). *Unknown means primary*: only [`Access::Read`] may leave it.

pub mod body;
pub mod cache;
pub mod classify;
pub mod comment;
pub mod effect;
pub mod fingerprint;
pub mod lasting;
pub mod lexer;
pub mod outline;
pub mod prove;
pub mod quote;
pub mod second;
pub mod words;

pub use cache::Cache;
pub use fingerprint::Hint;

use std::fmt;

/// What a text (one statement, or several in one simple Query) does. Shared by all texts of one fingerprint, so it
/// holds nothing that a literal can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Whether it may leave the primary.
    pub access: Access,
    /// Why: for people, metrics and logs.
    pub reason: Reason,
    /// The word that decided, as it stood in the text (at most 64 bytes; empty if none did).
    pub token: Box<str>,
    /// The text as a transaction command, if it is exactly one such command.
    pub transaction: Option<TransactionVerb>,
    /// What it leaves behind in the session.
    pub effects: Effects,
    /// How many statements the text holds; 0 for an empty one.
    pub statements: u32,
    /// Whether a comment names a causality key, which [`comment::causality_key`] reads.
    pub keyed: bool,
}

impl Statement {
    /// The access by which it is routed: a read that leaves something behind is none.
    pub fn routable(&self) -> Access {
        match self.access {
            Access::Read if !self.effects.is_none() => Access::Unsure,
            access => access,
        }
    }

    /// The same in a session that wishes all its statements to go there. A wish for the primary is no matter of what may be
    /// done; one for a replica counts as it does in a comment, where the name of something alone stands against it, and
    /// nothing is left behind.
    pub fn routable_as(&self, wish: Option<Hint>) -> Access {
        let is_unproven = matches!(
            self.reason,
            Reason::HarmfulFunction
                | Reason::UnknownFunction
                | Reason::HarmfulRelation
                | Reason::UnknownRelation
                | Reason::UserDefined
        );
        let is_stateless = self.effects.without(Effects::UNKNOWN).is_none();
        match (wish, self.routable()) {
            (Some(Hint::Replica), Access::Unsure) if is_unproven && is_stateless => Access::Read,
            (_, access) => access,
        }
    }
}

/// Whether a statement may leave the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// Proven to read only, with the same answer on a replica that has the same data.
    Read,
    /// Not proven either way: the primary.
    Unsure,
    /// Proven to write, lock or change server state.
    Write,
}

/// Why a text has its [`Access`]. `as_str` is the label in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Every part is known harmless.
    ProvenRead,
    /// No statement at all.
    Empty,
    /// A command that writes: INSERT, CREATE, VACUUM ...
    WriteCommand,
    /// A WITH query that modifies data.
    ModifyingCte,
    /// FOR UPDATE, FOR SHARE ...
    LockingClause,
    /// SELECT ... INTO.
    SelectInto,
    /// A function known to write, lock, or answer about its own node.
    HarmfulFunction,
    /// A function that nobody knows.
    UnknownFunction,
    /// A relation that a replica must not serve: temporary, unlogged, foreign, an unsafe view, row security.
    HarmfulRelation,
    /// A relation that the catalog does not know (yet).
    UnknownRelation,
    /// A user-defined operator, cast or type.
    UserDefined,
    /// BEGIN, COMMIT, SAVEPOINT ...
    TransactionCommand,
    /// SET, RESET, LISTEN, PREPARE, DISCARD ...: state of one session.
    SessionCommand,
    /// A hint in a comment sent it to the primary.
    HintPrimary,
    /// A hint in a comment sent it to a replica.
    HintReplica,
    /// The text cannot be lexed, or starts with no known command.
    Unrecognised,
    /// The lexer saw a read and the parser did not.
    SecondOpinion,
    /// A replica refused it before, though it looks like a read.
    Refused,
}

impl Reason {
    /// Every reason, in the order of the label table.
    pub const ALL: [Reason; 18] = [
        Reason::ProvenRead,
        Reason::Empty,
        Reason::WriteCommand,
        Reason::ModifyingCte,
        Reason::LockingClause,
        Reason::SelectInto,
        Reason::HarmfulFunction,
        Reason::UnknownFunction,
        Reason::HarmfulRelation,
        Reason::UnknownRelation,
        Reason::UserDefined,
        Reason::TransactionCommand,
        Reason::SessionCommand,
        Reason::HintPrimary,
        Reason::HintReplica,
        Reason::Unrecognised,
        Reason::SecondOpinion,
        Reason::Refused,
    ];

    /// The label in metrics and explanations.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::ProvenRead => "proven_read",
            Reason::Empty => "empty",
            Reason::WriteCommand => "write_command",
            Reason::ModifyingCte => "modifying_cte",
            Reason::LockingClause => "locking_clause",
            Reason::SelectInto => "select_into",
            Reason::HarmfulFunction => "harmful_function",
            Reason::UnknownFunction => "unknown_function",
            Reason::HarmfulRelation => "harmful_relation",
            Reason::UnknownRelation => "unknown_relation",
            Reason::UserDefined => "user_defined",
            Reason::TransactionCommand => "transaction_command",
            Reason::SessionCommand => "session_command",
            Reason::HintPrimary => "hint_primary",
            Reason::HintReplica => "hint_replica",
            Reason::Unrecognised => "unrecognised",
            Reason::SecondOpinion => "second_opinion",
            Reason::Refused => "refused",
        }
    }
}

impl Reason {
    /// The same in words.
    pub fn sentence(self) -> &'static str {
        match self {
            Reason::ProvenRead => "all that it names is known to read, and a replica answers alike",
            Reason::Empty => "there is no statement in it",
            Reason::WriteCommand => "the command writes, locks or changes its server",
            Reason::ModifyingCte => "a WITH query modifies data",
            Reason::LockingClause => "it locks rows",
            Reason::SelectInto => "SELECT INTO makes a table",
            Reason::HarmfulFunction => "the function may write or lock, or answers about its own server",
            Reason::UnknownFunction => "nobody knows a function of this name",
            Reason::HarmfulRelation => {
                "the relation is no table that a replica has alike: a view that is not proven, row security, \
                 a sequence, unlogged, foreign or temporary"
            }
            Reason::UnknownRelation => "the catalog has no relation of this name",
            Reason::UserDefined => "an operator, cast or type runs code that is not known",
            Reason::TransactionCommand => "it begins or ends a transaction",
            Reason::SessionCommand => "it is about the session's or the server's own state",
            Reason::HintPrimary => "a comment asks for the primary",
            Reason::HintReplica => "a comment asks for a replica",
            Reason::Unrecognised => "it is not understood as a read",
            Reason::SecondOpinion => "a second parser sees something else in it",
            Reason::Refused => "a replica has refused it before",
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Read => "proven read",
            Access::Unsure => "unsure",
            Access::Write => "proven write",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is exactly one transaction command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionVerb {
    /// BEGIN or START TRANSACTION.
    Begin,
    /// COMMIT or END.
    Commit,
    /// ROLLBACK or ABORT (not TO SAVEPOINT).
    Rollback,
    /// SAVEPOINT, RELEASE, ROLLBACK TO.
    Savepoint,
    /// PREPARE TRANSACTION.
    PrepareTransaction,
}

/// What a text leaves behind in the session that ran it: a set of flags.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects(u32);

impl Effects {
    /// Nothing.
    pub const NONE: Effects = Effects(0);
    /// SET / RESET of settings whose new values `effect::setting_changes` can read from the text; where it cannot, they are
    /// as good as hidden.
    pub const SETTINGS: Effects = Effects(1);
    /// Settings change in a way that the text does not tell (SET in a DO block, SET and ROLLBACK in one text ...).
    pub const HIDDEN_SETTINGS: Effects = Effects(1 << 1);
    /// A temporary relation may come to be.
    pub const TEMPORARY: Effects = Effects(1 << 2);
    /// A cursor WITH HOLD.
    pub const HOLD_CURSOR: Effects = Effects(1 << 3);
    /// Session-level advisory locks are taken or released (`pg_advisory_unlock_all` does not count: after it none is held,
    /// and drivers send it as a matter of routine).
    pub const ADVISORY_LOCK: Effects = Effects(1 << 4);
    /// LISTEN.
    pub const LISTEN: Effects = Effects(1 << 5);
    /// SQL-level PREPARE.
    pub const PREPARE: Effects = Effects(1 << 6);
    /// DEALLOCATE of one name, EXECUTE: refers to a prepared statement by its SQL name.
    pub const PREPARED_NAME: Effects = Effects(1 << 7);
    /// DEALLOCATE ALL.
    pub const DEALLOCATE_ALL: Effects = Effects(1 << 8);
    /// DISCARD ALL: everything above is gone.
    pub const DISCARD_ALL: Effects = Effects(1 << 9);
    /// LOAD, or something else that lives in one backend.
    pub const BACKEND_STATE: Effects = Effects(1 << 10);
    /// currval, lastval: what this session drew from a sequence before.
    pub const SEQUENCE: Effects = Effects(1 << 11);
    /// The catalog may change: DDL.
    pub const DDL: Effects = Effects(1 << 12);
    /// SET LOCAL or SET TRANSACTION: ends with the transaction.
    pub const LOCAL_SETTINGS: Effects = Effects(1 << 13);
    /// `set_config()`: `effect::set_configs` can read from the text which settings change; where it cannot, they are as good
    /// as hidden.
    pub const SET_CONFIG: Effects = Effects(1 << 14);
    /// State of one backend may end: a lock is released, a relation dropped, a cursor closed, a transaction is over.
    pub const ENDS_STATE: Effects = Effects(1 << 15);
    /// A DO block: what it leaves behind is in its body, a literal, which `effect::block` reads.
    pub const BLOCK: Effects = Effects(1 << 16);
    /// A function that the catalog does not know: it may leave anything.
    pub const UNKNOWN: Effects = Effects(1 << 17);
    /// UNLISTEN; `effect::unlistened` can read from the text of what.
    pub const UNLISTEN: Effects = Effects(1 << 18);
    /// A transaction block begins: BEGIN, AND CHAIN.
    pub const BEGINS: Effects = Effects(1 << 19);
    /// A transaction block ends and lasts: COMMIT, PREPARE TRANSACTION.
    pub const COMMITS: Effects = Effects(1 << 20);
    /// A transaction block ends and does not last.
    pub const ROLLS_BACK: Effects = Effects(1 << 21);
    /// A database is dropped, altered or copied, which PostgreSQL does only while no session uses it; `effect::vacated` can
    /// read from the text which.
    pub const VACATES: Effects = Effects(1 << 22);

    /// Both sets together.
    pub const fn with(self, other: Effects) -> Effects {
        Effects(self.0 | other.0)
    }

    /// Whether any flag of `other` is set here.
    pub const fn any(self, other: Effects) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether no flag is set.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Those flags that are in `other`, too.
    pub const fn only(self, other: Effects) -> Effects {
        Effects(self.0 & other.0)
    }

    /// These flags without those of `other`.
    pub const fn without(self, other: Effects) -> Effects {
        Effects(self.0 & !other.0)
    }
}

impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 23] = [
            "settings",
            "hidden_settings",
            "temporary",
            "hold_cursor",
            "advisory_lock",
            "listen",
            "prepare",
            "prepared_name",
            "deallocate_all",
            "discard_all",
            "backend_state",
            "sequence",
            "ddl",
            "local_settings",
            "set_config",
            "ends_state",
            "block",
            "unknown",
            "unlisten",
            "begins",
            "commits",
            "rolls_back",
            "vacates",
        ];
        f.debug_set().entries((0..23).filter(|bit| self.0 & (1 << bit) != 0).map(|bit| NAMES[bit])).finish()
    }
}

/// What a catalog knows of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every object that the name could mean is the same on a replica.
    Harmless,
    /// At least one is not.
    Harmful,
    /// The catalog does not know the name.
    Unknown,
}

/// What the classifier asks about names. `schema` is `None` for an unqualified name; names are as PostgreSQL folds them.
pub trait Catalog {
    /// A function, whatever its arguments.
    fn function(&self, schema: Option<&str>, name: &str) -> Verdict;
    /// A table, view, sequence ...
    fn relation(&self, schema: Option<&str>, name: &str) -> Verdict;
    /// An operator, by its symbol.
    fn operator(&self, symbol: &str) -> Verdict;
    /// What `x.name` may call if x has no column of that name: PostgreSQL takes `x.f` for `f(x)`. Only `Harmful` counts:
    /// most such names are columns, which no catalog of functions knows.
    fn attribute(&self, name: &str) -> Verdict {
        self.function(None, name)
    }
    /// A type that is cast to or constructed.
    fn type_name(&self, schema: Option<&str>, name: &str) -> Verdict;
    /// What runs though nothing names it, wherever values meet: conversions between PostgreSQL's own types, and their order.
    fn conversions(&self) -> Verdict {
        Verdict::Harmless
    }
    /// What a function of this name, built-in ones that `words` knows aside, leaves behind in the session that calls it;
    /// [`Effects::UNKNOWN`] if the catalog does not know it.
    fn leaves(&self, name: &str) -> Effects {
        let _ = name;
        Effects::NONE
    }
    /// What writing may leave behind in the session that writes, by what runs though nothing names it: triggers, rules,
    /// defaults and constraints.
    fn writes(&self) -> Effects {
        Effects::NONE
    }
    /// Changes whenever an answer may: caches keyed by it are dropped.
    fn version(&self) -> u64;
}
