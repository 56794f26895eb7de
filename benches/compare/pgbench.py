"""Cells: rounds of pgbench against each variant in turn, with the CPU that everybody took meanwhile."""

import glob
import os
import re
import signal
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from cluster import DATABASE, USER, tool
from machine import cpu_of, machine_cpu, postgres_cpu
from say import progress
from variants import TITLES, password_environment, prepares
from workloads import WORKLOADS, Plan


@dataclass
class Run:
    """One variant's turn in one round of one cell."""

    workload: str
    variant: str
    tps: float = 0.0
    mean_ms: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    pooler_us: float | None = None
    pooler_user_us: float | None = None
    postgres_us: float = 0.0
    pooler_cores: float = 0.0
    load_cores: float = 0.0
    foreign_cores: float = 0.0
    failure: str | None = None

    @property
    def total_us(self):
        return self.postgres_us + (self.pooler_us or 0.0)


@dataclass
class Cell:
    plan: Plan
    runs: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    def of(self, workload, variant):
        return [run for run in self.runs if (run.workload, run.variant) == (workload, variant) and not run.failure]

    def ratios(self, workload, variant, figure):
        """To PgBouncer's, within each round. To its extended row where it cannot prepare."""
        mine, theirs = ([run for run in self.runs if (run.workload, run.variant) == who]
                        for who in ((workload, variant), (self.base(workload), "pgbouncer")))
        pairs = [(getattr(one, figure), getattr(other, figure)) for one, other in zip(mine, theirs) if not one.failure and not other.failure]
        return [one / other for one, other in pairs if one is not None and other]

    def base(self, workload):
        return "extended" if WORKLOADS[workload].statements == "named" and not prepares("pgbouncer") else workload

    def ratio(self, workload, variant, figure):
        ratios = self.ratios(workload, variant, figure)
        return statistics.median(ratios) if ratios and variant != "pgbouncer" else None


def measure_cell(stage, options, servers, targets, plan):
    cell = Cell(plan)
    turns = [(name, target) for name in plan.workloads for target in targets]
    for turn in list(turns):
        name, target = turn
        if WORKLOADS[name].statements == "named" and not prepares(target.variant):
            turns.remove(turn)
            cell.notes.append(f"{name}: PgBouncer before 1.21 has no prepared statements in transaction mode; x is to its extended row")
    for number in range(1, options.rounds + 1):
        for name, target in turns:
            progress(f"{name}, {plan.clients} clients, round {number}/{options.rounds}, {TITLES[target.variant]}")
            cell.runs.append(take_turn(stage, options, servers, target, name, plan.clients))
    cell.notes += sorted({f"{TITLES[run.variant]}: {run.failure}" for run in cell.runs if run.failure})
    return cell


def take_turn(stage, options, servers, target, name, clients):
    """pgbench for `seconds` after one second of warm-up; CPU is read at the first and at the last of its progress lines."""
    workload = WORKLOADS[name]
    threads = clients if workload.threads == "per client" else min(clients, max(2, os.cpu_count() // 2))
    seconds = options.seconds + 1
    logs = stage.folder / "latency"
    argv = [*command(target, clients, threads, workload), "-T", str(seconds), "-P", "1", "--progress-timestamp",
            "-l", f"--log-prefix={logs}", f"--sampling-rate={options.sampling}", DATABASE]
    process = subprocess.Popen(argv, env=password_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, cwd=stage.folder)
    try:
        points, others = watch(process, servers, target, give_up=time.monotonic() + 3 * seconds + 30)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    latencies = read_latencies(logs, points)
    if process.returncode != 0 or len(points) < 2:
        return Run(name, target.variant, failure=f"pgbench failed: {last_error(others)}")
    return figures(target, name, clients, points, latencies)


def command(target, clients, threads, workload):
    return [tool("pgbench"), "-h", "127.0.0.1", "-p", str(target.port), "-U", USER, "-n", "-c", str(clients), "-j", str(threads),
            *workload.arguments]


def run_transactions(target, name, clients, transactions):
    """A fixed number of transactions per client, untimed."""
    argv = [*command(target, clients, min(clients, 2), WORKLOADS[name]), "-t", str(transactions), DATABASE]
    done = subprocess.run(argv, env=password_environment(), capture_output=True, text=True, timeout=180)
    if done.returncode != 0:
        raise RuntimeError(f"pgbench failed: {last_error(done.stderr.splitlines())}")


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


def figures(target, name, clients, points, latencies):
    workload, first, last = WORKLOADS[name], points[0], points[-1]
    seconds = last.at - first.at
    counts = [(point.at - before.at) * point.tps for before, point in zip(points, points[1:])]
    transactions = sum(counts)
    if transactions < 1:
        return Run(name, target.variant, failure="no transaction ended in the measured time")
    queries = transactions * workload.queries
    user, system = (after - before for before, after in zip(first.pooler, last.pooler))
    postgres, load = last.postgres - first.postgres, last.pgbench - first.pgbench
    foreign = last.machine - first.machine - user - system - postgres - load
    run = Run(name, target.variant, tps=transactions / seconds, postgres_us=1e6 * postgres / queries,
              pooler_cores=(user + system) / seconds, load_cores=(postgres + load) / seconds, foreign_cores=max(0.0, foreign / seconds))
    if workload.connections == "new":
        # pgbench starts its clock after the login, so only the rate tells what a client waits.
        run.mean_ms = 1e3 * clients / run.tps
    else:
        run.mean_ms = sum(count * point.latency_ms for count, point in zip(counts, points[1:])) / transactions
        run.p50_ms, run.p99_ms = percentile(latencies, 0.50), percentile(latencies, 0.99)
    if target.pid:
        run.pooler_us, run.pooler_user_us = 1e6 * (user + system) / queries, 1e6 * user / queries
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
