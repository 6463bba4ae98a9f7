# make demo    sets everything up and removes an object from a made-up scene; report in demo/report.html
# make test    sets everything up and runs the tests
# make setup   sets everything up: .venv, git-ignored
# PYTHON=python3.12 make ... chooses an interpreter; 3.10 to 3.12

PYTHON ?= $(shell scripts/find-python)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.spinnerf-installed
WORKERS ?= auto
CODE := spinnerf_ns method_configs tests benchmarks

.PHONY: demo test setup lint clean

demo: $(STAMP)
	$(BIN)/ns-spinnerf demo --output demo --overwrite

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

setup: $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/lint-imports --no-cache

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.10 to 3.12 found; install one, or name it: PYTHON=/path/to/python make"; exit 1; }
	scripts/system-packages
	$(PYTHON) -m venv $(VENV)
	@echo "installing nerfstudio and torch into $(VENV): some 3 minutes, 8 GB"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]" --constraint constraints.txt
	$(BIN)/python -W ignore -m spinnerf_ns.accel.kernels
	touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info
