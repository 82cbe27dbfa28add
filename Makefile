# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UPSTREAM := .venv-upstream
MMSEG_TESTS := $(shell grep -l "mmseg\|mmengine\|trainings" tests/test_*.py)
PROJECTS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml contrib/*/pyproject.toml))

.PHONY: demo test test-upstream lint lint-list clean

demo: $(STAMP)
	$(BIN)/segloss demo
	$(BIN)/segloss build

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 \
	    --dist loadscope --no-loadscope-reorder  # long single tests first, small modules at the end

# The same tests on the upstream distributions. MMCV compiles its operators: half an hour or more.
# Checkpoints of that MMEngine are pickles, which PyTorch no longer reads without being told to. Left
# out: a config imported from an editable installation, which it does not look for, and processes that
# are spawned from a test, which find the package `tests` that MMSegmentation installs.
test-upstream: $(UPSTREAM)/.installed
	OMP_NUM_THREADS=1 TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 $(UPSTREAM)/bin/python -m pytest \
	    --numprocesses auto --maxprocesses 8 --dist loadscope $(MMSEG_TESTS) \
	    --deselect tests/test_configs.py::test_a_config_in_pure_python_is_inherited_by_its_import \
	    --deselect tests/test_weighting.py::test_all_ranks_have_the_same_weights

$(UPSTREAM)/.installed: Makefile constraints.txt $(addsuffix /pyproject.toml,. $(PROJECTS))
	test -x $(UPSTREAM)/bin/python || $(PYTHON) -m venv --clear $(UPSTREAM)
	$(UPSTREAM)/bin/python -m pip install --quiet --constraint constraints.txt \
	    hatchling editables wheel ninja 'torch==2.13.0'
	$(UPSTREAM)/bin/python -m pip install --quiet --upgrade 'setuptools<81'
	$(UPSTREAM)/bin/python -m pip install --quiet --no-build-isolation \
	    mmsegmentation==1.2.2 mmengine==0.10.7 mmcv==2.1.0
	$(UPSTREAM)/bin/python -m pip install --quiet --constraint constraints.txt --no-build-isolation \
	    torchmetrics --editable '.[survey,fast,dev]' $(addprefix --editable ,$(PROJECTS))
	touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# README.md by the rules of awesome lists; needs Node.
lint-list: .ci/awesome-lint/node_modules
	node .ci/awesome-lint/lint.mjs README.md

.ci/awesome-lint/node_modules: .ci/awesome-lint/package-lock.json
	npm ci --prefix .ci/awesome-lint --ignore-scripts --no-audit --no-fund
	touch $@

clean:
	rm -rf $(VENV) segloss-demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stale when a project file, the constraints or the set of plugin folders changed. The stamp is
# written last, so an interrupted installation starts over.
$(STAMP): Makefile pyproject.toml constraints.txt plugins contrib $(addsuffix /pyproject.toml,$(PROJECTS))
	test -x $(BIN)/python || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt hatchling editables setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation \
	    --editable '.[mmseg,survey,fast,gpu,bench,dev]' $(addprefix --editable ,$(PROJECTS))
	touch $(STAMP)
