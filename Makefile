# `make demo` and `make test` set up all they need on a machine with Python 3.11 or later.

PYTHON ?= python3
SEED ?= 0
PLANT ?= shortcut
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test real lint fmt docs bench clean

demo: $(READY)
	$(BIN)/cap demo --seed $(SEED) --plant $(PLANT)

real: $(READY)
	$(BIN)/cap init real --recipe real
	$(BIN)/cap --workspace real run

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/python docs/generate.py

bench: $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --config-settings editable_mode=compat --editable '.[bench]'
	for script in benchmarks/startup.py benchmarks/hashing.py benchmarks/search.py benchmarks/scoring.py; do \
	  $(BIN)/python $$script || exit 1; \
	done

clean:
	rm -rf $(VENV) demo build dist

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --config-settings editable_mode=compat --editable '.[pipeline,dev]'
	touch $(READY)
