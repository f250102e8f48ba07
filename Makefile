# The front door. Every target does its own set-up; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export JOBS ?= $(shell nproc)
# Tests run one after another by default: the cluster tests start several processes each and measure pauses.
export TEST_JOBS ?= 1
export CTEST_ARGS ?=
PORT ?= 8000
TP ?= 2
PP ?= 2
MODEL ?= models/SmolLM2-135M-Instruct-Q4_1.gguf
DEFAULT_MODEL := models/SmolLM2-135M-Instruct-Q4_1.gguf
TWIN_MODEL := models/SmolLM2-135M-Instruct-bf16

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z_-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what building and testing need
	@tools/dev/setup build test

.PHONY: build
build: ## build build/shoal, after installing what is missing
	@tools/dev/setup build
	@tools/dev/build release shoal

.PHONY: cuda
cuda: ## build build/libshoal_cuda.so; needs no GPU, and fetches a toolkit (725 MB) where none is installed
	@tools/dev/setup build cuda
	@home="$$(tools/dev/cuda_home)"; SHOAL_CUDA_HOME="$$home" tools/dev/build release shoal shoal_cuda
	@tools/dev/ptxas_report build

.PHONY: model
model: ## get the default model into models/
	@tools/dev/setup build
	@tools/dev/get_model $(DEFAULT_MODEL)

.PHONY: serve
serve: build model ## serve the default model from 4 CPU ranks (TP x PP) on PORT
	@exec build/shoal serve $(MODEL) --tensor-parallel-size $(TP) --pipeline-parallel-size $(PP) --port $(PORT)

# The Hugging Face form of the default model (bf16 safetensors in two files), made from the GGUF file for the tests.
.PHONY: test-models
test-models: model
	@tools/dev/setup test
	@.venv/bin/python tools/dev/fixtures/to_safetensors.py $(DEFAULT_MODEL) $(TWIN_MODEL)

.PHONY: test
test: test-models ## build everything, run all tests that need no GPU, show the figures they print
	@tools/dev/build release
	@ctest --test-dir build --output-on-failure -j $(TEST_JOBS) $(CTEST_ARGS)
	@tools/dev/figures build

FAULTS ?= 200
.PHONY: nemesis
nemesis: test-models ## FAULTS real faults under load, in each kind of cluster; goes on where it stopped
	@tools/dev/build release shoal
	@tools/dev/nemesis $(FAULTS)

.PHONY: soak
soak: MINUTES ?= 60
soak: test-models ## MINUTES (60) of mixed load with a fault every 20 s: does memory grow?
	@tools/dev/build release shoal
	@tools/dev/nemesis soak $(MINUTES)

.PHONY: calm
calm: MINUTES ?= 30
calm: test-models ## MINUTES (30) each of load without faults beside busy loops, and under ThreadSanitizer: false alarms?
	@tools/dev/build release shoal
	@tools/dev/nemesis calm $(MINUTES) 1
	@tools/dev/sanitize thread tools/dev/nemesis calm $(MINUTES) 0

SEEDS ?= 10000
.PHONY: sim
sim: ## simulated clusters with faults, seeds 1 to SEEDS; goes on where it stopped
	@tools/dev/setup build
	@tools/dev/build release shoal_sim_program
	@tools/dev/sim --seeds $(SEEDS) --jobs $(JOBS)

.PHONY: mutants
mutants: test-models ## apply each wrong change of tests/mutants and see that a test notices
	@tools/dev/setup build test dev
	@.venv/bin/python tests/mutants/run.py

.PHONY: asan tsan
asan: test-models ## unit and cluster tests under AddressSanitizer and UBSan (build-asan)
	@tools/dev/sanitize address
tsan: test-models ## unit and cluster tests under ThreadSanitizer (build-tsan)
	@tools/dev/sanitize thread

.PHONY: tidy
tidy: ## tree rules, clang-format and clang-tidy over the sources
	@tools/dev/setup build dev
	@tools/dev/build release
	@python3 tests/tidy/tidy.py --root . --build build
	@tools/dev/format --check
	@tools/dev/clang_tidy build

.PHONY: format
format: ## rewrite the sources with clang-format
	@tools/dev/setup dev
	@tools/dev/format

.PHONY: fixtures
fixtures: model ## make the committed golden files again (needs about 6 GB of disk for PyTorch)
	@tools/dev/fixtures/run $(DEFAULT_MODEL)

.PHONY: bench
bench: test-models ## run the benchmarks of tools/bench
	@tools/dev/build release
	@tools/dev/bench

.PHONY: clean
clean: ## delete the build trees; models and the venv stay
	rm -rf build build-asan build-tsan
