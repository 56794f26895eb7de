-- One statement a line: what must never be sent to a standby. `make truth` and the tests classify them; they are not run,
-- because some of them end a standby's life as one.

-- It writes by its verb.
INSERT INTO trail (i) VALUES (1)
UPDATE t SET w = w WHERE false
DELETE FROM t WHERE false
TRUNCATE trail
CREATE TABLE x (i integer)
CREATE TABLE x AS SELECT 1
CREATE TEMP TABLE x (i integer)
SELECT 1 AS one INTO x
SELECT 1 AS one INTO TEMP x
WITH c AS (SELECT 1) SELECT * INTO TABLE x FROM c
(SELECT 1 AS one INTO x)
SELECT 1 AS one INTO x UNION SELECT 2
VACUUM t
ANALYZE t
REFRESH MATERIALIZED VIEW stored
COPY trail FROM STDIN
COPY t TO '/tmp/x'
COPY t TO PROGRAM 'cat'
COPY (INSERT INTO trail (i) VALUES (1) RETURNING i) TO STDOUT
COPY (DELETE FROM trail RETURNING i) TO STDOUT
COPY (SELECT writes(1)) TO STDOUT
COPY writing_view TO STDOUT
DO $$ BEGIN PERFORM 1; END $$
CALL does(1)
LOCK TABLE t
NOTIFY x
LISTEN x
CHECKPOINT
MERGE INTO trail USING t ON false WHEN NOT MATCHED THEN INSERT (i) VALUES (1)
COMMENT ON TABLE t IS 'x'
GRANT SELECT ON t TO app
SET work_mem = '1MB'
RESET ALL
DISCARD ALL
PREPARE p AS SELECT 1
EXECUTE p
DECLARE c CURSOR FOR SELECT 1
DECLARE c CURSOR WITH HOLD FOR SELECT 1
LOAD 'plpgsql'
BEGIN
COMMIT
SAVEPOINT s
PREPARE TRANSACTION 'x'

-- It writes in a part.
WITH x AS (INSERT INTO trail (i) VALUES (1) RETURNING i) SELECT * FROM x
WITH x AS (SELECT 1) INSERT INTO trail (i) SELECT * FROM x
WITH x AS (SELECT 1) DELETE FROM trail
WITH x AS (SELECT 1), y AS (UPDATE t SET w = w RETURNING i) SELECT * FROM x, y
SELECT * FROM (WITH x AS (SELECT 1) SELECT * FROM x) y; DELETE FROM trail
SELECT 1; INSERT INTO trail (i) VALUES (1)
INSERT INTO trail (i) VALUES (1); SELECT 1
SELECT 1; SELECT writes(1)
EXPLAIN ANALYZE INSERT INTO trail (i) VALUES (1)
EXPLAIN (ANALYZE) DELETE FROM trail
EXPLAIN (VERBOSE, ANALYZE TRUE, COSTS OFF) SELECT writes(1)
EXPLAIN ANALYZE SELECT writes(1)
EXPLAIN ANALYSE SELECT writes(1)
SELECT * FROM t FOR UPDATE
SELECT * FROM t FOR NO KEY UPDATE
SELECT * FROM t FOR SHARE
SELECT * FROM t FOR KEY SHARE SKIP LOCKED
SELECT * FROM t LIMIT 1 FOR UPDATE NOWAIT
(SELECT * FROM t FOR UPDATE)
SELECT * FROM (SELECT * FROM t FOR UPDATE) x
SELECT 1 WHERE EXISTS (SELECT 1 FROM t FOR SHARE)
SELECT 1 UNION ALL (SELECT i FROM t FOR UPDATE)
SELECT * FROM t /* FOR */ FOR/**/UPDATE

-- Functions.
SELECT writes(1)
SELECT writes_too()
SELECT lies(1)
SELECT swallows(1)
SELECT runs('INSERT INTO trail (i) VALUES (1)')
SELECT locks(1)
SELECT sets_work_mem(1)
SELECT set_of_writes(1)
SELECT * FROM set_of_writes(1)
SELECT * FROM with_out(1)
SELECT (with_out(1)).x
SELECT many(1, 2, 3)
SELECT many(VARIADIC ARRAY[1])
SELECT row_writes(t) FROM t
SELECT t.row_writes FROM t
SELECT x.row_writes FROM t AS x
SELECT (t).row_writes FROM t
SELECT (t.*).row_writes FROM t
SELECT atomic_writes(1)
SELECT "Quoted Writes"(1)
SELECT U&"Quoted\0020Writes"(1)
SELECT U&"!0077rites" UESCAPE '!' (1)
SELECT public.writes(1)
SELECT PUBLIC.WRITES(1)
SELECT "writes"(1)
SELECT wRiTeS (1)
SELECT writes/**/(1)
SELECT app.public.writes(1)
SELECT sum_writes(i) FROM t
SELECT sum_writes(i) OVER () FROM t
SELECT count(*) FILTER (WHERE writes(1) > 0) FROM t
SELECT 1 FROM t WHERE writes(i) > 0
SELECT 1 FROM t WHERE i = 1 AND (CASE WHEN writes(1) = 1 THEN true END)
SELECT 1 FROM t ORDER BY writes(i)
SELECT 1 FROM t GROUP BY writes(i)
SELECT 1 FROM t HAVING writes(1) > 0
SELECT 1 FROM t LIMIT writes(1)
SELECT 1 FROM t OFFSET writes(1)
SELECT 1 FROM t FETCH FIRST (writes(1)) ROWS ONLY
SELECT 1 FROM t JOIN u ON writes(1) = 1
SELECT 1 FROM t TABLESAMPLE bernoulli (writes(1))
SELECT 1 FROM t, LATERAL writes(t.i) AS x
SELECT 1 FROM ROWS FROM (generate_series(1, 2), writes(1)) AS x
SELECT 1 FROM t WINDOW w AS (PARTITION BY writes(1))
SELECT rank() OVER (ORDER BY writes(i)) FROM t
SELECT ARRAY[writes(1)]
SELECT ARRAY(SELECT writes(1))
SELECT (SELECT writes(1))
SELECT a[writes(1)] FROM t
SELECT ROW(writes(1))
SELECT coalesce(writes(1), 2)
SELECT nullif(writes(1), 2)
SELECT greatest(1, writes(1))
SELECT CASE writes(1) WHEN 1 THEN 2 END
SELECT CAST(writes(1) AS text)
SELECT writes(1)::text
SELECT extract(year FROM now()) + writes(1)
SELECT substring('abc' FROM writes(1))
SELECT trim(both writes(1)::text FROM 'x')
SELECT position(writes(1)::text IN 'x')
SELECT overlay('abc' PLACING 'x' FROM writes(1))
SELECT format('%s', writes(1))
SELECT 1 IN (writes(1))
SELECT writes(1) BETWEEN 1 AND 2
SELECT writes(1) IS NOT NULL
SELECT writes(1)::text LIKE 'x'
SELECT 'x' LIKE 'x' ESCAPE writes(1)::text
SELECT string_agg(w, ',' ORDER BY writes(i)) FROM t
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY writes(i)) FROM t
SELECT json_agg(writes(1))
SELECT xmlelement(name a, writes(1))
VALUES (writes(1))
SELECT * FROM (VALUES (writes(1))) AS x
WITH x AS (SELECT writes(1)) SELECT * FROM x
WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT writes(n) FROM x WHERE n < 2) SELECT * FROM x
SELECT 1 UNION SELECT writes(1)
TABLE writing_view
EXPLAIN SELECT lies(1)
SELECT initcap(1)
SELECT initcap(i) FROM t
SELECT other.reverse('a')
SELECT DISTINCT ON (writes(i)) i FROM t
SELECT 1 FROM t GROUP BY GROUPING SETS ((writes(i)), ())
SELECT 1 FROM t GROUP BY ROLLUP (writes(i))
SELECT $1.row_writes

-- PostgreSQL's own.
SELECT nextval('seq')
SELECT currval('seq')
SELECT lastval()
SELECT setval('seq', 1)
SELECT ('seq'::regclass).nextval
SELECT pg_catalog.nextval('seq')
SELECT * FROM seq
SELECT last_value FROM seq
SELECT pg_sequence_last_value('seq')
SELECT * FROM pg_sequences
SELECT txid_current()
SELECT pg_current_xact_id()
SELECT pg_notify('a', 'b')
SELECT pg_advisory_lock(1)
SELECT pg_catalog.pg_advisory_lock(1)
SELECT pg_try_advisory_lock(1, 2)
SELECT pg_advisory_xact_lock(hashtext('x'))
SELECT pg_advisory_unlock_shared(1)
SELECT abs(pg_advisory_lock(1)::text::integer)
SELECT set_config('work_mem', '1MB', false)
SELECT setseed(0.5)
SELECT lo_create(0)
SELECT lo_from_bytea(0, 'x')
SELECT lo_put(4711, 0, 'x')
SELECT lo_unlink(4711)
SELECT lo_open(4711, 131072)
SELECT lo_import('/etc/hostname')
SELECT lo_export(4711, '/tmp/x')
SELECT pg_logical_emit_message(true, 'a', 'b')
SELECT pg_switch_wal()
SELECT pg_create_restore_point('x')
SELECT pg_current_wal_lsn()
SELECT pg_walfile_name('0/1')
SELECT pg_last_wal_replay_lsn()
SELECT pg_wal_replay_pause()
SELECT pg_wal_replay_resume()
SELECT pg_promote()
SELECT pg_is_in_recovery()
SELECT pg_terminate_backend(1)
SELECT pg_cancel_backend(1)
SELECT pg_reload_conf()
SELECT pg_rotate_logfile()
SELECT pg_stat_reset()
SELECT pg_stat_get_db_numbackends(1)
SELECT * FROM pg_stat_activity
SELECT * FROM pg_catalog.pg_stat_activity
SELECT * FROM pg_locks
SELECT * FROM pg_settings
SELECT * FROM pg_cursors
SELECT * FROM pg_prepared_statements
SELECT * FROM pg_replication_slots
SELECT * FROM pg_temp.x
SELECT pg_backend_pid()
SELECT pg_postmaster_start_time()
SELECT inet_server_port()
SELECT inet_server_addr()
SELECT current_setting('transaction_read_only')
SHOW transaction_read_only
SHOW in_hot_standby
SHOW ALL
SHOW hba_file
SELECT pg_export_snapshot()
SELECT pg_current_snapshot()
SELECT txid_current_snapshot()
SELECT pg_xact_status('1')
SELECT pg_create_physical_replication_slot('x')
SELECT pg_create_logical_replication_slot('x', 'test_decoding')
SELECT pg_replication_origin_create('x')
SELECT pg_import_system_collations('pg_catalog')
SELECT query_to_xml('SELECT nextval(''seq'')', true, false, '')
SELECT table_to_xml('writing_view', true, false, '')
SELECT ts_stat('SELECT writes(1)')
SELECT ts_rewrite('a'::tsquery, 'SELECT writes(1)')
SELECT pg_read_file('postgresql.conf')
SELECT pg_ls_dir('.')
SELECT pg_ls_waldir()
SELECT pg_stat_file('postgresql.conf')
SELECT brin_summarize_new_values('t_pkey')
SELECT gin_clean_pending_list('t_pkey')
SELECT pg_get_backend_memory_contexts()
SELECT pg_trigger_depth()
SELECT cursor_to_xml('c', 1, true, false, '')
SELECT pg_get_replication_slots()
SELECT pg_control_checkpoint()
SELECT pg_stat_clear_snapshot()
SELECT pg_blocking_pids(1)
SELECT pg_safe_snapshot_blocking_pids(1)
SELECT pg_isolation_test_session_is_blocked(1, '{1}')
SELECT pg_my_temp_schema()
SELECT pg_listening_channels()
SELECT pg_notification_queue_usage()
SELECT pg_conf_load_time()
SELECT pg_prepared_xact()
SELECT pg_show_all_settings()
SELECT pg_hba_file_rules()
SELECT binary_upgrade_set_next_pg_type_oid(1)

-- Operators.
SELECT 1 ### 2
SELECT i###1 FROM t
SELECT 1 OPERATOR(public.###) 2
SELECT @# 1
SELECT @#i FROM t
SELECT 'a'::text <-> 1
SELECT 1 WHERE 1 ### 2 = 3
SELECT 1 = ANY (ARRAY[1 ### 2])
SELECT 1 ### ANY (ARRAY[2]) FROM t
SELECT i FROM t ORDER BY i USING ###

-- Types, casts, domains, operator classes.
SELECT 1::checked
SELECT CAST(1 AS checked)
SELECT checked '1'
SELECT '{1}'::checked[]
SELECT 'ok'::checked_mood
SELECT NULL::with_checked
SELECT ROW(1)::with_checked
SELECT '(1)'::with_checked
SELECT jsonb_populate_record(NULL::with_checked, '{"c": 1}')
SELECT * FROM jsonb_to_record('{"c": 1}') AS x (c checked)
SELECT * FROM jsonb_to_recordset('[{"c": 1}]') AS x (c public.checked)
SELECT ROW(1)::loud::text
SELECT text(l) FROM louds
SELECT l::text FROM louds
SELECT (l).text FROM louds
SELECT l.text FROM louds AS l
SELECT * FROM ranked ORDER BY r
SELECT DISTINCT r FROM ranked
SELECT r, count(*) FROM ranked GROUP BY r
SELECT max(i) OVER (PARTITION BY r) FROM ranked
SELECT r FROM ranked UNION SELECT r FROM ranked
SELECT greatest(ROW(1)::sorted, ROW(2)::sorted)

-- Relations.
SELECT * FROM writing_view
SELECT * FROM public.writing_view
SELECT * FROM "writing_view"
SELECT * FROM ONLY writing_view
SELECT * FROM view_on_writing_view
SELECT * FROM operator_view
SELECT * FROM locking_view
SELECT * FROM sequence_view
SELECT * FROM node_view
SELECT * FROM lost_view
SELECT * FROM policed
SELECT count(*) FROM t, policed
SELECT * FROM unlogged
SELECT * FROM hashed WHERE i = 1
SELECT * FROM unlogged_view
SELECT * FROM parent
SELECT * FROM child
SELECT * FROM t WHERE i IN (SELECT i FROM unlogged)
SELECT EXISTS (TABLE unlogged)
COPY unlogged TO STDOUT
EXPLAIN SELECT * FROM unlogged
SELECT * FROM hashed WHERE i = 1
SELECT * FROM no_such_table
SELECT ctid, cmin FROM t
SELECT t.cmax FROM t
SELECT (t).cmin FROM t
SELECT no_such_function(1)
