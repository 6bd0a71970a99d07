# The commands of the house. `make` alone lists them.
#
#   PYTHON  interpreter for the virtual environment (3.11 - 3.13); PORT  where `make serve` listens;
#   TEST_PROCESSES  how many run the tests of `make test` side by side: each needs a core and about 4 GiB.

PORT ?= 8000
TEST_PROCESSES ?= 2
#: Trainings of different tests share the cores; threads that wait for each other must not do it at full speed.
TESTS_AT_ONCE := OMP_WAIT_POLICY=PASSIVE
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
#: Programs of Debian that only tests need; a test whose program is missing is skipped, and says so.
DEBIAN_PACKAGES := orthanc orthanc-dicomweb dicom3tools mmdebstrap buildah runc chromium fonts-dejavu-core

#: The labeling page as the server finds it, and what it is made from.
WEB_DIST := labelserver/web_dist/index.html
WEB := $(shell find web -type f -not -path 'web/node_modules/*' -not -path 'web/tests/*')

.DEFAULT_GOAL := help
.PHONY: help serve workspace test check resolve quick sdk soak bench demo clean page

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

# Installing makes it, too; this follows its sources. Without Node the server runs without the page; CI stops instead.
$(WEB_DIST): $(WEB) hatch_build.py | $(RUNTIME)
	@$(BIN)/python hatch_build.py || [ "$$CI" != true ]

workspace/radiology: | $(RUNTIME)
	$(BIN)/labelserver apps --download --name radiology --output workspace

workspace/phantom-abdomen-reference/labels.json: | $(RUNTIME)
	$(BIN)/labelserver datasets --download --name phantom-abdomen --output workspace

workspace: $(RUNTIME) workspace/radiology workspace/phantom-abdomen-reference/labels.json

serve: workspace $(WEB_DIST) ## install, make the sample studies, start the server on http://127.0.0.1:8000
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

# Node from the path; without it the page's own tests are left out, and that is said. CI stops instead.
page: ## check the types of the labeling page and test its pure parts (needs Node 20.19 or later)
	@if command -v npm >/dev/null 2>&1; then \
	    cd web && { [ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --silent --no-audit --no-fund; } \
	    && npm run --silent check && npm run --silent test; \
	elif [ "$$CI" = true ]; then echo "npm is missing: the tests of the page cannot run" >&2; exit 1; \
	else echo "npm is missing: the tests of the page are left out"; fi

quick: $(DEVELOP) ## the quick tests
	$(BIN)/pytest

# Tried once for each list of packages. Where it cannot be done the tests that need them are skipped; CI stops instead.
.make/debian-packages: Makefile
	@mkdir -p .make; missing=$$(for p in $(DEBIAN_PACKAGES); do \
	    dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -z "$$missing" ]; then touch $@; \
	elif apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
	    apt-get install -qq -y --no-install-recommends $$missing >/dev/null; then touch $@; \
	elif [ "$$CI" = true ]; then echo "These Debian packages cannot be installed:" $$missing >&2; exit 1; \
	else echo "Not installed (this needs Debian and root):" $$missing "- the tests that need them will be skipped."; fi

test: check resolve page $(WEB_DIST) .make/debian-packages ## everything that must hold; what CI runs
	$(TESTS_AT_ONCE) $(BIN)/pytest -m 'not soak and not bench' -n $(TEST_PROCESSES) --dist loadfile --durations=15

#: Pinned as a pair: later releases of holoscan-cli have no tools for applications.
SDK := monai-deploy-app-sdk==4.0.0 holoscan-cli==4.2.0 nvidia-cuda-runtime

.venv-sdk/.installed: $(PINS) | $(DEVELOP)
	$(BIN)/python -m venv .venv-sdk
	.venv-sdk/bin/python -m pip --disable-pip-version-check install --quiet torch==2.13.0
	.venv-sdk/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt \
	    monai pydicom highdicom nibabel pylibjpeg-openjpeg python-gdcm $(SDK)
	@touch $@

sdk: .venv-sdk/.installed ## the application as operators of MONAI Deploy's SDK, in an environment of its own
	LABELSERVER_SDK_PYTHON=$(CURDIR)/.venv-sdk/bin/python $(BIN)/pytest -m sdk

soak: $(DEVELOP) ## the full counts
	$(BIN)/pytest -m soak --timeout=3600

bench: $(DEVELOP) ## measure; write docs/benchmarks.md; fail beyond a limit
	$(BIN)/pytest -m bench -s --timeout=1200

clean: ## remove everything made by the commands above but the workspace
	rm -rf $(VENV) .make build dist labelserver/web_dist web/node_modules *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
