//! Ground truth: what the classifier calls a read is run on a real standby and on the primary, and must do the same there.
//!
//! A proven read that errors on the standby, answers differently, assigns a transaction id on the primary, or leaves a
//! lock, a cursor or a setting behind is a misroute; there is none. What PostgreSQL itself brings is taken whole from its
//! own catalog: every function, operator, cast and relation that is called harmless.
//!
//! Longer runs, over more generated statements or over PostgreSQL's own regression tests: `make truth`.

// A run is a measurement, too: it says how much was sent away.
#![allow(clippy::print_stdout)]

mod bench;
mod builtin;
mod generate;
mod regress;

use crate::harness::installations;
use bench::{Bench, Finding};
use generate::Generator;

const SCHEMA: &str = include_str!("schema.sql");

/// The statements of a list: one a line.
fn statements(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter(|line| !line.is_empty() && !line.starts_with("--"))
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_recognised_and_a_standby_answers_them_alike() {
    for bin in installations() {
        let mut bench = Bench::start(&bin, SCHEMA).await;
        let mut wrong = Vec::new();
        for sql in statements(include_str!("reads.sql")) {
            if !bench.is_sent_away(sql) {
                wrong.push(format!("{sql}\n    is kept on the primary: {:?}", bench.classify(sql)));
            } else if let Finding::Differs(how) = bench.compare(sql).await {
                wrong.push(format!("{sql}\n    {how}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_hostile_is_sent_away() {
    for bin in installations() {
        let mut bench = Bench::start(&bin, SCHEMA).await;
        let hostile = statements(include_str!("hostile.sql"));
        let sent: Vec<&str> = hostile.filter(|sql| bench.is_sent_away(sql)).collect();
        assert!(sent.is_empty(), "{}", sent.join("\n"));
    }
}

/// What spoils a whole database, so that each stands in one of its own: what makes it, and what calls it without a name.
const POISONS: [(&str, &[&str]); 5] = [
    (
        "CREATE FUNCTION f(a point, b point) RETURNS boolean LANGUAGE sql AS 'INSERT INTO trail VALUES (1) RETURNING true';
         CREATE FUNCTION g(a point, b point) RETURNS integer LANGUAGE sql AS 'INSERT INTO trail VALUES (1) RETURNING 0';
         CREATE OPERATOR <|% (leftarg = point, rightarg = point, function = f);
         CREATE OPERATOR <=|% (leftarg = point, rightarg = point, function = f);
         CREATE OPERATOR =|% (leftarg = point, rightarg = point, function = f);
         CREATE OPERATOR >=|% (leftarg = point, rightarg = point, function = f);
         CREATE OPERATOR >|% (leftarg = point, rightarg = point, function = f);
         CREATE OPERATOR CLASS o DEFAULT FOR TYPE point USING btree AS OPERATOR 1 <|%, OPERATOR 2 <=|%, OPERATOR 3 =|%,
             OPERATOR 4 >=|%, OPERATOR 5 >|%, FUNCTION 1 g(point, point);",
        &[
            "SELECT DISTINCT at FROM places",
            "TABLE places ORDER BY at",
            "SELECT greatest('(1,2)'::point, '(0,0)'::point)",
            "SELECT point(1, 2) UNION SELECT point(1, 2)",
        ],
    ),
    (
        "CREATE FUNCTION f(p path) RETURNS lseg LANGUAGE sql AS 'INSERT INTO trail VALUES (1) RETURNING NULL::lseg';
         CREATE CAST (path AS lseg) WITH FUNCTION f(path) AS IMPLICIT;",
        &[
            "SELECT way FROM places UNION ALL SELECT piece FROM places",
            "SELECT coalesce(piece, way) FROM places",
            "SELECT ARRAY[piece, way] FROM places",
        ],
    ),
    (
        "CREATE FUNCTION f(n numeric) RETURNS boolean LANGUAGE sql AS 'INSERT INTO trail VALUES (1) RETURNING true';
         CREATE CAST (numeric AS boolean) WITH FUNCTION f(numeric) AS ASSIGNMENT;",
        &["SELECT i FROM places WHERE 1.5", "SELECT NOT 1.5"],
    ),
    (
        "CREATE FUNCTION f(p point) RETURNS bigint LANGUAGE sql AS 'INSERT INTO trail VALUES (1) RETURNING 1';
         CREATE CAST (point AS bigint) WITH FUNCTION f(point) AS ASSIGNMENT;",
        &["SELECT i FROM places LIMIT (SELECT at FROM places LIMIT 1)", "SELECT at::bigint FROM places"],
    ),
    (
        "CREATE FUNCTION f(p point) RETURNS text LANGUAGE sql AS 'INSERT INTO trail VALUES (1) RETURNING 1';
         CREATE CAST (point AS text) WITH FUNCTION f(point);",
        &["SELECT at::text FROM places", "SELECT CAST(at AS text) FROM places"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_though_nothing_names_it_is_not_sent_away() {
    const PLACES: &str =
        "CREATE TABLE trail (i integer); CREATE TABLE places (i integer, at point, way path, piece lseg);
                          INSERT INTO places VALUES (1, '(1,2)', '((0,0),(1,1))'), (2, '(0,5)', '[(0,0)]')";
    for bin in installations() {
        let mut bench = Bench::start(&bin, "").await;
        for (place, (poison, statements)) in POISONS.iter().enumerate() {
            bench.enter(&format!("poison{place}"), "template0").await;
            bench.change(&format!("{PLACES}; {poison}")).await;
            for sql in *statements {
                assert!(!bench.is_sent_away(sql), "{sql} behind\n{poison}");
                // It is hostile indeed.
                assert_ne!(bench.compare(sql).await, Finding::Fits, "{sql}");
            }
        }
    }
}

/// Judges statements of a kind: those that pglagoon would send away are run on both servers.
async fn judge_all(bench: &mut Bench, kind: &str, statements: impl IntoIterator<Item = String>) -> Tally {
    let mut tally = Tally::default();
    for sql in statements {
        tally.all += 1;
        if bench.is_sent_away(&sql) {
            tally.sent += 1;
            if let Finding::Differs(how) = bench.compare(&sql).await {
                tally.wrong.push(format!("{sql}\n    {how}"));
            }
        }
    }
    println!("{kind}: {} statements, {} sent away, {} wrongly", tally.all, tally.sent, tally.wrong.len());
    tally
}

#[derive(Debug, Default)]
struct Tally {
    all: usize,
    sent: usize,
    wrong: Vec<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_postgresql_brings_and_that_is_called_harmless_is() {
    for bin in installations() {
        let mut bench = Bench::start(&bin, SCHEMA).await;
        let mut wrong = Vec::new();
        for (kind, query) in builtin::KINDS {
            let statements = builtin::statements(&bench.primary, query).await;
            let tally = judge_all(&mut bench, kind, statements).await;
            assert!(tally.sent > 0, "no {kind} is harmless");
            wrong.extend(tally.wrong);
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_statements_that_are_sent_away_do_the_same_there() {
    /// How many statements are made on one installation, unless `PGLAGOON_TRUTH_STATEMENTS` says so.
    const COUNT: usize = 3000;
    let named = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let count = named("PGLAGOON_TRUTH_STATEMENTS").unwrap_or(COUNT as u64) as usize;
    let seed = named("PGLAGOON_TRUTH_SEED").unwrap_or(1);
    for bin in installations() {
        let mut bench = Bench::start(&bin, SCHEMA).await;
        let generator = Generator::new(seed);
        let tally = judge_all(&mut bench, "generated", generator.take(count)).await;
        assert!(tally.sent > count / 10, "only {} of {count} are reads", tally.sent);
        assert!(tally.wrong.is_empty(), "seed {seed}:\n{}", tally.wrong.join("\n"));
    }
}

/// Not a test of `make test`: PostgreSQL's own regression tests, from the folder that `PGLAGOON_TRUTH_REGRESS` names
/// (`src/test/regress` of its sources). Prints what went to the primary though it need not have.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "`make truth` runs it"]
async fn postgresqls_regression_tests_run_alike_where_they_are_sent_away() {
    let folder = std::env::var_os("PGLAGOON_TRUTH_REGRESS").expect("PGLAGOON_TRUTH_REGRESS names the folder");
    let mut bench = Bench::start(&installations()[0], "").await;
    let report = regress::run(&mut bench, std::path::Path::new(&folder)).await;
    println!("{report}");
    assert!(report.wrong.is_empty());
}
