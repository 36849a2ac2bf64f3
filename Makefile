# Two commands for everyone: `make demo` and `make test`. The others are for people who change the code.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet
INSTALL := $(PIP) install --constraint constraints.txt
# What `make demo` hands to `molmoact2-edge run`.
DEMO_ARGS ?= --episodes 3 --seed 7
# Several files at a time: half of the tests wait for emulated arms, not for the processor.
PYTEST_ARGS ?= -n 3 --dist loadfile
# cmake, ninja and the tools for lint come from .venv.
export PATH := $(CURDIR)/$(BIN):$(PATH)

CSRC := CMakeLists.txt CMakePresets.json $(shell find csrc -type f)
CPP := $(shell find csrc tests/csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: help setup setup-dev gl demo evaluate test test-python test-cpp test-asan test-aarch64 fuzz test-socketcan lint types format cuda wheel train clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip

# Built without isolation, so that the compiler's output is reused from one build to the next.
$(VENV)/.setup: pyproject.toml constraints.txt $(CSRC) | $(BIN)/python
	$(INSTALL) 'scikit-build-core>=0.10' 'pybind11>=2.13' 'cmake>=3.26' 'ninja>=1.11'
	$(INSTALL) --no-build-isolation --editable '.[sim]'
	@touch $@

$(VENV)/.setup-dev: $(VENV)/.setup
	$(INSTALL) --no-build-isolation --editable '.[sim,record,viz,arms,franka,cameras,dev]'
	@touch $@

setup: $(VENV)/.setup ## Make .venv and build the package in it
setup-dev: $(VENV)/.setup-dev ## The same with the tools for tests and lint

gl: $(VENV)/.setup # The simulator renders off screen; this finds or installs a library for it.
	@PYTHON=$(BIN)/python sh tools/ensure_gl.sh

demo: setup gl ## Run the simulated SO-101 with the shipped policy
	$(BIN)/molmoact2-edge run $(DEMO_ARGS)

evaluate: setup gl ## Run 50 episodes of the shipped policy in simulated time
	$(BIN)/molmoact2-edge run --time simulated --episodes 50 --seed 1000 --report build/evaluation.json

test: test-python test-cpp ## Run all tests

test-python: setup-dev gl
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m 'not alone'
	$(BIN)/python -m pytest -m alone

test-cpp: setup-dev
	cmake --preset tests -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
	cmake --build --preset tests
	ctest --preset tests

test-asan: setup-dev ## Run the C++ tests under the address and undefined behaviour sanitizers
	cmake --preset asan
	cmake --build --preset asan
	ctest --preset asan

test-aarch64: setup-dev ## Run the C++ tests for 64-bit Arm under qemu-user
	@sh tools/ensure_program.sh aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
	@sh tools/ensure_program.sh qemu-aarch64 qemu-user
	cmake --preset aarch64
	cmake --build --preset aarch64
	ctest --preset aarch64

fuzz: setup-dev ## Feed the wire codecs 200,000 inputs each under the sanitizers
	cmake --preset fuzz
	cmake --build --preset fuzz
	ctest --preset fuzz

test-socketcan: setup-dev ## Run the CAN tests on real SocketCAN, in User-Mode Linux (Debian, as root)
	cmake --preset tests -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
	cmake --build --preset tests --target test_socketcan
	sh tools/clients/uml_can.sh $(CURDIR)/build/tests/tests/csrc/bus/test_socketcan $(CURDIR)/$(BIN)/python

lint: setup-dev ## Check style: ruff, clang-format, clang-tidy
	ruff check .
	ruff format --check .
	clang-format --dry-run --Werror $(CPP)
	cmake --preset tidy
	sh tools/clang_tidy.sh build/tidy

types: setup-dev ## Check types: mypy, strict
	mypy python drivers tools

format: setup-dev ## Format everything
	ruff check --fix .
	ruff format .
	clang-format -i $(CPP)

cuda: setup-dev ## Compile the CUDA code for Hopper and, with an Arm host, for Orin and Thor (needs nvcc, no GPU)
	@sh tools/ensure_program.sh aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
	cmake --preset cuda
	cmake --build --preset cuda
	sh tools/compile_cuda_aarch64.sh build/cuda-aarch64

wheel: setup-dev ## Build a wheel and check that it works alone, without any extra
	rm -rf build/wheel
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	$(BIN)/python tools/check_wheel.py build/wheel/*.whl

train: setup gl ## Train the shipped policy again; it says how long each part takes, and goes on where it was stopped
	$(BIN)/python tools/train/train.py

clean: ## Remove everything that was built
	rm -rf $(VENV) build
