# Each target does its own set-up in .venv; the second run is quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
# The versions that tests and documents run with.
LOCK := tests/release/locked.txt
# Setuptools warns of editable installations, at length.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check
OTHER := .venv-other
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile
REGRESSOR := $(wildcard tests/estimators/test_regressor_*.py)
QUICK := tests/solvers/test_lstsq_api.py tests/operators tests/kernels tests/contracts \
	$(REGRESSOR) tests/estimators/test_classifier.py \
	$(wildcard tests/estimators/test_saving*.py) tests/estimators/test_sklearn_contract.py \
	tests/tuning/test_loop.py tests/constraints/test_methods.py

# Estimators switch x64 themselves, by the dtype of X: most of their tests run once, with x64 off,
# as do documents and examples.
ONE_MODE := tests/docs tests/plotting tests/properties/test_estimator_properties.py \
	tests/properties/test_table_layouts.py tests/properties/test_low_rank_properties.py \
	$(filter-out $(REGRESSOR) $(addprefix tests/estimators/,test_bad_input.py test_odd_tables.py \
	test_failed_solves.py),$(wildcard tests/estimators/test_*.py))

# Processes with eight devices, minutes of compilation; and a process for each example.
PROCESSES := tests/distributed tests/properties/test_mesh_properties.py tests/docs/test_examples.py

# What documents promise: random cases, verdicts of the solver, oracles of derivatives and low-rank
# models, runs and files that are killed or changed. Of these CI runs the slow ones too.
PROMISES := tests/properties/test_kernel_properties.py tests/properties/test_lstsq_properties.py \
	tests/solvers/test_zoo.py tests/tuning/test_checkpoint.py tests/gp/test_low_rank_posterior.py \
	tests/gp/test_laplace_derivatives.py
PROMISES_OF_ESTIMATORS := tests/properties/test_estimator_properties.py \
	tests/properties/test_table_layouts.py tests/estimators/test_faults.py \
	tests/estimators/test_saving_writes.py

.PHONY: demo test test-rest test-all slow-tests lint types site docs bench dist lock lowest newest peers kills clean

$(STAMP): pyproject.toml $(LOCK)
	@echo "== Setting up $(VENV) (first run: a few minutes, mostly downloading JAX)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gplsq needs Python 3.11 or newer; call make with PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip
	@$(PIP) --constraint $(LOCK) --editable '.[test,plot]'
	@touch $(STAMP)

$(DOCS_STAMP): $(STAMP)
	@$(PIP) --constraint $(LOCK) --editable '.[docs]'
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

# What a newcomer runs: every test once, but those of tests/slow.txt, of many devices, and examples.
test: MARKED := -m "not slow"
test: $(STAMP) lint types site
	@echo "== Tests, x64 on"
	@GPLSQ_X64=1 $(PYTEST) $(MARKED) $(addprefix --ignore ,$(ONE_MODE) $(PROCESSES))
	@echo "== Estimators, contracts and what documents show, x64 off"
	@GPLSQ_X64=0 $(PYTEST) $(MARKED) $(ONE_MODE) tests/contracts $(addprefix --ignore ,$(PROCESSES))

# CI runs it after `test`.
test-rest: MARKED := -m "not slow"
test-rest: $(STAMP)
	@echo "== Several devices, and examples"
	@GPLSQ_X64=1 $(PYTEST) $(MARKED) $(PROCESSES)
	@echo "== The other tests, x64 off"
	@GPLSQ_X64=0 $(PYTEST) $(MARKED) --ignore tests/distributed --ignore tests/contracts \
		--ignore tests/architecture $(addprefix --ignore ,$(ONE_MODE))
	@echo "== Slow tests of what documents promise"
	@GPLSQ_X64=1 $(PYTEST) -m slow $(PROMISES)
	@GPLSQ_X64=0 $(PYTEST) -m slow $(PROMISES_OF_ESTIMATORS)

test-all: $(STAMP) lint types site
	@echo "== All tests, x64 on"
	@GPLSQ_X64=1 $(PYTEST) $(addprefix --ignore ,$(ONE_MODE))
	@echo "== All tests, x64 off"
	@GPLSQ_X64=0 $(PYTEST) --ignore tests/distributed

# Where durations have changed: the list is of a run on a quiet machine.
slow-tests: $(STAMP)
	@mkdir -p build
	@$(MAKE) --no-print-directory test-all PYTEST_ADDOPTS="--durations=0 --durations-min=0.1" | \
		tee build/durations.log
	@$(BIN)/python tests/release/list_slow.py build/durations.log > tests/slow.txt

site: $(DOCS_STAMP)
	@echo "== Documentation site (warnings are errors): build/site/index.html"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build

docs: $(STAMP) site
	@echo "== Examples in docstrings and documents"
	@$(BIN)/python -m pytest -q tests/docs

bench: $(STAMP)
	@echo "== Benchmark on UCI sets (see benchmarks/README.md for the data)"
	@$(BIN)/python benchmarks/uci.py

dist: $(STAMP)
	@echo "== Wheel and source distribution: dist/, each tried in an empty environment"
	@$(PIP) --constraint $(LOCK) --editable '.[release]'
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist . >/dev/null
	@$(BIN)/python tests/release/check_dist.py dist --pyright $(abspath $(BIN))/pyright --tests $(QUICK)

lock: $(DOCS_STAMP)
	@$(PIP) --upgrade --editable '.[test,plot,docs,release]'
	@{ sed '/^[^#]/,$$d' $(LOCK); $(BIN)/python -m pip freeze --exclude-editable; } > $(LOCK).new
	@mv $(LOCK).new $(LOCK)

# By hand, or on a schedule: nothing here changes when other packages do.
lowest newest:
	@echo "== Quick tests with the $@ versions that pyproject.toml allows"
	@rm -rf $(OTHER) && $(PYTHON) -m venv $(OTHER)
	@$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check uv
	@$(OTHER)/bin/python -m uv pip install --quiet --python $(OTHER)/bin/python --editable . \
		--resolution $(if $(filter lowest,$@),lowest-direct,highest)
	@$(OTHER)/bin/python -m uv pip install --quiet --python $(OTHER)/bin/python \
		pytest pytest-xdist pytest-timeout hypothesis matplotlib
	@$(OTHER)/bin/python -m uv pip list --quiet --python $(OTHER)/bin/python | \
		grep -E '^(jax|jaxlib|equinox|optax|scikit-learn|numpy|scipy|matfree) '
	@GPLSQ_X64=1 $(OTHER)/bin/python -m pytest -q -n 2 --dist loadfile -W ignore::DeprecationWarning $(QUICK)

# Likewise. A skip would hide what this is for.
peers:
	@echo "== Code for and beside PyTorch, GPyTorch and Cooper, with them installed"
	@rm -rf $(OTHER) && $(PYTHON) -m venv $(OTHER)
	@$(OTHER)/bin/python -m pip install --quiet --disable-pip-version-check uv
	@$(OTHER)/bin/python -m uv pip install --quiet --python $(OTHER)/bin/python \
		--constraint $(LOCK) --editable '.[test,docs,torch]' gpytorch cooper-optim
	@mkdir -p build
	@GPLSQ_X64=1 $(OTHER)/bin/python -m pytest -q -n 2 --dist loadfile -rs tests/interop/test_torch.py \
		tests/interop/test_torch_refusals.py tests/docs/test_coming_from.py tests/docs/test_site.py \
		| tee build/peers.log
	@! grep -E '^(SKIPPED|FAILED|ERROR)' build/peers.log
	@grep -q ' passed' build/peers.log

kills: $(STAMP)
	@echo "== Runs that are killed at random times, twenty each, and go on"
	@GPLSQ_HYPOTHESIS=long $(BIN)/python -m pytest -q tests/tuning/test_checkpoint.py -k killed

clean:
	rm -rf $(VENV) $(OTHER)
