"""psycopg 3 (libpq), plain, prepared, pipelined, with COPY, cursors, notifications and cancel."""

import json
import os
import socket
import threading
import time
import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from ipaddress import ip_address

import psycopg
from psycopg import errors, sql
from psycopg.types.json import Jsonb

from check import CONNECTIONS, Checks, at_once, equal

checks = Checks()


def connect(**options):
    return psycopg.connect(connect_timeout=20, **{"autocommit": True, **options})


def create(conn, table, columns):
    conn.execute(f"DROP TABLE IF EXISTS {table}", prepare=False)
    conn.execute(f"CREATE TABLE {table} ({columns})", prepare=False)


@checks
def connect_with_scram():
    with connect() as conn:
        equal(conn.execute("SELECT 1").fetchone(), (1,))
        equal(conn.execute("SELECT current_user::text, current_database()::text").fetchone(), (os.environ["PGUSER"], os.environ["PGDATABASE"]))
        assert conn.info.parameter_status("server_version").startswith("1"), "server_version"
    with connect(require_auth="scram-sha-256") as conn:
        equal(conn.execute("SELECT 2").fetchone(), (2,))


@checks
def wrong_password_is_refused():
    try:
        connect(password="wrong")
    except psycopg.OperationalError as error:
        assert "password authentication failed" in str(error), error
    else:
        raise AssertionError("logged in with a wrong password")


@checks
def simple_and_parametrised_queries():
    with connect() as conn:
        cursor = conn.execute("SELECT 1; SELECT 2, 'b'")
        equal(cursor.fetchone(), (1,))
        assert cursor.nextset()
        equal(cursor.fetchone(), (2, "b"))
        equal(conn.execute("SELECT %s::int + %s::int", (20, 22)).fetchone(), (42,))
        equal(conn.execute("SELECT %(a)s::text", {"a": "it's; -- $1"}).fetchone(), ("it's; -- $1",))
        equal(conn.execute("").statusmessage, None)
        client = psycopg.ClientCursor(conn)
        equal(client.execute("SELECT %s::text", ("quoted ' here",)).fetchone(), ("quoted ' here",))
        equal(conn.execute("SELECT name FROM matrix_items WHERE id = %s", (7,)).fetchone(), ("item 7",))


VALUES = [
    ("bool", True), ("int2", -32768), ("int4", 2147483647), ("int8", -9223372036854775808), ("float4", 1.5), ("float8", 2.5e300),
    ("numeric", Decimal("123456789012345678901234567890.123456789")), ("text", "Grüße, 世界 🐘"), ("varchar(10)", "short"),
    ("bytea", bytes(range(256))), ("date", date(2024, 2, 29)), ("timestamp", datetime(2024, 2, 29, 12, 30, 15, 123456)),
    ("timestamptz", datetime(2024, 2, 29, 12, 30, 15, 123456, timezone.utc)), ("interval", timedelta(days=3, seconds=7)),
    ("uuid", uuid.UUID("12345678-1234-5678-1234-567812345678")), ("inet", ip_address("192.168.0.1")), ("int4[]", [1, None, 3]),
    ("text[]", ["a", 'quote "', "comma, {brace}"]), ("jsonb", {"a": [1, 2, {"b": None}]}),
]


@checks
def common_types_in_text_and_binary():
    with connect() as conn:
        for binary in (False, True):
            for name, value in VALUES:
                sent = Jsonb(value) if name == "jsonb" else value
                found = conn.execute(f"SELECT %s::{name}", (sent,), binary=binary).fetchone()[0]
                equal((name, found), (name, value))


@checks
def nulls():
    with connect() as conn:
        equal(conn.execute("SELECT %s::int, %s::text, NULL, ''", (None, None)).fetchone(), (None, None, None, ""))
        create(conn, "psycopg_nulls", "a int, b text")
        conn.execute("INSERT INTO psycopg_nulls VALUES (%s, %s)", (None, ""))
        equal(conn.execute("SELECT * FROM psycopg_nulls WHERE a IS NULL").fetchall(), [(None, "")])


@checks
def transactions_commit_and_roll_back():
    with connect(autocommit=False) as conn:
        create(conn, "psycopg_tx", "id int PRIMARY KEY")
        conn.commit()
        conn.execute("INSERT INTO psycopg_tx VALUES (1)")
        conn.commit()
        conn.execute("INSERT INTO psycopg_tx VALUES (2)")
        equal(conn.execute("SELECT count(*) FROM psycopg_tx").fetchone(), (2,))
        conn.rollback()
        equal(conn.execute("SELECT array_agg(id) FROM psycopg_tx").fetchone(), ([1],))
        conn.commit()


@checks
def savepoints():
    with connect() as conn:
        create(conn, "psycopg_savepoint", "id int PRIMARY KEY")
        with conn.transaction():
            conn.execute("INSERT INTO psycopg_savepoint VALUES (1)")
            try:
                with conn.transaction():
                    conn.execute("INSERT INTO psycopg_savepoint VALUES (1)")
            except errors.UniqueViolation:
                pass
            with conn.transaction(force_rollback=True):
                conn.execute("INSERT INTO psycopg_savepoint VALUES (2)")
            conn.execute("INSERT INTO psycopg_savepoint VALUES (3)")
        equal(conn.execute("SELECT array_agg(id ORDER BY id) FROM psycopg_savepoint").fetchone(), ([1, 3],))


@checks
def read_only_and_serializable_transactions():
    with connect(autocommit=False) as conn:
        create(conn, "psycopg_levels", "id int")
        conn.commit()
        conn.read_only = True
        equal(conn.execute("SELECT count(*) FROM psycopg_levels").fetchone(), (0,))
        try:
            conn.execute("INSERT INTO psycopg_levels VALUES (1)")
            raise AssertionError("wrote in a read-only transaction")
        except errors.ReadOnlySqlTransaction:
            conn.rollback()
        conn.read_only = None
        conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        conn.execute("INSERT INTO psycopg_levels VALUES (1)")
        conn.commit()
        equal(conn.execute("SHOW transaction_isolation").fetchone(), ("serializable",))
        equal(conn.execute("SELECT count(*) FROM psycopg_levels").fetchone(), (1,))
        conn.rollback()


@checks
def error_inside_a_transaction_then_rollback():
    with connect(autocommit=False) as conn:
        for text, error in (("SELECT 1/0", errors.DivisionByZero), ("SELECT * FROM no_such_table", errors.UndefinedTable)):
            conn.execute("SELECT 1")
            try:
                conn.execute(text)
                raise AssertionError("no error")
            except error:
                equal(conn.info.transaction_status, psycopg.pq.TransactionStatus.INERROR)
            try:
                conn.execute("SELECT 2")
                raise AssertionError("the transaction should be aborted")
            except errors.InFailedSqlTransaction:
                conn.rollback()
            equal(conn.execute("SELECT 3").fetchone(), (3,))
            conn.rollback()


@checks
def errors_carry_their_sqlstate_and_keep_the_connection():
    with connect() as conn:
        create(conn, "psycopg_errors", "id int PRIMARY KEY")
        conn.execute("INSERT INTO psycopg_errors VALUES (1)")
        for text, parameters, state in (
                ("INSERT INTO psycopg_errors VALUES (1)", None, "23505"), ("SELECT * FROM missing", None, "42P01"),
                ("SELECT 1/0", None, "22012"), ("SELECT 1/%s::int", (0,), "22012"), ("SELEC 1", None, "42601"),
                ("SELECT %s::int", ("x",), "22P02"), ("SELECT nosuch FROM matrix_items", None, "42703")):
            try:
                conn.execute(text, parameters)
                raise AssertionError(f"no error: {text}")
            except psycopg.Error as error:
                equal((text, error.sqlstate), (text, state))
            equal(conn.execute("SELECT %s::int", (5,)).fetchone(), (5,))


@checks
def notices_arrive():
    with connect() as conn:
        seen = []
        conn.add_notice_handler(lambda diagnostic: seen.append(diagnostic.message_primary))
        conn.execute("DO $$ BEGIN RAISE NOTICE 'hello %', 1; END $$")
        equal(seen, ["hello 1"])


def reuse_prepared(threshold):
    def one(number):
        with connect(prepare_threshold=threshold) as conn:
            for turn in range(30):
                for shift in range(3):
                    kind = (turn + number + shift) % 3
                    if kind == 0:
                        equal(conn.execute("SELECT %s::int + 1", (turn,)).fetchone(), (turn + 1,))
                    elif kind == 1:
                        equal(conn.execute("SELECT name FROM matrix_items WHERE id = %s", (turn + 1,)).fetchone(), (f"item {turn + 1}",))
                    else:
                        with conn.transaction():
                            equal(conn.execute("SELECT %s::text || %s", (str(number), "!")).fetchone(), (f"{number}!",))
                            equal(conn.execute("SELECT %s::int + 1", (number,)).fetchone(), (number + 1,))
    at_once(one)


@checks
def prepared_statements_across_transactions_threshold_0():
    reuse_prepared(0)


@checks
def prepared_statements_across_transactions_threshold_1():
    reuse_prepared(1)


@checks
def prepared_statements_across_transactions_threshold_5():
    reuse_prepared(5)


@checks
def more_prepared_statements_than_the_driver_keeps():
    with connect(prepare_threshold=0) as conn:
        conn.prepared_max = 20
        for _ in range(2):
            for number in range(60):
                equal(conn.execute(f"SELECT %s::int + {number}", (1,)).fetchone(), (1 + number,))


@checks
def prepared_statement_survives_ddl_and_errors():
    with connect(prepare_threshold=0) as conn:
        create(conn, "psycopg_ddl", "a int, b int")
        conn.execute("INSERT INTO psycopg_ddl VALUES (1, 2)")
        equal(conn.execute("SELECT a FROM psycopg_ddl WHERE a = %s", (1,)).fetchone(), (1,))
        conn.execute("ALTER TABLE psycopg_ddl ADD c int DEFAULT 3")
        equal(conn.execute("SELECT a FROM psycopg_ddl WHERE a = %s", (1,)).fetchone(), (1,))
        for _ in range(3):
            try:
                conn.execute("SELECT a / %s FROM psycopg_ddl", (0,))
                raise AssertionError("no error")
            except errors.DivisionByZero:
                equal(conn.execute("SELECT a / %s FROM psycopg_ddl", (1,)).fetchone(), (1,))


@checks
def pipeline_mode():
    def one(number):
        with connect(prepare_threshold=0) as conn:
            for _ in range(3):
                with conn.pipeline():
                    cursors = [conn.execute("SELECT %s::int * 2", (value,)) for value in range(50)]
                    cursors.append(conn.execute("SELECT name FROM matrix_items WHERE id = %s", (number + 1,)))
                equal([cursor.fetchone()[0] for cursor in cursors[:-1]], [value * 2 for value in range(50)])
                equal(cursors[-1].fetchone(), (f"item {number + 1}",))
    at_once(one)


@checks
def pipeline_with_writes_and_an_error():
    with connect() as conn:
        create(conn, "psycopg_pipeline", "id int PRIMARY KEY")
        try:
            with conn.pipeline() as pipeline:
                conn.execute("INSERT INTO psycopg_pipeline VALUES (1)")
                pipeline.sync()
                conn.execute("INSERT INTO psycopg_pipeline VALUES (1)")
                conn.execute("INSERT INTO psycopg_pipeline VALUES (2)")
                pipeline.sync()
                conn.execute("INSERT INTO psycopg_pipeline VALUES (3)")
        except (errors.UniqueViolation, errors.PipelineAborted):
            pass
        found = conn.execute("SELECT id FROM psycopg_pipeline ORDER BY id").fetchall()
        assert (1,) in found and (2,) not in found, found
        equal(conn.execute("SELECT 1").fetchone(), (1,))


@checks
def pipeline_in_a_transaction():
    with connect() as conn:
        create(conn, "psycopg_pipeline_tx", "id int PRIMARY KEY")
        with conn.pipeline(), conn.transaction():
            for number in range(20):
                conn.execute("INSERT INTO psycopg_pipeline_tx VALUES (%s)", (number,))
            count = conn.execute("SELECT count(*) FROM psycopg_pipeline_tx")
        equal(count.fetchone(), (20,))


@checks
def executemany():
    with connect() as conn:
        create(conn, "psycopg_many", "id int, name text")
        with conn.cursor() as cursor:
            cursor.executemany("INSERT INTO psycopg_many VALUES (%s, %s)", [(n, f"n{n}") for n in range(500)])
            cursor.executemany("SELECT name FROM psycopg_many WHERE id = %s", [(1,), (499,)], returning=True)
            equal(cursor.fetchone(), ("n1",))
            assert cursor.nextset()
            equal(cursor.fetchone(), ("n499",))


@checks
def named_cursors_in_a_transaction():
    def one(number):
        with connect(autocommit=False) as conn, conn.transaction(), conn.cursor(name=f"c{number % 2}") as cursor:
            cursor.itersize = 7
            cursor.execute("SELECT id FROM matrix_items ORDER BY id")
            equal(cursor.fetchmany(3), [(1,), (2,), (3,)])
            equal(len(cursor.fetchall()), 997)
    at_once(one)


@checks
def streamed_rows():
    with connect() as conn, conn.cursor() as cursor:
        equal(sum(row[0] for row in cursor.stream("SELECT id FROM matrix_items")), 500500)
        equal(cursor.execute("SELECT 1").fetchone(), (1,))


@checks
def copy_in_and_out():
    def one(number):
        table = f"psycopg_copy_{number}"
        with connect() as conn, conn.cursor() as cursor:
            create(conn, table, "id int, name text")
            with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                for value in range(5000):
                    copy.write_row((value, None if value % 3 == 0 else f"tab\t{value}"))
            with cursor.copy(f"COPY (SELECT * FROM {table} ORDER BY id) TO STDOUT") as copy:
                rows = list(copy.rows())
            equal((len(rows), rows[3], rows[4]), (5000, ("3", None), ("4", "tab\t4")))
            with cursor.copy(f"COPY {table} (id) FROM STDIN (FORMAT binary)") as copy:
                copy.set_types(["int4"])
                for value in range(100):
                    copy.write_row((value,))
            equal(conn.execute(f"SELECT count(*) FROM {table}").fetchone(), (5100,))
    at_once(one)


@checks
def copy_that_fails_keeps_the_connection():
    with connect() as conn, conn.cursor() as cursor:
        create(conn, "psycopg_copy_fails", "id int PRIMARY KEY")
        try:
            with cursor.copy("COPY psycopg_copy_fails FROM STDIN") as copy:
                for value in range(20000):
                    copy.write_row((value % 10,))
            raise AssertionError("no error")
        except errors.UniqueViolation:
            pass
        for text in ("COPY psycopg_copy_fails FROM STDIN", "COPY (SELECT generate_series(1, 1000000)) TO STDOUT"):
            try:
                with cursor.copy(text) as copy:
                    copy.read() if "TO" in text else copy.write_row((1,))
                    raise RuntimeError("the client gives up")  # CopyFail here, a cancel there
            except RuntimeError:
                pass
        equal(conn.execute("SELECT count(*) FROM psycopg_copy_fails").fetchone(), (0,))


@checks
def listen_and_notify():
    with connect() as listener, connect() as notifier:
        listener.execute("LISTEN psycopg_channel")
        notifier.execute("NOTIFY psycopg_channel, 'one'")
        notifier.execute("SELECT pg_notify('psycopg_channel', 'two')")
        found = [notify.payload for notify in listener.notifies(timeout=10, stop_after=2)]
        equal(found, ["one", "two"])
        equal(listener.execute("SELECT 1").fetchone(), (1,))


@checks
def cancel_stops_the_own_query_only():
    with connect() as victim, connect() as neighbour:
        outcome = {}

        def sleep(name, conn, seconds):
            try:
                outcome[name] = conn.execute("SELECT 'slept' FROM pg_sleep(%s)", (seconds,)).fetchone()
            except psycopg.Error as error:
                outcome[name] = error.sqlstate
        threads = [threading.Thread(target=sleep, args=arguments, daemon=True)
                   for arguments in (("victim", victim, 50), ("neighbour", neighbour, 3))]
        for thread in threads:
            thread.start()
        threads[0].join(0.5)
        while threads[0].is_alive():
            victim.cancel_safe(timeout=10)
            threads[0].join(2)
        threads[1].join()
        equal(outcome, {"victim": "57014", "neighbour": ("slept",)})
        equal(victim.execute("SELECT 1").fetchone(), (1,))


@checks
def cancel_of_an_idle_connection_changes_nothing():
    with connect() as conn:
        conn.execute("SELECT 1")
        conn.cancel()
        time.sleep(0.1)  # a cancel that went astray would arrive now
        for number in range(5):
            equal(conn.execute("SELECT %s::int", (number,)).fetchone(), (number,))


@checks
def statement_timeout_within_a_transaction():
    with connect() as conn:
        try:
            with conn.transaction():
                conn.execute("SET LOCAL statement_timeout = '200ms'")
                conn.execute("SELECT pg_sleep(30)")
            raise AssertionError("no timeout")
        except errors.QueryCanceled:
            pass
        equal(conn.execute("SHOW statement_timeout").fetchone(), ("0",))


@checks
def large_results():
    with connect() as conn:
        cursor = conn.execute("SELECT repeat('x', 1000) FROM generate_series(1, 50000)")
        equal(sum(len(row[0]) for row in cursor), 50_000_000)
        equal(len(conn.execute("SELECT repeat('y', 52428800)").fetchone()[0]), 52428800)
        equal(conn.execute("SELECT 1").fetchone(), (1,))


@checks
def large_parameters_and_texts():
    with connect() as conn:
        value = "p" * 5_000_000
        equal(conn.execute("SELECT length(%s::text)", (value,)).fetchone(), (5_000_000,))
        equal(conn.execute("SELECT %s::bytea", (bytes(5_000_000),), binary=True).fetchone()[0], bytes(5_000_000))
        equal(conn.execute("SELECT length('" + value + "')").fetchone(), (5_000_000,))
        create(conn, "psycopg_large", "body text")
        conn.execute("INSERT INTO psycopg_large VALUES (%s)", (value,))
        equal(conn.execute("SELECT body = %s FROM psycopg_large", (value,)).fetchone(), (True,))


@checks
def reads_see_the_own_writes():
    with connect() as conn:
        create(conn, "psycopg_ryw", "worker int, n int")

    def one(number):
        with connect() as conn:
            for turn in range(40):
                conn.execute("INSERT INTO psycopg_ryw VALUES (%s, %s)", (number, turn))
                equal(conn.execute("SELECT max(n) FROM psycopg_ryw WHERE worker = %s", (number,)).fetchone(), (turn,))
                with conn.transaction():
                    conn.execute("UPDATE psycopg_ryw SET n = n WHERE worker = %s AND n = %s", (number, turn))
                equal(conn.execute("SELECT count(*) FROM psycopg_ryw WHERE worker = %s", (number,)).fetchone(), (turn + 1,))
    at_once(one)


@checks
def reads_run_on_the_replica():
    def one(_):
        with connect() as conn:
            for number in range(1, 11):
                equal(conn.execute("SELECT id FROM replica_reads WHERE id = %s", (number,)).fetchone(), (number,))
                equal(conn.execute(f"SELECT id FROM replica_reads WHERE id = {number}").fetchone(), (number,))
    at_once(one)


@checks
def set_and_show_within_a_transaction():
    def one(number):
        with connect(autocommit=False) as conn:
            conn.execute("SELECT 1")
            conn.execute(sql.SQL("SET LOCAL work_mem = {}").format(f"{number + 1}MB"))
            conn.execute(f"SET LOCAL search_path = pg_catalog, psycopg_{number}")
            equal(conn.execute("SHOW work_mem").fetchone(), (f"{number + 1}MB",))
            equal(conn.execute("SHOW search_path").fetchone(), (f"pg_catalog, psycopg_{number}",))
            equal(conn.execute("SELECT current_setting('work_mem')").fetchone(), (f"{number + 1}MB",))
            conn.rollback()
            equal(conn.execute("SHOW work_mem").fetchone(), ("4MB",))
            conn.rollback()
    at_once(one)


@checks
def startup_settings_are_the_clients_own():
    def one(number):
        zone, name = ("Europe/Berlin", "Asia/Tokyo")[number % 2], f"psycopg '{number}'"
        with connect(application_name=name, client_encoding=("UTF8", "LATIN1")[number % 2], options=f"-c TimeZone={zone} -c DateStyle=German") as conn:
            for _ in range(10):
                equal(conn.execute("SHOW application_name").fetchone(), (name,))
                equal(conn.execute("SHOW TimeZone").fetchone(), (zone,))
                equal(conn.execute("SHOW DateStyle").fetchone(), ("German, DMY",))
                equal(conn.execute("SHOW client_encoding").fetchone(), (("UTF8", "LATIN1")[number % 2],))
                equal(psycopg.ClientCursor(conn).execute("SELECT %s", ("grün",)).fetchone(), ("grün",))
                equal(psycopg.ClientCursor(conn).execute("SELECT '2024-02-29'::date::text").fetchone(), ("29.02.2024",))
            equal(conn.info.parameter_status("TimeZone"), zone)
            equal(conn.info.parameter_status("application_name"), name)
    at_once(one)


@checks
def session_settings_follow_the_client():
    def one(number):
        zone = ("Europe/Berlin", "Asia/Tokyo", "America/Lima")[number % 3]
        with connect() as conn:
            conn.execute(sql.SQL("SET TimeZone = {}").format(zone))
            conn.execute(f"SET application_name = 'worker {number}'")
            for turn in range(15):
                equal(conn.execute("SHOW TimeZone").fetchone(), (zone,))
                equal(conn.execute("SHOW application_name").fetchone(), (f"worker {number}",))
                equal(conn.execute("SELECT id FROM matrix_items WHERE id = %s", (turn + 1,)).fetchone(), (turn + 1,))
    at_once(one)


@checks
def json_and_arrays_round_trip_through_a_table():
    with connect() as conn:
        create(conn, "psycopg_documents", "id int, body jsonb, tags text[]")
        body = {"name": "ö" * 1000, "list": list(range(100))}
        conn.execute("INSERT INTO psycopg_documents VALUES (1, %s, %s)", (json.dumps(body), ["a", "b"]))
        equal(conn.execute("SELECT body, tags FROM psycopg_documents").fetchone(), (body, ["a", "b"]))


@checks
def many_short_connections():
    def one(number):
        for turn in range(15):
            with connect() as conn:
                equal(conn.execute("SELECT %s::int", (number * 100 + turn,)).fetchone(), (number * 100 + turn,))
    at_once(one)


@checks
def many_idle_connections_share_the_pool():
    conns = [connect() for _ in range(CONNECTIONS)]
    for turn in range(5):
        for conn in conns:
            equal(conn.execute("SELECT %s::int", (turn,)).fetchone(), (turn,))
    for conn in conns:
        conn.close()


@checks
def clients_that_vanish_cost_no_server():
    def vanish(text):
        conn = connect()
        conn.pgconn.send_query(text)
        conn.pgconn.flush()
        with socket.socket(fileno=os.dup(conn.pgconn.socket)) as stream:
            stream.settimeout(0.05)
            try:
                stream.recv(1)
            except TimeoutError:
                pass
            stream.shutdown(socket.SHUT_RDWR)
        conn.close()

    def one(number):
        for _ in range(2):
            vanish((b"SELECT pg_sleep(55)", b"SELECT repeat('x', 1000) FROM generate_series(1, 100000)", b"BEGIN; SELECT 1")[number % 3])
    at_once(one)

    def still_served(number):
        with connect() as conn:
            for _ in range(5):
                equal(conn.execute("SELECT %s::int", (number,)).fetchone(), (number,))
                equal(conn.info.transaction_status, psycopg.pq.TransactionStatus.IDLE)
    at_once(still_served)


checks.run()
