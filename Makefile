PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

# tests start the program some hundred times, which would compile it each time
unexport PYTHONDONTWRITEBYTECODE

TESTS = $(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

.PHONY: demo test check docs bench bench-all help test-all lint types coverage accuracy fuzz cli-docs wheel package clean

demo: $(VENV)/installed        ## set everything up and predict the examples
	$(BIN)/crystalpredict predict examples --format table

test: $(VENV)/installed-dev    ## run the tests, but for the slow ones
	$(TESTS) -m "not slow"

check: lint types test docs    ## what must pass before a change lands: style, types, tests, docs

docs: cli-docs                 ## docs/cli.md from the commands, then the site in build/docs; a broken link fails
	rm -rf build/docs docs/generated
	$(BIN)/python -m sphinx -b html -n -W --keep-going -q docs build/docs

bench: $(VENV)/installed-dev   ## speed as ratios, in five minutes, and what changed since the last record
	$(BIN)/python benchmarks/short.py

bench-all: $(VENV)/installed-dev ## where the time goes, on a folder of CIFs: make bench-all CIFS=folder
	$(BIN)/python benchmarks/speed.py $(CIFS)

help:                          ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' Makefile | expand -t 12

test-all: $(VENV)/installed-dev ## run all tests: also cycles of killing and resuming, and long fuzzing
	$(TESTS)

lint: $(VENV)/installed-dev    ## style and import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/installed-dev   ## mypy, strict, on src
	$(BIN)/mypy

coverage: $(VENV)/installed-dev ## run the tests and list the lines that none of them runs
	$(TESTS) --cov --cov-report=term-missing --cov-report=html

accuracy: $(VENV)/installed    ## errors of the bundled model on labelled crystals: make accuracy DATA=table
	$(BIN)/crystalpredict evaluate $(DATA) --format table

fuzz: $(VENV)/installed-dev    ## damaged files by the hundred thousand: make fuzz COUNT=1000 SEED=7 FROM=folder
	$(BIN)/python -m tests.fuzz --count $(or $(COUNT),100000) --seed $(or $(SEED),0) $(FROM)

cli-docs: $(VENV)/installed-dev ## docs/cli.md alone
	$(BIN)/python scripts/cli_docs.py

wheel: $(VENV)/installed-dev   ## build the sdist, and the wheel from it, in dist
	rm -rf dist
	$(BIN)/python -m build

package: wheel                 ## install the wheel into a clean environment, check it, and predict an example
	rm -rf build/clean
	$(PYTHON) -m venv build/clean
	build/clean/bin/pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd build/clean && bin/crystalpredict doctor && bin/crystalpredict predict $(CURDIR)/examples/NaCl.cif

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:                         ## remove the environment and everything that was built
	rm -rf $(VENV) dist build docs/generated htmlcov .coverage* .pytest_cache .mypy_cache .ruff_cache
