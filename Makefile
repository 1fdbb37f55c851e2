# Two commands are enough to start: `make demo` and `make test`. Each builds .venv first when it has to.
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-all fire check bench docs clean

setup: $(STAMP)  ## virtual environment with Diptych and its development tools

$(STAMP): pyproject.toml
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: setup  ## the main job on the embedded data; writes runs/demo/report.html
	$(VENV)/bin/diptych demo

test: check  ## the tests a change must pass; two processes, each on one core
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal -m 'not slow'

test-all: check  ## and the long ones
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal

fire: setup  ## 200 kills with SIGKILL, and whether the runs end as if nothing had happened; at most 30 minutes and the chains at hand
	$(PY) tests/fire/kills.py

check: setup  ## format, lint and types; changes nothing
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright

bench: $(VENV)/.bench  ## speed and memory, each as a ratio to a named peer in the same run; for a quiet machine
	$(PY) -m benchmarks

$(VENV)/.bench: $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

docs: $(VENV)/bin/zensical  ## the pages of docs/ as a site, in site/
	$(VENV)/bin/zensical build --clean --strict

$(VENV)/bin/zensical: $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

clean:  ## remove the virtual environment and caches; runs and data stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .cache site
