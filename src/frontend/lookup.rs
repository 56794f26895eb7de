//! Users that are not configured: a server is asked for what it holds of them (`auth.auth_query`).
//!
//! It is asked at each login, so that a password that is changed, or a role that is dropped, counts at once. A connection of
//! `auth.auth_user` is leased for it like anybody's. A SCRAM verifier found so admits its user, and what he shows in his
//! login opens the servers that hold the same one.

use super::handshake::served;
use super::opening::Opening;
use super::{Access, Frontend};
use crate::auth::ServerCredential;
use crate::config::{AuthMethod, Lookup, Secret, User};
use crate::error::{ErrorSource, Report};
use crate::wire::SqlState;

/// What the servers hold of a user who comes; `None`: there is no such user, or none that may log in.
///
/// # Cancel safety
/// Dropped, it leaves the queue of the pool, or the connection that it asks over is closed.
///
/// # Errors
/// Nobody can say. The client, who may be anybody, is not told why; the log is.
pub(super) async fn look_up(
    lookup: &Lookup,
    opening: &Opening,
    access: &Access,
    frontend: &Frontend,
    home: usize,
) -> Result<Option<Box<User>>, Report> {
    let (user, config) = (&*opening.user, &access.config);
    let database = lookup.database.as_deref().unwrap_or(&opening.database);
    let Some(found) = frontend.directory.find(database) else { return Ok(None) };
    let asker = config.users.get(&lookup.user).and_then(|user| user.secret.as_ref());
    let pools = served(Some(found), database)?.user(&lookup.user, &ServerCredential::of(asker));
    let rows = match pools.ask(&lookup.query, user, home).await {
        Ok(rows) => rows,
        Err(report) => {
            frontend.directory.forget(database);
            if report.code == SqlState::INVALID_CATALOG_NAME && lookup.database.is_none() {
                // It is what the client asked for.
                return Err(report);
            }
            frontend.journal.not_looked_up(user, database, &report);
            return Err(unanswered(user, &report));
        }
    };
    let found = |secret| Ok(Some(Box::new(User { secret })));
    let Some(mut row) = rows.into_iter().next() else { return Ok(None) };
    // PgBouncer's queries answer the name as well, and first. Who has no password may come by a certificate.
    let Some(stored) = row.pop().flatten() else { return found(None) };
    let why = match Secret::from_stored(&stored) {
        Ok(Secret::Md5(_)) if config.auth.method == AuthMethod::ScramSha256 => {
            "an md5 hash, which cannot serve auth.method = \"scram-sha-256\""
        }
        Ok(Secret::Plain(_)) | Err(_) => "something else than what PostgreSQL stores of a password",
        Ok(secret) => return found(Some(secret)),
    };
    frontend.journal.not_looked_up(user, database, &format_args!("auth.auth_query answers {why}"));
    Ok(None)
}

fn unanswered(user: &str, cause: &Report) -> Report {
    let text = format!("user \"{user}\" could not be looked up (auth.auth_query)");
    let passes = matches!(&cause.code.class(), b"08" | b"53" | b"57");
    let code = if passes { cause.code } else { SqlState::CONFIG_FILE_ERROR };
    Report::new(ErrorSource::Pooler, code, text)
}
