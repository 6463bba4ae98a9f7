PYTHON ?= $(shell scripts/find-python)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.spinnerf-installed
WORKERS ?= auto
CODE := spinnerf_ns method_configs tests benchmarks

.PHONY: help demo test lint format setup browser clean

help:           ## what can be made (the default); PYTHON=python3.12 make ... chooses an interpreter, 3.10 to 3.12
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(STAMP)  ## sets everything up and removes an object from a made-up scene; report in demo/report.html
	$(BIN)/ns-spinnerf demo --output demo --overwrite

test: $(STAMP)  ## sets everything up and runs the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(STAMP)  ## style, formatting, types, and the floors: which room may import which
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

format: $(STAMP)  ## formats the code as lint wants it
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

browser: $(STAMP) ## installs what the page's tests in a browser want, and runs them; make test skips them without
	scripts/browser $(BIN)/python
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/page

setup: $(STAMP) ## sets everything up: .venv, git-ignored

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.10 to 3.12 found; install one, or name it: PYTHON=/path/to/python make"; exit 1; }
	scripts/system-packages
	$(PYTHON) -m venv $(VENV)
	@echo "installing nerfstudio and torch into $(VENV): some 3 minutes, 8 GB"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]" --constraint constraints.txt
	$(BIN)/python -W ignore -m spinnerf_ns.accel.kernels
	touch $@

clean:          ## removes what the others made
	rm -rf $(VENV) demo build *.egg-info
