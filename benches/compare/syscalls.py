"""System calls of the pooler per query, counted by strace in short runs of their own: it slows everything down."""

import re
import shutil
import signal
import subprocess
from dataclasses import dataclass, field

from pgbench import run_transactions
from say import progress
from variants import TITLES, prepares
from workloads import COUNTED, WORKLOADS

# So many per client that connecting weighs under 2 %.
TRANSACTIONS = 1000


@dataclass
class Syscalls:
    workload: str
    clients: int
    variant: str
    per_query: float | None = None
    by_name: dict = field(default_factory=dict)
    failure: str | None = None


def measure_syscalls(stage, names, targets):
    found = []
    for name, clients in COUNTED:
        for target in targets:
            able = prepares(target.variant) or WORKLOADS[name].statements == "unnamed"
            if name in names and target.pid and able:
                progress(f"system calls, {name}, {clients} clients, {TITLES[target.variant]}")
                found.append(count(stage, target, name, clients))
    return found


def count(stage, target, name, clients):
    result = Syscalls(name, clients, target.variant)
    if not shutil.which("strace"):
        result.failure = "strace is not installed"
        return result
    summary = stage.folder / "strace.txt"
    try:
        run_transactions(target, name, clients, 20)
        trace(target, summary, lambda: run_transactions(target, name, clients, TRANSACTIONS))
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        result.failure = str(error)
        return result
    calls = {found[2]: int(found[1]) for found in re.finditer(r"^\s*(\d+)\s+(\w+)$", summary.read_text(), re.M) if found[2] != "total"}
    queries = clients * TRANSACTIONS
    result.per_query = sum(calls.values()) / queries
    result.by_name = {call: calls[call] / queries for call in sorted(calls, key=calls.get, reverse=True)}
    return result


def trace(target, summary, work):
    tracer = subprocess.Popen(["strace", "-f", "-c", "-U", "calls,name", "-o", str(summary), "-p", str(target.pid)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        line = tracer.stderr.readline()
        if "attached" not in line:
            raise RuntimeError(f"strace could not attach: {line.strip()}")
        work()
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=30)
