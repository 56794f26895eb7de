"""What is compared: PostgreSQL itself, PgBouncer, and pglagoon with reads on the primary (split off), on replicas (split
on), and as split off with unnamed statements forwarded as they come (forward)."""

import contextlib
import os
import subprocess
from dataclasses import dataclass

from cluster import DATABASE, PASSWORD, USER, pgbouncer_version, start_cluster, start_pgbouncer, start_pglagoon, tool, wait_caught_up

TITLES = {"direct": "direct", "pgbouncer": "pgbouncer", "split-off": "pglagoon, split off", "split-on": "pglagoon, split on",
          "forward": "pglagoon, forward"}
VARIANTS = tuple(TITLES)
SPLITS = ("split-off", "split-on")
# Measured when nobody asks for others.
USUAL = ("pgbouncer", *SPLITS)
SETTINGS = {"max_connections": "800", "shared_buffers": "512MB", "checkpoint_timeout": "1h", "max_wal_size": "8GB",
            "autovacuum": "off", "jit": "off"}


@dataclass(frozen=True)
class Target:
    """Where one variant listens, and the process whose CPU is the pooler's (none for direct)."""

    variant: str
    port: int
    pid: int | None


def start_servers(stage, replicas, settings=None):
    primary, followers = start_cluster(stage, replicas, {**SETTINGS, **(settings or {})})
    return [primary, *followers]


def fill(servers, scale):
    """pgbench's tables, on all servers."""
    primary, *replicas = servers
    done = subprocess.run([tool("pgbench"), "-i", "-q", "-s", str(scale), "-h", "127.0.0.1", "-p", str(primary.port), "-U", USER,
                           DATABASE], env=password_environment(), capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"pgbench -i failed: {done.stderr}")
    wait_caught_up(primary, replicas)


@contextlib.contextmanager
def running(stage, options, servers, variants, *, name="pooler", pool=None, workers=None,
            prepared_statements=200, auth="trust", **more):
    """Fresh poolers of these variants; they end with the block. `more` is what both kinds of pooler take."""
    pool = pool or options.pool
    poolers, targets = [], []
    try:
        for variant in variants:
            if variant == "direct":
                targets.append(Target(variant, servers[0].port, None))
                continue
            if variant == "pgbouncer":
                pooler = start_pgbouncer(stage, servers[0], pool, name=f"{variant}-{name}", auth=auth, **more)
            else:
                pooler = start_pglagoon(stage, options.pglagoon, servers, name=f"{variant}-{name}", pool_size=pool, auth=auth,
                                        workers=workers or options.workers, prepared_statements=prepared_statements, unnamed="forward" if variant == "forward" else "keep",
                                        consistency="session", reads="replicas" if variant == "split-on" else "primary", **more)
            poolers.append(pooler)
            targets.append(Target(variant, pooler.port, pooler.pid))
        yield targets
    finally:
        for pooler in poolers:
            stage.stop(pooler.process)


def prepares(variant):
    """Whether named statements can be used through it in transaction mode."""
    return variant != "pgbouncer" or pgbouncer_version() >= (1, 21)


def versions(options, servers):
    found = {"PostgreSQL": servers[0].sql("SHOW server_version")}
    if "pgbouncer" in options.variants:
        found["PgBouncer"] = ".".join(map(str, pgbouncer_version()))
    if needs_pglagoon(options):
        said = subprocess.run([options.pglagoon, "--version"], capture_output=True, text=True, check=True).stdout
        found["pglagoon"] = said.split()[-1]
    return found


def needs_pglagoon(options):
    return not set(options.variants) <= {"direct", "pgbouncer"}


def password_environment():
    return {**os.environ, "PGPASSWORD": PASSWORD, "PGOPTIONS": ""}
