"""pglagoon, PgBouncer and PostgreSQL itself under pgbench, side by side and interleaved in one run, against the targets.

Every cell (workloads, number of clients) is measured in rounds: A B C A B C ..., so that a drifting machine drifts for all
of them; ratios are formed within a round and then their median is taken. See README.md for what each column means.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import machine
import table
from cluster import Stage
from goals import ENOUGH_CORES, Results, judge
from growth import GROWTH, grow
from memory import measure_idle
from pgbench import measure_cell
from say import begin, progress, show
from syscalls import measure_syscalls
from train import train
from variants import USUAL, VARIANTS, fill, needs_pglagoon, running, start_servers
from workloads import WORKLOADS, Plan, plans

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("idle", "syscalls", "two-workers")


def main():
    options = parse_options()
    begun = time.monotonic()
    try:
        with Stage("compare") as stage:
            status = (train if options.train else grow if options.growth else compare)(stage, options)
    except KeyboardInterrupt:
        sys.exit("interrupted; servers stopped, folder removed")
    minutes, seconds = divmod(round(time.monotonic() - begun), 60)
    print(f"\nmeasured in {minutes} min {seconds} s")
    sys.exit(status)


def parse_options():
    known = (*WORKLOADS, *EXTRAS)
    parser = argparse.ArgumentParser(prog="benches/compare/run.sh", description=__doc__.split("\n\n")[0])
    parser.add_argument("--pglagoon", metavar="PATH", default=str(ROOT / "target/guided/pglagoon"), help="the binary (what make release builds)")
    parser.add_argument("--workloads", type=names_of(known), default=list(known), help=f"of {','.join(known)} (all)")
    parser.add_argument("--variants", type=names_of(VARIANTS), default=list(USUAL), help=f"of {','.join(VARIANTS)} ({','.join(USUAL)})")
    parser.add_argument("--clients", type=lambda text: [int(part) for part in text.split(",")],
                        help="each workload with so many, for example 1,32,500 (what the targets need)")
    parser.add_argument("--rounds", type=int, help="rounds per cell (5; for --growth 3)")
    parser.add_argument("--seconds", type=int, help="measured seconds per turn, after 1 s of warm-up (2)")
    parser.add_argument("--idle-clients", type=int, default=1000, help="idle connections for the memory figures (1000)")
    parser.add_argument("--pool", type=int, default=20, help="server connections per pool (20)")
    parser.add_argument("--workers", type=int, default=1, help="pglagoon's worker threads (1; PgBouncer has one)")
    parser.add_argument("--replicas", type=int, default=1, choices=(1, 2), help="streaming replicas (1)")
    parser.add_argument("--scale", type=int, default=20, help="pgbench's scale factor (20)")
    parser.add_argument("--sampling", type=float, default=0.2, help="share of transactions whose latency is logged (0.2)")
    parser.add_argument("--json", metavar="FILE", help="also write every run there")
    parser.add_argument("--growth", nargs="?", type=names_of(GROWTH), const=list(GROWTH),
                        help=f"instead: how costs grow; of {','.join(GROWTH)} (all)")
    parser.add_argument("--train", action="store_true", help="instead: a moment of everything, for a profile of --pglagoon (scripts/release.sh)")
    parser.add_argument("--sizes", type=lambda text: [int(part) for part in text.split(",")], help="for its curves (10,100,1000)")
    parser.add_argument("--quick", action="store_true", help="a first look: 2 rounds of 2 s; small sizes")
    parser.add_argument("--strict", action="store_true", help="end with status 1 if a target is missed")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 3 if options.growth else 5)
    options.seconds = options.seconds or 2
    options.sizes = options.sizes or ([10, 100] if options.quick else [10, 100, 1000])
    if needs_pglagoon(options) and not os.access(options.pglagoon, os.X_OK):
        parser.error(f"{options.pglagoon} is not there: make release, or --pglagoon PATH")
    return options


def names_of(known):
    def parse(text):
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return names
    return parse


def compare(stage, options):
    """Everything that was asked for; returns the status to end with."""
    progress(f"PostgreSQL: a primary and {options.replicas} replica(s), pgbench scale {options.scale}")
    servers = start_servers(stage, options.replicas)
    fill(servers, options.scale)
    about = begin(options, servers, f"pool {options.pool}, transaction mode, {options.workers} pglagoon worker(s), "
                  f"{options.replicas} replica(s), scale {options.scale}, {options.rounds} round(s) of {options.seconds} s, "
                  "trust but where said, fsync off, loopback TCP")
    results = measure(stage, options, servers)
    found = judge(results)
    if found:
        show(table.verdicts(found))
    if options.json:
        write_json(options.json, about, results, found)
    return status_of(options, found)


def measure(stage, options, servers):
    results = Results()
    if "idle" in options.workloads:
        results.idle = measure_idle(stage, options, servers)
        show(table.idle(results.idle))
    wanted = plans(options.workloads, options.clients, options.variants)
    for auth in ("trust", "scram-sha-256"):
        chosen = [plan for plan in wanted if plan.auth == auth]
        counted = "syscalls" in options.workloads and auth == "trust"
        if not chosen and not counted:
            continue
        with running(stage, options, servers, options.variants, auth=auth) as targets:
            for plan in chosen:
                results.cells.append(measure_cell(stage, options, servers, targets, plan))
                show(table.cell(results.cells[-1]))
            if counted:
                results.syscalls = measure_syscalls(stage, options.workloads, targets)
                show(table.syscalls(results.syscalls))
    if "two-workers" in options.workloads and machine.cores() >= ENOUGH_CORES:
        results.two_workers = measure_two_workers(stage, options, servers)
        show("\ntwo workers" + table.cell(results.two_workers))
    return results


def measure_two_workers(stage, options, servers):
    plan = Plan(("simple",), 64, ("pgbouncer", "split-off"))
    with running(stage, options, servers, plan.variants, workers=2) as targets:
        return measure_cell(stage, options, servers, targets, plan)


def status_of(options, found):
    """2: something could not be measured that should have been. 1: a target was missed, and that was to count."""
    outcomes = {verdict.outcome for verdict in found}
    if "unmeasured" in outcomes:
        return 2
    return 1 if options.strict and "fail" in outcomes else 0


# Output ---------------------------------------------------------------------------------------------------------------------

def write_json(path, about, results, found):
    document = {**about, "cells": [asdict(cell) for cell in results.cells], "system_calls": [asdict(one) for one in results.syscalls],
                "idle": [asdict(one) for one in results.idle],
                "targets": [{"what": one.goal.what, "bound": one.goal.bound, "limit": one.goal.limit, "unit": one.goal.unit,
                             "outcome": one.outcome, "why": one.why, "figures": one.figures} for one in found]}
    Path(path).write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
