//! A database as rows, and what the snapshot makes of it.

use super::*;

/// Rows from a table of words: one row a line, columns between `|`, `-` for NULL.
fn rows(table: &str) -> Rows {
    let lines = table.lines().map(str::trim).filter(|line| !line.is_empty());
    let column = |column: &str| (column.trim() != "-").then(|| column.trim().to_owned());
    lines.map(|line| line.split('|').map(column).collect()).collect()
}

/// A shop with something of everything that can go wrong.
fn shop_rows() -> [Rows; Snapshot::QUERY_COUNT] {
    let functions = rows(
        "public | f_write         | plpgsql | v | -        | false
         public | f_order         | sql     | s | -        | true
         shop   | overloaded      | sql     | i | -        | true
         public | overloaded      | c       | i | citext   | true
         public | similarity      | c       | i | pg_trgm  | false
         public | similarity_op   | c       | s | pg_trgm  | false
         public | set_limit       | c       | v | pg_trgm  | true
         public | dblink          | c       | v | dblink   | true
         public | crosstab        | c       | s | tablefunc | true
         public | extract_year    | c       | i | -        | true",
    );
    let operators = rows(
        "=== | public     | f_equal       | plpgsql  | v | -
         %   | public     | similarity_op | c        | s | pg_trgm
         ?   | public     | exist         | c        | i | hstore
         =   | public     | citext_eq     | c        | i | citext
         <=> | pg_catalog | int4eq        | internal | i | -
         <!> | pg_catalog | nextval       | internal | v | -",
    );
    let casts = rows(
        "16501 | 25    | text | i | public     | f_cast | plpgsql  | v | -
         16500 | 25    | text | i | pg_catalog | text   | internal | i | -
         114   | 16510 | doc  | e | public     | f_doc  | sql      | v | -
         25    | 869   | inet | e | public     | f_inet | sql      | v | -",
    );
    let support = rows(
        "16500 | 16500 | mood_cmp | c        | i
         16516 | 16516 | f_cmp    | sql      | i
         23    | 23    | btint4cmp | internal | i",
    );
    let types = rows(
        "16500 | public | mood            | e | E | 0     | 0     | 0     | -
         16501 | public | leaky           | e | E | 0     | 0     | 0     | -
         16502 | public | _mood           | b | A | 16500 | 0     | 0     | -
         16503 | public | positive        | d | N | 0     | 23    | 0     | -
         16504 | public | positive_strict | d | N | 0     | 23    | 0     | -
         16505 | public | _positive_strict | b | A | 16504 | 0    | 0     | -
         16506 | public | citext          | b | S | 0     | 0     | 0     | citext
         16507 | public | hstore          | b | U | 0     | 0     | 0     | hstore
         16508 | public | homemade        | b | U | 0     | 0     | 0     | -
         16509 | public | span            | r | R | 0     | 0     | 0     | -
         16510 | public | doc             | e | E | 0     | 0     | 0     | -
         16511 | public | orders          | c | C | 0     | 0     | 17001 | -
         16512 | public | strict_column   | c | C | 0     | 0     | 17010 | -
         16513 | public | tree            | c | C | 0     | 0     | 17020 | -
         16514 | public | _tree           | b | A | 16513 | 0     | 0     | -
         16515 | public | very_positive   | d | N | 0     | 16503 | 0     | -
         16516 | public | ordered         | e | E | 0     | 0     | 0     | -",
    );
    let constraints = rows(
        "16503 | CHECK ((VALUE > 0))
         16504 | CHECK (((VALUE > 0) AND (f_write() IS NULL)))
         16515 | CHECK ((VALUE > 10)) NOT VALID",
    );
    let columns = rows(
        "17009 | 16502
         17009 | 16506
         17009 | 16507
         17010 | 16504
         17011 | 16508
         17012 | 16501
         17020 | 16514",
    );
    let relations = rows(
        "17001 | public | orders        | r | p | false | false
         17002 | public | customers     | r | p | false | false
         17003 | public | t             | r | p | false | false
         17004 | public | pgbench_accounts | r | p | false | false
         17005 | public | monthly       | m | p | false | true
         17006 | public | unlogged      | r | u | false | false
         17007 | public | remote        | f | p | false | false
         17008 | public | secured       | r | p | true  | false
         17009 | public | people        | r | p | false | false
         17010 | public | strict_column | r | p | false | false
         17011 | public | homemade_column | r | p | false | false
         17012 | public | leaky_column  | r | p | false | false
         17013 | public | sq            | S | p | false | false
         17014 | public | ruled         | r | p | false | true
         17015 | public | partitioned   | p | p | false | false
         17016 | public | partition_1   | r | p | false | false
         17017 | public | partitioned_remotely | p | p | false | false
         17018 | public | partitioned_below    | p | p | false | false
         17019 | shop   | two_faced     | r | p | false | false
         17021 | public | two_faced     | r | u | false | false
         17022 | public | keyed         | p | p | false | false
         17101 | public | recent_orders | v | p | false | true
         17102 | public | view_of_view  | v | p | false | true
         17103 | public | view_writes   | v | p | false | true
         17104 | public | view_over_view_writes | v | p | false | true
         17105 | public | view_nextval  | v | p | false | true
         17106 | public | view_locks    | v | p | false | true
         17107 | public | view_over_secured | v | p | false | true
         17108 | public | view_dropped  | v | p | false | true
         17109 | public | cycle_a       | v | p | false | true
         17110 | public | cycle_b       | v | p | false | true",
    );
    let keys = rows("17022");
    let children = rows(
        "17016 | 17015
         17007 | 17018
         17018 | 17017
         99999 | 17015",
    );
    let views = rows(
        "17102 |  SELECT v.id FROM recent_orders v WHERE (v.id > 1);
         17101 |  SELECT orders.id, (orders.total)::numeric(10,2) AS total FROM orders WHERE (orders.created_at > (now() - '7 days'::interval));
         17103 |  SELECT f_write() AS x;
         17104 |  SELECT x FROM view_writes;
         17105 |  SELECT nextval('sq'::regclass) AS nextval;
         17106 |  SELECT orders.id FROM orders FOR UPDATE OF orders;
         17107 |  SELECT id FROM secured;
         17108 | -
         17109 |  SELECT * FROM cycle_b;
         17110 |  SELECT * FROM cycle_a;",
    );
    let bodies = rows(
        "f_write | BEGIN PERFORM pg_advisory_lock(1); END | false
         f_order | SELECT f_write() | false
         t_audit | BEGIN PERFORM set_config('a.b', 'c', true); INSERT INTO audit VALUES (1); END | true",
    );
    let by_the_way = rows("f_harmless()");
    [
        functions,
        operators,
        casts,
        support,
        types,
        constraints,
        columns,
        bodies,
        by_the_way,
        relations,
        keys,
        children,
        views,
    ]
}

/// The shop as a catalog.
pub(in crate::catalog) fn shop() -> Snapshot {
    Snapshot::from_rows(1, &shop_rows(), &[]).expect("the rows have the columns that the queries name")
}

fn relation(name: &str) -> Verdict {
    shop().relation(None, name)
}

#[test]
fn relations_that_a_replica_has_alike_are_harmless() {
    for name in ["orders", "people", "monthly", "partitioned", "recent_orders", "view_of_view"] {
        assert_eq!(relation(name), Verdict::Harmless, "{name}");
        assert_eq!(shop().relation(Some("public"), name), Verdict::Harmless, "{name}");
        assert_eq!(shop().relation(Some("shop"), name), Verdict::Unknown, "{name}");
    }
}

#[test]
fn relations_that_it_has_not_are_harmful() {
    for name in [
        "unlogged",
        "remote",
        "secured",
        "sq",
        "ruled",
        "partitioned_remotely",
        "partitioned_below",
        "strict_column",
        "homemade_column",
        "leaky_column",
        "view_writes",
        "view_over_view_writes",
        "view_nextval",
        "view_locks",
        "view_over_secured",
        "view_dropped",
        "cycle_a",
        "cycle_b",
        "keyed",
    ] {
        assert_eq!(relation(name), Verdict::Harmful, "{name}");
    }
    assert_eq!(relation("nobody_knows"), Verdict::Unknown);
}

#[test]
fn a_name_is_as_bad_as_the_worst_that_it_could_mean() {
    assert_eq!(relation("two_faced"), Verdict::Harmful);
    assert_eq!(shop().relation(Some("shop"), "two_faced"), Verdict::Harmless);
    assert_eq!(shop().function(None, "overloaded"), Verdict::Harmful);
    assert_eq!(shop().function(Some("public"), "overloaded"), Verdict::Harmless);
}

#[test]
fn functions_are_unsure_but_reviewed_ones() {
    assert_eq!(shop().function(None, "f_write"), Verdict::Harmful);
    assert_eq!(shop().function(None, "similarity"), Verdict::Harmless);
    for name in ["set_limit", "dblink", "crosstab", "extract_year"] {
        assert_eq!(shop().function(None, name), Verdict::Harmful, "{name}");
    }
    assert_eq!(shop().function(None, "nobody_knows"), Verdict::Unknown);
    assert_eq!(shop().function(None, "lower"), Verdict::Harmless);
}

#[test]
fn writing_leaves_behind_what_runs_by_the_way() {
    assert_eq!(shop().writes(), Effects::NONE);
    for (table, row, effects) in [
        (7, "t | BEGIN CREATE TEMP TABLE seen (id int); END | true", Effects::TEMPORARY),
        (7, "t | BEGIN PERFORM f_order(); END | true", Effects::ADVISORY_LOCK),
        (8, "f_write()", Effects::ADVISORY_LOCK),
        (8, "currval()", Effects::SEQUENCE),
    ] {
        let mut all = shop_rows();
        all[table].extend(rows(row));
        assert_eq!(Snapshot::from_rows(2, &all, &[]).unwrap().writes(), effects, "{row}");
    }
}

#[test]
fn a_function_of_a_users_takes_a_built_in_name_with_it() {
    let mut rows = shop_rows();
    rows[0].push(["public", "lower", "plpgsql", "v", "-", "true"].map(|c| Some(c.to_owned())).to_vec());
    rows[0].last_mut().expect("it was pushed")[4] = None;
    let snapshot = Snapshot::from_rows(2, &rows, &[]).expect("the rows are well formed");
    assert_eq!(snapshot.function(None, "lower"), Verdict::Harmful);
    assert_eq!(snapshot.function(Some("pg_catalog"), "lower"), Verdict::Harmless);
    assert_eq!(snapshot.attribute("lower"), Verdict::Harmful);
}

#[test]
fn attributes_are_columns_unless_a_function_of_one_argument_bears_the_name() {
    assert_eq!(shop().attribute("f_order"), Verdict::Harmful);
    assert_eq!(shop().attribute("f_write"), Verdict::Unknown, "it takes no argument");
    assert_eq!(shop().attribute("nextval"), Verdict::Harmful);
    assert_eq!(shop().attribute("id"), Verdict::Unknown);
    assert_eq!(shop().attribute("name"), Verdict::Unknown);
}

#[test]
fn operators_are_as_good_as_their_functions() {
    for symbol in ["+", "%", "?", "=", "<=>"] {
        assert_eq!(shop().operator(symbol), Verdict::Harmless, "{symbol}");
    }
    for symbol in ["===", "<!>"] {
        assert_eq!(shop().operator(symbol), Verdict::Harmful, "{symbol}");
    }
    assert_eq!(shop().operator("@@@@"), Verdict::Unknown);
}

#[test]
fn types_are_as_good_as_their_parts() {
    for name in ["mood", "_mood", "positive", "very_positive", "citext", "hstore", "orders", "int4", "text"] {
        assert_eq!(shop().type_name(None, name), Verdict::Harmless, "{name}");
    }
    for name in [
        "leaky",
        "positive_strict",
        "_positive_strict",
        "homemade",
        "span",
        "doc",
        "strict_column",
        "tree",
        "inet",
        "_inet",
    ] {
        assert_eq!(shop().type_name(None, name), Verdict::Harmful, "{name}");
    }
    assert_eq!(shop().type_name(None, "nobody_knows"), Verdict::Unknown);
}

#[test]
fn a_conversion_of_built_in_types_spoils_all_expressions() {
    let text = |row: &[&str]| row.iter().map(|column| Some((*column).to_owned())).collect::<Vec<_>>();
    for (query, row) in [
        (2, &["23", "25", "text", "i", "public", "f", "sql", "v", ""][..]),
        (2, &["23", "16", "bool", "a", "public", "f", "sql", "v", ""]),
        (3, &["600", "600", "f", "sql", "i"]),
    ] {
        let mut rows = shop_rows();
        rows[query].push(text(row));
        let snapshot = Snapshot::from_rows(2, &rows, &[]).expect("the rows are well formed");
        assert_eq!(snapshot.conversions(), Verdict::Harmful, "{row:?}");
    }
    assert_eq!(shop().conversions(), Verdict::Harmless);
}

#[test]
fn functions_that_the_operator_declares_safe_are() {
    let safe = ["f_write".to_owned(), "shop.overloaded".to_owned()];
    let snapshot = Snapshot::from_rows(2, &shop_rows(), &safe).expect("the rows are well formed");
    assert_eq!(snapshot.function(None, "f_write"), Verdict::Harmless);
    assert_eq!(snapshot.relation(None, "view_writes"), Verdict::Harmless);
    assert_eq!(snapshot.function(None, "overloaded"), Verdict::Harmless);
    assert_eq!(snapshot.function(None, "f_order"), Verdict::Harmful);
}

#[test]
fn malformed_rows_are_refused() {
    for query in 0..Snapshot::QUERY_COUNT {
        let mut rows = shop_rows();
        rows[query].push(vec![None]);
        assert_eq!(Snapshot::from_rows(1, &rows, &[]).err(), Some(MalformedRow), "query {query}");
    }
    let empty = Snapshot::from_rows(7, &Default::default(), &[]).expect("nothing is well formed");
    assert_eq!(empty.version(), 7);
    assert_eq!(empty.relation(None, "pg_class"), Verdict::Harmless);
}
