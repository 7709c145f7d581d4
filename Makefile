# make demo: fit the built-in scene and write out/demo/report.html.   make test: everything that CI checks.   make docs: the site.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Unless a torch is there already. On Linux, PyPI's brings gigabytes of CUDA along; the CPU build alone (--index-url must be PyTorch's own):
#   make setup TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
# Processes of the test suite. Files stay together, because what they set up for their tests is most of their time.
JOBS ?= 2

.PHONY: demo test setup lint docs bench campaign clean

$(VENV)/.ready: pyproject.toml CMakeLists.txt $(wildcard native/*.*pp)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q "scikit-build-core>=0.11" "nanobind>=2.4,<4" "cmake>=3.25" ninja
	$(BIN)/pip install -q --no-build-isolation -e ".[dev]"
	touch $@

setup: $(VENV)/.ready

# What a user installs, without the tools of development.
$(VENV)/.installed: pyproject.toml CMakeLists.txt $(wildcard native/*.*pp)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install -q $(TORCH)
	test -e $(VENV)/.ready || $(BIN)/pip install -q .
	touch $@

demo: $(VENV)/.installed
	$(BIN)/learn2splat demo --out out/demo

test: setup lint
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile tests

lint: setup
	$(BIN)/ruff check src tests benchmarks examples

docs: setup
	$(BIN)/python -m mkdocs build --strict

bench: setup
	$(BIN)/python benchmarks/bench_rasterize.py

# What is done to find out what breaks it (docs/reliability.md); hours, and it goes on where it was stopped.
campaign: setup
	$(BIN)/python tests/campaign/campaign.py fuzz
	$(BIN)/python tests/campaign/campaign.py kills
	$(BIN)/python tests/campaign/campaign.py trouble
	$(BIN)/python tests/campaign/campaign.py soak
	bash tests/campaign/native.sh address,undefined tests/render tests/optimizers tests/initializers tests/gaussians/test_knn.py
	bash tests/campaign/native.sh thread tests/render/test_rasterize.py tests/render/test_rasterize_hostile.py tests/initializers
	$(BIN)/python tests/campaign/report.py runs/campaign/results.json

clean:
	rm -rf build out $(VENV)
