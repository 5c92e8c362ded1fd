# `make demo` and `make test` set up .venv by themselves; everything else is for those who work on autobatch.
#
#   PYTHON       the Python that makes .venv (3.11 or newer: the pinned packages need it)
#   TORCH_FLAGS  extra flags for the installation of torch, such as an index with CPU builds
#   PYTEST_FLAGS extra flags for pytest, such as `-k name` or `-x`
#   MATRIX_FLAGS extra flags for benchmarks/matrix.py, such as `--torch 2.6.0`
#   PROCESSES    tests that run at a time: a number, or auto (one more than the processors, five at most)

PYTHON ?= python3
TORCH_FLAGS ?=
PYTEST_FLAGS ?=
MATRIX_FLAGS ?=
PROCESSES ?= auto

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Tests of a file share workers and built libraries, so each process begins with a row of neighbours and
# takes tests from another only when it has run its own. Some of the slow tests compare times, and run alone.
PYTEST := $(BIN)/python -m pytest
SIDE_BY_SIDE := -n $(PROCESSES) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow ray golden matrix cov fmt lint docs clean

help:
	@echo "make demo    set up and find the batch size of a small CNN on real data"
	@echo "make test    set up and run the tests, the slow ones left out"
	@echo "make slow    run the slow tests"
	@echo "make ray     add Ray to $(VENV) and run the tests that need it"
	@echo "make golden  rewrite the golden files: review the difference before you commit it"
	@echo "make matrix  run the quick tests with each torch of benchmarks/matrix.py, in environments of their own"
	@echo "make cov     run the tests as \`make test\` does, and write their coverage to htmlcov/"
	@echo "make fmt     format, and mend the linter's findings where it can"
	@echo "make lint    ruff check, ruff format --check, mypy --strict"
	@echo "make docs    build the documentation in build/docs; a warning is an error"
	@echo "make clean   remove $(VENV), caches and build outputs"

setup: $(READY)

demo: $(READY)
	$(BIN)/autobatch probe autobatch.examples.digits_cnn

test: $(READY)
	$(PYTEST) $(SIDE_BY_SIDE) -m "not slow" $(PYTEST_FLAGS)

slow: $(READY)
	$(PYTEST) -m slow $(PYTEST_FLAGS)

ray: $(READY)
	$(PIP) install -c constraints-cpu.txt -e '.[ray]'
	$(PYTEST) tests/ray $(PYTEST_FLAGS)

golden: $(READY)
	$(PYTEST) $(SIDE_BY_SIDE) -m "not slow" --update-golden $(PYTEST_FLAGS)
	git status --short tests

# It makes its own environments, from the Pythons on the path.
matrix:
	$(PYTHON) benchmarks/matrix.py --processes 2 $(MATRIX_FLAGS)

cov: $(READY)
	$(PYTEST) $(SIDE_BY_SIDE) -m "not slow" --cov --cov-report term --cov-report html $(PYTEST_FLAGS)

fmt: $(READY)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

lint: $(READY)
	@failed=; \
	for linter in "ruff check ." "ruff format --check ." "mypy --strict"; do \
	  echo "$$linter"; $(BIN)/python -m $$linter || failed="$$failed, $$linter"; \
	done; \
	test -z "$$failed" || { echo "failed: $${failed#, }" >&2; exit 1; }

docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going -b html -d build/doctrees docs build/docs

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache .coverage htmlcov
	find . -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# pip comes last into a new environment: where it is missing, the making of one was cut short.
# An environment that is there already is kept, and with it a build of torch put there first.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: the pinned packages need Python 3.11 or newer; \`$(PYTHON)\` is $$($(PYTHON) --version 2>&1)" >&2; \
	  echo >&2; \
	  echo "hint: name another one, as in \`make $(or $(firstword $(MAKECMDGOALS)),demo) PYTHON=python3.12\`" >&2; \
	  exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(READY): pyproject.toml constraints-cpu.txt | $(BIN)/pip
	@echo "installing torch: minutes, the first time"
	@$(PIP) install -c constraints-cpu.txt $(TORCH_FLAGS) torch
	@echo "installing autobatch and what its tests need"
	@$(PIP) install -c constraints-cpu.txt -e '.[dev]'
	@$(BIN)/python -c 'import platform, torch; print("ready: Python", platform.python_version() + ", torch", torch.__version__)'
	@touch $@
