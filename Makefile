# Sparse Variational Dropout from scratch. Only Python >= 3.11 is needed; everything else goes into .venv.
#
#   make train ARGS="--recipe paper --seed 1"        options: .venv/bin/svd-numpy train --help
#   make test PYTHON=python3.12                      another Python, for a new .venv

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PYTEST = $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help train test test-only test-slow test-oldest test-newest check-package bench bench-conv bench-inference gpu-check results finite fuzz kill memory notebooks demo play site site-lite clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

train: $(VENV)/.base  ## train the sparse LeNet-300-100 (ARGS="..." are its options)
	$(BIN)/python -m svd_numpy train $(ARGS)

test: $(VENV)/.test  ## lint, format, types and fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy svd_numpy
	$(PYTEST)

test-only: $(VENV)/.test  ## the fast tests alone
	$(PYTEST)

test-slow: $(VENV)/.test  ## the tests that take minutes
	-$(PIP) --editable '.[wasm,lite,clang]'
	$(BIN)/python -m pytest -m slow

# Old packages warn of newer ones beside them, and declare other types; only those of today must be silent.
test-oldest:  ## the fast tests with the oldest packages that pyproject.toml allows, in .venv-oldest
	@mkdir -p .venv-oldest
	$(PYTHON) tests/oldest_packages.py > .venv-oldest/constraints.txt
	PIP_CONSTRAINT=$(CURDIR)/.venv-oldest/constraints.txt PYTEST_ADDOPTS="-W ignore::DeprecationWarning" \
		$(MAKE) test-only VENV=.venv-oldest

test-newest:  ## the fast tests on another Python with the newest packages, in .venv-newest (PYTHON=python3.13)
	$(MAKE) test VENV=.venv-newest

check-package:  ## build wheel and sdist, compare them with the repository, try them in fresh environments (PYTHON=...)
	$(PYTHON) tests/check_package.py

# The extra asks for plain `torch`; where pip would pick a build with CUDA and a CPU build is wanted, install that one into
# .venv first: an installed torch is kept.
bench: $(VENV)/.bench  ## milliseconds per training step against PyTorch (ARGS="..." are its options)
	$(BIN)/python -m svd_numpy bench $(ARGS)

bench-conv: $(VENV)/.bench  ## the same for LeNet-5 and VGG-like, and the memory of a step
	$(BIN)/python benchmarks/step.py --arch lenet-5 $(ARGS)
	$(BIN)/python benchmarks/step.py --arch vgg-like $(ARGS)

bench-inference: $(VENV)/.bench  ## microseconds per prediction of pruned networks against PyTorch; where sparsity does not pay
	$(BIN)/python benchmarks/inference.py $(ARGS)
	$(BIN)/python benchmarks/break_even.py

gpu-check: $(VENV)/.gpu  ## check and time the CUDA backend on the device at hand; writes benchmarks/results/gpu.md
	$(BIN)/python benchmarks/gpu_check.py $(ARGS)

results: $(VENV)/.base  ## the table of results: every recipe, five seeds; goes on where it stopped
	$(BIN)/python benchmarks/results.py $(ARGS)

finite: $(VENV)/.base  ## the campaign "never a NaN": 50,000 steps at each of six settings; skips finished ones
	$(BIN)/python campaigns/finite.py $(ARGS)

fuzz: $(VENV)/.base  ## the campaign "no file is trusted": damaged and hostile files of every format; goes on where it stopped
	$(BIN)/python campaigns/fuzz.py $(ARGS)

kill: $(VENV)/.test  ## the campaign "nothing is lost": kills and full disks at every call that writes; goes on where it stopped
	$(BIN)/python campaigns/kill.py $(ARGS)

memory: $(VENV)/.base  ## the campaign "memory stays flat": 400 trainings and 20,000 predictions in one process
	$(BIN)/python campaigns/memory.py $(ARGS)

notebooks: $(VENV)/.notebook  ## run the tutorials in full and write their pictures (ARGS="01 04": only these; notebooks/README.md has more)
	$(BIN)/python notebooks/make_notebooks.py $(ARGS)

demo: $(VENV)/.base  ## train the default network on MNIST and write docs/demo.html, a page to draw digits on
	$(BIN)/python -m svd_numpy train --dataset mnist --run-dir runs/demo --eval-every 0 $(ARGS)
	$(BIN)/python -m svd_numpy demo runs/demo --out docs/demo.html

play: $(VENV)/.base  ## train the small runs of docs/play.html, a page that teaches by play, and write it
	$(BIN)/python docs/make_play.py --train

site: $(VENV)/.site  ## guide, tutorials and API reference as pages that open from disk: site/index.html
	$(BIN)/python docs/make_demo.py
	$(BIN)/python docs/make_play.py
	$(BIN)/python docs/make_site.py $(ARGS)

site-lite: $(VENV)/.lite  ## the tutorials with the package in a browser (JupyterLite): site-lite/, for a server of files
	$(BIN)/python docs/make_lite.py $(ARGS)

clean:  ## remove .venv, caches and build products; runs/ stays
	rm -rf $(VENV) build dist site site-lite .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find svd_numpy tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python >= 3.11 is needed, but '$(PYTHON)' is not: say for example  make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Stamps: install again only when pyproject.toml has changed.
$(VENV)/.base: pyproject.toml | $(BIN)/python
	$(PIP) --editable .
	@touch $@

# The compiler for CUDA is large and wanted by one test, which is skipped where it cannot be had.
$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[test]'
	-$(PIP) --editable '.[test,cuda]'
	@touch $@ $(VENV)/.base

$(VENV)/.gpu: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[cuda]'
	@touch $@ $(VENV)/.base

$(VENV)/.bench: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[bench]'
	@touch $@ $(VENV)/.base

$(VENV)/.notebook: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[notebook]'
	@touch $@ $(VENV)/.base

$(VENV)/.site: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[site]'
	@touch $@ $(VENV)/.base

$(VENV)/.lite: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[lite]'
	@touch $@ $(VENV)/.base
