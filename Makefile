# Two commands on a fresh machine: `make demo` and `make test`. Each makes .venv if it is absent.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e
NEEDS  := pyproject.toml constraints.txt

.PHONY: demo test test-slow setup lint style types bench notebooks notebooks-quick docs audit attack compat compat-torch flower flower-full flower-bench federation nvflare ray first-hour tracking cli package release clean

demo: $(VENV)/.demo ## train across ten hospitals, with privacy
	$(BIN)/privfl demo

test: $(VENV)/.all ## the test suite
	$(BIN)/python -m pytest -n 2 --ignore tests/notebooks

test-slow: $(VENV)/.all ## MNIST, kill tests, long fuzzing, statistics
	$(BIN)/python -m pytest -n 2 -m slow --timeout 3600

setup: $(VENV)/.all ## everything installed, nothing run

lint: $(VENV)/.all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

style: $(VENV)/.all ## list the words that break a rule of tests/style.py
	$(BIN)/python -m tests.style

types: $(VENV)/.all
	$(BIN)/mypy

bench: $(VENV)/.all
	$(BIN)/python -m pytest benchmarks --benchmark-json=benchmarks/results/latest.json -p no:xdist

notebooks: $(VENV)/.all
	$(BIN)/python -m notebooks.build

notebooks-quick: $(VENV)/.all
	$(BIN)/python -m pytest -n 2 tests/notebooks

docs: $(VENV)/.all
	$(BIN)/sphinx-build -W -b html docs docs/_build/html

audit: $(VENV)/.all ## the tables of docs/audit.md: many audits, and audits of planted faults
	$(BIN)/python -m tools.audit_page

attack: $(VENV)/.all ## the tables and the picture of docs/attack.md
	$(BIN)/python -m tools.attack_page

compat: $(VENV)/.release ## part of the suite with lowest and newest versions, and on the newest Python
	$(BIN)/python -m tools.compat

compat-torch: $(VENV)/.release ## the adapters with the lowest versions; downloads torch
	$(BIN)/python -m tools.compat lowest-torch

flower: | $(BIN)/python ## the Flower adapter, in an environment of its own
	$(BIN)/python -m tools.flower

flower-full: | $(BIN)/python ## all tests of the Flower adapter: torch, Flower's simulation, 200 rounds in trouble
	$(BIN)/python -m tools.flower full

flower-bench: | $(BIN)/python ## a round through Flower in one process: at most 1.5 times run_round
	$(BIN)/python -m tools.flower bench

federation: | $(BIN)/python ## five hospitals and a server over Flower on loopback, with TLS, kills and restarts
	$(BIN)/python -m tools.flower federation $(if $(DATA),--data $(DATA))

ray: | $(BIN)/python ## the Ray executor, in an environment of its own
	$(BIN)/python -m tools.ray

nvflare: | $(BIN)/python ## the NVFlare adapter, in an environment of its own
	$(BIN)/python -m tools.nvflare

first-hour: $(VENV)/.release ## the tutorial from an empty folder: the wheel with the newest versions, timed
	$(BIN)/python -m tools.first_hour

tracking: | $(BIN)/python ## the recipes for TensorBoard and MLflow, in an environment of their own
	$(BIN)/python -m venv build/tracking
	build/tracking/bin/python -m pip install --quiet '.[demo,test]' tensorboard mlflow
	build/tracking/bin/python -m pytest -p no:cacheprovider -n 0 tests/architecture/test_documents.py -k tracking

cli: $(VENV)/.all ## docs/cli.md from the commands
	$(BIN)/python -m tools.cli_page

package: $(VENV)/.release ## wheel and source archive, each installed where nothing else is
	$(BIN)/python -m tools.package

release: $(VENV)/.release ## dist/: archives, requirements with hashes, bill of materials, checksums
	$(BIN)/python -m tools.release

clean:
	rm -rf $(VENV) build dist *.egg-info docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(NEEDS) | $(BIN)/python
	$(PIP) '.[demo]'
	touch $@

$(VENV)/.all: $(NEEDS) | $(BIN)/python
	$(PIP) '.[all]'
	touch $@ $(VENV)/.demo

$(VENV)/.release: $(NEEDS) | $(BIN)/python
	$(PIP) '.[release]'
	touch $@
