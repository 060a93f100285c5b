PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint types check accuracy bench fuzz docs wheel clean

demo: $(VENV)/installed        ## set everything up and predict the examples
	$(BIN)/crystalpredict predict examples --format table

test: $(VENV)/installed-dev    ## run the tests
	$(BIN)/pytest -n auto --maxprocesses 8 --dist loadscope

lint: $(VENV)/installed-dev    ## style and import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/installed-dev   ## mypy, strict, on src
	$(BIN)/mypy

check: lint types test

accuracy: $(VENV)/installed    ## errors of the bundled model on labelled crystals: make accuracy DATA=table
	$(BIN)/crystalpredict evaluate $(DATA) --format table

bench: $(VENV)/installed-dev   ## where the time goes, on a folder of CIFs: make bench CIFS=folder
	$(BIN)/python benchmarks/speed.py $(CIFS)

fuzz: $(VENV)/installed-dev    ## damaged files by the hundred thousand: make fuzz COUNT=1000 SEED=7 FROM=folder
	$(BIN)/python -m tests.fuzz --count $(or $(COUNT),100000) --seed $(or $(SEED),0) $(FROM)

docs: $(VENV)/installed-dev    ## docs/cli.md, from the commands
	$(BIN)/python scripts/cli_docs.py

wheel: $(VENV)/installed-dev
	$(BIN)/python -m build --wheel

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
