# The two commands that matter: `make demo` and `make test`. Everything is installed into .venv on first use.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# Dozens of processes import the same modules: where the environment forbids to keep them compiled, each compiles all.
unexport PYTHONDONTWRITEBYTECODE
# Runs a command and ends every process and temporary folder that it leaves behind, however it ends.
REAP := $(PY) -m lab.reap --

.PHONY: demo test lint check unit format test-chaos test-system bench bench-engine bench-memory bench-failover docs clean setup

demo: setup  ## the main job on real servers, in one terminal (ARGS=--keep leaves it up; ARGS="--story failover" tells one story)
	@$(PY) -m drctl demo $(ARGS)

test: setup  ## all tests but the whole fault matrix
	@$(REAP) $(PY) -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-chaos: setup  ## the whole fault matrix: every step, both sides of its effect
	@$(REAP) $(PY) -m pytest -q -m chaos tests/chaos tests/integration $(ARGS)

test-system:  ## what needs Debian packages and root; says what is missing
	@tests/system/run $(ARGS)

lint: setup  ## style, types and layers
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-logo

check: setup  ## style, types, layers and unit tests, side by side, within a minute
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint unit

unit: setup
	@$(PY) -m pytest -q -n 2 tests/unit $(ARGS)

bench: setup  ## backups and restores beside those of others (ARGS="--size 4GB"; pgbackrest, zstd, awscli)
	@bench/run_backups $(ARGS)

bench-engine: setup  ## the engine's overhead beside a bare activity, in one run
	@$(REAP) $(PY) -m bench.engine $(ARGS)

bench-memory: setup  ## a worker's memory with a small and a large database
	@$(REAP) $(PY) -m bench.memory $(ARGS)

bench-failover: setup  ## a lost region until the first write in the other one, beside Patroni (etcd-server)
	@bench/run_failover $(ARGS)

docs: setup  ## the generated pages
	@$(PY) -m workflows.document > docs/plans.md
	@$(PY) -m drctl config schema --output markdown > docs/configuration.md

format: setup
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

setup: $(STAMP)

$(STAMP): requirements/development.txt requirements/setup.sh
	@requirements/setup.sh $(VENV)

clean:
	rm -rf $(VENV) $(VENV).lock build
