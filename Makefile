# The commands of this project. Each does its own set-up from a fresh clone on Debian with a Rust toolchain.

SHELL := /bin/sh
export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: help setup release demo drill test truth regress prove soak chaos bench bench-growth budget

help:
	@echo 'make demo           a primary, two replicas, pglagoon and a workload; shows what goes where; Ctrl-C ends it'
	@echo 'make demo CHECK=1   the same for some seconds; verifies on the servers what went where; exits 0 or 1'
	@echo 'make release        pglagoon built by a profile of itself at work: target/guided/pglagoon; some 6 minutes'
	@echo 'make drill          breaks such a cluster in every way that is built in; a report; exits 0 or 1'
	@echo 'make test           everything that must pass: format, lints, documentation, all tests'
	@echo 'make truth          long runs of what the classifier calls a read, on a real primary and a real standby'
	@echo 'make regress        PostgreSQL'"'"'s regression and isolation tests, directly and through pglagoon: what differs'
	@echo 'make soak           mixed clients and random kills for 10 minutes, or SOAK=seconds; then all must be as before'
	@echo 'make chaos          fifty clients while servers, the network and pglagoon break in every way; CHAOS=10 seconds per phase'
	@echo 'make prove          what reads return, level by level, under faults; writes target/prove.md; SECONDS_EACH=60 per run,'
	@echo '                    READS_EACH=1000000 per level'
	@echo 'make bench          pglagoon beside PgBouncer: the targets, measured, with pass or fail; some 14 minutes'
	@echo 'make bench-growth   how costs grow: databases, users, statements, replicas, clients, bytes; BENCH_ARGS=--quick for a first look'
	@echo 'make budget         instructions of the hot paths against benches/budgets; fails if one takes 3 % more'
	@echo 'make setup          installs what these need and this machine lacks'

setup:
	@scripts/setup.sh all

release:
	@scripts/release.sh

# DEMO_ARGS: more arguments for `pglagoon demo`, for example --replicas 1.
demo:
	@scripts/setup.sh demo
	@echo 'demo: building pglagoon (a release build; some minutes the first time)'
	@cargo build --release --locked --bin pglagoon
	@exec target/release/pglagoon demo $(if $(filter-out 0,$(CHECK)),--check) $(DEMO_ARGS)

# DRILL_ARGS: more arguments for `pglagoon drill`, for example: promote --html drill.html
drill:
	@scripts/setup.sh demo
	@echo 'drill: building pglagoon (a release build; some minutes the first time)'
	@cargo build --release --locked --bin pglagoon
	@exec target/release/pglagoon drill $(DRILL_ARGS)

test:
	@scripts/setup.sh all
	@scripts/test.sh

truth:
	@scripts/setup.sh all
	@scripts/truth.sh

# REGRESS_ARGS: for example --suites isolation --keep target/regress
regress:
	@scripts/setup.sh all
	@cargo build --locked --bin pglagoon
	@tests/regress/run.sh $(REGRESS_ARGS)

soak:
	@scripts/setup.sh all
	@PGLAGOON_SOAK=$(or $(SOAK),600) cargo test --locked --test postgres soak:: -- --nocapture

chaos:
	@scripts/setup.sh all
	@PGLAGOON_CHAOS=$(or $(CHAOS),10) cargo test --locked --test postgres chaos:: -- --nocapture --test-threads=1

prove:
	@scripts/setup.sh all
	@scripts/prove.sh

# BENCH_ARGS: for example --quick, or --strict --json bench.json
bench:
	@benches/compare/run.sh $(BENCH_ARGS)

bench-growth:
	@benches/compare/run.sh --growth $(BENCH_ARGS)

budget:
	@scripts/setup.sh bench
	@benches/count.sh --check
