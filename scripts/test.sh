#!/bin/sh
# Everything that must pass. Each step is announced; the first that fails ends the run, except that a failing driver
# matrix does not keep the tests from running. The last lines are the test runner's own summary.
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

clients=0
if [ -x tests/clients/run.sh ]; then
    step "client drivers: tests/clients/run.sh"
    cargo build --locked --tests --quiet
    tests/clients/run.sh || clients=$?
fi

step "tests: units, layers, properties, simulation, real servers"
if [ -z "${PGLAGOON_TEST_PG_BIN:-}" ] && [ ! -d .cache/pg-new ]; then
    echo "WARNING: only the packaged PostgreSQL version is here: nothing is tested on the newest one"
fi
[ "$clients" = 0 ] || echo "FAILED above: the client drivers (tests/clients/run.sh, status $clients)"
tests=0
if [ -z "${PGLAGOON_NO_NEXTEST:-}" ] && cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --tests 2>&1 || tests=$?
else
    cargo test --locked --tests 2>&1 || tests=$?
fi
[ "$tests" = 0 ] || exit "$tests"
exit "$clients"
