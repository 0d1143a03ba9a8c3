# The verbs of this repository; plain `make` lists them. Everything is made inside the checkout: .venv and .venv-kserve.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
KSERVE_VENV ?= .venv-kserve
AUDIT_VENV ?= .venv-audit
ARGS ?=

BIN := $(VENV)/bin
PIP_VERSION := 26.3
PIP_AUDIT_VERSION := 2.10.1
TORCH := $(shell grep '^torch==' constraints.txt)
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

# One thread per process: the daemon sizes its own pool, and tests must not fight over cores.
TEST_ENV := OMP_NUM_THREADS=1 BATCHD_KSERVE_PYTHON=$(abspath $(KSERVE_VENV))/bin/python
# Tests without processes or sockets of their own share the cores; the others would be in each other's way.
FAST_TESTS := tests/unit tests/property tests/simulation
SLOW_TESTS := $(filter-out $(FAST_TESTS) tests/support tests/__pycache__,$(patsubst %/,%,$(wildcard tests/*/)))
PARALLEL := -n auto --dist loadfile

# Stamps lie inside the environments, so that removing one removes what is known about it.
HAS_PIP := $(VENV)/.has-pip
HAS_TORCH := $(VENV)/.has-torch
HAS_DEMO := $(VENV)/.has-demo
HAS_DEV := $(VENV)/.has-dev
HAS_KSERVE := $(KSERVE_VENV)/.has-kserve
HAS_AUDIT := $(AUDIT_VENV)/.has-audit-$(PIP_AUDIT_VERSION)

define say
@printf '\n==> %s\n' "$(1)"
endef

# A fresh environment in $(1). Where the system's Python comes without ensurepip, the system's pip installs into it.
define make_venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "batchd needs Python 3.11 or newer: make PYTHON=... ")'
$(PYTHON) -m venv --clear $(1) || { $(PYTHON) -m venv --clear --without-pip $(1) && $(PYTHON) -m pip --python $(1)/bin/python install pip; }
$(1)/bin/python -m pip install --disable-pip-version-check --quiet pip==$(PIP_VERSION)
endef

.PHONY: help install demo serve format lint type imports audit check test bench docs-check docker-check fuzz conformance lock wheel clean

help:  ## List the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'

# ---- environments ----------------------------------------------------------------------------------------------------

$(HAS_PIP):
	$(call say,Making $(VENV))
	$(call make_venv,$(VENV))
	@touch $@

# First and alone, so that no other requirement can choose another build of it.
$(HAS_TORCH): constraints.txt $(HAS_PIP)
	$(call say,Installing $(TORCH): the largest download)
	$(INSTALL) setuptools $(TORCH)
	@touch $@

$(HAS_DEMO): pyproject.toml constraints.txt $(HAS_TORCH)
	$(call say,Installing batchd with what the demonstration needs)
	$(INSTALL) --no-build-isolation -e '.[server,demo,plot]'
	@touch $@

$(HAS_DEV): pyproject.toml constraints.txt $(HAS_TORCH)
	$(call say,Installing batchd with everything for development)
	$(INSTALL) --no-build-isolation -e '.[dev,fuzz]'
	@touch $(HAS_DEMO) $@

$(HAS_KSERVE): constraints-kserve.txt
	$(call say,Making $(KSERVE_VENV) for the tests of the kserve client)
	$(call make_venv,$(KSERVE_VENV))
	$(KSERVE_VENV)/bin/python -m pip install --disable-pip-version-check -c constraints-kserve.txt kserve
	@touch $@

$(HAS_AUDIT): | $(HAS_PIP)
	$(call say,Making $(AUDIT_VENV) for the audit of dependencies)
	$(PYTHON) -m venv --clear --without-pip $(AUDIT_VENV)
	$(BIN)/python -m pip --python $(AUDIT_VENV)/bin/python install --disable-pip-version-check --quiet \
	    pip-audit==$(PIP_AUDIT_VERSION)
	@touch $@

install: $(HAS_DEV)  ## Make .venv and install everything for development
	@echo "Ready: $(BIN)/batchd --help"

# ---- using it --------------------------------------------------------------------------------------------------------

demo: $(HAS_DEMO)  ## Start the daemon, send it real traffic, train a model meanwhile, print a report, stop it
	$(call say,Running the demonstration)
	@$(BIN)/batchd demo $(ARGS)

serve: $(HAS_DEMO)  ## Run the daemon in the foreground, e.g. make serve ARGS='--port 9000'
	@$(BIN)/batchd serve $(ARGS)

# ---- checking it -----------------------------------------------------------------------------------------------------

format: $(HAS_DEV)  ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(HAS_DEV)  ## Check style and formatting
	$(call say,Checking style)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(HAS_DEV)  ## Check types: mypy on all, basedpyright on the core and the clients
	$(call say,Checking types)
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python

imports: $(HAS_DEV)  ## Check that imports run one way
	$(call say,Checking the direction of imports)
	$(BIN)/lint-imports

audit: $(HAS_AUDIT)  ## Ask whether pinned dependencies have known vulnerabilities
	$(call say,Auditing the dependencies)
	@$(AUDIT_VENV)/bin/python deploy/audit.py constraints.txt constraints-kserve.txt

check: lint type imports  ## Everything that is quick: lint, type, imports, fast tests
	$(call say,Running the fast tests)
	$(TEST_ENV) $(BIN)/pytest -q $(PARALLEL) -m 'not slow' $(FAST_TESTS) $(ARGS)

test: $(HAS_DEV) $(HAS_KSERVE) lint type imports audit  ## Everything: installs if needed, then check and every test
	$(call say,Running every test)
	$(TEST_ENV) $(BIN)/pytest $(PARALLEL) $(FAST_TESTS) $(ARGS)
	$(TEST_ENV) $(BIN)/pytest --durations=60 $(SLOW_TESTS) $(ARGS)

docs-check: $(HAS_DEV)  ## Check that the docs are linked and that the README's commands run
	$(TEST_ENV) $(BIN)/pytest -q tests/unit/test_layout_docs.py tests/integration/test_readme_commands.py

docker-check:  ## Check docker-compose.yml with the docker client
	docker compose --profile cpu --profile gpu config --quiet

fuzz: $(HAS_DEV)  ## Look for defects in the decoders for longer than the tests do, e.g. make fuzz ARGS=-runs=10000000
	mkdir -p var/fuzz
	cd var/fuzz && OMP_NUM_THREADS=1 $(abspath $(BIN))/python $(CURDIR)/tests/fuzz/fuzz_decoders.py -runs=3000000 $(ARGS) .

conformance: $(HAS_DEV)  ## Hold a daemon against its OpenAPI description with many cases and another seed each time
	BATCHD_CONFORMANCE_EXAMPLES=300 BATCHD_CONFORMANCE_SEED=$$RANDOM $(TEST_ENV) \
	    $(BIN)/pytest -q tests/integration/test_openapi_conformance.py $(ARGS)

bench: $(HAS_DEV)  ## Run the benchmarks of docs/performance.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/text_saturation.py $(ARGS)
	$(BIN)/python benchmarks/decision_cost.py

# ---- packaging -------------------------------------------------------------------------------------------------------

wheel: $(HAS_DEV)  ## Build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation

lock: $(HAS_PIP)  ## Choose the newest versions again and write both constraints files
	$(call say,Resolving the newest versions in .venv-lock)
	$(call make_venv,.venv-lock)
	.venv-lock/bin/python -m pip install '$(TORCH)' '.[dev,fuzz]'
	{ sed -n '/^#/p' constraints.txt; .venv-lock/bin/python -m pip freeze --all --exclude pip --exclude batchd \
	    | sed 's/+cpu$$//' | sort -f; } > constraints.txt.new
	$(call make_venv,.venv-lock)
	.venv-lock/bin/python -m pip install kserve
	{ sed -n '/^#/p' constraints-kserve.txt; .venv-lock/bin/python -m pip freeze --all --exclude pip | sort -f; } > constraints-kserve.txt.new
	mv constraints.txt.new constraints.txt
	mv constraints-kserve.txt.new constraints-kserve.txt
	rm -rf .venv-lock

clean:  ## Remove environments, caches and build products
	rm -rf $(VENV) $(KSERVE_VENV) $(AUDIT_VENV) .venv-lock build dist *.egg-info demo-report htmlcov .coverage*
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
