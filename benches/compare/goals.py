"""The targets: what must be reached, and whether it was."""

import statistics
from dataclasses import dataclass, field
from typing import Callable

from machine import cores
from variants import SPLITS

# From here on a load can saturate one core of a pooler, and two workers can be fed.
ENOUGH_CORES = 4
# So much of a core PgBouncer must have used, or the load did not saturate it.
SATURATED = 0.9


class NotMeasurable(Exception):
    """This machine, or this PgBouncer, cannot say."""


class Unmeasured(Exception):
    """It was tried, and something failed."""


@dataclass
class Results:
    """All that one run has found. What was not asked for is not in it."""

    cells: list = field(default_factory=list)
    idle: list = field(default_factory=list)
    syscalls: list = field(default_factory=list)
    two_workers: object = None

    def cell(self, workload, clients):
        return next((cell for cell in self.cells if workload in cell.plan.workloads and cell.plan.clients == clients), None)


@dataclass(frozen=True)
class Goal:
    """`figures` gives, per variant, the values of all rounds, or None if nobody asked for them. All variants must reach the limit."""

    what: str
    bound: str
    limit: float
    unit: str
    figures: Callable


@dataclass(frozen=True)
class Verdict:
    goal: Goal
    outcome: str
    why: str = ""
    figures: dict = field(default_factory=dict)


def judge(results):
    """A verdict for each goal that was asked for."""
    return [verdict for verdict in (judge_one(goal, results) for goal in GOALS) if verdict]


def judge_one(goal, results):
    try:
        figures = goal.figures(results)
    except NotMeasurable as reason:
        return Verdict(goal, "no verdict", str(reason))
    except Unmeasured as reason:
        return Verdict(goal, "unmeasured", str(reason))
    if not figures:
        return None
    reached = {variant: reaches(goal, statistics.median(values)) for variant, values in figures.items()}
    return Verdict(goal, "pass" if all(reached.values()) else "fail", figures=figures)


def reaches(goal, value):
    """What is printed decides."""
    value = round(value, 2)
    return value <= goal.limit if goal.bound == "<=" else value >= goal.limit


# How the figures are got ----------------------------------------------------------------------------------------------------

def ratio(workload, clients, figure, variants=SPLITS):
    """To PgBouncer's in the same round."""
    def figures(results):
        cell = results.cell(workload, clients)
        if cell is None or "pgbouncer" not in cell.plan.variants:
            return None
        return of_variants(cell, variants, lambda variant: cell.ratios(workload, variant, figure))
    return figures


def absolute(workload, clients, figure, variants):
    def figures(results):
        cell = results.cell(workload, clients)
        return cell and of_variants(cell, variants, lambda variant: [getattr(run, figure) for run in cell.of(workload, variant)])
    return figures


def of_variants(cell, variants, values_of):
    found = {variant: values_of(variant) for variant in variants if variant in cell.plan.variants}
    if not all(found.values()):
        raise Unmeasured("; ".join(cell.notes) or "pgbench gave no figures")
    return found


def idle_memory(kind):
    def figures(results):
        return values_by_variant([one for one in results.idle if one.kind == kind], "kib_per_client")
    return figures


def system_calls(results):
    """The worst of the protocol modes."""
    found = values_by_variant(results.syscalls, "per_query")
    return {variant: [max(values)] for variant, values in found.items()}


def values_by_variant(measured, figure):
    mine = [one for one in measured if one.variant in SPLITS]
    failures = [one.failure for one in mine if one.failure]
    if failures:
        raise Unmeasured(failures[0])
    return {variant: [getattr(one, figure) for one in mine if one.variant == variant]
            for variant in SPLITS if any(one.variant == variant for one in mine)}


def two_workers(results):
    cell = results.two_workers
    if cell is None:
        return crowded(results)
    found = of_variants(cell, ("split-off",), lambda variant: cell.ratios("simple", variant, "tps"))
    busy = statistics.median(run.pooler_cores for run in cell.of("simple", "pgbouncer"))
    if busy < SATURATED:
        raise NotMeasurable(f"PgBouncer was not saturated: it took {busy:.2f} of a core")
    return found


def crowded(results):
    """What stands in the way of it on a small machine, by the run that was meant for one worker."""
    cell = results.cell("simple", 32)
    runs = cell.of("simple", "pgbouncer") if cell else []
    if not runs:
        return None
    others = statistics.median(run.load_cores for run in runs)
    raise NotMeasurable(f"not measurable on {cores()} cores: pgbench and PostgreSQL take {others:.1f} of them beside PgBouncer")


GOALS = (
    Goal("CPU per query, simple protocol, 32 clients", "<=", 0.97, "x", ratio("simple", 32, "pooler_us", ("split-off",))),
    Goal("the same, splitting on", "<=", 1.05, "x", ratio("simple", 32, "pooler_us", ("split-on",))),
    Goal("CPU per query, extended, unprepared", "<=", 0.87, "x", ratio("extended", 32, "pooler_us")),
    Goal("CPU per query, prepared", "<=", 0.95, "x", ratio("prepared", 32, "pooler_us")),
    Goal("CPU per transaction, TPC-B", "<=", 0.95, "x", ratio("tpcb", 32, "pooler_us")),
    Goal("user-space CPU per query, simple protocol", "<=", 2.5, "us", absolute("simple", 32, "pooler_user_us", ("split-on",))),
    Goal("latency of a single client, p50", "<=", 0.95, "x", ratio("simple", 1, "p50_ms")),
    Goal("latency, 32 clients, p99", "<=", 1.00, "x", ratio("simple", 32, "p99_ms")),
    Goal("latency, 500 clients, p99", "<=", 1.00, "x", ratio("simple", 500, "p99_ms")),
    Goal("throughput, two workers, PgBouncer saturated", ">=", 1.3, "x", two_workers),
    Goal("CPU per new connection, SCRAM", "<=", 0.85, "x", ratio("scram", 32, "pooler_us")),
    Goal("CPU per new connection, trust", "<=", 0.85, "x", ratio("trust", 32, "pooler_us")),
    Goal("memory per idle client that has run a query", "<=", 1.25, "KiB", idle_memory("plain")),
    Goal("the same with 20 prepared statements", "<=", 3.5, "KiB", idle_memory("prepared")),
    Goal("memory per idle TLS client", "<=", 12, "KiB", idle_memory("tls")),
    Goal("system calls per query, 32 clients, worst protocol", "<=", 4.2, "calls", system_calls),
    Goal("PostgreSQL's CPU per extended query, unprepared", "<=", 0.70, "x", ratio("extended", 32, "postgres_us")),
)
