# The commands of this repository; `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PY := .venv/bin/python
# Time that `make test` may take after set-up, in seconds; it fails beyond 1.5 times this.
TEST_BUDGET_S ?= 1320
# The same of what `make test-all` runs beyond it.
FULL_BUDGET_S ?= 3000
# Where set-up keeps what it fetches; exported so that sudo, which changes HOME, finds it again.
export TIDEGATE_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tidegate
export KEEP

STAGES := $(PY) -m tests.stages --budget-s $(TEST_BUDGET_S)
WITH_DOCKER := cluster/setup/with-docker.sh $(PY) -m cluster.servers.with_docker
# Half of a unit test is waiting.
PYTEST_UNIT := $(PY) -m pytest -q -n 3 -m "not real and not full and not infra and not fleet"
# Fleets in virtual time: all processor, no servers. Beside the others, which mostly wait.
PYTEST_FLEET := $(PY) -m pytest -q -n 2 -m "fleet and not full" --timeout 900
# AWS played by moto, and cfn-lint: nothing waits for Docker.
PYTEST_INFRA := $(PY) -m pytest -q -n 2 --dist loadfile -m "infra and not real and not full"
# What mostly waits runs three at a time; what sends traffic two, each with hosts and servers of its own.
PYTEST_SHARED := $(PY) -m pytest -q -n 3 --dist loadfile -m "real and not full and not traffic"
PYTEST_TRAFFIC := $(PY) -m pytest -q -n 2 --dist worksteal -m "real and not full and traffic and not cluster"
# Six machines with systemd, twice: the tests mostly wait.
PYTEST_CLUSTER := $(PY) -m pytest -q -n 2 --dist worksteal -m "cluster and not full"
LOCK := uv pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
	$(if $(UPGRADE),--upgrade)
# A warning is an error; each page is read again, for a link may be broken by a change of another page.
SPHINX := $(PY) -m sphinx -q -E -W --keep-going -c docs
# The cluster's faults take as long as all the rest, and mostly wait: thousands of simulated rollouts run beside them.
PYTEST_FULL := $(PY) -m pytest -q -n 2 --dist loadfile -m "full and real" --timeout 900
PYTEST_FULL_SIM := $(PY) -m pytest -q -n 2 -m "full and not real" --timeout 3600

.PHONY: help setup venv demo demo-host cluster cluster-down cluster-scale test test-all check lint unit docs hooks lock simulate bench clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing for demo and test (both do this first)
	@cluster/setup/setup.sh

venv:
	@cluster/setup/setup.sh venv

demo: setup ## deploy to three hosts under traffic and print the verdict; KEEP=1 leaves it running
	@cluster/setup/with-docker.sh $(PY) -m cluster.demo.fleet

demo-host: setup ## the same on one host, without machines of its own: quicker
	@cluster/setup/with-docker.sh $(PY) -m cluster.demo.one_host

cluster: setup ## bring up the local cluster, N=3 hosts, and say how to use it
	@cluster/setup/with-docker.sh $(PY) -m cluster up $(or $(N),3)

cluster-scale: venv ## have N hosts in the cluster while it runs
	@cluster/setup/with-docker.sh $(PY) -m cluster scale $(or $(N),3)

cluster-down: venv ## remove the cluster
	@cluster/setup/with-docker.sh $(PY) -m cluster down

check: venv ## format, lint, types, import layers, docs, unit tests (under 90 s, no servers)
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint unit

lint: venv ## the part of check that runs no test
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(SPHINX) -b dummy . build/docs-check

unit: venv ## the part of check that runs the unit tests
	@$(PYTEST_UNIT)

test: setup ## check, then everything on the real servers
	@$(STAGES) "check=$(MAKE) --no-print-directory check" 'fleet&=$(PYTEST_FLEET)' 'infra=$(PYTEST_INFRA)' \
		'shared=$(WITH_DOCKER) $(PYTEST_SHARED)' 'traffic=$(WITH_DOCKER) $(PYTEST_TRAFFIC)' \
		'cluster=$(WITH_DOCKER) $(PYTEST_CLUSTER)'

test-all: test ## test, then the long runs
	@$(PY) -m tests.stages --budget-s $(FULL_BUDGET_S) \
		'simulations&=env HYPOTHESIS_PROFILE=random $(PYTEST_FULL_SIM)' \
		'full=$(WITH_DOCKER) env HYPOTHESIS_PROFILE=random $(PYTEST_FULL)'

simulate: venv ## simulate rollouts under faults: SEEDS=300, from FIRST=0, on HOSTS hosts, by JOBS processes
	@$(PY) -m tests.sim.simulate --seeds $(or $(SEEDS),300) --first $(or $(FIRST),0) --jobs $(or $(JOBS),1) \
		$(if $(HOSTS),--hosts $(HOSTS))

bench: ## measure speed and memory
	@cluster/setup/setup.sh bench
	@cluster/setup/with-docker.sh $(PY) -m bench

docs: venv ## build the documentation site into build/docs
	@$(SPHINX) -b html . build/docs
	@echo "build/docs/index.html"

hooks: venv ## run the quick part of check before each commit
	@.venv/bin/prek install

lock: ## lock what pyproject.toml asks for (needs uv); UPGRADE=1 takes the newest releases
	@$(LOCK) --group dev -o requirements-dev.lock pyproject.toml
	@# What is installed on hosts is what was tested: these are parts of the first.
	@$(LOCK) -c requirements-dev.lock -o requirements.lock pyproject.toml
	@$(LOCK) -c requirements-dev.lock -o requirements-infra.lock --group infra
	@$(LOCK) -c requirements-dev.lock -o requirements-build.lock --group build

clean: ## remove caches and the virtual environment (not what was installed)
	@rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
