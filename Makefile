# Each target sets up what it needs (.venv, requirements) and then runs. PYTHON: 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench bench-full miniature evaluate

demo: $(VENV)/.ready ## the page, at http://127.0.0.1:7860
	$(BIN)/python -m space

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n 2 -m "not gpu and not network"

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# DIFFUSERS: a checkout of diffusers, to train beside its script too; that wants torchvision installed.
DIFFUSERS ?=
bench: $(VENV)/.ready ## the figures in benchmarks/ (16 minutes on two quick CPU cores, 40 on slow ones; with DIFFUSERS a quarter of an hour more)
	$(BIN)/python -m benchmarks.miniature
	$(BIN)/python -m benchmarks.painting
	$(BIN)/python -m benchmarks.space
	$(BIN)/python -m benchmarks.growth
	$(if $(DIFFUSERS),$(BIN)/python -m benchmarks.training --diffusers $(DIFFUSERS))
	$(BIN)/python -m benchmarks.page

bench-full: $(VENV)/.ready ## FLUX.1-dev's full size on a CPU: 45 GB of disk, 12 to 45 minutes
	$(BIN)/python -m benchmarks.full_size
	$(BIN)/python -m benchmarks.page

miniature: $(VENV)/.ready ## build the bundled miniature from nothing (about three hours on two CPU cores, minutes on a GPU)
	$(BIN)/python -m tools.miniature

# The miniature's adapter unless RUN has its own; painted scenes that no training saw stand for real paintings.
RUN ?= runs/miniature
STRENGTH ?= 1
FEATURES ?= # of clip, dinov2, csd: 4.5 GB of weights, and half an hour more on a CPU
evaluate: $(VENV)/.ready ## gallery, scores and dashboard of the miniature's adapter (about 12 minutes on two CPU cores)
	test -f work/held-out/metadata.jsonl || $(BIN)/python -m tools.miniature.scenes work/held-out --painted --held-out --count 96 --seed 300
	test -f work/painted/metadata.jsonl || $(BIN)/python -m tools.miniature.scenes work/painted --painted --count 320
	$(BIN)/torchrun --nproc-per-node 2 -m evaluation gallery $(RUN) --strength $(STRENGTH) --model miniature --device cpu
	$(BIN)/python -m evaluation score $(RUN) --real work/held-out --training work/painted --features $(FEATURES)
	$(BIN)/python -m evaluation dashboard $(RUN)

$(VENV)/.ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
