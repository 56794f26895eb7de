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

# The tests' folder, with the sources of the packaged server, fetched into .cache/pg-source. Only data are taken from it.
fetch_regress() {
    found=$(ls -d .cache/pg-source/postgresql-*/src/test/regress 2>/dev/null | tail -n 1)
    [ -n "$found" ] && { echo "$found"; return; }
    mkdir -p .cache/pg-source/lists/partial .cache/pg-source/archives/partial
    cache=$PWD/.cache/pg-source
    . /etc/os-release
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $VERSION_CODENAME main" \
        >"$cache/sources.list"
    major=$(ls /usr/lib/postgresql | sort -n | tail -n 1)
    apt() {
        apt-get -qq -o "Dir::Etc::sourcelist=$cache/sources.list" -o Dir::Etc::sourceparts=/dev/null \
            -o "Dir::State::lists=$cache/lists" -o "Dir::Cache::archives=$cache/archives" "$@" >&2
    }
    apt update
    (cd "$cache" && apt source --download-only "postgresql-$major")
    tar -xf "$(ls "$cache"/postgresql-"$major"_*.orig.tar.* | tail -n 1)" -C "$cache" --wildcards '*/src/test/regress/*'
    ls -d "$cache"/postgresql-*/src/test/regress | tail -n 1
}

# The servers run as another user, who must be able to read the tests' data.
regress=${TRUTH_REGRESS:-$(fetch_regress)}
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
