"""Memory of idle clients: how much a fresh pooler grows with a thousand of them that are silent after their first query."""

import contextlib
import time
from dataclasses import dataclass

from cluster import make_certificate
from machine import pss_kib
from say import progress
from variants import TITLES, prepares, running
from wire import Connection, ServerError, prepare, query
from workloads import IDLE_CLIENTS, STATEMENTS

# These stand before the first look: with them come server connections, buffers, tables, and what is loaded at first use.
FIRST_CLIENTS = 64

# Seconds.
STEADY = 3
LONGEST_SETTLING = 20


@dataclass
class Idle:
    kind: str
    variant: str
    clients: int
    kib_per_client: float | None = None
    base_mib: float | None = None
    failure: str | None = None


def measure_idle(stage, options, servers):
    certificate = make_certificate(stage)
    found = []
    for kind in IDLE_CLIENTS:
        variants = [one for one in options.variants if one != "direct" and (kind != "prepared" or prepares(one))]
        with running(stage, options, servers, variants, auth="scram-sha-256",
                     certificate=certificate if kind == "tls" else None) as targets:
            for target in targets:
                progress(f"memory of {options.idle_clients} idle clients {IDLE_CLIENTS[kind]}, {TITLES[target.variant]}")
                found.append(growth(target, kind, options.idle_clients))
    return found


def growth(target, kind, clients):
    result = Idle(kind, target.variant, clients)
    try:
        with contextlib.ExitStack() as stack:
            open_clients(stack, target.port, kind, FIRST_CLIENTS)
            before = settled_pss(target.pid)
            open_clients(stack, target.port, kind, clients)
            after = settled_pss(target.pid)
    except (OSError, EOFError, ServerError, RuntimeError) as error:
        result.failure = f"{type(error).__name__}: {error}"
        return result
    result.base_mib = before / 1024
    result.kib_per_client = (after - before) / clients
    return result


def open_clients(stack, port, kind, count):
    for _ in range(count):
        connection = Connection(port, tls="tls" if kind == "tls" else "plain")
        stack.callback(connection.close)
        connection.ask(query("SELECT 1"))
        if kind == "prepared":
            for number in range(STATEMENTS):
                connection.ask(prepare(f"statement_{number}", f"SELECT {number}"))


def settled_pss(pid):
    """What it is when it has not changed for some seconds: a pooler may put away what silent clients do not need."""
    deadline = time.monotonic() + LONGEST_SETTLING
    before, since = None, time.monotonic()
    while (now := time.monotonic()) - since < STEADY and now < deadline:
        found = pss_kib(pid)
        if found != before:
            before, since = found, now
        time.sleep(0.25)
    return before
