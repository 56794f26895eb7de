//! LISTEN and UNLISTEN by the listener that all clients of a database share.
//!
//! One that stands alone (a Query, or a batch that does nothing else), outside a transaction, by a client that keeps no
//! server connection, is answered here and reaches no server of the pool: for LISTEN the relay is asked by
//! [`Want::Listen`] to have the channel heard first, for UNLISTEN by [`Want::Tell`] to pass on what was notified before:
//! a client that says goodbye to a channel has missed nothing of it. Any other LISTEN runs on the client's server, which it
//! pins. Whoever hears a channel in both ways is told once.
//!
//! Where it cannot be told whether an UNLISTEN took effect (a savepoint was rolled back), the client goes on hearing: too
//! much is harmless, too little is a notification lost.

use super::*;
use crate::sql::effect::Listening;
use crate::wire::Reader;

/// The most channels that one client may hear by the shared listener.
pub const MAX_CHANNELS: usize = 1_000;

/// The channels that a client hears by the shared listener.
#[derive(Debug, Default)]
#[allow(clippy::box_collection, reason = "an idle client pays for a pointer only")]
pub struct Channels(Option<Box<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    names: BTreeSet<String>,
    /// UNLISTENs of the open transaction: they count if it commits.
    unlistened: Vec<Listening>,
}

impl Channels {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |heard| heard.names.len())
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|heard| heard.names.iter().map(String::as_str))
    }

    /// Whether this is one of them.
    pub fn has(&self, name: &str) -> bool {
        self.0.as_ref().is_some_and(|heard| heard.names.contains(name))
    }

    /// Whether this ends the hearing of a channel.
    fn loses_by(&self, change: &Listening) -> bool {
        match change {
            Listening::Listen(_) => false,
            Listening::Unlisten(name) => self.has(name),
            Listening::UnlistenAll => !self.is_empty(),
        }
    }

    fn add(&mut self, name: String) {
        self.0.get_or_insert_default().names.insert(name);
    }

    fn remove(&mut self, change: &Listening) {
        let Some(heard) = &mut self.0 else { return };
        match change {
            Listening::Listen(_) => {}
            Listening::Unlisten(name) => drop(heard.names.remove(name)),
            Listening::UnlistenAll => heard.names.clear(),
        }
        if heard.names.is_empty() {
            self.0 = None;
        }
    }

    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    /// UNLISTENs that are good as soon as their transaction is.
    pub(super) fn drop_at_commit(&mut self, changes: Vec<Listening>) {
        if let Some(heard) = &mut self.0 {
            heard.unlistened.extend(changes);
        }
    }

    /// The transaction is over, or it is no longer known what of it will stay.
    pub(super) fn end_transaction(&mut self, outcome: Outcome) {
        let unlistened = self.0.as_mut().map(|heard| std::mem::take(&mut heard.unlistened));
        if matches!(outcome, Outcome::Fine | Outcome::Committed) {
            unlistened.iter().flatten().for_each(|change| self.remove(change));
        }
    }
}

/// By which connection a client hears what its next LISTEN names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hearing {
    /// The shared one.
    Shared,
    /// Its own: the shared one cannot be had.
    Own,
}

/// What a batch runs that is answered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Listen,
    Unlisten,
}

impl Verb {
    fn tag(self) -> &'static str {
        match self {
            Verb::Listen => "LISTEN",
            Verb::Unlisten => "UNLISTEN",
        }
    }
}

/// What becomes of a request that listens.
enum Heed {
    /// It is answered here.
    Here(Listening),
    /// That cannot be told before more of it is there.
    Incomplete,
    /// A server runs it.
    Server,
}

impl Session {
    /// The channels that the client hears by the shared listener.
    pub fn channels(&self) -> &Channels {
        &self.channels
    }

    /// The channel that was wanted is heard; `on_client` follows with the same bytes.
    pub fn on_listening(&mut self, channel: String) {
        self.channels.add(channel);
    }

    /// There is no shared listener to be had at the moment: the client listens for itself; `on_client` follows with the same
    /// bytes.
    pub fn on_listen_declined(&mut self) {
        self.hearing = Hearing::Own;
    }

    /// A LISTEN or UNLISTEN of a client that holds no server.
    pub(super) fn listen(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        route: Route,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        match self.heed(span, bytes) {
            Heed::Server => Flow::Stop(Want::Lease(route)),
            Heed::Incomplete => Flow::Stop(Want::Input),
            Heed::Here(Listening::Listen(channel)) if !self.channels.has(&channel) => {
                match self.channels.len() < MAX_CHANNELS {
                    true => Flow::Stop(Want::Listen(channel)),
                    false => self.refuse(span, too_many_channels(), None, edits),
                }
            }
            Heed::Here(change)
                if self.channels.loses_by(&change) && !std::mem::take(&mut self.tenure.is_told) =>
            {
                Flow::Stop(Want::Tell(Tidings::Own))
            }
            Heed::Here(change) => {
                self.channels.remove(&change);
                self.answer_listening(span, bytes, &change, world, edits)
            }
        }
    }

    /// Whether the request at the head of `bytes` will be answered here, as soon as no server is held.
    pub(super) fn is_heeded_here(&mut self, span: Span<FrontendTag>, bytes: &[u8]) -> bool {
        !matches!(self.heed(span, bytes), Heed::Server)
    }

    /// Whether this text alone keeps no server connection.
    pub(super) fn may_share(&self, text: &[u8]) -> bool {
        self.can_share() && effect::listening(text).is_some()
    }

    fn can_share(&self) -> bool {
        !self.is_bound() && self.hearing == Hearing::Shared && self.speaks_utf8()
    }

    /// The shared listener's notifications are in UTF-8.
    fn speaks_utf8(&self) -> bool {
        let Some(Value::Text(value) | Value::Expression(value)) = self.settings.value("client_encoding")
        else {
            return true;
        };
        let letters = value.chars().filter(char::is_ascii_alphanumeric);
        let name: String = letters.map(|letter| letter.to_ascii_lowercase()).collect();
        matches!(name.as_str(), "utf8" | "unicode")
    }

    fn heed(&mut self, span: Span<FrontendTag>, bytes: &[u8]) -> Heed {
        if !self.can_share() {
            return Heed::Server;
        }
        match span.tag() {
            FrontendTag::QUERY => {
                let change = frontend::query(span.body(bytes)).and_then(effect::listening);
                change.map_or(Heed::Server, Heed::Here)
            }
            _ => self.heed_batch(bytes),
        }
    }

    /// A batch is answered here if one LISTEN or UNLISTEN is all that it runs.
    fn heed_batch(&mut self, bytes: &[u8]) -> Heed {
        let mut reading = BatchReading::default();
        for (tag, body) in messages(bytes).map_while(Result::ok) {
            if tag == FrontendTag::SYNC {
                let change = reading.change.filter(|_| reading.is_executed);
                return change.map_or(Heed::Server, Heed::Here);
            }
            if reading.message(self, tag, body).is_none() {
                return Heed::Server;
            }
        }
        if bytes.len() < LOOKAHEAD { Heed::Incomplete } else { Heed::Server }
    }

    fn answer_listening(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        change: &Listening,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        let verb = match change {
            Listening::Listen(_) => Verb::Listen,
            Listening::Unlisten(_) | Listening::UnlistenAll => Verb::Unlisten,
        };
        if span.tag() != FrontendTag::QUERY {
            self.batch = Batch::Here(verb);
            return self.answer_here(verb, span, bytes, world, edits);
        }
        edits.events.answered += 1;
        self.answer_simple(verb.tag(), TransactionStatus::Idle, edits);
        self.skip(span, edits)
    }

    /// A message of a batch that has been read to its end and needs no server.
    pub(super) fn answer_here(
        &mut self,
        verb: Verb,
        span: Span<FrontendTag>,
        bytes: &[u8],
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        let body = span.body(bytes);
        let out = &mut edits.reply;
        match (span.tag(), Target::new(body)) {
            (FrontendTag::PARSE, _) => {
                if let Some(parse) = Parse::new(body) {
                    let named = self.parsed(&parse, world);
                    edits.events.client_parses += 1;
                    self.statements.get_or_insert_default().insert(parse.name, named);
                }
                backend::write_bare(out, BackendTag::PARSE_COMPLETE);
            }
            (FrontendTag::BIND, _) => {
                edits.events.binds += 1;
                backend::write_bare(out, BackendTag::BIND_COMPLETE);
            }
            (FrontendTag::DESCRIBE, target) => {
                if let Some(Target::Statement(_)) = target {
                    backend::write_no_parameters(out);
                }
                backend::write_bare(out, BackendTag::NO_DATA);
            }
            (FrontendTag::EXECUTE, _) => {
                edits.events.answered += 1;
                backend::write_command_complete(out, verb.tag());
            }
            (_, target) => {
                if let (Some(Target::Statement(name)), Some(statements)) = (target, &mut self.statements) {
                    statements.remove(name);
                }
                backend::write_bare(out, BackendTag::CLOSE_COMPLETE);
            }
        }
        self.skip(span, edits)
    }
}

/// What has been seen of a batch that may be answered here.
#[derive(Default)]
struct BatchReading {
    has_begun: bool,
    parsed: Option<(Vec<u8>, Listening)>,
    /// What the portal would run, once there is one.
    change: Option<Listening>,
    portal: Vec<u8>,
    is_executed: bool,
    has_closed: bool,
}

impl BatchReading {
    /// `None`: a server has to see the batch.
    fn message(&mut self, session: &mut Session, tag: FrontendTag, body: &[u8]) -> Option<()> {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        match tag {
            FrontendTag::PARSE if is_first => self.parse(session, body),
            FrontendTag::BIND if self.change.is_none() => self.bind(session, body),
            // Of what is closed by then, a server has to say that it is gone.
            FrontendTag::DESCRIBE if !self.has_closed => match Target::new(body)? {
                Target::Statement(name) => self.text_of(session, name).map(drop),
                Target::Portal(portal) => self.is_own(portal),
            },
            FrontendTag::EXECUTE if !self.is_executed => {
                self.is_own(frontend::executed_portal(body)?)?;
                self.is_executed = true;
                Some(())
            }
            FrontendTag::CLOSE if self.is_executed => {
                self.has_closed = true;
                Target::new(body).map(drop)
            }
            _ => None,
        }
    }

    fn parse(&mut self, session: &Session, body: &[u8]) -> Option<()> {
        let parse = Parse::new(body).filter(|parse| parse.types == b"\0\0")?;
        let is_taken = session.statements.as_ref().is_some_and(|all| all.find(parse.name).is_some());
        if is_taken && !parse.name.is_empty() {
            return None;
        }
        self.parsed = Some((parse.name.to_vec(), effect::listening(parse.text)?));
        Some(())
    }

    fn bind(&mut self, session: &Session, body: &[u8]) -> Option<()> {
        let bind = Bind::new(body)?;
        let mut rest = Reader::new(&body[bind.head..]);
        if (rest.int16()?, rest.int16()?) != (0, 0) {
            return None;
        }
        self.change = Some(self.text_of(session, bind.statement)?);
        self.portal = bind.portal.to_vec();
        Some(())
    }

    fn text_of(&self, session: &Session, name: &[u8]) -> Option<Listening> {
        if let Some((_, change)) = self.parsed.as_ref().filter(|(parsed, _)| parsed == name) {
            return Some(change.clone());
        }
        effect::listening(&session.statements.as_ref()?.find(name)?.prepared.text)
    }

    fn is_own(&self, portal: &[u8]) -> Option<()> {
        (self.change.is_some() && self.portal == portal).then_some(())
    }
}

fn too_many_channels() -> Report {
    let text = format!("too many channels: {MAX_CHANNELS} for one client");
    Report::new(ErrorSource::Client, SqlState::PROGRAM_LIMIT_EXCEEDED, text)
}
