"""The driver matrix: each driver's own script, directly, and through pglagoon in transaction and in session mode.

Starts a primary, a replica and (but with --direct) two pglagoons; in transaction mode the pool is smaller than the number of
connections that every script holds at once. Afterwards the replica itself is asked whether it ran the driver's reads.
Called by run.sh, which gets the drivers first; what could not be had comes in as MATRIX_SKIPPED ("driver=reason" per line).
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from cluster import DATABASE, PASSWORD, USER, Stage, start_cluster, start_pglagoon, tool, wait_caught_up

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "clients"
DRIVER_SECONDS = 300
CONNECTIONS = 8
TRANSACTION_POOL = 4
SESSION_POOL = 20
LEAVE_SECONDS = 10

DRIVERS = {
    "psql": [sys.executable, "drivers/psql_client.py"],
    "pgbench": [sys.executable, "drivers/pgbench_client.py"],
    "psycopg": [sys.executable, "drivers/psycopg_client.py"],
    "asyncpg": [sys.executable, "drivers/asyncpg_client.py"],
    "sqlalchemy": [sys.executable, "drivers/sqlalchemy_client.py"],
    "django": [sys.executable, "drivers/django_client.py"],
    "node-pg": ["node", "drivers/node_pg.js"],
    "dbd-pg": ["perl", "drivers/dbd_pg.pl"],
    "php": ["php", "drivers/php_pgsql.php"],
    "ruby-pg": ["ruby", "drivers/ruby_pg.rb"],
    "pgjdbc": ["java", "-Duser.timezone=Asia/Tokyo", "-cp", "/usr/share/java/postgresql.jar", "drivers/PgJdbc.java"],
}

# What is known not to work: (mode, driver, check) and why. It counts as skipped; once it works, it fails until it is taken off this list.
KNOWN_GAPS: dict[tuple[str, str, str], str] = {}


@dataclass
class Totals:
    passed: int = 0
    failed: int = 0
    skipped: int = 0


def main():
    options = parse_options()
    totals = Totals()
    try:
        with Stage("clients") as stage:
            run_matrix(stage, options, totals)
    except KeyboardInterrupt:
        sys.exit("interrupted; servers stopped, folder removed")
    print(f"{totals.passed} passed, {totals.failed} failed, {totals.skipped} skipped")
    sys.exit(1 if totals.failed else 0)


def parse_options():
    parser = argparse.ArgumentParser(prog="tests/clients/run.sh", description=__doc__.split("\n\n")[0])
    parser.add_argument("binary", nargs="?", default=os.environ.get("PGLAGOON_BIN", str(ROOT / "target/debug/pglagoon")),
                        help="pglagoon (PGLAGOON_BIN, else target/debug/pglagoon)")
    parser.add_argument("--direct", action="store_true", help="the same checks on PostgreSQL itself: checks the scripts")
    parser.add_argument("--modes", default="transaction,session", help="transaction,session")
    parser.add_argument("--drivers", default=",".join(DRIVERS), help=",".join(DRIVERS))
    parser.add_argument("--only", default="", metavar="TEXT", help="only checks whose name (in snake case) contains TEXT")
    parser.add_argument("--verbose", action="store_true", help="show the scripts' tracebacks and, at the end, pglagoon's log")
    options = parser.parse_args()
    options.drivers = options.drivers.split(",")
    options.modes = ["direct"] if options.direct else options.modes.split(",")
    for name in options.drivers:
        if name not in DRIVERS:
            parser.error(f"no driver {name!r}; there are {', '.join(DRIVERS)}")
    if not options.direct and not os.access(options.binary, os.X_OK):
        parser.error(f"{options.binary} is not there: cargo build, or give its path")
    return options


def run_matrix(stage, options, totals):
    primary, (replica,) = start_cluster(stage, replicas=1, settings={
        "shared_preload_libraries": "pg_stat_statements", "shared_buffers": "128MB"})
    seed(primary, replica)
    skipped = dict(line.split("=", 1) for line in os.environ.get("MATRIX_SKIPPED", "").splitlines() if "=" in line)
    for mode in options.modes:
        target = primary if mode == "direct" else start_pglagoon(
            stage, options.binary, [primary, replica], name=f"pglagoon-{mode}", mode=mode,
            pool_size=TRANSACTION_POOL if mode == "transaction" else SESSION_POOL, env={"RUST_BACKTRACE": "1"})
        for driver in options.drivers:
            if driver in skipped:
                skip(totals, mode, driver, skipped[driver])
            else:
                run_driver(options, totals, mode, driver, target, replica)
        if mode != "direct":
            finish(stage, options, totals, mode, target)


def seed(primary, replica):
    """The tables that scripts read over several connections: there before anybody reads, on the replica too."""
    primary.sql("CREATE EXTENSION pg_stat_statements", DATABASE)
    primary.sql(f"""SET ROLE {USER};
        CREATE TABLE matrix_items (id int PRIMARY KEY, name text NOT NULL);
        INSERT INTO matrix_items SELECT n, 'item ' || n FROM generate_series(1, 1000) n;
        CREATE TABLE replica_reads (id int PRIMARY KEY);
        INSERT INTO replica_reads SELECT generate_series(1, 10)""", DATABASE)
    initialise = subprocess.run([tool("pgbench"), "-i", "-q", "-s", "2", "-h", "127.0.0.1", "-p", str(primary.port), "-U", USER, DATABASE],
                                env={**os.environ, "PGPASSWORD": PASSWORD}, capture_output=True, text=True)
    if initialise.returncode != 0:
        raise RuntimeError(f"pgbench -i failed: {initialise.stderr}")
    wait_caught_up(primary, [replica])


def run_driver(options, totals, mode, driver, target, replica):
    """One script; its lines become ours. A script that ends without a word is a failure, too."""
    started = time.monotonic()
    before = reads_on(replica)
    process = subprocess.Popen([*DRIVERS[driver], *([options.only] if options.only else [])], cwd=HERE, env=environment(mode, target),
                               stdout=subprocess.PIPE, stderr=None if options.verbose else subprocess.DEVNULL, text=True, start_new_session=True)
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(process.pid, signal.SIGKILL))
    signal.alarm(DRIVER_SECONDS)
    lines = objections = 0
    try:
        for line in process.stdout:
            found = re.match(r"(ok|FAIL) (.*)", line.rstrip())
            if found:
                lines += 1
                objections += found[1] == "FAIL"
                gap = KNOWN_GAPS.get((mode, driver, found[2].partition(":")[0]))
                if gap and found[1] == "FAIL":
                    skip(totals, mode, driver, f"known gap, {found[2].partition(':')[0]}: {gap}")
                else:
                    count(totals, found[1] == "ok" and not gap, mode, driver, found[2] + (" (works: no gap any more)" if gap else ""))
        process.wait()
    finally:
        signal.alarm(0)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if (process.returncode != 0 and not objections) or not (lines or options.only):
        count(totals, False, mode, driver, f"the script ended with {process.returncode} after {time.monotonic() - started:.0f} s")
    if mode != "direct" and not options.only:
        reads = reads_on(replica) - before
        if mode == "transaction" and reads == 0:
            reads = read_again(mode, driver, target, replica)
        # A session lives on one server, the primary; splitting is for the other modes.
        right = reads > 0 if mode == "transaction" else reads == 0
        count(totals, right, mode, driver, f"the replica ran {reads} of the reads")
    print(f"{mode:<12}{driver:<12}     ({time.monotonic() - started:.1f} s)", flush=True)


def read_again(mode, driver, target, replica):
    """The reads alone: what the script created before them may have kept a busy machine from knowing the catalog in time."""
    before, deadline = reads_on(replica), time.monotonic() + 30
    while reads_on(replica) == before and time.monotonic() < deadline:
        subprocess.run([*DRIVERS[driver], "replica"], cwd=HERE, env=environment(mode, target), timeout=DRIVER_SECONDS,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return reads_on(replica) - before


def count(totals, passed, mode, driver, text):
    if passed:
        totals.passed += 1
    else:
        totals.failed += 1
    print(f"{mode:<12}{driver:<12}{'ok' if passed else 'FAIL':<5}{text}", flush=True)


def skip(totals, mode, driver, why):
    totals.skipped += 1
    print(f"{mode:<12}{driver:<12}skip {why}", flush=True)


def environment(mode, target):
    return {**os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(target.port), "PGUSER": USER, "PGPASSWORD": PASSWORD,
            "PGDATABASE": DATABASE, "MATRIX_MODE": mode, "MATRIX_CONNECTIONS": str(CONNECTIONS), "MATRIX_PSQL": tool("psql"),
            "MATRIX_PGBENCH": tool("pgbench"), "NODE_PATH": str(CACHE / "node" / "node_modules"), "PYTHONDONTWRITEBYTECODE": "1"}


def reads_on(replica):
    """How often this replica has run a statement on the table of reads: its own count, exact and at once."""
    return int(replica.sql("SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query LIKE '%replica_reads%' "
                           "AND query NOT LIKE '%pg_stat_statements%'", DATABASE))


def finish(stage, options, totals, mode, pooler):
    """The pooler must have lived through all of it, have lost nothing, must not have panicked, and must end at SIGTERM."""
    alive = pooler.process.poll() is None
    if alive:
        busy = busy_after_all(pooler)
        count(totals, not busy, mode, "pglagoon", f"SHOW POOLS after all have left: {busy or 'nobody is connected, no server is in use'}")
    pooler.process.send_signal(signal.SIGTERM) if alive else None
    try:
        code = pooler.process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        code = "no end within 20 s"
    count(totals, alive, mode, "pglagoon", "lives through it all" if alive else f"ended with {code}")
    count(totals, code == 0, mode, "pglagoon", f"exit code at SIGTERM: {code}")
    panics = [line for line in stage.log(pooler.log).splitlines() if "panicked at" in line]
    count(totals, not panics, mode, "pglagoon", panics[0] if panics else "no panic in its log")
    if options.verbose:
        print(stage.log(pooler.log)[-20000:], file=sys.stderr)


def busy_after_all(pooler):
    """What SHOW POOLS says is still there though every client has left; the last ones get a while to be cancelled."""
    deadline = time.monotonic() + LEAVE_SECONDS
    while True:
        busy = [f"{row['database']}: {name}={row[name]}" for row in show(pooler, "POOLS") if row["database"] == DATABASE
                for name in ("cl_active", "cl_waiting", "sv_active") if row[name] != "0"]
        if not busy or time.monotonic() > deadline:
            return ", ".join(busy)
        time.sleep(0.2)


def show(pooler, what):
    """The rows of one console command."""
    done = subprocess.run([tool("psql"), "-XAq", "-F", "\x1f", "-P", "footer=off", "-h", pooler.host, "-p", str(pooler.port), "-U", USER,
                           "-d", "pglagoon", "-c", f"SHOW {what}"], env={**os.environ, "PGPASSWORD": PASSWORD}, capture_output=True, text=True)
    if done.returncode != 0:
        return [{"database": DATABASE, "cl_active": done.stderr.strip(), "cl_waiting": "?", "sv_active": "?"}]
    head, *rows = [line.split("\x1f") for line in done.stdout.splitlines()]
    return [dict(zip(head, row)) for row in rows]


if __name__ == "__main__":
    main()
