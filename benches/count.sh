#!/bin/sh
# Instructions and heap allocations per iteration of each workload of benches/hot.rs.
#
#   benches/count.sh                        every workload
#   benches/count.sh session_simple ...     these
#   benches/count.sh --check                every workload against benches/budgets: fails if one takes 3 % more than it may
#   benches/count.sh --check-tested         the same of the unoptimised build that the tests use: for `make test`, which builds
#                                           no other
#   benches/count.sh --functions NAME       where one workload's instructions go, by function
#
# Counted by callgrind over TIMES and 2 * TIMES iterations; the difference is without the start-up, and does not depend on
# what else the machine does. HOT=FILE counts a benchmark built before, for a comparison. Needs valgrind.
set -eu
cd "$(dirname "$0")/.."
TIMES=${TIMES:-500}

command -v valgrind >/dev/null || { echo 'count: valgrind is not installed' >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

budget=0
build='cargo bench --bench hot --no-run'
case ${1:-} in
--check) budget=2 ;;
--check-tested)
    budget=3
    build='cargo build --bench hot'
    ;;
esac
[ "$budget" = 0 ] || shift
rustc=$(rustc --version | cut -d' ' -f2)
if [ "$budget" != 0 ] && ! grep -qF "rustc $rustc." benches/budgets; then
    echo "count: benches/budgets is of another compiler than rustc $rustc, so nothing is compared:"
    budget=0
fi
hot=${HOT:-$($build --quiet --locked --message-format=json | sed -n 's/.*"executable":"\([^"]*hot-[^"]*\)".*/\1/p')}

# instructions NAME TIMES: how many a run executes; leaves the profile behind.
instructions() {
    valgrind --quiet --tool=callgrind --callgrind-out-file="$work/$1.$2" "$hot" --count "$1" "$2" >/dev/null
    sed -n 's/^totals: *//p' "$work/$1.$2"
}

if [ "${1:-}" = --functions ]; then
    name=${2:?which workload}
    instructions "$name" $((TIMES * 20)) >/dev/null
    echo "instructions of $((TIMES * 20 + 100)) iterations of $name, start-up included:"
    callgrind_annotate --threshold=98 "$work/$name.$((TIMES * 20))" | sed -n '/file:function/,$p'
    exit
fi

[ $# -gt 0 ] || set -- $("$hot" --list)
"$hot" --allocations >"$work/allocations"
over=0
printf '%-24s %12s %12s %10s' workload instructions allocations bytes
[ "$budget" = 0 ] || printf ' %8s' budget
echo
for name in "$@"; do
    once=$(instructions "$name" "$TIMES")
    twice=$(instructions "$name" $((TIMES * 2)))
    each=$(((twice - once) / TIMES))
    printf '%-24s %12d %12.2f %10.1f' "$name" "$each" \
        $(awk -v name="$name" '$1 == name { print $2, $4 }' "$work/allocations")
    if [ "$budget" != 0 ]; then
        allowed=$(awk -v name="$name" -v column="$budget" '$1 == name { print $column }' benches/budgets)
        [ -n "$allowed" ] || { echo; echo "count: no budget for $name in benches/budgets" >&2; exit 1; }
        printf ' %8d' "$allowed"
        if [ $((each * 100)) -gt $((allowed * 103)) ]; then
            over=1
            printf ' OVER'
        elif [ $((each * 100)) -lt $((allowed * 97)) ]; then
            printf ' (lower the budget)'
        fi
    fi
    echo
done
exit "$over"
