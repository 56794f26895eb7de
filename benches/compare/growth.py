"""What grows, and what must not: cost per query over pools, users, prepared statements and replicas; ten thousand clients; a
gigabyte.

The load is this process's own (`wire.load`): pgbench cannot spread its clients over databases and users. Each point of a curve
alternates with the same load on one pool (user, statement), so that a drifting machine drifts for both.
"""

import contextlib
import resource
import statistics
import time
from dataclasses import dataclass

from cluster import DATABASE, PASSWORD, USER, make_certificate
from machine import cpu_of, forget_peak, peak_rss_kib, rss_kib
from say import begin, progress, show
from variants import TITLES, running, start_servers
from wire import Connection, ServerError, execute, load, prepare, query, receive, send_copy

ACTIVE = 32
# The pool of the statements' curve: every statement must have been on every server connection before it is measured.
FEW_SERVERS = 4
REPLICAS = (2, 4, 8)
CROWD, CROWD_ACTIVE = 10_000, 100
# What this process and a pooler open beside clients.
SPARE_FILES = 1500
BULK_BYTES = 1_000_000_000
SETTINGS = {"max_connections": "4500"}
# Those of the users' curve beside the usual one.
ROLES = ("DO $$ BEGIN FOR number IN 1..{count} LOOP "
         "EXECUTE format('CREATE ROLE {user}%s LOGIN PASSWORD %L', number, '{password}'); END LOOP; END $$")

# Targets.
LATENCY_LIMIT = 1.10
IDLE_PERCENT_LIMIT = 0.5
SETTLING = 8
THROUGHPUT_LIMIT = 0.9
# "Constant": buffers and shelves, whatever the size.
PEAK_MIB_LIMIT = 16


def grow(stage, options):
    """All that was asked for; returns the status to end with: 2 if something could not be measured."""
    progress(f"PostgreSQL: a primary and {options.replicas} replica(s)")
    most = max(REPLICAS) if "replicas" in options.growth else options.replicas
    servers = start_servers(stage, most, SETTINGS)
    servers[0].sql("CREATE UNLOGGED TABLE sink (line text); GRANT ALL ON sink TO PUBLIC", DATABASE)
    if "users" in options.growth:
        servers[0].sql(ROLES.format(user=USER, count=max(options.sizes) - 1, password=PASSWORD))
    begin(options, servers, f"pool {options.pool}, transaction mode, {options.workers} pglagoon worker(s), {options.replicas} "
          f"replica(s), {options.rounds} round(s) of {options.seconds} s, trust, fsync off, loopback TCP")
    bench = Bench(stage, options, servers)
    outcomes = {outcome for part in options.growth for outcome in GROWTH[part](bench)}
    if "failed" in outcomes:
        return 2
    return 1 if options.strict and "fail" in outcomes else 0


def attempt(label, measured):
    """What `measured` prints and finds; or says in its row what went wrong, so that the rest is measured all the same."""
    try:
        return measured()
    except (OSError, EOFError, ServerError, RuntimeError) as error:
        show(f"{label}: failed: {type(error).__name__}: {str(error)[:200]}")
        return "failed"


# Curves ---------------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Axis:
    """One point of a curve: what the pooler is told, who connects, and how long until everything was used once."""

    pooler: dict
    clients: list
    statements: int = 0
    warm_seconds: float = 0.5
    replicas: int | None = None


def databases(size, clients):
    names = (DATABASE, *(f"{DATABASE}{number}" for number in range(1, size)))
    return Axis({"databases": names}, [{"database": names[number % size]} for number in range(clients)])


def users(size, clients):
    names = (USER, *(f"{USER}{number}" for number in range(1, size)))
    return Axis({"users": names}, [{"user": names[number % size]} for number in range(clients)])


def statements(size, _):
    # Every pair of server connection and statement comes up several times.
    return Axis({"prepared_statements": 2000, "pool": FEW_SERVERS}, [{}] * ACTIVE, size, warm_seconds=max(0.5, size / 200))


def replicas(size, clients):
    return Axis({}, [{}] * clients, replicas=size)


@dataclass
class Load:
    """One round's."""

    cpu_us: float
    p50_ms: float
    p99_ms: float


@dataclass
class Pair:
    """One pool, and `size` of them, in turn; and what the pooler with many takes while nobody asks."""

    variant: str
    size: int
    one: list
    many: list
    idle_percent: float

    def ratio(self, figure):
        return statistics.median(getattr(many, figure) / getattr(one, figure) for one, many in zip(self.one, self.many))


@dataclass(frozen=True)
class Bench:
    stage: object
    options: object
    servers: list

    @property
    def variants(self):
        return [variant for variant in self.options.variants if variant != "direct"]

    def servers_with(self, replicas=None):
        return self.servers[:1 + (replicas or self.options.replicas)]

    def curve(self, axis, what, variants, sizes=None):
        """Prints one. There is no target: PgBouncer's x says what PostgreSQL and the kernel have in it."""
        show(f"\npooler CPU per query, us, over the number of {what}; x = to one of them, in the same round\n"
             + CURVE_ROW.format("", "", "so many", "one", "x", "all idle"))
        return [attempt(f"{size:>8,}  {TITLES[variant]}", lambda: self.curve_row(variant, size, axis))
                for size in sizes or self.options.sizes for variant in variants]

    def curve_row(self, variant, size, axis):
        pair = self.point(variant, size, axis)
        show(CURVE_ROW.format(f"{size:,}", TITLES[variant], f"{middle(pair.many, 'cpu_us'):.1f}", f"{middle(pair.one, 'cpu_us'):.1f}",
                              f"{pair.ratio('cpu_us'):.2f}", f"{pair.idle_percent:.1f} %"))
        return "shown"

    def point(self, variant, size, axis):
        """The same number of clients on both sides: what differs is over how much they are spread."""
        progress(f"{axis.__name__}: {size}, {TITLES[variant]}")
        clients = max(size, ACTIVE)
        with self.pooler(variant, axis(1, clients), "one") as one, self.pooler(variant, axis(size, clients), "many") as many:
            idle = idle_percent(many[0].pid, self.idle_seconds())
            return Pair(variant, size, *self.alternate(one, many, ACTIVE), idle)

    @contextlib.contextmanager
    def pooler(self, variant, axis, name):
        """A warm pooler and its clients."""
        with (running(self.stage, self.options, self.servers_with(axis.replicas), [variant], name=name, **axis.pooler) as (target,),
              connected(target, axis.clients) as connections):
            for connection in connections:
                prepare_statements(connection, axis.statements)
                connection.ask(query("SELECT 1"))
            load(connections, ACTIVE, axis.warm_seconds)
            yield target, connections

    def alternate(self, one, many, active):
        loads = [], []
        for _ in range(self.options.rounds):
            for found, (target, connections) in zip(loads, (one, many)):
                found.append(measure(target, connections, active, self.options.seconds))
        return loads

    def idle_seconds(self):
        return 2 if self.options.quick else 5

    # Ten thousand clients ---------------------------------------------------------------------------------------------------

    def crowd(self):
        size, why = crowd_size(self.options.quick)
        show(f"\n{size:,} clients connected, {CROWD_ACTIVE} active, against {CROWD_ACTIVE} connected{why}\n"
             + CROWD_ROW.format("", "p50 ms", "x", "p99 ms", "x", "CPU us", "x", "all idle", ""))
        return [attempt(TITLES[variant], lambda: self.crowd_row(variant, size)) for variant in self.variants]

    def crowd_row(self, variant, size):
        progress(f"{size} clients, {TITLES[variant]}")
        limit = {"max_clients": size + 100}
        few, many = Axis(limit, [{}] * CROWD_ACTIVE), Axis(limit, [{}] * size)
        with self.pooler(variant, few, "few") as one, self.pooler(variant, many, "many") as (target, connections):
            idle = idle_percent(target.pid, self.idle_seconds())
            active = target, connections[:CROWD_ACTIVE]
            pair = Pair(variant, size, *self.alternate(one, active, CROWD_ACTIVE), idle)
        reached = pair.ratio("p50_ms") <= LATENCY_LIMIT and pair.ratio("p99_ms") <= LATENCY_LIMIT and idle <= IDLE_PERCENT_LIMIT
        verdict = judged(variant, reached)
        show(CROWD_ROW.format(TITLES[variant], *(text for figure in ("p50_ms", "p99_ms", "cpu_us")
                                                 for text in (f"{middle(pair.many, figure):.2f}", f"{pair.ratio(figure):.2f}")),
                              f"{idle:.1f} %", verdict))
        return verdict

    # A gigabyte -------------------------------------------------------------------------------------------------------------

    def bulk(self):
        size = BULK_BYTES // (10 if self.options.quick else 1)
        show(f"\n{size / 1e9:.1f} GB in one statement, rows of 1 kB; x = throughput to PgBouncer's in the same round\n"
             + BULK_ROW.format("", "", "MB/s", "x", "CPU s/GB", "peak RSS", ""))
        certificate = make_certificate(self.stage)
        with running(self.stage, self.options, self.servers_with(), self.variants, certificate=certificate) as targets:
            return [attempt(f"{what}, {tls}", lambda: self.bulk_rows(targets, what, tls, size))
                    for tls in ("plain", "tls") for what in TRANSFERS]

    def bulk_rows(self, targets, what, tls, size):
        found = {target.variant: [] for target in targets}
        for number in range(self.options.rounds):
            for target in targets:
                progress(f"{what}, {tls}, round {number + 1}/{self.options.rounds}, {TITLES[target.variant]}")
                found[target.variant].append(transfer(target, what, tls, size))
        verdicts = [show_bulk(variant, f"{what}, {tls}", runs, found.get("pgbouncer")) for variant, runs in found.items()]
        return "fail" if "fail" in verdicts else "pass"


@contextlib.contextmanager
def connected(target, clients):
    with contextlib.ExitStack() as stack:
        connections = []
        for who in clients:
            connections.append(Connection(target.port, **who))
            stack.callback(connections[-1].close)
        yield connections


def prepare_statements(connection, count):
    names = [f"statement_{number}" for number in range(count)]
    for number, name in enumerate(names):
        connection.ask(prepare(name, f"SELECT {number}"))
    if names:
        connection.requests = [execute(name) for name in names]


def measure(target, connections, active, seconds):
    before = sum(cpu_of(target.pid))
    latencies = sorted(load(connections, active, seconds))
    used = sum(cpu_of(target.pid)) - before
    return Load(1e6 * used / len(latencies), 1e3 * latencies[len(latencies) // 2], 1e3 * latencies[int(0.99 * len(latencies))])


def idle_percent(pid, seconds):
    """Of one core, when they have been idle for some seconds: a pooler may put away first what they do not need."""
    time.sleep(SETTLING)
    before, begun = sum(cpu_of(pid)), time.monotonic()
    time.sleep(seconds)
    return 100 * (sum(cpu_of(pid)) - before) / (time.monotonic() - begun)


def crowd_size(quick):
    """Each client takes an open file here and one in the pooler."""
    wanted = CROWD // 10 if quick else CROWD
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    size = min(wanted, limit - SPARE_FILES)
    return size, f" (no more: the limit of open files is {limit:,})" if size < wanted else ""


# A gigabyte -----------------------------------------------------------------------------------------------------------------

def rows(size):
    return f"SELECT repeat('x', 1000) FROM generate_series(1, {size // 1000})"


TRANSFERS = {
    "COPY TO": lambda connection, size: receive(connection, f"COPY ({rows(size)}) TO STDOUT", size),
    "COPY FROM": lambda connection, size: send_copy(connection, "COPY sink FROM STDIN WHERE false", size),
    "result": lambda connection, size: receive(connection, rows(size), size),
}


@dataclass
class Transfer:
    mb_per_second: float
    cpu_per_gb: float
    peak_mib: float


def transfer(target, what, tls, size):
    with contextlib.closing(Connection(target.port, tls=tls)) as connection:
        connection.ask(query("SELECT 1"))
        forget_peak(target.pid)
        rss, cpu, begun = rss_kib(target.pid), sum(cpu_of(target.pid)), time.monotonic()
        TRANSFERS[what](connection, size)
        seconds = time.monotonic() - begun
    used = sum(cpu_of(target.pid)) - cpu
    return Transfer(size / 1e6 / seconds, used / (size / 1e9), (peak_rss_kib(target.pid) - rss) / 1024)


# Output ---------------------------------------------------------------------------------------------------------------------

CURVE_ROW = "{:>8}  {:<22}{:>14}{:>14}{:>8}{:>12}"
CROWD_ROW = "{:<22}{:>9}{:>7}{:>9}{:>7}{:>9}{:>7}{:>10}   {}"
BULK_ROW = "{:<18}{:<22}{:>8}{:>7}{:>10}{:>12}   {}"


def show_bulk(variant, label, runs, theirs):
    """Prints one row; returns its verdict."""
    ratio = statistics.median(mine.mb_per_second / other.mb_per_second for mine, other in zip(runs, theirs)) if theirs else None
    peak = max(run.peak_mib for run in runs)
    verdict = judged(variant, peak <= PEAK_MIB_LIMIT and (ratio is None or ratio >= THROUGHPUT_LIMIT))
    show(BULK_ROW.format(label, TITLES[variant], f"{middle(runs, 'mb_per_second'):.0f}", f"{ratio:.2f}" if ratio and runs is not theirs else "",
                         f"{middle(runs, 'cpu_per_gb'):.2f}", f"+{peak:.1f} MiB", verdict))
    return verdict


def judged(variant, reached):
    """PgBouncer has no targets."""
    if variant == "pgbouncer":
        return ""
    return "pass" if reached else "fail"


def middle(found, figure):
    return statistics.median(getattr(one, figure) for one in found)


GROWTH = {
    "databases": lambda bench: bench.curve(databases, "databases, each with its pool", bench.variants),
    "users": lambda bench: bench.curve(users, "users, each with its pool", bench.variants),
    # PgBouncer keeps at most 100 on a server here, if any.
    "statements": lambda bench: bench.curve(statements, f"prepared statements of each of {ACTIVE} clients",
                                            [variant for variant in bench.variants if variant != "pgbouncer"]),
    "replicas": lambda bench: bench.curve(replicas, "replicas", ["split-on"], REPLICAS),
    "crowd": Bench.crowd,
    "bulk": Bench.bulk,
}
