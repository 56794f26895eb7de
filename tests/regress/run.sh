#!/usr/bin/env bash
# PostgreSQL's own regression tests (its parallel schedule) and its isolation tests, on a direct connection and through
# pglagoon in transaction mode with reads split: every test that does not come out alike is named.
#
#     tests/regress/run.sh [PATH OF pglagoon] [--suites regress,isolation] [--keep FOLDER] [--pool N]
#
# Gets the tests from the sources of the distribution's package into .cache/pg-source, and compiles the C functions
# that some of them call. pg_regress and isolationtester are those that the server's package brings.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source=$("$here/../../scripts/pg-source.sh")
build=$source/build
if [ ! -e "$build/regress.so" ]; then
    mkdir -p "$build"
    headers=$source/headers/usr/include/postgresql
    gcc -shared -fPIC -O2 -I"$(ls -d "$headers"/*/server)" -I"$headers" -o "$build/regress.so" "$source/src/test/regress/regress.c"
fi
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$here/../clients" exec python3 "$here/regress.py" --source "$source" "$@"
