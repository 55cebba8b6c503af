# Two commands for a newcomer: `make run` and `make test`. Everything they need is set up in .venv.
PYTHON ?= python3.11
BIN := .venv/bin

SEEDS ?= 1000
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= bundle frame message request response file

BENCHES := floor propagation topologies verify_load startup breath memory growth
CURVES := topologies breath memory growth

.PHONY: run test check bench bench-all plots soak fuzz clean

run: .venv/installed
	$(BIN)/python deploy/three_hosts.py

test: .venv/installed-dev check
	$(BIN)/pytest --numprocesses auto --dist loadfile

check: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/python -m bench

# A quarter of an hour; wrk makes the load (on Debian: apt-get install wrk).
bench-all: .venv/installed bench
	for name in $(BENCHES); do $(BIN)/python -m bench.$$name || exit 1; done

plots: .venv/installed-dev
	for name in $(CURVES); do \
		$(BIN)/python -m bench.$$name --plot docs/img/$$name.svg || exit 1; \
	done

soak: .venv/installed-dev
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)

fuzz: .venv/installed-dev
	for target in $(FUZZ_TARGETS); do \
		PYTHONPATH=tests $(BIN)/python -m fuzz $$target -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

clean:
	rm -rf .venv build data .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo "on Debian: apt-get install python3.11-venv" >&2; exit 1; }

.venv/installed: .venv/bin/python requirements.txt pyproject.toml
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

.venv/installed-dev: .venv/bin/python requirements-dev.txt requirements.txt pyproject.toml
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@ .venv/installed
