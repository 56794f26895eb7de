#!/bin/sh
# The long form of the proofs: each promise of each level, against servers that are disturbed, with a positive control
# beside each run. SECONDS_EACH is how long a run takes (60); the report is target/prove.md.
set -eu
cd "$(dirname "$0")/.."
command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"

report="$(pwd)/target/prove.md"
mkdir -p target
{
    echo "# What was proven"
    echo
    echo "$(date -u +%Y-%m-%d), ${SECONDS_EACH:-60} s for each run, $(nproc) cores. A run that finds nothing in n reads bounds the"
    echo "rate of violations at 3/n (95 %). A level is held to its own promises; a positive control must break them."
    echo
    echo "| disturbance | who routes | found | failed requests | |"
    echo "|---|---|---|---|---|"
} >"$report"

# Proofs share the machine with nobody: one after the other.
status=0
PGLAGOON_PROVE="${SECONDS_EACH:-60}" PGLAGOON_PROVE_REPORT="$report" \
    cargo nextest run --release --locked --profile prove --test postgres -E 'test(prove::)' || status=$?
cat "$report"
exit "$status"
