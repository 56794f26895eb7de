-- One statement a line: reads that a standby answers as the primary does, and that must be recognised as such.

SELECT 1
SELECT
VALUES (1), (2)
TABLE t
SELECT * FROM t
SELECT t.* FROM public.t
SELECT (t).* FROM t
SELECT * FROM ONLY t
SELECT * FROM t AS x (a, b)
SELECT x.i FROM t x WHERE x.w LIKE 'word 1%' ORDER BY x.i DESC NULLS LAST LIMIT 3 OFFSET 1
SELECT * FROM t FETCH FIRST 2 ROWS ONLY
SELECT i FROM t ORDER BY n FETCH NEXT ROW WITH TIES
SELECT DISTINCT w FROM t
SELECT DISTINCT ON (i % 3) i, w FROM t ORDER BY i % 3, i
SELECT i % 3 AS r, count(*), sum(n), avg(f), min(d), max(ts), bool_and(i > 0), string_agg(w, ',' ORDER BY i) FROM t GROUP BY 1 HAVING count(*) > 2
SELECT count(*) FILTER (WHERE i > 5) FROM t
SELECT i % 2, i % 3, count(*) FROM t GROUP BY GROUPING SETS ((i % 2), (i % 3), ())
SELECT i % 2, i % 3, count(*), grouping(i % 2) FROM t GROUP BY ROLLUP (i % 2, i % 3)
SELECT i % 2, i % 3, count(*) FROM t GROUP BY CUBE (i % 2, i % 3)
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY n), mode() WITHIN GROUP (ORDER BY i % 3) FROM t
SELECT i, rank() OVER (ORDER BY n DESC), lag(i, 1, 0) OVER w, sum(n) OVER (PARTITION BY i % 3 ORDER BY i ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t WINDOW w AS (ORDER BY i)
SELECT first_value(i) OVER (ORDER BY i GROUPS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW EXCLUDE TIES) FROM t
SELECT * FROM t JOIN u USING (i)
SELECT * FROM t NATURAL JOIN u
SELECT * FROM t LEFT OUTER JOIN u ON t.i = u.i AND u.v <> 'x' WHERE u.i IS NULL
SELECT * FROM t CROSS JOIN LATERAL (SELECT v FROM u WHERE u.i = t.i) x
SELECT * FROM t, u WHERE t.i = u.i
SELECT * FROM (t JOIN u ON t.i = u.i) AS j
SELECT * FROM (SELECT i FROM t) AS s (a) WHERE a IN (SELECT i FROM u) AND a NOT IN (1, 2) AND EXISTS (SELECT FROM u WHERE u.i = a)
SELECT (SELECT max(i) FROM t), ARRAY(SELECT i FROM t ORDER BY i), ARRAY[1, 2]::integer[]
SELECT 1 UNION ALL SELECT 2 INTERSECT SELECT 2 EXCEPT SELECT 3 ORDER BY 1
(SELECT i FROM t LIMIT 1) UNION (SELECT i FROM u LIMIT 1)
WITH x AS (SELECT i FROM t), y (a) AS MATERIALIZED (SELECT i FROM x) SELECT * FROM x JOIN y ON x.i = y.a
WITH RECURSIVE x (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x WHERE n < 10) SELECT sum(n) FROM x
WITH t AS (SELECT 1 AS only) SELECT * FROM t
SELECT * FROM generate_series(1, 3) WITH ORDINALITY AS g (v, o)
SELECT * FROM ROWS FROM (generate_series(1, 3), unnest(ARRAY['a', 'b'])) AS g (a, b)
SELECT * FROM unnest(ARRAY[1, 2], ARRAY['a', 'b']) AS x (a, b)
SELECT * FROM t, pg_catalog.generate_series(1, 2) AS g, pg_catalog.unnest(a) AS e
SELECT * FROM jsonb_to_recordset('[{"a": 1, "b": "x"}]') AS x (a integer, b text)
SELECT * FROM t TABLESAMPLE system (100) REPEATABLE (1)
SELECT j ->> 'k', j -> 'l' -> 0, j #>> '{l,1}', j @> '{"k": 1}', j ? 'k', j @? '$.l[*] ? (@ > 3)' FROM t
SELECT jsonb_path_query(j, '$.l[*]'), jsonb_build_object('a', i), to_jsonb(t) FROM t
SELECT a[1], a[1:2], a || 3, array_length(a, 1), 1 = ANY (a), a @> ARRAY[1], cardinality(a) FROM t
SELECT CASE WHEN i > 5 THEN 'big' ELSE 'small' END, CASE i WHEN 1 THEN 2 END, coalesce(NULL, i), nullif(i, 1), greatest(i, 2), least(i, 2) FROM t
SELECT i BETWEEN 1 AND 5, i NOT BETWEEN SYMMETRIC 5 AND 1, w ILIKE '%1', w NOT SIMILAR TO '(a|b)%', w ~* 'WORD', w IS DISTINCT FROM 'x', n IS NOT NULL, (i > 3) IS TRUE FROM t
SELECT w LIKE 'a!%' ESCAPE '!', w || ' ' || i, length(w), upper(w), substring(w FROM 2 FOR 3), substring(w, 2), trim(both 'w' FROM w), position('o' IN w), overlay(w PLACING 'x' FROM 1), left(w, 2), lpad(w, 10), split_part(w, ' ', 2), md5(w), format('%s-%I', w, w), regexp_replace(w, 'o', '0', 'g') FROM t
SELECT now() - ts > interval '1 day', date_trunc('month', ts), extract(epoch FROM ts), ts AT TIME ZONE 'Europe/Berlin', to_char(ts, 'YYYY-MM'), age(ts, ts), d + 1, d - date '2020-01-01', ts::date, current_date > d, make_interval(days => i) FROM t
SELECT date '2026-01-01', timestamp with time zone '2026-01-01 00:00:00+00', interval '1' DAY, time '12:00', '1'::int8, CAST('1.5' AS numeric(10, 2)), B'101', X'1F', 1e3, U&'d\0061t', E'a\n', $$dollar$$
SELECT '1'::int4, i::text, i::double precision, n::numeric(5, 1), w::character varying(3), ts::timestamp(0) without time zone, '{1,2}'::integer[], '[1,5)'::int4range, '10.0.0.1'::inet, 'a'::"char" FROM t
SELECT round(n, 1), ceil(n), floor(n), abs(-i), mod(i, 3), i % 3, i / 2, i ^ 2, |/ f, power(2, 3), sqrt(f), trunc(n), sign(n), exp(1), ln(f + 1), random() < 2 FROM t
SELECT int4range(1, 5) && int4range(3, 8), daterange(d, d + 1) @> d, lower(int4range(1, 5)), '[1,3]'::int4range -|- '[4,5]'::int4range FROM t
SELECT to_tsvector('english', w) @@ to_tsquery('english', 'word & 1'), ts_rank(to_tsvector('simple', w), plainto_tsquery('simple', 'word')) FROM t
SELECT ROW(i, w) = ROW(1, 'x'), (i, w) < (2, 'y'), (i, w) IN (SELECT i, v FROM u) FROM t
SELECT encode(b, 'hex'), b || '\x00'::bytea, sha256(b), convert_from('\x61', 'UTF8') FROM t
SELECT m, s, p, (p).x, ms, m > 'sad', enum_range(NULL::mood), 5::small, ROW(1, 'b')::pair, '{ok}'::mood[], 'ok'::public.mood FROM typed
SELECT m FROM typed GROUP BY m ORDER BY m
SELECT * FROM plain_view
SELECT * FROM view_on_view
SELECT * FROM stored
SELECT * FROM parted WHERE k = 5
SELECT * FROM parted_low
SELECT "A b" FROM "Mixed Case" AS "m"
SELECT * FROM other.t2
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public'
SELECT c.oid::regclass, pg_get_viewdef(c.oid), obj_description(c.oid), pg_get_userbyid(c.relowner), format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relname = 'plain_view' AND a.attnum > 0
SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'
SELECT to_regclass('t'), 't'::regclass, has_table_privilege('t', 'SELECT'), current_database(), current_user, session_user, current_schema(), version()
SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 't'::regclass
SELECT pg_sleep(0)
SELECT gen_random_uuid() IS NOT NULL, clock_timestamp() > now(), statement_timestamp() >= transaction_timestamp()
SELECT lo_get(4711)
SELECT i AS writes, i AS "nextval" FROM t
SELECT 'INSERT INTO trail'; SELECT 'writes(1)' -- DELETE
SELECT 1; ; SELECT 2;
/* writes(1) */ SELECT /* INSERT */ i /* FOR UPDATE */ FROM t -- INTO x
SELECT "i" FROM "public"."t" WHERE "t"."i" IN (1, 2, 3)
SELECT xmlelement(name foo, xmlattributes(i AS a), w) FROM t
SHOW timezone
SHOW server_version
SHOW TRANSACTION ISOLATION LEVEL
SHOW search_path
EXPLAIN SELECT * FROM t WHERE i = 1
EXPLAIN (COSTS OFF, FORMAT JSON) SELECT * FROM t JOIN u USING (i)
EXPLAIN VERBOSE SELECT count(*) FROM t
COPY t TO STDOUT
COPY t (i, w) TO STDOUT WITH (FORMAT csv, HEADER true)
COPY (SELECT i FROM t ORDER BY i) TO STDOUT
COPY public.u TO STDOUT CSV DELIMITER ';'
