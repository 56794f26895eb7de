-- The database of the truth: of everything that a name can mean, one that is as it looks and one that is not.

CREATE EXTENSION IF NOT EXISTS plpgsql;

-- Ordinary data.
CREATE TABLE t (
    i integer PRIMARY KEY, w text NOT NULL, j jsonb, a integer[], ts timestamptz, n numeric(12, 3), d date, b bytea, f float8
);
INSERT INTO t SELECT i, 'word ' || i, jsonb_build_object('k', i, 'l', ARRAY[i, i + 1]), ARRAY[i, i * 2],
    timestamptz '2026-01-01' + i * interval '1 hour', i / 7.0, date '2026-01-01' + i, decode(lpad(to_hex(i), 4, '0'), 'hex'), i / 3.0
    FROM generate_series(1, 40) AS i;
CREATE TABLE u (i integer REFERENCES t, v varchar(20), PRIMARY KEY (i, v));
INSERT INTO u SELECT i, 'v' || i FROM generate_series(1, 20) AS i;
CREATE TABLE parted (k integer, v text) PARTITION BY RANGE (k);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (10) TO (20);
INSERT INTO parted SELECT k, 'v' || k FROM generate_series(0, 19) AS k;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN small AS integer CHECK (VALUE BETWEEN 0 AND 100);
CREATE TYPE pair AS (x integer, y text);
CREATE TABLE typed (m mood, s small, p pair, ms mood[]);
INSERT INTO typed VALUES ('ok', 5, ROW(1, 'a'), '{sad,happy}'), ('sad', 6, ROW(2, 'b'), '{}');
CREATE VIEW plain_view AS SELECT i, upper(w) AS w FROM t WHERE i < 20;
CREATE VIEW view_on_view AS SELECT count(*) AS c FROM plain_view;
CREATE MATERIALIZED VIEW stored AS SELECT i, w FROM t WHERE i < 10;
CREATE TABLE "Mixed Case" ("A b" integer);
INSERT INTO "Mixed Case" VALUES (1), (2);
CREATE SCHEMA other;
CREATE TABLE other.t2 (i integer);
INSERT INTO other.t2 VALUES (1), (2), (3);
SELECT lo_from_bytea(4711, 'large object');

-- Where the writers write.
CREATE TABLE trail (i integer, at timestamptz DEFAULT now());
CREATE SEQUENCE seq;

-- Functions of every kind.
CREATE FUNCTION pure(i integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT i + 1';
CREATE FUNCTION looks(i integer) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM public.t WHERE t.i < looks.i';
CREATE FUNCTION writes(i integer) RETURNS integer LANGUAGE sql VOLATILE AS 'INSERT INTO trail (i) VALUES (i) RETURNING i';
CREATE FUNCTION writes_too(i integer DEFAULT 1) RETURNS integer LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO trail (i) VALUES (writes_too.i); RETURN i; END $$;
CREATE FUNCTION lies(i integer) RETURNS integer LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN writes(lies.i); END $$;
CREATE FUNCTION swallows(i integer) RETURNS text LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO trail (i) VALUES (swallows.i); RETURN 'kept'; EXCEPTION WHEN OTHERS THEN RETURN 'lost'; END $$;
CREATE FUNCTION runs(command text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE command; END $$;
CREATE FUNCTION locks(i integer) RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_lock(i)';
CREATE FUNCTION sets_work_mem(i integer) RETURNS text LANGUAGE sql AS $$ SELECT set_config('work_mem', '1MB', false) $$;
CREATE FUNCTION set_of_writes(i integer) RETURNS SETOF trail LANGUAGE sql AS 'INSERT INTO trail (i) VALUES (i) RETURNING *';
CREATE FUNCTION with_out(i integer, OUT x integer, OUT y integer) LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO trail (i) VALUES (with_out.i); x := 1; y := 2; END $$;
CREATE FUNCTION many(VARIADIC i integer[]) RETURNS integer LANGUAGE sql AS 'INSERT INTO trail (i) VALUES (i[1]) RETURNING i';
CREATE FUNCTION row_writes(r t) RETURNS integer LANGUAGE sql AS 'INSERT INTO trail (i) VALUES (r.i) RETURNING i';
CREATE FUNCTION atomic_writes(i integer) RETURNS integer BEGIN ATOMIC INSERT INTO trail (i) VALUES (i) RETURNING i; END;
CREATE FUNCTION "Quoted Writes"(i integer) RETURNS integer LANGUAGE sql AS 'INSERT INTO trail (i) VALUES (i) RETURNING i';
CREATE PROCEDURE does(i integer) LANGUAGE sql AS 'INSERT INTO trail (i) VALUES (i)';
CREATE FUNCTION writes_pair(i integer, j integer) RETURNS integer LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO trail (i) VALUES (writes_pair.i); RETURN i + j; END $$;
CREATE AGGREGATE sum_writes(integer) (sfunc = writes_pair, stype = integer, initcond = '0');

-- An overload of a name that PostgreSQL has.
CREATE FUNCTION initcap(i integer) RETURNS text LANGUAGE sql AS 'INSERT INTO trail (i) VALUES (i) RETURNING i::text';
CREATE FUNCTION other.reverse(w text) RETURNS text LANGUAGE sql AS 'INSERT INTO public.trail (i) VALUES (1) RETURNING w';

-- Operators.
CREATE OPERATOR ### (leftarg = integer, rightarg = integer, function = writes_pair);
CREATE OPERATOR @# (rightarg = integer, function = writes);
CREATE FUNCTION writes_texts(a text, b integer) RETURNS text LANGUAGE sql AS 'INSERT INTO trail (i) VALUES (b) RETURNING a';
CREATE OPERATOR <-> (leftarg = text, rightarg = integer, function = writes_texts);

-- Types that compare, convert and check by writing.
CREATE TYPE loud AS (x integer);
CREATE FUNCTION loud_text(l loud) RETURNS text LANGUAGE sql AS 'INSERT INTO trail (i) VALUES (l.x) RETURNING l.x::text';
CREATE CAST (loud AS text) WITH FUNCTION loud_text(loud) AS ASSIGNMENT;
CREATE FUNCTION is_checked(i integer) RETURNS boolean LANGUAGE sql AS 'INSERT INTO trail (i) VALUES (i) RETURNING true';
CREATE DOMAIN checked AS integer CHECK (is_checked(VALUE));
CREATE DOMAIN checked_mood AS mood CHECK (VALUE <> 'sad' AND is_checked(1));
CREATE TYPE with_checked AS (c checked);
CREATE TYPE sorted AS (x integer);
CREATE FUNCTION sorted_lt(a sorted, b sorted) RETURNS boolean LANGUAGE sql AS 'INSERT INTO trail (i) VALUES (a.x) RETURNING a.x < b.x';
CREATE FUNCTION sorted_le(a sorted, b sorted) RETURNS boolean LANGUAGE sql AS 'INSERT INTO trail (i) VALUES (a.x) RETURNING a.x <= b.x';
CREATE FUNCTION sorted_eq(a sorted, b sorted) RETURNS boolean LANGUAGE sql AS 'INSERT INTO trail (i) VALUES (a.x) RETURNING a.x = b.x';
CREATE FUNCTION sorted_cmp(a sorted, b sorted) RETURNS integer LANGUAGE sql AS 'INSERT INTO trail (i) VALUES (a.x) RETURNING a.x - b.x';
CREATE OPERATOR <|# (leftarg = sorted, rightarg = sorted, function = sorted_lt);
CREATE OPERATOR <=|# (leftarg = sorted, rightarg = sorted, function = sorted_le);
CREATE OPERATOR =|# (leftarg = sorted, rightarg = sorted, function = sorted_eq);
CREATE OPERATOR >=|# (leftarg = sorted, rightarg = sorted, function = sorted_le);
CREATE OPERATOR >|# (leftarg = sorted, rightarg = sorted, function = sorted_lt);
CREATE OPERATOR CLASS sorted_ops DEFAULT FOR TYPE sorted USING btree AS OPERATOR 1 <|#, OPERATOR 2 <=|#, OPERATOR 3 =|#,
    OPERATOR 4 >=|#, OPERATOR 5 >|#, FUNCTION 1 sorted_cmp(sorted, sorted);
CREATE TABLE ranked (i integer, r sorted);
INSERT INTO ranked VALUES (1, ROW(3)), (2, ROW(1)), (3, ROW(2));
CREATE FUNCTION writes_hash(i integer, seed bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT lies(i)::bigint';
CREATE OPERATOR CLASS hash_ops FOR TYPE integer USING hash AS OPERATOR 1 =, FUNCTION 2 writes_hash(integer, bigint);
CREATE TABLE hashed (i integer) PARTITION BY HASH (i hash_ops);
CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE louds (i integer, l loud);
INSERT INTO louds VALUES (1, ROW(1));
CREATE TABLE stamps (i integer, c integer);
INSERT INTO stamps VALUES (1, 1);

-- Relations that write, that a standby does not have, or that differ there.
CREATE VIEW writing_view AS SELECT i, writes(i) AS x FROM t;
CREATE VIEW view_on_writing_view AS SELECT count(x) AS c FROM writing_view;
CREATE VIEW operator_view AS SELECT i ### 1 AS x FROM t;
CREATE VIEW locking_view AS SELECT i FROM t FOR UPDATE;
CREATE VIEW sequence_view AS SELECT nextval('seq') AS n;
CREATE VIEW node_view AS SELECT pg_is_in_recovery() AS r;
CREATE VIEW lost_view AS SELECT swallows(1) AS s;
CREATE TABLE policed (i integer);
INSERT INTO policed VALUES (1), (2);
ALTER TABLE policed ENABLE ROW LEVEL SECURITY;
ALTER TABLE policed FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON policed USING (is_checked(i));
GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app;
CREATE UNLOGGED TABLE unlogged (i integer);
INSERT INTO unlogged VALUES (1);
CREATE TABLE parent (i integer);
CREATE UNLOGGED TABLE child () INHERITS (parent);
CREATE VIEW unlogged_view AS SELECT * FROM unlogged;
CREATE TABLE ruled (i integer);
CREATE RULE on_insert AS ON INSERT TO ruled DO ALSO INSERT INTO trail (i) VALUES (1);
CREATE TABLE pg_fake (i integer);
