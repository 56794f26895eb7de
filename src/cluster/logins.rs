//! Who a cluster's own connections log in as, and to which database. Pure.
//!
//! What they ask is the same in every database of a server, and one to connect to is needed all the same. It is the first
//! section's, by name, then the next one's: a database that is dropped, or closed to the monitor, keeps no other section
//! from being served. In each, these are tried:
//!
//! ```text
//!   a round:  who is configured, best first;  who has logged in as a client, with what worked
//!   refused:  the next of the round;  after the last of it, the first with the next section's database
//! ```

use crate::auth::ServerCredential;

/// The most logins of a round.
pub(super) const MAX_ROUND: usize = 4;

/// A user, and the proof.
pub(super) type User = (String, ServerCredential);

/// A login with which servers can be probed.
#[derive(Clone)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The database.
    pub database: String,
    /// The proof.
    pub credential: ServerCredential,
}

/// All logins of a cluster.
#[derive(Default)]
pub(super) struct Logins {
    users: Vec<User>,
    databases: Vec<String>,
    offered: Vec<Login>,
}

impl Logins {
    /// How many are tried before the next database is.
    pub fn round(&self) -> usize {
        self.users.len() + self.offered.len()
    }

    /// The login for this attempt.
    pub fn nth(&self, attempt: usize) -> Option<Login> {
        let place = attempt.checked_rem(self.round())?;
        let Some((user, credential)) = self.users.get(place) else {
            return self.offered.get(place - self.users.len()).cloned();
        };
        let database = self.databases.get((attempt / self.round()).checked_rem(self.databases.len())?)?;
        Some(Login { user: user.clone(), database: database.clone(), credential: credential.clone() })
    }

    /// What the configuration says. Answers whether that is something new.
    pub fn configure(&mut self, users: Vec<User>, databases: Vec<String>) -> bool {
        let is_new = self.users != users || self.databases != databases;
        (self.users, self.databases) = (users, databases);
        self.offered.truncate(self.spare());
        is_new
    }

    /// A login that has worked for a client; the last one offered is kept. Answers whether it is new.
    pub fn offer(&mut self, login: Login) -> bool {
        let known = match self.users.iter_mut().find(|(user, _)| *user == login.user) {
            Some((_, credential)) if self.databases.contains(&login.database) => Some(credential),
            _ => {
                let is_same =
                    |known: &&mut Login| known.user == login.user && known.database == login.database;
                self.offered.iter_mut().find(is_same).map(|known| &mut known.credential)
            }
        };
        match known {
            Some(credential) if *credential == login.credential => return false,
            Some(credential) => *credential = login.credential,
            None => {
                self.offered.truncate(self.spare() - 1);
                self.offered.push(login);
            }
        }
        true
    }

    /// How many can be taken that are not configured: at least one.
    fn spare(&self) -> usize {
        MAX_ROUND.saturating_sub(self.users.len()).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> User {
        (name.to_owned(), ServerCredential::Nothing)
    }

    fn client(user: &str, database: &str) -> Login {
        Login { user: user.into(), database: database.into(), credential: ServerCredential::Nothing }
    }

    fn names(logins: &Logins, attempts: usize) -> Vec<String> {
        let name = |login: Login| format!("{}@{}", login.user, login.database);
        (0..attempts).filter_map(|attempt| logins.nth(attempt)).map(name).collect()
    }

    fn configured(users: &[&str], databases: &[&str]) -> Logins {
        let mut logins = Logins::default();
        let users = users.iter().map(|name| user(name)).collect();
        assert!(logins.configure(users, databases.iter().map(|name| name.to_string()).collect()));
        logins
    }

    #[test]
    fn every_section_s_database_is_tried_in_turn() {
        let mut logins = configured(&["a", "b"], &["one", "two"]);
        assert_eq!(names(&logins, 5), ["a@one", "b@one", "a@two", "b@two", "a@one"]);
        assert!(logins.offer(client("c", "two")));
        assert_eq!(names(&logins, 6), ["a@one", "b@one", "c@two", "a@two", "b@two", "c@two"]);
    }

    #[test]
    fn who_is_known_is_no_news() {
        let mut logins = configured(&["a"], &["one", "two"]);
        assert!(!logins.offer(client("a", "two")));
        assert!(logins.offer(client("a", "three")) && !logins.offer(client("a", "three")));
        assert!(!logins.configure(vec![user("a")], vec!["one".into(), "two".into()]));
    }

    #[test]
    fn of_many_that_are_offered_the_last_is_kept() {
        let mut logins = configured(&["a", "b", "c"], &["one"]);
        assert!((0..1000).all(|number| logins.offer(client(&format!("user{number}"), "one"))));
        assert_eq!(logins.round(), MAX_ROUND);
        assert_eq!(names(&logins, 4)[3], "user999@one");
    }

    #[test]
    fn without_any_there_is_none() {
        assert!(Logins::default().nth(0).is_none());
        let mut logins = Logins::default();
        logins.offer(client("a", "one"));
        assert_eq!(names(&logins, 2), ["a@one", "a@one"]);
    }
}
