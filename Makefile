# Each target installs what it needs into .venv and then runs. PYTHON: 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without a CUDA device PyTorch's CPU build comes from here, which saves gigabytes; empty: from PyPI.
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi),,https://download.pytorch.org/whl/cpu)

.PHONY: demo test lint bench bench-full miniature evaluate help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/.ready ## open the page at http://127.0.0.1:7860
	$(BIN)/python -m space

test: $(VENV)/.ready-dev ## run the tests
	$(BIN)/python -m pytest -n 2 -m "not gpu and not network"

lint: $(VENV)/.ready-dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# DIFFUSERS: a checkout of diffusers, to train beside its script too; that needs torchvision.
DIFFUSERS ?=
bench: $(VENV)/.ready ## measure the figures in benchmarks/ again (16 to 40 minutes on two CPU cores)
	$(BIN)/python -m benchmarks.miniature
	$(BIN)/python -m benchmarks.painting
	$(BIN)/python -m benchmarks.space
	$(BIN)/python -m benchmarks.gate
	$(BIN)/python -m benchmarks.growth
	$(if $(DIFFUSERS),$(BIN)/python -m benchmarks.training --diffusers $(DIFFUSERS))
	$(BIN)/python -m benchmarks.page

bench-full: $(VENV)/.ready ## measure FLUX.1-dev's full size on a CPU (45 GB of disk, 12 to 45 minutes)
	$(BIN)/python -m benchmarks.full_size
	$(BIN)/python -m benchmarks.page

miniature: $(VENV)/.ready ## build the bundled miniature from scratch (hours on two CPU cores)
	$(BIN)/python -m tools.miniature

# RUN: the miniature's run by default; painted scenes that training never saw stand for real paintings.
RUN ?= runs/miniature
STRENGTH ?= 1
FEATURES ?= # clip dinov2: learned measures, whose weights are downloaded
evaluate: $(VENV)/.ready ## gallery, scores and report of the miniature's adapter (about 12 minutes on two CPU cores)
	test -f work/held-out/metadata.jsonl || $(BIN)/python -m tools.miniature.scenes work/held-out --painted --held-out --count 96 --seed 300
	test -f work/painted/metadata.jsonl || $(BIN)/python -m tools.miniature.scenes work/painted --painted --count 320
	$(BIN)/torchrun --nproc-per-node 2 -m evaluation gallery $(RUN) --strength $(STRENGTH) --model miniature --device cpu
	$(BIN)/python -m evaluation score $(RUN) --real work/held-out --training work/painted --features $(FEATURES)
	$(BIN)/python -m evaluation dashboard $(RUN)

$(VENV)/.ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),-$(BIN)/pip install --quiet --disable-pip-version-check --retries 1 $$(grep '^torch==' requirements.txt) --index-url $(TORCH_INDEX))
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
