# Each target sets up what it needs (.venv, requirements) and then runs. PYTHON: 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench miniature

demo: $(VENV)/.ready ## the page, at http://127.0.0.1:7860
	$(BIN)/python -m space

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n 2 -m "not gpu and not network"

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks.miniature

miniature: $(VENV)/.ready ## build the bundled miniature from nothing (about three hours on two CPU cores)
	$(BIN)/python -m training.miniature

$(VENV)/.ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
