# make demo: fit the built-in scene and write out/demo/report.html.   make test: everything that CI checks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The CPU build of torch, unless a torch is there already: plain `pip install torch` fetches gigabytes of CUDA.
TORCH ?= torch==2.13.0

.PHONY: demo test setup lint bench clean

$(VENV)/.ready: pyproject.toml CMakeLists.txt $(wildcard native/*.*pp)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q "scikit-build-core>=0.10" "nanobind>=2.4" "cmake>=3.25" ninja
	$(BIN)/pip install -q --no-build-isolation -e ".[dev]"
	touch $@

setup: $(VENV)/.ready

demo: setup
	$(BIN)/learn2splat demo --out out/demo

test: setup lint
	$(BIN)/python -m pytest -q tests

lint: setup
	$(BIN)/ruff check src tests benchmarks examples

bench: setup
	$(BIN)/python benchmarks/bench_rasterize.py

clean:
	rm -rf build out $(VENV)
