# Everything runs in ./.venv, made from pyproject.toml and constraints.txt. A fresh machine needs Python, make and a compiler.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Workers of `make reproduce`, a core each: matrices of a batch are too small to gain much from a second thread.
JOBS ?= 2
ARGS ?=
# A thread a worker. Bytecode is kept, whatever the machine's settings: each process would compile the source again.
TESTS := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=
PYTEST := -m pytest -n 2 --dist worksteal

.PHONY: help install dev reproduce test test-full test-all test-minimum check lint docs results bench published release-check clean

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'

# What a run needs; the tests' own packages come with the first `make test` or `make lint`.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[app,extract,log,serve]"
	@touch $@

# Every extra but the two for other machines (docs, backbones), so that no test skips for want of one.
$(VENV)/dev: $(VENV)/installed
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[dev,app,extract,log,serve,export,heif,raw,hub,cluster,backbones]"
	@touch $@

install: $(VENV)/installed ## make the virtual environment

dev: $(VENV)/dev ## install what tests and linters need, too

reproduce: install ## train and score five methods on the embedded sample, offline -> runs/sample/
	$(BIN)/udmsh reproduce experiments/sample.yaml --jobs $(JOBS) $(ARGS)

reproduce-%: install ## a benchmark or the comparison: cifar10, nuswide, mirflickr, coco, compare -> runs/
	$(BIN)/udmsh reproduce experiments/$*.yaml $(ARGS)

published: install ## shallow methods on CIFAR-10 as public code runs them, ours beside theirs (ARGS="--cifar10 DIR")
	$(BIN)/python scripts/published.py --cifar10 datasets --cache runs/published/gist.npy $(ARGS)

test: dev ## run the tests (under 10 minutes)
	$(TESTS) $(BIN)/python $(PYTEST) -m "not slow" $(ARGS)

test-all: dev ## run the slow tests too
	$(TESTS) $(BIN)/python $(PYTEST) $(ARGS)

test-full: dev ## `make test`, but a skip fails unless tests/skips.txt lists its reason; wants Chromium
	$(TESTS) $(BIN)/python $(PYTEST) -m "not slow" --no-skips $(ARGS)

$(VENV)-minimum/installed: pyproject.toml constraints-minimum.txt
	$(PYTHON) -m venv $(VENV)-minimum
	$(VENV)-minimum/bin/pip install --disable-pip-version-check --quiet -c constraints-minimum.txt -e ".[dev,app,extract,log,serve]"
	@touch $@

test-minimum: $(VENV)-minimum/installed ## the tests with the lowest versions of pyproject.toml (Python 3.10 or 3.11)
	$(TESTS) $(VENV)-minimum/bin/python $(PYTEST) -m "not slow" $(ARGS)

lint: dev ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test ## what CI runs

$(VENV)/docs: $(VENV)/installed
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[docs]"
	@touch $@

docs: $(VENV)/docs ## the site -> build/site/index.html, strictly and without network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

results: install ## write the tables of the pages anew from results/*.csv (scripts/collect_results.py fills them)
	$(BIN)/python -m scripts.render_results $(ARGS)

bench: install ## time and memory beside others, minutes a script -> benchmarks/results/; other scripts: pictures or hours
	for name in encoding evaluation processes scaling training; do $(BIN)/python benchmarks/$$name.py || exit 1; done

release-check: dev ## build sdist and wheel, check their metadata, run the wheel alone
	rm -rf dist
	$(BIN)/pip install --disable-pip-version-check --quiet build twine
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m pytest tests/integration/test_wheel.py

clean: ## remove the virtual environment and caches (runs/ stays)
	rm -rf $(VENV) $(VENV)-minimum .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
