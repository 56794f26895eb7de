"""pgbench: TPC-B and SELECT in the three protocol modes, reconnecting clients, pipelines."""

import os
import re
import subprocess
import tempfile

from check import CONNECTIONS, Checks, equal

checks = Checks()
TRANSACTIONS = 50


def pgbench(*arguments):
    # A thread per client: pgbench before 16 prepares with blocking calls, so clients that share a thread would wait for each other.
    done = subprocess.run([os.environ.get("MATRIX_PGBENCH", "pgbench"), "-n", "-c", str(CONNECTIONS), "-j", str(CONNECTIONS),
                           "-t", str(TRANSACTIONS), *arguments], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    equal(re.search(r"actually processed: (\S+)", done.stdout)[1], f"{CONNECTIONS * TRANSACTIONS}/{CONNECTIONS * TRANSACTIONS}")


def script(text, *arguments):
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(text)
        file.flush()
        pgbench("-f", file.name, *arguments)


@checks
def tpcb_simple():
    pgbench("-M", "simple")


@checks
def tpcb_extended():
    pgbench("-M", "extended")


@checks
def tpcb_prepared():
    pgbench("-M", "prepared")


@checks
def select_only_simple():
    pgbench("-S", "-M", "simple")


@checks
def select_only_extended():
    pgbench("-S", "-M", "extended")


@checks
def select_only_prepared():
    pgbench("-S", "-M", "prepared")


@checks
def reconnecting_clients():
    pgbench("-S", "-C")


@checks
def pipelines_extended_and_prepared():
    text = ("\\set id random(1, 1000)\n\\startpipeline\nSELECT name FROM matrix_items WHERE id = :id;\nSELECT :id + 1;\n"
            "SELECT count(*) FROM matrix_items WHERE id < :id;\n\\endpipeline\n")
    script(text, "-M", "extended")
    script(text, "-M", "prepared")


@checks
def reads_see_the_own_writes():
    """A division by zero ends the client, should a read miss its own insert."""
    subprocess.run([os.environ.get("MATRIX_PSQL", "psql"), "-Xqc", "DROP TABLE IF EXISTS pgbench_ryw; CREATE TABLE pgbench_ryw (id bigserial PRIMARY KEY)"],
                   check=True, timeout=20, capture_output=True)
    for mode in ("simple", "extended", "prepared"):
        script("INSERT INTO pgbench_ryw DEFAULT VALUES RETURNING id \\gset\nSELECT 1 / count(*) FROM pgbench_ryw WHERE id = :id;\n", "-M", mode)


@checks
def reads_run_on_the_replica():
    for mode in ("simple", "extended", "prepared"):
        script("\\set id random(1, 10)\nSELECT id FROM replica_reads WHERE id = :id;\n", "-M", mode)


checks.run()
