"""PostgreSQL's own tests, directly and through pglagoon: what does not come out alike.

Each suite runs on a new primary with a replica, once directly and once through pglagoon in transaction mode with reads
split. pg_regress says of each test whether its output is the expected one; beyond that, the two outputs are compared.
What differs between two direct runs, too, is said to vary by itself (`--direct-twice`).
Called by run.sh, which gets the tests and compiles their C functions.
"""

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from cluster import Pooler, Stage, answers, free_port, ready, start_cluster, tool, wait_until

ROOT = Path(__file__).resolve().parents[2]
SUITE_SECONDS = 1500
# How long a step of an isolation test may wait before it is cancelled (300).
STEP_SECONDS = 60
# As pg_regress sets them for an instance of its own, and `make installcheck` for a database.
SERVER = {"max_prepared_transactions": "2", "log_temp_files": "128kB", "max_connections": "100", "max_wal_size": "4GB", "shared_buffers": "256MB"}
DATABASE_SETTINGS = ("lc_messages", "lc_monetary", "lc_numeric", "lc_time")
# What comes out otherwise, or may, and why.
KNOWN = {
    "async-notify": "a notification names the server process that it came from, whichever client had it",
    "create_index": "plans of a table that VACUUM found not all visible: pglagoon was reading the catalog, which the DDL before had changed",
    "guc": "LOAD 'plpgsql' in a process that has loaded it for another client: no connection unloads a library",
    "stats": "counts the server's sessions and what its processes have not reported yet: a client's new connection is no new process",
    "temp": "PREPARE TRANSACTION is refused to the session that creates its temporary schema; here another client's has created it",
    "read-only-anomaly-3": "the server process ran another client's SERIALIZABLE transaction before, and pg_safe_snapshot_blocking_pids looks at that one",
}
SUITES = {
    "regress": ["regress/pg_regress", "--schedule={inputdir}/parallel_schedule", "--max-concurrent-tests=20"],
    "isolation": ["isolation/pg_isolation_regress", "--schedule={inputdir}/isolation_schedule"],
}


def main():
    options = parse_options()
    worst = 0
    for suite in options.suites:
        with Stage("regress") as stage:
            worst = max(worst, compare(stage, options, suite))
    sys.exit(worst)


def parse_options():
    parser = argparse.ArgumentParser(prog="tests/regress/run.sh", description=__doc__.split("\n\n")[0])
    parser.add_argument("binary", nargs="?", default=os.environ.get("PGLAGOON_BIN", str(ROOT / "target/debug/pglagoon")),
                        help="pglagoon (PGLAGOON_BIN, else target/debug/pglagoon)")
    parser.add_argument("--source", type=Path, required=True, help="PostgreSQL's sources, with build/regress.so")
    parser.add_argument("--suites", default=",".join(SUITES), help=",".join(SUITES))
    parser.add_argument("--tests", default="", help="only these tests, in this order, instead of the schedule")
    parser.add_argument("--pool", type=int, default=20, help="pool.size (20)")
    parser.add_argument("--direct-twice", action="store_true", help="a second direct run instead of pglagoon: what varies by itself")
    parser.add_argument("--keep", type=Path, help="a folder for both runs' output and the difference of each test")
    options = parser.parse_args()
    options.suites = options.suites.split(",")
    return options


def compare(stage, options, suite):
    """One suite both ways; 0 if every test came out alike, but for those of which it is known why they do not."""
    inputs = stage.folder / "input"
    shutil.copytree(options.source / "src/test" / suite, inputs)
    shutil.copytree(options.source / "build", stage.folder / "lib")
    for path in [stage.folder / "lib", inputs, *inputs.rglob("*")]:
        stage.give_to_servers(path)
    verdicts, outputs = {}, {}
    ways = ("direct", "direct again" if options.direct_twice else "pglagoon")
    for way in ways:
        verdicts[way], outputs[way] = run(stage, options, suite, way, inputs)
    differing = [name for name in verdicts[ways[0]] if differs(name, ways, verdicts, outputs)]
    for name in differing:
        first, second = (verdicts[way].get(name, "did not run") for way in ways)
        print(f"{suite:<10}{name:<32}{ways[0]}: {first:<8}{ways[1]}: {second:<8}{KNOWN.get(name, 'UNKNOWN')}")
    if options.keep:
        keep(options.keep / suite, ways, differing, outputs)
    alike = len(verdicts[ways[0]]) - len(differing)
    print(f"{suite}: {alike} of {len(verdicts[ways[0]])} tests came out alike", flush=True)
    return 1 if set(differing) - set(KNOWN) else 0


def differs(name, ways, verdicts, outputs):
    first, second = ways
    return verdicts[first][name] != verdicts[second].get(name) or outputs[first].get(name) != outputs[second].get(name)


def run(stage, options, suite, way, inputs):
    """Runs a suite one way, on servers of its own; returns each test's verdict and output."""
    name = way.replace(" ", "-")
    with Stage(f"regress-{name}") as servers:
        primary, (replica,) = start_cluster(servers, replicas=1, settings=SERVER)
        database = "regression" if suite == "regress" else "isolation_regression"
        create_database(primary, database)
        target = start_pooler(servers, options, [primary, replica], database) if way == "pglagoon" else primary
        if way == "pglagoon" and suite == "isolation":
            teach_blocked_sessions(primary, target, database)
        folder = stage.folder / f"{suite}-{name}"
        folder.mkdir()
        stage.give_to_servers(folder)
        program, *arguments = SUITES[suite]
        if options.tests:
            arguments = [*arguments[1:], *options.tests.split(",")]
        started = time.monotonic()
        lines = stage_run(stage, [
            f"/usr/lib/postgresql/{primary_major(primary)}/lib/pgxs/src/test/{program}", "--use-existing", f"--host={target.host}",
            f"--port={target.port}", "--user=postgres", f"--dbname={database}", f"--inputdir={inputs}", f"--outputdir={folder}",
            f"--dlpath={stage.folder / 'lib'}", f"--bindir=/usr/lib/postgresql/{primary_major(primary)}/bin",
            *(argument.format(inputdir=inputs) for argument in arguments)])
        verdicts = dict(re.findall(r"^(?:test |\s+)(\S+)\s+\.\.\. (ok|FAILED|failed \(ignored\))", lines, re.MULTILINE))
        if not verdicts:
            raise RuntimeError(f"{program} ran no test: {lines}")
        good = sum(verdict == "ok" for verdict in verdicts.values())
        print(f"{suite}, {way}: {good} of {len(verdicts)} tests ok ({time.monotonic() - started:.0f} s)", flush=True)
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"{suite}-{name}.txt").write_text(lines)
            for log in servers.folder.glob("*.log"):
                shutil.copy(log, options.keep / f"{suite}-{name}-{log.name}")
        return verdicts, {path.stem: path.read_text(errors="replace") for path in (folder / "results").glob("*.out")}


def stage_run(stage, argv):
    """pg_regress as the servers' user; it exits with 1 when a test fails, which is for us to judge."""
    log = f"{len(stage.processes)}.log"
    process = stage.start(log, *argv, env={"PGISOLATIONTIMEOUT": str(STEP_SECONDS)})
    try:
        process.wait(timeout=SUITE_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"no end within {SUITE_SECONDS} s", flush=True)
    stage.stop(process)
    return stage.log(log)


def primary_major(primary):
    return int(primary.sql("SHOW server_version_num")) // 10000


def create_database(primary, name):
    primary.sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'")
    settings = [*((setting, "C") for setting in DATABASE_SETTINGS), ("bytea_output", "hex"), ("timezone_abbreviations", "Default")]
    for setting, value in settings:
        primary.sql(f"ALTER DATABASE {name} SET {setting} TO '{value}'")


def start_pooler(stage, options, servers, database):
    port, http_port = free_port(), free_port()
    addresses = ", ".join(f'"127.0.0.1:{server.port}"' for server in servers)
    config = stage.write("pglagoon.toml", f"""[listen]
address = "127.0.0.1:{port}"

[http]
address = "127.0.0.1:{http_port}"

[auth]
method = "trust"

[users.postgres]

[admin]
users = ["postgres"]

[pool]
mode = "transaction"
size = {options.pool}

[databases.{database}]
servers = [{addresses}]
""")
    process = stage.start("pglagoon.log", Path(options.binary).resolve(), "serve", "--config", config, as_root=True)
    pooler = Pooler("pglagoon", "", port, process, "pglagoon.log", http_port)
    wait_until(lambda: answers(pooler) and ready(pooler), "pglagoon", process, lambda: stage.log(pooler.log))
    return pooler


def teach_blocked_sessions(primary, pooler, database):
    """isolationtester asks the server whether the session with a process ID waits for a lock, and names the sessions by the
    process IDs that they were given at login: pglagoon's, which stand for a client. So the function that it calls is told,
    by the console, on which servers these clients are at the moment."""
    def shown(what):
        columns = ", ".join(f'"{column}" text' for column in console_columns(pooler, what))
        return f"dblink('host={pooler.host} port={pooler.port} user=postgres dbname=pglagoon', 'SHOW {what}') AS {what} ({columns})"
    primary.sql(f"""SET allow_system_table_mods = on;
        CREATE EXTENSION dblink SCHEMA pg_catalog;
        ALTER FUNCTION pg_isolation_test_session_is_blocked RENAME TO pg_isolation_test_backend_is_blocked;
        CREATE FUNCTION pg_catalog.pg_isolation_test_session_is_blocked(int, int[]) RETURNS bool LANGUAGE sql AS $body$
            WITH places AS MATERIALIZED (SELECT clients.id::int AS client, servers.remote_pid::int AS backend
                                         FROM {shown("clients")} JOIN {shown("servers")} ON clients.link = servers.ptr)
            SELECT coalesce((SELECT pg_isolation_test_backend_is_blocked(backend, (SELECT array_agg(backend) FROM places WHERE client = ANY ($2)))
                             FROM places WHERE client = $1), false)
        $body$""", database)


def console_columns(pooler, what):
    done = subprocess.run([tool("psql"), "-XA", "-F", ",", "-P", "footer=off", "-h", pooler.host, "-p", str(pooler.port), "-U", "postgres", "-d",
                           "pglagoon", "-c", f"SHOW {what}"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0].split(",")


def keep(folder, ways, differing, outputs):
    folder.mkdir(parents=True, exist_ok=True)
    for name in differing:
        first, second = (outputs[way].get(name, "").splitlines(keepends=True) for way in ways)
        (folder / f"{name}.diff").write_text("".join(difflib.unified_diff(first, second, *ways)))


if __name__ == "__main__":
    main()
