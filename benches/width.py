#!/usr/bin/env python3
"""What a pool's lock does to 16 and 64 workers, simulated: nobody here has so many cores.

    cargo bench --bench hot -- --lock 1     what one thread takes for a lease and a return: twice HOLD
    cargo bench --bench hot -- --lock 2     what two take; what it is more than for one is twice TRANSFER
    benches/width.py --hold NS --transfer NS --work US

Each worker works on a query for WORK microseconds in the mean (exponentially distributed: other tasks of its come between), and
takes the lock twice for it, to lease and to give back, for HOLD nanoseconds. A lock that comes from another core takes
TRANSFER longer: its line, and those of what it guards, are there. Whoever finds it taken waits in line. Printed is what
is left of perfect growth, the lock's load, and the mean wait for it, for one pool that all workers share, and for one that
is split so that each SHARD workers share a lock.
"""

import argparse
import heapq
import random


def simulate(workers, lock_of, hold, transfer, work, queries):
    """Answers queries per microsecond, the busiest lock's load, and the mean wait in nanoseconds."""
    chance = random.Random(workers)
    locks = {lock_of(worker): [0.0, None, 0.0] for worker in range(workers)}
    due = [(chance.expovariate(2 / work), worker, 0) for worker in range(workers)]
    heapq.heapify(due)
    done, waited, visits, now = 0, 0.0, 0, 0.0
    while done < queries:
        now, worker, visit = heapq.heappop(due)
        lock = locks[lock_of(worker)]
        begins = max(now, lock[0])
        takes = hold + (transfer if lock[1] not in (None, worker) else 0.0)
        waited, visits = waited + begins - now, visits + 1
        lock[0], lock[1], lock[2] = begins + takes, worker, lock[2] + takes
        done += visit
        heapq.heappush(due, (lock[0] + chance.expovariate(2 / work), worker, 1 - visit))
    return done / now * 1e3, max(lock[2] for lock in locks.values()) / now, waited / visits


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    options.add_argument("--hold", type=float, required=True, help="nanoseconds")
    options.add_argument("--transfer", type=float, required=True, help="nanoseconds")
    options.add_argument("--work", type=float, required=True, help="microseconds of CPU per query")
    options.add_argument("--shard", type=int, default=8, help="workers that share a lock when the pool is split")
    options.add_argument("--queries", type=int, default=200_000)
    given = options.parse_args()
    print(f"{'workers':>7}  {'one lock':>28}  {'a lock for each ' + str(given.shard):>28}")
    for workers in (1, 2, 4, 8, 16, 32, 64, 128):
        cells = []
        for lock_of in (lambda worker: 0, lambda worker: worker // given.shard):
            rate, load, wait = simulate(
                workers, lock_of, given.hold, given.transfer, given.work * 1e3, given.queries
            )
            perfect = workers / (given.work + 2 * given.hold / 1e3)
            cells.append(f"{rate / perfect:6.1%} of perfect, load {load:4.0%}, wait {wait:6.0f} ns")
        print(f"{workers:>7}  {cells[0]}  {cells[1]}")


if __name__ == "__main__":
    main()
