//! The proof that a text only reads, with the same answer on every server that has the same data.
//!
//! A recursive descent over PostgreSQL's grammar of queries, exact where it matters and loose where it does not: it
//! knows where relations stand (FROM, JOIN, TABLE, COPY), where types stand (`::`, CAST, typed constants, column
//! definitions) and every way to call something (`f(...)`, `x.f`, operators and the key words that stand for them); an
//! expression between those is a soup of tokens, each of which must be one that can do nothing. A token in a place that
//! is not foreseen ends the proof: *what is not understood is not a read*.
//!
//! The grammar accepted is a superset of PostgreSQL's, so a text may be proven that PostgreSQL refuses; that does no
//! harm. What must never happen is that PostgreSQL's reading of an accepted text calls or names something that this one
//! took for noise. Hence each word that is noise is one that PostgreSQL reserves, or one that no user-defined function
//! bears.

use super::lexer::{Kind, Token, tokens};
use super::outline::Judgement;
use super::words::{self, Role};
use super::{Access, Catalog, Reason, Verdict};

/// Proves that all statements of `text` read. The caller has made sure that it lexes and does not nest too deep.
///
/// # Errors
///
/// The first thing that stood against it.
pub fn prove(text: &[u8], catalog: &dyn Catalog) -> Result<(), Judgement> {
    let mut proof = Proof::new(text, catalog);
    while proof.kind(0).is_some() {
        if proof.kind(0) != Some(Kind::Semicolon) {
            proof.statement()?;
        }
        if proof.kind(0).is_some() {
            proof.expect(Kind::Semicolon)?;
        }
    }
    Ok(())
}

type Step = Result<(), Judgement>;

struct Proof<'a> {
    text: &'a [u8],
    /// The text with ASCII letters folded, to read words from.
    folded: Vec<u8>,
    tokens: Vec<Token>,
    at: usize,
    catalog: &'a dyn Catalog,
    /// The CTEs that can be seen here, the innermost last.
    ctes: Vec<String>,
}

/// Where an expression stands: it decides which words may be in it and which end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A clause of a query: a list that the next clause ends.
    Clause,
    /// GROUP BY, where ROLLUP and CUBE are no functions.
    GroupBy,
    /// ON of a join: the next join ends it, too.
    JoinCondition,
    /// Parentheses: arguments, a window, a plain parenthesis.
    Parens,
    /// The parentheses of SUBSTRING, TRIM, EXTRACT ...: FROM and FOR are separators.
    Separated,
    /// The parentheses of FILTER, with a WHERE in them.
    Filter,
    /// The parentheses of CAST, up to AS.
    Cast,
    /// The parentheses of XMLFOREST and XMLATTRIBUTES, with AS and labels.
    Labelled,
    /// `[...]`
    Brackets,
}

impl Place {
    fn is_enclosed(self) -> bool {
        !matches!(self, Place::Clause | Place::GroupBy | Place::JoinCondition)
    }
}

/// What stood in the parentheses of a FROM clause.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Query,
    Tables,
}

/// Whether an expression goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Ends,
}

/// What precedes a column list: decides nothing but whether types may be in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Columns {
    Names,
    Definitions,
}

// Statements.
impl<'a> Proof<'a> {
    fn new(text: &'a [u8], catalog: &'a dyn Catalog) -> Proof<'a> {
        Proof {
            text,
            folded: text.to_ascii_lowercase(),
            tokens: tokens(text).collect(),
            at: 0,
            catalog,
            ctes: Vec::new(),
        }
    }

    fn statement(&mut self) -> Step {
        match self.word(0) {
            b"show" => self.show(),
            b"explain" => self.explain(),
            b"copy" => self.copy(),
            _ if self.starts_query() || self.kind(0) == Some(Kind::LeftParen) => self.query(),
            _ => self.stray(),
        }
    }

    /// SHOW of a setting that belongs to the session, which every server of the session's has alike.
    fn show(&mut self) -> Step {
        self.at += 1;
        let shown = self.at;
        let name: Vec<&[u8]> =
            (0..4).map(|ahead| self.word(ahead)).take_while(|word| !word.is_empty()).collect();
        let words = match name[..] {
            [b"time", b"zone", ..] => 2,
            [b"transaction", b"isolation", b"level", ..] => 3,
            [b"session", b"authorization", ..] => 2,
            [setting, ..] if is_session_setting(setting) => 1,
            _ => return self.doubt(Access::Unsure, Reason::SessionCommand, shown),
        };
        self.at += words;
        Ok(())
    }

    /// EXPLAIN that does not run what it explains.
    fn explain(&mut self) -> Step {
        let verb = self.at;
        self.at += 1;
        let mut runs = false;
        if self.kind(0) == Some(Kind::LeftParen) && !self.query_in_parens() {
            runs = self.explain_options()?;
        } else {
            if matches!(self.word(0), b"analyze" | b"analyse") {
                runs = true;
                self.at += 1;
            }
            self.accept(b"verbose");
        }
        let writes =
            matches!(self.word(0), b"insert" | b"update" | b"delete" | b"merge" | b"create" | b"refresh");
        match (runs, writes) {
            (true, true) => self.doubt(Access::Write, Reason::WriteCommand, self.at),
            (true, false) => self.doubt(Access::Unsure, Reason::Unrecognised, verb),
            (false, _) if self.starts_query() || self.kind(0) == Some(Kind::LeftParen) => self.query(),
            (false, _) => self.stray(),
        }
    }

    /// The options of EXPLAIN: whether one of them is ANALYZE, with whatever value.
    fn explain_options(&mut self) -> Result<bool, Judgement> {
        let mut runs = false;
        self.at += 1;
        loop {
            match self.word(0) {
                b"analyze" | b"analyse" => runs = true,
                b"verbose" | b"costs" | b"generic_plan" | b"buffers" | b"wal" | b"timing" | b"summary"
                | b"memory" | b"format" => {}
                _ => return self.stray().map(|()| runs),
            }
            self.at += 1;
            while self
                .kind(0)
                .is_some_and(|kind| matches!(kind, Kind::Word | Kind::Number) || kind.is_string())
            {
                self.at += 1;
            }
            match self.kind(0) {
                Some(Kind::Comma) => self.at += 1,
                _ => break,
            }
        }
        self.expect(Kind::RightParen)?;
        Ok(runs)
    }

    /// COPY of a table or a query to the client.
    fn copy(&mut self) -> Step {
        let verb = self.at;
        self.at += 1;
        self.accept(b"binary");
        if self.kind(0) == Some(Kind::LeftParen) {
            self.at += 1;
            self.query()?;
            self.expect(Kind::RightParen)?;
        } else {
            let (first, chain) = self.chain()?;
            if self.kind(0) == Some(Kind::LeftParen) {
                self.columns(Columns::Names)?;
            }
            if self.word(0) == b"to" {
                self.known_relation(first, &chain)?;
            }
        }
        if !self.accept(b"to") || !matches!(self.word(0), b"stdout" | b"stdin") {
            return self.doubt(Access::Write, Reason::WriteCommand, verb);
        }
        self.at += 1;
        // The options name formats and columns; nothing in them is ever evaluated.
        loop {
            match self.kind(0) {
                None | Some(Kind::Semicolon) => return Ok(()),
                Some(Kind::Operator) if self.bytes(0) == b"*" => self.at += 1,
                Some(Kind::Word | Kind::QuotedName | Kind::Comma | Kind::Number) => self.at += 1,
                Some(Kind::LeftParen | Kind::RightParen) => self.at += 1,
                Some(kind) if kind.is_string() => self.at += 1,
                _ => return self.stray(),
            }
        }
    }
}

// Queries.
impl Proof<'_> {
    fn starts_query(&self) -> bool {
        match self.word(0) {
            b"select" | b"with" | b"table" => true,
            b"values" => self.kind(1) == Some(Kind::LeftParen),
            _ => false,
        }
    }

    /// Whether the parentheses that open here hold a query and nothing else opens before its verb.
    fn query_in_parens(&self) -> bool {
        let opening = self.tokens[self.at..].iter().take_while(|token| token.kind == Kind::LeftParen).count();
        matches!(self.word(opening), b"select" | b"with" | b"table" | b"values")
    }

    fn query(&mut self) -> Step {
        if self.catalog.conversions() != Verdict::Harmless {
            return self.doubt(Access::Unsure, Reason::UserDefined, self.at);
        }
        let outer = self.ctes.len();
        if self.accept(b"with") {
            self.with()?;
        }
        self.term()?;
        self.after_term()?;
        self.ctes.truncate(outer);
        Ok(())
    }

    /// The CTEs. A name can be seen from the next CTE on, with RECURSIVE in its own body, too; what PostgreSQL lets one
    /// see earlier (a later CTE under RECURSIVE) is taken for a relation here, which only asks for more.
    fn with(&mut self) -> Step {
        let recursive = self.accept(b"recursive");
        loop {
            let name = self.declared_name()?;
            if self.kind(0) == Some(Kind::LeftParen) {
                self.columns(Columns::Names)?;
            }
            self.expect_word(b"as")?;
            self.accept(b"not");
            self.accept(b"materialized");
            if recursive {
                self.ctes.push(name.clone());
            }
            self.expect(Kind::LeftParen)?;
            self.query()?;
            self.expect(Kind::RightParen)?;
            if !recursive {
                self.ctes.push(name);
            }
            self.search_and_cycle()?;
            match self.kind(0) {
                Some(Kind::Comma) => self.at += 1,
                _ => return Ok(()),
            }
        }
    }

    fn search_and_cycle(&mut self) -> Step {
        if self.accept(b"search") {
            if !self.accept(b"depth") {
                self.expect_word(b"breadth")?;
            }
            self.expect_word(b"first")?;
            self.expect_word(b"by")?;
            self.names()?;
            self.expect_word(b"set")?;
            self.declared_name()?;
        }
        if self.accept(b"cycle") {
            self.names()?;
            self.expect_word(b"set")?;
            self.declared_name()?;
            self.expect_word(b"using")?;
            self.declared_name()?;
            self.operators(&["=", "<>"])?;
        }
        Ok(())
    }

    fn term(&mut self) -> Step {
        match self.word(0) {
            b"select" => self.select(),
            b"values" => {
                self.at += 1;
                self.soup(Place::Clause)
            }
            b"table" => {
                self.at += 1;
                self.accept(b"only");
                self.relation()?;
                self.accept_star();
                Ok(())
            }
            b"insert" | b"update" | b"delete" | b"merge" => {
                self.doubt(Access::Write, Reason::ModifyingCte, self.at)
            }
            _ => {
                self.expect(Kind::LeftParen)?;
                self.query()?;
                self.expect(Kind::RightParen)
            }
        }
    }

    /// What may follow a query's first part: set operations, ORDER BY, LIMIT, OFFSET, FETCH. A locking clause may, too,
    /// and is no read.
    fn after_term(&mut self) -> Step {
        loop {
            match self.word(0) {
                b"union" | b"intersect" | b"except" => self.set_operation()?,
                b"order" => {
                    self.at += 1;
                    self.expect_word(b"by")?;
                    self.soup(Place::Clause)?;
                }
                b"limit" | b"offset" | b"fetch" => {
                    self.at += 1;
                    self.soup(Place::Clause)?;
                }
                b"for" => return self.doubt(Access::Write, Reason::LockingClause, self.at),
                b"into" => return self.doubt(Access::Write, Reason::SelectInto, self.at),
                _ => return Ok(()),
            }
        }
    }

    fn set_operation(&mut self) -> Step {
        self.at += 1;
        if !self.accept(b"all") {
            self.accept(b"distinct");
        }
        self.term()
    }

    fn select(&mut self) -> Step {
        self.at += 1;
        self.soup(Place::Clause)?;
        loop {
            match self.word(0) {
                b"from" => {
                    self.at += 1;
                    self.from()?;
                }
                b"where" | b"having" => {
                    self.at += 1;
                    self.soup(Place::Clause)?;
                }
                b"group" => {
                    self.at += 1;
                    self.expect_word(b"by")?;
                    self.soup(Place::GroupBy)?;
                }
                b"window" => {
                    self.at += 1;
                    self.windows()?;
                }
                b"into" => return self.doubt(Access::Write, Reason::SelectInto, self.at),
                _ => return Ok(()),
            }
        }
    }

    fn windows(&mut self) -> Step {
        loop {
            self.declared_name()?;
            self.expect_word(b"as")?;
            self.parens(Place::Parens)?;
            match self.kind(0) {
                Some(Kind::Comma) => self.at += 1,
                _ => return Ok(()),
            }
        }
    }
}

// FROM.
impl Proof<'_> {
    fn from(&mut self) -> Step {
        loop {
            self.table_item()?;
            match self.kind(0) {
                Some(Kind::Comma) => self.at += 1,
                _ => return Ok(()),
            }
        }
    }

    fn table_item(&mut self) -> Step {
        self.table_primary()?;
        self.joins()
    }

    fn joins(&mut self) -> Step {
        loop {
            match self.word(0) {
                b"natural" => {
                    self.at += 1;
                    self.operators(&["="])?;
                    self.join()?;
                }
                b"cross" | b"inner" | b"left" | b"right" | b"full" | b"join" => self.join()?,
                b"on" => {
                    self.at += 1;
                    self.soup(Place::JoinCondition)?;
                }
                b"using" => {
                    self.at += 1;
                    self.operators(&["="])?;
                    self.columns(Columns::Names)?;
                    if self.accept(b"as") {
                        self.declared_name()?;
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    fn join(&mut self) -> Step {
        if matches!(self.word(0), b"cross" | b"inner") {
            self.at += 1;
        } else if matches!(self.word(0), b"left" | b"right" | b"full") {
            self.at += 1;
            self.accept(b"outer");
        }
        self.expect_word(b"join")?;
        self.table_primary()
    }

    fn table_primary(&mut self) -> Step {
        self.accept(b"lateral");
        if self.kind(0) == Some(Kind::LeftParen) {
            self.tables_in_parens()?;
            return self.alias();
        }
        if self.accept(b"only") {
            if self.kind(0) == Some(Kind::LeftParen) {
                self.at += 1;
                self.relation()?;
                self.expect(Kind::RightParen)?;
            } else {
                self.relation()?;
            }
            return self.relation_tail();
        }
        if self.word(0) == b"rows" && self.word(1) == b"from" && self.kind(2) == Some(Kind::LeftParen) {
            self.at += 2;
            return self.rows_from();
        }
        let (first, chain) = self.chain()?;
        if self.kind(0) == Some(Kind::LeftParen) {
            self.table_function(first, &chain)?;
            return self.function_tail();
        }
        self.known_relation(first, &chain)?;
        self.relation_tail()
    }

    /// Parentheses in FROM: a query, or tables that are joined.
    fn tables_in_parens(&mut self) -> Result<Inside, Judgement> {
        self.expect(Kind::LeftParen)?;
        let inside = if self.starts_query() {
            self.query()?;
            Inside::Query
        } else if self.kind(0) == Some(Kind::LeftParen) {
            self.tables_in_nested_parens()?
        } else {
            self.table_item()?;
            Inside::Tables
        };
        self.expect(Kind::RightParen)?;
        Ok(inside)
    }

    fn tables_in_nested_parens(&mut self) -> Result<Inside, Judgement> {
        let inside = self.tables_in_parens()?;
        if inside == Inside::Query {
            self.after_term()?;
            if self.kind(0) == Some(Kind::RightParen) {
                return Ok(Inside::Query);
            }
        }
        self.alias()?;
        self.joins()?;
        Ok(Inside::Tables)
    }

    fn rows_from(&mut self) -> Step {
        self.expect(Kind::LeftParen)?;
        loop {
            let (first, chain) = self.chain()?;
            self.table_function(first, &chain)?;
            if self.accept(b"as") {
                self.columns(Columns::Definitions)?;
            }
            match self.kind(0) {
                Some(Kind::Comma) => self.at += 1,
                _ => break,
            }
        }
        self.expect(Kind::RightParen)?;
        self.function_tail()
    }

    /// A function in FROM. XMLTABLE, JSON_TABLE and the functions with a syntax of their own are left unproven.
    fn table_function(&mut self, first: usize, chain: &[String]) -> Step {
        let special = self.tokens[first].kind == Kind::Word
            && chain.len() == 1
            && (words::role(chain[0].as_bytes()) == Role::Column || chain[0] == "json_table");
        if special || self.kind(0) != Some(Kind::LeftParen) {
            return self.doubt(Access::Unsure, Reason::Unrecognised, first);
        }
        self.known_function(first, chain)?;
        self.parens(Place::Parens)
    }

    fn function_tail(&mut self) -> Step {
        if self.word(0) == b"with" && self.word(1) == b"ordinality" {
            self.at += 2;
        }
        self.alias()
    }

    fn relation_tail(&mut self) -> Step {
        self.accept_star();
        self.alias()?;
        if self.accept(b"tablesample") {
            let (first, chain) = self.chain()?;
            self.known_function(first, &chain)?;
            self.parens(Place::Parens)?;
            if self.accept(b"repeatable") {
                self.parens(Place::Parens)?;
            }
        }
        Ok(())
    }

    /// `[AS] alias [(columns)]` or `AS (column definitions)`, if there is one.
    fn alias(&mut self) -> Step {
        if self.accept(b"as") {
            if self.kind(0) != Some(Kind::LeftParen) {
                self.declared_name()?;
            }
        } else if self.is_column_name() {
            self.declared_name()?;
        } else {
            return Ok(());
        }
        if self.kind(0) == Some(Kind::LeftParen) {
            self.columns(Columns::Definitions)?;
        }
        Ok(())
    }

    /// `(a, b)`; with definitions also `(a integer, b text)`.
    fn columns(&mut self, columns: Columns) -> Step {
        self.expect(Kind::LeftParen)?;
        loop {
            self.declared_name()?;
            let ends = matches!(self.kind(0), Some(Kind::Comma | Kind::RightParen));
            if !ends && columns == Columns::Definitions {
                self.type_name()?;
                if self.accept(b"collate") {
                    self.chain()?;
                }
            }
            match self.kind(0) {
                Some(Kind::Comma) => self.at += 1,
                _ => break,
            }
        }
        self.expect(Kind::RightParen)
    }

    fn names(&mut self) -> Step {
        loop {
            self.declared_name()?;
            match self.kind(0) {
                Some(Kind::Comma) => self.at += 1,
                _ => return Ok(()),
            }
        }
    }

    fn relation(&mut self) -> Step {
        let (first, chain) = self.chain()?;
        self.known_relation(first, &chain)
    }

    fn known_relation(&self, first: usize, chain: &[String]) -> Step {
        let verdict = match chain {
            [name] if self.ctes.contains(name) => return Ok(()),
            [name] => self.catalog.relation(None, name),
            [schema, name] => self.catalog.relation(Some(schema), name),
            _ => Verdict::Unknown,
        };
        match verdict {
            Verdict::Harmless => Ok(()),
            Verdict::Harmful => {
                self.doubt(Access::Unsure, Reason::HarmfulRelation, first + 2 * (chain.len() - 1))
            }
            Verdict::Unknown => {
                self.doubt(Access::Unsure, Reason::UnknownRelation, first + 2 * (chain.len() - 1))
            }
        }
    }
}

// Expressions.
impl Proof<'_> {
    /// Tokens up to one that cannot be part of an expression in this place; the caller knows which may follow.
    fn soup(&mut self, place: Place) -> Step {
        while let Some(kind) = self.kind(0) {
            match kind {
                Kind::Semicolon | Kind::RightParen | Kind::RightBracket => return Ok(()),
                Kind::Comma if place == Place::JoinCondition => return Ok(()),
                Kind::Comma | Kind::Number | Kind::Parameter | Kind::BitString => self.at += 1,
                Kind::Arrow | Kind::Assign | Kind::Colon if place.is_enclosed() => self.at += 1,
                kind if kind.is_string() => self.at += 1,
                Kind::Dot => self.attribute_of_expression()?,
                Kind::Operator => self.operator()?,
                Kind::Cast => {
                    self.at += 1;
                    self.type_name()?;
                }
                Kind::LeftBracket => {
                    self.at += 1;
                    self.soup(Place::Brackets)?;
                    self.expect(Kind::RightBracket)?;
                }
                Kind::LeftParen => self.parens(Place::Parens)?,
                Kind::QuotedName => self.name()?,
                Kind::Word => {
                    if self.word_of_expression(place)? == Flow::Ends {
                        return Ok(());
                    }
                }
                _ => return self.stray(),
            }
        }
        Ok(())
    }

    fn parens(&mut self, place: Place) -> Step {
        self.expect(Kind::LeftParen)?;
        if self.starts_query() {
            self.query()?;
        } else {
            self.soup(place)?;
        }
        self.expect(Kind::RightParen)
    }

    fn word_of_expression(&mut self, place: Place) -> Result<Flow, Judgement> {
        match words::role(self.word(0)) {
            Role::Reserved => return self.reserved(place),
            Role::FunctionOrType => return self.function_or_type(),
            Role::Column => self.column_word()?,
            Role::Plain => self.plain_word(place)?,
        }
        Ok(Flow::On)
    }

    fn reserved(&mut self, place: Place) -> Result<Flow, Judgement> {
        match self.word(0) {
            b"and" | b"or" | b"not" | b"null" | b"true" | b"false" | b"when" | b"then" | b"else" | b"end"
            | b"asc" | b"desc" | b"all" | b"any" | b"some" | b"array" | b"distinct" | b"both"
            | b"leading" | b"trailing" | b"symmetric" | b"asymmetric" | b"variadic" | b"placing"
            | b"current_catalog" | b"current_date" | b"current_role" | b"current_time"
            | b"current_timestamp" | b"current_user" | b"localtime" | b"localtimestamp" | b"session_user"
            | b"user" => self.at += 1,
            b"case" => {
                self.at += 1;
                if self.word(0) != b"when" {
                    self.operators(&["="])?;
                }
            }
            b"in" => {
                self.at += 1;
                self.operators(&["=", "<>"])?;
            }
            b"cast" => {
                self.at += 1;
                self.cast()?;
            }
            b"collate" => {
                self.at += 1;
                self.chain()?;
            }
            b"as" if place == Place::Clause || place == Place::Labelled => {
                self.at += 1;
                self.label()?;
            }
            b"only" if matches!(self.word_before(), b"row" | b"rows") => self.at += 1,
            b"with" if self.word(1) == b"ties" => self.at += 2,
            b"on" if self.word_before() == b"distinct" => self.at += 1,
            // ON NULL, ON EMPTY, ON ERROR of the JSON functions.
            b"on" if place == Place::Parens => self.at += 1,
            b"using" if self.kind(1) == Some(Kind::Operator) || self.word(1) == b"operator" => self.at += 1,
            b"returning" if place == Place::Parens => {
                self.at += 1;
                self.type_name()?;
            }
            b"from" if place == Place::Separated => self.at += 1,
            b"for" if place == Place::Separated && !self.locks() => self.at += 1,
            b"for" if place.is_enclosed() => {
                return self.doubt(Access::Write, Reason::LockingClause, self.at).map(|()| Flow::Ends);
            }
            b"into" => return self.doubt(Access::Write, Reason::SelectInto, self.at).map(|()| Flow::Ends),
            b"where" if place == Place::Filter => self.at += 1,
            // Between parentheses a query may stand in parentheses of its own, and go on behind them.
            b"union" | b"intersect" | b"except" if place.is_enclosed() => self.set_operation()?,
            b"order" | b"limit" | b"offset" | b"fetch" if place.is_enclosed() => self.at += 1,
            b"group" if place == Place::Parens && self.word_before() == b"exclude" => self.at += 1,
            _ => return Ok(Flow::Ends),
        }
        Ok(Flow::On)
    }

    /// Whether FOR starts a locking clause here.
    fn locks(&self) -> bool {
        matches!(self.word(1), b"update" | b"share" | b"no" | b"key")
    }

    /// LIKE, IS and their kin. These words can name functions and types, too: `a LIKE (b)` is an operator, `like(a, b)`
    /// a function, `isnull(a)` somebody's.
    fn function_or_type(&mut self) -> Result<Flow, Judgement> {
        let called = self.kind(1) == Some(Kind::LeftParen);
        let symbols: &[&str] = match self.word(0) {
            b"like" => &["~~", "!~~"],
            b"ilike" => &["~~*", "!~~*"],
            b"overlaps" => &["<", "<=", ">", ">=", "="],
            b"left" | b"right" if !called => return Ok(Flow::Ends),
            b"is" | b"isnull" | b"notnull" | b"similar" | b"current_schema" | b"left" | b"right"
                if called =>
            {
                return self.name().map(|()| Flow::On);
            }
            b"similar" if self.word(1) == b"to" => &["~", "!~"],
            b"is" => return self.is_test().map(|()| Flow::On),
            b"isnull" | b"notnull" | b"current_schema" => &[],
            _ => return Ok(Flow::Ends),
        };
        self.operators(symbols)?;
        if called {
            self.no_user_function(self.at)?;
        }
        if called || self.kind(1).is_some_and(Kind::is_string) {
            self.no_user_type(self.at)?;
        }
        self.at += if self.word(0) == b"similar" { 2 } else { 1 };
        Ok(Flow::On)
    }

    fn is_test(&mut self) -> Step {
        if self.kind(1).is_some_and(Kind::is_string) {
            return self.stray();
        }
        self.at += 1;
        self.accept(b"not");
        if self.accept(b"distinct") {
            self.expect_word(b"from")?;
            self.operators(&["=", "<>"])?;
        }
        Ok(())
    }

    /// A word that can name a column, but no function: a type, a form with a syntax of its own, or a column.
    fn column_word(&mut self) -> Step {
        if self.kind(1) == Some(Kind::Dot) {
            return self.name();
        }
        match self.word(0) {
            b"between" => {
                self.operators(&["<", "<=", ">", ">="])?;
                self.at += 1;
                return Ok(());
            }
            b"grouping" if self.word(1) == b"sets" => {
                self.at += 2;
                return Ok(());
            }
            word if is_type_word(word) => return self.typed_constant(),
            _ if self.kind(1) != Some(Kind::LeftParen) => {
                self.at += 1;
                return Ok(());
            }
            _ => {}
        }
        let place = match self.word(0) {
            b"coalesce" | b"greatest" | b"least" | b"grouping" | b"exists" | b"row" | b"xmlconcat"
            | b"xmlelement" | b"xmlexists" | b"xmlparse" | b"xmlpi" => Place::Parens,
            b"nullif" => {
                self.operators(&["="])?;
                Place::Parens
            }
            b"xmlforest" | b"xmlattributes" => Place::Labelled,
            // Without their own syntax these two are found by name, like any function.
            b"substring" | b"overlay" => {
                let name = String::from_utf8_lossy(self.word(0)).into_owned();
                self.known_function(self.at, &[name])?;
                Place::Separated
            }
            b"trim" | b"extract" | b"position" | b"normalize" => Place::Separated,
            b"xmlserialize" => {
                self.at += 1;
                return self.cast();
            }
            _ => return self.stray(),
        };
        self.at += 1;
        self.parens(place)
    }

    /// The parentheses of CAST and XMLSERIALIZE.
    fn cast(&mut self) -> Step {
        self.expect(Kind::LeftParen)?;
        self.soup(Place::Cast)?;
        self.expect_word(b"as")?;
        self.type_name()?;
        self.expect(Kind::RightParen)
    }

    /// `interval '1 day'`, or a column whose name is that of a type.
    fn typed_constant(&mut self) -> Step {
        self.type_name()?;
        if self.kind(0).is_some_and(Kind::is_string) {
            self.at += 1;
            self.interval_fields()?;
        }
        Ok(())
    }

    /// A word that PostgreSQL does not reserve: a name, unless what stands around it makes it part of the grammar.
    fn plain_word(&mut self, place: Place) -> Step {
        let called = self.kind(1) == Some(Kind::LeftParen);
        let after_paren = self.before() == Some(Kind::RightParen);
        match self.word(0) {
            b"at" if self.word(1) == b"time" && self.word(2) == b"zone" => {
                self.at += 3;
                return Ok(());
            }
            b"double" if self.word(1) == b"precision" => return self.typed_constant(),
            b"insert" | b"update" | b"delete" | b"merge" if self.kind(1) != Some(Kind::Dot) => {
                return self.stray();
            }
            b"within" if after_paren && self.word(1) == b"group" => self.at += 2,
            b"operator" if called && self.is_operator_form() => return self.operator_form(),
            b"filter" if called && after_paren => {
                self.at += 1;
                return self.parens(Place::Filter);
            }
            b"over" if called && after_paren => self.noise_before_parens()?,
            b"rollup" | b"cube" if called && place == Place::GroupBy && self.starts_item() => {
                self.noise_before_parens()?;
            }
            b"first" | b"next" if called && self.word_before() == b"fetch" => self.noise_before_parens()?,
            b"by" if called && self.after_order() => self.noise_before_parens()?,
            b"by" if self.after_order() => self.at += 1,
            b"escape" if called && self.after_operand() => self.noise_before_parens()?,
            b"escape" if self.kind(1).is_some_and(Kind::is_string) && self.after_operand() => self.at += 1,
            _ => return self.name(),
        }
        Ok(())
    }

    /// Whether a new item of a GROUP BY starts here.
    fn starts_item(&self) -> bool {
        self.before() == Some(Kind::Comma) || matches!(self.word_before(), b"by" | b"all" | b"distinct")
    }

    fn after_order(&self) -> bool {
        matches!(self.word_before(), b"order" | b"partition")
    }

    /// Whether an operand has just ended, so that no other can start here.
    fn after_operand(&self) -> bool {
        match self.before() {
            Some(Kind::Word) => words::role(self.word_before()) == Role::Plain,
            Some(kind) => {
                kind.is_string() || matches!(kind, Kind::QuotedName | Kind::Parameter | Kind::RightParen)
            }
            None => false,
        }
    }

    /// A word of the grammar before parentheses. Nobody's function bears that name, so PostgreSQL cannot take it for
    /// one even if this proof misread what is around it.
    fn noise_before_parens(&mut self) -> Step {
        self.no_user_function(self.at)?;
        self.no_user_type(self.at)?;
        self.at += 1;
        Ok(())
    }

    /// A name: a column, a function that is called, or the type of a constant.
    fn name(&mut self) -> Step {
        let (first, chain) = self.chain()?;
        match self.kind(0) {
            Some(Kind::LeftParen) => {
                self.known_function(first, &chain)?;
                return self.parens(Place::Parens);
            }
            Some(kind) if kind.is_string() => return self.known_type(first, &chain),
            _ => {}
        }
        if let Some(part) = chain.iter().position(|name| is_of_backend(name)) {
            return self.doubt(Access::Unsure, Reason::HarmfulRelation, first + 2 * part);
        }
        for (part, name) in chain.iter().enumerate().skip(1) {
            self.attribute(first + 2 * part, name)?;
        }
        if self.kind(0) == Some(Kind::Dot) {
            // `t.*`: the chain stopped before it.
            self.at += 1;
            if !self.accept_star() {
                return self.stray();
            }
        }
        Ok(())
    }

    /// `(x).f`, `x[1].f`, `$1.f`: a column, or a call of f with x as its argument.
    fn attribute_of_expression(&mut self) -> Step {
        self.at += 1;
        if self.accept_star() {
            return Ok(());
        }
        let name = self.any_name()?;
        if self.kind(0) == Some(Kind::LeftParen) {
            return self.stray();
        }
        self.attribute(self.at - 1, &name)
    }

    /// PostgreSQL takes `x.f` for `f(x)` if x has no column f: `('s'::regclass).nextval`.
    fn attribute(&self, token: usize, name: &str) -> Step {
        if is_of_backend(name) {
            return self.doubt(Access::Unsure, Reason::HarmfulRelation, token);
        }
        if self.catalog.attribute(name) == Verdict::Harmful {
            return self.doubt(Access::Unsure, Reason::HarmfulFunction, token);
        }
        if self.catalog.type_name(None, name) == Verdict::Harmful {
            return self.doubt(Access::Unsure, Reason::UserDefined, token);
        }
        Ok(())
    }

    fn known_function(&self, first: usize, chain: &[String]) -> Step {
        let called = first + 2 * (chain.len() - 1);
        let (function, as_type) = match chain {
            [name] => (self.catalog.function(None, name), self.catalog.type_name(None, name)),
            [schema, name] => {
                (self.catalog.function(Some(schema), name), self.catalog.type_name(Some(schema), name))
            }
            _ => (Verdict::Unknown, Verdict::Unknown),
        };
        match (function, as_type) {
            (Verdict::Harmful, _) => self.doubt(Access::Unsure, Reason::HarmfulFunction, called),
            (Verdict::Unknown, _) => self.doubt(Access::Unsure, Reason::UnknownFunction, called),
            // `f(x)` is a cast if f is a type.
            (Verdict::Harmless, Verdict::Harmful) => self.doubt(Access::Unsure, Reason::UserDefined, called),
            (Verdict::Harmless, _) => Ok(()),
        }
    }

    fn no_user_function(&self, token: usize) -> Step {
        let name = words::name(self.tokens[token], self.text).unwrap_or_default();
        match self.catalog.function(None, &name) {
            Verdict::Harmful => self.doubt(Access::Unsure, Reason::HarmfulFunction, token),
            _ => Ok(()),
        }
    }

    fn no_user_type(&self, token: usize) -> Step {
        let name = words::name(self.tokens[token], self.text).unwrap_or_default();
        match self.catalog.type_name(None, &name) {
            Verdict::Harmful => self.doubt(Access::Unsure, Reason::UserDefined, token),
            _ => Ok(()),
        }
    }

    fn operator(&mut self) -> Step {
        let is_star = self.bytes(0) == b"*"
            && (matches!(self.before(), Some(Kind::LeftParen | Kind::Comma))
                || matches!(self.word_before(), b"select" | b"distinct" | b"all"));
        if !is_star {
            self.known_operator(self.at)?;
        }
        self.at += 1;
        Ok(())
    }

    fn known_operator(&self, token: usize) -> Step {
        let symbol = match self.tokens[token].bytes(self.text) {
            b"!=" => "<>",
            bytes => std::str::from_utf8(bytes).unwrap_or_default(),
        };
        match self.catalog.operator(symbol) {
            Verdict::Harmless => Ok(()),
            _ => self.doubt(Access::Unsure, Reason::UserDefined, token),
        }
    }

    /// The operators that a key word stands for: PostgreSQL finds them by name, as if they had been written.
    fn operators(&self, symbols: &[&str]) -> Step {
        match symbols.iter().find(|symbol| self.catalog.operator(symbol) != Verdict::Harmless) {
            Some(_) => self.doubt(Access::Unsure, Reason::UserDefined, self.at.saturating_sub(1)),
            None => Ok(()),
        }
    }

    /// Whether `OPERATOR(` is followed by `schema.` and an operator, as no argument list is.
    fn is_operator_form(&self) -> bool {
        let mut ahead = 2;
        while self.kind(ahead).is_some_and(Kind::is_name) && self.kind(ahead + 1) == Some(Kind::Dot) {
            ahead += 2;
        }
        self.kind(ahead) == Some(Kind::Operator) && self.kind(ahead + 1) == Some(Kind::RightParen)
    }

    fn operator_form(&mut self) -> Step {
        self.no_user_function(self.at)?;
        while self.kind(0) != Some(Kind::Operator) {
            self.at += 1;
        }
        self.known_operator(self.at)?;
        self.at += 2;
        Ok(())
    }
}

// Types.
impl Proof<'_> {
    fn type_name(&mut self) -> Step {
        let first = self.at;
        let built_in: &[&str] = match self.word(0) {
            b"int" | b"integer" => &["int4"],
            b"smallint" => &["int2"],
            b"bigint" => &["int8"],
            b"real" => &["float4"],
            b"float" => &["float4", "float8"],
            b"decimal" | b"dec" | b"numeric" => &["numeric"],
            b"boolean" => &["bool"],
            b"double" if self.word(1) == b"precision" => {
                self.at += 1;
                &["float8"]
            }
            b"national" if matches!(self.word(1), b"char" | b"character") => {
                self.at += 1;
                &["bpchar", "varchar"]
            }
            b"char" | b"character" | b"nchar" | b"varchar" => &["bpchar", "varchar"],
            b"bit" => &["bit", "varbit"],
            b"time" => &["time", "timetz"],
            b"timestamp" => &["timestamp", "timestamptz"],
            b"interval" => &["interval"],
            _ => return self.named_type(),
        };
        if built_in.iter().any(|name| self.catalog.type_name(None, name) != Verdict::Harmless) {
            return self.doubt(Access::Unsure, Reason::UserDefined, first);
        }
        self.at += 1;
        self.accept(b"varying");
        self.modifiers()?;
        if matches!(self.word(0), b"with" | b"without") && self.word(1) == b"time" && self.word(2) == b"zone"
        {
            self.at += 3;
        }
        self.interval_fields()?;
        self.array_bounds()
    }

    fn named_type(&mut self) -> Step {
        if self.kind(0) == Some(Kind::Word) && words::role(self.word(0)) == Role::Reserved {
            return self.stray();
        }
        let (first, chain) = self.chain()?;
        self.known_type(first, &chain)?;
        self.modifiers()?;
        self.array_bounds()
    }

    fn known_type(&self, first: usize, chain: &[String]) -> Step {
        let verdict = match chain {
            [name] => self.catalog.type_name(None, name),
            [schema, name] => self.catalog.type_name(Some(schema), name),
            _ => Verdict::Unknown,
        };
        match verdict {
            Verdict::Harmless => Ok(()),
            _ => self.doubt(Access::Unsure, Reason::UserDefined, first + 2 * (chain.len() - 1)),
        }
    }

    fn modifiers(&mut self) -> Step {
        if self.kind(0) == Some(Kind::LeftParen) { self.parens(Place::Parens) } else { Ok(()) }
    }

    /// `DAY TO SECOND(3)`.
    fn interval_fields(&mut self) -> Step {
        if !is_interval_field(self.word(0)) {
            return Ok(());
        }
        self.at += 1;
        self.modifiers()?;
        if self.word(0) == b"to" && is_interval_field(self.word(1)) {
            self.at += 2;
            self.modifiers()?;
        }
        Ok(())
    }

    fn array_bounds(&mut self) -> Step {
        self.accept(b"array");
        while self.kind(0) == Some(Kind::LeftBracket) {
            self.at += 1;
            self.soup(Place::Brackets)?;
            self.expect(Kind::RightBracket)?;
        }
        Ok(())
    }
}

// Tokens.
impl<'a> Proof<'a> {
    fn kind(&self, ahead: usize) -> Option<Kind> {
        self.tokens.get(self.at + ahead).map(|token| token.kind)
    }

    fn bytes(&self, ahead: usize) -> &'a [u8] {
        self.tokens.get(self.at + ahead).map_or(b"", |token| token.bytes(self.text))
    }

    /// The folded word, empty if it is none.
    fn word(&self, ahead: usize) -> &[u8] {
        self.word_at(self.at.checked_add(ahead))
    }

    fn word_at(&self, index: Option<usize>) -> &[u8] {
        match index.and_then(|index| self.tokens.get(index)) {
            Some(token) if token.kind == Kind::Word => token.bytes(&self.folded),
            _ => b"",
        }
    }

    fn before(&self) -> Option<Kind> {
        self.tokens.get(self.at.checked_sub(1)?).map(|token| token.kind)
    }

    fn word_before(&self) -> &[u8] {
        self.word_at(self.at.checked_sub(1))
    }

    fn accept(&mut self, word: &[u8]) -> bool {
        let found = self.word(0) == word;
        self.at += usize::from(found);
        found
    }

    fn accept_star(&mut self) -> bool {
        let found = self.kind(0) == Some(Kind::Operator) && self.bytes(0) == b"*";
        self.at += usize::from(found);
        found
    }

    fn expect_word(&mut self, word: &[u8]) -> Step {
        if self.accept(word) { Ok(()) } else { self.stray() }
    }

    fn expect(&mut self, kind: Kind) -> Step {
        if self.kind(0) != Some(kind) {
            return self.stray();
        }
        self.at += 1;
        Ok(())
    }

    fn is_column_name(&self) -> bool {
        match self.kind(0) {
            Some(Kind::QuotedName) => true,
            Some(Kind::Word) => matches!(words::role(self.word(0)), Role::Plain | Role::Column),
            _ => false,
        }
    }

    /// A name that is given here: an alias, a column, a CTE.
    fn declared_name(&mut self) -> Result<String, Judgement> {
        if self.is_column_name() { self.any_name() } else { self.stray().map(|()| String::new()) }
    }

    /// What stands behind AS in a list: any word.
    fn label(&mut self) -> Step {
        self.any_name().map(|_| ())
    }

    fn any_name(&mut self) -> Result<String, Judgement> {
        let name = match self.kind(0) {
            Some(Kind::Word | Kind::QuotedName) => words::name(self.tokens[self.at], self.text),
            _ => None,
        };
        match name {
            Some(name) => {
                self.at += 1;
                Ok(name)
            }
            None => self.stray().map(|()| String::new()),
        }
    }

    /// A name with the names behind its dots, and the index of its first token. `.*` is left standing.
    fn chain(&mut self) -> Result<(usize, Vec<String>), Judgement> {
        let first = self.at;
        if self.kind(0) == Some(Kind::Word) && words::role(self.word(0)) == Role::Reserved {
            return self.stray().map(|()| (first, Vec::new()));
        }
        let mut chain = vec![self.any_name()?];
        while self.kind(0) == Some(Kind::Dot) && matches!(self.kind(1), Some(Kind::Word | Kind::QuotedName)) {
            self.at += 1;
            chain.push(self.any_name()?);
        }
        Ok((first, chain))
    }

    fn stray(&self) -> Step {
        self.doubt(Access::Unsure, Reason::Unrecognised, self.at)
    }

    fn doubt(&self, access: Access, reason: Reason, token: usize) -> Step {
        let end = Token { kind: Kind::Error, start: self.text.len(), end: self.text.len() };
        Err(Judgement { access, reason, token: self.tokens.get(token).copied().unwrap_or(end) })
    }
}

fn is_type_word(word: &[u8]) -> bool {
    matches!(
        word,
        b"bigint"
            | b"bit"
            | b"boolean"
            | b"char"
            | b"character"
            | b"dec"
            | b"decimal"
            | b"float"
            | b"int"
            | b"integer"
            | b"interval"
            | b"national"
            | b"nchar"
            | b"numeric"
            | b"real"
            | b"smallint"
            | b"time"
            | b"timestamp"
            | b"varchar"
    )
}

/// System columns whose value only the backend that wrote the row knows, as long as it remembers.
fn is_of_backend(name: &str) -> bool {
    matches!(name, "cmin" | "cmax")
}

fn is_interval_field(word: &[u8]) -> bool {
    matches!(word, b"year" | b"month" | b"day" | b"hour" | b"minute" | b"second")
}

/// Settings that clients ask for and that come with the session or with the cluster's data, not with one server: those
/// that servers report to clients, and those that drivers read at the start.
fn is_session_setting(name: &[u8]) -> bool {
    const NAMES: &[&str] = &[
        "application_name",
        "bytea_output",
        "client_encoding",
        "client_min_messages",
        "datestyle",
        "default_transaction_isolation",
        "extra_float_digits",
        "idle_in_transaction_session_timeout",
        "integer_datetimes",
        "intervalstyle",
        "lc_collate",
        "lc_ctype",
        "lc_messages",
        "lc_monetary",
        "lc_numeric",
        "lc_time",
        "lock_timeout",
        "max_identifier_length",
        "max_index_keys",
        "role",
        "search_path",
        "server_encoding",
        "server_version",
        "server_version_num",
        "session_authorization",
        "standard_conforming_strings",
        "statement_timeout",
        "timezone",
        "transaction_isolation",
        "xmlbinary",
        "xmloption",
    ];
    NAMES.iter().any(|known| known.as_bytes() == name)
}
