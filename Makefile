# Few targets; each sets up what it needs, in .venv, and nothing outside it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test check docs record bench gpu clean

install: $(STAMP)

$(STAMP): setup.py pyproject.toml constraints.txt $(wildcard cuda_ext/host/*.cpp cuda_ext/host/*.h)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	PATH="$(CURDIR)/$(BIN):$$PATH" bash docs/quickstart.sh

# both parts, whatever the first one finds
test: install
	failed=0; \
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not alone" --cov --cov-report= || failed=1; \
	$(BIN)/python -m pytest -m alone --cov --cov-append --cov-report=term --cov-fail-under=90 \
		|| failed=1; \
	exit $$failed

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m cogapp --check docs/reference/*.md

docs: install
	$(BIN)/python -m cogapp -r docs/reference/*.md

record: install
	RECORD=1 $(BIN)/python -m pytest tests/golden tests/quality/test_house.py tests/unit/test_cuda_library.py -k "recorded or agreed"

bench: install
	$(BIN)/python tests/bench/run.py

# `make gpu PYTHON=python3` uses what is installed there; plain `make gpu` uses .venv.
# SAVE='a.md b.md' keeps its tables there too.
ifeq ($(origin PYTHON),command line)
gpu: GPU_PYTHON := $(PYTHON)
else
gpu: GPU_PYTHON := $(BIN)/python
gpu: install
endif
gpu:
	$(GPU_PYTHON) -m tests.gpu.run $(addprefix --save ,$(SAVE))

clean:
	rm -rf $(VENV) build dist *.egg-info
