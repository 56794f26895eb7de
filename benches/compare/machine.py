"""What the kernel says of processes and of the machine: CPU seconds, memory, names."""

import glob
import os
import platform
import re
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_of(pid):
    """User and system seconds of a whole process, all its threads; nothing for no process."""
    if pid is None:
        return (0.0, 0.0)
    fields = stat(pid)
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def postgres_cpu(server):
    """CPU seconds of the postmaster, of its living children and of the children it has buried."""
    total = 0.0
    for task in glob.glob(f"/proc/{server.pid}/task/*/children"):
        for child in Path(task).read_text().split():
            try:
                total += sum(cpu_of(int(child)))
            except (FileNotFoundError, ProcessLookupError):
                pass  # ended in this very moment: counted by the postmaster below
    return total + sum(map(int, stat(server.pid)[11:15])) / TICKS


def machine_cpu():
    """Busy CPU seconds of the whole machine: user, nice, system, irq, softirq."""
    fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]))
    return (fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) / TICKS


def stat(pid):
    """The fields of /proc/PID/stat behind the program's name, which may contain anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def pss_kib(pid):
    return kib(f"/proc/{pid}/smaps_rollup", "Pss")


def rss_kib(pid):
    return kib(f"/proc/{pid}/status", "VmRSS")


def peak_rss_kib(pid):
    """The most since `forget_peak`."""
    return kib(f"/proc/{pid}/status", "VmHWM")


def forget_peak(pid):
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def kib(path, name):
    return int(re.search(rf"^{name}:\s+(\d+) kB", Path(path).read_text(), re.M).group(1))


def cores():
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def describe():
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = kib("/proc/meminfo", "MemTotal") / 1024 ** 2
    return f"{cores()} x {model[1] if model else platform.machine()}, {memory:.0f} GiB, {platform.system()} {platform.release()}"
