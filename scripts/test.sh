#!/bin/sh
# Everything that must pass. Each step is announced; the first that fails ends the run, except that a failing driver
# matrix and a test that fails on the newest PostgreSQL do not keep the other tests from running. The last lines are the
# test runner's own summary.
set -eu
cd "$(dirname "$0")/.."
command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"

step() { printf '\n==== %s ====\n' "$*"; }

# One set of build flags in all steps, so that nothing is compiled twice. Warnings are errors in clippy and rustdoc, which
# see all code; RUSTFLAGS stays untouched, because a change of it rebuilds every dependency.
unset RUSTFLAGS CARGO_BUILD_RUSTFLAGS || true

step "format: cargo fmt --check"
cargo fmt --check

step "lints: cargo clippy"
cargo clippy --locked --all-targets --quiet -- -D warnings

step "documentation: cargo doc"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items --quiet

step "shell: sh -n"
for script in scripts/*.sh; do
    sh -n "$script"
done

step "instructions of the hot paths: benches/count.sh --check-tested"
if command -v valgrind >/dev/null; then
    TIMES=100 benches/count.sh --check-tested
else
    echo "WARNING: valgrind is not here: the instructions of the hot paths are not counted"
fi

clients=0
if [ -x tests/clients/run.sh ]; then
    step "client drivers: tests/clients/run.sh"
    cargo build --locked --tests --quiet
    # What fails is said again at the end, where it is seen.
    log=$(mktemp)
    { tests/clients/run.sh || clients=$?; echo "$clients" >"$log.status"; } | tee "$log"
    clients=$(cat "$log.status")
    failures=$(grep -E '^[a-z]+ +[a-z-]+ +FAIL' "$log" || true)
    rm -f "$log" "$log.status"
fi

# One way to run tests with either runner; words after -- are parts of the tests' names.
run_tests() {
    if [ -z "${PGLAGOON_NO_NEXTEST:-}" ] && cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --locked "$@" 2>&1
    else
        cargo test --locked "$@" 2>&1
    fi
}

# What the server says and does may differ between versions: these groups run on the newest one too, and without
# io_uring, as on kernels that do not offer it. The others are about clients, files and endurance, or need a server with TLS.
newest=0
if [ -n "${PGLAGOON_TEST_PG_BIN:-}" ]; then
    : # Whoever names a server wants that one.
elif [ -d .cache/pg-new ]; then
    step "tests on the newest PostgreSQL"
    PGLAGOON_TEST_IO_URING=false PGLAGOON_TEST_PG_BIN=$PWD/.cache/pg-new/bin run_tests --test postgres -- \
        auth:: cancel:: consistency:: console:: copy:: isolation:: listen:: pooling:: prepared:: protocol:: prove:: \
        routing:: session_state:: || newest=$?
else
    echo "WARNING: only the packaged PostgreSQL version is here: nothing is tested on the newest one"
fi

step "tests: units, layers, properties, simulation, real servers"
[ "$clients" = 0 ] || printf '%s\n' "FAILED above: the client drivers (tests/clients/run.sh, status $clients)" "$failures"
[ "$newest" = 0 ] || echo "FAILED above: tests on the newest PostgreSQL (status $newest)"
tests=0
run_tests --tests || tests=$?
[ "$tests" = 0 ] || exit "$tests"
[ "$newest" = 0 ] || exit "$newest"
exit "$clients"
