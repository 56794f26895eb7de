#!/bin/sh
# Ground truth for the classifier, in long runs: generated statements, then PostgreSQL's own regression tests, on a real
# primary and a real standby. What is called a read and errors or answers differently on the standby is a failure.
#
#   TRUTH_STATEMENTS=n   how many statements are generated (default 50000)
#   TRUTH_SEED=n         by which seed (default: a new one each time; it is printed)
#   TRUTH_REGRESS=DIR    src/test/regress of PostgreSQL's sources; without it they are fetched, as the distribution has them
set -eu
cd "$(dirname "$0")/.."
command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"

# The servers run as another user, who must be able to read the tests' data.
regress=${TRUTH_REGRESS:-$(scripts/pg-source.sh)/src/test/regress}
data=$(mktemp -d "${TMPDIR:-/tmp}/pglagoon-truth.XXXXXX")
trap 'rm -rf "$data"' EXIT
cp -R "$regress" "$data/regress"
chmod -R a+rX "$data"

seed=${TRUTH_SEED:-$(date +%s)}
echo "==== ${TRUTH_STATEMENTS:-50000} generated statements, seed $seed ===="
PGLAGOON_TRUTH_STATEMENTS=${TRUTH_STATEMENTS:-50000} PGLAGOON_TRUTH_SEED=$seed \
    cargo test --locked --test postgres -- --nocapture truth::generated
echo "==== PostgreSQL's regression tests: $regress ===="
PGLAGOON_TRUTH_REGRESS=$data/regress cargo test --locked --test postgres -- --ignored --nocapture truth::postgresqls
