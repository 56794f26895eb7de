"""psql: scripts, variables, \\copy, \\gdesc, FETCH_COUNT, notifications and Ctrl-C."""

import os
import signal
import subprocess
import tempfile

from check import Checks, at_once, equal

checks = Checks()
PSQL = [os.environ.get("MATRIX_PSQL", "psql"), "-X", "-A", "-t", "-q"]


def psql(script, *arguments, environment=None, code=0):
    done = subprocess.run([*PSQL, *arguments], input=script, capture_output=True, text=True, timeout=50,
                          env={**os.environ, **(environment or {})})
    if done.returncode != code:
        raise AssertionError(f"psql ended with {done.returncode}: {done.stderr}")
    return done.stdout.strip(), done.stderr.strip()


def lines(script, *arguments, **options):
    return psql(script, *arguments, **options)[0].splitlines()


@checks
def connect_with_scram():
    equal(lines("SELECT 1;\nSELECT current_user;"), ["1", os.environ["PGUSER"]])
    equal(lines("SELECT 1", environment={"PGREQUIREAUTH": "scram-sha-256"}), ["1"])


@checks
def wrong_password_and_unknown_database_are_refused():
    assert "password authentication failed" in psql("SELECT 1", environment={"PGPASSWORD": "wrong"}, code=2)[1]
    assert "no_such_database" in psql("SELECT 1", "no_such_database", code=2)[1]


@checks
def several_statements_in_one_string():
    equal(lines("", "-c", "SELECT 1; SELECT 2; SELECT 3"), ["1", "2", "3"])
    equal(lines("SELECT 1\\; SELECT 2;"), ["1", "2"])


@checks
def script_in_one_transaction():
    equal(lines("DROP TABLE IF EXISTS psql_tx; CREATE TABLE psql_tx (id int PRIMARY KEY);\n"
                "BEGIN; INSERT INTO psql_tx VALUES (1); SAVEPOINT s; INSERT INTO psql_tx VALUES (2); ROLLBACK TO s;\n"
                "INSERT INTO psql_tx VALUES (3); COMMIT;\nSELECT id FROM psql_tx ORDER BY id;"), ["1", "3"])
    equal(lines("INSERT INTO psql_tx VALUES (4);\nSELECT count(*) FROM psql_tx;", "-1", "-v", "ON_ERROR_STOP=1"), ["3"])


@checks
def errors_and_on_error_rollback():
    output, errors = psql("\\set VERBOSITY sqlstate\nBEGIN;\nSELECT 1/0;\nSELECT * FROM missing;\nROLLBACK;\nSELECT * FROM missing;\nSELECT 'alive';")
    equal((output, errors.splitlines()), ("alive", ["ERROR:  22012", "ERROR:  25P02", "ERROR:  42P01"]))
    equal(lines("\\set ON_ERROR_ROLLBACK on\nBEGIN;\nSELECT 1;\nSELECT 1/0;\nSELECT 2;\nCOMMIT;"), ["1", "2"])


@checks
def meta_commands():
    assert "matrix_items" in psql("\\dt")[0]
    assert "name" in psql("\\d matrix_items")[0]
    equal(lines("SELECT 1 AS a, 'x'::text AS b \\gdesc"), ["a|integer", "b|text"])
    equal(lines("SELECT 42 AS answer \\gset\n\\echo :answer"), ["42"])
    equal(lines("SELECT 'SELECT ' || n FROM generate_series(1, 3) n \\gexec"), ["1", "2", "3"])
    equal(lines("\\encoding LATIN1\nSHOW client_encoding;"), ["LATIN1"])


@checks
def sql_level_prepare_within_a_transaction():
    equal(lines("BEGIN; PREPARE p(int) AS SELECT $1 + 1; EXECUTE p(1); EXECUTE p(41); DEALLOCATE p; COMMIT;"), ["2", "42"])


@checks
def cursors_and_fetch_count():
    equal(lines("BEGIN; DECLARE c CURSOR FOR SELECT id FROM matrix_items ORDER BY id; FETCH 2 FROM c; MOVE 5 IN c; FETCH 1 FROM c; COMMIT;"),
          ["1", "2", "8"])
    equal(len(lines("\\set FETCH_COUNT 7\nSELECT id FROM matrix_items;")), 1000)


@checks
def copy_in_and_out():
    with tempfile.NamedTemporaryFile("w+", suffix=".tsv") as file:
        file.writelines(f"{n}\tn{n}\n" for n in range(10000))
        file.flush()
        equal(lines(f"DROP TABLE IF EXISTS psql_copy; CREATE TABLE psql_copy (id int, name text);\n\\copy psql_copy FROM '{file.name}'\n"
                    "SELECT count(*) FROM psql_copy;"), ["10000"])
    equal(len(lines("COPY psql_copy TO STDOUT;")), 10000)
    equal(lines("COPY psql_copy FROM STDIN;\n1\tone\n2\ttwo\n\\.\nSELECT count(*) FROM psql_copy;"), ["10002"])
    output, errors = psql("COPY psql_copy FROM STDIN;\nnot a number\tone\n\\.\nSELECT 'alive';")
    assert output == "alive" and "invalid input syntax" in errors, (output, errors)


@checks
def listen_and_notify():
    output = psql("LISTEN psql_channel;\nNOTIFY psql_channel, 'hello';\nSELECT 1;")[0]
    assert 'notification "psql_channel" with payload "hello"' in output, output


@checks
def control_c_stops_the_query():
    process = subprocess.Popen([*PSQL, "-c", "\\warn started", "-c", "SELECT pg_sleep(50)"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    equal(process.stderr.readline().strip(), "started")
    for _ in range(20):  # again, in case psql had not sent the query yet
        try:
            process.wait(timeout=0.5)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=10)[1]
    assert "canceling statement due to user request" in errors, errors


@checks
def large_results_and_texts():
    equal(len(psql("SELECT repeat('x', 1000) FROM generate_series(1, 50000);")[0]), 50_049_999)
    equal(lines("SELECT length('" + "y" * 5_000_000 + "');"), ["5000000"])


@checks
def settings_at_startup_and_within_a_transaction():
    equal(lines("SHOW TimeZone; SHOW application_name; SHOW client_encoding; SHOW work_mem;", environment={
        "PGTZ": "Asia/Tokyo", "PGAPPNAME": "psql; it's me", "PGCLIENTENCODING": "LATIN1", "PGOPTIONS": "-c work_mem=7MB"}),
        ["Asia/Tokyo", "psql; it's me", "LATIN1", "7MB"])
    equal(lines("BEGIN; SET LOCAL work_mem = '5MB'; SHOW work_mem; COMMIT; SHOW work_mem;"), ["5MB", "4MB"])


@checks
def reads_see_the_own_writes():
    psql("DROP TABLE IF EXISTS psql_ryw; CREATE TABLE psql_ryw (worker int, n int);")

    def one(number):
        script = "".join(f"INSERT INTO psql_ryw VALUES ({number}, {turn});\nSELECT max(n) FROM psql_ryw WHERE worker = {number};\n" for turn in range(30))
        equal(lines(script), [str(turn) for turn in range(30)])
    at_once(one)


@checks
def reads_run_on_the_replica():
    at_once(lambda _: equal(lines("".join(f"SELECT id FROM replica_reads WHERE id = {n};\n" for n in range(1, 11))), [str(n) for n in range(1, 11)]))


@checks
def many_short_connections():
    at_once(lambda number: [equal(lines(f"SELECT {turn}"), [str(turn)]) for turn in range(5)])


checks.run()
