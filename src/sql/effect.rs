//! Exact readers of what a text says about settings and prepared statements.
//!
//! Used rarely: only when a [`Statement`](super::Statement) has the effect. Here literals count, so nothing is cached.
//! Whatever is not understood to the letter is `None`, and then the values are as good as hidden.

use super::body::{self, Body};
use super::lexer::{Kind, Token, tokens};
use super::quote::literal;
use super::{Catalog, Effects, words};

/// What a text does to one setting of its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingChange {
    /// It gets a value.
    Set {
        /// In lower case, as PostgreSQL compares names of settings.
        name: String,
        /// An expression list that means the same behind `SET name TO`, whatever the session's settings are.
        value: String,
    },
    /// It goes back to what the session started with.
    Reset {
        /// In lower case.
        name: String,
    },
    /// It may get a value that the text does not tell.
    Hidden {
        /// In lower case.
        name: String,
    },
    /// All go back.
    ResetAll,
}

impl SettingChange {
    /// How much memory it takes, in bytes.
    pub fn weight(&self) -> usize {
        let text = match self {
            SettingChange::Set { name, value } => name.len() + value.len(),
            SettingChange::Reset { name } | SettingChange::Hidden { name } => name.len(),
            SettingChange::ResetAll => 0,
        };
        size_of::<SettingChange>() + text
    }

    /// The one setting that changes.
    pub fn name(&self) -> Option<&String> {
        match self {
            SettingChange::Set { name, .. }
            | SettingChange::Reset { name }
            | SettingChange::Hidden { name } => Some(name),
            SettingChange::ResetAll => None,
        }
    }
}

/// What a text does to the settings of its session, in order, if it succeeds.
///
/// `SET LOCAL`, `SET TRANSACTION` and statements that are no SET or RESET are passed over: they change no setting of the
/// session that the text tells of (the effects say if they may change others). `None` if a SET is not understood, or if
/// the text also begins, ends or discards, so that not all changes may stay.
pub fn setting_changes(text: &[u8]) -> Option<Vec<SettingChange>> {
    let tokens: Vec<Token> = tokens(text).collect();
    if tokens.iter().any(|token| token.kind == Kind::Error) {
        return None;
    }
    let mut changes = Vec::new();
    let mut has_boundary = false;
    for tokens in tokens.split(|token| token.kind == Kind::Semicolon) {
        let mut reader = Reader { text, tokens };
        has_boundary |= reader.is_boundary();
        reader.statement(&mut changes)?;
    }
    (!has_boundary || changes.is_empty()).then_some(changes)
}

/// What a transaction says of itself when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionMode {
    /// It may write, under the session's isolation level or READ COMMITTED.
    Plain,
    /// It may write and says so, or all of it sees one snapshot.
    Whole,
    /// READ ONLY, under READ COMMITTED or REPEATABLE READ.
    ReadOnly,
}

/// How much of what others do a transaction sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees what is committed when it begins.
    ReadCommitted,
    /// All of them see what was committed when the first began.
    RepeatableRead,
    /// The same, and PostgreSQL looks after what depends on it, which a hot standby cannot.
    Serializable,
}

impl Isolation {
    /// As `SHOW transaction_isolation` says it.
    pub fn of(value: &str) -> Option<Isolation> {
        match value {
            "read committed" | "read uncommitted" => Some(Isolation::ReadCommitted),
            "repeatable read" => Some(Isolation::RepeatableRead),
            "serializable" => Some(Isolation::Serializable),
            _ => None,
        }
    }
}

/// One BEGIN or START TRANSACTION.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// What it says.
    pub mode: TransactionMode,
    /// The level that it names.
    pub isolation: Option<Isolation>,
    /// The tag of its CommandComplete.
    pub tag: &'static str,
}

/// What `text` begins, if it is exactly one BEGIN that no server would refuse or warn of.
pub fn begin(text: &[u8]) -> Option<Begin> {
    let words = words_alone(text)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (tag, mut rest) = match words[..] {
        ["begin", "work" | "transaction", ref rest @ ..] | ["begin", ref rest @ ..] => ("BEGIN", rest),
        ["start", "transaction", ref rest @ ..] => ("START TRANSACTION", rest),
        _ => return None,
    };
    let (mut is_read_only, mut is_serializable, mut has_snapshot) = (None, false, false);
    let mut isolation = None;
    while !rest.is_empty() {
        let length = match *rest {
            ["isolation", "level", "serializable", ..] => {
                (is_serializable, has_snapshot) = (true, true);
                isolation = Some(Isolation::Serializable);
                3
            }
            ["isolation", "level", "repeatable", "read", ..] => {
                has_snapshot = true;
                isolation = Some(Isolation::RepeatableRead);
                4
            }
            ["isolation", "level", "read", "committed" | "uncommitted", ..] => {
                isolation = Some(Isolation::ReadCommitted);
                4
            }
            ["read", "only", ..] if is_read_only.is_none() => {
                is_read_only = Some(true);
                2
            }
            ["read", "write", ..] if is_read_only.is_none() => {
                is_read_only = Some(false);
                2
            }
            ["not", "deferrable", ..] => 2,
            ["deferrable", ..] => 1,
            _ => return None,
        };
        rest = match &rest[length..] {
            [","] => return None,
            [",", rest @ ..] => rest,
            rest => rest,
        };
    }
    let mode = match is_read_only {
        Some(true) if !is_serializable => TransactionMode::ReadOnly,
        None if !has_snapshot => TransactionMode::Plain,
        _ => TransactionMode::Whole,
    };
    Some(Begin { mode, isolation, tag })
}

/// Whether `text` is exactly one SET LOCAL of an ordinary setting, which says neither who runs what follows nor how the
/// transaction is kept apart from others.
pub fn is_plain_set_local(text: &[u8]) -> bool {
    let Some(tokens) = one_statement(text) else { return false };
    let word = |at: usize| {
        let token = tokens.get(at).filter(|token| token.kind == Kind::Word)?;
        Some(String::from_utf8_lossy(&text[token.start..token.end]).to_ascii_lowercase())
    };
    let (Some("set"), Some("local"), Some(name)) = (word(0).as_deref(), word(1).as_deref(), word(2)) else {
        return false;
    };
    let is_special = ["role", "session", "transaction", "xml"].contains(&name.as_str())
        || name.starts_with("transaction_");
    !is_special && !names_reading(text)
}

/// Whether `text`, which changes settings, names one of those by which a server tells strings from what is not in them.
pub fn names_reading(text: &[u8]) -> bool {
    let named = |token: &Token| {
        let bytes = token.bytes(text).to_ascii_lowercase();
        let has = |name: &str| bytes.windows(name.len()).any(|part| part == name.as_bytes());
        has("standard_conforming_strings") || has("client_encoding")
    };
    let tokens: Vec<Token> = tokens(text).collect();
    let is_word = |token: Token, words: &[&str]| {
        token.kind == Kind::Word && words::name(token, text).is_some_and(|name| words.contains(&&*name))
    };
    let sets_names =
        |pair: &[Token]| is_word(pair[0], &["set", "local", "session"]) && is_word(pair[1], &["names"]);
    tokens.iter().any(|token| token.kind == Kind::UnicodeName || named(token))
        || tokens.windows(2).any(sets_names)
}

/// Whether `text` is exactly one COMMIT, END, ROLLBACK or ABORT that ends its transaction and begins no other.
pub fn is_plain_end(text: &[u8]) -> bool {
    let Some(words) = words_alone(text) else { return false };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    matches!(
        words[..],
        ["commit" | "end" | "rollback" | "abort"]
            | ["commit" | "end" | "rollback" | "abort", "work" | "transaction"]
            | ["commit" | "end" | "rollback" | "abort", "and", "no", "chain"]
            | ["commit" | "end" | "rollback" | "abort", "work" | "transaction", "and", "no", "chain"]
    )
}

/// The tokens of the one statement that a text is, without the semicolons behind it; `None`: there are several, or something that
/// PostgreSQL does not know.
fn one_statement(text: &[u8]) -> Option<Vec<Token>> {
    let mut tokens: Vec<Token> = tokens(text).collect();
    while tokens.last().is_some_and(|last| last.kind == Kind::Semicolon) {
        tokens.pop();
    }
    let is_more = |token: &Token| matches!(token.kind, Kind::Semicolon | Kind::Error);
    (!tokens.iter().any(is_more)).then_some(tokens)
}

/// The words of a text that is one statement of words and commas, in lower case.
fn words_alone(text: &[u8]) -> Option<Vec<String>> {
    let tokens = one_statement(text)?;
    let word = |token: &Token| match token.kind {
        Kind::Word => words::name(*token, text),
        Kind::Comma => Some(",".to_owned()),
        _ => None,
    };
    tokens.iter().map(word).collect()
}

/// What a DEALLOCATE drops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deallocated {
    /// One prepared statement, by its name as PostgreSQL folds it.
    Name(String),
    /// All of them.
    All,
}

/// What `text` drops, if it is exactly one DEALLOCATE.
pub fn deallocated(text: &[u8]) -> Option<Deallocated> {
    let tokens = one_statement(text)?;
    let mut reader = Reader { text, tokens: &tokens };
    reader.word("deallocate")?;
    // A statement may be called "prepare", too.
    if reader.tokens.len() > 1 {
        reader.word("prepare")?;
    }
    let name = *reader.tokens.first()?;
    let folded = words::name(name, text)?;
    reader.take()?;
    reader.end()?;
    match folded.as_str() {
        "all" if name.kind == Kind::Word => Some(Deallocated::All),
        word if name.kind == Kind::Word && words::role(word.as_bytes()) == words::Role::Reserved => None,
        _ => Some(Deallocated::Name(folded)),
    }
}

/// The names of the statements that a text may run by EXECUTE, wherever that stands.
pub fn executed(text: &[u8]) -> impl Iterator<Item = String> {
    let mut tokens = tokens(text).peekable();
    std::iter::from_fn(move || {
        loop {
            let token = tokens.next()?;
            let is_execute = token.kind == Kind::Word && token.bytes(text).eq_ignore_ascii_case(b"execute");
            if let Some(name) = tokens.peek().filter(|_| is_execute).and_then(|next| words::name(*next, text))
            {
                return Some(name);
            }
        }
    })
}

/// The name that `text` gives to a statement, if it is exactly one PREPARE.
pub fn prepared(text: &[u8]) -> Option<String> {
    let tokens = one_statement(text)?;
    let mut reader = Reader { text, tokens: &tokens };
    reader.word("prepare")?;
    let name = reader.take()?;
    words::name(name, text)
}

/// Which channels a client hears from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listening {
    /// One more.
    Listen(String),
    /// One less.
    Unlisten(String),
    /// None.
    UnlistenAll,
}

/// What `text` does, if it is exactly one LISTEN or UNLISTEN.
pub fn listening(text: &[u8]) -> Option<Listening> {
    let tokens = one_statement(text)?;
    Reader { text, tokens: &tokens }.listening()
}

/// What the UNLISTENs of a text take away, in order, if all of it succeeds. Those that cannot be read are passed over: who
/// hears too much has lost nothing.
pub fn unlistened(text: &[u8]) -> Vec<Listening> {
    let tokens: Vec<Token> = tokens(text).collect();
    let statements = tokens.split(|token| token.kind == Kind::Semicolon);
    let all = statements.filter_map(|tokens| Reader { text, tokens }.listening());
    all.filter(|change| !matches!(change, Listening::Listen(_))).collect()
}

/// The database that no session may use while `text` runs, if it is exactly one DROP DATABASE, CREATE DATABASE (its template),
/// or ALTER DATABASE that renames or moves it.
pub fn vacated(text: &[u8]) -> Option<String> {
    let tokens: Vec<Token> = tokens(text).collect();
    let mut statements =
        tokens.split(|token| token.kind == Kind::Semicolon).filter(|tokens| !tokens.is_empty());
    let only = statements.next().filter(|_| statements.next().is_none())?;
    Reader { text, tokens: only }.vacated()
}

/// What the DO blocks of a text leave behind, by what stands in them and what `catalog` says of what they call.
pub fn block(text: &[u8], catalog: &dyn Catalog) -> Effects {
    let tokens: Vec<Token> = tokens(text).collect();
    let blocks = tokens.split(|token| token.kind == Kind::Semicolon);
    let blocks = blocks.filter_map(|tokens| Reader { text, tokens }.block_body());
    blocks
        .map(|body| body.map_or(body::ANYTHING, |body| judge(&body, catalog)))
        .fold(Effects::NONE, Effects::with)
}

fn judge(body: &Body, catalog: &dyn Catalog) -> Effects {
    let called = |name: &String| words::leaves(name, catalog);
    body.calls.iter().map(called).fold(body.effects, Effects::with)
}

/// The settings that the `set_config` calls of a text change beyond the transaction, if they are called at all; `None` if
/// one does not name its setting by a literal.
pub fn set_configs(text: &[u8]) -> Option<Vec<String>> {
    let tokens: Vec<Token> = tokens(text).collect();
    let mut names = Vec::new();
    for arguments in set_config_calls(&tokens, text) {
        let [name, comma, rest @ ..] = arguments else { return None };
        if comma.kind != Kind::Comma {
            return None;
        }
        let name = string_value(*name, text)?.to_ascii_lowercase();
        if !is_local(rest, text) && !OF_TRANSACTION.contains(&name.as_str()) {
            names.push(name);
        }
    }
    // A name that is spelt with escapes was not seen.
    (!tokens.iter().any(|token| token.kind == Kind::UnicodeName)).then_some(names)
}

/// The first setting whose name begins so that a `set_config` call of a text names by a literal, for however long it sets it.
pub fn set_config_of(prefix: &str, text: &[u8]) -> Option<String> {
    let tokens: Vec<Token> = tokens(text).collect();
    let names =
        set_config_calls(&tokens, text).filter_map(|arguments| string_value(*arguments.first()?, text));
    names.map(|name| name.to_ascii_lowercase()).find(|name| name.starts_with(prefix))
}

/// What stands behind the `set_config(` of each call of a text.
fn set_config_calls<'t>(tokens: &'t [Token], text: &[u8]) -> impl Iterator<Item = &'t [Token]> {
    let calls = tokens.windows(2).enumerate().filter(|(_, pair)| {
        let is_call = pair[1].kind == Kind::LeftParen && pair[0].kind.is_name();
        is_call && words::name(pair[0], text).is_some_and(|name| name == "set_config")
    });
    calls.map(|(at, _)| &tokens[at + 2..])
}

/// How many tokens of a call's arguments are looked at: calls in calls are looked at once for each that they stand in.
const MAX_ARGUMENTS: usize = 256;

/// Whether the last argument, behind the value, is the word or the string that says so.
fn is_local(tokens: &[Token], text: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut arguments = vec![Vec::new()];
    for (place, token) in tokens.iter().enumerate() {
        if place == MAX_ARGUMENTS {
            return false;
        }
        match token.kind {
            Kind::LeftParen | Kind::LeftBracket => depth += 1,
            Kind::RightParen if depth == 0 => break,
            Kind::RightParen | Kind::RightBracket => depth = depth.saturating_sub(1),
            Kind::Comma if depth == 0 => arguments.push(Vec::new()),
            _ => {}
        }
        if let (0, false, Some(last)) = (depth, token.kind == Kind::Comma, arguments.last_mut()) {
            last.push(*token);
        }
    }
    let [_, scope] = &arguments[..] else { return false };
    let [scope] = scope[..] else { return false };
    let word = words::name(scope, text).or_else(|| string_value(scope, text)).unwrap_or_default();
    matches!(word.as_str(), "true" | "t" | "on" | "yes")
}

/// What SET TRANSACTION sets: however it is set, it ends with its transaction.
pub const OF_TRANSACTION: [&str; 3] =
    ["transaction_isolation", "transaction_read_only", "transaction_deferrable"];

fn outlasts_transaction(change: &SettingChange) -> bool {
    change.name().is_none_or(|name| !OF_TRANSACTION.contains(&name.as_str()))
}

/// The tokens of one statement that are still to be read.
struct Reader<'a> {
    text: &'a [u8],
    tokens: &'a [Token],
}

impl Reader<'_> {
    fn statement(&mut self, changes: &mut Vec<SettingChange>) -> Option<()> {
        match self.folded().as_str() {
            "set" => self.set(changes),
            "reset" => {
                let change = self.reset()?;
                changes.extend(Some(change).filter(outlasts_transaction));
                Some(())
            }
            _ => Some(()),
        }
    }

    fn listening(&mut self) -> Option<Listening> {
        let verb = self.folded();
        self.take()?;
        let name = self.take()?;
        self.end()?;
        if verb == "unlisten" && name.kind == Kind::Operator && name.bytes(self.text) == b"*" {
            return Some(Listening::UnlistenAll);
        }
        let channel = words::name(name, self.text).filter(|channel| !channel.is_empty())?;
        if name.kind == Kind::Word && words::role(channel.as_bytes()) != words::Role::Plain {
            return None;
        }
        match verb.as_str() {
            "listen" => Some(Listening::Listen(channel)),
            "unlisten" => Some(Listening::Unlisten(channel)),
            _ => None,
        }
    }

    fn vacated(&mut self) -> Option<String> {
        let verb = self.folded();
        self.take()?;
        self.word("database")?;
        if self.folded() == "if" {
            self.skip(2)?;
        }
        let name = words::name(self.take()?, self.text)?;
        match verb.as_str() {
            "drop" => Some(name),
            "alter" => (self.has("rename") || self.has("tablespace")).then_some(name),
            "create" => self.template(),
            _ => None,
        }
    }

    /// What a new database is copied from.
    fn template(&self) -> Option<String> {
        let Some(at) = (0..self.tokens.len()).find(|&at| self.folded_at(at) == "template") else {
            return Some("template1".to_owned());
        };
        let is_equals = |token: &&Token| token.kind == Kind::Operator && token.bytes(self.text) == b"=";
        let mut rest = self.tokens[at + 1..].iter();
        let template = rest.find(|token| !is_equals(token))?;
        words::name(*template, self.text)
    }

    fn has(&self, word: &str) -> bool {
        (0..self.tokens.len()).any(|at| self.folded_at(at) == word)
    }

    /// Whether what was SET before or is SET after may not stay.
    fn is_boundary(&self) -> bool {
        const BOUNDARIES: [&str; 9] =
            ["begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "discard"];
        BOUNDARIES.contains(&self.folded().as_str())
    }

    /// The body of a DO block, if this is one: `None` in it if that cannot be read.
    fn block_body(&mut self) -> Option<Option<Body>> {
        self.word("do")?;
        let is = |token: Token, word: &str| words::name(token, self.text).as_deref() == Some(word);
        let is_plpgsql = |language, name| is(language, "language") && is(name, "plpgsql");
        let is_plain = match *self.tokens {
            [_] => true,
            [a, b, c] => is_plpgsql(a, b) || is_plpgsql(b, c),
            _ => false,
        };
        let code = self.tokens.iter().find(|token| token.kind == Kind::DollarString).filter(|_| is_plain);
        let code = code.and_then(|code| body::dollar_quoted(code.bytes(self.text)));
        Some(code.map(body::read))
    }

    fn set(&mut self, changes: &mut Vec<SettingChange>) -> Option<()> {
        self.take()?;
        match self.folded().as_str() {
            "local" | "transaction" | "constraints" => return Some(()),
            "session" => {
                self.take()?;
                match self.folded().as_str() {
                    "characteristics" => return self.characteristics(changes),
                    "authorization" => return self.authorization(changes),
                    _ => {}
                }
            }
            _ => {}
        }
        let change = self.set_rest()?;
        changes.extend(Some(change).filter(outlasts_transaction));
        self.end()
    }

    /// What stands behind `SET [SESSION]`.
    fn set_rest(&mut self) -> Option<SettingChange> {
        match (self.folded().as_str(), self.folded_at(1).as_str()) {
            ("time", "zone") => {
                self.skip(2)?;
                self.value_or_default("timezone", &["default", "local"])
            }
            ("names", _) => {
                self.skip(1)?;
                match self.tokens.is_empty() {
                    true => Some(SettingChange::Reset { name: "client_encoding".to_owned() }),
                    false => self.value_or_default("client_encoding", &["default"]),
                }
            }
            ("role", next) if next != "to" && !self.is_equals(1) => {
                self.skip(1)?;
                self.value_or_default("role", &[])
            }
            ("schema", next) if next != "to" && !self.is_equals(1) => {
                self.skip(1)?;
                self.value_or_default("search_path", &[])
            }
            ("xml", "option") => {
                self.skip(2)?;
                self.value_or_default("xmloption", &[])
            }
            _ => self.generic(),
        }
    }

    /// `name {TO | =} {value, ... | DEFAULT}`
    fn generic(&mut self) -> Option<SettingChange> {
        let name = self.setting_name()?;
        // Draws a new sequence of random numbers; to set it again is not to restore it.
        if name == "seed" {
            return None;
        }
        if self.is_equals(0) {
            self.take()?;
        } else {
            self.word("to")?;
        }
        self.value_or_default(&name, &["default"])
    }

    fn value_or_default(&mut self, name: &str, defaults: &[&str]) -> Option<SettingChange> {
        let name = name.to_owned();
        if self.tokens.len() == 1 && defaults.contains(&self.folded().as_str()) {
            self.take()?;
            return Some(SettingChange::Reset { name });
        }
        Some(SettingChange::Set { name, value: self.values()? })
    }

    fn authorization(&mut self, changes: &mut Vec<SettingChange>) -> Option<()> {
        self.skip(1)?;
        changes.push(self.value_or_default("session_authorization", &["default"])?);
        self.end()
    }

    /// `SET SESSION CHARACTERISTICS AS TRANSACTION ...`: the defaults of the transactions to come.
    fn characteristics(&mut self, changes: &mut Vec<SettingChange>) -> Option<()> {
        self.skip(1)?;
        self.word("as")?;
        self.word("transaction")?;
        loop {
            let (name, value) = self.transaction_mode()?;
            changes.push(SettingChange::Set { name: name.to_owned(), value: literal(value) });
            match self.tokens.first() {
                None => return Some(()),
                Some(comma) if comma.kind == Kind::Comma => {
                    self.take()?;
                }
                // The comma is optional.
                Some(_) => {}
            }
        }
    }

    fn transaction_mode(&mut self) -> Option<(&'static str, &'static str)> {
        const ISOLATION: &str = "default_transaction_isolation";
        const READ_ONLY: &str = "default_transaction_read_only";
        const DEFERRABLE: &str = "default_transaction_deferrable";
        let words: Vec<String> = (0..4).map(|at| self.folded_at(at)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (length, mode) = match words[..] {
            ["isolation", "level", "serializable", ..] => (3, (ISOLATION, "serializable")),
            ["isolation", "level", "repeatable", "read"] => (4, (ISOLATION, "repeatable read")),
            ["isolation", "level", "read", "committed"] => (4, (ISOLATION, "read committed")),
            ["isolation", "level", "read", "uncommitted"] => (4, (ISOLATION, "read uncommitted")),
            ["read", "only", ..] => (2, (READ_ONLY, "on")),
            ["read", "write", ..] => (2, (READ_ONLY, "off")),
            ["deferrable", ..] => (1, (DEFERRABLE, "on")),
            ["not", "deferrable", ..] => (2, (DEFERRABLE, "off")),
            _ => return None,
        };
        self.skip(length)?;
        Some(mode)
    }

    fn reset(&mut self) -> Option<SettingChange> {
        self.take()?;
        let reset = |name: &str| SettingChange::Reset { name: name.to_owned() };
        let change = match (self.folded().as_str(), self.folded_at(1).as_str()) {
            ("all", "") => {
                self.skip(1)?;
                SettingChange::ResetAll
            }
            ("time", "zone") => {
                self.skip(2)?;
                reset("timezone")
            }
            ("session", "authorization") => {
                self.skip(2)?;
                reset("session_authorization")
            }
            ("transaction", "isolation") => return None,
            _ => reset(&self.setting_name()?),
        };
        self.end()?;
        Some(change)
    }

    /// A setting's name: PostgreSQL compares them without regard to case, quoted or not.
    fn setting_name(&mut self) -> Option<String> {
        let mut name = self.name_part()?;
        while self.tokens.first().is_some_and(|token| token.kind == Kind::Dot) {
            self.take()?;
            name.push('.');
            name.push_str(&self.name_part()?);
        }
        Some(name)
    }

    fn name_part(&mut self) -> Option<String> {
        let token = self.take()?;
        let name = words::name(token, self.text)?.to_ascii_lowercase();
        // A quoted name may be the whole of one with a dot in it.
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'));
        let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        let reserved = words::role(name.as_bytes()) == words::Role::Reserved;
        (plain && starts && !reserved).then_some(name)
    }

    fn values(&mut self) -> Option<String> {
        let mut values = self.value()?;
        while self.tokens.first().is_some_and(|token| token.kind == Kind::Comma) {
            self.take()?;
            values.push_str(", ");
            values.push_str(&self.value()?);
        }
        Some(values)
    }

    /// One value: a string, a number or a word, written so that it means the same anywhere.
    fn value(&mut self) -> Option<String> {
        let token = self.take()?;
        let bytes = token.bytes(self.text);
        match token.kind {
            Kind::Operator if matches!(bytes, b"+" | b"-") => {
                let number = self.take()?;
                (number.kind == Kind::Number).then(|| self.verbatim(bytes, number))?
            }
            Kind::Number => self.verbatim(b"", token),
            Kind::Word => {
                let word = words::name(token, self.text)?;
                let allowed = matches!(word.as_str(), "on" | "true" | "false");
                (allowed || words::role(word.as_bytes()) != words::Role::Reserved).then(|| literal(&word))
            }
            Kind::QuotedName => words::name(token, self.text).map(|name| literal(&name)),
            kind if kind.is_string() => string_value(token, self.text).map(|value| literal(&value)),
            _ => None,
        }
    }

    fn verbatim(&self, sign: &[u8], number: Token) -> Option<String> {
        let digits = std::str::from_utf8(number.bytes(self.text)).ok()?;
        Some(format!("{}{digits}", std::str::from_utf8(sign).ok()?))
    }

    fn take(&mut self) -> Option<Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(*first)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.tokens = self.tokens.get(count..)?;
        Some(())
    }

    fn word(&mut self, expected: &str) -> Option<()> {
        (self.folded() == expected).then_some(())?;
        self.skip(1)
    }

    fn end(&self) -> Option<()> {
        self.tokens.is_empty().then_some(())
    }

    fn folded(&self) -> String {
        self.folded_at(0)
    }

    /// The unquoted word that stands there, folded; empty if none does.
    fn folded_at(&self, at: usize) -> String {
        let word = self.tokens.get(at).filter(|token| token.kind == Kind::Word);
        word.and_then(|token| words::name(*token, self.text)).unwrap_or_default()
    }

    fn is_equals(&self, at: usize) -> bool {
        let token = self.tokens.get(at);
        token.is_some_and(|token| token.kind == Kind::Operator && token.bytes(self.text) == b"=")
    }
}

/// What a string literal means; `None` for those that go over several lines, and for escapes that are not a plain
/// character.
fn string_value(token: Token, text: &[u8]) -> Option<String> {
    let literal = std::str::from_utf8(token.bytes(text)).ok()?;
    match token.kind {
        Kind::String => {
            let inner = literal.strip_prefix(['n', 'N']).unwrap_or(literal);
            one_line(inner.strip_prefix('\'')?.strip_suffix('\'')?)
        }
        Kind::EscapeString => {
            let inner = literal[1..].strip_prefix('\'')?.strip_suffix('\'')?;
            unescaped(inner)
        }
        Kind::DollarString => {
            let tag = literal[1..].find('$')? + 2;
            Some(literal.get(tag..literal.len() - tag)?.to_owned())
        }
        _ => None,
    }
}

/// The inside of a plain string with its quotes undoubled, if no quote in it stands alone: one that does ends a line
/// that goes on in the next.
fn one_line(inner: &str) -> Option<String> {
    let undoubled = inner.replace("''", "\u{0}");
    (!undoubled.contains('\'') && !inner.contains('\u{0}')).then(|| undoubled.replace('\u{0}', "'"))
}

fn unescaped(inner: &str) -> Option<String> {
    let mut value = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(character) = chars.next() {
        match character {
            '\'' => {
                chars.next().filter(|next| *next == '\'')?;
                value.push('\'');
            }
            '\\' => value.push(match chars.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'x' | 'u' | 'U' | '0'..='7' => return None,
                other => other,
            }),
            other => value.push(other),
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(name: &str, value: &str) -> SettingChange {
        SettingChange::Set { name: name.to_owned(), value: value.to_owned() }
    }

    fn reset(name: &str) -> SettingChange {
        SettingChange::Reset { name: name.to_owned() }
    }

    fn changes(text: &str) -> Option<Vec<SettingChange>> {
        setting_changes(text.as_bytes())
    }

    #[test]
    fn one_listen_or_unlisten_is_read_to_the_letter() {
        let listen = |name: &str| Some(Listening::Listen(name.to_owned()));
        let unlisten = |name: &str| Some(Listening::Unlisten(name.to_owned()));
        let cases = [
            ("LISTEN News", listen("news")),
            (" listen /* to */ \"The \"\"News\";; ", listen("The \"News")),
            ("UNLISTEN news", unlisten("news")),
            ("unlisten *;", Some(Listening::UnlistenAll)),
            ("unlisten \"*\"", unlisten("*")),
            ("LISTEN \"listen\"", listen("listen")),
            ("LISTEN *", None),
            ("LISTEN a, b", None),
            ("LISTEN a; LISTEN b", None),
            ("LISTEN 'a'", None),
            ("LISTEN \"\"", None),
            ("LISTEN a.b", None),
            ("LISTEN select", None),
            ("LISTEN", None),
            ("NOTIFY a", None),
        ];
        for (text, expected) in cases {
            assert_eq!(listening(text.as_bytes()), expected, "{text}");
        }
        let long = "x".repeat(words::NAME_BYTES);
        assert_eq!(listening(format!("LISTEN {long}").as_bytes()), listen(&long));
        assert_eq!(listening(format!("LISTEN {long}x").as_bytes()), None);
    }

    #[test]
    fn unlistens_are_found_among_other_statements() {
        let routine = b"SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;";
        assert_eq!(unlistened(routine), [Listening::UnlistenAll]);
        assert_eq!(unlistened(b"UNLISTEN a; LISTEN b"), [Listening::Unlisten("a".to_owned())]);
        assert_eq!(unlistened(b"SELECT 'UNLISTEN *'"), []);
    }

    #[test]
    fn what_ends_with_its_transaction_is_no_setting_of_the_session() {
        for text in [
            "SET transaction_isolation = 'serializable'",
            "SET SESSION Transaction_Read_Only TO on; SELECT 1",
            "BEGIN; SET transaction_deferrable = on",
            "RESET transaction_isolation",
        ] {
            assert_eq!(changes(text), Some(Vec::new()), "{text}");
        }
        let names = set_configs(b"SELECT set_config('transaction_isolation', 'serializable', false)");
        assert_eq!(names, Some(Vec::new()));
    }

    #[test]
    fn what_is_too_long_to_be_looked_at_may_last() {
        let call = |value: &str| format!("SELECT set_config('work_mem', {value}, true)");
        assert_eq!(set_configs(call("'1' || '2'").as_bytes()), Some(Vec::new()));
        let long = call(&"'1' || ".repeat(MAX_ARGUMENTS));
        assert_eq!(set_configs(long.as_bytes()), Some(vec!["work_mem".to_owned()]));
    }

    #[test]
    fn a_database_that_must_be_without_sessions_is_read_from_the_text() {
        for (text, expected) in [
            ("DROP DATABASE one", Some("one")),
            ("/* test */ drop database if exists \"Two words\" WITH (FORCE);", Some("Two words")),
            ("DROP DATABASE One", Some("one")),
            ("CREATE DATABASE copy", Some("template1")),
            ("CREATE DATABASE copy OWNER app TEMPLATE = \"Golden\" ENCODING 'UTF8'", Some("Golden")),
            ("CREATE DATABASE copy WITH TEMPLATE golden", Some("golden")),
            ("ALTER DATABASE one RENAME TO two", Some("one")),
            ("ALTER DATABASE one SET TABLESPACE fast", Some("one")),
            ("ALTER DATABASE one SET work_mem TO '8MB'", None),
            ("ALTER DATABASE one OWNER TO app", None),
            ("DROP TABLE database", None),
            ("DROP DATABASE", None),
            ("CREATE DATABASE copy TEMPLATE", None),
            ("DROP DATABASE one; SELECT 1", None),
        ] {
            assert_eq!(vacated(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn settings_are_read_to_the_letter() {
        let cases: &[(&str, SettingChange)] = &[
            ("SET work_mem = '64MB'", set("work_mem", "'64MB'")),
            ("set SESSION Work_Mem TO 65536;", set("work_mem", "65536")),
            ("SET extra_float_digits TO -1", set("extra_float_digits", "-1")),
            (
                "SET search_path TO Public, \"My Schema\", 'it''s'",
                set("search_path", "'public', 'My Schema', 'it''s'"),
            ),
            ("SET enable_seqscan TO ON", set("enable_seqscan", "'on'")),
            ("SET myapp.\"Uid\" = E'a\\'b\\\\c'", set("myapp.uid", "E'a''b\\\\c'")),
            ("SET a.b = $x$it's$x$", set("a.b", "'it''s'")),
            ("SET a.b = 'back\\slash'", set("a.b", "E'back\\\\slash'")),
            ("SET statement_timeout TO DEFAULT", reset("statement_timeout")),
            ("SET TIME ZONE 'Europe/Paris'", set("timezone", "'Europe/Paris'")),
            ("SET TIME ZONE -7", set("timezone", "-7")),
            ("SET TIME ZONE LOCAL", reset("timezone")),
            ("SET SESSION TIME ZONE DEFAULT", reset("timezone")),
            ("SET timezone = 'UTC'", set("timezone", "'UTC'")),
            ("SET NAMES 'UTF8'", set("client_encoding", "'UTF8'")),
            ("SET NAMES", reset("client_encoding")),
            ("SET ROLE admin", set("role", "'admin'")),
            ("SET ROLE NONE", set("role", "'none'")),
            ("SET ROLE TO admin", set("role", "'admin'")),
            ("SET SCHEMA 'x'", set("search_path", "'x'")),
            ("SET SESSION AUTHORIZATION \"Bob\"", set("session_authorization", "'Bob'")),
            ("SET SESSION AUTHORIZATION DEFAULT", reset("session_authorization")),
            ("SET XML OPTION DOCUMENT", set("xmloption", "'document'")),
            ("RESET Work_Mem", reset("work_mem")),
            ("RESET ROLE", reset("role")),
            ("RESET TIME ZONE", reset("timezone")),
            ("RESET SESSION AUTHORIZATION", reset("session_authorization")),
            ("RESET ALL", SettingChange::ResetAll),
        ];
        for (text, expected) in cases {
            assert_eq!(changes(text), Some(vec![expected.clone()]), "{text}");
        }
    }

    #[test]
    fn transaction_defaults_are_settings() {
        assert_eq!(
            changes(
                "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY NOT DEFERRABLE"
            ),
            Some(vec![
                set("default_transaction_isolation", "'repeatable read'"),
                set("default_transaction_read_only", "'on'"),
                set("default_transaction_deferrable", "'off'"),
            ])
        );
    }

    #[test]
    fn several_statements_are_read_in_order() {
        assert_eq!(
            changes("SET a = 1; SELECT pg_advisory_unlock_all(); RESET ALL; SET LOCAL b = 2; SET c TO 'x';"),
            Some(vec![set("a", "1"), SettingChange::ResetAll, set("c", "'x'")])
        );
        assert_eq!(changes("SELECT 1"), Some(vec![]));
    }

    #[test]
    fn what_is_not_understood_is_said_so() {
        for text in [
            "SET a = 1; ROLLBACK",
            "BEGIN; SET a = 1",
            "SET a",
            "SET a =",
            "SET a = 1 2",
            "SET a = (1)",
            "SET a FROM CURRENT",
            "SET a = $1",
            "SET a = B'1'",
            "SET a = U&'x'",
            "SET a = 'x'\n'y'",
            "SET a = E'\\x41'",
            "SET a = 'x",
            "SET a = DEFAULT, 1",
            "SET a = select",
            "SET \"a b\" = 1",
            "SET select = 1",
            "SET seed = 0.5",
            "SET TIME ZONE INTERVAL '1' HOUR TO MINUTE",
            "SET SESSION CHARACTERISTICS AS TRANSACTION SNAPSHOT 'x'",
            "RESET",
            "RESET ALL work_mem",
            "RESET TRANSACTION ISOLATION LEVEL",
            "DISCARD ALL; SET a = 1",
        ] {
            assert_eq!(changes(text), None, "{text}");
        }
    }

    #[test]
    fn deallocate_names_one_or_all() {
        let name = |name: &str| Some(Deallocated::Name(name.to_owned()));
        let cases = [
            ("DEALLOCATE Foo", name("foo")),
            ("DEALLOCATE PREPARE \"Foo\";", name("Foo")),
            ("deallocate prepare", name("prepare")),
            ("DEALLOCATE ALL", Some(Deallocated::All)),
            ("DEALLOCATE PREPARE ALL ; ;", Some(Deallocated::All)),
            ("DEALLOCATE \"all\"", name("all")),
            ("DEALLOCATE a; SELECT 1", None),
            ("DEALLOCATE", None),
            ("DEALLOCATE a b", None),
            ("SELECT 1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(deallocated(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn execute_names_statements() {
        let names = |text: &str| executed(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(names("EXECUTE a(1); explain (analyze) execute /* x */ \"B\""), ["a", "B"]);
        assert_eq!(names("CREATE TABLE t AS EXECUTE Q WITH DATA"), ["q"]);
        assert_eq!(names("SELECT 'execute a', \"execute\" b -- execute c"), Vec::<String>::new());
        assert_eq!(names("execute"), Vec::<String>::new());
    }

    #[test]
    fn a_plain_set_local_is_of_an_ordinary_setting_alone() {
        for text in [
            "SET LOCAL work_mem = '1MB'",
            "set local /* x */ search_path to a, b;",
            "SET LOCAL TIME ZONE 'UTC'",
        ] {
            assert!(is_plain_set_local(text.as_bytes()), "{text}");
        }
        for text in [
            "SET work_mem = '1MB'",
            "SET LOCAL ROLE bob",
            "SET LOCAL SESSION AUTHORIZATION bob",
            "SET LOCAL transaction_isolation = 'serializable'",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SET LOCAL work_mem = '1MB'; SELECT 1",
            "SET LOCAL standard_conforming_strings = off",
            "SET LOCAL Client_Encoding TO 'SJIS'",
            "SET LOCAL NAMES 'SJIS'",
            "SET LOCAL",
        ] {
            assert!(!is_plain_set_local(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_begin_is_read_to_the_letter() {
        let mode = |text: &str| begin(text.as_bytes()).map(|begin| begin.mode);
        for text in
            ["BEGIN", "begin work;", "BEGIN ISOLATION LEVEL READ COMMITTED", "/* a */ BEGIN DEFERRABLE"]
        {
            assert_eq!(mode(text), Some(TransactionMode::Plain), "{text}");
        }
        for text in [
            "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE",
            "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
            "BEGIN READ WRITE",
        ] {
            assert_eq!(mode(text), Some(TransactionMode::Whole), "{text}");
        }
        for text in [
            "BEGIN READ ONLY",
            "START TRANSACTION READ ONLY ISOLATION LEVEL READ COMMITTED",
            "begin transaction isolation level repeatable read, read only",
        ] {
            assert_eq!(mode(text), Some(TransactionMode::ReadOnly), "{text}");
        }
        for text in [
            "BEGIN x",
            "BEGIN READ",
            "BEGIN READ ONLY READ WRITE",
            "BEGIN,",
            "BEGIN READ ONLY,",
            "START",
            "BEGIN; SELECT 1",
            "BEGIN 'x'",
            "COMMIT",
            "",
        ] {
            assert_eq!(mode(text), None, "{text}");
        }
        for (text, is_end) in [
            ("commit;", true),
            ("ROLLBACK WORK", true),
            ("end and no chain", true),
            ("COMMIT AND CHAIN", false),
            ("ROLLBACK TO a", false),
            ("COMMIT PREPARED 'x'", false),
            ("COMMIT; SELECT 1", false),
        ] {
            assert_eq!(is_plain_end(text.as_bytes()), is_end, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_value_comes_back_as_it_was(value in "[^\0]{0,40}") {
            let text = format!("SET a TO {}", literal(&value));
            let first = changes(&text).and_then(|mut changes| changes.pop());
            prop_assert_eq!(first, Some(set("a", &literal(&value))));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = setting_changes(&text);
            let _ = deallocated(&text);
        }

        #[test]
        fn any_words_are_read_without_a_panic(text in "(SET|RESET|SESSION|TIME|ZONE|TO|=|a|'x'|E'\\\\|,|\\.|;| |DEALLOCATE|-|1){0,20}") {
            let _ = setting_changes(text.as_bytes());
            let _ = deallocated(text.as_bytes());
        }
    }
}
