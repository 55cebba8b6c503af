# Two commands for a newcomer: `make run` and `make test`. Everything they need is set up in .venv.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: run test check bench clean

run: .venv/installed
	$(BIN)/python deploy/three_hosts.py

test: .venv/installed-dev check
	$(BIN)/pytest

check: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/python -m bench

clean:
	rm -rf .venv data .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo "on Debian: apt-get install python3.11-venv" >&2; exit 1; }

.venv/installed: .venv/bin/python requirements.txt pyproject.toml
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

.venv/installed-dev: .venv/bin/python requirements-dev.txt requirements.txt pyproject.toml
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@ .venv/installed
