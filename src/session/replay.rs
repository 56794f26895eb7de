//! The safety net: a request that a replica could not serve, though it was thought that it could, runs again elsewhere.
//!
//! ```text
//!   Nothing ---- first message, alone, to a replica ----> Gathering ---- its end ----> Kept
//!   Kept    ---- anything but an error of these kinds, or another request ----> Nothing
//!   Kept    ---- such an error, or the connection is lost ----> Failed: the rest of the answer is swallowed
//!   Failed  ---- ReadyForQuery, or the connection is lost ----> Again: Want::Replay, the request is the input's head
//!   Again   ---- sent ----> Kept on a replica, Nothing on the primary
//! ```
//! What the client is not shown cannot be taken back from it: not one byte of the answer is passed on before it is known
//! whether it is an error. PostgreSQL sends the beginning of an answer together with what decides, so that as a rule
//! nothing waits.
//!
//! Only requests outside a transaction block, with nothing else outstanding, are kept: each is one implicit transaction,
//! and one that has failed has done nothing.

use super::replies::Renamed;
use super::*;

/// The longest request that is kept, in bytes.
const MAX_KEPT: usize = 16 * 1024;

/// How much of an answer may wait for what decides, in bytes.
const MAX_HELD_BACK: usize = 4 * 1024;

/// How often a request is sent before its error is the client's.
const MAX_TRIES: u8 = 3;

/// Why a request runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rescue {
    /// It wanted to write (25006): the classifier was wrong.
    Wrote,
    /// It wanted something that a server in recovery has not: the classifier was wrong.
    Recovery,
    /// The replica does not know a table or a column (yet).
    Behind,
    /// Replay took away what it was reading.
    Conflict,
    /// The connection broke.
    Lost,
}

impl Rescue {
    /// Every kind.
    pub const ALL: [Rescue; 5] =
        [Rescue::Wrote, Rescue::Recovery, Rescue::Behind, Rescue::Conflict, Rescue::Lost];

    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Rescue::Wrote => "wrote",
            Rescue::Recovery => "recovery",
            Rescue::Behind => "behind",
            Rescue::Conflict => "conflict",
            Rescue::Lost => "lost",
        }
    }

    /// Whether the text must not be sent to a replica again.
    fn is_misjudged(self) -> bool {
        matches!(self, Rescue::Wrote | Rescue::Recovery)
    }

    /// Whether another replica may do better.
    fn is_of_one_server(self) -> bool {
        matches!(self, Rescue::Conflict | Rescue::Lost)
    }

    /// What an error of a replica's calls for.
    fn of(fields: &Fields<'_>) -> Option<Rescue> {
        let message = fields.text(b'M').unwrap_or_default();
        let names = |word: &[u8]| message.windows(word.len()).any(|part| part == word);
        match fields.code()? {
            SqlState::READ_ONLY_SQL_TRANSACTION => Some(Rescue::Wrote),
            SqlState::FEATURE_NOT_SUPPORTED
            | SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
            | SqlState::INTERNAL_ERROR
                if names(b"recovery") || names(b"standby") =>
            {
                Some(Rescue::Recovery)
            }
            SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN => Some(Rescue::Behind),
            SqlState::SERIALIZATION_FAILURE => Some(Rescue::Conflict),
            _ if fields.is_fatal() => Some(Rescue::Lost),
            _ => None,
        }
    }
}

/// Where the safety net stands.
#[derive(Debug, Default)]
pub(super) enum Replay {
    /// Nothing could be sent again.
    #[default]
    Nothing,
    /// A batch is on its way to a replica; its Sync is not.
    Gathering(Box<Kept>),
    /// A request was sent to a replica, and nothing of its answer has been passed on.
    Kept(Box<Kept>),
    /// Its answer is swallowed.
    Failed(Box<Kept>, Rescue),
    /// It stands at the head of the input again.
    Again(Rescue, u8),
}

/// A request, as the client sent it.
#[derive(Debug)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    /// How often it was sent.
    tries: u8,
    /// When it was first seen.
    asked: Option<Instant>,
}

/// What the beginning of an answer says of its rest.
enum Omen {
    Good,
    Undecided,
    Bad(Rescue),
}

impl Session {
    /// Whether a request that begins here stands alone.
    pub(super) fn stands_alone(&self) -> bool {
        self.replies.is_empty() && !self.is_bound() && !self.may_be_in_block
    }

    /// A message of the client's was dealt with. `began_alone`: it began a request that stands alone, on a replica.
    pub(super) fn keep(&mut self, span: Span<FrontendTag>, bytes: &[u8], began_alone: bool) {
        if matches!(self.replay, Replay::Nothing) && !began_alone {
            return;
        }
        let message = bytes.get(..span.len());
        self.replay = match (std::mem::take(&mut self.replay), span.tag(), message) {
            (Replay::Gathering(kept), FrontendTag::SYNC, Some(message)) => {
                kept.with(message).map_or(Replay::Nothing, Replay::Kept)
            }
            (
                Replay::Gathering(kept),
                FrontendTag::PARSE
                | FrontendTag::BIND
                | FrontendTag::DESCRIBE
                | FrontendTag::EXECUTE
                | FrontendTag::CLOSE,
                Some(message),
            ) => kept.with(message).map_or(Replay::Nothing, Replay::Gathering),
            (before, tag, Some(message)) if began_alone => {
                let tries = if let Replay::Again(_, tries) = before { tries } else { 0 };
                let kept = Box::new(Kept { bytes: Vec::new(), tries: tries + 1, asked: self.asked });
                match (tag, kept.with(message)) {
                    (FrontendTag::QUERY, Some(kept)) => Replay::Kept(kept),
                    (FrontendTag::PARSE | FrontendTag::BIND | FrontendTag::DESCRIBE, Some(kept)) => {
                        Replay::Gathering(kept)
                    }
                    _ => Replay::Nothing,
                }
            }
            _ => Replay::Nothing,
        };
    }

    /// Where the request at the head of the input must run because of what became of it before.
    pub(super) fn detour(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        world: &mut World<'_>,
    ) -> Option<Route> {
        let Replay::Again(rescue, tries) = self.replay else { return None };
        if rescue.is_misjudged() {
            self.remember_unsafe(span, bytes, world);
        }
        let may_be_sent_away = rescue.is_of_one_server() && tries + 1 < MAX_TRIES;
        (!may_be_sent_away).then_some(Route::Primary { why: Why::Rescued, shown: self.history.shown() })
    }

    /// A replica refused what looked like a read: whoever sends that text again, sends it to the primary.
    fn remember_unsafe(&mut self, span: Span<FrontendTag>, bytes: &[u8], world: &mut World<'_>) {
        let body = span.body(bytes);
        match span.tag() {
            FrontendTag::QUERY => {
                let text = frontend::query(body).unwrap_or_default();
                world.classifier.remember_unsafe(text);
            }
            FrontendTag::PARSE => {
                if let Some(parse) = Parse::new(body) {
                    world.classifier.remember_unsafe(parse.text);
                }
            }
            FrontendTag::BIND => {
                let Some(bind) = Bind::new(body) else { return };
                let named =
                    self.statements.as_mut().and_then(|statements| statements.find_mut(bind.statement));
                if let Some(named) = named {
                    world.classifier.remember_unsafe(&named.prepared.text);
                    named.statement = world.classify(&named.prepared.text);
                }
            }
            _ => {}
        }
    }

    /// Whether the server's bytes may be passed on. If it is not known yet, nothing of them is looked at until there are
    /// more.
    pub(super) fn may_pass_on(&mut self, input: &[u8]) -> bool {
        let is_ours = self.replies.front().is_some_and(|reply| reply.action == Action::Swallow);
        if is_ours || !matches!(self.replay, Replay::Kept(_)) {
            return true;
        }
        let omen = match omen(input) {
            Omen::Undecided if input.len() < MAX_HELD_BACK => return false,
            omen => omen,
        };
        self.replay = match (std::mem::take(&mut self.replay), omen) {
            (Replay::Kept(kept), Omen::Bad(rescue)) if kept.tries < MAX_TRIES => {
                self.forget_names();
                Replay::Failed(kept, rescue)
            }
            _ => Replay::Nothing,
        };
        true
    }

    /// Names that the request gave or took, as they were before it: it will do so again.
    fn forget_names(&mut self) {
        for Renamed { name, before } in self.replies.take_names().into_iter().rev() {
            self.statements.get_or_insert_default().restore(&name, before);
        }
    }

    /// Whether what the server says is kept from the client.
    pub(super) fn is_muted(&self) -> bool {
        matches!(self.replay, Replay::Failed(..))
    }

    /// The server has nothing more to say to the request that failed.
    pub(super) fn replay(&mut self) -> Option<Want> {
        match self.replay {
            Replay::Failed(_, rescue) => Some(Want::Replay(rescue)),
            _ => None,
        }
    }

    /// The connection is lost, and all that was outstanding on it undone.
    pub(super) fn replay_what_was_lost(&mut self) -> Option<Want> {
        self.replay = match std::mem::take(&mut self.replay) {
            Replay::Kept(kept) if kept.tries < MAX_TRIES => Replay::Failed(kept, Rescue::Lost),
            failed @ Replay::Failed(..) => failed,
            _ => Replay::Nothing,
        };
        self.replay()
    }

    /// After [`Want::Replay`], when the server connection is given back: the request, to be put at the head of the client's
    /// input again.
    pub fn again(&mut self) -> Vec<u8> {
        match std::mem::take(&mut self.replay) {
            Replay::Failed(kept, rescue) => {
                self.replay = Replay::Again(rescue, kept.tries);
                self.asked = kept.asked;
                kept.bytes
            }
            _ => Vec::new(),
        }
    }
}

impl Kept {
    /// With one message more, if that is not too much.
    fn with(mut self: Box<Self>, message: &[u8]) -> Option<Box<Self>> {
        if self.bytes.len() + message.len() > MAX_KEPT {
            return None;
        }
        self.bytes.extend_from_slice(message);
        Some(self)
    }
}

/// Looks ahead to the message that decides.
fn omen(input: &[u8]) -> Omen {
    let mut scanner = Scanner::<BackendTag>::default();
    let mut at = 0;
    while let Ok(step @ Step::Message(span)) = scanner.step(&input[at..]) {
        match span.tag() {
            _ if !span.is_whole() && span.tag() != BackendTag::DATA_ROW => return Omen::Undecided,
            BackendTag::ERROR_RESPONSE => {
                return Rescue::of(&Fields::new(span.body(&input[at..]))).map_or(Omen::Good, Omen::Bad);
            }
            BackendTag::PARSE_COMPLETE
            | BackendTag::BIND_COMPLETE
            | BackendTag::CLOSE_COMPLETE
            | BackendTag::PARAMETER_DESCRIPTION
            | BackendTag::ROW_DESCRIPTION
            | BackendTag::NO_DATA
            | BackendTag::NOTICE_RESPONSE
            | BackendTag::PARAMETER_STATUS => {}
            _ => return Omen::Good,
        }
        at += span.len();
        scanner.pass(&step);
    }
    Omen::Undecided
}
