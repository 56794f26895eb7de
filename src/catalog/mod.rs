//! What the database's own catalog says of the names in a statement. Pure.
//!
//! [`Builtin`] knows what PostgreSQL brings, [`Snapshot`] what one database has besides, [`NoCatalog`] nothing: it
//! stands in until the first snapshot has been read. All answer the classifier's questions
//! ([`Catalog`](crate::sql::Catalog)); *a name is harmless only if every object that it could mean is*.

mod builtin;
mod leaves;
mod snapshot;

pub use builtin::{Builtin, NoCatalog};
pub use snapshot::{MalformedRow, Rows, Snapshot};

#[cfg(test)]
mod tests;
