# Every rule is short enough to run by hand. TORCH=torch==2.14.1 (or a local wheel) chooses another
# torch, for example a CUDA build; VENV and PYTHON choose the environment and its interpreter.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
CONFIGS := packages/mri/configs
# One thread a worker: two workers with two threads each would fight over two cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help venv data demo test browser-test study backends fuzz emulate-asan cuda-compile lint bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(VENV)/.torch: requirements/build.txt
	@echo "== Making $(VENV) and installing $(TORCH)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q "$(TORCH)" -r requirements/build.txt -c requirements/constraints.txt
	@touch $@

$(VENV)/.packages: $(VENV)/.torch $(wildcard packages/*/pyproject.toml packages/*/setup.py requirements/*.txt)
	@echo "== Installing the packages and the development tools"
	SAGITTAL_NO_LOCAL_DEPS=1 $(PIP) install -q $(patsubst %/,-e %,$(wildcard packages/*/)) -r requirements/dev.txt -c requirements/constraints.txt
	@touch $@

# Objects stay in build/, so only what changed is compiled again.
$(VENV)/.kernels: $(VENV)/.packages setup.py $(shell find csrc -type f -not -path '*/__pycache__/*' 2>/dev/null)
	@echo "== Compiling the native kernels (csrc/)"
	@command -v $(CXX) && $(PIP) install -q --no-build-isolation --no-deps --force-reinstall . && touch $@ || { \
	  echo "== No native kernels: $(CXX) is missing or failed. Going on with the slower pure-torch reference."; \
	  test "$$SAGITTAL_REQUIRE_NATIVE" != 1; }

venv: $(VENV)/.packages $(VENV)/.kernels ## make the environment and compile the kernels

data: venv ## fetch the sample data into the cache (the only step that downloads data)
	@echo "== Fetching sample data into $${SAGITTAL_CACHE:-~/.cache/sagittal}"
	$(BIN)/python -m sagittal_core fetch

# Exit status 3 says that this very run is finished already, which is what a demo wants.
demo: data ## train self-supervised and supervised UNITS, compare them: outputs/demo/report.html
	@for kind in selfsupervised supervised; do echo "== Training and testing: $$kind"; \
	  $(BIN)/sagittal-mri fit -c $(CONFIGS)/demo_$$kind.yaml || test $$? -eq 3 || exit 1; done
	@echo "== Comparing both with zero-filled and CG-SENSE on held-out slices"
	$(BIN)/sagittal-mri compare -c $(CONFIGS)/demo_compare.yaml
	@echo "== Done: open outputs/demo/report.html"

test: data ## unit and end-to-end tests (ARGS="-k name" narrows them)
	$(PYTEST) -n $(WORKERS) --dist worksteal $(ARGS)

browser-test: data ## pages in a headless browser (needs chromium and chromedriver, or CHROME=...)
	$(PYTEST) -m browser tests/browser $(ARGS)

study: data ## the long tests, minutes to hours
	$(PYTEST) -m study $(ARGS)

backends: data ## the op tests again, compiled at run time and on the pure-torch reference
	SAGITTAL_OPS=jit $(PYTEST) -n $(WORKERS) tests/kernels
	env -u SAGITTAL_REQUIRE_NATIVE SAGITTAL_OPS=reference $(PYTEST) -n $(WORKERS) tests/kernels

FUZZ := $(BIN)/python tests/fuzz/fuzz_ops.py
PRELOAD = $(shell $(CXX) -print-file-name=libasan.so) $(shell $(CXX) -print-file-name=libubsan.so)
fuzz: venv ## 10,000 random cases of every compiled op under ASan and UBSan (ARGS="--cases N op ...")
	LIBRARY=$$($(FUZZ) --build) && ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$(PRELOAD)" \
	  $(FUZZ) --library $$LIBRARY $(ARGS)

emulate-asan: venv ## the CUDA kernels on the CPU, in three thread orders, under ASan and UBSan
	SAGITTAL_EMULATE_SANITIZED=1 SAGITTAL_OPS=reference ASAN_OPTIONS=detect_leaks=0 \
	  UBSAN_OPTIONS=print_stacktrace=1 LD_PRELOAD="$(PRELOAD)" \
	  $(PYTEST) tests/emulation --deselect tests/emulation/test_cuda_compile.py --capture=no $(ARGS)

cuda-compile: $(VENV)/.packages ## compile every .cu for sm_80, sm_90 and sm_100 (needs nvcc); spills are errors
	$(BIN)/python tests/emulation/cuda_compile.py $(ARGS)

lint: $(VENV)/.packages ## ruff, mypy, import contracts, clang-format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	find csrc benchmarks -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.h' | xargs -r $(BIN)/clang-format --dry-run -Werror

bench: venv ## every benchmark against its named peers, on an idle machine: results/bench_*.json
	for f in benchmarks/bench_*.py; do \
	  $(BIN)/python $$f --results results/$$(basename $$f .py).json || exit 1; done
	$(BIN)/python benchmarks/kernel_goals.py

clean: ## remove what was built; keeps runs, outputs and the data cache
	rm -rf $(VENV) build packages/*/build packages/*/src/*.egg-info
