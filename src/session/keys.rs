//! The causality key in a statement's comment: the history by which that statement goes, and which learns of it.
//!
//! A key holds for its request. Within a transaction the first one holds to the end, because all of it runs on one server;
//! the histories of others that follow learn of the transaction when it ends. Requests of other keys wait until what is
//! outstanding has been answered: an answer counts for the key that was there when its request was sent.

use super::own::MAX_KEY;
use super::*;
use crate::sql::comment;

impl Session {
    /// Takes the key of the request at the head of the input, if it is one that has or might have had one. Answers what has
    /// to come first.
    pub(super) fn take_key(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        world: &mut World<'_>,
    ) -> Option<Want> {
        let key = self.key_named(span, bytes, world)?;
        if key.as_deref() == self.own.comment() {
            return None;
        }
        let has_begun = self.deferred.is_none()
            && (self.transaction.is_open() || self.tenure.may_be_in_block || self.batch == Batch::Open);
        match key {
            Some(key) if has_begun => {
                let level = self.own.consistency().unwrap_or(world.level);
                self.own.joins_also(world.scopes.join(&key, level, world.now));
                None
            }
            None if has_begun => None,
            _ if !self.replies.is_empty() => Some(Want::Input),
            key => {
                self.own.set_comment(key.as_deref());
                None
            }
        }
    }

    /// The key that a request names, or that it names none; `None`: it goes with what is there.
    fn key_named(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        world: &mut World<'_>,
    ) -> Option<Option<String>> {
        let body = span.body(bytes);
        let may_have_one = self.own.comment().is_some();
        match span.tag() {
            FrontendTag::QUERY => {
                let head = self.head_of(body, world);
                match head.keyed {
                    true => Some(key_of(frontend::query(body)?)),
                    // BEGIN and COMMIT are of the transaction that they begin or end.
                    false => (may_have_one && head.transaction.is_none()).then_some(None),
                }
            }
            FrontendTag::PARSE => {
                self.look_ahead(span, bytes, world);
                let head = self.head.as_ref()?.statement();
                if head.keyed {
                    self.own.note_keyed_statement();
                    return Some(key_of(Parse::new(body)?.text));
                }
                (may_have_one && head.transaction.is_none()).then_some(None)
            }
            FrontendTag::BIND if may_have_one || self.own.has_keyed_statements() => {
                let named = self.find(Bind::new(body)?.statement, world)?;
                match named.statement.keyed {
                    true => Some(key_of(&named.prepared.text)),
                    false => named.statement.transaction.is_none().then_some(None),
                }
            }
            _ => None,
        }
    }
}

/// One that no client could SET is none.
fn key_of(text: &[u8]) -> Option<String> {
    let is_one = |key: &String| (1..=MAX_KEY).contains(&key.len()) && !key.contains('\0');
    comment::causality_key(text).filter(is_one)
}
