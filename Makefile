# Every command of the project. The two that a newcomer needs: `make run` and `make test`.
#
# The environment is .venv, filled from requirements.lock: names and versions of everything, for `pip install -c`.

PYTHON ?= python3
BIN := .venv/bin
# Each of hundreds of processes would compile the project anew, and each of pytest's the tests.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help run test test-fast check faults bench format migrate openapi lock sbom clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

run: .venv/run ## Serve on http://127.0.0.1:8000 with reload, on an SQLite file; prints a curl to paste
	@$(BIN)/todo-backend dev

test: .venv/dev ## Run all tests, on SQLite and on a PostgreSQL of their own; with CI set, show the coverage
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal $(if $(CI),--cov --cov-report=term)

test-fast: .venv/dev ## The inner loop: all tests but those of processes, faults, browsers and Node.js; no coverage
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal -q -m "not process and not fault and not browser and not e2e"

check: .venv/dev ## Format, lint, types, and known vulnerabilities of what is in requirements.lock
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@$(BIN)/python -m tests.audit

faults: .venv/dev ## Kill, cut, hang and abort everything many times under load; make up requests and values
	FAULT_ROUNDS=50 $(BIN)/python -m pytest -rP tests/faults tests/db/test_neon.py
	for run in $$(seq 200); do CI= $(BIN)/python -m pytest -q -m hypothesis || exit 1; done

bench: .venv/dev ## Measure what a request costs, beside the usual recipe; needs wrk, PostgreSQL, PgBouncer
	$(BIN)/python -m tests.performance.bench

format: .venv/dev ## Put the code into form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

migrate: .venv/run ## Bring the database of DATABASE_URL up to date
	@$(BIN)/todo-backend migrate

openapi: .venv/run ## Write specs/openapi.json anew
	@$(BIN)/todo-backend openapi > .venv/openapi.json
	@mv .venv/openapi.json specs/openapi.json

lock: ## Write both locks anew, from the newest versions that pyproject.toml allows
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip --disable-pip-version-check --quiet install '.[dev]' 'flit_core>=3.12,<4'
	.venv-lock/bin/python -m pip freeze --exclude todo-backend > requirements.lock
	.venv-lock/bin/python -m pip --disable-pip-version-check --quiet install uv
	@# What the image installs: without what only developers need, with the hashes of each file for each platform.
	echo 'flit_core>=3.12,<4' | .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --extra metrics --extra mcp -c requirements.lock pyproject.toml - -o requirements-runtime.lock
	rm -rf .venv-lock

sbom: ## Write sbom.json: what the image holds, as CycloneDX
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip --disable-pip-version-check --quiet install cyclonedx-bom
	.venv-lock/bin/cyclonedx-py requirements requirements-runtime.lock -o sbom.json
	rm -rf .venv-lock

clean: ## Remove the environment and all caches
	rm -rf .venv tests/e2e/.venv tests/e2e/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*

# An environment is made anew when what it is made from has changed. The editable install comes last and without
# build isolation: its one build tool is pinned like everything else.
.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/run: .venv/python pyproject.toml requirements.lock
	@echo 'installing into .venv what requirements.lock names: a minute, the first time'
	$(PIP) install -c requirements.lock flit_core
	$(PIP) install -c requirements.lock --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/run
	$(PIP) install -c requirements.lock --no-build-isolation -e '.[dev]'
	@touch $@
