# What people, CI and the README call. `make test` and `make demo` need Python 3.11+ and make, and set up the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PYTHONDONTWRITEBYTECODE := # empty: recompiling torch costs every process 20 s

.DEFAULT_GOAL := help
.PHONY: help setup demo table test chaos check format bench lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## create .venv with the pinned requirements and this project

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V); set PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup ## run every stage on the demo's scenes, in demo-run/
	@$(BIN)/python -m pipeline.demo.write_shards demo-run/shards
	@INVERTMILL_CACHE=demo-run/cache $(BIN)/invertmill run demo.yaml

table: setup ## compare all methods on the demo's held-out scenes, in demo-table/
	@$(BIN)/python -m pipeline.demo.write_shards demo-run/shards
	@INVERTMILL_CACHE=demo-run/cache $(BIN)/invertmill evaluate demo-table.yaml

check: setup ## check lint, types, import directions, file sizes, prose
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tests/file_sizes.py
	@$(BIN)/python tests/prose.py

test: check ## run check, then all tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 10

chaos: setup ## send 60 signals and 20 kills at random moments of whole runs; about 2 hours on 2 cores
	@$(BIN)/python -m tests.integration.chaos

format: setup ## let ruff fix and format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup ## run every benchmark quickly; those whose reference data is missing say so
	@for name in $$(cd benchmarks && ls *.py | grep -v __init__ | sed 's/\.py$$//'); do \
	  $(BIN)/python -m benchmarks.$$name --quick --json benchmarks/results/$$name.json || [ $$? = 2 ] || exit 1; done

lock: ## pin requirements.txt again, with hashes and without addresses
	@uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
	  --python-version 3.11 --group dev pyproject.toml -o requirements.txt

clean: ## remove the files of setup and demo
	@rm -rf $(VENV) demo-run demo-table
