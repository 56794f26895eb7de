//! The safety net: a request that a replica could not serve, though it was thought that it could, runs again elsewhere; one
//! that failed because a server's plan is older than the tables, which was pglagoon's to know, is prepared anew; one that
//! failed with a kept statement in its unnamed one's stead runs again with its own.
//!
//! ```text
//!   Nothing ---- first message, alone -------------------> Gathering ---- its end ----> Kept
//!   Kept    ---- another read, on a replica ----> Gathering ---- its end ----> Kept: both, in order
//!   Kept    ---- the last answer is over, or a request that cannot be kept ----> Nothing
//!   Kept    ---- such an error, or the connection is lost ----> Failed: the rest of the answers is swallowed
//!   Failed  ---- the last ReadyForQuery, or the connection is lost ----> Again: Want::Replay, they are the input's head
//!   Again   ---- sent ----> Kept on a replica, Nothing on the primary
//! ```
//! What the client was shown cannot be taken back from it: not one byte of an answer is passed on before it is known
//! whether it is an error. PostgreSQL sends the beginning of an answer together with what decides, so that as a rule
//! nothing waits. Once something of an answer is shown, its request is not kept any more: if the connection is lost then,
//! that request alone is answered with an error, and those behind it run again.
//!
//! Only requests outside a transaction block are kept: each (a Query, or a batch up to its Sync) is one implicit
//! transaction, and one that has failed has done nothing. On the primary only those are that may run an old plan, alone, and
//! only until the server has taken it: one that was begun there and lost may have come true.

use super::replies::Renamed;
use super::*;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

/// The most of requests that is kept, in bytes.
pub(super) const MAX_KEPT: usize = 32 * 1024;

/// How much of them may be under way at a replica before the next request waits for answers, in bytes: it is kept, too.
const MAX_AHEAD: usize = MAX_KEPT / 2;

/// How much of an answer may wait for what decides, in bytes.
const MAX_HELD_BACK: usize = 4 * 1024;

/// How often a request is sent before its error is the client's.
const MAX_TRIES: u8 = 3;

/// How long a read has run at least that is ended for its own sake. Shorter ones happen to be there when all sessions are.
const LONG: Duration = Duration::from_secs(2);

/// The most requests' memory that is kept for the next ones.
const MAX_SPARE: usize = 64;

/// Why a request runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rescue {
    /// It wanted to write (25006): the classifier was wrong.
    Wrote,
    /// It wanted something that a server in recovery has not: the classifier was wrong.
    Recovery,
    /// The replica does not know a table or a column (yet), or has refused in words that do not say that recovery is why: they
    /// may be in another language.
    Behind,
    /// Replay took away what it was reading.
    Conflict,
    /// The connection broke.
    Lost,
    /// The server ended the connection by an administrator's order: to stop, or to end just that (57P01).
    Ended,
    /// DDL that pglagoon has not seen changed what a statement returns that the server had prepared before.
    Outdated,
    /// It failed before it ran, with a kept statement in its unnamed one's stead: either would fail so, or only what is older.
    Kept,
}

impl Rescue {
    /// Every kind.
    pub const ALL: [Rescue; 8] = [
        Rescue::Wrote,
        Rescue::Recovery,
        Rescue::Behind,
        Rescue::Conflict,
        Rescue::Lost,
        Rescue::Ended,
        Rescue::Outdated,
        Rescue::Kept,
    ];

    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Rescue::Wrote => "wrote",
            Rescue::Recovery => "recovery",
            Rescue::Behind => "behind",
            Rescue::Conflict => "conflict",
            Rescue::Lost => "lost",
            Rescue::Ended => "ended",
            Rescue::Outdated => "outdated",
            Rescue::Kept => "kept",
        }
    }

    /// Whether the text must not be sent to a replica again.
    fn is_misjudged(self) -> bool {
        matches!(self, Rescue::Wrote | Rescue::Recovery)
    }

    /// Whether the server itself would serve it, if it were asked otherwise.
    fn is_of_statement(self) -> bool {
        matches!(self, Rescue::Outdated | Rescue::Kept)
    }

    /// Whether another replica may do better.
    fn is_of_one_server(self) -> bool {
        self == Rescue::Conflict || self.is_end()
    }

    /// Whether there is no connection any more.
    fn is_end(self) -> bool {
        matches!(self, Rescue::Lost | Rescue::Ended)
    }

    /// What an error calls for.
    fn of(fields: &Fields<'_>, role: Role) -> Option<Rescue> {
        if is_outdated(fields) {
            return Some(Rescue::Outdated);
        }
        if role == Role::Primary {
            return None;
        }
        let message = fields.text(b'M').unwrap_or_default();
        let names = |word: &[u8]| message.windows(word.len()).any(|part| part == word);
        match fields.code()? {
            SqlState::READ_ONLY_SQL_TRANSACTION => Some(Rescue::Wrote),
            SqlState::FEATURE_NOT_SUPPORTED
            | SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE
            | SqlState::INTERNAL_ERROR => match names(b"recovery") || names(b"standby") {
                true => Some(Rescue::Recovery),
                false => Some(Rescue::Behind),
            },
            SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN => Some(Rescue::Behind),
            // Reads block nobody but replay: that is who they were in a deadlock with.
            SqlState::SERIALIZATION_FAILURE | SqlState::DEADLOCK_DETECTED => Some(Rescue::Conflict),
            code if fields.is_fatal() => match code {
                SqlState::ADMIN_SHUTDOWN => Some(Rescue::Ended),
                _ => Some(Rescue::Lost),
            },
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
    /// The last one is a batch that is on its way; its Sync is not.
    Gathering(Box<Kept>),
    /// Whole requests were sent.
    Kept(Box<Kept>),
    /// Their answers are swallowed.
    Failed(Box<Kept>, Rescue),
    /// They stand at the head of the input again.
    Again(Rescue, u8),
}

/// Requests that follow one another, as the client sent them, of whose answers nothing was shown.
#[derive(Debug)]
pub(super) struct Kept {
    /// Behind `gone` bytes of requests that are not kept any more.
    bytes: Vec<u8>,
    gone: usize,
    /// What follows them in the input that is being looked at.
    more: Range<usize>,
    /// Of each request that is whole, in bytes.
    lengths: VecDeque<usize>,
    /// Of the answer that comes ahead of theirs.
    ahead: Ahead,
    /// What serves them.
    role: Role,
    /// How often the first of them was sent.
    tries: u8,
    /// Why it was sent last, if not for the first time.
    because: Option<Rescue>,
    /// When it was first seen.
    asked: Option<Instant>,
    /// The latest generation of the statements whose plans were too old.
    generation: u64,
}

/// The answer to a request that is not kept any more, ahead of all that are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ahead {
    Nothing,
    /// Something of it was shown, and its ReadyForQuery was not.
    Shown,
}

impl Kept {
    fn may_be_lost(&self) -> bool {
        self.role == Role::Replica && self.tries < MAX_TRIES
    }

    /// Whether requests behind these are kept, too.
    fn may_be_followed(&self) -> bool {
        self.role == Role::Replica && !self.because.is_some_and(Rescue::is_of_statement)
    }

    fn len(&self) -> usize {
        self.bytes.len() - self.gone + self.more.len()
    }

    /// The last request is whole.
    fn end_request(&mut self) {
        let before: usize = self.lengths.iter().sum();
        self.lengths.push_back(self.len() - before);
    }

    /// Something of the first answer is shown: its request cannot run again. Answers whether that was a whole one.
    fn show_first(&mut self) -> bool {
        self.ahead = Ahead::Shown;
        let length = self.lengths.pop_front();
        self.gone += length.unwrap_or(0);
        length.is_some()
    }

    /// What is in the input is copied.
    fn save(&mut self, input: &[u8]) {
        // The memory serves for as long as there are requests under way, which may be for ever.
        self.bytes.drain(..std::mem::take(&mut self.gone));
        self.bytes.extend_from_slice(&input[self.more.clone()]);
        self.more = 0..0;
    }
}

/// What a message is of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Within,
    End,
    /// It is none.
    Alone,
}

impl Part {
    fn of(tag: FrontendTag) -> Part {
        match tag {
            FrontendTag::PARSE
            | FrontendTag::BIND
            | FrontendTag::DESCRIBE
            | FrontendTag::EXECUTE
            | FrontendTag::CLOSE => Part::Within,
            FrontendTag::SYNC => Part::End,
            _ => Part::Alone,
        }
    }
}

/// What the beginning of an answer says of its rest.
enum Omen {
    Good,
    /// It is an error that running again does not help.
    Error,
    Undecided,
    Bad(Rescue),
}

impl Session {
    /// Whether a request that begins here could run again: alone, or with those ahead of it.
    pub(super) fn may_be_kept(&self) -> bool {
        let follows = matches!(&self.replay, Replay::Kept(kept) if kept.may_be_followed());
        (self.replies.is_empty() || follows) && self.stands_outside()
    }

    /// Whether one that begins here stands alone.
    pub(super) fn stands_alone(&self) -> bool {
        self.replies.is_empty() && self.stands_outside()
    }

    fn stands_outside(&self) -> bool {
        !self.is_bound() && !self.tenure.may_be_in_block
    }

    /// Whether what stands before a request that begins here may run again, and the request behind it.
    pub(super) fn runs_behind_kept(&self) -> bool {
        matches!(self.replay, Replay::Kept(_))
    }

    /// Whether a request that begins here waits for answers, because there is no room to keep it.
    pub(super) fn is_full(&self) -> bool {
        matches!(&self.replay, Replay::Kept(kept) if kept.role == Role::Replica && kept.len() >= MAX_AHEAD)
    }

    /// Whether a request that begins with this message may have to be sent again.
    pub(super) fn is_worth_keeping(&self, tag: FrontendTag, role: Role) -> bool {
        match tag {
            _ if role == Role::Replica => true,
            FrontendTag::PARSE | FrontendTag::BIND | FrontendTag::DESCRIBE => true,
            FrontendTag::QUERY => !self.sql_statements.is_empty(),
            _ => false,
        }
    }

    /// Whether the request at the head of the input has been sent before.
    pub(super) fn runs_again(&self) -> bool {
        matches!(self.replay, Replay::Again(..))
    }

    /// A message of the client's was dealt with, which stands `at` this place of the input. `began`: it began a request that
    /// is worth keeping, on such a server.
    pub(super) fn keep(
        &mut self,
        span: Span<FrontendTag>,
        at: usize,
        began: Option<Role>,
        spares: &mut Spares,
    ) {
        if matches!(self.replay, Replay::Nothing) && began.is_none() {
            return;
        }
        let part = Part::of(span.tag());
        let mut kept = match (std::mem::take(&mut self.replay), began) {
            (Replay::Gathering(kept), _) if part != Part::Alone => kept,
            (Replay::Kept(kept), Some(_)) if kept.may_be_followed() => kept,
            (before, Some(role)) => {
                let (because, tries) = match before {
                    Replay::Again(rescue, tries) => (Some(rescue), tries + 1),
                    _ => (None, 1),
                };
                spares.take(Kept {
                    bytes: Vec::new(),
                    gone: 0,
                    more: at..at,
                    lengths: VecDeque::new(),
                    ahead: Ahead::Nothing,
                    role,
                    tries,
                    because,
                    asked: self.tenure.asked,
                    generation: 0,
                })
            }
            (Replay::Gathering(kept) | Replay::Kept(kept), None) => return spares.put(kept),
            _ => return,
        };
        kept.more.end = at + span.len();
        let fits = span.is_whole() && kept.len() <= MAX_KEPT;
        let is_sent =
            part != Part::Alone || (span.tag() == FrontendTag::QUERY && self.client_part == Passing::Forward);
        self.replay = match part {
            _ if !fits || !is_sent => return spares.put(kept),
            Part::Within => Replay::Gathering(kept),
            Part::End | Part::Alone => {
                kept.end_request();
                Replay::Kept(kept)
            }
        };
    }

    /// The input goes: what of it belongs to requests that are kept is copied, once for however many messages.
    pub(super) fn save(&mut self, input: &[u8]) {
        if let Replay::Gathering(kept) | Replay::Kept(kept) = &mut self.replay
            && !kept.more.is_empty()
        {
            kept.save(input);
        }
    }

    /// Whether the request under way failed before because plans were too old: its statements are to be prepared anew.
    pub(super) fn is_renewing(&self) -> bool {
        let because = match &self.replay {
            Replay::Again(rescue, _) => Some(*rescue),
            Replay::Gathering(kept) | Replay::Kept(kept) => kept.because,
            _ => None,
        };
        because == Some(Rescue::Outdated)
    }

    /// Where the request at the head of the input must run because of what became of it before.
    pub(super) fn detour(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        world: &mut World<'_>,
    ) -> Option<Route> {
        let Replay::Again(rescue, tries) = self.replay else { return None };
        if rescue.is_of_statement() {
            return None;
        }
        if rescue.is_misjudged() {
            self.remember_unsafe(span, bytes, world);
            // It was looked up for its comment already, as what it is not any more.
            self.head = None;
        }
        let may_be_sent_away = rescue.is_of_one_server() && tries + 1 < MAX_TRIES;
        (!may_be_sent_away).then_some(Route::Primary { why: Why::Rescued, shown: self.shown() })
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
    pub(super) fn may_pass_on(&mut self, input: &[u8], edits: &mut Edits) -> bool {
        let (Replay::Kept(kept) | Replay::Gathering(kept)) = &self.replay else { return true };
        let is_ours = || self.replies.front().is_some_and(|reply| reply.action == Action::Swallow);
        if kept.ahead == Ahead::Shown || is_ours() {
            return true;
        }
        let because = kept.because;
        let unnamed = if self.replies.has_kept() { Unnamed::Keep } else { Unnamed::Forward };
        match omen(input, kept.role, unnamed) {
            Omen::Undecided if input.len() < MAX_HELD_BACK => return false,
            Omen::Bad(rescue) if self.heals(rescue) => edits.keep_so_far(),
            omen => {
                // With its own unnamed statement it runs: what is kept is older than DDL that went past us.
                self.ddl |= matches!((omen, because), (Omen::Good, Some(Rescue::Kept)));
                self.show_answer(&mut edits.spares);
            }
        }
        true
    }

    /// The answer that begins is the client's: what of it is shown cannot be had again.
    fn show_answer(&mut self, spares: &mut Spares) {
        let (Replay::Kept(kept) | Replay::Gathering(kept)) = &mut self.replay else { return };
        let was_whole = kept.show_first();
        if (!was_whole || kept.role == Role::Primary)
            && let Replay::Kept(kept) | Replay::Gathering(kept) = std::mem::take(&mut self.replay)
        {
            spares.put(kept);
        }
    }

    /// ReadyForQuery is the client's.
    pub(super) fn answer_is_over(&mut self, spares: &mut Spares) {
        let (Replay::Kept(kept) | Replay::Gathering(kept)) = &mut self.replay else { return };
        kept.ahead = Ahead::Nothing;
        if kept.lengths.is_empty()
            && let Replay::Kept(kept) = std::mem::take(&mut self.replay)
        {
            spares.put(kept);
        }
    }

    /// Whether an error is kept from the client; then what failed is going to run again, with all that was sent behind it.
    fn heals(&mut self, rescue: Rescue) -> bool {
        let before = std::mem::take(&mut self.replay);
        let is_whole = matches!(before, Replay::Kept(_));
        let (Replay::Kept(mut kept) | Replay::Gathering(mut kept)) = before else { return false };
        // A server that says goodbye answers nothing more. Any other would wait for the rest of a batch.
        let ends = is_whole || rescue.is_end();
        // Were the others to fail in the same way, one after the other, each would have those behind it run once more.
        let is_of_first = kept.lengths.len() == 1 || !(rescue == Rescue::Behind || rescue.is_of_statement());
        if ends && is_of_first && kept.tries < MAX_TRIES && self.may_heal(rescue, &mut kept) {
            self.forget_names();
            self.replay = Replay::Failed(kept, rescue);
            return true;
        }
        self.replay = if is_whole { Replay::Kept(kept) } else { Replay::Gathering(kept) };
        false
    }

    /// Whether the client need not know of it. A client that reads rows by a description that it was given earlier must
    /// hear that it holds no longer, as it would from the server itself.
    fn may_heal(&self, rescue: Rescue, kept: &mut Kept) -> bool {
        if rescue != Rescue::Outdated {
            return true;
        }
        let generation = match self.replies.has_kept() {
            true => self.generation_of(b""),
            false => self.generation_described_in(&kept.bytes[kept.gone..]),
        };
        let Some(generation) = generation else { return false };
        kept.generation = generation;
        true
    }

    /// The latest generation of a batch's statements; `None` if it binds one without having it parsed or described.
    fn generation_described_in(&self, batch: &[u8]) -> Option<u64> {
        let mut parsed: SmallVec<[&[u8]; 2]> = SmallVec::new();
        let mut generation = 0;
        let mut is_blind = false;
        for message in messages(batch) {
            let (tag, body) = message.ok()?;
            let name = match tag {
                FrontendTag::PARSE => {
                    let name = Parse::new(body)?.name;
                    parsed.push(name);
                    Some(name)
                }
                FrontendTag::BIND => {
                    let name = Bind::new(body)?.statement;
                    // With a format for each column, it counts on a number of columns.
                    if is_blind || frontend::result_formats(body)? > 1 {
                        return None;
                    }
                    is_blind = !parsed.contains(&name);
                    Some(name)
                }
                FrontendTag::DESCRIBE => {
                    is_blind = false;
                    match Target::new(body)? {
                        Target::Statement(name) => Some(name),
                        Target::Portal(_) => None,
                    }
                }
                _ => None,
            };
            generation = generation.max(name.and_then(|name| self.generation_of(name)).unwrap_or(0));
        }
        (!is_blind).then_some(generation)
    }

    fn generation_of(&self, name: &[u8]) -> Option<u64> {
        self.statements.as_deref()?.find(name).map(|named| named.prepared.generation)
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

    /// Whether what is under way would run again, unseen, if the connection were lost.
    pub fn can_run_again(&self) -> bool {
        self.errors_before_replay() == Some(0)
    }

    /// If requests that are under way would run again if the connection were lost: how many ahead of them would not.
    pub(super) fn errors_before_replay(&self) -> Option<usize> {
        match &self.replay {
            Replay::Kept(kept) if kept.lengths.is_empty() => None,
            Replay::Kept(kept) | Replay::Gathering(kept) => {
                kept.may_be_lost().then_some(usize::from(kept.ahead == Ahead::Shown))
            }
            Replay::Failed(..) => Some(0),
            Replay::Nothing | Replay::Again(..) => None,
        }
    }

    /// The connection is lost, and all that was outstanding on it undone.
    pub(super) fn replay_what_was_lost(&mut self) -> Option<Want> {
        let runs_again = self.errors_before_replay().is_some();
        self.replay = match std::mem::take(&mut self.replay) {
            Replay::Kept(kept) | Replay::Gathering(kept) if runs_again => Replay::Failed(kept, Rescue::Lost),
            failed @ Replay::Failed(..) => failed,
            _ => Replay::Nothing,
        };
        self.replay()
    }

    /// The generation of statements that is too old, if that is why the request runs again: what is prepared from now on
    /// must be of a later one.
    pub fn outdated(&self) -> Option<u64> {
        match &self.replay {
            Replay::Failed(kept, Rescue::Outdated) => Some(kept.generation),
            _ => None,
        }
    }

    /// How many requests [`Want::Replay`] is about.
    pub fn failed_requests(&self) -> u64 {
        match &self.replay {
            // One more stands in the input in part.
            Replay::Failed(kept, _) => kept.lengths.len().max(1) as u64,
            _ => 0,
        }
    }

    /// After [`again`](Self::again): whether the request at the head of the input may have been ended for its own sake, so that it
    /// must not run again if its server serves on.
    pub fn may_be_meant(&self, now: Instant) -> bool {
        let is_long = |asked| now.saturating_duration_since(asked) >= LONG;
        matches!(self.replay, Replay::Again(Rescue::Ended, _)) && self.tenure.asked.is_some_and(is_long)
    }

    /// After [`Want::Replay`], when the server connection is given back: the requests, to be put at the head of the client's
    /// input again.
    pub fn again(&mut self) -> Vec<u8> {
        match std::mem::take(&mut self.replay) {
            Replay::Failed(mut kept, rescue) => {
                self.replay = Replay::Again(rescue, kept.tries);
                self.tenure.asked = kept.asked;
                kept.bytes.split_off(kept.gone)
            }
            _ => Vec::new(),
        }
    }
}

/// The memory of requests that need not be sent again, for the next ones.
#[derive(Debug, Default)]
#[allow(clippy::vec_box, reason = "the boxes are what is spared")]
pub(super) struct Spares(Vec<Box<Kept>>);

impl Spares {
    fn take(&mut self, kept: Kept) -> Box<Kept> {
        match self.0.pop() {
            Some(mut spare) => {
                let (bytes, lengths) = (std::mem::take(&mut spare.bytes), std::mem::take(&mut spare.lengths));
                *spare = Kept { bytes, lengths, ..kept };
                spare
            }
            None => Box::new(kept),
        }
    }

    fn put(&mut self, mut kept: Box<Kept>) {
        kept.bytes.clear();
        kept.lengths.clear();
        if self.0.len() < MAX_SPARE {
            self.0.push(kept);
        }
    }
}

/// "cached plan must not change result type".
pub(super) fn is_outdated(fields: &Fields<'_>) -> bool {
    fields.text(b'R') == Some(b"RevalidateCachedQuery")
}

/// Whether an error may be the kept statement's own, which stands in an unnamed one's stead: not if it is about the state of
/// the server, or the end of somebody's patience.
fn may_be_of_statement(fields: &Fields<'_>) -> bool {
    const OTHERS: [&[u8]; 6] = [b"40", b"53", b"55", b"57", b"58", b"F0"];
    let code = fields.text(b'C').unwrap_or_default();
    !fields.is_fatal() && !OTHERS.iter().any(|class| code.starts_with(class))
}

/// Looks ahead to the message that decides. `unnamed`: what became of the unnamed statement.
fn omen(input: &[u8], role: Role, unnamed: Unnamed) -> Omen {
    let mut is_bound = false;
    let mut scanner = Scanner::<BackendTag>::default();
    let mut at = 0;
    while let Ok(step @ Step::Message(span)) = scanner.step(&input[at..]) {
        match span.tag() {
            _ if !span.is_whole() && span.tag() != BackendTag::DATA_ROW => return Omen::Undecided,
            BackendTag::ERROR_RESPONSE => {
                let fields = Fields::new(span.body(&input[at..]));
                let is_of_kept = unnamed == Unnamed::Keep && !is_bound && may_be_of_statement(&fields);
                let rescue = Rescue::of(&fields, role).or(is_of_kept.then_some(Rescue::Kept));
                return rescue.map_or(Omen::Error, Omen::Bad);
            }
            BackendTag::PARSE_COMPLETE | BackendTag::CLOSE_COMPLETE | BackendTag::PARAMETER_DESCRIPTION => {}
            BackendTag::BIND_COMPLETE if role == Role::Replica => is_bound = true,
            BackendTag::ROW_DESCRIPTION
            | BackendTag::NO_DATA
            | BackendTag::NOTICE_RESPONSE
            | BackendTag::PARAMETER_STATUS
                if role == Role::Replica => {}
            BackendTag::NOTICE_RESPONSE | BackendTag::PARAMETER_STATUS if unnamed == Unnamed::Keep => {}
            _ => return Omen::Good,
        }
        at += span.len();
        scanner.pass(&step);
    }
    Omen::Undecided
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_replica_could_not_serve_is_told_by_its_code() {
        let of = |code: &str, text: &str, role| {
            let severity = if text.starts_with("terminating") { "FATAL" } else { "ERROR" };
            let fields = format!("S{severity}\0V{severity}\0C{code}\0M{text}\0\0");
            Rescue::of(&Fields::new(fields.as_bytes()), role)
        };
        let cases = [
            ("25006", "cannot execute INSERT in a read-only transaction", Some(Rescue::Wrote)),
            ("55000", "recovery is in progress", Some(Rescue::Recovery)),
            ("55000", "die Wiederherstellung ist im Gange", Some(Rescue::Behind)),
            ("40001", "canceling statement due to conflict with recovery", Some(Rescue::Conflict)),
            ("40P01", "deadlock detected", Some(Rescue::Conflict)),
            ("57P01", "terminating connection due to administrator command", Some(Rescue::Ended)),
            ("57P02", "terminating connection because of crash", Some(Rescue::Lost)),
            ("57P01", "raised by a function", None),
            ("22012", "division by zero", None),
        ];
        for (code, text, expected) in cases {
            assert_eq!(of(code, text, Role::Replica), expected, "{code} {text}");
            assert_eq!(of(code, text, Role::Primary), None, "{code} {text}");
        }
    }
}
