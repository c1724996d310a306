# The commands of this project; `make` lists them. Each sets up what it needs first.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
# uv installs what is needed in half a minute; where it is missing, pip fetches it for this project.
UV := $(shell command -v uv 2>/dev/null || echo .cache/uv/bin/uv)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench

help:  ## List the commands
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  Options:  ARGS=\"...\"  for demo, test and bench;  PYTHON=python3.13  for setup"

setup: $(READY)  ## Install everything into .venv

demo: $(READY)  ## See a model learn from a stream: embedded Kafka and Redis, all roles
	$(BIN)/mindstream demo $(ARGS)

test: $(READY)  ## Run all tests; those that need Java, Maven or data are skipped without them
	$(BIN)/python -m pytest $(ARGS)

check: $(READY)  ## Lint, format, types and imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(READY)  ## Rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Run the benchmarks of benchmarks/; ARGS=--quick takes minutes
	@for file in $$(grep -l __main__ benchmarks/[a-z]*.py); do \
		name=$$(basename "$$file" .py); echo "== $$name"; \
		$(BIN)/python -m "benchmarks.$$name" $(ARGS) || test "$$name $$?" = "gpu 2" || exit 1; \
	done

$(READY): pyproject.toml constraints.txt | $(UV)
	@echo "installing into $(VENV): about 6 GB, half a minute on a fast network"
	@test -x $(BIN)/python || $(UV) venv --quiet --python "$(PYTHON)" $(VENV)
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python \
		-c constraints.txt -e . --group dev
	@touch $@

.cache/uv/bin/uv:
	$(PYTHON) -m venv .cache/uv
	.cache/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
