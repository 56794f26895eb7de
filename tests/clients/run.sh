#!/usr/bin/env bash
# The driver matrix: real drivers against pglagoon in transaction and session mode, reads split between a primary and a replica.
#
#     tests/clients/run.sh [PATH OF pglagoon] [--direct] [--drivers psycopg,pgjdbc] [--modes transaction] [--only TEXT] [--verbose]
#
# Gets the drivers first: Python's and node's into .cache/clients of this repository, the rest from the distribution's
# packages (root installs what is missing). A driver that cannot be had is skipped and the reason printed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=$(cd "$here/../.." && pwd)/.cache/clients
python_drivers=('psycopg[binary]==3.*' 'asyncpg==0.*' 'sqlalchemy[asyncio]==2.*' 'django==5.2.*')
node_drivers=(pg@8 pg-cursor@2 pg-query-stream@4)
skipped=""
mkdir -p "$cache"

main() {
    [ -n "$(ls /usr/lib/postgresql/*/bin/postgres 2>/dev/null)" ] || install postgresql postgresql-contrib || fail "PostgreSQL is not installed"
    get_python_drivers
    get_node_drivers
    get_packaged
    MATRIX_SKIPPED=$skipped PYTHONDONTWRITEBYTECODE=1 "$cache/venv/bin/python" "$here/matrix.py" "$@"
}

get_python_drivers() {
    local wanted="${python_drivers[*]}"
    if [ "$(cat "$cache/venv/drivers" 2>/dev/null)" = "$wanted" ]; then return; fi
    command -v python3 >/dev/null || install python3 python3-venv || fail "python3 is not installed"
    rm -rf "$cache/venv"
    python3 -m venv "$cache/venv" 2>/dev/null || { install python3-venv && rm -rf "$cache/venv" && python3 -m venv "$cache/venv"; } ||
        fail "python3 has no venv"
    if "$cache/venv/bin/pip" install --quiet "${python_drivers[@]}" >&2; then
        echo "$wanted" >"$cache/venv/drivers"
    else
        for driver in psycopg asyncpg sqlalchemy django; do skip "$driver" "pip install failed"; done
    fi
}

get_node_drivers() {
    local wanted="${node_drivers[*]}"
    if ! { command -v node && command -v npm || install nodejs npm; } >/dev/null; then
        skip node-pg "node and npm are not installed"
    elif [ "$(cat "$cache/node/drivers" 2>/dev/null)" != "$wanted" ]; then
        mkdir -p "$cache/node"
        if (cd "$cache/node" && npm install --no-audit --no-fund --no-save --loglevel=error "${node_drivers[@]}") >&2; then
            echo "$wanted" >"$cache/node/drivers"
        else
            skip node-pg "npm install failed"
        fi
    fi
}

# Drivers that the distribution has: one by one, so that what it lacks does not cost the others.
get_packaged() {
    packaged dbd-pg 'perl -MDBD::Pg -e 1' libdbd-pg-perl
    packaged php 'php -r "exit(extension_loaded(\"pdo_pgsql\") ? 0 : 1);"' php-cli php-pgsql
    packaged ruby-pg 'ruby -e "require \"pg\""' ruby ruby-pg
    packaged pgjdbc 'command -v javac && [ -e /usr/share/java/postgresql.jar ]' default-jdk-headless libpostgresql-jdbc-java
}

# packaged DRIVER TEST PACKAGE...
packaged() {
    local driver=$1 is_there=$2
    shift 2
    bash -c "$is_there" >/dev/null 2>&1 || install "$@" || true
    bash -c "$is_there" >/dev/null 2>&1 || skip "$driver" "cannot be installed: $*"
}

# Installs packages of the distribution, without starting the services that they bring.
install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    local policy=/usr/sbin/policy-rc.d ours=""
    if [ ! -e "$policy" ]; then
        ours=yes && printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
    fi
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } >&2
    local code=$?
    if [ -n "$ours" ]; then rm -f "$policy"; fi
    return $code
}

skip() { skipped+="$1=$2"$'\n'; }
fail() { echo "$1" >&2; exit 1; }

main "$@"
