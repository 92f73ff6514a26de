# The two commands that matter: `make demo` and `make test`. Everything is installed into .venv on first use.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: demo test check format test-chaos bench-engine docs clean setup

demo: setup
	@$(PY) -m drctl demo $(ARGS)

test: setup
	@$(PY) -m lab.reap -- $(PY) -m pytest -q $(ARGS)

check: setup
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports
	@$(PY) -m pytest -q tests/unit

format: setup
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

setup: $(STAMP)

$(STAMP): requirements/development.txt pyproject.toml requirements/setup.sh
	@requirements/setup.sh $(VENV)

clean:
	rm -rf $(VENV) build
