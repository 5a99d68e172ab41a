# Works in any folder: recipes use paths relative to this one, so that spaces in its own path do no harm.
# Variables reach the programs through the environment, whether they stand on the command line or in it;
# `.venv/bin/python -m devcluster --help` lists them.

SHELL = /bin/sh
.DEFAULT_GOAL = help

# The Python that .venv is made with; left empty, the first in PATH that is new enough.
PYTHON =
VENV = .venv/bin/python
# Of the test suite; each has clusters of its own. More than there are cores only makes them wait for each other.
TEST_PROCESSES ?= 2

# Makes .venv and installs files of requirements/; does nothing where that has been done.
INSTALL = @for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.14 python); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    exec "$$python" devcluster/bootstrap_venv.py $(1); \
	  fi; \
	done; \
	echo "make: $(if $(PYTHON),PYTHON=$(PYTHON) is no,there is no) Python 3.11 or newer: set PYTHON to one" >&2; exit 1

.PHONY: help up down clean psql test bench check

help: ## one line for each target
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile

up: ## start the servers and the service, in the foreground (PORT, VAR, CLUSTER_PORT, OPERATOR_TOKEN, SEED=0)
	$(call INSTALL,runtime.txt speed.txt)
	@exec $(VENV) -m devcluster up

down: ## stop whatever a make up left running
	@test ! -x $(VENV) || exec $(VENV) -m devcluster down

clean: ## make down, then delete the data folder
	@test ! -x $(VENV) || exec $(VENV) -m devcluster clean

psql: ## psql on a node: NODE=shard-0-primary, shard-1-b, ...; more arguments for psql in PSQL_ARGS
	@exec $(VENV) -m devcluster psql "$(or $(NODE),shard-0-primary)"

test: ## the whole test suite, on throw-away clusters; TEST_PROCESSES at once, more arguments for pytest in PYTEST_ARGS
	$(call INSTALL,dev.txt speed.txt)
	@exec $(VENV) -m pytest -n $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

bench: ## the benchmark, on a cluster of its own (RATE, DURATION, STAGES, ROUNDS; BENCH_ARGS=--help lists all)
	$(call INSTALL,bench.txt speed.txt)
	@exec $(VENV) -m bench.run $(BENCH_ARGS)

check: ## formatter, linter, types, spelling, direction of imports, house rules
	$(call INSTALL,dev.txt)
	$(VENV) -m ruff format --check .
	$(VENV) -m ruff check .
	$(VENV) -m mypy .
	.venv/bin/codespell
	$(VENV) -m pytest -q tests/unit/test_imports.py tests/unit/test_house_rules.py
