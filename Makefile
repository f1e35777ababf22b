# Each target does its own set-up in .venv; the second run is quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs

.PHONY: demo test lint types site docs bench clean

$(STAMP): pyproject.toml
	@echo "== Setting up $(VENV) (first run: a few minutes, mostly downloading JAX)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gplsq needs Python 3.11 or newer; call make with PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,plot]'
	@touch $(STAMP)

$(DOCS_STAMP): $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $(DOCS_STAMP)

demo: $(STAMP)
	@echo "== Fitting a Gaussian process to scikit-learn's diabetes data (examples/quickstart.py)"
	@$(BIN)/python examples/quickstart.py

lint: $(STAMP)
	@echo "== Linter (ruff)"
	@$(BIN)/ruff check gplsq tests examples benchmarks docs/_site
	@$(BIN)/ruff format --check --quiet gplsq tests examples benchmarks docs/_site

types: $(STAMP)
	@echo "== Type checker (pyright)"
	@$(BIN)/pyright --pythonpath $(BIN)/python gplsq

test: $(STAMP) lint types site
	@echo "== Tests, x64 on"
	@GPLSQ_X64=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --ignore tests/docs \
		--ignore tests/estimators/test_sklearn_contract.py
	@echo "== Tests, x64 off, with scikit-learn's checks and what documents show"
	@GPLSQ_X64=0 $(BIN)/python -m pytest -q -n 2 --dist loadfile --ignore tests/distributed

site: $(DOCS_STAMP)
	@echo "== Documentation site (warnings are errors): build/site/index.html"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build

docs: $(STAMP) site
	@echo "== Examples in docstrings and documents"
	@$(BIN)/python -m pytest -q tests/docs

bench: $(STAMP)
	@echo "== Benchmark on UCI sets (see benchmarks/README.md for the data)"
	@$(BIN)/python benchmarks/uci.py

clean:
	rm -rf $(VENV)
