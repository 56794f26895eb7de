#!/usr/bin/env bash
# pglagoon, PgBouncer and PostgreSQL side by side under pgbench: see README.md beside this file, or --help.
# Installs what is missing (PostgreSQL, PgBouncer, strace from the distribution's packages; needs root) and builds the release binary.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

missing=()
[ -n "$(ls /usr/lib/postgresql/*/bin/pgbench 2>/dev/null)" ] || missing+=(postgresql postgresql-contrib)
PATH=$PATH:/usr/sbin command -v pgbouncer >/dev/null || missing+=(pgbouncer)
command -v strace >/dev/null || missing+=(strace)
if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || { echo "please install: ${missing[*]}" >&2; exit 1; }
    # The packages would start a server and a pooler of their own; none is wanted.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >&2
fi

case " $* " in
    *" --pglagoon"* | *" --help "* | *" -h "*) ;;
    *) cargo build --release --quiet --bin pglagoon --manifest-path "$root/Cargo.toml" ;;
esac
python3 "$here/compare.py" "$@"
