#!/bin/sh
# The long form of the proofs: each promise of each level, against servers that are disturbed, with a positive control
# beside each run. SECONDS_EACH is how long a run takes (60), READS_EACH how many reads of each level are checked in those
# that go for volume (1000000); the report is target/prove.md.
set -eu
cd "$(dirname "$0")/.."
command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"

report="$(pwd)/target/prove.md"
mkdir -p target
{
    echo "# What was proven"
    echo
    echo "$(date -u +%Y-%m-%d), ${SECONDS_EACH:-60} s for each run, $(nproc) cores. A level is held to its own promises; a run that"
    echo "breaks none in n reads bounds their rate at 3/n (95 %). A control has one mistake on purpose: that it is caught shows"
    echo "that the disturbance was strong enough for the run above it to prove something. *Lost*: writes that were acknowledged"
    echo "and that a failover lost; *told*: sessions that were told so, whether or not it was so."
    echo
    echo "| disturbance | who routes | reads | writes | lost | told | failed | on replicas | broken | rate | verdict |"
    echo "|---|---|---|---|---|---|---|---|---|---|---|"
} >"$report"

# Proofs share the machine with nobody: one after the other.
status=0
PGLAGOON_PROVE="${SECONDS_EACH:-60}" PGLAGOON_PROVE_READS="${READS_EACH:-1000000}" PGLAGOON_PROVE_REPORT="$report" \
    cargo nextest run --release --locked --profile prove --test postgres -E 'test(prove::)' || status=$?
cat "$report"
exit "$status"
