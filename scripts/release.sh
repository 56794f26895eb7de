#!/bin/sh
# Builds pglagoon by a profile of itself at work (profile-guided optimisation): target/guided/pglagoon.
#
# Three steps: a build that counts what it runs, a moment of every workload of benches/compare, and a build that
# knows what came often. Where the toolchain has no llvm-profdata and rustup cannot get it, a plain release build.
set -eu
cd "$(dirname "$0")/.."
command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"

say() { printf '%s\n' "release: $*" >&2; }

guided=$PWD/target/guided
profdata=$(rustc --print target-libdir)/../bin/llvm-profdata
mkdir -p "$guided"

if [ ! -x "$profdata" ]; then
    say "getting llvm-tools, a component of the toolchain"
    rustup component add llvm-tools >/dev/null 2>&1 || true
fi
if [ ! -x "$profdata" ]; then
    say "no llvm-profdata: a plain release build"
    cargo build --release --locked --quiet --bin pglagoon
    cp target/release/pglagoon "$guided/pglagoon"
    exit 0
fi

# The names of functions in a profile depend on how the code is divided, so all else is as in the build that it is for.
say "a build that counts what it runs"
RUSTFLAGS="-Cprofile-generate=$guided/raw -Cdebuginfo=0" \
    cargo build --release --locked --quiet --bin pglagoon --target-dir "$guided/counting"
counting=$guided/counting/release/pglagoon

# By the name of its program: another one makes another profile, and cargo builds anew for another name.
profile=$guided/$(cksum <"$counting" | cut -d ' ' -f 1).profdata
if [ ! -f "$profile" ]; then
    say "running every workload for a moment"
    rm -rf "$guided"/raw "$guided"/*.profdata
    benches/compare/run.sh --train --pglagoon "$counting"
    "$profdata" merge -o "$profile" "$guided"/raw/*.profraw
fi

say "a build by that profile"
RUSTFLAGS="-Cprofile-use=$profile" \
    cargo build --release --locked --quiet --bin pglagoon --target-dir "$guided/using"
cp "$guided/using/release/pglagoon" "$guided/pglagoon"
say "target/guided/pglagoon"
