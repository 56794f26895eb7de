//! Statements that SQL's EXECUTE asks for by the name that the client gave them in a Parse.
//!
//! Servers have such a statement under a name of ours, and EXECUTE looks for the client's. So ahead of the request the server is
//! given the statement under that name, too, and it is closed behind the transaction, before anybody else uses the connection.
//! Only what SQL's PREPARE would take, too, is lent: what any other command leads to, the text that runs it does not tell.
//!
//! ```text
//!   Query             Close name, Parse name | Query | Sync        Close name, Sync
//!   Parse, Bind ...   Close name, Parse name | Parse, Bind ...     Close name, Sync
//! ```
//! If it cannot be prepared any more, the server skips a Query behind it, too, and the Sync has it answer.

use super::consequences::run_by_name;
use super::*;
use crate::sql::lasting;

/// So many statements are lent for one request.
const MAX_LENT: usize = 64;

/// So many names are kept in mind in one transaction.
const MAX_STRAYS: usize = 1000;

impl Session {
    /// What a text does by executing statements of this client's.
    pub(super) fn executed_effects(&self, text: &[u8]) -> Effects {
        if self.naming == Naming::Own {
            return Effects::NONE;
        }
        let found = effect::executed(text).filter_map(|name| self.lendable(&name));
        run_by_name(found.fold(Effects::NONE, |effects, named| effects.with(named.statement.effects)))
    }

    /// The client's statement of this name, unless SQL's PREPARE has given that to another.
    fn lendable(&self, name: &str) -> Option<&Named> {
        let named = self.statements.as_ref()?.find(name.as_bytes())?;
        let is_lendable = lasting::is_planned(&named.prepared.text) && !self.sql_statements.has(name);
        is_lendable.then_some(named)
    }

    /// Gives the server those of the client's statements that `text` executes by name. Answers whether there are any.
    pub(super) fn lend<'t>(
        &mut self,
        statement: &Statement,
        text: impl Fn() -> &'t [u8],
        edits: &mut Edits,
    ) -> bool {
        if !statement.effects.any(Effects::PREPARED_NAME) || self.naming == Naming::Own {
            return false;
        }
        // One that is executed a thousand times in one text is sent once.
        let mut lent = BTreeSet::new();
        for name in effect::executed(text()) {
            if lent.len() == MAX_LENT || lent.contains(&name) {
                continue;
            }
            let Some(prepared) = self.lendable(&name).map(|named| named.prepared.clone()) else { continue };
            self.place(name.as_bytes(), &prepared.text, &prepared.types, Some(Then::Lent), edits);
            self.tenure.add_stray(name.as_bytes());
            edits.events.server_parses += 1;
            lent.insert(name);
        }
        !lent.is_empty()
    }

    /// Gives the server an empty statement of the client's own name.
    pub(super) fn place_empty(&mut self, name: &[u8], edits: &mut Edits) {
        self.place(name, b"", b"\0\0", None, edits);
    }

    /// What has the name, if anything, goes: the server may have skipped what put it there.
    fn place(&mut self, name: &[u8], text: &[u8], types: &[u8], then: Option<Then>, edits: &mut Edits) {
        edits.insert(|out| {
            frontend::write_close_statement(out, name);
            Parse::write(out, name, text, types);
        });
        self.replies.push(Request::Close, Action::Swallow, None);
        self.replies.push(Request::Parse, Action::Swallow, then);
    }

    /// Closes what stands on the server under names of the client's own.
    pub(super) fn close_strays(&mut self, edits: &mut Edits) {
        let Some(strays) = self.tenure.strays.take() else { return };
        for name in &*strays {
            edits.insert(|out| frontend::write_close_statement(out, name));
            self.replies.push(Request::Close, Action::Swallow, None);
        }
        edits.insert(frontend::write_sync);
        self.replies.push(Request::Sync, Action::Swallow, None);
    }
}

impl Tenure {
    /// A statement stands, or may stand, on the server under a name of the client's own.
    pub(super) fn add_stray(&mut self, name: &[u8]) {
        let strays = self.strays.get_or_insert_default();
        if strays.len() < MAX_STRAYS {
            strays.insert(name.into());
        } else {
            // Nobody else has the connection before all that is there has been discarded.
            self.is_soiled = true;
        }
    }

    /// What has that name from now on is the client's own.
    pub(super) fn remove_stray(&mut self, name: &[u8]) {
        if let Some(strays) = &mut self.strays {
            strays.remove(name);
            if strays.is_empty() {
                self.strays = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_in_mind_is_discarded() {
        let mut tenure = Tenure::default();
        (0..MAX_STRAYS).for_each(|number| tenure.add_stray(format!("s{number}").as_bytes()));
        assert!(!tenure.is_soiled);
        tenure.add_stray(b"one more");
        assert!(tenure.is_soiled && tenure.strays.is_some_and(|strays| strays.len() == MAX_STRAYS));
    }
}
