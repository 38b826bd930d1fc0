# `make demo` and `make test` do everything, each on its own, on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
# Without an NVIDIA driver the tested torch is pinned; with one, pip takes torch's newest CUDA build.
CONSTRAINTS ?= $(if $(shell command -v nvidia-smi 2>/dev/null),,-c constraints-cpu.txt)
BIN := $(VENV)/bin
LOWEST := tests/test_config.py tests/test_views.py tests/datasets/readers tests/renderers/film \
  tests/renderers/splat_files tests/evaluate/test_metrics.py tests/cli/test_main.py \
  tests/cli/test_pipeline.py tests/viewer/test_gate.py

.PHONY: demo test test-all test-lowest lint docs lock format clean

demo: $(VENV)/.core
	$(BIN)/fsm demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --runslow --browser

# A few tests of every room with the lowest versions that pyproject.toml allows.
test-lowest:
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/pip install -q -r requirements/lowest.txt
	$(VENV)-lowest/bin/pip install -q --no-deps -e .
	$(VENV)-lowest/bin/fsm --help
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest -q -p no:cacheprovider $(LOWEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

# The newest versions that satisfy pyproject.toml on the platform this runs on.
LOCK ?= requirements/linux-cpu-py311.txt
lock: $(VENV)/.dev
	$(BIN)/pip-compile -q --extra dev --strip-extras --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  -c constraints-cpu.txt -o - pyproject.toml | \
	  grep -v '^fsm-toolkit' | sed 's/+cpu$$//' > $(LOCK).part && mv $(LOCK).part $(LOCK)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VENV)-lowest build dist outputs site *.egg-info

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/pip pyproject.toml
	$(BIN)/pip install -q $(CONSTRAINTS) -e '.[all]'
	touch $@

$(VENV)/.dev: $(VENV)/bin/pip pyproject.toml
	$(BIN)/pip install -q $(CONSTRAINTS) -e '.[dev]'
	touch $@ $(VENV)/.core
