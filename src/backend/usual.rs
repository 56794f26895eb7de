//! What connections have to report alike: clients are told it once, at their login, and read rows from any of them.
//!
//! A server's configuration file may have another time zone than the primary's, and a role's defaults may change while old
//! connections live on. Rows would then be in another zone than the client was told, and strings be read by other rules. So
//! what the first connection of a user reports holds for all: one whose server says otherwise logs in again and asks for it.

use crate::session::server_state::ServerState;
use arc_swap::ArcSwapOption;
use std::sync::Arc;

/// Those that are reported, that any user may set, and that change what texts mean.
const NAMES: [&str; 5] =
    ["client_encoding", "DateStyle", "IntervalStyle", "TimeZone", "standard_conforming_strings"];

/// The values that the connections of one user to the servers of one database have in common.
#[derive(Debug, Clone, Default)]
pub struct Usual(Arc<ArcSwapOption<Vec<Parameter>>>);

/// Name and value.
pub(super) type Parameter = (Box<str>, Box<str>);

impl Usual {
    /// The next connection decides anew.
    pub fn forget(&self) {
        self.0.store(None);
    }

    /// What a fresh login must ask for to report what the others do. The first one decides what that is; a replica's own
    /// configuration decides nothing.
    pub(super) fn lacking(&self, state: &ServerState) -> Vec<Parameter> {
        match &*self.0.load() {
            Some(usual) => {
                usual.iter().filter(|(name, value)| state.parameter(name) != Some(value)).cloned().collect()
            }
            None => {
                if state.parameter("in_hot_standby") != Some("on") {
                    let reported =
                        NAMES.iter().filter_map(|name| Some(((*name).into(), state.parameter(name)?.into())));
                    self.0.store(Some(Arc::new(reported.collect())));
                }
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reporting(parameters: &[(&str, &str)]) -> ServerState {
        let mut state = ServerState::new(0);
        parameters.iter().for_each(|(name, value)| state.report(name, value));
        state
    }

    #[test]
    fn the_first_login_that_is_no_replica_s_decides() {
        let usual = Usual::default();
        let replica =
            reporting(&[("in_hot_standby", "on"), ("TimeZone", "Asia/Tokyo"), ("DateStyle", "ISO, MDY")]);
        assert_eq!(usual.lacking(&replica), []);
        let primary = reporting(&[("in_hot_standby", "off"), ("TimeZone", "UTC"), ("DateStyle", "ISO, MDY")]);
        assert_eq!(usual.lacking(&primary), []);
        assert_eq!(usual.lacking(&replica), [("TimeZone".into(), "UTC".into())]);
        assert_eq!(usual.lacking(&primary), []);
        usual.forget();
        let moved = reporting(&[("TimeZone", "Europe/Rome")]);
        assert_eq!(usual.lacking(&moved), []);
        assert_eq!(usual.lacking(&primary), [("TimeZone".into(), "Europe/Rome".into())]);
    }
}
