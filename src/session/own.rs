//! What pglagoon answers itself: `SET`, `RESET` and `SHOW` of names that begin with `pglagoon.`. No server sees them.
//!
//! [`command`] reads a text; the session carries a [`Command`] out. A new name is an entry of [`Setting`]; a new kind of
//! statement is a variant of [`Command`]. Transactions hold as for any setting: ROLLBACK takes back what was set, SET LOCAL
//! ends with its transaction (`Undo`); a ROLLBACK TO a savepoint alone takes nothing back. A transaction stays on the server
//! that it began on, whatever is set in it.
//!
//! Texts of several statements are not taken apart: their server runs them, and takes these settings for an extension's;
//! what they set counts here when it has succeeded there.

use super::replies::{Action, Renamed, Request, Then};
use super::*;
use crate::config::{Consistency, values};
use crate::routing::explain::{self, Case, Line, Way};
use crate::routing::lineage::Fate;
use crate::routing::scope::Shared;
use crate::sql::Hint;
use crate::sql::effect::SettingChange;
use crate::sql::lexer::{Kind, Token as Lexeme, tokens};
use crate::sql::quote::unquoted;
use crate::sql::words;
use crate::wire::backend::{Column, ColumnType, Formats};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The columns of an explanation.
const EXPLANATION: [Column; 2] =
    [Column { name: "item", kind: ColumnType::Text }, Column { name: "value", kind: ColumnType::Text }];

/// What all names here begin with.
pub const PREFIX: &str = "pglagoon.";

/// The most portals of such statements that are kept until they are bound anew.
const MAX_OWN_PORTALS: usize = 100;

/// The most keys that the statements of one transaction may name, beyond the first.
const MAX_FURTHER_KEYS: usize = 1_000;

/// The longest key, in bytes.
pub(super) const MAX_KEY: usize = 200;

/// A setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// What the client's reads may return.
    Consistency,
    /// For `bounded`: how old the data of a read may be.
    MaxStaleness,
    /// What the client has seen, to be carried to another connection. To set it is to have seen that, too.
    CausalityToken,
    /// A name by which the client shares its history with other connections.
    CausalityKey,
    /// Where its statements go, as far as they may: as if each had such a hint.
    Route,
}

/// A statement that is answered here.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// SET; TO DEFAULT, the value is `None`.
    Set(Setting, Option<String>, Reach),
    /// RESET.
    Reset(Setting),
    /// SHOW.
    Show(Setting),
    /// SHOW pglagoon.route FOR a text: where it would go, and why.
    Explain(Box<[u8]>),
}

/// For how long a SET holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// For the session.
    Session,
    /// LOCAL: until its transaction ends.
    Transaction,
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Committed,
    RolledBack,
}

/// What a client has chosen; where it has not, its user's and its database's settings hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Choices {
    /// What its reads may return.
    pub consistency: Option<Consistency>,
    /// For `bounded`.
    pub max_staleness: Option<Duration>,
    /// With whom it shares its history.
    pub causality_key: Option<Box<str>>,
    /// Where its statements shall go.
    pub route: Option<Hint>,
}

/// What a client has chosen, by the startup packet and since, on its way to another process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Packed {
    startup: Vec<(String, String)>,
    choices: Vec<(String, String)>,
    has_statements: bool,
    has_keyed_statements: bool,
}

/// The choices of one client. Most make none, and pay for a pointer.
#[derive(Debug, Default)]
pub struct Own(Option<Box<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    startup: Choices,
    choices: Choices,
    /// Within a transaction, or a batch, in which something is set.
    undo: Option<Box<Undo>>,
    /// Whether a prepared statement of the client's may be one of these.
    has_statements: bool,
    portals: HashMap<Box<[u8]>, Command>,
    /// The answer to [`Want::Position`], until it is used.
    position: Option<Result<Token, Report>>,
    /// The history that it shares, and by which key.
    shared: Option<Joined>,
    /// The key that the comment of its request names.
    comment: Option<Box<str>>,
    /// Whether a prepared statement of the client's may have such a comment.
    has_keyed_statements: bool,
    /// The histories of further keys that a transaction's statements name: they learn of it when it is over.
    also: Vec<Shared>,
}

#[derive(Debug)]
struct Joined {
    key: Box<str>,
    shared: Shared,
    by: By,
}

/// By what a client has joined others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// SET: what the connection has seen, the others have.
    Setting,
    /// The comment of one statement, which is the key's own.
    Comment,
}

/// What the choices are when the transaction is over.
#[derive(Debug)]
struct Undo {
    committed: Choices,
    rolled_back: Choices,
}

impl Setting {
    const ALL: [Setting; 5] = [
        Setting::Consistency,
        Setting::MaxStaleness,
        Setting::CausalityToken,
        Setting::CausalityKey,
        Setting::Route,
    ];

    /// Its name behind [`PREFIX`].
    fn name(self) -> &'static str {
        match self {
            Setting::Consistency => "consistency",
            Setting::MaxStaleness => "max_staleness",
            Setting::CausalityToken => "causality_token",
            Setting::CausalityKey => "causality_key",
            Setting::Route => "route",
        }
    }

    fn column(self) -> Column {
        let name = match self {
            Setting::Consistency => "pglagoon.consistency",
            Setting::MaxStaleness => "pglagoon.max_staleness",
            Setting::CausalityToken => "pglagoon.causality_token",
            Setting::CausalityKey => "pglagoon.causality_key",
            Setting::Route => "pglagoon.route",
        };
        Column { name, kind: ColumnType::Text }
    }

    fn named(name: &str) -> Result<Setting, Report> {
        let known =
            Setting::ALL.into_iter().find(|setting| name.strip_prefix(PREFIX) == Some(setting.name()));
        known.ok_or_else(|| {
            let text = format!("unrecognized configuration parameter \"{name}\"");
            Report::new(ErrorSource::Client, SqlState::UNDEFINED_OBJECT, text)
        })
    }
}

impl Choices {
    fn pack(&self) -> Vec<(String, String)> {
        let level = self.consistency.map(|level| (Setting::Consistency, level.as_str().to_owned()));
        let staleness = self.max_staleness.map(|time| (Setting::MaxStaleness, values::duration_text(time)));
        let key = self.causality_key.as_ref().map(|key| (Setting::CausalityKey, key.to_string()));
        let route = self.route.map(|wish| (Setting::Route, wish.as_str().to_owned()));
        let all = [level, staleness, key, route].into_iter().flatten();
        all.map(|(setting, value)| (format!("{PREFIX}{}", setting.name()), value)).collect()
    }

    /// A name or a value that this version does not know is left out.
    fn unpack(packed: &[(String, String)]) -> Choices {
        let mut choices = Choices::default();
        for (name, value) in packed {
            let _ = Setting::named(name).and_then(|setting| choices.set(setting, value));
        }
        choices
    }

    fn set(&mut self, setting: Setting, value: &str) -> Result<(), Report> {
        let taken = match setting {
            // As PostgreSQL takes the words of its own settings.
            Setting::Consistency => {
                Consistency::parse(&value.to_ascii_lowercase()).map(|level| self.consistency = Some(level))
            }
            Setting::MaxStaleness => values::duration(value)
                .filter(|time| !time.is_zero())
                .map(|time| self.max_staleness = Some(time)),
            // Only the session knows what to make of it.
            Setting::CausalityToken => Some(()),
            Setting::CausalityKey => {
                (value.len() <= MAX_KEY).then(|| self.causality_key = Some(value.into()))
            }
            Setting::Route => wish(&value.to_ascii_lowercase()).map(|wish| self.route = wish),
        };
        taken.ok_or_else(|| {
            let text = format!("invalid value for parameter \"{PREFIX}{}\": \"{value}\"", setting.name());
            let allowed = match setting {
                Setting::Consistency => Consistency::ALL.map(Consistency::as_str).join(", "),
                Setting::MaxStaleness => "a time such as 500ms, 5s or 1min".to_owned(),
                Setting::CausalityToken => "what SHOW pglagoon.causality_token has answered".to_owned(),
                Setting::CausalityKey => format!("any text of up to {MAX_KEY} bytes"),
                Setting::Route => "auto, primary, replica".to_owned(),
            };
            Report::new(ErrorSource::Client, SqlState::INVALID_PARAMETER_VALUE, text)
                .hint(format!("Available values: {allowed}."))
        })
    }

    fn reset(&mut self, setting: Setting, startup: &Choices) {
        match setting {
            Setting::Consistency => self.consistency = startup.consistency,
            Setting::MaxStaleness => self.max_staleness = startup.max_staleness,
            Setting::CausalityToken => {}
            Setting::CausalityKey => self.causality_key = startup.causality_key.clone(),
            Setting::Route => self.route = startup.route,
        }
    }

    fn change(&mut self, setting: Setting, value: Option<&str>, startup: &Choices) -> Result<(), Report> {
        match value {
            Some(value) => self.set(setting, value),
            None => {
                self.reset(setting, startup);
                Ok(())
            }
        }
    }
}

impl Own {
    /// The choices of a startup packet, by lower-cased name.
    ///
    /// # Errors
    /// A name that nobody knows, a value that its setting does not take, or a token: it is held against the history of the
    /// servers, which only the session knows.
    pub fn from_startup<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Own, Report> {
        let mut startup = Choices::default();
        for (name, value) in pairs {
            let setting = Setting::named(name)?;
            if setting == Setting::CausalityToken {
                let text = format!("parameter \"{name}\" cannot be set when connecting");
                return Err(Report::new(ErrorSource::Client, SqlState::CANT_CHANGE_RUNTIME_PARAM, text)
                    .hint("SET it after the login."));
            }
            startup.set(setting, value)?;
        }
        if startup == Choices::default() {
            return Ok(Own::default());
        }
        Ok(Own(Some(Box::new(Inner { choices: startup.clone(), startup, ..Inner::default() }))))
    }

    /// To be taken to another process.
    pub fn pack(&self) -> Packed {
        self.0.as_ref().map_or_else(Packed::default, |inner| Packed {
            startup: inner.startup.pack(),
            choices: inner.choices.pack(),
            has_statements: inner.has_statements,
            has_keyed_statements: inner.has_keyed_statements,
        })
    }

    /// What [`pack`](Self::pack) made.
    pub fn unpack(packed: Packed) -> Own {
        if packed == Packed::default() {
            return Own::default();
        }
        Own(Some(Box::new(Inner {
            startup: Choices::unpack(&packed.startup),
            choices: Choices::unpack(&packed.choices),
            has_statements: packed.has_statements,
            has_keyed_statements: packed.has_keyed_statements,
            ..Inner::default()
        })))
    }

    /// What the client's reads may return, if it has said so.
    pub fn consistency(&self) -> Option<Consistency> {
        self.0.as_ref()?.choices.consistency
    }

    /// How old the data of its reads may be, if it has said so.
    pub fn max_staleness(&self) -> Option<Duration> {
        self.0.as_ref()?.choices.max_staleness
    }

    /// Where its statements shall go, if it has said so.
    pub fn wish(&self) -> Option<Hint> {
        self.0.as_ref()?.choices.route
    }

    /// The key by which it shares its history.
    fn key(&self) -> Option<&str> {
        self.0.as_ref()?.choices.causality_key.as_deref()
    }

    /// The history that it shares, if any.
    pub(super) fn shared(&self) -> Option<&Shared> {
        self.0.as_ref()?.shared.as_ref().map(|joined| &joined.shared)
    }

    /// Shares the history of the key that it has chosen or its request names, if that is not the one that it shares already.
    /// `history`: what it has seen itself.
    #[inline]
    pub(super) fn join(&mut self, scopes: &Scopes, level: Consistency, now: Instant, history: &mut History) {
        if let Some(inner) = &mut self.0 {
            inner.join(scopes, level, now, history);
        }
    }

    /// The key that the comment of its request names.
    pub(super) fn comment(&self) -> Option<&str> {
        self.0.as_ref()?.comment.as_deref()
    }

    /// Its request names this key, or none.
    pub(super) fn set_comment(&mut self, key: Option<&str>) {
        self.0.get_or_insert_default().comment = key.map(Into::into);
    }

    /// A statement within its transaction names another key than the first did.
    pub(super) fn joins_also(&mut self, shared: Shared) {
        let also = &mut self.0.get_or_insert_default().also;
        if also.len() < MAX_FURTHER_KEYS && !also.iter().any(|known| Arc::ptr_eq(known, &shared)) {
            also.push(shared);
        }
    }

    /// An answer has come; `is_last`: the transaction is over, and nothing more is outstanding.
    pub(super) fn tell_others(&mut self, now: Instant, is_last: bool) {
        let Some(inner) = &mut self.0 else { return };
        inner.also.iter().for_each(|shared| scope::change(shared, |history| history.lost_track(now)));
        if is_last {
            inner.also.clear();
        }
    }

    /// A prepared statement of its names a key.
    pub(super) fn note_keyed_statement(&mut self) {
        self.0.get_or_insert_default().has_keyed_statements = true;
    }

    /// Whether one may.
    pub(super) fn has_keyed_statements(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.has_keyed_statements)
    }

    /// Shares its history with nobody, until it joins those of its key anew.
    pub(super) fn part(&mut self) {
        if let Some(inner) = &mut self.0 {
            inner.shared = None;
        }
    }

    /// The key of the configured scope, for a client that has named none. No client can name such a one.
    pub fn in_scope(mut self, key: Option<String>) -> Own {
        if let Some(key) = key {
            let inner = self.0.get_or_insert_default();
            for choices in [&mut inner.startup, &mut inner.choices] {
                choices.causality_key.get_or_insert_with(|| format!("\0{key}").into());
            }
        }
        self
    }

    /// RESET ALL or DISCARD ALL.
    pub(super) fn reset_all(&mut self) {
        if let Some(inner) = &mut self.0 {
            inner.choices = inner.startup.clone();
            if let Some(undo) = &mut inner.undo {
                undo.committed = inner.startup.clone();
            }
        }
    }

    /// Something may be set within a transaction, or a batch, which may be rolled back.
    pub(super) fn may_be_undone(&mut self) {
        let Inner { choices, undo, .. } = &mut **self.0.get_or_insert_default();
        undo.get_or_insert_with(|| {
            Box::new(Undo { committed: choices.clone(), rolled_back: choices.clone() })
        });
    }

    /// The transaction is over, or the batch.
    pub(super) fn ended(&mut self, end: End) {
        let Some(inner) = &mut self.0 else { return };
        let Some(undo) = inner.undo.take() else { return };
        inner.choices = match end {
            End::Committed => undo.committed,
            End::RolledBack => undo.rolled_back,
        };
    }

    /// What a text of several statements has changed; answers whether it is a setting of ours alone. The server took any
    /// value; what is none is passed over.
    pub(super) fn follow(&mut self, change: &SettingChange) -> bool {
        let (name, value) = match change {
            SettingChange::ResetAll => {
                self.reset_all();
                return false;
            }
            SettingChange::Hidden { .. } => return false,
            SettingChange::Set { name, value } => (name, Some(unquoted(value))),
            SettingChange::Reset { name } => (name, None),
        };
        if !name.starts_with(PREFIX) {
            return false;
        }
        if let Ok(setting) = Setting::named(name) {
            let _ = self.set(setting, value.as_deref(), Reach::Session);
        }
        true
    }

    fn set(&mut self, setting: Setting, value: Option<&str>, reach: Reach) -> Result<(), Report> {
        let Inner { startup, choices, undo, .. } = &mut **self.0.get_or_insert_default();
        match (undo, reach) {
            // Its transaction is this statement.
            (None, Reach::Transaction) => Ok(()),
            (Some(undo), Reach::Session) => {
                undo.committed.change(setting, value, startup)?;
                choices.change(setting, value, startup)
            }
            (None, Reach::Session) | (Some(_), Reach::Transaction) => choices.change(setting, value, startup),
        }
    }

    /// Whether a prepared statement or a portal of the client's may be one of these.
    fn is_prepared(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.has_statements)
    }

    /// The position that was asked for is there, or why it is not.
    pub(super) fn answered(&mut self, position: Result<Token, Report>) {
        self.0.get_or_insert_default().position = Some(position);
    }

    fn has_position(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.position.is_some())
    }

    fn take_position(&mut self) -> Option<Result<Token, Report>> {
        self.0.as_mut()?.position.take()
    }

    /// Carries a command out. `out` gets the rows, if it has any, and CommandComplete.
    fn run(&mut self, command: &Command, world: &World<'_>, out: &mut Vec<u8>) -> Result<(), Report> {
        let tag = match command {
            Command::Set(setting, value, reach) => {
                self.set(*setting, value.as_deref(), *reach)?;
                "SET"
            }
            Command::Reset(setting) => {
                self.set(*setting, None, Reach::Session)?;
                "RESET"
            }
            Command::Show(setting) => {
                backend::write_data_row(out, [Some(self.shown(*setting, world)?)].into_iter());
                "SHOW"
            }
            Command::Explain(_) => "SHOW",
        };
        backend::write_command_complete(out, tag);
        Ok(())
    }

    fn shown(&mut self, setting: Setting, world: &World<'_>) -> Result<String, Report> {
        Ok(match setting {
            Setting::Consistency => self.consistency().unwrap_or(world.level).as_str().to_owned(),
            Setting::MaxStaleness => {
                values::duration_text(self.max_staleness().unwrap_or(world.rules.max_staleness))
            }
            // A configured scope's key is not the client's to see.
            Setting::CausalityKey => {
                self.key().filter(|key| !key.starts_with('\0')).unwrap_or_default().to_owned()
            }
            Setting::Route => self.wish().map_or("auto", Hint::as_str).to_owned(),
            Setting::CausalityToken => {
                self.take_position().unwrap_or_else(|| Err(no_position()))?.sign(world.secret)
            }
        })
    }
}

impl Inner {
    fn join(&mut self, scopes: &Scopes, level: Consistency, now: Instant, history: &mut History) {
        let (key, by) = match &self.comment {
            Some(key) => (Some(key), By::Comment),
            None => (self.choices.causality_key.as_ref(), By::Setting),
        };
        if self.shared.as_ref().map(|joined| &joined.key) == key {
            return;
        }
        let before = self.shared.take();
        let Some(key) = key else {
            // What it has seen in company is not followed by itself.
            history.lost_track(now);
            return;
        };
        let shared = scopes.join(key, level, now);
        // What either has seen, both have; but from one statement's key to the next one's nothing is carried.
        let goes_from_key_to_key =
            by == By::Comment && before.as_ref().is_some_and(|it| it.by == By::Comment);
        if !goes_from_key_to_key && (before.is_some() || history.last().is_some()) {
            scope::change(&shared, |history| history.lost_track(now));
        }
        self.shared = Some(Joined { key: key.clone(), shared, by });
    }
}

impl Command {
    /// Whether the primary must have been asked how far it is.
    fn needs_position(&self) -> bool {
        matches!(self, Command::Show(Setting::CausalityToken))
    }

    /// RowDescription or NoData.
    fn describe(&self, out: &mut Vec<u8>) {
        match self {
            Command::Show(setting) => {
                backend::write_row_description(out, &[setting.column()], &Formats::TEXT);
            }
            Command::Explain(_) => backend::write_row_description(out, &EXPLANATION, &Formats::TEXT),
            Command::Set(..) | Command::Reset(_) => backend::write_bare(out, BackendTag::NO_DATA),
        }
    }

    /// Whether it changes what a transaction may have to take back.
    fn changes(&self) -> bool {
        matches!(self, Command::Set(..) | Command::Reset(_))
    }
}

/// The command that a text is, or why it is none; `None`: it is the server's.
pub fn command(text: &[u8]) -> Option<Result<Command, Report>> {
    if !may_be_own(text) {
        return None;
    }
    let mut tokens = tokens(text);
    let word = |token: Option<Lexeme>| {
        let token = token.filter(|token| token.kind == Kind::Word)?;
        Some(token.bytes(text).to_ascii_lowercase())
    };
    // In quotes, too, PostgreSQL takes a setting's name in any case.
    let part = |token: Option<Lexeme>| Some(words::name(token?, text)?.to_ascii_lowercase());
    let verb = word(tokens.next())?;
    let mut first = tokens.next();
    let local = first.filter(|_| verb == b"set" && word(first).as_deref() == Some(b"local"));
    if verb == b"set" && matches!(word(first).as_deref(), Some(b"local" | b"session")) {
        first = tokens.next();
    }
    let whole = part(first)?;
    let name = match whole.strip_prefix(PREFIX) {
        Some(name) => Some(name.to_owned()),
        None if whole != PREFIX[..PREFIX.len() - 1] || tokens.next()?.kind != Kind::Dot => return None,
        None => part(tokens.next()),
    };
    let rest: Vec<Lexeme> = tokens.collect();
    if let [r#for, _, ..] = rest[..]
        && (verb.as_slice(), name.as_deref(), word(Some(r#for)).as_deref())
            == (b"show", Some("route"), Some(b"for"))
    {
        return Some(Ok(Command::Explain(text[r#for.end..].into())));
    }
    let end = rest.iter().position(|token| token.kind == Kind::Semicolon).unwrap_or(rest.len());
    if rest[end..].iter().any(|token| token.kind != Kind::Semicolon) {
        return None;
    }
    match verb.as_slice() {
        b"reset" => Some(change(text, Verb::Reset)),
        b"set" => Some(match local {
            None => change(text, Verb::Set(Reach::Session)),
            // For who reads the value it is as any other.
            Some(local) => {
                let mut text = text.to_vec();
                text[local.start..local.end].fill(b' ');
                change(&text, Verb::Set(Reach::Transaction))
            }
        }),
        b"show" => {
            let Some(name) = name.filter(|_| end == 0) else { return Some(Err(misspelt())) };
            Some(Setting::named(&format!("{PREFIX}{name}")).map(Command::Show))
        }
        _ => None,
    }
}

/// What changes a setting.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Set(Reach),
    Reset,
}

fn change(text: &[u8], verb: Verb) -> Result<Command, Report> {
    match (effect::setting_changes(text).as_deref(), verb) {
        (Some([SettingChange::Set { name, value }]), Verb::Set(reach)) => {
            let (setting, value) = (Setting::named(name)?, unquoted(value));
            Choices::default().set(setting, &value)?;
            Ok(Command::Set(setting, Some(value), reach))
        }
        (Some([SettingChange::Reset { name }]), Verb::Set(reach)) => {
            Ok(Command::Set(Setting::named(name)?, None, reach))
        }
        (Some([SettingChange::Reset { name }]), Verb::Reset) => Ok(Command::Reset(Setting::named(name)?)),
        _ => Err(misspelt()),
    }
}

/// `Some(None)` is no wish at all.
fn wish(word: &str) -> Option<Option<Hint>> {
    match word {
        "auto" => Some(None),
        "primary" => Some(Some(Hint::Primary)),
        "replica" => Some(Some(Hint::Replica)),
        _ => None,
    }
}

fn no_position() -> Report {
    Report::new(ErrorSource::Pooler, SqlState::INTERNAL_ERROR, "nobody has asked the primary how far it is")
}

fn misspelt() -> Report {
    Report::new(
        ErrorSource::Client,
        SqlState::SYNTAX_ERROR,
        "this is no SET, RESET or SHOW that pglagoon knows",
    )
}

/// Looks at a few bytes only: almost every text is something else.
fn may_be_own(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    let begins = |word: &[u8]| text.len() > word.len() && text[..word.len()].eq_ignore_ascii_case(word);
    match text.first() {
        Some(b's' | b'S') => begins(b"set") || begins(b"show"),
        Some(b'r' | b'R') => begins(b"reset"),
        Some(b'/' | b'-') => true,
        _ => false,
    }
}

impl Session {
    /// Answers the request if it is one of these; `None`: it is the server's.
    pub(super) fn own_request(
        &mut self,
        span: Span<FrontendTag>,
        bytes: &[u8],
        held: Option<&mut Held<'_>>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Option<Flow> {
        // In an aborted transaction the server refuses it, in its own words.
        if self.transaction.status() == TransactionStatus::Failed {
            return None;
        }
        let body = span.body(bytes);
        match span.tag() {
            FrontendTag::QUERY if may_be_own(body) && self.batch == Batch::Idle => {
                let command = command(frontend::query(body)?)?;
                Some(self.own_query(span, command, held, world, edits))
            }
            FrontendTag::PARSE => {
                let text = body.iter().position(|&byte| byte == 0).map(|end| &body[end + 1..])?;
                if !may_be_own(text) {
                    return None;
                }
                let parse = Parse::new(body)?;
                let command = command(parse.text)?;
                Some(match command {
                    Ok(_) => self.own_parse(span, parse, world, edits),
                    Err(report) => self.refuse(span, report, held, edits),
                })
            }
            FrontendTag::BIND | FrontendTag::DESCRIBE | FrontendTag::EXECUTE if self.own.is_prepared() => {
                if self.replies.has_deallocations() {
                    return Some(Flow::Stop(Want::Input));
                }
                self.own_portal(span, body, held, world, edits)
            }
            _ => None,
        }
    }

    fn own_query(
        &mut self,
        span: Span<FrontendTag>,
        command: Result<Command, Report>,
        held: Option<&mut Held<'_>>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        // Its ReadyForQuery says how the transaction stands, which is known when all else is answered.
        if !self.is_next() {
            return Flow::Stop(Want::Input);
        }
        if command.as_ref().is_ok_and(Command::needs_position) && !self.own.has_position() {
            return Flow::Stop(Want::Position(self.shown()));
        }
        if let Some(statements) = &mut self.statements {
            statements.remove(b"");
        }
        if self.transaction.is_open() || self.tenure.may_be_in_block {
            self.own.may_be_undone();
        }
        let answer = command.and_then(|command| {
            let mut answer = Vec::new();
            self.warn_of_local(&command, &mut answer);
            if let Command::Show(_) | Command::Explain(_) = command {
                command.describe(&mut answer);
            }
            self.run_own(&command, held.as_deref(), world, &mut answer).map(|()| answer)
        });
        match answer {
            Ok(answer) => {
                edits.reply.extend_from_slice(&answer);
                backend::write_ready(&mut edits.reply, self.transaction.status());
                self.skip(span, edits)
            }
            Err(report) => self.refuse(span, report, held, edits),
        }
    }

    fn own_parse(
        &mut self,
        span: Span<FrontendTag>,
        parse: Parse<'_>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Flow {
        let named = world.prepare(&parse, self.settings.analysis());
        let before = self.statements.get_or_insert_default().insert(parse.name, named);
        self.own.0.get_or_insert_default().has_statements = true;
        if self.is_next() {
            backend::write_bare(&mut edits.reply, BackendTag::PARSE_COMPLETE);
        } else {
            let then = Then::Named(Renamed { name: parse.name.into(), before });
            self.replies.push(Request::Parse, Action::Complete(BackendTag::PARSE_COMPLETE), Some(then));
        }
        self.skip(span, edits)
    }

    fn own_portal(
        &mut self,
        span: Span<FrontendTag>,
        body: &[u8],
        held: Option<&mut Held<'_>>,
        world: &mut World<'_>,
        edits: &mut Edits,
    ) -> Option<Flow> {
        let mut answer = Vec::new();
        let request = match span.tag() {
            FrontendTag::BIND => {
                let bind = Bind::new(body)?;
                let command = self.own_statement(bind.statement);
                let portals = &mut self.own.0.as_mut()?.portals;
                portals.remove(bind.portal);
                if portals.len() >= MAX_OWN_PORTALS {
                    portals.clear();
                }
                portals.insert(bind.portal.into(), command?);
                backend::write_bare(&mut answer, BackendTag::BIND_COMPLETE);
                Request::Bind
            }
            FrontendTag::DESCRIBE => {
                match Target::new(body)? {
                    Target::Statement(name) => {
                        let command = self.own_statement(name)?;
                        backend::write_no_parameters(&mut answer);
                        command.describe(&mut answer);
                    }
                    Target::Portal(name) => self.own_bound(name)?.describe(&mut answer),
                }
                Request::Describe
            }
            _ => {
                let command = self.own_bound(frontend::executed_portal(body)?)?;
                let is_set = command.changes();
                if (is_set || command.needs_position()) && !self.is_next() {
                    // How what is before it ends matters: whether it fails, or ends a transaction.
                    if self.batch == Batch::Open {
                        edits.insert(frontend::write_flush);
                    }
                    return Some(Flow::Stop(Want::Input));
                }
                if command.needs_position() && !self.own.has_position() {
                    return Some(Flow::Stop(Want::Position(self.shown())));
                }
                if is_set {
                    self.own.may_be_undone();
                }
                self.warn_of_local(&command, &mut answer);
                if let Err(report) = self.run_own(&command, held.as_deref(), world, &mut answer) {
                    return Some(self.refuse(span, report, held, edits));
                }
                Request::Execute
            }
        };
        if self.is_next() {
            edits.reply.extend_from_slice(&answer);
        } else {
            self.replies.push(request, Action::Fabricate, Some(Then::Answered(answer.into())));
        }
        Some(self.skip(span, edits))
    }

    /// SET LOCAL outside a transaction block comes to nothing; PostgreSQL warns of it in these words.
    fn warn_of_local(&self, command: &Command, out: &mut Vec<u8>) {
        let is_local = matches!(command, Command::Set(_, _, Reach::Transaction));
        if is_local && !self.transaction.is_open() && !self.tenure.may_be_in_block {
            let text = "SET LOCAL can only be used in transaction blocks";
            backend::write_report(out, Severity::Warning, SqlState::NO_ACTIVE_SQL_TRANSACTION, text, "", "");
        }
    }

    fn run_own(
        &mut self,
        command: &Command,
        held: Option<&Held<'_>>,
        world: &mut World<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Report> {
        if let Command::Explain(text) = command {
            for (item, value) in self.explained(text, held, world) {
                backend::write_data_row(out, [Some(item), Some(value)].into_iter());
            }
        }
        if let Command::Set(Setting::CausalityToken, Some(text), _) = command {
            self.take_token(text, held, world)?;
        }
        self.own.run(command, world, out)
    }

    /// The client has seen what the token says. A position that is asked for from now on is at or above the token's, if both
    /// are of one history: no more must be remembered than that it has to be asked for.
    fn take_token(&mut self, text: &str, held: Option<&Held<'_>>, world: &World<'_>) -> Result<(), Report> {
        let refused = |text: &'static str, code| Err(Report::new(ErrorSource::Client, code, text));
        if self.transaction.is_open() && held.is_some_and(|held| held.role == Role::Replica) {
            return refused(
                "a causality token must be given before the first statement of a transaction that reads on a replica",
                SqlState::ACTIVE_SQL_TRANSACTION,
            );
        }
        let Some(token) = Token::read(text, world.secret) else {
            return refused(
                "this is no causality token, or one of another secret",
                SqlState::INVALID_PARAMETER_VALUE,
            );
        };
        let Some(lineage) = world.lineage else {
            return refused(
                "no primary is known that a causality token could be compared with",
                SqlState::CANNOT_CONNECT_NOW,
            );
        };
        if lineage.system.is_some_and(|system| system != token.system) {
            return refused("this causality token is another cluster's", SqlState::INVALID_PARAMETER_VALUE);
        }
        match lineage.fate(token.timeline, token.position) {
            Fate::Lost if world.rules.on_lost_write == OnLostWrite::Error => Err(Report::new(
                ErrorSource::Server,
                SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
                "what this causality token stands for may be lost: another server has become primary since",
            )),
            Fate::Unknown => refused(
                "this causality token is of a timeline that is not known here yet",
                SqlState::SERIALIZATION_FAILURE,
            ),
            Fate::Kept | Fate::Lost => {
                self.recall(|history| history.lost_track(world.now));
                Ok(())
            }
        }
    }

    /// Where a text would go if it were the client's next.
    fn explained(&mut self, text: &[u8], held: Option<&Held<'_>>, world: &mut World<'_>) -> Vec<Line> {
        self.agree(held, world);
        let statement = world.classify(text);
        let route = match self.mode {
            PoolMode::Session => Route::primary(Why::Held),
            PoolMode::Transaction | PoolMode::Statement => {
                let access = self.routable(&statement).0;
                self.route(self.first_access(access, world.rules), world)
            }
        };
        let way = match held.filter(|_| self.is_bound()) {
            Some(held) if self.transaction.is_open() => Way::Held(usize::from(held.node), Why::Transaction),
            Some(held) => Way::Held(usize::from(held.node), Why::Held),
            None => Way::Free(route),
        };
        let servers = world.servers.explained(way);
        let address = |node: usize| {
            servers.get(node).map_or_else(|| "a replica".to_owned(), |server| server.address.clone())
        };
        let mark = explain::mark(&self.history, world.now, address);
        let (terms, wish) = (self.terms(world), self.own.wish());
        Case { text, statement: &statement, way, rules: world.rules, terms, wish, mark, servers }.lines()
    }

    fn own_statement(&self, name: &[u8]) -> Option<Command> {
        let named = self.statements.as_ref()?.find(name)?;
        command(&named.prepared.text)?.ok()
    }

    fn own_bound(&self, portal: &[u8]) -> Option<Command> {
        self.own.0.as_ref()?.portals.get(portal).cloned()
    }

    /// Whether no answer is outstanding that has to come before ours.
    fn is_next(&self) -> bool {
        self.replies.is_empty() && self.tenure.server.at_boundary()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_these_statements_are_ours() {
        let ours = |text: &str| command(text.as_bytes()).map(|read| read.ok());
        let set =
            |setting, value: &str| Some(Some(Command::Set(setting, Some(value.to_owned()), Reach::Session)));
        assert_eq!(ours("SET pglagoon.consistency = 'strong'"), set(Setting::Consistency, "strong"));
        assert_eq!(
            ours(" /* x */ set session PgLagoon.Consistency to eventual;"),
            set(Setting::Consistency, "eventual")
        );
        assert_eq!(ours("SET pglagoon.max_staleness TO '500ms'"), set(Setting::MaxStaleness, "500ms"));
        let local = Command::Set(Setting::Consistency, Some("strong".to_owned()), Reach::Transaction);
        assert_eq!(ours("SET/**/local pglagoon.consistency = 'strong'"), Some(Some(local)));
        assert_eq!(ours("RESET pglagoon.consistency"), Some(Some(Command::Reset(Setting::Consistency))));
        let default = Command::Set(Setting::Consistency, None, Reach::Session);
        assert_eq!(ours("SET pglagoon.consistency TO DEFAULT"), Some(Some(default)));
        for quoted in ["SET \"PgLagoon\".\"Consistency\" = 'Strong'", "SET \"pglagoon.CONSISTENCY\" = STRONG"]
        {
            let Some(Some(Command::Set(Setting::Consistency, Some(value), Reach::Session))) = ours(quoted)
            else {
                panic!("{quoted}")
            };
            assert!(value.eq_ignore_ascii_case("strong"), "{quoted}: {value}");
        }
        assert_eq!(ours("SHOW \"PGLAGOON.Route\""), Some(Some(Command::Show(Setting::Route))));
        assert_eq!(ours("show pglagoon.consistency ;"), Some(Some(Command::Show(Setting::Consistency))));
        for bad in [
            "SET pglagoon.consistency = 'linearizable'",
            "SHOW pglagoon.nothing",
            "SET pglagoon.max_staleness = 5",
            "SHOW pglagoon.consistency x",
        ] {
            assert_eq!(ours(bad), Some(None), "{bad}");
        }
        let explain = |text: &str| Some(Some(Command::Explain(text.as_bytes().into())));
        assert_eq!(
            ours("show pglagoon.route FOR/*a*/ TABLE t; SELECT 2"),
            explain("/*a*/ TABLE t; SELECT 2")
        );
        assert_eq!(ours("SHOW pglagoon.route for"), Some(None));
        for theirs in [
            "SELECT 1",
            "SET work_mem = '1MB'",
            "SHOW pglagoon",
            "SET pglagoon.consistency = 'strong'; SELECT 1",
            "-- SET pglagoon.consistency = 'strong'",
            "SET \"pglagoon\"",
            "",
            "SET",
        ] {
            assert_eq!(ours(theirs), None, "{theirs}");
        }
    }

    #[test]
    fn a_reset_goes_back_to_what_the_startup_packet_said() {
        let mut own = Own::from_startup([("pglagoon.consistency", "strong")]).unwrap();
        own.set(Setting::Consistency, Some("eventual"), Reach::Session).unwrap();
        assert_eq!(own.consistency(), Some(Consistency::Eventual));
        own.set(Setting::Consistency, None, Reach::Session).unwrap();
        assert_eq!(own.consistency(), Some(Consistency::Strong));
        assert!(Own::from_startup([("pglagoon.consistency", "x")]).is_err());
        assert!(Own::from_startup([("pglagoon.x", "1")]).is_err());
        let refused = Own::from_startup([("pglagoon.causality_token", "any")]).unwrap_err();
        assert_eq!(refused.code, SqlState::CANT_CHANGE_RUNTIME_PARAM);
    }

    #[test]
    fn what_is_set_in_a_transaction_ends_as_it_does() {
        let after = |steps: &[(&str, Reach)], end| {
            let mut own = Own::from_startup([("pglagoon.consistency", "strong")]).unwrap();
            own.may_be_undone();
            for (value, reach) in steps {
                own.set(Setting::Consistency, Some(value), *reach).unwrap();
                assert_eq!(own.consistency(), Consistency::parse(value));
            }
            own.ended(end);
            own.consistency().unwrap().as_str()
        };
        let (session, local) = (("sticky", Reach::Session), ("eventual", Reach::Transaction));
        assert_eq!(after(&[session], End::Committed), "sticky");
        assert_eq!(after(&[session], End::RolledBack), "strong");
        assert_eq!(after(&[local], End::Committed), "strong");
        assert_eq!(after(&[session, local], End::Committed), "sticky");
        assert_eq!(after(&[local, session], End::Committed), "sticky");
        let mut own = Own::default();
        own.set(Setting::Consistency, Some("strong"), Reach::Transaction).unwrap();
        assert_eq!(own.consistency(), None, "there is no transaction");
    }
}
