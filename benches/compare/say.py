"""What is said while measuring: tables on stdout, what is going on on stderr."""

import sys
from datetime import datetime, timezone

import machine
import table
from variants import versions


def begin(options, servers, settings):
    """Says what is measured, on what and with what."""
    about = {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "machine": machine.describe(),
             "versions": versions(options, servers), "settings": settings,
             "command": " ".join(["benches/compare/run.sh", *sys.argv[1:]])}
    show(table.header(about))
    return about


def show(text):
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    print(text, flush=True)


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:120]}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)
