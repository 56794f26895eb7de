#!/usr/bin/env bash
# pglagoon, PgBouncer and PostgreSQL side by side under pgbench: see README.md beside this file, or --help.
# Installs what is missing (from the distribution's packages; needs root) and builds what `make release` builds.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

case " $* " in
    *" --help "* | *" -h "*) ;;
    *" --pglagoon"*) "$root/scripts/setup.sh" bench >&2 ;;
    *)
        "$root/scripts/setup.sh" bench >&2
        SECONDS=0
        "$root/scripts/release.sh"
        echo "build: $SECONDS s" >&2
        ;;
esac
export PYTHONPATH="$root/tests/clients" PYTHONDONTWRITEBYTECODE=1
exec python3 "$here/compare.py" "$@"
