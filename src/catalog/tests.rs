//! What the classifier says with a real catalog behind it: the hazards of read/write splitting, each as a text.

use proptest::prelude::*;

use super::snapshot::tests::shop;
use super::{Builtin, NoCatalog, Snapshot};
use crate::sql::cache::Cache;
use crate::sql::classify::classify;
use crate::sql::fingerprint::fingerprint;
use crate::sql::second::confirm;
use crate::sql::{Access, Effects, Reason, Statement, TransactionVerb};

/// As the cache does it: proof and second opinion.
fn judge(text: &str, catalog: &Snapshot) -> Statement {
    let text = text.as_bytes();
    confirm(text, classify(text, catalog), catalog)
}

fn assert_reads(texts: &[&str]) {
    let shop = shop();
    for text in texts {
        let statement = judge(text, &shop);
        assert_eq!(
            (statement.access, statement.reason),
            (Access::Read, Reason::ProvenRead),
            "{text}\n{statement:?}"
        );
        assert_eq!(statement.effects, Effects::NONE, "{text}");
    }
}

fn assert_all(access: Access, texts: &[&str]) {
    let shop = shop();
    for text in texts {
        let statement = judge(text, &shop);
        assert_eq!(statement.access, access, "{text}\n{statement:?}");
    }
}

#[test]
fn ordinary_reads_of_applications_are_proven() {
    assert_reads(&[
        // pgbench, psql, drivers at the start
        "SELECT abalance FROM pgbench_accounts WHERE aid = $1;",
        "SELECT 1",
        "select version()",
        "SELECT current_schema()",
        "select pg_catalog.version(), current_database(), CURRENT_USER, session_user",
        "SHOW TRANSACTION ISOLATION LEVEL",
        "SHOW standard_conforming_strings; SHOW timezone",
        "select t.oid, typarray from pg_type t where t.typname = 'hstore'",
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r','p','') AND n.nspname !~ '^pg_toast' AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 1,2;",
        "SELECT c.oid::pg_catalog.regclass, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid",
        "SELECT table_name FROM information_schema.tables WHERE table_schema = ANY (current_schemas(false))",
        // Django
        r#"SELECT "orders"."id", "orders"."total" FROM "orders" INNER JOIN "customers" ON ("orders"."customer_id" = "customers"."id") WHERE ("customers"."email" = 'a@b.c' AND NOT ("orders"."status" IN ('x', 'y'))) ORDER BY "orders"."created_at" DESC LIMIT 21"#,
        r#"SELECT (1) AS "a" FROM "customers" WHERE "customers"."email"::text = UPPER('x') LIMIT 1"#,
        r#"SELECT COUNT(*) AS "__count" FROM "orders" WHERE "orders"."total" BETWEEN 1 AND 2"#,
        r#"SELECT DISTINCT DATE_TRUNC('day', "orders"."created_at" AT TIME ZONE 'UTC') AS "d" FROM "orders" GROUP BY 1"#,
        r#"SELECT "customers"."id" FROM "customers" WHERE EXISTS(SELECT 1 AS "a" FROM "orders" U0 WHERE U0."customer_id" = ("customers"."id") LIMIT 1)"#,
        // SQLAlchemy
        "SELECT orders.id AS orders_id, customers_1.name AS customers_1_name \nFROM orders LEFT OUTER JOIN customers AS customers_1 ON customers_1.id = orders.customer_id \nWHERE orders.id = $1",
        "SELECT anon_1.id, row_number() OVER (PARTITION BY anon_1.cid ORDER BY anon_1.id DESC NULLS LAST) AS rn FROM (SELECT orders.id AS id, orders.customer_id AS cid FROM orders) AS anon_1",
        "WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 100) SELECT sum(n) FROM t",
        "SELECT CAST(orders.total AS NUMERIC(10, 2)) AS total FROM orders WHERE orders.id IN (1, 2, 3)",
        "SELECT orders.id FROM orders WHERE orders.note LIKE '%' || $1::VARCHAR || '%' ESCAPE '/'",
        // Rails
        r#"SELECT "customers".* FROM "customers" WHERE "customers"."id" = $1 LIMIT $2 /*application:Shop,controller:x*/"#,
        r#"SELECT 1 AS one FROM "customers" WHERE LOWER("customers"."email") = LOWER($1) LIMIT $2"#,
        r#"SELECT "orders"."id" AS t0_r0, COALESCE(SUM("orders"."total"), 0) FROM "orders" GROUP BY "orders"."id" HAVING COUNT(DISTINCT "orders"."id") > 1"#,
        // Hibernate
        "select o1_0.id,o1_0.total from orders o1_0 where o1_0.customer_id=$1 order by o1_0.id fetch first $2 rows only",
        "select count(o1_0.id) from orders o1_0 join customers c1_0 on c1_0.id=o1_0.customer_id where c1_0.name like $1 escape '\\'",
        "select extract(year from o.created_at), trim(both ' ' from c.name), substring(c.name from 1 for 2), position('x' in c.name) from orders o cross join customers c",
        // The rest of the language
        "TABLE orders",
        "VALUES (1, 'a'), (2, 'b') ORDER BY 1",
        "(SELECT id FROM orders) UNION ALL (SELECT id FROM customers) ORDER BY 1",
        "((SELECT 1) UNION (SELECT 2)) EXCEPT SELECT 3",
        "SELECT * FROM ((SELECT 1) UNION (SELECT 2)) x, (orders JOIN customers USING (id)) AS y, ((orders a JOIN orders b ON a.id = b.id) CROSS JOIN customers c)",
        "SELECT ((SELECT 1) + 2), (SELECT max(id) FROM orders), ARRAY(SELECT id FROM orders), ARRAY[1,2][1:2]",
        "SELECT * FROM ONLY orders, ONLY (orders) o2, orders * o3, LATERAL (SELECT o3.id) l",
        "SELECT * FROM orders TABLESAMPLE bernoulli (10) REPEATABLE (5)",
        "SELECT * FROM generate_series(1, 10) WITH ORDINALITY AS g(n, i), ROWS FROM (unnest(ARRAY[1]), unnest(ARRAY[2])) AS u(a, b)",
        "SELECT * FROM json_to_recordset('[]') AS x(a int, b text, c numeric(10,2), d timestamp with time zone[], e \"char\")",
        "SELECT a.x FROM (VALUES (1, 'a')) AS a(x, y)",
        "SELECT date '2020-01-01', interval '1 day', interval '1' day to second, timestamp with time zone '2020-01-01', double precision '1', time(3) '10:00'",
        "SELECT '1'::int, '{}'::jsonb -> 'a' ->> 'b', x.*, 'x'::character varying(10)[], 1::double precision FROM orders x",
        "SELECT CASE id WHEN 1 THEN 'a' ELSE 'b' END, CASE WHEN id > 1 THEN NULL END FROM orders",
        "SELECT rank() OVER w, sum(total) FILTER (WHERE total > 0) OVER (w ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW EXCLUDE GROUP) FROM orders WINDOW w AS (PARTITION BY id ORDER BY total)",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY total), string_agg(note, ',' ORDER BY id DESC), grouping(id) FROM orders GROUP BY GROUPING SETS ((id), ()), ROLLUP (id), CUBE (note)",
        "SELECT * FROM orders ORDER BY id USING <, note COLLATE \"C\" FETCH FIRST 5 ROWS WITH TIES",
        "SELECT 1 OPERATOR(pg_catalog.+) 2, a IS DISTINCT FROM b, a IS NOT NULL, NOT (a AND b), (a, b) OVERLAPS (c, d), x SIMILAR TO 'y' FROM t",
        "SELECT CURRENT_TIMESTAMP(3), LOCALTIME, now() AT TIME ZONE 'UTC', random(), gen_random_uuid(), clock_timestamp()",
        "SELECT 1 AS into, 2 AS update, 3 AS \"for\", 4 year FROM orders AS data (value, name)",
        "SELECT t.select, t.for, t.from FROM t",
        "SELECT make_interval(days => 10), json_build_object('a', 1), xmlelement(name foo, xmlattributes(1 AS a), 'x')",
        "SELECT row_to_json(o), ROW(1, 2), (o).id, ($1).x, (ARRAY[o])[1].id, greatest(1, 2), nullif(a, b), CAST(a AS int[]) FROM orders o",
        "WITH a AS MATERIALIZED (SELECT 1 AS x), b(y) AS NOT MATERIALIZED (SELECT x FROM a) SELECT * FROM a JOIN b ON x = y",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION SELECT n FROM r) SEARCH DEPTH FIRST BY n SET o CYCLE n SET c USING p SELECT * FROM r",
        "EXPLAIN SELECT * FROM orders",
        "EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) SELECT * FROM orders",
        "EXPLAIN (SELECT 1)",
        "EXPLAIN VERBOSE WITH x AS (SELECT 1) SELECT * FROM x",
        "COPY orders TO STDOUT",
        "COPY public.orders (id, total) TO STDOUT WITH (FORMAT csv, HEADER true, FORCE_QUOTE *)",
        "COPY (SELECT * FROM orders WHERE id > 1) TO STDOUT CSV DELIMITER ','",
        "SELECT 1; SELECT 2;",
        "SELECT left(name, 1), right(name, 1) FROM customers c LEFT JOIN orders o ON left(c.name, 1) = o.note RIGHT JOIN t ON true",
        "SELECT * FROM recent_orders NATURAL JOIN monthly",
        "SELECT mood, tags, email FROM people WHERE mood = 'happy' AND email = 'x'::citext AND tags ? 'a'",
        "SELECT 'happy'::mood, '5'::positive, NULL::orders, ARRAY['sad'::public.mood]",
        "SELECT public.similarity(name, 'x') FROM customers WHERE name % 'x'",
    ]);
}

#[test]
fn writes_are_known_as_such() {
    assert_all(
        Access::Write,
        &[
            "INSERT INTO orders VALUES (1)",
            "insert into temp values (1)",
            "/* c */ UPDATE orders SET total = 1",
            "DELETE FROM orders WHERE false",
            "MERGE INTO orders USING t ON true WHEN MATCHED THEN DELETE",
            "TRUNCATE orders",
            "CREATE TABLE x (id int)",
            "CREATE TEMP TABLE x AS SELECT 1",
            "ALTER SYSTEM SET work_mem = '1MB'",
            "DROP TABLE x",
            "COMMENT ON TABLE orders IS 'x'",
            "GRANT SELECT ON orders TO bob",
            "ANALYZE",
            "VACUUM orders",
            "REINDEX TABLE orders",
            "CLUSTER orders",
            "REFRESH MATERIALIZED VIEW monthly",
            "CHECKPOINT",
            "LOCK TABLE orders",
            "LOCK TABLE orders IN ACCESS SHARE MODE",
            "NOTIFY x, 'y'",
            "DO $$ BEGIN PERFORM 1; END $$",
            "CALL read_proc()",
            "IMPORT FOREIGN SCHEMA x FROM SERVER y INTO z",
            "PREPARE TRANSACTION 'x'",
            "COMMIT PREPARED 'x'",
            "ROLLBACK PREPARED 'x'",
            // CTEs, INTO, locks
            "WITH x AS (INSERT INTO orders VALUES (1) RETURNING id) SELECT * FROM x",
            "WITH x AS (UPDATE orders SET id = 1 WHERE false RETURNING id) SELECT * FROM x",
            "WITH x AS (SELECT 1) DELETE FROM orders",
            "WITH x AS (SELECT 1), y AS MATERIALIZED (DELETE FROM orders RETURNING *) SELECT * FROM y",
            "WITH x AS (WITH y AS (SELECT 1) MERGE INTO orders USING y ON true WHEN MATCHED THEN DELETE RETURNING 1) SELECT 1",
            "SELECT * INTO x FROM orders",
            "SELECT 1 INTO TEMP x",
            "SELECT * FROM orders FOR UPDATE",
            "SELECT * FROM orders FOR NO KEY UPDATE",
            "SELECT * FROM orders FOR SHARE NOWAIT",
            "SELECT * FROM orders FOR KEY SHARE SKIP LOCKED",
            "SELECT * FROM orders WHERE false FOR UPDATE OF orders",
            "SELECT * FROM (SELECT * FROM orders FOR UPDATE) x",
            "SELECT (SELECT id FROM orders LIMIT 1 FOR UPDATE)",
            "SELECT ((SELECT id FROM orders) FOR UPDATE)",
            "SELECT substring((SELECT note FROM orders FOR UPDATE) FROM 1 FOR 2)",
            "WITH x AS (SELECT * FROM orders FOR UPDATE) SELECT 1",
            "SELECT * FROM orders ORDER BY id LIMIT 1 FOR/**/UPDATE",
            "DECLARE c CURSOR FOR SELECT * FROM orders FOR UPDATE",
            "EXPLAIN ANALYZE INSERT INTO orders VALUES (1)",
            "EXPLAIN (ANALYZE) DELETE FROM orders",
            "EXPLAIN ANALYZE SELECT nextval('sq')",
            "COPY orders FROM STDIN",
            "COPY nobody_knows FROM STDIN",
            "COPY orders (id) FROM '/tmp/x'",
            "COPY orders TO '/tmp/x'",
            "COPY orders TO PROGRAM 'cat'",
            "COPY (SELECT 1) TO PROGRAM 'cat'",
            "COPY (INSERT INTO orders VALUES (1) RETURNING id) TO STDOUT",
            "COPY (UPDATE orders SET id = 1 RETURNING id) TO STDOUT",
            // One string, several statements
            "SELECT 1; INSERT INTO orders VALUES (1)",
            "INSERT INTO orders VALUES (1); SELECT 1",
            "SELECT 1 --\r; DELETE FROM orders",
            "SELECT E'a'\n'\\'' , nextval('x') --'",
            "SELECT $$;$$; DROP TABLE x",
        ],
    );
}

#[test]
fn functions_that_write_or_lock_are_found_in_every_spelling() {
    assert_all(
        Access::Write,
        &[
            "SELECT nextval('sq')",
            "SELECT setval('sq', 1)",
            "SELECT currval('sq')",
            "SELECT lastval()",
            "SELECT ('sq'::regclass).nextval",
            "SELECT (1::bigint).pg_advisory_lock",
            "SELECT o.pg_advisory_lock FROM (SELECT 1::bigint) o",
            "SELECT pg_advisory_lock(1)",
            "SELECT pg_catalog.pg_advisory_lock(1)",
            "SELECT \"pg_advisory_lock\"(1)",
            "SELECT \"pg_catalog\" . \"pg_advisory_lock\" /* x */ (1)",
            "SELECT U&\"pg\\005fadvisory_lock\"(1)",
            "SELECT U&\"pg!005fadvisory_lock\" UESCAPE '!' (1)",
            "SELECT PG_ADVISORY_LOCK (hashtext('x'))",
            "SELECT coalesce(pg_advisory_lock(1)::text, 'x')",
            "SELECT pg_advisory_lock(1, 2)",
            "SELECT pg_advisory_unlock_shared(1)",
            "SELECT pg_try_advisory_lock(1)",
            "SELECT pg_advisory_xact_lock(1)",
            "SELECT pg_advisory_unlock(1)",
            "SELECT CASE WHEN false THEN nextval('sq') ELSE 0 END",
            "SELECT 1 WHERE false AND nextval('sq') > 0",
            "SELECT nextval('sq') LIMIT 0",
            "SELECT * FROM generate_series(1, 2) g, LATERAL (SELECT nextval('sq')) l",
            "SELECT 1 ORDER BY nextval('sq')",
            "SELECT 1 LIMIT nextval('sq')",
            "SELECT sum(1) OVER (ORDER BY nextval('sq'))",
            "SELECT sum(1) FILTER (WHERE nextval('sq') > 0)",
            "SELECT 1 UNION SELECT nextval('sq')",
            "VALUES (nextval('sq'))",
            "SELECT * FROM orders o JOIN customers c ON nextval('sq') = o.id",
            "SELECT ARRAY[nextval('sq')], '{1}'::int[]",
            "SELECT o.tags[nextval('sq')] FROM orders o",
            "SELECT CAST(nextval('sq') AS text)",
            "SELECT * FROM orders TABLESAMPLE bernoulli (nextval('sq'))",
            "SELECT count(*) FROM orders GROUP BY ROLLUP (nextval('sq'))",
            "SELECT pg_notify('a', 'b')",
            "SELECT txid_current()",
            "SELECT pg_current_xact_id()",
            "SELECT lo_create(0)",
            "SELECT lo_from_bytea(0, 'x')",
            "SELECT lo_put(1, 0, 'x')",
            "SELECT lo_unlink(999)",
            "SELECT lo_import('/tmp/x')",
            "SELECT pg_logical_emit_message(true, 'a', 'b')",
            "SELECT pg_logical_emit_message(false, 'a', 'b') WHERE false",
            "SELECT dblink_exec('', 'INSERT')",
            "SELECT pg_promote()",
            "SELECT pg_terminate_backend(1)",
            "SELECT pg_cancel_backend(1)",
            "SELECT pg_wal_replay_pause()",
            "SELECT pg_wal_replay_resume()",
            "SELECT pg_reload_conf()",
            "SELECT pg_stat_reset()",
            "SELECT pg_stat_statements_reset()",
            "SELECT pg_switch_wal()",
            "SELECT pg_create_restore_point('x')",
            "SELECT pg_import_system_collations('pg_catalog')",
            "SELECT pg_create_physical_replication_slot('x')",
            "SELECT pg_create_logical_replication_slot('x', 'y')",
            "SELECT pg_drop_replication_slot('x')",
            "SELECT pg_replication_origin_create('x')",
            "SELECT brin_summarize_new_values('x')",
            "SELECT set_config('work_mem', '8MB', false)",
            "SELECT set_config('transaction_read_only', 'off', false)",
            "SELECT setseed(0.5)",
        ],
    );
}

#[test]
fn what_is_not_proven_stays_on_the_primary() {
    assert_all(
        Access::Unsure,
        &[
            // Functions of users, wherever they hide
            "SELECT f_write()",
            "SELECT public.f_write()",
            "SELECT * FROM f_write()",
            "SELECT * FROM ROWS FROM (f_write(), unnest(ARRAY[1]))",
            "SELECT 1 WHERE f_write() IS NULL",
            "SELECT o.f_order FROM orders o",
            "SELECT (o).f_order FROM orders o",
            "SELECT lower(name) FROM customers ORDER BY f_write()",
            "SELECT nobody_knows(1)",
            "SELECT shop.lower('x')",
            "SELECT overloaded('x')",
            "SELECT a.b.c(1)",
            "SELECT positive_strict(-1)",
            "SELECT (5).positive_strict",
            // Built-in ones that answer about their server or fail on a standby
            "SELECT pg_is_in_recovery()",
            "SELECT pg_backend_pid()",
            "SELECT inet_server_addr()",
            "SELECT current_setting('transaction_read_only')",
            "SELECT pg_last_wal_replay_lsn()",
            "SELECT pg_last_wal_receive_lsn()",
            "SELECT pg_last_xact_replay_timestamp()",
            "SELECT pg_last_committed_xact()",
            "SELECT pg_current_wal_lsn()",
            "SELECT pg_current_wal_insert_lsn()",
            "SELECT pg_walfile_name('0/0')",
            "SELECT txid_current_if_assigned()",
            "SELECT txid_current_snapshot()",
            "SELECT pg_current_snapshot()",
            "SELECT pg_export_snapshot()",
            "SELECT pg_ls_dir('.')",
            "SELECT pg_read_file('PG_VERSION')",
            "SELECT lo_open(1, 131072)",
            "SELECT lo_export(1, '/tmp/x')",
            "SELECT query_to_xml('SELECT nextval(''sq'')', true, true, '')",
            "SELECT table_to_xml('orders', true, true, '')",
            "SELECT ts_stat('SELECT 1')",
            "SELECT ts_rewrite('a'::tsquery, 'SELECT 1')",
            "SELECT dblink('', 'SELECT 1')",
            "SELECT pg_input_is_valid('1', 'positive_strict')",
            "SELECT pg_sequence_last_value('sq')",
            // Relations
            "SELECT * FROM nobody_knows",
            "SELECT * FROM public.nobody_knows",
            "SELECT * FROM db.public.orders",
            "SELECT * FROM view_writes",
            "SELECT * FROM view_over_view_writes",
            "SELECT * FROM view_nextval",
            "SELECT * FROM view_locks",
            "SELECT * FROM secured",
            "SELECT * FROM view_over_secured",
            "SELECT * FROM unlogged",
            "SELECT count(*) FROM orders WHERE false AND id = (SELECT id FROM unlogged)",
            "SELECT * FROM remote",
            "SELECT * FROM partitioned_remotely",
            "SELECT * FROM sq",
            "SELECT * FROM pg_temp.x",
            "SELECT * FROM two_faced",
            "SELECT * FROM strict_column",
            "SELECT * FROM pg_stat_activity",
            "SELECT * FROM pg_catalog.pg_locks",
            "SELECT * FROM pg_settings",
            "SELECT * FROM pg_replication_slots",
            "SELECT * FROM pg_sequences",
            "TABLE unlogged",
            "COPY unlogged TO STDOUT",
            "COPY (SELECT * FROM unlogged) TO STDOUT",
            "EXPLAIN SELECT * FROM unlogged",
            "SELECT * FROM orders, unlogged",
            "SELECT * FROM orders JOIN unlogged ON true",
            "SELECT * FROM (orders JOIN unlogged ON true)",
            "SELECT * FROM ((SELECT 1) x CROSS JOIN unlogged)",
            "SELECT 1 WHERE 1 IN (TABLE unlogged)",
            // A CTE's name hides a relation only where PostgreSQL sees it
            "WITH unlogged AS (SELECT * FROM unlogged) SELECT * FROM unlogged",
            "SELECT * FROM (WITH unlogged AS (SELECT 1) SELECT * FROM unlogged) x, unlogged",
            "WITH unlogged AS (SELECT 1) SELECT * FROM public.unlogged",
            "WITH a AS (SELECT * FROM unlogged), unlogged AS (SELECT 1) SELECT 1",
            "WITH f_write AS (SELECT 1) SELECT f_write()",
            // Operators, casts, types
            "SELECT 1 === 2",
            "SELECT 1 OPERATOR(public.===) 2",
            "SELECT 'x'::positive_strict",
            "SELECT CAST(1 AS positive_strict)",
            "SELECT positive_strict '1'",
            "SELECT public.positive_strict '1'",
            "SELECT ARRAY['1']::positive_strict[]",
            "SELECT * FROM json_to_recordset('[]') AS x(a int, b positive_strict)",
            "SELECT json_value('1', '$' RETURNING positive_strict)",
            "SELECT NULL::strict_column",
            "SELECT 'x'::nobody_knows",
            "SELECT * FROM xmltable('/a' PASSING '<a/>' COLUMNS b positive_strict PATH '.')",
            // EXPLAIN ANALYZE, whatever its value
            "EXPLAIN ANALYZE SELECT 1",
            "EXPLAIN (ANALYZE FALSE) SELECT 1",
            "EXPLAIN (COSTS, ANALYZE 0) SELECT 1",
            "EXPLAIN ANALYZE EXECUTE q",
            "EXPLAIN INSERT INTO orders VALUES (1)",
            // Commands
            "SHOW ALL",
            "SHOW transaction_read_only",
            "SHOW in_hot_standby",
            "SHOW data_directory",
            "SET work_mem = '1MB'",
            "SET LOCAL work_mem = '1MB'",
            "SET TRANSACTION READ WRITE",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
            "SET default_transaction_isolation = 'serializable'",
            "SET TRANSACTION SNAPSHOT '00000003-0000001B-1'",
            "SET ROLE bob",
            "SET CONSTRAINTS ALL DEFERRED",
            "RESET ALL",
            "DISCARD ALL",
            "DISCARD TEMP",
            "DISCARD SEQUENCES",
            "LOAD 'auto_explain'",
            "LISTEN x",
            "UNLISTEN *",
            "PREPARE q AS SELECT 1",
            "PREPARE q AS INSERT INTO orders VALUES (1)",
            "EXECUTE q",
            "DEALLOCATE ALL",
            "DECLARE c CURSOR FOR SELECT 1",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
            "FETCH ALL FROM c",
            "CLOSE c",
            "BEGIN",
            "BEGIN READ ONLY",
            "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE",
            "START TRANSACTION",
            "SAVEPOINT a",
            "BEGIN; SELECT 1; COMMIT",
            "SELECT 1; ROLLBACK",
            // Texts that nobody understands
            "FROBNICATE",
            "SELECT 'x",
            "SELECT 1 /* x",
            "SELECT \\gset",
            "SELECT 1for update",
            "SELECT * FROM orders LIMIT 1for update",
            "FROM orders SELECT *",
            "SELECT 1)",
            "SELECT (1",
            "\"select\" 1",
            "SELECT x FROM json_table('[1]', '$[*]' COLUMNS (a int PATH '$'))",
            "WITH x AS (SELECT 1)",
            "SELECT update FROM orders",
        ],
    );
}

#[test]
fn reasons_name_the_word_that_decided() {
    let shop = shop();
    let cases = [
        ("SELECT f_write(1)", Reason::HarmfulFunction, "f_write"),
        ("SELECT public.nobody_knows(1)", Reason::UnknownFunction, "nobody_knows"),
        ("SELECT * FROM public.unlogged", Reason::HarmfulRelation, "unlogged"),
        ("SELECT * FROM x", Reason::UnknownRelation, "x"),
        ("SELECT 1 === 2", Reason::UserDefined, "==="),
        ("SELECT 1; insert into orders values (1)", Reason::WriteCommand, "insert"),
        ("SELECT 1 FOR UPDATE", Reason::LockingClause, "UPDATE"),
        ("SELECT * INTO x FROM orders", Reason::SelectInto, "INTO"),
        ("WITH x AS (DELETE FROM orders) SELECT 1", Reason::ModifyingCte, "DELETE"),
        ("BEGIN", Reason::TransactionCommand, "BEGIN"),
        ("SET a = 1", Reason::SessionCommand, "SET"),
        ("FROBNICATE", Reason::Unrecognised, "FROBNICATE"),
        ("SELECT 'x", Reason::Unrecognised, ""),
        ("SHOW 'secret'", Reason::SessionCommand, ""),
        ("", Reason::Empty, ""),
        ("SELECT 1", Reason::ProvenRead, ""),
        ("SELECT nextval('sq')", Reason::HarmfulFunction, "nextval"),
    ];
    for (text, reason, token) in cases {
        let statement = judge(text, &shop);
        assert_eq!((statement.reason, &*statement.token), (reason, token), "{text}");
    }
    assert!(judge(&format!("SELECT {}('x')", "é".repeat(60)), &shop).token.len() <= 64);
}

#[test]
fn hints_override_all_but_writes() {
    let shop = shop();
    let cases = [
        ("/* pglagoon: primary */ SELECT 1", Access::Unsure, Reason::HintPrimary),
        ("SELECT f_write() /* pglagoon: primary */", Access::Unsure, Reason::HintPrimary),
        ("/* pglagoon: primary */ INSERT INTO orders VALUES (1)", Access::Write, Reason::WriteCommand),
        ("/* pglagoon: replica */ SELECT f_write()", Access::Read, Reason::HintReplica),
        ("/*pglagoon:replica*/ SELECT * FROM remote", Access::Read, Reason::HintReplica),
        ("/* pglagoon: replica */ SELECT 1", Access::Read, Reason::ProvenRead),
        (
            "/* pglagoon: replica */ /* pglagoon: primary */ SELECT f_write()",
            Access::Unsure,
            Reason::HintPrimary,
        ),
        ("/* pglagoon: replica */ SELECT f_write(nextval('sq'))", Access::Write, Reason::HarmfulFunction),
        ("/* pglagoon: replica */ SELECT * FROM x FOR UPDATE", Access::Write, Reason::LockingClause),
        ("/* pglagoon: replica */ SELECT f_write(); COPY x FROM STDIN", Access::Write, Reason::WriteCommand),
        ("/* pglagoon: replica */ SELECT f_write(); DELETE FROM x", Access::Write, Reason::WriteCommand),
        ("/* pglagoon: replica */ SET a = 1", Access::Unsure, Reason::SessionCommand),
        ("/* pglagoon: replica */ BEGIN", Access::Unsure, Reason::TransactionCommand),
        ("/* pglagoon: replica */ FROBNICATE", Access::Unsure, Reason::Unrecognised),
        ("/* pglagoon: replica */ SELECT 'x", Access::Unsure, Reason::Unrecognised),
        ("SELECT f_write('/* pglagoon: replica */')", Access::Unsure, Reason::HarmfulFunction),
        ("SELECT f_write() -- /* pglagoon: replica */", Access::Unsure, Reason::HarmfulFunction),
    ];
    for (text, access, reason) in cases {
        let statement = judge(text, &shop);
        assert_eq!((statement.access, statement.reason), (access, reason), "{text}");
    }
}

#[test]
fn transaction_commands_are_told_apart() {
    let shop = shop();
    let cases = [
        ("BEGIN", Some(TransactionVerb::Begin)),
        ("begin work isolation level serializable;", Some(TransactionVerb::Begin)),
        ("START TRANSACTION READ ONLY", Some(TransactionVerb::Begin)),
        ("COMMIT", Some(TransactionVerb::Commit)),
        ("/* x */ END TRANSACTION ; ;", Some(TransactionVerb::Commit)),
        ("ROLLBACK", Some(TransactionVerb::Rollback)),
        ("ABORT WORK", Some(TransactionVerb::Rollback)),
        ("ROLLBACK TO a", Some(TransactionVerb::Savepoint)),
        ("ROLLBACK TRANSACTION TO SAVEPOINT a", Some(TransactionVerb::Savepoint)),
        ("SAVEPOINT a", Some(TransactionVerb::Savepoint)),
        ("RELEASE a", Some(TransactionVerb::Savepoint)),
        ("PREPARE TRANSACTION 'x'", Some(TransactionVerb::PrepareTransaction)),
        ("COMMIT PREPARED 'x'", None),
        ("ROLLBACK PREPARED 'x'", None),
        ("BEGIN; SELECT 1", None),
        ("COMMIT; COMMIT", None),
        ("SELECT 1", None),
        ("", None),
    ];
    for (text, verb) in cases {
        assert_eq!(judge(text, &shop).transaction, verb, "{text}");
    }
}

#[test]
fn effects_are_what_stays_in_the_session() {
    let shop = shop();
    let cases = [
        ("SET work_mem = '1MB'", Effects::SETTINGS),
        ("SET SESSION AUTHORIZATION bob; RESET ALL", Effects::SETTINGS),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Effects::SETTINGS),
        ("SELECT 1; SET work_mem = '1MB'", Effects::SETTINGS),
        ("SET work_mem = '1MB'; COMMIT", Effects::SETTINGS.with(Effects::ENDS_STATE).with(Effects::COMMITS)),
        ("SET LOCAL work_mem = '1MB'", Effects::LOCAL_SETTINGS),
        ("START TRANSACTION", Effects::BEGINS),
        ("COMMIT AND NO CHAIN", Effects::COMMITS.with(Effects::ENDS_STATE)),
        ("END WORK AND CHAIN", Effects::COMMITS.with(Effects::BEGINS).with(Effects::ENDS_STATE)),
        ("BEGIN; ROLLBACK", Effects::BEGINS.with(Effects::ROLLS_BACK).with(Effects::ENDS_STATE)),
        ("ROLLBACK TO a", Effects::NONE),
        ("PREPARE TRANSACTION 'x'", Effects::COMMITS),
        ("COMMIT PREPARED 'x'", Effects::NONE),
        ("SET TRANSACTION READ ONLY", Effects::LOCAL_SETTINGS),
        ("SET CONSTRAINTS ALL DEFERRED", Effects::LOCAL_SETTINGS),
        ("SELECT set_config('a.b', 'c', false)", Effects::SET_CONFIG),
        ("DO $$ BEGIN SET a.b = 1; END $$", Effects::BLOCK),
        ("CALL p()", Effects::ENDS_STATE.with(Effects::UNKNOWN)),
        ("CREATE TEMP TABLE x (a int)", Effects::TEMPORARY.with(Effects::DDL)),
        ("create local temporary table x (a int)", Effects::TEMPORARY.with(Effects::DDL)),
        ("CREATE OR REPLACE TEMP VIEW x AS SELECT 1", Effects::TEMPORARY.with(Effects::DDL)),
        ("CREATE TABLE pg_temp.x (a int)", Effects::TEMPORARY.with(Effects::DDL)),
        ("CREATE TABLE \"pg_temp\".x (a int)", Effects::TEMPORARY.with(Effects::DDL)),
        ("SELECT 1 INTO TEMP x", Effects::TEMPORARY.with(Effects::DDL)),
        ("SELECT 1 INTO LOCAL TEMPORARY TABLE x", Effects::TEMPORARY.with(Effects::DDL)),
        ("WITH a AS (SELECT 1) SELECT * INTO TEMPORARY x FROM a", Effects::TEMPORARY.with(Effects::DDL)),
        ("INSERT INTO temp VALUES (1)", Effects::NONE),
        ("CREATE TABLE x (a int)", Effects::DDL),
        ("SELECT 1 INTO x", Effects::DDL),
        ("DROP TABLE x", Effects::DDL.with(Effects::ENDS_STATE)),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", Effects::HOLD_CURSOR),
        ("DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1", Effects::NONE),
        ("SELECT pg_advisory_lock(1)", Effects::ADVISORY_LOCK),
        ("SELECT pg_catalog.pg_try_advisory_lock_shared(hashtext('x'))", Effects::ADVISORY_LOCK),
        ("SELECT f_write(\"pg_advisory_lock\"(1))", Effects::ADVISORY_LOCK),
        ("SELECT (1::bigint).pg_advisory_lock", Effects::ADVISORY_LOCK),
        ("SELECT U&\"pg!005fadvisory_lock\" UESCAPE '!' (1)", Effects::ADVISORY_LOCK),
        ("SELECT pg_advisory_unlock(1)", Effects::ENDS_STATE),
        ("SELECT pg_advisory_xact_lock(1)", Effects::NONE),
        ("SELECT pg_advisory_unlock_all()", Effects::ENDS_STATE),
        ("SELECT 'pg_advisory_lock(1)'", Effects::NONE),
        ("SELECT pg_advisory_lock FROM t", Effects::NONE),
        ("LISTEN x", Effects::LISTEN),
        ("UNLISTEN *", Effects::UNLISTEN.with(Effects::ENDS_STATE)),
        ("PREPARE q AS SELECT 1", Effects::PREPARE),
        ("EXECUTE q", Effects::PREPARED_NAME),
        ("EXPLAIN ANALYZE EXECUTE q", Effects::PREPARED_NAME),
        ("CREATE TABLE x AS EXECUTE q", Effects::PREPARED_NAME.with(Effects::DDL)),
        ("DEALLOCATE q", Effects::PREPARED_NAME),
        ("DEALLOCATE PREPARE ALL", Effects::DEALLOCATE_ALL),
        ("DEALLOCATE \"all\"", Effects::PREPARED_NAME),
        ("DISCARD ALL", Effects::DISCARD_ALL),
        ("DISCARD PLANS", Effects::ENDS_STATE),
        ("LOAD 'x'", Effects::BACKEND_STATE),
        ("SELECT setseed(0.1)", Effects::BACKEND_STATE),
        ("SELECT nextval('sq')", Effects::NONE),
        ("SELECT lastval()", Effects::SEQUENCE),
        ("SELECT f_write(), f_order()", Effects::ADVISORY_LOCK),
        ("SELECT overloaded(1)", Effects::NONE),
        ("INSERT INTO orders VALUES (1)", Effects::NONE),
        (
            "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;",
            Effects::SETTINGS.with(Effects::ENDS_STATE).with(Effects::UNLISTEN),
        ),
        ("SELECT 'x; SET a = 1", Effects::NONE),
        ("FROBNICATE; SET a = 1", Effects::SETTINGS),
    ];
    for (text, effects) in cases {
        assert_eq!(judge(text, &shop).effects, effects, "{text}");
    }
}

#[test]
fn statements_are_counted() {
    let shop = shop();
    let cases = [
        ("", 0),
        (" ; -- x\n ;", 0),
        ("SELECT 1", 1),
        ("SELECT 1; SELECT 2;", 2),
        ("SELECT ';'; SELECT $$;$$", 2),
        ("CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)", 1),
        (
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; SET a = 1",
            2,
        ),
    ];
    for (text, statements) in cases {
        assert_eq!(judge(text, &shop).statements, statements, "{text}");
    }
    assert_eq!(judge("", &shop).access, Access::Read);
}

#[test]
fn what_is_too_long_or_too_deep_is_not_proven() {
    let shop = shop();
    let long = format!("SELECT '{}'; SET a = 1", "x".repeat(70_000));
    let statement = judge(&long, &shop);
    assert_eq!((statement.access, statement.effects), (Access::Unsure, Effects::SETTINGS));
    let long = format!("SELECT '{}'", "x".repeat(70_000));
    assert_eq!(judge(&long, &shop).reason, Reason::Unrecognised);
    let nested = |depth: usize| format!("SELECT {}1{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(judge(&nested(200), &shop).access, Access::Read);
    assert_eq!(judge(&nested(201), &shop).access, Access::Unsure);
    assert_eq!(judge(&nested(30_000), &shop).access, Access::Unsure);
    let selects = format!("{}SELECT 1{}", "SELECT * FROM (".repeat(190), ") x".repeat(190));
    assert_eq!(judge(&selects, &shop).access, Access::Read);
    let unions = format!("SELECT 1{}", " UNION SELECT 1".repeat(4000));
    assert_eq!(judge(&unions, &shop).access, Access::Read);
}

#[test]
fn without_a_catalog_only_what_names_nothing_reads() {
    for text in ["SELECT 1", "SHOW timezone", "VALUES ('a')", "WITH x AS (SELECT 1) SELECT * FROM x"] {
        assert_eq!(classify(text.as_bytes(), &NoCatalog).access, Access::Read, "{text}");
    }
    for text in
        ["SELECT now()", "SELECT 1 + 1", "SELECT * FROM t", "SELECT (1).f", "SELECT 1::int", "SELECT key 'x'"]
    {
        assert_eq!(classify(text.as_bytes(), &NoCatalog).access, Access::Unsure, "{text}");
    }
    assert_eq!(classify(b"SELECT now()", &Builtin).access, Access::Read);
}

/// Where an expression can stand.
const SLOTS: &[&str] = &[
    "SELECT @",
    "SELECT 1, @ AS x FROM orders",
    "SELECT * FROM orders WHERE @ = 1",
    "SELECT * FROM orders WHERE id IN (1, @)",
    "SELECT * FROM orders WHERE id IN (SELECT @)",
    "SELECT * FROM orders o JOIN customers c ON o.id = @",
    "SELECT * FROM orders o LEFT JOIN LATERAL (SELECT @) l ON true",
    "SELECT count(*) FROM orders GROUP BY id, @",
    "SELECT count(*) FROM orders GROUP BY GROUPING SETS ((@), ())",
    "SELECT count(*) FROM orders HAVING @ > 1",
    "SELECT * FROM orders ORDER BY @ DESC NULLS LAST",
    "SELECT * FROM orders LIMIT @",
    "SELECT * FROM orders OFFSET @ ROWS",
    "SELECT * FROM orders FETCH FIRST (@) ROWS ONLY",
    "SELECT lower(upper(@::text))",
    "SELECT CASE @ WHEN 1 THEN 2 END",
    "SELECT CASE WHEN true THEN @ ELSE 1 END",
    "SELECT ARRAY[1, @]",
    "SELECT (ARRAY[1])[@]",
    "SELECT sum(id) FILTER (WHERE @ > 1) OVER (PARTITION BY @ ORDER BY @) FROM orders",
    "SELECT sum(id) OVER w FROM orders WINDOW w AS (ORDER BY @)",
    "SELECT string_agg(note, ',' ORDER BY @) FROM orders",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY @) FROM orders",
    "SELECT substring('abc' FROM @ FOR 2), extract(year FROM now())",
    "SELECT trim(both 'x' FROM @::text)",
    "SELECT coalesce(NULL, @)",
    "SELECT @ IS DISTINCT FROM 1",
    "SELECT @ BETWEEN 1 AND 2",
    "SELECT 'x' LIKE @::text ESCAPE '!'",
    "SELECT now() AT TIME ZONE @::text",
    "SELECT 1 = ANY (ARRAY[@])",
    "SELECT EXISTS (SELECT @)",
    "SELECT 1 UNION ALL SELECT @",
    "(SELECT 1) EXCEPT (SELECT @)",
    "VALUES (1), (@)",
    "WITH x AS (SELECT @) SELECT 1",
    "WITH x AS MATERIALIZED (VALUES (@)) SELECT * FROM x",
    "SELECT * FROM generate_series(1, @)",
    "SELECT * FROM ROWS FROM (generate_series(1, @)) AS g(n)",
    "SELECT * FROM orders TABLESAMPLE bernoulli (@)",
    "SELECT DISTINCT ON (@) id FROM orders",
    "SELECT (SELECT @), ROW(1, @), CAST(@ AS text)",
    "EXPLAIN SELECT @",
    "COPY (SELECT @) TO STDOUT",
    "SELECT 1; SELECT @",
    "SELECT json_object('a': @)",
    "SELECT xmlforest(@ AS a)",
];

#[test]
fn a_slot_with_a_harmless_call_is_a_read() {
    for slot in SLOTS {
        assert_reads(&[&slot.replace('@', "abs(1)")]);
    }
}

/// Calls of which none may ever leave the primary.
const HARMFUL: &[&str] = &[
    "nextval('sq')",
    "pg_catalog.nextval('sq')",
    "\"nextval\"('sq')",
    "nextval /* ( */ ('sq')",
    "('sq'::regclass).nextval",
    "f_write()",
    "public.f_write()",
    "lower(f_write()::text)",
    "pg_is_in_recovery()::int",
    "(SELECT f_write())",
    "(SELECT id FROM unlogged)",
    "(1 === 2)",
    "'1'::positive_strict",
    "(SELECT id FROM orders FOR UPDATE)",
    "nobody_knows(1)",
];

fn any_case(text: &str, upper: &[bool]) -> String {
    let letters = text.chars().zip(upper.iter().cycle());
    letters.map(|(letter, upper)| if *upper { letter.to_ascii_uppercase() } else { letter }).collect()
}

proptest! {
    #[test]
    fn a_harmful_call_in_any_slot_is_not_a_read(
        slot in proptest::sample::select(SLOTS),
        call in proptest::sample::select(HARMFUL),
    ) {
        let text = slot.replace('@', call);
        prop_assert_ne!(judge(&text, &shop()).access, Access::Read, "{}", text);
    }

    #[test]
    fn how_a_call_is_written_does_not_hide_it(
        slot in proptest::sample::select(SLOTS),
        upper in proptest::collection::vec(any::<bool>(), 1..8),
        space in proptest::sample::select(&["", " ", "\n", "/**/", "/* ' */", "--'\n"][..]),
    ) {
        let call = format!("{}{space}('sq')", any_case("nextval", &upper));
        let text = slot.replace('@', &call);
        prop_assert_eq!(judge(&text, &shop()).access, Access::Write, "{}", text);
    }

    #[test]
    fn a_write_behind_anything_is_not_a_read(text in "[-a-zA-Z0-9 '\"$(),.;:=*+/\\\\\n]{0,60}") {
        let text = format!("{text}; DELETE FROM orders");
        let statement = classify(text.as_bytes(), &shop());
        let lexes = !crate::sql::lexer::Lexer::new(text.as_bytes()).any(|t| t.kind == crate::sql::lexer::Kind::Error);
        prop_assert!(!lexes || statement.access != Access::Read || statement.statements == 0, "{}", text);
    }

    #[test]
    fn any_bytes_are_classified(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        let statement = classify(&text, &shop());
        prop_assert!(statement.access != Access::Read || statement.statements == 0 || text.is_ascii());
    }

    /// Else a cache keyed by fingerprints would answer for texts that it has not seen.
    #[test]
    fn texts_of_one_fingerprint_do_the_same(
        words in proptest::collection::vec(proptest::sample::select(WORDS), 0..20),
        slot in proptest::sample::select(SLOTS),
        call in proptest::sample::select(HARMFUL),
    ) {
        let other = |word: &str| match word {
            "'x'" => "$q$ nextval('sq') $q$".to_owned(),
            "1" => "2.5e3".to_owned(),
            "$1" => "$23".to_owned(),
            word => format!("{} -- ;\n", word.to_uppercase()),
        };
        let one = format!("{} ; {}", words.join(" "), slot.replace('@', call));
        let words: Vec<String> = words.iter().map(|word| other(word)).collect();
        let two = format!("{} ;/* pglagoon */ {}", words.join(" "), slot.replace('@', call).replace("'1'", "E'\\''"));
        let key = [3; 16];
        prop_assume!(fingerprint(one.as_bytes(), &key) == fingerprint(two.as_bytes(), &key));
        let (one, two) = (judge(&one, &shop()), judge(&two, &shop()));
        prop_assert_eq!((one.access, one.reason, one.effects), (two.access, two.reason, two.effects));
        prop_assert_eq!((one.transaction, one.statements), (two.transaction, two.statements));
    }

    #[test]
    fn any_words_are_classified(words in proptest::collection::vec(proptest::sample::select(WORDS), 0..30)) {
        let text = words.join(" ");
        let mut cache = Cache::new(4, [1; 16]);
        prop_assert_eq!(&*cache.look_up(text.as_bytes(), &shop()), &judge(&text, &shop()));
    }
}

const WORDS: &[&str] = &[
    "select",
    "from",
    "where",
    "orders",
    "unlogged",
    "(",
    ")",
    ",",
    ".",
    "*",
    "+",
    "::",
    "int",
    "'x'",
    "1",
    "$1",
    "as",
    "with",
    "union",
    "for",
    "update",
    "share",
    "into",
    "insert",
    "values",
    "group",
    "by",
    "order",
    "limit",
    "case",
    "when",
    "end",
    "cast",
    "substring",
    "over",
    "filter",
    "within",
    "operator",
    "array",
    "[",
    "]",
    "lateral",
    "join",
    "on",
    "using",
    "left",
    "is",
    "distinct",
    "not",
    "in",
    "between",
    "and",
    "interval",
    "timestamp",
    "time",
    "zone",
    "at",
    "collate",
    "\"x\"",
    "f_write",
    "lower",
    "explain",
    "analyze",
    "copy",
    "to",
    "stdout",
    "show",
    "table",
    "only",
    "rows",
    "tablesample",
    "window",
    "escape",
    "grouping",
    "sets",
    "rollup",
    "exists",
    "row",
    "U&\"x\"",
    ";",
    "set",
    "begin",
    "null",
    "any",
    "variadic",
    "=>",
    "extract",
    "trim",
    "position",
    "double",
    "precision",
    "returning",
];
