//! Statements over all that PostgreSQL brings, made by its own catalog: each query makes one statement per row.

use tokio_postgres::Client;

use super::bench;

/// Kinds of things, and the query that makes statements of them. `lit` makes a value of a type.
pub const KINDS: [(&str, &str); 8] = [
    ("functions", FUNCTIONS),
    ("functions in FROM", FUNCTIONS_IN_FROM),
    ("aggregates and window functions", AGGREGATES),
    ("operators", OPERATORS),
    ("casts", CASTS),
    ("types", TYPES),
    ("relations", RELATIONS),
    ("settings", SETTINGS),
];

/// The statements that `query` makes.
pub async fn statements(client: &Client, query: &str) -> Vec<String> {
    let rows = bench::rows(client, &format!("{LITERALS} {query}")).await;
    rows.into_iter().map(|mut row| row.swap_remove(0)).filter(|sql| !sql.is_empty()).collect()
}

/// Values of types, two of each: one that is as usual, one at the edge.
const LITERALS: &str = r#"
WITH lits (type, ordinary, edge) AS (VALUES
    ('bool', 'true', 'NULL::boolean'), ('int2', '2::smallint', '0::smallint'), ('int4', '3', '-1'),
    ('int8', '3::bigint', '0::bigint'), ('numeric', '1.5', 'NULL::numeric'), ('float4', '0.02::real', '0::real'),
    ('float8', '0.02::double precision', '-1::double precision'), ('text', $$'t'::text$$, $$''::text$$),
    ('varchar', $$'x'::varchar$$, $$''::varchar$$), ('bpchar', $$'x'::bpchar$$, $$' '::bpchar$$),
    ('name', $$'t'::name$$, $$'pg_catalog'::name$$), ('"char"', $$'x'::"char"$$, $$''::"char"$$),
    ('bytea', $$'\x6162'::bytea$$, $$''::bytea$$), ('oid', $$'t'::regclass::oid$$, '0::oid'),
    ('regclass', $$'t'::regclass$$, $$'t_pkey'::regclass$$), ('regtype', $$'int4'::regtype$$, $$'mood'::regtype$$),
    ('regproc', $$'now'::regproc$$, $$'clock_timestamp'::regproc$$),
    ('regprocedure', $$'now()'::regprocedure$$, $$'abs(int4)'::regprocedure$$),
    ('regnamespace', $$'public'::regnamespace$$, $$'pg_catalog'::regnamespace$$),
    ('regrole', $$'postgres'::regrole$$, $$'app'::regrole$$), ('regconfig', $$'english'::regconfig$$, $$'simple'::regconfig$$),
    ('regdictionary', $$'simple'::regdictionary$$, $$'english_stem'::regdictionary$$),
    ('date', $$'2026-01-31'::date$$, $$'infinity'::date$$), ('time', $$'12:30'::time$$, $$'00:00'::time$$),
    ('timetz', $$'12:30+01'::timetz$$, $$'00:00+00'::timetz$$),
    ('timestamp', $$'2026-01-31 12:00'::timestamp$$, $$'infinity'::timestamp$$),
    ('timestamptz', $$'2026-01-31 12:00+00'::timestamptz$$, $$'-infinity'::timestamptz$$),
    ('interval', $$'20 milliseconds'::interval$$, $$'0'::interval$$), ('json', $$'{"a": [1, 2]}'::json$$, $$'[]'::json$$),
    ('jsonb', $$'{"a": [1, 2]}'::jsonb$$, $$'[1]'::jsonb$$), ('jsonpath', $$'$.a'::jsonpath$$, $$'$'::jsonpath$$),
    ('uuid', $$'00000000-0000-4000-8000-000000000000'::uuid$$, 'NULL::uuid'), ('inet', $$'10.0.0.1/8'::inet$$, $$'::1'::inet$$),
    ('cidr', $$'10.0.0.0/8'::cidr$$, $$'::/0'::cidr$$), ('macaddr', $$'08:00:2b:01:02:03'::macaddr$$, 'NULL::macaddr'),
    ('macaddr8', $$'08:00:2b:01:02:03:04:05'::macaddr8$$, 'NULL::macaddr8'), ('money', $$'1.50'::money$$, $$'0'::money$$),
    ('bit', $$B'101'::bit(3)$$, $$B'0'::bit(1)$$), ('varbit', $$B'101'::varbit$$, $$B''::varbit$$),
    ('point', $$'(1,2)'::point$$, $$'(0,0)'::point$$), ('line', $$'{1,2,3}'::line$$, $$'{1,0,0}'::line$$),
    ('lseg', $$'[(0,0),(1,1)]'::lseg$$, $$'[(0,0),(0,0)]'::lseg$$), ('box', $$'(1,1),(0,0)'::box$$, $$'(0,0),(0,0)'::box$$),
    ('path', $$'((0,0),(1,1))'::path$$, $$'[(0,0)]'::path$$), ('polygon', $$'((0,0),(1,1),(1,0))'::polygon$$, $$'((0,0))'::polygon$$),
    ('circle', $$'<(0,0),1>'::circle$$, $$'<(0,0),0>'::circle$$), ('tsvector', $$'a b'::tsvector$$, $$''::tsvector$$),
    ('tsquery', $$'a & b'::tsquery$$, $$''::tsquery$$), ('xml', $$'<a/>'::xml$$, 'NULL::xml'),
    ('pg_lsn', $$'0/1'::pg_lsn$$, $$'0/0'::pg_lsn$$), ('xid', $$'3'::xid$$, $$'0'::xid$$), ('xid8', $$'3'::xid8$$, $$'0'::xid8$$),
    ('cid', $$'1'::cid$$, $$'0'::cid$$), ('tid', $$'(0,1)'::tid$$, $$'(0,0)'::tid$$),
    ('oidvector', $$'1 2'::oidvector$$, $$''::oidvector$$), ('int2vector', $$'1 2'::int2vector$$, $$''::int2vector$$),
    ('pg_snapshot', $$'10:20:10,14'::pg_snapshot$$, 'NULL::pg_snapshot'), ('txid_snapshot', $$'10:20:10,14'::txid_snapshot$$, 'NULL::txid_snapshot'),
    ('aclitem', $$'postgres=r/postgres'::aclitem$$, 'NULL::aclitem'), ('refcursor', $$'c'::refcursor$$, 'NULL::refcursor'),
    ('int4range', $$'[1,5)'::int4range$$, $$'empty'::int4range$$), ('int8range', $$'[1,5)'::int8range$$, $$'empty'::int8range$$),
    ('numrange', $$'[1,5)'::numrange$$, $$'empty'::numrange$$), ('daterange', $$'[2026-01-01,2026-02-01)'::daterange$$, $$'empty'::daterange$$),
    ('tsrange', $$'[2026-01-01,2026-02-01)'::tsrange$$, $$'empty'::tsrange$$),
    ('tstzrange', $$'[2026-01-01,2026-02-01)'::tstzrange$$, $$'empty'::tstzrange$$),
    ('int4multirange', $$'{[1,5)}'::int4multirange$$, 'NULL::int4multirange'),
    ('anyelement', '3', '-1'), ('anycompatible', '3', '-1'), ('anynonarray', '3', '-1'), ('anycompatiblenonarray', '3', '-1'),
    ('anyarray', 'ARRAY[1, 2]', $$'{}'::integer[]$$), ('anycompatiblearray', 'ARRAY[1, 2]', $$'{}'::integer[]$$),
    ('anyenum', $$'ok'::mood$$, 'NULL::mood'), ('anyrange', $$'[1,5)'::int4range$$, $$'empty'::int4range$$),
    ('anycompatiblerange', $$'[1,5)'::int4range$$, $$'empty'::int4range$$), ('anymultirange', $$'{[1,5)}'::int4multirange$$, 'NULL::int4multirange'),
    ('"any"', '3', $$'x'::text$$), ('record', 'ROW(1, 2)', 'ROW(1)'), ('cstring', $$'a'$$, $$''$$),
    ('int4[]', 'ARRAY[1, 2]', $$'{}'::integer[]$$), ('text[]', $$ARRAY['a', 'b']$$, $$'{}'::text[]$$),
    ('oid[]', 'ARRAY[1::oid]', $$'{}'::oid[]$$), ('float8[]', 'ARRAY[0.5, 0.2]::double precision[]', $$'{}'::double precision[]$$),
    ('"char"[]', $$'{a,b}'::"char"[]$$, $$'{}'::"char"[]$$), ('name[]', $$'{a,b}'::name[]$$, $$'{}'::name[]$$),
    ('aclitem[]', $$'{postgres=r/postgres}'::aclitem[]$$, $$'{}'::aclitem[]$$)),
typed AS (SELECT to_regtype(type) AS type, ordinary, edge FROM lits WHERE to_regtype(type) IS NOT NULL),
called AS (
    SELECT p.oid, p.proname, p.prokind, p.proretset, p.provariadic, v.variant, p.pronargs,
           string_agg(CASE v.variant WHEN 1 THEN t.ordinary ELSE t.edge END, ', ' ORDER BY a.place) AS args,
           count(a.place) FILTER (WHERE t.type IS NULL) AS missing
    FROM pg_proc p CROSS JOIN (VALUES (1), (2)) AS v (variant)
    LEFT JOIN LATERAL unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a (type, place) ON true
    LEFT JOIN typed t ON t.type = a.type::regtype
    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.oid < 16384
    GROUP BY p.oid, p.proname, p.prokind, p.proretset, p.provariadic, v.variant, p.pronargs)
"#;

const FUNCTIONS: &str = r#"
SELECT 'SELECT pg_catalog.' || quote_ident(proname) || '(' || coalesce(args, '') || ')' FROM called
WHERE prokind = 'f' AND missing = 0 AND (variant = 1 OR pronargs > 0) ORDER BY proname, oid, variant"#;

const FUNCTIONS_IN_FROM: &str = r#"
SELECT 'SELECT * FROM ' || quote_ident(proname) || '(' || coalesce(args, '') || ') AS x' FROM called
WHERE prokind = 'f' AND missing = 0 AND proretset AND variant = 1 ORDER BY proname, oid"#;

const AGGREGATES: &str = r#"
SELECT 'SELECT ' || quote_ident(proname) || '(' || CASE WHEN pronargs = 0 AND prokind = 'a' THEN '*' ELSE coalesce(args, '') END || ')'
    || CASE prokind WHEN 'w' THEN ' OVER (ORDER BY i)' ELSE '' END || ' FROM t' FROM called
WHERE prokind IN ('a', 'w') AND missing = 0 AND variant = 1 ORDER BY proname, oid"#;

const OPERATORS: &str = r#"
SELECT 'SELECT ' || CASE WHEN l.type IS NULL THEN '' ELSE l.ordinary || ' ' END || o.oprname || ' ' || r.ordinary
FROM pg_operator o JOIN typed r ON r.type = o.oprright::regtype LEFT JOIN typed l ON l.type = o.oprleft::regtype
WHERE o.oid < 16384 AND (o.oprkind = 'l' OR l.type IS NOT NULL) ORDER BY o.oid"#;

const CASTS: &str = r#"
SELECT 'SELECT CAST(' || s.ordinary || ' AS ' || c.casttarget::regtype || '), (' || s.ordinary || ')::' || c.casttarget::regtype
FROM pg_cast c JOIN typed s ON s.type = c.castsource::regtype WHERE c.oid < 16384 ORDER BY c.oid"#;

const TYPES: &str = r#"
SELECT 'SELECT ' || ordinary || ' IS NULL, ' || 'NULL::' || type || ', ARRAY[' || ordinary || '], ARRAY[' || edge || ']::text'
FROM typed ORDER BY type"#;

const RELATIONS: &str = r#"
SELECT 'SELECT * FROM ' || n.nspname || '.' || quote_ident(c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('pg_catalog', 'information_schema') AND c.relkind IN ('r', 'v') ORDER BY 1"#;

const SETTINGS: &str = "SELECT 'SHOW ' || name FROM pg_settings ORDER BY name";
