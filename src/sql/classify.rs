//! A text and a catalog become a [`Statement`].
//!
//! Two looks are taken. [`outline`](super::outline) reads a text of any length and finds the certain: verbs, effects,
//! writes. Only if it finds nothing against it, [`prove`](super::prove) tries to prove that every statement reads.

use super::fingerprint::Hint;
use super::lexer::{Kind, Token};
use super::outline::{Judgement, Outline, outline};
use super::prove::prove;
use super::{Access, Catalog, Effects, Reason, Statement};

/// The longest text that anybody tries to prove, in bytes. Longer ones are bulk writes; a proof would cost more than a
/// replica saves.
pub const PROVABLE_BYTES: usize = 64 * 1024;

/// How deep parentheses may nest in a text that is proven: the proof recurses, and a stack is finite. PostgreSQL's own
/// limit (`max_stack_depth`) allows some thousands, people some dozens.
pub const PROVABLE_DEPTH: u32 = 200;

/// What `text` does. All statements of the text count: it is as bad as the worst of them.
///
/// The values of literals never matter, so the answer holds for every text of the same fingerprint.
pub fn classify(text: &[u8], catalog: &dyn Catalog) -> Statement {
    let outline = outline(text, catalog);
    let judgement = judge(text, &outline, catalog);
    let (access, reason) = match (outline.hint, judgement.0) {
        (Some(Hint::Primary), Access::Read | Access::Unsure) => (Access::Unsure, Reason::HintPrimary),
        (Some(Hint::Replica), Access::Unsure) if may_be_sent_away(&outline) => {
            (Access::Read, Reason::HintReplica)
        }
        _ => (judgement.0, judgement.1),
    };
    Statement {
        access,
        reason,
        token: judgement.2.map(|token| quote(token, text)).unwrap_or_default(),
        transaction: outline.transaction,
        effects: match access {
            // What it calls has been looked up, word by word, or is vouched for.
            Access::Read => outline.effects.without(Effects::UNKNOWN),
            Access::Unsure | Access::Write => outline.effects,
        },
        statements: outline.statements,
        keyed: outline.keyed,
    }
}

fn judge(text: &[u8], outline: &Outline, catalog: &dyn Catalog) -> (Access, Reason, Option<Token>) {
    if let Some(Judgement { access, reason, token }) = outline.judgement {
        return (access, reason, Some(token));
    }
    if outline.statements == 0 {
        // Nothing runs, on whichever server.
        return (Access::Read, Reason::Empty, None);
    }
    if text.len() > PROVABLE_BYTES || outline.depth > PROVABLE_DEPTH {
        return (Access::Unsure, Reason::Unrecognised, None);
    }
    match prove(text, catalog) {
        Ok(()) => (Access::Read, Reason::ProvenRead, None),
        Err(Judgement { access, reason, token }) => (access, reason, Some(token)),
    }
}

/// Whether a hint may send an unproven text to a replica: only queries that lex, never a command that changes a
/// transaction or a session.
fn may_be_sent_away(outline: &Outline) -> bool {
    outline.judgement.is_none()
}

/// A token as people read it. Literals stay out: they are not the text's, and may be secret.
fn quote(token: Token, text: &[u8]) -> Box<str> {
    const LONGEST: usize = 64;
    let literal = token.kind.is_string()
        || matches!(token.kind, Kind::BitString | Kind::Number | Kind::Parameter | Kind::Error);
    if literal {
        return Box::default();
    }
    let text = String::from_utf8_lossy(token.bytes(text));
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}
