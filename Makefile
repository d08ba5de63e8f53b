# `make quickstart` and `make test` work from a bare clone; the rest is listed by `make help`.

SHELL := /bin/bash
VENV ?= .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
EXTRAS := test,dev,quickstart,benchmark,ray
PYTEST_ARGS ?=
# As many processes as there are cores, up to four: each test may start four more.
PYTEST = $(PYTHON) -m pytest --numprocesses auto --maxprocesses 4

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-long test-all certify chaos check format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv and install everything that is needed here

$(STAMP): pyproject.toml constraints.txt
	@fits='import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))'; \
	if ! $(PYTHON) -c "$$fits" 2>/dev/null; then \
	  for candidate in python3.11 python3.12 python3 python; do \
	    if $$candidate -c "$$fits" 2>/dev/null; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "Trireme needs Python 3.11 or 3.12 with its venv module; neither python3.11 nor python3.12 nor python3 is one." >&2; \
	    echo "Install one (Debian, Ubuntu: apt-get install python3.11-venv) and run make again." >&2; \
	    exit 1; \
	  fi; \
	  echo "Creating $(VENV) with $$($$found --version)"; \
	  $$found -m venv --clear $(VENV) || exit 1; \
	fi
	$(PYTHON) -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

quickstart: $(STAMP) ## the whole job on real input, on CPU: crawl, prepare, train, resume, evaluate, generate
	$(PYTHON) -m launch.quickstart

test: $(STAMP) ## every test but the long ones (CPU only); PYTEST_ARGS='-k name' selects
	$(PYTEST) -m 'not long' $(PYTEST_ARGS)

test-long: $(STAMP) ## the long tests: Slurm, chaos, the whole quickstart, Ray, a browser; PYTEST_ARGS='--part 1/3'
	$(PYTEST) -m long $(PYTEST_ARGS)

test-all: $(STAMP) ## every test
	$(PYTEST) $(PYTEST_ARGS)

certify: $(STAMP) ## every layout and engine computes what one process does (CPU): docs/certificate.md
	$(PYTHON) -m trainer.certify certify=standard

chaos: $(STAMP) ## faults in real runs, 68 of them, and what became of each (CPU): docs/chaos.md
	$(PYTHON) -m tests.chaos --json benchmarks/results/chaos.json

check: $(STAMP) ## ruff, import-linter, mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy

format: $(STAMP) ## let ruff rewrite the sources in the project's style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## remove caches; .venv and outputs stay
	rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache build *.egg-info
	find trireme trainer launch data_tools tests benchmarks conf -name __pycache__ -type d -prune -exec rm -rf {} +
