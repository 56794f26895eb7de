//! What clients ask for in their startup packets.
//!
//! A program opens all its connections with the same packet, so what that asks for is worked out once per worker and kept
//! beside its bytes. Nothing else has a part in it: what is kept is never outdated.

use crate::error::{ErrorSource, Report};
use crate::session::{Own, Settings, own, settings};
use crate::wire::SqlState;
use crate::wire::startup::Parameters;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// The most packets that a worker keeps; anybody may send one.
const MOST: usize = 512;

/// The shortest that is looked for, in bytes: that of a user whose name has one letter. What asks for encryption is shorter.
const SHORTEST: usize = 16;

/// The longest that is kept, in bytes. Usual ones have a hundred.
const LONGEST: usize = 512;

/// The startup packets that a worker has seen.
#[derive(Default)]
pub(super) struct Openings(RefCell<HashMap<Box<[u8]>, Rc<Opening>>>);

/// A startup packet.
pub(super) struct Opening {
    /// What stands in it.
    pub parameters: Parameters,
    /// Who the client says that it is; empty if it does not.
    pub user: Arc<str>,
    /// The database that it asks for, or its user's.
    pub database: Arc<str>,
    /// What the client's program calls itself; may be empty.
    pub application_name: Arc<str>,
    wishes: OnceCell<Wishes>,
}

/// The settings that a client begins with.
struct Wishes {
    settings: Settings,
    /// Names and values of our own ones.
    own: Vec<(String, String)>,
}

impl Openings {
    /// What this packet asks for, if it came before.
    pub fn known(&self, packet: &[u8]) -> Option<Rc<Opening>> {
        if packet.len() < SHORTEST {
            return None;
        }
        self.0.borrow().get(packet).cloned()
    }

    /// What this packet asks for, which has just been read.
    pub fn note(&self, packet: &[u8], parameters: Parameters) -> Rc<Opening> {
        let opening = Rc::new(Opening::new(parameters));
        if packet.len() <= LONGEST {
            let mut kept = self.0.borrow_mut();
            if kept.len() >= MOST {
                kept.clear();
            }
            kept.insert(packet.into(), opening.clone());
        }
        opening
    }
}

impl Opening {
    fn new(parameters: Parameters) -> Self {
        let value = |name| parameters.value(name).unwrap_or_default();
        let user: Arc<str> = value("user").into();
        let database = match value("database") {
            "" => user.clone(),
            name => name.into(),
        };
        let application_name = value("application_name").into();
        Opening { user, database, application_name, wishes: OnceCell::new(), parameters }
    }

    /// The settings that the client asks for, by name and in `options`: the servers', and our own. One that is in both is
    /// what it is by name, as on a server.
    ///
    /// # Errors
    /// `options` that are none, too many settings, or choices of our own that nobody knows.
    pub fn settings(&self) -> Result<(Settings, Own), Report> {
        let wishes = match self.wishes.get() {
            Some(wishes) => wishes,
            None => {
                let wishes = Wishes::of(&self.parameters)?;
                self.wishes.get_or_init(|| wishes)
            }
        };
        let own = wishes.own.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Ok((wishes.settings.clone(), Own::from_startup(own)?))
    }
}

impl Wishes {
    fn of(parameters: &Parameters) -> Result<Wishes, Report> {
        let reserved = ["user", "database", "options", "replication"];
        let named = parameters
            .pairs
            .iter()
            .filter(|(name, _)| !reserved.contains(&name.as_str()) && !name.starts_with("_pq_."));
        let options = parameters.value("options").unwrap_or_default();
        let mut pairs = settings::startup_options(options).map_err(|word| {
            let text = format!("invalid command-line argument in \"options\": {word}");
            Report::new(ErrorSource::Client, SqlState::SYNTAX_ERROR, text)
        })?;
        pairs.extend(named.cloned());
        if pairs.len() > settings::MAX_SETTINGS {
            let text = format!("too many settings in the startup packet: {}", pairs.len());
            return Err(Report::new(ErrorSource::Client, SqlState::PROGRAM_LIMIT_EXCEEDED, text));
        }
        pairs.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
        let (own, pairs) = pairs.into_iter().partition(|(name, _)| name.starts_with(own::PREFIX));
        let pairs: Vec<_> = pairs;
        Ok(Wishes { settings: Settings::from_startup(pairs), own })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::startup::{self, StartupPacket};

    fn packet(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut packet = Vec::new();
        startup::write_startup(&mut packet, pairs);
        packet
    }

    fn note(openings: &Openings, packet: &[u8]) -> Rc<Opening> {
        let Ok(StartupPacket::Startup(parameters)) = startup::parse(packet) else {
            panic!("a startup packet")
        };
        openings.note(packet, parameters)
    }

    #[test]
    fn a_packet_is_worked_out_once() {
        let openings = Openings::default();
        let first = packet(&[("user", "app"), ("application_name", "a"), ("TimeZone", "UTC")]);
        let noted = note(&openings, &first);
        assert!(Rc::ptr_eq(&noted, &openings.known(&first).unwrap()));
        assert_eq!((&*noted.user, &*noted.database, &*noted.application_name), ("app", "app", "a"));
        let names = |opening: &Opening| opening.settings().unwrap().0.names().cloned().collect::<Vec<_>>();
        assert_eq!(names(&noted), ["application_name", "timezone"]);
        let other = packet(&[("user", "app"), ("application_name", "b"), ("TimeZone", "UTC")]);
        assert!(openings.known(&other).is_none());
        assert_ne!(note(&openings, &other).settings().unwrap().0, noted.settings().unwrap().0);
    }

    #[test]
    fn what_is_wrong_stays_wrong() {
        let openings = Openings::default();
        for wrong in [("options", "-x"), ("pglagoon.nonsense", "1"), ("pglagoon.consistency", "no such")] {
            let opening = note(&openings, &packet(&[("user", "app"), wrong]));
            assert!(opening.settings().is_err() && opening.settings().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_so_many_are_kept() {
        let openings = Openings::default();
        for number in 0..2 * MOST {
            note(&openings, &packet(&[("user", &number.to_string())]));
        }
        assert!(openings.0.borrow().len() <= MOST);
        let long = packet(&[("user", &"u".repeat(LONGEST))]);
        note(&openings, &long);
        assert!(openings.known(&long).is_none());
    }
}
