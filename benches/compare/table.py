"""What is printed."""

import statistics

from variants import SPLITS, TITLES
from workloads import IDLE_CLIENTS, WORKLOADS


def header(about):
    return "\n".join([
        f"date      {about['date']}", f"machine   {about['machine']}",
        "versions  " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        f"settings  {about['settings']}", f"command   {about['command']}", "",
        "median [min-max] over rounds; CPU in microseconds per query, user + system; x = ratio to PgBouncer in the same round, median"])


# Targets --------------------------------------------------------------------------------------------------------------------

GOAL = "{:<50}{:>15}{:>22}{:>22}   {}"


def verdicts(found):
    lines = ["", "targets: median [min-max] over rounds; x = times PgBouncer's, in the same round",
             GOAL.format("", "target", "split off", "split on", "")]
    for one in found:
        figures = [values(one.figures.get(variant), one.goal.unit) for variant in SPLITS]
        label = one.goal.what, f"{one.goal.bound} {one.goal.limit:.2f} {one.goal.unit}"
        lines.append(GOAL.format(*label, *figures, one.outcome) if one.figures else f"{label[0]:<50}{label[1]:>15}   {one.outcome}: {one.why}")
    count = {outcome: sum(one.outcome == outcome for one in found) for outcome in ("pass", "fail", "no verdict", "unmeasured")}
    return "\n".join([*lines, "", ", ".join(f"{number} {outcome}" for outcome, number in count.items() if number)])


def values(found, unit):
    if not found:
        return "-"
    middle = f"{statistics.median(found):.2f}"
    return middle if len(found) == 1 else f"{middle} [{min(found):.2f}-{max(found):.2f}]"


# Cells ----------------------------------------------------------------------------------------------------------------------

CELL = "{:<32}{:>24}{:>7}{:>9}{:>9}{:>9}{:>20}{:>7}{:>7}{:>9}{:>7}{:>9}{:>7}{:>8}"


def cell(measured):
    lines = [""]
    for name in measured.plan.workloads:
        lines.append(f"{name}, {count(measured.plan.clients, 'client')}: {WORKLOADS[name].what}")
    unit = "logins/s" if WORKLOADS[measured.plan.workloads[0]].connections == "new" else "transactions/s"
    lines.append(CELL.format("", unit, "x", "mean ms", "p50", "p99", "pooler CPU", "x", "user", "PG CPU", "x", "both", "x", "foreign"))
    lines += [cell_row(measured, name, variant) for name in measured.plan.workloads for variant in measured.plan.variants
              if measured.of(name, variant)]
    return "\n".join([*lines, *(f"  {note}" for note in measured.notes)])


def cell_row(measured, name, variant):
    runs = measured.of(name, variant)
    pooled = runs[0].pooler_us is not None
    label = TITLES[variant] if len(measured.plan.workloads) == 1 else f"{TITLES[variant]}, {name}"

    def times(figure):
        found = measured.ratio(name, variant, figure)
        return f"{found:.2f}" if found else ""
    return CELL.format(
        label, spread([run.tps for run in runs], 0), times("tps"),
        middle([run.mean_ms for run in runs], 2), middle([run.p50_ms for run in runs], 2), middle([run.p99_ms for run in runs], 2),
        spread([run.pooler_us for run in runs], 1) if pooled else "-", times("pooler_us") if pooled else "",
        middle([run.pooler_user_us for run in runs], 1), middle([run.postgres_us for run in runs], 1), times("postgres_us"),
        middle([run.total_us for run in runs], 1), times("total_us"), f"{max(run.foreign_cores for run in runs):.2f}")


def count(number, what):
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def spread(found, digits):
    return f"{statistics.median(found):,.{digits}f} [{min(found):.{digits}f}-{max(found):.{digits}f}]"


def middle(found, digits):
    present = [value for value in found if value is not None]
    return f"{statistics.median(present):.{digits}f}" if present else "-"


# System calls and memory ----------------------------------------------------------------------------------------------------

def syscalls(found):
    lines = ["", "system calls of the pooler per query (strace -f -c, separate short runs)"]
    for one in found:
        names = ", ".join(f"{name} {calls:.2f}" for name, calls in one.by_name.items() if calls >= 0.05)
        lines.append(f"{one.workload + ', ' + count(one.clients, 'client'):<22}{TITLES[one.variant]:<22}"
                     + (one.failure or f"{one.per_query:>6.2f}   {names}"))
    return "\n".join(lines)


def idle(found):
    lines = ["", f"memory: growth of the pooler's PSS per idle client ({count(found[0].clients, 'client')})"]
    for one in found:
        lines.append(f"{IDLE_CLIENTS[one.kind]:<32}{TITLES[one.variant]:<22}"
                     + (one.failure or f"{one.kib_per_client:>8.2f} KiB   (before: {one.base_mib:.1f} MiB)"))
    return "\n".join(lines)
