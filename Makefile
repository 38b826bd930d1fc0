# `make demo` and `make test` do everything, each on its own, on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
# Without an NVIDIA driver the tested torch is pinned; with one, pip takes torch's newest CUDA build.
CONSTRAINTS ?= $(if $(shell command -v nvidia-smi 2>/dev/null),,-c constraints-cpu.txt)
BIN := $(VENV)/bin

.PHONY: demo test test-all lint format clean

demo: $(VENV)/.core
	$(BIN)/fsm demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --runslow --browser

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist outputs *.egg-info

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(VENV)/bin/pip pyproject.toml
	$(BIN)/pip install -q $(CONSTRAINTS) -e .
	touch $@

$(VENV)/.dev: $(VENV)/bin/pip pyproject.toml
	$(BIN)/pip install -q $(CONSTRAINTS) -e '.[dev]'
	touch $@ $(VENV)/.core
