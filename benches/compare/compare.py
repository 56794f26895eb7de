"""pglagoon, PgBouncer and PostgreSQL itself under pgbench, side by side and interleaved in one run.

Every cell (workload, number of clients) is measured in rounds: A B C D A B C D ..., so that a drifting machine drifts for all
of them; ratios are formed within a round and then their median is taken. See README.md for what each column means.
"""

import argparse
import asyncio
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "clients"))
from cluster import (DATABASE, PASSWORD, USER, Server, Stage, pgbouncer_version, start_cluster, start_pgbouncer,  # noqa: E402
                     start_pglagoon, tool, wait_caught_up)

USUAL = ("direct", "pgbouncer", "split-off", "split-on")
# As split-off, but that unnamed statements are forwarded: measured when it is asked for.
VARIANTS = (*USUAL, "forward")
TITLES = {"direct": "direct", "pgbouncer": "pgbouncer", "split-off": "pglagoon, split off", "split-on": "pglagoon, split on",
          "forward": "pglagoon, forward"}
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Workload:
    """How pgbench is asked for it, and how many queries one of its transactions is."""

    arguments: tuple
    what: str
    queries: int = 1
    thread_per_client: bool = False
    reconnects: bool = False
    prepared: bool = False


# pgbench before 16 prepares with blocking calls, also within a transaction: clients that share a thread would wait for each other.
WORKLOADS = {
    "simple": Workload(("-S", "-M", "simple"), "SELECT by key, simple protocol"),
    "extended": Workload(("-S", "-M", "extended"), "SELECT by key, extended protocol, unnamed statement"),
    "prepared": Workload(("-S", "-M", "prepared"), "SELECT by key, prepared statement", prepared=True),
    "tpcb": Workload(("-b", "tpcb-like", "-M", "simple"), "TPC-B transaction of 7 statements, simple protocol", queries=7,
                     thread_per_client=True),
    "connect": Workload(("-S", "-M", "simple", "-C"), "a new connection (md5) for every SELECT", reconnects=True),
}
EXTRAS = ("idle", "syscalls")
# (workload, clients) whose system calls are counted.
SYSCALL_CELLS = (("simple", 1), ("simple", 32), ("extended", 32), ("prepared", 32))


@dataclass
class Target:
    """Where one variant listens, and the process whose CPU is the pooler's (none for direct)."""

    variant: str
    version: str
    port: int
    pid: int | None


@dataclass
class Run:
    """One variant's turn in one round of one cell."""

    variant: str
    tps: float = 0.0
    mean_ms: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    pooler_us: float | None = None
    pooler_user_share: float | None = None
    postgres_us: float = 0.0
    foreign_cores: float = 0.0
    failure: str | None = None

    @property
    def total_us(self):
        return self.postgres_us + (self.pooler_us or 0.0)


@dataclass
class Cell:
    workload: str
    clients: int
    runs: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    def of(self, variant):
        return [run for run in self.runs if run.variant == variant and not run.failure]


def main():
    options = parse_options()
    try:
        with Stage("compare") as stage:
            compare(stage, options)
    except KeyboardInterrupt:
        sys.exit("interrupted; servers stopped, folder removed")


def parse_options():
    parser = argparse.ArgumentParser(prog="benches/compare/run.sh", description=__doc__.split("\n\n")[0])
    parser.add_argument("--pglagoon", metavar="PATH", default=str(ROOT / "target/release/pglagoon"), help="the release binary")
    parser.add_argument("--workloads", type=names_of((*WORKLOADS, *EXTRAS)), help=f"of {','.join((*WORKLOADS, *EXTRAS))} (all)")
    parser.add_argument("--variants", type=names_of(VARIANTS), default=list(USUAL),
                        help=f"of {','.join(VARIANTS)} ({','.join(USUAL)})")
    parser.add_argument("--clients", type=lambda text: [int(part) for part in text.split(",")], help="1,32,500")
    parser.add_argument("--rounds", type=int, help="rounds per cell (3)")
    parser.add_argument("--seconds", type=int, help="measured seconds per turn, after 1 s of warm-up (5)")
    parser.add_argument("--idle-clients", type=int, default=1000, help="idle connections for the memory figure (1000)")
    parser.add_argument("--pool", type=int, default=20, help="server connections per pool (20)")
    parser.add_argument("--workers", type=int, default=1, help="pglagoon's worker threads (1; PgBouncer has one)")
    parser.add_argument("--replicas", type=int, default=1, choices=(1, 2), help="streaming replicas (1)")
    parser.add_argument("--scale", type=int, default=20, help="pgbench's scale factor (20)")
    parser.add_argument("--sampling", type=float, default=0.2, help="share of transactions whose latency is logged (0.2)")
    parser.add_argument("--json", metavar="FILE", help="also write every run there")
    parser.add_argument("--quick", action="store_true", help="a first look in about 3 minutes: fewer cells, 2 rounds of 2 s")
    options = parser.parse_args()
    quick = options.quick
    options.rounds = options.rounds or (2 if quick else 3)
    options.seconds = options.seconds or (2 if quick else 5)
    options.few_cells = quick and options.clients is None
    options.clients = options.clients or [1, 32, 500]
    options.workloads = options.workloads or [*WORKLOADS, *EXTRAS]
    if needs_pglagoon(options) and not os.access(options.pglagoon, os.X_OK):
        parser.error(f"{options.pglagoon} is not there: cargo build --release, or --pglagoon PATH")
    return options


def names_of(known):
    def parse(text):
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return names
    return parse


def needs_pglagoon(options):
    return any(is_pglagoon(variant) for variant in options.variants)


def is_pglagoon(variant):
    return variant not in ("direct", "pgbouncer")


def compare(stage, options):
    servers, targets = start(stage, options)
    header = describe(options, targets)
    print(render_header(header), flush=True)
    # First, because a pooler that has served a crowd keeps memory from it and would seem to need less for the next one.
    idle = measure_idle(options, targets) if "idle" in options.workloads else []
    if idle:
        print(render_idle(idle), flush=True)
    cells = []
    for name, clients in cells_of(options):
        cell = measure_cell(stage, options, servers, targets, name, clients)
        cells.append(cell)
        print(render_cell(cell), flush=True)
    syscalls = measure_syscalls(stage, options, targets) if "syscalls" in options.workloads else []
    if syscalls:
        print(render_syscalls(syscalls), flush=True)
    if options.json:
        write_json(options.json, header, cells, syscalls, idle)


def start(stage, options):
    progress(f"PostgreSQL: a primary and {options.replicas} replica(s), pgbench scale {options.scale}")
    settings = {"max_connections": "800", "shared_buffers": "512MB", "checkpoint_timeout": "1h", "max_wal_size": "8GB",
                "autovacuum": "off", "jit": "off"}
    primary, replicas = start_cluster(stage, options.replicas, settings, password_encryption="md5")
    initialise = subprocess.run([tool("pgbench"), "-i", "-q", "-s", str(options.scale), "-h", "127.0.0.1", "-p", str(primary.port),
                                 "-U", USER, DATABASE], env=password_env(), capture_output=True, text=True)
    if initialise.returncode != 0:
        raise RuntimeError(f"pgbench -i failed: {initialise.stderr}")
    wait_caught_up(primary, replicas)
    servers = [primary, *replicas]
    return servers, [start_target(stage, options, servers, variant) for variant in options.variants]


def start_target(stage, options, servers, variant):
    primary = servers[0]
    if variant == "direct":
        return Target(variant, primary.sql("SHOW server_version"), primary.port, None)
    if variant == "pgbouncer":
        pooler = start_pgbouncer(stage, primary, options.pool)
    else:
        pooler = start_pglagoon(stage, options.pglagoon, servers, name=variant, pool_size=options.pool, workers=options.workers,
                                reads="replicas" if variant == "split-on" else "primary", auth="md5",
                                unnamed="forward" if variant == "forward" else "keep")
    return Target(variant, pooler.version, pooler.port, pooler.pid)


def cells_of(options):
    """Reconnecting clients are measured with 32 clients only: what counts there is the cost of one login."""
    timed = [name for name in WORKLOADS if name in options.workloads]
    if options.few_cells:
        quick = [("simple", 1), ("simple", 32), ("extended", 32), ("prepared", 32), ("tpcb", 32), ("connect", 32)]
        return [cell for cell in quick if cell[0] in timed]
    return [(name, clients) for name in timed
            for clients in ([32] if WORKLOADS[name].reconnects else options.clients)]


# One cell -----------------------------------------------------------------------------------------------------------------

def measure_cell(stage, options, servers, targets, name, clients):
    cell = Cell(name, clients)
    for target in targets:
        if cannot(target, name):
            cell.notes.append(f"{TITLES[target.variant]} {target.version}: skipped, {cannot(target, name)}")
    able = [target for target in targets if not cannot(target, name)]
    for number in range(1, options.rounds + 1):
        for target in able:
            progress(f"{name}, {clients} clients, round {number}/{options.rounds}, {TITLES[target.variant]}")
            cell.runs.append(turn(stage, options, servers, target, WORKLOADS[name], clients))
    cell.notes += sorted({f"{TITLES[run.variant]}: {run.failure}" for run in cell.runs if run.failure})
    return cell


def cannot(target, name):
    """Why this target cannot run this workload, if so."""
    if target.variant == "pgbouncer" and WORKLOADS[name].prepared and pgbouncer_version() < (1, 21):
        return "PgBouncer before 1.21 has no prepared statements in transaction mode"
    return None


def turn(stage, options, servers, target, workload, clients):
    """pgbench for `seconds` after one second of warm-up; CPU is read at the first and at the last of its progress lines."""
    threads = clients if workload.thread_per_client else min(clients, 2)
    seconds = options.seconds + 1
    logs = stage.folder / "latency"
    argv = [tool("pgbench"), "-h", "127.0.0.1", "-p", str(target.port), "-U", USER, "-n", "-c", str(clients), "-j", str(threads),
            "-T", str(seconds), "-P", "1", "--progress-timestamp", *workload.arguments,
            "-l", f"--log-prefix={logs}", f"--sampling-rate={options.sampling}", DATABASE]
    process = subprocess.Popen(argv, env=password_env(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, cwd=stage.folder)
    try:
        points, stderr = watch(process, servers, target, give_up=time.monotonic() + 3 * seconds + 30)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
    latencies = read_latencies(logs, points)
    if process.returncode != 0 or len(points) < 2:
        return Run(target.variant, failure=f"pgbench failed: {last_error(stderr)}")
    return figures(target, workload, clients, points, latencies)


@dataclass
class Point:
    """pgbench's own figures of the second that ends here, and the CPU seconds used so far."""

    at: float
    tps: float
    latency_ms: float
    pooler: tuple
    postgres: float
    pgbench: float
    machine: float


def watch(process, servers, target, give_up):
    points, others = [], []
    killer = Deadline(process, give_up)
    with killer:
        for line in process.stderr:
            found = re.match(r"progress: (\d+\.\d+) s, ([\d.]+) tps, lat ([\d.]+|NaN|-nan) ms", line)
            if found:
                at, tps, latency = found.groups()
                points.append(Point(float(at), float(tps), float(latency), cpu_of(target.pid), sum(map(postgres_cpu, servers)),
                                    sum(cpu_of(process.pid)), machine_cpu()))
            elif line.strip():
                others.append(line.strip())
        process.wait()
    if killer.fired:
        others.append("no end within the time limit")
    return points, others


class Deadline:
    """Kills the process if the block takes too long: SIGALRM interrupts the blocking read."""

    def __init__(self, process, give_up):
        self.process, self.give_up, self.fired = process, give_up, False

    def __enter__(self):
        signal.signal(signal.SIGALRM, self.fire)
        signal.setitimer(signal.ITIMER_REAL, max(0.1, self.give_up - time.monotonic()))

    def fire(self, *_):
        self.fired = True
        self.process.kill()

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)


def figures(target, workload, clients, points, latencies):
    first, last = points[0], points[-1]
    seconds = last.at - first.at
    counts = [(point.at - before.at) * point.tps for before, point in zip(points, points[1:])]
    transactions = sum(counts)
    if transactions < 1:
        return Run(target.variant, failure="no transaction ended in the measured time")
    queries = transactions * workload.queries
    user, system = (after - before for before, after in zip(first.pooler, last.pooler))
    postgres = last.postgres - first.postgres
    foreign = last.machine - first.machine - user - system - postgres - (last.pgbench - first.pgbench)
    run = Run(target.variant, tps=transactions / seconds, postgres_us=1e6 * postgres / queries, foreign_cores=max(0.0, foreign / seconds))
    if workload.reconnects:
        # pgbench starts its clock after the login, so only the rate tells what a client waits.
        run.mean_ms = 1e3 * clients / run.tps
    else:
        run.mean_ms = sum(count * point.latency_ms for count, point in zip(counts, points[1:])) / transactions
        run.p50_ms, run.p99_ms = percentile(latencies, 0.50), percentile(latencies, 0.99)
    if target.pid:
        run.pooler_us = 1e6 * (user + system) / queries
        run.pooler_user_share = user / (user + system) if user + system else 0.0
    return run


def read_latencies(logs, points):
    """Sampled latencies in ms of transactions that ended in the measured time; the logs are removed."""
    latencies = []
    for path in glob.glob(f"{logs}.*"):
        if len(points) >= 2:
            for line in Path(path).read_text().splitlines():
                parts = line.split()
                if len(parts) >= 6 and parts[2].isdigit():
                    at = int(parts[4]) + int(parts[5]) / 1e6
                    if points[0].at <= at <= points[-1].at:
                        latencies.append(int(parts[2]) / 1e3)
        os.unlink(path)
    return sorted(latencies)


def percentile(ordered, share):
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def last_error(lines):
    errors = [line for line in lines if "error" in line.lower() or "fatal" in line.lower() or "abort" in line.lower()]
    return (errors or lines or ["no output"])[-1][:200]


# What the machine says about itself -----------------------------------------------------------------------------------------

def cpu_of(pid):
    """User and system seconds of a whole process, all its threads."""
    if pid is None:
        return (0.0, 0.0)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def postgres_cpu(server: Server):
    """CPU seconds of the postmaster, of its living children and of the children it has buried."""
    total = 0.0
    for task in glob.glob(f"/proc/{server.pid}/task/*/children"):
        for child in Path(task).read_text().split():
            try:
                total += sum(cpu_of(int(child)))
            except (FileNotFoundError, ProcessLookupError):
                pass  # ended in this very moment: counted by the postmaster below
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return total + sum(map(int, fields[11:15])) / TICKS


def machine_cpu():
    """Busy CPU seconds of the whole machine: user, nice, system, irq, softirq."""
    fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]))
    return (fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) / TICKS


def pss_kib(pid):
    return int(re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M).group(1))


# System calls ---------------------------------------------------------------------------------------------------------------

@dataclass
class Syscalls:
    variant: str
    workload: str
    clients: int
    per_query: float = 0.0
    by_name: dict = field(default_factory=dict)
    failure: str | None = None


def measure_syscalls(stage, options, targets):
    if not shutil.which("strace"):
        progress("strace is not installed: no system calls")
        return []
    found = []
    for name, clients in SYSCALL_CELLS:
        for target in targets:
            if target.pid and not cannot(target, name):
                progress(f"system calls, {name}, {clients} clients, {TITLES[target.variant]}")
                found.append(count_syscalls(stage, target, name, clients))
    return found


def count_syscalls(stage, target, name, clients):
    """`strace -f -c` while a fixed number of transactions runs, so long that connecting (32 times) weighs under 2 %."""
    transactions = 4000 if clients == 1 else 1000
    result = Syscalls(target.variant, name, clients)
    pgbench(target, name, clients, 20)
    summary = stage.folder / "strace.txt"
    tracer = subprocess.Popen(["strace", "-f", "-c", "-U", "calls,name", "-o", str(summary), "-p", str(target.pid)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        line = tracer.stderr.readline()
        if "attached" not in line:
            result.failure = f"strace could not attach: {line.strip()}"
            return result
        done = pgbench(target, name, clients, transactions)
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate()
    if done.returncode != 0:
        result.failure = f"pgbench failed: {last_error(done.stderr.splitlines())}"
        return result
    calls = {found[2]: int(found[1]) for found in re.finditer(r"^\s*(\d+)\s+(\w+)$", summary.read_text(), re.M) if found[2] != "total"}
    queries = clients * transactions
    result.per_query = sum(calls.values()) / queries
    result.by_name = {call: count / queries for call, count in sorted(calls.items(), key=lambda item: -item[1])}
    return result


def pgbench(target, name, clients, transactions):
    argv = [tool("pgbench"), "-h", "127.0.0.1", "-p", str(target.port), "-U", USER, "-n", "-c", str(clients), "-j", str(min(clients, 2)),
            "-t", str(transactions), *WORKLOADS[name].arguments, DATABASE]
    return subprocess.run(argv, env=password_env(), capture_output=True, text=True, timeout=180)


# Idle clients ---------------------------------------------------------------------------------------------------------------

@dataclass
class Idle:
    variant: str
    clients: int
    kib_per_client: float | None = None
    base_mib: float | None = None
    failure: str | None = None


def measure_idle(options, targets):
    found = []
    for target in targets:
        if target.pid:
            progress(f"memory of {options.idle_clients} idle clients, {TITLES[target.variant]}")
            found.append(asyncio.run(idle_memory(target, options.idle_clients)))
    return found


async def idle_memory(target, clients):
    """Growth of the pooler's PSS from a warm pool without clients to `clients` silent ones, each of which ran SELECT 1."""
    result = Idle(target.variant, clients)
    try:
        await leave(await open_clients(target.port, 64))
        await asyncio.sleep(0.5)
        before = pss_kib(target.pid)
        connections = await open_clients(target.port, clients)
        await asyncio.sleep(0.5)
        after = pss_kib(target.pid)
        await leave(connections)
    except (OSError, EOFError, RuntimeError, asyncio.TimeoutError) as error:
        result.failure = f"{type(error).__name__}: {error}"
        return result
    result.base_mib = before / 1024
    result.kib_per_client = (after - before) / clients
    return result


async def open_clients(port, count):
    at_once = asyncio.Semaphore(32)

    async def one():
        async with at_once:
            return await asyncio.wait_for(open_client(port), timeout=30)
    return await asyncio.gather(*(one() for _ in range(count)))


async def open_client(port):
    """Startup, md5 or trust authentication, SELECT 1; the connection stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    startup = b"".join(word.encode() + b"\0" for word in ("user", USER, "database", DATABASE)) + b"\0"
    writer.write(struct.pack("!II", len(startup) + 8, 196608) + startup)
    while True:
        tag, body = await message(reader)
        if tag == b"R" and body[:4] == struct.pack("!I", 5):
            inner = hashlib.md5((PASSWORD + USER).encode()).hexdigest().encode()
            send(writer, b"p", b"md5" + hashlib.md5(inner + body[4:8]).hexdigest().encode() + b"\0")
        elif tag == b"R" and body[:4] != struct.pack("!I", 0):
            raise RuntimeError("only trust and md5 are spoken here")
        elif tag == b"Z":
            break
    send(writer, b"Q", b"SELECT 1\0")
    while (await message(reader))[0] != b"Z":
        pass
    return writer


async def message(reader):
    head = await reader.readexactly(5)
    body = await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
    if head[:1] == b"E":
        raise RuntimeError(body.replace(b"\0", b" ").decode(errors="replace"))
    return head[:1], body


def send(writer, tag, body):
    writer.write(tag + struct.pack("!I", len(body) + 4) + body)


async def leave(connections):
    for writer in connections:
        send(writer, b"X", b"")
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in connections), return_exceptions=True)


# Output ---------------------------------------------------------------------------------------------------------------------

def describe(options, targets):
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{os.cpu_count()} x {model[1] if model else platform.machine()}, {platform.system()} {platform.release()}",
        "versions": {target.variant: target.version for target in targets},
        "command": " ".join(["benches/compare/run.sh", *sys.argv[1:]]),
        "settings": f"pool {options.pool}, transaction mode, {options.workers} pglagoon worker(s), {options.replicas} replica(s), "
                    f"scale {options.scale}, {options.rounds} round(s) of {options.seconds} s, md5, fsync off, loopback TCP",
    }


def render_header(header):
    versions = {("pglagoon" if is_pglagoon(name) else "PostgreSQL" if name == "direct" else name): version
                for name, version in header["versions"].items()}
    return "\n".join([
        f"date      {header['date']}", f"machine   {header['machine']}",
        "versions  " + ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"settings  {header['settings']}", f"command   {header['command']}", "",
        "median [min-max] over rounds; CPU in microseconds per query, user + system; x = ratio to PgBouncer in the same round, median"])


COLUMNS = "{:<22}{:>24}{:>7}{:>9}{:>9}{:>9}{:>20}{:>7}{:>6}{:>9}{:>7}{:>9}{:>7}{:>8}"


def render_cell(cell):
    workload = WORKLOADS[cell.workload]
    unit = "logins/s" if workload.reconnects else "transactions/s"
    lines = ["", f"{cell.workload}, {cell.clients} client{'s' if cell.clients > 1 else ''}: {workload.what}",
             COLUMNS.format("", unit, "x", "mean ms", "p50", "p99", "pooler CPU", "x", "user", "PG CPU", "x", "both", "x", "foreign")]
    lines += [render_row(cell, variant) for variant in VARIANTS if cell.of(variant)]
    lines += [f"  {note}" for note in cell.notes]
    return "\n".join(lines)


def render_row(cell, variant):
    runs = cell.of(variant)
    pooled = runs[0].pooler_us is not None
    return COLUMNS.format(
        TITLES[variant],
        spread([run.tps for run in runs], 0), ratio(cell, variant, "tps"),
        middle([run.mean_ms for run in runs], 2), middle([run.p50_ms for run in runs], 2), middle([run.p99_ms for run in runs], 2),
        spread([run.pooler_us for run in runs], 1) if pooled else "-", ratio(cell, variant, "pooler_us") if pooled else "",
        f"{100 * statistics.median(run.pooler_user_share for run in runs):.0f}%" if pooled else "-",
        middle([run.postgres_us for run in runs], 1), ratio(cell, variant, "postgres_us"),
        middle([run.total_us for run in runs], 1), ratio(cell, variant, "total_us"),
        f"{max(run.foreign_cores for run in runs):.2f}")


def ratio(cell, variant, figure):
    """Median of the ratios to PgBouncer within each round; empty for PgBouncer itself or where it did not run."""
    value = paired_ratio(cell, variant, figure)
    return f"{value:.2f}" if value else ""


def paired_ratio(cell, variant, figure):
    if variant == "pgbouncer":
        return None
    mine = [run for run in cell.runs if run.variant == variant]
    theirs = [run for run in cell.runs if run.variant == "pgbouncer"]
    pairs = [(getattr(one, figure), getattr(other, figure)) for one, other in zip(mine, theirs) if not one.failure and not other.failure]
    ratios = [one / other for one, other in pairs if one is not None and other]
    return statistics.median(ratios) if ratios else None


def spread(values, digits):
    return f"{statistics.median(values):,.{digits}f} [{min(values):.{digits}f}-{max(values):.{digits}f}]"


def middle(values, digits):
    present = [value for value in values if value is not None]
    return f"{statistics.median(present):.{digits}f}" if present else "-"


def render_syscalls(found):
    lines = ["", "system calls of the pooler per query (strace -f -c, separate short run)"]
    reference = {(one.workload, one.clients): one.per_query for one in found if one.variant == "pgbouncer" and not one.failure}
    for one in found:
        base = reference.get((one.workload, one.clients))
        times = f"{one.per_query / base:.2f}" if base and one.variant != "pgbouncer" and not one.failure else ""
        names = ", ".join(f"{name} {count:.2f}" for name, count in one.by_name.items() if count >= 0.05)
        label = f"{one.workload}, {one.clients} client{'s' if one.clients > 1 else ''}"
        lines.append(f"{label:<22}{TITLES[one.variant]:<22}" + (one.failure or f"{one.per_query:>6.2f}{times:>7}   {names}"))
    return "\n".join(lines)


def render_idle(found):
    lines = ["", f"memory: growth of the pooler's PSS per idle authenticated client that has run SELECT 1 ({found[0].clients} clients)"]
    base = next((one.kib_per_client for one in found if one.variant == "pgbouncer"), None)
    for one in found:
        times = f"{one.kib_per_client / base:.2f}" if base and one.variant != "pgbouncer" and not one.failure else ""
        lines.append(f"{TITLES[one.variant]:<22}" + (one.failure or f"{one.kib_per_client:>8.2f} KiB{times:>7}   (before: {one.base_mib:.1f} MiB)"))
    return "\n".join(lines)


def write_json(path, header, cells, syscalls, idle):
    document = {
        **header,
        "cells": [{**asdict(cell), "ratios_to_pgbouncer": {
            variant: {figure: paired_ratio(cell, variant, figure) for figure in ("tps", "p50_ms", "p99_ms", "pooler_us", "postgres_us", "total_us")}
            for variant in VARIANTS if variant != "pgbouncer" and cell.of(variant)}} for cell in cells],
        "system_calls": [asdict(one) for one in syscalls], "idle": [asdict(one) for one in idle]}
    Path(path).write_text(json.dumps(document, indent=1) + "\n")


def progress(text):
    """What is going on, on stderr, so that stdout is the table alone."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def password_env():
    return {**os.environ, "PGPASSWORD": PASSWORD, "PGOPTIONS": ""}


if __name__ == "__main__":
    main()
