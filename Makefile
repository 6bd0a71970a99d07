# The commands of the house. `make` alone lists them.
#
#   PYTHON  interpreter for the virtual environment (3.11 - 3.13); PORT  where `make serve` listens.

PORT ?= 8000
PYTHON ?= $(shell for p in python3.12 python3.13 python3.11 python3; do \
    command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
    && echo $$p && break; done)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
#: Each is a file that stands for a finished step; it is made again when what it depends on changes.
RUNTIME := $(VENV)/.installed-runtime
DEVELOP := $(VENV)/.installed-develop
PINS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help serve workspace test check resolve quick soak bench demo clean

help: ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 - 3.13 found. Name one: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch comes first and alone: where a CPU build is offered this takes it, and nothing after it replaces it.
$(RUNTIME): $(PINS) | $(BIN)/python
	$(PIP) install --quiet torch==2.13.0
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(DEVELOP): $(RUNTIME)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

workspace/radiology: | $(RUNTIME)
	$(BIN)/labelserver apps --download --name radiology --output workspace

workspace/phantom-abdomen-reference/labels.json: | $(RUNTIME)
	$(BIN)/labelserver datasets --download --name phantom-abdomen --output workspace

workspace: $(RUNTIME) workspace/radiology workspace/phantom-abdomen-reference/labels.json

serve: workspace ## install, make the sample studies, start the server on http://127.0.0.1:8000
	@exec $(BIN)/labelserver start_server --app workspace/radiology --studies workspace/phantom-abdomen \
	    --conf models segmentation --port $(PORT)

demo: $(RUNTIME) ## the whole labeling loop without a person, in under four minutes
	@exec $(BIN)/labelserver demo

check: $(DEVELOP) ## ruff, mypy --strict, import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.13
	$(BIN)/lint-imports

resolve: .make/resolved ## do the pins resolve for every Python we promise?

.make/resolved: constraints.txt pyproject.toml | $(DEVELOP)
	$(BIN)/python tests/house/resolve_constraints.py 3.11 3.12 3.13
	@mkdir -p .make && touch $@

quick: $(DEVELOP) ## the quick tests
	$(BIN)/pytest

test: check resolve ## everything that must hold; what CI runs
	$(BIN)/pytest -m 'not soak and not bench' --durations=15

soak: $(DEVELOP) ## the full counts
	$(BIN)/pytest -m soak --timeout=3600

bench: $(DEVELOP) ## measure; write docs/benchmarks.md; fail beyond a limit
	$(BIN)/pytest -m bench -s --timeout=1200

clean: ## remove everything made by the commands above but the workspace
	rm -rf $(VENV) .make build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
