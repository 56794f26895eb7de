//! The first look at a text: how many statements, with which verbs, what they leave behind, and what in them is a write
//! beyond doubt.
//!
//! One pass over the tokens with a memory of a few, so that a text of any length is read; what it says of effects holds
//! also for texts that cannot be proven or parsed. It takes a write for a write, never anything for a read: that is
//! [`prove`](super::prove)'s work.

use super::comment::names_key;
use super::fingerprint::{Hint, hint};
use super::lexer::{Kind, Lexer, Token};
use super::{Access, Catalog, Effects, Reason, TransactionVerb, words};

/// What the first look found.
#[derive(Debug, Clone, Copy)]
pub struct Outline {
    /// Statements, empty ones left out.
    pub statements: u32,
    /// What they leave behind.
    pub effects: Effects,
    /// The worst that is certain already.
    pub judgement: Option<Judgement>,
    /// The transaction command, if the text is exactly one.
    pub transaction: Option<TransactionVerb>,
    /// A hint in a comment; if there are several, the primary's.
    pub hint: Option<Hint>,
    /// How deep parentheses and brackets nest.
    pub depth: u32,
    /// Whether a comment names a causality key.
    pub keyed: bool,
}

/// An access and why.
#[derive(Debug, Clone, Copy)]
pub struct Judgement {
    /// The access.
    pub access: Access,
    /// Why.
    pub reason: Reason,
    /// The token that decided.
    pub token: Token,
}

/// Takes the first look at `text`. Of the catalog it asks only what functions leave behind.
pub fn outline(text: &[u8], catalog: &dyn Catalog) -> Outline {
    let mut scan = Scan::new(text, catalog);
    for token in Lexer::new(text) {
        match token.kind {
            Kind::Space => {}
            Kind::Comment => scan.comment(token),
            _ => scan.token(token),
        }
    }
    scan.end_statement();
    scan.finish()
}

/// How many tokens of a statement's start are kept: enough for every command that is told apart by more than its verb.
const HEAD: usize = 6;

/// How many tokens before the current one are kept.
const MEMORY: usize = 4;

struct Scan<'a> {
    text: &'a [u8],
    catalog: &'a dyn Catalog,
    out: Outline,
    /// The first tokens of the current statement.
    head: [Option<Token>; HEAD],
    seen: usize,
    /// The last tokens, the newest first.
    past: [Option<Token>; MEMORY],
    nesting: u32,
    /// How many BEGIN and CASE are open in the body of a function after BEGIN ATOMIC, where `;` ends no statement.
    body: u32,
    /// A cursor WITH HOLD is declared.
    holds: bool,
    /// What the functions leave behind that the current statement calls.
    called: Effects,
    /// An EXPLAIN runs what it explains.
    runs: bool,
    last_transaction: Option<TransactionVerb>,
}

impl<'a> Scan<'a> {
    fn new(text: &'a [u8], catalog: &'a dyn Catalog) -> Scan<'a> {
        let out = Outline {
            statements: 0,
            effects: Effects::NONE,
            judgement: None,
            transaction: None,
            hint: None,
            depth: 0,
            keyed: false,
        };
        Scan {
            text,
            catalog,
            out,
            head: [None; HEAD],
            seen: 0,
            past: [None; MEMORY],
            nesting: 0,
            body: 0,
            holds: false,
            called: Effects::NONE,
            runs: false,
            last_transaction: None,
        }
    }

    fn comment(&mut self, token: Token) {
        self.out.keyed |= names_key(token.bytes(self.text));
        match hint(token.bytes(self.text)) {
            Some(Hint::Primary) => self.out.hint = Some(Hint::Primary),
            Some(Hint::Replica) if self.out.hint.is_none() => self.out.hint = Some(Hint::Replica),
            _ => {}
        }
    }

    fn token(&mut self, token: Token) {
        match token.kind {
            Kind::Semicolon if self.nesting == 0 && self.body == 0 => return self.end_statement(),
            Kind::LeftParen | Kind::LeftBracket => {
                self.nesting += 1;
                self.out.depth = self.out.depth.max(self.nesting);
            }
            Kind::RightParen | Kind::RightBracket => self.nesting = self.nesting.saturating_sub(1),
            Kind::Error => self.judge(Access::Unsure, Reason::Unrecognised, token),
            _ => {}
        }
        if self.seen < HEAD {
            self.head[self.seen] = Some(token);
        }
        self.seen += 1;
        match token.kind {
            Kind::LeftParen => self.call(),
            kind if kind.is_name() => self.name(token),
            kind if kind.is_string() && self.copies() && self.before("to") => self.write(token),
            _ => {}
        }
        let [first, second, third, _] = self.past;
        self.past = [Some(token), first, second, third];
    }

    /// `(`: what stands before it may be a function.
    fn call(&mut self) {
        let name = match self.past {
            [Some(name), ..] if name.kind.is_name() => words::name(name, self.text).map(|text| (name, text)),
            [Some(escape), Some(uescape), Some(name), _]
                if escape.kind == Kind::String && self.is(Some(uescape), "uescape") =>
            {
                words::name_with_escape(name, escape, self.text).map(|text| (name, text))
            }
            _ => None,
        };
        if let Some((token, name)) = name {
            self.function(token, &name);
            if words::may_be_called(&name)
                && words::writing_function(&name).is_none()
                && !self.is(self.past[1], "into")
            {
                self.called = self.called.with(words::leaves(&name, self.catalog));
            }
        }
    }

    fn function(&mut self, token: Token, name: &str) {
        if let Some(effects) = words::writing_function(name) {
            self.add(effects);
            self.judge(Access::Write, Reason::HarmfulFunction, token);
        } else {
            self.called = self.called.with(self.catalog.leaves(name).without(Effects::UNKNOWN));
        }
    }

    fn name(&mut self, token: Token) {
        let after_dot = self.past[0].is_some_and(|past| past.kind == Kind::Dot);
        if after_dot {
            // `('s'::regclass).nextval` is a call, too.
            if let Some(name) = words::name(token, self.text) {
                self.function(token, &name);
            }
        } else if token.kind != Kind::Word {
            self.temporary_schema(token);
        } else if !self.before("as") {
            self.word(token);
        } else if self.verb_is("create") && self.is(Some(token), "execute") {
            self.add(Effects::PREPARED_NAME);
        }
    }

    /// A word that is neither a label nor part of a dotted name.
    fn word(&mut self, token: Token) {
        match words::name(token, self.text).as_deref().unwrap_or_default() {
            "into" if self.is_query() && !self.before("insert") && !self.before("merge") => {
                self.add(Effects::DDL);
                self.judge(Access::Write, Reason::SelectInto, token);
            }
            "update" if self.before("for") || self.before_all(&["key", "no", "for"]) => self.lock(token),
            "share" if self.before("for") || self.before_all(&["key", "for"]) => self.lock(token),
            "insert" | "update" | "delete" | "merge" if self.is_modifying_cte() => {
                self.judge(Access::Write, Reason::ModifyingCte, token);
            }
            "temp" | "temporary" => self.temporary(),
            "from" if self.copies() => self.write(token),
            "program" if self.copies() && self.before("to") => self.write(token),
            "analyze" | "analyse" if self.verb_is("explain") => self.runs = true,
            "insert" | "update" | "delete" | "merge" if self.runs && self.nesting == 0 => self.write(token),
            "hold" if self.before("with") => self.holds = true,
            "atomic" if self.before("begin") && self.verb_is("create") => self.body = 1,
            "case" | "begin" if self.body > 0 => self.body += 1,
            "end" if self.body > 0 => self.body -= 1,
            "execute" if self.verb_is("explain") => self.add(Effects::PREPARED_NAME),
            "create" if self.verb_is("explain") => self.add(Effects::DDL),
            "database" if self.before("drop") || self.before("alter") || self.before("create") => {
                self.add(Effects::VACATES);
            }
            name if name.starts_with("pg_temp") => self.temporary_schema(token),
            _ => {}
        }
    }

    /// Whether a verb that stands here modifies data inside a query: `AS (INSERT`, or `) DELETE` behind the CTEs.
    fn is_modifying_cte(&self) -> bool {
        let after = |kind| self.past[0].is_some_and(|past| past.kind == kind);
        self.is_query() && (after(Kind::LeftParen) || after(Kind::RightParen) && !self.verb_is("explain"))
    }

    /// Whether the words of a COPY stand here, not those of the query in its parentheses.
    fn copies(&self) -> bool {
        self.verb_is("copy") && self.nesting == 0
    }

    fn lock(&mut self, token: Token) {
        if self.is_query() || self.verb_is("declare") {
            self.judge(Access::Write, Reason::LockingClause, token);
        }
    }

    /// TEMP: of `CREATE [OR REPLACE] [LOCAL] TEMP` and `INTO [LOCAL] TEMP`, but not of `INSERT INTO temp`.
    fn temporary(&mut self) {
        let skipped = usize::from(self.before("local") || self.before("global"));
        let before = |word: &str| self.is(self.past[skipped], word);
        let creates = before("create") || before("replace");
        let into = before("into")
            && !["insert", "merge"]
                .iter()
                .any(|verb| self.is(self.past.get(skipped + 1).copied().flatten(), verb));
        if creates || into {
            self.add(Effects::TEMPORARY);
        }
    }

    /// `pg_temp`, `pg_temp_3`: a name that only the own session's temporary objects have.
    fn temporary_schema(&mut self, token: Token) {
        let Some(name) = words::name(token, self.text) else { return };
        if name == "pg_temp" || name.starts_with("pg_temp_") {
            self.add(Effects::TEMPORARY);
        }
    }

    fn end_statement(&mut self) {
        if self.seen > 0 {
            self.out.statements = self.out.statements.saturating_add(1);
            self.command();
            // The names in DDL are mostly new ones, not calls.
            let is_ddl = self.out.effects.any(Effects::DDL);
            self.add(if is_ddl { self.called.without(Effects::UNKNOWN) } else { self.called });
        }
        self.head = [None; HEAD];
        self.past = [None; MEMORY];
        self.seen = 0;
        self.nesting = 0;
        self.body = 0;
        self.holds = false;
        self.runs = false;
        self.called = Effects::NONE;
    }

    /// Judges the statement that just ended by its verb.
    fn command(&mut self) {
        let Some(first) = self.head[0] else { return };
        let verb = self.folded(first);
        match verb.as_str() {
            _ if is_query_verb(first, &verb) => {}
            "begin" | "start" => {
                self.add(Effects::BEGINS);
                self.transaction(TransactionVerb::Begin);
            }
            "commit" | "end" | "rollback" | "abort" if self.head_is(1, "prepared") => self.write(first),
            "commit" | "end" => {
                self.ends(Effects::COMMITS);
                self.transaction(TransactionVerb::Commit);
            }
            "rollback" | "abort" if self.head_is(1, "to") || self.head_is(2, "to") => {
                self.transaction(TransactionVerb::Savepoint);
            }
            "rollback" | "abort" => {
                self.ends(Effects::ROLLS_BACK);
                self.transaction(TransactionVerb::Rollback);
            }
            "savepoint" | "release" => self.transaction(TransactionVerb::Savepoint),
            "prepare"
                if self.head_is(1, "transaction") && self.head[2].is_some_and(|id| id.kind.is_string()) =>
            {
                self.add(Effects::COMMITS);
                self.transaction(TransactionVerb::PrepareTransaction);
                self.judge(Access::Write, Reason::TransactionCommand, first);
            }
            "prepare" => self.session(first, Effects::PREPARE),
            "execute" => self.session(first, Effects::PREPARED_NAME),
            "deallocate" => self.session(first, self.deallocates()),
            "discard" => {
                let all = self.head_is(1, "all");
                self.session(first, if all { Effects::DISCARD_ALL } else { Effects::ENDS_STATE });
            }
            "set" => self.session(first, self.sets()),
            "reset" => self.session(first, Effects::SETTINGS),
            "listen" => self.session(first, Effects::LISTEN),
            "load" => self.session(first, Effects::BACKEND_STATE),
            "declare" if self.holds => self.session(first, Effects::HOLD_CURSOR),
            "unlisten" => self.session(first, Effects::UNLISTEN.with(Effects::ENDS_STATE)),
            "close" => self.session(first, Effects::ENDS_STATE),
            "declare" | "fetch" | "move" => self.session(first, Effects::NONE),
            "do" => {
                self.add(Effects::BLOCK);
                self.write(first);
            }
            "call" => {
                self.add(Effects::ENDS_STATE);
                self.write(first);
            }
            "drop" => {
                self.add(Effects::DDL.with(Effects::ENDS_STATE));
                self.write(first);
            }
            "create" | "alter" | "import" | "grant" | "revoke" | "reassign" => {
                self.add(Effects::DDL);
                self.write(first);
            }
            "insert" | "update" | "delete" | "merge" | "truncate" | "comment" | "security" | "refresh"
            | "reindex" | "cluster" | "vacuum" | "analyze" | "analyse" | "lock" | "notify" | "checkpoint" => {
                self.write(first)
            }
            _ => self.judge(Access::Unsure, Reason::Unrecognised, first),
        }
    }

    fn deallocates(&self) -> Effects {
        let name = 1 + usize::from(self.head_is(1, "prepare") && self.head[2].is_some());
        if self.head_is(name, "all") { Effects::DEALLOCATE_ALL } else { Effects::PREPARED_NAME }
    }

    fn sets(&self) -> Effects {
        match self.head[1].map(|token| self.folded(token)).as_deref() {
            Some("local" | "transaction" | "constraints") => Effects::LOCAL_SETTINGS,
            Some("seed") => Effects::SETTINGS.with(Effects::BACKEND_STATE),
            Some("session") if self.head_is(2, "seed") => Effects::SETTINGS.with(Effects::BACKEND_STATE),
            _ => Effects::SETTINGS,
        }
    }

    fn transaction(&mut self, verb: TransactionVerb) {
        self.last_transaction = Some(verb);
        if let Some(first) = self.head[0] {
            self.judge(Access::Unsure, Reason::TransactionCommand, first);
        }
    }

    /// The end of a transaction block; AND CHAIN begins the next one.
    fn ends(&mut self, how: Effects) {
        let has = |word: &str| (1..HEAD).any(|index| self.head_is(index, word));
        let chains = has("chain") && !has("no");
        self.add(how.with(Effects::ENDS_STATE));
        self.add(if chains { Effects::BEGINS } else { Effects::NONE });
    }

    fn session(&mut self, token: Token, effects: Effects) {
        self.add(effects);
        self.judge(Access::Unsure, Reason::SessionCommand, token);
    }

    fn write(&mut self, token: Token) {
        self.judge(Access::Write, Reason::WriteCommand, token);
    }

    fn add(&mut self, effects: Effects) {
        self.out.effects = self.out.effects.with(effects);
    }

    /// Keeps the worst; of equals the first.
    fn judge(&mut self, access: Access, reason: Reason, token: Token) {
        if self.out.judgement.is_none_or(|kept| kept.access < access) {
            self.out.judgement = Some(Judgement { access, reason, token });
        }
    }

    fn finish(mut self) -> Outline {
        if self.out.statements == 1 {
            self.out.transaction = self.last_transaction;
        }
        self.out
    }

    fn folded(&self, token: Token) -> String {
        let is_word = token.kind == Kind::Word;
        if is_word { words::name(token, self.text).unwrap_or_default() } else { String::new() }
    }

    fn is(&self, token: Option<Token>, word: &str) -> bool {
        token.is_some_and(|token| {
            token.kind == Kind::Word && token.bytes(self.text).eq_ignore_ascii_case(word.as_bytes())
        })
    }

    fn before(&self, word: &str) -> bool {
        self.is(self.past[0], word)
    }

    /// Whether the last words were these, the newest first.
    fn before_all(&self, expected: &[&str]) -> bool {
        expected.iter().zip(self.past).all(|(word, token)| self.is(token, word))
    }

    fn head_is(&self, index: usize, word: &str) -> bool {
        self.is(self.head[index], word)
    }

    fn verb_is(&self, word: &str) -> bool {
        self.head_is(0, word)
    }

    fn is_query(&self) -> bool {
        self.head[0].is_some_and(|first| is_query_verb(first, &self.folded(first)))
    }
}

/// Whether a statement that starts so may be proven to read.
fn is_query_verb(first: Token, verb: &str) -> bool {
    first.kind == Kind::LeftParen
        || matches!(verb, "select" | "values" | "table" | "with" | "show" | "explain" | "copy")
}
