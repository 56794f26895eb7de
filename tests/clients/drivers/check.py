"""The little frame around a driver's checks in Python: registers, runs, prints one line per check.

Lines: `ok NAME`, `FAIL NAME: why`. The scripts in other languages print the same.
The environment says where to connect (PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE), how many connections to
hold at once (MATRIX_CONNECTIONS: in transaction mode more than the pool has) and the mode (MATRIX_MODE: direct, transaction, session).
"""

import asyncio
import inspect
import os
import signal
import sys
import threading
import traceback

CONNECTIONS = int(os.environ.get("MATRIX_CONNECTIONS", "8"))
MODE = os.environ.get("MATRIX_MODE", "direct")
CHECK_SECONDS = 60
ONLY = sys.argv[1] if len(sys.argv) > 1 else ""


class Checks:
    """`@checks` on a function (plain or async) makes it a check with its name."""

    def __init__(self):
        self.functions = []

    def __call__(self, function):
        self.functions.append(function)
        return function

    def run(self):
        failed = sum(not passes(function) for function in self.functions if ONLY in function.__name__)
        # Threads that still wait for a lost answer must not keep the process.
        sys.stdout.flush()
        os._exit(1 if failed else 0)


def passes(function):
    name = function.__name__.replace("_", " ")
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(CHECK_SECONDS)
    try:
        if inspect.iscoroutinefunction(function):
            asyncio.run(asyncio.wait_for(function(), CHECK_SECONDS - 5))
        else:
            function()
    except Exception as error:
        print(f"FAIL {name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
        traceback.print_exc()
        return False
    finally:
        signal.alarm(0)
    print(f"ok {name}", flush=True)
    return True


def too_long(*_):
    raise TimeoutError(f"no end within {CHECK_SECONDS} s")


def at_once(function, count=CONNECTIONS):
    """Runs `function(number)` in `count` threads at once; raises the first error."""
    errors = []

    def one(number):
        try:
            function(number)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def equal(found, expected):
    if found != expected:
        raise AssertionError(f"expected {shown(expected)}, found {shown(found)}")


def shown(value):
    text = repr(value)
    return text if len(text) < 120 else text[:120] + "..."
