# Two commands for everyone: `make demo` and `make test`. The others are for people who change the code.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# What `make demo` hands to `molmoact2-edge run`.
DEMO_ARGS ?= --episodes 3 --seed 7

CSRC := CMakeLists.txt CMakePresets.json $(shell find csrc -type f)
CPP := $(shell find csrc tests/csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help setup setup-dev gl demo test test-python test-cpp test-asan lint types format cuda train clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip

# Built without isolation, so that the compiler's output is reused from one build to the next.
$(VENV)/.setup: pyproject.toml constraints.txt $(CSRC) | $(BIN)/python
	$(PIP) 'scikit-build-core>=0.10' 'pybind11>=2.13' 'cmake>=3.26' 'ninja>=1.11'
	$(PIP) --no-build-isolation --editable '.[sim]'
	@touch $@

$(VENV)/.setup-dev: $(VENV)/.setup
	$(PIP) --no-build-isolation --editable '.[sim,dev]'
	@touch $@

setup: $(VENV)/.setup ## Make .venv and build the package in it
setup-dev: $(VENV)/.setup-dev ## The same with the tools for tests and lint

gl: $(VENV)/.setup # The simulator renders off screen; this finds or installs a library for it.
	@PYTHON=$(BIN)/python sh tools/ensure_gl.sh

demo: setup gl ## Run the simulated SO-101 with the shipped policy
	$(BIN)/molmoact2-edge run $(DEMO_ARGS)

test: test-python test-cpp ## Run all tests

test-python: setup-dev gl
	$(BIN)/python -m pytest

test-cpp: setup-dev
	$(BIN)/cmake --preset tests -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
	$(BIN)/cmake --build --preset tests
	$(BIN)/ctest --preset tests

test-asan: setup-dev ## Run the C++ tests under the address and undefined behaviour sanitizers
	$(BIN)/cmake --preset asan
	$(BIN)/cmake --build --preset asan
	$(BIN)/ctest --preset asan

lint: setup-dev ## Check style: ruff, clang-format, clang-tidy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/cmake --preset tidy
	$(BIN)/cmake --build --preset tidy

types: setup-dev ## Check types: mypy, strict
	$(BIN)/mypy python drivers tools

format: setup-dev ## Format everything
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

cuda: setup-dev ## Compile the CUDA code for Orin, Hopper and Thor (needs nvcc, no GPU)
	$(BIN)/cmake --preset cuda
	$(BIN)/cmake --build --preset cuda

train: setup gl ## Train the shipped policy again (about an hour on two cores)
	$(BIN)/python tools/train/train.py

clean: ## Remove everything that was built
	rm -rf $(VENV) build
