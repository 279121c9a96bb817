# Two commands do everything on a fresh machine: `make start` and `make test`. Neither needs root.
.PHONY: start test test-asyncio test-runtimes fuzz soak check format lock package bench bench-quick figures mutants clean

VENV := .venv/bin
PYTEST_ARGS ?=
# A process for each core, each with a stand-in and a host of its own; a file's tests stay together. PROCESSES= for one.
PROCESSES ?= -n logical --maxprocesses 4 --dist loadfile
LOCK_ARGS ?=
MUTANTS ?=
BENCH_ARGS ?=

start: .venv/installed
	@$(VENV)/python -m devhost

# On the event loop of the platform's worker, uvloop.
test: .venv/installed
	@$(VENV)/python -m pytest $(PROCESSES) $(PYTEST_ARGS)

# What knows the insides of the Functions runtime, against the newest two versions of it.
test-runtimes: .venv/installed
	@scripts/test-runtimes

# On asyncio's own, which the worker has on Windows.
test-asyncio: .venv/installed
	@$(VENV)/python -m pytest --loop asyncio $(PROCESSES) $(PYTEST_ARGS)

# Random callers and upstreams from a seed, for five minutes: FUZZ_SECONDS, FUZZ_SEED. docs/robustness.md
fuzz: .venv/installed
	@$(VENV)/python -m tests.fuzz
	@$(VENV)/python -m tests.fuzz.duplicates

# Ten minutes of everything at once, over TLS: SOAK_SECONDS. What the worker holds must not grow.
soak: .venv/installed
	@$(VENV)/python -m tests.soak

check: .venv/installed
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy
	@$(VENV)/python -m pytest -q -m static

# Changes shim/ in small ways and runs the tests that concern each change: those that no test notices are listed.
# MUTANTS=shim/answer/cors.py takes one module, MUTANTS=--changed those that differ from main. Goes on where it was interrupted.
mutants: .venv/installed
	@$(VENV)/python scripts/mutants $(MUTANTS)

# BENCH_ARGS="--peers shim,nginx,direct --measures json_32" measures less; --help tells all. The first run installs the
# peers into bench/.cache: minutes, and one GB.
bench:
	@scripts/bench $(BENCH_ARGS)

bench-quick:
	@scripts/bench --pace quick $(BENCH_ARGS)

# The figures in the documents, from bench/results/latest.json.
figures: .venv/installed
	@$(VENV)/python -m bench.documents

# The lock files anew, after a change of an .in file. LOCK_ARGS=--upgrade takes the newest of everything,
# LOCK_ARGS="--upgrade-package httpx" of one.
lock: .venv/installed
	@scripts/lock $(LOCK_ARGS)

format: .venv/installed
	@$(VENV)/ruff check --fix .
	@$(VENV)/ruff format .

package: .venv/installed
	@$(VENV)/python scripts/package

.venv/installed: requirements.txt requirements-dev.txt scripts/install
	@scripts/install
	@touch $@

clean:
	rm -rf .venv .venvs .mutants dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
