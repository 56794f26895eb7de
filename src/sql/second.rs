//! The second opinion: what sqlparser, an independent parser of the same language, makes of a text that was proven to
//! read. Asked once per new fingerprint, never on the warm path.
//!
//! It can only take a proof away. Where the two agree, nothing changes; where sqlparser sees a write, a lock, another
//! number of statements or a call of something harmful, one of the two is wrong and the text goes to the primary.
//!
//! Where sqlparser cannot parse the text (or is not asked, because the text is so long that its answer would hold up
//! everybody else on the worker), the proof stands. That is sound because the proof does not lean on it: what
//! the proof does not understand it refuses, and all names were checked against the catalog. And it is needed, for
//! sqlparser lacks much of what PostgreSQL can do; a failure to parse says something about sqlparser, not about the text.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sqlparser::ast::{
    CopyTarget, Expr, ObjectName, ObjectNamePart, Query, Select, SetExpr, Statement as Parsed, TableFactor,
    Visit, Visitor,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::lexer::tokens;
use super::{Access, Catalog, Reason, Statement, Verdict};

/// The most tokens of a text that sqlparser is asked about. It took up to 55 ms for 64 KiB (a chain of UNIONs; 22 Nov
/// 2026, release build, one core of a shared 2-core machine), and everybody else on the worker would wait.
const TOKENS: usize = 500;

/// How deep sqlparser may recurse into parentheses and the like.
const RECURSION: usize = 50;

/// The stack that it may take for each token, in bytes. Some of its recursions are not counted (`t JOIN t JOIN t ...`), and
/// chains such as `1::a::a::a` become trees as deep as they are long, visited and dropped by recursion: up to a level for
/// each token, of up to 28 KiB in a debug build.
const STACK_PER_TOKEN: usize = 28 * 1024;

/// What it may take besides, in bytes.
const STACK_BASE: usize = 1024 * 1024;

/// The stack that it gets where there is not enough, in bytes. To make one and have its pages come in costs as much as to
/// classify a short text altogether (30 µs; 22 Nov 2026, the same machine).
const STACK: usize = 32 * 1024 * 1024;

const _: () = assert!(STACK_BASE + TOKENS * STACK_PER_TOKEN <= STACK);

/// `statement`, unless it was proven to read and sqlparser disagrees.
pub fn confirm(text: &[u8], statement: Statement, catalog: &dyn Catalog) -> Statement {
    if statement.reason != Reason::ProvenRead {
        return statement;
    }
    let tokens = count(text);
    if tokens > TOKENS {
        return statement;
    }
    // A parser that panics over a client's text must not take the worker with it.
    let ask = || catch_unwind(AssertUnwindSafe(|| opinion(text, statement.statements, catalog)));
    match stacker::maybe_grow(STACK_BASE + tokens * STACK_PER_TOKEN, STACK, ask) {
        Ok(Opinion::Agrees | Opinion::None) => statement,
        Ok(Opinion::Disagrees(token)) => disagreed(statement, token),
        Err(_) => disagreed(statement, String::new()),
    }
}

/// How many tokens a text has, as far as that matters.
fn count(text: &[u8]) -> usize {
    tokens(text).take(TOKENS + 1).count()
}

fn disagreed(statement: Statement, token: String) -> Statement {
    Statement {
        access: Access::Unsure,
        reason: Reason::SecondOpinion,
        token: token.chars().take(16).collect::<String>().into(),
        ..statement
    }
}

enum Opinion {
    Agrees,
    /// With the name of what it sees.
    Disagrees(String),
    /// It cannot parse the text.
    None,
}

fn opinion(text: &[u8], statements: u32, catalog: &dyn Catalog) -> Opinion {
    let Ok(text) = std::str::from_utf8(text) else { return Opinion::None };
    let parser = Parser::new(&PostgreSqlDialect {}).with_recursion_limit(RECURSION);
    let Ok(parsed) = parser.try_with_sql(text).and_then(|mut parser| parser.parse_statements()) else {
        return Opinion::None;
    };
    if parsed.len() != statements as usize {
        return Opinion::Disagrees("statements".to_owned());
    }
    let mut reading = Reading { catalog, ctes: Vec::new() };
    match parsed.iter().try_for_each(|statement| reading.statement(statement)) {
        ControlFlow::Continue(()) => Opinion::Agrees,
        ControlFlow::Break(token) => Opinion::Disagrees(token),
    }
}

struct Reading<'a> {
    catalog: &'a dyn Catalog,
    /// Names of CTEs seen so far. Their scope is the proof's business.
    ctes: Vec<String>,
}

impl Reading<'_> {
    fn statement(&mut self, statement: &Parsed) -> ControlFlow<String> {
        match statement {
            Parsed::Query(_) | Parsed::ShowVariable { .. } => {}
            Parsed::Explain { analyze: false, statement: inner, .. } => return self.statement(inner),
            Parsed::Copy { to: true, target: CopyTarget::Stdout | CopyTarget::Stdin, .. } => {}
            other => return ControlFlow::Break(first_word(&other.to_string())),
        }
        statement.visit(self)
    }

    fn function(&self, name: &ObjectName) -> ControlFlow<String> {
        let verdict = match self.names(name).as_slice() {
            [name] => self.catalog.function(None, name),
            [schema, name] => self.catalog.function(Some(schema), name),
            _ => Verdict::Unknown,
        };
        if verdict == Verdict::Harmful {
            ControlFlow::Break(name.to_string())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn names(&self, name: &ObjectName) -> Vec<String> {
        let parts = name.0.iter().filter_map(|part| match part {
            ObjectNamePart::Identifier(ident) => Some(ident),
            _ => None,
        });
        parts
            .map(|ident| match ident.quote_style {
                Some(_) => ident.value.clone(),
                None => ident.value.to_ascii_lowercase(),
            })
            .collect()
    }
}

impl Visitor for Reading<'_> {
    type Break = String;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<String> {
        if !query.locks.is_empty() || query.for_clause.is_some() {
            return ControlFlow::Break("FOR".to_owned());
        }
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            let name = &cte.alias.name;
            let folded = name.quote_style.is_none().then(|| name.value.to_ascii_lowercase());
            self.ctes.push(folded.unwrap_or_else(|| name.value.clone()));
        }
        reads(&query.body)
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<String> {
        if select.into.is_some() { ControlFlow::Break("INTO".to_owned()) } else { ControlFlow::Continue(()) }
    }

    fn pre_visit_statement(&mut self, statement: &Parsed) -> ControlFlow<String> {
        match statement {
            Parsed::Query(_) | Parsed::ShowVariable { .. } | Parsed::Explain { analyze: false, .. } => {}
            Parsed::Copy { to: true, .. } => {}
            other => return ControlFlow::Break(first_word(&other.to_string())),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<String> {
        let verdicts = match self.names(relation).as_slice() {
            [name] if self.ctes.contains(name) => return ControlFlow::Continue(()),
            [name] => (self.catalog.relation(None, name), self.catalog.function(None, name)),
            [schema, name] => {
                (self.catalog.relation(Some(schema), name), self.catalog.function(Some(schema), name))
            }
            _ => return ControlFlow::Continue(()),
        };
        // A function in FROM is visited as a relation, too: only what is harmful as either counts.
        if matches!(verdicts, (Verdict::Harmful, Verdict::Harmful | Verdict::Unknown)) {
            return ControlFlow::Break(relation.to_string());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<String> {
        match table {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                self.function(name)
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<String> {
        match expr {
            Expr::Function(function) => self.function(&function.name),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Whether the body of a query only reads. Its parts are visited by themselves, but for the arms of set operations.
fn reads(body: &SetExpr) -> ControlFlow<String> {
    match body {
        SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) | SetExpr::Table(_) => {
            ControlFlow::Continue(())
        }
        SetExpr::SetOperation { left, right, .. } => {
            reads(left)?;
            reads(right)
        }
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
            ControlFlow::Break(first_word(&body.to_string()))
        }
    }
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Effects, Verdict};

    /// Everything is harmless but what is called harmful.
    struct Plain;

    impl Plain {
        fn verdict(&self, name: &str) -> Verdict {
            if name == "harmful" { Verdict::Harmful } else { Verdict::Harmless }
        }
    }

    impl Catalog for Plain {
        fn function(&self, _: Option<&str>, name: &str) -> Verdict {
            self.verdict(name)
        }
        fn relation(&self, _: Option<&str>, name: &str) -> Verdict {
            self.verdict(name)
        }
        fn operator(&self, _: &str) -> Verdict {
            Verdict::Harmless
        }
        fn type_name(&self, _: Option<&str>, name: &str) -> Verdict {
            self.verdict(name)
        }
        fn version(&self) -> u64 {
            0
        }
    }

    /// What becomes of a text that was (rightly or wrongly) proven to read.
    fn after(text: &str, statements: u32) -> Reason {
        let proven = Statement {
            access: Access::Read,
            reason: Reason::ProvenRead,
            token: Box::default(),
            transaction: None,
            effects: Effects::NONE,
            statements,
            keyed: false,
        };
        confirm(text.as_bytes(), proven, &Plain).reason
    }

    #[test]
    fn reads_are_confirmed() {
        for text in [
            "SELECT * FROM t WHERE f(a) = 1 ORDER BY b",
            "WITH x AS (SELECT 1) SELECT * FROM x UNION SELECT 2",
            "EXPLAIN SELECT 1",
            "SHOW timezone",
            "COPY t TO STDOUT",
            "VALUES (1)",
            "WITH harmful AS (SELECT 1) SELECT * FROM harmful",
            "SELECT harmful FROM t",
            "this is nothing that sqlparser knows",
        ] {
            assert_eq!(after(text, 1), Reason::ProvenRead, "{text}");
        }
    }

    #[test]
    fn what_it_sees_and_the_proof_did_not_is_vetoed() {
        for text in [
            "INSERT INTO t VALUES (1)",
            "WITH x AS (DELETE FROM t RETURNING 1) SELECT * FROM x",
            "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
            "SELECT 1 UNION SELECT 2 FROM (SELECT 1 FROM t FOR UPDATE) x",
            "SELECT * INTO x FROM t",
            "EXPLAIN ANALYZE SELECT 1",
            "EXPLAIN DELETE FROM t",
            "COPY t FROM STDIN",
            "COPY t TO PROGRAM 'cat'",
            "SELECT a FROM t WHERE 1 = harmful(1)",
            "SELECT a FROM t WHERE 1 = x.\"harmful\"(1)",
            "SELECT * FROM harmful(1)",
            "SELECT * FROM x.harmful",
            "SELECT (SELECT 1 FROM Harmful)",
            "BEGIN",
            "SELECT 1; SELECT 2",
        ] {
            assert_eq!(after(text, 1), Reason::SecondOpinion, "{text}");
        }
    }

    /// What `after` says on a thread that has as little stack as is taken for enough.
    fn survives(text: String) {
        let enough = STACK_BASE + count(text.as_bytes()) * STACK_PER_TOKEN;
        let thread = std::thread::Builder::new().stack_size(enough + 64 * 1024).spawn(move || {
            assert!(stacker::remaining_stack().is_some_and(|remaining| remaining >= enough));
            let _ = after(&text, 1);
        });
        thread.unwrap().join().unwrap();
    }

    #[test]
    fn long_chains_do_not_overflow_the_stack() {
        [20, 100, TOKENS].into_iter().for_each(chains_do_not_overflow_the_stack);
    }

    fn chains_do_not_overflow_the_stack(most: usize) {
        // Each part has at least one token, so that none of these is too long to be asked about.
        let fill = |head: &str, part: &str| {
            let tokens = |text: &str| count(text.as_bytes());
            format!("{head}{}", part.repeat((most - tokens(head)) / tokens(part)))
        };
        for text in [
            fill("SELECT 1", "::a"),
            fill("SELECT 1", "+1"),
            fill("SELECT 1", " AND 1"),
            fill("SELECT 1", " UNION SELECT 1"),
            fill("SELECT 1", "[1]"),
            fill("SELECT 1", ",1"),
            fill("SELECT a", ".a"),
            fill("SELECT ", "- "),
            fill("SELECT ", "NOT "),
            fill("SELECT ", "("),
            fill("SELECT ", "CASE WHEN "),
            fill("SELECT * FROM t", " JOIN t"),
            fill("SELECT 1", " COLLATE a"),
            fill("SELECT 1", " BETWEEN 1 AND 1"),
            fill("SELECT 1", " IS NULL"),
            fill("SELECT * FROM ", "t,"),
            fill("SELECT * FROM t", " NATURAL JOIN t"),
            fill("SELECT * FROM ", "("),
            fill("SELECT ", "EXISTS ("),
            fill("SELECT ", "interval "),
            fill("SELECT ", "ARRAY["),
            fill("", "EXPLAIN "),
            fill("", "WITH a AS ("),
            fill("", "SELECT "),
            fill("", "SELECT 1; "),
            fill("SELECT 1", "->'a'"),
            fill("SELECT 1", " AT TIME ZONE 'a'"),
            fill("SELECT f", "(1)"),
            fill("SELECT 1 FROM t WHERE 1", " IN (1)"),
            fill("SELECT a ", "LIKE "),
        ] {
            assert!(count(text.as_bytes()) <= TOKENS);
            survives(text);
        }
    }
}
