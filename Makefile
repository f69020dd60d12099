# Everything needs CPython 3.11 or newer with pip and venv, and nothing else: it lives in .venv.
#
#   make PYTHON=python3.12 ...     which Python makes .venv (by default the newest there is)
#   make TORCH_INDEX=URL ...       an index to look for PyTorch first, for a machine without a GPU:
#                                  https://download.pytorch.org/whl/cpu saves gigabytes of CUDA
#   make WORKERS=0 test            processes that run the tests, 0 for none beside pytest's own
#   make PYTEST_ARGS="-x" test     further arguments for pytest

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORKERS := 2
PARTS := diagnostics probes reports experiments
CODE := gradpath $(PARTS) tests examples benchmarks

USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
UNUSABLE := gradpath needs CPython 3.11 or newer with pip and venv: install it \
	(Debian: python3 and python3-venv), or name it: make PYTHON=python3.12
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c '$(USABLE)' >/dev/null 2>&1 && echo $$python && break; done)

# What stands in other people's frameworks and trackers, which `make test` does not install.
FRAMEWORKS := $(VENV)/.frameworks

.PHONY: help demo test test-external test-kills compatibility gallery lint types format bench clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED)  ## train the paper's models for a while, and say where the reports are
	$(BIN)/gradpath reproduce helmholtz --preset quick --resume

test: lint types  ## lint, types, then all tests with coverage
	$(BIN)/python -m pytest --cov -n $(WORKERS) $(PYTEST_ARGS)

test-external: $(FRAMEWORKS)  ## tests with other people's frameworks and trackers
	$(BIN)/python -m pytest -m frameworks $(PYTEST_ARGS)

test-kills: $(INSTALLED)  ## kill a hundred trainings at random moments, and read what is left
	GRADPATH_KILLS=100 $(BIN)/python -m pytest tests/probes/test_probe_crash.py $(PYTEST_ARGS)

compatibility: $(FRAMEWORKS)  ## write docs/compatibility.md from what those tests find
	$(BIN)/python -m pytest -m frameworks tests/external --compatibility docs/compatibility.md

gallery: $(FRAMEWORKS)  ## train five of their scripts, write docs/gallery.md and the reports
	$(BIN)/python -m tests.external.gallery

lint: $(INSTALLED)  ## what ruff says about the code and its format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# A checkout has no folder gradpath/diagnostics: links show mypy the package as it installs.
types: $(INSTALLED)  ## mypy, strict
	@mkdir -p .typing/gradpath
	@cd .typing/gradpath && ln -sfn ../../gradpath/*.py* ../../gradpath/commands $(PARTS:%=../../%) .
	@find -L .typing -maxdepth 2 -type l -exec rm {} +
	$(BIN)/mypy -p gradpath
	$(BIN)/mypy tests $(wildcard examples/*.py)

format: $(INSTALLED)  ## put the code into ruff's format
	$(BIN)/ruff check --select I --fix
	$(BIN)/ruff format

bench: $(INSTALLED)  ## every benchmark, one after the other
	set -e; for script in $(wildcard benchmarks/bench_*.py); do $(BIN)/python $$script; done

clean:  ## remove what make made, .venv included
	rm -rf $(VENV) .typing build dist *.egg-info .coverage .*_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[dev]'
	@touch $@

$(FRAMEWORKS): $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[dev,frameworks]'
	@touch $@

$(BIN)/pip:
	@$(or $(PYTHON),false) -c '$(USABLE)' 2>/dev/null || { echo "$(UNUSABLE)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
