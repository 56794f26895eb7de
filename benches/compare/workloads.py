"""What is measured: pgbench's workloads, and which of them are compared with each other, with how many clients."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """How pgbench is asked for it, and how many queries one of its transactions is."""

    arguments: tuple
    what: str
    queries: int = 1
    threads: str = "two"
    connections: str = "kept"
    statements: str = "unnamed"
    auth: str = "trust"


# pgbench before 16 prepares with blocking calls, also within a transaction: clients that share a thread would wait for each other.
WORKLOADS = {
    "simple": Workload(("-S", "-M", "simple"), "SELECT by key, simple protocol"),
    "extended": Workload(("-S", "-M", "extended"), "SELECT by key, extended protocol, unnamed statement"),
    "prepared": Workload(("-S", "-M", "prepared"), "SELECT by key, prepared statement", statements="named"),
    "tpcb": Workload(("-b", "tpcb-like", "-M", "simple"), "TPC-B transaction of 7 statements, simple protocol", queries=7,
                     threads="per client"),
    "scram": Workload(("-S", "-M", "simple", "-C"), "a new connection (scram-sha-256) for every SELECT", connections="new",
                      auth="scram-sha-256"),
    "trust": Workload(("-S", "-M", "simple", "-C"), "a new connection (trust) for every SELECT", connections="new"),
}

# Turns of these alternate within one cell. Where a PgBouncer has no prepared statements, its extended row is the one to beat.
TOGETHER = (("simple",), ("extended", "prepared"), ("tpcb",), ("scram",), ("trust",))

# What the targets need: (workload, clients).
FOR_TARGETS = (("simple", 32), ("extended", 32), ("prepared", 32), ("tpcb", 32), ("simple", 1), ("simple", 500), ("scram", 32), ("trust", 32))

# System calls are counted here.
COUNTED = (("simple", 32), ("extended", 32), ("prepared", 32))

# Whose memory is measured.
STATEMENTS = 20
IDLE_CLIENTS = {"plain": "that has run SELECT 1", "prepared": f"with {STATEMENTS} prepared statements", "tls": "over TLS"}


@dataclass(frozen=True)
class Plan:
    """One cell: workloads and variants whose turns alternate, and the number of clients."""

    workloads: tuple
    clients: int
    variants: tuple

    @property
    def auth(self):
        return WORKLOADS[self.workloads[0]].auth


def plans(names, clients, variants):
    """Cells of the workloads named: with these numbers of clients, or with those that the targets need."""
    wanted = FOR_TARGETS if clients is None else [
        (name, count) for name in WORKLOADS for count in ([32] if WORKLOADS[name].connections == "new" else clients)]
    found = []
    for count in dict.fromkeys(count for _, count in wanted):
        for group in TOGETHER:
            chosen = tuple(name for name in group if name in names and (name, count) in wanted)
            if chosen:
                found.append(Plan(chosen, count, tuple(variants)))
    return found
